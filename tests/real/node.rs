//! A real node: an sshd, a `pct` that drives LXC containers, and the proxy that is their only way out
//! (e2e/node). It stops when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::engine::RealNode;

/// Divides the engine's waits: scripts take their own time, and nobody wants to wait ten seconds to hear of it.
const TIME_SCALE: f64 = 20.0;

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/node").join(name)
}

/// The cache folder, or nothing where containers cannot run: the test then has nothing to do.
pub fn cache() -> Option<&'static Path> {
    static CACHE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let prepare = || {
        let output = Command::new(script("prepare.sh")).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "e2e/node/prepare.sh: {words}");
        let folder = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        if folder.is_empty() {
            eprint!("{words}");
            return None;
        }
        Some(folder.into())
    };
    CACHE.get_or_init(prepare).as_deref()
}

pub struct Node {
    pub folder: tempfile::TempDir,
}

impl Node {
    /// Starts a node; nothing where containers cannot run.
    pub fn start() -> Option<Node> {
        cache()?;
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        fs::create_dir(&files).unwrap();
        let node = Node { folder };
        let owner = std::process::id().to_string();
        node.run(
            "up.sh",
            &[node.folder.path().to_str().unwrap(), &owner, files.to_str().unwrap()],
        );
        Some(node)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs one of the node's scripts.
    pub fn run(&self, name: &str, arguments: &[&str]) {
        // Daemons that it leaves behind would hold pipes open: it writes to files.
        let log = self.path("script.log");
        let file = fs::File::create(&log).unwrap();
        let status = Command::new(script(name))
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "{name} {arguments:?}: {}",
            fs::read_to_string(log).unwrap()
        );
    }

    /// `start`, `stop` or `cut` of the node's sshd.
    pub fn sshd(&self, what: &str) {
        self.run("sshd.sh", &[what, self.folder.path().to_str().unwrap()]);
    }

    /// Its part in a world.
    pub fn real(&self) -> RealNode {
        RealNode {
            hook: self.path("hook"),
            address: format!("127.0.0.1:{}", self.text("port").trim()),
            key: self.text("client_key"),
            known_hosts: self.text("known_hosts"),
            time_scale: TIME_SCALE,
        }
    }

    /// Tells it of the simulator's SSH server.
    pub fn connect(&self, port: u16, key: &str, known_hosts: &str) {
        use std::os::unix::fs::PermissionsExt;
        let put = |name: &str, text: &str| {
            let path = self.path("simulator").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        put("port", &port.to_string());
        put("key", key);
        put("known_hosts", known_hosts);
    }

    /// Runs a command in a container, past the engine.
    pub fn exec(&self, vmid: i64, argv: &[&str]) -> Output {
        Command::new(script("bin/pct"))
            // The container keeps the environment, as with Proxmox's: that of the test is none of its business.
            .env_remove("TMPDIR")
            .env("NODE", self.folder.path())
            .args(["exec", &vmid.to_string(), "--"])
            .args(argv)
            .output()
            .unwrap()
    }

    /// What a shell in a container prints; it has to end well.
    pub fn sh(&self, vmid: i64, script: &str) -> String {
        let output = self.exec(vmid, &["/bin/sh", "-c", script]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "in {vmid}: {script}: {}: {text}{words}",
            output.status
        );
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::env::var_os("PHOENIX_KEEP_NODE").is_some() {
            let kept = self.folder.path().to_owned();
            eprintln!("the node is kept: {}", kept.display());
            self.folder.disable_cleanup(true);
            return;
        }
        let _ = Command::new(script("down.sh")).arg(self.folder.path()).status();
    }
}
