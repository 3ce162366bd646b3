//! Options of a container: compared with what is wanted, and set by the channel that may set them (facts D.2).

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::DriftPolicy;
use crate::desired::{Desired, Stamp, WantedNet};
use crate::observed::Guest;
use crate::pve::property::Properties;
use crate::pve::{GuestType, units};

use super::guest::Planner;
use super::sizes::Sized;
use super::vm_options::{encoded, same_option};
use super::*;

/// The tag by which Phoenix finds its guests; an index, never proof.
pub const TAG: &str = "phoenix";

/// Options that a clone copies and that are no wish of the object's (promise 3): the value that clears each, `None`
/// to delete it.
const COPIED: &[(&str, Option<&str>)] = &[
    ("protection", None),
    ("onboot", None),
    ("startup", None),
    ("hookscript", None),
];

/// Characters of a value that are shown.
const LONGEST_SHOWN: usize = 160;
/// Name of a write of everything at once.
const WHOLE: &str = "configuration";
/// Name of the write of all options that are no interfaces, mounts, disks and devices.
const OPTIONS: &str = "options";
/// Name of the write of all devices.
const DEVICES: &str = "devices";

/// One option that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub key: String,
    /// New value; `None` deletes the option.
    pub value: Option<String>,
    pub old: Option<String>,
    /// Only root@pam may change it.
    pub root_only: bool,
    /// Field of the spec, for messages.
    pub field: &'static str,
}

impl Change {
    fn words(&self) -> String {
        if ["cipassword", "sshkeys"].contains(&self.key.as_str()) {
            return format!("{}: changed", self.key);
        }
        if self.key == "description" {
            return "description: changed".into();
        }
        let show = |v: &Option<String>| v.as_deref().map_or("(none)".to_string(), shortened);
        format!("{}: {} → {}", self.key, show(&self.old), show(&self.value))
    }
}

/// A value for people, without its end where it is long.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(LONGEST_SHOWN) {
        Some((at, _)) => format!("{:?}…", &value[..at]),
        None => format!("{value:?}"),
    }
}

/// Name under which the failures of an option's change are counted, so that it holds back no other. Options that have no
/// parts of their own belong together.
fn part(key: &str) -> &str {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem {
        "dev" | "hostpci" | "usb" if stem != key => DEVICES,
        "net" | "mp" | "scsi" | "virtio" | "sata" | "ide" if stem != key => key,
        _ => OPTIONS,
    }
}

impl Planner<'_> {
    /// Options, network, features and raw lines are as wanted, and the root filesystem is large enough.
    pub(super) fn configured(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let stage = Stage::Configured;
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        self.recreate_findings(guest);
        self.grow_rootfs(vmid, guest).or_else(|next| self.shown(next))?;
        let mut changes = option_changes(self.desired, guest, fresh);
        changes.extend(network_changes(self.desired, guest, fresh));
        changes.extend(flag_changes(self.desired, guest));
        self.apply(stage, vmid, guest, changes)
            .or_else(|next| self.shown(next))?;
        self.raw_lines(vmid, guest).or_else(|next| self.shown(next))?;
        self.in_pool(vmid)?;
        self.ok(stage, "the configuration is as wanted");
        Ok(())
    }

    /// The guest is not fresh any more: what was copied is cleared, and it may start.
    pub(super) fn settled(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let what = guest.named(vmid);
        let Some(stamp) = guest.stamp() else { return Ok(()) };
        if !stamp.fresh {
            return Ok(());
        }
        let stamp = Stamp { fresh: false, ..stamp };
        let words = self.words(guest);
        let change = Change {
            key: "description".into(),
            value: Some(stamp.describe(&words)),
            old: None,
            root_only: false,
            field: "description",
        };
        self.send(
            Stage::Configured,
            vmid,
            guest,
            vec![change],
            format!("finish the configuration of {what}"),
        )
    }

    fn words(&self, guest: &Guest) -> String {
        let current = guest.options.get("description").map(String::as_str).unwrap_or_default();
        self.desired.words.clone().unwrap_or_else(|| Stamp::strip(current))
    }

    fn recreate_findings(&mut self, guest: &Guest) {
        let rootfs = guest.options.get("rootfs").map(String::as_str).unwrap_or_default();
        let storage = rootfs.split(':').next().unwrap_or_default();
        let mut differs = Vec::new();
        if let Some(wanted) = self.desired.rootfs_storage.as_ref().filter(|s| *s != storage) {
            differs.push(format!("rootfs.storage is {storage:?}, wanted {wanted:?}"));
        }
        let unprivileged = guest.options.get("unprivileged").is_some_and(|v| v == "1");
        if let Some(wanted) = self.desired.unprivileged.filter(|w| *w != unprivileged) {
            differs.push(format!("unprivileged is {unprivileged}, wanted {wanted}"));
        }
        if !differs.is_empty() {
            let message = format!(
                "{}: the container keeps what it has; only a new container can change it",
                differs.join("; ")
            );
            self.find_more("RecreateRequired", "CreationOnly", message);
        }
    }

    /// Grows the root filesystem; shrinking is refused (facts D.7).
    fn grow_rootfs(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let what = guest.named(vmid);
        let Some(wanted) = self.desired.rootfs_gib else {
            return Ok(());
        };
        let rootfs = guest.options.get("rootfs").map(String::as_str).unwrap_or_default();
        let size = Properties::of_option("rootfs", rootfs)
            .ok()
            .and_then(|p| units::proxmox_bytes(p.get("size")?));
        let Some(have) = size else {
            return Ok(());
        };
        let size = Sized {
            stage: Stage::Configured,
            field: format!("{}.rootfs.size", self.prefix()),
            what: "the root filesystem",
            wanted,
            have,
            fulfilled: self.status.rootfs_gib,
        };
        if !self.must_grow(&size)? {
            self.facts.rootfs_gib = Some(wanted);
            return Ok(());
        }
        self.unlocked(Stage::Configured, vmid, guest)?;
        let call = ApiCall::put(format!("{}/resize", guest.path(vmid)))
            .param("disk", "rootfs")
            .param("size", format!("{wanted}G"))
            .param("digest", &guest.digest);
        let action = format!("grow the root filesystem of {what} to {wanted} GiB");
        let next = self.run(Stage::Configured, action, vec![], Effect::task(&guest.node, call));
        self.hold(Stage::Configured, next.apart("rootfs"))
    }

    /// Applies changes: as drift where they come from elsewhere, by token first, then by a channel for root's options.
    pub(super) fn apply(&mut self, stage: Stage, vmid: i64, guest: &Guest, changes: Vec<Change>) -> Result<(), Next> {
        let what = guest.named(vmid);
        if changes.is_empty() {
            return Ok(());
        }
        let words = changes.iter().map(Change::words).collect::<Vec<_>>().join("; ");
        if self.status.applied_hash.as_ref() == Some(&self.desired.hash) {
            self.find(
                "DriftDetected",
                true,
                "ChangedOutsidePhoenix",
                format!("found → wanted: {words}"),
            );
            if self.desired.drift == DriftPolicy::Report {
                return Ok(());
            }
        }
        for (name, batch) in self.batches(guest, changes) {
            let words = batch.iter().map(Change::words).collect::<Vec<_>>().join("; ");
            let action = format!("configure {what} ({words})");
            self.send(stage, vmid, guest, batch, action)
                .map_err(|next| next.apart(&name))
                .or_else(|next| self.hold(stage, next))
                .or_else(|next| self.shown(next))?;
        }
        Ok(())
    }

    /// The changes as they are sent: first what the token may set. All of them are one write while the guest is stopped,
    /// when nothing is plugged in, and until Proxmox refuses that; else each interface, mount and disk has its own, so
    /// that one that is refused keeps nothing else back (facts L.1).
    fn batches(&self, guest: &Guest, changes: Vec<Change>) -> Vec<(String, Vec<Change>)> {
        let failed = |name: &str| self.status.failing.iter().flatten().any(|f| f.step == name);
        let whole = !guest.running && !failed(WHOLE);
        let (root, token): (Vec<_>, Vec<_>) = changes.into_iter().partition(|c| c.root_only);
        let mut batches: Vec<(String, Vec<Change>)> = Vec::new();
        for (channel, list) in [("", token), ("root-", root)] {
            for change in list {
                let name = match part(&change.key) {
                    _ if whole => WHOLE,
                    // Options that were refused together are tried one by one.
                    OPTIONS if failed(&format!("{channel}{OPTIONS}")) => &change.key,
                    part => part,
                };
                let name = if name == WHOLE {
                    name.to_string()
                } else {
                    format!("{channel}{name}")
                };
                let same_channel = |list: &[Change]| list.iter().all(|c| c.root_only == change.root_only);
                match batches.iter_mut().find(|(n, list)| *n == name && same_channel(list)) {
                    Some((_, list)) => list.push(change),
                    None => batches.push((name, vec![change])),
                }
            }
        }
        batches
    }

    /// A step that waits for its next attempt is noted, and the rest goes on.
    pub(super) fn hold(&mut self, stage: Stage, next: Next) -> Result<(), Next> {
        let Next::Run(step) = &next else { return Err(next) };
        let Some(waits) = retry::held(step, self.status, self.input.now) else {
            return Err(next);
        };
        self.note_held(stage, waits);
        Ok(())
    }

    fn note_held(&mut self, stage: Stage, waits: Next) {
        if let Next::Wait { reason, message, .. } | Next::Stuck { reason, message } = &waits {
            self.find(stage.as_str(), false, reason, message.clone());
        }
        self.held.push((stage, waits));
    }

    /// Whether steps of a sort wait for their next attempt; it is noted, and the rest goes on.
    pub(super) fn lane_waits(&mut self, stage: Stage, name: &str) -> bool {
        // Failures of other work hold back that work alone.
        let failing = self.status.failing.iter().flatten().any(|f| f.step == name);
        let waits = failing.then(|| retry::held_apart(Some(name), self.status, self.input.now));
        let Some(waits) = waits.flatten() else { return false };
        self.note_held(stage, waits);
        true
    }

    /// What is held back in these stages, if anything.
    pub(super) fn held_in(&self, stages: &[Stage]) -> Result<(), Next> {
        let found = self.held.iter().find(|(stage, _)| stages.contains(stage));
        found.map_or(Ok(()), |(_, waits)| Err(waits.clone()))
    }

    /// One write of several options, under the digest of the read that showed our stamp.
    fn send(
        &mut self,
        stage: Stage,
        vmid: i64,
        guest: &Guest,
        changes: Vec<Change>,
        action: String,
    ) -> Result<(), Next> {
        self.unlocked(stage, vmid, guest)?;
        let root = changes.iter().find(|c| c.root_only).map(|c| c.field);
        let channels = self.desired.channels;
        let set: Vec<(String, String)> = changes
            .iter()
            .filter_map(|c| Some((c.key.clone(), c.value.clone()?)))
            .collect();
        let delete: Vec<String> = changes
            .iter()
            .filter(|c| c.value.is_none())
            .map(|c| c.key.clone())
            .collect();
        if let Some(field) = root
            && !channels.ticket
        {
            if !channels.ssh {
                let message = format!(
                    "{field} can only be set by root@pam: set credentials.rootPasswordSecretRef or ssh of the PhoenixHypervisor"
                );
                return Err(self.stuck(stage, "MissingPrivilege", message));
            }
            let (node, digest) = (guest.node.clone(), guest.digest.clone());
            return Err(self.run(
                stage,
                action,
                vec![],
                Effect::SetOnNode {
                    type_: guest.type_,
                    node,
                    vmid,
                    set,
                    delete,
                    digest,
                },
            ));
        }
        let mut call = ApiCall::put(format!("{}/config", guest.path(vmid)));
        if root.is_some() || !channels.token {
            call = call.as_root();
        }
        for (key, value) in set {
            call = call.param(key, value);
        }
        if !delete.is_empty() {
            call = call.param("delete", delete.join(","));
        }
        Err(self.run(stage, action, vec![], Effect::call(call.param("digest", &guest.digest))))
    }

    /// Raw lines: missing ones are added; those that Phoenix wrote and the spec dropped are removed.
    fn raw_lines(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let what = guest.named(vmid);
        let line = |(key, value): &(String, String)| format!("{key} = {value}");
        let wanted: Vec<String> = self.desired.raw_lines.iter().map(line).collect();
        let present: BTreeSet<String> = guest.raw_lines.iter().map(line).collect();
        let written: BTreeSet<&String> = self.status.lxc_options.iter().flatten().collect();
        let add: Vec<String> = wanted.iter().filter(|l| !present.contains(*l)).cloned().collect();
        // A line that was never read back may be in the file all the same.
        let mut remove: Vec<String> = written
            .iter()
            .filter(|l| !wanted.contains(l))
            .map(|l| l.to_string())
            .collect();
        // A key that holds one value only is replaced, not doubled.
        for (key, value) in &guest.raw_lines {
            let replaced = self
                .desired
                .raw_lines
                .iter()
                .any(|(k, v)| k == key && v != value && k == "lxc.apparmor.profile");
            if replaced {
                remove.push(format!("{key} = {value}"));
            }
        }
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        if !self.desired.channels.ssh {
            return Err(self.needs_ssh(Stage::Configured, "lxcOptions"));
        }
        self.unlocked(Stage::Configured, vmid, guest)?;
        let mut own: Vec<String> = written.into_iter().cloned().collect();
        own.extend(add.iter().filter(|l| !own.contains(l)).cloned().collect::<Vec<_>>());
        let action = format!("write raw lines of {what} (+{} -{})", add.len(), remove.len());
        let (node, digest) = (guest.node.clone(), guest.digest.clone());
        let effect = Effect::RawLines {
            node,
            vmid,
            add,
            remove,
            digest,
        };
        let next = self.run(Stage::Configured, action, vec![Announce::RawLines(own)], effect);
        self.hold(Stage::Configured, next.apart("lxcOptions"))
    }

    /// Pool membership; the row is live (facts C).
    pub(super) fn in_pool(&mut self, vmid: i64) -> Result<(), Next> {
        let what = self.desired.type_.named(vmid);
        let (Some(wanted), Some(row)) = (&self.desired.pool, self.observed.cluster.guests.get(&vmid)) else {
            return Ok(());
        };
        if row.pool.as_ref() == Some(wanted) {
            return Ok(());
        }
        let mut call = ApiCall::put("/pools").param("poolid", wanted).param("vms", vmid);
        // Without Pool.Audit no list tells that it is in a pool, and Proxmox then complains of Pool.Allocate.
        let action = match row.pool {
            Some(_) => format!("put {what} into pool {wanted}"),
            None => {
                format!("put {what} into pool {wanted} (whether it is there is seen with Pool.Audit on /pool/{wanted})")
            }
        };
        if row.pool.is_some() {
            call = call.param("allow-move", 1);
        }
        Err(self.run(Stage::Configured, action, vec![], Effect::call(call).refreshing()))
    }

    /// GPU device nodes.
    pub(super) fn gpus(&mut self, vmid: i64, guest: &Guest) -> Result<(), Next> {
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let changes = gpu_changes(self.desired, guest, fresh);
        self.apply(Stage::GPUReady, vmid, guest, changes)?;
        let gpus = self.desired.gpus.clone().unwrap_or_default();
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

/// A change that only the token's rights are needed for, if the value differs.
pub(super) fn change(field: &'static str, key: &str, guest: &Guest, value: Option<String>) -> Option<Change> {
    let old = guest.options.get(key).cloned();
    (old != value).then(|| Change {
        key: key.into(),
        value,
        old,
        root_only: false,
        field,
    })
}

pub(super) fn option_changes(desired: &Desired, guest: &Guest, fresh: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, value) in &desired.options {
        let field: &'static str = match key.as_str() {
            "protection" => "protection",
            "onboot" => "boot.autostart",
            "nameserver" | "searchdomain" => "dns",
            "affinity" => "cpu.affinity",
            "hookscript" => "hookscript",
            _ if desired.type_ == GuestType::Qemu => "cpu, memory, hostname, bios, cloudInit",
            _ => "cores, memory, swap, hostname, timezone, cpuLimit, cpuUnits",
        };
        let same = match (guest.options.get(key), key.as_str()) {
            (old, _) if desired.type_ == GuestType::Qemu => same_option(key, old.map(String::as_str), value),
            (Some(old), "nameserver") => words_of(old) == words_of(value),
            (Some(old), "cpulimit") => old.parse::<f64>().ok() == value.parse::<f64>().ok(),
            (Some(old), _) => old.trim() == value,
            // Flags that are off by default are not stored.
            (None, "onboot" | "protection") => value == "0",
            (None, _) => false,
        };
        if !same {
            let root_only = ["affinity", "hookscript"].contains(&key.as_str());
            let changed = change(field, key, guest, Some(encoded(key, value)));
            changes.extend(changed.map(|c| Change { root_only, ..c }));
        }
    }
    changes.extend(startup_change(desired, guest));
    changes.extend(tag_change(desired, guest, fresh));
    changes.extend(description_change(desired, guest));
    if fresh {
        for (key, cleared) in COPIED {
            let wanted = desired.options.contains_key(*key) || (*key == "startup" && !desired.startup.is_empty());
            if !wanted && guest.options.contains_key(*key) {
                let value = cleared.map(str::to_string);
                changes.extend(change("source.templateRef", key, guest, value).map(|c| Change {
                    root_only: *key == "hookscript",
                    ..c
                }));
            }
        }
    }
    changes
}

pub(super) fn words_of(text: &str) -> Vec<&str> {
    text.split([' ', ',', ';']).filter(|w| !w.is_empty()).collect()
}

fn startup_change(desired: &Desired, guest: &Guest) -> Option<Change> {
    if desired.startup.is_empty() {
        return None;
    }
    let old = guest
        .options
        .get("startup")
        .and_then(|text| Properties::of_option("startup", text).ok());
    let fresh = guest.stamp().is_some_and(|s| s.fresh);
    let mut wanted = old
        .clone()
        .filter(|_| !fresh)
        .unwrap_or_else(|| Properties::new(Some("order")));
    for (key, value) in &desired.startup {
        wanted.set(key, value);
    }
    if old.as_ref() == Some(&wanted) {
        return None;
    }
    // Proxmox reads `order=` by name as well as bare; by name it is what the GUI writes.
    let text = wanted
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(",");
    change("boot", "startup", guest, Some(text))
}

fn tag_change(desired: &Desired, guest: &Guest, fresh: bool) -> Option<Change> {
    let old: BTreeSet<String> = guest
        .options
        .get("tags")
        .map(|t| {
            t.split([';', ',', ' '])
                .filter(|t| !t.is_empty())
                .map(str::to_string)
                .collect()
        })
        .unwrap_or_default();
    let mut wanted: BTreeSet<String> = match &desired.tags {
        Some(tags) => tags.iter().cloned().collect(),
        None if fresh => BTreeSet::new(),
        None => old.clone(),
    };
    wanted.insert(TAG.into());
    let text = wanted.iter().cloned().collect::<Vec<_>>().join(";");
    (wanted != old)
        .then(|| change("tags", "tags", guest, Some(text)))
        .flatten()
}

/// The user's words above the stamp; the stamp itself is only written with care elsewhere.
fn description_change(desired: &Desired, guest: &Guest) -> Option<Change> {
    let wanted = desired.words.as_ref()?;
    let current = guest.options.get("description").map(String::as_str).unwrap_or_default();
    let stamp = guest.stamp()?;
    (Stamp::strip(current) != Stamp::strip(wanted))
        .then(|| change("description", "description", guest, Some(stamp.describe(wanted))))
        .flatten()
}

fn parse_net(text: &str) -> Properties {
    Properties::of_option("net0", text).unwrap_or_default()
}

fn network_changes(desired: &Desired, guest: &Guest, fresh: bool) -> Vec<Change> {
    let existing: BTreeMap<u32, Properties> = guest
        .numbered("net")
        .into_iter()
        .map(|(i, text)| (i, parse_net(text)))
        .collect();
    let Some(wanted) = &desired.network else {
        return if fresh {
            cleared_addresses(guest, &existing)
        } else {
            Vec::new()
        };
    };
    let mut changes = Vec::new();
    let mut used: BTreeSet<u32> = BTreeSet::new();
    for net in wanted {
        let found = existing
            .iter()
            .find(|(_, p)| p.get("name") == Some(&net.name))
            .map(|(i, p)| (*i, p));
        let index = found
            .map(|(i, _)| i)
            .or_else(|| (0..32).find(|i| !existing.contains_key(i) && !used.contains(i)));
        let Some(index) = index else { continue };
        used.insert(index);
        let target = wanted_net(net, found.map(|(_, p)| p), fresh);
        if found.is_none_or(|(_, p)| *p != target) {
            changes.extend(change(
                "network",
                &format!("net{index}"),
                guest,
                Some(target.to_string()),
            ));
        }
    }
    for index in existing.keys().filter(|i| !used.contains(i)) {
        changes.extend(change("network", &format!("net{index}"), guest, None));
    }
    changes
}

/// The interface with the managed properties laid over what it has; a fresh clone keeps only its MAC.
fn wanted_net(net: &WantedNet, existing: Option<&Properties>, fresh: bool) -> Properties {
    let mut target = match existing {
        Some(existing) if fresh => {
            let kept = ["hwaddr", "type"]
                .into_iter()
                .filter_map(|k| Some((k, existing.get(k)?)));
            kept.fold(Properties::new(None), |p, (k, v)| p.with(k, v))
        }
        Some(existing) => existing.clone(),
        None => Properties::new(None).with("type", "veth"),
    };
    target.set("name", &net.name);
    for (key, value) in &net.properties {
        target.set(key, value);
        // A gateway makes sense with a static address only (facts D.1).
        let gateway = match key.as_str() {
            "ip" => "gw",
            "ip6" => "gw6",
            _ => continue,
        };
        if !value.contains('/') && !net.properties.contains_key(gateway) {
            target.remove(gateway);
        }
    }
    target
}

/// Static addresses that a clone copied and that nobody asked for.
fn cleared_addresses(guest: &Guest, existing: &BTreeMap<u32, Properties>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (index, properties) in existing {
        let mut cleared = properties.clone();
        for key in ["ip", "gw", "ip6", "gw6"] {
            cleared.remove(key);
        }
        if cleared != *properties {
            changes.extend(change(
                "source.templateRef",
                &format!("net{index}"),
                guest,
                Some(cleared.to_string()),
            ));
        }
    }
    changes
}

fn flag_changes(desired: &Desired, guest: &Guest) -> Vec<Change> {
    let old = guest
        .options
        .get("features")
        .and_then(|t| Properties::parse(t, None).ok())
        .unwrap_or_default();
    let mut wanted = old.clone();
    let mut differing = Vec::new();
    for (key, value) in &desired.flags {
        let same = match old.get(key) {
            Some(have) if key == "mount" => have.split(';').collect::<BTreeSet<_>>() == value.split(';').collect(),
            Some(have) => have == value,
            None => value == "0" || value.is_empty(),
        };
        if same {
            continue;
        }
        differing.push(key.as_str());
        if value == "0" || value.is_empty() {
            wanted.remove(key);
        } else {
            wanted.set(key, value);
        }
    }
    if differing.is_empty() {
        return Vec::new();
    }
    let privileged = guest.options.get("unprivileged").is_none_or(|v| v != "1");
    let root_only = privileged || differing != ["nesting"];
    let value = (!wanted.is_empty()).then(|| wanted.to_string());
    change("capabilities", "features", guest, value)
        .map(|c| Change { root_only, ..c })
        .into_iter()
        .collect()
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

fn gpu_changes(desired: &Desired, guest: &Guest, fresh: bool) -> Vec<Change> {
    let existing: BTreeMap<u32, Properties> = guest
        .numbered("dev")
        .into_iter()
        .filter_map(|(i, text)| Some((i, Properties::of_option("dev0", text).ok()?)))
        .collect();
    if desired.gpus.is_none() && !fresh {
        return Vec::new();
    }
    let devices = gpu_devices(desired.gpus.as_deref().unwrap_or_default());
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
