//! What happens around a write: before it leaves, when its answer is lost, when its task fails, and after it.

use super::*;

/// A call whose answer was lost may have taken effect: what it did is looked at before anything is sent again.
#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_not_sent_again_unseen() {
    let mut world = World::new(&[]).await;
    for (method, path) in [
        ("POST", "^/nodes/phoenix/lxc$"),
        ("POST", "^/nodes/phoenix/lxc/1000/status/start$"),
    ] {
        for kind in [FaultKind::LostResponse, answered(500), answered(596)] {
            world.sim().add_fault(fault(method, path, 1, kind.clone()));
            let key = world.store.apply(guest("a", json!({})));
            world.sim().clear_requests();
            world.settle(false).await.unwrap();
            let sent: Vec<String> = writes(&world)
                .into_iter()
                .filter(|w| w.ends_with("/lxc") || w.ends_with("/start"))
                .collect();
            assert_eq!(
                sent,
                ["POST /nodes/phoenix/lxc", "POST /nodes/phoenix/lxc/1000/status/start"],
                "{path} {kind:?}"
            );
            world.store.delete(&key);
            world.settle(false).await.unwrap();
        }
    }
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    let lost = fault("PUT", "^/nodes/phoenix/lxc/1000/config$", 1, FaultKind::LostResponse);
    world.sim().add_fault(lost);
    world.sim().clear_requests();
    world.store.apply(guest("a", json!({"cores": 4})));
    world.settle(false).await.unwrap();
    assert_eq!(
        writes(&world),
        ["PUT /nodes/phoenix/lxc/1000/config"],
        "{:?}",
        status(&world, &key)
    );
    assert_eq!(world.guests()[&1000]["cores"], "4");
}

fn answered(status: u16) -> FaultKind {
    FaultKind::StatusAfter {
        status,
        message: "it took long".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_failed_is_told_and_waits_before_the_next_try() {
    let (mut world, key) = one_guest(json!({})).await;
    world.store.apply(guest("a", json!({"powerState": "Stopped"})));
    world.settle(false).await.unwrap();
    let fails = phoenix::simulator::model::state::TaskFault {
        kind: "vzstart".into(),
        id: None,
        message: "startup for container '1000' failed".into(),
        count: 1,
    };
    edit(&world, Edit::FailTasks(fails));
    world.store.apply(guest("a", json!({})));
    let mut failed = None;
    for _ in 0..200 {
        world.round().await;
        let now = status(&world, &key);
        if now.last_error.is_some() {
            failed = Some(now);
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let failed = failed.expect("nobody says that the task failed");
    assert!(
        failed.last_error.unwrap().contains("startup for container"),
        "{:?}",
        failed.message
    );
    assert!(failed.next_retry.is_some());
    world.settle(false).await.unwrap();
    let events = world.store.events.lock().unwrap();
    assert!(
        events
            .iter()
            .any(|(k, e)| *k == key && e.message.contains("startup for container")),
        "{events:?}"
    );
}

/// Deleting an object that has no finalizer takes it away at once: what its status named would be forgotten.
#[tokio::test(start_paused = true)]
async fn nothing_is_recorded_of_an_object_that_may_vanish() {
    let mut world = World::new(&[]).await;
    world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    assert_eq!(*world.store.unguarded.lock().unwrap(), Vec::<Key>::new());
}

/// What the last full look found says nothing once something was written: here the old wish comes back meanwhile.
#[tokio::test(start_paused = true)]
async fn after_a_write_the_guest_is_looked_at_again() {
    let (mut world, key) = one_guest(json!({"swap": "512Mi"})).await;
    // A guest that was started just now is looked at all the time.
    tokio::time::sleep(Duration::from_secs(120)).await;
    rounds(&world).await;
    world.sim().clear_requests();
    world.look_at(&key).await;
    let asked: Vec<String> = world.sim().requests().into_iter().map(|r| r.path).collect();
    assert_eq!(asked, Vec::<String>::new(), "it is known to be as wanted");
    let store = world.store.clone();
    let back = move || drop(store.apply(guest("a", json!({"swap": "512Mi"}))));
    *world.wire.meddle.lock().unwrap() = Some(("swap", Box::new(back)));
    world.store.apply(guest("a", json!({"swap": "1Gi"})));
    world.settle(false).await.unwrap();
    assert!(world.wire.meddle.lock().unwrap().is_none(), "nothing was written");
    assert_eq!(world.guests()[&1000]["swap"], "512", "{:?}", status(&world, &key));
}

/// Whoever comes after a crash must find in status which guest was asked for.
#[tokio::test(start_paused = true)]
async fn a_vmid_is_in_status_before_its_guest_is_asked_for() {
    let world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({})));
    let seen = std::sync::Arc::new(std::sync::Mutex::new(None));
    let (store, noted, of) = (world.store.clone(), seen.clone(), key.clone());
    let look = move || *noted.lock().unwrap() = store.guest(&of);
    *world.wire.meddle.lock().unwrap() = Some(("create container", Box::new(look)));
    for _ in 0..20 {
        world.round().await;
        if seen.lock().unwrap().is_some() {
            break;
        }
    }
    let before = seen.lock().unwrap().take().expect("nothing was created");
    assert_eq!(
        (before.status.vmid, before.status.create_sent),
        (Some(1000), Some(true))
    );
    assert!(before.finalizer);
}

/// A hash that another release wrote cannot be compared; the spec of an object that is Ready is applied all the same.
#[tokio::test(start_paused = true)]
async fn after_an_upgrade_drift_is_not_taken_for_a_changed_spec() {
    let mut world = World::new(&[]).await;
    hypervisor(&world, |h| {
        h.spec.drift_policy = Some(phoenix::crd::DriftPolicy::Report)
    });
    let key = world.store.apply(guest("a", json!({})));
    world.settle(false).await.unwrap();
    world.store.objects.update_guest(&key, |guest| {
        guest.status.applied_hash = Some("86be04f357f0".into());
    });
    let options = std::collections::BTreeMap::from([("cores".to_owned(), Some("7".to_owned()))]);
    edit(&world, Edit::SetOptions { vmid: 1000, options });
    world.restart();
    rounds(&world).await;
    assert_eq!(world.guests()[&1000]["cores"], "7");
    assert!(said(&world, &key, "ChangedOutsidePhoenix").is_some());
    // A changed spec is one.
    world.store.objects.update_guest(&key, |guest| {
        guest.status.applied_hash = Some("86be04f357f0".into());
    });
    world.store.apply(guest("a", json!({"cores": 3})));
    world.settle(false).await.unwrap();
    assert_eq!(world.guests()[&1000]["cores"], "3");
}
