//! What the operator counts and measures, in the OpenMetrics format.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::desired::{Key, ObjectName};
use crate::engine::Counters;
use crate::engine::store::StoreError;
use crate::observed::{ProbeAnswer, ProbeKind};

use super::objects::Item;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    kind: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Probe {
    probe: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Hypervisor {
    namespace: String,
    name: String,
}

/// The operator's metrics. All labels are of few values: kinds, results and hypervisors.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    durations: Family<OfKind, Histogram, fn() -> Histogram>,
    status_writes: Family<Outcome, Counter>,
    probes: Family<Probe, Counter>,
    health_restarts: Family<OfKind, Counter>,
    panics: Family<OfKind, Counter>,
    undecodable: Family<OfKind, Counter>,
    up: Family<Hypervisor, Gauge>,
    backlog: Gauge,
    running: Gauge,
    leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            registry: Registry::default(),
            reconciles: Family::default(),
            // 5 ms to about 80 s.
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 4.0, 8))),
            status_writes: Family::default(),
            probes: Family::default(),
            health_restarts: Family::default(),
            panics: Family::default(),
            undecodable: Family::default(),
            up: Family::default(),
            backlog: Gauge::default(),
            running: Gauge::default(),
            leading: Gauge::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = self.registry.sub_registry_with_prefix("phoenix");
        registry.register(
            "reconciles",
            "Reconciles by kind and by what the object's status says after it",
            self.reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of reconciles by kind",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "status_writes",
            "Status writes by kind and result",
            self.status_writes.clone(),
        );
        registry.register(
            "probes",
            "Answers of startup, readiness and liveness probes by result",
            self.probes.clone(),
        );
        registry.register(
            "health_restarts",
            "Restarts of guests or their units because a startup or liveness probe failed, by kind of the object",
            self.health_restarts.clone(),
        );
        registry.register(
            "panics",
            "Panics (defects in Phoenix) that ended one piece of work, by kind of its object",
            self.panics.clone(),
        );
        registry.register(
            "undecodable_objects",
            "Objects delivered by the API server that do not fit their kind and were left out, by kind",
            self.undecodable.clone(),
        );
        registry.register(
            "hypervisor_up",
            "Whether the last poll of a hypervisor found it Ready",
            self.up.clone(),
        );
        registry.register(
            "queue_length",
            "Objects whose time has come and that wait for a free place",
            self.backlog.clone(),
        );
        registry.register("running", "Reconciles and polls under way", self.running.clone());
        registry.register("leading", "Whether this process does the work", self.leading.clone());
        self
    }

    /// A piece of work ended after `took` with `result`.
    pub fn reconciled(&self, item: &Item, result: &'static str, took: Duration) {
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
    pub fn panicked(&self, item: &Item) {
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
        let labels = Hypervisor {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        match up {
            Some(up) => {
                self.up.get_or_create(&labels).set(i64::from(up));
            }
            None => {
                self.up.remove(&labels);
            }
        }
    }

    /// How full the queue is.
    pub fn queue(&self, backlog: usize, running: usize) {
        self.backlog.set(i64::try_from(backlog).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// Whether this process does the work.
    pub fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// Formatting into memory does not fail in practice.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Counters for Metrics {
    fn probe(&self, kind: ProbeKind, answer: &ProbeAnswer) {
        let result = match answer {
            ProbeAnswer::Succeeded => "success",
            ProbeAnswer::Failed(_) => "failure",
            ProbeAnswer::Unknown(_) => "unknown",
            // Counted when it is answered.
            ProbeAnswer::UnderWay => return,
        };
        let probe = kind.as_str();
        self.probes.get_or_create(&Probe { probe, result }).inc();
    }

    fn health_restart(&self, key: &Key) {
        let kind = key.kind.as_str();
        self.health_restarts.get_or_create(&OfKind { kind }).inc();
    }

    fn panicked(&self, kind: &'static str) {
        self.panics.get_or_create(&OfKind { kind }).inc();
    }
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::Guest(key) => key.kind.as_str(),
        Item::Poll(_) => "PhoenixHypervisor",
        Item::Guard(_) => "Finalizers",
        Item::Feature(_) => "PhoenixFeature",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::GuestKind;

    #[test]
    fn counts_show_up_under_their_names() {
        let metrics = Metrics::default();
        let item = Item::Guest(Key::new(GuestKind::PhoenixLXC, "ai", "a"));
        metrics.reconciled(&item, "ready", Duration::from_millis(3));
        metrics.status_write("PhoenixLXC", Some(&StoreError::Conflict));
        let pve = ObjectName::new("ai", "pve");
        metrics.hypervisor(&pve, Some(true));
        metrics.queue(4, 2);
        metrics.probe(ProbeKind::Liveness, &ProbeAnswer::Failed("no".into()));
        metrics.probe(ProbeKind::Liveness, &ProbeAnswer::UnderWay);
        metrics.health_restart(&Key::new(GuestKind::PhoenixVM, "ai", "a"));
        metrics.panicked(&item);
        metrics.undecodable("PhoenixVM");
        let text = metrics.text().unwrap();
        for line in [
            "phoenix_reconciles_total{kind=\"PhoenixLXC\",result=\"ready\"} 1",
            "phoenix_reconcile_duration_seconds_count{kind=\"PhoenixLXC\"} 1",
            "phoenix_status_writes_total{kind=\"PhoenixLXC\",result=\"conflict\"} 1",
            "phoenix_hypervisor_up{namespace=\"ai\",name=\"pve\"} 1",
            "phoenix_probes_total{probe=\"liveness\",result=\"failure\"} 1",
            "phoenix_health_restarts_total{kind=\"PhoenixVM\"} 1",
            "phoenix_panics_total{kind=\"PhoenixLXC\"} 1",
            "phoenix_undecodable_objects_total{kind=\"PhoenixVM\"} 1",
            "phoenix_queue_length 4",
            "phoenix_running 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        metrics.hypervisor(&pve, None);
        assert!(!metrics.text().unwrap().contains("phoenix_hypervisor_up{"));
    }
}
