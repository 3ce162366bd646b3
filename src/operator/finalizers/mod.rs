//! What must stay while guests need it: hypervisors, the Secrets of their connections, the operator's own permissions.

pub(super) mod binding;
pub(super) mod guard;

use kube::ResourceExt;

use crate::crd::FINALIZER;

/// Whether Phoenix's finalizer is among them.
pub(super) fn has_ours(finalizers: &[String]) -> bool {
    finalizers.iter().any(|f| f == FINALIZER)
}

/// The finalizers with Phoenix's at their end, or without it.
pub(super) fn with_ours(finalizers: &[String], wanted: bool) -> Vec<String> {
    let others = finalizers.iter().filter(|f| *f != FINALIZER).cloned();
    others.chain(wanted.then(|| FINALIZER.to_string())).collect()
}

/// Whether an answer to a patch of finalizers says that the object went with the last of them.
pub(super) fn ended(answer: &impl ResourceExt) -> bool {
    answer.meta().deletion_timestamp.is_some() && answer.finalizers().is_empty()
}
