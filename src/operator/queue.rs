//! What is to be worked on and when. Pure: the time is given.
//!
//! An item is in the queue at most once and never worked on twice at once; items of one lane wait for each other
//! beyond the lane's limit, and lanes take turns, so that a hung hypervisor holds up only its own (promise 8). Within a
//! lane parties take turns, so that what one namespace queues does not starve another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The items of a lane whose time has come, by party.
#[derive(Debug)]
struct Turns<T, P> {
    items: BTreeMap<P, VecDeque<T>>,
    /// Who had the last turn.
    last: Option<P>,
}

impl<T, P: Ord + Clone> Turns<T, P> {
    fn push(&mut self, party: P, item: T) {
        self.items.entry(party).or_default().push_back(item);
    }

    /// The first item of the party after the one served last.
    fn pop(&mut self) -> Option<T> {
        let last = self.last.take();
        let party = next_after(last.as_ref(), || self.items.keys())?.clone();
        let items = self.items.get_mut(&party)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.items.remove(&party);
        }
        self.last = Some(party);
        item
    }
}

impl<T, P> Default for Turns<T, P> {
    fn default() -> Self {
        Turns {
            items: BTreeMap::new(),
            last: None,
        }
    }
}

/// The one after the last, or the first again.
fn next_after<'a, K: Ord + 'a, I: Iterator<Item = &'a K>>(last: Option<&K>, all: impl Fn() -> I) -> Option<&'a K> {
    let after = |key: &&K| last.is_none_or(|last| *key > last);
    all().find(after).or_else(|| all().next())
}

/// A queue of items in lanes, each of which parties share.
#[derive(Debug)]
pub struct Queue<T, L, P> {
    /// Items whose time has not come.
    waiting: BTreeSet<(Instant, T)>,
    when: BTreeMap<T, Instant>,
    /// Items whose time has come, by lane.
    ready: BTreeMap<L, Turns<T, P>>,
    /// The same with the times at which they were wanted.
    ready_items: BTreeMap<T, Instant>,
    /// Items under way, with the time at which they are wanted again.
    running: BTreeMap<T, (L, Option<Instant>)>,
    busy: BTreeMap<L, usize>,
    last: Option<L>,
    /// For how long the item that was taken last had waited for room.
    waited: Duration,
}

impl<T, L, P> Default for Queue<T, L, P> {
    fn default() -> Self {
        Queue {
            waiting: BTreeSet::new(),
            when: BTreeMap::new(),
            ready: BTreeMap::new(),
            ready_items: BTreeMap::new(),
            running: BTreeMap::new(),
            busy: BTreeMap::new(),
            last: None,
            waited: Duration::ZERO,
        }
    }
}

impl<T: Ord + Clone, L: Ord + Clone, P: Ord + Clone> Queue<T, L, P> {
    /// Wants an item worked on at `at`, or earlier if it already is wanted earlier. An item under way is worked on
    /// again after it is done.
    pub fn add(&mut self, item: T, at: Instant) {
        if let Some((_, again)) = self.running.get_mut(&item) {
            *again = Some(again.map_or(at, |known| known.min(at)));
            return;
        }
        if self.ready_items.contains_key(&item) {
            return;
        }
        match self.when.get(&item) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.waiting.remove(&(*known, item.clone()));
            }
            None => {}
        }
        self.when.insert(item.clone(), at);
        self.waiting.insert((at, item));
    }

    /// Takes an item whose time has come and whose lane has room.
    pub fn pop(&mut self, now: Instant, place_of: impl Fn(&T) -> (L, P), limit: impl Fn(&L) -> usize) -> Option<T> {
        while let Some((at, _)) = self.waiting.first()
            && *at <= now
            && let Some((at, item)) = self.waiting.pop_first()
        {
            self.when.remove(&item);
            self.ready_items.insert(item.clone(), at);
            let (lane, party) = place_of(&item);
            self.ready.entry(lane).or_default().push(party, item);
        }
        let lane = self.next_lane(limit)?;
        let lane_items = self.ready.get_mut(&lane)?;
        let item = lane_items.pop()?;
        if lane_items.items.is_empty() {
            self.ready.remove(&lane);
        }
        let wanted = self.ready_items.remove(&item).unwrap_or(now);
        self.waited = now.saturating_duration_since(wanted);
        *self.busy.entry(lane.clone()).or_default() += 1;
        self.running.insert(item.clone(), (lane.clone(), None));
        self.last = Some(lane);
        Some(item)
    }

    /// The lane after the one served last that has an item and room.
    fn next_lane(&self, limit: impl Fn(&L) -> usize) -> Option<L> {
        let has_room = |lane: &&L| self.busy.get(*lane).copied().unwrap_or_default() < limit(lane);
        next_after(self.last.as_ref(), || self.ready.keys().filter(has_room)).cloned()
    }

    /// An item is done, and wanted again at `next` (if at all).
    pub fn done(&mut self, item: &T, next: Option<Instant>) {
        let Some((lane, again)) = self.running.remove(item) else {
            return;
        };
        if let Some(count) = self.busy.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&lane);
            }
        }
        if let Some(at) = again.into_iter().chain(next).min() {
            self.add(item.clone(), at);
        }
    }

    /// When the next item's time comes.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Items whose time has come and that wait for room.
    pub fn backlog(&self) -> usize {
        self.ready_items.len()
    }

    /// For how long the item that was taken last had waited for room.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Items under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(item: &u32) -> u32 {
        item / 100
    }

    /// Items of a lane belong to the party of their tens.
    fn pop(queue: &mut Queue<u32, u32, u32>, now: Instant) -> Option<u32> {
        queue.pop(now, |item| (lane(item), item / 10), |_| 2)
    }

    #[test]
    fn parties_of_a_lane_take_turns() {
        let start = Instant::now();
        let mut queue = Queue::default();
        // One namespace has queued hundreds, each of which wants to be worked on again at once; then others come.
        for item in 0..300u32 {
            queue.add(item, start);
        }
        fn place(item: &u32) -> (u8, u32) {
            (0, if *item < 300 { 0 } else { *item })
        }
        let take = |queue: &mut Queue<u32, u8, u32>| {
            let item = queue.pop(start, place, |_| 1).unwrap();
            queue.done(&item, Some(start));
            item
        };
        assert!(take(&mut queue) < 300);
        queue.add(1000, start);
        queue.add(1001, start);
        let taken: Vec<u32> = (0..6).map(|_| take(&mut queue)).collect();
        let times = |item: u32| taken.iter().filter(|i| **i == item).count();
        assert_eq!((times(1000), times(1001)), (2, 2), "{taken:?}");
    }

    #[test]
    fn the_earliest_wish_counts() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut queue = Queue::default();
        queue.add(1, start + 10 * second);
        queue.add(1, start + 2 * second);
        queue.add(1, start + 5 * second);
        assert_eq!(queue.next_due(), Some(start + 2 * second));
        assert_eq!(pop(&mut queue, start + second), None);
        assert_eq!(pop(&mut queue, start + 2 * second), Some(1));
        assert_eq!(pop(&mut queue, start + 20 * second), None);
    }

    #[test]
    fn what_waited_for_room_says_how_long() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut queue = Queue::default();
        for item in 1..=3 {
            queue.add(item, start + second);
        }
        assert_eq!(
            (pop(&mut queue, start + second), queue.waited()),
            (Some(1), Duration::ZERO)
        );
        assert_eq!(
            (pop(&mut queue, start + 3 * second), queue.waited()),
            (Some(2), 2 * second)
        );
        assert_eq!(pop(&mut queue, start + 5 * second), None, "the lane is full");
        queue.done(&1, None);
        assert_eq!(
            (pop(&mut queue, start + 6 * second), queue.waited()),
            (Some(3), 5 * second)
        );
    }

    #[test]
    fn an_item_under_way_runs_again_after_it_is_done() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.add(1, start);
        assert_eq!(pop(&mut queue, start), Some(1));
        queue.add(1, start);
        queue.add(1, start);
        assert_eq!(pop(&mut queue, start), None);
        queue.done(&1, Some(start + Duration::from_secs(60)));
        assert_eq!(pop(&mut queue, start), Some(1));
        queue.done(&1, None);
        assert_eq!((pop(&mut queue, start), queue.next_due()), (None, None));
    }

    #[test]
    fn a_full_lane_holds_up_only_itself() {
        let start = Instant::now();
        let mut queue = Queue::default();
        for item in [1, 2, 3, 4, 100] {
            queue.add(item, start);
        }
        let taken: Vec<u32> = std::iter::from_fn(|| pop(&mut queue, start)).collect();
        assert_eq!(taken, vec![1, 100, 2]);
        assert_eq!(queue.backlog(), 2);
        queue.done(&2, None);
        assert_eq!(pop(&mut queue, start), Some(3));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(u32, u64),
        Pop,
        Done(usize, Option<u64>),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..300, 0u64..20).prop_map(|(item, after)| Op::Add(item, after)),
            Just(Op::Pop),
            (0usize..8, proptest::option::of(0u64..20)).prop_map(|(i, next)| Op::Done(i, next)),
            (0u64..10).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Nothing is worked on twice at once, no lane beyond its limit, and nothing wanted is lost.
        #[test]
        fn nothing_is_doubled_or_lost(ops in proptest::collection::vec(op(), 1..200)) {
            let mut now = Instant::now();
            let mut queue = Queue::default();
            let mut running: Vec<u32> = Vec::new();
            let mut wanted: BTreeSet<u32> = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Add(item, after) => {
                        queue.add(item, now + Duration::from_secs(after));
                        wanted.insert(item);
                    }
                    Op::Pop => if let Some(item) = pop(&mut queue, now) {
                        prop_assert!(!running.contains(&item));
                        prop_assert!(wanted.remove(&item));
                        running.push(item);
                        prop_assert!(running.iter().filter(|i| lane(i) == lane(&item)).count() <= 2);
                    },
                    Op::Done(i, next) => if i < running.len() {
                        let item = running.remove(i);
                        queue.done(&item, next.map(|s| now + Duration::from_secs(s)));
                        if next.is_some() { wanted.insert(item); }
                    },
                    Op::Pass(seconds) => now += Duration::from_secs(seconds),
                }
            }
            for item in running.drain(..) { queue.done(&item, None); }
            now += Duration::from_secs(100);
            while let Some(item) = pop(&mut queue, now) {
                prop_assert!(wanted.remove(&item));
                queue.done(&item, None);
            }
            prop_assert!(wanted.is_empty(), "lost: {:?}", wanted);
        }
    }
}
