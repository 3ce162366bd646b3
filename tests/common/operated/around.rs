//! What is around the engine of a process: its way to Proxmox and its clock.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use phoenix::desired::Stamp;
use phoenix::engine::Outside;
use phoenix::engine::outside::{Answer, ApiCarrier, Lost, SshCarrier};
use phoenix::remote::{self, Node, Output};
use phoenix::simulator::Simulator;
use tokio::time::Instant;

use super::gate::Gate;
use crate::apiserver::weather::{Trouble, Weather};
use crate::inprocess::InProcess;

/// What was sent to Proxmox.
#[derive(Default)]
pub struct Sent {
    /// Each request with its moment, sender and outcome, in order.
    pub requests: Vec<String>,
    pub keeps: bool,
    /// Requests by method and path, names in it left out.
    pub counts: BTreeMap<String, usize>,
    /// Whose guests were destroyed, by their stamps.
    pub destroyed: Vec<String>,
}

/// The world around one operator.
#[derive(Clone)]
pub struct Around {
    pub name: String,
    pub sim: Simulator,
    pub inner: InProcess,
    pub gate: Arc<Gate>,
    pub weather: Arc<dyn Weather>,
    pub sent: Arc<Mutex<Sent>>,
    pub began: Instant,
    /// Seconds by which the machine's clock is wrong.
    pub skew: Arc<AtomicI64>,
}

impl Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Around {
    async fn send(&self, request: reqwest::Request) -> Result<Answer, Lost> {
        let (method, path) = (request.method().to_string(), request.url().path().to_string());
        let sky = self.weather.proxmox(&method, &path);
        tokio::time::sleep(sky.before).await;
        // A process that goes on sends what it was about to send, whatever else is late then.
        self.gate.spring(&method, &path);
        self.gate.through(async {}).await;
        let destroyed = (method == "DELETE").then(|| self.stamp_at(&path)).flatten();
        let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
        let sent = format!(
            "{} {method} {} {}",
            self.name,
            request.url(),
            String::from_utf8_lossy(body)
        );
        let lost = || Err(Lost::Unknown("connection closed before message completed".into()));
        let answer = match sky.trouble {
            Some(Trouble::LostBefore) => lost(),
            Some(Trouble::Refused(status)) => Ok(Answer {
                status,
                reason: "got timeout".into(),
                body: Default::default(),
            }),
            _ => self.inner.api().carry(request).await,
        };
        self.note(sent, &method, &path, &answer);
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            self.sent.lock().unwrap().destroyed.extend(destroyed);
        }
        tokio::time::sleep(sky.after).await;
        match sky.trouble {
            Some(Trouble::LostAfter) => lost(),
            _ => answer,
        }
    }

    /// Whose guest a path names.
    fn stamp_at(&self, path: &str) -> Option<String> {
        let (kind, vmid) = path.rsplit_once('/')?;
        let vmid: u32 = vmid
            .parse()
            .ok()
            .filter(|_| kind.ends_with("/lxc") || kind.ends_with("/qemu"))?;
        self.sim.with(|state| {
            let guest = state.guests.get(&vmid)?;
            let stamp = guest
                .config()
                .current
                .options
                .get("description")
                .and_then(|text| Stamp::find(text));
            Some(stamp.map_or_else(|| format!("a stranger {vmid}"), |s| format!("{} {}", s.kind, s.name)))
        })
    }

    fn note(&self, request: String, method: &str, path: &str, answer: &Result<Answer, Lost>) {
        let mut sent = self.sent.lock().unwrap();
        *sent.counts.entry(format!("{method} {}", template(path))).or_default() += 1;
        if sent.keeps {
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            let at = self.began.elapsed().as_millis();
            sent.requests.push(format!("{at} {request} {status}"));
        }
    }
}

/// A path without the names in it.
fn template(path: &str) -> String {
    let mut before = "";
    let parts = path.trim_start_matches("/api2/json").split('/').map(|part| {
        let shown = match std::mem::replace(&mut before, part) {
            "nodes" => "{node}",
            "lxc" | "qemu" => "{vmid}",
            "tasks" => "{task}",
            "storage" => "{storage}",
            "content" => "{volume}",
            _ => part,
        };
        if part.is_empty() { part } else { shown }
    });
    parts.collect::<Vec<_>>().join("/")
}

impl ApiCarrier for Around {
    fn carry(&self, request: reqwest::Request) -> BoxFuture<'_, Result<Answer, Lost>> {
        self.send(request).boxed()
    }
}

impl SshCarrier for Around {
    fn run<'c>(
        &'c self,
        node: &'c Node,
        user: &'c str,
        line: String,
        stdin: &'c [u8],
    ) -> BoxFuture<'c, Result<Output, remote::Error>> {
        async move { self.inner.ssh().run(node, user, line, stdin).await }.boxed()
    }
}

impl Outside for Around {
    fn now(&self) -> i64 {
        self.inner.now() + self.skew.load(Ordering::SeqCst)
    }
    fn api(&self) -> Arc<dyn ApiCarrier> {
        Arc::new(self.clone())
    }
    fn ssh(&self) -> Arc<dyn SshCarrier> {
        Arc::new(self.clone())
    }
}
