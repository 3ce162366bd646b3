//! The `vllm_*` keys: fields of `spec.vllm`, and what is left as further arguments. Keys count before `vllm_args`, and
//! those before `vllm_parameters`; a contradiction is a warning.

use std::borrow::Cow;

use crate::crd::{Vllm, VllmModelType};

use super::json::{At, Node};
use super::values;
use super::writer::{Item, Writer};

/// A field of `spec.vllm` with its keys and its flags.
struct Field {
    name: &'static str,
    keys: &'static [&'static str],
    flags: &'static [&'static str],
    expected: &'static str,
}

type Words = &'static [&'static str];

const fn field(name: &'static str, keys: Words, flags: Words, expected: &'static str) -> Field {
    Field {
        name,
        keys,
        flags,
        expected,
    }
}

const FIELDS: &[Field] = &[
    field("model", &["vllm_model"], &["model"], "a model"),
    field(
        "servedName",
        &["vllm_served_model_name"],
        &["served-model-name"],
        "a name",
    ),
    field(
        "quantization",
        &["vllm_quantization"],
        &["quantization", "q"],
        "a quantization such as awq_marlin",
    ),
    field(
        "maxModelLen",
        &["vllm_max_model_len"],
        &["max-model-len"],
        "a whole number above 0",
    ),
    field(
        "gpuMemoryUtilization",
        &["vllm_gpu_memory_utilization"],
        &["gpu-memory-utilization"],
        "a number from 0.01 to 1",
    ),
    field(
        "tensorParallelSize",
        &["vllm_tensor_parallel_size"],
        &["tensor-parallel-size", "tp"],
        "a whole number from 1 to 64",
    ),
    field("dtype", &["vllm_dtype"], &["dtype"], "a data type such as float16"),
    field("port", &["vllm_port", "vllm_api_port"], &["port"], "a port"),
    field("modelType", &["vllm_model_type"], &[], "chat or embedding"),
    field(
        "trustRemoteCode",
        &["vllm_trust_remote_code"],
        &["trust-remote-code"],
        "true or false",
    ),
];

/// Keys of older files that are arguments without a field.
const ARGUMENT_KEYS: &[(&str, &str)] = &[("vllm_kv_cache_dtype", "kv-cache-dtype")];

/// Arguments whose value must not stand in a manifest.
const SECRET: &[&str] = &["api-key", "hf-token", "ssl-keyfile-password"];

#[derive(Default)]
struct Reading {
    vllm: Vllm,
    extra: Vec<(String, Option<String>)>,
}

/// Maps the `vllm_*` keys of a guest; without a model there is no block.
pub fn vllm(w: &mut Writer, guest: &At) -> Option<Vllm> {
    let args_at = guest
        .get("vllm_args")
        .filter(|at| !at.node.is_leaf() || values::text(at.node).is_some());
    let args = args_at.as_ref().map(|at| arguments(w, at)).unwrap_or_default();
    let fits = |model: &str| (1..=512).contains(&model.len());
    let has_model = guest
        .get("vllm_model")
        .and_then(|m| values::text(m.node))
        .is_some_and(|m| fits(&m))
        || args
            .iter()
            .any(|a| a.flag == "model" && a.value.as_deref().is_some_and(fits));
    if !has_model {
        return no_model(w, guest);
    }
    let mut reading = Reading::default();
    for field in FIELDS {
        if let Some(at) = w.key(guest, field.keys) {
            let text = text_of(at.node);
            match text.as_deref().and_then(|t| reading.set(field, t)) {
                Some(()) => w.mapped(&at, &format!("vllm.{}", field.name), ""),
                None => w.unreadable(&at, field.expected),
            }
        }
    }
    for argument in args {
        reading.argument(w, &argument);
    }
    for (key, flag) in ARGUMENT_KEYS {
        if let Some(at) = w.key(guest, &[key]) {
            reading.parameter(w, flag, &at);
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
    if let Some(at) = guest.get("vllm_args").filter(|_| args_at.is_none()) {
        w.defaulted(&at, "vllm.extraArgs", "no arguments");
    }
    Some(reading.finish())
}

fn no_model(w: &mut Writer, guest: &At) -> Option<Vllm> {
    let mut told = false;
    for (key, at) in guest.entries() {
        if !key.starts_with("vllm_") {
            continue;
        }
        if values::is_unset(at.node)
            || at.node.is_leaf() && values::text(at.node).is_none() && values::boolean(at.node).is_none()
        {
            w.defaulted(&at, "", super::writer::NOT_SET);
        } else {
            w.skip(&at, "there is no vllm_model, so there is no vLLM server");
            if !told {
                w.warn(
                    &at,
                    &format!("{key} without vllm_model: no vLLM server is written"),
                    "give vllm_model",
                );
            }
            told = true;
        }
    }
    None
}

/// One argument of `vllm_args`, with the values of the file that it is made of.
#[derive(Debug)]
struct Argument<'a> {
    places: Vec<At<'a>>,
    /// Without dashes; empty for a word that belongs to no flag.
    flag: String,
    value: Option<String>,
}

fn arguments<'a>(w: &mut Writer, at: &At<'a>) -> Vec<Argument<'a>> {
    let words: Vec<Item> = match at.node {
        Node::String(text) => match shlex::split(text) {
            Some(words) => words
                .into_iter()
                .map(|t| Item {
                    at: at.clone(),
                    text: Some(t),
                })
                .collect(),
            None => {
                w.unreadable(at, "a list of arguments");
                Vec::new()
            }
        },
        Node::Array(_) => at
            .items()
            .into_iter()
            .map(|at| Item {
                text: text_of(at.node),
                at,
            })
            .collect(),
        _ => w.list(at, &[',']),
    };
    let mut arguments: Vec<Argument> = Vec::new();
    let mut open = false;
    for Item { at, text } in words {
        let Some(text) = text else {
            w.unreadable(&at, "an argument");
            continue;
        };
        let is_flag = text.starts_with('-') && text.parse::<f64>().is_err() && text.len() > 1;
        match arguments.last_mut() {
            Some(last) if open && !is_flag => {
                last.value = Some(text);
                last.places.push(at);
                open = false;
            }
            _ if is_flag => {
                let bare = text.trim_start_matches('-');
                let (flag, value) = bare
                    .split_once('=')
                    .map_or((bare, None), |(f, v)| (f, Some(v.to_owned())));
                open = value.is_none();
                arguments.push(Argument {
                    places: vec![at],
                    flag: flag.to_owned(),
                    value,
                });
            }
            _ => arguments.push(Argument {
                places: vec![at],
                flag: String::new(),
                value: Some(text),
            }),
        }
    }
    arguments
}

/// The text of a scalar, as it would stand on the command line.
fn text_of(node: &Node) -> Option<String> {
    match node {
        Node::Bool(value) => Some(value.to_string()),
        Node::Object(_) | Node::Array(_) => Some(node.to_json().to_string()),
        other => values::text(other),
    }
}

/// The same value, however a number is written.
fn same(a: &str, b: &str) -> bool {
    let number = |t: &str| t.parse::<f64>().ok();
    a == b || number(a).is_some() && number(a) == number(b)
}

fn dashes(flag: &str) -> Cow<'_, str> {
    if flag.chars().count() == 1 || flag == "tp" || flag == "pp" {
        format!("-{flag}").into()
    } else {
        format!("--{flag}").into()
    }
}

impl Reading {
    /// Sets a field from text; None if the text does not fit.
    fn set(&mut self, field: &Field, text: &str) -> Option<()> {
        let vllm = &mut self.vllm;
        let whole =
            |low: i64, high: i64| values::integer(&Node::String(text.into())).filter(|n| (low..=high).contains(n));
        let short = |max: usize| (1..=max).contains(&text.len()).then(|| text.to_owned());
        match field.name {
            "model" => vllm.model = short(512)?,
            "servedName" => vllm.served_name = Some(short(512)?),
            "quantization" => vllm.quantization = Some(short(64)?),
            "maxModelLen" => vllm.max_model_len = Some(whole(1, 100_000_000)?),
            "gpuMemoryUtilization" => {
                let share = text.parse::<f64>().ok().filter(|v| (0.01..=1.0).contains(v))?;
                vllm.gpu_memory_utilization = Some(share);
            }
            "tensorParallelSize" => vllm.tensor_parallel_size = Some(whole(1, 64)?),
            "dtype" => vllm.dtype = Some(short(32)?),
            "port" => vllm.port = Some(whole(1, 65535)?),
            "modelType" => {
                vllm.model_type = Some(match text.to_ascii_lowercase().as_str() {
                    "chat" | "generate" | "completion" => VllmModelType::Chat,
                    "embedding" | "embed" | "embeddings" => VllmModelType::Embedding,
                    _ => return None,
                });
            }
            _ => vllm.trust_remote_code = Some(values::boolean(&Node::String(text.into()))?),
        }
        Some(())
    }

    /// The field's value as text, if it is set.
    fn get(&self, field: &Field) -> Option<String> {
        let vllm = &self.vllm;
        match field.name {
            "model" => Some(vllm.model.clone()).filter(|m| !m.is_empty()),
            "servedName" => vllm.served_name.clone(),
            "quantization" => vllm.quantization.clone(),
            "maxModelLen" => vllm.max_model_len.map(|v| v.to_string()),
            "gpuMemoryUtilization" => vllm.gpu_memory_utilization.map(|v| v.to_string()),
            "tensorParallelSize" => vllm.tensor_parallel_size.map(|v| v.to_string()),
            "dtype" => vllm.dtype.clone(),
            "port" => vllm.port.map(|v| v.to_string()),
            "trustRemoteCode" => vllm.trust_remote_code.map(|v| v.to_string()),
            _ => None,
        }
    }

    fn argument(&mut self, w: &mut Writer, argument: &Argument) {
        let Argument { places, flag, value } = argument;
        let Some(place) = places.first() else { return };
        if SECRET.contains(&flag.as_str()) {
            for at in places {
                w.skip(at, "a secret: it belongs into a Secret, not into a manifest");
            }
            return w.warn(
                place,
                &format!("vllm_args hold --{flag}, which is not carried"),
                "put it into a Secret",
            );
        }
        let known = FIELDS.iter().find(|f| f.flags.contains(&flag.as_str()));
        let text = value
            .clone()
            .or_else(|| known.filter(|f| f.name == "trustRemoteCode").map(|_| "true".into()));
        self.take(w, places, flag, known, text);
    }

    fn parameter(&mut self, w: &mut Writer, key: &str, at: &At) {
        let flag = key.trim_start_matches('-').replace('_', "-");
        if SECRET.contains(&flag.as_str()) {
            w.skip(at, "a secret: it belongs into a Secret, not into a manifest");
            return w.warn(
                at,
                &format!("vllm_parameters hold {key}, which is not carried"),
                "put it into a Secret",
            );
        }
        let known = FIELDS.iter().find(|f| f.flags.contains(&flag.as_str()));
        match (at.node, known) {
            (Node::Null, _) => w.defaulted(at, "", super::writer::NOT_SET),
            (Node::Bool(false), None) => w.defaulted(at, "", "a switch that is off"),
            (Node::Bool(true), None) => self.take(w, std::slice::from_ref(at), &flag, None, None),
            (node, known) => match text_of(node) {
                Some(text) => self.take(w, std::slice::from_ref(at), &flag, known, Some(text)),
                None => w.defaulted(at, "", super::writer::NOT_SET),
            },
        }
    }

    /// Takes one argument into its field or among the further ones.
    fn take(&mut self, w: &mut Writer, places: &[At], flag: &str, known: Option<&Field>, value: Option<String>) {
        let Some(first) = places.first() else { return };
        if let Some(field) = known {
            let path = format!("vllm.{}", field.name);
            let have = self.get(field);
            let text = value.clone().unwrap_or_default();
            let fits = match &have {
                Some(have) => same(have, &text),
                None => self.set(field, &text).is_some(),
            };
            if fits {
                places.iter().for_each(|at| w.mapped(at, &path, ""));
                return;
            }
            let message = match have {
                Some(have) => format!("--{flag} {text} contradicts {} {have}, which counts", field.name),
                None => format!("--{flag} {text:?} is not {}", field.expected),
            };
            places.iter().for_each(|at| w.skip(at, &message));
            return w.warn(first, &message, "make them equal, or drop one");
        }
        let place = |n: usize, extra: &[(String, Option<String>)]| -> usize {
            extra[..n]
                .iter()
                .map(|(f, v)| usize::from(!f.is_empty()) + usize::from(v.is_some()))
                .sum()
        };
        let standing = self.extra.iter().position(|(f, _)| !f.is_empty() && f == flag);
        let at_index = match standing {
            Some(n)
                if self.extra[n]
                    .1
                    .as_deref()
                    .zip(value.as_deref())
                    .is_some_and(|(a, b)| same(a, b))
                    || self.extra[n].1 == value =>
            {
                n
            }
            Some(n) => {
                let have = self.extra[n].1.clone().unwrap_or_default();
                let message = format!(
                    "--{flag} {} contradicts --{flag} {have}, which counts",
                    value.unwrap_or_default()
                );
                places.iter().for_each(|at| w.skip(at, &message));
                return w.warn(first, &message, "make them equal, or drop one");
            }
            None => {
                let words = place(self.extra.len(), &self.extra) + 2;
                if words > 64 || value.as_ref().is_some_and(|v| v.len() > 1000) || flag.len() > 1000 {
                    places
                        .iter()
                        .for_each(|at| w.skip(at, "too many or too long arguments"));
                    return w.warn(
                        first,
                        "more than 64 further arguments, or one that is too long",
                        "use vLLM's --config file",
                    );
                }
                self.extra.push((flag.to_owned(), value));
                self.extra.len() - 1
            }
        };
        let start = place(at_index, &self.extra);
        let (flag, value) = &self.extra[at_index];
        // A flag and its value in one leaf are named by the value.
        let last = start + usize::from(!flag.is_empty() && value.is_some());
        for (n, at) in places.iter().enumerate() {
            let word = if places.len() == 1 { last } else { (start + n).min(last) };
            w.mapped(at, &format!("vllm.extraArgs[{word}]"), "");
        }
    }

    fn finish(mut self) -> Vllm {
        let words: Vec<String> = (self.extra.into_iter())
            .flat_map(|(flag, value)| {
                let flag = (!flag.is_empty()).then(|| dashes(&flag).into_owned());
                flag.into_iter().chain(value)
            })
            .collect();
        self.vllm.extra_args = (!words.is_empty()).then_some(words);
        self.vllm
    }
}
