//! A store in memory, a simulator in process, and a driver that runs the engine until nothing moves.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use super::inprocess::{self, InProcess};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use phoenix::admission::Admission;
use phoenix::crd::*;
use phoenix::desired::memory::MemoryObjects;
use phoenix::desired::{GuestObject, Index, Key, Objects, Stamp};
use phoenix::engine::poll::PollOutcome;
use phoenix::engine::store::{Event, Store, StoreError};
use phoenix::engine::{Engine, EngineOptions, Outside, Point, Requeue, Tripwire};
use phoenix::simulator::ssh::{SshConfig, SshServer};
use phoenix::simulator::{Edit, Running, SimConfig, Simulator};
use serde_json::{Value, json};

pub const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";
pub const IMAGE: &str = "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst";
pub const CLOUD_IMAGE: &str = "local:import/noble-server-cloudimg-amd64.qcow2";
/// A key, private and public, for those who look only whether there is one.
static KEY: LazyLock<(String, String)> = LazyLock::new(|| SshServer::new_client_key().unwrap());
/// Times faster than real, of the simulator and of the engine's waits.
const SCALE: f64 = 5000.0;

/// The API server's checks: compiling them takes longer than most tests.
pub static ADMISSION: LazyLock<Admission> = LazyLock::new(|| Admission::new().unwrap());

/// Keeps objects as an API server would: versions, conflicts, finalizers.
#[derive(Default)]
pub struct TestStore {
    pub objects: MemoryObjects,
    /// The status before the last write, by object.
    before: Mutex<BTreeMap<Key, GuestStatus>>,
    pub events: Mutex<Vec<(Key, Event)>>,
    /// Statuses and events in the order in which they were written.
    pub journal: Mutex<Vec<(Key, Told)>>,
    pub status_writes: AtomicUsize,
    /// The next look at a hypervisor panics.
    pub panics: AtomicBool,
    /// What the API server says of a kind that may be going; by default none does.
    pub kind_goes: Mutex<Option<Result<bool, String>>>,
    /// Objects of which a guest was recorded before they had the finalizer.
    pub unguarded: Mutex<Vec<Key>>,
}

/// What the engine told.
pub enum Told {
    Status(Box<GuestStatus>),
    Event(Event),
}

impl TestStore {
    /// Every status that was written, in order.
    pub fn statuses(&self) -> Vec<GuestStatus> {
        let journal = self.journal.lock().unwrap();
        let written = journal.iter().filter_map(|(_, told)| match told {
            Told::Status(status) => Some(status.as_ref().clone()),
            Told::Event(_) => None,
        });
        written.collect()
    }

    /// Applies a manifest of a guest; status and finalizer stay.
    pub fn apply(&self, manifest: Value) -> Key {
        let guest = match manifest["kind"].as_str().unwrap() {
            "PhoenixLXC" => GuestObject::from(&serde_json::from_value::<PhoenixLXC>(manifest).unwrap()),
            "PhoenixVM" => GuestObject::from(&serde_json::from_value::<PhoenixVM>(manifest).unwrap()),
            _ => GuestObject::from(&serde_json::from_value::<PhoenixTemplate>(manifest).unwrap()),
        };
        let key = guest.key.clone();
        let old = self.objects.guest(&key);
        let mut guest = GuestObject {
            uid: format!("uid-{}", key.name),
            generation: 1,
            resource_version: Some("1".into()),
            ..guest
        };
        if let Some(old) = old {
            guest.generation = old.generation + i64::from(old.spec != guest.spec);
            guest.resource_version = next_version(&old);
            (guest.status, guest.finalizer) = (old.status, old.finalizer);
        }
        self.objects.insert_guest(guest);
        key
    }

    /// Marks an object for deletion; without a finalizer it goes at once.
    pub fn delete(&self, key: &Key) {
        let keep = self.objects.update_guest(key, |guest| {
            guest.deleting = true;
            guest.resource_version = next_version(guest);
            guest.finalizer
        });
        if keep == Some(false) {
            self.objects.remove_guest(key);
        }
    }

    /// Loses the status of every object.
    pub fn forget(&self) {
        for guest in self.objects.guests() {
            self.objects.update_guest(&guest.key, |guest| {
                guest.status = GuestStatus::default();
                guest.resource_version = next_version(guest);
            });
        }
    }

    /// Takes the last status write of every object back, as an API server does that was restored from a backup.
    fn rewind(&self) {
        for (key, status) in std::mem::take(&mut *self.before.lock().unwrap()) {
            self.objects.update_guest(&key, |guest| {
                guest.status = status;
                guest.resource_version = next_version(guest);
            });
        }
    }

    fn change(&self, object: &GuestObject, change: impl FnOnce(&mut GuestObject)) -> Result<GuestObject, StoreError> {
        self.objects
            .update_guest(&object.key, |guest| {
                if guest.resource_version != object.resource_version {
                    return Err(StoreError::Conflict);
                }
                change(guest);
                guest.resource_version = next_version(guest);
                Ok(guest.clone())
            })
            .unwrap_or(Err(StoreError::Gone))
    }
}

fn next_version(guest: &GuestObject) -> Option<String> {
    let version: u64 = guest.resource_version.as_deref().unwrap_or("0").parse().unwrap();
    Some((version + 1).to_string())
}

impl Objects for TestStore {
    fn guest(&self, key: &Key) -> Option<GuestObject> {
        self.objects.guest(key)
    }
    fn guests(&self) -> Vec<GuestObject> {
        self.objects.guests()
    }
    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "a defect of the test's");
        self.objects.hypervisor(namespace, name)
    }
    fn look_at(&self, key: &Key, look: &mut dyn FnMut(&GuestObject)) {
        self.objects.look_at(key, look);
    }
    fn look_at_all(&self, look: &mut dyn FnMut(&GuestObject)) {
        self.objects.look_at_all(look);
    }
    fn look_at_index(&self, look: &mut dyn FnMut(&Index)) {
        self.objects.look_at_index(look);
    }
    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>> {
        self.objects.features(namespace)
    }
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.objects.secret(namespace, name)
    }
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.objects.config_map(namespace, name)
    }
    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.objects.namespace_labels(namespace)
    }
}

impl Store for TestStore {
    async fn write_status(&self, object: &GuestObject, status: &GuestStatus) -> Result<GuestObject, StoreError> {
        self.status_writes.fetch_add(1, Ordering::SeqCst);
        if status.vmid.is_some() && !object.finalizer {
            self.unguarded.lock().unwrap().push(object.key.clone());
        }
        // Through JSON, as to an API server: what does not survive that would be lost there too.
        let status: GuestStatus = serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap();
        let changed = self.change(object, |guest| guest.status = status.clone())?;
        let mut journal = self.journal.lock().unwrap();
        journal.push((object.key.clone(), Told::Status(Box::new(status))));
        drop(journal);
        self.before
            .lock()
            .unwrap()
            .insert(object.key.clone(), object.status.clone());
        Ok(changed)
    }
    async fn add_finalizer(&self, object: &GuestObject) -> Result<GuestObject, StoreError> {
        self.change(object, |guest| guest.finalizer = true)
    }
    async fn remove_finalizer(&self, object: &GuestObject) -> Result<(), StoreError> {
        let guest = self.change(object, |guest| guest.finalizer = false)?;
        if guest.deleting {
            self.objects.remove_guest(&object.key);
            // An object that is made anew under the name has no writes to lose yet.
            self.before.lock().unwrap().remove(&object.key);
        }
        Ok(())
    }
    async fn kind_goes(&self, _: GuestKind) -> Result<bool, StoreError> {
        let answer = self.kind_goes.lock().unwrap().clone();
        answer.unwrap_or(Ok(false)).map_err(StoreError::Other)
    }
    async fn event(&self, object: &GuestObject, event: Event) {
        self.events.lock().unwrap().push((object.key.clone(), event.clone()));
        self.journal
            .lock()
            .unwrap()
            .push((object.key.clone(), Told::Event(event)));
    }
}

/// Trips at given points, each time for once; after that everything is dead until a new engine takes over.
#[derive(Default)]
pub struct Wire {
    pub passed: AtomicUsize,
    /// Numbers of the points, counted over all engines.
    pub at: Vec<usize>,
    pub dead: AtomicBool,
    /// Where it tripped.
    pub last: Mutex<String>,
    /// The effects that were about to be sent, where it tripped, and what went on meanwhile.
    pub passages: Mutex<Vec<Passage>>,
    /// What goes on around the engine for a while.
    pub around: Mutex<Vec<Around>>,
    /// Whose faults are counted then.
    pub sim: OnceLock<Simulator>,
    /// Whether the last status write is lost then, too.
    pub rewinds: AtomicBool,
    /// Whether all of the status is lost then.
    pub forgets: AtomicBool,
    /// What somebody else does just before the first effect whose action has these words.
    pub meddle: Mutex<Option<(&'static str, Meddling)>>,
}

/// A point that an engine passed, or where it died.
#[derive(Clone, Debug)]
pub struct Passage {
    pub key: Key,
    pub point: Point,
    pub what: String,
    pub outcome: Outcome,
    /// How many faults had struck before, and the time on the simulator's clock.
    pub struck: usize,
    pub at: u64,
}

/// What became of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Died,
    /// Something began around it.
    Began(&'static str),
}

/// Something that goes on around the engine, from the point of a number on, for so many rounds.
pub struct Around {
    pub name: &'static str,
    pub at: usize,
    pub rounds: usize,
    /// How it begins; what comes back ends it.
    pub begin: Option<Box<dyn FnOnce() -> Meddling + Send>>,
    pub end: Option<Meddling>,
}

/// What somebody else does.
pub type Meddling = Box<dyn FnOnce() + Send>;

impl Tripwire for Wire {
    fn trip(&self, key: &Key, point: Point, what: &str) -> bool {
        if self.dead.load(Ordering::SeqCst) {
            return true;
        }
        let mut meddle = self.meddle.lock().unwrap();
        if point == Point::BeforeEffect && meddle.as_ref().is_some_and(|(words, _)| what.contains(words)) {
            meddle.take().unwrap().1();
        }
        let n = self.passed.fetch_add(1, Ordering::SeqCst);
        for around in self.around.lock().unwrap().iter_mut().filter(|around| around.at == n) {
            self.note(key, point, what, Outcome::Began(around.name));
            around.end = around.begin.take().map(|begin| begin());
        }
        let died = self.at.contains(&n);
        if died || point == Point::BeforeEffect {
            let outcome = if died { Outcome::Died } else { Outcome::Passed };
            self.note(key, point, what, outcome);
        }
        if died {
            let mut last = self.last.lock().unwrap();
            *last += &format!("{point:?} of {what:?} for {key}; ");
            self.dead.store(true, Ordering::SeqCst);
            return true;
        }
        false
    }
}

impl Wire {
    fn note(&self, key: &Key, point: Point, what: &str, outcome: Outcome) {
        let at = |sim: &Simulator| sim.with(|state| (state.struck.len(), state.now));
        let (struck, at) = self.sim.get().map(at).unwrap_or_default();
        self.passages.lock().unwrap().push(Passage {
            key: key.clone(),
            point,
            what: what.to_owned(),
            outcome,
            struck,
            at,
        });
    }

    /// A round is over: so may be what went on around it. Whether something went on in it.
    fn round_is_over(&self) -> bool {
        let mut around = self.around.lock().unwrap();
        // What its end did is looked at, too.
        let goes_on = around.iter().any(|around| around.end.is_some());
        for passing in around.iter_mut().filter(|around| around.end.is_some()) {
            passing.rounds = passing.rounds.saturating_sub(1);
            if let Some(end) = passing.end.take_if(|_| passing.rounds == 0) {
                end();
            }
        }
        goes_on
    }
}

/// How the nodes of a world are reached.
pub enum Nodes {
    /// By the API only, in process and on the runtime's clock.
    Api,
    /// In process by SSH too, and everything takes the time that it takes on a node.
    Timed,
    /// In process by SSH too.
    Simulated,
    /// By HTTPS connections, and by SSH ones too if so, in real time.
    Network(bool),
    /// By HTTPS and SSH connections, and everything takes the time that it takes on a node.
    Connected,
    /// By a real sshd, with a program that keeps real guests.
    Real(RealNode),
}

/// A real node's part in a world (tests/real).
pub struct RealNode {
    /// The simulator's guest hook.
    pub hook: std::path::PathBuf,
    /// Where its sshd listens.
    pub address: String,
    /// Private key that it lets in.
    pub key: String,
    /// Its `known_hosts`.
    pub known_hosts: String,
    /// Divides the engine's waits.
    pub time_scale: f64,
}

/// A cluster to work on.
pub struct World {
    sim: Simulator,
    /// Its HTTPS server, where the world is reached by connections.
    pub network: Option<Running>,
    outside: Option<Arc<dyn Outside>>,
    pub store: Arc<TestStore>,
    pub wire: Arc<Wire>,
    engine: Engine<TestStore>,
    /// Looks at everything so far.
    pub rounds: AtomicUsize,
    /// Divides the waits of the next engine.
    pub time_scale: f64,
    /// The simulator's SSH server and the key that it lets in.
    pub ssh: Option<(SshServer, String)>,
}

impl World {
    /// A new cluster with one hypervisor object; the engine is cut off at the points `at`.
    pub async fn new(at: &[usize]) -> World {
        Self::start(at, Nodes::Api).await
    }

    /// As [`World::new`], with SSH to the nodes.
    pub async fn with_ssh(at: &[usize]) -> World {
        Self::start(at, Nodes::Simulated).await
    }

    /// As [`World::with_ssh`], with the times of a real node, which pass on the runtime's clock.
    pub async fn timed() -> World {
        Self::start(&[], Nodes::Timed).await
    }

    /// As [`World::with_ssh`], by HTTPS and SSH connections and in real time.
    pub async fn networked(at: &[usize]) -> World {
        Self::start(at, Nodes::Network(true)).await
    }

    /// As [`World::networked`], by HTTPS alone.
    pub async fn networked_without_ssh(at: &[usize]) -> World {
        Self::start(at, Nodes::Network(false)).await
    }

    /// A new cluster whose nodes are reached as told.
    pub async fn start(at: &[usize], nodes: Nodes) -> World {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let in_process = matches!(nodes, Nodes::Api | Nodes::Simulated | Nodes::Timed);
        let time_scale = match &nodes {
            Nodes::Timed | Nodes::Connected => 1.0,
            _ => SCALE,
        };
        let config = SimConfig {
            time_scale,
            runtime_clock: in_process.then_some(inprocess::BEGIN),
            guest_hook: match &nodes {
                Nodes::Real(node) => Some(node.hook.clone()),
                _ => None,
            },
            ..SimConfig::default()
        };
        let secrets = config.secrets.clone();
        let network = match in_process {
            true => None,
            false => Some(Simulator::start(config.clone()).await.unwrap()),
        };
        let sim = match &network {
            Some(running) => running.simulator.clone(),
            None => Simulator::new(config).unwrap(),
        };
        if in_process {
            let fingerprint = |byte: &str| Some(vec![byte; 32].join(":"));
            sim.with(|state| (state.fingerprint, state.ca_fingerprint) = (fingerprint("01"), fingerprint("02")));
        }
        let outside = in_process.then(|| Arc::new(InProcess::new(&sim)) as Arc<dyn Outside>);
        let store = Arc::new(TestStore::default());
        let secret = |name: &str, data: Value| {
            let value = json!({"metadata": {"name": name, "namespace": "ai"}, "stringData": data});
            store.objects.insert_secret(serde_json::from_value(value).unwrap());
        };
        let tls = match &network {
            Some(running) => {
                secret("ca", json!({"ca.crt": running.certificates.ca_pem}));
                json!({"caSecretRef": {"name": "ca", "key": "ca.crt"}})
            }
            None => json!({"fingerprint": vec!["01"; 32].join(":")}),
        };
        let url = network
            .as_ref()
            .map_or("https://pve.test:8006", |r| r.server.base_url.as_str());
        secret(
            "token",
            json!({"tokenId": "phoenix@pve!operator", "secret": secrets.token}),
        );
        secret("root", json!({"password": secrets.root_password}));
        let mut hypervisor = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"name": "pve", "namespace": "ai", "generation": 1, "annotations": {
                // The machines of tests may take the cards, which the node's own driver has.
                GPU_DRIVER: "phoenix/0000:41:00.0=vfio,phoenix/0000:61:00.0=vfio",
            }},
            "spec": {
                "endpoints": [url],
                "tls": tls,
                "credentials": {"tokenSecretRef": {"name": "token"}, "rootPasswordSecretRef": {"name": "root"}},
                "vmidRange": {"start": 1000, "end": 1099},
                "volumeOwners": {"idRange": {"start": 9900, "end": 9909}, "image": IMAGE},
                "defaults": {"rootfsStorage": "quickOS-lxc-disks", "volumeStorage": "fastData-shared-bulk-data",
                    "diskStorage": "quickOS-vm-disks", "bridge": "vmbr0"}
            }
        });
        let mut server = None;
        if matches!(nodes, Nodes::Simulated | Nodes::Timed) {
            let (private, public) = &*KEY;
            secret(
                "ssh",
                json!({"key": private, "known_hosts": format!("phoenix.test {public}\n")}),
            );
            hypervisor["spec"]["ssh"] = json!({
                "hosts": {"phoenix": "phoenix.test"}, "keySecretRef": {"name": "ssh", "key": "key"},
                "knownHostsSecretRef": {"name": "ssh", "key": "known_hosts"}
            });
        }
        if matches!(nodes, Nodes::Network(true) | Nodes::Connected | Nodes::Real(_)) {
            let (private, public) = SshServer::new_client_key().unwrap();
            let config = SshConfig {
                listen: "127.0.0.1:0".parse().unwrap(),
                authorized_keys: vec![public],
            };
            let started = SshServer::start(&sim, config).await.unwrap();
            let (key, known_hosts) = match &nodes {
                Nodes::Real(node) => (node.key.clone(), node.known_hosts.clone()),
                _ => (private.clone(), started.known_hosts()),
            };
            secret("ssh", json!({"key": key, "known_hosts": known_hosts}));
            let address = |at: String| match &nodes {
                Nodes::Real(node) => node.address.clone(),
                _ => at,
            };
            let hosts: BTreeMap<&String, String> = started
                .addresses()
                .iter()
                .map(|(node, at)| (node, address(at.to_string())))
                .collect();
            hypervisor["spec"]["ssh"] = json!({
                "hosts": hosts, "keySecretRef": {"name": "ssh", "key": "key"},
                "knownHostsSecretRef": {"name": "ssh", "key": "known_hosts"}
            });
            server = Some((started, private));
        }
        store
            .objects
            .insert_hypervisor(serde_json::from_value(hypervisor).unwrap());
        let wire = Arc::new(Wire {
            at: at.to_vec(),
            sim: OnceLock::from(sim.clone()),
            ..Wire::default()
        });
        let time_scale = match &nodes {
            Nodes::Real(node) => node.time_scale,
            _ => time_scale,
        };
        let engine = engine(&store, wire.clone(), time_scale, outside.clone());
        World {
            sim,
            network,
            outside,
            store,
            wire,
            engine,
            rounds: AtomicUsize::new(0),
            time_scale,
            ssh: server,
        }
    }

    /// A PhoenixFeature with the given fields beside a small install script.
    pub fn feature(&self, name: &str, fields: Value) {
        let mut spec = json!({"install": format!("#!/bin/sh\necho installing {name}\n")});
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let feature = json!({"metadata": {"name": name, "namespace": "ai"}, "spec": spec});
        self.store
            .objects
            .insert_feature(serde_json::from_value(feature).unwrap());
    }

    pub fn sim(&self) -> &Simulator {
        &self.sim
    }

    /// The engine is thrown away, with all it had in memory, and a new one takes over.
    pub fn restart(&mut self) {
        self.engine = engine(&self.store, self.wire.clone(), self.time_scale, self.outside.clone());
    }

    /// An engine that asks this wire takes over.
    pub fn replace_tripwire(&mut self, wire: Arc<dyn Tripwire>) {
        self.engine = engine(&self.store, wire, self.time_scale, self.outside.clone());
    }

    /// What an engine of another test's own reaches in place of the network.
    pub fn outside(&self) -> Option<Arc<dyn Outside>> {
        self.outside.clone()
    }

    /// The time that the engine sees.
    pub fn now(&self) -> Timestamp {
        let seconds = self.outside.as_ref().map(|outside| outside.now());
        seconds.map_or_else(Timestamp::now, |seconds| Timestamp::from_second(seconds).unwrap())
    }

    pub async fn poll(&self) {
        self.record_poll(self.ask_poll().await);
    }

    /// Polls, and writes nothing down.
    pub async fn ask_poll(&self) -> PollOutcome {
        self.engine.poll("ai", "pve").await
    }

    /// Works on one object as an operator does.
    pub async fn reconcile(&self, key: &Key) -> Requeue {
        self.engine.reconcile(key).await
    }

    /// Writes down what a poll came to, as an operator does.
    pub fn record_poll(&self, outcome: PollOutcome) {
        let hypervisor = self.store.hypervisor("ai", "pve").unwrap();
        if hypervisor.status.as_ref() != Some(&outcome.status) {
            let mut hypervisor = (*hypervisor).clone();
            hypervisor.status = Some(outcome.status);
            self.store.objects.insert_hypervisor(hypervisor);
        }
    }

    /// Polls, and looks at every object once.
    pub async fn round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.poll().await;
        for guest in self.store.guests() {
            self.engine.reconcile(&guest.key).await;
        }
    }

    /// Lets some time pass, as much as a round takes over the network.
    pub async fn pause(&self) {
        let ms = if self.network.is_some() { 3 } else { 40 };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Looks at one object alone; when it wants to be looked at again.
    pub async fn look_at(&self, key: &Key) -> Duration {
        self.engine.reconcile(key).await.after
    }

    /// What would be done for an object.
    pub async fn preview(&self, key: &Key) -> phoenix::engine::preview::Preview {
        self.engine.preview(key).await
    }

    /// Whether every object is Ready, or gone where it is to be deleted, or Stalled where that is expected.
    fn settled(&self, stalled_is_fine: bool) -> bool {
        self.store.guests().iter().all(|guest| {
            let stalled = guest
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == "Stalled" && c.status == "True");
            // What of an earlier revision could not be read is looked at again, and holds up nothing meanwhile.
            let unread = |c: &Condition| c.type_ == "OldRevisionKept" && c.status == "True" && c.reason != "InUse";
            let unread = guest.status.conditions.iter().any(unread);
            (guest.is_ready() && !guest.deleting && !unread) || (stalled_is_fine && stalled)
        })
    }

    /// Runs the engine until everything is settled; an engine that was cut off is replaced.
    pub async fn settle(&mut self, stalled_is_fine: bool) -> Result<(), String> {
        // One round looks at everything once, so that a change of the spec is seen before anything counts as settled.
        for round in 0..300 {
            if self.wire.dead.load(Ordering::SeqCst) {
                if self.wire.rewinds.load(Ordering::SeqCst) {
                    self.store.rewind();
                }
                if self.wire.forgets.load(Ordering::SeqCst) {
                    self.store.forget();
                }
                self.restart();
                self.wire.dead.store(false, Ordering::SeqCst);
            }
            self.round().await;
            if self.wire.round_is_over() {
                self.pause().await;
                continue;
            }
            if round > 0 && self.settled(stalled_is_fine) && !self.wire.dead.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.pause().await;
        }
        let standing = |g: &GuestObject| format!("{}: {:?} {:?}", g.key, g.status.phase, g.status.message);
        Err(self.store.guests().iter().map(standing).collect::<Vec<_>>().join("\n"))
    }

    /// Guests by vmid with what matters of their configuration: no MACs, no times.
    pub fn guests(&self) -> BTreeMap<u32, BTreeMap<String, String>> {
        self.sim().with(|state| {
            let guest = |(vmid, guest): (&u32, &phoenix::simulator::model::Guest)| {
                let mut options: BTreeMap<String, String> = guest.config().current.options.clone();
                for (key, value) in options.iter_mut().filter(|(k, _)| k.starts_with("net")) {
                    let address = |p: &&str| p.starts_with("hwaddr=") || p.starts_with("virtio=");
                    let kept: Vec<&str> = value.split(',').filter(|p| !address(p)).collect();
                    *value = format!("{key}:{}", kept.join(","));
                }
                for chance in ["vmgenid", "smbios1", "meta"] {
                    options.remove(chance);
                }
                options.insert("raw".into(), format!("{:?}", guest.config().current.lxc));
                options.insert("running".into(), guest.running.is_some().to_string());
                let snapshots: Vec<&String> = guest.config().snapshots.keys().collect();
                options.insert("snapshots".into(), format!("{snapshots:?}"));
                let scripts: Vec<String> = guest
                    .inside
                    .scripts
                    .values()
                    .map(|s| format!("{} {} {}", s.id, s.attempt, s.exit_code))
                    .collect();
                options.insert("scripts".into(), format!("{scripts:?}"));
                let runs = guest.inside.scripts.values().map(|s| format!("{} {}", s.id, s.runs));
                options.insert("runs".into(), format!("{:?}", runs.collect::<Vec<_>>()));
                (*vmid, options)
            };
            state.guests.iter().map(guest).collect()
        })
    }

    /// No object has two guests, and every lock is gone.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut owners: BTreeMap<String, u32> = BTreeMap::new();
        for (vmid, options) in self.guests() {
            let Some(stamp) = options.get("description").and_then(|d| Stamp::find(d)) else {
                continue;
            };
            if stamp.vmid.get() != vmid {
                continue;
            }
            // A template may have several: one a revision.
            let revision = stamp
                .revision
                .filter(|_| stamp.kind == "PhoenixTemplate")
                .unwrap_or_default();
            let name = format!("{} {}/{} {revision}", stamp.kind, stamp.namespace, stamp.name);
            if stamp.kind == "VolumeOwner" {
                if options.get("protection").map(String::as_str) != Some("1")
                    && options.keys().any(|k| k.starts_with("mp"))
                {
                    return Err(format!("owner container {vmid} is not protected"));
                }
            } else if let Some(other) = owners.insert(name.clone(), vmid) {
                return Err(format!("{name} has two guests: {other} and {vmid}"));
            }
        }
        Ok(())
    }
}

fn engine(
    store: &Arc<TestStore>,
    wire: Arc<dyn Tripwire>,
    time_scale: f64,
    outside: Option<Arc<dyn Outside>>,
) -> Engine<TestStore> {
    let mut options = EngineOptions::new(CLUSTER);
    options.time_scale = time_scale;
    options.tripwire = Some(wire);
    options.outside = outside;
    Engine::new(store.clone(), options)
}

/// Looks at everything so many times.
pub async fn rounds(world: &World, number: usize) {
    for _ in 0..number {
        world.round().await;
        world.pause().await;
    }
}

/// Runs until it is so.
pub async fn until(world: &World, what: &str, so: impl Fn(&World) -> bool) {
    for _ in 0..300 {
        if so(world) {
            return;
        }
        rounds(world, 1).await;
    }
    let standing: Vec<_> = world.store.guests().into_iter().map(|g| g.status).collect();
    panic!("not so in time: {what}: {standing:?}");
}

/// Runs until every object is Ready, or gone where it is to be deleted.
pub async fn settled(world: &mut World) {
    if let Err(standing) = world.settle(false).await {
        panic!("{standing}\n{:#?}", world.guests());
    }
}

/// Edits the PhoenixHypervisor.
pub fn hypervisor(world: &World, change: impl FnOnce(&mut PhoenixHypervisor)) {
    let mut object = (*world.store.hypervisor("ai", "pve").unwrap()).clone();
    change(&mut object);
    world.store.objects.insert_hypervisor(object);
}

/// Something happens to the cluster.
pub fn edit(world: &World, edit: Edit) {
    world.sim().edit(edit).unwrap();
}

/// A guest that somebody made, 500.
pub fn made_by_hand(world: &World) {
    let options = BTreeMap::from([
        ("hostname".into(), "old".into()),
        ("description".into(), "made by hand".into()),
        ("unprivileged".into(), "1".into()),
    ]);
    let create = Edit::CreateGuest {
        vmid: 500,
        node: None,
        vm: false,
        options,
        storage: Some("quickOS-lxc-disks".into()),
    };
    edit(world, create);
}

/// A PhoenixLXC that adopts it, with the given fields besides.
pub fn adopting(fields: Value) -> Value {
    let mut object = lxc("old", json!({"vmid": 500, "cores": 3}));
    let spec = object["spec"].as_object_mut().unwrap();
    spec.remove("rootfs");
    spec.extend(fields.as_object().unwrap().clone());
    object["metadata"]["annotations"] = json!({ADOPT: "500"});
    object
}

/// A second node, `two`, in one cluster with the first, with the same storages, images and devices.
pub fn second_node(world: &World) {
    world
        .sim()
        .with(|state| state.add_twin("phoenix", "two", "10.0.0.14", "lab"));
}

pub fn object(world: &World, key: &Key) -> GuestObject {
    world.store.guest(key).unwrap()
}

pub fn status(world: &World, key: &Key) -> GuestStatus {
    object(world, key).status
}

pub fn message(world: &World, key: &Key) -> String {
    status(world, key).message.unwrap_or_default()
}

/// Whether a condition has this reason.
pub fn says(world: &World, key: &Key, reason: &str) -> bool {
    status(world, key).conditions.iter().any(|c| c.reason == reason)
}

/// The conditions that hold, and Ready, a line each.
pub fn told(world: &World, key: &Key) -> String {
    let status = status(world, key);
    let told = status
        .conditions
        .iter()
        .filter(|c| c.status == "True" || c.type_ == "Ready");
    let told = told.map(|c| format!("{} {}: {}\n", c.type_, c.reason, c.message));
    told.collect()
}

/// A guest's configuration as it is written.
pub fn text(world: &World, vmid: u32) -> String {
    world.sim().with(|state| state.guests[&vmid].text().to_owned())
}

/// A PhoenixLXC from the image.
pub fn guest(name: &str, mut fields: Value) -> Value {
    fields["source"] = json!({"image": {"volid": IMAGE}});
    lxc(name, fields)
}

/// The address of a guest that gives none: the first one's, or one of its own from `range`.
fn address(name: &str, first: u32, range: u32) -> String {
    let sum = name
        .bytes()
        .fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let last = if name == "a" { first } else { range + sum % 90 };
    format!("10.0.0.{last}/24")
}

/// A PhoenixLXC with the given fields over a small default.
pub fn lxc(name: &str, fields: Value) -> Value {
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "cores": 2, "memory": "1Gi", "rootfs": {"size": "8Gi"},
        "network": [{"name": "eth0", "ip": address(name, 50, 70), "gateway": "10.0.0.1"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": name, "namespace": "ai"}, "spec": spec
    })
}

/// A PhoenixVM from the cloud image with the given fields over a small default.
pub fn vm(name: &str, fields: Value) -> Value {
    let mut spec = json!({
        "hypervisorRef": {"name": "pve"}, "source": {"cloudImage": {"volid": CLOUD_IMAGE}},
        "cpu": {"cores": 2}, "memory": "2Gi", "disks": [{"name": "root", "size": "20Gi"}], "cloudInit": {"user": "ops"},
        "network": [{"name": "net0", "ip": address(name, 60, 160), "gateway": "10.0.0.1"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixVM",
        "metadata": {"name": name, "namespace": "ai"}, "spec": spec
    })
}

/// A PhoenixTemplate of vm form.
pub fn vm_template(name: &str) -> Value {
    let mut guest = vm(name, json!({}))["spec"].clone();
    guest.as_object_mut().unwrap().remove("hypervisorRef");
    guest["protection"] = json!(true);
    guest["tags"] = json!(["base"]);
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "form": "Template", "vm": guest}
    })
}

/// A PhoenixTemplate from the image.
pub fn template(name: &str, form: &str) -> Value {
    json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "form": form, "lxc": {
            "source": {"image": {"volid": IMAGE}}, "rootfs": {"size": "8Gi"}, "memory": "1Gi", "protection": true,
            "boot": {"autostart": true}, "tags": ["base"],
            "network": [{"name": "eth0", "ip": "10.0.0.40/24", "gateway": "10.0.0.1"}],
            "firewall": {"enabled": true, "rules": [{"direction": "in", "action": "ACCEPT", "protocol": "tcp", "port": "22"}]},
        }}
    })
}
