//! Running the real `kubectl`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// `kubectl` with one user's credentials and, where set, a namespace.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// Cluster and credentials.
    pub kubeconfig: PathBuf,
    /// Where discovery is cached; kept away from the user's own.
    pub cache: PathBuf,
    /// Put into every call when set.
    pub namespace: Option<String>,
}

/// What a call said.
#[derive(Debug)]
pub struct Answer {
    /// Whether the exit code was 0.
    pub ok: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    /// Runs `kubectl ARGS`, successful or not.
    pub fn run(&self, args: &[&str]) -> Answer {
        self.run_with(args, "")
    }

    /// Runs `kubectl ARGS` with `input` on its standard input, successful or not.
    pub fn run_with(&self, args: &[&str], input: &str) -> Answer {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(self.namespace.iter().flat_map(|ns| ["--namespace", ns.as_str()]))
            .args(args)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // On a thread of its own: neither side may block the other. kubectl may end without reading it.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        });
        Answer {
            ok: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs `kubectl ARGS`, which has to succeed; its output.
    pub fn must(&self, args: &[&str]) -> String {
        self.must_with(args, "")
    }

    /// Runs `kubectl ARGS` with `input`, which has to succeed; its output.
    pub fn must_with(&self, args: &[&str], input: &str) -> String {
        let answer = self.run_with(args, input);
        assert!(answer.ok, "kubectl {}: {}{input}", args.join(" "), answer.stderr);
        answer.stdout
    }

    /// `kubectl apply -f -` of `manifests`.
    pub fn apply(&self, manifests: &str) -> String {
        self.must_with(&["apply", "-f", "-"], manifests)
    }

    /// One object or a list, as JSON.
    pub fn get(&self, args: &[&str]) -> Value {
        let text = self.must(&[&["get", "-o", "json"], args].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// The same program with another user's credentials.
    pub fn with_kubeconfig(&self, kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            ..self.clone()
        }
    }

    /// The same user in `namespace`.
    pub fn within(&self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self.clone()
        }
    }
}
