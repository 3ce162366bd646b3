//! Finalizers of hypervisors and of the Secrets that they name: while an object with Phoenix's finalizer refers to a
//! hypervisor, its connection must stay, so that a deleted namespace ends with its guests destroyed first and its
//! credentials last (promise 5).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use tokio::sync::RwLockReadGuard;
use tracing::{info, warn};

use crate::crd::PhoenixHypervisor;
use crate::desired::ObjectName;
use crate::engine::store::StoreError;
use crate::operator::objects::index::secrets_of;
use crate::operator::objects::state::State;
use crate::operator::objects::store::KubeStore;
use crate::operator::objects::{Kind, Origin, decode};

use super::{ended, has_ours, with_ours};

/// A finalizer to be set or taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Correction {
    /// The object.
    target: Target,
    /// Version of the object.
    version: String,
    /// Finalizers that it is to have.
    finalizers: Vec<String>,
}

/// What has a finalizer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// A hypervisor.
    Hypervisor(ObjectName),
    /// A Secret.
    Secret(ObjectName),
}

/// What is to be corrected in a namespace: hypervisors before Secrets, so that credentials go last.
fn corrections(state: &State, namespace: &str) -> Vec<Correction> {
    let hypervisors = state
        .all::<PhoenixHypervisor>()
        .filter(|(n, _)| n.namespace == namespace);
    let mut found: Vec<Correction> = hypervisors
        .filter_map(|(name, hypervisor)| {
            let wanted = state.holders(name).next().is_some();
            correction(Target::Hypervisor(name.clone()), hypervisor.as_ref(), wanted)
        })
        .collect();
    let in_use = state.secrets_in_use(namespace);
    let secrets = state.all::<Secret>().filter(|(n, _)| n.namespace == namespace);
    found.extend(secrets.filter_map(|(name, secret)| {
        correction(
            Target::Secret(name.clone()),
            secret.as_ref(),
            in_use.contains(&name.name),
        )
    }));
    found
}

fn correction(target: Target, object: &impl Resource, wanted: bool) -> Option<Correction> {
    let set = has_ours(object.finalizers());
    // An object that is already being deleted takes no new finalizer.
    if set == wanted || (wanted && object.meta().deletion_timestamp.is_some()) {
        return None;
    }
    Some(Correction {
        target,
        version: object.resource_version().unwrap_or_default(),
        finalizers: with_ours(object.finalizers(), wanted),
    })
}

/// Whether an object of a namespace has Phoenix's finalizer, which takes permissions there to be let go.
fn needs_permissions(state: &State, namespace: &str) -> bool {
    let guest = state
        .guests()
        .any(|guest| guest.object.key.namespace == namespace && guest.object.finalizer);
    let mut hypervisors = state.all::<PhoenixHypervisor>();
    let mut secrets = state.all::<Secret>();
    guest
        || hypervisors.any(|(name, h)| name.namespace == namespace && has_ours(h.finalizers()))
        || secrets.any(|(name, s)| name.namespace == namespace && has_ours(s.finalizers()))
}

/// What a hypervisor's connection still lacks before a guest may come to depend on it.
///
/// # Errors
/// When the hypervisor is going or gone: nothing new may depend on it.
fn unprotected(state: &State, hypervisor: &ObjectName) -> Result<Vec<Correction>, StoreError> {
    let found = state
        .get::<PhoenixHypervisor>(hypervisor)
        .filter(|h| h.metadata.deletion_timestamp.is_none())
        .ok_or_else(|| StoreError::Other(format!("PhoenixHypervisor {hypervisor} is being deleted")))?;
    let mut lacking = Vec::new();
    lacking.extend(correction(Target::Hypervisor(hypervisor.clone()), found.as_ref(), true));
    for secret in secrets_of(found) {
        let name = ObjectName::new(&hypervisor.namespace, &secret);
        if let Some(secret) = state.get::<Secret>(&name) {
            lacking.extend(correction(Target::Secret(name), secret.as_ref(), true));
        }
    }
    Ok(lacking)
}

impl KubeStore {
    /// What is to be corrected now. While some namespace cannot be read nobody knows that nothing there needs a hypervisor:
    /// then no finalizer is taken off.
    fn corrections(&self, namespace: &str) -> Vec<Correction> {
        let all = self.coverage.borrow().is_all_whole();
        let mut corrections = corrections(&self.state(), namespace);
        corrections.retain(|correction| all || has_ours(&correction.finalizers));
        corrections
    }

    /// Sets and takes off the finalizers of a namespace's hypervisors and Secrets.
    ///
    /// # Errors
    /// The first one that occurred; what could be done is done.
    pub(crate) async fn guard_namespace(&self, namespace: &str) -> Result<(), StoreError> {
        let release = |state: &State| !needs_permissions(state, namespace) && self.bindings.may_be_held(namespace);
        if self.corrections(namespace).is_empty() && !release(&self.state()) {
            return Ok(());
        }
        // Nobody may begin to depend on a hypervisor while its finalizer goes.
        let _alone = self.guard.write().await;
        let corrections = self.corrections(namespace);
        let mut outcome = Ok(());
        for correction in corrections {
            if let Err(error) = self.correct(&correction).await
                && outcome.is_ok()
            {
                outcome = Err(error);
            }
        }
        let released = release(&self.state());
        if released && outcome.is_ok() {
            outcome = self.bindings.set(namespace, false).await;
        }
        outcome
    }

    /// Makes all that a guest's end will need stay, for an object that is about to get its finalizer: its hypervisor,
    /// the Secrets of that, and the operator's permissions. They stay while the answer is held; after that the
    /// object's own finalizer keeps them.
    pub(crate) async fn hold_connection(
        &self,
        namespace: &str,
        hypervisor: &ObjectName,
    ) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        let namespaces = BTreeSet::from([namespace, hypervisor.namespace.as_str()]);
        let shared = self.guard.read().await;
        let bound = namespaces.iter().all(|n| self.bindings.is_held(n));
        if bound && unprotected(&self.state(), hypervisor)?.is_empty() {
            return Ok(shared);
        }
        drop(shared);
        let alone = self.guard.write().await;
        for namespace in namespaces {
            if !self.bindings.is_held(namespace) {
                self.bindings.set(namespace, true).await?;
            }
        }
        let lacking = unprotected(&self.state(), hypervisor)?;
        for correction in lacking {
            self.correct(&correction).await?;
        }
        Ok(alone.downgrade())
    }

    async fn correct(&self, correction: &Correction) -> Result<(), StoreError> {
        let (api, kind, name) = match &correction.target {
            Target::Hypervisor(name) => (self.api::<PhoenixHypervisor>(&name.namespace), Kind::Hypervisor, name),
            Target::Secret(name) => (self.api::<Secret>(&name.namespace), Kind::Secret, name),
        };
        let result = self
            .patch_finalizers(&api, (kind, name), &correction.version, &correction.finalizers)
            .await;
        let kept = has_ours(&correction.finalizers);
        match result {
            Ok(answer) => {
                info!(target = ?correction.target, kept, "finalizer written");
                self.corrected(&correction.target, answer, &correction.version)
            }
            // Gone already: what was wanted of a finalizer that goes.
            Err(StoreError::Gone) if !kept => Ok(()),
            Err(error) => {
                warn!(target = ?correction.target, kept, %error, "finalizer not written");
                Err(error)
            }
        }
    }

    fn corrected(&self, target: &Target, answer: DynamicObject, version: &str) -> Result<(), StoreError> {
        let last = answer.resource_version().unwrap_or_else(|| version.to_string());
        let (kind, name) = match target {
            Target::Hypervisor(name) => (Kind::Hypervisor, name),
            Target::Secret(name) => (Kind::Secret, name),
        };
        if ended(&answer) {
            self.change(|state| state.remove(kind, name, &last, Origin::Own));
        } else {
            let object = decode(kind, answer).map_err(StoreError::Other)?;
            self.change(|state| state.apply(object, &last, Origin::Own));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::crd::{FINALIZER, GuestKind, PhoenixLXC};
    use crate::desired::GuestObject;
    use crate::operator::objects::{Guest, Object};

    fn hypervisor(meta: Value) -> Object {
        let mut object = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"namespace": "ai", "name": "pve", "resourceVersion": "1"},
            "spec": {"endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}}}
        });
        for (field, value) in meta.as_object().unwrap() {
            object["metadata"][field] = value.clone();
        }
        Object::Hypervisor(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn secret(name: &str, finalizers: &[&str]) -> Object {
        let object =
            json!({"metadata": {"namespace": "ai", "name": name, "resourceVersion": "2", "finalizers": finalizers}});
        Object::Secret(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn guest(finalizers: &[&str]) -> Object {
        let object: PhoenixLXC = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": "a", "finalizers": finalizers},
            "spec": {"hypervisorRef": {"name": "pve"}}
        }))
        .unwrap();
        Object::Guest(Arc::new(Guest {
            object: GuestObject::from(&object),
            finalizers: vec![],
        }))
    }

    fn targets(state: &State) -> Vec<(Target, Vec<String>)> {
        let found = corrections(state, "ai").into_iter();
        found.map(|c| (c.target, c.finalizers)).collect()
    }

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ai", name)
    }

    #[test]
    fn finalizers_come_with_the_first_guest_and_go_with_the_last_credentials_last() {
        let mut state = State::default();
        state.apply(hypervisor(json!({})), "1", Origin::Own);
        state.apply(secret("token", &["other"]), "2", Origin::Own);
        state.apply(secret("unrelated", &[]), "3", Origin::Own);
        assert_eq!(targets(&state), vec![]);
        state.apply(guest(&[FINALIZER]), "4", Origin::Own);
        let ours = || FINALIZER.to_string();
        assert_eq!(
            targets(&state),
            vec![
                (Target::Hypervisor(name("pve")), vec![ours()]),
                (Target::Secret(name("token")), vec!["other".into(), ours()]),
            ]
        );
        let deleting = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        state.apply(hypervisor(deleting), "5", Origin::Own);
        state.apply(secret("token", &["other", FINALIZER]), "6", Origin::Own);
        assert_eq!(targets(&state), vec![]);
        assert!(needs_permissions(&state, "ai") && !needs_permissions(&state, "other"));
        state.remove(Kind::Guest(GuestKind::PhoenixLXC), &name("a"), "7", Origin::Own);
        assert!(needs_permissions(&state, "ai"), "for the hypervisor and its Secret");
        assert_eq!(
            targets(&state),
            vec![
                (Target::Hypervisor(name("pve")), vec![]),
                (Target::Secret(name("token")), vec!["other".into()]),
            ]
        );
        state.remove(Kind::Hypervisor, &name("pve"), "8", Origin::Own);
        state.apply(secret("token", &["other"]), "9", Origin::Own);
        assert!(!needs_permissions(&state, "ai"));
    }

    #[test]
    fn a_secret_that_no_hypervisor_names_any_more_is_let_go() {
        let mut state = State::default();
        state.apply(secret("former", &[FINALIZER]), "1", Origin::Own);
        assert_eq!(targets(&state), vec![(Target::Secret(name("former")), vec![])]);
    }

    #[test]
    fn an_object_that_is_being_deleted_takes_no_new_finalizer() {
        let mut state = State::default();
        state.apply(
            hypervisor(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other"]})),
            "1",
            Origin::Own,
        );
        state.apply(guest(&[FINALIZER]), "2", Origin::Own);
        assert_eq!(targets(&state), vec![]);
        assert!(unprotected(&state, &name("pve")).is_err());
    }
}
