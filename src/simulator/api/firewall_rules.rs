//! Firewall rules of a guest: a list in which the position is the only identity (facts D.12, L.3).

use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::firewall::{change, check, of};
use crate::simulator::model::firewall::{Firewall, Rule, list_digest};
use crate::simulator::model::{ApiError, Result, State};

const FIELDS: &[&str] = &[
    "type",
    "action",
    "macro",
    "iface",
    "source",
    "dest",
    "proto",
    "dport",
    "sport",
    "icmp-type",
    "log",
    "comment",
    "enable",
];
/// Fields of a call that no rule keeps, but that may be named where fields are deleted.
const OTHER_FIELDS: &[&str] = &["pos", "digest"];

/// Kind of guest in the words of the firewall.
fn guest(call: &Call) -> &'static str {
    if call.path.contains("/lxc/") { "ct" } else { "vm" }
}

/// `GET …/rules`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let rules = of(state, call).read_rules(guest(call));
    let mut rows: Vec<_> = rules.iter().map(|rule| rule.row()).collect();
    let digest = list_digest(&rows);
    for (pos, row) in rows.iter_mut().enumerate() {
        row.insert("digest".to_owned(), json!(digest));
        row.insert("pos".to_owned(), json!(pos));
    }
    Ok(rows.into_iter().map(Value::Object).collect::<Vec<_>>().into())
}

fn position(firewall: &Firewall, call: &Call) -> Result<usize> {
    let pos = call.params.int("pos").unwrap_or(0) as usize;
    if pos < firewall.rules.len() {
        Ok(pos)
    } else {
        Err(ApiError::die(format!("no rule at position {pos}")))
    }
}

/// `GET …/rules/{pos}`.
pub fn read(state: &mut State, call: &Call) -> Answer {
    let firewall = readable(of(state, call), call);
    let pos = position(&firewall, call)?;
    let rows: Vec<_> = firewall.read_rules(guest(call)).iter().map(|rule| rule.row()).collect();
    let mut row = rows[pos].clone();
    row.insert("pos".to_owned(), json!(pos.to_string()));
    row.insert("digest".to_owned(), json!(list_digest(&rows)));
    Ok(Value::Object(row).into())
}

/// The firewall without rules that cannot be read any more: they are lost with the next change.
fn readable(firewall: &Firewall, call: &Call) -> Firewall {
    let mut firewall = firewall.clone();
    let rules = firewall.read_rules(guest(call));
    firewall.rules = rules.into_iter().map(|rule| rule.rule).collect();
    firewall
}

/// Changes the rules; `digest` is that of all of them.
fn change_rules(
    state: &mut State,
    call: &Call,
    checked: bool,
    edit: impl FnOnce(&mut Firewall) -> Result<()>,
) -> Answer {
    change(state, call, |firewall| {
        *firewall = readable(firewall, call);
        if checked {
            let rows: Vec<_> = firewall.read_rules(guest(call)).iter().map(|rule| rule.row()).collect();
            check(call, &rows)?;
        }
        edit(firewall)
    })
}

/// Takes over what a call says of a rule; an empty text or `-` takes a field away.
fn take(rule: &mut Rule, call: &Call) {
    for (key, value) in call.params.options(|key| FIELDS.contains(&key)) {
        if value.is_empty() || value == "-" {
            rule.remove(&key);
        } else {
            rule.insert(key, value);
        }
    }
}

/// `POST …/rules`: a new rule goes to the front, whatever `pos` and `digest` say, and is off unless switched on.
pub fn create(state: &mut State, call: &Call) -> Answer {
    change_rules(state, call, false, |firewall| {
        let mut rule = Rule::new();
        take(&mut rule, call);
        let mut rule = firewall.check_rule(guest(call), &rule)?.accept()?;
        rule.entry("enable".to_owned()).or_insert_with(|| "0".to_owned());
        firewall.rules.insert(0, rule);
        Ok(())
    })
}

/// `PUT …/rules/{pos}`.
pub fn update(state: &mut State, call: &Call) -> Answer {
    change_rules(state, call, true, |firewall| {
        let pos = position(firewall, call)?;
        let to = call.params.int("moveto").and_then(|to| usize::try_from(to).ok());
        if let Some(to) = to.filter(|to| *to != pos) {
            // The position counts places between rules as they were, so moving down ends one place earlier.
            let to = to.min(firewall.rules.len());
            let rule = firewall.rules.remove(pos);
            firewall.rules.insert(if to > pos { to - 1 } else { to }, rule);
            return Ok(());
        }
        let mut rule = firewall.rules[pos].clone();
        take(&mut rule, call);
        for key in call.params.list("delete") {
            if !FIELDS.contains(&key.as_str()) && !OTHER_FIELDS.contains(&key.as_str()) {
                return Err(ApiError::param("delete", format!("no such property ('{key}')")));
            }
            if matches!(key.as_str(), "type" | "action") {
                let text = format!("unable to delete required property '{key}'");
                return Err(ApiError::param("delete", text));
            }
            rule.remove(&key);
        }
        firewall.rules[pos] = firewall.check_rule(guest(call), &rule)?.accept()?;
        Ok(())
    })
}

/// `DELETE …/rules/{pos}`.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    change_rules(state, call, true, |firewall| {
        let pos = position(firewall, call)?;
        firewall.rules.remove(pos);
        Ok(())
    })
}
