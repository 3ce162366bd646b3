//! Options of guests, compared with what is wanted.

use std::collections::BTreeSet;

use crate::desired::{Desired, Stamp};
use crate::observed::Guest;
use crate::pve::GuestType;
use crate::pve::property::Properties;

use super::change::{Change, change};
use super::guest::Planner;
use super::vm::options::{encoded, same_option};
use super::{Next, Stage};

/// The tag by which Phoenix finds its guests; an index, never proof.
pub const TAG: &str = "phoenix";

/// Options that a clone copies and that are no wish of the object's (promise 3): the value that clears each, `None`
/// to delete it.
const COPIED: &[(&str, Option<&str>)] = &[
    ("protection", None),
    ("onboot", None),
    ("startup", None),
    ("hookscript", None),
];

impl Planner<'_> {
    /// The guest is not fresh any more: what was copied is cleared, and it may start.
    pub(crate) fn settled(&mut self, guest: &Guest) -> Result<(), Next> {
        let what = guest.named();
        let Some(stamp) = guest.stamp() else { return Ok(()) };
        if !stamp.fresh {
            return Ok(());
        }
        let stamp = Stamp { fresh: false, ..stamp };
        let words = self.words(guest);
        let change = Change {
            key: "description".into(),
            value: Some(stamp.describe(&words)),
            old: None,
            root_only: false,
            field: "description",
        };
        self.send(
            Stage::Configured,
            guest,
            vec![change],
            format!("finish the configuration of {what}"),
        )
    }

    fn words(&self, guest: &Guest) -> String {
        let current = guest.options.get("description").map(String::as_str).unwrap_or_default();
        self.desired.words.clone().unwrap_or_else(|| Stamp::strip(current))
    }
}

pub(crate) fn option_changes(desired: &Desired, guest: &Guest, fresh: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, value) in &desired.options {
        let field: &'static str = match key.as_str() {
            "protection" => "protection",
            "onboot" => "boot.autostart",
            "nameserver" | "searchdomain" => "dns",
            "affinity" => "cpu.affinity",
            "hookscript" => "hookscript",
            _ if desired.sort == GuestType::Qemu => "cpu, memory, hostname, bios, cloudInit",
            _ => "cores, memory, swap, hostname, timezone, cpuLimit, cpuUnits",
        };
        let same = match (guest.options.get(key), key.as_str()) {
            (old, _) if desired.sort == GuestType::Qemu => same_option(key, old.map(String::as_str), value),
            (Some(old), "nameserver") => words_of(old) == words_of(value),
            (Some(old), "cpulimit") => old.parse::<f64>().ok() == value.parse::<f64>().ok(),
            (Some(old), _) => old.trim() == value,
            // Flags that are off by default are not stored.
            (None, "onboot" | "protection") => value == "0",
            (None, _) => false,
        };
        if !same {
            let root_only = ["affinity", "hookscript"].contains(&key.as_str());
            let changed = change(field, key, guest, Some(encoded(key, value)));
            changes.extend(changed.map(|c| Change { root_only, ..c }));
        }
    }
    changes.extend(startup_change(desired, guest));
    changes.extend(tag_change(desired, guest, fresh));
    changes.extend(description_change(desired, guest));
    if fresh {
        for (key, cleared) in COPIED {
            let wanted = desired.options.contains_key(*key) || (*key == "startup" && !desired.startup.is_empty());
            if !wanted && guest.options.contains_key(*key) {
                let value = cleared.map(str::to_string);
                changes.extend(change("source.templateRef", key, guest, value).map(|c| Change {
                    root_only: *key == "hookscript",
                    ..c
                }));
            }
        }
    }
    changes
}

pub(crate) fn words_of(text: &str) -> Vec<&str> {
    text.split([' ', ',', ';']).filter(|w| !w.is_empty()).collect()
}

fn startup_change(desired: &Desired, guest: &Guest) -> Option<Change> {
    if desired.startup.is_empty() {
        return None;
    }
    let old = guest
        .options
        .get("startup")
        .and_then(|text| Properties::of_option("startup", text).ok());
    let fresh = guest.stamp().is_some_and(|s| s.fresh);
    let mut wanted = old
        .clone()
        .filter(|_| !fresh)
        .unwrap_or_else(|| Properties::new(Some("order")));
    for (key, value) in &desired.startup {
        wanted.set(key, value);
    }
    if old.as_ref() == Some(&wanted) {
        return None;
    }
    // Proxmox reads `order=` by name as well as bare; by name it is what the GUI writes.
    let text = wanted
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(",");
    change("boot", "startup", guest, Some(text))
}

fn tag_change(desired: &Desired, guest: &Guest, fresh: bool) -> Option<Change> {
    let old: BTreeSet<String> = guest
        .options
        .get("tags")
        .map(|t| {
            t.split([';', ',', ' '])
                .filter(|t| !t.is_empty())
                .map(str::to_string)
                .collect()
        })
        .unwrap_or_default();
    let mut wanted: BTreeSet<String> = match &desired.tags {
        Some(tags) => tags.iter().cloned().collect(),
        None if fresh => BTreeSet::new(),
        None => old.clone(),
    };
    wanted.insert(TAG.into());
    let text = wanted.iter().cloned().collect::<Vec<_>>().join(";");
    (wanted != old)
        .then(|| change("tags", "tags", guest, Some(text)))
        .flatten()
}

/// The user's words above the stamp; the stamp itself is only written with care elsewhere.
fn description_change(desired: &Desired, guest: &Guest) -> Option<Change> {
    let wanted = desired.words.as_ref()?;
    let current = guest.options.get("description").map(String::as_str).unwrap_or_default();
    let stamp = guest.stamp()?;
    (Stamp::strip(current) != Stamp::strip(wanted))
        .then(|| change("description", "description", guest, Some(stamp.describe(wanted))))
        .flatten()
}
