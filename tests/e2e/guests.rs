//! Single guests in a cluster: changes, strangers, copies, deletion, an unreachable hypervisor.

use serde_json::{Value, json};

use crate::harness::wait_for;
use crate::site::{IMAGE, Site};

pub fn lxc(name: &str, fields: Value) -> String {
    // Each name has an address of its own.
    let sum = name
        .bytes()
        .fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let ip = format!("10.0.{}.{}/16", 1 + sum % 200, 1 + sum / 200 % 250);
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "source": {"image": {"volid": IMAGE}}, "cores": 2, "memory": "1Gi",
        "rootfs": {"size": "8Gi"}, "network": [{"name": "eth0", "ip": ip, "gateway": "10.0.0.1"}]
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

pub fn patch(site: &Site, what: &str, patch: &Value) {
    site.namespace
        .kubectl
        .must(&["patch", what, "--type=merge", "-p", &patch.to_string()]);
}

pub fn option(site: &Site, vmid: &str, key: &str) -> Option<String> {
    let guests = site.guests();
    let text = guests.get(vmid)?["config"].as_str().map(str::to_string);
    let text = text.unwrap_or_else(|| guests[vmid]["config"].to_string());
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(&format!("{key}: ")).map(str::to_string));
    line.or_else(|| {
        guests[vmid]
            .pointer(&format!("/config/current/options/{key}"))
            .and_then(Value::as_str)
            .map(str::to_string)
    })
}

pub fn wait_option(site: &Site, vmid: &str, key: &str, wanted: &str) {
    wait_for(&format!("{key} of guest {vmid} to be {wanted}"), || {
        match option(site, vmid, key) {
            Some(value) if value.contains(wanted) => Ok(()),
            other => Err(format!("{other:?}\n{}", site.words())),
        }
    });
}

#[test]
fn a_guest_is_changed_live_grown_never_shrunk_and_deleted() {
    let mut site = Site::new("guest");
    site.hypervisor();
    site.start_operator();
    site.namespace.kubectl.apply(&lxc("a", json!({"vmid": 700})));
    site.wait_ready("phoenixlxc/a", 90);
    patch(&site, "phoenixlxc/a", &json!({"spec": {"cores": 4}}));
    wait_option(&site, "700", "cores", "4");
    patch(&site, "phoenixlxc/a", &json!({"spec": {"rootfs": {"size": "12Gi"}}}));
    wait_option(&site, "700", "rootfs", "size=12G");
    site.wait_ready("phoenixlxc/a", 60);
    patch(&site, "phoenixlxc/a", &json!({"spec": {"rootfs": {"size": "10Gi"}}}));
    let message = site.wait_stalled("phoenixlxc/a", "ShrinkRefused");
    assert!(message.contains("rootfs.size") && message.contains("12Gi"), "{message}");
    assert!(option(&site, "700", "rootfs").unwrap().contains("size=12G"));
    patch(&site, "phoenixlxc/a", &json!({"spec": {"rootfs": {"size": "12Gi"}}}));
    site.wait_ready("phoenixlxc/a", 60);
    // What cannot change is refused at admission.
    let refused = site.namespace.kubectl.run(&[
        "patch",
        "phoenixlxc/a",
        "--type=merge",
        "-p",
        r#"{"spec":{"vmid":701}}"#,
    ]);
    assert!(
        !refused.ok && refused.stderr.contains("spec.vmid cannot change"),
        "{}",
        refused.stderr
    );
    site.namespace
        .kubectl
        .must(&["delete", "phoenixlxc/a", "--timeout=60s"]);
    assert!(!site.guests().contains_key("700"));
}

#[test]
fn strangers_and_copies_are_never_touched() {
    let mut site = Site::new("strangers");
    site.hypervisor();
    let stranger = json!({"op": "create-guest", "vmid": 710, "options": {"hostname": "precious", "description": "mine"}, "storage": "quickOS-lxc-disks"});
    site.control("POST", "edits", &stranger);
    let before = site.guests()["710"].clone();
    site.start_operator();
    site.namespace.kubectl.apply(&lxc("wants", json!({"vmid": 710})));
    let message = site.wait_stalled("phoenixlxc/wants", "Conflict");
    assert!(message.contains("710") && message.contains("adopt"), "{message}");
    site.namespace
        .kubectl
        .must(&["delete", "phoenixlxc/wants", "--timeout=20s"]);
    site.namespace.kubectl.apply(&lxc("ours", json!({})));
    site.wait_ready("phoenixlxc/ours", 90);
    let vmid = site.status("phoenixlxc/ours")["vmid"].as_i64().unwrap();
    site.control("POST", "edits", &json!({"op": "clone-guest", "from": vmid, "to": 711}));
    let copy = site.guests()["711"]["config"].clone();
    patch(&site, "phoenixlxc/ours", &json!({"spec": {"cores": 3}}));
    wait_option(&site, &vmid.to_string(), "cores", "3");
    site.namespace
        .kubectl
        .must(&["delete", "phoenixlxc/ours", "--timeout=60s"]);
    assert_eq!(
        site.guests()["711"]["config"],
        copy,
        "the copy of our guest was touched"
    );
    assert_eq!(
        site.guests()["710"]["config"],
        before["config"],
        "the stranger's guest was touched"
    );
    assert!(!site.guests().contains_key(&vmid.to_string()));
}

#[test]
fn a_guest_is_stopped_resumed_and_restarted() {
    let mut site = Site::new("power");
    site.hypervisor();
    site.start_operator();
    site.namespace.kubectl.apply(&lxc("a", json!({"vmid": 730})));
    site.wait_ready("phoenixlxc/a", 90);
    let runs = |site: &Site| !site.guests()["730"]["running"].is_null();
    let wait_runs = |site: &Site, wanted: bool| {
        wait_for(&format!("guest 730 to run: {wanted}"), || {
            (runs(site) == wanted).then_some(()).ok_or_else(|| site.words())
        });
    };
    assert!(runs(&site));
    patch(&site, "phoenixlxc/a", &json!({"spec": {"powerState": "Stopped"}}));
    wait_runs(&site, false);
    wait_for("STATUS to be Stopped", || {
        let status = site.status("phoenixlxc/a");
        (status["phase"] == "Stopped").then_some(()).ok_or(status)
    });
    site.wait_ready("phoenixlxc/a", 60);
    patch(&site, "phoenixlxc/a", &json!({"spec": {"powerState": "Running"}}));
    wait_runs(&site, true);
    site.wait_ready("phoenixlxc/a", 60);
    let reboots = |site: &Site| {
        let log = site.control("GET", "requests", &Value::Null);
        let all = log.as_array().cloned().unwrap_or_default();
        all.iter()
            .filter(|r| r["path"].as_str().unwrap().ends_with("/730/status/reboot"))
            .count()
    };
    assert_eq!(reboots(&site), 0);
    let restart = json!({"metadata": {"annotations": {"phoenix-hypervisor.io/restartedAt": "2026-01-01T00:00:00Z"}}});
    patch(&site, "phoenixlxc/a", &restart);
    wait_for("the restart", || {
        (reboots(&site) == 1).then_some(()).ok_or_else(|| site.words())
    });
    site.wait_ready("phoenixlxc/a", 60);
    assert_eq!(reboots(&site), 1, "once for each value");
}

#[test]
fn a_guest_is_adopted_only_when_asked_for_by_its_vmid() {
    let mut site = Site::new("adoption");
    site.hypervisor();
    let options = json!({"hostname": "old", "description": "made by hand", "unprivileged": "1"});
    let edit = json!({"op": "create-guest", "vmid": 740, "options": options, "storage": "quickOS-lxc-disks"});
    site.control("POST", "edits", &edit);
    site.start_operator();
    let mut object: Value = serde_json::from_str(&lxc("old", json!({"vmid": 740}))).unwrap();
    for unmanaged in ["source", "rootfs", "network"] {
        object["spec"].as_object_mut().unwrap().remove(unmanaged);
    }
    site.namespace.kubectl.apply(&object.to_string());
    site.wait_stalled("phoenixlxc/old", "Conflict");
    let adopt = |vmid: &str| json!({"metadata": {"annotations": {"phoenix-hypervisor.io/adopt": vmid}}});
    patch(&site, "phoenixlxc/old", &adopt("999"));
    site.wait_stalled("phoenixlxc/old", "Conflict");
    assert_eq!(option(&site, "740", "description").unwrap().trim(), "made by hand");
    patch(&site, "phoenixlxc/old", &adopt("740"));
    site.wait_ready("phoenixlxc/old", 90);
    site.namespace
        .kubectl
        .must(&["delete", "phoenixlxc/old", "--timeout=60s"]);
    assert_eq!(
        option(&site, "740", "description").unwrap().trim(),
        "made by hand",
        "an adopted guest stays"
    );
}

#[test]
fn an_unreachable_hypervisor_is_reported_and_comes_back() {
    let mut site = Site::new("unreachable");
    site.hypervisor();
    site.start_operator();
    site.namespace.kubectl.apply(&lxc("a", json!({"vmid": 720})));
    site.wait_ready("phoenixlxc/a", 90);
    site.control(
        "POST",
        "faults",
        &json!({"kind": "lost-request", "count": 100_000, "path": ".*"}),
    );
    wait_for("the hypervisor to be NotReady", || {
        let status = site.status("phoenixhypervisor/pve");
        (status["phase"] == "NotReady")
            .then_some(())
            .ok_or_else(|| format!("{status:#}"))
    });
    site.control("DELETE", "faults", &Value::Null);
    site.wait_ready("phoenixhypervisor/pve", 60);
    site.wait_ready("phoenixlxc/a", 60);
    assert!(site.guests().contains_key("720"));
}
