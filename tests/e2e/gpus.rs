//! Model servers that share a GPU, and an upgrade of its driver, with a real API server.

use serde_json::{Value, json};

use crate::guests::{lxc, patch};
use crate::harness::wait_for;
use crate::site::Site;

/// A container with a vLLM server that takes this part of GPU 0.
fn server(name: &str, share: f64) -> String {
    lxc(
        name,
        json!({
            "gpus": [{"index": 0}], "features": [{"name": "vllm"}], "capabilities": {"nesting": true},
            "vllm": {"model": "org/model", "gpuMemoryUtilization": share},
        }),
    )
}

fn gpu_ready(site: &Site, name: &str) -> Value {
    let status = site.status(&format!("phoenixlxc/{name}"));
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .into_iter()
        .find(|c| c["type"] == "GPUReady")
        .unwrap_or_default()
}

#[test]
fn models_share_a_card_and_a_host_upgrade_is_healed() {
    let mut site = Site::new("cards");
    site.hypervisor();
    site.features();
    let kubectl = site.namespace.kubectl.clone();
    // One of the two takes its time.
    let long = json!({"op": "ssh-fault", "vmid": 1000, "command": "start vllm", "action": {"last": {"ms": 250_000}}, "count": 1});
    site.control("POST", "edits", &long);
    kubectl.apply(&server("one", 0.45));
    kubectl.apply(&server("two", 0.45));
    site.start_operator();
    wait_for("one server to wait for the other", || {
        let told = kubectl.run(&[
            "get",
            "phoenixlxc",
            "-o",
            "jsonpath={.items[*].status.conditions[*].reason}",
        ]);
        match told.stdout.contains("GPUBusyStarting") {
            true => Ok(()),
            false => Err(format!("{}\n{}", site.table(), site.words())),
        }
    });
    site.wait_ready("phoenixlxc/one", 300);
    site.wait_ready("phoenixlxc/two", 300);
    kubectl.apply(&server("three", 0.2));
    let words = site.wait_stalled("phoenixlxc/three", "GPUOvercommitted");
    assert!(
        words.contains("0.10 (1.6 GiB) is left") && words.contains("/one has 0.45"),
        "{words}"
    );
    kubectl.apply(&server("three", 0.1));
    site.wait_ready("phoenixlxc/three", 300);
    let cards = kubectl.get(&["phoenixhypervisor", "pve"])["status"]["gpus"].clone();
    assert_eq!(cards[0]["users"].as_array().map(Vec::len), Some(3), "{cards:#}");

    // The host is upgraded and booted: every container has the old driver, until the policy lets it be installed anew.
    site.control(
        "POST",
        "edits",
        &json!({"op": "nvidia-driver", "node": "phoenix", "version": "590.10"}),
    );
    site.control("POST", "edits", &json!({"op": "node-crash", "node": "phoenix"}));
    for name in ["one", "two", "three"] {
        wait_for(&format!("{name} to tell of the upgrade"), || {
            match gpu_ready(&site, name) {
                told if told["reason"] == "DriverMismatch" && told["status"] == "False" => Ok(()),
                told => Err(format!("{told}\n{}", site.words())),
            }
        });
    }
    patch(
        &site,
        "phoenixhypervisor/pve",
        &json!({"spec": {"driverPolicy": "Heal"}}),
    );
    for name in ["one", "two", "three"] {
        wait_for(&format!("{name} to be healed"), || match gpu_ready(&site, name) {
            told if told["reason"] == "Proven" && told["message"].to_string().contains("driver 590.10") => Ok(()),
            told => Err(format!("{told}\n{}", site.words())),
        });
        site.wait_ready(&format!("phoenixlxc/{name}"), 300);
    }
}
