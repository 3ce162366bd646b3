//! Destroying a guest counts what Proxmox would really take: volumes in force and pending, unused ones, and those of
//! snapshots. What nobody said may go keeps the guest.

use crate::engine::{IMAGE, World, lxc, rounds, template, vm, vm_template};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::model::GuestKind;
use phoenix::simulator::model::storage::{Storage, StorageKind};
use phoenix::simulator::{Fault, FaultKind, State};
use serde_json::{Value, json};

const VMID: u32 = 1000;
/// The volume that nobody said may go.
const DATA: &str = "precious";

/// A volume of the guest's own; its id.
fn made(state: &mut State, storage: &str, name: &str) -> String {
    let node = state.guests[&VMID].node.clone();
    let format = if name.contains("subvol") { "subvol" } else { "raw" };
    state.alloc_volume(&node, storage, name, format, 2 << 30, true).unwrap()
}

fn volume_is_there(world: &World) -> bool {
    world.sim().with(|state| {
        let mut all = state
            .storages
            .values()
            .flat_map(|s| s.volumes.values())
            .flat_map(|v| v.keys());
        all.any(|name| name.contains(DATA))
    })
}

/// Where a volume can stand: words of the message, and how it gets there.
type Place = (&'static str, fn(&mut State, &str));

fn edit(state: &mut State, change: impl FnOnce(&mut phoenix::simulator::model::config::GuestConfig)) {
    state.guests.get_mut(&VMID).unwrap().edit(change);
}

const CONTAINER: &[Place] = &[
    ("mp3", |state, volid| {
        edit(state, |c| c.current.set("mp3", format!("{volid},mp=/data,size=2G")));
    }),
    ("mp3", |state, volid| {
        edit(state, |c| {
            c.current.set("mp3", format!("volume={volid},mp=/data,size=2G"));
            c.pending_delete.insert("mp3".into(), false);
        });
    }),
    ("mp3", |state, volid| {
        edit(state, |c| {
            c.pending.insert("mp3".into(), format!("{volid},mp=/data,size=2G"));
        });
    }),
    ("mp3", |state, volid| {
        edit(state, |c| {
            c.current.set("mp3", format!("{volid},mp=/data,size=2G"));
            c.pending.insert("mp3".into(), "/srv,mp=/data".into());
        });
    }),
    ("unused7", |state, volid| {
        edit(state, |c| c.current.set("unused7", volid))
    }),
    ("mp3 of snapshot before", |state, volid| {
        edit(state, |c| {
            let mut section = c.current.clone();
            section.set("mp3", format!("{volid},mp=/data,size=2G"));
            c.snapshots.insert("before".into(), section);
        });
    }),
];

const MACHINE: &[Place] = &[
    ("sata3", |state, volid| {
        edit(state, |c| c.current.set("sata3", format!("{volid},size=2G")))
    }),
    ("sata3", |state, volid| {
        edit(state, |c| {
            c.current.set("sata3", format!("file={volid},size=2G"));
            c.pending_delete.insert("sata3".into(), false);
        });
    }),
    ("sata3", |state, volid| {
        edit(state, |c| {
            c.pending.insert("sata3".into(), format!("{volid},size=2G"));
        });
    }),
    // Only after the next start would it be what the machine boots from.
    ("sata3", |state, volid| {
        edit(state, |c| {
            c.current.set("sata3", format!("{volid},size=2G"));
            c.pending.insert("boot".into(), "order=sata3".into());
        });
    }),
    // In force it is what the machine boots from, and still nobody's word.
    ("sata3", |state, volid| {
        edit(state, |c| {
            c.current.set("sata3", format!("{volid},size=2G"));
            c.current.set("boot", "order=sata3;scsi0");
        });
    }),
    ("unused7", |state, volid| {
        edit(state, |c| c.current.set("unused7", volid))
    }),
    ("virtio5 of snapshot before", |state, volid| {
        edit(state, |c| {
            let mut section = c.current.clone();
            section.set("virtio5", format!("{volid},size=2G,serial=root"));
            c.snapshots.insert("before".into(), section);
        });
    }),
];

fn object(kind: GuestKind, state: &str) -> Value {
    match kind {
        GuestKind::Lxc => lxc("a", json!({"source": {"image": {"volid": IMAGE}}, "powerState": state})),
        GuestKind::Qemu => vm(
            "a",
            json!({"powerState": state, "agent": {"enabled": false},
            "bios": "ovmf", "efiDisk": {}, "tpm": {}}),
        ),
    }
}

async fn keeps_the_guest(kind: GuestKind, state: &str, name: &str, storage: &str, (words, place): Place) {
    let mut world = match kind {
        GuestKind::Lxc => World::new(&[]).await,
        GuestKind::Qemu => World::with_ssh(&[]).await,
    };
    world.sim().with(|state| {
        let files = Storage::new(StorageKind::Dir, "/srv/files", &["rootdir", "images"], 100 << 30);
        state.storages.insert("files".into(), files);
    });
    let key = world.store.apply(object(kind, state));
    world.settle(false).await.unwrap();
    let volid = world.sim().with(|s| {
        let volid = made(s, storage, name);
        place(s, &volid);
        volid
    });
    world.store.delete(&key);
    rounds(&world, 30).await;
    let message = stalled(&world, &key, "UnaccountedVolumes");
    assert!(message.contains(&format!("{volid} as {words}")), "{message}");
    assert!(volume_is_there(&world) && world.guests().contains_key(&VMID));
    // Once it is out of the way the object goes, with all that is the guest's own.
    world.sim().with(|s| {
        edit(s, |c| {
            for section in std::iter::once(&mut c.current).chain(c.snapshots.values_mut()) {
                section.options.retain(|_, value| !value.contains(DATA));
            }
            c.pending.clear();
            c.pending_delete.clear();
            c.snapshots.clear();
        });
    });
    world.settle(false).await.unwrap();
    assert!(world.store.guest(&key).is_none() && volume_is_there(&world));
    let left: Vec<String> = world.sim().with(|s| {
        let all = s
            .storages
            .values()
            .flat_map(|s| s.volumes.values())
            .flat_map(|v| v.keys());
        all.filter(|n| n.contains("-1000-") && !n.contains(DATA))
            .cloned()
            .collect()
    });
    assert!(left.is_empty(), "{left:?}");
}

fn stalled(world: &World, key: &Key, reason: &str) -> String {
    let guest = world.store.guest(key).expect("the object is kept");
    let mut all = guest.status.conditions.into_iter();
    let found = all.find(|c| c.type_ == "Stalled" && c.status == "True");
    let found = found.unwrap_or_else(|| panic!("it is not stalled: {:?}", guest.status.message));
    assert_eq!(found.reason, reason, "{}", found.message);
    found.message
}

#[tokio::test(start_paused = true)]
async fn a_container_with_a_volume_of_nobodys_is_kept() {
    for place in CONTAINER {
        for state in ["Running", "Stopped"] {
            keeps_the_guest(
                GuestKind::Lxc,
                state,
                "subvol-1000-precious",
                "quickOS-lxc-disks",
                *place,
            )
            .await;
        }
    }
}

/// On a storage of files a volume is its guest's by the folder, whatever its name.
#[tokio::test(start_paused = true)]
async fn a_volume_is_the_guests_own_by_its_folder_too() {
    for kind in [GuestKind::Lxc, GuestKind::Qemu] {
        let place = if kind == GuestKind::Lxc {
            CONTAINER[0]
        } else {
            MACHINE[0]
        };
        keeps_the_guest(kind, "Stopped", "1000/vm-1000-precious.raw", "files", place).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_with_a_disk_of_nobodys_is_kept() {
    for place in MACHINE {
        for state in ["Running", "Stopped"] {
            keeps_the_guest(GuestKind::Qemu, state, "vm-1000-precious", "quickOS-vm-disks", *place).await;
        }
    }
}

/// What cannot be read is not counted as nothing.
#[tokio::test(start_paused = true)]
async fn a_guest_whose_sections_cannot_be_read_is_kept() {
    for (path, status) in [
        ("^/nodes/phoenix/lxc/1000/pending$", 403),
        ("^/nodes/phoenix/lxc/1000/pending$", 500),
        ("^/nodes/phoenix/lxc/1000/snapshot$", 596),
        ("^/nodes/phoenix/lxc/1000/config$", 500),
    ] {
        let mut world = World::new(&[]).await;
        let key = world.store.apply(object(GuestKind::Lxc, "Stopped"));
        world.settle(false).await.unwrap();
        world
            .sim()
            .with(|s| edit(s, |c| drop(c.snapshots.insert("before".into(), c.current.clone()))));
        world.sim().add_fault(Fault {
            method: Some("GET".into()),
            path: Some(path.into()),
            skip: u32::from(path.ends_with("config$")),
            count: 1000,
            kind: FaultKind::Status {
                status,
                message: "got timeout".into(),
            },
        });
        world.store.delete(&key);
        rounds(&world, 20).await;
        assert!(world.guests().contains_key(&VMID), "{path} {status}");
        world.sim().clear_faults();
        world.settle(false).await.unwrap();
        assert!(world.store.guest(&key).is_none());
    }
}

/// Earlier revisions of templates are destroyed by the same count.
#[tokio::test(start_paused = true)]
async fn an_old_revision_with_a_volume_of_nobodys_is_kept() {
    for (kind, place) in [
        (GuestKind::Lxc, CONTAINER[1]),
        (GuestKind::Lxc, CONTAINER[5]),
        (GuestKind::Qemu, MACHINE[0]),
        (GuestKind::Qemu, MACHINE[1]),
    ] {
        let of = |size: &str| {
            let mut object = match kind {
                GuestKind::Lxc => template("base", "Template"),
                GuestKind::Qemu => vm_template("base"),
            };
            object["spec"]["revisionHistoryLimit"] = json!(0);
            let form = if kind == GuestKind::Lxc { "lxc" } else { "vm" };
            object["spec"][form]["protection"] = json!(false);
            match kind {
                GuestKind::Lxc => object["spec"]["lxc"]["rootfs"]["size"] = json!(size),
                GuestKind::Qemu => object["spec"]["vm"]["disks"][0]["size"] = json!(size),
            }
            object
        };
        let mut world = World::with_ssh(&[]).await;
        let key = world.store.apply(of("20Gi"));
        world.settle(false).await.unwrap();
        let (storage, name) = match kind {
            GuestKind::Lxc => ("quickOS-lxc-disks", "subvol-1000-precious"),
            GuestKind::Qemu => ("quickOS-vm-disks", "vm-1000-precious"),
        };
        world.sim().with(|s| {
            let volid = made(s, storage, name);
            place.1(s, &volid);
        });
        world.store.apply(of("21Gi"));
        world.settle(false).await.unwrap();
        rounds(&world, 10).await;
        let guest = world.store.guest(&key).unwrap();
        let kept = guest
            .status
            .conditions
            .into_iter()
            .find(|c| c.type_ == "OldRevisionKept");
        let message = kept.expect("the old revision is kept").message;
        assert!(message.contains(DATA), "{message}");
        assert!(world.guests().contains_key(&VMID) && volume_is_there(&world));
    }
}
