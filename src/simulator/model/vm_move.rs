//! Growing disks, moving them to another storage, giving them to another machine (facts F.7, K.2.20).

use serde::{Deserialize, Serialize};

use super::error::{ApiError, Result};
use super::property::{parse_size, print_size};
use super::state::{Caller, State};
use super::task::Work;
use super::vm_options::{Drive, boot_order, index_of, is_drive, print_boot_order, uses_volume};
use super::vm_work::VmWork;

const CHANGED: &str = "checksum mismatch (file change by other user?)";

/// What a resize task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmResize {
    /// Machine.
    pub vmid: u32,
    /// Key of the drive.
    pub disk: String,
    /// New size, or with `+` what is added.
    pub size: String,
    /// Digest that the file must have.
    pub digest: Option<String>,
    /// Ignore locks.
    pub skiplock: bool,
    /// Who asked.
    pub user: String,
}

/// What a task does that moves a disk to another storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmMove {
    /// Machine.
    pub vmid: u32,
    /// Key of the drive.
    pub disk: String,
    /// Target storage.
    pub storage: String,
    /// Target format.
    pub format: Option<String>,
    /// Free the source afterwards.
    pub delete: bool,
    /// The copy, filled in by the work.
    pub copy: Option<String>,
}

/// What a task does that gives a disk to another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmReassign {
    /// Machine that has it.
    pub vmid: u32,
    /// Its key there.
    pub disk: String,
    /// Machine that gets it.
    pub target_vmid: u32,
    /// Its key there.
    pub target_disk: String,
}

/// Parameters of `POST …/move_disk`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmMoveRequest {
    /// Key of the drive.
    pub disk: String,
    /// Target storage.
    pub storage: Option<String>,
    /// Target format.
    pub format: Option<String>,
    /// Other machine.
    pub target_vmid: Option<u32>,
    /// Key there; the same by default.
    pub target_disk: Option<String>,
    /// Free the source afterwards.
    pub delete: bool,
    /// Digest of the source's file.
    pub digest: Option<String>,
    /// Digest of the target's file.
    pub target_digest: Option<String>,
}

fn differs(actual: &str, wanted: Option<&str>) -> bool {
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted != actual)
}

impl State {
    /// `PUT …/resize`: everything shows in the task (facts K.2.20).
    pub fn resize_vm(&mut self, caller: &Caller, node: &str, resize: VmResize) -> Result<String> {
        self.check_vm_skiplock(caller, resize.skiplock)?;
        let id = resize.vmid.to_string();
        let work = Work::Vm(Box::new(VmWork::Resize(resize)));
        Ok(self.start_task(node, "resize", &id, &caller.id, work))
    }

    /// A drive of a machine with its volume.
    fn vm_drive(&self, node: &str, vmid: u32, disk: &str) -> Result<Drive> {
        let value = self.vm(node, vmid)?.config().current.get(disk);
        let drive = value
            .map(Drive::parse)
            .ok_or_else(|| ApiError::die(format!("disk '{disk}' does not exist")))?;
        if drive.file().is_empty() {
            return Err(ApiError::die(format!("disk '{disk}' has no associated volume")));
        }
        Ok(drive)
    }

    pub(super) fn begin_vm_resize(&mut self, seq: u64, resize: &VmResize) -> Result<u64> {
        let (node, vmid) = (self.vm_task_node(seq), resize.vmid);
        self.vm(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        if differs(&self.vm(&node, vmid)?.digest(), resize.digest.as_deref()) {
            return Err(ApiError::die(CHANGED));
        }
        if !resize.skiplock {
            self.check_lock(vmid)?;
        }
        let mut drive = self.vm_drive(&node, vmid, &resize.disk)?;
        if drive.is_cdrom() {
            return Err(ApiError::die("you can't resize a cdrom"));
        }
        let volid = drive.file().to_owned();
        let (storage, _) = self.split(&volid)?;
        let caller = Caller::new(resize.user.clone());
        self.need(&caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        self.active_storage(&node, storage)?;
        let Some(volume) = self.volume(&node, &volid) else {
            let text = format!("Could not determine current size of volume '{volid}'");
            return Err(ApiError::die(text));
        };
        let snapshots = !self.vm(&node, vmid)?.config().snapshots.is_empty();
        if snapshots && volume.format == "qcow2" {
            let text = format!("can't resize volume: {} if snapshot exists", resize.disk);
            return Err(ApiError::die(text));
        }
        let old = volume.size;
        let new = match resize.size.strip_prefix('+') {
            Some(more) => old + parse_size(more).unwrap_or_default(),
            None => parse_size(&resize.size).unwrap_or_default(),
        };
        if new < old {
            return Err(ApiError::die("shrinking disks is not supported"));
        }
        if new == old {
            return Ok(self.latency.refusal);
        }
        self.set_volume_size(&node, &volid, new)?;
        self.log(seq, "Image resized.");
        drive.set("size", print_size(new));
        self.guest_mut(vmid)?
            .edit(|config| config.current.set(&resize.disk, drive.print()));
        Ok(self.latency.resize)
    }

    /// `POST …/move_disk`.
    pub fn move_vm_disk(&mut self, caller: &Caller, node: &str, vmid: u32, request: VmMoveRequest) -> Result<String> {
        if let Some(target) = request.target_vmid {
            return self.reassign_vm_disk(caller, node, vmid, target, request);
        }
        let Some(storage) = request.storage else {
            let text = "both 'storage' and 'target-vmid' missing, either needs to be set".to_owned();
            return Err(ApiError::params([
                ("storage".to_owned(), text.clone()),
                ("target-vmid".to_owned(), text),
            ]));
        };
        self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        let digest = self.vm(node, vmid)?.digest();
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        if differs(&digest, request.digest.as_deref()) {
            return Err(ApiError::die(CHANGED));
        }
        let drive = self.vm_drive(node, vmid, &request.disk)?;
        if drive.is_cdrom() && !drive.is_cloud_init() {
            return Err(ApiError::die("you can't move a cdrom"));
        }
        let volid = drive.file();
        let (own, name) = self.split(volid)?;
        let old_format = ["raw", "qcow2", "vmdk"]
            .into_iter()
            .find(|format| name.ends_with(&format!(".{format}")));
        let same_format = match (&request.format, old_format) {
            (Some(wanted), Some(old)) => wanted == old,
            _ => true,
        };
        if own == storage && same_format {
            return Err(ApiError::die("you can't move to the same storage with same format"));
        }
        let config = self.vm(node, vmid)?.config();
        let snapshotted = config.snapshots.values().any(|section| uses_volume(section, volid));
        if snapshotted && request.delete {
            return Err(ApiError::die(
                "you can't move a disk with snapshots and delete the source",
            ));
        }
        self.usable_storage(node, &storage)?;
        let work = VmMove {
            vmid,
            disk: request.disk,
            storage,
            format: request.format,
            delete: request.delete,
            copy: None,
        };
        Ok(self.vm_task(caller, node, "qmmove", vmid, VmWork::Move(work)))
    }

    pub(super) fn begin_vm_move(&mut self, seq: u64, moving: &VmMove) -> Result<u64> {
        let (node, vmid) = (self.vm_task_node(seq), moving.vmid);
        self.vm(&node, vmid)?;
        self.take_flock(vmid, seq)?;
        self.check_lock(vmid)?;
        let drive = self.vm_drive(&node, vmid, &moving.disk)?;
        let source = drive.file().to_owned();
        let (own, _) = self.split(&source)?;
        let (own, storage) = (own.to_owned(), moving.storage.as_str());
        self.log(
            seq,
            format!("copying volume '{source}' from current storage '{own}' to target storage '{storage}'"),
        );
        let failed = |error: ApiError| ApiError::die(format!("storage migration failed: {}", error.first_line()));
        let copy = if drive.is_cloud_init() {
            self.alloc_cloud_init(&node, storage, vmid).map_err(failed)?
        } else {
            self.log(seq, format!("create full clone of drive {} ({source})", moving.disk));
            let format = moving.format.as_deref();
            self.copy_vm_disk(&node, &source, None, Some(storage), format, vmid)
                .map_err(failed)?
        };
        self.log(seq, format!("allocated target volume '{copy}'"));
        if let Some(VmWork::Move(work)) = self.vm_work_mut(seq) {
            work.copy = Some(copy);
        }
        Ok(self.latency.move_volume)
    }

    pub(super) fn undo_vm_move(&mut self, seq: u64, moving: &VmMove) {
        let node = self.vm_task_node(seq);
        if let Some(copy) = &moving.copy {
            self.free_quietly(&node, std::slice::from_ref(copy));
        }
    }

    pub(super) fn finish_vm_move(&mut self, seq: u64, moving: &VmMove) -> Result<()> {
        let (node, vmid) = (self.vm_task_node(seq), moving.vmid);
        let Some(copy) = moving.copy.clone() else { return Ok(()) };
        let mut drive = self.vm_drive(&node, vmid, &moving.disk)?;
        let source = drive.file().to_owned();
        if let Some(size) = self.volume_size_text(&node, &copy) {
            drive.set("size", size);
        }
        drive.set("file", copy);
        let cloud_init = drive.is_cloud_init();
        self.guest_mut(vmid)?.edit(|config| {
            config.current.set(&moving.disk, drive.print());
            if !moving.delete && !cloud_init {
                super::vm_options::add_unused(&mut config.current, &source);
            }
        });
        if moving.delete || cloud_init {
            self.log(seq, format!("removing source volume '{source}' after successful copy"));
            if let Err(error) = self.free_volume(&node, &source) {
                self.warn(seq, error.first_line());
            }
        } else {
            self.log(seq, format!("adding source volume '{source}' as unused disk to config"));
        }
        Ok(())
    }

    fn reassign_vm_disk(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        target: u32,
        request: VmMoveRequest,
    ) -> Result<String> {
        if request.storage.is_some() {
            let text = "either set 'storage' or 'target-vmid', but not both".to_owned();
            return Err(ApiError::params([
                ("storage".to_owned(), text.clone()),
                ("target-vmid".to_owned(), text),
            ]));
        }
        self.need(caller, &format!("/vms/{target}"), &["VM.Config.Disk"])?;
        if target == vmid {
            return Err(ApiError::param(
                "target-vmid",
                "must be different than source VMID to reassign disk",
            ));
        }
        let key = request.target_disk.unwrap_or_else(|| request.disk.clone());
        self.check_reassign(node, vmid, target, &request.disk, &key, None)?;
        let (own, other) = (self.vm(node, vmid)?.digest(), self.vm(node, target)?.digest());
        for (vmid, digest, wanted) in [(vmid, own, &request.digest), (target, other, &request.target_digest)] {
            if differs(&digest, wanted.as_deref()) {
                let text = "detected modified configuration - file changed by other user? Try again.";
                return Err(ApiError::die(format!("VM {vmid}: {text}")));
            }
        }
        let id = format!("{vmid}-{}>{target}-{key}", request.disk);
        let work = VmReassign {
            vmid,
            disk: request.disk,
            target_vmid: target,
            target_disk: key,
        };
        let work = Work::Vm(Box::new(VmWork::Reassign(work)));
        Ok(self.start_task(node, "qmmove", &id, &caller.id, work))
    }

    fn check_reassign(
        &self,
        node: &str,
        vmid: u32,
        target: u32,
        disk: &str,
        key: &str,
        own: Option<u64>,
    ) -> Result<()> {
        let source = self.vm(node, vmid)?;
        if !self.guests.contains_key(&target) {
            return Err(ApiError::die(format!("could not find target VM {target}")));
        }
        let other = self.vm(node, target).map_err(|_| {
            ApiError::die(format!(
                "Both VMs need to be on the same node ({node}) to reassign disk '{disk}'"
            ))
        })?;
        for vmid in [vmid, target] {
            self.check_flock(vmid, own)?;
            self.check_lock(vmid)?;
        }
        if source.is_template() || other.is_template() {
            return Err(ApiError::die("Can't move disks from or to template VMs"));
        }
        let Some(value) = source.config().current.get(disk) else {
            return Err(ApiError::die(format!("Disk '{disk}' for VM '{vmid}' does not exist")));
        };
        if other.config().current.get(key).is_some() {
            return Err(ApiError::die(format!(
                "Target disk key '{key}' is already in use for VM '{target}'"
            )));
        }
        let drive = Drive::parse(value);
        if drive.is_cdrom() {
            return Err(ApiError::die("CD drive contents can't be moved to another VM"));
        }
        let used = |section| uses_volume(section, drive.file());
        if source.config().snapshots.values().any(used) {
            return Err(ApiError::die("Can't move disk used by a snapshot to another VM"));
        }
        if !self.volume_has_feature(node, drive.file(), "rename", false) {
            return Err(ApiError::die(
                "Storage does not support moving of this disk to another VM",
            ));
        }
        if source.running.is_some() && is_drive(disk) {
            return Err(ApiError::die(
                "Cannot move disk to another VM while the source VM is running - detach first",
            ));
        }
        Ok(())
    }

    pub(super) fn begin_vm_reassign(&mut self, seq: u64, work: &VmReassign) -> Result<u64> {
        let node = self.vm_task_node(seq);
        self.take_flock(work.vmid, seq)?;
        self.take_flock(work.target_vmid, seq)?;
        let (disk, key) = (work.disk.as_str(), work.target_disk.as_str());
        self.check_reassign(&node, work.vmid, work.target_vmid, disk, key, Some(seq))?;
        let mut drive = self.vm_drive(&node, work.vmid, &work.disk)?;
        self.log(
            seq,
            format!(
                "reassign disk '{}' from VM '{}' as '{}' to VM '{}'",
                work.disk, work.vmid, work.target_disk, work.target_vmid
            ),
        );
        let volid = self.reassign_volume(&node, drive.file(), work.target_vmid)?;
        if let Some(size) = self.volume_size_text(&node, &volid) {
            drive.set("size", size);
        }
        drive.set("file", volid.clone());
        self.guest_mut(work.vmid)?.edit(|config| {
            config.current.remove(&work.disk);
            let mut order = boot_order(&config.current);
            if order.contains(&work.disk) {
                order.retain(|name| *name != work.disk);
                config.current.set("boot", print_boot_order(&order));
            }
        });
        let value = if index_of(&work.target_disk, "unused").is_some() {
            volid
        } else {
            drive.print()
        };
        self.guest_mut(work.target_vmid)?
            .edit(|config| config.current.set(&work.target_disk, value));
        Ok(self.latency.resize)
    }
}
