//! What the operator counts and measures, in the OpenMetrics format. docs/metrics.md lists it.
//!
//! * [`Metrics`] what happens: counted by the operator, and by engine and clients through their traits (`counts.rs`)
//! * `cards.rs` the nodes' graphics cards
//! * `serving.rs` what model servers count
//! * `fleet.rs` how the objects are: made anew for each answer from what the caches hold

mod cards;
mod catalog;
mod counts;
mod fleet;
mod labels;
mod serving;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Unit;

use crate::desired::{Key, ObjectName};
use crate::engine::Counters;
use crate::engine::store::StoreError;
use crate::observed::{Inventory, Serving};

use super::objects::Item;
use super::objects::state::State;
use cards::Cards;
use catalog::Catalog;
pub use catalog::Described;
use fleet::Fleet;
use labels::*;
use serving::Servers;

/// Histograms by label.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// 5 ms to about 80 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 4.0, 8))
}

/// 1 s to about 1 h 50 min.
fn long_seconds() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 3.0, 9))
}

/// The operator's metrics. All labels are of few values: kinds, results, routes and hypervisors; those by object are in
/// `fleet.rs`.
#[derive(Debug)]
pub struct Metrics {
    catalog: Catalog,
    reconciles: Family<Outcome, Counter>,
    durations: Histograms<OfKind>,
    status_writes: Family<Outcome, Counter>,
    probes: Family<Probe, Counter>,
    health_restarts: Family<OfKind, Counter>,
    panics: Family<OfKind, Counter>,
    undecodable: Family<OfKind, Counter>,
    steps: Family<StepResult, Counter>,
    step_durations: Histograms<Effect>,
    step_failures: Family<Failure, Counter>,
    task_durations: Histograms<TaskResult>,
    drift: Family<Drift, Counter>,
    requests: Family<Request, Counter>,
    request_durations: Histograms<Route>,
    certificates: Family<Host, Gauge>,
    ssh_connections: Family<SshResult, Counter>,
    ssh_commands: Family<SshResult, Counter>,
    ssh_durations: Histograms<Hypervisor>,
    up: Family<Named, Gauge>,
    backlog: Gauge,
    running: Gauge,
    waited: Histogram,
    leading: Gauge,
    /// The nodes' graphics cards as they were looked at last, by hypervisor.
    cards: Mutex<BTreeMap<ObjectName, Inventory>>,
    /// What model servers told last, and when.
    served: Mutex<BTreeMap<Key, (Instant, Serving)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            catalog: Catalog::default(),
            reconciles: Family::default(),
            durations: Family::new_with_constructor(seconds),
            status_writes: Family::default(),
            probes: Family::default(),
            health_restarts: Family::default(),
            panics: Family::default(),
            undecodable: Family::default(),
            steps: Family::default(),
            step_durations: Family::new_with_constructor(seconds),
            step_failures: Family::default(),
            task_durations: Family::new_with_constructor(long_seconds),
            drift: Family::default(),
            requests: Family::default(),
            request_durations: Family::new_with_constructor(seconds),
            certificates: Family::default(),
            ssh_connections: Family::default(),
            ssh_commands: Family::default(),
            ssh_durations: Family::new_with_constructor(seconds),
            up: Family::default(),
            backlog: Gauge::default(),
            running: Gauge::default(),
            waited: seconds(),
            leading: Gauge::default(),
            cards: Mutex::default(),
            served: Mutex::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let mut catalog = Catalog::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        catalog.add("build", "The version of Phoenix", Info::new(version));
        catalog.add("leading", "Whether this process does the work", self.leading.clone());
        self.add_work(&mut catalog);
        self.add_engine(&mut catalog);
        self.add_hypervisors(&mut catalog);
        self.catalog = catalog;
        self
    }

    fn add_work(&self, catalog: &mut Catalog) {
        catalog.add(
            "reconciles",
            "Reconciles by kind and by what the object's status says after it",
            self.reconciles.clone(),
        );
        catalog.add_unit(
            "reconcile_duration",
            Unit::Seconds,
            "Duration of reconciles",
            self.durations.clone(),
        );
        catalog.add(
            "queue_length",
            "Objects whose time has come and that wait for a free place",
            self.backlog.clone(),
        );
        catalog.add_unit(
            "queue_wait",
            Unit::Seconds,
            "How long objects whose time had come waited for a free place",
            self.waited.clone(),
        );
        catalog.add("running", "Reconciles and polls under way", self.running.clone());
        catalog.add(
            "status_writes",
            "Status writes by kind and result",
            self.status_writes.clone(),
        );
        catalog.add(
            "undecodable_objects",
            "Objects delivered by the API server that do not fit their kind and were left out",
            self.undecodable.clone(),
        );
        catalog.add(
            "panics",
            "Panics (defects in Phoenix) that ended one piece of work, by kind of its object",
            self.panics.clone(),
        );
    }

    fn add_engine(&self, catalog: &mut Catalog) {
        catalog.add(
            "steps",
            "Steps by kind of the object, sort of effect and result",
            self.steps.clone(),
        );
        catalog.add_unit(
            "step_duration",
            Unit::Seconds,
            "Duration of steps, without the Proxmox tasks that they start",
            self.step_durations.clone(),
        );
        catalog.add(
            "step_failures",
            "Steps and Proxmox tasks that failed, by kind of the object and reason",
            self.step_failures.clone(),
        );
        catalog.add_unit(
            "proxmox_task_duration",
            Unit::Seconds,
            "Time from the start of a Proxmox task, by the node's clock, until its end was seen",
            self.task_durations.clone(),
        );
        catalog.add(
            "drift",
            "Fields that somebody else changed on Proxmox, each once until the object is as wanted again",
            self.drift.clone(),
        );
        catalog.add(
            "probes",
            "Answers of startup, readiness and liveness probes by result",
            self.probes.clone(),
        );
        catalog.add(
            "health_restarts",
            "Restarts of guests or their units because a startup or liveness probe failed",
            self.health_restarts.clone(),
        );
    }

    fn add_hypervisors(&self, catalog: &mut Catalog) {
        catalog.add(
            "hypervisor_up",
            "Whether the last poll of a hypervisor found it Ready",
            self.up.clone(),
        );
        catalog.add(
            "proxmox_requests",
            "Requests to Proxmox by route, and HTTP status or why there was no answer",
            self.requests.clone(),
        );
        catalog.add_unit(
            "proxmox_request_duration",
            Unit::Seconds,
            "Duration of requests to Proxmox",
            self.request_durations.clone(),
        );
        catalog.add_unit(
            "proxmox_certificate_expiry_timestamp",
            Unit::Seconds,
            "When the certificate ends that an endpoint showed last",
            self.certificates.clone(),
        );
        catalog.add(
            "ssh_connections",
            "Connections to nodes by result",
            self.ssh_connections.clone(),
        );
        catalog.add("ssh_commands", "Commands on nodes by result", self.ssh_commands.clone());
        catalog.add_unit(
            "ssh_command_duration",
            Unit::Seconds,
            "Duration of commands on nodes, with the wait for a connection",
            self.ssh_durations.clone(),
        );
    }

    /// A piece of work ended after `took` with `result`.
    pub(crate) fn reconciled(&self, item: &Item, result: &'static str, took: Duration) {
        let kind = kind(item);
        let labels = Outcome {
            kind: kind.into(),
            result,
        };
        self.reconciles.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&OfKind { kind })
            .observe(took.as_secs_f64());
    }

    /// An object of a kind was left out, as it does not fit its kind.
    pub fn undecodable(&self, kind: &'static str) {
        self.undecodable.get_or_create(&OfKind { kind }).inc();
    }

    /// A panic ended a piece of work.
    pub(crate) fn panicked(&self, item: &Item) {
        Counters::panicked(self, kind(item));
    }

    /// A status was written or not.
    pub fn status_write(&self, kind: &str, error: Option<&StoreError>) {
        let result = match error {
            None => "ok",
            Some(StoreError::Conflict) => "conflict",
            Some(StoreError::Gone) => "gone",
            Some(StoreError::Other(_)) => "error",
        };
        let labels = Outcome {
            kind: kind.into(),
            result,
        };
        self.status_writes.get_or_create(&labels).inc();
    }

    /// Whether a hypervisor is Ready; `None` when it is gone.
    pub fn hypervisor(&self, name: &ObjectName, up: Option<bool>) {
        let labels = Named::of(name);
        match up {
            Some(up) => {
                self.up.get_or_create(&labels).set(i64::from(up));
            }
            None => {
                self.up.remove(&labels);
                self.looked_at().remove(name);
            }
        }
    }

    /// Graphics cards as they were looked at last.
    fn looked_at(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Inventory>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<Key, (Instant, Serving)>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full the queue is.
    pub fn queue(&self, backlog: usize, running: usize) {
        self.backlog.set(i64::try_from(backlog).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// Something was taken from the queue that had waited so long for a place.
    pub fn waited(&self, waited: Duration) {
        self.waited.observe(waited.as_secs_f64());
    }

    /// Whether this process does the work.
    pub fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// All metrics as text. How the objects are is told by the process that works on them alone, so that sums over
    /// processes count each once.
    ///
    /// # Errors
    /// Formatting into memory does not fail in practice.
    pub(crate) fn text(&self, state: &State) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode_registry(&mut out, self.catalog.registry())?;
        if self.leading.get() == 1 {
            text::encode_registry(&mut out, Fleet::of(state).catalog().registry())?;
            let cards = Cards::of(self.looked_at().iter(), state);
            text::encode_registry(&mut out, cards.catalog().registry())?;
            let servers = Servers::of(&mut self.served(), state);
            text::encode_registry(&mut out, servers.catalog().registry())?;
        }
        text::encode_eof(&mut out)?;
        Ok(out)
    }

    /// Every metric that there is, whether it has a value yet or not.
    pub fn described() -> Vec<Described> {
        let (metrics, fleet) = (Metrics::default(), Fleet::default().catalog());
        let cards = Cards::default().catalog();
        let all = metrics.catalog.described().iter().chain(fleet.described());
        let servers = Servers::default().catalog();
        let all = all.chain(cards.described()).chain(servers.described());
        all.cloned().collect()
    }
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::Guest(key) => key.kind.as_str(),
        Item::Poll(_) => "PhoenixHypervisor",
        Item::Guard(_) => "Finalizers",
        Item::Feature(_) => "PhoenixFeature",
        Item::Expose(_) => "Services",
    }
}
