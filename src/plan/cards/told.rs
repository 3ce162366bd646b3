//! The cards of a hypervisor for its status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::{GpuFault, GpuStatus, GpuUser, MigStatus};
use crate::observed::{Claim, Inventory};
use crate::pve::gpu::{Card, NodeCards, Xid};

/// The cards of all nodes; `claims` tells who has which of a node's.
pub fn told(inventory: &Inventory, claims: &dyn Fn(&str, &NodeCards) -> Vec<Claim>) -> Vec<GpuStatus> {
    let mut list = Vec::new();
    for (name, node) in inventory {
        let claims = claims(name, node);
        list.extend(node.cards.values().map(|card| of_card(name, node, card, &claims)));
    }
    list
}

fn of_card(name: &str, node: &NodeCards, card: &Card, claims: &[Claim]) -> GpuStatus {
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let users = claims.iter().filter(|claim| claim.address == card.address);
    let users: Vec<GpuUser> = users.map(user).collect();
    let mig = card.mig.as_ref().map(|list| {
        let instance = list.iter().map(|i| MigStatus {
            uuid: i.uuid.clone(),
            profile: i.profile.clone(),
        });
        instance.collect()
    });
    GpuStatus {
        node: name.to_string(),
        pci_address: card.address.clone(),
        index: card.index.map(i64::from),
        minor: card.minor.map(i64::from),
        uuid: card.uuid.clone(),
        vendor: card.vendor.as_str().to_string(),
        model: card.model.clone(),
        memory: card.memory_mib.map(|mib| format!("{mib}Mi")),
        mode: node.over_ssh.then(|| card.mode().to_string()),
        driver_version: card.driver_version.clone(),
        iommu_group: card.iommu_group,
        iommu_members: some(card.iommu_members.clone()),
        device_nodes: some(card.nodes()),
        missing_device_nodes: some(node.missing(card)).filter(|_| !card.is_passed_through()),
        persistence_mode: card.persistence,
        mig,
        fault: card.fault().map(fault),
        users: Some(users).filter(|users| !users.is_empty()),
    }
}

fn user(claim: &Claim) -> GpuUser {
    GpuUser {
        object: claim.object.then(|| claim.who.clone()),
        vmid: claim.vmid.map(i64::from),
        share: claim.share,
        exclusive: claim.exclusive.then_some(true),
    }
}

fn fault(xid: &Xid) -> GpuFault {
    let at = xid.at.and_then(|at| Timestamp::from_second(at).ok());
    GpuFault {
        xid: i64::from(xid.number),
        at: at.map(Time),
        message: xid.words.clone(),
    }
}

/// The cards in words, for a column: `2x NVIDIA GeForce RTX 5060 Ti, 1x …`.
pub fn summary(gpus: &[GpuStatus]) -> Option<String> {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for gpu in gpus {
        let name = gpu.model.clone().unwrap_or_else(|| gpu.vendor.clone());
        match kinds.iter_mut().find(|(kind, _)| *kind == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    let words: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count}x {kind}")).collect();
    Some(words.join(", ")).filter(|words| !words.is_empty())
}
