//! Network cards of machines: their model and their queues.

use crate::engine::{self, ADMISSION, World, edit, settled, told, vm};
use phoenix::crd::ADOPT;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

const VMID: u32 = 1000;

fn net(world: &World) -> String {
    let read = |state: &phoenix::simulator::State| state.guests[&VMID].config().current.get("net0").map(str::to_owned);
    world.sim().with(|state| read(state)).unwrap_or_default()
}

fn machine(card: Value) -> Value {
    let mut entry = json!({"name": "net0", "ip": "10.0.0.60/24"});
    let fields = card.as_object().unwrap().clone();
    entry.as_object_mut().unwrap().extend(fields);
    vm("a", json!({"network": [entry]}))
}

/// `e1000=BC:…,bridge=vmbr0` as model and address.
fn card(net: &str) -> (String, String) {
    let first = net.split(',').next().unwrap_or_default();
    let (model, mac) = first.split_once('=').unwrap_or_default();
    (model.to_owned(), mac.to_owned())
}

#[tokio::test(start_paused = true)]
async fn another_card_keeps_the_address_and_dropped_queues_go() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(machine(json!({"model": "e1000"})));
    settled(&mut world).await;
    let (model, mac) = card(&net(&world));
    assert_eq!((model.as_str(), mac.len()), ("e1000", 17), "{}", net(&world));
    // The machine runs: its hotplug has the network.
    world.store.apply(machine(json!({"model": "virtio", "queues": 4})));
    let lines = world.preview(&key).await.steps;
    assert!(
        format!("{lines:?}").contains("queues=4"),
        "the plan shows the change: {lines:?}"
    );
    settled(&mut world).await;
    assert_eq!(card(&net(&world)), ("virtio".to_owned(), mac.clone()));
    assert!(net(&world).contains("queues=4"), "{}", net(&world));
    // A dropped model stays: the system inside knows the card.
    world.store.apply(machine(json!({"model": "vmxnet3"})));
    settled(&mut world).await;
    assert_eq!(card(&net(&world)), ("vmxnet3".to_owned(), mac.clone()));
    assert!(!net(&world).contains("queues"), "{}", net(&world));
    world.store.apply(machine(json!({})));
    settled(&mut world).await;
    assert_eq!(card(&net(&world)), ("vmxnet3".to_owned(), mac));
}

#[tokio::test(start_paused = true)]
async fn another_card_waits_for_a_restart_where_the_network_cannot_be_plugged() {
    let mut world = World::with_ssh(&[]).await;
    let with = |model: &str| {
        let mut object = machine(json!({"model": model}));
        object["spec"]["hotplug"] = json!(["disk"]);
        object
    };
    let key = world.store.apply(with("virtio"));
    settled(&mut world).await;
    world.store.apply(with("rtl8139"));
    settled(&mut world).await;
    let told = told(&world, &key);
    assert!(told.contains("RestartRequired") && told.contains("net0"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn the_card_of_an_adopted_machine_stays_until_the_spec_names_another() {
    let mut world = World::with_ssh(&[]).await;
    let theirs = [("net0", "rtl8139=BC:24:11:00:00:09,bridge=vmbr0")];
    let theirs = theirs.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let made = Edit::CreateGuest {
        vmid: VMID,
        node: None,
        vm: true,
        options: theirs.into_iter().collect(),
        storage: Some("quickOS-vm-disks".into()),
    };
    edit(&world, made);
    let adopter = |card: Value| {
        let mut object = machine(card);
        let spec = object["spec"].as_object_mut().unwrap();
        for made in ["source", "disks"] {
            spec.remove(made);
        }
        object["metadata"]["annotations"] = json!({ADOPT: VMID.to_string()});
        object
    };
    world.store.apply(adopter(json!({"vlan": 7})));
    settled(&mut world).await;
    assert_eq!(card(&net(&world)), ("rtl8139".into(), "BC:24:11:00:00:09".into()));
    assert!(net(&world).contains("tag=7"), "{}", net(&world));
    world.store.apply(adopter(json!({"vlan": 7, "model": "virtio"})));
    settled(&mut world).await;
    assert_eq!(card(&net(&world)), ("virtio".into(), "BC:24:11:00:00:09".into()));
}

#[tokio::test(start_paused = true)]
async fn queues_of_a_card_that_has_none_are_refused_and_the_rest_is_written() {
    let mut world = World::with_ssh(&[]).await;
    let with = |card: Value, description: &str| {
        let mut object = machine(card);
        object["spec"]["description"] = json!(description);
        object
    };
    world.store.apply(with(json!({"model": "e1000"}), "one"));
    settled(&mut world).await;
    // The model is dropped, so that the card stays.
    let key = world.store.apply(with(json!({"queues": 4, "vlan": 7}), "two"));
    world.settle(true).await.unwrap();
    let words = told(&world, &key);
    for part in [
        "Stalled InvalidSpec",
        "spec.network[net0].queues is 4",
        "e1000",
        "set model: virtio, or leave queues out",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!net(&world).contains("queues"), "{}", net(&world));
    let description = |world: &World| world.guests()[&VMID]["description"].clone();
    assert!(description(&world).starts_with("two"), "{}", description(&world));
    world
        .store
        .apply(with(json!({"queues": 4, "vlan": 7, "model": "virtio"}), "two"));
    settled(&mut world).await;
    assert!(
        net(&world).starts_with("virtio=") && net(&world).contains("queues=4"),
        "{}",
        net(&world)
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_has_no_network_card() {
    let mut world = World::with_ssh(&[]).await;
    for field in [json!({"model": "e1000"}), json!({"queues": 2})] {
        let name = field.as_object().unwrap().keys().next().unwrap().clone();
        let mut entry = json!({"name": "eth0", "ip": "dhcp"});
        entry[&name] = field[&name].clone();
        let object = engine::guest(&name, json!({"network": [entry]}));
        let refused = ADMISSION.check(&object, None).unwrap_err();
        let refused = format!("{refused:?}");
        assert!(
            refused.contains("model and queues belong to virtual machines"),
            "{refused}"
        );
        // One that was there before the rule.
        let key = world.store.apply(object);
        world.settle(true).await.unwrap();
        let told = told(&world, &key);
        let field = format!("spec.network[eth0].{name} belongs to virtual machines: leave it out");
        assert!(told.contains("InvalidSpec") && told.contains(&field), "{told}");
    }
    assert!(world.guests().is_empty());
}
