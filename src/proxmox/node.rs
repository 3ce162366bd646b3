//! One node: its guests, tasks and the appliance index.

use serde::Deserialize;

use super::lenient::{boolean, list, number, opt_number, opt_text, text};
use super::{ApiCall, Client, Result};
use crate::pve::call::path;

/// One row of GET /nodes/{node}/lxc: live values, unlike those of the cluster's resources.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct LxcRow {
    /// The container's id.
    #[serde(deserialize_with = "number")]
    pub vmid: u32,
    /// `running` or `stopped`.
    #[serde(default, deserialize_with = "text")]
    pub status: String,
    /// The hostname.
    #[serde(default, deserialize_with = "opt_text")]
    pub name: Option<String>,
    /// The config lock.
    #[serde(default, deserialize_with = "opt_text")]
    pub lock: Option<String>,
    /// The tags.
    #[serde(default, deserialize_with = "list")]
    pub tags: Vec<String>,
    /// Whether it is a template.
    #[serde(default, deserialize_with = "boolean")]
    pub template: bool,
    /// Since start, in seconds.
    #[serde(default, deserialize_with = "opt_number")]
    pub uptime: Option<u64>,
}

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

impl Client {
    /// The containers of `node` that the credential may see.
    pub async fn lxc_list(&self, node: &str) -> Result<Vec<LxcRow>> {
        self.fetch(&ApiCall::get(path(["nodes", node, "lxc"]))).await
    }

    /// The appliance index of `node`; empty until the node has downloaded it.
    pub async fn appliances(&self, node: &str) -> Result<Vec<Appliance>> {
        self.fetch(&ApiCall::get(path(["nodes", node, "aplinfo"]))).await
    }
}
