//! `/cluster` (facts C).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::property::{self, split_list};
use crate::simulator::model::task::Task;
use crate::simulator::model::{ApiError, Caller, Guest, State};

/// Options whose values are property strings and come back taken apart.
const STRUCTURED: &[&str] = &[
    "bwlimit",
    "crs",
    "ha",
    "migration",
    "next-id",
    "notify",
    "replication",
    "tag-style",
    "u2f",
    "user-tag-access",
    "webauthn",
];

/// `GET /cluster/nextid`: reserves nothing.
pub fn next_id(state: &mut State, call: &Call) -> Answer {
    if let Some(vmid) = call.params.int("vmid") {
        if u32::try_from(vmid).is_ok_and(|vmid| state.exists(vmid)) {
            return Err(ApiError::param("vmid", format!("VM {vmid} already exists")));
        }
        return Ok(vmid.to_string().into());
    }
    let range = state
        .options
        .get("next-id")
        .map(|text| property::parse(text, ""))
        .unwrap_or_default();
    let bound = |key: &str, default: u32| range.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (lower, upper) = (bound("lower", 100), bound("upper", 1_000_000));
    match (lower..upper).find(|vmid| !state.exists(*vmid)) {
        Some(vmid) => Ok(vmid.to_string().into()),
        None => Err(ApiError::die(format!(
            "unable to get any free VMID in range [{lower}, {upper}]"
        ))),
    }
}

/// `GET /cluster/status`.
pub fn status(state: &mut State, call: &Call) -> Answer {
    let _ = call;
    let mut rows = Vec::new();
    if let Some(name) = &state.cluster {
        rows.push(json!({
            "id": "cluster", "type": "cluster", "name": name, "nodes": state.nodes.len(),
            "quorate": u8::from(state.quorate), "version": 1,
        }));
    }
    let clustered = state.cluster.is_some();
    for (at, (name, node)) in state.nodes.iter().enumerate() {
        rows.push(json!({
            "id": format!("node/{name}"), "type": "node", "name": name, "ip": node.ip, "level": "",
            "nodeid": if clustered { at + 1 } else { 0 }, "online": u8::from(node.online),
            "local": u8::from(at == 0),
        }));
    }
    Ok(rows.into())
}

/// `GET /cluster/options`.
pub fn options(state: &mut State, call: &Call) -> Answer {
    let everything = state.may(&call.caller, "/", &["Sys.Audit"]);
    let mut object = Map::new();
    for (key, text) in &state.options {
        if !everything && !["console", "tag-style"].contains(&key.as_str()) {
            continue;
        }
        let value = if key == "registered-tags" {
            json!(semicolons(text))
        } else if STRUCTURED.contains(&key.as_str()) {
            structured(text)
        } else {
            json!(text)
        };
        object.insert(key.clone(), value);
    }
    if everything {
        object.entry("mac_prefix").or_insert_with(|| json!("BC:24:11"));
        object.entry("description").or_insert_with(|| json!(""));
    }
    object.insert("allowed-tags".to_owned(), json!(allowed_tags(state, &call.caller)));
    Ok(Value::Object(object).into())
}

fn structured(text: &str) -> Value {
    let parts = property::parse(text, "type");
    let value = |key: &str, text: &String| match key {
        "user-allow-list" => json!(semicolons(text)),
        _ => json!(text),
    };
    parts
        .iter()
        .map(|(key, text)| (key.clone(), value(key, text)))
        .collect::<Map<_, _>>()
        .into()
}

fn semicolons(text: &str) -> Vec<&str> {
    text.split(';').filter(|part| !part.is_empty()).collect()
}

/// Tags that the caller may give: for those who manage the cluster all that exist or are registered, for others what
/// the options allow, but no registered one.
fn allowed_tags(state: &State, caller: &Caller) -> BTreeSet<String> {
    let manages = state.may(caller, "/", &["Sys.Modify"]);
    let access = state
        .options
        .get("user-tag-access")
        .map(|text| property::parse(text, ""));
    let access = access.unwrap_or_default();
    let allow = access.get("user-allow").map_or("free", String::as_str);
    let owned = |text: &String| semicolons(text).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mut tags = BTreeSet::new();
    if allow != "none" || manages {
        tags.extend(access.get("user-allow-list").map(owned).unwrap_or_default());
    }
    if matches!(allow, "free" | "existing") || manages {
        let seen = |guest: &&Guest| manages || state.may(caller, &format!("/vms/{}", guest.vmid), &["VM.Audit"]);
        let used = state.guests.values().filter(seen);
        tags.extend(
            used.filter_map(|guest| guest.config().current.get("tags"))
                .flat_map(split_list),
        );
    }
    let registered = state.options.get("registered-tags").map(owned).unwrap_or_default();
    if manages {
        tags.extend(registered);
    } else {
        tags.retain(|tag| !registered.contains(tag));
    }
    tags
}

/// Options as Proxmox writes them again when it changes others: lists of tags get sorted.
fn rewritten(options: &mut BTreeMap<String, String>) {
    let sorted = |text: &str| {
        let mut parts = semicolons(text);
        parts.sort_unstable();
        parts.join(";")
    };
    if let Some(tags) = options.get_mut("registered-tags") {
        *tags = sorted(tags);
    }
    if let Some(access) = options.get_mut("user-tag-access") {
        let mut parts = property::parse(access, "");
        if let Some(list) = parts.get_mut("user-allow-list") {
            *list = sorted(list);
            *access = property::print(&parts, "", &[]);
        }
    }
}

/// `PUT /cluster/options`.
pub fn set_options(state: &mut State, call: &Call) -> Answer {
    state.check_writable()?;
    let set = call.params.options(|key| key != "delete");
    if let Some(range) = set.get("next-id") {
        let parts = property::parse(range, "");
        let bound = |key: &str, default: u64| parts.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
        let (lower, upper) = (bound("lower", 100), bound("upper", 1_000_000));
        if lower > upper {
            return Err(ApiError::die(format!(
                "lower ({lower}) <= upper ({upper}) boundary rule broken"
            )));
        }
    }
    rewritten(&mut state.options);
    for (key, mut value) in set {
        if key == "console" && value == "applet" {
            "html5".clone_into(&mut value);
        }
        if key == "description" && !value.is_empty() && !value.ends_with('\n') {
            value.push('\n');
        }
        state.options.insert(key, value);
    }
    for key in call.params.list("delete") {
        state.options.remove(&key);
    }
    Ok(Reply::NULL)
}

/// `GET /cluster/log`: starts and ends of tasks, latest first.
pub fn log(state: &mut State, call: &Call) -> Answer {
    let most = call.params.int("max").unwrap_or(50) as usize;
    let everything = state.may(&call.caller, "/", &["Sys.Syslog"]);
    let visible = |task: &&Task| everything || task.owner() == call.caller.user();
    let mut lines: Vec<(u64, u64, &Task, String)> = Vec::new();
    for task in state.tasks.values().filter(visible) {
        lines.push((
            task.started_at,
            task.seq * 2,
            task,
            format!("starting task {}", task.upid),
        ));
        if let (Some(exit), Some(at)) = (&task.exitstatus, task.ended_at) {
            lines.push((at, task.seq * 2 + 1, task, format!("end task {} {exit}", task.upid)));
        }
    }
    lines.sort_by_key(|(at, number, ..)| std::cmp::Reverse((*at, *number)));
    let row = |(at, number, task, text): (u64, u64, &Task, String)| {
        json!({
            "uid": number.to_string(), "id": format!("{number}:{}", task.node), "node": task.node, "pid": task.pid,
            "pri": 6, "tag": "pvedaemon", "user": task.user, "time": at / 1000, "msg": text,
        })
    };
    Ok(lines.into_iter().take(most).map(row).collect::<Vec<_>>().into())
}

/// `GET /cluster/config/join` of a node that is in no cluster.
pub fn join_info(state: &mut State, _call: &Call) -> Answer {
    if state.cluster.is_some() {
        return Err(super::call::not_simulated("GET", "/cluster/config/join"));
    }
    let message = "node is not in a cluster, no join info available!".to_owned();
    Err(ApiError {
        status: 424,
        message,
        errors: None,
        wait_for: None,
    })
}

/// Ceph is not installed.
pub fn no_ceph(_state: &mut State, _call: &Call) -> Answer {
    Err(ApiError::die("binary not installed: /usr/bin/ceph-mon"))
}

/// A configuration that is empty.
pub fn empty_object(_state: &mut State, _call: &Call) -> Answer {
    Ok(json!({}).into())
}

/// A list without members.
pub fn empty_list(_state: &mut State, _call: &Call) -> Answer {
    Ok(json!([]).into())
}
