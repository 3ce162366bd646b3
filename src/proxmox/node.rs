//! One node: its appliance index and its graphics cards.

use serde::Deserialize;

use crate::pve::call::path;

use super::lenient::{opt_number, opt_text, text};
use super::{ApiCall, Client, Result};

/// One row of GET /nodes/{node}/aplinfo: a template that Proxmox knows where to download.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Appliance {
    /// File name, such as `debian-12-standard_12.7-1_amd64.tar.zst`.
    #[serde(deserialize_with = "text")]
    pub template: String,
    /// Name without version, such as `debian-12-standard`.
    #[serde(default, deserialize_with = "text")]
    pub package: String,
    /// Version, such as `12.7-1`.
    #[serde(default, deserialize_with = "text")]
    pub version: String,
    /// `system`, `turnkeylinux`, `mail`.
    #[serde(default, deserialize_with = "text")]
    pub section: String,
    /// `lxc`.
    #[serde(rename = "type", default, deserialize_with = "text")]
    pub kind: String,
    /// The operating system, such as `debian-12`.
    #[serde(default, deserialize_with = "text")]
    pub os: String,
    /// `amd64`.
    #[serde(default, deserialize_with = "opt_text")]
    pub architecture: Option<String>,
}

/// One row of GET /nodes/{node}/hardware/pci (facts F.6).
#[derive(Debug, Clone, Deserialize)]
pub struct PciDevice {
    /// Address, such as `0000:01:00.0`.
    #[serde(default, deserialize_with = "text")]
    pub id: String,
    /// `0x030000`.
    #[serde(default, deserialize_with = "text")]
    pub class: String,
    /// `0x10de`.
    #[serde(default, deserialize_with = "text")]
    pub vendor: String,
    /// What it is called.
    #[serde(default, deserialize_with = "opt_text")]
    pub device_name: Option<String>,
    /// Its IOMMU group; -1 without an IOMMU.
    #[serde(default, deserialize_with = "opt_number")]
    pub iommugroup: Option<i64>,
}

impl PciDevice {
    /// Whether it is a display controller or a processing accelerator.
    pub fn is_display(&self) -> bool {
        ["0x0300", "0x0302", "0x0380", "0x1200"]
            .iter()
            .any(|class| self.class.starts_with(class))
    }
}

/// The clock of a node.
#[derive(Debug, Clone, Deserialize)]
struct NodeTime {
    #[serde(default, deserialize_with = "opt_number")]
    time: Option<i64>,
}

/// One row of GET /nodes/{node}/network.
#[derive(Debug, Clone, Deserialize)]
struct Interface {
    #[serde(deserialize_with = "text")]
    iface: String,
}

impl Client {
    /// Version of Proxmox VE that `node` runs.
    pub async fn node_version(&self, node: &str) -> Result<String> {
        let version: super::cluster::Version = self.fetch(&ApiCall::get(path(["nodes", node, "version"]))).await?;
        Ok(version.version)
    }

    /// The clock of `node` in Unix time, if it tells it. Needs Sys.Audit on the node.
    pub async fn time(&self, node: &str) -> Result<Option<i64>> {
        let time: NodeTime = self.fetch(&ApiCall::get(path(["nodes", node, "time"]))).await?;
        Ok(time.time)
    }

    /// The bridges of `node` that the credential may use or look at, those of SDN among them.
    pub async fn bridges(&self, node: &str) -> Result<Vec<String>> {
        let call = ApiCall::get(path(["nodes", node, "network"])).param("type", "any_bridge");
        let rows: Vec<Interface> = self.fetch(&call).await?;
        Ok(rows.into_iter().map(|row| row.iface).collect())
    }

    /// The devices on the PCI bus of `node`. Needs Sys.Audit on `/` (facts F.6).
    pub async fn pci_devices(&self, node: &str) -> Result<Vec<PciDevice>> {
        self.fetch(&ApiCall::get(path(["nodes", node, "hardware", "pci"])))
            .await
    }

    /// How many GPUs of NVIDIA's `node` has. Needs Sys.Audit on `/` (facts F.6).
    pub async fn nvidia_gpus(&self, node: &str) -> Result<usize> {
        let rows = self.pci_devices(node).await?;
        let graphics = |row: &&PciDevice| row.vendor == "0x10de" && row.is_display();
        Ok(rows.iter().filter(graphics).count())
    }

    /// The appliance index of `node`; empty until the node has downloaded it.
    pub async fn appliances(&self, node: &str) -> Result<Vec<Appliance>> {
        self.fetch(&ApiCall::get(path(["nodes", node, "aplinfo"]))).await
    }
}
