//! Polls of hypervisors, and the statuses of hypervisors and features.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tracing::warn;

use crate::crd::{FeatureStatus, HypervisorStatus, PhoenixFeature, PhoenixHypervisor};
use crate::desired::ObjectName;
use crate::engine::events;
use crate::engine::store::StoreError;
use crate::reason::Reason;

use super::controller::{Polled, Reconciler};
use super::objects::Item;
use super::objects::state::State;
use super::objects::store::KubeStore;

/// Condition of a hypervisor that is being deleted and still needed.
const DELETION_BLOCKED: &str = "DeletionBlocked";

/// Seconds after which a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

type Outcome = (&'static str, (Option<Duration>, Vec<Item>));

/// One poll of a hypervisor: its status is published if it changed, and guests that changed are worked on.
pub async fn poll<R: Reconciler>(store: &KubeStore, reconciler: &R, name: &ObjectName) -> Outcome {
    if store.state().get::<PhoenixHypervisor>(name).is_none() {
        store.metrics.hypervisor(name, None);
        return ("gone", (None, Vec::new()));
    }
    let Polled { status, changed, next } = reconciler.poll(&name.namespace, &name.name).await;
    let up = condition_holds(&status.conditions, "Ready");
    store.metrics.hypervisor(name, Some(up));
    let (current, status) = {
        let state = store.state();
        let Some(hypervisor) = state.get::<PhoenixHypervisor>(name) else {
            return ("gone", (None, Vec::new()));
        };
        let users = holders(&state, name);
        let current = hypervisor.status.clone().unwrap_or_default();
        (current, with_deletion(hypervisor, users, status, (store.process.now)()))
    };
    let also = changed.into_iter().map(Item::Guest).collect();
    if current != status {
        match store.write_status_of::<PhoenixHypervisor>(name, &status).await {
            Ok(()) => {
                for event in events::of_hypervisor(&current, &status) {
                    store.hypervisor_event(name, event).await;
                }
            }
            Err(StoreError::Gone) => return ("gone", (None, also)),
            Err(error) => {
                warn!(%error, "status not written, tried again");
                return ("error", (Some(RETRY.min(next)), also));
            }
        }
    }
    (if up { "ready" } else { "not ready" }, (Some(next), also))
}

fn condition_holds(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// Objects that a hypervisor is kept for, in words.
fn holders(state: &State, name: &ObjectName) -> Vec<String> {
    state.holders(name).map(|guest| guest.object.key.to_string()).collect()
}

/// Hypervisors of a namespace that are being deleted: their statuses say what they wait for, which changed.
pub fn blocked_hypervisors(state: &State, namespace: &str) -> Vec<Item> {
    let own = state
        .all::<PhoenixHypervisor>()
        .filter(|(name, _)| name.namespace == namespace);
    own.filter(|(_, hypervisor)| hypervisor.metadata.deletion_timestamp.is_some())
        .map(|(name, _)| Item::Poll(name.clone()))
        .collect()
}

/// The status of a hypervisor, with what its deletion waits for.
fn with_deletion(
    hypervisor: &PhoenixHypervisor,
    holders: Vec<String>,
    mut status: HypervisorStatus,
    now: Timestamp,
) -> HypervisorStatus {
    status.conditions.retain(|c| c.type_ != DELETION_BLOCKED);
    if hypervisor.metadata.deletion_timestamp.is_none() || holders.is_empty() {
        return status;
    }
    let named = holders.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    let more = match holders.len().saturating_sub(3) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let message = format!("deletion waits for the objects that use this hypervisor: {named}{more}");
    let before = hypervisor
        .status
        .iter()
        .flat_map(|s| &s.conditions)
        .find(|c| c.type_ == DELETION_BLOCKED);
    status.conditions.push(Condition {
        type_: DELETION_BLOCKED.into(),
        status: "True".into(),
        reason: Reason::InUse.into(),
        message: message.clone(),
        observed_generation: hypervisor.metadata.generation,
        last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
    });
    status.phase = Some("Deleting".into());
    status.message = Some(message);
    status
}

/// Publishes the status of a feature: that it was seen in its present form.
pub async fn feature(store: &KubeStore, name: &ObjectName) -> Outcome {
    let status = {
        let state = store.state();
        let Some(feature) = state.get::<PhoenixFeature>(name) else {
            return ("gone", (None, Vec::new()));
        };
        let status = feature_status(feature, (store.process.now)());
        (feature.status.as_ref() != Some(&status)).then_some(status)
    };
    let Some(status) = status else {
        return ("ready", (None, Vec::new()));
    };
    match store.write_status_of::<PhoenixFeature>(name, &status).await {
        Ok(()) => ("ready", (None, Vec::new())),
        Err(StoreError::Gone) => ("gone", (None, Vec::new())),
        Err(error) => {
            warn!(%error, "status not written, tried again");
            ("error", (Some(RETRY), Vec::new()))
        }
    }
}

/// A feature has no life of its own: it is Ready once seen. What is wrong with it for a guest (a missing requirement,
/// a wrong parameter) depends on the guest and is said there.
fn feature_status(feature: &PhoenixFeature, now: Timestamp) -> FeatureStatus {
    let before = feature
        .status
        .iter()
        .flat_map(|s| &s.conditions)
        .find(|c| c.type_ == "Ready" && c.status == "True");
    let requires = feature.spec.requires.as_deref().unwrap_or_default();
    FeatureStatus {
        observed_generation: feature.metadata.generation,
        requires: Some(requires.join(", ")).filter(|text| !text.is_empty()),
        conditions: vec![Condition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: Reason::Accepted.into(),
            message: "can be used by guests".into(),
            observed_generation: feature.metadata.generation,
            last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
        }],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn deleting() -> PhoenixHypervisor {
        serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"namespace": "ai", "name": "pve", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_blocked_deletion_names_what_it_waits_for_and_settles() {
        let users: Vec<String> = (1..=5).map(|n| format!("PhoenixLXC ai/g{n}")).collect();
        let mut hypervisor = deleting();
        let first = with_deletion(&hypervisor, users.clone(), HypervisorStatus::default(), at(1));
        let message = first.message.clone().unwrap();
        assert!(
            message.contains("PhoenixLXC ai/g1") && message.ends_with("and 2 more"),
            "{message}"
        );
        hypervisor.status = Some(first.clone());
        let polled = HypervisorStatus::default();
        assert_eq!(with_deletion(&hypervisor, users, polled.clone(), at(2)), first);
        assert_eq!(with_deletion(&hypervisor, vec![], polled.clone(), at(3)), polled);
    }

    #[test]
    fn a_features_status_is_written_once_for_each_generation() {
        let mut feature = PhoenixFeature::new("docker", Default::default());
        feature.metadata.generation = Some(1);
        let first = feature_status(&feature, at(1));
        feature.status = Some(first.clone());
        assert_eq!(feature_status(&feature, at(2)), first);
        assert_eq!(first.requires, None);
        feature.metadata.generation = Some(2);
        feature.spec.requires = Some(vec!["base-setup".into(), "nvidia".into()]);
        let second = feature_status(&feature, at(2));
        assert_eq!(second.requires.as_deref(), Some("base-setup, nvidia"));
        assert_eq!(second.observed_generation, Some(2));
        assert_eq!(
            second.conditions[0].last_transition_time,
            first.conditions[0].last_transition_time
        );
    }
}
