//! The objects of the API server that the operator knows. A kind is a variant of [`Object`]; what its changes ask for is
//! said in `State::wakes`.

pub(super) mod cache;
pub(super) mod coverage;
mod refresh;
pub(super) mod restores;
mod shown;
pub(super) mod state;
pub(super) mod store;
pub(super) mod watch;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::crd::{GuestKind, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};
use crate::desired::{GuestObject, Key, ObjectName};

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    /// Reconcile a guest object.
    Guest(Key),
    /// Poll a hypervisor and publish its status.
    Poll(ObjectName),
    /// Set or take off the finalizers of a namespace's hypervisors and their Secrets.
    Guard(String),
    /// Publish the status of a feature.
    Feature(ObjectName),
    /// Write a guest object's Service and EndpointSlices.
    Expose(Key),
}

impl Item {
    /// The namespace that it is of.
    pub(crate) fn namespace(&self) -> &String {
        match self {
            Item::Guest(key) | Item::Expose(key) => &key.namespace,
            Item::Guard(namespace) => namespace,
            Item::Poll(name) | Item::Feature(name) => &name.namespace,
        }
    }
}

/// Where a change comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody else's, delivered by the API server.
    Elsewhere,
    /// A write of our own: it does not trigger the object itself.
    Own,
}

/// Kinds of object that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Guest(GuestKind),
    Hypervisor,
    Feature,
    Secret,
    ConfigMap,
    Namespace,
    Service,
    EndpointSlice,
}

/// A guest object with what only the operator needs of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Guest {
    /// The object.
    pub(crate) object: GuestObject,
    /// All its finalizers.
    pub(crate) finalizers: Vec<String>,
}

/// An object of a kind that is watched.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Guest(Arc<Guest>),
    Hypervisor(Arc<PhoenixHypervisor>),
    Feature(Arc<PhoenixFeature>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    Namespace(Arc<Namespace>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
}

/// The type of a kind that is only looked up, never planned for.
pub(crate) trait Lookup: Resource<DynamicType = ()> + DeserializeOwned + 'static {
    /// Its kind.
    const KIND: Kind;
    /// An object as this type, if it is of this kind.
    fn of(object: &Object) -> Option<&Arc<Self>>;
}

macro_rules! lookups {
    ($($type:ident is $kind:ident),*) => {$(
        impl Lookup for $type {
            const KIND: Kind = Kind::$kind;

            fn of(object: &Object) -> Option<&Arc<Self>> {
                match object {
                    Object::$kind(found) => Some(found),
                    _ => None,
                }
            }
        }
    )*};
}

lookups!(
    PhoenixHypervisor is Hypervisor,
    PhoenixFeature is Feature,
    Secret is Secret,
    ConfigMap is ConfigMap,
    Namespace is Namespace,
    Service is Service,
    EndpointSlice is EndpointSlice
);

impl Object {
    /// Kind, namespace and name.
    fn kind_and_name(&self) -> (Kind, ObjectName) {
        match self {
            Object::Guest(guest) => kind_and_name(&guest.object.key),
            Object::Hypervisor(hypervisor) => (Kind::Hypervisor, ObjectName::of(hypervisor.as_ref())),
            Object::Feature(feature) => (Kind::Feature, ObjectName::of(feature.as_ref())),
            Object::Secret(secret) => (Kind::Secret, ObjectName::of(secret.as_ref())),
            Object::ConfigMap(map) => (Kind::ConfigMap, ObjectName::of(map.as_ref())),
            Object::Namespace(namespace) => (Kind::Namespace, ObjectName::of(namespace.as_ref())),
            Object::Service(service) => (Kind::Service, ObjectName::of(service.as_ref())),
            Object::EndpointSlice(slice) => (Kind::EndpointSlice, ObjectName::of(slice.as_ref())),
        }
    }

    /// The guest object, if it is one.
    fn guest(&self) -> Option<&Guest> {
        match self {
            Object::Guest(guest) => Some(guest),
            _ => None,
        }
    }
}

impl Kind {
    /// Whether it is a kind that exposed guests are reached by, without which all other work goes on.
    fn exposes(self) -> bool {
        matches!(self, Kind::Service | Kind::EndpointSlice)
    }

    /// The kind's name as users write it.
    fn as_str(self) -> &'static str {
        match self {
            Kind::Guest(kind) => kind.as_str(),
            Kind::Hypervisor => "PhoenixHypervisor",
            Kind::Feature => "PhoenixFeature",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::Namespace => "Namespace",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }
}

/// Kind, namespace and name of a guest object.
fn kind_and_name(key: &Key) -> (Kind, ObjectName) {
    (Kind::Guest(key.kind), ObjectName::new(&key.namespace, &key.name))
}

/// An object from what the API server sent.
///
/// # Errors
/// When it does not fit its kind's type, in words.
pub(crate) fn decode(kind: Kind, object: DynamicObject) -> Result<Object, String> {
    Ok(match kind {
        Kind::Guest(kind) => Object::Guest(Arc::new(decode_guest(kind, object)?)),
        Kind::Hypervisor => Object::Hypervisor(typed(object)?),
        Kind::Feature => Object::Feature(typed(object)?),
        // An error about a Secret must not quote what is in it (promise 9).
        Kind::Secret => Object::Secret(typed(object).map_err(|_| "its data cannot be read")?),
        Kind::ConfigMap => Object::ConfigMap(typed(object)?),
        Kind::Namespace => Object::Namespace(typed(object)?),
        Kind::Service => Object::Service(typed(object)?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(object)?),
    })
}

fn decode_guest(kind: GuestKind, object: DynamicObject) -> Result<Guest, String> {
    let finalizers = object.finalizers().to_vec();
    let object = match kind {
        GuestKind::PhoenixLXC => GuestObject::from(typed::<PhoenixLXC>(object)?.as_ref()),
        GuestKind::PhoenixVM => GuestObject::from(typed::<PhoenixVM>(object)?.as_ref()),
        GuestKind::PhoenixTemplate => GuestObject::from(typed::<PhoenixTemplate>(object)?.as_ref()),
    };
    Ok(Guest { object, finalizers })
}

fn typed<K: Resource + DeserializeOwned>(object: DynamicObject) -> Result<Arc<K>, String> {
    object.try_parse().map(Arc::new).map_err(|e| e.to_string())
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
