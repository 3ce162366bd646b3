//! What spec and objects name on the nodes: storages, bridges, images.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::PhoenixHypervisorSpec;
use crate::desired::images;

use super::facts::{Facts, NodeFacts, StorageFacts};
use super::privileges::holds;
use super::uses::{Image, Named, Uses, Where};
use super::{Check, Outcome};

const GIB: u64 = 1 << 30;

/// Nodes that a place means and that are online; those on which guests may be put where none is named.
fn nodes<'f>(spec: &PhoenixHypervisorSpec, facts: &'f Facts, place: &Where) -> Vec<(&'f String, &'f NodeFacts)> {
    let default = spec.defaults.as_ref().and_then(|defaults| defaults.node.as_ref());
    let named = place.as_ref().or(default);
    let meant = facts
        .nodes
        .iter()
        .filter(|(node, of)| of.online && named.is_none_or(|name| name == *node));
    meant.collect()
}

/// Nodes that are named and do not exist.
fn absent_nodes(spec: &PhoenixHypervisorSpec, uses: &Uses, facts: &Facts) -> Vec<Check> {
    let mut named: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    if let Some(node) = spec.defaults.as_ref().and_then(|defaults| defaults.node.as_ref()) {
        named.entry(node).or_default().push("spec.defaults.node".into());
    }
    for (place, used) in &uses.storages {
        if let Some(node) = place {
            named.entry(node).or_default().push(used.field.clone());
        }
    }
    let there = Vec::from_iter(facts.nodes.keys().map(String::as_str)).join(", ");
    let absent = named
        .into_iter()
        .filter(|(node, _)| !facts.nodes.is_empty() && !facts.nodes.contains_key(*node));
    let checks = absent.map(|(node, fields)| {
        let words = format!(
            "{}: {node:?} is not a node of the cluster ({there}): correct the name in defaults.node or node",
            fields.join(", ")
        );
        Check::new(format!("node {node}"), Outcome::Fail, words).blocks(fields)
    });
    checks.collect()
}

/// Whether the token sees nothing at this path; `None` where that is not known.
fn hidden(facts: &Facts, path: &str, rights: &[&str]) -> bool {
    match &facts.permissions {
        None => false,
        Some(Err(_)) => true,
        Some(Ok(permissions)) => !rights.iter().any(|right| holds(permissions, path, right)),
    }
}

/// Each storage on each node: there, enabled, available, for its content, with room.
pub fn storages(spec: &PhoenixHypervisorSpec, uses: &Uses, facts: &Facts) -> Vec<Check> {
    let mut checks = absent_nodes(spec, uses, facts);
    let mut meant: BTreeMap<(&String, &str), (&NodeFacts, Vec<&Named>)> = BTreeMap::new();
    for (place, named) in &uses.storages {
        for (node, of) in nodes(spec, facts, place) {
            let entry = meant.entry((node, &named.storage)).or_insert_with(|| (of, Vec::new()));
            entry.1.push(named);
        }
    }
    for ((node, storage), (of, named)) in meant {
        let name = format!("storage {storage} on {node}");
        let mut fields: Vec<String> = named.iter().map(|named| named.field.clone()).collect();
        fields.dedup();
        let told = fields.join(", ");
        let check = match &of.storages {
            Err(why) => Check::new(name, Outcome::Unknown, format!("it was not read: {why}")),
            Ok(list) => match list.get(storage) {
                Some(found) => storage_check(name, (node, storage), found, &named),
                None if hidden(
                    facts,
                    &format!("/storage/{storage}"),
                    &["Datastore.Audit", "Datastore.AllocateSpace"],
                ) =>
                {
                    let words = format!(
                        "{told}: Proxmox shows the token no storage {storage:?} on node {node}, and hides what it has no right on: correct the name, or grant Datastore.Audit on /storage/{storage}"
                    );
                    Check::new(name, Outcome::Unknown, words)
                }
                None => {
                    let there = Vec::from_iter(list.keys().map(String::as_str)).join(", ");
                    let words = format!(
                        "{told}: node {node} has no storage {storage:?} (there are {there}): correct the name, or add it there"
                    );
                    Check::new(name, Outcome::Fail, words).fixed_by("pvesm status")
                }
            },
        };
        checks.push(if check.outcome == Outcome::Ok {
            check
        } else {
            check.blocks(fields)
        });
    }
    checks
}

fn storage_check(name: String, (node, storage): (&String, &str), found: &StorageFacts, named: &[&Named]) -> Check {
    if !found.enabled {
        let fields = Vec::from_iter(named.iter().map(|n| n.field.as_str())).join(", ");
        let words = format!("{fields}: storage {storage:?} is disabled: enable it, or name another");
        return Check::new(name, Outcome::Fail, words).fixed_by(format!("pvesm set {storage} --disable 0"));
    }
    let lacks = named
        .iter()
        .find(|n| !n.contents.iter().any(|c| found.content.iter().any(|has| has == c)));
    if let Some(lacks) = lacks {
        let mut wanted = found.content.clone();
        wanted.extend(lacks.contents.first().map(ToString::to_string));
        wanted.sort();
        let words = format!(
            "{}: storage {storage:?} on node {node} is not for content {} (it has {}): add it, or name another",
            lacks.field,
            lacks.contents.join(" or "),
            found.content.join(", ")
        );
        let fix = format!("pvesm set {storage} --content {}", wanted.join(","));
        return Check::new(name, Outcome::Fail, words).fixed_by(fix);
    }
    if !found.active {
        let words = format!("storage {storage:?} is not available on node {node}: see there why, or name another");
        return Check::new(name, Outcome::Fail, words).fixed_by(format!("pvesm status --storage {storage}"));
    }
    let (Some(free), Some(total)) = (found.free, found.total.filter(|total| *total > 0)) else {
        let words = "it is there and for its content; Proxmox does not tell how much is free";
        return Check::new(name, Outcome::Unknown, words);
    };
    let share = free as f64 / total as f64 * 100.0;
    let words = format!("{} GiB of {} GiB free ({share:.0} %)", free / GIB, total / GIB);
    let keeps = named.iter().any(|n| n.keeps);
    match share {
        ..2.0 if keeps => Check::new(
            name,
            Outcome::Fail,
            format!("storage {storage:?} on node {node} is full: {words}: make room"),
        ),
        ..10.0 => Check::new(
            name,
            Outcome::Warn,
            format!("storage {storage:?} on node {node} is nearly full: {words}: make room"),
        ),
        _ => Check::new(name, Outcome::Ok, words),
    }
}

/// Each bridge on each node.
pub fn bridges(spec: &PhoenixHypervisorSpec, uses: &Uses, facts: &Facts) -> Vec<Check> {
    let mut meant: BTreeMap<(&String, &str), (&NodeFacts, Vec<String>)> = BTreeMap::new();
    for (place, field, bridge) in &uses.bridges {
        for (node, of) in nodes(spec, facts, place) {
            let entry = meant.entry((node, bridge)).or_insert_with(|| (of, Vec::new()));
            entry.1.push(field.clone());
        }
    }
    let checks = meant.into_iter().map(|((node, bridge), (of, fields))| {
        let name = format!("bridge {bridge} on {node}");
        let told = fields.join(", ");
        let path = format!("/sdn/zones/localnetwork/{bridge}");
        match &of.bridges {
            Err(why) => Check::new(name, Outcome::Unknown, format!("it was not read: {why}")).blocks(fields),
            Ok(list) if list.contains(bridge) => Check::new(name, Outcome::Ok, "there"),
            Ok(_) if hidden(facts, &path, &["SDN.Use", "SDN.Audit"]) => {
                let words = format!(
                    "{told}: Proxmox shows the token no bridge {bridge:?} on node {node}, and hides what it has no right on: correct the name, or grant SDN.Use on {path}"
                );
                Check::new(name, Outcome::Unknown, words).blocks(fields)
            }
            Ok(list) => {
                let there = Vec::from_iter(list.iter().map(String::as_str)).join(", ");
                let words = format!(
                    "{told}: node {node} has no bridge {bridge:?} (there are {there}): correct the name, or add it in Node > Network"
                );
                Check::new(name, Outcome::Fail, words).blocks(fields)
            }
        }
    });
    checks.collect()
}

/// Each image on each node: there, or where it is downloaded, in the appliance index.
pub fn images(spec: &PhoenixHypervisorSpec, uses: &Uses, facts: &Facts) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for image in &uses.images {
        for (node, of) in nodes(spec, facts, &image.node) {
            let check = one_image(image, node, of, facts);
            // Several objects that name one image are told of in one check.
            match checks
                .iter_mut()
                .find(|known| known.name == check.name && known.outcome == check.outcome)
            {
                Some(known) => known.blocks.extend(check.blocks),
                None => checks.push(check),
            }
        }
    }
    checks
}

fn one_image(image: &Image, node: &String, of: &NodeFacts, facts: &Facts) -> Check {
    let Image {
        field,
        storage,
        name: file,
        ..
    } = image;
    let title = format!("image {file} on {node}");
    let unknown = |words: String| Check::new(title.clone(), Outcome::Unknown, words).blocks([field.clone()]);
    let there = |names: &[String]| match image.content == "vztmpl" && images::is_open(file) {
        true => images::newest(file, names).is_some(),
        false => names.iter().any(|name| name == file),
    };
    let files: BTreeSet<&String> = match storage.as_ref().and_then(|storage| of.files.get(storage)) {
        Some(Err(why)) => {
            return unknown(format!(
                "{field}: the files of storage {storage:?} were not read: {why}"
            ));
        }
        Some(Ok(files)) => files.iter().collect(),
        None => {
            let why = of.storages.as_ref().err().map_or("no storage is named", String::as_str);
            return unknown(format!("{field}: what is on its storage was not read: {why}"));
        }
    };
    let names: Vec<String> = files
        .iter()
        .filter_map(|volid| Some(volid.split_once('/')?.1.to_string()))
        .collect();
    let readable = storage.as_ref().is_some_and(|storage| {
        !hidden(
            facts,
            &format!("/storage/{storage}"),
            &["Datastore.Audit", "Datastore.AllocateSpace"],
        )
    });
    match (there(&names), &of.appliances) {
        // What was put there by hand is in no index; what has an appliance's name was there once.
        (true, Ok(index)) if image.content == "vztmpl" && gone(file, index) => {
            let near = images::near(file, index).join(" or ");
            let words = format!(
                "{field}: {file:?} is on its storage, but the appliance index of node {node} does not list it any more: it cannot be downloaded again; name {near}, or keep the file"
            );
            Check::new(title, Outcome::Warn, words).blocks([field.clone()])
        }
        (true, _) => Check::new(title, Outcome::Ok, "on its storage"),
        (false, _) if !readable => unknown(format!(
            "{field}: Proxmox shows the token no files of its storage: grant Datastore.Audit there"
        )),
        (false, Err(why)) if image.downloaded => unknown(format!("{field}: the appliance index was not read: {why}")),
        (false, Ok(index)) if image.downloaded && there(index) => {
            Check::new(title, Outcome::Ok, "not on its storage yet, and in the appliance index")
        }
        (false, index) => {
            let index = index.as_deref().unwrap_or_default();
            let near = images::near(file, index.iter().chain(&names)).join(" or ");
            let fix = match near.as_str() {
                "" => "run `pveam update` on the node, or correct the name".to_string(),
                near => format!("name {near}"),
            };
            let also = if image.downloaded {
                ", and the appliance index does not list it"
            } else {
                ""
            };
            let words = format!("{field}: {file:?} is not on its storage on node {node}{also}: {fix}");
            Check::new(title, Outcome::Fail, words)
                .blocks([field.clone()])
                .fixed_by("pveam update")
        }
    }
}

/// Whether an index that has other versions of this appliance lists this one no more.
fn gone(file: &str, index: &[String]) -> bool {
    let other = index.iter().any(|name| images::package(name) == images::package(file));
    other && !images::is_open(file) && !index.iter().any(|name| name == file)
}
