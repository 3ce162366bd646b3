//! Leaves out of a failing schedule what its failure does not need.

use crate::mishaps::Mishap;
use crate::schedules::Schedule;

/// Runs that are spent on one schedule.
const RUNS: usize = 2000;

/// The smallest schedule near a failing one that `fails`: no mishap can be left out, and none made smaller in the ways
/// that it knows.
pub fn shrink(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Schedule {
    let mut least = schedule.clone();
    let mut runs = 0;
    loop {
        let next = smaller(&least).find(|schedule| {
            runs += 1;
            runs <= RUNS && fails(schedule)
        });
        match next {
            Some(smaller) => least = smaller,
            None => return least,
        }
    }
}

/// The schedules that are a little smaller: first those with a mishap less, the last one first.
fn smaller(schedule: &Schedule) -> impl Iterator<Item = Schedule> {
    let Schedule { lifecycle, mishaps } = schedule;
    let with = |at: usize, put: Vec<Mishap>| {
        let mut mishaps = mishaps.clone();
        mishaps.splice(at..=at, put);
        Schedule { lifecycle, mishaps }
    };
    let without = (0..mishaps.len()).rev().map(move |at| with(at, Vec::new()));
    let less = (0..mishaps.len()).flat_map(move |at| {
        let less = mishaps[at].smaller().into_iter();
        less.map(move |mishap| with(at, vec![mishap]))
    });
    without.chain(less)
}

mod tests {
    use super::*;
    use crate::engine::World;
    use crate::schedules::Usual;
    use crate::story::story;
    use crate::{in_a_runtime, run};

    /// A mistake put in on purpose: whoever sends an order to clone twice has made it.
    fn clones(world: &World) -> usize {
        let log = world.sim().requests();
        log.iter()
            .filter(|r| r.is_write() && r.path.ends_with("/clone"))
            .count()
    }

    #[test]
    fn a_failing_schedule_is_cut_down_to_what_it_needs() {
        let usual = Usual::runs();
        let world = |schedule: &Schedule| {
            let run = || run(schedule.lifecycle, &schedule.mishaps);
            in_a_runtime(run).world
        };
        let fails = |schedule: &Schedule| clones(&world(schedule)) > 1;
        let failing = (0..1000)
            .map(|seed| Schedule::of(seed, &usual))
            .find(|s| s.lifecycle.name == "template and clone from its snapshot" && s.mishaps.len() > 3 && fails(s))
            .unwrap();
        let least = shrink(&failing, fails);
        assert!(fails(&least), "what is left does not fail");
        assert_eq!(least.mishaps.len(), 1, "{:?} of {:?}", least.mishaps, failing.mishaps);
        let story = story(&world(&least), "it was cloned twice");
        let sentences = story
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(sentences.count(), 1, "{story}");
        assert!(story.contains("clone"), "{story}");
        assert!(story.ends_with("end: it was cloned twice"), "{story}");
    }
}
