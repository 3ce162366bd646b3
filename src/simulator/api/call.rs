//! What a method gets and gives.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::simulator::model::download::UploadedFile;
use crate::simulator::model::property::split_list;
use crate::simulator::model::{ApiError, Caller, Result};
use crate::simulator::schema::validate;

/// Parameters after the checks, from path, query and body.
#[derive(Debug, Clone, Default)]
pub struct Params(pub BTreeMap<String, Value>);

impl Params {
    /// Text of a parameter; a JSON `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(validate::text)
    }

    /// Text of a parameter that the description requires.
    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default()
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// A boolean; false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).as_deref() == Some("1")
    }

    /// A boolean, if given.
    pub fn maybe_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|text| text == "1")
    }

    /// A list.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(items)) => items.iter().filter_map(validate::text).collect(),
            _ => split_list(&self.text(name)),
        }
    }

    /// Members of an array, or the one text that was given instead.
    pub fn items(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(items)) => items.iter().filter_map(validate::text).collect(),
            _ => self.get(name).into_iter().collect(),
        }
    }

    /// Guest id of the path.
    pub fn vmid(&self) -> u32 {
        self.int("vmid")
            .and_then(|id| u32::try_from(id).ok())
            .unwrap_or_default()
    }

    /// Node of the path.
    pub fn node(&self) -> String {
        self.text("node")
    }

    /// Parameters with the given names as guest options. A JSON `null` is stored as a blank (facts K.2.16).
    pub fn options(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let value = |value: &Value| validate::text(value).unwrap_or_else(|| " ".to_owned());
        self.0
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, found)| (name.clone(), value(found)))
            .collect()
    }
}

/// A call that passed the checks.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// Parameters.
    pub params: Params,
    /// The path as sent, below the formatter.
    pub path: String,
    /// The file that came with an upload.
    pub upload: Option<UploadedFile>,
}

/// What a method answers.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A value for `data`.
    Data(Value),
    /// A value for `data` with the number of rows that there are in all.
    Counted(Value, usize),
    /// Text as it is.
    Raw(String),
}

impl Reply {
    /// No value.
    pub const NULL: Self = Self::Data(Value::Null);
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self::Data(value)
    }
}

impl From<Vec<Value>> for Reply {
    fn from(rows: Vec<Value>) -> Self {
        Self::Data(Value::Array(rows))
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self::Data(Value::String(text))
    }
}

impl From<()> for Reply {
    fn from((): ()) -> Self {
        Self::NULL
    }
}

/// Result of a method.
pub type Answer = Result<Reply>;

/// A method that Proxmox has and this look-alike has not.
pub fn not_simulated(verb: &str, path: &str) -> ApiError {
    ApiError {
        status: 501,
        message: format!("simulator: {verb} {path} not simulated"),
        errors: None,
        wait_for: None,
    }
}
