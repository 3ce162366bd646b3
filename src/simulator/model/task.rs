//! Tasks: the UPID, the log, and how work starts, waits for a lock, ends or is stopped (facts B).

use serde::{Deserialize, Serialize};

use super::lxc_clone::CtClone;
use super::lxc_create::CtCreate;
use super::lxc_volume::{MoveVolume, Resize};

/// What a task does.
#[allow(
    missing_docs,
    reason = "fields carry the names and the meaning of the API parameters"
)]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// Create a container from an archive.
    CtCreate(Box<CtCreate>),
    /// Clone a container.
    CtClone(Box<CtClone>),
    /// Turn a container into a template.
    CtTemplate { vmid: u32 },
    /// Start a container.
    CtStart { vmid: u32, skiplock: bool },
    /// Stop a container hard.
    CtStop { vmid: u32, skiplock: bool },
    /// Shut a container down.
    CtShutdown {
        vmid: u32,
        timeout_ms: u64,
        force_stop: bool,
    },
    /// Shut down and start.
    CtReboot { vmid: u32 },
    /// Take a snapshot.
    CtSnapshot {
        vmid: u32,
        name: String,
        description: String,
    },
    /// Delete a snapshot.
    CtDeleteSnapshot { vmid: u32, name: String, force: bool },
    /// Go back to a snapshot.
    CtRollback { vmid: u32, name: String, start: bool },
    /// Destroy a container.
    CtDestroy {
        vmid: u32,
        force: bool,
        purge: bool,
        unreferenced: bool,
    },
    /// Grow a volume.
    CtResize(Resize),
    /// Move a volume to another storage or guest.
    CtMoveVolume(Box<MoveVolume>),
    /// Delete a volume.
    VolumeDelete { node: String, volid: String },
    /// Fetch a file from the network into a storage.
    Download(Box<super::download::Download>),
    /// Put a file that came with the request into a storage.
    Upload(Box<super::download::Upload>),
    /// Remove old backups.
    Prune(Box<super::prune::Prune>),
    /// Back guests up.
    Backup(Box<super::backup::Backup>),
    /// Anything with a virtual machine.
    Vm(Box<super::vm_work::VmWork>),
    /// Start all guests of a node that start at boot, or the named ones.
    StartAll { node: String, vms: Option<Vec<u32>> },
    /// Stop all guests of a node, or the named ones.
    StopAll { node: String, vms: Option<Vec<u32>> },
    /// Nothing but time and an outcome.
    Nothing { duration_ms: u64, error: Option<String> },
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Waits for a file lock until the given time.
    Waiting {
        /// Milliseconds since 1970.
        deadline: u64,
    },
    /// Works until the given time.
    Running {
        /// Milliseconds since 1970.
        ends_at: u64,
    },
    /// Has ended.
    Stopped,
}

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Sequence number; never used twice.
    pub seq: u64,
    /// Full id.
    pub upid: String,
    /// Node that runs it.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Process start in clock ticks.
    pub pstart: u64,
    /// Start in milliseconds since 1970.
    pub started_at: u64,
    /// End in milliseconds since 1970.
    pub ended_at: Option<u64>,
    /// Type, for example `vzcreate`.
    pub kind: String,
    /// Id, most often the vmid.
    pub id: String,
    /// Identity that started it.
    pub user: String,
    /// Log lines.
    pub log: Vec<String>,
    /// Warnings logged so far.
    pub warnings: u32,
    /// Where it stands.
    pub state: TaskState,
    /// Exit status once stopped.
    pub exitstatus: Option<String>,
    /// What it does.
    pub work: Work,
}

impl Task {
    /// True until it has ended.
    pub fn is_running(&self) -> bool {
        self.state != TaskState::Stopped
    }

    /// User without the token.
    pub fn owner(&self) -> &str {
        self.user.split('!').next().unwrap_or_default()
    }

    /// Name of the token.
    pub fn token(&self) -> Option<&str> {
        self.user.split_once('!').map(|(_, token)| token)
    }
}

/// Builds a UPID (facts B.1).
pub fn upid(node: &str, pid: u32, pstart: u64, start_s: u64, kind: &str, id: &str, user: &str) -> String {
    format!("UPID:{node}:{pid:08X}:{pstart:08X}:{start_s:08X}:{kind}:{id}:{user}:")
}

/// Node of a UPID, if the text is one.
pub fn upid_node(text: &str) -> Option<&str> {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &str, least: usize, most: usize| {
        (least..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let good = parts.len() == 9
        && parts[0] == "UPID"
        && !parts[1].is_empty()
        && hex(parts[2], 8, 8)
        && hex(parts[3], 8, 9)
        && hex(parts[4], 8, 8)
        && !parts[5].is_empty()
        && !parts[7].is_empty()
        && parts[8].is_empty();
    good.then(|| parts[1])
}

/// How long things take before `time_scale` divides it, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Unpacking a container image.
    pub create: u64,
    /// Linked clone.
    pub clone_linked: u64,
    /// Full clone, each volume.
    pub clone_full: u64,
    /// Creation of a virtual machine, without imports.
    pub vm_create: u64,
    /// Import of a disk image, each MiB.
    pub import_mib: u64,
    /// From the start of a virtual machine until its system is up and its guest agent answers.
    pub boot: u64,
    /// How long a call waits for a guest agent that does not answer (facts F.8).
    pub agent_ping: u64,
    /// Installation of packages by cloud-init at a first boot.
    pub cloud_init: u64,
    /// Migration, without disks.
    pub migrate: u64,
    /// Conversion to a template.
    pub template: u64,
    /// Start.
    pub start: u64,
    /// Hard stop.
    pub stop: u64,
    /// Clean shutdown.
    pub shutdown: u64,
    /// Snapshot, its deletion, or rollback.
    pub snapshot: u64,
    /// Destruction.
    pub destroy: u64,
    /// Growth of a volume.
    pub resize: u64,
    /// Copy of a volume to another storage.
    pub move_volume: u64,
    /// Deletion of a volume.
    pub volume_delete: u64,
    /// Download, each MiB.
    pub download_mib: u64,
    /// A task that fails its first check.
    pub refusal: u64,
    /// How long an operation waits for the lock of a configuration file (facts B.5).
    pub lock_timeout: u64,
    /// Between two status broadcasts (facts C).
    pub status_interval: u64,
    /// Delay of a failed authentication (facts A.6).
    pub auth_failure: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            create: 20_000,
            clone_linked: 1_500,
            clone_full: 30_000,
            vm_create: 1_000,
            import_mib: 5,
            boot: 15_000,
            agent_ping: 3_000,
            cloud_init: 25_000,
            migrate: 5_000,
            template: 500,
            start: 2_000,
            stop: 1_000,
            shutdown: 4_000,
            snapshot: 800,
            destroy: 1_500,
            resize: 500,
            move_volume: 20_000,
            volume_delete: 500,
            download_mib: 10,
            refusal: 100,
            lock_timeout: 10_000,
            status_interval: 10_000,
            auth_failure: 3_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upids_are_recognised() {
        let id = upid("pve1", 487, 513_298, 1_795_408_905, "vzcreate", "100", "root@pam!test");
        assert_eq!(id, "UPID:pve1:000001E7:0007D512:6B03C409:vzcreate:100:root@pam!test:");
        assert_eq!(upid_node(&id), Some("pve1"));
        assert_eq!(upid_node("garbage"), None);
    }
}
