//! Device nodes in containers: those of GPUs, and others of the node's. Both are `devN` on Proxmox; entries that neither
//! names stay.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Dropped, WantedDevice, WantedLxc, gpu_devices};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::planner::Planner;
use crate::plan::{Next, Stage};
use crate::pve::property::Properties;
use crate::reason::Reason;

/// What Proxmox takes where a property of a device node is not set (facts D.1).
const DEFAULTS: &[(&str, &str)] = &[("uid", "0"), ("gid", "0"), ("deny-write", "0")];

impl Planner<'_> {
    /// Device nodes, those of GPUs first.
    pub(crate) fn gpus(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let goes = |path: &str| fresh || is_dropped(&self.dropped, path) || self.drops_gpu(lxc, path);
        let changes = device_changes(lxc, guest, fresh, &self.dropped, goes);
        self.apply(Stage::GPUReady, guest, changes)?;
        let gpus = lxc.gpus.clone().unwrap_or_default();
        let list = gpus.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let message = match (gpus.is_empty(), lxc.devices.is_empty()) {
            (true, true) => "no GPUs are wanted".into(),
            (true, false) => "the device nodes are configured".into(),
            (false, _) => format!("device nodes of GPU {list} are configured"),
        };
        self.facts.gpus = Some(list).filter(|l| !l.is_empty());
        match self.missing_at_start(guest) {
            Some(missing) => self.condition(Stage::GPUReady.as_str(), false, Reason::DeviceMissing, missing),
            None => self.ok(Stage::GPUReady, message),
        }
        Ok(())
    }

    /// Whether the entry of a device node goes: one of a GPU that Phoenix wrote and the spec dropped, or of any GPU where
    /// the spec wants none. What somebody put there beside the GPUs of the spec stays, and so do nodes of the driver that
    /// are no GPU (`/dev/nvidia-modeset`, `/dev/nvidia-caps/…`).
    pub(crate) fn drops_gpu(&self, lxc: &WantedLxc, path: &str) -> bool {
        let wanted = lxc.gpus.as_deref().unwrap_or_default();
        let none = lxc.gpus.as_ref().is_some_and(Vec::is_empty);
        let last = || wanted.is_empty() && self.dropped.under("gpu.").next().is_some();
        if gpu_devices(wanted).iter().any(|device| device == path) {
            return false;
        }
        match path.strip_prefix("/dev/nvidia") {
            Some("ctl" | "-uvm" | "-uvm-tools") => none || last(),
            Some(index) if index.parse::<u32>().is_ok() => none || self.dropped.has(&format!("gpu.{index}")),
            _ => false,
        }
    }

    /// The device node for want of which the last start failed.
    fn missing_at_start(&self, guest: &Guest) -> Option<String> {
        let failed = self.status.last_error.as_deref().filter(|_| !guest.running)?;
        let words = failed.strip_prefix(Reason::DeviceMissing.as_str())?;
        Some(words.trim_start_matches(": ").to_string())
    }

    /// Whether an entry that a guest carries is one that Phoenix wrote and the spec dropped.
    pub(crate) fn drops_device(&self, guest: &Guest, option: &str) -> bool {
        let entry = guest.options.get(option);
        let Some(entry) = entry.and_then(|text| Properties::of_option("dev0", text).ok()) else {
            return false;
        };
        entry.get("path").is_some_and(|path| is_dropped(&self.dropped, path))
    }
}

/// Whether the spec named a device node and names it no more.
fn is_dropped(dropped: &Dropped, path: &str) -> bool {
    dropped.has(&format!("device.{path}"))
}

/// A device node as Proxmox writes it.
fn entry(device: &WantedDevice) -> Properties {
    let entry = Properties::new(Some("path")).with("path", &device.path);
    device.properties.iter().fold(entry, |entry, (k, v)| entry.with(k, v))
}

fn entries(guest: &Guest) -> BTreeMap<u32, Properties> {
    let numbered = guest.numbered("dev").into_iter();
    numbered
        .filter_map(|(i, text)| Some((i, Properties::of_option("dev0", text).ok()?)))
        .collect()
}

/// The entries of a container and what becomes of them.
struct Places<'g> {
    guest: &'g Guest,
    existing: BTreeMap<u32, Properties>,
    /// Entries that are spoken for.
    used: BTreeSet<u32>,
    changes: Vec<Change>,
}

impl Places<'_> {
    /// The entry of a device node, else a free number.
    fn of(&mut self, path: &str) -> Option<(u32, Option<Properties>)> {
        let mut existing = self.existing.iter().filter(|(i, _)| !self.used.contains(i));
        let found = existing.find(|(_, p)| p.get("path") == Some(path));
        let place = match found {
            Some((i, properties)) => Some((*i, Some(properties.clone()))),
            None => (0..256)
                .find(|i| !self.existing.contains_key(i) && !self.used.contains(i))
                .map(|i| (i, None)),
        };
        self.used.extend(place.as_ref().map(|(i, _)| *i));
        place
    }

    fn set(&mut self, field: &'static str, index: u32, value: Option<String>) {
        let changed = change(field, &format!("dev{index}"), self.guest, value);
        self.changes.extend(changed.map(|c| Change { root_only: true, ..c }));
    }
}

fn device_changes(
    lxc: &WantedLxc,
    guest: &Guest,
    fresh: bool,
    dropped: &Dropped,
    goes: impl Fn(&str) -> bool,
) -> Vec<Change> {
    let mut places = Places {
        guest,
        existing: entries(guest),
        used: BTreeSet::new(),
        changes: Vec::new(),
    };
    for device in &lxc.devices {
        let Some((index, found)) = places.of(&device.path) else {
            continue;
        };
        let target = wanted_device(device, found.as_ref().filter(|_| !fresh), dropped);
        if !found.is_some_and(|found| is_device(&found, &target)) {
            places.set("devices", index, Some(target.to_string()));
        }
    }
    for path in gpu_devices(lxc.gpus.as_deref().unwrap_or_default()) {
        let Some((index, found)) = places.of(&path) else {
            continue;
        };
        let target = opened(&path, found.as_ref().filter(|_| !fresh));
        if found.as_ref() != Some(&target) {
            places.set("gpus", index, Some(target.to_string()));
        }
    }
    for (index, properties) in places.existing.clone() {
        let path = properties.get("path").unwrap_or_default();
        if !places.used.contains(&index) && goes(path) {
            let field = if is_dropped(dropped, path) { "devices" } else { "gpus" };
            places.set(field, index, None);
        }
    }
    places.changes
}

/// The entry with what is managed laid over what it has; what the spec dropped goes.
fn wanted_device(device: &WantedDevice, found: Option<&Properties>, dropped: &Dropped) -> Properties {
    let mut target = found.cloned().unwrap_or(Properties::new(Some("path")));
    dropped.take_off(&format!("device.{}.", device.path), &mut target);
    for (key, value) in entry(device).iter() {
        target.set(key, value);
    }
    target
}

/// Whether an entry is as wanted: what is not set is what Proxmox takes.
fn is_device(have: &Properties, wanted: &Properties) -> bool {
    let full = |properties: &Properties| {
        let mut full = properties.clone();
        for (key, default) in DEFAULTS.iter().filter(|(key, _)| properties.get(key).is_none()) {
            full.set(*key, default);
        }
        full
    };
    full(have) == full(wanted)
}

/// The entry of a device node that everybody in the container may use; who owns it there stays.
fn opened(device: &str, found: Option<&Properties>) -> Properties {
    let entry = found.cloned().unwrap_or(Properties::new(Some("path")));
    entry.with("path", device).with("mode", "0666")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::{GuestRef, GuestType, Vmid};

    fn changed(gpus: &[i64], options: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let lxc = WantedLxc {
            gpus: Some(gpus.to_vec()),
            ..WantedLxc::default()
        };
        let options = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string()));
        let guest = Guest {
            options: options.collect(),
            ..Guest::new(GuestRef::new(GuestType::Lxc, Vmid::MIN, "n"))
        };
        let changes = device_changes(&lxc, &guest, false, &Dropped::default(), |_| false);
        changes.into_iter().map(|c| (c.key, c.value)).collect()
    }

    #[test]
    fn entries_of_other_nodes_and_owners_of_the_named_ones_stay() {
        let theirs = [
            ("dev0", "/dev/nvidia0,gid=44"),
            ("dev1", "path=/dev/nvidiactl,gid=44,mode=0666"),
            ("dev2", "/dev/nvidia-uvm,uid=1000,mode=0666"),
            ("dev3", "/dev/nvidia-caps/nvidia-cap1"),
            ("dev4", "/dev/nvidia-modeset,gid=44"),
            ("dev6", "/dev/nvidia1"),
        ];
        assert_eq!(
            changed(&[0], &theirs),
            [
                ("dev0".to_string(), Some("/dev/nvidia0,gid=44,mode=0666".to_string())),
                ("dev5".to_string(), Some("/dev/nvidia-uvm-tools,mode=0666".to_string())),
            ]
        );
        assert_eq!(changed(&[], &theirs), []);
    }
}
