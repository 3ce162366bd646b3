//! `vllm_engine_config` and its likes: objects of vLLM's configuration classes (`ModelConfig`, `CacheConfig`, …), nested
//! and spelled as people do. A key counts by its own name, wherever it stands: `quantization` is found in `CacheConfig`.

use crate::crd::EnvVar;
use crate::desired::scripts::vllm_flags;

use super::super::json::{self, At, Node};
use super::super::values;
use super::super::writer::{NOT_SET, Writer};
use super::reading::Reading;
use super::{fields, names, words};

/// Keys of a guest that are read one by one.
const OF_THEIR_OWN: &[&str] = &["vllm_args", "vllm_parameters", "vllm_model_path"];

/// Objects of settings that may stand in a guest without a name that says vLLM.
const SECTIONS: &[&str] = &[
    "engine-config",
    "engine-args",
    "model-config",
    "cache-config",
    "parallel-config",
    "scheduler-config",
    "server-config",
    "load-config",
];

/// Sections of the server itself. What other sections say (of a draft model, say) counts behind these.
const OWN_SECTIONS: &[&str] = &[
    "vllm",
    "engine",
    "model",
    "cache",
    "parallel",
    "scheduler",
    "server",
    "load",
    "device",
    "lora",
    "lo-ra",
    "api",
    "frontend",
];

const ENVIRONMENT: &[&str] = &[
    "env",
    "envs",
    "env-vars",
    "environment",
    "environment-variables",
    "extra-env",
];

const ARGUMENTS: &[&str] = &[
    "args",
    "arguments",
    "extra-args",
    "cli-args",
    "server-args",
    "engine-args",
];

/// One key of an engine configuration with its value.
pub struct Setting<'s> {
    /// The value.
    pub at: At<'s>,
    /// The text of the file that holds it, where the configuration is JSON in a string.
    pub text: Option<At<'s>>,
    /// Its key, with those above it: `vllm_engine_config.ModelConfig.dtype`.
    pub name: String,
    /// The option of `vllm serve` that it means, without dashes.
    pub option: String,
}

impl<'s> Setting<'s> {
    /// What is claimed for it.
    pub fn claim(&self) -> At<'s> {
        self.text.clone().unwrap_or_else(|| self.at.clone())
    }

    /// What is claimed for each item of its list.
    pub fn items(&self) -> Vec<At<'s>> {
        let own = |item: At<'s>| self.text.clone().unwrap_or(item);
        self.at.items().into_iter().map(own).collect()
    }
}

/// Where a key stands.
#[derive(Clone, Default)]
struct Inside<'s> {
    text: Option<At<'s>>,
    /// Keys above, joined by dots.
    name: String,
    /// Whether a section above is none of the server's own.
    foreign: bool,
}

impl<'s> Inside<'s> {
    fn below(&self, key: &str) -> Inside<'s> {
        let name = match self.name.as_str() {
            "" => key.to_owned(),
            above => format!("{above}.{key}"),
        };
        let section = names::option(key);
        let section = section.strip_suffix("-json").unwrap_or(&section);
        let section = section.strip_suffix("config").unwrap_or(section).trim_end_matches('-');
        Inside {
            text: self.text.clone(),
            foreign: self.foreign || !section.is_empty() && !OWN_SECTIONS.contains(&section),
            name,
        }
    }
}

/// Keys of a guest that say something of a model server, beside those of [`fields::FIELDS`] and [`OF_THEIR_OWN`].
pub fn keys<'a>(guest: &At<'a>) -> Vec<(&'a str, At<'a>)> {
    let read_elsewhere =
        |key: &str| OF_THEIR_OWN.contains(&key) || fields::FIELDS.iter().any(|f| f.keys.contains(&key));
    let mut keys = guest.entries();
    keys.retain(|(key, at)| is_key(key, at) && !read_elsewhere(key));
    keys
}

/// Whether a key of a guest says something of a model server. A list called `vllm` is one of tests.
pub fn is_key(key: &str, at: &At) -> bool {
    let name = names::kebab(key);
    match name.as_str() {
        "vllm" => is_block(at),
        _ => name.starts_with("vllm") || SECTIONS.contains(&name.as_str()) && matches!(at.node, Node::Object(_)),
    }
}

/// Whether the object holds settings of a server.
pub fn is_block(at: &At) -> bool {
    at.entries().iter().any(|(key, value)| {
        let section = SECTIONS.contains(&names::kebab(key).as_str());
        section || names::option(key) == "model" && value.node.is_leaf() && !values::is_unset(value.node)
    })
}

/// Whether anything in the value is set.
pub fn is_set(at: &At) -> bool {
    let mut set = false;
    at.walk(&mut |value| {
        let empty = matches!(value.node, Node::Array(_) | Node::Object(_));
        set |= value.node.is_leaf() && !empty && !values::is_unset(value.node);
    });
    set
}

/// The text of a value, as it would stand on the command line.
pub fn text_of(node: &Node) -> Option<String> {
    match node {
        Node::Object(_) | Node::Array(_) => Some(node.to_json().to_string()),
        other => scalar(other),
    }
}

/// The text of a scalar; a list of one counts as its item.
pub fn scalar(node: &Node) -> Option<String> {
    match node {
        Node::Bool(value) => Some(value.to_string()),
        Node::Array(items) => match items.as_slice() {
            [one] if !matches!(one, Node::Array(_)) => scalar(one),
            _ => None,
        },
        other => values::text(other),
    }
}

impl Reading {
    /// Reads the objects among the keys of a guest (`blocks`), or what else there is.
    pub fn engine(&mut self, w: &mut Writer, guest: &At, blocks: bool) {
        let is_block = |at: &At| match at.node {
            Node::Object(_) | Node::Array(_) => true,
            Node::String(text) => text.trim_start().starts_with(['{', '[', '-']),
            _ => false,
        };
        let (texts, objects): (Vec<_>, Vec<_>) = (keys(guest).into_iter())
            .filter(|(_, at)| is_block(at) == blocks)
            .partition(|(_, at)| matches!(at.node, Node::String(_)));
        for foreign in [false, true] {
            self.foreign = foreign;
            for (key, at) in objects.iter().chain(&texts) {
                self.key(w, key, at, &Inside::default());
            }
        }
    }

    fn key(&mut self, w: &mut Writer, key: &str, at: &At, inside: &Inside) {
        let setting = Setting {
            at: at.clone(),
            text: inside.text.clone(),
            name: inside.below(key).name,
            option: names::option(key),
        };
        let option = setting.option.as_str();
        let known = option != "config" && vllm_flags::form(option).is_some() || fields::of_option(option).is_some();
        let section = !known && !names::is_secret(key);
        let plain = names::kebab(key);
        if ["comment", "notes", "description"].contains(&plain.as_str()) || key.starts_with("_comment") {
            return w.skip(&setting.claim(), "a comment");
        }
        if section && self.sections(w, key, at, inside) {
            return;
        }
        let line = matches!(at.node, Node::String(text) if section && text.trim_start().starts_with("--"))
            || ARGUMENTS.contains(&option) && matches!(at.node, Node::Array(_) | Node::String(_));
        if inside.foreign != self.foreign {
            return;
        }
        if ENVIRONMENT.contains(&option) {
            self.environment(w, &setting);
        } else if line {
            self.command_line(w, &setting);
        } else {
            self.setting(w, &setting);
        }
    }

    /// Reads what stands in an object, in objects of a list, or in JSON in a text; false if it is none of these.
    fn sections(&mut self, w: &mut Writer, key: &str, at: &At, inside: &Inside) -> bool {
        if ENVIRONMENT.contains(&names::option(key).as_str()) {
            return false;
        }
        let below = inside.below(key);
        match at.node {
            Node::Object(object) if !object.entries.is_empty() => {
                for (key, value) in at.entries() {
                    self.key(w, key, &value, &below);
                }
                true
            }
            Node::Array(items) if !items.is_empty() && items.iter().all(|i| matches!(i, Node::Object(_))) => {
                for item in at.items() {
                    for (key, value) in item.entries() {
                        self.key(w, key, &value, &below);
                    }
                }
                true
            }
            Node::String(text) if text.trim_start().starts_with('{') => {
                let place = inside.text.clone().unwrap_or_else(|| at.clone());
                // The text is not shown: it may hold a key.
                let Ok(node) = json::parse(text.as_bytes()) else {
                    let message = format!("{} is not JSON", below.name);
                    w.skip_warn(&place, &message, "mend it, and convert again");
                    return true;
                };
                // It comes and goes with this call, and so do the places within.
                let root = At::root(place.file, &node);
                let below = Inside {
                    text: Some(place),
                    ..below
                };
                for (key, value) in root.entries() {
                    self.key(w, key, &value, &below);
                }
                true
            }
            _ => false,
        }
    }

    /// Arguments that stand in an engine configuration.
    fn command_line(&mut self, w: &mut Writer, setting: &Setting) {
        for mut argument in words::arguments(w, &setting.at) {
            if let Some(text) = &setting.text {
                argument.places.iter_mut().for_each(|at| *at = text.clone());
            }
            self.argument(w, &argument, &setting.name);
        }
    }

    /// The server's environment; the folder of the models has a field of its own.
    fn environment(&mut self, w: &mut Writer, setting: &Setting) {
        let mut variables: Vec<(String, At, Option<String>)> = Vec::new();
        match setting.at.node {
            Node::Object(_) => {
                for (name, at) in setting.at.entries() {
                    let value = scalar(at.node);
                    variables.push((name.to_owned(), at, value));
                }
            }
            Node::Array(_) => {
                for at in setting.at.items() {
                    let named = at.get("name").and_then(|n| values::text(n.node));
                    let text = values::text(at.node).unwrap_or_default();
                    let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                    let value = at.get("value").map_or(Some(value.to_owned()), |v| scalar(v.node));
                    variables.push((named.unwrap_or_else(|| name.to_owned()), at, value));
                }
            }
            Node::String(text) => {
                for word in shlex::split(text).unwrap_or_default() {
                    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                    variables.push((name.to_owned(), setting.at.clone(), Some(value.to_owned())));
                }
            }
            _ => {}
        }
        if variables.is_empty() {
            return self.empty(w, setting);
        }
        for (name, at, value) in variables {
            let place = setting.text.as_ref().unwrap_or(&at);
            self.variable(w, place, &name, value.as_deref().unwrap_or_default());
        }
    }

    fn empty(&mut self, w: &mut Writer, setting: &Setting) {
        if is_set(&setting.at) {
            let message = format!("{} is no list of variables", setting.name);
            return w.skip_warn(&setting.claim(), &message, "give NAME: value, and convert again");
        }
        w.defaulted(&setting.claim(), "", NOT_SET);
    }

    fn variable(&mut self, w: &mut Writer, at: &At, name: &str, value: &str) {
        if value.is_empty() {
            return w.defaulted(at, "", NOT_SET);
        }
        if names::is_secret(name) {
            w.skip(at, "a secret: it belongs into a Secret, not into a manifest");
            let message = format!("the server's environment holds {name}, which is not carried");
            return w.warn(at, &message, secret_fix(name));
        }
        let folder = values::mount_path(value).filter(|_| name == "HF_HOME");
        if let Some(folder) = folder.filter(|f| self.vllm.cache_path.as_ref().is_none_or(|have| have == f)) {
            self.vllm.cache_path = Some(folder);
            return w.mapped(at, "vllm.cachePath", "");
        }
        let have = self.vllm.environment.as_deref().unwrap_or_default();
        if let Some((message, fix)) = no_variable(name, value, have) {
            return w.skip_warn(at, &message, fix);
        }
        let list = self.vllm.environment.get_or_insert_default();
        let new = EnvVar {
            name: name.into(),
            value: Some(value.into()),
            ..EnvVar::default()
        };
        match list.iter_mut().find(|old| old.name == name) {
            Some(old) => *old = new,
            None => list.push(new),
        }
        w.mapped(at, "vllm.environment", "");
    }
}

/// Why a variable cannot be written beside those of the list, and what to do: what admission refuses of `EnvVar`.
fn no_variable(name: &str, value: &str, list: &[EnvVar]) -> Option<(String, &'static str)> {
    const VALUE: usize = 32_768;
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named =
        (1..=128).contains(&name.len()) && name.chars().all(fine) && !name.starts_with(|c: char| c.is_ascii_digit());
    if !named {
        let name: String = name.chars().take(64).collect();
        return Some((
            format!("{name:?} is no name of an environment variable"),
            "correct it, and convert again",
        ));
    }
    if value.chars().count() > VALUE {
        let message = format!("the value of {name} is longer than {VALUE} characters");
        return Some((message, "shorten it, and convert again"));
    }
    let full = list.len() >= 64 && list.iter().all(|old| old.name != name);
    full.then(|| {
        let message = format!("{name} is more than the 64 variables that a server takes");
        (
            message,
            "take variables out that the server does not need, and convert again",
        )
    })
}

/// What to do about a secret.
pub fn secret_fix(name: &str) -> &'static str {
    let name = names::kebab(name);
    if name.contains("hf-") || name.contains("hugging") {
        "put it into a Secret, and name that in spec.vllm.tokenSecretRef"
    } else {
        "put it into a Secret"
    }
}
