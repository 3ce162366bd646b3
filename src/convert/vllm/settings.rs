//! Single keys of an engine configuration: into their fields, or into options that vLLM has.

use crate::desired::scripts::vllm_flags::{self, Form};

use super::super::json::{At, Node};
use super::super::values;
use super::super::writer::{NOT_SET, Writer};
use super::engine::{Setting, scalar, secret_fix, text_of};
use super::fields::{self, Field};
use super::names;
use super::reading::{Reading, SECRET, unfit};

/// Switches that vLLM turns on by itself: being off has to be said.
const ON_BY_ITSELF: &[&str] = &[
    "async-scheduling",
    "disable-hybrid-kv-cache-manager",
    "disable-nccl-for-dp-synchronization",
    "enable-chunked-prefill",
    "enable-prefix-caching",
    "use-tqdm-on-load",
];

impl Reading {
    /// Takes one key of an engine configuration.
    pub fn setting(&mut self, w: &mut Writer, setting: &Setting) {
        if self.model_only && setting.option != "model" {
            return;
        }
        let (node, claim) = (setting.at.node, setting.claim());
        if names::holds_secret(&setting.option, node) {
            w.skip(&claim, SECRET);
            let message = format!("{} is a secret, or holds one, and is not carried", setting.name);
            return w.warn(&claim, &message, secret_fix(&setting.name));
        }
        let empty = node.is_leaf() && matches!(node, Node::Array(_) | Node::Object(_));
        if empty || is_none(node) {
            return w.defaulted(&claim, "", NOT_SET);
        }
        let text = scalar(node);
        match (setting.option.as_str(), text.as_deref()) {
            ("model-type" | "task", Some("auto")) => w.defaulted(&claim, "", "vLLM finds it out itself"),
            ("model-type" | "task", text) => self.of_setting(w, "modelType", setting, text),
            // That is what modelType makes of it.
            ("runner", Some("pooling")) => self.of_setting(w, "modelType", setting, Some("embedding")),
            ("host", Some("0.0.0.0")) => w.defaulted(&claim, "", "Phoenix' servers listen on every address"),
            // vLLM makes it as long as the memory allows.
            ("max-model-len", Some(text @ ("auto" | "-1"))) if self.vllm.max_model_len.is_none() => {
                self.extra(w, "max-model-len", vec![text.to_owned()], &[(claim, 1)]);
            }
            ("served-model-name", None) => self.served_names(w, setting),
            (option, text) => match fields::of_option(option) {
                Some(field) if matches!(node, Node::Bool(false)) && field.name != "trustRemoteCode" => {
                    w.defaulted(&claim, "", NOT_SET);
                }
                Some(field) => self.of_setting(w, field.name, setting, text),
                None => self.option(w, setting),
            },
        }
    }

    fn of_setting(&mut self, w: &mut Writer, field: &str, setting: &Setting, text: Option<&str>) {
        let Some(field) = fields::named(field) else { return };
        let claim = setting.claim();
        let shown = (setting.name.as_str(), setting.at.node.show());
        self.field(w, field, std::slice::from_ref(&claim), &shown, text.unwrap_or_default());
        let (option, Some(value)) = (field.options.first(), fields::get(&self.vllm, field)) else {
            return;
        };
        // vLLM knows its quantizations and data types by name.
        let named = ["quantization", "dtype"].contains(&field.name);
        let fault = option
            .filter(|_| named)
            .and_then(|o| fault(&format!("--{o}"), std::slice::from_ref(&value)));
        if let Some(fault) = fault {
            let message = format!("{} {value:?}: vLLM {} {fault}", setting.name, vllm_flags::version());
            w.warn(
                &claim,
                &message,
                "it is written as it stands: correct it, or install a version that takes it",
            );
        }
    }

    /// A server may go by several names; the first is the one that it answers with.
    fn served_names(&mut self, w: &mut Writer, setting: &Setting) {
        let (claim, items) = (setting.claim(), setting.items());
        let texts: Option<Vec<String>> = match setting.at.node {
            Node::Array(list) => list.iter().map(values::text).collect(),
            _ => None,
        };
        let shown = (setting.name.as_str(), setting.at.node.show());
        let (Some(texts), Some(field)) = (texts, fields::named("servedName")) else {
            return unfit(w, std::slice::from_ref(&claim), &shown, "a name");
        };
        self.names(w, field, &items, &shown, texts);
    }

    pub fn names(&mut self, w: &mut Writer, field: &Field, places: &[At], shown: &(&str, String), texts: Vec<String>) {
        let (Some(place), Some(text)) = (places.first(), texts.first()) else {
            return;
        };
        self.field(w, field, std::slice::from_ref(place), shown, text);
        let counts = fields::get(&self.vllm, field).as_ref() == Some(text);
        if counts {
            let placed: Vec<_> = places.iter().enumerate().map(|(n, at)| (at.clone(), n + 1)).collect();
            self.extra(w, "served-model-name", texts, &placed);
        } else {
            places
                .iter()
                .skip(1)
                .for_each(|at| w.skip(at, "another key says the name"));
        }
    }

    /// Takes a setting that has no field but an option.
    fn option(&mut self, w: &mut Writer, setting: &Setting) {
        let (option, node, claim) = (setting.option.as_str(), setting.at.node, setting.claim());
        let place = |n: usize| vec![(claim.clone(), n)];
        let not = |w: &mut Writer, expected: &str| {
            let shown = (setting.name.as_str(), node.show());
            unfit(w, std::slice::from_ref(&claim), &shown, expected);
        };
        // These two take JSON as well, though not only that.
        let json = |json: bool| json || ["hf-overrides", "model-loader-extra-config"].contains(&option);
        match (vllm_flags::form(option), node) {
            (Some(Form::Switch { no }), _) => {
                match (scalar(node).and_then(|t| values::boolean(&Node::String(t))), no) {
                    (Some(true), _) => self.extra(w, option, Vec::new(), &place(0)),
                    (Some(false), Some(no)) if ON_BY_ITSELF.contains(&option) => {
                        self.extra(w, no, Vec::new(), &place(0))
                    }
                    (Some(false), _) => w.defaulted(&claim, "", "a switch that is off"),
                    (None, _) => not(w, "true or false"),
                }
            }
            (Some(_), Node::Bool(false)) => w.defaulted(&claim, "", NOT_SET),
            (Some(_), Node::Bool(true)) => not(w, "a value: this is no switch"),
            (Some(Form::Many), Node::Array(items)) => {
                let values = items.iter().filter_map(text_of).collect();
                let places: Vec<_> = (setting.items().into_iter())
                    .enumerate()
                    .map(|(n, at)| (at, n + 1))
                    .collect();
                self.checked(w, setting, values, &places);
            }
            (Some(Form::One { json: as_json }), Node::Object(_) | Node::Array(_))
                if !json(as_json) && scalar(node).is_none() =>
            {
                not(w, "one value");
            }
            (Some(Form::Many), Node::Object(_)) => not(w, "a list"),
            _ => {
                let one = vllm_flags::form(option) == Some(Form::One { json: false });
                let value = scalar(node)
                    .filter(|_| one)
                    .or_else(|| text_of(node))
                    .unwrap_or_default();
                self.checked(w, setting, vec![value], &place(1));
            }
        }
        if option == "host" {
            let message = "the server is asked at 127.0.0.1 whether it is healthy, and listens elsewhere";
            let local = scalar(node).is_some_and(|host| ["127.0.0.1", "localhost", "::"].contains(&host.as_str()));
            if !local {
                w.warn(
                    &claim,
                    message,
                    "drop the host, or give health.readiness a probe of its own",
                );
            }
        }
    }

    /// Writes an option if vLLM takes it.
    fn checked(&mut self, w: &mut Writer, setting: &Setting, mut values: Vec<String>, places: &[(At, usize)]) {
        let option = format!("--{}", setting.option);
        let unknown = vllm_flags::form(&setting.option).is_none();
        let mut fault = fault(&option, &values);
        // 4.0 is a whole number.
        let whole = values::integer(setting.at.node).filter(|_| matches!(setting.at.node, Node::Number(_)));
        if let (Some(_), false, Some(whole)) = (&fault, unknown, whole) {
            values = vec![whole.to_string()];
            fault = self::fault(&option, &values);
        }
        // vLLM may take it for the beginning of a name, but that is not what its configuration is called.
        match fault.or_else(|| unknown.then(|| format!("has no option {option}: correct it or take it out"))) {
            None => self.extra(w, &setting.option, values, places),
            Some(fault) => {
                let claim = setting.claim();
                let section = setting.option.ends_with("config") || setting.option.ends_with("json");
                let (name, shown) = (&setting.name, setting.at.node.show());
                if section && unknown {
                    return unfit(w, &[claim], &(name.as_str(), shown), "an object of settings");
                }
                let message = format!("{name} {shown}: vLLM {} {fault}", vllm_flags::version());
                let fix = "correct it and convert again, or put it into spec.vllm.extraArgs if your version of vLLM \
                           takes it";
                w.skip_warn(&claim, &message, fix);
            }
        }
    }
}

/// What vLLM would say against the option.
fn fault(option: &str, values: &[String]) -> Option<String> {
    let words: Vec<&str> = std::iter::once(option)
        .chain(values.iter().map(String::as_str))
        .collect();
    vllm_flags::fault(&words).map(|(_, fault)| fault)
}

/// Null, blank text, and what Python writes for nothing.
fn is_none(node: &Node) -> bool {
    let text = values::text(node).unwrap_or_default().to_ascii_lowercase();
    values::is_unset(node) || matches!(node, Node::String(_)) && ["none", "null"].contains(&text.as_str())
}
