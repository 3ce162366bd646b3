//! Creating a virtual machine and restoring one from a backup (facts F.1, K.3.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{GuestConfig, Section};
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind, OsImage};
use super::property::parse_size;
use super::state::{Caller, State};
use super::task::Work;
use super::vm_access::{Verb, VmCheck};
use super::vm_disks::{Made, no_other_cloud_init};
use super::vm_options::{
    Drive, default_boot_order, drives, index_of, is_drive, is_option, is_windows, parse_net, print_boot_order,
    print_net,
};
use super::vm_work::VmWork;

/// What a create task works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCreate {
    /// Node.
    pub node: String,
    /// Id of the new machine.
    pub vmid: u32,
    /// Options as given.
    pub options: BTreeMap<String, String>,
    /// Pool that it joins at the end.
    pub pool: Option<String>,
    /// Whether a start follows as a task of its own.
    pub start: bool,
    /// Who asked.
    pub user: String,
    /// Backup to restore.
    pub archive: Option<String>,
    /// The finished configuration, filled in by the work.
    pub built: Option<Section>,
    /// The operating system on its first disk, filled in by the work.
    pub os: Option<OsImage>,
    /// Volumes that were allocated, filled in by the work.
    pub volumes: Vec<String>,
}

/// Parameters of a create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmCreateRequest {
    /// Id.
    pub vmid: u32,
    /// Pool.
    pub pool: Option<String>,
    /// Start afterwards.
    pub start: bool,
    /// Backup to restore.
    pub archive: Option<String>,
    /// Storage for restored disks.
    pub storage: Option<String>,
    /// Overwrite a machine of the same id when restoring.
    pub force: bool,
    /// New addresses and ids when restoring.
    pub unique: bool,
    /// Options of the machine.
    pub options: BTreeMap<String, String>,
}

impl State {
    /// `POST /nodes/{node}/qemu`: checks, reserves the id with `lock: create`, starts the task.
    pub fn create_vm(&mut self, caller: &Caller, node: &str, request: VmCreateRequest) -> Result<String> {
        let vmid = request.vmid;
        let pool = request.pool.as_deref();
        let mut options = with_cdrom_alias(request.options.clone());
        self.check_vm_ssh_keys(options.get("sshkeys"))?;
        self.check_writable()?;
        self.check_pool_exists(pool)?;
        if let Some(storage) = &request.storage {
            self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        }
        let who = VmCheck { caller, vmid, pool };
        if request.start {
            self.need_vm(&who, &["VM.PowerMgmt"], false)?;
        }
        let by_pool = pool.is_some_and(|pool| self.may(caller, &format!("/pool/{pool}"), &["VM.Allocate"]));
        if !by_pool && !self.may(caller, &format!("/vms/{vmid}"), &["VM.Allocate"]) {
            return Err(ApiError::permission_bare());
        }
        if request.archive.is_some()
            && let Some(key) = options.keys().find(|key| is_drive(key))
        {
            return Err(ApiError::param(key, "option conflicts with option 'archive'"));
        }
        self.check_drive_access(&who, node, &options)?;
        for key in options.keys() {
            self.check_vm_option(&who, key)?;
        }
        for (key, value) in &options {
            self.check_vm_value(&who, key, value, Verb::Set)?;
        }
        self.check_drive_syntax(&options)?;
        if let Some(archive) = &request.archive {
            self.check_volume_access(caller, Some(vmid), archive, Some("backup"))?;
        }
        self.make_vm_room(node, &request)?;
        if let Some(archive) = &request.archive {
            options = self.restored_vm_options(node, archive, &request, options)?;
        }
        let mut config = GuestConfig::default();
        config.current.set("lock", "create");
        self.guests
            .insert(vmid, Guest::new(vmid, node, GuestKind::Qemu, config));
        let kind = if request.archive.is_some() {
            "qmrestore"
        } else {
            "qmcreate"
        };
        let work = VmCreate {
            node: node.to_owned(),
            vmid,
            options,
            pool: request.pool,
            start: request.start,
            user: caller.id.clone(),
            archive: request.archive,
            built: None,
            os: None,
            volumes: Vec::new(),
        };
        let work = Work::Vm(Box::new(VmWork::Create(work)));
        Ok(self.start_task(node, kind, &vmid.to_string(), &caller.id, work))
    }

    /// Keys come URL-encoded inside the value (facts F.2).
    pub(super) fn check_vm_ssh_keys(&self, keys: Option<&String>) -> Result<()> {
        let decoded = keys.map(|text| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        });
        self.check_ssh_keys(decoded.as_deref())
    }

    /// Refuses a taken id, unless a restore may overwrite the machine there.
    fn make_vm_room(&mut self, node: &str, request: &VmCreateRequest) -> Result<()> {
        let vmid = request.vmid;
        let verb = if request.archive.is_some() { "restore" } else { "create" };
        let prefixed = |text: String| ApiError::die(format!("unable to {verb} VM {vmid} - {text}"));
        let overwrite = request.archive.is_some() && request.force && self.vm(node, vmid).is_ok();
        if !overwrite {
            return self
                .check_unused(vmid)
                .map_err(|error| prefixed(error.first_line().to_owned()));
        }
        let guest = self.vm(node, vmid)?;
        if guest.config().current.flag("protection") {
            return Err(prefixed("protection mode enabled".to_owned()));
        }
        if guest.running.is_some() {
            return Err(prefixed("vm is running".to_owned()));
        }
        self.check_lock(vmid)?;
        self.free_all_of(node, vmid);
        self.guests.remove(&vmid);
        Ok(())
    }

    /// Options of a restored machine: those of the backup with new disks of the old sizes, and the given ones on top.
    fn restored_vm_options(
        &mut self,
        node: &str,
        archive: &str,
        request: &VmCreateRequest,
        given: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>> {
        let config = GuestConfig::parse(&self.backup_config(node, archive)?).current;
        let mut options = BTreeMap::new();
        for (key, value) in &config.options {
            let dropped = matches!(key.as_str(), "lock" | "parent" | "template") || index_of(key, "unused").is_some();
            if !dropped && is_option(key) && !is_drive(key) {
                options.insert(key.clone(), value.clone());
            }
        }
        for (key, mut drive) in drives(&config) {
            if let Some(volid) = drive.volid().map(str::to_owned)
                && (!drive.is_cdrom() || drive.is_cloud_init())
            {
                let (own, _) = self.split(&volid)?;
                let storage = request.storage.as_deref().unwrap_or(own);
                let size = drive
                    .parts
                    .remove("size")
                    .and_then(|text| parse_size(&text))
                    .unwrap_or(0);
                let wanted = if drive.is_cloud_init() {
                    drive.parts.remove("media");
                    format!("{storage}:cloudinit")
                } else {
                    format!("{storage}:{}", size as f64 / f64::from(1 << 30))
                };
                drive.set("file", wanted);
            }
            options.insert(key, drive.print());
        }
        if request.unique {
            self.renew_identity(&mut options);
        }
        options.extend(given);
        Ok(options)
    }

    /// New addresses and ids, as clones and `unique` restores get them.
    pub(super) fn renew_identity(&mut self, options: &mut BTreeMap<String, String>) {
        for (key, value) in options.iter_mut() {
            if index_of(key, "net").is_some() {
                let mut parts = parse_net(value);
                parts.insert("macaddr".to_owned(), self.new_mac());
                *value = print_net(&parts);
            }
        }
        let uuid = self.new_uuid();
        let mut smbios = super::property::parse(options.get("smbios1").map_or("", String::as_str), "uuid");
        smbios.insert("uuid".to_owned(), uuid);
        options.insert("smbios1".to_owned(), super::property::print(&smbios, "", &["uuid"]));
        if options.get("vmgenid").is_none_or(|text| text != "0") {
            options.insert("vmgenid".to_owned(), self.new_uuid());
        }
    }

    pub(super) fn begin_vm_create(&mut self, seq: u64, create: &VmCreate) -> Result<u64> {
        self.take_flock(create.vmid, seq)?;
        match self.build_vm(seq, create) {
            Ok(ms) => Ok(ms),
            Err(error) => {
                self.undo_vm_create(seq, create);
                let verb = if create.archive.is_some() { "restore" } else { "create" };
                let text = format!("unable to {verb} VM {} - {}", create.vmid, error.first_line());
                Err(ApiError::die(text))
            }
        }
    }

    /// Makes the drives and writes down the whole configuration, which shows only when the task ends.
    fn build_vm(&mut self, seq: u64, create: &VmCreate) -> Result<u64> {
        let (node, vmid) = (create.node.as_str(), create.vmid);
        let base = create.options.get("template").is_some_and(|text| text == "1");
        let mut section = Section::default();
        let mut ms = self.latency.vm_create;
        for (key, value) in &create.options {
            let mut value = self.vm_value(node, key, value);
            if is_drive(key) {
                if Drive::parse(&value).is_cloud_init() {
                    no_other_cloud_init(key, section.options.iter())?;
                }
                let made = self.make_drive(node, vmid, key, &value, base)?;
                ms += made.ms;
                self.note_made(seq, &made);
                value = made.value;
            }
            section.set(key, value);
        }
        if section.get("boot").is_none() {
            section.set("boot", print_boot_order(&default_boot_order(&section)));
        }
        self.add_automatic(&mut section);
        if let Some(VmWork::Create(work)) = self.vm_work_mut(seq) {
            work.built = Some(section);
        }
        Ok(ms)
    }

    /// The stored form of an option at create. A password is stored as it was sent (facts F.2).
    fn vm_value(&mut self, node: &str, key: &str, value: &str) -> String {
        match key {
            "cipassword" => value.to_owned(),
            // The format of a new disk is needed once more.
            _ if is_drive(key) => value.to_owned(),
            _ => self.vm_normal_form(node, key, value),
        }
    }

    /// Values that Proxmox makes up (facts F.1).
    fn add_automatic(&mut self, section: &mut Section) {
        if section.get("smbios1").is_none() {
            let uuid = self.new_uuid();
            section.set("smbios1", format!("uuid={uuid}"));
        }
        if section.get("vmgenid").is_none() {
            let uuid = self.new_uuid();
            section.set("vmgenid", uuid);
        }
        if section.get("meta").is_none() {
            section.set(
                "meta",
                format!("creation-qemu={},ctime={}", self.qemu.version, self.seconds()),
            );
        }
        let windows = section.get("ostype").is_some_and(is_windows);
        let release = self.qemu.release();
        match section.get("machine") {
            None | Some("pc") if windows => section.set("machine", format!("pc-i440fx-{release}")),
            Some("q35") if windows => section.set("machine", format!("pc-q35-{release}")),
            _ => {}
        }
    }

    fn note_made(&mut self, seq: u64, made: &Made) {
        for line in &made.log {
            self.log(seq, line.clone());
        }
        if let Some(VmWork::Create(work)) = self.vm_work_mut(seq) {
            work.volumes.extend(made.volumes.iter().cloned());
            if made.os.is_some() {
                work.os.clone_from(&made.os);
            }
        }
    }

    pub(super) fn undo_vm_create(&mut self, seq: u64, create: &VmCreate) {
        let volumes = match self.vm_work_mut(seq) {
            Some(VmWork::Create(work)) => work.volumes.clone(),
            _ => create.volumes.clone(),
        };
        self.free_quietly(&create.node, &volumes);
        self.forget_guest(create.vmid);
    }

    pub(super) fn finish_vm_create(&mut self, seq: u64, create: &VmCreate) -> Result<()> {
        let vmid = create.vmid;
        let section = create.built.clone().unwrap_or_default();
        let archive = create.archive.as_ref();
        let inside = archive.map(|archive| self.backup_inside(&create.node, archive));
        let empty = self.qemu.blank_is_empty;
        let guest = self.guest_mut(vmid)?;
        match (inside, &create.os) {
            (Some(inside), _) => guest.inside = inside,
            (None, Some(os)) => {
                guest.inside.os = os.clone();
                // Cloud images come without the guest agent.
                let there = if os.agent { "1" } else { "0" };
                guest.inside.facts.insert("agent".to_owned(), there.to_owned());
            }
            (None, None) if empty => {
                let facts = &mut guest.inside.facts;
                facts.insert("agent".to_owned(), "0".to_owned());
                facts.insert("ignore-shutdown".to_owned(), "1".to_owned());
            }
            (None, None) => {}
        }
        guest.edit(|config| config.current = section);
        self.refresh_cloud_init(vmid);
        if let Some(pool) = create.pool.as_ref().and_then(|name| self.pools.get_mut(name)) {
            pool.vms.insert(vmid);
        }
        if create.start {
            self.log(seq, "Execute autostart");
            let work = Work::Vm(Box::new(VmWork::Start { vmid, skiplock: false }));
            self.start_task(&create.node, "qmstart", &vmid.to_string(), &create.user, work);
        }
        Ok(())
    }
}

/// `cdrom` is another name for a CD drive at `ide2`.
pub(super) fn with_cdrom_alias(mut options: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if let Some(value) = options.remove("cdrom") {
        let mut drive = Drive::parse(&value);
        drive.set("media", "cdrom");
        options.insert("ide2".to_owned(), drive.print());
    }
    options
}
