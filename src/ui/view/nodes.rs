//! Hypervisors, their nodes, and on each node its guests and the GPUs that they name.

use std::collections::BTreeMap;

use crate::desired::{GuestObject, ObjectName};

use super::state::{self, Mark, State};
use super::{Link, Names, Row, Seen, row};

/// A Proxmox cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypervisor {
    /// Its name and state.
    pub link: Link,
    /// Version of Proxmox VE.
    pub version: Option<String>,
    /// Whether it is quorate.
    pub quorate: Option<bool>,
    /// What is going on or wrong.
    pub message: Option<String>,
    /// Its conditions.
    pub marks: Vec<Mark>,
    /// Its nodes; the last one may be [`Node::NOWHERE`].
    pub nodes: Vec<Node>,
}

/// A node with its guests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name; [`Node::NOWHERE`] for guests that are on none yet.
    pub name: String,
    /// online, offline or unknown, as the hypervisor's status says.
    pub status: Option<String>,
    /// GPUs that guests name.
    pub cards: Vec<Card>,
    /// Guests, by name.
    pub guests: Vec<Row>,
}

impl Node {
    /// Name of the place of guests that are on no node yet.
    pub const NOWHERE: &str = "";
}

/// A GPU that guests name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// What guests call it: an index on the node, a resource mapping or an address.
    pub name: String,
    /// Who has or wants it.
    pub holders: Vec<Holder>,
}

/// A guest that names a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The guest.
    pub link: Link,
    /// Model that it serves.
    pub model: Option<String>,
    /// Whether it is attached; else the spec only asks for it.
    pub attached: bool,
}

/// All hypervisors with what is on them. One that guests name and that does not exist is among them.
pub(super) fn hypervisors(seen: &Seen, names: &Names) -> Vec<Hypervisor> {
    let mut guests: BTreeMap<ObjectName, Vec<&GuestObject>> = BTreeMap::new();
    for guest in &seen.guests {
        guests.entry(guest.hypervisor_ref()).or_default().push(guest);
    }
    let mut all: BTreeMap<ObjectName, Hypervisor> = BTreeMap::new();
    for hypervisor in &seen.hypervisors {
        let name = ObjectName::of(hypervisor.as_ref());
        let status = hypervisor.status.clone().unwrap_or_default();
        let current = status.observed_generation == hypervisor.metadata.generation;
        let state = state::state(&status.conditions, current);
        let link = Link {
            id: Some(format!("PhoenixHypervisor/{}/{}", name.namespace, name.name)),
            name: names.label(&name.namespace, &name.name),
            sort: "hypervisor",
            state,
            word: status.phase.clone().unwrap_or_else(|| "Pending".into()),
        };
        let online = status.nodes.iter().flatten();
        let online: BTreeMap<String, String> = online.map(|n| (n.name.clone(), n.status.clone())).collect();
        let shown = Hypervisor {
            link,
            version: status.version,
            quorate: status.quorate,
            message: status.message.filter(|m| !m.is_empty()),
            marks: state::marks(&status.conditions),
            nodes: nodes(online, &guests.remove(&name).unwrap_or_default(), names),
        };
        all.insert(name, shown);
    }
    for (name, guests) in guests {
        let link = Link {
            id: None,
            name: names.label(&name.namespace, &name.name),
            sort: "hypervisor",
            state: State::Unknown,
            word: "not there".into(),
        };
        let missing = Hypervisor {
            link,
            version: None,
            quorate: None,
            message: None,
            marks: Vec::new(),
            nodes: nodes(BTreeMap::new(), &guests, names),
        };
        all.insert(name, missing);
    }
    all.into_values().collect()
}

fn nodes(online: BTreeMap<String, String>, guests: &[&GuestObject], names: &Names) -> Vec<Node> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for (name, status) in online {
        let node = Node {
            name: name.clone(),
            status: Some(status),
            ..Node::default()
        };
        nodes.insert(name, node);
    }
    let mut guests = guests.to_vec();
    guests
        .sort_by(|a, b| (&a.key.namespace, &a.key.name, a.key.kind).cmp(&(&b.key.namespace, &b.key.name, b.key.kind)));
    for guest in guests {
        let given = guest.shared().and_then(|shared| shared.node.clone());
        let name = guest.status.node.clone().or(given).unwrap_or(Node::NOWHERE.into());
        let node = nodes.entry(name.clone()).or_insert_with(|| Node {
            name,
            ..Node::default()
        });
        let row = row(guest, names);
        for (card, attached) in cards(guest) {
            let holder = Holder {
                link: row.link.clone(),
                model: row.model.clone(),
                attached,
            };
            match node.cards.iter_mut().find(|c| c.name == card) {
                Some(card) => card.holders.push(holder),
                None => node.cards.push(Card {
                    name: card,
                    holders: vec![holder],
                }),
            }
        }
        node.guests.push(row);
    }
    // Guests that are nowhere come last.
    let nowhere = nodes.remove(Node::NOWHERE);
    let mut nodes: Vec<Node> = nodes.into_values().chain(nowhere).collect();
    for node in &mut nodes {
        let number = |card: &Card| card.name.parse::<u64>().unwrap_or(u64::MAX);
        node.cards
            .sort_by(|a, b| (number(a), &a.name).cmp(&(number(b), &b.name)));
    }
    nodes
}

/// GPUs of a guest: those that it has, and those that its spec asks for by their index.
fn cards(guest: &GuestObject) -> Vec<(String, bool)> {
    let has = guest.status.gpus.as_deref().unwrap_or_default().split(',');
    let has = has.map(str::trim).filter(|name| !name.is_empty());
    let mut cards: Vec<(String, bool)> = has.map(|name| (name.to_string(), true)).collect();
    let wanted = guest.lxc().and_then(|lxc| lxc.gpus.as_ref()).into_iter().flatten();
    for index in wanted.filter_map(|gpu| gpu.index).map(|index| index.to_string()) {
        if cards.iter().all(|(name, _)| *name != index) {
            cards.push((index, false));
        }
    }
    cards
}
