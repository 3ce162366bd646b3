//! What is wrong with an object, in the API server's words.

use std::fmt;

use serde_json::Value;

/// How a violation is introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// A field that the kind does not have.
    UnknownField,
    /// A value of another type than the field's.
    Type,
    /// A field that must be there.
    Required,
    /// A value that is not one of those listed.
    NotSupported,
    /// A string longer than allowed.
    TooLong,
    /// A list or map with more entries than allowed.
    TooMany,
    /// An entry that stands twice in a list.
    Duplicate,
    /// Any other bad value.
    Invalid,
}

/// One thing that is wrong with an object. `Display` writes it as `kubectl apply` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Path of the field, such as `spec.network[0].ip`.
    pub field: String,
    /// The bad value, where it has a short form.
    pub value: Option<Value>,
    /// How the violation is introduced.
    pub kind: ViolationKind,
    /// What is wrong and how to mend it; may be empty where the kind says it all.
    pub message: String,
    /// From a rule that compares with the old object: never ratcheted away.
    pub(super) transition: bool,
}

impl Violation {
    pub(super) fn new(field: &str, kind: ViolationKind, message: &str) -> Self {
        Self {
            field: field.to_owned(),
            value: None,
            kind,
            message: message.to_owned(),
            transition: false,
        }
    }

    /// Shows the value at the field of `object`, if it is a scalar.
    pub(super) fn with_value(mut self, object: &Value) -> Self {
        let value = super::ratchet::segments(&self.field)
            .into_iter()
            .try_fold(object, |value, segment| segment.of(value));
        self.value = value.filter(|value| !value.is_object() && !value.is_array()).cloned();
        self
    }

    pub(super) fn shown(mut self, value: Value) -> Self {
        self.value = Some(value);
        self
    }

    /// Whether the object is so malformed that the API server evaluates no rule.
    pub(super) fn blocks_rules(&self) -> bool {
        !matches!(self.kind, ViolationKind::Invalid | ViolationKind::Duplicate)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let introduction = match self.kind {
            ViolationKind::UnknownField => {
                write!(f, "unknown field \"{}\"", self.field)?;
                return if self.message.is_empty() {
                    Ok(())
                } else {
                    write!(f, " ({})", self.message)
                };
            }
            ViolationKind::Required => "Required value",
            ViolationKind::NotSupported => "Unsupported value",
            ViolationKind::TooLong => "Too long",
            ViolationKind::TooMany => "Too many",
            ViolationKind::Duplicate => "Duplicate value",
            ViolationKind::Type | ViolationKind::Invalid => "Invalid value",
        };
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(introduction)?;
        if let Some(value) = &self.value {
            write!(f, ": {value}")?;
        }
        if self.message.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.message)
        }
    }
}

/// The verdict on an object in the form of `kubectl apply`.
pub fn report(kind: &str, name: &str, violations: &[Violation]) -> String {
    let list = |separator: &str| {
        let texts: Vec<_> = violations.iter().map(Violation::to_string).collect();
        texts.join(separator)
    };
    if violations.iter().any(|v| v.kind == ViolationKind::UnknownField) {
        return format!(
            "{kind} \"{name}\" cannot be handled as a {kind}: strict decoding error: {}",
            list(", ")
        );
    }
    match violations {
        [one] => format!("The {kind} \"{name}\" is invalid: {one}"),
        _ => format!("The {kind} \"{name}\" is invalid: \n* {}", list("\n* ")),
    }
}
