//! Reads manifests: YAML documents, `List` kinds expanded, each object with its place in the file.
//!
//! Scalars mean what they mean to kubectl, which reads YAML 1.1: `yes` and `on` are true, `0644` is octal.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Error, Spanned};

use super::ratchet::{Segment, segments};
use super::structure::child;

/// An object from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The object, or the list.
    pub value: Value,
    /// Name of the file, as it was given.
    pub file: String,
    /// Line on which the object begins, from 1.
    pub line: u64,
    /// Line of each field, by its path.
    lines: BTreeMap<String, u64>,
}

impl Manifest {
    /// Line of a field such as `spec.network[0].ip`; of what would hold it where it is absent.
    pub fn line_of(&self, field: &str) -> u64 {
        let (mut path, mut line) = (String::new(), self.line);
        for segment in segments(field) {
            path = match segment {
                Segment::Field(name) => child(&path, &name),
                Segment::Index(index) => format!("{path}[{index}]"),
            };
            line = self.lines.get(&path).copied().unwrap_or(line);
        }
        line
    }
}

/// A file that is no list of objects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ReadError {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// What is wrong there.
    pub message: String,
}

/// Reads all objects of a file. Empty documents are left out; a document that is a list is one manifest, and for
/// admission to judge.
///
/// # Errors
/// If the text is not YAML, a key stands twice in one map, or a document is a mere text or number.
pub fn read_manifests(text: &str, file: &str) -> Result<Vec<Manifest>, ReadError> {
    crate::stack::large(|| read(text, file)).unwrap_or_else(|message| {
        Err(ReadError {
            file: file.to_owned(),
            line: 0,
            message: message.to_owned(),
        })
    })
}

fn read(text: &str, file: &str) -> Result<Vec<Manifest>, ReadError> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        // A whole fleet may be in one file; the defaults are made for small ones.
        budget: serde_saphyr::budget! {
            max_documents: 100_000,
            max_events: 20_000_000,
            max_nodes: 10_000_000,
        },
    };
    let documents: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| read_error(&error, file))?;
    let mut manifests = Vec::new();
    for document in documents {
        expand(document, file, &mut manifests)?;
    }
    Ok(manifests)
}

fn read_error(error: &Error, file: &str) -> ReadError {
    let line = error.location().map_or(0, |location| location.line());
    let text = error.to_string();
    // The place is said in front already, and the options are not the user's to set.
    let message = [" at line ", ", set DuplicateKeyPolicy"]
        .iter()
        .fold(text.as_str(), |message, tail| {
            message.split(tail).next().unwrap_or(message)
        });
    ReadError {
        file: file.to_owned(),
        line,
        message: message.to_owned(),
    }
}

/// Adds the object, or the items of a list of objects, to `manifests`.
fn expand(document: Spanned<Node>, file: &str, manifests: &mut Vec<Manifest>) -> Result<(), ReadError> {
    let line = document.referenced.line();
    let mut lines = BTreeMap::new();
    let mut fields = match document.value {
        Node::Map(fields) => fields,
        // Such as the patches of a kustomization.
        list @ Node::List(_) => {
            manifests.push(Manifest {
                value: list.into_value("", &mut lines),
                file: file.to_owned(),
                line,
                lines,
            });
            return Ok(());
        }
        Node::Scalar(_) => {
            return Err(ReadError {
                file: file.to_owned(),
                line,
                message: "not an object: a manifest has apiVersion, kind and metadata".into(),
            });
        }
    };
    let is_list = fields.iter().any(|(name, node)| {
        name == "kind" && matches!(&node.value, Node::Scalar(Value::String(kind)) if kind.ends_with("List"))
    });
    let items = fields.iter().position(|(name, _)| name == "items").filter(|_| is_list);
    if let Some(items) = items {
        let Node::List(items) = fields.swap_remove(items).1.value else {
            return Ok(());
        };
        return items.into_iter().try_for_each(|item| expand(item, file, manifests));
    }
    let value = Node::Map(fields).into_value("", &mut lines);
    manifests.push(Manifest {
        value,
        file: file.to_owned(),
        line,
        lines,
    });
    Ok(())
}

/// A YAML node with the places of its children.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl Node {
    fn into_value(self, path: &str, lines: &mut BTreeMap<String, u64>) -> Value {
        match self {
            Node::Scalar(value) => value,
            Node::List(items) => {
                let items = items.into_iter().enumerate().map(|(i, item)| {
                    let path = format!("{path}[{i}]");
                    lines.insert(path.clone(), item.referenced.line());
                    item.value.into_value(&path, lines)
                });
                Value::Array(items.collect())
            }
            Node::Map(fields) => {
                let fields = fields.into_iter().map(|(name, node)| {
                    let path = child(path, &name);
                    lines.insert(path.clone(), node.referenced.line());
                    (name, node.value.into_value(&path, lines))
                });
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        // kubectl turns 4.0 and 1e3 into integers on the way to JSON.
        if value.fract() == 0.0 && value.abs() < i64::MAX as f64 {
            return Ok(Node::Scalar((value as i64).into()));
        }
        let number = Number::from_f64(value).ok_or_else(|| E::custom("infinite numbers and NaN are not supported"))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields: Vec<(String, Spanned<Node>)> = Vec::new();
        while let Some((name, node)) = access.next_entry::<String, Spanned<Node>>()? {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("duplicate mapping key: {name}")));
            }
            fields.push((name, node));
        }
        Ok(Node::Map(fields))
    }
}
