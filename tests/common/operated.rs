//! Whole operators in process: caches, queue, lanes, Lease and engine, between an API server and a simulated cluster in
//! memory, on the clock of the asynchronous runtime.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use phoenix::desired::{Key, Stamp};
use phoenix::engine::outside::{Answer, ApiCarrier, Lost, SshCarrier};
use phoenix::engine::{Engine, EngineOptions, Outside};
use phoenix::operator::{KubeStore, Operator, Options, Polled, Process, Reconciler, RunError};
use phoenix::remote::{self, Node, Output};
use phoenix::simulator::{SimConfig, Simulator};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::apiserver::ApiServer;
use super::apiserver::weather::{Calm, Trouble, Weather};
use super::inprocess::{BEGIN, InProcess};

pub const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";
pub const IMAGE: &str = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";

/// Stops a process where it is and lets it go on, as SIGSTOP and SIGCONT do.
#[derive(Default)]
pub struct Gate(Mutex<Passage>);

#[derive(Default)]
struct Passage {
    frozen: bool,
    waiting: Vec<Waker>,
    trap: Option<Trap>,
}

/// Which request to Proxmox (verb and path) stops the process just before it leaves.
type Trap = Box<dyn FnMut(&str, &str) -> bool + Send>;

impl Gate {
    pub fn freeze(&self) {
        self.0.lock().unwrap().frozen = true;
    }

    pub fn thaw(&self) {
        let mut passage = self.0.lock().unwrap();
        passage.frozen = false;
        passage.waiting.drain(..).for_each(Waker::wake);
    }

    pub fn is_frozen(&self) -> bool {
        self.0.lock().unwrap().frozen
    }

    /// The process stops once, just before the first request that fits.
    pub fn freeze_before(&self, trap: impl FnMut(&str, &str) -> bool + Send + 'static) {
        self.0.lock().unwrap().trap = Some(Box::new(trap));
    }

    fn spring(&self, method: &str, path: &str) {
        let mut passage = self.0.lock().unwrap();
        if passage.trap.as_mut().is_some_and(|fits| fits(method, path)) {
            passage.trap = None;
            passage.frozen = true;
        }
    }

    /// Runs something that stands still while the process is stopped.
    async fn through<T>(&self, inner: impl Future<Output = T>) -> T {
        let mut inner = pin!(inner);
        std::future::poll_fn(|context| {
            let mut passage = self.0.lock().unwrap();
            if passage.frozen {
                passage.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
            drop(passage);
            inner.as_mut().poll(context)
        })
        .await
    }
}

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
struct Around {
    name: String,
    sim: Simulator,
    inner: InProcess,
    gate: Arc<Gate>,
    weather: Arc<dyn Weather>,
    sent: Arc<Mutex<Sent>>,
    began: Instant,
    /// Seconds by which the machine's clock is wrong.
    skew: Arc<AtomicI64>,
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

/// An engine that stands still while its process is stopped.
struct Stoppable {
    engine: Engine<KubeStore>,
    gate: Arc<Gate>,
}

impl Reconciler for Stoppable {
    async fn reconcile(&self, key: &Key) -> Duration {
        self.gate.through(Reconciler::reconcile(&self.engine, key)).await
    }
    async fn poll(&self, namespace: &str, name: &str) -> Polled {
        self.gate.through(Reconciler::poll(&self.engine, namespace, name)).await
    }
}

/// A process of the operator.
pub struct Running {
    pub name: String,
    pub gate: Arc<Gate>,
    /// Seconds by which its machine's clock is wrong.
    pub skew: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// As SIGKILL does.
    pub fn kill(self) {
        self.task.abort();
    }

    /// As SIGTERM does; what it came to.
    pub async fn stop(mut self) -> Result<(), RunError> {
        let _ = self.stop.take().map(|stop| stop.send(()));
        (&mut self.task).await.unwrap()
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An API server and a cluster of one node, with a PhoenixHypervisor `ai/pve` that is not applied yet.
pub struct Site {
    pub server: ApiServer,
    pub sim: Simulator,
    pub sent: Arc<Mutex<Sent>>,
    outside: InProcess,
    weather: Arc<dyn Weather>,
    seed: u64,
    began: Instant,
    secrets: (String, String),
}

impl Site {
    /// In calm weather.
    pub fn new() -> Site {
        Site::under(Arc::new(Calm), 0)
    }

    /// In this weather; the seed is that of all other chance.
    pub fn under(weather: Arc<dyn Weather>, seed: u64) -> Site {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = SimConfig {
            runtime_clock: Some(BEGIN),
            ..SimConfig::default()
        };
        let secrets = (config.secrets.token.clone(), config.secrets.root_password.clone());
        let sim = Simulator::new(config).unwrap();
        let fingerprint = |byte: &str| Some(vec![byte; 32].join(":"));
        sim.with(|state| (state.fingerprint, state.ca_fingerprint) = (fingerprint("01"), fingerprint("02")));
        let server = ApiServer::new(CLUSTER, BEGIN);
        server.set_weather(weather.clone());
        let sent = Sent {
            keeps: true,
            ..Sent::default()
        };
        Site {
            server,
            outside: InProcess::new(&sim),
            sim,
            sent: Arc::new(Mutex::new(sent)),
            weather,
            seed,
            began: Instant::now(),
            secrets,
        }
    }

    /// Applies what connects the hypervisor `ai/pve`.
    pub fn connect(&self) {
        self.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ai"}}));
        let secret = |name: &str, data: Value| {
            self.apply(json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"namespace": "ai", "name": name}, "stringData": data}));
        };
        secret(
            "token",
            json!({"tokenId": "phoenix@pve!operator", "secret": self.secrets.0}),
        );
        secret("root", json!({"password": self.secrets.1}));
        self.apply(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"name": "pve", "namespace": "ai"},
            "spec": {
                "endpoints": ["https://pve.test:8006"],
                "tls": {"fingerprint": vec!["01"; 32].join(":")},
                "credentials": {"tokenSecretRef": {"name": "token"}, "rootPasswordSecretRef": {"name": "root"}},
                "vmidRange": {"start": 1000, "end": 9899},
                "volumeOwners": {"idRange": {"start": 9900, "end": 9909}, "image": IMAGE},
                "defaults": {"rootfsStorage": "quickOS-lxc-disks", "volumeStorage": "fastData-shared-bulk-data",
                    "diskStorage": "quickOS-vm-disks", "bridge": "vmbr0"}
            }
        }));
    }

    /// Applies a manifest; one that is refused is a mistake of the test.
    pub fn apply(&self, manifest: Value) {
        if let Err(refused) = self.server.apply(manifest) {
            panic!("{refused}");
        }
    }

    /// Starts a process of the operator, alone.
    pub fn operator(&self, name: &str) -> Running {
        self.start(name, None)
    }

    /// Starts a process of the operator that works when it has the Lease.
    pub fn candidate(&self, name: &str) -> Running {
        self.start(name, Some(("ai".into(), "phoenix-operator".into())))
    }

    fn start(&self, name: &str, lease: Option<(String, String)>) -> Running {
        let (gate, skew) = (Arc::new(Gate::default()), Arc::new(AtomicI64::new(0)));
        let around = Around {
            name: name.into(),
            sim: self.sim.clone(),
            inner: self.outside.clone(),
            gate: gate.clone(),
            weather: self.weather.clone(),
            sent: self.sent.clone(),
            began: self.began,
            skew: skew.clone(),
        };
        let clock = around.clone();
        let process = Process {
            client: self.client(name, &gate),
            identity: name.into(),
            now: Arc::new(move || Timestamp::from_second(clock.now()).unwrap()),
            seed: Some(self.seed),
        };
        let options = Options {
            namespaces: Vec::new(),
            metrics_listen: ([127, 0, 0, 1], 0).into(),
            lease,
            role_binding: "phoenix-operator".into(),
            concurrency: 16,
            grace: Duration::from_secs(20),
        };
        let passage = gate.clone();
        let engine = move |store: Arc<KubeStore>, cluster: String| {
            let mut options = EngineOptions::new(cluster);
            options.counters = Some(store.counters());
            options.outside = Some(Arc::new(around));
            let engine = Engine::new(store, options);
            Stoppable { engine, gate: passage }
        };
        let (stop, stopped) = oneshot::channel();
        let operator = Operator::new(options, process);
        let stopped = async { drop(stopped.await) };
        let through = gate.clone();
        let task = tokio::spawn(async move { through.through(operator.run(engine, stopped)).await });
        Running {
            name: name.into(),
            gate,
            skew,
            stop: Some(stop),
            task,
        }
    }

    /// A way to the API server for a process.
    fn client(&self, name: &str, gate: &Arc<Gate>) -> Client {
        let (server, name, gate) = (self.server.clone(), name.to_string(), gate.clone());
        let service = tower::service_fn(move |request| {
            let (server, name, gate) = (server.clone(), name.clone(), gate.clone());
            async move {
                gate.through(async {}).await;
                let answer = server.serve(&name, request).await;
                gate.through(async {}).await;
                answer
            }
        });
        Client::new(service, "default")
    }

    /// Lets time pass until it is so.
    ///
    /// # Errors
    /// How things are when it is not so in time.
    pub async fn reaches(&self, within: Duration, so: impl Fn(&Site) -> bool) -> Result<(), String> {
        let begun = Instant::now();
        while !so(self) {
            if begun.elapsed() > within {
                return Err(self.words());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// As [`Site::reaches`], for tests that end with it.
    pub async fn until(&self, what: &str, so: impl Fn(&Site) -> bool) {
        if let Err(words) = self.reaches(Duration::from_secs(3600), so).await {
            panic!("not so in an hour: {what}:\n{words}");
        }
    }

    /// Guest objects.
    pub fn guests(&self) -> Vec<Arc<Value>> {
        let kinds = ["PhoenixTemplate", "PhoenixLXC", "PhoenixVM"];
        kinds.iter().flat_map(|kind| self.server.all(kind)).collect()
    }

    /// Whether all guest objects are Ready as they are now, and none is being deleted.
    pub fn all_ready(&self) -> bool {
        self.guests().iter().all(|object| is_ready(object))
    }

    /// How all objects are, a line each.
    pub fn words(&self) -> String {
        let mut objects = self.server.all("PhoenixHypervisor");
        objects.extend(self.guests());
        let line = |object: &Arc<Value>| {
            let (meta, status) = (&object["metadata"], &object["status"]);
            let (kind, deleted) = (&object["kind"], &meta["deletionTimestamp"]);
            format!(
                "{kind} {} {deleted} {} {} {}\n",
                meta["name"], status["vmid"], status["phase"], status["message"]
            )
        };
        objects.iter().map(line).collect()
    }

    /// All that was sent to Proxmox and written to the API server.
    pub fn trace(&self) -> String {
        let sent = self.sent.lock().unwrap();
        let journal = self.server.journal();
        Vec::from_iter(sent.requests.iter().chain(&journal.writes).map(String::as_str)).join("\n")
    }
}

/// Whether an object's status says Ready of its present generation.
pub fn is_ready(object: &Value) -> bool {
    let generation = &object["metadata"]["generation"];
    let conditions = object["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    let holds = ready.is_some_and(|c| c["status"] == "True" && c["observedGeneration"] == *generation);
    holds && object["metadata"]["deletionTimestamp"].is_null()
}

/// A PhoenixLXC with an address of its own, and the given fields.
pub fn lxc(name: &str, number: u32, fields: Value) -> Value {
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "cores": 1, "memory": "512Mi", "rootfs": {"size": "8Gi"},
        "source": {"image": {"volid": IMAGE}},
        "network": [{"name": "eth0", "ip": address(number), "gateway": "10.64.0.1"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": name, "namespace": "ai"}, "spec": spec
    })
}

fn address(number: u32) -> String {
    let number = number + 10;
    format!("10.64.{}.{}/16", number / 250, number % 250 + 1)
}

/// A PhoenixTemplate from the image.
pub fn template_of(name: &str, form: &str) -> Value {
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "form": form, "lxc": {
            "source": {"image": {"volid": IMAGE}}, "rootfs": {"size": "8Gi"}, "memory": "512Mi",
            "network": [{"name": "eth0", "ip": "10.64.0.2/16", "gateway": "10.64.0.1"}],
        }}
    })
}
