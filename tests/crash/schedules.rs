//! Several disturbances at once, at random. `PHOENIX_SCHEDULES` says how many schedules there are (1000), from the seed
//! `PHOENIX_SEED_FROM` on; `PHOENIX_SEED` runs one alone. A failure prints its seed, and the story of what is left of it.

use std::collections::BTreeMap;
use std::env;

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::{SshAction, SshFault};
use phoenix::simulator::{Fault, FaultKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::lifecycles::{LIFECYCLES, Lifecycle};
use crate::mishaps::{Around, Mishap};
use crate::{Undisturbed, in_a_runtime, run, soak, trace, undisturbed};

/// A lifecycle, and what goes wrong in it.
#[derive(Clone)]
pub struct Schedule {
    pub lifecycle: &'static Lifecycle,
    pub mishaps: Vec<Mishap>,
}

/// Undisturbed runs by the lifecycle's name.
pub struct Usual(BTreeMap<&'static str, Undisturbed>);

impl Usual {
    pub fn runs() -> Self {
        let run = |lifecycle: &'static Lifecycle| (lifecycle.name, in_a_runtime(|| undisturbed(lifecycle)));
        Usual(LIFECYCLES.iter().map(run).collect())
    }

    pub fn of(&self, lifecycle: &Lifecycle) -> &Undisturbed {
        &self.0[lifecycle.name]
    }
}

fn api_fault(rng: &mut StdRng, usual: &Undisturbed) -> Fault {
    let message = || "got timeout".to_owned();
    let status = [500, 595, 596, 599][rng.random_range(0..4)];
    let kind = match rng.random_range(0..5) {
        0 => FaultKind::Delay {
            ms: rng.random_range(1..30),
        },
        1 => FaultKind::Status {
            status,
            message: message(),
        },
        2 => FaultKind::StatusAfter {
            status,
            message: message(),
        },
        3 => FaultKind::LostRequest,
        _ => FaultKind::LostResponse,
    };
    let method = [None, Some("POST"), Some("PUT"), Some("GET")][rng.random_range(0..4)];
    let number: u32 = match method {
        Some(verb) => usual.verbs.get(verb).copied().unwrap_or(1),
        None => usual.verbs.values().sum(),
    };
    Fault {
        method: method.map(str::to_owned),
        path: None,
        skip: rng.random_range(0..number),
        count: rng.random_range(1..4),
        kind,
    }
}

fn ssh_fault(rng: &mut StdRng) -> SshFault {
    let action = match rng.random_range(0..3) {
        0 => SshAction::LoseBefore,
        1 => SshAction::LoseAfter,
        _ => SshAction::Delay { ms: 5000 },
    };
    SshFault {
        vmid: None,
        command: ["", "start", "poll"][rng.random_range(0..3)].into(),
        action,
        count: Some(rng.random_range(1..4)),
    }
}

fn around(rng: &mut StdRng, lifecycle: &Lifecycle) -> Around {
    let mut sorts = Around::ALL.to_vec();
    sorts.retain(|what| lifecycle.starts_anew || !what.restarts());
    sorts[rng.random_range(0..sorts.len())]
}

/// One of the things that may go wrong while a lifecycle runs.
fn mishap(rng: &mut StdRng, lifecycle: &Lifecycle, usual: &Undisturbed) -> Mishap {
    match rng.random_range(0..if lifecycle.ssh { 5 } else { 4 }) {
        0 if !usual.tasks.is_empty() => Mishap::Task(TaskFault {
            kind: usual.tasks[rng.random_range(0..usual.tasks.len())].clone(),
            id: None,
            message: "command failed: exit code 1".into(),
            count: rng.random_range(1..3),
        }),
        3 => Mishap::Around {
            what: around(rng, lifecycle),
            at: rng.random_range(0..usual.points),
            rounds: rng.random_range(1..6),
        },
        4 => Mishap::Command(ssh_fault(rng)),
        _ => Mishap::Request(api_fault(rng, usual)),
    }
}

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64, usual: &Usual) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let lifecycle = &LIFECYCLES[rng.random_range(0..LIFECYCLES.len())];
        let usual = usual.of(lifecycle);
        let cuts = (0..rng.random_range(0..4)).map(|_| Mishap::Cut(rng.random_range(0..usual.points * 3 / 2)));
        let mut mishaps: Vec<Mishap> = cuts.collect();
        let least = usize::from(mishaps.is_empty());
        if !mishaps.is_empty() && rng.random_range(0..4) == 0 {
            mishaps.push(Mishap::Rewound);
        }
        let number = rng.random_range(least..5);
        mishaps.extend((0..number).map(|_| mishap(&mut rng, lifecycle, usual)));
        // One at a time: what the first one changed the second would take for usual.
        let mut around = false;
        mishaps.retain(|mishap| !matches!(mishap, Mishap::Around { .. }) || !std::mem::replace(&mut around, true));
        Schedule { lifecycle, mishaps }
    }
}

pub fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn random_schedules_end_alike() {
    let seeds = match number("PHOENIX_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("PHOENIX_SEED_FROM").unwrap_or(0);
            from..from + number("PHOENIX_SCHEDULES").unwrap_or(1000)
        }
    };
    soak::soak(seeds);
}

/// A failure can be looked at again: its seed decides everything.
#[test]
fn a_seed_gives_the_same_run_each_time() {
    let usual = &Usual::runs();
    for seed in 0..100 {
        let traced = || {
            in_a_runtime(async || {
                let schedule = Schedule::of(seed, usual);
                trace(&run(schedule.lifecycle, &schedule.mishaps).await.world)
            })
        };
        let (first, second) = (traced(), traced());
        let differ = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert!(first == second, "seed {seed}: {differ:#?}");
    }
}
