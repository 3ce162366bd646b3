//! Help for tests: objects from manifests.

use serde_json::Value;

use crate::crd::GuestKind;

use super::{GuestObject, Key, MemoryObjects, Objects};

/// Objects of a YAML text of several documents. `apiVersion` may be left out; objects without a namespace are in `ai`.
pub fn objects(manifests: &str) -> MemoryObjects {
    let objects = MemoryObjects::new();
    apply(&objects, manifests);
    objects
}

/// Adds the objects of a YAML text.
pub fn apply(objects: &MemoryObjects, manifests: &str) {
    for text in manifests.split("\n---\n").filter(|t| !t.trim().is_empty()) {
        let mut value: Value = serde_saphyr::from_str(text).unwrap();
        let kind = value["kind"].as_str().unwrap().to_string();
        if value["apiVersion"].is_null() {
            value["apiVersion"] = match kind.as_str() {
                "Secret" | "ConfigMap" => "v1".into(),
                _ => "phoenix-hypervisor.io/v1alpha1".into(),
            };
        }
        if value["metadata"]["namespace"].is_null() {
            value["metadata"]["namespace"] = "ai".into();
        }
        match kind.as_str() {
            "PhoenixLXC" => objects.insert_lxc(&typed(value)),
            "PhoenixVM" => objects.insert_vm(&typed(value)),
            "PhoenixTemplate" => objects.insert_template(&typed(value)),
            "PhoenixHypervisor" => objects.insert_hypervisor(typed(value)),
            "PhoenixFeature" => objects.insert_feature(typed(value)),
            "Secret" => objects.insert_secret(typed(value)),
            "ConfigMap" => objects.insert_config_map(typed(value)),
            other => panic!("no kind {other}"),
        }
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}

/// The container of a name in namespace `ai`.
pub fn lxc(objects: &MemoryObjects, name: &str) -> GuestObject {
    objects.guest(&Key::new(GuestKind::PhoenixLXC, "ai", name)).unwrap()
}

/// The template of a name in namespace `ai`.
pub fn template(objects: &MemoryObjects, name: &str) -> GuestObject {
    objects
        .guest(&Key::new(GuestKind::PhoenixTemplate, "ai", name))
        .unwrap()
}
