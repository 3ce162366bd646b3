//! Running the real `helm`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use super::kubectl::Answer;
use super::repository;

/// The program, built by the first who asks.
pub fn program() -> PathBuf {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = Command::new(repository("e2e/build-helm.sh"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "e2e/build-helm.sh: {}", output.status);
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("helm")
    });
    PROGRAM.clone()
}

/// What `helm ARGS` says, where no cluster is needed.
pub fn helm(args: &[&str]) -> Answer {
    let output = Command::new(program())
        .args(args)
        .env("KUBECONFIG", "/dev/null")
        .output()
        .unwrap();
    Answer {
        ok: output.status.success(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The chart's folder.
pub fn chart() -> String {
    repository("charts/phoenix").display().to_string()
}
