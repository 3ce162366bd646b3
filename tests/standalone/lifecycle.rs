//! From nothing to Ready, changes, strangers, refusals, and the state folder.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use phoenix::simulator::Edit;
use serde_json::json;

use crate::site::{Site, lxc};

fn data_and_script() -> serde_json::Value {
    json!({
        "volumes": [{"name": "data", "size": "2Gi", "mountPath": "/data"}],
        "application": {"script": "#!/bin/sh\necho hello\n"},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_becomes_ready_changes_and_stays() {
    let site = Site::new().await;
    site.write("web", &lxc("web", data_and_script()));

    let plan = site.phoenix(&["plan"]).await.expect(0);
    assert!(
        plan.stdout.contains("create") && plan.stdout.contains("attach volume data"),
        "{plan:?}"
    );
    assert_eq!((site.writes(), site.vmids()), (0, vec![]), "a plan changes nothing");
    assert!(!site.state().exists(), "a plan leaves no state");

    let applied = site.phoenix(&["apply"]).await.expect(0);
    let row = applied.stdout.lines().find(|l| l.contains("PhoenixLXC")).unwrap();
    assert!(["web", "Ready", "1000"].iter().all(|word| row.contains(word)), "{row}");
    assert_eq!(site.vmids(), [1000, 9900]);
    assert!(site.runs(1000));

    let writes = site.writes();
    let again = site.phoenix(&["apply"]).await.expect(0);
    assert!(again.stdout.contains("nothing changed"), "{again:?}");
    let plan = site.phoenix(&["plan"]).await.expect(0);
    assert!(plan.stdout.contains("no change"), "{plan:?}");
    assert_eq!(site.writes(), writes, "nothing is written when nothing changed");

    let mut changed = data_and_script();
    changed["cores"] = json!(3);
    changed["rootfs"] = json!({"size": "6Gi"});
    site.write("web", &lxc("web", changed));
    let plan = site.phoenix(&["plan"]).await.expect(0);
    assert!(
        plan.stdout.contains(r#"cores: "1" → "3""#) && plan.stdout.contains("to 6Gi"),
        "{plan:?}"
    );
    site.phoenix(&["apply"]).await.expect(0);
    let options = site.options(1000).unwrap();
    assert_eq!(options["cores"], "3");
    assert!(options["rootfs"].contains("size=6G"), "{options:?}");
    assert_eq!(site.writes(), writes + 2, "one write for each change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_lists_every_step() {
    let site = Site::new().await;
    let mut fields = data_and_script();
    fields["powerState"] = json!("Stopped");
    site.write("web", &lxc("web", fields.clone()));
    let plan = site.phoenix(&["plan"]).await.expect(0);
    let made = r#"PhoenixLXC default/web
  create    create guest (next free id) on node phoenix from ubuntu-24.04-standard
  live      configure it (tags: (none) → "phoenix")
  create    create owner container 9900 for retained volumes
  live      allocate retained volume data (2Gi)
  live      protect owner container 9900
  live      attach volume data at /data
  live      finish the configuration of it
"#;
    assert!(plan.stdout.starts_with(&format!("{made}\n")), "{}", plan.stdout);
    fields["powerState"] = json!("Running");
    site.write("web", &lxc("web", fields));
    let plan = site.phoenix(&["plan"]).await.expect(0);
    let started = "  live      start it\n  live      run application in it\n";
    assert!(
        plan.stdout.starts_with(&format!("{made}{started}\n")),
        "{}",
        plan.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_disk_is_refused_and_nothing_is_done() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({})));
    site.phoenix(&["apply"]).await.expect(0);
    let writes = site.writes();
    site.write("web", &lxc("web", json!({"rootfs": {"size": "2Gi"}})));
    let answer = site.phoenix(&["apply"]).await;
    assert!(matches!(answer.code, Some(1 | 2)), "{answer:?}");
    assert!(
        answer.text().contains("rootfs.size") && answer.text().contains("2Gi"),
        "{answer:?}"
    );
    assert_eq!(site.writes(), writes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_guest_is_a_conflict_and_is_left_alone() {
    let site = Site::new().await;
    let options = BTreeMap::from([("description".to_owned(), "mine".to_owned())]);
    let stranger = Edit::CreateGuest {
        vmid: 105,
        node: None,
        vm: false,
        options,
        storage: Some("quickOS-lxc-disks".into()),
    };
    site.sim().edit(stranger).unwrap();
    let before = site.options(105);
    site.write("web", &lxc("web", json!({"vmid": 105})));
    let answer = site.phoenix(&["apply"]).await.expect(1);
    assert!(
        answer.text().contains("Conflict") && answer.text().contains("adopt"),
        "{answer:?}"
    );
    let deleted = site.phoenix(&["delete", "web"]).await.expect(0);
    assert!(deleted.stdout.contains("is deleted"), "{deleted:?}");
    assert_eq!((site.options(105), site.writes()), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_manifests_are_refused_before_anything_is_done() {
    let site = Site::new().await;
    site.write("good", &lxc("good", json!({})));
    site.write("bad", &lxc("bad", json!({"cores": 0})));
    let answer = site.phoenix(&["apply"]).await.expect(2);
    for words in ["spec.cores", "0", "bad.json"] {
        assert!(answer.stderr.contains(words), "no {words:?} in {answer:?}");
    }
    site.write("bad", &lxc("bad", json!({"memroy": "1Gi"})));
    let answer = site.phoenix(&["apply"]).await.expect(2);
    assert!(
        answer
            .stderr
            .contains(r#"unknown field "spec.memroy" (did you mean "memory"?)"#),
        "{answer:?}"
    );
    assert_eq!((site.writes(), site.vmids()), (0, vec![]));
    fs::write(site.path("bad"), "{").unwrap();
    let answer = site.phoenix(&["apply"]).await.expect(2);
    assert!(answer.stderr.contains("bad.json"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_is_finished_by_the_next() {
    let site = Site::new().await;
    for n in 0..4 {
        site.write(&format!("web{n}"), &lxc(&format!("web{n}"), json!({})));
    }
    for writes in [2, 7, 12] {
        let mut run = site.start(&["apply"]);
        while site.writes() < writes && run.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        run.kill().await.unwrap();
    }
    site.phoenix(&["apply"]).await.expect(0);
    assert_eq!(site.vmids(), [1000, 1001, 1002, 1003]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_state_lost_the_old_cluster_id_finds_the_guests_again() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({"vmid": 1000})));
    site.phoenix(&["apply"]).await.expect(0);
    let id = fs::read_to_string(site.state().join("cluster-id")).unwrap();
    fs::remove_dir_all(site.state()).unwrap();
    let writes = site.writes();
    let answer = site.phoenix(&["apply"]).await.expect(1);
    assert!(answer.text().contains("Conflict"), "{answer:?}");
    fs::remove_dir_all(site.state()).unwrap();
    site.phoenix(&["apply", "--cluster-id", id.trim()]).await.expect(0);
    assert_eq!((site.vmids(), site.writes()), (vec![1000], writes));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_file_of_the_state() {
    let site = Site::new().await;
    site.write("web", &lxc("web", data_and_script()));
    site.phoenix(&["apply"]).await.expect(0);
    let mut folders = vec![site.state()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = fs::read_to_string(&path).unwrap();
            let shown = site.secrets.iter().any(|secret| text.contains(secret));
            assert!(!shown, "{} holds a secret", path.display());
        }
    }
    assert!(files > 2, "only {files} files");
    let seen = site.sim().with(|state| format!("{:?}", state.guests));
    assert!(
        site.secrets.iter().all(|secret| !seen.contains(secret)),
        "a guest holds a secret"
    );
}
