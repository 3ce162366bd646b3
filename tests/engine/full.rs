//! A storage that is full: what does not fit is asked for again after pauses that grow, with a reason that names the
//! storage, and is made when there is room.

use std::time::Duration;

use crate::engine::{World, edit, guest, lxc, message, status, template, vm};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::{Edit, Fault, FaultKind};
use serde_json::json;

const DISKS: &str = "quickOS-lxc-disks";
const VOLUMES: &str = "fastData-shared-bulk-data";
const MACHINES: &str = "quickOS-vm-disks";

fn total(world: &World, storage: &str, total: u64) {
    let storage = storage.into();
    edit(world, Edit::StorageTotal { storage, total });
}

/// Writes of Phoenix's to Proxmox so far.
fn writes(world: &World) -> Vec<String> {
    let requests = world.sim().requests();
    let writes = requests
        .iter()
        .filter(|r| r.method != "GET" && !r.path.ends_with("/access/ticket"));
    writes.map(|r| format!("{} {}", r.method, r.path)).collect()
}

async fn until_ready(world: &World, key: &Key) {
    for _ in 0..360 {
        world.round().await;
        if world.store.guest(key).unwrap().is_ready() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    panic!("not Ready in half an hour: {}", message(world, key));
}

/// An hour of looks at everything.
async fn an_hour(world: &World) {
    let end = tokio::time::Instant::now() + Duration::from_secs(3600);
    while tokio::time::Instant::now() < end {
        world.round().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Attempts at 5, 10, 15, 25, 45, 85, 165, 325 seconds and then every five minutes: some nineteen in an hour.
const MOST: usize = 20;

/// What is asked for while `storage` is full is tried so often, told so, and done when there is room.
async fn patient(world: World, storage: &str, ask: impl FnOnce(&World) -> Key) {
    let before = writes(&world).len();
    let key = ask(&world);
    an_hour(&world).await;
    let sent = writes(&world).split_off(before);
    assert!(
        (3..=MOST).contains(&sent.len()),
        "{} writes in an hour: {sent:#?}",
        sent.len()
    );
    let told = message(&world, &key);
    let error = status(&world, &key).last_error.unwrap_or_default();
    assert!(told.contains(storage), "{told}");
    assert!(error.starts_with("StorageFull") && error.contains(storage), "{error}");
    for storage in [DISKS, VOLUMES] {
        total(&world, storage, 4 << 40);
    }
    world.sim().with(|state| state.task_faults.clear());
    until_ready(&world, &key).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_of_an_image() {
    let world = World::timed().await;
    total(&world, DISKS, 1 << 20);
    patient(world, DISKS, |world| world.store.apply(guest("a", json!({})))).await;
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_snapshot() {
    let world = World::timed().await;
    let base = world.store.apply(template("base", "Snapshot"));
    until_ready(&world, &base).await;
    total(&world, DISKS, 1 << 20);
    let source = json!({"source": {"templateRef": {"name": "base"}}});
    patient(world, DISKS, |world| world.store.apply(lxc("a", source))).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine() {
    let world = World::timed().await;
    // Blank disks take no room on the simulator's storages.
    let full = TaskFault {
        kind: "qmcreate".into(),
        id: None,
        message: "zfs error: cannot create 'quickOS/vm-disks/vm-1000-disk-0': out of space".into(),
        count: 1000,
    };
    edit(&world, Edit::FailTasks(full));
    patient(world, MACHINES, |world| world.store.apply(vm("m", json!({})))).await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_volume_of_a_new_guest() {
    let world = World::timed().await;
    total(&world, VOLUMES, 1 << 20);
    let volumes = json!([{"name": "data", "size": "5Gi", "mountPath": "/data"}]);
    patient(world, VOLUMES, |world| {
        world.store.apply(guest("a", json!({"volumes": volumes})))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn volumes_that_a_guest_gets_later() {
    for policy in ["Retain", "Delete"] {
        let world = World::timed().await;
        let key = world.store.apply(guest("a", json!({})));
        until_ready(&world, &key).await;
        total(&world, VOLUMES, 1 << 20);
        let volumes = json!([{"name": "data", "size": "5Gi", "mountPath": "/data", "reclaimPolicy": policy}]);
        patient(world, VOLUMES, |world| {
            world.store.apply(guest("a", json!({"volumes": volumes})))
        })
        .await;
    }
}

fn fail(world: &World, kind: &str) {
    if kind == "resize" {
        let message = "zfs error: cannot set property: out of space".into();
        world.sim().add_fault(Fault {
            method: Some("PUT".into()),
            path: Some("/nodes/.*/resize".into()),
            skip: 0,
            count: 1000,
            kind: FaultKind::Status { status: 500, message },
        });
    }
    let full = TaskFault {
        kind: kind.into(),
        id: None,
        message: "write failed: No space left on device".into(),
        count: 1000,
    };
    edit(world, Edit::FailTasks(full));
}

/// What grows, what is downloaded, the owner container of a volume, and the end of a template's build.
#[tokio::test(start_paused = true)]
async fn other_tasks_that_find_no_room_are_as_patient() {
    type Ask = fn(&World) -> Key;
    let cases: [(&str, &str, Option<Ask>, Ask); 5] = [
        (
            "a disk grows",
            "resize",
            Some(|world| world.store.apply(vm("a", json!({})))),
            |world| {
                world
                    .store
                    .apply(vm("a", json!({"disks": [{"name": "root", "size": "30Gi"}]})))
            },
        ),
        ("an image is downloaded", "download", None, |world| {
            world.sim().edit(image()).unwrap();
            let source = json!({"image": {"url": URL, "sha256": "a".repeat(64), "storage": IMAGES}});
            world.store.apply(lxc("a", json!({"source": source})))
        }),
        (
            "an owner is made",
            "vzcreate",
            Some(|world| world.store.apply(guest("a", json!({})))),
            |world| {
                let volumes = json!([{"name": "data", "size": "5Gi", "mountPath": "/data"}]);
                world.store.apply(guest("a", json!({"volumes": volumes})))
            },
        ),
        ("a template is sealed", "vzsnapshot", None, |world| {
            world.store.apply(template("a", "Snapshot"))
        }),
        ("a guest starts", "vzstart", None, |world| {
            world.store.apply(guest("a", json!({})))
        }),
    ];
    for (what, kind, before, ask) in cases {
        let world = World::timed().await;
        if let Some(before) = before {
            until_ready(&world, &before(&world)).await;
        }
        fail(&world, kind);
        let already = writes(&world).len();
        let key = ask(&world);
        an_hour(&world).await;
        let sent = writes(&world).split_off(already);
        // Some writes come before what fails.
        assert!(
            (3..MOST + 8).contains(&sent.len()),
            "{what}: {} writes in an hour: {sent:#?}",
            sent.len()
        );
        let error = status(&world, &key).last_error.unwrap_or_default();
        assert!(error.starts_with("StorageFull"), "{what}: {error}");
        world.sim().with(|state| state.task_faults.clear());
        world.sim().clear_faults();
        until_ready(&world, &key).await;
    }
}

const IMAGES: &str = "fastData-shared-iso";
const URL: &str = "https://mirror.example/rootfs.tar.xz";

fn image() -> Edit {
    let sums = json!({"sha256": "a".repeat(64)});
    let file = json!({"size": 1 << 20, "virtual_size": 1u64 << 30, "sums": sums,
        "os": {"ostype": "debian", "arch": "amd64", "systemd": 250, "agent": true}});
    Edit::RemoteFile {
        url: URL.into(),
        file: serde_json::from_value(file).unwrap(),
    }
}
