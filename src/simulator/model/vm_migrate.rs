//! Moving a virtual machine to another node, and destroying one (facts F.7).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::{ApiError, Result};
use super::state::{Caller, State};
use super::vm_options::{Drive, drives, index_of, is_drive};
use super::vm_work::VmWork;

/// What a migration does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmMigrate {
    /// Machine.
    pub vmid: u32,
    /// Node that it leaves.
    pub node: String,
    /// Node that it goes to.
    pub target: String,
    /// While it runs.
    pub online: bool,
    /// Take disks of local storages along while it runs.
    pub with_local_disks: bool,
    /// Storage that they go to: one for all, or `FROM:TO` pairs.
    pub storage: Option<String>,
}

impl VmMigrate {
    fn target_storage(&self, own: &str) -> String {
        let map: BTreeMap<&str, &str> = self
            .storage
            .iter()
            .flat_map(|text| text.split(','))
            .filter_map(|pair| pair.split_once(':'))
            .collect();
        match (&self.storage, map.get(own)) {
            (_, Some(target)) => (*target).to_owned(),
            (Some(one), None) if !one.contains(':') && one != "1" => one.clone(),
            _ => own.to_owned(),
        }
    }
}

impl State {
    fn is_shared(&self, volid: &str) -> bool {
        let storage = volid.split_once(':').map(|(id, _)| id).unwrap_or_default();
        self.storages.get(storage).is_some_and(|found| found.shared)
    }

    /// Devices of the node that a machine uses, by option.
    fn local_devices(&self, vmid: u32) -> Vec<String> {
        let options = self.guests.get(&vmid).map(|guest| &guest.config().current.options);
        let local = |(key, value): (&String, &String)| {
            let host = index_of(key, "usb").is_some() && !value.contains("spice");
            let device = host || index_of(key, "hostpci").is_some() || index_of(key, "virtiofs").is_some();
            let real = index_of(key, "serial").is_some() && value != "socket";
            ((device && !value.contains("mapping=")) || real).then(|| key.clone())
        };
        options.into_iter().flatten().filter_map(local).collect()
    }

    /// `GET …/migrate`: what stands in the way.
    pub fn migration_conditions(&self, node: &str, vmid: u32) -> Result<Value> {
        let guest = self.vm(node, vmid)?;
        let running = guest.running.is_some();
        let mut local = Vec::new();
        let mut storages = BTreeSet::new();
        for (key, value) in &guest.config().current.options {
            let unused = index_of(key, "unused").is_some();
            let drive = Drive::parse(value);
            let Some(volid) = drive.volid().filter(|_| is_drive(key) || unused) else {
                continue;
            };
            storages.extend(volid.split_once(':').map(|(id, _)| id.to_owned()));
            if self.is_shared(volid) {
                continue;
            }
            local.push(json!({
                "drivename": key, "volid": volid, "shared": 0, "replicate": 1,
                "size": self.volume(node, volid).map_or(0, |volume| volume.size),
                "cdrom": u8::from(drive.is_cdrom() && !drive.is_cloud_init()),
                "is_attached": u8::from(!unused), "is_unused": u8::from(unused), "is_vmstate": 0,
                "is_cloudinit": u8::from(drive.is_cloud_init()), "is_tpmstate": u8::from(key == "tpmstate0"),
            }));
        }
        let mut allowed = Vec::new();
        let mut refused = serde_json::Map::new();
        for name in self.nodes.keys().filter(|name| *name != node) {
            let missing: Vec<&String> = storages
                .iter()
                .filter(|id| self.usable_storage(name, id).is_err())
                .collect();
            if missing.is_empty() {
                allowed.push(name.clone());
            } else {
                refused.insert(name.clone(), json!({ "unavailable_storages": missing }));
            }
        }
        let mut answer = json!({
            "running": u8::from(running), "local_disks": local, "local_resources": self.local_devices(vmid),
            "mapped-resources": [], "mapped-resource-info": {}, "has-dbus-vmstate": 1,
        });
        if !running {
            answer["allowed_nodes"] = json!(allowed);
            answer["not_allowed_nodes"] = Value::Object(refused);
        }
        Ok(answer)
    }

    /// `POST …/migrate`.
    pub fn migrate_vm(&mut self, caller: &Caller, migrate: VmMigrate) -> Result<String> {
        let (node, vmid) = (migrate.node.clone(), migrate.vmid);
        let guest = self.vm(&node, vmid)?;
        self.check_lock(vmid)?;
        if guest.running.is_some() && !migrate.online {
            return Err(ApiError::die("can't migrate running VM without --online"));
        }
        Ok(self.vm_task(caller, &node, "qmmigrate", vmid, VmWork::Migrate(migrate)))
    }

    pub(super) fn begin_vm_migrate(&mut self, seq: u64, migrate: &VmMigrate) -> Result<u64> {
        let (node, vmid) = (migrate.node.as_str(), migrate.vmid);
        let aborted = |text: String| ApiError::die(format!("migration aborted - {text}"));
        self.vm(node, vmid)?;
        self.check_flock(vmid, Some(seq))?;
        self.check_lock(vmid)?;
        let devices = self.local_devices(vmid);
        if !devices.is_empty() {
            let text = format!("can't migrate VM which uses local devices: {}", devices.join(", "));
            return Err(ApiError::die(text));
        }
        if !self.nodes.get(&migrate.target).is_some_and(|found| found.online) {
            return Err(aborted(format!(
                "Can't connect to destination address of '{}'",
                migrate.target
            )));
        }
        let running = self.vm(node, vmid)?.running.is_some();
        let mut ms = self.latency.migrate;
        for (key, drive) in drives(&self.vm(node, vmid)?.config().current.clone()) {
            let Some(volid) = drive.volid() else { continue };
            let (own, _) = self.split(volid)?;
            let target = migrate.target_storage(own);
            self.active_storage(&migrate.target, &target)
                .map_err(|error| aborted(error.first_line().to_owned()))?;
            if self.is_shared(volid) || drive.is_cloud_init() {
                continue;
            }
            if drive.is_cdrom() {
                return Err(aborted(format!("can't migrate local cdrom drive '{volid}' ({key})")));
            }
            if running && !migrate.with_local_disks {
                let text = "can't live migrate attached local disks without with-local-disks option";
                return Err(aborted(text.to_owned()));
            }
            self.check_parent_there(&migrate.target, volid)?;
            ms += self.latency.move_volume;
            self.log(seq, format!("found local disk '{volid}' (attached)"));
        }
        self.lock_vm(vmid, "migrate")?;
        Ok(ms)
    }

    /// A linked clone can only go where its base is.
    fn check_parent_there(&self, target: &str, volid: &str) -> Result<()> {
        let (storage, name) = self.split(volid)?;
        let found = self.storage(storage)?;
        let parent = self
            .nodes
            .keys()
            .find_map(|node| found.volume(node, name))
            .and_then(|volume| volume.parent.clone());
        match parent.filter(|parent| found.volume(target, parent).is_none()) {
            Some(parent) => Err(ApiError::die(format!(
                "can't migrate '{volid}' as it's a clone of '{storage}:{parent}'"
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn finish_vm_migrate(&mut self, seq: u64, migrate: &VmMigrate) -> Result<()> {
        let (node, vmid) = (migrate.node.as_str(), migrate.vmid);
        let mut moved = Vec::new();
        let config = self.vm(node, vmid)?.config().clone();
        for (key, value) in &config.current.options {
            let mut drive = Drive::parse(value);
            let holds = is_drive(key) || index_of(key, "unused").is_some();
            let Some(volid) = drive.volid().filter(|_| holds).map(str::to_owned) else {
                continue;
            };
            if drive.is_cdrom() && !drive.is_cloud_init() {
                continue;
            }
            let (own, _) = self.split(&volid)?;
            let target = migrate.target_storage(own);
            let carried = self.carry_volume(node, &migrate.target, &volid, &target)?;
            self.log(seq, format!("volume '{volid}' is '{carried}' on the target"));
            drive.set("file", carried);
            moved.push((key.clone(), drive.print()));
        }
        let guest = self.guest_mut(vmid)?;
        guest.node.clone_from(&migrate.target);
        guest.edit(|config| {
            config.current.remove("lock");
            for (key, value) in moved {
                config.current.set(&key, value);
            }
        });
        Ok(())
    }

    /// `DELETE /nodes/{node}/qemu/{vmid}`: protection and a running machine are told at once, a lock in the task.
    pub fn destroy_vm(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        purge: bool,
        unreferenced: bool,
        skiplock: bool,
    ) -> Result<String> {
        self.check_vm_skiplock(caller, skiplock)?;
        let guest = self.vm(node, vmid)?;
        if guest.config().current.flag("protection") {
            return Err(ApiError::die(format!(
                "can't remove VM {vmid} - protection mode enabled"
            )));
        }
        self.check_writable()?;
        if guest.running.is_some() {
            return Err(ApiError::die(format!("VM {vmid} is running - destroy failed")));
        }
        let work = VmWork::Destroy {
            vmid,
            purge,
            unreferenced,
            skiplock,
        };
        Ok(self.vm_task(caller, node, "qmdestroy", vmid, work))
    }

    pub(super) fn begin_vm_destroy(&mut self, seq: u64, vmid: u32, skiplock: bool) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.vm(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        if !skiplock {
            self.check_lock(vmid)?;
        }
        let guest = self.vm(&node, vmid)?;
        if guest.running.is_some() {
            return Err(ApiError::die(format!("VM {vmid} is running - destroy failed")));
        }
        if guest.is_template() {
            for (_, drive) in drives(&guest.config().current) {
                let volid = drive.volid().unwrap_or_default();
                if self.has_linked_clones(&node, volid) {
                    let text = format!("base volume '{volid}' is still in use by linked cloned");
                    return Err(ApiError::die(text));
                }
            }
        }
        Ok(self.latency.destroy)
    }

    fn has_linked_clones(&self, node: &str, volid: &str) -> bool {
        let Ok((storage, name)) = self.split(volid) else {
            return false;
        };
        self.storages
            .get(storage)
            .is_some_and(|found| !found.children(node, name).is_empty())
    }

    pub(super) fn finish_vm_destroy(&mut self, seq: u64, vmid: u32, purge: bool, unreferenced: bool) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        for volid in self.vm_volumes(vmid) {
            if self.volume_owner(&volid).ok() != Some(vmid) || self.volume(&node, &volid).is_none() {
                continue;
            }
            // A disk that cannot be removed is left behind with a warning (facts F.7).
            if let Err(error) = self.free_volume(&node, &volid) {
                let text = format!(
                    "Could not remove disk '{volid}', check manually: {}",
                    error.first_line()
                );
                self.warn(seq, &text);
            }
        }
        if unreferenced {
            self.free_all_of(&node, vmid);
        }
        if purge {
            self.log(seq, format!("purging VM {vmid} from related configurations.."));
        }
        self.forget_guest(vmid);
        Ok(())
    }

    /// Volumes that a machine's configuration mentions anywhere.
    fn vm_volumes(&self, vmid: u32) -> Vec<String> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Vec::new();
        };
        let config = guest.config();
        let sections = std::iter::once(&config.current).chain(config.snapshots.values());
        let entries = sections.flat_map(|section| &section.options).chain(&config.pending);
        let mut found = Vec::new();
        for (key, value) in entries {
            let holds = is_drive(key) || key == "vmstate" || index_of(key, "unused").is_some();
            let drive = Drive::parse(value);
            let Some(volid) = drive.volid().filter(|_| holds) else {
                continue;
            };
            if !found.iter().any(|known| known == volid) {
                found.push(volid.to_owned());
            }
        }
        found
    }
}
