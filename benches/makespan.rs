//! How long the fleet of a real user takes from the first look until all of it is Ready, against the limit that
//! `phoenix plan --estimate` tells with the simulator's durations, and where on the longest chain time passes in which
//! nothing works for it. In process, on a clock that goes as fast as the work does: the same figures in every run.
//! `cargo bench --bench makespan [-- FOLDER… NAME=SECONDS…]`: folders with the three legacy files, by default those of the
//! repository; what pieces of work take, by default what `phoenix plan --estimate` takes for usual.

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is the report")]

#[path = "../tests/common/driver.rs"]
mod driver;
#[path = "../tests/common/engine.rs"]
mod engine;
#[path = "../tests/common/inprocess.rs"]
mod inprocess;
#[path = "../tests/common/legacy_scripts.rs"]
mod legacy_scripts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use driver::{Whom, drive_telling};
use engine::{ADMISSION, World, hypervisor};
use phoenix::convert::{Input, Options, Role, convert};
use phoenix::crd::{GuestKind, PhoenixFeature};
use phoenix::desired::{Key, Objects as _, hypervisor as settings};
use phoenix::estimate::{Durations, limits};
use phoenix::simulator::model::guest::Guest;
use phoenix::simulator::model::task::{Task, Work};
use phoenix::simulator::model::vm_work::VmWork;
use phoenix::simulator::ssh::{SshAction, SshFault};
use serde_json::{Value, json};

/// Time that is too short to be told of, in milliseconds.
const SHORT: u64 = 200;

/// Simulated time after which a set counts as one that cannot get Ready.
const MOST: Duration = Duration::from_secs(2 * 3600);

/// Legacy files under a name.
struct Set {
    name: String,
    inputs: Vec<Input>,
}

fn read(path: &Path, role: Role) -> Option<Input> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).ok()?;
    Some(Input { file, bytes, role })
}

fn folder(name: &str, folder: &Path) -> Set {
    let files = [
        (Role::Hypervisor, "phoenix_hypervisor_config.json"),
        (Role::Lxc, "phoenix_lxc_configs.json"),
        (Role::Vm, "phoenix_vm_configs.json"),
    ];
    let inputs = files.iter().filter_map(|(role, file)| read(&folder.join(file), *role));
    Set {
        name: name.into(),
        inputs: inputs.collect(),
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The sets of the repository: the whole early fleet, and the model servers of two later days on the same hypervisor.
fn own() -> Vec<Set> {
    let early = repository("examples/legacy");
    let later = ["2025-10-08", "2025-11-25"].map(|day| {
        let hypervisor = read(&early.join("phoenix_hypervisor_config.json"), Role::Hypervisor);
        let file = repository("tests/convert/later").join(format!("{day}.json"));
        let inputs = hypervisor.into_iter().chain(read(&file, Role::Lxc));
        Set {
            name: format!("model servers of {day}"),
            inputs: inputs.collect(),
        }
    });
    [folder("the early fleet", &early)].into_iter().chain(later).collect()
}

/// Inserts the features that come with Phoenix, and one for each of the others that the objects name: their scripts are
/// not in the files.
fn insert_features(world: &World) {
    let mut known = BTreeSet::new();
    for entry in std::fs::read_dir(repository("config/features")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut feature: PhoenixFeature = serde_saphyr::from_str(&text).unwrap();
        feature.metadata.namespace = Some("ai".into());
        known.extend(feature.metadata.name.clone());
        known.extend(feature.spec.aliases.clone().unwrap_or_default());
        world.store.objects.insert_feature(feature);
    }
    let named = world.store.guests();
    let named = named
        .iter()
        .flat_map(|object| object.features())
        .map(|f| f.name.clone());
    for name in named.collect::<BTreeSet<_>>().difference(&known) {
        world.feature(name, json!({}));
    }
}

/// Converts the set, and applies what comes of it to a world.
fn apply(world: &World, set: &Set) {
    let options = Options {
        namespace: Some("ai".into()),
        hypervisor_name: "pve".into(),
        applications: Some(legacy_scripts::applications()),
        linked_clones: false,
        copy_secrets: false,
        routing: phoenix::convert::Routing::None,
    };
    let output = convert(&set.inputs, &options).unwrap();
    for (_, text) in output.files.iter().filter(|(file, _)| *file != "kustomization.yaml") {
        let manifest: Value = serde_saphyr::from_str(text).unwrap();
        let manifest = ADMISSION.check(&manifest, None).unwrap();
        match manifest["kind"].as_str().unwrap() {
            "ConfigMap" => world
                .store
                .objects
                .insert_config_map(serde_json::from_value(manifest).unwrap()),
            "PhoenixHypervisor" => hypervisor(world, |object| {
                // How it is reached is the world's; everything else is as converted.
                let mut spec = manifest["spec"].clone();
                let reached = serde_json::to_value(&object.spec).unwrap();
                for field in ["endpoints", "tls", "credentials", "ssh"] {
                    spec[field] = reached[field].clone();
                }
                object.spec = serde_json::from_value(spec).unwrap();
            }),
            _ => drop(world.store.apply(manifest)),
        }
    }
}

/// Something that works for a guest: from when to when, in milliseconds, and what.
type Span = (u64, u64, String);

/// The guest that a task works for.
fn whose(task: &Task) -> Option<u32> {
    match &task.work {
        Work::CtClone(clone) => Some(clone.newid),
        Work::Vm(work) => match work.as_ref() {
            VmWork::Clone(clone) => Some(clone.newid),
            _ => task.id.parse().ok(),
        },
        _ => task.id.parse().ok(),
    }
}

/// The tasks, boots and scripts of a guest since it was begun with, in order.
fn spans(world: &World, vmid: u32) -> Vec<Span> {
    world.sim().with(|state| {
        let now = state.now;
        let at = |ms: u64| ms.saturating_sub(inprocess::BEGIN);
        let tasks = state.tasks.values().filter(|task| whose(task) == Some(vmid));
        let mut spans: Vec<Span> = tasks
            .map(|task| (at(task.started_at), at(task.ended_at.unwrap_or(now)), task.kind.clone()))
            .collect();
        let began = spans.iter().map(|span| span.0).min().unwrap_or_default();
        if let Some(guest) = state.guests.get(&vmid) {
            let scripts = guest.inside.scripts.values();
            let scripts = scripts.map(|s| (at(s.started_at), at(s.ends_at), s.id.clone()));
            spans.extend(scripts.filter(|span| span.0 >= began));
            spans.extend(boot(guest).map(|(from, to)| (at(from), at(to), "boot".into())));
        }
        spans.sort();
        spans
    })
}

/// From when to when a machine booted.
fn boot(guest: &Guest) -> Option<(u64, u64)> {
    Some((guest.running.as_ref()?.since, guest.machine.agent_from?))
}

/// An object on the longest chain.
struct Link {
    key: Key,
    /// When all that it needs was Ready, and when it was.
    from: u64,
    to: u64,
    /// Times in which nothing worked for it, with what came before and after.
    idle: Vec<(u64, u64, String)>,
}

impl Link {
    fn new(world: &World, key: &Key, from: u64, to: u64) -> Link {
        let vmid = world
            .store
            .guest(key)
            .and_then(|object| object.status.vmid)
            .unwrap_or_default();
        let (mut at, mut before, mut idle) = (from, "what it needs".to_owned(), Vec::new());
        let end = (to, to, "Ready".to_owned());
        for (begins, ends, what) in spans(world, vmid as u32).into_iter().chain([end]) {
            if begins > at + SHORT {
                idle.push((at, begins, format!("from {before} to {what}")));
            }
            if ends > at {
                (at, before) = (ends, what);
            }
        }
        let key = key.clone();
        Link { key, from, to, idle }
    }

    fn waited(&self) -> u64 {
        self.idle.iter().map(|(from, to, _)| to - from).sum()
    }
}

/// From what was Ready last back to what nothing was needed for.
fn chain(world: &World, ready: &BTreeMap<Key, u64>) -> Vec<Link> {
    let mut links = Vec::new();
    let mut next = ready.iter().max_by_key(|(_, at)| **at);
    while let Some((key, to)) = next {
        let object = world.store.guest(key).unwrap();
        let templates = object.template_keys();
        let needs = templates.into_iter().chain(object.dependency_keys());
        let needs = needs.filter_map(|need| ready.get_key_value(&need));
        next = needs.max_by_key(|(_, at)| **at).filter(|(_, at)| *at < to);
        links.push(Link::new(world, key, next.map_or(0, |(_, at)| *at), *to));
    }
    links.reverse();
    links
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Makes the simulator take for each piece of work what a limit counts for it. Sealing is shutting down and a snapshot; of
/// a model the simulator runs the script that begins it.
fn pace(world: &World, durations: &Durations) {
    let ms = |name: &str| (durations.of(name) * 1000.0) as u64;
    world.sim().with(|state| {
        let latency = &mut state.latency;
        (latency.create, latency.start) = (ms("create"), ms("start"));
        (latency.clone_full, latency.clone_linked) = (ms("clone-full"), ms("clone-linked"));
        latency.shutdown = ms("seal").saturating_sub(latency.snapshot);
        state.ssh.script_ms = ms("script");
        state.ssh.faults.push(SshFault {
            vmid: None,
            command: "start vllm".into(),
            action: SshAction::Last { ms: ms("model") },
            count: None,
        });
    });
}

async fn fleet(set: &Set, durations: &Durations) {
    let world = World::timed().await;
    pace(&world, durations);
    apply(&world, set);
    insert_features(&world);
    let objects = world.store.guests();
    let began = tokio::time::Instant::now();
    let mut ready: BTreeMap<Key, u64> = BTreeMap::new();
    let mut told = |key: &Key, is_ready: bool| {
        if !is_ready {
            ready.remove(key);
        } else if !ready.contains_key(key) {
            ready.insert(key.clone(), began.elapsed().as_millis() as u64);
        }
    };
    let Some(took) = drive_telling(&world, MOST, Whom::All, &mut told).await else {
        println!("{}: not Ready after {MOST:?}:", set.name);
        for g in world.store.guests().into_iter().filter(|g| !g.is_ready()) {
            let (phase, message) = (g.status.phase.unwrap_or_default(), g.status.message.unwrap_or_default());
            println!("  {} {phase}: {message}", g.key);
        }
        return;
    };
    let spec = world.store.hypervisor("ai", "pve").unwrap().spec.clone();
    let limits = limits(&objects, durations, |_| settings::parallel_tasks(&spec));
    let limit = &limits[0];
    println!(
        "{}: {} objects in {:.1} s, limit {:.1} s ({}), ratio {:.3}",
        set.name,
        objects.len(),
        took.as_secs_f64(),
        limit.seconds,
        limit.what,
        took.as_secs_f64() / limit.seconds
    );
    for link in chain(&world, &ready) {
        let what = match link.key.kind {
            GuestKind::PhoenixTemplate => "template",
            _ => "guest",
        };
        println!(
            "  {what} {}: {:.1} s to {:.1} s, of which nothing worked for it {:.1} s",
            link.key.name,
            seconds(link.from),
            seconds(link.to),
            seconds(link.waited())
        );
        for (from, to, what) in &link.idle {
            println!("    {:6.1} s {what}", seconds(to - from));
        }
    }
}

fn main() {
    let mut durations = Durations::default();
    for took in std::env::args().filter(|a| a.contains('=')) {
        durations.set(&took).unwrap();
    }
    let folders: Vec<String> = std::env::args().skip(1).filter(|a| Path::new(a).is_dir()).collect();
    let given: Vec<Set> = folders.iter().map(|name| folder(name, Path::new(name))).collect();
    let sets = if given.is_empty() { own() } else { given };
    for set in &sets {
        inprocess::runtime().block_on(fleet(set, &durations));
    }
}
