//! All objects that the operator knows, and what a change of one means for others. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::cache::{Applied, Cache, Mark};
use super::index::{Index, Name, Ref, refs, secrets_of};
use crate::crd::{FINALIZER, GuestKind, HypervisorStatus, PhoenixFeature, PhoenixHypervisor};
use crate::desired::{GuestObject, Key};

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// Reconcile a guest object.
    Guest(Key),
    /// Poll a hypervisor and publish its status.
    Poll(Name),
    /// Set or take off the finalizers of a namespace's hypervisors and their Secrets.
    Guard(String),
    /// Publish the status of a feature.
    Feature(Name),
}

/// A guest object with what only the operator needs of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// The object.
    pub object: GuestObject,
    /// All its finalizers.
    pub finalizers: Vec<String>,
}

/// Where a change comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody else's, delivered by the API server.
    Elsewhere,
    /// A write of our own: it does not trigger the object itself.
    Own,
}

/// A namespaced object of a kind that is only looked up, never planned for.
type Lookup<T> = Cache<Name, Arc<T>>;

/// All objects that the operator knows.
#[derive(Debug, Default)]
pub struct State {
    /// Guest objects.
    pub guests: Cache<Key, Guest>,
    /// Hypervisors.
    pub hypervisors: Lookup<PhoenixHypervisor>,
    /// Features.
    pub features: Lookup<PhoenixFeature>,
    /// Secrets.
    pub secrets: Lookup<Secret>,
    /// ConfigMaps.
    pub config_maps: Lookup<ConfigMap>,
    /// Namespaces.
    pub namespaces: Cache<String, Arc<Namespace>>,
    index: Index,
}

/// What other objects see of a guest object.
fn face(guest: Option<&Guest>) -> impl PartialEq + use<> {
    guest.map(|g| {
        let status = &g.object.status;
        (
            (g.object.is_ready(), g.object.deleting, g.object.uid.clone()),
            (status.vmid, status.node.clone(), status.revision.clone()),
        )
    })
}

/// What guests see of a hypervisor's status: whether it works and which cluster it is.
fn hypervisor_face(status: Option<&HypervisorStatus>) -> impl PartialEq + use<> {
    status.map(|s| {
        let ready = s
            .conditions
            .iter()
            .find(|c| c.type_ == "Ready")
            .map(|c| c.status.clone());
        (
            ready,
            s.cluster.clone(),
            s.quorate,
            s.missing_privileges.clone(),
            s.volume_owners.clone(),
        )
    })
}

/// The parts of an object's metadata that ask for work when they change.
fn intent(meta: &ObjectMeta) -> impl PartialEq + use<> {
    (
        meta.uid.clone(),
        meta.generation,
        meta.annotations.clone(),
        meta.deletion_timestamp.is_some(),
    )
}

fn protection(meta: &ObjectMeta) -> impl PartialEq + use<> {
    let finalizer = meta.finalizers.iter().flatten().any(|f| f == FINALIZER);
    (finalizer, meta.deletion_timestamp.is_some())
}

/// Namespace and name of an object.
pub fn name_of(object: &impl ResourceExt) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

impl State {
    /// Guests that use a hypervisor.
    pub fn users<'a>(&'a self, hypervisor: &Name) -> impl Iterator<Item = &'a Guest> + use<'a> {
        self.index
            .referrers(&Ref::Hypervisor(hypervisor.clone()))
            .filter_map(|key| self.guests.get(key))
    }

    /// Guests with Phoenix's finalizer that use a hypervisor: while there is one, its connection is needed.
    pub fn holders<'a>(&'a self, hypervisor: &Name) -> impl Iterator<Item = &'a Guest> + use<'a> {
        self.users(hypervisor).filter(|guest| guest.object.finalizer)
    }

    /// Secrets of a namespace that hypervisors with holders name.
    pub fn secrets_in_use(&self, namespace: &str) -> BTreeSet<String> {
        self.hypervisors
            .iter()
            .filter(|(name, _)| name.0 == namespace && self.holders(name).next().is_some())
            .flat_map(|(_, hypervisor)| secrets_of(hypervisor))
            .collect()
    }

    fn referrers(&self, reference: Ref) -> Vec<Item> {
        self.index.referrers(&reference).cloned().map(Item::Guest).collect()
    }

    fn naming_secret(&self, secret: &Name) -> Vec<Name> {
        self.hypervisors
            .iter()
            .filter(|(name, hypervisor)| name.0 == secret.0 && secrets_of(hypervisor).contains(&secret.1))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// A guest object as it is now.
    pub fn apply_guest(&mut self, version: &str, guest: Guest, origin: Origin) -> Vec<Item> {
        let key = guest.object.key.clone();
        let Applied::Stored(old) = self.guests.apply(&key, version, guest.clone()) else {
            return Vec::new();
        };
        self.index.set(&key, refs(&guest.object));
        let wants = |g: &Guest| {
            let o = &g.object;
            (
                o.uid.clone(),
                o.generation,
                o.deleting,
                o.finalizer,
                o.annotations.clone(),
                o.status.clone(),
            )
        };
        let mut items = Vec::new();
        if origin == Origin::Elsewhere && old.as_ref().map(wants) != Some(wants(&guest)) {
            items.push(Item::Guest(key.clone()));
        }
        if face(old.as_ref()) != face(Some(&guest)) {
            items.extend(self.referrers(Ref::Guest(key)));
        }
        let held = |g: &Guest| (g.object.hypervisor_ref(), g.object.finalizer);
        if old.as_ref().map(held) != Some(held(&guest)) {
            let namespaces = old.iter().chain([&guest]).map(|g| g.object.hypervisor_ref().0);
            let namespaces: BTreeSet<String> = namespaces.chain([guest.object.key.namespace.clone()]).collect();
            items.extend(namespaces.into_iter().map(Item::Guard));
        }
        items
    }

    /// A guest object is gone: `version` is that of its end, or of its last state where a write of ours ended it.
    pub fn remove_guest(&mut self, key: &Key, version: &str, origin: Origin) -> Vec<Item> {
        let old = match origin {
            Origin::Elsewhere => self.guests.remove(key, version),
            Origin::Own => self.guests.bury(key, version),
        };
        old.map(|old| self.guest_gone(key, &old)).unwrap_or_default()
    }

    fn guest_gone(&mut self, key: &Key, old: &Guest) -> Vec<Item> {
        // A template that is being deleted waits for its clones.
        let referred = self.index.refs(key).filter_map(|reference| match reference {
            Ref::Guest(other) => Some(Item::Guest(other.clone())),
            _ => None,
        });
        let namespaces = BTreeSet::from([old.object.hypervisor_ref().0, key.namespace.clone()]);
        let mut items = vec![Item::Guest(key.clone())];
        items.extend(namespaces.into_iter().map(Item::Guard));
        items.extend(referred);
        items.extend(self.referrers(Ref::Guest(key.clone())));
        self.index.remove(key);
        items
    }

    /// A hypervisor as it is now.
    pub fn apply_hypervisor(&mut self, version: &str, hypervisor: Arc<PhoenixHypervisor>) -> Vec<Item> {
        let name = name_of(hypervisor.as_ref());
        let Applied::Stored(old) = self.hypervisors.apply(&name, version, hypervisor.clone()) else {
            return Vec::new();
        };
        let mut items = Vec::new();
        let asked = old.as_ref().map(|h| intent(&h.metadata)) != Some(intent(&hypervisor.metadata));
        if asked {
            items.push(Item::Poll(name.clone()));
        }
        let old_status = old.as_ref().and_then(|h| h.status.as_ref());
        if asked || hypervisor_face(old_status) != hypervisor_face(hypervisor.status.as_ref()) {
            items.extend(self.referrers(Ref::Hypervisor(name.clone())));
        }
        if asked || old.as_ref().map(|h| protection(&h.metadata)) != Some(protection(&hypervisor.metadata)) {
            items.push(Item::Guard(name.0));
        }
        items
    }

    /// A hypervisor is gone.
    pub fn remove_hypervisor(&mut self, name: &Name, version: &str, origin: Origin) -> Vec<Item> {
        let old = match origin {
            Origin::Elsewhere => self.hypervisors.remove(name, version),
            Origin::Own => self.hypervisors.bury(name, version),
        };
        match old {
            Some(_) => self.hypervisor_gone(name),
            None => Vec::new(),
        }
    }

    fn hypervisor_gone(&self, name: &Name) -> Vec<Item> {
        let mut items = vec![Item::Poll(name.clone()), Item::Guard(name.0.clone())];
        items.extend(self.referrers(Ref::Hypervisor(name.clone())));
        items
    }

    /// A Secret as it is now.
    pub fn apply_secret(&mut self, version: &str, secret: Arc<Secret>) -> Vec<Item> {
        let name = name_of(secret.as_ref());
        let Applied::Stored(old) = self.secrets.apply(&name, version, secret.clone()) else {
            return Vec::new();
        };
        let mut items = Vec::new();
        if old.as_ref().map(|s| &s.data) != Some(&secret.data) {
            items.extend(self.secret_changed(&name));
        }
        if old.as_ref().map(|s| protection(&s.metadata)) != Some(protection(&secret.metadata)) {
            items.push(Item::Guard(name.0));
        }
        items
    }

    /// A Secret is gone.
    pub fn remove_secret(&mut self, name: &Name, version: &str, origin: Origin) -> Vec<Item> {
        let old = match origin {
            Origin::Elsewhere => self.secrets.remove(name, version),
            Origin::Own => self.secrets.bury(name, version),
        };
        let Some(_) = old else {
            return Vec::new();
        };
        let mut items = self.secret_changed(name);
        items.push(Item::Guard(name.0.clone()));
        items
    }

    fn secret_changed(&self, name: &Name) -> Vec<Item> {
        let mut items = self.referrers(Ref::Secret(name.clone()));
        for hypervisor in self.naming_secret(name) {
            items.extend(self.referrers(Ref::Hypervisor(hypervisor.clone())));
            items.push(Item::Poll(hypervisor));
        }
        items
    }

    /// A ConfigMap as it is now.
    pub fn apply_config_map(&mut self, version: &str, map: Arc<ConfigMap>) -> Vec<Item> {
        let name = name_of(map.as_ref());
        match self.config_maps.apply(&name, version, map.clone()) {
            Applied::Stored(old) if old.as_ref().map(|m| &m.data) != Some(&map.data) => {
                self.referrers(Ref::ConfigMap(name))
            }
            _ => Vec::new(),
        }
    }

    /// A ConfigMap is gone.
    pub fn remove_config_map(&mut self, name: &Name, version: &str) -> Vec<Item> {
        match self.config_maps.remove(name, version) {
            Some(_) => self.referrers(Ref::ConfigMap(name.clone())),
            None => Vec::new(),
        }
    }

    /// A feature as it is now.
    pub fn apply_feature(&mut self, version: &str, feature: Arc<PhoenixFeature>) -> Vec<Item> {
        let name = name_of(feature.as_ref());
        let Applied::Stored(old) = self.features.apply(&name, version, feature.clone()) else {
            return Vec::new();
        };
        if old.as_ref().map(|f| intent(&f.metadata)) == Some(intent(&feature.metadata)) {
            return Vec::new();
        }
        let mut items = self.referrers(Ref::Features(name.0.clone()));
        items.push(Item::Feature(name));
        items
    }

    /// A feature is gone.
    pub fn remove_feature(&mut self, name: &Name, version: &str) -> Vec<Item> {
        match self.features.remove(name, version) {
            Some(_) => self.referrers(Ref::Features(name.0.clone())),
            None => Vec::new(),
        }
    }

    /// A namespace as it is now.
    pub fn apply_namespace(&mut self, version: &str, namespace: Arc<Namespace>) -> Vec<Item> {
        let name = namespace.name_any();
        match self.namespaces.apply(&name, version, namespace.clone()) {
            Applied::Stored(old) if old.as_ref().map(|n| &n.metadata.labels) != Some(&namespace.metadata.labels) => {
                self.referrers(Ref::Namespace(name))
            }
            _ => Vec::new(),
        }
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str, version: &str) -> Vec<Item> {
        let _ = self.namespaces.remove(&name.to_string(), version);
        Vec::new()
    }

    /// Takes out what a complete listing of `kind` in `namespace` (all of them: `None`) no longer has.
    pub fn retain_listed(&mut self, kind: Kind, namespace: Option<&str>, listed: &BTreeSet<Name>) -> Vec<Item> {
        let within = |n: &Name| namespace.is_none_or(|namespace| n.0 == namespace);
        let kept = |n: &Name| listed.contains(n);
        let mut items = Vec::new();
        match kind {
            Kind::Guest(kind) => {
                let name = |k: &Key| (k.namespace.clone(), k.name.clone());
                let gone = self
                    .guests
                    .retain_listed(|k| k.kind == kind && within(&name(k)), |k| kept(&name(k)));
                for (key, old) in gone {
                    items.extend(self.guest_gone(&key, &old));
                }
            }
            Kind::Hypervisor => {
                for (name, _) in self.hypervisors.retain_listed(within, kept) {
                    items.extend(self.hypervisor_gone(&name));
                }
            }
            Kind::Feature => {
                for (name, _) in self.features.retain_listed(within, kept) {
                    items.extend(self.referrers(Ref::Features(name.0)));
                }
            }
            Kind::Secret => {
                for (name, _) in self.secrets.retain_listed(within, kept) {
                    items.extend(self.secret_changed(&name));
                }
            }
            Kind::ConfigMap => {
                for (name, _) in self.config_maps.retain_listed(within, kept) {
                    items.extend(self.referrers(Ref::ConfigMap(name)));
                }
            }
            Kind::Namespace => {
                self.namespaces
                    .retain_listed(|_| true, |n| listed.contains(&(String::new(), n.clone())));
            }
        }
        items
    }

    /// Now, for a listing of a kind that begins.
    pub fn mark(&self, kind: Kind) -> Mark {
        match kind {
            Kind::Guest(_) => self.guests.mark(),
            Kind::Hypervisor => self.hypervisors.mark(),
            Kind::Feature => self.features.mark(),
            Kind::Secret => self.secrets.mark(),
            Kind::ConfigMap => self.config_maps.mark(),
            Kind::Namespace => self.namespaces.mark(),
        }
    }

    /// A listing that began at `since` shows an object at this version, which is how it is.
    pub fn heed_listing(&mut self, kind: Kind, name: &Name, version: &str, since: Mark) {
        match kind {
            Kind::Guest(kind) => self
                .guests
                .heed_listing(&Key::new(kind, &name.0, &name.1), version, since),
            Kind::Hypervisor => self.hypervisors.heed_listing(name, version, since),
            Kind::Feature => self.features.heed_listing(name, version, since),
            Kind::Secret => self.secrets.heed_listing(name, version, since),
            Kind::ConfigMap => self.config_maps.heed_listing(name, version, since),
            Kind::Namespace => self.namespaces.heed_listing(&name.1, version, since),
        }
    }

    /// Everything there is to work on, for a start; finalizers also in `namespaces` where nothing is left.
    pub fn all_items(&self, namespaces: &[String]) -> Vec<Item> {
        let mut items: Vec<Item> = self
            .hypervisors
            .iter()
            .map(|(name, _)| Item::Poll(name.clone()))
            .collect();
        items.extend(self.features.iter().map(|(name, _)| Item::Feature(name.clone())));
        items.extend(self.guests.iter().map(|(key, _)| Item::Guest(key.clone())));
        let hypervisors = self.hypervisors.iter().map(|(name, _)| name.0.clone());
        let secrets = self.secrets.iter().map(|(name, _)| name.0.clone());
        let guests = self.guests.iter().map(|(key, _)| key.namespace.clone());
        let namespaces: BTreeSet<String> = hypervisors
            .chain(secrets)
            .chain(guests)
            .chain(namespaces.to_vec())
            .collect();
        items.extend(namespaces.into_iter().map(Item::Guard));
        items
    }

    /// Labels of a namespace.
    pub fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.namespaces.get(&namespace.to_string()).map(|n| n.labels().clone())
    }
}

/// Kinds of object that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PhoenixLXC, PhoenixVM, PhoenixTemplate.
    Guest(GuestKind),
    /// PhoenixHypervisor.
    Hypervisor,
    /// PhoenixFeature.
    Feature,
    /// Secret.
    Secret,
    /// ConfigMap.
    ConfigMap,
    /// Namespace.
    Namespace,
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
