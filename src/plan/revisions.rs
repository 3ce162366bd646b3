//! Revisions of a template: a change of its content builds a new guest beside the old one, which stays for as long as
//! something was cloned from it.

use crate::crd::RevisionStatus;
use crate::observed::{GuestRead, OldRevision, Sections};
use crate::plan::{NodeWork, calls};
use crate::pve::{GuestRef, Vmid};
use crate::reason::Reason;

use super::planner::{Planner, Staged};
use super::{Announce, Effect, Next, Query, Stage};

impl Planner<'_> {
    /// Whether the guest is one of an earlier revision.
    pub(crate) fn is_superseded(&self, vmid: Vmid) -> bool {
        self.status.revisions.iter().flatten().any(|r| r.vmid() == Some(vmid))
    }

    /// Notes a guest as one of an earlier revision; if it was the object's own, a new one is made next.
    pub(crate) fn supersede(&mut self, at: &GuestRef, revision: String) -> Next {
        let action = format!(
            "keep {} as revision {revision} and build revision {}",
            at.named(),
            self.desired.prints.revision
        );
        let own = self.status.vmid() == Some(at.vmid);
        let old = RevisionStatus {
            revision,
            vmid: at.vmid.into(),
            node: Some(at.node.clone()),
            snippet: self.status.snippet.clone().filter(|_| own),
            volumes: self.status.volumes.clone().filter(|_| own).map(|volumes| {
                let volids = volumes.into_iter().filter_map(|v| v.volid);
                volids.collect()
            }),
        };
        self.run(
            Stage::SnapshotReady,
            action,
            vec![Announce::Superseded(old)],
            Effect::Record,
        )
    }

    /// Removes earlier revisions beyond the limit, oldest first: only those from which nothing was cloned, and never
    /// more than the guest itself (promise 5).
    pub(crate) fn remove_old_revisions(&mut self) -> Staged {
        let Some(limit) = self.desired.life.history_limit else {
            return Ok(());
        };
        let cloned = &self.observed.cloned_revisions;
        let has_children = |r: &&RevisionStatus| cloned.iter().any(|c| c.as_ref().is_none_or(|c| *c == r.revision));
        let childless: Vec<RevisionStatus> = self
            .status
            .revisions
            .iter()
            .flatten()
            .filter(|r| r.vmid().is_some() && !has_children(r))
            .cloned()
            .collect();
        let beyond = childless.len().saturating_sub(limit);
        // One that has to stay keeps no other.
        childless
            .iter()
            .take(beyond)
            .try_for_each(|old| self.remove_revision(old))
    }

    fn remove_revision(&mut self, old: &RevisionStatus) -> Staged {
        let stage = Stage::SnapshotReady;
        let Some(vmid) = old.vmid() else { return Ok(()) };
        let at = GuestRef::new(self.desired.sort(), vmid, old.node.clone().unwrap_or_default());
        let what = at.named();
        // A destruction is final: it must not rest on who answered some polls ago.
        if !self.observed.cluster.read_now {
            return Err(Next::Look(Query::Cluster { anew: true }));
        }
        let found = match self.observed.old_revisions.get(&vmid).cloned() {
            Some(Ok(found)) => found,
            Some(Err(failure)) => {
                self.keep_revision(&what, old, failure.reason, &failure.message);
                return Ok(());
            }
            None => return Err(Next::Look(Query::OldRevision(at))),
        };
        let guest = match found.read.clone() {
            GuestRead::Present(guest) => guest,
            GuestRead::Unreadable(failure) => {
                self.keep_revision(&what, old, failure.reason, &failure.message);
                return Ok(());
            }
            GuestRead::NotFound | GuestRead::OtherType(_) => return Err(self.forget_revision(vmid, old)),
        };
        let wanted = self.desired.stamp(vmid);
        let ours = guest
            .stamp()
            .is_some_and(|s| s.same_identity(&wanted) && s.vmid == vmid);
        if !ours {
            return Err(self.forget_revision(vmid, old));
        }
        let sections = self.sections(stage, &guest)?;
        let listed: Vec<String> = self
            .desired
            .vm()
            .and_then(|vm| vm.disks.as_ref())
            .into_iter()
            .flatten()
            .map(|d| d.name.clone())
            .collect();
        if let Some(why) = kept_for(&found, &guest, &sections, old, &listed) {
            self.keep_revision(&what, old, Reason::InUse, &why);
            return Ok(());
        }
        self.unlocked(stage, &guest)?;
        let action = format!(
            "remove {what} of revision {}, from which nothing was cloned",
            old.revision
        );
        Err(self.run(stage, action, vec![], calls::destroy(&guest.at)))
    }

    /// It is no fault of the template's, which is Ready all the same; it is looked at again with everything else.
    fn keep_revision(&mut self, what: &str, old: &RevisionStatus, reason: Reason, why: &str) {
        let message = format!("{what} (revision {}) stays: {why}", old.revision);
        self.find_more("OldRevisionKept", reason, message);
    }

    fn forget_revision(&mut self, vmid: Vmid, old: &RevisionStatus) -> Next {
        if let (Some(volid), Some(node)) = (old.snippet.clone(), old.node.clone())
            && self.desired.channels.ssh
        {
            let action = format!("remove cloud-init snippet {volid}");
            let effect = Effect::OnNode {
                node,
                work: NodeWork::RemoveSnippet { volid },
            };
            return self.run(Stage::SnapshotReady, action, vec![Announce::RevisionGone(vmid)], effect);
        }
        let action = format!("forget revision {}, which is gone", old.revision);
        let announce = vec![Announce::RevisionGone(vmid)];
        self.run(Stage::SnapshotReady, action, announce, Effect::Record)
    }
}

/// Why the guest of an earlier revision is not removed. Of a machine the disks that it was built with may go: those that
/// were recorded or that the spec lists, and the one that it boots from.
fn kept_for(
    found: &OldRevision,
    guest: &crate::observed::Guest,
    sections: &Sections,
    old: &RevisionStatus,
    listed: &[String],
) -> Option<String> {
    if !found.linked.is_empty() {
        return Some(format!("linked clones rest on it ({})", found.linked.join(", ")));
    }
    if guest.options.get("protection").is_some_and(|v| v == "1") {
        return Some("it is protected against removal; take the protection away in Proxmox".into());
    }
    if guest.running {
        return Some("it runs".into());
    }
    let boot = sections.boot_volume();
    let built = |key: &str, text: &str, volid: &str| {
        let named = |name: &String| name == key || text.split(',').any(|p| p.strip_prefix("serial=") == Some(name));
        boot.as_deref() == Some(volid) || listed.iter().any(named) || old.volumes.iter().flatten().any(|v| v == volid)
    };
    let volumes = sections.data(guest.at.sort, built);
    (!volumes.is_empty()).then(|| {
        format!(
            "it holds volumes that nobody said may go ({})",
            super::held::listed(&volumes)
        )
    })
}
