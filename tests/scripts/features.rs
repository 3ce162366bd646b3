//! The shipped features and the examples are what the types say, and the scripts are sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use phoenix::admission::Admission;
use phoenix::crd::{FeatureTarget, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Files of a folder (and the folders in it) with one of the extensions, in order.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
            found.push(path);
        }
    }
    found
}

/// YAML documents of a file; comments do not make one.
fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let found: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert!(!found.is_empty(), "{} holds no document", file.display());
    found
}

/// Reads a document as its type. What the type does not know would be lost on the way back, and is found so.
fn typed<T: DeserializeOwned + Serialize>(document: &Value, name: &str) -> T {
    let object: T = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let back = serde_json::to_value(&object).unwrap();
    let lost = lost(document, &back, "");
    assert!(lost.is_empty(), "{name}: the type does not know {}", lost.join(", "));
    object
}

/// Paths of what is in `given` and not, or not the same, in `kept`.
fn lost(given: &Value, kept: &Value, path: &str) -> Vec<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given
            .iter()
            .flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                kept.get(key)
                    .map_or_else(|| vec![path.clone()], |k| lost(value, k, &path))
            })
            .collect(),
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => given
            .iter()
            .zip(kept)
            .enumerate()
            .flat_map(|(i, (g, k))| lost(g, k, &format!("{path}[{i}]")))
            .collect(),
        (Value::Number(g), Value::Number(k)) if g.as_f64() == k.as_f64() => Vec::new(),
        (given, kept) if given == kept => Vec::new(),
        _ => vec![path.to_string()],
    }
}

fn features() -> BTreeMap<String, PhoenixFeature> {
    let mut found = BTreeMap::new();
    for file in files(&root().join("config/features"), &["yaml"]) {
        for document in documents(&file) {
            if document["kind"] == "Kustomization" {
                continue;
            }
            let name = file.display().to_string();
            assert_eq!(document["apiVersion"], "phoenix-hypervisor.io/v1alpha1", "{name}");
            assert_eq!(document["kind"], "PhoenixFeature", "{name}");
            let feature: PhoenixFeature = typed(&document, &name);
            let key = feature.metadata.name.clone().unwrap();
            assert_eq!(
                file.file_stem().unwrap().to_str(),
                Some(key.as_str()),
                "a file is named after its feature"
            );
            assert!(
                found.insert(key, feature).is_none(),
                "{name}: a second feature of that name"
            );
        }
    }
    found
}

/// Runs a shell's syntax check on a script.
fn syntax(script: &str, name: &str) {
    let interpreter = match script.lines().next() {
        Some("#!/bin/sh") => "sh",
        Some("#!/bin/bash") => "bash",
        other => panic!("{name}: begins with {other:?} instead of #!/bin/sh or #!/bin/bash"),
    };
    let mut child = Command::new(interpreter)
        .arg("-n")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
}

#[test]
fn the_features_of_the_legacy_fleet_are_shipped() {
    let features = features();
    let mut names: BTreeSet<&str> = features.keys().map(String::as_str).collect();
    for feature in features.values() {
        for alias in feature.spec.aliases.iter().flatten() {
            assert!(names.insert(alias), "{alias} stands for two features");
        }
    }
    let text = fs::read_to_string(root().join("examples/legacy/phoenix_lxc_configs.json")).unwrap();
    let fleet: Value = serde_json::from_str(&text).unwrap();
    for (id, guest) in fleet["lxc_configs"].as_object().unwrap() {
        for name in guest["features"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            assert!(
                names.contains(name),
                "container {id} wants {name}, which is not shipped"
            );
        }
    }
}

#[test]
fn feature_scripts_are_sound() {
    for (name, feature) in features() {
        let spec = feature.spec;
        let check = spec.check.unwrap_or_else(|| panic!("{name}: no check"));
        for (part, script) in [("check", &check), ("install", &spec.install)] {
            let what = format!("{name}.{part}");
            syntax(script, &what);
            let second = script.lines().nth(1);
            assert_eq!(second, Some("set -eu"), "{what}: must stop at the first error");
        }
        // Every parameter is used, and nothing is read that is no parameter.
        let scripts = format!("{check}\n{}", spec.install);
        let used: BTreeSet<String> = scripts
            .split("PHOENIX_")
            .skip(1)
            .map(|rest| {
                rest.chars()
                    .take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_')
                    .collect()
            })
            .collect();
        let declared: BTreeSet<String> = spec
            .parameters
            .iter()
            .flatten()
            .map(|p| p.name.to_ascii_uppercase().replace('-', "_"))
            .collect();
        assert_eq!(used, declared, "{name}: parameters and the variables of its scripts");
        for parameter in spec.parameters.iter().flatten() {
            let parameter_name = &parameter.name;
            assert!(
                parameter.description.is_some(),
                "{name}.{parameter_name}: no description"
            );
        }
    }
}

#[test]
fn defaults_in_scripts_are_those_of_the_parameters() {
    for (name, feature) in features() {
        let scripts = format!("{}\n{}", feature.spec.check.unwrap_or_default(), feature.spec.install);
        for parameter in feature.spec.parameters.iter().flatten() {
            let variable = parameter.name.to_ascii_uppercase().replace('-', "_");
            let default = parameter.default.clone().unwrap_or_default();
            for rest in scripts.split(&format!("${{PHOENIX_{variable}:-")).skip(1) {
                // A default may itself hold a ${...}: count braces.
                let mut depth = 0;
                let end = rest.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth < 0
                });
                let given = &rest[..end.unwrap()];
                let variable_part = given.contains('$');
                assert!(
                    given.is_empty() || variable_part || given == default,
                    "{name}: the script takes {given:?} for {}, the parameter says {default:?}",
                    parameter.name
                );
            }
        }
    }
}

#[test]
fn requirements_resolve_without_cycles_for_every_target() {
    let features = features();
    fn walk(name: &str, path: &mut Vec<String>, features: &BTreeMap<String, PhoenixFeature>) {
        assert!(!path.iter().any(|p| p == name), "cycle: {} → {name}", path.join(" → "));
        let feature = features
            .get(name)
            .unwrap_or_else(|| panic!("{path:?} requires {name}, which is not shipped"));
        path.push(name.to_string());
        for required in feature.spec.requires.iter().flatten() {
            let on = |f: &PhoenixFeature, t| f.spec.targets.as_ref().is_none_or(|list| list.contains(&t));
            for target in [FeatureTarget::Lxc, FeatureTarget::Vm] {
                let unmet = on(feature, target) && features.get(required).is_some_and(|r| !on(r, target));
                assert!(
                    !unmet,
                    "{name} is for {target:?}, but {required}, which it requires, is not"
                );
            }
            walk(required, path, features);
        }
        path.pop();
    }
    for name in features.keys() {
        walk(name, &mut Vec::new(), &features);
    }
}

#[test]
fn examples_are_what_the_types_say() {
    let features = features();
    let examples: Vec<PathBuf> = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    assert!(examples.iter().any(|e| e.ends_with("qwen.yaml")));
    let mut kinds = BTreeSet::new();
    for file in examples {
        for document in documents(&file) {
            let name = format!("{} ({})", file.display(), document["metadata"]["name"]);
            let kind = document["kind"].as_str().unwrap().to_string();
            // What stands around guests, such as an Ingress, is of other groups.
            let group = document["apiVersion"].as_str().unwrap();
            if group.contains('/') && !group.starts_with("phoenix-hypervisor.io/") {
                continue;
            }
            let wanted = match kind.as_str() {
                "PhoenixHypervisor" => {
                    typed::<PhoenixHypervisor>(&document, &name);
                    None
                }
                "PhoenixLXC" => typed::<PhoenixLXC>(&document, &name).spec.guest.shared.features,
                "PhoenixTemplate" => typed::<PhoenixTemplate>(&document, &name)
                    .spec
                    .lxc
                    .and_then(|g| g.shared.features),
                "PhoenixVM" => {
                    typed::<PhoenixVM>(&document, &name);
                    None
                }
                "Secret" => None,
                other => panic!("{name}: {other} is no kind of an example"),
            };
            for feature in wanted.into_iter().flatten() {
                let known = features
                    .get(&feature.name)
                    .unwrap_or_else(|| panic!("{name}: no feature {}", feature.name));
                for parameter in feature.parameters.keys() {
                    let declared = known.spec.parameters.iter().flatten().any(|p| &p.name == parameter);
                    assert!(declared, "{name}: {} has no parameter {parameter}", feature.name);
                }
            }
            kinds.insert(kind);
        }
    }
    for kind in ["PhoenixHypervisor", "PhoenixLXC", "PhoenixTemplate"] {
        assert!(kinds.contains(kind), "no example of a {kind}");
    }
}

#[test]
fn every_script_that_the_legacy_files_name_is_there() {
    let legacy = root().join("examples/legacy");
    let mut named = BTreeSet::new();
    for file in [
        "phoenix_lxc_configs.json",
        "phoenix_hypervisor_config.json",
        "phoenix_vm_configs.json",
    ] {
        let text = fs::read_to_string(legacy.join(file)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        names_of_scripts(&value, &mut named);
    }
    assert!(named.contains("phoenix_hypervisor_lxc_953.sh") && named.contains("docker/check_docker_service.sh"));
    for name in &named {
        assert!(legacy.join("applications").join(name).is_file(), "{name} is missing");
    }
    for file in files(&legacy.join("applications"), &["sh", "py"]) {
        let name = file
            .strip_prefix(legacy.join("applications"))
            .unwrap()
            .to_str()
            .unwrap();
        assert!(named.contains(name), "{name} is named by no legacy file");
        let script = fs::read_to_string(&file).unwrap();
        if name.ends_with(".sh") {
            syntax(&script, name);
        } else {
            assert!(script.starts_with("#!/usr/bin/env python3\n"), "{name}");
        }
    }
}

fn names_of_scripts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(name) if ["application_script", "path", "script"].contains(&key.as_str()) => {
                        if name.ends_with(".sh") || name.ends_with(".py") {
                            found.insert(name.clone());
                        }
                    }
                    other => names_of_scripts(other, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| names_of_scripts(v, found)),
        _ => {}
    }
}

#[test]
fn features_and_examples_pass_admission() {
    let admission = Admission::new().unwrap();
    let examples = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|e| e.unwrap().path());
    let mut checked = 0;
    for file in files(&root().join("config/features"), &["yaml"])
        .into_iter()
        .chain(examples)
    {
        if file.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        for document in documents(&file) {
            if document["apiVersion"] != "phoenix-hypervisor.io/v1alpha1" {
                continue;
            }
            let verdict = admission.check(&document, None);
            assert!(verdict.is_ok(), "{}: {verdict:#?}", file.display());
            checked += 1;
        }
    }
    assert!(checked >= 12, "only {checked} objects found");
}
