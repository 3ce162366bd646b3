//! Mount points of a container as they are.

use std::collections::BTreeSet;

use crate::desired::WantedVolume;
use crate::observed::Guest;
use crate::plan::held::owned_by;
use crate::pve::property::Properties;
use crate::pve::{Vmid, units};

/// Mount points that a container can have (facts D.1).
pub(crate) const MAX_MOUNTS: u32 = 256;

#[derive(Clone, Debug)]
pub(crate) struct Mount {
    pub index: u32,
    pub properties: Properties,
}

impl Mount {
    pub fn volid(&self) -> &str {
        self.properties.get("volume").unwrap_or_default()
    }
    pub fn path(&self) -> &str {
        self.properties.get("mp").unwrap_or_default().trim_end_matches('/')
    }
    /// A volume of a storage, not a directory or device of the node.
    pub fn is_volume(&self) -> bool {
        !self.volid().starts_with('/')
    }
    pub fn is_of(&self, vmid: Vmid) -> bool {
        owned_by(self.volid(), vmid)
    }
    pub fn key(&self) -> String {
        format!("mp{}", self.index)
    }
    pub fn bytes(&self) -> Option<u128> {
        units::proxmox_bytes(self.properties.get("size")?)
    }
}

pub(crate) fn mounts(guest: &Guest) -> Vec<Mount> {
    guest
        .numbered("mp")
        .into_iter()
        .filter_map(|(index, text)| {
            Some(Mount {
                index,
                properties: Properties::of_option("mp0", text).ok()?,
            })
        })
        .collect()
}

/// Whether a mount has a property as wanted; what is not set is what Proxmox takes (facts D.1), and the order of a list
/// means nothing.
pub(crate) fn has_property(mount: &Properties, key: &str, wanted: &str) -> bool {
    let have = mount.get(key).unwrap_or(match key {
        "replicate" => "1",
        "mountoptions" => "",
        _ => "0",
    });
    let words = |text: &'_ str| -> BTreeSet<String> {
        let words = text.split(';').filter(|w| !w.is_empty());
        words.map(str::to_string).collect()
    };
    have == wanted || (key == "mountoptions" && words(have) == words(wanted))
}

/// Sets a property, or takes it off where its value is an empty list.
pub(crate) fn set_property(mount: &mut Properties, key: &str, value: &str) {
    match value {
        "" => drop(mount.remove(key)),
        value => drop(mount.set(key, value)),
    }
}

/// A place that nothing takes, also not until the next restart.
pub(crate) fn free_index(guest: &Guest) -> Option<u32> {
    let taken = guest.numbered("mp");
    (0..MAX_MOUNTS).find(|i| !taken.contains_key(i) && !guest.pending.contains_key(&format!("mp{i}")))
}

/// Name under which failures of making, attaching and growing a volume are counted: one that Proxmox refuses keeps no
/// other back.
pub(crate) fn lane(volume: &WantedVolume) -> String {
    format!("volume-{}", volume.name)
}

/// The volume that an option's value names, with the id in its name, which is the guest's that it was made for.
pub(crate) fn volume_of(text: &str) -> Option<(Vmid, String)> {
    let first = text.split(',').next()?;
    let volid = first.trim_start_matches("volume=").trim_start_matches("file=");
    let (_, path) = volid.split_once(':')?;
    let name = path.rsplit('/').next()?;
    let kinds = ["vm", "subvol", "base", "basevol"];
    let mut parts = name.split('-');
    kinds.contains(&parts.next()?).then_some(())?;
    Some((parts.next()?.parse().ok()?, volid.to_string()))
}
