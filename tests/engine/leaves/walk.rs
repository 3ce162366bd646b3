//! The walk of one leaf from one value to another, and what became of it.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use phoenix::admission::{Admission, Violation};
use phoenix::crd::{GuestStatus, RESTARTED_AT};
use phoenix::desired::Key;
use phoenix::pve::Vmid;
use phoenix::simulator::Edit;
use serde_json::{Value, json};

use super::lines::{collect, difference, plain};
use crate::engine::{World, edit, object, status};

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
        let refused: Vec<Option<Verdict>> = walkers
            .iter_mut()
            .map(|walker| walker.apply(world, admission, changed))
            .collect();
        let plans = join_all(walkers.iter().map(|walker| walker.plan(world))).await;
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
        for (n, (walker, (refused, plan))) in walkers.iter_mut().zip(refused.into_iter().zip(plans)).enumerate() {
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

/// Objects with what they refer to in between: what becomes of each when that changes.
pub async fn walk_beside(
    world: &World,
    admission: &Admission,
    kind: &'static str,
    objects: Vec<(String, Value)>,
    change: impl FnOnce(),
) -> Vec<Found> {
    let mut walkers = Vec::new();
    for (n, (leaf, spec)) in objects.into_iter().enumerate() {
        let row = Row {
            leaf,
            first: spec.clone(),
            second: spec.clone(),
            dropped: spec,
        };
        match Walker::begin(world, admission, kind, n, row) {
            Ok(walker) => walkers.push(walker),
            Err(found) => return vec![found],
        }
    }
    settle(world, &mut walkers, "with the first value").await;
    for walker in walkers.iter_mut().filter(|w| !object(world, &w.key).is_ready()) {
        walker.fault(format!(
            "is not Ready with the first value: {:?}",
            status(world, &walker.key).message
        ));
    }
    let before = holdings(world, &walkers);
    change();
    settle(world, &mut walkers, "with the second value").await;
    let after = holdings(world, &walkers);
    for (n, walker) in walkers.iter_mut().enumerate() {
        walker.found.changed = walker.verdict(world, &before[n], &after[n]);
    }
    walkers.into_iter().map(|walker| walker.found).collect()
}

/// What a new object of a spec becomes: what its guest holds, or the words that tell why there is none. Both go again.
pub async fn made(world: &World, kind: &'static str, name: &str, spec: &Value) -> BTreeSet<String> {
    let manifest = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "ai"}, "spec": spec,
    });
    let row = Row {
        leaf: name.into(),
        first: spec.clone(),
        second: spec.clone(),
        dropped: spec.clone(),
    };
    let walker = Walker {
        key: world.store.apply(manifest.clone()),
        manifest,
        found: Found {
            leaf: name.into(),
            changed: Verdict::Ignored,
            dropped: Verdict::Ignored,
            faults: Vec::new(),
        },
        row,
        vmid: None,
    };
    let mut walkers = [walker];
    settle(world, &mut walkers, "at all").await;
    let status = status(world, &walkers[0].key);
    let mut lines = holdings(world, &walkers).remove(0);
    lines.extend(walkers[0].found.faults.iter().cloned());
    lines.extend(status.message.as_ref().map(|words| plain(words, status.vmid(), name)));
    lines.extend(status.vmid.map(|vmid| format!("vmid: {vmid}")));
    // The time of a look grows with the number of guests.
    world.store.objects.remove_guest(&walkers[0].key);
    if let Some(vmid) = status
        .vmid()
        .map(Vmid::get)
        .filter(|vmid| world.guests().contains_key(vmid))
    {
        edit(world, Edit::RemoveGuest { vmid });
    }
    lines
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

    /// Applies the other value, or none; a refusal by admission.
    fn apply(&mut self, world: &World, admission: &Admission, changed: bool) -> Option<Verdict> {
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
                None
            }
            Err(violations) => {
                let text = told(&violations);
                if changed && !named_by(&self.row.leaf, &text) {
                    self.fault(format!("a refusal that does not name it: {text}"));
                }
                Some(Verdict::Refused(text))
            }
        }
    }

    /// The lines of the plan of what was applied.
    async fn plan(&self, world: &World) -> Vec<String> {
        let preview = world.preview(&self.key).await;
        let blocked = preview.blocked.map(|cause| cause.to_string());
        preview.steps.into_iter().map(|(step, _)| step).chain(blocked).collect()
    }

    fn verdict(&mut self, world: &World, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Verdict {
        let status = status(world, &self.key);
        if before != after {
            return Verdict::Effect(difference(before, after));
        }
        standing(&status, |words| self.plain(words, status.vmid()))
    }

    fn plain(&self, text: &str, vmid: Option<Vmid>) -> String {
        plain(text, vmid, &self.key.name)
    }
}

/// Whether words name a leaf, or something that it is of.
pub fn named_by(leaf: &str, words: &str) -> bool {
    let mut names = leaf.split(['.', '[', '{']);
    names.any(|name| name.len() > 2 && words.contains(name))
}

/// What a status says of a change that has no effect.
pub fn standing(status: &GuestStatus, plain: impl Fn(&str) -> String) -> Verdict {
    let text = |c: &Condition| plain(&format!("{}: {}", c.reason, c.message));
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
    nothing_more_is_written(world, walkers, when).await;
}

/// Looks once more at what is settled.
async fn nothing_more_is_written(world: &World, walkers: &mut [Walker], when: &str) {
    let mut all: Vec<&mut Walker> = walkers.iter_mut().filter(|w| settled(world, &w.key)).collect();
    let keys: Vec<Key> = all.iter().map(|walker| walker.key.clone()).collect();
    // What was refused may be due again, once: that is no loop.
    let due = keys.iter().filter(|key| status(world, key).next_retry.is_some());
    join_all(due.map(|key| world.look_at(key))).await;
    let from = world.sim().requests().len();
    join_all(keys.iter().map(|key| world.look_at(key))).await;
    let log = world.sim().requests();
    let later = log[from..]
        .iter()
        .filter(|r| r.is_write() && r.path != "/access/ticket" && !r.path.contains("/agent/"));
    for request in later {
        let of = |walker: &&mut Walker| {
            let vmid = status(world, &walker.key).vmid().map(|vmid| vmid.to_string());
            vmid.is_some_and(|vmid| request.path.split('/').any(|part| part == vmid))
        };
        let words = format!("is written again and again {when}: {} {}", request.method, request.path);
        // What names no guest is somebody's all the same.
        let at = all.iter().position(of).unwrap_or(0);
        all[at].fault(words);
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
