//! The cluster as its list of resources shows it (`GET /cluster/resources`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::crd::status::ProxmoxCluster;
use crate::pve::{GuestType, Vmid};

use super::cards::Inventory;

/// What is known of the Proxmox cluster, from the poller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Name and nodes as the endpoint answers now.
    pub identity: ProxmoxCluster,
    /// Whether identity and quorum were read for this very reconcile; the poller reads them only now and then.
    pub read_now: bool,
    /// The identity recorded in the hypervisor's status, where there is one.
    pub recorded: Option<ProxmoxCluster>,
    /// Whether it is quorate (a single node always is). `None`: not readable (Sys.Audit on / is missing).
    pub quorate: Option<bool>,
    /// Nodes that are online.
    pub online: BTreeSet<String>,
    /// All guests of the cluster by vmid.
    pub guests: Shared<BTreeMap<Vmid, ResourceRow>>,
    /// Graphics cards by node, as they were looked at last. A node that was not looked at has no entry.
    pub gpus: Shared<Inventory>,
    /// Storages by (node, storage): whether they are available.
    pub storages: Shared<BTreeMap<(String, String), StorageRow>>,
}

impl Cluster {
    /// Whether a guest runs, as the list says.
    pub fn runs(&self, vmid: Option<Vmid>) -> bool {
        let row = vmid.and_then(|vmid| self.guests.get(&vmid));
        row.is_some_and(|row| row.status == "running")
    }
}

/// A value that many have one copy of, until somebody changes theirs: what each step looks at is large.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared<T>(Arc<T>);

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Shared(Arc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl Cluster {
    /// Whether the endpoint answers as the recorded cluster.
    pub fn is_recorded(&self) -> bool {
        self.recorded
            .as_ref()
            .is_none_or(|recorded| recorded.is(&self.identity))
    }

    /// Whether it is certain that the endpoint answers as the recorded cluster, so that what is not there is gone. Two
    /// single nodes have the installer's name for both; their certificate authorities differ.
    pub fn is_proven(&self) -> bool {
        let recorded = self.recorded.as_ref().and_then(|r| r.ca_fingerprint.as_ref());
        self.is_recorded() && recorded == self.identity.ca_fingerprint.as_ref()
    }
}

/// A guest's row in `/cluster/resources` (facts C: name and status lag by up to 12 s, lock and tags do not).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceRow {
    /// `lxc` or `qemu`.
    pub type_: String,
    /// Node.
    pub node: String,
    /// Name; empty for a guest that is new.
    pub name: String,
    /// running, stopped, unknown, ….
    pub status: String,
    /// Config lock.
    pub lock: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Pool.
    pub pool: Option<String>,
    /// Whether it is a Proxmox template.
    pub template: bool,
    /// Configured CPUs.
    pub maxcpu: Option<String>,
    /// Configured memory in bytes.
    pub maxmem: Option<i64>,
    /// Size of the root filesystem in bytes.
    pub maxdisk: Option<i64>,
    /// Seconds since its start.
    pub uptime: Option<i64>,
}

impl ResourceRow {
    /// Container or machine.
    pub fn guest_type(&self) -> GuestType {
        GuestType::of(&self.type_).unwrap_or_default()
    }

    /// Whether a later look shows that a task on the guest may have ended.
    pub fn ends_as(&self, later: &ResourceRow) -> bool {
        let unlocked = self.lock.is_some() && later.lock.is_none();
        let runs = |row: &ResourceRow| row.status == "running";
        unlocked || runs(self) != runs(later)
    }

    /// The same but for the lock.
    #[must_use]
    pub fn unlocked(&self) -> ResourceRow {
        ResourceRow {
            lock: None,
            ..self.clone()
        }
    }

    /// Whether a later look shows the same guest, which was not started anew meanwhile.
    pub fn is_still(&self, later: &ResourceRow) -> bool {
        let lasting = |row: &ResourceRow| ResourceRow {
            uptime: None,
            ..row.clone()
        };
        self.uptime <= later.uptime && lasting(self) == lasting(later)
    }
}

/// When a guest was read, as seen from the list before the newest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// After that list.
    After,
    /// Before it, but so shortly that the list may lag behind.
    ShortlyBefore,
    /// Long before it.
    Before,
}

/// A storage's row in `/cluster/resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageRow {
    /// Whether Proxmox calls it available.
    pub available: bool,
    /// Content types.
    pub content: Vec<String>,
    /// Plugin type (`zfspool`, `dir`, …).
    pub type_: String,
    /// Whether all nodes see the same content.
    pub shared: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_was_restarted_between_two_looks_is_noticed() {
        let row = |uptime, status: &str| ResourceRow {
            uptime,
            status: status.into(),
            ..ResourceRow::default()
        };
        let before = row(Some(500), "running");
        for (later, same) in [
            (row(Some(500), "running"), true),
            (row(Some(510), "running"), true),
            (row(Some(3), "running"), false),
            (row(None, "unknown"), false),
        ] {
            assert_eq!(before.is_still(&later), same, "{later:?}");
        }
    }

    #[test]
    fn the_list_shows_that_a_task_may_have_ended() {
        let with = |lock: Option<&str>, status: &str| ResourceRow {
            lock: lock.map(str::to_string),
            status: status.into(),
            ..ResourceRow::default()
        };
        for (old, new, ends) in [
            (with(Some("create"), "unknown"), with(None, "stopped"), true),
            (with(None, "stopped"), with(None, "running"), true),
            (with(Some("create"), "unknown"), with(Some("create"), "stopped"), false),
            (with(None, "stopped"), with(Some("disk"), "stopped"), false),
        ] {
            assert_eq!(old.ends_as(&new), ends, "{old:?} {new:?}");
        }
    }
}
