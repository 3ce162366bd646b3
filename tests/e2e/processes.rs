//! The harness keeps its word: what it starts ends, and ends the way that it was told to.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::process::Process;

fn log(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.log", std::process::id()))
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn exists(pid: u32) -> bool {
    let mut probe = shell(&format!("kill -0 {pid}"));
    probe.stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn dropped_process_is_gone() {
    let log = log("dropped");
    let process = Process::start("sleeper", &shell("exec sleep 600"), &log);
    let pid = process.pid();
    assert!(exists(pid));
    drop(process);
    assert!(!exists(pid));
    std::fs::remove_file(log).unwrap();
}

#[test]
fn killed_process_says_so_and_another_exit_code_is_its_own() {
    let path = log("killed");
    let mut killed = Process::start("sleeper", &shell("exec sleep 600"), &path);
    assert_eq!(killed.ended(), None);
    killed.signal("KILL");
    assert_eq!(killed.wait().code(), Some(128 + 9));

    let script = "trap 'echo asked to stop; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut asked = Process::start("polite", &shell(script), &path);
    crate::harness::wait_for("the trap to be set", || {
        asked.log().contains("ready").then_some(()).ok_or("not ready")
    });
    asked.signal("TERM");
    assert_eq!(asked.wait().code(), Some(3));
    assert!(asked.log_tail().ends_with("asked to stop"), "{}", asked.log_tail());
    std::fs::remove_file(path).unwrap();
}
