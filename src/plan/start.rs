//! Which start of the guest is spoken of, and what is known since: what was found in an earlier start says nothing of this
//! one, whoever started it. The engine's memory tells, and status where the engine was started anew.

use crate::crd::StartStatus;
use crate::observed::{Guest, HealthState};
use crate::reason::{Cause, Reason};
use crate::status::time;

use super::health::Verdict;
use super::planner::{Planner, Staged};
use super::{Announce, Next, Query, Stage, calls};

/// Seconds since its start for which a guest is looked at in full: the list of the cluster lags by up to 12 s (facts C).
const YOUNG: i64 = 30;

impl Planner<'_> {
    /// What is known of the guest since this start of it.
    pub(super) fn health_state(&self, guest: &Guest) -> HealthState {
        let wanted = &self.desired.health;
        let before = self.observed.health.as_ref().filter(|s| is_same_start(s, guest));
        let pid = guest.pid.or(before.and_then(|s| s.pid));
        let uptime = guest.uptime.or(before.and_then(|s| s.uptime));
        if let Some(state) = before.filter(|s| s.of == *wanted) {
            let state = state.clone();
            return HealthState { pid, uptime, ..state };
        }
        let since = self.input.clock - guest.uptime.unwrap_or(0) * 1000;
        let mut state = HealthState {
            uptime,
            ..HealthState::new(wanted, pid, since)
        };
        (state.proven, state.healthy) = match (before, &self.observed.health) {
            (Some(known), _) => (known.proven, known.healthy),
            // It was started anew since the engine looked last.
            (None, Some(_)) => (false, false),
            (None, None) => self.recorded_health(guest),
        };
        state.started |= state.proven || before.is_some_and(|known| known.started);
        state
    }

    /// Whether the guest was found healthy in this start, and was so last, as status tells.
    fn recorded_health(&self, guest: &Guest) -> (bool, bool) {
        let healthy = self.status.health.as_deref() == Some("Healthy");
        match self.recorded_start(guest) {
            Some(start) => (start.proven == Some(true), healthy),
            None if self.status.started.is_some() => (false, false),
            // A status of an earlier release does not say which start it speaks of.
            None => (healthy, healthy),
        }
    }

    /// The start that status speaks of, where the guest is still in it.
    fn recorded_start(&self, guest: &Guest) -> Option<&StartStatus> {
        let recorded = self.status.started.as_ref();
        recorded.filter(|start| self.is_still_in(start, guest))
    }

    fn is_still_in(&self, start: &StartStatus, guest: &Guest) -> bool {
        let began = guest.uptime.map_or(0, |uptime| self.input.now - uptime);
        start.is_still(guest.pid, began)
    }

    /// This start for status: as it was recorded, where it is the same. `None` where nothing new is known of it.
    pub(super) fn start(&self, guest: &Guest, proven: bool) -> Option<StartStatus> {
        let recorded = self.recorded_start(guest).cloned();
        let new = || {
            guest.uptime.map(|uptime| StartStatus {
                pid: guest.pid,
                at: time(self.input.now - uptime),
                proven: None,
            })
        };
        recorded.or_else(new).map(|start| StartStatus {
            proven: proven.then_some(true),
            ..start
        })
    }

    /// What status says of the health of this start, while no probe was answered yet since the engine began. What was
    /// under way when it was written is over.
    pub(super) fn said_before(&self, guest: &Guest) -> Option<Cause> {
        let mut conditions = self.status.conditions.iter();
        let healthy = conditions.find(|c| c.type_ == Stage::Healthy.as_str())?;
        let known = healthy.status == "False" && self.recorded_start(guest).is_some();
        let reason = Reason::named(&healthy.reason).filter(|reason| known && *reason != Reason::InProgress)?;
        Some(Cause::new(reason, healthy.message.clone()))
    }

    /// The pause before the next restart that status tells of, while the engine has begun anew and not counted enough
    /// failures itself.
    pub(super) fn still_held_back(&self, guest: &Guest, verdict: &Verdict) -> Option<Cause> {
        let mut conditions = self.status.conditions.iter();
        let healthy = conditions.find(|c| c.type_ == Stage::Healthy.as_str())?;
        let told = healthy.reason == Reason::RestartBackOff.as_str() && self.recorded_start(guest).is_some();
        let succeeds = verdict.state.counts.values().any(|counts| counts.successes > 0);
        let goes_on = told && !succeeds && verdict.restart.is_none() && self.held_back().is_some();
        goes_on.then(|| Cause::new(Reason::RestartBackOff, healthy.message.clone()))
    }

    /// A restart that was announced may not have been sent, or Proxmox may have failed it: the guest is still in the start
    /// that was to end.
    pub(super) fn owes_restart(&self, guest: &Guest) -> bool {
        let from = self.status.restart_from.as_ref();
        guest.running && from.is_some_and(|from| self.is_still_in(from, guest))
    }

    /// Restarts the guest as the annotation asks.
    pub(super) fn restart_as_asked(&mut self, guest: &Guest, announce: Vec<Announce>) -> Next {
        if let Err(locked) = self.unlocked(Stage::Running, guest) {
            return locked;
        }
        self.health_unknown(Reason::Starting, "the guest is being restarted");
        let action = format!("restart {} (annotation restartedAt)", guest.named());
        self.run(Stage::Running, action, announce, calls::restart(&guest.at))
    }

    /// A restart that is owed is sent again, unless a task works on the guest: that may be it. Once the guest is in another
    /// start, nothing is owed.
    pub(super) fn restart_owed(&mut self, guest: &Guest) -> Staged {
        if self.status.restart_from.is_none() {
            return Ok(());
        }
        if !self.owes_restart(guest) {
            self.facts.restarted = true;
            return Ok(());
        }
        let vmid = guest.at.vmid;
        let under_way = self.observed.creating.ok_or_else(|| {
            Next::Look(Query::Creating {
                vmid,
                source: Some(vmid),
                node: guest.at.node.clone(),
            })
        })?;
        Err(match under_way {
            true => {
                let message = format!("the restart of {} is under way", guest.named());
                self.wait(Stage::Running, Reason::InProgress, message, 5)
            }
            false => self.restart_as_asked(guest, Vec::new()),
        })
    }

    /// The list of the cluster tells of another start by an uptime that went back. That of a guest that has just been
    /// started could go back and yet be longer than it was: such a guest is looked at until it runs for a while.
    pub(super) fn look_again_when_young(&mut self, guest: &Guest) {
        if let Some(uptime) = guest.uptime.filter(|uptime| guest.running && *uptime < YOUNG) {
            self.facts.look_again.get_or_insert(YOUNG - uptime);
        }
    }
}

fn is_same_start(known: &HealthState, guest: &Guest) -> bool {
    let same_process = guest.pid.is_none() || known.pid.is_none() || known.pid == guest.pid;
    let went_on = guest.uptime.is_none() || known.uptime <= guest.uptime;
    same_process && went_on
}
