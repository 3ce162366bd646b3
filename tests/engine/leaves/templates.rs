//! The leaves of a template: a changed one makes a new revision of a built template, changes it in place, waits or is
//! refused.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use phoenix::desired::Key;
use serde_json::{Value, json};

use super::schema::{Leaf, leaves, place};
use super::site::site;
use super::table::{Group, merge, one};
use super::told::{BY_DOCS, NEXT_REVISION};
use super::walk::{Row, Verdict, named_by, standing};
use super::{bare, covered, elsewhere, lxc, manifest, rows, vm, wants};
use crate::engine::{ADMISSION, World, object, status};

/// Looks at the templates of a world until one counts as not built.
const LOOKS: usize = 80;

/// Leaves of which the template's own guest needs a value that admits no other to begin with.
const NEEDED: &[&str] = &["vm.agent.enabled"];

/// Groups of leaves, with the spec that they are laid over.
fn groups() -> Vec<(Value, Group, &'static str)> {
    let mut all = Vec::new();
    for (wing, base, groups) in [("lxc", lxc::base(), lxc::groups()), ("vm", vm::base(), vm::groups())] {
        all.extend(groups.into_iter().map(|group| (base.clone(), group, wing)));
    }
    all
}

/// The leaves of the kind below a wing, by their names in the guest.
pub fn below(all: &[Leaf], wing: &str) -> Vec<Leaf> {
    let below = |leaf: &Leaf| {
        let path = leaf.path.strip_prefix(wing)?.strip_prefix('.')?.to_owned();
        Some(Leaf {
            path,
            schema: leaf.schema.clone(),
        })
    };
    all.iter().filter_map(below).collect()
}

/// A guest's spec as a template's, without what templates do not have.
fn whole(leaves: &[Leaf], wing: &str, mut spec: Value) -> Value {
    let known: BTreeSet<&str> = leaves
        .iter()
        .filter_map(|leaf| leaf.path.split(['.', '[', '{']).next())
        .collect();
    spec.as_object_mut()
        .unwrap()
        .retain(|key, _| known.contains(key.as_str()));
    json!({"hypervisorRef": {"name": "pve"}, "form": "Template", (wing): spec})
}

/// Leaves with something around them: what is there before, and the rows.
fn grouped() -> Vec<(Value, Vec<Row>)> {
    let all = leaves("PhoenixTemplate");
    let mut grouped = Vec::new();
    for (base, group, wing) in groups() {
        let leaves = below(&all, wing);
        let row = |row: Row| Row {
            leaf: format!("{wing}.{}", row.leaf),
            first: whole(&leaves, wing, row.first),
            second: whole(&leaves, wing, row.second),
            dropped: whole(&leaves, wing, row.dropped),
        };
        let rows = group.rows(&base, &leaves).into_iter().map(row).collect();
        grouped.push((whole(&leaves, wing, group.around(&base)), rows));
    }
    let mut guest = lxc::base();
    guest.as_object_mut().unwrap().remove("powerState");
    let base = json!({"hypervisorRef": {"name": "pve"}, "lxc": guest});
    let own = [
        one("hypervisorRef.name")
            .to("pve", "other")
            .one("hypervisorRef.namespace", "ai", "other")
            .one("snapshotName", "one", "two")
            .one("tests[].name", "one", "two")
            .one("tests[].script", "#!/bin/sh\n", "#!/bin/sh\ntrue\n")
            .with(json!({"tests": [{"name": "one", "script": "#!/bin/sh\n"}]})),
        one("tests[].scriptFrom.key")
            .to("one", "two")
            .one("tests[].scriptFrom.name", "words", "others")
            .with(json!({"tests": [{"name": "one", "scriptFrom": {"name": "words", "key": "one"}}]})),
    ];
    grouped.extend(
        own.iter()
            .map(|group| (group.around(&base), rows(std::slice::from_ref(group), &base, &all))),
    );
    grouped
}

/// The rows of all leaves.
pub fn template() -> Vec<Row> {
    let rows: Vec<Row> = grouped().into_iter().flat_map(|(_, rows)| rows).collect();
    covered(
        "PhoenixTemplate",
        &leaves("PhoenixTemplate"),
        rows.iter().map(|row| &row.leaf),
        |leaf| elsewhere(bare(leaf)) || bare(leaf) == "tests[].kind",
    );
    rows
}

/// What is wanted of a template changes with each leaf.
#[tokio::test(start_paused = true)]
async fn no_leaf_of_a_template_is_ignored() {
    let world = site().await;
    let wanted = |spec: &Value| wants(&world, "PhoenixTemplate", spec);
    let mut faults = Vec::new();
    for row in template() {
        let (first, second) = (wanted(&row.first), wanted(&row.second));
        if first.is_err() && !NEEDED.contains(&row.leaf.as_str()) {
            faults.push(format!("{}: {first:?}", row.leaf));
        }
        // A built template is another one with another source: what is fixed for a guest is a new revision here.
        if first == second && !documented(&row.leaf) {
            faults.push(format!("{}: a changed value is ignored", row.leaf));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn documented(leaf: &str) -> bool {
    BY_DOCS.iter().any(|(of, _, _)| *of == bare(leaf))
}

/// Whether the docs say that a leaf counts with the next revision.
fn counts_later(leaf: &str) -> bool {
    NEXT_REVISION.iter().any(|(of, _, _)| *of == bare(leaf))
}

/// A template with what many leaves need around them.
struct Pack {
    spec: Value,
    rows: Vec<Row>,
    /// Whether it takes no other group.
    alone: bool,
}

impl Pack {
    /// The pack of an object that has an address of its own.
    fn with_address(mut self, ip: &str) -> Pack {
        let own = |spec: &Value| serde_json::from_str(&spec.to_string().replace("@IP", ip)).unwrap();
        self.spec = own(&self.spec);
        for row in &mut self.rows {
            (row.first, row.second) = (own(&row.first), own(&row.second));
        }
        self
    }
}

/// Puts groups of leaves together as long as they do not contradict each other.
fn packs(world: &World) -> Vec<Pack> {
    let fits = |spec: &Value| {
        ADMISSION.check(&manifest("PhoenixTemplate", "w0", spec), None).is_ok()
            && wants(world, "PhoenixTemplate", spec).is_ok()
    };
    let mut packs: Vec<Pack> = Vec::new();
    for (around, rows) in grouped().into_iter().filter(|(_, rows)| !rows.is_empty()) {
        // Some groups are nothing without the leaf.
        let (spec, alone) = match fits(&around) {
            true => (around, false),
            false => (rows[0].first.clone(), true),
        };
        let room = packs.iter_mut().filter(|pack| !alone && !pack.alone).find_map(|pack| {
            let both = together(&pack.spec, &spec)?;
            fits(&both).then_some((pack, both))
        });
        match room {
            Some((pack, both)) => {
                pack.spec = both;
                pack.rows.extend(rows);
            }
            None => packs.push(Pack { spec, rows, alone }),
        }
    }
    packs
}

/// One spec over another, unless a field has two values.
fn together(a: &Value, b: &Value) -> Option<Value> {
    let fields = |spec: &Value| -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for (key, value) in spec.as_object().unwrap() {
            match value.as_object().filter(|_| ["lxc", "vm"].contains(&key.as_str())) {
                Some(guest) => all.extend(guest.iter().map(|(k, v)| (format!("{key}.{k}"), v.clone()))),
                None => drop(all.insert(key.clone(), value.clone())),
            }
        }
        all
    };
    let (of_a, of_b) = (fields(a), fields(b));
    let wing = |spec: &Value| spec.get("vm").is_some();
    let same = of_a
        .iter()
        .all(|(key, value)| of_b.get(key).is_none_or(|other| other == value));
    (wing(a) == wing(b) && same && a.get("form") == b.get("form")).then(|| {
        let mut both = a.clone();
        merge(&mut both, b);
        both
    })
}

/// What became of a changed leaf.
#[derive(Debug)]
enum Became {
    /// Another revision is built.
    Revision,
    /// The built one is changed.
    InPlace,
    Told(#[allow(dead_code, reason = "it is printed")] String),
    Nothing,
}

impl Became {
    fn word(&self) -> &'static str {
        match self {
            Became::Revision => "new revision",
            Became::InPlace => "in place",
            Became::Told(_) => "refused or waits",
            Became::Nothing => "nothing",
        }
    }
}

async fn built(world: &World, keys: &[Key]) {
    for _ in 0..LOOKS {
        world.poll().await;
        join_all(keys.iter().map(|key| world.look_at(key))).await;
        let ready = |key: &Key| {
            let object = object(world, key);
            object.is_ready() && object.status.observed_generation == Some(object.generation)
        };
        if keys.iter().all(ready) {
            return;
        }
        world.pause().await;
    }
    let open = keys.iter().filter(|key| !object(world, key).is_ready());
    let words = |key: &Key| format!("{key}: {}", crate::engine::told(world, key));
    let open: Vec<String> = open.map(words).collect();
    panic!("not built: {open:#?}");
}

/// One leaf of a built template gets another value; then all is as before.
async fn became(world: &World, key: &Key, pack: &Pack, row: &Row, with: &Value) -> Result<Became, String> {
    let before = manifest("PhoenixTemplate", &key.name, &pack.spec);
    let mut old = before.clone();
    old["status"] = serde_json::to_value(status(world, key)).unwrap();
    let next = manifest("PhoenixTemplate", &key.name, &changed(pack, row, with));
    let preview = match ADMISSION.check(&next, Some(&old)) {
        Ok(mut admitted) => {
            admitted.as_object_mut().unwrap().remove("status");
            world.store.apply(admitted);
            world.preview(key).await
        }
        Err(violations) => {
            let words: Vec<String> = violations.iter().map(ToString::to_string).collect();
            return told(&row.leaf, words.join("; "));
        }
    };
    world.store.apply(ADMISSION.check(&before, None).unwrap());
    if let Some(cause) = preview.blocked {
        return told(&row.leaf, cause.to_string());
    }
    let builds = preview.steps.iter().any(|(step, _)| step.contains("create"));
    Ok(match (preview.steps.is_empty(), builds) {
        (true, _) => Became::Nothing,
        (false, true) => Became::Revision,
        (false, false) => Became::InPlace,
    })
}

/// What the status says of a change that has no steps.
async fn found(world: &World, key: &Key, pack: &Pack, row: &Row) -> Result<Became, String> {
    let apply = |spec: &Value| {
        let manifest = manifest("PhoenixTemplate", &key.name, spec);
        world.store.apply(ADMISSION.check(&manifest, None).unwrap());
    };
    apply(&changed(pack, row, &row.second));
    built(world, std::slice::from_ref(key)).await;
    let found = standing(&status(world, key), str::to_owned);
    apply(&pack.spec);
    built(world, std::slice::from_ref(key)).await;
    match found {
        Verdict::Ignored => Ok(Became::Nothing),
        other => told(&row.leaf, other.to_string()),
    }
}

/// The pack's spec with the value that a leaf has in another.
fn changed(pack: &Pack, row: &Row, with: &Value) -> Value {
    let mut spec = pack.spec.clone();
    *place(&mut spec, &row.leaf) = place(&mut with.clone(), &row.leaf).clone();
    spec
}

fn told(leaf: &str, words: String) -> Result<Became, String> {
    match named_by(leaf, &words) {
        true => Ok(Became::Told(words)),
        false => Err(format!("{leaf}: words that do not name it: {words}")),
    }
}

/// Tries all leaves of a template; one that makes a new revision is carried out in the end.
async fn try_all(world: &World, key: &Key, pack: &Pack) -> (Vec<(String, Became)>, Vec<String>) {
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    for row in &pack.rows {
        let mut last = became(world, key, pack, row, &row.second).await;
        // The second value may be what stands for none.
        if matches!(last, Ok(Became::Nothing)) {
            last = became(world, key, pack, row, &row.first).await;
        }
        if matches!(last, Ok(Became::Nothing)) {
            last = found(world, key, pack, row).await;
        }
        match last {
            Ok(Became::Nothing) if !documented(&row.leaf) && !counts_later(&row.leaf) => {
                faults.push(format!("{}: is ignored", row.leaf))
            }
            Ok(became) => all.push((row.leaf.clone(), became)),
            Err(fault) => faults.push(fault),
        }
    }
    if let Some((leaf, _)) = all.iter().rfind(|(_, became)| matches!(became, Became::Revision)) {
        faults.extend(rebuilt(world, key, pack, leaf).await);
    }
    (all, faults)
}

/// Devices that machines need to start.
const MAPPINGS: &[(&str, &str, &str)] = &[
    ("pci", "gpu0", "node=phoenix,path=0000:41:00.0,id=10de:2d04"),
    ("pci", "gpu1", "node=phoenix,path=0000:41:00.0,id=10de:2d04"),
    ("usb", "stick0", "node=phoenix,id=046d:c52b"),
    ("usb", "stick1", "node=phoenix,id=046d:c52b"),
];

/// The cluster, with devices.
pub async fn furnished() -> World {
    let world = site().await;
    world.sim().with(|state| {
        for (kind, id, map) in MAPPINGS {
            let mapping = serde_json::from_value(json!({"map": [map], "options": {}})).unwrap();
            let all = state.mappings.entry((*kind).into()).or_default();
            all.insert((*id).into(), mapping);
        }
    });
    world
}

/// What a plan said of a leaf happens: the template is another guest, of another revision.
async fn rebuilt(world: &World, key: &Key, pack: &Pack, leaf: &str) -> Option<String> {
    let row = pack.rows.iter().find(|row| row.leaf == leaf)?;
    let guest = |world: &World| {
        let status = status(world, key);
        (status.vmid, status.revision)
    };
    let before = guest(world);
    let differs = pack.spec != changed(pack, row, &row.second);
    let with = if differs { &row.second } else { &row.first };
    let manifest = manifest("PhoenixTemplate", &key.name, &changed(pack, row, with));
    world.store.apply(ADMISSION.check(&manifest, None).unwrap());
    built(world, std::slice::from_ref(key)).await;
    let after = guest(world);
    (before.0 == after.0 || before.1 == after.1).then(|| format!("{leaf}: no new revision was built"))
}

async fn walked(wing: &'static str) {
    let world = furnished().await;
    let packs: Vec<Pack> = packs(&world)
        .into_iter()
        .filter(|pack| pack.spec.get(wing).is_some())
        .enumerate()
        .map(|(n, pack)| pack.with_address(&format!("10.30.{n}.7")))
        .collect();
    let apply = |(n, pack): (usize, &Pack)| {
        let manifest = manifest("PhoenixTemplate", &format!("t{n}"), &pack.spec);
        world.store.apply(ADMISSION.check(&manifest, None).unwrap())
    };
    let keys: Vec<Key> = packs.iter().enumerate().map(apply).collect();
    built(&world, &keys).await;
    let tried = join_all(keys.iter().zip(&packs).map(|(key, pack)| try_all(&world, key, pack))).await;
    let (mut faults, mut counts) = (Vec::new(), BTreeMap::<&str, usize>::new());
    for (found, of) in tried {
        faults.extend(of);
        for (leaf, became) in found {
            *counts.entry(became.word()).or_default() += 1;
            println!("{leaf} | {became:?}");
        }
    }
    println!("PhoenixTemplate, {wing}: {counts:?} on {} templates", packs.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_leaf_of_a_built_container_template_is_built_anew_or_told() {
    walked("lxc").await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_leaf_of_a_built_machine_template_is_built_anew_or_told() {
    walked("vm").await;
}
