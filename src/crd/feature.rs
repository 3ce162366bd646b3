//! `PhoenixFeature`: a reusable installation script.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::common::Probe;
use super::schema;
use super::status::FeatureStatus;

/// A reusable installation script with its check, requirements and health probe.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "phoenix-hypervisor.io",
    version = "v1alpha1",
    kind = "PhoenixFeature",
    plural = "phoenixfeatures",
    singular = "phoenixfeature",
    shortname = "pfeat",
    category = "phoenix",
    namespaced,
    status = "FeatureStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A reusable installation script with its check, requirements and health probe.",
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(name = "Requires", type_ = "string", json_path = ".status.requires"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PhoenixFeatureSpec {
    /// A one-line description for people.
    #[schemars(length(max = 256))]
    pub description: Option<String>,
    /// Other names by which objects may refer to the feature.
    #[serde(default)]
    #[schemars(schema_with = "schema::entry_names")]
    pub aliases: Option<Vec<String>>,
    /// Kinds of guest the feature is for. Absent: both.
    #[schemars(length(min = 1, max = 2))]
    pub targets: Option<Vec<FeatureTarget>>,
    /// Features that must be installed first.
    #[serde(default)]
    #[schemars(schema_with = "schema::entry_names")]
    pub requires: Option<Vec<String>>,
    /// Parameters, given to the scripts as PHOENIX_NAME (upper-case, '-' as '_').
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub parameters: Option<Vec<FeatureParameter>>,
    /// Script that changes nothing. Exit code 0 means that the feature is already installed.
    #[schemars(length(min = 1, max = 65_536))]
    pub check: Option<String>,
    /// Script that installs the feature, as root. It may be run again and must then do no harm.
    #[schemars(length(min = 1, max = 131_072))]
    pub install: String,
    /// Whether the feature works; used by guests that have no readiness probe of their own.
    pub health: Option<Probe>,
    /// Seconds after which the install script is stopped. Default: 1800.
    #[schemars(range(min = 1, max = 86_400))]
    pub deadline_seconds: Option<i64>,
}

/// Kinds of guest that a feature can be installed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeatureTarget {
    /// Containers.
    Lxc,
    /// Virtual machines.
    Vm,
}

/// Type of a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParameterType {
    /// Any text.
    #[default]
    String,
    /// A whole number.
    Integer,
    /// true or false.
    Boolean,
}

/// A parameter of a feature.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(has(self.required) && self.required && has(self.default))", "message": "a required parameter has no default: drop one of them"}
]))]
pub struct FeatureParameter {
    /// Name: lower-case letters, digits and '-'.
    #[schemars(schema_with = "schema::entry_name")]
    pub name: String,
    /// Type. Default: string.
    #[serde(rename = "type")]
    pub type_: Option<ParameterType>,
    /// Value if the guest gives none.
    #[schemars(length(max = 4096))]
    pub default: Option<String>,
    /// Whether a guest must give a value.
    pub required: Option<bool>,
    /// A description for people.
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}
