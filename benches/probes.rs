//! Load of probes: a hundred containers of one node, each probed every ten seconds, against the same without probes.
//! Counts SSH connections, channels and API requests, and the processor time of the engine's own threads; the simulator
//! has threads of its own. `cargo bench --bench probes [-- SECONDS]`

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is the report")]

#[path = "../tests/common/engine.rs"]
mod engine;
#[path = "../tests/common/inprocess.rs"]
mod inprocess;

use std::sync::Arc;
use std::time::Duration;

use engine::{IMAGE, World, lxc};
use phoenix::desired::{Key, Objects};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

const GUESTS: usize = 100;
/// Guests worked on at once, as the operator's default.
const AT_ONCE: usize = 16;

/// What one run cost.
struct Cost {
    connections: usize,
    channels: usize,
    requests: usize,
    status_writes: usize,
    cpu_ms: u64,
}

fn runtime(name: &str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .unwrap()
}

/// Processor time that threads of a name have used, in milliseconds.
fn cpu_ms(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let ticks = stats.filter_map(|stat| {
        let (head, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // utime and stime (proc(5)), in hundredths of a second.
        let used = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
        head.ends_with(&format!("({name}")).then_some(used)
    });
    ticks.sum::<u64>() * 10
}

fn guest(n: usize, probed: bool) -> serde_json::Value {
    let mut fields = json!({
        "source": {"image": {"volid": IMAGE}}, "node": "phoenix",
        "network": [{"name": "eth0", "ip": format!("10.0.1.{}/24", n + 1)}],
    });
    if probed {
        fields["health"] = json!({"readiness": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 10}});
    }
    lxc(&format!("g{n:03}"), fields)
}

/// Makes the containers, at the simulator's speed.
async fn provision(world: &World, probed: bool) -> Vec<Key> {
    let mut hypervisor = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
    hypervisor.spec.limits = Some(serde_json::from_value(json!({"parallelTasksPerNode": 16})).unwrap());
    hypervisor.spec.vmid_range = Some(serde_json::from_value(json!({"start": 2000, "end": 2999})).unwrap());
    world.store.objects.insert_hypervisor(hypervisor);
    let keys: Vec<Key> = (0..GUESTS).map(|n| world.store.apply(guest(n, probed))).collect();
    loop {
        world.poll().await;
        futures::future::join_all(keys.iter().map(|key| world.look_at(key))).await;
        if keys.iter().all(|key| world.store.guest(key).unwrap().is_ready()) {
            return keys;
        }
    }
}

/// Works as the operator does, in real time.
async fn work(world: &World, keys: &[Key], seconds: u64) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let guests = keys.iter().map(|key| {
        let places = places.clone();
        async move {
            loop {
                let place = places.acquire().await.unwrap();
                let after = world.look_at(key).await;
                drop(place);
                tokio::time::sleep(after).await;
            }
        }
    });
    let polls = async {
        loop {
            world.poll().await;
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    let all = futures::future::join(futures::future::join_all(guests), polls);
    let _: Result<((), ()), _> = tokio::time::timeout(Duration::from_secs(seconds), async {
        all.await;
        ((), ())
    })
    .await;
}

fn measure(probed: bool, seconds: u64) -> Cost {
    let (simulator, operator) = (runtime("simulator"), runtime("operator"));
    let mut world = simulator.block_on(World::networked(&[]));
    let keys = simulator.block_on(provision(&world, probed));
    world.time_scale = 1.0;
    world.restart();
    let provisioned = world.ssh.as_ref().unwrap().0.connections();
    let requests = |world: &World| world.sim().requests().len();
    let server = |world: &World| {
        let (server, _) = world.ssh.as_ref().unwrap();
        (server.connections(), server.log().len())
    };
    let written = |world: &World| world.store.status_writes.load(std::sync::atomic::Ordering::SeqCst);
    // The first look at everything is not the steady state.
    let world = Arc::new(world);
    let run = |seconds| {
        let (world, keys) = (world.clone(), keys.clone());
        operator.block_on(async move {
            tokio::spawn(async move { work(&world, &keys, seconds).await })
                .await
                .unwrap()
        });
    };
    run(15);
    let before = (server(&world), requests(&world), written(&world), cpu_ms("operator"));
    run(seconds);
    let after = (server(&world), requests(&world), written(&world), cpu_ms("operator"));
    Cost {
        connections: after.0.0 - provisioned,
        channels: after.0.1 - before.0.1,
        requests: after.1 - before.1,
        status_writes: after.2 - before.2,
        cpu_ms: after.3 - before.3,
    }
}

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(60);
    let (without, with) = (measure(false, seconds), measure(true, seconds));
    let probes = GUESTS as u64 * seconds / 10;
    println!("{GUESTS} containers of one node, {seconds} s          without probes   with a probe each 10 s");
    let line = |what: &str, a: String, b: String| println!("{what:<44} {a:>14} {b:>24}");
    line(
        "SSH connections",
        without.connections.to_string(),
        with.connections.to_string(),
    );
    line("SSH channels", without.channels.to_string(), with.channels.to_string());
    line("API requests", without.requests.to_string(), with.requests.to_string());
    line(
        "status writes",
        without.status_writes.to_string(),
        with.status_writes.to_string(),
    );
    let cpu = |c: &Cost| format!("{} ms ({:.1} %)", c.cpu_ms, c.cpu_ms as f64 / seconds as f64 / 10.0);
    line("processor time of the engine", cpu(&without), cpu(&with));
    println!("probes per channel: {:.1}", probes as f64 / with.channels.max(1) as f64);
}
