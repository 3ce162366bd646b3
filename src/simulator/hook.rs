//! Runs the program of `--guest-hook` beside the model: `PROGRAM PHASE VMID [ARGUMENT…]` with the guest's
//! configuration on standard input. The task that it belongs to ends when it has ended.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Simulator;
use super::model::hook::{HookCall, HookJob};

/// Longest complaint of the program that becomes the end of a task, in characters.
const LONGEST_COMPLAINT: usize = 300;

impl Simulator {
    /// Starts jobs; each runs beside the others and beside the model.
    pub(super) fn run_hooks(&self, jobs: Vec<HookJob>) {
        let Some(program) = &self.inner.guest_hook else { return };
        for job in jobs {
            let (simulator, program) = (self.clone(), program.clone());
            std::thread::spawn(move || {
                let outcome = job
                    .calls
                    .iter()
                    .try_for_each(|call| run(&program, call, job.config.as_bytes()));
                if let Err(message) = &outcome {
                    tracing::error!(%message, "the guest hook failed");
                }
                if let Some(seq) = job.task {
                    simulator.with(|state| state.hook_ended(seq, outcome));
                }
            });
        }
    }
}

fn run(program: &Path, call: &HookCall, config: &[u8]) -> Result<(), String> {
    let what = format!("guest hook {} {}", call.phase, call.vmid);
    let failed = |error: std::io::Error| format!("{what}: {error}");
    let mut child = Command::new(program)
        .arg(call.phase)
        .arg(call.vmid.to_string())
        .args(&call.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it is fine.
        let _ = stdin.write_all(config);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let words: String = last
        .unwrap_or("no word of it")
        .chars()
        .take(LONGEST_COMPLAINT)
        .collect();
    Err(format!("{what}: {words} ({})", output.status))
}

#[cfg(test)]
mod tests {
    use super::super::model::Edit;
    use super::super::{SimConfig, Simulator};

    /// A program that writes down how it was called, and fails for guest 951.
    #[test]
    fn the_program_is_told_and_its_failure_is_the_tasks() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (program, told) = (folder.path().join("hook"), folder.path().join("told"));
        let text = format!(
            "#!/bin/sh\n[ \"$2\" != 951 ] || {{ echo 'no such luck' >&2; exit 3; }}\n\
             {{ echo \"$@\"; grep hostname; }} >>'{0}.new'\nmv '{0}.new' '{0}'\n",
            told.display()
        );
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let simulator = Simulator::new(SimConfig {
            time_scale: 1e6,
            guest_hook: Some(program),
            ..SimConfig::default()
        })
        .unwrap();
        let started = |vmid: u32| {
            simulator
                .edit(Edit::CreateGuest {
                    vmid,
                    node: None,
                    vm: false,
                    options: Default::default(),
                    storage: None,
                })
                .unwrap();
            let root = super::super::model::Caller::root();
            let node = simulator.with(|state| state.guests[&vmid].node.clone());
            let upid = simulator
                .with(|state| state.start_ct(&root, &node, vmid, false))
                .unwrap();
            loop {
                let status = simulator.with(|state| state.task(&upid).unwrap().exitstatus.clone());
                if let Some(status) = status {
                    return status;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        assert_eq!(started(950), "OK");
        let told = std::fs::read_to_string(told).unwrap();
        assert!(told.contains("start 950\nhostname: CT950\n"), "{told}");
        let failed = started(951);
        assert!(failed.contains("guest hook start 951: no such luck"), "{failed}");
    }
}
