//! The checks of manifests in process: the table of bad manifests, values of single fields, and the reader.

use std::collections::BTreeSet;

use crate::bad_manifests::{Verdict, cases, missing, values, world};
use phoenix::admission::{Admission, Violation, read_manifests, report};
use phoenix::crd::{GuestKind, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM};
use phoenix::desired::{self, Blocked, Key, MemoryObjects, Objects};
use serde_json::{Value, json};

fn admission() -> Admission {
    Admission::new().unwrap()
}

fn text(violations: &[Violation]) -> String {
    report("x", "x", violations)
}

#[test]
fn bad_manifests_get_their_verdict() {
    let admission = admission();
    let mut wrong = Vec::new();
    for case in cases() {
        match (admission.check(&case.manifest, case.old.as_ref()), &case.verdict) {
            (Err(violations), Verdict::Refused(fragments)) => {
                let text = text(&violations);
                for fragment in missing(fragments, &text) {
                    wrong.push(format!("{}: {text}\n  lacks {fragment:?}", case.name));
                }
            }
            (Ok(_), Verdict::Refused(_)) => wrong.push(format!("{}: is accepted", case.name)),
            (Ok(_), Verdict::Stalled { .. }) => {}
            (Err(violations), Verdict::Stalled { .. }) => {
                wrong.push(format!("{}: is refused: {}", case.name, text(&violations)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Puts a checked object where the engine looks.
fn insert(objects: &MemoryObjects, object: &Value) {
    fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
        serde_json::from_value(object.clone()).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "PhoenixLXC" => objects.insert_lxc(&read(object)),
        "PhoenixVM" => objects.insert_vm(&read(object)),
        "PhoenixTemplate" => objects.insert_template(&read(object)),
        "PhoenixHypervisor" => objects.insert_hypervisor(read(object)),
        "PhoenixFeature" => objects.insert_feature(read(object)),
        "Secret" => objects.insert_secret(read(object)),
        "ConfigMap" => objects.insert_config_map(read(object)),
        kind => panic!("no kind {kind}"),
    }
}

/// What the engine makes of an accepted manifest before it looks at Proxmox.
fn resolved(objects: &MemoryObjects, manifest: &Value) -> Result<(), Blocked> {
    let text = |field: &str| manifest["metadata"][field].as_str().unwrap();
    let kind = match manifest["kind"].as_str().unwrap() {
        "PhoenixHypervisor" => {
            let hypervisor = objects.hypervisor(text("namespace"), text("name")).unwrap();
            return desired::hypervisor::access(&hypervisor, objects).map(|_| ());
        }
        "PhoenixLXC" => GuestKind::PhoenixLXC,
        "PhoenixVM" => GuestKind::PhoenixVM,
        _ => GuestKind::PhoenixTemplate,
    };
    let guest = objects.guest(&Key::new(kind, text("namespace"), text("name"))).unwrap();
    desired::resolve(&guest, objects, "test")?;
    desired::refs::dependencies(&guest, objects)
}

#[test]
fn stalled_manifests_get_their_reason() {
    // These are known only when Proxmox has been looked at.
    const LATER: [&str; 3] = ["SourceMissing", "NoFreeVmid", "NoVmidRange"];
    let admission = admission();
    let mut wrong = Vec::new();
    for case in cases() {
        let Verdict::Stalled { reason, message, later } = &case.verdict else {
            continue;
        };
        let objects = MemoryObjects::new();
        for namespace in ["fleet", "infra"] {
            objects.insert_namespace(namespace, Default::default());
        }
        for object in world().iter().chain(&case.with).chain([&case.manifest]) {
            insert(&objects, &admission.check(object, None).unwrap());
        }
        match resolved(&objects, &case.manifest) {
            Err(Blocked::Stalled(cause)) if cause.reason.as_str() == reason => {
                for fragment in missing(message, &cause.message) {
                    wrong.push(format!("{}: {cause}\n  lacks {fragment:?}", case.name));
                }
            }
            Ok(()) if *later || LATER.contains(&reason.as_str()) => {}
            got => wrong.push(format!("{}: {got:?} instead of {reason}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_bad_manifests_refer_to_is_good() {
    let admission = admission();
    let with: Vec<Value> = (cases().into_iter())
        .flat_map(|case| case.with.into_iter().chain(case.old))
        .collect();
    for object in world().iter().chain(&with) {
        if let Err(violations) = admission.check(object, None) {
            panic!("{object}: {}", text(&violations));
        }
    }
}

#[test]
fn the_table_is_large_and_its_names_are_unique() {
    let cases = cases();
    let (refused, stalled): (Vec<_>, Vec<_>) = cases
        .iter()
        .partition(|case| matches!(case.verdict, Verdict::Refused(_)));
    assert!(refused.len() >= 150, "only {} are refused", refused.len());
    assert!(stalled.len() >= 60, "only {} are stalled", stalled.len());
    let id = |object: &Value| format!("{} {}", object["kind"], object["metadata"]);
    let names: BTreeSet<_> = cases.iter().map(|case| id(&case.manifest)).collect();
    assert_eq!(names.len(), cases.len(), "two entries make objects of the same name");
}

/// Every rule's message, with the kind that it belongs to.
fn rules(schema: &Value, found: &mut BTreeSet<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.insert(rule["message"].as_str().unwrap().to_owned());
    }
    for (_, property) in schema["properties"].as_object().into_iter().flatten() {
        rules(property, found);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            rules(&schema[key], found);
        }
    }
}

#[test]
fn every_rule_refuses_something() {
    let admission = admission();
    let mut refusals = String::new();
    let values = values()
        .into_iter()
        .flat_map(|values| values.bad)
        .map(|object| (object, None));
    for (object, old) in cases().into_iter().map(|case| (case.manifest, case.old)).chain(values) {
        for violation in admission.check(&object, old.as_ref()).err().into_iter().flatten() {
            refusals.push_str(&violation.message);
            refusals.push('\n');
        }
    }
    let mut messages = BTreeSet::new();
    for crd in phoenix::crd::all().unwrap() {
        let crd = serde_json::to_value(&crd).unwrap();
        rules(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut messages);
    }
    assert!(messages.len() > 40, "the rules were not found");
    let untried: Vec<_> = messages
        .iter()
        // A message made from both objects begins as the plain one does.
        .filter(|message| !refusals.contains(message.split(" while ").next().unwrap_or_default()))
        .collect();
    assert!(untried.is_empty(), "no bad manifest for {untried:#?}");
}

#[test]
fn values_of_fields_get_their_verdict() {
    let admission = admission();
    let mut wrong = Vec::new();
    for values in values() {
        for object in &values.good {
            if let Err(violations) = admission.check(object, None) {
                wrong.push(format!("{}: {}", values.field, text(&violations)));
            }
        }
        for object in &values.bad {
            if admission.check(object, None).is_ok() {
                wrong.push(format!("{}: is accepted: {}", values.field, object["spec"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn shipped_manifests_are_accepted() {
    let admission = admission();
    let mut count = 0;
    let mut seen = BTreeSet::new();
    for dir in ["examples", "config/features"] {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let name = path.display().to_string();
            seen.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
            for manifest in read_manifests(&std::fs::read_to_string(&path).unwrap(), &name).unwrap() {
                // What guests are reached by is of Kubernetes' kinds and others'.
                if name.ends_with("/routing.yaml") {
                    assert_ne!(manifest.value["apiVersion"], "phoenix-hypervisor.io/v1alpha1");
                    continue;
                }
                count += 1;
                if let Err(violations) = admission.check(&manifest.value, None) {
                    let line = manifest.line_of(&violations[0].field);
                    panic!("{name}:{line}: {}", text(&violations));
                }
            }
        }
    }
    assert!(count >= 7, "only {count} manifests were found");
    for name in ["vm", "docker-vm", "gpu-vm"] {
        assert!(seen.contains(name), "examples/{name}.yaml was not looked at");
    }
}

#[test]
fn what_is_accepted_can_be_read_as_its_type() {
    let admission = admission();
    let good = values().into_iter().flat_map(|values| values.good);
    let stalled = cases()
        .into_iter()
        .filter(|case| matches!(case.verdict, Verdict::Stalled { .. }));
    for object in good.chain(world()).chain(stalled.map(|case| case.manifest)) {
        let checked = admission.check(&object, None).unwrap();
        let read = match checked["kind"].as_str().unwrap() {
            "PhoenixLXC" => serde_json::from_value::<PhoenixLXC>(checked).err(),
            "PhoenixVM" => serde_json::from_value::<PhoenixVM>(checked).err(),
            "PhoenixTemplate" => serde_json::from_value::<PhoenixTemplate>(checked).err(),
            "PhoenixHypervisor" => serde_json::from_value::<PhoenixHypervisor>(checked).err(),
            "PhoenixFeature" => serde_json::from_value::<PhoenixFeature>(checked).err(),
            _ => None,
        };
        if let Some(error) = read {
            panic!("{object}: {error}");
        }
    }
}

#[test]
fn defaults_are_filled_in_and_nulls_left_out() {
    let object = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1",
        "kind": "PhoenixLXC",
        "metadata": {"name": "a"},
        "spec": {"hypervisorRef": {"name": "pve"}, "cores": null, "dependsOn": [{"name": "b", "kind": null}]},
        "status": {"vmid": 7},
    });
    let checked = admission().check(&object, None).unwrap();
    assert_eq!(
        checked["spec"],
        json!({"hypervisorRef": {"name": "pve"}, "dependsOn": [{"name": "b", "kind": "PhoenixLXC"}]})
    );
    // Only the status subresource writes status.
    assert_eq!(checked["status"], json!({"observedGeneration": -1}));
}

/// Verdicts of a real API server on an object stored before its CRD had rules.
#[test]
fn an_update_is_not_refused_for_what_it_leaves_alone() {
    let old = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1",
        "kind": "PhoenixLXC",
        "metadata": {"name": "a"},
        "spec": {
            "hypervisorRef": {"name": "pve"},
            "memory": "none",
            "cores": 1,
            "powerState": "On",
            "tags": ["A b", "b"],
            "lxcOptions": ["x", "z"],
            "network": [{"name": "eth0", "ip": "10.0.0.1"}, {"name": "eth1", "gateway": "10.0.0.1"}],
            "gpus": [{"index": 0, "count": 1}, {"index": 70}],
            "rootfs": {"size": "-3", "storage": "a b"},
        },
    });
    let admission = admission();
    for (field, value, refused) in [
        ("cores", json!(2), &[][..]),
        ("tags", json!(["A b", "b", "c"]), &["spec.tags[0]"]),
        (
            "lxcOptions",
            json!(["x", "z", "lxc.cap.drop = a"]),
            &["spec.lxcOptions[0]", "spec.lxcOptions[1]"],
        ),
        (
            "network",
            json!([{"name": "eth0", "ip": "10.0.0.1", "mtu": 1400}, {"name": "eth1", "gateway": "10.0.0.1"}]),
            &[],
        ),
        (
            "network",
            json!([{"name": "eth0", "ip": "10.0.0.1"}, {"name": "eth1", "gateway": "10.0.0.1", "mtu": 1400}]),
            &["spec.network[1]"],
        ),
        (
            "network",
            json!([{"name": "eth1", "gateway": "10.0.0.1"}, {"name": "eth0", "ip": "10.0.0.1"}]),
            &[],
        ),
        (
            "network",
            json!([{"name": "eth0", "ip": "10.0.0.1"}, {"name": "eth0", "ip": "10.0.0.1"}]),
            &["spec.network[1]"],
        ),
        (
            "gpus",
            json!([{"index": 0, "count": 1}, {"index": 1}]),
            &["spec.gpus[0]"],
        ),
        ("rootfs", json!({"size": "-3", "storage": "local"}), &[]),
        (
            "rootfs",
            json!({"size": "-3", "storage": "c d"}),
            &["spec.rootfs.storage"],
        ),
        ("powerState", json!("Off"), &["spec.powerState"]),
        ("memory", json!("nothing"), &["spec.memory"]),
        ("memory", json!(null), &[]),
    ] {
        let mut new = old.clone();
        new["spec"][field] = value;
        let violations = admission.check(&new, Some(&old)).err().unwrap_or_default();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, refused, "{field}: {}", text(&violations));
    }
    assert!(admission.check(&old, None).is_err());
}

#[test]
fn misspelt_fields_are_named_with_the_right_one() {
    let object = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1",
        "kind": "PhoenixLXC",
        "metadata": {"name": "a"},
        "spec": {"hypervisorRef": {"name": "pve"}, "memmory": "1Gi", "zzz": 1},
    });
    let violations = admission().check(&object, None).unwrap_err();
    assert_eq!(
        violations[0].to_string(),
        "unknown field \"spec.memmory\" (did you mean \"memory\"?)"
    );
    assert_eq!(violations[1].to_string(), "unknown field \"spec.zzz\"");
}

#[test]
fn secrets_are_never_shown() {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "a"},
        "data": {"token": "hunter2 in plain text"},
    });
    let violations = admission().check(&object, None).unwrap_err();
    let text = text(&violations);
    assert!(
        text.contains("data[token]") && text.contains("stringData") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn manifests_are_read_as_kubectl_reads_them() {
    let text = "\
# comment
a: {b: [yes, 0644, 4.0, 'yes', 2024-01-01, 1e3, .5, ~]}
---
---
kind: List
items:
- c: 1
  d:
    e: 2
- kind: PhoenixLXCList
  items: [{f: 3}]
";
    let manifests = read_manifests(text, "a.yaml").unwrap();
    let values: Vec<_> = manifests.iter().map(|m| (m.line, m.value.clone())).collect();
    assert_eq!(
        values,
        [
            (
                2,
                json!({"a": {"b": [true, 420, 4, "yes", "2024-01-01", 1000, 0.5, null]}})
            ),
            (7, json!({"c": 1, "d": {"e": 2}})),
            (11, json!({"f": 3})),
        ]
    );
    assert_eq!(manifests[1].line_of("d.e"), 9);
    assert_eq!(manifests[1].line_of("d.absent"), 9);
    assert_eq!(manifests[1].line_of("absent"), 7);
}

#[test]
fn unreadable_files_are_refused_with_file_and_line() {
    for (text, message) in [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "f.yaml:4: duplicate mapping key: c"),
        ("a: 1\n---\nb: [1\n", "f.yaml:3: unclosed bracket '['"),
        (
            "a: 1\n---\nb\n",
            "f.yaml:3: not an object: a manifest has apiVersion, kind and metadata",
        ),
        (
            "a:\n\t- b\n",
            "f.yaml:2: tabs disallowed within this context (block indentation)",
        ),
        ("a: *b\n", "f.yaml:1: alias references unknown anchor"),
    ] {
        assert_eq!(read_manifests(text, "f.yaml").unwrap_err().to_string(), message);
    }
}
