//! Shortens a walk that fails, and prints what is left of it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::draw::{Step, Walk};
use super::mishaps::Mishap;

/// Walks that are taken to shorten one.
const TRIES: usize = 120;

/// The shortest walk that still fails in the same way, as far as leaving parts out leads to it.
pub fn shrink(walk: &Walk, fails: impl Fn(&Walk) -> bool) -> Walk {
    let mut shortest = walk.clone();
    let mut tries = TRIES;
    let mut again = true;
    while again {
        again = false;
        for shorter in shorter(&shortest) {
            if tries == 0 {
                return shortest;
            }
            tries -= 1;
            if fails(&shorter) {
                (shortest, again) = (shorter, true);
                break;
            }
        }
    }
    shortest
}

/// The walk with one part less, large parts first.
fn shorter(walk: &Walk) -> Vec<Walk> {
    let with = |steps: Vec<Step>| Walk { steps, ..walk.clone() };
    let mut all = Vec::new();
    for n in 0..walk.steps.len() {
        let mut steps = walk.steps.clone();
        steps.remove(n);
        all.push(with(steps));
    }
    for (n, step) in walk.steps.iter().enumerate() {
        let mut steps = walk.steps.clone();
        if !matches!(step.mishap, Mishap::Nothing) {
            steps[n].mishap = Mishap::Nothing;
            all.push(with(steps));
        }
        for at in 0..step.changes.len() {
            let mut steps = walk.steps.clone();
            steps[n].changes.remove(at);
            all.push(with(steps));
        }
    }
    all
}

/// A walk in words: the first document, and what each step changes of it.
pub fn print(walk: &Walk) -> String {
    let first = serde_saphyr::to_string(&walk.first["spec"]).unwrap_or_else(|_| walk.first.to_string());
    let mut text = format!(
        "{} of seed {} (PHOENIX_WALK={}):\n{first}",
        walk.kind, walk.seed, walk.seed
    );
    let mut doc = walk.first.clone();
    for step in &walk.steps {
        let next = step.changes.iter().fold(doc.clone(), |doc, change| change.apply(&doc));
        text += &format!("--- meanwhile: {:?}\n{}", step.mishap, difference(&doc, &next));
        doc = next;
    }
    text
}

/// The fields that differ, a line each.
fn difference(old: &Value, new: &Value) -> String {
    let (old, new) = (flat(old), flat(new));
    let gone = old.iter().filter(|(path, value)| new.get(*path) != Some(value));
    let come = new.iter().filter(|(path, value)| old.get(*path) != Some(value));
    let gone = gone.map(|(path, value)| format!("- {path}: {value}\n"));
    gone.chain(come.map(|(path, value)| format!("+ {path}: {value}\n")))
        .collect()
}

/// A document as its values by path.
fn flat(value: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    flatten(value, String::new(), &mut found);
    found
}

fn flatten(value: &Value, path: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(value, format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(entries) if !entries.is_empty() => {
            for (n, entry) in entries.iter().enumerate() {
                flatten(entry, format!("{path}[{n}]"), found);
            }
        }
        value => drop(found.insert(path, value.to_string())),
    }
}
