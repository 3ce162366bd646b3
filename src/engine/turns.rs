//! Who comes next where objects of several namespaces share something of a hypervisor's: the places for Proxmox tasks
//! on a node, and clones of one source. What one namespace asks for never starves another; within a namespace who came
//! first is first. Pure: the time is given.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::desired::Key;
use crate::observed::ClonePlace;

/// An object that does not ask for so long waits no more: it was deleted, or waits for something else. Who waits is woken
/// when it is its turn, and asks every few minutes besides.
const KEEPS: Duration = Duration::from_secs(660);

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

/// An object that waits for its turn.
#[derive(Debug)]
struct Waiter {
    key: Key,
    /// When it last asked.
    asked: Instant,
    /// Seconds that what waits for it takes.
    behind: u64,
}

/// The places for Proxmox tasks on one node.
#[derive(Debug, Default)]
pub struct Places {
    held: Vec<Key>,
    /// In the order in which they came.
    waiting: Vec<Waiter>,
    served: Served,
}

impl Places {
    /// Takes a place, of which there are `limit`; `false`: there is none, or it is somebody else's turn. What waits for
    /// the object takes `behind` seconds.
    pub fn claim(&mut self, key: &Key, behind: u64, limit: usize, now: Instant) -> bool {
        if self.held.contains(key) {
            return true;
        }
        keep(&mut self.waiting, key, behind, now);
        if !self.next(limit).contains(key) {
            return false;
        }
        self.hold(key);
        self.served.serve(&key.namespace);
        true
    }

    /// Those whose turn it is, as many as there are free places: of the namespace that holds least, that had its last turn
    /// longest ago, behind which most is to be done, and who came first.
    pub fn next(&self, limit: usize) -> Vec<Key> {
        let mut free = limit.saturating_sub(self.held.len());
        if free == 0 {
            return Vec::new();
        }
        let mut holds: HashMap<&str, usize> = HashMap::new();
        for key in &self.held {
            *holds.entry(&key.namespace).or_default() += 1;
        }
        let mut waiting: Vec<&Waiter> = self.waiting.iter().collect();
        let mut next = Vec::new();
        while free > 0 && !waiting.is_empty() {
            let rank = |waiter: &Waiter| {
                let namespace = &waiter.key.namespace;
                let holds = holds.get(namespace.as_str()).copied().unwrap_or_default();
                (holds, self.served.last(namespace), Reverse(waiter.behind))
            };
            let Some(first) = (0..waiting.len()).min_by_key(|n| (rank(waiting[*n]), *n)) else {
                break;
            };
            let key = &waiting.remove(first).key;
            *holds.entry(&key.namespace).or_default() += 1;
            next.push(key.clone());
            free -= 1;
        }
        next
    }

    /// Notes a task that is under way already.
    pub fn hold(&mut self, key: &Key) {
        self.waiting.retain(|waiter| waiter.key != *key);
        if !self.held.contains(key) {
            self.held.push(key.clone());
        }
    }

    /// Gives the place back, or stops to wait for one; whether there was one.
    pub fn release(&mut self, key: &Key) -> bool {
        let before = self.held.len() + self.waiting.len();
        self.held.retain(|k| k != key);
        self.waiting.retain(|waiter| waiter.key != *key);
        self.held.len() + self.waiting.len() < before
    }

    /// Whether the object waits for a place.
    pub fn waits(&self, key: &Key) -> bool {
        self.waiting.iter().any(|waiter| waiter.key == *key)
    }

    /// Gives a place back that the object holds and does not need now; whether it held one.
    pub fn rests(&mut self, key: &Key) -> bool {
        let before = self.held.len();
        self.held.retain(|k| k != key);
        self.held.len() < before
    }

    /// Who waits since before `since` without having asked again waits for something else.
    pub fn waits_no_more(&mut self, key: &Key, since: Instant) -> bool {
        let before = self.waiting.len();
        self.waiting
            .retain(|waiter| waiter.key != *key || waiter.asked >= since);
        self.waiting.len() < before
    }
}

/// Notes that the object asks, and forgets those that have not asked for long.
fn keep(waiting: &mut Vec<Waiter>, key: &Key, behind: u64, now: Instant) {
    waiting.retain(|waiter| waiter.key == *key || now.saturating_duration_since(waiter.asked) < KEEPS);
    match waiting.iter_mut().find(|waiter| waiter.key == *key) {
        Some(waiter) => (waiter.asked, waiter.behind) = (now, behind),
        None => waiting.push(Waiter {
            key: key.clone(),
            asked: now,
            behind,
        }),
    }
}

/// Objects that wait for a clone of one source.
#[derive(Debug, Default)]
pub struct CloneQueue {
    /// In the order in which they came.
    waiting: Vec<Waiter>,
    /// Whose clone is being made.
    making: Option<Key>,
    /// When somebody asked first.
    opened: Option<Instant>,
    served: Served,
}

impl CloneQueue {
    /// The object's place; it keeps it by asking again. What waits for this one takes `behind` seconds.
    pub fn ask(&mut self, key: &Key, behind: u64, now: Instant) -> ClonePlace {
        if self.making.as_ref() == Some(key) {
            self.making = None;
        }
        self.opened.get_or_insert(now);
        keep(&mut self.waiting, key, behind, now);
        self.place(key)
    }

    /// The place of an object that has asked.
    pub fn place(&self, key: &Key) -> ClonePlace {
        let order: Vec<Key> = self.making.iter().cloned().chain(self.order()).collect();
        ClonePlace {
            position: order.iter().position(|other| other == key).unwrap_or(0) + 1,
            of: order.len(),
            first: order.first().map(Key::to_string).unwrap_or_default(),
            soon: false,
        }
    }

    /// Whether it is less than a moment ago that somebody asked first: others may be about to ask.
    pub fn is_new(&self, moment: Duration, now: Instant) -> bool {
        let since = |opened| now.saturating_duration_since(opened);
        self.opened.is_some_and(|opened| since(opened) < moment)
    }

    /// Namespaces in turn: the first of each, then the second of each. Within a namespace those come first behind which
    /// most is to be done.
    fn order(&self) -> Vec<Key> {
        let mut came: Vec<(usize, &Waiter)> = self.waiting.iter().enumerate().collect();
        came.sort_by_key(|(n, waiter)| (Reverse(waiter.behind), *n));
        let mut before: HashMap<&str, usize> = HashMap::new();
        let ranked = came.into_iter().map(|(came, Waiter { key, behind, .. })| {
            let nth = before.entry(key.namespace.as_str()).or_default();
            let rank = (*nth, self.served.last(&key.namespace), Reverse(*behind), came);
            *nth += 1;
            (rank, key.clone())
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, key)| key).collect()
    }

    /// Whether it is the object's turn to clone, which nobody else does until it ends: of those that ask at the same time
    /// the first one begins, since two would meet the source's lock.
    pub fn begins(&mut self, key: &Key) -> bool {
        let begins = self.clones(key) || self.next().as_ref() == Some(key);
        if begins {
            self.making(key);
        }
        begins
    }

    /// The object's clone is being made: it is nobody else's turn until it ends.
    pub fn making(&mut self, key: &Key) {
        self.leave(key);
        self.making = Some(key.clone());
    }

    /// Whether a clone is being made.
    pub fn is_busy(&self) -> bool {
        self.making.is_some()
    }

    /// The object waits no more, and no clone is being made for it.
    pub fn leave(&mut self, key: &Key) {
        let waited = self.waiting.len();
        self.waiting.retain(|waiter| waiter.key != *key);
        if self.waiting.len() < waited {
            self.served.serve(&key.namespace);
        }
        if self.making.as_ref() == Some(key) {
            self.making = None;
        }
    }

    /// Whether the object's clone is being made.
    pub fn clones(&self, key: &Key) -> bool {
        self.making.as_ref() == Some(key)
    }

    /// Whether the object waits.
    pub fn waits(&self, key: &Key) -> bool {
        self.asked(key).is_some()
    }

    /// When the object asked last, where it waits.
    pub fn asked(&self, key: &Key) -> Option<Instant> {
        self.waiting
            .iter()
            .find(|waiter| waiter.key == *key)
            .map(|waiter| waiter.asked)
    }

    /// Whose turn it is; nobody's while a clone is being made.
    pub fn next(&self) -> Option<Key> {
        match self.making {
            Some(_) => None,
            None => self.order().into_iter().next(),
        }
    }

    /// Whether nobody waits or clones.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.making.is_none()
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
            places.claim(k, 0, 2, now);
        }
        assert_eq!(places.held, crowd[..2], "one namespace alone takes all");
        let one = key("one", 0);
        assert!(!places.claim(&one, 0, 2, now));
        places.release(&crowd[0]);
        // All of the crowd ask before the other does.
        assert!(crowd[2..].iter().all(|k| !places.claim(k, 0, 2, now)));
        assert!(places.claim(&one, 0, 2, now));
        assert!(places.claim(&one, 0, 2, now), "who holds a place keeps it");
        places.release(&one);
        assert!(places.claim(&crowd[2], 0, 2, now));
    }

    #[test]
    fn a_free_place_is_for_whom_most_waits() {
        let now = Instant::now();
        let mut places = Places::default();
        assert!(places.claim(&key("one", 0), 0, 1, now));
        for (n, behind) in [(1, 2), (2, 90), (3, 2)] {
            assert!(!places.claim(&key("one", n), behind, 1, now));
        }
        places.release(&key("one", 0));
        assert_eq!(places.next(1), [key("one", 2)]);
        assert!(!places.claim(&key("one", 1), 2, 1, now) && places.claim(&key("one", 2), 90, 1, now));
    }

    #[test]
    fn who_stopped_asking_holds_nobody_up() {
        let now = Instant::now();
        let mut places = Places::default();
        assert!(places.claim(&key("crowd", 0), 0, 1, now));
        assert!(!places.claim(&key("gone", 0), 0, 1, now));
        places.release(&key("crowd", 0));
        assert!(!places.claim(&key("crowd", 1), 0, 1, now));
        assert!(places.claim(&key("crowd", 1), 0, 1, now + KEEPS));
    }

    #[test]
    fn a_free_place_is_not_kept_for_somebody_who_has_room() {
        let now = Instant::now();
        let mut places = Places::default();
        assert!(places.claim(&key("crowd", 0), 0, 1, now));
        assert!(!places.claim(&key("one", 0), 0, 1, now));
        // Two more places: one for each.
        assert!(places.claim(&key("crowd", 1), 0, 3, now));
        assert!(places.claim(&key("one", 0), 0, 3, now));
    }

    /// Whose turn it is may change as long as nobody clones; who clones is not disturbed.
    #[test]
    fn of_those_that_ask_at_once_one_begins() {
        let now = Instant::now();
        let mut queue = CloneQueue::default();
        queue.ask(&key("crowd", 0), 0, now);
        queue.leave(&key("crowd", 0));
        assert_eq!(queue.ask(&key("crowd", 1), 0, now).position, 1);
        assert_eq!(
            queue.ask(&key("one", 0), 0, now).position,
            1,
            "its namespace had no turn yet"
        );
        assert!(!queue.begins(&key("crowd", 1)));
        assert_eq!(queue.place(&key("crowd", 1)).position, 2);
        assert!(queue.begins(&key("one", 0)) && queue.begins(&key("one", 0)));
        assert_eq!(
            queue.ask(&key("crowd", 2), 9, now).position,
            2,
            "behind the clone that is made"
        );
        assert!(!queue.begins(&key("crowd", 1)) && !queue.begins(&key("crowd", 2)));
        queue.leave(&key("one", 0));
        assert!(!queue.begins(&key("crowd", 1)) && queue.begins(&key("crowd", 2)));
    }

    #[test]
    fn clones_go_in_turn_and_the_first_stays_first() {
        let now = Instant::now();
        let mut queue = CloneQueue::default();
        for n in 0..3 {
            queue.ask(&key("crowd", n), 0, now);
        }
        let one = key("one", 0);
        assert_eq!(
            queue.ask(&one, 0, now).position,
            2,
            "behind the one that was told to be first"
        );
        let mut order = Vec::new();
        while let Some(head) = queue.order().first().cloned() {
            assert_eq!(queue.ask(&head, 0, now).position, 1);
            queue.leave(&head);
            order.push(head);
        }
        assert_eq!(order, [key("crowd", 0), one, key("crowd", 1), key("crowd", 2)]);
        // Namespaces that go on asking alternate.
        for n in 0..4 {
            queue.ask(&key("crowd", n), 0, now);
        }
        let served: Vec<String> = (0..4)
            .map(|n| {
                queue.ask(&key("one", n), 0, now);
                let head = queue.order()[0].clone();
                queue.leave(&head);
                head.namespace
            })
            .collect();
        assert_eq!(served.iter().filter(|n| *n == "one").count(), 2, "{served:?}");
    }

    #[test]
    fn who_came_later_waits_behind_those_of_its_namespace() {
        let now = Instant::now();
        let mut places = Places::default();
        assert!(places.claim(&key("one", 0), 0, 1, now));
        assert!(!places.claim(&key("one", 1), 0, 1, now));
        assert!(places.release(&key("one", 0)));
        assert_eq!(places.next(1), [key("one", 1)], "who is to be woken");
        assert!(!places.claim(&key("one", 2), 0, 1, now));
        assert!(places.claim(&key("one", 1), 0, 1, now));
        // It waits for something else now.
        assert!(!places.waits_no_more(&key("one", 2), now));
        assert!(places.waits_no_more(&key("one", 2), now + KEEPS));
        assert!(places.release(&key("one", 1)) && places.next(1).is_empty());
    }

    #[test]
    fn nobody_is_first_while_a_clone_is_made() {
        let now = Instant::now();
        let mut queue = CloneQueue::default();
        for n in 0..3 {
            queue.ask(&key("one", n), 0, now);
        }
        assert!(queue.begins(&key("one", 0)));
        assert_eq!(queue.next(), None);
        let place = queue.ask(&key("one", 1), 0, now);
        assert_eq!((place.position, place.of), (2, 3));
        assert!(place.first.ends_with("g0"), "{place:?}");
        queue.leave(&key("one", 0));
        assert_eq!(queue.next(), Some(key("one", 1)));
        // A clone that did not come about: whoever asked for it asks again, behind the others.
        assert!(queue.begins(&key("one", 1)));
        assert_eq!(queue.ask(&key("one", 1), 0, now).position, 2);
        assert_eq!(queue.next(), Some(key("one", 2)));
        for n in [2, 1] {
            assert!(queue.begins(&key("one", n)));
            queue.leave(&key("one", n));
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn behind_what_most_is_to_be_done_is_cloned_first() {
        let now = Instant::now();
        let mut queue = CloneQueue::default();
        queue.ask(&key("one", 0), 0, now);
        queue.ask(&key("one", 1), 0, now);
        queue.ask(&key("one", 2), 3, now);
        queue.ask(&key("two", 0), 0, now);
        let mut order = Vec::new();
        while let Some(next) = queue.next() {
            assert!(queue.begins(&next));
            queue.leave(&next);
            order.push(next);
        }
        // Each namespace in turn.
        assert_eq!(order, [key("one", 2), key("two", 0), key("one", 0), key("one", 1)]);
    }
}
