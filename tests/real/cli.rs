//! `phoenix apply`, `exec`, `logs` and `test` as people type them, on manifests.

use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

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
    streams(folder.path(), &run);
    ends_what_it_started(folder.path(), &run);
    lends_its_terminal(folder.path());

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

fn exec(folder: &Path, command: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args(["exec", "-f", folder.to_str().unwrap(), "box", "--"])
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a command says arrives while it runs, byte for byte and whole, and what it is given arrives there.
fn streams(folder: &Path, run: &dyn Fn(&[&str], &[u8]) -> Output) {
    let ask = "echo name?; read name; echo \"hello $name\"; read more; echo \"more: $more\"";
    let mut child = exec(folder, &["/bin/sh", "-c", ask]);
    let mut input = child.stdin.take().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "name?");
    input.write_all(b"you\n").unwrap();
    assert_eq!(next(), "hello you");
    drop(input);
    assert_eq!(next(), "more: ");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let much = "head -c 3000000 /dev/zero; printf '\\377'; head -c 2000000 /dev/zero >&2";
    let output = run(&["exec", "box", "--", "/bin/sh", "-c", much], b"");
    assert_eq!((output.stdout.len(), output.stderr.len()), (3_000_001, 2_000_000));
    assert_eq!(output.stdout.last(), Some(&0xff));
    // Whoever has read enough ends the command.
    let mut child = exec(folder, &["yes", "4711"]);
    let mut line = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    assert!(!runs(run, "yes 4711"));
}

/// Whether a process with this command line is in the container.
fn runs(run: &dyn Fn(&[&str], &[u8]) -> Output, line: &str) -> bool {
    let look = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null";
    let output = run(&["exec", "box", "--", "/bin/sh", "-c", look], b"");
    said(&output).lines().any(|l| l.trim() == line)
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// An interrupt reaches the command and all that it started; one that does not listen is killed by the second.
fn ends_what_it_started(folder: &Path, run: &dyn Fn(&[&str], &[u8]) -> Output) {
    let polite = "trap 'echo bye; exit 9' INT; echo up; sleep 4712; sleep 4712";
    let mut child = exec(folder, &["/bin/sh", "-c", polite]);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    assert!(runs(
        run,
        "/bin/sh -c trap 'echo bye; exit 9' INT; echo up; sleep 4712; sleep 4712"
    ));
    interrupt(&child);
    assert_eq!(lines.next().unwrap().unwrap(), "bye");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(!runs(run, "sleep 4712"));
    let deaf = "trap 'echo no' INT; echo up; while :; do sleep 4713; done";
    let mut child = exec(folder, &["/bin/sh", "-c", deaf]);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    interrupt(&child);
    assert_eq!(lines.next().unwrap().unwrap(), "no");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    assert!(!runs(run, "sleep 4713"));
}

/// With `-it` the command has a terminal of the right size, and what is typed reaches it.
fn lends_its_terminal(folder: &Path) {
    let inside = "tty; stty size; read line; echo \"typed $line\"; exit 3";
    let line = format!(
        "stty rows 33 cols 111; {} exec -f {} -it box -- /bin/sh -c '{inside}'",
        env!("CARGO_BIN_EXE_phoenix"),
        folder.display()
    );
    let mut child = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut shown = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    // What is typed before the command asks for it may be lost on the way through the terminals.
    while !text.contains("33 111") {
        assert_ne!(shown.read_line(&mut text).unwrap(), 0, "{text}");
    }
    input.write_all(b"words\r").unwrap();
    shown.read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    drop(input);
    assert!(text.contains("/dev/") && text.contains("typed words"), "{text}");
    assert_eq!(status.code(), Some(3), "{text}");
    // Without a terminal there is none to lend.
    let refused = phoenix(folder, &["exec", "-it", "box", "--", "true"], b"");
    assert!(!refused.status.success() && said(&refused).contains("-t needs a terminal"));
}

/// What a unit says after `logs --follow` was started is shown too.
fn follows(folder: &Path, run: &dyn Fn(&[&str], &[u8]) -> Output) {
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
