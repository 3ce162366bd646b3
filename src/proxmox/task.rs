//! Tasks by UPID (facts B). The node asked is always the one in the UPID.

use serde::Deserialize;

use crate::pve::call::path;

use super::lenient::{number, opt_number, opt_text, text};
use super::{ApiCall, Client, Error, Result, Upid};

/// GET …/tasks/{upid}/status.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TaskStatus {
    /// `running` or `stopped`.
    #[serde(deserialize_with = "text")]
    pub status: String,
    /// Only when stopped: `OK`, `WARNINGS: n`, `unexpected status` or the error's last line (facts B.3).
    #[serde(default, deserialize_with = "opt_text")]
    pub exitstatus: Option<String>,
}

/// What a task's status means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// It runs.
    Running,
    /// It ended well; so many warnings were logged.
    Succeeded {
        /// Number of warnings.
        warnings: u32,
    },
    /// It failed with this text.
    Failed(String),
    /// Proxmox knows the task no more (its index holds about 1,000): what it did must be read from its object.
    Forgotten,
}

impl TaskStatus {
    /// What the status means; `WARNINGS: n` is success.
    pub fn state(&self) -> TaskState {
        if self.status == "running" {
            return TaskState::Running;
        }
        match self.exitstatus.as_deref() {
            Some("OK") => TaskState::Succeeded { warnings: 0 },
            Some(text) => match text.strip_prefix("WARNINGS: ") {
                Some(count) => TaskState::Succeeded {
                    warnings: count.trim().parse().unwrap_or(1),
                },
                None => TaskState::Failed(text.to_owned()),
            },
            None => TaskState::Failed("unexpected status".into()),
        }
    }
}

/// One row of GET /nodes/{node}/tasks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TaskRow {
    /// The task's id.
    pub upid: Upid,
    /// Kind, such as `vzcreate`.
    #[serde(rename = "type", default, deserialize_with = "text")]
    pub kind: String,
    /// What it works on: a vmid for most; of `vzclone` the source.
    #[serde(default, deserialize_with = "text")]
    pub id: String,
    /// Who started it.
    #[serde(default, deserialize_with = "text")]
    pub user: String,
    /// In seconds since 1970.
    #[serde(default, deserialize_with = "number")]
    pub starttime: i64,
    /// In seconds since 1970; absent while it runs.
    #[serde(default, deserialize_with = "opt_number")]
    pub endtime: Option<i64>,
    /// Exit status; absent or `RUNNING` while it runs.
    #[serde(default, deserialize_with = "opt_text")]
    pub status: Option<String>,
}

impl TaskRow {
    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.endtime.is_none() && self.status.as_deref().is_none_or(|s| s == "RUNNING")
    }
}

#[derive(Deserialize)]
struct LogLine {
    #[serde(default, deserialize_with = "text")]
    t: String,
}

impl Client {
    /// The state of a task.
    pub async fn task(&self, upid: &Upid) -> Result<TaskState> {
        let call = ApiCall::get(path(["nodes", &upid.node, "tasks", upid.as_str(), "status"]));
        match self.fetch::<TaskStatus>(&call).await {
            Ok(status) => Ok(status.state()),
            Err(Error::Parameters { errors, .. }) if errors.get("upid").is_some_and(|e| e.contains("no such task")) => {
                Ok(TaskState::Forgotten)
            }
            Err(error) => Err(error),
        }
    }

    /// The last `lines` lines of a task's log, where the whole text of an error is (the exit status is one line).
    pub async fn task_log(&self, upid: &Upid, lines: usize) -> Result<Vec<String>> {
        let call = ApiCall::get(path(["nodes", &upid.node, "tasks", upid.as_str(), "log"])).param("limit", 0);
        let mut rows: Vec<LogLine> = self.fetch(&call).await?;
        let rows = rows.split_off(rows.len().saturating_sub(lines));
        Ok(rows.into_iter().map(|row| row.t).collect())
    }

    /// Running and finished tasks of `node`, newest first as Proxmox gives them; only those that the credential may
    /// see.
    pub async fn tasks(&self, node: &str, vmid: Option<u32>, kind: Option<&str>, limit: u32) -> Result<Vec<TaskRow>> {
        let call = ApiCall::get(path(["nodes", node, "tasks"]))
            .param("source", "all")
            .param("limit", limit)
            .param_opt("vmid", vmid)
            .param_opt("typefilter", kind);
        self.fetch(&call).await
    }
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    #[test]
    fn warnings_are_success_and_a_vanished_worker_is_not() {
        let state = |value| serde_json::from_value::<TaskStatus>(value).unwrap().state();
        assert_eq!(state(json!({"status": "running", "pid": 1})), TaskState::Running);
        assert_eq!(
            state(json!({"status": "stopped", "exitstatus": "OK"})),
            TaskState::Succeeded { warnings: 0 }
        );
        let warned = json!({"status": "stopped", "exitstatus": "WARNINGS: 2"});
        assert_eq!(state(warned), TaskState::Succeeded { warnings: 2 });
        let failed = |text: &str| TaskState::Failed(text.to_owned());
        assert_eq!(
            state(json!({"status": "stopped", "exitstatus": "CT is locked (disk)"})),
            failed("CT is locked (disk)")
        );
        assert_eq!(state(json!({"status": "stopped"})), failed("unexpected status"));
    }
}
