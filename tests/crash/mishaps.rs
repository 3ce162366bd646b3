//! What goes wrong in a run, as data: it is drawn, prepared, left out and made smaller.

use std::sync::atomic::Ordering;

use phoenix::desired::Stamp;
use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::SshFault;
use phoenix::simulator::{Edit, Fault, Simulator, State};

use crate::engine::{self, Meddling, World};

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// The operator dies at the point of this number.
    Cut(usize),
    /// Whenever it dies, the last status write of each object is lost.
    Rewound,
    /// Whenever it dies, all status is lost.
    Forgotten,
    /// Requests go wrong.
    Request(Fault),
    /// Tasks fail.
    Task(TaskFault),
    /// Commands over SSH, and programs for guests, go wrong.
    Command(SshFault),
    /// Something goes on around the operator.
    Around {
        what: Around,
        /// The number of the point at which it begins.
        at: usize,
        /// How many looks at everything it lasts.
        rounds: usize,
    },
}

/// What goes on around the operator. A node that loses power is not among it: what was being made there stays locked until
/// somebody unlocks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Around {
    NodeOffline,
    StoragesGone,
    StoragesFull,
    QuorumLost,
    PrivilegesLost,
    GuestsStopped,
    TasksHang,
    GuestsRolledBack,
}

/// A change of the cluster, and what takes it back.
fn there_and_back(
    sim: &Simulator,
    there: impl FnOnce(&mut State),
    back: impl FnOnce(&mut State) + Send + 'static,
) -> Meddling {
    sim.with(there);
    let sim = sim.clone();
    Box::new(move || sim.with(back))
}

/// Guests of ours that somebody can stop now.
fn running(state: &State) -> Vec<u32> {
    let ours = |guest: &phoenix::simulator::model::Guest| {
        let options = &guest.config().current.options;
        let stamp = options.get("description").and_then(|d| Stamp::find(d));
        stamp.is_some_and(|s| s.kind != "VolumeOwner") && !options.contains_key("lock") && guest.running.is_some()
    };
    let running = state.guests.iter().filter(|(_, guest)| ours(guest));
    match state.active.is_empty() {
        true => running.map(|(vmid, _)| *vmid).collect(),
        false => Vec::new(),
    }
}

impl Around {
    pub const ALL: [Around; 8] = [
        Around::NodeOffline,
        Around::StoragesGone,
        Around::StoragesFull,
        Around::QuorumLost,
        Around::PrivilegesLost,
        Around::GuestsStopped,
        Around::TasksHang,
        Around::GuestsRolledBack,
    ];

    /// Whether guests are started again of it, and what ran in them is lost.
    pub fn restarts(self) -> bool {
        matches!(self, Around::GuestsStopped | Around::GuestsRolledBack)
    }

    pub fn name(self) -> &'static str {
        match self {
            Around::NodeOffline => "the node is cut off",
            Around::StoragesGone => "the storages are gone",
            Around::StoragesFull => "the storages are full",
            Around::QuorumLost => "the cluster has no quorum",
            Around::PrivilegesLost => "the token has no privileges",
            Around::GuestsStopped => "somebody stops the guests",
            Around::TasksHang => "tasks hang until somebody stops them",
            Around::GuestsRolledBack => "somebody rolls containers back to a snapshot",
        }
    }

    /// It begins; what comes back ends it.
    fn begin(self, sim: &Simulator) -> Meddling {
        let edit = |state: &mut State, edit: Edit| state.edit(edit).unwrap();
        let nothing = |_: &mut State| ();
        match self {
            Around::NodeOffline => {
                let online = move |state: &mut State, online| {
                    let node = "phoenix".into();
                    edit(state, Edit::NodeOnline { node, online });
                };
                there_and_back(sim, move |s| online(s, false), move |s| online(s, true))
            }
            Around::StoragesGone => {
                let active = |s: &mut State, active| s.storages.values_mut().for_each(|s| s.active = active);
                there_and_back(sim, move |s| active(s, false), move |s| active(s, true))
            }
            Around::StoragesFull => {
                let saved: Vec<u64> = sim.with(|s| s.storages.values().map(|s| s.total).collect());
                let full = |s: &mut State| s.storages.values_mut().for_each(|s| s.total = s.used("phoenix"));
                let back = |s: &mut State| {
                    s.storages
                        .values_mut()
                        .zip(saved)
                        .for_each(|(s, total)| s.total = total)
                };
                there_and_back(sim, full, back)
            }
            Around::QuorumLost => {
                let quorum = |s: &mut State, quorate| s.quorate = quorate;
                there_and_back(sim, move |s| quorum(s, false), move |s| quorum(s, true))
            }
            Around::PrivilegesLost => {
                let saved = sim.with(|s| std::mem::take(&mut s.access.acl));
                there_and_back(sim, nothing, move |s| s.access.acl.extend(saved))
            }
            Around::GuestsStopped => {
                let stop = |s: &mut State| {
                    for vmid in running(s) {
                        edit(s, Edit::Power { vmid, running: false });
                    }
                };
                there_and_back(sim, stop, nothing)
            }
            Around::TasksHang => {
                let tasks = move |s: &mut State, hang| edit(s, Edit::HangTasks { hang });
                there_and_back(sim, move |s| tasks(s, true), move |s| tasks(s, false))
            }
            Around::GuestsRolledBack => {
                let name = || "mine".to_string();
                let taken: Vec<u32> = sim.with(|s| {
                    let mut vmids = running(s);
                    vmids.retain(|vmid| {
                        s.edit(Edit::Snapshot {
                            vmid: *vmid,
                            name: name(),
                        })
                        .is_ok()
                    });
                    vmids
                });
                // What cannot be done at that moment nobody does.
                let back = move |s: &mut State| {
                    for vmid in taken {
                        let _ = s.edit(Edit::Rollback { vmid, name: name() });
                        let _ = s.edit(Edit::DeleteSnapshot { vmid, name: name() });
                    }
                    // The list of guests lags, and a look at it sees what a rollback stopped.
                    s.broadcast();
                };
                there_and_back(sim, nothing, back)
            }
        }
    }
}

/// Smaller numbers, the smallest first.
fn lower(from: u32, least: u32) -> Vec<u32> {
    let mut lower = vec![least, least.midpoint(from), from.saturating_sub(1).max(least)];
    lower.dedup();
    lower.retain(|n| *n < from);
    lower
}

impl Mishap {
    /// Where the operator dies. A world is made with its cuts.
    pub fn cut(&self) -> Option<usize> {
        match self {
            Mishap::Cut(at) => Some(*at),
            _ => None,
        }
    }

    /// Prepares it in a world that has not begun.
    pub fn prepare(&self, world: &World) {
        match self {
            Mishap::Cut(_) => {}
            Mishap::Rewound => world.wire.rewinds.store(true, Ordering::SeqCst),
            Mishap::Forgotten => world.wire.forgets.store(true, Ordering::SeqCst),
            Mishap::Request(fault) => world.sim().add_fault(fault.clone()),
            Mishap::Task(fault) => world.sim().edit(Edit::FailTasks(fault.clone())).unwrap(),
            Mishap::Command(fault) => world.sim().edit(Edit::SshFault(fault.clone())).unwrap(),
            Mishap::Around { what, at, rounds } => {
                let (what, sim) = (*what, world.sim().clone());
                world.wire.around.lock().unwrap().push(engine::Around {
                    name: what.name(),
                    at: *at,
                    rounds: *rounds,
                    begin: Some(Box::new(move || what.begin(&sim))),
                    end: None,
                });
            }
        }
    }

    /// The same less often, or earlier, the least first.
    pub fn smaller(&self) -> Vec<Mishap> {
        match self {
            Mishap::Cut(at) => {
                let earlier = lower(u32::try_from(*at).unwrap(), 0).into_iter();
                earlier.map(|at| Mishap::Cut(at as usize)).collect()
            }
            Mishap::Rewound | Mishap::Forgotten => Vec::new(),
            Mishap::Around { what, at, rounds } => {
                let lower = |from: usize, least| lower(u32::try_from(from).unwrap(), least).into_iter();
                let with = |at: usize, rounds: usize| Mishap::Around {
                    what: *what,
                    at,
                    rounds,
                };
                let shorter = lower(*rounds, 1).map(|rounds| with(*at, rounds as usize));
                shorter
                    .chain(lower(*at, 0).map(|at| with(at as usize, *rounds)))
                    .collect()
            }
            Mishap::Request(fault) => {
                let fewer = lower(fault.count, 1).into_iter().map(|count| (fault.skip, count));
                let earlier = lower(fault.skip, 0).into_iter().map(|skip| (skip, fault.count));
                let with = |(skip, count)| Fault {
                    skip,
                    count,
                    ..fault.clone()
                };
                fewer.chain(earlier).map(with).map(Mishap::Request).collect()
            }
            Mishap::Task(fault) => {
                let with = |count| TaskFault { count, ..fault.clone() };
                lower(fault.count, 1).into_iter().map(with).map(Mishap::Task).collect()
            }
            Mishap::Command(fault) => {
                let with = |count| SshFault {
                    count: Some(count),
                    ..fault.clone()
                };
                let fewer = lower(fault.count.unwrap_or(u32::MAX), 1).into_iter();
                fewer.map(with).map(Mishap::Command).collect()
            }
        }
    }
}
