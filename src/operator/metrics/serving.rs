//! What model servers count, as their probes told last. Made anew for each answer.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::desired::Key;
use crate::observed::Serving;
use crate::operator::objects::state::State;

use super::catalog::Catalog;
use super::labels::Object;

/// What is older than this says nothing about now: a server is asked every 10 seconds.
const STALE: Duration = Duration::from_secs(120);

type Values = Family<Object, Gauge<f64, AtomicU64>>;

/// What is told of model servers.
#[derive(Default)]
pub(super) struct Servers {
    running: Values,
    waiting: Values,
    cache: Values,
    prompt: Values,
    generated: Values,
}

impl Servers {
    /// What is not too old, of objects that there are; the rest is forgotten.
    pub(super) fn of(told: &mut BTreeMap<Key, (Instant, Serving)>, state: &State) -> Self {
        told.retain(|key, (at, _)| at.elapsed() < STALE && state.guest(key).is_some());
        let servers = Servers::default();
        for (key, (_, serving)) in told.iter() {
            let labels = Object::of(key);
            for (family, value, part) in [
                (&servers.running, serving.running, 1.0),
                (&servers.waiting, serving.waiting, 1.0),
                (&servers.cache, serving.cache_permille, 1000.0),
                (&servers.prompt, serving.prompt_tokens, 1.0),
                (&servers.generated, serving.generated_tokens, 1.0),
            ] {
                if let Some(value) = value {
                    family.get_or_create(&labels).set(value as f64 / part);
                }
            }
        }
        servers
    }

    /// What there is, to be written.
    pub(super) fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for (name, help, family) in [
            (
                "model_requests_running",
                "Requests that a model server answers now",
                &self.running,
            ),
            (
                "model_requests_waiting",
                "Requests that wait in a model server",
                &self.waiting,
            ),
            (
                "model_cache_usage_ratio",
                "How full a model server's KV cache is",
                &self.cache,
            ),
            (
                "model_prompt_tokens",
                "Tokens of prompts since a model server was started",
                &self.prompt,
            ),
            (
                "model_generated_tokens",
                "Tokens that a model server generated since it was started",
                &self.generated,
            ),
        ] {
            catalog.add(name, help, family.clone());
        }
        catalog
    }
}
