//! Commands for the node itself: `pct set`, raw `lxc.*` lines, snippets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::pve::Vmid;

use super::command::{Command, InvalidCommand, quote};

const RAW_LINES: &str = include_str!("raw_lines.sh");
const SNIPPET: &str = include_str!("snippet.sh");

/// `pct set VMID --key value … --delete a,b --digest …` (or `qm`): as root@pam, for what a token may not set (facts D.2,
/// F.5).
pub fn set(tool: &str, vmid: Vmid, set: &[(String, String)], delete: &[String], digest: Option<&str>) -> Command {
    let mut argv = vec![tool.to_owned(), "set".into(), vmid.to_string()];
    for (key, value) in set {
        argv.extend([format!("--{key}"), value.clone()]);
    }
    if !delete.is_empty() {
        argv.extend(["--delete".into(), delete.join(",")]);
    }
    if let Some(digest) = digest {
        argv.extend(["--digest".into(), digest.to_owned()]);
    }
    Command::new(argv)
}

/// Writes a snippet of a storage, whole or not at all (Proxmox has no call for it, facts G.4). It can be read by
/// everybody on the node: no secrets.
pub fn write_snippet(volid: &str, content: &str) -> Command {
    snippet("write", volid, content)
}

/// Whether a snippet is there: `present=1` or `present=0`.
pub fn find_snippet(volid: &str) -> Command {
    snippet("find", volid, "")
}

/// Removes a snippet; one that is not there is no error.
pub fn remove_snippet(volid: &str) -> Command {
    snippet("remove", volid, "")
}

fn snippet(action: &str, volid: &str, content: &str) -> Command {
    let encoded = BASE64.encode(content);
    let header = format!("# phoenix-node: snippet-{action} volid={volid}\n");
    let settings = format!("PHOENIX_VOLID={}\n", quote(volid));
    let program =
        format!("{header}{settings}{SNIPPET}\nphoenix_snippet {action} <<'PHOENIX_END'\n{encoded}\nPHOENIX_END\n");
    Command::new(["/bin/sh", "-s"]).with_stdin(program)
}

/// A raw line of a container's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLine {
    /// `lxc.…`
    pub key: String,
    /// Its value.
    pub value: String,
}

impl RawLine {
    /// Reads `lxc.key: value` or `lxc.key = value`.
    ///
    /// # Errors
    /// No `lxc.` key, or something that would end the line.
    pub fn parse(text: &str) -> Result<Self, InvalidCommand> {
        let bad = |why| InvalidCommand {
            what: "raw line",
            value: text.to_owned(),
            why,
        };
        let (key, value) = text
            .split_once([':', '='])
            .ok_or_else(|| bad("key and value are needed"))?;
        let (key, value) = (key.trim(), value.trim());
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b);
        if !key
            .strip_prefix("lxc.")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(allowed))
        {
            return Err(bad("its key has to begin with lxc."));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(bad("one line is allowed"));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }

    fn canonical(&self) -> String {
        format!("{}: {}", self.key, self.value)
    }
}

/// Where the node keeps configs and locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLayout {
    /// Folder of this node's container configs.
    pub configs: String,
    /// Folder of their lock files.
    pub locks: String,
}

impl Default for NodeLayout {
    fn default() -> Self {
        Self {
            configs: "/etc/pve/lxc".into(),
            locks: "/run/lock/lxc".into(),
        }
    }
}

/// Adds and removes raw lines of a container's config: under Proxmox's lock, only if the file's SHA-1 is
/// `digest` and no `lock:` is set, only above the first section. Answers a [`RawLinesAnswer`].
pub fn raw_lines(vmid: Vmid, add: &[RawLine], remove: &[RawLine], digest: &str, layout: &NodeLayout) -> Command {
    let list = |lines: &[RawLine]| -> String {
        let quoted: Vec<String> = lines.iter().map(|line| quote(&line.canonical())).collect();
        if quoted.is_empty() {
            "''".into()
        } else {
            quoted.join(" ")
        }
    };
    let script = format!(
        "# phoenix-node: raw-lines vmid={vmid} digest={digest}\n{}{}\
         PHOENIX_VMID={vmid}\nPHOENIX_DIGEST={}\nPHOENIX_CONFIGS={}\nPHOENIX_LOCKS={}\n\n\
         phoenix_lists() {{\n    printf '%s\\n' {} >\"$phoenix_work/add\" &&\n        \
         printf '%s\\n' {} >\"$phoenix_work/remove\"\n}}\n\n{RAW_LINES}\nphoenix_raw_lines\n",
        comment("add", add),
        comment("remove", remove),
        quote(digest),
        quote(&layout.configs),
        quote(&layout.locks),
        list(add),
        list(remove),
    );
    Command::new(["/bin/sh", "-s"]).with_stdin(script)
}

/// The lines once more as comments, so that what is asked for can be read without running it.
fn comment(what: &str, lines: &[RawLine]) -> String {
    lines
        .iter()
        .map(|line| format!("# {what} {}\n", line.canonical()))
        .collect()
}

/// What became of [`raw_lines`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawLinesAnswer {
    /// Done: the file's new SHA-1, and whether anything had to be changed.
    Done {
        /// SHA-1 of the file now.
        digest: String,
        /// Whether it was written.
        changed: bool,
    },
    /// The config is locked; nothing was changed.
    Locked(String),
    /// The file is not the one that was decided on; nothing was changed.
    Modified,
    /// There is no such container on the node.
    Missing,
    /// Proxmox held its lock for more than 10 s; nothing was changed.
    Busy,
    /// The node could not do it; nothing was changed.
    Failed(String),
}

impl RawLinesAnswer {
    /// Reads exit code and output.
    pub fn parse(exit: u32, stdout: &str, stderr: &str) -> Self {
        let value = |key: &str| {
            stdout
                .lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        match (exit, value("digest")) {
            (0, Some(digest)) => Self::Done {
                digest,
                changed: value("changed").as_deref() == Some("1"),
            },
            (10, _) => Self::Locked(value("lock").unwrap_or_default()),
            (11, _) => Self::Modified,
            (12, _) => Self::Missing,
            (13, _) => Self::Busy,
            _ => Self::Failed(format!("exit code {exit}: {}", stderr.trim())),
        }
    }
}
