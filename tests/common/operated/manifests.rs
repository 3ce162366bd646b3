//! Manifests of small guests.

use serde_json::{Value, json};

use super::IMAGE;

/// A PhoenixLXC with an address of its own, and the given fields.
pub fn lxc(name: &str, number: u32, fields: Value) -> Value {
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "cores": 1, "memory": "512Mi", "rootfs": {"size": "8Gi"},
        "source": {"image": {"volid": IMAGE}},
        "network": [{"name": "eth0", "ip": address(number), "gateway": "10.64.0.1"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": name, "namespace": "ai"}, "spec": spec
    })
}

fn address(number: u32) -> String {
    let number = number + 10;
    format!("10.64.{}.{}/16", number / 250, number % 250 + 1)
}

/// A PhoenixTemplate from the image.
pub fn template_of(name: &str, form: &str) -> Value {
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "form": form, "lxc": {
            "source": {"image": {"volid": IMAGE}}, "rootfs": {"size": "8Gi"}, "memory": "512Mi",
            "network": [{"name": "eth0", "ip": "10.64.0.2/16", "gateway": "10.64.0.1"}],
        }}
    })
}
