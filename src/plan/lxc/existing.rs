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

    /// Existing volumes that the spec dropped and that the container has until its next start: until then no other
    /// container is given them.
    pub(super) fn leaving(&self, guest: &Guest, wanted: &[WantedVolume]) -> Vec<VolumeStatus> {
        let names = |text: &String, volid: &str| text.split(',').next() == Some(volid);
        let has = |volid: &str| guest.pending.values().flatten().any(|now| names(now, volid));
        let dropped = |volid: &str| wanted.iter().all(|v| v.existing.as_deref() != Some(volid));
        let mut recorded: Vec<VolumeStatus> = self.status.volumes.clone().unwrap_or_default();
        recorded.retain(|entry| {
            let volid = entry.volid.as_deref().unwrap_or_default();
            entry.is_existing() && dropped(volid) && has(volid)
        });
        recorded
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
                "storage {storage:?} of node {node} has no volume {volid}{beside}: correct it, or give size instead for a new volume"
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
