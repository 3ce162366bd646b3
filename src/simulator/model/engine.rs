//! How time passes: tasks start, wait for locks, end, are stopped or lost; the status daemon ticks.

use super::error::{ApiError, Result};
use super::state::State;
use super::task::{Task, TaskState, Work, upid};
use crate::simulator::control::Stricken;

/// Ended tasks that are kept, as the task index of a node keeps about a thousand (facts B.3).
const KEPT_TASKS: usize = 4000;
/// The end of a task that something else ends, in milliseconds since 1970.
pub(super) const NEVER: u64 = u64::MAX;

impl State {
    /// Starts a task and returns its UPID. What the work does at its beginning has happened when this returns, unless
    /// it waits for a lock.
    pub fn start_task(&mut self, node: &str, kind: &str, id: &str, user: &str, work: Work) -> String {
        self.dirty = true;
        let seq = self.next_number();
        let pid = (seq % 4_000_000) as u32;
        let pstart = self
            .nodes
            .get(node)
            .map_or(0, |found| self.now.saturating_sub(found.booted_at) / 10);
        // Worker ids escape what would break the UPID (facts B.1); the reassignment of a volume is the one case here.
        let id = id.replace(':', "%3A");
        let upid = upid(node, pid, pstart, self.seconds(), kind, &id, user);
        let task = Task {
            seq,
            upid: upid.clone(),
            node: node.to_owned(),
            pid,
            pstart,
            started_at: self.now,
            ended_at: None,
            kind: kind.to_owned(),
            id,
            user: user.to_owned(),
            log: Vec::new(),
            warnings: 0,
            state: TaskState::Waiting {
                deadline: self.now + self.scaled(self.latency.lock_timeout),
            },
            exitstatus: None,
            work,
        };
        self.tasks.insert(seq, task);
        self.active.insert(seq);
        self.try_begin(seq);
        self.forget_old_tasks();
        upid
    }

    /// A task by its UPID.
    pub fn task(&self, upid: &str) -> Option<&Task> {
        self.tasks.values().rev().find(|task| task.upid == upid)
    }

    /// Adds a line to the log of a task.
    pub fn log(&mut self, seq: u64, line: impl Into<String>) {
        if let Some(task) = self.tasks.get_mut(&seq) {
            task.log.push(line.into());
        }
    }

    /// Adds a warning to the log of a task; a task with warnings ends as `WARNINGS: n` (facts B.3).
    pub fn warn(&mut self, seq: u64, text: &str) {
        if let Some(task) = self.tasks.get_mut(&seq) {
            task.log.push(format!("WARN: {text}"));
            task.warnings += 1;
        }
    }

    fn forget_old_tasks(&mut self) {
        while self.tasks.len() > KEPT_TASKS + self.active.len() {
            let Some(oldest) = self.tasks.keys().find(|seq| !self.active.contains(seq)).copied() else {
                return;
            };
            self.tasks.remove(&oldest);
        }
    }

    fn try_begin(&mut self, seq: u64) {
        let Some(task) = self.tasks.get(&seq) else { return };
        let TaskState::Waiting { deadline } = task.state else {
            return;
        };
        let work = task.work.clone();
        match self.begin(seq, &work) {
            Ok(ms) => {
                let ends_at = if self.hanging {
                    NEVER
                } else {
                    self.now + self.scaled(ms)
                };
                if let Some(task) = self.tasks.get_mut(&seq) {
                    task.state = TaskState::Running { ends_at };
                }
            }
            Err(error) if error.wait_for.is_some() && self.now < deadline => {}
            Err(error) => {
                self.release_locks(seq);
                let ends_at = self.now + self.scaled(self.latency.refusal);
                if let Some(task) = self.tasks.get_mut(&seq) {
                    task.work = Work::Nothing {
                        duration_ms: 0,
                        error: Some(error.message),
                    };
                    task.state = TaskState::Running { ends_at };
                }
            }
        }
    }

    /// Lets a running task end at once, for a caller who waits for it, and tells how it ended.
    pub(super) fn end_now(&mut self, upid: &str) -> Option<String> {
        let seq = self.task(upid)?.seq;
        if self.task(upid)?.is_running() {
            self.end_task(seq);
        }
        self.task(upid)?.exitstatus.clone()
    }

    fn ordered_failure(&mut self, seq: u64) -> Option<String> {
        let task = self.tasks.get(&seq)?;
        let fits = |fault: &super::state::TaskFault| {
            fault.count > 0 && fault.kind == task.kind && fault.id.as_ref().is_none_or(|id| *id == task.id)
        };
        let at = self.task_faults.iter().position(fits)?;
        let fault = &mut self.task_faults[at];
        fault.count -= 1;
        let message = fault.message.clone();
        let (kind, id) = (task.kind.clone(), task.id.clone());
        self.task_faults.retain(|fault| fault.count > 0);
        let struck = message.clone();
        self.strikes(Stricken::Task {
            kind,
            id,
            message: struck,
        });
        Some(message)
    }

    fn end_task(&mut self, seq: u64) {
        let Some(work) = self.tasks.get(&seq).map(|task| task.work.clone()) else {
            return;
        };
        let outcome = match self.ordered_failure(seq) {
            Some(message) => {
                self.undo(seq, &work);
                Err(ApiError::die(message))
            }
            None if self.waits_for_hook(seq, &work) => return,
            None => self.finish(seq, &work),
        };
        self.close_task(seq, outcome.err().map(|error| error.message));
    }

    pub(super) fn close_task(&mut self, seq: u64, error: Option<String>) {
        self.dirty = true;
        self.release_locks(seq);
        self.active.remove(&seq);
        let now = self.now;
        if let Some(task) = self.tasks.get_mut(&seq) {
            let (status, line) = match &error {
                Some(text) => {
                    let text = text.trim_end().replace('\n', " ");
                    let line = format!("TASK ERROR: {text}");
                    (text, line)
                }
                None if task.warnings > 0 => {
                    let text = format!("WARNINGS: {}", task.warnings);
                    (text.clone(), format!("TASK {text}"))
                }
                None => ("OK".to_owned(), "TASK OK".to_owned()),
            };
            task.log.extend(line.lines().map(str::to_owned));
            task.exitstatus = Some(status);
            task.state = TaskState::Stopped;
            task.ended_at = Some(now);
        }
        let waiting: Vec<u64> = self.active.iter().copied().collect();
        for other in waiting {
            self.try_begin(other);
        }
    }

    fn release_locks(&mut self, seq: u64) {
        for guest in self.guests.values_mut() {
            if guest.flock == Some(seq) {
                guest.flock = None;
            }
        }
    }

    /// Stops a task as `DELETE …/tasks/{upid}` does: what it was doing is undone as far as Proxmox undoes it.
    pub fn stop_task(&mut self, seq: u64) {
        if !self.active.contains(&seq) {
            return;
        }
        let Some(work) = self.tasks.get(&seq).map(|task| task.work.clone()) else {
            return;
        };
        let text = match &work {
            Work::CtCreate(create) => create.interrupted(),
            Work::CtClone(_) => "clone failed: interrupted by signal".to_owned(),
            Work::Vm(work) => Self::vm_interrupted(work),
            _ => "interrupted by signal".to_owned(),
        };
        self.undo(seq, &work);
        self.close_task(seq, Some(text));
    }

    /// Lets no task end, or stops those that hang and lets others end again.
    pub(super) fn hang_tasks(&mut self, hang: bool) {
        self.hanging = hang;
        for seq in Vec::from_iter(self.active.iter().copied()) {
            match self.tasks.get_mut(&seq) {
                Some(task) if hang && matches!(task.state, TaskState::Running { .. }) => {
                    task.state = TaskState::Running { ends_at: NEVER };
                }
                Some(task) if task.state == (TaskState::Running { ends_at: NEVER }) => self.stop_task(seq),
                _ => {}
            }
        }
    }

    /// When something happens next, if anything is under way.
    pub fn next_event(&self) -> Option<u64> {
        self.active
            .iter()
            .filter_map(|seq| match self.tasks.get(seq)?.state {
                TaskState::Waiting { deadline } => Some(deadline),
                TaskState::Running { ends_at } => Some(ends_at),
                TaskState::Stopped => None,
            })
            .min()
    }

    /// Lets time pass until `to`.
    pub fn advance(&mut self, to: u64) {
        while let Some(at) = self.next_event().filter(|at| *at <= to) {
            self.pass_to(at);
            let due: Vec<u64> = self.active.iter().copied().collect();
            for seq in due {
                match self.tasks.get(&seq).map(|task| task.state) {
                    Some(TaskState::Running { ends_at }) if ends_at <= self.now => self.end_task(seq),
                    // A second failure after the deadline turns the wait into an error.
                    Some(TaskState::Waiting { deadline }) if deadline <= self.now => self.try_begin(seq),
                    _ => {}
                }
            }
        }
        self.pass_to(to);
    }

    fn pass_to(&mut self, at: u64) {
        let at = at.max(self.now);
        let interval = self.scaled(self.latency.status_interval).max(1);
        let ticks = at.saturating_sub(self.last_broadcast) / interval;
        if ticks > 0 {
            self.last_broadcast += ticks * interval;
            self.now = self.last_broadcast;
            self.broadcast();
        }
        self.now = at;
    }

    /// The tasks of a node vanish; locks in configurations and half-written volumes stay (facts B.6).
    pub fn lose_tasks(&mut self, node: &str) {
        self.dirty = true;
        let on_node = |seq: &u64| self.tasks.get(seq).is_some_and(|task| task.node == node);
        let lost: Vec<u64> = self.active.iter().copied().filter(on_node).collect();
        let now = self.now;
        for seq in lost {
            self.release_locks(seq);
            self.active.remove(&seq);
            if let Some(task) = self.tasks.get_mut(&seq) {
                task.state = TaskState::Stopped;
                task.ended_at = Some(now);
                task.exitstatus = Some("unexpected status".to_owned());
            }
        }
    }

    /// A node loses power and boots again: its tasks vanish, its guests are stopped.
    pub fn node_crash(&mut self, node: &str) {
        self.lose_tasks(node);
        let now = self.now;
        let on_node = |(_, guest): &(&u32, &super::guest::Guest)| guest.node == node && guest.running.is_some();
        let went_down: Vec<u32> = self.guests.iter().filter(on_node).map(|(vmid, _)| *vmid).collect();
        for vmid in went_down {
            self.hook_outside("stop", vmid, &[]);
        }
        for guest in self.guests.values_mut().filter(|guest| guest.node == node) {
            guest.running = None;
            guest.inside.power_off(now);
        }
        if let Some(found) = self.nodes.get_mut(node) {
            found.booted_at = now;
        }
    }

    fn begin(&mut self, seq: u64, work: &Work) -> Result<u64> {
        match work {
            Work::CtCreate(create) => self.begin_ct_create(seq, create),
            Work::CtClone(clone) => self.begin_ct_clone(seq, clone),
            Work::CtTemplate { .. } => Ok(self.latency.template),
            Work::CtStart { vmid, skiplock } => self.begin_ct_start(seq, *vmid, *skiplock),
            Work::CtStop { vmid, skiplock } => self.begin_ct_stop(seq, *vmid, *skiplock),
            Work::CtShutdown { vmid, timeout_ms, .. } => self.begin_ct_shutdown(seq, *vmid, *timeout_ms),
            Work::CtReboot { vmid } => self.begin_ct_reboot(seq, *vmid),
            Work::CtSnapshot {
                vmid,
                name,
                description,
            } => self.begin_ct_snapshot(seq, *vmid, name, description),
            Work::CtDeleteSnapshot { vmid, name, .. } => self.begin_ct_delete_snapshot(seq, *vmid, name),
            Work::CtRollback { vmid, name, .. } => self.begin_ct_rollback(seq, *vmid, name),
            Work::CtDestroy { vmid, .. } => self.begin_ct_destroy(seq, *vmid),
            Work::CtResize(resize) => self.begin_ct_resize(seq, resize),
            Work::CtMoveVolume(moving) => self.begin_ct_move_volume(seq, moving),
            Work::VolumeDelete { .. } => Ok(self.latency.volume_delete),
            Work::Backup(backup) => self.begin_backup(seq, backup),
            Work::Download(download) => self.begin_download(seq, download),
            Work::Upload(_) | Work::Prune(_) => Ok(self.latency.refusal),
            Work::Vm(work) => self.begin_vm(seq, work),
            Work::StartAll { node, vms } => self.begin_start_all(seq, node, vms.as_deref()),
            Work::StopAll { node, vms } => self.begin_stop_all(seq, node, vms.as_deref()),
            Work::Nothing { duration_ms, .. } => Ok(*duration_ms),
        }
    }

    pub(super) fn finish(&mut self, seq: u64, work: &Work) -> Result<()> {
        match work {
            Work::CtCreate(create) => self.finish_ct_create(seq, create),
            Work::CtClone(clone) => self.finish_ct_clone(seq, clone),
            Work::CtTemplate { vmid } => self.finish_ct_template(seq, *vmid),
            Work::CtStart { vmid, .. } => self.finish_ct_start(seq, *vmid),
            Work::CtStop { vmid, .. } => self.finish_ct_stop(*vmid),
            Work::CtShutdown { vmid, force_stop, .. } => self.finish_ct_shutdown(*vmid, *force_stop),
            Work::CtReboot { vmid } => self.finish_ct_reboot(seq, *vmid),
            Work::CtSnapshot { vmid, name, .. } => self.finish_ct_snapshot(*vmid, name),
            Work::CtDeleteSnapshot { vmid, name, .. } => self.finish_ct_delete_snapshot(*vmid, name),
            Work::CtRollback { vmid, name, start } => self.finish_ct_rollback(seq, *vmid, name, *start),
            Work::CtDestroy {
                vmid,
                force,
                purge,
                unreferenced,
            } => self.finish_ct_destroy(seq, *vmid, *force, *purge, *unreferenced),
            Work::CtResize(resize) => self.finish_ct_resize(seq, resize),
            Work::CtMoveVolume(moving) => self.finish_ct_move_volume(seq, moving),
            Work::VolumeDelete { node, volid } => self.finish_volume_delete(seq, node, volid),
            Work::Download(download) => self.finish_download(seq, download),
            Work::Upload(upload) => self.finish_upload(seq, upload),
            Work::Prune(prune) => self.finish_prune(seq, prune),
            Work::Backup(backup) => self.finish_backup(seq, backup),
            Work::Vm(work) => self.finish_vm(seq, work),
            Work::StartAll { .. } | Work::StopAll { .. } => Ok(()),
            Work::Nothing { error: None, .. } => Ok(()),
            Work::Nothing { error: Some(text), .. } => Err(ApiError::die(text.clone())),
        }
    }

    /// What Proxmox cleans up when work fails or is stopped.
    pub(super) fn undo(&mut self, seq: u64, work: &Work) {
        match work {
            Work::CtCreate(create) => self.undo_ct_create(create),
            Work::CtClone(clone) => self.undo_ct_clone(clone),
            Work::CtSnapshot { vmid, name, .. } => self.undo_ct_snapshot(*vmid, name),
            Work::CtDeleteSnapshot { vmid, .. } | Work::CtRollback { vmid, .. } => self.unlock(*vmid),
            Work::CtMoveVolume(moving) => self.unlock(moving.vmid),
            Work::Vm(work) => self.undo_vm(seq, work),
            Work::Backup(backup) => self.undo_backup(backup),
            _ => {}
        }
    }

    /// Removes the `lock:` of a guest, as `pct unlock` does on the node.
    pub fn unlock(&mut self, vmid: u32) {
        self.dirty = true;
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.edit(|config| config.current.remove("lock"));
        }
    }
}
