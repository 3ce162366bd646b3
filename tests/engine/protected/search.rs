//! The search for an object's guest, and the choice of its vmid.

use super::*;

fn forget(world: &World, key: &Key) {
    world
        .store
        .objects
        .update_guest(key, |g| g.status = GuestStatus::default());
}

#[tokio::test(start_paused = true)]
async fn of_two_guests_with_the_objects_stamp_none_is_taken() {
    let (mut world, key) = one_guest(json!({})).await;
    let copy = stamp("a", 1001).describe("restored from a backup");
    somebodys(
        &world,
        1001,
        None,
        &[("hostname", "copy"), ("tags", "phoenix"), ("description", &copy)],
    );
    let before = [text(&world, 1000), text(&world, 1001)];
    forget(&world, &key);
    world.restart();
    world.sim().clear_requests();
    rounds(&world).await;
    let told = said(&world, &key, "Ambiguous").unwrap();
    assert!(
        told.contains("1000") && told.contains("1001") && told.contains("spec.vmid"),
        "{told}"
    );
    assert_eq!(writes(&world), Vec::<String>::new());
    assert_eq!([text(&world, 1000), text(&world, 1001)], before);
    // What the message says helps.
    let mut chosen = guest("a", json!({}));
    chosen["spec"]["vmid"] = json!(1000);
    world.store.apply(chosen);
    world.settle(false).await.unwrap();
    assert_eq!(status(&world, &key).vmid, Some(1000));
    assert_eq!(text(&world, 1001), before[1]);
}

/// A guest that is being made shows no stamp yet: it may be the one that was looked for.
#[tokio::test(start_paused = true)]
async fn a_guest_that_is_being_made_is_not_made_again_when_status_is_lost() {
    let mut world = World::new(&[]).await;
    world.sim().with(|state| state.latency.create = u64::MAX / 4);
    let key = world.store.apply(guest("a", json!({})));
    for _ in 0..100 {
        world.round().await;
        if status(&world, &key).task.is_some() {
            break;
        }
    }
    assert!(status(&world, &key).task.is_some(), "{:?}", status(&world, &key));
    forget(&world, &key);
    world.restart();
    rounds(&world).await;
    let told = said(&world, &key, "CreateRunning").unwrap_or_default();
    assert!(told.contains("1000"), "{:?}", status(&world, &key));
    assert_eq!(world.guests().len(), 1, "{:#?}", world.guests());
}

#[tokio::test(start_paused = true)]
async fn two_objects_that_choose_at_once_get_a_vmid_each() {
    let mut world = World::new(&[]).await;
    world.poll().await;
    let keys = ["a", "b", "c"].map(|name| world.store.apply(guest(name, json!({"network": []}))));
    world.sim().clear_requests();
    for _ in 0..5 {
        futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
        let vmids: Vec<Option<i64>> = keys.iter().map(|key| status(&world, key).vmid).collect();
        let mut chosen: Vec<i64> = vmids.iter().copied().flatten().collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), vmids.iter().flatten().count(), "{vmids:?}");
    }
    world.settle(false).await.unwrap();
    world.check_invariants().unwrap();
    let refused: Vec<String> = world
        .store
        .events
        .lock()
        .unwrap()
        .iter()
        .map(|(_, e)| e.message.clone())
        .collect();
    assert!(!refused.iter().any(|m| m.contains("already exists")), "{refused:?}");
}

/// A look that failed is no look: volumes of a former guest may be on that storage.
#[tokio::test(start_paused = true)]
async fn a_vmid_is_free_only_when_every_storage_was_looked_at() {
    let mut world = World::new(&[]).await;
    world.sim().with(|state| {
        let node = state.nodes.keys().next().unwrap().clone();
        state
            .alloc_volume(&node, DISKS, "vm-1000-disk-0", "raw", 1 << 30, false)
            .unwrap();
    });
    let unreadable = FaultKind::Status {
        status: 500,
        message: "storage is not online".into(),
    };
    let content = format!("^/nodes/[^/]+/storage/{DISKS}/content$");
    world.sim().add_fault(fault("GET", &content, 1_000, unreadable));
    let key = world.store.apply(guest("a", json!({"vmid": 1000})));
    rounds(&world).await;
    assert_eq!(writes(&world), Vec::<String>::new(), "{:?}", status(&world, &key));
    world.sim().clear_faults();
    rounds(&world).await;
    assert!(
        said(&world, &key, "LeftoverVolumes").is_some(),
        "{:?}",
        status(&world, &key)
    );
    world.sim().with(|state| {
        let node = state.nodes.keys().next().unwrap().clone();
        state.free_volume(&node, &format!("{DISKS}:vm-1000-disk-0")).unwrap();
    });
    world.settle(false).await.unwrap();
}
