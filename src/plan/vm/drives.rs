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

/// All that a template has as base images: its disks, and what its firmware and its TPM keep.
pub(crate) fn of_template(options: &BTreeMap<String, String>) -> BTreeMap<String, Properties> {
    let mut all = disks(options);
    for place in ["efidisk0", "tpmstate0"] {
        let drive = options
            .get(place)
            .and_then(|text| Properties::of_option(place, text).ok());
        all.extend(drive.map(|drive| (place.to_string(), drive)));
    }
    all
}

/// CD-ROM drives by place, without the cloud-init drive, with what lies in each.
pub(crate) fn cdroms(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let drives = options.iter().filter(|(key, _)| is_numbered(key, BUSES));
    drives
        .filter(|(_, text)| !is_cloud_init(text))
        .filter_map(|(key, text)| Some((key, Properties::of_option(key, text).ok()?)))
        .filter(|(_, p)| p.get("media") == Some("cdrom"))
        .map(|(key, p)| {
            let medium = p.get("file").or(p.get("volume"));
            (key.clone(), medium.unwrap_or("none").to_string())
        })
        .collect()
}

/// Whether a drive is cloud-init's: by the name of its volume, as Proxmox knows it. An ISO image may be called so, too.
pub(crate) fn is_cloud_init(text: &str) -> bool {
    const FORMATS: &[&str] = &[".qcow2", ".raw", ".vmdk"];
    let Ok(drive) = Properties::parse(text, Some("file")) else {
        return false;
    };
    let volid = drive.get("file").unwrap_or_default();
    let Some(name) = volid.rsplit(['/', ':']).next().filter(|name| *name != volid) else {
        return false;
    };
    let name = FORMATS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let of_guest = name
        .strip_prefix("vm-")
        .and_then(|rest| rest.strip_suffix("-cloudinit"));
    let named = name == "cloudinit" || of_guest.is_some_and(|id| id.bytes().all(|b| b.is_ascii_digit()));
    named && drive.get("media") == Some("cdrom")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drive_of_cloud_init_is_known_by_its_volume() {
        for (text, is) in [
            ("z:vm-100-cloudinit,media=cdrom", true),
            ("dir:100/vm-100-cloudinit.qcow2,media=cdrom,size=4M", true),
            ("media=cdrom,file=z:vm-100-cloudinit", true),
            ("cloudinit,media=cdrom", false),
            ("local:iso/cloudinit.iso,media=cdrom", false),
            ("local:iso/vm-100-cloudinit.iso,media=cdrom", false),
            ("none,media=cdrom", false),
            ("z:vm-100-disk-0", false),
        ] {
            assert_eq!(is_cloud_init(text), is, "{text}");
        }
    }
}
