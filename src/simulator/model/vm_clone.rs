//! Cloning a virtual machine and turning one into a template (facts F.4, F.7).

use serde::{Deserialize, Serialize};

use super::config::{GuestConfig, Section};
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind};
use super::property::print_size;
use super::state::{Caller, State};
use super::vm_access::{Verb, VmCheck};
use super::vm_disks::CLOUD_INIT_SIZE;
use super::vm_options::{Drive, disks, drives, index_of, is_drive};
use super::vm_work::VmWork;

/// What a clone task works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmClone {
    /// Node.
    pub node: String,
    /// Source.
    pub vmid: u32,
    /// Id of the clone.
    pub newid: u32,
    /// Copy in full instead of linking.
    pub full: bool,
    /// Target storage of a full clone.
    pub storage: Option<String>,
    /// Format of copies.
    pub format: Option<String>,
    /// Snapshot to clone from.
    pub snapshot: Option<String>,
    /// Pool that the clone joins at the end.
    pub pool: Option<String>,
    /// Node that the clone ends up on.
    pub target: Option<String>,
    /// New values of drives, filled in by the work.
    pub drives: Vec<(String, String)>,
    /// Volumes that were allocated, filled in by the work.
    pub volumes: Vec<String>,
}

/// Parameters of a clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmCloneRequest {
    /// Id of the clone.
    pub newid: u32,
    /// Name.
    pub name: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Pool.
    pub pool: Option<String>,
    /// Snapshot.
    pub snapname: Option<String>,
    /// Storage.
    pub storage: Option<String>,
    /// Format of copies.
    pub format: Option<String>,
    /// Full or linked; by default full unless the source is a template.
    pub full: Option<bool>,
    /// Other node.
    pub target: Option<String>,
}

impl State {
    /// `POST /nodes/{node}/qemu/{vmid}/clone`. The source is not locked: several clones run side by side.
    pub fn clone_vm(&mut self, caller: &Caller, node: &str, vmid: u32, request: VmCloneRequest) -> Result<String> {
        let newid = request.newid;
        self.vm_runs(node, vmid)?;
        self.check_pool_exists(request.pool.as_deref())?;
        if let Some(storage) = &request.storage {
            self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            self.usable_storage(node, storage)?;
        }
        if let Some(target) = request
            .target
            .as_deref()
            .filter(|target| !self.nodes.contains_key(*target))
        {
            return Err(ApiError::die(format!("no such cluster node '{target}'")));
        }
        let source = self.vm(node, vmid)?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        self.check_writable()?;
        let full = request.full.unwrap_or(!source.is_template());
        let running = source.running.is_some();
        let section = match &request.snapname {
            Some(name) => self.vm_snapshot(node, vmid, name)?.clone(),
            None => source.config().current.clone(),
        };
        for (name, given) in [("storage", &request.storage), ("format", &request.format)] {
            if given.is_some() && !full {
                let text = format!("parameter '{name}' not allowed for linked clones");
                return Err(ApiError::die(text));
            }
        }
        self.check_clone_rights(caller, newid, &section, request.storage.as_deref())?;
        self.check_clone_node(node, vmid, &section, &request)?;
        if self.vm(node, newid).is_ok() {
            return Err(ApiError::die(format!(
                "unable to create VM {newid}: config file already exists"
            )));
        }
        self.check_clone_drives(node, &section, full, running, request.snapname.is_some())?;
        self.check_unused(newid)?;
        let config = self.vm_clone_config(vmid, &section, &request);
        self.guests
            .insert(newid, Guest::new(newid, node, GuestKind::Qemu, config));
        if let Some(firewall) = self.firewalls.get(&vmid).cloned() {
            self.firewalls.insert(newid, firewall);
        }
        let work = VmClone {
            node: node.to_owned(),
            vmid,
            newid,
            full,
            storage: request.storage,
            format: request.format,
            snapshot: request.snapname,
            pool: request.pool,
            target: request.target,
            drives: Vec::new(),
            volumes: Vec::new(),
        };
        // The id of the task is the source's (facts B.4).
        Ok(self.vm_task(caller, node, "qmclone", vmid, VmWork::Clone(work)))
    }

    /// Storages of the disks, bridges, devices.
    fn check_clone_rights(&self, caller: &Caller, newid: u32, section: &Section, storage: Option<&str>) -> Result<()> {
        let who = VmCheck {
            caller,
            vmid: newid,
            pool: None,
        };
        for (_, drive) in disks(section, true) {
            let (own, _) = self.split(drive.file())?;
            let storage = storage.unwrap_or(own);
            self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        }
        for (key, value) in &section.options {
            let device = ["hostpci", "usb", "virtiofs"]
                .iter()
                .any(|word| index_of(key, word).is_some());
            if device {
                self.check_clone_device(&who, key, value)?;
            } else if index_of(key, "net").is_some() {
                self.check_vm_bridge(caller, value)?;
            }
        }
        Ok(())
    }

    /// Devices need the same rights as when they are set, but not those on the machine, which is not there yet.
    fn check_clone_device(&self, who: &VmCheck<'_>, key: &str, value: &str) -> Result<()> {
        let parts = super::property::parse(value, "host");
        let kind = if index_of(key, "usb").is_some() { "usb" } else { "pci" };
        match parts.get("mapping") {
            Some(id) => self.need(who.caller, &format!("/mapping/{kind}/{id}"), &["Mapping.Use"]),
            None => self.check_vm_value(who, key, value, Verb::Set),
        }
    }

    fn check_clone_node(&self, node: &str, _vmid: u32, section: &Section, request: &VmCloneRequest) -> Result<()> {
        let Some(target) = request.target.as_deref().filter(|target| *target != node) else {
            return Ok(());
        };
        let shared = |id: &str| self.storages.get(id).is_some_and(|found| found.shared);
        let local = drives(section).iter().any(|(_, drive)| {
            let storage = drive.volid().and_then(|volid| volid.split_once(':')).map(|(id, _)| id);
            storage.is_some_and(|id| !shared(request.storage.as_deref().unwrap_or(id)) || !shared(id))
        });
        if local {
            let text = format!("can't clone VM to node '{target}' (VM uses local storage)");
            return Err(ApiError::die(text));
        }
        Ok(())
    }

    fn check_clone_drives(
        &self,
        node: &str,
        section: &Section,
        full: bool,
        running: bool,
        snapshot: bool,
    ) -> Result<()> {
        for (key, drive) in disks(section, false) {
            let volid = drive.file();
            let feature = if full { "copy" } else { "clone" };
            if full && running && !snapshot && key == "tpmstate0" {
                return Err(ApiError::die("cannot clone TPM state while VM is running"));
            }
            if self.volume_has_feature(node, volid, feature, snapshot) {
                continue;
            }
            return Err(ApiError::die(match (full, snapshot) {
                (true, true) => format!("Full clone feature is not supported for a snapshot of '{volid}' ({key})"),
                (true, false) => format!("Full clone feature is not supported for '{volid}' ({key})"),
                (false, _) => format!("Linked clone feature is not supported for '{volid}' ({key})"),
            }));
        }
        Ok(())
    }

    /// The configuration of the clone without its disks.
    fn vm_clone_config(&mut self, vmid: u32, section: &Section, request: &VmCloneRequest) -> GuestConfig {
        const DROPPED: &[&str] = &[
            "lock",
            "parent",
            "template",
            "snaptime",
            "snapstate",
            "vmstate",
            "runningmachine",
            "runningcpu",
        ];
        let mut options = section.options.clone();
        options.retain(|key, value| {
            let drive = is_drive(key) && Drive::parse(value).volid().is_some();
            let other = DROPPED.contains(&key.as_str()) || index_of(key, "unused").is_some();
            !other && (!drive || is_plain_cdrom(value))
        });
        self.renew_identity(&mut options);
        let mut config = GuestConfig::default();
        config.current.options = options;
        let source = section.get("name").map_or_else(|| vmid.to_string(), str::to_owned);
        let name = request.name.clone().unwrap_or_else(|| format!("Copy-of-VM-{source}"));
        config.current.set("name", name);
        if let Some(description) = &request.description {
            config.current.set("description", description.clone());
        }
        config.current.set("lock", "clone");
        config
    }

    pub(super) fn begin_vm_clone(&mut self, seq: u64, clone: &VmClone) -> Result<u64> {
        match self.clone_drives(seq, clone) {
            Ok(ms) => Ok(ms),
            Err(error) => {
                self.undo_vm_clone(seq, clone);
                Err(ApiError::die(format!("clone failed: {}", error.first_line())))
            }
        }
    }

    fn clone_drives(&mut self, seq: u64, clone: &VmClone) -> Result<u64> {
        let source = self.vm(&clone.node, clone.vmid)?;
        let section = match &clone.snapshot {
            Some(name) => source.config().snapshots.get(name).cloned().unwrap_or_default(),
            None => source.config().current.clone(),
        };
        let (node, newid) = (clone.node.as_str(), clone.newid);
        let snapshot = clone.snapshot.as_deref();
        let mut ms = self.latency.refusal;
        for (key, mut drive) in disks(&section, true) {
            let source = drive.file().to_owned();
            let volid = if drive.is_cloud_init() {
                let (own, _) = self.split(&source)?;
                let storage = clone.storage.as_deref().unwrap_or(own).to_owned();
                drive.set("size", print_size(CLOUD_INIT_SIZE));
                self.alloc_cloud_init(node, &storage, newid)?
            } else if clone.full {
                self.log(seq, format!("create full clone of drive {key} ({source})"));
                ms += self.latency.clone_full;
                let (storage, format) = (clone.storage.as_deref(), clone.format.as_deref());
                self.copy_vm_disk(node, &source, snapshot, storage, format, newid)?
            } else {
                self.log(seq, format!("create linked clone of drive {key} ({source})"));
                ms += self.latency.clone_linked;
                self.link_volume(node, &source, snapshot, newid)?
            };
            if let (Some(size), false) = (self.volume_size_text(node, &volid), drive.is_cloud_init()) {
                drive.set("size", size);
            }
            drive.set("file", volid.clone());
            if let Some(VmWork::Clone(work)) = self.vm_work_mut(seq) {
                work.drives.push((key, drive.print()));
                work.volumes.push(volid);
            }
        }
        Ok(ms)
    }

    pub(super) fn undo_vm_clone(&mut self, seq: u64, clone: &VmClone) {
        let volumes = match self.vm_work_mut(seq) {
            Some(VmWork::Clone(work)) => work.volumes.clone(),
            _ => clone.volumes.clone(),
        };
        self.free_quietly(&clone.node, &volumes);
        self.forget_guest(clone.newid);
    }

    pub(super) fn finish_vm_clone(&mut self, clone: &VmClone) -> Result<()> {
        let inside = self.guests.get(&clone.vmid).map(|source| match &clone.snapshot {
            Some(name) => source.inside_snapshots.get(name).cloned().unwrap_or_default(),
            None => source.inside.clone(),
        });
        let now = self.now;
        let guest = self.guest_mut(clone.newid)?;
        guest.inside = inside.unwrap_or_default();
        guest.inside.power_off(now);
        if let Some(target) = &clone.target {
            guest.node.clone_from(target);
        }
        guest.edit(|config| {
            config.current.remove("lock");
            for (key, value) in &clone.drives {
                config.current.set(key, value.clone());
            }
        });
        self.refresh_cloud_init(clone.newid);
        if let Some(pool) = clone.pool.as_ref().and_then(|name| self.pools.get_mut(name)) {
            pool.vms.insert(clone.newid);
        }
        Ok(())
    }

    /// `POST /nodes/{node}/qemu/{vmid}/template`: the mark is set at once, the disks follow in the task (facts F.7).
    pub fn template_vm(&mut self, caller: &Caller, node: &str, vmid: u32, disk: Option<String>) -> Result<String> {
        let guest = self.vm(node, vmid)?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        self.check_writable()?;
        if !guest.config().snapshots.is_empty() {
            return Err(ApiError::die(
                "unable to create template, because VM contains snapshots",
            ));
        }
        if guest.is_template() && disk.is_none() {
            return Err(ApiError::die("you can't convert a template to a template"));
        }
        if guest.running.is_some() {
            return Err(ApiError::die("you can't convert a VM to template if VM is running"));
        }
        for (key, drive) in disks(&guest.config().current, false) {
            let wanted = disk.as_ref().is_none_or(|disk| *disk == key);
            let base = self.is_base(drive.file());
            if wanted && !base && !self.volume_has_feature(node, drive.file(), "template", false) {
                let text = format!("volume '{}' does not support template/clone", drive.file());
                return Err(ApiError::die(text));
            }
        }
        self.guest_mut(vmid)?.edit(|config| config.current.set("template", "1"));
        Ok(self.vm_task(caller, node, "qmtemplate", vmid, VmWork::Template { vmid, disk }))
    }

    /// Whether a volume has the name of a template's.
    fn is_base(&self, volid: &str) -> bool {
        let last = volid.rsplit([':', '/']).next().unwrap_or_default();
        last.starts_with("base-")
    }

    pub(super) fn finish_vm_template(&mut self, vmid: u32, disk: Option<&str>) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        for (key, mut drive) in disks(&guest.config().current.clone(), false) {
            if disk.is_some_and(|disk| disk != key) || self.is_base(drive.file()) {
                continue;
            }
            let base = self.make_base(&node, drive.file())?;
            drive.set("file", base);
            self.guest_mut(vmid)?
                .edit(|config| config.current.set(&key, drive.print()));
        }
        Ok(())
    }
}

/// A CD drive that a clone shares with its source: an image, or an empty one.
fn is_plain_cdrom(value: &str) -> bool {
    let drive = Drive::parse(value);
    drive.is_cdrom() && !drive.is_cloud_init()
}
