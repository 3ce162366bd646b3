use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::crd::{GuestKind, PhoenixFeature, PhoenixLXC};
use crate::desired::{GuestObject, Key};
use crate::engine::Ended;
use crate::observed::{ProbeAnswer, ProbeKind};
use crate::operator::objects::{Guest, Object, Origin};
use crate::proxmox::{ApiCall, Came};
use crate::pve::gpu_report;
use crate::reason::Reason;
use crate::remote;

fn lxc(name: &str, status: Value) -> Object {
    let object: PhoenixLXC = serde_json::from_value(json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"namespace": "ai", "name": name, "generation": 2, "creationTimestamp": "1970-01-01T00:16:40Z"},
        "spec": {"hypervisorRef": {"name": "pve"}}, "status": status
    }))
    .unwrap();
    Object::Guest(Arc::new(Guest {
        object: GuestObject::from(&object),
        finalizers: vec![],
    }))
}

fn condition(type_: &str, status: &str, reason: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": "1970-01-01T00:33:20Z"})
}

/// One object of each sort.
fn state() -> State {
    let ready = json!({"observedGeneration": 2, "phase": "Ready", "conditions": [
        condition("Ready", "True", "Ready"), condition("DriftDetected", "True", "ChangedOutsidePhoenix")]});
    let outdated =
        json!({"observedGeneration": 1, "phase": "Ready", "conditions": [condition("Ready", "True", "Ready")]});
    let stalled = json!({"observedGeneration": 2, "phase": "Stalled", "conditions": [
        condition("Ready", "False", "InvalidSpec"), condition("Stalled", "True", "InvalidSpec")]});
    let task = |start: &str| {
        json!({"observedGeneration": 2, "phase": "Creating", "conditions": [condition("Ready", "False", "InProgress")],
            "task": {"upid": format!("UPID:pve:00000001:00000000:{start}:vzclone:100:root@pam:"), "action": "clone"}})
    };
    let hypervisor = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
        "metadata": {"namespace": "infra", "name": "pve"},
        "spec": {"endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}}},
        "status": {"phase": "Ready", "conditions": [condition("Ready", "True", "Ready")],
            "nodes": [{"name": "a", "status": "online"}, {"name": "b", "status": "offline"}],
            "gpus": [{"node": "a", "pciAddress": "0000:41:00.0", "vendor": "NVIDIA",
                "users": [{"object": "PhoenixLXC ai/good", "vmid": 100, "share": 0.5}]}]}
    });
    let mut feature = PhoenixFeature::new("docker", Default::default());
    feature.metadata.namespace = Some("ai".into());
    let mut state = State::default();
    for object in [
        lxc("good", ready),
        lxc("old", outdated),
        lxc("bad", stalled),
        lxc("first", task("00000064")),
        lxc("second", task("000000C8")),
        lxc("new", json!({})),
        Object::Hypervisor(Arc::new(serde_json::from_value(hypervisor).unwrap())),
        Object::Feature(Arc::new(feature)),
    ] {
        state.apply(object, "1", Origin::Elsewhere);
    }
    state
}

/// Metrics after something of everything happened.
fn metrics() -> Metrics {
    let metrics = Metrics::default();
    let key = Key::new(GuestKind::PhoenixLXC, "ai", "a");
    let item = Item::Guest(key.clone());
    let pve = ObjectName::new("infra", "pve");
    metrics.leading(true);
    metrics.reconciled(&item, "ready", Duration::from_millis(3));
    metrics.status_write("PhoenixLXC", Some(&StoreError::Conflict));
    metrics.hypervisor(&pve, Some(true));
    metrics.queue(4, 2);
    metrics.waited(Duration::from_secs(1));
    metrics.probe(ProbeKind::Liveness, &ProbeAnswer::Failed("no".into()));
    metrics.probe(ProbeKind::Liveness, &ProbeAnswer::UnderWay);
    metrics.health_restart(&Key::new(GuestKind::PhoenixVM, "ai", "a"));
    metrics.panicked(&item);
    metrics.undecodable("PhoenixVM");
    metrics.step(&key, "task", Ended::Started, Duration::from_millis(20));
    metrics.step(
        &key,
        "call",
        Ended::Failed(Reason::MissingPrivilege),
        Duration::from_millis(20),
    );
    metrics.task(&key, "vzclone", None, -3);
    metrics.task(&key, "vzclone", Some(Reason::TaskFailed), 40);
    metrics.drift(&key, "cores");
    let card = "card|0000:41:00.0|0x10de|0x2d04|nvidia|1||\nsmi|0, 00000000:41:00.0, GPU-1, NVIDIA A, 1024, 580.1, Enabled, [N/A], 512, 50, 61, 142.5\nsmi-code|0";
    let node = gpu_report::parse(&format!("begin\n{card}\nend\n"), "a").unwrap();
    metrics.cards(&pve, &[("a".to_string(), node)].into());
    let serving = Serving::read("readings running=2 waiting=0 cache=415 prompt=7 generated=12000000000").unwrap();
    metrics.serving(&Key::new(GuestKind::PhoenixLXC, "ai", "good"), &serving);
    metrics.serving(&Key::new(GuestKind::PhoenixLXC, "ai", "gone"), &serving);
    let meters = metrics.meters(&pve);
    let config = ApiCall::get("/nodes/n/lxc/100/config");
    meters.api.request(&config, Came::Answer(200), Duration::from_millis(7));
    meters.api.request(&config, Came::Timeout, Duration::from_secs(35));
    meters.api.certificate("pve1", 1_900_000_000);
    meters.ssh.connected(None);
    let lost = remote::Error::Lost {
        host: "n".into(),
        message: "gone".into(),
    };
    meters.ssh.ran(Err(&lost), Duration::from_secs(1));
    metrics
}

#[test]
fn counts_show_up_under_their_names() {
    let (metrics, state) = (metrics(), state());
    let text = metrics.text(&state).unwrap();
    for line in [
        "phoenix_build_info{version=\"0.1.0\"} 1",
        "phoenix_leading 1",
        "phoenix_model_cache_usage_ratio{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"good\"} 0.415",
        "phoenix_model_generated_tokens{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"good\"} 12000000000.0",
        "phoenix_reconciles_total{kind=\"PhoenixLXC\",result=\"ready\"} 1",
        "phoenix_reconcile_duration_seconds_count{kind=\"PhoenixLXC\"} 1",
        "phoenix_status_writes_total{kind=\"PhoenixLXC\",result=\"conflict\"} 1",
        "phoenix_hypervisor_up{namespace=\"infra\",name=\"pve\"} 1",
        "phoenix_probes_total{probe=\"liveness\",result=\"failure\"} 1",
        "phoenix_health_restarts_total{kind=\"PhoenixVM\"} 1",
        "phoenix_panics_total{kind=\"PhoenixLXC\"} 1",
        "phoenix_undecodable_objects_total{kind=\"PhoenixVM\"} 1",
        "phoenix_queue_length 4",
        "phoenix_queue_wait_seconds_count 1",
        "phoenix_running 2",
        "phoenix_steps_total{kind=\"PhoenixLXC\",effect=\"task\",result=\"started\"} 1",
        "phoenix_steps_total{kind=\"PhoenixLXC\",effect=\"call\",result=\"failed\"} 1",
        "phoenix_step_failures_total{kind=\"PhoenixLXC\",reason=\"MissingPrivilege\"} 1",
        "phoenix_step_failures_total{kind=\"PhoenixLXC\",reason=\"TaskFailed\"} 1",
        "phoenix_proxmox_task_duration_seconds_sum{type=\"vzclone\",result=\"failed\"} 40.0",
        "phoenix_drift_total{kind=\"PhoenixLXC\",field=\"cores\"} 1",
        "phoenix_proxmox_requests_total{namespace=\"infra\",hypervisor=\"pve\",method=\"GET\",route=\"/nodes/{node}/lxc/{vmid}/config\",code=\"200\"} 1",
        "phoenix_proxmox_requests_total{namespace=\"infra\",hypervisor=\"pve\",method=\"GET\",route=\"/nodes/{node}/lxc/{vmid}/config\",code=\"timeout\"} 1",
        "phoenix_proxmox_certificate_expiry_timestamp_seconds{namespace=\"infra\",hypervisor=\"pve\",host=\"pve1\"} 1900000000",
        "phoenix_ssh_connections_total{namespace=\"infra\",hypervisor=\"pve\",result=\"ok\"} 1",
        "phoenix_ssh_commands_total{namespace=\"infra\",hypervisor=\"pve\",result=\"lost\"} 1",
        "phoenix_objects{kind=\"PhoenixLXC\",namespace=\"ai\",phase=\"Creating\"} 2",
        "phoenix_objects{kind=\"PhoenixLXC\",namespace=\"ai\",phase=\"New\"} 1",
        "phoenix_object_ready{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"good\"} 1",
        "phoenix_object_ready{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"old\"} 0",
        "phoenix_object_ready{kind=\"PhoenixHypervisor\",namespace=\"infra\",name=\"pve\"} 1",
        "phoenix_object_unready_since_timestamp_seconds{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"bad\"} 2000",
        "phoenix_object_unready_since_timestamp_seconds{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"new\"} 1000",
        "phoenix_unready_objects{kind=\"PhoenixLXC\",namespace=\"ai\",reason=\"InProgress\"} 2",
        "phoenix_object_stalled{kind=\"PhoenixLXC\",namespace=\"ai\",name=\"bad\",reason=\"InvalidSpec\"} 1",
        "phoenix_drifted_objects{kind=\"PhoenixLXC\",namespace=\"ai\"} 1",
        "phoenix_proxmox_tasks{type=\"vzclone\"} 2",
        "phoenix_proxmox_task_oldest_start_timestamp_seconds{type=\"vzclone\"} 100",
        "phoenix_hypervisor_nodes{namespace=\"infra\",name=\"pve\",status=\"offline\"} 1",
        "phoenix_gpu_memory_bytes{namespace=\"infra\",hypervisor=\"pve\",node=\"a\",address=\"0000:41:00.0\",gpu=\"0\",model=\"NVIDIA A\"} 1073741824",
        "phoenix_gpu_memory_used_bytes{namespace=\"infra\",hypervisor=\"pve\",node=\"a\",address=\"0000:41:00.0\",gpu=\"0\",model=\"NVIDIA A\"} 536870912.0",
        "phoenix_gpu_utilization_ratio{namespace=\"infra\",hypervisor=\"pve\",node=\"a\",address=\"0000:41:00.0\",gpu=\"0\",model=\"NVIDIA A\"} 0.5",
        "phoenix_gpu_faulty{namespace=\"infra\",hypervisor=\"pve\",node=\"a\",address=\"0000:41:00.0\",gpu=\"0\",model=\"NVIDIA A\"} 0",
        "phoenix_gpu_share_ratio{hypervisor=\"pve\",node=\"a\",address=\"0000:41:00.0\",kind=\"PhoenixLXC\",namespace=\"ai\",name=\"good\",vmid=\"100\"} 0.5",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    metrics.hypervisor(&ObjectName::new("infra", "pve"), None);
    assert!(!metrics.text(&state).unwrap().contains("phoenix_hypervisor_up{"));
    metrics.leading(false);
    let text = metrics.text(&state).unwrap();
    assert!(!text.contains("phoenix_objects"), "only who works tells of objects");
}

/// The labels of each metric, as they were told.
fn labels(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let ends = ["_bucket", "_sum", "_count"];
        let of_histogram = ends.iter().find_map(|end| name.strip_suffix(end));
        let name = of_histogram.filter(|name| name.ends_with("_seconds")).unwrap_or(name);
        let keys = rest.split('"').step_by(2).filter_map(|part| part.strip_suffix('='));
        let keys = keys.map(|key| key.trim_start_matches(['{', ',']).to_string());
        let keys = keys.filter(|key| key != "le");
        found.entry(name.to_string()).or_default().extend(keys);
    }
    found
}

/// Names, types and labels in the page are those that there are.
#[test]
fn the_page_lists_every_metric_and_no_other() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let told = labels(&metrics().text(&state()).unwrap());
    let rows = page.lines().filter(|line| line.starts_with("| `phoenix_"));
    let rows: BTreeSet<String> = rows
        .map(|row| row.split('|').take(4).map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    let expected: BTreeSet<String> = Metrics::described()
        .into_iter()
        .map(|metric| {
            let labels = told
                .get(&metric.name)
                .unwrap_or_else(|| panic!("the test tells nothing of {}", metric.name));
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!("|`{}`|{}|{}", metric.name, metric.type_, labels.join(", "))
        })
        .collect();
    let missing: Vec<_> = expected.difference(&rows).collect();
    let left: Vec<_> = rows.difference(&expected).collect();
    assert!(
        missing.is_empty() && left.is_empty(),
        "missing: {missing:#?}\nnot so: {left:#?}"
    );
}
