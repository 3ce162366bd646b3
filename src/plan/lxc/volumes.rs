//! Volumes and bind mounts of a container. Volumes of the guest's own are allocated on it; retained ones
//! belong to an owner container ([`super::owners`]) and are attached by volid.
//!
//! Which mount is which volume: the one whose volume id status has recorded under the name, wherever it is mounted;
//! otherwise the one at the volume's path. A retained volume's key on its owner tells for sure.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::{PowerState, RestartPolicy, VolumeStatus};
use crate::desired::WantedVolume;
use crate::observed::Guest;
use crate::plan::change::Change;
use crate::plan::held::in_sight;
use crate::plan::planner::{Planner, Staged};
use crate::plan::sizes::{Sized, only_size_pends};
use crate::plan::{Announce, Effect, Next, Stage, calls};
use crate::pve::property::Properties;
use crate::pve::volid::{is_image, owner_of};
use crate::pve::{Vmid, units};
use crate::reason::Reason;

use super::existing::existing_record;
use super::mounts::{MAX_MOUNTS, Mount, free_index, has_property, lane, mounts, set_property};
use super::owners::{KEPT_BY_OWNER, Use};

impl Planner<'_> {
    /// Volumes and bind mounts are attached as wanted.
    pub(crate) fn volumes(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let stage = Stage::VolumesReady;
        let found = mounts(guest);
        let wanted = self.desired.volumes().to_vec();
        self.announced_elsewhere(vmid, &found, &wanted)?;
        self.given_before(&wanted)?;
        let places = self.places(guest, &found, &wanted)?;
        self.detach(guest, &found, &places)?;
        let changes = self.mount_changes(guest, &found, &wanted, &places)?;
        self.apply(stage, guest, changes)?;
        let mut recorded: Vec<VolumeStatus> = Vec::new();
        for (volume, place) in wanted.iter().zip(&places) {
            let Some(mount) = place.map(|i| &found[i]) else {
                if self.lane_waits(stage, &lane(volume)) {
                    recorded.extend(self.recorded(&volume.name));
                    continue;
                }
                let attach = match self.attach(guest, &found, volume) {
                    // What is wrong with one that exists keeps no other back.
                    Err(next @ (Next::Stuck(_) | Next::Wait { .. })) if volume.existing.is_some() => {
                        self.note_held(stage, next);
                        recorded.extend(self.recorded(&volume.name));
                        continue;
                    }
                    attach => attach?,
                };
                return Err(attach.apart(&lane(volume)));
            };
            if let Some(volid) = &volume.existing {
                recorded.push(existing_record(volume, volid, vmid));
                continue;
            }
            self.sized(guest, mount, volume)
                .or_else(|next| self.hold(stage, next.apart(&lane(volume))))?;
            recorded.push(self.as_attached(vmid, mount, volume));
        }
        let changes = self.bind_changes(guest, &found);
        self.apply(stage, guest, changes)?;
        let told = |c: &Condition| c.type_ == "VolumeUnclaimed" && c.message.contains(KEPT_BY_OWNER);
        if self.status.conditions.iter().any(told) && self.desired.volume_owner().is_some() {
            self.owners(stage)?;
        }
        let recorded = self.record_held(guest, recorded)?;
        self.facts.volumes = (!recorded.is_empty()).then_some(recorded);
        let pends = |key: &String| key.starts_with("mp") && !only_size_pends(guest, key);
        let words = match guest.pending.keys().any(pends) {
            true => "volumes and mounts are as wanted after a restart",
            false => "volumes and mounts are as wanted",
        };
        self.ok(stage, words);
        Ok(())
    }

    fn at<'g>(&self, guest: &'g Guest) -> Use<'g> {
        let vmid = guest.at.vmid;
        Use {
            stage: Stage::VolumesReady,
            node: &guest.at.node,
            unprivileged: Some(guest.options.get("unprivileged").is_some_and(|v| v == "1")),
            guest: Some(vmid),
        }
    }

    /// The mount of each wanted volume, by its place in `found`; `None` where it has to be attached.
    fn places(&mut self, guest: &Guest, found: &[Mount], wanted: &[WantedVolume]) -> Result<Vec<Option<usize>>, Next> {
        let vmid = guest.at.vmid;
        let of_volid = |volid: &str| found.iter().position(|m| m.is_volume() && m.volid() == volid);
        let by_record = |v: &WantedVolume| match &v.existing {
            Some(volid) => of_volid(volid),
            None => of_volid(&self.recorded(&v.name)?.volid?),
        };
        let mut places: Vec<Option<usize>> = wanted.iter().map(by_record).collect();
        let mut to_attach = false;
        // The owner's key follows the name, also where an edit of the policy came between.
        let changed = self
            .status
            .applied_hash
            .as_ref()
            .is_some_and(|hash| *hash != self.desired.prints.applied);
        for (i, volume) in wanted.iter().enumerate() {
            if volume.existing.is_some() || places[i].is_some() && !changed {
                continue;
            }
            if places[i].is_none() {
                let at_path = found.iter().position(|m| m.is_volume() && m.path() == volume.path);
                places[i] = at_path.filter(|p| !places.contains(&Some(*p)));
            }
            match (places[i], &volume.owner_key) {
                (Some(place), Some(key)) if !found[place].is_of(vmid) => {
                    self.claimed(guest, &found[place], volume, key, wanted)?;
                }
                // One after the other: what is allocated is protected and attached before the next one.
                (None, Some(key)) if !to_attach && self.own_recorded(vmid, volume).is_none() => {
                    // What waits for its next attempt is neither opened nor closed for.
                    if self.lane_waits(Stage::VolumesReady, &lane(volume)) {
                        continue;
                    }
                    let entry = self.retained(&self.at(guest), volume, key)?;
                    places[i] = of_volid(entry.mount.volid());
                    to_attach = places[i].is_none();
                }
                _ => {}
            }
        }
        self.protect_owners()?;
        Ok(places)
    }

    /// A volume of an owner's at the path of a retained one is that one: its key says so, or its name was changed in
    /// the spec, and the key follows.
    fn claimed(
        &mut self,
        guest: &Guest,
        mount: &Mount,
        volume: &WantedVolume,
        key: &str,
        all: &[WantedVolume],
    ) -> Staged {
        let vmid = guest.at.vmid;
        if self.desired.volume_owner().is_none() {
            return Ok(());
        }
        let stage = Stage::VolumesReady;
        let at = self.at(guest);
        let (wanted, owners) = self.owners(stage)?;
        let entry = self.entry_of_volid(&owners, mount.volid());
        if entry.as_ref().is_some_and(|e| e.mount.path() == key) {
            return Ok(());
        }
        let own = self.find_entry(stage, &wanted, &owners, volume, key)?;
        let field = format!("spec.volumes[{}].mountPath", volume.name);
        if let Some(own) = own {
            let message = format!(
                "{field}: {} is mounted at {}, but the volume itself is {}: detach the former (pct set {vmid} -delete {})",
                mount.volid(),
                volume.path,
                own.mount.volid(),
                mount.key()
            );
            return Err(self.stuck(stage, Reason::Conflict, message));
        }
        let Some(entry) = entry else { return Ok(()) };
        let object = key.rsplit_once('/').map_or(key, |(object, _)| object);
        let renamed = entry.mount.path().rsplit_once('/').is_some_and(|(of, _)| of == object)
            && !all.iter().any(|v| v.owner_key.as_deref() == Some(entry.mount.path()));
        if renamed {
            self.fits(&at, volume, &entry)?;
            return Err(self.rename_entry(&entry, key));
        }
        let message = format!(
            "{field}: {} is mounted at {}, which is registered as {} on owner container {}: detach it (pct set {vmid} -delete {}), or choose another path",
            mount.volid(),
            volume.path,
            entry.mount.path(),
            entry.owner.at.vmid,
            mount.key()
        );
        Err(self.stuck(stage, Reason::Conflict, message))
    }

    /// Detaches volumes that Phoenix attached and the spec dropped; they are kept (as `unusedN`, or by their owner).
    fn detach(&mut self, guest: &Guest, found: &[Mount], places: &[Option<usize>]) -> Result<(), Next> {
        if self.desired.lxc().is_none_or(|lxc| lxc.volumes.is_none()) {
            return Ok(());
        }
        let recorded: BTreeSet<String> = self
            .status
            .volumes
            .iter()
            .flatten()
            .filter_map(|v| v.volid.clone())
            .collect();
        let dropped = found
            .iter()
            .enumerate()
            .find(|(i, m)| recorded.contains(m.volid()) && !places.contains(&Some(*i)));
        let Some((_, mount)) = dropped else { return Ok(()) };
        self.unlocked(Stage::VolumesReady, guest)?;
        let call = calls::put_config(guest, self.desired.channels)
            .param("delete", mount.key())
            .param("digest", &guest.digest);
        let action = format!("detach volume {} from {} (it is kept)", mount.volid(), mount.path());
        Err(self.run(Stage::VolumesReady, action, vec![], Effect::call(call)))
    }

    /// Paths and properties of what is attached.
    fn mount_changes(
        &mut self,
        guest: &Guest,
        found: &[Mount],
        wanted: &[WantedVolume],
        places: &[Option<usize>],
    ) -> Result<Vec<Change>, Next> {
        let mut changes = Vec::new();
        for (volume, place) in wanted.iter().zip(places) {
            let Some(mount) = place.map(|i| &found[i]) else {
                continue;
            };
            let mut target = mount.properties.clone();
            if mount.path() != volume.path {
                let leaving = |i: usize| {
                    let moved = wanted.iter().zip(places).find(|(_, p)| **p == Some(i));
                    moved.is_some_and(|(v, _)| v.path != found[i].path())
                };
                let mut others = found.iter().enumerate().filter(|(i, _)| !leaving(*i));
                let occupant = others.find(|(_, m)| m.path() == volume.path).map(|(_, m)| m.clone());
                self.path_is_free(guest, found, volume, occupant)?;
                target.set("mp", &volume.path);
            }
            self.dropped.take_off(&format!("mount.{}.", volume.name), &mut target);
            for (key, value) in &volume.properties {
                if !has_property(&target, key, value) {
                    set_property(&mut target, key, value);
                }
            }
            if target != mount.properties {
                changes.push(mount_change(guest, mount, &target));
            }
        }
        Ok(changes)
    }

    /// Nothing that holds data is covered.
    fn path_is_free(
        &mut self,
        guest: &Guest,
        found: &[Mount],
        volume: &WantedVolume,
        occupant: Option<Mount>,
    ) -> Staged {
        let Some(mount) = occupant else { return Ok(()) };
        let binds = self.bind_changes(guest, found);
        if binds.iter().any(|c| c.key == mount.key() && c.value.is_none()) {
            return self.apply(Stage::VolumesReady, guest, binds);
        }
        let message = format!(
            "spec.volumes[{}].mountPath: {} is where {} ({}) of {} is mounted: choose another path, or remove that one in Proxmox",
            volume.name,
            volume.path,
            mount.volid(),
            mount.key(),
            guest.named()
        );
        Err(self.stuck(Stage::VolumesReady, Reason::InvalidSpec, message))
    }

    /// Attaches a volume: the one that was there before, or a new one.
    fn attach(&mut self, guest: &Guest, found: &[Mount], volume: &WantedVolume) -> Result<Next, Next> {
        let vmid = guest.at.vmid;
        let stage = Stage::VolumesReady;
        let occupant = found.iter().find(|m| m.path() == volume.path).cloned();
        self.path_is_free(guest, found, volume, occupant)?;
        let Some(index) = free_index(guest) else {
            let message = format!("container {vmid} has {MAX_MOUNTS} mount points already");
            return Err(self.stuck(stage, Reason::TooManyVolumes, message));
        };
        if let Some(volid) = &volume.existing {
            self.not_pending(guest, volid)?;
            self.may_be_attached(guest, volume, volid)?;
            let known = existing_record(volume, volid, vmid);
            return self.attach_as(guest, index, volume, volid.clone(), vec![Announce::Volume(known)]);
        }
        let own = self.own_recorded(vmid, volume);
        let kept = match (&volume.owner_key, &own) {
            (_, Some(_)) => None,
            (Some(key), None) => Some(self.retained(&self.at(guest), volume, key)?),
            (None, None) => {
                self.unlocked(stage, guest)?;
                self.kept_before(&self.at(guest), volume)?
            }
        };
        let (value, announce) = match (kept, own) {
            (Some(entry), _) => {
                let volid = entry.mount.volid().to_string();
                self.not_pending(guest, &volid)?;
                let known = VolumeStatus {
                    name: volume.name.clone(),
                    volid: Some(volid.clone()),
                    reclaim_policy: Some("Retain".into()),
                    owner_vmid: Some(entry.owner.at.vmid.into()),
                    mount_path: Some(volume.path.clone()),
                    ..VolumeStatus::default()
                }
                .with_size(self.recorded(&volume.name).and_then(|v| v.asked_size()));
                (volid, vec![Announce::Volume(known)])
            }
            (None, Some(volid)) => {
                self.not_lent(volume, &volid)?;
                self.still_there(guest, &format!("spec.volumes[{}]", volume.name), &volid)?;
                (volid, vec![])
            }
            (None, None) => {
                let field = format!("spec.volumes[{}]", volume.name);
                let named: Vec<String> = self.named(found);
                self.none_unnamed(guest, &field, &named)?;
                self.storage_usable(&guest.at.node, &volume.storage, &format!("{field}.storage"), "rootdir")?;
                let new = VolumeStatus {
                    name: volume.name.clone(),
                    reclaim_policy: Some("Delete".into()),
                    mount_path: Some(volume.path.clone()),
                    ..VolumeStatus::default()
                };
                (
                    format!("{}:{}", volume.storage, volume.size.in_gib()),
                    vec![Announce::Volume(new)],
                )
            }
        };
        self.attach_as(guest, index, volume, value, announce)
    }

    /// Attaches a volume: `value` is its volume id, or storage and size of a new one.
    fn attach_as(
        &mut self,
        guest: &Guest,
        index: u32,
        volume: &WantedVolume,
        value: String,
        announce: Vec<Announce>,
    ) -> Result<Next, Next> {
        let stage = Stage::VolumesReady;
        let mut properties = Properties::new(Some("volume"))
            .with("volume", value)
            .with("mp", &volume.path);
        for (key, value) in &volume.properties {
            set_property(&mut properties, key, value);
        }
        self.unlocked(stage, guest)?;
        let call = calls::put_config(guest, self.desired.channels)
            .param(format!("mp{index}"), &properties)
            .param("digest", &guest.digest);
        let action = format!("attach volume {} at {}", volume.name, volume.path);
        Ok(self.run(stage, action, announce, Effect::call(call)))
    }

    /// Volume ids that the spec's volumes have by their paths.
    fn named(&self, found: &[Mount]) -> Vec<String> {
        let wanted = self.desired.volumes().iter();
        let at = wanted.filter_map(|v| found.iter().find(|m| m.path() == v.path));
        at.map(|m| m.volid().to_string()).collect()
    }

    /// A volume of the guest's own that was detached by hand is still held; where not, somebody has to say what is
    /// wanted: an empty one in its place would look as if the data were lost.
    pub(crate) fn still_there(&mut self, guest: &Guest, field: &str, volid: &str) -> Staged {
        self.not_pending(guest, volid)?;
        let seen = in_sight(guest);
        if seen.iter().any(|(key, v)| v == volid && key.starts_with("unused")) {
            return Ok(());
        }
        if !guest.running {
            // A detachment that waits for the next start is in no read of a stopped guest.
            let sections = self.sections(Stage::VolumesReady, guest)?;
            if let Some(key) = sections.place_now(guest.at.sort, volid)
                && !seen.contains_key(&key)
            {
                return Err(self.revert(guest, &key, volid));
            }
        }
        let message = format!(
            "{field} was {volid}, which {} holds neither attached nor as unused disk: attach it again, or take {field} out of the spec once and put it back for an empty one",
            guest.named()
        );
        Err(self.stuck(Stage::VolumesReady, Reason::VolumeMissing, message))
    }

    /// A detachment by hand that waits for a restart is taken back.
    fn not_pending(&mut self, guest: &Guest, volid: &str) -> Staged {
        let named = |text: &String| {
            let first = text.split(',').next().unwrap_or_default();
            first.trim_start_matches("volume=").trim_start_matches("file=") == volid
        };
        let mut pending = guest
            .pending
            .iter()
            .filter(|(key, _)| !guest.options.contains_key(*key));
        match pending.find(|(_, now)| now.as_ref().is_some_and(named)) {
            Some((key, _)) => {
                let key = key.clone();
                Err(self.revert(guest, &key, volid))
            }
            None => Ok(()),
        }
    }

    fn revert(&mut self, guest: &Guest, key: &str, volid: &str) -> Next {
        if let Err(next) = self.unlocked(Stage::VolumesReady, guest) {
            return next;
        }
        let call = calls::put_config(guest, self.desired.channels)
            .param("revert", key)
            .param("digest", &guest.digest);
        let action = format!("keep {volid} as {key} of {}", guest.named());
        self.run(Stage::VolumesReady, action, vec![], Effect::call(call))
    }

    /// The volume is large enough.
    fn sized(&mut self, guest: &Guest, mount: &Mount, volume: &WantedVolume) -> Staged {
        let vmid = guest.at.vmid;
        if !mount.is_of(vmid) {
            return self.retained_sized(guest, mount, volume);
        }
        // Proxmox grows what is in force; a pending change has the size of its time.
        let now = guest.pending.get(&mount.key()).and_then(Option::as_ref);
        let now = now
            .and_then(|text| Properties::of_option("mp0", text).ok())
            .filter(|p| p.get("volume") == Some(mount.volid()));
        let real = now.and_then(|p| units::proxmox_bytes(p.get("size")?)).or(mount.bytes());
        let Some(have) = real else { return Ok(()) };
        if self.must_grow(&self.size_of(guest, mount, volume, have))? {
            self.unlocked(Stage::VolumesReady, guest)?;
            let grown = calls::resize(guest, &mount.key(), volume.size);
            let action = format!("grow volume {} to {}", volume.name, volume.size);
            return Err(self.run(Stage::VolumesReady, action, vec![], grown));
        }
        self.size_shown(guest, mount, have)
    }

    fn size_of(&self, guest: &Guest, mount: &Mount, volume: &WantedVolume, have: u128) -> Sized<'static> {
        Sized {
            stage: Stage::VolumesReady,
            field: format!("spec.volumes[{}].size", volume.name),
            what: "the volume",
            wanted: volume.size,
            have,
            unit: self.unit_of(&guest.at.node, mount.volid()),
            fulfilled: self.recorded(&volume.name).and_then(|v| v.asked_size()),
        }
    }

    /// A retained volume grows on its owner (facts K.1.4); then the guest's own entry is written again with the size.
    fn retained_sized(&mut self, guest: &Guest, mount: &Mount, volume: &WantedVolume) -> Staged {
        let stage = Stage::VolumesReady;
        let as_wanted = |have| self.size_of(guest, mount, volume, have).is_as_wanted();
        if mount.bytes().is_none_or(as_wanted) || self.desired.volume_owner().is_none() {
            return Ok(());
        }
        let (_, owners) = self.owners(stage)?;
        let Some(entry) = self.entry_of_volid(&owners, mount.volid()) else {
            if let Some((_, failure)) = owners.unreadable.first() {
                let failure = failure.clone();
                return Err(self.wait(stage, failure.reason, failure.message, 10));
            }
            let message = format!(
                "spec.volumes[{}].size: {} belongs to guest {}, which is no owner container of Phoenix's: change its size there, or set the size that it has",
                volume.name,
                mount.volid(),
                owner_of(mount.volid()).map_or_else(String::new, |id| id.to_string())
            );
            return Err(self.stuck(stage, Reason::InvalidSpec, message));
        };
        let Some(have) = entry.mount.bytes() else {
            return Ok(());
        };
        self.protect_owners()?;
        if self.must_grow(&self.size_of(guest, mount, volume, have))? {
            if guest.running && is_image(mount.volid()) {
                return Err(self.stop_to_grow(guest, volume));
            }
            self.unlocked(stage, &entry.owner)?;
            let grown = calls::resize(&entry.owner, &entry.mount.key(), volume.size);
            let action = format!(
                "grow retained volume {} to {} on owner container {}",
                volume.name, volume.size, entry.owner.at.vmid
            );
            return Err(self.run(stage, action, vec![], grown));
        }
        // Proxmox notes in the guest's entry what the volume really has, which a storage may have rounded up; the owner's
        // has what was asked for.
        if mount.bytes() > Some(have) {
            return Ok(());
        }
        self.size_shown(guest, mount, have)
    }

    /// The guest's entry names the size that the volume has.
    fn size_shown(&mut self, guest: &Guest, mount: &Mount, have: u128) -> Staged {
        if mount.bytes() == Some(have) {
            return Ok(());
        }
        let target = mount.properties.clone().with("size", proxmox_size(have));
        let change = mount_change(guest, mount, &target);
        self.unlocked(Stage::VolumesReady, guest)?;
        let call = calls::put_config(guest, self.desired.channels)
            .param(change.key, target)
            .param("digest", &guest.digest);
        let action = format!("note the size of {} in {}", mount.volid(), guest.named());
        Err(self.run(Stage::VolumesReady, action, vec![], Effect::call(call)))
    }

    /// An image with a filesystem is not resized on its owner while a guest has it mounted.
    fn stop_to_grow(&mut self, guest: &Guest, volume: &WantedVolume) -> Next {
        let stage = Stage::VolumesReady;
        let asked = self.desired.life.restarted_at.as_ref();
        let asked = asked.filter(|v| self.status.restarted_at.as_ref() != Some(*v)).cloned();
        if self.desired.life.power == PowerState::Stopped
            || self.desired.life.restart == RestartPolicy::Automatic
            || asked.is_some()
            || self.owes_restart(guest)
        {
            if let Err(next) = self.unlocked(stage, guest) {
                return next;
            }
            let mut next = self.shutdown(stage, guest);
            if let Next::Run(step) = &mut next {
                step.announce
                    .extend(asked.map(|value| Announce::Restart(value, self.start(guest, false))));
            }
            return next;
        }
        let message = format!(
            "spec.volumes[{}].size: the volume is an image, which grows only while {} is stopped: set updatePolicy.restart: Automatic, or the annotation {}, or stop it",
            volume.name,
            guest.named(),
            crate::crd::RESTARTED_AT
        );
        self.condition("RestartRequired", true, Reason::PendingChanges, message.clone());
        self.wait(stage, Reason::VolumeInUse, message, 30)
    }

    /// What status says of a volume that is attached.
    fn as_attached(&mut self, vmid: Vmid, mount: &Mount, volume: &WantedVolume) -> VolumeStatus {
        let own = mount.is_of(vmid);
        let policy = match (own, volume.owner_key.is_some()) {
            (true, false) => "Delete",
            (false, true) => "Retain",
            // Neither Retain nor Delete: destroying the guest is refused until somebody decides.
            (true, true) => {
                let message = format!(
                    "volume {} at {} belongs to the container itself and goes with it; it is kept and never covered",
                    volume.name, volume.path
                );
                self.find_more("VolumeNotRetained", Reason::GuestOwnsVolume, message);
                "Unaccounted"
            }
            (false, false) => {
                let message = format!(
                    "volumes[{}].reclaimPolicy is Retain, wanted Delete: the volume belongs to an owner container and stays there",
                    volume.name
                );
                self.find_more("RecreateRequired", Reason::CreationOnly, message);
                "Retain"
            }
        };
        let storage = mount.volid().split(':').next().unwrap_or_default();
        if volume.storage_given && volume.storage != storage {
            let message = format!(
                "volumes[{0}].storage is {storage:?}, wanted {1:?}: the volume stays where it is; give a volume on {1} another name and copy the data",
                volume.name, volume.storage
            );
            self.find_more("RecreateRequired", Reason::CreationOnly, message);
        }
        VolumeStatus {
            name: volume.name.clone(),
            volid: Some(mount.volid().to_string()),
            reclaim_policy: Some(policy.to_string()),
            owner_vmid: owner_of(mount.volid()).filter(|_| !own).map(i64::from),
            mount_path: Some(volume.path.clone()),
            ..VolumeStatus::default()
        }
        .with_size(Some(volume.size))
    }

    fn bind_changes(&self, guest: &Guest, found: &[Mount]) -> Vec<Change> {
        let Some(wanted) = self.desired.lxc().and_then(|lxc| lxc.binds.as_ref()) else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        let mut taken: BTreeSet<u32> = found.iter().map(|m| m.index).collect();
        for bind in wanted {
            let existing = found.iter().find(|m| m.path() == bind.path);
            let mut target = existing
                .map(|m| m.properties.clone())
                .unwrap_or(Properties::new(Some("volume")))
                .with("volume", &bind.host_path)
                .with("mp", &bind.path);
            let dropped = self.dropped.take_off(&format!("bind.{}.", bind.path), &mut target);
            for (key, value) in &bind.properties {
                match value.as_str() {
                    "0" => drop(target.remove(key)),
                    value => set_property(&mut target, key, value),
                }
            }
            let same = existing.is_some_and(|m| {
                let mut properties = bind.properties.iter();
                !dropped && m.volid() == bind.host_path && properties.all(|(k, v)| has_property(&m.properties, k, v))
            });
            let index = existing
                .map(|m| m.index)
                .or_else(|| (0..MAX_MOUNTS).find(|i| !taken.contains(i)));
            let Some(index) = index.filter(|_| !same) else { continue };
            // A volume that holds data is never covered by a bind mount.
            if existing.is_some_and(|m| !m.volid().starts_with('/')) {
                continue;
            }
            taken.insert(index);
            let key = format!("mp{index}");
            let old = guest.options.get(&key).cloned();
            changes.push(Change {
                key,
                value: Some(target.to_string()),
                old,
                root_only: true,
                field: "hostMounts",
            });
        }
        for mount in found.iter().filter(|m| m.volid().starts_with('/')) {
            if !wanted.iter().any(|b| b.path == mount.path()) {
                let key = format!("mp{}", mount.index);
                let old = guest.options.get(&key).cloned();
                changes.push(Change {
                    key,
                    value: None,
                    old,
                    root_only: false,
                    field: "hostMounts",
                });
            }
        }
        changes
    }
}

fn mount_change(guest: &Guest, mount: &Mount, target: &Properties) -> Change {
    let key = mount.key();
    Change {
        old: guest.options.get(&key).cloned(),
        key,
        value: Some(target.to_string()),
        root_only: false,
        field: "volumes",
    }
}

/// Bytes as Proxmox writes them into a configuration: in the largest unit that divides them.
fn proxmox_size(bytes: u128) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let unit = units
        .iter()
        .find(|(shift, _)| bytes >> shift << shift == bytes && bytes != 0);
    unit.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}
