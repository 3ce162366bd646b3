//! What a guest holds: the volumes of its own in every section of its configuration, which destroying it may take
//! (facts D.11). A volume whose detachment waits for a restart is still there, and so is one that only a snapshot names.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{GuestStatus, VolumeStatus};
use crate::observed::{Guest, Section, SectionOf, Sections};
use crate::pve::property::{Properties, is_numbered};
use crate::pve::volid::owner_of;
use crate::pve::{GuestType, Vmid};
use crate::reason::Reason;

use super::planner::Planner;
use super::vm::drives::boot_disk;
use super::{Next, Query, Stage};

/// Whether a volume id names a volume of this guest.
pub(crate) fn owned_by(volid: &str, vmid: Vmid) -> bool {
    owner_of(volid) == Some(vmid)
}

/// Whether the guest was there before its object.
pub(crate) fn is_adopted(status: &GuestStatus, guest: &Guest) -> bool {
    status.adopted == Some(true) || guest.stamp().is_some_and(|s| s.adopted)
}

/// Whether a recorded volume of the guest's own goes with it. Disks that a machine has by its spec are recorded without a
/// policy; those of an adopted one nobody made for it.
pub(crate) fn goes_with_guest(entry: &VolumeStatus, type_: GuestType, adopted: bool) -> bool {
    match entry.reclaim_policy.as_deref() {
        Some(policy) => policy == "Delete",
        None => type_ == GuestType::Qemu && !adopted,
    }
}

/// The volume that an option's value names.
fn volid_of(key: &str, text: &str) -> Option<String> {
    let properties = Properties::of_option(key, text).ok()?;
    let volid = properties.get("volume").or(properties.get("file"))?;
    volid.contains(':').then(|| volid.to_string())
}

/// Options of a section that name a volume Proxmox would take with the guest.
fn volumes(type_: GuestType, section: &Section) -> impl Iterator<Item = (&str, String)> {
    const CONTAINER: &[&str] = &["mp", "unused"];
    const MACHINE: &[&str] = &["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate", "unused"];
    let named = move |key: &str| match type_ {
        GuestType::Lxc => key == "rootfs" || is_numbered(key, CONTAINER),
        GuestType::Qemu => key == "vmstate" || is_numbered(key, MACHINE),
    };
    let all = section.options.iter().filter(move |(key, _)| named(key));
    all.filter_map(|(key, text)| Some((key.as_str(), volid_of(key, text)?)))
}

/// What part of a guest's system a volume is, rather than data: a container's root filesystem; of a machine EFI disk,
/// TPM, saved memory and the cloud-init drive.
fn is_system(type_: GuestType, key: &str, volid: &str) -> bool {
    match type_ {
        GuestType::Lxc => key == "rootfs",
        GuestType::Qemu => {
            let name = volid.rsplit(['/', ':']).next().unwrap_or_default();
            let cloud_init = name.split('.').next().is_some_and(|n| n.ends_with("-cloudinit"));
            key == "vmstate" || cloud_init || is_numbered(key, &["efidisk", "tpmstate"])
        }
    }
}

impl Sections {
    /// Volumes of the guest's own beyond its system, with where each was found first. `accounted` says which may go, by
    /// key, value and volume id; of a volume in a snapshot only the id counts. What may go may so from everywhere.
    pub(crate) fn data(
        &self,
        type_: GuestType,
        accounted: impl Fn(&str, &str, &str) -> bool,
    ) -> BTreeMap<String, String> {
        let mut may_go = BTreeSet::new();
        let mut found = BTreeMap::new();
        for section in &self.sections {
            let snapshot = match &section.of {
                SectionOf::Now | SectionOf::AfterRestart => None,
                SectionOf::Snapshot(name) => Some(name),
            };
            for (key, volid) in volumes(type_, section) {
                if !owned_by(&volid, self.vmid) {
                    continue;
                }
                let text = section.options.get(key).map(String::as_str).unwrap_or_default();
                // A key or value of a snapshot says nothing of today's; the volume's id does.
                let fine = match snapshot {
                    None => accounted(key, text, &volid),
                    Some(_) => accounted("", "", &volid),
                };
                if fine || is_system(type_, key, &volid) {
                    may_go.insert(volid);
                    continue;
                }
                let words = snapshot.map_or(String::new(), |name| format!(" of snapshot {name}"));
                found.entry(volid).or_insert_with(|| format!("{key}{words}"));
            }
        }
        found.retain(|volid, _| !may_go.contains(volid));
        found
    }

    /// Volumes, now or after a restart, whose value and id fit.
    pub(crate) fn ids(&self, type_: GuestType, fits: impl Fn(&str, &str) -> bool) -> BTreeSet<String> {
        let current = |s: &&Section| !matches!(s.of, SectionOf::Snapshot(_));
        let sections = self.sections.iter().filter(current);
        let all = sections.flat_map(|s| volumes(type_, s).map(move |(key, volid)| (s.options.get(key), volid)));
        all.filter(|(text, volid)| fits(text.map(String::as_str).unwrap_or_default(), volid))
            .map(|(_, volid)| volid)
            .collect()
    }

    /// The volume that the machine boots from.
    pub(crate) fn boot_volume(&self) -> Option<String> {
        let now = &self.sections.first()?.options;
        let place = boot_disk(now)?;
        volid_of(&place, now.get(&place)?)
    }

    /// Where in force a volume is, if it is.
    pub(crate) fn place_now(&self, type_: GuestType, volid: &str) -> Option<String> {
        let now = self.sections.iter().find(|s| s.of == SectionOf::Now)?;
        let mut all = volumes(type_, now);
        all.find(|(_, v)| v == volid).map(|(key, _)| key.to_string())
    }

    /// Whether any section names a volume.
    fn name(&self, type_: GuestType, volid: &str) -> bool {
        self.sections.iter().any(|s| volumes(type_, s).any(|(_, v)| v == volid))
    }
}

/// Words for people: each volume with its place.
pub(crate) fn listed(volumes: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = volumes
        .iter()
        .map(|(volid, place)| format!("{volid} as {place}"))
        .collect();
    words.join(", ")
}

/// Whether a running guest has a volume until its next start only.
fn leaves(guest: &Guest, volid: &str) -> bool {
    let mut pending = guest.pending.iter();
    pending.any(|(key, now)| now.as_ref().and_then(|text| volid_of(key, text)).as_deref() == Some(volid))
}

/// Volumes that a guest's configuration names after a restart, by place.
pub(crate) fn in_sight(guest: &Guest) -> BTreeMap<String, String> {
    let section = Section {
        of: SectionOf::AfterRestart,
        options: guest.options.clone(),
    };
    volumes(guest.at.sort, &section)
        .map(|(key, volid)| (key.to_string(), volid))
        .collect()
}

impl Planner<'_> {
    /// Every section of the guest's configuration.
    pub(crate) fn sections(&mut self, stage: Stage, guest: &Guest) -> Result<Sections, Next> {
        let vmid = guest.at.vmid;
        match self.observed.sections.get(&vmid).cloned() {
            Some(Ok(sections)) => Ok(sections),
            Some(Err(failure)) => Err(self.wait(stage, failure.reason, failure.message, 10)),
            None => Err(Next::Look(Query::Sections(guest.at.clone()))),
        }
    }

    /// Whether the guest still holds a volume: attached, as `unusedN`, until its next restart, or in a snapshot.
    fn holds(&mut self, guest: &Guest, volid: &str) -> Result<bool, Next> {
        if in_sight(guest).values().any(|v| v == volid) || leaves(guest, volid) {
            return Ok(true);
        }
        // What is pending was read for a running guest only.
        if guest.running && guest.snapshots.as_ref().is_some_and(BTreeMap::is_empty) {
            return Ok(false);
        }
        let sections = self.sections(Stage::VolumesReady, guest)?;
        Ok(sections.name(guest.at.sort, volid))
    }

    /// Status: the volumes as attached, and earlier ones that the guest still holds, so that destroying it is accounted
    /// for (promise 5) and nobody else is given what it has. They are told apart by volume id: a name may be used again.
    pub(crate) fn record_held(
        &mut self,
        guest: &Guest,
        mut recorded: Vec<VolumeStatus>,
    ) -> Result<Vec<VolumeStatus>, Next> {
        let vmid = guest.at.vmid;
        let attached: BTreeSet<Option<String>> = recorded.iter().map(|v| v.volid.clone()).collect();
        for old in self.status.volumes.clone().into_iter().flatten() {
            let Some(volid) = old.volid.clone().filter(|_| !attached.contains(&old.volid)) else {
                continue;
            };
            let own = owned_by(&volid, vmid);
            // A running container has what it was given until its next start; until then nobody else is given it.
            let leaving = old.is_existing() && leaves(guest, &volid);
            let held = leaving || own && self.holds(guest, &volid)?;
            if !held {
                continue;
            }
            let mut entry = old.with_size(None);
            if own {
                self.tell_held(guest, &entry, &volid);
            }
            if recorded.iter().any(|v| v.name == entry.name) {
                entry.name = format!("{} ({volid})", base_name(&entry.name));
            }
            recorded.push(entry);
        }
        Ok(recorded)
    }

    /// An earlier volume or disk that no field names any more, and what becomes of it.
    fn tell_held(&mut self, guest: &Guest, entry: &VolumeStatus, volid: &str) {
        let what = guest.named();
        let place = in_sight(guest)
            .into_iter()
            .find(|(_, v)| v == volid)
            .map(|(key, _)| key);
        let place = place.map_or_else(String::new, |key| format!(" as {key}"));
        let (field, names): (_, Vec<&String>) = match guest.at.sort {
            GuestType::Lxc => {
                let volumes = self.desired.volumes().iter();
                ("volumes", volumes.map(|v| &v.name).collect())
            }
            GuestType::Qemu => {
                let disks = self.desired.vm().and_then(|vm| vm.disks.as_ref());
                let disks = disks.into_iter().flatten();
                ("disks", disks.map(|d| &d.name).collect())
            }
        };
        let end = match goes_with_guest(entry, guest.at.sort, is_adopted(self.status, guest)) {
            true => format!("it goes with {what}"),
            false => format!("while it is there, {what} is not destroyed"),
        };
        let again = match names.contains(&&entry.name) {
            true => "another has its name now",
            false => "under its name it is attached again",
        };
        let message = format!(
            "{} ({volid}) is kept by {what}{place}, and {}.{field} does not name it: {again}; {end}",
            entry.name,
            self.prefix()
        );
        self.find_more("VolumeUnclaimed", Reason::KeptByGuest, message);
    }

    /// What status has recorded for a volume or disk of that name, beside what the guest shows.
    pub(crate) fn recorded(&self, name: &str) -> Option<VolumeStatus> {
        self.status.volumes.iter().flatten().find(|v| v.name == name).cloned()
    }

    /// Refuses to make a new volume while the guest has some that nobody can name, as after status was lost: one of
    /// them may be it.
    pub(crate) fn none_unnamed(&mut self, guest: &Guest, field: &str, named: &[String]) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let stamp = guest.stamp();
        let status_lost = self.status.volumes.is_none();
        if !status_lost || stamp.is_none_or(|s| s.fresh || s.adopted) {
            return Ok(());
        }
        let system = match guest.at.sort {
            GuestType::Qemu => boot_disk(&guest.options),
            GuestType::Lxc => Some("rootfs".to_string()),
        };
        let unnamed: BTreeMap<String, String> = in_sight(guest)
            .into_iter()
            .filter(|(key, volid)| {
                owned_by(volid, vmid)
                    && !is_system(guest.at.sort, key, volid)
                    && system.as_ref() != Some(key)
                    && !named.contains(volid)
            })
            .map(|(key, volid)| (volid, key))
            .collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{field} is not there, and {} has volumes that neither spec nor status names ({}): one of them may be it. Give it back the place that the spec names, or remove what is not needed in Proxmox; then a new one is made",
            guest.named(),
            listed(&unnamed)
        );
        Err(self.stuck(Stage::VolumesReady, Reason::UnaccountedVolumes, message))
    }
}

/// A recorded name without the volume id that tells two of one name apart.
fn base_name(name: &str) -> &str {
    name.split(" (").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(of: SectionOf, options: &[(&str, &str)]) -> Section {
        Section {
            of,
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }

    /// A volume counts in whatever section it stands, and the guest's own system does not.
    #[test]
    fn every_section_is_looked_through() {
        let container = [
            ("rootfs", "z:subvol-100-disk-0,size=8G"),
            ("mp0", "z:subvol-100-disk-1,mp=/a"),
            ("mp1", "z:subvol-9-disk-1,mp=/b"),
            ("mp2", "/srv,mp=/c"),
            ("unused0", "z:subvol-100-disk-2"),
        ];
        let machine = [
            ("scsi0", "z:vm-100-disk-0,serial=root"),
            ("sata3", "z:vm-100-disk-3"),
            ("ide2", "z:vm-100-cloudinit,media=cdrom"),
            ("ide0", "local:iso/a.iso,media=cdrom"),
            ("efidisk0", "z:vm-100-disk-1,size=1M"),
            ("tpmstate0", "z:vm-100-disk-2,size=4M"),
            ("unused1", "z:vm-100-disk-4"),
            ("vmstate", "z:vm-100-state-s"),
        ];
        let all = |type_, options: &[(&str, &str)], expected: &[&str]| {
            for of in [SectionOf::Now, SectionOf::AfterRestart, SectionOf::Snapshot("s".into())] {
                let sections = Sections {
                    vmid: Vmid::MIN,
                    sections: vec![section(of, options)],
                };
                let data = sections.data(type_, |_, _, volid| volid == "z:vm-100-disk-0");
                let data: Vec<&String> = data.keys().filter(|v| **v != "z:vm-100-disk-0").collect();
                assert_eq!(data, expected, "{:?}", sections.sections[0].of);
            }
        };
        all(
            GuestType::Lxc,
            &container,
            &["z:subvol-100-disk-1", "z:subvol-100-disk-2"],
        );
        all(GuestType::Qemu, &machine, &["z:vm-100-disk-3", "z:vm-100-disk-4"]);
    }
}
