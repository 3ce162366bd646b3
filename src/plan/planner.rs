//! What a plan is made from, and what its parts say: that a stage holds, waits, is stuck, or has a step.

use crate::crd::GuestStatus;
use crate::desired::{Blocked, Conflict, Desired, Dropped};
use crate::observed::{Guest, Observed};
use crate::pve::GuestType;
use crate::reason::{Cause, Reason};

use super::{Announce, Effect, Facts, Finding, Next, Plan, Stage, Step, retry};

/// Everything that a plan is made from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// What is wanted.
    pub desired: &'a Desired,
    /// Whether what the object depends on is Ready; asked only while there is no guest.
    pub dependencies: &'a dyn Fn() -> Result<(), Blocked>,
    /// Addresses that other objects ask for too.
    pub conflicts: &'a [Conflict],
    /// What was looked at so far.
    pub observed: &'a Observed,
    /// What was recorded.
    pub status: &'a GuestStatus,
    /// Unix time in seconds.
    pub now: i64,
    /// The engine's own clock in milliseconds, which never goes back.
    pub clock: i64,
}

/// Collects findings and facts while the stages are walked.
pub(crate) struct Planner<'a> {
    pub input: Input<'a>,
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub status: &'a GuestStatus,
    /// What the spec set before and does not set now.
    pub dropped: Dropped,
    pub findings: Vec<Finding>,
    pub facts: Facts,
    pub partial: bool,
    /// Steps that wait for their next attempt while the rest goes on.
    pub held: Vec<(Stage, Next)>,
}

/// A stage either holds, or says what comes next.
pub(crate) type Staged = Result<(), Next>;

impl<'a> Planner<'a> {
    pub fn new(input: Input<'a>) -> Self {
        Planner {
            input,
            desired: input.desired,
            observed: input.observed,
            status: input.status,
            dropped: Dropped::of(input.desired, input.status.managed.as_deref()),
            findings: Vec::new(),
            facts: Facts::default(),
            partial: false,
            held: Vec::new(),
        }
    }

    pub fn condition(&mut self, condition: &'static str, holds: bool, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding {
            condition,
            holds: Some(holds),
            cause: self.cause(reason, message),
        });
    }

    /// A cause that blames the field that somebody wrote.
    fn cause(&self, reason: Reason, message: impl Into<String>) -> Cause {
        Cause::new(reason, self.desired.defaulted.told(message))
    }

    /// The stage holds, unless a step of it is held back.
    pub fn ok(&mut self, stage: Stage, message: impl Into<String>) {
        if self.held.iter().any(|(held, _)| *held == stage) {
            return;
        }
        self.condition(stage.as_str(), true, Reason::AsWanted, message);
    }

    /// What was found before is not known any more, or not known yet.
    pub fn unknown(&mut self, stage: Stage, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding {
            condition: stage.as_str(),
            holds: None,
            cause: Cause::new(reason, message),
        });
    }

    /// Something else has to happen before the stage can go on.
    pub fn wait(&mut self, stage: Stage, reason: Reason, message: impl Into<String>, seconds: u64) -> Next {
        let cause = self.cause(reason, message);
        self.condition(stage.as_str(), false, reason, cause.message.clone());
        Next::Wait { cause, seconds }
    }

    /// Only a change by somebody helps.
    pub fn stuck(&mut self, stage: Stage, reason: Reason, message: impl Into<String>) -> Next {
        let cause = self.cause(reason, message);
        self.condition(stage.as_str(), false, reason, cause.message.clone());
        Next::Stuck(cause)
    }

    /// One effect for a stage.
    pub fn run(&mut self, stage: Stage, action: impl Into<String>, announce: Vec<Announce>, effect: Effect) -> Next {
        let action = action.into();
        self.condition(stage.as_str(), false, Reason::InProgress, action.clone());
        Next::Run(Box::new(Step {
            action,
            stage,
            announce,
            effect,
            apart: None,
        }))
    }

    /// Path of the guest's fields in messages.
    pub fn prefix(&self) -> &'static str {
        self.desired.field_prefix()
    }

    pub fn finish(mut self, next: Next) -> Plan {
        self.tell_recreation();
        Plan {
            next: retry::hold_back(next, self.status, self.input.now),
            findings: self.findings,
            facts: self.facts,
            partial: self.partial,
        }
    }

    /// Writes wait for a lock of Proxmox's to go.
    pub fn unlocked(&mut self, stage: Stage, guest: &Guest) -> Staged {
        match &guest.lock {
            Some(lock) => {
                let message = is_locked(guest, lock);
                Err(self.wait(stage, Reason::GuestLocked, message, 10))
            }
            None => Ok(()),
        }
    }

    /// SSH is needed for a field and not there.
    pub fn needs_ssh(&mut self, stage: Stage, field: &str) -> Next {
        let message = format!("{field} needs SSH to the node: set spec.ssh of the PhoenixHypervisor");
        self.stuck(stage, Reason::MissingPrivilege, message)
    }

    /// Commands run in a container through SSH, in a machine through its guest agent.
    pub fn can_run_commands(&mut self, stage: Stage, guest: &Guest, field: &str) -> Staged {
        match guest.at.sort {
            GuestType::Lxc if !self.desired.channels.ssh => Err(self.needs_ssh(stage, field)),
            GuestType::Qemu if self.desired.vm().and_then(|vm| vm.agent) == Some(false) => {
                let message = format!("{field} needs the guest agent in the machine: set agent.enabled: true");
                Err(self.stuck(stage, Reason::InvalidSpec, message))
            }
            _ => Ok(()),
        }
    }

    /// A finding beside Ready; several of one condition are one.
    pub fn find_more(&mut self, condition: &'static str, reason: Reason, message: String) {
        let same = self.findings.iter_mut().find(|f| f.condition == condition);
        match same {
            Some(found) if !found.cause.message.contains(&message) => {
                found.cause.message = format!("{}; {message}", found.cause.message);
            }
            Some(_) => {}
            None => self.condition(condition, true, reason, message),
        }
    }
}

/// A guest's lock is waited for. A node that crashes while it works on a guest leaves the lock behind.
pub(super) fn is_locked(guest: &Guest, lock: &str) -> String {
    let (tool, vmid, node) = (guest.at.sort.tool(), guest.at.vmid, &guest.at.node);
    format!(
        "{} is locked ({lock}); Phoenix waits for the lock to go; where no task works on it any more: {tool} unlock {vmid} \
         on node {node}",
        guest.named()
    )
}
