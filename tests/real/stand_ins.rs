//! Small files in place of what is too large for tests, in the folder that a node serves at http://files.test/.

use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::node::{Node, cache};

/// Version of the driver that the NVIDIA stand-in brings.
pub const DRIVER: &str = "570.99.01";

/// What is served, and its checksums.
pub struct StandIns {
    pub runfile_sha256: String,
    pub ollama_sha256: String,
    pub llamacpp_sha256: String,
}

impl StandIns {
    pub fn make(node: &Node) -> StandIns {
        let folder = node.path("files");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/stand-ins/make.py");
        let output = Command::new("python3")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(script)
            .arg(&folder)
            .arg(cache().unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sum = |name: &str| {
            let digest = Sha256::digest(std::fs::read(folder.join(name)).unwrap());
            digest.iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        StandIns {
            runfile_sha256: sum(&Self::runfile()),
            ollama_sha256: sum("ollama-linux-amd64.tar.zst"),
            llamacpp_sha256: sum("llama-b7489-bin-ubuntu-vulkan-x64.tar.gz"),
        }
    }

    pub fn runfile() -> String {
        format!("NVIDIA-Linux-x86_64-{DRIVER}.run")
    }
}
