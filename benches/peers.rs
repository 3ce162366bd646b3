//! How many requests to Proxmox a guest costs, by Phoenix and by another program, over HTTPS against the simulator, in real
//! time, on a node whose tasks are some times faster than usual. `cargo bench --bench peers [-- GUESTS]`, by default 50.
//!
//! The other program is the shell command in `PEER`. It makes its guests and ends; it finds the simulator by
//!
//! - `PROXMOX_URL`, `PROXMOX_NODE`, `PROXMOX_CA` (a file), `PROXMOX_TOKEN` (`USER@REALM!NAME=SECRET`),
//! - `PEER_GUESTS`: how many guests are wanted, `PEER_IMAGE`: the archive for containers, `PEER_TEMPLATE`: the id of a
//!   container that can be cloned.
//!
//! `PEER=tests/evidence/peer.sh cargo bench --bench peers` shows the least: create, wait, start, wait.

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is the report")]

#[path = "../tests/common/driver.rs"]
mod driver;
#[path = "../tests/common/engine.rs"]
mod engine;
#[path = "../tests/common/inprocess.rs"]
mod inprocess;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use driver::{Whom, drive};
use engine::{IMAGE, Nodes, World, guest, hypervisor, lxc, made_by_hand, template};
use phoenix::desired::Objects as _;
use serde_json::json;

/// How many times faster than usual the node's tasks are.
const TIMES: u64 = 20;
const HOUR: Duration = Duration::from_secs(3600);

/// A fresh simulator of a fast node.
async fn fast() -> World {
    let world = World::start(&[], Nodes::Connected).await;
    world.sim().with(|state| {
        let latency = &mut state.latency;
        for task in [
            &mut latency.create,
            &mut latency.clone_full,
            &mut latency.start,
            &mut latency.shutdown,
            &mut latency.snapshot,
        ] {
            *task /= TIMES;
        }
    });
    world
}

/// Prints what was asked since the log had `before` requests, for so many guests.
fn told(world: &World, title: &str, before: usize, guests: usize) {
    let log = world.sim().requests();
    let mut methods: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &log[before..] {
        *methods.entry(request.method.as_str()).or_default() += 1;
    }
    let each = |n: usize| n as f64 / guests.max(1) as f64;
    let parts: Vec<String> = methods
        .iter()
        .map(|(method, n)| format!("{:.1} {method}", each(*n)))
        .collect();
    let sum = each(log.len() - before);
    println!(
        "{title}: {guests} guests, {sum:.1} requests a guest ({})",
        parts.join(", ")
    );
}

async fn phoenix(guests: usize, cloned: bool) {
    let world = fast().await;
    hypervisor(&world, |h| {
        let range = json!({"start": 1000, "end": 1000 + guests + 50});
        h.spec.vmid_range = Some(serde_json::from_value(range).unwrap());
    });
    if cloned {
        world.store.apply(template("base", "Snapshot"));
        drive(&world, HOUR, Whom::All).await.unwrap();
    }
    let before = world.sim().requests().len();
    for n in 0..guests {
        let network = json!([{"name": "eth0", "ip": format!("10.1.{}.{}/8", n / 240, n % 240 + 1)}]);
        let name = format!("g{n:04}");
        world.store.apply(match cloned {
            true => lxc(
                &name,
                json!({"network": network, "source": {"templateRef": {"name": "base"}}}),
            ),
            false => guest(&name, json!({"network": network})),
        });
    }
    drive(&world, HOUR, Whom::New).await.unwrap();
    let title = if cloned {
        "Phoenix, full clones"
    } else {
        "Phoenix, from an image"
    };
    told(&world, title, before, guests);
}

/// Runs somebody else's command on a fresh simulator.
async fn peer(command: &str, guests: usize) {
    let world = fast().await;
    made_by_hand(&world);
    let network = world.network.as_ref().unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &network.certificates.ca_pem).unwrap();
    let secret = world.store.secret("ai", "token").unwrap();
    let token = secret.string_data.as_ref().unwrap()["secret"].clone();
    let known = world.sim().with(|state| state.guests.len());
    let mut process = Command::new("sh");
    process
        .args(["-c", command])
        .env("PROXMOX_URL", &network.server.base_url)
        .env("PROXMOX_NODE", "phoenix")
        .env("PROXMOX_CA", &ca)
        .env("PROXMOX_TOKEN", format!("phoenix@pve!operator={token}"))
        .env("PEER_GUESTS", guests.to_string())
        .env("PEER_IMAGE", IMAGE)
        .env("PEER_TEMPLATE", "500");
    let status = tokio::task::spawn_blocking(move || process.status()).await.unwrap();
    let made = world.sim().with(|state| state.guests.len()) - known;
    let running = world
        .sim()
        .with(|state| state.guests.values().filter(|g| g.running.is_some()).count());
    println!("{command}: ended with {}, {running} guests run", status.unwrap());
    told(&world, command, 0, made);
}

fn main() {
    let guests = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(50);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for cloned in [true, false] {
        runtime.block_on(phoenix(guests, cloned));
    }
    if let Ok(command) = std::env::var("PEER") {
        runtime.block_on(peer(&command, guests));
    }
}
