//! Probes of several guests as one program for a node: one channel, a bounded number at a time, each answer as soon as it
//! is there. A guest that hangs keeps one place for the time of its own deadline and holds up nobody else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::pve::Vmid;

use super::answer::ProbeAnswer;
use super::command::{Command, quote};
use super::runner::{self, Layout};

const PROBES: &str = include_str!("probes.sh");

/// First line of the program.
pub const HEADER: &str = "# phoenix-node: probes";
/// Probes of one program that run at a time.
pub const AT_A_TIME: usize = 8;
/// Seconds that a guest gets beyond the probe's own deadline to let the probe in and out.
pub const SLACK: u64 = 10;

/// A probe of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestProbe {
    /// The container.
    pub vmid: Vmid,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its deadline in seconds.
    pub seconds: u64,
}

/// The program that carries out the probes; answers are numbered in their order. What each asks for stands in comments as
/// well, so that it can be read without running it.
pub fn batch(probes: &[GuestProbe], layout: &Layout) -> Command {
    let mut text = format!("{HEADER}\n");
    for (n, probe) in probes.iter().enumerate() {
        let command = BASE64.encode(probe.argv.join(" "));
        text.push_str(&format!(
            "# probe {n} vmid={} seconds={} command={command}\n",
            probe.vmid, probe.seconds
        ));
    }
    text.push_str(&format!(
        "PHOENIX_AT_A_TIME={AT_A_TIME}\n{PROBES}\nphoenix_runner=$(cat <<'PHOENIX_RUNNER'\n{}PHOENIX_RUNNER\n)\n\
         phoenix_all() {{\nphoenix_places\n",
        runner::RUNNER
    ));
    for (n, probe) in probes.iter().enumerate() {
        let (settings, call) = runner::probe_parts(&probe.argv, probe.seconds, layout);
        text.push_str(&format!(
            "phoenix_ask {n} {} {} {} {}\n",
            probe.vmid,
            probe.seconds.max(1),
            quote(&settings),
            quote(&call)
        ));
    }
    text.push_str("wait\n}\n\nphoenix_all\n");
    Command::new(["/bin/sh", "-s"]).with_stdin(text)
}

/// What came of one probe of a [`batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchAnswer {
    /// The guest ran it.
    Ran(ProbeAnswer),
    /// The guest let nobody in in time.
    Late,
    /// The guest could not be entered, in its own words.
    NotRun(String),
}

/// Reads a line of a batch's output: the probe's number and its answer. Other lines are none.
pub fn answer(line: &str) -> Option<(usize, BatchAnswer)> {
    let (number, encoded) = line.strip_prefix("probe=")?.split_once(" answer=")?;
    let text = String::from_utf8_lossy(&BASE64.decode(encoded.trim()).ok()?).into_owned();
    let (said, code) = text.trim_end().rsplit_once("code=").unwrap_or((&text, ""));
    let answer = match ProbeAnswer::parse(said) {
        Ok(answer) => BatchAnswer::Ran(answer),
        Err(_) if matches!(code, "124" | "137") => BatchAnswer::Late,
        Err(error) => BatchAnswer::NotRun(match said.trim() {
            "" => error.to_string(),
            said => said.to_owned(),
        }),
    };
    Some((number.parse().ok()?, answer))
}

/// Collects a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Takes in more bytes; the lines that are complete now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = self.0.split_off(end + 1);
        let whole = std::mem::replace(&mut self.0, rest);
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}
