//! Volumes and bind mounts (design §6). Volumes of the guest's own are allocated on it; retained ones belong to an
//! owner container, whose `mpN` paths are the registry, and are attached by volid.

use std::collections::BTreeSet;

use crate::crd::{ReclaimPolicy, VolumeStatus};
use crate::desired::{Stamp, WantedOwner, WantedVolume};
use crate::observed::{Guest, Owner, Owners};
use crate::property::Properties;

use super::config::{Change, TAG};
use super::guest::Planner;
use super::*;

/// Kind in the stamp of an owner container.
pub const OWNER_KIND: &str = "VolumeOwner";
/// Mount points that a container can have (facts D.1).
const MAX_MOUNTS: u32 = 256;

struct Mount {
    index: u32,
    properties: Properties,
}

impl Mount {
    fn volid(&self) -> &str {
        self.properties.get("volume").unwrap_or_default()
    }
    fn path(&self) -> &str {
        self.properties.get("mp").unwrap_or_default().trim_end_matches('/')
    }
}

fn mounts(guest: &Guest) -> Vec<Mount> {
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

/// Whether a volume id names a volume of this guest (facts G.3: `subvol-<id>-disk-N`, `vm-<id>-disk-N`, and for
/// linked clones the part after the last slash).
pub(super) fn owned_by(volid: &str, vmid: i64) -> bool {
    let name = volid.rsplit(['/', ':']).next().unwrap_or_default();
    name.split('-').nth(1).is_some_and(|id| id == vmid.to_string())
}

/// The volume that an option's value names, with the id in its name, which is the guest's that it was made for.
pub(super) fn volume_of(text: &str) -> Option<(i64, String)> {
    let first = text.split(',').next()?;
    let volid = first.trim_start_matches("volume=").trim_start_matches("file=");
    let (_, path) = volid.split_once(':')?;
    let name = path.rsplit('/').next()?;
    let kinds = ["vm", "subvol", "base", "basevol"];
    let mut parts = name.split('-');
    kinds.contains(&parts.next()?).then_some(())?;
    Some((parts.next()?.parse().ok()?, volid.to_string()))
}

fn free_index(guest: &Guest) -> Option<u32> {
    let taken = guest.numbered("mp");
    (0..MAX_MOUNTS).find(|i| !taken.contains_key(i))
}

impl Planner<'_> {
    /// Volumes and bind mounts are attached as wanted.
    pub(super) fn volumes(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let stage = Stage::VolumesReady;
        let found = mounts(guest);
        let mut recorded: Vec<VolumeStatus> = Vec::new();
        for volume in self.desired.volumes.clone().iter().flatten() {
            recorded.push(self.volume(vmid, guest, &found, volume)?);
        }
        self.detach(vmid, guest, &found)?;
        let changes = self.bind_changes(guest, &found);
        self.apply(stage, vmid, guest, changes)?;
        self.record_volumes(guest, recorded);
        self.ok(stage, "volumes and mounts are as wanted");
        Ok(())
    }

    /// One volume: attached already, or attached next.
    fn volume(
        &mut self,
        vmid: i64,
        guest: &Guest,
        found: &[Mount],
        volume: &WantedVolume,
    ) -> Result<VolumeStatus, Next> {
        let stage = Stage::VolumesReady;
        let policy = if volume.owner_key.is_some() {
            ReclaimPolicy::Retain
        } else {
            ReclaimPolicy::Delete
        };
        let status = |volid: &str, owner: Option<i64>, policy: ReclaimPolicy| VolumeStatus {
            name: volume.name.clone(),
            volid: Some(volid.to_string()),
            reclaim_policy: Some(format!("{policy:?}")),
            owner_vmid: owner,
        };
        if let Some(mount) = found.iter().find(|m| m.path() == volume.path) {
            let own = owned_by(mount.volid(), vmid);
            let mut wanted = mount.properties.clone();
            for (key, value) in &volume.properties {
                wanted.set(key, value);
            }
            let differs = volume
                .properties
                .iter()
                .any(|(k, v)| mount.properties.get(k).unwrap_or("0") != v);
            if differs {
                let key = format!("mp{}", mount.index);
                let old = guest.options.get(&key).cloned();
                let change = Change {
                    key,
                    value: Some(wanted.to_string()),
                    old,
                    root_only: false,
                    field: "volumes",
                };
                self.apply(stage, vmid, guest, vec![change])?;
            }
            if own && volume.owner_key.is_some() {
                let message = format!(
                    "volume {} at {} belongs to the container itself and goes with it; it is kept and never covered",
                    volume.name, volume.path
                );
                self.find("VolumeNotRetained", true, "GuestOwnsVolume", message);
                // Neither Retain nor Delete: destroying the guest is refused until somebody decides.
                return Ok(VolumeStatus {
                    reclaim_policy: Some("Unaccounted".into()),
                    ..status(mount.volid(), None, policy)
                });
            }
            let owner = (!own)
                .then(|| self.recorded(&volume.name).and_then(|v| v.owner_vmid))
                .flatten();
            return Ok(status(mount.volid(), owner, policy));
        }
        let Some(index) = free_index(guest) else {
            return Err(self.stuck(
                stage,
                "TooManyVolumes",
                format!("container {vmid} has {MAX_MOUNTS} mount points already"),
            ));
        };
        let (value, announce) = match &volume.owner_key {
            None => {
                self.storage_usable(
                    &guest.node,
                    &volume.storage,
                    &format!("spec.volumes[{}].storage", volume.name),
                    "rootdir",
                )?;
                (
                    format!("{}:{}", volume.storage, volume.size_gib),
                    vec![Announce::DeleteVolume(volume.name.clone())],
                )
            }
            Some(key) => (self.retained(guest, volume, key)?, vec![]),
        };
        let mut properties = Properties::new(Some("volume"))
            .with("volume", value)
            .with("mp", &volume.path);
        for (key, value) in &volume.properties {
            properties.set(key, value);
        }
        self.unlocked(stage, vmid, guest)?;
        let call = self
            .put_config(guest, vmid)
            .param(format!("mp{index}"), &properties)
            .param("digest", &guest.digest);
        Err(self.run(
            stage,
            format!("attach volume {} at {}", volume.name, volume.path),
            announce,
            Effect::Call(call),
        ))
    }

    fn put_config(&self, guest: &Guest, vmid: i64) -> ApiCall {
        let call = ApiCall::put(format!("{}/config", guest.path(vmid)));
        if self.desired.channels.token {
            call
        } else {
            call.as_root()
        }
    }

    fn recorded(&self, name: &str) -> Option<&VolumeStatus> {
        self.status.volumes.iter().flatten().find(|v| v.name == name)
    }

    /// The volid of a retained volume, allocated on its owner first where it is not there yet.
    fn retained(&mut self, guest: &Guest, volume: &WantedVolume, key: &str) -> Result<String, Next> {
        let stage = Stage::VolumesReady;
        let Some(wanted) = self.desired.owner.clone() else {
            let message = format!(
                "spec.volumes[{}].reclaimPolicy: Retain needs spec.volumeOwners of the PhoenixHypervisor: give it an id range, or set reclaimPolicy: Delete",
                volume.name
            );
            return Err(self.stuck(stage, "NoVolumeOwners", message));
        };
        let unprivileged = guest.options.get("unprivileged").is_some_and(|v| v == "1");
        let owners = match &self.observed.owners {
            None => {
                let node = guest.node.clone();
                return Err(Next::Look(Query::Owners {
                    node,
                    unprivileged,
                    ids: wanted.ids,
                }));
            }
            Some(Err(failure)) => {
                let failure = failure.clone();
                return Err(self.wait(stage, failure.reason, failure.message, 10));
            }
            Some(Ok(owners)) => owners.clone(),
        };
        self.registered(&owners, volume, key)?.map_or_else(
            || Err(self.allocate_on_owner(guest, &owners, &wanted, unprivileged, volume, key)),
            Ok,
        )
    }

    /// Looks the key up in the owners' registry, with the protection of its owner restored first.
    fn registered(&mut self, owners: &Owners, volume: &WantedVolume, key: &str) -> Result<Option<String>, Next> {
        let stage = Stage::VolumesReady;
        let entries: Vec<(&Owner, Mount)> = owners
            .owners
            .iter()
            .flat_map(|o| mounts(&o.guest).into_iter().map(move |m| (o, m)))
            .filter(|(_, m)| m.path() == key)
            .collect();
        match entries.as_slice() {
            [] => Ok(None),
            [(owner, mount)] => {
                if owner.guest.options.get("protection").is_none_or(|v| v != "1") {
                    return Err(self.protect(owner, true));
                }
                Ok(Some(mount.volid().to_string()))
            }
            several => {
                let volids: Vec<&str> = several.iter().map(|(_, m)| m.volid()).collect();
                let message = format!(
                    "volume {} is registered twice at {key} ({}): remove the wrong entry from its owner container",
                    volume.name,
                    volids.join(", ")
                );
                Err(self.stuck(stage, "DoubleVolume", message))
            }
        }
    }

    /// Sets or lifts the protection of an owner (facts K.1.2).
    fn protect(&mut self, owner: &Owner, on: bool) -> Next {
        if let Err(next) = self.unlocked(Stage::VolumesReady, owner.vmid, &owner.guest) {
            return next;
        }
        let call = self
            .put_config(&owner.guest, owner.vmid)
            .param("protection", u8::from(on))
            .param("digest", &owner.guest.digest);
        let action = format!("{} owner container {}", if on { "protect" } else { "open" }, owner.vmid);
        self.run(Stage::VolumesReady, action, vec![], Effect::Call(call))
    }

    fn allocate_on_owner(
        &mut self,
        guest: &Guest,
        owners: &Owners,
        wanted: &WantedOwner,
        unprivileged: bool,
        volume: &WantedVolume,
        key: &str,
    ) -> Next {
        let stage = Stage::VolumesReady;
        let with_room = owners.owners.iter().find_map(|o| Some((o, free_index(&o.guest)?)));
        let Some((owner, index)) = with_room else {
            return self.new_owner(guest, owners, wanted, unprivileged);
        };
        if let Err(next) = self.storage_usable(
            &guest.node,
            &volume.storage,
            &format!("spec.volumes[{}].storage", volume.name),
            "rootdir",
        ) {
            return next;
        }
        if owner.guest.options.get("protection").is_some_and(|v| v == "1") {
            return self.protect(owner, false);
        }
        if let Err(next) = self.unlocked(stage, owner.vmid, &owner.guest) {
            return next;
        }
        let value = format!("{}:{},mp={key}", volume.storage, volume.size_gib);
        let call = self
            .put_config(&owner.guest, owner.vmid)
            .param(format!("mp{index}"), value)
            .param("digest", &owner.guest.digest);
        self.run(
            stage,
            format!("allocate retained volume {} ({} GiB)", volume.name, volume.size_gib),
            vec![],
            Effect::Call(call),
        )
    }

    /// A new owner container: small, never started, stamped. Its protection comes with its first volume.
    fn new_owner(&mut self, guest: &Guest, owners: &Owners, wanted: &WantedOwner, unprivileged: bool) -> Next {
        let stage = Stage::VolumesReady;
        if let Some(vmid) = owners.creating.first() {
            return self.wait(
                stage,
                "CreateRunning",
                format!("waits for owner container {vmid} to be created"),
                2,
            );
        }
        let Some(vmid) = owners.free else {
            let message = format!(
                "spec.volumeOwners.idRange {}-{} of the PhoenixHypervisor has no free id left: widen it",
                wanted.ids.0, wanted.ids.1
            );
            return self.stuck(stage, "NoFreeVmid", message);
        };
        let image = wanted
            .image
            .clone()
            .or_else(|| self.desired.source.as_ref().and_then(|s| s.image_volid()));
        let (Some(image), Some(storage)) = (image, wanted.storage.clone()) else {
            let message = "spec.volumeOwners.image and .storage of the PhoenixHypervisor are needed for the first retained volume: name any small container image and a storage";
            return self.stuck(stage, "NoVolumeOwners", message);
        };
        if let Err(next) = self.storage_usable(&guest.node, &storage, "spec.volumeOwners.storage", "rootdir") {
            return next;
        }
        let stamp = Stamp {
            cluster: self.desired.cluster_id.clone(),
            kind: OWNER_KIND.into(),
            namespace: "-".into(),
            name: guest.node.clone(),
            uid: "-".into(),
            vmid,
            fresh: false,
            adopted: false,
            revision: None,
            parent: None,
        };
        let words = "Holds volumes that outlive their guests. Phoenix never starts it; do not remove it.";
        let call = ApiCall::post(format!("/nodes/{}/lxc", guest.node))
            .param("vmid", vmid)
            .param("ostemplate", image)
            .param("hostname", format!("phoenix-volumes-{vmid}"))
            .param("description", stamp.describe(words))
            .param("unprivileged", u8::from(unprivileged))
            .param("rootfs", format!("{storage}:1"))
            .param("memory", 16)
            .param("swap", 0)
            .param("tags", TAG)
            .param_opt("pool", wanted.pool.as_ref());
        self.run(
            stage,
            format!("create owner container {vmid} for retained volumes"),
            vec![],
            Effect::Task(call),
        )
    }

    /// Detaches volumes that Phoenix attached and the spec dropped; they are kept (as `unusedN`, or by their owner).
    fn detach(&mut self, vmid: i64, guest: &Guest, found: &[Mount]) -> Result<(), Next> {
        let Some(wanted) = &self.desired.volumes else {
            return Ok(());
        };
        let paths: BTreeSet<&str> = wanted.iter().map(|v| v.path.as_str()).collect();
        let recorded: BTreeSet<&str> = self
            .status
            .volumes
            .iter()
            .flatten()
            .filter_map(|v| v.volid.as_deref())
            .collect();
        let dropped = found
            .iter()
            .find(|m| recorded.contains(m.volid()) && !paths.contains(m.path()));
        let Some(mount) = dropped else { return Ok(()) };
        self.unlocked(Stage::VolumesReady, vmid, guest)?;
        let call = self
            .put_config(guest, vmid)
            .param("delete", format!("mp{}", mount.index))
            .param("digest", &guest.digest);
        let action = format!("detach volume {} from {} (it is kept)", mount.volid(), mount.path());
        Err(self.run(Stage::VolumesReady, action, vec![], Effect::Call(call)))
    }

    fn bind_changes(&self, guest: &Guest, found: &[Mount]) -> Vec<Change> {
        let Some(wanted) = &self.desired.binds else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        let mut taken: BTreeSet<u32> = found.iter().map(|m| m.index).collect();
        for bind in wanted {
            let existing = found.iter().find(|m| m.path() == bind.path);
            let mut target = Properties::new(Some("volume"))
                .with("volume", &bind.host_path)
                .with("mp", &bind.path);
            for (key, value) in bind.properties.iter().filter(|(_, v)| *v != "0") {
                target.set(key, value);
            }
            let same = existing.is_some_and(|m| {
                m.volid() == bind.host_path
                    && bind
                        .properties
                        .iter()
                        .all(|(k, v)| m.properties.get(k).unwrap_or("0") == v)
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

    /// Status: the volumes as attached, and earlier ones of the guest's own that it still holds detached, so that
    /// destroying it is accounted for (promise 5).
    fn record_volumes(&mut self, guest: &Guest, mut recorded: Vec<VolumeStatus>) {
        let held: BTreeSet<String> = guest
            .numbered("unused")
            .into_values()
            .map(|text| text.split(',').next().unwrap_or_default().to_string())
            .collect();
        for old in self.status.volumes.iter().flatten() {
            let kept = old.volid.as_ref().is_some_and(|v| held.contains(v));
            if kept && !recorded.iter().any(|v| v.name == old.name) {
                recorded.push(old.clone());
            }
        }
        self.facts.volumes = (!recorded.is_empty()).then_some(recorded);
    }
}
