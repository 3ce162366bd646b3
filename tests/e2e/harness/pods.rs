//! A Kubernetes node that runs pods, in namespaces of its own (`e2e/pods`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kubectl::Kubectl;
use super::process::Process;
use super::{repository, wait_for};

/// A node; it ends when it is dropped.
pub struct Node {
    /// Where its state and logs are.
    pub dir: PathBuf,
    /// `kubectl` as its administrator.
    pub admin: Kubectl,
    process: Option<Process>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.take();
        let _ = Command::new(repository("e2e/pods/reap.sh")).status();
    }
}

/// Address of the node in its own network.
pub const ADDRESS: &str = "10.99.0.1";

impl Node {
    /// Starts a node that has these image archives; `None` where pods cannot run here, which was said then.
    pub fn start(dir: &Path, images: impl FnOnce(&Path) -> Vec<PathBuf>) -> Option<Node> {
        let output = Command::new(repository("e2e/pods/prepare.sh"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "e2e/pods/prepare.sh: {}", output.status);
        let programs = String::from_utf8(output.stdout).unwrap().trim().to_string();
        if programs.is_empty() {
            return None;
        }
        std::fs::create_dir_all(dir).unwrap();
        let mut command = Command::new(repository("e2e/pods/up.sh"));
        command.arg(dir).arg(&programs).arg(pause(dir)).args(images(dir));
        let mut process = Process::start("node", &command, &dir.join("up.log"));
        wait_for("the node to be Ready", || match dir.join("up").exists() {
            true => Ok(()),
            false => match process.ended() {
                Some(status) => panic!("the node ended with {status}: {}", process.log_tail()),
                None => Err(process.log_tail()),
            },
        });
        // kubectl as the harness runs it, inside.
        let program = dir.join("kubectl");
        let within = repository("e2e/pods/in.sh");
        script(
            &program,
            &format!("exec {} {} {programs}/kubectl \"$@\"", within.display(), dir.display()),
        );
        let admin = Kubectl {
            program,
            kubeconfig: dir.join("admin.kubeconfig"),
            cache: dir.join("discovery"),
            namespace: None,
        };
        Some(Node {
            dir: dir.to_path_buf(),
            admin,
            process: Some(process),
        })
    }

    /// A command that runs inside the node.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(repository("e2e/pods/in.sh"));
        command.arg(&self.dir).arg(program);
        command
    }

    /// Output of a command inside the node, which has to succeed.
    pub fn must(&self, program: impl AsRef<OsStr>, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?}: {said}{words}");
        said
    }
}

fn script(path: &Path, line: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Lays files into an image archive.
pub fn image(archive: &Path, name: &str, files: &[(PathBuf, String)]) {
    let mut command = Command::new(repository("image/oci.py"));
    command
        .arg("--output")
        .arg(archive)
        .args(["--name", name, "--platform", "amd64"]);
    command.args(files.iter().map(|(from, to)| format!("{}={to}", from.display())));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The image that holds the namespaces of pods.
fn pause(dir: &Path) -> PathBuf {
    let (program, archive) = (dir.join("pause"), dir.join("pause.tar"));
    let built = Command::new("cc")
        .args(["-static", "-Os", "-o"])
        .arg(&program)
        .arg(repository("e2e/pods/pause.c"))
        .status()
        .unwrap();
    assert!(built.success(), "cc: {built}");
    image(&archive, "localhost/pause:1", &[(program, "/pause".into())]);
    archive
}

/// An image of the binary under test with the libraries that it is linked to here; what is shipped is static
/// (`image/build.sh`).
pub fn operator(dir: &Path) -> PathBuf {
    let (binary, archive) = (dir.join("phoenix"), dir.join("phoenix.tar"));
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&binary)
        .arg(env!("CARGO_BIN_EXE_phoenix"))
        .status()
        .unwrap();
    assert!(stripped.success(), "strip: {stripped}");
    let files = with_libraries(binary, "/phoenix");
    image(&archive, "localhost/phoenix:e2e", &files);
    archive
}

/// A program of this machine under the name that the entry point of images has, with the libraries that it is linked to.
pub fn with_libraries(binary: PathBuf, name: &str) -> Vec<(PathBuf, String)> {
    let listed = Command::new("ldd").arg(&binary).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files = vec![(binary, name.to_string())];
    files.extend(libraries.map(|path| (PathBuf::from(path), path.to_string())));
    files
}
