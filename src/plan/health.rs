//! Startup, readiness and liveness probes, with Kubernetes' semantics: thresholds count answers in a row since the guest
//! was started; liveness and readiness begin when the startup probe has succeeded; a failed startup or liveness probe
//! restarts the unit or the guest, at once the first time and then with a growing pause. Probes are asked once the
//! scripts ran: what is being installed cannot work yet.
//!
//! Counts live in the engine's memory; what must outlive it, the number of restarts and the time of the last one, is in
//! status before the restart is asked for.

use std::collections::BTreeMap;

use crate::crd::{Health, Probe, RestartStatus};
use crate::observed::{Guest, HealthState, ProbeAnswer, ProbeCounts, ProbeKind};
use crate::plan::{GuestWork, calls};
use crate::reason::{Cause, Reason};
use crate::status::time;

use super::planner::{Planner, Staged};
use super::{Announce, Effect, Next, ProbeRequest, Query, Stage};

/// Seconds before the second restart in a row; doubles up to [`LONGEST_PAUSE`], as the kubelet's.
const FIRST_PAUSE: i64 = 10;
const LONGEST_PAUSE: i64 = 300;
/// A guest that worked for so many seconds is no longer in a row of restarts.
const CALM: i64 = 600;
/// In the words of a restart that a probe asked for.
pub(super) const PROBE_FAILS: &str = " probe fails: ";
/// Milliseconds after which a probe that is under way is asked for again.
const UNDER_WAY: i64 = 500;

/// What the answers so far come to.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) state: HealthState,
    /// Probes whose time has come.
    due: Vec<ProbeKind>,
    /// Milliseconds until the next one is due.
    next: i64,
    /// The startup or liveness probe that has failed for good.
    pub(super) restart: Option<ProbeKind>,
}

fn probe(health: &Health, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => health.startup.as_ref(),
        ProbeKind::Readiness => health.readiness.as_ref(),
        ProbeKind::Liveness => health.liveness.as_ref(),
    }
}

fn failure_threshold(probe: &Probe) -> i64 {
    probe.failure_threshold.unwrap_or(3)
}

impl HealthState {
    /// Nothing was asked yet.
    pub(super) fn new(of: &Health, pid: Option<i64>, since: i64) -> Self {
        HealthState {
            of: of.clone(),
            pid,
            uptime: None,
            since,
            started: of.startup.is_none(),
            proven: false,
            healthy: false,
            counts: BTreeMap::new(),
        }
    }

    /// The startup probe alone until it succeeded, then the others.
    fn active(&self) -> Vec<(ProbeKind, &Probe)> {
        let kinds: &[ProbeKind] = match self.started {
            true => &[ProbeKind::Readiness, ProbeKind::Liveness],
            false => &[ProbeKind::Startup],
        };
        kinds
            .iter()
            .filter_map(|kind| Some((*kind, probe(&self.of, *kind)?)))
            .collect()
    }

    /// Counts an answer; counts stop at their threshold, so that a state that says the same stays the same.
    fn count(&mut self, kind: ProbeKind, answer: &ProbeAnswer, clock: i64) {
        let Some(probe) = probe(&self.of, kind) else { return };
        let (enough, bad) = (probe.success_threshold.unwrap_or(1), failure_threshold(probe));
        let counts = self.counts.entry(kind).or_default();
        match answer {
            ProbeAnswer::UnderWay => return,
            ProbeAnswer::Succeeded(_) => {
                *counts = ProbeCounts {
                    successes: (counts.successes + 1).min(enough),
                    ..ProbeCounts::default()
                };
                self.started |= kind == ProbeKind::Startup;
            }
            ProbeAnswer::Failed(why) => {
                *counts = ProbeCounts {
                    failures: (counts.failures + 1).min(bad),
                    why: why.clone(),
                    ..ProbeCounts::default()
                };
            }
            ProbeAnswer::Unknown(failure) => {
                counts.unknown = (counts.unknown + 1).min(bad);
                counts.failure = Some(failure.clone());
            }
        }
        counts.last = Some(clock);
    }

    /// What a probe said so far.
    fn of_kind(&self, kind: ProbeKind) -> ProbeCounts {
        self.counts.get(&kind).cloned().unwrap_or_default()
    }

    /// When a probe is due.
    fn due_at(&self, kind: ProbeKind, probe: &Probe) -> i64 {
        match self.of_kind(kind).last {
            Some(last) => last + probe.period_seconds.unwrap_or(10) * 1000,
            None => self.since + probe.initial_delay_seconds.unwrap_or(0) * 1000,
        }
    }
}

fn judge(mut state: HealthState, answers: &BTreeMap<ProbeKind, ProbeAnswer>, clock: i64) -> Verdict {
    for (kind, answer) in answers {
        state.count(*kind, answer, clock);
    }
    let active = state.active();
    let due = active
        .iter()
        .filter(|(kind, probe)| !answers.contains_key(kind) && state.due_at(*kind, probe) <= clock)
        .map(|(kind, _)| *kind)
        .collect();
    let next = active.iter().map(|(kind, probe)| match answers.get(kind) {
        Some(ProbeAnswer::UnderWay) => UNDER_WAY,
        _ => (state.due_at(*kind, probe) - clock).max(0),
    });
    let next = next.min().unwrap_or(LONGEST_PAUSE * 1000);
    let failed = |(kind, probe): &(ProbeKind, &Probe)| {
        *kind != ProbeKind::Readiness && state.of_kind(*kind).failures >= failure_threshold(probe)
    };
    let restart = active.iter().find(|p| failed(p)).map(|(kind, _)| *kind);
    Verdict {
        due,
        next,
        restart,
        state,
    }
}

/// The restart after those so far.
fn counted(before: Option<&RestartStatus>, now: i64) -> RestartStatus {
    let in_a_row = before
        .filter(|r| (now - r.last.0.as_second()).abs() < CALM)
        .map_or(0, |r| r.in_a_row);
    RestartStatus {
        count: before.map_or(0, |r| r.count) + 1,
        in_a_row: in_a_row + 1,
        last: time(now),
    }
}

/// When the next restart may be, where that is in the future.
fn held_back(before: Option<&RestartStatus>, now: i64) -> Option<i64> {
    let before = before?;
    let shift = u32::try_from(before.in_a_row.clamp(1, 6) - 1).unwrap_or(0);
    let due = before.last.0.as_second() + (FIRST_PAUSE << shift).min(LONGEST_PAUSE);
    // A time further off than the longest pause was noted by a clock that was ahead.
    (due > now && due - now <= LONGEST_PAUSE).then_some(due)
}

impl Planner<'_> {
    /// What the probes said so far counts no more: what they ask is about to be started anew.
    pub(crate) fn forget_probes(&mut self, guest: &Guest) {
        let fresh = HealthState {
            uptime: guest.uptime,
            ..HealthState::new(&self.desired.health, guest.pid, self.input.clock)
        };
        self.facts.health_state = Some(fresh);
        self.facts.health = Some("Unhealthy".into());
        self.facts.started = self.start(guest, false);
    }

    pub(super) fn held_back(&self) -> Option<i64> {
        held_back(self.status.restarts.as_ref(), self.input.now)
    }

    fn verdict(&self, guest: &Guest) -> Verdict {
        judge(self.health_state(guest), &self.observed.probes, self.input.clock)
    }

    /// The verdict once every probe whose time has come was asked.
    fn probed(&self, guest: &Guest) -> Result<Verdict, Next> {
        let verdict = self.verdict(guest);
        if verdict.due.is_empty() {
            return Ok(verdict);
        }
        let request = |kind: &ProbeKind| {
            let probe = probe(&verdict.state.of, *kind)?;
            Some(ProbeRequest {
                kind: *kind,
                pid: verdict.state.pid,
                command: crate::desired::scripts::probe_command(probe),
                timeout: u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1),
            })
        };
        Err(Next::Look(Query::Probes {
            at: guest.at.clone(),
            probes: verdict.due.iter().filter_map(request).collect(),
        }))
    }

    /// Whether the guest must be looked at before more can be said: a restart is due, or a probe fails that used to
    /// succeed, which may be because somebody has started the guest anew.
    pub(crate) fn wants_look(&self, guest: &Guest) -> Result<bool, Next> {
        let verdict = self.probed(guest)?;
        let fails = |answer: &ProbeAnswer| matches!(answer, ProbeAnswer::Failed(_));
        let fails_now = verdict.state.healthy && self.observed.probes.values().any(fails);
        Ok(fails_now || (verdict.restart.is_some() && self.held_back().is_none()))
    }

    /// Restarts the unit or the guest when its startup or liveness probe has failed. This comes before anything that is
    /// asked of the guest: one that hangs would not answer.
    pub(crate) fn restart_unhealthy(&mut self, guest: &Guest) -> Staged {
        if !guest.running || self.desired.life.form != crate::desired::Form::Guest {
            return Ok(());
        }
        let verdict = self.verdict(guest);
        let Some(kind) = verdict.restart else { return Ok(()) };
        if self.held_back().is_some() {
            return Ok(());
        }
        let stage = Stage::Healthy;
        self.unlocked(stage, guest)?;
        let why = verdict.state.of_kind(kind).why;
        let what = guest.named();
        let (what, effect) = match &verdict.state.of.restart_unit {
            None => (what, calls::restart(&guest.at)),
            Some(unit) => {
                let work = GuestWork::RestartUnit { unit: unit.clone() };
                let effect = Effect::in_guest(guest, work);
                (format!("{unit} in {what}"), effect)
            }
        };
        let restarts = counted(self.status.restarts.as_ref(), self.input.now);
        let action = format!("restart {what} (the {}{PROBE_FAILS}{why})", kind.as_str());
        let next = self.run(stage, action, vec![Announce::HealthRestart(restarts)], effect);
        self.forget_probes(guest);
        Err(next)
    }

    /// The probes say that the guest works.
    pub(crate) fn healthy(&mut self, guest: &Guest) -> Staged {
        let stage = Stage::Healthy;
        let health = &self.desired.health;
        if !guest.running || !self.desired.is_probed() {
            return Ok(());
        }
        self.can_run_commands(stage, guest, "health")?;
        let verdict = self.probed(guest)?;
        if !self.partial {
            self.restart_unhealthy(guest)?;
        }
        let complaint = self.complaint(guest, &verdict);
        let state = HealthState {
            healthy: complaint.is_none(),
            proven: verdict.state.proven || complaint.is_none(),
            ..verdict.state.clone()
        };
        self.facts.started = self.start(guest, state.proven);
        self.facts.health_state = Some(state);
        self.facts.probe_due = Some(verdict.next);
        match complaint {
            None => {
                self.facts.health = Some("Healthy".into());
                let kind = if health.readiness.is_some() {
                    "readiness"
                } else {
                    "liveness"
                };
                self.ok(stage, format!("the {kind} probe succeeds"));
                Ok(())
            }
            Some(cause) => {
                self.facts.health = Some("Unhealthy".into());
                let seconds = u64::try_from(verdict.next / 1000).unwrap_or(1).max(1);
                Err(self.wait(stage, cause.reason, cause.message, seconds))
            }
        }
    }

    /// What keeps the guest from being healthy.
    fn complaint(&self, guest: &Guest, verdict: &Verdict) -> Option<Cause> {
        if let Some(back_off) = self.still_held_back(guest, verdict) {
            return Some(back_off);
        }
        if let Some(kind) = verdict.restart
            && let Some(due) = self.held_back()
        {
            let (why, times) = (
                verdict.state.of_kind(kind).why,
                self.status.restarts.as_ref().map_or(0, |r| r.in_a_row),
            );
            let message = format!(
                "the {} probe fails: {why}; restarted {times} times in a row, the next restart is due at {}",
                kind.as_str(),
                time(due).0
            );
            return Some(Cause::new(Reason::RestartBackOff, message));
        }
        let kind = match (verdict.state.started, &verdict.state.of.readiness) {
            (false, _) => ProbeKind::Startup,
            (true, Some(_)) => ProbeKind::Readiness,
            (true, None) => ProbeKind::Liveness,
        };
        let probe = probe(&verdict.state.of, kind)?;
        let threshold = failure_threshold(probe);
        let counts = verdict.state.of_kind(kind);
        // What held in this start goes on to hold until the probe failed often enough, and the other way round.
        let held = kind != ProbeKind::Startup && verdict.state.healthy;
        let succeeds = counts.successes >= probe.success_threshold.unwrap_or(1);
        let passes = counts.unknown < threshold && (succeeds || (held && counts.failures < threshold));
        let unanswered = Cause::new(
            Reason::Starting,
            format!("the {} probe has not succeeded yet", kind.as_str()),
        );
        match &counts.failure {
            _ if passes => None,
            Some(failure) => Some(failure.clone()),
            None if counts.failures == 0 => Some(self.said_before(guest).unwrap_or(unanswered)),
            None => Some(probe_words(kind, &counts.why, verdict.state.proven)),
        }
    }
}

/// Reason and message of a failed probe; a guest that was never `proven` to work since its start is still starting.
/// vLLM's own probe begins what it says with a reason (`desired/scripts/vllm_probe.sh`).
fn probe_words(kind: ProbeKind, why: &str, proven: bool) -> Cause {
    for reason in [Reason::ModelLoading, Reason::ModelServerFailed] {
        if let Some(words) = why
            .split_once(": ")
            .and_then(|(_, text)| text.strip_prefix(reason.as_str()))
        {
            return Cause::new(reason, words.trim_start_matches(": "));
        }
    }
    let kind = kind.as_str();
    if proven {
        Cause::new(Reason::ProbeFailed, format!("the {kind} probe fails: {why}"))
    } else {
        Cause::new(
            Reason::Starting,
            format!("the {kind} probe has not succeeded yet: {why}"),
        )
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
