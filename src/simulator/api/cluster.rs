//! `/cluster` (facts C).

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::property::{self, split_list};
use crate::simulator::model::{ApiError, State};

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
        if !everything && !["console", "tag-style", "user-tag-access"].contains(&key.as_str()) {
            continue;
        }
        let value = if STRUCTURED.contains(&key.as_str()) {
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
    object.insert("allowed-tags".to_owned(), json!(allowed_tags(state)));
    Ok(Value::Object(object).into())
}

fn structured(text: &str) -> Value {
    let parts = property::parse(text, "type");
    let value = |key: &str, text: &String| match key {
        "user-allow-list" => json!(split_list(text)),
        _ => json!(text),
    };
    parts
        .iter()
        .map(|(key, text)| (key.clone(), value(key, text)))
        .collect::<Map<_, _>>()
        .into()
}

fn allowed_tags(state: &State) -> Vec<String> {
    let access = state
        .options
        .get("user-tag-access")
        .map(|text| property::parse(text, ""))
        .unwrap_or_default();
    let mut tags = access
        .get("user-allow-list")
        .map(|text| split_list(text))
        .unwrap_or_default();
    tags.extend(
        state
            .options
            .get("registered-tags")
            .map(|text| split_list(text))
            .unwrap_or_default(),
    );
    if matches!(
        access.get("user-allow").map(String::as_str),
        None | Some("free" | "existing")
    ) {
        let used = state
            .guests
            .values()
            .filter_map(|guest| guest.config().current.get("tags"));
        tags.extend(used.flat_map(split_list));
    }
    tags.sort();
    tags.dedup();
    tags
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
    for (key, mut value) in set {
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

/// `GET /cluster/log`: the ends of tasks, latest first.
pub fn log(state: &mut State, call: &Call) -> Answer {
    let most = call.params.int("max").unwrap_or(50) as usize;
    let everything = state.may(&call.caller, "/", &["Sys.Syslog"]);
    let ended = state.tasks.values().rev().filter(|task| task.exitstatus.is_some());
    let rows: Vec<Value> = ended
        .filter(|task| everything || task.owner() == call.caller.user())
        .take(most)
        .map(|task| {
            let exit = task.exitstatus.as_deref().unwrap_or_default();
            json!({
                "uid": task.seq.to_string(), "id": format!("{}:{}", task.seq, task.node), "node": task.node,
                "pid": task.pid, "pri": 6, "tag": "pvedaemon", "user": task.user,
                "time": task.ended_at.unwrap_or_default() / 1000, "msg": format!("end task {} {exit}", task.upid),
            })
        })
        .collect();
    Ok(rows.into())
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
