//! Guests of a deleted object that its status does not name (promise 5): status may have been lost, or be an old one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::{GuestKind, RevisionStatus};
use crate::desired::Stamp;
use crate::observed::{Guest, OurGuest, Stamped};
use crate::pve::{GuestRef, Vmid};
use crate::reason::Reason;

use super::delete::Deletion;
use super::{Announce, Effect, Next, Query, Stage, Step, TAG, retry};

impl Deletion<'_> {
    /// Status names no guest that was made: it may have been lost. All guests that nobody has are looked at.
    pub(crate) fn without_vmid(&mut self) -> Next {
        if let Err(next) = self.conclusive() {
            return next;
        }
        let Some(found) = self.observed.stamped.clone() else {
            return Next::Look(Query::Stamped {
                among: None,
                anew: true,
            });
        };
        match self.take_up(&found) {
            Some(next) => next,
            None => self.release("nothing on Proxmox belongs to it"),
        }
    }

    /// Guests with the object's stamp that status does not name become the ones that are deleted.
    fn take_up(&mut self, found: &Stamped) -> Option<Next> {
        let known = |vmid: Vmid| self.status.revisions.iter().flatten().any(|r| r.vmid() == Some(vmid));
        let ours: Vec<&OurGuest> = found.ours.iter().filter(|g| !known(g.at.vmid)).collect();
        let (first, others) = match ours.split_first() {
            Some(split) => split,
            None if found.being_made.is_empty() => return None,
            None => {
                let message = format!(
                    "waits for guest {:?} to be made: whose it is cannot be read before",
                    found.being_made
                );
                return Some(self.wait(Reason::CreateRunning, message, 2));
            }
        };
        if !others.is_empty() && self.object.key.kind != GuestKind::PhoenixTemplate {
            let ids: Vec<Vmid> = ours.iter().map(|g| g.at.vmid).collect();
            let message = format!(
                "guests {ids:?} all carry this object's stamp: take the stamp, the last line of the notes, off those that are not to be deleted"
            );
            return Some(self.stuck(Reason::Ambiguous, message));
        }
        let mut announce = vec![
            Announce::Vmid {
                vmid: first.at.vmid,
                node: first.at.node.clone(),
                adopted: first.adopted,
            },
            Announce::CreateSent,
        ];
        announce.extend(others.iter().map(|other| {
            Announce::Superseded(RevisionStatus {
                revision: other.revision.clone().unwrap_or_default(),
                vmid: other.at.vmid.into(),
                node: Some(other.at.node.clone()),
                snippet: None,
                volumes: None,
            })
        }));
        let action = format!("record {}, which carries its stamp", first.at.named());
        self.condition(Reason::Deleting, action.clone());
        Some(Next::Run(Box::new(Step {
            action,
            stage: Stage::Created,
            apart: Some(retry::DELETE.to_string()),
            announce,
            effect: Effect::Record,
        })))
    }

    /// The guest does not exist. One that never was seen may still be on its way.
    pub(crate) fn gone(&mut self, vmid: Vmid) -> Next {
        let seen = |c: &&Condition| c.type_ == Stage::Created.as_str() && c.status == "True";
        let was_seen = self.status.conditions.iter().any(|c| seen(&c));
        let node = self.status.node.clone().unwrap_or_default();
        match self.observed.creating {
            _ if was_seen || node.is_empty() => self.elsewhere("the guest is gone"),
            None => Next::Look(Query::Creating {
                vmid,
                source: None,
                node,
            }),
            Some(true) => self.wait(Reason::CreateRunning, format!("guest {vmid} may still be created"), 3),
            Some(false) => self.elsewhere("the guest is gone"),
        }
    }

    /// Before the object goes: an old status may have come back, and its guest is another one.
    pub(crate) fn elsewhere(&mut self, why: &str) -> Next {
        if self.recreates {
            return self.release(why);
        }
        let Some(found) = self.observed.stamped.clone() else {
            let rows = self.observed.cluster.guests.iter();
            let unheld =
                rows.filter(|(vmid, row)| row.tags.iter().any(|t| t == TAG) && !self.observed.held.contains(**vmid));
            let among = unheld.map(|(vmid, row)| GuestRef::new(row.guest_type(), *vmid, &row.node));
            return Next::Look(Query::Stamped {
                among: Some(among.collect()),
                anew: true,
            });
        };
        match self.take_up(&found) {
            Some(next) => next,
            None => self.release(why),
        }
    }
}

/// Why a guest under the object's vmid stays.
pub(crate) fn left_alone(what: &str, guest: &Guest, stamp: Option<&Stamp>) -> String {
    let why = match stamp {
        Some(stamp) => format!(
            "carries the stamp of {} {}/{} of management cluster {}",
            stamp.kind, stamp.namespace, stamp.name, stamp.cluster
        ),
        None if guest.has_tag(TAG) => "lost the stamp of this object, the last line of its notes,".to_string(),
        None => "does not carry the stamp of this object".to_string(),
    };
    format!(
        "{what} on node {} {why} and is left alone with its volumes: remove it in Proxmox if it is not needed",
        guest.at.node
    )
}
