//! What must never happen, through the whole engine: each test holds with a protection and fails without it
//! (`tests/protections`). Where the decision is the plan's alone, its tables are in `src/plan/protected`.

mod absence;
mod namespaces;
mod registry;
mod search;
mod writes;

use phoenix::pve::Vmid;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::{self, CLUSTER, World, edit, guest, hypervisor, second_node, status, text};
use phoenix::crd::GuestStatus;
use phoenix::desired::{Identity, Key, Objects, Stamp};
use phoenix::simulator::{Edit, Fault, FaultKind};
use serde_json::{Value, json};

const DISKS: &str = "quickOS-lxc-disks";

/// One guest `a` under vmid 1000, Ready.
async fn one_guest(fields: Value) -> (World, Key) {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest("a", fields));
    world.settle(false).await.unwrap();
    assert_eq!(status(&world, &key).vmid, Some(1000));
    (world, key)
}

async fn rounds(world: &World) {
    engine::rounds(world, 30).await;
}

/// What the object's conditions with this type or reason say.
fn said(world: &World, key: &Key, what: &str) -> Option<String> {
    let conditions = status(world, key).conditions.into_iter();
    let mut fitting = conditions.filter(|c| c.type_ == what || c.reason == what);
    fitting.next().map(|c| c.message)
}

fn set(world: &World, vmid: u32, options: &[(&str, &str)]) {
    let options = options.iter().map(|(k, v)| (k.to_string(), Some(v.to_string())));
    edit(
        world,
        Edit::SetOptions {
            vmid,
            options: options.collect(),
        },
    );
}

/// Somebody makes a container, on a node where one is named.
fn somebodys(world: &World, vmid: u32, node: Option<&str>, options: &[(&str, &str)]) {
    let options: BTreeMap<String, String> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    edit(
        world,
        Edit::CreateGuest {
            vmid,
            node: node.map(str::to_string),
            vm: false,
            options,
            storage: Some(DISKS.into()),
        },
    );
}

/// Paths of the writes since the log was cleared, with their methods.
fn writes(world: &World) -> Vec<String> {
    let log = world.sim().requests();
    let writes = log.iter().filter(|r| r.is_write() && !r.path.ends_with("/ticket"));
    writes.map(|r| format!("{} {}", r.method, r.path)).collect()
}

fn fault(method: &str, path: &str, count: u32, kind: FaultKind) -> Fault {
    Fault {
        method: Some(method.into()),
        path: Some(path.into()),
        skip: 0,
        count,
        kind,
    }
}

/// The stamp of PhoenixLXC `ai/NAME` for a vmid.
fn stamp(name: &str, vmid: i64) -> Stamp {
    let identity = Identity {
        cluster: CLUSTER.into(),
        kind: "PhoenixLXC".into(),
        namespace: "ai".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
    };
    identity.stamp(Vmid::nearest(vmid))
}
