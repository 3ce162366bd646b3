//! A restart that an annotation asks for happens at least once and at most once for each value, wherever the operator is
//! killed and whatever Proxmox says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use phoenix::crd::RESTARTED_AT;
use phoenix::desired::{Key, Objects};
use phoenix::engine::{Point, Tripwire};
use phoenix::simulator::model::state::TaskFault;
use serde_json::{Value, json};

use crate::engine::{World, guest, rounds, status, vm};

/// Kills the engine at a point of the restart.
struct Cut {
    at: Point,
    dead: AtomicBool,
}

impl Tripwire for Cut {
    fn trip(&self, _: &Key, point: Point, what: &str) -> bool {
        if point == self.at && what.contains("(annotation restartedAt)") {
            self.dead.store(true, Ordering::SeqCst);
        }
        self.dead.load(Ordering::SeqCst)
    }
}

fn asked(mut object: Value, value: &str) -> Value {
    object["metadata"]["annotations"] = json!({RESTARTED_AT: value});
    object
}

/// Requests that end the guest's run.
fn ends(world: &World) -> usize {
    let requests = world.sim().requests();
    let of_these = |path: &str| {
        ["reboot", "shutdown", "stop"]
            .iter()
            .any(|end| path.ends_with(&format!("/status/{end}")))
    };
    requests
        .iter()
        .filter(|r| r.method == "POST" && of_these(&r.path))
        .count()
}

fn pid(world: &World, vmid: i64) -> i64 {
    world.sim().with(|state| {
        let guest = &state.guests[&(vmid as u32)];
        guest.running.as_ref().map_or(0, |running| running.pid.into())
    })
}

fn objects() -> [Value; 2] {
    [guest("a", json!({})), vm("a", json!({"agent": {"enabled": false}}))]
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_sent_once_wherever_the_operator_is_killed() {
    for object in objects() {
        for at in [Point::BeforeEffect, Point::AfterEffect] {
            let mut world = World::new(&[]).await;
            let key = world.store.apply(object.clone());
            world.settle(false).await.unwrap();
            let vmid = status(&world, &key).vmid.unwrap();
            let before = pid(&world, vmid);
            world.sim().clear_requests();
            let dead = AtomicBool::new(false);
            let cut = Arc::new(Cut { at, dead });
            world.replace_tripwire(cut.clone());
            world.store.apply(asked(object.clone(), "one"));
            rounds(&world, 10).await;
            assert!(cut.dead.load(Ordering::SeqCst), "{key} {at:?}");
            world.restart();
            world.settle(false).await.unwrap();
            assert_eq!(ends(&world), 1, "{key} {at:?}");
            assert_ne!(pid(&world, vmid), before, "{key} {at:?}: it was not restarted");
            assert_eq!(status(&world, &key).restart_from, None);
            world.restart();
            rounds(&world, 10).await;
            assert_eq!(ends(&world), 1, "{key} {at:?}: once a value");
            world.store.apply(asked(object.clone(), "two"));
            world.settle(false).await.unwrap();
            assert_eq!(ends(&world), 2, "{key} {at:?}: another value");
        }
    }
}

/// As long as a task works on the guest, nobody knows whether it is the restart.
#[tokio::test(start_paused = true)]
async fn a_restart_that_may_be_under_way_is_not_sent_again() {
    let mut world = World::new(&[]).await;
    let object = guest("a", json!({}));
    let key = world.store.apply(object.clone());
    world.settle(false).await.unwrap();
    let dead = AtomicBool::new(false);
    world.replace_tripwire(Arc::new(Cut {
        at: Point::AfterEffect,
        dead,
    }));
    // The restart takes its time.
    world.sim().with(|state| state.time_scale = 1.0);
    world.store.apply(asked(object, "one"));
    world.sim().clear_requests();
    rounds(&world, 10).await;
    world.restart();
    rounds(&world, 10).await;
    assert_eq!(ends(&world), 1);
    let ready = world.store.guest(&key).unwrap().is_ready();
    assert!(!ready, "the restart is not over: {:?}", status(&world, &key));
    world.sim().with(|state| state.time_scale = 5000.0);
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    world.settle(false).await.unwrap();
    assert_eq!(ends(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_failed_is_tried_again() {
    let mut world = World::new(&[]).await;
    let object = guest("a", json!({}));
    let key = world.store.apply(object.clone());
    world.settle(false).await.unwrap();
    let vmid = status(&world, &key).vmid.unwrap();
    let before = pid(&world, vmid);
    world.sim().with(|state| {
        state.task_faults.push(TaskFault {
            kind: "vzreboot".into(),
            id: None,
            message: "boom".into(),
            count: 2,
        });
    });
    world.store.apply(asked(object, "one"));
    world.settle(false).await.unwrap();
    assert_ne!(pid(&world, vmid), before);
}
