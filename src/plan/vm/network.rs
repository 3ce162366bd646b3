//! Network interfaces of a machine.

use std::collections::BTreeMap;

use crate::desired::vm::Managed;
use crate::desired::{Desired, Dropped, WantedNet};
use crate::observed::Guest;
use crate::plan::Stage;
use crate::plan::change::{Change, change};
use crate::plan::planner::Planner;
use crate::pve::property::Properties;
use crate::reason::Reason;

/// `virtio=BC:24:…,bridge=vmbr0` with model and address under names of their own, so that it can be compared.
pub(crate) fn parse_net(text: &str) -> Properties {
    // All that Proxmox has, so that the card of an adopted machine stays what it is.
    const MODELS: &[&str] = &[
        "virtio",
        "e1000",
        "e1000-82540em",
        "e1000-82544gc",
        "e1000-82545em",
        "e1000e",
        "i82551",
        "i82557b",
        "i82559er",
        "ne2k_isa",
        "ne2k_pci",
        "pcnet",
        "rtl8139",
        "vmxnet3",
    ];
    let mut properties = Properties::parse(text, Some("model")).unwrap_or_default();
    let model = MODELS.iter().find(|m| properties.get(m).is_some());
    if let Some(model) = model
        && let Some(mac) = properties.remove(model)
    {
        properties.set("model", *model);
        properties.set("macaddr", mac);
    }
    properties
}

fn render_net(mut net: Properties) -> String {
    let model = net.remove("model").unwrap_or_else(|| "virtio".into());
    let first = match net.remove("macaddr") {
        Some(mac) => format!("{model}={mac}"),
        // Proxmox makes an address.
        None => format!("model={model}"),
    };
    let rest: Vec<String> = net.iter().map(|(k, v)| format!("{k}={v}")).collect();
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join(",")
}

impl Planner<'_> {
    /// Interfaces as wanted. One whose queues its card does not have is told, and keeps nothing else back.
    pub(crate) fn vm_network(&mut self, guest: &Guest, fresh: bool) -> Vec<Change> {
        let mut changes = network_changes(self.desired, &self.dropped, guest, fresh);
        for (name, queues, model) in idle_queues(self.desired, guest) {
            let message = format!(
                "{}.network[{name}].queues is {queues}, and the card {name} of {} is of model {model}, of which Proxmox ignores queues: set model: virtio, or leave queues out",
                self.prefix(),
                guest.named()
            );
            let stuck = self.stuck(Stage::Configured, Reason::InvalidSpec, message);
            self.note_held(Stage::Configured, stuck);
            changes.retain(|change| change.key != name);
        }
        changes
    }
}

/// Interfaces with queues whose card stays one that has none, since the spec names no model: name, queues and model.
fn idle_queues(desired: &Desired, guest: &Guest) -> Vec<(String, String, String)> {
    let idle = |net: &WantedNet| {
        let queues = net.properties.get("queues").filter(|q| !q.is_empty())?;
        let card = parse_net(guest.options.get(&net.name)?);
        let model = card.get("model").filter(|model| *model != "virtio")?;
        let named = net.properties.contains_key("model");
        (!named).then(|| (net.name.clone(), queues.clone(), model.to_owned()))
    };
    desired.shared.network.iter().flatten().filter_map(idle).collect()
}

/// Interfaces. A fresh clone keeps only model and address of what it copied.
fn network_changes(desired: &Desired, dropped: &Dropped, guest: &Guest, fresh: bool) -> Vec<Change> {
    let Some(wanted) = &desired.shared.network else {
        return Vec::new();
    };
    let existing: BTreeMap<String, Properties> = guest
        .numbered("net")
        .into_iter()
        .map(|(i, text)| (format!("net{i}"), parse_net(text)))
        .collect();
    let mut changes = Vec::new();
    for net in wanted {
        let have = existing.get(&net.name);
        let mut target = wanted_net(&net.properties, have, fresh);
        dropped.take_off(&format!("net.{}.", net.name), &mut target);
        let same = have.is_some_and(|have| {
            let off = |p: &Properties| p.iter().filter(|(k, v)| !(*k == "firewall" && *v == "0")).count();
            target
                .iter()
                .all(|(k, v)| have.get(k).unwrap_or(if k == "firewall" { "0" } else { "" }) == v)
                && off(&target) == off(have)
        });
        if !same {
            changes.extend(change("network", &net.name, guest, Some(render_net(target))));
        }
    }
    for name in existing.keys().filter(|name| !wanted.iter().any(|n| n.name == **name)) {
        changes.extend(change("network", name, guest, None));
    }
    changes
}

fn wanted_net(managed: &Managed, have: Option<&Properties>, fresh: bool) -> Properties {
    let mut target = Properties::new(None);
    for (key, value) in have.map(Properties::iter).into_iter().flatten() {
        if !fresh || ["model", "macaddr"].contains(&key) {
            target.set(key, value);
        }
    }
    if target.get("model").is_none() {
        target.set("model", "virtio");
    }
    for (key, value) in managed {
        // An empty list is none.
        match value.as_str() {
            "" => drop(target.remove(key)),
            value => target.lay(key, value),
        }
    }
    target
}

/// An interface of a machine that is made.
pub(crate) fn new_net(managed: &Managed) -> String {
    render_net(wanted_net(managed, None, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_compared_by_meaning() {
        let have = parse_net("virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1");
        assert_eq!(have.get("macaddr"), Some("BC:24:11:00:00:01"));
        assert_eq!(
            render_net(have.clone()),
            "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"
        );
        let managed: Managed = [("bridge".to_string(), "vmbr1".to_string())].into();
        assert_eq!(
            render_net(wanted_net(&managed, Some(&have), false)),
            "virtio=BC:24:11:00:00:01,bridge=vmbr1,firewall=1"
        );
        assert_eq!(
            render_net(wanted_net(&managed, Some(&have), true)),
            "virtio=BC:24:11:00:00:01,bridge=vmbr1",
            "a clone keeps its address and nothing else"
        );
        assert_eq!(new_net(&managed), "model=virtio,bridge=vmbr1");
        let lower = parse_net("virtio=bc:24:11:00:00:01,bridge=vmbr0");
        let mac: Managed = [("macaddr".to_string(), "BC:24:11:00:00:01".to_string())].into();
        assert_eq!(
            wanted_net(&mac, Some(&lower), false).get("macaddr"),
            Some("bc:24:11:00:00:01"),
            "another spelling is no other address"
        );
        let e1000: Managed = [("model".to_string(), "e1000".to_string())].into();
        assert_eq!(
            render_net(wanted_net(&e1000, Some(&have), false)),
            "e1000=BC:24:11:00:00:01,bridge=vmbr0,firewall=1",
            "another card keeps the address"
        );
        let old = parse_net("ne2k_pci=BC:24:11:00:00:02,bridge=vmbr0");
        assert_eq!(
            render_net(wanted_net(&managed, Some(&old), false)),
            "ne2k_pci=BC:24:11:00:00:02,bridge=vmbr1",
            "the card of an adopted machine stays what it is"
        );
    }
}
