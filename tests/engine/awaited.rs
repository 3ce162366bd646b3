//! What a spec names and does not exist is waited for: only after a grace is it a mistake. A folder may be applied in any
//! order, and Secrets may come from elsewhere.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use phoenix::desired::{Key, Objects};
use phoenix::engine::store::EventType;
use serde_json::{Value, json};

use crate::engine::{self, World, guest, lxc, message, rounds, status, template};

/// A case: fields of the guest, the reason, and what creates what is missing.
type Case = (Value, &'static str, fn(&World));

fn cases() -> Vec<Case> {
    let script = "#!/bin/sh\ntrue\n";
    let env = json!([{"name": "TOKEN", "secretKeyRef": {"name": "late", "key": "k"}}]);
    vec![
        (
            json!({"source": {"templateRef": {"name": "base"}}}),
            "TemplateNotFound",
            |world| drop(world.store.apply(template("base", "Snapshot"))),
        ),
        (json!({"features": [{"name": "late"}]}), "FeatureNotFound", |world| {
            world.feature("late", json!({}));
        }),
        (
            json!({"application": {"script": script, "environment": env}}),
            "SecretNotFound",
            |world| {
                let secret = json!({"metadata": {"name": "late", "namespace": "ai"}, "stringData": {"k": "v"}});
                world
                    .store
                    .objects
                    .insert_secret(serde_json::from_value(secret).unwrap());
            },
        ),
        (
            json!({"application": {"scriptFrom": {"name": "late", "key": "run.sh"}}}),
            "ConfigMapNotFound",
            |world| {
                let map =
                    json!({"metadata": {"name": "late", "namespace": "ai"}, "data": {"run.sh": "#!/bin/sh\ntrue\n"}});
                world
                    .store
                    .objects
                    .insert_config_map(serde_json::from_value(map).unwrap());
            },
        ),
    ]
}

/// A world in real time whose guest waits for what is missing.
async fn waiting(fields: Value) -> (World, Key) {
    let mut world = World::with_ssh(&[]).await;
    world.time_scale = 1.0;
    world.restart();
    let key = match fields.get("source") {
        Some(_) => world.store.apply(lxc("a", fields)),
        None => world.store.apply(guest("a", fields)),
    };
    rounds(&world, 5).await;
    (world, key)
}

fn stalled(world: &World, key: &Key) -> bool {
    let conditions = status(world, key).conditions;
    conditions.iter().any(|c| c.type_ == "Stalled")
}

fn warnings(world: &World) -> Vec<String> {
    let events = world.store.events.lock().unwrap();
    let warnings = events.iter().filter(|(_, e)| e.type_ == EventType::Warning);
    warnings.map(|(_, e)| format!("{}: {}", e.reason, e.message)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_waited_for_and_costs_nothing() {
    for (fields, reason, create) in cases() {
        let (mut world, key) = waiting(fields).await;
        let told = status(&world, &key);
        assert_eq!(told.phase.as_deref(), Some("Waiting"), "{told:?}");
        let ready = told.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", reason));
        assert!(message(&world, &key).contains("create it"), "{reason}");
        assert!(!stalled(&world, &key), "{reason}");
        assert!(told.missing_since.is_some());
        world.sim().clear_requests();
        let writes = world.store.status_writes.load(std::sync::atomic::Ordering::SeqCst);
        let pause = world.look_at(&key).await;
        assert!(pause.as_secs() > 200, "{reason}: it is looked at again after {pause:?}");
        assert_eq!(world.sim().requests().len(), 0, "{reason}");
        assert_eq!(
            world.store.status_writes.load(std::sync::atomic::Ordering::SeqCst),
            writes
        );
        // A change wakes the object.
        create(&world);
        world.time_scale = 5000.0;
        world.restart();
        world.settle(false).await.unwrap();
        assert_eq!(status(&world, &key).missing_since, None);
        assert_eq!(warnings(&world), [""; 0], "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_within_minutes_is_told_once_as_a_mistake() {
    for (fields, reason, _) in cases() {
        let (mut world, key) = waiting(fields).await;
        let long_ago = Time(world.now() - SignedDuration::from_secs(301));
        let update = |guest: &mut phoenix::desired::GuestObject| guest.status.missing_since = Some(long_ago.clone());
        world.store.objects.update_guest(&key, update);
        rounds(&world, 5).await;
        assert!(stalled(&world, &key), "{reason}");
        assert_eq!(status(&world, &key).phase.as_deref(), Some("Stalled"));
        assert_eq!(warnings(&world).len(), 1, "{:?}", warnings(&world));
        // A restart of the operator changes nothing, also where an earlier version did not note the time.
        world
            .store
            .objects
            .update_guest(&key, |guest| guest.status.missing_since = None);
        world.restart();
        rounds(&world, 5).await;
        assert!(stalled(&world, &key), "{reason}");
        assert_eq!(warnings(&world).len(), 1, "{:?}", warnings(&world));
        let ready = |name: &str| {
            world
                .store
                .guest(&key)
                .unwrap()
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == name)
        };
        assert!(!ready("Reconciling"));
    }
}

fn pve(world: &World) -> phoenix::crd::HypervisorStatus {
    world.store.hypervisor("ai", "pve").unwrap().status.clone().unwrap()
}

/// A Secret of the hypervisor may come later than the hypervisor, too.
#[tokio::test(start_paused = true)]
async fn a_secret_of_the_hypervisor_is_waited_for() {
    let mut world = World::new(&[]).await;
    world.time_scale = 1.0;
    world.restart();
    let token = world.store.objects.remove_secret("ai", "token").unwrap();
    let key = world.store.apply(guest("a", json!({})));
    rounds(&world, 5).await;
    let is_stalled = |world: &World| pve(world).conditions.iter().any(|c| c.type_ == "Stalled");
    assert_eq!(pve(&world).phase.as_deref(), Some("Waiting"), "{:?}", pve(&world));
    assert!(!is_stalled(&world) && !stalled(&world, &key));
    assert_eq!(status(&world, &key).phase.as_deref(), Some("Waiting"));
    // After minutes it is a mistake.
    let long_ago = Time(world.now() - SignedDuration::from_secs(301));
    engine::hypervisor(&world, |h| {
        h.status.as_mut().unwrap().missing_since = Some(long_ago.clone());
    });
    rounds(&world, 5).await;
    assert!(is_stalled(&world));
    assert_eq!(pve(&world).phase.as_deref(), Some("NotReady"));
    world.restart();
    rounds(&world, 5).await;
    assert!(is_stalled(&world));
    // And it goes on when it is there.
    world.store.objects.insert_secret((*token).clone());
    world.time_scale = 5000.0;
    world.restart();
    world.settle(false).await.unwrap();
    assert!(!is_stalled(&world) && pve(&world).missing_since.is_none());
}
