//! Versions that went back: the datastore of the API server was restored from a backup. A watch that goes on from where it
//! was then hears nothing until the versions have grown beyond that, and so misses what happened meanwhile. Whoever finds a
//! version that went back has all kinds listed anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams};
use tokio::sync::Notify;
use tracing::warn;

use super::cache::newer;
use super::store::{KubeStore, call};

/// Time between two looks at the version that the API server is at.
const LOOK: Duration = Duration::from_secs(60);

/// How often versions went back.
#[derive(Debug, Default)]
pub(crate) struct Restores {
    times: AtomicU64,
    told: Notify,
}

impl Restores {
    /// How often so far.
    pub(super) fn times(&self) -> u64 {
        self.times.load(Ordering::SeqCst)
    }

    /// Somebody found it, who began to look when it had happened `seen` times; it is told once.
    pub(super) fn found(&self, seen: u64) {
        let next = self
            .times
            .compare_exchange(seen, seen + 1, Ordering::SeqCst, Ordering::SeqCst);
        if next.is_ok() {
            warn!(
                "versions of objects went back, as after a restore of the API server's datastore: all are listed anew"
            );
            self.told.notify_waiters();
        }
    }

    /// Waits until it has happened more often than `seen` times.
    pub(super) async fn beyond(&self, seen: u64) {
        loop {
            let told = self.told.notified();
            if self.times() != seen {
                return;
            }
            told.await;
        }
    }
}

/// Looks now and then at the version that the API server is at: what goes on as before after a restore (no write that
/// would be refused, no watch that says anything) would not show it.
pub(super) async fn look_at_versions(store: Arc<KubeStore>, api: Api<DynamicObject>) {
    let mut last: Option<String> = None;
    loop {
        let seen = store.restores.times();
        if let Ok(listed) = call(api.list(&ListParams::default().limit(1))).await {
            let now = listed.metadata.resource_version;
            if let (Some(last), Some(now)) = (&last, &now)
                && newer(last, now)
            {
                store.restores.found(seen);
            }
            last = now;
        }
        tokio::time::sleep(LOOK).await;
    }
}
