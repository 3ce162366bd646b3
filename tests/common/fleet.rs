//! Fleets of any size under one operator, and what they cost. A target that uses it has the modules `apiserver`,
//! `inprocess` and `operated` too, and runs it on a stopped clock (`start_paused`).

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::operated::{Running, Site};

/// What a time cost.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Guest objects at its end.
    pub objects: usize,
    /// Requests to Proxmox by method and path, names left out.
    pub proxmox: BTreeMap<String, usize>,
    /// Calls to the API server by method, resource and part (`PUT phoenixlxcs status`, `GET secrets watch`).
    pub kubernetes: BTreeMap<String, usize>,
    /// How long it was, on the stopped clock.
    pub virtual_time: Duration,
}

impl Report {
    fn sum(counts: &BTreeMap<String, usize>, of: impl Fn(&str) -> bool) -> usize {
        counts.iter().filter(|(call, _)| of(call)).map(|(_, times)| times).sum()
    }

    /// All requests to Proxmox.
    pub fn requests(&self) -> usize {
        Self::sum(&self.proxmox, |_| true)
    }

    /// Statuses written.
    pub fn status_writes(&self) -> usize {
        Self::sum(&self.kubernetes, |call| call.ends_with(" status"))
    }

    /// Events told, also those that were told before.
    pub fn events(&self) -> usize {
        Self::sum(&self.kubernetes, |call| call.ends_with(" events"))
    }
}

/// A site with one operator, where nothing but counts is kept.
pub struct Fleet {
    pub site: Site,
    pub operator: Running,
}

impl Fleet {
    /// With a hypervisor and no guest.
    pub fn new() -> Fleet {
        let site = Site::new();
        site.server.journal().keeps = false;
        site.sent.lock().unwrap().keeps = false;
        site.connect();
        let operator = site.operator("one");
        Fleet { site, operator }
    }

    /// Runs until all objects are Ready; what that cost.
    pub async fn ready(&self) -> Report {
        self.during(async {
            let longest = Duration::from_secs(7 * 24 * 3600);
            if let Err(words) = self.site.reaches(longest, Site::all_ready).await {
                panic!("not Ready in a week:\n{words}");
            }
        })
        .await
    }

    /// Lets time pass; what that cost.
    pub async fn idle(&self, time: Duration) -> Report {
        self.during(tokio::time::sleep(time)).await
    }

    async fn during(&self, work: impl Future<Output = ()>) -> Report {
        let counts = || {
            (
                self.site.sent.lock().unwrap().counts.clone(),
                self.site.server.journal().counts.clone(),
            )
        };
        let ((proxmox, kubernetes), began) = (counts(), Instant::now());
        work.await;
        let now = counts();
        Report {
            objects: self.site.guests().len(),
            proxmox: since(now.0, &proxmox),
            kubernetes: since(now.1, &kubernetes),
            virtual_time: began.elapsed(),
        }
    }
}

fn since(now: BTreeMap<String, usize>, before: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let more = now.into_iter().map(|(call, times)| {
        let more = times - before.get(&call).copied().unwrap_or_default();
        (call, more)
    });
    more.filter(|(_, times)| *times > 0).collect()
}

/// Applies so many objects at once and runs until all are Ready.
pub async fn bring_up(number: u32, manifest: impl Fn(u32) -> Value) -> Report {
    let fleet = Fleet::new();
    (0..number).for_each(|number| fleet.site.apply(manifest(number)));
    fleet.ready().await
}
