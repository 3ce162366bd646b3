//! Several disturbances at once, at random. `PHOENIX_SCHEDULES` says how many schedules there are (500), and
//! `PHOENIX_SEED` runs one alone; a failure prints its seed.

use std::collections::BTreeMap;
use std::env;

use phoenix::simulator::model::state::TaskFault;
use phoenix::simulator::ssh::{SshAction, SshFault};
use phoenix::simulator::{Edit, Fault, FaultKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::engine::World;
use crate::lifecycles::{LIFECYCLES, Lifecycle};
use crate::{Disturbance, Undisturbed, alone, ends_alike, report, run, trace, undisturbed};

type Change = Box<dyn Fn(&World) + Send + Sync>;

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
    Fault {
        method: method.map(str::to_owned),
        path: None,
        skip: rng.random_range(0..usual.requests),
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

/// One of the things that may go wrong while a lifecycle runs.
fn change(rng: &mut StdRng, lifecycle: &Lifecycle, usual: &Undisturbed) -> (String, Change) {
    match rng.random_range(0..if lifecycle.ssh { 4 } else { 3 }) {
        0 if !usual.tasks.is_empty() => {
            let fault = TaskFault {
                kind: usual.tasks[rng.random_range(0..usual.tasks.len())].clone(),
                id: None,
                message: "command failed: exit code 1".into(),
                count: rng.random_range(1..3),
            };
            let apply = move |world: &World| world.sim().edit(Edit::FailTasks(fault.clone())).unwrap();
            ("a task fails".into(), Box::new(apply))
        }
        3 => {
            let fault = ssh_fault(rng);
            let name = format!("{fault:?}");
            let apply = move |world: &World| world.sim().edit(Edit::SshFault(fault.clone())).unwrap();
            (name, Box::new(apply))
        }
        _ => {
            let fault = api_fault(rng, usual);
            let name = format!("{fault:?}");
            (
                name,
                Box::new(move |world: &World| world.sim().add_fault(fault.clone())),
            )
        }
    }
}

fn schedule(seed: u64, usual: &BTreeMap<&str, Undisturbed>) -> (&'static Lifecycle, Disturbance) {
    let mut rng = StdRng::seed_from_u64(seed);
    let lifecycle = &LIFECYCLES[rng.random_range(0..LIFECYCLES.len())];
    let usual = &usual[lifecycle.name];
    let cuts: Vec<usize> = (0..rng.random_range(0..4))
        .map(|_| rng.random_range(0..usual.points * 2))
        .collect();
    let number = rng.random_range(usize::from(cuts.is_empty())..5);
    let (names, changes): (Vec<String>, Vec<Change>) = (0..number).map(|_| change(&mut rng, lifecycle, usual)).unzip();
    let disturbance = Disturbance {
        name: format!("PHOENIX_SEED={seed}: cuts at {cuts:?}; {}", names.join("; ")),
        cuts,
        apply: Box::new(move |world| changes.iter().for_each(|change| change(world))),
    };
    (lifecycle, disturbance)
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn random_schedules_end_alike() {
    let seeds: Vec<u64> = match number("PHOENIX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PHOENIX_SCHEDULES").unwrap_or(500)).collect(),
    };
    let mut usual = BTreeMap::new();
    for lifecycle in LIFECYCLES {
        usual.insert(lifecycle.name, undisturbed(lifecycle).await);
    }
    let usual = &usual;
    let runs = seeds.iter().map(|seed| {
        move || async move {
            let (lifecycle, disturbance) = schedule(*seed, usual);
            ends_alike(lifecycle, &disturbance, &usual[lifecycle.name].end).await
        }
    });
    report("random schedules", seeds.len(), runs).await;
}

/// A failure can be looked at again: its seed decides everything.
#[tokio::test(start_paused = true)]
async fn a_seed_gives_the_same_run_each_time() {
    let mut usual = BTreeMap::new();
    for lifecycle in LIFECYCLES {
        usual.insert(lifecycle.name, undisturbed(lifecycle).await);
    }
    let usual = &usual;
    for seed in 0..100 {
        let traced = || {
            alone(move || async move {
                let (lifecycle, disturbance) = schedule(seed, usual);
                let world = run(lifecycle, &disturbance).await;
                world.map(|world| trace(&world))
            })
        };
        let (first, second) = (traced().unwrap(), traced().unwrap());
        let differ = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert!(first == second, "seed {seed}: {differ:#?}");
    }
}
