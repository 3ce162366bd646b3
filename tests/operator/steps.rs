//! A life of a small fleet: what users ask for step after step, its end, and what holds at every end.

use std::collections::BTreeMap;
use std::time::Duration;

use phoenix::desired::Stamp;
use serde_json::{Value, json};

use crate::operated::{Site, is_ready, lxc, template_of};

/// What users ask for, one step after the other.
pub const STEPS: &[fn(&Site)] = &[
    |site| {
        site.connect();
        site.apply(template_of("base", "Snapshot"));
        site.apply(lxc(
            "a",
            0,
            json!({"volumes": [{"name": "data", "mountPath": "/data", "size": "4Gi"}]}),
        ));
        site.apply(lxc("b", 1, from_template()));
        site.apply(lxc("c", 2, from_template()));
    },
    |site| {
        let volumes = json!([{"name": "data", "mountPath": "/data", "size": "6Gi"}]);
        site.apply(lxc("a", 0, json!({"volumes": volumes, "memory": "1Gi"})));
        site.apply(lxc("b", 1, with(from_template(), "powerState", json!("Stopped"))));
    },
    |site| {
        site.server.delete("PhoenixLXC", "ai", "c");
        site.apply(lxc("d", 3, from_template()));
        site.apply(lxc("b", 1, with(from_template(), "tags", json!(["late"]))));
    },
];

fn from_template() -> Value {
    json!({"source": {"templateRef": {"name": "base"}}})
}

fn with(mut fields: Value, key: &str, value: Value) -> Value {
    fields[key] = value;
    fields
}

/// Whether everything is as it was asked for last.
pub fn at_rest(site: &Site) -> bool {
    site.all_ready()
        && site.server.get("PhoenixLXC", "ai", "c").is_none()
        && site.server.get("PhoenixLXC", "ai", "d").is_some()
}

/// The end of a life in calm weather.
pub async fn calm() -> String {
    let site = Site::new();
    let _operator = site.operator("one");
    for (number, step) in STEPS.iter().enumerate() {
        step(&site);
        let ready = |site: &Site| if number == 2 { at_rest(site) } else { site.all_ready() };
        site.until("it is at rest", ready).await;
    }
    tokio::time::sleep(Duration::from_secs(700)).await;
    end(&site)
}

/// Guests by the object of their stamp, with what matters of their configurations.
fn stamped(site: &Site) -> Vec<(String, u32, BTreeMap<String, String>)> {
    site.sim.with(|state| {
        let guests = state.guests.iter().filter_map(|(vmid, guest)| {
            let mut options = guest.config().current.options.clone();
            let stamp = options.get("description").and_then(|text| Stamp::find(text));
            // A copy that somebody made is nobody's.
            if stamp.as_ref().is_some_and(|stamp| stamp.vmid.get() != *vmid) {
                return None;
            }
            let name = stamp.map_or_else(|| format!("a stranger {vmid}"), |s| format!("{} {}", s.kind, s.name));
            // On which node one is made depends on where its first guest is.
            let owner = name.starts_with("VolumeOwner");
            for (key, value) in &mut options {
                // A volume that grows through its owner keeps its old size in the text of its consumer.
                if key.starts_with("mp") && !owner {
                    *value = value.split(",size=").next().unwrap_or_default().into();
                }
                if key.starts_with("net") {
                    let kept: Vec<&str> = value.split(',').filter(|part| !part.starts_with("hwaddr=")).collect();
                    *value = kept.join(",");
                }
                *value = value.replace(&vmid.to_string(), "VMID");
                // Objects that are restored have other uids than those whose guests were made.
                let varies = |word: &str| word.starts_with("uid=") || (owner && word.starts_with("name="));
                if key == "description" {
                    *value = value
                        .split(' ')
                        .filter(|word| !varies(word))
                        .collect::<Vec<_>>()
                        .join(" ");
                }
            }
            options.insert("running".into(), guest.running.is_some().to_string());
            let snapshots: Vec<&String> = guest.config().snapshots.keys().collect();
            options.insert("snapshots".into(), format!("{snapshots:?}"));
            Some((name, *vmid, options))
        });
        guests.collect()
    })
}

/// How a life ended.
pub fn end(site: &Site) -> String {
    let unplaced = |name: String| {
        if name.starts_with("VolumeOwner") {
            "VolumeOwner".into()
        } else {
            name
        }
    };
    let mut guests: Vec<(String, _)> = stamped(site)
        .into_iter()
        .map(|(name, _, options)| (unplaced(name), options))
        .collect();
    guests.sort();
    format!("{guests:#?}")
}

/// What holds at the end of every life.
pub fn invariants(site: &Site) -> Result<(), String> {
    let guests = stamped(site);
    let mut of: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, vmid, _) in &guests {
        if let Some(other) = of.insert(name, *vmid) {
            return Err(format!("{name} has two guests: {other} and {vmid}"));
        }
    }
    for object in site.guests() {
        let name = format!(
            "{} {}",
            object["kind"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap()
        );
        let vmid = of.get(name.as_str()).copied();
        if object["status"]["vmid"].as_u64() != vmid.map(u64::from) {
            return Err(format!(
                "the status of {name} names {}, its guest is {vmid:?}",
                object["status"]["vmid"]
            ));
        }
        if !is_ready(&object) {
            return Err(format!("{name} was Ready and is not any more"));
        }
    }
    // A guest that is destroyed and made anew would not show at the end.
    let sent = site.sent.lock().unwrap();
    if let Some(wrong) = sent.destroyed.iter().find(|name| *name != "PhoenixLXC c") {
        return Err(format!("{wrong} was destroyed"));
    }
    drop(sent);
    let mut held = site.guests();
    held.extend(site.server.all("PhoenixHypervisor"));
    held.extend(site.server.all("Secret"));
    match held
        .iter()
        .find(|object| object["metadata"]["finalizers"] != json!(["phoenix-hypervisor.io/finalizer"]))
    {
        Some(object) => Err(format!(
            "finalizers of {}: {}",
            object["metadata"]["name"], object["metadata"]["finalizers"]
        )),
        None => Ok(()),
    }
}

/// Lines of a text that another one has not.
pub fn only_in<'t>(text: &'t str, other: &str) -> Vec<&'t str> {
    text.lines().filter(|line| !other.lines().any(|l| l == *line)).collect()
}
