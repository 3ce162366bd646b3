//! What went wrong in a run, in the order in which it did: as plain sentences, and counted by what it met.

use std::sync::atomic::Ordering;

use phoenix::engine::Point;
use phoenix::simulator::ssh::SshAction;
use phoenix::simulator::{FaultKind, Stricken, Struck};

use crate::engine::{Outcome, Passage, World};
use crate::inprocess::BEGIN;

/// Something that went wrong: what was disturbed, in which way, and what a person says of it.
pub struct Accident {
    /// The action, request, task or command that was disturbed, without what tells one guest from another.
    pub step: String,
    /// What went wrong.
    pub fault: &'static str,
    /// Before it took effect, after that, or something between.
    pub position: &'static str,
    sentence: String,
    at: u64,
}

enum Happened<'w> {
    Passed(&'w Passage),
    Struck(&'w Struck),
}

/// Passages and strokes of faults in order.
fn happened<'w>(passages: &'w [Passage], struck: &'w [Struck]) -> Vec<Happened<'w>> {
    let mut rest = struck.iter().enumerate().peekable();
    let mut all = Vec::new();
    for passage in passages {
        while let Some((_, stroke)) = rest.next_if(|(n, _)| *n < passage.struck) {
            all.push(Happened::Struck(stroke));
        }
        all.push(Happened::Passed(passage));
    }
    all.extend(rest.map(|(_, stroke)| Happened::Struck(stroke)));
    all
}

/// All that went wrong, in order.
pub fn accidents(world: &World) -> Vec<Accident> {
    let passages = world.wire.passages.lock().unwrap().clone();
    let struck = world.sim().struck();
    let accident = |happened| match happened {
        Happened::Passed(passage) => trouble(world, passage),
        Happened::Struck(stroke) => Some(stroke_of(stroke)),
    };
    happened(&passages, &struck).into_iter().filter_map(accident).collect()
}

/// The story of a run: what was done and what went wrong, and how it ended.
pub fn story(world: &World, end: &str) -> String {
    let passages = world.wire.passages.lock().unwrap().clone();
    let struck = world.sim().struck();
    let mut lines = Vec::new();
    let mut done: Vec<String> = Vec::new();
    let mut number = 0;
    for happened in happened(&passages, &struck) {
        let accident = match happened {
            Happened::Passed(passage) => match trouble(world, passage) {
                Some(trouble) => trouble,
                None => {
                    done.push(format!("{}: {}", passage.key, passage.what));
                    continue;
                }
            },
            Happened::Struck(stroke) => stroke_of(stroke),
        };
        steps(&mut lines, &mut done);
        number += 1;
        let seconds = accident.at.saturating_sub(BEGIN) as f64 / 1000.0;
        lines.push(format!("{number}. {} ({seconds} s)", accident.sentence));
    }
    steps(&mut lines, &mut done);
    lines.push(format!("end: {end}"));
    lines.join("\n")
}

/// What was done without trouble, in short: what was repeated is said once.
fn steps(lines: &mut Vec<String>, done: &mut Vec<String>) {
    let mut told: Vec<(String, usize)> = Vec::new();
    for step in done.drain(..) {
        match told.iter_mut().find(|(before, _)| *before == step) {
            Some((_, times)) => *times += 1,
            None => told.push((step, 1)),
        }
    }
    lines.extend(told.into_iter().map(|(step, times)| match times {
        1 => format!("   {step}"),
        _ => format!("   {step} ({times} times)"),
    }));
}

/// What went wrong at a point, if anything did.
fn trouble(world: &World, passage: &Passage) -> Option<Accident> {
    let Passage { key, point, what, .. } = passage;
    let (position, when) = match point {
        Point::BeforeEffect => ("before", format!("before '{what}' is sent")),
        Point::AfterEffect => (
            "after",
            format!("after '{what}' was accepted, before its answer is used"),
        ),
        Point::BeforeStatus if what == "status" => ("before", "before its status is written".into()),
        Point::BeforeStatus => ("before", format!("before the object is let go: {what}")),
    };
    let step = match point {
        Point::BeforeStatus if what != "status" => "let go".into(),
        _ => kind_of(what),
    };
    let (fault, sentence) = match passage.outcome {
        Outcome::Passed => return None,
        Outcome::Died => {
            let (fault, lost) = death(world);
            (fault, format!("{key}: the operator dies {when}{lost}"))
        }
        Outcome::Began(name) => (name, format!("{key}: {when}, {name}")),
    };
    Some(Accident {
        step,
        fault,
        position,
        sentence,
        at: passage.at,
    })
}

/// What a death takes along.
fn death(world: &World) -> (&'static str, &'static str) {
    let lost = |flag: &std::sync::atomic::AtomicBool| flag.load(Ordering::SeqCst);
    match (lost(&world.wire.rewinds), lost(&world.wire.forgets)) {
        (_, true) => ("dies, status lost", "; all status is lost"),
        (true, _) => ("dies, write lost", "; the last status write of each object is lost"),
        _ => ("dies", ""),
    }
}

fn stroke_of(stroke: &Struck) -> Accident {
    let (step, fault, position, sentence) = match &stroke.what {
        Stricken::Request { method, path, kind } => {
            let (fault, position, what) = request(kind);
            let step = format!("{method} {}", kind_of(path));
            (step, fault, position, format!("{method} {path}: {what}"))
        }
        Stricken::Task { kind, id, message } => {
            let sentence = format!("the task {kind} of {id} fails: {message}");
            (format!("task {kind}"), "fails", "under way", sentence)
        }
        Stricken::Command { summary, vmid, action } => {
            let (fault, position, what) = command(action);
            let place = vmid.map_or("on the node".to_owned(), |vmid| format!("in guest {vmid}"));
            let sentence = format!("'{summary}' {place}, by SSH: {what}");
            (format!("ssh {}", kind_of(summary)), fault, position, sentence)
        }
    };
    Accident {
        step,
        fault,
        position,
        sentence,
        at: stroke.at,
    }
}

fn request(kind: &FaultKind) -> (&'static str, &'static str, String) {
    match kind {
        FaultKind::Delay { ms } => ("late", "before", format!("takes {ms} ms longer")),
        FaultKind::Status { status, message } => (
            "refused",
            "before",
            format!("nothing is done, and {status} '{message}' comes back"),
        ),
        FaultKind::StatusAfter { status, message } => (
            "answer replaced",
            "after",
            format!("it is done, and {status} '{message}' comes back"),
        ),
        FaultKind::LostRequest => ("lost", "before", "the connection breaks before it is done".into()),
        FaultKind::LostResponse => ("lost", "after", "it is done, and the connection breaks".into()),
    }
}

fn command(action: &SshAction) -> (&'static str, &'static str, String) {
    match action {
        SshAction::LoseBefore => ("lost", "before", "the connection breaks before it is done".into()),
        SshAction::LoseAfter => ("lost", "after", "it is done, and the connection breaks".into()),
        SshAction::Delay { ms } => ("late", "after", format!("its answer comes {ms} ms later")),
        SshAction::Refuse { message, .. } => ("refused", "before", format!("nothing is done: {message}")),
        SshAction::Exit { exit, .. } => ("exit code", "after", format!("it ends with {exit}")),
        SshAction::Last { ms } => ("late", "under way", format!("it takes {ms} ms")),
    }
}

/// A step without what tells one guest, volume or task from another.
fn kind_of(what: &str) -> String {
    let word = |word: &str| match word {
        _ if word.starts_with("UPID") => "{task}".to_owned(),
        // Names and numbers: of guests, disks, sizes, addresses and files.
        _ if word.contains(|c: char| c.is_ascii_digit()) || word.contains(['.', ':']) => "…".to_owned(),
        _ => word.to_owned(),
    };
    let separators = ['/', ' ', ','];
    let mut kind = String::new();
    // What follows a colon are details.
    let mut rest = what.split(": ").next().unwrap_or_default();
    while let Some(at) = rest.find(separators) {
        kind += &word(&rest[..at]);
        kind += &rest[at..=at];
        rest = &rest[at + 1..];
    }
    kind + &word(rest)
}
