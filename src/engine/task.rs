//! Follows the Proxmox task that status names; a reconcile never blocks on it.

use crate::desired::{Blocked, Desired, GuestObject, Key};
use crate::proxmox::{Upid, task::TaskState};
use crate::reason::{Cause, Reason};
use crate::status;

use super::carry_out::explained;
use super::connection::Connection;
use super::failure::reason_of;
use super::store::Store;
use super::{Engine, Stop, lock};

impl<S: Store> Engine<S> {
    /// Seconds until a task is looked at.
    pub(super) fn next_look(&self, connection: &Connection, key: &Key, upid: &Upid) -> f64 {
        lock(&connection.durations).next_look(key, upid, self.seconds())
    }

    /// Seconds since the engine began, as fast as its time goes.
    fn seconds(&self) -> f64 {
        self.clock() as f64 / 1000.0
    }

    /// Follows a Proxmox task that status names: `Some(wait)` while it runs or when it failed.
    pub(super) async fn running_task(
        &self,
        connection: &Connection,
        object: &GuestObject,
        desired: Option<&Desired>,
    ) -> Result<Option<Option<f64>>, Stop> {
        let Some(task) = &object.status.task else {
            return Ok(None);
        };
        let Ok(upid) = task.upid.parse::<Upid>() else {
            self.write(
                object,
                status::after_task(&object.status, None, self.now(), self.options.time_scale),
            )
            .await?;
            return Ok(Some(None));
        };
        let mut forgotten = false;
        let failed = match connection.client.task(&upid).await {
            Ok(TaskState::Running) => {
                let source = (upid.kind == "vzclone").then(|| upid.id.parse().ok()).flatten();
                connection.shares.hold_task(&object.key, &upid.node, source);
                return Ok(Some(Some(self.next_look(connection, &object.key, &upid))));
            }
            Ok(TaskState::Succeeded { .. }) => {
                lock(&connection.durations).ended(&object.key, &upid, self.seconds());
                connection.shares.downloaded(&object.key);
                None
            }
            Ok(TaskState::Forgotten) => {
                forgotten = true;
                None
            }
            Ok(TaskState::Failed(text)) => {
                let reason = reason_of(&text).unwrap_or(Reason::TaskFailed);
                // The exit status is one line; the log before it often says why (facts B.3).
                let log = connection.client.task_log(&upid, 4).await.unwrap_or_default();
                let told = |line: &&String| !line.starts_with("TASK ERROR") && !line.is_empty() && **line != text;
                let details: Vec<&str> = log.iter().filter(told).map(String::as_str).collect();
                let details = if details.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", details.join("; "))
                };
                let failure = Cause::new(reason, format!("{text}{details}"));
                Some(match desired {
                    Some(desired) => explained(connection, desired, None, &upid.node, failure).await,
                    None => failure,
                })
            }
            Err(error) => {
                let problem = Cause::from(&error);
                let wait = self
                    .publish_blocked(object, Blocked::Waiting(problem), vec![], desired)
                    .await?;
                return Ok(Some(wait.or(Some(5.0))));
            }
        };
        lock(&connection.durations).forget(&object.key);
        connection.shares.release(&object.key);
        if let Some(counters) = self.options.counters.as_ref().filter(|_| !forgotten) {
            let failure = failed.as_ref().map(|failure| failure.reason);
            counters.task(&object.key, &upid.kind, failure, self.now() - upid.start);
        }
        let failed = match failed {
            None => self.in_vain(&object.key, &task.action),
            Some(failure) => {
                self.no_repetition(&object.key, &task.action);
                Some(failure)
            }
        };
        let status = status::after_task(&object.status, failed.as_ref(), self.now(), self.options.time_scale);
        if let Some(failure) = &failed {
            let message = format!("cannot {}: {}", task.action, failure.message);
            self.warn(object, failure.reason, &message).await;
        }
        let written = self.write(object, status).await?;
        if failed.is_none() && !forgotten {
            self.tell_task(&written, task, &upid.kind).await;
        }
        Ok(Some(None))
    }
}
