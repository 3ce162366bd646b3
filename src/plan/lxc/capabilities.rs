//! Capabilities of a container, which Proxmox calls features.

use std::collections::BTreeSet;

use crate::desired::{Dropped, WantedLxc};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::pve::property::Properties;

pub(crate) fn flag_changes(lxc: &WantedLxc, dropped: &Dropped, guest: &Guest) -> Vec<Change> {
    let old = guest
        .options
        .get("features")
        .and_then(|t| Properties::parse(t, None).ok())
        .unwrap_or_default();
    let mut wanted = old.clone();
    let mut differing = Vec::new();
    for (key, value) in &lxc.flags {
        let same = match old.get(key) {
            Some(have) if key == "mount" => have.split(';').collect::<BTreeSet<_>>() == value.split(';').collect(),
            Some(have) => have == value,
            None => value == "0" || value.is_empty(),
        };
        if same {
            continue;
        }
        differing.push(key.as_str());
        if value == "0" || value.is_empty() {
            wanted.remove(key);
        } else {
            wanted.set(key, value);
        }
    }
    for key in dropped.under("features.") {
        if wanted.remove(key).is_some() {
            differing.push(key);
        }
    }
    if differing.is_empty() {
        return Vec::new();
    }
    let privileged = guest.options.get("unprivileged").is_none_or(|v| v != "1");
    let root_only = privileged || differing != ["nesting"];
    let value = (!wanted.is_empty()).then(|| wanted.to_string());
    change("capabilities", "features", guest, value)
        .map(|c| Change { root_only, ..c })
        .into_iter()
        .collect()
}
