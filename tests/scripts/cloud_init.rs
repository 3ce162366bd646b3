//! What Phoenix tells cloud-init, judged by the real one: Debian's package, unpacked by `e2e/install-cloud-init.sh` and
//! asked through `e2e/check-cloud-init.py`; and a seed applied in a real container. Skipped with one line where the
//! package cannot be had, or containers cannot run.

mod container;
mod seed;
mod specs;
mod wishes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where Python finds cloud-init; nothing where it cannot be had.
fn modules() -> Option<&'static str> {
    static MODULES: OnceLock<Option<String>> = OnceLock::new();
    let install = || {
        let output = Command::new(repository("e2e/install-cloud-init.sh")).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "e2e/install-cloud-init.sh: {words}");
        let folder = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        if folder.is_empty() {
            eprint!("{words}");
        }
        Some(folder).filter(|f| !f.is_empty())
    };
    MODULES.get_or_init(install).as_deref()
}

/// What cloud-init says of each document, by name.
fn judged(documents: &BTreeMap<String, String>) -> Option<BTreeMap<String, Value>> {
    let modules = modules()?;
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in documents {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let output = Command::new("python3")
        .arg(repository("e2e/check-cloud-init.py"))
        .arg(folder.path())
        .env("PYTHONPATH", modules)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "e2e/check-cloud-init.py: {words}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// What cloud-init found wrong; each part of cloud-config must have been looked at.
fn complaints(name: &str, answer: &Value) -> Vec<String> {
    let parts = answer["parts"].as_array().unwrap();
    let configs = parts.iter().filter(|p| p["type"] == "text/cloud-config").count();
    let verdicts = answer["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), configs + usize::from(configs > 0), "{name}: {answer}");
    let bad = |v: &&Value| v["code"] != 0 || v["words"].as_str().unwrap().contains("deprecat");
    verdicts.iter().filter(bad).map(|v| format!("{name}: {v}")).collect()
}

#[test]
fn the_checker_tells_good_from_bad() {
    let documents = [
        ("good", "#cloud-config\npackages: [jq]\n"),
        ("of another type", "#cloud-config\nruncmd: 3\n"),
        ("of an unknown form", "#cloud-config\nwrite_files: [{content: a}]\n"),
    ];
    let documents = documents.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let Some(answers) = judged(&documents) else { return };
    for (name, answer) in &answers {
        assert_eq!(complaints(name, answer).is_empty(), name == "good", "{answer}");
    }
}

#[test]
fn every_example_is_accepted() {
    let wishes = wishes::of_examples();
    assert!(wishes.len() >= 4, "only {:?}", wishes.keys());
    let documents: BTreeMap<_, _> = (wishes.iter())
        .filter_map(|(name, wish)| Some((name.clone(), wish.render()?)))
        .collect();
    assert!(documents.len() >= 3, "only {:?} have vendor-data", documents.keys());
    let Some(answers) = judged(&documents) else { return };
    for (name, wish) in &wishes {
        let Some(answer) = answers.get(name) else { continue };
        assert_eq!(complaints(name, answer), Vec::<String>::new());
        wish.arrived(name, answer);
    }
}

#[test]
fn two_hundred_generated_specs_are_accepted() {
    let wishes = specs::generated(200);
    let documents: BTreeMap<_, _> = (wishes.iter())
        .filter_map(|(name, wish)| Some((name.clone(), wish.render()?)))
        .collect();
    assert!(documents.len() > 150, "only {} have vendor-data", documents.len());
    let Some(answers) = judged(&documents) else { return };
    let wrong: Vec<String> = answers.iter().flat_map(|(name, a)| complaints(name, a)).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    for (name, answer) in &answers {
        wishes[name].arrived(name, answer);
    }
}

/// What the converter writes of NFS shares and packages.
#[test]
fn converted_machines_are_accepted() {
    let vms = json!({"vms": [{
        "vmid": 300, "name": "nfs", "template_image": "noble.qcow2", "storage_pool": "local-zfs",
        "network_config": {"ip": "10.0.0.50/24", "gw": "10.0.0.1"},
        "user_config": {"username": "phoenix_user", "packages": ["jq"]},
        "volumes": [
            {"type": "nfs", "server": "10.0.0.13", "path": "/quickOS/data/300", "mount_point": "/persistent-storage"},
            {"type": "nfs", "server": "nas", "path": "/b", "mount_point": "/b", "options": "soft", "read_only": true},
        ],
    }]});
    let wish = wishes::of_converted(&vms, "nfs");
    assert_eq!(wish.packages, ["jq", "nfs-common"]);
    let documents = BTreeMap::from([("nfs".to_owned(), wish.render().unwrap())]);
    let Some(answers) = judged(&documents) else { return };
    assert_eq!(complaints("nfs", &answers["nfs"]), Vec::<String>::new());
    wish.arrived("nfs", &answers["nfs"]);
    let mounts = answers["nfs"]["merged"]["mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 2);
}

/// Proxmox's own user-data stands beside ours: what it says is valid too, and nothing in it is said by us.
#[test]
fn proxmoxs_user_data_and_ours_do_not_meet() {
    let proxmox = seed::proxmox_user_data();
    let documents = BTreeMap::from([("proxmox".to_owned(), proxmox)]);
    let Some(answers) = judged(&documents) else { return };
    assert_eq!(complaints("proxmox", &answers["proxmox"]), Vec::<String>::new());
    let theirs = answers["proxmox"]["merged"].as_object().unwrap().clone();
    for key in theirs.keys() {
        let text = json!({ key: "x" });
        let refused = phoenix::desired::vm::vendor_data::check_user_data(&format!("#cloud-config\n{text}\n"));
        assert!(refused.is_err(), "user-data may set {key}, which Proxmox's sets too");
    }
}
