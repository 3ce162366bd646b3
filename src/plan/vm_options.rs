//! Options of a machine: what is compared, how, and what a clone copied unasked.

use std::collections::BTreeMap;

use crate::desired::vm::Managed;
use crate::desired::{Desired, WantedVm};
use crate::observed::Guest;
use crate::pve::property::Properties;

use super::config::{Change, change, words_of};

/// What Proxmox takes where an option is not set (facts F, the API's own defaults): setting it is no change.
pub(super) fn default_of(key: &str) -> Option<&'static str> {
    Some(match key {
        "cores" | "sockets" | "ciupgrade" => "1",
        "numa" | "cpulimit" | "onboot" | "protection" => "0",
        "memory" => "512",
        "bios" => "seabios",
        "ostype" => "other",
        "scsihw" => "lsi",
        "hotplug" => "network,disk,usb",
        _ => return None,
    })
}

/// Whether a machine's option is as wanted.
pub(super) fn same_option(key: &str, have: Option<&str>, wanted: &str) -> bool {
    let Some(have) = have.or_else(|| default_of(key)) else {
        return false;
    };
    match key {
        // Newer versions write `current=2048`.
        "memory" => memory(have) == memory(wanted),
        "sshkeys" => lines(&decoded(have)) == lines(wanted),
        "hotplug" => hotplug(have) == hotplug(wanted),
        "nameserver" => words_of(have) == words_of(wanted),
        "cpulimit" => have.parse::<f64>().ok() == wanted.parse::<f64>().ok(),
        _ => have.trim() == wanted,
    }
}

fn memory(text: &str) -> String {
    let parsed = Properties::parse(text, Some("current")).unwrap_or_default();
    parsed.get("current").unwrap_or(text).to_string()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect()
}

fn hotplug(text: &str) -> Vec<&str> {
    let text = match text {
        "1" => "network,disk,usb",
        "0" => "",
        other => other,
    };
    let mut words = words_of(text);
    words.sort_unstable();
    words.dedup();
    words
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

/// The value as it is sent: `sshkeys` is encoded once more by itself (facts F.2).
pub(super) fn encoded(key: &str, value: &str) -> String {
    match key {
        "sshkeys" => crate::pve::call::segment(value),
        _ => value.to_string(),
    }
}

/// Properties of an option as they are, under one name each.
fn parsed(option: &str, text: &str) -> Properties {
    let mut properties = Properties::of_option(option, text).unwrap_or_default();
    if option == "agent" {
        for other in ["freeze-fs", "guest-fsfreeze"] {
            if let Some(value) = properties.remove(other) {
                properties.set("freeze-fs-on-backup", value);
            }
        }
    }
    properties
}

fn default_property(option: &str, key: &str) -> Option<&'static str> {
    Some(match (option, key) {
        ("machine", "type") => "pc",
        ("cpu", "cputype") => "kvm64",
        ("agent", "enabled" | "fstrim_cloned_disks") => "0",
        ("agent", "freeze-fs-on-backup") => "1",
        ("vga", "type") => "std",
        _ => return None,
    })
}

/// Options that are property strings: managed properties are laid over what is there.
pub(super) fn property_changes(vm: &WantedVm, guest: &Guest, fresh: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    for (option, managed) in &vm.properties {
        let have = guest
            .options
            .get(option)
            .map(|text| parsed(option, text))
            .unwrap_or_default();
        let address = option.starts_with("ipconfig");
        let same = managed
            .iter()
            .all(|(k, v)| have.get(k).or(default_property(option, k)) == Some(v.as_str()));
        // Addresses that a clone copied are no wish of its own (promise 3).
        let kept = if address && fresh {
            Properties::default()
        } else {
            have.clone()
        };
        let target = laid_over(option, managed, &kept);
        // A clone's copied gateway goes even where the address happens to be the same.
        if !same || (address && target != have) {
            let value = Some(target.to_string());
            changes.extend(change(field_of(option), option, guest, value));
        }
    }
    changes
}

fn laid_over(option: &str, managed: &Managed, have: &Properties) -> Properties {
    let mut target = Properties::new(crate::pve::property::default_key(option));
    for (key, value) in have.iter() {
        target.set(key, value);
    }
    for (key, value) in managed {
        target.set(key, value);
        let gateway = match key.as_str() {
            "ip" => "gw",
            "ip6" => "gw6",
            _ => continue,
        };
        // A gateway makes sense with a static address only (facts F.2).
        if !value.contains('/') && !managed.contains_key(gateway) {
            target.remove(gateway);
        }
    }
    target
}

fn field_of(option: &str) -> &'static str {
    match option {
        "cpu" => "cpu",
        "agent" => "agent",
        "vga" => "vga",
        "machine" => "machine",
        _ => "network",
    }
}

/// `virtio=BC:24:…,bridge=vmbr0` with model and address under names of their own, so that it can be compared.
pub(super) fn parse_net(text: &str) -> Properties {
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

/// Interfaces. A fresh clone keeps only model and address of what it copied.
pub(super) fn network_changes(desired: &Desired, guest: &Guest, fresh: bool) -> Vec<Change> {
    let Some(wanted) = &desired.network else {
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
        let target = wanted_net(&net.properties, have, fresh);
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
        target.set(key, value);
    }
    target
}

/// An interface of a machine that is made.
pub(super) fn new_net(managed: &Managed) -> String {
    render_net(wanted_net(managed, None, true))
}

/// Options that must not be there, and what a clone copied that is no wish of its own (promise 3): addresses, and the
/// template's snippets, which go with the template.
pub(super) fn cleared(desired: &Desired, vm: &WantedVm, guest: &Guest, fresh: bool) -> Vec<Change> {
    let mut gone: Vec<String> = vm.absent.iter().cloned().collect();
    if fresh {
        let addresses = guest.numbered("ipconfig").into_keys().map(|i| format!("ipconfig{i}"));
        gone.extend(addresses.filter(|key| !vm.properties.contains_key(key)));
        let copied = guest.options.get("cicustom").is_some_and(|text| {
            desired
                .vmid
                .or(guest.stamp().map(|s| s.vmid))
                .is_some_and(|vmid| !text.contains(&format!("phoenix-{vmid}-")))
        });
        if copied {
            gone.push("cicustom".into());
        }
    }
    gone.iter()
        .filter(|key| guest.options.contains_key(*key))
        .filter_map(|key| change("source.templateRef", key, guest, None))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proxmox_fills_in_is_no_difference() {
        for (key, have, wanted) in [
            ("memory", Some("current=2048"), "2048"),
            ("memory", None, "512"),
            ("cores", None, "1"),
            ("hotplug", None, "usb,network,disk"),
            ("hotplug", Some("1"), "disk,network,usb"),
            ("hotplug", Some("0"), "0"),
            ("sshkeys", Some("ssh-ed25519%20AAAA%20me%0A"), "ssh-ed25519 AAAA me"),
            ("cpulimit", Some("2.0"), "2"),
            ("nameserver", Some("10.0.0.1 10.0.0.2"), "10.0.0.1 10.0.0.2"),
            ("bios", None, "seabios"),
        ] {
            assert!(same_option(key, have, wanted), "{key}: {have:?} and {wanted:?}");
        }
        assert!(!same_option("memory", Some("1024"), "2048"));
        assert!(!same_option("ciuser", None, "me"));
        assert_eq!(encoded("sshkeys", "a b\n"), "a%20b%0A");
    }

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
        let old = parse_net("ne2k_pci=BC:24:11:00:00:02,bridge=vmbr0");
        assert_eq!(
            render_net(wanted_net(&managed, Some(&old), false)),
            "ne2k_pci=BC:24:11:00:00:02,bridge=vmbr1",
            "the card of an adopted machine stays what it is"
        );
    }
}
