//! The books of a conversion. Mapping code claims the values that it uses; whatever nobody claimed is reported as not
//! mapped. So every leaf has exactly one entry, whatever the input looks like.

use std::collections::{BTreeMap, BTreeSet};

use super::json::At;
use super::keys;
use super::report::{self, Entry, Finding, Outcome, Report, Severity};
use super::secrets::Secrets;

/// Note of a leaf that no code knows.
pub const UNKNOWN_KEY: &str = "unknown key: the converter does not know what it means";

/// Names an object: `Kind/name`.
pub type ObjectKey = String;

#[derive(Clone, Debug)]
struct Claim {
    outcome: Outcome,
    /// Object and path below it.
    targets: Vec<(ObjectKey, String)>,
    note: String,
}

/// Claims, scopes and findings.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Secrets that the files tell.
    pub secrets: Secrets,
    claims: BTreeMap<(usize, String), Claim>,
    scopes: BTreeMap<(usize, String), ObjectKey>,
    /// Why an object was not written.
    refused: BTreeMap<ObjectKey, String>,
    findings: BTreeSet<(Severity, usize, String, String, String)>,
}

impl Ledger {
    /// Says what became of the value at `at` and of all below it that is not claimed by itself. Of several claims the
    /// strongest outcome counts (mapped, defaulted, not mapped); targets of equal outcomes add up.
    fn claim(&mut self, at: &At, outcome: Outcome, target: Option<(ObjectKey, String)>, note: &str) {
        let claim = (self.claims.entry((at.file, at.pointer.clone()))).or_insert_with(|| Claim {
            outcome,
            targets: Vec::new(),
            note: String::new(),
        });
        if outcome < claim.outcome {
            return;
        }
        if outcome > claim.outcome {
            claim.outcome = outcome;
            claim.targets.clear();
            claim.note.clear();
        }
        if let Some(target) = target.filter(|t| !claim.targets.contains(t)) {
            claim.targets.push(target);
        }
        if claim.note.is_empty() {
            claim.note = note.to_owned();
        }
    }

    /// The field `path` of `object` holds the value.
    pub fn mapped(&mut self, at: &At, object: &str, path: &str, note: &str) {
        self.claim(at, Outcome::Mapped, Some((object.to_owned(), path.to_owned())), note);
    }

    /// The value says what happens anyway.
    pub fn defaulted(&mut self, at: &At, object: &str, path: &str, note: &str) {
        let target = (!path.is_empty()).then(|| (object.to_owned(), path.to_owned()));
        self.claim(at, Outcome::Defaulted, target, note);
    }

    /// Nothing is written for the value.
    pub fn not_mapped(&mut self, at: &At, note: &str) {
        self.claim(at, Outcome::NotMapped, None, note);
    }

    /// Takes back what was said of exactly this value.
    pub fn unmap(&mut self, at: &At) {
        self.claims.remove(&(at.file, at.pointer.clone()));
    }

    /// What stands at `at` and below belongs to `object`.
    pub fn scope(&mut self, at: &At, object: &str) {
        self.scopes.insert((at.file, at.pointer.clone()), object.to_owned());
    }

    /// `object` is not written; what was mapped to it is not mapped.
    pub fn refuse(&mut self, object: &str, why: &str) {
        self.refused.entry(object.to_owned()).or_insert_with(|| why.to_owned());
    }

    /// Whether `object` was refused.
    pub fn is_refused(&self, object: &str) -> bool {
        self.refused.contains_key(object)
    }

    /// Notes something that a person should look at.
    pub fn find(&mut self, severity: Severity, at: &At, message: impl Into<String>, fix: impl Into<String>) {
        let finding = (severity, at.file, at.pointer.clone(), message.into(), fix.into());
        self.findings.insert(finding);
    }

    /// Closes the books.
    pub fn report(mut self, files: &[String], roots: &[At]) -> Report {
        let mut entries = Vec::new();
        for (file, root) in roots.iter().enumerate() {
            let start = entries.len();
            self.entries_below(root, files, None, None, &mut entries);
            self.suggest(file, entries.get_mut(start..).unwrap_or_default());
        }
        let findings = (self.findings.into_iter())
            .map(|(severity, file, pointer, message, fix)| Finding {
                severity,
                file: files.get(file).cloned().unwrap_or_default(),
                pointer,
                message,
                fix,
            })
            .collect();
        Report::new(entries, findings)
    }

    /// For keys that are a letter or two off a known one: which that is.
    fn suggest(&mut self, file: usize, entries: &mut [Entry]) {
        for entry in entries.iter_mut().filter(|e| report::is_unknown(e)) {
            let Some((place, given, known)) = keys::meant(&entry.pointer) else {
                continue;
            };
            entry.note = format!("{UNKNOWN_KEY}; did you mean {known:?}?");
            let message = format!("unknown key {given:?}; did you mean {known:?}?");
            let fix = format!("call it {known:?} and convert again, or take it out");
            self.findings
                .insert((Severity::Warning, file, place.to_owned(), message, fix));
        }
    }

    /// Claims and scopes are inherited from the nearest value above. Recursion is bounded by [`super::json::MAX_DEPTH`].
    fn entries_below(
        &self,
        at: &At,
        files: &[String],
        claim: Option<&Claim>,
        scope: Option<&ObjectKey>,
        out: &mut Vec<Entry>,
    ) {
        let key = (at.file, at.pointer.clone());
        let claim = self.claims.get(&key).or(claim);
        let scope = self.scopes.get(&key).or(scope);
        if at.node.is_leaf() {
            out.push(self.entry(at, files, claim, scope));
            return;
        }
        for (_, child) in at.entries() {
            self.entries_below(&child, files, claim, scope, out);
        }
        for child in at.items() {
            self.entries_below(&child, files, claim, scope, out);
        }
    }

    fn entry(&self, at: &At, files: &[String], claim: Option<&Claim>, scope: Option<&ObjectKey>) -> Entry {
        let mut entry = Entry {
            file: files.get(at.file).cloned().unwrap_or_default(),
            pointer: at.pointer.clone(),
            object: scope.filter(|o| !self.is_refused(o)).cloned(),
            outcome: Outcome::NotMapped,
            target: None,
            note: UNKNOWN_KEY.to_owned(),
        };
        if let Some(why) = scope.and_then(|o| self.refused.get(o)) {
            entry.note = format!("its object is not written: {why}");
        }
        let Some(claim) = claim else { return entry };
        let alive: Vec<_> = claim.targets.iter().filter(|(o, _)| !self.is_refused(o)).collect();
        if let (Some((dead, _)), true) = (claim.targets.first(), alive.is_empty()) {
            let why = self.refused.get(dead).map_or("", String::as_str);
            entry.note = format!("{dead} is not written: {why}");
            return entry;
        }
        entry.outcome = claim.outcome;
        entry.note.clone_from(&claim.note);
        if !alive.is_empty() {
            let names: Vec<_> = alive.iter().map(|(object, path)| format!("{object} {path}")).collect();
            entry.target = Some(names.join(", "));
            // A leaf that stands in no object's own part belongs to the object that got it.
            if entry.object.is_none() {
                entry.object = alive.first().map(|(o, _)| o.clone());
            }
        }
        entry
    }
}
