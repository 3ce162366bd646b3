//! Services and EndpointSlices of guests: what `desired::expose` says is to be there is written, and what is ours and no
//! longer wanted goes. Whatever is not ours is left alone (promise 1): a new one is made by a create, which fails where
//! the name is taken, and every later write carries the version of what was read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::desired::expose::{self, Exposed, Whose};
use crate::desired::{GuestObject, Key, ObjectName};
use crate::engine::store::{StoreError, Told};
use crate::reason::{Cause, Reason};

use super::field_manager::FIELD_MANAGER;
use super::objects::coverage::Coverage;
use super::objects::store::{KubeStore, call};
use super::objects::{Item, Lookup, Object, Origin};

/// What could not be written because something changed meanwhile is tried again after this.
const SOON: Duration = Duration::from_secs(1);
/// What somebody has to mend is tried again after this.
const LATER: Duration = Duration::from_secs(60);

/// What the operator knows of the Services of guests.
#[derive(Default)]
pub(crate) struct Exposing {
    on: bool,
    /// What can be read of Services and EndpointSlices.
    pub(crate) coverage: watch::Sender<Coverage>,
    /// What came of each, for its status.
    told: Mutex<HashMap<Key, Cause>>,
}

impl Exposing {
    /// Whether Services are made at all.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Makes Services, or none; before anything is watched.
    pub(crate) fn switch(&mut self, on: bool) {
        self.on = on;
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Cause>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something could not be written.
enum Trouble {
    /// It is to be tried again soon.
    Again,
    /// Somebody has to mend it.
    Cause(Cause),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict | StoreError::Gone => Trouble::Again,
            StoreError::Other(message) => {
                let message = format!(
                    "the API server refuses the Service or an EndpointSlice: {message}; where it is forbidden, \
                     phoenix install --expose grants the rights"
                );
                Trouble::Cause(Cause::new(Reason::ServiceRefused, message))
            }
        }
    }
}

type Outcome = (&'static str, (Option<Duration>, Vec<Item>));

/// One piece of work: a guest object's Service and EndpointSlices are as they should be, and its status tells of them.
pub(super) async fn work(store: &KubeStore, key: &Key) -> Outcome {
    let found = store.state().guest(key).map(|guest| guest.object.clone());
    let Some(object) = found else {
        // Kubernetes takes away what belonged to it.
        store.exposing.told().remove(key);
        return ("gone", (None, Vec::new()));
    };
    let (word, next) = match store.expose(&object).await {
        Ok(told) => {
            match told {
                Some(cause) => drop(store.exposing.told().insert(key.clone(), cause)),
                None => drop(store.exposing.told().remove(key)),
            }
            ("ok", None)
        }
        Err(Trouble::Again) => ("again", Some(SOON)),
        Err(Trouble::Cause(cause)) => {
            debug!(%key, %cause, "not exposed");
            store.exposing.told().insert(key.clone(), cause);
            ("error", Some(LATER))
        }
    };
    let also = match store.is_told(&object) {
        true => Vec::new(),
        false => vec![Item::Guest(key.clone())],
    };
    (word, (next, also))
}

impl KubeStore {
    /// What status is to say of the Service of a guest.
    pub(super) fn exposure_of(&self, object: &GuestObject) -> Told {
        let exposed = expose::exposed(object);
        if exposed.ports.is_empty() {
            return Told::Nothing;
        }
        if !self.exposing.is_on() {
            if !exposed.asked {
                return Told::Nothing;
            }
            let message = "spec.expose has no effect: the operator makes no Services; phoenix install --expose, or \
                           expose.enabled of the chart, turns it on";
            return Told::Is(false, Cause::new(Reason::ExposeDisabled, message));
        }
        match self.exposing.told().get(&object.key) {
            Some(cause) => Told::Is(cause.reason == Reason::Exposed, cause.clone()),
            None => Told::AsBefore,
        }
    }

    /// Whether status says what is known.
    fn is_told(&self, object: &GuestObject) -> bool {
        let said = object.status.conditions.iter().find(|c| c.type_ == "Exposed");
        match self.exposure_of(object) {
            Told::AsBefore => true,
            Told::Nothing => said.is_none(),
            Told::Is(_, cause) => said.is_some_and(|c| c.reason == cause.reason.as_str() && c.message == cause.message),
        }
    }

    /// Takes a guest out of its EndpointSlices before a step during which it does not work. What cannot be written holds
    /// no step up.
    pub(super) async fn withdraw(&self, object: &GuestObject) {
        if !self.exposing.is_on() || expose::works(object) != Some(false) || object.deleting {
            return;
        }
        let names = expose::slice_names(&object.key.name);
        for _ in 0..3 {
            let sends = {
                let state = self.state();
                let slice = |name: &String| state.get(&ObjectName::new(&object.key.namespace, name)).cloned();
                names.iter().filter_map(slice).any(|slice| expose::sends(&slice))
            };
            if !sends {
                return;
            }
            match self.expose(object).await {
                Ok(_) => return,
                Err(Trouble::Again) => self.read_again(object).await,
                Err(Trouble::Cause(cause)) => {
                    warn!(key = %object.key, %cause, "the guest is still sent traffic while it restarts");
                    return;
                }
            }
        }
    }

    /// Takes in what the API server has, where the watch is behind.
    async fn read_again(&self, object: &GuestObject) {
        for name in expose::slice_names(&object.key.name) {
            let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &object.key.namespace);
            if let Ok(Some(slice)) = call(api.get_opt(&name)).await {
                self.take_in(slice);
            }
        }
    }

    /// Makes what is to be there, and takes away what is ours and not wanted. What status is to say, if anything.
    async fn expose(&self, object: &GuestObject) -> Result<Option<Cause>, Trouble> {
        let namespace = &object.key.namespace;
        let exposed = expose::exposed(object);
        if !self.exposing.coverage.borrow().is_whole(namespace) {
            let problem = self.exposing.coverage.borrow().problem(namespace);
            return match problem.filter(|_| !exposed.ports.is_empty()) {
                Some(problem) => Err(Trouble::Cause(Cause::new(Reason::ServiceRefused, problem))),
                // The watches wake it when they have shown everything.
                None => Ok(None),
            };
        }
        if exposed.ports.is_empty() {
            self.expose_nothing(object).await?;
            return Ok(None);
        }
        let hindrance = expose::hindrance(object);
        if let Some(cause) = hindrance.clone().filter(|cause| cause.reason == Reason::InvalidSpec) {
            return Ok(Some(cause));
        }
        let service = self.keep_service(object, &exposed).await?;
        self.keep_slices(object, &exposed).await?;
        let cause = hindrance.or_else(|| expose::family_missing(&service, object));
        Ok(Some(cause.unwrap_or_else(|| {
            Cause::new(Reason::Exposed, expose::words(object, &exposed))
        })))
    }

    async fn expose_nothing(&self, object: &GuestObject) -> Result<(), StoreError> {
        for name in expose::slice_names(&object.key.name) {
            self.take_away::<EndpointSlice>(object, &name).await?;
        }
        self.take_away::<Service>(object, &object.key.name).await
    }

    async fn keep_service(&self, object: &GuestObject, exposed: &Exposed) -> Result<Service, Trouble> {
        let wanted = expose::service(object, exposed);
        let is = |found: &Service| expose::service_is(found, &wanted);
        self.keep(object, &wanted, is).await
    }

    async fn keep_slices(&self, object: &GuestObject, exposed: &Exposed) -> Result<(), Trouble> {
        let before = |name: &str| {
            let state = self.state();
            let slice = state.get::<EndpointSlice>(&ObjectName::new(&object.key.namespace, name));
            slice.is_some_and(|slice| expose::sends(slice))
        };
        let wanted = expose::slices(object, exposed, before);
        for slice in wanted.values() {
            self.keep(object, slice, |found| expose::slice_is(found, slice)).await?;
        }
        for name in expose::slice_names(&object.key.name) {
            if !wanted.contains_key(&name) {
                self.take_away::<EndpointSlice>(object, &name).await?;
            }
        }
        Ok(())
    }

    /// Makes something as it should be, if it is not.
    async fn keep<K: Ours>(&self, object: &GuestObject, wanted: &K, is: impl Fn(&K) -> bool) -> Result<K, Trouble> {
        let name = ObjectName::of(wanted);
        let api: Api<K> = Api::namespaced(self.client.clone(), &name.namespace);
        let known = self.state().get::<K>(&name).map(|found| K::clone(found));
        let found = match known {
            Some(found) => found,
            None => match call(api.create(&PostParams::default(), wanted)).await {
                Ok(made) => {
                    info!(key = %object.key, kind = %K::kind(&()), name = name.name, "made");
                    let made = self.booked(&api, made).await;
                    return Ok(self.take_in(made));
                }
                // What was there all the time is not watched if it lacks our labels.
                Err(StoreError::Conflict) => call(api.get(&name.name)).await?,
                Err(error) => return Err(error.into()),
            },
        };
        match expose::whose(found.meta(), object) {
            Whose::Ours if found.meta().deletion_timestamp.is_some() => return Err(Trouble::Again),
            Whose::Ours if is(&found) => return Ok(found),
            Whose::Ours => {}
            Whose::Earlier => return Err(Trouble::Again),
            Whose::Others => return Err(Trouble::Cause(taken::<K>(&name))),
        }
        let mut applied = wanted.clone();
        applied.meta_mut().resource_version = found.resource_version();
        let how = PatchParams::apply(FIELD_MANAGER).force();
        let answer = call(api.patch(&name.name, &how, &Patch::Apply(&applied))).await?;
        debug!(key = %object.key, kind = %K::kind(&()), name = name.name, "written");
        let answer = self.booked(&api, answer).await;
        Ok(self.take_in(answer))
    }

    /// What a create made is booked as if it had been applied, so that a later apply can drop parts of it. Where that
    /// fails, the next apply does it.
    async fn booked<K: Ours>(&self, api: &Api<K>, made: K) -> K {
        let mut fields = made.meta().managed_fields.clone().unwrap_or_default();
        let is = |operation: &'static str| {
            move |f: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
                f.manager.as_deref() == Some(FIELD_MANAGER) && f.operation.as_deref() == Some(operation)
            }
        };
        if !fields.iter().any(is("Update")) {
            return made;
        }
        match fields.iter().any(is("Apply")) {
            true => fields.retain(|field| !is("Update")(field)),
            false => fields
                .iter_mut()
                .filter(|field| is("Update")(field))
                .for_each(|field| field.operation = Some("Apply".into())),
        }
        let patch = json!({"metadata": {"resourceVersion": made.resource_version(), "managedFields": fields}});
        let patched = call(api.patch(&made.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await;
        patched.unwrap_or(made)
    }

    /// Takes something away, if it is ours.
    async fn take_away<K: Ours>(&self, object: &GuestObject, name: &str) -> Result<(), StoreError> {
        let name = ObjectName::new(&object.key.namespace, name);
        let known = self.state().get::<K>(&name).map(|found| K::clone(found));
        let Some(found) = known.filter(|found| expose::whose(found.meta(), object) == Whose::Ours) else {
            return Ok(());
        };
        let how = DeleteParams {
            preconditions: Some(Preconditions {
                uid: found.uid(),
                resource_version: found.resource_version(),
            }),
            ..DeleteParams::default()
        };
        let api: Api<K> = Api::namespaced(self.client.clone(), &name.namespace);
        match call(api.delete(&name.name, &how)).await {
            Ok(_) | Err(StoreError::Gone) => {}
            Err(error) => return Err(error),
        }
        info!(key = %object.key, kind = %K::kind(&()), name = name.name, "taken away");
        let version = found.resource_version().unwrap_or_default();
        self.change(|state| state.remove(K::KIND, &name, &version, Origin::Own));
        Ok(())
    }

    /// Takes an answer into the cache.
    fn take_in<K: Ours>(&self, mut answer: K) -> K {
        answer.meta_mut().managed_fields = None;
        let version = answer.resource_version().unwrap_or_default();
        self.change(|state| state.apply(K::object(answer.clone()), &version, Origin::Own));
        answer
    }
}

/// Somebody else has what ours would be called.
fn taken<K: Resource<DynamicType = ()>>(name: &ObjectName) -> Cause {
    let kind = K::kind(&());
    let message = format!(
        "{kind} {name} is not of this object and is left alone: delete it (kubectl delete -n {} {} {}), or give the object \
         another name",
        name.namespace,
        kind.to_lowercase(),
        name.name
    );
    Cause::new(Reason::ServiceNotOurs, message)
}

/// A kind that guests are reached by.
trait Ours:
    Lookup + Resource<Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + std::fmt::Debug + Send + Sync
{
    /// As an object of the caches.
    fn object(this: Self) -> Object;
}

impl Ours for Service {
    fn object(this: Self) -> Object {
        Object::Service(this.into())
    }
}

impl Ours for EndpointSlice {
    fn object(this: Self) -> Object {
        Object::EndpointSlice(this.into())
    }
}
