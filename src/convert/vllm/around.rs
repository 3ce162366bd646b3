//! What goes with a model server in its guest, and guests that run a model without one.

use crate::crd::FeatureRef;

use super::super::features;
use super::super::guests::{Guest, Guests};
use super::super::json::At;
use super::super::values;
use super::super::writer::Writer;
use super::{engine, own_keys};

/// What says that a guest serves something.
const SERVES: &[&str] = &["application_script", "ports", "traefik_service", "health_check"];

/// A vLLM server needs the feature vllm, of its own or of a template that it comes from.
pub fn require_feature(w: &mut Writer, index: usize, guests: &Guests, list: &mut Option<Vec<FeatureRef>>) {
    let lineage = guests.lineage(index);
    let has = |guest: &&Guest| features::named(guest).iter().any(|f| f == "vllm");
    if lineage.iter().any(has) {
        return;
    }
    if let Some(guest) = lineage.first() {
        w.info(
            &guest.at,
            "a model server without the feature vllm; the feature is added",
            "nothing",
        );
        let list = list.get_or_insert_default();
        if list.len() < 32 {
            list.push(FeatureRef {
                name: "vllm".into(),
                ..FeatureRef::default()
            });
        }
    }
}

/// A template is stopped once it is built.
pub fn of_template(w: &mut Writer, at: &At) {
    w.warn(
        at,
        "it is a template and serves a model: a template does not run, and its clones bring its server along",
        "for the server write a PhoenixLXC that is cloned from it, and take vllm out of the template",
    );
}

/// Models may live on a volume.
pub fn cache_hint(w: &mut Writer, at: &At, path: &str) {
    let message = format!("vLLM keeps downloaded models in the root filesystem, and a volume is mounted at {path}");
    w.info(
        at,
        &message,
        &format!("set spec.vllm.cachePath: {path} if the models are to live there"),
    );
}

/// Says that a guest without a server block runs a model, if it does. A template does not run; a guest with the feature
/// alone that is not started at boot and serves nothing is there to try the feature.
pub fn missing(w: &mut Writer, guest: &At, template: bool, has_feature: bool, has_script: bool) {
    let key = own_keys(guest).find(|(_, at)| engine::is_set(at));
    let idle = guest.get("start_at_boot").and_then(|at| values::boolean(at.node)) == Some(false)
        && !SERVES
            .iter()
            .filter_map(|key| guest.get(key))
            .any(|at| engine::is_set(&at));
    let why = match key {
        Some((key, _)) => format!("it has {key}"),
        None if template => return,
        None if has_script => "its application script starts vLLM".to_owned(),
        None if has_feature && !idle => "it has the feature vllm".to_owned(),
        None => return,
    };
    let message = format!("it runs a model, as far as can be told ({why}), and no model server is written");
    let fix =
        "name the model (vllm_engine_config.ModelConfig.model, or vllm_model) and convert again, or write spec.vllm";
    w.error(guest, &message, fix);
}
