//! Plan, outcome and previous status to new status. Pure; a status that says the same as before is equal to it, so
//! that nothing is written.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::{GuestStatus, RevisionStatus, TaskStatus, VolumeStatus};
use crate::plan::{Announce, Effect, Finding, Next, NodeWork, Plan, Stage, Step, retry};
use crate::reason::{Cause, Reason};

pub use crate::plan::retry::time;

/// Conditions that are there only while they are True.
const TRANSIENT: &[&str] = &[
    "DriftDetected",
    "RestartRequired",
    "RecreateRequired",
    "VolumeNotRetained",
    "VolumeUnclaimed",
    "LargerThanSpec",
    "FeatureOutdated",
    "TemplateOutdated",
    "OldRevisionKept",
    "ImageNotCompared",
];

/// What came of a step that nothing else was in the way of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is done.
    Done,
    /// A Proxmox task works on it.
    Started(String),
    /// It failed, or nobody knows (then the next look tells).
    Failed(Cause),
}

/// Sets a condition; its transition time changes only with its status.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: &str,
    reason: Reason,
    message: &str,
    generation: i64,
    now: i64,
) {
    let message: String = message.chars().take(4000).collect();
    let transition = match conditions.iter().find(|c| c.type_ == type_) {
        Some(old) if old.status == status => old.last_transition_time.clone(),
        _ => time(now),
    };
    let new = Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: Some(generation),
        last_transition_time: transition,
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Takes a condition away.
pub fn clear_condition(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|c| c.type_ != type_);
}

/// What is written before a step's effect leaves (promise 1).
pub fn announced(previous: &GuestStatus, announce: &[Announce]) -> GuestStatus {
    let mut status = previous.clone();
    for entry in announce {
        match entry {
            Announce::Vmid { vmid, node, adopted } => {
                status.vmid = Some((*vmid).into());
                status.node = Some(node.clone());
                status.adopted = adopted.then_some(true);
                status.claim = None;
            }
            Announce::Claim(digest) => status.claim = Some(digest.clone()),
            Announce::Restamped(value) => status.restamped = Some(value.clone()),
            Announce::Owned(restamp) => {
                status.claim = None;
                status.restamped.clone_from(restamp);
            }
            Announce::NoVmid => {
                status.vmid = None;
                status.create_sent = None;
                status.adopted = None;
                status.claim = None;
                status.node = None;
                status.last_error = None;
            }
            Announce::CreateSent => status.create_sent = Some(true),
            Announce::Superseded(old) => superseded(&mut status, old),
            Announce::RevisionGone(vmid) => {
                if let Some(list) = &mut status.revisions {
                    list.retain(|r| r.vmid() != Some(*vmid));
                }
                status.revisions = status.revisions.take().filter(|list| !list.is_empty());
            }
            Announce::TakeUpRevision => take_up(&mut status),
            Announce::HealthRestart(restarts) => status.restarts = Some(restarts.clone()),
            Announce::Restart(value) => status.restarted_at = Some(value.clone()),
            Announce::CloudInitWritten(pid) => status.cloud_init_unread = Some(*pid),
            Announce::Snippet(volid) => status.snippet.clone_from(volid),
            Announce::RawLines(lines) => status.lxc_options = Some(lines.clone()),
            Announce::Volume(new) => {
                let volumes = status.volumes.get_or_insert_default();
                match volumes.iter_mut().find(|v| v.name == new.name) {
                    Some(old) if old.volid.is_none() || old.volid == new.volid => old.clone_from(new),
                    // The name is that of another volume now; the old one may still be the guest's.
                    Some(old) if new.volid.is_some() => {
                        let volid = old.volid.clone().unwrap_or_default();
                        old.name = format!("{} ({volid})", old.name);
                        volumes.push(new.clone());
                    }
                    Some(_) => {}
                    None => volumes.push(new.clone()),
                }
            }
            Announce::VolumeNamed { volid, name } => {
                let volumes = status.volumes.iter_mut().flatten();
                let named = volumes.filter(|v| v.volid.as_ref() == Some(volid));
                named.for_each(|v| v.name.clone_from(name));
            }
        }
    }
    status
}

/// Keeps the guest in the history; if it was the object's own, the object has none for now.
fn superseded(status: &mut GuestStatus, old: &RevisionStatus) {
    let list = status.revisions.get_or_insert_default();
    if !list.iter().any(|r| r.vmid == old.vmid) {
        list.push(old.clone());
    }
    if status.vmid != Some(old.vmid) {
        return;
    }
    (status.vmid, status.node, status.create_sent, status.adopted) = (None, None, None, None);
    (status.applied_hash, status.cleaned, status.snippet, status.image) = (None, None, None, None);
    status.claim = None;
    (status.features, status.application, status.tests, status.vllm) = (None, None, None, None);
    (status.volumes, status.lxc_options, status.task) = (None, None, None);
    status.managed = None;
    status.rootfs_gib = None;
}

/// Takes a claim back whose call was refused for the moment: the guest is as it was, and is looked at anew. `None` where
/// the step claims nothing.
pub fn unclaimed(previous: &GuestStatus, step: &Step) -> Option<GuestStatus> {
    let announces = |of: fn(&Announce) -> bool| step.announce.iter().any(of);
    if !announces(|a| matches!(a, Announce::Claim(_))) {
        return None;
    }
    let mut status = previous.clone();
    if announces(|a| matches!(a, Announce::Vmid { .. })) {
        status = announced(&status, &[Announce::NoVmid]);
    }
    if announces(|a| matches!(a, Announce::Restamped(_))) {
        status.restamped = None;
    }
    status.claim = None;
    Some(status)
}

fn take_up(status: &mut GuestStatus) {
    let last = status.revisions.as_mut().and_then(Vec::pop);
    status.revisions = status.revisions.take().filter(|list| !list.is_empty());
    let Some(last) = last else { return };
    status.vmid = Some(last.vmid);
    status.node = last.node;
    status.snippet = last.snippet;
    status.create_sent = Some(true);
    // What it was built with may go with it.
    status.volumes = last.volumes.map(|volids| {
        let built = |volid: String| VolumeStatus {
            name: volid.clone(),
            volid: Some(volid),
            reclaim_policy: Some("Delete".into()),
            ..VolumeStatus::default()
        };
        volids.into_iter().map(built).collect()
    });
}

/// The status after a step. `scale` shortens the pause after a failure, for tests whose time is faster.
pub fn after_step(previous: &GuestStatus, step: &Step, ended: &Ended, now: i64, scale: f64) -> GuestStatus {
    let mut status = previous.clone();
    match ended {
        Ended::Done => {
            retry::succeeded(&mut status, step.apart.as_deref());
            if let Effect::OnNode {
                work: NodeWork::RawLines { add, remove, .. },
                ..
            } = &step.effect
            {
                let lines = status.lxc_options.take().unwrap_or_default();
                let left: Vec<String> = lines
                    .into_iter()
                    .filter(|l| !remove.contains(l) || add.contains(l))
                    .collect();
                status.lxc_options = Some(left).filter(|l| !l.is_empty());
            }
        }
        Ended::Started(upid) => {
            status.task = Some(TaskStatus {
                upid: upid.clone(),
                action: step.action.clone(),
                apart: step.apart.clone(),
            });
        }
        Ended::Failed(failure) => {
            retry::failed(&mut status, step.apart.as_deref(), &step.action, failure, now, scale);
        }
    }
    status
}

/// The status after a task ended.
pub fn after_task(previous: &GuestStatus, failure: Option<&Cause>, now: i64, scale: f64) -> GuestStatus {
    let mut status = previous.clone();
    let task = status.task.take().unwrap_or_default();
    match failure {
        None => retry::succeeded(&mut status, task.apart.as_deref()),
        Some(failure) => retry::failed(&mut status, task.apart.as_deref(), &task.action, failure, now, scale),
    }
    status
}

/// The status after a panic in the work on the object: it is tried again, later each time.
pub fn panicked(previous: &GuestStatus, generation: i64, message: &str, now: i64, scale: f64) -> GuestStatus {
    let mut status = previous.clone();
    status.observed_generation = Some(generation);
    let message: String = message.chars().take(2000).collect();
    let failure = Cause::new(Reason::InternalError, message.clone());
    retry::failed(&mut status, None, "go on", &failure, now, scale);
    for (type_, value) in [("Ready", "Unknown"), ("Reconciling", "True")] {
        set_condition(
            &mut status.conditions,
            type_,
            value,
            Reason::InternalError,
            &message,
            generation,
            now,
        );
    }
    clear_condition(&mut status.conditions, "Stalled");
    status.conditions.sort_by_key(|c| order(&c.type_));
    status.phase = Some("Waiting".into());
    status.message = Some(message);
    status
}

/// The status that a plan leads to.
pub fn planned(previous: &GuestStatus, generation: i64, plan: &Plan, hash: Option<&str>, now: i64) -> GuestStatus {
    let mut status = previous.clone();
    if status.observed_generation != Some(generation) {
        status.observed_generation = Some(generation);
        // A changed spec is tried at once.
        status.next_retry = None;
    }
    facts(&mut status, plan);
    remember(&mut status, plan);
    for finding in &plan.findings {
        condition(&mut status, finding, generation, now);
    }
    let found = |name: &str| plan.findings.iter().any(|f| f.condition == name);
    if plan.next == Next::Done && !plan.partial {
        for name in TRANSIENT.iter().filter(|name| !found(name)) {
            clear_condition(&mut status.conditions, name);
        }
        status.applied_hash = hash.map(str::to_string);
        retry::all_well(&mut status);
    }
    if !matches!(plan.next, Next::Look(_)) {
        summary(&mut status, plan, generation, now);
    }
    status.conditions.sort_by_key(|c| order(&c.type_));
    status
}

/// Remembers what the spec sets, before it is set; what the spec dropped is forgotten once it is off the guest.
fn remember(status: &mut GuestStatus, plan: &Plan) {
    let Some(now) = &plan.facts.managed else { return };
    let mut names = now.clone();
    match plan.next {
        Next::Run(_) => names.extend(status.managed.take().into_iter().flatten()),
        Next::Done if !plan.partial => {}
        _ => return,
    }
    status.managed = Some(names.into_iter().collect::<Vec<_>>()).filter(|names| !names.is_empty());
}

/// The status with what an earlier release applied in today's words. A hash of another version says nothing; but an
/// object that is Ready at its generation has its spec applied, and what differs on Proxmox is drift.
pub fn upgraded<'a>(status: &'a GuestStatus, generation: i64, hash: &str) -> Cow<'a, GuestStatus> {
    let version = |hash: &str| hash.split_once('-').map(|(version, _)| version.to_string());
    let ready = |c: &&Condition| c.type_ == "Ready" && c.status == "True";
    let ready = status.conditions.iter().find(ready);
    match &status.applied_hash {
        Some(old)
            if version(old) != version(hash) && ready.is_some_and(|c| c.observed_generation == Some(generation)) =>
        {
            Cow::Owned(GuestStatus {
                applied_hash: Some(hash.to_string()),
                ..status.clone()
            })
        }
        _ => Cow::Borrowed(status),
    }
}

fn condition(status: &mut GuestStatus, finding: &Finding, generation: i64, now: i64) {
    let value = match finding.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    set_condition(
        &mut status.conditions,
        finding.condition,
        value,
        finding.cause.reason,
        &finding.cause.message,
        generation,
        now,
    );
}

fn facts(status: &mut GuestStatus, plan: &Plan) {
    let facts = &plan.facts;
    fn keep<T: Clone>(to: &mut Option<T>, from: &Option<T>) {
        if from.is_some() {
            to.clone_from(from);
        }
    }
    keep(&mut status.node, &facts.node);
    keep(&mut status.source, &facts.source);
    keep(&mut status.image, &facts.image);
    keep(&mut status.revision, &facts.revision);
    keep(&mut status.template_revision, &facts.template_revision);
    keep(&mut status.features, &facts.features);
    keep(&mut status.application, &facts.application);
    keep(&mut status.vllm, &facts.vllm);
    keep(&mut status.tests, &facts.tests);
    keep(&mut status.cleaned, &facts.cleaned);
    keep(&mut status.health, &facts.health);
    keep(&mut status.ip, &facts.ip);
    keep(&mut status.rootfs_gib, &facts.rootfs_gib);
    keep(&mut status.volumes, &facts.volumes);
    if !plan.partial && plan.next == Next::Done {
        status.gpus.clone_from(&facts.gpus);
        status.ip.clone_from(&facts.ip);
        status.volumes.clone_from(&facts.volumes);
    }
}

fn order(type_: &str) -> usize {
    let first = ["Ready", "Reconciling", "Stalled"];
    if let Some(i) = first.iter().position(|t| *t == type_) {
        return i;
    }
    Stage::ALL
        .iter()
        .position(|s| s.as_str() == type_)
        .map_or(100, |i| i + first.len())
}

/// Ready, Reconciling, Stalled, phase and message.
fn summary(status: &mut GuestStatus, plan: &Plan, generation: i64, now: i64) {
    let (ready, Cause { reason, message }) = match &plan.next {
        Next::Done => ("True", Cause::new(Reason::Ready, "")),
        Next::Wait { cause, .. } if cause.reason.hides_the_guest() => ("Unknown", cause.clone()),
        Next::Wait { cause, .. } | Next::Stuck(cause) => ("False", cause.clone()),
        Next::Run(step) => ("False", Cause::new(Reason::InProgress, &step.action)),
        Next::Look(_) => return,
    };
    let conditions = &mut status.conditions;
    set_condition(conditions, "Ready", ready, reason, &message, generation, now);
    for (name, on) in [
        ("Stalled", matches!(plan.next, Next::Stuck(_))),
        ("Reconciling", matches!(plan.next, Next::Wait { .. } | Next::Run(_))),
    ] {
        if on {
            set_condition(conditions, name, "True", reason, &message, generation, now);
        } else {
            clear_condition(conditions, name);
        }
    }
    status.phase = Some(phase(plan));
    status.message = (!message.is_empty()).then_some(message);
}

fn phase(plan: &Plan) -> String {
    let deleting = plan.findings.iter().any(|f| f.cause.reason == Reason::Deleting);
    let at = plan
        .findings
        .iter()
        .rev()
        .find(|f| f.holds == Some(false))
        .map(|f| f.condition);
    let word = match (&plan.next, at) {
        _ if deleting => "Deleting",
        (Next::Done, _) if plan.facts.stopped => "Stopped",
        (Next::Done, _) => "Ready",
        (Next::Stuck(_), _) => "Stalled",
        (_, Some("DependenciesReady")) => "Waiting",
        (_, Some("Created")) => "Creating",
        (_, Some("Configured" | "VolumesReady" | "GPUReady")) => "Configuring",
        (_, Some("Running")) => "Starting",
        (_, Some("FeaturesApplied" | "ApplicationReady" | "TestsPassed")) => "Installing",
        (Next::Wait { cause, .. }, Some("Healthy")) if cause.reason == Reason::Starting => "Starting",
        (_, Some("Healthy")) => "Unhealthy",
        (_, Some("SnapshotReady")) => "Sealing",
        _ => "Waiting",
    };
    word.to_string()
}
