//! The annotation `paused`: nothing is done on Proxmox, and the status says what waits.

use phoenix::crd::PAUSED;
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use serde_json::{Value, json};

use crate::engine::{World, edit, guest, hypervisor, lxc, message, object, rounds, says, settled, status, template};

fn paused(mut object: Value) -> Value {
    object["metadata"]["annotations"] = json!({PAUSED: "true"});
    object
}

/// Requests that change something, since the log was last cleared.
fn writes(world: &World) -> Vec<String> {
    let log = world.sim().requests();
    let writes = log.iter().filter(|r| r.method != "GET");
    writes.map(|r| format!("{} {}", r.method, r.path)).collect()
}

/// Some time passes in which nothing is written.
async fn nothing_happens(world: &World) {
    world.sim().clear_requests();
    rounds(world, 20).await;
    assert_eq!(writes(world), Vec::<String>::new());
}

fn phase(world: &World, key: &Key) -> String {
    status(world, key).phase.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_until_the_annotation_goes() {
    let mut world = World::new(&[]).await;
    let guests = world.guests().len();
    let key = world.store.apply(paused(guest("a", json!({}))));
    nothing_happens(&world).await;
    assert_eq!(world.guests().len(), guests);
    assert_eq!(phase(&world, &key), "Paused");
    assert!(says(&world, &key, "Paused") && !object(&world, &key).is_ready());
    world.store.apply(guest("a", json!({})));
    settled(&mut world).await;
    assert_eq!(phase(&world, &key), "Ready");
    assert!(status(&world, &key).conditions.iter().all(|c| c.type_ != "Paused"));
}

#[tokio::test(start_paused = true)]
async fn an_edit_and_a_stop_from_outside_wait_and_the_message_names_them() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({"cores": 2})));
    settled(&mut world).await;
    // What is as wanted stays Ready.
    world.store.apply(paused(guest("a", json!({"cores": 2}))));
    nothing_happens(&world).await;
    assert!(object(&world, &key).is_ready());
    assert_eq!(phase(&world, &key), "Paused");

    world.store.apply(paused(guest("a", json!({"cores": 3}))));
    nothing_happens(&world).await;
    let words = message(&world, &key);
    assert!(words.contains(PAUSED) && words.contains("cores"), "{words}");
    assert!(!object(&world, &key).is_ready());

    let vmid = status(&world, &key).vmid.unwrap() as u32;
    edit(&world, Edit::Power { vmid, running: false });
    nothing_happens(&world).await;
    assert_eq!(world.guests()[&vmid]["cores"], "2");

    world.store.apply(guest("a", json!({"cores": 3})));
    settled(&mut world).await;
    assert_eq!(world.guests()[&vmid]["cores"], "3");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_and_says_so() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({})));
    settled(&mut world).await;
    let guests = world.guests();
    world.store.apply(paused(guest("a", json!({}))));
    world.store.delete(&key);
    nothing_happens(&world).await;
    assert_eq!(world.guests(), guests);
    assert_eq!(phase(&world, &key), "Deleting");
    assert!(message(&world, &key).contains(PAUSED), "{}", message(&world, &key));
    world
        .store
        .objects
        .update_guest(&key, |guest| guest.annotations.clear());
    settled(&mut world).await;
    assert!(world.store.guest(&key).is_none());
}

/// What was never made is not kept from going.
#[tokio::test(start_paused = true)]
async fn a_paused_object_without_a_guest_goes() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(paused(guest("a", json!({}))));
    rounds(&world, 5).await;
    world.store.delete(&key);
    settled(&mut world).await;
    assert!(world.store.guest(&key).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_paused_hypervisor_pauses_all_of_its_objects() {
    let mut world = World::new(&[]).await;
    let pause = |world: &World, value: &str| {
        let value = value.to_string();
        hypervisor(world, move |h| {
            h.metadata.annotations = Some([(PAUSED.to_string(), value)].into());
        });
    };
    pause(&world, "true");
    let a = world.store.apply(guest("a", json!({})));
    let b = world.store.apply(guest("b", json!({})));
    nothing_happens(&world).await;
    for key in [&a, &b] {
        let words = message(&world, key);
        assert!(words.contains("of PhoenixHypervisor"), "{words}");
    }
    let said = world.store.hypervisor("ai", "pve").unwrap().status.clone().unwrap();
    assert_eq!(said.phase.as_deref(), Some("Paused"));
    assert!(said.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    pause(&world, "false");
    settled(&mut world).await;
    assert_eq!((phase(&world, &a), phase(&world, &b)), ("Ready".into(), "Ready".into()));
}

/// A template is cloned by one at a time: who is paused gives its turn away.
#[tokio::test(start_paused = true)]
async fn a_paused_clone_lets_others_pass() {
    let mut world = World::new(&[]).await;
    world.store.apply(template("base", "Snapshot"));
    settled(&mut world).await;
    let clone = |name: &str| {
        lxc(
            name,
            json!({"source": {"templateRef": {"name": "base"}}, "network": []}),
        )
    };
    let first = world.store.apply(paused(clone("a")));
    let second = world.store.apply(clone("b"));
    rounds(&world, 60).await;
    assert_eq!(phase(&world, &second), "Ready", "{}", message(&world, &second));
    assert_eq!(phase(&world, &first), "Paused");
}
