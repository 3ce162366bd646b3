//! Disks of a machine as they are.

use std::collections::BTreeMap;

use crate::pve::property::{BUSES, Properties, is_numbered};

/// Disks by place, without CD-ROMs and the cloud-init drive.
pub(crate) fn disks(options: &BTreeMap<String, String>) -> BTreeMap<String, Properties> {
    options
        .iter()
        .filter(|(key, _)| is_numbered(key, BUSES))
        .filter_map(|(key, text)| Some((key.clone(), Properties::of_option(key, text).ok()?)))
        .filter(|(_, p)| p.get("media") != Some("cdrom"))
        .collect()
}

/// Place of the disk that the machine boots from.
pub(crate) fn boot_disk(options: &BTreeMap<String, String>) -> Option<String> {
    let disks = disks(options);
    let order = options
        .get("boot")
        .and_then(|b| Properties::parse(b, Some("legacy")).ok());
    let first = order.and_then(|o| {
        o.get("order")?
            .split(';')
            .find(|d| disks.contains_key(*d))
            .map(str::to_string)
    });
    let only = || (disks.len() == 1).then(|| disks.keys().next().cloned()).flatten();
    first.or_else(|| options.get("bootdisk").cloned()).or_else(only)
}
