//! Options of a machine: what is compared, how, and what a clone copied unasked.

use crate::desired::vm::Managed;
use crate::desired::{Desired, WantedVm};
use crate::observed::Guest;
use crate::pve::property::Properties;

use crate::plan::change::{Change, change};
use crate::plan::options::words_of;

/// What Proxmox takes where an option is not set (facts F, the API's own defaults): setting it is no change.
pub(crate) fn default_of(key: &str) -> Option<&'static str> {
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
pub(crate) fn same_option(key: &str, have: Option<&str>, wanted: &str) -> bool {
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
pub(crate) fn encoded(key: &str, value: &str) -> String {
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
pub(crate) fn property_changes(vm: &WantedVm, guest: &Guest, fresh: bool) -> Vec<Change> {
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

/// Options that must not be there, and what a clone copied that is no wish of its own (promise 3): addresses, and the
/// template's snippets, which go with the template.
pub(crate) fn cleared(desired: &Desired, vm: &WantedVm, guest: &Guest, fresh: bool) -> Vec<Change> {
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
}
