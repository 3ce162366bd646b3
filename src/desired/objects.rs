//! The objects that the engine looks at, whatever keeps them: an API server's caches, manifests or a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;

use crate::crd::{
    Dependency, FINALIZER, FeatureRef, GuestFields, GuestKind, GuestStatus, GuestTest, Health, LxcGuest,
    PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixLXCSpec, PhoenixTemplate, PhoenixTemplateSpec, PhoenixVM,
    PhoenixVMSpec, PowerState, VmGuest, VolumeStatus,
};
use crate::pve::{GuestType, Vmid};

use super::index::Index;

/// Names one guest object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kind of the object.
    pub kind: GuestKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: GuestKind, namespace: &str, name: &str) -> Self {
        Key {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Names one object whose kind is known: a hypervisor, most of the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Namespace; empty for a namespace itself.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// A name from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        ObjectName {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of an object.
    pub fn of(object: &impl ResourceExt) -> Self {
        ObjectName {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a guest object asks for, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestSpec {
    /// A container.
    Lxc(Box<PhoenixLXCSpec>),
    /// A virtual machine.
    Vm(Box<PhoenixVMSpec>),
    /// A template of either.
    Template(Box<PhoenixTemplateSpec>),
}

/// The field of a spec that all kinds have under one name.
macro_rules! of_all {
    ($object:expr, $field:ident) => {
        match &$object.spec {
            GuestSpec::Lxc(spec) => &spec.$field,
            GuestSpec::Vm(spec) => &spec.$field,
            GuestSpec::Template(spec) => &spec.$field,
        }
    };
}

/// The field of a spec that containers and machines have, and templates lack.
macro_rules! of_guests {
    ($object:expr, $field:ident) => {
        match &$object.spec {
            GuestSpec::Lxc(spec) => spec.$field.as_ref(),
            GuestSpec::Vm(spec) => spec.$field.as_ref(),
            GuestSpec::Template(_) => None,
        }
    };
}

/// A PhoenixLXC, PhoenixVM or PhoenixTemplate as the engine sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestObject {
    /// Its name.
    pub key: Key,
    /// uid of the object; information only, never proof of ownership (promise 1).
    pub uid: String,
    /// Generation of the spec.
    pub generation: i64,
    /// Version that a status write must be based on (promise 1, write-ahead).
    pub resource_version: Option<String>,
    /// When the object was created, as Unix time in seconds; `None` outside a cluster.
    pub created: Option<i64>,
    /// Whether the object is being deleted.
    pub deleting: bool,
    /// Whether Phoenix's finalizer is set.
    pub finalizer: bool,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// What it asks for.
    pub spec: GuestSpec,
    /// What was recorded about it.
    pub status: GuestStatus,
}

impl GuestObject {
    fn from_meta<K: ResourceExt>(kind: GuestKind, object: &K, spec: GuestSpec, status: Option<GuestStatus>) -> Self {
        let meta = object.meta();
        GuestObject {
            key: Key::new(
                kind,
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0.as_second()),
            deleting: meta.deletion_timestamp.is_some(),
            finalizer: object.finalizers().iter().any(|f| f == FINALIZER),
            annotations: object.annotations().clone(),
            spec,
            status: status.unwrap_or_default(),
        }
    }

    /// Whether the guest is to run; absent says nothing, as in every template.
    pub fn power_state(&self) -> Option<PowerState> {
        of_guests!(self, power_state).copied()
    }

    /// The hypervisor that the object names, with the namespace filled in.
    pub fn hypervisor_ref(&self) -> ObjectName {
        let reference = of_all!(self, hypervisor_ref);
        let namespace = reference.namespace.as_ref().unwrap_or(&self.key.namespace);
        ObjectName::new(namespace, &reference.name)
    }

    /// The container part of the spec, where it is one.
    pub fn lxc(&self) -> Option<&LxcGuest> {
        match &self.spec {
            GuestSpec::Lxc(spec) => Some(&spec.guest),
            GuestSpec::Template(spec) => spec.lxc.as_ref(),
            GuestSpec::Vm(_) => None,
        }
    }

    /// Whether it is of another namespace than its hypervisor, whose objects are given nobody's volumes.
    pub fn is_tenants(&self) -> bool {
        self.hypervisor_ref().namespace != self.key.namespace
    }

    /// Volumes of other guests that it names by volume id, or was given and may still have.
    pub fn existing_volumes(&self) -> BTreeSet<String> {
        let named = match &self.spec {
            GuestSpec::Lxc(spec) => spec.volumes.as_deref().unwrap_or_default(),
            _ => &[],
        };
        let retained = |v: &&VolumeStatus| v.reclaim_policy.as_deref() == Some("Retain");
        let given = self.status.volumes.iter().flatten().filter(retained);
        let named = named.iter().filter_map(|v| v.volid.clone());
        named.chain(given.filter_map(|v| v.volid.clone())).collect()
    }

    /// The machine part of the spec, where it is one.
    pub fn vm(&self) -> Option<&VmGuest> {
        match &self.spec {
            GuestSpec::Vm(spec) => Some(&spec.guest),
            GuestSpec::Template(spec) => spec.vm.as_ref(),
            GuestSpec::Lxc(_) => None,
        }
    }

    /// The fields that containers and machines share; `None` for a template without a guest.
    pub fn shared(&self) -> Option<&GuestFields> {
        let lxc = || self.lxc().map(|guest| &guest.shared);
        self.vm().map(|guest| &guest.shared).or_else(lxc)
    }

    /// Features that the spec asks for.
    pub fn features(&self) -> &[FeatureRef] {
        let list = self.shared().and_then(|guest| guest.features.as_deref());
        list.unwrap_or_default()
    }

    /// Which sort of guest it is on Proxmox.
    pub fn guest_type(&self) -> GuestType {
        if self.vm().is_some() {
            GuestType::Qemu
        } else {
            GuestType::Lxc
        }
    }

    /// Path of the guest's fields in messages.
    pub fn field_prefix(&self) -> &'static str {
        match &self.spec {
            GuestSpec::Template(spec) if spec.vm.is_some() => "spec.vm",
            GuestSpec::Template(_) => "spec.lxc",
            _ => "spec",
        }
    }

    /// Vmid that the spec gives.
    pub fn spec_vmid(&self) -> Option<Vmid> {
        Vmid::try_from(self.shared()?.vmid?).ok()
    }

    /// Objects that must be Ready first, as the spec lists them.
    pub fn depends_on(&self) -> &[Dependency] {
        of_all!(self, depends_on).as_deref().unwrap_or_default()
    }

    /// Objects that must be Ready first, by their keys.
    pub fn dependency_keys(&self) -> impl Iterator<Item = Key> {
        let namespace = &self.key.namespace;
        let named = self.depends_on().iter();
        named.map(move |dependency| Key::new(dependency.kind, namespace, &dependency.name))
    }

    /// Places where the template that the guest is cloned from may be, first one first: its own namespace, then the
    /// hypervisor's.
    pub fn template_keys(&self) -> Vec<Key> {
        let Some(name) = self.template_ref() else {
            return Vec::new();
        };
        let hypervisors = self.hypervisor_ref().namespace;
        let namespaces = [&self.key.namespace, &hypervisors];
        namespaces
            .map(|namespace| Key::new(GuestKind::PhoenixTemplate, namespace, name))
            .into()
    }

    /// Scripts that the spec wants run as tests.
    pub fn tests(&self) -> &[GuestTest] {
        of_all!(self, tests).as_deref().unwrap_or_default()
    }

    /// Probes that the spec gives; none in a template.
    pub fn health(&self) -> Option<&Health> {
        of_guests!(self, health)
    }

    /// Name of the template that the guest is cloned from.
    pub fn template_ref(&self) -> Option<&str> {
        let reference = match self.vm() {
            Some(vm) => vm.source.as_ref()?.template_ref.as_ref(),
            None => self.lxc()?.source.as_ref()?.template_ref.as_ref(),
        };
        reference.map(|r| r.name.as_str())
    }

    /// Whether the last written status says Ready for the present generation.
    pub fn is_ready(&self) -> bool {
        self.status.observed_generation == Some(self.generation)
            && self
                .status
                .conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
    }
}

impl From<&PhoenixLXC> for GuestObject {
    fn from(object: &PhoenixLXC) -> Self {
        let spec = GuestSpec::Lxc(Box::new(object.spec.clone()));
        Self::from_meta(GuestKind::PhoenixLXC, object, spec, object.status.clone())
    }
}

impl From<&PhoenixVM> for GuestObject {
    fn from(object: &PhoenixVM) -> Self {
        let spec = GuestSpec::Vm(Box::new(object.spec.clone()));
        Self::from_meta(GuestKind::PhoenixVM, object, spec, object.status.clone())
    }
}

impl From<&PhoenixTemplate> for GuestObject {
    fn from(object: &PhoenixTemplate) -> Self {
        let spec = GuestSpec::Template(Box::new(object.spec.clone()));
        Self::from_meta(GuestKind::PhoenixTemplate, object, spec, object.status.clone())
    }
}

/// Where the engine finds objects. Answers come from memory: these calls do no I/O.
pub trait Objects: Send + Sync {
    /// One guest object.
    fn guest(&self, key: &Key) -> Option<GuestObject>;
    /// All guest objects, in no order.
    fn guests(&self) -> Vec<GuestObject>;
    /// Looks at one guest object without a copy; `look` must not ask for objects itself.
    fn look_at(&self, key: &Key, look: &mut dyn FnMut(&GuestObject)) {
        if let Some(object) = self.guest(key) {
            look(&object);
        }
    }
    /// Looks at all guest objects without copies; `look` must not ask for objects itself.
    fn look_at_all(&self, look: &mut dyn FnMut(&GuestObject)) {
        self.guests().iter().for_each(look);
    }
    /// Looks at the index of all guest objects; `look` must not ask for objects itself.
    fn look_at_index(&self, look: &mut dyn FnMut(&Index)) {
        look(&Index::of(self.guests().iter()));
    }
    /// A hypervisor.
    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>>;
    /// All features of a namespace.
    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>>;
    /// A Secret.
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>>;
    /// A ConfigMap.
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>>;
    /// Why objects of a namespace are not known, and what to do, where they are not although they may exist.
    fn hidden(&self, _namespace: &str) -> Option<String> {
        None
    }
    /// Labels of a namespace; `None` where the namespace is not known.
    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>>;
}
