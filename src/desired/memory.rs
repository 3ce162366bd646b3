//! Objects kept in memory: what manifests without a cluster and tests look at.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::crd::{PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};

use super::{GuestObject, Index, Key, ObjectName, Objects};

#[derive(Default)]
struct Maps {
    guests: BTreeMap<Key, GuestObject>,
    index: Index,
    hypervisors: BTreeMap<ObjectName, Arc<PhoenixHypervisor>>,
    features: BTreeMap<ObjectName, Arc<PhoenixFeature>>,
    secrets: BTreeMap<ObjectName, Arc<Secret>>,
    config_maps: BTreeMap<ObjectName, Arc<ConfigMap>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// Objects in memory. An object inserted under a name that is taken replaces the old one. Objects without a namespace
/// are kept under the empty one: who reads manifests fills it in first.
#[derive(Default)]
pub struct MemoryObjects {
    maps: RwLock<Maps>,
}

impl MemoryObjects {
    /// No objects.
    pub fn new() -> Self {
        Self::default()
    }

    // Each write is one insertion or removal, so a map left by a panicking thread is whole.
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a guest object in; the one that was there is returned.
    pub fn insert_guest(&self, object: GuestObject) -> Option<GuestObject> {
        let maps = &mut *self.write();
        maps.index.set(maps.guests.get(&object.key), &object);
        maps.guests.insert(object.key.clone(), object)
    }

    /// Puts a PhoenixLXC in.
    pub fn insert_lxc(&self, object: &PhoenixLXC) {
        self.insert_guest(object.into());
    }

    /// Puts a PhoenixVM in.
    pub fn insert_vm(&self, object: &PhoenixVM) {
        self.insert_guest(object.into());
    }

    /// Puts a PhoenixTemplate in.
    pub fn insert_template(&self, object: &PhoenixTemplate) {
        self.insert_guest(object.into());
    }

    /// Puts a hypervisor in.
    pub fn insert_hypervisor(&self, object: PhoenixHypervisor) {
        self.write()
            .hypervisors
            .insert(ObjectName::of(&object), Arc::new(object));
    }

    /// Puts a feature in.
    pub fn insert_feature(&self, object: PhoenixFeature) {
        self.write().features.insert(ObjectName::of(&object), Arc::new(object));
    }

    /// Puts a Secret in.
    pub fn insert_secret(&self, object: Secret) {
        self.write().secrets.insert(ObjectName::of(&object), Arc::new(object));
    }

    /// Puts a ConfigMap in.
    pub fn insert_config_map(&self, object: ConfigMap) {
        self.write()
            .config_maps
            .insert(ObjectName::of(&object), Arc::new(object));
    }

    /// Makes a namespace known, with its labels.
    pub fn insert_namespace(&self, namespace: &str, labels: BTreeMap<String, String>) {
        self.write().namespaces.insert(namespace.to_string(), labels);
    }

    /// Changes a guest object in place under the lock; `None` where it is not there.
    pub fn update_guest<T>(&self, key: &Key, change: impl FnOnce(&mut GuestObject) -> T) -> Option<T> {
        let maps = &mut *self.write();
        let guest = maps.guests.get_mut(key)?;
        let old = guest.clone();
        let changed = change(guest);
        maps.index.set(Some(&old), guest);
        Some(changed)
    }

    /// Takes a guest object out.
    pub fn remove_guest(&self, key: &Key) -> Option<GuestObject> {
        let maps = &mut *self.write();
        maps.index.remove(key);
        maps.guests.remove(key)
    }

    /// Takes a Secret out.
    pub fn remove_secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.write().secrets.remove(&ObjectName::new(namespace, name))
    }

    /// All hypervisors, by namespace and name.
    pub fn hypervisors(&self) -> Vec<Arc<PhoenixHypervisor>> {
        self.read().hypervisors.values().cloned().collect()
    }
}

impl Objects for MemoryObjects {
    fn guest(&self, key: &Key) -> Option<GuestObject> {
        self.read().guests.get(key).cloned()
    }

    fn guests(&self) -> Vec<GuestObject> {
        self.read().guests.values().cloned().collect()
    }

    fn look_at(&self, key: &Key, look: &mut dyn FnMut(&GuestObject)) {
        self.read().guests.get(key).into_iter().for_each(look);
    }

    fn look_at_all(&self, look: &mut dyn FnMut(&GuestObject)) {
        self.read().guests.values().for_each(look);
    }

    fn look_at_index(&self, look: &mut dyn FnMut(&Index)) {
        look(&self.read().index);
    }

    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>> {
        self.read().hypervisors.get(&ObjectName::new(namespace, name)).cloned()
    }

    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>> {
        let maps = self.read();
        let of_namespace = maps.features.iter().filter(|(name, _)| name.namespace == namespace);
        of_namespace.map(|(_, feature)| feature.clone()).collect()
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.read().secrets.get(&ObjectName::new(namespace, name)).cloned()
    }

    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.read().config_maps.get(&ObjectName::new(namespace, name)).cloned()
    }

    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.read().namespaces.get(namespace).cloned()
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;
    use crate::crd::{GuestKind, PhoenixFeatureSpec, PhoenixLXCSpec};

    #[test]
    fn objects_are_found_under_their_namespace_and_replaced() {
        let objects = MemoryObjects::new();
        let mut lxc = PhoenixLXC::new("a", PhoenixLXCSpec::default());
        lxc.metadata.namespace = Some("ai".into());
        objects.insert_lxc(&lxc);
        let key = Key::new(GuestKind::PhoenixLXC, "ai", "a");
        assert_eq!(objects.guest(&key), Some(GuestObject::from(&lxc)));
        assert_eq!(objects.guest(&Key::new(GuestKind::PhoenixTemplate, "ai", "a")), None);
        lxc.spec.guest.cores = Some(2);
        objects.insert_lxc(&lxc);
        assert_eq!(objects.guests(), vec![GuestObject::from(&lxc)]);
        assert_eq!(objects.update_guest(&key, |g| g.deleting = true), Some(()));
        assert!(objects.remove_guest(&key).unwrap().deleting);
        assert!(objects.guests().is_empty());
    }

    #[test]
    fn features_are_listed_by_namespace_and_namespaces_are_known_once_inserted() {
        let objects = MemoryObjects::new();
        for (namespace, name) in [("ai", "x"), ("ai", "b"), ("infra", "y")] {
            let mut feature = PhoenixFeature::new(name, PhoenixFeatureSpec::default());
            feature.metadata.namespace = Some(namespace.into());
            objects.insert_feature(feature);
        }
        let names: Vec<String> = objects.features("ai").iter().map(|f| f.name_any()).collect();
        assert_eq!(names, ["b", "x"]);
        assert_eq!(objects.namespace_labels("ai"), None);
        objects.insert_namespace("ai", BTreeMap::new());
        assert_eq!(objects.namespace_labels("ai"), Some(BTreeMap::new()));
    }
}
