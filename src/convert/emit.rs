//! Manifests as text: one object a file, and the kustomization that lists them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::bundle::ConfigMap;

/// A ConfigMap with its keys in the order in which people read manifests.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMapManifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    data: &'a BTreeMap<String, String>,
}

/// Name and namespace.
#[derive(Serialize)]
pub struct Metadata<'a> {
    /// Name of the object.
    pub name: &'a str,
    /// Its namespace; without it the object goes where it is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kustomization<'a> {
    api_version: &'static str,
    kind: &'static str,
    resources: Vec<&'a str>,
}

/// YAML of an object, below a comment that says where it comes from. Text that YAML would not bring back unchanged is
/// written as JSON, which is YAML too.
///
/// # Errors
/// If the object cannot be serialised.
pub fn manifest(object: &impl Serialize, origin: &str) -> Result<String, serde_json::Error> {
    text(object, &serde_json::to_value(object)?, origin)
}

/// A value as YAML, or as JSON, which is YAML too, should it not come back unchanged.
pub fn yaml(value: &Value) -> String {
    let text = serde_saphyr::to_string(value).ok();
    unchanged(text, value).unwrap_or_else(|| format!("{value:#}\n"))
}

/// YAML that brings back the value that it was written from.
fn unchanged(yaml: Option<String>, value: &Value) -> Option<String> {
    yaml.filter(|yaml| serde_saphyr::from_str::<Value>(yaml).is_ok_and(|read| read == *value))
}

/// [`manifest`] of an object whose value is known already.
///
/// # Errors
/// As [`manifest`].
pub fn text(object: &impl Serialize, value: &Value, origin: &str) -> Result<String, serde_json::Error> {
    // Long words such as URLs stay on their line.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: 4000 };
    let yaml = serde_saphyr::to_string_with_options(object, options).ok();
    let text = match unchanged(yaml, value) {
        Some(yaml) => yaml,
        None => serde_json::to_string_pretty(value)?,
    };
    let origin: String = origin.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Ok(format!("# {origin}\n{}\n", text.trim_end_matches('\n')))
}

/// YAML of a ConfigMap.
///
/// # Errors
/// As [`manifest`].
pub fn config_map(map: &ConfigMap, namespace: Option<&str>, origin: &str) -> Result<String, serde_json::Error> {
    let object = ConfigMapManifest {
        api_version: "v1",
        kind: "ConfigMap",
        metadata: Metadata {
            name: &map.name,
            namespace,
        },
        data: &map.data,
    };
    manifest(&object, origin)
}

/// The kustomization that lists the files.
///
/// # Errors
/// As [`manifest`].
pub fn kustomization<'a>(files: impl Iterator<Item = &'a String>) -> Result<String, serde_json::Error> {
    let object = Kustomization {
        api_version: "kustomize.config.k8s.io/v1beta1",
        kind: "Kustomization",
        resources: files.map(String::as_str).collect(),
    };
    manifest(&object, "Apply with: kubectl apply -k .")
}
