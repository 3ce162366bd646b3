//! How long Proxmox's tasks take, learnt from those that ended, so that a task is looked at when it should be done instead
//! of again and again. Pure: the time is given.

use std::collections::HashMap;

use crate::desired::Key;
use crate::proxmox::Upid;

/// Seconds between two looks at a task at most: one that fails early is noticed by then.
const MOST: f64 = 30.0;
/// Seconds between two looks at least.
const LEAST: f64 = 0.3;

/// How much later than its end a task may be looked at: a part of its time, and of a short one so many seconds.
const LATE: f64 = 0.04;
const LATE_SECONDS: f64 = 2.0 * LEAST;

/// Tasks that are followed, and how long others of their sort took. Times are seconds of the engine's clock.
#[derive(Debug, Default)]
pub struct Durations {
    /// By type of the task and node.
    usual: HashMap<(String, String), Usual>,
    /// By object.
    seen: HashMap<Key, Seen>,
}

/// Between which times tasks of a sort end: at the earlier one they still ran, at the later one they had ended.
#[derive(Debug)]
struct Usual {
    ran: f64,
    took: f64,
}

impl Usual {
    /// When to look at a task that has run for so long: in the middle first, as long as it is not known well.
    fn next(&self, elapsed: f64) -> Option<f64> {
        let middle = (self.ran + self.took) / 2.0;
        let known = self.took - self.ran <= (self.took * LATE).max(LATE_SECONDS);
        [middle, self.took]
            .into_iter()
            .skip(usize::from(known))
            .find(|at| *at > elapsed)
    }
}

/// A task that is followed: when it was first seen, and for how long it had run when it was last seen running.
#[derive(Debug)]
struct Seen {
    upid: Upid,
    began: f64,
    ran: f64,
}

impl Durations {
    /// Seconds until the object's task is to be looked at.
    pub fn next_look(&mut self, key: &Key, upid: &Upid, now: f64) -> f64 {
        let began = match self.seen.get(key) {
            Some(seen) if seen.upid == *upid => seen.began,
            _ => now,
        };
        let elapsed = now - began;
        let (upid, ran) = (upid.clone(), elapsed);
        let usual = self.usual.get(&sort(&upid));
        self.seen.insert(key.clone(), Seen { upid, began, ran });
        let wait = match usual {
            // Where there is no such time, it takes longer than others.
            Some(usual) => usual.next(elapsed).map_or(elapsed * 0.1, |at| at - elapsed),
            None => elapsed * 0.15,
        };
        wait.clamp(LEAST, MOST)
    }

    /// The object's task ended well: what it took is usual from now on. What is shorter counts at once, what is longer
    /// little by little.
    pub fn ended(&mut self, key: &Key, upid: &Upid, now: f64) {
        let Some(seen) = self.seen.remove(key).filter(|seen| seen.upid == *upid) else {
            return;
        };
        let took = now - seen.began;
        let usual = self.usual.entry(sort(upid)).or_insert(Usual { ran: seen.ran, took });
        usual.took = took.min(usual.took * 1.1);
        // Whether others still run then is tried again now and then.
        usual.ran = seen.ran.max(usual.ran * 0.98).min(usual.took);
    }

    /// The object's task is of no interest any more.
    pub fn forget(&mut self, key: &Key) {
        self.seen.remove(key);
    }
}

/// Tasks that take about as long as each other.
fn sort(upid: &Upid) -> (String, String) {
    (upid.kind.clone(), upid.node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::GuestKind;

    fn task(n: u32) -> (Key, Upid) {
        let upid = format!("UPID:pve:0000{n:04X}:00000000:65000000:vzclone:100:root@pam:");
        let key = Key::new(GuestKind::PhoenixLXC, "ai", &format!("g{n}"));
        (key, upid.parse().unwrap())
    }

    /// Looks until the task ends after `takes` seconds: how often, and how long after its end it was seen.
    fn follow(durations: &mut Durations, n: u32, takes: f64) -> (usize, f64) {
        let (key, upid) = task(n);
        let (mut now, mut looks) = (1000.0 * f64::from(n), 0);
        let end = now + takes;
        loop {
            now += durations.next_look(&key, &upid, now);
            looks += 1;
            if now >= end {
                durations.ended(&key, &upid, now);
                return (looks, now - end);
            }
        }
    }

    #[test]
    fn tasks_that_take_the_same_are_looked_at_when_they_end() {
        let mut durations = Durations::default();
        let (first, _) = follow(&mut durations, 1, 20.0);
        assert!((5..25).contains(&first), "{first} looks");
        let (mut looks, mut late) = (0, 0.0);
        for n in 2..12 {
            let (seen, after) = follow(&mut durations, n, 20.0);
            (looks, late) = (looks + seen, late + after);
        }
        assert!(looks <= 20, "{looks} looks at ten tasks");
        assert!(late < 20.0 * 10.0 * 0.15, "ten ends were seen {late} s late together");
    }

    #[test]
    fn a_task_that_takes_longer_is_followed_and_one_that_takes_less_is_learnt() {
        let mut durations = Durations::default();
        follow(&mut durations, 1, 1.0);
        let (looks, late) = follow(&mut durations, 2, 600.0);
        assert!(looks < 80 && late <= MOST, "{looks} looks, {late} s late");
        follow(&mut durations, 3, 1.0);
        let (looks, late) = follow(&mut durations, 4, 1.0);
        assert!(looks <= 3 && late < 1.0, "{looks} looks, {late} s late");
    }

    #[test]
    fn what_is_followed_no_more_teaches_nothing() {
        let mut durations = Durations::default();
        let (key, upid) = task(1);
        durations.next_look(&key, &upid, 0.0);
        durations.forget(&key);
        durations.ended(&key, &upid, 5.0);
        assert!(durations.usual.is_empty() && durations.seen.is_empty());
    }
}
