//! Application scripts and tests: looked up in the applications folder and carried in ConfigMaps.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{Application, GuestFile, GuestTest, KeyRef, ScriptContract, TestKind};

use super::bundle::Bundle;
use super::json::{At, Node};
use super::writer::Writer;
use super::{names, values};

/// Largest file: the API server takes objects of about 1 MiB.
pub const LARGEST: usize = 900_000;

/// Most files beside an application script (`application.files`).
const MOST_FILES: usize = 32;

/// The applications folder and what is taken from it.
#[derive(Debug)]
pub struct Scripts {
    /// Whether a folder was given.
    given: bool,
    files: BTreeMap<String, String>,
    /// Files that are not text, or too large.
    unusable: BTreeMap<String, &'static str>,
    /// Files that something uses.
    used: BTreeSet<String>,
    /// Application scripts and their helpers.
    pub applications: Bundle,
    /// Tests.
    pub tests: Bundle,
    /// The legacy JSON files, which application scripts read.
    pub config: Bundle,
    config_files: Vec<(String, String)>,
}

impl Scripts {
    /// Takes the folder's files, and the legacy files under the names that legacy scripts know.
    pub fn new(folder: Option<&BTreeMap<String, Vec<u8>>>, config_files: Vec<(String, String)>) -> Self {
        let mut scripts = Scripts {
            given: folder.is_some(),
            files: BTreeMap::new(),
            unusable: BTreeMap::new(),
            used: BTreeSet::new(),
            applications: Bundle::new("legacy-applications"),
            tests: Bundle::new("legacy-tests"),
            config: Bundle::new("legacy-config"),
            config_files,
        };
        for (path, bytes) in folder.into_iter().flatten() {
            let path = path.replace('\\', "/");
            match std::str::from_utf8(bytes) {
                _ if bytes.len() > LARGEST => {
                    scripts
                        .unusable
                        .insert(path, "larger than a ConfigMap can hold (1 MiB)");
                }
                Ok(text) if !text.trim().is_empty() && !text.contains('\0') => {
                    scripts.files.insert(path, text.to_owned());
                }
                Ok(_) | Err(_) => {
                    scripts.unusable.insert(path, "empty or not text");
                }
            }
        }
        scripts
    }

    /// Files of the folder that nothing uses.
    pub fn unused(&self) -> Vec<&String> {
        self.files.keys().filter(|path| !self.used.contains(*path)).collect()
    }

    /// Bytes of all files that are carried.
    pub fn carried(&self) -> usize {
        self.applications.size() + self.tests.size()
    }

    /// Files for a path of the legacy files, best first: the same path, else those that end so, else those of that name.
    fn named(&self, path: &str) -> Vec<&String> {
        let wanted = path.trim_start_matches("./").trim_matches('/');
        let file = wanted.rsplit('/').next().unwrap_or(wanted);
        let ends = |known: &&String, tail: &str| known.as_str() == tail || known.ends_with(&format!("/{tail}"));
        let all = || self.files.keys().chain(self.unusable.keys());
        let mut found: Vec<&String> = all().filter(|known| known.as_str() == wanted).collect();
        for tail in [wanted, file] {
            if found.is_empty() {
                found = all().filter(|known| ends(known, tail)).collect();
            }
        }
        found.sort_by_key(|path| (path.matches('/').count(), path.as_str()));
        found
    }

    /// The file for a path of the legacy files, and its text.
    fn find(&mut self, w: &mut Writer, at: &At, path: &str) -> Option<(String, String)> {
        let found = self.named(path);
        let Some(known) = found.first().map(|f| (*f).clone()) else {
            let (message, fix) = if self.given {
                (
                    format!("script {path:?} is not in the applications folder"),
                    "put it there and convert again",
                )
            } else {
                (
                    format!("script {path:?} is not carried"),
                    "convert again with --applications DIR, the folder that holds it",
                )
            };
            w.skip_warn(at, &message, fix);
            return None;
        };
        if found.len() > 1 {
            let message = format!("script {path:?} is found {} times; {known:?} is taken", found.len());
            w.warn(at, &message, "keep one of them, or name it with its folder");
        }
        if let Some(why) = self.unusable.get(&known) {
            let message = format!("script {known:?} is {why}");
            w.ledger.not_mapped(at, &message);
            w.warn(at, &message, "make it a smaller text file, and convert again");
            return None;
        }
        let text = self.files.get(&known)?.clone();
        self.used.insert(known.clone());
        Some((known, text))
    }

    /// Files of the folder that the script names: helpers that it reads or calls.
    fn helpers(&mut self, path: &str, text: &str) -> Vec<String> {
        let names = self.files.keys().filter(|known| named(text, path, known));
        let helpers: Vec<String> = names.cloned().collect();
        self.used.extend(helpers.iter().cloned());
        helpers
    }

    /// Files that lie beside an application script: the legacy JSON files and helpers. What is left out is said.
    fn beside(&mut self, w: &mut Writer, at: &At, path: &str, text: &str) -> Vec<GuestFile> {
        for (unusable, why) in self.unusable.iter().filter(|(known, _)| named(text, path, known)) {
            let message = format!("{unusable:?}, which the script names, is {why}: it does not lie beside the script");
            w.warn(at, &message, "make it a smaller text file, and convert again");
        }
        let room = MOST_FILES.saturating_sub(self.config_files.len());
        let mut files: Vec<GuestFile> = Vec::new();
        let mut left_out = Vec::new();
        for helper in self.helpers(path, text) {
            let name = helper.rsplit('/').next().unwrap_or(&helper);
            if files.iter().any(|f| f.path == name) || self.config_files.iter().any(|(file, _)| file == name) {
                continue;
            }
            if files.len() == room {
                left_out.push(name.to_owned());
                continue;
            }
            let content = self.files.get(&helper).cloned().unwrap_or_default();
            files.push(guest_file(name, self.applications.put(&helper, &content)));
        }
        let config = &mut self.config;
        let given = self.config_files.iter();
        files.extend(given.map(|(name, content)| guest_file(name, config.put(name, content))));
        if !left_out.is_empty() {
            let message = format!(
                "the script names more than {MOST_FILES} files, and these do not lie beside it: {}",
                left_out.join(", ")
            );
            w.warn(at, &message, "merge helpers into fewer files, and convert again");
        }
        files
    }

    /// Whether the application script of a guest starts a vLLM server, as far as its name and its text tell.
    pub fn starts_vllm(&self, guest: &At) -> bool {
        let Some(path) = guest.get("application_script").and_then(|at| values::text(at.node)) else {
            return false;
        };
        let file = path.rsplit('/').next().unwrap_or(&path).to_ascii_lowercase();
        let called = file
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| word == "vllm");
        let starts = |text: &String| {
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            lines.any(|line| {
                ["vllm serve ", "vllm.entrypoints"]
                    .iter()
                    .any(|start| line.contains(start))
            })
        };
        called
            || self
                .named(&path)
                .first()
                .and_then(|known| self.files.get(*known))
                .is_some_and(starts)
    }

    /// The text of a guest's application script, where the folder has it.
    pub fn text(&self, guest: &At) -> Option<&str> {
        let path = values::text(guest.get("application_script")?.node)?;
        let known = self.named(&path);
        self.files.get(*known.first()?).map(String::as_str)
    }

    /// Maps `application_script`.
    pub fn application(&mut self, w: &mut Writer, guest: &At, serves_vllm: bool) -> Option<Application> {
        let at = w.key(guest, &["application_script"])?;
        let Some(path) = values::text(at.node) else {
            w.unreadable(&at, "the name of a script");
            return None;
        };
        if serves_vllm && self.named(&path).is_empty() && self.starts_vllm(guest) {
            w.defaulted(&at, "vllm", "the vllm block starts the server in place of this script");
            return None;
        }
        let (known, text) = self.find(w, &at, &path)?;
        if serves_vllm {
            let message = "both the vllm block and the application script are written";
            w.warn(
                &at,
                message,
                "drop application if its script starts a server of its own on the same port",
            );
        }
        w.mapped(
            &at,
            "application.scriptFrom.key",
            "runs with the contract of the legacy managers",
        );
        let files = self.beside(w, &at, &known, &text);
        Some(Application {
            script_from: Some(self.applications.put(&known, &text)),
            files: (!files.is_empty()).then_some(files),
            contract: Some(ScriptContract::Legacy),
            ..Application::default()
        })
    }

    /// Maps `tests`, `health_checks`, `integration_tests` and the test list `vllm`.
    pub fn tests(&mut self, w: &mut Writer, guest: &At) -> Option<Vec<GuestTest>> {
        let mut tests = Tests::default();
        let groups =
            |at: &At| matches!(at.node, Node::Object(_)) && at.get("path").is_none() && at.get("script").is_none();
        for key in ["tests", "health_checks", "vllm", "integration_tests"] {
            if key == "vllm" && guest.get(key).is_some_and(|at| super::vllm::is_block(&at)) {
                continue;
            }
            let Some(at) = w.key(guest, &[key]) else { continue };
            if groups(&at) {
                for (group, at) in at.entries() {
                    self.test_group(w, &at, kind_of(group), &mut tests);
                }
            } else {
                self.test_group(
                    w,
                    &at,
                    if key == "vllm" {
                        TestKind::Integration
                    } else {
                        kind_of(key)
                    },
                    &mut tests,
                );
            }
        }
        if let Some(at) = w.key(guest, &["run_integration_tests"]) {
            match values::boolean(at.node) {
                Some(true) => {
                    w.ledger
                        .defaulted(&at, &w.object, "spec.tests", "tests always run once after provisioning")
                }
                Some(false) => w.skip(
                    &at,
                    "tests always run once after provisioning; their results never block Ready",
                ),
                None => w.unreadable(&at, "true or false"),
            }
        }
        (!tests.list.is_empty()).then_some(tests.list)
    }

    fn test_group(&mut self, w: &mut Writer, at: &At, kind: TestKind, tests: &mut Tests) {
        match at.node {
            Node::Array(items) if items.is_empty() => w.defaulted(at, "", "an empty list: nothing to write"),
            Node::Array(_) => at.items().iter().for_each(|item| self.test(w, item, kind, tests)),
            Node::Object(_) | Node::String(_) => self.test(w, at, kind, tests),
            Node::Null => w.defaulted(at, "", super::writer::NOT_SET),
            _ => w.unreadable(at, "a list of tests"),
        }
    }

    fn test(&mut self, w: &mut Writer, at: &At, kind: TestKind, tests: &mut Tests) {
        let get = |names: &[&str]| {
            names
                .iter()
                .find_map(|n| at.get(n))
                .filter(|v| values::text(v.node).is_some())
        };
        let path_at = if at.node.is_leaf() {
            Some(at.clone())
        } else {
            get(&["path", "script", "file"])
        };
        let command_at = get(&["command"]).filter(|_| path_at.is_none());
        let Some(what) = path_at.as_ref().or(command_at.as_ref()) else {
            return w.skip_warn(
                at,
                &format!("test {} names no script", at.node.show()),
                "give it a path",
            );
        };
        let text = values::text(what.node).unwrap_or_default();
        let script = if path_at.is_some() {
            // Should the script be missing, the rest of the test has nothing to belong to.
            w.skip(at, "the script of this test is missing");
            self.find(w, what, &text)
                .map(|(known, text)| (known.clone(), None, Some(self.tests.put(&known, &text))))
        } else {
            Some((text.clone(), Some(format!("#!/bin/sh\n{text}\n")), None))
        };
        let Some((identity, script, script_from)) = script else {
            return;
        };
        let field = if script.is_some() { "script" } else { "scriptFrom.key" };
        if let Some(place) = tests.identities.iter().position(|i| *i == identity) {
            w.skip(at, "the same script is a test already");
            return w.mapped_at(
                what,
                &format!("spec.tests[{place}].{field}"),
                "the same script is a test already",
            );
        }
        let name_at = get(&["name"]);
        let stem = text.rsplit('/').next().unwrap_or(&text);
        let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
        let legacy = name_at
            .as_ref()
            .and_then(|n| values::text(n.node))
            .unwrap_or_else(|| stem.to_owned());
        let place = tests.list.len();
        if place == 32 || script.as_ref().is_some_and(|s| s.len() > 100_000) {
            return w.skip_warn(
                at,
                "more than 32 tests, or one that is too long",
                "merge tests into one script",
            );
        }
        let name = names::entry_name(&legacy.replace('_', "-")).unwrap_or_else(|| format!("test-{}", place + 1));
        let path = |field: &str| format!("spec.tests[{place}].{field}");
        w.skip(at, super::ledger::UNKNOWN_KEY);
        w.mapped_at(what, &path(field), "");
        if let Some(at) = &name_at {
            w.mapped_at(at, &path("name"), "");
        }
        if let Some(at) = at.get("type") {
            w.ledger.defaulted(&at, &w.object, &path(field), "tests are scripts");
        }
        let deadline_at = get(&["timeout", "timeout_seconds"]);
        let deadline = deadline_at
            .as_ref()
            .and_then(|d| values::integer(d.node))
            .filter(|d| (1..=86_400).contains(d));
        if let (Some(at), Some(_)) = (&deadline_at, deadline) {
            w.mapped_at(at, &path("deadlineSeconds"), "");
        }
        tests.identities.push(identity);
        tests.list.push(GuestTest {
            name: names::unique(&mut tests.names, name, "2"),
            kind: Some(kind),
            script,
            script_from,
            deadline_seconds: deadline,
        });
    }
}

/// Tests of one guest.
#[derive(Default)]
struct Tests {
    list: Vec<GuestTest>,
    names: BTreeSet<String>,
    /// Script or command of each test.
    identities: Vec<String>,
}

fn kind_of(group: &str) -> TestKind {
    if group.contains("integration") {
        TestKind::Integration
    } else {
        TestKind::Health
    }
}

/// Whether the script at `path` names another file of the folder.
fn named(text: &str, path: &str, known: &str) -> bool {
    let file = known.rsplit('/').next().unwrap_or(known);
    known != path && file.len() > 3 && file.contains('.') && text.contains(file)
}

fn guest_file(path: &str, place: KeyRef) -> GuestFile {
    GuestFile {
        path: path.to_owned(),
        content_from: Some(place),
        ..GuestFile::default()
    }
}
