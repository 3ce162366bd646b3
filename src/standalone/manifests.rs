//! Reads manifests from files and folders and admits them as an API server would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{foreign, kustomize};
use crate::admission::{Admission, Manifest, ReadError, read_manifests, report};
use crate::crd::PhoenixFeature;
use crate::install::FEATURES;

/// Kind, namespace and name of an object.
pub type Id = (String, String, String);

/// Gives the stored object of a name.
pub type Stored<'a> = &'a dyn Fn(&Id) -> Option<Value>;

/// Why manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Objects are refused; one text for each.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// A kustomization cannot be built.
    #[error("{0}")]
    Kustomization(String),
    /// Phoenix's own definitions are broken.
    #[error("{0}")]
    Internal(String),
}

/// An admitted object of a file.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The object, with its namespace and defaults filled in.
    pub value: Value,
    /// File and line, for messages.
    pub place: String,
}

impl Admitted {
    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
    /// Kind, namespace and name.
    pub fn id(&self) -> Id {
        (
            self.text("/kind").into(),
            self.text("/metadata/namespace").into(),
            self.text("/metadata/name").into(),
        )
    }
}

/// Where manifests come from.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Files, and folders with all that is in them.
    Paths(&'a [PathBuf]),
    /// A folder with a kustomization.
    Kustomization(&'a Path),
}

/// What manifests came to.
#[derive(Debug)]
pub struct Loaded {
    /// The objects, by kind, namespace and name.
    pub objects: Vec<Admitted>,
    /// What whoever gave them should know: what was skipped, and what building a kustomization said. One text a line.
    pub notes: Vec<String>,
}

/// A text that holds manifests.
#[derive(Clone, Debug)]
pub struct Text {
    /// The file, or the command that prints it.
    pub name: String,
    /// YAML or JSON, of any number of documents.
    pub text: String,
    /// Whether it was asked for by itself, and not met in a folder: then it must hold something of Phoenix's.
    pub named: bool,
}

/// All texts of the input, in order of their names. Hidden folders such as the state folder are passed over.
fn texts(input: Input<'_>, notes: &mut Vec<String>) -> Result<Vec<Text>, ManifestError> {
    let paths = match input {
        Input::Paths(paths) => paths,
        Input::Kustomization(folder) => {
            let built = kustomize::build(folder).map_err(ManifestError::Kustomization)?;
            notes.extend(built.said.lines().map(str::to_owned));
            return Ok(vec![Text {
                name: built.command,
                text: built.text,
                named: true,
            }]);
        }
    };
    let mut files = Vec::new();
    for path in paths {
        walk(path, true, &mut files)?;
    }
    let text = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Text {
            name: path.display().to_string(),
            text,
            named: paths.contains(&path),
        }),
        Err(source) => Err(ManifestError::File { path, source }),
    };
    files.into_iter().map(text).collect()
}

fn walk(path: &Path, named: bool, found: &mut Vec<PathBuf>) -> Result<(), ManifestError> {
    let failed = |source| ManifestError::File {
        path: path.to_path_buf(),
        source,
    };
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        if !named && name.starts_with('.') {
            return Ok(());
        }
        let mut entries = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
            .map_err(failed)?;
        entries.sort();
        return entries.iter().try_for_each(|entry| walk(entry, false, found));
    }
    let yaml = ["yaml", "yml", "json"]
        .iter()
        .any(|e| path.extension().is_some_and(|x| x == *e));
    if named || yaml {
        found.push(path.to_path_buf());
    }
    Ok(())
}

/// Reads and admits all objects that are Phoenix's to read ([`Admission::concerns`]), and notes the others. `old` gives
/// the stored object of (kind, namespace, name), so that rules about changes hold.
///
/// # Errors
/// Every refusal, with file, object, field, value and fix; a text that was asked for by itself and holds nothing of
/// Phoenix's; a kustomization that cannot be built.
pub fn load(input: Input<'_>, namespace: &str, old: Stored<'_>) -> Result<Loaded, ManifestError> {
    let admission = Admission::new().map_err(|e| ManifestError::Internal(e.to_string()))?;
    let mut notes = Vec::new();
    let texts = texts(input, &mut notes)?;
    let mut loaded = load_texts(&admission, texts, namespace, old)?;
    notes.append(&mut loaded.notes);
    Ok(Loaded { notes, ..loaded })
}

/// As [`load`], of texts that were read already.
///
/// # Errors
/// As of [`load`].
pub fn load_texts(
    admission: &Admission,
    texts: Vec<Text>,
    namespace: &str,
    old: Stored<'_>,
) -> Result<Loaded, ManifestError> {
    let (mut notes, mut refused) = (Vec::new(), Vec::new());
    let mut objects: BTreeMap<Id, Admitted> = BTreeMap::new();
    for Text { name, text, named } in texts {
        let manifests = match read_manifests(&text, &name) {
            Ok(manifests) => manifests,
            Err(error) => {
                refused.push(unreadable(&error, &text));
                continue;
            }
        };
        let (ours, others): (Vec<_>, Vec<_>) = manifests.into_iter().partition(|m| admission.concerns(&m.value));
        if named && ours.is_empty() {
            let found = foreign::listed(&others).map_or(String::new(), |others| format!(", only {others}"));
            refused.push(format!("no Phoenix objects in {name}{found}"));
            continue;
        }
        notes.extend(foreign::listed(&others).map(|others| format!("skipped in {name}: {others}")));
        for manifest in ours {
            match admit(admission, manifest, namespace, old) {
                Ok(object) => match objects.get(&object.id()) {
                    Some(first) => refused.push(format!("{}: the object stands also at {}", object.place, first.place)),
                    None => drop(objects.insert(object.id(), object)),
                },
                Err(text) => refused.push(text),
            }
        }
    }
    if refused.is_empty() {
        let objects = objects.into_values().collect();
        Ok(Loaded { objects, notes })
    } else {
        Err(ManifestError::Refused(refused))
    }
}

/// Why a text is no YAML, and the likely reason.
fn unreadable(error: &ReadError, text: &str) -> String {
    if text.contains("{{") {
        format!("{error}; a Helm template must be rendered first: helm template CHART, and give the result with -f")
    } else {
        error.to_string()
    }
}

fn admit(admission: &Admission, mut manifest: Manifest, namespace: &str, old: Stored<'_>) -> Result<Admitted, String> {
    let namespaced = manifest.value["kind"] != "Namespace";
    if let Some(metadata) = manifest.value.get_mut("metadata").and_then(Value::as_object_mut)
        && namespaced
        && metadata
            .get("namespace")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        metadata.insert("namespace".into(), namespace.into());
    }
    let mut object = Admitted {
        place: format!("{}:{}", manifest.file, manifest.line),
        value: manifest.value.clone(),
    };
    let id = object.id();
    match admission.check(&manifest.value, old(&id).as_ref()) {
        Ok(value) => {
            object.value = value;
            Ok(object)
        }
        Err(violations) => {
            let line = violations.first().map_or(manifest.line, |v| manifest.line_of(&v.field));
            Err(format!(
                "{}:{line}: {}",
                manifest.file,
                report(&id.0, &id.2, &violations)
            ))
        }
    }
}

/// The shipped features as objects of a namespace.
///
/// # Errors
/// Only if a shipped file is broken, which a test would have shown.
pub fn shipped_features(namespace: &str) -> Result<Vec<PhoenixFeature>, ManifestError> {
    let internal = |e: String| ManifestError::Internal(e);
    let mut features = Vec::new();
    for (file, text) in FEATURES {
        for manifest in read_manifests(text, file).map_err(|e| internal(e.to_string()))? {
            let mut feature: PhoenixFeature = typed(&manifest.value).map_err(internal)?;
            feature.metadata.namespace = Some(namespace.to_string());
            features.push(feature);
        }
    }
    Ok(features)
}

/// An admitted object as its type.
///
/// # Errors
/// What does not fit.
pub fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|e| format!("{} {}: {e}", value["kind"], value["metadata"]["name"]))
}

/// A Secret with its `stringData` merged into `data`, as the API server does.
///
/// # Errors
/// What does not fit.
pub fn secret(value: &Value) -> Result<Secret, String> {
    let mut secret: Secret = typed(value)?;
    for (key, text) in secret.string_data.take().unwrap_or_default() {
        secret
            .data
            .get_or_insert_default()
            .insert(key, k8s_openapi::ByteString(text.into_bytes()));
    }
    Ok(secret)
}

/// A ConfigMap.
///
/// # Errors
/// What does not fit.
pub fn config_map(value: &Value) -> Result<ConfigMap, String> {
    typed(value)
}
