//! A guest: configuration, run state and what its file system holds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::config::{self, GuestConfig};

/// What a guest is; both kinds share one id space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// A container.
    Lxc,
    /// A virtual machine.
    Qemu,
}

impl GuestKind {
    /// `lxc` or `qemu`, as in resource ids and paths.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lxc => "lxc",
            Self::Qemu => "qemu",
        }
    }

    /// Folder below `/etc/pve/nodes/<node>/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Lxc => "lxc",
            Self::Qemu => "qemu-server",
        }
    }

    /// `CT` or `VM`, as in messages.
    pub fn short(self) -> &'static str {
        match self {
            Self::Lxc => "CT",
            Self::Qemu => "VM",
        }
    }
}

/// The operating system in a root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsImage {
    /// Value that detection gives `ostype`; empty where it is not known.
    pub ostype: String,
    /// Value that detection gives `arch`.
    pub arch: String,
    /// Version of systemd, if the system runs it. From 242 on an unprivileged container without nesting warns
    /// (facts B.3).
    pub systemd: Option<u32>,
    /// Whether a disk image holds the QEMU guest agent; cloud images do not.
    #[serde(default)]
    pub agent: bool,
}

/// A file inside a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// The content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A script that was started in a guest and goes on without its starter. Nothing is executed: the outcome was decided
/// when it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestScript {
    /// Name it was started under.
    pub id: String,
    /// Content hash that the starter gave.
    pub hash: String,
    /// Which attempt at this hash it is, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// How often this hash was started since the guest's last start before it.
    #[serde(default)]
    pub tries: u32,
    /// How often it was started in this guest, with any hash.
    #[serde(default)]
    pub runs: u32,
    /// The start of the guest that it belongs to, in milliseconds since 1970.
    #[serde(default)]
    pub guest_since: u64,
    /// When it was started, in milliseconds since 1970.
    pub started_at: u64,
    /// When it ends, in milliseconds since 1970.
    pub ends_at: u64,
    /// Exit code at its end.
    pub exit_code: i32,
    /// Output at its end.
    pub output: String,
    /// True when it was asked to end, and did.
    #[serde(default)]
    pub cancelled: bool,
    /// True when the guest went down before the end: there is no exit code and never will be.
    pub killed: bool,
}

impl GuestScript {
    /// True while the script runs at `now`.
    pub fn running(&self, now: u64) -> bool {
        !self.killed && now < self.ends_at
    }
}

/// What lives on the root file system of a guest: copied by clone, snapshot and rollback, gone with the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InGuest {
    /// The operating system.
    pub os: OsImage,
    /// Files by absolute path.
    pub files: BTreeMap<String, GuestFile>,
    /// Detached scripts by id.
    pub scripts: BTreeMap<String, GuestScript>,
    /// Anything else that whoever acts in the guest has to remember (installed drivers, units, …).
    pub facts: BTreeMap<String, String>,
    /// What probes ran since the guest was started, each once: seconds and command.
    #[serde(default)]
    pub probed: BTreeSet<String>,
}

impl InGuest {
    /// The guest goes down: running scripts die, `/run` and `/tmp` are emptied.
    pub fn power_off(&mut self, now: u64) {
        self.probed.clear();
        for script in self.scripts.values_mut() {
            if script.running(now) {
                script.killed = true;
            }
        }
        self.files
            .retain(|path, _| !path.starts_with("/run/") && !path.starts_with("/tmp/"));
    }
}

/// A running guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process id on the node.
    pub pid: u32,
    /// Start in milliseconds since 1970.
    pub since: u64,
}

/// What a virtual machine has besides its configuration and its disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its processors stand still.
    pub paused: bool,
    /// When its guest agent answers, in milliseconds since 1970; never when absent.
    pub agent_from: Option<u64>,
    /// The guest agent died and is back only after the next boot.
    pub agent_dead: bool,
    /// Its file systems are frozen.
    pub frozen: bool,
    /// Processes that the guest agent started, by id.
    pub processes: BTreeMap<u64, super::vm_agent::AgentProcess>,
    /// Options that cloud-init's drive was last written from.
    pub cloud_init: BTreeMap<String, String>,
    /// Addresses of the cards that it was given at its start.
    pub pci: Vec<String>,
}

/// What the status daemon last told the cluster about a guest (facts C: up to 10 s old).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broadcast {
    /// `running` or `stopped`.
    pub status: String,
    /// Host name.
    pub name: String,
    /// Whether it is a template.
    pub template: bool,
    /// Start in milliseconds since 1970 if it was running.
    pub since: Option<u64>,
    /// Cores.
    pub maxcpu: u64,
    /// Memory limit in bytes.
    pub maxmem: u64,
    /// Size of the root disk in bytes.
    pub maxdisk: u64,
}

/// Where and how a guest was when the status daemon told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    node: String,
    since: Option<u64>,
    paused: bool,
}

/// A container or virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    /// Id, unique in the cluster.
    pub vmid: u32,
    /// Node it lives on.
    pub node: String,
    /// Container or virtual machine.
    pub kind: GuestKind,
    /// Set while it runs.
    pub running: Option<Running>,
    /// What only a virtual machine has.
    #[serde(default)]
    pub machine: Machine,
    /// What its root file system holds.
    pub inside: InGuest,
    /// The same for each snapshot.
    pub inside_snapshots: BTreeMap<String, InGuest>,
    /// Sequence number of the task that holds the lock of the configuration file (facts B.5).
    pub flock: Option<u64>,
    /// Last status broadcast; none until the first one.
    pub broadcast: Option<Broadcast>,
    /// What the last broadcast was made from besides the configuration; none where that was edited since.
    #[serde(skip)]
    told: Option<Told>,
    config: GuestConfig,
    text: String,
}

impl Guest {
    /// A stopped guest with the given configuration.
    pub fn new(vmid: u32, node: &str, kind: GuestKind, config: GuestConfig) -> Self {
        let text = config.render();
        Self {
            vmid,
            node: node.to_owned(),
            kind,
            running: None,
            machine: Machine::default(),
            inside: InGuest::default(),
            inside_snapshots: BTreeMap::new(),
            flock: None,
            broadcast: None,
            told: None,
            config,
            text,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Changes the configuration and writes it, as Proxmox does: sorted, without unknown lines.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut GuestConfig) -> R) -> R {
        let result = change(&mut self.config);
        self.told = None;
        self.text = self.config.render();
        result
    }

    /// Whether the last broadcast would say the same now. Most guests do not change between two of them.
    pub(super) fn is_told(&self) -> bool {
        let since = self.running.as_ref().map(|running| running.since);
        let same = |told: &Told| told.node == self.node && told.since == since && told.paused == self.machine.paused;
        self.broadcast.is_some() && self.told.as_ref().is_some_and(same)
    }

    /// Takes a broadcast in.
    pub(super) fn tell(&mut self, broadcast: Broadcast) {
        self.told = Some(Told {
            node: self.node.clone(),
            since: broadcast.since,
            paused: self.machine.paused,
        });
        self.broadcast = Some(broadcast);
    }

    /// The configuration file as it is on the node.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Replaces the configuration file, as an editor on the node would.
    pub fn set_text(&mut self, text: &str) {
        self.told = None;
        self.text = text.to_owned();
        self.config = GuestConfig::parse(text);
    }

    /// SHA-1 of the file.
    pub fn digest(&self) -> String {
        config::digest(&self.text)
    }

    /// The `lock:` of the configuration.
    pub fn lock(&self) -> Option<&str> {
        self.config.current.get("lock")
    }

    /// True for a template.
    pub fn is_template(&self) -> bool {
        self.config.current.flag("template")
    }

    /// Host name of a container or name of a machine.
    pub fn name(&self) -> String {
        let key = if self.kind == GuestKind::Lxc {
            "hostname"
        } else {
            "name"
        };
        let blank = if self.kind == GuestKind::Lxc { "" } else { " " };
        let fallback = || format!("{}{blank}{}", self.kind.short(), self.vmid);
        self.config.current.get(key).map_or_else(fallback, str::to_owned)
    }
}
