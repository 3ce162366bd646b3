//! Raw `lxc.*` lines of a container.

use std::collections::BTreeSet;

use crate::desired::WantedLxc;
use crate::observed::Guest;
use crate::plan::planner::Planner;
use crate::plan::{Announce, Effect, Next, NodeWork, Stage};

impl Planner<'_> {
    /// Raw lines: missing ones are added; those that Phoenix wrote and the spec dropped are removed.
    pub(crate) fn raw_lines(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let what = guest.named();
        let line = |(key, value): &(String, String)| format!("{key} = {value}");
        let wanted: Vec<String> = lxc.raw_lines.iter().map(line).collect();
        let present: BTreeSet<String> = guest.raw_lines.iter().map(line).collect();
        let written: BTreeSet<&String> = self.status.lxc_options.iter().flatten().collect();
        let moved = out_of_order(&wanted, guest);
        let is_added = |line: &&String| !present.contains(*line) || moved.contains(line);
        let add: Vec<String> = wanted.iter().filter(is_added).cloned().collect();
        // A line that was never read back may be in the file all the same.
        let mut remove: Vec<String> = written
            .iter()
            .filter(|l| !wanted.contains(l))
            .map(|l| l.to_string())
            .collect();
        // A key that holds one value only is replaced, not doubled.
        for (key, value) in &guest.raw_lines {
            let replaced = lxc
                .raw_lines
                .iter()
                .any(|(k, v)| k == key && v != value && k == "lxc.apparmor.profile");
            if replaced {
                remove.push(format!("{key} = {value}"));
            }
        }
        remove.extend(moved);
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        if !self.desired.channels.ssh {
            return Err(self.needs_ssh(Stage::Configured, "lxcOptions"));
        }
        self.unlocked(Stage::Configured, guest)?;
        let mut own: Vec<String> = written.into_iter().cloned().collect();
        own.extend(add.iter().filter(|l| !own.contains(l)).cloned().collect::<Vec<_>>());
        let action = format!("write raw lines of {what} (+{} -{})", add.len(), remove.len());
        let effect = Effect::OnNode {
            node: guest.at.node.clone(),
            work: NodeWork::RawLines {
                vmid: guest.at.vmid,
                add,
                remove,
                digest: guest.digest.clone(),
            },
        };
        let next = self.run(Stage::Configured, action, vec![Announce::RawLines(own)], effect);
        self.hold(Stage::Configured, next.apart("lxcOptions"))
    }
}

/// Lines of a list that an empty value sets back: LXC reads them from top to bottom, so that such a line takes with it
/// what stands above. Where they do not stand in the order of the spec, they are written again, at the end. Lines that
/// are missing come after those that are there.
fn out_of_order(wanted: &[String], guest: &Guest) -> Vec<String> {
    let key_of = |line: &str| line.split(" = ").next().unwrap_or_default().to_string();
    let keys = wanted.iter().filter(|line| line.ends_with(" = "));
    let keys: BTreeSet<String> = keys.map(|line| key_of(line)).collect();
    let mut moved = Vec::new();
    for key in keys {
        let wanted: Vec<&String> = wanted.iter().filter(|line| key_of(line) == key).collect();
        let lines = guest.raw_lines.iter().map(|(key, value)| format!("{key} = {value}"));
        let there: Vec<String> = lines.filter(|line| wanted.contains(&line)).collect();
        let missing = wanted.iter().filter(|line| !there.contains(line));
        let then: Vec<&String> = there.iter().chain(missing.copied()).collect();
        let first = then.iter().zip(&wanted).position(|(then, wanted)| then != wanted);
        let after = first.map(|first| &wanted[first..]).unwrap_or_default();
        moved.extend(
            after
                .iter()
                .filter(|line| there.contains(line))
                .map(|line| line.to_string()),
        );
    }
    moved
}
