//! Snapshots of containers (facts D.9, K.1.5).

use super::config::Section;
use super::error::{ApiError, Result};
use super::lxc_options::{add_unused, all_mounts, index_of, uses_volume, volume_mounts};
use super::state::{Caller, State};
use super::task::Work;

impl State {
    /// `POST …/snapshot`: nearly everything shows only in the task (facts K.2.7).
    pub fn snapshot_ct(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        name: &str,
        description: &str,
    ) -> Result<String> {
        if matches!(name, "current" | "vzdump") {
            return Err(ApiError::die(format!(
                "unable to use snapshot name '{name}' (reserved name)"
            )));
        }
        let work = Work::CtSnapshot {
            vmid,
            name: name.to_owned(),
            description: description.to_owned(),
        };
        Ok(self.start_task(node, "vzsnapshot", &vmid.to_string(), &caller.id, work))
    }

    /// `DELETE …/snapshot/{name}`.
    pub fn delete_ct_snapshot(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        name: &str,
        force: bool,
    ) -> Result<String> {
        let work = Work::CtDeleteSnapshot {
            vmid,
            name: name.to_owned(),
            force,
        };
        Ok(self.start_task(node, "vzdelsnapshot", &vmid.to_string(), &caller.id, work))
    }

    /// `POST …/snapshot/{name}/rollback`.
    pub fn rollback_ct(&mut self, caller: &Caller, node: &str, vmid: u32, name: &str, start: bool) -> Result<String> {
        let work = Work::CtRollback {
            vmid,
            name: name.to_owned(),
            start,
        };
        Ok(self.start_task(node, "vzrollback", &vmid.to_string(), &caller.id, work))
    }

    /// A snapshot's section, or Proxmox's complaint.
    pub fn ct_snapshot(&self, node: &str, vmid: u32, name: &str) -> Result<&Section> {
        let snapshots = &self.ct(node, vmid)?.config().snapshots;
        snapshots
            .get(name)
            .ok_or_else(|| ApiError::die(format!("snapshot '{name}' does not exist")))
    }

    /// `PUT …/snapshot/{name}/config`.
    pub fn describe_ct_snapshot(&mut self, node: &str, vmid: u32, name: &str, text: Option<&str>) -> Result<()> {
        self.check_flock(vmid, None)?;
        self.ct_snapshot(node, vmid, name)?;
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

    fn task_node(&self, seq: u64) -> String {
        self.tasks.get(&seq).map(|task| task.node.clone()).unwrap_or_default()
    }

    fn set_lock(&mut self, vmid: u32, lock: &str) -> Result<()> {
        self.guest_mut(vmid)?.edit(|config| config.current.set("lock", lock));
        Ok(())
    }

    pub(super) fn begin_ct_snapshot(&mut self, seq: u64, vmid: u32, name: &str, description: &str) -> Result<u64> {
        let node = self.task_node(seq);
        let guest = self.ct(&node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        if guest.is_template() {
            return Err(ApiError::die("you can't take a snapshot if it's a template"));
        }
        self.check_lock(vmid)?;
        let config = guest.config();
        if config.snapshots.contains_key(name) {
            return Err(ApiError::die(format!("snapshot name '{name}' already used")));
        }
        let able = |mount: &super::lxc_options::Mount| {
            mount.kind() == "volume" && self.volume_has_feature(&node, mount.volume(), "snapshot", false)
        };
        if !all_mounts(&config.current).iter().all(|(_, mount)| able(mount)) {
            return Err(ApiError::die("snapshot feature is not available"));
        }
        let mut section = config.current.clone();
        section
            .options
            .retain(|key, _| key != "lock" && index_of(key, "unused").is_none());
        section.remove("description");
        section.set("description", description);
        section.set("snaptime", self.seconds().to_string());
        section.set("snapstate", "prepare");
        self.guest_mut(vmid)?
            .edit(|config| config.snapshots.insert(name.to_owned(), section));
        self.set_lock(vmid, "snapshot")?;
        Ok(self.latency.snapshot)
    }

    pub(super) fn undo_ct_snapshot(&mut self, vmid: u32, name: &str) {
        if let Ok(guest) = self.guest_mut(vmid) {
            guest.edit(|config| {
                config.snapshots.remove(name);
                config.current.remove("lock");
            });
        }
    }

    pub(super) fn finish_ct_snapshot(&mut self, vmid: u32, name: &str) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        let mounts = volume_mounts(&guest.config().current);
        let mut done: Vec<String> = Vec::new();
        for (_, mount) in &mounts {
            if let Err(error) = self.snapshot_volume(&node, mount.volume(), name) {
                for volid in done {
                    let _ = self.delete_volume_snapshot(&node, &volid, name);
                }
                self.undo_ct_snapshot(vmid, name);
                return Err(error);
            }
            done.push(mount.volume().to_owned());
        }
        let now = self.now;
        let guest = self.guest_mut(vmid)?;
        // The snapshot is of disks: what ran, runs in it no more.
        let mut inside = guest.inside.clone();
        inside.power_off(now);
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

    pub(super) fn begin_ct_delete_snapshot(&mut self, seq: u64, vmid: u32, name: &str) -> Result<u64> {
        let node = self.task_node(seq);
        self.ct(&node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        self.ct_snapshot(&node, vmid, name)?;
        self.check_lock(vmid)?;
        self.set_lock(vmid, "snapshot-delete")?;
        Ok(self.latency.snapshot)
    }

    pub(super) fn finish_ct_delete_snapshot(&mut self, vmid: u32, name: &str) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        let section = guest.config().snapshots.get(name).cloned().unwrap_or_default();
        for (_, mount) in volume_mounts(&section) {
            let _ = self.delete_volume_snapshot(&node, mount.volume(), name);
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

    pub(super) fn begin_ct_rollback(&mut self, seq: u64, vmid: u32, name: &str) -> Result<u64> {
        let node = self.task_node(seq);
        self.ct(&node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        let section = self.ct_snapshot(&node, vmid, name)?.clone();
        for (_, mount) in volume_mounts(&section) {
            self.check_volume_rollback(&node, mount.volume(), name)?;
        }
        self.check_lock(vmid)?;
        self.set_lock(vmid, "rollback")?;
        // A running container is killed (facts D.9).
        self.power_off(vmid)?;
        Ok(self.latency.snapshot)
    }

    pub(super) fn finish_ct_rollback(&mut self, seq: u64, vmid: u32, name: &str, start: bool) -> Result<()> {
        let node = self.task_node(seq);
        let section = self.ct_snapshot(&node, vmid, name)?.clone();
        for (_, mount) in volume_mounts(&section) {
            self.rollback_volume(&node, mount.volume(), name)?;
        }
        let guest = self.guest_mut(vmid)?;
        if let Some(inside) = guest.inside_snapshots.get(name).cloned() {
            guest.inside = inside;
        }
        guest.edit(|config| {
            let old = std::mem::take(&mut config.current);
            let mut next = section;
            next.remove("snaptime");
            // The text of a snapshot is a comment on it, so the guest keeps its own description.
            next.remove("description");
            for (key, value) in &old.options {
                if key == "description" || index_of(key, "unused").is_some() {
                    next.set(key, value.clone());
                }
            }
            next.set("parent", name);
            for (_, mount) in volume_mounts(&old) {
                if !uses_volume(&next, mount.volume()) {
                    add_unused(&mut next, mount.volume());
                }
            }
            config.current = next;
            config.pending.clear();
            config.pending_delete.clear();
        });
        if start {
            let user = self.tasks.get(&seq).map(|task| task.user.clone()).unwrap_or_default();
            let work = Work::CtStart { vmid, skiplock: false };
            self.start_task(&node, "vzstart", &vmid.to_string(), &user, work);
        }
        Ok(())
    }
}
