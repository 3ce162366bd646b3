//! What an adoption changes is shown before, and what nobody named stays: devices, their owners, spellings.

use std::collections::BTreeMap;

use crate::engine::{World, edit, lxc, rounds, settled, text, vm};
use phoenix::crd::ADOPT;
use phoenix::desired::Key;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

const VMID: u32 = 500;

/// Somebody's guest that runs.
fn theirs(world: &World, is_vm: bool, options: &[(&str, &str)]) {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let storage = if is_vm { "quickOS-vm-disks" } else { "quickOS-lxc-disks" };
    edit(
        world,
        Edit::CreateGuest {
            vmid: VMID,
            node: None,
            vm: is_vm,
            options: options.collect(),
            storage: Some(storage.into()),
        },
    );
    edit(
        world,
        Edit::Power {
            vmid: VMID,
            running: true,
        },
    );
}

fn adopter(mut object: Value) -> Value {
    let spec = object["spec"].as_object_mut().unwrap();
    for made in ["rootfs", "source", "disks", "cloudInit"] {
        spec.remove(made);
    }
    object["metadata"]["annotations"] = json!({ADOPT: VMID.to_string()});
    object
}

async fn preview(world: &World, key: &Key) -> Vec<(String, String)> {
    world.poll().await;
    let preview = world.preview(key).await;
    assert_eq!(preview.blocked, None, "{preview:#?}");
    let word = |(action, impact)| (action, format!("{impact:?}"));
    preview.steps.into_iter().map(word).collect()
}

/// The actions of a preview, a line each.
fn shown(steps: &[(String, String)]) -> String {
    let actions: Vec<&str> = steps.iter().map(|(action, _)| action.as_str()).collect();
    actions.join("\n")
}

fn options(world: &World) -> BTreeMap<String, String> {
    world.guests()[&VMID].clone()
}

#[tokio::test(start_paused = true)]
async fn devices_and_owners_that_a_user_gave_stay_and_a_dropped_gpu_goes() {
    let mut world = World::with_ssh(&[]).await;
    world.sim().with(|state| {
        let node = state.nodes.get_mut("phoenix").unwrap();
        node.devices.insert("/dev/nvidia-caps/nvidia-cap1".into());
    });
    let theirs_are = [
        ("unprivileged", "1"),
        ("dev0", "/dev/nvidia0,gid=44"),
        ("dev1", "/dev/nvidiactl,gid=44,mode=0666"),
        ("dev2", "/dev/nvidia-uvm,gid=44,mode=0666"),
        ("dev4", "/dev/nvidia-modeset,gid=44"),
        ("dev5", "/dev/nvidia-caps/nvidia-cap1"),
    ];
    theirs(&world, false, &theirs_are);
    let manifest = |gpus: Value| adopter(lxc("a", json!({"gpus": gpus})));
    let key = world.store.apply(manifest(json!([{"index": 0}])));
    let steps = preview(&world, &key).await;
    let shown = shown(&steps);
    for change in [
        "dev0: \"/dev/nvidia0,gid=44\" → \"/dev/nvidia0,gid=44,mode=0666\"",
        "dev3: (none) → \"/dev/nvidia-uvm-tools,mode=0666\"",
    ] {
        assert!(shown.contains(change), "{change}: {shown}");
    }
    assert!(!shown.contains("start "), "it runs already: {shown}");
    edit(
        &world,
        Edit::Power {
            vmid: VMID,
            running: false,
        },
    );
    settled(&mut world).await;
    let now = options(&world);
    for (key, value) in &theirs_are[2..] {
        assert_eq!(now.get(*key).map(String::as_str), Some(*value), "{key}");
    }
    assert!(now["dev0"].contains("gid=44") && now["dev3"].contains("nvidia-uvm-tools"));
    // Somebody puts another GPU there.
    let by_hand = [("dev6".to_string(), Some("/dev/nvidia1,mode=0666".to_string()))];
    let by_hand = Edit::SetOptions {
        vmid: VMID,
        options: by_hand.into(),
    };
    edit(&world, by_hand);
    world.restart();
    settled(&mut world).await;
    assert!(options(&world).contains_key("dev6"), "it stays");
    world.store.apply(manifest(json!([{"index": 0}, {"index": 1}])));
    settled(&mut world).await;
    let mut power = manifest(json!([{"index": 0}]));
    power["spec"]["updatePolicy"] = json!({"restart": "Automatic"});
    world.store.apply(power);
    settled(&mut world).await;
    let now = options(&world);
    assert!(!now.contains_key("dev6"), "the spec named it and dropped it: {now:?}");
    assert!(now.contains_key("dev4") && now.contains_key("dev5"), "{now:?}");
}

#[tokio::test(start_paused = true)]
async fn every_value_that_an_adoption_changes_is_shown_and_how_hard_it_hits() {
    for is_vm in [false, true] {
        let world = World::with_ssh(&[]).await;
        theirs(
            &world,
            is_vm,
            &[
                ("cores", "1"),
                ("memory", "512"),
                ("tags", "theirs"),
                ("onboot", "1"),
                if is_vm {
                    ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0")
                } else {
                    ("unprivileged", "1")
                },
            ],
        );
        let fields = json!({"boot": {"autostart": false}, "description": "words", "tags": ["ours"], "memory": "2Gi"});
        let object = if is_vm { vm("a", fields) } else { lxc("a", fields) };
        let mut object = adopter(object);
        if is_vm {
            object["spec"]["network"] = json!([{"name": "net0", "vlan": 20}]);
        }
        let key = world.store.apply(object);
        let steps = preview(&world, &key).await;
        let shown = shown(&steps);
        for change in [
            "cores: \"1\" → \"2\"",
            "memory: \"512Mi\" → \"2Gi\"",
            "onboot: \"1\" → \"0\"",
            "tags: \"theirs\" → \"ours;phoenix\"",
            "description: ",
            "net0: ",
        ] {
            assert!(shown.contains(change), "{change}: {shown}");
        }
        assert!(!shown.contains("start "), "{shown}");
        let cores = steps.iter().find(|(action, _)| action.contains("cores: ")).unwrap();
        // A container takes cores while it runs, a machine at its next start (facts D.5, F.3).
        assert_eq!(cores.1, if is_vm { "Restart" } else { "Live" }, "{cores:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_spelling_of_an_address_tears_no_interface_down() {
    for is_vm in [false, true] {
        let mut world = World::with_ssh(&[]).await;
        let net = match is_vm {
            true => "virtio=bc:24:11:aa:bb:cc,bridge=vmbr0",
            false => "name=eth0,bridge=vmbr0,hwaddr=bc:24:11:aa:bb:cc,ip=dhcp,ip6=2001:DB8:0::5/64,type=veth",
        };
        theirs(
            &world,
            is_vm,
            &[
                ("net0", net),
                if is_vm {
                    ("ostype", "l26")
                } else {
                    ("unprivileged", "1")
                },
            ],
        );
        let interface = match is_vm {
            true => json!({"name": "net0", "mac": "bc:24:11:aa:bb:cc"}),
            false => json!({"name": "eth0", "ip": "dhcp", "ip6": "2001:db8::5/64", "mac": "bc:24:11:aa:bb:cc"}),
        };
        let fields = json!({"network": [interface]});
        let object = if is_vm { vm("a", fields) } else { lxc("a", fields) };
        world.store.apply(adopter(object));
        let before = world.sim().requests().len();
        rounds(&world, 30).await;
        if !is_vm {
            settled(&mut world).await;
        }
        let requests = world.sim().requests();
        let written = requests[before..]
            .iter()
            .filter(|r| r.is_write())
            .map(|r| format!("{r:?}"));
        let written: Vec<String> = written.filter(|r| r.contains("net0")).collect();
        assert!(written.is_empty(), "{written:#?}");
        assert!(text(&world, VMID).contains("bc:24:11:aa:bb:cc"));
    }
}
