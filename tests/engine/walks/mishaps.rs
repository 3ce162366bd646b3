//! What goes wrong between two edits.

use std::collections::BTreeMap;

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::{SshAction, SshFault};
use phoenix::simulator::{Edit, Fault, FaultKind};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::engine::World;

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Mishap {
    Nothing,
    /// The engine is replaced by one that knows nothing.
    Restart,
    /// The engine dies at this point from the edit on, and another one takes over.
    Cut(usize),
    /// A request goes wrong.
    Request(Fault),
    /// A task fails.
    Task(&'static str),
    /// A program in a guest or on a node goes wrong.
    Command(SshFault),
    /// Somebody sets an option of the guest, or takes it off.
    Option(&'static str, Option<&'static str>),
    /// Somebody starts or stops the guest.
    Power(bool),
    /// Somebody works on the guest for a while.
    Lock,
    /// Nobody polls for a while.
    Unpolled,
    /// A storage is away for a while.
    Storage(&'static str),
    /// The cluster has no quorum for a while.
    Quorum,
}

/// Options that somebody sets in the GUI, and the field of the spec that each is.
pub const GUI: &[(bool, &str, Option<&str>, &str)] = &[
    (true, "cores", Some("7"), "cores"),
    (true, "cores", None, "cores"),
    (true, "memory", Some("777"), "memory"),
    (true, "swap", Some("77"), "swap"),
    (true, "cpulimit", Some("3"), "cpuLimit"),
    (true, "onboot", Some("1"), "boot.autostart"),
    (true, "tags", Some("mine"), "tags"),
    (true, "hostname", Some("theirs"), "hostname"),
    (true, "nameserver", Some("9.9.9.9"), "dns.nameservers"),
    (true, "protection", Some("1"), "protection"),
    (false, "cores", Some("7"), "cpu.cores"),
    (false, "memory", Some("7776"), "memory"),
    (false, "sockets", Some("3"), "cpu.sockets"),
    (false, "onboot", Some("1"), "boot.autostart"),
    (false, "tags", Some("mine"), "tags"),
    (false, "name", Some("theirs"), "hostname"),
    (false, "nameserver", Some("9.9.9.9"), "dns.nameservers"),
    (false, "protection", Some("1"), "protection"),
];

const TASKS: [&[&str]; 2] = [
    &[
        "qmstart",
        "qmshutdown",
        "qmreboot",
        "qmconfig",
        "resize",
        "qmstop",
        "qmcreate",
        "qmtemplate",
    ],
    &[
        "vzstart",
        "vzshutdown",
        "vzreboot",
        "resize",
        "vzstop",
        "vzcreate",
        "vzclone",
        "vztemplate",
    ],
];

pub fn mishap(rng: &mut StdRng, container: bool) -> Mishap {
    match rng.random_range(0..20) {
        0..5 => Mishap::Nothing,
        5 => Mishap::Restart,
        6..8 => Mishap::Cut(rng.random_range(0..8)),
        8..10 => Mishap::Request(request(rng)),
        10..12 => {
            let tasks = TASKS[usize::from(container)];
            Mishap::Task(tasks[rng.random_range(0..tasks.len())])
        }
        12 => {
            let action = [SshAction::LoseBefore, SshAction::LoseAfter][rng.random_range(0..2)].clone();
            Mishap::Command(SshFault {
                vmid: None,
                command: String::new(),
                action,
                count: Some(1),
            })
        }
        13..16 => {
            let all: Vec<_> = GUI.iter().filter(|(of, ..)| *of == container).collect();
            let (_, key, value, _) = all[rng.random_range(0..all.len())];
            Mishap::Option(key, *value)
        }
        16 => Mishap::Power(rng.random_bool(0.5)),
        17 => Mishap::Lock,
        18 => Mishap::Unpolled,
        _ => match rng.random_range(0..3) {
            0 => Mishap::Quorum,
            1 => Mishap::Storage("fastData-shared-bulk-data"),
            _ => Mishap::Storage(["quickOS-vm-disks", "quickOS-lxc-disks"][usize::from(container)]),
        },
    }
}

fn request(rng: &mut StdRng) -> Fault {
    let status = [500, 595, 596, 599][rng.random_range(0..4)];
    let message = "got timeout".to_owned();
    let kind = match rng.random_range(0..4) {
        0 => FaultKind::Status { status, message },
        1 => FaultKind::StatusAfter { status, message },
        2 => FaultKind::LostRequest,
        _ => FaultKind::LostResponse,
    };
    let method = ["POST", "PUT", "GET"][rng.random_range(0..3)];
    let skip = rng.random_range(0..if method == "GET" { 20 } else { 3 });
    Fault {
        method: Some(method.into()),
        path: None,
        skip,
        count: rng.random_range(1..3),
        kind,
    }
}

/// Whether an option of a guest says something.
fn option(world: &World, vmid: u32, key: &str) -> bool {
    let guests = world.guests();
    let value = guests.get(&vmid).and_then(|options| options.get(key));
    value.is_some_and(|value| value != "false" && value != "0")
}

impl Mishap {
    /// It begins; `vmid` is that of the guest.
    pub fn begin(&self, world: &World, vmid: Option<u32>) {
        let vmid = vmid.filter(|vmid| world.guests().contains_key(vmid));
        let edit = |edit: Edit| world.sim().edit(edit).unwrap();
        match (self, vmid) {
            (Mishap::Request(fault), _) => world.sim().add_fault(fault.clone()),
            (Mishap::Command(fault), _) => edit(Edit::SshFault(fault.clone())),
            (Mishap::Task(kind), _) => edit(Edit::FailTasks(TaskFault {
                kind: (*kind).into(),
                id: None,
                message: "command failed: exit code 1".into(),
                count: 1,
            })),
            (Mishap::Option(key, value), Some(vmid)) => {
                let options = BTreeMap::from([((*key).to_owned(), value.map(str::to_owned))]);
                edit(Edit::SetOptions { vmid, options });
            }
            // A template is never started, and what is so already is no change.
            (Mishap::Power(on), Some(vmid))
                if !option(world, vmid, "template") && option(world, vmid, "running") != *on =>
            {
                edit(Edit::Power { vmid, running: *on });
            }
            (Mishap::Lock, Some(vmid)) if !option(world, vmid, "lock") => {
                edit(Edit::Lock {
                    vmid,
                    lock: Some("backup".into()),
                });
            }
            (Mishap::Storage(storage), _) => edit(Edit::StorageActive {
                storage: (*storage).into(),
                active: false,
            }),
            (Mishap::Quorum, _) => edit(Edit::Quorum { quorate: false }),
            _ => {}
        }
    }

    /// It is over.
    pub fn end(&self, world: &World, vmid: Option<u32>) {
        let edit = |edit: Edit| world.sim().edit(edit).unwrap();
        match (self, vmid) {
            (Mishap::Lock, Some(vmid)) if option(world, vmid, "lock") => edit(Edit::Lock { vmid, lock: None }),
            (Mishap::Storage(storage), _) => edit(Edit::StorageActive {
                storage: (*storage).into(),
                active: true,
            }),
            (Mishap::Quorum, _) => edit(Edit::Quorum { quorate: true }),
            _ => {}
        }
    }

    /// Whether it goes on until it ends.
    pub fn lasts(&self) -> bool {
        matches!(
            self,
            Mishap::Lock | Mishap::Unpolled | Mishap::Storage(_) | Mishap::Quorum
        )
    }
}
