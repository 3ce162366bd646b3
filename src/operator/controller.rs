//! Takes work from the queue and does it: each object by itself, objects of one hypervisor within a limit, so that
//! nothing waits for a hypervisor that hangs but its own guests (promise 8). Namespaces that share a hypervisor take
//! turns.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, error, info_span, warn};

use crate::crd::HypervisorStatus;
use crate::desired::{GuestObject, Key, ObjectName};
use crate::engine::store::Store;
use crate::engine::{Engine, Requeue};

use super::objects::Item;
use super::objects::state::State;
use super::objects::store::KubeStore;
use super::queue::Queue;

/// Longest time that one piece of work may take. The engine's own deadlines are far shorter; this one only keeps a
/// place from being lost for good. Work that is dropped here is as work that a crash ended: the next run converges.
const WORK_DEADLINE: Duration = Duration::from_secs(900);

/// Time after which work that failed in an unforeseen way is tried again.
const RETRY_AFTER_DEFECT: Duration = Duration::from_secs(60);

/// Polls, finalizers and features worked on at once, besides guests.
const SHARED_LIMIT: usize = 4;

/// What a poll of a hypervisor found.
#[derive(Clone, Debug, PartialEq)]
pub struct Polled {
    /// Its status now.
    pub status: HypervisorStatus,
    /// Guest objects whose guests changed.
    pub changed: Vec<Key>,
    /// When to poll next.
    pub next: Duration,
}

/// What the controllers drive: the engine, or a stand-in in tests.
pub trait Reconciler: Send + Sync + 'static {
    /// Works on a guest object until it has to wait; says for how long.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Requeue> + Send;
    /// Looks at a hypervisor once.
    fn poll(&self, namespace: &str, name: &str) -> impl Future<Output = Polled> + Send;
}

impl<S: Store> Reconciler for Engine<S> {
    async fn reconcile(&self, key: &Key) -> Requeue {
        Engine::reconcile(self, key).await
    }

    async fn poll(&self, namespace: &str, name: &str) -> Polled {
        let outcome = Engine::poll(self, namespace, name).await;
        Polled {
            status: outcome.status,
            changed: outcome.changed,
            next: outcome.next,
        }
    }
}

/// Items that wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Finalizers and features.
    Shared,
    /// Polls of one hypervisor.
    Poll(ObjectName),
    /// Guests of one hypervisor.
    Guests(ObjectName),
}

/// Takes work and does it.
pub struct Controller<R> {
    store: Arc<KubeStore>,
    reconciler: Arc<R>,
    /// Guests of one hypervisor that are worked on at once.
    guests_limit: usize,
    retry_after_defect: Duration,
    queue: Queue<Item, Lane, String>,
    tasks: JoinSet<Done>,
    running: HashMap<tokio::task::Id, Item>,
}

/// A piece of work is done.
struct Done {
    item: Item,
    /// When it is wanted again.
    next: Option<Duration>,
    /// What else is to be worked on now.
    also: Vec<Item>,
}

impl<R: Reconciler> Controller<R> {
    /// A controller that works on at most `guests_limit` guests of a hypervisor at once.
    pub fn new(store: Arc<KubeStore>, reconciler: Arc<R>, guests_limit: usize) -> Self {
        Controller {
            store,
            reconciler,
            guests_limit,
            retry_after_defect: RETRY_AFTER_DEFECT,
            queue: Queue::default(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Works until `stop` is done; then lets what is under way end, for `grace` at most.
    pub async fn run(mut self, mut items: UnboundedReceiver<Item>, stop: impl Future<Output = ()>, grace: Duration) {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.begin_due();
            self.store.metrics.queue(self.queue.backlog(), self.queue.running());
            let due = self.queue.next_due();
            tokio::select! {
                // In this order, and not by chance: so that the same happens each time in tests.
                biased;
                () = &mut stop => break,
                Some(ended) = self.tasks.join_next_with_id() => self.end(ended),
                Some(item) = items.recv() => self.queue.add(item, Instant::now()),
                () = sleep_until(due) => {}
            }
            // Whatever else came with it, before the next turn.
            while let Some(ended) = self.tasks.try_join_next_with_id() {
                self.end(ended);
            }
            while let Ok(item) = items.try_recv() {
                self.queue.add(item, Instant::now());
            }
        }
        let under_way = self.tasks.len();
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            warn!(under_way, "stopped without waiting any longer for work under way");
        }
    }

    fn begin_due(&mut self) {
        let now = Instant::now();
        let guests_limit = self.guests_limit;
        loop {
            let state = self.store.state();
            let limit = |lane: &Lane| match lane {
                Lane::Shared => SHARED_LIMIT,
                Lane::Poll(_) => 1,
                Lane::Guests(_) => guests_limit,
            };
            let Some(item) = self.queue.pop(now, |item| (lane(&state, item), party(item)), limit) else {
                return;
            };
            drop(state);
            self.store.metrics.waited(self.queue.waited());
            let work = work(self.store.clone(), self.reconciler.clone(), item.clone());
            let id = self.tasks.spawn(work).id();
            self.running.insert(id, item);
        }
    }

    fn end(&mut self, ended: Result<(tokio::task::Id, Done), tokio::task::JoinError>) {
        let now = Instant::now();
        match ended {
            Ok((id, done)) => {
                self.running.remove(&id);
                self.queue.done(&done.item, done.next.map(|after| now + after));
                for item in done.also {
                    self.queue.add(item, now);
                }
            }
            Err(failed) => {
                if let Some(item) = self.running.remove(&failed.id()) {
                    error!(?item, %failed, "a defect in Phoenix ended this work; it is tried again later");
                    self.store.metrics.panicked(&item);
                    self.queue.done(&item, Some(now + self.retry_after_defect));
                }
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn lane(state: &State, item: &Item) -> Lane {
    match item {
        Item::Guest(key) => match state.guest(key) {
            Some(guest) => Lane::Guests(guest.object.hypervisor_ref()),
            None => Lane::Shared,
        },
        Item::Poll(name) => Lane::Poll(name.clone()),
        Item::Guard(_) | Item::Feature(_) | Item::Expose(_) => Lane::Shared,
    }
}

/// Whose turn it is that an item takes: its namespace's.
fn party(item: &Item) -> String {
    item.namespace().clone()
}

/// One piece of work, with its place in the logs and metrics.
async fn work<R: Reconciler>(store: Arc<KubeStore>, reconciler: Arc<R>, item: Item) -> Done {
    let started = Instant::now();
    let span = match &item {
        Item::Guest(key) => {
            info_span!(
                "reconcile",
                kind = key.kind.as_str(),
                namespace = key.namespace,
                name = key.name,
                result = Empty
            )
        }
        Item::Poll(name) => info_span!("poll", namespace = name.namespace, name = name.name),
        Item::Guard(namespace) => info_span!("finalizers", namespace),
        Item::Expose(key) => info_span!(
            "expose",
            kind = key.kind.as_str(),
            namespace = key.namespace,
            name = key.name
        ),
        Item::Feature(name) => info_span!("feature", namespace = name.namespace, name = name.name),
    };
    let attempt = tokio::time::timeout(WORK_DEADLINE, attempt(&store, reconciler.as_ref(), &item));
    let (result, done) = attempt.instrument(span.clone()).await.unwrap_or_else(|_| {
        warn!(?item, "gave up on work that did not end; it is begun anew");
        ("timeout", (Some(RETRY_AFTER_DEFECT), Vec::new()))
    });
    span.record("result", result);
    store.metrics.reconciled(&item, result, started.elapsed());
    let (next, also) = done;
    Done { item, next, also }
}

type Outcome = (&'static str, (Option<Duration>, Vec<Item>));

async fn attempt<R: Reconciler>(store: &KubeStore, reconciler: &R, item: &Item) -> Outcome {
    match item {
        Item::Guest(key) => {
            let Requeue { after, wake } = reconciler.reconcile(key).await;
            let also = wake.into_iter().map(Item::Guest).collect();
            match store.state().guest(key) {
                Some(guest) => (result_of(&guest.object), (Some(after), also)),
                None => ("gone", (None, also)),
            }
        }
        Item::Poll(name) => super::poll::poll(store, reconciler, name).await,
        Item::Guard(namespace) => match store.guard_namespace(namespace).await {
            Ok(()) => (
                "ok",
                (None, super::poll::blocked_hypervisors(&store.state(), namespace)),
            ),
            Err(error) => {
                warn!(namespace, %error, "finalizers not all written, tried again");
                ("error", (Some(Duration::from_secs(2)), Vec::new()))
            }
        },
        Item::Feature(name) => super::poll::feature(store, name).await,
        Item::Expose(key) => super::expose::work(store, key).await,
    }
}

/// What an object's status says, in one word.
fn result_of(object: &GuestObject) -> &'static str {
    let holds = |type_: &str| {
        let conditions = &object.status.conditions;
        conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
    };
    if holds("Stalled") {
        "stalled"
    } else if object.is_ready() {
        "ready"
    } else {
        "progressing"
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
