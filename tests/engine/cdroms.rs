//! CD-ROM drives of machines, and the ISO images in them.

use crate::engine::{World, edit, settled, status, told, vm, vm_template};
use phoenix::simulator::Edit;
use phoenix::simulator::model::storage::Volume;
use serde_json::{Value, json};

const VMID: u32 = 1000;

async fn world() -> World {
    let world = World::with_ssh(&[]).await;
    world.sim().with(|state| {
        let local = state.storages.get_mut("local").unwrap();
        for name in ["one.iso", "two.iso", "cloudinit.iso"] {
            let volume = Volume {
                content: "iso".into(),
                size: 100,
                format: "iso".into(),
                ..Volume::default()
            };
            local.insert("phoenix", &format!("iso/{name}"), volume);
        }
    });
    world
}

fn with(cdroms: Value) -> Value {
    vm("a", json!({"cdroms": cdroms}))
}

/// What is in force in a drive.
fn drive(world: &World, slot: &str) -> String {
    let options = &world.guests()[&VMID];
    options.get(slot).cloned().unwrap_or_default()
}

fn writes(world: &World) -> usize {
    let requests = world.sim().requests();
    let writes = requests
        .iter()
        .filter(|r| r.method != "GET" && !r.path.contains("/agent/"));
    writes.count()
}

#[tokio::test(start_paused = true)]
async fn an_image_is_put_in_changed_and_ejected_while_the_machine_runs() {
    let mut world = world().await;
    let key = world
        .store
        .apply(with(json!([{"slot": "ide0", "volid": "local:iso/one.iso"}])));
    settled(&mut world).await;
    assert!(drive(&world, "ide0").starts_with("local:iso/one.iso,media=cdrom"));
    assert!(
        !told(&world, &key).contains("RestartRequired"),
        "it was there at the first start"
    );
    let before = writes(&world);
    world.restart();
    settled(&mut world).await;
    assert_eq!(writes(&world), before, "nothing is written again");
    world
        .store
        .apply(with(json!([{"slot": "ide0", "volid": "local:iso/two.iso"}])));
    let steps = format!("{:?}", world.preview(&key).await.steps);
    assert!(steps.contains("ide0") && steps.contains("two.iso"), "{steps}");
    settled(&mut world).await;
    assert!(drive(&world, "ide0").starts_with("local:iso/two.iso,media=cdrom"));
    // The volid is dropped: ejected, and what somebody puts in then is his.
    world.store.apply(with(json!([{"slot": "ide0"}])));
    settled(&mut world).await;
    assert_eq!(drive(&world, "ide0"), "none,media=cdrom");
    let by_hand = Edit::SetOptions {
        vmid: VMID,
        options: [("ide0".to_owned(), Some("local:iso/one.iso,media=cdrom".to_owned()))].into(),
    };
    edit(&world, by_hand);
    settled(&mut world).await;
    assert!(drive(&world, "ide0").starts_with("local:iso/one.iso"));
    world.store.apply(with(json!([{"slot": "ide0", "volid": "none"}])));
    settled(&mut world).await;
    assert_eq!(drive(&world, "ide0"), "none,media=cdrom");
    assert!(!told(&world, &key).contains("RestartRequired"));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_drive_is_emptied_at_once_and_goes_with_the_next_start() {
    let mut world = world().await;
    let one = json!({"slot": "sata1", "volid": "local:iso/one.iso"});
    let key = world.store.apply(with(json!([one])));
    settled(&mut world).await;
    let mut object = vm("a", json!({}));
    world.store.apply(object.clone());
    settled(&mut world).await;
    assert_eq!(drive(&world, "sata1"), "none,media=cdrom");
    assert!(told(&world, &key).contains("RestartRequired"), "{}", told(&world, &key));
    object["spec"]["updatePolicy"] = json!({"restart": "Automatic"});
    world.store.apply(object);
    settled(&mut world).await;
    assert_eq!(drive(&world, "sata1"), "");
    assert!(
        drive(&world, "ide2").contains("cloudinit"),
        "the cloud-init drive stays"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_there_is_told_before_anything_is_made() {
    let mut world = world().await;
    let key = world
        .store
        .apply(with(json!([{"slot": "ide0", "volid": "local:iso/oone.iso"}])));
    world.settle(true).await.unwrap();
    let words = told(&world, &key);
    for part in [
        "ImageNotFound",
        "spec.cdroms[ide0].volid",
        "local:iso/oone.iso",
        "one.iso",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(world.guests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_image_is_told_and_the_rest_is_written() {
    let mut world = world().await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    let changed = |volid: &str| {
        let cdroms = json!([{"slot": "scsi5", "volid": volid}, {"slot": "scsi6", "volid": "local:iso/two.iso"}]);
        let disks = json!([{"name": "root", "size": "20Gi"}, {"name": "data", "size": "2Gi"}]);
        vm("a", json!({"cdroms": cdroms, "description": "another", "disks": disks}))
    };
    world.store.apply(changed("local:iso/oone.iso"));
    world.settle(true).await.unwrap();
    let words = told(&world, &key);
    for part in [
        "Stalled ImageNotFound",
        "spec.cdroms[scsi5].volid",
        "local:iso/oone.iso",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(drive(&world, "description").starts_with("another"));
    assert!(drive(&world, "scsi1").contains("serial=data"), "{words}");
    assert!(drive(&world, "scsi6").contains("two.iso"), "the other drive");
    assert_eq!(drive(&world, "scsi5"), "");
    world.store.apply(changed("local:iso/one.iso"));
    settled(&mut world).await;
    assert!(drive(&world, "scsi5").contains("one.iso"));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_taken_is_told_and_the_rest_is_written() {
    let mut world = world().await;
    let key = world.store.apply(vm("a", json!({})));
    settled(&mut world).await;
    // The disk `root` has no slot in its name.
    let cdroms = json!([{"slot": "scsi0", "volid": "local:iso/one.iso"}]);
    world
        .store
        .apply(vm("a", json!({"cdroms": cdroms, "description": "another"})));
    world.settle(true).await.unwrap();
    let words = told(&world, &key);
    assert!(
        words.contains("spec.cdroms[scsi0].slot: scsi0 of VM 1000 holds"),
        "{words}"
    );
    assert!(drive(&world, "description").starts_with("another"));
}

#[tokio::test(start_paused = true)]
async fn an_image_goes_with_no_machine_and_keeps_none() {
    let mut world = world().await;
    // Its name is that of a cloud-init drive's, nearly.
    let key = world
        .store
        .apply(with(json!([{"slot": "ide0", "volid": "local:iso/cloudinit.iso"}])));
    settled(&mut world).await;
    assert!(
        drive(&world, "ide2").contains("-cloudinit"),
        "{}",
        drive(&world, "ide2")
    );
    let volumes = format!("{:?}", status(&world, &key).volumes);
    assert!(!volumes.contains("iso"), "{volumes}");
    world.store.delete(&key);
    settled(&mut world).await;
    assert!(world.guests().is_empty());
    let there = world.sim().with(|state| {
        let mut volumes = state.storages["local"].volumes.values();
        volumes.any(|all| all.contains_key("iso/cloudinit.iso"))
    });
    assert!(there, "the image stays on its storage");
}

#[tokio::test(start_paused = true)]
async fn a_machine_boots_from_what_the_spec_says_and_else_as_before() {
    let mut world = world().await;
    world.store.apply(vm("a", json!({"bootOrder": ["root"]})));
    settled(&mut world).await;
    assert_eq!(drive(&world, "boot"), "order=scsi0");
    let iso = json!([{"slot": "scsi5", "volid": "local:iso/one.iso"}]);
    world
        .store
        .apply(vm("a", json!({"bootOrder": ["root"], "cdroms": iso})));
    settled(&mut world).await;
    assert!(
        drive(&world, "scsi5").contains("one.iso"),
        "a drive on scsi is plugged in"
    );
    let object = vm(
        "a",
        json!({"bootOrder": ["scsi5", "root"], "cdroms": iso, "updatePolicy": {"restart": "Automatic"}}),
    );
    world.store.apply(object);
    settled(&mut world).await;
    assert_eq!(drive(&world, "boot"), "order=scsi5;scsi0");
}

#[tokio::test(start_paused = true)]
async fn a_clone_does_not_get_the_drives_of_its_template() {
    let mut world = world().await;
    let mut base = vm_template("base");
    base["spec"]["vm"]["cdroms"] = json!([{"slot": "ide0", "volid": "local:iso/one.iso"}]);
    world.store.apply(base);
    world.store.apply(vm(
        "child",
        json!({"source": {"templateRef": {"name": "base"}}, "network": [{"name": "net0", "ip": "dhcp"}]}),
    ));
    settled(&mut world).await;
    assert!(drive(&world, "ide0").contains("one.iso"));
    assert!(
        !world.guests()[&1001].contains_key("ide0"),
        "{:#?}",
        world.guests()[&1001]
    );
    assert!(world.guests()[&1001]["ide2"].contains("cloudinit"));
}
