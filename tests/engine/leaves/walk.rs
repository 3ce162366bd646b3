//! The walk of one leaf from one value to another, and what became of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use phoenix::admission::{Admission, Violation};
use phoenix::crd::{GuestStatus, RESTARTED_AT};
use phoenix::desired::Key;
use phoenix::pve::Vmid;
use phoenix::simulator::State;
use regex::{Captures, Regex};
use serde_json::{Value, json};

use crate::engine::{World, object, status};

/// Looks at an object until it counts as one that does not settle.
const LOOKS: usize = 25;

/// One leaf: specs with two values of it, and without any.
#[derive(Clone, Debug)]
pub struct Row {
    pub leaf: String,
    pub first: Value,
    pub second: Value,
    pub dropped: Value,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The cluster holds something else now.
    Effect(String),
    /// It waits, and says for what.
    Waits(String),
    /// Admission or the engine refuses it.
    Refused(String),
    /// Nothing says anything.
    Ignored,
}

impl Verdict {
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Effect(_) => "effect",
            Verdict::Waits(_) => "waits",
            Verdict::Refused(_) => "refused",
            Verdict::Ignored => "ignored",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Effect(text) | Verdict::Waits(text) | Verdict::Refused(text) => {
                write!(f, "{}: {text}", self.word())
            }
            Verdict::Ignored => f.write_str("ignored"),
        }
    }
}

/// What was found on a walk.
#[derive(Clone, Debug)]
pub struct Found {
    pub leaf: String,
    pub changed: Verdict,
    pub dropped: Verdict,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// An object on its walk.
struct Walker {
    row: Row,
    key: Key,
    manifest: Value,
    found: Found,
    vmid: Option<Vmid>,
}

/// Walks all rows side by side in one world.
pub async fn walk(world: &World, admission: &Admission, kind: &'static str, rows: Vec<Row>) -> Vec<Found> {
    let mut walkers = Vec::new();
    let mut broken = Vec::new();
    for (n, row) in rows.into_iter().enumerate() {
        match Walker::begin(world, admission, kind, n, row) {
            Ok(walker) => walkers.push(walker),
            Err(found) => broken.push(found),
        }
    }
    settle(world, &mut walkers, "with the first value").await;
    for walker in &mut walkers {
        let status = status(world, &walker.key);
        if !object(world, &walker.key).is_ready() {
            let message = status.message.clone().unwrap_or_default();
            walker.fault(format!("is not Ready with the first value: {message}"));
        }
        walker.vmid = status.vmid();
    }
    for changed in [true, false] {
        let before = holdings(world, &walkers);
        world
            .sim()
            .with(|state| state.guests.values_mut().for_each(|guest| guest.inside.probed.clear()));
        let mut verdicts = Vec::new();
        for walker in &mut walkers {
            verdicts.push(walker.apply(world, admission, changed).await);
        }
        settle(
            world,
            &mut walkers,
            if changed {
                "with the second value"
            } else {
                "without the value"
            },
        )
        .await;
        let after = holdings(world, &walkers);
        for (n, (walker, (refused, plan))) in walkers.iter_mut().zip(verdicts).enumerate() {
            let verdict = refused.unwrap_or_else(|| walker.verdict(world, &before[n], &after[n]));
            // What is only asked of a guest changes nothing on it.
            let asked = |text: &str| {
                text.split(" + ")
                    .all(|part| part.trim_start_matches("- ").starts_with("probe"))
            };
            if let Verdict::Effect(text) = &verdict
                && plan.is_empty()
                && !asked(text)
            {
                walker.fault(format!("no plan of it: {verdict}"));
            }
            match changed {
                true => walker.found.changed = verdict,
                false => walker.found.dropped = verdict,
            }
        }
    }
    broken.extend(walkers.into_iter().map(|w| w.found));
    broken.sort_by(|a, b| a.leaf.cmp(&b.leaf));
    broken
}

impl Walker {
    fn begin(world: &World, admission: &Admission, kind: &'static str, n: usize, row: Row) -> Result<Walker, Found> {
        let found = Found {
            leaf: row.leaf.clone(),
            changed: Verdict::Ignored,
            dropped: Verdict::Ignored,
            faults: Vec::new(),
        };
        // Every object has an address of its own.
        let ip = format!("10.{}.{}.7", 20 + n / 200, n % 200);
        let own = |spec: &Value| serde_json::from_str(&spec.to_string().replace("@IP", &ip)).unwrap();
        let row = Row {
            leaf: row.leaf,
            first: own(&row.first),
            second: own(&row.second),
            dropped: own(&row.dropped),
        };
        let manifest = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
            "metadata": {"name": format!("w{n}"), "namespace": "ai"}, "spec": row.first,
        });
        match admission.check(&manifest, None) {
            Ok(admitted) => Ok(Walker {
                key: world.store.apply(admitted.clone()),
                manifest: admitted,
                row,
                found,
                vmid: None,
            }),
            Err(violations) => Err(Found {
                faults: vec![format!(
                    "{}: the first value is refused: {}",
                    found.leaf,
                    told(&violations)
                )],
                ..found
            }),
        }
    }

    fn fault(&mut self, text: String) {
        self.found.faults.push(format!("{}: {text}", self.row.leaf));
    }

    /// Applies the other value, or none; a refusal by admission, or the lines of the plan of it.
    async fn apply(&mut self, world: &World, admission: &Admission, changed: bool) -> (Option<Verdict>, Vec<String>) {
        let mut next = self.manifest.clone();
        next["spec"] = if changed {
            self.row.second.clone()
        } else {
            self.row.dropped.clone()
        };
        let mut old = self.manifest.clone();
        old["status"] = serde_json::to_value(status(world, &self.key)).unwrap();
        let checked = admission.check(&next, Some(&old));
        match checked {
            Ok(mut admitted) => {
                admitted.as_object_mut().unwrap().remove("status");
                if self.row.leaf.contains("health.startup") {
                    // It is asked after a start only.
                    admitted["metadata"]["annotations"] = json!({RESTARTED_AT: format!("{changed}")});
                }
                self.manifest = admitted.clone();
                world.store.apply(admitted);
                let preview = world.preview(&self.key).await;
                let blocked = preview.blocked.map(|cause| cause.to_string());
                (
                    None,
                    preview.steps.into_iter().map(|(step, _)| step).chain(blocked).collect(),
                )
            }
            Err(violations) => {
                let mut names = self.row.leaf.split(['.', '[', '{']);
                let text = told(&violations);
                if changed && !names.any(|name| name.len() > 2 && text.contains(name)) {
                    self.fault(format!("a refusal that does not name it: {text}"));
                }
                (Some(Verdict::Refused(text)), Vec::new())
            }
        }
    }

    fn verdict(&mut self, world: &World, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Verdict {
        let status = status(world, &self.key);
        if before != after {
            return Verdict::Effect(difference(before, after));
        }
        let text = |c: &Condition| self.plain(&format!("{}: {}", c.reason, c.message), status.vmid());
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        let stalled = status
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.status == "True");
        if let Some(ready) = ready.filter(|c| c.status != "True") {
            return match stalled {
                true => Verdict::Refused(text(ready)),
                false => Verdict::Waits(text(ready)),
            };
        }
        let finding = status.conditions.iter().find(|c| {
            let told = ["RestartRequired", "RecreateRequired"].contains(&c.type_.as_str());
            told && c.status == "True" || super::FINDINGS.contains(&(c.type_.as_str(), c.status.as_str()))
        });
        finding.map_or(Verdict::Ignored, |c| Verdict::Waits(text(c)))
    }

    fn plain(&self, text: &str, vmid: Option<Vmid>) -> String {
        plain(text, vmid, &self.key.name)
    }
}

fn told(violations: &[Violation]) -> String {
    let all: BTreeSet<String> = violations.iter().map(ToString::to_string).collect();
    all.into_iter().collect::<Vec<_>>().join("; ")
}

/// Looks at every object until it is Ready or Stalled, and twice more, in which nothing may be written.
async fn settle(world: &World, walkers: &mut [Walker], when: &str) {
    let mut open: BTreeSet<Key> = walkers.iter().map(|w| w.key.clone()).collect();
    for look in 0..LOOKS {
        world.poll().await;
        join_all(open.iter().map(|key| world.look_at(key))).await;
        // What fails again and again, and says so, has an end of its kind: it is tried again after longer and longer pauses.
        let told = |key: &Key| look > 6 && status(world, key).last_error.is_some();
        open.retain(|key| !settled(world, key) && !told(key));
        if open.is_empty() {
            break;
        }
        world.pause().await;
    }
    for walker in walkers.iter_mut().filter(|w| open.contains(&w.key)) {
        let status = status(world, &walker.key);
        let told: Vec<String> = status
            .conditions
            .iter()
            .map(|c| format!("{} {}: {}", c.type_, c.reason, c.message))
            .collect();
        walker.fault(format!(
            "does not settle {when}: {:?} {:?} {:?} {told:?}",
            status.phase, status.message, status.last_error
        ));
    }
    world.poll().await;
    for walker in walkers.iter_mut().filter(|w| settled(world, &w.key)) {
        // What was refused may be due again, once: that is no loop.
        if status(world, &walker.key).next_retry.is_some() {
            world.look_at(&walker.key).await;
        }
        let from = world.sim().requests().len();
        world.look_at(&walker.key).await;
        let log = world.sim().requests();
        let later: Vec<String> = log[from..]
            .iter()
            .filter(|r| r.is_write() && r.path != "/access/ticket" && !r.path.contains("/agent/"))
            .map(|r| format!("{} {}", r.method, r.path))
            .collect();
        if !later.is_empty() {
            walker.fault(format!("is written again and again {when}: {later:?}"));
        }
    }
}

fn settled(world: &World, key: &Key) -> bool {
    let object = object(world, key);
    let stalled = |status: &GuestStatus| {
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.status == "True")
    };
    object.status.observed_generation == Some(object.generation) && (object.is_ready() || stalled(&object.status))
}

/// What the cluster holds of each object's guest.
fn holdings(world: &World, walkers: &[Walker]) -> Vec<BTreeSet<String>> {
    let all = world.guests();
    let of = |walker: &Walker| {
        let vmid = status(world, &walker.key).vmid();
        let mut lines = BTreeSet::new();
        if let Some(vmid) = vmid {
            let id = vmid.get();
            let options = all.get(&id).cloned().unwrap_or_default();
            world.sim().with(|state| collect(state, id, &options, &mut lines));
        }
        lines.iter().map(|line| plain(line, vmid, &walker.key.name)).collect()
    };
    walkers.iter().map(of).collect()
}

fn collect(state: &State, vmid: u32, options: &BTreeMap<String, String>, lines: &mut BTreeSet<String>) {
    let mut add = |what: &str, value: &dyn std::fmt::Display| {
        lines.insert(format!("{what}: {value}"));
    };
    for (key, value) in options.iter().filter(|(key, _)| *key != "digest") {
        value.lines().for_each(|line| add(key, &line));
    }
    let Some(guest) = state.guests.get(&vmid) else {
        return;
    };
    add("node", &guest.node);
    // Those that Proxmox made are chance.
    for mac in ["BC:24:11:00:00:01", "BC:24:11:00:00:02"] {
        if guest.text().contains(mac) {
            add("mac", &mac);
        }
    }
    for line in format!("{:#?}", guest.config().pending).lines() {
        add("pending", &line);
    }
    for (script, run) in &guest.inside.scripts {
        add("script", &format!("{script} {} run {}", run.hash, run.runs));
    }
    // Only what was asked since the value changed is there; the last line says what.
    for probe in &guest.inside.probed {
        let (seconds, command) = probe.split_once(' ').unwrap_or_default();
        let last = command
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        add("probe", &format!("{seconds} {last}"));
    }
    for (key, value) in &guest.machine.cloud_init {
        value.lines().for_each(|line| add(&format!("cloud-init {key}"), &line));
    }
    let files = guest.inside.files.iter();
    let custom = options.get("cicustom").map_or("", String::as_str);
    let snippets = state.nodes[&guest.node].files.iter();
    let snippets = snippets.filter(|(path, _)| path.rsplit('/').next().is_some_and(|name| custom.contains(name)));
    for (path, file) in files.chain(snippets) {
        add(&format!("mode of {path}"), &format!("{:o}", file.mode));
        let text = String::from_utf8_lossy(&file.content);
        text.lines().for_each(|line| add(path, &line));
    }
    if let Some(firewall) = state.firewalls.get(&vmid) {
        firewall
            .options
            .iter()
            .for_each(|(key, value)| add(&format!("firewall {key}"), value));
        let rules = firewall.rules.iter().enumerate();
        rules.for_each(|(n, rule)| add(&format!("rule {n}"), &format!("{rule:?}")));
    }
    for (name, _) in state.pools.iter().filter(|(_, pool)| pool.vms.contains(&vmid)) {
        add("pool", name);
    }
}

/// What differs from run to run, and the word for it.
static CHANCE: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{8,}\b", "HASH"),
        (r"\b10\.2[0-9]\.[0-9]+\.7\b", "IP"),
        (r"disk-[0-9]+", "disk-N"),
        (r"\b(vm|subvol|base)-[0-9]+-", "$1-VMID-"),
    ]
    .map(|(pattern, word)| (Regex::new(pattern).unwrap(), word))
});

/// What may be the object's name or its guest's id.
static OWN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(w[0-9]+|[1-4][0-9]{3})\b").unwrap());

/// Without what differs from run to run.
fn plain(text: &str, vmid: Option<Vmid>, name: &str) -> String {
    let vmid = vmid.map(|vmid| vmid.to_string());
    let own = |found: &Captures<'_>| match &found[0] {
        word if word == name => "NAME".to_owned(),
        word if Some(word) == vmid.as_deref() => "VMID".to_owned(),
        word => word.to_owned(),
    };
    let mut text = OWN.replace_all(text, own).into_owned();
    for (pattern, word) in CHANCE.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(&text, *word) {
            text = changed;
        }
    }
    text
}

/// What went and what came, a few lines of it.
fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    // A changed hash says only that something else changed.
    let lines = |from: &BTreeSet<String>, other: &BTreeSet<String>, sign: &str| -> Vec<String> {
        let all: Vec<&String> = from.difference(other).collect();
        let telling: Vec<&String> = all.iter().copied().filter(|line| !line.contains("HASH")).collect();
        let chosen = if telling.is_empty() { all } else { telling };
        let short = |line: &String| match line.char_indices().nth(100) {
            Some((at, _)) => format!("{sign}{}…", &line[..at]),
            None => format!("{sign}{line}"),
        };
        chosen.into_iter().take(3).map(short).collect()
    };
    let both = [lines(before, after, "- "), lines(after, before, "+ ")].concat();
    both.join(" ")
}
