//! The pipeline of one reconcile: read the object, resolve what is wanted, look, plan, carry out one step, publish.
//!
//! Nothing here decides what to do; it carries out what the plan says, in an order that a crash at any point survives:
//! what a step announces is in status before its effect leaves (promise 1), and position comes from looking
//! (promise 2).

use crate::desired::{self, Blocked, GuestObject, Key};
use crate::plan::{self, Next};
use crate::reason::Reason;
use crate::status;

use super::defect;
use super::store::{Store, StoreError};
use super::{Engine, Requeue, Stop, lock, now};

/// Steps of one reconcile before others get their turn.
const MAX_STEPS: usize = 32;

impl<S: Store> Engine<S> {
    /// One reconcile of a guest object: runs steps until it has to wait; never waits for a Proxmox task. A panic in it
    /// is told on the object and costs nobody else anything.
    pub async fn reconcile(&self, key: &Key) -> Requeue {
        match defect::caught(Box::pin(self.try_reconcile(key))).await {
            Ok(result) => self.requeue(key, result),
            Err(words) => self.panicked(key, &words).await,
        }
    }

    fn requeue(&self, key: &Key, result: Result<f64, Stop>) -> Requeue {
        match result {
            Ok(seconds) => self.after(seconds),
            Err(Stop::Store(StoreError::Conflict)) => self.after(0.2),
            Err(Stop::Store(StoreError::Gone)) => {
                self.forget(key);
                self.after(3600.0)
            }
            Err(Stop::Store(StoreError::Other(message))) => {
                tracing::warn!(%key, %message, "cannot write the object");
                self.after(5.0)
            }
            Err(Stop::Cut) => self.after(0.0),
        }
    }

    /// Tells of a panic, and forgets what is only remembered of the object; it is tried again after a pause that grows.
    async fn panicked(&self, key: &Key, words: &str) -> Requeue {
        tracing::error!(%key, panic = words, "a defect in Phoenix ended this reconcile");
        if let Some(counters) = &self.options.counters {
            counters.panicked(key.kind.as_str());
        }
        self.forget(key);
        let told = defect::caught(Box::pin(async {
            let object = self.store.guest(key)?;
            if let Ok(connection) = self.connection_of(&object) {
                connection.release(key);
            }
            let scale = self.options.time_scale;
            let status = status::panicked(&object.status, object.generation, &defect::message(words), now(), scale);
            let pause = plan::retry::pause(status.failures.unwrap_or(1));
            self.warn(&object, Reason::InternalError, &defect::message(words)).await;
            // Where it cannot be written, the log and the metric tell.
            drop(self.store.write_status(&object, &status).await);
            Some(pause)
        }));
        let pause = told.await.ok().flatten().unwrap_or(60);
        self.after(pause as f64)
    }

    async fn try_reconcile(&self, key: &Key) -> Result<f64, Stop> {
        for _ in 0..MAX_STEPS {
            let Some(object) = self.store.guest(key) else {
                self.forget(key);
                return Ok(3600.0);
            };
            if object.deleting && !object.finalizer {
                self.forget(key);
                return Ok(3600.0);
            }
            match self.one_step(object).await? {
                Some(seconds) => return Ok(seconds),
                None => tokio::task::yield_now().await,
            }
        }
        Ok(0.1)
    }

    /// One step: `None` when the next one can follow at once, else the seconds to wait.
    async fn one_step(&self, object: GuestObject) -> Result<Option<f64>, Stop> {
        if object.deleting && plan::abandoned(&object) {
            let why = "it is abandoned: what it has on Proxmox is left alone";
            return self.release(&object, why, object.status.vmid().is_some()).await;
        }
        let object = self.wake(object).await?;
        let resolved = match object.deleting {
            true => Ok(None),
            false => desired::resolve(&object, self.store.as_ref(), &self.options.cluster_id).map(Some),
        };
        let desired = match resolved {
            Ok(desired) => desired,
            Err(blocked) => {
                return self.blocked(object, blocked).await;
            }
        };
        let connection = match self.connection_of(&object) {
            Ok(connection) => connection,
            Err(blocked) => return self.publish_blocked(&object, or_let_go(&object, blocked), vec![]).await,
        };
        let snapshot = match connection.snapshot() {
            Ok(snapshot) => snapshot,
            Err(problem) => {
                lock(&self.memory).verified.remove(&object.key);
                let blocked = or_let_go(&object, Blocked::Waiting(problem));
                return self.publish_blocked(&object, blocked, vec![]).await;
            }
        };
        if let Some(seconds) = self.running_task(&connection, &object, desired.as_ref()).await? {
            return Ok(seconds);
        }
        let mut owner_guard = None;
        let plan = match self
            .make_plan(
                &connection,
                &snapshot,
                &object,
                desired.as_ref(),
                &mut owner_guard,
                false,
            )
            .await
        {
            Ok(plan) => plan,
            Err(problem) => {
                let blocked = Blocked::Waiting(problem);
                return self.publish_blocked(&object, blocked, vec![]).await;
            }
        };
        let result = self.carry_out(&connection, object, desired.as_ref(), plan).await;
        drop(owner_guard);
        result
    }

    /// The spec cannot be resolved. What is under way ends, and gives its place back; nothing more is begun, but a guest
    /// that is to be stopped is stopped.
    async fn blocked(&self, object: GuestObject, blocked: Blocked) -> Result<Option<f64>, Stop> {
        let Ok(connection) = self.connection_of(&object) else {
            return self.publish_blocked(&object, blocked, vec![]).await;
        };
        if let Some(seconds) = self.running_task(&connection, &object, None).await? {
            return Ok(seconds);
        }
        let (true, Ok(snapshot)) = (plan::wants_stop(&object), connection.snapshot()) else {
            return self.publish_blocked(&object, blocked, vec![]).await;
        };
        let plan = self
            .make_plan(&connection, &snapshot, &object, None, &mut None, false)
            .await;
        match plan {
            Ok(plan) if matches!(plan.next, Next::Run(_)) => self.carry_out(&connection, object, None, plan).await,
            Ok(plan) => self.publish_blocked(&object, blocked, plan.findings).await,
            Err(_) => self.publish_blocked(&object, blocked, vec![]).await,
        }
    }

    /// Ends pauses that a changed spec or the annotation ends, and looks at everything anew then.
    async fn wake(&self, object: GuestObject) -> Result<GuestObject, Stop> {
        let asked = object.annotations.get(crate::crd::RECONCILE);
        let woken = plan::retry::woken(&object.status, object.generation, asked);
        if woken == object.status {
            return Ok(object);
        }
        lock(&self.memory).verified.remove(&object.key);
        self.write(&object, woken).await
    }
}

/// What holds a deletion up, with the way out of it.
fn or_let_go(object: &GuestObject, blocked: Blocked) -> Blocked {
    let mut blocked = blocked;
    if object.deleting {
        let (Blocked::Stalled(cause) | Blocked::Waiting(cause)) = &mut blocked;
        cause.message = format!("{}; or {}", cause.message, plan::let_go(object));
    }
    blocked
}
