//! The shell programs in a real shell: scripts run at most once, whatever their environment and output.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use crate::pve::Vmid;

use super::command::Command;
use super::node::{self, NodeLayout, RawLine, RawLinesAnswer};
use super::probes::{self, BatchAnswer, GuestProbe, Lines};
use super::runner::{self, AnswerError, GuestFile, Layout, ProbeAnswer, Record, Script, State};

/// Shells of this machine that guests have as well.
fn shells() -> Vec<&'static str> {
    ["/bin/sh", "/bin/bash", "/bin/ash"]
        .into_iter()
        .filter(|s| Path::new(s).exists())
        .collect()
}

struct Guest {
    folder: tempfile::TempDir,
    shell: &'static str,
}

impl Guest {
    fn new(shell: &'static str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            shell,
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn layout(&self) -> Layout {
        Layout {
            spool: self.path("run"),
            records: self.path("lib"),
            systemd: false,
            bound: 64 << 10,
        }
    }

    /// Runs what `pct exec` would run in the guest.
    fn run(&self, command: &Command) -> String {
        assert_eq!(command.argv[..2], ["pct", "exec"]);
        assert_eq!(command.argv[3..], ["--", "/bin/sh", "-s"]);
        let (_, stdout, stderr) = pipe(self.shell, &["-s"], &command.stdin);
        assert_eq!(stderr, "", "the runner itself says nothing on stderr");
        stdout
    }

    fn script(&self, body: &str) -> Script {
        Script {
            id: "feature-x".into(),
            hash: "abc".into(),
            attempt: 1,
            body: body.into(),
            path: None,
            args: vec![],
            environment: BTreeMap::new(),
            files: vec![],
            workdir: Some(self.folder.path().to_str().unwrap().to_owned()),
            deadline_seconds: None,
            keep_output: true,
            run_as: None,
        }
    }

    fn start(&self, script: &Script) -> Record {
        Record::parse(&self.run(&runner::start(Vmid::nearest(100), script, &self.layout()).unwrap())).unwrap()
    }

    fn poll(&self, hash: Option<&str>) -> Record {
        Record::parse(&self.run(&runner::poll(Vmid::nearest(100), "feature-x", hash, &self.layout()).unwrap())).unwrap()
    }

    fn finish(&self) -> Record {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let record = self.poll(None);
            if !matches!(record.state, State::Running | State::Starting) {
                return record;
            }
            assert!(Instant::now() < patience, "still {record:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

fn pipe(program: &str, args: &[&str], stdin: &[u8]) -> (u32, String, String) {
    let mut child = Process::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    let feed = std::thread::spawn(move || {
        let _ = input.write_all(&bytes);
    });
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap() as u32,
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_script_runs_detached_and_its_end_is_recorded() {
    for shell in shells() {
        let guest = Guest::new(shell);
        let record = guest.start(&guest.script("echo begin; sleep 1; echo end >&2; exit 7\n"));
        assert!(record.started_now && !record.busy, "{shell} {record:?}");
        assert_eq!(record.state, State::Running, "it returns while the script runs");
        let record = guest.finish();
        assert_eq!(
            (record.state, record.exit, record.attempt),
            (State::Finished, Some(7), 1)
        );
        assert_eq!(record.output(), "begin\nend\n");
        assert_eq!(record.hash.as_deref(), Some("abc"));
        assert!(record.ended.unwrap() > record.started.unwrap());
    }
}

#[test]
fn the_same_run_is_started_at_most_once() {
    for shell in shells() {
        let guest = Guest::new(shell);
        let script = guest.script("echo ran >>ran; while [ ! -e go ]; do sleep 0.1; done\n");
        assert!(guest.start(&script).started_now);
        let again = guest.start(&script);
        assert_eq!((again.started_now, again.state), (false, State::Running), "{shell}");
        fs::write(guest.path("go"), "").unwrap();
        assert_eq!(guest.finish().exit, Some(0));
        let again = guest.start(&script);
        assert_eq!((again.started_now, again.state), (false, State::Finished));
        assert_eq!(guest.text("ran"), "ran\n");
        assert!(
            guest
                .start(&Script {
                    attempt: 2,
                    ..script.clone()
                })
                .started_now,
            "asked for once more"
        );
        assert_eq!(guest.finish().attempt, 2);
        assert_eq!(guest.text("ran"), "ran\nran\n");
        assert!(!guest.start(&script).started_now, "an old request comes late");
    }
}

#[test]
fn many_starts_at_once_run_it_once() {
    let guest = Guest::new("/bin/sh");
    let script = guest.script("echo ran >>ran; cat \"$PHOENIX_FILE\"\n");
    let script = Script {
        environment: [("PHOENIX_FILE".into(), guest.path("ran").into())].into(),
        ..script
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| guest.start(&script));
        }
    });
    let record = guest.finish();
    assert_eq!(
        (record.exit, guest.text("ran").as_str()),
        (Some(0), "ran\n"),
        "{}",
        record.output()
    );
}

#[test]
fn a_changed_script_waits_for_the_old_one_and_then_replaces_its_record() {
    let guest = Guest::new("/bin/sh");
    let old = guest.script("sleep 2\n");
    guest.start(&old);
    let new = Script {
        hash: "def".into(),
        body: "true\n".into(),
        ..old.clone()
    };
    let turned_down = guest.start(&new);
    assert!(turned_down.busy && !turned_down.started_now);
    assert_eq!(turned_down.hash.as_deref(), Some("abc"));
    assert_eq!(guest.poll(Some("def")).state, State::Absent);
    guest.finish();
    assert!(guest.start(&new).started_now);
    assert_eq!(guest.finish().hash.as_deref(), Some("def"));
    // Going back to the old text has to run it again: what it did has been overlaid.
    assert_eq!(guest.poll(Some("abc")).state, State::Absent);
    assert!(guest.start(&old).started_now);
}

#[test]
fn the_environment_arrives_byte_for_byte_and_in_no_argument() {
    let nasty = "it's \"quoted\" $(touch pwned) `x` \\ back\\nslash\n\n two\ttabs á Á 日本 \u{81} %s ; & | * ~ #\n";
    for shell in shells() {
        let guest = Guest::new(shell);
        let body = "printf %s \"$PHOENIX_NASTY\" >value; printf %s \"$1\" >argument\n\
                    tr '\\0' ' ' <\"/proc/$$/cmdline\" >line; env >all; ls \"$PHOENIX_SPOOL_OF_TEST\"\n";
        let script = Script {
            environment: [
                ("PHOENIX_NASTY".to_owned(), nasty.into()),
                ("PHOENIX_EMPTY".to_owned(), "".into()),
                (
                    "PHOENIX_SPOOL_OF_TEST".to_owned(),
                    guest.path("run/feature-x/abc.1").into(),
                ),
            ]
            .into(),
            args: vec![nasty.to_owned()],
            ..guest.script(body)
        };
        let command = runner::start(Vmid::nearest(100), &script, &guest.layout()).unwrap();
        assert!(!command.line(true).contains("quoted") && !format!("{command:?}").contains("quoted"));
        Record::parse(&guest.run(&command)).unwrap();
        let record = guest.finish();
        assert_eq!(record.exit, Some(0), "{}", record.output());
        assert_eq!(guest.text("value"), nasty, "{shell}");
        assert_eq!(guest.text("argument"), nasty, "{shell}");
        assert!(guest.text("all").contains("PHOENIX_EMPTY=\n") && guest.text("all").contains("HOME=/root\n"));
        assert!(
            !guest.text("all").contains("PHOENIX_HASH"),
            "the runner's own names stay its own"
        );
        assert!(
            !record.output().contains("env"),
            "the environment is gone from the spool: {}",
            record.output()
        );
        assert!(!Path::new(&guest.path("pwned")).exists());
    }
}

#[test]
fn files_modes_workdir_and_interpreters_are_as_asked() {
    let guest = Guest::new("/bin/sh");
    let binary: Vec<u8> = (0..=255).collect();
    let script = Script {
        path: Some(guest.path("phoenix_run/run.sh")),
        workdir: Some(guest.path("phoenix_run")),
        args: vec!["950".into()],
        files: vec![
            GuestFile { path: guest.path("phoenix_run/a b.json"), mode: "0640".into(), content: binary.clone() },
            GuestFile { path: guest.path("phoenix_run/empty"), mode: "644".into(), content: vec![] },
        ],
        ..guest.script("#!/bin/bash -e\n[[ \"$(dirname \"$0\")\" == \"$PWD\" ]]\ncp 'a b.json' copy\necho \"$BASH_VERSION $1\"; umask\n")
    };
    guest.start(&script);
    let record = guest.finish();
    assert_eq!(record.exit, Some(0), "{}", record.output());
    assert!(record.output().contains(" 950\n0022"), "{}", record.output());
    assert_eq!(fs::read(guest.path("phoenix_run/copy")).unwrap(), binary);
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(guest.path(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(
        (
            mode("phoenix_run/a b.json"),
            mode("phoenix_run/empty"),
            mode("phoenix_run")
        ),
        (0o640, 0o644, 0o755)
    );
    assert_eq!(
        (mode("run"), mode("run/feature-x"), mode("lib/feature-x")),
        (0o700, 0o700, 0o700)
    );
}

#[test]
fn a_daemon_that_the_script_leaves_behind_does_not_hold_it_up() {
    let guest = Guest::new("/bin/sh");
    let begun = Instant::now();
    guest.start(&guest.script("sleep 300 &\necho $! >daemon\nexit 3\n"));
    assert_eq!(guest.finish().exit, Some(3));
    assert!(begun.elapsed() < Duration::from_secs(200));
    let pid = guest.text("daemon").trim().to_owned();
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the daemon lives on");
    assert_eq!(pipe("/bin/kill", &[&pid], b"").0, 0);
}

#[test]
fn a_script_past_its_deadline_is_stopped() {
    let guest = Guest::new("/bin/sh");
    guest.start(&Script {
        deadline_seconds: Some(1),
        ..guest.script("echo begun; sleep 300; echo never\n")
    });
    let record = guest.finish();
    assert_eq!((record.exit, record.output().as_str()), (Some(124), "begun\n"));
}

#[test]
fn a_run_that_was_cut_off_is_told_from_one_that_runs() {
    let guest = Guest::new("/bin/sh");
    let script = guest.script("sleep 300\n");
    guest.start(&script);
    let answer = guest.run(&runner::poll(Vmid::nearest(100), "feature-x", Some("abc"), &guest.layout()).unwrap());
    let pid = answer.lines().find_map(|l| l.strip_prefix("pid=")).unwrap();
    // The wrapper leads a session of its own, and the script another.
    let child = guest.text("run/feature-x/abc.1/child");
    let child = child.split(' ').next().unwrap();
    for group in [pid, child] {
        assert_eq!(pipe("/bin/kill", &["-9", "--", &format!("-{group}")], b"").0, 0);
    }
    let record = guest.finish();
    assert_eq!((record.state, record.exit), (State::Interrupted, None));
    assert!(!guest.start(&script).started_now, "nothing is repeated unasked");
    assert!(
        guest
            .start(&Script {
                attempt: 2,
                body: "exit 0\n".into(),
                ..script
            })
            .started_now
    );
    assert_eq!(guest.finish().exit, Some(0));
}

#[test]
fn a_run_is_told_from_those_of_another_start_of_the_guest() {
    let guest = Guest::new("/bin/sh");
    let script = guest.script("true\n");
    let record = |n: u32| guest.path(&format!("lib/feature-x/run.abc.{n}"));
    let elsewhere = |n: u32, boot: &str| {
        let text = fs::read_to_string(record(n)).unwrap();
        let line = |l: &str| {
            if l.starts_with("boot=") {
                format!("{boot}\n")
            } else {
                format!("{l}\n")
            }
        };
        fs::write(record(n), text.lines().map(line).collect::<String>()).unwrap();
    };
    for attempt in [1, 2] {
        guest.start(&Script {
            attempt,
            ..script.clone()
        });
        let ended = guest.finish();
        assert_eq!((ended.this_start, ended.tries), (Some(true), Some(attempt)));
    }
    elsewhere(1, "boot=0f2e/17");
    elsewhere(2, "boot=0f2e/17");
    let ended = guest.poll(None);
    assert_eq!(
        (ended.this_start, ended.tries, ended.exit),
        (Some(false), Some(2), Some(0))
    );
    // A record that does not say, such as one that an earlier version of Phoenix wrote.
    elsewhere(2, "boot=");
    assert_eq!((guest.poll(None).this_start, guest.poll(None).tries), (None, None));
    // The next run begins to count anew.
    let long = Script {
        attempt: 3,
        body: "sleep 300\n".into(),
        ..script.clone()
    };
    let running = guest.start(&long);
    assert_eq!((running.state, running.tries), (State::Running, Some(1)));
    assert!(!Path::new(&record(1)).exists() && Path::new(&record(2)).exists());
    // After a restart another process may have the number and the start time of the one that is recorded.
    elsewhere(3, "boot=0f2e/17");
    assert_eq!(guest.poll(None).state, State::Interrupted);
    let text = fs::read_to_string(record(3)).unwrap();
    let pid = text.lines().find_map(|l| l.strip_prefix("pid=")).unwrap();
    let child = guest.text("run/feature-x/abc.3/child");
    let child = child.split(' ').next().unwrap();
    for group in [pid, child] {
        assert_eq!(pipe("/bin/kill", &["-9", "--", &format!("-{group}")], b"").0, 0);
    }
}

#[test]
fn a_run_that_is_cancelled_ends_with_all_that_it_started() {
    let cancel = |guest: &Guest, hash: &str| {
        Record::parse(&guest.run(&runner::cancel(Vmid::nearest(100), "feature-x", hash, &guest.layout()).unwrap()))
            .unwrap()
    };
    for (shell, deadline) in shells().into_iter().flat_map(|s| [(s, None), (s, Some(600))]) {
        let guest = Guest::new(shell);
        // One process heeds the request, one does not; the script itself says something last.
        let body = "sh -c 'trap \"\" TERM; while :; do sleep 1; done' & echo $! >deaf\n\
                    trap 'echo asked to end; exit 3' TERM\necho begun; : >ready\nwhile :; do sleep 1; done\n";
        let script = Script {
            deadline_seconds: deadline,
            ..guest.script(body)
        };
        assert_eq!(cancel(&guest, "abc").state, State::Absent);
        guest.start(&script);
        while !Path::new(&guest.path("ready")).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(
            cancel(&guest, "other").state,
            State::Absent,
            "another version is not meant"
        );
        assert!(!guest.poll(None).cancelled);
        for _ in 0..2 {
            let asked = cancel(&guest, "abc");
            assert_eq!((asked.state, asked.cancelled), (State::Running, true), "{shell}");
        }
        let ended = guest.finish();
        assert_eq!((ended.state, ended.cancelled), (State::Finished, true), "{shell}");
        let output = ended.output();
        assert!(
            output.starts_with("begun\n") && output.ends_with("asked to end\n"),
            "{output}"
        );
        let pid = guest.text("deaf").trim().to_owned();
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{shell}: {state}");
        // What has ended is not touched again.
        assert_eq!(cancel(&guest, "abc").exit, ended.exit);
    }
}

#[test]
fn a_user_or_folder_that_is_missing_is_said() {
    for shell in shells() {
        let guest = Guest::new(shell);
        let nobody = runner::RunAs {
            user: "no-such-user".into(),
            folder: guest.path("own"),
        };
        guest.start(&Script {
            run_as: Some(nobody),
            ..guest.script("touch ran\n")
        });
        let record = guest.finish();
        assert_eq!(record.exit, Some(126));
        assert!(record.output().contains("no user no-such-user"), "{}", record.output());
        guest.start(&Script {
            attempt: 2,
            workdir: Some(guest.path("nowhere")),
            ..guest.script("touch ran\n")
        });
        let record = guest.finish();
        assert_eq!(record.exit, Some(126));
        assert!(
            record.output().contains("cannot enter the working directory"),
            "{}",
            record.output()
        );
        assert!(!Path::new(&guest.path("ran")).exists());
    }
}

#[test]
fn long_output_keeps_its_start_and_its_end_within_bounds() {
    let guest = Guest::new("/bin/sh");
    // Written without a pause, so that much of it comes while the spool is being cut; a line lost or torn would show.
    // The end waits until the spool has been cut for good.
    let body = "echo first line\ni=0; while [ $i -lt 200000 ]; do i=$((i+1)); echo \"line $i\"; done\n\
                until [ \"$(stat -L -c %b /proc/$$/fd/1)\" -lt 300 ]; do sleep 1; done\necho last line\n";
    // The spool stays to be looked at.
    guest.start(&Script {
        keep_output: false,
        ..guest.script(body)
    });
    let record = guest.finish();
    let output = record.output();
    assert!(output.starts_with("first line\nline 1\nline 2\n"), "{output}");
    assert!(output.ends_with("line 199999\nline 200000\nlast line\n"), "{output}");
    assert!(output.contains("bytes left out") && output.len() < 40_000);
    let written: usize = (1..=200_000).map(|i| format!("line {i}\n").len()).sum();
    assert_eq!(
        record.output_size as usize,
        "first line\n".len() + written + "last line\n".len()
    );
    let spooled = fs::metadata(guest.path("run/feature-x/abc.1/output")).unwrap();
    let kept = std::os::unix::fs::MetadataExt::blocks(&spooled) * 512;
    assert!(kept < 200_000, "the spool is bounded: {kept}");
}

#[test]
fn what_a_script_said_is_kept_beside_its_record_and_nothing_else() {
    let files = |guest: &Guest, folder: &str| {
        let entries = fs::read_dir(guest.path(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let settled = |guest: &Guest, wanted: &[&str]| {
        let patience = Instant::now() + Duration::from_secs(60);
        let spool = format!("run/feature-x/{}", wanted[0].strip_prefix("output.").unwrap());
        while files(guest, "lib/feature-x") != wanted || !files(guest, &spool).is_empty() {
            assert!(Instant::now() < patience, "{:?}", files(guest, "lib/feature-x"));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for shell in shells() {
        let guest = Guest::new(shell);
        let script = guest.script("echo one; exit 1\n");
        guest.start(&script);
        guest.finish();
        settled(&guest, &["output.abc.1", "run.abc.1"]);
        let record = guest.poll(Some("abc"));
        let shown = (record.state, record.exit, record.output());
        assert_eq!(shown, (State::Finished, Some(1), "one\n".to_owned()), "{shell}");
        let kept = fs::metadata(guest.path("lib/feature-x/output.abc.1")).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o777,
            0o600
        );
        // The next run takes its place, and a long one leaves no more than start and end.
        let long = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo \"line $i\"; done\n";
        guest.start(&Script {
            attempt: 2,
            body: long.into(),
            ..script.clone()
        });
        guest.finish();
        settled(&guest, &["output.abc.2", "run.abc.1", "run.abc.2"]);
        let output = guest.poll(Some("abc")).output();
        assert!(output.starts_with("line 1\nline 2\n") && output.ends_with("line 19999\nline 20000\n"));
        let left_out = (1..=20_000).map(|i| format!("line {i}\n").len()).sum::<usize>() - (20 << 10);
        assert!(output.contains(&format!("[… {left_out} bytes left out …]")), "{output}");
        let kept = fs::read(guest.path("lib/feature-x/output.abc.2")).unwrap();
        assert!(kept.len() == 64 << 10 && !kept.contains(&0), "{}", kept.len());
        // A script of a template leaves its output in memory only. Files that it is given lie in the same folder.
        let install = GuestFile {
            path: guest.path("run/feature-x/install"),
            mode: "0700".into(),
            content: b"echo one\n".to_vec(),
        };
        guest.start(&Script {
            attempt: 3,
            keep_output: false,
            body: "sh run/feature-x/install\n".into(),
            files: vec![install],
            ..script
        });
        assert_eq!(guest.finish().output(), "one\n");
        assert_eq!(files(&guest, "lib/feature-x"), ["run.abc.1", "run.abc.2", "run.abc.3"]);
        assert_eq!(files(&guest, "run/feature-x"), ["abc.3", "install"]);
        assert_eq!(files(&guest, "run/feature-x/abc.3"), ["output"]);
    }
}

#[test]
fn a_program_cut_short_does_nothing() {
    let guest = Guest::new("/bin/sh");
    let command = runner::start(Vmid::nearest(100), &guest.script("true\n"), &guest.layout()).unwrap();
    let whole = command.stdin.len();
    for part in [whole / 4, whole / 2, whole * 3 / 4, whole - 20] {
        pipe("/bin/sh", &["-s"], &command.stdin[..part]);
        assert_eq!(
            fs::read_dir(guest.folder.path()).unwrap().count(),
            0,
            "{part} of {whole} bytes"
        );
    }
}

#[test]
fn what_the_guest_cannot_do_is_said() {
    let guest = Guest::new("/bin/sh");
    fs::write(guest.path("lib"), "a file where a folder has to be").unwrap();
    let command = runner::start(Vmid::nearest(100), &guest.script("true\n"), &guest.layout()).unwrap();
    let (exit, stdout, _) = pipe("/bin/sh", &["-s"], &command.stdin);
    assert_eq!(exit, 3);
    assert!(matches!(Record::parse(&stdout), Err(AnswerError::Guest(why)) if why.contains("cannot make")));
    assert!(matches!(Record::parse(""), Err(AnswerError::Protocol(_))));
}

#[test]
fn bad_names_are_refused_before_anything_is_sent() {
    let guest = Guest::new("/bin/sh");
    let good = guest.script("true\n");
    let refused = |script: Script| {
        runner::start(Vmid::nearest(100), &script, &guest.layout())
            .unwrap_err()
            .to_string()
    };
    // A name of the schema has 63 characters.
    let longest = Script {
        id: format!("feature-{}", "x".repeat(63)),
        ..good.clone()
    };
    assert!(runner::start(Vmid::nearest(100), &longest, &guest.layout()).is_ok());
    for id in ["", "../x", "a b", "a;b", &"x".repeat(runner::LONGEST_ID + 1)] {
        assert!(
            refused(Script {
                id: id.into(),
                ..good.clone()
            })
            .contains("script id")
        );
    }
    assert!(
        refused(Script {
            hash: "$(x)".into(),
            ..good.clone()
        })
        .contains("script hash")
    );
    let variable = Script {
        environment: [("A-B".to_owned(), "s3cret".into())].into(),
        ..good.clone()
    };
    assert!(refused(variable).contains("environment variable"));
    let nul = refused(Script {
        environment: [("A".to_owned(), "s3cret\0".into())].into(),
        ..good.clone()
    });
    assert!(nul.contains("NUL") && !nul.contains("s3cret"));
    for (path, mode) in [("relative", "0644"), ("/folder/", "0644"), ("/a", "0999"), ("/a", "rw")] {
        let file = GuestFile {
            path: path.into(),
            mode: mode.into(),
            content: vec![],
        };
        let error = refused(Script {
            files: vec![file],
            ..good.clone()
        });
        assert!(error.contains("file"), "{path} {mode}: {error}");
    }
}

#[test]
fn files_are_written_as_they_are() {
    let guest = Guest::new("/bin/sh");
    let file = GuestFile {
        path: guest.path("deep/er/fi'le"),
        mode: "0600".into(),
        content: b"a\0b\n".to_vec(),
    };
    let path = file.path.clone();
    guest.start(&Script {
        files: vec![file],
        ..guest.script("true\n")
    });
    assert_eq!(fs::read(&path).unwrap(), b"a\0b\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn probes_give_exit_code_and_output() {
    for shell in shells() {
        let guest = Guest::new(shell);
        let probe = |words: &[&str], seconds| {
            let argv: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            ProbeAnswer::parse(&guest.run(&runner::probe(Vmid::nearest(100), &argv, seconds, &guest.layout()))).unwrap()
        };
        let answer = probe(&["/bin/sh", "-c", "echo \"it's $1\"; exit 4", "x", "a  b"], 5);
        assert_eq!(
            answer,
            ProbeAnswer {
                exit: 4,
                output: "it's a  b\n".into()
            },
            "{shell}"
        );
        assert_eq!(probe(&["sleep", "60"], 1).exit, 124);
        assert_ne!(probe(&["/no/such/program"], 5).exit, 0);
    }
}

const CONFIG: &str =
    "#a note\narch: amd64\nhostname: x\nlxc.cap.drop: sys_time\nlxc.old = 1\n\n[snap]\nlxc.old: 1\nlock: not ours\n";

fn edit(config: &str, add: &[&str], remove: &[&str], digest: Option<&str>) -> (RawLinesAnswer, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let layout = NodeLayout {
        configs: path(""),
        locks: path(""),
    };
    fs::write(path("100.conf"), config).unwrap();
    let lines = |list: &[&str]| list.iter().map(|l| RawLine::parse(l).unwrap()).collect::<Vec<_>>();
    let digest = digest.map_or_else(|| sha1_of(config), str::to_owned);
    let command = node::raw_lines(Vmid::nearest(100), &lines(add), &lines(remove), &digest, &layout);
    assert_eq!(command.argv, ["/bin/sh", "-s"]);
    let (exit, stdout, stderr) = pipe("/bin/sh", &["-s"], &command.stdin);
    let after = fs::read_to_string(path("100.conf")).unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["100.conf", "pve-config-100.lock"], "nothing is left behind");
    (RawLinesAnswer::parse(exit, &stdout, &stderr), after)
}

fn sha1_of(text: &str) -> String {
    use sha1::Digest;
    sha1::Sha1::digest(text).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn raw_lines_are_added_and_removed_above_the_first_section() {
    let (answer, after) = edit(
        CONFIG,
        &["lxc.apparmor.profile: unconfined", "lxc.cap.drop=sys_time"],
        &["lxc.old: 1"],
        None,
    );
    let expected = "#a note\narch: amd64\nhostname: x\nlxc.cap.drop: sys_time\n\
                    lxc.apparmor.profile: unconfined\n\n[snap]\nlxc.old: 1\nlock: not ours\n";
    assert_eq!(after, expected);
    assert_eq!(
        answer,
        RawLinesAnswer::Done {
            digest: sha1_of(expected),
            changed: true
        }
    );
    // Asked for once more: nothing is written.
    let (answer, again) = edit(expected, &["lxc.apparmor.profile = unconfined"], &["lxc.old: 1"], None);
    assert_eq!(
        answer,
        RawLinesAnswer::Done {
            digest: sha1_of(expected),
            changed: false
        }
    );
    assert_eq!(again, expected);
}

#[test]
fn raw_lines_of_a_config_without_sections_go_to_its_end() {
    let nasty = "lxc.hook.x: it's $(x) \\n %s";
    let (_, after) = edit(
        "arch: amd64\n",
        &["lxc.mount.entry: /a b none bind,create=file 0 0", nasty],
        &[],
        None,
    );
    assert_eq!(
        after,
        format!("arch: amd64\nlxc.mount.entry: /a b none bind,create=file 0 0\n{nasty}\n")
    );
}

#[test]
fn a_config_that_is_locked_or_changed_is_left_alone() {
    let (answer, after) = edit(CONFIG, &["lxc.a: 1"], &[], Some(&"0".repeat(40)));
    assert_eq!((answer, after.as_str()), (RawLinesAnswer::Modified, CONFIG));
    let locked = format!("lock: backup\n{CONFIG}");
    let (answer, after) = edit(&locked, &["lxc.a: 1"], &[], None);
    assert_eq!((answer, after), (RawLinesAnswer::Locked("backup".into()), locked));
    for bad in ["memory: 5", "lxc.a", "lxc.: x", "lxc.a: x\nrootfs: y", "lxc.a b: c"] {
        assert!(RawLine::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_node_changes_a_config_in_one_command() {
    let set = [("dev0".to_owned(), "path=/dev/nvidia0,mode=0666".to_owned())];
    let line = node::set(
        "pct",
        Vmid::nearest(100),
        &set,
        &["dev1".into(), "dev2".into()],
        Some("abc"),
    )
    .line(true);
    assert_eq!(
        line,
        "sudo -n -- pct set 100 --dev0 path=/dev/nvidia0,mode=0666 --delete dev1,dev2 --digest abc"
    );
}

/// A batch on a node whose `lxc-attach` runs what it is given right here, and knows one guest that lets nobody in and one
/// that does not run.
#[test]
fn probes_of_a_batch_answer_each_for_itself_as_soon_as_they_can() {
    for shell in shells() {
        let guest = Guest::new(shell);
        let bin = guest.path("bin");
        fs::create_dir(&bin).unwrap();
        let attach = format!("{bin}/lxc-attach");
        let text = "#!/bin/sh\nshift\ncase $1 in\n666) exec sleep 60 ;;\n404) echo 'lxc-attach: 404: no init' >&2; exit 1 ;;\nesac\n\
                    shift 2\nexec \"$@\"\n";
        fs::write(&attach, text).unwrap();
        fs::set_permissions(&attach, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let argv = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        let probe = |vmid, words: &[&str]| GuestProbe {
            vmid,
            argv: argv(words),
            seconds: 1,
        };
        let evil = "it's $(reboot) \"quoted\"\nand a line";
        let mut list = vec![
            probe(Vmid::nearest(666), &["true"]),
            probe(Vmid::nearest(404), &["true"]),
            probe(Vmid::nearest(101), &["true"]),
            probe(
                Vmid::nearest(102),
                &["sh", "-c", "printf %s \"$1\"; exit 7", "sh", evil],
            ),
            probe(Vmid::nearest(103), &["sleep", "30"]),
            probe(
                Vmid::nearest(104),
                &["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo end; exit 1"],
            ),
        ];
        // More than run at a time.
        list.extend((200..230).map(|vmid| probe(Vmid::nearest(vmid), &["sh", "-c", &format!("echo {vmid}; exit 1")])));
        let command = probes::batch(&list, &guest.layout());
        assert_eq!(command.argv, ["/bin/sh", "-s"]);
        let program = String::from_utf8(command.stdin).unwrap();
        let program = program.replace("\nPATH=${PATH:-/usr/bin}:", &format!("\nPATH={bin}:"));
        let (code, stdout, stderr) = pipe(shell, &["-s"], program.as_bytes());
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        assert!(
            stdout.lines().all(|line| line.len() < 4096),
            "a longer line could mix with others"
        );
        let mut lines = Lines::default();
        // In pieces, as a connection brings them.
        let pieces = stdout
            .as_bytes()
            .chunks(7)
            .flat_map(|piece| lines.push(piece))
            .collect::<Vec<_>>();
        let mut answers: Vec<_> = pieces.iter().filter_map(|line| probes::answer(line)).collect();
        assert_eq!(
            answers.last().map(|(n, _)| *n),
            Some(0),
            "the one that hangs comes last: {shell}"
        );
        answers.sort_by_key(|(n, _)| *n);
        assert_eq!(answers.len(), list.len(), "{shell}");
        let ran = |exit, output: &str| {
            BatchAnswer::Ran(ProbeAnswer {
                exit,
                output: output.to_owned(),
            })
        };
        let said = |n: usize| answers[n].1.clone();
        assert_eq!(said(0), BatchAnswer::Late);
        assert_eq!(said(1), BatchAnswer::NotRun("lxc-attach: 404: no init".into()));
        assert_eq!(said(2), ran(0, ""));
        assert_eq!(said(3), ran(7, evil));
        assert_eq!(said(4), ran(124, ""));
        let BatchAnswer::Ran(long) = said(5) else {
            panic!("{:?}", said(5))
        };
        assert!(long.output.ends_with("xend\n") && long.output.len() <= 1024);
        for (n, vmid) in (200..230).enumerate() {
            assert_eq!(said(6 + n), ran(1, &format!("{vmid}\n")));
        }
    }
}
