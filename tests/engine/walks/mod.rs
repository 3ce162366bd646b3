//! Walks over specs: from a seed a manifest and edits of it, applied one after another with something going wrong
//! between. After each the guest is as the spec says, or the object says why not; in the end it is as a new object of the
//! last spec would have it. `PHOENIX_WALK` takes the walk of one seed, `PHOENIX_WALKS` says how many are taken.

mod draw;
mod ends;
mod mishaps;
mod run;
mod shrink;
mod words;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use draw::Walk;
use run::{Fault, Report};

/// Walks of `make test`; `make walks` takes more.
const WALKS: u64 = 200;
/// Tests that share them, side by side.
const PARTS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Takes a walk in a runtime of its own, on a clock that nobody else moves.
fn take(walk: &Walk) -> Report {
    let alone = || crate::inprocess::runtime().block_on(run::run(walk));
    catch_unwind(AssertUnwindSafe(alone)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        let faults = vec![Fault { what: "panics", words }];
        Report {
            faults,
            ..Report::default()
        }
    })
}

/// What is wrong with a walk, the shortest that is wrong in the same way, and what it comes to.
fn failure(walk: &Walk, fault: &Fault) -> String {
    let fails = |shorter: &Walk| take(shorter).faults.iter().any(|other| other.what == fault.what);
    let shortest = if std::env::var("PHOENIX_WALK_WHOLE").is_ok() {
        walk.clone()
    } else {
        shrink::shrink(walk, fails)
    };
    let faults = take(&shortest).faults;
    let fault = faults.iter().find(|other| other.what == fault.what).unwrap_or(fault);
    format!("{}: {}\n{}", fault.what, fault.words, shrink::print(&shortest))
}

fn walks(part: u64) {
    let seeds: Vec<u64> = match number("PHOENIX_WALK") {
        Some(seed) if seed % PARTS == part => vec![seed],
        Some(_) => vec![],
        None => (0..number("PHOENIX_WALKS").unwrap_or(WALKS))
            .filter(|seed| seed % PARTS == part)
            .collect(),
    };
    let most = number("PHOENIX_WALK_FAILURES").unwrap_or(3) as usize;
    let (mut failures, mut refused, mut counts) = (Vec::new(), 0, [0; 4]);
    let mut explained: BTreeMap<&str, usize> = BTreeMap::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let begin = std::time::Instant::now();
    for seed in &seeds {
        let walk = Walk::draw(*seed);
        let report = take(&walk);
        refused += walk.refused;
        let came = [walk.steps.len(), report.ready, report.told.len(), report.refused];
        counts = std::array::from_fn(|n| counts[n] + came[n]);
        report
            .explained
            .iter()
            .for_each(|words| *explained.entry(words).or_default() += 1);
        report
            .told
            .iter()
            .for_each(|reason| *reasons.entry(reason.clone()).or_default() += 1);
        if let Some(fault) = report.faults.first() {
            let failure = failure(&walk, fault);
            println!("{failure}\n");
            failures.push(failure);
        }
        if failures.len() == most {
            break;
        }
    }
    let [steps, ready, told, late] = counts;
    println!(
        "{} walks in {:?}, {refused} specs that admission refused; {steps} edits: Ready after {ready}, told why not after \
         {told}, refused then {late}; reasons {reasons:?}; explained differences {explained:#?}",
        seeds.len(),
        begin.elapsed()
    );
    assert!(
        failures.is_empty(),
        "{} walks, the first:\n{}",
        failures.len(),
        failures[0]
    );
}

#[test]
fn walks_over_specs_end_as_new_objects_do() {
    walks(0);
}

#[test]
fn walks_over_specs_end_as_new_objects_do_in_the_other_half() {
    walks(1);
}
