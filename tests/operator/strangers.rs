//! Guests that are not, or not any more, the ones that were looked at: nothing is done to them.

use std::collections::BTreeMap;
use std::time::Duration;

use phoenix::simulator::Edit;
use serde_json::json;

use crate::operated::{Running, Site, lxc};

async fn fleet(names: &[&str]) -> (Site, Running) {
    let site = Site::new();
    let operator = site.operator("one");
    site.connect();
    for (number, name) in names.iter().enumerate() {
        site.apply(lxc(name, number as u32, json!({})));
    }
    site.until("all are Ready", Site::all_ready).await;
    (site, operator)
}

fn vmid(site: &Site, name: &str) -> u32 {
    let object = site.server.get("PhoenixLXC", "ai", name).unwrap();
    object["status"]["vmid"].as_u64().unwrap() as u32
}

fn options(site: &Site, vmid: u32) -> BTreeMap<String, String> {
    site.sim
        .with(|state| state.guests[&vmid].config().current.options.clone())
}

/// Writes to a guest that were sent since then.
fn writes(site: &Site, vmid: u32, since: usize) -> Vec<String> {
    let sent = site.sent.lock().unwrap();
    let of_it = |line: &&String| !line.contains(" GET ") && line.contains(&format!("/lxc/{vmid}"));
    sent.requests[since..].iter().filter(of_it).cloned().collect()
}

fn sent(site: &Site) -> usize {
    site.sent.lock().unwrap().requests.len()
}

/// Somebody restores a backup of one guest over another one.
#[tokio::test(start_paused = true)]
async fn a_backup_of_another_guest_is_left_alone() {
    let (site, _operator) = fleet(&["a", "b"]).await;
    let (a, b) = (vmid(&site, "a"), vmid(&site, "b"));
    let of_b = options(&site, b).into_iter().filter(|(key, _)| key != "rootfs");
    let restored = of_b.map(|(key, value)| (key, Some(value))).collect();
    site.sim
        .edit(Edit::Power {
            vmid: a,
            running: false,
        })
        .unwrap();
    site.sim
        .edit(Edit::SetOptions {
            vmid: a,
            options: restored,
        })
        .unwrap();
    let since = sent(&site);
    site.until("a is not Ready", |site| !site.all_ready()).await;
    site.apply(lxc("a", 0, json!({"memory": "1Gi"})));
    tokio::time::sleep(Duration::from_secs(1500)).await;
    assert_eq!(writes(&site, a, since), [] as [String; 0], "{}", site.words());
    assert!(site.words().contains("Stalled"), "{}", site.words());
    // Nor when its object goes.
    site.server.delete("PhoenixLXC", "ai", "a");
    tokio::time::sleep(Duration::from_secs(1500)).await;
    assert_eq!(writes(&site, a, since), [] as [String; 0], "{}", site.words());
    assert_eq!(options(&site, b)["hostname"], "b");
}

/// Somebody clones a guest, with the description that makes it ours; then the original goes, and comes anew.
#[tokio::test(start_paused = true)]
async fn a_copy_is_left_alone() {
    let (site, _operator) = fleet(&["a"]).await;
    let since = sent(&site);
    site.sim
        .edit(Edit::CloneGuest {
            from: vmid(&site, "a"),
            to: 5001,
        })
        .unwrap();
    let copy = options(&site, 5001);
    tokio::time::sleep(Duration::from_secs(700)).await;
    site.server.delete("PhoenixLXC", "ai", "a");
    site.until("the object is gone", |site| site.guests().is_empty()).await;
    assert_eq!(
        site.sim.with(|state| state.guests.keys().copied().collect::<Vec<_>>()),
        [5001]
    );
    site.apply(lxc("a", 0, json!({})));
    site.until("it is Ready again", Site::all_ready).await;
    assert_ne!(vmid(&site, "a"), 5001);
    assert_eq!(writes(&site, 5001, since), [] as [String; 0]);
    assert_eq!(options(&site, 5001), copy);
}

/// A process stands still just before it destroys a guest; another one does so in its place, and the id becomes another
/// guest's. What is sent late meets that one.
async fn destroyed_late(fields: serde_json::Value) -> (Site, u32) {
    let site = Site::new();
    let one = site.candidate("one");
    site.connect();
    site.apply(lxc("a", 0, json!({})));
    site.until("it is Ready", Site::all_ready).await;
    let destroyed = vmid(&site, "a");
    one.gate.freeze_before(|method, _| method == "DELETE");
    site.server.delete("PhoenixLXC", "ai", "a");
    site.until("it stands still", |_| one.gate.is_frozen()).await;
    let two = site.candidate("two");
    site.until("the other one destroyed it", |site| site.guests().is_empty())
        .await;
    let mut fields = fields;
    fields["vmid"] = json!(destroyed);
    site.apply(lxc("b", 1, fields));
    site.until("the next one is Ready", Site::all_ready).await;
    assert_eq!(vmid(&site, "b"), destroyed);
    one.gate.thaw();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(one.ended(), "it has lost the Lease");
    drop(two);
    (site, destroyed)
}

/// Proxmox destroys nothing that runs.
#[tokio::test(start_paused = true)]
async fn a_late_destroy_meets_no_other_guest() {
    let (site, destroyed) = destroyed_late(json!({})).await;
    assert!(site.all_ready(), "{}", site.words());
    assert_eq!(options(&site, destroyed)["hostname"], "b");
}

/// Not so yet: a destroy carries no digest in Proxmox, so nothing but Phoenix's choice of ids (it takes none again that
/// it has just freed) is between the two. It takes a `vmid` in the spec, a stopped guest, and a process that stands
/// still between its last look and its request.
#[tokio::test(start_paused = true)]
#[ignore = "open: Proxmox has no destroy under a condition"]
async fn a_late_destroy_meets_no_other_guest_that_is_stopped() {
    let (site, destroyed) = destroyed_late(json!({"powerState": "Stopped"})).await;
    assert!(site.all_ready(), "{}", site.words());
    assert_eq!(options(&site, destroyed)["hostname"], "b");
    assert_eq!(site.sent.lock().unwrap().destroyed, ["PhoenixLXC a"]);
}
