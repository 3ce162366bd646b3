//! `PhoenixVM`: a QEMU/KVM virtual machine. Types only: the controller comes later.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::*;
use super::schema;
use super::status::GuestStatus;

/// A virtual machine on Proxmox VE.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "phoenix-hypervisor.io",
    version = "v1alpha1",
    kind = "PhoenixVM",
    plural = "phoenixvms",
    singular = "phoenixvm",
    shortname = "pvm",
    category = "phoenix",
    namespaced,
    status = "GuestStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A virtual machine on Proxmox VE. Not supported yet.",
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "VMID", type_ = "integer", json_path = ".status.vmid"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "IP", type_ = "string", json_path = ".status.ip"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PhoenixVMSpec {
    /// The PhoenixHypervisor that the machine lives on.
    pub hypervisor_ref: ObjectRef,
    /// The machine itself.
    #[serde(flatten)]
    pub guest: VmGuest,
    /// Probes that tell whether the machine works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Scripts run once after provisioning; their results never block Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tests: Option<Vec<GuestTest>>,
    /// Objects that must be Ready before the machine is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub depends_on: Option<Vec<Dependency>>,
    /// Whether the machine runs. Absent: Running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_state: Option<PowerState>,
    /// What happens to the machine when this object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Whether Phoenix may restart the machine for changes that need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_policy: Option<UpdatePolicy>,
}

/// The machine itself: what a PhoenixVM and a PhoenixTemplate of vm form share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmGuest {
    /// Proxmox node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub node: Option<String>,
    /// Proxmox id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::vmid")]
    pub vmid: Option<i64>,
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub hostname: Option<String>,
    /// What the machine is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<VmSource>,
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<VmCpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub memory: Option<String>,
    /// Machine type such as q35.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub machine: Option<String>,
    /// Firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<VmBios>,
    /// Disks; the first is the boot disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Option<Vec<VmDisk>>,
    /// Network interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub network: Option<Vec<Network>>,
    /// Name resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// What cloud-init sets up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
    /// QEMU guest agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<bool>,
    /// PCI devices passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub pci: Option<Vec<VmPci>>,
    /// Features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub features: Option<Vec<FeatureRef>>,
    /// The script that makes the machine what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Application>,
    /// When the node starts and stops the machine by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Guest firewall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<Firewall>,
    /// Proxmox tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub tags: Option<Vec<Tag>>,
    /// Proxmox pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub pool: Option<String>,
    /// Words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// Proxmox's protection against removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<bool>,
}

/// What a virtual machine is made from: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.templateRef) != has(self.cloudImage)", "message": "give exactly one of templateRef and cloudImage"}
]))]
pub struct VmSource {
    /// Clone of a PhoenixTemplate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<LocalRef>,
    /// A cloud image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_image: Option<CloudImage>,
}

/// A cloud image: exactly one of volid and url.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.volid) != has(self.url)", "message": "give exactly one of volid and url"},
    {"rule": "!has(self.url) || has(self.sha256)", "message": "url needs sha256, the checksum of the file"}
]))]
pub struct CloudImage {
    /// Volume with content import or iso, such as local:import/noble-server-cloudimg-amd64.qcow2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 255))]
    pub volid: Option<String>,
    /// URL of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::url")]
    pub url: Option<String>,
    /// SHA-256 of the file at url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::sha256")]
    pub sha256: Option<String>,
    /// Storage for the downloaded image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
}

/// Processors of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmCpu {
    /// CPU type such as host or x86-64-v3.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: Option<String>,
    /// Sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub sockets: Option<i64>,
    /// Cores of each socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub cores: Option<i64>,
}

/// Firmware of a virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmBios {
    /// Legacy BIOS.
    #[default]
    Seabios,
    /// UEFI.
    Ovmf,
}

/// A disk of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmDisk {
    /// Name of the disk.
    #[schemars(schema_with = "schema::entry_name")]
    pub name: String,
    /// Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::storage_id")]
    pub storage: Option<String>,
    /// Size. It can grow, never shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub size: Option<String>,
}

/// What cloud-init sets up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudInit {
    /// User.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub user: Option<String>,
    /// Password hash, from a key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash_secret_ref: Option<KeyRef>,
    /// SSH public keys, from a key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_keys_secret_ref: Option<KeyRef>,
    /// Packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub packages: Option<Vec<String>>,
    /// Further user-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub user_data: Option<String>,
}

/// A PCI device passed through: by resource mapping or by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.mapping) != has(self.address)", "message": "give exactly one of mapping and address"}
]))]
pub struct VmPci {
    /// Resource mapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub mapping: Option<String>,
    /// PCI address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pci_address")]
    pub address: Option<String>,
    /// Present as a PCI Express device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcie: Option<bool>,
}
