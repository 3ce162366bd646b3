//! Who may set what on a virtual machine (facts F.2, F.5), and which volumes a drive may name.

use std::collections::BTreeMap;

use super::error::{ApiError, Result};
use super::property;
use super::state::{Caller, State};
use super::storage::split_volid;
use super::vm_options::{Drive, index_of, is_cloud_init, is_drive};

const CPU: &[&str] = &[
    "cores", "cpu", "cpulimit", "cpuunits", "numa", "smp", "sockets", "vcpus",
];
const MEMORY: &[&str] = &["allow-ksm", "balloon", "memory", "shares"];
const HARDWARE: &[&str] = &[
    "acpi", "audio0", "hotplug", "kvm", "machine", "rng0", "scsihw", "smbios1", "tablet", "vga", "watchdog",
];
const GENERAL: &[&str] = &[
    "agent",
    "autostart",
    "bios",
    "description",
    "keyboard",
    "localtime",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "ostype",
    "protection",
    "reboot",
    "startdate",
    "startup",
    "tags",
    "tdf",
    "template",
];
const DISK: &[&str] = &["boot", "bootdisk", "vmstatestorage"];

/// Who changes which machine.
#[derive(Debug, Clone, Copy)]
pub struct VmCheck<'a> {
    /// The caller.
    pub caller: &'a Caller,
    /// The machine.
    pub vmid: u32,
    /// Pool that a create names.
    pub pool: Option<&'a str>,
}

/// What happens to an option, as messages say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Set by a create.
    Set,
    /// Changed by an update.
    Modify,
    /// Deleted.
    Delete,
}

impl State {
    pub(super) fn need_vm(&self, who: &VmCheck<'_>, privileges: &[&str], any: bool) -> Result<()> {
        let held = |path: &str| {
            if any {
                self.may_any(who.caller, path, privileges)
            } else {
                self.may(who.caller, path, privileges)
            }
        };
        if who.pool.is_some_and(|pool| held(&format!("/pool/{pool}"))) {
            return Ok(());
        }
        let path = format!("/vms/{}", who.vmid);
        if any {
            self.need_any(who.caller, &path, privileges)
        } else {
            self.need(who.caller, &path, privileges)
        }
    }

    /// Refuses a caller who may not touch an option, whatever its value. What depends on the value is left to
    /// [`Self::check_vm_value`].
    pub(super) fn check_vm_option(&self, who: &VmCheck<'_>, key: &str) -> Result<()> {
        let value_decides = ["unused", "serial", "usb", "hostpci", "virtiofs"]
            .iter()
            .any(|word| index_of(key, word).is_some());
        if who.caller.is_true_root() || value_decides || is_drive(key) || key == "cdrom" {
            return Ok(());
        }
        if CPU.contains(&key) || index_of(key, "numa").is_some() {
            self.need_vm(who, &["VM.Config.CPU"], false)
        } else if MEMORY.contains(&key) {
            self.need_vm(who, &["VM.Config.Memory"], false)
        } else if HARDWARE.contains(&key) {
            self.need_vm(who, &["VM.Config.HWType"], false)
        } else if GENERAL.contains(&key) {
            self.need_vm(who, &["VM.Config.Options"], false)?;
            if key == "startup" {
                self.need(who.caller, "/", &["Sys.Modify"])?;
            }
            Ok(())
        } else if key == "freeze" {
            self.need_vm(who, &["VM.PowerMgmt"], false)
        } else if DISK.contains(&key) {
            self.need_vm(who, &["VM.Config.Disk"], false)
        } else if index_of(key, "net").is_some() {
            self.need_vm(who, &["VM.Config.Network"], false)
        } else if is_cloud_init(key) {
            self.need_vm(who, &["VM.Config.Cloudinit", "VM.Config.Network"], true)
        } else {
            Err(ApiError::die(format!("only root can set '{key}' config")))
        }
    }

    /// Refuses a caller who may not give an option this value, or take it away.
    pub(super) fn check_vm_value(&self, who: &VmCheck<'_>, key: &str, value: &str, verb: Verb) -> Result<()> {
        if index_of(key, "net").is_some() {
            return self.check_vm_bridge(who.caller, value);
        }
        if who.caller.is_true_root() {
            return Ok(());
        }
        let word = match verb {
            Verb::Set => "set",
            Verb::Modify => "modify",
            Verb::Delete => "delete",
        };
        if is_drive(key) {
            let privilege = if Drive::parse(value).is_cdrom() {
                "VM.Config.CDROM"
            } else {
                "VM.Config.Disk"
            };
            return self.need_vm(who, &[privilege], false);
        }
        if index_of(key, "unused").is_some() {
            return self.need_vm(who, &["VM.Config.Disk"], false);
        }
        if index_of(key, "serial").is_some() {
            if value != "socket" {
                return Err(ApiError::die(format!(
                    "only root can {word} '{key}' config for real devices"
                )));
            }
            return self.need_vm(who, &["VM.Config.HWType"], false);
        }
        let parts = property::parse(value, "host");
        let mapping = |kind: &str, id: &str| {
            self.need_vm(who, &["VM.Config.HWType"], false)?;
            self.need(who.caller, &format!("/mapping/{kind}/{id}"), &["Mapping.Use"])
        };
        if index_of(key, "usb").is_some() {
            return match (parts.get("mapping"), parts.get("host").map(|text| text.to_lowercase())) {
                (Some(id), _) => mapping("usb", id),
                (None, Some(host)) if host == "spice" => self.need_vm(who, &["VM.Config.HWType"], false),
                _ => Err(ApiError::die(format!(
                    "only root can set '{key}' config for real devices"
                ))),
            };
        }
        if index_of(key, "hostpci").is_some() {
            return match parts.get("mapping") {
                Some(id) => mapping("pci", id),
                None => Err(ApiError::die(format!(
                    "only root can set '{key}' config for non-mapped devices"
                ))),
            };
        }
        if index_of(key, "virtiofs").is_some() {
            let parts = property::parse(value, "dirid");
            return mapping("dir", parts.get("dirid").map_or("", String::as_str));
        }
        Ok(())
    }

    /// Refuses a caller who may not use the bridge of a network.
    pub(super) fn check_vm_bridge(&self, caller: &Caller, net: &str) -> Result<()> {
        let parts = super::vm_options::parse_net(net);
        let Some(bridge) = parts.get("bridge").filter(|_| !caller.is_true_root()) else {
            return Ok(());
        };
        let mut path = format!("/sdn/zones/localnetwork/{bridge}");
        if let Some(tag) = parts.get("tag") {
            path = format!("{path}/{tag}");
        }
        self.need(caller, &path, &["SDN.Use"])
    }

    /// Refuses a script that is not there. Whether it could be run is not known here.
    pub(super) fn check_vm_hookscript(&self, node: &str, volid: &str) -> Result<()> {
        let (storage, name) = self.split(volid)?;
        let text = if !name.starts_with("snippets/") {
            format!("'{volid}' is not in the snippets directory\n")
        } else if self.storage(storage)?.volume(node, name).is_none() {
            format!("script '{volid}' does not exist\n")
        } else {
            return Ok(());
        };
        Err(ApiError::param("hookscript", text))
    }

    /// Refuses drives whose text makes no sense by itself.
    pub(super) fn check_drive_syntax(&self, options: &BTreeMap<String, String>) -> Result<()> {
        for (key, value) in options.iter().filter(|(key, _)| is_drive(key)) {
            let drive = Drive::parse(value);
            if let Some((_, name)) = drive.volid().and_then(split_volid) {
                self.check_known_volume(drive.file())?;
                if name.starts_with("iso/") && !drive.is_cdrom() {
                    let text = "explicit 'media=cdrom' is required for iso images";
                    return Err(ApiError::param(key, text));
                }
            }
            if drive.get("import-from").is_none() {
                continue;
            }
            if drive.allocation().is_none_or(|(_, size)| size != 0) {
                let text = "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>";
                return Err(ApiError::param(key, text));
            }
            let needed: &[&str] = match key.as_str() {
                "efidisk0" => &["efitype", "pre-enrolled-keys"],
                "tpmstate0" => &["version"],
                _ => &[],
            };
            if let Some(missing) = needed.iter().find(|name| drive.get(name).is_none()) {
                let text = format!("need to specify '{missing}' when using 'import-from'");
                return Err(ApiError::param(key, text));
            }
        }
        Ok(())
    }

    /// Refuses a caller who may not use what drives name: storages for new ones, volumes, sources of imports.
    pub(super) fn check_drive_access(
        &self,
        who: &VmCheck<'_>,
        node: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<()> {
        for (key, value) in options {
            if is_drive(key) || index_of(key, "unused").is_some() {
                self.check_drive(who, node, key, &Drive::parse(value))?;
            }
        }
        if let Some(storage) = options.get("vmstatestorage") {
            self.need(who.caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        }
        Ok(())
    }

    fn check_drive(&self, who: &VmCheck<'_>, node: &str, key: &str, drive: &Drive) -> Result<()> {
        let unused = index_of(key, "unused").is_some();
        match (drive.file(), drive.allocation()) {
            ("none" | "cloudinit", _) => {}
            ("cdrom", _) => self.need(who.caller, "/", &["Sys.Console"])?,
            (_, Some((storage, _))) if !unused => self.check_new_drive(who, node, storage)?,
            // Nobody asks for the right to allocate a drive of cloud-init.
            _ if drive.wanted_cloud_init().is_some() => {}
            (file, _) => {
                self.check_known_volume(file)?;
                self.check_volume_access(who.caller, Some(who.vmid), file, None)?;
                let other = ["vztmpl/", "backup/", "snippets/", "import/"];
                if split_volid(file).is_some_and(|(_, name)| other.iter().any(|kind| name.starts_with(kind))) {
                    let text = "content type needs to be 'images' or 'iso'";
                    return Err(ApiError::param(key, text));
                }
            }
        }
        let Some(source) = drive.get("import-from") else {
            return Ok(());
        };
        if let Some((storage, name)) = split_volid(source) {
            let known = self.storage(storage)?;
            let kind = name.split('/').next().unwrap_or_default();
            if matches!(kind, "iso" | "vztmpl" | "backup" | "snippets") {
                let text = format!("{source} has wrong type '{kind}' - needs to be 'images' or 'import'");
                return Err(ApiError::param(key, text));
            }
            // A disk of another machine is copied, as by a clone of it.
            if kind != "import"
                && let Ok(owner) = known.owner_of(name)
                && self.guests.contains_key(&owner)
                && owner != who.vmid
            {
                self.need(who.caller, &format!("/vms/{owner}"), &["VM.Clone"])?;
            }
        }
        self.check_volume_access(who.caller, Some(who.vmid), source, None)
    }

    /// A new volume needs the right to allocate on a storage for images.
    fn check_new_drive(&self, who: &VmCheck<'_>, node: &str, storage: &str) -> Result<()> {
        self.need(who.caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        if !self.usable_storage(node, storage)?.content.contains("images") {
            let text = format!("storage '{storage}' does not support vm images");
            return Err(ApiError::param("storage", text));
        }
        Ok(())
    }

    /// Refuses names that the storage cannot have given to a volume.
    fn check_known_volume(&self, volid: &str) -> Result<()> {
        let Some((storage, name)) = split_volid(volid) else {
            return Ok(());
        };
        let file = ["vztmpl/", "iso/", "backup/", "snippets/", "import/"]
            .iter()
            .any(|kind| name.starts_with(kind));
        if file {
            return Ok(());
        }
        self.storage(storage)?.owner_of(name).map(|_| ()).map_err(ApiError::die)
    }
}
