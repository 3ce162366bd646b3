//! The API server's admission checks for manifests that never meet one, with the same verdicts and words:
//! unknown fields, schema, defaults and CEL rules of the CRDs, names, and transition rules against the old object.
//!
//! [`Admission::check`] judges one object, [`read_manifests`] turns YAML into objects. Both are pure.
//!
//! Known difference: the API server never sees a key that stands twice in YAML (kubectl keeps the last one silently);
//! here it is refused.

mod light;
mod metadata;
mod patterns;
mod ratchet;
mod reader;
mod structure;
mod violation;

use std::collections::BTreeMap;

use kube_cel::{CompiledSchema, ErrorKind, apply_defaults, compile_schema, validate_compiled};
use serde_json::{Value, json};

use crate::crd;
pub use reader::{Manifest, ReadError, read_manifests};
pub use violation::{Violation, ViolationKind, report};

/// The schemas of all kinds, as [`crd::schemas`] makes them.
const SCHEMAS: &str = include_str!("schemas.json");

/// The checks of all kinds, with their rules compiled.
#[derive(Debug)]
pub struct Admission {
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug)]
struct Kind {
    /// The CRD's `openAPIV3Schema`, with the fields that every object has.
    schema: Value,
    rules: CompiledSchema,
}

/// The rules could not be prepared; a test of the CRDs shows it before any user does.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The schemas are no JSON.
    #[error("reading the schemas: {0}")]
    Schema(#[from] serde_json::Error),
    /// A rule does not compile.
    #[error("{kind}: {message}")]
    Rule {
        /// Kind whose rule it is.
        kind: String,
        /// The compiler's words.
        message: String,
    },
}

impl Admission {
    /// Compiles the rules of all CRDs.
    ///
    /// # Errors
    /// If the schemas cannot be read or a rule does not compile.
    pub fn new() -> Result<Self, AdmissionError> {
        let mut kinds = BTreeMap::new();
        for (name, mut schema) in serde_json::from_str::<BTreeMap<String, Value>>(SCHEMAS)? {
            if let Some(properties) = schema["properties"].as_object_mut() {
                properties.insert("apiVersion".into(), json!({"type": "string"}));
                properties.insert("kind".into(), json!({"type": "string"}));
                properties.insert("metadata".into(), json!({"type": "object"}));
            }
            let rules = compile_schema(&schema);
            if let Some(message) = broken_rule(&rules) {
                return Err(AdmissionError::Rule { kind: name, message });
            }
            kinds.insert(name, Kind { schema, rules });
        }
        Ok(Self { kinds })
    }

    /// Whether [`Admission::check`] is for `value`: a kind that Phoenix reads, and whatever looks as if it should be one
    /// (Phoenix's group, or the name of a kind of Phoenix under another `apiVersion`), so that no slip of the pen is
    /// taken for somebody else's object. A list counts if one of its items does.
    pub fn concerns(&self, value: &Value) -> bool {
        if let Value::Array(items) = value {
            return items.iter().any(|item| self.concerns(item));
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let group = version.split('/').next().unwrap_or_default();
        group.eq_ignore_ascii_case(crd::GROUP) || self.kinds.contains_key(kind) || is_core(version, kind)
    }

    /// Judges `object` as the API server would on `kubectl apply`, and returns it with defaults filled in.
    ///
    /// `old` is the stored object, if there is one: transition rules compare with it, its `status` replaces the one of
    /// `object` (which only the status subresource can write), and what `object` leaves unchanged is not judged again
    /// (ratcheting).
    ///
    /// # Errors
    /// All that is wrong, in the order of the fields.
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if !object.is_object() {
            return Err(vec![Violation::new(
                "",
                ViolationKind::Required,
                "must be an object with apiVersion and kind",
            )]);
        }
        for key in ["apiVersion", "kind"] {
            if text(key).is_empty() {
                return Err(vec![Violation::new(key, ViolationKind::Required, "")]);
            }
        }
        if is_core(version, kind) {
            return light::check(object);
        }
        if version != format!("{}/{}", crd::GROUP, crd::VERSION) || !self.kinds.contains_key(kind) {
            let known: Vec<_> = self.kinds.keys().map(String::as_str).collect();
            let message = format!(
                "no matches for kind \"{kind}\" in version \"{version}\": Phoenix reads {} of {}/{}, and Secret, ConfigMap and Namespace of v1",
                known.join(", "),
                crd::GROUP,
                crd::VERSION
            );
            return Err(vec![
                Violation::new("kind", ViolationKind::Invalid, &message).with_value(object),
            ]);
        }
        self.kinds[kind].check(object, old)
    }
}

impl Kind {
    fn check(&self, object: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
        let mut unknown = metadata::unknown_fields(object);
        structure::unknown_fields(&self.schema, object, "", &mut unknown);
        if !unknown.is_empty() {
            return Err(sorted(unknown));
        }
        let object = self.prepared(object, old.map(|old| &old["status"]));
        let old = old.map(|old| self.prepared(old, Some(&old["status"])));

        let counts = |violation: &Violation| {
            let old = old.as_ref();
            !old.is_some_and(|old| ratchet::unchanged(&self.schema, violation, &object, old))
        };
        let mut violations = metadata::check(&object);
        structure::validate(&self.schema, &object, "", &mut violations);
        violations.retain(counts);
        // Rules may trip over a malformed object, so the API server leaves them out as well.
        if !violations.iter().any(Violation::blocks_rules) {
            violations.extend(self.broken_rules(&object, old.as_ref()).into_iter().filter(counts));
        }
        if violations.is_empty() {
            Ok(object)
        } else {
            Err(sorted(violations))
        }
    }

    /// The object as it is validated: without nulls, with defaults, and with the status that is stored.
    fn prepared(&self, object: &Value, status: Option<&Value>) -> Value {
        let mut object = object.clone();
        structure::normalize(&self.schema, &mut object);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
            if let Some(status) = status.filter(|status| !status.is_null()) {
                fields.insert("status".into(), status.clone());
            }
        }
        apply_defaults(&self.schema, &object)
    }

    fn broken_rules(&self, object: &Value, old: Option<&Value>) -> Vec<Violation> {
        let Err(errors) = validate_compiled(&self.rules, object, old) else {
            return Vec::new();
        };
        errors
            .into_iter()
            .map(|error| {
                let field = error.field_path.trim_start_matches('.');
                let mut violation = Violation::new(field, ViolationKind::Invalid, &error.message);
                violation.transition = error.rule.contains("oldSelf");
                // A rule at the root speaks of the whole object, whichever field it points to.
                if !error.field_path.starts_with('.') {
                    violation = violation.with_value(object);
                }
                if error.kind != ErrorKind::ValidationFailure {
                    violation.message = format!("{}: {}", error.message, error.rule);
                }
                violation
            })
            .collect()
    }
}

/// The kinds of Kubernetes that Phoenix reads.
fn is_core(version: &str, kind: &str) -> bool {
    version == "v1" && matches!(kind, "Secret" | "ConfigMap" | "Namespace")
}

/// In the order of the fields; the rules are evaluated in no particular one.
fn sorted(mut violations: Vec<Violation>) -> Vec<Violation> {
    violations.sort_by(|a, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
    violations.dedup();
    violations
}

/// The first rule of a schema that does not compile.
fn broken_rule(schema: &CompiledSchema) -> Option<String> {
    if let Some(error) = schema.compilation_errors().first() {
        return Some(error.to_string());
    }
    let children = schema.properties.values();
    let mut children = children
        .chain(schema.items.as_deref())
        .chain(schema.additional_properties.as_deref());
    children.find_map(broken_rule)
}
