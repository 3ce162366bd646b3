//! Resource mappings: names for devices and directories of nodes (facts F.6).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::config;
use super::error::{ApiError, Result};
use super::property;
use super::state::State;

/// A mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// One entry for each node and alternative, as property string.
    pub map: Vec<String>,
    /// Further options: `description`, `mdev`, `live-migration-capable`.
    pub options: BTreeMap<String, String>,
}

impl State {
    /// Mappings of a kind.
    pub fn mappings_of(&self, kind: &str) -> BTreeMap<String, Mapping> {
        self.mappings.get(kind).cloned().unwrap_or_default()
    }

    /// Digest of the file that holds the mappings of a kind.
    pub fn mapping_digest(&self, kind: &str) -> String {
        let mut text = String::new();
        for (id, mapping) in self.mappings.get(kind).into_iter().flatten() {
            let _ = writeln!(text, "{id}\n\t{:?}\n\t{:?}", mapping.map, mapping.options);
        }
        config::digest(&text)
    }

    /// Addresses of the cards that a mapping offers on a node.
    pub(super) fn mapped_pci(&self, node: &str, id: &str) -> Result<Vec<String>> {
        let mapping = self.mappings.get("pci").and_then(|all| all.get(id));
        let paths: Vec<String> = mapping
            .into_iter()
            .flat_map(|mapping| &mapping.map)
            .map(|entry| property::parse(entry, ""))
            .filter(|entry| entry.get("node").is_some_and(|name| name == node))
            .filter_map(|mut entry| entry.remove("path"))
            .collect();
        if paths.is_empty() {
            return Err(ApiError::die(format!("PCI device mapping not found for '{id}'")));
        }
        Ok(paths)
    }

    /// What a mapping promises that a node does not keep.
    pub fn mapping_problem(&self, kind: &str, node: &str, mapping: &Mapping) -> Option<String> {
        let entries = mapping.map.iter().map(|entry| property::parse(entry, ""));
        let mut here = entries
            .filter(|entry| entry.get("node").is_some_and(|name| name == node))
            .peekable();
        if here.peek().is_none() {
            return Some(format!("No mapping for node {node}."));
        }
        let found = self.nodes.get(node)?;
        here.find_map(|entry| {
            let path = entry.get("path").map(String::as_str).unwrap_or_default();
            let there = match kind {
                "pci" => found.has_pci(path),
                "dir" => found.paths.iter().any(|known| known.starts_with(path)),
                _ => true,
            };
            let text = format!("Invalid configuration: {kind} device '{path}' not found\n");
            (!there).then_some(text)
        })
    }
}
