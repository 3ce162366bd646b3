//! OCI images: what registries hold, and containers that are made of them (facts D.3, G.4). Nothing is fetched: an image
//! is a remote file whose URL is `docker://` and its reference.

use serde::{Deserialize, Serialize};

use super::config::GuestConfig;
use super::download::RemoteFile;
use super::property;
use super::state::State;

/// What stands before a reference in the URL of a remote file.
pub const REGISTRY: &str = "docker://";
/// Where a volume keeps the configuration of the image in it.
pub(super) const KEPT: &str = "oci";

/// The part of an image's configuration that Proxmox takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciConfig {
    /// Entrypoint and command.
    pub entrypoint: Vec<String>,
    /// Environment, `NAME=VALUE` each.
    pub env: Vec<String>,
    /// User and group id that it runs as, `1000` or `1000:1000`.
    pub user: Option<String>,
    /// Directory that it runs in.
    pub working_dir: Option<String>,
    /// Signal that ends it.
    pub stop_signal: Option<String>,
}

impl State {
    /// What a registry has under a reference. Names without a registry are Docker's.
    pub(super) fn in_registry(&self, reference: &str) -> Option<&RemoteFile> {
        let places = ["", "docker.io/", "docker.io/library/"];
        let urls = places.map(|place| format!("{REGISTRY}{place}{reference}"));
        urls.iter().find_map(|url| self.remote_files.get(url))
    }

    /// The tags of a repository.
    pub fn oci_tags(&self, repository: &str) -> Vec<String> {
        let places = ["", "docker.io/", "docker.io/library/"];
        let starts = places.map(|place| format!("{REGISTRY}{place}{repository}:"));
        let tag = |url: &String| {
            starts
                .iter()
                .find_map(|start| url.strip_prefix(start))
                .map(str::to_owned)
        };
        self.remote_files.keys().filter_map(tag).collect()
    }

    /// The configuration of the image in a volume, if it is one.
    pub(super) fn oci_in(&self, node: &str, volid: &str) -> Option<OciConfig> {
        let text = self.volume(node, volid)?.data.get(KEPT)?;
        serde_json::from_str(text).ok()
    }
}

impl OciConfig {
    /// What becomes of a new container's configuration: what the call asked for is lost (facts D.3).
    pub(super) fn apply(&self, config: &mut GuestConfig) {
        let current = &mut config.current;
        if self.entrypoint != ["/sbin/init"] && !self.entrypoint.is_empty() {
            let words: Vec<String> = self.entrypoint.iter().map(|word| quoted(word)).collect();
            current.set("entrypoint", words.join(" "));
            current.set("cmode", "console");
            let nets: Vec<(String, String)> = current
                .options
                .iter()
                .filter(|(key, _)| key.starts_with("net") && key[3..].parse::<u32>().is_ok())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            for (key, value) in nets {
                let mut parts = property::parse(&value, "name");
                parts.entry("host-managed".to_owned()).or_insert_with(|| "1".to_owned());
                current.set(&key, property::print(&parts, "", &["name"]));
            }
        }
        if !self.env.is_empty() {
            current.set("env", self.env.join("\0"));
        }
        let mut raw = |key: &str, value: &str| current.lxc.push((key.to_owned(), value.to_owned()));
        if let Some(user) = &self.user {
            let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
            raw("lxc.init.uid", uid);
            raw("lxc.init.gid", gid);
        }
        if let Some(folder) = &self.working_dir {
            raw("lxc.init.cwd", folder);
        }
        raw("lxc.signal.halt", self.stop_signal.as_deref().unwrap_or("SIGTERM"));
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
