//! Whether the guest under a vmid is the object's, and whether it may become that (promise 1): a guest is taken over
//! once, when the annotation asks for it, and only if it is nobody's.

use crate::crd::{ADOPT, RESTAMP};
use crate::desired::Stamp;
use crate::observed::{Guest, GuestRead};
use crate::pve::{ApiCall, GuestRef, Vmid};
use crate::reason::Reason;

use super::lxc::mounts::volume_of;
use super::planner::Planner;
use super::{Announce, Effect, Next, OWNER_KIND, Query, Stage, TAG};

impl Planner<'_> {
    /// Checks that the guest under the vmid is this object's.
    pub(crate) fn owned(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let wanted = self.desired.stamp(vmid);
        let stamp = guest.stamp();
        if guest.being_made() && stamp.as_ref().is_none_or(|s| s.same_identity(&wanted)) {
            return Err(self.being_created(guest));
        }
        match stamp {
            Some(stamp) if stamp.same_identity(&wanted) => Ok(()),
            Some(stamp) if self.is_ours(&stamp, vmid) => {
                self.take_over_owners(guest)?;
                self.unlocked(Stage::Created, guest)?;
                let stamp = Stamp {
                    cluster: wanted.cluster,
                    uid: wanted.uid,
                    ..stamp
                };
                Err(self.write_stamp(guest, stamp, vec![]))
            }
            Some(stamp) if stamp.same_object(&wanted) => Err(self.foreign(vmid, &stamp.cluster)),
            None if self.wants_restamp(guest) => Err(self.take_back(guest)),
            _ if self.may_adopt(guest) => Err(self.adopt(guest)),
            stamp => Err(self.conflict(guest, stamp)),
        }
    }

    /// Whether the stamp is this object's for the vmid, in this management cluster or a previous one.
    pub(crate) fn is_ours(&self, stamp: &Stamp, vmid: Vmid) -> bool {
        let wanted = self.desired.stamp(vmid);
        stamp.same_identity(&wanted)
            || (stamp.same_object(&wanted) && self.desired.identity.previous_clusters.contains(&stamp.cluster))
    }

    /// The vmid that the adopt annotation names, unless the spec names another.
    pub(crate) fn wants_adoption(&self) -> Option<Vmid> {
        let vmid = self.desired.identity.adopt.as_ref()?.trim().parse().ok()?;
        (self.desired.identity.vmid.is_none_or(|v| v == vmid)).then_some(vmid)
    }

    /// The annotation stays in Git for ever, and is honoured once: while no vmid is recorded, or until the stamp of an
    /// adoption that was cut off is on the very configuration that was looked at then.
    fn may_adopt(&self, guest: &Guest) -> bool {
        let vmid = guest.at.vmid;
        let cut_off = self.status.adopted == Some(true) && self.status.claim.as_deref() == Some(&guest.digest);
        self.wants_adoption() == Some(vmid) && (self.status.vmid().is_none() || cut_off)
    }

    fn adopt(&mut self, guest: &Guest) -> Next {
        let vmid = guest.at.vmid;
        if guest.is_template() && self.desired.life.form == crate::desired::Form::Guest {
            let message = format!(
                "metadata.annotations[{ADOPT}]: {} is a Proxmox template, which cannot be started: adopt a guest, or clone the template in Proxmox first",
                guest.named()
            );
            return self.stuck(Stage::Created, Reason::Conflict, message);
        }
        let notes = guest.options.get("description").map(String::as_str).unwrap_or_default();
        let copies = |s: &Option<Stamp>| s.as_ref().is_some_and(|s| s.vmid != vmid);
        let stamps = Stamp::all(notes);
        // The last one alone is told of below.
        if stamps.len() > 1 && !stamps.iter().all(copies) || stamps.contains(&None) {
            let message = format!(
                "metadata.annotations[{ADOPT}]: the notes of {} hold a stamp of Phoenix's that is damaged or beside another, so whose it is cannot be said: take those lines off in Proxmox first",
                guest.named()
            );
            return self.stuck(Stage::Created, Reason::Conflict, message);
        }
        if let Err(next) = self.may_be_adopted(guest) {
            return next;
        }
        let stamp = Stamp {
            adopted: true,
            ..self.desired.stamp(vmid)
        };
        let announce = Announce::Vmid {
            vmid,
            node: guest.at.node.clone(),
            adopted: true,
        };
        self.take(guest, stamp, announce)
    }

    /// Whether the restamp annotation asks for the stamp of the object's own guest. It is spent when it was carried out,
    /// and when it was there while the stamp was. A stranger under the vmid does not have Phoenix's tag.
    fn wants_restamp(&self, guest: &Guest) -> bool {
        let vmid = guest.at.vmid;
        let asked = self.desired.identity.restamp.as_deref() == Some(&vmid.to_string());
        let cut_off = self.status.claim.as_deref() == Some(&guest.digest);
        let spent = self.status.restamped == self.desired.identity.restamp && !cut_off;
        let known = guest.has_tag(TAG) || self.status.claim.is_some();
        asked && !spent && known && self.status.vmid() == Some(vmid) && self.status.was_made()
    }

    /// Writes the stamp anew, with what status knows of the guest's origin.
    fn take_back(&mut self, guest: &Guest) -> Next {
        let vmid = guest.at.vmid;
        let adopted = self.status.adopted == Some(true);
        let wanted = self.desired.stamp(vmid);
        let template = self.desired.life.form != crate::desired::Form::Guest;
        let built = self.status.template_revision.clone();
        let stamp = Stamp {
            adopted,
            // A guest that never was as wanted may still have what a clone copied.
            fresh: self.status.applied_hash.is_none() && !adopted,
            revision: match template {
                // One that is being built is of the wanted revision, whatever was built before.
                true if guest.is_template() || guest.snapshots.as_ref().is_some_and(|s| !s.is_empty()) => {
                    self.status.revision.clone().or(wanted.revision)
                }
                true => wanted.revision,
                false => built.clone().or(wanted.revision),
            },
            parent: match template {
                true => built.or(wanted.parent),
                false => wanted.parent,
            },
            image: self.status.image.clone(),
            keys: guest.stamp().and_then(|stamp| stamp.keys),
            boot: guest.stamp().and_then(|stamp| stamp.boot),
            ..wanted
        };
        let value = self.desired.identity.restamp.clone().unwrap_or_default();
        self.take(guest, stamp, Announce::Restamped(value))
    }

    /// Puts the stamp on a guest that does not carry one of this object's, if it is free.
    fn take(&mut self, guest: &Guest, stamp: Stamp, announce: Announce) -> Next {
        if let Err(next) = self.free(guest) {
            return next;
        }
        if let Err(next) = self.unlocked(Stage::Created, guest) {
            return next;
        }
        let announce = vec![announce, Announce::Claim(guest.digest.clone())];
        self.write_stamp(guest, stamp, announce)
    }

    fn write_stamp(&mut self, guest: &Guest, stamp: Stamp, announce: Vec<Announce>) -> Next {
        let what = guest.named();
        let words = Stamp::strip(guest.options.get("description").map(String::as_str).unwrap_or_default());
        let call = ApiCall::put(format!("{}/config", guest.at.path()))
            .param("description", stamp.describe(&words))
            .param("digest", &guest.digest);
        let action = format!("take over {what}");
        self.run(Stage::Created, action, announce, Effect::call(call))
    }

    /// The vmid belongs to no other object and to no owner container; that costs no look.
    pub(crate) fn nobody_elses(&mut self, vmid: Vmid) -> Result<(), Next> {
        let whose = match self.observed.held.of(vmid) {
            Some(holder) => format!("belongs to {holder}"),
            None if self.of_owners(vmid) => {
                "is one of the ids of owner containers (volumeOwners.idRange of the PhoenixHypervisor)".to_string()
            }
            None => return Ok(()),
        };
        let message = format!(
            "vmid {vmid} {whose} and is left alone: choose another one in {}",
            self.where_asked(vmid)
        );
        Err(self.stuck(Stage::Created, Reason::Conflict, message))
    }

    fn where_asked(&self, vmid: Vmid) -> String {
        match self.wants_adoption() {
            Some(wanted) if wanted == vmid => format!("the annotation {ADOPT}"),
            _ => format!("{}.vmid", self.prefix()),
        }
    }

    /// Whether a guest is nobody's, so that it may become this object's.
    fn free(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        self.nobody_elses(vmid)?;
        let stamp = guest.stamp();
        let stamped = stamp.filter(|s| s.vmid == vmid || s.kind == OWNER_KIND);
        if let Some(stamp) = stamped {
            let whose = if stamp.kind == OWNER_KIND {
                "keeps volumes of other objects (an owner container, or a copy of one)".to_string()
            } else {
                whose_it_is(&stamp)
            };
            let message = format!(
                "guest {vmid} on node {} {whose} and is left alone: delete that object with deletionPolicy: Retain, which takes the stamp off; where there is no such object any more, take the stamp, the last line of its notes, off in Proxmox",
                guest.at.node
            );
            return Err(self.stuck(Stage::Created, Reason::Conflict, message));
        }
        let again = self
            .observed
            .stamped
            .as_ref()
            .is_some_and(|s| s.adopted_once.contains(&vmid));
        if again && self.status.vmid().is_none() {
            let message = format!(
                "guest {vmid} on node {} is not the one that this object adopted under this vmid, of which there is a copy, and is left alone: take the annotation {ADOPT} away, or remove the copy",
                guest.at.node
            );
            return Err(self.stuck(Stage::Created, Reason::Conflict, message));
        }
        self.borrows_nothing(guest)
    }

    /// The guest holds no volume that an owner container keeps for another object: who takes the guest could read it.
    fn borrows_nothing(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let borrowed: Vec<(Vmid, String)> = guest
            .options
            .values()
            .filter_map(|text| volume_of(text))
            .filter(|(id, _)| *id != vmid)
            .collect();
        let rows = &self.observed.cluster.guests;
        let among: Vec<GuestRef> = borrowed
            .iter()
            .filter_map(|(id, _)| rows.get(id).map(|row| GuestRef::new(row.guest_type(), *id, &row.node)))
            .collect();
        if borrowed.is_empty() {
            return Ok(());
        }
        let Some(lenders) = self.observed.lenders.clone() else {
            return Err(Next::Look(Query::Lenders { among }));
        };
        let key = &self.desired.key;
        let own = format!("/{}/{}/{}/", self.desired.sort().as_str(), key.namespace, key.name);
        for (id, volid) in borrowed {
            let kept_for = match lenders.get(&id) {
                Some(GuestRead::Present(lender)) => {
                    let owner = lender.stamp().is_some_and(|s| s.kind == OWNER_KIND) || self.of_owners(id);
                    if !owner {
                        continue;
                    }
                    registered(lender, &volid)
                }
                Some(GuestRead::Unreadable(failure)) => {
                    let failure = failure.clone();
                    return Err(self.wait(Stage::Created, failure.reason, failure.message, 10));
                }
                _ if self.of_owners(id) => None,
                _ => continue,
            };
            if kept_for.as_ref().is_some_and(|path| path.starts_with(&own)) {
                continue;
            }
            let whose = kept_for.map_or(String::new(), |path| format!(" for {path}"));
            let message = format!(
                "guest {vmid} on node {} holds volume {volid}, which owner container {id} keeps{whose}, and is left alone: detach it in Proxmox first, and do not remove it",
                guest.at.node
            );
            return Err(self.stuck(Stage::Created, Reason::Conflict, message));
        }
        Ok(())
    }

    /// A guest with this object's stamp of a management cluster that nobody names: it may be somebody else's, and making
    /// another one beside it would give both the same address.
    pub(crate) fn foreign(&mut self, vmid: Vmid, cluster: &str) -> Next {
        let message = format!(
            "guest {vmid} carries the stamp of {} of management cluster {cluster} and is left alone: if that cluster is gone, list its id in spec.previousClusterIds of the PhoenixHypervisor (phoenix apply without a cluster: --cluster-id {cluster}); if it still works, give this object another name",
            self.desired.key
        );
        self.stuck(Stage::Created, Reason::Conflict, message)
    }

    /// The vmid is a guest of the other sort.
    pub(crate) fn other_sort(&mut self, at: &GuestRef) -> Next {
        let vmid = at.vmid;
        let what = format!("vmid {vmid} is a {} on node {}", at.sort.noun(), at.node);
        let ours = self
            .observed
            .stamped
            .iter()
            .flat_map(|s| &s.ours)
            .any(|g| g.at.vmid == vmid);
        let message = match ours || (self.status.vmid() == Some(vmid) && self.status.was_made()) {
            true => format!(
                "{what}, but the object asks for a {}: a guest cannot change its sort. Put the spec back, or delete the object and apply it again",
                self.desired.sort().noun()
            ),
            false => format!("{what}: choose another vmid"),
        };
        self.stuck(Stage::Created, Reason::Conflict, message)
    }

    fn conflict(&mut self, guest: &Guest, stamp: Option<Stamp>) -> Next {
        let vmid = guest.at.vmid;
        let refused = self
            .status
            .last_error
            .as_ref()
            .is_some_and(|e| e.starts_with("AlreadyExists: ") || e.contains(&format!(" {vmid} already exists")));
        if self.status.create_sent == Some(true) && self.desired.identity.vmid.is_none() && refused && stamp.is_some() {
            let action = format!("give vmid {vmid} up: it is somebody else's guest");
            return self.run(Stage::Created, action, vec![Announce::NoVmid], Effect::Record);
        }
        let on = format!("guest {vmid} on node {}", guest.at.node);
        let recorded = self.status.vmid() == Some(vmid) && self.status.was_made();
        let message = match stamp {
            Some(stamp) if stamp.vmid == vmid => {
                format!("{on} {} and is left alone: choose another vmid", whose_it_is(&stamp))
            }
            None if recorded && self.status.claim.is_some() => format!(
                "{on} was changed by somebody while it was taken over, and is left alone: if it is the right one, set the annotation {RESTAMP}: \"{vmid}\""
            ),
            None if recorded && guest.has_tag(TAG) => {
                let again = match self.status.restamped == self.desired.identity.restamp
                    && self.desired.identity.restamp.is_some()
                {
                    true => "; the annotation that is there is spent: take it away first",
                    false => "",
                };
                format!(
                    "{on} had this object's stamp, the last line of its notes, and lost it: it is left alone as somebody else's. If the notes were edited and it is the object's guest still, set the annotation {RESTAMP}: \"{vmid}\"{again}"
                )
            }
            None if recorded => format!(
                "{on} has neither the stamp nor the tag {TAG} of the object's guest, and is left alone: it took the vmid, or both were taken off. If it is the object's guest still, put the tag on it in Proxmox and set the annotation {RESTAMP}: \"{vmid}\""
            ),
            stamp => {
                let whose = match stamp {
                    Some(s) => format!("is a copy of guest {} ({} {}/{})", s.vmid, s.kind, s.namespace, s.name),
                    None => "was not made by Phoenix".to_string(),
                };
                let again = match recorded {
                    true => "delete the object and apply it again with another vmid".to_string(),
                    false => format!("choose another vmid, or adopt it with the annotation {ADOPT}: \"{vmid}\""),
                };
                format!("{on} {whose} and is left alone: {again}")
            }
        };
        self.stuck(Stage::Created, Reason::Conflict, message)
    }
}

fn whose_it_is(stamp: &Stamp) -> String {
    format!(
        "belongs to {} {}/{} of management cluster {}",
        stamp.kind, stamp.namespace, stamp.name, stamp.cluster
    )
}

/// Under which key an owner container keeps a volume.
fn registered(owner: &Guest, volid: &str) -> Option<String> {
    let names = |text: &&str| volume_of(text).is_some_and(|(_, found)| found == volid);
    let text = owner.numbered("mp").into_values().find(names)?;
    let path = text.split(',').find_map(|part| part.strip_prefix("mp="))?;
    Some(path.to_string())
}
