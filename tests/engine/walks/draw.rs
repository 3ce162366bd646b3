//! Draws walks: what a manifest is to begin with, and the edits that follow. A walk is data, so that it can be shortened,
//! printed and taken again; its seed decides everything.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::mishaps::{Mishap, mishap};
use super::words::{BASES, ENTRIES, NAMELESS};
use crate::engine::ADMISSION;
use crate::leaves::schema::{Leaf, get, leaves, place, without};
use crate::leaves::table::{Group, one};
use crate::leaves::{givers, lxc, templates, vm};

/// One step: what is changed, and what goes wrong meanwhile.
#[derive(Clone, Debug)]
pub struct Step {
    pub changes: Vec<Change>,
    pub mishap: Mishap,
}

/// A walk. Its documents have the fields `spec`, `defaults` (of the hypervisor) and `feature` (a feature's spec).
#[derive(Clone, Debug)]
pub struct Walk {
    pub seed: u64,
    pub kind: &'static str,
    /// Whether its guest is a container.
    pub container: bool,
    /// The form of a template that the guest is cloned from, if it is.
    pub template: Option<&'static str>,
    pub first: Value,
    pub steps: Vec<Step>,
    /// Drawn documents that admission refused.
    pub refused: usize,
}

/// A change of a document.
#[derive(Clone, Debug)]
pub enum Change {
    /// A leaf gets a value; what has to be around it comes with it where it is missing.
    Set { leaf: String, value: Value, around: Value },
    /// A leaf, or all of a field, goes.
    Drop(String),
    /// A list gets an entry, which takes the place of one with the same key.
    Add { list: String, entry: Value },
    /// An entry of a list goes.
    Remove { list: String, nth: usize },
    /// A list is written in the opposite order.
    Reverse(String),
    /// A list has nothing any more.
    Empty(String),
}

impl Change {
    /// The field that it is about.
    pub fn field(&self) -> &str {
        match self {
            Change::Set { leaf: of, .. }
            | Change::Drop(of)
            | Change::Add { list: of, .. }
            | Change::Remove { list: of, .. }
            | Change::Reverse(of)
            | Change::Empty(of) => of,
        }
    }

    pub fn apply(&self, doc: &Value) -> Value {
        let mut changed = doc.clone();
        match self {
            Change::Set { leaf, value, around } => {
                complete(&mut changed, around);
                *place(&mut changed, leaf) = value.clone();
            }
            Change::Drop(leaf) if get(doc, leaf).is_some() => return without(doc, leaf),
            Change::Drop(_) => {}
            Change::Add { list, entry } => {
                let list = place(&mut changed, list);
                if !list.is_array() {
                    *list = json!([]);
                }
                let same = |other: &Value| key(other) == key(entry);
                let entries = list.as_array_mut().unwrap();
                match entries.iter_mut().find(|other| same(other)) {
                    Some(other) => *other = entry.clone(),
                    None => entries.push(entry.clone()),
                }
            }
            Change::Remove { list, nth } => {
                if let Some(entries) = entries(&mut changed, list) {
                    let nth = nth % entries.len();
                    entries.remove(nth);
                }
            }
            Change::Reverse(list) => {
                if let Some(entries) = entries(&mut changed, list) {
                    entries.reverse();
                }
            }
            Change::Empty(list) => *place(&mut changed, list) = json!([]),
        }
        changed
    }
}

/// Entries of a list that has some.
fn entries<'a>(doc: &'a mut Value, list: &str) -> Option<&'a mut Vec<Value>> {
    let there = get(doc, list)
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    there.then(|| place(doc, list).as_array_mut()).flatten()
}

/// What tells an entry of a list from the others.
fn key(entry: &Value) -> &Value {
    let keys = ["name", "index", "path", "slot", "mapping", "host", "address"];
    keys.iter().find_map(|key| entry.get(key)).unwrap_or(entry)
}

/// Puts what is missing into a document; null takes a field away.
fn complete(to: &mut Value, around: &Value) {
    match (to, around) {
        (Value::Object(to), Value::Object(around)) => {
            for (key, value) in around {
                match (value, to.get_mut(key)) {
                    (Value::Null, _) => drop(to.remove(key)),
                    (value, Some(old)) if !old.is_null() => complete(old, value),
                    (value, _) => drop(to.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(to), Value::Array(around)) => match (to.first_mut(), around.first()) {
            (Some(to), Some(around)) => complete(to, around),
            (None, _) => to.extend(around.iter().cloned()),
            _ => {}
        },
        _ => {}
    }
}

/// A leaf with its values.
#[derive(Clone, Debug)]
struct Word {
    leaf: String,
    values: Vec<Value>,
    /// Bounds, and names of what is not there.
    odd: Vec<Value>,
    around: Value,
}

/// The leaves that a walk of a kind changes, by the field of the document that they are of.
type Words = BTreeMap<String, Vec<Word>>;

/// Ends of leaves that are not supported yet: they would keep everything after them back.
const UNSUPPORTED: &[&str] = &[
    "environment{}",
    "entrypoint",
    ".pciAddress",
    ".count",
    ".model",
    ".vramShare",
];

/// Fields that admission fixes once there is a guest, or that end the walk.
const LEFT_OUT: &[&str] = &["hypervisorRef", "vmid", "source", "deletionPolicy"];

fn words(kind: &'static str, container: bool) -> Words {
    static KNOWN: LazyLock<Mutex<BTreeMap<(&'static str, bool), Words>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    known
        .entry((kind, container))
        .or_insert_with(|| collect(kind, container))
        .clone()
}

fn collect(kind: &'static str, container: bool) -> Words {
    let mut words = Words::new();
    let all = leaves(kind);
    let mut groups = if container { lxc::groups() } else { vm::groups() };
    let template = kind == "PhoenixTemplate";
    let wing = if container { "lxc" } else { "vm" };
    let below = if template {
        templates::below(&all, wing)
    } else {
        all.clone()
    };
    if !template {
        groups.push(one("updatePolicy.restart").auto());
    }
    let place = if template { vec!["spec", wing] } else { vec!["spec"] };
    add(&mut words, &groups, &below, &place);
    if template {
        let own = [
            one("snapshotName")
                .to("one", "two")
                .one("revisionHistoryLimit", 0, 1)
                .auto_of("form"),
            one("tests[].script")
                .to("#!/bin/sh\n", "#!/bin/sh\ntrue\n")
                .with(json!({"tests": [{"name": "one", "script": "#!/bin/sh\n"}]})),
        ];
        add(&mut words, &own, &all, &["spec"]);
    }
    let defaults = leaves("PhoenixHypervisor");
    let defaults: Vec<Leaf> = defaults
        .into_iter()
        .filter(|leaf| leaf.path.starts_with("defaults."))
        .collect();
    add(&mut words, &givers::of_hypervisors(), &defaults, &[]);
    add(
        &mut words,
        &givers::of_features(),
        &leaves("PhoenixFeature"),
        &["feature"],
    );
    words
}

fn add(words: &mut Words, groups: &[Group], leaves: &[Leaf], place: &[&str]) {
    for group in groups {
        for (leaf, values) in group.values(leaves) {
            let field = leaf.path.split(['.', '[', '{']).next().unwrap_or_default().to_owned();
            let unsupported = field != "network" && UNSUPPORTED.iter().any(|end| leaf.path.ends_with(end));
            if LEFT_OUT.contains(&field.as_str()) || unsupported && field != "vllm" {
                continue;
            }
            let around = place
                .iter()
                .rev()
                .fold(group.surroundings().clone(), |inner, name| json!({(*name): inner}));
            let path = [place, &[leaf.path.as_str()]].concat().join(".");
            // Defaults and features are one field each: they count less than what guests say of themselves.
            let field = place
                .first()
                .filter(|first| **first != "spec")
                .map_or(field, |first| (*first).to_owned());
            let word = Word {
                odd: odd(&leaf, &path),
                values: named(&leaf, values),
                leaf: path,
                around,
            };
            words.entry(field).or_default().push(word);
        }
    }
}

/// The values of a row, and all that the schema names.
fn named(leaf: &Leaf, mut values: Vec<Value>) -> Vec<Value> {
    for value in leaf.schema["enum"].as_array().into_iter().flatten() {
        if !values.contains(value) && !value.is_null() {
            values.push(value.clone());
        }
    }
    values
}

/// The bounds of a number, and the name of something that is not there.
fn odd(leaf: &Leaf, path: &str) -> Vec<Value> {
    let bound = |key: &str| leaf.schema[key].as_i64().map(Value::from);
    let mut odd: Vec<Value> = ["minimum", "maximum"].into_iter().filter_map(bound).collect();
    let absent = NAMELESS.iter().filter(|(of, _)| path.ends_with(of));
    odd.extend(absent.map(|(_, value)| serde_json::from_str(value).unwrap_or_else(|_| json!(value))));
    odd
}

impl Walk {
    /// The walk of a seed.
    pub fn draw(seed: u64) -> Walk {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = BASES[rng.random_range(0..BASES.len())];
        let first = (base.doc)();
        let mut walk = Walk {
            seed,
            kind: base.kind,
            container: base.container,
            template: base.template,
            first: first.clone(),
            steps: Vec::new(),
            refused: 0,
        };
        let (mut doc, words) = (first, words(base.kind, base.container));
        for _ in 0..rng.random_range(3..=6) {
            let Some((changes, next)) = walk.step(&mut rng, &words, &doc) else {
                continue;
            };
            let mishap = mishap(&mut rng, walk.container);
            walk.steps.push(Step { changes, mishap });
            doc = next;
        }
        walk
    }

    /// Changes that admission lets through, and the document that they make.
    fn step(&mut self, rng: &mut StdRng, words: &Words, doc: &Value) -> Option<(Vec<Change>, Value)> {
        for _ in 0..20 {
            let number = [1, 1, 2, 3][rng.random_range(0..4)];
            let mut changes: Vec<Change> = Vec::new();
            let mut next = doc.clone();
            for _ in 0..number {
                let change = self.change(rng, words, &next);
                next = change.apply(&next);
                changes.push(change);
            }
            let mut old = self.manifest(doc);
            old["status"] = json!({"vmid": 1000});
            let admitted = next != *doc
                && ADMISSION.check(&self.manifest(&next), Some(&old)).is_ok()
                && surroundings(&next)
                    .iter()
                    .all(|object| ADMISSION.check(object, None).is_ok());
            if admitted {
                return Some((changes, next));
            }
            self.refused += 1;
        }
        None
    }

    fn change(&self, rng: &mut StdRng, words: &Words, doc: &Value) -> Change {
        let fields: Vec<&String> = words.keys().collect();
        let field = fields[rng.random_range(0..fields.len())];
        let prefix = match self.kind {
            "PhoenixTemplate" if self.container => "spec.lxc.",
            "PhoenixTemplate" => "spec.vm.",
            _ => "spec.",
        };
        let list = format!("{prefix}{field}");
        let is_list = get(doc, &list).is_some_and(Value::is_array);
        let more: Vec<Value> = (ENTRIES.iter())
            .filter(|(of, containers, _)| of == field && *containers == self.container)
            .map(|(_, _, entry)| serde_json::from_str(entry).unwrap())
            .collect();
        match rng.random_range(0..100) {
            0..20 if !more.is_empty() => {
                let entry = more[rng.random_range(0..more.len())].clone();
                return Change::Add { list, entry };
            }
            20..28 if is_list => {
                let nth = rng.random_range(0..4);
                return Change::Remove { list, nth };
            }
            28..31 if is_list => return Change::Reverse(list),
            31..33 if is_list => return Change::Empty(list),
            33..38 if get(doc, &list).is_some() => return Change::Drop(list),
            _ => {}
        }
        let words = &words[field];
        let word = &words[rng.random_range(0..words.len())];
        let values = match rng.random_range(0..100) {
            0..12 if get(doc, &word.leaf).is_some() => return Change::Drop(word.leaf.clone()),
            12..20 if !word.odd.is_empty() => &word.odd,
            _ => &word.values,
        };
        let value = values[rng.random_range(0..values.len())].clone();
        Change::Set {
            leaf: word.leaf.clone(),
            value,
            around: word.around.clone(),
        }
    }

    /// The object of a document.
    pub fn manifest(&self, doc: &Value) -> Value {
        let spec = serde_json::from_str(&doc["spec"].to_string().replace("@IP", "10.20.0.7")).unwrap_or_default();
        let spec: Value = spec;
        json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": self.kind,
            "metadata": {"name": "w0", "namespace": "ai"}, "spec": spec,
        })
    }
}

/// What is around the object of a document, in as much as admission judges it.
fn surroundings(doc: &Value) -> [Value; 2] {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind,
            "metadata": {"name": "x", "namespace": "ai"}, "spec": spec,
        })
    };
    let hypervisor = json!({
        "endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}},
        "vmidRange": {"start": 1000, "end": 1099}, "defaults": doc["defaults"],
    });
    [
        object("PhoenixHypervisor", hypervisor),
        object("PhoenixFeature", doc["feature"].clone()),
    ]
}
