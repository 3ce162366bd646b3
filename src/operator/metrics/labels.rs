//! Labels of the metrics.

use prometheus_client::encoding::EncodeLabelSet;

use crate::desired::{Key, ObjectName};

/// A kind and what came of something.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Outcome {
    pub kind: String,
    pub result: &'static str,
}

/// A kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfKind {
    pub kind: &'static str,
}

/// A probe and its answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Probe {
    pub probe: &'static str,
    pub result: &'static str,
}

/// An object whose kind the metric says.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Named {
    pub namespace: String,
    pub name: String,
}

/// A hypervisor that something goes to.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Hypervisor {
    pub namespace: String,
    pub hypervisor: String,
}

/// A step and its end.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct StepResult {
    pub kind: &'static str,
    pub effect: &'static str,
    pub result: &'static str,
}

/// The sort of a step.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Effect {
    pub effect: &'static str,
}

/// Why something failed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Failure {
    pub kind: &'static str,
    pub reason: &'static str,
}

/// A Proxmox task and its end.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct TaskResult {
    pub r#type: String,
    pub result: &'static str,
}

/// A field that was changed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Drift {
    pub kind: &'static str,
    pub field: &'static str,
}

/// A request and what came of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Request {
    pub namespace: String,
    pub hypervisor: String,
    pub method: &'static str,
    pub route: String,
    pub code: String,
}

/// A sort of request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Route {
    pub namespace: String,
    pub hypervisor: String,
    pub method: &'static str,
    pub route: String,
}

/// A host of a hypervisor.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Host {
    pub namespace: String,
    pub hypervisor: String,
    pub host: String,
}

/// What came of a connection or command.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct SshResult {
    pub namespace: String,
    pub hypervisor: String,
    pub result: &'static str,
}

/// Where objects stand.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Phase {
    pub kind: &'static str,
    pub namespace: String,
    pub phase: String,
}

/// An object.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Object {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

/// An object and why it is stalled.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Stalled {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub reason: String,
}

/// Why objects are not Ready.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Unready {
    pub kind: &'static str,
    pub namespace: String,
    pub reason: String,
}

/// Objects of a namespace.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct InNamespace {
    pub kind: &'static str,
    pub namespace: String,
}

/// Proxmox tasks.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Task {
    pub r#type: String,
}

/// Nodes of a hypervisor.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Nodes {
    pub namespace: String,
    pub name: String,
    pub status: String,
}

impl Named {
    pub(super) fn of(name: &ObjectName) -> Self {
        Named {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        }
    }
}

impl Hypervisor {
    pub(super) fn of(name: &ObjectName) -> Self {
        Hypervisor {
            namespace: name.namespace.clone(),
            hypervisor: name.name.clone(),
        }
    }
}

impl Object {
    pub(super) fn of(key: &Key) -> Self {
        Object {
            kind: key.kind.as_str(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

/// A graphics card of a node.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Card {
    pub namespace: String,
    pub hypervisor: String,
    pub node: String,
    pub address: String,
    pub gpu: String,
    pub model: String,
}

/// A guest that has a graphics card; kind, namespace and name of its object are empty where it has none.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct CardUser {
    pub hypervisor: String,
    pub node: String,
    pub address: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub vmid: String,
}
