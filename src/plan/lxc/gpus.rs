//! Device nodes in containers: those of GPUs, and others of the node's. Both are `devN` on Proxmox; entries that neither
//! names stay.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Dropped, WantedDevice, WantedLxc, gpu_devices};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::planner::Planner;
use crate::plan::{Next, Stage};
use crate::pve::property::Properties;

/// What Proxmox takes where a property of a device node is not set (facts D.1).
const DEFAULTS: &[(&str, &str)] = &[("uid", "0"), ("gid", "0"), ("deny-write", "0")];

impl Planner<'_> {
    /// Device nodes, those of GPUs first.
    pub(crate) fn gpus(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let changes = device_changes(lxc, guest, fresh, &self.dropped);
        self.apply(Stage::GPUReady, guest, changes)?;
        let gpus = lxc.gpus.clone().unwrap_or_default();
        let list = gpus.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let message = match (gpus.is_empty(), lxc.devices.is_empty()) {
            (true, true) => "no GPUs are wanted".into(),
            (true, false) => "the device nodes are configured".into(),
            (false, _) => format!("device nodes of GPU {list} are configured"),
        };
        self.facts.gpus = Some(list).filter(|l| !l.is_empty());
        self.ok(Stage::GPUReady, message);
        Ok(())
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

fn device_changes(lxc: &WantedLxc, guest: &Guest, fresh: bool, dropped: &Dropped) -> Vec<Change> {
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
        if found.is_none_or(|p| p.get("mode") != Some("0666")) {
            places.set("gpus", index, Some(format!("{path},mode=0666")));
        }
    }
    let gpus = lxc.gpus.is_some() || dropped.under("gpu.").next().is_some();
    for (index, properties) in places.existing.clone() {
        let path = properties.get("path").unwrap_or_default();
        let nvidia = gpus && path.starts_with("/dev/nvidia");
        let device = is_dropped(dropped, path);
        if !places.used.contains(&index) && (fresh || nvidia || device) {
            let field = if device { "devices" } else { "gpus" };
            places.set(field, index, None);
        }
    }
    places.changes
}

/// The entry with what is managed laid over what it has; what the spec dropped goes.
fn wanted_device(device: &WantedDevice, found: Option<&Properties>, dropped: &Dropped) -> Properties {
    let mut target = found.cloned().unwrap_or(Properties::new(Some("path")));
    for key in dropped.under(&format!("device.{}.", device.path)) {
        target.remove(key);
    }
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
