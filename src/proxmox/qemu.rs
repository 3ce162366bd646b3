//! What only virtual machines have: cloud-init's drive and the guest agent (facts F.2, F.8).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;

use crate::pve::GuestRef;

use super::lenient::{boolean, number, opt_number, opt_text, text};
use super::{ApiCall, Client, Error, Result};

/// One row of GET …/cloudinit: an option that the drive may not hold yet.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CloudInitOption {
    /// The option.
    #[serde(deserialize_with = "text")]
    pub key: String,
    /// What the drive holds.
    #[serde(default, deserialize_with = "opt_text")]
    pub old: Option<String>,
    /// What the configuration says.
    #[serde(default, deserialize_with = "opt_text")]
    pub new: Option<String>,
    /// What the configuration says, where nothing is pending.
    #[serde(default, deserialize_with = "opt_text")]
    pub value: Option<String>,
    /// Pending value.
    #[serde(default, deserialize_with = "opt_text")]
    pub pending: Option<String>,
    /// 1: the drive holds it and the configuration does not.
    #[serde(default, deserialize_with = "number")]
    pub delete: u8,
}

impl CloudInitOption {
    /// Whether the drive lacks the change.
    pub fn is_pending(&self) -> bool {
        // Versions differ in the names: `old` beside `new` or `value`, or `value` beside `pending`.
        let now = self.new.as_ref().or(self.value.as_ref().filter(|_| self.old.is_some()));
        (now.is_some() && now != self.old.as_ref()) || self.pending.is_some() || self.delete > 0
    }
}

/// One interface as the guest agent reports it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct AgentInterface {
    /// Name in the machine.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// MAC.
    #[serde(rename = "hardware-address", default, deserialize_with = "opt_text")]
    pub mac: Option<String>,
    /// Its addresses; absent for an interface that is down.
    #[serde(rename = "ip-addresses", default)]
    pub addresses: Vec<super::guest::Address>,
}

#[derive(Deserialize)]
struct AgentResult<T> {
    result: T,
}

#[derive(Deserialize)]
struct Started {
    #[serde(deserialize_with = "number")]
    pid: i64,
}

/// What became of a command in the machine.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct ExecStatus {
    /// Whether it ended.
    #[serde(default, deserialize_with = "boolean")]
    pub exited: bool,
    /// Exit code.
    #[serde(default, deserialize_with = "opt_number")]
    pub exitcode: Option<i64>,
    /// The signal that ended it.
    #[serde(default, deserialize_with = "opt_number")]
    pub signal: Option<i64>,
    /// Standard output, at most 16 MiB.
    #[serde(rename = "out-data", default, deserialize_with = "opt_text")]
    pub out_data: Option<String>,
    /// Standard error, at most 16 MiB.
    #[serde(rename = "err-data", default, deserialize_with = "opt_text")]
    pub err_data: Option<String>,
    /// Whether standard output was longer than that.
    #[serde(rename = "out-truncated", default, deserialize_with = "boolean")]
    pub out_truncated: bool,
    /// Whether standard error was longer than that.
    #[serde(rename = "err-truncated", default, deserialize_with = "boolean")]
    pub err_truncated: bool,
}

/// Path of a command of the guest agent's.
fn agent(at: &GuestRef, command: &str) -> String {
    at.path_of(&["agent", command])
}

impl Client {
    /// What cloud-init's drive lacks of the configuration.
    pub async fn cloud_init_pending(&self, at: &GuestRef) -> Result<Vec<CloudInitOption>> {
        self.fetch(&ApiCall::get(at.path_of(&["cloudinit"]))).await
    }

    /// The user-data that Proxmox renders from the configuration.
    pub async fn cloud_init_user_data(&self, at: &GuestRef) -> Result<String> {
        let call = ApiCall::get(at.path_of(&["cloudinit", "dump"])).param("type", "user");
        self.fetch(&call).await
    }

    /// Whether the guest agent answers.
    ///
    /// # Errors
    /// Among others `Refused` with Proxmox's words where it does not (facts F.8: within 3 s).
    pub async fn agent_ping(&self, at: &GuestRef) -> Result<()> {
        // A ping changes nothing, so that its 500 is as definite as that of a read.
        match self.call(&ApiCall::post(agent(at, "ping"))).await {
            Ok(_) => Ok(()),
            Err(Error::Unknown {
                status: Some(500),
                message,
            }) => Err(Error::Refused { status: 500, message }),
            Err(error) => Err(error),
        }
    }

    /// The machine's interfaces, loopback and inner bridges included.
    pub async fn agent_interfaces(&self, at: &GuestRef) -> Result<Vec<AgentInterface>> {
        let call = ApiCall::get(agent(at, "network-get-interfaces"));
        let answer: AgentResult<Value> = self.fetch(&call).await?;
        // A command that the agent does not know comes as a success with an error in it (facts F.8).
        Ok(serde_json::from_value(answer.result).unwrap_or_default())
    }

    /// Starts a program in the machine as root; its process id. `input` may have 64 KiB.
    pub async fn agent_exec(&self, at: &GuestRef, argv: &[&str], input: &str) -> Result<i64> {
        let mut call = ApiCall::post(agent(at, "exec"));
        for word in argv {
            call = call.param("command", word);
        }
        if !input.is_empty() {
            call = call.param("input-data", input);
        }
        let started: Started = self.fetch(&call).await?;
        Ok(started.pid)
    }

    /// What became of a program; its end can be read once.
    pub async fn agent_exec_status(&self, at: &GuestRef, pid: i64) -> Result<ExecStatus> {
        let call = ApiCall::get(agent(at, "exec-status")).param("pid", pid);
        self.fetch(&call).await
    }

    /// Writes a file of at most 45 KiB in the machine, as root and with the agent's umask.
    pub async fn agent_write(&self, at: &GuestRef, file: &str, content: &[u8]) -> Result<()> {
        let call = ApiCall::post(agent(at, "file-write"))
            .param("file", file)
            .param("encode", 0)
            .param("content", BASE64.encode(content));
        self.call(&call).await.map(|_| ())
    }
}
