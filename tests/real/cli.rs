//! `phoenix apply`, `exec`, `logs` and `test` as people type them, on manifests.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use phoenix::desired::Objects;
use serde_json::{Value, json};

use crate::world::{DEBIAN_12, Real, container};

/// Writes what the world's hypervisor is made of as manifests.
fn manifests(real: &Real, folder: &Path, guest: Value) {
    let mut hypervisor = serde_json::to_value(&*real.world.store.hypervisor("ai", "pve").unwrap()).unwrap();
    hypervisor["metadata"] = json!({"name": "pve", "namespace": "ai"});
    hypervisor.as_object_mut().unwrap().remove("status");
    let mut objects = vec![hypervisor, guest];
    for name in ["ca", "token", "root", "ssh"] {
        let secret = real.world.store.secret("ai", name).unwrap();
        let mut value = serde_json::to_value(&*secret).unwrap();
        (value["apiVersion"], value["kind"]) = (json!("v1"), json!("Secret"));
        objects.push(value);
    }
    let text: String = objects.iter().map(|o| format!("---\n{o:#}\n")).collect();
    std::fs::write(folder.join("all.yaml"), text).unwrap();
}

fn phoenix(folder: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    let (verb, rest) = arguments.split_first().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args([verb, "-f", folder.to_str().unwrap(), "--time-scale", "20"])
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_reach_into_guests_by_name() {
    let Some(real) = Real::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let test = "#!/bin/sh\necho \"tested $1\"\necho run >>/root/tests\n[ ! -e /root/broken ]\n";
    let fields = json!({
        "application": {"script": "#!/bin/sh\nfor n in 1 2 3; do echo \"line $n\"; done\n"},
        "tests": [{"name": "works", "script": test}],
    });
    manifests(&real, folder.path(), container("box", DEBIAN_12, fields));
    let run = |arguments: &[&str], stdin: &[u8]| phoenix(folder.path(), arguments, stdin);
    let applied = run(&["apply"], b"");
    assert!(applied.status.success(), "{}", said(&applied));

    let echo = run(
        &[
            "exec",
            "box",
            "--",
            "/bin/sh",
            "-c",
            "cat; echo \"$1\" >&2; exit 7",
            "x",
            "it's $HOME",
        ],
        b"given\n",
    );
    assert_eq!(echo.status.code(), Some(7), "{}", said(&echo));
    assert_eq!(
        (&echo.stdout[..], &echo.stderr[..]),
        (&b"given\n"[..], &b"it's $HOME\n"[..])
    );
    assert_eq!(run(&["exec", "nobody", "--", "true"], b"").status.code(), Some(2));

    let logs = run(&["logs", "box", "--lines", "2"], b"");
    assert_eq!(said(&logs), "line 2\nline 3\n");
    assert!(said(&run(&["logs", "box", "--test", "works"], b"")).starts_with("tested 1"));
    assert!(said(&run(&["logs", "box", "--unit", "dbus.service"], b"")).contains("D-Bus"));
    assert!(said(&run(&["logs", "box", "--feature", "none"], b"")).contains("nothing is kept of feature-none"));
    follows(folder.path(), &run);

    // Tests run once after provisioning and once for each request; their words are shown.
    let passed = run(&["test", "box"], b"");
    assert!(
        passed.status.success() && said(&passed).contains("works: passed"),
        "{}",
        said(&passed)
    );
    run(&["exec", "box", "--", "touch", "/root/broken"], b"");
    let failed = run(&["test", "box"], b"");
    assert!(!failed.status.success(), "{}", said(&failed));
    assert!(
        said(&failed).contains("works: failed (exit code 1)\n  tested 1"),
        "{}",
        said(&failed)
    );
    assert_eq!(
        said(&run(&["exec", "box", "--", "cat", "/root/tests"], b"")),
        "run\n".repeat(3)
    );
    let again = run(&["apply"], b"");
    assert!(said(&again).contains("nothing changed"), "{}", said(&again));
}

/// What a unit says after `logs --follow` was started is shown too.
fn follows(folder: &Path, run: &dyn Fn(&[&str], &[u8]) -> Output) {
    use std::io::BufRead;
    let mut child = Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args([
            "logs",
            "-f",
            folder.to_str().unwrap(),
            "box",
            "--unit",
            "talker.service",
            "--follow",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for word in ["first", "second"] {
        let talk = [
            "exec",
            "box",
            "--",
            "systemd-run",
            "--quiet",
            "--wait",
            "--unit=talker",
            "echo",
            word,
        ];
        let talked = run(&talk, b"");
        assert!(talked.status.success(), "{}", said(&talked));
    }
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let words: Vec<String> = lines
        .map_while(Result::ok)
        .filter(|l| ["first", "second"].contains(&l.as_str()))
        .take(2)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(words, ["first", "second"]);
}
