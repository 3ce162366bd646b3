//! Network interfaces of a container.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Desired, Dropped, WantedNet};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::pve::property::Properties;

fn parse_net(text: &str) -> Properties {
    Properties::of_option("net0", text).unwrap_or_default()
}

pub(crate) fn network_changes(desired: &Desired, dropped: &Dropped, guest: &Guest, fresh: bool) -> Vec<Change> {
    let existing: BTreeMap<u32, Properties> = guest
        .numbered("net")
        .into_iter()
        .map(|(i, text)| (i, parse_net(text)))
        .collect();
    let Some(wanted) = &desired.shared.network else {
        return if fresh {
            cleared_addresses(guest, &existing)
        } else {
            Vec::new()
        };
    };
    let mut changes = Vec::new();
    let mut used: BTreeSet<u32> = BTreeSet::new();
    for net in wanted {
        let found = existing
            .iter()
            .find(|(_, p)| p.get("name") == Some(&net.name))
            .map(|(i, p)| (*i, p));
        let index = found
            .map(|(i, _)| i)
            .or_else(|| (0..32).find(|i| !existing.contains_key(i) && !used.contains(i)));
        let Some(index) = index else { continue };
        used.insert(index);
        let target = wanted_net(net, found.map(|(_, p)| p), dropped, fresh);
        if found.is_none_or(|(_, p)| *p != target) {
            changes.extend(change(
                "network",
                &format!("net{index}"),
                guest,
                Some(target.to_string()),
            ));
        }
    }
    for index in existing.keys().filter(|i| !used.contains(i)) {
        changes.extend(change("network", &format!("net{index}"), guest, None));
    }
    changes
}

/// The interface with the managed properties laid over what it has, without what the spec dropped; a fresh guest keeps
/// only its MAC, and that Proxmox configures the interface: of an OCI image nobody else does (facts D.3).
fn wanted_net(net: &WantedNet, existing: Option<&Properties>, dropped: &Dropped, fresh: bool) -> Properties {
    let mut target = match existing {
        Some(existing) if fresh => {
            let kept = ["hwaddr", "host-managed", "type"]
                .into_iter()
                .filter_map(|k| Some((k, existing.get(k)?)));
            kept.fold(Properties::new(None), |p, (k, v)| p.with(k, v))
        }
        Some(existing) => existing.clone(),
        None => Properties::new(None).with("type", "veth"),
    };
    dropped.take_off(&format!("net.{}.", net.name), &mut target);
    target.set("name", &net.name);
    for (key, value) in &net.properties {
        // An empty list is none.
        if value.is_empty() {
            target.remove(key);
            continue;
        }
        // Another spelling would make Proxmox tear the running interface down.
        target.lay(key, value);
        // A gateway makes sense with a static address only (facts D.1).
        let gateway = match key.as_str() {
            "ip" => "gw",
            "ip6" => "gw6",
            _ => continue,
        };
        if !value.contains('/') && !net.properties.contains_key(gateway) {
            target.remove(gateway);
        }
    }
    target
}

/// Static addresses that a clone copied and that nobody asked for.
fn cleared_addresses(guest: &Guest, existing: &BTreeMap<u32, Properties>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (index, properties) in existing {
        let mut cleared = properties.clone();
        for key in ["ip", "gw", "ip6", "gw6"] {
            cleared.remove(key);
        }
        if cleared != *properties {
            changes.extend(change(
                "source.templateRef",
                &format!("net{index}"),
                guest,
                Some(cleared.to_string()),
            ));
        }
    }
    changes
}
