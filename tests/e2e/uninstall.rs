//! Phoenix is taken off a cluster, in one that is this test's own: guests stay, and are found again.

use serde_json::json;

use crate::guests::lxc;
use crate::harness::cluster::Cluster;
use crate::harness::{repository, wait_for};
use crate::site::Site;

#[test]
fn deleting_the_kinds_lets_objects_go_and_no_guest_end() {
    let cluster = Cluster::of_its_own("uninstall");
    let mut site = Site::new_in(cluster, "mine");
    site.hypervisor();
    site.start_operator();
    let kubectl = &site.namespace.kubectl;
    kubectl.apply(&lxc("a", json!({})));
    kubectl.apply(&lxc("gone", json!({"network": []})));
    site.wait_ready("phoenixlxc/a", 120);
    site.wait_ready("phoenixlxc/gone", 120);
    // One that is deleted by itself ends.
    kubectl.must(&["delete", "phoenixlxc/gone", "--timeout=60s"]);
    let before = site.guests();
    let stamped = |site: &Site| {
        let guests = site.guests();
        let ours = guests.values().filter(|g| g.to_string().contains("name=a "));
        (guests.len(), ours.count())
    };
    assert_eq!(stamped(&site).1, 1, "{before:?}");

    let crds = repository("crds");
    let crds = crds.to_str().unwrap();
    cluster.admin.must(&["delete", "-f", crds, "--timeout=120s"]);
    assert_eq!(site.guests(), before, "{}", site.words());
    let events = kubectl.must(&[
        "get",
        "events",
        "-o",
        "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
    ]);
    assert!(
        events.contains("Released: PhoenixLXC is being removed from this cluster"),
        "{events}"
    );

    // Installed and applied again, the guest is taken up where it was left.
    cluster.admin.must(&["apply", "-f", crds]);
    cluster
        .admin
        .must(&["wait", "--for=condition=Established", "--timeout=60s", "-f", crds]);
    wait_for("the kinds to be served", || {
        let answer = kubectl.run(&["get", "phoenixlxc"]);
        if answer.ok { Ok(()) } else { Err(answer.stderr) }
    });
    site.hypervisor();
    kubectl.apply(&lxc("a", json!({})));
    site.wait_ready("phoenixlxc/a", 180);
    assert_eq!(stamped(&site), (before.len(), 1), "{}", site.words());
}
