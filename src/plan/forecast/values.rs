//! How Proxmox keeps what is written into a configuration, and what of it a running guest takes at its next start only
//! (facts D.5, F.3).

use crate::observed::Guest;
use crate::plan::held::owned_by;
use crate::pve::property::{BUSES, Properties, default_key, is_numbered, stem};
use crate::pve::volid::owner_of;
use crate::pve::{DiskSize, GuestType, Vmid};

/// What stands in the name of a volume that a step has made, where Proxmox has a number.
pub(super) const NEW: &str = "-disk-new";

/// Options of a container that it takes while it runs.
const LXC_LIVE: &[&str] = &[
    "description",
    "hookscript",
    "onboot",
    "startup",
    "tags",
    "protection",
    "lock",
    "hostname",
    "cores",
    "cpulimit",
    "cpuunits",
    "memory",
    "swap",
];
/// Options of a machine that it takes while it runs.
const VM_LIVE: &[&str] = &[
    "balloon",
    "cpulimit",
    "cpuunits",
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

/// Where a new volume is made.
pub(super) struct Place {
    pub vmid: Vmid,
    /// A number that no other has.
    pub number: u32,
    /// Whether the storage keeps it as a directory rather than as an image.
    pub directories: bool,
}

fn is_drive(key: &str) -> bool {
    is_numbered(key, BUSES) || is_numbered(key, &["efidisk", "tpmstate"])
}

fn is_volume(sort: GuestType, key: &str) -> bool {
    match sort {
        GuestType::Lxc => key == "rootfs" || is_numbered(key, &["mp"]),
        GuestType::Qemu => is_drive(key),
    }
}

/// Options that go onto the cloud-init drive.
pub(super) fn is_cloud_init(key: &str) -> bool {
    let plain = [
        "ciuser",
        "cipassword",
        "citype",
        "ciupgrade",
        "cicustom",
        "sshkeys",
        "nameserver",
        "searchdomain",
    ];
    plain.contains(&key) || is_numbered(key, &["ipconfig"])
}

/// The volume that an option's value names.
fn volid(key: &str, value: &str) -> Option<String> {
    let properties = Properties::of_option(key, value).ok()?;
    let volid = properties.get("volume").or(properties.get("file"))?;
    Some(volid.to_string())
}

/// Sets an option.
pub(super) fn set(guest: &mut Guest, key: &str, value: &str, place: &Place) {
    let old = guest.options.get(key).cloned();
    let stored = stored(guest.at.sort, key, value, old.as_deref(), place);
    if guest.running && waits(guest, key, old.as_deref(), Some(&stored)) {
        guest.pending.entry(key.into()).or_insert(old);
    }
    if is_volume(guest.at.sort, key) {
        let used = volid(key, &stored);
        let is_used = |key: &str, value: &str| is_numbered(key, &["unused"]) && Some(value) == used.as_deref();
        guest.options.retain(|key, value| !is_used(key, value));
    }
    guest.options.insert(key.into(), stored);
}

/// Deletes an option. A volume of the guest's own is kept as an unused one.
pub(super) fn delete(guest: &mut Guest, key: &str) {
    let Some(old) = guest.options.remove(key) else { return };
    if guest.running && waits(guest, key, Some(&old), None) {
        guest.pending.entry(key.into()).or_insert(Some(old));
        return;
    }
    let kept = volid(key, &old).filter(|v| is_volume(guest.at.sort, key) && owned_by(v, guest.at.vmid));
    if let Some(volid) = kept
        && let Some(free) = (0..256).find(|n| !guest.options.contains_key(&format!("unused{n}")))
    {
        guest.options.insert(format!("unused{free}"), volid);
    }
}

/// Whether a running guest takes the change at its next start only.
fn waits(guest: &Guest, key: &str, old: Option<&str>, new: Option<&str>) -> bool {
    let stem = stem(key);
    if guest.at.sort == GuestType::Lxc {
        let plugged = ["mp", "dev"].contains(&stem) && old.is_none();
        return !(LXC_LIVE.contains(&key) || ["net", "unused"].contains(&stem) || plugged);
    }
    let hotplug = match guest.options.get("hotplug").map(String::as_str) {
        None | Some("1") => "network,disk,usb",
        Some(list) => list,
    };
    let has = |what: &str| hotplug.split(',').any(|word| word == what);
    let taken = match stem {
        "net" => has("network"),
        "usb" => has("usb"),
        "memory" => has("memory"),
        "scsi" | "virtio" => {
            let other = |value: Option<&str>| value.and_then(|value| volid(key, value));
            has("disk") && (new.is_none() || old.is_none() || other(old) != other(new) || only_live(key, old, new))
        }
        _ => VM_LIVE.contains(&key) || is_cloud_init(key),
    };
    !taken
}

/// Whether a drive differs in what it takes while it is in use.
fn only_live(key: &str, old: Option<&str>, new: Option<&str>) -> bool {
    let without = |value: Option<&str>| {
        let mut drive = Properties::of_option(key, value?).ok()?;
        for part in ["backup", "replicate", "size"] {
            drive.remove(part);
        }
        Some(drive)
    };
    without(old) == without(new)
}

/// An option as Proxmox stores it: volumes are made, interfaces get an address, properties are spelt its way.
fn stored(sort: GuestType, key: &str, value: &str, old: Option<&str>, place: &Place) -> String {
    match sort {
        _ if key == "cipassword" => "**********".into(),
        _ if is_volume(sort, key) => volume(key, value, old, place).unwrap_or_else(|| value.to_string()),
        GuestType::Lxc if is_numbered(key, &["net"]) => interface(value, place).unwrap_or_else(|| value.to_string()),
        GuestType::Qemu if is_numbered(key, &["net"]) => match value.strip_prefix("model=virtio") {
            Some(rest) => format!("virtio={}{rest}", address(place)),
            None => value.to_string(),
        },
        _ if key == "boot" || default_key(key).is_none() => value.to_string(),
        _ => Properties::of_option(key, value).map_or_else(|_| value.to_string(), |p| p.to_string()),
    }
}

fn address(place: &Place) -> String {
    format!(
        "BC:24:11:{:02X}:{:02X}:07",
        place.number / 256 % 256,
        place.number % 256
    )
}

/// A container's interface.
fn interface(value: &str, place: &Place) -> Option<String> {
    let mut net = Properties::parse(value, None).ok()?;
    if net.get("hwaddr").is_none() {
        net.set("hwaddr", address(place));
    }
    Some(net.with("type", "veth").to_string())
}

/// A mount point or drive: `STORAGE:GIB` becomes a volume of that size, what is there keeps its own.
fn volume(key: &str, value: &str, old: Option<&str>, place: &Place) -> Option<String> {
    let name = default_key(key)?;
    let mut drive = Properties::of_option(key, value).ok()?;
    let image = drive.remove("import-from").is_some();
    let Some((storage, what)) = drive.get(name)?.split_once(':') else {
        return Some(drive.to_string());
    };
    let kind = if place.directories { "subvol" } else { "vm" };
    let made = format!("{storage}:{kind}-{}{NEW}{}", place.vmid, place.number);
    let (file, size) = match (what, DiskSize::of_gib(what)) {
        ("cloudinit", _) => (format!("{storage}:vm-{}-cloudinit", place.vmid), Some("4M".to_string())),
        // The image says how large the disk is.
        _ if image => (made, Some("3584M".into())),
        (_, Some(size)) => (made, Some(size.in_proxmox())),
        (_, None) => {
            let before = old.and_then(|old| Properties::of_option(key, old).ok());
            let before = before.filter(|old| old.get(name) == drive.get(name));
            let size = drive.get("size").map(str::to_string);
            let size = size.or_else(|| Some(before?.get("size")?.to_string()));
            (drive.get(name)?.to_string(), size)
        }
    };
    if what == "cloudinit" {
        drive.set("media", "cdrom");
    }
    drive.set(name, file);
    if let Some(size) = size {
        drive.set("size", size);
    }
    Some(drive.to_string())
}

/// Whether a clone has an option of its template.
pub(super) fn is_copied(key: &str) -> bool {
    !["lock", "parent", "template", "vmstate"].contains(&key) && !is_numbered(key, &["unused"])
}

/// An option of a template as its clone has it: volumes are copied.
pub(super) fn copied(key: &str, value: &str, from: Vmid, to: Vmid, storage: Option<&str>) -> String {
    let sort_key = key == "rootfs" || is_numbered(key, &["mp"]) || is_drive(key);
    let of_template = volid(key, value).filter(|v| sort_key && owner_of(v) == Some(from));
    let renamed = of_template.and_then(|volid| {
        let (own, path) = volid.split_once(':')?;
        let storage = storage.unwrap_or(own);
        let last = path.rsplit('/').next()?;
        let name = match last {
            _ if last.contains("-cloudinit") => format!("vm-{to}-cloudinit"),
            _ if last.starts_with("subvol-") || last.starts_with("basevol-") => format!("subvol-{to}{NEW}-{key}"),
            _ => format!("vm-{to}{NEW}-{key}"),
        };
        let drive = Properties::of_option(key, value).ok()?;
        Some(drive.with(default_key(key)?, format!("{storage}:{name}")).to_string())
    });
    renamed.unwrap_or_else(|| value.to_string())
}

/// Volumes of a guest that becomes a template are bases of clones: all, or the one at a place.
pub(super) fn make_bases(guest: &mut Guest, only: Option<&str>) {
    let sort = guest.at.sort;
    let all = guest.options.iter_mut();
    let chosen = all.filter(|(key, _)| is_volume(sort, key) && only.is_none_or(|place| place == *key));
    for (_, value) in chosen {
        if !value.contains("cloudinit") {
            *value = value
                .replacen(":subvol-", ":basevol-", 1)
                .replacen(":vm-", ":base-", 1)
                .replacen("/vm-", "/base-", 1);
        }
    }
}
