//! The pipeline of one reconcile: read the object, resolve what is wanted, look, plan, carry out one step, publish.
//!
//! Nothing here decides what to do; it carries out what the plan says, in an order that a crash at any point survives:
//! what a step announces is in status before its effect leaves (promise 1), and position comes from looking
//! (promise 2).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::crd::{ADOPT, GuestKind, GuestStatus, RESTAMP};
use crate::desired::{self, Blocked, Desired, GuestObject, Key, Stamp, refs};
use crate::observed::{ClonePlace, Failure, HealthState, Observed, Recorded, Verified};
use crate::plan::{self, Announce, Effect, Input, Next, Plan, Step, Surroundings};
use crate::proxmox::{Upid, task::TaskState};
use crate::pve::GuestType;
use crate::status::{self, Outcome};

use super::connection::{Connection, Snapshot};
use super::defect;
use super::execute::execute;
use super::failure::{failure, of_call};
use super::observe;
pub use super::options::{Counters, EngineOptions, Point, Tripwire};
use super::store::{Event, EventType, Store, StoreError};

/// Steps of one reconcile before others get their turn.
const MAX_STEPS: usize = 32;
/// Looks for one plan; more means that a plan asks in circles.
const MAX_LOOKS: usize = 64;
/// Seconds after which a guest is looked at in full although nothing seems to have changed.
const SWEEP_SECONDS: i64 = 600;

/// When an object wants to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requeue {
    /// After so long, or earlier when something changes.
    pub after: Duration,
}

/// Why a reconcile ended early.
pub(super) enum Stop {
    Store(StoreError),
    /// A test cut it off.
    Cut,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

/// The engine; one for all hypervisors.
pub struct Engine<S: Store> {
    pub(super) store: Arc<S>,
    pub(super) options: EngineOptions,
    pub(super) connections: Mutex<HashMap<(String, String), Arc<Connection>>>,
    memory: Mutex<Memory>,
    began: std::time::Instant,
}

/// What is kept in memory only; losing it costs a look.
#[derive(Default)]
struct Memory {
    verified: HashMap<Key, Verified>,
    /// What the probes of the objects' guests said.
    health: HashMap<Key, HealthState>,
    /// Vmids that were chosen, until status shows them: hypervisor and vmid → object.
    reserved: HashMap<((String, String), i64), Key>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn now() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

impl<S: Store> Engine<S> {
    /// An engine over a store.
    pub fn new(store: Arc<S>, options: EngineOptions) -> Self {
        Engine {
            store,
            options,
            connections: Mutex::default(),
            memory: Mutex::default(),
            began: std::time::Instant::now(),
        }
    }

    /// Milliseconds since the engine began, as fast as its time goes.
    fn clock(&self) -> i64 {
        (self.began.elapsed().as_secs_f64() * 1000.0 * self.options.time_scale) as i64
    }

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
            self.warn(&object, "InternalError", &defect::message(words)).await;
            // Where it cannot be written, the log and the metric tell.
            drop(self.store.write_status(&object, &status).await);
            Some(pause)
        }));
        let pause = told.await.ok().flatten().unwrap_or(60);
        self.after(pause as f64)
    }

    fn after(&self, seconds: f64) -> Requeue {
        Requeue {
            after: Duration::from_secs_f64((seconds / self.options.time_scale).max(0.02)),
        }
    }

    fn forget(&self, key: &Key) {
        let mut memory = lock(&self.memory);
        memory.verified.remove(key);
        memory.health.remove(key);
        memory.reserved.retain(|_, k| k != key);
    }

    pub(super) fn cut(&self, key: &Key, point: Point, what: &str) -> Result<(), Stop> {
        match &self.options.tripwire {
            Some(wire) if wire.trip(key, point, what) => Err(Stop::Cut),
            _ => Ok(()),
        }
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
            return self.release(&object, why, object.status.vmid.is_some()).await;
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
                let blocked = or_let_go(&object, Blocked::waiting(problem.reason, problem.message));
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
                let blocked = Blocked::waiting(problem.reason, problem.message);
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

    /// Looks and plans until the plan needs no more looks.
    pub(super) async fn make_plan<'c>(
        &self,
        connection: &'c Connection,
        snapshot: &Snapshot,
        object: &GuestObject,
        desired: Option<&Desired>,
        owner_guard: &mut Option<tokio::sync::MutexGuard<'c, ()>>,
        preview: bool,
    ) -> Result<Plan, Failure> {
        let mut observed = self.start_looking(snapshot, object);
        observed.cloned_revisions = self.cloned_revisions(object);
        if object.deleting && object.key.kind == GuestKind::PhoenixTemplate {
            let hypervisor = object.hypervisor_ref();
            self.store.look_at_all(&mut |o| {
                let vmid = o
                    .status
                    .vmid
                    .filter(|_| o.hypervisor_ref() == hypervisor && o.key != object.key);
                observed.objects.extend(vmid.map(|vmid| (vmid, o.key.to_string())));
            });
        }
        if !preview {
            observed.clone_queue = desired.and_then(|d| queued(connection, snapshot, d, object));
        }
        let identity = match desired {
            Some(desired) => observe::identity(desired),
            None => self.identity_of(object),
        };
        let (namespace, name) = object.hypervisor_ref();
        let hypervisor = self.store.hypervisor(&namespace, &name);
        let spec = hypervisor.as_ref().map(|h| &h.spec);
        let previous = spec.and_then(|s| s.previous_cluster_ids.clone()).unwrap_or_default();
        let owners = spec.and_then(|s| s.volume_owners.as_ref());
        let around = Surroundings {
            cluster_id: &self.options.cluster_id,
            previous: &previous,
            owner_ids: owners.map(|o| (o.id_range.start, o.id_range.end)),
        };
        let dependencies = || refs::dependencies(object, self.store.as_ref());
        let status = match desired {
            Some(desired) => status::upgraded(&object.status, object.generation, &desired.hash),
            None => Cow::Borrowed(&object.status),
        };
        let mut held_known = Self::may_take(object, snapshot);
        for _ in 0..MAX_LOOKS {
            let plan = match desired {
                Some(desired) => plan::plan(Input {
                    desired,
                    dependencies: &dependencies,
                    observed: &observed,
                    status: &status,
                    now: now(),
                    clock: self.clock(),
                    preview,
                }),
                None if object.deleting => plan::plan_deletion(object, &observed, around, now()),
                None => plan::plan_stop(object, &observed, around, now()),
            };
            let Next::Look(query) = &plan.next else {
                let waits = matches!(
                    plan.next,
                    Next::Wait {
                        reason: "TemplateBusy",
                        ..
                    }
                );
                if observed.clone_queue.is_some() && !waits {
                    connection.leave_clone_queue(&object.key);
                }
                return Ok(plan);
            };
            if let plan::Query::VmidFree { vmid, .. } = query
                && !preview
                && !self.choose(object, *vmid)
            {
                observed.reserved = self.reserved(&lock(&self.memory), object);
                continue;
            }
            // A search leaves out what other objects have, which otherwise nobody needs to know.
            if matches!(query, plan::Query::Stamped { .. }) && !held_known {
                held_known = true;
                observed.held = self.held(&lock(&self.memory), object);
                continue;
            }
            // Who looks at owner containers is about to edit one: one object at a time.
            if matches!(query, plan::Query::Owners { .. }) {
                if owner_guard.is_none() {
                    *owner_guard = Some(connection.owners.lock().await);
                }
                observed.recorded = self.recorded(object);
            }
            observe::look(connection, snapshot, &identity, &previous, query, &mut observed).await?;
            if let (Some(counters), plan::Query::Probes { probes, .. }) = (&self.options.counters, query) {
                let answers = probes.iter().filter_map(|p| observed.probes.get_key_value(&p.kind));
                answers.for_each(|(kind, answer)| counters.probe(*kind, answer));
            }
        }
        Err(failure(
            "InternalError",
            "the plan asks for the same looks again and again",
        ))
    }

    pub(super) fn identity_of(&self, object: &GuestObject) -> Stamp {
        Stamp {
            cluster: self.options.cluster_id.clone(),
            kind: object.key.kind.as_str().into(),
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            uid: object.uid.clone(),
            ..Stamp::default()
        }
    }

    fn start_looking(&self, snapshot: &Snapshot, object: &GuestObject) -> Observed {
        let mut cluster = snapshot.cluster.clone();
        let (namespace, name) = object.hypervisor_ref();
        cluster.recorded = self
            .store
            .hypervisor(&namespace, &name)
            .and_then(|h| h.status.clone()?.cluster);
        let memory = lock(&self.memory);
        let verified = memory.verified.get(&object.key).cloned();
        // A look of a later time was made while the clock was ahead.
        let fresh = |v: &Verified| (0..=SWEEP_SECONDS).contains(&(now() - v.at));
        let sweep = !verified.as_ref().is_some_and(fresh);
        Observed {
            cluster,
            reserved: self.reserved(&memory, object),
            held: match Self::may_take(object, snapshot) {
                true => self.held(&memory, object),
                false => BTreeMap::new(),
            },
            verified,
            sweep,
            health: memory.health.get(&object.key).cloned(),
            ..Observed::default()
        }
    }

    /// Revisions of a template from which objects were cloned.
    fn cloned_revisions(&self, template: &GuestObject) -> Vec<Option<String>> {
        if template.status.revisions.is_none() {
            return Vec::new();
        }
        let guests = self.store.guests();
        let cloned = guests.iter().filter(|g| {
            let parent = g
                .template_ref()
                .and_then(|name| refs::template(g, name, self.store.as_ref()).ok());
            g.status.vmid.is_some() && parent.is_some_and(|p| p.key == template.key)
        });
        cloned.map(|g| g.status.template_revision.clone()).collect()
    }

    /// Guests and owner containers that statuses of the same hypervisor's objects name.
    fn recorded(&self, object: &GuestObject) -> Recorded {
        let hypervisor = object.hypervisor_ref();
        let mut recorded = Recorded::default();
        for other in self.store.guests().iter().filter(|o| o.hypervisor_ref() == hypervisor) {
            let status = &other.status;
            let old = status.revisions.iter().flatten().map(|r| r.vmid);
            recorded.guests.extend(status.vmid.into_iter().chain(old));
            recorded
                .owners
                .extend(status.volumes.iter().flatten().filter_map(|v| v.owner_vmid));
        }
        recorded
    }

    /// Vmids that other objects have or want on the same hypervisor.
    fn reserved(&self, memory: &Memory, object: &GuestObject) -> BTreeSet<i64> {
        if object.status.vmid.is_some() {
            return BTreeSet::new();
        }
        let hypervisor = object.hypervisor_ref();
        let mut wanted = BTreeSet::new();
        self.store.look_at_all(&mut |o| {
            if o.key != object.key && o.hypervisor_ref() == hypervisor {
                wanted.extend(o.status.vmid.into_iter().chain(o.spec_vmid()));
            }
        });
        let chosen = memory
            .reserved
            .iter()
            .filter(|((h, _), k)| *h == hypervisor && **k != object.key)
            .map(|((_, v), _)| *v);
        wanted.extend(chosen);
        wanted
    }

    /// Whether it matters from the start what other objects have: where a guest may be taken.
    fn may_take(object: &GuestObject, snapshot: &Snapshot) -> bool {
        let status = &object.status;
        let listed = |vmid: i64| snapshot.cluster.guests.contains_key(&vmid);
        let present = status.vmid.is_some_and(listed);
        let asks = status.claim.is_some() || object.annotations.contains_key(RESTAMP);
        !present || asks || object.deleting
    }

    /// Vmids that other objects have on the same Proxmox, with who has each.
    fn held(&self, memory: &Memory, object: &GuestObject) -> BTreeMap<i64, String> {
        let own = object.hypervisor_ref();
        let mut known: HashMap<(String, String), bool> = HashMap::new();
        let mut here = |other: (String, String)| {
            if let Some(same) = known.get(&other) {
                return *same;
            }
            let same = refs::same_proxmox(&own, &other, self.store.as_ref());
            known.insert(other, same);
            same
        };
        let mut held = BTreeMap::new();
        for other in self.store.guests() {
            if other.key == object.key || !here(other.hypervisor_ref()) {
                continue;
            }
            let old = other.status.revisions.iter().flatten().map(|r| r.vmid);
            let all = other.status.vmid.into_iter().chain(old);
            held.extend(all.map(|vmid| (vmid, other.key.to_string())));
        }
        for ((hypervisor, vmid), key) in &memory.reserved {
            if *key != object.key && here(hypervisor.clone()) {
                held.entry(*vmid).or_insert_with(|| key.to_string());
            }
        }
        held
    }

    /// Follows a Proxmox task that status names: `Some(wait)` while it runs or when it failed.
    async fn running_task(
        &self,
        connection: &Connection,
        object: &GuestObject,
        desired: Option<&Desired>,
    ) -> Result<Option<Option<f64>>, Stop> {
        let Some(task) = &object.status.task else {
            return Ok(None);
        };
        let Ok(upid) = task.upid.parse::<Upid>() else {
            self.write(
                object,
                status::after_task(&object.status, None, now(), self.options.time_scale),
            )
            .await?;
            return Ok(Some(None));
        };
        let failed = match connection.client.task(&upid).await {
            Ok(TaskState::Running) => {
                connection.hold_task(&object.key, &upid.node);
                return Ok(Some(Some(if upid.kind.ends_with("start") { 1.0 } else { 2.0 })));
            }
            Ok(TaskState::Succeeded { .. }) => {
                connection.downloaded(&object.key);
                None
            }
            Ok(TaskState::Forgotten) => None,
            Ok(TaskState::Failed(text)) => {
                let reason = super::failure::reason_of(&text).unwrap_or("TaskFailed");
                // The exit status is one line; the log before it often says why (facts B.3).
                let log = connection.client.task_log(&upid, 4).await.unwrap_or_default();
                let told = |line: &&String| !line.starts_with("TASK ERROR") && !line.is_empty() && **line != text;
                let details: Vec<&str> = log.iter().filter(told).map(String::as_str).collect();
                let details = if details.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", details.join("; "))
                };
                let failure = failure(reason, format!("{text}{details}"));
                Some(desired.map_or_else(
                    || failure.clone(),
                    |desired| plan::explain(desired, None, failure.clone()),
                ))
            }
            Err(error) => {
                let problem = of_call(&error);
                let wait = self
                    .publish_blocked(object, Blocked::waiting(problem.reason, problem.message), vec![])
                    .await?;
                return Ok(Some(wait.or(Some(5.0))));
            }
        };
        connection.release(&object.key);
        let status = status::after_task(&object.status, failed.as_ref(), now(), self.options.time_scale);
        if let Some(failure) = &failed {
            self.warn(object, failure.reason, &format!("{}: {}", task.action, failure.message))
                .await;
        }
        self.write(object, status).await?;
        Ok(Some(None))
    }

    /// Does what the plan says next, and publishes.
    async fn carry_out(
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
                tracing::debug!(key = %object.key, reason = reason.reason, message = %reason.message, "busy");
                if let Some(status) = status::unclaimed(&object.status, step) {
                    self.write(object, status).await?;
                }
                return Ok(Some(2.0));
            }
            Outcome::Failed(failure) => {
                tracing::warn!(key = %object.key, action = %step.action, reason = failure.reason, message = %failure.message, "step failed");
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
        let lost = matches!(&outcome, Outcome::Failed(failure) if failure.reason == "NoQuorum");
        let refresh = matches!(&step.effect, Effect::Call { refresh: true, .. });
        if lost || refresh {
            connection.store(connection.look(lost).await);
        }
        Ok(matches!(outcome, Outcome::Started(_)).then_some(1.0))
    }

    /// Keeps a vmid for the object before it is asked about, so that of many that choose at once each asks about another
    /// one; `false`: somebody else has it. What the spec or the annotation names is nobody's choice.
    fn choose(&self, object: &GuestObject, vmid: i64) -> bool {
        let named = object.spec_vmid() == Some(vmid) || object.annotations.contains_key(ADOPT);
        if object.deleting || object.status.vmid.is_some() {
            return true;
        }
        let reserved = &mut lock(&self.memory).reserved;
        if named {
            reserved.retain(|_, key| *key != object.key);
            return true;
        }
        let place = (object.hypervisor_ref(), vmid);
        match reserved.get(&place) {
            Some(key) => *key == object.key,
            None => {
                reserved.retain(|_, key| *key != object.key);
                reserved.insert(place, object.key.clone());
                true
            }
        }
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
    async fn release(&self, object: &GuestObject, why: &str, leaves: bool) -> Result<Option<f64>, Stop> {
        self.cut(&object.key, Point::BeforeStatus, why)?;
        let event = Event {
            type_: if leaves { EventType::Warning } else { EventType::Normal },
            reason: "Released".into(),
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

    /// The connection of an object's hypervisor.
    pub(super) fn connection_of(&self, object: &GuestObject) -> Result<Arc<Connection>, Blocked> {
        let (namespace, name) = object.hypervisor_ref();
        if self.store.hypervisor(&namespace, &name).is_none() {
            let message = format!(
                "spec.hypervisorRef: there is no PhoenixHypervisor {namespace}/{name}: create it or correct the name"
            );
            return Err(Blocked::stalled("HypervisorNotFound", message));
        }
        lock(&self.connections)
            .get(&(namespace.clone(), name.clone()))
            .cloned()
            .ok_or_else(|| {
                let message = format!("PhoenixHypervisor {namespace}/{name} was not reached yet");
                Blocked::waiting("HypervisorNotReady", message)
            })
    }
}

/// What holds a deletion up, with the way out of it.
fn or_let_go(object: &GuestObject, blocked: Blocked) -> Blocked {
    let hint = |message: String| match object.deleting {
        true => format!("{message}; or {}", plan::let_go(object)),
        false => message,
    };
    match blocked {
        Blocked::Stalled { reason, message } => Blocked::stalled(reason, hint(message)),
        Blocked::Waiting { reason, message } => Blocked::waiting(reason, hint(message)),
    }
}

/// The object's place among those that wait for a clone of the same container (facts D.4). Machines do not queue: their
/// source takes several clones at once (facts F.4).
fn queued(connection: &Connection, snapshot: &Snapshot, desired: &Desired, object: &GuestObject) -> Option<ClonePlace> {
    let Some(desired::Source::Clone { vmid: source, .. }) = &desired.source else {
        return None;
    };
    let vmid = object.status.vmid?;
    let waits = *source != 0
        && desired.type_ == GuestType::Lxc
        && object.status.task.is_none()
        && !snapshot.cluster.guests.contains_key(&vmid);
    waits.then(|| connection.queue_clone(*source, &object.key))
}
