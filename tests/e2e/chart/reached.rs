//! On a real node that runs pods: a pod reaches a model server behind a guest by the name of its Service.

use std::process::Command;

use serde_json::json;

use crate::harness::cluster::cluster;
use crate::harness::helm::{chart, program};
use crate::harness::pods::{ADDRESS, Node, image, operator, with_libraries};
use crate::harness::process::{Process, simulator};
use crate::harness::wait_for;

const SCALE: &str = "50";
const NAMESPACE: &str = "phoenix";
const SET: &str =
    "image.registry=localhost,image.tag=e2e,image.pullPolicy=Never,expose.enabled=true,extraArgs={--time-scale=50}";

/// Answers what a model server answers, on the node's own address: that is the guest's here, since no container is.
const SERVER: &str = r#"
import http.server, json
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": "qwen"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("10.99.0.1", 8000), Answer).serve_forever()
"#;

/// An image with curl of this machine.
fn curl(dir: &std::path::Path) -> std::path::PathBuf {
    let archive = dir.join("curl.tar");
    image(
        &archive,
        "localhost/curl:e2e",
        &with_libraries("/usr/bin/curl".into(), "/phoenix"),
    );
    archive
}

#[test]
fn a_pod_reaches_a_model_server_by_the_name_of_its_guest() {
    let dir = cluster().dir.join("reached");
    let Some(node) = Node::start(&dir, |dir| vec![operator(dir), curl(dir)]) else {
        return;
    };
    let addresses = [format!("{ADDRESS}:8006"), format!("{ADDRESS}:2222")];
    let phoenix = node.command(env!("CARGO_BIN_EXE_phoenix"));
    let _simulator = simulator(phoenix, &dir, SCALE, addresses.each_ref().map(String::as_str));
    let mut server: Command = node.command("python3");
    server.args(["-c", SERVER]);
    let _server = Process::start("model server", &server, &dir.join("server.log"));

    let kubectl = node.admin.within(NAMESPACE);
    let release = chart();
    let helm = [
        "--namespace",
        NAMESPACE,
        "install",
        "phoenix",
        &release,
        "--create-namespace",
        "--set",
        SET,
    ];
    node.must(program(), &[&helm[..], &["--wait", "--timeout=120s"]].concat());
    kubectl.apply(&std::fs::read_to_string(dir.join("sim/secrets.yaml")).unwrap());
    let description = std::fs::read_to_string(dir.join("sim/simulator.json")).unwrap();
    let description: serde_json::Value = serde_json::from_str(&description).unwrap();
    let hypervisor = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor", "metadata": {"name": "pve"},
        "spec": {
            "endpoints": [description["apiUrl"]],
            "tls": {"caSecretRef": {"name": "proxmox-ca", "key": "ca.crt"}},
            "credentials": {"tokenSecretRef": {"name": "proxmox-token"}},
            "vmidRange": {"start": 1000, "end": 1999},
            "defaults": {"rootfsStorage": "quickOS-lxc-disks", "bridge": "vmbr0"}
        }
    });
    kubectl.apply(&hypervisor.to_string());
    let guest = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC", "metadata": {"name": "qwen"},
        "spec": {
            "hypervisorRef": {"name": "pve"}, "cores": 1, "memory": "512Mi", "rootfs": {"size": "8Gi"},
            "source": {"image": {"volid": crate::site::IMAGE}},
            "network": [{"name": "eth0", "ip": format!("{ADDRESS}/24"), "gateway": "10.99.0.254"}],
            "expose": [{"name": "http", "port": 8000}]
        }
    });
    kubectl.apply(&guest.to_string());
    let words = || {
        kubectl
            .run(&["get", "phoenixlxc,service,endpointslice,pods", "-o", "yaml"])
            .stdout
    };
    let answer = kubectl.run(&["wait", "--for=condition=Exposed", "phoenixlxc/qwen", "--timeout=180s"]);
    assert!(answer.ok, "{}\n{}", answer.stderr, words());
    let told = kubectl.get(&["phoenixlxc/qwen"])["status"]["conditions"].clone();
    let said = told
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Exposed")
        .unwrap()
        .clone();
    assert_eq!(said["message"], "Service qwen.phoenix: http 8000/TCP");

    // The node has no cluster DNS: the name's address is what Kubernetes tells pods of Services in their environment.
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "containers": [{
                "name": "curl", "image": "localhost/curl:e2e", "imagePullPolicy": "Never", "command": ["/phoenix"],
                "args": ["--silent", "--show-error", "--fail", "--max-time", "20", "--retry", "5", "--retry-connrefused",
                    "--resolve", "qwen.phoenix.svc:8000:$(QWEN_SERVICE_HOST)", "http://qwen.phoenix.svc:8000/v1/models"]
            }]}
        })
    };
    let ends = |name: &str| {
        kubectl.apply(&pod(name).to_string());
        wait_for("the pod to end", || {
            let phase = kubectl.get(&["pod", name])["status"]["phase"].clone();
            match phase.as_str() {
                Some(phase @ ("Succeeded" | "Failed")) => Ok(phase.to_string()),
                _ => Err(words()),
            }
        })
    };
    assert_eq!(ends("works"), "Succeeded", "{}", kubectl.run(&["logs", "works"]).stdout);
    let said = kubectl.must(&["logs", "works"]);
    assert!(said.contains(r#""id": "qwen""#), "{said}");

    // Stopped by wish, it is sent nothing, although the server behind the address still answers here.
    let patch = json!({"spec": {"powerState": "Stopped"}}).to_string();
    kubectl.must(&["patch", "phoenixlxc/qwen", "--type=merge", "-p", &patch]);
    wait_for("the guest to stop", || {
        let status = kubectl.get(&["phoenixlxc/qwen"])["status"]["phase"].clone();
        (status == "Stopped").then_some(()).ok_or_else(words)
    });
    assert_eq!(ends("stopped"), "Failed");

    // With the object its Service goes.
    kubectl.must(&["delete", "phoenixlxc/qwen", "--timeout=120s"]);
    wait_for("the Service to go", || {
        let left = kubectl.must(&["get", "service/qwen", "--ignore-not-found", "-o", "name"]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}
