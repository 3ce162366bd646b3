//! Secrets, ConfigMaps and Namespaces: the few checks that they need.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::metadata;
use super::violation::{Violation, ViolationKind};

const KEY: &str = "[-._a-zA-Z0-9]+";
const KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// Judges a Secret, ConfigMap or Namespace of `v1`.
pub(super) fn check(object: &Value) -> Result<Value, Vec<Violation>> {
    // Which fields hold data, and whether in base64.
    let (maps, others): (&[(&str, bool)], &[&str]) = match object["kind"].as_str() {
        Some("Secret") => (&[("data", true), ("stringData", false)], &["type", "immutable"]),
        Some("Namespace") => (&[], &["spec", "status"]),
        _ => (&[("data", false), ("binaryData", true)], &["immutable"]),
    };
    let mut found = metadata::unknown_fields(object);
    let known = |name: &str| {
        matches!(name, "apiVersion" | "kind" | "metadata")
            || maps.iter().any(|(map, _)| *map == name)
            || others.contains(&name)
    };
    for name in object.as_object().into_iter().flatten().map(|(name, _)| name) {
        if !known(name) {
            found.push(Violation::new(name, ViolationKind::UnknownField, ""));
        }
    }
    if !found.is_empty() {
        return Err(found);
    }
    found.extend(metadata::check(object));
    for (map, encoded) in maps {
        match &object[*map] {
            Value::Null => {}
            Value::Object(entries) => {
                for (key, value) in entries {
                    entry(&format!("{map}[{key}]"), key, value, *encoded, &mut found);
                }
            }
            _ => found.push(Violation::new(
                map,
                ViolationKind::Type,
                "must be a map of keys to strings",
            )),
        }
    }
    let is_right = |name: &str, value: &Value| match name {
        "type" => value.is_string(),
        "immutable" => value.is_boolean(),
        _ => true,
    };
    for name in others.iter().filter(|name| !object[**name].is_null()) {
        if !is_right(name, &object[*name]) {
            let words = if *name == "type" {
                "must be a string: put it in quotes"
            } else {
                "must be true or false"
            };
            found.push(Violation::new(name, ViolationKind::Type, words));
        }
    }
    if found.is_empty() {
        Ok(without_null(object, maps))
    } else {
        Err(found)
    }
}

/// The API server reads a value that is null as an empty one.
fn without_null(object: &Value, maps: &[(&str, bool)]) -> Value {
    let mut object = object.clone();
    for (map, _) in maps {
        let entries = object.get_mut(*map).and_then(Value::as_object_mut);
        for value in entries.into_iter().flat_map(|entries| entries.values_mut()) {
            if value.is_null() {
                *value = Value::String(String::new());
            }
        }
    }
    object
}

/// Values are never shown: they may be secret.
fn entry(field: &str, key: &str, value: &Value, encoded: bool, found: &mut Vec<Violation>) {
    if !metadata::matches(KEY, key) || key.len() > 253 {
        found.push(Violation::new(field, ViolationKind::Invalid, KEY_MESSAGE).shown(key.into()));
    }
    match value {
        Value::Null => {}
        // Line breaks are allowed in base64, as in the output of `base64`.
        Value::String(text) if encoded && STANDARD.decode(text.replace(['\n', '\r'], "")).is_err() => {
            found.push(Violation::new(
                field,
                ViolationKind::Invalid,
                "must be base64: encode it, or use stringData for plain text",
            ))
        }
        Value::String(_) => {}
        _ => found.push(Violation::new(
            field,
            ViolationKind::Type,
            "must be a string: put it in quotes",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::check;

    fn secret(more: Value) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "ai"}});
        let fields = more.as_object().into_iter().flatten();
        fields.for_each(|(key, value)| object[key] = value.clone());
        object
    }

    #[test]
    fn a_value_that_is_null_is_an_empty_one() {
        let admitted = check(&secret(
            json!({"data": {"a": null}, "stringData": {"b": null, "c": "d"}}),
        ));
        let wanted = secret(json!({"data": {"a": ""}, "stringData": {"b": "", "c": "d"}}));
        assert_eq!(admitted.ok(), Some(wanted));
    }

    #[test]
    fn a_type_that_is_no_text_is_refused_with_its_field() {
        let found = check(&secret(json!({"type": 5, "immutable": "no"}))).unwrap_err();
        let words: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].contains("type") && words[1].contains("immutable"), "{words:?}");
    }
}
