//! Which guest objects refer to what, so that a change finds the objects it concerns.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::crd::{GuestKind, PhoenixHypervisor};
use crate::desired::conflicts::claimed;
use crate::desired::{GuestObject, GuestSpec, Key, ObjectName};

/// Something that guest objects refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ref {
    /// A PhoenixHypervisor.
    Hypervisor(ObjectName),
    /// A dependency or template.
    Guest(Key),
    /// A Secret.
    Secret(ObjectName),
    /// A ConfigMap.
    ConfigMap(ObjectName),
    /// The features of a namespace.
    Features(String),
    /// An address or MAC, which another guest may ask for too.
    Address(String),
    /// The labels of a namespace.
    Namespace(String),
}

/// All that a guest object refers to. A template or feature may be in the object's namespace or in the hypervisor's:
/// both are watched, since either may appear later.
pub(super) fn refs(object: &GuestObject) -> BTreeSet<Ref> {
    let own = &object.key.namespace;
    let hypervisor = object.hypervisor_ref();
    let mut found = BTreeSet::new();
    for dependency in object.depends_on() {
        found.insert(Ref::Guest(Key::new(dependency.kind, own, &dependency.name)));
    }
    for namespace in [own, &hypervisor.namespace] {
        if let Some(template) = object.template_ref() {
            found.insert(Ref::Guest(Key::new(GuestKind::PhoenixTemplate, namespace, template)));
        }
        if has_features(&object.spec) {
            found.insert(Ref::Features(namespace.clone()));
        }
    }
    if hypervisor.namespace != *own {
        found.insert(Ref::Namespace(own.clone()));
    }
    let (secrets, config_maps) = match &object.spec {
        GuestSpec::Lxc(spec) => named(spec),
        GuestSpec::Vm(spec) => named(spec),
        GuestSpec::Template(spec) => named(spec),
    };
    found.extend(secrets.into_iter().map(|name| Ref::Secret(ObjectName::new(own, &name))));
    found.extend(
        config_maps
            .into_iter()
            .map(|name| Ref::ConfigMap(ObjectName::new(own, &name))),
    );
    found.extend(claimed(object).into_iter().map(Ref::Address));
    found.insert(Ref::Hypervisor(hypervisor));
    found
}

fn has_features(spec: &GuestSpec) -> bool {
    let list = match spec {
        GuestSpec::Lxc(spec) => &spec.guest.shared.features,
        GuestSpec::Vm(spec) => &spec.guest.shared.features,
        GuestSpec::Template(spec) => {
            let lxc = spec.lxc.as_ref().and_then(|g| g.shared.features.as_ref());
            return lxc
                .or(spec.vm.as_ref().and_then(|g| g.shared.features.as_ref()))
                .is_some();
        }
    };
    list.is_some()
}

/// Names of the Secrets that a hypervisor names, all of its own namespace.
pub(crate) fn secrets_of(hypervisor: &PhoenixHypervisor) -> BTreeSet<String> {
    named(&hypervisor.spec).0
}

/// Names of Secrets and ConfigMaps that a spec names. Fields are found by their names' ends, which the kinds keep to:
/// `…SecretRef` and `secretKeyRef` name Secrets, `…From` ConfigMaps.
fn named(spec: &impl Serialize) -> (BTreeSet<String>, BTreeSet<String>) {
    fn walk(value: &Value, secrets: &mut BTreeSet<String>, config_maps: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    let name = || value.get("name").and_then(Value::as_str).map(str::to_string);
                    if field.ends_with("SecretRef") || field == "secretKeyRef" {
                        secrets.extend(name());
                    } else if field.ends_with("From") {
                        config_maps.extend(name());
                    } else {
                        walk(value, secrets, config_maps);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, secrets, config_maps)),
            _ => {}
        }
    }
    let (mut secrets, mut config_maps) = (BTreeSet::new(), BTreeSet::new());
    if let Ok(value) = serde_json::to_value(spec) {
        walk(&value, &mut secrets, &mut config_maps);
    }
    (secrets, config_maps)
}

/// Referrers by what they refer to.
#[derive(Debug, Default)]
pub(super) struct Index {
    refs: BTreeMap<Key, BTreeSet<Ref>>,
    referrers: BTreeMap<Ref, BTreeSet<Key>>,
}

impl Index {
    /// Records what an object refers to now.
    pub(super) fn set(&mut self, key: &Key, refs: BTreeSet<Ref>) {
        if self.refs.get(key) == Some(&refs) {
            return;
        }
        self.remove(key);
        for reference in &refs {
            self.referrers.entry(reference.clone()).or_default().insert(key.clone());
        }
        self.refs.insert(key.clone(), refs);
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, key: &Key) {
        for reference in self.refs.remove(key).unwrap_or_default() {
            if let Some(keys) = self.referrers.get_mut(&reference) {
                keys.remove(key);
                if keys.is_empty() {
                    self.referrers.remove(&reference);
                }
            }
        }
    }

    /// What an object refers to.
    pub(super) fn refs(&self, key: &Key) -> impl Iterator<Item = &Ref> {
        self.refs.get(key).into_iter().flatten()
    }

    /// Objects that refer to something.
    pub(super) fn referrers<'a>(&'a self, reference: &Ref) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.referrers.get(reference).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::PhoenixLXC;

    fn lxc(spec: Value) -> GuestObject {
        let object: PhoenixLXC = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": "qwen"}, "spec": spec
        }))
        .unwrap();
        GuestObject::from(&object)
    }

    fn name(namespace: &str, name: &str) -> ObjectName {
        ObjectName::new(namespace, name)
    }

    #[test]
    fn every_kind_of_reference_is_found() {
        let object = lxc(json!({
            "hypervisorRef": {"namespace": "infra", "name": "pve"},
            "source": {"templateRef": {"name": "base"}},
            "features": [{"name": "docker"}],
            "application": {
                "scriptFrom": {"name": "scripts", "key": "run.sh"},
                "files": [{"path": "a", "contentFrom": {"name": "files", "key": "a"}}],
                "environment": [{"name": "TOKEN", "secretKeyRef": {"name": "token", "key": "t"}}]
            },
            "vllm": {"model": "m", "tokenSecretRef": {"name": "hf", "key": "t"}},
            "tests": [{"name": "t", "scriptFrom": {"name": "tests", "key": "t"}}],
            "dependsOn": [{"kind": "PhoenixVM", "name": "db"}]
        }));
        let expected = BTreeSet::from([
            Ref::Hypervisor(name("infra", "pve")),
            Ref::Guest(Key::new(GuestKind::PhoenixTemplate, "ai", "base")),
            Ref::Guest(Key::new(GuestKind::PhoenixTemplate, "infra", "base")),
            Ref::Guest(Key::new(GuestKind::PhoenixVM, "ai", "db")),
            Ref::Features("ai".into()),
            Ref::Features("infra".into()),
            Ref::Namespace("ai".into()),
            Ref::Secret(name("ai", "token")),
            Ref::Secret(name("ai", "hf")),
            Ref::ConfigMap(name("ai", "scripts")),
            Ref::ConfigMap(name("ai", "files")),
            Ref::ConfigMap(name("ai", "tests")),
        ]);
        assert_eq!(refs(&object), expected);
    }

    #[test]
    fn secrets_of_a_hypervisor_are_found() {
        let hypervisor: PhoenixHypervisor = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"namespace": "infra", "name": "pve"},
            "spec": {
                "endpoints": ["https://127.0.0.1:8006"],
                "tls": {"caSecretRef": {"name": "ca", "key": "ca.pem"}},
                "credentials": {"tokenSecretRef": {"name": "token"}, "rootPasswordSecretRef": {"name": "root"}},
                "ssh": {"keySecretRef": {"name": "ssh", "key": "id"}, "knownHostsSecretRef": {"name": "hosts", "key": "k"}}
            }
        }))
        .unwrap();
        let expected = ["ca", "hosts", "root", "ssh", "token"].map(String::from);
        assert_eq!(secrets_of(&hypervisor), BTreeSet::from(expected));
    }

    #[test]
    fn the_index_follows_changes() {
        let mut index = Index::default();
        let key = Key::new(GuestKind::PhoenixLXC, "ai", "qwen");
        let (a, b) = (Ref::Secret(name("ai", "a")), Ref::Secret(name("ai", "b")));
        index.set(&key, BTreeSet::from([a.clone()]));
        index.set(&key, BTreeSet::from([b.clone()]));
        assert_eq!(index.referrers(&a).count(), 0);
        assert_eq!(index.referrers(&b).collect::<Vec<_>>(), vec![&key]);
        index.remove(&key);
        assert_eq!(index.referrers(&b).count(), 0);
        assert!(index.refs.is_empty() && index.referrers.is_empty());
    }
}
