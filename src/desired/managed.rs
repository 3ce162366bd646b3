//! What a spec sets on its guest, by name: what status remembers, so that a value that the spec drops is taken off the
//! guest again, as server-side apply does. What no spec of the object ever set stays as it is (promise 3).

use std::collections::BTreeSet;

use crate::pve::options;
use crate::pve::property::Properties;

use super::{Desired, WantedLxc, WantedVm};

/// Properties of interfaces that a dropped value leaves as they are: an address or card that goes is a new one.
const KEPT_OF_INTERFACES: &[&str] = &["bridge", "hwaddr", "macaddr", "model", "type"];

/// Names of everything that the spec sets and that can be taken off again: `options.searchdomain`, `net.eth0.gw`,
/// `props.ipconfig0.gw`, `startup.order`, `pool.ai`, `tag.llm`, `features.nesting`, `firewall.policy_in`,
/// `cdrom.ide0.volid`, ….
pub fn managed(desired: &Desired) -> BTreeSet<String> {
    let shared = &desired.shared;
    let mut names = BTreeSet::new();
    let plain = shared.options.keys().copied();
    let plain = plain.filter(|key| !options::spec(desired.sort(), key).kept_when_dropped);
    names.extend(plain.map(|key| format!("options.{key}")));
    names.extend(shared.startup.keys().map(|key| format!("startup.{key}")));
    for net in shared.network.iter().flatten() {
        let properties = net.properties.keys();
        let properties = properties.filter(|key| !KEPT_OF_INTERFACES.contains(&key.as_str()));
        names.extend(properties.map(|key| format!("net.{}.{key}", net.name)));
    }
    names.extend(shared.tags.iter().flatten().map(|tag| format!("tag.{tag}")));
    names.extend(shared.description.iter().map(|_| "description".to_string()));
    names.extend(shared.pool.iter().map(|pool| format!("pool.{pool}")));
    if let Some(firewall) = &shared.firewall {
        names.extend(firewall.options.keys().map(|key| format!("firewall.{key}")));
        names.extend(firewall.rules.iter().map(|_| "firewall.rules".to_string()));
    }
    if let Some(lxc) = desired.lxc() {
        of_container(lxc, &mut names);
    }
    if let Some(vm) = desired.vm() {
        of_machine(vm, &mut names);
    }
    names
}

fn of_container(lxc: &WantedLxc, names: &mut BTreeSet<String>) {
    names.extend(lxc.flags.keys().map(|key| format!("features.{key}")));
    for device in &lxc.devices {
        names.insert(format!("device.{}", device.path));
        names.extend(
            device
                .properties
                .keys()
                .map(|key| format!("device.{}.{key}", device.path)),
        );
    }
    for volume in lxc.volumes.iter().flatten() {
        names.extend(
            volume
                .properties
                .keys()
                .map(|key| format!("mount.{}.{key}", volume.name)),
        );
    }
    for bind in lxc.binds.iter().flatten() {
        names.extend(bind.properties.keys().map(|key| format!("bind.{}.{key}", bind.path)));
    }
}

fn of_machine(vm: &WantedVm, names: &mut BTreeSet<String>) {
    for (option, properties) in &vm.properties {
        // Another chipset is another machine to the system that is installed in it.
        let properties = properties
            .keys()
            .filter(|key| (option.as_str(), key.as_str()) != ("machine", "type"));
        names.extend(properties.map(|key| format!("props.{option}.{key}")));
    }
    for disk in vm.disks.iter().flatten() {
        names.extend(disk.properties.keys().map(|key| format!("disk.{}.{key}", disk.name)));
    }
    for drive in vm.cdroms.iter().flatten() {
        names.insert(format!("cdrom.{}", drive.slot));
        names.extend(drive.volid.iter().map(|_| format!("cdrom.{}.volid", drive.slot)));
    }
    for (list, devices) in [("hostpci", &vm.pci), ("usb", &vm.usb)] {
        for device in devices.iter().flatten() {
            let Some(name) = device.get("mapping").or(device.get("host")) else {
                continue;
            };
            names.insert(format!("{list}.{name}"));
            let properties = device.keys().filter(|key| !matches!(key.as_str(), "mapping" | "host"));
            names.extend(properties.map(|key| format!("{list}.{name}.{key}")));
        }
    }
}

/// What the spec set before and does not set now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(BTreeSet<String>);

impl Dropped {
    /// What is remembered without what is set now.
    fn new(remembered: Option<&[String]>, now: &BTreeSet<String>) -> Self {
        let remembered = remembered.unwrap_or_default().iter();
        Dropped(remembered.filter(|name| !now.contains(*name)).cloned().collect())
    }

    /// What a spec set before, as status remembers it. A list of interfaces that goes altogether leaves them as they are,
    /// with their addresses.
    pub fn of(desired: &Desired, remembered: Option<&[String]>) -> Self {
        let mut dropped = Dropped::new(remembered, &managed(desired));
        if desired.shared.network.is_none() {
            dropped.0.retain(|name| !name.starts_with("props.ipconfig"));
        }
        dropped
    }

    /// Whether this was set.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Takes the properties off whose names follow this start; whether any of them was there.
    pub fn take_off(&self, start: &str, from: &mut Properties) -> bool {
        let gone = self.under(start).filter(|key| from.remove(key).is_some());
        gone.count() > 0
    }

    /// What follows in the names that begin so.
    pub fn under<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |name| name.strip_prefix(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_and_is_not_set_any_more_was_dropped() {
        let now = BTreeSet::from(["net.eth0.ip".to_string()]);
        let remembered = [
            "net.eth0.ip".to_string(),
            "net.eth0.gw".to_string(),
            "pool.ai".to_string(),
        ];
        let dropped = Dropped::new(Some(&remembered), &now);
        assert_eq!(dropped.under("net.eth0.").collect::<Vec<_>>(), ["gw"]);
        assert!(dropped.has("pool.ai") && !dropped.has("net.eth0.ip"));
        assert_eq!(Dropped::new(None, &now), Dropped::default(), "nothing is remembered");
    }
}
