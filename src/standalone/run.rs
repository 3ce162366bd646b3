//! Runs pollers and reconciles until everything is Ready or cannot go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::desired::{GuestObject, Key, ObjectName, Objects};
use crate::engine::{Engine, Requeue};
use crate::reason::Reason;

use super::store::FileStore;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is Ready, or gone.
    Ready,
    /// Only objects are left that somebody has to mend something for.
    Stuck,
    /// The time ran out.
    TimedOut,
}

/// Where an object stands for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Ready, or gone when it is to be deleted.
    Ready,
    /// Stalled, or paused by somebody: nothing goes on by itself.
    Stalled,
    /// Under way.
    Working,
}

/// Where an object stands.
pub fn standing(object: &GuestObject) -> Standing {
    let stops = |c: &&Condition| ["Stalled", "Paused"].contains(&c.type_.as_str()) && c.status == "True";
    let stalled = object.status.conditions.iter().find(stops);
    let current = object.status.observed_generation == Some(object.generation);
    match stalled.filter(|_| current) {
        _ if object.is_ready() && !object.deleting => Standing::Ready,
        Some(_) => Standing::Stalled,
        None => Standing::Working,
    }
}

/// Reconciles `keys` until all of them are Ready or gone, nothing can go on, or the time is over.
pub async fn run(engine: &Arc<Engine<FileStore>>, store: &Arc<FileStore>, keys: &[Key], limit: Duration) -> End {
    let pollers = start_pollers(engine, store).await;
    let end = Scheduler::new(engine, store, keys, pollers).run(limit).await;
    tracing::debug!(?end, "run ended");
    end
}

type Changed = tokio::sync::mpsc::UnboundedReceiver<Vec<Key>>;

struct Pollers {
    tasks: JoinSet<()>,
    changed: Changed,
}

/// Each hypervisor is polled once before anything else, then on its interval.
async fn start_pollers(engine: &Arc<Engine<FileStore>>, store: &Arc<FileStore>) -> Pollers {
    let (sender, changed) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut first = JoinSet::new();
    for ObjectName { namespace, name } in store.hypervisors() {
        let (engine, store, sender) = (engine.clone(), store.clone(), sender.clone());
        let (done, wait) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        first.spawn(wait);
        tasks.spawn(async move {
            loop {
                let outcome = engine.poll(&namespace, &name).await;
                if let Err(error) = store.store_hypervisor(&namespace, &name, outcome.status) {
                    tracing::warn!(%error, "cannot keep the hypervisor's status");
                }
                if let Some(done) = done.take() {
                    let _ = done.send(());
                }
                if sender.send(outcome.changed).is_err() {
                    return;
                }
                tokio::time::sleep(outcome.next).await;
            }
        });
    }
    while first.join_next().await.is_some() {}
    Pollers { tasks, changed }
}

struct Scheduler<'a> {
    engine: &'a Arc<Engine<FileStore>>,
    store: &'a Arc<FileStore>,
    keys: BTreeSet<Key>,
    due: BTreeMap<Key, Instant>,
    running: BTreeSet<Key>,
    dirty: BTreeSet<Key>,
    work: JoinSet<(Key, Requeue)>,
    pollers: Pollers,
    /// What each object needs, and who needs it: manifests do not change during a run.
    needs: BTreeMap<Key, Vec<Key>>,
    needed_by: BTreeMap<Key, Vec<Key>>,
}

impl<'a> Scheduler<'a> {
    fn new(engine: &'a Arc<Engine<FileStore>>, store: &'a Arc<FileStore>, keys: &[Key], pollers: Pollers) -> Self {
        let now = Instant::now();
        let needs_of = |key: &Key| {
            let object = store.guest(key);
            object.map_or_else(Vec::new, |o| crate::desired::refs::needs(&o, store.as_ref()))
        };
        let needs: BTreeMap<Key, Vec<Key>> = keys.iter().map(|k| (k.clone(), needs_of(k))).collect();
        let mut needed_by: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
        for (key, need) in needs
            .iter()
            .flat_map(|(key, needed)| needed.iter().map(move |n| (key, n)))
        {
            needed_by.entry(need.clone()).or_default().push(key.clone());
        }
        Scheduler {
            engine,
            store,
            keys: keys.iter().cloned().collect(),
            due: keys.iter().map(|k| (k.clone(), now)).collect(),
            running: BTreeSet::new(),
            dirty: BTreeSet::new(),
            work: JoinSet::new(),
            pollers,
            needs,
            needed_by,
        }
    }

    async fn run(mut self, limit: Duration) -> End {
        let deadline = Instant::now() + limit;
        loop {
            self.start_due();
            if let Some(end) = self.ended() {
                self.pollers.tasks.abort_all();
                return end;
            }
            let next = self.due.values().min().copied().unwrap_or(deadline).min(deadline);
            tokio::select! {
                Some(result) = self.work.join_next(), if !self.work.is_empty() => {
                    if let Ok((key, Requeue { after, wake })) = result {
                        self.finished(key, after);
                        wake.into_iter().for_each(|key| self.wake(key));
                    }
                }
                Some(changed) = self.pollers.changed.recv() => {
                    for key in changed {
                        self.wake(key);
                    }
                }
                () = sleep_until(next) => {
                    if Instant::now() >= deadline {
                        self.pollers.tasks.abort_all();
                        return End::TimedOut;
                    }
                }
            }
        }
    }

    fn wake(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.dirty.insert(key);
        } else if self.keys.contains(&key) {
            self.due.insert(key, Instant::now());
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let ready: Vec<Key> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(k, _)| k.clone())
            .collect();
        for key in ready {
            self.due.remove(&key);
            self.running.insert(key.clone());
            let engine = self.engine.clone();
            self.work.spawn(async move {
                let requeue = engine.reconcile(&key).await;
                (key, requeue)
            });
        }
    }

    fn finished(&mut self, key: Key, after: Duration) {
        self.running.remove(&key);
        let Some(object) = self.store.guest(&key) else {
            self.keys.remove(&key);
            // A template that is being deleted waits for its clones.
            for need in self.needs.get(&key).cloned().unwrap_or_default() {
                self.wake(need);
            }
            return self.wake_others(&key);
        };
        let again = if self.dirty.remove(&key) { Duration::ZERO } else { after };
        self.due.insert(key.clone(), Instant::now() + again);
        if standing(&object) == Standing::Ready {
            self.wake_others(&key);
        }
    }

    /// Who waits for this object may go on.
    fn wake_others(&mut self, key: &Key) {
        for waiting in self.needed_by.get(key).cloned().unwrap_or_default() {
            if self
                .store
                .guest(&waiting)
                .is_some_and(|o| standing(&o) == Standing::Working)
            {
                self.wake(waiting);
            }
        }
    }

    /// Whether the run is over: nothing works any more, and everything was looked at once.
    fn ended(&self) -> Option<End> {
        if !self.running.is_empty() {
            return None;
        }
        let mut standings: BTreeMap<&Key, Standing> = BTreeMap::new();
        let mut waiting: BTreeSet<&Key> = BTreeSet::new();
        for key in &self.keys {
            self.store.look_at(key, &mut |object| {
                standings.insert(key, standing(object));
                if waits_for_others(object) {
                    waiting.insert(key);
                }
            });
        }
        if standings.values().all(|s| *s == Standing::Ready) {
            return Some(End::Ready);
        }
        let hopeless = self.hopeless(&standings, &waiting);
        let done = |(key, standing): (&&Key, &Standing)| *standing != Standing::Working || hopeless.contains(*key);
        standings.iter().all(done).then_some(End::Stuck)
    }

    /// Objects that wait for one that is Stalled or missing, however far away: found from there on, in steps.
    fn hopeless<'k>(
        &'k self,
        standings: &BTreeMap<&'k Key, Standing>,
        waiting: &BTreeSet<&'k Key>,
    ) -> BTreeSet<&'k Key> {
        let missing = |need: &&Key| !standings.contains_key(*need) && self.store.guest(need).is_none();
        let stalled = standings
            .iter()
            .filter(|(_, s)| **s == Standing::Stalled)
            .map(|(k, _)| *k);
        let mut next: Vec<&Key> = self.needed_by.keys().filter(missing).chain(stalled).collect();
        let mut found: BTreeSet<&Key> = BTreeSet::new();
        while let Some(key) = next.pop() {
            for other in self.needed_by.get(key).into_iter().flatten() {
                if waiting.contains(other) && found.insert(other) {
                    next.push(other);
                }
            }
        }
        found
    }
}

/// Whether an object says that it waits for what it needs.
fn waits_for_others(object: &GuestObject) -> bool {
    object
        .status
        .conditions
        .iter()
        .any(|c| c.type_ == "Ready" && Reason::named(&c.reason).is_some_and(Reason::waits_for_another))
}
