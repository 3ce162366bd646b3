//! What a container and a machine have in common.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serde_with::skip_serializing_none;

use super::common::*;
use super::schema;

/// Fields of containers and machines alike, in the words of a container; [`machine_words`] has a machine's.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestFields {
    /// Proxmox node. Absent: the hypervisor's `defaults.node`, else the node of the source, else the only node.
    #[serde(default)]
    #[schemars(schema_with = "schema::hostname")]
    pub node: Option<String>,
    /// Proxmox id. Absent: the first free one of the hypervisor's `vmidRange`.
    #[serde(default)]
    #[schemars(schema_with = "schema::vmid")]
    pub vmid: Option<i64>,
    /// Host name. Absent: the object's name with dots replaced by '-' on creation, then unmanaged.
    #[serde(default)]
    #[schemars(schema_with = "schema::hostname")]
    pub hostname: Option<String>,
    /// Network interfaces. Absent: unmanaged; empty: none.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub network: Option<Vec<Network>>,
    /// Name resolution.
    pub dns: Option<Dns>,
    /// Features installed in the container, after the ones they require.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub features: Option<Vec<FeatureRef>>,
    /// The script that makes the container what it is for.
    pub application: Option<Application>,
    /// When the node starts and stops the container by itself.
    pub boot: Option<Boot>,
    /// Guest firewall.
    pub firewall: Option<Firewall>,
    /// Proxmox tags. Phoenix adds one of its own. Absent: unmanaged.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub tags: Option<Vec<Tag>>,
    /// Proxmox pool.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z][A-Za-z0-9._/-]*$"))]
    pub pool: Option<String>,
    /// A text for people, shown above Phoenix's stamp in the guest's notes.
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// Proxmox's protection against removal of the guest and its disks.
    pub protection: Option<bool>,
}

/// Descriptions of [`GuestFields`] that are others for a machine.
const MACHINE_WORDS: [(&str, &str); 9] = [
    (
        "node",
        "Proxmox node. Absent: the hypervisor's `defaults.node`, else the node of the source, else the least used one.",
    ),
    (
        "hostname",
        "Name of the machine, which cloud-init makes its host name. Absent: the object's name with dots replaced by '-'\n\
         on creation, then unmanaged.",
    ),
    (
        "network",
        "Network interfaces. The number in the name is Proxmox's: net0 (or eth0) is the first one. cloud-init gives them\n\
         their addresses. Absent: unmanaged; empty: none.",
    ),
    ("dns", "Name resolution, set up by cloud-init."),
    (
        "features",
        "Features installed in the machine, after the ones they require.",
    ),
    ("application", "The script that makes the machine what it is for."),
    ("boot", "When the node starts and stops the machine by itself."),
    (
        "description",
        "A text for people, shown above Phoenix's stamp in the machine's notes.",
    ),
    (
        "protection",
        "Proxmox's protection against removal of the machine and its disks.",
    ),
];

/// Says of a machine's schema what differs from a container's in [`GuestFields`]: words, and the names of interfaces.
pub(super) fn machine_words(schema: &mut Schema) {
    let Some(properties) = schema.get_mut("properties") else {
        return;
    };
    for (field, words) in MACHINE_WORDS {
        set(properties, field, "description", json!(words));
    }
    let rules = json!([
        {"rule": "self.all(n, n.name.matches('^(net|eth)([0-9]|[12][0-9]|3[01])$'))", "message": "interfaces of a machine are named net0 to net31 (or eth0 to eth31): the number is Proxmox's"},
        {"rule": "self.all(n, n.name.size() < 4 || self.exists_one(m, m.name.size() > 3 && m.name.substring(3) == n.name.substring(3)))", "message": "two interfaces have the same number: net0 and eth0 are one"}
    ]);
    set(properties, "network", "x-kubernetes-validations", rules);
}

/// Says of a container's schema that its interfaces are no cards.
pub(super) fn container_rules(schema: &mut Schema) {
    let rules = json!([
        {"rule": "self.all(n, !has(n.model) && !has(n.queues))", "message": "model and queues belong to virtual machines: leave them out, a container's interface has no card"}
    ]);
    if let Some(properties) = schema.get_mut("properties") {
        set(properties, "network", "x-kubernetes-validations", rules);
    }
}

fn set(properties: &mut Value, field: &str, key: &str, value: Value) {
    if let Some(property) = properties.get_mut(field).and_then(Value::as_object_mut) {
        property.insert(key.to_owned(), value);
    }
}
