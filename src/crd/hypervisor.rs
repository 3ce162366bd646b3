//! `PhoenixHypervisor`: a Proxmox cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::pve::Vmid;

use super::common::*;
use super::host::Host;
use super::schema;
use super::status::HypervisorStatus;

/// A Proxmox VE cluster: how to reach it, what objects may use of it, and what they get by default.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "phoenix-hypervisor.io",
    version = "v1alpha1",
    kind = "PhoenixHypervisor",
    plural = "phoenixhypervisors",
    singular = "phoenixhypervisor",
    shortname = "phv",
    category = "phoenix",
    namespaced,
    status = "HypervisorStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A Proxmox VE cluster: how to reach it, what objects may use of it, and what they get by default.",
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodeNames"),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.gpuSummary", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.vmidRange) || !has(self.volumeOwners) || self.vmidRange.end < self.volumeOwners.idRange.start || self.volumeOwners.idRange.end < self.vmidRange.start",
     "message": "vmidRange and volumeOwners.idRange overlap: give them separate ids"},
    {"rule": "!has(self.allow) || !has(self.allow.vmids) || !has(self.volumeOwners) || self.allow.vmids.all(r, r.end < self.volumeOwners.idRange.start || self.volumeOwners.idRange.end < r.start)",
     "message": "allow.vmids and volumeOwners.idRange overlap: the owner containers' ids are nobody's"},
    {"rule": "!has(self.allow) || !has(self.allow.adopt) || !has(self.volumeOwners) || self.allow.adopt.all(id, id < self.volumeOwners.idRange.start || self.volumeOwners.idRange.end < id)",
     "message": "allow.adopt names an id of volumeOwners.idRange: the owner containers are nobody's"}
]))]
pub struct PhoenixHypervisorSpec {
    /// API endpoints: several nodes of one cluster, tried in turn.
    #[schemars(schema_with = "schema::endpoints")]
    pub endpoints: Vec<String>,
    /// How the endpoints' certificates are verified. Absent: by the system's certificate authorities.
    pub tls: Option<Tls>,
    /// Credentials for the API.
    pub credentials: Credentials,
    /// SSH to the nodes, for what the API cannot do: commands in containers, raw lxc lines, devices without root@pam.
    pub ssh: Option<Ssh>,
    /// Range from which guests that name no vmid get theirs.
    pub vmid_range: Option<IdRange>,
    /// The owner containers that keep volumes with reclaimPolicy Retain.
    pub volume_owners: Option<VolumeOwners>,
    /// Ids of earlier management clusters. Objects of this cluster take over the guests of those.
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub previous_cluster_ids: Option<Vec<String>>,
    /// Whether changes made outside Phoenix are corrected or only reported. Absent: Correct.
    pub drift_policy: Option<DriftPolicy>,
    /// What objects in other namespaces may use beyond their own guests. Absent: nothing.
    pub allow: Option<Allow>,
    /// Namespaces whose objects may use this hypervisor. Absent: its own only.
    pub allowed_namespaces: Option<AllowedNamespaces>,
    /// Values for fields that objects leave out on creation.
    pub defaults: Option<Defaults>,
    /// Limits on simultaneous work.
    pub limits: Option<Limits>,
    /// How often the cluster is polled. Absent: 10s.
    #[serde(default)]
    #[schemars(schema_with = "schema::duration")]
    pub poll_interval: Option<String>,
    /// NVIDIA driver version that the nodes should run. Not supported yet.
    #[schemars(length(min = 1, max = 32))]
    pub driver_version: Option<String>,
    /// What happens where the NVIDIA driver in a container has another version than the module of its node, as after an
    /// upgrade of the node: Report (the default), or Heal, with which the feature nvidia runs again, in one guest of a node
    /// at a time.
    pub driver_policy: Option<DriverPolicy>,
    /// What the nodes themselves should have. Not supported yet: reported as HostConfigured=False.
    pub host: Option<Host>,
}

/// What happens where a container's NVIDIA driver does not fit its node's module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriverPolicy {
    /// It is told.
    #[default]
    Report,
    /// The feature nvidia runs again.
    Heal,
}

/// How certificates are verified.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.caSecretRef), has(self.fingerprint), has(self.insecureSkipVerify) && self.insecureSkipVerify].filter(x, x).size() <= 1", "message": "give at most one of caSecretRef, fingerprint and insecureSkipVerify"}
]))]
pub struct Tls {
    /// Certificate authority in PEM, from a key of a Secret (Proxmox's own: /etc/pve/pve-root-ca.pem on a node).
    pub ca_secret_ref: Option<KeyRef>,
    /// SHA-256 fingerprint of the endpoint's certificate: 32 bytes in hexadecimal separated by colons.
    #[schemars(length(max = 95), regex(pattern = r"^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$"))]
    pub fingerprint: Option<String>,
    /// Verify nothing. Anybody on the network path can then read the credentials.
    pub insecure_skip_verify: Option<bool>,
}

/// Credentials for the API: a token, and root@pam's password where fields need it and there is no SSH.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.tokenSecretRef) || has(self.rootPasswordSecretRef)", "message": "give tokenSecretRef, rootPasswordSecretRef or both"}
]))]
pub struct Credentials {
    /// Secret with the keys `tokenId` (user@realm!name) and `secret`.
    pub token_secret_ref: Option<LocalRef>,
    /// Secret with the key `password` of root@pam.
    pub root_password_secret_ref: Option<LocalRef>,
}

/// SSH to the nodes.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ssh {
    /// User. Absent: root.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z_][a-z0-9_-]*$"))]
    pub user: Option<String>,
    /// Port. Absent: 22.
    #[serde(default)]
    #[schemars(schema_with = "schema::port")]
    pub port: Option<i64>,
    /// Address of each node by its Proxmox name. Absent: the address that Proxmox knows for the node.
    #[schemars(extend("maxProperties" = 64))]
    pub hosts: Option<BTreeMap<String, String>>,
    /// Private key, from a key of a Secret.
    pub key_secret_ref: KeyRef,
    /// Host keys of the nodes in known_hosts format, from a key of a Secret.
    pub known_hosts_secret_ref: KeyRef,
    /// Run commands through sudo. Default: false.
    pub sudo: Option<bool>,
}

/// A range of ids, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.start <= self.end", "message": "start must not be above end"}
]))]
pub struct IdRange {
    /// First id.
    #[schemars(schema_with = "schema::vmid")]
    pub start: i64,
    /// Last id.
    #[schemars(schema_with = "schema::vmid")]
    pub end: i64,
}

impl IdRange {
    /// First and last id. What is no guest's id is not in it, whatever the bounds say.
    pub fn ids(&self) -> (Vmid, Vmid) {
        let first = Vmid::try_from(self.start.max(Vmid::MIN.into()));
        let last = Vmid::try_from(self.end.min(Vmid::MAX.into()));
        match (first, last) {
            (Ok(first), Ok(last)) => (first, last),
            // No id is in it.
            _ => (Vmid::MAX, Vmid::MIN),
        }
    }
}

/// The owner containers: small, never started, protected; they hold retained volumes.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeOwners {
    /// Ids of the owner containers; separate from vmidRange.
    pub id_range: IdRange,
    /// Image that they are made from; any small one will do. With a '*', or without a version, the newest that fits. Absent: the
    /// image of the guest that needs the first one.
    #[serde(default)]
    #[schemars(schema_with = "schema::image_volid")]
    pub image: Option<String>,
    /// Storage of their root filesystems. Absent: `defaults.rootfsStorage`.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Pool that they are put in.
    #[schemars(length(min = 1, max = 128))]
    pub pool: Option<String>,
}

/// What happens to changes made outside Phoenix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriftPolicy {
    /// They are corrected.
    #[default]
    Correct,
    /// They are only reported.
    Report,
}

/// What objects outside the hypervisor's namespace may use beyond their own guests. What is absent is not allowed to them;
/// objects in the hypervisor's own namespace may use everything. What `defaults` and `vmidRange` give needs no entry.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    /// Ids of existing guests that the annotation adopt may name. Scripts can then be run in them.
    #[serde(default)]
    #[schemars(schema_with = "schema::vmids")]
    pub adopt: Option<Vec<i64>>,
    /// Ids that `vmid` may name.
    #[schemars(length(max = 32))]
    pub vmids: Option<Vec<IdRange>>,
    /// Bridges that network may name. On a VLAN-aware bridge an interface without vlan reaches all VLANs.
    #[serde(default)]
    #[schemars(schema_with = "schema::bridges")]
    pub bridges: Option<Vec<String>>,
    /// VLAN tags that network may name, on the bridges that it may use.
    #[schemars(length(max = 256), inner(range(min = 1, max = 4094)))]
    pub vlans: Option<Vec<i64>>,
    /// Pools that `pool` may name. Whoever has rights on a pool has them on its guests.
    #[serde(default)]
    #[schemars(schema_with = "schema::pools")]
    pub pools: Option<Vec<String>>,
    /// Storages that root filesystems, volumes, disks, images, snippets and cloud-init drives may name.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_ids")]
    pub storages: Option<Vec<String>>,
    /// Indices of GPUs that containers may name.
    #[schemars(length(max = 64), inner(range(min = 0, max = 63)))]
    pub gpus: Option<Vec<i64>>,
    /// Resource mappings that pci of machines may name. Devices by address are for the hypervisor's namespace only.
    #[serde(default)]
    #[schemars(schema_with = "schema::mappings")]
    pub pci_mappings: Option<Vec<String>>,
    /// Resource mappings that usb of machines may name. Devices by host are for the hypervisor's namespace only.
    #[serde(default)]
    #[schemars(schema_with = "schema::mappings")]
    pub usb_mappings: Option<Vec<String>>,
    /// Volume ids of hook scripts that machines may name. They run as root on the node.
    #[serde(default)]
    #[schemars(schema_with = "schema::snippet_volids")]
    pub hookscripts: Option<Vec<String>>,
    /// Whether containers may be privileged: in effect, root in them is root on the node.
    pub privileged: Option<bool>,
    /// Keys that lxcOptions may set, such as lxc.cgroup2.devices.allow, and lxc.apparmor.profile for apparmorProfile.
    /// Most of them give root on the node in effect.
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    pub lxc_options: Option<Vec<String>>,
    /// Directories of the node that hostMounts may name, and everything below them.
    #[serde(default)]
    #[schemars(schema_with = "schema::absolute_paths")]
    pub host_paths: Option<Vec<String>>,
    /// Capabilities of containers that reach the node's kernel. The others need no entry in unprivileged containers.
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub capabilities: Option<Vec<AllowedCapability>>,
    /// PhoenixTemplates in the hypervisor's namespace that may be cloned with whatever they carry: privileged mode, raw
    /// lines, devices, directories of the node. Templates that carry none of these need no entry.
    #[serde(default)]
    #[schemars(schema_with = "schema::object_names")]
    pub templates: Option<Vec<String>>,
    /// URLs from which nodes may download images: complete ones, or prefixes that end in '/'.
    #[serde(default)]
    #[schemars(schema_with = "schema::url_prefixes")]
    pub image_urls: Option<Vec<String>>,
    /// Whether boot.order, upDelay and downDelay may be set: the node's other guests wait for them.
    pub boot_order: Option<bool>,
}

/// A capability of containers that needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllowedCapability {
    /// Creating device nodes.
    Mknod,
    /// Mounting file systems.
    Mount,
}

/// Namespaces whose objects may use a hypervisor.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.from) && self.from == 'Selector') == has(self.selector)", "message": "selector belongs to from: Selector, and is needed there"}
]))]
pub struct AllowedNamespaces {
    /// Same, All or Selector. Default: Same.
    pub from: Option<NamespacesFrom>,
    /// Labels of the namespaces.
    pub selector: Option<LabelSelector>,
}

/// Which namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The hypervisor's own.
    #[default]
    Same,
    /// All.
    All,
    /// Those that the selector chooses.
    Selector,
}

/// Values for fields that objects leave out on creation.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Node for new guests.
    #[serde(default)]
    #[schemars(schema_with = "schema::hostname")]
    pub node: Option<String>,
    /// Storage for root filesystems of containers.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub rootfs_storage: Option<String>,
    /// Storage for volumes.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub volume_storage: Option<String>,
    /// Storage for disks of virtual machines.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub disk_storage: Option<String>,
    /// Storage for downloaded images.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub image_storage: Option<String>,
    /// Storage with content snippets for what cloud-init of virtual machines needs; SSH writes there.
    #[serde(default)]
    #[schemars(schema_with = "schema::storage_id")]
    pub snippet_storage: Option<String>,
    /// Bridge.
    #[serde(default)]
    #[schemars(schema_with = "schema::bridge")]
    pub bridge: Option<String>,
    /// Name resolution.
    pub dns: Option<Dns>,
    /// Time zone.
    #[schemars(length(min = 1, max = 64))]
    pub timezone: Option<String>,
    /// CPU cores.
    #[schemars(range(min = 1, max = 8192))]
    pub cores: Option<i64>,
    /// Memory.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub memory: Option<String>,
    /// Capabilities of containers.
    pub capabilities: Option<super::lxc::Capabilities>,
}

/// Limits on simultaneous work.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// How many Proxmox tasks Phoenix runs on one node at a time. Absent: 4.
    #[schemars(range(min = 1, max = 64))]
    pub parallel_tasks_per_node: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_only_ids_of_guests() {
        for (start, end, ids) in [
            (100, 199, 100..=199),
            (1, 150, 100..=150),
            (500, 5_000_000_000, 500..=999_999_999),
        ] {
            let (first, last) = IdRange { start, end }.ids();
            assert_eq!((first.into(), last.into()), (*ids.start(), *ids.end()));
        }
        for (start, end) in [(10, 50), (200, 100), (2_000_000_000, 3_000_000_000)] {
            let (first, last) = IdRange { start, end }.ids();
            assert!(first > last, "{start} to {end}");
        }
    }
}
