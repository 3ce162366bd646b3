//! CD-ROM drives of a machine. What lies in them is nobody's data: a file on a storage that stays there.

use crate::desired::WantedVm;
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::planner::Planner;
use crate::plan::{Next, Stage};
use crate::reason::Reason;

use super::drives::cdroms;

/// An empty drive.
const EMPTY: &str = "none";

impl Planner<'_> {
    /// Drives as the spec names them. An image has to be on its storage when it is put in; what a clone copied is no wish
    /// of its own (promise 3). A drive that cannot be as wanted keeps nothing else back.
    pub(crate) fn cdroms(&mut self, guest: &Guest, vm: &WantedVm) -> Result<Vec<Change>, Next> {
        let stage = Stage::VolumesReady;
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let existing = cdroms(&guest.options);
        let wanted = vm.cdroms.as_deref().unwrap_or_default();
        let mut changes = Vec::new();
        for drive in wanted {
            let slot = &drive.slot;
            let have = existing.get(slot);
            if have.is_none()
                && let Some(text) = guest.options.get(slot)
            {
                let message = format!(
                    "{}.cdroms[{slot}].slot: {slot} of {} holds {text:?}, which is no CD-ROM drive: choose another slot",
                    self.prefix(),
                    guest.named()
                );
                let stuck = self.stuck(stage, Reason::InvalidSpec, message);
                self.note_held(stage, stuck);
                continue;
            }
            let ejected = fresh || self.dropped.has(&format!("cdrom.{slot}.volid"));
            let medium = match (&drive.volid, have) {
                (Some(volid), _) => volid.as_str(),
                (None, Some(_)) if !ejected => continue,
                (None, _) => EMPTY,
            };
            if have.is_some_and(|have| have == medium) {
                continue;
            }
            match self.iso_present(stage, &guest.at.node, slot, medium) {
                Ok(()) => {}
                Err(look @ Next::Look(_)) => return Err(look),
                Err(missing) => {
                    self.note_held(stage, missing);
                    continue;
                }
            }
            changes.extend(change("cdroms", slot, guest, Some(in_drive(medium))));
        }
        let all = vm.cdroms.is_some() || fresh;
        for (slot, medium) in existing
            .iter()
            .filter(|(slot, _)| !wanted.iter().any(|w| w.slot == **slot))
        {
            if !all && !self.dropped.has(&format!("cdrom.{slot}")) {
                continue;
            }
            // A drive goes with the next start, and of a protected machine not at all; its medium goes at once.
            let protected = guest.options.get("protection").is_some_and(|v| v == "1");
            let left = match medium.as_str() {
                EMPTY if protected => continue,
                EMPTY => None,
                _ => (guest.running || protected).then(|| in_drive(EMPTY)),
            };
            changes.extend(change("cdroms", slot, guest, left));
        }
        Ok(changes)
    }

    /// The images of all drives are there, before anything is made that would wait for them.
    pub(crate) fn isos_present(&mut self, stage: Stage, node: &str, vm: &WantedVm) -> Result<(), Next> {
        for drive in vm.cdroms.iter().flatten() {
            self.iso_present(stage, node, &drive.slot, drive.volid.as_deref().unwrap_or(EMPTY))?;
        }
        Ok(())
    }

    fn iso_present(&mut self, stage: Stage, node: &str, slot: &str, volid: &str) -> Result<(), Next> {
        if volid == EMPTY {
            return Ok(());
        }
        let field = format!("{}.cdroms[{slot}].volid", self.prefix());
        self.file_present(stage, node, volid, &field)
    }
}

fn in_drive(medium: &str) -> String {
    format!("{medium},media=cdrom")
}
