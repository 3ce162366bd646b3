//! Carries out what the plan says next: what a step announces is in status before its effect leaves (promise 1).

use crate::crd::GuestStatus;
use crate::desired::{Desired, GuestObject};
use crate::observed::Verified;
use crate::plan::{self, Announce, Effect, Next, Plan, Step};
use crate::reason::Reason;
use crate::status::{self, Outcome};

use super::connection::Connection;
use super::execute::execute;
use super::store::{Event, EventType, Store};
use super::{Engine, Point, SWEEP_SECONDS, Stop, lock, now};

impl<S: Store> Engine<S> {
    /// Does what the plan says next, and publishes.
    pub(super) async fn carry_out(
        &self,
        connection: &Connection,
        object: GuestObject,
        desired: Option<&Desired>,
        plan: Plan,
    ) -> Result<Option<f64>, Stop> {
        let hash = desired.map(|d| d.hash.as_str());
        if let Some(state) = &plan.facts.health_state {
            lock(&self.memory).health.insert(object.key.clone(), state.clone());
        }
        let status = status::planned(&object.status, object.generation, &plan, hash, now());
        match &plan.next {
            Next::Run(step) => self.run(connection, object, desired, step, status).await,
            Next::Done => {
                if let (Some(hash), Some(row)) = (hash, &plan.facts.verified) {
                    let verified = Verified {
                        hash: hash.into(),
                        row: row.clone(),
                        at: now(),
                    };
                    lock(&self.memory).verified.insert(object.key.clone(), verified);
                }
                self.publish(&object, status).await?;
                let due = plan.facts.probe_due.map(|ms| ms as f64 / 1000.0);
                let again = plan.facts.look_again.unwrap_or(SWEEP_SECONDS) as f64;
                Ok(Some(due.unwrap_or(f64::INFINITY).min(again).min(SWEEP_SECONDS as f64)))
            }
            Next::Wait { seconds, .. } => {
                // Where only the probes were asked, what the last full look found still holds.
                if !plan.partial {
                    lock(&self.memory).verified.remove(&object.key);
                }
                self.publish(&object, status).await?;
                Ok(Some(*seconds as f64))
            }
            Next::Stuck { .. } => {
                lock(&self.memory).verified.remove(&object.key);
                self.publish(&object, status).await?;
                Ok(Some(60.0))
            }
            Next::Look(_) => Ok(Some(1.0)),
        }
    }

    async fn run(
        &self,
        connection: &Connection,
        object: GuestObject,
        desired: Option<&Desired>,
        step: &Step,
        status: GuestStatus,
    ) -> Result<Option<f64>, Stop> {
        lock(&self.memory).verified.remove(&object.key);
        if let Effect::RemoveFinalizer { leaves } = step.effect {
            return self.release(&object, &step.action, leaves).await;
        }
        let object = if object.finalizer {
            object
        } else {
            self.store.add_finalizer(&object).await?
        };
        if !self.reserve(&object, step) {
            return Ok(Some(0.2));
        }
        let status = status::announced(&status, &step.announce);
        let object = self.write(&object, status).await?;
        self.cut(&object.key, Point::BeforeEffect, &step.action)?;
        tracing::info!(key = %object.key, action = %step.action, "step");
        self.tell_restart(&object, step).await;
        let outcome = match (execute(connection, &object.key, step).await, desired) {
            (Outcome::Failed(failure), Some(desired)) => Outcome::Failed(plan::explain(desired, Some(step), failure)),
            (outcome, _) => outcome,
        };
        self.cut(&object.key, Point::AfterEffect, &step.action)?;
        self.finish(connection, &object, step, outcome).await
    }

    async fn finish(
        &self,
        connection: &Connection,
        object: &GuestObject,
        step: &Step,
        outcome: Outcome,
    ) -> Result<Option<f64>, Stop> {
        match &outcome {
            Outcome::Busy(reason) => {
                tracing::debug!(key = %object.key, reason = %reason.reason, message = %reason.message, "busy");
                if let Some(status) = status::unclaimed(&object.status, step) {
                    self.write(object, status).await?;
                }
                return Ok(Some(2.0));
            }
            Outcome::Failed(failure) => {
                tracing::warn!(key = %object.key, action = %step.action, reason = %failure.reason, message = %failure.message, "step failed");
                self.warn(
                    object,
                    failure.reason,
                    &format!("cannot {}: {}", step.action, failure.message),
                )
                .await;
            }
            _ => {}
        }
        let status = status::after_step(&object.status, step, &outcome, now(), self.options.time_scale);
        self.write(object, status).await?;
        // Without quorum nothing can be written: every object is to wait for it, instead of trying for itself.
        let lost = matches!(&outcome, Outcome::Failed(failure) if failure.reason == Reason::NoQuorum);
        let refresh = matches!(&step.effect, Effect::Call { refresh: true, .. });
        if lost || refresh {
            connection.store(connection.look(lost).await);
        }
        Ok(matches!(outcome, Outcome::Started(_)).then_some(1.0))
    }

    /// Reserves the vmid that a step records; `false` when another object was faster.
    fn reserve(&self, object: &GuestObject, step: &Step) -> bool {
        let hypervisor = object.hypervisor_ref();
        let mut memory = lock(&self.memory);
        step.announce.iter().all(|announce| match announce {
            Announce::Vmid { vmid, .. } => {
                let owner = memory
                    .reserved
                    .entry((hypervisor.clone(), *vmid))
                    .or_insert_with(|| object.key.clone());
                *owner == object.key
            }
            Announce::NoVmid => {
                memory.reserved.retain(|_, k| *k != object.key);
                true
            }
            _ => true,
        })
    }

    /// Lets a deleted object go; a guest that it `leaves` on Proxmox is a warning, which outlives the object.
    pub(super) async fn release(&self, object: &GuestObject, why: &str, leaves: bool) -> Result<Option<f64>, Stop> {
        self.cut(&object.key, Point::BeforeStatus, why)?;
        let event = Event {
            type_: if leaves { EventType::Warning } else { EventType::Normal },
            reason: Reason::Released.into(),
            message: why.to_string(),
        };
        self.store.event(object, event).await;
        if let Ok(connection) = self.connection_of(object) {
            connection.release(&object.key);
        }
        self.store.remove_finalizer(object).await?;
        self.forget(&object.key);
        Ok(Some(3600.0))
    }
}
