//! Device nodes of GPUs in containers.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::WantedLxc;
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::planner::Planner;
use crate::plan::{Next, Stage};
use crate::pve::property::Properties;

impl Planner<'_> {
    /// GPU device nodes.
    pub(crate) fn gpus(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let dropped = self.dropped.under("gpu.").next().is_some();
        let changes = gpu_changes(lxc, guest, fresh, dropped);
        self.apply(Stage::GPUReady, guest, changes)?;
        let gpus = lxc.gpus.clone().unwrap_or_default();
        let list = gpus.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let message = if gpus.is_empty() {
            "no GPUs are wanted".into()
        } else {
            format!("device nodes of GPU {list} are configured")
        };
        self.facts.gpus = Some(list).filter(|l| !l.is_empty());
        self.ok(Stage::GPUReady, message);
        Ok(())
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

fn gpu_changes(lxc: &WantedLxc, guest: &Guest, fresh: bool, dropped: bool) -> Vec<Change> {
    let existing: BTreeMap<u32, Properties> = guest
        .numbered("dev")
        .into_iter()
        .filter_map(|(i, text)| Some((i, Properties::of_option("dev0", text).ok()?)))
        .collect();
    if lxc.gpus.is_none() && !fresh && !dropped {
        return Vec::new();
    }
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
        if found.is_none_or(|(_, p)| p.get("mode") != Some("0666")) {
            let value = format!("{device},mode=0666");
            changes.extend(change("gpus", &format!("dev{index}"), guest, Some(value)).map(root));
        }
    }
    for (index, properties) in &existing {
        let nvidia = properties.get("path").is_some_and(|p| p.starts_with("/dev/nvidia"));
        if !used.contains(index) && (fresh || nvidia) {
            changes.extend(change("gpus", &format!("dev{index}"), guest, None).map(root));
        }
    }
    changes
}
