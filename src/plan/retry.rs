//! When what failed is tried again. Each sort of work counts its own failures, so that a step that Proxmox refuses holds
//! back itself and nothing else: stopping and deleting obey no pause of the work before them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::crd::{FailingStep, GuestStatus, ScriptStatus};
use crate::reason::{Cause, Reason};

use super::{Next, Step};

/// Longest pause between attempts, in seconds.
const MAX_PAUSE: u64 = 300;
/// Seconds after which an object that somebody has to help is looked at anew; a change wakes it earlier.
const STUCK: f64 = 60.0;
/// Steps whose failures status counts apart from each other.
const MAX_FAILING: usize = 64;
/// Characters of the reconcile annotation that count.
const MAX_ASKED: usize = 253;

/// Name of the sort of work that powers a guest off.
pub const STOP: &str = "stop";
/// Name of the sort of work that deletes an object.
pub const DELETE: &str = "delete";

/// The time as Kubernetes writes it.
pub fn time(now: i64) -> Time {
    Time(Timestamp::from_second(now).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Seconds before attempt `failures` + 1: 5, 10, 20, … at most 300.
pub fn pause(failures: i64) -> u64 {
    let shift = u32::try_from(failures.clamp(1, 8) - 1).unwrap_or(0);
    (5u64 << shift).min(MAX_PAUSE)
}

/// Seconds until an attempt is due; `None` when it is. No pause is longer than the longest: a time further off was
/// written by a clock that was ahead, and means nothing.
fn remaining(retry: Option<&Time>, now: i64) -> Option<u64> {
    let left = u64::try_from(retry?.0.as_second().saturating_sub(now)).ok()?;
    (1..=MAX_PAUSE).contains(&left).then_some(left)
}

/// A step that failed is tried again only when its time has come.
pub(crate) fn hold_back(next: Next, status: &GuestStatus, now: i64) -> Next {
    match &next {
        Next::Run(step) => held(step, status, now).unwrap_or(next),
        _ => next,
    }
}

/// What is waited for before the step is tried again.
pub(crate) fn held(step: &Step, status: &GuestStatus, now: i64) -> Option<Next> {
    held_apart(step.apart.as_deref(), status, now)
}

/// What is waited for before steps of this sort are tried again.
pub(crate) fn held_apart(apart: Option<&str>, status: &GuestStatus, now: i64) -> Option<Next> {
    let (error, retry) = match apart {
        None => (status.last_error.as_deref(), status.next_retry.as_ref()),
        Some(name) => match status.failing.iter().flatten().find(|f| f.step == name) {
            Some(failing) => (Some(failing.error.as_str()), Some(&failing.next_retry)),
            None if [STOP, DELETE].contains(&name) => return None,
            // Statuses of earlier versions count everything together.
            None => (status.last_error.as_deref(), status.next_retry.as_ref()),
        },
    };
    let seconds = remaining(retry, now)?;
    let error = error.unwrap_or("the last attempt failed");
    for reason in [Reason::ProxmoxRefused, Reason::DeviceMissing] {
        let words = error.strip_prefix(reason.as_str());
        if let Some(message) = words.and_then(|words| words.strip_prefix(": ")) {
            // Trying again may help, but most likely somebody has to change something.
            return Some(Next::Stuck(Cause::new(reason, message)));
        }
    }
    let at = retry.map(|t| t.0.to_string()).unwrap_or_default();
    Some(Next::Wait {
        cause: Cause::new(Reason::BackOff, format!("{error}; next try at {at}")),
        seconds,
    })
}

/// What becomes of an object that somebody has to help, with the seconds after which that is looked at anew. What does
/// not exist yet is waited for first, for `grace` seconds; what was told as a mistake already stays one.
pub fn awaited(status: &GuestStatus, cause: Cause, grace: u64, now: i64) -> (Next, f64) {
    match grace_left(
        &status.conditions,
        status.missing_since.as_ref(),
        cause.reason,
        grace,
        now,
    ) {
        0 => (Next::Stuck(cause), STUCK),
        seconds => (Next::Wait { cause, seconds }, seconds as f64),
    }
}

/// Seconds for which what is missing since then is still waited for.
pub fn grace_left(conditions: &[Condition], since: Option<&Time>, reason: Reason, grace: u64, now: i64) -> u64 {
    let told = |c: &Condition| c.type_ == "Stalled" && c.status == "True" && c.reason == reason.as_str();
    if !reason.may_be_created() || conditions.iter().any(told) {
        return 0;
    }
    let since = since.map_or(now, |t| t.0.as_second());
    let passed = now.saturating_sub(since).try_into().unwrap_or(0);
    grace.saturating_sub(passed)
}

/// Notes that a step failed. `scale` shortens the pause, for tests whose time is faster.
pub(crate) fn failed(
    status: &mut GuestStatus,
    apart: Option<&str>,
    action: &str,
    failure: &Cause,
    now: i64,
    scale: f64,
) {
    let error: String = format!("{}: {} (cannot {action}", failure.reason, failure.message)
        .chars()
        .take(1999)
        .chain([')'])
        .collect();
    let before = match apart {
        None => status.failures,
        Some(name) => {
            let mut failing = status.failing.iter().flatten();
            failing.find(|f| f.step == name).map(|f| f.failures)
        }
    };
    let failures = before.unwrap_or(0).saturating_add(1);
    let seconds = if scale > 1.0 {
        (pause(failures) as f64 / scale) as u64
    } else {
        pause(failures)
    };
    let next_retry = time(now.saturating_add_unsigned(seconds));
    let Some(name) = apart else {
        status.failures = Some(failures);
        status.next_retry = Some(next_retry);
        status.last_error = Some(error);
        return;
    };
    if status.next_retry.is_none() {
        status.last_error = Some(error.clone());
    }
    let list = status.failing.get_or_insert_default();
    list.retain(|f| f.step != name);
    list.truncate(MAX_FAILING - 1);
    list.push(FailingStep {
        step: name.to_string(),
        failures,
        error,
        next_retry,
    });
}

/// Notes that a step succeeded.
pub(crate) fn succeeded(status: &mut GuestStatus, apart: Option<&str>) {
    match apart {
        None => (status.failures, status.next_retry) = (None, None),
        Some(name) => {
            if let Some(list) = &mut status.failing {
                list.retain(|f| f.step != name);
            }
            status.failing = status.failing.take().filter(|list| !list.is_empty());
        }
    }
    if status.next_retry.is_none() {
        let left = status.failing.iter().flatten().next_back();
        status.last_error = left.map(|f| f.error.clone());
    }
}

/// Nothing fails any more.
pub(crate) fn all_well(status: &mut GuestStatus) {
    status.failing = None;
    succeeded(status, None);
}

/// The status with every pause ended and the scripts that failed given new attempts, because somebody asks for it.
pub fn resumed(status: &GuestStatus) -> GuestStatus {
    let mut status = status.clone();
    pauses_end(&mut status);
    status.failures = None;
    for failing in status.failing.iter_mut().flatten() {
        failing.failures = 0;
    }
    let forgive = |script: &mut ScriptStatus| {
        if matches!(script.state.as_deref(), Some("Failed" | "Interrupted")) {
            script.forgiven = script.attempts;
        }
    };
    status.features.iter_mut().flatten().for_each(forgive);
    status.application.iter_mut().for_each(forgive);
    status.vllm.iter_mut().for_each(forgive);
    status.model_server.iter_mut().for_each(forgive);
    status
}

fn pauses_end(status: &mut GuestStatus) {
    status.next_retry = None;
    for failing in status.failing.iter_mut().flatten() {
        failing.next_retry = time(0);
    }
}

/// The status that a reconcile begins with: a changed spec is tried at once, and so is everything for each new value of
/// the reconcile annotation.
pub fn woken(status: &GuestStatus, generation: i64, asked: Option<&String>) -> GuestStatus {
    let asked: Option<String> = asked.map(|value| value.chars().take(MAX_ASKED).collect());
    if asked.is_some() && asked != status.reconciled {
        return GuestStatus {
            reconciled: asked,
            ..resumed(status)
        };
    }
    let mut status = status.clone();
    if status.observed_generation != Some(generation) {
        pauses_end(&mut status);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::super::{Effect, Stage};
    use super::*;

    fn step(apart: Option<&str>) -> Step {
        Step {
            action: "do it".into(),
            stage: Stage::Configured,
            announce: vec![],
            effect: Effect::Record,
            apart: apart.map(str::to_string),
        }
    }

    fn failure() -> Cause {
        Cause {
            reason: Reason::TaskFailed,
            message: "words".into(),
        }
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let found: Vec<u64> = (0..10).map(pause).collect();
        assert_eq!(found, [5, 5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn each_sort_of_work_waits_for_its_own_failures_only() {
        let mut status = GuestStatus::default();
        failed(&mut status, None, "start", &failure(), 1000, 1.0);
        failed(&mut status, Some("net0"), "set net0", &failure(), 1000, 1.0);
        failed(&mut status, Some("net0"), "set net0", &failure(), 1000, 1.0);
        let waits = |status: &GuestStatus, apart, now| match held(&step(apart), status, now) {
            Some(Next::Wait { cause, seconds }) => Some((cause.message, seconds)),
            _ => None,
        };
        let at = "; next try at 1970-01-01T00:16:45Z";
        let words = format!("TaskFailed: words (cannot start){at}");
        assert_eq!(waits(&status, None, 1001), Some((words, 4)));
        assert_eq!(waits(&status, Some("net0"), 1001).unwrap().1, 9);
        assert_eq!(waits(&status, Some(STOP), 1001), None);
        assert_eq!(waits(&status, None, 1005), None);
        succeeded(&mut status, None);
        assert!(status.last_error.as_ref().unwrap().contains("cannot set net0"));
        succeeded(&mut status, Some("net0"));
        assert_eq!(status, GuestStatus::default());
    }

    #[test]
    fn a_time_that_a_wrong_clock_wrote_holds_nothing_back() {
        for (ahead, seconds) in [(300, Some(300)), (301, None), (366 * 86_400, None), (-1, None)] {
            assert_eq!(remaining(Some(&time(1000 + ahead)), 1000), seconds, "{ahead} s ahead");
        }
    }

    #[test]
    fn every_new_value_of_the_annotation_ends_pauses_once() {
        let mut status = GuestStatus::default();
        failed(&mut status, None, "start", &failure(), 1000, 1.0);
        failed(&mut status, Some("net0"), "set net0", &failure(), 1000, 1.0);
        status.observed_generation = Some(3);
        let value = "now".to_string();
        assert_eq!(woken(&status, 3, None), status);
        for woken in [woken(&status, 3, Some(&value)), woken(&status, 4, None)] {
            assert_eq!(held(&step(None), &woken, 1001), None);
            assert_eq!(held(&step(Some("net0")), &woken, 1001), None);
        }
        let mut once = woken(&status, 3, Some(&value));
        failed(&mut once, None, "start", &failure(), 1000, 1.0);
        assert_eq!(woken(&once, 3, Some(&value)), once);
    }
}
