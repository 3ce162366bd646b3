//! `PhoenixLXC`: a container.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::common::*;
use super::gpu::Gpu;
use super::guest::{GuestFields, container_rules};
use super::model_server::{LlamaCpp, Ollama, Vllm};
use super::schema;
use super::status::GuestStatus;

/// A container on Proxmox VE: created, configured and kept as described here.
/// A field that is not given is not managed: Phoenix neither compares nor resets it.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "phoenix-hypervisor.io",
    version = "v1alpha1",
    kind = "PhoenixLXC",
    plural = "phoenixlxcs",
    singular = "phoenixlxc",
    shortname = "plxc",
    category = "phoenix",
    namespaced,
    status = "GuestStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A container on Proxmox VE, created, configured and kept as its spec describes.",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.phase",
        description = "Where the container stands"
    ),
    printcolumn(
        name = "VMID",
        type_ = "integer",
        json_path = ".status.vmid",
        description = "Id on Proxmox"
    ),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "IP", type_ = "string", json_path = ".status.ip"),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.gpus"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "Cores", type_ = "integer", json_path = ".spec.cores", priority = 1),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory", priority = 1),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.vllm.model", priority = 1),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.health", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PhoenixLXCSpec {
    /// The PhoenixHypervisor that the container lives on. It cannot change once the container has a vmid.
    pub hypervisor_ref: ObjectRef,
    #[serde(flatten)]
    /// The container itself.
    pub guest: LxcGuest,
    /// Volumes of the container besides its root filesystem.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Option<Vec<Volume>>,
    /// Directories of the node mounted into the container. They block snapshots and clones of it.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub host_mounts: Option<Vec<HostMount>>,
    /// Probes that tell whether the container works.
    pub health: Option<Health>,
    /// Ports that the cluster reaches by the object's name, through a Service of that name. Needs an operator that runs with
    /// --expose. Absent: the port of the model server (`vllm`, `ollama`, `llamacpp`), named http, where there is one, else none; empty:
    /// none.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"], "x-kubernetes-validations" = [
        {"rule": "self.all(e, self.exists_one(f, f.port == e.port && (has(f.protocol) ? f.protocol : 'TCP') == (has(e.protocol) ? e.protocol : 'TCP')))", "message": "two entries have the same port and protocol: give each port of the Service once"}
    ]))]
    pub expose: Option<Vec<Expose>>,
    /// Scripts run once after provisioning; their results never block Ready.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tests: Option<Vec<GuestTest>>,
    /// Objects that must be Ready before the container is created.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub depends_on: Option<Vec<Dependency>>,
    /// Whether the container runs. Absent: Running.
    pub power_state: Option<PowerState>,
    /// What happens to the container when this object is deleted. Absent: Delete for containers that Phoenix created,
    /// Retain for adopted ones.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Whether Phoenix may restart the container for changes that need it.
    pub update_policy: Option<UpdatePolicy>,
}

/// The container itself: what a PhoenixLXC and a PhoenixTemplate of lxc form share.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.vllm) || !has(self.vllm.tensorParallelSize) || !has(self.gpus) || self.vllm.tensorParallelSize == 1 || self.gpus.size() == 0 || self.gpus.exists(g, has(g.count)) || self.vllm.tensorParallelSize <= self.gpus.size()", "message": "vllm.tensorParallelSize is above the number of gpus: list more GPUs, or lower it"},
    {"rule": "[has(self.vllm), has(self.ollama), has(self.llamacpp)].filter(x, x).size() <= 1", "message": "a container runs one model server: give one of vllm, ollama and llamacpp"}
]), transform = container_rules)]
pub struct LxcGuest {
    /// What it shares with a machine.
    #[serde(flatten)]
    pub shared: GuestFields,
    /// What the container is made from. May be absent only for an adopted container.
    pub source: Option<LxcSource>,
    /// CPU cores that the container sees.
    #[schemars(range(min = 1, max = 8192))]
    pub cores: Option<i64>,
    /// CPU time limit, in cores; 0 is no limit.
    #[schemars(range(min = 0.0, max = 8192.0))]
    pub cpu_limit: Option<f64>,
    /// CPU weight against other guests.
    #[schemars(range(min = 1, max = 10_000))]
    pub cpu_units: Option<i64>,
    /// Memory, in whole MiB; at least 16Mi.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub memory: Option<String>,
    /// Swap, in whole MiB; 0 is none.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size_or_zero")]
    pub swap: Option<String>,
    /// Root filesystem. It can grow, never shrink.
    pub rootfs: Option<RootFs>,
    /// Whether root in the container is an ordinary user on the node. It cannot change later. Absent: true on creation.
    pub unprivileged: Option<bool>,
    /// What the container may do beyond the usual. Absent fields are unmanaged.
    pub capabilities: Option<Capabilities>,
    /// AppArmor profile (`lxc.apparmor.profile`) such as generated, unconfined or one of the node's.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_./-]+$"))]
    pub apparmor_profile: Option<String>,
    /// Raw lines for the container's configuration, such as `lxc.cgroup2.devices.allow = a`. Phoenix makes sure that each
    /// is there. Lines that it wrote for this object and that the list drops are removed; inherited ones stay. Needs SSH.
    #[serde(default)]
    #[schemars(schema_with = "schema::lxc_options")]
    pub lxc_options: Option<Vec<String>>,
    /// Time zone such as Europe/Berlin, or `host`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    pub timezone: Option<String>,
    /// What the console shows: `tty` a login, `console` the output of the first process, `shell` root's shell without a
    /// password. Absent: unmanaged; Proxmox's own choice is tty.
    pub cmode: Option<ConsoleMode>,
    /// How many terminals the container has. Absent: unmanaged; Proxmox's own choice is 2.
    #[schemars(range(min = 0, max = 6))]
    pub tty: Option<i64>,
    /// Whether the container has a console. Absent: unmanaged; Proxmox's own choice is true.
    pub console: Option<bool>,
    /// Environment of an OCI container's entrypoint.
    #[schemars(extend("maxProperties" = 64))]
    pub environment: Option<BTreeMap<String, String>>,
    /// Entrypoint of an OCI container.
    #[schemars(length(min = 1, max = 1024))]
    pub entrypoint: Option<String>,
    /// GPUs of the container. Absent: unmanaged; empty: none.
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = [
        {"rule": "self.all(g, !has(g.index) || self.exists_one(h, has(h.index) && h.index == g.index))", "message": "two entries have the same index: name each GPU once"}
    ]))]
    pub gpus: Option<Vec<Gpu>>,
    /// Device nodes of the node that the container gets, such as /dev/dri/renderD128. Phoenix makes sure that each is
    /// there. Entries that it wrote for this object and that the list drops are removed; others stay. NVIDIA GPUs belong
    /// in `gpus`. Needs root@pam or SSH.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub devices: Option<Vec<Device>>,
    /// Snippet that Proxmox runs on the node when the container starts and stops. Absent: unmanaged. Needs root@pam
    /// or SSH.
    #[serde(default)]
    #[schemars(schema_with = "schema::snippet_volid")]
    pub hookscript: Option<String>,
    /// Secret with SSH public keys for root, one per line. They are put into a container when it is made from an image.
    /// Later changes are only reported (`RecreateRequired`) and change nothing in it.
    pub ssh_keys_secret_ref: Option<KeyRef>,
    /// A vLLM model server. At most one of vllm, ollama and llamacpp can be given.
    pub vllm: Option<Vllm>,
    /// An Ollama model server.
    pub ollama: Option<Ollama>,
    /// A llama.cpp model server.
    pub llamacpp: Option<LlamaCpp>,
}

/// A device node of the node that a container gets.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Path on the node, which is its path in the container too, such as /dev/dri/renderD128.
    #[schemars(schema_with = "schema::device_path")]
    pub path: String,
    /// User id of its owner, as seen in the container. Absent: unmanaged; Proxmox's own choice is 0.
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub uid: Option<i64>,
    /// Group id of its owner, as seen in the container. Absent: unmanaged; Proxmox's own choice is 0.
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub gid: Option<i64>,
    /// Octal mode. Absent: unmanaged.
    #[serde(default)]
    #[schemars(schema_with = "schema::file_mode")]
    pub mode: Option<String>,
    /// Whether the container is kept from writing to it. Absent: unmanaged; Proxmox's own choice is false.
    pub deny_write: Option<bool>,
}

/// What a container is made from: exactly one of the fields.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.templateRef), has(self.image), has(self.oci)].filter(x, x).size() == 1", "message": "give exactly one of templateRef, image and oci"}
]))]
pub struct LxcSource {
    /// Clone of a PhoenixTemplate in this namespace, else in the hypervisor's.
    pub template_ref: Option<LocalRef>,
    /// A container image.
    pub image: Option<LxcImage>,
    /// An OCI image (Proxmox VE 9.1 and later). Not supported yet.
    pub oci: Option<OciImage>,
}

/// A container image: exactly one of volid, url and appliance.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.volid), has(self.url), has(self.appliance)].filter(x, x).size() == 1", "message": "give exactly one of volid, url and appliance"},
    {"rule": "!has(self.url) || has(self.sha256)", "message": "url needs sha256, the checksum of the file"},
    {"rule": "!has(self.volid) || !has(self.storage)", "message": "volid names its storage itself: leave storage out"}
]))]
pub struct LxcImage {
    /// Image on a storage, such as local:vztmpl/mine.tar.zst. With a '*', or without a version, it is an appliance
    /// on that storage.
    #[serde(default)]
    #[schemars(schema_with = "schema::image_volid")]
    pub volid: Option<String>,
    /// URL of an image; the node downloads it once for each checksum.
    #[serde(default)]
    #[schemars(schema_with = "schema::url")]
    pub url: Option<String>,
    /// SHA-256 of the file at url.
    #[serde(default)]
    #[schemars(schema_with = "schema::sha256")]
    pub sha256: Option<String>,
    /// Name in Proxmox's appliance index, such as debian-13-standard_13.1-2_amd64.tar.zst; downloaded once,
    /// and compared with the checksum of the index, which holds only the newest build of each. With a '*', or without
    /// a version (debian-13-standard), it means the newest that fits, chosen once: status.chosenImages says which.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9._+*-]+$"))]
    pub appliance: Option<String>,
    /// Storage for downloaded images. Absent: the hypervisor's `defaults.imageStorage`.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
}

/// An OCI image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OciImage {
    /// Image reference with its tag.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
}

/// The root filesystem.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootFs {
    /// Storage. It is chosen on creation; a later change is RecreateRequired. Absent: the hypervisor's
    /// `defaults.rootfsStorage`, or the storage of the template.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Size in whole MiB, such as 512Mi or 8Gi. It can grow, never shrink.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub size: Option<String>,
}

/// What a container may do beyond the usual (Proxmox's features). All flags but nesting need root@pam or SSH.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Containers in the container; also needed by recent systemd.
    pub nesting: Option<bool>,
    /// The keyctl system call, for Docker in unprivileged containers.
    pub keyctl: Option<bool>,
    /// FUSE mounts.
    pub fuse: Option<bool>,
    /// Creating some device nodes.
    pub mknod: Option<bool>,
    /// File system types that the container may mount.
    #[schemars(length(max = 8))]
    pub mount: Option<Vec<MountType>>,
}

/// What the console of a container shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleMode {
    /// A login.
    Tty,
    /// The output of the first process.
    Console,
    /// A root shell, without a password.
    Shell,
}

impl ConsoleMode {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ConsoleMode::Tty => "tty",
            ConsoleMode::Console => "console",
            ConsoleMode::Shell => "shell",
        }
    }
}

/// File system types that a container may be allowed to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    /// NFS.
    Nfs,
    /// CIFS (Samba).
    Cifs,
}

impl MountType {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            MountType::Nfs => "nfs",
            MountType::Cifs => "cifs",
        }
    }
}

/// A volume of a container: a new one of a size, or one that exists by its volume id.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.size) != has(self.volid)", "message": "give size for a new volume, or volid for one that exists"},
    {"rule": "!has(self.volid) || !has(self.storage)", "message": "volid names its storage itself: leave storage out"},
    {"rule": "!has(self.volid) || !has(self.reclaimPolicy) || self.reclaimPolicy == 'Retain'", "message": "a volume given by volid is never removed: leave reclaimPolicy out"}
]))]
pub struct Volume {
    /// Name of the volume, which identifies it permanently.
    #[schemars(schema_with = "schema::entry_name")]
    pub name: String,
    /// Storage. Absent: the hypervisor's `defaults.volumeStorage`, else its `defaults.rootfsStorage`.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Size of a new volume in whole MiB, such as 512Mi or 8Gi. It can grow, never shrink.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub size: Option<String>,
    /// Volume id of an existing volume of a container, such as local-zfs:subvol-105-disk-1. It is attached and detached,
    /// and never formatted, resized or removed. A directory (ZFS, btrfs) can be in several containers at once; a volume
    /// that is an image is attached only while no other container has it.
    #[serde(default)]
    #[schemars(schema_with = "schema::guest_volid")]
    pub volid: Option<String>,
    /// Where it is mounted in the container.
    #[schemars(schema_with = "schema::mount_path")]
    pub mount_path: String,
    /// What happens to it when the container is destroyed. Absent: Retain.
    pub reclaim_policy: Option<ReclaimPolicy>,
    /// Mounted read-only.
    pub read_only: Option<bool>,
    /// Included in Proxmox backups of the container.
    pub backup: Option<bool>,
    /// Mount options. Absent: unmanaged; empty: none.
    #[schemars(length(max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub mount_options: Option<Vec<MountOption>>,
    /// Whether access control lists work on it. Absent: unmanaged; Proxmox's own choice is the storage's.
    pub acl: Option<bool>,
    /// Whether disk quotas work on it, in privileged containers only. Absent: unmanaged; Proxmox's own choice is false.
    pub quota: Option<bool>,
    /// Whether Proxmox's replication includes it. Absent: unmanaged; Proxmox's own choice is true.
    pub replicate: Option<bool>,
    /// Whether it is available on all nodes anyway; this flag does not share it. Absent: unmanaged; Proxmox's own choice is
    /// false.
    pub shared: Option<bool>,
    /// How ids of users and groups in the container map to those on the volume: `passthrough` (the same), or entries `u:` or
    /// `g:` with the first id in the container, the first on the volume and how many, separated by ';'. Proxmox VE 9.2 and later.
    #[serde(default)]
    #[schemars(schema_with = "schema::mount_id_map")]
    pub idmap: Option<String>,
}

/// A directory of the node mounted into the container. Needs root@pam or SSH.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostMount {
    /// Name of the mount.
    #[schemars(schema_with = "schema::entry_name")]
    pub name: String,
    /// Directory on the node.
    #[schemars(schema_with = "schema::absolute_path")]
    pub host_path: String,
    /// Where it is mounted in the container.
    #[schemars(schema_with = "schema::mount_path")]
    pub mount_path: String,
    /// Mounted read-only.
    pub read_only: Option<bool>,
    /// Mount options. Absent: unmanaged; empty: none.
    #[schemars(length(max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub mount_options: Option<Vec<MountOption>>,
    /// Whether the directory is available on all nodes, so that the container may move; this flag does not share it.
    /// Absent: unmanaged; Proxmox's own choice is false.
    pub shared: Option<bool>,
    /// How ids of users and groups in the container map to those in the directory: `passthrough` (the same), or entries `u:`
    /// or `g:` with the first id in the container, the first on the node and how many, separated by ';'. Proxmox VE 9.2 and
    /// later; before that, map the ids of the whole container by `lxc.idmap` lines in `lxcOptions`.
    #[serde(default)]
    #[schemars(schema_with = "schema::mount_id_map")]
    pub idmap: Option<String>,
}

/// A mount option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountOption {
    /// Freed blocks are handed back to the storage.
    Discard,
    /// Timestamps are written lazily.
    Lazytime,
    /// Access times are not updated.
    Noatime,
    /// Device nodes have no effect.
    Nodev,
    /// Programs cannot be run.
    Noexec,
    /// Set-user-id and set-group-id bits have no effect.
    Nosuid,
}

impl MountOption {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            MountOption::Discard => "discard",
            MountOption::Lazytime => "lazytime",
            MountOption::Noatime => "noatime",
            MountOption::Nodev => "nodev",
            MountOption::Noexec => "noexec",
            MountOption::Nosuid => "nosuid",
        }
    }
}
