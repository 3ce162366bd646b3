//! Deletion (promise 5): proven, and only what it may.

use crate::crd::{ABANDON, DeletionPolicy, GuestStatus};
use crate::desired::{GuestObject, GuestSpec, Stamp};
use crate::observed::{Guest, GuestRead, IdCheck, Observed, Sections};

use super::guest::{hold_back, status_path};
use super::*;

struct Deletion<'a> {
    object: &'a GuestObject,
    observed: &'a Observed,
    status: &'a GuestStatus,
    cluster_id: &'a str,
    findings: Vec<Finding>,
}

/// Decides what to do next for an object that is being deleted. It does not need the spec to be valid.
pub fn plan_deletion(object: &GuestObject, observed: &Observed, cluster_id: &str, now: i64) -> Plan {
    let status = &object.status;
    let mut deletion = Deletion {
        object,
        observed,
        status,
        cluster_id,
        findings: Vec::new(),
    };
    let next = hold_back(deletion.next(), status, now);
    Plan {
        next,
        findings: deletion.findings,
        facts: Facts::default(),
        partial: false,
        steps: Vec::new(),
    }
}

/// Whether deleting the object touches Proxmox at all; if not, its finalizer goes at once, even when the hypervisor
/// cannot be reached.
pub fn leaves_proxmox_alone(object: &GuestObject) -> bool {
    let status = &object.status;
    let abandoned = match (object.annotations.get(ABANDON), status.vmid) {
        (Some(value), Some(vmid)) => *value == vmid.to_string(),
        _ => false,
    };
    let nothing_sent = status.create_sent != Some(true) && status.adopted != Some(true);
    abandoned || ((status.vmid.is_none() || nothing_sent) && status.revisions.is_none())
}

impl Deletion<'_> {
    fn next(&mut self) -> Next {
        let sent = self.status.create_sent == Some(true) || self.status.adopted == Some(true);
        let Some(vmid) = self.status.vmid.filter(|_| sent && !leaves_proxmox_alone(self.object)) else {
            return self.release("nothing on Proxmox belongs to it");
        };
        let cluster = &self.observed.cluster;
        // What is concluded here is final: it must not rest on who answered some polls ago.
        if !cluster.read_now {
            return Next::Look(Query::Cluster);
        }
        if !cluster.is_recorded() {
            let message = format!(
                "the endpoint answers as cluster {:?} with nodes {:?}, which is not the one that guest {vmid} is on: correct spec.endpoints of the PhoenixHypervisor, or let go with the annotation {ABANDON}: \"{vmid}\"",
                cluster.identity.name, cluster.identity.nodes
            );
            return self.stuck("WrongCluster", message);
        }
        match &self.observed.guest {
            None => Next::Look(Query::Guest {
                vmid,
                type_: self.object.guest_type(),
                node: self.status.node.clone(),
            }),
            Some(GuestRead::Present(guest)) => self.present(vmid, &guest.clone()),
            Some(GuestRead::OtherType { .. }) => {
                self.release("the vmid is a guest of another sort now, which is left alone")
            }
            Some(GuestRead::NotFound) => self.prove_absence(vmid),
            Some(GuestRead::Unreadable(failure)) => {
                let failure = failure.clone();
                self.wait(failure.reason, failure.message, 10)
            }
        }
    }

    /// `nextid` is not filtered by privileges; lists, 403 and 500 prove nothing.
    fn prove_absence(&mut self, vmid: i64) -> Next {
        match self.observed.cluster.quorate {
            None => {
                return self.stuck(
                    "MissingPrivilege",
                    "deleting needs Sys.Audit on / to see whether the cluster is quorate: grant it to the token",
                );
            }
            Some(false) => return self.wait("NoQuorum", "the Proxmox cluster is not quorate", 10),
            Some(true) => {}
        }
        match &self.observed.id_check {
            Some((checked, IdCheck::Free)) if *checked == vmid => match self.leftover_snippet() {
                Some(next) => next,
                None => self.release("the guest is gone"),
            },
            Some((checked, _)) if *checked == vmid => {
                self.wait("GuestUnreadable", format!("guest {vmid} exists but cannot be read"), 10)
            }
            _ => Next::Look(Query::VmidFree { vmid, volumes_on: None }),
        }
    }

    /// The cloud-init snippet of a machine that is gone.
    fn leftover_snippet(&mut self) -> Option<Next> {
        let volid = self.status.snippet.clone()?;
        let node = self.status.node.clone()?;
        let action = format!("remove cloud-init snippet {volid}");
        self.find("Deleting", action.clone());
        Some(Next::Run(Box::new(Step {
            action,
            stage: Stage::Created,
            announce: vec![Announce::Snippet(None)],
            effect: Effect::RemoveSnippet { node, volid },
        })))
    }

    fn present(&mut self, vmid: i64, guest: &Guest) -> Next {
        let what = guest.named(vmid);
        let key = &self.object.key;
        let stamp = guest.stamp();
        let ours = |s: &Stamp| {
            s.cluster == self.cluster_id
                && s.kind == key.kind.as_str()
                && s.namespace == key.namespace
                && s.name == key.name
                && s.vmid == vmid
        };
        if guest.being_made() && stamp.as_ref().is_none_or(ours) {
            return self.cut_off(vmid, guest);
        }
        let Some(stamp) = stamp.filter(ours) else {
            return self.release("the guest under its vmid does not carry its stamp and is left alone");
        };
        if let Some(lock) = &guest.lock {
            return self.wait("GuestLocked", format!("{what} is locked ({lock})"), 5);
        }
        let adopted = stamp.adopted || self.status.adopted == Some(true);
        let policy = self.policy().unwrap_or(if adopted {
            DeletionPolicy::Retain
        } else {
            DeletionPolicy::Delete
        });
        if policy == DeletionPolicy::Retain {
            self.retain(vmid, guest)
        } else {
            self.destroy(vmid, guest)
        }
    }

    fn policy(&self) -> Option<DeletionPolicy> {
        match &self.object.spec {
            GuestSpec::Lxc(spec) => spec.deletion_policy,
            GuestSpec::Template(spec) => spec.deletion_policy,
            GuestSpec::Vm(spec) => spec.deletion_policy,
        }
    }

    fn cut_off(&mut self, vmid: i64, guest: &Guest) -> Next {
        match self.observed.creating {
            None => Next::Look(Query::Creating {
                vmid,
                source: None,
                node: guest.node.clone(),
            }),
            Some(true) => self.wait("CreateRunning", format!("guest {vmid} is still being created"), 3),
            Some(false) => {
                let message = format!(
                    "guest {vmid} has the lock '{}' and no task that works on it. If it is not needed, run on node {}: {tool} unlock {vmid} && {tool} destroy {vmid}; or let go with the annotation {ABANDON}: \"{vmid}\"",
                    guest.lock.as_deref().unwrap_or_default(),
                    guest.node,
                    tool = guest.type_.tool()
                );
                self.stuck("CreateInterrupted", message)
            }
        }
    }

    /// The guest stays; only the stamp and the tag are taken off.
    fn retain(&mut self, vmid: i64, guest: &Guest) -> Next {
        let what = guest.named(vmid);
        let words = Stamp::strip(guest.options.get("description").map(String::as_str).unwrap_or_default());
        let tags: Vec<&str> = guest
            .options
            .get("tags")
            .map(|t| {
                t.split([';', ',', ' '])
                    .filter(|t| !t.is_empty() && *t != super::config::TAG)
                    .collect()
            })
            .unwrap_or_default();
        let mut call = ApiCall::put(format!("{}/config", guest.path(vmid)));
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
        self.run(action, Effect::Call(call.param("digest", &guest.digest)))
    }

    /// Stop, fresh read, destroy; never forced, and only with every volume accounted for.
    fn destroy(&mut self, vmid: i64, guest: &Guest) -> Next {
        let what = guest.named(vmid);
        if guest.options.get("protection").is_some_and(|v| v == "1") {
            let message = format!("{what} is protected: set spec.protection: false, or set deletionPolicy: Retain");
            return self.stuck("Protected", message);
        }
        if let Some(next) = self.unaccounted(vmid, guest) {
            return next;
        }
        if guest.running {
            let call = ApiCall::post(status_path(vmid, guest, "stop"));
            return self.run(format!("stop {what}"), Effect::Task(call));
        }
        let call = ApiCall::delete(guest.path(vmid)).param("purge", 1);
        self.run(format!("destroy {what}"), Effect::Task(call))
    }

    /// Volumes of the guest's own that nobody said may go, wherever in its configuration they stand.
    fn unaccounted(&mut self, vmid: i64, guest: &Guest) -> Option<Next> {
        let what = guest.named(vmid);
        let sections = match self.observed.sections.get(&vmid).cloned() {
            Some(Ok(sections)) => sections,
            Some(Err(failure)) => return Some(self.wait(failure.reason, failure.message, 10)),
            None => {
                return Some(Next::Look(Query::Sections {
                    vmid,
                    type_: guest.type_,
                    node: guest.node.clone(),
                }));
            }
        };
        let volumes = sections.data(guest.type_, self.may_go(&sections));
        if volumes.is_empty() {
            return None;
        }
        let message = format!(
            "{what} owns volumes that nobody said may go ({}): keep it with deletionPolicy: Retain, or detach and remove those volumes in Proxmox yourself",
            super::held::listed(&volumes)
        );
        Some(self.stuck("UnaccountedVolumes", message))
    }

    /// What may go: volumes recorded as `Delete` wherever they are, a new one that was not recorded yet, and of a
    /// machine the disks that the spec lists. Where nothing was recorded, a machine may lose what it boots from.
    fn may_go(&self, sections: &Sections) -> impl Fn(&str, &str, &str) -> bool {
        let recorded = self.status.volumes.clone().unwrap_or_default();
        let boot = recorded.is_empty() || self.status.adopted == Some(true);
        let boot = sections.boot_volume().filter(|_| boot);
        let (mut disks, mut paths) = (Vec::new(), Vec::new());
        match &self.object.spec {
            GuestSpec::Lxc(spec) => {
                let announced = |name: &str| {
                    let mut all = recorded.iter();
                    all.any(|v| v.name == name && v.volid.is_none() && v.reclaim_policy.as_deref() == Some("Delete"))
                };
                let new = spec.volumes.iter().flatten().filter(|v| announced(&v.name));
                paths.extend(new.map(|v| v.mount_path.trim_end_matches('/').to_string()));
            }
            _ => {
                let listed = self.object.vm().and_then(|vm| vm.disks.as_deref());
                disks.extend(listed.unwrap_or_default().iter().map(|d| d.name.clone()));
            }
        }
        move |key, text, volid| {
            let has = |part: &str, wanted: &String| {
                let value = text.split(',').find_map(|p| p.strip_prefix(part));
                value.is_some_and(|v| v.trim_end_matches('/') == wanted)
            };
            boot.as_deref() == Some(volid)
                || recorded
                    .iter()
                    .any(|v| v.volid.as_deref() == Some(volid) && v.reclaim_policy.as_deref() == Some("Delete"))
                || disks.iter().any(|name| name == key || has("serial=", name))
                || paths.iter().any(|path| has("mp=", path))
        }
    }

    /// Lets the object go, unless it has guests of earlier revisions: then the next of these is what is deleted.
    fn release(&mut self, why: &str) -> Next {
        if let Some(old) = self.status.revisions.as_ref().and_then(|list| list.last()) {
            let action = format!(
                "go on with {} of revision {}",
                self.object.guest_type().named(old.vmid),
                old.revision
            );
            self.find("Deleting", action.clone());
            return Next::Run(Box::new(Step {
                action,
                stage: Stage::Created,
                announce: vec![Announce::TakeUpRevision],
                effect: Effect::Record,
            }));
        }
        self.run(format!("let the object go: {why}"), Effect::RemoveFinalizer)
    }

    fn run(&mut self, action: String, effect: Effect) -> Next {
        self.find("Deleting", action.clone());
        Next::Run(Box::new(Step {
            action,
            stage: Stage::Created,
            announce: vec![],
            effect,
        }))
    }

    fn wait(&mut self, reason: &'static str, message: impl Into<String>, seconds: u64) -> Next {
        let message = message.into();
        self.find(reason, message.clone());
        Next::Wait {
            reason,
            message,
            seconds,
        }
    }

    fn stuck(&mut self, reason: &'static str, message: impl Into<String>) -> Next {
        let message = message.into();
        self.find(reason, message.clone());
        Next::Stuck { reason, message }
    }

    fn find(&mut self, reason: &'static str, message: String) {
        self.findings.push(Finding {
            condition: "Created",
            holds: Some(true),
            reason,
            message,
        });
    }
}
