//! How an engine works, and what it tells besides status and events.

use std::sync::Arc;
use std::time::Duration;

use crate::desired::{Key, ObjectName};
use crate::observed::{Inventory, ProbeAnswer, ProbeKind, Serving};
use crate::reason::Reason;

use super::outside::Outside;

/// Seconds in which a tool that applies a folder in any order, or brings Secrets from elsewhere, has done so.
const GRACE: u64 = 300;

/// Where a test may cut the engine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before an effect is sent.
    BeforeEffect,
    /// After an effect was carried out, before its answer is used.
    AfterEffect,
    /// Before status is written.
    BeforeStatus,
}

/// Cuts the engine off, for tests: `true` stops it as if it had been killed there.
pub trait Tripwire: Send + Sync {
    /// Whether to stop at this point.
    fn trip(&self, key: &Key, point: Point, what: &str) -> bool;
}

/// How an engine works.
#[derive(Clone)]
pub struct EngineOptions {
    /// Management cluster id, a part of every stamp.
    pub cluster_id: String,
    /// Divides all waits, for tests against a simulator that runs faster than time; 1.0 otherwise.
    pub time_scale: f64,
    /// Seconds for which an object that is named and does not exist is waited for, before that counts as a mistake. 0
    /// where nobody else creates objects.
    pub grace: u64,
    /// Counts what happens.
    pub counters: Option<Arc<dyn Counters>>,
    /// What the engine reaches in place of the network and the clock, for tests.
    pub outside: Option<Arc<dyn Outside>>,
    /// For tests only.
    pub tripwire: Option<Arc<dyn Tripwire>>,
}

/// What is counted besides status and events.
pub trait Counters: Send + Sync {
    /// A probe was answered.
    fn probe(&self, kind: ProbeKind, answer: &ProbeAnswer);
    /// What an object's model server counts.
    fn serving(&self, key: &Key, serving: &Serving);
    /// A guest, or its unit, is restarted because of a probe.
    fn health_restart(&self, key: &Key);
    /// A panic ended work on an object of a kind.
    fn panicked(&self, kind: &'static str);
    /// A step of an object ended, so long after it began; a task that it started may still run.
    fn step(&self, key: &Key, effect: &'static str, ended: Ended, took: Duration);
    /// A Proxmox task of an object ended. Its seconds are those since the start that the node wrote into its id.
    fn task(&self, key: &Key, type_: &str, failure: Option<Reason>, seconds: i64);
    /// A field of an object's spec was found changed on Proxmox by somebody else.
    fn drift(&self, key: &Key, field: &'static str);
    /// The nodes' graphics cards were looked at; what was not is as before.
    fn cards(&self, hypervisor: &ObjectName, inventory: &Inventory);
    /// What counts requests to a hypervisor and commands on its nodes.
    fn meters(&self, hypervisor: &ObjectName) -> Meters;
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is done.
    Done,
    /// A Proxmox task works on it.
    Started,
    /// Something else was in the way for a moment.
    Busy,
    /// It failed, or nobody knows.
    Failed(Reason),
}

/// What counts requests to a hypervisor and commands on its nodes.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Requests.
    pub api: Arc<dyn crate::proxmox::Meter>,
    /// Connections and commands.
    pub ssh: Arc<dyn crate::remote::Meter>,
}

impl EngineOptions {
    /// Options for normal work.
    pub fn new(cluster_id: impl Into<String>) -> Self {
        EngineOptions {
            cluster_id: cluster_id.into(),
            time_scale: 1.0,
            grace: GRACE,
            counters: None,
            outside: None,
            tripwire: None,
        }
    }
}
