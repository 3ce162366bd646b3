//! What a whole operator counts: the same that happened on the simulated cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use phoenix::simulator::Edit;
use serde_json::json;

use crate::operated::{Running, Site, lxc, template_of};

/// Values by metric and labels.
fn told(operator: &Running) -> BTreeMap<String, f64> {
    let text = operator.metrics();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| line.rsplit_once(' ').unwrap());
    values
        .map(|(name, value)| (name.to_string(), value.parse().unwrap()))
        .collect()
}

/// The sum of all series of a metric whose labels have all of this.
fn sum(told: &BTreeMap<String, f64>, metric: &str, labels: &[&str]) -> f64 {
    let of_it = |name: &str| name == metric || name.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'));
    let fits = |name: &&String| of_it(name) && labels.iter().all(|label| name.contains(label));
    told.iter().filter(|(name, _)| fits(name)).map(|(_, value)| value).sum()
}

fn vmid(site: &Site, name: &str) -> u32 {
    let object = site.server.get("PhoenixLXC", "ai", name).unwrap();
    object["status"]["vmid"].as_u64().unwrap() as u32
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_counted() {
    let site = Site::new();
    let operator = site.operator("one");
    site.connect();
    site.apply(template_of("base", "Snapshot"));
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        let source = json!({"source": {"templateRef": {"name": "base"}}, "cores": 2});
        site.apply(lxc(name, number as u32, source));
    }
    site.until("one is cloned while the other waits", |_| {
        let told = told(&operator);
        let waits = sum(&told, "phoenix_unready_objects", &["reason=\"TemplateBusy\""]) == 1.0;
        waits && sum(&told, "phoenix_proxmox_tasks", &["type=\"vzclone\""]) == 1.0
    })
    .await;
    site.until("all are Ready", Site::all_ready).await;
    let told_now = told(&operator);
    let count = |metric: &str, labels: &[&str]| sum(&told_now, metric, labels);
    assert_eq!(count("phoenix_objects", &["phase=\"Ready\""]), 4.0, "{told_now:#?}");
    assert_eq!(count("phoenix_object_ready", &[]), 4.0);
    assert_eq!(count("phoenix_unready_objects", &[]), 0.0);
    assert_eq!(count("phoenix_object_unready_since_timestamp_seconds", &[]), 0.0);
    let clones = &["type=\"vzclone\"", "result=\"succeeded\""];
    assert_eq!(count("phoenix_proxmox_task_duration_seconds_count", clones), 2.0);
    let requests = site.sent.lock().unwrap().requests.len() as f64;
    assert_eq!(
        count("phoenix_proxmox_requests_total", &[]),
        requests,
        "each request once"
    );
    assert_eq!(count("phoenix_proxmox_request_duration_seconds_count", &[]), requests);
    let clone = "route=\"/nodes/{node}/lxc/{vmid}/clone\",code=\"200\"";
    assert_eq!(count("phoenix_proxmox_requests_total", &[clone]), 2.0);
    assert_eq!(count("phoenix_steps_total", &["result=\"failed\""]), 0.0);
    assert!(count("phoenix_steps_total", &["effect=\"task\"", "result=\"started\""]) >= 4.0);

    // Somebody changes two guests; each field counts once, however often it is seen.
    for name in ["a", "b"] {
        let options = [("cores".into(), Some("7".into()))].into();
        let vmid = vmid(&site, name);
        site.sim.edit(Edit::SetOptions { vmid, options }).unwrap();
    }
    let cores = |site: &Site| {
        let of = |name| {
            site.sim
                .with(|state| state.guests[&vmid(site, name)].config().current.options["cores"].clone())
        };
        [of("a"), of("b")]
    };
    site.until("it is corrected", |site| cores(site) == ["2", "2"]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told_now = told(&operator);
    assert_eq!(
        sum(&told_now, "phoenix_drift_total", &["field=\"cores\""]),
        2.0,
        "{told_now:#?}"
    );
    assert_eq!(sum(&told_now, "phoenix_drift_total", &[]), 2.0);
}

/// Objects that are stalled show up by name and reason, and are gone with their object.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_person_is_named() {
    let site = Site::new();
    let operator = site.operator("one");
    site.connect();
    site.apply(lxc("a", 0, json!({"rootfs": {"storage": "nowhere", "size": "4Gi"}})));
    let named = &["kind=\"PhoenixLXC\"", "namespace=\"ai\"", "name=\"a\""];
    site.until("it is stalled", |_| {
        sum(&told(&operator), "phoenix_object_stalled", named) == 1.0
    })
    .await;
    let told_now = told(&operator);
    assert_eq!(sum(&told_now, "phoenix_object_ready", named), 0.0);
    let since = sum(&told_now, "phoenix_object_unready_since_timestamp_seconds", named);
    assert!(since > 0.0, "{told_now:#?}");
    site.server.delete("PhoenixLXC", "ai", "a");
    site.until("it is gone", |site| site.server.get("PhoenixLXC", "ai", "a").is_none())
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told_now = told(&operator);
    assert!(
        told_now.keys().all(|name| !name.contains("name=\"a\"")),
        "{told_now:#?}"
    );
}

/// Who does not work tells nothing of objects: sums over processes are right.
#[tokio::test(start_paused = true)]
async fn only_the_leader_tells_of_objects() {
    let site = Site::new();
    let operators = [site.candidate("one"), site.candidate("two")];
    site.connect();
    site.apply(lxc("a", 0, json!({})));
    site.until("all are Ready", |site| site.guests().len() == 1 && site.all_ready())
        .await;
    let told = operators.each_ref().map(told);
    let all = |metric| told.iter().map(|told| sum(told, metric, &[])).sum::<f64>();
    assert_eq!((all("phoenix_leading"), all("phoenix_object_ready")), (1.0, 2.0));
}
