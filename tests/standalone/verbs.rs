//! `phoenix start|stop|restart|status|delete|graph`.

use serde_json::json;

use crate::site::{Site, lxc};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_stopped_started_restarted_and_deleted_by_name_and_by_vmid() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({})));
    site.write("db", &lxc("db", json!({"vmid": 1050})));
    site.phoenix(&["apply"]).await.expect(0);

    let stopped = site.phoenix(&["stop", "1050"]).await.expect(0);
    assert!(stopped.stdout.contains("Stopped"), "{stopped:?}");
    assert!(!site.runs(1050) && site.runs(1000));
    let again = site.phoenix(&["apply"]).await.expect(0);
    assert!(
        again.stdout.contains("nothing changed"),
        "what a verb asked for stays: {again:?}"
    );
    assert!(!site.runs(1050));
    let answer = site.phoenix(&["restart", "db"]).await.expect(2);
    assert!(answer.stderr.contains("phoenix start db"), "{answer:?}");
    site.phoenix(&["start", "plxc/db"]).await.expect(0);
    assert!(site.runs(1050));

    let writes = site.writes();
    site.phoenix(&["restart", "db"]).await.expect(0);
    assert_eq!(site.writes(), writes + 1);
    let reboots = site
        .sim()
        .requests()
        .iter()
        .filter(|r| r.path.ends_with("/1050/status/reboot"))
        .count();
    assert_eq!(reboots, 1);

    let status = site.phoenix(&["status", "db"]).await.expect(0);
    assert!(
        status.stdout.contains("1050") && !status.stdout.contains("1000"),
        "{status:?}"
    );
    let graph = site.phoenix(&["graph"]).await.expect(0);
    assert!(graph.stdout.contains("PhoenixLXC db (1050)"), "{graph:?}");

    site.phoenix(&["delete", "db"]).await.expect(0);
    assert_eq!(site.vmids(), [1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_mean_nothing_or_too_much_are_refused() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({})));
    let mut other = lxc("web", json!({}));
    other["metadata"]["namespace"] = json!("other");
    other["spec"]["hypervisorRef"]["namespace"] = json!("default");
    site.write("other", &other);
    let unknown = site.phoenix(&["stop", "nobody"]).await.expect(2);
    assert!(unknown.stderr.contains("nobody"), "{unknown:?}");
    let several = site.phoenix(&["stop", "web"]).await.expect(2);
    assert!(several.stderr.contains("--namespace"), "{several:?}");
    let not_yet = site.phoenix(&["stop", "web", "--namespace", "default"]).await.expect(2);
    assert!(not_yet.stderr.contains("apply it first"), "{not_yet:?}");
    assert_eq!(site.writes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_guest_is_left_alone_until_it_is_resumed() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({"cores": 2})));
    site.phoenix(&["apply"]).await.expect(0);
    let paused = site.phoenix(&["pause", "web"]).await.expect(0);
    assert!(paused.stdout.contains("Paused"), "{paused:?}");

    let writes = site.writes();
    site.write("web", &lxc("web", json!({"cores": 3})));
    let waits = site.phoenix(&["apply"]).await.expect(1);
    assert!(waits.stdout.contains("phoenix-hypervisor.io/paused"), "{waits:?}");
    assert_eq!(site.writes(), writes);

    site.phoenix(&["resume", "web"]).await.expect(0);
    assert!(site.writes() > writes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_programs_is_json_or_yaml() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({})));
    let planned = site.phoenix(&["plan", "-o", "json"]).await.expect(0);
    let planned: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned["objects"][0]["steps"][0]["impact"], "create", "{planned:#}");
    assert_eq!(planned["summary"]["create"], 1, "{planned:#}");
    site.phoenix(&["apply"]).await.expect(0);
    for (format, read) in [
        (
            "json",
            (|text| serde_json::from_str(text).unwrap()) as fn(&str) -> serde_json::Value,
        ),
        ("yaml", |text| serde_saphyr::from_str(text).unwrap()),
    ] {
        let status = site.phoenix(&["status", "-o", format]).await.expect(0);
        let status = read(&status.stdout);
        assert_eq!(status["items"][0]["status"]["phase"], "Ready", "{status:#}");
        let graph = site.phoenix(&["graph", "-o", format]).await.expect(0);
        assert_eq!(read(&graph.stdout)["objects"][0]["vmid"], 1000);
    }
}
