//! Carries out what the plan says next: what a step announces is in status before its effect leaves (promise 1).

use std::time::Duration;

use tracing::Instrument;
use tracing::field::Empty;

use crate::crd::GuestStatus;
use crate::desired::{Desired, GuestObject, Key};
use crate::observed::Verified;
use crate::plan::{self, Announce, Effect, Next, Plan, Step};
use crate::proxmox::Upid;
use crate::reason::{Cause, Reason};
use crate::status::{self, Ended};

use super::connection::Connection;
use super::execute::{Outcome, execute, sort};
use super::reconcile::Reconcile;
use super::store::{Event, EventType, Store};
use super::{Engine, Point, SWEEP_SECONDS, Stop, lock, options};

impl<S: Store> Reconcile<'_, S> {
    /// Does what the plan says next, and publishes.
    pub(super) async fn carry_out(self, plan: Plan) -> Result<Option<f64>, Stop> {
        let (engine, object) = (self.engine, &self.object);
        let plan = match self.no_place(&plan.next) {
            Some(cause) => plan.held_up(cause, plan::WOKEN),
            None => plan,
        };
        let hash = self.desired.map(|d| d.prints.applied.as_str());
        if let Some(state) = &plan.facts.health_state {
            lock(&engine.memory).health.insert(object.key.clone(), state.clone());
        }
        engine.count_drift(&object.key, &plan);
        let status = status::planned(&object.status, object.generation, &plan, hash, engine.now());
        match &plan.next {
            Next::Run(step) => self.run(step, plan::told(&plan, step), status).await,
            Next::Done => {
                lock(&engine.memory).told.remove(&object.key);
                if let (Some(hash), Some(row)) = (hash, &plan.facts.verified) {
                    let verified = Verified {
                        hash: hash.into(),
                        row: row.clone(),
                        at: engine.now(),
                    };
                    let mut memory = lock(&engine.memory);
                    memory.verified.insert(object.key.clone(), verified);
                    memory.seen.remove(&object.key);
                }
                if !plan.partial {
                    lock(&engine.memory).repeats.remove(&object.key);
                }
                engine.publish(object, status).await?;
                let due = plan.facts.probe_due.map(|ms| ms as f64 / 1000.0);
                let again = plan.facts.look_again.unwrap_or(SWEEP_SECONDS) as f64;
                Ok(Some(due.unwrap_or(f64::INFINITY).min(again).min(SWEEP_SECONDS as f64)))
            }
            Next::Wait { seconds, .. } => {
                // Where only the probes were asked, what the last full look found still holds.
                if !plan.partial {
                    lock(&engine.memory).verified.remove(&object.key);
                }
                engine.publish(object, status).await?;
                Ok(Some(*seconds as f64))
            }
            Next::Stuck { .. } => {
                lock(&engine.memory).verified.remove(&object.key);
                engine.publish(object, status).await?;
                Ok(Some(60.0))
            }
            Next::Look(_) => Ok(Some(1.0)),
        }
    }

    /// What the step waits for that the objects of the hypervisor share. Whoever waits is woken when it is its turn.
    fn no_place(&self, next: &Next) -> Option<Cause> {
        let Next::Run(step) = next else { return None };
        let Effect::Task { node, downloads, .. } = &step.effect else {
            return None;
        };
        let (shares, key) = (&self.connection.shares, &self.object.key);
        if let Some(download) = downloads.as_ref().filter(|d| !shares.claim_download(key, (*d).clone())) {
            let message = format!("another object downloads {}", download.volid);
            return Some(Cause::new(Reason::ImageDownloading, message));
        }
        (!shares.claim_task(key, node, self.behind())).then(|| {
            let message = format!("node {node} has as many Phoenix tasks as limits.parallelTasksPerNode allows");
            Cause::new(Reason::TaskLimit, message)
        })
    }

    async fn run(mut self, step: &Step, told: Option<Cause>, status: GuestStatus) -> Result<Option<f64>, Stop> {
        let engine = self.engine;
        lock(&engine.memory).verified.remove(&self.object.key);
        if let Effect::RemoveFinalizer { leaves } = step.effect {
            return engine.release(&self.object, &step.action, leaves).await;
        }
        if !self.object.finalizer {
            self.object = engine.store.add_finalizer(&self.object).await?;
        }
        if !engine.reserve(&self.object, step) {
            return Ok(Some(0.2));
        }
        let planned = status::announced(&status, &step.announce);
        // What announces nothing is told of with what comes of it, unless status calls the object Ready meanwhile.
        if !step.announce.is_empty() || self.object.is_ready() {
            self.object = engine.write(&self.object, planned.clone()).await?;
            // Status shows now what was reserved.
            lock(&engine.memory).reserved.retain(|_, key| *key != self.object.key);
        }
        engine.store.before_step(&self.object).await;
        let key = &self.object.key;
        engine.cut(key, Point::BeforeEffect, &step.action)?;
        let spec = self.desired.map(|d| d.prints.applied.as_str());
        lock(&engine.memory)
            .repeats
            .entry(key.clone())
            .or_default()
            .count(spec, step);
        tracing::info!(%key, action = %step.action, "step");
        let began = tokio::time::Instant::now();
        let span = tracing::debug_span!(
            "step",
            action = %step.action,
            effect = sort(&step.effect),
            reason = Empty,
            otel.status_code = Empty
        );
        let outcome = execute(self.connection, key, step).instrument(span.clone()).await;
        let took = began.elapsed();
        if let Outcome::Failed(cause) = &outcome {
            span.record("reason", cause.reason.as_str());
            span.record("otel.status_code", "ERROR");
        }
        let outcome = match (outcome, self.desired) {
            (Outcome::Failed(failure), Some(desired)) => {
                let node = self.object.status.node.as_deref().unwrap_or_default();
                Outcome::Failed(explained(self.connection, desired, Some(step), node, failure).await)
            }
            (outcome, _) => outcome,
        };
        engine.cut(key, Point::AfterEffect, &step.action)?;
        self.finish(step, told, outcome, planned, took).await
    }

    /// What came of a step is in status: from what was `planned`, where it is not known yet what becomes of it.
    async fn finish(
        &self,
        step: &Step,
        told: Option<Cause>,
        outcome: Outcome,
        planned: GuestStatus,
        took: Duration,
    ) -> Result<Option<f64>, Stop> {
        let (engine, object) = (self.engine, &self.object);
        let count = |ended| {
            if let Some(counters) = &engine.options.counters {
                counters.step(&object.key, sort(&step.effect), ended, took);
            }
        };
        let ended = match outcome {
            Outcome::Busy(reason) => {
                count(options::Ended::Busy);
                tracing::debug!(key = %object.key, reason = %reason.reason, message = %reason.message, "busy");
                engine.no_repetition(&object.key, &step.action);
                if let Some(status) = status::unclaimed(&object.status, step) {
                    engine.write(object, status).await?;
                }
                return Ok(Some(2.0));
            }
            Outcome::Failed(failure) => {
                engine.no_repetition(&object.key, &step.action);
                Ended::Failed(failure)
            }
            Outcome::Started(upid) => {
                engine.count_restart(object, step);
                Ended::Started(upid, told.map(|told| told.reason))
            }
            Outcome::Done => match engine.in_vain(&object.key, &step.action) {
                Some(failure) => Ended::Failed(failure),
                None => {
                    engine.count_restart(object, step);
                    if let Some(told) = told {
                        engine.tell(object, told).await;
                    }
                    Ended::Done
                }
            },
        };
        count(match &ended {
            Ended::Done => options::Ended::Done,
            Ended::Started(..) => options::Ended::Started,
            Ended::Failed(failure) => options::Ended::Failed(failure.reason),
        });
        if let Ended::Failed(failure) = &ended {
            tracing::warn!(key = %object.key, action = %step.action, reason = %failure.reason, message = %failure.message, "step failed");
            let message = format!("cannot {}: {}", step.action, failure.message);
            engine.warn(object, failure.reason, &message).await;
        }
        let before = if ended == Ended::Done { &object.status } else { &planned };
        let status = status::after_step(before, step, &ended, engine.now(), engine.options.time_scale);
        engine.write(object, status).await?;
        // Without quorum nothing can be written: every object is to wait for it, instead of trying for itself.
        let lost = matches!(&ended, Ended::Failed(failure) if failure.reason == Reason::NoQuorum);
        let refresh = matches!(&step.effect, Effect::Call { refresh: true, .. });
        if lost || refresh {
            self.connection.store(self.connection.look(lost).await);
        }
        Ok(match &ended {
            // What cannot be read as a task is given up at the next look.
            Ended::Started(upid, _) => {
                let look = |upid: Upid| engine.next_look(self.connection, &object.key, &upid);
                Some(upid.parse().map_or(0.1, look))
            }
            _ => None,
        })
    }
}

/// The failure with the field that it is about. A node that lacks a GPU is asked which ones it has.
pub(super) async fn explained(
    connection: &Connection,
    desired: &Desired,
    step: Option<&Step>,
    node: &str,
    failure: Cause,
) -> Cause {
    let gpus = match plan::lacks_gpu(&failure.message) && !node.is_empty() {
        true => connection.client.nvidia_gpus(node).await.ok(),
        false => None,
    };
    plan::explain(desired, step, &plan::Place { node, gpus }, failure)
}

impl<S: Store> Engine<S> {
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

    /// Why a step that succeeded counts as failed.
    pub(super) fn in_vain(&self, key: &Key, action: &str) -> Option<Cause> {
        lock(&self.memory).repeats.get(key)?.in_vain(action)
    }

    /// Counts what somebody else changed, once for each field until all is as wanted.
    fn count_drift(&self, key: &Key, plan: &Plan) {
        let drifted = &mut lock(&self.memory).drifted;
        if plan.facts.drift.is_empty() {
            if plan.next == Next::Done && !plan.partial {
                drifted.remove(key);
            }
            return;
        }
        let known = drifted.entry(key.clone()).or_default();
        for field in &plan.facts.drift {
            if let (true, Some(counters)) = (known.insert(field), &self.options.counters) {
                counters.drift(key, field);
            }
        }
    }

    /// A step that did not succeed may be tried again.
    pub(super) fn no_repetition(&self, key: &Key, action: &str) {
        if let Some(repeats) = lock(&self.memory).repeats.get_mut(key) {
            repeats.failed(action);
        }
    }

    /// Lets a deleted object go; a guest that it `leaves` on Proxmox is a warning, which outlives the object.
    pub(super) async fn release(&self, object: &GuestObject, why: &str, leaves: bool) -> Result<Option<f64>, Stop> {
        self.cut(&object.key, Point::BeforeStatus, why)?;
        let type_ = if leaves { EventType::Warning } else { EventType::Normal };
        let told = Cause::new(Reason::Released, why);
        // Before it is gone, so that a crash cannot swallow it; and once, though the finalizer may take several attempts.
        if lock(&self.memory).told.insert(object.key.clone(), told.clone()) != Some(told.clone()) {
            self.store.event(object, Event::new(type_, told)).await;
        }
        if let Ok(connection) = self.connection_of(object) {
            connection.shares.release(&object.key);
        }
        self.store.remove_finalizer(object).await?;
        self.forget(&object.key);
        Ok(Some(3600.0))
    }
}
