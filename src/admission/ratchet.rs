//! Ratcheting: an update is not refused for what it leaves as it is, so that objects stored before a rule was
//! tightened can still be edited.

use serde_json::Value;

use super::structure::identity;
use super::violation::{Violation, ViolationKind};

/// One step of a field path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Field(String),
    Index(usize),
}

impl Segment {
    pub(super) fn of<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match self {
            Segment::Field(name) => value.get(name),
            Segment::Index(index) => value.get(index),
        }
    }
}

/// The steps of a path such as `spec.network[0].ip`.
pub(super) fn segments(path: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        segments.push(Segment::Field(name.to_owned()));
        let indices = indices
            .split('[')
            .filter_map(|index| index.trim_end_matches(']').parse().ok());
        segments.extend(indices.map(Segment::Index));
    }
    segments
}

/// Whether the part of the object that `violation` speaks of is as it was in `old`.
pub(super) fn unchanged(schema: &Value, violation: &Violation, object: &Value, old: &Value) -> bool {
    let mut path = segments(&violation.field);
    // A missing or doubled field is the fault of what holds it.
    if matches!(violation.kind, ViolationKind::Required | ViolationKind::Duplicate) {
        path.pop();
    }
    if violation.transition {
        return false;
    }
    let (mut schema, mut new, mut old) = (schema, object, old);
    for segment in path {
        let (next_schema, next_old) = match &segment {
            Segment::Field(name) => {
                let schema = schema["properties"]
                    .get(name)
                    .or_else(|| schema.get("additionalProperties"));
                (schema, old.get(name))
            }
            // Only items of list maps can be found again; others are compared as a whole list.
            Segment::Index(_) => {
                let key = segment.of(new).and_then(|item| identity(schema, item));
                let known = schema["x-kubernetes-list-type"] == "map" && key.is_some();
                let items = old.as_array().filter(|_| known).into_iter().flatten();
                (
                    schema.get("items"),
                    items.into_iter().find(|item| identity(schema, item) == key),
                )
            }
        };
        let (Some(next_schema), Some(next_old), Some(next_new)) = (next_schema, next_old, segment.of(new)) else {
            return false;
        };
        if next_new == next_old {
            return true;
        }
        (schema, new, old) = (next_schema, next_new, next_old);
    }
    false
}
