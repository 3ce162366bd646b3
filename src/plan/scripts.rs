//! Scripts in the guest: features, the vLLM unit, the application, tests. Their records in the guest tell what ran
//! (promise 4); an attempt is never repeated, only followed by a next one.

use std::collections::BTreeMap;

use crate::crd::{CANCEL, RECONCILE, RerunPolicy, ScriptStatus};
use crate::desired::{Script, ScriptRole};
use crate::observed::{Guest, ScriptRecord};
use crate::plan::GuestWork;
use crate::reason::Reason;

use super::planner::Planner;
use super::{Effect, Next, Query, Stage};

/// Attempts before a failing script waits for a change.
const MAX_ATTEMPTS: i64 = 5;
/// Longest pause between attempts, in seconds.
const LONGEST_PAUSE: i64 = 600;

/// Where a script stands.
#[derive(Debug, PartialEq, Eq)]
enum Position {
    Done,
    /// It failed and is not tried again (tests, or attempts used up).
    Failed,
    /// A changed script that the policy does not run again.
    Outdated,
    /// It was cut off, nobody knows where, and the policy does not run it again.
    CutOff,
    Running,
    /// It runs, and the cancel annotation names it.
    ToCancel,
    /// It was asked to end and has not done so yet.
    Stopping,
    /// It is not run, because the cancel annotation names it.
    Cancelled,
    /// It failed; the next attempt is due at this time.
    Later(i64),
    /// The next attempt.
    Due(i64),
}

/// Seconds before attempt `n` + 1 after attempt `n` failed: 10, 20, 40, … at most 10 minutes.
fn pause(attempt: i64) -> i64 {
    let shift = u32::try_from(attempt.clamp(1, 7) - 1).unwrap_or(0);
    (10i64 << shift).min(LONGEST_PAUSE)
}

/// How many of a script's attempts count: those that somebody's wish made good are left out. With Always their number
/// begins anew with each start of the guest.
fn counted(script: &Script, record: &ScriptRecord, forgiven: i64) -> i64 {
    let tries = tries(script, record);
    if forgiven > tries { tries } else { tries - forgiven }
}

/// Whether a script that is to run after every start of its guest has not yet done so. A guest that does not say what
/// start a run belongs to repeats nothing.
fn waits_since_start(script: &Script, record: &ScriptRecord) -> bool {
    script.rerun == RerunPolicy::Always && record.this_start == Some(false)
}

/// Where a script stands, with the cancel annotation heeded: what it names is neither running nor begun.
fn position(script: &Script, record: Option<&ScriptRecord>, forgiven: i64, cancel: Option<&str>, now: i64) -> Position {
    let position = position_by_record(script, record, forgiven, now);
    let running = record.filter(|r| r.running);
    match position {
        Position::Running if running.is_some_and(|r| r.cancelled) => Position::Stopping,
        Position::Running if running.is_some_and(|r| cancel == Some(&r.hash)) => Position::ToCancel,
        Position::Due(_) | Position::Later(_) | Position::CutOff if cancel == Some(&script.hash) => Position::Cancelled,
        position => position,
    }
}

fn position_by_record(script: &Script, record: Option<&ScriptRecord>, forgiven: i64, now: i64) -> Position {
    let Some(record) = record else { return Position::Due(1) };
    if record.running {
        return Position::Running;
    }
    let attempt = record.attempt;
    if record.hash != script.hash {
        return if script.rerun != RerunPolicy::Never || record.exit_code != Some(0) {
            Position::Due(1)
        } else {
            Position::Outdated
        };
    }
    match record.exit_code {
        _ if waits_since_start(script, record) => Position::Due(attempt + 1),
        // It did not end by itself, so its exit code says nothing, and the attempt counts for nothing.
        _ if record.cancelled && script.rerun == RerunPolicy::Never => Position::CutOff,
        _ if record.cancelled => Position::Due(attempt + 1),
        Some(0) => Position::Done,
        _ if script.role == ScriptRole::Test && record.exit_code.is_some() => Position::Failed,
        None if script.rerun == RerunPolicy::Never => Position::CutOff,
        _ if counted(script, record, forgiven) >= MAX_ATTEMPTS => Position::Failed,
        // Somebody asked for another attempt.
        _ if counted(script, record, forgiven) == 0 => Position::Due(attempt + 1),
        _ => {
            let due = record.ended_at.unwrap_or(0) + pause(counted(script, record, forgiven));
            // An end that is further off than any pause was noted by a clock that was ahead.
            if due > now && due - now <= LONGEST_PAUSE {
                Position::Later(due)
            } else {
                Position::Due(attempt + 1)
            }
        }
    }
}

/// How often a script was tried: with Always each start of the guest begins anew.
fn tries(script: &Script, record: &ScriptRecord) -> i64 {
    match script.rerun {
        RerunPolicy::Always => record.tries,
        RerunPolicy::OnChange | RerunPolicy::Never => record.attempt,
    }
}

/// Seconds until a script that runs is looked at again: soon while it has just begun, since most are short.
fn look_again(record: Option<&ScriptRecord>, now: i64) -> u64 {
    let ran = record.and_then(|r| r.started_at).map_or(0, |started| now - started);
    // A guest whose clock is wrong is looked at now and then.
    u64::try_from(ran / 16).unwrap_or_default().clamp(1, 15)
}

fn stage_of(role: ScriptRole) -> Stage {
    match role {
        ScriptRole::Feature => Stage::FeaturesApplied,
        ScriptRole::Proof => Stage::GPUReady,
        ScriptRole::ModelServer | ScriptRole::Application => Stage::ApplicationReady,
        ScriptRole::Test => Stage::TestsPassed,
        ScriptRole::Clean => Stage::SnapshotReady,
    }
}

fn script_status(script: &Script, record: Option<&ScriptRecord>, forgiven: i64) -> ScriptStatus {
    let state = match record {
        None => "Pending",
        Some(r) if r.running => "Running",
        Some(r) if r.cancelled => "Cancelled",
        Some(r) if r.exit_code == Some(0) => "Succeeded",
        Some(r) if r.exit_code.is_none() => "Interrupted",
        Some(_) => "Failed",
    };
    let tail = |output: &str| {
        let lines: Vec<&str> = output.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..]
            .join("\n")
            .chars()
            .take(1000)
            .collect::<String>()
    };
    ScriptStatus {
        name: script.name.clone(),
        hash: record.map(|r| r.hash.clone()),
        state: Some(state.into()),
        exit_code: record.and_then(|r| r.exit_code),
        message: record
            .filter(|r| !r.running && r.exit_code != Some(0))
            .map(|r| tail(&r.output))
            .filter(|m| !m.is_empty()),
        attempts: record.map(|r| tries(script, r)),
        deadline_seconds: record
            .filter(|r| !r.running && r.exit_code == Some(DEADLINE_PASSED))
            .map(|_| script.deadline_seconds),
        forgiven: (forgiven > 0).then_some(forgiven),
    }
}

impl Planner<'_> {
    /// Whether status says that every script ran well with its present hash: a stopped template need not be started
    /// only to look again. Losing this costs one more start.
    pub(crate) fn scripts_recorded(&self) -> bool {
        let all = self.recorded_scripts();
        let cleaned =
            |script: &Script| script.role == ScriptRole::Clean && self.status.cleaned.as_ref() == Some(&script.hash);
        self.desired.scripts.iter().all(|script| {
            cleaned(script)
                || all.iter().any(|s| {
                    let ended = s.state.as_deref() == Some("Succeeded")
                        || (script.role == ScriptRole::Test && s.state.as_deref() == Some("Failed"));
                    s.name == script.name && s.hash.as_ref() == Some(&script.hash) && ended
                })
        })
    }

    /// Every script ran as its policy says.
    pub(crate) fn scripts(&mut self, guest: &Guest) -> Result<(), Next> {
        let scripts = self.desired.scripts.clone();
        if !guest.running || scripts.is_empty() {
            self.findings_without_look(guest);
            return Ok(());
        }
        let first = stage_of(scripts[0].role);
        self.can_run_commands(first, guest, "features, vllm, application and tests")?;
        let records = match &self.observed.scripts {
            None => {
                let ids = scripts.iter().map(|s| s.id.clone()).collect();
                return Err(Next::Look(Query::Scripts {
                    at: guest.at.clone(),
                    ids,
                }));
            }
            Some(Err(failure)) => {
                let failure = failure.clone();
                return Err(self.wait(Stage::FeaturesApplied, failure.reason, failure.message, 10));
            }
            Some(Ok(records)) => records.clone(),
        };
        self.script_facts(&scripts, &records);
        let mut failed_tests = Vec::new();
        for role in [
            ScriptRole::Feature,
            ScriptRole::Proof,
            ScriptRole::ModelServer,
            ScriptRole::Application,
            ScriptRole::Test,
            ScriptRole::Clean,
        ] {
            let stage = stage_of(role);
            for script in scripts.iter().filter(|s| s.role == role) {
                let record = records.get(&script.id);
                let heals = self.heals(script, &records);
                if heals {
                    self.takes_turn_of_driver(guest)?;
                }
                if heals || self.is_proven_anew(script, &records) {
                    return Err(self.start_script(guest, script, record.map_or(1, |r| r.attempt + 1)));
                }
                if !self.script(guest, script, record)? {
                    failed_tests.push(script.name.clone());
                }
            }
            match role {
                ScriptRole::ModelServer | ScriptRole::Clean => {}
                ScriptRole::Proof => self.proven(&records),
                _ if self.facts.absent.contains(&stage) => {}
                ScriptRole::Feature => self.ok(stage, "the features are installed"),
                ScriptRole::Application => self.ok(stage, "the application is set up"),
                ScriptRole::Test if failed_tests.is_empty() => self.ok(stage, "the tests passed"),
                ScriptRole::Test => {
                    self.condition(
                        stage.as_str(),
                        false,
                        Reason::TestFailed,
                        format!("failed: {}", failed_tests.join(", ")),
                    );
                }
            }
        }
        Ok(())
    }

    /// One script: `true` when it is done, `false` for a test that failed.
    fn script(&mut self, guest: &Guest, script: &Script, record: Option<&ScriptRecord>) -> Result<bool, Next> {
        let what = guest.named();
        let stage = stage_of(script.role);
        let cancel = self.desired.life.cancel.as_deref();
        let position = position(script, record, self.forgiven(script, record), cancel, self.input.now);
        if script.role == ScriptRole::ModelServer && position != Position::Done {
            // The server is about to start or restart: what the probe said of it counts no more.
            self.forget_probes(guest);
        }
        match position {
            Position::Done => Ok(true),
            Position::Outdated => {
                let message = format!("{} changed since it ran; its policy does not run it again", script.name);
                self.condition("FeatureOutdated", true, Reason::ScriptChanged, message);
                Ok(true)
            }
            Position::CutOff => {
                let message = format!(
                    "{} was cut off while it ran, and its rerunPolicy is Never: see in {what} what it did; a changed script is tried anew",
                    script.name
                );
                Err(self.stuck(stage, Reason::ScriptInterrupted, message))
            }
            Position::Failed | Position::Cancelled if script.role == ScriptRole::Test => Ok(false),
            Position::Cancelled => {
                let message = cancelled_words(script, record.is_some_and(|r| r.hash == script.hash));
                Err(self.stuck(stage, Reason::ScriptCancelled, message))
            }
            Position::Failed if script.role == ScriptRole::Proof => {
                let cause = self.unproven(record);
                let message = format!(
                    "{}; it was tried {MAX_ATTEMPTS} times: the next start of the guest tries it again, and so does a new value of the annotation {RECONCILE}",
                    cause.message
                );
                Err(self.stuck(stage, cause.reason, message))
            }
            Position::Failed => {
                let record = record.cloned().unwrap_or_default();
                let message = format!(
                    "{} failed {MAX_ATTEMPTS} times, last with {}: {}: correct it; a changed script is tried anew, and so is this one for a new value of the annotation {RECONCILE}",
                    script.name,
                    ended(script, record.exit_code),
                    last_line(&record.output)
                );
                Err(self.stuck(stage, Reason::ScriptFailed, message))
            }
            Position::Running => Err(self.wait(
                stage,
                Reason::ScriptRunning,
                format!("{} is running in {what}", script.name),
                look_again(record, self.input.now),
            )),
            Position::Stopping => {
                let message = format!("{} was asked to end in {what}, and has not ended yet", script.name);
                Err(self.wait(stage, Reason::ScriptRunning, message, 5))
            }
            Position::ToCancel => {
                let work = GuestWork::CancelScript {
                    id: script.id.clone(),
                    hash: record.map(|r| r.hash.clone()).unwrap_or_default(),
                };
                let effect = Effect::in_guest(guest, work);
                let action = format!("stop {} in {what} (annotation cancel)", script.name);
                Err(self.run(stage, action, vec![], effect))
            }
            Position::Later(due) if script.role == ScriptRole::Proof => {
                let cause = self.unproven(record);
                let seconds = u64::try_from(due - self.input.now).unwrap_or(1);
                Err(self.wait(stage, cause.reason, cause.message, seconds))
            }
            Position::Later(due) => {
                let output = record.map(|r| r.output.as_str()).unwrap_or_default();
                let code = ended(script, record.and_then(|r| r.exit_code));
                let message = format!(
                    "{} failed ({code}): {}; it is tried again",
                    script.name,
                    last_line(output)
                );
                let seconds = u64::try_from(due - self.input.now).unwrap_or(1);
                Err(self.wait(stage, Reason::ScriptFailed, message, seconds))
            }
            Position::Due(attempt) => {
                if script.role == ScriptRole::ModelServer {
                    self.takes_turn(stage, guest)?;
                }
                Err(self.start_script(guest, script, attempt))
            }
        }
    }

    fn start_script(&mut self, guest: &Guest, script: &Script, attempt: i64) -> Next {
        let work = GuestWork::StartScript {
            script: Box::new(script.clone()),
            attempt,
        };
        let action = format!("run {} in {}", script.name, guest.named());
        self.run(stage_of(script.role), action, vec![], Effect::in_guest(guest, work))
    }

    fn script_facts(&mut self, scripts: &[Script], records: &BTreeMap<String, ScriptRecord>) {
        let of = |role: ScriptRole| -> Vec<ScriptStatus> {
            scripts
                .iter()
                .filter(|s| s.role == role)
                .map(|s| script_status(s, records.get(&s.id), self.forgiven(s, records.get(&s.id))))
                .collect()
        };
        let some = |list: Vec<ScriptStatus>| (!list.is_empty()).then_some(list);
        let (features, tests) = (some(of(ScriptRole::Feature)), some(of(ScriptRole::Test)));
        let server = of(ScriptRole::ModelServer).into_iter().next();
        let (vllm, model_server) = match server {
            Some(server) if server.name == "vllm" => (Some(server), None),
            other => (None, other),
        };
        let application = of(ScriptRole::Application).into_iter().next();
        (self.facts.features, self.facts.tests) = (features, tests);
        (self.facts.vllm, self.facts.model_server, self.facts.application) = (vllm, model_server, application);
        let clean = scripts.iter().find(|s| s.role == ScriptRole::Clean);
        self.facts.cleaned = clean
            .filter(|s| {
                matches!(
                    position_by_record(s, records.get(&s.id), 0, self.input.now),
                    Position::Done
                )
            })
            .map(|s| s.hash.clone());
    }

    /// Failed attempts of the script's present version that count no more.
    fn forgiven(&self, script: &Script, record: Option<&ScriptRecord>) -> i64 {
        let hash = record.map(|r| &r.hash);
        let mut all = self.recorded_scripts().into_iter();
        let known = all.find(|s| s.name == script.name && s.hash.as_ref() == hash);
        known.and_then(|s| s.forgiven).unwrap_or(0)
    }

    /// What status says of the scripts.
    fn recorded_scripts(&self) -> Vec<&ScriptStatus> {
        [&self.status.features, &self.status.tests]
            .into_iter()
            .flatten()
            .flatten()
            .chain(&self.status.application)
            .chain(self.status.server())
            .collect()
    }

    /// A stopped guest's scripts are not looked at; what status says of them stays.
    fn findings_without_look(&mut self, guest: &Guest) {
        self.facts.features = self.status.features.clone();
        self.facts.vllm = self.status.vllm.clone();
        self.facts.model_server = self.status.model_server.clone();
        self.facts.application = self.status.application.clone();
        self.facts.tests = self.status.tests.clone();
        if !guest.running {
            self.findings_of_records();
        }
    }

    /// What status says of the scripts, as conditions: what did not run since it was changed is not known.
    pub(crate) fn findings_of_records(&mut self) {
        for stage in [Stage::FeaturesApplied, Stage::ApplicationReady, Stage::TestsPassed] {
            let scripts = self.desired.scripts.iter().filter(|s| stage_of(s.role) == stage);
            let ended: Vec<Option<bool>> = scripts.map(|s| self.recorded_end(s)).collect();
            match () {
                () if ended.is_empty() => {}
                () if ended.iter().all(|end| *end == Some(true)) => self.ok(stage, "they ran well while the guest ran"),
                () if stage == Stage::TestsPassed && ended.contains(&Some(false)) => {
                    let message = "a test failed while the guest ran";
                    self.condition(stage.as_str(), false, Reason::TestFailed, message);
                }
                () => self.unknown(stage, Reason::Stopped, "the guest is stopped: nothing can be run in it"),
            }
        }
    }

    /// Whether a script ran well with its present hash, as status tells; `None`: it did not end.
    fn recorded_end(&self, script: &Script) -> Option<bool> {
        let mut all = self.recorded_scripts().into_iter();
        let record = all.find(|s| s.name == script.name && s.hash.as_ref() == Some(&script.hash))?;
        match record.state.as_deref()? {
            "Succeeded" => Some(true),
            "Failed" => Some(false),
            _ => None,
        }
    }
}

/// Why a script is not run, and how to go on. One that ran before and is never repeated goes on with a change only.
fn cancelled_words(script: &Script, ran: bool) -> String {
    let way_out = if ran && script.rerun == RerunPolicy::Never {
        "its rerunPolicy is Never: see in the guest what it did, and change the script to run it again"
    } else {
        "remove the annotation to run it again, or change the script"
    };
    let (name, hash) = (&script.name, &script.hash);
    format!("{name} is not run, because the annotation {CANCEL} names its hash {hash}: {way_out}")
}

/// Exit code of `timeout` when the deadline passed.
const DEADLINE_PASSED: i64 = 124;

fn ended(script: &Script, code: Option<i64>) -> String {
    end_words(code, Some(script.deadline_seconds))
}

/// How a script ended, with its deadline in seconds. A shell tells of a signal as 128 and its number.
pub fn end_words(code: Option<i64>, deadline: Option<i64>) -> String {
    match code {
        None => "no exit code, it was cut off".into(),
        Some(DEADLINE_PASSED) => match deadline {
            Some(seconds) => format!("exit code 124, its deadline of {seconds} s passed"),
            None => "exit code 124, its deadline passed".into(),
        },
        Some(code) if (129..=192).contains(&code) => {
            format!("exit code {code}, which stands for signal {}", code - 128)
        }
        Some(code) => format!("exit code {code}"),
    }
}

/// The line that most likely says what went wrong.
fn last_line(output: &str) -> String {
    // A feature's body ends with the exit code, which is said anyway; the script's own words come before it.
    let own = |l: &&str| !l.contains(": the install script ended with exit code ");
    let mut lines = output.lines().rev().filter(|l| !l.trim().is_empty());
    let last = lines.clone().next();
    let line = lines.find(own).or(last).unwrap_or("no output");
    line.trim().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(rerun: RerunPolicy, role: ScriptRole) -> Script {
        Script {
            id: "feature-docker".into(),
            name: "feature docker".into(),
            role,
            hash: "h".into(),
            body: String::new(),
            args: vec![],
            environment: BTreeMap::new(),
            files: vec![],
            workdir: None,
            run_as: None,
            deadline_seconds: 60,
            rerun,
            keep_output: true,
        }
    }

    fn ended(hash: &str, attempt: i64, exit_code: Option<i64>) -> Option<ScriptRecord> {
        Some(ScriptRecord {
            hash: hash.into(),
            attempt,
            running: false,
            exit_code,
            started_at: None,
            ended_at: Some(1000),
            this_start: Some(true),
            tries: attempt,
            cancelled: false,
            output: String::new(),
        })
    }

    /// An attempt's number belongs to one start: the runner in the guest refuses the same one again.
    #[test]
    fn each_start_is_an_attempt_of_its_own() {
        let running = ended("h", 2, None).map(|r| ScriptRecord { running: true, ..r });
        let cases = [
            (None, 1000, Position::Due(1)),
            (running, 9000, Position::Running),
            (ended("h", 1, Some(0)), 1000, Position::Done),
            (ended("h", 1, Some(1)), 1009, Position::Later(1010)),
            (ended("h", 1, Some(1)), 1010, Position::Due(2)),
            (ended("h", 4, Some(1)), 1079, Position::Later(1080)),
            (ended("h", 5, Some(1)), 9000, Position::Failed),
            (ended("h", 1, None), 9000, Position::CutOff),
            (ended("old", 3, Some(0)), 1000, Position::Outdated),
            (ended("old", 3, Some(1)), 1000, Position::Due(1)),
        ];
        for (record, now, expected) in cases {
            let found = position(
                &script(RerunPolicy::Never, ScriptRole::Feature),
                record.as_ref(),
                0,
                None,
                now,
            );
            assert_eq!(found, expected, "{record:?} at {now}");
        }
        let old = ended("old", 3, Some(0));
        assert_eq!(
            position(
                &script(RerunPolicy::OnChange, ScriptRole::Feature),
                old.as_ref(),
                0,
                None,
                1000
            ),
            Position::Due(1)
        );
        let cut_off = ended("h", 2, None);
        assert_eq!(
            position(
                &script(RerunPolicy::OnChange, ScriptRole::Feature),
                cut_off.as_ref(),
                0,
                None,
                1020
            ),
            Position::Due(3)
        );
        let test = script(RerunPolicy::OnChange, ScriptRole::Test);
        assert_eq!(
            position(&test, ended("h", 1, Some(1)).as_ref(), 0, None, 9000),
            Position::Failed
        );
    }

    #[test]
    fn attempts_that_somebodys_wish_made_good_count_no_more() {
        let of = |attempt, forgiven, now| {
            let script = script(RerunPolicy::OnChange, ScriptRole::Feature);
            position(&script, ended("h", attempt, Some(1)).as_ref(), forgiven, None, now)
        };
        assert_eq!(of(5, 0, 9000), Position::Failed);
        assert_eq!(of(5, 5, 1001), Position::Due(6));
        assert_eq!(of(6, 5, 1001), Position::Later(1010));
        assert_eq!(of(10, 5, 9000), Position::Failed);
    }

    #[test]
    fn an_end_that_a_wrong_clock_noted_delays_nothing() {
        let script = script(RerunPolicy::OnChange, ScriptRole::Feature);
        let record = ended("h", 1, Some(1)).map(|r| ScriptRecord {
            ended_at: Some(1000 + 366 * 86_400),
            ..r
        });
        assert_eq!(position(&script, record.as_ref(), 0, None, 1000), Position::Due(2));
    }

    #[test]
    fn a_script_of_every_start_runs_once_for_each_start_of_the_guest() {
        let of = |exit_code, attempt, tries, this_start| {
            ended("h", attempt, exit_code).map(|r| ScriptRecord { tries, this_start, ..r })
        };
        let running = of(None, 7, 1, Some(false)).map(|r| ScriptRecord { running: true, ..r });
        let cases = [
            (None, Position::Due(1)),
            (of(Some(0), 1, 1, Some(true)), Position::Done),
            (of(Some(0), 1, 1, Some(false)), Position::Due(2)),
            // Whoever does not know of a start does not repeat.
            (of(Some(0), 1, 1, None), Position::Done),
            (of(None, 3, 1, Some(false)), Position::Due(4)),
            // Failures count from the start of the guest on.
            (of(Some(1), 9, 2, Some(true)), Position::Later(1020)),
            (of(Some(1), 9, 5, Some(true)), Position::Failed),
            (of(Some(1), 9, 5, Some(false)), Position::Due(10)),
            (running, Position::Running),
            (ended("old", 3, Some(0)), Position::Due(1)),
        ];
        for (record, expected) in cases {
            let found = position(
                &script(RerunPolicy::Always, ScriptRole::Application),
                record.as_ref(),
                0,
                None,
                1005,
            );
            assert_eq!(found, expected, "{record:?}");
        }
        // No other policy asks.
        for policy in [RerunPolicy::OnChange, RerunPolicy::Never] {
            let record = of(Some(0), 1, 1, Some(false));
            assert_eq!(
                position(&script(policy, ScriptRole::Application), record.as_ref(), 0, None, 1005),
                Position::Done
            );
        }
    }

    #[test]
    fn what_the_cancel_annotation_names_is_stopped_and_not_begun() {
        let running = |hash: &str, cancelled| {
            ended(hash, 2, None).map(|r| ScriptRecord {
                running: true,
                cancelled,
                ..r
            })
        };
        let cancelled = ended("h", 2, Some(143)).map(|r| ScriptRecord { cancelled: true, ..r });
        let cases = [
            (running("h", false), Some("h"), Position::ToCancel),
            (running("h", false), Some("other"), Position::Running),
            (running("h", false), None, Position::Running),
            // An earlier version is named by its own hash, and the present one is not.
            (running("old", false), Some("old"), Position::ToCancel),
            (running("old", false), Some("h"), Position::Running),
            // One request is enough, and it holds when the annotation is gone.
            (running("h", true), Some("h"), Position::Stopping),
            (running("h", true), None, Position::Stopping),
            (cancelled.clone(), Some("h"), Position::Cancelled),
            (cancelled, None, Position::Due(3)),
            (None, Some("h"), Position::Cancelled),
            (ended("h", 1, Some(1)), Some("h"), Position::Cancelled),
            (ended("h", 1, Some(0)), Some("h"), Position::Done),
            (ended("old", 1, Some(143)), Some("old"), Position::Due(1)),
        ];
        for (record, cancel, expected) in cases {
            let script = script(RerunPolicy::OnChange, ScriptRole::Application);
            let found = position(&script, record.as_ref(), 0, cancel, 1001);
            assert_eq!(found, expected, "{record:?} {cancel:?}");
        }
        // One that is never repeated is not so either when the annotation is gone.
        let never = script(RerunPolicy::Never, ScriptRole::Application);
        let record = ended("h", 1, Some(143)).map(|r| ScriptRecord { cancelled: true, ..r });
        assert_eq!(position(&never, record.as_ref(), 0, None, 9000), Position::CutOff);
        assert!(cancelled_words(&never, true).contains("change the script to run"));
        assert!(cancelled_words(&never, false).contains("remove the annotation"));
    }
}
