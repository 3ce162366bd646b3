//! Probes of several containers in one program for the node. It is not executed: its comments say what it asks for,
//! `# probe NUMBER vmid=… seconds=… command=BASE64`, and each guest's model answers, on a line of its own:
//! `probe=NUMBER answer=BASE64`, in which stands what the guest's shell printed and `code=` with its exit code.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Reply;
use super::runner::Program;
use super::state::SshAction;
use crate::simulator::model::State;

/// First line of the program.
pub const HEADER: &str = "# phoenix-node: probes";

/// A recognised program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probes(Vec<Probe>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Probe {
    number: String,
    vmid: u32,
    program: Program,
}

impl Probes {
    /// Recognises the program.
    pub fn parse(stdin: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(stdin).map_err(|_| "standard input is no text")?;
        let comments = text.lines().take_while(|line| line.starts_with('#'));
        let probes: Result<Vec<Probe>, String> = comments
            .filter_map(|line| line.strip_prefix("# probe "))
            .map(|line| Probe::parse(line).ok_or_else(|| format!("{line:?} is no probe")))
            .collect();
        Ok(Self(probes?))
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        let ids: Vec<String> = self.0.iter().map(|probe| probe.vmid.to_string()).collect();
        format!("probes {}", ids.join(" "))
    }

    /// Does it on `node`; a fault meets the probe of its guest.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let mut reply = Reply::default();
        for probe in &self.0 {
            let what = format!("pct exec {}: {}", probe.vmid, probe.program.summary());
            let fault = state.ssh.take_fault(Some(probe.vmid), &what);
            if matches!(fault, Some(SshAction::LoseBefore | SshAction::LoseAfter)) {
                return Reply { cut: true, ..reply };
            }
            let line = format!(
                "probe={} answer={}\n",
                probe.number,
                BASE64.encode(probe.said(state, node, fault.as_ref()))
            );
            match fault {
                Some(SshAction::Delay { ms }) => reply.later.push((state.scaled(ms), line)),
                _ => reply.stdout.push_str(&line),
            }
        }
        reply.later.sort();
        reply
    }
}

impl Probe {
    fn parse(line: &str) -> Option<Self> {
        let (number, fields) = line.split_once(' ')?;
        let (vmid, rest) = fields.strip_prefix("vmid=")?.split_once(' ')?;
        let program = format!("# phoenix-runner: probe {rest}\n");
        Some(Self {
            number: number.to_owned(),
            vmid: vmid.parse().ok()?,
            program: Program::parse(program.as_bytes()).ok()?,
        })
    }

    fn said(&self, state: &mut State, node: &str, fault: Option<&SshAction>) -> String {
        if let Some(SshAction::Refuse { exit, message }) = fault {
            return format!("{message}\n\ncode={exit}\n");
        }
        let running = state.ct(node, self.vmid).is_ok_and(|guest| guest.running.is_some());
        if !running {
            return format!("lxc-attach: {}: Failed to get init pid\n\ncode=1\n", self.vmid);
        }
        let reply = self.program.run(state, self.vmid, fault);
        format!("{}\ncode={}\n", reply.stdout, reply.exit)
    }
}
