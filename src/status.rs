//! Plan, outcome and previous status to new status. Pure; a status that says the same as before is equal to it, so
//! that nothing is written.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::{GuestStatus, TaskStatus};
use crate::plan::fits::MAY_NOT_FIT;
use crate::plan::{Announce, Effect, Finding, Next, NodeWork, Plan, Stage, Step, retry};
use crate::reason::{Cause, Reason};

pub use crate::plan::announced::{announced, unclaimed};
pub use crate::plan::retry::time;

/// Conditions that are there only while they are True.
pub(crate) const TRANSIENT: &[&str] = &[
    "AddressConflict",
    "DriftDetected",
    "RestartRequired",
    "RecreateRequired",
    "VolumeNotRetained",
    "VolumeUnclaimed",
    "LargerThanSpec",
    "FeatureOutdated",
    "TemplateOutdated",
    "GPUReordered",
    MAY_NOT_FIT,
    "OldRevisionKept",
    "ImageNotCompared",
];

/// Whether a condition claims what nothing proves: that GPUs work is told after a CUDA program said so. What is wrong is
/// told always.
fn is_unproven(finding: &Finding) -> bool {
    finding.condition == Stage::GPUReady.as_str() && finding.cause.reason != Reason::Proven
}

/// What came of a step that nothing else was in the way of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is done.
    Done,
    /// A Proxmox task works on it, of which an event with this reason tells when it has succeeded.
    Started(String, Option<Reason>),
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
        Ended::Started(upid, event) => {
            status.task = Some(TaskStatus {
                upid: upid.clone(),
                action: step.action.clone(),
                apart: step.apart.clone(),
                event: event.map(String::from),
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
    let absent = |name: &str| plan.facts.absent.iter().any(|s| s.as_str() == name);
    let claims = |f: &Finding| f.holds == Some(true) && (is_unproven(f) || absent(f.condition));
    // A stage that has nothing to do may yet be where something else is waited for, but it never holds.
    let told: Vec<&Finding> = plan.findings.iter().filter(|f| !claims(f)).collect();
    for (at, finding) in told.iter().enumerate() {
        // What one plan says first and takes back was never so: it is no transition.
        if told[at + 1..].iter().all(|later| later.condition != finding.condition) {
            condition(&mut status, finding, generation, now);
        }
    }
    let found = |name: &str| told.iter().any(|f| f.condition == name);
    let gone = |name: &str| absent(name) || plan.findings.iter().any(|f| f.condition == name && claims(f));
    status.conditions.retain(|c| !gone(&c.type_) || found(&c.type_));
    if plan.next == Next::Done && !plan.partial {
        for name in TRANSIENT.iter().filter(|name| !found(name)) {
            clear_condition(&mut status.conditions, name);
        }
        status.applied_hash = hash.map(str::to_string);
        retry::all_well(&mut status);
    }
    if !matches!(plan.next, Next::Look(_)) {
        missing(&mut status, &plan.next, now);
        summary(&mut status, plan, generation, now);
        hidden(&mut status, plan, generation, now);
        paused(&mut status, plan, generation, now);
    }
    status.conditions.sort_by_key(|c| order(&c.type_));
    status
}

/// Who looks at a paused object sees so first, whatever else is true of it.
fn paused(status: &mut GuestStatus, plan: &Plan, generation: i64, now: i64) {
    let Some(by) = &plan.facts.paused else {
        clear_condition(&mut status.conditions, "Paused");
        return;
    };
    let conditions = &mut status.conditions;
    set_condition(conditions, "Paused", "True", Reason::Paused, by, generation, now);
    match status.phase.as_deref() {
        Some("Deleting" | "Recreating") => {}
        _ => status.phase = Some("Paused".into()),
    }
    status.message = match status.message.take() {
        Some(message) if !message.starts_with(by) => Some(format!("{by}; {message}")),
        Some(message) => Some(message),
        None => Some(by.clone()),
    };
}

/// What is known of the Service that the guest is reached by; it decides about nothing else.
pub fn exposed(status: &mut GuestStatus, told: Option<(bool, &Cause)>, generation: i64, now: i64) {
    let conditions = &mut status.conditions;
    match told {
        None => clear_condition(conditions, "Exposed"),
        Some((holds, cause)) => {
            let value = if holds { "True" } else { "False" };
            set_condition(
                conditions,
                "Exposed",
                value,
                cause.reason,
                &cause.message,
                generation,
                now,
            );
            conditions.sort_by_key(|c| order(&c.type_));
        }
    }
}

/// Since when something that the spec names does not exist.
fn missing(status: &mut GuestStatus, next: &Next, now: i64) {
    let missing = matches!(next, Next::Wait { cause, .. } | Next::Stuck(cause) if cause.reason.may_be_created());
    let since = status.missing_since.take();
    status.missing_since = missing.then(|| since.unwrap_or_else(|| time(now)));
}

/// Remembers what the spec sets, before it is set: from the call on that makes the guest, or the first that configures
/// it. What the spec dropped is forgotten once it is off the guest, whatever else is still waited for.
fn remember(status: &mut GuestStatus, plan: &Plan) {
    let Some(now) = plan.facts.managed.as_ref().filter(|_| !plan.partial) else {
        return;
    };
    const PARTS: [Stage; 3] = [Stage::Configured, Stage::VolumesReady, Stage::GPUReady];
    let last = |stage: Stage| {
        let mut of_stage = plan.findings.iter().rev();
        of_stage.find(|f| f.condition == stage.as_str()).and_then(|f| f.holds)
    };
    let applied = last(Stage::Configured) == Some(true) && PARTS.iter().all(|stage| last(*stage) != Some(false));
    let mut names = now.clone();
    match &plan.next {
        Next::Look(_) => return,
        Next::Run(step) if PARTS.contains(&step.stage) || step.announce.contains(&Announce::CreateSent) => {
            names.extend(status.managed.take().into_iter().flatten());
        }
        _ if applied => {}
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

/// What cannot be seen is not known: neither that the guest runs nor that it works.
fn hidden(status: &mut GuestStatus, plan: &Plan, generation: i64, now: i64) {
    let Next::Wait { cause, .. } = &plan.next else { return };
    if !hides(status, cause) {
        return;
    }
    for name in [Stage::Running.as_str(), Stage::Healthy.as_str()] {
        let conditions = &mut status.conditions;
        if conditions.iter().any(|c| c.type_ == name && c.status == "True") {
            set_condition(
                conditions,
                name,
                "Unknown",
                cause.reason,
                &cause.message,
                generation,
                now,
            );
        }
    }
}

/// Whether a guest that was made is hidden by this; one that is still to be made has nothing to hide.
fn hides(status: &GuestStatus, cause: &Cause) -> bool {
    cause.reason.hides_the_guest() && (cause.reason != Reason::NodeOffline || status.was_made())
}

fn condition(status: &mut GuestStatus, finding: &Finding, generation: i64, now: i64) {
    let value = match finding.holds {
        Some(true) => "True",
        Some(false) if !hides(status, &finding.cause) => "False",
        _ => "Unknown",
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
    keep(&mut status.gpu_devices, &facts.gpu_devices);
    keep(&mut status.gpu_proof, &facts.gpu_proof);
    keep(&mut status.image, &facts.image);
    keep(&mut status.revision, &facts.revision);
    keep(&mut status.template_revision, &facts.template_revision);
    keep(&mut status.features, &facts.features);
    keep(&mut status.application, &facts.application);
    keep(&mut status.vllm, &facts.vllm);
    keep(&mut status.model_server, &facts.model_server);
    // A guest has one: that of an earlier block is stopped by the script of the new one.
    match (&facts.vllm, &facts.model_server) {
        (Some(_), _) => status.model_server = None,
        (_, Some(_)) => status.vllm = None,
        _ => {}
    }
    keep(&mut status.tests, &facts.tests);
    keep(&mut status.cleaned, &facts.cleaned);
    keep(&mut status.health, &facts.health);
    keep(&mut status.started, &facts.started);
    keep(&mut status.ip, &facts.ip);
    if let Some(size) = facts.rootfs_size {
        (status.rootfs_gib, status.rootfs_size) = size.in_status();
    }
    keep(&mut status.volumes, &facts.volumes);
    if facts.restarted {
        status.restart_from = None;
    }
    if !plan.partial && plan.next == Next::Done {
        status.gpus.clone_from(&facts.gpus);
        status.gpu_devices.clone_from(&facts.gpu_devices);
        status.gpu_proof.clone_from(&facts.gpu_proof);
        status.health.clone_from(&facts.health);
        status.started.clone_from(&facts.started);
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
        Next::Wait { cause, .. } if hides(status, cause) => ("Unknown", cause.clone()),
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
    let pending = status
        .conditions
        .iter()
        .find(|c| c.type_ == "RestartRequired" && c.status == "True");
    let message = match pending.filter(|_| plan.next == Next::Done) {
        Some(pending) => format!("{}: {}", pending.type_, pending.message),
        None => message,
    };
    status.phase = Some(phase(status, plan));
    status.message = (!message.is_empty()).then_some(message);
}

fn phase(status: &GuestStatus, plan: &Plan) -> String {
    let goes = |reason| plan.findings.iter().any(|f| f.cause.reason == reason);
    let at = plan
        .findings
        .iter()
        .rev()
        .filter(|f| ![Reason::Stopped, Reason::TestFailed].contains(&f.cause.reason))
        .find(|f| f.holds == Some(false))
        .map(|f| f.condition);
    let word = match (&plan.next, at) {
        _ if goes(Reason::Deleting) => "Deleting",
        _ if goes(Reason::Recreating) => "Recreating",
        (Next::Done, _) if plan.facts.stopped => "Stopped",
        (Next::Done, _) => "Ready",
        (Next::Stuck(_), _) => "Stalled",
        (Next::Wait { cause, .. }, _) if cause.reason == Reason::NodeOffline => match hides(status, cause) {
            true => "Unknown",
            false => "Waiting",
        },
        (_, Some("DependenciesReady")) => "Waiting",
        (_, Some("Created")) => "Creating",
        (_, Some("Configured" | "VolumesReady" | "GPUReady")) => "Configuring",
        (_, Some("Running")) if plan.facts.stopped => "Stopping",
        (_, Some("Running")) => "Starting",
        (_, Some("FeaturesApplied" | "ApplicationReady" | "TestsPassed")) => "Installing",
        (Next::Wait { cause, .. }, Some("Healthy"))
            if [Reason::Starting, Reason::ModelLoading].contains(&cause.reason) =>
        {
            "Starting"
        }
        (_, Some("Healthy")) => "Unhealthy",
        (_, Some("SnapshotReady")) => "Sealing",
        _ => "Waiting",
    };
    word.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(holds: bool) -> Finding {
        Finding {
            condition: Stage::Configured.as_str(),
            holds: Some(holds),
            cause: Cause::new(Reason::InProgress, ""),
        }
    }

    #[test]
    fn what_a_plan_says_and_takes_back_is_no_transition() {
        let plan = |findings| Plan {
            next: Next::Wait {
                cause: Cause::new(Reason::InProgress, ""),
                seconds: 1,
            },
            findings,
            facts: crate::plan::Facts::default(),
            partial: false,
        };
        let before = planned(&GuestStatus::default(), 1, &plan(vec![finding(false)]), None, 10);
        let after = planned(&before, 1, &plan(vec![finding(true), finding(false)]), None, 20);
        let configured = |status: &GuestStatus| {
            let conditions = status.conditions.iter();
            conditions.clone().find(|c| c.type_ == "Configured").cloned().unwrap()
        };
        assert_eq!(configured(&after).last_transition_time, time(10));
        assert_eq!(configured(&after).status, "False");
        let done = planned(&after, 1, &plan(vec![finding(false), finding(true)]), None, 30);
        assert_eq!(
            (
                configured(&done).status.as_str(),
                configured(&done).last_transition_time
            ),
            ("True", time(30))
        );
    }
}
