//! What fifty guests cost that are made at once: requests to Proxmox and status writes a guest, and how long it takes
//! against the limit that Proxmox sets. In process, on a clock that goes as fast as the work does: the same figures in
//! every run. `cargo bench --bench queue [-- GUESTS]`

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is the report")]

#[path = "../tests/common/driver.rs"]
mod driver;
#[path = "../tests/common/engine.rs"]
mod engine;
#[path = "../tests/common/inprocess.rs"]
mod inprocess;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use driver::{Whom, drive};
use engine::{World, guest, hypervisor, lxc, template};
use phoenix::crd::GUEST_TASKS_DEFAULT;
use phoenix::desired::Objects as _;
use regex::Regex;
use serde_json::{Value, json};

/// What the guests are made of.
#[derive(Clone, Copy)]
enum From {
    FullClone,
    LinkedClone,
    /// Of a template whose firewall has a rule, which each clone gets rid of.
    GuardedClone,
    Image,
}

/// Seconds that Proxmox takes at least: clones of one container are made one after the other, and a node has four places
/// for tasks.
fn limit(world: &World, from: From, guests: usize) -> f64 {
    let latency = world.sim().with(|state| state.latency.clone());
    let each = match from {
        From::FullClone => latency.clone_full,
        From::LinkedClone | From::GuardedClone => latency.clone_linked,
        From::Image => (latency.create + latency.start) / GUEST_TASKS_DEFAULT as u64,
    };
    each as f64 / 1000.0 * guests as f64
}

fn manifest(n: usize, from: From) -> Value {
    let name = format!("g{n:04}");
    let address = format!("10.{}.{}.{}/8", 1 + n / 60_000, n / 240 % 250, n % 240 + 1);
    let network = json!([{"name": "eth0", "ip": address}]);
    match from {
        From::Image => guest(&name, json!({"network": network})),
        _ => lxc(
            &name,
            json!({"network": network, "source": {"templateRef": {"name": "base"}}}),
        ),
    }
}

async fn fleet(title: &str, from: From, guests: usize) {
    let world = World::timed().await;
    hypervisor(&world, |h| {
        let range = json!({"start": 1000, "end": 1000 + guests + 50});
        h.spec.vmid_range = Some(serde_json::from_value(range).unwrap());
    });
    let form = match from {
        From::FullClone => Some("Snapshot"),
        From::LinkedClone | From::GuardedClone => Some("Template"),
        From::Image => None,
    };
    if let Some(form) = form {
        let mut base = template("base", form);
        if !matches!(from, From::GuardedClone) {
            base["spec"]["lxc"]["firewall"] = Value::Null;
        }
        world.store.apply(base);
        drive(&world, Duration::from_secs(3600), Whom::All).await.unwrap();
    }
    let (before, written) = (
        world.sim().requests().len(),
        world.store.status_writes.load(Ordering::SeqCst),
    );
    let events = world.store.events.lock().unwrap().len();
    let tasks = |world: &World| world.sim().with(|s| s.tasks.len());
    let known = tasks(&world);
    for n in 0..guests {
        world.store.apply(manifest(n, from));
    }
    let took = drive(&world, Duration::from_secs(3600 * 10), Whom::New).await;
    let log = world.sim().requests();
    let sent = log[before..].len();
    let digits = Regex::new(r"/\d{3,}").unwrap();
    let upid = Regex::new(r"UPID[^/]*").unwrap();
    let mut routes: BTreeMap<String, usize> = BTreeMap::new();
    for request in &log[before..] {
        let path = upid.replace_all(&request.path, "{upid}");
        *routes
            .entry(format!("{} {}", request.method, digits.replace_all(&path, "/{vmid}")))
            .or_default() += 1;
    }
    let writes = world.store.status_writes.load(Ordering::SeqCst) - written;
    let told = world.store.events.lock().unwrap().len() - events;
    let each = |n: usize| n as f64 / guests as f64;
    let (limit, seconds) = (limit(&world, from, guests), took.unwrap_or_default().as_secs_f64());
    println!(
        "{title}: {guests} guests in {seconds:.1} s, limit {limit:.1} s, ratio {:.3}; a guest: {:.1} requests, {:.1} status writes, {:.1} events; {} tasks",
        seconds / limit,
        each(sent),
        each(writes),
        each(told),
        tasks(&world) - known
    );
    let mut routes: Vec<_> = routes.into_iter().collect();
    routes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    for (route, n) in routes {
        println!("  {:8.2} {route}", each(n));
    }
    if took.is_none() {
        for g in world.store.guests() {
            println!("{}: {:?} {:?}", g.key, g.status.phase, g.status.message);
        }
    }
}

fn main() {
    let guests = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(50);
    for (title, from) in [
        ("full clones", From::FullClone),
        ("linked clones", From::LinkedClone),
        ("linked clones, each with a firewall rule to clear", From::GuardedClone),
        ("from an image", From::Image),
    ] {
        inprocess::runtime().block_on(fleet(title, from, guests));
    }
}
