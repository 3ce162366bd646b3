//! Sizes that are no whole GiB: made, grown and told as they are.

use phoenix::crd::VolumeStatus;
use phoenix::desired::Key;
use phoenix::simulator::model::lxc_config::with_pending;
use serde_json::{Value, json};

use super::{OWNER, VMID, condition, container, disk, machine, told, volume, world};
use crate::engine::{World, rounds, status};

/// Sizes in the configuration of a guest, by option, as they are after a restart.
fn sizes(world: &World, vmid: u32) -> Vec<(String, String)> {
    let options = world.sim().with(|s| with_pending(s.guests[&vmid].config()).options);
    let size = |v: &String| Some(v.split(',').find_map(|p| p.strip_prefix("size="))?.to_owned());
    let sized = options.iter().filter(|(key, _)| *key != "ide2");
    sized.filter_map(|(k, v)| Some((k.clone(), size(v)?))).collect()
}

fn told_sizes(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn writes(world: &World) -> Vec<String> {
    let log = world.sim().requests();
    let writes = log.iter().filter(|r| r.method != "GET");
    writes.map(|r| format!("{} {}", r.method, r.path)).collect()
}

/// An engine that is new reads everything back, and has nothing to do.
async fn nothing_is_left_to_do(world: &mut World) {
    let before = writes(world).len();
    world.restart();
    world.settle(false).await.unwrap();
    rounds(world, 5).await;
    assert_eq!(writes(world)[before..], Vec::<String>::new());
}

/// What status says of a volume or disk: whole GiB, and text.
fn asked(world: &World, key: &Key, name: &str) -> (Option<i64>, Option<String>) {
    let volumes = status(world, key).volumes.unwrap_or_default();
    let of = |v: VolumeStatus| (v.name == name).then_some((v.size_gib, v.size));
    volumes.into_iter().find_map(of).unwrap()
}

fn text(size: &str) -> (Option<i64>, Option<String>) {
    (None, Some(size.into()))
}

fn three(rootfs: &str, own: &str, kept: &str, state: &str) -> Value {
    let sized = |name: &str, size: &str, policy: &str| {
        let mut volume = volume(name, &format!("/{name}"), policy);
        volume["size"] = json!(size);
        volume
    };
    let volumes = json!([sized("own", own, "Delete"), sized("kept", kept, "Retain")]);
    container(volumes, json!({"rootfs": {"size": rootfs}, "powerState": state}))
}

#[tokio::test(start_paused = true)]
async fn a_container_has_volumes_of_less_than_a_gib_and_they_grow() {
    for state in ["Running", "Stopped"] {
        let (mut world, key) = world(three("512Mi", "1536Mi", "0.5Gi", state)).await;
        let small = told_sizes(&[("mp0", "1536M"), ("mp1", "512M"), ("rootfs", "512M")]);
        assert_eq!(sizes(&world, VMID), small);
        assert_eq!(sizes(&world, OWNER), told_sizes(&[("mp0", "512M"), ("rootfs", "1G")]));
        let now = status(&world, &key);
        assert_eq!((now.rootfs_gib, now.rootfs_size.as_deref()), (None, Some("512Mi")));
        assert_eq!(asked(&world, &key, "own"), text("1536Mi"));
        assert_eq!(asked(&world, &key, "kept"), text("512Mi"));
        nothing_is_left_to_do(&mut world).await;

        world.store.apply(three("1Gi", "2000Mi", "1Gi", state));
        world.settle(false).await.unwrap();
        let grown = told_sizes(&[("mp0", "2000M"), ("mp1", "1G"), ("rootfs", "1G")]);
        assert_eq!(sizes(&world, VMID), grown);
        assert_eq!(sizes(&world, OWNER), told_sizes(&[("mp0", "1G"), ("rootfs", "1G")]));
        let now = status(&world, &key);
        assert_eq!(
            (now.rootfs_gib, now.rootfs_size),
            (Some(1), None),
            "only one of the two"
        );
        assert_eq!(asked(&world, &key, "own"), text("2000Mi"));
        assert_eq!(asked(&world, &key, "kept"), (Some(1), None));
        assert_eq!(condition(&world, &key, "RestartRequired"), None);
        nothing_is_left_to_do(&mut world).await;

        for (smaller, field, there) in [
            (
                three("1023Mi", "2000Mi", "1Gi", state),
                "spec.rootfs.size: 1023Mi",
                "1Gi",
            ),
            (
                three("1Gi", "1999Mi", "1Gi", state),
                "spec.volumes[own].size: 1999Mi",
                "2000Mi",
            ),
            (
                three("1Gi", "2000Mi", "512Mi", state),
                "spec.volumes[kept].size: 512Mi",
                "1Gi",
            ),
        ] {
            world.store.apply(smaller);
            world.settle(true).await.unwrap();
            let (reason, message) = told(&world, &key);
            assert_eq!(reason, "ShrinkRefused", "{message}");
            assert!(message.contains(field), "{message}");
            assert!(message.contains(&format!("set at least {there}")), "{message}");
            assert_eq!(sizes(&world, VMID), grown);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_has_disks_of_less_than_a_gib_and_they_grow() {
    let with = |root: &str, data: &str| machine(json!([disk("root", root), disk("data", data)]), "Stopped");
    let (mut world, key) = world(with("20481Mi", "512Mi")).await;
    assert_eq!(
        sizes(&world, VMID),
        told_sizes(&[("scsi0", "20481M"), ("scsi1", "512M")])
    );
    assert_eq!(asked(&world, &key, "root"), text("20481Mi"));
    assert_eq!(asked(&world, &key, "data"), text("512Mi"));
    nothing_is_left_to_do(&mut world).await;

    world.store.apply(with("20482Mi", "1Gi"));
    world.settle(false).await.unwrap();
    let grown = told_sizes(&[("scsi0", "20482M"), ("scsi1", "1G")]);
    assert_eq!(sizes(&world, VMID), grown);
    assert_eq!(asked(&world, &key, "data"), (Some(1), None));
    nothing_is_left_to_do(&mut world).await;

    world.store.apply(with("20482Mi", "1000Mi"));
    world.settle(true).await.unwrap();
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "ShrinkRefused");
    assert!(
        message.contains("spec.disks[data].size: 1000Mi is less than the 1Gi"),
        "{message}"
    );
    assert_eq!(sizes(&world, VMID), grown);
}
