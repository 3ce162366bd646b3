//! Differences between what a guest has and what is wanted: told as drift, put together to writes, and sent by the
//! channel that may set them (facts D.2).

use crate::crd::DriftPolicy;
use crate::observed::Guest;
use crate::plan::NodeWork;
use crate::pve::ApiCall;
use crate::pve::property::stem;
use crate::pve::units;
use crate::reason::Reason;

use super::planner::Planner;
use super::{Effect, Next, Stage, retry};

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
pub(crate) struct Change {
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
    fn describe(&self) -> String {
        if ["cipassword", "sshkeys"].contains(&self.key.as_str()) {
            return format!("{}: changed", self.key);
        }
        if self.key == "description" {
            return "description: changed".into();
        }
        let show = |v: &Option<String>| {
            let words = v.as_deref().map(|v| in_words(&self.key, v));
            words.map_or("(none)".to_string(), |v| shortened(&v))
        };
        format!("{}: {} → {}", self.key, show(&self.old), show(&self.value))
    }
}

/// A value as people write it: Proxmox counts memory in MiB.
fn in_words(key: &str, value: &str) -> String {
    if !["memory", "swap", "balloon"].contains(&key) {
        return value.to_string();
    }
    let mib = value.strip_prefix("current=").unwrap_or(value).parse();
    mib.map_or_else(|_| value.to_string(), units::mib_words)
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
    let stem = stem(key);
    match stem {
        "dev" | "hostpci" | "usb" if stem != key => DEVICES,
        "net" | "mp" | "scsi" | "virtio" | "sata" | "ide" if stem != key => key,
        _ => OPTIONS,
    }
}

impl Planner<'_> {
    /// Applies changes: as drift where they come from elsewhere, by token first, then by a channel for root's options.
    pub(crate) fn apply(&mut self, stage: Stage, guest: &Guest, changes: Vec<Change>) -> Result<(), Next> {
        let what = guest.named();
        let changes = self.without_taken_addresses(stage, changes);
        if changes.is_empty() {
            return Ok(());
        }
        let words = changes.iter().map(Change::describe).collect::<Vec<_>>().join("; ");
        if self.status.applied_hash.as_ref() == Some(&self.desired.prints.applied) {
            self.condition(
                "DriftDetected",
                true,
                Reason::ChangedOutsidePhoenix,
                format!("found → wanted: {words}"),
            );
            self.facts.drift.extend(changes.iter().map(|change| change.field));
            if self.desired.life.drift == DriftPolicy::Report {
                return Ok(());
            }
        }
        for (name, batch) in self.batches(guest, changes) {
            let words = batch.iter().map(Change::describe).collect::<Vec<_>>().join("; ");
            let action = format!("configure {what} ({words})");
            self.send(stage, guest, batch, action)
                .map_err(|next| next.apart(&name))
                .or_else(|next| self.hold(stage, next))?;
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
    pub(crate) fn hold(&mut self, stage: Stage, next: Next) -> Result<(), Next> {
        let Next::Run(step) = &next else { return Err(next) };
        let Some(waits) = retry::held(step, self.status, self.input.now) else {
            return Err(next);
        };
        self.note_held(stage, waits);
        Ok(())
    }

    pub(crate) fn note_held(&mut self, stage: Stage, waits: Next) {
        if let Next::Wait { cause, .. } | Next::Stuck(cause) = &waits {
            self.condition(stage.as_str(), false, cause.reason, cause.message.clone());
        }
        self.held.push((stage, waits));
    }

    /// Whether steps of a sort wait for their next attempt; it is noted, and the rest goes on.
    pub(crate) fn lane_waits(&mut self, stage: Stage, name: &str) -> bool {
        // Failures of other work hold back that work alone.
        let failing = self.status.failing.iter().flatten().any(|f| f.step == name);
        let waits = failing.then(|| retry::held_apart(Some(name), self.status, self.input.now));
        let Some(waits) = waits.flatten() else { return false };
        self.note_held(stage, waits);
        true
    }

    /// What is held back in these stages, if anything.
    pub(crate) fn held_in(&self, stages: &[Stage]) -> Result<(), Next> {
        let found = self.held.iter().find(|(stage, _)| stages.contains(stage));
        found.map_or(Ok(()), |(_, waits)| Err(waits.clone()))
    }

    /// One write of several options, under the digest of the read that showed our stamp.
    pub(crate) fn send(
        &mut self,
        stage: Stage,
        guest: &Guest,
        changes: Vec<Change>,
        action: String,
    ) -> Result<(), Next> {
        self.unlocked(stage, guest)?;
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
                return Err(self.stuck(stage, Reason::MissingPrivilege, message));
            }
            let work = NodeWork::SetOptions {
                at: guest.at.clone(),
                set,
                delete,
                digest: guest.digest.clone(),
            };
            let node = guest.at.node.clone();
            return Err(self.run(stage, action, vec![], Effect::OnNode { node, work }));
        }
        let mut call = ApiCall::put(format!("{}/config", guest.at.path()));
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
}

/// A change that only the token's rights are needed for, if the value differs.
pub(crate) fn change(field: &'static str, key: &str, guest: &Guest, value: Option<String>) -> Option<Change> {
    let old = guest.options.get(key).cloned();
    (old != value).then(|| Change {
        key: key.into(),
        value,
        old,
        root_only: false,
        field,
    })
}
