//! The commands of the documentation, word by word, in the order in which they stand: what is copied from a page works.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::cluster::Cluster;
use crate::harness::helm;
use crate::harness::process::{Process, simulator};
use crate::harness::repository;

const SCALE: &str = "50";

/// The fenced blocks of a page that are for a shell.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository(page)).unwrap();
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(info) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
        if info.split(' ').next() == Some("sh") {
            let body = body.iter().map(|line| line.get(indent..).unwrap_or_default());
            found.push(body.collect::<Vec<_>>().join("\n"));
        }
    }
    assert!(!found.is_empty(), "{page} has no commands");
    found
}

/// A reader at a desk: an empty cluster, a simulated Proxmox VE, and a folder that looks like a checkout.
struct Desk {
    cluster: &'static Cluster,
    dir: PathBuf,
    operator: Option<Process>,
    _simulator: Process,
    /// Variables that the pages leave to the reader.
    given: BTreeMap<&'static str, String>,
}

impl Desk {
    fn new(name: &str) -> Desk {
        let cluster = Cluster::empty(name);
        let dir = cluster.dir.join("desk");
        let tools = dir.join("tools");
        std::fs::create_dir_all(&tools).unwrap();
        let command = Command::new(env!("CARGO_BIN_EXE_phoenix"));
        let simulator = simulator(command, &dir, SCALE, ["127.0.0.1:0"; 2]);
        let desk = Desk {
            cluster,
            operator: None,
            _simulator: simulator,
            given: BTreeMap::from([
                ("STORAGE", "quickOS-lxc-disks".into()),
                ("NODE", "phoenix".into()),
                ("PVE", "127.0.0.1".into()),
            ]),
            dir,
        };
        desk.tools(&tools);
        desk.checkout();
        desk
    }

    /// What the pages call. `ssh-copy-id`, `ssh-keyscan` and `scp` are about a machine that is not there.
    fn tools(&self, folder: &Path) {
        let sim = self.dir.join("sim");
        let sim = sim.display();
        let tool = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let exec = |program: &Path| format!("exec {} \"$@\"", program.display());
        tool("kubectl", &exec(&self.cluster.admin.program));
        tool("helm", &exec(&helm::program()));
        tool("phoenix", &exec(Path::new(env!("CARGO_BIN_EXE_phoenix"))));
        let pveum = repository("tests/e2e/documented/pveum.py");
        tool(
            "pveum",
            &format!("SIMULATOR={sim}/simulator.json exec {} \"$@\"", pveum.display()),
        );
        // The simulator lets its own key in, and no other.
        tool("ssh-copy-id", &format!("cp {sim}/ssh-key phoenix-key"));
        tool("ssh-keyscan", &format!("cat {sim}/known_hosts"));
        tool("scp", &format!("cp {sim}/ca.pem \"$2\""));
        tool("make", "echo \"make $*\"");
    }

    /// The folders that the pages name, with the one example filled in that a reader has to fill in.
    fn checkout(&self) {
        for folder in ["charts", "config", "crds"] {
            std::os::unix::fs::symlink(repository(folder), self.dir.join(folder)).unwrap();
        }
        std::fs::create_dir(self.dir.join("examples")).unwrap();
        for entry in std::fs::read_dir(repository("examples")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") {
                std::fs::copy(&path, self.dir.join("examples").join(path.file_name().unwrap())).unwrap();
            }
        }
        std::fs::copy(
            self.dir.join("sim/hypervisor.yaml"),
            self.dir.join("examples/hypervisor.yaml"),
        )
        .unwrap();
    }

    fn description(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.dir.join("sim/simulator.json")).unwrap()).unwrap()
    }

    /// Fills in examples/hypervisor.yaml with what the reader of docs/access.md has.
    fn fill_in(&self, secret: &str) {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap();
        let description = self.description();
        let text = std::fs::read_to_string(repository("examples/hypervisor.yaml")).unwrap();
        let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for object in &mut documents {
            match object["metadata"]["name"].as_str().unwrap() {
                "pve-token" => object["stringData"]["secret"] = secret.into(),
                "pve-ca" => object["stringData"]["ca.crt"] = read("pve-root-ca.pem").into(),
                "pve-ssh" => {
                    object["stringData"]["key"] = read("phoenix-key").into();
                    object["stringData"]["known_hosts"] = read("known_hosts").into();
                }
                _ => {
                    object["spec"]["endpoints"] = serde_json::json!([description["apiUrl"]]);
                    object["spec"]["ssh"]["hosts"] = description["ssh"].clone();
                    let defaults = object["spec"]["defaults"].as_object_mut().unwrap();
                    defaults["node"] = "phoenix".into();
                    // This machine keeps disks of virtual machines elsewhere.
                    defaults.remove("diskStorage");
                    for storage in defaults.values_mut().filter(|value| **value == "local-zfs") {
                        *storage = self.given["STORAGE"].clone().into();
                    }
                }
            }
        }
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": documents});
        std::fs::write(self.dir.join("examples/hypervisor.yaml"), list.to_string()).unwrap();
    }

    /// Runs one block, with what earlier ones set; its output.
    fn run(&mut self, block: &str, input: &str) -> String {
        let description = self.description();
        let port = description["apiUrl"]
            .as_str()
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .1
            .to_string();
        let ssh = description["ssh"]["phoenix"].as_str().unwrap();
        // The simulator has no ports of its own to give.
        let block = block
            .replace(":8006", &format!(":{port}"))
            .replace("hosts: {$NODE: \"$PVE\"}", &format!("hosts: {{$NODE: \"{ssh}\"}}"));
        let state = self.dir.join("state");
        let script = format!(
            "set -euo pipefail; cd {dir}; [ ! -f {state} ] || . {state}; set -a\n{block}\nset +a; export -p >{state}",
            dir = self.dir.display(),
            state = state.display()
        );
        let path = format!(
            "{}:{}",
            self.dir.join("tools").display(),
            std::env::var("PATH").unwrap()
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .env("PATH", path)
            .env("KUBECONFIG", &self.cluster.admin.kubeconfig)
            .envs(&self.given)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::Write as _;
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8(output.stdout).unwrap();
        let log = self.operator.as_ref().map(Process::log_tail).unwrap_or_default();
        if !output.status.success() {
            let told = "custom-columns=KIND:.kind,NAME:.metadata.name,PHASE:.status.phase,MESSAGE:.status.message";
            let objects = self
                .cluster
                .admin
                .run(&["get", "phoenixhypervisor,phoenixlxc,phoenixtemplate", "-A", "-o", told])
                .stdout;
            panic!("{block}\n{said}{words}\n{objects}\n{log}");
        }
        said
    }

    /// No node runs pods here: the operator runs beside, with the rights of its service account.
    fn start_operator(&mut self) {
        let token = self
            .cluster
            .admin
            .must(&["-n", "phoenix", "create", "token", "phoenix-operator", "--duration=2h"]);
        let kubeconfig = self.dir.join("operator.kubeconfig");
        self.cluster.kubeconfig_with_token(&kubeconfig, token.trim());
        self.run_operator(&kubeconfig);
    }

    fn run_operator(&mut self, kubeconfig: &Path) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phoenix"));
        command.args(["operator", "--namespace=phoenix", "--metrics-listen=127.0.0.1:0"]);
        command.args(["--time-scale", SCALE]).env("KUBECONFIG", kubeconfig);
        self.operator = Some(Process::start("operator", &command, &self.dir.join("operator.log")));
    }
}

#[test]
fn the_quick_start_leads_to_a_container() {
    let mut desk = Desk::new("quick-start");
    let mut secret = String::new();
    for block in blocks("docs/quick-start.md") {
        let said = desk.run(&block, &format!("{secret}\n"));
        if block.contains("pveum user token add") {
            let token: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
            secret = token["value"].as_str().unwrap().to_string();
        }
        if block.contains("helm install") {
            desk.start_operator();
        }
        if block.contains("get phoenixlxc hello -o wide") {
            assert!(
                said.lines().any(|l| l.starts_with("hello") && l.contains("Ready")),
                "{said}"
            );
        }
    }
    let left = desk
        .cluster
        .admin
        .must(&["-n", "phoenix", "get", "phoenixlxc", "-o", "name"]);
    assert_eq!(left, "");
}

#[test]
fn the_pages_of_access_and_the_readme_do_what_they_say() {
    let mut desk = Desk::new("readme");
    let mut secret = String::new();
    for block in blocks("docs/access.md") {
        let said = desk.run(&block, &format!("{secret}\n"));
        if let Some(token) = said.lines().last().filter(|_| block.contains("pveum user token add")) {
            let token: Value = serde_json::from_str(token).unwrap();
            secret = token["value"].as_str().unwrap().to_string();
        }
    }
    let secrets = desk
        .cluster
        .admin
        .must(&["-n", "phoenix", "get", "secret", "-o", "name"]);
    assert_eq!(secrets.lines().count(), 3, "{secrets}");
    desk.fill_in(&secret);
    for block in blocks("README.md") {
        // The demos have tests of their own.
        if block.contains("make demo") {
            continue;
        }
        desk.run(&block, "");
        if block.contains("helm install") {
            desk.start_operator();
        }
    }
    let kubectl = desk.cluster.admin.within("phoenix");
    kubectl.must(&["wait", "--for=condition=Ready", "phoenixlxc/qwen", "--timeout=180s"]);
}

/// Every way to install, the desk, and the end of it.
#[test]
fn the_page_of_the_operator_installs_and_uninstalls() {
    let mut desk = Desk::new("operator-page");
    let all = blocks("docs/operator.md");
    for block in &all {
        // This one looks at a pod, and these run until somebody stops them.
        if block.contains("port-forward") {
            continue;
        }
        if block.contains("phoenix operator --namespace phoenix") {
            let named = block.replace(
                "KUBECONFIG=operator.kubeconfig phoenix operator",
                "true phoenix operator",
            );
            desk.run(&named, "");
            desk.run_operator(&desk.dir.join("operator.kubeconfig"));
            desk.run("kubectl apply -f examples/hypervisor.yaml -f examples/minimal.yaml", "");
            desk.run(
                "kubectl -n phoenix wait --for=condition=Ready phoenixlxc/hello --timeout=180s",
                "",
            );
            continue;
        }
        if block.contains("kubectl create namespace phoenix") {
            // One way after the other: this page has several.
            desk.run(
                "helm uninstall phoenix -n phoenix; kubectl delete namespace phoenix phoenix-system --ignore-not-found",
                "",
            );
        }
        // What was installed last is what the page tells to remove by its comment.
        desk.run(
            &block.replace(
                "helm uninstall phoenix -n phoenix  ",
                "kubectl delete -k config/operator",
            ),
            "",
        );
    }
    let kubectl = &desk.cluster.admin;
    let left = kubectl.must(&["get", "crd,deployment,clusterrole", "-A", "-o", "name"]);
    let left: Vec<&str> = left.lines().filter(|l| l.contains("phoenix")).collect();
    assert!(left.iter().all(|name| name.contains("clusterrole")), "{left:?}");
}
