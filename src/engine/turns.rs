//! Who comes next where objects of several namespaces share something of a hypervisor's: the places for Proxmox tasks
//! on a node, and clones of one source. What one namespace asks for never starves another; within a namespace who came
//! first is first. Pure: the time is given.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::desired::Key;
use crate::observed::ClonePlace;

/// An object that does not ask for so long waits no more for a place: it was deleted, or waits for something else.
const PLACE_KEEPS: Duration = Duration::from_secs(10);
/// The same of the queue for clones.
const CLONE_QUEUE_KEEPS: Duration = Duration::from_secs(30);

/// Counts turns, by namespace.
#[derive(Debug, Default)]
struct Served {
    turns: u64,
    last: HashMap<String, u64>,
}

impl Served {
    fn serve(&mut self, namespace: &str) {
        self.turns += 1;
        self.last.insert(namespace.to_string(), self.turns);
    }

    /// The number of the namespace's last turn; 0 before the first.
    fn last(&self, namespace: &str) -> u64 {
        self.last.get(namespace).copied().unwrap_or_default()
    }
}

/// The places for Proxmox tasks on one node.
#[derive(Debug, Default)]
pub struct Places {
    held: Vec<Key>,
    waiting: HashMap<Key, Instant>,
    served: Served,
}

impl Places {
    /// Takes a place, of which there are `limit`; `false`: there is none, or another namespace's turn comes first.
    pub fn claim(&mut self, key: &Key, limit: usize, now: Instant) -> bool {
        if self.held.contains(key) {
            return true;
        }
        self.waiting
            .retain(|_, asked| now.saturating_duration_since(*asked) < PLACE_KEEPS);
        let free = limit.saturating_sub(self.held.len());
        let rank = |namespace: &str| {
            let holds = self.held.iter().filter(|k| k.namespace == namespace).count();
            (holds, self.served.last(namespace))
        };
        let mine = rank(&key.namespace);
        let first = self
            .waiting
            .keys()
            .filter(|k| k.namespace != key.namespace && rank(&k.namespace) < mine);
        if first.count() >= free {
            self.waiting.insert(key.clone(), now);
            return false;
        }
        self.waiting.remove(key);
        self.hold(key);
        self.served.serve(&key.namespace);
        true
    }

    /// Notes a task that is under way already.
    pub fn hold(&mut self, key: &Key) {
        if !self.held.contains(key) {
            self.held.push(key.clone());
        }
    }

    /// Gives the place back.
    pub fn release(&mut self, key: &Key) {
        self.held.retain(|k| k != key);
        self.waiting.remove(key);
    }
}

/// Objects that wait for a clone of one source.
#[derive(Debug, Default)]
pub struct CloneQueue {
    /// In the order in which they came, with when they last asked.
    waiting: Vec<(Key, Instant)>,
    /// Who was told to be first stays so: two that clone at once would meet the source's lock.
    head: Option<Key>,
    served: Served,
}

impl CloneQueue {
    /// The object's place; it keeps it by asking again.
    pub fn ask(&mut self, key: &Key, now: Instant) -> ClonePlace {
        let keeps = |asked: &Instant| now.saturating_duration_since(*asked) < CLONE_QUEUE_KEEPS;
        self.waiting.retain(|(other, asked)| other == key || keeps(asked));
        match self.waiting.iter_mut().find(|(other, _)| other == key) {
            Some((_, asked)) => *asked = now,
            None => self.waiting.push((key.clone(), now)),
        }
        let order = self.order();
        self.head = order.first().cloned();
        ClonePlace {
            position: order.iter().position(|other| other == key).unwrap_or(0) + 1,
            of: order.len(),
            first: order.first().map(Key::to_string).unwrap_or_default(),
        }
    }

    /// Namespaces in turn: the first of each, then the second of each.
    fn order(&self) -> Vec<Key> {
        let mut before: HashMap<&str, usize> = HashMap::new();
        let ranked = self.waiting.iter().enumerate().map(|(came, (key, _))| {
            let nth = before.entry(key.namespace.as_str()).or_default();
            let is_head = self.head.as_ref() == Some(key);
            let rank = (!is_head, *nth, self.served.last(&key.namespace), came);
            *nth += 1;
            (rank, key.clone())
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, key)| key).collect()
    }

    /// The object waits no more.
    pub fn leave(&mut self, key: &Key) {
        let waited = self.waiting.len();
        self.waiting.retain(|(other, _)| other != key);
        if self.waiting.len() < waited {
            self.served.serve(&key.namespace);
        }
        if self.head.as_ref() == Some(key) {
            self.head = None;
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::GuestKind;

    fn key(namespace: &str, n: usize) -> Key {
        Key::new(GuestKind::PhoenixLXC, namespace, &format!("g{n}"))
    }

    #[test]
    fn a_namespace_with_hundreds_leaves_another_its_place() {
        let now = Instant::now();
        let mut places = Places::default();
        let crowd: Vec<Key> = (0..300).map(|n| key("crowd", n)).collect();
        for k in &crowd {
            places.claim(k, 2, now);
        }
        assert_eq!(places.held, crowd[..2], "one namespace alone takes all");
        let one = key("one", 0);
        assert!(!places.claim(&one, 2, now));
        places.release(&crowd[0]);
        // All of the crowd ask before the other does.
        assert!(crowd[2..].iter().all(|k| !places.claim(k, 2, now)));
        assert!(places.claim(&one, 2, now));
        assert!(places.claim(&one, 2, now), "who holds a place keeps it");
        places.release(&one);
        assert!(places.claim(&crowd[2], 2, now));
    }

    #[test]
    fn who_stopped_asking_holds_nobody_up() {
        let now = Instant::now();
        let mut places = Places::default();
        assert!(places.claim(&key("crowd", 0), 1, now));
        assert!(!places.claim(&key("gone", 0), 1, now));
        places.release(&key("crowd", 0));
        assert!(!places.claim(&key("crowd", 1), 1, now));
        assert!(places.claim(&key("crowd", 1), 1, now + PLACE_KEEPS));
    }

    #[test]
    fn a_free_place_is_not_kept_for_somebody_who_has_room() {
        let now = Instant::now();
        let mut places = Places::default();
        assert!(places.claim(&key("crowd", 0), 1, now));
        assert!(!places.claim(&key("one", 0), 1, now));
        // Two more places: one for each.
        assert!(places.claim(&key("crowd", 1), 3, now));
        assert!(places.claim(&key("one", 0), 3, now));
    }

    /// It may have begun to clone; who comes later waits, although it is the other namespace's turn.
    #[test]
    fn who_was_told_to_be_first_stays_so() {
        let now = Instant::now();
        let mut queue = CloneQueue::default();
        queue.ask(&key("crowd", 0), now);
        queue.leave(&key("crowd", 0));
        assert_eq!(queue.ask(&key("crowd", 1), now).position, 1);
        assert_eq!(queue.ask(&key("one", 0), now).position, 2);
        assert_eq!(queue.ask(&key("crowd", 1), now).position, 1);
    }

    #[test]
    fn clones_go_in_turn_and_the_first_stays_first() {
        let now = Instant::now();
        let mut queue = CloneQueue::default();
        for n in 0..3 {
            queue.ask(&key("crowd", n), now);
        }
        let one = key("one", 0);
        assert_eq!(
            queue.ask(&one, now).position,
            2,
            "behind the one that was told to be first"
        );
        let mut order = Vec::new();
        while let Some(head) = queue.order().first().cloned() {
            assert_eq!(queue.ask(&head, now).position, 1);
            queue.leave(&head);
            order.push(head);
        }
        assert_eq!(order, [key("crowd", 0), one, key("crowd", 1), key("crowd", 2)]);
        // Namespaces that go on asking alternate.
        for n in 0..4 {
            queue.ask(&key("crowd", n), now);
        }
        let served: Vec<String> = (0..4)
            .map(|n| {
                queue.ask(&key("one", n), now);
                let head = queue.order()[0].clone();
                queue.leave(&head);
                head.namespace
            })
            .collect();
        assert_eq!(served.iter().filter(|n| *n == "one").count(), 2, "{served:?}");
    }
}
