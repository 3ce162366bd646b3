//! Reader for `tests/bad-manifests/`: manifests that must be refused, or accepted and then `Stalled`, whichever way
//! they reach Phoenix — the API server, `phoenix apply`, or the checks in process. Use it with
//! `#[path = "../common/bad_manifests.rs"] mod bad_manifests;`.
//!
//! * Every file but `world.yaml` and `values.yaml` is a list of entries:
//!
//!   ```yaml
//!   - name: unique words for people
//!     kind: PhoenixLXC          # with `spec`, `metadata` and `status` (each optional): the object
//!     spec: {cores: 0}
//!     old: {spec: {…}, status: {…}}  # optional: the object as it is stored when this one is applied over it
//!     with: [{…}]                # optional: whole objects that exist besides `world`
//!     refused: [fragments]       # the verdict: texts that the refusal contains (field, value, fix) …
//!     stalled: {reason: InvalidSpec, message: [fragments]}   # … or reason and texts of the condition `Stalled`;
//!                               # `later: true` where it takes a look at Proxmox
//!   ```
//!
//!   The reader completes what every object of the kind needs and the entry leaves out: apiVersion, a name made from
//!   the entry's, namespace `fleet`, and required fields of the spec (`hypervisorRef: {name: pve}` and so on). A field
//!   that is given, be it as null, is left as it is.
//! * `world.yaml` holds the objects that `stalled` entries refer to. A runner that has a Proxmox look-alike puts its
//!   address, its certificate authority and the contents of the Secrets `pve-token` in.
//! * `values.yaml` lists good and bad values of single fields.
//!
//! `stalled` entries pass admission; all verdicts hold for an object that has not been applied before, or that was
//! stored as `old`.

#![allow(clippy::unwrap_used, reason = "test code: a panic is the report")]
#![allow(dead_code, reason = "each test uses its part")]

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Namespace of the objects under test.
pub const NAMESPACE: &str = "fleet";

/// What must become of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is refused with a message that contains these texts.
    Refused(Vec<String>),
    /// It is accepted, and gets the condition `Stalled` with this reason and a message that contains these texts.
    Stalled {
        reason: String,
        message: Vec<String>,
        /// It is known only when Proxmox has been looked at.
        later: bool,
    },
}

/// A manifest and what must become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// File and name of the entry.
    pub name: String,
    /// The object that is applied.
    pub manifest: Value,
    /// The object as it is stored before, with its status.
    pub old: Option<Value>,
    /// Further objects that exist.
    pub with: Vec<Value>,
    /// What must become of the manifest.
    pub verdict: Verdict,
}

/// Good and bad values of a field.
#[derive(Clone, Debug)]
pub struct Values {
    /// Path of the field, for people.
    pub field: String,
    /// An object for each good value.
    pub good: Vec<Value>,
    /// An object for each bad value.
    pub bad: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: String,
    spec: Option<Value>,
    metadata: Option<Value>,
    old: Option<Value>,
    #[serde(default)]
    with: Vec<Value>,
    refused: Option<Vec<String>>,
    stalled: Option<Stalled>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stalled {
    reason: String,
    message: Vec<String>,
    #[serde(default)]
    later: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldEntry {
    kind: String,
    field: String,
    spec: Option<Value>,
    good: Vec<Value>,
    bad: Vec<Value>,
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad-manifests")
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = dir().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files that hold no entries.
const OTHERS: [&str; 2] = ["world.yaml", "values.yaml"];

/// All entries, in the order of the files' names.
pub fn cases() -> Vec<Case> {
    let mut files: Vec<String> = std::fs::read_dir(dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && !OTHERS.contains(&name.as_str()))
        .collect();
    files.sort();
    files.iter().flat_map(|file| entries(file)).collect()
}

fn entries(file: &str) -> Vec<Case> {
    let entries: Vec<Entry> = read(file);
    entries.into_iter().map(|entry| case(file, entry)).collect()
}

/// The objects that `stalled` entries refer to.
pub fn world() -> Vec<Value> {
    read("world.yaml")
}

/// Good and bad values of single fields.
pub fn values() -> Vec<Values> {
    let entries: Vec<FieldEntry> = read("values.yaml");
    entries
        .into_iter()
        .map(|entry| {
            let name = slug(&entry.field);
            let with = |value: &Value| {
                let mut object = complete(&entry.kind, &name, None, entry.spec.clone());
                put(&mut object, &entry.field, value.clone());
                object
            };
            Values {
                good: entry.good.iter().map(with).collect(),
                bad: entry.bad.iter().map(with).collect(),
                field: format!("{} {}", entry.kind, entry.field),
            }
        })
        .collect()
}

/// The fragments that `text` lacks.
pub fn missing<'a>(fragments: &'a [String], text: &str) -> Vec<&'a str> {
    fragments
        .iter()
        .map(String::as_str)
        .filter(|fragment| !text.contains(fragment))
        .collect()
}

fn case(file: &str, entry: Entry) -> Case {
    let name = format!("{file}: {}", entry.name);
    let verdict = match (entry.refused, entry.stalled) {
        (Some(fragments), None) => Verdict::Refused(fragments),
        (None, Some(Stalled { reason, message, later })) => Verdict::Stalled { reason, message, later },
        _ => panic!("{name}: give exactly one of refused and stalled"),
    };
    let object_name = slug(&entry.name);
    let old = entry.old.map(|mut old| {
        let mut object = complete(
            &entry.kind,
            &object_name,
            None,
            old["spec"].is_object().then(|| old["spec"].take()),
        );
        object["status"] = old["status"].take();
        object
    });
    Case {
        manifest: complete(&entry.kind, &object_name, entry.metadata, entry.spec),
        with: entry.with,
        old,
        verdict,
        name,
    }
}

/// A name for an object, from words.
fn slug(words: &str) -> String {
    let dashed: String = words
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let parts: Vec<_> = dashed.split('-').filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

fn complete(kind: &str, name: &str, metadata: Option<Value>, spec: Option<Value>) -> Value {
    if matches!(kind, "Secret" | "ConfigMap") {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
        fill(&mut object, &spec.unwrap_or(json!({})));
        return object;
    }
    let needed = match kind {
        "PhoenixHypervisor" => json!({
            "endpoints": ["https://pve.example.org:8006"],
            "credentials": {"tokenSecretRef": {"name": "pve-token"}},
        }),
        "PhoenixFeature" => json!({"install": "true"}),
        "PhoenixTemplate"
            if spec
                .as_ref()
                .is_some_and(|spec| spec["lxc"].is_null() && spec["vm"].is_null()) =>
        {
            json!({"hypervisorRef": {"name": "pve"}, "lxc": {}})
        }
        _ => json!({"hypervisorRef": {"name": "pve"}}),
    };
    let mut spec = spec.unwrap_or(json!({}));
    if spec.is_object() {
        fill(&mut spec, &needed);
    }
    let mut metadata = metadata.unwrap_or(json!({}));
    fill(&mut metadata, &json!({"name": name, "namespace": NAMESPACE}));
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// Adds the fields of `from` that `object` lacks.
fn fill(object: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        object.as_object_mut().unwrap().entry(key).or_insert(value.clone());
    }
}

/// Puts a value at a path such as `spec.network[0].ip`; what is missing on the way is made.
fn put(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for part in path.split('.') {
        let (name, index) = part.strip_suffix("[0]").map_or((part, false), |name| (name, true));
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = place.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
        if index {
            if !place.is_array() {
                *place = json!([null]);
            }
            place = &mut place[0];
        }
    }
    *place = value;
}
