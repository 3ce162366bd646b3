//! Watches that fill the caches. Objects are decoded one by one, so that one that does not fit its kind (written by a
//! newer version of Phoenix, say) costs only itself.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tracing::{debug, error, warn};

use crate::crd::{GuestKind, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};
use crate::desired::{ObjectName, expose};
use crate::engine::{Counters, defect};

use super::coverage::{Problem, Scope, words};
use super::restores::look_at_versions;
use super::store::KubeStore;
use super::{Kind, Object, Origin, decode};

/// A watch that runs until it is dropped.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All watches of the operator, for the namespaces (none: all).
pub(crate) fn all(store: &Arc<KubeStore>, namespaces: &[String]) -> Vec<Running> {
    let scopes: Vec<Option<&str>> = match namespaces {
        [] => vec![None],
        some => some.iter().map(|n| Some(n.as_str())).collect(),
    };
    let hypervisors = api_of::<PhoenixHypervisor>(store, scopes.first().copied().flatten());
    let mut watches = vec![
        one::<Namespace>(store, Kind::Namespace, None),
        Box::pin(look_at_versions(store.clone(), hypervisors)),
    ];
    for scope in scopes {
        watches.extend([
            one::<PhoenixHypervisor>(store, Kind::Hypervisor, scope),
            one::<PhoenixFeature>(store, Kind::Feature, scope),
            one::<PhoenixTemplate>(store, Kind::Guest(GuestKind::PhoenixTemplate), scope),
            one::<PhoenixLXC>(store, Kind::Guest(GuestKind::PhoenixLXC), scope),
            one::<PhoenixVM>(store, Kind::Guest(GuestKind::PhoenixVM), scope),
            one::<Secret>(store, Kind::Secret, scope),
            one::<ConfigMap>(store, Kind::ConfigMap, scope),
        ]);
        if store.exposing.is_on() {
            watches.extend([
                one::<Service>(store, Kind::Service, scope),
                one::<EndpointSlice>(store, Kind::EndpointSlice, scope),
            ]);
        }
    }
    watches
}

fn one<K>(store: &Arc<KubeStore>, kind: Kind, namespace: Option<&str>) -> Running
where
    K: Resource<DynamicType = ()>,
{
    let scope = Scope {
        namespace: namespace.map(str::to_string),
        kind,
    };
    store
        .coverage_of(kind)
        .send_modify(|coverage| coverage.expect(scope.clone()));
    Box::pin(follow(store.clone(), api_of::<K>(store, namespace), scope))
}

/// What is watched of a kind: of those that others make, too, only Phoenix's own.
fn config(kind: Kind) -> watcher::Config {
    let config = watcher::Config::default();
    match kind {
        Kind::Service => config.labels(&format!("{}={}", expose::MANAGED_BY, expose::MANAGER)),
        Kind::EndpointSlice => config.labels(&format!("{}={}", expose::SLICE_MANAGED_BY, expose::MANAGER)),
        _ => config,
    }
}

/// The API of a kind in a namespace, or in all.
fn api_of<K>(store: &Arc<KubeStore>, namespace: Option<&str>) -> Api<DynamicObject>
where
    K: Resource<DynamicType = ()>,
{
    let (client, resource) = (store.client.clone(), ApiResource::erase::<K>(&()));
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

async fn follow(store: Arc<KubeStore>, api: Api<DynamicObject>, scope: Scope) {
    let kind = scope.kind;
    let mut listed = BTreeSet::new();
    let mut began = 0;
    let (mut whole, mut failing) = (false, false);
    let fresh = || {
        watcher(api.clone(), config(kind))
            .modify(|object| {
                object.metadata.managed_fields = None;
            })
            .backoff(store.process.pauses())
    };
    let mut events = std::pin::pin!(fresh());
    // Restores that this watch has listed for, and whether the present listing is for one.
    let (mut seen, mut restored) = (store.restores.times(), false);
    loop {
        let event = tokio::select! {
            biased;
            () = store.restores.beyond(seen) => {
                (seen, restored) = (store.restores.times(), true);
                events.set(fresh());
                continue;
            }
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        match &event {
            Err(error) => {
                failing = true;
                failed(&store, &scope, error);
            }
            Ok(_) if std::mem::take(&mut failing) => {
                store.coverage_of(kind).send_modify(|coverage| coverage.works(&scope))
            }
            Ok(_) => {}
        }
        match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                began = store.state().mark(kind);
            }
            Ok(watcher::Event::InitApply(object)) => {
                let (name, version) = (ObjectName::of(&object), object.resource_version().unwrap_or_default());
                if store.heed_listing(kind, &name, &version, began) && !restored {
                    store.restores.found(seen);
                }
                listed.insert(name);
                put(&store, kind, object);
            }
            Ok(watcher::Event::InitDone) => {
                store.change(|state| state.retain_listed(kind, scope.namespace.as_deref(), &listed));
                restored = false;
                if !std::mem::replace(&mut whole, true) {
                    debug!(?scope, objects = listed.len(), "cache filled");
                    store.covered(&scope);
                }
            }
            Ok(watcher::Event::Apply(object)) => put(&store, kind, object),
            Ok(watcher::Event::Delete(object)) => {
                let (name, version) = (ObjectName::of(&object), object.resource_version().unwrap_or_default());
                store.change(|state| state.remove(kind, &name, &version, Origin::Elsewhere));
            }
            Err(_) => {}
        }
    }
}

/// Tells why a watch fails, once for each namespace and problem; the pauses between attempts grow to half a minute.
fn failed(store: &KubeStore, scope: &Scope, error: &watcher::Error) {
    let Some(problem) = problem(error) else {
        debug!(?scope, %error, "watch failed, will be repeated");
        return;
    };
    let mut new = false;
    store
        .coverage_of(scope.kind)
        .send_modify(|coverage| new = coverage.failed(scope, problem));
    store.expose_all(scope);
    match new {
        true => warn!(%error, "{}; it is tried again until it can be read", words(scope, problem)),
        false => debug!(?scope, %error, "watch failed, will be repeated"),
    }
}

/// What is in the way of a watch; `None` for what belongs to the life of one.
fn problem(error: &watcher::Error) -> Option<Problem> {
    let code = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status.code,
            _ => 0,
        },
        watcher::Error::WatchError(status) => status.code,
        watcher::Error::NoResourceVersion => 0,
    };
    match code {
        401 => Some(Problem::Unauthorized),
        403 => Some(Problem::Forbidden),
        404 => Some(Problem::NoKind),
        // The version is too old: everything is listed anew.
        410 => None,
        _ => Some(Problem::Unreachable),
    }
}

/// Takes an object in. One that does not fit its kind, or in which Phoenix panics, is left out and told of.
pub(super) fn put(store: &KubeStore, kind: Kind, object: DynamicObject) {
    put_decoded(store, kind, object, decode);
}

fn put_decoded(
    store: &KubeStore,
    kind: Kind,
    object: DynamicObject,
    decode: impl FnOnce(Kind, DynamicObject) -> Result<Object, String>,
) {
    let (name, version) = (ObjectName::of(&object), object.resource_version().unwrap_or_default());
    let reference = reference(&object);
    let decoded = defect::caught_now(|| decode(kind, object)).unwrap_or_else(|words| {
        error!(
            ?kind,
            namespace = name.namespace,
            name = name.name,
            panic = words,
            "a defect in Phoenix"
        );
        Counters::panicked(store.metrics.as_ref(), kind.as_str());
        Err(defect::message(&words))
    });
    match decoded {
        Ok(object) => store.change(|state| state.apply(object, &version, Origin::Elsewhere)),
        Err(error) => {
            warn!(?kind, namespace = name.namespace, name = name.name, %error, "object does not fit its kind and is left out");
            store.metrics.undecodable(kind.as_str());
            store.tell_undecodable(reference, &error);
            store.change(|state| state.remove(kind, &name, &version, Origin::Elsewhere));
        }
    }
}

/// The object of an event.
fn reference(object: &DynamicObject) -> ObjectReference {
    let types = object.types.clone().unwrap_or_default();
    ObjectReference {
        api_version: Some(types.api_version),
        kind: Some(types.kind),
        namespace: object.metadata.namespace.clone(),
        name: object.metadata.name.clone(),
        uid: object.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::Process;

    fn lxc(name: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": name, "resourceVersion": "1"}, "spec": {"hypervisorRef": {"name": "pve"}}
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn an_object_in_which_phoenix_panics_is_left_out_and_counted() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1/".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let store = KubeStore::new(Process::new(client), "phoenix", Arc::default());
        let kind = Kind::Guest(GuestKind::PhoenixLXC);
        put_decoded(&store, kind, lxc("bad"), |_, _| panic!("of a test"));
        put(&store, kind, lxc("good"));
        let mut foreign = lxc("foreign");
        foreign.data["spec"]["powerState"] = json!("Dreaming");
        put(&store, kind, foreign);
        let names: Vec<String> = store.state().guests().map(|g| g.object.key.name.clone()).collect();
        assert_eq!(names, ["good"]);
        let text = store.metrics_text().unwrap();
        for line in [
            "phoenix_panics_total{kind=\"PhoenixLXC\"} 1",
            "phoenix_undecodable_objects_total{kind=\"PhoenixLXC\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
