//! The engine: what is wanted, what is so, one step, status. The only effects of the project are here.
//!
//! * [`reconcile`](Engine::reconcile) the order of one reconcile: `reconcile.rs`; `look.rs` looks and plans, `carry_out.rs` does a
//!   step, `task.rs` follows a Proxmox task, `publish.rs` writes status and events (`events.rs`: which)
//! * `poll.rs` asks a hypervisor what there is; `preview.rs` is `phoenix plan`: the same plans over a forecast
//! * [`connection`] one a hypervisor; [`observe`] reads, [`execute`] effects, [`failure`] what went wrong; [`defect`]
//!   keeps a panic to the work in which it happened
//! * `fresh.rs` what was read a moment ago, for all who need it; `durations.rs` when a task is looked at again
//! * [`doctor`] asks a hypervisor what `phoenix doctor` looks at
//! * `probes.rs` asks the probes of guests beside the reconciles, many over one channel
//! * `turns.rs` who comes next where namespaces share a hypervisor
//! * [`store`] where objects and their status are kept

pub mod agent;
mod cards;
mod carry_out;
pub mod connection;
pub mod defect;
pub mod doctor;
mod durations;
pub mod events;
pub mod execute;
pub mod failure;
mod fresh;
pub mod inventory;
mod look;
pub mod observe;
mod options;
pub mod outside;
pub mod poll;
pub mod preview;
mod probes;
mod publish;
mod reconcile;
mod repeats;
mod shares;
pub mod store;
mod task;
mod turns;
mod usable;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connection::Connection;

use crate::desired::{Blocked, GuestObject, Key, ObjectName};
use crate::observed::{Guest, HealthState, Verified};
use crate::pve::Vmid;
use crate::reason::{Cause, Reason};

pub use options::{Counters, Ended, EngineOptions, Meters, Point, Tripwire};
pub use outside::Outside;
use store::{Store, StoreError};

/// Seconds after which a guest is looked at in full although nothing seems to have changed.
const SWEEP_SECONDS: i64 = 600;

/// Seconds after which an object that a poll will wake looks again by itself.
const BY_POLL: f64 = 60.0;

/// When an object wants to be looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requeue {
    /// After so long, or earlier when something changes.
    pub after: Duration,
    /// Objects that waited for what this work gave back: it is their turn now.
    pub wake: Vec<Key>,
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
    pub(super) connections: Mutex<HashMap<ObjectName, Arc<Connection>>>,
    memory: Mutex<Memory>,
    /// Hypervisors that were polled since the engine began, each with why there is no connection to it, if there is none.
    polled: Mutex<HashMap<ObjectName, Option<Cause>>>,
    began: tokio::time::Instant,
}

/// What is kept in memory only; losing it costs a look.
#[derive(Default)]
struct Memory {
    verified: HashMap<Key, Verified>,
    /// What the probes of the objects' guests said.
    health: HashMap<Key, HealthState>,
    /// The action that was told of last since the objects were as wanted.
    told: HashMap<Key, Cause>,
    /// Machines that were shut down to be started again, and what is told of them then.
    restarting: HashMap<Key, Cause>,
    /// Vmids that were chosen, until status shows them: hypervisor and vmid → object.
    reserved: HashMap<(ObjectName, Vmid), Key>,
    /// Guests as they were read last, and when, of objects of which not everything is known to be as wanted.
    seen: HashMap<Key, (tokio::time::Instant, Box<Guest>)>,
    /// Fields that somebody else changed and that were told of, since the objects were as wanted.
    drifted: HashMap<Key, BTreeSet<&'static str>>,
    /// Steps that were carried out since the guest was last as wanted.
    repeats: HashMap<Key, repeats::Repeats>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Store> Engine<S> {
    /// An engine over a store.
    pub fn new(store: Arc<S>, options: EngineOptions) -> Self {
        Engine {
            store,
            options,
            connections: Mutex::default(),
            memory: Mutex::default(),
            polled: Mutex::default(),
            began: tokio::time::Instant::now(),
        }
    }

    /// Unix time in seconds.
    pub(super) fn now(&self) -> i64 {
        match &self.options.outside {
            None => k8s_openapi::jiff::Timestamp::now().as_second(),
            Some(outside) => outside.now(),
        }
    }

    /// Milliseconds since the engine began, as fast as its time goes.
    fn clock(&self) -> i64 {
        (self.began.elapsed().as_secs_f64() * 1000.0 * self.options.time_scale) as i64
    }

    fn after(&self, seconds: f64) -> Requeue {
        Requeue {
            after: Duration::from_secs_f64((seconds / self.options.time_scale).max(0.02)),
            wake: Vec::new(),
        }
    }

    /// Seconds for which what is named and does not exist is waited for.
    fn grace(&self) -> u64 {
        (self.options.grace as f64 / self.options.time_scale) as u64
    }

    fn forget(&self, key: &Key) {
        let mut memory = lock(&self.memory);
        memory.verified.remove(key);
        memory.health.remove(key);
        memory.repeats.remove(key);
        memory.seen.remove(key);
        memory.told.remove(key);
        memory.drifted.remove(key);
        memory.restarting.remove(key);
        memory.reserved.retain(|_, k| k != key);
    }

    pub(super) fn cut(&self, key: &Key, point: Point, what: &str) -> Result<(), Stop> {
        match &self.options.tripwire {
            Some(wire) if wire.trip(key, point, what) => Err(Stop::Cut),
            _ => Ok(()),
        }
    }

    /// Whether the object's hypervisor is there and was not asked yet since the engine began: nothing is known then, and
    /// nothing is said. What an engine before this one said still stands, unless the object is deleted meanwhile.
    pub(super) fn awaits_poll(&self, object: &GuestObject) -> bool {
        let name = object.hypervisor_ref();
        let there = self.store.hypervisor(&name.namespace, &name.name).is_some();
        let outdated = object.deleting && object.is_ready();
        there && !outdated && !lock(&self.polled).contains_key(&name)
    }

    /// The connection of an object's hypervisor.
    pub(super) fn connection_of(&self, object: &GuestObject) -> Result<Arc<Connection>, Blocked> {
        let ObjectName { namespace, name } = object.hypervisor_ref();
        let Some(hypervisor) = self.store.hypervisor(&namespace, &name) else {
            let message = format!(
                "spec.hypervisorRef: there is no PhoenixHypervisor {namespace}/{name}: create it or correct the name"
            );
            return Err(Blocked::stalled(Reason::HypervisorNotFound, message));
        };
        lock(&self.connections)
            .get(&ObjectName::new(&namespace, &name))
            .cloned()
            .ok_or_else(|| {
                let key = ObjectName::new(&namespace, &name);
                if let Some(Some(problem)) = lock(&self.polled).get(&key) {
                    return Blocked::Waiting(problem.clone());
                }
                let conditions = hypervisor.status.iter().flat_map(|status| &status.conditions);
                let mut why = conditions.filter(|c| c.type_ == "Ready" && c.status == "False");
                let why = why.next().map_or_else(
                    || "was not reached yet".to_string(),
                    |c| format!("cannot be used: {}: {}", c.reason, c.message),
                );
                let message = format!("PhoenixHypervisor {namespace}/{name} {why}");
                Blocked::waiting(Reason::HypervisorNotReady, message)
            })
    }
}
