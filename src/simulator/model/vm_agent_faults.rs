//! Faults of guest agents, ordered from outside: an agent that never comes up or dies, commands that fail, processes
//! that end otherwise than they would.

use serde::{Deserialize, Serialize};

use crate::simulator::ssh::SshAction;

/// The part of the look-alike's state that belongs to guest agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Faults to come; the first that fits a command is taken.
    #[serde(default)]
    pub faults: Vec<AgentFault>,
}

/// Something that goes wrong with a guest agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentFault {
    /// Machine; any when absent.
    #[serde(default)]
    pub vmid: Option<u32>,
    /// The command has to contain this: `ping`, `file-write /etc/x`, `exec start feature-docker`; any when empty.
    #[serde(default)]
    pub command: String,
    /// What happens.
    pub action: AgentAction,
    /// How many commands it meets; all of them when absent.
    #[serde(default)]
    pub count: Option<u32>,
}

/// What happens to a command of a guest agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AgentAction {
    /// The agent does not answer: it is not up, or hangs.
    Silent,
    /// The agent dies at this command and is back only after the next boot.
    Dies,
    /// The agent refuses.
    Refuse {
        /// Its text.
        message: String,
    },
    /// The command has its effect, but the answer is a timeout.
    Timeout,
    /// The process, the script that is started, or the probe ends with this code.
    Exit {
        /// Exit code.
        exit: i32,
        /// Its output.
        output: String,
    },
    /// The process is killed.
    Signal {
        /// Number of the signal.
        signal: i32,
    },
    /// The process or the script that is started takes so long.
    Last {
        /// Milliseconds before scaling.
        ms: u64,
    },
    /// Only so much of the output comes back.
    Truncate {
        /// Bytes.
        bytes: usize,
    },
    /// The agent forgets the process.
    Forget,
}

impl AgentState {
    pub(super) fn take(&mut self, vmid: u32, what: &str, wanted: impl Fn(&AgentAction) -> bool) -> Option<AgentAction> {
        let fits = |fault: &AgentFault| {
            fault.vmid.is_none_or(|id| id == vmid) && what.contains(&fault.command) && fault.count != Some(0)
        };
        let at = self
            .faults
            .iter()
            .position(|fault| fits(fault) && wanted(&fault.action))?;
        let fault = &mut self.faults[at];
        let action = fault.action.clone();
        if let Some(count) = &mut fault.count {
            *count -= 1;
            if *count == 0 {
                self.faults.remove(at);
            }
        }
        Some(action)
    }

    /// The fault that meets a script which nobody started through the agent, as at a first boot.
    pub(super) fn script_fault(&mut self, vmid: u32, summary: &str) -> Option<SshAction> {
        let outcome = |action: &AgentAction| matches!(action, AgentAction::Exit { .. } | AgentAction::Last { .. });
        self.take(vmid, &format!("exec {summary}"), outcome)
            .and_then(|action| for_script(&action))
    }
}

/// A fault as the programs of the runner know it.
pub(super) fn for_script(action: &AgentAction) -> Option<SshAction> {
    match action {
        AgentAction::Exit { exit, output } => Some(SshAction::Exit {
            exit: *exit,
            output: output.clone(),
        }),
        AgentAction::Last { ms } => Some(SshAction::Last { ms: *ms }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_meet_what_they_name() {
        let text = r#"{"vmid":100,"command":"exec start","action":{"exit":{"exit":3,"output":"no"}},"count":1}"#;
        let fault: AgentFault = serde_json::from_str(text).unwrap();
        let mut state = AgentState { faults: vec![fault] };
        assert_eq!(state.take(101, "exec start x", |_| true), None);
        assert_eq!(state.take(100, "ping", |_| true), None);
        assert!(state.script_fault(100, "start x").is_some());
        assert!(state.faults.is_empty());
        let silent: AgentFault = serde_json::from_str(r#"{"action":"silent"}"#).unwrap();
        assert_eq!(silent.action, AgentAction::Silent);
    }
}
