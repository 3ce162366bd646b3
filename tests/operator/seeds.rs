//! Lives in bad weather: a seed decides latencies, lost and late answers, conflicts, watches that lag, break or end, when
//! users edit, and when processes die. Every life ends as the calm one does. `PHOENIX_SEED` runs one seed alone,
//! `PHOENIX_SEEDS` says how many there are.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::alone;
use crate::apiserver::weather::Seeded;
use crate::operated::{Running, Site};
use crate::steps::{STEPS, at_rest, calm, end, invariants, only_in};

/// Seconds for which the weather is bad.
const STORM: u64 = 900;

/// Longest time that a fleet takes to come to rest when the weather is calm again.
const REST: Duration = Duration::from_secs(3600);

/// The processes of a life: some die, and others take their place.
struct Crew {
    rng: StdRng,
    candidates: usize,
    started: usize,
    processes: Vec<Running>,
}

impl Crew {
    fn fill(&mut self, site: &Site) {
        self.processes.retain(|process| !process.ended());
        while self.processes.len() < self.candidates {
            self.started += 1;
            self.processes.push(site.candidate(&format!("p{}", self.started)));
        }
    }

    /// Lets time pass, in which processes may die, stop and go on.
    async fn pass(&mut self, site: &Site, time: Duration, calm: bool) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.fill(site);
            let pause = Duration::from_millis(self.rng.random_range(100..60_000));
            tokio::time::sleep(pause.min(until - Instant::now())).await;
            if calm {
                continue;
            }
            let chosen = self.rng.random_range(0..self.processes.len());
            match self.rng.random_range(0..10) {
                0 => self.processes.remove(chosen).kill(),
                1 => {
                    let gate = self.processes[chosen].gate.clone();
                    gate.freeze();
                    tokio::time::sleep(Duration::from_millis(self.rng.random_range(100..200_000))).await;
                    gate.thaw();
                }
                _ => {}
            }
        }
    }
}

/// A life in the weather of a seed: its trace and its end.
async fn stormy(seed: u64) -> Result<(String, String), String> {
    let weather = Seeded::new(seed, Duration::from_secs(STORM));
    let site = Site::under(Arc::new(weather), seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let candidates = rng.random_range(1..=3);
    let mut crew = Crew {
        candidates,
        started: 0,
        processes: Vec::new(),
        rng: StdRng::seed_from_u64(seed ^ 0xc4e3),
    };
    let begun = Instant::now();
    for step in STEPS {
        step(&site);
        let pause = Duration::from_secs(rng.random_range(0..STORM / 3));
        crew.pass(&site, pause, false).await;
    }
    crew.pass(&site, Duration::from_secs(STORM).saturating_sub(begun.elapsed()), false)
        .await;
    crew.pass(&site, Duration::from_secs(60), true).await;
    let rest = site.reaches(REST, at_rest).await;
    rest.map_err(|words| format!("PHOENIX_SEED={seed}: not at rest an hour after the storm:\n{words}"))?;
    crew.pass(&site, Duration::from_secs(700), true).await;
    invariants(&site).map_err(|words| format!("PHOENIX_SEED={seed}: {words}\n{}", site.words()))?;
    Ok((site.trace(), end(&site)))
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn seeds(usually: u64) -> Vec<u64> {
    match number("PHOENIX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PHOENIX_SEEDS").unwrap_or(usually)).collect(),
    }
}

/// Runs a seed twice, side by side.
fn judge(seed: u64, usual: &str) -> Result<(), String> {
    let (first, again) = std::thread::scope(|scope| {
        let first = scope.spawn(|| alone(|| stormy(seed)));
        let again = alone(|| stormy(seed));
        (first.join().unwrap(), again)
    });
    let ((trace, end), (again, _)) = (first?, again?);
    if let Ok(folder) = env::var("PHOENIX_TRACES") {
        std::fs::write(format!("{folder}/{seed}.trace"), &trace).unwrap();
    }
    if trace != again {
        let differ = trace.lines().zip(again.lines()).find(|(a, b)| a != b);
        return Err(format!("PHOENIX_SEED={seed}: two traces: {differ:#?}"));
    }
    match end == usual {
        true => Ok(()),
        false => Err(format!(
            "PHOENIX_SEED={seed}: ends with {:#?}\ninstead of {:#?}",
            only_in(&end, usual),
            only_in(usual, &end)
        )),
    }
}

/// The same seed gives the same requests to Proxmox and the same writes to the API server, at the same moments; whatever
/// the seed, the end is the same.
#[test]
fn every_seed_gives_one_trace_and_the_calm_end() {
    let usual = alone(calm);
    let mut failures = Vec::new();
    let seeds = seeds(40);
    for &seed in &seeds {
        let failure = judge(seed, &usual).err();
        failure.iter().for_each(|failure| println!("{failure}"));
        failures.extend(failure);
        // A few tell as much as all.
        if failures.len() == 3 {
            break;
        }
    }
    println!("{} seeds from {}", seeds.len(), seeds.first().unwrap_or(&0));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
