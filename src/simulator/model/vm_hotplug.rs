//! How pending changes of a virtual machine come into force: all of them when it is stopped, else those that a running
//! machine takes (facts F.3).

use std::collections::BTreeMap;

use super::config::GuestConfig;
use super::error::{ApiError, Result};
use super::property::split_list;
use super::state::{Caller, State};
use super::vm_config::own_volume;
use super::vm_options::{Drive, add_unused, drop_unused, index_of, is_cloud_init, is_drive, parse_net};

/// Options that are only written down, so that a running machine takes them at once.
const FAST: &[&str] = &[
    "description",
    "hookscript",
    "hotplug",
    "lock",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "protection",
    "shares",
    "startup",
    "tags",
    "template",
    "vmstatestorage",
];
/// Limits of a process that runs.
const LIVE: &[&str] = &["balloon", "cpulimit", "cpuunits"];
/// Settings of a drive that change without plugging it anew.
const LIVE_DRIVE: &[&str] = &["backup", "replicate", "size"];

/// What a machine can be given while it runs.
fn features(config: &GuestConfig) -> Vec<String> {
    match config.current.get("hotplug") {
        None | Some("1") => ["network", "disk", "usb"].map(str::to_owned).to_vec(),
        Some("0") => Vec::new(),
        Some(list) => split_list(list),
    }
}

/// True for buses that take a disk while the machine runs.
fn pluggable(key: &str) -> bool {
    index_of(key, "scsi").is_some() || index_of(key, "virtio").is_some()
}

fn can_delete_hot(features: &[String], key: &str) -> bool {
    let has = |name: &str| features.iter().any(|feature| feature == name);
    FAST.contains(&key)
        || LIVE.contains(&key)
        || is_cloud_init(key)
        || (index_of(key, "net").is_some() && has("network"))
        || (index_of(key, "usb").is_some() && has("usb"))
        || (pluggable(key) && has("disk"))
}

fn can_set_hot(features: &[String], key: &str, old: Option<&str>, new: &str) -> bool {
    let has = |name: &str| features.iter().any(|feature| feature == name);
    if is_drive(key) {
        let drive = Drive::parse(new);
        return match old.map(Drive::parse) {
            Some(old) if old.is_cdrom() && drive.is_cdrom() => !drive.is_cloud_init(),
            Some(old) if old.file() == drive.file() => differs_in(&old, &drive)
                .iter()
                .all(|part| LIVE_DRIVE.contains(&part.as_str()) || part.contains("bps") || part.contains("iops")),
            _ => pluggable(key) && has("disk"),
        };
    }
    FAST.contains(&key)
        || LIVE.contains(&key)
        || is_cloud_init(key)
        || (index_of(key, "net").is_some() && has("network"))
        || (index_of(key, "usb").is_some() && has("usb"))
        || (key == "memory" && has("memory"))
        || (key == "vcpus" && has("cpu"))
}

fn differs_in(old: &Drive, new: &Drive) -> Vec<String> {
    let keys = old.parts.keys().chain(new.parts.keys());
    keys.filter(|key| old.get(key) != new.get(key)).cloned().collect()
}

impl State {
    /// Brings pending changes into force as far as they can be. Problems are those of single options: the value
    /// stays pending and the answer is 400, although all else is written.
    pub(super) fn apply_vm_pending(&mut self, node: &str, vmid: u32) -> Result<()> {
        let guest = self.vm(node, vmid)?;
        let running = guest.running.is_some();
        let config = guest.config().clone();
        let features = features(&config);
        let mut errors = BTreeMap::new();
        for (key, force) in &config.pending_delete {
            if (!running || can_delete_hot(&features, key))
                && let Err(error) = self.apply_vm_delete(node, vmid, key, *force)
            {
                errors.insert(key.clone(), problem(running, key, &error));
            }
        }
        for (key, value) in &config.pending {
            let old = config.current.get(key);
            if running && !can_set_hot(&features, key, old, value) {
                continue;
            }
            if running
                && index_of(key, "net").is_some()
                && let Err(error) = self.check_vm_bridge_exists(node, value)
            {
                errors.insert(key.clone(), problem(running, key, &error));
                continue;
            }
            self.apply_vm_set(vmid, key, value)?;
        }
        if !running || features.iter().any(|name| name == "cloudinit") {
            self.refresh_cloud_init(vmid);
        }
        let new_drive = |(key, value): (&String, &String)| is_drive(key) && Drive::parse(value).is_cloud_init();
        if !running && config.pending.iter().any(new_drive) {
            // All is written already when the drive cannot be.
            let current = self.vm(node, vmid)?.config().current.clone();
            self.check_snippets(node, &current)?;
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::params(errors))
        }
    }

    fn apply_vm_delete(&mut self, node: &str, vmid: u32, key: &str, force: bool) -> Result<()> {
        let value = self.vm(node, vmid)?.config().current.get(key).map(str::to_owned);
        let drive = value.as_deref().filter(|_| is_drive(key)).map(Drive::parse);
        if let Some(drive) = &drive {
            if drive.is_cloud_init() {
                let _ = self.free_volume(node, drive.file());
            } else if let Some(volid) = own_volume(drive).filter(|_| force) {
                self.deallocate(&Caller::root(), node, vmid, key, &volid)?;
            }
        }
        self.guest_mut(vmid)?.edit(|config| {
            config.pending_delete.remove(key);
            config.current.remove(key);
            if let Some(volid) = drive.as_ref().and_then(own_volume).filter(|_| !force) {
                add_unused(&mut config.current, &volid);
            }
        });
        Ok(())
    }

    fn apply_vm_set(&mut self, vmid: u32, key: &str, value: &str) -> Result<()> {
        self.guest_mut(vmid)?.edit(|config| {
            config.pending.remove(key);
            let old = config.current.remove(key).filter(|_| is_drive(key));
            config.current.set(key, value);
            if !is_drive(key) {
                return;
            }
            if let Some(volid) = Drive::parse(value).volid() {
                drop_unused(&mut config.current, volid);
            }
            if let Some(volid) = old.as_deref().map(Drive::parse).and_then(|drive| own_volume(&drive)) {
                add_unused(&mut config.current, &volid);
            }
        });
        Ok(())
    }

    /// Refuses a network on a bridge that is not there.
    pub(super) fn check_vm_bridge_exists(&self, node: &str, net: &str) -> Result<()> {
        let parts = parse_net(net);
        let known = self.nodes.get(node).map(|found| &found.bridges);
        match parts.get("bridge") {
            Some(bridge) if !known.is_some_and(|bridges| bridges.contains_key(bridge)) => {
                Err(ApiError::die(format!("bridge '{bridge}' does not exist")))
            }
            _ => Ok(()),
        }
    }
}

fn problem(running: bool, key: &str, error: &ApiError) -> String {
    let text = error.first_line();
    if running {
        format!("hotplug problem - {text}\n")
    } else {
        format!("unable to apply pending change {key} : {text}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hotplug_matrix() {
        let usual = features(&GuestConfig::default());
        for (key, old, new, hot) in [
            ("name", Some("a"), "b", true),
            ("cores", Some("1"), "2", false),
            ("memory", Some("512"), "1024", false),
            ("net0", None, "virtio=x", true),
            ("scsi1", None, "zfs:vm-1-disk-1", true),
            ("sata0", None, "zfs:vm-1-disk-1", false),
            ("scsi0", Some("zfs:a,size=1G"), "zfs:a,backup=0,size=1G", true),
            ("scsi0", Some("zfs:a,size=1G"), "zfs:a,iothread=1,size=1G", false),
            ("ide2", Some("none,media=cdrom"), "local:iso/a.iso,media=cdrom", true),
            ("ciuser", None, "me", true),
            ("agent", None, "1", false),
        ] {
            assert_eq!(can_set_hot(&usual, key, old, new), hot, "{key}");
        }
        let mut config = GuestConfig::default();
        config.current.set("hotplug", "0");
        assert!(!can_set_hot(&features(&config), "net0", None, "virtio=x"));
        config.current.set("hotplug", "memory,cpu");
        assert!(can_set_hot(&features(&config), "memory", Some("512"), "1024"));
    }
}
