//! Device nodes in containers: those of GPUs, and others of the node's. Both are `devN` on Proxmox; entries that neither
//! names stay.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Dropped, Selector, WantedDevice, WantedGpu, WantedLxc};
use crate::observed::{Cards, Fault, Given, Guest};
use crate::plan::change::{Change, change};
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Effect, Next, NodeWork, Query, Stage};
use crate::pve::gpu::NVIDIA_SHARED;
use crate::pve::property::Properties;
use crate::reason::Reason;

/// What Proxmox takes where a property of a device node is not set (facts D.1).
const DEFAULTS: &[(&str, &str)] = &[("uid", "0"), ("gid", "0"), ("deny-write", "0")];

/// A device node that a container gets for a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    path: String,
    mode: String,
    gid: Option<i64>,
}

/// What status remembers of a group that the spec gives the device nodes of GPUs.
const GROUP: &str = "gpu.gid";
/// What it remembers of device nodes of GPUs that have no number: below `/dev/dri`, `/dev/kfd`, of MIG instances.
const NODE: &str = "gpu.node.";

impl Planner<'_> {
    /// Device nodes, those of GPUs first.
    pub(crate) fn gpus(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let given = self.given_cards(lxc, guest)?;
        self.bound(given.as_deref().unwrap_or_default(), guest)?;
        if !guest.running {
            self.tell_missing(given.as_deref().unwrap_or_default(), guest)?;
        }
        let wanted = nodes(lxc, given.as_deref());
        let paths: Vec<&str> = wanted.iter().map(|node| node.path.as_str()).collect();
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let goes = |path: &str| fresh || is_dropped(&self.dropped, path) || self.drops(lxc, &paths, path);
        let changes = device_changes(&lxc.devices, &wanted, guest, fresh, &self.dropped, goes);
        self.apply(Stage::GPUReady, guest, changes)?;
        self.facts.gpus = Some(counted(lxc, given.as_deref())).filter(|l| !l.is_empty());
        let message = match (paths.is_empty(), lxc.devices.is_empty()) {
            (true, true) => "no GPUs are wanted".into(),
            (true, false) => "the device nodes are configured".into(),
            (false, _) => format!(
                "device nodes of GPU {} are configured",
                self.facts.gpus.as_deref().unwrap_or_default()
            ),
        };
        if let Some(given) = &given {
            self.tell_fit(lxc, given);
            self.tell_cards(given, guest)?;
        }
        match self.missing_at_start(guest) {
            Some(missing) => self.condition(Stage::GPUReady.as_str(), false, Reason::DeviceMissing, missing),
            None if self.gpus_fail().is_some() => {}
            None if self.is_to_be_proven() => {
                let message = format!("{message}; whether CUDA works is not known before the proof of this start");
                self.unknown(Stage::GPUReady, Reason::NotProven, message);
            }
            None => self.ok(Stage::GPUReady, message),
        }
        Ok(())
    }

    /// The cards that the container is given, in the order of the spec. `None`: nobody looked at the node, and indices are
    /// taken for the numbers of device nodes.
    fn given_cards(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<Option<Vec<Given>>, Next> {
        if lxc.gpus.as_ref().is_none_or(Vec::is_empty) {
            return Ok(None);
        }
        let stage = Stage::GPUReady;
        let given = match &self.observed.cards {
            None => {
                let node = guest.at.node.clone();
                return Err(Next::Look(Query::Cards { node }));
            }
            Some(Cards::Assumed) => {
                let indices: Vec<i64> = lxc.gpus.iter().flatten().filter_map(index_of).collect();
                self.manages(lxc, indices.into_iter());
                return Ok(None);
            }
            Some(Cards::Refused(cause)) => {
                let cause = cause.clone();
                return Err(match cause.reason {
                    Reason::GPUsNotRead => self.wait(stage, cause.reason, cause.message, 30),
                    _ => self.stuck(stage, cause.reason, cause.message),
                });
            }
            Some(Cards::Given(given)) => given.clone(),
        };
        let cards = given.iter().map(|given| given.card.clone());
        self.facts.gpu_devices = Some(cards.collect());
        self.manages(lxc, given.iter().filter_map(|given| given.card.minor));
        let nodes = given.iter().flat_map(|given| &given.nodes);
        let others = nodes.filter(|path| !path.starts_with("/dev/nvidia") || path.starts_with("/dev/nvidia-caps/"));
        if let Some(managed) = &mut self.facts.managed {
            managed.extend(others.map(|path| format!("{NODE}{path}")));
        }
        Ok(Some(given))
    }

    /// Notes which device nodes of GPUs the spec sets, by their numbers.
    fn manages(&mut self, lxc: &WantedLxc, minors: impl Iterator<Item = i64>) {
        if let Some(managed) = &mut self.facts.managed {
            managed.retain(|name| !name.starts_with("gpu."));
            managed.extend(minors.map(|minor| format!("gpu.{minor}")));
            let group = lxc.gpus.iter().flatten().any(|gpu| gpu.gid.is_some());
            managed.extend(group.then(|| GROUP.to_string()));
        }
    }

    /// What is wrong with the cards: the node counts otherwise, nodes are missing, the driver reported a fault.
    fn tell_cards(&mut self, given: &[Given], guest: &Guest) -> Staged {
        for message in given.iter().filter_map(|given| given.reordered.clone()) {
            self.find_more("GPUReordered", Reason::GPUReordered, message);
        }
        let since = guest.uptime.map(|uptime| self.input.now - uptime);
        // What happened before this start of the container says nothing of it.
        let holds = |fault: &&Fault| match (fault.at, since) {
            (Some(at), Some(since)) => at >= since,
            _ => true,
        };
        let fault = given.iter().filter_map(|given| given.fault.as_ref()).find(holds);
        if let Some(fault) = fault {
            let message = fault.words.clone();
            self.condition(Stage::GPUReady.as_str(), false, Reason::GPUFault, message);
            return Ok(());
        }
        match guest.running {
            true => self.tell_missing(given, guest),
            false => Ok(()),
        }
    }

    /// Device nodes that the node lacks: Proxmox takes no entry for them, and the container does not start without.
    fn tell_missing(&mut self, given: &[Given], guest: &Guest) -> Staged {
        let missing: BTreeSet<&str> = given
            .iter()
            .flat_map(|g| g.missing.iter().map(String::as_str))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<&str> = missing.into_iter().collect();
        let message = nodes_missing(self.prefix(), &guest.at.node, &missing);
        let made = missing.iter().all(|path| path.starts_with("/dev/nvidia"));
        if made && self.desired.cards.ensures_nodes && !guest.running {
            let minors = given.iter().filter_map(|given| given.card.minor).collect();
            let action = format!("make the device nodes {} on node {}", missing.join(", "), guest.at.node);
            return Err(self.at_cards(guest, action, NodeWork::GpuNodes { minors }));
        }
        if guest.running {
            self.condition(Stage::GPUReady.as_str(), false, Reason::GPUNodesMissing, message);
            return Ok(());
        }
        Err(self.wait(Stage::GPUReady, Reason::GPUNodesMissing, message, 30))
    }

    /// Cards that come back from the machines are bound to the node's driver before the container starts.
    fn bound(&mut self, given: &[Given], guest: &Guest) -> Staged {
        let due = given.iter().find_map(|given| Some((given, given.bind.clone()?)));
        let Some((given, driver)) = due.filter(|_| !guest.running) else {
            return Ok(());
        };
        let address = given.card.pci_address.clone();
        let action = format!("bind {address} of node {} to {driver}", guest.at.node);
        Err(self.at_cards(guest, action, NodeWork::BindCard { address, driver }))
    }

    fn at_cards(&mut self, guest: &Guest, action: String, work: NodeWork) -> Next {
        let node = guest.at.node.clone();
        self.run(Stage::GPUReady, action, vec![], Effect::OnNode { node, work })
    }

    /// Whether the entry of a device node goes: one of a GPU that Phoenix wrote and the spec dropped, or of any GPU where
    /// the spec wants none. What somebody put there beside the GPUs of the spec stays, and so do nodes of the driver that
    /// are no GPU (`/dev/nvidia-modeset`, `/dev/nvidia-caps/…`).
    fn drops(&self, lxc: &WantedLxc, wanted: &[&str], path: &str) -> bool {
        let none = lxc.gpus.as_ref().is_some_and(Vec::is_empty);
        let last = || wanted.is_empty() && self.dropped.under("gpu.").next().is_some();
        if wanted.contains(&path) {
            return false;
        }
        if self.dropped.has(&format!("{NODE}{path}")) {
            return true;
        }
        match path.strip_prefix("/dev/nvidia") {
            Some("ctl" | "-uvm" | "-uvm-tools") => none || last(),
            Some(minor) if minor.parse::<u32>().is_ok() => none || self.dropped.has(&format!("gpu.{minor}")),
            _ => false,
        }
    }

    /// The same before the node's cards were looked at: by what the container was given last.
    pub(crate) fn drops_gpu(&self, lxc: &WantedLxc, path: &str) -> bool {
        let given = self.status.gpu_devices.iter().flatten();
        let minors: Vec<i64> = given.filter_map(|card| card.minor).collect();
        let own: Vec<String> = match minors.is_empty() {
            true => nodes(lxc, None).into_iter().map(|node| node.path).collect(),
            false => {
                let own = minors.iter().map(|minor| format!("/dev/nvidia{minor}"));
                own.chain(NVIDIA_SHARED.map(String::from)).collect()
            }
        };
        let wanted = lxc.gpus.iter().flatten().next().is_some();
        let own: Vec<&str> = own.iter().filter(|_| wanted).map(String::as_str).collect();
        self.drops(lxc, &own, path)
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

/// The device nodes of the container's cards, each once: the cards' own first, by number, then those that they share.
fn nodes(lxc: &WantedLxc, given: Option<&[Given]>) -> Vec<Node> {
    let gpus = lxc.gpus.as_deref().unwrap_or_default();
    let mut list: Vec<Node> = Vec::new();
    let mut add = |path: &str, mode: &str, gid: Option<i64>| {
        if !list.iter().any(|node| node.path == path) {
            list.push(Node {
                path: path.to_string(),
                mode: mode.to_string(),
                gid,
            });
        }
    };
    match given {
        Some(given) => {
            let shared = |path: &&String| NVIDIA_SHARED.contains(&path.as_str());
            for is_shared in [false, true] {
                for (card, gpu) in given.iter().zip(gpus) {
                    let paths = card.nodes.iter().filter(|path| shared(path) == is_shared);
                    paths.for_each(|path| add(path, &gpu.mode, gpu.gid));
                }
            }
        }
        None => {
            let mut own: Vec<(i64, &WantedGpu)> = gpus.iter().filter_map(|gpu| Some((index_of(gpu)?, gpu))).collect();
            own.sort_by_key(|(index, _)| *index);
            for (index, gpu) in own {
                add(&format!("/dev/nvidia{index}"), &gpu.mode, gpu.gid);
            }
            if let Some(gpu) = gpus.first() {
                NVIDIA_SHARED.iter().for_each(|path| add(path, &gpu.mode, gpu.gid));
            }
        }
    }
    list
}

fn index_of(gpu: &WantedGpu) -> Option<i64> {
    match gpu.selector {
        Selector::Index(index) => Some(index),
        _ => None,
    }
}

/// The container's cards for `kubectl get`: indices as nvidia-smi counts now, and addresses of those that it does not
/// count.
fn counted(lxc: &WantedLxc, given: Option<&[Given]>) -> String {
    let names: Vec<String> = match given {
        Some(given) => {
            let name = |given: &Given| match given.card.index {
                Some(index) => index.to_string(),
                None => given.card.pci_address.clone(),
            };
            given.iter().map(name).collect()
        }
        None => lxc
            .gpus
            .iter()
            .flatten()
            .filter_map(index_of)
            .map(|i| i.to_string())
            .collect(),
    };
    names.join(",")
}

/// What to do about device nodes that a node lacks, as after a boot.
fn nodes_missing(prefix: &str, node: &str, missing: &[&str]) -> String {
    let uvm = missing.iter().any(|path| path.starts_with("/dev/nvidia-uvm"));
    let nvidia = missing.iter().any(|path| path.starts_with("/dev/nvidia"));
    let fix = match (uvm, nvidia) {
        (true, _) => "run nvidia-modprobe -u -c=0 there, which loads nvidia_uvm and makes the nodes",
        (false, true) => "run nvidia-modprobe -c=0 there (one -c for each card)",
        (false, false) => "load the card's driver there",
    };
    format!(
        "{prefix}.gpus: node {node} lacks {}, as after a boot before any CUDA program: {fix}; have a unit do it at each boot",
        missing.join(", ")
    )
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
    devices: &[WantedDevice],
    gpus: &[Node],
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
    for device in devices {
        let Some((index, found)) = places.of(&device.path) else {
            continue;
        };
        let target = wanted_device(device, found.as_ref().filter(|_| !fresh), dropped);
        if !found.is_some_and(|found| is_device(&found, &target)) {
            places.set("devices", index, Some(target.to_string()));
        }
    }
    for node in gpus {
        let Some((index, found)) = places.of(&node.path) else {
            continue;
        };
        let target = opened(node, found.as_ref().filter(|_| !fresh), dropped);
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

/// The entry of a GPU's device node; who owns it in the container stays where the spec does not say.
fn opened(node: &Node, found: Option<&Properties>, dropped: &Dropped) -> Properties {
    let mut entry = found.cloned().unwrap_or(Properties::new(Some("path")));
    if dropped.has(GROUP) && node.gid.is_none() {
        entry.remove("gid");
    }
    let entry = entry.with("path", &node.path).with("mode", &node.mode);
    match node.gid {
        Some(gid) => entry.with("gid", gid.to_string()),
        None => entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::gpus::MODE;
    use crate::pve::{GuestRef, GuestType, Vmid};

    fn changed(gpus: &[i64], options: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let wanted = |index: &i64| WantedGpu {
            entry: 0,
            selector: Selector::Index(*index),
            amount: None,
            amount_from: String::new(),
            exclusive: false,
            dri: false,
            mode: MODE.into(),
            gid: None,
        };
        let lxc = WantedLxc {
            gpus: Some(gpus.iter().map(wanted).collect()),
            ..WantedLxc::default()
        };
        let options = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string()));
        let guest = Guest {
            options: options.collect(),
            ..Guest::new(GuestRef::new(GuestType::Lxc, Vmid::MIN, "n"))
        };
        let changes = device_changes(
            &lxc.devices,
            &nodes(&lxc, None),
            &guest,
            false,
            &Dropped::default(),
            |_| false,
        );
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
