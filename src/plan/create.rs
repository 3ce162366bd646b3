//! Creates a guest: from an image, or as a clone of a template.

use crate::desired::{Blocked, Form, Source, Stamp, WantedGuest, digest_of};
use crate::observed::{ClonePlace, Guest};
use crate::pve::{ApiCall, GuestType, Vmid};
use crate::reason::Reason;

use super::lxc::owners::Use;
use super::planner::{Planner, Staged};
use super::{Announce, Effect, Impact, Next, Query, Stage, WOKEN};

/// Storage types whose base volumes can be cloned without copying (facts G.3).
const LINKED_CLONES: &[&str] = &["zfspool", "lvmthin", "btrfs", "rbd"];

/// Volume that a guest's system is on.
fn system_volume(guest: &Guest) -> String {
    let key = match guest.at.sort {
        GuestType::Lxc => "rootfs".to_string(),
        GuestType::Qemu => super::vm::drives::boot_disk(&guest.options).unwrap_or_default(),
    };
    let value = guest.options.get(&key).map(String::as_str).unwrap_or_default();
    value.split(',').next().unwrap_or_default().to_string()
}

impl Planner<'_> {
    /// Vmid of the template that the guest is cloned from.
    pub(crate) fn clone_vmid(&self) -> Option<Vmid> {
        match &self.desired.source {
            Some(Source::Clone { vmid, .. }) => *vmid,
            _ => None,
        }
    }

    /// What leads to a new guest: dependencies, node, source, vmid, and then the creating call.
    pub(crate) fn new_guest(&mut self, vmid: Option<Vmid>) -> Next {
        match self.try_new_guest(vmid) {
            Ok(next) | Err(next) => next,
        }
    }

    fn try_new_guest(&mut self, vmid: Option<Vmid>) -> Result<Next, Next> {
        let source = self.ready_source()?;
        // Who waits in the queue for clones asks Proxmox nothing.
        if let Source::Clone {
            vmid: Some(from),
            template,
            ..
        } = &source
        {
            self.comes_first(template, *from)?;
        }
        // No guest is made, and no vmid chosen, by who answered some polls ago.
        if !self.observed.cluster.read_now {
            return Err(Next::Look(Query::Cluster { anew: false }));
        }
        let node = self.place(&source)?;
        self.snapshot_can_be_cloned(&node)?;
        if self.desired.grants.is_some() && matches!(source, Source::Clone { .. }) {
            // What the object may not have takes no vmid.
            self.template_guest(&source)?;
        }
        self.ok(Stage::DependenciesReady, "");
        let Some(vmid) = self.status.vmid() else {
            return Ok(self.allocate(vmid, &node));
        };
        if self.status.node.as_ref().is_some_and(|n| *n != node) && self.clone_vmid().is_none() {
            return Ok(self.record(vmid, &node, false));
        }
        let what = self.desired.sort().named(vmid);
        let effect = match (&source, &self.desired.guest) {
            (Source::Clone { .. }, _) => self.clone_call(vmid, &source)?,
            (_, WantedGuest::Lxc(lxc)) => self.create_container(lxc, vmid, &node, &source)?,
            (_, WantedGuest::Vm(vm)) => self.create_machine(vm, vmid, &node, &source)?,
        };
        // The list lags by seconds: that nothing is there is asked of the guest itself.
        if self.observed.guest.is_none() {
            return Err(Next::Look(Query::Guest {
                vmid,
                sort: self.desired.sort(),
                node: Some(node),
                snapshots: self.needs_snapshots(),
            }));
        }
        self.no_other(vmid)?;
        let mut announce = vec![Announce::CreateSent];
        let restarted = self.desired.life.restarted_at.clone();
        announce.extend(restarted.map(|value| Announce::Restart(value, None)));
        let action = match &source {
            Source::Clone {
                template,
                vmid: Some(from),
                ..
            } => format!("clone {what} from {template} ({from})"),
            other => format!("create {what} from {}", self.image_of(other).unwrap_or_default()),
        };
        Ok(self.run(Stage::Created, action, announce, effect))
    }

    /// What the guest is made from, once all that it needs is there.
    pub(super) fn ready_source(&mut self) -> Result<Source, Next> {
        let stage = Stage::DependenciesReady;
        match (self.input.dependencies)() {
            Ok(()) => {}
            Err(Blocked::Waiting(cause)) => return Err(self.wait(stage, cause.reason, cause.message, 30)),
            Err(Blocked::Stalled(cause)) => return Err(self.stuck(stage, cause.reason, cause.message)),
        }
        self.address_is_free(stage)?;
        let Some(source) = self.desired.source.clone() else {
            let field = match self.desired.life.form {
                Form::Guest => "spec.source",
                _ if self.desired.sort() == GuestType::Qemu => "spec.vm.source",
                _ => "spec.lxc.source",
            };
            let message = format!(
                "{field} is missing: name an image or a template, or adopt an existing guest with the annotation {}",
                crate::crd::ADOPT
            );
            return Err(self.stuck(stage, Reason::SourceMissing, message));
        };
        if let Source::Clone {
            vmid: None, template, ..
        } = &source
        {
            return Err(self.wait(
                stage,
                Reason::TemplateNotReady,
                format!("waits for PhoenixTemplate {template} to be Ready"),
                30,
            ));
        }
        Ok(source)
    }

    /// The node of a new guest: where its retained volumes are, unless something else says where it has to be.
    fn place(&mut self, source: &Source) -> Result<String, Next> {
        // In the queue of its template a clone asks nothing anew; it is looked again right before the call.
        if self.status.vmid().is_some() && matches!(source, Source::Clone { .. }) {
            return self.choose_node(source, None);
        }
        let kept = self.retained_fit(None)?;
        let node = self.choose_node(source, kept)?;
        self.retained_fit(Some(&Use {
            stage: Stage::Created,
            node: &node,
            // A clone has its template's id mapping, which is compared when that is read.
            unprivileged: match source {
                Source::Clone { .. } => None,
                _ => Some(self.desired.lxc().and_then(|lxc| lxc.unprivileged).unwrap_or(true)),
            },
            guest: None,
        }))?;
        Ok(node)
    }

    fn choose_node(&mut self, source: &Source, kept: Option<String>) -> Result<String, Next> {
        let stage = Stage::Created;
        let cluster = &self.observed.cluster;
        let node = match source {
            Source::Clone { vmid, node, .. } => vmid
                .and_then(|vmid| cluster.guests.get(&vmid))
                .map_or_else(|| node.clone(), |row| row.node.clone()),
            _ => match (
                &self.desired.identity.node,
                kept,
                &self.status.node,
                &self.desired.identity.default_node,
            ) {
                (Some(node), ..) => node.clone(),
                (None, Some(node), ..) => node,
                (None, None, Some(node), _) | (None, None, None, Some(node)) => node.clone(),
                (None, None, None, None) => {
                    let guests = |node: &String| cluster.guests.values().filter(|r| &r.node == node).count();
                    let Some(node) = cluster.online.iter().min_by_key(|n| (guests(n), (*n).clone())) else {
                        return Err(self.wait(stage, Reason::NodeOffline, "no node of the cluster is online", 10));
                    };
                    node.clone()
                }
            },
        };
        if !cluster.identity.nodes.contains(&node) {
            let identity = &self.desired.identity;
            let named = [&identity.node, &identity.default_node].contains(&&Some(node.clone()));
            let nodes = cluster.identity.nodes.join(", ");
            let message = match named {
                true => format!(
                    "{}.node: {node:?} is not a node of the cluster ({nodes}): correct the name",
                    self.prefix()
                ),
                false => {
                    format!("node {node:?}, where it is to be made, is not a node of the cluster ({nodes}) any more")
                }
            };
            return Err(self.stuck(stage, Reason::NodeNotFound, message));
        }
        if !cluster.online.contains(&node) {
            return Err(self.wait(stage, Reason::NodeOffline, format!("node {node} is offline"), 10));
        }
        Ok(node)
    }

    pub(crate) fn fresh_description(&self, vmid: Vmid) -> String {
        let stamp = Stamp {
            fresh: true,
            image: self.desired.source.as_ref().and_then(|source| self.image_of(source)),
            template: self.desired.source.as_ref().and_then(template_of),
            keys: self.desired.lxc().and_then(|lxc| lxc.ssh_keys.as_ref()).map(digest_of),
            ..self.desired.stamp(vmid)
        };
        stamp.describe(self.desired.shared.description.as_deref().unwrap_or_default())
    }

    /// The option that holds a guest's name.
    fn name_option(&self) -> &'static str {
        match self.desired.sort() {
            GuestType::Lxc => "hostname",
            GuestType::Qemu => "name",
        }
    }

    pub(crate) fn hostname(&self) -> String {
        self.desired
            .option(self.name_option())
            .cloned()
            .unwrap_or_else(|| self.desired.shared.default_hostname.clone())
    }

    fn clone_call(&mut self, vmid: Vmid, source: &Source) -> Result<Effect, Next> {
        let Source::Clone {
            vmid: Some(from),
            snapshot,
            template,
            ..
        } = source
        else {
            return Ok(Effect::Record);
        };
        let stage = Stage::Created;
        let parent = self.template_guest(source)?;
        self.is_unlocked(template, *from, &parent)?;
        self.retained_fit(Some(&Use {
            stage,
            node: &parent.at.node,
            unprivileged: Some(parent.options.get("unprivileged").is_some_and(|v| v == "1")),
            guest: None,
        }))?;
        let call = ApiCall::post(parent.at.path_of(&["clone"]))
            .param("newid", vmid)
            .param(self.name_option(), self.hostname())
            .param("description", self.fresh_description(vmid))
            .param_opt("pool", self.desired.shared.pool.as_ref());
        let call = match snapshot {
            Some(name) if parent.snapshots.as_ref().is_some_and(|s| s.contains_key(name)) => call
                .param("snapname", name)
                .param("full", 1)
                .param_opt("storage", self.clone_storage()),
            Some(name) => {
                let message = format!("waits for snapshot {name} of template {template} ({from})");
                return Err(self.wait(stage, Reason::TemplateNotReady, message, 10));
            }
            None if self.can_link(&parent) => call.param("full", 0),
            None => call.param("full", 1).param_opt("storage", self.clone_storage()),
        };
        Ok(Effect::task(&parent.at.node, call).with(Impact::Create))
    }

    /// Proxmox locks the source of a clone (facts D.4).
    fn is_unlocked(&mut self, template: &str, from: Vmid, parent: &Guest) -> Staged {
        let Some(lock) = &parent.lock else {
            return Ok(());
        };
        let queue = self.observed.clone_queue.as_ref().filter(|queue| queue.of > 1);
        let place = queue.map_or_else(String::new, in_queue);
        let message =
            format!("waits for template {template} ({from}), which is locked ({lock}) by another clone or task{place}");
        Err(self.wait(Stage::Created, Reason::TemplateBusy, message, 3))
    }

    /// Whoever comes first in the queue for clones of the template is woken when it is its turn.
    fn comes_first(&mut self, template: &str, from: Vmid) -> Staged {
        let Some(queue) = self.observed.clone_queue.clone().filter(|q| q.position > 1) else {
            return Ok(());
        };
        let message = format!(
            "waits for template {template} ({from}): {} comes first{}",
            queue.first,
            in_queue(&queue)
        );
        let seconds = if queue.soon { 1 } else { WOKEN };
        Err(self.wait(Stage::Created, Reason::TemplateBusy, message, seconds))
    }

    /// Whether a clone can rest on the template's own volume instead of a copy of it.
    fn can_link(&self, parent: &Guest) -> bool {
        let volume = system_volume(parent);
        let storage = volume.split(':').next().unwrap_or_default().to_string();
        let at = (parent.at.node.clone(), storage.clone());
        let type_ = self.observed.cluster.storages.get(&at).map(|s| s.type_.as_str());
        let elsewhere = self.clone_storage().is_some_and(|s| s != storage);
        // A qcow2 file can have another one behind it, whatever the storage.
        let links = type_.is_some_and(|t| LINKED_CLONES.contains(&t)) || volume.ends_with(".qcow2");
        links && !elsewhere
    }

    /// Storage that the spec wants a clone's system on.
    fn clone_storage(&self) -> Option<String> {
        match self.desired.vm() {
            Some(vm) => vm.disks.iter().flatten().next().and_then(|d| d.storage.clone()),
            None => self.desired.lxc()?.rootfs_storage.clone(),
        }
    }

    /// The storage exists on the node, is available and takes what it is for (`rootdir` or `images`).
    pub(crate) fn storage_usable(&mut self, node: &str, storage: &str, field: &str, content: &str) -> Result<(), Next> {
        let stage = Stage::Created;
        let storages = &self.observed.cluster.storages;
        match storages.get(&(node.to_string(), storage.to_string())) {
            Some(row) if !row.available => Err(self.wait(
                stage,
                Reason::StorageUnavailable,
                format!("{field}: storage {storage:?} on node {node} is not available"),
                10,
            )),
            Some(row) if !row.content.iter().any(|c| c == content) => {
                let guests = if content == "images" {
                    "virtual machines"
                } else {
                    "containers"
                };
                let message =
                    format!("{field}: storage {storage:?} is not for {guests}: choose one with content {content}");
                Err(self.stuck(stage, Reason::InvalidSpec, message))
            }
            Some(_) => Ok(()),
            None if storages.is_empty() => Ok(()),
            None => {
                let known: Vec<&str> = storages
                    .keys()
                    .filter(|(n, _)| n == node)
                    .map(|(_, storage)| storage.as_str())
                    .collect();
                let message = format!(
                    "{field}: node {node} has no storage {storage:?} (there are {}): correct the name",
                    known.join(", ")
                );
                Err(self.stuck(stage, Reason::StorageNotFound, message))
            }
        }
    }
}

/// The place in the queue for clones, in words.
fn in_queue(place: &ClonePlace) -> String {
    format!("; place {} of {} in the queue for its clones", place.position, place.of)
}

/// The template that a guest is cloned from, as its stamp names it.
fn template_of(source: &Source) -> Option<String> {
    match source {
        Source::Clone {
            namespace, template, ..
        } => Some(format!("{namespace}/{template}")),
        _ => None,
    }
}
