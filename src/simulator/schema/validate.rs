//! Checking parameters against their description, in Proxmox's order and words (facts A.4).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde_json::Value;

use super::{Format, Method, Property, formats, property_formats};

/// Errors by parameter.
pub type Errors = BTreeMap<String, String>;

const MISSING: &str = "property is missing and it is not optional";
const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";

fn required_by(name: &str) -> String {
    format!("missing property required by '{name}'")
}

static PATTERNS: LazyLock<Mutex<HashMap<String, Option<Arc<Regex>>>>> = LazyLock::new(Mutex::default);

/// A Perl pattern for the whole text as a regular expression. Shared: what a copy of one needs for its work it would make
/// anew.
pub fn regex(pattern: &str) -> Option<Arc<Regex>> {
    let mut known = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(pattern) {
        return found.clone();
    }
    let plain = pattern
        .replace("(?^:", "(?:")
        .replace("(?^i:", "(?i:")
        .replace("{,", "{0,")
        .replace("\\0", "\\x00");
    // In Perl, the end of a text is also before its last line end.
    let compiled = Regex::new(&format!("^(?:{plain})\\n?$")).ok().map(Arc::new);
    known.insert(pattern.to_owned(), compiled.clone());
    compiled
}

/// Finds the description of a parameter; `net[n]` stands for `net0` and so on.
pub fn property<'a>(properties: &'a BTreeMap<String, Property>, name: &str) -> Option<&'a Property> {
    if let Some(found) = properties.get(name) {
        return Some(found);
    }
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u32 = name[stem.len()..].parse().ok()?;
    let limit = match stem {
        "net" => 32,
        "mp" | "dev" | "unused" => 256,
        "ide" => 4,
        "sata" => 6,
        "scsi" => 31,
        "virtio" | "usb" | "hostpci" => 16,
        "serial" => 4,
        "parallel" => 3,
        "ipconfig" => 32,
        "numa" => 8,
        _ => 10,
    };
    let canonical = number.to_string() == name[stem.len()..];
    (canonical && number < limit)
        .then(|| properties.get(&format!("{stem}[n]")))
        .flatten()
}

/// A scalar as the text that Perl sees.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(if *on { "1" } else { "0" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Checks all parameters and brings lists into the form that the method expects.
pub fn check(method: &Method, params: &mut BTreeMap<String, Value>) -> Errors {
    let mut errors = Errors::new();
    let Some(properties) = &method.properties else {
        return errors;
    };
    for (name, described) in properties {
        let given = params.contains_key(name) || name.ends_with("[n]");
        if !given && !described.is_optional() {
            errors.insert(name.clone(), MISSING.to_owned());
        }
    }
    let names: Vec<String> = params.keys().cloned().collect();
    for name in &names {
        let Some(described) = property(properties, name) else {
            if method.additional.is_none() {
                errors.insert(name.clone(), UNKNOWN.to_owned());
            }
            continue;
        };
        if let Some(value) = params.get_mut(name) {
            normalise(described, value);
            match (&described.items, &*value) {
                (Some(member), Value::Array(items)) if described.kind.as_deref() == Some("array") => {
                    // Members are reported one by one, under their place.
                    for (at, item) in items.iter().enumerate() {
                        let place = format!("{name}[{at}]");
                        if let Err(error) = check_value(member, item, &place) {
                            errors.insert(place, error);
                        }
                    }
                }
                _ => {
                    if let Err(error) = check_value(described, value, name) {
                        errors.insert(name.clone(), error);
                    }
                }
            }
        }
        if let Some(other) = &described.requires
            && !params.contains_key(other)
        {
            errors.insert(other.clone(), required_by(name));
        }
    }
    errors
}

fn normalise(described: &Property, value: &mut Value) {
    let list = matches!(&described.format, Some(Format::Named(name)) if name.ends_with("-list"));
    match (described.kind.as_deref(), &value) {
        (Some("array"), Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
            *value = Value::Array(vec![value.take()])
        }
        (Some("string"), Value::Array(items)) if list => {
            let parts: Vec<String> = items.iter().filter_map(text).collect();
            *value = Value::String(parts.join(","));
        }
        _ => {}
    }
}

/// Checks one value.
pub fn check_value(described: &Property, value: &Value, path: &str) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    if let Value::Array(items) = value {
        if described.kind.as_deref() != Some("array") {
            let kind = described.kind.as_deref().unwrap_or("string");
            return Err(format!("type check ('{kind}') failed - got ARRAY"));
        }
        let Some(member) = &described.items else { return Ok(()) };
        return items.iter().try_for_each(|item| check_value(member, item, path));
    }
    let Some(text) = text(value) else {
        return Err(format!(
            "type check ('{}') failed",
            described.kind.as_deref().unwrap_or("string")
        ));
    };
    check_text(described, &text, path)
}

fn check_text(described: &Property, text: &str, path: &str) -> Result<(), String> {
    let kind = described.kind.as_deref().unwrap_or("string");
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let fits = match kind {
        "integer" => digits(unsigned),
        "number" => regex(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?").is_some_and(|number| number.is_match(text)),
        "boolean" => text == "0" || text == "1",
        _ => true,
    };
    if !fits {
        return Err(format!("type check ('{kind}') failed - got '{text}'"));
    }
    if let Some(format) = &described.format {
        check_format(format, text, path).map_err(|error| format!("invalid format - {error}"))?;
    }
    if let Some(pattern) = &described.pattern
        && regex(pattern).is_some_and(|regex| !regex.is_match(text))
    {
        return Err("value does not match the regex pattern".to_owned());
    }
    let length = text.chars().count() as u64;
    if let Some(most) = described
        .max_length
        .as_ref()
        .map(super::Number::get)
        .filter(|most| length > *most)
    {
        return Err(format!("value may only be {most} characters long"));
    }
    if let Some(least) = described
        .min_length
        .as_ref()
        .map(super::Number::get)
        .filter(|least| length < *least)
    {
        return Err(format!("value must be at least {least} characters long"));
    }
    if let Ok(number) = text.parse::<f64>() {
        if let Some(most) = described.maximum.filter(|most| number > *most) {
            return Err(format!("value must have a maximum value of {most}"));
        }
        if let Some(least) = described.minimum.filter(|least| number < *least) {
            return Err(format!("value must have a minimum value of {least}"));
        }
    }
    if let Some(values) = &described.values {
        let names: Vec<String> = values.iter().filter_map(self::text).collect();
        if !names.iter().any(|name| name == text) {
            let list = names.join(", ");
            return Err(format!(
                "value '{text}' does not have a value in the enumeration '{list}'"
            ));
        }
    }
    Ok(())
}

fn check_format(format: &Format, text: &str, path: &str) -> Result<(), String> {
    match format {
        Format::Named(name) => match property_formats::keys(name) {
            Some(keys) => {
                check_property_string(keys, text, path)?;
                let processor = name == "pve-vm-cpu-conf";
                let fault = processor.then(|| property_formats::processor_fault(text)).flatten();
                fault.map_or(Ok(()), Err)
            }
            None => formats::check(name, text),
        },
        Format::Keys(keys) => check_property_string(keys, text, path),
    }
}

/// Checks a property string such as `net0`.
pub fn check_property_string(keys: &BTreeMap<String, Property>, text: &str, path: &str) -> Result<(), String> {
    let default_key = keys
        .iter()
        .find(|(_, described)| described.is_default_key())
        .map(|(name, _)| name);
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (mut key, value) = match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => (key.to_owned(), value.to_owned()),
            Some(_) => return Err("missing key in comma-separated list property\n".to_owned()),
            None => match default_key {
                Some(key) => (key.clone(), part.to_owned()),
                None => return Err("value without key, but schema does not define a default key\n".to_owned()),
            },
        };
        if let Some(described) = keys.get(&key)
            && let Some(alias) = &described.alias
        {
            if let Some(key_alias) = &described.key_alias {
                found.insert(key_alias.clone(), key.clone());
            }
            key.clone_from(alias);
        }
        if found.contains_key(&key) {
            return Err(format!("duplicate key in comma-separated list property: {key}\n"));
        }
        found.insert(key, value);
    }
    let mut errors = Errors::new();
    for (key, described) in keys {
        if described.alias.is_none() && !described.is_optional() && !found.contains_key(key) {
            errors.insert(key.clone(), MISSING.to_owned());
        }
    }
    for (key, value) in &found {
        let error = match keys.get(key) {
            None => Some(UNKNOWN.to_owned()),
            Some(described) => check_key(described, value, key).err(),
        };
        if let Some(error) = error {
            errors.insert(key.clone(), error);
        }
        if let Some(other) = keys.get(key).and_then(|described| described.requires.as_ref())
            && !found.contains_key(other)
        {
            errors.insert(other.clone(), required_by(&format!("{path}.{key}")));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let lines: String = errors
        .iter()
        .map(|(key, error)| format!("{path}.{key}: {error}\n"))
        .collect();
    Err(format!("format error\n{lines}"))
}

/// Inside property strings booleans have more spellings (facts A.2).
fn check_key(described: &Property, value: &str, key: &str) -> Result<(), String> {
    let words = ["1", "on", "yes", "true", "0", "off", "no", "false"];
    if described.kind.as_deref() == Some("boolean") && words.contains(&value.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    check_text(described, value, key)
}
