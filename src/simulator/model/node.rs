//! Nodes and what their hardware offers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A graphics card of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// PCI address, for example `0000:01:00.0`.
    pub pci: String,
    /// Name as `nvidia-smi` prints it.
    pub model: String,
    /// UUID as `nvidia-smi` prints it.
    pub uuid: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Number of its device node, `/dev/nvidia<minor>`; the place in the list where none is given.
    #[serde(default)]
    pub minor: Option<u32>,
    /// Kernel driver that it is bound to; absent: the node's own, `nvidia` where the node has its driver.
    #[serde(default)]
    pub driver: Option<String>,
    /// Maker by PCI id: 10de, 1002 or 8086; absent: 10de.
    #[serde(default)]
    pub vendor: Option<String>,
    /// IOMMU group; the place in the list, from 1, where none is given.
    #[serde(default)]
    pub iommu_group: Option<i64>,
    /// Its nodes below `/dev/dri`, such as `card0` and `renderD128`.
    #[serde(default)]
    pub dri: Vec<String>,
    /// Whether it has fallen off the bus: the driver has it, and nvidia-smi does not list it.
    #[serde(default)]
    pub lost: bool,
    /// Faults that the driver reported since the node was booted: when, in milliseconds since 1970, and what, such as
    /// `79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.`
    #[serde(default)]
    pub xids: Vec<(u64, String)>,
    /// MIG instances; absent: MIG is off.
    #[serde(default)]
    pub mig: Option<Vec<MigInstance>>,
}

/// A MIG instance of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigInstance {
    /// UUID as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Profile, such as `3g.20gb`.
    pub profile: String,
    /// GPU instance.
    pub gi: u32,
    /// Compute instance.
    pub ci: u32,
}

impl Gpu {
    /// PCI id of its maker.
    pub fn maker(&self) -> &str {
        self.vendor.as_deref().unwrap_or("10de")
    }

    /// Kernel driver that it is bound to on a node with this NVIDIA driver.
    pub fn bound_to(&self, nvidia: Option<&str>) -> &str {
        let own = if self.maker() == "10de" && nvidia.is_some() {
            "nvidia"
        } else {
            ""
        };
        self.driver.as_deref().unwrap_or(own)
    }
}

/// A device on the PCI bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pci {
    /// Address, for example `0000:00:01.0`.
    pub id: String,
    /// Class, for example `0x060000`.
    pub class: String,
    /// Maker.
    pub vendor: String,
    /// Model.
    pub device: String,
    /// Maker of the card.
    pub subsystem_vendor: String,
    /// Model of the card.
    pub subsystem_device: String,
}

/// What runs the virtual machines of all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// Version.
    pub version: String,
    /// Built by Proxmox: one of a distribution does not know what Proxmox asks it for status.
    pub by_proxmox: bool,
    /// A machine whose disks are blank has no operating system: it does not react to anything. Otherwise somebody has
    /// set it up by hand, guest agent included.
    pub blank_is_empty: bool,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            version: "10.1.2".to_owned(),
            by_proxmox: true,
            blank_is_empty: false,
        }
    }
}

impl Qemu {
    /// Major and minor number.
    pub fn release(&self) -> &str {
        self.version
            .rsplit_once('.')
            .map_or(self.version.as_str(), |(release, _)| release)
    }
}

/// A network bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Largest packet.
    pub mtu: u32,
}

/// A Proxmox VE node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Address in the cluster.
    pub ip: String,
    /// False when it is off or cut off: calls for it answer 595.
    pub online: bool,
    /// CPU threads.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Boot in milliseconds since 1970.
    pub booted_at: u64,
    /// Version of control groups: 1 or 2.
    pub cgroup_mode: u8,
    /// What `cpuinfo` tells about the processor.
    pub cpu_model: BTreeMap<String, String>,
    /// Bridges by name.
    pub bridges: BTreeMap<String, Bridge>,
    /// Device files that exist below `/dev`.
    pub devices: BTreeSet<String>,
    /// Folders and files of the node that bind mounts may name.
    pub paths: BTreeSet<String>,
    /// Files that clients put on the node.
    #[serde(default)]
    pub files: BTreeMap<String, super::guest::GuestFile>,
    /// Graphics cards, in the order of their NVIDIA index.
    pub gpus: Vec<Gpu>,
    /// Other devices on the PCI bus.
    #[serde(default)]
    pub pci: Vec<Pci>,
    /// Version of the NVIDIA driver on the node.
    pub nvidia_driver: Option<String>,
    /// Seconds by which its clock is ahead; of the past where they are negative.
    #[serde(default)]
    pub clock_ahead: i64,
    /// The node's own settings, such as its `description`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

impl Node {
    /// Whether a device has this address on the PCI bus.
    pub fn has_pci(&self, id: &str) -> bool {
        self.gpus.iter().any(|gpu| gpu.pci == id) || self.pci.iter().any(|device| device.id == id)
    }
}
