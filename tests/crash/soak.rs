//! Many schedules side by side: what they met, which took longest, and of those that fail the story of what their failure
//! needs. `PHOENIX_JOBS` says how many run at once (as many as there are cores).

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::engine::World;
use crate::schedules::{Schedule, Usual, number};
use crate::shrink::shrink;
use crate::story::{accidents, story};
use crate::{in_a_runtime, run};

/// Failures after which no further schedule is begun.
const ENOUGH: usize = 20;
/// Failures that are made small and told, and slowest schedules that are named.
const TOLD: usize = 5;
/// Between two lines that tell how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// What many runs came to.
#[derive(Default)]
struct Figures {
    runs: u64,
    requests: u64,
    /// How often each step was disturbed, by fault and position.
    met: BTreeMap<String, BTreeMap<String, u64>>,
    /// Most requests, and most looks at everything: number and seed.
    slowest: [Vec<(usize, u64)>; 2],
    failures: BTreeMap<u64, String>,
}

impl Figures {
    fn add(&mut self, seed: u64, world: &World, verdict: Result<(), String>) {
        self.runs += 1;
        for accident in accidents(world) {
            let way = format!("{}, {}", accident.fault, accident.position);
            *self.met.entry(accident.step).or_default().entry(way).or_default() += 1;
        }
        let sizes = [world.sim().requests().len(), world.rounds.load(Ordering::Relaxed)];
        self.requests += sizes[0] as u64;
        for (slowest, size) in self.slowest.iter_mut().zip(sizes) {
            keep(slowest, (size, seed));
        }
        self.failures.extend(verdict.err().map(|error| (seed, error)));
    }

    fn join(&mut self, other: Figures) {
        self.runs += other.runs;
        self.requests += other.requests;
        for (step, ways) in other.met {
            let met = self.met.entry(step).or_default();
            for (way, times) in ways {
                *met.entry(way).or_default() += times;
            }
        }
        for (slowest, others) in self.slowest.iter_mut().zip(other.slowest) {
            others.into_iter().for_each(|entry| keep(slowest, entry));
        }
        self.failures.extend(other.failures);
    }

    fn print(&self, took: Duration, usual: &Usual) {
        let per_second = self.runs as f64 / took.as_secs_f64();
        let each = self.requests as f64 / self.runs.max(1) as f64;
        println!(
            "{} schedules, {per_second:.0} a second, {each:.0} requests each",
            self.runs
        );
        let combinations: usize = self.met.values().map(BTreeMap::len).sum();
        println!(
            "met: {} steps, {combinations} of step, fault and position",
            self.met.len()
        );
        for (step, ways) in &self.met {
            let ways = ways.iter().map(|(way, times)| format!("{way} {times}"));
            println!("  {step}: {}", Vec::from_iter(ways).join("; "));
        }
        for (what, slowest) in ["requests", "rounds"].iter().zip(&self.slowest) {
            for (size, seed) in slowest {
                let lifecycle = Schedule::of(*seed, usual).lifecycle.name;
                println!("most {what}: {size}, PHOENIX_SEED={seed} ({lifecycle})");
            }
        }
    }
}

fn keep(slowest: &mut Vec<(usize, u64)>, entry: (usize, u64)) {
    slowest.push(entry);
    slowest.sort_by_key(|(size, seed)| (std::cmp::Reverse(*size), *seed));
    slowest.truncate(TOLD);
}

/// Runs a schedule; a panic in it is its failure.
fn verdict(schedule: &Schedule, usual: &Usual, look: impl FnOnce(&World)) -> Result<(), String> {
    let run = || {
        in_a_runtime(async || {
            let run = run(schedule.lifecycle, &schedule.mishaps).await;
            look(&run.world);
            run.verdict(usual.of(schedule.lifecycle))
        })
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", words.unwrap_or("?")))
    })
}

/// One of those who run schedules side by side.
fn worker(seeds: &Range<u64>, next: &AtomicU64, failed: &AtomicU64, usual: &Usual) -> Figures {
    let mut figures = Figures::default();
    let (begin, mut told) = (Instant::now(), Instant::now());
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || failed.load(Ordering::Relaxed) >= ENOUGH as u64 {
            return figures;
        }
        let schedule = Schedule::of(seed, usual);
        let mut looked = None;
        let verdict = verdict(&schedule, usual, |world| {
            let mut one = Figures::default();
            one.add(seed, world, Ok(()));
            looked = Some(one);
        });
        figures.join(looked.unwrap_or_default());
        if let Err(error) = verdict {
            failed.fetch_add(1, Ordering::Relaxed);
            println!("PHOENIX_SEED={seed} fails: {error}");
            figures.failures.insert(seed, error);
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            let done = seed + 1 - seeds.start;
            let per_second = done as f64 / begin.elapsed().as_secs_f64();
            println!("{done} schedules, {per_second:.0} a second");
        }
    }
}

/// Runs the schedules of these seeds; panics with the failures.
pub fn soak(seeds: Range<u64>) {
    let usual = &Usual::runs();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = number("PHOENIX_JOBS").map_or(cores, |jobs| jobs as usize);
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let begin = Instant::now();
    let figures = Mutex::new(Figures::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let found = worker(&seeds, &next, &failed, usual);
                figures.lock().unwrap().join(found);
            });
        }
    });
    let figures = figures.into_inner().unwrap();
    figures.print(begin.elapsed(), usual);
    let told = figures.failures.keys().take(TOLD).map(|seed| tell(*seed, usual));
    let told: Vec<String> = told.collect();
    assert!(
        told.is_empty(),
        "{} schedules fail:\n{}",
        figures.failures.len(),
        told.join("\n\n")
    );
}

/// What is left of a failing schedule, and what happened in it.
fn tell(seed: u64, usual: &Usual) -> String {
    let schedule = Schedule::of(seed, usual);
    let least = shrink(&schedule, |schedule| verdict(schedule, usual, |_| ()).is_err());
    let mut told = None;
    let error = verdict(&least, usual, |world| told = Some(story(world, ""))).unwrap_err();
    format!(
        "PHOENIX_SEED={seed}: {}, {} mishaps, of which it needs {}: {:?}\n{}{error}",
        least.lifecycle.name,
        schedule.mishaps.len(),
        least.mishaps.len(),
        least.mishaps,
        told.unwrap_or_default()
    )
}
