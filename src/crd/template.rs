//! `PhoenixTemplate`: a guest that others are cloned from.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::common::*;
use super::lxc::LxcGuest;
use super::schema;
use super::status::GuestStatus;
use super::vm::VmGuest;

/// A container or virtual machine that others are cloned from. Ready means stopped, with its snapshot or base present.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "phoenix-hypervisor.io",
    version = "v1alpha1",
    kind = "PhoenixTemplate",
    plural = "phoenixtemplates",
    singular = "phoenixtemplate",
    shortname = "ptpl",
    category = "phoenix",
    namespaced,
    status = "GuestStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A container or virtual machine that others are cloned from.",
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.phase",
        description = "Where the template stands"
    ),
    printcolumn(
        name = "VMID",
        type_ = "integer",
        json_path = ".status.vmid",
        description = "Id on Proxmox"
    ),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Form", type_ = "string", json_path = ".spec.form"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.lxc) != has(self.vm)", "message": "give exactly one of lxc and vm"},
    {"rule": "!has(self.form) || self.form != 'Template' || !has(self.snapshotName)", "message": "snapshotName belongs to form: Snapshot"}
]))]
pub struct PhoenixTemplateSpec {
    /// The PhoenixHypervisor that the template lives on. It cannot change once the template has a vmid.
    pub hypervisor_ref: ObjectRef,
    /// A container template.
    pub lxc: Option<LxcGuest>,
    /// A virtual machine template.
    pub vm: Option<VmGuest>,
    /// Snapshot keeps the guest and takes a snapshot that children are copied from; Template converts it to a Proxmox
    /// template, whose children are linked clones where the storage supports it. Absent: Snapshot.
    pub form: Option<TemplateForm>,
    /// Name of the snapshot. Absent: phoenix.
    #[serde(default)]
    #[schemars(schema_with = "schema::snapshot_name")]
    pub snapshot_name: Option<String>,
    /// Scripts run once before the template is sealed; their results never block Ready.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tests: Option<Vec<GuestTest>>,
    /// Objects that must be Ready before the template is built.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub depends_on: Option<Vec<Dependency>>,
    /// What happens to the guest when this object is deleted. Absent: Delete for guests that Phoenix created, Retain
    /// for adopted ones.
    pub deletion_policy: Option<DeletionPolicy>,
    /// How many earlier revisions are kept although nothing was cloned from them. One from which an object was cloned, or on
    /// which a linked clone rests, is never removed. Absent: all are kept.
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: Option<i64>,
}

/// How a template is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TemplateForm {
    /// The guest is kept stopped, with a snapshot.
    #[default]
    Snapshot,
    /// The guest is converted to a Proxmox template.
    Template,
}
