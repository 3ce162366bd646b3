//! Every leaf of a kind's spec, from the schema that users get.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use kube::CustomResourceExt;
use phoenix::crd::*;
use serde_json::Value;

/// A value of a spec that holds no other: `network[].vlan`, or `environment{}` for the values of a map.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub path: String,
    pub schema: Value,
}

impl Leaf {
    /// Whether it holds text.
    pub fn is_text(&self) -> bool {
        self.schema["type"] == "string" && self.schema["enum"].is_null()
    }
}

/// The leaves of a kind's spec, in the order of their names.
pub fn leaves(kind: &str) -> Vec<Leaf> {
    static KNOWN: LazyLock<Mutex<BTreeMap<String, Vec<Leaf>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    known.entry(kind.to_owned()).or_insert_with(|| read(kind)).clone()
}

fn read(kind: &str) -> Vec<Leaf> {
    let crd = match kind {
        "PhoenixLXC" => PhoenixLXC::crd(),
        "PhoenixVM" => PhoenixVM::crd(),
        "PhoenixTemplate" => PhoenixTemplate::crd(),
        "PhoenixHypervisor" => PhoenixHypervisor::crd(),
        _ => PhoenixFeature::crd(),
    };
    let crd = serde_json::to_value(crd).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut found = Vec::new();
    collect(schema, String::new(), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(schema: &Value, path: String, found: &mut Vec<Leaf>) {
    let below = |name: &str| match path.as_str() {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    if let Some(properties) = schema["properties"].as_object() {
        properties
            .iter()
            .for_each(|(name, schema)| collect(schema, below(name), found));
    } else if schema["items"].is_object() {
        collect(&schema["items"], format!("{path}[]"), found);
    } else if schema["additionalProperties"].is_object() {
        collect(&schema["additionalProperties"], format!("{path}{{}}"), found);
    } else {
        let schema = schema.clone();
        found.push(Leaf { path, schema });
    }
}

/// What stands at a leaf's path: the first entry of a list, `key` of a map. What is missing on the way is made.
pub fn place<'a>(spec: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(spec, |at, part| {
        let (name, list, map) = parts(part);
        let mut at = &mut at[name];
        if list {
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            let entries = at.as_array_mut().unwrap();
            if entries.is_empty() {
                entries.push(Value::Null);
            }
            at = &mut entries[0];
        }
        if map { &mut at[KEY] } else { at }
    })
}

/// What stands at a leaf's path, if anything does.
pub fn get<'a>(spec: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(spec, |at, part| {
        let (name, list, map) = parts(part);
        let at = at.get(name)?;
        let at = if list { at.get(0)? } else { at };
        if map { at.get(KEY) } else { Some(at) }
    })
}

/// The key that stands for all those of a map.
pub const KEY: &str = "key";

fn parts(part: &str) -> (&str, bool, bool) {
    let (part, map) = part.strip_suffix("{}").map_or((part, false), |p| (p, true));
    let (part, list) = part.strip_suffix("[]").map_or((part, false), |p| (p, true));
    (part, list, map)
}

/// The spec without the leaf; an entry of a list of plain values goes, and the list is empty then.
pub fn without(spec: &Value, path: &str) -> Value {
    let mut spec = spec.clone();
    let (above, last) = path.rsplit_once('.').map_or((None, path), |(a, l)| (Some(a), l));
    let at = match above {
        Some(above) => place(&mut spec, above),
        None => &mut spec,
    };
    let (name, list, map) = parts(last);
    if list && !map {
        at[name] = serde_json::json!([]);
    } else if map {
        if let Some(entries) = at[name].as_object_mut() {
            entries.remove(KEY);
        }
    } else if let Some(fields) = at.as_object_mut() {
        fields.remove(name);
    }
    spec
}
