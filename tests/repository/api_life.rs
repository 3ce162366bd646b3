//! What was stored by the previous release is still an object of its kind: no field is lost and no rule is stricter,
//! unless CHANGELOG.md says so. `tests/repository/api/v1alpha1.json` has the schemas of that release (`make api-freeze`).

use std::collections::BTreeSet;

use serde_json::Value;

fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What an object that was accepted by `old` may now be refused for, or lose.
fn breaks(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if new.is_null() {
        // The API server drops what a schema does not know.
        if old["x-kubernetes-preserve-unknown-fields"] != true {
            found.push(format!("{path}: is gone"));
        }
        return;
    }
    if !old["type"].is_null() && old["type"] != new["type"] {
        found.push(format!("{path}: type {} instead of {}", new["type"], old["type"]));
    }
    let set =
        |value: &Value| -> BTreeSet<String> { value.as_array().into_iter().flatten().map(Value::to_string).collect() };
    let more = |key: &str| -> Vec<String> { set(&new[key]).difference(&set(&old[key])).cloned().collect() };
    for required in more("required") {
        if new["properties"][required.trim_matches('"')]["default"].is_null() {
            found.push(format!("{path}: {required} is required"));
        }
    }
    if !new["enum"].is_null() {
        let fewer: Vec<_> = set(&old["enum"]).difference(&set(&new["enum"])).cloned().collect();
        if old["enum"].is_null() || !fewer.is_empty() {
            found.push(format!("{path}: {fewer:?} are no values any more"));
        }
    }
    for (key, stricter) in [
        ("maximum", (|old, new| new < old) as fn(f64, f64) -> bool),
        ("maxLength", |old, new| new < old),
        ("maxItems", |old, new| new < old),
        ("maxProperties", |old, new| new < old),
        ("minimum", |old, new| new > old),
        ("minLength", |old, new| new > old),
        ("minItems", |old, new| new > old),
        ("minProperties", |old, new| new > old),
    ] {
        match (old[key].as_f64(), new[key].as_f64()) {
            (None, Some(new)) => found.push(format!("{path}: {key} {new}")),
            (Some(old), Some(new)) if stricter(old, new) => found.push(format!("{path}: {key} {new} instead of {old}")),
            _ => {}
        }
    }
    for key in ["pattern", "format"] {
        if !new[key].is_null() && old[key] != new[key] {
            found.push(format!("{path}: {key} {}", new[key]));
        }
    }
    let rules = |schema: &Value| -> BTreeSet<String> {
        let rules = schema["x-kubernetes-validations"].as_array();
        rules
            .into_iter()
            .flatten()
            .map(|rule| rule["rule"].as_str().unwrap().to_string())
            .collect()
    };
    for rule in rules(new).difference(&rules(old)) {
        found.push(format!("{path}: rule {rule}"));
    }
    for (name, property) in old["properties"].as_object().into_iter().flatten() {
        breaks(&format!("{path}.{name}"), property, &new["properties"][name], found);
    }
    for key in ["items", "additionalProperties"] {
        if old[key].is_object() {
            breaks(&format!("{path}[]"), &old[key], &new[key], found);
        }
    }
}

#[test]
fn objects_of_the_previous_release_are_accepted_and_keep_every_field() {
    let old: Value = serde_json::from_str(&read("tests/repository/api/v1alpha1.json")).unwrap();
    let new: Value = serde_json::from_str(&phoenix::crd::schemas().unwrap()).unwrap();
    let changes = read("CHANGELOG.md");
    let mut found = Vec::new();
    for (kind, schema) in old.as_object().unwrap() {
        breaks(kind, schema, &new[kind], &mut found);
    }
    // A stricter rule is written down where people look before they upgrade, with its path.
    found.retain(|change| {
        let path = change.split(':').next().unwrap();
        !changes.contains(&format!("`{path}`"))
    });
    assert!(found.is_empty(), "not in CHANGELOG.md: {found:#?}");
}

#[test]
fn what_is_stricter_is_found() {
    let old = serde_json::json!({"type": "object", "properties": {
        "kept": {"type": "string", "maxLength": 10},
        "gone": {"type": "string"},
        "one": {"type": "string", "enum": ["a", "b"]}
    }});
    let new = serde_json::json!({"type": "object", "required": ["kept"], "properties": {
        "kept": {"type": "string", "maxLength": 5, "pattern": "^a"},
        "one": {"type": "string", "enum": ["a"]},
        "more": {"type": "string"}
    }, "x-kubernetes-validations": [{"rule": "self.kept != ''"}]});
    let mut found = Vec::new();
    breaks("K", &old, &new, &mut found);
    assert_eq!(
        found,
        [
            "K: \"kept\" is required",
            "K: rule self.kept != ''",
            "K.kept: maxLength 5 instead of 10",
            "K.kept: pattern \"^a\"",
            "K.gone: is gone",
            "K.one: [\"\\\"b\\\"\"] are no values any more",
        ]
    );
    let mut same = Vec::new();
    breaks("K", &old, &old, &mut same);
    assert!(same.is_empty());
}

#[test]
fn kinds_can_be_selected_by_hypervisor_vmid_and_phase() {
    for (kind, fields) in [
        ("PhoenixLXC", 3),
        ("PhoenixVM", 3),
        ("PhoenixTemplate", 2),
        ("PhoenixHypervisor", 1),
        ("PhoenixFeature", 0),
    ] {
        let crds = phoenix::crd::all().unwrap();
        let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let selectable = crd.spec.versions[0].selectable_fields.as_deref().unwrap_or_default();
        assert_eq!(selectable.len(), fields, "{kind}: {selectable:?}");
    }
}
