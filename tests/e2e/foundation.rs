//! The harness keeps its word: what it starts ends, and ends the way that it was told to; who has no right gets nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::cluster::cluster;
use crate::harness::namespace::Namespace;
use crate::harness::process::Process;
use crate::harness::wait_for;

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
    wait_for("the trap to be set", || {
        asked.log().contains("ready").then_some(()).ok_or("not ready")
    });
    asked.signal("TERM");
    assert_eq!(asked.wait().code(), Some(3));
    assert!(asked.log_tail().ends_with("asked to stop"), "{}", asked.log_tail());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn service_account_has_the_rights_of_its_role_and_no_others() {
    let namespace = Namespace::create("rights");
    namespace.kubectl.must(&["create", "serviceaccount", "somebody"]);
    let token = namespace.kubectl.must(&["create", "token", "somebody"]);
    let kubeconfig = cluster().dir.join("somebody.kubeconfig");
    cluster().kubeconfig_with_token(&kubeconfig, token.trim());
    let somebody = namespace.kubectl.with_kubeconfig(kubeconfig);

    let refused = somebody.run(&["get", "phoenixlxcs"]);
    assert!(!refused.ok);
    let who = format!("system:serviceaccount:{}:somebody", namespace.name);
    assert!(refused.stderr.contains(&who), "{}", refused.stderr);

    let role = [
        "create",
        "role",
        "reader",
        "--verb=list",
        "--resource=phoenixlxcs.phoenix-hypervisor.io",
    ];
    namespace.kubectl.must(&role);
    let account = format!("--serviceaccount={}:somebody", namespace.name);
    namespace
        .kubectl
        .must(&["create", "rolebinding", "reader", "--role=reader", &account]);
    wait_for("the role to count", || {
        let answer = somebody.run(&["get", "phoenixlxcs"]);
        if answer.ok { Ok(()) } else { Err(answer.stderr) }
    });
    assert!(!somebody.run(&["get", "phoenixvms"]).ok);
    assert!(!somebody.run(&["get", "phoenixlxcs", "--all-namespaces"]).ok);
}
