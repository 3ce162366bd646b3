//! The nodes' graphics cards as they were looked at last, and which objects have them. Made anew for each answer.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use crate::crd::{GpuStatus, PhoenixHypervisor};
use crate::desired::ObjectName;
use crate::observed::Inventory;
use crate::operator::objects::state::State;
use crate::pve::gpu::Card as Seen;

use super::catalog::Catalog;
use super::labels::{Card, CardUser};

type Values<L> = Family<L, Gauge<f64, AtomicU64>>;

/// What is told of cards.
#[derive(Default)]
pub(super) struct Cards {
    memory: Family<Card, Gauge>,
    used: Values<Card>,
    utilization: Values<Card>,
    temperature: Values<Card>,
    power: Values<Card>,
    xids: Family<Card, Gauge>,
    faulty: Family<Card, Gauge>,
    shares: Values<CardUser>,
}

/// What a reading in percent or MiB is in Prometheus' units.
const PERCENT: f64 = 0.01;
const MIB: f64 = 1024.0 * 1024.0;

impl Cards {
    /// What was looked at last, and what statuses say of who has which.
    pub(super) fn of<'i>(seen: impl Iterator<Item = (&'i ObjectName, &'i Inventory)>, state: &State) -> Self {
        let cards = Cards::default();
        for (hypervisor, inventory) in seen {
            for (node, found) in inventory {
                for card in found.cards.values() {
                    cards.card(hypervisor, node, card);
                }
            }
        }
        for (name, hypervisor) in state.all::<PhoenixHypervisor>() {
            let status = hypervisor.status.as_ref();
            for gpu in status.and_then(|s| s.gpus.as_ref()).into_iter().flatten() {
                cards.users(name, gpu);
            }
        }
        cards
    }

    fn card(&self, hypervisor: &ObjectName, node: &str, card: &Seen) {
        let labels = Card {
            namespace: hypervisor.namespace.clone(),
            hypervisor: hypervisor.name.clone(),
            node: node.to_string(),
            address: card.address.clone(),
            gpu: card.index.map(|index| index.to_string()).unwrap_or_default(),
            model: card.model.clone().unwrap_or_default(),
        };
        if let Some(mib) = card.memory_mib {
            let bytes = i64::try_from(mib << 20).unwrap_or(i64::MAX);
            self.memory.get_or_create(&labels).set(bytes);
        }
        let reading = &card.reading;
        for (family, value, factor) in [
            (&self.used, reading.memory_used_mib, MIB),
            (&self.utilization, reading.utilization, PERCENT),
            (&self.temperature, reading.temperature, 1.0),
            (&self.power, reading.watts, 1.0),
        ] {
            if let Some(value) = value {
                family.get_or_create(&labels).set(value * factor);
            }
        }
        let count = i64::try_from(card.xids.len()).unwrap_or(i64::MAX);
        self.xids.get_or_create(&labels).set(count);
        let faulty = card.does_not_answer() || card.fault().is_some();
        self.faulty.get_or_create(&labels).set(i64::from(faulty));
    }

    fn users(&self, hypervisor: &ObjectName, gpu: &GpuStatus) {
        for user in gpu.users.iter().flatten() {
            let object = user.object.clone().unwrap_or_default();
            let (kind, name) = object.split_once(' ').unwrap_or_default();
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            let labels = CardUser {
                hypervisor: hypervisor.name.clone(),
                node: gpu.node.clone(),
                address: gpu.pci_address.clone(),
                kind: kind.to_string(),
                namespace: namespace.to_string(),
                name: name.to_string(),
                vmid: user.vmid.map(|vmid| vmid.to_string()).unwrap_or_default(),
            };
            let share = match user.exclusive {
                Some(true) => 1.0,
                _ => user.share.unwrap_or(0.0),
            };
            self.shares.get_or_create(&labels).set(share);
        }
    }

    /// What there is, to be written.
    pub(super) fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        catalog.add_unit("gpu_memory", Unit::Bytes, "Memory of a GPU", self.memory.clone());
        catalog.add_unit(
            "gpu_memory_used",
            Unit::Bytes,
            "Memory of a GPU in use",
            self.used.clone(),
        );
        catalog.add(
            "gpu_utilization_ratio",
            "Utilization of a GPU",
            self.utilization.clone(),
        );
        catalog.add_unit(
            "gpu_temperature",
            Unit::Celsius,
            "Temperature of a GPU",
            self.temperature.clone(),
        );
        catalog.add("gpu_power_watts", "Power draw of a GPU", self.power.clone());
        catalog.add(
            "gpu_xids",
            "Xid errors of a GPU since its node was booted",
            self.xids.clone(),
        );
        catalog.add(
            "gpu_faulty",
            "Whether a GPU does not answer, or reported a fault after which something must be restarted",
            self.faulty.clone(),
        );
        catalog.add(
            "gpu_share_ratio",
            "Share of a GPU's memory that a guest may use; 0 where it does not say",
            self.shares.clone(),
        );
        catalog
    }
}
