//! The structural part of a CRD's schema: unknown fields, nulls, types, bounds, and uniqueness in lists.
//!
//! JSON-schema crates are of no help here: the API server's dialect prunes nulls, knows list maps and sets, and its
//! words are part of the verdict.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::patterns;
use super::violation::{Violation, ViolationKind};

/// How near a misspelt field must be to a real one to be suggested (Jaro-Winkler).
const NEAR: f64 = 0.8;

pub(super) fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The schema of a map's values.
fn values_of(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|s| s.is_object())
}

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true || schema["additionalProperties"] == true
}

/// Finds fields that the schema does not have. Metadata has a schema of its own.
pub(super) fn unknown_fields(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = child(path, name);
                if path == "metadata" {
                    continue;
                }
                match schema["properties"].get(name).or_else(|| values_of(schema)) {
                    Some(schema) => unknown_fields(schema, value, &path, found),
                    None if keeps_unknown(schema) => {}
                    None => found.push(Violation::new(
                        &path,
                        ViolationKind::UnknownField,
                        &suggestion(schema, name),
                    )),
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (i, item) in items.iter().enumerate() {
                unknown_fields(&schema["items"], item, &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

fn suggestion(schema: &Value, name: &str) -> String {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let near = properties
        .map(|(known, _)| (strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase()), known))
        .filter(|(nearness, _)| *nearness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    near.map(|(_, known)| format!("did you mean \"{known}\"?"))
        .unwrap_or_default()
}

/// Removes nulls, which are the same as leaving the field out (in lists they stay, and are of the wrong type), and
/// makes 4.0 a 4 where an integer belongs.
pub(super) fn normalize(schema: &Value, value: &mut Value) {
    match value {
        Value::Number(number) if schema["type"] == "integer" || schema["x-kubernetes-int-or-string"] == true => {
            if let Some(whole) = number
                .as_f64()
                .filter(|n| n.fract() == 0.0 && n.abs() < i64::MAX as f64)
                && number.is_f64()
            {
                *value = json!(whole as i64);
            }
        }
        Value::Object(fields) => {
            if !keeps_unknown(schema) {
                fields.retain(|_, value| !value.is_null());
            }
            for (name, value) in fields {
                if let Some(schema) = schema["properties"].get(name).or_else(|| values_of(schema)) {
                    normalize(schema, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normalize(&schema["items"], item)),
        _ => {}
    }
}

/// Checks types and bounds.
pub(super) fn validate(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let fits = check_type(schema, value, path, found);
    check_enum(schema, value, path, found);
    match value {
        Value::String(text) if fits => check_string(schema, text, path, found),
        Value::Number(number) if fits => check_number(schema, number, path, found),
        Value::Array(items) if fits => check_list(schema, items, path, found),
        Value::Object(fields) if fits => check_object(schema, fields, path, found),
        _ => {}
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) -> bool {
    let either = schema["x-kubernetes-int-or-string"] == true;
    let fits = value.is_string() || value.as_i64().is_some();
    let Some(wanted) = schema["type"].as_str().or(either.then_some("integer,string")) else {
        return true;
    };
    if either && fits {
        return true;
    }
    let (wanted, is) = match (wanted, value) {
        // Too large for int64 counts as a fraction does.
        ("integer", Value::Number(number)) if !number.is_i64() => ("int64", "float64"),
        ("number", Value::Number(_)) => return true,
        (wanted, value) => (wanted, type_name(value)),
    };
    if wanted == is {
        return true;
    }
    let message = format!("{path} in body must be of type {wanted}: \"{is}\"");
    found.push(Violation::new(path, ViolationKind::Type, &message).shown(json!(is)));
    false
}

fn check_enum(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let Some(supported) = schema["enum"].as_array() else {
        return;
    };
    if !supported.contains(value) {
        let supported: Vec<_> = supported.iter().map(Value::to_string).collect();
        let message = format!("supported values: {}", supported.join(", "));
        found.push(Violation::new(path, ViolationKind::NotSupported, &message).shown(value.clone()));
    }
}

fn check_string(schema: &Value, text: &str, path: &str, found: &mut Vec<Violation>) {
    let length = text.chars().count() as u64;
    let invalid = |message: &str| Violation::new(path, ViolationKind::Invalid, message).shown(json!(text));
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        let message = format!("may not be more than {max} bytes");
        found.push(Violation::new(path, ViolationKind::TooLong, &message));
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        found.push(invalid(&format!("{path} in body should be at least {min} chars long")));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !patterns::matches(pattern, text)
    {
        found.push(invalid(&format!("{path} in body should match '{pattern}'")));
    }
}

fn check_number(schema: &Value, number: &serde_json::Number, path: &str, found: &mut Vec<Violation>) {
    let Some(value) = number.as_f64() else { return };
    let mut bound = |key: &str, broken: fn(f64, f64) -> bool, words: &str| {
        if let Some(limit) = schema[key].as_f64().filter(|limit| broken(value, *limit)) {
            let message = format!("{path} in body should be {words} than or equal to {limit}");
            found.push(Violation::new(path, ViolationKind::Invalid, &message).shown(json!(number)));
        }
    };
    bound("minimum", |value, min| value < min, "greater");
    bound("maximum", |value, max| value > max, "less");
}

fn too_many(count: usize, max: &Value, path: &str) -> Option<Violation> {
    let max = max.as_u64().filter(|max| count as u64 > *max)?;
    let message = format!("must have at most {max} items");
    Some(Violation::new(path, ViolationKind::TooMany, &message).shown(json!(count)))
}

fn check_list(schema: &Value, items: &[Value], path: &str, found: &mut Vec<Violation>) {
    found.extend(too_many(items.len(), &schema["maxItems"], path));
    if let Some(min) = schema["minItems"].as_u64().filter(|min| (items.len() as u64) < *min) {
        let message = format!("{path} in body should have at least {min} items");
        found.push(Violation::new(path, ViolationKind::Invalid, &message).shown(json!(items.len())));
    }
    for (i, item) in items.iter().enumerate() {
        validate(&schema["items"], item, &format!("{path}[{i}]"), found);
    }
    let (mut seen, mut reported) = (BTreeSet::new(), BTreeSet::new());
    for (i, item) in items.iter().enumerate() {
        let Some(key) = identity(schema, item) else { continue };
        let text = key.to_string();
        // Each doubled entry is reported once, however often it stands there.
        if !seen.insert(text.clone()) && reported.insert(text) {
            found.push(Violation::new(&format!("{path}[{i}]"), ViolationKind::Duplicate, "").shown(key));
        }
    }
}

/// What makes an item of a list unique: its key fields in a list map, itself in a set, nothing otherwise.
pub(super) fn identity(schema: &Value, item: &Value) -> Option<Value> {
    match schema["x-kubernetes-list-type"].as_str()? {
        "set" => Some(item.clone()),
        "map" => {
            let mut names: Vec<_> = schema["x-kubernetes-list-map-keys"]
                .as_array()?
                .iter()
                .map(Value::as_str)
                .collect();
            names.sort_unstable();
            let fields = names
                .into_iter()
                .map(|name| Some((name?.to_owned(), item.get(name?)?.clone())));
            fields.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        _ => None,
    }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<Violation>) {
    found.extend(too_many(fields.len(), &schema["maxProperties"], path));
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            found.push(Violation::new(&child(path, name), ViolationKind::Required, ""));
        }
    }
    for (name, value) in fields {
        if let Some(schema) = schema["properties"].get(name).or_else(|| values_of(schema)) {
            validate(schema, value, &child(path, name), found);
        }
    }
}
