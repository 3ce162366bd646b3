//! What a node lacks is told on the object that asks for it: the field, the value, the node and what to do there.

use crate::engine::{World, guest, hypervisor, message, rounds, settled, status, vm};
use k8s_openapi::api::core::v1::Secret;
use phoenix::desired::Key;
use serde_json::{Value, json};

fn without(world: &World, devices: &[&str]) {
    world.sim().with(|state| {
        let node = state.nodes.get_mut("phoenix").unwrap();
        node.devices.retain(|device| !devices.contains(&device.as_str()));
    });
}

fn gpu_ready(world: &World, key: &Key) -> (String, String) {
    let conditions = status(world, key).conditions;
    let found = conditions.into_iter().find(|c| c.type_ == "GPUReady").unwrap();
    (found.reason, found.message)
}

#[tokio::test(start_paused = true)]
async fn a_missing_device_node_has_a_reason_of_its_own_and_names_node_and_command() {
    for (gpus, devices, why, told) in [
        (
            json!([{"index": 0}]),
            ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"].as_slice(),
            "GPUNodesMissing",
            [
                "spec.gpus: node phoenix lacks /dev/nvidia-uvm, /dev/nvidia-uvm-tools",
                "nvidia-modprobe -u -c=0",
            ],
        ),
        (
            json!([{"index": 0}, {"index": 7}]),
            &[],
            "GPUNotFound",
            [
                "spec.gpus[1].index: 7: node phoenix has no such GPU: ",
                "it has GPU 0 at 0000:41:00.0 (NVIDIA GeForce RTX 5060 Ti), GPU 1 at 0000:61:00.0",
            ],
        ),
        (
            json!([{"index": 1}]),
            &["/dev/nvidia1"],
            "GPUNodesMissing",
            ["spec.gpus: node phoenix lacks /dev/nvidia1", "nvidia-modprobe -c=0"],
        ),
        (
            json!([{"index": 0}]),
            &["/dev/nvidiactl"],
            "GPUNodesMissing",
            ["spec.gpus: node phoenix lacks /dev/nvidiactl", "nvidia-modprobe"],
        ),
    ] {
        let mut world = World::with_ssh(&[]).await;
        let all = world.sim().with(|state| state.nodes["phoenix"].devices.clone());
        without(&world, devices);
        let scale = std::mem::replace(&mut world.time_scale, 1.0);
        world.restart();
        let key = world.store.apply(guest("a", json!({"gpus": gpus})));
        rounds(&world, 40).await;
        let (reason, words) = gpu_ready(&world, &key);
        assert_eq!(reason, why, "{words}");
        for part in told {
            assert!(words.contains(part), "{part}: {words}");
        }
        assert!(!words.contains("outcome is unknown"), "{words}");
        if devices.is_empty() {
            continue;
        }
        world
            .sim()
            .with(|state| state.nodes.get_mut("phoenix").unwrap().devices = all);
        world.time_scale = scale;
        world.restart();
        world.store.apply(guest("a", json!({"gpus": gpus, "cores": 3})));
        settled(&mut world).await;
        let conditions = status(&world, &key).conditions;
        let gpus = conditions.iter().find(|c| c.type_ == "GPUReady").unwrap();
        assert_eq!(gpus.reason, "NoDriverInGuest", "nothing proves it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_the_node_lacks_is_told_with_its_field() {
    let mut world = World::with_ssh(&[]).await;
    // Pauses are as long as they are, so that nothing is tried again while the test looks.
    world.time_scale = 1.0;
    world.restart();
    let key = world.store.apply(vm("a", json!({"pci": [{"mapping": "nothing"}]})));
    rounds(&world, 60).await;
    let words = message(&world, &key);
    assert!(
        words.contains("spec.pci[0].mapping: \"nothing\": ") && words.contains("node phoenix"),
        "{words}"
    );
}

fn token(world: &World, data: Value) {
    let secret = json!({"metadata": {"name": "token", "namespace": "ai"}, "stringData": data});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    world.store.objects.insert_secret(secret);
}

#[tokio::test(start_paused = true)]
async fn why_a_hypervisor_cannot_be_used_is_told_on_the_plans_of_its_objects() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", json!({})));
    for (data, reason, told) in [
        (
            json!({"tokenId": "phoenix@pve!operator"}),
            "SecretNotFound",
            "has no key \"secret\"",
        ),
        (
            json!({"tokenId": "phoenix@pve", "secret": "x"}),
            "InvalidSpec",
            "spec.credentials.tokenSecretRef: Secret ai/token: key \"tokenId\": \"phoenix@pve\" is no id",
        ),
    ] {
        token(&world, data);
        world.restart();
        hypervisor(&world, |_| {});
        world.poll().await;
        let blocked = world.preview(&key).await.blocked.unwrap();
        assert_eq!(blocked.reason.as_str(), reason);
        assert!(blocked.message.contains(told), "{blocked:?}");
    }
}
