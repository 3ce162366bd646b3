//! Watches that fill the caches. Objects are decoded one by one, so that one that does not fit its kind (written by a
//! newer version of Phoenix, say) costs only itself.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Secret};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, error, warn};

use super::index::Name;
use super::state::{Guest, Item, Kind, Origin, State, name_of};
use super::store::{KubeStore, parse_guest};
use crate::crd::*;
use crate::desired::Key;
use crate::engine::Counters;
use crate::engine::defect;

/// A watch that runs until it is dropped.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How many watches have not yet seen everything there is.
pub type Unsynced = watch::Sender<usize>;

/// All watches of the operator, for the namespaces (none: all).
pub fn all(store: &Arc<KubeStore>, namespaces: &[String], unsynced: &Arc<Unsynced>) -> Vec<Running> {
    let scopes: Vec<Option<&str>> = match namespaces {
        [] => vec![None],
        some => some.iter().map(|n| Some(n.as_str())).collect(),
    };
    let mut watches = vec![one::<Namespace>(store, Kind::Namespace, None, unsynced)];
    for scope in scopes {
        watches.extend([
            one::<PhoenixHypervisor>(store, Kind::Hypervisor, scope, unsynced),
            one::<PhoenixFeature>(store, Kind::Feature, scope, unsynced),
            one::<PhoenixTemplate>(store, Kind::Guest(GuestKind::PhoenixTemplate), scope, unsynced),
            one::<PhoenixLXC>(store, Kind::Guest(GuestKind::PhoenixLXC), scope, unsynced),
            one::<PhoenixVM>(store, Kind::Guest(GuestKind::PhoenixVM), scope, unsynced),
            one::<Secret>(store, Kind::Secret, scope, unsynced),
            one::<ConfigMap>(store, Kind::ConfigMap, scope, unsynced),
        ]);
    }
    watches
}

fn one<K>(store: &Arc<KubeStore>, kind: Kind, namespace: Option<&str>, unsynced: &Arc<Unsynced>) -> Running
where
    K: Resource<DynamicType = ()>,
{
    unsynced.send_modify(|count| *count += 1);
    let api = api::<K>(store.client.clone(), namespace);
    Box::pin(follow(
        store.clone(),
        api,
        kind,
        namespace.map(str::to_string),
        unsynced.clone(),
    ))
}

fn api<K: Resource<DynamicType = ()>>(client: Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

async fn follow(
    store: Arc<KubeStore>,
    api: Api<DynamicObject>,
    kind: Kind,
    namespace: Option<String>,
    unsynced: Arc<Unsynced>,
) {
    let mut listed = BTreeSet::new();
    let mut began = 0;
    let mut synced = false;
    let events = watcher(api, watcher::Config::default())
        .modify(|object| {
            object.metadata.managed_fields = None;
        })
        .default_backoff()
        .inspect_err(|error| warn!(?kind, namespace, %error, "watch failed, will be repeated"));
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                began = store.mark(kind);
            }
            Ok(watcher::Event::InitApply(object)) => {
                let (name, version) = (name_of(&object), object.resource_version().unwrap_or_default());
                store.change(|state| {
                    state.heed_listing(kind, &name, &version, began);
                    Vec::new()
                });
                listed.insert(name);
                put(&store, kind, object);
            }
            Ok(watcher::Event::InitDone) => {
                store.change(|state| state.retain_listed(kind, namespace.as_deref(), &listed));
                if !synced {
                    synced = true;
                    debug!(?kind, namespace, objects = listed.len(), "cache filled");
                    unsynced.send_modify(|count| *count -= 1);
                }
            }
            Ok(watcher::Event::Apply(object)) => put(&store, kind, object),
            Ok(watcher::Event::Delete(object)) => {
                let (name, version) = (name_of(&object), object.resource_version().unwrap_or_default());
                store.change(|state| remove(state, kind, &name, &version));
            }
            Err(_) => {}
        }
    }
}

/// Takes an object in. One that does not fit its kind, or in which Phoenix panics, is left out and told of.
fn put(store: &KubeStore, kind: Kind, object: DynamicObject) {
    put_decoded(store, kind, object, decode);
}

fn put_decoded(
    store: &KubeStore,
    kind: Kind,
    object: DynamicObject,
    decode: impl FnOnce(Kind, DynamicObject) -> Result<Decoded, String>,
) {
    let (name, version) = (name_of(&object), object.resource_version().unwrap_or_default());
    let reference = reference(&object);
    let decoded = defect::caught_now(|| decode(kind, object)).unwrap_or_else(|words| {
        error!(
            ?kind,
            namespace = name.0,
            name = name.1,
            panic = words,
            "a defect in Phoenix"
        );
        Counters::panicked(store.metrics.as_ref(), word(kind));
        Err(defect::message(&words))
    });
    match decoded {
        Ok(decoded) => store.change(|state| apply(state, &version, decoded)),
        Err(error) => {
            warn!(?kind, namespace = name.0, name = name.1, %error, "object does not fit its kind and is left out");
            store.metrics.undecodable(word(kind));
            store.tell_undecodable(reference, &error);
            store.change(|state| remove(state, kind, &name, &version));
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

/// Name of a kind.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Guest(kind) => kind.as_str(),
        Kind::Hypervisor => "PhoenixHypervisor",
        Kind::Feature => "PhoenixFeature",
        Kind::Secret => "Secret",
        Kind::ConfigMap => "ConfigMap",
        Kind::Namespace => "Namespace",
    }
}

enum Decoded {
    Guest(Box<Guest>),
    Hypervisor(Arc<PhoenixHypervisor>),
    Feature(Arc<PhoenixFeature>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    Namespace(Arc<Namespace>),
}

fn decode(kind: Kind, object: DynamicObject) -> Result<Decoded, String> {
    fn typed<K: Resource + DeserializeOwned>(object: DynamicObject) -> Result<Arc<K>, String> {
        object.try_parse().map(Arc::new).map_err(|e| e.to_string())
    }
    Ok(match kind {
        Kind::Guest(kind) => Decoded::Guest(Box::new(parse_guest(kind, object).map_err(|e| e.to_string())?)),
        Kind::Hypervisor => Decoded::Hypervisor(typed(object)?),
        Kind::Feature => Decoded::Feature(typed(object)?),
        // An error about a Secret must not quote what is in it (promise 9).
        Kind::Secret => Decoded::Secret(typed(object).map_err(|_: String| "its data cannot be read".to_string())?),
        Kind::ConfigMap => Decoded::ConfigMap(typed(object)?),
        Kind::Namespace => Decoded::Namespace(typed(object)?),
    })
}

fn apply(state: &mut State, version: &str, decoded: Decoded) -> Vec<Item> {
    match decoded {
        Decoded::Guest(guest) => state.apply_guest(version, *guest, Origin::Elsewhere),
        Decoded::Hypervisor(hypervisor) => state.apply_hypervisor(version, hypervisor),
        Decoded::Feature(feature) => state.apply_feature(version, feature),
        Decoded::Secret(secret) => state.apply_secret(version, secret),
        Decoded::ConfigMap(map) => state.apply_config_map(version, map),
        Decoded::Namespace(namespace) => state.apply_namespace(version, namespace),
    }
}

fn remove(state: &mut State, kind: Kind, name: &Name, version: &str) -> Vec<Item> {
    match kind {
        Kind::Guest(kind) => state.remove_guest(&Key::new(kind, &name.0, &name.1), version, Origin::Elsewhere),
        Kind::Hypervisor => state.remove_hypervisor(name, version, Origin::Elsewhere),
        Kind::Feature => state.remove_feature(name, version),
        Kind::Secret => state.remove_secret(name, version, Origin::Elsewhere),
        Kind::ConfigMap => state.remove_config_map(name, version),
        Kind::Namespace => state.remove_namespace(&name.1, version),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: serde_json::Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_object_that_does_not_fit_is_an_error_of_its_own() {
        let spec = json!({"hypervisorRef": {"name": "pve"}, "powerState": "Dreaming"});
        let object = object(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": "a"}, "spec": spec
        }));
        assert!(decode(Kind::Guest(GuestKind::PhoenixLXC), object).is_err());
    }

    fn lxc(name: &str) -> DynamicObject {
        object(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": name, "resourceVersion": "1"}, "spec": {"hypervisorRef": {"name": "pve"}}
        }))
    }

    #[tokio::test]
    async fn an_object_in_which_phoenix_panics_is_left_out_and_counted() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1/".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let store = KubeStore::new(client, "test", "phoenix", Arc::default());
        let kind = Kind::Guest(GuestKind::PhoenixLXC);
        put_decoded(&store, kind, lxc("bad"), |_, _| panic!("of a test"));
        put(&store, kind, lxc("good"));
        let mut foreign = lxc("foreign");
        foreign.data["spec"]["powerState"] = json!("Dreaming");
        put(&store, kind, foreign);
        let names: Vec<String> = store.state().guests.iter().map(|(k, _)| k.name.clone()).collect();
        assert_eq!(names, ["good"]);
        let text = store.metrics.text().unwrap();
        for line in [
            "phoenix_panics_total{kind=\"PhoenixLXC\"} 1",
            "phoenix_undecodable_objects_total{kind=\"PhoenixLXC\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_in_a_secret_stays_out_of_errors() {
        let object = object(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "ai", "name": "a"},
            "data": {"password": "not base64: hunter2"}
        }));
        let error = decode(Kind::Secret, object).err().unwrap();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
