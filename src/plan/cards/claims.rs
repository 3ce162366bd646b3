//! Who has which cards of a node.

use std::collections::BTreeSet;

use crate::crd::{GivenGpu, GuestKind, PowerState};
use crate::desired::gpus::wanted_gpus;
use crate::desired::{GuestObject, WantedGpu};
use crate::observed::{Claim, Cluster};
use crate::pve::gpu::{Card, NodeCards};
use crate::pve::{GuestType, Vmid};

use super::{find, part};

/// Whether an object's guest counts against the memory of its cards: it runs, or is to run. A template runs only while it
/// is built.
pub fn holds_share(object: &GuestObject, running: bool) -> bool {
    let is_guest = object.key.kind != GuestKind::PhoenixTemplate;
    is_guest && (running || object.power_state() != Some(PowerState::Stopped))
}

/// What an object asks for; what cannot be read is told where the object itself is looked at.
pub fn wishes(object: &GuestObject) -> Vec<WantedGpu> {
    let wanted = object.lxc().and_then(|guest| wanted_gpus(object, guest).ok().flatten());
    wanted.unwrap_or_default()
}

/// What an object has of a node's cards. `held` is what it was given a moment ago, before its status says so; `running` is
/// whether its guest runs.
pub fn claims(
    object: &GuestObject,
    held: Option<&[GivenGpu]>,
    running: bool,
    name: &str,
    node: &NodeCards,
) -> Vec<Claim> {
    let who = object.key.to_string();
    let own = |card: &Card, share, exclusive, machine| Claim {
        who: who.clone(),
        object: true,
        vmid: object.status.vmid(),
        address: card.address.clone(),
        share,
        exclusive,
        machine,
    };
    let holder = object
        .status
        .vmid()
        .and_then(|vmid| node.holders.iter().find(|h| h.vmid == vmid));
    if object.key.kind == GuestKind::PhoenixTemplate {
        return Vec::new();
    }
    if object.guest_type() == GuestType::Qemu {
        if !holds_share(object, running) {
            return Vec::new();
        }
        let cards = node
            .cards
            .values()
            .filter(|card| holder.is_some_and(|h| node.holds(h, card)));
        return cards.map(|card| own(card, None, true, true)).collect();
    }
    let asks = wishes(object);
    if asks.is_empty() {
        return Vec::new();
    }
    let recorded = held.or(object.status.gpu_devices.as_deref());
    match recorded {
        Some(given) => {
            // What was given back is so once the record says it: whoever starts again has to ask first.
            let held = given.iter().filter(|given| given.released != Some(true));
            let here = held.filter(|given| given.node == name);
            let found = here.filter_map(|given| Some((given, find(given, node)?)));
            found
                .map(|(given, card)| own(card, given.share, given.exclusive == Some(true), false))
                .collect()
        }
        // An earlier release wrote no record; a guest that runs with a card has it all the same.
        None => {
            let has = |card: &&Card| running && holder.is_some_and(|h| node.holds(h, card));
            let ask = asks.first();
            let share = |card: &Card| part(ask?.amount?, card);
            let cards = node.cards.values().filter(has);
            cards
                .map(|card| own(card, share(card), ask.is_some_and(|a| a.exclusive), false))
                .collect()
        }
    }
}

/// What guests that are no object's have of a node's cards: those that run. `ours` are the guests of objects.
pub fn of_strangers(ours: &BTreeSet<Vmid>, cluster: &Cluster, node: &NodeCards) -> Vec<Claim> {
    let mut claims = Vec::new();
    let strangers = node.holders.iter().filter(|holder| !ours.contains(&holder.vmid));
    for holder in strangers.filter(|holder| cluster.runs(Some(holder.vmid))) {
        let machine = holder.sort == GuestType::Qemu;
        let sort = if machine { "machine" } else { "container" };
        for card in node.cards.values().filter(|card| node.holds(holder, card)) {
            claims.push(Claim {
                who: format!("{sort} {} (no object's)", holder.vmid),
                object: false,
                vmid: Some(holder.vmid),
                address: card.address.clone(),
                share: None,
                exclusive: machine,
                machine,
            });
        }
    }
    claims
}
