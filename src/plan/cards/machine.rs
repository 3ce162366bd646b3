//! Cards that are passed through to machines: a machine takes the whole card, with its IOMMU group, away from containers.

use crate::crd::GPU_DRIVER;
use crate::desired::gpus::CardPolicy;
use crate::observed::Claim;
use crate::pve::gpu::{Card, NodeCards, names};
use crate::reason::{Cause, Reason};

/// A machine's wish for cards of one node.
#[derive(Clone, Copy, Debug)]
pub struct MachineWish<'a> {
    /// What it names, with the field: `spec.pci[0].mapping` and the mapping's name.
    pub devices: &'a [(String, String)],
    /// Node of the guest.
    pub node: &'a str,
    /// What may be done to cards.
    pub policy: &'a CardPolicy,
}

/// Whether a machine may start with its cards. Proxmox binds them to vfio then, whoever uses them.
///
/// # Errors
/// Who has a card of its, or that its driver must not be changed unasked.
pub fn may_start(wish: MachineWish<'_>, node: &NodeCards, claims: &[Claim]) -> Result<(), Cause> {
    for (field, value) in wish.devices {
        let mapped = node.mappings.get(value).cloned();
        let mut refusal = None;
        // Of several devices behind a mapping, Proxmox takes one that no machine has.
        let choices = mapped.unwrap_or_else(|| vec![value.clone()]);
        let free = choices
            .iter()
            .any(|address| match refused(wish, node, claims, (field, value), address) {
                None => true,
                Some(cause) => {
                    refusal.get_or_insert(cause);
                    false
                }
            });
        match refusal.filter(|_| !free) {
            Some(cause) => return Err(cause),
            None => continue,
        }
    }
    Ok(())
}

/// Why a device cannot be taken.
fn refused(
    wish: MachineWish<'_>,
    node: &NodeCards,
    claims: &[Claim],
    (field, value): (&str, &str),
    address: &str,
) -> Option<Cause> {
    let named = |card: &&Card| {
        let mut group = card.iter_group();
        group.any(|member| names(address, member))
    };
    for card in node.cards.values().filter(named) {
        let users: Vec<String> = claims
            .iter()
            .filter(|claim| claim.address == card.address && !claim.machine)
            .map(|claim| claim.who.clone())
            .collect();
        let message = if !users.is_empty() {
            format!(
                "{field}: {value} is GPU {} of IOMMU group {}, which {} uses: stop it (powerState: Stopped) or take the GPU off it first",
                card.named(),
                card.group_in_words(),
                users.join(", ")
            )
        } else if is_in_use_by_node(card) && !wish.policy.lets(wish.node, &card.address, "vfio") {
            format!(
                "{field}: {value} is GPU {}, which is bound to the node's driver {}: a machine would take it away from the node, and what has it open there can hang: set the annotation {GPU_DRIVER}: {}/{}=vfio on the PhoenixHypervisor, or bind it to vfio-pci at boot",
                card.named(),
                card.mode(),
                wish.node,
                card.address
            )
        } else {
            continue;
        };
        return Some(Cause::new(Reason::GPUConflict, message));
    }
    None
}

/// Whether the node itself uses a card through a driver for computing: taking that one away is not done unasked.
fn is_in_use_by_node(card: &Card) -> bool {
    ["nvidia", "amdgpu"].contains(&card.mode())
}
