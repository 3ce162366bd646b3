//! Drives the engine as the operator does: each object when it is due or woken, so many at once, and a poll now and then.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use phoenix::desired::{GuestObject, Key, Objects, Ref};
use phoenix::engine::Requeue;
use tokio::time::Instant;

use super::engine::World;

/// Guests worked on at once, as the operator's default.
const AT_ONCE: usize = 16;

/// What others see of an object.
fn face(object: &GuestObject) -> impl PartialEq + use<> {
    let status = &object.status;
    (
        object.is_ready(),
        status.vmid,
        status.node.clone(),
        status.revision.clone(),
    )
}

/// When objects are to be worked on.
#[derive(Default)]
struct Due {
    at: BTreeMap<Key, Instant>,
    order: BTreeSet<(Instant, Key)>,
    under_way: BTreeMap<Key, Option<Instant>>,
}

impl Due {
    fn add(&mut self, key: Key, at: Instant) {
        if let Some(again) = self.under_way.get_mut(&key) {
            *again = Some(again.map_or(at, |known| known.min(at)));
            return;
        }
        if self.at.get(&key).is_some_and(|known| *known <= at) {
            return;
        }
        if let Some(old) = self.at.insert(key.clone(), at) {
            self.order.remove(&(old, key.clone()));
        }
        self.order.insert((at, key));
    }

    fn take(&mut self, now: Instant) -> Option<Key> {
        let first = self.order.first().filter(|(at, _)| *at <= now).cloned()?;
        self.order.remove(&first);
        self.at.remove(&first.1);
        self.under_way.insert(first.1.clone(), None);
        Some(first.1)
    }

    fn done(&mut self, key: &Key, at: Instant) {
        let again = self.under_way.remove(key).flatten();
        self.add(key.clone(), again.map_or(at, |again| again.min(at)));
    }
}

/// Objects that are due at the beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// All of them, as when an operator begins.
    All,
    /// Those that are not Ready, as when somebody has applied them.
    New,
}

/// Works until every object that is due is Ready, and was looked at once, for so long at most; how long it took.
pub async fn drive(world: &World, most: Duration, whom: Whom) -> Option<Duration> {
    drive_telling(world, most, whom, &mut |_, _| {}).await
}

/// As [`drive`]; `told` hears after each look at an object whether it is Ready.
pub async fn drive_telling(
    world: &World,
    most: Duration,
    whom: Whom,
    told: &mut dyn FnMut(&Key, bool),
) -> Option<Duration> {
    let began = Instant::now();
    let mut due = Due::default();
    let mut open = BTreeSet::new();
    let mut guests = world.store.guests();
    guests.retain(|guest| whom == Whom::All || !guest.is_ready());
    for guest in guests {
        due.add(guest.key.clone(), began);
        open.insert(guest.key);
    }
    let mut poll_at = began;
    let mut running = FuturesUnordered::new();
    while !open.is_empty() {
        if began.elapsed() >= most {
            return None;
        }
        if poll_at <= Instant::now() {
            let outcome = world.ask_poll().await;
            poll_at = Instant::now() + outcome.next;
            for key in outcome.changed.clone() {
                due.add(key, Instant::now());
            }
            world.record_poll(outcome);
        }
        let now = Instant::now();
        while running.len() < AT_ONCE
            && let Some(key) = due.take(now)
        {
            running.push(work(world, key));
        }
        let next = due.order.first().map(|(at, _)| *at).filter(|_| running.len() < AT_ONCE);
        let next = next.into_iter().chain([poll_at]).min().unwrap_or(poll_at);
        tokio::select! {
            Some((key, requeue, changed)) = running.next(), if !running.is_empty() => {
                let now = Instant::now();
                due.done(&key, now + requeue.after);
                for woken in requeue.wake {
                    due.add(woken, now);
                }
                if changed {
                    let mut others = Vec::new();
                    let place = Ref::Guest(key.clone());
                    world.store.look_at_index(&mut |index| others.extend(index.referrers(&place).cloned()));
                    others.into_iter().for_each(|other| due.add(other, now));
                }
                let ready = world.store.guest(&key).is_none_or(|object| object.is_ready());
                told(&key, ready);
                if ready { open.remove(&key) } else { open.insert(key) };
            }
            () = tokio::time::sleep_until(next) => {}
        }
    }
    Some(began.elapsed())
}

async fn work(world: &World, key: Key) -> (Key, Requeue, bool) {
    let before = world.store.guest(&key).map(|o| face(&o));
    let requeue = world.reconcile(&key).await;
    let after = world.store.guest(&key).map(|o| face(&o));
    (key, requeue, before != after)
}
