//! The commands that a node's shell understands. There is no shell: whatever is not listed here ends with exit code
//! 127 and says so.

use std::collections::BTreeMap;

use super::node_files::Files;
use super::probes::{self, Probes};
use super::qm::Qm;
use super::raw_lines::RawLines;
use super::runner::Program;
use super::snippets::{self, Snippet};
use super::state::SshAction;
use super::words;
use super::{Reply, Request};
use crate::simulator::control::Stricken;
use crate::simulator::model::lxc_config::Change;
use crate::simulator::model::vm_agent::unknown;
use crate::simulator::model::{ApiError, Caller, Guest, State};

/// A command that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `pct exec VMID -- /bin/sh -s` with a known program.
    Guest {
        /// The guest.
        vmid: u32,
        /// What is piped in.
        program: Program,
    },
    /// `pct exec VMID -- …` with one of the few commands that guests know.
    Inside {
        /// The guest.
        vmid: u32,
        /// Program and arguments.
        words: Vec<String>,
    },
    /// `pct set VMID …`.
    Set {
        /// The guest.
        vmid: u32,
        /// What is changed.
        change: Box<Change>,
    },
    /// `pct unlock VMID`.
    Unlock(u32),
    /// `pct status VMID`.
    Status(u32),
    /// `qm …`.
    Qm(Qm),
    /// Files of the node.
    Files(Files),
    /// The script for snippets.
    Snippet(Snippet),
    /// The script that edits raw lines.
    RawLines(RawLines),
    /// Probes of several containers.
    Probes(Probes),
    /// `cat` of one of the known files.
    Cat(String),
    /// The program that looks at graphics cards.
    Cards,
    /// A program that does something to graphics cards.
    CardWork(super::gpus::Work),
    /// `nvidia-smi --query-gpu=…`: the fields.
    Gpus(Vec<String>),
    /// `true`, `hostname`, `pveversion`.
    Plain(String),
}

impl Command {
    /// Understands a command, or says what in it is not known. Only root gets this far.
    pub fn parse(words: &[String], stdin: &[u8]) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let id = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no vmid"));
        match &words[..] {
            ["pct", "exec", vmid, "--", "/bin/sh", "-s"] => Ok(Self::Guest {
                vmid: id(vmid)?,
                program: Program::parse(stdin)?,
            }),
            ["pct", "exec", vmid, "--", words @ ..] => Ok(Self::Inside {
                vmid: id(vmid)?,
                words: words.iter().map(|word| (*word).to_owned()).collect(),
            }),
            ["pct", "set", vmid, options @ ..] => Ok(Self::Set {
                vmid: id(vmid)?,
                change: Box::new(change(options)?),
            }),
            ["pct", "unlock", vmid] => Ok(Self::Unlock(id(vmid)?)),
            ["pct", "status", vmid] => Ok(Self::Status(id(vmid)?)),
            ["qm", rest @ ..] => Qm::parse(rest).map(Self::Qm),
            ["/bin/sh" | "sh", "-c", text] => Files::parse(text, stdin).map(Self::Files),
            ["mv" | "rm" | "sha256sum" | "mkdir" | "chmod" | "test", ..] => {
                let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
                Files::parse(&quoted.join(" "), stdin).map(Self::Files)
            }
            ["/bin/sh", "-s"] if stdin.starts_with(snippets::HEADER.as_bytes()) => {
                Snippet::parse(stdin).map(Self::Snippet)
            }
            ["/bin/sh", "-s"] if stdin.starts_with(WHOAMI.as_bytes()) => Ok(Self::Plain("id -u".to_owned())),
            ["/bin/sh", "-s"] if stdin.starts_with(super::gpus::HEADER.as_bytes()) => Ok(Self::Cards),
            ["/bin/sh", "-s"] if stdin.starts_with(super::gpus::WORK.as_bytes()) => {
                super::gpus::Work::parse(stdin).map(Self::CardWork)
            }
            ["/bin/sh", "-s"] if stdin.starts_with(probes::HEADER.as_bytes()) => Probes::parse(stdin).map(Self::Probes),
            ["/bin/sh", "-s"] => RawLines::parse(stdin).map(Self::RawLines),
            ["cat", path] => Ok(Self::Cat((*path).to_owned())),
            ["nvidia-smi", query, "--format=csv,noheader,nounits"] if query.starts_with("--query-gpu=") => {
                let fields = query.trim_start_matches("--query-gpu=");
                Ok(Self::Gpus(fields.split(',').map(str::to_owned).collect()))
            }
            [word @ ("true" | "hostname" | "pveversion")] => Ok(Self::Plain((*word).to_owned())),
            _ => Err(format!("{} is not known", words.join(" "))),
        }
    }

    /// The guest that it is for.
    pub fn vmid(&self) -> Option<u32> {
        match self {
            Self::Guest { vmid, .. }
            | Self::Inside { vmid, .. }
            | Self::Set { vmid, .. }
            | Self::Unlock(vmid)
            | Self::Status(vmid) => Some(*vmid),
            Self::RawLines(edit) => Some(edit.vmid),
            Self::Qm(qm) => Some(qm.vmid),
            _ => None,
        }
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        match self {
            Self::Guest { vmid, program } => format!("pct exec {vmid}: {}", program.summary()),
            Self::Inside { vmid, words } => format!("pct exec {vmid} -- {}", words.join(" ")),
            Self::Set { vmid, change } => {
                let keys: Vec<&str> = change.set.keys().chain(&change.delete).map(String::as_str).collect();
                format!("pct set {vmid} {}", keys.join(" "))
            }
            Self::Unlock(vmid) => format!("pct unlock {vmid}"),
            Self::Status(vmid) => format!("pct status {vmid}"),
            Self::RawLines(edit) => format!("raw-lines {}", edit.vmid),
            Self::Qm(qm) => qm.summary(),
            Self::Files(files) => files.summary(),
            Self::Snippet(snippet) => snippet.summary(),
            Self::Probes(probes) => probes.summary(),
            Self::Cat(path) => format!("cat {path}"),
            Self::Cards => "look at graphics cards".into(),
            Self::CardWork(work) => work.summary(),
            Self::Gpus(_) => "nvidia-smi".into(),
            Self::Plain(word) => word.clone(),
        }
    }

    /// Does it on `node`.
    pub fn run(&self, state: &mut State, node: Option<&str>, fault: Option<&SshAction>) -> Reply {
        let here = |vmid: u32, state: &State| state.guests.get(&vmid).map(|guest| guest.node.clone());
        let node = match (node, self.vmid()) {
            (Some(node), _) => node.to_owned(),
            // One server for all nodes: the guest's node is meant.
            (None, Some(vmid)) => here(vmid, state)
                .or_else(|| state.nodes.keys().next().cloned())
                .unwrap_or_default(),
            (None, None) => state.nodes.keys().next().cloned().unwrap_or_default(),
        };
        match self {
            Self::Guest { vmid, program } => match state.ct(&node, *vmid) {
                Err(error) => Reply::from_error(2, &error),
                Ok(guest) if guest.running.is_none() => Reply::fail(255, format!("container '{vmid}' not running!")),
                Ok(_) => program.run(state, *vmid, fault),
            },
            Self::Inside { vmid, words } => match state.ct(&node, *vmid) {
                Err(error) => Reply::from_error(2, &error),
                Ok(guest) if guest.running.is_none() => Reply::fail(255, format!("container '{vmid}' not running!")),
                Ok(guest) => inside(state, guest, words, fault),
            },
            Self::Set { vmid, change } => match state.update_ct(&Caller::root(), &node, *vmid, change) {
                Ok(()) => Reply::ok(String::new()),
                Err(error) => Reply::from_error(255, &error),
            },
            Self::Unlock(vmid) => match state.ct(&node, *vmid) {
                Ok(_) => {
                    state.unlock(*vmid);
                    Reply::ok(String::new())
                }
                Err(error) => Reply::from_error(2, &error),
            },
            Self::Status(vmid) => match state.ct(&node, *vmid) {
                Ok(guest) => {
                    let word = if guest.running.is_some() { "running" } else { "stopped" };
                    Reply::ok(format!("status: {word}\n"))
                }
                Err(error) => Reply::from_error(2, &error),
            },
            Self::RawLines(edit) => edit.run(state, &node),
            Self::Qm(qm) => qm.run(state, &node),
            Self::Files(files) => files.run(state, &node),
            Self::Snippet(snippet) => snippet.run(state, &node),
            Self::Probes(probes) => probes.run(state, &node),
            Self::Cat(path) => cat(state, &node, path),
            Self::Cards => super::gpus::look(state, &node),
            Self::CardWork(work) => work.run(state, &node),
            Self::Gpus(fields) => gpus(state, &node, fields),
            Self::Plain(word) => Reply::ok(match word.as_str() {
                "hostname" => format!("{node}\n"),
                "id -u" => "0\n".to_owned(),
                "id -u, not root" => "1000\n".to_owned(),
                "pveversion" => format!("pve-manager/{0}/{1}\n", state.release.version, state.release.repoid),
                _ => String::new(),
            }),
        }
    }
}

/// A command in a container that somebody waits for.
fn inside(state: &State, guest: &Guest, words: &[String], fault: Option<&SshAction>) -> Reply {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some(process) = state.builtin(guest, &words, "") else {
        return Reply::fail(127, unknown(&words).trim_end().to_owned());
    };
    let mut reply = Reply {
        exit: u32::try_from(process.exit).unwrap_or(255),
        stdout: process.out,
        stderr: process.err,
        takes: process.ends_at.saturating_sub(state.now),
        ..Reply::default()
    };
    if let Some(SshAction::Exit { exit, output }) = fault {
        (reply.exit, reply.stdout) = (u32::try_from(*exit).unwrap_or(255), output.clone());
    }
    reply
}

/// `--key value` pairs.
pub(super) fn pairs(options: &[&str]) -> Result<Vec<(String, String)>, String> {
    let pair = |pair: &[&str]| match pair {
        [key, value] => Ok((key.trim_start_matches('-').to_owned(), (*value).to_owned())),
        _ => Err(format!("{} has no value", pair.join(" "))),
    };
    options.chunks(2).map(pair).collect()
}

/// `--key value` pairs with `--delete` and `--digest` among them.
fn change(options: &[&str]) -> Result<Change, String> {
    let mut change = Change::default();
    let mut set = BTreeMap::new();
    for (key, value) in pairs(options)? {
        match key.as_str() {
            "delete" => change.delete = value.split([',', ';', ' ']).map(str::to_owned).collect(),
            "revert" => change.revert = value.split([',', ';', ' ']).map(str::to_owned).collect(),
            "digest" => change.digest = Some(value),
            _ => drop(set.insert(key, value)),
        }
    }
    change.given = !set.is_empty() || !change.delete.is_empty() || !change.revert.is_empty();
    change.set = set;
    Ok(change)
}

fn cat(state: &mut State, node: &str, path: &str) -> Reply {
    let missing = || Reply::fail(1, format!("cat: {path}: No such file or directory"));
    match path {
        "/proc/driver/nvidia/version" => match state.nodes.get(node).and_then(|found| found.nvidia_driver.as_ref()) {
            Some(version) => Reply::ok(format!(
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (builder)\n\
                     GCC version:  gcc version 14.2.0 (Debian 14.2.0-19)\n"
            )),
            None => missing(),
        },
        _ => match path
            .strip_prefix("/etc/pve/lxc/")
            .and_then(|name| name.strip_suffix(".conf")?.parse().ok())
        {
            Some(vmid) => match state.ct(node, vmid) {
                Ok(guest) => Reply::ok(guest.text().to_owned()),
                Err(_) => missing(),
            },
            None => match Files::parse(&format!("cat '{path}'"), b"") {
                Ok(files) => qemu_config(state, node, path).unwrap_or_else(|| files.run(state, node)),
                Err(_) => missing(),
            },
        },
    }
}

/// The configuration file of a machine.
fn qemu_config(state: &State, node: &str, path: &str) -> Option<Reply> {
    let name = path.strip_prefix("/etc/pve/qemu-server/")?;
    let vmid = name.strip_suffix(".conf")?.parse().ok()?;
    let guest = state.vm(node, vmid).ok()?;
    Some(Reply::ok(guest.text().to_owned()))
}

fn gpus(state: &State, node: &str, fields: &[String]) -> Reply {
    let Some(found) = state.nodes.get(node).filter(|found| found.nvidia_driver.is_some()) else {
        return Reply::fail(127, "bash: line 1: nvidia-smi: command not found".into());
    };
    let driver = found.nvidia_driver.as_deref().unwrap_or_default();
    let mut out = String::new();
    for (index, gpu) in super::gpus::counted(found) {
        let row: Option<Vec<String>> = fields
            .iter()
            .map(|field| match field.as_str() {
                "index" => Some(index.to_string()),
                "pci.bus_id" => Some(format!("0000{}", gpu.pci)),
                "name" => Some(gpu.model.clone()),
                "uuid" => Some(gpu.uuid.clone()),
                "memory.total" => Some(gpu.memory_mib.to_string()),
                "driver_version" => Some(driver.to_owned()),
                _ => None,
            })
            .collect();
        match row {
            Some(row) => out.push_str(&format!("{}\n", row.join(", "))),
            None => {
                return Reply::fail(
                    2,
                    format!("Field \"{}\" is not a valid field to query.", fields.join(",")),
                );
            }
        }
    }
    Reply::ok(out)
}

/// First line of the program that tells as whom it runs.
const WHOAMI: &str = "# phoenix-node: whoami";

/// Understands and does a request; the second value is whether the connection is cut after it.
pub fn serve(state: &mut State, request: &Request) -> (Reply, Served) {
    // A login shell takes rows of commands, too.
    let split = words::split(&request.line);
    let row = split
        .is_err()
        .then(|| Files::parse(&request.line, &request.stdin).ok())
        .flatten();
    let parsed = split.and_then(|words| {
        let (root, words) = match &words[..] {
            [sudo, n, dashes, rest @ ..] if sudo == "sudo" && n == "-n" && dashes == "--" => (true, rest.to_vec()),
            _ => (request.user == "root", words),
        };
        if !root && !matches!(words.first().map(String::as_str), Some("true" | "hostname")) {
            // Anybody may ask who it is.
            return match request.stdin.starts_with(WHOAMI.as_bytes()) {
                true => Ok(Command::Plain("id -u, not root".to_owned())),
                false => Err("only root may do that here (user root, or sudo -n)".to_owned()),
            };
        }
        Command::parse(&words, &request.stdin)
    });
    let parsed = match row {
        Some(files) if request.user == "root" => Ok(Command::Files(files)),
        _ => parsed,
    };
    let command = match parsed {
        Ok(command) => command,
        Err(why) => {
            let line = format!("simulated node: {why}");
            return (
                Reply::fail(127, line),
                Served {
                    summary: request.line.clone(),
                    ..Served::default()
                },
            );
        }
    };
    let summary = command.summary();
    let fault = state.ssh.take_fault(command.vmid(), &summary);
    if let Some(action) = fault.clone() {
        let (summary, vmid) = (summary.clone(), command.vmid());
        state.strikes(Stricken::Command { summary, vmid, action });
    }
    let served = Served {
        summary,
        ..Served::default()
    };
    match &fault {
        Some(SshAction::LoseBefore) => (Reply::default(), Served { cut: true, ..served }),
        Some(SshAction::Refuse { exit, message }) => (Reply::fail(*exit, message.clone()), served),
        other => {
            let reply = command.run(state, request.node.as_deref(), other.as_ref());
            let cut = matches!(other, Some(SshAction::LoseAfter)) || reply.cut;
            let delay = match other {
                Some(SshAction::Delay { ms }) => state.scaled(*ms),
                _ => reply.takes,
            };
            (reply, Served { cut, delay, ..served })
        }
    }
}

/// What else happens with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// The command in a few words.
    pub summary: String,
    /// The connection is cut without an answer.
    pub cut: bool,
    /// Milliseconds until the answer.
    pub delay: u64,
}

impl Reply {
    /// Exit code 0 with this standard output.
    pub fn ok(stdout: String) -> Self {
        Self {
            stdout,
            ..Self::default()
        }
    }

    /// An exit code with one line on standard error.
    pub fn fail(exit: u32, line: String) -> Self {
        Self {
            exit,
            stderr: if line.is_empty() { line } else { format!("{line}\n") },
            ..Self::default()
        }
    }

    /// What `pct` prints of a refusal.
    pub(super) fn from_error(exit: u32, error: &ApiError) -> Self {
        let mut text = match &error.errors {
            Some(_) => format!("{} {}", error.status, error.message),
            None => error.message.clone(),
        };
        for (key, why) in error.errors.iter().flatten() {
            text.push_str(&format!("{key}: {}\n", why.trim_end()));
        }
        Self {
            exit,
            stderr: text,
            wait: error.wait_for.is_some(),
            ..Self::default()
        }
    }
}
