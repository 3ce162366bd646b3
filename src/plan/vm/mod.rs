//! The parts of a machine that containers do not have, in the order in which they are made true.

mod agent;
mod cdroms;
mod cloud_init;
mod create;
mod disks;
pub(super) mod drives;
mod network;
pub(super) mod options;
#[cfg(test)]
mod properties;

use std::collections::BTreeMap;

use crate::crd::PowerState;
use crate::desired::vm::Managed;
use crate::desired::{Dropped, WantedVm};
use crate::observed::{Cards, Guest};
use crate::plan::change::{Change, change};
use crate::plan::options::option_changes;
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Next, Query, Stage};
use crate::pve::property::Properties;
use crate::reason::Reason;

impl Planner<'_> {
    /// Disks, options, network, devices and cloud-init are as wanted.
    pub(crate) fn machine(&mut self, vm: &WantedVm, guest: &Guest) -> Staged {
        self.vm_disks(guest, vm)?;
        self.vm_configured(guest, vm)?;
        self.ok(Stage::VolumesReady, "the disks are as wanted");
        self.devices(guest, vm)?;
        self.first_boot_findings(guest, vm);
        self.cloud_init(guest, vm)
    }

    fn vm_configured(&mut self, guest: &Guest, vm: &WantedVm) -> Staged {
        let vmid = guest.at.vmid;
        let stage = Stage::Configured;
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let mut changes = option_changes(self.desired, &self.dropped, guest, fresh);
        changes.extend(options::property_changes(vm, &self.dropped, guest, fresh));
        changes.extend(self.vm_network(guest, fresh));
        changes.extend(options::cleared(self.desired, vm, guest, fresh));
        changes.extend(disks::boot_order(vm, guest));
        self.apply(stage, guest, changes)?;
        self.in_pool(vmid)?;
        self.ok(stage, "the configuration is as wanted");
        Ok(())
    }

    /// PCI and USB devices passed through.
    fn devices(&mut self, guest: &Guest, vm: &WantedVm) -> Staged {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let mut changes = device_changes("hostpci", "pci", vm.pci.as_deref(), &self.dropped, guest, fresh, 16);
        changes.extend(device_changes(
            "usb",
            "usb",
            vm.usb.as_deref(),
            &self.dropped,
            guest,
            fresh,
            14,
        ));
        self.apply(Stage::GPUReady, guest, changes)?;
        let names: Vec<&str> = vm
            .pci
            .iter()
            .flatten()
            .filter_map(|d| d.get("mapping").or(d.get("host")).map(String::as_str))
            .collect();
        self.facts.gpus = Some(names.join(",")).filter(|n| !n.is_empty());
        let message = match names.as_slice() {
            [] => "no devices are passed through".to_string(),
            _ => format!("passed through: {}", names.join(", ")),
        };
        self.may_take_cards(guest, vm)?;
        self.ok(Stage::GPUReady, message);
        Ok(())
    }

    /// Before a machine with cards starts: nobody else has them, and no driver is changed unasked.
    fn may_take_cards(&mut self, guest: &Guest, vm: &WantedVm) -> Staged {
        let starts = !guest.running && self.desired.life.power == PowerState::Running;
        if !starts || vm.pci.as_ref().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let cause = match &self.observed.cards {
            None => {
                let node = guest.at.node.clone();
                return Err(Next::Look(Query::Cards { node }));
            }
            // What a node that cannot be looked at has, Proxmox finds when the machine starts.
            Some(Cards::Refused(cause)) if cause.reason != Reason::GPUsNotRead => cause.clone(),
            Some(_) => return Ok(()),
        };
        Err(self.stuck(Stage::GPUReady, cause.reason, cause.message))
    }
}

/// Entries of `hostpciN` or `usbN`. A device is identified by its mapping or address, so that the order of the list
/// means nothing; a clone's copies are no wish of its own (promise 3).
fn device_changes(
    option: &str,
    field: &'static str,
    wanted: Option<&[Managed]>,
    dropped: &Dropped,
    guest: &Guest,
    fresh: bool,
    slots: u32,
) -> Vec<Change> {
    let names = format!("{option}.");
    let named = |p: &Properties| {
        let name = p.get("mapping").map(|v| identity("mapping", v));
        let name = name.or_else(|| p.get("host").map(|v| identity("host", v)));
        let mut gone = dropped.under(&names);
        name.is_some_and(|name| gone.any(|d| identity("mapping", d) == name || identity("host", d) == name))
    };
    let existing: BTreeMap<u32, Properties> = guest
        .numbered(option)
        .into_iter()
        .filter_map(|(i, text)| Some((i, Properties::parse(text, Some("host")).ok()?)))
        .collect();
    let mut changes = Vec::new();
    let mut used: Vec<u32> = Vec::new();
    for device in wanted.unwrap_or_default() {
        let same = |p: &Properties| {
            let key = if device.contains_key("mapping") {
                "mapping"
            } else {
                "host"
            };
            p.get(key).map(|v| identity(key, v)) == device.get(key).map(|v| identity(key, v))
        };
        let found = existing.iter().find(|(i, p)| same(p) && !used.contains(*i));
        let index = found
            .map(|(i, _)| *i)
            .or_else(|| (0..slots).find(|i| !existing.contains_key(i) && !used.contains(i)));
        let Some(index) = index else { continue };
        used.push(index);
        let have = found
            .map(|(_, p)| p.clone())
            .unwrap_or_else(|| Properties::new(Some("host")));
        let differs = device.iter().any(|(k, v)| {
            let default = if k == "rombar" { "1" } else { "0" };
            !matches!(k.as_str(), "mapping" | "host") && have.get(k).unwrap_or(default) != v
        });
        let name = device.get("mapping").or(device.get("host")).map_or("", String::as_str);
        let mut target = have;
        let gone = dropped.take_off(&format!("{option}.{name}."), &mut target);
        if found.is_some() && !differs && !gone {
            continue;
        }
        for (key, value) in device {
            target.set(key, value);
        }
        // A file of the node's is root's to name (facts F.5).
        let root_only = device.contains_key("host") || device.contains_key("romfile");
        let one = change(field, &format!("{option}{index}"), guest, Some(target.to_string()));
        changes.extend(one.map(|c| Change { root_only, ..c }));
    }
    let all = wanted.is_some() || fresh;
    for (index, have) in existing.iter().filter(|(i, p)| !used.contains(i) && (all || named(p))) {
        let root_only = have.get("host").is_some();
        let one = change(field, &format!("{option}{index}"), guest, None);
        changes.extend(one.map(|c| Change { root_only, ..c }));
    }
    changes
}

/// `01:00.0` and `0000:01:00.0` are one device.
fn identity(key: &str, value: &str) -> String {
    match (key, value.matches(':').count(), value.contains('.')) {
        ("host", 1, true) => format!("0000:{value}").to_lowercase(),
        _ => value.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::{GuestRef, GuestType, Vmid};

    fn device(pairs: &[(&str, &str)]) -> Managed {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn guest(options: &[(&str, &str)]) -> Guest {
        Guest {
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            ..Guest::new(GuestRef::new(GuestType::Qemu, Vmid::MIN, "n"))
        }
    }

    fn planned(
        wanted: Option<&[Managed]>,
        options: &[(&str, &str)],
        fresh: bool,
    ) -> Vec<(String, Option<String>, bool)> {
        device_changes(
            "hostpci",
            "pci",
            wanted,
            &Dropped::default(),
            &guest(options),
            fresh,
            16,
        )
        .into_iter()
        .map(|c| (c.key, c.value, c.root_only))
        .collect()
    }

    #[test]
    fn devices_are_found_by_what_they_name() {
        let a = device(&[("mapping", "gpu0"), ("pcie", "1")]);
        let b = device(&[("host", "0000:02:00.0")]);
        let both = [("hostpci0", "0000:02:00.0,pcie=1"), ("hostpci1", "mapping=gpu0,pcie=1")];
        assert_eq!(planned(Some(&[a.clone(), b.clone()]), &both, false), []);
        assert_eq!(planned(Some(&[b.clone(), a.clone()]), &both, false), []);
        assert_eq!(
            planned(Some(std::slice::from_ref(&a)), &both, false),
            [("hostpci0".to_string(), None, true)]
        );
        assert_eq!(
            planned(Some(std::slice::from_ref(&a)), &[("hostpci0", "mapping=gpu0")], false),
            [("hostpci0".to_string(), Some("mapping=gpu0,pcie=1".to_string()), false)]
        );
        assert_eq!(planned(None, &both, false), []);
        assert_eq!(planned(None, &both, true).len(), 2, "a clone's copies are cleared");
        assert_eq!(planned(Some(&[]), &both, false).len(), 2);
    }
}
