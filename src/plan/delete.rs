//! Deletion (promise 5): proven, and only what it may.

use std::collections::BTreeSet;

use crate::crd::status::VolumeStatus;
use crate::crd::{ABANDON, DeletionPolicy, GuestStatus, RECREATE, ReclaimPolicy, Volume as VolumeSpec};
use crate::desired::{GuestObject, GuestSpec, Key, Stamp};
use crate::observed::{Guest, GuestRead, IdCheck, Observed, Sections};
use crate::plan::{NodeWork, calls};
use crate::pve::volid::owner_of;
use crate::pve::{ApiCall, GuestType, Vmid};
use crate::reason::{Cause, Reason};

use super::held::{goes_with_guest, is_adopted};
use super::lost::left_alone;
use super::lxc::owners::{is_open, protection};
use super::{Announce, Effect, Facts, Finding, Next, Plan, Query, Stage, Step, TAG, retry};

/// Owners are found by their stamps where the hypervisor names no range.
const NO_IDS: (Vmid, Vmid) = (Vmid::MAX, Vmid::MIN);
/// Seconds until a template's linked clones are looked for again.
const IN_USE_AGAIN: u64 = 300;
/// Seconds until it is looked again whether another object names a volume.
const LENT_AGAIN: u64 = 60;

/// What is known around an object whose spec is not resolved, because it is being deleted or is not valid.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Id of the management cluster.
    pub cluster_id: &'a str,
    /// Ids of earlier management clusters: their stamps count as those of `cluster_id`.
    pub previous: &'a [String],
    /// First and last id of `spec.volumeOwners.idRange` of the hypervisor.
    pub owner_ids: Option<(Vmid, Vmid)>,
}

impl Surroundings<'_> {
    /// Whether stamps of the management cluster count.
    fn knows(&self, cluster: &str) -> bool {
        self.cluster_id == cluster || self.previous.iter().any(|id| id == cluster)
    }

    /// Whether a stamp says that the guest under the vmid is the object's.
    pub(crate) fn owns(&self, stamp: &Stamp, key: &Key, vmid: Vmid) -> bool {
        self.knows(&stamp.cluster)
            && stamp.kind == key.kind.as_str()
            && stamp.namespace == key.namespace
            && stamp.name == key.name
            && stamp.vmid == vmid
    }
}

pub(crate) struct Deletion<'a> {
    pub object: &'a GuestObject,
    pub observed: &'a Observed,
    pub status: &'a GuestStatus,
    around: Surroundings<'a>,
    pub(crate) findings: Vec<Finding>,
    /// Whether the object stays and has a new guest next.
    pub(crate) recreates: bool,
    /// Whether the guest under the object's vmid is left alone.
    leaves: bool,
}

/// Decides what to do next for an object that is being deleted. It does not need the spec to be valid. `now` is Unix
/// time in seconds.
pub fn plan_deletion(object: &GuestObject, observed: &Observed, around: Surroundings<'_>, now: i64) -> Plan {
    let mut deletion = Deletion::new(object, observed, around);
    let next = deletion.next();
    deletion.plan(next, now)
}

/// Whether somebody let the object go without touching Proxmox: then its finalizer goes at once, even when the
/// hypervisor cannot be reached. An object that never sent anything has no finalizer; one that has it may have lost its
/// status, and its guest is searched for.
pub fn abandoned(object: &GuestObject) -> bool {
    match (object.annotations.get(ABANDON), object.status.vmid()) {
        (Some(value), Some(vmid)) => *value == vmid.to_string(),
        (value, None) => value.is_some(),
        (None, _) => false,
    }
}

/// How to let a deleted object go without touching Proxmox.
pub fn let_go(object: &GuestObject) -> String {
    let vmid = object.status.vmid().map_or("none".to_string(), |vmid| vmid.to_string());
    format!("let go with the annotation {ABANDON}: \"{vmid}\"")
}

impl<'a> Deletion<'a> {
    pub(crate) fn new(object: &'a GuestObject, observed: &'a Observed, around: Surroundings<'a>) -> Self {
        Deletion {
            object,
            observed,
            status: &object.status,
            around,
            findings: Vec::new(),
            recreates: false,
            leaves: false,
        }
    }

    pub(crate) fn plan(self, next: Next, now: i64) -> Plan {
        Plan {
            next: retry::hold_back(next, self.status, now),
            findings: self.findings,
            facts: Facts {
                // Nobody asks the probes any more.
                absent: vec![Stage::Healthy],
                ..Facts::default()
            },
            partial: false,
        }
    }
}

impl Deletion<'_> {
    pub(crate) fn next(&mut self) -> Next {
        if !self.recreates && abandoned(self.object) {
            let leaves = self.status.vmid().is_some();
            return self.run(
                "let the object go: it is abandoned".into(),
                Effect::RemoveFinalizer { leaves },
            );
        }
        let vmid = self.status.vmid().filter(|_| self.status.was_made());
        let cluster = &self.observed.cluster;
        // What is concluded here is final: it must not rest on who answered some polls ago.
        if !cluster.read_now {
            return Next::Look(Query::Cluster { anew: true });
        }
        if !cluster.is_recorded() {
            let which = vmid.map_or("its guest".to_string(), |vmid| format!("guest {vmid}"));
            let message = format!(
                "the endpoint answers as cluster {:?} with nodes {:?}, which is not the one that {which} is on: correct spec.endpoints of the PhoenixHypervisor, or {}",
                cluster.identity.name,
                cluster.identity.nodes,
                let_go(self.object)
            );
            return self.stuck(Reason::WrongCluster, message);
        }
        let Some(vmid) = vmid else {
            return self.without_vmid();
        };
        match &self.observed.guest {
            None => Next::Look(Query::Guest {
                vmid,
                sort: self.object.guest_type(),
                node: self.status.node.clone(),
                snapshots: true,
            }),
            Some(GuestRead::Present(guest)) => self.present(&guest.clone()),
            // A template's form can be edited while its guest is of the other one.
            Some(GuestRead::OtherType(at)) => Next::Look(Query::Guest {
                vmid,
                sort: at.sort,
                node: Some(at.node.clone()),
                snapshots: true,
            }),
            Some(GuestRead::NotFound) => self.prove_absence(vmid),
            Some(GuestRead::Unreadable(failure)) => {
                let failure = failure.clone();
                self.wait(failure.reason, failure.message, 10)
            }
        }
    }

    /// Nothing is concluded from what another cluster says, or one without quorum.
    pub(crate) fn conclusive(&mut self) -> Result<(), Next> {
        if !self.observed.cluster.is_proven() {
            let message = format!(
                "no guest here proves that the endpoint is the cluster that the object's guest was on (another may have its name and nodes): correct spec.endpoints of the PhoenixHypervisor, or {}",
                let_go(self.object)
            );
            return Err(self.stuck(Reason::WrongCluster, message));
        }
        match self.observed.cluster.quorate {
            None => {
                let message = format!(
                    "deleting needs Sys.Audit on / to see whether the cluster is quorate: grant it to the token, or {}",
                    let_go(self.object)
                );
                Err(self.stuck(Reason::MissingPrivilege, message))
            }
            Some(false) => Err(self.wait(Reason::NoQuorum, "the Proxmox cluster is not quorate", 10)),
            Some(true) => Ok(()),
        }
    }

    /// `nextid` is not filtered by privileges; lists, 403 and 500 prove nothing.
    fn prove_absence(&mut self, vmid: Vmid) -> Next {
        if let Err(next) = self.conclusive() {
            return next;
        }
        match &self.observed.id_check {
            Some((checked, IdCheck::Free)) if *checked == vmid => match self.leftover_snippet() {
                Some(next) => next,
                None => self.gone(vmid),
            },
            Some((checked, _)) if *checked == vmid => self.wait(
                Reason::GuestUnreadable,
                format!("guest {vmid} exists but cannot be read"),
                10,
            ),
            _ => Next::Look(Query::VmidFree { vmid, volumes_on: None }),
        }
    }

    /// The cloud-init snippet of a machine that is gone.
    fn leftover_snippet(&mut self) -> Option<Next> {
        let volid = self.status.snippet.clone()?;
        let node = self.status.node.clone()?;
        let action = format!("remove cloud-init snippet {volid}");
        self.condition(Reason::Deleting, action.clone());
        Some(Next::Run(Box::new(Step {
            action,
            stage: Stage::Created,
            announce: vec![Announce::Snippet(None)],
            effect: Effect::OnNode {
                node,
                work: NodeWork::RemoveSnippet { volid },
            },
            apart: Some(retry::DELETE.into()),
        })))
    }

    fn present(&mut self, guest: &Guest) -> Next {
        let vmid = guest.at.vmid;
        let what = guest.named();
        let key = &self.object.key;
        let stamp = guest.stamp();
        let ours = |s: &Stamp| self.around.owns(s, key, vmid);
        if guest.being_made() && stamp.as_ref().is_none_or(ours) {
            return self.cut_off(guest);
        }
        let Some(stamp) = stamp.clone().filter(ours) else {
            let why = left_alone(&what, guest, stamp.as_ref());
            if self.recreates {
                return self.stuck(Reason::Conflict, why);
            }
            self.leaves = true;
            return self.elsewhere(&why);
        };
        if let Some(lock) = &guest.lock {
            return self.wait(Reason::GuestLocked, super::planner::is_locked(guest, lock), 5);
        }
        let adopted = stamp.adopted || self.status.adopted == Some(true);
        let policy = self.policy().unwrap_or(if adopted {
            DeletionPolicy::Retain
        } else {
            DeletionPolicy::Delete
        });
        if policy == DeletionPolicy::Retain && self.recreates {
            let message = format!(
                "metadata.annotations[{RECREATE}]: {what} would stay, {}: set spec.deletionPolicy: Delete first, or delete the object and apply it again",
                if adopted {
                    "since it was adopted"
                } else {
                    "as spec.deletionPolicy: Retain says"
                }
            );
            return self.stuck(Reason::Protected, message);
        }
        if policy == DeletionPolicy::Retain {
            self.retain(guest)
        } else {
            self.destroy(guest)
        }
    }

    fn policy(&self) -> Option<DeletionPolicy> {
        match &self.object.spec {
            GuestSpec::Lxc(spec) => spec.deletion_policy,
            GuestSpec::Template(spec) => spec.deletion_policy,
            GuestSpec::Vm(spec) => spec.deletion_policy,
        }
    }

    fn cut_off(&mut self, guest: &Guest) -> Next {
        let vmid = guest.at.vmid;
        match self.observed.creating {
            None => Next::Look(Query::Creating {
                vmid,
                source: None,
                node: guest.at.node.clone(),
            }),
            Some(true) => self.wait(Reason::CreateRunning, format!("guest {vmid} is still being created"), 3),
            Some(false) => {
                let message = format!(
                    "guest {vmid} has the lock '{}' and no task that works on it. If it is not needed, run on node {}: {tool} unlock {vmid} && {tool} destroy {vmid}; or let go with the annotation {ABANDON}: \"{vmid}\"",
                    guest.lock.as_deref().unwrap_or_default(),
                    guest.at.node,
                    tool = guest.at.sort.tool()
                );
                self.stuck(Reason::CreateInterrupted, message)
            }
        }
    }

    /// The guest stays; only the stamp and the tag are taken off.
    fn retain(&mut self, guest: &Guest) -> Next {
        let what = guest.named();
        let words = Stamp::strip(guest.options.get("description").map(String::as_str).unwrap_or_default());
        let tags: Vec<&str> = guest
            .options
            .get("tags")
            .map(|t| {
                t.split([';', ',', ' '])
                    .filter(|t| !t.is_empty() && *t != TAG)
                    .collect()
            })
            .unwrap_or_default();
        let mut call = ApiCall::put(format!("{}/config", guest.at.path()));
        let mut delete = Vec::new();
        for (key, value) in [("description", words), ("tags", tags.join(";"))] {
            if value.is_empty() {
                delete.push(key);
            } else {
                call = call.param(key, value);
            }
        }
        if !delete.is_empty() {
            call = call.param("delete", delete.join(","));
        }
        let action = format!("take Phoenix's stamp off {what}, which stays");
        self.run(action, Effect::call(call.param("digest", &guest.digest)))
    }

    /// Stop, fresh read, destroy; never forced, and only with every volume accounted for.
    fn destroy(&mut self, guest: &Guest) -> Next {
        let what = guest.named();
        if guest.options.get("protection").is_some_and(|v| v == "1") {
            if self.unprotected() {
                let call = ApiCall::put(format!("{}/config", guest.at.path()))
                    .param("protection", 0)
                    .param("digest", &guest.digest);
                return self.run(format!("take the protection off {what}"), Effect::call(call));
            }
            let message = format!("{what} is protected: set spec.protection: false, or set deletionPolicy: Retain");
            return self.stuck(Reason::Protected, message);
        }
        if let Some(next) = self.unproven(&what) {
            return next;
        }
        if let Some(next) = self.linked_clones(guest) {
            return next;
        }
        if let Some(next) = self.lent(guest) {
            return next;
        }
        if let Some(next) = self.unaccounted(guest) {
            return next;
        }
        if guest.running && self.recreates {
            // What is on its retained volumes lives on.
            return self.run(format!("shut {what} down"), calls::shutdown(&guest.at));
        }
        if guest.running {
            return self.run(format!("stop {what}"), calls::stop(&guest.at));
        }
        self.findings.push(Finding {
            condition: Stage::Running.as_str(),
            holds: Some(false),
            cause: Cause::new(Reason::Stopped, format!("{what} is stopped")),
        });
        self.run(format!("destroy {what}"), calls::destroy(&guest.at))
    }

    /// Once the guest is gone, nothing proves any more that this is the cluster that it was on.
    fn unproven(&mut self, what: &str) -> Option<Next> {
        let cluster = &self.observed.cluster;
        if cluster.is_proven() {
            return None;
        }
        let shown = |ca: Option<&String>| ca.cloned().unwrap_or_else(|| "none".into());
        let recorded = cluster.recorded.as_ref().and_then(|r| r.ca_fingerprint.as_ref());
        let message = format!(
            "{what} is destroyed when its cluster is proven: the certificate authority that the status of the PhoenixHypervisor has recorded is {}, and the endpoint shows {} (reading it needs Sys.Audit on /); or {}",
            shown(recorded),
            shown(cluster.identity.ca_fingerprint.as_ref()),
            let_go(self.object)
        );
        Some(self.wait(Reason::HypervisorNotReady, message, 30))
    }

    /// Whether the spec says that the guest is not protected; absent says nothing.
    fn unprotected(&self) -> bool {
        self.object.shared().is_some_and(|spec| spec.protection == Some(false))
    }

    /// What rests on a template's volumes keeps it, whosever it is: Proxmox refuses to destroy it. An object of Phoenix's
    /// that goes wakes this one; a stranger's guest is looked for now and then.
    fn linked_clones(&mut self, guest: &Guest) -> Option<Next> {
        let vmid = guest.at.vmid;
        if !guest.is_template() {
            return None;
        }
        let found = match self.observed.old_revisions.get(&vmid).cloned() {
            Some(Ok(found)) => found,
            Some(Err(failure)) => return Some(self.wait(failure.reason, failure.message, 10)),
            _ => {
                return Some(Next::Look(Query::OldRevision(guest.at.clone())));
            }
        };
        let clones: BTreeSet<Vmid> = found.linked.iter().filter_map(|volid| owner_of(volid)).collect();
        if found.linked.is_empty() {
            return None;
        }
        let named = |clone: &Vmid| match (
            self.observed.objects.get(clone),
            self.observed.cluster.guests.get(clone),
        ) {
            (Some(object), _) => format!("{clone} ({object})"),
            (None, Some(row)) if !row.name.is_empty() => format!("{clone} ({}, not Phoenix's)", row.name),
            _ => clone.to_string(),
        };
        let rests = match clones.is_empty() {
            true => found.linked.join(", "),
            false => clones.iter().map(named).collect::<Vec<_>>().join(", "),
        };
        let message = format!(
            "{} stays: linked clones rest on it ({rests}): it goes when they are gone, or when they are made full ones (Proxmox: Move disk to the same or another storage)",
            guest.named()
        );
        Some(self.wait(Reason::TemplateInUse, message, IN_USE_AGAIN))
    }

    /// Volumes that other objects were given: Proxmox would remove them under those (facts K.1.8).
    fn lent(&mut self, guest: &Guest) -> Option<Next> {
        let Some(borrowed) = &self.observed.borrowed else {
            return Some(Next::Look(Query::Borrowed));
        };
        let mut lent = borrowed
            .iter()
            .filter(|(volid, _)| owner_of(volid) == Some(guest.at.vmid));
        let (volid, object) = lent.next()?;
        let message = format!(
            "{} stays: {object} names {volid} in its spec.volumes, which would go with it: take it out there first",
            guest.named()
        );
        Some(self.wait(Reason::VolumeHeld, message, LENT_AGAIN))
    }

    /// Volumes of the guest's own that nobody said may go, wherever in its configuration they stand.
    fn unaccounted(&mut self, guest: &Guest) -> Option<Next> {
        let vmid = guest.at.vmid;
        let what = guest.named();
        let sections = match self.observed.sections.get(&vmid).cloned() {
            Some(Ok(sections)) => sections,
            Some(Err(failure)) => return Some(self.wait(failure.reason, failure.message, 10)),
            None => {
                return Some(Next::Look(Query::Sections(guest.at.clone())));
            }
        };
        let volumes = sections.data(guest.at.sort, self.may_go(guest, &sections));
        if volumes.is_empty() {
            return None;
        }
        let message = format!(
            "{what} owns volumes that nobody said may go ({}): keep it with deletionPolicy: Retain, or detach and remove those volumes in Proxmox yourself",
            super::held::listed(&volumes)
        );
        Some(self.stuck(Reason::UnaccountedVolumes, message))
    }

    /// What may go: volumes recorded as `Delete` wherever they are, a new one that was announced and not recorded yet,
    /// and of a machine the disks that the spec lists, and those that Phoenix made for earlier specs. Where nothing was
    /// recorded, a machine may lose what it boots from. What a container's spec says to retain stays, though status may
    /// not know of that edit.
    fn may_go(&self, guest: &Guest, sections: &Sections) -> impl Fn(&str, &str, &str) -> bool {
        let type_ = guest.at.sort;
        let recorded = self.status.volumes.clone().unwrap_or_default();
        let adopted = is_adopted(self.status, guest);
        // An object whose form was edited since says nothing of the guest that it has.
        let edited = type_ == GuestType::Qemu && self.object.vm().is_none();
        let boot = edited || recorded.is_empty() || self.status.adopted == Some(true);
        let boot = sections.boot_volume().filter(|_| boot);
        let (mut disks, mut paths) = (Vec::new(), Vec::new());
        let (mut kept_names, mut kept_paths) = (Vec::new(), Vec::new());
        match &self.object.spec {
            GuestSpec::Lxc(spec) => {
                let trimmed = |path: &str| path.trim_end_matches('/').to_string();
                let announced = |v: &&VolumeStatus| v.volid.is_none() && v.reclaim_policy.as_deref() == Some("Delete");
                for new in recorded.iter().filter(announced) {
                    let wanted = spec.volumes.iter().flatten().filter(|v| v.name == new.name);
                    paths.extend(wanted.map(|v| trimmed(&v.mount_path)));
                    paths.extend(new.mount_path.iter().map(|path| trimmed(path)));
                }
                let retain = |v: &&VolumeSpec| v.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain;
                for kept in spec.volumes.iter().flatten().filter(retain) {
                    kept_names.push(kept.name.clone());
                    kept_paths.push(trimmed(&kept.mount_path));
                }
            }
            _ => {
                let listed = self.object.vm().and_then(|vm| vm.disks.as_deref());
                disks.extend(listed.unwrap_or_default().iter().map(|d| d.name.clone()));
            }
        }
        let kept_ids = sections.ids(type_, |text, volid| {
            let path = text.split(',').find_map(|part| part.strip_prefix("mp="));
            let path = path.map(|path| path.trim_end_matches('/').to_string());
            let known = recorded.iter().find(|v| v.volid.as_deref() == Some(volid));
            known.is_some_and(|v| kept_names.contains(&v.name)) || path.is_some_and(|path| kept_paths.contains(&path))
        });
        move |key, text, volid| {
            let has = |part: &str, wanted: &String| {
                let value = text.split(',').find_map(|p| p.strip_prefix(part));
                value.is_some_and(|v| v.trim_end_matches('/') == wanted)
            };
            let known = recorded.iter().find(|v| v.volid.as_deref() == Some(volid));
            if kept_ids.contains(volid) {
                return false;
            }
            boot.as_deref() == Some(volid)
                || known.is_some_and(|v| goes_with_guest(v, type_, adopted))
                || disks.iter().any(|name| name == key || has("serial=", name))
                || paths.iter().any(|path| has("mp=", path))
        }
    }

    /// Lets the object go, unless it has guests of earlier revisions: then the next of these is what is deleted.
    pub(crate) fn release(&mut self, why: &str) -> Next {
        if let Some(old) = self.status.revisions.as_ref().and_then(|list| list.last()) {
            let action = format!(
                "go on with {} {} of revision {}",
                self.object.guest_type().noun(),
                old.vmid,
                old.revision
            );
            self.condition(Reason::Deleting, action.clone());
            return Next::Run(Box::new(Step {
                action,
                stage: Stage::Created,
                announce: vec![Announce::TakeUpRevision],
                effect: Effect::Record,
                apart: Some(retry::DELETE.into()),
            }));
        }
        if let Some(next) = self.open_owner() {
            return next;
        }
        let leaves = self.leaves;
        self.run(format!("let the object go: {why}"), Effect::RemoveFinalizer { leaves })
    }

    /// An owner container that was opened for a volume of this object is protected again before the last who knows of
    /// it goes. What cannot be read now keeps nothing: its volumes are as safe as they were.
    fn open_owner(&mut self) -> Option<Next> {
        let ids = self.around.owner_ids.unwrap_or(NO_IDS);
        let spec = match &self.object.spec {
            GuestSpec::Lxc(spec) => spec.volumes.as_deref().unwrap_or_default(),
            _ => return None,
        };
        let mut recorded = self.status.volumes.iter().flatten();
        let retained = spec
            .iter()
            .any(|v| v.volid.is_none() && v.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain)
            || recorded.any(|v| v.reclaim_policy.as_deref() == Some("Retain"));
        if !retained {
            return None;
        }
        let owners = match &self.observed.owners {
            None => return Some(Next::Look(Query::Owners { ids })),
            Some(read) => read.as_ref().ok()?,
        };
        let ours = |o: &&Guest| {
            let stamp = o.stamp();
            stamp.is_some_and(|s| s.vmid == o.at.vmid && self.around.knows(&s.cluster)) && o.lock.is_none()
        };
        let open = owners.owners.iter().filter(ours).find(|o| is_open(o))?;
        let (action, effect) = protection(open, true);
        Some(self.run(action, effect))
    }

    pub(crate) fn run(&mut self, action: String, effect: Effect) -> Next {
        self.condition(Reason::Deleting, action.clone());
        Next::Run(Box::new(Step {
            action,
            stage: Stage::Created,
            announce: vec![],
            effect,
            apart: Some(retry::DELETE.into()),
        }))
    }

    pub(crate) fn wait(&mut self, reason: Reason, message: impl Into<String>, seconds: u64) -> Next {
        let cause = Cause::new(reason, message);
        self.condition(reason, cause.message.clone());
        Next::Wait { cause, seconds }
    }

    pub(crate) fn stuck(&mut self, reason: Reason, message: impl Into<String>) -> Next {
        let cause = Cause::new(reason, message);
        self.condition(reason, cause.message.clone());
        Next::Stuck(cause)
    }

    pub(crate) fn condition(&mut self, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding {
            condition: "Created",
            holds: Some(true),
            cause: Cause::new(reason, message),
        });
    }
}
