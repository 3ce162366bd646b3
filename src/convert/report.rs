//! What the converter says about its input: one entry for every leaf, and findings.

use serde::{Deserialize, Serialize};

/// The report: what became of every leaf of the input, and what a person should look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One entry for each leaf (scalar, empty array, empty object), in the order of the files.
    pub entries: Vec<Entry>,
    /// Errors first, then warnings, then information.
    pub findings: Vec<Finding>,
}

/// What became of one leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The file, as it was named.
    pub file: String,
    /// RFC 6901 pointer of the leaf.
    pub pointer: String,
    /// The object that the leaf belongs to, as `Kind/name`; null if there is none.
    pub object: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// `Kind/name path` of the field; several are separated by `", "`.
    pub target: Option<String>,
    /// Why, where it does not go without saying.
    pub note: String,
}

/// What became of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Nothing was written for it; the note says why.
    NotMapped,
    /// It says what happens anyway, so nothing was written.
    Defaulted,
    /// The field named by `target` holds it.
    Mapped,
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// RFC 6901 pointer of the value.
    pub pointer: String,
    /// What was found, with id, key and value.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Something could not be written as a valid object.
    Error,
    /// What was written is valid and probably not what was meant.
    Warning,
    /// Good to know, or to be done by hand.
    Info,
}

impl Report {
    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Pointers of values that the converter does not know.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        let unknown = |e: &&Entry| e.note == super::ledger::UNKNOWN_KEY;
        self.entries.iter().filter(unknown).map(|e| e.pointer.as_str())
    }
}
