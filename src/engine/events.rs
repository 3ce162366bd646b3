//! What events tell: transitions between two statuses, and actions once they took effect. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::{GuestStatus, HypervisorStatus, ScriptStatus};
use crate::plan::end_words;
use crate::reason::{Cause, Reason};

use super::store::{Event, EventType};

impl Event {
    pub(super) fn new(type_: EventType, cause: Cause) -> Self {
        Event {
            type_,
            reason: cause.reason.into(),
            message: cause.message,
        }
    }

    fn of(type_: EventType, condition: &Condition) -> Self {
        let words = [&condition.message, &condition.reason];
        let message = words.into_iter().find(|words| !words.is_empty());
        Event {
            type_,
            reason: condition.reason.clone(),
            message: message.cloned().unwrap_or_default(),
        }
    }
}

fn condition<'s>(status: &'s GuestStatus, type_: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|c| c.type_ == type_)
}

/// Conditions of which it is told when they begin to hold: all but the parts of the work, whose steps are told of.
const TOLD: &[(&str, EventType)] = &[
    ("Ready", EventType::Normal),
    ("Stalled", EventType::Warning),
    ("Paused", EventType::Normal),
    ("Exposed", EventType::Normal),
    ("DriftDetected", EventType::Warning),
    ("AddressConflict", EventType::Warning),
    ("RestartRequired", EventType::Normal),
    ("RecreateRequired", EventType::Warning),
    ("VolumeNotRetained", EventType::Warning),
    ("VolumeUnclaimed", EventType::Warning),
    ("LargerThanSpec", EventType::Normal),
    ("FeatureOutdated", EventType::Normal),
    ("TemplateOutdated", EventType::Normal),
    ("OldRevisionKept", EventType::Normal),
    ("ImageNotCompared", EventType::Warning),
];

/// An object that was Ready cannot be seen any more, or what would bring it back fails. Whatever else takes Ready away is a
/// step, a start or a script, which are told of themselves.
fn no_longer_ready(old: &GuestStatus, new: &GuestStatus) -> Option<Event> {
    let was = condition(old, "Ready").is_some_and(|c| c.status == "True");
    let now = condition(new, "Ready").filter(|c| was && c.status != "True")?;
    let bad = |reason: Reason| reason.hides_the_guest() || reason == Reason::BackOff;
    Reason::named(&now.reason)
        .is_some_and(bad)
        .then(|| Event::of(EventType::Warning, now))
}

/// Conditions that began to hold, or hold for another reason, and what the probes say.
pub(super) fn transitions(old: &GuestStatus, new: &GuestStatus) -> Vec<Event> {
    let mut events: Vec<Event> = health(old, new).into_iter().collect();
    for (name, type_) in TOLD {
        let (old, new) = (condition(old, name), condition(new, name));
        if let Some(new) = new.filter(|n| n.status == "True")
            && old.is_none_or(|o| o.status != "True" || (o.reason != new.reason && *name != "Ready"))
        {
            events.push(Event::of(*type_, new));
        }
    }
    events.extend(no_longer_ready(old, new));
    events.extend(not_exposed(old, new));
    events
}

/// There can be no Service, for a reason that does not pass by itself.
fn not_exposed(old: &GuestStatus, new: &GuestStatus) -> Option<Event> {
    let now =
        condition(new, "Exposed").filter(|c| c.status == "False" && c.reason != Reason::AddressPending.as_str())?;
    let same = condition(old, "Exposed").is_some_and(|c| c.status == now.status && c.reason == now.reason);
    (!same).then(|| Event::of(EventType::Warning, now))
}

/// What changed about a hypervisor: it became usable or ceased to be, for another reason than before; rights that are
/// missing or were granted.
pub fn of_hypervisor(old: &HypervisorStatus, new: &HypervisorStatus) -> Vec<Event> {
    fn ready(status: &HypervisorStatus) -> Option<&Condition> {
        status.conditions.iter().find(|c| c.type_ == "Ready")
    }
    let face = |c: &Condition| (c.status.clone(), c.reason.clone());
    let (before, now) = (ready(old), ready(new));
    let mut events = Vec::new();
    let mut told_of_rights = false;
    // What does not exist yet is waited for: only when that took too long is it told.
    let stalled = |status: &HypervisorStatus| status.conditions.iter().any(|c| c.type_ == "Stalled");
    let waits = |c: &&Condition| Reason::named(&c.reason).is_some_and(Reason::may_be_created) && !stalled(new);
    let changed = |c: &&Condition| before.map(face) != Some(face(c)) || (stalled(new) && !stalled(old));
    if let Some(now) = now.filter(changed).filter(|c| !waits(c)) {
        let type_ = match now.status.as_str() {
            "True" => EventType::Normal,
            _ => EventType::Warning,
        };
        told_of_rights = now.reason == Reason::MissingPrivilege.as_str();
        events.push(Event::of(type_, now));
    }
    let (lacked, lacks) = (
        old.missing_privileges.clone().unwrap_or_default(),
        new.missing_privileges.clone().unwrap_or_default(),
    );
    let more: Vec<&String> = lacks.iter().filter(|right| !lacked.contains(right)).collect();
    if !more.is_empty() && !told_of_rights {
        let message = format!(
            "the token lacks {}",
            Vec::from_iter(more.iter().map(|r| r.as_str())).join(", ")
        );
        events.push(Event::new(
            EventType::Warning,
            Cause::new(Reason::MissingPrivilege, message),
        ));
    }
    let granted: Vec<&str> = lacked
        .iter()
        .filter(|right| !lacks.contains(right))
        .map(String::as_str)
        .collect();
    if !granted.is_empty() {
        let message = format!("the token has {} now", granted.join(", "));
        events.push(Event::new(
            EventType::Normal,
            Cause::new(Reason::PrivilegesGranted, message),
        ));
    }
    events
}

/// The guest became healthy, or ceased to be. A guest that is stopped or started on purpose is neither.
fn health(old: &GuestStatus, new: &GuestStatus) -> Option<Event> {
    let (old, new) = (condition(old, "Healthy")?, condition(new, "Healthy")?);
    let on_purpose = [Reason::Starting, Reason::InProgress].map(Reason::as_str);
    match (old.status.as_str(), new.status.as_str()) {
        ("Unknown", "True") if on_purpose.contains(&old.reason.as_str()) => None,
        ("False" | "Unknown", "True") => Some(Event {
            reason: Reason::Healthy.into(),
            ..Event::of(EventType::Normal, new)
        }),
        // After a start the first probe is waited for.
        ("True", "False") if new.reason == Reason::Starting.as_str() => None,
        ("True", "False") => Some(Event::of(EventType::Warning, new)),
        _ => None,
    }
}

/// Scripts that ended since the old status.
pub(super) fn endings(old: &GuestStatus, new: &GuestStatus) -> Vec<Event> {
    fn pairs<'s>(
        old: &'s GuestStatus,
        new: &'s GuestStatus,
    ) -> Vec<(&'static str, &'s ScriptStatus, &'s ScriptStatus)> {
        let one = |word, old: &'s Option<ScriptStatus>, new: &'s Option<ScriptStatus>| {
            Some((word, old.as_ref()?, new.as_ref()?))
        };
        let many = |word, old: &'s Option<Vec<ScriptStatus>>, new: &'s Option<Vec<ScriptStatus>>| {
            let old = old.as_deref().unwrap_or_default();
            let pair = move |new: &'s ScriptStatus| Some((word, old.iter().find(|o| o.name == new.name)?, new));
            new.iter().flatten().filter_map(pair)
        };
        let features = many("feature", &old.features, &new.features);
        let tests = many("test", &old.tests, &new.tests);
        let vllm = one("script", &old.vllm, &new.vllm);
        let server = one("script", &old.model_server, &new.model_server);
        let application = one("script", &old.application, &new.application);
        features
            .chain(vllm)
            .chain(server)
            .chain(application)
            .chain(tests)
            .collect()
    }
    let all = pairs(old, new).into_iter();
    all.filter_map(|(word, old, new)| ending(word, old, new)).collect()
}

/// What a script that ended is told as. One that was found to have run before, as in a clone, is not told of: nobody saw
/// it wait or run.
fn ending(word: &str, old: &ScriptStatus, new: &ScriptStatus) -> Option<Event> {
    if (&old.state, &old.hash, old.attempts) == (&new.state, &new.hash, new.attempts) {
        return None;
    }
    let name = match new.name.split_once(' ') {
        None if new.name != "application" => format!("{word} {}", new.name),
        _ => new.name.clone(),
    };
    let end = end_words(new.exit_code, new.deadline_seconds);
    let said = new
        .message
        .as_deref()
        .unwrap_or_default()
        .lines()
        .last()
        .unwrap_or_default();
    let colon = if said.is_empty() { "" } else { ": " };
    let failed = match word {
        "test" => Reason::TestFailed,
        _ => Reason::ScriptFailed,
    };
    let (type_, reason, message) = match new.state.as_deref()? {
        "Succeeded" => (EventType::Normal, Reason::ScriptSucceeded, format!("{name} ended well")),
        "Failed" => (
            EventType::Warning,
            failed,
            format!("{name} failed with {end}{colon}{said}"),
        ),
        "Interrupted" => {
            let message = format!("{name} was cut off");
            (EventType::Warning, Reason::ScriptInterrupted, message)
        }
        _ => return None,
    };
    Some(Event::new(type_, Cause::new(reason, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(state: &str, attempts: i64, exit_code: Option<i64>) -> GuestStatus {
        let script = ScriptStatus {
            name: "smoke".into(),
            hash: Some("h".into()),
            state: Some(state.into()),
            attempts: Some(attempts),
            exit_code,
            message: exit_code.filter(|code| *code != 0).map(|_| "one\ntwo".into()),
            ..ScriptStatus::default()
        };
        GuestStatus {
            tests: Some(vec![script]),
            ..GuestStatus::default()
        }
    }

    #[test]
    fn a_script_that_ended_is_told_once_with_its_exit_code() {
        let told = |old: &GuestStatus, new: &GuestStatus| -> Vec<String> {
            let events = endings(old, new).into_iter();
            events.map(|e| format!("{}: {}", e.reason, e.message)).collect()
        };
        let none = GuestStatus::default();
        let (running, failed) = (script("Running", 1, None), script("Failed", 1, Some(3)));
        assert_eq!(
            told(&running, &failed),
            ["TestFailed: test smoke failed with exit code 3: two"]
        );
        assert_eq!(told(&failed, &failed), [""; 0]);
        // However far its next attempt is by the time somebody reads it.
        let mut late = script("Failed", 1, Some(124));
        late.tests
            .iter_mut()
            .flatten()
            .for_each(|script| script.deadline_seconds = Some(30));
        assert_eq!(
            told(&running, &late),
            ["TestFailed: test smoke failed with exit code 124, its deadline of 30 s passed: two"]
        );
        assert_eq!(
            told(&running, &script("Failed", 1, Some(137))),
            ["TestFailed: test smoke failed with exit code 137, which stands for signal 9: two"]
        );
        assert_eq!(told(&failed, &script("Running", 2, None)), [""; 0]);
        assert_eq!(told(&failed, &script("Failed", 2, Some(3))).len(), 1);
        assert_eq!(
            told(&running, &script("Succeeded", 1, Some(0))),
            ["ScriptSucceeded: test smoke ended well"]
        );
        // What a clone brought along did not run here.
        assert_eq!(told(&none, &script("Succeeded", 1, Some(0))), [""; 0]);
    }
}
