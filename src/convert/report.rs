//! What the converter says about its input: one entry for every leaf, and findings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The report: what became of every leaf of the input, and what a person should look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many leaves came to which end.
    pub totals: Totals,
    /// One entry for each leaf (scalar, empty array, empty object), in the order of the files.
    pub entries: Vec<Entry>,
    /// Errors first, then warnings, then information.
    pub findings: Vec<Finding>,
}

/// Leaves by outcome, of all files and of each key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Of all files.
    pub all: Count,
    /// Values that the converter does not know.
    pub unknown_keys: usize,
    /// Of each key, by its pointer with `*` for ids and places in lists: `/lxc_configs/*/cores`.
    pub by_key: BTreeMap<String, Count>,
}

/// Leaves by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// A field holds them.
    pub mapped: usize,
    /// They say what happens anyway.
    pub defaulted: usize,
    /// Nothing was written for them.
    pub not_mapped: usize,
}

impl Count {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Mapped => self.mapped += 1,
            Outcome::Defaulted => self.defaulted += 1,
            Outcome::NotMapped => self.not_mapped += 1,
        }
    }

    /// All of them.
    pub fn leaves(&self) -> usize {
        self.mapped + self.defaulted + self.not_mapped
    }
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

impl Severity {
    /// Its name for people.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "note",
        }
    }
}

impl Finding {
    /// Whether it asks a person for something.
    pub fn asks(&self) -> bool {
        self.severity != Severity::Info || !self.fix.starts_with("nothing")
    }
}

impl Report {
    /// A report of these entries and findings, with their totals.
    pub fn new(entries: Vec<Entry>, findings: Vec<Finding>) -> Report {
        let mut totals = Totals::default();
        for entry in &entries {
            totals.all.add(entry.outcome);
            totals.unknown_keys += usize::from(is_unknown(entry));
            totals
                .by_key
                .entry(without_ids(&entry.pointer))
                .or_default()
                .add(entry.outcome);
        }
        Report {
            totals,
            entries,
            findings,
        }
    }

    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Pointers of values that the converter does not know.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.entries
            .iter()
            .filter(|e| is_unknown(e))
            .map(|e| e.pointer.as_str())
    }

    /// What a person must do, by object; objects with errors first, then those with warnings. What concerns no object alone
    /// is under `None`.
    pub fn to_do(&self) -> Vec<(Option<&str>, Vec<&Finding>)> {
        let objects = self.objects();
        let mut by_object: BTreeMap<Option<&str>, Vec<&Finding>> = BTreeMap::new();
        for finding in self.findings.iter().filter(|f| f.asks()) {
            let place = (finding.file.as_str(), finding.pointer.as_str());
            let object = ancestors(place.1).find_map(|above| objects.get(&(place.0, above)));
            by_object.entry(object.copied().flatten()).or_default().push(finding);
        }
        let mut list: Vec<_> = by_object.into_iter().collect();
        // Findings are in the order of their severity.
        list.sort_by_key(|(_, findings)| findings.first().map(|f| f.severity));
        list
    }

    /// The object that each place of the files belongs to, if all its leaves are of one.
    fn objects(&self) -> BTreeMap<(&str, &str), Option<&str>> {
        let mut objects: BTreeMap<(&str, &str), Option<&str>> = BTreeMap::new();
        for entry in &self.entries {
            let object = entry.object.as_deref();
            for above in ancestors(&entry.pointer) {
                let known = objects.entry((&entry.file, above)).or_insert(object);
                if *known != object {
                    *known = None;
                }
            }
        }
        objects
    }
}

/// Whether the converter does not know the key.
pub fn is_unknown(entry: &Entry) -> bool {
    entry.note.starts_with(super::ledger::UNKNOWN_KEY)
}

/// The pointer itself and the pointers above it, except that of the whole file.
fn ancestors(pointer: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(pointer), |p| p.get(..p.rfind('/')?)).filter(|p| !p.is_empty())
}

/// The pointer with `*` for what is a number: ids of guests, and places in lists.
fn without_ids(pointer: &str) -> String {
    let number = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit());
    let tokens = pointer.split('/').map(|token| if number(token) { "*" } else { token });
    tokens.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lose_their_numbers() {
        assert_eq!(without_ids("/lxc_configs/950/ports/0"), "/lxc_configs/*/ports/*");
        assert_eq!(without_ids("/vm_defaults/cores"), "/vm_defaults/cores");
        assert_eq!(without_ids(""), "");
        assert_eq!(ancestors("/a/b").collect::<Vec<_>>(), ["/a/b", "/a"]);
    }
}
