//! Finalizers of hypervisors and of the Secrets that they name: while an object with Phoenix's finalizer refers to a
//! hypervisor, its connection must stay, so that a deleted namespace ends with its guests destroyed first and its
//! credentials last (promise 5).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::DynamicObject;
use tokio::sync::RwLockReadGuard;
use tracing::{info, warn};

use crate::crd::{FINALIZER, PhoenixHypervisor};
use crate::desired::Key;
use crate::engine::store::StoreError;
use crate::operator::objects::index::{Name, secrets_of};
use crate::operator::objects::state::{Guest, Origin, State};
use crate::operator::objects::store::{KubeStore, ended};

/// A finalizer to be set or taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The object.
    pub target: Target,
    /// Version of the object.
    pub version: String,
    /// Finalizers that it is to have.
    pub finalizers: Vec<String>,
}

/// What has a finalizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A hypervisor.
    Hypervisor(Name),
    /// A Secret.
    Secret(Name),
}

/// What is to be corrected in a namespace: hypervisors before Secrets, so that credentials go last.
pub fn corrections(state: &State, namespace: &str) -> Vec<Correction> {
    let hypervisors = state.hypervisors.iter().filter(|(name, _)| name.0 == namespace);
    let mut found: Vec<Correction> = hypervisors
        .filter_map(|(name, hypervisor)| {
            let wanted = state.holders(name).next().is_some();
            correction(Target::Hypervisor(name.clone()), &hypervisor.metadata, wanted)
        })
        .collect();
    let in_use = state.secrets_in_use(namespace);
    let secrets = state.secrets.iter().filter(|(name, _)| name.0 == namespace);
    found.extend(secrets.filter_map(|(name, secret)| {
        correction(Target::Secret(name.clone()), &secret.metadata, in_use.contains(&name.1))
    }));
    found
}

fn correction(target: Target, meta: &ObjectMeta, wanted: bool) -> Option<Correction> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let set = finalizers.iter().any(|f| f == FINALIZER);
    // An object that is already being deleted takes no new finalizer.
    if set == wanted || (wanted && meta.deletion_timestamp.is_some()) {
        return None;
    }
    if wanted {
        finalizers.push(FINALIZER.into());
    } else {
        finalizers.retain(|f| f != FINALIZER);
    }
    Some(Correction {
        target,
        version: meta.resource_version.clone().unwrap_or_default(),
        finalizers,
    })
}

/// Whether an object of a namespace has Phoenix's finalizer, which takes permissions there to be let go.
fn needs_permissions(state: &State, namespace: &str) -> bool {
    let ours = |meta: &ObjectMeta| meta.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let guest = |(key, guest): (&Key, &Guest)| key.namespace == namespace && guest.object.finalizer;
    state.guests.iter().any(guest)
        || state
            .hypervisors
            .iter()
            .any(|(name, h)| name.0 == namespace && ours(&h.metadata))
        || state
            .secrets
            .iter()
            .any(|(name, s)| name.0 == namespace && ours(&s.metadata))
}

/// What a hypervisor's connection still lacks before a guest may come to depend on it.
///
/// # Errors
/// When the hypervisor is going or gone: nothing new may depend on it.
fn unprotected(state: &State, hypervisor: &Name) -> Result<Vec<Correction>, StoreError> {
    let (namespace, name) = hypervisor;
    let found = state
        .hypervisors
        .get(hypervisor)
        .filter(|h| h.metadata.deletion_timestamp.is_none())
        .ok_or_else(|| StoreError::Other(format!("PhoenixHypervisor {namespace}/{name} is being deleted")))?;
    let mut lacking = Vec::new();
    lacking.extend(correction(
        Target::Hypervisor(hypervisor.clone()),
        &found.metadata,
        true,
    ));
    for secret in secrets_of(found) {
        let name = (hypervisor.0.clone(), secret);
        if let Some(secret) = state.secrets.get(&name) {
            lacking.extend(correction(Target::Secret(name), &secret.metadata, true));
        }
    }
    Ok(lacking)
}

impl KubeStore {
    /// Sets and takes off the finalizers of a namespace's hypervisors and Secrets.
    ///
    /// # Errors
    /// The first one that occurred; what could be done is done.
    pub async fn guard_namespace(&self, namespace: &str) -> Result<(), StoreError> {
        let release = |state: &State| !needs_permissions(state, namespace) && self.bindings.may_be_held(namespace);
        let idle = {
            let state = self.state();
            corrections(&state, namespace).is_empty() && !release(&state)
        };
        if idle {
            return Ok(());
        }
        // Nobody may begin to depend on a hypervisor while its finalizer goes.
        let _alone = self.guard.write().await;
        let corrections = corrections(&self.state(), namespace);
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
        hypervisor: &Name,
    ) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        let namespaces = BTreeSet::from([namespace, hypervisor.0.as_str()]);
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
        let (api, name) = match &correction.target {
            Target::Hypervisor(name) => (self.api::<PhoenixHypervisor>(&name.0), name),
            Target::Secret(name) => (self.api::<Secret>(&name.0), name),
        };
        let result = self
            .patch_finalizers(&api, &name.1, &correction.version, &correction.finalizers)
            .await;
        let kept = correction.finalizers.iter().any(|f| f == FINALIZER);
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
        let ended = ended(&answer);
        let unreadable = |e: kube::core::dynamic::ParseDynamicObjectError| StoreError::Other(e.to_string());
        match target {
            Target::Hypervisor(name) if ended => {
                self.change(|state| state.remove_hypervisor(name, &last, Origin::Own));
            }
            Target::Secret(name) if ended => {
                self.change(|state| state.remove_secret(name, &last, Origin::Own));
            }
            Target::Hypervisor(_) => {
                let hypervisor = Arc::new(answer.try_parse().map_err(unreadable)?);
                self.change(|state| state.apply_hypervisor(&last, hypervisor));
            }
            Target::Secret(_) => {
                let secret = Arc::new(answer.try_parse().map_err(unreadable)?);
                self.change(|state| state.apply_secret(&last, secret));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::{GuestKind, PhoenixLXC};
    use crate::desired::GuestObject;

    fn hypervisor(meta: Value) -> Arc<PhoenixHypervisor> {
        let mut object = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"namespace": "ai", "name": "pve", "resourceVersion": "1"},
            "spec": {"endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}}}
        });
        for (field, value) in meta.as_object().unwrap() {
            object["metadata"][field] = value.clone();
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn secret(name: &str, finalizers: &[&str]) -> Arc<Secret> {
        let object =
            json!({"metadata": {"namespace": "ai", "name": name, "resourceVersion": "2", "finalizers": finalizers}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn guest(finalizers: &[&str]) -> Guest {
        let object: PhoenixLXC = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": "a", "finalizers": finalizers},
            "spec": {"hypervisorRef": {"name": "pve"}}
        }))
        .unwrap();
        Guest {
            object: GuestObject::from(&object),
            finalizers: vec![],
        }
    }

    fn targets(state: &State) -> Vec<(Target, Vec<String>)> {
        let found = corrections(state, "ai").into_iter();
        found.map(|c| (c.target, c.finalizers)).collect()
    }

    fn name(name: &str) -> Name {
        ("ai".into(), name.into())
    }

    #[test]
    fn finalizers_come_with_the_first_guest_and_go_with_the_last_credentials_last() {
        let mut state = State::default();
        state.apply_hypervisor("1", hypervisor(json!({})));
        state.apply_secret("2", secret("token", &["other"]));
        state.apply_secret("3", secret("unrelated", &[]));
        assert_eq!(targets(&state), vec![]);
        state.apply_guest("4", guest(&[FINALIZER]), Origin::Own);
        let ours = || FINALIZER.to_string();
        assert_eq!(
            targets(&state),
            vec![
                (Target::Hypervisor(name("pve")), vec![ours()]),
                (Target::Secret(name("token")), vec!["other".into(), ours()]),
            ]
        );
        let deleting = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        state.apply_hypervisor("5", hypervisor(deleting));
        state.apply_secret("6", secret("token", &["other", FINALIZER]));
        assert_eq!(targets(&state), vec![]);
        assert!(needs_permissions(&state, "ai") && !needs_permissions(&state, "other"));
        state.remove_guest(&Key::new(GuestKind::PhoenixLXC, "ai", "a"), "7", Origin::Own);
        assert!(needs_permissions(&state, "ai"), "for the hypervisor and its Secret");
        assert_eq!(
            targets(&state),
            vec![
                (Target::Hypervisor(name("pve")), vec![]),
                (Target::Secret(name("token")), vec!["other".into()]),
            ]
        );
        state.remove_hypervisor(&name("pve"), "8", Origin::Own);
        state.apply_secret("9", secret("token", &["other"]));
        assert!(!needs_permissions(&state, "ai"));
    }

    #[test]
    fn a_secret_that_no_hypervisor_names_any_more_is_let_go() {
        let mut state = State::default();
        state.apply_secret("1", secret("former", &[FINALIZER]));
        assert_eq!(targets(&state), vec![(Target::Secret(name("former")), vec![])]);
    }

    #[test]
    fn an_object_that_is_being_deleted_takes_no_new_finalizer() {
        let mut state = State::default();
        state.apply_hypervisor(
            "1",
            hypervisor(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other"]})),
        );
        state.apply_guest("2", guest(&[FINALIZER]), Origin::Own);
        assert_eq!(targets(&state), vec![]);
        assert!(unprotected(&state, &name("pve")).is_err());
    }
}
