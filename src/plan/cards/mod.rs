//! Which graphics cards an object gets: chosen once, kept by UUID and PCI address, and never more of a card's memory than
//! it has. Pure: the inventory and what others have are given.

use crate::crd::GPU_DRIVER;
use crate::crd::GivenGpu;
use crate::desired::gpus::CardPolicy;
use crate::desired::{Amount, Selector, WantedGpu};
use crate::observed::{Claim, Fault, Given};
use crate::pve::gpu::{Card, NodeCards, Vendor};
use crate::reason::{Cause, Reason};

mod budget;
mod claims;
mod machine;
#[cfg(test)]
mod tests;
mod told;
mod turn;

pub use claims::{claims, holds_share, of_strangers};
pub use machine::{MachineWish, may_start};
pub use told::{summary, told};
pub use turn::{INSTALLS, has_server, installs_driver, is_starting};

/// An object's wish for cards of one node.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Cards that it asks for.
    pub wanted: &'a [WantedGpu],
    /// Path of the guest's fields in messages.
    pub prefix: &'a str,
    /// Node of the guest.
    pub node: &'a str,
    /// What status has recorded.
    pub recorded: &'a [GivenGpu],
    /// Indices that an object of another namespace may have; `None`: all.
    pub allowed: Option<&'a [i64]>,
    /// Whether it counts against the memory of its cards: it runs, or is to run.
    pub counts: bool,
    /// What may be done to cards.
    pub policy: &'a CardPolicy,
}

/// Chooses the cards of an object.
///
/// # Errors
/// Why it cannot have them, with field, value and fix.
pub fn choose(wish: Wish<'_>, node: &NodeCards, claims: &[Claim]) -> Result<Vec<Given>, Cause> {
    let mut given: Vec<Given> = Vec::new();
    for wanted in wish.wanted {
        let card = wish.card(wanted, node, claims, &given)?;
        wish.may_have(wanted, card)?;
        if given.iter().any(|other| other.card.pci_address == card.address) && !is_instance(wanted) {
            let message = format!(
                "{} is GPU {}, which another entry names: name each GPU once",
                wanted.asked(wish.prefix),
                card.named()
            );
            return Err(Cause::new(Reason::InvalidSpec, message));
        }
        not_taken_away(wish, wanted, card, node, claims)?;
        let share = budget::share(wish, wanted, card)?;
        if wish.counts {
            budget::fits(wish, wanted, card, share, claims)?;
        }
        given.push(give(wish, wanted, card, node, share));
    }
    Ok(given)
}

/// Whether an entry asks for a MIG instance: a container may have several of one card.
fn is_instance(wanted: &WantedGpu) -> bool {
    matches!(&wanted.selector, Selector::Uuid(uuid) if uuid.starts_with("MIG-"))
}

/// What the object was given for an entry before.
fn before<'a>(wanted: &WantedGpu, node: &str, recorded: &'a [GivenGpu]) -> Option<&'a GivenGpu> {
    let selector = wanted.selector.to_string();
    recorded.iter().find(|g| g.selector == selector && g.node == node)
}

/// Where a card that was given is now: by its UUID, else by its address.
pub(super) fn find<'n>(given: &GivenGpu, node: &'n NodeCards) -> Option<&'n Card> {
    let by_uuid = given.uuid.as_ref().and_then(|uuid| {
        let mut cards = node.cards.values();
        cards.find(|card| card.uuid.as_ref() == Some(uuid))
    });
    let there = || {
        let card = node.cards.get(&given.pci_address)?;
        // Another card sits there now, or its driver does not tell.
        let other = given.uuid.is_some() && card.uuid.is_some() && given.uuid != card.uuid;
        (!other).then_some(card)
    };
    by_uuid.or_else(there)
}

impl Wish<'_> {
    /// Whether a card may be taken back from the machines.
    fn takes_back(&self, card: &Card) -> bool {
        card.vendor == Vendor::Nvidia && self.policy.lets(self.node, &card.address, "nvidia")
    }

    /// The card that an entry asks for.
    fn card<'n>(
        &self,
        wanted: &WantedGpu,
        node: &'n NodeCards,
        claims: &[Claim],
        given: &[Given],
    ) -> Result<&'n Card, Cause> {
        let old = before(wanted, self.node, self.recorded);
        let kept = old.and_then(|old| find(old, node));
        let found = match &wanted.selector {
            // What was asked for by index or count is kept, however the node counts.
            Selector::Index(_) | Selector::Counted { .. } if kept.is_some() => kept,
            Selector::Index(index) => {
                let index = u32::try_from(*index).ok();
                node.cards.values().find(|c| c.index.is_some() && c.index == index)
            }
            Selector::Address(address) => node.cards.get(address),
            Selector::Uuid(uuid) => node.cards.values().find(|card| has_uuid(card, uuid)),
            Selector::Counted { model, memory_mib, .. } => {
                let fits = |card: &&Card| self.may_be_counted(card, model.as_deref(), *memory_mib, given);
                let free = |card: &&Card| budget::left(card, claims);
                let cards = node.cards.values().filter(fits);
                // The first of those with most left, so that the choice is the same each time.
                cards.fold(None, |best: Option<&Card>, card| match best {
                    Some(b) if free(&b) >= free(&card) => Some(b),
                    _ => Some(card),
                })
            }
        };
        found.ok_or_else(|| self.not_found(wanted, old, node))
    }

    fn may_be_counted(&self, card: &Card, model: Option<&str>, memory: Option<u64>, given: &[Given]) -> bool {
        let named = |model: &str| {
            let own = card.model.as_deref().unwrap_or_default().to_lowercase();
            own.contains(&model.to_lowercase())
        };
        let usable = card.vendor == Vendor::Nvidia && card.mode() == "nvidia" && card.index.is_some();
        let allowed = self
            .allowed
            .is_none_or(|list| card.index.is_some_and(|i| list.contains(&i64::from(i))));
        usable
            && allowed
            && model.is_none_or(named)
            && memory.is_none_or(|least| card.memory_mib.is_some_and(|m| m >= least))
            && !given.iter().any(|other| other.card.pci_address == card.address)
    }

    fn not_found(&self, wanted: &WantedGpu, old: Option<&GivenGpu>, node: &NodeCards) -> Cause {
        let has = inventory_in_words(node);
        let was = old.map(|old| {
            let uuid = old.uuid.as_deref().unwrap_or(&old.pci_address);
            format!(" any more, which was {uuid} when it was chosen")
        });
        let message = format!(
            "{}: node {} has no such GPU{}: {has}",
            wanted.asked(self.prefix),
            self.node,
            was.unwrap_or_default()
        );
        Cause::new(Reason::GPUNotFound, message)
    }

    /// An object of another namespace has only what the hypervisor allows it.
    fn may_have(&self, wanted: &WantedGpu, card: &Card) -> Result<(), Cause> {
        let Some(allowed) = self.allowed else { return Ok(()) };
        match card.index {
            Some(index) if allowed.contains(&i64::from(index)) => Ok(()),
            index => {
                let index = index.map_or_else(|| "no index".into(), |index| format!("index {index}"));
                let message = format!(
                    "{} is GPU {} ({index}), which spec.allow.gpus of the PhoenixHypervisor does not hold: add its index there, or choose another",
                    wanted.asked(self.prefix),
                    card.named()
                );
                Err(Cause::new(Reason::NotAllowed, message))
            }
        }
    }
}

fn has_uuid(card: &Card, uuid: &str) -> bool {
    card.uuid.as_deref() == Some(uuid) || card.mig.iter().flatten().any(|instance| instance.uuid == uuid)
}

/// The cards of a node for a message.
fn inventory_in_words(node: &NodeCards) -> String {
    let card = |card: &Card| {
        let index = card.index.map(|index| format!("GPU {index} at ")).unwrap_or_default();
        let mode = match card.mode() {
            "nvidia" => String::new(),
            mode => format!(", bound to {mode}"),
        };
        format!("{index}{}{mode}", card.named())
    };
    let cards: Vec<String> = node.cards.values().map(card).collect();
    let smi = node
        .smi_error
        .as_ref()
        .map(|words| format!("; nvidia-smi says: {words}"));
    match cards.is_empty() {
        true => "it has none: leave gpus out, or choose another node".into(),
        false => format!(
            "it has {}: name one that there is{}",
            cards.join(", "),
            smi.unwrap_or_default()
        ),
    }
}

/// A card is either the machines' or the containers'.
fn not_taken_away(
    wish: Wish<'_>,
    wanted: &WantedGpu,
    card: &Card,
    node: &NodeCards,
    claims: &[Claim],
) -> Result<(), Cause> {
    let machine = claims
        .iter()
        .find(|claim| claim.machine && claim.address == card.address);
    // Its owner says that it comes back; a machine that runs, or is to run, still has it.
    if machine.is_none() && wish.takes_back(card) {
        return Ok(());
    }
    let whose = machine.map(|claim| claim.who.clone()).or_else(|| {
        let holder = node
            .holders
            .iter()
            .find(|h| !h.devices.is_empty() && node.holds(h, card))?;
        Some(format!("machine {}", holder.vmid))
    });
    let message = match (card.is_passed_through(), whose) {
        (true, whose) => {
            let whose = whose.map(|who| format!(": {who} has it")).unwrap_or_default();
            format!(
                "{} is GPU {}, which is bound to vfio, for machines{whose}: choose another; to have it back, stop the machine and set the annotation {GPU_DRIVER}: {}/{}=nvidia on the PhoenixHypervisor",
                wanted.asked(wish.prefix),
                card.named(),
                wish.node,
                card.address
            )
        }
        (false, Some(who)) => format!(
            "{} is GPU {}, which {who} takes away from containers when it starts (IOMMU group {}): choose another, or take the device off the machine",
            wanted.asked(wish.prefix),
            card.named(),
            card.group_in_words()
        ),
        (false, None) => return Ok(()),
    };
    Err(Cause::new(Reason::GPUConflict, message))
}

fn give(wish: Wish<'_>, wanted: &WantedGpu, card: &Card, node: &NodeCards, share: Option<f64>) -> Given {
    let mut nodes = card.nodes();
    let uuid = match &wanted.selector {
        Selector::Uuid(uuid) => Some(uuid),
        _ => None,
    };
    let instance = card.mig.iter().flatten().find(|i| Some(&i.uuid) == uuid);
    nodes.extend(instance.into_iter().flat_map(|i| i.caps.iter().cloned()));
    if wanted.dri {
        let more: Vec<String> = card.dri.iter().filter(|path| !nodes.contains(path)).cloned().collect();
        nodes.extend(more);
    }
    let missing = node.missing_of(&nodes);
    Given {
        card: GivenGpu {
            selector: wanted.selector.to_string(),
            node: wish.node.to_string(),
            pci_address: card.address.clone(),
            uuid: card.uuid.clone(),
            model: card.model.clone(),
            index: card.index.map(i64::from),
            minor: card.minor.map(i64::from),
            share,
            exclusive: wanted.exclusive.then_some(true),
            released: (!wish.counts).then_some(true),
        },
        entry: wanted.entry,
        // An instance of a card has a part of it, and nobody says which.
        memory_mib: card.memory_mib.filter(|_| instance.is_none()),
        nodes,
        missing,
        bind: (card.is_passed_through() && wish.takes_back(card)).then(|| "nvidia".to_string()),
        reordered: reordered(wish, wanted, card),
        fault: fault(card),
    }
}

/// Old and new, where the node counts otherwise than when the card was chosen.
fn reordered(wish: Wish<'_>, wanted: &WantedGpu, card: &Card) -> Option<String> {
    let old = before(wanted, wish.node, wish.recorded)?;
    let moved = old.pci_address != card.address;
    let asked = match wanted.selector {
        Selector::Index(index) => Some(index),
        _ => None,
    };
    let index = card.index.map(i64::from);
    let counted = asked.is_some() && index.is_some() && asked != index;
    match (moved, counted) {
        (true, _) => Some(format!(
            "{} was GPU {} when it was chosen and is {} now: the container keeps the card",
            wanted.asked(wish.prefix),
            old.pci_address,
            card.named()
        )),
        (false, true) => Some(format!(
            "{} was GPU {} when it was chosen; node {} counts that card as {} now: the container keeps the card; name it by pciAddress or uuid to say which one is meant",
            wanted.asked(wish.prefix),
            card.named(),
            wish.node,
            card.index.unwrap_or_default()
        )),
        (false, false) => None,
    }
}

/// Why a card cannot work, in words.
fn fault(card: &Card) -> Option<Fault> {
    let serious = card.fault();
    let words = |xid: &crate::pve::gpu::Xid| format!("NVIDIA's driver reported Xid {}", xid.words);
    match (card.does_not_answer(), serious) {
        (true, xid) => {
            let why = xid.map(words).unwrap_or_else(|| "nvidia-smi does not list it".into());
            let words = format!(
                "GPU {} does not answer: {why}: see journalctl -k on the node; a card that has fallen off the bus comes back with a boot of the node",
                card.named()
            );
            Some(Fault { at: None, words })
        }
        (false, Some(xid)) => Some(Fault {
            at: xid.at,
            words: format!(
                "GPU {}: {}: restart the guest; if it comes again, boot the node and see NVIDIA's list of Xid errors",
                card.named(),
                words(xid)
            ),
        }),
        (false, None) => None,
    }
}

/// How much of a card's memory an amount is.
fn part(amount: Amount, card: &Card) -> Option<f64> {
    match amount {
        Amount::Share(share) => Some(share),
        Amount::Gib(gib) => {
            let memory = card.memory_mib.filter(|mib| *mib > 0)?;
            Some(gib * 1024.0 / memory as f64)
        }
    }
}
