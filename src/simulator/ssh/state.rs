//! What the SSH servers keep: host keys, faults, and how long scripts take.

use serde::{Deserialize, Serialize};

/// The part of the look-alike's state that belongs to SSH.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SshState {
    /// The host key of all nodes (OpenSSH PEM); made at the first start.
    #[serde(default)]
    pub host_key: Option<String>,
    /// New connections meet another host key, as after a reinstallation or with somebody in between.
    #[serde(default)]
    pub other_host_key: bool,
    /// Faults to come; the first that fits a command is taken.
    #[serde(default)]
    pub faults: Vec<SshFault>,
    /// How long a script in a guest takes, in milliseconds before scaling.
    #[serde(default = "script_ms")]
    pub script_ms: u64,
}

fn script_ms() -> u64 {
    20_000
}

impl Default for SshState {
    fn default() -> Self {
        Self {
            host_key: None,
            other_host_key: false,
            faults: Vec::new(),
            script_ms: script_ms(),
        }
    }
}

/// Something that goes wrong with commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SshFault {
    /// Guest that the command is for; any when absent.
    #[serde(default)]
    pub vmid: Option<u32>,
    /// The command's words have to contain this, such as `start feature-docker` or `pct set`; any when empty.
    #[serde(default)]
    pub command: String,
    /// What happens.
    pub action: SshAction,
    /// How many commands it meets; all of them when absent.
    #[serde(default)]
    pub count: Option<u32>,
}

/// What happens to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SshAction {
    /// The connection is cut, the command has no effect.
    LoseBefore,
    /// The command has its effect, then the connection is cut.
    LoseAfter,
    /// The answer comes so much later.
    Delay {
        /// Milliseconds before scaling.
        ms: u64,
    },
    /// The command does nothing and ends with this code.
    Refuse {
        /// Exit code.
        exit: u32,
        /// Standard error.
        message: String,
    },
    /// The script that is started, or the probe that is run, ends with this code.
    Exit {
        /// Exit code.
        exit: i32,
        /// Its output.
        output: String,
    },
    /// The script that is started takes so long.
    Last {
        /// Milliseconds before scaling.
        ms: u64,
    },
}

impl SshState {
    /// The fault that meets a command, used up once more.
    pub fn take_fault(&mut self, vmid: Option<u32>, what: &str) -> Option<SshAction> {
        let fits = |fault: &SshFault| {
            (fault.vmid.is_none() || fault.vmid == vmid) && what.contains(&fault.command) && fault.count != Some(0)
        };
        let at = self.faults.iter().position(fits)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_meet_what_they_name_as_often_as_they_say() {
        let fault = |vmid, command: &str, count| SshFault {
            vmid,
            command: command.into(),
            action: SshAction::LoseAfter,
            count,
        };
        let mut state = SshState {
            faults: vec![fault(Some(100), "start", Some(2)), fault(None, "pct set", None)],
            ..SshState::default()
        };
        assert_eq!(state.take_fault(Some(101), "start x"), None);
        for _ in 0..2 {
            assert!(state.take_fault(Some(100), "start x").is_some());
        }
        assert_eq!(state.take_fault(Some(100), "start x"), None);
        for _ in 0..3 {
            assert!(state.take_fault(Some(7), "pct set 7").is_some());
        }
        let text = serde_json::to_string(&fault(None, "x", None)).unwrap();
        assert_eq!(text, r#"{"vmid":null,"command":"x","action":"loseAfter","count":null}"#);
    }
}
