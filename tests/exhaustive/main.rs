//! Small worlds searched through: two operators at work on two objects at once, without a Lease between them, every write
//! of theirs held back until the search lets it go. Each order of the writes that differs from the usual one at up to so
//! many places is run, and at each place each fate of the write: lost, done with its answer lost, refused. In the end every
//! object must be as wished, no guest is there twice, and what should stay is there (promises 1, 2, 4 and 5).
//!
//! The engine and planner are the real ones, and so is the simulator's model. Cut off are: orders of reads among
//! themselves (all writes are held back after all reads that led to them, so a write may rest on reads of long ago), more
//! deviations than `PHOENIX_DEVIATIONS` in one run (1 by default), and worlds of more objects. `PHOENIX_WORLD=name` runs
//! one world alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/engine.rs"]
mod engine;
mod gate;
#[path = "../common/inprocess.rs"]
mod inprocess;
mod worlds;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::env;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use engine::{CLUSTER, TestStore, World};
use gate::{Fate, Gate, GatedOutside, GatedStore};
use phoenix::desired::Objects;
use phoenix::engine::{Engine, EngineOptions};
use worlds::Small;

/// Operators at work at once.
const OPERATORS: usize = 2;
/// Divides the waits of the engines, as in other tests.
const SCALE: f64 = 5000.0;
/// Writes after which a world should have come to rest.
const MOST_WRITES: usize = 600;

/// A place of the usual order at which something else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deviation {
    /// Number of the write.
    at: usize,
    /// Which of the writes that wait goes, in the order in which they came.
    which: usize,
    fate: Fate,
}

/// What one run came to.
struct Run {
    /// How many writes waited, each time one was let go.
    waited: Vec<usize>,
    /// What was let go, for people.
    story: Vec<String>,
    result: Result<(), String>,
}

fn engine_of(who: usize, world: &World, gate: &Arc<Gate>) -> Engine<GatedStore> {
    let mut options = EngineOptions::new(CLUSTER);
    options.time_scale = SCALE;
    options.outside = Some(Arc::new(GatedOutside {
        who,
        gate: gate.clone(),
        inner: world.outside().unwrap(),
    }));
    let store = GatedStore {
        who,
        gate: gate.clone(),
        inner: world.store.clone(),
    };
    Engine::new(Arc::new(store), options)
}

/// An operator works on everything, again and again: each object by itself, as in service.
async fn operate(engine: Arc<Engine<GatedStore>>, world: Arc<World>) {
    let store: Arc<TestStore> = world.store.clone();
    loop {
        let outcome = engine.poll("ai", "pve").await;
        world.record_poll(outcome);
        let guests = store.guests();
        let work = guests.iter().map(|guest| engine.reconcile(&guest.key));
        futures::future::join_all(work).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// State of the world as far as anybody outside can see it.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", world.guests()).hash(&mut hasher);
    let tasks = world.sim().with(|state| {
        let running = state.tasks.values().filter(|task| task.exitstatus.is_none());
        Vec::from_iter(running.map(|task| (task.kind.clone(), task.id.clone())))
    });
    tasks.hash(&mut hasher);
    for guest in world.store.guests() {
        let status = &guest.status;
        (guest.key.to_string(), guest.finalizer, guest.deleting, status.vmid).hash(&mut hasher);
        (status.create_sent, status.task.is_some(), &status.phase).hash(&mut hasher);
        format!("{:?} {:?}", status.claim, status.volumes).hash(&mut hasher);
    }
    hasher.finish()
}

/// Runs a world once, otherwise than usual at some places.
async fn run(small: &Small, deviations: &[Deviation], states: &mut HashSet<u64>) -> Run {
    let mut world = World::new(&[]).await;
    (small.before)(&world);
    world.settle(false).await.unwrap();
    (small.change)(&world);
    let world = Arc::new(world);
    let gate = Arc::new(Gate::default());
    let operators = (0..OPERATORS).map(|who| {
        let engine = Arc::new(engine_of(who, &world, &gate));
        tokio::spawn(operate(engine, world.clone()))
    });
    let operators: Vec<_> = operators.collect();
    let (mut waited, mut story, mut idle) = (Vec::new(), Vec::new(), 0);
    let result = loop {
        // On a stopped clock this ends when nobody has anything left to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let waiting = gate.waiting();
        if waiting.is_empty() {
            // Twice through everything without a write: it has come to rest.
            idle += 1;
            if idle > 400 {
                break small.at_rest(&world);
            }
            continue;
        }
        idle = 0;
        if waited.len() == MOST_WRITES {
            break Err(format!("does not come to rest within {MOST_WRITES} writes"));
        }
        states.insert(fingerprint(&world));
        let deviation = deviations.iter().find(|d| d.at == waited.len());
        let (which, fate) = deviation.map_or((0, Fate::Done), |d| (d.which, d.fate));
        waited.push(waiting.len());
        let (who, what) = &waiting[which];
        story.push(format!("operator {who}: {what}: {fate:?}"));
        gate.take(which).let_go(fate);
    };
    operators.iter().for_each(|operator| operator.abort());
    Run { waited, story, result }
}

/// What may happen instead at each place after `from`.
fn alternatives(run: &Run, from: usize) -> Vec<Deviation> {
    let places = run.waited.iter().enumerate().skip(from);
    let all = places.flat_map(|(at, waited)| {
        let writes = 0..*waited;
        writes.flat_map(move |which| Fate::ALL.into_iter().map(move |fate| Deviation { at, which, fate }))
    });
    // The usual, and a fate for one that came later, are reached otherwise: by two deviations.
    all.filter(|d| (d.which == 0) != (d.fate == Fate::Done)).collect()
}

/// All runs with up to `depth` deviations; how many there were.
fn search(small: &Small, depth: usize, states: &mut HashSet<u64>) -> usize {
    let mut runs = 0;
    let mut open: Vec<Vec<Deviation>> = vec![Vec::new()];
    while let Some(deviations) = open.pop() {
        let run = inprocess::runtime().block_on(run(small, &deviations, states));
        runs += 1;
        if let Err(error) = &run.result {
            let story = run.story.join("\n");
            panic!("{}: with {deviations:?}: {error}\n{story}", small.name);
        }
        if deviations.len() < depth {
            let from = deviations.last().map_or(0, |d| d.at + 1);
            for deviation in alternatives(&run, from) {
                open.push(deviations.iter().copied().chain([deviation]).collect());
            }
        }
    }
    runs
}

fn searched(small: &Small) {
    let only = env::var("PHOENIX_WORLD").ok();
    if only.is_some_and(|name| name != small.name) {
        return;
    }
    let depth = env::var("PHOENIX_DEVIATIONS").map_or(1, |text| text.parse().expect("a number"));
    let mut states = HashSet::new();
    let runs = search(small, depth, &mut states);
    println!(
        "{}: {runs} runs with up to {depth} deviations, {} states",
        small.name,
        states.len()
    );
    assert!(runs > 20 || depth == 0, "{}: only {runs} runs", small.name);
}

#[test]
fn two_are_created() {
    searched(&worlds::CREATE);
}

#[test]
fn two_are_cloned() {
    searched(&worlds::CLONE);
}

#[test]
fn two_are_deleted() {
    searched(&worlds::DELETE);
}

#[test]
fn one_is_adopted_beside_another() {
    searched(&worlds::ADOPT);
}

#[test]
fn a_retained_volume_outlives_its_guest() {
    searched(&worlds::RETAIN);
}
