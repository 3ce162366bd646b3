//! Steps that succeed and change nothing: what is planned again, from the same configuration, after it was done is not
//! repeated at full speed, whatever the cause (another spelling of a value in Proxmox, a guest that stops at once).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::plan::{Announce, Effect, NodeWork, Step};
use crate::reason::{Cause, Reason};

/// A step that was done so often without effect is a failure.
const OFTEN: u32 = 3;
/// What was not done for so long is no repetition: longer than the longest pause between attempts.
const FORGOTTEN: Duration = Duration::from_secs(900);

/// Steps that an object's reconciles carried out since its guest was last as wanted.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// Hash of the spec that they belong to.
    spec: Option<String>,
    /// How often, and when last.
    done: HashMap<(String, Option<String>), (u32, Instant)>,
}

impl Repeats {
    /// Counts a step that is about to be carried out. Scripts and restarts by probes have counts and pauses of their own.
    pub(super) fn count(&mut self, spec: Option<&str>, step: &Step) {
        if self.spec.as_deref() != spec {
            *self = Repeats {
                spec: spec.map(str::to_string),
                ..Repeats::default()
            };
        }
        let own_pauses = |a: &Announce| matches!(a, Announce::HealthRestart(_));
        let counts = !matches!(step.effect, Effect::Record | Effect::InGuest { .. });
        if counts && !step.announce.iter().any(own_pauses) {
            self.done.retain(|_, (_, last)| last.elapsed() < FORGOTTEN);
            let place = (step.action.clone(), digest(step));
            let (times, last) = self.done.entry(place).or_insert((0, Instant::now()));
            (*times, *last) = (*times + 1, Instant::now());
        }
    }

    /// The step did not succeed: what is tried again then is no repetition.
    pub(super) fn failed(&mut self, action: &str) {
        self.done.retain(|(of, _), _| of != action);
    }

    /// Why a step that succeeded counts as failed: it was done often, and is planned from the same state again.
    pub(super) fn in_vain(&self, action: &str) -> Option<Cause> {
        let times = self.done.iter().filter(|((of, _), _)| of == action);
        let times = times
            .map(|(_, (times, _))| *times)
            .max()
            .filter(|times| *times >= OFTEN)?;
        Some(Cause::new(
            Reason::NothingChanged,
            format!("Proxmox said {times} times that it is done, and still shows what it showed before"),
        ))
    }
}

/// The digest of the configuration that a step is based on.
fn digest(step: &Step) -> Option<String> {
    match &step.effect {
        Effect::Call { call, .. } | Effect::Task { call, .. } => call.get_param("digest").map(str::to_string),
        Effect::OnNode {
            work: NodeWork::SetOptions { digest, .. },
            ..
        } => Some(digest.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Stage;
    use crate::pve::ApiCall;

    fn step(action: &str, digest: &str) -> Step {
        Step {
            action: action.into(),
            stage: Stage::Configured,
            announce: vec![],
            effect: Effect::call(ApiCall::put("/x").param("digest", digest)),
            apart: None,
        }
    }

    #[test]
    fn a_step_is_in_vain_when_it_was_done_often_from_the_same_state() {
        let mut repeats = Repeats::default();
        for digest in ["a", "b", "a", "b", "c"] {
            repeats.count(Some("1"), &step("write", digest));
        }
        assert_eq!(repeats.in_vain("write"), None);
        repeats.count(Some("1"), &step("write", "a"));
        assert_eq!(repeats.in_vain("write").unwrap().reason, Reason::NothingChanged);
        assert_eq!(repeats.in_vain("other"), None);
        repeats.count(Some("2"), &step("write", "a"));
        assert_eq!(repeats.in_vain("write"), None, "another spec");
        repeats.count(Some("2"), &step("write", "a"));
        repeats.failed("write");
        repeats.count(Some("2"), &step("write", "a"));
        assert_eq!(repeats.in_vain("write"), None, "one of them failed");
    }
}
