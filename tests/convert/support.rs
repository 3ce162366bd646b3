//! Helpers: short ways to convert text, and the checks that every conversion must pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use phoenix::admission::Admission;
use phoenix::convert::report::{Entry, Finding, Outcome, Report, Severity};
use phoenix::convert::{Input, Options, Output, Role, convert};
use phoenix::crd;
use serde_json::{Value, json};

pub static ADMISSION: LazyLock<Admission> = LazyLock::new(|| Admission::new().unwrap());

pub fn legacy(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/legacy").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn input(file: &str, role: Role, bytes: impl Into<Vec<u8>>) -> Input {
    Input {
        file: file.to_owned(),
        bytes: bytes.into(),
        role,
    }
}

pub fn options() -> Options {
    Options {
        namespace: None,
        hypervisor_name: "proxmox".into(),
        applications: None,
        linked_clones: false,
        copy_secrets: false,
        routing: phoenix::convert::Routing::None,
    }
}

/// Scripts for an applications folder.
pub fn folder(files: &[(&str, &str)]) -> Options {
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect();
    Options {
        applications: Some(files),
        ..options()
    }
}

/// Converts and checks what must hold of every conversion.
pub fn run(inputs: &[Input], options: &Options) -> Output {
    let output = convert(inputs, options).unwrap_or_else(|e| panic!("unreadable: {e:?}"));
    if let Err(problem) = sound(inputs, &output) {
        panic!("{problem}");
    }
    output
}

/// Converts containers, given by id.
pub fn containers(configs: Value) -> Output {
    let text = json!({ "lxc_configs": configs }).to_string();
    run(&[input("lxc.json", Role::Lxc, text)], &options())
}

/// Converts one container, merged over a plain one, as container 950.
pub fn container(extra: Value) -> Output {
    containers(json!({ "950": plain(extra) }))
}

/// A container that needs nothing else, with `extra` merged over it; null removes a key.
pub fn plain(extra: Value) -> Value {
    let mut config = json!({"name": "one", "template": "local:vztmpl/debian.tar.zst"});
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

pub fn manifest(output: &Output, file: &str) -> Value {
    let text = output
        .files
        .get(file)
        .unwrap_or_else(|| panic!("no {file} among {:?}", output.files.keys()));
    serde_saphyr::from_str(text).unwrap()
}

/// The spec of the container that [`container`] converts.
pub fn spec(output: &Output) -> Value {
    manifest(output, "phoenixlxc-one.yaml")["spec"].clone()
}

/// The entry of a pointer.
pub fn entry<'a>(output: &'a Output, pointer: &str) -> &'a Entry {
    let found: Vec<_> = output.report.entries.iter().filter(|e| e.pointer == pointer).collect();
    assert_eq!(found.len(), 1, "entries of {pointer}: {found:?}");
    found[0]
}

/// The entry of a key of container 950.
pub fn of<'a>(output: &'a Output, key: &str) -> &'a Entry {
    entry(output, &format!("/lxc_configs/950/{key}"))
}

pub fn findings(output: &Output, severity: Severity) -> Vec<&Finding> {
    output
        .report
        .findings
        .iter()
        .filter(|f| f.severity == severity)
        .collect()
}

/// The only finding of this severity whose message holds `words`.
pub fn finding<'a>(output: &'a Output, severity: Severity, words: &str) -> &'a Finding {
    let all = findings(output, severity);
    let found: Vec<_> = all.iter().filter(|f| f.message.contains(words)).collect();
    assert_eq!(found.len(), 1, "findings with {words:?} among {all:#?}");
    found[0]
}

/// Leaves of a document as `serde_json` reads it, which is not how the converter reads it.
fn leaves(value: &Value, pointer: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(
                    value,
                    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")),
                    out,
                );
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (n, value) in items.iter().enumerate() {
                leaves(value, format!("{pointer}/{n}"), out);
            }
        }
        _ => out.push(pointer),
    }
}

/// What must hold of every conversion and is soon looked at, as the first thing that does not.
pub fn reads_back(inputs: &[Input], output: &Output) -> Result<(), String> {
    every_leaf_once(inputs, &output.report)?;
    every_target_exists(&output.report, &every_manifest_read(output)?)?;
    admitted(&output.report)
}

/// What must hold of every conversion, as the first thing that does not.
pub fn sound(inputs: &[Input], output: &Output) -> Result<(), String> {
    every_leaf_once(inputs, &output.report)?;
    let objects = every_manifest_read(output)?;
    // What leads host names to Services is no kind of Phoenix's.
    let routes = |object: &str| object.starts_with("Ingress/") || object.starts_with("HTTPRoute/");
    for (object, value) in objects.iter().filter(|(object, _)| !routes(object)) {
        ADMISSION.check(value, None).map_err(|e| format!("{object}: {e:?}"))?;
    }
    every_target_exists(&output.report, &objects)?;
    let listed = manifest(output, "kustomization.yaml")["resources"].clone();
    let listed: BTreeSet<String> = serde_json::from_value(listed).unwrap();
    let written: BTreeSet<String> = output
        .files
        .keys()
        .filter(|f| *f != "kustomization.yaml")
        .cloned()
        .collect();
    if listed != written {
        return Err(format!("kustomization lists {listed:?}, written are {written:?}"));
    }
    admitted(&output.report)
}

fn admitted(report: &Report) -> Result<(), String> {
    if let Some(bad) = report
        .findings
        .iter()
        .find(|f| f.message.contains("is not a valid object"))
    {
        return Err(format!("refused by admission instead of being read right: {bad:?}"));
    }
    Ok(())
}

fn every_leaf_once(inputs: &[Input], report: &Report) -> Result<(), String> {
    let mut wanted = BTreeMap::new();
    for input in inputs {
        let text = String::from_utf8_lossy(&input.bytes);
        let mut found = Vec::new();
        leaves(
            &serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap(),
            String::new(),
            &mut found,
        );
        for pointer in found {
            wanted.insert((input.file.clone(), pointer), 0);
        }
    }
    for entry in &report.entries {
        match wanted.get_mut(&(entry.file.clone(), entry.pointer.clone())) {
            Some(count) => *count += 1,
            None => return Err(format!("an entry for no leaf: {entry:?}")),
        }
        if entry.outcome == Outcome::Mapped && (entry.target.is_none() || entry.object.is_none()) {
            return Err(format!("mapped to nothing: {entry:?}"));
        }
        if entry.outcome == Outcome::NotMapped && (entry.target.is_some() || entry.note.is_empty()) {
            return Err(format!("not mapped, and with a target or without a reason: {entry:?}"));
        }
    }
    match wanted.iter().find(|(_, count)| **count != 1) {
        Some((leaf, count)) => Err(format!("{count} entries for {leaf:?}")),
        None => Ok(()),
    }
}

fn typed<K: serde::de::DeserializeOwned + serde::Serialize>(value: &Value) -> Result<(), String> {
    let object: K = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    let back = serde_json::to_value(object).map_err(|e| e.to_string())?;
    if back == *value {
        Ok(())
    } else {
        Err(format!("a field is lost: {value} became {back}"))
    }
}

fn every_manifest_read(output: &Output) -> Result<BTreeMap<String, Value>, String> {
    let mut objects = BTreeMap::new();
    for (file, text) in output.files.iter().filter(|(f, _)| *f != "kustomization.yaml") {
        let value: Value = serde_saphyr::from_str(text).map_err(|e| format!("{file}: {e}\n{text}"))?;
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        let read = match kind.as_str() {
            "PhoenixLXC" => typed::<crd::PhoenixLXC>(&value),
            "PhoenixVM" => typed::<crd::PhoenixVM>(&value),
            "PhoenixTemplate" => typed::<crd::PhoenixTemplate>(&value),
            "PhoenixHypervisor" => typed::<crd::PhoenixHypervisor>(&value),
            "Ingress" => typed::<k8s_openapi::api::networking::v1::Ingress>(&value),
            "ConfigMap" | "Secret" | "HTTPRoute" => Ok(()),
            other => Err(format!("unexpected kind {other}")),
        };
        read.map_err(|e| format!("{file}: {e}"))?;
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        if objects.insert(format!("{kind}/{name}"), value.clone()).is_some() {
            return Err(format!("{kind}/{name} is written twice"));
        }
    }
    Ok(objects)
}

/// `spec.network[0].ip` in a manifest.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, part| {
        let (key, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
            Some((key, index)) => (key, Some(index.parse::<usize>().ok()?)),
            None => (part, None),
        };
        let value = value.get(key)?;
        index.map_or(Some(value), |n| value.get(n))
    })
}

fn every_target_exists(report: &Report, objects: &BTreeMap<String, Value>) -> Result<(), String> {
    for entry in report.entries.iter().filter(|e| e.outcome == Outcome::Mapped) {
        for target in entry.target.iter().flat_map(|t| t.split(", ")) {
            let (object, path) = target.split_once(' ').ok_or_else(|| format!("no target: {target:?}"))?;
            let value = objects
                .get(object)
                .ok_or_else(|| format!("{target:?} names no object that is written"))?;
            if lookup(value, path).is_none() {
                return Err(format!("{target:?} of {} is not in {value}", entry.pointer));
            }
        }
    }
    for entry in &report.entries {
        if let Some(object) = entry.object.as_ref().filter(|o| !objects.contains_key(*o)) {
            return Err(format!("{object} of {} is not written", entry.pointer));
        }
    }
    Ok(())
}
