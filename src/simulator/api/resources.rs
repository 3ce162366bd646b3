//! `GET /cluster/resources` (facts C): existence, lock, tags and pool are live; name, status and figures are what the
//! status daemon last told.

use serde_json::{Map, Value, json};

use super::call::{Answer, Call};
use crate::simulator::model::{Caller, Guest, State};

/// The row of a guest.
pub fn guest_row(state: &State, guest: &Guest) -> Map<String, Value> {
    let kind = guest.kind.word();
    let mut row = Map::new();
    row.insert("id".to_owned(), json!(format!("{kind}/{}", guest.vmid)));
    row.insert("type".to_owned(), json!(kind));
    row.insert("vmid".to_owned(), json!(guest.vmid));
    row.insert("node".to_owned(), json!(guest.node));
    match &guest.broadcast {
        None => {
            row.insert("status".to_owned(), json!("unknown"));
        }
        Some(told) => {
            let uptime = told
                .since
                .map_or(0, |since| state.last_broadcast.saturating_sub(since) / 1000);
            let running = told.since.is_some();
            row.insert("name".to_owned(), json!(told.name));
            row.insert("status".to_owned(), json!(told.status));
            row.insert("template".to_owned(), json!(u8::from(told.template)));
            row.insert("uptime".to_owned(), json!(uptime));
            row.insert("maxcpu".to_owned(), json!(told.maxcpu));
            row.insert("maxmem".to_owned(), json!(told.maxmem));
            row.insert("maxdisk".to_owned(), json!(told.maxdisk));
            row.insert("mem".to_owned(), json!(if running { told.maxmem / 8 } else { 0 }));
            for key in ["cpu", "disk", "netin", "netout", "diskread", "diskwrite"] {
                row.insert(key.to_owned(), json!(0));
            }
            if state.release.major() >= 9 {
                row.insert("memhost".to_owned(), json!(0));
            }
        }
    }
    for key in ["tags", "lock"] {
        if let Some(text) = guest.config().current.get(key) {
            row.insert(key.to_owned(), json!(text));
        }
    }
    row
}

fn guests(state: &State, caller: &Caller, rows: &mut Vec<Value>) {
    for guest in state.guests.values() {
        if !state.may(caller, &format!("/vms/{}", guest.vmid), &["VM.Audit"]) {
            continue;
        }
        let mut row = guest_row(state, guest);
        let pool = state.pools.iter().find(|(_, pool)| pool.vms.contains(&guest.vmid));
        if let Some((name, _)) = pool.filter(|(name, _)| state.may(caller, &format!("/pool/{name}"), &["Pool.Audit"])) {
            row.insert("pool".to_owned(), json!(name));
        }
        rows.push(Value::Object(row));
    }
}

fn nodes(state: &State, caller: &Caller, rows: &mut Vec<Value>) {
    for (name, node) in &state.nodes {
        let mut row = json!({
            "id": format!("node/{name}"),
            "type": "node",
            "node": name,
            "status": if node.online { "online" } else { "offline" },
            "level": "",
            "cgroup-mode": node.cgroup_mode,
        });
        if node.online && state.may(caller, &format!("/nodes/{name}"), &["Sys.Audit"]) {
            row["cpu"] = json!(0.01);
            row["maxcpu"] = json!(node.cpus);
            row["mem"] = json!(node.memory / 10);
            row["maxmem"] = json!(node.memory);
            row["disk"] = json!(32_u64 << 30);
            row["maxdisk"] = json!(270_553_174_016_u64);
            row["uptime"] = json!(state.now.saturating_sub(node.booted_at) / 1000);
        }
        rows.push(row);
    }
}

/// The row of a storage on a node.
pub fn storage_row(state: &State, node: &str, id: &str) -> Option<Value> {
    let storage = state.storages.get(id)?;
    let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
    let online = state.nodes.get(node).is_some_and(|found| found.online);
    let there = online && storage.active && !storage.disabled;
    let mut row = json!({
        "id": format!("storage/{node}/{id}"),
        "type": "storage",
        "storage": id,
        "node": node,
        "status": if there { "available" } else { "unknown" },
        "plugintype": storage.kind.word(),
        "shared": u8::from(storage.shared),
        "content": content.join(","),
    });
    if there {
        row["disk"] = json!(storage.used(node));
        row["maxdisk"] = json!(storage.total);
    }
    Some(row)
}

fn storages(state: &State, caller: &Caller, rows: &mut Vec<Value>) {
    for (id, storage) in &state.storages {
        if storage.disabled || !state.may_any(caller, &format!("/storage/{id}"), &["Datastore.Audit"]) {
            continue;
        }
        let on = state.nodes.keys().filter(|node| storage.is_on(node));
        rows.extend(on.filter_map(|node| storage_row(state, node, id)));
    }
}

fn networks(state: &State, caller: &Caller, rows: &mut Vec<Value>) {
    if !state.may(caller, "/sdn/zones/localnetwork", &["SDN.Audit"]) || state.release.major() < 9 {
        return;
    }
    for node in state.nodes.keys() {
        rows.push(json!({
            "id": format!("network/{node}/zone/localnetwork"),
            "type": "network",
            "network": "localnetwork",
            "network-type": "zone",
            "node": node,
            "status": "ok",
        }));
    }
}

/// `GET /cluster/resources`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let caller = &call.caller;
    let wanted = call.params.get("type");
    let want = |kind: &str| wanted.as_deref().is_none_or(|wanted| wanted == kind);
    let mut rows = Vec::new();
    if wanted.is_none() {
        for name in state.pools.keys() {
            if state.may(caller, &format!("/pool/{name}"), &["Pool.Audit"]) {
                rows.push(json!({ "id": format!("/pool/{name}"), "type": "pool", "pool": name }));
            }
        }
    }
    if want("vm") {
        guests(state, caller, &mut rows);
    }
    if want("node") {
        nodes(state, caller, &mut rows);
    }
    if want("storage") {
        storages(state, caller, &mut rows);
    }
    if wanted.is_none() {
        networks(state, caller, &mut rows);
    }
    Ok(rows.into())
}

/// Members of a pool: all of them, whatever rights the caller has on each.
pub fn pool_members(state: &State, pool: &str, kind: Option<&str>) -> Vec<Value> {
    let Some(found) = state.pools.get(pool) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for guest in found.vms.iter().filter_map(|vmid| state.guests.get(vmid)) {
        if kind.is_none_or(|kind| kind == guest.kind.word()) {
            let mut row = guest_row(state, guest);
            row.retain(|key, _| key != "tags" && key != "lock");
            rows.push(Value::Object(row));
        }
    }
    for id in found
        .storages
        .iter()
        .filter(|_| kind.is_none_or(|kind| kind == "storage"))
    {
        let on = |node: &&String| state.storages.get(id).is_some_and(|storage| storage.is_on(node));
        let node = state.nodes.keys().find(on);
        rows.extend(node.and_then(|node| storage_row(state, node, id)));
    }
    rows
}
