//! Volumes of containers and disks of machines through edits of the spec and of people: the same data stays, nothing
//! empty takes its place, and sizes grow in place.

mod reclaim;
mod sizes;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::{IMAGE, World, lxc, rounds, vm};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use phoenix::simulator::model::Caller;
use phoenix::simulator::model::lxc_config::Change;
use phoenix::simulator::model::storage::{Storage, StorageKind};
use phoenix::simulator::model::vm_config::VmChange;
use serde_json::{Value, json};

const VMID: u32 = 1000;
const OWNER: u32 = 9900;

fn container(volumes: Value, fields: Value) -> Value {
    let mut fields = fields;
    fields["source"] = json!({"image": {"volid": IMAGE}});
    fields["volumes"] = volumes;
    lxc("a", fields)
}

fn volume(name: &str, path: &str, policy: &str) -> Value {
    json!({"name": name, "size": "2Gi", "mountPath": path, "reclaimPolicy": policy})
}

async fn world(object: Value) -> (World, Key) {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(object);
    world.settle(false).await.unwrap();
    (world, key)
}

/// Mount points as they are after a restart: path → volume id.
fn mounts(world: &World) -> BTreeMap<String, String> {
    let section = world
        .sim()
        .with(|s| phoenix::simulator::model::lxc_config::with_pending(s.guests[&VMID].config()));
    let values = section.options.iter().filter(|(k, _)| k.starts_with("mp"));
    let part = |v: &str, key: &str| v.split(',').find_map(|p| p.strip_prefix(key).map(str::to_string));
    values
        .map(|(_, v)| (part(v, "mp=").unwrap(), v.split(',').next().unwrap().to_string()))
        .collect()
}

fn volumes_of(world: &World, vmid: u32) -> Vec<String> {
    let mark = format!("-{vmid}-disk-");
    world.sim().with(|state| {
        let all = state
            .storages
            .values()
            .flat_map(|s| s.volumes.values())
            .flat_map(|v| v.keys());
        all.filter(|name| name.contains(&mark)).cloned().collect()
    })
}

fn told(world: &World, key: &Key) -> (String, String) {
    let guest = world.store.guest(key).unwrap();
    let ready = guest.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    (ready.reason.clone(), ready.message.clone())
}

fn condition(world: &World, key: &Key, name: &str) -> Option<String> {
    let guest = world.store.guest(key).unwrap();
    let mut all = guest.status.conditions.into_iter();
    all.find(|c| c.type_ == name && c.status == "True").map(|c| c.message)
}

/// Somebody detaches a volume in the GUI.
fn detach(world: &World, key: &str) {
    world.sim().with(|state| {
        let node = state.guests[&VMID].node.clone();
        let delete = vec![key.to_owned()];
        if state.guests[&VMID].config().current.get("scsihw").is_some() || key.starts_with("scsi") {
            let change = VmChange {
                delete,
                user: "root@pam".into(),
                ..VmChange::default()
            };
            state.update_vm(&Caller::root(), &node, VMID, change).unwrap();
        } else {
            let change = Change {
                delete,
                given: true,
                ..Change::default()
            };
            state.update_ct(&Caller::root(), &node, VMID, &change).unwrap();
        }
    });
}

fn power(world: &World, running: bool) {
    world.sim().edit(Edit::Power { vmid: VMID, running }).unwrap();
}

/// Another mount path is the same volume at another place.
#[tokio::test(start_paused = true)]
async fn a_changed_mount_path_moves_the_volume() {
    for policy in ["Delete", "Retain"] {
        for running in [true, false] {
            let state = if running { "Running" } else { "Stopped" };
            let object = |path: &str| container(json!([volume("x", path, policy)]), json!({"powerState": state}));
            let (mut world, key) = world(object("/one")).await;
            let volid = mounts(&world)["/one"].clone();
            world.store.apply(object("/two"));
            world.settle(false).await.unwrap();
            assert_eq!(mounts(&world), BTreeMap::from([("/two".to_owned(), volid.clone())]));
            assert_eq!(condition(&world, &key, "RestartRequired").is_some(), running);
            power(&world, false);
            rounds(&world, 40).await;
            assert_eq!(mounts(&world), BTreeMap::from([("/two".to_owned(), volid.clone())]));
            assert!(!world.guests()[&VMID].keys().any(|k| k.starts_with("unused")));
            world.store.delete(&key);
            world.settle(false).await.unwrap();
            assert!(world.store.guest(&key).is_none());
            assert!(volumes_of(&world, VMID).is_empty());
            assert_eq!(world.guests().contains_key(&OWNER), policy == "Retain");
        }
    }
}

/// A volume is its name: two that change their paths, or their names, are not taken for each other.
#[tokio::test(start_paused = true)]
async fn volumes_that_change_places_keep_their_data() {
    for policy in ["Delete", "Retain"] {
        let object = |a: &str, b: &str| {
            let volumes = json!([volume("a", a, policy), volume("b", b, policy)]);
            container(volumes, json!({"powerState": "Stopped"}))
        };
        let (mut world, key) = world(object("/a", "/b")).await;
        let before = mounts(&world);
        world.store.apply(object("/b", "/a"));
        world.settle(false).await.unwrap();
        let after = mounts(&world);
        assert_eq!((&after["/b"], &after["/a"]), (&before["/a"], &before["/b"]));
        world.store.delete(&key);
        world.settle(false).await.unwrap();
        assert!(world.store.guest(&key).is_none());
        assert!(volumes_of(&world, VMID).is_empty());
    }
}

/// Renamed, dropped, and made anew under an old name: each volume of the guest's own stays accounted for.
#[tokio::test(start_paused = true)]
async fn a_rename_forgets_no_volume() {
    let object = |volumes: Value| container(volumes, json!({"powerState": "Stopped"}));
    let (x, y) = (volume("x", "/one", "Delete"), volume("y", "/two", "Delete"));
    let (mut world, key) = world(object(json!([x, y]))).await;
    let before = mounts(&world);
    for volumes in [
        // The first one goes out of the spec, the second one takes its name.
        json!([y]),
        json!([volume("x", "/two", "Delete")]),
        json!([volume("x", "/two", "Delete"), volume("z", "/one", "Delete")]),
        json!([volume("z", "/three", "Delete")]),
    ] {
        world.store.apply(object(volumes));
        world.settle(false).await.unwrap();
    }
    assert_eq!(volumes_of(&world, VMID).len(), 4, "root, x, y and z");
    let known: Vec<String> = world
        .store
        .guest(&key)
        .unwrap()
        .status
        .volumes
        .unwrap()
        .into_iter()
        .filter_map(|v| v.volid)
        .collect();
    assert!(before.values().all(|v| known.contains(v)), "{known:?}");
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).is_none());
    assert!(volumes_of(&world, VMID).is_empty());
}

/// What somebody detached by hand is attached again, whether that waits for a restart or not.
#[tokio::test(start_paused = true)]
async fn a_volume_detached_by_hand_is_attached_again() {
    for policy in ["Delete", "Retain"] {
        // Running; stopped; and detached while it ran, then stopped.
        for (running, stops) in [(true, false), (false, false), (true, true)] {
            let state = if running && !stops { "Running" } else { "Stopped" };
            let object = |state: &str| container(json!([volume("x", "/one", policy)]), json!({"powerState": state}));
            let (mut world, key) = world(object(if running { "Running" } else { "Stopped" })).await;
            let before = mounts(&world);
            let guests = volumes_of(&world, VMID).len();
            detach(&world, "mp0");
            if stops {
                // Without what a start would apply.
                world.sim().with(|s| s.guests.get_mut(&VMID).unwrap().running = None);
            }
            world.restart();
            world.store.apply(object(state));
            world.settle(false).await.unwrap();
            assert_eq!(mounts(&world), before, "{policy} {running} {stops}");
            assert_eq!(volumes_of(&world, VMID).len(), guests);
            world.store.delete(&key);
            world.settle(false).await.unwrap();
            assert!(world.store.guest(&key).is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_gone_is_told_of_and_not_replaced() {
    let object = |volumes: Value| container(volumes, json!({"powerState": "Stopped"}));
    let x = volume("x", "/one", "Delete");
    let (mut world, key) = world(object(json!([x]))).await;
    let volid = mounts(&world)["/one"].clone();
    detach(&world, "mp0");
    detach(&world, "unused0");
    world.restart();
    world.settle(true).await.unwrap();
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "VolumeMissing");
    assert!(
        message.contains(&volid) && message.contains("spec.volumes[x]"),
        "{message}"
    );
    assert!(mounts(&world).is_empty());
    // Taken out of the spec once, it is forgotten, and a new one can be made.
    world.store.apply(object(json!([])));
    world.settle(false).await.unwrap();
    world.store.apply(object(json!([x])));
    world.settle(false).await.unwrap();
    assert!(mounts(&world).contains_key("/one"));
}

/// A registered volume that status has recorded and no owner has is not replaced either.
#[tokio::test(start_paused = true)]
async fn a_retained_volume_that_lost_its_registration_is_told_of() {
    let object = || container(json!([volume("x", "/one", "Retain")]), json!({"powerState": "Stopped"}));
    let (mut world, key) = world(object()).await;
    let volid = mounts(&world)["/one"].clone();
    detach(&world, "mp0");
    let options = BTreeMap::from([("mp0".to_owned(), None), ("unused0".to_owned(), Some(volid.clone()))]);
    world.sim().edit(Edit::SetOptions { vmid: OWNER, options }).unwrap();
    world.restart();
    world.settle(true).await.unwrap();
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "VolumeMissing");
    assert!(message.contains(&volid) && message.contains("/lxc/ai/a/x"), "{message}");
    assert_eq!(volumes_of(&world, OWNER).len(), 2);
}

/// A volume that left the spec goes with its guest, whenever the detachment takes effect.
#[tokio::test(start_paused = true)]
async fn a_dropped_volume_is_accounted_for_at_deletion() {
    for running in [true, false] {
        let state = if running { "Running" } else { "Stopped" };
        let object = |volumes: Value| container(volumes, json!({"powerState": state}));
        let (mut world, key) = world(object(json!([volume("x", "/one", "Delete")]))).await;
        world.store.apply(object(json!([])));
        world.settle(false).await.unwrap();
        assert!(mounts(&world).is_empty());
        rounds(&world, 5).await;
        world.restart();
        rounds(&world, 5).await;
        assert_eq!(volumes_of(&world, VMID).len(), 2, "it is kept");
        world.store.delete(&key);
        world.settle(false).await.unwrap();
        assert!(world.store.guest(&key).is_none());
        assert!(volumes_of(&world, VMID).is_empty());
    }
}

/// With status lost nobody knows which of the guest's volumes is which: no empty one is made beside them.
#[tokio::test(start_paused = true)]
async fn with_status_lost_no_empty_volume_is_made() {
    let object = |path: &str| container(json!([volume("x", path, "Delete")]), json!({"powerState": "Stopped"}));
    let (mut world, key) = world(object("/one")).await;
    let before = mounts(&world);
    world.store.objects.update_guest(&key, |g| g.status.volumes = None);
    world.store.apply(object("/two"));
    world.settle(true).await.unwrap();
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "UnaccountedVolumes", "{message}");
    assert!(message.contains(&before["/one"]), "{message}");
    assert_eq!(mounts(&world), before);
    world.store.apply(object("/one"));
    world.settle(false).await.unwrap();
    assert_eq!(mounts(&world), before);
}

fn disk(name: &str, size: &str) -> Value {
    json!({"name": name, "size": size})
}

fn machine(disks: Value, state: &str) -> Value {
    vm(
        "a",
        json!({"disks": disks, "powerState": state, "agent": {"enabled": false}}),
    )
}

#[tokio::test(start_paused = true)]
async fn a_disk_detached_by_hand_is_attached_again() {
    for state in ["Running", "Stopped"] {
        let object = || machine(json!([disk("root", "20Gi"), disk("data", "5Gi")]), state);
        let (mut world, key) = world(object()).await;
        let place = |world: &World| {
            let options = world.guests()[&VMID].clone();
            let found = options.iter().find(|(_, v)| v.contains("serial=data"));
            found.map(|(k, v)| (k.clone(), v.split(',').next().unwrap().to_string()))
        };
        let (at, volid) = place(&world).unwrap();
        detach(&world, &at);
        assert!(place(&world).is_none());
        world.restart();
        world.settle(false).await.unwrap();
        assert_eq!(place(&world).unwrap().1, volid);
        // Dropped from the spec it is kept, and goes with the machine.
        world.store.apply(machine(json!([disk("root", "20Gi")]), state));
        world.settle(false).await.unwrap();
        assert!(world.guests()[&VMID].values().any(|v| *v == volid));
        world.restart();
        rounds(&world, 5).await;
        world.store.delete(&key);
        world.settle(false).await.unwrap();
        assert!(world.store.guest(&key).is_none());
        assert!(volumes_of(&world, VMID).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_gone_is_told_of_and_not_replaced() {
    let (mut world, key) = world(machine(json!([disk("root", "20Gi"), disk("data", "5Gi")]), "Stopped")).await;
    let options = world.guests()[&VMID].clone();
    let at = options
        .iter()
        .find(|(_, v)| v.contains("serial=data"))
        .unwrap()
        .0
        .clone();
    let edit = Edit::SetOptions {
        vmid: VMID,
        options: BTreeMap::from([(at, None)]),
    };
    world.sim().edit(edit).unwrap();
    world.restart();
    world.settle(true).await.unwrap();
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "VolumeMissing");
    assert!(message.contains("spec.disks[data]"), "{message}");
}

fn sized(size: &str, policy: &str, fields: Value) -> Value {
    let mut x = volume("x", "/one", policy);
    x["size"] = json!(size);
    container(json!([x]), fields)
}

/// Size of the volume on its storage, and as the two configurations tell it.
fn sizes(world: &World) -> (u64, Vec<String>) {
    let volid = mounts(world)["/one"].clone();
    let name = volid.split_once(':').unwrap().1.to_owned();
    world.sim().with(|state| {
        let mut all = state.storages.values().flat_map(|s| s.volumes.values());
        let size = all.find_map(|v| v.get(&name)).unwrap().size >> 30;
        let told = |guest: &phoenix::simulator::model::Guest| {
            let section = phoenix::simulator::model::lxc_config::with_pending(guest.config());
            let values = section
                .options
                .into_values()
                .filter(|v| v.starts_with(&volid) && v.contains("mp="));
            let size = |v: String| v.split(',').find_map(|p| p.strip_prefix("size=").map(str::to_string));
            values.filter_map(size).collect::<Vec<_>>()
        };
        (size, state.guests.values().flat_map(told).collect())
    })
}

#[tokio::test(start_paused = true)]
async fn a_volume_grows_in_place_and_never_shrinks() {
    for policy in ["Delete", "Retain"] {
        for state in ["Running", "Stopped"] {
            let fields = json!({"powerState": state});
            let (mut world, key) = world(sized("2Gi", policy, fields.clone())).await;
            let before = mounts(&world);
            world.store.apply(sized("3Gi", policy, fields.clone()));
            world.settle(false).await.unwrap();
            let (size, told_sizes) = sizes(&world);
            assert_eq!(size, 3);
            assert!(told_sizes.iter().all(|s| s == "3G"), "{told_sizes:?}");
            assert_eq!(told_sizes.len(), if policy == "Retain" { 2 } else { 1 });
            assert_eq!(mounts(&world), before);
            assert!(
                condition(&world, &key, "RestartRequired").is_none(),
                "a size needs no restart"
            );
            if policy == "Retain" {
                assert_eq!(world.guests()[&OWNER]["protection"], "1");
            }
            world.store.apply(sized("2Gi", policy, fields.clone()));
            world.settle(true).await.unwrap();
            let (reason, message) = told(&world, &key);
            assert_eq!(reason, "ShrinkRefused");
            assert!(
                message.contains("spec.volumes[x].size") && message.contains("3Gi"),
                "{message}"
            );
            world.store.apply(sized("4Gi", policy, fields));
            world.settle(false).await.unwrap();
            assert_eq!(sizes(&world).0, 4);
        }
    }
}

/// An image is not resized under a running guest.
#[tokio::test(start_paused = true)]
async fn a_retained_image_grows_only_while_its_guest_is_stopped() {
    let on_images = |size: &str, fields: Value| {
        let mut object = sized(size, "Retain", fields);
        object["spec"]["volumes"][0]["storage"] = json!("images");
        object
    };
    let mut world = World::new(&[]).await;
    world.sim().with(|state| {
        let storage = Storage::new(StorageKind::Dir, "/srv/images", &["rootdir", "images"], 100 << 30);
        state.storages.insert("images".into(), storage);
    });
    let key = world.store.apply(on_images("2Gi", json!({})));
    world.settle(false).await.unwrap();
    world.store.apply(on_images("3Gi", json!({})));
    rounds(&world, 30).await;
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "VolumeInUse");
    assert!(
        message.contains("spec.volumes[x].size") && message.contains("restartedAt"),
        "{message}"
    );
    assert_eq!(sizes(&world).0, 2);
    // Each way out.
    world
        .store
        .apply(on_images("3Gi", json!({"updatePolicy": {"restart": "Automatic"}})));
    world.settle(false).await.unwrap();
    assert_eq!(sizes(&world).0, 3);
    assert_eq!(world.guests()[&VMID]["running"], "true");
    let mut asked = on_images("4Gi", json!({}));
    asked["metadata"]["annotations"] = json!({"phoenix-hypervisor.io/restartedAt": "now"});
    world.store.apply(asked);
    world.settle(false).await.unwrap();
    assert_eq!(sizes(&world).0, 4);
    world.store.apply(on_images("5Gi", json!({"powerState": "Stopped"})));
    world.settle(false).await.unwrap();
    assert_eq!(sizes(&world).0, 5);
    assert_eq!(world.guests()[&VMID]["running"], "false");
}

/// What somebody grew is told of beside Ready, also after other edits; only a smaller wish is refused.
#[tokio::test(start_paused = true)]
async fn what_was_grown_elsewhere_is_a_finding() {
    let object = |cores: i64, rootfs: &str| {
        let fields = json!({"cores": cores, "rootfs": {"size": rootfs}, "powerState": "Stopped"});
        sized("2Gi", "Delete", fields)
    };
    let (mut world, key) = world(object(2, "8Gi")).await;
    for (disk, size) in [("rootfs", "12G"), ("mp0", "6G")] {
        world.sim().with(|state| {
            let node = state.guests[&VMID].node.clone();
            state.resize_ct(&Caller::root(), &node, VMID, disk, size, None).unwrap();
        });
        while world.sim().with(|state| !state.active.is_empty()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for cores in [2, 3] {
        world.restart();
        world.store.apply(object(cores, "8Gi"));
        world.settle(false).await.unwrap();
        let message = condition(&world, &key, "LargerThanSpec").unwrap();
        assert!(
            message.contains("spec.rootfs.size") && message.contains("12Gi"),
            "{message}"
        );
        assert!(
            message.contains("spec.volumes[x].size") && message.contains("6Gi"),
            "{message}"
        );
    }
    world.store.apply(object(3, "7Gi"));
    world.settle(true).await.unwrap();
    assert_eq!(told(&world, &key).0, "ShrinkRefused");
    world.store.apply(object(3, "12Gi"));
    world.settle(false).await.unwrap();
    assert!(!condition(&world, &key, "LargerThanSpec").unwrap().contains("rootfs"));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_was_grown_elsewhere_is_a_finding() {
    let (mut world, key) = world(machine(json!([disk("root", "20Gi")]), "Stopped")).await;
    let value = world.guests()[&VMID]["scsi0"].replace("size=20G", "size=30G");
    let options = BTreeMap::from([("scsi0".to_owned(), Some(value))]);
    world.sim().edit(Edit::SetOptions { vmid: VMID, options }).unwrap();
    world.restart();
    world.settle(false).await.unwrap();
    let message = condition(&world, &key, "LargerThanSpec").unwrap();
    assert!(
        message.contains("spec.disks[root].size") && message.contains("30Gi"),
        "{message}"
    );
}

/// Phoenix moves no data: what cannot be had without another volume is told, and everything else goes on.
#[tokio::test(start_paused = true)]
async fn another_storage_later_is_told_of() {
    let with = |name: &str, storage: Option<&str>| {
        let mut volume = volume(
            name,
            &format!("/{name}"),
            if name == "kept" { "Retain" } else { "Delete" },
        );
        if let Some(storage) = storage {
            volume["storage"] = json!(storage);
        }
        volume
    };
    let object = |storage: Option<&str>| container(json!([with("kept", storage), with("own", storage)]), json!({}));
    let (mut world, key) = world(object(None)).await;
    let before = mounts(&world);
    for storage in ["quickOS-lxc-disks", "fastData-shared-bulk-data"] {
        world.store.apply(object(Some(storage)));
        world.settle(false).await.unwrap();
        let message = condition(&world, &key, "RecreateRequired").unwrap_or_default();
        for name in ["kept", "own"] {
            let differs = storage != "fastData-shared-bulk-data";
            let told = format!("volumes[{name}].storage is \"fastData-shared-bulk-data\", wanted {storage:?}");
            assert_eq!(message.contains(&told), differs, "{message}");
        }
        assert_eq!(mounts(&world), before);
    }
}

#[tokio::test(start_paused = true)]
async fn another_storage_or_version_of_a_machines_drives_is_told_of() {
    let object = |storage: &str, version: &str| {
        let fields = json!({"bios": "ovmf", "efiDisk": {"storage": storage, "preEnrolledKeys": version == "v1.2"}, "tpm": {"storage": storage, "version": version},
            "cloudInit": {"user": "ops", "storage": storage}});
        vm("a", fields)
    };
    let (mut world, key) = world(object("quickOS-vm-disks", "v2.0")).await;
    assert_eq!(condition(&world, &key, "RecreateRequired"), None);
    world.store.apply(object("quickOS-shared-prod-data", "v1.2"));
    world.settle(false).await.unwrap();
    let message = condition(&world, &key, "RecreateRequired").unwrap();
    for field in ["efiDisk", "tpm", "cloudInit"] {
        let told = format!("{field}.storage is \"quickOS-vm-disks\", wanted \"quickOS-shared-prod-data\"");
        assert!(message.contains(&told), "{message}");
    }
    assert!(
        message.contains("efiDisk.preEnrolledKeys is \"0\", wanted \"1\""),
        "{message}"
    );
    assert!(
        message.contains("tpm.version is \"v2.0\", wanted \"v1.2\""),
        "{message}"
    );
}

/// One that Proxmox refuses keeps no other back, and nothing is started without it.
#[tokio::test(start_paused = true)]
async fn a_volume_that_is_refused_keeps_no_other_back() {
    for policy in ["Retain", "Delete"] {
        let mut full = volume("full", "/full", policy);
        full["storage"] = json!("small");
        let list = json!([full, volume("kept", "/kept", "Retain"), volume("own", "/own", "Delete")]);
        let (mut world, key) = world(container(json!([]), json!({"gpus": []}))).await;
        world.sim().with(|state| {
            let mut small = state.storages["quickOS-lxc-disks"].clone();
            small.volumes.clear();
            (small.total, small.path) = (1 << 19, "small".into());
            state.storages.insert("small".into(), small);
            state.broadcast();
        });
        let scale = std::mem::replace(&mut world.time_scale, 1.0);
        world.restart();
        let gpus = json!({"gpus": [{"index": 0}]});
        world.store.apply(container(list.clone(), gpus));
        rounds(&world, 40).await;
        let paths: Vec<String> = mounts(&world).into_keys().collect();
        assert_eq!(paths, ["/kept", "/own"], "{policy}: {:?}", told(&world, &key));
        assert!(world.guests()[&VMID].contains_key("dev0"), "{policy}");
        let (reason, message) = told(&world, &key);
        assert!(message.contains("out of space"), "{policy}: {reason} {message}");
        world
            .sim()
            .with(|state| state.storages.get_mut("small").unwrap().total = 1 << 40);
        world.time_scale = scale;
        world.restart();
        // A changed spec ends the pause.
        world
            .store
            .apply(container(list, json!({"gpus": [{"index": 0}], "cores": 3})));
        world.settle(false).await.unwrap();
        assert_eq!(mounts(&world).len(), 3, "{policy}");
        assert_eq!(
            world.guests().get(&OWNER).map(|o| o["protection"].clone()),
            Some("1".into())
        );
    }
}
