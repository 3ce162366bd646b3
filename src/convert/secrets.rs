//! Passwords, hashes and tokens of the files: Secrets with a place for each. The values themselves are copied only on request.

use std::collections::BTreeMap;

use serde::Serialize;

use super::emit;
use super::json::{At, Node};
use super::values;
use super::writer::Writer;

/// What stands where a person has to put a value.
pub const PLACEHOLDER: &str = "REPLACE-ME";

/// Values of Secrets, by the Secret's name and key.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Whether the values of the files are copied.
    pub copy: bool,
    all: BTreeMap<String, BTreeMap<String, String>>,
}

/// A Secret with its keys in the order in which people read manifests.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: emit::Metadata<'a>,
    string_data: &'a BTreeMap<String, String>,
}

impl Secrets {
    /// Makes a place for the value; true if it is copied into it.
    fn put(&mut self, name: &str, key: &str, value: Option<String>) -> bool {
        let value = value.filter(|_| self.copy);
        let copied = value.is_some();
        let text = value.unwrap_or_else(|| PLACEHOLDER.to_owned());
        self.all
            .entry(name.to_owned())
            .or_default()
            .insert(key.to_owned(), text);
        copied
    }

    /// The manifests, by file name.
    pub fn manifests(&self, namespace: Option<&str>) -> BTreeMap<String, String> {
        let manifest = |(name, data): (&String, &BTreeMap<String, String>)| {
            let object = Manifest {
                api_version: "v1",
                kind: "Secret",
                metadata: emit::Metadata { name, namespace },
                string_data: data,
            };
            let origin = "secrets of the legacy files: replace each REPLACE-ME, and keep this file out of Git";
            let text = emit::manifest(&object, origin).ok()?;
            Some((format!("secret-{name}.yaml"), text))
        };
        self.all.iter().filter_map(manifest).collect()
    }
}

/// Puts the secret at `at` into the Secret `name` under `key`; `plain` is for what cannot be copied as it stands. Tells
/// where it stands and what to do, with `fix` for where only a placeholder is written.
pub fn secret(w: &mut Writer, at: &At, name: &str, key: &str, copied: bool, fix: &str) {
    let value = copied.then(|| text(at.node)).flatten();
    if w.ledger.secrets.put(name, key, value) {
        let message = format!("{} is copied into the Secret {name:?}, key {key:?}", at.key());
        w.info(
            at,
            &message,
            "take it out of the legacy file, and keep the manifest out of Git",
        );
    } else {
        let message = format!(
            "{} belongs into the Secret {name:?}, key {key:?}, which is written with a placeholder",
            at.key()
        );
        w.warn(at, &message, fix);
    }
}

/// A text, or several, one a line.
fn text(node: &Node) -> Option<String> {
    match node {
        Node::Array(items) => items
            .iter()
            .map(values::text)
            .collect::<Option<Vec<_>>>()
            .map(|l| l.join("\n")),
        other => values::text(other),
    }
}
