//! What failed waits before it is tried again, and holds nothing else back: neither stopping nor deleting, nor somebody
//! who asks for another attempt now. No clock that was wrong blocks an object.

use crate::engine::{self, World, object, rounds, until};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use phoenix::crd::RECONCILE;
use phoenix::desired::{Key, Objects};
use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::{Edit, Fault, FaultKind};
use serde_json::{Value, json};

const VMID: u32 = 1000;

fn guest(fields: Value) -> Value {
    engine::guest("a", fields)
}

async fn world(fields: Value) -> (World, Key) {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest(fields));
    world.settle(false).await.unwrap();
    (world, key)
}

/// Pauses are as long as they are, so that nothing is due while a test looks.
fn in_real_time(world: &mut World) {
    world.time_scale = 1.0;
    world.restart();
}

/// Every request of this method and path is refused.
fn refuse(world: &World, method: &str, path: &str, status: u16, message: &str) {
    world.sim().add_fault(Fault {
        method: Some(method.into()),
        path: Some(path.into()),
        skip: 0,
        count: 1_000_000,
        kind: FaultKind::Status {
            status,
            message: message.into(),
        },
    });
}

fn running(world: &World) -> bool {
    world.sim().with(|state| state.guests[&VMID].running.is_some())
}

fn requests(world: &World, method: &str, part: &str) -> usize {
    let requests = world.sim().requests();
    let fits = |r: &&phoenix::simulator::LoggedRequest| r.method == method && r.path.contains(part);
    requests.iter().filter(fits).count()
}

/// The next attempt of everything is as far off as a pause can be.
fn put_off(world: &World, key: &Key, by: SignedDuration) {
    world.store.objects.update_guest(key, |guest| {
        guest.status.next_retry = Some(Time(world.now() + by));
        guest.status.observed_generation = Some(guest.generation);
        guest.status.failures = Some(7);
        guest.status.last_error = Some("TaskFailed: words".into());
    });
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_no_refused_change() {
    let (world, key) = world(json!({})).await;
    refuse(&world, "PUT", "/nodes/[^/]+/lxc/1000/config", 400, "hotplug failed");
    world.store.apply(guest(json!({"cores": 4, "powerState": "Stopped"})));
    until(&world, "it is stopped", |w| !running(w)).await;
    rounds(&world, 20).await;
    // The change is still refused, and it is said.
    assert!(
        object(&world, &key)
            .status
            .last_error
            .unwrap()
            .contains("hotplug failed")
    );
}

/// A person who stops a guest is heard, though its spec is not valid or what it names is missing.
#[tokio::test(start_paused = true)]
async fn a_guest_whose_spec_cannot_be_resolved_is_stopped() {
    let missing = json!([{"name": "TOKEN", "secretKeyRef": {"name": "none", "key": "k"}}]);
    for (fields, reason) in [
        (json!({"memory": "a lot"}), "InvalidSpec"),
        (
            json!({"application": {"script": "#!/bin/sh\ntrue\n", "environment": missing}}),
            "SecretNotFound",
        ),
    ] {
        let mut world = World::with_ssh(&[]).await;
        let key = world.store.apply(guest(json!({})));
        world.settle(false).await.unwrap();
        world.store.apply(guest(fields.clone()));
        rounds(&world, 5).await;
        assert!(running(&world), "nobody asked for a stop");
        let mut fields = fields;
        fields["powerState"] = json!("Stopped");
        world.store.apply(guest(fields));
        until(&world, "it is stopped", |w| !running(w)).await;
        rounds(&world, 5).await;
        let status = object(&world, &key).status;
        let condition = |name: &str| status.conditions.iter().find(|c| c.type_ == name).unwrap();
        assert_eq!(condition("Ready").reason, reason);
        assert_eq!(condition("Running").message, "container 1000 is stopped");
        // And then it costs nothing.
        world.sim().clear_requests();
        for _ in 0..5 {
            world.look_at(&key).await;
        }
        assert_eq!(world.sim().requests().len(), 0, "{:?}", world.sim().requests());
    }
}

/// Nor is a stranger's guest under its vmid.
#[tokio::test(start_paused = true)]
async fn a_strangers_guest_is_not_stopped_for_a_spec_that_cannot_be_resolved() {
    let (world, _) = world(json!({})).await;
    let options = std::collections::BTreeMap::from([("description".to_owned(), None)]);
    world.sim().edit(Edit::SetOptions { vmid: VMID, options }).unwrap();
    world
        .store
        .apply(guest(json!({"memory": "a lot", "powerState": "Stopped"})));
    rounds(&world, 10).await;
    assert!(running(&world));
}

#[tokio::test(start_paused = true)]
async fn stopping_that_fails_waits_before_it_is_tried_again() {
    let (mut world, key) = world(json!({})).await;
    in_real_time(&mut world);
    let fault = TaskFault {
        kind: "vzshutdown".into(),
        id: None,
        message: "boom".into(),
        count: 1_000_000,
    };
    world.sim().edit(Edit::FailTasks(fault)).unwrap();
    world.store.apply(guest(json!({"powerState": "Stopped"})));
    until(&world, "it fails", |w| object(w, &key).status.failing.is_some()).await;
    world.store.objects.update_guest(&key, |guest| {
        for failing in guest.status.failing.iter_mut().flatten() {
            failing.next_retry = Time(world.now() + SignedDuration::from_secs(290));
        }
    });
    let before = requests(&world, "POST", "/status/shutdown");
    rounds(&world, 20).await;
    assert_eq!(requests(&world, "POST", "/status/shutdown"), before);
    let message = object(&world, &key).status.message.unwrap();
    assert!(
        message.contains("boom") && message.contains("next try at 20"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn deleting_waits_for_no_pause_of_the_work_before_it() {
    let (world, key) = world(json!({})).await;
    put_off(&world, &key, SignedDuration::from_secs(290));
    world.store.delete(&key);
    until(&world, "it is gone", |w| w.store.guest(&key).is_none()).await;
    assert!(!world.sim().with(|state| state.guests.contains_key(&VMID)));
}

#[tokio::test(start_paused = true)]
async fn deleting_that_fails_waits_before_it_is_tried_again() {
    let (mut world, key) = world(json!({})).await;
    in_real_time(&mut world);
    refuse(&world, "DELETE", "/nodes/[^/]+/lxc/1000", 500, "boom");
    world.store.delete(&key);
    let fails = |w: &World| {
        let failing = object(w, &key).status.failing.unwrap_or_default();
        failing.iter().any(|f| f.step == "delete")
    };
    until(&world, "it fails", fails).await;
    world.store.objects.update_guest(&key, |guest| {
        for failing in guest.status.failing.iter_mut().flatten() {
            failing.next_retry = Time(world.now() + SignedDuration::from_secs(290));
        }
    });
    let before = requests(&world, "DELETE", "/lxc/1000");
    rounds(&world, 20).await;
    assert_eq!(requests(&world, "DELETE", "/lxc/1000"), before);
    assert!(object(&world, &key).status.message.unwrap().contains("boom"));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_wrong_clock_put_off_for_a_year_is_due() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest(json!({})));
    put_off(&world, &key, SignedDuration::from_hours(24 * 366));
    world.restart();
    world.settle(false).await.unwrap();
    assert_eq!(object(&world, &key).status.next_retry, None);
}

#[tokio::test(start_paused = true)]
async fn each_new_value_of_the_annotation_is_one_attempt_now() {
    let (mut world, key) = world(json!({})).await;
    in_real_time(&mut world);
    let fault = TaskFault {
        kind: "vzstart".into(),
        id: None,
        message: "boom".into(),
        count: 1_000_000,
    };
    world.sim().edit(Edit::FailTasks(fault)).unwrap();
    world
        .sim()
        .edit(Edit::Power {
            vmid: VMID,
            running: false,
        })
        .unwrap();
    until(&world, "a start fails", |w| object(w, &key).status.failures.is_some()).await;
    put_off(&world, &key, SignedDuration::from_secs(290));
    let ask = |value: &str| {
        let mut manifest = guest(json!({}));
        manifest["metadata"]["annotations"] = json!({RECONCILE: value});
        world.store.apply(manifest);
    };
    for value in ["one", "two"] {
        let before = requests(&world, "POST", "/status/start");
        ask(value);
        until(&world, "it is tried", |w| requests(w, "POST", "/status/start") > before).await;
        assert_eq!(object(&world, &key).status.reconciled.as_deref(), Some(value));
        until(&world, "it failed", |w| object(w, &key).status.next_retry.is_some()).await;
        put_off(&world, &key, SignedDuration::from_secs(290));
    }
    // The same value asks for nothing more.
    let before = requests(&world, "POST", "/status/start");
    rounds(&world, 20).await;
    assert_eq!(requests(&world, "POST", "/status/start"), before);
    world.sim().with(|state| state.task_faults.clear());
    ask("three");
    until(&world, "it is Ready", |w| object(w, &key).is_ready()).await;
    assert_eq!(object(&world, &key).status.last_error, None);
}

/// A multicast address, which Proxmox refuses and CEL does not look at.
const BAD_MAC: &str = "01:00:00:00:00:01";

fn stalled(world: &World, key: &Key) -> String {
    let conditions = object(world, key).status.conditions;
    let found = conditions
        .into_iter()
        .find(|c| c.type_ == "Stalled" && c.reason == "ProxmoxRefused");
    found.map(|c| c.message).unwrap_or_default()
}

/// One interface that Proxmox refuses keeps back neither options nor other interfaces, and is named.
#[tokio::test(start_paused = true)]
async fn a_refused_interface_keeps_nothing_else_back() {
    let (mut world, key) = world(json!({})).await;
    in_real_time(&mut world);
    for running in [true, false] {
        let cores = if running { 4 } else { 6 };
        let network = json!([
            {"name": "eth0", "ip": "10.0.0.50/24", "gateway": "10.0.0.1"},
            {"name": "lan", "ip": "dhcp", "mac": BAD_MAC},
            {"name": format!("dmz{cores}"), "ip": "dhcp"},
        ]);
        let power = if running { "Running" } else { "Stopped" };
        world
            .store
            .apply(guest(json!({"cores": cores, "network": network, "powerState": power})));
        until(&world, "it is told", |w| {
            stalled(w, &key).starts_with("spec.network[lan].mac: ")
        })
        .await;
        until(&world, "the rest is done", |w| {
            let options = &w.guests()[&VMID];
            options["cores"] == cores.to_string()
                && options["running"] == running.to_string()
                && options.values().any(|v| v.contains(&format!("name=dmz{cores}")))
        })
        .await;
        // What waits sends nothing.
        let before = requests(&world, "PUT", "/lxc/1000/config");
        world.store.objects.update_guest(&key, |guest| {
            for failing in guest.status.failing.iter_mut().flatten() {
                failing.next_retry = Time(world.now() + SignedDuration::from_secs(290));
            }
        });
        rounds(&world, 10).await;
        assert_eq!(requests(&world, "PUT", "/lxc/1000/config"), before);
    }
    world.store.apply(guest(json!({})));
    until(&world, "it is Ready", |w| object(w, &key).is_ready()).await;
    assert_eq!(object(&world, &key).status.failing, None);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_an_interface_spoils_names_it() {
    let mut world = World::new(&[]).await;
    in_real_time(&mut world);
    let network = json!([{"name": "eth0", "ip": "dhcp"}, {"name": "lan", "ip": "dhcp", "mac": BAD_MAC}]);
    let key = world.store.apply(guest(json!({"network": network})));
    until(&world, "it is told", |w| {
        stalled(w, &key).starts_with("spec.network[lan].mac: ")
    })
    .await;
    world.store.apply(guest(json!({})));
    until(&world, "it is Ready", |w| object(w, &key).is_ready()).await;
}
