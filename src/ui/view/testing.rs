//! Fleets for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::crd::{PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};
use crate::desired::{GuestObject, ObjectName};

use super::{Action, Seen};

/// A condition: `Created+` holds, `Created-` does not, `Created?` is unknown.
fn condition(text: &str, reason: &str, message: &str) -> Value {
    let (type_, sign) = text.split_at(text.len() - 1);
    let status = match sign {
        "+" => "True",
        "-" => "False",
        _ => "Unknown",
    };
    json!({"type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-03-01T12:00:00Z"})
}

/// Conditions of `(type and sign, reason, message)`.
pub fn conditions(of: &[(&str, &str, &str)]) -> Value {
    of.iter()
        .map(|(type_, reason, message)| condition(type_, reason, message))
        .collect()
}

/// What a guest that is as wanted says.
pub fn ready() -> Value {
    conditions(&[
        ("Ready+", "Ready", ""),
        ("DependenciesReady+", "AsWanted", "no dependencies"),
        ("Created+", "Created", "guest 901 is there and ours"),
        ("Configured+", "Configured", "all options are as wanted"),
        ("VolumesReady+", "AsWanted", "2 volumes are attached"),
        ("Running+", "Started", "it runs"),
        (
            "FeaturesApplied+",
            "AsWanted",
            "base-setup, nvidia and vllm are installed",
        ),
        ("ApplicationReady+", "ScriptSucceeded", "vllm.service is set up"),
        ("Healthy+", "Healthy", "the model answers"),
    ])
}

/// An object with a status of this phase.
pub fn object(kind: &str, name: &str, spec: Value, phase: &str, conditions: Value, more: Value) -> GuestObject {
    let mut spec = spec;
    if spec["hypervisorRef"].is_null() {
        spec["hypervisorRef"] = json!({"name": "pve"});
    }
    let mut status = json!({"phase": phase, "observedGeneration": 1, "conditions": conditions});
    for (key, value) in more.as_object().into_iter().flatten() {
        status[key] = value.clone();
    }
    let value = json!({"metadata": {"namespace": "ai", "name": name, "generation": 1}, "spec": spec, "status": status});
    match kind {
        "PhoenixLXC" => GuestObject::from(&serde_json::from_value::<PhoenixLXC>(value).unwrap()),
        "PhoenixVM" => GuestObject::from(&serde_json::from_value::<PhoenixVM>(value).unwrap()),
        _ => GuestObject::from(&serde_json::from_value::<PhoenixTemplate>(value).unwrap()),
    }
}

/// A hypervisor with these nodes.
pub fn hypervisor(nodes: &[(&str, &str)]) -> Arc<PhoenixHypervisor> {
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|(name, status)| json!({"name": name, "status": status}))
        .collect();
    let value = json!({
        "metadata": {"namespace": "ai", "name": "pve", "generation": 1},
        "spec": {"endpoints": ["https://192.0.2.1:8006"], "credentials": {"tokenSecretRef": {"name": "token-of-pve"}}},
        "status": {"observedGeneration": 1, "phase": "Ready", "version": "9.0.3", "quorate": true, "nodes": nodes,
            "conditions": conditions(&[("Ready+", "Ready", "")])}
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

fn cloned(from: &str) -> Value {
    json!({"templateRef": {"name": from}})
}

/// A fleet in which each state occurs.
pub fn small() -> Seen {
    let image = json!({"image": {"volid": "local:vztmpl/debian-13.tar.zst"}});
    let template = |name: &str, source: Value, vmid: i64, phase: &str, conditions: Value| {
        let spec = json!({"lxc": {"source": source}});
        object(
            "PhoenixTemplate",
            name,
            spec,
            phase,
            conditions,
            json!({"vmid": vmid, "node": "pve1"}),
        )
    };
    let lxc = |name: &str, spec: Value, phase: &str, conditions: Value, more: Value| {
        object("PhoenixLXC", name, spec, phase, conditions, more)
    };
    let waiting = |reason: &str, message: &str| {
        conditions(&[
            ("Ready-", reason, message),
            ("Reconciling+", reason, message),
            ("DependenciesReady+", "AsWanted", "no dependencies"),
            ("Created-", reason, message),
        ])
    };
    let failed = "feature nvidia failed with exit code 100: E: Unable to locate package cuda-toolkit";
    let busy = "waits for template ai/vllm (920): ai/phi comes first; place 2 of 3 in the queue for its clones";
    let mut drifted = ready();
    let drift = condition(
        "DriftDetected+",
        "ChangedOutsidePhoenix",
        "memory is 16384, wanted is 32768",
    );
    drifted.as_array_mut().unwrap().push(drift);
    let guests = vec![
        template("base", image, 900, "Ready", ready()),
        template("vllm", cloned("base"), 920, "Ready", ready()),
        template(
            "later",
            cloned("gone"),
            930,
            "Waiting",
            waiting("TemplateNotFound", "there is no PhoenixTemplate gone"),
        ),
        lxc(
            "qwen",
            json!({"source": cloned("vllm"), "gpus": [{"index": 0}], "vllm": {"model": "Qwen/Qwen2.5-7B-Instruct-AWQ"}}),
            "Ready",
            ready(),
            json!({"vmid": 950, "node": "pve1", "gpus": "0", "ip": "192.0.2.50"}),
        ),
        lxc(
            "mistral",
            json!({"source": cloned("vllm"), "gpus": [{"index": 1}], "vllm": {"model": "mistralai/Mistral-7B-Instruct-v0.3"}}),
            "Stalled",
            conditions(&[
                ("Ready-", "ScriptFailed", failed),
                ("Stalled+", "ScriptFailed", failed),
                ("DependenciesReady+", "AsWanted", "no dependencies"),
                ("Created+", "Created", "guest 951 is there and ours"),
                ("Running+", "Started", "it runs"),
                ("FeaturesApplied-", "ScriptFailed", failed),
            ]),
            json!({"vmid": 951, "node": "pve1", "message": failed}),
        ),
        lxc(
            "drifted",
            json!({"source": cloned("base")}),
            "Ready",
            drifted,
            json!({"vmid": 952, "node": "pve1", "ip": "192.0.2.52"}),
        ),
        lxc(
            "embed",
            json!({"source": cloned("vllm")}),
            "Creating",
            waiting("TemplateBusy", busy),
            json!({"vmid": 953, "message": busy}),
        ),
        lxc(
            "chat",
            json!({"source": cloned("base"), "dependsOn": [{"kind": "PhoenixLXC", "name": "mistral"}]}),
            "Waiting",
            waiting("DependencyNotReady", "waits for PhoenixLXC mistral"),
            json!({"message": "waits for PhoenixLXC mistral"}),
        ),
        lxc(
            "phi",
            json!({"source": cloned("vllm")}),
            "Creating",
            conditions(&[
                ("Ready-", "InProgress", "clone template 920 to 954"),
                ("Reconciling+", "InProgress", "clone template 920 to 954"),
                ("DependenciesReady+", "AsWanted", "no dependencies"),
                ("Created-", "InProgress", "clone template 920 to 954"),
            ]),
            json!({"vmid": 954, "node": "pve1", "message": "clone template 920 to 954",
                "task": {"upid": "UPID:x", "action": "clone template 920 to 954"}}),
        ),
        object(
            "PhoenixVM",
            "desktop",
            json!({"source": {"image": {"volid": "local:import/debian-13.qcow2"}}}),
            "Unknown",
            conditions(&[
                ("Ready?", "NodeOffline", "node pve2 is offline"),
                ("Reconciling+", "NodeOffline", "node pve2 is offline"),
                ("Created+", "Created", "guest 960 is there and ours"),
                ("Running?", "NodeOffline", "node pve2 is offline"),
            ]),
            json!({"vmid": 960, "node": "pve2", "gpus": "rtx-4090"}),
        ),
        lxc(
            "resting",
            json!({"source": cloned("base")}),
            "Paused",
            conditions(&[
                ("Ready+", "Ready", ""),
                ("Paused+", "Paused", "paused by the annotation"),
            ]),
            json!({"vmid": 955, "node": "pve1", "message": "paused by the annotation"}),
        ),
    ];
    Seen {
        guests,
        hypervisors: vec![hypervisor(&[("pve1", "online"), ("pve2", "offline")])],
        actions: vec![
            action(20, true, "mistral", "ScriptFailed", failed),
            action(10, false, "qwen", "Started", "started guest 950"),
        ],
    }
}

/// An event about a container.
pub fn action(second: i64, warning: bool, name: &str, reason: &str, message: &str) -> Action {
    Action {
        at: jiff::Timestamp::from_second(1_772_366_400 + second).unwrap(),
        warning,
        kind: "PhoenixLXC".into(),
        name: ObjectName::new("ai", name),
        reason: reason.into(),
        message: message.into(),
    }
}

/// A fleet of this many containers on four nodes, with GPUs, of which each fifth waits and each fiftieth failed.
pub fn large(count: usize) -> Seen {
    let mut seen = small();
    seen.hypervisors = vec![hypervisor(&[
        ("pve1", "online"),
        ("pve2", "offline"),
        ("pve3", "online"),
        ("pve4", "online"),
    ])];
    let busy = |place: usize| {
        format!(
            "waits for template ai/vllm (920): ai/phi comes first; place {place} of 100 in the queue for its clones"
        )
    };
    let failed =
        "the application script failed with exit code 1: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB";
    for n in seen.guests.len()..count {
        let mut spec = json!({"source": cloned("vllm"), "vllm": {"model": "Qwen/Qwen2.5-7B-Instruct-AWQ"}});
        let node = format!("pve{}", n % 4 + 1);
        let mut more = json!({"vmid": 1000 + n, "node": node, "ip": format!("192.0.2.{}", n % 250)});
        let name = format!("model-server-{n:03}");
        // Eight in each node.
        if n < 44 {
            spec["gpus"] = json!([{"index": n / 4 % 8}]);
            more["gpus"] = (n / 4 % 8).to_string().into();
        }
        let guest = match n {
            n if n % 50 == 0 => {
                let mut told = ready();
                let list = told.as_array_mut().unwrap();
                list[0] = condition("Ready-", "ScriptFailed", failed);
                list.insert(1, condition("Stalled+", "ScriptFailed", failed));
                list[8] = condition("ApplicationReady-", "ScriptFailed", failed);
                object("PhoenixLXC", &name, spec, "Stalled", told, more)
            }
            n if n % 5 == 0 => {
                let busy = busy(n / 5 + 1);
                let told = conditions(&[
                    ("Ready-", "TemplateBusy", &busy),
                    ("Reconciling+", "TemplateBusy", &busy),
                    ("DependenciesReady+", "AsWanted", "no dependencies"),
                    ("Created-", "TemplateBusy", &busy),
                ]);
                object("PhoenixLXC", &name, spec, "Creating", told, json!({"message": busy}))
            }
            _ => object("PhoenixLXC", &name, spec, "Ready", ready(), more),
        };
        seen.guests.push(guest);
    }
    let told = (0..super::ACTIONS as i64).rev();
    seen.actions = told
        .map(|n| action(n, false, "qwen", "DriftCorrected", "memory was set back"))
        .collect();
    seen
}
