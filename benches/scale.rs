//! How the engine's own work grows with the number of objects: what it takes to begin with all of them, and to make one
//! more among them. In process, on a clock that goes as fast as the work does; the simulator's time is left out.
//! `cargo bench --bench scale [-- NUMBERS…]`, by default 250 500 1000 2000

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is the report")]

#[path = "../tests/common/driver.rs"]
mod driver;
#[path = "../tests/common/engine.rs"]
mod engine;
#[path = "../tests/common/inprocess.rs"]
mod inprocess;

use std::sync::atomic::Ordering;
use std::time::Duration;

use driver::{Whom, drive};
use engine::{World, guest, hypervisor};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a piece of work took.
#[derive(Clone, Copy)]
struct Cost {
    /// Processor time without the simulator's, in milliseconds.
    cpu: f64,
    requests: usize,
    /// Configurations of guests that were read.
    configs: usize,
    writes: usize,
}

fn manifest(n: usize) -> Value {
    let address = format!("10.{}.{}.{}/8", 1 + n / 60_000, n / 240 % 250, n % 240 + 1);
    guest(
        &format!("g{n:05}"),
        json!({"network": [{"name": "eth0", "ip": address}]}),
    )
}

/// Processor time of this thread in milliseconds.
fn cpu() -> f64 {
    inprocess::cpu_ns() as f64 / 1e6
}

/// Memory of this process in MiB.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

async fn measured(world: &World, whom: Whom) -> Cost {
    let simulated = || inprocess::SIMULATED.load(Ordering::SeqCst) as f64 / 1e6;
    let counts = |world: &World| {
        let requests = world.sim().requests();
        let configs = requests
            .iter()
            .filter(|r| r.method == "GET" && r.path.ends_with("/config"));
        let writes = world.store.status_writes.load(Ordering::SeqCst);
        (requests.len(), configs.count(), writes)
    };
    let ((requests, configs, writes), before, sim) = (counts(world), cpu(), simulated());
    drive(world, DAY, whom).await.unwrap();
    let (after, (sent, read, written)) = (cpu(), counts(world));
    Cost {
        cpu: (after - before) - (simulated() - sim),
        requests: sent - requests,
        configs: read - configs,
        writes: written - writes,
    }
}

async fn size(number: usize) -> (Cost, Cost) {
    let mut world = World::new(&[]).await;
    hypervisor(&world, |h| {
        let range = json!({"start": 1000, "end": 1000 + number + 50});
        h.spec.vmid_range = Some(serde_json::from_value(range).unwrap());
        h.spec.limits = Some(serde_json::from_value(json!({"parallelTasksPerNode": 16})).unwrap());
    });
    for n in 0..number {
        world.store.apply(manifest(n));
    }
    let made = measured(&world, Whom::All).await;
    world.time_scale = 1.0;
    world.restart();
    world.sim().clear_requests();
    let cold = measured(&world, Whom::All).await;
    world.store.apply(manifest(number));
    let one = measured(&world, Whom::New).await;
    // As after a cluster that was built anew, from Git: the guests are there, and status knows nothing of them.
    world.store.forget();
    world.restart();
    let found = measured(&world, Whom::All).await;
    println!(
        "{number:6} objects: made with {:.2} ms and {:.1} requests each; begun with in {:.0} ms and {} requests, {} writes; \
         one more: {:.2} ms, {} requests, {} writes; found again without status with {:.2} ms and {:.1} requests each, {:.1} of them configurations; {:.0} MiB with the simulator",
        made.cpu / number as f64,
        made.requests as f64 / number as f64,
        cold.cpu,
        cold.requests,
        cold.writes,
        one.cpu,
        one.requests,
        one.writes,
        found.cpu / number as f64,
        found.requests as f64 / number as f64,
        found.configs as f64 / number as f64,
        resident()
    );
    (cold, one)
}

fn main() {
    inprocess::MEASURED.store(true, Ordering::SeqCst);
    let mut numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    if numbers.is_empty() {
        numbers = vec![250, 500, 1000, 2000];
    }
    let run = |number: &usize| inprocess::runtime().block_on(size(*number));
    let costs: Vec<(Cost, Cost)> = numbers.iter().map(run).collect();
    let grows = |cost: fn(&(Cost, Cost)) -> f64| {
        let (first, last) = (cost(&costs[0]), cost(&costs[costs.len() - 1]));
        (last / first).ln() / (numbers[numbers.len() - 1] as f64 / numbers[0] as f64).ln()
    };
    if numbers.len() > 1 {
        println!(
            "beginning grows with the number to the power of {:.2}",
            grows(|(cold, _)| cold.cpu)
        );
        println!(
            "one more grows with the number to the power of {:.2}",
            grows(|(_, one)| one.cpu)
        );
    }
}
