//! Which guest is the object's (promise 1): found by its recorded vmid, by its stamp, or by what the spec says.
//! Whether a guest that was found may be touched is in [`super::ownership`].

use crate::crd::GuestKind;
use crate::desired::Form;
use crate::observed::{Guest, GuestRead, IdCheck, OurGuest, Stamped};
use crate::pve::{GuestRef, Vmid};
use crate::reason::Reason;

use super::planner::Planner;
use super::{Announce, Effect, Next, OWNER_HOSTNAME, Query, Stage, TAG};

impl Planner<'_> {
    /// The guest, ours and finished being created; otherwise what has to happen first.
    pub(crate) fn existing_guest(&mut self) -> Result<Guest, Next> {
        let stage = Stage::Created;
        let Some(vmid) = self.candidate()? else {
            return Err(self.new_guest(None));
        };
        if self.observed.guest.is_none() && self.was_never_made(vmid) {
            return Err(self.new_guest(Some(vmid)));
        }
        match self.read_of(vmid)? {
            GuestRead::Present(guest) => {
                self.owned(&guest)?;
                self.noted(&guest)?;
                Ok(*guest)
            }
            GuestRead::NotFound if self.status.vmid().is_none() && self.wants_adoption() == Some(vmid) => {
                let message = format!("annotation {}: there is no guest {vmid} to adopt", crate::crd::ADOPT);
                Err(self.stuck(stage, Reason::AdoptNotFound, message))
            }
            GuestRead::NotFound => Err(self.new_guest(Some(vmid))),
            GuestRead::OtherType(at) => Err(self.other_sort(&at)),
            GuestRead::Unreadable(failure) => Err(self.wait(stage, failure.reason, failure.message, 10)),
        }
    }

    /// Whether nothing was ever sent for the vmid and the cluster's list has no such guest. The list lags by seconds, so
    /// that the guest itself is asked for before the creating call; what comes before that need not ask.
    fn was_never_made(&self, vmid: Vmid) -> bool {
        let mut ours = self.observed.stamped.iter().flat_map(|s| &s.ours);
        let found = ours.any(|g| g.at.vmid == vmid);
        !self.status.was_made()
            && !found
            && !self.observed.cluster.guests.contains_key(&vmid)
            && self.wants_adoption() != Some(vmid)
    }

    /// Whether the guest's snapshots are of interest: a template is built when it has one.
    pub(crate) fn needs_snapshots(&self) -> bool {
        self.desired.life.form != Form::Guest
    }

    /// The guest under a vmid, as it was read in this reconcile.
    fn read_of(&mut self, vmid: Vmid) -> Result<GuestRead, Next> {
        match &self.observed.guest {
            Some(read) if self.observed.guest_of.is_none_or(|of| of == vmid) => Ok(read.clone()),
            _ => Err(Next::Look(Query::Guest {
                vmid,
                sort: self.desired.sort(),
                node: self.status.node.clone().filter(|_| self.status.vmid() == Some(vmid)),
                snapshots: self.needs_snapshots(),
            })),
        }
    }

    /// What a look at the object's guest shows is in status.
    fn noted(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let owned = Announce::Owned(self.desired.identity.restamp.clone());
        if self.status.vmid().is_none() {
            let announce = Announce::Vmid {
                vmid,
                node: guest.at.node.clone(),
                adopted: guest.stamp().is_some_and(|s| s.adopted),
            };
            let action = format!("record vmid {vmid}");
            return Err(self.run(Stage::Created, action, vec![announce, owned], Effect::Record));
        }
        let mut announce = Vec::new();
        if self.status.claim.is_some() || self.status.restamped != self.desired.identity.restamp {
            announce.push(owned);
        }
        if !self.status.was_made() {
            // An older status came back: deleting the object must still find its guest.
            announce.push(Announce::CreateSent);
        }
        if announce.is_empty() {
            return Ok(());
        }
        let action = format!("note that guest {vmid} is there");
        Err(self.run(Stage::Created, action, announce, Effect::Record))
    }

    /// The vmid that the object has or asks for; `None`: one has to be chosen. Whatever is asked for, a guest with the
    /// object's own stamp comes first: status may have been lost, or be an old one.
    fn candidate(&mut self) -> Result<Option<Vmid>, Next> {
        if let Some(vmid) = self.status.vmid() {
            return self.recorded_vmid(vmid).map(Some);
        }
        let given = self.wants_adoption().or(self.desired.identity.vmid);
        let given = given.filter(|vmid| !self.is_superseded(*vmid));
        if let Some(vmid) = given {
            self.nobody_elses(vmid)?;
            if self.observed.stamped.is_none() && self.carries_our_stamp(vmid)? {
                return Ok(Some(vmid));
            }
        }
        let found = self.search()?;
        match (self.among_ours(&found)?, given) {
            (Some(ours), Some(given)) if self.desired.identity.vmid.is_some() && ours != given => {
                let message = format!(
                    "{}.vmid is {given}, but guest {ours} carries this object's stamp: set it to {ours}",
                    self.prefix()
                );
                Err(self.stuck(Stage::Created, Reason::Conflict, message))
            }
            (ours, given) => Ok(ours.or(given)),
        }
    }

    /// The recorded vmid.
    fn recorded_vmid(&mut self, vmid: Vmid) -> Result<Vmid, Next> {
        let elsewhere = self.status.was_made()
            && match self.read_of(vmid)? {
                GuestRead::NotFound => true,
                // Another one's, or one that lost its stamp: unless it is being taken over just now.
                GuestRead::Present(guest) => {
                    let ours = guest.stamp().is_some_and(|s| self.is_ours(&s, vmid));
                    !ours && !guest.being_made() && self.status.claim.is_none()
                }
                _ => false,
            };
        if elsewhere {
            self.no_other(vmid)?;
        }
        Ok(vmid)
    }

    /// Where no guest of the object's is under the recorded vmid, an old status may have come back: its guest is another
    /// one.
    pub(crate) fn no_other(&mut self, vmid: Vmid) -> Result<(), Next> {
        let found = self.search()?;
        let Some(ours) = self.among_ours(&found)?.filter(|ours| *ours != vmid) else {
            return Ok(());
        };
        let other = found.ours.iter().find(|g| g.at.vmid == ours);
        let announce = Announce::Vmid {
            vmid: ours,
            node: other.map(|g| g.at.node.clone()).unwrap_or_default(),
            adopted: other.is_some_and(|g| g.adopted),
        };
        let action = format!("record vmid {ours} in place of {vmid}, under which there is no guest of this object's");
        let announce = vec![announce, Announce::CreateSent];
        Err(self.run(Stage::Created, action, announce, Effect::Record))
    }

    /// What the search for the object's stamp found.
    fn search(&mut self) -> Result<Stamped, Next> {
        match &self.observed.stamped {
            Some(found) => Ok(found.clone()),
            None => Err(Next::Look(Query::Stamped {
                among: Some(self.may_be_ours()),
                anew: false,
            })),
        }
    }

    /// Whether the guest under the vmid carries the object's stamp.
    fn carries_our_stamp(&mut self, vmid: Vmid) -> Result<bool, Next> {
        // The list lags by seconds: before the creating call the guest itself is asked for.
        if !self.observed.cluster.guests.contains_key(&vmid) {
            return Ok(false);
        }
        let GuestRead::Present(guest) = self.read_of(vmid)? else {
            return Ok(false);
        };
        Ok(guest.stamp().is_some_and(|s| self.is_ours(&s, vmid)))
    }

    /// The object's guest among those that carry its stamp; those of earlier revisions are noted first.
    fn among_ours(&mut self, found: &Stamped) -> Result<Option<Vmid>, Next> {
        let other_sort = |g: &&OurGuest| g.at.sort != self.desired.sort() && !self.is_superseded(g.at.vmid);
        if let Some(other) = found.ours.iter().find(other_sort) {
            return Err(self.other_sort(&other.at));
        }
        let template = self.desired.life.form != Form::Guest;
        let present = |g: &&OurGuest| !template || g.revision.as_ref() == Some(&self.desired.prints.revision);
        let unknown = found
            .ours
            .iter()
            .find(|g| !present(g) && !self.is_superseded(g.at.vmid));
        if let Some(old) = unknown {
            return Err(self.supersede(&old.at, old.revision.clone().unwrap_or_default()));
        }
        let ours: Vec<Vmid> = found
            .ours
            .iter()
            .filter(|g| present(g) && !self.is_superseded(g.at.vmid))
            .map(|g| g.at.vmid)
            .collect();
        match ours.as_slice() {
            [_, _, ..] => {
                let message = format!("guests {ours:?} all carry this object's stamp: set spec.vmid to the right one");
                Err(self.stuck(Stage::Created, Reason::Ambiguous, message))
            }
            [] if !found.being_made.is_empty() => {
                let message = format!(
                    "waits for guest {:?} to be made: whose it is cannot be read before",
                    found.being_made
                );
                Err(self.wait(Stage::Created, Reason::CreateRunning, message, 2))
            }
            [] => match found.foreign.first() {
                Some((vmid, cluster)) => Err(self.foreign(*vmid, cluster)),
                None => Ok(None),
            },
            ours => Ok(ours.first().copied()),
        }
    }

    /// Guests that may carry this object's stamp although status does not name them: those with the tag, and those in the
    /// range that Phoenix chooses from, as the tag comes only with the first configuration. What other objects have
    /// recorded is theirs. A template may have had the other form before.
    fn may_be_ours(&self) -> Vec<GuestRef> {
        let in_range = |vmid: &Vmid| {
            self.desired
                .identity
                .vmid_range
                .is_some_and(|(first, last)| (first..=last).contains(vmid))
        };
        let any_sort = self.desired.key.kind == GuestKind::PhoenixTemplate;
        let guests = self.observed.cluster.guests.iter();
        guests
            .filter(|(vmid, row)| {
                let tagged = row.tags.iter().any(|t| t == TAG);
                // An owner container is nobody's guest: one whose node is off holds no new guest up.
                let owner = self.of_owners(**vmid) && row.name.starts_with(OWNER_HOSTNAME);
                (any_sort || row.type_ == self.desired.sort().as_str())
                    && (tagged || in_range(vmid))
                    && !owner
                    && !self.observed.held.contains(**vmid)
            })
            .map(|(vmid, row)| GuestRef::new(row.guest_type(), *vmid, &row.node))
            .collect()
    }

    /// A create or clone still runs, or was cut off and left its lock (facts K.2.4, K.3.1).
    pub(crate) fn being_created(&mut self, guest: &Guest) -> Next {
        let vmid = guest.at.vmid;
        match self.observed.creating {
            None => Next::Look(Query::Creating {
                vmid,
                source: self.clone_vmid(),
                node: guest.at.node.clone(),
            }),
            Some(true) => self.wait(
                Stage::Created,
                Reason::CreateRunning,
                format!("guest {vmid} is being created"),
                3,
            ),
            Some(false) => {
                let message = format!(
                    "guest {vmid} has the lock '{}' and no task that works on it: its creation was cut off. If it is not needed, run on node {}: {tool} unlock {vmid} && {tool} destroy {vmid}",
                    guest.lock.as_deref().unwrap_or_default(),
                    guest.at.node,
                    tool = guest.at.sort.tool()
                );
                self.stuck(Stage::Created, Reason::CreateInterrupted, message)
            }
        }
    }

    /// Records the vmid in status, before anything is sent (write-ahead).
    pub(crate) fn record(&mut self, vmid: Vmid, node: &str, adopted: bool) -> Next {
        let announce = Announce::Vmid {
            vmid,
            node: node.to_string(),
            adopted,
        };
        self.run(
            Stage::Created,
            format!("record vmid {vmid}"),
            vec![announce],
            Effect::Record,
        )
    }

    /// Chooses the vmid of a new guest and records it, with the checks of promise 5.
    pub(crate) fn allocate(&mut self, given: Option<Vmid>, node: &str) -> Next {
        let given = given.filter(|vmid| !self.is_superseded(*vmid));
        let vmid = match given.map_or_else(|| self.free_id(), Ok) {
            Ok(vmid) => vmid,
            Err(next) => return next,
        };
        let stage = Stage::Created;
        match &self.observed.id_check {
            Some((checked, IdCheck::Free)) if *checked == vmid => self.record(vmid, node, false),
            // It may be ours, and newer than the list.
            Some((checked, IdCheck::Taken)) if *checked == vmid && self.observed.guest.is_none() => {
                Next::Look(Query::Guest {
                    vmid,
                    sort: self.desired.sort(),
                    node: None,
                    snapshots: self.needs_snapshots(),
                })
            }
            Some((checked, IdCheck::Taken)) if *checked == vmid => {
                let message = format!("vmid {vmid} is taken by a guest that cannot be read: choose another vmid");
                self.stuck(stage, Reason::Conflict, message)
            }
            Some((checked, IdCheck::Volumes(volids))) if *checked == vmid => {
                let message = format!(
                    "vmid {vmid} has no guest but volumes of a former one ({}): remove them, or choose another vmid",
                    volids.join(", ")
                );
                self.stuck(stage, Reason::LeftoverVolumes, message)
            }
            _ => Next::Look(Query::VmidFree {
                vmid,
                volumes_on: Some(node.to_string()),
            }),
        }
    }

    /// Whether the id is one of the owner containers of volumes.
    pub(crate) fn of_owners(&self, vmid: Vmid) -> bool {
        self.desired
            .identity
            .owner_ids
            .is_some_and(|(first, last)| (first..=last).contains(&vmid))
    }

    fn free_id(&mut self) -> Result<Vmid, Next> {
        let stage = Stage::Created;
        let Some((first, last)) = self.desired.identity.vmid_range else {
            let message = "spec.vmid is missing and the PhoenixHypervisor has no spec.vmidRange: give one of them";
            return Err(self.stuck(stage, Reason::NoVmidRange, message));
        };
        let observed = self.observed;
        let taken = |id: &Vmid| {
            observed.cluster.guests.contains_key(id)
                || observed.reserved.contains(*id)
                || observed.held.contains(*id)
                || observed.unusable.contains(id)
                || self.of_owners(*id)
        };
        let free = first.to(last).find(|id| !taken(id));
        free.ok_or_else(|| {
            let message =
                format!("spec.vmidRange {first}-{last} of the PhoenixHypervisor has no free id left: widen it");
            self.stuck(stage, Reason::NoFreeVmid, message)
        })
    }
}
