//! Device nodes of GPUs in containers.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::WantedLxc;
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::planner::Planner;
use crate::plan::{Next, Stage};
use crate::pve::property::Properties;
use crate::reason::Reason;

impl Planner<'_> {
    /// GPU device nodes.
    pub(crate) fn gpus(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let changes = gpu_changes(lxc, guest, |path| fresh || self.drops_gpu(lxc, path));
        self.apply(Stage::GPUReady, guest, changes)?;
        let gpus = lxc.gpus.clone().unwrap_or_default();
        let list = gpus.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let message = if gpus.is_empty() {
            "no GPUs are wanted".into()
        } else {
            format!("device nodes of GPU {list} are configured")
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
}

/// Device nodes of NVIDIA GPUs.
fn gpu_devices(gpus: &[i64]) -> Vec<String> {
    if gpus.is_empty() {
        return Vec::new();
    }
    let mut indices: Vec<i64> = gpus.to_vec();
    indices.sort_unstable();
    indices.dedup();
    let mut devices: Vec<String> = indices.iter().map(|i| format!("/dev/nvidia{i}")).collect();
    devices.extend(["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"].map(str::to_string));
    devices
}

fn gpu_changes(lxc: &WantedLxc, guest: &Guest, goes: impl Fn(&str) -> bool) -> Vec<Change> {
    let existing: BTreeMap<u32, Properties> = guest
        .numbered("dev")
        .into_iter()
        .filter_map(|(i, text)| Some((i, Properties::of_option("dev0", text).ok()?)))
        .collect();
    let devices = gpu_devices(lxc.gpus.as_deref().unwrap_or_default());
    let mut changes = Vec::new();
    let mut used = BTreeSet::new();
    let root = |c: Change| Change { root_only: true, ..c };
    for device in &devices {
        let found = existing
            .iter()
            .find(|(i, p)| p.get("path") == Some(device) && !used.contains(*i))
            .map(|(i, p)| (*i, p));
        let index = found
            .map(|(i, _)| i)
            .or_else(|| (0..256).find(|i| !existing.contains_key(i) && !used.contains(i)));
        let Some(index) = index else { continue };
        used.insert(index);
        let value = opened(device, found.map(|(_, p)| p));
        if found.is_none_or(|(_, p)| *p != value) {
            changes.extend(change("gpus", &format!("dev{index}"), guest, Some(value.to_string())).map(root));
        }
    }
    for (index, properties) in &existing {
        if !used.contains(index) && properties.get("path").is_some_and(&goes) {
            changes.extend(change("gpus", &format!("dev{index}"), guest, None).map(root));
        }
    }
    changes
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
        let changes = gpu_changes(&lxc, &guest, |_| false);
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
