//! Every `vllm_*` key of the legacy schema and of the legacy fleet has its field.

use std::collections::BTreeSet;

use phoenix::convert::Role;
use phoenix::convert::report::Outcome;
use phoenix::crd::{PhoenixFeature, PhoenixHypervisor, PhoenixLXC};
use phoenix::desired::scripts::scripts;
use phoenix::desired::{GuestObject, MemoryObjects};
use serde_json::{Value, json};

use crate::support::*;

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&legacy(name)).unwrap()
}

/// Names in a schema or in guests, wherever they are, that begin with `vllm_`.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key.starts_with("vllm_") {
                    found.insert(key.clone());
                }
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn each_key_has_its_field() {
    // Key, value, the leaf that the report names, the field, and what stands in it.
    let table = [
        ("vllm_model", json!("org/m"), "", "model", json!("org/m")),
        ("vllm_served_model_name", json!("m"), "", "servedName", json!("m")),
        (
            "vllm_model_type",
            json!("embedding"),
            "",
            "modelType",
            json!("embedding"),
        ),
        ("vllm_port", json!(8001), "", "port", json!(8001)),
        (
            "vllm_tensor_parallel_size",
            json!(2),
            "",
            "tensorParallelSize",
            json!(2),
        ),
        (
            "vllm_gpu_memory_utilization",
            json!(0.5),
            "",
            "gpuMemoryUtilization",
            json!(0.5),
        ),
        ("vllm_max_model_len", json!(4096), "", "maxModelLen", json!(4096)),
        ("vllm_quantization", json!("awq"), "", "quantization", json!("awq")),
        (
            "vllm_trust_remote_code",
            json!(true),
            "",
            "trustRemoteCode",
            json!(true),
        ),
        (
            "vllm_args",
            json!(["--seed", "1"]),
            "/1",
            "extraArgs",
            json!(["--seed", "1"]),
        ),
        (
            "vllm_parameters",
            json!({"max_num_seqs": 4}),
            "/max_num_seqs",
            "extraArgs",
            json!(["--max-num-seqs", "4"]),
        ),
    ];
    let mut known = BTreeSet::new();
    for file in ["phoenix_lxc_configs.schema.json", "phoenix_lxc_configs.json"] {
        keys(&json_of(file), &mut known);
    }
    let tried: BTreeSet<String> = table.iter().map(|row| row.0.to_string()).collect();
    assert_eq!(tried, known);
    for (key, value, leaf, field, wanted) in table {
        let mut guest = json!({"vllm_model": "org/other", "features": ["vllm"], "gpu_assignment": "0,1"});
        guest[key] = value;
        let output = container(guest);
        assert_eq!(spec(&output)["vllm"][field], wanted, "{key}");
        let entry = of(&output, &format!("{key}{leaf}"));
        assert_eq!(entry.outcome, Outcome::Mapped, "{key}");
        let target = entry.target.clone().unwrap();
        assert!(
            target.starts_with(&format!("PhoenixLXC/one spec.vllm.{field}")),
            "{key}: {target}"
        );
    }
}

#[test]
fn the_legacy_fleets_servers_have_arguments_that_the_shipped_version_knows() {
    let objects = MemoryObjects::new();
    let shipped = include_str!("../../config/features/vllm.yaml");
    let mut feature: PhoenixFeature = serde_saphyr::from_str(shipped).unwrap();
    feature.metadata.namespace = Some("ai".into());
    // The others that it requires are not needed for this.
    feature.spec.requires = None;
    objects.insert_feature(feature);
    let later = include_bytes!("later/2025-11-25.json").to_vec();
    let mut servers = 0;
    for bytes in [legacy("phoenix_lxc_configs.json"), later] {
        let output = run(&[input("phoenix_lxc_configs.json", Role::Lxc, bytes)], &options());
        for file in output.files.keys().filter(|f| f.starts_with("phoenixlxc-")) {
            let block = manifest(&output, file)["spec"]["vllm"].clone();
            if block.is_null() {
                continue;
            }
            let lxc = json!({
                "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
                "metadata": {"name": "x", "namespace": "ai"},
                "spec": {"hypervisorRef": {"name": "pve"}, "features": [{"name": "vllm"}], "vllm": block},
            });
            let lxc: PhoenixLXC = serde_json::from_value(lxc).unwrap();
            let found = scripts(&GuestObject::from(&lxc), &PhoenixHypervisor::default(), &objects);
            assert!(found.is_ok(), "{file}: {found:?}");
            servers += 1;
        }
    }
    assert_eq!(servers, 2 + 4);
}
