//! Options of a container: mount points, networks, normal forms, and who may set what (facts D.1, D.2).

use super::config::Section;
use super::error::{ApiError, Result};
use super::property::{self, Properties, is_true, split_list};
use super::state::{Caller, State};

/// Keys that every network, mount point or device list counts up to.
const COUNTED: &[(&str, u32)] = &[("mp", 256), ("net", 32), ("dev", 256), ("unused", 256)];
const PLAIN: &[&str] = &[
    "arch",
    "cmode",
    "console",
    "cores",
    "cpulimit",
    "cpuunits",
    "debug",
    "description",
    "entrypoint",
    "env",
    "features",
    "hookscript",
    "hostname",
    "lock",
    "memory",
    "nameserver",
    "onboot",
    "ostype",
    "protection",
    "rootfs",
    "searchdomain",
    "startup",
    "swap",
    "tags",
    "template",
    "timezone",
    "tty",
    "unprivileged",
];

/// Whether a container has an option of this name.
pub fn is_option(key: &str) -> bool {
    PLAIN.contains(&key)
        || COUNTED
            .iter()
            .any(|(word, count)| index_of(key, word).is_some_and(|index| index < *count))
}

/// Number in `net3` for the word `net`.
pub fn index_of(key: &str, word: &str) -> Option<u32> {
    let digits = key.strip_prefix(word)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// True for `rootfs` and `mpN`.
pub fn is_mount(key: &str) -> bool {
    key == "rootfs" || index_of(key, "mp").is_some()
}

/// A mount point taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Properties with the volume under `volume`.
    pub parts: Properties,
}

impl Mount {
    /// Reads a `rootfs` or `mpN` value.
    pub fn parse(text: &str) -> Self {
        let mut parts = property::parse(text, "volume");
        for key in ["ro", "backup", "acl", "quota", "replicate", "shared", "keepattrs"] {
            canonical_bool(&mut parts, key);
        }
        Self { parts }
    }

    /// The volume, path or device.
    pub fn volume(&self) -> &str {
        self.parts.get("volume").map(String::as_str).unwrap_or_default()
    }

    /// `volume`, `bind` or `device`.
    pub fn kind(&self) -> &'static str {
        match self.volume() {
            path if path.starts_with("/dev/") => "device",
            path if path.starts_with('/') => "bind",
            _ => "volume",
        }
    }

    /// Storage and bytes when a new volume is asked for (`STORAGE:GiB`).
    pub fn allocation(&self) -> Option<(&str, u64)> {
        let (storage, size) = self.volume().split_once(':')?;
        let (whole, fraction) = size.split_once('.').unwrap_or((size, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let gib: f64 = (digits(whole) && digits(fraction))
            .then(|| size.parse().ok())
            .flatten()?;
        // Proxmox allocates whole MiB.
        Some((storage, ((gib * 1024.0) as u64) << 20))
    }

    /// Changes one property.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.parts.insert(key.to_owned(), value.into());
    }

    /// Proxmox's text form.
    pub fn print(&self) -> String {
        property::print(&self.parts, "volume", &["mp"])
    }
}

fn canonical_bool(parts: &mut Properties, key: &str) {
    if let Some(value) = parts.get_mut(key) {
        *value = if is_true(value) { "1" } else { "0" }.to_owned();
    }
}

/// The mount points of a section that are volumes: key and volume id, `rootfs` first.
pub fn volume_mounts(section: &Section) -> Vec<(String, Mount)> {
    all_mounts(section)
        .into_iter()
        .filter(|(_, mount)| mount.kind() == "volume")
        .collect()
}

/// All mount points of a section, `rootfs` first and `mpN` by number.
pub fn all_mounts(section: &Section) -> Vec<(String, Mount)> {
    let mut found: Vec<_> = section
        .options
        .iter()
        .filter(|(key, _)| is_mount(key))
        .map(|(key, value)| (key.clone(), Mount::parse(value)))
        .collect();
    found.sort_by_key(|(key, _)| index_of(key, "mp").map_or(0, |number| number + 1));
    found
}

/// Whether the guest configuration uses a volume: as mount point, or as `unusedN`.
pub fn uses_volume(section: &Section, volid: &str) -> bool {
    section.options.iter().any(|(key, value)| {
        (is_mount(key) || index_of(key, "unused").is_some()) && Mount::parse(value).volume() == volid
    })
}

/// Notes a volume that nothing mounts any more as `unusedN`, unless the section still uses it.
pub fn add_unused(section: &mut Section, volid: &str) {
    if uses_volume(section, volid) {
        return;
    }
    let free = (0..256)
        .map(|number| format!("unused{number}"))
        .find(|key| section.get(key).is_none());
    if let Some(key) = free {
        section.set(&key, volid);
    }
}

/// Refuses ranges of a mount point's `idmap` that overlap, inside the container or on the disk.
pub fn check_id_map(text: &str) -> Result<()> {
    let mut entries: Vec<(&str, [u64; 3])> = Vec::new();
    for part in text.split(';').filter(|_| text != "passthrough") {
        let numbers: Vec<u64> = part
            .split(':')
            .skip(1)
            .filter_map(|number| number.parse().ok())
            .collect();
        if let (Some(kind), [inside, disk, count]) = (part.get(..1), &numbers[..]) {
            entries.push((kind, [*inside, *disk, *count]));
        }
    }
    for kind in ["u", "g"] {
        for (at, side) in ["container", "host"].into_iter().enumerate() {
            let mut sorted: Vec<&[u64; 3]> = entries
                .iter()
                .filter(|(found, _)| *found == kind)
                .map(|(_, numbers)| numbers)
                .collect();
            sorted.sort_by_key(|numbers| numbers[at]);
            for pair in sorted.windows(2) {
                let (before, after) = (pair[0], pair[1]);
                if before[at] + before[2] > after[at] {
                    let line = |n: &[u64; 3]| format!("{kind} {} {} {}", n[0], n[1], n[2]);
                    return Err(ApiError::die(format!(
                        "invalid map entry '{}': {side} {kind}id {} is also mapped by entry '{}'",
                        line(after),
                        after[at],
                        line(before)
                    )));
                }
            }
        }
    }
    Ok(())
}

impl State {
    /// The form in which Proxmox stores an option.
    pub fn normal_form(&mut self, node: &str, key: &str, value: &str) -> String {
        if index_of(key, "net").is_some() {
            return self.normal_net(value);
        }
        if is_mount(key) {
            return Mount::parse(value).print();
        }
        match key {
            "nameserver" | "searchdomain" => split_list(value).join(" "),
            "tags" => self.normal_tags(value),
            "cpuunits" => {
                let v2 = self.nodes.get(node).is_none_or(|found| found.cgroup_mode == 2);
                let (low, high) = if v2 { (1, 10_000) } else { (2, 262_144) };
                value
                    .parse::<u64>()
                    .map_or_else(|_| value.to_owned(), |units| units.clamp(low, high).to_string())
            }
            _ => value.to_owned(),
        }
    }

    fn normal_net(&mut self, value: &str) -> String {
        let mut parts = property::parse(value, "name");
        for key in ["firewall", "link_down", "host-managed"] {
            canonical_bool(&mut parts, key);
        }
        if !parts.contains_key("hwaddr") {
            parts.insert("hwaddr".to_owned(), self.new_mac());
        }
        parts.insert("type".to_owned(), "veth".to_owned());
        property::print(&parts, "", &["name"])
    }

    fn normal_tags(&self, value: &str) -> String {
        let style = self
            .options
            .get("tag-style")
            .map(|text| property::parse(text, ""))
            .unwrap_or_default();
        let exact = style.get("case-sensitive").is_some_and(|text| is_true(text));
        let mut tags: Vec<String> = split_list(value)
            .into_iter()
            .map(|tag| if exact { tag } else { tag.to_lowercase() })
            .collect();
        if style.get("ordering").is_none_or(|ordering| ordering != "config") {
            tags.sort();
        }
        let mut seen = std::collections::BTreeSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        tags.join(";")
    }

    /// Refuses a packet size beyond that of the bridge.
    pub fn check_net_mtu(&self, node: &str, key: &str, value: &str) -> Result<()> {
        let parts = property::parse(value, "name");
        let bridge = parts
            .get("bridge")
            .and_then(|name| self.nodes.get(node)?.bridges.get(name));
        let on = |name: &str| parts.get(name).is_some_and(|text| is_true(text));
        let automatic = parts.get("ip6").is_some_and(|address| address == "auto");
        if automatic && on("host-managed") && !on("link_down") {
            let text = "SLAAC is not supported for host-managed network configuration.";
            return Err(ApiError::die(format!("{key}: {text}")));
        }
        let (Some(mtu), Some(bridge)) = (parts.get("mtu"), bridge) else {
            return Ok(());
        };
        if mtu.parse::<u32>().is_ok_and(|mtu| mtu > bridge.mtu) {
            let text = format!("{key}: MTU size '{mtu}' is bigger than bridge MTU '{}'", bridge.mtu);
            return Err(ApiError::die(text));
        }
        Ok(())
    }

    /// Refuses networks on bridges that are not there.
    pub fn check_bridges(&self, node: &str, section: &Section) -> Result<()> {
        let known = self.nodes.get(node).map(|found| &found.bridges);
        for (key, value) in &section.options {
            if index_of(key, "net").is_none() {
                continue;
            }
            let bridge = property::parse(value, "name").remove("bridge").unwrap_or_default();
            if !known.is_some_and(|bridges| bridges.contains_key(&bridge)) {
                return Err(ApiError::die(format!("bridge '{bridge}' does not exist")));
            }
        }
        Ok(())
    }

    /// Refuses a caller who may not set (`value`) or delete (`None`) an option.
    pub fn check_option(&self, who: &OptionCheck<'_>, key: &str, value: Option<&str>) -> Result<()> {
        if who.caller.is_true_root() {
            return Ok(());
        }
        let old = who.old.and_then(|section| section.get(key));
        match key {
            "cores" | "cpulimit" | "cpuunits" => self.need_guest(who, "VM.Config.CPU"),
            "memory" | "swap" => self.need_guest(who, "VM.Config.Memory"),
            "nameserver" | "searchdomain" | "hostname" => self.need_guest(who, "VM.Config.Network"),
            "features" => self.check_features(who, old.unwrap_or_default(), value.unwrap_or_default()),
            "hookscript" => Err(ApiError::permission(
                "changing the hookscript is only allowed for root@pam",
            )),
            _ if is_mount(key) => {
                self.need_guest(who, "VM.Config.Disk")?;
                value.map_or(Ok(()), |text| self.check_mount(who, &Mount::parse(text)))
            }
            _ if index_of(key, "net").is_some() => {
                self.need_guest(who, "VM.Config.Network")?;
                [old, value]
                    .into_iter()
                    .flatten()
                    .try_for_each(|text| self.check_bridge_use(who.caller, text))
            }
            _ if index_of(key, "dev").is_some() => Err(ApiError::permission(
                "configuring device passthrough is only allowed for root@pam",
            )),
            _ => self.need_guest(who, "VM.Config.Options"),
        }
    }

    fn need_guest(&self, who: &OptionCheck<'_>, privilege: &str) -> Result<()> {
        if who
            .pool
            .is_some_and(|pool| self.may(who.caller, &format!("/pool/{pool}"), &[privilege]))
        {
            return Ok(());
        }
        self.need(who.caller, &format!("/vms/{}", who.vmid), &[privilege])
    }

    fn check_mount(&self, who: &OptionCheck<'_>, mount: &Mount) -> Result<()> {
        if mount.kind() != "volume" {
            let text = format!("mount point type {} is only allowed for root@pam", mount.kind());
            return Err(ApiError::permission(text));
        }
        match mount.allocation() {
            Some((storage, _)) => self.need(who.caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"]),
            None => self.check_volume_access(who.caller, Some(who.vmid), mount.volume(), Some("rootdir")),
        }
    }

    fn check_bridge_use(&self, caller: &Caller, net: &str) -> Result<()> {
        let parts = property::parse(net, "name");
        let Some(bridge) = parts.get("bridge") else {
            return Ok(());
        };
        let mut path = format!("/sdn/zones/localnetwork/{bridge}");
        if let Some(tag) = parts.get("tag") {
            path = format!("{path}/{tag}");
        }
        self.need(caller, &path, &["SDN.Use"])
    }

    fn check_features(&self, who: &OptionCheck<'_>, old: &str, new: &str) -> Result<()> {
        if !who.unprivileged {
            let text = "changing feature flags for privileged container is only allowed for root@pam";
            return Err(ApiError::permission(text));
        }
        let rest = |text: &str| {
            let mut parts = property::parse(text, "");
            parts.remove("nesting");
            for key in ["keyctl", "fuse", "mknod", "force_rw_sys"] {
                canonical_bool(&mut parts, key);
            }
            parts.retain(|_, value| value != "0");
            parts
        };
        if rest(old) != rest(new) {
            let text = "changing feature flags (except nesting) is only allowed for root@pam";
            return Err(ApiError::permission(text));
        }
        self.need_guest(who, "VM.Allocate")
    }
}

/// Who wants to change which container.
#[derive(Debug, Clone, Copy)]
pub struct OptionCheck<'a> {
    /// The caller.
    pub caller: &'a Caller,
    /// The container.
    pub vmid: u32,
    /// Pool that a create or clone names.
    pub pool: Option<&'a str>,
    /// Options before the change.
    pub old: Option<&'a Section>,
    /// Whether the container is unprivileged.
    pub unprivileged: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let mount = Mount::parse("zfs:8.5,mp=/data,ro=yes");
        assert_eq!(mount.allocation(), Some(("zfs", 17 << 29)));
        assert_eq!(mount.print(), "zfs:8.5,mp=/data,ro=1");
        assert_eq!(Mount::parse("/srv,mp=/x").kind(), "bind");
        assert_eq!(Mount::parse("/dev/sda,mp=/x").kind(), "device");
        assert_eq!(Mount::parse("zfs:subvol-1-disk-0").allocation(), None);
    }

    #[test]
    fn ranges_of_an_id_map_do_not_overlap() {
        for good in ["passthrough", "", "u:0:100:10;u:10:110:1;g:0:100:10"] {
            assert_eq!(check_id_map(good), Ok(()), "{good}");
        }
        let said = check_id_map("u:0:100:10;u:5:500:2").unwrap_err();
        let text = "invalid map entry 'u 5 500 2': container uid 5 is also mapped by entry 'u 0 100 10'";
        assert_eq!(said.first_line(), text);
    }

    #[test]
    fn options_are_known() {
        assert!(is_option("net31") && is_option("mp255") && is_option("hostname"));
        assert!(!is_option("net32") && !is_option("mp256") && !is_option("password") && !is_option("netx"));
    }
}
