//! Which guest is the object's (promise 1): found by its recorded vmid, by its stamp, or by what the spec says; a
//! stranger's is never touched.

use crate::desired::{Form, Stamp};
use crate::observed::{Guest, GuestRead, IdCheck, OurGuest, Stamped};

use super::guest::Planner;
use super::*;

impl Planner<'_> {
    /// The guest, ours and finished being created; otherwise what has to happen first.
    pub(super) fn existing_guest(&mut self) -> Result<(i64, Guest), Next> {
        let stage = Stage::Created;
        let Some(vmid) = self.candidate()? else {
            return Err(self.new_guest(None));
        };
        let node = self.status.node.clone();
        let Some(read) = &self.observed.guest else {
            return Err(Next::Look(Query::Guest {
                vmid,
                type_: self.desired.type_,
                node,
            }));
        };
        match read.clone() {
            GuestRead::Present(guest) => {
                self.owned(vmid, &guest)?;
                if self.status.vmid.is_none() {
                    let adopted = guest.stamp().is_some_and(|s| s.adopted);
                    return Err(self.record(vmid, &guest.node, adopted));
                }
                if self.status.create_sent != Some(true) && self.status.adopted != Some(true) {
                    // An older status came back: deleting the object must still find its guest.
                    let action = format!("note that guest {vmid} is there");
                    return Err(self.run(stage, action, vec![Announce::CreateSent], Effect::Record));
                }
                Ok((vmid, *guest))
            }
            GuestRead::NotFound if self.status.vmid.is_none() && self.wants_adoption() == Some(vmid) => {
                let message = format!("annotation {}: there is no guest {vmid} to adopt", crate::crd::ADOPT);
                Err(self.stuck(stage, "AdoptNotFound", message))
            }
            GuestRead::NotFound => Err(self.new_guest(Some(vmid))),
            GuestRead::OtherType { type_, node } => {
                let message = format!("vmid {vmid} is a {} on node {node}: choose another vmid", type_.noun());
                Err(self.stuck(stage, "Conflict", message))
            }
            GuestRead::Unreadable(failure) => Err(self.wait(stage, failure.reason, failure.message, 10)),
        }
    }

    /// The vmid that the object has or asks for; `None`: one has to be chosen.
    fn candidate(&mut self) -> Result<Option<i64>, Next> {
        if let Some(vmid) = self.status.vmid {
            return Ok(Some(vmid));
        }
        let given = self.wants_adoption().or(self.desired.vmid);
        if let Some(vmid) = given.filter(|vmid| !self.is_superseded(*vmid)) {
            return Ok(Some(vmid));
        }
        match &self.observed.stamped {
            None => Err(Next::Look(Query::Stamped {
                type_: self.desired.type_,
                among: self.may_be_ours(),
            })),
            Some(found) => self.among_ours(&found.clone()),
        }
    }

    /// The object's guest among those that carry its stamp; those of earlier revisions are noted first.
    fn among_ours(&mut self, found: &Stamped) -> Result<Option<i64>, Next> {
        let template = self.desired.form != Form::Guest;
        let present = |g: &&OurGuest| !template || g.revision.as_ref() == Some(&self.desired.revision);
        let unknown = found.ours.iter().find(|g| !present(g) && !self.is_superseded(g.vmid));
        if let Some(old) = unknown {
            return Err(self.supersede(old.vmid, &old.node, old.revision.clone().unwrap_or_default()));
        }
        let ours: Vec<i64> = found
            .ours
            .iter()
            .filter(|g| present(g) && !self.is_superseded(g.vmid))
            .map(|g| g.vmid)
            .collect();
        match ours.as_slice() {
            [_, _, ..] => {
                let message = format!("guests {ours:?} all carry this object's stamp: set spec.vmid to the right one");
                Err(self.stuck(Stage::Created, "Ambiguous", message))
            }
            [] if !found.being_made.is_empty() => {
                let message = format!(
                    "waits for guest {:?} to be made: whose it is cannot be read before",
                    found.being_made
                );
                Err(self.wait(Stage::Created, "CreateRunning", message, 2))
            }
            ours => Ok(ours.first().copied()),
        }
    }

    /// Containers that may carry this object's stamp although status does not name them: those with the tag, and those
    /// in the range that Phoenix chooses from, as the tag comes only with the first configuration. What other objects
    /// have recorded is theirs.
    fn may_be_ours(&self) -> Vec<(i64, String)> {
        let in_range = |vmid: &i64| {
            self.desired
                .vmid_range
                .is_some_and(|(first, last)| (first..=last).contains(vmid))
        };
        let guests = self.observed.cluster.guests.iter();
        guests
            .filter(|(vmid, row)| {
                let tagged = row.tags.iter().any(|t| t == super::config::TAG);
                row.type_ == self.desired.type_.as_str()
                    && (tagged || in_range(vmid))
                    && !self.observed.reserved.contains(vmid)
            })
            .map(|(vmid, row)| (*vmid, row.node.clone()))
            .collect()
    }

    /// The vmid that the adopt annotation names, unless the spec names another.
    fn wants_adoption(&self) -> Option<i64> {
        let vmid = self.desired.adopt.as_ref()?.parse().ok()?;
        (self.desired.vmid.is_none_or(|v| v == vmid)).then_some(vmid)
    }

    /// Checks that the guest under the vmid is this object's.
    fn owned(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let stage = Stage::Created;
        let wanted = self.desired.stamp(vmid);
        let stamp = guest.stamp();
        let being_created = guest.being_made();
        if being_created && stamp.as_ref().is_none_or(|s| s.same_identity(&wanted)) {
            return Err(self.being_created(vmid, guest));
        }
        match stamp {
            Some(stamp) if stamp.same_identity(&wanted) => Ok(()),
            Some(stamp) if stamp.same_object(&wanted) && self.desired.previous_clusters.contains(&stamp.cluster) => {
                self.take_over_owners(vmid, guest)?;
                self.unlocked(stage, vmid, guest)?;
                Err(self.restamp(
                    vmid,
                    guest,
                    Stamp {
                        cluster: wanted.cluster,
                        uid: wanted.uid,
                        ..stamp
                    },
                    None,
                ))
            }
            _ if self.wants_adoption() == Some(vmid) => {
                self.unlocked(stage, vmid, guest)?;
                let announce = Announce::Vmid {
                    vmid,
                    node: guest.node.clone(),
                    adopted: true,
                };
                Err(self.restamp(
                    vmid,
                    guest,
                    Stamp {
                        adopted: true,
                        ..wanted
                    },
                    Some(announce),
                ))
            }
            stamp => Err(self.conflict(vmid, guest, stamp)),
        }
    }

    fn conflict(&mut self, vmid: i64, guest: &Guest, stamp: Option<Stamp>) -> Next {
        let refused = self
            .status
            .last_error
            .as_ref()
            .is_some_and(|e| e.contains("already exists"));
        if self.status.create_sent == Some(true) && self.desired.vmid.is_none() && refused && stamp.is_some() {
            let action = format!("give vmid {vmid} up: it is somebody else's guest");
            return self.run(Stage::Created, action, vec![Announce::NoVmid], Effect::Record);
        }
        let whose = match stamp {
            Some(s) if s.vmid != vmid => {
                format!("is a copy of guest {} ({} {}/{})", s.vmid, s.kind, s.namespace, s.name)
            }
            Some(s) => format!(
                "belongs to {} {}/{} of management cluster {}",
                s.kind, s.namespace, s.name, s.cluster
            ),
            None => "was not made by Phoenix".to_string(),
        };
        let message = format!(
            "guest {vmid} on node {} {whose} and is left alone: choose another vmid, or adopt it with the annotation {}: \"{vmid}\"",
            guest.node,
            crate::crd::ADOPT
        );
        self.stuck(Stage::Created, "Conflict", message)
    }

    /// A create or clone still runs, or was cut off and left its lock (facts K.2.4, K.3.1).
    fn being_created(&mut self, vmid: i64, guest: &Guest) -> Next {
        match self.observed.creating {
            None => Next::Look(Query::Creating {
                vmid,
                source: self.clone_vmid(),
                node: guest.node.clone(),
            }),
            Some(true) => self.wait(
                Stage::Created,
                "CreateRunning",
                format!("guest {vmid} is being created"),
                3,
            ),
            Some(false) => {
                let message = format!(
                    "guest {vmid} has the lock '{}' and no task that works on it: its creation was cut off. If it is not needed, run on node {}: {tool} unlock {vmid} && {tool} destroy {vmid}",
                    guest.lock.as_deref().unwrap_or_default(),
                    guest.node,
                    tool = guest.type_.tool()
                );
                self.stuck(Stage::Created, "CreateInterrupted", message)
            }
        }
    }

    fn restamp(&mut self, vmid: i64, guest: &Guest, stamp: Stamp, announce: Option<Announce>) -> Next {
        let what = guest.named(vmid);
        let words = Stamp::strip(guest.options.get("description").map(String::as_str).unwrap_or_default());
        let call = ApiCall::put(format!("{}/config", guest.path(vmid)))
            .param("description", stamp.describe(&words))
            .param("digest", &guest.digest);
        let action = format!("take over {what}");
        self.run(
            Stage::Created,
            action,
            announce.into_iter().collect(),
            Effect::Call(call),
        )
    }

    /// Records the vmid in status, before anything is sent (write-ahead).
    pub(super) fn record(&mut self, vmid: i64, node: &str, adopted: bool) -> Next {
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
    pub(super) fn allocate(&mut self, given: Option<i64>, node: &str) -> Next {
        let given = given.filter(|vmid| !self.is_superseded(*vmid));
        let vmid = match given.map_or_else(|| self.free_id(), Ok) {
            Ok(vmid) => vmid,
            Err(next) => return next,
        };
        let stage = Stage::Created;
        match &self.observed.id_check {
            Some((checked, IdCheck::Free)) if *checked == vmid => self.record(vmid, node, false),
            Some((checked, IdCheck::Taken)) if *checked == vmid => {
                let message = format!("vmid {vmid} is taken by a guest that cannot be read: choose another vmid");
                self.stuck(stage, "Conflict", message)
            }
            Some((checked, IdCheck::Volumes(volids))) if *checked == vmid => {
                let message = format!(
                    "vmid {vmid} has no guest but volumes of a former one ({}): remove them, or choose another vmid",
                    volids.join(", ")
                );
                self.stuck(stage, "LeftoverVolumes", message)
            }
            _ => Next::Look(Query::VmidFree {
                vmid,
                volumes_on: Some(node.to_string()),
            }),
        }
    }

    fn free_id(&mut self) -> Result<i64, Next> {
        let stage = Stage::Created;
        let Some((first, last)) = self.desired.vmid_range else {
            let message = "spec.vmid is missing and the PhoenixHypervisor has no spec.vmidRange: give one of them";
            return Err(self.stuck(stage, "NoVmidRange", message));
        };
        let observed = self.observed;
        let taken = |id: &i64| {
            observed.cluster.guests.contains_key(id) || observed.reserved.contains(id) || observed.unusable.contains(id)
        };
        (first..=last).find(|id| !taken(id)).ok_or_else(|| {
            let message =
                format!("spec.vmidRange {first}-{last} of the PhoenixHypervisor has no free id left: widen it");
            self.stuck(stage, "NoFreeVmid", message)
        })
    }
}
