//! The folder that a simulator keeps its secrets and its description in, so that clients and a restart find them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::profile::{Profile, Secrets};
use super::server::Certificates;

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
    /// Opens the folder: what is missing is made, what is there is kept.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let fresh = || uuid::Uuid::new_v4().to_string();
        let line = |name: &str| kept(&dir.join(name), || Ok(fresh())).map(|text| text.trim().to_owned());
        let root_password = line("root-password")?;
        let token = line("token")?;
        let control_token = line("control-token")?;
        let secrets = Secrets { root_password, token };
        let pem = ["ca.pem", "server.pem", "server.key"].map(|name| dir.join(name));
        if pem.iter().any(|path| !path.exists()) {
            let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
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
        Ok(Self {
            dir: dir.to_owned(),
            secrets,
            control_token,
            certificates,
        })
    }

    /// What a client needs to know, for `simulator.json`.
    pub fn describe(&self, profile: Profile, api: &str, ssh: Option<&str>) -> io::Result<Value> {
        let (node, token_id) = match profile {
            Profile::Homelab => ("phoenix", "phoenix@pve!phoenix"),
            Profile::Recorded => ("pve1", "root@pam!test"),
        };
        let token = match profile {
            Profile::Homelab => self.secrets.token.clone(),
            Profile::Recorded => "00000000-0000-4000-8000-000000000001".to_owned(),
        };
        let root_password = match profile {
            Profile::Homelab => self.secrets.root_password.clone(),
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
            "ssh": ssh,
        }))
    }

    /// Writes `simulator.json`, last and at once, so that its presence says that the server listens.
    pub fn publish(&self, description: &Value) -> io::Result<()> {
        let beside = self.dir.join("simulator.json.tmp");
        write_private(&beside, &format!("{description:#}\n"))?;
        fs::rename(beside, self.dir.join("simulator.json"))
    }

    /// Takes `simulator.json` away: nobody listens any more.
    pub fn withdraw(&self) {
        let _ = fs::remove_file(self.dir.join("simulator.json"));
    }
}
