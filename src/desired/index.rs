//! Which guest objects refer to what and have what on Proxmox, so that a change finds the objects it concerns, and a step
//! for one object need not look at all others.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::conflicts::claimed;
use super::{GuestObject, GuestSpec, Key, ObjectName};
use crate::crd::{PhoenixHypervisor, VolumeStatus};
use crate::pve::Vmid;

/// Something that guest objects refer to or have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ref {
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
    /// An address, MAC or image of an existing volume, which another guest may ask for too.
    Address(String),
    /// The labels of a namespace.
    Namespace(String),
    /// A vmid of a hypervisor that the spec gives.
    Wants(ObjectName, Vmid),
    /// A guest of a hypervisor that status names: the object's own, or one of an earlier revision.
    Has(ObjectName, Vmid),
    /// An owner container of a hypervisor that status names.
    Owner(ObjectName, Vmid),
    /// An existing volume of a hypervisor that the object names or was given.
    Volume(ObjectName, String),
}

/// All that the spec of a guest object refers to. A template or feature may be in the object's namespace or in the hypervisor's:
/// both are watched, since either may appear later.
fn of_spec(object: &GuestObject) -> BTreeSet<Ref> {
    let own = &object.key.namespace;
    let hypervisor = object.hypervisor_ref();
    let mut found = BTreeSet::new();
    found.extend(object.dependency_keys().chain(object.template_keys()).map(Ref::Guest));
    for namespace in [own, &hypervisor.namespace] {
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
    found.extend(object.spec_vmid().map(|vmid| Ref::Wants(hypervisor.clone(), vmid)));
    found.insert(Ref::Hypervisor(hypervisor));
    found
}

/// What status says that a guest object has. Whose are the volumes of objects that may have none is not asked.
fn of_status(object: &GuestObject) -> BTreeSet<Ref> {
    let hypervisor = object.hypervisor_ref();
    let status = &object.status;
    let has = status.vmids().map(|vmid| Ref::Has(hypervisor.clone(), vmid));
    let owners = status.volumes.iter().flatten().filter_map(VolumeStatus::owner);
    let owners = owners.map(|vmid| Ref::Owner(hypervisor.clone(), vmid));
    let mut found: BTreeSet<Ref> = has.chain(owners).collect();
    if !object.is_tenants() {
        let volumes = object.existing_volumes().into_iter();
        found.extend(volumes.map(|volid| Ref::Volume(hypervisor.clone(), volid)));
    }
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
pub fn secrets_of(hypervisor: &PhoenixHypervisor) -> BTreeSet<String> {
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
pub struct Index {
    objects: BTreeMap<Key, Refs>,
    referrers: BTreeMap<Ref, BTreeSet<Key>>,
}

/// What one object refers to.
#[derive(Debug, Default)]
struct Refs {
    spec: BTreeSet<Ref>,
    status: BTreeSet<Ref>,
}

impl Index {
    /// An index of these objects.
    pub fn of<'o>(objects: impl Iterator<Item = &'o GuestObject>) -> Self {
        let mut index = Index::default();
        objects.for_each(|object| index.set(None, object));
        index
    }

    /// Records what an object refers to now; `old` is the object as it was recorded before.
    pub fn set(&mut self, old: Option<&GuestObject>, new: &GuestObject) {
        let key = &new.key;
        let mut known = self.objects.remove(key).unwrap_or_default();
        // Most changes are of status, and the whole spec is much to read.
        if old.is_none_or(|old| old.spec != new.spec) {
            known.spec = self.changed(key, known.spec, of_spec(new));
        }
        known.status = self.changed(key, known.status, of_status(new));
        self.objects.insert(key.clone(), known);
    }

    fn changed(&mut self, key: &Key, old: BTreeSet<Ref>, new: BTreeSet<Ref>) -> BTreeSet<Ref> {
        old.difference(&new).for_each(|reference| self.take_out(key, reference));
        for reference in new.difference(&old) {
            self.referrers.entry(reference.clone()).or_default().insert(key.clone());
        }
        new
    }

    fn take_out(&mut self, key: &Key, reference: &Ref) {
        if let Some(keys) = self.referrers.get_mut(reference) {
            keys.remove(key);
            if keys.is_empty() {
                self.referrers.remove(reference);
            }
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &Key) {
        let known = self.objects.remove(key).unwrap_or_default();
        known.spec.union(&known.status).for_each(|r| self.take_out(key, r));
    }

    /// What an object's spec refers to.
    pub fn refs(&self, key: &Key) -> impl Iterator<Item = &Ref> {
        self.objects.get(key).into_iter().flat_map(|refs| &refs.spec)
    }

    /// Objects that refer to something.
    pub fn referrers<'a>(&'a self, reference: &Ref) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.referrers.get(reference).into_iter().flatten()
    }

    /// Hypervisors that objects name.
    pub fn hypervisors(&self) -> impl Iterator<Item = &ObjectName> {
        let from = Ref::Hypervisor(ObjectName::default());
        let all = self.referrers.range(from..);
        all.map_while(|(reference, _)| match reference {
            Ref::Hypervisor(name) => Some(name),
            _ => None,
        })
    }

    /// Vmids of a hypervisor that are in such places.
    fn vmids(&self, place: fn(ObjectName, Vmid) -> Ref, hypervisor: &ObjectName) -> impl Iterator<Item = Vmid> {
        let range = place(hypervisor.clone(), Vmid::MIN)..=place(hypervisor.clone(), Vmid::MAX);
        self.referrers
            .range(range)
            .filter_map(|(reference, _)| match reference {
                Ref::Has(_, vmid) | Ref::Owner(_, vmid) => Some(*vmid),
                _ => None,
            })
    }

    /// Guests of a hypervisor that statuses name.
    pub fn guests(&self, hypervisor: &ObjectName) -> impl Iterator<Item = Vmid> {
        self.vmids(Ref::Has, hypervisor)
    }

    /// Owner containers of a hypervisor that statuses name.
    pub fn owners(&self, hypervisor: &ObjectName) -> impl Iterator<Item = Vmid> {
        self.vmids(Ref::Owner, hypervisor)
    }

    /// Existing volumes of a hypervisor that objects name or were given, with these objects.
    pub fn volumes<'a>(&'a self, hypervisor: &'a ObjectName) -> impl Iterator<Item = (&'a String, &'a BTreeSet<Key>)> {
        let from = Ref::Volume(hypervisor.clone(), String::new());
        let all = self.referrers.range(from..);
        all.map_while(move |(reference, keys)| match reference {
            Ref::Volume(at, volid) if at == hypervisor => Some((volid, keys)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{GuestKind, PhoenixLXC};

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
        assert_eq!(of_spec(&object), expected);
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
        let hypervisor = || json!({"namespace": "infra", "name": "pve"});
        let with = |secret: &str, vmid: i64| {
            let run = json!({"environment": [{"name": "T", "secretKeyRef": {"name": secret, "key": "t"}}]});
            let mut object = lxc(json!({"hypervisorRef": hypervisor(), "application": run}));
            object.status.vmid = Some(vmid);
            object
        };
        let mut index = Index::default();
        let (old, new) = (with("a", 1000), with("b", 1001));
        let key = &old.key;
        let (a, b) = (Ref::Secret(name("ai", "a")), Ref::Secret(name("ai", "b")));
        index.set(None, &old);
        assert_eq!(index.referrers(&a).collect::<Vec<_>>(), vec![key]);
        index.set(Some(&old), &new);
        assert_eq!(index.referrers(&a).count(), 0);
        assert_eq!(index.referrers(&b).collect::<Vec<_>>(), vec![key]);
        let pve = name("infra", "pve");
        assert_eq!(index.guests(&pve).map(Vmid::get).collect::<Vec<_>>(), [1001]);
        assert_eq!(index.guests(&name("infra", "other")).count(), 0);
        assert_eq!(index.hypervisors().collect::<Vec<_>>(), [&pve]);
        index.remove(key);
        assert!(index.objects.is_empty() && index.referrers.is_empty());
    }

    #[test]
    fn what_status_has_is_found_by_hypervisor() {
        let status = json!({"vmid": 1000, "revisions": [{"revision": "a", "vmid": 1001}], "volumes": [
            {"name": "data", "reclaimPolicy": "Retain", "ownerVmid": 9900, "volid": "tank:subvol-9900-disk-0"},
            {"name": "models", "reclaimPolicy": "Retain", "volid": "tank:subvol-100-disk-1"},
        ]});
        let mut object = lxc(json!({"hypervisorRef": {"name": "pve"}}));
        object.status = serde_json::from_value(status).unwrap();
        let index = Index::of([&object].into_iter());
        let pve = name("ai", "pve");
        assert_eq!(index.guests(&pve).map(Vmid::get).collect::<Vec<_>>(), [1000, 1001]);
        assert_eq!(index.owners(&pve).map(Vmid::get).collect::<Vec<_>>(), [9900]);
        let volumes: Vec<&String> = index.volumes(&pve).map(|(volid, _)| volid).collect();
        assert!(volumes.contains(&&"tank:subvol-100-disk-1".to_string()), "{volumes:?}");
        // A tenant is given nobody's volumes.
        object.spec = lxc(json!({"hypervisorRef": {"name": "pve", "namespace": "infra"}})).spec;
        let index = Index::of([&object].into_iter());
        assert_eq!(index.volumes(&name("infra", "pve")).count(), 0);
    }
}
