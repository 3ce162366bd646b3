//! What goes wrong in a run, as data: it is drawn, prepared, left out and made smaller.

use std::sync::atomic::Ordering;

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::SshFault;
use phoenix::simulator::{Edit, Fault};

use crate::engine::World;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
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
