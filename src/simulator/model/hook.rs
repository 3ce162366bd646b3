//! What a program of the user's is told when guests are made, started, stopped and destroyed (`--guest-hook`): the
//! calls that belong to a task, and the tasks that wait for them. Nothing is run here.

use super::engine::NEVER;
use super::error::{ApiError, Result};
use super::state::State;
use super::task::{TaskState, Work};

/// One call of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// What happens to the guest, such as `start`.
    pub phase: &'static str,
    /// The guest.
    pub vmid: u32,
    /// Archive, source or snapshot.
    pub arguments: Vec<String>,
}

/// Calls that are to be made, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookJob {
    /// The task that waits for them; none for what somebody did from outside.
    pub task: Option<u64>,
    /// The calls.
    pub calls: Vec<HookCall>,
    /// Text of the guest's configuration.
    pub config: String,
}

fn call(phase: &'static str, vmid: u32, arguments: &[&str]) -> HookCall {
    HookCall {
        phase,
        vmid,
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
    }
}

impl State {
    /// The calls that belong to a task.
    fn hook_calls(&self, work: &Work) -> Vec<HookCall> {
        let runs = |vmid: &u32| self.guests.get(vmid).is_some_and(|guest| guest.running.is_some());
        match work {
            Work::CtCreate(create) => vec![call("create", create.vmid, &[&create.template])],
            Work::CtClone(clone) => {
                let source = clone.vmid.to_string();
                let snapshot = clone.snapshot.as_deref().unwrap_or_default();
                vec![call("clone", clone.newid, &[&source, snapshot])]
            }
            Work::CtStart { vmid, .. } => vec![call("start", *vmid, &[])],
            Work::CtStop { vmid, .. } => vec![call("stop", *vmid, &[])],
            Work::CtShutdown { vmid, force_stop, .. } => match (self.ignores_shutdown(*vmid), force_stop) {
                (false, _) => vec![call("shutdown", *vmid, &[])],
                (true, true) => vec![call("stop", *vmid, &[])],
                (true, false) => Vec::new(),
            },
            Work::CtReboot { vmid } => vec![call("shutdown", *vmid, &[]), call("start", *vmid, &[])],
            Work::CtSnapshot { vmid, name, .. } => vec![call("snapshot", *vmid, &[name])],
            Work::CtDeleteSnapshot { vmid, name, .. } => vec![call("delete-snapshot", *vmid, &[name])],
            Work::CtRollback { vmid, name, .. } => vec![call("stop", *vmid, &[]), call("rollback", *vmid, &[name])],
            Work::CtDestroy { vmid, force, .. } if runs(vmid) && !force => Vec::new(),
            Work::CtDestroy { vmid, .. } => vec![call("stop", *vmid, &[]), call("destroy", *vmid, &[])],
            _ => Vec::new(),
        }
    }

    fn hook_job(&self, task: Option<u64>, calls: Vec<HookCall>) -> HookJob {
        let guest = calls.first().and_then(|call| self.guests.get(&call.vmid));
        HookJob {
            task,
            config: guest.map(|guest| guest.text().to_owned()).unwrap_or_default(),
            calls,
        }
    }

    /// Whether the end of a task has to wait for the program; it is then told what to do.
    pub(super) fn waits_for_hook(&mut self, seq: u64, work: &Work) -> bool {
        if !self.hooked {
            return false;
        }
        let calls = self.hook_calls(work);
        if calls.is_empty() {
            return false;
        }
        let job = self.hook_job(Some(seq), calls);
        self.hook_jobs.push(job);
        if let Some(task) = self.tasks.get_mut(&seq) {
            task.state = TaskState::Running { ends_at: NEVER };
        }
        true
    }

    /// Something happened to a guest from outside, at once.
    pub(super) fn hook_outside(&mut self, phase: &'static str, vmid: u32, arguments: &[&str]) {
        if self.hooked {
            let job = self.hook_job(None, vec![call(phase, vmid, arguments)]);
            self.hook_jobs.push(job);
        }
    }

    /// The program is through with a task's calls: the task ends, well or with what the program complained of.
    pub fn hook_ended(&mut self, seq: u64, outcome: std::result::Result<(), String>) {
        // A task that was stopped or lost meanwhile has ended already.
        let Some(work) = self.tasks.get(&seq).filter(|_| self.active.contains(&seq)) else {
            return;
        };
        let work = work.work.clone();
        let outcome: Result<()> = match outcome {
            Ok(()) => self.finish(seq, &work),
            Err(message) => {
                self.undo(seq, &work);
                Err(ApiError::die(message))
            }
        };
        self.close_task(seq, outcome.err().map(|error| error.message));
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Caller;
    use super::*;
    use crate::simulator::{Profile, Secrets};

    fn state() -> State {
        let mut state = Profile::Homelab.state(None, &Secrets::default(), 1_800_000_000_000);
        state.hooked = true;
        state
            .edit(super::super::Edit::CreateGuest {
                vmid: 950,
                node: None,
                vm: false,
                options: Default::default(),
                storage: None,
            })
            .unwrap();
        state.hook_jobs.clear();
        state
    }

    #[test]
    fn a_task_ends_when_the_program_has_ended() {
        let mut state = state();
        let node = state.guests[&950].node.clone();
        let upid = state.start_ct(&Caller::root(), &node, 950, false).unwrap();
        let seq = state.task(&upid).unwrap().seq;
        state.advance(state.now + 3_600_000);
        assert_eq!(state.task(&upid).unwrap().exitstatus, None);
        assert!(state.guests[&950].running.is_none());
        let jobs = std::mem::take(&mut state.hook_jobs);
        assert_eq!((jobs.len(), jobs[0].task), (1, Some(seq)));
        assert_eq!(jobs[0].calls, [call("start", 950, &[])]);
        assert!(jobs[0].config.contains("hostname: CT950"));
        state.hook_ended(seq, Ok(()));
        assert_eq!(state.task(&upid).unwrap().exitstatus.as_deref(), Some("OK"));
        assert!(state.guests[&950].running.is_some());
        // A second word about the same task changes nothing.
        state.hook_ended(seq, Err("late".into()));
        assert_eq!(state.task(&upid).unwrap().exitstatus.as_deref(), Some("OK"));
    }

    #[test]
    fn what_the_program_complains_of_is_the_end_of_the_task() {
        let mut state = state();
        let node = state.guests[&950].node.clone();
        let upid = state.start_ct(&Caller::root(), &node, 950, false).unwrap();
        let seq = state.task(&upid).unwrap().seq;
        state.advance(state.now + 3_600_000);
        state.hook_ended(seq, Err("hook start 950: no rootfs".into()));
        let task = state.task(&upid).unwrap();
        assert_eq!(task.exitstatus.as_deref(), Some("hook start 950: no rootfs"));
        assert!(state.guests[&950].running.is_none());
    }
}
