//! Graphics cards: which one a container gets, that shares never add up to more than a card has, that model servers on one
//! card start one after another, and what a person is told of the cards.

use crate::engine::{World, edit, guest, hypervisor, message, rounds, says, settled, status, text, until, vm};
use phoenix::crd::GuestStatus;
use phoenix::desired::Key;
use phoenix::simulator::Edit;
use phoenix::simulator::model::node::Node;
use phoenix::simulator::ssh::{SshAction, SshFault};
use serde_json::{Value, json};

const FIRST: &str = "0000:41:00.0";
const SECOND: &str = "0000:61:00.0";

fn node(world: &World, change: impl FnOnce(&mut Node)) {
    world
        .sim()
        .with(|state| change(state.nodes.get_mut("phoenix").unwrap()));
}

/// The entries of device nodes of a container, in the order of their numbers.
fn devices(world: &World, key: &Key) -> Vec<String> {
    let vmid = status(world, key).vmid.unwrap() as u32;
    let text = text(world, vmid);
    let lines = text.lines().filter(|line| line.starts_with("dev"));
    lines
        .filter_map(|line| Some(line.split_once(": ")?.1.to_string()))
        .collect()
}

fn cards(status: &GuestStatus) -> Vec<(&str, Option<f64>)> {
    let given = status.gpu_devices.iter().flatten();
    given.map(|gpu| (gpu.pci_address.as_str(), gpu.share)).collect()
}

/// A container that runs a model on the first card.
fn server(name: &str, share: f64) -> Value {
    let fields = json!({
        "gpus": [{"index": 0}], "features": [{"name": "vllm"}],
        "vllm": {"model": "Qwen/Qwen3-0.6B", "gpuMemoryUtilization": share},
    });
    guest(name, fields)
}

fn healthy(world: &World, key: &Key) -> bool {
    let conditions = status(world, key).conditions;
    conditions.iter().any(|c| c.type_ == "Healthy" && c.status == "True")
}

#[tokio::test(start_paused = true)]
async fn an_index_is_the_card_that_nvidia_smi_counts_so() {
    let mut world = World::with_ssh(&[]).await;
    node(&world, |node| {
        (node.gpus[0].minor, node.gpus[1].minor) = (Some(1), Some(0));
    });
    world.poll().await;
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 1}]})));
    let by = world.store.apply(guest(
        "b",
        json!({"gpus": [{"pciAddress": FIRST, "mode": "0660", "gid": 44}]}),
    ));
    settled(&mut world).await;
    assert_eq!(devices(&world, &key)[0], "/dev/nvidia0,mode=0666");
    assert_eq!(cards(&status(&world, &key)), [(SECOND, None)]);
    assert_eq!(devices(&world, &by)[0], "/dev/nvidia1,gid=44,mode=0660");
    assert_eq!(status(&world, &by).gpus.as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn a_card_stays_the_same_when_the_node_counts_otherwise_after_a_boot() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 0}]})));
    settled(&mut world).await;
    let before = devices(&world, &key);
    // The node is booted, and counts the bus the other way round, with the device nodes.
    world.sim().with(|state| state.node_crash("phoenix"));
    node(&world, |node| {
        node.gpus.reverse();
        (node.gpus[0].minor, node.gpus[1].minor) = (Some(0), Some(1));
    });
    rounds(&world, 20).await;
    settled(&mut world).await;
    let status = status(&world, &key);
    assert_eq!(cards(&status), [(FIRST, None)]);
    assert_ne!(devices(&world, &key), before, "the entries follow the card");
    assert!(
        devices(&world, &key)
            .iter()
            .any(|entry| entry.starts_with("/dev/nvidia1"))
    );
    let entries = devices(&world, &key);
    assert!(
        !entries.iter().any(|entry| entry.starts_with("/dev/nvidia0")),
        "{entries:?} {:?}",
        status.managed
    );
    let told = status.conditions.iter().find(|c| c.type_ == "GPUReordered").unwrap();
    assert!(
        told.message.starts_with("spec.gpus[0].index: 0 was GPU 0000:41:00.0"),
        "{}",
        told.message
    );
}

#[tokio::test(start_paused = true)]
async fn two_models_share_a_card_and_the_third_is_refused_with_words() {
    let mut world = World::with_ssh(&[]).await;
    world.feature("vllm", json!({}));
    let keys = ["a", "b"].map(|name| world.store.apply(server(name, 0.45)));
    settled(&mut world).await;
    let third = world.store.apply(server("c", 0.2));
    rounds(&world, 20).await;
    assert!(says(&world, &third, "GPUOvercommitted"), "{}", message(&world, &third));
    let words = message(&world, &third);
    let told = "spec.vllm.gpuMemoryUtilization: 0.20 of GPU 0000:41:00.0 (NVIDIA GeForce RTX 5060 Ti) is asked for, and 0.10 (1.6 GiB) is left: PhoenixLXC ai/a has 0.45 of it, PhoenixLXC ai/b has 0.45 of it";
    assert!(words.contains(told), "{words}");
    assert!(
        status(&world, &third)
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.status == "True")
    );
    // An edit of one that runs is refused, too, and it keeps what it had.
    world.store.apply(server("a", 0.8));
    rounds(&world, 20).await;
    assert!(
        says(&world, &keys[0], "GPUOvercommitted"),
        "{}",
        message(&world, &keys[0])
    );
    assert_eq!(cards(&status(&world, &keys[0])), [(FIRST, Some(0.45))]);
    world.store.apply(server("a", 0.45));
    // The order is the same after a restart of the operator.
    world.restart();
    rounds(&world, 20).await;
    assert!(says(&world, &third, "GPUOvercommitted"));
    // Who gives its share back makes room at once.
    let mut stopped = server("b", 0.45);
    stopped["spec"]["powerState"] = json!("Stopped");
    world.store.apply(stopped);
    settled(&mut world).await;
    assert_eq!(cards(&status(&world, &third)), [(FIRST, Some(0.2))]);
    assert!(healthy(&world, &third));
    // Started again, it has to find room like anybody else.
    world.store.apply(server("b", 0.45));
    rounds(&world, 30).await;
    assert!(
        says(&world, &keys[1], "GPUOvercommitted"),
        "{}",
        message(&world, &keys[1])
    );
    let vmid = status(&world, &keys[1]).vmid.unwrap() as u32;
    assert!(
        world.sim().with(|state| state.guests[&vmid].running.is_none()),
        "it was not started"
    );
}

#[tokio::test(start_paused = true)]
async fn shares_in_gib_and_exclusive_cards_count() {
    let mut world = World::with_ssh(&[]).await;
    let gpu = |name: &str, gpu: Value| guest(name, json!({"gpus": [gpu]}));
    let a = world.store.apply(gpu("a", json!({"index": 0, "vramGiB": 8})));
    settled(&mut world).await;
    let b = world.store.apply(gpu("b", json!({"index": 0, "vramGiB": 12})));
    let c = world.store.apply(gpu("c", json!({"index": 0, "exclusive": true})));
    let d = world.store.apply(gpu("d", json!({"count": 1, "exclusive": true})));
    rounds(&world, 30).await;
    assert!(says(&world, &b, "GPUOvercommitted"), "{}", message(&world, &b));
    assert!(
        message(&world, &b).contains("spec.gpus[0].vramGiB"),
        "{}",
        message(&world, &b)
    );
    assert!(says(&world, &c, "GPUOvercommitted"), "{}", message(&world, &c));
    assert_eq!(cards(&status(&world, &d)), [(SECOND, None)], "the free one is taken");
    assert!(
        cards(&status(&world, &a))[0]
            .1
            .is_some_and(|share| (share - 0.5).abs() < 0.01)
    );
    world.store.delete(&a);
    settled_but(&mut world, &b).await;
}

/// Until one of those that wait for a card has it.
async fn settled_but(world: &mut World, key: &Key) {
    until(world, "the card that was given back", |world| {
        !cards(&status(world, key)).is_empty() || !says(world, key, "GPUOvercommitted")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn model_servers_on_one_card_start_one_after_another() {
    let world = World::with_ssh(&[]).await;
    world.feature("vllm", json!({}));
    let keys = ["a", "b", "c"].map(|name| world.store.apply(server(name, 0.3)));
    let mut waited = false;
    for _ in 0..600 {
        world.round().await;
        world.pause().await;
        let starting: Vec<&Key> = keys.iter().filter(|key| starts(&world, key)).collect();
        assert!(starting.len() <= 1, "{starting:?} start at the same time");
        waited |= keys.iter().any(|key| says(&world, key, "GPUBusyStarting"));
        if keys.iter().all(|key| healthy(&world, key)) {
            break;
        }
    }
    assert!(
        keys.iter().all(|key| healthy(&world, key)),
        "{}",
        message(&world, &keys[2])
    );
    assert!(waited, "nobody waited for the other");
}

/// Whether the server's script ran and the server is not healthy.
fn starts(world: &World, key: &Key) -> bool {
    let status = status(world, key);
    let script = status.vllm.and_then(|script| script.state);
    script.is_some_and(|state| state != "Pending") && !healthy(world, key)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gave_up_lets_the_next_one_start() {
    let world = World::with_ssh(&[]).await;
    world.feature("vllm", json!({}));
    let fault = SshFault {
        vmid: None,
        command: "vllm".into(),
        action: SshAction::Exit {
            exit: 1,
            output: "CUDA out of memory".into(),
        },
        count: Some(40),
    };
    let first = world.store.apply(server("a", 0.3));
    until(&world, "the first server", |world| status(world, &first).vmid.is_some()).await;
    edit(&world, Edit::SshFault(fault));
    let second = world.store.apply(server("b", 0.3));
    until(&world, "the second server", |world| healthy(world, &second)).await;
}

#[tokio::test(start_paused = true)]
async fn a_card_that_fell_off_the_bus_is_told_on_whoever_uses_it() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 0}]})));
    let other = world.store.apply(guest("b", json!({"gpus": [{"index": 1}]})));
    settled(&mut world).await;
    let now = world.now().as_millisecond() as u64;
    node(&world, |node| {
        node.gpus[0].lost = true;
        node.gpus[0].xids.push((
            now,
            "79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.".into(),
        ));
    });
    // It is seen with the next look at the cards.
    world.restart();
    rounds(&world, 20).await;
    let condition = |key: &Key| {
        let conditions = status(&world, key).conditions;
        conditions.into_iter().find(|c| c.type_ == "GPUReady")
    };
    let told = condition(&key).unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("False", "GPUFault"));
    assert!(told.message.contains("Xid 79"), "{}", told.message);
    assert!(
        condition(&other).is_none_or(|c| c.reason != "GPUFault"),
        "the other card works"
    );
}

#[tokio::test(start_paused = true)]
async fn a_card_of_a_machine_is_not_given_to_a_container() {
    let mut world = World::with_ssh(&[]).await;
    lets(&world, "phoenix/0000:41:00.0=vfio");
    let machine = world
        .store
        .apply(vm("desk", json!({"machine": "q35", "pci": [{"address": FIRST}]})));
    settled(&mut world).await;
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 0}]})));
    rounds(&world, 20).await;
    assert!(says(&world, &machine, "Ready"), "{}", message(&world, &machine));
    // nvidia-smi does not count it any more: index 0 is the other card, and the first one is asked for by address.
    world.store.delete(&key);
    let key = world.store.apply(guest("b", json!({"gpus": [{"pciAddress": FIRST}]})));
    rounds(&world, 20).await;
    assert!(says(&world, &key, "GPUConflict"), "{}", message(&world, &key));
    assert!(
        message(&world, &key).contains("PhoenixVM ai/desk has it"),
        "{}",
        message(&world, &key)
    );
}

#[tokio::test(start_paused = true)]
async fn the_hypervisor_tells_its_cards_and_who_has_them() {
    let mut world = World::with_ssh(&[]).await;
    let key = world
        .store
        .apply(guest("a", json!({"gpus": [{"index": 0, "vramShare": 0.5}]})));
    settled(&mut world).await;
    world.restart();
    let outcome = world.ask_poll().await;
    let gpus = outcome.status.gpus.unwrap();
    let first = gpus.iter().find(|gpu| gpu.pci_address == FIRST).unwrap();
    assert_eq!((first.index, first.minor), (Some(0), Some(0)));
    assert_eq!(first.mode.as_deref(), Some("nvidia"));
    assert_eq!(first.driver_version.as_deref(), Some("580.76.05"));
    assert_eq!(first.memory.as_deref(), Some("16311Mi"));
    let users = first.users.clone().unwrap();
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].object, Some(key.to_string()));
    assert_eq!(users[0].share, Some(0.5));
    assert_eq!(
        outcome.status.gpu_summary.as_deref(),
        Some("2x NVIDIA GeForce RTX 5060 Ti")
    );
    hypervisor(&world, |_| ());
}

#[tokio::test(start_paused = true)]
async fn missing_device_nodes_are_made_where_the_hypervisor_says_so() {
    let mut world = World::with_ssh(&[]).await;
    node(&world, |node| node.devices.retain(|path| !path.contains("nvidia")));
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 1}]})));
    rounds(&world, 60).await;
    assert!(says(&world, &key, "GPUNodesMissing"), "{}", message(&world, &key));
    hypervisor(&world, |object| {
        object.spec.host = Some(serde_json::from_value(json!({"gpuNodes": "Ensure"})).unwrap());
    });
    settled(&mut world).await;
    let made = world
        .sim()
        .with(|state| state.nodes["phoenix"].devices.contains("/dev/nvidia1"));
    assert!(made, "the node has them");
    let outcome = world.ask_poll().await;
    assert!(
        outcome.status.conditions.iter().all(|c| c.type_ != "HostConfigured"),
        "nothing of it is left undone"
    );
}

fn lets(world: &World, what: &str) {
    hypervisor(world, |object| {
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert("phoenix-hypervisor.io/gpu-driver".into(), what.into());
    });
}

fn driver(world: &World) -> Option<String> {
    world.sim().with(|state| state.nodes["phoenix"].gpus[0].driver.clone())
}

#[tokio::test(start_paused = true)]
async fn a_card_changes_hands_only_where_the_hypervisor_says_so() {
    let mut world = World::with_ssh(&[]).await;
    lets(&world, "");
    let container = world.store.apply(guest("a", json!({"gpus": [{"index": 0}]})));
    settled(&mut world).await;
    let desk = |power: &str| {
        vm(
            "desk",
            json!({"machine": "q35", "pci": [{"address": FIRST}], "powerState": power}),
        )
    };
    let machine = world.store.apply(desk("Running"));
    rounds(&world, 30).await;
    assert!(says(&world, &machine, "GPUConflict"), "{}", message(&world, &machine));
    let words = message(&world, &machine);
    assert!(
        words.contains("spec.pci[0].address: 0000:41:00.0 is GPU") && words.contains("PhoenixLXC ai/a uses"),
        "{words}"
    );
    world.store.apply(guest("a", json!({"gpus": []})));
    rounds(&world, 60).await;
    // Nobody has it, and yet the node's driver does.
    let words = message(&world, &machine);
    assert!(
        words.contains("phoenix-hypervisor.io/gpu-driver: phoenix/0000:41:00.0=vfio"),
        "{words}"
    );
    assert_eq!(driver(&world), None);
    lets(&world, "phoenix/0000:41:00.0=vfio");
    settled(&mut world).await;
    assert_eq!(driver(&world).as_deref(), Some("vfio-pci"));
    // The way back.
    world.store.apply(guest("a", json!({"gpus": [{"pciAddress": FIRST}]})));
    rounds(&world, 30).await;
    assert!(
        says(&world, &container, "GPUConflict"),
        "{}",
        message(&world, &container)
    );
    lets(&world, "phoenix/0000:41:00.0=nvidia");
    rounds(&world, 30).await;
    assert!(
        message(&world, &container).contains("PhoenixVM ai/desk has it"),
        "{}",
        message(&world, &container)
    );
    world.store.apply(desk("Stopped"));
    let mut stopped = guest("a", json!({"gpus": [{"pciAddress": FIRST}]}));
    stopped["spec"]["powerState"] = json!("Stopped");
    world.store.apply(stopped);
    rounds(&world, 40).await;
    world.store.apply(guest("a", json!({"gpus": [{"pciAddress": FIRST}]})));
    settled(&mut world).await;
    assert_eq!(driver(&world).as_deref(), Some("nvidia"));
    world.store.apply(desk("Running"));
    rounds(&world, 30).await;
    assert!(says(&world, &machine, "GPUConflict"), "{}", message(&world, &machine));
}

#[tokio::test(start_paused = true)]
async fn an_annotation_that_cannot_be_read_is_refused() {
    let world = World::with_ssh(&[]).await;
    lets(&world, "0000:41:00.0=vfio");
    let key = world.store.apply(guest("a", json!({"gpus": [{"index": 0}]})));
    rounds(&world, 10).await;
    assert!(
        message(&world, &key).contains("is not NODE/ADDRESS=vfio or NODE/ADDRESS=nvidia"),
        "{}",
        message(&world, &key)
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_may_not_fit_is_told_before_anything_is_made_and_holds_nothing_back() {
    let mut world = World::with_ssh(&[]).await;
    world.feature("vllm", json!({}));
    let long = |tokens: u64| {
        let mut object = server("a", 0.5);
        object["spec"]["vllm"]["model"] = json!("Qwen/Qwen2.5-7B-Instruct-AWQ");
        object["spec"]["vllm"]["maxModelLen"] = json!(tokens);
        object
    };
    let key = world.store.apply(long(131_072));
    world.poll().await;
    let preview = world.preview(&key).await;
    let words = preview.warnings.join("\n");
    let told = "spec.vllm.maxModelLen: 131072 tokens of Qwen/Qwen2.5-7B-Instruct-AWQ may not fit";
    assert!(
        words.starts_with(told) && words.ends_with("is about the most that fits"),
        "{preview:?}"
    );
    assert_eq!((preview.warnings.len(), preview.blocked), (1, None));
    settled(&mut world).await;
    let warned = |world: &World| {
        let conditions = status(world, &key).conditions;
        let found = conditions.into_iter().find(|c| c.type_ == "ModelMayNotFit");
        found.map(|c| c.message)
    };
    assert_eq!(warned(&world), Some(words));
    assert!(healthy(&world, &key));
    world.store.apply(long(8192));
    settled(&mut world).await;
    assert_eq!(warned(&world), None);
    assert!(world.preview(&key).await.warnings.is_empty());
}
