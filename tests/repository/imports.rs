//! The import rule of the architecture (see `src/lib.rs`): pure modules do no I/O, and the simulator
//! shares no code with what it is used to test.

use std::fs;
use std::path::{Path, PathBuf};

const PURE: &[&str] = &[
    "crd",
    "desired",
    "doctor",
    "observed",
    "plan",
    "status.rs",
    "convert",
    "admission",
    "estimate",
    "graph.rs",
    "install.rs",
    "pve",
    "reason.rs",
    "secret.rs",
    "ui/view",
    "ui/page",
];
const IO: &[&str] = &[
    "tokio",
    "reqwest",
    "russh",
    "kube::Client",
    "kube::client",
    "kube::Api",
    "std::fs",
    // Addresses as values (`IpAddr`) are fine; sockets are not.
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::process::Command",
    "std::thread",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "crate::engine",
    "crate::operator",
    "crate::proxmox",
    "crate::remote",
    "crate::simulator",
    "crate::standalone",
];
const SIMULATOR_FORBIDDEN: &[&str] = &[
    "crate::plan",
    "crate::desired",
    "crate::proxmox",
    "crate::observed",
    "crate::status",
    "crate::engine",
    "crate::operator",
    "crate::remote",
];

fn rust_files(path: &Path, out: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            rust_files(&entry, out);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        out.push(path.to_path_buf());
    }
}

/// Every line of code (comments left out) of `roots` that names one of `forbidden`.
fn violations(roots: &[&str], forbidden: &[&str]) -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for root in roots {
        let path = src.join(root);
        assert!(path.exists(), "{} is gone: mend this test", path.display());
        rust_files(&path, &mut files);
    }
    let mut found = Vec::new();
    for file in files {
        for (n, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = forbidden.iter().find(|w| code.contains(**w)) {
                found.push(format!("{}:{}: uses {word}", file.display(), n + 1));
            }
        }
    }
    found
}

#[test]
fn pure_modules_do_no_io() {
    let found = violations(PURE, IO);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn simulator_shares_nothing_with_the_engine() {
    let found = violations(&["simulator"], SIMULATOR_FORBIDDEN);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Proxmox's vocabulary knows nothing of who speaks it.
#[test]
fn the_vocabulary_imports_nothing_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms: Vec<String> = fs::read_dir(src)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .map(|name| format!("crate::{}", name.trim_end_matches(".rs")))
        .filter(|room| !["crate::pve", "crate::secret", "crate::lib", "crate::main"].contains(&room.as_str()))
        .collect();
    let forbidden: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let found = violations(&["pve"], &forbidden);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The API client carries out calls; it does not know why.
#[test]
fn the_client_knows_no_plan() {
    let found = violations(
        &["proxmox"],
        &[
            "crate::plan",
            "crate::desired",
            "crate::observed",
            "crate::engine",
            "crate::operator",
        ],
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Containers and machines share what is above them, and nothing of each other.
#[test]
fn the_wings_do_not_know_each_other() {
    let mut found = violations(
        &["plan/lxc", "desired/lxc.rs"],
        &["plan::vm", "desired::vm", "WantedVm"],
    );
    found.extend(violations(
        &["plan/vm", "desired/vm"],
        &["plan::lxc", "desired::lxc", "WantedLxc"],
    ));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
