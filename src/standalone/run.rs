//! Runs pollers and reconciles until everything is Ready or cannot go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::desired::{GuestObject, Key, Objects};
use crate::shell::engine::Engine;

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
    /// Stalled.
    Stalled,
    /// Under way.
    Working,
}

/// Where an object stands.
pub fn standing(object: &GuestObject) -> Standing {
    let stalled = object
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == "Stalled" && c.status == "True");
    let current = object.status.observed_generation == Some(object.generation);
    match stalled.filter(|_| current) {
        Some(_) => Standing::Stalled,
        None if object.is_ready() && !object.deleting => Standing::Ready,
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
    for (namespace, name) in store.hypervisors() {
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
    work: JoinSet<(Key, Duration)>,
    pollers: Pollers,
}

impl<'a> Scheduler<'a> {
    fn new(engine: &'a Arc<Engine<FileStore>>, store: &'a Arc<FileStore>, keys: &[Key], pollers: Pollers) -> Self {
        let now = Instant::now();
        Scheduler {
            engine,
            store,
            keys: keys.iter().cloned().collect(),
            due: keys.iter().map(|k| (k.clone(), now)).collect(),
            running: BTreeSet::new(),
            dirty: BTreeSet::new(),
            work: JoinSet::new(),
            pollers,
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
                    if let Ok((key, after)) = result {
                        self.finished(key, after);
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
                let after = engine.reconcile(&key).await.after;
                (key, after)
            });
        }
    }

    fn finished(&mut self, key: Key, after: Duration) {
        self.running.remove(&key);
        let Some(object) = self.store.guest(&key) else {
            self.keys.remove(&key);
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
        let waiting: Vec<Key> = self
            .keys
            .iter()
            .filter(|k| *k != key)
            .filter(|k| self.store.guest(k).is_some_and(|o| standing(&o) == Standing::Working))
            .filter(|k| {
                let object = self.store.guest(k);
                object.is_some_and(|o| crate::desired::refs::needs(&o, self.store.as_ref()).contains(key))
            })
            .cloned()
            .collect();
        for key in waiting {
            self.wake(key);
        }
    }

    /// Whether the run is over: nothing works any more, and everything was looked at once.
    fn ended(&self) -> Option<End> {
        if !self.running.is_empty() {
            return None;
        }
        let standings: BTreeMap<&Key, Standing> = self
            .keys
            .iter()
            .filter_map(|k| Some((k, standing(&self.store.guest(k)?))))
            .collect();
        if standings.values().all(|s| *s == Standing::Ready) {
            return Some(End::Ready);
        }
        let hopeless = |key: &Key, standing: &Standing| match standing {
            Standing::Working => self.waits_for_stalled(key, &standings),
            _ => true,
        };
        standings.iter().all(|(k, s)| hopeless(k, s)).then_some(End::Stuck)
    }

    /// Whether an object waits for one that is Stalled or missing, however far away.
    fn waits_for_stalled(&self, key: &Key, standings: &BTreeMap<&Key, Standing>) -> bool {
        let Some(object) = self.store.guest(key) else {
            return false;
        };
        let waiting = object.status.conditions.iter().any(|c| {
            c.type_ == "Ready"
                && ["DependencyNotReady", "DependencyNotFound", "TemplateNotReady"].contains(&c.reason.as_str())
        });
        waiting
            && crate::desired::refs::needs(&object, self.store.as_ref())
                .iter()
                .any(|need| match standings.get(need) {
                    Some(Standing::Stalled) => true,
                    Some(Standing::Working) => self.waits_for_stalled(need, standings),
                    Some(Standing::Ready) => false,
                    None => self.store.guest(need).is_none(),
                })
    }
}
