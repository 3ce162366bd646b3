//! Mapping one object: each reading of a value claims it in the ledger, so that no value is used and not accounted for.

use super::json::{At, Node};
use super::ledger::Ledger;
use super::report::Severity;
use super::values;

/// Note of a value that is null or blank.
pub const NOT_SET: &str = "not set";

/// Reads values for one object.
pub struct Writer<'l> {
    /// The books.
    pub ledger: &'l mut Ledger,
    /// The object, `Kind/name`.
    pub object: String,
    /// Path of the guest in the object: `spec.`, `spec.lxc.` or `spec.vm.`.
    pub prefix: &'static str,
    /// The object in messages: `container 950`.
    pub label: String,
}

impl Writer<'_> {
    /// The value under the first of `names` that is set; null and blank values are claimed as not set, other spellings
    /// of a key that is set as superfluous.
    pub fn key<'a>(&mut self, at: &At<'a>, names: &[&str]) -> Option<At<'a>> {
        let mut found: Option<At<'a>> = None;
        for name in names {
            let Some(value) = at.get(name) else { continue };
            if values::is_unset(value.node) {
                self.defaulted(&value, "", NOT_SET);
            } else if let Some(first) = &found {
                let note = format!("{} says it already", first.key());
                self.skip(&value, &note);
            } else {
                found = Some(value);
            }
        }
        found
    }

    /// Reads a value into the guest's field `path`; a value that does not read is a warning.
    pub fn value<T>(
        &mut self,
        at: &At,
        path: &str,
        read: impl FnOnce(&Node) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        match read(at.node) {
            Some(value) => {
                self.mapped(at, path, "");
                Some(value)
            }
            None => {
                self.unreadable(at, expected);
                None
            }
        }
    }

    /// [`Self::key`] and [`Self::value`] in one.
    pub fn read<T>(
        &mut self,
        at: &At,
        names: &[&str],
        path: &str,
        read: impl FnOnce(&Node) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        let value = self.key(at, names)?;
        self.value(&value, path, read, expected)
    }

    /// A key with a whole number from `low` to `high`.
    pub fn integer(&mut self, at: &At, names: &[&str], path: &str, low: i64, high: i64) -> Option<i64> {
        let read = |node: &Node| values::integer(node).filter(|n| (low..=high).contains(n));
        self.read(at, names, path, read, &format!("a whole number from {low} to {high}"))
    }

    /// A key with a truth value.
    pub fn boolean(&mut self, at: &At, names: &[&str], path: &str) -> Option<bool> {
        self.read(at, names, path, values::boolean, "true or false")
    }

    /// A key with text that `check` takes.
    pub fn text(
        &mut self,
        at: &At,
        names: &[&str],
        path: &str,
        check: impl Fn(&str) -> Option<String>,
        expected: &str,
    ) -> Option<String> {
        self.read(
            at,
            names,
            path,
            |node| values::text(node).and_then(|t| check(&t)),
            expected,
        )
    }

    /// The guest's field `path` holds the value.
    pub fn mapped(&mut self, at: &At, path: &str, note: &str) {
        let path = format!("{}{path}", self.prefix);
        self.ledger.mapped(at, &self.object, &path, note);
    }

    /// The object's field `path`, which is not a part of the guest, holds the value.
    pub fn mapped_at(&mut self, at: &At, path: &str, note: &str) {
        self.ledger.mapped(at, &self.object, path, note);
    }

    /// The value says what happens anyway; `path` may be empty.
    pub fn defaulted(&mut self, at: &At, path: &str, note: &str) {
        let path = if path.is_empty() {
            String::new()
        } else {
            format!("{}{path}", self.prefix)
        };
        self.ledger.defaulted(at, &self.object, &path, note);
    }

    /// Nothing is written for the value.
    pub fn skip(&mut self, at: &At, note: &str) {
        self.ledger.not_mapped(at, note);
    }

    /// Nothing is written for the value, and a person should know.
    pub fn skip_warn(&mut self, at: &At, message: &str, fix: &str) {
        self.ledger.not_mapped(at, message);
        self.warn(at, message, fix);
    }

    /// The value cannot be read as what it should be. Its text is shown: no secret is read this way.
    pub fn unreadable(&mut self, at: &At, expected: &str) {
        let message = format!("{} {} is not {expected}", at.key(), at.node.show());
        self.skip_warn(
            at,
            &message,
            &format!("give {expected}, and convert again or set the field by hand"),
        );
    }

    /// An error of this object: what was meant is not written.
    pub fn error(&mut self, at: &At, message: &str, fix: &str) {
        let message = format!("{}: {message}", self.label);
        self.ledger.find(Severity::Error, at, message, fix);
    }

    /// A warning about this object.
    pub fn warn(&mut self, at: &At, message: &str, fix: &str) {
        let message = format!("{}: {message}", self.label);
        self.ledger.find(Severity::Warning, at, message, fix);
    }

    /// Information about this object.
    pub fn info(&mut self, at: &At, message: &str, fix: &str) {
        let message = format!("{}: {message}", self.label);
        self.ledger.find(Severity::Info, at, message, fix);
    }

    /// Items of a list that may also be written as one string with commas, a single value, or null. Of an object the
    /// entries `key: value` are items `key=value`. An empty list is claimed as saying nothing.
    pub fn list<'a>(&mut self, at: &At<'a>, separators: &[char]) -> Vec<Item<'a>> {
        let one = |at: &At<'a>, text: String| Item {
            at: at.clone(),
            text: Some(text),
        };
        match at.node {
            Node::Array(items) if items.is_empty() => {
                self.defaulted(at, "", "an empty list: nothing to write");
                Vec::new()
            }
            Node::Array(_) => (at.items().into_iter())
                .map(|item| Item {
                    text: values::text(item.node),
                    at: item,
                })
                .collect(),
            Node::Object(_) => (at.entries().into_iter())
                .map(|(key, value)| Item {
                    text: match values::boolean(value.node) {
                        Some(on) if matches!(value.node, Node::Bool(_)) => Some(format!("{key}={}", u8::from(on))),
                        _ => values::text(value.node).map(|text| format!("{key}={text}")),
                    },
                    at: value,
                })
                .collect(),
            Node::String(text) => (text.split(separators).map(str::trim).filter(|t| !t.is_empty()))
                .map(|t| one(at, t.to_owned()))
                .collect(),
            Node::Number(digits) => vec![one(at, digits.clone())],
            Node::Null | Node::Bool(_) => Vec::new(),
        }
    }
}

/// One item of a list.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// Where it stands; items of one string share it.
    pub at: At<'a>,
    /// Its text, if it is text or a number.
    pub text: Option<String>,
}
