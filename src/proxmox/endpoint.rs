//! The endpoints of one Proxmox cluster: which one to use next, and how many calls each may have under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Error;

/// First pause after an endpoint could not be reached; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: how late Phoenix may notice that an endpoint is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// One address of the cluster.
pub(super) struct Endpoint {
    /// `https://host:8006`
    pub base: Url,
    /// Bounds the calls under way.
    pub permits: Semaphore,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    /// Not to be used before, with what failed.
    pause: Option<(Instant, Error)>,
}

/// A poisoned lock only means that another task panicked; the plain data behind it stays usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// `permits` is the greatest number of calls under way.
    pub fn new(base: Url, permits: usize) -> Self {
        Self {
            base,
            permits: Semaphore::new(permits),
            health: Mutex::default(),
        }
    }

    /// Host and port, for messages.
    pub fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        format!("{host}:{}", self.base.port_or_known_default().unwrap_or_default())
    }

    /// Notes that the endpoint answered.
    pub fn answered(&self) {
        *lock(&self.health) = Health::default();
    }

    /// Notes that the endpoint could not be reached. Several calls that fail at once count as one.
    pub fn failed(&self, error: &Error, now: Instant) {
        let mut health = lock(&self.health);
        if health.pause.as_ref().is_some_and(|(until, _)| *until > now) {
            return;
        }
        let pause = FIRST_PAUSE
            .saturating_mul(1 << health.failures.min(6))
            .min(LONGEST_PAUSE);
        health.failures = health.failures.saturating_add(1);
        health.pause = Some((now + pause, error.clone()));
    }

    /// Why the endpoint is not to be used now: the very error that made it rest, so that what is told of an outage
    /// stays the same from try to try.
    pub fn paused(&self, now: Instant) -> Option<Error> {
        let health = lock(&self.health);
        let (until, error) = health.pause.as_ref()?;
        (*until > now).then(|| error.clone())
    }
}

/// Reads `host`, `host:port`, `[v6]:port` or `https://host[:port]`; the port is 8006 unless given.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("endpoint {text:?}: {why}");
    let text_url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&text_url).map_err(|e| bad(&e.to_string()))?;
    if url.scheme() != "https" {
        return Err(bad("only https is spoken"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("credentials do not belong into the address"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("only host and port are expected"));
    }
    // `port()` hides a written `:443`, the default of https; without any port Proxmox's own is meant.
    let port_given = text_url.trim_end_matches('/').ends_with(":443");
    if url.port().is_none() && !port_given {
        url.set_port(Some(8006)).map_err(|()| bad("no port can be set"))?;
    }
    Ok(url)
}

/// Bounds the calls to each node, below the bound of an endpoint: a node that hangs must not use up what other nodes
/// need (pvedaemon has three workers, facts A.8).
pub(super) struct NodeLimits {
    per_node: usize,
    nodes: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl NodeLimits {
    /// At most `per_node` calls to one node.
    pub fn new(per_node: usize) -> Self {
        Self {
            per_node,
            nodes: Mutex::default(),
        }
    }

    /// The bound of `node`.
    pub fn of(&self, node: &str) -> Arc<Semaphore> {
        let mut nodes = lock(&self.nodes);
        nodes
            .entry(node.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_node)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_proxmoxs_port() {
        for (text, url) in [
            ("pve1", "https://pve1:8006/"),
            ("pve1:443", "https://pve1/"),
            ("https://pve1.lan/", "https://pve1.lan:8006/"),
            ("https://10.0.0.1:18006", "https://10.0.0.1:18006/"),
            ("[fd00::1]", "https://[fd00::1]:8006/"),
        ] {
            assert_eq!(parse(text).unwrap().as_str(), url, "{text}");
        }
        for bad in [
            "",
            "http://pve1",
            "https://pve1/api2",
            "https://root:pw@pve1",
            "https://pve1?x",
            "a b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_rests_longer_each_time_it_fails() {
        let endpoint = Endpoint::new(parse("pve1").unwrap(), 1);
        let mut now = Instant::now();
        assert_eq!(endpoint.paused(now), None);
        let error = Error::NotSent {
            message: "no route".into(),
        };
        let rest_after_failure = |now: Instant| {
            endpoint.failed(&error, now);
            // A second call that fails at the same time does not count.
            endpoint.failed(&error, now);
            (1..60).find(|s| endpoint.paused(now + Duration::from_secs(*s)).is_none())
        };
        let mut rests = Vec::new();
        for _ in 0..7 {
            rests.push(rest_after_failure(now).unwrap());
            assert_eq!(endpoint.paused(now).as_ref(), Some(&error));
            now += LONGEST_PAUSE;
        }
        assert_eq!(rests, [1, 2, 4, 8, 15, 15, 15]);
        endpoint.answered();
        assert_eq!(endpoint.paused(now), None);
        assert_eq!(rest_after_failure(now), Some(1));
    }
}
