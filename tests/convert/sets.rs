//! Complete sets of the real user's files, of every day that the repository has: what becomes of their values, counted.
//!
//! `cargo test --test convert sets -- --nocapture` prints the counters.

use std::path::{Path, PathBuf};

use phoenix::convert::report::{Outcome, Severity};
use phoenix::convert::{Input, Options, Output, Role};
use serde_json::Value;

use crate::legacy_scripts::applications;
use crate::support::*;

const FILES: [(Role, &str); 3] = [
    (Role::Hypervisor, "phoenix_hypervisor_config.json"),
    (Role::Lxc, "phoenix_lxc_configs.json"),
    (Role::Vm, "phoenix_vm_configs.json"),
];

/// A set, and what must hold of it: per mille of the leaves that are mapped or defaulted at least, unknown keys at most, and
/// model servers.
struct Wanted {
    day: &'static str,
    accounted: usize,
    unknown: usize,
    servers: usize,
}

const SETS: [Wanted; 5] = [
    Wanted {
        day: "first",
        accounted: 959,
        unknown: 0,
        servers: 2,
    },
    Wanted {
        day: "2025-10-08",
        accounted: 909,
        unknown: 0,
        servers: 5,
    },
    Wanted {
        day: "2025-10-21",
        accounted: 918,
        unknown: 0,
        servers: 5,
    },
    Wanted {
        day: "2025-11-07",
        accounted: 909,
        unknown: 0,
        servers: 5,
    },
    Wanted {
        day: "2025-11-25",
        accounted: 930,
        unknown: 0,
        servers: 4,
    },
];

/// The folder of a set.
fn folder_of(day: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match day {
        "first" => root.join("examples/legacy"),
        day => root.join("tests/convert/later").join(day),
    }
}

/// The files of a set.
pub fn set(day: &str) -> Vec<Input> {
    let folder = folder_of(day);
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{day} {file}: {e}"));
    FILES.map(|(role, file)| input(file, role, read(file))).to_vec()
}

/// Containers of a set that have a key for vLLM with something in it.
fn asked(inputs: &[Input]) -> usize {
    let file: Value = serde_json::from_slice(&inputs[1].bytes).unwrap();
    let configs = file["lxc_configs"].as_object().unwrap().values();
    let is_set = |value: &Value| !value.is_null() && *value != serde_json::json!({}) && *value != serde_json::json!("");
    configs
        .filter(|config| {
            ["vllm_engine_config", "vllm_model"]
                .iter()
                .any(|key| is_set(&config[*key]))
        })
        .count()
}

/// Objects with a `vllm` block.
fn servers(output: &Output) -> usize {
    let manifests = output.files.keys().map(|file| manifest(output, file));
    manifests
        .filter(|m| !m["spec"]["vllm"].is_null() || !m["spec"]["lxc"]["vllm"].is_null())
        .count()
}

#[test]
fn every_set_is_converted_with_all_its_model_servers() {
    println!("set         leaves  mapped  defaulted  not mapped  accounted  unknown keys  model servers");
    let with_scripts = Options {
        applications: Some(applications()),
        ..options()
    };
    for wanted in SETS {
        let inputs = set(wanted.day);
        let output = run(&inputs, &with_scripts);
        let count = |outcome| output.report.entries.iter().filter(|e| e.outcome == outcome).count();
        let leaves = output.report.entries.len();
        let (mapped, defaulted, not) = (
            count(Outcome::Mapped),
            count(Outcome::Defaulted),
            count(Outcome::NotMapped),
        );
        let (unknown, servers) = (output.report.unknown_keys().count(), servers(&output));
        let share = (mapped + defaulted) * 1000 / leaves;
        println!(
            "{:10} {leaves:7} {mapped:7} {defaulted:10} {not:11} {:8}.{}% {unknown:13} {servers:14}",
            wanted.day,
            share / 10,
            share % 10
        );
        assert!(share >= wanted.accounted, "{}: {share} per mille", wanted.day);
        assert!(unknown <= wanted.unknown, "{}: {unknown} unknown keys", wanted.day);
        assert_eq!(servers, asked(&inputs), "{}: model servers asked for", wanted.day);
        assert_eq!(servers, wanted.servers, "{}: model servers", wanted.day);
    }
}

/// `docs/legacy-keys.md` has every key of every set.
#[test]
fn every_key_is_in_the_table_of_the_docs() {
    let table = include_str!("../../docs/legacy-keys.md");
    for wanted in SETS {
        for entry in run(&set(wanted.day), &options()).report.entries {
            let number = |token: &&str| !token.bytes().all(|b| b.is_ascii_digit());
            let named = ["/shared_volumes/", "/shared_zfs_volumes/", "/proxmox_storage_ids/"];
            let key = entry.pointer.split('/').rfind(number).unwrap();
            // Names that people gave are no keys.
            let given = named.iter().any(|above| entry.pointer.starts_with(above)) && !table.contains(key);
            let listed = table.contains(&format!("`{key}`")) || table.contains(&format!(".{key}`"));
            assert!(listed || given, "{}", entry.pointer);
        }
    }
}

#[test]
fn a_key_that_is_a_letter_off_is_named() {
    let output = container(serde_json::json!({"corse": 2, "network_confg": {"ip": "dhcp"}, "quite_another": 1}));
    for (key, known) in [("corse", "cores"), ("network_confg", "network_config")] {
        let found = finding(&output, Severity::Warning, &format!("unknown key {key:?}"));
        assert!(
            found.message.ends_with(&format!("did you mean {known:?}?")),
            "{found:?}"
        );
        assert_eq!(found.pointer, format!("/lxc_configs/950/{key}"));
    }
    let unknown: Vec<&str> = output.report.unknown_keys().collect();
    let wanted = ["corse", "network_confg/ip", "quite_another"].map(|key| format!("/lxc_configs/950/{key}"));
    assert_eq!(unknown, wanted);
}

#[test]
fn models_that_a_script_pulls_are_those_of_the_server() {
    let guest =
        serde_json::json!({"950": plain(serde_json::json!({"features": ["ollama"], "application_script": "a.sh"}))});
    let text = serde_json::json!({ "lxc_configs": guest }).to_string();
    let inputs = [input("lxc.json", Role::Lxc, text)];
    let output = run(&inputs, &folder(&[("a.sh", "ollama pull qwen3:8b\n")]));
    assert_eq!(spec(&output)["ollama"], serde_json::json!({"models": ["qwen3:8b"]}));
    let silent = run(&inputs, &folder(&[("a.sh", "true\n")]));
    assert!(spec(&silent)["ollama"].is_null());
    assert!(
        finding(&silent, Severity::Warning, "it runs Ollama")
            .fix
            .contains("spec.ollama.models")
    );
    let output = container(serde_json::json!({"name": "one", "hostname": "llamacpp"}));
    assert!(
        !findings(&output, Severity::Warning)
            .iter()
            .any(|f| f.message.contains("llama.cpp"))
    );
}
