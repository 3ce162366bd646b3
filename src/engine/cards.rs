//! Graphics cards that objects share: who is given which, and whose model server may start. Which card it is and whether
//! there is room is decided by [`crate::plan::cards`], one object at a time, so that no two are given the same memory.

use std::collections::{BTreeSet, HashMap};

use crate::crd::{GivenGpu, GpuStatus};
use crate::desired::{Desired, GuestObject, Key, ObjectName};
use crate::observed::{Cards, Claim, Inventory};
use crate::plan::cards::{self, MachineWish, Wish};
use crate::pve::gpu::NodeCards;
use crate::reason::{Cause, Reason};

use super::connection::{Connection, Snapshot};
use super::reconcile::Reconcile;
use super::store::Store;
use super::{Engine, lock};

/// What objects were given before their statuses say so, and whose model servers start.
#[derive(Debug, Default)]
pub(super) struct Book {
    given: HashMap<Key, Vec<GivenGpu>>,
    /// What each object had when it was looked at last.
    had: HashMap<Key, Vec<GivenGpu>>,
    /// Objects that were refused a card: somebody else has it.
    refused: BTreeSet<Key>,
    /// Objects whose model servers start, with their cards.
    starting: HashMap<Key, BTreeSet<String>>,
    /// Objects that wait for one of those.
    waiting: BTreeSet<Key>,
}

/// A card for the book: its node and address.
fn name(node: &str, address: &str) -> String {
    format!("{node}/{address}")
}

impl Book {
    /// What an object was given a moment ago.
    fn held(&self, key: &Key) -> Option<&[GivenGpu]> {
        self.given.get(key).map(Vec::as_slice)
    }

    fn note(&mut self, key: &Key, cards: &Cards) {
        match cards {
            Cards::Given(given) => {
                let given = given.iter().map(|given| given.card.clone()).collect();
                self.given.insert(key.clone(), given);
                self.refused.remove(key);
            }
            Cards::Refused(_) => {
                self.given.remove(key);
                self.refused.insert(key.clone());
            }
            Cards::Assumed => {}
        }
    }

    /// A look at an object has ended. Who waits for a card that it gave back, or for the end of its start, is returned.
    pub(super) fn settle(&mut self, key: &Key, object: Option<&GuestObject>) -> BTreeSet<Key> {
        let has: Vec<GivenGpu> = object.and_then(|o| o.status.gpu_devices.clone()).unwrap_or_default();
        if object.is_none() || self.given.get(key).is_some_and(|given| *given == has) {
            self.given.remove(key);
        }
        let had = self.had.remove(key).unwrap_or_default();
        let mut woken = BTreeSet::new();
        if had != has {
            woken.append(&mut self.refused);
        }
        if !has.is_empty() {
            self.had.insert(key.clone(), has);
        }
        let starts = object.is_some_and(cards::is_starting);
        if !starts && self.starting.remove(key).is_some() {
            woken.append(&mut self.waiting);
        }
        if object.is_none() {
            self.refused.remove(key);
            self.waiting.remove(key);
        }
        woken.remove(key);
        woken
    }
}

/// Cards whose node was not looked at: why, where SSH is set; without it indices have to do.
fn not_read(connection: &Connection, node: &str) -> Cards {
    if connection.access.ssh.is_none() {
        return Cards::Assumed;
    }
    let why = connection.why_no_cards(node);
    let message = match why {
        Some(why) => format!("the GPUs of node {node} could not be looked at: {why}"),
        None => format!("the GPUs of node {node} were not looked at yet"),
    };
    Cards::Refused(Cause::new(Reason::GPUsNotRead, message))
}

impl<S: Store> Reconcile<'_, S> {
    /// The cards that the object is given on a node.
    pub(super) fn given_cards(&self, node: &str) -> Cards {
        let here = self.snapshot.cluster.gpus.get(node).filter(|cards| cards.over_ssh);
        let (Some(here), Some(desired)) = (here, self.desired) else {
            return not_read(self.connection, node);
        };
        self.connection.shares.with_cards(|book| {
            let claims = self.claims(book, node, here);
            let cards = self.choose(desired, book, node, here, &claims);
            book.note(&self.object.key, &cards);
            cards
        })
    }

    fn choose(&self, desired: &Desired, book: &Book, node: &str, here: &NodeCards, claims: &[Claim]) -> Cards {
        let (object, status) = (&self.object, &self.object.status);
        if let Some(vm) = desired.vm() {
            let devices = vm.pci.iter().flatten().enumerate().filter_map(|(i, device)| {
                let given = |key: &str, field: &str| {
                    let field = format!("{}.pci[{i}].{field}", object.field_prefix());
                    Some((field, device.get(key)?.clone()))
                };
                given("mapping", "mapping").or_else(|| given("host", "address"))
            });
            let wish = MachineWish {
                devices: &devices.collect::<Vec<_>>(),
                node,
                policy: &desired.cards,
            };
            return match cards::may_start(wish, here, claims) {
                Ok(()) => Cards::Given(Vec::new()),
                Err(cause) => Cards::Refused(cause),
            };
        }
        let recorded = book.held(&object.key).or(status.gpu_devices.as_deref());
        let wanted = desired.lxc().and_then(|lxc| lxc.gpus.as_deref());
        let wish = Wish {
            wanted: wanted.unwrap_or_default(),
            prefix: object.field_prefix(),
            node,
            recorded: recorded.unwrap_or_default(),
            allowed: desired.grants.as_ref().map(|grants| grants.gpus()),
            policy: &desired.cards,
            counts: cards::holds_share(object, self.snapshot.cluster.runs(status.vmid())),
        };
        match cards::choose(wish, here, claims) {
            Ok(given) => Cards::Given(given),
            Err(cause) => Cards::Refused(cause),
        }
    }

    /// What others have of a node's cards.
    fn claims(&self, book: &Book, node: &str, here: &NodeCards) -> Vec<Claim> {
        let own = &self.object;
        let hypervisor = own.hypervisor_ref();
        let (mut claims, mut ours) = (Vec::new(), BTreeSet::new());
        ours.extend(own.status.vmid());
        self.engine.store.look_at_all(&mut |other| {
            if other.key == own.key || other.hypervisor_ref() != hypervisor {
                return;
            }
            ours.extend(other.status.vmid());
            let running = self.snapshot.cluster.runs(other.status.vmid());
            claims.extend(cards::claims(other, book.held(&other.key), running, node, here));
        });
        claims.extend(cards::of_strangers(&ours, &self.snapshot.cluster, here));
        claims
    }

    /// Who starts a model server on one of these cards; `None`: nobody does, and it is this object's turn.
    pub(super) fn card_turn(&self, node: &str, addresses: &[String]) -> Option<String> {
        let own = &self.object.key;
        let wanted: BTreeSet<String> = addresses.iter().map(|address| name(node, address)).collect();
        self.connection.shares.with_cards(|book| {
            let mut others: Vec<String> = Vec::new();
            self.engine.store.look_at_all(&mut |other| {
                if other.key == *own || !cards::is_starting(other) {
                    return;
                }
                let registered = book.starting.get(&other.key);
                let status = &other.status;
                // What began before the engine did is told by statuses.
                let began = || cards::has_server(status) && self.snapshot.cluster.runs(status.vmid());
                let has = || {
                    let cards = status.gpu_devices.iter().flatten();
                    cards
                        .map(|card| name(&card.node, &card.pci_address))
                        .collect::<BTreeSet<_>>()
                };
                let installs = || cards::installs_driver(other).then(|| BTreeSet::from([name(node, cards::INSTALLS)]));
                let cards = registered.cloned().or_else(|| began().then(has)).or_else(installs);
                if cards.is_some_and(|cards| !cards.is_disjoint(&wanted)) {
                    others.push(other.key.to_string());
                }
            });
            others.sort();
            match others.into_iter().next() {
                Some(other) => {
                    book.waiting.insert(own.clone());
                    Some(other)
                }
                None => {
                    book.waiting.remove(own);
                    book.starting.insert(own.clone(), wanted);
                    None
                }
            }
        })
    }
}

impl<S: Store> Engine<S> {
    /// Whether an object of the hypervisor waits for something at its graphics cards.
    pub(super) fn waits_for_cards(&self, hypervisor: &ObjectName) -> bool {
        let mut waits = false;
        for key in self.objects_of(hypervisor) {
            self.store.look_at(&key, &mut |object| waits |= self::waits(object));
        }
        waits
    }

    /// Objects with graphics cards, where these are others than before: what was verified of them counts no more.
    pub(super) fn with_other_cards(
        &self,
        hypervisor: &ObjectName,
        before: Option<&Snapshot>,
        after: Option<&Snapshot>,
    ) -> Vec<Key> {
        let (Some(before), Some(after)) = (before, after) else {
            return Vec::new();
        };
        if !differ(&before.cluster.gpus, &after.cluster.gpus) {
            return Vec::new();
        }
        let mut keys = self.objects_of(hypervisor);
        keys.retain(|key| {
            let mut concerned = false;
            self.store.look_at(key, &mut |object| concerned = concerns(object));
            concerned
        });
        let mut memory = lock(&self.memory);
        for key in &keys {
            memory.verified.remove(key);
        }
        keys
    }

    /// The graphics cards of the nodes for status, with who has them.
    pub(super) fn told_cards(&self, hypervisor: &ObjectName, snapshot: &Snapshot) -> Vec<GpuStatus> {
        let inventory = &snapshot.cluster.gpus;
        if inventory.values().all(|node| node.cards.is_empty()) {
            return Vec::new();
        }
        let (mut objects, mut ours) = (Vec::new(), BTreeSet::new());
        for key in self.objects_of(hypervisor) {
            self.store.look_at(&key, &mut |object| {
                ours.extend(object.status.vmid());
                objects.extend(concerns(object).then(|| object.clone()));
            });
        }
        let cluster = &snapshot.cluster;
        cards::told(inventory, &|name, node| {
            let of = |object: &GuestObject| {
                let running = cluster.runs(object.status.vmid());
                cards::claims(object, None, running, name, node)
            };
            let mut claims: Vec<Claim> = objects.iter().flat_map(of).collect();
            claims.extend(cards::of_strangers(&ours, cluster, node));
            claims
        })
    }
}

/// Whether an object's cards, or why it has none, can be others when the nodes' cards are others.
fn concerns(object: &GuestObject) -> bool {
    let container = object
        .lxc()
        .is_some_and(|guest| guest.gpus.as_ref().is_some_and(|list| !list.is_empty()));
    container
        || object
            .vm()
            .is_some_and(|guest| guest.pci.as_ref().is_some_and(|list| !list.is_empty()))
}

/// Whether the object waits for something at its cards: they are looked at with each poll then.
fn waits(object: &GuestObject) -> bool {
    let reasons = [
        Reason::GPUConflict,
        Reason::GPUFault,
        Reason::GPUNodesMissing,
        Reason::GPUNotFound,
        Reason::GPUsNotRead,
        Reason::DeviceMissing,
    ];
    let mut conditions = object.status.conditions.iter();
    let gpu = conditions.find(|c| c.type_ == "GPUReady" && c.status != "True");
    gpu.is_some_and(|c| reasons.iter().any(|reason| reason.as_str() == c.reason))
}

/// Whether what guests hang on differs: readings of the moment do not count.
fn differ(before: &Inventory, now: &Inventory) -> bool {
    let still = |inventory: &Inventory| -> Inventory {
        let mut inventory = inventory.clone();
        let cards = inventory.values_mut().flat_map(|node| node.cards.values_mut());
        cards.for_each(|card| card.reading = Default::default());
        inventory
    };
    still(before) != still(now)
}
