//! A namespace with a simulated Proxmox VE, a PhoenixHypervisor for it, and the operator with its own rights.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, cluster};
use crate::harness::namespace::Namespace;
use crate::harness::process::{Process, simulator};
use crate::harness::{repository, wait_for};

/// Times faster than real, of the simulator and of the operator's waits.
const SCALE: &str = "50";
pub const IMAGE: &str = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";

/// Everything that a test works on; the operator stops first when it is dropped.
pub struct Site {
    pub operator: Option<Process>,
    // Held to be stopped when the site goes.
    _simulator: Process,
    pub namespace: Namespace,
    pub dir: PathBuf,
    /// Whether the operator is started with `--expose`.
    pub exposes: bool,
    kubeconfig: PathBuf,
}

fn phoenix() -> Command {
    Command::new(env!("CARGO_BIN_EXE_phoenix"))
}

impl Site {
    /// Starts all of it; the operator waits for [`Site::start_operator`].
    pub fn new(name: &str) -> Site {
        Self::new_in(cluster(), name)
    }

    /// As [`Site::new`], in a cluster of the test's own.
    pub fn new_in(cluster: &Cluster, name: &str) -> Site {
        let namespace = Namespace::create_in(cluster, name);
        let dir = cluster.dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let simulator = simulator(phoenix(), &dir, SCALE, ["127.0.0.1:0"; 2]);
        let kubeconfig = permit(cluster, &namespace, &dir);
        let site = Site {
            operator: None,
            _simulator: simulator,
            namespace,
            dir,
            exposes: false,
            kubeconfig,
        };
        site.namespace
            .kubectl
            .apply(&std::fs::read_to_string(site.dir.join("sim/secrets.yaml")).unwrap());
        site
    }

    /// What the simulator says of itself.
    pub fn description(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.dir.join("sim/simulator.json")).unwrap()).unwrap()
    }

    /// Applies a hypervisor named `pve` for the simulator, and the shipped features.
    pub fn hypervisor(&self) {
        let description = self.description();
        let hypervisor = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor", "metadata": {"name": "pve"},
            "spec": {
                "endpoints": [description["apiUrl"]],
                "tls": {"caSecretRef": {"name": "proxmox-ca", "key": "ca.crt"}},
                "credentials": {"tokenSecretRef": {"name": "proxmox-token"}},
                "ssh": {
                    "hosts": description["ssh"],
                    "keySecretRef": {"name": "proxmox-ssh", "key": "ssh-privatekey"},
                    "knownHostsSecretRef": {"name": "proxmox-ssh", "key": "known_hosts"}
                },
                "vmidRange": {"start": 1000, "end": 1999},
                "volumeOwners": {"idRange": {"start": 9900, "end": 9909}, "image": IMAGE},
                "defaults": {"rootfsStorage": "quickOS-lxc-disks", "volumeStorage": "fastData-shared-bulk-data", "bridge": "vmbr0"}
            }
        });
        self.namespace.kubectl.apply(&hypervisor.to_string());
    }

    /// Applies the features that come with Phoenix.
    pub fn features(&self) {
        self.namespace
            .kubectl
            .must(&["apply", "-f", repository("config/features").to_str().unwrap()]);
    }

    /// Starts the operator with the rights of `config/rbac`, and nothing more.
    pub fn start_operator(&mut self) {
        self.start_operator_for(&[]);
    }

    /// As [`Site::start_operator`], for further namespaces as well.
    pub fn start_operator_for(&mut self, others: &[&Namespace]) {
        self.start_operator_at(SCALE, others);
    }

    /// As [`Site::start_operator_for`], with waits that are so many times shorter.
    pub fn start_operator_at(&mut self, scale: &str, others: &[&Namespace]) {
        let mut command = phoenix();
        command.args(["operator", "--metrics-listen", "127.0.0.1:0", "--time-scale", scale]);
        for namespace in [&self.namespace].into_iter().chain(others.iter().copied()) {
            command.args(["--namespace", &namespace.name]);
        }
        if self.exposes {
            command.arg("--expose");
        }
        command.env("KUBECONFIG", &self.kubeconfig);
        self.operator = Some(Process::start("operator", &command, &self.dir.join("operator.log")));
    }

    /// The operator's last words, for failures.
    pub fn words(&self) -> String {
        self.operator.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    /// Waits until `kubectl wait` is content.
    pub fn wait_ready(&self, what: &str, seconds: u32) {
        let timeout = format!("--timeout={seconds}s");
        let answer = self
            .namespace
            .kubectl
            .run(&["wait", "--for=condition=Ready", what, &timeout]);
        assert!(answer.ok, "{}\n{}\n{}", answer.stderr, self.table(), self.words());
    }

    /// All objects as people see them.
    pub fn table(&self) -> String {
        self.namespace.kubectl.run(&["get", "phoenix", "-o", "wide"]).stdout
    }

    /// Status of an object.
    pub fn status(&self, what: &str) -> Value {
        self.namespace.kubectl.get(&[what])["status"].clone()
    }

    /// Waits until an object is Stalled for this reason; the message.
    pub fn wait_stalled(&self, what: &str, reason: &str) -> String {
        wait_for(&format!("{what} to be Stalled: {reason}"), || {
            let status = self.status(what);
            let stalled = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|c| c["type"] == "Stalled");
            match stalled {
                Some(c) if c["reason"] == reason => Ok(c["message"].as_str().unwrap().to_string()),
                _ => Err(format!("{status:#}\n{}", self.words())),
            }
        })
    }

    /// A request to the simulator's control endpoint.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let description = self.description();
        let text = |key: &str| description[key].as_str().unwrap();
        let token = format!("Bearer {}", text("controlToken"));
        let url = format!("{}{path}", text("controlUrl"));
        request(&description, method, &url, &[("authorization", &token)], body)
    }

    /// What the cluster's administrator does by the API, before Phoenix comes.
    pub fn as_root(&self, method: &str, path: &str, body: &Value) -> Value {
        let description = self.description();
        let url = |path: &str| format!("{}/api2/json{path}", description["apiUrl"].as_str().unwrap());
        let login = json!({"username": description["rootUser"], "password": description["rootPassword"]});
        let ticket = request(&description, "POST", &url("/access/ticket"), &[], &login)["data"].take();
        let cookie = format!("PVEAuthCookie={}", ticket["ticket"].as_str().unwrap());
        let csrf = ticket["CSRFPreventionToken"].as_str().unwrap();
        let headers = [("cookie", cookie.as_str()), ("csrfpreventiontoken", csrf)];
        request(&description, method, &url(path), &headers, body)
    }

    /// Guests of the simulator by vmid, with their current options.
    pub fn guests(&self) -> serde_json::Map<String, Value> {
        self.control("GET", "state", &Value::Null)["guests"]
            .as_object()
            .cloned()
            .unwrap_or_default()
    }
}

/// A request to the simulator; it must succeed.
fn request(description: &Value, method: &str, url: &str, headers: &[(&str, &str)], body: &Value) -> Value {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ca = reqwest::Certificate::from_pem(description["caPem"].as_str().unwrap().as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
        let mut request = client
            .request(method.parse().unwrap(), url)
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.to_string()).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {url}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    })
}

/// Gives the operator's service account its rights; the kubeconfig with its token.
fn permit(cluster: &Cluster, namespace: &Namespace, dir: &std::path::Path) -> PathBuf {
    let admin = &cluster.admin;
    // Of several tests that create the same at once, kubectl fails for all but one.
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock();
    let _ = admin.run(&["create", "namespace", "phoenix-system"]);
    admin.must(&["apply", "-k", repository("config/rbac").to_str().unwrap()]);
    drop(one);
    give_rights(namespace);
    let token = admin.must(&[
        "-n",
        "phoenix-system",
        "create",
        "token",
        "phoenix-operator",
        "--duration=2h",
    ]);
    let kubeconfig = dir.join("operator.kubeconfig");
    cluster.kubeconfig_with_token(&kubeconfig, token.trim());
    kubeconfig
}

/// Lets the operator work in a namespace.
pub fn give_rights(namespace: &Namespace) {
    let rights = repository("config/rbac/namespace");
    namespace.kubectl.must(&["apply", "-k", rights.to_str().unwrap()]);
}
