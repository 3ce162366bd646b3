//! Crash sweep (promises 1, 2 and 5): every lifecycle is disturbed at every position, and has to end as if nothing had
//! happened.
//!
//! * [`cuts`]: the engine dies before each effect, after it, and before each status write.
//! * [`faults`]: each write is lost, its answer is lost, or it fails; each task fails.
//! * [`schedules`]: several of these together, and more, at random; [`soak`] runs many of them, [`shrink`] leaves out
//!   of a failing one what it does not need, [`story`] tells what happened.
//! * [`circumstances`]: what happens around the engine: migration, lost privileges, failing reads, deletion,
//!   a second engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/engine.rs"]
mod engine;
#[path = "../common/inprocess.rs"]
mod inprocess;

mod circumstances;
mod cuts;
mod faults;
mod lifecycles;
mod mishaps;
mod schedules;
mod shrink;
mod soak;
mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::Ordering;

use engine::World;
use lifecycles::Lifecycle;
use mishaps::Mishap;

/// A third of the time of a schedule went into the usual one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What goes wrong while a lifecycle runs, and its name.
struct Disturbance {
    name: String,
    mishaps: Vec<Mishap>,
}

/// A lifecycle that was run to its end, or as far as it came.
struct Run {
    world: World,
    result: Result<(), String>,
}

/// Runs a lifecycle to its end.
async fn run(lifecycle: &Lifecycle, mishaps: &[Mishap]) -> Run {
    let cuts: Vec<usize> = mishaps.iter().filter_map(Mishap::cut).collect();
    let mut world = if lifecycle.ssh {
        World::with_ssh(&cuts).await
    } else {
        World::new(&cuts).await
    };
    mishaps.iter().for_each(|mishap| mishap.prepare(&world));
    let result = live(lifecycle, &mut world).await;
    Run { world, result }
}

async fn live(lifecycle: &Lifecycle, world: &mut World) -> Result<(), String> {
    for (n, phase) in lifecycle.phases.iter().enumerate() {
        phase(world);
        world
            .settle(lifecycle.stalls && n + 1 == lifecycle.phases.len())
            .await?;
    }
    world.check_invariants()?;
    (lifecycle.check)(world)
}

/// All that a run sent and told, in order.
fn trace(world: &World) -> String {
    let requests = world.sim().requests();
    let requests = requests
        .iter()
        .map(|r| format!("{} {} {} {}", r.method, r.path, r.query, r.status));
    let journal = world.store.journal.lock().unwrap();
    let told = journal.iter().map(|(key, told)| match told {
        engine::Told::Status(status) => format!("{key}: {}", serde_json::to_string(status).unwrap()),
        engine::Told::Event(event) => format!("{key}: {event:?}"),
    });
    Vec::from_iter(requests.chain(told)).join("\n")
}

/// An undisturbed run, for comparison.
struct Undisturbed {
    /// Points at which the engine can be cut off.
    points: usize,
    /// Writes, by verb and path.
    writes: BTreeMap<(String, String), u32>,
    /// Requests by verb.
    verbs: BTreeMap<String, u32>,
    /// Types of the tasks that ran.
    tasks: Vec<String>,
    end: End,
}

async fn undisturbed(lifecycle: &Lifecycle) -> Undisturbed {
    let Run { world, result } = run(lifecycle, &[]).await;
    result.unwrap_or_else(|error| panic!("{}, undisturbed: {error}", lifecycle.name));
    let log = world.sim().requests();
    let mut writes = BTreeMap::new();
    let mut verbs = BTreeMap::new();
    for request in &log {
        *verbs.entry(request.method.clone()).or_default() += 1;
        // Whether an agent is there is asked by POST, too.
        if request.is_write() && !request.path.ends_with("/agent/ping") {
            let call = (request.method.clone(), request.path.clone());
            *writes.entry(call).or_default() += 1;
        }
    }
    let mut tasks: Vec<String> = world.sim().with(|s| s.tasks.values().map(|t| t.kind.clone()).collect());
    tasks.sort();
    tasks.dedup();
    Undisturbed {
        points: world.wire.passed.load(Ordering::SeqCst),
        writes,
        verbs,
        tasks,
        end: end(&world),
    }
}

/// The guests with what matters of them.
type End = BTreeMap<u32, BTreeMap<String, String>>;

/// What has to be the same in the end.
fn end(world: &World) -> End {
    world.guests()
}

/// Where an end is not the one that was expected, in words.
fn same_end(found: &End, expected: &End) -> Result<(), String> {
    let vmids: BTreeSet<&u32> = found.keys().chain(expected.keys()).collect();
    let mut words = Vec::new();
    for vmid in vmids {
        match (found.get(vmid), expected.get(vmid)) {
            (Some(options), None) => words.push(format!("guest {vmid} should not be there: {options:?}")),
            (None, Some(_)) => words.push(format!("guest {vmid} is missing")),
            (Some(found), Some(expected)) => {
                let options: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
                let differ = options.into_iter().filter(|key| found.get(*key) != expected.get(*key));
                words.extend(differ.map(|key| {
                    let value =
                        |of: &BTreeMap<String, String>| of.get(key).cloned().unwrap_or_else(|| "nothing".into());
                    format!("guest {vmid} has {key} {} instead of {}", value(found), value(expected))
                }));
            }
            (None, None) => {}
        }
    }
    match words.is_empty() {
        true => Ok(()),
        false => Err(format!("it ends differently: {}", words.join("; "))),
    }
}

impl Run {
    /// Whether it ended as if nothing had happened.
    fn verdict(&self, usual: &Undisturbed) -> Result<(), String> {
        self.result.clone()?;
        same_end(&end(&self.world), &usual.end)
    }
}

/// Runs a lifecycle once for each disturbance; panics with the failures.
async fn all_end_alike(lifecycle: &'static Lifecycle, undisturbed: &Undisturbed, disturbances: Vec<Disturbance>) {
    let number = disturbances.len();
    let runs = disturbances
        .into_iter()
        .map(|disturbance| move || async move { ends_alike(lifecycle, &disturbance, undisturbed).await });
    report(lifecycle.name, number, runs);
}

async fn ends_alike(lifecycle: &Lifecycle, disturbance: &Disturbance, usual: &Undisturbed) -> Result<(), String> {
    let run = run(lifecycle, &disturbance.mishaps).await;
    let told = |error: String| {
        let story = story::story(&run.world, &error);
        format!("{}, {}:\n{story}", lifecycle.name, disturbance.name)
    };
    run.verdict(usual).map_err(told)
}

/// Runs something in a runtime of its own, on a clock that nobody else moves: what it comes to depends on nothing else.
fn in_a_runtime<T, F: Future<Output = T>>(run: impl FnOnce() -> F) -> T {
    inprocess::runtime().block_on(async { run().await })
}

fn report<F: Future<Output = Result<(), String>>>(
    what: &str,
    number: usize,
    runs: impl Iterator<Item = impl FnOnce() -> F> + Send,
) {
    let failing = || {
        // A few tell as much as all, and a failure takes long.
        let failing = runs.filter_map(|run| in_a_runtime(run).err()).take(3);
        failing.collect::<Vec<String>>()
    };
    let mut failures = std::thread::scope(|scope| scope.spawn(failing).join().unwrap());
    println!("{what}: {number} runs");
    failures.sort_by_key(String::len);
    assert!(
        failures.is_empty(),
        "{what}: {} of {number} runs failed at least, the first:\n{}",
        failures.len(),
        failures[0]
    );
}

/// One test for each lifecycle, so that they run side by side and are named when they fail.
macro_rules! for_each_lifecycle {
    ($sweep:path) => {
        $crate::for_each_lifecycle! { $sweep;
            create_from_image: 0, clone_from_snapshot: 1, linked_clone: 2, change_and_grow: 3, retained_volume: 4,
            delete: 5, adopt_and_delete: 6, adopted_with_data: 7, features: 8, machine_from_image: 9,
            machine_template: 10, machine_change: 11, machine_delete: 12, template_revised: 13,
            scripts: 14, script_cancelled: 15, two_namespaces: 16, gpu_proven: 17,
        }
    };
    ($sweep:path; $($name:ident: $index:expr,)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $name() {
            $sweep(&$crate::lifecycles::LIFECYCLES[$index]).await;
        })*
        #[test]
        fn every_lifecycle_is_swept() {
            assert_eq!([$($index),*].len(), $crate::lifecycles::LIFECYCLES.len());
        }
    };
}
pub(crate) use for_each_lifecycle;
