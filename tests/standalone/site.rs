//! A simulator in this process, a folder of manifests, and the binary run on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use phoenix::simulator::ssh::{SshConfig, SshServer};
use phoenix::simulator::{Running, SimConfig, Simulator};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub const IMAGE: &str = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
const SCALE: f64 = 500.0;

/// What a command said.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// Fails unless the command ended with this code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

pub struct Site {
    pub running: Running,
    _ssh: SshServer,
    pub folder: TempDir,
    /// Texts that nobody but a Secret may show.
    pub secrets: Vec<String>,
}

impl Site {
    /// A simulator, and a folder with a PhoenixHypervisor for it.
    pub async fn new() -> Site {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = SimConfig {
            time_scale: SCALE,
            ..SimConfig::default()
        };
        let (token, password) = (config.secrets.token.clone(), config.secrets.root_password.clone());
        let running = Simulator::start(config).await.unwrap();
        let (key, public) = SshServer::new_client_key().unwrap();
        let ssh = SshConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            authorized_keys: vec![public],
        };
        let ssh = SshServer::start(&running.simulator, ssh).await.unwrap();
        let site = Site {
            secrets: vec![token.clone(), password.clone(), key.lines().nth(2).unwrap().to_owned()],
            folder: TempDir::new().unwrap(),
            running,
            _ssh: ssh,
        };
        let data = json!({
            "tokenId": "phoenix@pve!operator", "secret": token, "password": password,
            "ca": site.running.certificates.ca_pem, "key": key, "known_hosts": site._ssh.known_hosts(),
        });
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pve"}, "stringData": data});
        site.write("secret", &secret);
        site.write("hypervisor", &site.hypervisor());
        site
    }

    pub fn sim(&self) -> &Simulator {
        &self.running.simulator
    }

    pub fn hypervisor(&self) -> Value {
        let key = |key: &str| json!({"name": "pve", "key": key});
        let hosts: BTreeMap<&String, String> = self
            ._ssh
            .addresses()
            .iter()
            .map(|(node, at)| (node, at.to_string()))
            .collect();
        json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor", "metadata": {"name": "pve"},
            "spec": {
                "endpoints": [self.running.server.base_url],
                "tls": {"caSecretRef": key("ca")},
                "credentials": {"tokenSecretRef": {"name": "pve"}, "rootPasswordSecretRef": {"name": "pve"}},
                "ssh": {"hosts": hosts, "keySecretRef": key("key"), "knownHostsSecretRef": key("known_hosts")},
                "vmidRange": {"start": 1000, "end": 1099},
                "volumeOwners": {"idRange": {"start": 9900, "end": 9909}, "image": IMAGE},
                "defaults": {"rootfsStorage": "quickOS-lxc-disks", "volumeStorage": "fastData-shared-bulk-data", "bridge": "vmbr0"},
            }
        })
    }

    /// Writes a manifest.
    pub fn write(&self, file: &str, manifest: &Value) {
        fs::write(self.path(file), format!("{manifest:#}")).unwrap();
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(format!("{file}.json"))
    }

    /// The state folder, beside the manifests as by default.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join(".phoenix")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phoenix"));
        let scale = SCALE.to_string();
        let verb = &args[..1];
        command
            .args(verb)
            .arg("-f")
            .arg(self.folder.path())
            .args(["--time-scale", &scale])
            .args(&args[1..]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        // What a developer has set must not decide.
        command.env_remove("KUBECONFIG").env_remove("RUST_LOG");
        command
    }

    /// Runs `phoenix VERB -f FOLDER …` to its end.
    pub async fn phoenix(&self, args: &[&str]) -> Answer {
        let output = self.command(args).output().await.unwrap();
        let answer = Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        for secret in &self.secrets {
            assert!(!answer.text().contains(secret), "a secret is shown: {answer:?}");
        }
        answer
    }

    /// Starts it only.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Writes that reached Proxmox so far.
    pub fn writes(&self) -> usize {
        // A ticket is fetched by POST, and changes nothing.
        let changes = |r: &phoenix::simulator::LoggedRequest| r.is_write() && r.path != "/access/ticket";
        self.sim().requests().iter().filter(|r| changes(r)).count()
    }

    /// Options of a guest.
    pub fn options(&self, vmid: u32) -> Option<BTreeMap<String, String>> {
        self.sim()
            .with(|state| Some(state.guests.get(&vmid)?.config().current.options.clone()))
    }

    pub fn vmids(&self) -> Vec<u32> {
        self.sim().with(|state| state.guests.keys().copied().collect())
    }

    pub fn runs(&self, vmid: u32) -> bool {
        self.sim().with(|state| state.guests[&vmid].running.is_some())
    }
}

/// A small container with further fields.
pub fn lxc(name: &str, fields: Value) -> Value {
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "source": {"image": {"volid": IMAGE}}, "cores": 1, "memory": "512Mi",
        "rootfs": {"size": "4Gi"}, "network": [{"name": "eth0", "ip": "dhcp"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC", "metadata": {"name": name}, "spec": spec})
}
