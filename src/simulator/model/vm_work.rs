//! What tasks of virtual machines do, and which function does it.

use serde::{Deserialize, Serialize};

use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind};
use super::state::State;
use super::task::Work;
use super::vm_clone::VmClone;
use super::vm_config::VmChange;
use super::vm_create::VmCreate;
use super::vm_migrate::VmMigrate;
use super::vm_move::{VmMove, VmReassign, VmResize};
use super::vm_snapshot::VmSnapshot;

/// What a task of a machine does.
#[allow(
    missing_docs,
    reason = "fields carry the names and the meaning of the API parameters"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmWork {
    /// Create or restore.
    Create(VmCreate),
    /// Change the configuration (`POST …/config`).
    Update { vmid: u32, change: VmChange },
    /// Start.
    Start { vmid: u32, skiplock: bool },
    /// Stop hard.
    Stop { vmid: u32, skiplock: bool },
    /// Shut down.
    Shutdown {
        vmid: u32,
        timeout_ms: u64,
        force_stop: bool,
        skiplock: bool,
    },
    /// Shut down and start, with pending changes.
    Reboot { vmid: u32, timeout_ms: u64 },
    /// Press the reset button.
    Reset { vmid: u32, skiplock: bool },
    /// Pause, or save the memory and stop.
    Suspend {
        vmid: u32,
        skiplock: bool,
        todisk: bool,
        storage: Option<String>,
    },
    /// Go on.
    Resume { vmid: u32, skiplock: bool },
    /// Take a snapshot.
    Snapshot(VmSnapshot),
    /// Delete a snapshot.
    DeleteSnapshot { vmid: u32, name: String, force: bool },
    /// Go back to a snapshot.
    Rollback { vmid: u32, name: String, start: bool },
    /// Grow a disk.
    Resize(VmResize),
    /// Move a disk to another storage.
    Move(VmMove),
    /// Give a disk to another machine.
    Reassign(VmReassign),
    /// Clone.
    Clone(VmClone),
    /// Turn into a template, or one disk into a base disk.
    Template { vmid: u32, disk: Option<String> },
    /// Move to another node.
    Migrate(VmMigrate),
    /// Destroy.
    Destroy {
        vmid: u32,
        purge: bool,
        unreferenced: bool,
        skiplock: bool,
    },
}

impl State {
    /// A machine on `node`, or Proxmox's "not found".
    pub fn vm(&self, node: &str, vmid: u32) -> Result<&Guest> {
        self.guest_on(node, vmid, GuestKind::Qemu)
    }

    /// The work of a task, to be filled in.
    pub(super) fn vm_work_mut(&mut self, seq: u64) -> Option<&mut VmWork> {
        match &mut self.tasks.get_mut(&seq)?.work {
            Work::Vm(work) => Some(work),
            _ => None,
        }
    }

    /// Node of a task.
    pub(super) fn vm_task_node(&self, seq: u64) -> String {
        self.tasks.get(&seq).map(|task| task.node.clone()).unwrap_or_default()
    }

    /// User of a task.
    pub(super) fn vm_task_user(&self, seq: u64) -> String {
        self.tasks.get(&seq).map(|task| task.user.clone()).unwrap_or_default()
    }

    pub(super) fn begin_vm(&mut self, seq: u64, work: &VmWork) -> Result<u64> {
        match work {
            VmWork::Create(create) => self.begin_vm_create(seq, create),
            VmWork::Update { vmid, change } => self.begin_vm_update(seq, *vmid, change),
            VmWork::Start { vmid, skiplock } => self.begin_vm_start(seq, *vmid, *skiplock),
            VmWork::Stop { vmid, skiplock } => self.begin_vm_stop(seq, *vmid, *skiplock),
            VmWork::Shutdown {
                vmid,
                timeout_ms,
                force_stop,
                skiplock,
            } => self.begin_vm_shutdown(seq, *vmid, *timeout_ms, *force_stop, *skiplock),
            VmWork::Reboot { vmid, timeout_ms } => self.begin_vm_reboot(seq, *vmid, *timeout_ms),
            VmWork::Reset { vmid, skiplock } => self.begin_vm_reset(seq, *vmid, *skiplock),
            VmWork::Suspend {
                vmid,
                skiplock,
                todisk,
                storage,
            } => self.begin_vm_suspend(seq, *vmid, *skiplock, *todisk, storage.as_deref()),
            VmWork::Resume { vmid, skiplock } => self.begin_vm_resume(seq, *vmid, *skiplock),
            VmWork::Snapshot(snapshot) => self.begin_vm_snapshot(seq, snapshot),
            VmWork::DeleteSnapshot { vmid, name, .. } => self.begin_vm_delete_snapshot(seq, *vmid, name),
            VmWork::Rollback { vmid, name, .. } => self.begin_vm_rollback(seq, *vmid, name),
            VmWork::Resize(resize) => self.begin_vm_resize(seq, resize),
            VmWork::Move(moving) => self.begin_vm_move(seq, moving),
            VmWork::Reassign(reassign) => self.begin_vm_reassign(seq, reassign),
            VmWork::Clone(clone) => self.begin_vm_clone(seq, clone),
            VmWork::Template { .. } => Ok(self.latency.template),
            VmWork::Migrate(migrate) => self.begin_vm_migrate(seq, migrate),
            VmWork::Destroy { vmid, skiplock, .. } => self.begin_vm_destroy(seq, *vmid, *skiplock),
        }
    }

    pub(super) fn finish_vm(&mut self, seq: u64, work: &VmWork) -> Result<()> {
        match work {
            VmWork::Create(create) => self.finish_vm_create(seq, create),
            VmWork::Start { vmid, .. } => self.finish_vm_start(*vmid),
            VmWork::Stop { vmid, .. } => self.power_off_vm(*vmid),
            VmWork::Shutdown { vmid, force_stop, .. } => self.finish_vm_shutdown(*vmid, *force_stop),
            VmWork::Reboot { vmid, .. } => self.finish_vm_reboot(seq, *vmid),
            VmWork::Reset { vmid, .. } => self.finish_vm_reset(*vmid),
            VmWork::Suspend { vmid, todisk, .. } => self.finish_vm_suspend(*vmid, *todisk),
            VmWork::Resume { vmid, .. } => self.finish_vm_resume(*vmid),
            VmWork::Snapshot(snapshot) => self.finish_vm_snapshot(seq, snapshot),
            VmWork::DeleteSnapshot { vmid, name, .. } => self.finish_vm_delete_snapshot(*vmid, name),
            VmWork::Rollback { vmid, name, start } => self.finish_vm_rollback(seq, *vmid, name, *start),
            VmWork::Move(moving) => self.finish_vm_move(seq, moving),
            VmWork::Clone(clone) => self.finish_vm_clone(clone),
            VmWork::Template { vmid, disk } => self.finish_vm_template(*vmid, disk.as_deref()),
            VmWork::Migrate(migrate) => self.finish_vm_migrate(seq, migrate),
            VmWork::Destroy {
                vmid,
                purge,
                unreferenced,
                ..
            } => self.finish_vm_destroy(seq, *vmid, *purge, *unreferenced),
            // Their effect comes at once.
            VmWork::Update { .. } | VmWork::Resize(_) | VmWork::Reassign(_) => Ok(()),
        }
    }

    /// What Proxmox cleans up when work fails or is stopped.
    pub(super) fn undo_vm(&mut self, seq: u64, work: &VmWork) {
        match work {
            VmWork::Create(create) => self.undo_vm_create(seq, create),
            VmWork::Clone(clone) => self.undo_vm_clone(seq, clone),
            VmWork::Snapshot(snapshot) => self.undo_vm_snapshot(snapshot),
            VmWork::DeleteSnapshot { vmid, .. } | VmWork::Rollback { vmid, .. } => self.unlock(*vmid),
            VmWork::Migrate(migrate) => self.unlock(migrate.vmid),
            VmWork::Move(moving) => self.undo_vm_move(seq, moving),
            VmWork::Suspend { vmid, todisk: true, .. } => self.unlock(*vmid),
            _ => {}
        }
    }

    /// What a stopped task says.
    pub(super) fn vm_interrupted(work: &VmWork) -> String {
        match work {
            VmWork::Create(create) => format!("unable to create VM {} - interrupted by signal", create.vmid),
            VmWork::Clone(_) => "clone failed: interrupted by signal".to_owned(),
            VmWork::Migrate(_) => "migration aborted".to_owned(),
            _ => "interrupted by signal".to_owned(),
        }
    }

    /// Refuses a `skiplock` of anybody but the true root.
    pub fn check_vm_skiplock(&self, caller: &super::state::Caller, skiplock: bool) -> Result<()> {
        if skiplock && !caller.is_true_root() {
            return Err(ApiError::param("skiplock", "Only root may use this option."));
        }
        Ok(())
    }
}
