//! Checks of `metadata`, which every object has and no CRD describes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::patterns;
use super::violation::{Violation, ViolationKind};

/// Fields of ObjectMeta.
const FIELDS: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const NAME_PART_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Whether all of `text` matches `pattern`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    patterns::matches(&format!("^({pattern})$"), text)
}

/// Fields that ObjectMeta does not have.
pub(super) fn unknown_fields(object: &Value) -> Vec<Violation> {
    let fields = object["metadata"].as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !FIELDS.contains(&name.as_str()))
        .map(|(name, _)| Violation::new(&format!("metadata.{name}"), ViolationKind::UnknownField, ""))
        .collect()
}

/// Checks types, the name, labels, annotations and finalizers.
pub(super) fn check(object: &Value) -> Vec<Violation> {
    let value = match &object["metadata"] {
        Value::Null => Value::Object(serde_json::Map::new()),
        value => value.clone(),
    };
    let metadata: ObjectMeta = match serde_json::from_value(value) {
        Ok(metadata) => metadata,
        Err(error) => return vec![Violation::new("metadata", ViolationKind::Type, &error.to_string())],
    };
    let mut found = Vec::new();
    let mut check = |field: &str, text: &str, max: usize, pattern: &str, words: &str| {
        let mut bad = |message: &str| {
            found.push(Violation::new(field, ViolationKind::Invalid, message).shown(text.into()));
        };
        if text.len() > max {
            bad(&format!("must be no more than {max} bytes"));
        }
        if !matches(pattern, text) {
            bad(words);
        }
    };
    let name = metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        check("metadata.name", name, 253, SUBDOMAIN, SUBDOMAIN_MESSAGE);
    }
    if let Some(namespace) = metadata.namespace.as_deref().filter(|n| !n.is_empty()) {
        check("metadata.namespace", namespace, 63, LABEL, LABEL_MESSAGE);
    }
    let mut qualified = |field: &str, key: &str| {
        let (prefix, part) = key
            .split_once('/')
            .map_or((None, key), |(prefix, part)| (Some(prefix), part));
        check(field, part, 63, NAME_PART, NAME_PART_MESSAGE);
        if let Some(prefix) = prefix {
            check(
                field,
                prefix,
                253,
                SUBDOMAIN,
                &format!("prefix part {SUBDOMAIN_MESSAGE}"),
            );
        }
    };
    metadata
        .labels
        .iter()
        .flatten()
        .for_each(|(key, _)| qualified("metadata.labels", key));
    metadata
        .annotations
        .iter()
        .flatten()
        .for_each(|(key, _)| qualified("metadata.annotations", &key.to_lowercase()));
    metadata
        .finalizers
        .iter()
        .flatten()
        .for_each(|key| qualified("metadata.finalizers", key));
    for (_, value) in metadata.labels.iter().flatten() {
        check("metadata.labels", value, 63, VALUE, VALUE_MESSAGE);
    }
    if name.is_empty() {
        // `kubectl apply` has to find the object again, so it takes no generated names either.
        let message = match metadata.generate_name {
            Some(prefix) => format!("from {prefix}: cannot use generate name with apply"),
            None => "name or generateName is required".to_owned(),
        };
        found.push(Violation::new("metadata.name", ViolationKind::Required, &message));
    }
    found
}
