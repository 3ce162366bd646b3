//! The whole look-alike cluster: what is stored, and the helpers that every operation uses.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::access::Access;
use super::download::{Appliance, RemoteFile};
use super::error::{ApiError, Result};
use super::firewall::Firewall;
use super::guest::{Broadcast, Guest, GuestKind, OsImage};
use super::node::Node;
use super::storage::{Storage, Volume, split_volid};
use super::task::{Latency, Task};
use crate::simulator::control::{Stricken, Struck};

/// The version that the look-alike claims to be; it decides what is known and what is the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// For example `9.1.4`.
    pub version: String,
    /// Short commit id.
    pub repoid: String,
}

impl Release {
    /// First number of the version.
    pub fn major(&self) -> u32 {
        self.version
            .split('.')
            .next()
            .and_then(|part| part.parse().ok())
            .unwrap_or(9)
    }

    /// First and second number, for example `9.1`.
    pub fn release(&self) -> String {
        self.version.split('.').take(2).collect::<Vec<_>>().join(".")
    }
}

/// A pool of guests and storages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Free text.
    pub comment: Option<String>,
    /// Guests in it.
    pub vms: BTreeSet<u32>,
    /// Storages in it.
    pub storages: BTreeSet<String>,
}

/// A task failure that somebody ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFault {
    /// Type of the task, for example `vzcreate`.
    pub kind: String,
    /// Id of the task; any when absent.
    #[serde(default)]
    pub id: Option<String>,
    /// What the task dies of.
    pub message: String,
    /// How many tasks it meets.
    pub count: u32,
}

/// Who calls: `user@realm`, or `user@realm!token`. Only a ticket of `root@pam` is the true root (facts A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The identity.
    pub id: String,
}

impl Caller {
    /// A ticket of `root@pam`, or root on the node.
    pub fn root() -> Self {
        Self {
            id: "root@pam".to_owned(),
        }
    }

    /// Any identity.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into() }
    }

    /// True only for a ticket of `root@pam`; tokens of root do not count.
    pub fn is_true_root(&self) -> bool {
        self.id == "root@pam"
    }

    /// The user without the token.
    pub fn user(&self) -> &str {
        self.id.split('!').next().unwrap_or_default()
    }
}

/// Everything that the look-alike knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Current time in milliseconds since 1970.
    pub now: u64,
    /// How many times faster than real tasks run.
    pub time_scale: f64,
    /// Durations before scaling.
    pub latency: Latency,
    /// Claimed version.
    pub release: Release,
    /// What runs virtual machines.
    #[serde(default)]
    pub qemu: super::node::Qemu,
    /// Cluster name; none for a single node that is not clustered.
    pub cluster: Option<String>,
    /// False while the cluster has no quorum: nothing can be written.
    pub quorate: bool,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Storages by id.
    pub storages: BTreeMap<String, Storage>,
    /// Guests by id.
    pub guests: BTreeMap<u32, Guest>,
    /// Users, roles and rules.
    pub access: Access,
    /// Pools by id.
    pub pools: BTreeMap<String, Pool>,
    /// Firewalls of guests; they outlive a missing guest file as in Proxmox.
    pub firewalls: BTreeMap<u32, Firewall>,
    /// Datacenter options.
    pub options: BTreeMap<String, String>,
    /// Operating systems in archives, by file name.
    pub images: BTreeMap<String, OsImage>,
    /// The appliance index.
    pub appliances: Vec<Appliance>,
    /// Files on the network by URL.
    pub remote_files: BTreeMap<String, RemoteFile>,
    /// Tasks by sequence number.
    pub tasks: BTreeMap<u64, Task>,
    /// Tasks that have not ended.
    pub active: BTreeSet<u64>,
    /// Task failures to come.
    pub task_faults: Vec<TaskFault>,
    /// Whether no task ends by itself.
    #[serde(default)]
    pub hanging: bool,
    /// Host keys, counters and faults of the SSH servers.
    #[serde(default)]
    pub ssh: crate::simulator::ssh::SshState,
    /// Faults of guest agents.
    #[serde(default)]
    pub agent: super::vm_agent_faults::AgentState,
    /// Resource mappings by kind (`pci`, `usb`, `dir`) and id.
    #[serde(default)]
    pub mappings: BTreeMap<String, BTreeMap<String, super::mapping::Mapping>>,
    /// Whether a program wants to be told of what happens to guests.
    #[serde(skip)]
    pub hooked: bool,
    /// What it is to be told.
    #[serde(skip)]
    pub hook_jobs: Vec<super::hook::HookJob>,
    /// Faults that struck, in order.
    #[serde(skip)]
    pub struck: Vec<Struck>,
    /// Last status broadcast.
    pub last_broadcast: u64,
    /// Counter for sequence numbers, process ids and volume numbers.
    pub counter: u64,
    /// SHA-256 fingerprint of the TLS certificate, once there is one.
    pub fingerprint: Option<String>,
    /// That of the cluster's certificate authority.
    #[serde(default)]
    pub ca_fingerprint: Option<String>,
    /// Key that signs tickets.
    pub ticket_key: String,
    /// State of the generator of MAC addresses.
    pub random: u64,
    /// Set when something changed that a state file has to keep.
    #[serde(skip)]
    pub dirty: bool,
}

impl State {
    /// An empty cluster.
    pub fn empty(version: &str, now: u64) -> Self {
        Self {
            now,
            time_scale: 1.0,
            latency: Latency::default(),
            release: Release {
                version: version.to_owned(),
                repoid: "14a22df35955d97d".to_owned(),
            },
            qemu: super::node::Qemu::default(),
            cluster: None,
            quorate: true,
            nodes: BTreeMap::new(),
            storages: BTreeMap::new(),
            guests: BTreeMap::new(),
            access: Access::default(),
            pools: BTreeMap::new(),
            firewalls: BTreeMap::new(),
            options: BTreeMap::new(),
            images: BTreeMap::new(),
            appliances: Vec::new(),
            remote_files: BTreeMap::new(),
            tasks: BTreeMap::new(),
            active: BTreeSet::new(),
            task_faults: Vec::new(),
            hanging: false,
            ssh: Default::default(),
            agent: Default::default(),
            mappings: BTreeMap::new(),
            hooked: false,
            hook_jobs: Vec::new(),
            struck: Vec::new(),
            last_broadcast: now,
            counter: 1000,
            fingerprint: None,
            ca_fingerprint: None,
            ticket_key: uuid::Uuid::new_v4().to_string(),
            random: 0x9E37_79B9_7F4A_7C15,
            dirty: false,
        }
    }

    /// Notes what a fault strikes.
    pub fn strikes(&mut self, what: Stricken) {
        let at = self.now;
        self.struck.push(Struck { at, what });
    }

    /// Current time in seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.now / 1000
    }

    /// A duration as it passes here.
    pub fn scaled(&self, ms: u64) -> u64 {
        (ms as f64 / self.time_scale.max(f64::MIN_POSITIVE)) as u64
    }

    /// The next number that nothing else has.
    pub fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A new MAC address with the prefix of the datacenter.
    pub fn new_mac(&mut self) -> String {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let prefix = self.options.get("mac_prefix").map_or("BC:24:11", String::as_str);
        let bytes = self.random.to_be_bytes();
        let missing = 6 - prefix.split(':').filter(|part| !part.is_empty()).count().min(5);
        let tail: Vec<String> = bytes[..missing].iter().map(|byte| format!("{byte:02X}")).collect();
        format!("{}:{}", prefix.to_uppercase().trim_end_matches(':'), tail.join(":"))
    }

    // --- guests ---------------------------------------------------------------------------------------------------

    /// A container on `node`, or Proxmox's "not found".
    pub fn ct(&self, node: &str, vmid: u32) -> Result<&Guest> {
        self.guest_on(node, vmid, GuestKind::Lxc)
    }

    /// A guest of a kind on `node`, or Proxmox's "not found".
    pub fn guest_on(&self, node: &str, vmid: u32, kind: GuestKind) -> Result<&Guest> {
        self.guests
            .get(&vmid)
            .filter(|guest| guest.kind == kind && guest.node == node)
            .ok_or_else(|| ApiError::no_config(node, kind.folder(), vmid))
    }

    /// A guest, wherever it is, to be changed.
    pub fn guest_mut(&mut self, vmid: u32) -> Result<&mut Guest> {
        self.dirty = true;
        let node = self.nodes.keys().next().cloned().unwrap_or_default();
        self.guests
            .get_mut(&vmid)
            .ok_or_else(|| ApiError::no_config(&node, "lxc", vmid))
    }

    /// Whether a guest of this id exists anywhere.
    pub fn exists(&self, vmid: u32) -> bool {
        self.guests.contains_key(&vmid)
    }

    /// Refuses an id that is taken.
    pub fn check_unused(&self, vmid: u32) -> Result<()> {
        match self.guests.get(&vmid) {
            Some(guest) => Err(ApiError::die(format!(
                "{} {vmid} already exists on node '{}'",
                guest.kind.short(),
                guest.node
            ))),
            None => Ok(()),
        }
    }

    /// Refuses a guest whose configuration is locked.
    pub fn check_lock(&self, vmid: u32) -> Result<()> {
        let guest = self.guests.get(&vmid);
        match guest.and_then(|found| found.lock().map(|lock| (found.kind, lock))) {
            Some((kind, lock)) => Err(ApiError::die(format!("{} is locked ({lock})", kind.short()))),
            None => Ok(()),
        }
    }

    /// Refuses, with leave to try again, while another task holds the configuration file.
    pub fn check_flock(&self, vmid: u32, own: Option<u64>) -> Result<()> {
        let holder = self.guests.get(&vmid).and_then(|guest| guest.flock);
        if holder.is_some() && holder != own {
            let vm = self
                .guests
                .get(&vmid)
                .is_some_and(|guest| guest.kind == GuestKind::Qemu);
            Err(ApiError::locked_file(vmid, vm))
        } else {
            Ok(())
        }
    }

    /// Takes the lock of the configuration file for a task.
    pub fn take_flock(&mut self, vmid: u32, seq: u64) -> Result<()> {
        self.check_flock(vmid, Some(seq))?;
        self.guest_mut(vmid)?.flock = Some(seq);
        Ok(())
    }

    /// Removes a guest with everything that hangs on its id, except volumes.
    pub fn forget_guest(&mut self, vmid: u32) {
        self.dirty = true;
        self.guests.remove(&vmid);
        self.firewalls.remove(&vmid);
        for pool in self.pools.values_mut() {
            pool.vms.remove(&vmid);
        }
        let path = format!("/vms/{vmid}");
        self.access.acl.retain(|entry| entry.path != path);
    }

    /// Replaces the configuration file of a guest, as a program on the node would that holds the file lock: refused
    /// while a task holds it, and when the file is not the one with `digest` any more.
    pub fn write_config_file(&mut self, vmid: u32, text: &str, digest: Option<&str>) -> Result<()> {
        self.check_flock(vmid, None)?;
        let guest = self.guest_mut(vmid)?;
        super::lxc_config::check_digest(&guest.digest(), digest)?;
        guest.set_text(text);
        Ok(())
    }

    // --- privileges -----------------------------------------------------------------------------------------------

    /// Pools that the object of an access path is in.
    fn pools_of(&self, path: &str) -> Vec<String> {
        let member = |pool: &Pool| match path.strip_prefix("/vms/") {
            Some(id) => id.parse().is_ok_and(|id| pool.vms.contains(&id)),
            None => path
                .strip_prefix("/storage/")
                .is_some_and(|id| pool.storages.contains(id)),
        };
        self.pools
            .iter()
            .filter(|(_, pool)| member(pool))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Effective privileges of an identity on a path.
    pub fn privileges(&self, who: &str, path: &str) -> BTreeMap<String, bool> {
        self.access
            .privileges(self.release.major(), who, path, &self.pools_of(path))
    }

    /// Whether the caller has a privilege on a path whose object is in these pools.
    fn holds<'a>(&'a self, caller: &'a Caller, path: &'a str) -> impl Fn(&str) -> bool + 'a {
        let (major, pools) = (self.release.major(), self.pools_of(path));
        move |privilege| self.access.holds(major, &caller.id, path, &pools, privilege)
    }

    /// Whether the caller has all of the privileges on the path.
    pub fn may(&self, caller: &Caller, path: &str, privileges: &[&str]) -> bool {
        let holds = self.holds(caller, path);
        privileges.iter().all(|name| holds(name))
    }

    /// Whether the caller has one of the privileges on the path.
    pub fn may_any(&self, caller: &Caller, path: &str, privileges: &[&str]) -> bool {
        let holds = self.holds(caller, path);
        privileges.iter().any(|name| holds(name))
    }

    /// Refuses a caller without the privileges, naming the first that is missing.
    pub fn need(&self, caller: &Caller, path: &str, privileges: &[&str]) -> Result<()> {
        let holds = self.holds(caller, path);
        match privileges.iter().find(|name| !holds(name)) {
            Some(name) => Err(ApiError::permission(format!("{path}, {name}"))),
            None => Ok(()),
        }
    }

    /// Refuses a caller without any of the privileges.
    pub fn need_any(&self, caller: &Caller, path: &str, privileges: &[&str]) -> Result<()> {
        if self.may_any(caller, path, privileges) {
            return Ok(());
        }
        Err(ApiError::permission(format!("{path}, {}", privileges.join("|"))))
    }

    // --- storages -------------------------------------------------------------------------------------------------

    /// A storage by id.
    pub fn storage(&self, id: &str) -> Result<&Storage> {
        self.storages
            .get(id)
            .ok_or_else(|| ApiError::die(format!("storage '{id}' does not exist")))
    }

    /// A storage by id, to be changed.
    pub fn storage_mut(&mut self, id: &str) -> Result<&mut Storage> {
        self.dirty = true;
        self.storages
            .get_mut(id)
            .ok_or_else(|| ApiError::die(format!("storage '{id}' does not exist")))
    }

    /// A storage that can be used on `node` right now.
    pub fn usable_storage(&self, node: &str, id: &str) -> Result<&Storage> {
        let storage = self.storage(id)?;
        if storage.disabled {
            return Err(ApiError::die(format!("storage '{id}' is disabled")));
        }
        if !storage.is_on(node) {
            return Err(ApiError::die(format!(
                "storage '{id}' is not available on node '{node}'"
            )));
        }
        Ok(storage)
    }

    /// A storage whose mount or pool is there.
    pub fn active_storage(&self, node: &str, id: &str) -> Result<&Storage> {
        let storage = self.usable_storage(node, id)?;
        if !storage.active {
            return Err(ApiError::die(format!(
                "could not activate storage '{id}', {}",
                inactive_reason(storage)
            )));
        }
        Ok(storage)
    }

    /// A volume by its id.
    pub fn volume(&self, node: &str, volid: &str) -> Option<&Volume> {
        let (storage, name) = split_volid(volid)?;
        self.storages.get(storage)?.volume(node, name)
    }

    // --- status broadcast -----------------------------------------------------------------------------------------

    /// What the status daemon tells about a guest now.
    pub fn status_of(&self, guest: &Guest) -> Broadcast {
        let conf = &guest.config().current;
        let number = |key: &str, default: u64| conf.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
        let node_cpus = self.nodes.get(&guest.node).map_or(1, |node| node.cpus);
        let vm = guest.kind == GuestKind::Qemu;
        let (cores, memory, disk) = if vm {
            let cores = match number("vcpus", 0) {
                0 => number("cores", 1) * number("sockets", 1),
                vcpus => vcpus,
            };
            (
                cores,
                super::vm_options::memory(conf),
                super::vm_options::boot_disk(conf),
            )
        } else {
            let rootfs = conf.get("rootfs").map(str::to_owned);
            (number("cores", node_cpus), number("memory", 512), rootfs)
        };
        let size = disk.and_then(|text| super::property::parse(&text, "volume").remove("size"));
        let status = match &guest.running {
            Some(_) if vm && guest.machine.paused => "paused",
            Some(_) => "running",
            None => "stopped",
        };
        Broadcast {
            status: status.to_owned(),
            name: guest.name(),
            template: guest.is_template(),
            since: guest.running.as_ref().map(|running| running.since),
            maxcpu: cores.min(node_cpus),
            maxmem: memory << 20,
            maxdisk: size
                .and_then(|text| super::property::parse_size(&text))
                .filter(|size| vm || *size > 0)
                .unwrap_or(if vm { 0 } else { 4 << 30 }),
        }
    }

    /// Adds a node like another one, with the same storages, files and devices, and makes them one cluster.
    pub fn add_twin(&mut self, of: &str, name: &str, ip: &str, cluster: &str) {
        let Some(mut twin) = self.nodes.get(of).cloned() else {
            return;
        };
        twin.ip = ip.to_owned();
        self.nodes.insert(name.to_owned(), twin);
        self.cluster = Some(cluster.to_owned());
        for storage in self.storages.values_mut().filter(|storage| !storage.shared) {
            if !storage.nodes.is_empty() {
                storage.nodes.insert(name.to_owned());
            }
            let files = storage.volumes.get(of).cloned().unwrap_or_default();
            storage.volumes.insert(name.to_owned(), files);
        }
        self.broadcast();
    }

    /// One round of the status daemons: the cluster learns the state of all guests on nodes that are up.
    pub fn broadcast(&mut self) {
        let rows: Vec<(u32, Broadcast)> = self
            .guests
            .values()
            .filter(|guest| !guest.is_told() && self.nodes.get(&guest.node).is_some_and(|node| node.online))
            .map(|guest| (guest.vmid, self.status_of(guest)))
            .collect();
        for (vmid, row) in rows {
            if let Some(guest) = self.guests.get_mut(&vmid) {
                guest.tell(row);
            }
        }
    }
}

fn inactive_reason(storage: &Storage) -> String {
    match storage.kind {
        super::storage::StorageKind::ZfsPool => {
            format!(
                "zfs error: cannot open '{}': no such pool",
                storage.path.split('/').next().unwrap_or_default()
            )
        }
        _ => format!("directory '{}' does not exist or is unreachable", storage.path),
    }
}
