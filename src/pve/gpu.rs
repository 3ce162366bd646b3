//! Graphics cards of a node as its kernel and NVIDIA's driver tell of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::pve::{GuestType, Vmid};

/// Who made a card, by its PCI vendor id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vendor {
    /// 10de.
    #[default]
    Nvidia,
    /// 1002.
    Amd,
    /// 8086.
    Intel,
}

impl Vendor {
    /// The vendor of a PCI id such as `0x10de`; `None`: its cards are no concern of containers.
    pub fn of_id(id: &str) -> Option<Vendor> {
        match id.trim_start_matches("0x") {
            "10de" => Some(Vendor::Nvidia),
            "1002" => Some(Vendor::Amd),
            "8086" => Some(Vendor::Intel),
            _ => None,
        }
    }

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Vendor::Nvidia => "NVIDIA",
            Vendor::Amd => "AMD",
            Vendor::Intel => "Intel",
        }
    }
}

/// A MIG instance of a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigInstance {
    /// `MIG-…`, as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Profile such as `3g.20gb`.
    pub profile: String,
    /// GPU instance and compute instance, where they are known.
    pub ids: Option<(u32, u32)>,
    /// Device nodes that a container needs for it beside those of the card (`/dev/nvidia-caps/nvidia-capN`).
    pub caps: Vec<String>,
}

/// The last fault of a card that its driver reported since the node was booted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xid {
    /// NVIDIA's number, such as 79.
    pub number: u32,
    /// When, as Unix time in seconds; `None` where the log does not tell.
    pub at: Option<i64>,
    /// The driver's words.
    pub words: String,
}

/// Faults after which a card, or what ran on it, works no more before something is restarted. Others are those of the
/// program that ran (13, 31, 43, 45, 68, …). From NVIDIA's table of Xid errors.
const SERIOUS: &[u32] = &[
    46, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 109, 110, 119, 120, 136, 140, 143, 154,
];

impl Xid {
    /// Whether the card, or what ran on it, works no more before something is restarted.
    pub fn is_serious(&self) -> bool {
        SERIOUS.contains(&self.number)
    }
}

/// How a card does at the moment it was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Memory in use, in MiB.
    pub memory_used_mib: Option<f64>,
    /// Utilization in percent.
    pub utilization: Option<f64>,
    /// Temperature in degrees Celsius.
    pub temperature: Option<f64>,
    /// Power draw in watts.
    pub watts: Option<f64>,
}

/// A graphics card of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// PCI address such as `0000:01:00.0`.
    pub address: String,
    /// Who made it.
    pub vendor: Vendor,
    /// Model, where anybody names it.
    pub model: Option<String>,
    /// Kernel driver that it is bound to.
    pub driver: Option<String>,
    /// Version of NVIDIA's driver.
    pub driver_version: Option<String>,
    /// Index as nvidia-smi counts.
    pub index: Option<u32>,
    /// Number of its device node, `/dev/nvidia<minor>`, which may differ from the index.
    pub minor: Option<u32>,
    /// NVIDIA's UUID.
    pub uuid: Option<String>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// IOMMU group, where the node has an IOMMU.
    pub iommu_group: Option<i64>,
    /// PCI addresses of the group's other members.
    pub iommu_members: Vec<String>,
    /// Its nodes below `/dev/dri`, such as `/dev/dri/card0` and `/dev/dri/renderD128`.
    pub dri: Vec<String>,
    /// Whether its persistence mode is on.
    pub persistence: Option<bool>,
    /// MIG instances; `None` where MIG is off.
    pub mig: Option<Vec<MigInstance>>,
    /// Faults since the node was booted, the last one last.
    pub xids: Vec<Xid>,
    /// How it does.
    pub reading: Reading,
}

impl Card {
    /// What the card is used through: `nvidia`, `vfio`, `nouveau`, another driver's name, or `none`.
    pub fn mode(&self) -> &str {
        match self.driver.as_deref() {
            None | Some("") => "none",
            Some("vfio-pci") => "vfio",
            Some(driver) => driver,
        }
    }

    /// Whether it belongs to machines: bound to vfio.
    pub fn is_passed_through(&self) -> bool {
        self.mode() == "vfio"
    }

    /// Device nodes that a container needs for it.
    pub fn nodes(&self) -> Vec<String> {
        match self.vendor {
            Vendor::Nvidia => {
                let own = self.minor.map(|minor| format!("/dev/nvidia{minor}"));
                own.into_iter().chain(NVIDIA_SHARED.map(String::from)).collect()
            }
            Vendor::Amd => self.render().chain(["/dev/kfd".to_string()]).collect(),
            Vendor::Intel => self.render().collect(),
        }
    }

    fn render(&self) -> impl Iterator<Item = String> + '_ {
        self.dri.iter().filter(|path| path.contains("/renderD")).cloned()
    }

    /// The PCI addresses of its IOMMU group, its own among them.
    pub fn iter_group(&self) -> impl Iterator<Item = &String> {
        self.iommu_members.iter().chain([&self.address])
    }

    /// Its IOMMU group for a message.
    pub fn group_in_words(&self) -> String {
        self.iommu_group
            .map_or_else(|| "unknown".into(), |group| group.to_string())
    }

    /// The last fault after which something must be restarted.
    pub fn fault(&self) -> Option<&Xid> {
        self.xids.iter().rev().find(|xid| xid.is_serious())
    }

    /// Whether NVIDIA's driver has the card and nvidia-smi does not list it, as when it has fallen off the bus.
    pub fn does_not_answer(&self) -> bool {
        self.vendor == Vendor::Nvidia && self.mode() == "nvidia" && self.index.is_none()
    }

    /// The card in words: `0000:01:00.0 (NVIDIA GeForce RTX 5060 Ti)`.
    pub fn named(&self) -> String {
        match &self.model {
            Some(model) => format!("{} ({model})", self.address),
            None => self.address.clone(),
        }
    }
}

/// Device nodes that all NVIDIA cards of a node share, and each container with one needs.
pub const NVIDIA_SHARED: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];

/// What a guest's configuration names of a node's cards, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The guest.
    pub vmid: Vmid,
    /// Container or machine.
    pub sort: GuestType,
    /// Device nodes of `devN` and of raw mount entries.
    pub nodes: BTreeSet<String>,
    /// PCI addresses and names of mappings of `hostpciN`.
    pub devices: BTreeSet<String>,
}

/// The cards of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCards {
    /// Cards by PCI address.
    pub cards: BTreeMap<String, Card>,
    /// Device nodes that are there.
    pub nodes: BTreeSet<String>,
    /// Guests with devices in their configuration.
    pub holders: Vec<Holder>,
    /// PCI addresses that each resource mapping offers on this node.
    pub mappings: BTreeMap<String, Vec<String>>,
    /// Version of NVIDIA's kernel module.
    pub module: Option<String>,
    /// Why nvidia-smi could not be asked, in its own words.
    pub smi_error: Option<String>,
    /// Whether the node itself was asked; else only the API.
    pub over_ssh: bool,
}

impl NodeCards {
    /// Device nodes that containers with the card need and that are not there. Only the node itself can tell.
    pub fn missing(&self, card: &Card) -> Vec<String> {
        self.missing_of(&card.nodes())
    }

    /// The same of these device nodes.
    pub fn missing_of(&self, nodes: &[String]) -> Vec<String> {
        let missing = nodes.iter().filter(|path| self.over_ssh && !self.nodes.contains(*path));
        missing.cloned().collect()
    }

    /// Whether a guest has a card in its configuration.
    pub fn holds(&self, holder: &Holder, card: &Card) -> bool {
        let own = match card.vendor {
            Vendor::Nvidia => card
                .minor
                .map(|minor| format!("/dev/nvidia{minor}"))
                .into_iter()
                .collect(),
            _ => card.dri.clone(),
        };
        let by_node = own.iter().any(|path| holder.nodes.contains(path));
        by_node || holder.devices.iter().any(|device| self.is_of(device, card))
    }

    /// Whether what `hostpci` names takes a card away: itself, by function or as a whole, or one of its IOMMU group.
    fn is_of(&self, device: &str, card: &Card) -> bool {
        let addresses = match self.mappings.get(device) {
            Some(addresses) => addresses.as_slice(),
            None => &[device.to_string()],
        };
        card.iter_group()
            .any(|member| addresses.iter().any(|a| names(a, member)))
    }
}

/// Whether an address as Proxmox takes it, such as `01:00` or `0000:01:00.0`, names a device.
pub fn names(address: &str, device: &str) -> bool {
    let full = match address.matches(':').count() {
        1 => format!("0000:{address}"),
        _ => address.to_string(),
    };
    device == full || device.strip_prefix(&full).is_some_and(|rest| rest.starts_with('.'))
}
