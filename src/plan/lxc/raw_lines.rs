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
        let add: Vec<String> = wanted.iter().filter(|l| !present.contains(*l)).cloned().collect();
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
