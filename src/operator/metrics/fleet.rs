//! How the objects are, from what the caches hold. Made anew for each answer, so that what is gone shows up no more.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use crate::crd::{PhoenixFeature, PhoenixHypervisor};
use crate::desired::{GuestObject, ObjectName};
use crate::operator::objects::state::State;
use crate::pve::upid::Upid;

use super::catalog::Catalog;
use super::labels::*;

/// What is told of objects.
#[derive(Default)]
pub(super) struct Fleet {
    objects: Family<Phase, Gauge>,
    ready: Family<Object, Gauge>,
    unready_since: Family<Object, Gauge>,
    unready: Family<Unready, Gauge>,
    stalled: Family<Stalled, Gauge>,
    drifted: Family<InNamespace, Gauge>,
    tasks: Family<Task, Gauge>,
    oldest_tasks: Family<Task, Gauge>,
    nodes: Family<Nodes, Gauge>,
}

/// One object of any kind.
struct Seen<'s> {
    object: Object,
    /// Whether it is as its spec says.
    ready: bool,
    /// Unix time at which it was created.
    created: Option<i64>,
    phase: Option<&'s str>,
    conditions: &'s [Condition],
}

impl Seen<'_> {
    fn holds(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == type_ && c.status == "True")
    }
}

fn add<L>(family: &Family<L, Gauge>, labels: &L)
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet,
{
    family.get_or_create(labels).inc();
}

impl Fleet {
    /// What the caches say.
    pub(super) fn of(state: &State) -> Self {
        let fleet = Fleet::default();
        for guest in state.guests() {
            fleet.guest(&guest.object);
        }
        for (name, hypervisor) in state.all::<PhoenixHypervisor>() {
            fleet.hypervisor(name, hypervisor);
        }
        for (name, feature) in state.all::<PhoenixFeature>() {
            let conditions = feature
                .status
                .as_ref()
                .map(|s| s.conditions.as_slice())
                .unwrap_or_default();
            let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            let phase = ready.then_some("Ready");
            fleet.object(&seen(
                "PhoenixFeature",
                name,
                ready,
                created(feature.as_ref()),
                phase,
                conditions,
            ));
        }
        fleet
    }

    fn guest(&self, guest: &GuestObject) {
        let status = &guest.status;
        self.object(&Seen {
            object: Object::of(&guest.key),
            ready: guest.is_ready(),
            created: guest.created,
            phase: status.phase.as_deref(),
            conditions: &status.conditions,
        });
        let Some(Ok(upid)) = status.task.as_ref().map(|task| task.upid.parse::<Upid>()) else {
            return;
        };
        let labels = Task { r#type: upid.kind };
        add(&self.tasks, &labels);
        let oldest = self.oldest_tasks.get_or_create(&labels);
        if oldest.get() == 0 || oldest.get() > upid.start {
            oldest.set(upid.start);
        }
    }

    fn hypervisor(&self, name: &ObjectName, hypervisor: &PhoenixHypervisor) {
        let status = hypervisor.status.as_ref();
        let conditions = status.map(|s| s.conditions.as_slice()).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let phase = status.and_then(|s| s.phase.as_deref());
        self.object(&seen(
            "PhoenixHypervisor",
            name,
            ready,
            created(hypervisor),
            phase,
            conditions,
        ));
        for node in status.and_then(|s| s.nodes.as_ref()).into_iter().flatten() {
            let Named { namespace, name } = Named::of(name);
            let status = node.status.clone();
            add(
                &self.nodes,
                &Nodes {
                    namespace,
                    name,
                    status,
                },
            );
        }
    }

    fn object(&self, seen: &Seen) {
        let Object { kind, namespace, name } = seen.object.clone();
        let phase = seen.phase.unwrap_or("New").to_string();
        add(
            &self.objects,
            &Phase {
                kind,
                namespace: namespace.clone(),
                phase,
            },
        );
        self.ready.get_or_create(&seen.object).set(i64::from(seen.ready));
        if seen.holds("DriftDetected").is_some() {
            let namespace = namespace.clone();
            add(&self.drifted, &InNamespace { kind, namespace });
        }
        if let Some(stalled) = seen.holds("Stalled") {
            let labels = Stalled {
                kind,
                namespace: namespace.clone(),
                name,
                reason: stalled.reason.clone(),
            };
            self.stalled.get_or_create(&labels).set(1);
        }
        if seen.ready {
            return;
        }
        // A condition that still says Ready is that of an earlier generation.
        let said = seen
            .conditions
            .iter()
            .find(|c| c.type_ == "Ready" && c.status != "True");
        let since = said.map(|c| c.last_transition_time.0.as_second()).or(seen.created);
        if let Some(since) = since {
            self.unready_since.get_or_create(&seen.object).set(since);
        }
        let reason = said.map_or("New", |c| c.reason.as_str()).to_string();
        add(
            &self.unready,
            &Unready {
                kind,
                namespace,
                reason,
            },
        );
    }

    /// What there is, to be written.
    pub(super) fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        catalog.add("objects", "Objects by kind and phase", self.objects.clone());
        catalog.add("object_ready", "Whether an object is Ready", self.ready.clone());
        catalog.add_unit(
            "object_unready_since_timestamp",
            Unit::Seconds,
            "Since when an object is not Ready",
            self.unready_since.clone(),
        );
        catalog.add(
            "unready_objects",
            "Objects that are not Ready, by what they wait for",
            self.unready.clone(),
        );
        catalog.add(
            "object_stalled",
            "Objects that wait for a person, with the reason",
            self.stalled.clone(),
        );
        catalog.add(
            "drifted_objects",
            "Objects whose guest somebody else changed, and that are not as wanted again",
            self.drifted.clone(),
        );
        catalog.add(
            "proxmox_tasks",
            "Proxmox tasks under way for objects",
            self.tasks.clone(),
        );
        catalog.add_unit(
            "proxmox_task_oldest_start_timestamp",
            Unit::Seconds,
            "When the oldest Proxmox task under way was started, by the node's clock",
            self.oldest_tasks.clone(),
        );
        catalog.add(
            "hypervisor_nodes",
            "Nodes of a hypervisor by status",
            self.nodes.clone(),
        );
        catalog
    }
}

fn created(object: &impl kube::Resource) -> Option<i64> {
    let created = object.meta().creation_timestamp.as_ref();
    created.map(|time| time.0.as_second())
}

fn seen<'s>(
    kind: &'static str,
    name: &ObjectName,
    ready: bool,
    created: Option<i64>,
    phase: Option<&'s str>,
    conditions: &'s [Condition],
) -> Seen<'s> {
    Seen {
        object: Object {
            kind,
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        },
        ready,
        created,
        phase,
        conditions,
    }
}
