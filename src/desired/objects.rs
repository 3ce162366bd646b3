//! The objects that the engine looks at, whatever keeps them: an API server's caches, manifests or a test.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;

use crate::crd::*;

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
            deleting: meta.deletion_timestamp.is_some(),
            finalizer: object.finalizers().iter().any(|f| f == FINALIZER),
            annotations: object.annotations().clone(),
            spec,
            status: status.unwrap_or_default(),
        }
    }

    /// The hypervisor that the object names, with the namespace filled in.
    pub fn hypervisor_ref(&self) -> (String, String) {
        let reference = match &self.spec {
            GuestSpec::Lxc(spec) => &spec.hypervisor_ref,
            GuestSpec::Vm(spec) => &spec.hypervisor_ref,
            GuestSpec::Template(spec) => &spec.hypervisor_ref,
        };
        (
            reference
                .namespace
                .clone()
                .unwrap_or_else(|| self.key.namespace.clone()),
            reference.name.clone(),
        )
    }

    /// The container part of the spec, where it is one.
    pub fn lxc(&self) -> Option<&LxcGuest> {
        match &self.spec {
            GuestSpec::Lxc(spec) => Some(&spec.guest),
            GuestSpec::Template(spec) => spec.lxc.as_ref(),
            GuestSpec::Vm(_) => None,
        }
    }

    /// Vmid that the spec gives.
    pub fn spec_vmid(&self) -> Option<i64> {
        match &self.spec {
            GuestSpec::Lxc(spec) => spec.guest.vmid,
            GuestSpec::Vm(spec) => spec.guest.vmid,
            GuestSpec::Template(spec) => spec
                .lxc
                .as_ref()
                .and_then(|g| g.vmid)
                .or(spec.vm.as_ref().and_then(|g| g.vmid)),
        }
    }

    /// Objects that must be Ready first, as the spec lists them.
    pub fn depends_on(&self) -> &[Dependency] {
        let list = match &self.spec {
            GuestSpec::Lxc(spec) => &spec.depends_on,
            GuestSpec::Vm(spec) => &spec.depends_on,
            GuestSpec::Template(spec) => &spec.depends_on,
        };
        list.as_deref().unwrap_or_default()
    }

    /// Name of the template that the guest is cloned from.
    pub fn template_ref(&self) -> Option<&str> {
        let vm = |g: &VmGuest| g.source.as_ref().and_then(|s| s.template_ref.clone());
        let reference = match &self.spec {
            GuestSpec::Vm(spec) => {
                return spec
                    .guest
                    .source
                    .as_ref()?
                    .template_ref
                    .as_ref()
                    .map(|r| r.name.as_str());
            }
            GuestSpec::Template(spec) if spec.lxc.is_none() && spec.vm.as_ref().and_then(vm).is_some() => {
                return spec
                    .vm
                    .as_ref()?
                    .source
                    .as_ref()?
                    .template_ref
                    .as_ref()
                    .map(|r| r.name.as_str());
            }
            _ => self.lxc()?.source.as_ref()?.template_ref.as_ref(),
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
    /// A hypervisor.
    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>>;
    /// All features of a namespace.
    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>>;
    /// A Secret.
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>>;
    /// A ConfigMap.
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>>;
    /// Labels of a namespace; `None` where the namespace is not known.
    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>>;
}
