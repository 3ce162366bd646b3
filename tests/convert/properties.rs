//! Properties: whatever is done to the real files, every leaf has exactly one entry, every manifest is valid, every
//! target exists, and nothing panics.

use std::sync::LazyLock;

use phoenix::convert::Role;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use crate::support::*;

static SAMPLES: LazyLock<[Value; 3]> = LazyLock::new(|| {
    [
        "phoenix_hypervisor_config.json",
        "phoenix_lxc_configs.json",
        "phoenix_vm_configs.json",
    ]
    .map(|file| serde_json::from_slice(&legacy(file)).unwrap())
});

/// Texts that a pattern matches. Given as a mere text, a pattern would be compiled anew for each.
fn text(pattern: &str) -> impl Strategy<Value = String> + use<> {
    proptest::string::string_regex(pattern).unwrap()
}

/// What people and programs write where something else was meant.
pub fn odd() -> impl Strategy<Value = Value> {
    let words = [
        "",
        " ",
        "none",
        "null",
        "0",
        "0,1",
        "0, 1",
        "all",
        "900",
        "950",
        "999",
        "8000",
        "true",
        "yes",
        "dhcp",
        "10.0.0.5",
        "10.0.0.5/24",
        "10.0.0.1",
        "/",
        "//",
        "/a/../b",
        "/models",
        "local:vztmpl/x",
        "a b",
        "Ünïcode",
        "UPPER.dotted_Name",
        "line\nbreak",
        "tab\tnul\u{0}",
        "'quote\": #",
        "- x",
        "lxc.net.0.type=veth",
        "lxc.a=b",
        "nesting=1",
        "--flag",
        "52:54:00:AA:BB:CC",
        "53:54:00:AA:BB:CC",
        "https://example.org/x",
        "https://",
        "x,y,z",
        "current",
        "1e5",
        "~",
        "{}",
        "[]",
    ];
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..70_000).prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::Number)),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        text(".{0,12}").prop_map(Value::from),
        text("[a-z]{0,3}x{0,400}").prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![
            text(".{0,6}"),
            Just("950".to_owned()),
            Just("name".to_owned()),
            Just("path".to_owned()),
            Just("a/b~c".to_owned())
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((key, inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A change of a document.
#[derive(Clone, Debug)]
pub enum Change {
    Replace(Index, Value),
    Remove(Index),
    Add(Index, String, Value),
    /// Puts a copy of one value where another was.
    Copy(Index, Index),
    /// Changes a little of a scalar, so that it is nearly right.
    Twist(Index, u8),
}

/// A value that is nearly what it was.
fn twist(value: &Value, how: u8) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let twisted = match how % 22 {
        0 => format!("{text}/../etc"),
        1 => format!("{text},x"),
        2 => format!(" {text} "),
        3 => text.to_uppercase(),
        4 => format!("{text},{text}"),
        5 => text.replace(|c: char| c.is_ascii_digit(), "9"),
        6 => return json!([value]),
        7 => text.chars().take(text.chars().count() / 2).collect(),
        8 => text.repeat(60),
        9 => format!("{text}\n"),
        10 => format!("{text}\u{e9}"),
        11 => format!("0{text}"),
        12 => format!("-{text}-"),
        13 => text.replace(['.', '/', ':', '-'], "_"),
        14 => text.replace('/', "//"),
        15 => format!("{text} b"),
        16 => return text.parse::<i64>().map_or(json!({"value": value}), |n| json!(n)),
        17 => return json!(value.as_i64().unwrap_or(1).wrapping_mul(100_000)),
        18 => return json!(value.as_f64().unwrap_or(0.0) - 1.5),
        19 => return json!({ "name": value, "path": value }),
        20 => return json!(value.as_i64().map_or(0, |n| -n)),
        _ => return Value::Null,
    };
    json!(twisted)
}

pub fn change() -> impl Strategy<Value = Change> {
    let keys = [
        "gpu_assignment",
        "clone_from_ctid",
        "network_config",
        "features",
        "dependencies",
        "volumes",
        "zfs_volumes",
        "firewall",
        "vllm_model",
        "vllm_args",
        "vllm_parameters",
        "vllm_engine_config",
        "ModelConfig",
        "environment",
        "lxc_options",
        "pct_options",
        "tests",
        "health_check",
        "application_script",
        "template",
        "is_template",
        "name",
        "hostname",
        "mounts",
        "rules",
        "950",
        "cores",
        "unknown",
        "gw6",
        "ip6",
        "mtu",
        "dns",
        "swap_mb",
        "firewall",
        "users",
        "user_config",
        "username",
        "packages",
        "template_image",
        "clone_from_vmid",
        "template_snapshot_name",
        "docker_stacks",
        "disk_size_gb",
        "storage_pool",
        "machine",
        "bios",
        "cpu_type",
        "interface",
    ];
    let key = prop_oneof![
        proptest::sample::select(keys.to_vec()).prop_map(str::to_owned),
        text(".{0,8}")
    ];
    prop_oneof![
        4 => (any::<Index>(), odd()).prop_map(|(at, value)| Change::Replace(at, value)),
        2 => any::<Index>().prop_map(Change::Remove),
        2 => (any::<Index>(), key, odd()).prop_map(|(at, key, value)| Change::Add(at, key, value)),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Copy(from, to)),
        12 => (any::<Index>(), any::<u8>()).prop_map(|(at, how)| Change::Twist(at, how)),
    ]
}

fn pointers(value: &Value, pointer: String, out: &mut Vec<String>) {
    out.push(pointer.clone());
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(k, v)| pointers(v, format!("{pointer}/{}", escape(k)), out)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(n, v)| pointers(v, format!("{pointer}/{n}"), out)),
        _ => {}
    }
}

pub fn apply(document: &mut Value, change: &Change) {
    let mut all = Vec::new();
    pointers(document, String::new(), &mut all);
    let at = |index: &Index| all[index.index(all.len())].clone();
    let put = |document: &mut Value, pointer: &str, value: Value| {
        // The top stays an object, or the file would not be read at all.
        if !pointer.is_empty()
            && let Some(place) = document.pointer_mut(pointer)
        {
            *place = value;
        }
    };
    match change {
        Change::Replace(index, value) => put(document, &at(index), value.clone()),
        Change::Copy(from, to) => {
            let value = document.pointer(&at(from)).cloned().unwrap_or_default();
            put(document, &at(to), value);
        }
        Change::Add(index, key, value) => match document.pointer_mut(&at(index)) {
            Some(Value::Object(map)) => drop(map.insert(key.clone(), value.clone())),
            Some(Value::Array(items)) => items.push(value.clone()),
            _ => {}
        },
        Change::Twist(index, how) => {
            let scalar = |p: &&String| document.pointer(p).is_some_and(|v| !v.is_object() && !v.is_array());
            let scalars: Vec<&String> = all.iter().filter(scalar).collect();
            if let Some(pointer) = scalars.get(index.index(scalars.len().max(1))) {
                let twisted = twist(document.pointer(pointer).unwrap_or(&Value::Null), *how);
                put(document, pointer, twisted);
            }
        }
        Change::Remove(index) => {
            let pointer = at(index);
            let Some((parent, key)) = pointer.rsplit_once('/') else {
                return;
            };
            let key = key.replace("~1", "/").replace("~0", "~");
            match document.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.remove(&key)),
                Some(Value::Array(items)) => drop(key.parse().map(|n: usize| items.remove(n))),
                _ => {}
            }
        }
    }
}

/// A part of the fleet is enough for a case, and many cases find more than large ones.
fn some_containers(lxc: &Value, keep: &[Index]) -> Value {
    let configs = lxc["lxc_configs"].as_object().unwrap();
    let ids: Vec<&String> = configs.keys().collect();
    let mut kept: Map<String, Value> = Map::new();
    // The gateway that others depend on, and a container with nearly every key.
    let always = ["953".to_owned(), "950".to_owned()];
    let chosen = keep.iter().map(|index| ids[index.index(ids.len())].clone());
    for mut id in chosen.chain(always) {
        // With what it is cloned from, or it would not be written.
        while let Some(config) = configs.get(&id).filter(|_| !kept.contains_key(&id)) {
            kept.insert(id.clone(), config.clone());
            id = config["clone_from_ctid"].as_str().unwrap_or_default().to_owned();
        }
    }
    let mut file = lxc.clone();
    file["lxc_configs"] = Value::Object(kept);
    file
}

fn check(documents: &[(Role, &Value)], with_folder: bool) -> Result<(), TestCaseError> {
    let inputs: Vec<_> = (documents.iter().enumerate())
        .map(|(n, (role, value))| input(&format!("{n}.json"), *role, value.to_string()))
        .collect();
    let scripts = [
        ("phoenix_hypervisor_lxc_vllm.sh", "#!/bin/sh\n"),
        ("x/check_docker_service.sh", "true\r\n\ttab\n"),
        ("- x", "- y: |\n"),
    ];
    let options = if with_folder { folder(&scripts) } else { options() };
    let output = phoenix::convert::convert(&inputs, &options).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
    sound(&inputs, &output).map_err(TestCaseError::fail)?;
    let again = phoenix::convert::convert(&inputs, &options).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
    prop_assert_eq!(output.files, again.files);
    prop_assert_eq!(output.report, again.report);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_containers(
        keep in proptest::collection::vec(any::<Index>(), 1..3),
        changes in proptest::collection::vec(change(), 1..25),
        with_folder in any::<bool>(),
    ) {
        let mut lxc = some_containers(&SAMPLES[1], &keep);
        changes.iter().for_each(|c| apply(&mut lxc, c));
        check(&[(Role::Lxc, &lxc)], with_folder)?;
    }

    #[test]
    fn mutated_hypervisors(changes in proptest::collection::vec(change(), 1..40), keep in proptest::collection::vec(any::<Index>(), 1..2)) {
        let mut hypervisor = SAMPLES[0].clone();
        changes.iter().for_each(|c| apply(&mut hypervisor, c));
        check(&[(Role::Hypervisor, &hypervisor), (Role::Lxc, &some_containers(&SAMPLES[1], &keep))], false)?;
    }

    #[test]
    fn mutated_machines(changes in proptest::collection::vec(change(), 1..15)) {
        let mut vms = SAMPLES[2].clone();
        changes.iter().for_each(|c| apply(&mut vms, c));
        check(&[(Role::Vm, &vms)], false)?;
    }

    #[test]
    fn one_odd_value_for_each_key(key in proptest::sample::select(known_keys()), value in odd()) {
        check(&[(Role::Lxc, &json!({"lxc_configs": {"950": {"name": "one", "template": "u.tar", "vllm_model": "m", "network_config": "dhcp", (key): value}}}))], true)?;
    }

    #[test]
    fn one_odd_value_for_each_key_of_a_machine(key in proptest::sample::select(MACHINE_KEYS.to_vec()), value in odd(), default in odd(), cloned in any::<bool>()) {
        let base = json!({"vmid": 299, "name": "base", "is_template": true, "template_image": "x.img"});
        let source = if cloned { ("clone_from_vmid", json!(299)) } else { ("template_image", json!("x.img")) };
        let share = json!([{"type": "nfs", "server": "10.0.0.2", "path": "/a", "mount_point": "/a"}]);
        let mut vm = json!({"vmid": 300, "name": "one", (source.0): source.1, "network_config": {"ip": "10.0.0.5/24"}, "volumes": share, "user_config": {"username": "u"}});
        // Some keys belong below others.
        let place = match key.split_once('.') {
            Some(("volumes", inner)) => &mut vm["volumes"][0][inner],
            Some((outer, inner)) => &mut vm[outer][inner],
            None => &mut vm[key],
        };
        *place = value;
        check(&[(Role::Vm, &json!({"vm_defaults": {(key): default}, "vms": [base, vm]}))], true)?;
    }

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = phoenix::convert::convert(&[input("x.json", Role::Lxc, bytes)], &options());
    }
}

/// Cases for each property; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40)
}

/// Every key that a container of the sample has.
fn known_keys() -> Vec<String> {
    let configs = SAMPLES[1]["lxc_configs"].as_object().unwrap();
    let mut keys: Vec<String> = configs
        .values()
        .flat_map(|c| c.as_object().unwrap().keys().cloned())
        .collect();
    keys.extend(
        [
            "hostname",
            "is_template",
            "clone_from",
            "ctid",
            "nameservers",
            "health_checks",
            "vllm_dtype",
        ]
        .map(str::to_owned),
    );
    keys.sort();
    keys.dedup();
    keys
}

/// Keys of machines; those with a dot stand below others.
pub const MACHINE_KEYS: [&str; 47] = [
    "vmid",
    "name",
    "hostname",
    "is_template",
    "clone_from_vmid",
    "template_snapshot_name",
    "template_image",
    "template",
    "cores",
    "sockets",
    "cpu_type",
    "memory_mb",
    "machine",
    "bios",
    "disk_size_gb",
    "storage_pool",
    "network_bridge",
    "mac_address",
    "network_config",
    "network_config.name",
    "network_config.ip",
    "network_config.gw",
    "network_config.nameservers",
    "network_config.model",
    "user_config",
    "user_config.username",
    "user_config.password_hash",
    "user_config.password",
    "user_config.ssh_public_key",
    "user_config.ssh_keys",
    "user_config.packages",
    "user_config.package_upgrade",
    "user_config.gw",
    "volumes",
    "volumes.type",
    "volumes.server",
    "volumes.path",
    "volumes.mount_point",
    "volumes.options",
    "volumes.read_only",
    "features",
    "firewall",
    "docker_stacks",
    "portainer_role",
    "gpu_assignment",
    "vllm_model",
    "swap_mb",
];
