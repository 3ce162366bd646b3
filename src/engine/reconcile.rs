//! The pipeline of one reconcile: read the object, resolve what is wanted, look, plan, carry out one step, publish.
//!
//! Nothing here decides what to do; it carries out what the plan says, in an order that a crash at any point survives:
//! what a step announces is in status before its effect leaves (promise 1), and position comes from looking
//! (promise 2).

use crate::desired::{self, Blocked, Conflict, Desired, GuestObject, Identity, Key, ObjectName, conflicts};
use crate::observed::Kept;
use crate::plan::{self, Next};
use crate::pve::Vmid;
use crate::reason::Reason;
use crate::status;

use super::connection::{Connection, Snapshot};
use super::store::{Store, StoreError};
use super::{BY_POLL, Engine, Requeue, Stop, defect, lock};

/// The right to edit owner containers.
pub(super) type OwnerLock = tokio::sync::OwnedMutexGuard<()>;

/// Steps of one reconcile before others get their turn.
const MAX_STEPS: usize = 32;

/// One look at an object with what it needs: `look.rs` looks and plans, `carry_out.rs` does what the plan says.
pub(super) struct Reconcile<'a, S: Store> {
    pub engine: &'a Engine<S>,
    pub connection: &'a Connection,
    pub snapshot: &'a Snapshot,
    pub object: GuestObject,
    /// What is wanted; `None` for an object that is being deleted, or whose spec is not valid.
    pub desired: Option<&'a Desired>,
    pub identity: Identity,
    /// Ids of earlier management clusters.
    pub previous: Vec<String>,
    /// By which annotation the object is paused.
    pub paused: Option<String>,
    /// Addresses that other objects ask for too.
    pub conflicts: Vec<Conflict>,
    /// First and last id of owner containers.
    pub owner_ids: Option<(Vmid, Vmid)>,
    /// Whether it is looked up what other objects have.
    pub held_known: bool,
    /// Kept from the first look at owner containers for as long as steps about them follow at once: one object at a time
    /// edits them, and what it opens nobody else protects before it is through.
    pub owner_lock: Option<OwnerLock>,
    /// Whether this step looked at owner containers.
    pub looked_at_owners: bool,
    /// What the step before left as it was.
    pub kept: Kept,
}

/// Seconds for which what a step left as it was counts as read now. The next step follows at once.
const KEPT: f64 = 2.0;

/// What one step leaves to the next one of the same reconcile.
#[derive(Default)]
pub(super) struct Carried {
    owner_lock: Option<OwnerLock>,
    kept: Option<(tokio::time::Instant, Kept)>,
}

impl<'a, S: Store> Reconcile<'a, S> {
    pub(super) fn new(
        engine: &'a Engine<S>,
        connection: &'a Connection,
        snapshot: &'a Snapshot,
        object: GuestObject,
        desired: Option<&'a Desired>,
    ) -> Self {
        let ObjectName { namespace, name } = object.hypervisor_ref();
        let hypervisor = engine.store.hypervisor(&namespace, &name);
        let spec = hypervisor.as_ref().map(|h| &h.spec);
        let owners = spec.and_then(|s| s.volume_owners.as_ref());
        Reconcile {
            engine,
            connection,
            snapshot,
            desired,
            identity: engine.identity_of(&object),
            previous: spec.and_then(|s| s.previous_cluster_ids.clone()).unwrap_or_default(),
            owner_ids: owners.map(|o| o.id_range.ids()),
            paused: engine.paused_by(&object),
            conflicts: match desired {
                Some(_) => conflicts::conflicts(&object, engine.store.as_ref()),
                None => Vec::new(),
            },
            held_known: Engine::<S>::may_take(&object, snapshot),
            owner_lock: None,
            looked_at_owners: false,
            kept: Kept::default(),
            object,
        }
    }
}

impl<S: Store> Engine<S> {
    /// One reconcile of a guest object: runs steps until it has to wait; never waits for a Proxmox task. A panic in it
    /// is told on the object and costs nobody else anything.
    pub async fn reconcile(&self, key: &Key) -> Requeue {
        let began = tokio::time::Instant::now();
        let requeue = match defect::caught(Box::pin(self.try_reconcile(key))).await {
            Ok(result) => self.requeue(key, result),
            Err(words) => self.panicked(key, &words).await,
        };
        let wake = self.whose_turn(key, began);
        Requeue { wake, ..requeue }
    }

    /// Who waited for what this work gave back. What the object holds of shared things without a task that works for it, or
    /// waits for no more, is given back, too.
    fn whose_turn(&self, key: &Key, began: tokio::time::Instant) -> Vec<Key> {
        let mut works = false;
        self.store
            .look_at(key, &mut |object| works = object.status.task.is_some());
        let connections: Vec<_> = lock(&self.connections).values().cloned().collect();
        let object = self.store.guest(key);
        let woken = connections.iter().flat_map(|c| {
            let cards = c.shares.with_cards(|book| book.settle(key, object.as_ref()));
            c.shares.settle(key, began, !works).into_iter().chain(cards)
        });
        woken.collect()
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
                connection.shares.release(key);
            }
            let scale = self.options.time_scale;
            let status = status::panicked(
                &object.status,
                object.generation,
                &defect::message(words),
                self.now(),
                scale,
            );
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
        let mut carried = Carried::default();
        for _ in 0..MAX_STEPS {
            let Some(object) = self.store.guest(key) else {
                self.forget(key);
                return Ok(3600.0);
            };
            if object.deleting && !object.finalizer {
                self.forget(key);
                return Ok(3600.0);
            }
            match self.one_step(object, &mut carried).await? {
                Some(seconds) => return Ok(seconds),
                None => tokio::task::yield_now().await,
            }
        }
        Ok(0.1)
    }

    /// One step: `None` when the next one can follow at once, else the seconds to wait.
    async fn one_step(&self, object: GuestObject, carried: &mut Carried) -> Result<Option<f64>, Stop> {
        if object.deleting && plan::abandoned(&object) {
            let why = "it is abandoned: what it has on Proxmox is left alone";
            return self.release(&object, why, object.status.vmid().is_some()).await;
        }
        if object.deleting
            && let Some(ended) = self.with_its_kind(&object).await?
        {
            return Ok(ended);
        }
        if self.awaits_poll(&object) {
            return Ok(Some(BY_POLL));
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
            Err(blocked) => {
                return self.without_hypervisor(&object, blocked, desired.as_ref()).await;
            }
        };
        let snapshot = match connection.snapshot() {
            Ok(snapshot) => snapshot,
            Err(problem) => {
                lock(&self.memory).verified.remove(&object.key);
                let blocked = Blocked::Waiting(problem);
                return self.without_hypervisor(&object, blocked, desired.as_ref()).await;
            }
        };
        if let Some(seconds) = self.running_task(&connection, &object, desired.as_ref()).await? {
            return Ok(seconds);
        }
        let mut reconcile = Reconcile::new(self, &connection, &snapshot, object, desired.as_ref());
        let before = std::mem::take(carried);
        reconcile.owner_lock = before.owner_lock;
        let since = connection.recent.ago(KEPT);
        reconcile.kept = before
            .kept
            .filter(|(read, _)| *read >= since)
            .map_or_else(Kept::default, |(_, kept)| kept);
        let now = tokio::time::Instant::now();
        match reconcile.make_plan().await {
            Ok(plan) => {
                let lock = reconcile.owner_lock.take().filter(|_| reconcile.looked_at_owners);
                let kept = std::mem::take(&mut reconcile.kept);
                let next = reconcile.carry_out(plan).await?;
                if next.is_none() {
                    *carried = Carried {
                        owner_lock: lock,
                        kept: Some((now, kept)),
                    };
                }
                Ok(next)
            }
            Err(problem) => {
                let blocked = Blocked::Waiting(problem);
                self.publish_blocked(&reconcile.object, blocked, vec![], desired.as_ref())
                    .await
            }
        }
    }

    /// The hypervisor cannot be used. The poll that finds that it can wakes the object.
    async fn without_hypervisor(
        &self,
        object: &GuestObject,
        blocked: Blocked,
        desired: Option<&Desired>,
    ) -> Result<Option<f64>, Stop> {
        let waits = matches!(blocked, Blocked::Waiting(_));
        let blocked = or_let_go(object, blocked);
        let again = self.publish_blocked(object, blocked, vec![], desired).await?;
        Ok(if waits { Some(BY_POLL) } else { again })
    }

    /// An object that goes because its kind does keeps its guest: who removes Phoenix does not ask for the end of all that
    /// it made. Where that cannot be asked, nothing is destroyed.
    async fn with_its_kind(&self, object: &GuestObject) -> Result<Option<Option<f64>>, Stop> {
        let kind = object.key.kind.as_str();
        match self.store.kind_goes(object.key.kind).await {
            Ok(false) => Ok(None),
            Ok(true) => {
                let left = match object.status.vmid() {
                    Some(vmid) => format!("guest {vmid} is left as it is"),
                    None => "what it has on Proxmox is left as it is".into(),
                };
                let why =
                    format!("{kind} is being removed from this cluster, which asks for the end of no guest: {left}");
                self.release(object, &why, true).await.map(Some)
            }
            Err(error) => {
                let message = format!(
                    "the deletion waits: nobody knows whether {kind} itself is being removed from this cluster, and then \
                     the guest would stay: {error}; where that is forbidden: kubectl apply -k config/rbac"
                );
                let blocked = Blocked::waiting(Reason::KindNotRead, message);
                self.publish_blocked(object, blocked, vec![], None).await.map(Some)
            }
        }
    }

    /// The spec cannot be resolved. What is under way ends, and gives its place back; nothing more is begun, but a guest
    /// that is to be stopped is stopped.
    async fn blocked(&self, object: GuestObject, blocked: Blocked) -> Result<Option<f64>, Stop> {
        let Ok(connection) = self.connection_of(&object) else {
            return self.publish_blocked(&object, blocked, vec![], None).await;
        };
        if let Some(seconds) = self.running_task(&connection, &object, None).await? {
            return Ok(seconds);
        }
        let (true, Ok(snapshot)) = (plan::wants_stop(&object), connection.snapshot()) else {
            return self.publish_blocked(&object, blocked, vec![], None).await;
        };
        let mut reconcile = Reconcile::new(self, &connection, &snapshot, object, None);
        match reconcile.make_plan().await {
            Ok(plan) if matches!(plan.next, Next::Run(_)) => reconcile.carry_out(plan).await,
            Ok(plan) => {
                self.publish_blocked(&reconcile.object, blocked, plan.findings, None)
                    .await
            }
            Err(_) => self.publish_blocked(&reconcile.object, blocked, vec![], None).await,
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
fn or_let_go(object: &GuestObject, mut blocked: Blocked) -> Blocked {
    if object.deleting {
        let (Blocked::Stalled(cause) | Blocked::Waiting(cause)) = &mut blocked;
        cause.message = format!("{}; or {}", cause.message, plan::let_go(object));
    }
    blocked
}
