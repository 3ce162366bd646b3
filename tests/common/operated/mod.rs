//! Whole operators in process: caches, queue, lanes, Lease and engine, between an API server and a simulated cluster in
//! memory, on the clock of the asynchronous runtime.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

mod around;
mod gate;
mod manifests;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use phoenix::desired::Key;
use phoenix::engine::{Engine, EngineOptions, Outside, Requeue};
use phoenix::operator::{KubeStore, Operator, Options, Polled, Process, Reconciler, RunError, Serving};
use phoenix::simulator::{SimConfig, Simulator};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::apiserver::ApiServer;
use super::apiserver::weather::{Calm, Weather};
use super::inprocess::{BEGIN, InProcess};
use around::{Around, Sent};
pub use gate::Gate;
pub use manifests::{lxc, template_of};

pub const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";
pub const IMAGE: &str = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";

/// An engine that stands still while its process is stopped.
struct Stoppable {
    engine: Engine<KubeStore>,
    gate: Arc<Gate>,
}

impl Reconciler for Stoppable {
    async fn reconcile(&self, key: &Key) -> Requeue {
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
    store: Arc<KubeStore>,
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

    /// What `/metrics` answers.
    pub fn metrics(&self) -> String {
        self.store.metrics_text().unwrap()
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
    pub outside: InProcess,
    /// Whether operators are started with `--expose`.
    pub exposes: bool,
    /// The hypervisor's endpoints.
    pub endpoints: Mutex<Vec<&'static str>>,
    weather: Arc<dyn Weather>,
    seed: u64,
    began: Instant,
    /// The token's secret and the password of root@pam.
    pub secrets: (String, String),
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
            exposes: false,
            endpoints: Mutex::new(vec!["https://pve.test:8006"]),
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
                "endpoints": *self.endpoints.lock().unwrap(),
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
            serving: Serving::default(),
            lease,
            role_binding: "phoenix-operator".into(),
            expose: self.exposes,
            concurrency: 16,
            ui_listen: None,
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
        let store = operator.store();
        let stopped = async { drop(stopped.await) };
        let through = gate.clone();
        let task = tokio::spawn(async move { through.through(operator.run(engine, stopped)).await });
        Running {
            name: name.into(),
            gate,
            skew,
            store,
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
