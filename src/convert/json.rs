//! Reads JSON as the converter needs it: repeated keys are remembered, numbers keep their digits, every value can be
//! named by an RFC 6901 pointer, and no input can exhaust the stack.

use std::collections::HashMap;

use json_event_parser::{JsonEvent, SliceJsonParser};

/// Deepest nesting that is read; the legacy files use seven levels. What walks a document recurses this far.
pub const MAX_DEPTH: usize = 256;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, with the digits of the file.
    Number(String),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Node>),
    /// An object.
    Object(Object),
}

/// A JSON object. Where a key stands more than once, the last value counts, as in `jq`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// Keys and values, in the order in which the keys first stand in the file.
    pub entries: Vec<(String, Node)>,
    /// Keys that stand more than once.
    pub repeated: Vec<String>,
}

/// A container that is being read.
enum Open {
    Array(Vec<Node>),
    Object {
        object: Object,
        index: HashMap<String, usize>,
        key: String,
    },
}

/// Reads one JSON document.
///
/// # Errors
/// With words for people, when the bytes are not one JSON value or nest too deeply.
pub fn parse(bytes: &[u8]) -> Result<Node, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        return Err("the file is empty".into());
    }
    let mut parser = SliceJsonParser::new(bytes);
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    loop {
        let event = parser.parse_next().map_err(|e| syntax_error(&e))?;
        let node = match event {
            JsonEvent::Eof => break,
            JsonEvent::StartArray => {
                open.push(Open::Array(Vec::new()));
                None
            }
            JsonEvent::StartObject => {
                open.push(Open::Object {
                    object: Object::default(),
                    index: HashMap::new(),
                    key: String::new(),
                });
                None
            }
            JsonEvent::ObjectKey(name) => {
                if let Some(Open::Object { key, .. }) = open.last_mut() {
                    *key = name.into_owned();
                }
                None
            }
            JsonEvent::EndArray | JsonEvent::EndObject => open.pop().map(close),
            JsonEvent::Null => Some(Node::Null),
            JsonEvent::Boolean(value) => Some(Node::Bool(value)),
            JsonEvent::Number(digits) => Some(Node::Number(digits.into_owned())),
            JsonEvent::String(value) => Some(Node::String(value.into_owned())),
        };
        if open.len() > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        if let Some(node) = node {
            place(node, &mut open, &mut root);
        }
    }
    root.ok_or_else(|| "no JSON value".into())
}

fn syntax_error(error: &json_event_parser::JsonSyntaxError) -> String {
    let at = error.location().start;
    format!(
        "not JSON: {} at line {} column {}",
        error.message(),
        at.line + 1,
        at.column + 1
    )
}

fn close(open: Open) -> Node {
    match open {
        Open::Array(items) => Node::Array(items),
        Open::Object { object, .. } => Node::Object(object),
    }
}

fn place(node: Node, open: &mut [Open], root: &mut Option<Node>) {
    match open.last_mut() {
        None => *root = Some(node),
        Some(Open::Array(items)) => items.push(node),
        Some(Open::Object { object, index, key }) => {
            let key = std::mem::take(key);
            if let Some(at) = index.get(&key) {
                object.entries[*at].1 = node;
                if !object.repeated.contains(&key) {
                    object.repeated.push(key);
                }
            } else {
                index.insert(key.clone(), object.entries.len());
                object.entries.push((key, node));
            }
        }
    }
}

impl Node {
    /// Whether the value has no values below it: a scalar, an empty array or an empty object.
    pub fn is_leaf(&self) -> bool {
        match self {
            Node::Array(items) => items.is_empty(),
            Node::Object(object) => object.entries.is_empty(),
            _ => true,
        }
    }

    /// The value for messages, cut where it is long.
    pub fn show(&self) -> String {
        let text = self.to_json().to_string();
        match text.char_indices().nth(60) {
            Some((cut, _)) => format!("{}…", &text[..cut]),
            None => text,
        }
    }

    /// The value as `serde_json` has it; a number beyond its range becomes a string of its digits.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Number(digits) => serde_json::from_str(digits).unwrap_or_else(|_| Value::String(digits.clone())),
            Node::String(value) => Value::String(value.clone()),
            Node::Array(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Node::Object(object) => {
                Value::Object(object.entries.iter().map(|(k, v)| (k.clone(), v.to_json())).collect())
            }
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<'a> {
    /// Index of the input file.
    pub file: usize,
    /// RFC 6901 pointer.
    pub pointer: String,
    /// The value.
    pub node: &'a Node,
}

impl<'a> At<'a> {
    /// The top of a file.
    pub fn root(file: usize, node: &'a Node) -> Self {
        At {
            file,
            pointer: String::new(),
            node,
        }
    }

    /// The value under a key, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<At<'a>> {
        let Node::Object(object) = self.node else { return None };
        let (_, node) = object.entries.iter().find(|(k, _)| k == key)?;
        Some(self.child(key, node))
    }

    /// Keys and values of an object; nothing for other values.
    pub fn entries(&self) -> Vec<(&'a str, At<'a>)> {
        match self.node {
            Node::Object(object) => (object.entries.iter())
                .map(|(key, node)| (key.as_str(), self.child(key, node)))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Items of an array; nothing for other values.
    pub fn items(&self) -> Vec<At<'a>> {
        match self.node {
            Node::Array(items) => (items.iter().enumerate())
                .map(|(n, node)| self.child(&n.to_string(), node))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The last key of the pointer, as it stands in the file.
    pub fn key(&self) -> String {
        let last = self.pointer.rsplit('/').next().unwrap_or_default();
        last.replace("~1", "/").replace("~0", "~")
    }

    /// Calls `visit` for this value and every value below it, parents first.
    pub fn walk(&self, visit: &mut dyn FnMut(&At<'a>)) {
        visit(self);
        for (_, child) in self.entries() {
            child.walk(visit);
        }
        for child in self.items() {
            child.walk(visit);
        }
    }

    fn child(&self, key: &str, node: &'a Node) -> At<'a> {
        At {
            file: self.file,
            pointer: format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1")),
            node,
        }
    }
}
