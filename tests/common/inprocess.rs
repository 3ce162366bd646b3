//! A simulated cluster in process, on the clock of the asynchronous runtime: no TLS, no SSH, no real time. Everything of
//! the client but the connections is the same.

#![allow(dead_code, reason = "shared by several targets, of which not all measure")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use phoenix::engine::Outside;
use phoenix::engine::outside::{Answer, ApiCarrier, Lost, SshCarrier};
use phoenix::remote::{self, Captured, Node, Output};
use phoenix::simulator::Simulator;
use phoenix::simulator::api::HttpRequest;
use phoenix::simulator::ssh::Request;

/// Milliseconds since 1970 at which worlds begin.
pub const BEGIN: u64 = 1_780_000_000_000;

/// Whether it is measured what simulators take.
pub static MEASURED: AtomicBool = AtomicBool::new(false);
/// Nanoseconds of processor time that simulators took to answer requests, while that is measured.
pub static SIMULATED: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds of processor time that this thread has had; they are counted in ticks.
pub fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|field| field.parse().ok());
    first.unwrap_or_default()
}

/// A runtime of one thread on a stopped clock. Nothing in process needs sockets.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Reaches a simulator in process.
#[derive(Clone, Debug)]
pub struct InProcess {
    simulator: Simulator,
    /// While a cluster is split: the side that endpoints of this host belong to.
    split: Arc<Mutex<Option<(String, Simulator)>>>,
    began: tokio::time::Instant,
}

impl InProcess {
    pub fn new(simulator: &Simulator) -> Self {
        let began = tokio::time::Instant::now();
        let simulator = simulator.clone();
        InProcess {
            simulator,
            split: Arc::default(),
            began,
        }
    }

    /// Splits the cluster: endpoints of `host` reach a side of their own, which begins as `side`; without one it is whole.
    pub fn split(&self, side: Option<(String, Simulator)>) {
        *self.split.lock().unwrap() = side;
    }

    /// What a host's endpoint belongs to.
    fn side_of(&self, host: Option<&str>) -> Simulator {
        let split = self.split.lock().unwrap();
        let side = split.as_ref().filter(|(of, _)| Some(of.as_str()) == host);
        side.map_or(&self.simulator, |(_, side)| side).clone()
    }

    async fn answer(&self, request: reqwest::Request) -> Result<Answer, Lost> {
        // As over a network, the work on other objects goes on meanwhile.
        tokio::task::yield_now().await;
        let header = |name: &str| {
            let value = request.headers().get(name)?.to_str();
            value.ok().map(str::to_owned)
        };
        let side = self.side_of(request.url().host_str());
        let request = HttpRequest {
            method: request.method().as_str().into(),
            path: request.url().path().into(),
            query: request.url().query().unwrap_or_default().into(),
            authorization: header("authorization"),
            cookie: header("cookie"),
            csrf: header("csrfpreventiontoken"),
            content_type: header("content-type"),
            body: request.body().and_then(|b| b.as_bytes()).unwrap_or_default().to_vec(),
        };
        let measured = MEASURED.load(Ordering::Relaxed);
        let began = if measured { cpu_ns() } else { 0 };
        let reply = side.handle(&request).await;
        if measured {
            SIMULATED.fetch_add(cpu_ns() - began, Ordering::Relaxed);
        }
        if reply.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(reply.delay_ms)).await;
        }
        match reply.cut {
            true => Err(Lost::Unknown("connection closed before message completed".into())),
            false => Ok(Answer {
                status: reply.status,
                reason: reply.reason,
                body: reply.body.into(),
            }),
        }
    }

    async fn command(&self, node: &Node, user: &str, line: String, stdin: &[u8]) -> Result<Output, remote::Error> {
        tokio::task::yield_now().await;
        let host = format!("{} ({}:{})", node.name, node.host, node.port);
        let online = self
            .simulator
            .with(|state| state.nodes.get(&node.name).is_some_and(|n| n.online));
        if !online {
            let message = "Connection refused".into();
            return Err(remote::Error::Unreachable { host, message });
        }
        let request = Request {
            user: user.into(),
            node: Some(node.name.clone()),
            line,
            stdin: stdin.to_vec(),
        };
        let reply = self.simulator.run(&request).await;
        if reply.cut {
            let message = "the connection was closed".into();
            return Err(remote::Error::Lost { host, message });
        }
        let captured = |text: String| {
            let mut captured = Captured::default();
            captured.push(text.as_bytes());
            captured
        };
        Ok(Output {
            exit: reply.exit,
            signal: None,
            stdout: captured(reply.stdout),
            stderr: captured(reply.stderr),
        })
    }
}

impl ApiCarrier for InProcess {
    fn carry(&self, request: reqwest::Request) -> BoxFuture<'_, Result<Answer, Lost>> {
        self.answer(request).boxed()
    }
}

impl SshCarrier for InProcess {
    fn run<'c>(
        &'c self,
        node: &'c Node,
        user: &'c str,
        line: String,
        stdin: &'c [u8],
    ) -> BoxFuture<'c, Result<Output, remote::Error>> {
        self.command(node, user, line, stdin).boxed()
    }
}

impl Outside for InProcess {
    fn now(&self) -> i64 {
        (BEGIN / 1000 + self.began.elapsed().as_secs()) as i64
    }
    fn api(&self) -> Arc<dyn ApiCarrier> {
        Arc::new(self.clone())
    }
    fn ssh(&self) -> Arc<dyn SshCarrier> {
        Arc::new(self.clone())
    }
}
