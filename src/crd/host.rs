//! What a PhoenixHypervisor says of the nodes themselves. Types only: the controller comes later.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::schema;

/// What the nodes themselves should have.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Time zone.
    #[schemars(length(min = 1, max = 64))]
    pub timezone: Option<String>,
    /// ZFS pools and datasets.
    pub zfs: Option<Zfs>,
    /// Proxmox storages.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub storages: Option<Vec<HostStorage>>,
    /// NFS exports.
    #[schemars(length(max = 64))]
    pub nfs_exports: Option<Vec<NfsExport>>,
    /// Samba shares.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub samba_shares: Option<Vec<SambaShare>>,
    /// User of the Samba shares.
    #[schemars(length(min = 1, max = 32))]
    pub samba_user: Option<String>,
    /// Users on the nodes.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub users: Option<Vec<HostUser>>,
    /// Network of the node.
    pub network: Option<HostNetwork>,
    /// Datacenter firewall.
    pub firewall: Option<HostFirewall>,
    /// Name server on the node for the guests' network.
    pub dns_server: Option<HostDnsServer>,
    /// NVIDIA driver.
    pub nvidia: Option<HostNvidia>,
    /// What happens where a container's GPU lacks device nodes on its node, as after a boot: Report (the default) or Ensure,
    /// with which Phoenix loads the driver's modules and makes the nodes over SSH before the container is started.
    pub gpu_nodes: Option<GpuNodes>,
    /// Directory under which storages are mounted.
    #[serde(default)]
    #[schemars(schema_with = "schema::absolute_path")]
    pub mount_point_base: Option<String>,
}

/// What happens where device nodes of GPUs are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GpuNodes {
    /// It is told, with the command that helps.
    #[default]
    Report,
    /// Phoenix makes them.
    Ensure,
}

/// ZFS pools and datasets.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Zfs {
    /// Upper bound of the ARC cache.
    #[serde(default, deserialize_with = "schema::read_quantity")]
    #[schemars(schema_with = "schema::size")]
    pub arc_max: Option<String>,
    /// Pools. A disk is only wiped where `wipe` says so.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pools: Option<Vec<ZfsPool>>,
    /// Datasets.
    #[schemars(length(max = 64))]
    pub datasets: Option<Vec<ZfsDataset>>,
}

/// A ZFS pool.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZfsPool {
    /// Name.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// single, mirror, raid10, raidz, raidz2 or raidz3.
    #[schemars(length(min = 1, max = 16))]
    pub raid_level: Option<String>,
    /// Disks by stable path (/dev/disk/by-id/…).
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub disks: Vec<String>,
    /// Disks that may be wiped to make the pool. Absent: none.
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub wipe: Option<Vec<String>>,
}

/// A ZFS dataset.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZfsDataset {
    /// Name below the pool.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Pool.
    #[schemars(length(min = 1, max = 128))]
    pub pool: String,
    /// ZFS properties such as compression.
    #[schemars(extend("maxProperties" = 32))]
    pub properties: Option<std::collections::BTreeMap<String, String>>,
}

/// A Proxmox storage.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStorage {
    /// Storage id.
    #[schemars(schema_with = "schema::storage_id")]
    pub name: String,
    /// zfspool, dir, nfs, ….
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 32))]
    pub type_: String,
    /// Content types such as rootdir or images.
    #[schemars(length(max = 8), inner(length(min = 1, max = 16)))]
    pub content: Option<Vec<String>>,
    /// ZFS dataset, for zfspool.
    #[schemars(length(min = 1, max = 256))]
    pub pool: Option<String>,
    /// Directory, for dir.
    #[serde(default)]
    #[schemars(schema_with = "schema::absolute_path")]
    pub path: Option<String>,
}

/// An NFS export.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NfsExport {
    /// Directory.
    #[schemars(schema_with = "schema::absolute_path")]
    pub path: String,
    /// Client addresses or networks.
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    pub clients: Vec<String>,
    /// Export options.
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    pub options: Option<Vec<String>>,
}

/// A Samba share.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SambaShare {
    /// Name.
    #[schemars(length(min = 1, max = 80))]
    pub name: String,
    /// Directory or dataset.
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
    /// Options as in smb.conf.
    #[schemars(length(max = 1024))]
    pub options: Option<String>,
    /// Users that may use it.
    #[schemars(length(max = 32), inner(length(min = 1, max = 32)))]
    pub valid_users: Option<Vec<String>>,
}

/// A user on the nodes.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostUser {
    /// Name.
    #[schemars(length(min = 1, max = 32))]
    pub name: String,
    /// Whether the user may use sudo.
    pub sudo: Option<bool>,
    /// SSH public key.
    #[schemars(length(max = 4096))]
    pub ssh_public_key: Option<String>,
}

/// Network of the node.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostNetwork {
    /// Bridge.
    #[schemars(schema_with = "schema::bridge")]
    pub bridge: String,
    /// Address with prefix length.
    #[schemars(length(max = 64))]
    pub address: Option<String>,
    /// Gateway.
    #[serde(default)]
    #[schemars(schema_with = "schema::ip")]
    pub gateway: Option<String>,
    /// Name servers.
    #[schemars(length(max = 8))]
    pub nameservers: Option<Vec<super::IpAddress>>,
}

/// Datacenter firewall.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostFirewall {
    /// Whether it is on.
    pub enabled: Option<bool>,
    /// What happens to incoming traffic that no rule names.
    pub inbound_policy: Option<super::FirewallAction>,
    /// What happens to outgoing traffic that no rule names.
    pub outbound_policy: Option<super::FirewallAction>,
    /// Rules, in order.
    #[schemars(length(max = 256))]
    pub rules: Option<Vec<super::FirewallRule>>,
}

/// A name server on the node.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDnsServer {
    /// Whether it runs.
    pub enabled: Option<bool>,
    /// Name servers that it asks for everything else.
    #[schemars(length(max = 8))]
    pub upstreams: Option<Vec<super::IpAddress>>,
    /// Zones that it answers for.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub zones: Option<Vec<HostDnsZone>>,
}

/// A zone of a name server.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDnsZone {
    /// Name of the zone, such as internal.example.org.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its hosts.
    #[schemars(length(max = 256))]
    pub records: Option<Vec<HostDnsRecord>>,
}

/// A host of a zone.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDnsRecord {
    /// Name below the zone.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its address.
    pub address: super::IpAddress,
}

/// NVIDIA driver.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostNvidia {
    /// Whether the driver is installed.
    pub install: Option<bool>,
    /// Driver version.
    #[schemars(length(min = 1, max = 32))]
    pub version: Option<String>,
    /// URL of the runfile.
    #[serde(default)]
    #[schemars(schema_with = "schema::url")]
    pub runfile_url: Option<String>,
    /// CUDA version.
    #[schemars(length(min = 1, max = 32))]
    pub cuda_version: Option<String>,
}
