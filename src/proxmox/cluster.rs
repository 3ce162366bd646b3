//! The cluster: version, members, resources, free vmids, pools (facts C).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::pve::Vmid;
use crate::pve::call::path;

use super::lenient::{boolean, list, opt_number, opt_text, text};
use super::{ApiCall, Client, Error, Result};

/// GET /version.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Version {
    /// Full version, such as `9.1.4`.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// Release, such as `9.1`.
    #[serde(default, deserialize_with = "text")]
    pub release: String,
}

/// GET /cluster/status, its rows put together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterStatus {
    /// The cluster's name; `None` for a node that is in no cluster.
    pub name: Option<String>,
    /// Whether writes can be made; a single node always can.
    pub quorate: bool,
    /// The members.
    pub nodes: Vec<ClusterNode>,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ClusterNode {
    /// Node name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Whether the cluster sees it.
    #[serde(default, deserialize_with = "boolean")]
    pub online: bool,
    /// Whether it is the node that answered.
    #[serde(default, deserialize_with = "boolean")]
    pub local: bool,
    /// Its cluster address.
    #[serde(default, deserialize_with = "opt_text")]
    pub ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum StatusRow {
    Cluster {
        #[serde(deserialize_with = "text")]
        name: String,
        #[serde(default, deserialize_with = "boolean")]
        quorate: bool,
    },
    Node(ClusterNode),
    #[serde(other)]
    Other,
}

impl FromIterator<StatusRow> for ClusterStatus {
    fn from_iter<I: IntoIterator<Item = StatusRow>>(rows: I) -> Self {
        // Only a real cluster has a row of its own.
        let mut status = Self {
            name: None,
            quorate: true,
            nodes: Vec::new(),
        };
        for row in rows {
            match row {
                StatusRow::Cluster { name, quorate } => (status.name, status.quorate) = (Some(name), quorate),
                StatusRow::Node(node) => status.nodes.push(node),
                StatusRow::Other => {}
            }
        }
        status
    }
}

/// One row of GET /nodes/{node}/certificates/info.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Certificate {
    /// Such as `pve-root-ca.pem`, the cluster's certificate authority.
    #[serde(default, deserialize_with = "text")]
    pub filename: String,
    /// SHA-256.
    #[serde(default, deserialize_with = "opt_text")]
    pub fingerprint: Option<String>,
    /// When it ends, in Unix time.
    #[serde(default, deserialize_with = "opt_number")]
    pub notafter: Option<i64>,
}

/// One row of GET /cluster/resources: a guest, node, storage or pool. Name and status of guests are up to 12 s old,
/// lock, tags and existence are not.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Resource {
    /// `lxc`, `qemu`, `node`, `storage`, `pool`, `sdn`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: String,
    /// Such as `lxc/100`.
    #[serde(default, deserialize_with = "text")]
    pub id: String,
    /// Of guests.
    #[serde(default, deserialize_with = "opt_number")]
    pub vmid: Option<u32>,
    /// Of all but pools.
    #[serde(default, deserialize_with = "opt_text")]
    pub node: Option<String>,
    /// Of guests: the hostname; absent while new.
    #[serde(default, deserialize_with = "opt_text")]
    pub name: Option<String>,
    /// `running`, `stopped`, `unknown`; of nodes `online`, `offline`; of storages `available`.
    #[serde(default, deserialize_with = "opt_text")]
    pub status: Option<String>,
    /// Whether the guest is a template.
    #[serde(default, deserialize_with = "boolean")]
    pub template: bool,
    /// The guest's config lock.
    #[serde(default, deserialize_with = "opt_text")]
    pub lock: Option<String>,
    /// The guest's tags.
    #[serde(default, deserialize_with = "list")]
    pub tags: Vec<String>,
    /// The guest's pool, or the pool itself.
    #[serde(default, deserialize_with = "opt_text")]
    pub pool: Option<String>,
    /// Since start, in seconds.
    #[serde(default, deserialize_with = "opt_number")]
    pub uptime: Option<u64>,
    /// Memory limit, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub maxmem: Option<u64>,
    /// Cores.
    #[serde(default, deserialize_with = "opt_number")]
    pub maxcpu: Option<f64>,
    /// Memory in use, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub mem: Option<u64>,
    /// Size, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub maxdisk: Option<u64>,
    /// In use, in bytes.
    #[serde(default, deserialize_with = "opt_number")]
    pub disk: Option<u64>,
    /// Of storages.
    #[serde(default, deserialize_with = "opt_text")]
    pub storage: Option<String>,
    /// Of storages: `zfspool`, `dir`, …
    #[serde(default, deserialize_with = "opt_text")]
    pub plugintype: Option<String>,
    /// Of storages: whether all nodes see the same content.
    #[serde(default, deserialize_with = "boolean")]
    pub shared: bool,
    /// Of storages: content types.
    #[serde(default, deserialize_with = "list")]
    pub content: Vec<String>,
    /// State under high availability.
    #[serde(default, deserialize_with = "opt_text")]
    pub hastate: Option<String>,
}

impl Resource {
    /// The guest's id, in a row of a guest.
    pub fn vmid(&self) -> Option<Vmid> {
        Vmid::try_from(self.vmid?).ok()
    }
}

impl Client {
    /// Version of the endpoint that answers; any credential may ask.
    pub async fn version(&self) -> Result<Version> {
        self.fetch(&ApiCall::get("/version")).await
    }

    /// Cluster name, quorum, members. Needs Sys.Audit on `/`.
    pub async fn cluster_status(&self) -> Result<ClusterStatus> {
        let rows: Vec<StatusRow> = self.fetch(&ApiCall::get("/cluster/status")).await?;
        Ok(rows.into_iter().collect())
    }

    /// Certificates of a node, the cluster's certificate authority among them; any credential may ask.
    pub async fn certificates(&self, node: &str) -> Result<Vec<Certificate>> {
        self.fetch(&ApiCall::get(path(["nodes", node, "certificates", "info"])))
            .await
    }

    /// The caller's own rights: by path, and whether each holds below it too (facts H).
    pub async fn permissions(&self) -> Result<BTreeMap<String, BTreeMap<String, bool>>> {
        let rows: BTreeMap<String, BTreeMap<String, serde_json::Value>> =
            self.fetch(&ApiCall::get("/access/permissions")).await?;
        let holds = |value: &serde_json::Value| *value == 1 || *value == true || *value == "1";
        let flags = |rights: BTreeMap<String, serde_json::Value>| {
            let flags = rights.iter().map(|(right, value)| (right.clone(), holds(value)));
            flags.collect()
        };
        Ok(rows.into_iter().map(|(path, rights)| (path, flags(rights))).collect())
    }

    /// Everything that the credential may see.
    pub async fn cluster_resources(&self) -> Result<Vec<Resource>> {
        self.fetch(&ApiCall::get("/cluster/resources")).await
    }

    /// Whether no guest of the cluster has `vmid`. Not filtered by privileges, so `true` proves absence as far as the
    /// answering node is in the quorate cluster; reserves nothing.
    pub async fn vmid_is_free(&self, vmid: Vmid) -> Result<bool> {
        match self.call(&ApiCall::get("/cluster/nextid").param("vmid", vmid)).await {
            Ok(_) => Ok(true),
            Err(Error::Parameters { errors, .. }) if taken(errors.get("vmid")) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn taken(error: Option<&String>) -> bool {
    error.is_some_and(|text| text.contains("already exists"))
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_single_node_is_quorate_and_nameless() {
        let rows = json!([{"nodeid": 0, "name": "pve1", "level": "", "id": "node/pve1", "online": 1, "type": "node",
            "ip": "192.168.77.10", "local": 1}]);
        let status: ClusterStatus = serde_json::from_value::<Vec<StatusRow>>(rows)
            .unwrap()
            .into_iter()
            .collect();
        assert_eq!((status.name, status.quorate, status.nodes.len()), (None, true, 1));
        let rows = json!([{"type": "cluster", "name": "lab", "quorate": "0", "nodes": 2, "version": 3, "id": "cluster"},
            {"type": "node", "name": "a", "online": 0}, {"type": "later", "x": 1}]);
        let status: ClusterStatus = serde_json::from_value::<Vec<StatusRow>>(rows)
            .unwrap()
            .into_iter()
            .collect();
        assert_eq!((status.name.as_deref(), status.quorate), (Some("lab"), false));
        assert!(!status.nodes[0].online);
    }

    #[test]
    fn rows_of_every_kind_are_read() {
        let rows = json!([
            {"type": "pool", "pool": "dev", "id": "/pool/dev"},
            {"cpu": 0, "vmid": 100, "tags": "a;b", "maxcpu": 2, "type": "lxc", "maxmem": 268435456, "pool": "dev",
             "template": 0, "id": "lxc/100", "name": "ct100", "node": "pve1", "status": "stopped"},
            {"vmid": "101", "type": "lxc", "id": "lxc/101", "node": "pve1", "status": "unknown", "lock": "create"},
            {"type": "node", "node": "pve1", "status": "online", "level": "", "id": "node/pve1"}]);
        let rows: Vec<Resource> = serde_json::from_value(rows).unwrap();
        assert_eq!(rows[1].tags, ["a", "b"]);
        assert_eq!((rows[2].vmid, rows[2].lock.as_deref()), (Some(101), Some("create")));
    }
}
