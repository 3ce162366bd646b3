//! Volumes that exist and are given by volume id: what another guest was made with, or what a guest keeps as unused.
//! Phoenix attaches and detaches them, and nothing else: they are never formatted, resized or removed.

use crate::crd::VolumeStatus;
use crate::desired::WantedVolume;
use crate::observed::{Guest, StoredVolume};
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Next, Query, Stage};
use crate::pve::volid::{is_image, owner_of};
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::Reason;

/// Seconds until it is looked again whether another container has an image.
const HELD_AGAIN: u64 = 60;

/// What status has recorded of an existing volume. Destroying the guest never takes it: of another guest's, Proxmox
/// leaves it (facts K.1.3), and one of the guest's own is accounted for by nobody.
pub(super) fn existing_record(volume: &WantedVolume, volid: &str, vmid: Vmid) -> VolumeStatus {
    let own = owner_of(volid) == Some(vmid);
    VolumeStatus {
        name: volume.name.clone(),
        volid: Some(volid.to_string()),
        reclaim_policy: Some(if own { "Unaccounted" } else { "Retain" }.to_string()),
        mount_path: Some(volume.path.clone()),
        ..VolumeStatus::default()
    }
}

impl Planner<'_> {
    /// Whether an existing volume can be attached: Proxmox takes any volume id, also of nothing (facts K.2.11), and two
    /// containers that mount one image destroy its filesystem.
    pub(super) fn may_be_attached(&mut self, guest: &Guest, volume: &WantedVolume, volid: &str) -> Staged {
        let stage = Stage::VolumesReady;
        let field = format!("spec.volumes[{}].volid", volume.name);
        self.unlocked(stage, guest)?;
        let rows = &self.observed.cluster.guests;
        let owner = owner_of(volid).filter(|id| rows.get(id).is_some_and(|row| row.guest_type() == GuestType::Qemu));
        if let Some(machine) = owner {
            let message = format!("{field}: {volid} is a disk of machine {machine}: give a volume of a container");
            return Err(self.stuck(stage, Reason::InvalidSpec, message));
        }
        self.storage_usable(&guest.at.node, &volume.storage, &field, "rootdir")?;
        if let Some(why) = self.may_be_out_of_sight(guest, volume, volid) {
            return Err(self.wait(stage, Reason::VolumeHeld, format!("{field}: {why}"), HELD_AGAIN));
        }
        let stored = match self.observed.volumes.get(volid).cloned() {
            Some(Ok(stored)) => stored,
            Some(Err(failure)) => {
                let message = format!("{field}: {volid} cannot be looked at: {}", failure.message);
                return Err(self.wait(stage, failure.reason, message, 10));
            }
            None => {
                return Err(Next::Look(Query::Volume {
                    node: guest.at.node.clone(),
                    volid: volid.to_string(),
                    of: owner_of(volid),
                    among: self.may_have(guest, volid),
                }));
            }
        };
        if let Some((id, _)) = stored
            .held
            .iter()
            .find(|(id, _)| is_image(volid) && self.of_owners(*id))
        {
            let message = format!(
                "{field}: {volid} is an image that owner container {id} keeps for a volume with reclaimPolicy: Retain: only the object that it is kept for can have it"
            );
            return Err(self.stuck(stage, Reason::InvalidSpec, message));
        }
        match not_fit(guest, volid, &stored) {
            Some((Reason::VolumeHeld, why)) => {
                Err(self.wait(stage, Reason::VolumeHeld, format!("{field}: {why}"), HELD_AGAIN))
            }
            Some((reason, why)) => Err(self.stuck(stage, reason, format!("{field}: {why}"))),
            None => Ok(()),
        }
    }

    /// An image of the guest's own that another object was given meanwhile is not attached again.
    pub(super) fn not_lent(&mut self, volume: &WantedVolume, volid: &str) -> Staged {
        if !is_image(volid) {
            return Ok(());
        }
        let Some(borrowed) = &self.observed.borrowed else {
            return Err(Next::Look(Query::Borrowed));
        };
        let Some(object) = borrowed.get(volid).cloned() else {
            return Ok(());
        };
        let message = format!(
            "spec.volumes[{}] is {volid}, an image, which only one container can have, and {object} names it in its spec.volumes: take it out of one of the two",
            volume.name
        );
        Err(self.wait(Stage::VolumesReady, Reason::VolumeHeld, message, HELD_AGAIN))
    }

    /// A name that stands for another guest's volume is not that of a new one before it is let go: its data would be taken
    /// for the new one's.
    pub(super) fn given_before(&mut self, wanted: &[WantedVolume]) -> Staged {
        for volume in wanted.iter().filter(|v| v.existing.is_none()) {
            let Some(volid) = self
                .recorded(&volume.name)
                .filter(|v| v.is_existing())
                .and_then(|v| v.volid)
            else {
                continue;
            };
            let message = format!(
                "spec.volumes[{0}].size: {0} is {volid}, which was given by volid: give a new volume another name, or take {0} out until that one is detached",
                volume.name
            );
            return Err(self.stuck(Stage::VolumesReady, Reason::InvalidSpec, message));
        }
        Ok(())
    }

    /// An image on a shared storage may be in a container of a node that does not answer, and that still runs.
    fn may_be_out_of_sight(&self, guest: &Guest, volume: &WantedVolume, volid: &str) -> Option<String> {
        let cluster = &self.observed.cluster;
        let storage = cluster.storages.get(&(guest.at.node.clone(), volume.storage.clone()))?;
        let mut rows = cluster.guests.values().filter(|row| row.guest_type() == GuestType::Lxc);
        let out = rows.find(|row| is_image(volid) && storage.shared && !cluster.online.contains(&row.node))?;
        Some(format!(
            "{volid} is an image, which only one container can have, and node {} does not answer: one of its containers may have it",
            out.node
        ))
    }

    /// Containers that may have a volume: of an image any, of a directory only the one whose root filesystem it may be.
    fn may_have(&self, guest: &Guest, volid: &str) -> Vec<GuestRef> {
        let rows = self.observed.cluster.guests.iter();
        rows.filter(|(vmid, row)| {
            row.guest_type() == GuestType::Lxc && (is_image(volid) || owner_of(volid) == Some(**vmid))
        })
        .filter(|(vmid, row)| **vmid != guest.at.vmid && self.observed.cluster.online.contains(&row.node))
        .map(|(vmid, row)| GuestRef::new(GuestType::Lxc, *vmid, &row.node))
        .collect()
    }
}

/// Why a volume cannot be attached, if it cannot.
fn not_fit(guest: &Guest, volid: &str, stored: &StoredVolume) -> Option<(Reason, String)> {
    let name = volid.rsplit(['/', ':']).next().unwrap_or_default();
    let storage = volid.split(':').next().unwrap_or_default();
    let node = &guest.at.node;
    let root = guest.options.get("rootfs").and_then(|text| text.split(',').next());
    let place = stored
        .held
        .iter()
        .find(|(_, place)| place == "rootfs" || is_image(volid));
    match (stored.present, place) {
        (false, _) => {
            let beside = match stored.beside.is_empty() {
                true => String::new(),
                false => format!(" (of that guest there are {})", stored.beside.join(", ")),
            };
            let why = format!(
                "storage {storage:?} of node {node} shows no volume {volid}{beside}: correct it, or let the token see it (VM.Config.Disk on its guest)"
            );
            Some((Reason::VolumeMissing, why))
        }
        _ if name.starts_with("base") => {
            let why = format!("{volid} is what clones of a template rest on, and is not written to: give another one");
            Some((Reason::InvalidSpec, why))
        }
        _ if root == Some(volid) => Some((
            Reason::InvalidSpec,
            format!(
                "{volid} is the root filesystem of {} itself: give another one",
                guest.named()
            ),
        )),
        (_, Some((vmid, place))) if place == "rootfs" => {
            let why = format!("{volid} is the root filesystem of container {vmid}: give another volume");
            Some((Reason::InvalidSpec, why))
        }
        (_, Some((vmid, place))) => {
            let why = format!(
                "{volid} is an image, which only one container can have, and container {vmid} has it as {place}: detach it there while it is stopped (pct set {vmid} -delete {place})"
            );
            Some((Reason::VolumeHeld, why))
        }
        _ => None,
    }
}
