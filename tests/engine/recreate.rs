//! A new guest in place of the present one: only where the condition says how to ask for it, once, with retained volumes.

use phoenix::crd::RECREATE;
use phoenix::desired::{Key, Objects};
use serde_json::{Value, json};

use crate::engine::{World, guest, message, rounds, says, status, text};

/// A container whose root filesystem is to be on this storage, with a volume of each policy.
fn on(storage: &str, fields: Value) -> Value {
    let mut all = json!({
        "rootfs": {"size": "8Gi", "storage": storage},
        "volumes": [
            {"name": "data", "size": "1Gi", "mountPath": "/data", "reclaimPolicy": "Retain"},
            {"name": "cache", "size": "1Gi", "mountPath": "/cache", "reclaimPolicy": "Delete"}
        ]
    });
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    guest("a", all)
}

fn asked(mut object: Value, token: &str) -> Value {
    object["metadata"]["annotations"] = json!({RECREATE: token});
    object
}

const ONE: &str = "quickOS-lxc-disks";
const OTHER: &str = "fastData-shared-bulk-data";

/// The message of the condition and the value for the annotation in it.
fn told(world: &World, key: &Key) -> Option<(String, String)> {
    let conditions = status(world, key).conditions;
    let found = conditions.into_iter().find(|c| c.type_ == "RecreateRequired")?;
    let token = found.message.rsplit_once(&format!("{RECREATE}: \""))?.1;
    Some((found.message.clone(), token.trim_end_matches('"').to_string()))
}

/// A world whose guest needs to be made anew to be what its spec says.
async fn outdated(at: &[usize]) -> (World, Key, String) {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(on(ONE, json!({})));
    world.settle(false).await.unwrap();
    world.store.apply(on(OTHER, json!({})));
    world.settle(false).await.unwrap();
    let (message, token) = told(&world, &key).unwrap();
    assert!(message.contains(ONE) && message.contains(OTHER), "{message}");
    if !at.is_empty() {
        world.wire = std::sync::Arc::new(crate::engine::Wire {
            at: at.to_vec(),
            ..crate::engine::Wire::default()
        });
        world.restart();
    }
    (world, key, token)
}

fn own(world: &World, key: &Key) -> u32 {
    status(world, key).vmid.unwrap() as u32
}

/// The volume at this path of the guest.
fn volume(world: &World, key: &Key, path: &str) -> String {
    let config = text(world, own(world, key));
    let line = config
        .lines()
        .find(|l| l.contains(&format!("mp={path},")) || l.ends_with(&format!("mp={path}")));
    let (_, value) = line.unwrap().split_once(": ").unwrap();
    value.split(',').next().unwrap().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_made_anew_once_with_its_retained_volumes() {
    let (mut world, key, token) = outdated(&[]).await;
    let kept = volume(&world, &key, "/data");
    let guests = world.guests().len();
    world.store.apply(asked(on(OTHER, json!({})), &token));
    world.settle(false).await.unwrap();
    let config = text(&world, own(&world, &key));
    assert!(config.contains(&format!("rootfs: {OTHER}:")), "{config}");
    assert_eq!(volume(&world, &key, "/data"), kept);
    assert_eq!(world.guests().len(), guests);
    assert_eq!(told(&world, &key), None);
    assert_eq!(status(&world, &key).recreated.as_deref(), Some(token.as_str()));
    let events = world.store.events.lock().unwrap().clone();
    for reason in ["Destroyed", "Created"] {
        assert!(events.iter().any(|(_, e)| e.reason == reason), "{reason}: {events:?}");
    }
    // Left in Git, it does nothing: neither now, nor after the same change was made anew.
    let before = world.guests();
    world.restart();
    rounds(&world, 10).await;
    world.store.apply(asked(on(ONE, json!({})), &token));
    world.settle(false).await.unwrap();
    let (_, back) = told(&world, &key).unwrap();
    assert_ne!(back, token);
    world.store.apply(asked(on(ONE, json!({})), &back));
    world.settle(false).await.unwrap();
    assert!(text(&world, own(&world, &key)).contains(&format!("rootfs: {ONE}:")));
    world.store.apply(asked(on(OTHER, json!({})), &token));
    world.settle(false).await.unwrap();
    assert_ne!(told(&world, &key).unwrap().1, token);
    assert!(
        text(&world, own(&world, &key)).contains(&format!("rootfs: {ONE}:")),
        "asked for long ago"
    );
    assert_eq!(world.guests().len(), before.len());
    world.check_invariants().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_not_asked_for_as_told_does_nothing() {
    let (mut world, key, token) = outdated(&[]).await;
    let before = world.guests();
    let (vmid, hash) = token.split_once('-').unwrap();
    for wrong in [
        "",
        "true",
        vmid,
        hash,
        &format!("{vmid}-0000000000"),
        &format!("{}-{hash}", own(&world, &key) + 1),
    ] {
        world.store.apply(asked(on(OTHER, json!({})), wrong));
        rounds(&world, 10).await;
        assert_eq!(world.guests(), before, "{wrong:?}");
    }
    // What was read is not what is wanted any more.
    world
        .store
        .apply(asked(on(OTHER, json!({"description": "edited"})), &token));
    world.settle(false).await.unwrap();
    assert_ne!(told(&world, &key).unwrap().1, token);
    assert_eq!(
        world.guests().keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    assert_eq!(status(&world, &key).recreated, None);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_to_stay_is_not_made_anew() {
    for (fields, reason) in [
        (json!({"deletionPolicy": "Retain"}), "Protected"),
        (json!({"protection": true}), "Protected"),
    ] {
        let mut world = World::new(&[]).await;
        let key = world.store.apply(on(ONE, fields.clone()));
        world.settle(false).await.unwrap();
        world.store.apply(on(OTHER, fields.clone()));
        world.settle(false).await.unwrap();
        let (_, token) = told(&world, &key).unwrap();
        let before = world.guests();
        world.store.apply(asked(on(OTHER, fields.clone()), &token));
        rounds(&world, 20).await;
        assert!(says(&world, &key, reason), "{}", message(&world, &key));
        assert_eq!(world.guests(), before);
        // The way back.
        world.store.apply(on(OTHER, fields));
        world.settle(false).await.unwrap();
    }
}

/// Killed anywhere, it ends with one new guest, and the retained volume in it.
#[tokio::test(start_paused = true)]
async fn a_guest_is_made_anew_wherever_the_operator_is_killed() {
    let mut n = 0;
    loop {
        let (mut world, key, token) = outdated(&[n]).await;
        let kept = volume(&world, &key, "/data");
        let guests = world.guests().len();
        world.store.apply(asked(on(OTHER, json!({})), &token));
        let _ = world.settle(false).await;
        let tripped = !world.wire.last.lock().unwrap().is_empty();
        world.restart();
        world.settle(false).await.unwrap();
        let at = world.wire.last.lock().unwrap().clone();
        assert!(
            text(&world, own(&world, &key)).contains(&format!("rootfs: {OTHER}:")),
            "{at}"
        );
        assert_eq!(volume(&world, &key, "/data"), kept, "{at}");
        assert_eq!(world.guests().len(), guests, "{at}");
        assert!(world.store.guest(&key).unwrap().is_ready());
        if !tripped {
            break;
        }
        n += 1;
    }
    assert!(n > 15, "it was killed at {n} points only");
}
