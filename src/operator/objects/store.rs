//! [`Store`] over a Kubernetes API server: reads from caches that watches fill, writes under the object's version.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{EventType as KubeEventType, Recorder, Reporter};
use kube::{Client, CustomResourceExt, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::crd::{
    GROUP, GuestKind, GuestStatus, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM, VERSION,
};
use crate::desired::{GuestObject, Index, Key, ObjectName, Objects, digest};
use crate::engine::Counters;
use crate::engine::store::{Event, EventType, Store, StoreError, Told};
use crate::operator::expose::Exposing;
use crate::operator::finalizers::binding::Bindings;
use crate::operator::finalizers::{ended, has_ours, with_ours};
use crate::operator::metrics::Metrics;
use crate::operator::process::Process;
use crate::reason::Reason;
use crate::ui::Live;

use super::cache::Mark;
use super::coverage::{Coverage, Scope};
use super::restores::Restores;
use super::state::State;
use super::{Item, Kind, Lookup, Object, Origin, decode, decode_guest, kind_and_name};

/// Seconds that one call to the API server may take.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// Longest note that the API server accepts in an event, in bytes.
const NOTE_MAX: usize = 1024;

/// Objects of an API server.
pub struct KubeStore {
    pub(crate) client: Client,
    pub(crate) process: Process,
    state: RwLock<State>,
    items: OnceLock<UnboundedSender<Item>>,
    pub(super) restores: Restores,
    /// What can be read.
    pub(crate) coverage: watch::Sender<Coverage>,
    /// What exposed guests are reached by.
    pub(crate) exposing: Exposing,
    recorder: Recorder,
    /// What the page is told of.
    pub(super) live: Live,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bindings: Bindings,
    /// Held shared while a guest object gets its finalizer, alone while finalizers of its hypervisor are taken off.
    pub(crate) guard: tokio::sync::RwLock<()>,
}

impl KubeStore {
    /// Where the engine counts probes.
    pub fn counters(&self) -> Arc<dyn Counters> {
        self.metrics.clone()
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// Formatting into memory does not fail in practice.
    pub fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        self.metrics.text(&self.state())
    }

    /// An empty store for a process, whose permissions come from RoleBindings of this name.
    pub(crate) fn new(process: Process, role_binding: &str, metrics: Arc<Metrics>) -> Self {
        let client = process.client.clone();
        let reporter = Reporter {
            controller: "phoenix-operator".into(),
            instance: Some(process.identity.clone()),
        };
        KubeStore {
            recorder: Recorder::new(client.clone(), reporter),
            bindings: Bindings::new(client.clone(), role_binding),
            client,
            process,
            state: RwLock::default(),
            items: OnceLock::new(),
            restores: Restores::default(),
            live: Live::default(),
            coverage: watch::Sender::default(),
            exposing: Exposing::default(),
            metrics,
            guard: tokio::sync::RwLock::default(),
        }
    }

    /// The caches.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room in the caches for an object that a listing shows at this version, which began at `since`. Whether
    /// versions went back.
    pub(super) fn heed_listing(&self, kind: Kind, name: &ObjectName, version: &str, since: Mark) -> bool {
        self.state_mut().heed_listing(kind, name, version, since)
    }

    /// Changes the caches and passes on the work that follows from it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State) -> Vec<Item>) {
        let items = change(&mut self.state_mut());
        self.live.changed();
        self.pass_on(items);
    }

    /// Passes work on, of namespaces that can be read.
    fn pass_on(&self, items: Vec<Item>) {
        let Some(sender) = self.items.get() else { return };
        let coverage = self.coverage.borrow();
        let wanted = |item: &Item| self.exposing.is_on() || !matches!(item, Item::Expose(_));
        for item in items.into_iter().filter(|item| coverage.covers(item) && wanted(item)) {
            // The receiver goes when the operator stops: then nobody takes work any more.
            let _ = sender.send(item);
        }
    }

    /// Begins to pass on work: first everything there is, then what follows from changes. Only the first call gets
    /// the receiver.
    pub(crate) fn start(&self, namespaces: &[String]) -> Option<UnboundedReceiver<Item>> {
        let (sender, receiver) = unbounded_channel();
        self.items.set(sender).ok()?;
        let items = self.state().all_items(namespaces);
        self.pass_on(items);
        Some(receiver)
    }

    /// A watch has shown all that there is. What had to wait for that is passed on.
    pub(crate) fn covered(&self, scope: &Scope) {
        if scope.kind.exposes() {
            self.exposing.coverage.send_modify(|coverage| coverage.whole(scope));
            return self.expose_all(scope);
        }
        self.coverage.send_modify(|coverage| coverage.whole(scope));
        let Some(namespace) = scope.namespace.as_ref().filter(|_| self.items.get().is_some()) else {
            return;
        };
        let (this, all) = {
            let coverage = self.coverage.borrow();
            (coverage.is_whole(namespace), coverage.is_all_whole())
        };
        if this {
            info!(namespace, "the namespace can be read now");
        }
        // What one namespace keeps from others is let go only when all are known.
        let mut items = self.state().all_items(std::slice::from_ref(namespace));
        items.retain(|item| item.namespace() == namespace || (all && matches!(item, Item::Guard(_))));
        self.pass_on(items);
    }

    /// What is known of the watches of a kind.
    pub(super) fn coverage_of(&self, kind: Kind) -> &watch::Sender<Coverage> {
        match kind.exposes() {
            true => &self.exposing.coverage,
            false => &self.coverage,
        }
    }

    /// What guests are reached by can be read now, or cannot be: that is looked at for each of them.
    pub(super) fn expose_all(&self, scope: &Scope) {
        if !scope.kind.exposes() {
            return;
        }
        let within = |key: &&Key| {
            scope
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
        };
        let items = {
            let state = self.state();
            let keys = state.guests().map(|guest| &guest.object.key).filter(within);
            keys.cloned().map(Item::Expose).collect()
        };
        self.pass_on(items);
    }

    /// The API of a kind in a namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<DynamicObject>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<K>(&()))
    }

    fn guest_api(&self, key: &Key) -> Api<DynamicObject> {
        match key.kind {
            GuestKind::PhoenixLXC => self.api::<PhoenixLXC>(&key.namespace),
            GuestKind::PhoenixVM => self.api::<PhoenixVM>(&key.namespace),
            GuestKind::PhoenixTemplate => self.api::<PhoenixTemplate>(&key.namespace),
        }
    }

    /// Tells on an object that it was left out; nobody waits for it.
    pub(crate) fn tell_undecodable(&self, reference: ObjectReference, error: &str) {
        let recorder = self.recorder.clone();
        let event = Event {
            type_: EventType::Warning,
            reason: Reason::NotDecodable.into(),
            message: format!("does not fit its kind and is left out: {error}"),
        };
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let name = ObjectName::new(&text(&reference.namespace), &text(&reference.name));
        self.live
            .told_of(&text(&reference.kind), &name, &event, (self.process.now)());
        let published = published(event);
        tokio::spawn(async move {
            if let Err(error) = call(recorder.publish(&published, &reference)).await {
                warn!(name = reference.name, %error, "event not published");
            }
        });
    }

    /// Tells of a hypervisor.
    pub(crate) async fn hypervisor_event(&self, name: &ObjectName, event: Event) {
        self.live
            .told_of("PhoenixHypervisor", name, &event, (self.process.now)());
        let uid = self.state().get::<PhoenixHypervisor>(name).and_then(|h| h.uid());
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("PhoenixHypervisor".into()),
            namespace: Some(name.namespace.clone()),
            name: Some(name.name.clone()),
            uid,
            ..ObjectReference::default()
        };
        self.publish(&reference, event).await;
    }

    async fn publish(&self, reference: &ObjectReference, event: Event) {
        let published = published(event);
        let (kind, name) = (reference.kind.as_deref(), reference.name.as_deref());
        match call(self.recorder.publish(&published, reference)).await {
            Ok(()) => debug!(kind, name, reason = published.reason, "event published"),
            Err(error) => warn!(kind, name, reason = published.reason, %error, "event not published"),
        }
    }

    /// Takes in a guest object as the API server answered to a write of ours, which was made from `base`.
    fn written(&self, base: &GuestObject, answer: DynamicObject) -> Result<GuestObject, StoreError> {
        let key = &base.key;
        let from = base.resource_version.clone().unwrap_or_default();
        let version = answer.resource_version().unwrap_or_default();
        let guest = decode_guest(key.kind, answer).map_err(StoreError::Other)?;
        let object = guest.object.clone();
        self.change(|state| match state.went_back(&object.key, &from) {
            true => Vec::new(),
            false => state.apply(Object::Guest(Arc::new(guest)), &version, Origin::Own),
        });
        Ok(object)
    }

    /// Replaces the finalizers of an object under its version; the answer tells whether the object is still there.
    pub(crate) async fn patch_finalizers(
        &self,
        api: &Api<DynamicObject>,
        (kind, name): (Kind, &ObjectName),
        version: &str,
        finalizers: &[String],
    ) -> Result<DynamicObject, StoreError> {
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        let patch: Patch<&Value> = Patch::Merge(&patch);
        let result = call(api.patch(&name.name, &PatchParams::default(), &patch)).await;
        self.answered(result, api, kind, name).await
    }

    /// Finalizers and version of a guest object, if the caches have it as `object` was read.
    fn guest_finalizers(&self, object: &GuestObject) -> Result<(Vec<String>, String), StoreError> {
        let state = self.state();
        let guest = state.guest(&object.key).ok_or(StoreError::Gone)?;
        match &object.resource_version {
            Some(version) if guest.object.resource_version.as_ref() == Some(version) => {
                Ok((guest.finalizers.clone(), version.clone()))
            }
            _ => Err(StoreError::Conflict),
        }
    }

    /// Replaces the status of a hypervisor or feature, made from the version that was seen last; a newer one makes it a
    /// conflict, and the next look tries again.
    ///
    /// # Errors
    /// Those of the API server.
    pub(crate) async fn write_status_of<K: Lookup>(
        &self,
        name: &ObjectName,
        status: &impl Serialize,
    ) -> Result<(), StoreError> {
        let api = self.api::<K>(&name.namespace);
        let seen = self.state().get::<K>(name).and_then(|found| found.resource_version());
        let answer = self
            .put_status::<K>(&api, (K::KIND, name), seen, &json!(status))
            .await?;
        let version = answer.resource_version().unwrap_or_default();
        let object = decode(K::KIND, answer).map_err(StoreError::Other)?;
        self.change(|state| state.apply(object, &version, Origin::Own));
        Ok(())
    }

    async fn put_status<K: kube::Resource<DynamicType = ()>>(
        &self,
        api: &Api<DynamicObject>,
        (kind, name): (Kind, &ObjectName),
        version: Option<String>,
        status: &Value,
    ) -> Result<DynamicObject, StoreError> {
        let mut object = DynamicObject::new(&name.name, &ApiResource::erase::<K>(&())).within(&name.namespace);
        object.metadata.resource_version = version;
        object.data = json!({"status": status});
        let result = call(api.replace_status(&name.name, &PostParams::default(), &object)).await;
        self.metrics.status_write(&K::kind(&()), result.as_ref().err());
        self.answered(result, api, kind, name).await
    }
}

/// A call to the API server with a deadline and typed errors. A write that ran into the deadline may have taken
/// effect; the watch will tell.
pub(crate) async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(StoreError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(StoreError::Gone),
        Ok(Err(kube::Error::Api(status))) => Err(StoreError::Other(status.message)),
        Ok(Err(error)) => Err(StoreError::Other(error.to_string())),
        Err(_) => Err(StoreError::Other("the API server did not answer in time".into())),
    }
}

impl Objects for KubeStore {
    fn guest(&self, key: &Key) -> Option<GuestObject> {
        self.state().guest(key).map(|g| g.object.clone())
    }

    fn guests(&self) -> Vec<GuestObject> {
        self.state().guests().map(|g| g.object.clone()).collect()
    }

    fn look_at(&self, key: &Key, look: &mut dyn FnMut(&GuestObject)) {
        self.state().guest(key).into_iter().for_each(|g| look(&g.object));
    }

    fn look_at_all(&self, look: &mut dyn FnMut(&GuestObject)) {
        self.state().guests().for_each(|g| look(&g.object));
    }

    fn look_at_index(&self, look: &mut dyn FnMut(&Index)) {
        look(&self.state().index);
    }

    fn hypervisor(&self, namespace: &str, name: &str) -> Option<Arc<PhoenixHypervisor>> {
        self.state().get(&ObjectName::new(namespace, name)).cloned()
    }

    fn features(&self, namespace: &str) -> Vec<Arc<PhoenixFeature>> {
        let state = self.state();
        let own = state
            .all::<PhoenixFeature>()
            .filter(|(name, _)| name.namespace == namespace);
        own.map(|(_, feature)| feature.clone()).collect()
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.state().get(&ObjectName::new(namespace, name)).cloned()
    }

    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.state().get(&ObjectName::new(namespace, name)).cloned()
    }

    fn hidden(&self, namespace: &str) -> Option<String> {
        self.coverage.borrow().hidden(namespace)
    }

    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.state().namespace_labels(namespace)
    }
}

impl Store for KubeStore {
    async fn write_status(&self, object: &GuestObject, status: &GuestStatus) -> Result<GuestObject, StoreError> {
        let key = &object.key;
        let (kind, name) = kind_and_name(key);
        let of = (kind, &name);
        let version = Some(object.resource_version.clone().ok_or(StoreError::Conflict)?);
        let (api, status) = (self.guest_api(key), json!(status));
        let answer = match key.kind {
            GuestKind::PhoenixLXC => self.put_status::<PhoenixLXC>(&api, of, version, &status).await?,
            GuestKind::PhoenixVM => self.put_status::<PhoenixVM>(&api, of, version, &status).await?,
            GuestKind::PhoenixTemplate => self.put_status::<PhoenixTemplate>(&api, of, version, &status).await?,
        };
        self.written(object, answer)
    }

    async fn add_finalizer(&self, object: &GuestObject) -> Result<GuestObject, StoreError> {
        let _held = self
            .hold_connection(&object.key.namespace, &object.hypervisor_ref())
            .await?;
        let (finalizers, version) = self.guest_finalizers(object)?;
        if has_ours(&finalizers) {
            return Ok(object.clone());
        }
        let (api, (kind, name)) = (self.guest_api(&object.key), kind_and_name(&object.key));
        let answer = self
            .patch_finalizers(&api, (kind, &name), &version, &with_ours(&finalizers, true))
            .await?;
        self.written(object, answer)
    }

    async fn remove_finalizer(&self, object: &GuestObject) -> Result<(), StoreError> {
        let (finalizers, version) = self.guest_finalizers(object)?;
        let (api, (kind, name)) = (self.guest_api(&object.key), kind_and_name(&object.key));
        let answer = self
            .patch_finalizers(&api, (kind, &name), &version, &with_ours(&finalizers, false))
            .await?;
        if ended(&answer) {
            let last = answer.resource_version().unwrap_or(version);
            self.change(|state| state.remove(kind, &name, &last, Origin::Own));
            return Ok(());
        }
        self.written(object, answer).map(|_| ())
    }

    async fn kind_goes(&self, kind: GuestKind) -> Result<bool, StoreError> {
        let name = match kind {
            GuestKind::PhoenixLXC => PhoenixLXC::crd_name(),
            GuestKind::PhoenixVM => PhoenixVM::crd_name(),
            GuestKind::PhoenixTemplate => PhoenixTemplate::crd_name(),
        };
        let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(self.client.clone());
        match call(definitions.get(name)).await {
            Ok(found) => Ok(found.metadata.deletion_timestamp.is_some()),
            Err(StoreError::Gone) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn exposed(&self, object: &GuestObject) -> Told {
        self.exposure_of(object)
    }

    async fn before_step(&self, object: &GuestObject) {
        self.withdraw(object).await;
    }

    async fn event(&self, object: &GuestObject, event: Event) {
        let key = &object.key;
        self.live.told(key, &event, (self.process.now)());
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(key.kind.as_str().into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(object.uid.clone()),
            ..ObjectReference::default()
        };
        self.publish(&reference, event).await;
    }
}

/// An event as the recorder takes it. What it has told before with the same action and reason it counts without its words:
/// so each message has an action of its own.
fn published(event: Event) -> kube::runtime::events::Event {
    kube::runtime::events::Event {
        type_: match event.type_ {
            EventType::Normal => KubeEventType::Normal,
            EventType::Warning => KubeEventType::Warning,
        },
        reason: event.reason,
        action: format!("Reconcile-{}", digest([&event.message])),
        note: Some(shortened(event.message)),
        secondary: None,
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > NOTE_MAX {
        let end = (0..=NOTE_MAX - '…'.len_utf8())
            .rev()
            .find(|n| note.is_char_boundary(*n));
        note.truncate(end.unwrap_or_default());
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_fit_the_api_servers_bound() {
        assert_eq!(shortened("short".into()), "short");
        let long = shortened("ä".repeat(700));
        assert!(long.len() <= NOTE_MAX && long.ends_with("ä…"), "{} bytes", long.len());
    }
}
