//! A simulated cluster with a real node, and the real engine over it.

use std::time::{Duration, Instant};

use phoenix::crd::{GuestKind, PhoenixFeature};
use phoenix::desired::{GuestObject, Key, Objects};
use phoenix::engine::store::EventType;
use phoenix::simulator::model::storage::Volume;
use serde_json::{Value, json};

use crate::engine::{Nodes, World};
use crate::node::Node;

/// Longest wait for something that has to come; it decides nothing but when a test gives up.
const PATIENCE: Duration = Duration::from_secs(600);

pub const DEBIAN_12: &str = "fastData-shared-iso:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
pub const DEBIAN_13: &str = "fastData-shared-iso:vztmpl/debian-13-standard_13.1-1_amd64.tar.zst";
pub const PROXY: &str = "http://127.0.0.1:3128";

pub struct Real {
    pub node: Node,
    pub world: World,
}

impl Real {
    /// A cluster with a real node; nothing where containers cannot run.
    pub async fn start() -> Option<Real> {
        Self::start_cut_at(&[]).await
    }

    /// As [`Real::start`]; the engine is cut off at the points `at`.
    pub async fn start_cut_at(at: &[usize]) -> Option<Real> {
        let node = tokio::task::spawn_blocking(Node::start).await.unwrap()?;
        let world = World::start(at, Nodes::Real(node.real())).await;
        let (server, key) = world.ssh.as_ref().unwrap();
        let port = server.addresses().values().next().unwrap().port();
        node.connect(port, key, &server.known_hosts());
        world.sim().with(|state| {
            let images = state.storages.get_mut("fastData-shared-iso").unwrap();
            for image in [DEBIAN_12, DEBIAN_13] {
                let (_, name) = image.split_once(':').unwrap();
                let volume = Volume {
                    size: 126_515_062,
                    used: 126_515_062,
                    format: "tzst".into(),
                    content: "vztmpl".into(),
                    ..Volume::default()
                };
                images.insert("phoenix", name, volume);
            }
        });
        Some(Real { node, world })
    }

    /// Makes the shipped features available.
    pub fn ship_features(&self) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/features");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("kustomization.yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut feature: PhoenixFeature = serde_saphyr::from_str(&text).unwrap();
                feature.metadata.namespace = Some("ai".into());
                self.world.store.objects.insert_feature(feature);
            }
        }
    }

    pub fn object(&self, key: &Key) -> GuestObject {
        self.world.store.guest(key).unwrap_or_else(|| panic!("{key} is gone"))
    }

    pub fn vmid(&self, key: &Key) -> i64 {
        self.object(key)
            .status
            .vmid
            .unwrap_or_else(|| panic!("{key} has no vmid"))
    }

    /// What a shell in the object's container prints.
    pub fn sh(&self, key: &Key, script: &str) -> String {
        self.node.sh(self.vmid(key), script)
    }

    /// Where an object stands, in words.
    pub fn standing(&self, key: &Key) -> String {
        let object = self.object(key);
        let conditions: Vec<String> = object
            .status
            .conditions
            .iter()
            .map(|c| format!("  {}={} {}: {}", c.type_, c.status, c.reason, c.message))
            .collect();
        let scripts = serde_json::to_string(&json!({
            "features": object.status.features, "application": object.status.application,
            "vllm": object.status.vllm, "tests": object.status.tests, "lastError": object.status.last_error,
        }));
        format!(
            "{key}: {:?} {:?}\n{}\n  {}",
            object.status.phase,
            object.status.message,
            conditions.join("\n"),
            scripts.unwrap()
        )
    }

    /// Runs the engine until something is so.
    pub async fn until(&mut self, what: &str, mut is: impl FnMut(&Real) -> bool) {
        let begun = Instant::now();
        loop {
            if self.world.wire.dead.swap(false, std::sync::atomic::Ordering::SeqCst) {
                self.world.restart();
            }
            self.world.round().await;
            if is(self) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let all: Vec<String> = self
                    .world
                    .store
                    .guests()
                    .iter()
                    .map(|g| self.standing(&g.key))
                    .collect();
                panic!("never came: {what}\n{}", all.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs the engine until the objects are Ready with their present spec; one that is Stalled ends the test.
    pub async fn ready(&mut self, keys: &[Key]) {
        let keys = keys.to_vec();
        self.until("Ready", |real| {
            keys.iter().all(|key| {
                let object = real.object(key);
                let stalled = object
                    .status
                    .conditions
                    .iter()
                    .any(|c| c.type_ == "Stalled" && c.status == "True");
                assert!(!stalled, "{}", real.standing(key));
                object.is_ready() && object.status.observed_generation == Some(object.generation)
            })
        })
        .await;
    }

    /// Runs the engine until a condition or an event of the object gives the reason; its message.
    pub async fn reason(&mut self, key: &Key, reason: &str) -> String {
        let mut message = String::new();
        self.until(reason, |real| {
            let status = real.object(key).status;
            let found = status
                .conditions
                .iter()
                .find(|c| c.reason == reason)
                .map(|c| c.message.clone());
            let events = real.world.store.events.lock().unwrap();
            let event = events
                .iter()
                .rev()
                // Events of actions are told of by the same word, before the object waits.
                .find(|(k, e)| k == key && e.reason == reason && e.type_ == EventType::Warning)
                .map(|(_, e)| e.message.clone());
            match found.or(event) {
                Some(text) => {
                    message = text;
                    true
                }
                None => false,
            }
        })
        .await;
        message
    }
}

/// A container of the image, with further fields.
pub fn container(name: &str, image: &str, fields: Value) -> Value {
    let mut manifest = crate::engine::lxc(name, json!({"source": {"image": {"volid": image}}}));
    for (key, value) in fields.as_object().unwrap() {
        manifest["spec"][key] = value.clone();
    }
    manifest
}

pub fn lxc_key(name: &str) -> Key {
    Key::new(GuestKind::PhoenixLXC, "ai", name)
}
