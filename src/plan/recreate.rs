//! A new guest in place of the present one, which only an annotation can ask for: the spec says what no change can give it
//! (promise 4). The old one goes as that of a deleted object does, with the same proofs; the object stays.

use crate::crd::{GuestStatus, RECREATE};
use crate::desired::{Desired, Form, GuestObject, digest};
use crate::reason::Reason;

use super::delete::{Deletion, Surroundings};
use super::planner::{Input, Planner};
use super::{Announce, Effect, Finding, Next, Plan, Stage, Step};

/// Condition that tells of what only a new guest could have.
const REQUIRED: &str = "RecreateRequired";
/// Characters of the hash that a person copies.
const HASH: usize = 10;

/// The value of the annotation that stands for just this: the guest, what is wanted, and what was asked for before. So it
/// does nothing where it is left in Git, and an edit after it was read asks anew.
fn token(desired: &Desired, status: &GuestStatus) -> Option<String> {
    let vmid = status.vmid()?;
    let before = status.recreated.as_deref().unwrap_or_default();
    let hash: String = digest([&desired.prints.applied, before]).chars().take(HASH).collect();
    Some(format!("{vmid}-{hash}"))
}

/// Whether the object asks for a new guest in place of its present one, as it was told to ask.
pub fn wants_recreation(object: &GuestObject, desired: &Desired) -> bool {
    let status = &object.status;
    let told = |generation| generation == Some(object.generation);
    let mut conditions = status.conditions.iter();
    let told = conditions.any(|c| c.type_ == REQUIRED && c.status == "True" && told(c.observed_generation));
    let asked = object.annotations.get(RECREATE);
    told && desired.life.form == Form::Guest && asked.is_some() && asked == token(desired, status).as_ref()
}

/// Decides what to do next until there is no guest any more and a new one is made.
pub fn plan_recreation(object: &GuestObject, input: Input<'_>, around: Surroundings<'_>) -> Plan {
    let mut deletion = Deletion::new(object, input.observed, around);
    let value = object.annotations.get(RECREATE).cloned().unwrap_or_default();
    deletion.recreates = true;
    let next = match deletion.next() {
        // The end of the old guest: now the status is that of an object without one.
        Next::Run(step) if matches!(step.effect, Effect::RemoveFinalizer { .. }) => Next::Run(Box::new(Step {
            action: format!("make a new guest: {}", step.action),
            stage: Stage::Created,
            announce: vec![Announce::Recreated(value)],
            effect: Effect::Record,
            apart: None,
        })),
        // Nothing is begun before all that the new one needs is there.
        Next::Run(step) => {
            let mut planner = Planner::new(input);
            match planner.ready_source() {
                Ok(_) => Next::Run(step),
                Err(next) => {
                    deletion.findings = planner.findings;
                    next
                }
            }
        }
        next => next,
    };
    let mut plan = deletion.plan(next, input.now);
    for finding in &mut plan.findings {
        if finding.cause.reason == Reason::Deleting {
            finding.cause.reason = Reason::Recreating;
        }
    }
    plan
}

impl Planner<'_> {
    /// Says how to ask for a new guest where one is needed.
    pub(super) fn tell_recreation(&mut self) {
        let Some(token) = token(self.desired, self.status).filter(|_| self.desired.life.form == Form::Guest) else {
            return;
        };
        let needed = |f: &&mut Finding| f.condition == REQUIRED && f.holds == Some(true);
        if let Some(found) = self.findings.iter_mut().find(needed) {
            found.cause.message = format!(
                "{}; to have the guest destroyed and made anew, with its retained volumes and nothing else of what is in it, set the annotation {RECREATE}: {token:?}",
                found.cause.message
            );
        }
    }
}

/// The status of an object whose guest is gone and is made anew. Retained volumes are still kept for it.
pub(super) fn recreated(status: &GuestStatus, value: &str) -> GuestStatus {
    let retained = |volume: &crate::crd::VolumeStatus| volume.reclaim_policy.as_deref() == Some("Retain");
    let volumes = status.volumes.clone().map(|mut volumes| {
        volumes.retain(retained);
        volumes
    });
    GuestStatus {
        observed_generation: status.observed_generation,
        conditions: status.conditions.clone(),
        phase: status.phase.clone(),
        message: status.message.clone(),
        restarted_at: status.restarted_at.clone(),
        reconciled: status.reconciled.clone(),
        restamped: status.restamped.clone(),
        recreated: Some(value.to_string()),
        volumes: volumes.filter(|volumes| !volumes.is_empty()),
        ..GuestStatus::default()
    }
}
