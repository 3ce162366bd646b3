//! Virtual machines through the engine, against the simulator.

use std::collections::BTreeMap;

use crate::engine::{World, rounds, settled, status, text, vm, vm_template};
use phoenix::desired::Objects;
use phoenix::simulator::Edit;
use phoenix::simulator::model::state::TaskFault;
use serde_json::json;
use sha2::Digest as _;

fn requests(world: &World) -> Vec<String> {
    let log = world.sim().requests();
    let writes = log.iter().filter(|r| r.method != "GET" && !r.path.contains("/agent/"));
    writes.map(|r| format!("{} {}", r.method, r.path)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_machine_from_a_cloud_image_gets_ready() {
    let mut world = World::with_ssh(&[]).await;
    world.feature("docker", json!({"targets": ["vm"]}));
    let probe = json!({"readiness": {"exec": {"command": ["true"]}}});
    let works = json!([{"name": "works", "script": "#!/bin/sh\ntrue\n"}]);
    let fields = json!({"features": [{"name": "docker"}], "tests": works, "health": probe});
    let key = world.store.apply(vm("a", fields));
    settled(&mut world).await;
    let guest = world.guests()[&1000].clone();
    let option = |key: &str| guest.get(key).cloned().unwrap_or_default();
    assert!(
        option("scsi0").contains("serial=root") && option("scsi0").contains("size=20G"),
        "{guest:#?}"
    );
    assert_eq!((option("name").as_str(), option("ciuser").as_str()), ("a", "ops"));
    assert!(option("ipconfig0").contains("ip=10.0.0.60/24"), "{guest:#?}");
    assert!(option("ide2").contains("cloudinit"), "{guest:#?}");
    assert!(
        option("cicustom").contains("vendor=local:snippets/phoenix-1000-"),
        "{guest:#?}"
    );
    assert_eq!(option("scripts"), r#"["feature-docker 1 0", "test-works 1 0"]"#);
    assert_eq!(status(&world, &key).health.as_deref(), Some("Healthy"));
    assert_eq!(status(&world, &key).ip.as_deref(), Some("10.0.0.60"));
    // A second look at everything writes nothing.
    let before = requests(&world).len();
    world.restart();
    settled(&mut world).await;
    assert_eq!(requests(&world)[before..], Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_linked_clone_of_a_template_loses_what_it_copied() {
    let mut world = World::with_ssh(&[]).await;
    world.store.apply(vm_template("base"));
    let key = world.store.apply(vm(
        "child",
        json!({"source": {"templateRef": {"name": "base"}}, "disks": [{"name": "root", "size": "30Gi"}], "network": [{"name": "net0", "ip": "dhcp"}]}),
    ));
    settled(&mut world).await;
    let guests = world.guests();
    assert!(
        guests[&1000]["template"] == "1" && guests[&1000]["scsi0"].contains("base-1000-disk"),
        "{guests:#?}"
    );
    let child = &guests[&1001];
    assert!(
        child["scsi0"].contains("base-1000-disk") && child["scsi0"].contains("size=30G"),
        "{child:#?}"
    );
    assert!(
        !child.contains_key("protection") && !child["tags"].contains("base"),
        "{child:#?}"
    );
    assert_eq!(child["ipconfig0"], "ip=dhcp");
    assert_eq!(status(&world, &key).source.as_deref(), Some("base"));
    let cleaned = world
        .sim()
        .with(|state| state.guests[&1000].inside.scripts.contains_key("template-clean"));
    assert!(cleaned, "the template was not cleaned");
}

#[tokio::test(start_paused = true)]
async fn changes_are_live_or_wait_for_a_restart_and_nothing_shrinks() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    let grown = json!({"cpu": {"cores": 4}, "disks": [
        {"name": "data", "size": "5Gi", "bus": "virtio"}, {"name": "root", "size": "25Gi"}], "boot": {"autostart": true}});
    world.store.apply(vm("a", grown.clone()));
    settled(&mut world).await;
    let guest = world.guests()[&1000].clone();
    assert!(
        guest["scsi0"].contains("size=25G") && guest["virtio0"].contains("serial=data"),
        "{guest:#?}"
    );
    assert_eq!(guest["onboot"], "1");
    let condition = |world: &World, name: &str| {
        status(world, &key)
            .conditions
            .into_iter()
            .find(|c| c.type_ == name)
            .map(|c| c.message)
    };
    let waits = condition(&world, "RestartRequired").unwrap();
    assert!(waits.contains("cores"), "{waits}");
    let mut automatic = vm("a", grown);
    automatic["spec"]["updatePolicy"] = json!({"restart": "Automatic"});
    world.store.apply(automatic.clone());
    settled(&mut world).await;
    assert_eq!(condition(&world, "RestartRequired"), None);
    assert_eq!(world.guests()[&1000]["cores"], "4");
    // The order of the list means nothing, and a disk that is taken out is kept.
    let before = requests(&world).len();
    automatic["spec"]["disks"].as_array_mut().unwrap().reverse();
    world.store.apply(automatic.clone());
    settled(&mut world).await;
    assert_eq!(requests(&world)[before..], Vec::<String>::new());
    automatic["spec"]["disks"] = json!([{"name": "root", "size": "25Gi"}]);
    world.store.apply(automatic.clone());
    settled(&mut world).await;
    let guest = world.guests()[&1000].clone();
    assert!(
        !guest.contains_key("virtio0") && guest.contains_key("unused0"),
        "{guest:#?}"
    );
    automatic["spec"]["disks"] = json!([{"name": "root", "size": "10Gi"}]);
    world.store.apply(automatic);
    world.settle(true).await.unwrap();
    let message = status(&world, &key).message.unwrap();
    assert!(
        message.contains("disks[root].size") && message.contains("25Gi"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn deleting_takes_the_machine_its_snippet_and_nothing_else() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    let snippets = |world: &World| {
        world.sim().with(|state| {
            let names = state.storages["local"].volumes.values().flat_map(|v| v.keys());
            names.filter(|name| name.starts_with("snippets/phoenix-")).count()
        })
    };
    assert_eq!(snippets(&world), 1);
    world.store.delete(&key);
    settled(&mut world).await;
    assert!(world.guests().is_empty());
    assert_eq!(snippets(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_somebody_elses_keeps_the_machine() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    world
        .sim()
        .with(|state| {
            let options = BTreeMap::from([(
                "scsi5".to_owned(),
                Some("quickOS-vm-disks:vm-1000-disk-7,size=9G".to_owned()),
            )]);
            state.edit(phoenix::simulator::Edit::SetOptions { vmid: 1000, options })
        })
        .unwrap();
    world.store.delete(&key);
    world.settle(true).await.unwrap();
    let message = status(&world, &key).message.unwrap();
    assert!(
        message.contains("vm-1000-disk-7") && message.contains("deletionPolicy"),
        "{message}"
    );
    assert!(world.guests().contains_key(&1000));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_zfs_could_not_clone_is_refused_before_anything_is_made() {
    let mut world = World::with_ssh(&[]).await;
    let mut template = vm_template("base");
    template["spec"]["form"] = json!("Snapshot");
    let key = world.store.apply(template);
    world.settle(true).await.unwrap();
    let message = status(&world, &key).message.unwrap();
    assert!(
        message.contains("quickOS-vm-disks") && message.contains("form: Template"),
        "{message}"
    );
    assert_eq!(requests(&world), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn ten_machines_of_one_image_fetch_it_once() {
    let mut world = World::with_ssh(&[]).await;
    let image = b"a disk".to_vec();
    let digest: String = sha2::Sha256::digest(&image)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let url = "https://images.example.test/jammy-server-cloudimg-amd64.img";
    let file = json!({"op": "remote-file", "url": url, "file": {"size": image.len(), "virtual_size": 3u64 << 30, "sums": {"sha256": digest}, "os": null}});
    world.sim().edit(serde_json::from_value(file).unwrap()).unwrap();
    for n in 0..10 {
        world.store.apply(vm(
            &format!("m{n}"),
            json!({"source": {"cloudImage": {"url": url, "sha256": digest, "storage": "local"}}, "network": []}),
        ));
    }
    settled(&mut world).await;
    let downloads = requests(&world).iter().filter(|r| r.ends_with("/download-url")).count();
    assert_eq!((downloads, world.guests().len()), (1, 10));
}

#[tokio::test(start_paused = true)]
async fn secrets_reach_cloud_init_and_nothing_else() {
    const HASH: &str = "$6$rounds=4096$saltsalt$Zm9vYmFyYmF6";
    let mut world = World::with_ssh(&[]).await;
    let secret = json!({"metadata": {"name": "login", "namespace": "ai"},
        "stringData": {"hash": HASH, "keys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmC3Y0nqfXzOBnG0vPZQqYcVJq0yRr7mCqHn0yS4k5b me@desk\n"}});
    world
        .store
        .objects
        .insert_secret(serde_json::from_value(secret).unwrap());
    let init = json!({"user": "ops", "passwordHashSecretRef": {"name": "login", "key": "hash"},
        "sshKeysSecretRef": {"name": "login", "key": "keys"}});
    let key = world.store.apply(vm("a", json!({"cloudInit": init})));
    settled(&mut world).await;
    let told = format!("{:?} {:?}", status(&world, &key), world.store.events.lock().unwrap());
    assert!(!told.contains("saltsalt"), "{told}");
    let before = requests(&world).len();
    world.restart();
    settled(&mut world).await;
    assert_eq!(
        requests(&world)[before..],
        Vec::<String>::new(),
        "the hash is compared, not sent again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_user_is_written_to_the_drive_and_waits_for_a_restart() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    world.store.apply(vm("a", json!({"cloudInit": {"user": "other"}})));
    settled(&mut world).await;
    assert!(
        requests(&world)
            .iter()
            .any(|r| r.ends_with("PUT /nodes/phoenix/qemu/1000/cloudinit"))
    );
    let conditions = status(&world, &key).conditions;
    let waits = conditions
        .iter()
        .find(|c| c.type_ == "RestartRequired")
        .expect("the machine has not read it");
    assert!(waits.message.contains("cloud-init"), "{}", waits.message);
    // A restart by anybody is enough.
    for (operation, running) in [("stop", false), ("start", true)] {
        let power = json!({"op": "power", "vmid": 1000, "running": running});
        world
            .sim()
            .edit(serde_json::from_value(power).unwrap())
            .unwrap_or_else(|e| panic!("{operation}: {e:?}"));
    }
    settled(&mut world).await;
    assert!(
        !status(&world, &key)
            .conditions
            .iter()
            .any(|c| c.type_ == "RestartRequired")
    );
}

#[tokio::test(start_paused = true)]
async fn what_only_the_first_boot_brings_is_told_when_it_changes_and_an_older_stamp_says_nothing() {
    let mut world = World::with_ssh(&[]).await;
    let spec = |packages: &[&str]| vm("a", json!({"cloudInit": {"user": "ops", "packages": packages}}));
    let key = world.store.apply(spec(&["jq"]));
    settled(&mut world).await;
    let told = |world: &World| {
        let conditions = status(world, &key).conditions;
        let found = conditions.into_iter().find(|c| c.type_ == "RecreateRequired");
        found.map(|c| c.message).unwrap_or_default()
    };
    let before = requests(&world).len();
    assert_eq!(told(&world), "");
    world.store.apply(spec(&["jq", "htop"]));
    rounds(&world, 5).await;
    assert!(told(&world).starts_with("cloudInit.packages: "), "{}", told(&world));
    assert_eq!(requests(&world)[before..], [""; 0]);
    // Machines of earlier releases have no such part in their stamps.
    let part = regex::Regex::new(r" boot=\S+").unwrap();
    world.sim().with(|state| {
        let guest = state.guests.get_mut(&1000).unwrap();
        assert!(part.is_match(guest.text()), "{}", guest.text());
        let older = part.replace(guest.text(), "").into_owned();
        guest.set_text(&older);
    });
    world.restart();
    rounds(&world, 5).await;
    assert_eq!(told(&world), "");
    assert_eq!(requests(&world)[before..], [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_snippet_storage_that_is_not_there_is_told_with_its_field() {
    let world = World::with_ssh(&[]).await;
    let init = json!({"packages": ["jq"], "snippetStorage": "nowhere"});
    let key = world.store.apply(vm("a", json!({"cloudInit": init})));
    rounds(&world, 8).await;
    let words = status(&world, &key).message.unwrap_or_default();
    assert!(
        words.starts_with("spec.cloudInit.snippetStorage: node phoenix has no storage"),
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_drive_of_a_new_machine_whose_storage_is_not_there_is_told_with_its_field() {
    let world = World::with_ssh(&[]).await;
    let on = json!({"storage": "nowhere"});
    for (name, fields, field) in [
        ("a", json!({"cloudInit": on}), "cloudInit"),
        ("b", json!({"bios": "ovmf", "efiDisk": on}), "efiDisk"),
        ("c", json!({"tpm": on}), "tpm"),
    ] {
        let key = world.store.apply(vm(name, fields));
        rounds(&world, 5).await;
        let words = status(&world, &key).message.unwrap_or_default();
        let wanted = format!("spec.{field}.storage: node phoenix has no storage \"nowhere\"");
        assert!(words.starts_with(&wanted), "{words}");
    }
    assert!(
        requests(&world).iter().all(|r| !r.ends_with("/qemu")),
        "{:?}",
        requests(&world)
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_told_in_words_and_recovers() {
    let mut world = World::with_ssh(&[]).await;
    let fault = json!({"op": "agent-fault", "action": "silent"});
    world.sim().edit(serde_json::from_value(fault).unwrap()).unwrap();
    let key = world.store.apply(vm("a", json!({"agent": {"deadlineSeconds": 10}})));
    let standing = world.settle(false).await.unwrap_err();
    assert!(standing.contains("guest agent"), "{standing}");
    let ready = status(&world, &key)
        .conditions
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(ready.reason, "AgentSilent");
    assert!(ready.message.contains("qemu-guest-agent"), "{}", ready.message);
    world.sim().with(|state| state.agent.faults.clear());
    settled(&mut world).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_moved_is_followed() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    world.sim().with(|state| {
        let twin = state.nodes["phoenix"].clone();
        state.nodes.insert("other".into(), twin);
        state.guests.get_mut(&1000).unwrap().node = "other".into();
    });
    let mut hypervisor = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
    let hosts = hypervisor.spec.ssh.as_mut().unwrap().hosts.as_mut().unwrap();
    hosts.insert("other".into(), hosts["phoenix"].clone());
    world.store.objects.insert_hypervisor(hypervisor);
    let before = requests(&world).len();
    world.restart();
    settled(&mut world).await;
    assert_eq!(status(&world, &key).node.as_deref(), Some("other"));
    assert_eq!(
        requests(&world)[before..],
        Vec::<String>::new(),
        "it is followed, not fought"
    );
}

#[tokio::test(start_paused = true)]
async fn what_only_root_may_say_of_a_machine_is_set_read_back_and_taken_off() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(vm(
        "a",
        json!({
            "args": "-device vfio-pci,host=0000:02:00.0", "hugepages": "2Mi", "viommu": "intel", "machine": "q35",
            "cpu": {"cores": 2, "type": "host", "hidden": true}, "powerState": "Stopped",
            "pci": [{"address": "0000:0A:00.0", "pcie": true, "romFile": "card.rom"}],
        }),
    ));
    settled(&mut world).await;
    let guest = world.guests()[&1000].clone();
    assert_eq!(guest["args"], "-device vfio-pci,host=0000:02:00.0");
    assert_eq!(guest["hugepages"], "2");
    assert!(
        guest["machine"].contains("viommu=intel") && guest["machine"].contains("q35"),
        "{}",
        guest["machine"]
    );
    assert!(guest["cpu"].contains("hidden=1"), "{}", guest["cpu"]);
    assert!(
        guest["hostpci0"].contains("0000:0a:00.0") && guest["hostpci0"].contains("romfile=card.rom"),
        "{}",
        guest["hostpci0"]
    );
    let before = text(&world, 1000);
    world.restart();
    rounds(&world, 10).await;
    assert_eq!(text(&world, 1000), before);
    world.store.apply(vm(
        "a",
        json!({
            "machine": "q35", "cpu": {"cores": 2, "type": "host"}, "powerState": "Stopped",
            "pci": [{"address": "0a:00.0", "pcie": true}],
        }),
    ));
    settled(&mut world).await;
    let guest = world.guests()[&1000].clone();
    for option in ["args", "hugepages"] {
        assert_eq!(guest.get(option), None, "{option}");
    }
    assert!(
        guest["machine"].contains("q35") && !guest["machine"].contains("viommu"),
        "{}",
        guest["machine"]
    );
    assert!(!guest["cpu"].contains("hidden") && !guest["hostpci0"].contains("romfile"));
    assert!(world.store.guest(&key).unwrap().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_loses_its_serial_console_has_no_display_on_it() {
    let mut world = World::new(&[]).await;
    world.store.apply(vm("a", json!({"powerState": "Stopped"})));
    settled(&mut world).await;
    let options = |world: &World| world.guests().remove(&1000).unwrap();
    assert_eq!(options(&world)["vga"], "serial0");
    world
        .store
        .apply(vm("a", json!({"powerState": "Stopped", "serial": false})));
    settled(&mut world).await;
    let options = options(&world);
    assert!(
        !options.contains_key("serial0") && !options.contains_key("vga"),
        "{options:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_conversion_that_is_cut_off_leaves_no_part_behind() {
    let mut world = World::with_ssh(&[]).await;
    let fault = TaskFault {
        kind: "qmtemplate".into(),
        id: None,
        message: "command failed: exit code 1".into(),
        count: 1,
    };
    world.sim().edit(Edit::FailTasks(fault)).unwrap();
    let mut base = vm_template("base");
    (base["spec"]["vm"]["bios"], base["spec"]["vm"]["tpm"]) = (json!("ovmf"), json!({}));
    world.store.apply(base);
    settled(&mut world).await;
    let options = world.guests().remove(&1000).unwrap();
    for drive in ["scsi0", "efidisk0", "tpmstate0"] {
        assert!(options[drive].contains(":base-1000-"), "{drive}: {}", options[drive]);
    }
}
