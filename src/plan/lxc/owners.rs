//! Owner containers of retained volumes: their `mpN` paths are the registry of all volumes that outlive their guests.
//! A key that is registered anywhere is used where it is, and what cannot be read means that nothing is allocated.

use crate::crd::VolumeStatus;
use crate::desired::{Identity, Stamp, WantedOwner, WantedVolume, volume_key};
use crate::observed::{Guest, Owners};
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Announce, Effect, Impact, Next, OWNER_HOSTNAME, Query, Stage, TAG, calls};
use crate::pve::{ApiCall, Vmid};
use crate::reason::{Cause, Reason};

use super::mounts::{Mount, free_index, lane, mounts};

/// Kind in the stamp of an owner container.
pub const OWNER_KIND: &str = "VolumeOwner";

/// How the finding begins that owners keep volumes for the object: only then they are looked at again for it.
pub(crate) const KEPT_BY_OWNER: &str = "volumes are kept for this object";

/// Where a volume is to be used.
pub(crate) struct Use<'a> {
    /// The condition that waits for it.
    pub stage: Stage,
    /// Node of the guest.
    pub node: &'a str,
    /// Id mapping of the guest; `None` where it is not known yet.
    pub unprivileged: Option<bool>,
    /// The guest, where it exists already.
    pub guest: Option<Vmid>,
}

/// A key's entry on the owner that has it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub owner: Guest,
    pub mount: Mount,
}

impl Entry {
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} on owner container {} of node {}",
            self.mount.volid(),
            self.owner.at.vmid,
            self.owner.at.node
        )
    }
}

fn is_unprivileged(owner: &Guest) -> bool {
    is_set(owner, "unprivileged")
}

/// Whether an owner holds volumes and is not protected.
pub(crate) fn is_open(owner: &Guest) -> bool {
    !is_set(owner, "protection") && !mounts(owner).is_empty()
}

/// What sets or lifts an owner's protection.
pub(crate) fn protection(owner: &Guest, on: bool) -> (String, Effect) {
    let call = ApiCall::put(owner.at.path_of(&["config"]))
        .param("protection", u8::from(on))
        .param("digest", &owner.digest);
    let word = if on { "protect" } else { "open" };
    let action = format!("{word} owner container {}", owner.at.vmid);
    (action, Effect::call(call))
}

fn is_set(guest: &Guest, option: &str) -> bool {
    guest.options.get(option).is_some_and(|v| v == "1")
}

impl Planner<'_> {
    /// All owner containers, those of earlier management clusters taken over first.
    pub(crate) fn owners(&mut self, stage: Stage) -> Result<(WantedOwner, Owners), Next> {
        let Some(wanted) = self.desired.volume_owner().cloned() else {
            let named = self.desired.volumes().iter().find(|v| v.owner_key.is_some());
            let message = format!(
                "spec.volumes[{}].reclaimPolicy: Retain needs spec.volumeOwners of the PhoenixHypervisor: give it an id range, or set reclaimPolicy: Delete",
                named.map(|v| v.name.as_str()).unwrap_or_default()
            );
            return Err(self.stuck(stage, Reason::NoVolumeOwners, message));
        };
        match &self.observed.owners {
            None => Err(Next::Look(Query::Owners { ids: wanted.ids })),
            Some(Err(failure)) => {
                let failure = failure.clone();
                Err(self.wait(stage, failure.reason, failure.message, 10))
            }
            Some(Ok(owners)) => {
                let owners = owners.clone();
                self.restamp_owners(stage, &owners)?;
                self.unclaimed(&owners);
                Ok((wanted, owners))
            }
        }
    }

    /// Owners of earlier management clusters get this one's stamp, so that their volumes are found also when the
    /// hypervisor's `previousClusterIds` does not name those any more.
    fn restamp_owners(&mut self, stage: Stage, owners: &Owners) -> Staged {
        for owner in &owners.owners {
            let Some(stamp) = owner.stamp() else { continue };
            if stamp.vmid != owner.at.vmid || !self.desired.identity.previous_clusters.contains(&stamp.cluster) {
                continue;
            }
            self.unlocked(stage, owner)?;
            let stamp = Stamp {
                cluster: self.desired.identity.cluster_id.clone(),
                ..stamp
            };
            let description = owner.options.get("description").map(String::as_str);
            let words = Stamp::strip(description.unwrap_or_default());
            let call = calls::put_config(owner, self.desired.channels)
                .param("description", stamp.describe(&words))
                .param("digest", &owner.digest);
            let action = format!("take over owner container {}", owner.at.vmid);
            return Err(self.run(stage, action, vec![], Effect::call(call)));
        }
        Ok(())
    }

    /// Tells of volumes that the owners keep for this object and that its spec does not name, as after a change of a
    /// volume's name while the object was not there.
    fn unclaimed(&mut self, owners: &Owners) {
        let prefix = volume_key(&self.desired.key, "");
        let wanted: Vec<&String> = self
            .desired
            .volumes()
            .iter()
            .filter_map(|v| v.owner_key.as_ref())
            .collect();
        let ours = owners.owners.iter().filter(|o| self.of_this_cluster(o));
        let kept: Vec<String> = ours
            .flat_map(|o| mounts(o).into_iter().map(move |m| (o.at.vmid, m)))
            .filter(|(_, m)| !wanted.iter().any(|key| *key == m.path()))
            .filter_map(|(vmid, m)| Some((vmid, m.path().strip_prefix(&prefix)?.to_string(), m)))
            .map(|(vmid, name, m)| format!("{name} ({} of owner container {vmid})", m.volid()))
            .collect();
        if !kept.is_empty() {
            let message = format!(
                "{KEPT_BY_OWNER} that spec.volumes does not name: {}; a volume of that name uses it again",
                kept.join(", ")
            );
            self.find_more("VolumeUnclaimed", Reason::KeptByOwner, message);
        }
    }

    /// Whether the guest's take-over has to begin with that of the owners of its volumes.
    pub(crate) fn take_over_owners(&mut self, guest: &Guest) -> Staged {
        let vmid = guest.at.vmid;
        let retained = self.desired.volumes().iter().any(|v| v.owner_key.is_some());
        let foreign = mounts(guest).iter().any(|m| m.is_volume() && !m.is_of(vmid));
        if self.desired.volume_owner().is_some() && (retained || foreign) {
            self.owners(Stage::Created)?;
        }
        Ok(())
    }

    /// Whether a container carries the stamp of an owner of this management cluster.
    fn of_this_cluster(&self, owner: &Guest) -> bool {
        let stamp = owner.stamp();
        stamp.is_some_and(|s| s.vmid == owner.at.vmid && s.cluster == self.desired.identity.cluster_id)
    }

    /// Entries of a key on our own owners, wherever these are.
    fn entries(&self, owners: &Owners, key: &str) -> Vec<Entry> {
        let ours = owners.owners.iter().filter(|o| self.of_this_cluster(o));
        ours.flat_map(|o| mounts(o).into_iter().map(move |m| (o, m)))
            .filter(|(_, m)| m.path() == key)
            .map(|(owner, mount)| Entry {
                owner: owner.clone(),
                mount,
            })
            .collect()
    }

    /// The entry of a volume id on our own owners.
    pub(crate) fn entry_of_volid(&self, owners: &Owners, volid: &str) -> Option<Entry> {
        let ours = owners.owners.iter().filter(|o| self.of_this_cluster(o));
        let all = ours.flat_map(|o| mounts(o).into_iter().map(move |m| (o, m)));
        all.into_iter()
            .find(|(_, m)| m.volid() == volid)
            .map(|(owner, mount)| Entry {
                owner: owner.clone(),
                mount,
            })
    }

    /// The key's entry; `None` where it is proven that there is none and that nothing is hidden.
    pub(crate) fn find_entry(
        &mut self,
        stage: Stage,
        wanted: &WantedOwner,
        owners: &Owners,
        volume: &WantedVolume,
        key: &str,
    ) -> Result<Option<Entry>, Next> {
        if let Some(entry) = self.only_entry(stage, owners, volume, key)? {
            return Ok(Some(entry));
        }
        self.none_of_others(stage, owners, volume, key)?;
        if let Some(vmid) = owners.creating.first() {
            let message = format!("waits for owner container {vmid} to be created");
            return Err(self.wait(stage, Reason::CreateRunning, message, 2));
        }
        if let Some((_, failure)) = owners.unreadable.first() {
            let failure = failure.clone();
            return Err(self.not_readable(stage, volume, &failure));
        }
        match self.observed.owner_range.clone() {
            None => Err(Next::Look(Query::OwnerRange {
                ids: wanted.ids,
                node: None,
            })),
            Some(Err(failure)) => Err(self.not_readable(stage, volume, &failure)),
            Some(Ok(range)) => match range.hidden.first() {
                Some(hidden) => {
                    let message = format!(
                        "guest {hidden} in spec.volumeOwners.idRange may be an owner container, and no list shows it: grant VM.Audit on /vms/{hidden}"
                    );
                    let failure = Cause::new(Reason::MissingPrivilege, message);
                    Err(self.not_readable(stage, volume, &failure))
                }
                None => Ok(None),
            },
        }
    }

    /// The one entry of a key; `None` where no owner that could be read has one.
    pub(crate) fn only_entry(
        &mut self,
        stage: Stage,
        owners: &Owners,
        volume: &WantedVolume,
        key: &str,
    ) -> Result<Option<Entry>, Next> {
        let found = self.entries(owners, key);
        match found.as_slice() {
            [] => Ok(None),
            [entry] => Ok(Some(entry.clone())),
            several => {
                let places: Vec<String> = several.iter().map(Entry::describe).collect();
                let message = format!(
                    "volume {} is registered twice at {key} ({}): remove the wrong entry from its owner container",
                    volume.name,
                    places.join(", ")
                );
                Err(self.stuck(stage, Reason::DoubleVolume, message))
            }
        }
    }

    pub(crate) fn not_readable(&mut self, stage: Stage, volume: &WantedVolume, failure: &Cause) -> Next {
        let message = format!(
            "volume {} is looked for on all owner containers before a new one is made: {}",
            volume.name, failure.message
        );
        self.wait(stage, failure.reason, message, 10)
    }

    /// Owners of unknown management clusters, and copies of owners, may hold the data: nobody guesses.
    fn none_of_others(&mut self, stage: Stage, owners: &Owners, volume: &WantedVolume, key: &str) -> Staged {
        let has_key = |o: &&Guest| mounts(o).iter().any(|m| m.path() == key);
        let Some(other) = owners.owners.iter().find(has_key).cloned() else {
            return Ok(());
        };
        let stamp = other.stamp();
        let copy_of = stamp.as_ref().map(|s| s.vmid).filter(|v| *v != other.at.vmid);
        let message = match (copy_of, stamp) {
            (Some(vmid), _) => format!(
                "volume {} is registered at {key} on container {}, which is a copy of owner container {vmid}: restore that one under its own id, or remove the mount point from the copy",
                volume.name, other.at.vmid
            ),
            (None, stamp) => format!(
                "volume {} is registered at {key} on owner container {} of management cluster {}: if that one was this one's predecessor, put its id into spec.previousClusterIds of the PhoenixHypervisor (without a cluster: --cluster-id); otherwise give the object or the volume another name",
                volume.name,
                other.at.vmid,
                stamp.map(|s| s.cluster).unwrap_or_default()
            ),
        };
        Err(self.stuck(stage, Reason::Conflict, message))
    }

    /// A volume that status has recorded was there: an empty one in its place would look as if the data were lost.
    fn not_lost(&mut self, stage: Stage, owners: &Owners, volume: &WantedVolume) -> Staged {
        let recorded = self.status.volumes.iter().flatten().find(|v| v.name == volume.name);
        let Some((volid, policy)) = recorded.and_then(|v| Some((v.volid.clone()?, v.reclaim_policy.clone()))) else {
            return Ok(());
        };
        if policy.as_deref() != Some("Retain") {
            return Ok(());
        }
        let holder = owners
            .owners
            .iter()
            .find(|o| o.numbered("unused").into_values().any(|v| v == volid));
        let message = match holder {
            Some(owner) => format!(
                "volume {} ({volid}) was detached from its owner container {}: register it again (pct set {} -mpN {volid},mp={})",
                volume.name,
                owner.at.vmid,
                owner.at.vmid,
                volume.owner_key.as_deref().unwrap_or_default()
            ),
            None => format!(
                "volume {} was {volid}, which is registered on no owner container any more: register it again, or take the volume out of spec.volumes once and put it back for an empty one",
                volume.name
            ),
        };
        Err(self.stuck(stage, Reason::VolumeMissing, message))
    }

    /// Whether a registered volume can be used by the guest; where not, both ways out.
    pub(crate) fn fits(&mut self, at: &Use<'_>, volume: &WantedVolume, entry: &Entry) -> Staged {
        let (owner, guest) = (&entry.owner, at.guest);
        let field = format!("spec.volumes[{}]", volume.name);
        if owner.at.node != at.node {
            let there = &owner.at.node;
            let way = match guest {
                Some(vmid) => format!("migrate the container there (pct migrate {vmid} {there})"),
                None => format!("set spec.node: {there}, or clone from a template on that node"),
            };
            let message = format!(
                "{field} is kept as {}, and the container is to be on node {}: {way}, or move the owner (pct migrate {} {}), or give the volume another name for a new one",
                entry.describe(),
                at.node,
                owner.at.vmid,
                at.node
            );
            return Err(self.stuck(at.stage, Reason::VolumeElsewhere, message));
        }
        let was = is_unprivileged(owner);
        if at.unprivileged.is_some_and(|wanted| wanted != was) {
            let message = format!(
                "{field} is kept as {} and belongs to the ids of {} containers, and this one is {}: set spec.unprivileged: {was}{}; or carry the data over: give the volume another name for a new one, and copy from {} on the node",
                entry.describe(),
                mapping(was),
                mapping(!was),
                if guest.is_some() {
                    " and make the object anew"
                } else {
                    ""
                },
                entry.mount.volid(),
            );
            return Err(self.stuck(at.stage, Reason::VolumeMapping, message));
        }
        Ok(())
    }

    /// Checks, before a container is made, that its retained volumes can be used on the node; `None` looks only for
    /// the node that they are on.
    pub(crate) fn retained_fit(&mut self, at: Option<&Use<'_>>) -> Result<Option<String>, Next> {
        let stage = at.map_or(Stage::Created, |a| a.stage);
        let volumes = self.desired.volumes().to_vec();
        let mut node: Option<(String, String)> = None;
        for volume in &volumes {
            let Some(key) = &volume.owner_key else { continue };
            let (wanted, owners) = self.owners(stage)?;
            let Some(entry) = self.find_entry(stage, &wanted, &owners, volume, key)? else {
                self.not_lost(stage, &owners, volume)?;
                continue;
            };
            if let Some(at) = at {
                self.can_be_used(at, volume, &entry)?;
                continue;
            }
            let there = entry.owner.at.node.clone();
            match &node {
                Some((other, name)) if *other != there => {
                    let message = format!(
                        "spec.volumes: {name} is kept on node {other}, {} as {}: move one of the owner containers, so that both are on one node",
                        volume.name,
                        entry.describe()
                    );
                    return Err(self.stuck(stage, Reason::VolumeElsewhere, message));
                }
                _ => node = Some((there, volume.name.clone())),
            }
        }
        Ok(node.map(|(node, _)| node))
    }

    /// The entry of a retained volume, allocated on an owner first where there is none yet.
    pub(crate) fn retained(&mut self, at: &Use<'_>, volume: &WantedVolume, key: &str) -> Result<Entry, Next> {
        let (wanted, owners) = self.owners(at.stage)?;
        match self.find_entry(at.stage, &wanted, &owners, volume, key)? {
            Some(entry) => {
                self.can_be_used(at, volume, &entry)?;
                Ok(entry)
            }
            None => {
                self.not_lost(at.stage, &owners, volume)?;
                Err(self.allocate_on_owner(at, &owners, &wanted, volume, key))
            }
        }
    }

    /// Owners that hold volumes are protected again, after edits and should one have been cut off.
    pub(crate) fn protect_owners(&mut self) -> Staged {
        let Some(Ok(owners)) = self.observed.owners.clone() else {
            return Ok(());
        };
        for owner in owners.owners.iter().filter(|o| self.of_this_cluster(o)) {
            if is_open(owner) {
                return Err(self.protect(owner, true));
            }
        }
        Ok(())
    }

    /// Sets or lifts the protection of an owner (facts K.1.2).
    fn protect(&mut self, owner: &Guest, on: bool) -> Next {
        if let Err(next) = self.unlocked(Stage::VolumesReady, owner) {
            return next;
        }
        let (action, effect) = protection(owner, on);
        self.run(Stage::VolumesReady, action, vec![], effect)
    }

    /// Registers a volume under another key: its name in the spec was changed.
    pub(crate) fn rename_entry(&mut self, entry: &Entry, key: &str) -> Next {
        let owner = &entry.owner;
        if is_set(owner, "protection") {
            return self.protect(owner, false);
        }
        if let Err(next) = self.unlocked(Stage::VolumesReady, owner) {
            return next;
        }
        let value = entry.mount.properties.clone().with("mp", key);
        let call = calls::put_config(owner, self.desired.channels)
            .param(format!("mp{}", entry.mount.index), value)
            .param("digest", &owner.digest);
        let action = format!(
            "register {} as {key} instead of {}",
            entry.mount.volid(),
            entry.mount.path()
        );
        // Write-ahead: a rename that is taken back is undone on the owner too.
        let named = Announce::VolumeNamed {
            volid: entry.mount.volid().to_string(),
            name: key.rsplit('/').next().unwrap_or_default().to_string(),
        };
        self.run(Stage::VolumesReady, action, vec![named], Effect::call(call))
    }

    fn allocate_on_owner(
        &mut self,
        at: &Use<'_>,
        owners: &Owners,
        wanted: &WantedOwner,
        volume: &WantedVolume,
        key: &str,
    ) -> Next {
        let usable =
            |o: &&Guest| self.of_this_cluster(o) && o.at.node == at.node && Some(is_unprivileged(o)) == at.unprivileged;
        let mut with_room = owners.owners.iter().filter(usable);
        let Some((owner, index)) = with_room.find_map(|o| Some((o.clone(), free_index(o)?))) else {
            return self.new_owner(at, wanted);
        };
        if let Err(next) = self.storage_usable(
            at.node,
            &volume.storage,
            &format!("spec.volumes[{}].storage", volume.name),
            "rootdir",
        ) {
            return next;
        }
        if is_set(&owner, "protection") {
            return self.protect(&owner, false);
        }
        if let Err(next) = self.unlocked(at.stage, &owner) {
            return next;
        }
        let value = format!("{}:{},mp={key}", volume.storage, volume.size.in_gib());
        let call = calls::put_config(&owner, self.desired.channels)
            .param(format!("mp{index}"), value)
            .param("digest", &owner.digest);
        let new = VolumeStatus {
            name: volume.name.clone(),
            reclaim_policy: Some("Retain".into()),
            mount_path: Some(volume.path.clone()),
            ..VolumeStatus::default()
        };
        self.run(
            at.stage,
            format!("allocate retained volume {} ({})", volume.name, volume.size),
            vec![Announce::Volume(new)],
            Effect::call(call),
        )
        .apart(&lane(volume))
    }

    /// A new owner container: small, never started, stamped. Its protection comes with its first volume.
    fn new_owner(&mut self, at: &Use<'_>, wanted: &WantedOwner) -> Next {
        let stage = at.stage;
        let range = match self.observed.owner_range.clone() {
            Some(Ok(range)) if range.looked_for_free => range,
            Some(Err(failure)) => return self.wait(stage, failure.reason, failure.message, 10),
            _ => {
                return Next::Look(Query::OwnerRange {
                    ids: wanted.ids,
                    node: Some(at.node.to_string()),
                });
            }
        };
        let Some(vmid) = range.free else {
            let message = format!(
                "spec.volumeOwners.idRange {}-{} of the PhoenixHypervisor has no free id left: widen it",
                wanted.ids.0, wanted.ids.1
            );
            return self.stuck(stage, Reason::NoFreeVmid, message);
        };
        let own = self.desired.source.clone().filter(|s| s.image_volid().is_some());
        let (true, Some(storage)) = (wanted.image.is_some() || own.is_some(), wanted.storage.clone()) else {
            let message = "spec.volumeOwners.image and .storage of the PhoenixHypervisor are needed for the first retained volume: name any small container image and a storage";
            return self.stuck(stage, Reason::NoVolumeOwners, message);
        };
        if let Err(next) = self.storage_usable(at.node, &storage, "spec.volumeOwners.storage", "rootdir") {
            return next;
        }
        let image = match (wanted.image.clone(), own) {
            (Some(volid), _) => match self.owner_image(stage, at.node, &volid) {
                Ok(volid) => volid,
                Err(next) => return next,
            },
            // The guest's own image may have been removed since, or lie under the name of an earlier version.
            (None, own) => match own.map(|own| self.image_present(stage, at.node, &own)) {
                Some(Ok(volid)) => volid,
                Some(Err(next)) => return next,
                None => String::new(),
            },
        };
        let identity = Identity {
            cluster: self.desired.identity.cluster_id.clone(),
            kind: OWNER_KIND.into(),
            namespace: "-".into(),
            name: at.node.to_string(),
            uid: "-".into(),
        };
        let stamp = identity.stamp(vmid);
        let words = "Holds volumes that outlive their guests. Phoenix never starts it; do not remove it.";
        let call = ApiCall::post(format!("/nodes/{}/lxc", at.node))
            .param("vmid", vmid)
            .param("ostemplate", image)
            .param("hostname", format!("{OWNER_HOSTNAME}{vmid}"))
            .param("description", stamp.describe(words))
            .param("unprivileged", u8::from(at.unprivileged.unwrap_or(true)))
            // Nothing in it is set up, as it never runs: no warning about systemd without nesting either (facts L.1.7).
            .param("ostype", "unmanaged")
            .param("rootfs", format!("{storage}:1"))
            .param("memory", 16)
            .param("swap", 0)
            .param("tags", TAG)
            .param_opt("pool", wanted.pool.as_ref());
        self.run(
            stage,
            format!("create owner container {vmid} for retained volumes"),
            vec![],
            Effect::task(at.node, call).with(Impact::Create),
        )
    }
}

fn mapping(unprivileged: bool) -> &'static str {
    if unprivileged { "unprivileged" } else { "privileged" }
}
