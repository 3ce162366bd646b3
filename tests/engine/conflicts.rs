//! Two guests with one address or MAC: told on both, and the later one waits.

use phoenix::crd::SHARED_ADDRESS;
use phoenix::desired::{Key, Objects};
use serde_json::{Value, json};

use crate::engine::{World, guest, message, rounds, says, status, text, vm};

const NET: &str = "10.0.0.50/24";

fn condition(world: &World, key: &Key) -> Option<String> {
    let conditions = status(world, key).conditions;
    let found = conditions.into_iter().find(|c| c.type_ == "AddressConflict");
    found.map(|c| format!("{} {}: {}", c.status, c.reason, c.message))
}

fn with_ip(name: &str, ip: &str) -> Value {
    guest(
        name,
        json!({"network": [{"name": "eth0", "ip": ip, "gateway": "10.0.0.1"}]}),
    )
}

#[tokio::test(start_paused = true)]
async fn the_later_one_waits_and_both_tell() {
    let mut world = World::new(&[]).await;
    let a = world.store.apply(with_ip("a", NET));
    world.settle(false).await.unwrap();
    let machine = json!({"agent": {"enabled": false}, "network": [{"name": "net0", "ip": NET, "gateway": "10.0.0.1"}]});
    let b = world.store.apply(vm("b", machine));
    rounds(&world, 20).await;
    assert_eq!(world.guests().len(), 1, "nothing is made for the later one");
    assert_eq!(status(&world, &b).phase.as_deref(), Some("Waiting"));
    assert!(says(&world, &b, "AddressInUse"));
    assert!(
        message(&world, &b).starts_with("waits: spec.network[net0].ip: 10.0.0.50 is also that of PhoenixLXC ai/a: "),
        "{}",
        message(&world, &b)
    );
    assert_eq!(
        status(&world, &a).phase.as_deref(),
        Some("Ready"),
        "the first one goes on"
    );
    for (key, other) in [(&a, "PhoenixVM ai/b"), (&b, "PhoenixLXC ai/a")] {
        let told = condition(&world, key).unwrap();
        assert!(told.starts_with("True AddressInUse") && told.contains(other), "{told}");
    }
    let plan = world.preview(&b).await;
    assert!(format!("{plan:?}").contains("10.0.0.50 is also that of"), "{plan:?}");
    // It costs nothing to wait.
    world.sim().clear_requests();
    for _ in 0..5 {
        world.look_at(&b).await;
    }
    assert_eq!(world.sim().requests().len(), 0, "{:?}", world.sim().requests());

    // The first one gets another address: both go on, and nothing is told any more.
    world.store.apply(with_ip("a", "10.0.0.51/24"));
    world.settle(false).await.unwrap();
    assert_eq!((condition(&world, &a), condition(&world, &b)), (None, None));
    assert_eq!(world.guests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_another_guest_has_is_not_given_to_a_running_one() {
    let mut world = World::new(&[]).await;
    // The one that changes is the elder by name.
    let b = world.store.apply(with_ip("b", NET));
    let a = world.store.apply(with_ip("a", "10.0.0.51/24"));
    world.settle(false).await.unwrap();
    let mut changed = with_ip("a", NET);
    changed["spec"]["cores"] = json!(3);
    world.store.apply(changed);
    rounds(&world, 20).await;
    let vmid = status(&world, &a).vmid.unwrap() as u32;
    let config = text(&world, vmid);
    assert!(config.contains("ip=10.0.0.51/24"), "{config}");
    assert!(config.contains("cores: 3"), "the rest takes effect: {config}");
    assert!(says(&world, &a, "AddressInUse"));
    assert_eq!(status(&world, &b).phase.as_deref(), Some("Ready"));
    // The other one is stopped by its spec: the address is free.
    let mut stopped = with_ip("b", NET);
    stopped["spec"]["powerState"] = json!("Stopped");
    world.store.apply(stopped);
    world.settle(false).await.unwrap();
    assert!(text(&world, vmid).contains("ip=10.0.0.50/24"));
    // And to start the other one again is what waits now.
    world.store.apply(with_ip("b", NET));
    rounds(&world, 20).await;
    let other = status(&world, &b).vmid.unwrap() as u32;
    assert!(world.sim().with(|state| state.guests[&other].running.is_none()));
    assert!(says(&world, &b, "AddressInUse"));
}

/// Two guests with one address, of which the later one says that it is meant.
async fn sharing() -> (World, Key, Key) {
    let mut world = World::new(&[]).await;
    let a = world.store.apply(with_ip("a", NET));
    let mut shared = with_ip("b", NET);
    shared["metadata"]["annotations"] = json!({SHARED_ADDRESS: "true"});
    let b = world.store.apply(shared);
    world.settle(false).await.unwrap();
    (world, a, b)
}

#[tokio::test(start_paused = true)]
async fn an_address_is_shared_where_the_spec_says_so() {
    let (world, a, b) = sharing().await;
    assert_eq!(world.guests().len(), 2);
    assert_eq!((condition(&world, &a), condition(&world, &b)), (None, None));
}

/// Guests that had one address before Phoenix told of it go on.
#[tokio::test(start_paused = true)]
async fn guests_that_have_one_address_already_go_on() {
    let (mut world, a, b) = sharing().await;
    world.store.apply(with_ip("b", NET));
    world.settle(false).await.unwrap();
    for key in [&a, &b] {
        assert!(condition(&world, key).is_some());
        assert!(world.store.guest(key).unwrap().is_ready(), "{:?}", status(&world, key));
    }
}
