//! Model servers: what a guest says of vLLM becomes `spec.vllm`.
//!
//! The newest shape counts before older ones: `vllm_engine_config` before the `vllm_*` keys, those before `vllm_args`,
//! those before `vllm_parameters`. A contradiction is a warning, and what only one of them says is taken from it.

mod around;
mod engine;
mod fields;
mod names;
mod reading;
mod settings;
mod words;

use std::collections::BTreeMap;

use crate::crd::Vllm;

use super::json::{At, Node};
use super::ledger::Ledger;
use super::values;
use super::writer::{NOT_SET, Writer};
use engine::Setting;
use reading::Reading;

pub use around::{cache_hint, missing, of_template, require_feature};
pub use engine::{is_block, is_key};
pub use names::is_secret;

/// Keys of older files that are arguments without a field.
const ARGUMENT_KEYS: &[(&str, &str)] = &[("vllm_kv_cache_dtype", "kv-cache-dtype")];

/// A model server.
#[derive(Debug)]
pub struct Server {
    /// Its block.
    pub block: Vllm,
    /// Pointer of the value that each field has, by the field's name.
    places: BTreeMap<&'static str, String>,
}

impl Server {
    /// Where the file says the field, else the guest itself.
    pub fn place<'a>(&self, field: &str, guest: &At<'a>) -> At<'a> {
        At {
            pointer: self.places.get(field).unwrap_or(&guest.pointer).clone(),
            ..guest.clone()
        }
    }
}

/// Maps what a guest says of vLLM; without a model there is no server.
pub fn vllm(w: &mut Writer, guest: &At) -> Option<Server> {
    if !serves(guest) {
        no_model(w, guest);
        return None;
    }
    let (block, places) = read(w, guest, Reading::default()).finish(w, guest);
    Some(Server { block, places })
}

/// Whether a guest names a model that a server can be written for.
pub fn serves(guest: &At) -> bool {
    let mut w = Writer {
        ledger: &mut Ledger::default(),
        object: String::new(),
        prefix: "",
        label: String::new(),
    };
    let mut reading = Reading::default();
    reading.model_only = true;
    !read(&mut w, guest, reading).vllm.model.is_empty()
}

fn read(w: &mut Writer, guest: &At, mut reading: Reading) -> Reading {
    reading.engine(w, guest, true);
    for field in fields::FIELDS {
        if let Some(at) = w.key(guest, field.keys) {
            let setting = Setting {
                name: at.key(),
                option: field.options.first().unwrap_or(&"model-type").to_string(),
                text: None,
                at,
            };
            reading.setting(w, &setting);
        }
    }
    arguments(w, guest, &mut reading);
    for (key, option) in ARGUMENT_KEYS {
        if let Some(at) = w.key(guest, &[key]) {
            reading.parameter(w, option, &at);
        }
    }
    if let Some(at) = w.key(guest, &["vllm_parameters"]) {
        for (key, value) in at.entries() {
            reading.parameter(w, key, &value);
        }
        if !matches!(at.node, Node::Object(_)) {
            w.unreadable(&at, "an object of arguments");
        }
    }
    reading.engine(w, guest, false);
    reading
}

/// `vllm_args`: a command line, or an object of options.
fn arguments(w: &mut Writer, guest: &At, reading: &mut Reading) {
    let Some(at) = guest.get("vllm_args") else { return };
    match at.node {
        node if node.is_leaf() && values::text(node).is_none() => {
            w.defaulted(&at, "vllm.extraArgs", "no arguments");
        }
        Node::Object(_) => {
            for (key, value) in at.entries() {
                reading.parameter(w, key, &value);
            }
        }
        _ => {
            for argument in words::arguments(w, &at) {
                reading.argument(w, &argument, "vllm_args");
            }
        }
    }
}

/// Keys of a guest that say something of a server.
fn own_keys<'a>(guest: &At<'a>) -> impl Iterator<Item = (&'a str, At<'a>)> {
    guest.entries().into_iter().filter(|(key, at)| is_key(key, at))
}

fn no_model(w: &mut Writer, guest: &At) {
    let mut told = false;
    for (key, at) in own_keys(guest) {
        if !engine::is_set(&at) {
            w.defaulted(&at, "", NOT_SET);
            continue;
        }
        w.skip(&at, "no model is named, so there is no vLLM server");
        if !told {
            let message = match at.node.is_leaf() {
                true => format!("{key} without vllm_model: no vLLM server is written"),
                false => format!("{key} names no model, nor does vllm_model: no vLLM server is written"),
            };
            w.warn(
                &at,
                &message,
                "give vllm_engine_config.ModelConfig.model, or vllm_model",
            );
        }
        told = true;
    }
}
