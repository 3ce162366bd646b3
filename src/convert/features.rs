//! `features`, `portainer_role` and the NVIDIA keys: the features of a guest and their parameters.

use crate::crd::FeatureRef;

use super::facts::Facts;
use super::guests::Guest;
use super::json::{At, Node};
use super::options::is_capability;
use super::writer::{Item, Writer};
use super::{names, values};

/// Features that Phoenix ships.
const SHIPPED: &[&str] = &[
    "base-setup",
    "nvidia",
    "docker",
    "vllm",
    "ollama",
    "portainer",
    "python-api-service",
];

/// Maps the features of a guest. `root` is the top of its file. The second value are items of the list that are options
/// of `pct`, as older files have them there.
pub fn features<'a>(
    w: &mut Writer,
    guest: &Guest<'a>,
    root: &At<'a>,
    facts: &Facts<'a>,
) -> (Option<Vec<FeatureRef>>, Vec<Item<'a>>) {
    let mut list: Vec<FeatureRef> = Vec::new();
    let mut options = Vec::new();
    let items = w
        .key(&guest.at, &["features"])
        .map(|at| w.list(&at, &[',']))
        .unwrap_or_default();
    for item in items {
        let text = item.text.clone().unwrap_or_default();
        if is_capability(&text) {
            options.push(item);
            continue;
        }
        let Some(name) = names::feature_name(&text) else {
            w.unreadable(&item.at, "the name of a feature");
            continue;
        };
        let place = list.iter().position(|f| f.name == name).unwrap_or(list.len());
        if place == 32 {
            w.skip_warn(&item.at, "more than 32 features", "merge some into one PhoenixFeature");
            continue;
        }
        w.mapped(&item.at, &format!("features[{place}].name"), "");
        if place < list.len() {
            continue;
        }
        if !SHIPPED.contains(&name.as_str()) {
            let message = format!("feature {text:?} is none that Phoenix ships");
            w.warn(
                &item.at,
                &message,
                &format!("write a PhoenixFeature {name:?} with the legacy script as its install"),
            );
        }
        list.push(FeatureRef {
            name,
            ..FeatureRef::default()
        });
    }
    portainer(w, guest, facts, &mut list);
    nvidia(w, guest, root, facts, &mut list);
    ((!list.is_empty()).then_some(list), options)
}

/// Names of the features that a guest's file asks for, without claiming them.
pub fn named(guest: &Guest) -> Vec<String> {
    let at = guest.at.get("features");
    let text = match at.as_ref().map(|a| a.node) {
        Some(Node::Array(items)) => items.iter().filter_map(values::text).collect(),
        Some(Node::String(text)) => text.split(',').map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    text.iter().filter_map(|t| names::feature_name(t)).collect()
}

fn portainer(w: &mut Writer, guest: &Guest, facts: &Facts, list: &mut Vec<FeatureRef>) {
    let Some(at) = w.key(&guest.at, &["portainer_role"]) else {
        return;
    };
    let role = values::text(at.node).unwrap_or_default().to_ascii_lowercase();
    // The server was called primary once.
    let role = if role == "primary" { "server".to_owned() } else { role };
    match role.as_str() {
        "none" => w.defaulted(&at, "features", "no Portainer"),
        "infrastructure" => w.defaulted(&at, "features", "the role infrastructure installs nothing"),
        "server" | "agent" => {
            let place = list.iter().position(|f| f.name == "portainer").unwrap_or(list.len());
            if place == list.len() {
                list.push(FeatureRef {
                    name: "portainer".into(),
                    ..FeatureRef::default()
                });
            }
            w.mapped(&at, &format!("features[{place}].parameters.role"), "");
            let image = if role == "server" {
                &facts.portainer.0
            } else {
                &facts.portainer.1
            };
            if let Some((image, text)) = image.as_ref().and_then(|i| Some((i, values::text(i.node)?))) {
                w.mapped(image, &format!("features[{place}].parameters.image"), "");
                list[place].parameters.insert("image".into(), text);
            }
            list[place].parameters.insert("role".into(), role);
        }
        _ => w.unreadable(&at, "server, agent or none"),
    }
}

/// The driver in the guest must be that of the node: version and installer come from the guest, its file, or the
/// hypervisor file, in this order.
fn nvidia<'a>(w: &mut Writer, guest: &Guest<'a>, root: &At<'a>, facts: &Facts<'a>, list: &mut [FeatureRef]) {
    let Some(place) = list.iter().position(|f| f.name == "nvidia") else {
        return;
    };
    let sources = [
        ("driver-version", "nvidia_driver_version", &facts.nvidia.0),
        ("runfile-url", "nvidia_runfile_url", &facts.nvidia.1),
    ];
    for (parameter, key, fallback) in sources {
        let at = w
            .key(&guest.at, &[key])
            .or_else(|| w.key(root, &[key]))
            .or_else(|| fallback.clone());
        let Some(at) = at else { continue };
        match values::text(at.node).filter(|t| t.len() <= 1024) {
            Some(text) => {
                w.mapped(&at, &format!("features[{place}].parameters.{parameter}"), "");
                list[place].parameters.insert(parameter.to_owned(), text);
            }
            None => w.unreadable(&at, "text"),
        }
    }
}
