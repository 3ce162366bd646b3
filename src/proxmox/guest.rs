//! Guests of either sort: config, pending changes, status, snapshots; a container's addresses (facts D, F).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::pve::GuestRef;

use super::lenient::{boolean, list, number, opt_number, opt_text, scalar, text, text_map};
use super::{ApiCall, Client, Error, Result};

/// GET …/config.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GuestConfig {
    /// SHA-1 of the config file: goes with every write that was decided on this read.
    pub digest: String,
    /// The config lock (facts B.5).
    pub lock: Option<String>,
    /// Every other option as text; property strings unparsed.
    pub options: BTreeMap<String, String>,
    /// Raw `lxc.*` lines in file order.
    pub raw: Vec<(String, String)>,
}

impl GuestConfig {
    /// The option of that name.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// The description without the line end that Proxmox adds (facts K.2.15).
    pub fn description(&self) -> Option<&str> {
        self.get("description").map(str::trim_end)
    }
}

impl TryFrom<Value> for GuestConfig {
    type Error = String;

    fn try_from(data: Value) -> Result<Self, String> {
        let Value::Object(mut map) = data else {
            return Err("the config is no object".into());
        };
        let digest = map
            .remove("digest")
            .as_ref()
            .and_then(scalar)
            .ok_or("the config has no digest")?;
        let lock = map.remove("lock").as_ref().and_then(scalar);
        let raw = match map.remove("lxc") {
            Some(pairs) => serde_json::from_value(pairs).map_err(|e| format!("lxc: {e}"))?,
            None => Vec::new(),
        };
        Ok(Self {
            digest,
            lock,
            raw,
            options: text_map(map),
        })
    }
}

/// One row of GET …/pending: what a restart would change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PendingOption {
    /// The option.
    #[serde(deserialize_with = "text")]
    pub key: String,
    /// The value in force.
    #[serde(default, deserialize_with = "opt_text")]
    pub value: Option<String>,
    /// The value after a restart.
    #[serde(default, deserialize_with = "opt_text")]
    pub pending: Option<String>,
    /// 1 or 2: removed by a restart.
    #[serde(default, deserialize_with = "number")]
    pub delete: u8,
}

impl PendingOption {
    /// Whether a restart changes it.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some() || self.delete > 0
    }
}

/// GET …/status/current.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct GuestState {
    /// `running` or `stopped`.
    #[serde(deserialize_with = "text")]
    pub status: String,
    /// The hostname.
    #[serde(default, deserialize_with = "opt_text")]
    pub name: Option<String>,
    /// The config lock.
    #[serde(default, deserialize_with = "opt_text")]
    pub lock: Option<String>,
    /// Since start, in seconds.
    #[serde(default, deserialize_with = "opt_number")]
    pub uptime: Option<u64>,
    /// Process id on the node, while it runs.
    #[serde(default, deserialize_with = "opt_number")]
    pub pid: Option<i64>,
    /// The tags.
    #[serde(default, deserialize_with = "list")]
    pub tags: Vec<String>,
    /// Whether it is a template.
    #[serde(default, deserialize_with = "boolean")]
    pub template: bool,
    /// Size of the root volume, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub maxdisk: Option<u64>,
    /// Memory limit, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub maxmem: Option<u64>,
    /// High availability.
    #[serde(default)]
    pub ha: HaState,
}

impl GuestState {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.status == "running"
    }
}

/// Whether high availability manages the guest: then start and stop end before they took effect.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct HaState {
    /// Managed.
    #[serde(default, deserialize_with = "boolean")]
    pub managed: bool,
}

/// One snapshot. The pseudo-snapshot `current` is left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Snapshot {
    /// Its name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// When it was taken, in seconds since 1970.
    #[serde(default, deserialize_with = "opt_number")]
    pub snaptime: Option<i64>,
    /// The snapshot before it.
    #[serde(default, deserialize_with = "opt_text")]
    pub parent: Option<String>,
    /// `prepare` or `delete` while it is being taken or removed.
    #[serde(default, deserialize_with = "opt_text")]
    pub snapstate: Option<String>,
    /// Its description.
    #[serde(default, deserialize_with = "opt_text")]
    pub description: Option<String>,
}

/// One network interface inside a running container, loopback and bridges included.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Interface {
    /// Its name in the container.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// MAC.
    #[serde(default, deserialize_with = "opt_text")]
    pub hwaddr: Option<String>,
    /// Last IPv4 address with prefix length.
    #[serde(default, deserialize_with = "opt_text")]
    pub inet: Option<String>,
    /// Last IPv6 address with prefix length.
    #[serde(default, deserialize_with = "opt_text")]
    pub inet6: Option<String>,
    /// Every address; absent before Proxmox 8.4.
    #[serde(rename = "ip-addresses", default)]
    pub addresses: Vec<Address>,
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Address {
    /// Without prefix length.
    #[serde(rename = "ip-address", deserialize_with = "text")]
    pub address: String,
    /// Prefix length.
    #[serde(default, deserialize_with = "opt_number")]
    pub prefix: Option<u8>,
}

impl Client {
    /// The config as it will be after a restart; `current` gives it as it is in force.
    pub async fn guest_config(&self, at: &GuestRef, current: bool) -> Result<GuestConfig> {
        let call = ApiCall::get(at.path_of(&["config"])).param_opt("current", current.then_some(1));
        self.read_config(&call).await
    }

    /// The config that a snapshot holds.
    pub async fn guest_snapshot_config(&self, at: &GuestRef, snapshot: &str) -> Result<GuestConfig> {
        let call = ApiCall::get(at.path_of(&["config"])).param("snapshot", snapshot);
        self.read_config(&call).await
    }

    async fn read_config(&self, call: &ApiCall) -> Result<GuestConfig> {
        let data = self.call(call).await?;
        GuestConfig::try_from(data).map_err(|message| Error::Decode {
            call: format!("GET {}", call.path),
            message,
        })
    }

    /// Every option with what a restart would make of it.
    pub async fn guest_pending(&self, at: &GuestRef) -> Result<Vec<PendingOption>> {
        self.fetch(&ApiCall::get(at.path_of(&["pending"]))).await
    }

    /// Running or not, lock, uptime.
    pub async fn guest_state(&self, at: &GuestRef) -> Result<GuestState> {
        self.fetch(&ApiCall::get(at.path_of(&["status", "current"]))).await
    }

    /// The snapshots.
    pub async fn guest_snapshots(&self, at: &GuestRef) -> Result<Vec<Snapshot>> {
        let mut rows: Vec<Snapshot> = self.fetch(&ApiCall::get(at.path_of(&["snapshot"]))).await?;
        rows.retain(|row| row.name != "current");
        Ok(rows)
    }

    /// The interfaces; none of a stopped container.
    pub async fn lxc_interfaces(&self, at: &GuestRef) -> Result<Vec<Interface>> {
        let rows: Option<Vec<Interface>> = self.fetch(&ApiCall::get(at.path_of(&["interfaces"]))).await?;
        Ok(rows.unwrap_or_default())
    }
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn configs_are_read_whole() {
        let data = json!({"digest": "7d45", "lock": "create", "memory": 512, "cores": "2", "template": 1,
            "description": "hi\n", "mp0": "zfs:subvol-1,mp=/a", "lxc": [["lxc.apparmor.profile", "unconfined"]]});
        let config = GuestConfig::try_from(data).unwrap();
        assert_eq!(
            (config.digest.as_str(), config.lock.as_deref()),
            ("7d45", Some("create"))
        );
        assert_eq!((config.get("memory"), config.get("cores")), (Some("512"), Some("2")));
        assert_eq!(config.description(), Some("hi"));
        assert_eq!(
            config.raw,
            [("lxc.apparmor.profile".to_owned(), "unconfined".to_owned())]
        );
        assert!(config.get("digest").is_none() && config.get("lxc").is_none());
        assert!(GuestConfig::try_from(json!({"memory": 5})).is_err());
    }

    #[test]
    fn pending_rows_tell_what_a_restart_changes() {
        let rows = json!([{"key": "unprivileged", "value": 1}, {"key": "nameserver", "value": "a", "pending": "b"},
            {"key": "tty", "value": 2, "delete": 1}]);
        let rows: Vec<PendingOption> = serde_json::from_value(rows).unwrap();
        assert_eq!(
            rows.iter().map(PendingOption::is_pending).collect::<Vec<_>>(),
            [false, true, true]
        );
    }
}
