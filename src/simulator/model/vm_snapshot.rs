//! Snapshots of virtual machines, with and without their memory (facts D.9, F.7).

use serde::{Deserialize, Serialize};

use super::config::Section;
use super::error::{ApiError, Result};
use super::guest::Running;
use super::state::{Caller, State};
use super::vm_config::own_volume;
use super::vm_options::{add_unused, disks, drives, index_of, uses_volume};
use super::vm_work::VmWork;

/// What a snapshot task takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSnapshot {
    /// Machine.
    pub vmid: u32,
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
    /// With the memory, if the machine runs.
    pub vmstate: bool,
}

impl State {
    /// `POST …/snapshot`. Other than for containers, a missing machine is told at once.
    pub fn snapshot_vm(&mut self, caller: &Caller, node: &str, snapshot: VmSnapshot) -> Result<String> {
        if matches!(snapshot.name.as_str(), "current" | "pending") {
            return Err(ApiError::die(format!(
                "unable to use snapshot name '{}' (reserved name)",
                snapshot.name
            )));
        }
        let vmid = snapshot.vmid;
        self.vm(node, vmid)?;
        Ok(self.vm_task(caller, node, "qmsnapshot", vmid, VmWork::Snapshot(snapshot)))
    }

    /// `DELETE …/snapshot/{name}`.
    pub fn delete_vm_snapshot(&mut self, caller: &Caller, node: &str, vmid: u32, name: &str, force: bool) -> String {
        let work = VmWork::DeleteSnapshot {
            vmid,
            name: name.to_owned(),
            force,
        };
        self.vm_task(caller, node, "qmdelsnapshot", vmid, work)
    }

    /// `POST …/snapshot/{name}/rollback`.
    pub fn rollback_vm(&mut self, caller: &Caller, node: &str, vmid: u32, name: &str, start: bool) -> String {
        let work = VmWork::Rollback {
            vmid,
            name: name.to_owned(),
            start,
        };
        self.vm_task(caller, node, "qmrollback", vmid, work)
    }

    /// A snapshot's section, or Proxmox's complaint.
    pub fn vm_snapshot(&self, node: &str, vmid: u32, name: &str) -> Result<&Section> {
        let snapshots = &self.vm(node, vmid)?.config().snapshots;
        snapshots
            .get(name)
            .ok_or_else(|| ApiError::die(format!("snapshot '{name}' does not exist")))
    }

    /// `PUT …/snapshot/{name}/config`.
    pub fn describe_vm_snapshot(&mut self, node: &str, vmid: u32, name: &str, text: Option<&str>) -> Result<()> {
        self.check_flock(vmid, None)?;
        self.vm_snapshot(node, vmid, name)?;
        self.check_lock(vmid)?;
        if let Some(text) = text {
            self.guest_mut(vmid)?.edit(|config| {
                if let Some(section) = config.snapshots.get_mut(name) {
                    section.set("description", text);
                }
            });
        }
        Ok(())
    }

    pub(super) fn lock_vm(&mut self, vmid: u32, lock: &str) -> Result<()> {
        self.guest_mut(vmid)?.edit(|config| config.current.set("lock", lock));
        Ok(())
    }

    pub(super) fn begin_vm_snapshot(&mut self, seq: u64, snapshot: &VmSnapshot) -> Result<u64> {
        let (vmid, name) = (snapshot.vmid, snapshot.name.as_str());
        let node = self.vm_task_node(seq);
        let guest = self.vm(&node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        if guest.is_template() {
            return Err(ApiError::die("you can't take a snapshot if it's a template"));
        }
        self.check_lock(vmid)?;
        let config = guest.config();
        if config.snapshots.contains_key(name) {
            return Err(ApiError::die(format!("snapshot name '{name}' already used")));
        }
        let disks = disks(&config.current, false);
        let able = disks
            .iter()
            .all(|(_, drive)| self.volume_has_feature(&node, drive.file(), "snapshot", false));
        if !able {
            return Err(ApiError::die("snapshot feature is not available"));
        }
        let mut section = config.current.clone();
        section
            .options
            .retain(|key, _| key != "lock" && index_of(key, "unused").is_none());
        section.remove("description");
        section.set("description", snapshot.description.clone());
        section.set("snaptime", self.seconds().to_string());
        section.set("snapstate", "prepare");
        let mut ms = self.latency.snapshot;
        // Of a stopped machine there is no memory to save, and nobody minds.
        if snapshot.vmstate && guest.running.is_some() {
            ms += super::vm_options::memory(&section);
            let volid = self.save_memory(&node, vmid, name, None)?;
            section.set("vmstate", volid);
            section.set("runningmachine", format!("pc-i440fx-{}+pve0", self.qemu.version));
        }
        for (key, drive) in &disks {
            self.log(seq, format!("snapshotting 'drive-{key}' ({})", drive.file()));
        }
        self.guest_mut(vmid)?
            .edit(|config| config.snapshots.insert(name.to_owned(), section));
        self.lock_vm(vmid, "snapshot")?;
        Ok(ms)
    }

    pub(super) fn undo_vm_snapshot(&mut self, snapshot: &VmSnapshot) {
        let Ok(guest) = self.guest_mut(snapshot.vmid) else {
            return;
        };
        let node = guest.node.clone();
        let dropped = guest.edit(|config| {
            config.current.remove("lock");
            config.snapshots.remove(&snapshot.name)
        });
        if let Some(volid) = dropped.and_then(|mut section| section.remove("vmstate")) {
            let _ = self.free_volume(&node, &volid);
        }
    }

    pub(super) fn finish_vm_snapshot(&mut self, seq: u64, snapshot: &VmSnapshot) -> Result<()> {
        let (vmid, name) = (snapshot.vmid, snapshot.name.as_str());
        let node = self.vm_task_node(seq);
        let mut done: Vec<String> = Vec::new();
        for (_, drive) in disks(&self.vm(&node, vmid)?.config().current.clone(), false) {
            if let Err(error) = self.snapshot_volume(&node, drive.file(), name) {
                for volid in done {
                    let _ = self.delete_volume_snapshot(&node, &volid, name);
                }
                self.undo_vm_snapshot(snapshot);
                return Err(error);
            }
            done.push(drive.file().to_owned());
        }
        let now = self.now;
        let guest = self.guest_mut(vmid)?;
        let with_memory = guest
            .config()
            .snapshots
            .get(name)
            .is_some_and(|section| section.get("vmstate").is_some());
        let mut inside = guest.inside.clone();
        if !with_memory {
            inside.power_off(now);
        }
        guest.inside_snapshots.insert(name.to_owned(), inside);
        guest.edit(|config| {
            if let Some(section) = config.snapshots.get_mut(name) {
                section.remove("snapstate");
            }
            config.current.set("parent", name);
            config.current.remove("lock");
        });
        Ok(())
    }

    pub(super) fn begin_vm_delete_snapshot(&mut self, seq: u64, vmid: u32, name: &str) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.vm(&node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        self.vm_snapshot(&node, vmid, name)?;
        self.check_lock(vmid)?;
        self.lock_vm(vmid, "snapshot-delete")?;
        Ok(self.latency.snapshot)
    }

    pub(super) fn finish_vm_delete_snapshot(&mut self, vmid: u32, name: &str) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        let section = guest.config().snapshots.get(name).cloned().unwrap_or_default();
        for (_, drive) in disks(&section, false) {
            let _ = self.delete_volume_snapshot(&node, drive.file(), name);
        }
        if let Some(volid) = section.get("vmstate") {
            let _ = self.free_volume(&node, volid);
        }
        let parent = section.get("parent").map(str::to_owned);
        let guest = self.guest_mut(vmid)?;
        guest.inside_snapshots.remove(name);
        guest.edit(|config| {
            config.snapshots.remove(name);
            config.current.remove("lock");
            let children = config
                .snapshots
                .values_mut()
                .chain(std::iter::once(&mut config.current));
            for child in children.filter(|child| child.get("parent") == Some(name)) {
                match &parent {
                    Some(parent) => child.set("parent", parent.clone()),
                    None => drop(child.remove("parent")),
                }
            }
        });
        Ok(())
    }

    pub(super) fn begin_vm_rollback(&mut self, seq: u64, vmid: u32, name: &str) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.vm(&node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        let section = self.vm_snapshot(&node, vmid, name)?.clone();
        for (_, drive) in disks(&section, false) {
            self.check_volume_rollback(&node, drive.file(), name)?;
        }
        self.check_lock(vmid)?;
        self.lock_vm(vmid, "rollback")?;
        self.power_off(vmid)?;
        Ok(self.latency.snapshot)
    }

    pub(super) fn finish_vm_rollback(&mut self, seq: u64, vmid: u32, name: &str, start: bool) -> Result<()> {
        let node = self.vm_task_node(seq);
        let section = self.vm_snapshot(&node, vmid, name)?.clone();
        for (_, drive) in disks(&section, false) {
            self.rollback_volume(&node, drive.file(), name)?;
        }
        let with_memory = section.get("vmstate").is_some();
        let genid = self.new_uuid();
        let guest = self.guest_mut(vmid)?;
        if let Some(inside) = guest.inside_snapshots.get(name).cloned() {
            guest.inside = inside;
        }
        guest.edit(|config| {
            let old = std::mem::take(&mut config.current);
            config.current = rolled_back(&old, section, name, genid);
            config.pending.clear();
            config.pending_delete.clear();
        });
        self.refresh_cloud_init(vmid);
        if with_memory {
            let (pid, since) = ((self.next_number() % 4_000_000) as u32, self.now);
            let guest = self.guest_mut(vmid)?;
            guest.running = Some(Running { pid, since });
            // It goes on where it was, with its agent.
            guest.machine.agent_from = Some(since);
        } else if start {
            let caller = Caller::new(self.vm_task_user(seq));
            let work = VmWork::Start { vmid, skiplock: false };
            self.vm_task(&caller, &node, "qmstart", vmid, work);
        }
        Ok(())
    }
}

/// The configuration after a rollback: the snapshot's, with the description and the unused disks of before.
fn rolled_back(old: &Section, snapshot: Section, name: &str, genid: String) -> Section {
    let mut next = snapshot;
    for key in ["snaptime", "description", "vmstate", "runningmachine", "runningcpu"] {
        next.remove(key);
    }
    for (key, value) in &old.options {
        if key == "description" || index_of(key, "unused").is_some() {
            next.set(key, value.clone());
        }
    }
    next.set("parent", name);
    if next.get("vmgenid").is_some() {
        next.set("vmgenid", genid);
    }
    for (_, drive) in drives(old) {
        if let Some(volid) = own_volume(&drive).filter(|volid| !uses_volume(&next, volid)) {
            add_unused(&mut next, &volid);
        }
    }
    next
}
