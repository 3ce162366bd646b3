//! Reading and changing the configuration of a container: `GET` and `PUT …/config`, pending changes and hot-plug
//! (facts D.5, K.2).

use std::collections::BTreeMap;

use super::config::{GuestConfig, Section};
use super::error::{ApiError, Result};
use super::lxc_options::{Mount, OptionCheck, add_unused, index_of, is_mount, is_option, uses_volume};
use super::state::{Caller, State};

const REQUIRED: &[&str] = &["memory", "ostype", "rootfs"];
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
    "template",
    "memory",
    "swap",
    "cpulimit",
    "cpuunits",
];

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
    for key in config.pending_delete.keys() {
        section.remove(key);
    }
    for (key, value) in &config.pending {
        section.set(key, value.clone());
    }
    section
}

fn check_lists(change: &Change) -> Result<()> {
    for key in &change.delete {
        if change.set.contains_key(key) {
            let text = format!("you can't use '-{key}' and -delete {key}' at the same time");
            return Err(ApiError::param("delete", text));
        }
        if !is_option(key) {
            return Err(ApiError::param("delete", format!("unknown option '{key}'")));
        }
    }
    for key in &change.revert {
        if !is_option(key) {
            return Err(ApiError::param("revert", format!("unknown option '{key}'")));
        }
        if change.set.contains_key(key) {
            let text = format!("you can't use '-{key}' and -revert {key}' at the same time");
            return Err(ApiError::param("revert", text));
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
        check_lists(change)?;
        let guest = self.ct(node, vmid)?;
        self.check_change(caller, node, vmid, change)?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        check_digest(&guest.digest(), change.digest.as_deref())?;
        self.check_writable()?;
        self.check_protection(vmid, change)?;
        self.check_devices(node, change)?;
        let running = self.ct(node, vmid)?.running.is_some();
        let before = self.ct(node, vmid)?.config().clone();
        let outcome = self.change_ct(node, vmid, change, running);
        if let Err(error) = outcome {
            // Nothing of a refused call is written, though volumes that it allocated stay.
            self.guest_mut(vmid)?.edit(|config| *config = before);
            return Err(error);
        }
        self.check_saved(node, vmid)
    }

    /// `pct set` on the node: the same as the API call of the true root.
    pub fn pct_set(&mut self, vmid: u32, set: BTreeMap<String, String>, delete: Vec<String>) -> Result<()> {
        let node = self.guests.get(&vmid).map(|guest| guest.node.clone());
        let node = node.or_else(|| self.nodes.keys().next().cloned()).unwrap_or_default();
        let given = !set.is_empty() || !delete.is_empty();
        let change = Change {
            set,
            delete,
            given,
            ..Change::default()
        };
        self.update_ct(&Caller::root(), &node, vmid, &change)
    }

    /// Writes need a quorum.
    pub fn check_writable(&self) -> Result<()> {
        if self.quorate {
            Ok(())
        } else {
            Err(ApiError::die("cluster not ready - no quorum?"))
        }
    }

    fn check_change(&self, caller: &Caller, node: &str, vmid: u32, change: &Change) -> Result<()> {
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
        for (key, value) in &change.set {
            self.check_option(&who, key, Some(value))?;
        }
        for (key, value) in &change.set {
            if index_of(key, "net").is_some() {
                self.check_net_mtu(node, key, value)?;
            }
            if let Some((storage_id, _)) = Mount::parse(value).allocation().filter(|_| is_mount(key)) {
                let storage = self.usable_storage(node, storage_id)?;
                if !storage.content.contains("rootdir") {
                    let text = format!("storage '{storage_id}' does not allow content type 'rootdir' (Container)");
                    return Err(ApiError::die(text));
                }
            }
        }
        Ok(())
    }

    fn check_protection(&self, vmid: u32, change: &Change) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let current = &guest.config().current;
        for key in &change.delete {
            if REQUIRED.contains(&key.as_str()) {
                return Err(ApiError::die(format!("unable to delete required option '{key}'")));
            }
            if key == "unprivileged" {
                return Err(ApiError::die(format!("unable to delete read-only option: '{key}'")));
            }
        }
        if change.set.contains_key("unprivileged") {
            return Err(ApiError::die("unable to modify read-only option: 'unprivileged'"));
        }
        if !current.flag("protection") {
            return Ok(());
        }
        let drive = |key: &&String| is_mount(key) || index_of(key, "unused").is_some();
        if let Some(key) = change
            .delete
            .iter()
            .find(drive)
            .filter(|key| current.get(key).is_some())
        {
            return Err(ApiError::die(format!(
                "can't remove CT {vmid} drive '{key}' - protection mode enabled"
            )));
        }
        if let Some(key) = change.set.keys().find(|key| is_mount(key)) {
            return Err(ApiError::die(format!(
                "can't update CT {vmid} drive '{key}' - protection mode enabled"
            )));
        }
        Ok(())
    }

    fn check_devices(&self, node: &str, change: &Change) -> Result<()> {
        for (key, value) in change.set.iter().filter(|(key, _)| index_of(key, "dev").is_some()) {
            self.check_device(node, key, value)?;
        }
        Ok(())
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

    fn change_ct(&mut self, node: &str, vmid: u32, change: &Change, running: bool) -> Result<()> {
        let mut wanted = BTreeMap::new();
        for (key, value) in &change.set {
            let mut value = self.normal_form(node, key, value);
            if is_mount(key) {
                value = self.with_size(node, vmid, key, &value);
            }
            wanted.insert(key.clone(), value);
        }
        self.guest_mut(vmid)?.edit(|config| {
            for key in &change.revert {
                config.pending.remove(key);
                config.pending_delete.remove(key);
            }
            for key in &change.delete {
                config.pending.remove(key);
                if config.current.get(key).is_some() {
                    config.pending_delete.insert(key.clone(), false);
                }
            }
            for (key, value) in wanted {
                config.pending_delete.remove(&key);
                if config.current.get(&key) == Some(value.as_str()) {
                    config.pending.remove(&key);
                } else {
                    config.pending.insert(key, value);
                }
            }
        });
        self.apply_pending(node, vmid, running)
    }

    /// Puts the size of an existing volume into a mount point that names none.
    fn with_size(&self, node: &str, vmid: u32, key: &str, value: &str) -> String {
        let mut mount = Mount::parse(value);
        let current = self.guests.get(&vmid).and_then(|guest| guest.config().current.get(key));
        let given = mount.parts.contains_key("size") || mount.kind() != "volume" || mount.allocation().is_some();
        if given || current == Some(value) {
            return value.to_owned();
        }
        match self.volume_size_text(node, mount.volume()) {
            Some(size) => {
                mount.set("size", size);
                mount.print()
            }
            None => value.to_owned(),
        }
    }

    /// Brings pending changes into force: all of them when the container is stopped, else those that can be
    /// hot-plugged.
    pub fn apply_pending(&mut self, node: &str, vmid: u32, running: bool) -> Result<()> {
        let config = self.ct(node, vmid)?.config().clone();
        let major = self.release.major();
        for key in config.pending_delete.keys() {
            if !running || can_delete_hot(key) {
                self.apply_delete(node, vmid, key)?;
            }
        }
        for (key, value) in &config.pending {
            let exists = config.current.get(key).is_some();
            if !running || can_set_hot(major, key, exists) {
                self.apply_set(node, vmid, key, value, running)?;
            }
        }
        Ok(())
    }

    fn apply_delete(&mut self, node: &str, vmid: u32, key: &str) -> Result<()> {
        let old = self.guest_mut(vmid)?.edit(|config| {
            config.pending_delete.remove(key);
            config.current.remove(key)
        });
        let Some(old) = old else { return Ok(()) };
        let mount = Mount::parse(&old);
        if is_mount(key) && mount.kind() == "volume" {
            self.guest_mut(vmid)?
                .edit(|config| add_unused(&mut config.current, mount.volume()));
        }
        if index_of(key, "unused").is_some() {
            let config = self.ct(node, vmid)?.config();
            let used = std::iter::once(&config.current)
                .chain(config.snapshots.values())
                .any(|section| uses_volume(section, mount.volume()));
            // Only volumes of its own are freed (facts K.1.8).
            if !used && self.volume_owner(mount.volume()).ok() == Some(vmid) {
                self.free_volume(node, mount.volume())?;
            }
        }
        Ok(())
    }

    fn apply_set(&mut self, node: &str, vmid: u32, key: &str, value: &str, running: bool) -> Result<()> {
        let mut value = value.to_owned();
        if running && index_of(key, "net").is_some() {
            let mut probe = Section::default();
            probe.set(key, value.clone());
            let refused = |error: ApiError| {
                ApiError::param(key, format!("unable to hotplug {key}: {}", error.message.trim_end()))
            };
            self.check_bridges(node, &probe).map_err(refused)?;
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
        } else if running
            && self
                .volume(node, mount.volume())
                .is_some_and(|volume| !volume.formatted)
        {
            let text =
                format!("unable to hotplug {key}: command 'mount /dev/loop0 /var/lib/lxc/.pve-staged-mounts/{key}'");
            return Err(ApiError::param(key, format!("{text} failed: exit code 32")));
        }
        let volume = mount.volume().to_owned();
        self.guest_mut(vmid)?.edit(|config| {
            let old = config.current.remove(key).map(|text| Mount::parse(&text));
            config
                .current
                .options
                .retain(|name, text| index_of(name, "unused").is_none() || *text != volume);
            if let Some(old) = old.filter(|old| old.kind() == "volume" && old.volume() != volume) {
                add_unused(&mut config.current, old.volume());
            }
        });
        Ok(mount.print())
    }
}

fn can_set_hot(major: u32, key: &str, exists: bool) -> bool {
    FAST.contains(&key)
        || index_of(key, "net").is_some()
        || index_of(key, "unused").is_some()
        || (index_of(key, "mp").is_some() && !exists)
        || (index_of(key, "dev").is_some() && !exists && major >= 9)
}

fn can_delete_hot(key: &str) -> bool {
    let fast = FAST.contains(&key) && key != "memory";
    fast || index_of(key, "unused").is_some() || index_of(key, "net").is_some_and(|number| number < 10)
}
