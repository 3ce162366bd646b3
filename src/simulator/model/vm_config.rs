//! Changing the configuration of a virtual machine: `PUT` and `POST …/config`, `PUT …/unlink` (facts F.3). Changes go
//! to the pending section first; what comes into force from there is decided in [`super::vm_hotplug`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::error::{ApiError, Result};
use super::state::{Caller, State};
use super::task::{TaskState, Work};
use super::vm_access::{Verb, VmCheck};
use super::vm_create::with_cdrom_alias;
use super::vm_options::{
    Drive, add_unused, boot_order, index_of, is_drive, is_option, is_windows, memory, print_boot_order, uses_volume,
};
use super::vm_work::VmWork;

/// A change of a machine's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmChange {
    /// Options to set.
    pub set: BTreeMap<String, String>,
    /// Options to delete.
    pub delete: Vec<String>,
    /// Pending changes to drop.
    pub revert: Vec<String>,
    /// Digest that the file must have.
    pub digest: Option<String>,
    /// Free the volumes of deleted drives instead of keeping them as `unusedN`.
    pub force: bool,
    /// Ignore locks.
    pub skiplock: bool,
    /// Identity that asked.
    pub user: String,
}

/// What is the same for the text form: a description has no line end at its end here, other than in containers.
pub(super) fn same(key: &str, left: &str, right: &str) -> bool {
    if key == "description" {
        left.trim_end() == right.trim_end()
    } else {
        left == right
    }
}

impl State {
    /// `PUT …/config`: done when it answers.
    pub fn update_vm(&mut self, caller: &Caller, node: &str, vmid: u32, change: VmChange) -> Result<()> {
        let change = self.check_vm_change(caller, node, vmid, change)?;
        self.write_vm(node, vmid, &change).map(|_| ())
    }

    /// `POST …/config`: a task. With `background_delay` in seconds its outcome is the answer when it ends in time.
    pub fn update_vm_task(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        change: VmChange,
        background_delay: Option<u64>,
    ) -> Result<Option<String>> {
        let change = self.check_vm_change(caller, node, vmid, change)?;
        let work = Work::Vm(Box::new(VmWork::Update { vmid, change }));
        let upid = self.start_task(node, "qmconfig", &vmid.to_string(), &caller.id, work);
        let Some(delay) = background_delay.map(|seconds| self.scaled(seconds * 1000)) else {
            return Ok(Some(upid));
        };
        let now = self.now;
        let task = self.tasks.values_mut().rev().find(|task| task.upid == upid);
        match task.map(|task| (&mut task.state, &task.work)) {
            Some((_, Work::Nothing { error: Some(text), .. })) => {
                Err(ApiError::die(format!("failed to update VM {vmid}: {text}")))
            }
            Some((TaskState::Running { ends_at }, _)) if *ends_at <= now + delay => {
                *ends_at = now;
                Ok(None)
            }
            _ => Ok(Some(upid)),
        }
    }

    /// `qm set` on the node: the same as the API call of the true root.
    pub fn qm_set(&mut self, node: &str, vmid: u32, change: VmChange) -> Result<()> {
        self.update_vm(&Caller::root(), node, vmid, change)
    }

    /// Everything that is refused before anything is written.
    fn check_vm_change(&self, caller: &Caller, node: &str, vmid: u32, mut change: VmChange) -> Result<VmChange> {
        self.check_vm_skiplock(caller, change.skiplock)?;
        self.check_vm_ssh_keys(change.set.get("sshkeys"))?;
        if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
            return Err(ApiError::die("no options specified"));
        }
        change.user.clone_from(&caller.id);
        change.set = with_cdrom_alias(change.set);
        for key in &mut change.delete {
            if key == "cdrom" {
                "ide2".clone_into(key);
            }
        }
        check_lists(&change)?;
        self.check_drive_syntax(&change.set)?;
        if let Some(script) = change.set.get("hookscript") {
            self.check_vm_hookscript(node, script)?;
        }
        let who = VmCheck {
            caller,
            vmid,
            pool: None,
        };
        for key in change.delete.iter().chain(change.set.keys()) {
            self.check_vm_option(&who, key)?;
        }
        self.check_drive_access(&who, node, &change.set)?;
        let guest = self.vm(node, vmid)?;
        self.check_flock(vmid, None)?;
        let digest = guest.digest();
        if change
            .digest
            .as_deref()
            .is_some_and(|wanted| !wanted.is_empty() && wanted != digest)
        {
            return Err(ApiError::die("checksum mismatch (file change by other user?)"));
        }
        if !change.skiplock {
            self.check_lock(vmid)?;
        }
        self.check_writable()?;
        check_balloon(guest.config(), &change)?;
        Ok(change)
    }

    pub(super) fn begin_vm_update(&mut self, seq: u64, vmid: u32, change: &VmChange) -> Result<u64> {
        let node = self.vm_task_node(seq);
        let shown: Vec<String> = change
            .set
            .iter()
            .map(|(key, value)| (key, if key == "cipassword" { "<hidden>" } else { value }))
            .map(|(key, value)| format!("-{key} {value}"))
            .collect();
        self.log(seq, format!("update VM {vmid}: {}", shown.join(" ")));
        let ms = self.write_vm(&node, vmid, change)?;
        Ok(ms + self.latency.refusal)
    }

    /// Writes a change; how long it takes. An error leaves what was written before it.
    fn write_vm(&mut self, node: &str, vmid: u32, change: &VmChange) -> Result<u64> {
        let caller = Caller::new(change.user.clone());
        let mut modified = BTreeSet::new();
        self.revert_pending(vmid, &change.revert)?;
        for key in &change.delete {
            if self.write_delete(&caller, node, vmid, key, change.force)? {
                modified.insert(key.clone());
            }
        }
        let mut ms = 0;
        for (key, value) in &change.set {
            ms += self.write_set(&caller, node, vmid, key, value, change)?;
            modified.insert(key.clone());
        }
        self.clean_pending(vmid)?;
        self.apply_vm_pending(node, vmid)?;
        Ok(ms)
    }

    fn revert_pending(&mut self, vmid: u32, keys: &[String]) -> Result<()> {
        self.guest_mut(vmid)?.edit(|config| {
            for key in keys {
                config.pending_delete.remove(key);
                let dropped = config.pending.remove(key).filter(|_| is_drive(key));
                // A volume that was made for the change is kept.
                if let Some(volid) = dropped
                    .as_deref()
                    .map(Drive::parse)
                    .and_then(|drive| own_volume(&drive))
                {
                    add_unused(&mut config.current, &volid);
                }
            }
        });
        Ok(())
    }

    /// Notes a deletion; false when there is nothing to delete.
    fn write_delete(&mut self, caller: &Caller, node: &str, vmid: u32, key: &str, force: bool) -> Result<bool> {
        let who = VmCheck {
            caller,
            vmid,
            pool: None,
        };
        let config = self.vm(node, vmid)?.config();
        let value = config.current.get(key).or(config.pending.get(key).map(String::as_str));
        let Some(value) = value.map(str::to_owned) else {
            return Ok(false);
        };
        let protected = config.current.flag("protection");
        let protection = |what: String| -> Result<()> {
            if protected {
                return Err(ApiError::die(format!("{what} - protection mode enabled")));
            }
            Ok(())
        };
        let drive = Drive::parse(&value);
        let mut order = config
            .pending
            .get("boot")
            .map(|text| boot_order(&section_with_boot(text)))
            .unwrap_or_else(|| boot_order(&config.current));
        if order.iter().any(|name| name == key) {
            order.retain(|name| name != key);
            let text = print_boot_order(&order);
            self.guest_mut(vmid)?
                .edit(|config| config.pending.insert("boot".to_owned(), text));
        }
        if index_of(key, "unused").is_some() {
            protection(format!("can't remove unused disk '{}'", drive.file()))?;
            self.check_vm_value(&who, key, &value, Verb::Delete)?;
            self.deallocate(caller, node, vmid, key, drive.file())?;
            self.guest_mut(vmid)?.edit(|config| config.current.remove(key));
            return Ok(true);
        }
        if is_drive(key) {
            protection(format!("can't remove drive '{key}'"))?;
        }
        self.check_vm_value(&who, key, &value, Verb::Delete)?;
        self.guest_mut(vmid)?.edit(|config| {
            let pending = config.pending.remove(key).filter(|_| is_drive(key));
            if let Some(volid) = pending
                .as_deref()
                .map(Drive::parse)
                .and_then(|drive| own_volume(&drive))
            {
                add_unused(&mut config.current, &volid);
            }
            if config.current.get(key).is_some() {
                config.pending_delete.insert(key.to_owned(), force);
            }
        });
        Ok(true)
    }

    /// Frees a volume of the machine that nothing uses; one of another guest is left alone.
    pub(super) fn deallocate(&mut self, caller: &Caller, node: &str, vmid: u32, key: &str, volid: &str) -> Result<()> {
        if self.volume_owner(volid).ok() != Some(vmid) {
            return Ok(());
        }
        let (storage, _) = self.split(volid)?;
        self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        let config = self.vm(node, vmid)?.config();
        let mut current = config.current.clone();
        current.remove(key);
        let used = std::iter::once(&current)
            .chain(config.snapshots.values())
            .any(|section| uses_volume(section, volid));
        if used {
            return Err(ApiError::die(format!(
                "unable to delete '{volid}' - volume is still in use (snapshot?)"
            )));
        }
        self.free_volume(node, volid)
    }

    /// Notes a new value; how long the making of its volume takes.
    fn write_set(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        key: &str,
        value: &str,
        change: &VmChange,
    ) -> Result<u64> {
        let who = VmCheck {
            caller,
            vmid,
            pool: None,
        };
        let config = self.vm(node, vmid)?.config().clone();
        let old = config.current.get(key);
        let verb = if old.is_some() || index_of(key, "serial").is_some() {
            Verb::Modify
        } else {
            Verb::Set
        };
        for text in [old, Some(value)].into_iter().flatten() {
            self.check_vm_value(&who, key, text, verb)?;
        }
        let mut ms = 0;
        let windows = config.current.get("ostype").is_some_and(is_windows);
        if key == "cipassword" {
            // It is written down at once, even for a machine that runs; Windows gets it as it is.
            let stored = if windows {
                value.to_owned()
            } else {
                self.vm_normal_form(node, key, value)
            };
            self.guest_mut(vmid)?.edit(|config| {
                config.pending_delete.remove(key);
                config.current.set(key, stored);
            });
            return Ok(0);
        }
        let mut stored = if is_drive(key) {
            value.to_owned()
        } else {
            self.vm_normal_form(node, key, value)
        };
        if is_drive(key) {
            let made = self.make_drive(node, vmid, key, value, false)?;
            (stored, ms) = (made.value, made.ms);
            self.note_new_cdrom(vmid, key, &stored)?;
            if let (Some(os), Ok(guest)) = (made.os, self.guest_mut(vmid)) {
                let there = if os.agent { "1" } else { "0" };
                guest.inside.facts.insert("agent".to_owned(), there.to_owned());
                guest.inside.os = os;
            }
        }
        if key == "boot" {
            check_boot(&config, change, &stored)?;
            let order = boot_order(&section_with_boot(&stored));
            if !order.is_empty() {
                stored = print_boot_order(&order);
            }
        }
        self.guest_mut(vmid)?.edit(|config| {
            config.pending_delete.remove(key);
            let replaced = config.pending.insert(key.to_owned(), stored).filter(|_| is_drive(key));
            let volid = replaced
                .as_deref()
                .map(Drive::parse)
                .and_then(|drive| own_volume(&drive));
            if let Some(volid) = volid
                && config.pending.values().all(|value| Drive::parse(value).file() != volid)
            {
                add_unused(&mut config.current, &volid);
            }
        });
        Ok(ms)
    }

    /// New CD drives become bootable where there is an order.
    fn note_new_cdrom(&mut self, vmid: u32, key: &str, value: &str) -> Result<()> {
        let drive = Drive::parse(value);
        if !drive.is_cdrom() || drive.is_cloud_init() {
            return Ok(());
        }
        self.guest_mut(vmid)?.edit(|config| {
            let mut order = match config.pending.get("boot") {
                Some(text) => boot_order(&section_with_boot(text)),
                None => boot_order(&config.current),
            };
            if !order.is_empty() && !order.iter().any(|name| name == key) {
                order.push(key.to_owned());
                config.pending.insert("boot".to_owned(), print_boot_order(&order));
            }
        });
        Ok(())
    }

    /// Drops pending changes that change nothing.
    fn clean_pending(&mut self, vmid: u32) -> Result<()> {
        self.guest_mut(vmid)?.edit(|config| {
            let current = config.current.clone();
            config
                .pending
                .retain(|key, value| !current.get(key).is_some_and(|old| same(key, old, value)));
            config.pending_delete.retain(|key, _| current.get(key).is_some());
        });
        Ok(())
    }
}

/// The volume of a disk that would be lost if its option went.
pub(super) fn own_volume(drive: &Drive) -> Option<String> {
    let disk = !drive.is_cdrom() && !drive.is_cloud_init();
    drive.volid().filter(|_| disk).map(str::to_owned)
}

fn section_with_boot(boot: &str) -> super::config::Section {
    let mut section = super::config::Section::default();
    section.set("boot", boot);
    section
}

fn check_lists(change: &VmChange) -> Result<()> {
    for key in &change.revert {
        if !is_option(key) {
            return Err(ApiError::param("revert", format!("unknown option '{key}'")));
        }
        if change.set.contains_key(key) {
            let text = format!("you can't use '-{key}' and -revert {key}' at the same time");
            return Err(ApiError::param("delete", text));
        }
    }
    for key in &change.delete {
        if change.set.contains_key(key) {
            let text = format!("you can't use '-{key}' and -delete {key}' at the same time");
            return Err(ApiError::param("delete", text));
        }
        if change.revert.contains(key) {
            let text = format!("you can't use '-delete {key}' and -revert {key}' at the same time");
            return Err(ApiError::param("revert", text));
        }
        if !is_option(key) {
            return Err(ApiError::param("delete", format!("unknown option '{key}'")));
        }
    }
    Ok(())
}

fn check_balloon(config: &super::config::GuestConfig, change: &VmChange) -> Result<()> {
    let mut section = config.current.clone();
    for key in ["memory", "balloon"] {
        if let Some(value) = change.set.get(key).or(config.pending.get(key)) {
            section.set(key, value.clone());
        }
    }
    let touched = change.set.contains_key("memory") || change.set.contains_key("balloon");
    let balloon = section.get("balloon").and_then(|text| text.parse::<u64>().ok());
    if touched && balloon.is_some_and(|balloon| balloon > memory(&section)) {
        return Err(ApiError::die(
            "balloon value too large (must be smaller than assigned memory)",
        ));
    }
    Ok(())
}

fn check_boot(config: &super::config::GuestConfig, change: &VmChange, boot: &str) -> Result<()> {
    for name in boot_order(&section_with_boot(boot)) {
        let exists =
            config.current.get(&name).is_some() || config.pending.contains_key(&name) || change.set.contains_key(&name);
        if !exists || change.delete.contains(&name) {
            return Err(ApiError::die(format!(
                "invalid bootorder: device '{name}' does not exist'"
            )));
        }
    }
    Ok(())
}
