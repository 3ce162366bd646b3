//! The folder that a simulator keeps its secrets and its description in, so that clients and a restart find them.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::profile::{DEBIAN, Profile, Secrets, UBUNTU};
use super::server::Certificates;
use super::ssh::SshServer;

/// Everything that is written to the folder.
#[derive(Debug, Clone)]
pub struct SimFiles {
    /// The folder.
    pub dir: PathBuf,
    /// Secrets of the accounts.
    pub secrets: Secrets,
    /// Token for the HTTP side of the control.
    pub control_token: String,
    /// Certificates.
    pub certificates: Certificates,
    /// Private key that the SSH server lets in (OpenSSH PEM).
    pub ssh_key: String,
    /// Its public half, a line for `authorized_keys`.
    pub ssh_public_key: String,
}

/// Reads a file of the folder, or makes its content and writes it, readable for the owner only.
fn kept(path: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make()?;
            write_private(path, &text)?;
            Ok(text)
        }
        Err(error) => Err(error),
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

impl SimFiles {
    /// Opens the folder: what is missing is made, what is there is kept. The certificate is for the loopback addresses and
    /// for `listen`.
    pub fn open(dir: &Path, listen: IpAddr) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let fresh = || uuid::Uuid::new_v4().to_string();
        let line = |name: &str| kept(&dir.join(name), || Ok(fresh())).map(|text| text.trim().to_owned());
        let root_password = line("root-password")?;
        let token = line("token")?;
        let control_token = line("control-token")?;
        let secrets = Secrets { root_password, token };
        let pem = ["ca.pem", "server.pem", "server.key"].map(|name| dir.join(name));
        let mut names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        names.extend((!listen.is_unspecified() && !listen.is_loopback()).then(|| listen.to_string()));
        let named = dir.join("server.names");
        let other_names = fs::read_to_string(&named).is_ok_and(|text| text != names.join("\n"));
        if other_names || pem.iter().any(|path| !path.exists()) {
            fs::write(&named, names.join("\n"))?;
            let made = Certificates::generate(&names).map_err(io::Error::other)?;
            for (path, text) in pem.iter().zip([&made.ca_pem, &made.cert_pem, &made.key_pem]) {
                write_private(path, text)?;
            }
        }
        let [ca_pem, cert_pem, key_pem] = pem.map(fs::read_to_string);
        let certificates = Certificates {
            ca_pem: ca_pem?,
            cert_pem: cert_pem?,
            key_pem: key_pem?,
        };
        let (key_file, public_file) = (dir.join("ssh-key"), dir.join("ssh-key.pub"));
        if !key_file.exists() || !public_file.exists() {
            let (private, public) = SshServer::new_client_key()?;
            write_private(&key_file, &private)?;
            write_private(&public_file, &public)?;
        }
        Ok(Self {
            dir: fs::canonicalize(dir)?,
            secrets,
            control_token,
            certificates,
            ssh_key: fs::read_to_string(key_file)?,
            ssh_public_key: fs::read_to_string(public_file)?,
        })
    }

    /// What a client needs to know, for `simulator.json`.
    pub fn describe(&self, profile: Profile, api: &str, ssh: &SshServer) -> io::Result<Value> {
        let (node, token_id) = match profile {
            Profile::Homelab | Profile::Lab3 => ("phoenix", "phoenix@pve!operator"),
            Profile::Recorded => ("pve1", "root@pam!test"),
        };
        let token = match profile {
            Profile::Homelab | Profile::Lab3 => self.secrets.token.clone(),
            Profile::Recorded => "00000000-0000-4000-8000-000000000001".to_owned(),
        };
        let root_password = match profile {
            Profile::Homelab | Profile::Lab3 => self.secrets.root_password.clone(),
            Profile::Recorded => super::profile::RECORDED_ROOT_PASSWORD.to_owned(),
        };
        Ok(json!({
            "apiUrl": api,
            "caFile": self.dir.join("ca.pem"),
            "caPem": self.certificates.ca_pem,
            "fingerprint": self.certificates.fingerprint()?,
            "node": node,
            "tokenId": token_id,
            "tokenSecret": token,
            "rootUser": "root@pam",
            "rootPassword": root_password,
            "controlUrl": format!("{api}/_sim/"),
            "controlToken": self.control_token,
            "ssh": ssh.addresses(),
        }))
    }

    /// Writes `known_hosts`, `secrets.yaml` (the Secrets that a converted PhoenixHypervisor names, with this
    /// simulator's values), `hypervisor.yaml` (a PhoenixHypervisor for it, ready to apply) and `simulator.json`, the
    /// latter last and at once, so that its presence says that the servers listen.
    pub fn publish(&self, description: &Value, known_hosts: &str) -> io::Result<()> {
        write_private(&self.dir.join("known_hosts"), known_hosts)?;
        let text = |pointer: &str| description[pointer].as_str().unwrap_or_default();
        let parts = [
            ("ca", json!({"ca.crt": self.certificates.ca_pem})),
            (
                "token",
                json!({"tokenId": text("tokenId"), "secret": text("tokenSecret")}),
            ),
            ("root", json!({"password": text("rootPassword")})),
            (
                "ssh",
                json!({"ssh-privatekey": self.ssh_key, "known_hosts": known_hosts}),
            ),
        ];
        let secrets = |prefix: &str, place: Value| -> Vec<Value> {
            let secret = |(name, data): &(&str, Value)| {
                let mut metadata = place.clone();
                metadata["name"] = json!(format!("{prefix}-{name}"));
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
            };
            parts.iter().map(secret).collect()
        };
        write_private(&self.dir.join("secrets.yaml"), &yaml(&secrets("proxmox", json!({}))))?;
        let mut all = secrets("pve", json!({"namespace": "phoenix"}));
        all.push(hypervisor(description));
        write_private(&self.dir.join("hypervisor.yaml"), &yaml(&all))?;
        let beside = self.dir.join("simulator.json.tmp");
        write_private(&beside, &format!("{description:#}\n"))?;
        fs::rename(beside, self.dir.join("simulator.json"))
    }

    /// Takes `simulator.json` away: nobody listens any more.
    pub fn withdraw(&self) {
        let _ = fs::remove_file(self.dir.join("simulator.json"));
    }
}

/// Several objects in one file, as JSON, which is YAML.
fn yaml(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object:#}\n")).collect()
}

/// A PhoenixHypervisor for this simulator, as `examples/hypervisor.yaml` has it for a real cluster.
fn hypervisor(description: &Value) -> Value {
    let secret = |name: &str, key: &str| json!({"name": format!("pve-{name}"), "key": key});
    let (rootfs, volumes, disks, images, image) = match description["node"].as_str() {
        Some("phoenix") => (
            "quickOS-lxc-disks",
            "fastData-shared-bulk-data",
            "quickOS-vm-disks",
            "fastData-shared-iso",
            UBUNTU,
        ),
        _ => ("local", "local", "local", "local", DEBIAN),
    };
    let image = format!("{images}:vztmpl/{image}");
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1",
        "kind": "PhoenixHypervisor",
        "metadata": {"name": "pve", "namespace": "phoenix"},
        "spec": {
            "endpoints": [description["apiUrl"]],
            "tls": {"caSecretRef": secret("ca", "ca.crt")},
            "credentials": {
                "tokenSecretRef": {"name": "pve-token"}, "rootPasswordSecretRef": {"name": "pve-root"},
            },
            "ssh": {
                "hosts": description["ssh"],
                "keySecretRef": secret("ssh", "ssh-privatekey"),
                "knownHostsSecretRef": secret("ssh", "known_hosts"),
            },
            "vmidRange": {"start": 900, "end": 999},
            "volumeOwners": {"idRange": {"start": 9000, "end": 9009}, "image": image},
            "defaults": {
                "node": description["node"], "rootfsStorage": rootfs, "volumeStorage": volumes, "diskStorage": disks,
                "imageStorage": images, "bridge": "vmbr0",
            },
        },
    })
}
