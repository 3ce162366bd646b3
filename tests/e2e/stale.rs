//! Promise 1 against an API server that shows less than was written: no second guest.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::guests::lxc;
use crate::harness::wait_for;
use crate::site::Site;

fn wait_for_guest(site: &Site) {
    wait_for("the guest to be made", || {
        (!site.guests().is_empty()).then_some(()).ok_or_else(|| site.words())
    });
}

/// Guests with the object's stamp, under whatever vmid.
fn guests_of(site: &Site, name: &str) -> Vec<String> {
    let stamp = format!("namespace={} name={name} ", site.namespace.name);
    let stamped = |guest: &Value| guest.to_string().contains(&stamp);
    let guests = site.guests();
    guests
        .iter()
        .filter(|(_, g)| stamped(g))
        .map(|(vmid, _)| vmid.clone())
        .collect()
}

#[test]
fn an_object_with_a_status_that_was_written_before_its_vmid_gets_no_second_guest() {
    let mut site = Site::new("stale-status");
    site.hypervisor();
    for round in 0..3 {
        let name = format!("a{round}");
        let object = format!("phoenixlxc/{name}");
        site.start_operator();
        site.wait_ready("phoenixhypervisor/pve", 60);
        let before = site.guests().len();
        site.namespace.kubectl.apply(&lxc(&name, json!({})));
        wait_for("the guest to be made", || {
            (site.guests().len() > before).then_some(()).ok_or_else(|| site.words())
        });
        site.operator.as_mut().unwrap().signal("KILL");
        site.operator = None;
        let status = site.status(&object);
        assert!(
            status["vmid"].is_i64(),
            "the vmid is written before the guest is made: {status:#}"
        );
        // One write old: as it was before the vmid was recorded.
        let old = json!([
            {"op": "remove", "path": "/status/vmid"},
            {"op": "add", "path": "/status/createSent", "value": false},
            {"op": "add", "path": "/status/task", "value": null},
        ]);
        let args = [
            "patch",
            &object,
            "--subresource=status",
            "--type=json",
            "-p",
            &old.to_string(),
        ];
        site.namespace.kubectl.must(&args);
        site.start_operator();
        site.wait_ready(&object, 90);
        assert_eq!(guests_of(&site, &name).len(), 1, "{}", site.table());
        assert_eq!(site.status(&object)["vmid"], status["vmid"]);
        site.operator = None;
    }
}

#[test]
fn an_object_that_others_write_to_all_the_time_gets_one_guest() {
    let mut site = Site::new("stale-writes");
    site.hypervisor();
    site.start_operator();
    site.wait_ready("phoenixhypervisor/pve", 60);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let kubectl = &site.namespace.kubectl;
        site.namespace.kubectl.apply(&lxc("a", json!({})));
        // Each write makes what the operator planned from an old version.
        scope.spawn(|| {
            for n in 0.. {
                let patch = json!({"metadata": {"annotations": {"example.org/count": n.to_string()}}});
                kubectl.run(&["patch", "phoenixlxc/a", "--type=merge", "-p", &patch.to_string()]);
                if done.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        wait_for_guest(&site);
        site.wait_ready("phoenixlxc/a", 120);
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(guests_of(&site, "a").len(), 1, "{}", site.table());
}
