//! Ten thousand mutated legacy files: whatever is in them, there is a report that accounts for every value, and what is
//! written reads back as valid objects.
//!
//! Each case is one small file of one guest or two, so that all of them take seconds and run wherever tests run. They are
//! spread over tests, which run side by side. Admission judges every object within the conversion.

use std::sync::LazyLock;

use phoenix::convert::Role;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use crate::properties::{MACHINE_KEYS, apply, change, odd};
use crate::support::*;

/// Cases of each of three tests. Most of their time goes into the CEL rules of what is written.
const CASES: u32 = 600;
/// Cases of each of the two tests whose objects are small.
const SMALL_CASES: u32 = 2600;
/// Cases of the test of keys with a letter too much, too few or another.
const LETTER_CASES: u32 = 600;
/// Cases of the test whose files are mostly broken: with the others ten thousand.
const BYTES_CASES: u32 = 10_000 - 3 * CASES - 2 * SMALL_CASES - LETTER_CASES;

/// Containers of the real files, old and new, by id.
static CONTAINERS: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
    let files = [
        legacy("phoenix_lxc_configs.json"),
        include_bytes!("later/2025-11-25.json").to_vec(),
    ];
    let configs = files
        .iter()
        .map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap()["lxc_configs"].clone());
    let mut all: Vec<(String, Value)> = configs
        .flat_map(|configs| configs.as_object().unwrap().clone())
        .collect();
    for (_, config) in &mut all {
        // Of its own: what it is cloned from would have to stand in the same file.
        let config = config.as_object_mut().unwrap();
        if config.remove("clone_from_ctid").is_some() {
            config.insert("template".into(), json!("local:vztmpl/debian.tar.zst"));
        }
    }
    all
});

/// An engine configuration that has every section.
fn engine() -> Value {
    json!({
        "ModelConfig": {"model": "org/m", "dtype": "auto", "max_model_len": 4096, "served_model_name": ["a", "b"], "hf_overrides": {"a": 1}},
        "CacheConfig": {"quantization": "fp8", "gpu_memory_utilization": 0.5, "cache_dtype": "auto", "enable_prefix_caching": false},
        "ParallelConfig": {"tensor_parallel_size": 1},
        "SchedulerConfig": {"max_num_seqs": 8, "enable_chunked_prefill": true},
        "ServerConfig": {"host": "0.0.0.0", "port": 8000, "api_key": "k", "environment": {"HF_HOME": "/m", "X": "1"}, "args": ["--seed", "1"]},
    })
}

fn check(role: Role, document: &Value) -> Result<(), TestCaseError> {
    let inputs = [input("x.json", role, document.to_string())];
    let output = phoenix::convert::convert(&inputs, &options()).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
    reads_back(&inputs, &output).map_err(TestCaseError::fail)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn any_container_ends_with_a_report(which in any::<Index>(), changes in proptest::collection::vec(change(), 1..12)) {
        let (id, config) = which.get(&CONTAINERS);
        let mut file = json!({"lxc_configs": {(id): config}});
        changes.iter().for_each(|c| apply(&mut file, c));
        check(Role::Lxc, &file)?;
    }

    #[test]
    fn any_engine_configuration_ends_with_a_report(changes in proptest::collection::vec(change(), 1..8), as_text in any::<bool>()) {
        let mut config = json!({ "c": engine() });
        changes.iter().for_each(|c| apply(&mut config, c));
        let config = if as_text { json!(config["c"].to_string()) } else { config["c"].clone() };
        let guest = json!({"name": "one", "template": "local:vztmpl/debian.tar.zst", "vllm_engine_config": config});
        check(Role::Lxc, &json!({"lxc_configs": {"950": guest}}))?;
    }

    #[test]
    fn any_machine_ends_with_a_report(changes in proptest::collection::vec(change(), 1..12), default in odd()) {
        let vm = json!({"vmid": 300, "name": "one", "template_image": "x.img", "cores": 2, "memory_mb": 4096, "features": ["docker"],
            "network_config": {"ip": "10.0.0.5/24", "gw": "10.0.0.1"}, "user_config": {"username": "u", "password_hash": "$6$x"},
            "volumes": [{"type": "nfs", "server": "10.0.0.2", "path": "/a", "mount_point": "/a"}]});
        let mut file = json!({"vm_defaults": {"cores": default}, "vms": [vm]});
        changes.iter().for_each(|c| apply(&mut file, c));
        check(Role::Vm, &file)?;
    }
}

proptest! {
    #![proptest_config(config(SMALL_CASES))]

    #[test]
    fn any_keys_and_values_of_a_container_end_with_a_report(pairs in proptest::collection::vec((key(), odd()), 0..8)) {
        let mut guest = Map::new();
        guest.insert("name".into(), json!("one"));
        guest.extend(pairs);
        check(Role::Lxc, &json!({"lxc_configs": {"950": guest}}))?;
    }

    #[test]
    fn any_keys_and_values_of_a_machine_end_with_a_report(pairs in proptest::collection::vec((machine_key(), odd()), 0..8)) {
        let mut guest = Map::new();
        guest.insert("vmid".into(), json!(300));
        guest.extend(pairs);
        check(Role::Vm, &json!({"vms": [guest]}))?;
    }
}

/// The key with a letter more, less, another, or two of them swapped.
fn one_letter_off(key: &str, at: Index, letter: char, how: u8) -> String {
    let mut letters: Vec<char> = key.chars().collect();
    let place = at.index(letters.len());
    match how % 4 {
        0 => letters.insert(place, letter),
        1 => drop(letters.remove(place)),
        2 => letters[place] = letter,
        _ => letters.swap(place, (place + 1) % key.len()),
    }
    letters.into_iter().collect()
}

proptest! {
    #![proptest_config(config(LETTER_CASES))]

    #[test]
    fn a_key_that_is_a_letter_off_is_accounted_for_and_the_known_one_suggested(
        key in key(), at in any::<Index>(), letter in proptest::char::range('a', 'z'), how in any::<u8>(), value in odd(),
    ) {
        let off = one_letter_off(&key, at, letter, how);
        let guest = json!({"name": "one", "template": "local:vztmpl/debian.tar.zst", off.clone(): value});
        let file = json!({"lxc_configs": {"950": guest}}).to_string();
        let inputs = [input("x.json", Role::Lxc, file)];
        let output = phoenix::convert::convert(&inputs, &options()).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        reads_back(&inputs, &output).map_err(TestCaseError::fail)?;
        let place = format!("/lxc_configs/950/{off}");
        let unknown = output.report.unknown_keys().any(|p| p == place);
        // The first and the last letter swapped are two letters off.
        let near = how % 4 != 3 || at.index(key.len()) + 1 < key.len();
        if unknown && near && off.len() > 2 {
            let said = output.report.findings.iter().any(|f| f.pointer == place && f.message.contains("did you mean"));
            prop_assert!(said, "{off} of {key}");
        }
    }
}

proptest! {
    #![proptest_config(config(BYTES_CASES))]

    #[test]
    fn any_bytes_end_with_a_report_or_with_the_reason(edits in proptest::collection::vec((any::<Index>(), any::<u8>(), 0..4u8), 1..8)) {
        let guest = json!({"name": "one", "template": "t.tar.zst", "vllm_engine_config": {"ModelConfig": {"model": "org/m"}}});
        let mut bytes = json!({"lxc_configs": {"950": guest}}).to_string().into_bytes();
        for (at, byte, how) in &edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = *byte,
                1 => bytes.insert(at, *byte),
                2 => drop(bytes.remove(at)),
                // A digit or a letter for another: the file stays readable.
                _ => bytes[at] = if bytes[at].is_ascii_alphanumeric() { b"0a9Z"[usize::from(*byte % 4)] } else { bytes[at] },
            }
        }
        let inputs = [input("x.json", Role::Lxc, bytes)];
        match phoenix::convert::convert(&inputs, &options()) {
            Ok(output) => reads_back(&inputs, &output).map_err(TestCaseError::fail)?,
            Err(unreadable) => prop_assert!(unreadable.iter().all(|u| u.file == "x.json" && !u.reason.is_empty())),
        }
    }
}

fn machine_key() -> impl Strategy<Value = String> {
    let keys = MACHINE_KEYS.iter().filter(|key| !key.contains('.'));
    proptest::sample::select(keys.map(|key| (*key).to_owned()).collect::<Vec<_>>())
}

/// A key of the real containers, or of model servers in another spelling.
fn key() -> impl Strategy<Value = String> {
    let mut keys: Vec<String> = (CONTAINERS.iter())
        .flat_map(|(_, config)| config.as_object().unwrap().keys().cloned())
        .collect();
    keys.extend(
        [
            "vllm_engine_config_json",
            "vllm_env",
            "vllmModel",
            "engine_config",
            "vllm",
            "ModelConfig",
        ]
        .map(str::to_owned),
    );
    keys.sort();
    keys.dedup();
    proptest::sample::select(keys)
}
