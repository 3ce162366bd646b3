//! Status of every kind.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::pve::{DiskSize, Vmid};

use super::gpu::{GivenGpu, GpuStatus};

/// Status of a guest: PhoenixLXC, PhoenixVM and PhoenixTemplate.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestStatus {
    /// Generation of the spec that this status describes.
    pub observed_generation: Option<i64>,
    /// Conditions: Ready always; Reconciling and Stalled only while True; then one for each part of the work.
    #[serde(default)]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// One word for people: Ready, Creating, Stalled, ….
    pub phase: Option<String>,
    /// What is happening or wrong, in one sentence.
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// Proxmox id, recorded before the guest is created.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::vmid")]
    pub vmid: Option<i64>,
    /// Whether a create or clone call may have been sent for this vmid.
    pub create_sent: Option<bool>,
    /// Whether the guest existed before this object and was adopted.
    pub adopted: Option<bool>,
    /// Digest of the configuration of a guest that is about to be taken over, until the guest carries the object's stamp.
    pub claim: Option<String>,
    /// Value of the restamp annotation that was carried out last, or that was there while the stamp was.
    pub restamped: Option<String>,
    /// Proxmox node that the guest is on.
    pub node: Option<String>,
    /// Address of the guest's own interface, never of a network inside it.
    pub ip: Option<String>,
    /// GPU indices, separated by commas.
    pub gpus: Option<String>,
    /// GPUs that the container was given: chosen once, kept by UUID and PCI address.
    #[schemars(length(max = 64))]
    pub gpu_devices: Option<Vec<GivenGpu>>,
    /// The last line of the CUDA proof in this start of the guest.
    #[schemars(length(max = 1024))]
    pub gpu_proof: Option<String>,
    /// What the guest was made from.
    pub source: Option<String>,
    /// Volume id of the image that Phoenix made the guest from. The name of a file that was downloaded from a URL holds
    /// its checksum.
    pub image: Option<String>,
    /// What image names that leave the build open were resolved to, by the name as written. Chosen once.
    #[schemars(extend("maxProperties" = 8))]
    pub chosen_images: Option<BTreeMap<String, String>>,
    /// Healthy, Unhealthy or Unknown.
    pub health: Option<String>,
    /// Template: content hash of what was built.
    pub revision: Option<String>,
    /// Template: guests of earlier revisions, oldest first.
    #[schemars(length(max = 128))]
    pub revisions: Option<Vec<RevisionStatus>>,
    /// Revision of the template that the guest was cloned from.
    pub template_revision: Option<String>,
    /// Proxmox task under way.
    pub task: Option<TaskStatus>,
    /// Features, by name.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub features: Option<Vec<ScriptStatus>>,
    /// The application script.
    pub application: Option<ScriptStatus>,
    /// The vLLM unit.
    pub vllm: Option<ScriptStatus>,
    /// The unit of the ollama or llamacpp block.
    pub model_server: Option<ScriptStatus>,
    /// Tests, by name.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tests: Option<Vec<ScriptStatus>>,
    /// Volumes, by name: those of the spec, and earlier ones that the guest still holds detached.
    #[schemars(length(max = 320), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Option<Vec<VolumeStatus>>,
    /// Size in GiB of the root filesystem that the spec asked for and that was read back, where it is whole GiB.
    pub rootfs_gib: Option<i64>,
    /// The same where it is not whole GiB, such as 512Mi.
    #[schemars(length(max = 32))]
    pub rootfs_size: Option<String>,
    /// Hash of the script that cleaned a template of vm form before it was sealed.
    pub cleaned: Option<String>,
    /// Snippet with the machine's cloud-init data, removed with it.
    pub snippet: Option<String>,
    /// Process id of the machine when its cloud-init drive was last rewritten: that process has not read it.
    pub cloud_init_unread: Option<i64>,
    /// Raw lxc lines that Phoenix wrote for this object.
    #[schemars(length(max = 128))]
    pub lxc_options: Option<Vec<String>>,
    /// What the spec sets on the guest, by name: a value that a later spec drops is taken off the guest.
    #[schemars(length(max = 1024))]
    pub managed: Option<Vec<String>>,
    /// Steps whose failures are counted apart from those of everything else: each interface, mount and device, stopping
    /// and deleting. One of them that fails holds nothing else back.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["step"]))]
    pub failing: Option<Vec<FailingStep>>,
    /// Value of the reconcile annotation that was acted on last.
    #[schemars(length(max = 253))]
    pub reconciled: Option<String>,
    /// Consecutive failures of the current step.
    pub failures: Option<i64>,
    /// Last error.
    #[schemars(length(max = 4096))]
    pub last_error: Option<String>,
    /// When the next attempt is due.
    pub next_retry: Option<Time>,
    /// Since when an object that the spec names does not exist: the hypervisor, a template, feature, Secret or ConfigMap.
    /// It is waited for; after five minutes the object is Stalled.
    pub missing_since: Option<Time>,
    /// Value of the restartedAt annotation that was carried out last.
    pub restarted_at: Option<String>,
    /// Value of the recreate annotation that was carried out last.
    pub recreated: Option<String>,
    /// The start of the guest that this restart is to end; absent once it has.
    pub restart_from: Option<StartStatus>,
    /// Hash of the desired state that was applied in full last.
    pub applied_hash: Option<String>,
    /// Digest of the guest's configuration when it last was as wanted.
    pub config_digest: Option<String>,
    /// Restarts because a startup or liveness probe failed.
    pub restarts: Option<RestartStatus>,
    /// The start of the guest that `health` is about; what was found in an earlier one does not count.
    pub started: Option<StartStatus>,
}

/// A start of a guest, by whomever.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartStatus {
    /// Process id of the guest on its node: another one after each start.
    pub pid: Option<i64>,
    /// When it was, from the operator's clock and the guest's uptime.
    pub at: Time,
    /// Whether the guest has been found healthy since.
    pub proven: Option<bool>,
}

/// Seconds by which the time of one start may seem to differ between two looks.
const SAME_START: i64 = 30;

impl StartStatus {
    /// Whether a guest with this process id, started at this Unix time, is still in this start. A time that seems
    /// earlier was told by another clock; only a later one is another start.
    pub fn is_still(&self, pid: Option<i64>, at: i64) -> bool {
        let same_process = pid.is_none() || self.pid.is_none() || self.pid == pid;
        same_process && at <= self.at.0.as_second().saturating_add(SAME_START)
    }
}

/// A Proxmox task under way.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// Task id.
    pub upid: String,
    /// What it does, for people.
    pub action: String,
    /// Name of the step in `failing`, if it has one of its own.
    pub apart: Option<String>,
    /// Reason of the event that reports its success.
    #[schemars(length(max = 64))]
    pub event: Option<String>,
}

/// A step that fails and is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingStep {
    /// Its name: net0, mp1, stop, delete, ….
    #[schemars(length(max = 64))]
    pub step: String,
    /// Consecutive failures.
    pub failures: i64,
    /// Reason and message of the last one.
    #[schemars(length(max = 4096))]
    pub error: String,
    /// When the next attempt is due.
    pub next_retry: Time,
}

/// A script that was started in a guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScriptStatus {
    /// Name.
    pub name: String,
    /// Hash of the script and all its inputs.
    pub hash: Option<String>,
    /// Pending, Running, Succeeded, Failed, Interrupted (cut off, such as by a restart of the guest) or Cancelled.
    pub state: Option<String>,
    /// Exit code of a script that ended.
    pub exit_code: Option<i64>,
    /// End of the output of a script that failed.
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// Attempts so far; with rerunPolicy Always since the guest's last start.
    pub attempts: Option<i64>,
    /// Deadline in seconds, of a script that was stopped because it had passed.
    pub deadline_seconds: Option<i64>,
    /// Failed attempts that no longer count, because somebody asked for another.
    pub forgiven: Option<i64>,
}

impl GuestStatus {
    /// Whether the creating call was sent, or the guest adopted: there may be a guest under the vmid.
    pub fn was_made(&self) -> bool {
        self.create_sent == Some(true) || self.adopted == Some(true)
    }

    /// The script of the guest's model server.
    pub fn server(&self) -> Option<&ScriptStatus> {
        self.vllm.as_ref().or(self.model_server.as_ref())
    }

    /// The guest's id, where one is recorded.
    pub fn vmid(&self) -> Option<Vmid> {
        self.vmid.and_then(|id| Vmid::try_from(id).ok())
    }

    /// Size of the root filesystem that the spec asked for and that was read back.
    pub fn asked_rootfs_size(&self) -> Option<DiskSize> {
        DiskSize::of_status(self.rootfs_gib, self.rootfs_size.as_deref())
    }

    /// Guests that are the object's: its own, and those of earlier revisions.
    pub fn vmids(&self) -> impl Iterator<Item = Vmid> {
        let old = self.revisions.iter().flatten().filter_map(RevisionStatus::vmid);
        self.vmid().into_iter().chain(old)
    }
}

impl VolumeStatus {
    /// Whether it is another guest's volume, given by its volume id.
    pub fn is_existing(&self) -> bool {
        self.owner_vmid.is_none() && self.volid.is_some() && self.reclaim_policy.as_deref() == Some("Retain")
    }

    /// Size that the spec asked for and that was read back.
    pub fn asked_size(&self) -> Option<DiskSize> {
        DiskSize::of_status(self.size_gib, self.size.as_deref())
    }

    /// With that size.
    pub fn with_size(mut self, size: Option<DiskSize>) -> Self {
        (self.size_gib, self.size) = size.map_or((None, None), DiskSize::in_status);
        self
    }

    /// The container that owns it, where that is not the guest.
    pub fn owner(&self) -> Option<Vmid> {
        self.owner_vmid.and_then(|id| Vmid::try_from(id).ok())
    }
}

impl RevisionStatus {
    /// Its guest's id.
    pub fn vmid(&self) -> Option<Vmid> {
        Vmid::try_from(self.vmid).ok()
    }
}

/// A volume of a guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Name.
    pub name: String,
    /// Proxmox volume id.
    pub volid: Option<String>,
    /// Retain or Delete, as it was made.
    pub reclaim_policy: Option<String>,
    /// Container that owns it, where that is not the guest.
    pub owner_vmid: Option<i64>,
    /// Size in GiB that the spec asked for and that was read back, where it is whole GiB.
    pub size_gib: Option<i64>,
    /// The same where it is not whole GiB, such as 512Mi.
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// Path in the container at which it was attached last.
    #[schemars(length(max = 512))]
    pub mount_path: Option<String>,
}

/// The guest of an earlier revision of a template.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Content hash of what was built.
    pub revision: String,
    /// Proxmox id.
    pub vmid: i64,
    /// Node.
    pub node: Option<String>,
    /// Snippet with the machine's cloud-init data, removed with it.
    pub snippet: Option<String>,
    /// Volume ids of what it was built with.
    #[schemars(length(max = 64))]
    pub volumes: Option<Vec<String>>,
}

/// Restarts of a guest, or of its unit, because a startup or liveness probe failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// How many there were.
    pub count: i64,
    /// How many of them followed each other closely; the pause before the next one grows with this number.
    pub in_a_row: i64,
    /// When the last one was asked for.
    pub last: Time,
}

/// Status of a PhoenixHypervisor.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HypervisorStatus {
    /// Generation of the spec that this status describes.
    pub observed_generation: Option<i64>,
    /// Conditions: Ready always; Reconciling and Stalled only while True.
    #[serde(default)]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// One word for people.
    pub phase: Option<String>,
    /// What is happening or wrong, in one sentence.
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// Since when a Secret that the spec names does not exist. It is waited for; after five minutes the object is Stalled.
    pub missing_since: Option<Time>,
    /// Proxmox VE version.
    pub version: Option<String>,
    /// Which Proxmox cluster this is; deletions and creations are refused when the endpoint answers as another one.
    pub cluster: Option<ProxmoxCluster>,
    /// Whether the cluster is quorate (a single node always is).
    pub quorate: Option<bool>,
    /// Nodes.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Option<Vec<NodeStatus>>,
    /// Names of the nodes, as one string for `kubectl get`.
    #[schemars(length(max = 8192))]
    pub node_names: Option<String>,
    /// Storages.
    #[schemars(length(max = 256))]
    pub storages: Option<Vec<String>>,
    /// Privileges that the token lacks for what its objects and the spec ask for, as `path: privilege`.
    #[schemars(length(max = 256))]
    pub missing_privileges: Option<Vec<String>>,
    /// GPUs of the nodes.
    #[schemars(length(max = 256))]
    pub gpus: Option<Vec<GpuStatus>>,
    /// The GPUs in words, for `kubectl get -o wide`.
    #[schemars(length(max = 4096))]
    pub gpu_summary: Option<String>,
    /// Owner containers of retained volumes: vmid by node and id mapping.
    pub volume_owners: Option<BTreeMap<String, i64>>,
}

/// A Proxmox cluster's identity.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxCluster {
    /// Name; empty for a single node.
    pub name: String,
    /// Names of its nodes.
    #[schemars(length(max = 64))]
    pub nodes: Vec<String>,
    /// SHA-256 fingerprint of its certificate authority (pve-root-ca.pem), which every cluster and every single node
    /// makes for itself. Absent until a guest with an object's stamp proved that it is the same cluster.
    #[schemars(length(max = 95))]
    pub ca_fingerprint: Option<String>,
}

impl ProxmoxCluster {
    /// Whether `now` is the cluster that was recorded here: the same certificate authority, name and a node in common;
    /// or, where the authority is not known on both sides, the same name and every recorded node.
    pub fn is(&self, now: &ProxmoxCluster) -> bool {
        let known = |node: &String| now.nodes.contains(node);
        let nodes = match (&self.ca_fingerprint, &now.ca_fingerprint) {
            (Some(recorded), Some(ca)) if recorded != ca => return false,
            // A node may have been taken out of the cluster.
            (Some(_), Some(_)) => self.nodes.is_empty() || self.nodes.iter().any(known),
            _ => self.nodes.iter().all(known),
        };
        nodes && self.name == now.name
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// online, offline or unknown.
    pub status: String,
}

/// Status of a PhoenixFeature.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureStatus {
    /// Generation of the spec that this status describes.
    pub observed_generation: Option<i64>,
    /// What it requires, as one string for `kubectl get`.
    #[schemars(length(max = 8192))]
    pub requires: Option<String>,
    /// Conditions.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
