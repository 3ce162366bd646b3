//! One bad object never costs more than itself: chains of any length, and panics in the work on one object.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::engine::{self, World, lxc, status, template};
use phoenix::admission::read_manifests;
use phoenix::desired::{Blocked, Key, MemoryObjects, Objects, refs, resolve};
use serde_json::{Value, json};

/// As many as let the walk of earlier versions overflow a worker's stack, several times over.
const MANY: usize = 6000;

fn feature(name: &str, requires: &[String]) -> phoenix::crd::PhoenixFeature {
    let value =
        json!({"metadata": {"name": name, "namespace": "ai"}, "spec": {"install": "true", "requires": requires}});
    serde_json::from_value(value).unwrap()
}

fn blocked(result: Result<(), Blocked>) -> (&'static str, String) {
    let cause = result.unwrap_err().cause().clone();
    (cause.reason.as_str(), cause.message)
}

/// Runs on a worker's thread with its 2 MiB of stack, as in the operator.
async fn on_a_worker<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::spawn(async move { work() }).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_long_chain_of_dependencies_waits_and_a_long_circle_is_told() {
    let w = World::new(&[]).await;
    let chain = |n: usize, to: usize| lxc(&format!("g{n}"), json!({"dependsOn": [{"name": format!("g{to}")}]}));
    let keys: Vec<Key> = (0..MANY).map(|n| w.store.apply(chain(n, n + 1))).collect();
    let store = w.store.clone();
    let first = keys[0].clone();
    let (reason, message) =
        on_a_worker(move || blocked(refs::dependencies(&store.guest(&first).unwrap(), store.as_ref()))).await;
    assert_eq!(reason, "DependencyNotReady", "{message}");
    // The last one closes the circle; the shorter one near the end is found and its message is no novel.
    w.store.apply(chain(MANY - 1, MANY - 2000));
    let (store, last) = (w.store.clone(), keys[MANY - 1].clone());
    let (reason, message) =
        on_a_worker(move || blocked(refs::dependencies(&store.guest(&last).unwrap(), store.as_ref()))).await;
    assert_eq!(reason, "DependencyCycle");
    assert!(message.len() < 500 && message.contains("more"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn many_templates_behind_each_other_are_refused_and_a_few_are_not() {
    let w = World::new(&[]).await;
    let from = |n: usize| match n {
        0 => json!({"image": {"volid": engine::IMAGE}}),
        n => json!({"templateRef": {"name": format!("t{}", n - 1)}}),
    };
    let keys: Vec<Key> = (0..MANY)
        .map(|n| {
            let mut manifest = template(&format!("t{n}"), "Template");
            manifest["spec"]["lxc"]["source"] = from(n);
            w.store.apply(manifest)
        })
        .collect();
    for (n, refused) in [(1, false), (20, false), (40, true), (MANY - 1, true)] {
        let (store, key) = (w.store.clone(), keys[n].clone());
        let resolved =
            on_a_worker(move || resolve(&store.guest(&key).unwrap(), store.as_ref(), engine::CLUSTER).map(drop)).await;
        assert_eq!(resolved.is_err(), refused, "{n}");
        if refused {
            let (reason, message) = blocked(resolved);
            assert!(
                reason == "InvalidSpec" && message.contains("spec.lxc.source.templateRef"),
                "{message}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn features_that_require_each_other_in_a_long_chain_are_refused() {
    let w = World::new(&[]).await;
    for n in 0..MANY {
        w.store
            .objects
            .insert_feature(feature(&format!("f{n}"), &[format!("f{}", n + 1)]));
    }
    let key = w.store.apply(lxc(
        "a",
        json!({"source": {"image": {"volid": engine::IMAGE}}, "features": [{"name": "f0"}]}),
    ));
    let store = w.store.clone();
    let resolved =
        on_a_worker(move || resolve(&store.guest(&key).unwrap(), store.as_ref(), engine::CLUSTER).map(drop)).await;
    let (reason, message) = blocked(resolved);
    assert!(
        reason == "InvalidSpec" && message.contains("spec.features[f0]") && message.contains("64"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn deeply_nested_manifests_are_refused() {
    let deep = [
        format!("a: {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a: {}1{}", "{b: ".repeat(100_000), "}".repeat(100_000)),
        (0..20_000)
            .map(|n| format!("{}a:\n", " ".repeat(n.min(4000))))
            .collect::<String>(),
        format!("{}\n", "- ".repeat(100_000)),
        format!("kind: List\nitems: {}", "[{kind: List, items: ".repeat(50_000)),
        format!("a: {}1{}", "[".repeat(70), "]".repeat(70)),
    ];
    for (n, text) in deep.into_iter().enumerate() {
        let read = {
            let text = text.clone();
            on_a_worker(move || read_manifests(&text, "deep.yaml").map(|m| m.len())).await
        };
        assert!(read.is_err(), "{n}: {read:?}");
        // The same in what a user hands to cloud-init, which the operator reads.
        let w = World::with_ssh(&[]).await;
        let text = format!("#cloud-config\n{text}");
        let key = w.store.apply(engine::vm("a", json!({"cloudInit": {"userData": text}})));
        let store = w.store.clone();
        let resolved =
            on_a_worker(move || resolve(&store.guest(&key).unwrap(), store.as_ref(), engine::CLUSTER).map(drop)).await;
        let (reason, message) = blocked(resolved);
        assert!(
            reason == "InvalidSpec" && message.contains("userData"),
            "{n}: {message}"
        );
    }
    // What is less deep is read on a worker's stack, too.
    let text = format!("a: {}1{}", "[".repeat(50), "]".repeat(50));
    assert!(on_a_worker(move || read_manifests(&text, "deep.yaml")).await.is_ok());
}

/// Panics in the work on one object, as long as `left` says.
struct Panics {
    name: &'static str,
    left: AtomicUsize,
}

impl phoenix::engine::Tripwire for Panics {
    fn trip(&self, key: &Key, _: phoenix::engine::Point, what: &str) -> bool {
        let hit = key.name == self.name && what.starts_with("create");
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(usize::from(hit)));
        assert!(!(hit && left.is_ok()), "a defect of the test's");
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_reconcile_is_told_on_the_object_and_over_when_its_cause_is() {
    let mut w = World::new(&[]).await;
    let wire = Arc::new(Panics {
        name: "bad",
        left: AtomicUsize::new(3),
    });
    w.replace_tripwire(wire.clone());
    let image = json!({"source": {"image": {"volid": engine::IMAGE}}, "network": []});
    let bad = w.store.apply(lxc("bad", image.clone()));
    let good = w.store.apply(lxc("good", image));
    w.poll().await;
    let mut waits: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let after = w.look_at(&bad).await;
        if status(&w, &bad)
            .conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.reason == "InternalError")
        {
            waits.push(after);
            break;
        }
    }
    let told = status(&w, &bad);
    assert!(told.message.unwrap().contains("a defect of the test's"));
    assert!(told.next_retry.is_some() && told.vmid.is_some());
    assert!(waits[0] >= Duration::from_millis(1));
    let events = w.store.events.lock().unwrap().clone();
    assert!(events.iter().any(|(k, e)| *k == bad && e.reason == "InternalError"));
    // The other goes on meanwhile, and this one when the defect is over.
    for _ in 0..50 {
        w.poll().await;
        w.look_at(&good).await;
        w.pause().await;
    }
    assert!(w.store.guest(&good).unwrap().is_ready());
    w.settle(false).await.unwrap();
    assert_eq!(wire.left.load(Ordering::SeqCst), 0);
    w.check_invariants().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_poll_is_told_on_the_hypervisor_and_its_guests_wait() {
    let mut w = World::new(&[]).await;
    let key = w.store.apply(lxc(
        "a",
        json!({"source": {"image": {"volid": engine::IMAGE}}, "network": []}),
    ));
    w.settle(false).await.unwrap();
    w.store.panics.store(true, Ordering::SeqCst);
    w.poll().await;
    let of = |w: &World| {
        let status = w.store.hypervisor("ai", "pve").unwrap().status.clone().unwrap();
        status.conditions.into_iter().find(|c| c.type_ == "Ready").unwrap()
    };
    let ready = of(&w);
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "InternalError"),
        "{ready:?}"
    );
    w.look_at(&key).await;
    assert_eq!(status(&w, &key).conditions[0].reason, "InternalError");
    w.settle(false).await.unwrap();
    assert_eq!(of(&w).status, "True");
}

/// A lock that a panic left behind is used on.
#[test]
fn a_poisoned_lock_ends_nobody_else() {
    let objects = Arc::new(MemoryObjects::new());
    let manifest: Value = lxc("a", json!({}));
    objects.insert_lxc(&serde_json::from_value(manifest).unwrap());
    let key = objects.guests()[0].key.clone();
    let (other, name) = (objects.clone(), key.clone());
    let panicked = std::thread::spawn(move || other.update_guest(&name, |_| panic!("of a test"))).join();
    assert!(panicked.is_err());
    assert!(objects.guest(&key).is_some());
    assert_eq!(objects.update_guest(&key, |g| g.generation = 7), Some(()));
}
