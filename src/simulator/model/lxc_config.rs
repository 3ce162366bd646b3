//! Reading and changing the configuration of a container: `GET` and `PUT …/config`, pending changes and hot-plug
//! (facts D.5, K.2).

use std::collections::{BTreeMap, BTreeSet};

use super::config::{GuestConfig, Section};
use super::error::{ApiError, Result};
use super::lxc_options::{Mount, OptionCheck, add_unused, all_mounts, index_of, is_mount, is_option};
use super::state::{Caller, State};

const REQUIRED: &[&str] = &["memory", "ostype", "rootfs"];
/// Options that take effect at once in a running container.
const FAST: &[&str] = &[
    "description",
    "onboot",
    "startup",
    "protection",
    "hostname",
    "hookscript",
    "cores",
    "tags",
    "lock",
];
/// Limits that the running container gets at once.
const LIMITS: &[&str] = &["memory", "swap", "cpulimit", "cpuunits"];

/// What was refused, by option. Proxmox goes on after an error, and writes nothing at the end.
type Errors = BTreeMap<String, String>;

/// A change of a container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Options to set.
    pub set: BTreeMap<String, String>,
    /// Options to delete.
    pub delete: Vec<String>,
    /// Pending changes to drop.
    pub revert: Vec<String>,
    /// Digest that the file must have.
    pub digest: Option<String>,
    /// Whether any parameter was given at all.
    pub given: bool,
}

/// The configuration as if the container had been restarted: pending changes in force.
pub fn with_pending(config: &GuestConfig) -> Section {
    let mut section = config.current.clone();
    for (key, value) in &config.pending {
        section.set(key, value.clone());
    }
    for key in config.pending_delete.keys() {
        section.remove(key);
    }
    section
}

fn check_lists(change: &Change) -> Result<()> {
    for key in &change.revert {
        if !is_option(key) {
            return Err(ApiError::param("revert", format!("unknown option '{key}'")));
        }
        if change.set.contains_key(key) {
            let text = format!("you can't use '-{key}' and '-revert {key}' at the same time");
            return Err(ApiError::param("revert", text));
        }
    }
    for key in &change.delete {
        if !is_option(key) {
            return Err(ApiError::param("delete", format!("unknown option '{key}'")));
        }
        if change.set.contains_key(key) {
            let text = format!("you can't use '-{key}' and -delete {key}' at the same time");
            return Err(ApiError::param("delete", text));
        }
        if change.revert.contains(key) {
            let text = format!("you can't use '-delete {key}' and '-revert {key}' at the same time");
            return Err(ApiError::param("delete", text));
        }
    }
    Ok(())
}

/// Refuses a digest that is not that of the file.
pub fn check_digest(actual: &str, wanted: Option<&str>) -> Result<()> {
    match wanted {
        Some(wanted) if !wanted.is_empty() && wanted != actual => Err(ApiError::die(
            "detected modified configuration - file changed by other user? Try again.",
        )),
        _ => Ok(()),
    }
}

impl State {
    /// `PUT /nodes/{node}/lxc/{vmid}/config`.
    pub fn update_ct(&mut self, caller: &Caller, node: &str, vmid: u32, change: &Change) -> Result<()> {
        if !change.given {
            return Err(ApiError::die("no options specified"));
        }
        let guest = self.ct(node, vmid)?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        check_digest(&guest.digest(), change.digest.as_deref())?;
        self.check_rights(caller, node, vmid, change)?;
        self.check_writable()?;
        self.check_change(node, vmid, change)?;
        let running = self.ct(node, vmid)?.running.is_some();
        let before = self.ct(node, vmid)?.config().clone();
        let mut errors = Errors::new();
        self.change_ct(node, vmid, change, running, &mut errors)?;
        let refusal = if errors.is_empty() {
            invalid_line(change)
        } else {
            Some(ApiError::params(errors))
        };
        if let Some(error) = refusal {
            // Nothing of a refused call is written. What it did to storages and to the running container stays.
            self.guest_mut(vmid)?.edit(|config| *config = before);
            return Err(error);
        }
        self.check_saved(node, vmid)
    }

    /// Writes need a quorum.
    pub fn check_writable(&self) -> Result<()> {
        if self.quorate {
            Ok(())
        } else {
            Err(ApiError::die("cluster not ready - no quorum?"))
        }
    }

    /// Rights for every option, with the lists between those for deletions and those for new values.
    fn check_rights(&self, caller: &Caller, node: &str, vmid: u32, change: &Change) -> Result<()> {
        let current = &self.ct(node, vmid)?.config().current;
        let who = OptionCheck {
            caller,
            vmid,
            pool: None,
            old: Some(current),
            unprivileged: current.flag("unprivileged"),
        };
        for key in change.delete.iter().chain(&change.revert) {
            self.check_option(&who, key, None)?;
        }
        check_lists(change)?;
        for (key, value) in &change.set {
            self.check_option(&who, key, Some(value))?;
        }
        Ok(())
    }

    /// What is refused before anything changes.
    fn check_change(&self, node: &str, vmid: u32, change: &Change) -> Result<()> {
        let config = self.ct(node, vmid)?.config();
        let protection = config.current.flag("protection");
        let present = |key: &String| config.current.get(key).is_some() || config.pending.contains_key(key);
        for key in change.delete.iter().filter(|key| present(key)) {
            if REQUIRED.contains(&key.as_str()) {
                return Err(ApiError::die(format!("unable to delete required option '{key}'")));
            }
            if key == "unprivileged" {
                return Err(ApiError::die(format!("unable to delete read-only option: '{key}'")));
            }
            if protection && (index_of(key, "mp").is_some() || index_of(key, "unused").is_some()) {
                return Err(ApiError::die(format!(
                    "can't remove CT {vmid} drive '{key}' - protection mode enabled"
                )));
            }
        }
        for (key, value) in &change.set {
            if key == "unprivileged" {
                return Err(ApiError::die("unable to modify read-only option: 'unprivileged'"));
            }
            if is_mount(key) {
                if protection {
                    return Err(ApiError::die(format!(
                        "can't update CT {vmid} drive '{key}' - protection mode enabled"
                    )));
                }
                let mount = Mount::parse(value);
                self.check_mount_storage(&mount)?;
                super::lxc_options::check_id_map(mount.parts.get("idmap").map(String::as_str).unwrap_or_default())?;
            }
            if index_of(key, "net").is_some() {
                self.check_net_mtu(node, key, value)?;
            }
            if index_of(key, "dev").is_some() {
                self.check_device(node, key, value)?;
            }
        }
        Ok(())
    }

    fn check_mount_storage(&self, mount: &Mount) -> Result<()> {
        if mount.kind() != "volume" {
            return Ok(());
        }
        let (id, _) = self.split(mount.volume())?;
        if self.storage(id)?.content.contains("rootdir") {
            return Ok(());
        }
        Err(ApiError::die(format!(
            "storage '{id}' does not allow content type 'rootdir' (Container)"
        )))
    }

    /// Refuses a `devN` whose device file is not on the node.
    pub fn check_device(&self, node: &str, _key: &str, value: &str) -> Result<()> {
        let parts = super::property::parse(value, "path");
        let path = parts.get("path").map(String::as_str).unwrap_or_default();
        if self.nodes.get(node).is_some_and(|found| found.devices.contains(path)) {
            return Ok(());
        }
        Err(ApiError::die(format!("Device {path} does not exist")))
    }

    /// Errors that Proxmox finds only after it has saved the configuration (facts K.2.2, K.2.3).
    fn check_saved(&self, node: &str, vmid: u32) -> Result<()> {
        let current = &self.ct(node, vmid)?.config().current;
        if current.get("arch").is_none() {
            let place = "at /usr/share/perl5/PVE/LXC.pm line 730.";
            return Err(ApiError::die(format!("missing 'arch' - internal error {place}")));
        }
        self.check_bridges(node, current)
    }

    fn change_ct(&mut self, node: &str, vmid: u32, change: &Change, running: bool, errors: &mut Errors) -> Result<()> {
        let mut wanted = BTreeMap::new();
        for (key, value) in &change.set {
            // Networks and mount points get their form when they come into force.
            let later = index_of(key, "net").is_some() || is_mount(key);
            let value = if later {
                value.clone()
            } else {
                self.normal_form(node, key, value)
            };
            wanted.insert(key.clone(), value);
        }
        let selected = self.guest_mut(vmid)?.edit(|config| {
            let mut selected = BTreeSet::new();
            for key in &change.revert {
                config.pending.remove(key);
                config.pending_delete.remove(key);
            }
            for key in &change.delete {
                if config.current.get(key).is_some() || config.pending.contains_key(key) {
                    config.pending_delete.insert(key.clone(), false);
                    selected.insert(key.clone());
                }
            }
            for (key, value) in wanted {
                config.pending_delete.remove(&key);
                selected.insert(key.clone());
                config.pending.insert(key, value);
            }
            clean_pending(config);
            selected
        });
        if running {
            self.hotplug(node, vmid, &selected, errors)
        } else {
            self.apply(node, vmid, Some(&selected), errors)
        }
    }

    /// Brings all pending changes into force, as a stop and a start do. What fails stays pending.
    pub fn apply_pending(&mut self, node: &str, vmid: u32) -> Result<()> {
        self.apply(node, vmid, None, &mut Errors::new())
    }

    /// Brings pending changes of a stopped container into force.
    fn apply(&mut self, node: &str, vmid: u32, selected: Option<&BTreeSet<String>>, errors: &mut Errors) -> Result<()> {
        let chosen = |key: &String| selected.is_none_or(|keys| keys.contains(key));
        let config = self.ct(node, vmid)?.config().clone();
        let mut failed = |key: &str, error: ApiError| {
            errors.insert(
                key.to_owned(),
                format!("unable to apply pending change {key} : {}", error.message),
            );
        };
        for key in config.pending_delete.keys().filter(|key| chosen(key)) {
            if let Err(error) = self.apply_delete(node, vmid, key) {
                failed(key, error);
            }
        }
        self.guest_mut(vmid)?.edit(clean_pending);
        let pending = self.ct(node, vmid)?.config().pending.clone();
        for (key, value) in pending.iter().filter(|(key, _)| chosen(key)) {
            if let Err(error) = self.apply_set(node, vmid, key, value, false) {
                failed(key, error);
            }
        }
        self.guest_mut(vmid)?.edit(|config| drop_used(&mut config.current));
        Ok(())
    }

    /// Brings those pending changes into force that a running container can take. The others stay pending.
    fn hotplug(&mut self, node: &str, vmid: u32, selected: &BTreeSet<String>, errors: &mut Errors) -> Result<()> {
        let major = self.release.major();
        let config = self.ct(node, vmid)?.config().clone();
        let mut failed = |key: &str, error: ApiError| {
            errors.insert(key.to_owned(), format!("unable to hotplug {key}: {}", error.message));
        };
        for key in config.pending_delete.keys().filter(|key| selected.contains(*key)) {
            if can_delete_hot(key)
                && let Err(error) = self.apply_delete(node, vmid, key)
            {
                failed(key, error);
            }
        }
        for (key, value) in config.pending.iter().filter(|(key, _)| selected.contains(*key)) {
            let exists = self.ct(node, vmid)?.config().current.get(key).is_some();
            if can_set_hot(major, key, exists)
                && let Err(error) = self.apply_set(node, vmid, key, value, true)
            {
                failed(key, error);
            }
        }
        self.guest_mut(vmid)?.edit(|config| drop_used(&mut config.current));
        Ok(())
    }

    fn apply_delete(&mut self, node: &str, vmid: u32, key: &str) -> Result<()> {
        let config = self.ct(node, vmid)?.config();
        let old = config.current.get(key).map(Mount::parse);
        if let Some(old) = old.as_ref().filter(|_| index_of(key, "unused").is_some()) {
            let mounted = |options: &BTreeMap<String, String>| {
                let mut mounts = options.iter().filter(|(key, _)| is_mount(key));
                mounts.any(|(_, value)| Mount::parse(value).volume() == old.volume())
            };
            let used = mounted(&config.current.options)
                || mounted(&config.pending)
                || config.snapshots.values().any(|section| mounted(&section.options));
            // Only volumes of its own are freed (facts K.1.8).
            if !used && self.volume_owner(old.volume())? == vmid {
                let volid = old.volume().to_owned();
                self.free_volume(node, &volid)?;
            }
        }
        self.guest_mut(vmid)?.edit(|config| {
            config.pending_delete.remove(key);
            config.current.remove(key);
            if let Some(old) = old.filter(|old| index_of(key, "mp").is_some() && old.kind() == "volume") {
                add_unused(&mut config.current, old.volume());
            }
        });
        Ok(())
    }

    fn apply_set(&mut self, node: &str, vmid: u32, key: &str, value: &str, running: bool) -> Result<()> {
        let mut value = value.to_owned();
        if index_of(key, "net").is_some() {
            value = self.normal_form(node, key, &value);
            if running {
                let mut probe = Section::default();
                probe.set(key, value.clone());
                self.check_bridges(node, &probe)?;
            }
        }
        if index_of(key, "mp").is_some() {
            value = self.apply_mount(node, vmid, key, &value, running)?;
        }
        self.guest_mut(vmid)?.edit(|config| {
            config.pending.remove(key);
            config.current.set(key, value);
        });
        Ok(())
    }

    fn apply_mount(&mut self, node: &str, vmid: u32, key: &str, value: &str, running: bool) -> Result<String> {
        let mut mount = Mount::parse(value);
        if let Some((storage, size)) = mount.allocation() {
            let storage = storage.to_owned();
            let volid = self.alloc_ct_volume(node, &storage, vmid, size)?;
            mount.set("volume", volid);
            mount.set("size", super::property::print_size(size));
        } else {
            if mount.kind() == "volume" {
                // The size that is named is never believed (facts L.1.2).
                match self.volume_size_text(node, mount.volume()) {
                    Some(size) => mount.set("size", size),
                    None => drop(mount.parts.remove("size")),
                }
            }
            if running {
                self.check_hot_mount(node, key, &mount)?;
            }
        }
        let volume = mount.volume().to_owned();
        self.guest_mut(vmid)?.edit(|config| {
            let old = config.current.remove(key).map(|text| Mount::parse(&text));
            if let Some(old) = old.filter(|old| old.kind() == "volume" && old.volume() != volume) {
                add_unused(&mut config.current, old.volume());
            }
        });
        Ok(mount.print())
    }

    fn check_hot_mount(&self, node: &str, key: &str, mount: &Mount) -> Result<()> {
        let source = mount.volume();
        match mount.kind() {
            "volume" => {
                let (storage, name) = self.split(source)?;
                let storage = self.active_storage(node, storage)?;
                storage.parse_name(name).map_err(ApiError::die)?;
                let Some(volume) = storage.volume(node, name) else {
                    return Err(ApiError::die(format!("volume '{source}' does not exist")));
                };
                if volume.formatted {
                    return Ok(());
                }
                Err(ApiError::die(format!(
                    "command 'mount /dev/loop0 /var/lib/lxc/.pve-staged-mounts/{key}' failed: exit code 32"
                )))
            }
            "bind" if !self.has_path(node, source) => {
                Err(ApiError::die(format!("directory '{source}' does not exist")))
            }
            _ => Ok(()),
        }
    }
}

/// Drops pending changes that change nothing.
fn clean_pending(config: &mut GuestConfig) {
    let current = &config.current;
    config
        .pending
        .retain(|key, value| current.get(key) != Some(value.as_str()));
    config.pending_delete.retain(|key, _| current.get(key).is_some());
}

/// Drops `unusedN` of volumes that a mount point uses, as every write of the file does.
fn drop_used(section: &mut Section) {
    let mounted: Vec<String> = all_mounts(section)
        .into_iter()
        .map(|(_, mount)| mount.volume().to_owned())
        .collect();
    section
        .options
        .retain(|key, value| index_of(key, "unused").is_none() || !mounted.contains(value));
}

/// Refuses values that the file cannot hold: Proxmox finds out when it writes it.
fn invalid_line(change: &Change) -> Option<ApiError> {
    let free = |key: &str| matches!(key, "description" | "env" | "tags" | "nameserver" | "searchdomain");
    let key = change
        .set
        .iter()
        .find(|(key, value)| !free(key) && value.contains('\n'))?
        .0;
    Some(ApiError::die(format!(
        "detected invalid newline inside property '{key}'"
    )))
}

fn can_set_hot(major: u32, key: &str, exists: bool) -> bool {
    FAST.contains(&key)
        || LIMITS.contains(&key)
        || index_of(key, "net").is_some()
        || (index_of(key, "mp").is_some() && !exists)
        || (index_of(key, "dev").is_some() && !exists && major >= 9)
}

fn can_delete_hot(key: &str) -> bool {
    let limit = LIMITS.contains(&key) && key != "memory";
    FAST.contains(&key)
        || limit
        || index_of(key, "unused").is_some()
        || index_of(key, "net").is_some_and(|number| number < 10)
}
