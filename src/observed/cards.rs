//! Graphics cards: what was asked for, who has which, and what an object was given.

use std::collections::BTreeMap;

use crate::crd::GivenGpu;
use crate::pve::Vmid;
use crate::pve::gpu::NodeCards;
use crate::reason::Cause;

/// The cards of a cluster by node, as they were looked at last.
pub type Inventory = BTreeMap<String, NodeCards>;

/// What an object has of a card.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// Who has it: an object, or a guest that is no object's.
    pub who: String,
    /// Whether it is an object.
    pub object: bool,
    /// The guest.
    pub vmid: Option<Vmid>,
    /// PCI address of the card.
    pub address: String,
    /// Share of its memory; `None`: nobody knows.
    pub share: Option<f64>,
    /// Nobody else may have it.
    pub exclusive: bool,
    /// It is a machine, which takes the card as a whole.
    pub machine: bool,
}

/// A card that an object was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// For status: which card, and what it may use of it.
    pub card: GivenGpu,
    /// Number of the entry of `gpus` that asks for it.
    pub entry: usize,
    /// Its memory in MiB, where that is known.
    pub memory_mib: Option<u64>,
    /// Device nodes that the container needs for it.
    pub nodes: Vec<String>,
    /// Those of them that the node lacks.
    pub missing: Vec<String>,
    /// The driver that it is to be bound to first.
    pub bind: Option<String>,
    /// The node counts otherwise than when the card was chosen: old and new, in words.
    pub reordered: Option<String>,
    /// Why it cannot work.
    pub fault: Option<Fault>,
}

/// A fault of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, as Unix time in seconds; `None`: it holds now.
    pub at: Option<i64>,
    /// What, for people.
    pub words: String,
}

/// What came of an object's wish for cards.
#[derive(Clone, Debug, PartialEq)]
pub enum Cards {
    /// The cards, in the order of the spec.
    Given(Vec<Given>),
    /// Nobody looked at the node itself (no SSH): indices are taken for the numbers of device nodes.
    Assumed,
    /// It cannot have them.
    Refused(Cause),
}
