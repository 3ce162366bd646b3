//! A real Debian container of the test node (`e2e/node`), with the node's proxy as its only way out.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::repository;

/// Port of the container's loopback that leads to the proxy.
pub const PROXY: &str = "http://127.0.0.1:3128";
/// Its id.
const VMID: &str = "100";

pub struct Container {
    node: tempfile::TempDir,
}

fn script(name: &str) -> PathBuf {
    repository("e2e/node").join(name)
}

impl Container {
    /// A running Debian 12; nothing where containers cannot run, which is said in one line.
    pub fn start(hostname: &str) -> Option<Container> {
        let prepared = Command::new(script("prepare.sh")).output().unwrap();
        let words = String::from_utf8_lossy(&prepared.stderr);
        assert!(prepared.status.success(), "e2e/node/prepare.sh: {words}");
        if prepared.stdout.trim_ascii().is_empty() {
            eprint!("{words}");
            return None;
        }
        let container = Container {
            node: tempfile::tempdir().unwrap(),
        };
        let owner = std::process::id().to_string();
        let folder = container.node.path().to_str().unwrap().to_owned();
        container.run("up.sh", &[&folder, &owner], "");
        container.run("hook.sh", &["create", VMID, "debian-12"], "");
        container.power_on(hostname);
        Some(container)
    }

    /// Starts it and waits until its system is up: while it boots, folders such as /tmp are still made.
    pub fn power_on(&self, hostname: &str) {
        let config = format!("hostname: {hostname}\nfeatures: nesting=1\n");
        self.run("hook.sh", &["start", VMID], &config);
        // It cannot be asked before its bus is there.
        self.sh(
            "timeout 300 sh -c 'until systemctl is-system-running --wait | grep -qE \"running|degraded\"; do sleep 0.2; done'",
        );
    }

    /// Shuts it down.
    pub fn power_off(&self) {
        self.run("hook.sh", &["shutdown", VMID], "");
    }

    /// Runs one of the node's scripts. What it leaves behind would hold pipes open, so it writes to a file.
    fn run(&self, name: &str, arguments: &[&str], stdin: &str) {
        let (input, log) = (self.node.path().join("input"), self.node.path().join("script.log"));
        fs::write(&input, stdin).unwrap();
        let file = fs::File::create(&log).unwrap();
        let status = Command::new(script(name))
            .args(arguments)
            .env("NODE", self.node.path())
            .stdin(fs::File::open(input).unwrap())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        let words = fs::read_to_string(log).unwrap();
        assert!(status.success(), "{name} {arguments:?}: {words}");
    }

    fn pct(&self, arguments: &[&str]) -> Output {
        Command::new(script("bin/pct"))
            .args(arguments)
            .env("NODE", self.node.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Puts a file into it.
    pub fn put(&self, path: &str, text: &str) {
        let file = self.node.path().join("pushed");
        fs::write(&file, text).unwrap();
        let folder = path.rsplit_once('/').unwrap().0;
        self.sh(&format!("mkdir -p {folder}"));
        let output = self.pct(&["push", VMID, file.to_str().unwrap(), path, "--perms", "0644"]);
        assert!(output.status.success(), "{path}: {output:?}");
    }

    /// What a shell in it prints; it has to end well.
    pub fn sh(&self, script: &str) -> String {
        let output = self.pct(&["exec", VMID, "--", "/bin/sh", "-c", script]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {}: {text}{words}", output.status);
        text
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new(script("down.sh")).arg(self.node.path()).status();
    }
}
