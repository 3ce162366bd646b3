//! GPUs are proven to work by a CUDA program in the guest, once after every start; a driver that does not fit its node's
//! module is told, and installed anew where the hypervisor says so.

use crate::engine::{World, guest, hypervisor, lxc, message, object, rounds, says, settled, status, template, until};
use phoenix::crd::DriverPolicy;
use phoenix::desired::Key;
use serde_json::{Value, json};

fn condition(world: &World, key: &Key) -> (String, String, String) {
    let conditions = status(world, key).conditions;
    let found = conditions.into_iter().find(|c| c.type_ == "GPUReady");
    found.map(|c| (c.status, c.reason, c.message)).unwrap_or_default()
}

fn told(world: &World, key: &Key) -> (String, String) {
    let (status, reason, _) = condition(world, key);
    (status, reason)
}

fn so(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

/// How often the proof was started in the object's guest.
fn proofs(world: &World, key: &Key) -> u32 {
    let vmid = status(world, key).vmid.unwrap() as u32;
    let runs = |state: &phoenix::simulator::State| state.guests[&vmid].inside.scripts.get("gpu-proof").map(|s| s.runs);
    world.sim().with(|state| runs(state)).unwrap_or_default()
}

fn with_driver(world: &World, name: &str) -> Key {
    world.feature("nvidia", json!({}));
    let fields = json!({"gpus": [{"index": 0}], "features": [{"name": "nvidia"}]});
    world.store.apply(guest(name, fields))
}

fn restart(world: &World, name: &str, value: &str) {
    let fields = json!({"gpus": [{"index": 0}], "features": [{"name": "nvidia"}]});
    let mut object = guest(name, fields);
    object["metadata"]["annotations"] = json!({phoenix::crd::RESTARTED_AT: value});
    world.store.apply(object);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_is_proven_once_after_every_start() {
    let mut world = World::with_ssh(&[]).await;
    let key = with_driver(&world, "a");
    settled(&mut world).await;
    let (status, reason, words) = condition(&world, &key);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Proven"));
    assert_eq!(
        words,
        "CUDA works on 1 GPUs (NVIDIA GeForce RTX 5060 Ti), driver 580.76.05; nvidia-smi agrees"
    );
    assert_eq!(proofs(&world, &key), 1);
    // An operator that is started anew asks the guest nothing that it has answered.
    world.restart();
    rounds(&world, 20).await;
    assert_eq!(proofs(&world, &key), 1);
    assert_eq!(told(&world, &key), so("True", "Proven"));
    restart(&world, "a", "again");
    settled(&mut world).await;
    rounds(&world, 10).await;
    assert_eq!(proofs(&world, &key), 2);
    assert_eq!(told(&world, &key), so("True", "Proven"));
    // Who gives its GPUs up has nothing to prove.
    world
        .store
        .apply(guest("a", json!({"gpus": [], "features": [{"name": "nvidia"}]})));
    settled(&mut world).await;
    assert_eq!(told(&world, &key), so("", ""));
}

#[tokio::test(start_paused = true)]
async fn without_a_driver_nothing_is_claimed_and_the_guest_is_ready() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 0}]})));
    settled(&mut world).await;
    assert_eq!(told(&world, &key), so("Unknown", "NoDriverInGuest"));
    assert!(object(&world, &key).is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_of_the_node_is_told_with_both_versions() {
    let mut world = World::with_ssh(&[]).await;
    let key = with_driver(&world, "a");
    settled(&mut world).await;
    upgrade(&world);
    restart(&world, "a", "after the upgrade");
    until(&world, "the mismatch", |world| {
        told(world, &key) == so("False", "DriverMismatch")
    })
    .await;
    assert!(!object(&world, &key).is_ready());
    let words = message(&world, &key);
    assert!(
        words.contains("driver is 580.76.05, and the node's kernel module is 590.10"),
        "{words}"
    );
    // What does not change is tried again with pauses, and given up.
    rounds(&world, 200).await;
    assert!(proofs(&world, &key) < 10, "{}", proofs(&world, &key));
    assert_eq!(told(&world, &key), so("False", "DriverMismatch"));
    // An operator that is started anew tells the same, and asks for no other proof.
    let (before, ran) = (status(&world, &key), proofs(&world, &key));
    world.restart();
    rounds(&world, 20).await;
    assert_eq!(status(&world, &key), before);
    assert_eq!(proofs(&world, &key), ran);
}

/// The node's packages are upgraded, and it is booted.
fn upgrade(world: &World) {
    world.sim().with(|state| {
        state.node_crash("phoenix");
        state.nodes.get_mut("phoenix").unwrap().nvidia_driver = Some("590.10".into());
    });
}

#[tokio::test(start_paused = true)]
async fn three_guests_are_healed_one_after_another() {
    let mut world = World::with_ssh(&[]).await;
    let keys = ["a", "b", "c"].map(|name| with_driver(&world, name));
    settled(&mut world).await;
    hypervisor(&world, |object| object.spec.driver_policy = Some(DriverPolicy::Heal));
    upgrade(&world);
    let mut installs = vec![0; keys.len()];
    for _ in 0..400 {
        world.round().await;
        let running: Vec<usize> = (0..keys.len()).filter(|n| installing(&world, &keys[*n])).collect();
        assert!(running.len() <= 1, "{running:?} install at the same time");
        running.iter().for_each(|n| installs[*n] += 1);
        world.pause().await;
        if keys
            .iter()
            .all(|key| told(&world, key) == so("True", "Proven") && runs(&world, key) == 2)
        {
            break;
        }
    }
    for key in &keys {
        assert_eq!(told(&world, key), so("True", "Proven"), "{}", message(&world, key));
        assert_eq!(runs(&world, key), 2, "the feature ran once more");
        assert!(condition(&world, key).2.contains("driver 590.10"));
    }
    settled(&mut world).await;
}

fn script<T>(world: &World, key: &Key, look: impl Fn(&phoenix::simulator::model::GuestScript, u64) -> T) -> Option<T> {
    let vmid = status(world, key).vmid? as u32;
    let found = |state: &phoenix::simulator::State| {
        let script = state.guests.get(&vmid)?.inside.scripts.get("feature-nvidia")?;
        Some(look(script, state.now))
    };
    world.sim().with(|state| found(state))
}

fn installing(world: &World, key: &Key) -> bool {
    script(world, key, |script, now| script.runs > 1 && script.ends_at > now).unwrap_or_default()
}

fn runs(world: &World, key: &Key) -> u32 {
    script(world, key, |script, _| script.runs).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn what_cuda_says_is_told_with_what_helps_and_heals_when_it_is_mended() {
    let mut world = World::with_ssh(&[]).await;
    let key = with_driver(&world, "a");
    settled(&mut world).await;
    // The module nvidia_uvm is unloaded while the container runs, and it is restarted from within.
    world.sim().with(|state| {
        let node = state.nodes.get_mut("phoenix").unwrap();
        node.gpus[0].lost = true;
    });
    restart(&world, "a", "one");
    until(&world, "the fault", |world| {
        ["CUDAFailed", "GPUFault"].contains(&told(world, &key).1.as_str())
    })
    .await;
    assert!(!object(&world, &key).is_ready());
    let words = condition(&world, &key).2;
    assert!(
        words.contains("CUDA_ERROR_NO_DEVICE") || words.contains("does not answer"),
        "{words}"
    );
    world
        .sim()
        .with(|state| state.nodes.get_mut("phoenix").unwrap().gpus[0].lost = false);
    settled(&mut world).await;
    assert!(says(&world, &key, "Proven"), "{}", message(&world, &key));
}

/// A template with the driver, and a container cloned from it that has a card and these features.
fn cloned(world: &World, features: &Value) -> Key {
    world.feature("nvidia", json!({}));
    let mut base = template("base", "Template");
    base["spec"]["lxc"]["features"] = json!([{"name": "nvidia"}]);
    world.store.apply(base);
    let fields = json!({"source": {"templateRef": {"name": "base"}}, "gpus": [{"index": 0}], "features": features});
    world.store.apply(lxc("a", fields))
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_came_with_the_template_is_told_and_healed_once_the_feature_is_named() {
    let mut world = World::with_ssh(&[]).await;
    let key = cloned(&world, &json!([]));
    settled(&mut world).await;
    assert_eq!(told(&world, &key), so("True", "Proven"));
    hypervisor(&world, |object| object.spec.driver_policy = Some(DriverPolicy::Heal));
    upgrade(&world);
    until(&world, "the mismatch", |world| {
        told(world, &key) == so("False", "DriverMismatch")
    })
    .await;
    let words = condition(&world, &key).2;
    assert!(words.contains("spec.features has no nvidia here"), "{words}");
    cloned(&world, &json!([{"name": "nvidia"}]));
    settled(&mut world).await;
    assert_eq!(told(&world, &key), so("True", "Proven"), "{}", message(&world, &key));
    assert!(condition(&world, &key).2.contains("driver 590.10"));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_git_pins_is_told_and_not_installed_once_more_in_vain() {
    let mut world = World::with_ssh(&[]).await;
    world.feature("nvidia", json!({"parameters": [{"name": "driver-version"}]}));
    let pinned = |version: &str| {
        let feature = json!({"name": "nvidia", "parameters": {"driver-version": version}});
        guest("a", json!({"gpus": [{"index": 0}], "features": [feature]}))
    };
    let key = world.store.apply(pinned("580.76.05"));
    settled(&mut world).await;
    hypervisor(&world, |object| object.spec.driver_policy = Some(DriverPolicy::Heal));
    upgrade(&world);
    until(&world, "the mismatch", |world| {
        told(world, &key) == so("False", "DriverMismatch")
    })
    .await;
    rounds(&world, 100).await;
    assert_eq!(
        runs(&world, &key),
        1,
        "the feature would refuse to install another version than the node's"
    );
    let words = condition(&world, &key).2;
    let fix = "driver-version of the feature nvidia is 580.76.05: set 590.10, or leave it out";
    assert!(words.contains(fix), "{words}");
    // The change in Git is what runs it.
    world.store.apply(pinned("590.10"));
    settled(&mut world).await;
    assert_eq!(runs(&world, &key), 2);
    assert_eq!(told(&world, &key), so("True", "Proven"), "{}", message(&world, &key));
}
