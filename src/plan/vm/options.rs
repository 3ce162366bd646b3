//! Options of a machine: what is compared, how, and what a clone copied unasked.

use std::collections::BTreeSet;

use crate::desired::vm::Managed;
use crate::desired::{Desired, Dropped, WantedVm};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::pve::property::{Properties, same_value};

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
        ("cpu", "hidden") => "0",
        // An empty list of flags is none.
        ("cpu", "flags") => "",
        ("agent", "enabled" | "fstrim_cloned_disks") => "0",
        ("agent", "freeze-fs-on-backup") => "1",
        ("vga", "type") => "std",
        _ => return None,
    })
}

/// Options that are property strings: managed properties are laid over what is there.
pub(crate) fn property_changes(vm: &WantedVm, dropped: &Dropped, guest: &Guest, fresh: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let none = Managed::new();
    let only_dropped = dropped.under("props.").filter_map(|name| Some(name.split_once('.')?.0));
    let only_dropped: BTreeSet<&str> = only_dropped.filter(|of| !vm.properties.contains_key(*of)).collect();
    let wanted = vm.properties.iter().map(|(option, managed)| (option.as_str(), managed));
    for (option, managed) in wanted.chain(only_dropped.into_iter().map(|option| (option, &none))) {
        let have = guest
            .options
            .get(option)
            .map(|text| parsed(option, text))
            .unwrap_or_default();
        let address = option.starts_with("ipconfig");
        let same = managed.iter().all(|(k, v)| {
            have.get(k)
                .or(default_property(option, k))
                .is_some_and(|have| same_value(have, v))
        });
        // Addresses that a clone copied are no wish of its own (promise 3).
        let kept = if address && fresh {
            Properties::default()
        } else {
            have.clone()
        };
        let mut target = laid_over(option, managed, &kept);
        let removed = dropped.take_off(&format!("props.{option}."), &mut target);
        // A clone's copied gateway goes even where the address happens to be the same.
        if !same || removed || (address && target != have) {
            let value = Some(target.to_string()).filter(|_| !target.is_empty());
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
        if value.is_empty() {
            target.remove(key);
        } else {
            target.lay(key, value);
        }
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
    // A display on a console that goes would show nothing; Proxmox puts its own in its place.
    let on_console = |text: &String| text.trim_start_matches("type=").starts_with("serial");
    if vm.absent.contains("serial0")
        && !vm.properties.contains_key("vga")
        && guest.options.get("vga").is_some_and(on_console)
    {
        gone.push("vga".into());
    }
    if fresh {
        let addresses = guest.numbered("ipconfig").into_keys().map(|i| format!("ipconfig{i}"));
        gone.extend(addresses.filter(|key| !vm.properties.contains_key(key)));
        let copied = guest.options.get("cicustom").is_some_and(|text| {
            desired
                .identity
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
        .filter_map(|key| {
            let console = vm.absent.contains(key) || key == "vga";
            let field = if console { "serial" } else { "source.templateRef" };
            change(field, key, guest, None)
        })
        .collect()
}
