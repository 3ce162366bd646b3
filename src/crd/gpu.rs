//! GPUs: what a container asks for, what it was given, and what a hypervisor has.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::schema;

/// One GPU or several: by index, by PCI address, by UUID, or by count.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.index), has(self.pciAddress), has(self.uuid), has(self.count)].filter(x, x).size() == 1", "message": "give exactly one of index, pciAddress, uuid and count"},
    {"rule": "has(self.count) || (!has(self.model) && !has(self.vramAtLeast))", "message": "model and vramAtLeast choose among counted GPUs: give count, or leave them out"},
    {"rule": "!has(self.vramShare) || !has(self.vramGiB)", "message": "give vramShare or vramGiB, not both"},
    {"rule": "!has(self.exclusive) || !self.exclusive || (!has(self.vramShare) && !has(self.vramGiB))", "message": "exclusive takes the whole GPU: leave vramShare and vramGiB out"}
]))]
pub struct Gpu {
    /// Index on the node, as nvidia-smi counts. The card that has it when the GPU is chosen is kept by its PCI address and
    /// UUID, also when the node counts differently later.
    #[schemars(range(min = 0, max = 63))]
    pub index: Option<i64>,
    /// PCI address such as 0000:01:00.0.
    #[serde(default)]
    #[schemars(schema_with = "schema::pci_address")]
    pub pci_address: Option<String>,
    /// UUID as nvidia-smi -L prints it: GPU-… of a card, or MIG-… of an instance of one.
    #[schemars(
        length(max = 48),
        regex(pattern = r"^(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    )]
    pub uuid: Option<String>,
    /// Number of GPUs, chosen by Phoenix once: those with most memory left.
    #[schemars(range(min = 1, max = 16))]
    pub count: Option<i64>,
    /// What the model of counted GPUs contains, such as RTX 5060 Ti; upper and lower case are the same.
    #[schemars(length(min = 1, max = 128))]
    pub model: Option<String>,
    /// Memory that counted GPUs have at least.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub vram_at_least: Option<String>,
    /// Share of the GPU's memory that the container may use, above 0 and at most 1. The shares of all objects on a GPU add
    /// up to 1 at most. Absent: vllm.gpuMemoryUtilization, or its default, where the container runs vLLM; else no share is
    /// counted.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub vram_share: Option<f64>,
    /// The same in GiB.
    #[serde(rename = "vramGiB")]
    #[schemars(range(min = 0.1, max = 4096.0))]
    pub vram_gib: Option<f64>,
    /// Whether nobody else may have the GPU.
    pub exclusive: Option<bool>,
    /// Whether the container gets the nodes of the card below /dev/dri, too: for video and graphics. Cards of AMD and Intel
    /// are used through them anyway.
    pub dri: Option<bool>,
    /// Permissions of the device nodes in octal. Absent: 0666.
    #[serde(default)]
    #[schemars(length(max = 4), regex(pattern = r"^0?[0-7]{3}$"))]
    pub mode: Option<String>,
    /// Id of the group in the container that the device nodes belong to. Absent: as it is, 0 for new ones.
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub gid: Option<i64>,
}

/// A GPU that an object was given. It is kept by PCI address and UUID.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivenGpu {
    /// What the spec asks for, such as index=1 or count=2/RTX 5060 Ti.
    #[schemars(length(max = 256))]
    pub selector: String,
    /// Node.
    #[schemars(length(max = 63))]
    pub node: String,
    /// PCI address.
    #[schemars(length(max = 32))]
    pub pci_address: String,
    /// UUID, where NVIDIA's driver told it.
    #[schemars(length(max = 64))]
    pub uuid: Option<String>,
    /// Model.
    #[schemars(length(max = 128))]
    pub model: Option<String>,
    /// Index as nvidia-smi counted when it was seen last.
    pub index: Option<i64>,
    /// Number of its device node, /dev/nvidia<minor>.
    pub minor: Option<i64>,
    /// Share of its memory that the object may use.
    pub share: Option<f64>,
    /// Whether nobody else may have it.
    pub exclusive: Option<bool>,
    /// Whether the object gave it back, because it is stopped: it has to find room when it starts.
    pub released: Option<bool>,
}

/// A GPU of a node.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuStatus {
    /// Node.
    #[schemars(length(max = 63))]
    pub node: String,
    /// PCI address.
    #[schemars(length(max = 32))]
    pub pci_address: String,
    /// Index as nvidia-smi counts.
    pub index: Option<i64>,
    /// Number of its device node, /dev/nvidia<minor>; it can differ from the index.
    pub minor: Option<i64>,
    /// UUID of NVIDIA's.
    #[schemars(length(max = 64))]
    pub uuid: Option<String>,
    /// NVIDIA, AMD or Intel.
    #[schemars(length(max = 16))]
    pub vendor: String,
    /// Model.
    #[schemars(length(max = 128))]
    pub model: Option<String>,
    /// Memory.
    #[schemars(length(max = 32))]
    pub memory: Option<String>,
    /// How it can be used: nvidia, vfio (by machines), nouveau, another kernel driver, or none. Absent: only the API told of
    /// the card, which does not say.
    #[schemars(length(max = 64))]
    pub mode: Option<String>,
    /// Version of NVIDIA's driver.
    #[schemars(length(max = 32))]
    pub driver_version: Option<String>,
    /// IOMMU group.
    pub iommu_group: Option<i64>,
    /// PCI addresses of the other members of the IOMMU group: they go to a machine together.
    #[schemars(length(max = 64))]
    pub iommu_members: Option<Vec<String>>,
    /// Device nodes that containers with it need.
    #[schemars(length(max = 32))]
    pub device_nodes: Option<Vec<String>>,
    /// Those of them that are not there.
    #[schemars(length(max = 32))]
    pub missing_device_nodes: Option<Vec<String>>,
    /// Whether persistence mode is on.
    pub persistence_mode: Option<bool>,
    /// MIG instances. Absent: MIG is off.
    #[schemars(length(max = 64))]
    pub mig: Option<Vec<MigStatus>>,
    /// The last fault since the node was booted after which something must be restarted.
    pub fault: Option<GpuFault>,
    /// Who has it.
    #[schemars(length(max = 128))]
    pub users: Option<Vec<GpuUser>>,
}

/// A MIG instance.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigStatus {
    /// UUID.
    #[schemars(length(max = 64))]
    pub uuid: String,
    /// Profile, such as 3g.20gb.
    #[schemars(length(max = 64))]
    pub profile: String,
}

/// A fault of a GPU that its driver reported.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuFault {
    /// Number of NVIDIA's Xid error.
    pub xid: i64,
    /// When.
    pub at: Option<Time>,
    /// The driver's words.
    #[schemars(length(max = 256))]
    pub message: String,
}

/// Who has a GPU: an object, or a guest that is no object's.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuUser {
    /// Kind, namespace and name of the object; absent for guests that are no object's.
    #[schemars(length(max = 400))]
    pub object: Option<String>,
    /// The guest.
    pub vmid: Option<i64>,
    /// Share of the memory that it may use.
    pub share: Option<f64>,
    /// Whether nobody else may have it.
    pub exclusive: Option<bool>,
}
