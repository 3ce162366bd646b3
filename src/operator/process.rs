//! What a process of the operator knows of its surroundings: the API server, the time, chance. In service they are the
//! real ones; a test gives others, so that a whole operator runs on a clock and a seed of the test's own.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::ExponentialBackoff;

/// Pauses between attempts of a watch that fails: from the first to the longest, and after so long without a failure from
/// the first again. They are those of kube's `DefaultBackoff`, whose jitter takes no seed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(30));
const PAUSES_RESET: Duration = Duration::from_secs(120);

/// Tells the time.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One process and its surroundings.
#[derive(Clone)]
pub struct Process {
    /// The way to the API server.
    pub client: Client,
    /// A name that no other process has.
    pub identity: String,
    /// The time in statuses and in the Lease.
    pub now: Now,
    /// What the jitter of pauses is made from; by default it differs each time.
    pub seed: Option<u64>,
}

impl Process {
    /// This process, in service.
    pub fn new(client: Client) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "phoenix".into());
        Process {
            client,
            identity: format!("{host}_{}", uuid::Uuid::new_v4()),
            now: Arc::new(Timestamp::now),
            seed: None,
        }
    }

    /// Pauses between attempts of a watch.
    pub(super) fn pauses(&self) -> impl Backoff + use<> {
        let builder = backon::ExponentialBuilder::default()
            .with_min_delay(PAUSES.0)
            .with_max_delay(PAUSES.1)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        let builder = match self.seed {
            Some(seed) => builder.with_jitter_seed(seed),
            None => builder,
        };
        ResetTimerBackoff::new(ExponentialBackoff::from(builder), PAUSES_RESET)
    }
}
