//! Disks of a machine: found by name, which is their serial number, so that the order of the list means nothing.
//! Nothing is ever shrunk, and what the spec drops is detached and kept.

use std::collections::BTreeMap;

use crate::crd::{DiskBus, VolumeStatus};
use crate::desired::{Form, Source, WantedDisk, WantedVm};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::held::owned_by;
use crate::plan::planner::{Planner, Staged};
use crate::plan::sizes::Sized;
use crate::plan::{Effect, Next, Stage, calls};
use crate::pve::property::{Properties, stem};
use crate::pve::{ApiCall, units};
use crate::reason::Reason;

use super::drives::{boot_disk, cdroms, disks, is_cloud_init};

/// Storage types from which a machine cannot be copied in full from a snapshot (facts F.4).
const NO_COPY_OF_SNAPSHOTS: &[&str] = &["zfspool"];

fn volid(disk: &Properties) -> &str {
    disk.get("file").or(disk.get("volume")).unwrap_or_default()
}

/// Place of a wanted disk that is there.
fn place_of(wanted: &WantedDisk, existing: &BTreeMap<String, Properties>) -> Option<String> {
    match &wanted.slot {
        Some(place) => existing.contains_key(place).then(|| place.clone()),
        None => existing
            .iter()
            .find(|(_, p)| p.get("serial") == Some(&wanted.name))
            .map(|(place, _)| place.clone()),
    }
}

/// First free place of a bus, without those that the names of wanted disks and CD-ROM drives spell.
pub(crate) fn free_place(bus: DiskBus, vm: &WantedVm, options: &BTreeMap<String, String>) -> Option<String> {
    let spelt = |place: &String| {
        vm.disks.iter().flatten().any(|d| d.slot.as_ref() == Some(place))
            || vm.cdroms.iter().flatten().any(|c| c.slot == *place)
    };
    bus.slots()
        .map(|n| format!("{}{n}", bus.as_str()))
        .find(|p| !options.contains_key(p) && !spelt(p))
}

/// Properties that a new disk gets: the managed ones over what suits most.
pub(crate) fn new_properties(wanted: &WantedDisk) -> Properties {
    let mut properties = Properties::new(Some("file"));
    if wanted.slot.is_none() {
        properties.set("serial", &wanted.name);
    }
    properties.set("discard", "on");
    if matches!(wanted.bus, DiskBus::Scsi | DiskBus::Virtio) {
        properties.set("iothread", "1");
    }
    for (key, value) in &wanted.properties {
        properties.set(key, value);
    }
    properties
}

fn default_property(key: &str) -> &'static str {
    match key {
        "cache" => "none",
        "discard" => "ignore",
        "backup" => "1",
        _ => "0",
    }
}

/// The option `boot`, if the spec gives an order and every disk of it is there.
pub(crate) fn boot_order(vm: &WantedVm, guest: &Guest) -> Option<Change> {
    let existing = disks(&guest.options);
    let drives = cdroms(&guest.options);
    let place = |name: &String| {
        if vm.cdroms.iter().flatten().any(|c| c.slot == *name) {
            return drives.contains_key(name).then(|| name.clone());
        }
        let disk = vm.disks.iter().flatten().find(|d| d.name == *name);
        match disk {
            Some(disk) => place_of(disk, &existing),
            None => Some(format!("net{}", name.get(3..).unwrap_or_default())),
        }
    };
    let places: Vec<String> = vm.boot_order.as_ref()?.iter().map(place).collect::<Option<_>>()?;
    let wanted = format!("order={}", places.join(";"));
    change("bootOrder", "boot", guest, Some(wanted))
}

/// Name under which failures of making and growing a disk are counted.
fn lane(disk: &WantedDisk) -> String {
    format!("disk-{}", disk.name)
}

impl Planner<'_> {
    /// Disks, CD-ROM drives, EFI disk, TPM and cloud-init drive are there and large enough.
    pub(crate) fn vm_disks(&mut self, guest: &Guest, vm: &WantedVm) -> Staged {
        // First, since one that goes leaves its place to another drive.
        let changes = self.cdroms(guest, vm)?;
        self.apply(Stage::VolumesReady, guest, changes)?;
        let existing = disks(&guest.options);
        for wanted in vm.disks.iter().flatten() {
            match place_of(wanted, &existing) {
                Some(place) => self.vm_disk(guest, wanted, &place, &existing[&place])?,
                // One that Proxmox refuses keeps no other back.
                None => self
                    .new_disk(guest, vm, wanted)
                    .or_else(|next| self.hold(Stage::VolumesReady, next.apart(&lane(wanted))))?,
            }
        }
        self.detach_disk(guest, vm, &existing)?;
        self.special_drives(guest, vm)?;
        self.record_disks(guest, vm, &existing)
    }

    /// A disk that is there: large enough, with its managed properties.
    fn vm_disk(&mut self, guest: &Guest, wanted: &WantedDisk, place: &str, have: &Properties) -> Staged {
        let stage = Stage::VolumesReady;
        self.chosen_once(wanted, place, have);
        let (size, volume) = (have.get("size").and_then(units::proxmox_bytes), volid(have));
        if let (Some(have), Some(size)) = (size, wanted.size) {
            let sized = Sized {
                stage,
                field: format!("{}.disks[{}].size", self.prefix(), wanted.name),
                what: "the disk",
                wanted: size,
                have,
                unit: self.unit_of(&guest.at.node, volume),
                fulfilled: self.recorded(&wanted.name).and_then(|v| v.asked_size()),
            };
            if self.must_grow(&sized)? {
                self.unlocked(stage, guest)?;
                let action = format!("grow disk {} of {} to {size}", wanted.name, guest.named());
                let next = self.run(stage, action, vec![], calls::resize(guest, place, size));
                self.hold(stage, next.apart(&lane(wanted)))?;
            }
        }
        let differs = wanted
            .properties
            .iter()
            .any(|(k, v)| have.get(k).unwrap_or(default_property(k)) != v);
        let mut target = have.clone();
        let dropped = self.dropped.take_off(&format!("disk.{}.", wanted.name), &mut target);
        if differs || dropped {
            for (key, value) in &wanted.properties {
                target.set(key, value);
            }
            let changes = change("disks", place, guest, Some(target.to_string()));
            self.apply(stage, guest, changes.into_iter().collect())?;
        }
        Ok(())
    }

    /// Bus and storage of a disk are chosen when it is made; another wish needs another disk.
    fn chosen_once(&mut self, wanted: &WantedDisk, place: &str, have: &Properties) {
        let storage = volid(have).split(':').next().unwrap_or_default().to_string();
        let mut differs = Vec::new();
        if let Some(other) = wanted.storage.as_ref().filter(|s| **s != storage) {
            differs.push(format!(
                "disks[{}].storage is {storage:?}, wanted {other:?}",
                wanted.name
            ));
        }
        let bus = stem(place);
        if let Some(other) = wanted.bus_given.filter(|b| wanted.slot.is_none() && b.as_str() != bus) {
            differs.push(format!(
                "disks[{}].bus is {bus:?}, wanted {:?}",
                wanted.name,
                other.as_str()
            ));
        }
        if !differs.is_empty() {
            let message = format!("{}: the disk keeps what it has", differs.join("; "));
            self.find_more("RecreateRequired", Reason::CreationOnly, message);
        }
    }

    fn new_disk(&mut self, guest: &Guest, vm: &WantedVm, wanted: &WantedDisk) -> Staged {
        let vmid = guest.at.vmid;
        let stage = Stage::VolumesReady;
        let field = format!("{}.disks[{}]", self.prefix(), wanted.name);
        let Some(size) = wanted.size else {
            let message = format!("{field}.size is missing: the disk is not there yet, and a new one needs its size");
            return Err(self.stuck(stage, Reason::InvalidSpec, message));
        };
        let free = wanted
            .slot
            .clone()
            .or_else(|| free_place(wanted.bus, vm, &guest.options));
        let Some(place) = free else {
            let message = format!(
                "{field}.bus: {} has no place left on {} of the machine: choose another bus",
                wanted.name,
                wanted.bus.as_str()
            );
            return Err(self.stuck(stage, Reason::TooManyVolumes, message));
        };
        // A disk that was detached by hand is attached again, and never replaced by an empty one.
        if let Some(volid) = self.recorded(&wanted.name).and_then(|v| v.volid)
            && owned_by(&volid, vmid)
        {
            self.still_there(guest, &field, &volid)?;
            let value = new_properties(wanted).with("file", &volid);
            let action = format!("attach disk {} ({volid}) to {}", wanted.name, guest.named());
            return Err(self.allocate_drive(guest, &place, value.to_string(), action));
        }
        let known: Vec<&str> = vm.disks.iter().flatten().map(|d| d.name.as_str()).collect();
        let existing = disks(&guest.options);
        let named: Vec<String> = existing
            .iter()
            .filter(|(place, disk)| {
                known.contains(&place.as_str()) || disk.get("serial").is_some_and(|s| known.contains(&s))
            })
            .map(|(_, disk)| volid(disk).to_string())
            .collect();
        self.none_unnamed(guest, &field, &named)?;
        let storage = self.disk_storage(guest, vm, wanted.storage.as_ref(), &field)?;
        let value = new_properties(wanted).with("file", format!("{storage}:{}", size.in_gib()));
        let action = format!("add disk {} ({size}) to {}", wanted.name, guest.named());
        Err(self.allocate_drive(guest, &place, value.to_string(), action))
    }

    /// Storage for something new: as given, else where the machine's first disk lies, else the default.
    fn disk_storage(
        &mut self,
        guest: &Guest,
        vm: &WantedVm,
        given: Option<&String>,
        field: &str,
    ) -> Result<String, Next> {
        let beside = disks(&guest.options).values().next().map(|d| volid(d).to_string());
        let beside = beside.and_then(|v| v.split_once(':').map(|(storage, _)| storage.to_string()));
        let of_first = given.is_none() && beside.is_some();
        let Some(storage) = given.cloned().or(beside).or(vm.disk_storage.clone()) else {
            let message = format!(
                "{field}.storage is missing: name a storage, here or in defaults.diskStorage of the PhoenixHypervisor"
            );
            return Err(self.stuck(Stage::VolumesReady, Reason::InvalidSpec, message));
        };
        let field = match of_first {
            true => format!("{field}.storage (absent: that of the first disk)"),
            false => format!("{field}.storage"),
        };
        self.storage_usable(&guest.at.node, &storage, &field, "images")?;
        Ok(storage)
    }

    /// One drive that Proxmox makes a volume for: by POST, because it may take long (facts F.3).
    fn allocate_drive(&mut self, guest: &Guest, place: &str, value: String, action: String) -> Next {
        if let Err(next) = self.unlocked(Stage::VolumesReady, guest) {
            return next;
        }
        let call = ApiCall::post(format!("{}/config", guest.at.path()))
            .param(place, value)
            .param("digest", &guest.digest);
        let call = if self.desired.channels.token {
            call
        } else {
            call.as_root()
        };
        self.run(Stage::VolumesReady, action, vec![], Effect::task(&guest.at.node, call))
    }

    /// EFI disk, TPM and the cloud-init drive, where the machine lacks them.
    fn special_drives(&mut self, guest: &Guest, vm: &WantedVm) -> Staged {
        let cloud_init = guest.options.values().any(|text| is_cloud_init(text));
        self.drives_chosen_once(guest, vm);
        let prefix = self.prefix();
        let mut missing: Option<(&str, Option<String>, String, &str, String)> = None;
        if let Some((storage, keys)) = vm
            .firmware
            .efi
            .clone()
            .filter(|_| !guest.options.contains_key("efidisk0"))
        {
            let rest = format!("1,efitype=4m,pre-enrolled-keys={}", u8::from(keys.unwrap_or(false)));
            missing = Some(("efidisk0", storage, rest, "EFI disk", format!("{prefix}.efiDisk")));
        } else if let Some((storage, version)) = vm
            .firmware
            .tpm
            .clone()
            .filter(|_| !guest.options.contains_key("tpmstate0"))
        {
            let rest = format!("1,version={version}");
            missing = Some(("tpmstate0", storage, rest, "TPM", format!("{prefix}.tpm")));
        } else if let Some(init) = vm.cloud_init.as_ref().filter(|_| !cloud_init) {
            let field = format!("{prefix}.cloudInit");
            missing = Some((
                "ide2",
                init.storage.clone(),
                "cloudinit".into(),
                "cloud-init drive",
                field,
            ));
        }
        let Some((place, storage, rest, name, field)) = missing else {
            return Ok(());
        };
        if guest.options.contains_key(place) {
            let message = format!(
                "{field}: {place} of {} holds something else: remove it first",
                guest.named()
            );
            return Err(self.stuck(Stage::VolumesReady, Reason::InvalidSpec, message));
        }
        let storage = self.disk_storage(guest, vm, storage.as_ref(), &field)?;
        let action = format!("add {name} to {}", guest.named());
        Err(self.allocate_drive(guest, place, format!("{storage}:{rest}"), action))
    }

    /// These drives, too, keep what they were made with.
    fn drives_chosen_once(&mut self, guest: &Guest, vm: &WantedVm) {
        let firmware = &vm.firmware;
        let bit = |keys: &bool| if *keys { "1" } else { "0" };
        let efi = firmware.efi.as_ref();
        let efi = efi.map(|(storage, keys)| (storage, keys.as_ref().map(bit)));
        let tpm = firmware
            .tpm
            .as_ref()
            .map(|(storage, version)| (storage, Some(*version)));
        let init = vm.cloud_init.as_ref().map(|init| (&init.storage, None));
        let drives = guest.options.iter().filter_map(|(place, text)| {
            // Field of the spec, and property of Proxmox's with its default.
            let (field, (storage, kind), (name, key, default)) = match place.as_str() {
                "efidisk0" => ("efiDisk", efi?, ("preEnrolledKeys", "pre-enrolled-keys", "0")),
                "tpmstate0" => ("tpm", tpm?, ("version", "version", "v1.2")),
                _ if is_cloud_init(text) => ("cloudInit", init?, ("", "", "")),
                _ => return None,
            };
            let have = Properties::of_option(place, text).ok()?;
            let on = volid(&have).split(':').next().unwrap_or_default().to_string();
            let made = have.get(key).unwrap_or(default).to_string();
            let storage = storage.as_ref().filter(|wanted| **wanted != on);
            let storage = storage.map(|wanted| format!("{field}.storage is {on:?}, wanted {wanted:?}"));
            let kind = kind.filter(|wanted| *wanted != made);
            let kind = kind.map(|wanted| format!("{field}.{name} is {made:?}, wanted {wanted:?}"));
            Some(storage.into_iter().chain(kind))
        });
        for differs in drives.flatten().collect::<Vec<_>>() {
            let message = format!("{differs}: the drive keeps what it has");
            self.find_more("RecreateRequired", Reason::CreationOnly, message);
        }
    }

    /// Detaches a disk that Phoenix knows and the spec dropped; Proxmox keeps it as `unusedN`.
    fn detach_disk(&mut self, guest: &Guest, vm: &WantedVm, existing: &BTreeMap<String, Properties>) -> Staged {
        let Some(wanted) = &vm.disks else { return Ok(()) };
        let dropped = existing.iter().find(|(place, disk)| {
            let listed = wanted.iter().any(|w| place_of(w, existing).as_ref() == Some(*place));
            let known = self
                .status
                .volumes
                .iter()
                .flatten()
                .any(|v| v.volid.as_deref() == Some(volid(disk)) && v.reclaim_policy.is_none());
            known && !listed
        });
        let Some((place, disk)) = dropped else { return Ok(()) };
        if boot_disk(&guest.options).as_ref() == Some(place) {
            let message = format!(
                "{}.disks: {place} ({}) is what {} boots from and stays: put it back into the list",
                self.prefix(),
                volid(disk),
                guest.named()
            );
            return Err(self.stuck(Stage::VolumesReady, Reason::InvalidSpec, message));
        }
        self.unlocked(Stage::VolumesReady, guest)?;
        let call = ApiCall::put(format!("{}/config", guest.at.path()))
            .param("delete", place)
            .param("digest", &guest.digest);
        let action = format!("detach disk {} from {place} (it is kept)", volid(disk));
        Err(self.run(Stage::VolumesReady, action, vec![], Effect::call(call)))
    }

    /// Status: the spec's disks, and what came with the template and goes with the machine.
    fn record_disks(&mut self, guest: &Guest, vm: &WantedVm, existing: &BTreeMap<String, Properties>) -> Staged {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let mut recorded: Vec<VolumeStatus> = Vec::new();
        for (place, disk) in existing {
            let listed = vm
                .disks
                .iter()
                .flatten()
                .find(|w| place_of(w, existing).as_ref() == Some(place));
            let known = self
                .status
                .volumes
                .iter()
                .flatten()
                .find(|v| v.volid.as_deref() == Some(volid(disk)));
            let entry = match (listed, known) {
                (Some(wanted), _) => Some((wanted.name.clone(), None, wanted.size)),
                (None, Some(old)) => Some((old.name.clone(), old.reclaim_policy.clone(), None)),
                (None, None) if fresh => Some((place.clone(), Some("Delete".to_string()), None)),
                (None, None) => None,
            };
            recorded.extend(entry.map(|(name, reclaim_policy, size)| {
                VolumeStatus {
                    name,
                    volid: Some(volid(disk).to_string()),
                    reclaim_policy,
                    ..VolumeStatus::default()
                }
                .with_size(size)
            }));
        }
        // A disk of the spec goes with its machine, also after the spec dropped it; an adopted machine's does not.
        let adopted = guest.stamp().is_some_and(|s| s.adopted);
        let attached = recorded.len();
        let mut recorded = self.record_held(guest, recorded)?;
        for entry in recorded.iter_mut().skip(attached).filter(|_| !adopted) {
            entry.reclaim_policy.get_or_insert_with(|| "Delete".to_string());
        }
        self.facts.volumes = (!recorded.is_empty()).then_some(recorded);
        Ok(())
    }

    /// Refuses, before anything is built, a template whose snapshot could not be cloned (facts F.4).
    pub(crate) fn snapshot_can_be_cloned(&mut self, node: &str) -> Staged {
        let (Form::Snapshot(_), Some(vm)) = (&self.desired.life.form, self.desired.vm()) else {
            return Ok(());
        };
        let given = vm.disks.iter().flatten().next().and_then(|d| d.storage.clone());
        let Some(storage) = given.or_else(|| match &self.desired.source {
            Some(Source::Clone { .. }) => None,
            _ => vm.disk_storage.clone(),
        }) else {
            return Ok(());
        };
        let row = self.observed.cluster.storages.get(&(node.to_string(), storage.clone()));
        let Some(type_) = row
            .map(|r| r.type_.clone())
            .filter(|t| NO_COPY_OF_SNAPSHOTS.contains(&t.as_str()))
        else {
            return Ok(());
        };
        let message = format!(
            "spec.form: Snapshot cannot be cloned from storage {storage} ({type_}), which copies no machine from a snapshot: set form: Template, or another storage"
        );
        Err(self.stuck(Stage::Created, Reason::InvalidSpec, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_takes_no_place_that_is_used_or_that_another_ones_name_spells() {
        for (bus, used, spelt, place) in [
            (DiskBus::Scsi, &[][..], &[][..], Some("scsi0")),
            (DiskBus::Scsi, &["scsi0"], &[], Some("scsi1")),
            (DiskBus::Scsi, &["scsi0"], &["scsi1", "virtio2"], Some("scsi2")),
            (DiskBus::Virtio, &["scsi0"], &["scsi1"], Some("virtio0")),
            (DiskBus::Ide, &["ide0", "ide1"], &[], Some("ide3")),
            (DiskBus::Ide, &["ide0", "ide1"], &["ide3"], None),
        ] {
            let disk = |place: &&str| WantedDisk {
                slot: Some(place.to_string()),
                ..WantedDisk::default()
            };
            let vm = WantedVm {
                disks: Some(spelt.iter().map(disk).collect()),
                ..WantedVm::default()
            };
            let options = used.iter().map(|p| (p.to_string(), String::new())).collect();
            assert_eq!(free_place(bus, &vm, &options).as_deref(), place, "{used:?} {spelt:?}");
        }
    }
}
