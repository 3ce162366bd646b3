//! The controllers with a stand-in for the engine.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;
use tokio::sync::{Notify, oneshot};

use crate::crd::{GuestKind, PhoenixHypervisor, PhoenixLXC};
use crate::operator::Process;
use crate::operator::objects::{Guest, Object, Origin};

use super::*;

/// Counts calls; guests of the hypervisor `hung` never end.
#[derive(Default)]
struct Fake {
    calls: Mutex<BTreeMap<String, usize>>,
    under_way: Mutex<Vec<String>>,
    called: Notify,
    fails_once: Mutex<bool>,
    /// Guests named `gated` end when this has been opened.
    gate: Notify,
}

impl Fake {
    fn count(&self, what: &str) -> usize {
        self.calls.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    async fn reached(&self, what: &str, times: usize) {
        while self.count(what) < times {
            self.called.notified().await;
        }
    }

    fn note(&self, what: &str) {
        *self.calls.lock().unwrap().entry(what.into()).or_default() += 1;
        self.called.notify_one();
    }
}

impl Reconciler for Arc<Fake> {
    async fn reconcile(&self, key: &Key) -> Requeue {
        {
            let mut under_way = self.under_way.lock().unwrap();
            assert!(!under_way.contains(&key.name), "{key} is worked on twice at once");
            under_way.push(key.name.clone());
        }
        self.note(&key.name);
        if key.name.starts_with("hung") {
            std::future::pending::<()>().await;
        }
        if key.name == "gated" && self.count("gated") == 1 {
            self.gate.notified().await;
        }
        self.under_way.lock().unwrap().retain(|n| *n != key.name);
        assert!(!std::mem::take(&mut *self.fails_once.lock().unwrap()), "a defect");
        Requeue {
            after: Duration::from_secs(3600),
            wake: Vec::new(),
        }
    }

    async fn poll(&self, _: &str, name: &str) -> Polled {
        self.note(&format!("poll {name}"));
        if name == "hung" {
            std::future::pending::<()>().await;
        }
        Polled {
            status: HypervisorStatus::default(),
            changed: vec![Key::new(GuestKind::PhoenixLXC, "ai", "a")],
            next: Duration::from_millis(10),
        }
    }
}

fn store() -> Arc<KubeStore> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Nothing listens there; these tests write nothing.
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    Arc::new(KubeStore::new(Process::new(client), "phoenix-operator", Arc::default()))
}

fn guest(store: &KubeStore, name: &str, hypervisor: &str) {
    let object: PhoenixLXC = serde_json::from_value(json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"namespace": "ai", "name": name}, "spec": {"hypervisorRef": {"name": hypervisor}}
    }))
    .unwrap();
    let guest = Object::Guest(Arc::new(Guest {
        object: GuestObject::from(&object),
        finalizers: vec![],
    }));
    store.change(|state| state.apply(guest, "1", Origin::Elsewhere));
}

fn hypervisor(store: &KubeStore, name: &str) {
    let object: PhoenixHypervisor = serde_json::from_value(json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
        "metadata": {"namespace": "ai", "name": name},
        "spec": {"endpoints": ["https://127.0.0.1:1"], "credentials": {"tokenSecretRef": {"name": "token"}}},
        "status": {"conditions": []}
    }))
    .unwrap();
    let hypervisor = Object::Hypervisor(Arc::new(object));
    store.change(|state| state.apply(hypervisor, "1", Origin::Elsewhere));
}

struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(store: &Arc<KubeStore>, fake: &Arc<Fake>) -> Self {
        let items = store.start(&[]).unwrap();
        let mut controller = Controller::new(store.clone(), Arc::new(fake.clone()), 2);
        controller.retry_after_defect = Duration::from_millis(10);
        let (stop, stopped) = oneshot::channel();
        let wait = async {
            let _ = stopped.await;
        };
        Running {
            stop: Some(stop),
            task: tokio::spawn(controller.run(items, wait, Duration::from_millis(200))),
        }
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn everything_there_is_is_worked_on_and_polls_repeat_and_bring_changes() {
    let (store, fake) = (store(), Arc::new(Fake::default()));
    hypervisor(&store, "pve");
    guest(&store, "a", "pve");
    guest(&store, "b", "pve");
    let running = Running::start(&store, &fake);
    fake.reached("poll pve", 4).await;
    fake.reached("a", 3).await;
    assert_eq!(fake.count("b"), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_hung_hypervisor_holds_up_only_its_own_guests() {
    let (store, fake) = (store(), Arc::new(Fake::default()));
    for name in ["hung", "pve"] {
        hypervisor(&store, name);
    }
    for n in 0..20 {
        guest(&store, &format!("hung-{n:02}"), "hung");
        guest(&store, &format!("g{n:02}"), "pve");
    }
    let running = Running::start(&store, &fake);
    for n in 0..20 {
        fake.reached(&format!("g{n:02}"), 1).await;
    }
    fake.reached("poll pve", 3).await;
    let begun = fake
        .calls
        .lock()
        .unwrap()
        .keys()
        .filter(|k| k.starts_with("hung-"))
        .count();
    assert_eq!(begun, 2, "the limit of the hung hypervisor's guests");
    running.stop().await;
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_worked_on_is_worked_on_again_after_that() {
    let (store, fake) = (store(), Arc::new(Fake::default()));
    guest(&store, "gated", "pve");
    let running = Running::start(&store, &fake);
    fake.reached("gated", 1).await;
    for version in 2..10 {
        let mut changed = store.state().guests().next().unwrap().clone();
        changed.object.generation = version;
        let changed = Object::Guest(Arc::new(changed));
        store.change(|state| state.apply(changed, &version.to_string(), Origin::Elsewhere));
    }
    fake.gate.notify_one();
    fake.reached("gated", 2).await;
    running.stop().await;
    assert_eq!(fake.count("gated"), 2, "once for all changes");
}

#[tokio::test]
async fn a_defect_in_one_reconcile_ends_neither_the_operator_nor_the_object() {
    let (store, fake) = (store(), Arc::new(Fake::default()));
    *fake.fails_once.lock().unwrap() = true;
    guest(&store, "b", "pve");
    let running = Running::start(&store, &fake);
    fake.reached("b", 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_stop_lets_work_end_but_does_not_wait_for_ever() {
    let (store, fake) = (store(), Arc::new(Fake::default()));
    guest(&store, "b", "pve");
    guest(&store, "hung-1", "pve");
    let running = Running::start(&store, &fake);
    fake.reached("b", 1).await;
    fake.reached("hung-1", 1).await;
    running.stop().await;
    assert_eq!(*fake.under_way.lock().unwrap(), vec!["hung-1".to_string()]);
}
