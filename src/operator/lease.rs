//! Leader election by a Lease.
//!
//! Every write replaces the Lease under its version, so two processes cannot both win. A holder is taken for dead
//! only when the Lease did not change for its whole duration as observed here, by this process's own clock: clocks of
//! two machines are never compared. A holder that could not renew in time ends its process. No lease fences Proxmox:
//! the ownership stamp does (promise 1).

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::engine::store::StoreError;

use super::objects::store::call;
use super::process::Now;

/// How long a Lease lasts, how long a holder tries to renew it, and how often it does. Each is well below the former.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A Lease that did not change for so long is free.
    pub duration: Duration,
    /// A holder that could not renew for so long gives up.
    pub renew_deadline: Duration,
    /// Time between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Where the Lease is kept.
pub trait LeaseStore {
    /// The Lease, if there is one.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, StoreError>> + Send;
    /// Creates the Lease; `Conflict` if there is one.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, StoreError>> + Send;
    /// Replaces the Lease under its version.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<Lease, StoreError>> + Send;
}

/// A Lease of an API server.
pub struct KubeLease {
    api: Api<Lease>,
    name: String,
}

impl KubeLease {
    /// The Lease of this name.
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        KubeLease {
            api: Api::namespaced(client, namespace),
            name: name.to_string(),
        }
    }
}

impl LeaseStore for KubeLease {
    async fn get(&self) -> Result<Option<Lease>, StoreError> {
        call(self.api.get_opt(&self.name)).await
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
        let mut lease = lease.clone();
        lease.metadata.name = Some(self.name.clone());
        call(self.api.create(&PostParams::default(), &lease)).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
        call(self.api.replace(&self.name, &PostParams::default(), lease)).await
    }
}

/// The Lease is another process's, or was not renewed in time.
#[derive(Debug, PartialEq, Eq)]
struct Lost;

/// A candidate for the Lease.
pub struct Elector<S> {
    store: S,
    identity: String,
    timing: Timing,
    /// The time that the Lease shows.
    now: Now,
    /// Version of the Lease when it was last seen to change, and when that was.
    observed: Option<(Option<String>, Instant)>,
    /// The Lease as we last wrote it, and when the last write that succeeded was begun.
    held: Option<(Lease, Instant)>,
}

impl<S: LeaseStore> Elector<S> {
    /// A candidate; identities of two processes must differ.
    pub fn new(store: S, identity: String, timing: Timing, now: Now) -> Self {
        Elector {
            store,
            identity,
            timing,
            now,
            observed: None,
            held: None,
        }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            let deadline = self.timing.renew_deadline;
            match tokio::time::timeout(deadline, self.try_acquire(Instant::now())).await {
                Ok(Ok(true)) => {
                    info!(identity = self.identity, "leading");
                    return;
                }
                Ok(Ok(false)) | Ok(Err(StoreError::Conflict)) => debug!("another process leads"),
                Ok(Err(error)) => warn!(%error, "the Lease cannot be read or written"),
                Err(_) => warn!("the API server did not answer in time"),
            }
            tokio::time::sleep(self.timing.retry).await;
        }
    }

    async fn try_acquire(&mut self, now: Instant) -> Result<bool, StoreError> {
        let Some(lease) = self.store.get().await? else {
            let lease = self.store.create(&self.claim(Lease::default())).await?;
            self.held = Some((lease, now));
            return Ok(true);
        };
        if !self.is_free(&lease, now) {
            return Ok(false);
        }
        let lease = self.store.replace(&self.claim(lease)).await?;
        self.held = Some((lease, now));
        Ok(true)
    }

    /// Whether the Lease has no holder, is our own of old, or has not changed for its whole duration.
    fn is_free(&mut self, lease: &Lease, now: Instant) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let version = &lease.metadata.resource_version;
        let since = match &self.observed {
            Some((seen, since)) if seen == version => *since,
            _ => {
                self.observed = Some((version.clone(), now));
                now
            }
        };
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let duration = seconds.map_or(self.timing.duration, Duration::from_secs);
        now.duration_since(since) >= duration
    }

    fn claim(&self, mut lease: Lease) -> Lease {
        let former = lease.spec.take().unwrap_or_default();
        let now = MicroTime((self.now)());
        let ours = former.holder_identity.as_deref() == Some(&self.identity);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: if ours { former.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(former.lease_transitions.unwrap_or_default() + i32::from(!ours)),
            ..LeaseSpec::default()
        });
        lease
    }

    /// Renews the Lease until it is lost.
    pub async fn keep(&mut self) {
        loop {
            let now = Instant::now();
            let deadline = match &self.held {
                Some((_, last)) => *last + self.timing.renew_deadline,
                None => now,
            };
            match tokio::time::timeout_at(deadline, self.renew(now)).await {
                Ok(Ok(())) => tokio::time::sleep(self.timing.retry).await,
                Ok(Err(Lost)) | Err(_) => {
                    warn!("the Lease is lost");
                    return;
                }
            }
        }
    }

    /// One attempt to renew; failures are endured until the deadline.
    async fn renew(&mut self, now: Instant) -> Result<(), Lost> {
        let (held, last) = self.held.clone().ok_or(Lost)?;
        match self.store.replace(&self.claim(held)).await {
            Ok(lease) => {
                self.held = Some((lease, now));
                return Ok(());
            }
            Err(StoreError::Gone) => return Err(Lost),
            // Our own write may have arrived although its answer was lost: then it counts from when it was begun,
            // which is not known any more, so the deadline stays.
            Err(StoreError::Conflict) => match self.store.get().await {
                Ok(Some(lease)) if self.is_ours(&lease) => self.held = Some((lease, last)),
                Ok(_) => return Err(Lost),
                Err(error) => warn!(%error, "the Lease cannot be read"),
            },
            Err(error) => warn!(%error, "the Lease was not renewed"),
        }
        if now.duration_since(last) >= self.timing.renew_deadline {
            return Err(Lost);
        }
        Ok(())
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.identity)
    }

    /// Gives the Lease back, so that another process need not wait for it to run out.
    pub async fn release(&mut self) {
        let Some((mut lease, _)) = self.held.take() else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match self.store.replace(&lease).await {
            Ok(_) => info!("the Lease is given back"),
            Err(error) => warn!(%error, "the Lease was not given back"),
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
