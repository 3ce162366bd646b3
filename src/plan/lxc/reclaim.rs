//! What a volume's record says after edits of its policy, name and place: what is kept somewhere for a name is used again
//! and never covered by an empty volume, and no volume is in two guests.

use crate::crd::{ADOPT, VolumeStatus};
use crate::desired::{WantedVolume, volume_key};
use crate::plan::held::owned_by;
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Announce, Effect, Next, Query, Stage};
use crate::pve::Vmid;
use crate::reason::Reason;

use super::mounts::Mount;
use super::owners::{Entry, Use};

impl Planner<'_> {
    /// The guest's own volume that status has recorded under the name, whatever its policy is now.
    pub(crate) fn own_recorded(&self, vmid: Vmid, volume: &WantedVolume) -> Option<String> {
        let volid = self.recorded(&volume.name)?.volid?;
        owned_by(&volid, vmid).then_some(volid)
    }

    /// A volume that was announced and made, and never recorded, is recorded before the spec that asked for it is left
    /// behind: it is known by its path.
    pub(crate) fn announced_elsewhere(&mut self, vmid: Vmid, found: &[Mount], wanted: &[WantedVolume]) -> Staged {
        let recorded = self.status.volumes.clone().unwrap_or_default();
        let known = |volid: &str| recorded.iter().any(|v| v.volid.as_deref() == Some(volid));
        for entry in recorded.iter().filter(|v| v.volid.is_none()) {
            let Some(path) = entry.mount_path.as_deref() else {
                continue;
            };
            let still_wanted = wanted.iter().any(|v| v.name == entry.name && v.path == path);
            if still_wanted || entry.reclaim_policy.as_deref() != Some("Delete") {
                continue;
            }
            let here = |m: &&Mount| m.is_volume() && m.is_of(vmid) && m.path() == path && !known(m.volid());
            let Some(mount) = found.iter().find(here) else {
                continue;
            };
            let volid = mount.volid().to_string();
            let action = format!("record volume {} as {volid}", entry.name);
            let announce = Announce::Volume(VolumeStatus {
                volid: Some(volid),
                ..entry.clone()
            });
            return Err(self.run(Stage::VolumesReady, action, vec![announce], Effect::Record));
        }
        Ok(())
    }

    /// What an owner keeps under the name of a volume that is to go with its guest, from when it was to be retained.
    pub(crate) fn kept_before(&mut self, at: &Use<'_>, volume: &WantedVolume) -> Result<Option<Entry>, Next> {
        if self.desired.volume_owner().is_none() {
            return Ok(None);
        }
        let (_, owners) = self.owners(at.stage)?;
        let key = volume_key(&self.desired.key, &volume.name);
        if let Some(entry) = self.only_entry(at.stage, &owners, volume, &key)? {
            self.can_be_used(at, volume, &entry)?;
            return Ok(Some(entry));
        }
        // One of the guest's own would have been attached: what status has recorded is an owner's.
        let recorded = self.recorded(&volume.name).is_some_and(|v| v.volid.is_some());
        match owners.unreadable.first().cloned() {
            Some((_, failure)) if recorded => Err(self.not_readable(at.stage, volume, &failure)),
            _ => Ok(None),
        }
    }

    /// Whether a registered volume can be attached where it is to be used.
    pub(crate) fn can_be_used(&mut self, at: &Use<'_>, volume: &WantedVolume, entry: &Entry) -> Staged {
        self.fits(at, volume, entry)?;
        self.in_no_other_guest(at, volume, entry)
    }

    /// A kept volume that is attached again is in no container that was let go with it: two that run on one filesystem
    /// destroy it. One that was allocated just now can be in none.
    fn in_no_other_guest(&mut self, at: &Use<'_>, volume: &WantedVolume, entry: &Entry) -> Staged {
        let announced = self.recorded(&volume.name);
        if announced.is_some_and(|v| v.volid.is_none() && v.reclaim_policy.as_deref() == Some("Retain")) {
            return Ok(());
        }
        let volid = entry.mount.volid();
        let holder = match self.observed.holders.get(volid).cloned() {
            None => {
                return Err(Next::Look(Query::Holder {
                    volid: volid.to_string(),
                    but: at.guest,
                }));
            }
            Some(Err(failure)) => return Err(self.not_readable(at.stage, volume, &failure)),
            Some(Ok(holder)) => holder,
        };
        let Some((vmid, place)) = holder else { return Ok(()) };
        let message = format!(
            "spec.volumes[{}] is kept as {}, and container {vmid}, which is no object's, has it as {place}: adopt that container (annotation {ADOPT}: \"{vmid}\"), or detach the volume there while it is stopped (pct set {vmid} -delete {place})",
            volume.name,
            entry.describe()
        );
        Err(self.stuck(at.stage, Reason::VolumeHeld, message))
    }
}
