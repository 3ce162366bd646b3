//! Options of guests, compared with what is wanted.

use std::collections::BTreeSet;

use crate::desired::{Desired, Dropped, Stamp};
use crate::observed::Guest;
use crate::pve::options::{self, OptionSpec};
use crate::pve::property::Properties;

use super::change::{Change, change};
use super::planner::Planner;
use super::{Next, Stage};

/// The tag by which Phoenix finds its guests; an index, never proof.
pub const TAG: &str = "phoenix";
/// Field of a change that takes off what the spec dropped.
pub(crate) const DROPPED: &str = "a field that the spec dropped";

impl Planner<'_> {
    /// The guest is not fresh any more: what was copied is cleared, and it may start.
    pub(crate) fn settled(&mut self, guest: &Guest) -> Result<(), Next> {
        let what = guest.named();
        let Some(stamp) = guest.stamp() else { return Ok(()) };
        if !stamp.fresh {
            return Ok(());
        }
        let stamp = Stamp {
            fresh: false,
            // The snippet followed the spec until now.
            boot: self
                .desired
                .vm()
                .map(|vm| vm.first_boot.to_string())
                .or(stamp.boot.clone()),
            ..stamp
        };
        let words = self.describe(guest);
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

    fn describe(&self, guest: &Guest) -> String {
        let current = guest.options.get("description").map(String::as_str).unwrap_or_default();
        self.desired
            .shared
            .description
            .clone()
            .unwrap_or_else(|| Stamp::strip(current))
    }
}

/// Plain options that differ, and those that a clone copied unasked (promise 3).
pub(crate) fn option_changes(desired: &Desired, dropped: &Dropped, guest: &Guest, fresh: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let root = |root_only| move |change: Change| Change { root_only, ..change };
    for (key, wanted) in &desired.shared.options {
        let option = options::spec(desired.sort(), key);
        let have = guest.options.get(*key).map(String::as_str);
        if !option.is(have, &wanted.value) {
            let sent = Some((option.sent)(&wanted.value));
            changes.extend(change(wanted.field, key, guest, sent).map(root(option.root_only)));
        }
    }
    for option in options::of(desired.sort()) {
        if dropped.has(&format!("options.{}", option.key)) {
            let taken_off = change(DROPPED, option.key, guest, None);
            changes.extend(taken_off.map(root(option.root_only)));
        }
    }
    changes.extend(startup_change(desired, dropped, guest));
    changes.extend(tag_change(desired, dropped, guest, fresh));
    changes.extend(description_change(desired, dropped, guest));
    let copied = |option: &&OptionSpec| {
        let wanted = desired.shared.options.contains_key(option.key)
            || (option.key == "startup" && !desired.shared.startup.is_empty());
        option.cleared_of_clones && !wanted && guest.options.contains_key(option.key)
    };
    for option in options::of(desired.sort())
        .iter()
        .filter(|option| fresh && copied(option))
    {
        let cleared = change("source.templateRef", option.key, guest, None);
        changes.extend(cleared.map(root(option.root_only)));
    }
    changes
}

fn startup_change(desired: &Desired, dropped: &Dropped, guest: &Guest) -> Option<Change> {
    if desired.shared.startup.is_empty() && dropped.under("startup.").next().is_none() {
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
    for (key, value) in &desired.shared.startup {
        wanted.set(key, value);
    }
    dropped.take_off("startup.", &mut wanted);
    if old.as_ref() == Some(&wanted) || (old.is_none() && wanted.is_empty()) {
        return None;
    }
    if wanted.is_empty() {
        return change("boot", "startup", guest, None);
    }
    // Proxmox reads `order=` by name as well as bare; by name it is what the GUI writes.
    let text = wanted
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(",");
    change("boot", "startup", guest, Some(text))
}

fn tag_change(desired: &Desired, dropped: &Dropped, guest: &Guest, fresh: bool) -> Option<Change> {
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
    let mut wanted: BTreeSet<String> = match &desired.shared.tags {
        // Whether upper-case comes back lower-case is a setting of the datacenter (facts K.2.15).
        Some(tags) => tags.iter().map(|tag| as_kept(tag, &old)).collect(),
        None if fresh => BTreeSet::new(),
        None => old
            .iter()
            .filter(|tag| !dropped.under("tag.").any(|gone| gone.eq_ignore_ascii_case(tag)))
            .cloned()
            .collect(),
    };
    wanted.insert(TAG.into());
    let text = wanted.iter().cloned().collect::<Vec<_>>().join(";");
    (wanted != old)
        .then(|| change("tags", "tags", guest, Some(text)))
        .flatten()
}

/// A tag as the guest has it, where it has it.
fn as_kept(tag: &str, old: &BTreeSet<String>) -> String {
    let lower = tag.to_lowercase();
    match !old.contains(tag) && old.contains(&lower) {
        true => lower,
        false => tag.to_string(),
    }
}

/// The user's words above the stamp; the stamp itself is only written with care elsewhere.
fn description_change(desired: &Desired, dropped: &Dropped, guest: &Guest) -> Option<Change> {
    let nothing = String::new();
    let gone = dropped.has("description").then_some(&nothing);
    let wanted = desired.shared.description.as_ref().or(gone)?;
    let current = guest.options.get("description").map(String::as_str).unwrap_or_default();
    let stamp = guest.stamp()?;
    (Stamp::strip(current) != Stamp::strip(wanted))
        .then(|| change("description", "description", guest, Some(stamp.describe(wanted))))
        .flatten()
}
