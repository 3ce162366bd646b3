//! Reads manifests from files and folders and admits them as an API server would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admission::{Admission, Manifest, read_manifests, report};
use crate::crd::PhoenixFeature;

/// Features that come with Phoenix; a manifest of the same name in the namespace replaces one.
const SHIPPED: &[(&str, &str)] = &[
    ("base-setup.yaml", include_str!("../../config/features/base-setup.yaml")),
    ("docker.yaml", include_str!("../../config/features/docker.yaml")),
    ("nvidia.yaml", include_str!("../../config/features/nvidia.yaml")),
    ("ollama.yaml", include_str!("../../config/features/ollama.yaml")),
    ("portainer.yaml", include_str!("../../config/features/portainer.yaml")),
    (
        "python-api-service.yaml",
        include_str!("../../config/features/python-api-service.yaml"),
    ),
    ("vllm.yaml", include_str!("../../config/features/vllm.yaml")),
];

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

/// Files of folders and single files, in order of their names. Kustomizations only list what is read anyway, and
/// hidden folders such as the state folder are passed over.
///
/// # Errors
/// A path that cannot be read.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ManifestError> {
    let mut found = Vec::new();
    for path in paths {
        walk(path, true, &mut found)?;
    }
    Ok(found)
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
    let kustomization = ["kustomization.yaml", "kustomization.yml"].contains(&name.as_str());
    if named || (yaml && !kustomization) {
        found.push(path.to_path_buf());
    }
    Ok(())
}

/// Reads and admits all objects. `old` gives the stored object of (kind, namespace, name), so that rules about changes
/// hold.
///
/// # Errors
/// Every refusal, with file, object, field, value and fix.
pub fn load(paths: &[PathBuf], namespace: &str, old: Stored<'_>) -> Result<Vec<Admitted>, ManifestError> {
    let admission = Admission::new().map_err(|e| ManifestError::Internal(e.to_string()))?;
    let mut refused = Vec::new();
    let mut objects: BTreeMap<Id, Admitted> = BTreeMap::new();
    for path in files(paths)? {
        let text = std::fs::read_to_string(&path).map_err(|source| ManifestError::File {
            path: path.clone(),
            source,
        })?;
        let file = path.display().to_string();
        match read_manifests(&text, &file) {
            Ok(manifests) => {
                for manifest in manifests {
                    match admit(&admission, manifest, namespace, old) {
                        Ok(object) => match objects.get(&object.id()) {
                            Some(first) => {
                                refused.push(format!("{}: the object stands also at {}", object.place, first.place))
                            }
                            None => drop(objects.insert(object.id(), object)),
                        },
                        Err(text) => refused.push(text),
                    }
                }
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    if refused.is_empty() {
        Ok(objects.into_values().collect())
    } else {
        Err(ManifestError::Refused(refused))
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
    for (file, text) in SHIPPED {
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
