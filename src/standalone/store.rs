//! Manifests and state folder as the engine's store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;

use crate::crd::{
    GuestKind, GuestStatus, HypervisorStatus, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM,
};
use crate::desired::memory::MemoryObjects;
use crate::desired::{GuestObject, GuestSpec, Index, Key, ObjectName, Objects};
use crate::engine::store::{Event, EventType, Store, StoreError};
use crate::ui::view::Seen;
use crate::ui::{Live, Ui};

use super::manifests::{self, Admitted, ManifestError};
use super::state::{Record, State, StateError};

/// What happened, for progress output.
pub type Listener = Box<dyn Fn(&GuestObject, Option<&Event>) + Send + Sync>;

/// The engine's store over manifests and a state folder.
pub struct FileStore {
    objects: MemoryObjects,
    state: State,
    records: Mutex<BTreeMap<Key, Record>>,
    listener: Option<Listener>,
    /// What the page is told of.
    live: Live,
}

fn kind_of(kind: &str) -> Option<GuestKind> {
    [GuestKind::PhoenixLXC, GuestKind::PhoenixVM, GuestKind::PhoenixTemplate]
        .into_iter()
        .find(|k| k.as_str() == kind)
}

/// A guest object from a record.
fn guest_of(state: &State, record: &Record) -> Result<GuestObject, String> {
    let mut guest = match record.kind.as_str() {
        "PhoenixLXC" => GuestObject::from(&manifests::typed::<PhoenixLXC>(&record.object)?),
        "PhoenixVM" => GuestObject::from(&manifests::typed::<PhoenixVM>(&record.object)?),
        _ => GuestObject::from(&manifests::typed::<PhoenixTemplate>(&record.object)?),
    };
    guest.uid = state.uid(&record.kind, &record.namespace, &record.name);
    guest.generation = record.generation;
    guest.resource_version = Some(record.version.to_string());
    guest.finalizer = record.finalizer;
    guest.deleting = record.deleting;
    guest.annotations.extend(record.annotations.clone());
    if let (GuestSpec::Lxc(spec), Some(power)) = (&mut guest.spec, record.power_state) {
        spec.power_state = Some(power);
    }
    guest.status = record.status.clone();
    Ok(guest)
}

impl FileStore {
    /// Puts admitted objects and what the state folder knows together.
    ///
    /// # Errors
    /// What does not fit, or cannot be written.
    pub fn new(state: State, admitted: &[Admitted], listener: Option<Listener>) -> Result<FileStore, ManifestError> {
        let internal = |e: StateError| ManifestError::Internal(e.to_string());
        let mut records: BTreeMap<Key, Record> = BTreeMap::new();
        for record in state.records().map_err(internal)? {
            if let Some(kind) = kind_of(&record.kind) {
                records.insert(Key::new(kind, &record.namespace, &record.name), record);
            }
        }
        let store = FileStore {
            objects: MemoryObjects::new(),
            state,
            records: Mutex::default(),
            listener,
            live: Live::default(),
        };
        let mut namespaces: Vec<String> = admitted.iter().map(|o| o.id().1).filter(|n| !n.is_empty()).collect();
        namespaces.sort();
        namespaces.dedup();
        for namespace in &namespaces {
            store.objects.insert_namespace(namespace, BTreeMap::new());
            for feature in manifests::shipped_features(namespace)? {
                store.objects.insert_feature(feature);
            }
        }
        for object in admitted {
            store
                .insert(object, &mut records)
                .map_err(|e| ManifestError::Refused(vec![format!("{}: {e}", object.place)]))?;
        }
        for record in records.values() {
            let guest = guest_of(&store.state, record).map_err(ManifestError::Internal)?;
            store.objects.insert_guest(guest);
        }
        *store.records.lock().unwrap_or_else(PoisonError::into_inner) = records;
        Ok(store)
    }

    fn insert(&self, object: &Admitted, records: &mut BTreeMap<Key, Record>) -> Result<(), String> {
        let (kind, namespace, name) = object.id();
        if let Some(guest_kind) = kind_of(&kind) {
            let record = records
                .entry(Key::new(guest_kind, &namespace, &name))
                .or_insert_with(|| Record {
                    kind: kind.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    ..Record::default()
                });
            if record.object["spec"] != object.value["spec"] {
                record.generation += 1;
            }
            // A manifest that says something new about power wins over the verb that came before it.
            if record.object["spec"]["powerState"] != object.value["spec"]["powerState"] {
                record.power_state = None;
            }
            if record.object != object.value {
                record.object = object.value.clone();
                record.version += 1;
                self.state.write(record).map_err(|e| e.to_string())?;
            }
            return Ok(());
        }
        match kind.as_str() {
            "PhoenixHypervisor" => {
                let mut hypervisor: PhoenixHypervisor = manifests::typed(&object.value)?;
                hypervisor.metadata.generation = Some(1);
                hypervisor.status = self.state.hypervisor(&namespace, &name).map_err(|e| e.to_string())?;
                self.objects.insert_hypervisor(hypervisor);
            }
            "PhoenixFeature" => self.objects.insert_feature(manifests::typed(&object.value)?),
            "Secret" => self.objects.insert_secret(manifests::secret(&object.value)?),
            "ConfigMap" => self.objects.insert_config_map(manifests::config_map(&object.value)?),
            "Namespace" => {
                let labels = object.value.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
                self.objects
                    .insert_namespace(&name, serde_json::from_value(labels).unwrap_or_default());
            }
            _ => {}
        }
        Ok(())
    }

    /// Management cluster id.
    pub fn cluster_id(&self) -> &str {
        &self.state.cluster_id
    }

    /// Names of all hypervisors.
    pub fn hypervisors(&self) -> Vec<ObjectName> {
        let all = self.objects.hypervisors();
        all.iter().map(|h| ObjectName::of(h.as_ref())).collect()
    }

    /// Keeps a hypervisor's status if it is new.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_hypervisor(&self, namespace: &str, name: &str, status: HypervisorStatus) -> Result<(), StateError> {
        let Some(hypervisor) = self.objects.hypervisor(namespace, name) else {
            return Ok(());
        };
        if hypervisor.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.state.write_hypervisor(namespace, name, &status)?;
        let mut hypervisor = (*hypervisor).clone();
        hypervisor.status = Some(status);
        self.objects.insert_hypervisor(hypervisor);
        self.live.changed();
        Ok(())
    }

    /// Changes what is kept beside an object's spec: a verb's wish. An object that is to be deleted and has no
    /// finalizer is gone at once, as with an API server.
    ///
    /// # Errors
    /// When the object is gone or cannot be written.
    pub fn wish(&self, key: &Key, change: impl FnOnce(&mut Record)) -> Result<(), StoreError> {
        self.change(key, None, |record| {
            let before = (record.power_state, record.deleting);
            change(record);
            if before != (record.power_state, record.deleting) {
                record.generation += 1;
            }
        })
        .and_then(|guest| match guest.deleting && !guest.finalizer {
            true => self.drop_object(key),
            false => Ok(()),
        })
    }

    fn drop_object(&self, key: &Key) -> Result<(), StoreError> {
        self.state
            .remove(key.kind.as_str(), &key.namespace, &key.name)
            .map_err(|e| StoreError::Other(e.to_string()))?;
        self.records.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.objects.remove_guest(key);
        self.live.changed();
        Ok(())
    }

    fn change(
        &self,
        key: &Key,
        version: Option<&str>,
        change: impl FnOnce(&mut Record),
    ) -> Result<GuestObject, StoreError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = records.get_mut(key) else {
            return Err(StoreError::Gone);
        };
        if version.is_some_and(|v| v != record.version.to_string()) {
            return Err(StoreError::Conflict);
        }
        let mut next = record.clone();
        change(&mut next);
        next.version += 1;
        self.state.write(&next).map_err(|e| StoreError::Other(e.to_string()))?;
        *record = next;
        let guest = guest_of(&self.state, record).map_err(StoreError::Other)?;
        self.objects.insert_guest(guest.clone());
        self.live.changed();
        if let Some(listener) = &self.listener {
            listener(&guest, None);
        }
        Ok(guest)
    }
}

impl Objects for FileStore {
    fn guest(&self, key: &Key) -> Option<GuestObject> {
        self.objects.guest(key)
    }
    fn guests(&self) -> Vec<GuestObject> {
        self.objects.guests()
    }
    fn look_at(&self, key: &Key, look: &mut dyn FnMut(&GuestObject)) {
        self.objects.look_at(key, look);
    }
    fn look_at_all(&self, look: &mut dyn FnMut(&GuestObject)) {
        self.objects.look_at_all(look);
    }
    fn look_at_index(&self, look: &mut dyn FnMut(&Index)) {
        self.objects.look_at_index(look);
    }
    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>> {
        self.objects.hypervisor(namespace, name)
    }
    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>> {
        self.objects.features(namespace)
    }
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.objects.secret(namespace, name)
    }
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.objects.config_map(namespace, name)
    }
    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.objects.namespace_labels(namespace)
    }
}

impl Ui for FileStore {
    fn seen(&self) -> Seen {
        Seen {
            guests: self.objects.guests(),
            hypervisors: self.objects.hypervisors(),
            actions: self.live.actions(),
        }
    }

    fn live(&self) -> &Live {
        &self.live
    }
}

impl Store for FileStore {
    async fn write_status(&self, object: &GuestObject, status: &GuestStatus) -> Result<GuestObject, StoreError> {
        self.change(&object.key, object.resource_version.as_deref(), |r| {
            r.status = status.clone()
        })
    }

    async fn add_finalizer(&self, object: &GuestObject) -> Result<GuestObject, StoreError> {
        self.change(&object.key, object.resource_version.as_deref(), |r| r.finalizer = true)
    }

    async fn remove_finalizer(&self, object: &GuestObject) -> Result<(), StoreError> {
        self.drop_object(&object.key)
    }

    async fn event(&self, object: &GuestObject, event: Event) {
        self.live.told(&object.key, &event, jiff::Timestamp::now());
        match event.type_ {
            EventType::Normal => {
                tracing::info!(key = %object.key, reason = %event.reason, message = %event.message, "event")
            }
            EventType::Warning => {
                tracing::warn!(key = %object.key, reason = %event.reason, message = %event.message, "event")
            }
        }
        if let Some(listener) = &self.listener {
            listener(object, Some(&event));
        }
    }
}
