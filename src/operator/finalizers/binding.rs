//! The finalizer of the operator's own RoleBindings.
//!
//! A deleted namespace takes its RoleBindings in the first breath, while its guests are still being destroyed: without
//! its permissions the operator could not let anything go, and the namespace would never end. So the RoleBinding that
//! grants them stays, too, while an object of its namespace has Phoenix's finalizer, and is let go last of all. The
//! role is a ClusterRole, which no namespace takes along.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tracing::{debug, info};

use crate::engine::store::StoreError;
use crate::operator::objects::store::call;

use super::{has_ours, with_ours};

/// What is known of a namespace's RoleBinding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// There is none (permissions come from elsewhere), or it may not be read.
    Absent,
    /// It has no finalizer of ours.
    Free,
    /// It has our finalizer.
    Held,
}

/// The RoleBindings of the operator, one a namespace.
pub(crate) struct Bindings {
    client: Client,
    name: String,
    known: Mutex<BTreeMap<String, Known>>,
}

impl Bindings {
    /// RoleBindings of this name.
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Bindings {
            client,
            name: name.to_string(),
            known: Mutex::default(),
        }
    }

    /// Whether the RoleBinding of a namespace is known to stay.
    pub(super) fn is_held(&self, namespace: &str) -> bool {
        matches!(self.known(namespace), Some(Known::Held | Known::Absent))
    }

    /// Whether the RoleBinding of a namespace may have our finalizer.
    pub(super) fn may_be_held(&self, namespace: &str) -> bool {
        matches!(self.known(namespace), Some(Known::Held) | None)
    }

    fn known(&self, namespace: &str) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(namespace).copied()
    }

    /// Makes the RoleBinding of a namespace stay, or lets it go.
    ///
    /// # Errors
    /// Those of the API server.
    pub(in crate::operator) async fn set(&self, namespace: &str, held: bool) -> Result<(), StoreError> {
        let now = self.write(namespace, held).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(namespace.to_string(), now);
        Ok(())
    }

    async fn write(&self, namespace: &str, held: bool) -> Result<Known, StoreError> {
        let api: Api<RoleBinding> = Api::namespaced(self.client.clone(), namespace);
        let found = call(async {
            match api.get_opt(&self.name).await {
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    debug!(namespace, "the operator's RoleBinding may not be read");
                    Ok(None)
                }
                other => other,
            }
        });
        let Some(binding) = found.await? else {
            return Ok(Known::Absent);
        };
        let known = if held { Known::Held } else { Known::Free };
        if has_ours(binding.finalizers()) == held {
            return Ok(known);
        }
        let finalizers = with_ours(binding.finalizers(), held);
        let version = binding.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        match call(api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => info!(namespace, kept = held, "finalizer of the RoleBinding written"),
            Err(StoreError::Gone) if !held => {}
            Err(error) => return Err(error),
        }
        Ok(known)
    }
}
