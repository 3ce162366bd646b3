//! Creating a container (facts D.1, K.3.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::GuestConfig;
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind, OsImage};
use super::lxc_options::{Mount, OptionCheck, all_mounts, index_of, is_mount, is_option};
use super::property::{print_size, split_list};
use super::state::{Caller, State};
use super::storage::StorageKind;
use super::task::Work;

/// Space that an unpacked system takes.
const SYSTEM_SIZE: u64 = 240 << 20;
/// File systems below this cannot hold it.
const LEAST_SIZE: u64 = 200 << 20;

/// What a create task works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CtCreate {
    /// Node.
    pub node: String,
    /// Id of the new container.
    pub vmid: u32,
    /// Archive.
    pub template: String,
    /// Options as given, with defaults.
    pub options: BTreeMap<String, String>,
    /// Pool that it joins at the end.
    pub pool: Option<String>,
    /// Whether a start follows as a task of its own.
    pub start: bool,
    /// Who asked.
    pub user: String,
    /// Set when `restore` was asked for.
    pub restore: bool,
    /// Raw lines of a restored configuration.
    #[serde(default)]
    pub lxc: Vec<(String, String)>,
    /// A restore over a container that is there: its volumes go once the new ones are made.
    #[serde(default)]
    pub overwrite: bool,
    /// KiB a second that it may read at most; no limit when 0.
    #[serde(default)]
    pub bwlimit: u64,
    /// Volumes that it made.
    #[serde(default)]
    pub made: Vec<String>,
    /// Keys that root is given.
    #[serde(default)]
    pub ssh_keys: Option<String>,
}

impl CtCreate {
    fn unprivileged(&self) -> bool {
        self.options.get("unprivileged").is_some_and(|text| text == "1")
    }

    /// The command that unpacks the archive, as messages name it.
    fn command(&self) -> String {
        let packer = match self.template.rsplit_once('.').map(|(_, end)| end) {
            Some("zst") => "--zstd ",
            Some("gz" | "tgz") => "-z ",
            Some("xz") => "-J ",
            Some("bz2") => "-j ",
            Some("lzo") => "--lzop ",
            _ => "",
        };
        let space = if self.unprivileged() {
            "lxc-usernsexec -m u:0:100000:65536 -m g:0:100000:65536 -- "
        } else {
            ""
        };
        let slow = match self.bwlimit {
            0 => String::new(),
            limit => format!("set -o pipefail && cstream -t {} | ", limit * 1024),
        };
        format!(
            "{slow}{space}tar xpf - {packer}--totals --one-file-system -p --sparse --numeric-owner --acls --xattrs \
             '--xattrs-include=user.*' '--xattrs-include=security.capability' '--warning=no-file-ignored' \
             '--warning=no-xattr-write' -C /var/lib/lxc/{}/rootfs --skip-old-files --anchored --exclude './dev/*'",
            self.vmid
        )
    }

    /// How the task ends when somebody stops it.
    pub fn interrupted(&self) -> String {
        let verb = if self.restore { "restore" } else { "create" };
        let command = self.command();
        format!(
            "unable to {verb} CT {} - command '{command}' failed: received interrupt",
            self.vmid
        )
    }
}

/// Parameters of a create that are no options of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// Id.
    pub vmid: u32,
    /// Archive.
    pub ostemplate: String,
    /// Default storage.
    pub storage: Option<String>,
    /// Pool.
    pub pool: Option<String>,
    /// Start afterwards.
    pub start: bool,
    /// Restore a backup instead of unpacking an archive.
    pub restore: bool,
    /// Overwrite a container of the same id when restoring.
    pub force: bool,
    /// New MAC addresses when restoring.
    pub unique: bool,
    /// KiB a second that it may read at most; no limit when 0.
    pub bwlimit: u64,
    /// Keys for the login of root.
    pub ssh_keys: Option<String>,
    /// Options of the container.
    pub options: BTreeMap<String, String>,
}

impl State {
    /// `POST /nodes/{node}/lxc`: checks, reserves the id with `lock: create`, starts the task.
    pub fn create_ct(&mut self, caller: &Caller, node: &str, request: CreateRequest) -> Result<String> {
        let vmid = request.vmid;
        let pool = request.pool.as_deref();
        self.check_ssh_keys(request.ssh_keys.as_deref())?;
        self.check_pool_exists(pool)?;
        let by_pool = pool.is_some_and(|pool| self.may(caller, &format!("/pool/{pool}"), &["VM.Allocate"]));
        if !by_pool && !self.may(caller, &format!("/vms/{vmid}"), &["VM.Allocate"]) {
            return Err(ApiError::permission_bare());
        }
        let mut options = request.options.clone();
        let modern = self.release.major() >= 9;
        let unprivileged = match options.get("unprivileged").map(String::as_str) {
            Some("0") if modern => {
                self.need(caller, "/", &["Sys.Modify"])?;
                false
            }
            Some(text) => text == "1",
            None => modern,
        };
        self.check_writable()?;
        let overwrite = self.check_room(node, &request)?;
        let who = OptionCheck {
            caller,
            vmid,
            pool,
            old: None,
            unprivileged,
        };
        for (key, value) in options.iter().filter(|(key, _)| *key != "unprivileged") {
            self.check_option(&who, key, Some(value))?;
        }
        let kind = if request.restore { "backup" } else { "vztmpl" };
        self.check_volume_access(caller, Some(vmid), &request.ostemplate, Some(kind))?;
        let storage = request.storage.as_deref().unwrap_or("local");
        let mut lxc = Vec::new();
        // A missing backup shows in the task, as a missing template does.
        options.retain(|key, _| index_of(key, "unused").is_none());
        for (_, value) in options.iter_mut().filter(|(key, _)| is_mount(key)) {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if value.split('.').count() < 3 && value.split('.').all(digits) {
                *value = format!("{storage}:{value}");
            }
        }
        if request.restore && self.volume(node, &request.ostemplate).is_some() {
            let restored = self.restored_options(node, &request.ostemplate, storage, &options)?;
            (options, lxc) = (restored.options, restored.lxc);
            if request.unique {
                self.renew_macs(&mut options);
            }
        }
        self.complete_mounts(caller, node, storage, &mut options)?;
        for (key, value) in &options {
            if index_of(key, "net").is_some() {
                self.check_net_mtu(node, key, value)?;
            }
            if index_of(key, "dev").is_some() {
                self.check_device(node, key, value)?;
            }
        }
        let restored = request.restore && options.get("unprivileged").is_some_and(|text| text == "1");
        options.remove("unprivileged");
        if restored || (unprivileged && !request.restore) {
            options.insert("unprivileged".to_owned(), "1".to_owned());
        } else if !caller.is_true_root() && self.was_unprivileged(node, &request.ostemplate) {
            // Features do not come along from an unprivileged container into a privileged one.
            options.remove("features");
            options.extend(
                request
                    .options
                    .get_key_value("features")
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        if overwrite {
            self.guest_mut(vmid)?
                .edit(|config| config.current.set("lock", "create"));
        } else {
            let mut config = GuestConfig::default();
            config.current.set("lock", "create");
            self.guests.insert(vmid, Guest::new(vmid, node, GuestKind::Lxc, config));
        }
        let work = CtCreate {
            node: node.to_owned(),
            vmid,
            template: request.ostemplate,
            options,
            pool: request.pool,
            start: request.start,
            user: caller.id.clone(),
            restore: request.restore,
            lxc: if caller.is_true_root() { lxc } else { Vec::new() },
            overwrite,
            bwlimit: request.bwlimit,
            made: Vec::new(),
            ssh_keys: request.ssh_keys,
        };
        let kind = if request.restore { "vzrestore" } else { "vzcreate" };
        Ok(self.start_task(
            node,
            kind,
            &vmid.to_string(),
            &caller.id,
            Work::CtCreate(Box::new(work)),
        ))
    }

    /// Refuses a taken id, unless a restore may overwrite the container there; tells whether it does.
    fn check_room(&self, node: &str, request: &CreateRequest) -> Result<bool> {
        let vmid = request.vmid;
        let overwrite = request.restore && request.force && self.ct(node, vmid).is_ok();
        if !overwrite {
            return self.check_unused(vmid).map(|()| false);
        }
        let guest = self.ct(node, vmid)?;
        if guest.running.is_some() {
            return Err(ApiError::die("can't overwrite running container"));
        }
        if guest.config().current.flag("protection") {
            return Err(ApiError::die(format!(
                "unable to restore CT {vmid} - protection mode enabled"
            )));
        }
        self.check_lock(vmid)?;
        Ok(true)
    }

    fn renew_macs(&mut self, options: &mut BTreeMap<String, String>) {
        for (_, value) in options.iter_mut().filter(|(key, _)| index_of(key, "net").is_some()) {
            let mut parts = super::property::parse(value, "name");
            parts.insert("hwaddr".to_owned(), self.new_mac());
            *value = super::property::print(&parts, "", &["name"]);
        }
    }

    /// Refuses a pool that does not exist, in the words of a privilege check.
    pub fn check_pool_exists(&self, pool: Option<&str>) -> Result<()> {
        match pool {
            Some(name) if !self.pools.contains_key(name) => {
                Err(ApiError::permission(format!("pool '{name}' does not exist")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_ssh_keys(&self, keys: Option<&str>) -> Result<()> {
        let good = |line: &str| {
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap_or_default();
            let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
            known && words.next().is_some_and(|key| key.len() > 16)
        };
        let lines = keys
            .unwrap_or_default()
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        if lines.filter(|line| !line.starts_with('#')).all(good) {
            return Ok(());
        }
        Err(ApiError::die("SSH public key validation error"))
    }

    /// Fills in the default root disk and checks the storages of all volumes.
    fn complete_mounts(
        &self,
        caller: &Caller,
        node: &str,
        storage: &str,
        options: &mut BTreeMap<String, String>,
    ) -> Result<()> {
        let usable = |id: &str| {
            if !self.usable_storage(node, id)?.content.contains("rootdir") {
                let text = format!("storage '{id}' does not support container directories");
                return Err(ApiError::param("storage", text));
            }
            self.need(caller, &format!("/storage/{id}"), &["Datastore.AllocateSpace"])?;
            self.active_storage(node, id).map(|_| ())
        };
        if !options.contains_key("rootfs") {
            if options.keys().any(|key| is_mount(key)) {
                return Err(ApiError::die(
                    "mount points configured, but 'rootfs' not set - aborting",
                ));
            }
            usable(storage)?;
            options.insert("rootfs".to_owned(), format!("{storage}:4"));
        }
        for (_, value) in options.iter().filter(|(key, _)| is_mount(key)) {
            let mount = Mount::parse(value);
            if mount.kind() == "volume" {
                usable(self.split(mount.volume())?.0)?;
            } else if !caller.is_true_root() {
                return Err(ApiError::die("Only root can pass arbitrary filesystem paths."));
            }
        }
        Ok(())
    }

    pub(super) fn begin_ct_create(&mut self, seq: u64, create: &CtCreate) -> Result<u64> {
        self.take_flock(create.vmid, seq)?;
        match self.build_ct(seq, create) {
            Ok(()) => {
                let archive = self
                    .volume(&create.node, &create.template)
                    .map_or(0, |volume| volume.size);
                let slow = (archive * 1000).checked_div(create.bwlimit * 1024).unwrap_or_default();
                Ok(self.latency.create + slow)
            }
            Err(error) => {
                self.log(seq, error.first_line().to_owned());
                let made = self.made_by(seq, create);
                self.undo_ct_create(&made);
                let verb = if create.restore { "restore" } else { "create" };
                let text = error.first_line();
                Err(ApiError::die(format!("unable to {verb} CT {} - {text}", create.vmid)))
            }
        }
    }

    /// The work of a task with what it has noted about itself.
    fn made_by(&self, seq: u64, create: &CtCreate) -> CtCreate {
        match self.tasks.get(&seq).map(|task| &task.work) {
            Some(Work::CtCreate(noted)) => (**noted).clone(),
            _ => create.clone(),
        }
    }

    fn build_ct(&mut self, seq: u64, create: &CtCreate) -> Result<()> {
        if self.volume(&create.node, &create.template).is_none() {
            return Err(ApiError::die(format!("volume '{}' does not exist", create.template)));
        }
        let mut keys: Vec<&String> = create.options.keys().filter(|key| is_mount(key)).collect();
        keys.sort_by_key(|key| index_of(key, "mp").map_or(0, |number| number + 1));
        for key in &keys {
            let mut mount = Mount::parse(&create.options[*key]);
            if let Some((storage, size)) = mount.allocation().map(|(storage, size)| (storage.to_owned(), size)) {
                let volid = self.alloc_ct_volume(&create.node, &storage, create.vmid, size)?;
                self.log_format(seq, &create.node, &volid, size);
                mount.set("volume", volid.clone());
                mount.set("size", print_size(size));
                // The final options are kept in the task until its end: the configuration shows only the lock till then.
                self.note(seq, |work| {
                    work.options.insert((*key).clone(), mount.print());
                    work.made.push(volid);
                });
            } else if let Some(size) = self.volume_size_text(&create.node, mount.volume())
                && index_of(key, "mp").is_some()
            {
                mount.set("size", size);
                self.note(seq, |work| drop(work.options.insert((*key).clone(), mount.print())));
            }
        }
        if create.overwrite {
            self.replace_ct(create)?;
        }
        for key in keys {
            self.check_mountable(&create.node, &Mount::parse(&self.made_by(seq, create).options[key]))?;
        }
        let (storage, name) = self.split(&create.template)?;
        let line = format!(
            "extracting archive '{}'",
            self.volume_path(self.storage(storage)?, name)
        );
        self.log(seq, line);
        Ok(())
    }

    /// Volumes and configuration of the container that a restore replaces go.
    fn replace_ct(&mut self, create: &CtCreate) -> Result<()> {
        for volid in self.volumes_of(create.vmid) {
            if self.volume_owner(&volid)? == create.vmid {
                self.free_volume(&create.node, &volid)?;
            }
        }
        self.guest_mut(create.vmid)?.edit(|config| {
            *config = GuestConfig::default();
            config.current.set("lock", "create");
        });
        Ok(())
    }

    /// Refuses sources of mounts that are not there.
    fn check_mountable(&self, node: &str, mount: &Mount) -> Result<()> {
        let source = mount.volume();
        match mount.kind() {
            "volume" => {
                let (storage, name) = self.split(source)?;
                let storage = self.active_storage(node, storage)?;
                storage.parse_name(name).map_err(ApiError::die)?;
                match storage.volume(node, name) {
                    Some(_) => Ok(()),
                    None => Err(ApiError::die(format!("volume '{source}' does not exist"))),
                }
            }
            "bind" if !self.has_path(node, source) => {
                Err(ApiError::die(format!("directory '{source}' does not exist")))
            }
            _ => Ok(()),
        }
    }

    /// What the tools say that make a file system on a new image; a subvolume needs none.
    pub(super) fn log_format(&mut self, seq: u64, node: &str, volid: &str, size: u64) {
        let Some(volume) = self.volume(node, volid).filter(|volume| volume.format == "raw") else {
            return;
        };
        let uid = volume.uid;
        if let Ok((storage_id, name)) = self.split(volid)
            && let Some(storage) = self
                .storages
                .get(storage_id)
                .filter(|found| found.kind == StorageKind::Dir)
        {
            let path = format!("{}/images/{name}", storage.path);
            self.log(
                seq,
                format!("Formatting '{path}', fmt=raw size={size} preallocation=off"),
            );
        }
        let blocks = size >> 12;
        self.log(
            seq,
            format!("Creating filesystem with {blocks} 4k blocks and {} inodes", blocks / 4),
        );
        self.log(seq, format!("Filesystem UUID: 00000000-0000-4000-8000-{uid:012x}"));
        self.log(seq, "Superblock backups stored on blocks: ");
        self.log(seq, "\t32768, 98304, 163840, 229376");
    }

    fn note(&mut self, seq: u64, change: impl FnOnce(&mut CtCreate)) {
        if let Some(Work::CtCreate(create)) = self.tasks.get_mut(&seq).map(|task| &mut task.work) {
            change(create);
        }
    }

    /// What Proxmox cleans up after a failure: the volumes that it made, and the configuration unless it is still that
    /// of the container that was to be replaced.
    pub(super) fn undo_ct_create(&mut self, create: &CtCreate) {
        for volid in &create.made {
            let _ = self.free_volume(&create.node, volid);
        }
        let config = self
            .guests
            .get(&create.vmid)
            .map(|guest| &guest.config().current.options);
        if create.overwrite && config.is_some_and(|options| options.len() > 1) {
            self.unlock(create.vmid);
        } else {
            self.forget_guest(create.vmid);
        }
    }

    /// Frees every disk with the id of a guest in its name; what cannot be freed stays.
    pub fn free_all_of(&mut self, node: &str, vmid: u32) {
        let mut owned = Vec::new();
        for (id, storage) in &self.storages {
            let names = storage.on(node).filter(|(_, volume)| volume.owner == Some(vmid));
            owned.extend(names.map(|(name, _)| format!("{id}:{name}")));
        }
        for volid in owned {
            let _ = self.free_volume(node, &volid);
        }
    }

    pub(super) fn finish_ct_create(&mut self, seq: u64, create: &CtCreate) -> Result<()> {
        let vmid = create.vmid;
        let inside = create
            .restore
            .then(|| self.backup_inside(&create.node, &create.template));
        let os = inside
            .as_ref()
            .map_or_else(|| self.os_in(&create.template), |inside| inside.os.clone());
        let known = |key: &str| create.options.get(key).map(String::as_str);
        let ostype = known("ostype").unwrap_or(&os.ostype).to_owned();
        if ostype.is_empty() {
            self.undo_ct_create(create);
            return Err(ApiError::die(format!(
                "unable to create CT {vmid} - unable to detect OS distribution"
            )));
        }
        let root = Mount::parse(known("rootfs").unwrap_or_default());
        let root = self.volume(&create.node, root.volume());
        if root.is_some_and(|volume| volume.format == "raw" && volume.size < LEAST_SIZE) {
            let command = create.command();
            self.undo_ct_create(create);
            let verb = if create.restore { "restore" } else { "create" };
            return Err(ApiError::die(format!(
                "unable to {verb} CT {vmid} - command '{command}' failed: exit code 2"
            )));
        }
        self.log(seq, "Total bytes read: 187238400 (179MiB, 226MiB/s)");
        let mut config = GuestConfig::default();
        config.current.set("ostype", ostype);
        config.current.set("arch", known("arch").unwrap_or(&os.arch));
        config.current.set("hostname", format!("CT{vmid}"));
        config.current.set("memory", "512");
        config.current.set("swap", "512");
        for (key, value) in create.options.iter().filter(|(key, _)| is_option(key)) {
            let value = self.normal_form(&create.node, key, value);
            config.current.set(key, value);
        }
        for (key, mount) in all_mounts(&config.current) {
            if key == "rootfs" && mount.kind() == "volume" {
                let size = self
                    .volume(&create.node, mount.volume())
                    .map_or(SYSTEM_SIZE, |volume| volume.size);
                let used = SYSTEM_SIZE.min(size.max(1));
                self.set_volume_used(&create.node, mount.volume(), used)?;
            }
        }
        self.log(seq, "Detected container architecture: amd64");
        config.current.lxc.clone_from(&create.lxc);
        if let Some(image) = self.oci_in(&create.node, &create.template).filter(|_| !create.restore) {
            self.log(seq, "Detected OCI archive");
            image.apply(&mut config);
        }
        let guest = self.guest_mut(vmid)?;
        guest.edit(|old| *old = config);
        guest.inside = inside.unwrap_or_default();
        guest.inside.os = os;
        // Nothing is written into a system that Proxmox does not know (facts D.1).
        if let Some(keys) = create.ssh_keys.clone().filter(|_| known("ostype") != Some("unmanaged")) {
            guest.inside.facts.insert("authorized-keys".to_owned(), keys);
        }
        guest.inside.power_off(0);
        if !create.restore {
            self.warn_about_nesting(seq, vmid);
        }
        if let Some(pool) = create.pool.as_ref().and_then(|name| self.pools.get_mut(name)) {
            pool.vms.insert(vmid);
        }
        if create.start {
            let work = Work::CtStart { vmid, skiplock: false };
            self.release_for(seq, vmid);
            self.start_task(&create.node, "vzstart", &vmid.to_string(), &create.user, work);
        }
        Ok(())
    }

    fn release_for(&mut self, seq: u64, vmid: u32) {
        if let Some(guest) = self.guests.get_mut(&vmid).filter(|guest| guest.flock == Some(seq)) {
            guest.flock = None;
        }
    }

    pub(super) fn os_in(&self, template: &str) -> OsImage {
        let file = template.rsplit('/').next().unwrap_or_default();
        if let Some(os) = self.images.get(file) {
            return os.clone();
        }
        let os = |ostype: &str, systemd| OsImage {
            ostype: ostype.to_owned(),
            arch: "amd64".to_owned(),
            systemd,
            agent: false,
        };
        match split_list(&file.replace(['-', '_'], " "))
            .first()
            .map(String::as_str)
            .unwrap_or_default()
        {
            "debian" => os("debian", Some(252)),
            "ubuntu" => os("ubuntu", Some(255)),
            "fedora" => os("fedora", Some(256)),
            "centos" | "rockylinux" | "almalinux" => os("centos", Some(252)),
            "archlinux" => os("archlinux", Some(257)),
            "alpine" => os("alpine", None),
            _ => OsImage::default(),
        }
    }

    /// The warning about a recent systemd in a container without nesting (facts B.3, K.2.5).
    pub(super) fn warn_about_nesting(&mut self, seq: u64, vmid: u32) {
        let Some(guest) = self.guests.get(&vmid) else { return };
        let current = &guest.config().current;
        let nesting = current.get("features").map(|text| super::property::parse(text, ""));
        let nesting = nesting.is_some_and(|parts| parts.get("nesting").is_some_and(|on| super::property::is_true(on)));
        let managed = current.get("ostype") != Some("unmanaged");
        match guest.inside.os.systemd {
            Some(version) if version > 241 && managed && !nesting => {
                self.warn(
                    seq,
                    &format!("Systemd {version} detected. You may need to enable nesting."),
                );
            }
            _ => {}
        }
    }
}
