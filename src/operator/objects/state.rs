//! All objects that the operator knows, and what a change of one means for others. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::crd::{HypervisorStatus, PhoenixFeature, PhoenixHypervisor};
use crate::desired::conflicts::claimed;
use crate::desired::expose;
use crate::desired::index::{Index, Ref, secrets_of};
use crate::desired::{Key, ObjectName};
use crate::operator::finalizers::has_ours;

use super::cache::{Applied, Cache, Mark};
use super::{Guest, Item, Kind, Lookup, Object, Origin, kind_and_name};

/// All objects that the operator knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    caches: BTreeMap<Kind, Cache<ObjectName, Object>>,
    pub(super) index: Index,
}

impl State {
    /// A guest object.
    pub(crate) fn guest(&self, key: &Key) -> Option<&Guest> {
        let (kind, name) = kind_and_name(key);
        self.caches.get(&kind)?.get(&name)?.guest()
    }

    /// All guest objects, in the order of their keys.
    pub(crate) fn guests(&self) -> impl Iterator<Item = &Guest> {
        let caches = self.caches.iter().filter(|(kind, _)| matches!(kind, Kind::Guest(_)));
        let objects = caches.flat_map(|(_, cache)| cache.iter());
        objects.filter_map(|(_, object)| object.guest())
    }

    /// An object of a kind that is only looked up.
    pub(crate) fn get<K: Lookup>(&self, name: &ObjectName) -> Option<&Arc<K>> {
        self.caches.get(&K::KIND)?.get(name).and_then(K::of)
    }

    /// All objects of such a kind, in the order of their names.
    pub(crate) fn all<K: Lookup>(&self) -> impl Iterator<Item = (&ObjectName, &Arc<K>)> {
        let objects = self.caches.get(&K::KIND).into_iter().flat_map(Cache::iter);
        objects.filter_map(|(name, object)| Some((name, K::of(object)?)))
    }

    /// Guests with Phoenix's finalizer that use a hypervisor: while there is one, its connection is needed.
    pub(crate) fn holders<'a>(&'a self, hypervisor: &ObjectName) -> impl Iterator<Item = &'a Guest> + use<'a> {
        let users = self.index.referrers(&Ref::Hypervisor(hypervisor.clone()));
        users
            .filter_map(|key| self.guest(key))
            .filter(|guest| guest.object.finalizer)
    }

    /// Secrets of a namespace that hypervisors with holders name.
    pub(crate) fn secrets_in_use(&self, namespace: &str) -> BTreeSet<String> {
        self.all::<PhoenixHypervisor>()
            .filter(|(name, _)| name.namespace == namespace && self.holders(name).next().is_some())
            .flat_map(|(_, hypervisor)| secrets_of(hypervisor))
            .collect()
    }

    fn referrers(&self, reference: Ref) -> Vec<Item> {
        self.index.referrers(&reference).cloned().map(Item::Guest).collect()
    }

    fn naming_secret(&self, secret: &ObjectName) -> impl Iterator<Item = &ObjectName> {
        self.all::<PhoenixHypervisor>()
            .filter(|(name, hypervisor)| {
                name.namespace == secret.namespace && secrets_of(hypervisor).contains(&secret.name)
            })
            .map(|(name, _)| name)
    }

    fn cache(&mut self, kind: Kind) -> &mut Cache<ObjectName, Object> {
        self.caches.entry(kind).or_default()
    }

    /// An object as it is now: the answer is what the change wakes.
    pub(crate) fn apply(&mut self, object: Object, version: &str, origin: Origin) -> Vec<Item> {
        let (kind, name) = object.kind_and_name();
        let Applied::Stored(old) = self.cache(kind).apply(&name, version, object) else {
            return Vec::new();
        };
        let new = self.caches.get(&kind).and_then(|cache| cache.get(&name));
        let own = new.and_then(Object::guest).map(|guest| {
            let old = old.as_ref().and_then(Object::guest);
            self.index.set(old.map(|g| &g.object), &guest.object);
            Item::Guest(guest.object.key.clone())
        });
        let mut items = self.wakes(old.as_ref(), new);
        // Whoever wrote a guest object is working on it already. It comes first where it is woken itself.
        if origin == Origin::Own && own.is_some() && items.first() == own.as_ref() {
            items.remove(0);
        }
        items
    }

    /// An object is gone: `version` is that of its end, or of its last state where a write of ours ended it.
    pub(crate) fn remove(&mut self, kind: Kind, name: &ObjectName, version: &str, origin: Origin) -> Vec<Item> {
        let old = match origin {
            Origin::Elsewhere => self.cache(kind).remove(name, version),
            Origin::Own => self.cache(kind).bury(name, version),
        };
        old.map(|old| self.gone(&old)).unwrap_or_default()
    }

    /// Takes out what a complete listing of `kind` in `namespace` (all of them: `None`) no longer has.
    pub(super) fn retain_listed(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        listed: &BTreeSet<ObjectName>,
    ) -> Vec<Item> {
        let within = |name: &ObjectName| namespace.is_none_or(|namespace| name.namespace == namespace);
        let gone = self.cache(kind).retain_listed(within, |name| listed.contains(name));
        gone.iter().flat_map(|(_, old)| self.gone(old)).collect()
    }

    fn gone(&mut self, old: &Object) -> Vec<Item> {
        let items = self.wakes(Some(old), None);
        if let Some(guest) = old.guest() {
            self.index.remove(&guest.object.key);
        }
        items
    }

    /// Now, for a listing of a kind that begins.
    pub(super) fn mark(&self, kind: Kind) -> Mark {
        self.caches.get(&kind).map(Cache::mark).unwrap_or_default()
    }

    /// A listing that began at `since` shows an object at this version, which is how it is. Whether versions went back.
    pub(super) fn heed_listing(&mut self, kind: Kind, name: &ObjectName, version: &str, since: Mark) -> bool {
        self.cache(kind).heed_listing(name, version, since)
    }

    /// Whether a guest object is at an older version than the one that a write of ours was made from.
    pub(super) fn went_back(&self, key: &Key, base: &str) -> bool {
        let (kind, name) = kind_and_name(key);
        self.caches.get(&kind).is_some_and(|cache| cache.went_back(&name, base))
    }

    /// The work that a change of an object wakes: `old` is missing where it is new, `new` where it is gone.
    fn wakes(&self, old: Option<&Object>, new: Option<&Object>) -> Vec<Item> {
        let Some(object) = new.or(old) else {
            return Vec::new();
        };
        let (_, name) = object.kind_and_name();
        let mut items = Vec::new();
        match object {
            Object::Guest(guest) => {
                let (old, new) = (old.and_then(Object::guest), new.and_then(Object::guest));
                items = self.guest_wakes(&guest.object.key, old, new);
            }
            Object::Hypervisor(_) => {
                let (old, new) = both::<PhoenixHypervisor>(old, new);
                let asked = differ(old, new, |h| intent(h.as_ref()));
                if asked {
                    items.push(Item::Poll(name.clone()));
                }
                if asked || differ(old, new, |h| h.status.as_ref().map(hypervisor_face)) {
                    items.extend(self.referrers(Ref::Hypervisor(name.clone())));
                }
                if asked || differ(old, new, |h| protection(h.as_ref())) {
                    items.push(Item::Guard(name.namespace));
                }
            }
            Object::Feature(_) => {
                let (old, new) = both::<PhoenixFeature>(old, new);
                if differ(old, new, |f| intent(f.as_ref())) {
                    items.extend(self.referrers(Ref::Features(name.namespace.clone())));
                    items.extend(new.map(|_| Item::Feature(name)));
                }
            }
            Object::Secret(_) => {
                let (old, new) = both::<Secret>(old, new);
                if differ(old, new, |s| &s.data) {
                    items.extend(self.referrers(Ref::Secret(name.clone())));
                    for hypervisor in self.naming_secret(&name) {
                        items.extend(self.referrers(Ref::Hypervisor(hypervisor.clone())));
                        items.push(Item::Poll(hypervisor.clone()));
                    }
                }
                if differ(old, new, |s| protection(s.as_ref())) {
                    items.push(Item::Guard(name.namespace));
                }
            }
            Object::ConfigMap(_) => {
                let (old, new) = both::<ConfigMap>(old, new);
                if differ(old, new, |m| &m.data) {
                    items.extend(self.referrers(Ref::ConfigMap(name)));
                }
            }
            Object::Namespace(_) => {
                let (old, new) = both::<Namespace>(old, new);
                // With a namespace its guests go, too, one by one.
                if new.is_some() && differ(old, new, |n| &n.metadata.labels) {
                    items.extend(self.referrers(Ref::Namespace(name.name)));
                }
            }
            Object::Service(_) => {
                let (old, new) = both::<Service>(old, new);
                let part = |s: &&Arc<Service>| {
                    (
                        s.metadata.labels.clone(),
                        s.metadata.owner_references.clone(),
                        s.spec.clone(),
                    )
                };
                if old.as_ref().map(part) != new.as_ref().map(part) {
                    items.extend(old.into_iter().chain(new).filter_map(|s| exposes(&s.metadata)));
                }
            }
            Object::EndpointSlice(_) => {
                let (old, new) = both::<EndpointSlice>(old, new);
                let same = matches!((old, new), (Some(old), Some(new)) if expose::slice_is(old, new) && expose::slice_is(new, old));
                if !same {
                    items.extend(old.into_iter().chain(new).filter_map(|s| exposes(&s.metadata)));
                }
            }
        }
        items
    }

    fn guest_wakes(&self, key: &Key, old: Option<&Guest>, new: Option<&Guest>) -> Vec<Item> {
        let mut items = Vec::new();
        if differ(old, new, wants) {
            items.push(Item::Guest(key.clone()));
        }
        if new.is_none() {
            // A template that is being deleted waits for its clones.
            items.extend(self.index.refs(key).filter_map(|reference| match reference {
                Ref::Guest(other) => Some(Item::Guest(other.clone())),
                _ => None,
            }));
        }
        let claimed = |guest: &Guest| claimed(&guest.object);
        if differ(old, new, claimed) {
            let claims: BTreeSet<String> = old.iter().chain(&new).flat_map(|guest| claimed(guest)).collect();
            let others = claims.into_iter().flat_map(|claim| self.referrers(Ref::Address(claim)));
            items.extend(others.filter(|item| *item != Item::Guest(key.clone())));
        }
        if differ(old, new, face) {
            items.extend(self.referrers(Ref::Guest(key.clone())));
        }
        if differ(old, new, |guest| expose::face(&guest.object)) {
            items.push(Item::Expose(key.clone()));
        }
        if differ(old, new, |g| (g.object.hypervisor_ref(), g.object.finalizer)) {
            let namespaces = old.iter().chain(&new).map(|g| g.object.hypervisor_ref().namespace);
            let namespaces: BTreeSet<String> = namespaces.chain([key.namespace.clone()]).collect();
            items.extend(namespaces.into_iter().map(Item::Guard));
        }
        items
    }

    /// Everything there is to work on, for a start; finalizers also in `namespaces` where nothing is left.
    pub(super) fn all_items(&self, namespaces: &[String]) -> Vec<Item> {
        let hypervisors = || self.all::<PhoenixHypervisor>().map(|(name, _)| name);
        let features = self.all::<PhoenixFeature>().map(|(name, _)| name);
        let secrets = self.all::<Secret>().map(|(name, _)| name);
        let guests = || self.guests().map(|guest| &guest.object.key);
        let mut items: Vec<Item> = hypervisors().cloned().map(Item::Poll).collect();
        items.extend(features.cloned().map(Item::Feature));
        items.extend(guests().cloned().map(Item::Guest));
        items.extend(guests().cloned().map(Item::Expose));
        let used = hypervisors().chain(secrets).map(|name| &name.namespace);
        let used = used.chain(guests().map(|key| &key.namespace));
        let namespaces: BTreeSet<&String> = used.chain(namespaces).collect();
        items.extend(namespaces.into_iter().cloned().map(Item::Guard));
        items
    }

    /// Labels of a namespace.
    pub(super) fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        let found = self.get::<Namespace>(&ObjectName::new("", namespace));
        found.map(|n| n.labels().clone())
    }
}

/// The work on the guest object that a Service or EndpointSlice belongs to.
fn exposes(meta: &ObjectMeta) -> Option<Item> {
    let (kind, name) = expose::owner_of(meta)?;
    Some(Item::Expose(Key::new(kind, meta.namespace.as_deref()?, name)))
}

/// An object before and after a change, as its type.
fn both<'a, K: Lookup>(old: Option<&'a Object>, new: Option<&'a Object>) -> (Option<&'a Arc<K>>, Option<&'a Arc<K>>) {
    (old.and_then(K::of), new.and_then(K::of))
}

/// Whether a change touched a part of an object; coming and going touch every part.
fn differ<'a, T, P: PartialEq>(old: Option<&'a T>, new: Option<&'a T>, part: impl Fn(&'a T) -> P) -> bool {
    old.map(&part) != new.map(&part)
}

/// The parts of a guest object that ask for work on it when they change.
fn wants(guest: &Guest) -> impl PartialEq {
    let o = &guest.object;
    (&o.uid, o.generation, o.deleting, o.finalizer, &o.annotations, &o.status)
}

/// What other objects see of a guest object.
fn face(guest: &Guest) -> impl PartialEq {
    let (o, status) = (&guest.object, &guest.object.status);
    (
        (o.is_ready(), o.deleting, &o.uid),
        (&status.vmid, &status.node, &status.revision),
    )
}

/// What guests see of a hypervisor's status: whether it works and which cluster it is.
fn hypervisor_face(status: &HypervisorStatus) -> impl PartialEq {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    (
        ready.map(|c| &c.status),
        &status.cluster,
        &status.quorate,
        &status.missing_privileges,
        &status.volume_owners,
    )
}

/// The parts of an object's metadata that ask for work when they change.
fn intent(object: &impl Resource) -> impl PartialEq {
    let meta = object.meta();
    (
        &meta.uid,
        meta.generation,
        &meta.annotations,
        meta.deletion_timestamp.is_some(),
    )
}

/// What decides about Phoenix's finalizer on an object.
fn protection(object: &impl Resource) -> impl PartialEq {
    (
        has_ours(object.finalizers()),
        object.meta().deletion_timestamp.is_some(),
    )
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
