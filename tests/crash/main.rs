//! Crash sweep (promises 1, 2 and 5): every lifecycle is disturbed at every position, and has to end as if nothing had
//! happened.
//!
//! * [`cuts`]: the engine dies before each effect, after it, and before each status write.
//! * [`faults`]: each write is lost, its answer is lost, or it fails; each task fails.
//! * [`schedules`]: several of these together, and more, at random.
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
mod schedules;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::Ordering;

use engine::World;
use lifecycles::Lifecycle;

/// Something that is done to a world before its lifecycle begins, and its name.
struct Disturbance {
    name: String,
    cuts: Vec<usize>,
    apply: Box<dyn Fn(&World) + Send + Sync>,
}

impl Disturbance {
    fn none() -> Self {
        Disturbance {
            name: "undisturbed".into(),
            cuts: Vec::new(),
            apply: Box::new(|_| ()),
        }
    }
}

/// Runs a lifecycle to its end; the world as it is then.
async fn run(lifecycle: &Lifecycle, disturbance: &Disturbance) -> Result<World, String> {
    let mut world = if lifecycle.ssh {
        World::with_ssh(&disturbance.cuts).await
    } else {
        World::new(&disturbance.cuts).await
    };
    (disturbance.apply)(&world);
    let context = |world: &World, error: String| {
        let cut = world.wire.last.lock().unwrap().clone();
        format!("{}, {} {cut}: {error}", lifecycle.name, disturbance.name)
    };
    for (n, phase) in lifecycle.phases.iter().enumerate() {
        phase(&world);
        let stalls = lifecycle.stalls && n + 1 == lifecycle.phases.len();
        let settled = world.settle(stalls).await;
        settled.map_err(|e| context(&world, e))?;
    }
    world.check_invariants().map_err(|e| context(&world, e))?;
    (lifecycle.check)(&world).map_err(|e| context(&world, e))?;
    Ok(world)
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

/// The end of an undisturbed run, for comparison.
struct Undisturbed {
    /// Points at which the engine can be cut off.
    points: usize,
    /// Writes, by verb and path.
    writes: BTreeMap<(String, String), u32>,
    /// All requests.
    requests: u32,
    /// Types of the tasks that ran.
    tasks: Vec<String>,
    end: String,
}

async fn undisturbed(lifecycle: &Lifecycle) -> Undisturbed {
    let world = run(lifecycle, &Disturbance::none()).await.unwrap();
    let log = world.sim().requests();
    let mut writes = BTreeMap::new();
    // Whether an agent is there is asked by POST, too.
    for request in log
        .iter()
        .filter(|r| r.method != "GET" && !r.path.ends_with("/agent/ping"))
    {
        *writes
            .entry((request.method.clone(), request.path.clone()))
            .or_default() += 1;
    }
    let mut tasks: Vec<String> = world.sim().with(|s| s.tasks.values().map(|t| t.kind.clone()).collect());
    tasks.sort();
    tasks.dedup();
    Undisturbed {
        points: world.wire.passed.load(Ordering::SeqCst),
        writes,
        requests: log.len() as u32,
        tasks,
        end: end(&world),
    }
}

/// What has to be the same in the end.
fn end(world: &World) -> String {
    format!("{:#?}", world.guests())
}

/// Runs a lifecycle once for each disturbance; panics with the failures.
async fn all_end_alike(lifecycle: &'static Lifecycle, undisturbed: &Undisturbed, disturbances: Vec<Disturbance>) {
    let number = disturbances.len();
    let runs = disturbances
        .into_iter()
        .map(|disturbance| move || async move { ends_alike(lifecycle, &disturbance, &undisturbed.end).await });
    report(lifecycle.name, number, runs).await;
}

async fn ends_alike(lifecycle: &Lifecycle, disturbance: &Disturbance, expected: &str) -> Result<(), String> {
    let found = end(&run(lifecycle, disturbance).await?);
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "{}, {}: ends differently:\n{found}\ninstead of\n{expected}",
        lifecycle.name, disturbance.name
    ))
}

/// Runs something in a runtime of its own, on a clock that nobody else moves: what it comes to depends on nothing else.
fn alone<T: Send, F: Future<Output = T>>(run: impl FnOnce() -> F + Send) -> T {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    std::thread::scope(|scope| scope.spawn(|| runtime().block_on(run())).join().unwrap())
}

async fn report<F: Future<Output = Result<(), String>>>(
    what: &str,
    number: usize,
    runs: impl Iterator<Item = impl FnOnce() -> F + Send>,
) {
    let mut failures = Vec::new();
    for run in runs {
        failures.extend(alone(run).err());
        // A few tell as much as all, and a failure takes long.
        if failures.len() == 3 {
            break;
        }
    }
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
            scripts: 14, script_cancelled: 15, two_namespaces: 16,
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
