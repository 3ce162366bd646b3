//! What the credential may do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::lenient::scalar;
use super::{ApiCall, Client, Result};

/// GET /access/permissions: privileges of the credential by path. A privilege on a path holds below it as well, as far
/// as Proxmox lists it so.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Permissions(BTreeMap<String, BTreeMap<String, bool>>);

impl Permissions {
    /// Whether the credential has `privilege` on `path` (such as `/vms/100`), by its own entry or one above it that
    /// is passed down. An entry on a nearer path stands in place of those above it.
    pub fn allows(&self, path: &str, privilege: &str) -> bool {
        let mut at = path.trim_end_matches('/');
        let mut nearest = true;
        loop {
            let key = if at.is_empty() { "/" } else { at };
            if let Some(privileges) = self.0.get(key) {
                return privileges
                    .get(privilege)
                    .is_some_and(|passed_down| nearest || *passed_down);
            }
            if at.is_empty() {
                return false;
            }
            at = at.rsplit_once('/').map_or("", |(above, _)| above);
            nearest = false;
        }
    }

    /// The privileges listed for exactly `path`.
    pub fn on(&self, path: &str) -> BTreeSet<&str> {
        self.0
            .get(path)
            .into_iter()
            .flatten()
            .map(|(privilege, _)| privilege.as_str())
            .collect()
    }

    /// Paths with entries.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl From<Map<String, Value>> for Permissions {
    fn from(map: Map<String, Value>) -> Self {
        let privileges = |value: Value| match value {
            Value::Object(list) => list
                .into_iter()
                .map(|(name, down)| (name, scalar(&down).is_some_and(|d| d == "1")))
                .collect(),
            _ => BTreeMap::new(),
        };
        Self(map.into_iter().map(|(path, list)| (path, privileges(list))).collect())
    }
}

impl Client {
    /// The privileges of the credential that calls.
    pub async fn permissions(&self) -> Result<Permissions> {
        let map: Map<String, Value> = self.fetch(&ApiCall::get("/access/permissions")).await?;
        Ok(map.into())
    }
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn privileges_are_passed_down_unless_a_nearer_entry_stands() {
        let Value::Object(map) = json!({
            "/": {"Sys.Audit": 1, "VM.Allocate": 0}, "/vms": {"VM.Audit": 1, "VM.Clone": "0"}
        }) else {
            panic!()
        };
        let permissions = Permissions::from(map);
        assert!(permissions.allows("/", "VM.Allocate") && permissions.allows("/nodes/pve1", "Sys.Audit"));
        assert!(!permissions.allows("/storage/x", "VM.Allocate"));
        assert!(permissions.allows("/vms/100", "VM.Audit") && !permissions.allows("/vms/100", "VM.Clone"));
        assert!(!permissions.allows("/vms/100", "Sys.Audit"));
    }
}
