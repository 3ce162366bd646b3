//! A step that succeeds and changes nothing is not repeated at full speed, whatever the cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::{World, guest, message, rounds, settled, status};
use phoenix::desired::{Key, Objects};
use phoenix::engine::{Point, Tripwire};
use phoenix::simulator::{Edit, Simulator};
use serde_json::json;

const VMID: u32 = 1000;

/// Undoes each change of the cores at once, as something in Proxmox that keeps another value would; counts them.
struct Undo(Simulator, AtomicUsize);

impl Tripwire for Undo {
    fn trip(&self, _: &Key, point: Point, what: &str) -> bool {
        if point == Point::AfterEffect && what.contains("cores") {
            self.1.fetch_add(1, Ordering::SeqCst);
            let options = [("cores".to_string(), Some("2".to_string()))].into();
            self.0.edit(Edit::SetOptions { vmid: VMID, options }).unwrap();
        }
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_succeeds_and_changes_nothing_backs_off_with_what_is_found_and_wanted() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({"cores": 2})));
    settled(&mut world).await;
    // Pauses are as long as they are.
    world.time_scale = 1.0;
    let undo = Arc::new(Undo(world.sim().clone(), AtomicUsize::new(0)));
    world.replace_tripwire(undo.clone());
    world.poll().await;
    world.store.apply(guest("a", json!({"cores": 3})));
    rounds(&world, 100).await;
    let tried = undo.1.load(Ordering::SeqCst);
    assert!((2..=4).contains(&tried), "tried {tried} times");
    assert!(!world.store.guest(&key).unwrap().is_ready());
    let error = status(&world, &key).last_error.unwrap();
    assert!(error.starts_with("NothingChanged: "), "{error}");
    let told = message(&world, &key);
    assert!(told.contains("cores: \"2\" → \"3\""), "{told}");
}

/// Objects that edit one owner container at the same time do not undo each other's steps: what one of them opens, no other
/// protects before it is through.
#[tokio::test(start_paused = true)]
async fn objects_that_share_an_owner_container_do_not_undo_each_others_steps() {
    let mut world = World::new(&[]).await;
    let keeps = |name: &str| {
        let volume = |n: u32| json!({"name": format!("v{n}"), "size": "1Gi", "mountPath": format!("/v{n}"), "reclaimPolicy": "Retain"});
        guest(name, json!({"network": [], "volumes": [volume(1), volume(2)]}))
    };
    world.store.apply(keeps("a"));
    world.settle(false).await.unwrap();
    world.sim().clear_requests();
    let keys: Vec<_> = ["b", "c", "d", "e"]
        .iter()
        .map(|name| world.store.apply(keeps(name)))
        .collect();
    for _ in 0..60 {
        world.poll().await;
        futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
        world.pause().await;
    }
    for key in &keys {
        assert!(
            world.store.guest(key).unwrap().is_ready(),
            "{:?}",
            status(&world, key).message
        );
    }
    let events = world.store.events.lock().unwrap().clone();
    let in_vain: Vec<_> = events.iter().filter(|(_, e)| e.reason == "NothingChanged").collect();
    assert!(in_vain.is_empty(), "{in_vain:?}");
    // For each volume it is opened, changed and protected, and nothing comes between.
    let requests = world.sim().requests();
    let writes = requests
        .iter()
        .filter(|r| r.method == "PUT" && r.path.contains("/lxc/99") && r.path.ends_with("/config"));
    let writes = writes.count();
    assert_eq!(writes, 3 * 8, "writes to owner containers for 8 volumes");
}
