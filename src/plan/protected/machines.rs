//! Disks of machines: whose they are, and what is done to those that nobody named.

use crate::crd::VolumeStatus;

use super::*;

const ROOT: (&str, &str) = ("scsi0", "tank:vm-100-disk-0,serial=root,size=8G");
const BOOT: (&str, &str) = ("boot", "order=scsi0");

fn disks(scene: &Scene) -> (String, Planned) {
    let vm = scene.desired.vm().unwrap();
    scene.stage(|p| p.vm_disks(&scene.guest, vm))
}

fn known(name: &str, volid: &str) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        volid: Some(volid.into()),
        ..VolumeStatus::default()
    }
}

#[test]
fn a_disk_that_somebody_added_stays_theirs() {
    let theirs = ("scsi1", "tank:vm-100-disk-7,size=8G");
    let spec = "disks: [{name: root, size: 8Gi}]";
    let mut scene = Scene::machine(spec).with(&[ROOT, BOOT, theirs]);
    let (next, (_, facts)) = disks(&scene);
    assert_eq!(next, "as wanted", "it is not detached");
    let recorded = facts.volumes.clone().unwrap_or_default();
    assert!(recorded.iter().all(|v| v.name == "root"), "{recorded:?}");
    scene.status().volumes = facts.volumes;
    assert_eq!(scene.deletion(), "stuck UnaccountedVolumes");
    // What a clone has before its first start came with the template, and goes with it.
    let mut clone = Scene::machine(spec)
        .stamped(|s| s.fresh = true)
        .with(&[ROOT, BOOT, theirs]);
    clone.status().volumes = disks(&clone).1.1.volumes;
    let recorded = clone.object.status.volumes.clone().unwrap_or_default();
    let policy = |v: &VolumeStatus| {
        v.volid.as_deref() == Some("tank:vm-100-disk-7") && v.reclaim_policy.as_deref() == Some("Delete")
    };
    assert!(recorded.iter().any(policy), "{recorded:?}");
}

#[test]
fn a_disk_that_the_spec_dropped_is_detached_unless_the_machine_boots_from_it() {
    let data = ("scsi1", "tank:vm-100-disk-1,serial=data,size=8G");
    let dropped = |spec: &str| {
        let mut scene = Scene::machine(spec).with(&[ROOT, BOOT, data]);
        scene.status().volumes = Some(vec![
            known("root", "tank:vm-100-disk-0"),
            known("data", "tank:vm-100-disk-1"),
        ]);
        disks(&scene).0
    };
    assert_eq!(
        dropped("disks: [{name: root, size: 8Gi}]"),
        "PUT /nodes/pve1/qemu/100/config delete=scsi1 digest=of-the-read"
    );
    assert_eq!(dropped("disks: [{name: data, size: 8Gi}]"), "stuck InvalidSpec");
}

#[test]
fn no_disk_of_a_machine_is_asked_to_shrink() {
    let sized =
        |size: &str| disks(&Scene::machine(&format!("disks: [{{name: root, size: {size}}}]")).with(&[ROOT, BOOT])).0;
    assert!(!sized("4Gi").contains("resize"), "{}", sized("4Gi"));
    assert_eq!(
        sized("9Gi"),
        "PUT /nodes/pve1/qemu/100/resize disk=scsi0 size=9G digest=of-the-read"
    );
    assert!(sized("8704Mi").contains("size=8704M "), "{}", sized("8704Mi"));
}
