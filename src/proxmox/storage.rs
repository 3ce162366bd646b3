//! Storages of a node and what is on them (facts G).

use serde::Deserialize;

use crate::pve::Vmid;
use crate::pve::call::path;

use super::lenient::{boolean, list, number, opt_number, opt_text, text};
use super::{ApiCall, Client, Result};

/// One storage as a node sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Storage {
    /// Its name.
    #[serde(deserialize_with = "text")]
    pub storage: String,
    /// `zfspool`, `dir`, `lvmthin`, …
    #[serde(rename = "type", default, deserialize_with = "text")]
    pub kind: String,
    /// Content types that it may hold (`rootdir`, `vztmpl`, …).
    #[serde(default, deserialize_with = "list")]
    pub content: Vec<String>,
    /// Usable now.
    #[serde(default, deserialize_with = "boolean")]
    pub active: bool,
    /// Not switched off.
    #[serde(default, deserialize_with = "boolean")]
    pub enabled: bool,
    /// All nodes see the same content.
    #[serde(default, deserialize_with = "boolean")]
    pub shared: bool,
    /// Free, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub avail: Option<u64>,
    /// Size, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub total: Option<u64>,
}

/// One volume on a storage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Volume {
    /// `storage:name`
    #[serde(deserialize_with = "text")]
    pub volid: String,
    /// `rootdir`, `images`, `vztmpl`, …
    #[serde(default, deserialize_with = "text")]
    pub content: String,
    /// `subvol`, `raw`, `tzst`, …
    #[serde(default, deserialize_with = "text")]
    pub format: String,
    /// In bytes.
    #[serde(default, deserialize_with = "number")]
    pub size: u64,
    /// The guest whose id is in the name.
    #[serde(default, deserialize_with = "opt_number")]
    pub vmid: Option<u32>,
    /// The base that it is a linked clone of.
    #[serde(default, deserialize_with = "opt_text")]
    pub parent: Option<String>,
}

impl Client {
    /// The storages of `node` that the credential may see.
    pub async fn storages(&self, node: &str) -> Result<Vec<Storage>> {
        self.fetch(&ApiCall::get(path(["nodes", node, "storage"]))).await
    }

    /// What is on a storage, narrowed to a content type or a guest.
    pub async fn storage_content(
        &self,
        node: &str,
        storage: &str,
        content: Option<&str>,
        vmid: Option<Vmid>,
    ) -> Result<Vec<Volume>> {
        let call = ApiCall::get(path(["nodes", node, "storage", storage, "content"]))
            .param_opt("content", content)
            .param_opt("vmid", vmid);
        self.fetch(&call).await
    }
}
