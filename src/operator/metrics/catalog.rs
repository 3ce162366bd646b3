//! A registry that also knows what is in it: families without a value do not show up in the text.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry, Unit};

/// Every name begins with this.
const PREFIX: &str = "phoenix";

/// A metric that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name, as it is asked for; of a histogram without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// Counter, gauge, histogram or info.
    pub type_: String,
    /// What it says.
    pub help: &'static str,
}

/// Metrics with what they are.
#[derive(Debug)]
pub(super) struct Catalog {
    registry: Registry,
    described: Vec<Described>,
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog {
            registry: Registry::with_prefix(PREFIX),
            described: Vec::new(),
        }
    }
}

impl Catalog {
    /// Adds a metric.
    pub(super) fn add(&mut self, name: &str, help: &'static str, metric: impl Metric) {
        self.describe(name.into(), help, metric.metric_type());
        self.registry.register(name, help, metric);
    }

    /// Adds a metric of a unit, which becomes a part of its name.
    pub(super) fn add_unit(&mut self, name: &str, unit: Unit, help: &'static str, metric: impl Metric) {
        self.describe(format!("{name}_{}", unit.as_str()), help, metric.metric_type());
        self.registry.register_with_unit(name, help, unit, metric);
    }

    fn describe(&mut self, name: String, help: &'static str, type_: MetricType) {
        let end = match type_ {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        self.described.push(Described {
            name: format!("{PREFIX}_{name}{end}"),
            type_: type_.as_str().into(),
            help,
        });
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn described(&self) -> &[Described] {
        &self.described
    }
}
