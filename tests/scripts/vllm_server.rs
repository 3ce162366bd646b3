//! A container with the feature vllm and a vLLM server, for tests of the scripts around it.

use phoenix::crd::{PhoenixFeature, PhoenixLXC};
use phoenix::desired::{GuestObject, MemoryObjects};
use serde_json::{Value, json};

/// The container with this vllm block, and the objects that it refers to.
pub fn server(block: Value) -> (GuestObject, MemoryObjects) {
    let objects = MemoryObjects::new();
    let feature = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixFeature",
        "metadata": {"name": "vllm", "namespace": "ai"}, "spec": {"install": "true"},
    });
    objects.insert_feature(serde_json::from_value::<PhoenixFeature>(feature).unwrap());
    let lxc = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": "x", "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "features": [{"name": "vllm"}], "vllm": block},
    });
    let lxc: PhoenixLXC = serde_json::from_value(lxc).unwrap();
    (GuestObject::from(&lxc), objects)
}
