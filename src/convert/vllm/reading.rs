//! What the files say of one model server, as it is read. What comes first counts; a contradiction is a warning.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::crd::{Vllm, VllmModelType};
use crate::desired::scripts::vllm_flags;

use super::super::json::{At, Node};
use super::super::writer::{NOT_SET, Writer};
use super::engine::{scalar, text_of};
use super::fields::{self, Field};
use super::names;
use super::words::Argument;

/// Note of a value that is not repeated.
pub const SECRET: &str = "a secret: it belongs into a Secret, not into a manifest";

/// An argument that has no field.
struct Extra {
    /// Without dashes; empty for a word that belongs to no option.
    option: String,
    values: Vec<String>,
}

impl Extra {
    fn words(&self) -> usize {
        usize::from(!self.option.is_empty()) + self.values.len()
    }
}

/// A server, as far as it is read.
#[derive(Default)]
pub struct Reading {
    /// The block; its model is empty until one is found.
    pub vllm: Vllm,
    /// Pointer of the value that each field has.
    pub places: BTreeMap<&'static str, String>,
    /// Whether sections that are none of the server's own are being read.
    pub foreign: bool,
    /// Whether only the model is asked for.
    pub model_only: bool,
    extra: Vec<Extra>,
}

impl Reading {
    /// Takes one argument of the command line that stands under `key`.
    pub fn argument(&mut self, w: &mut Writer, argument: &Argument, key: &str) {
        let Argument { places, option, values } = argument;
        let Some(place) = places.first() else { return };
        // A lone word may be name=value, too.
        let lone = values
            .first()
            .and_then(|v| v.split_once('='))
            .filter(|_| option.is_empty());
        let option = lone.map_or(option.as_str(), |(name, _)| name);
        if names::is_secret(option) {
            places.iter().for_each(|at| w.skip(at, SECRET));
            let message = format!("{key} hold --{option}, which is not carried");
            return w.warn(place, &message, "put it into a Secret");
        }
        let option = argument.option.as_str();
        let shown_option = format!("--{option}");
        match fields::of_option(&option.replace('_', "-")) {
            Some(field) if field.name == "servedName" && values.len() > 1 => {
                let own = places.len().saturating_sub(values.len());
                let (first, rest) = places.split_at(own);
                first.iter().for_each(|at| w.mapped(at, "vllm.servedName", ""));
                let shown = (shown_option.as_str(), values.join(" "));
                self.names(w, field, rest, &shown, values.clone());
            }
            Some(field) => {
                let on = (field.name == "trustRemoteCode" && values.is_empty()).then(|| "true".to_owned());
                let text = on.unwrap_or_else(|| values.join(" "));
                let shown = (shown_option.as_str(), format!("{text:?}"));
                self.field(w, field, places, &shown, &text);
            }
            None => {
                // An option and its value in one leaf are named by the value.
                let last = usize::from(!option.is_empty()) + values.len()
                    - usize::from(!option.is_empty() || !values.is_empty());
                let one = places.len() == 1;
                let placed = places
                    .iter()
                    .enumerate()
                    .map(|(n, at)| (at.clone(), if one { last } else { n.min(last) }));
                self.extra(w, option, values.clone(), &placed.collect::<Vec<_>>());
            }
        }
    }

    /// Takes one of `vllm_parameters`: a key with a value.
    pub fn parameter(&mut self, w: &mut Writer, key: &str, at: &At) {
        let option = key.trim_start_matches('-').replace('_', "-");
        if names::is_secret(&option) || names::holds_secret(key, at.node) {
            w.skip(at, SECRET);
            let message = format!("vllm_parameters hold {key}, which is not carried");
            return w.warn(at, &message, "put it into a Secret");
        }
        if option.is_empty() {
            return w.unreadable(at, "an argument with a name");
        }
        let known = fields::of_option(&option);
        match (at.node, known) {
            (Node::Null, _) => w.defaulted(at, "", NOT_SET),
            (Node::Bool(false), None) => w.defaulted(at, "", "a switch that is off"),
            (Node::Bool(true), None) => self.extra(w, &option, Vec::new(), &[(at.clone(), 0)]),
            (node, Some(field)) => match scalar(node) {
                Some(text) => {
                    let shown = format!("--{option}");
                    let shown = (shown.as_str(), format!("{text:?}"));
                    self.field(w, field, std::slice::from_ref(at), &shown, &text);
                }
                None if node.is_leaf() => w.defaulted(at, "", NOT_SET),
                None => w.unreadable(at, field.expected),
            },
            (node, None) => match text_of(node) {
                Some(text) => self.extra(w, &option, vec![text], &[(at.clone(), 1)]),
                None => w.defaulted(at, "", NOT_SET),
            },
        }
    }

    /// Takes a text into its field. `shown` are its name and its value in messages.
    pub fn field(&mut self, w: &mut Writer, field: &Field, places: &[At], shown: &(&str, String), text: &str) {
        let Some(wanted) = fields::normal(field, text) else {
            return unfit(w, places, shown, field.expected);
        };
        let same = |extra: &&Extra| field.name == "maxModelLen" && extra.option == "max-model-len";
        let further = self.extra.iter().find(same).map(|extra| extra.values.join(" "));
        match fields::get(&self.vllm, field).or(further) {
            Some(have) if have != wanted => {
                let message = format!("{} {text} contradicts {} {have}, which counts", shown.0, field.name);
                return contradiction(w, places, &message);
            }
            Some(_) => {}
            None => {
                let set = fields::set(&mut self.vllm, field, text);
                if let (Some(()), Some(place)) = (set, places.first()) {
                    self.places.insert(field.name, place.pointer.clone());
                }
            }
        }
        let path = format!("vllm.{}", field.name);
        places.iter().for_each(|at| w.mapped(at, &path, ""));
    }

    /// Takes an argument that has no field. `places` are its values of the file, each with the word that it is: 0 for the
    /// option, 1 for the value behind it.
    pub fn extra(&mut self, w: &mut Writer, option: &str, values: Vec<String>, places: &[(At, usize)]) {
        let claims: Vec<At> = places.iter().map(|(at, _)| at.clone()).collect();
        let standing = self
            .extra
            .iter()
            .position(|e| !option.is_empty() && plain(&e.option) == plain(option));
        let index = match standing.map(|n| (n, &self.extra[n])) {
            Some((n, have))
                if have.option.replace('_', "-") == option.replace('_', "-") && same(&have.values, &values) =>
            {
                n
            }
            Some((_, have)) => {
                let (given, counts) = (values.join(" "), have.values.join(" "));
                let message = format!(
                    "--{option} {given} contradicts --{} {counts}, which counts",
                    have.option
                );
                return contradiction(w, &claims, &message);
            }
            None => {
                let extra = Extra {
                    option: option.to_owned(),
                    values,
                };
                let words: usize = self.extra.iter().map(Extra::words).sum();
                let fits = |text: &String| text.len() <= 1000 && !text.contains('\0');
                if words + extra.words().max(2) > 64 || !fits(&extra.option) || !extra.values.iter().all(fits) {
                    claims
                        .iter()
                        .for_each(|at| w.skip(at, "too many or too long arguments"));
                    let Some(first) = claims.first() else { return };
                    let message = "more than 64 further arguments, or one that is too long or holds a NUL";
                    return w.warn(first, message, "use vLLM's --config file");
                }
                self.extra.push(extra);
                self.extra.len() - 1
            }
        };
        let start: usize = self.extra[..index].iter().map(Extra::words).sum();
        for (at, word) in places {
            w.mapped(at, &format!("vllm.extraArgs[{}]", start + word), "");
        }
    }

    /// The block; a model that is called an embedding model is written as one.
    pub fn finish(mut self, w: &mut Writer, guest: &At) -> (Vllm, BTreeMap<&'static str, String>) {
        let says = |extra: &Extra| ["runner", "convert", "task"].contains(&extra.option.as_str());
        if self.vllm.model_type.is_none() && embeds(&self.vllm) && !self.extra.iter().any(says) {
            self.vllm.model_type = Some(VllmModelType::Embedding);
            let at = At {
                file: guest.file,
                pointer: self
                    .places
                    .get("model")
                    .cloned()
                    .unwrap_or_else(|| guest.pointer.clone()),
                node: guest.node,
            };
            let message = format!(
                "{:?} is an embedding model by its name: modelType: embedding is written",
                self.vllm.model
            );
            w.info(&at, &message, "nothing; or give modelType: chat, if it is none");
        }
        let words = |extra: Extra| {
            let option = (!extra.option.is_empty()).then(|| dashes(&extra.option).into_owned());
            option.into_iter().chain(extra.values)
        };
        let words: Vec<String> = self.extra.into_iter().flat_map(words).collect();
        self.vllm.extra_args = (!words.is_empty()).then_some(words);
        (self.vllm, self.places)
    }
}

/// Whether the names of a model are those of an embedding model.
fn embeds(vllm: &Vllm) -> bool {
    let served = vllm.served_name.as_deref().unwrap_or_default();
    let names = format!("{} {served}", vllm.model).to_ascii_lowercase();
    let families = ["bge", "e5", "gte", "minilm"];
    let family = |word: &str| families.contains(&word);
    let named = names.contains("embed") || names.contains("sentence-transformers/");
    (named || names.split(|c: char| !c.is_ascii_alphanumeric()).any(family)) && !names.contains("rerank")
}

fn contradiction(w: &mut Writer, places: &[At], message: &str) {
    places.iter().for_each(|at| w.skip(at, message));
    if let Some(first) = places.first() {
        w.warn(first, message, "make them equal, or drop one");
    }
}

/// A value that is not what it should be.
pub fn unfit(w: &mut Writer, places: &[At], shown: &(&str, String), expected: &str) {
    let message = format!("{} {} is not {expected}", shown.0, shown.1);
    places.iter().for_each(|at| w.skip(at, &message));
    if let Some(first) = places.first() {
        let fix = format!("give {expected}, and convert again or set the field by hand");
        w.warn(first, &message, &fix);
    }
}

/// The same values, however numbers are written.
fn same(a: &[String], b: &[String]) -> bool {
    let number = |t: &str| t.parse::<f64>().ok();
    let equal = |(a, b): (&String, &String)| a == b || number(a).is_some() && number(a) == number(b);
    a.len() == b.len() && a.iter().zip(b).all(equal)
}

/// The name of an option; a switch and its opposite are one.
fn plain(option: &str) -> String {
    let option = option.replace('_', "-");
    let opposite = option.strip_prefix("no-").filter(|o| vllm_flags::form(o).is_some());
    opposite.map(str::to_owned).unwrap_or(option)
}

fn dashes(option: &str) -> Cow<'_, str> {
    if option.chars().count() == 1 || option == "tp" || option == "pp" {
        format!("-{option}").into()
    } else {
        format!("--{option}").into()
    }
}
