//! `/nodes/{node}/lxc`.

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply, not_simulated};
use crate::simulator::model::config::Section;
use crate::simulator::model::lxc_clone::CloneRequest;
use crate::simulator::model::lxc_config::{Change, with_pending};
use crate::simulator::model::lxc_create::CreateRequest;
use crate::simulator::model::lxc_destroy::DestroyRequest;
use crate::simulator::model::lxc_options::{all_mounts, index_of, is_option};
use crate::simulator::model::lxc_volume::MoveRequest;
use crate::simulator::model::property;
use crate::simulator::model::vm_boot::link_local;
use crate::simulator::model::{ApiError, Guest, GuestKind, State};
use crate::simulator::schema;

/// An option as it appears in answers: numbers where the description says so.
pub fn option_value(kind: &str, key: &str, text: &str) -> Value {
    let number = schema::is_integer_option(kind, key) || matches!(key, "template" | "unprivileged" | "snaptime");
    match text.parse::<i64>() {
        Ok(value) if number => json!(value),
        _ => json!(text),
    }
}

pub(super) fn section_json(section: &Section) -> Map<String, Value> {
    let mut object: Map<String, Value> = section
        .options
        .iter()
        .map(|(key, text)| (key.clone(), option_value("lxc", key, text)))
        .collect();
    if !section.lxc.is_empty() {
        object.insert("lxc".to_owned(), json!(section.lxc));
    }
    object
}

/// `GET /nodes/{node}/lxc`: live values of the guests that the caller may see.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let node = call.params.node();
    let rows: Vec<Value> = state
        .guests
        .values()
        .filter(|guest| guest.node == node && guest.kind == GuestKind::Lxc)
        .filter(|guest| state.may(&call.caller, &format!("/vms/{}", guest.vmid), &["VM.Audit"]))
        .map(|guest| Value::Object(row(state, guest)))
        .collect();
    Ok(rows.into())
}

fn row(state: &State, guest: &Guest) -> Map<String, Value> {
    let now = state.status_of(guest);
    let conf = &guest.config().current;
    let swap = conf.get("swap").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) << 20;
    let mut row = json!({
        "vmid": guest.vmid,
        "type": "lxc",
        "name": now.name,
        "status": now.status,
        "cpus": now.maxcpu,
        "cpu": 0,
        "mem": 0,
        "maxmem": now.maxmem,
        "swap": 0,
        "maxswap": swap,
        "disk": 0,
        "maxdisk": now.maxdisk,
        "netin": 0,
        "netout": 0,
        "diskread": 0,
        "diskwrite": 0,
        "uptime": 0,
    });
    if let Some(running) = &guest.running {
        row["pid"] = json!(running.pid);
        row["uptime"] = json!(state.now.saturating_sub(running.since) / 1000);
        row["mem"] = json!(now.maxmem / 8);
        let rootfs = all_mounts(conf).into_iter().next();
        let used = rootfs.and_then(|(_, mount)| state.volume(&guest.node, mount.volume()).map(|volume| volume.used));
        row["disk"] = json!(used.unwrap_or_default());
        for kind in ["cpu", "io", "memory"] {
            for share in ["some", "full"] {
                row[format!("pressure{kind}{share}")] = Value::Null;
            }
        }
    }
    for key in ["tags", "lock"] {
        if let Some(text) = conf.get(key) {
            row[key] = json!(text);
        }
    }
    if guest.is_template() {
        row["template"] = json!(1);
    }
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

/// `POST /nodes/{node}/lxc`.
pub fn create(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = CreateRequest {
        vmid: params.vmid(),
        ostemplate: params.text("ostemplate"),
        storage: params.get("storage"),
        pool: params.get("pool"),
        start: params.flag("start"),
        restore: params.flag("restore"),
        force: params.flag("force"),
        unique: params.flag("unique"),
        bwlimit: params.int("bwlimit").unwrap_or_default(),
        ssh_keys: params.get("ssh-public-keys"),
        options: params.options(is_option),
    };
    Ok(state.create_ct(&call.caller, &params.node(), request)?.into())
}

/// `DELETE /nodes/{node}/lxc/{vmid}`.
pub fn destroy(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = DestroyRequest {
        force: params.flag("force"),
        purge: params.flag("purge"),
        unreferenced: params.flag("destroy-unreferenced-disks"),
    };
    Ok(state
        .destroy_ct(&call.caller, &params.node(), params.vmid(), request)?
        .into())
}

/// `GET …/config`.
pub fn config(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let guest = state.ct(&params.node(), params.vmid())?;
    let section = match params.get("snapshot") {
        Some(_) if params.flag("current") => {
            let text = "cannot use 'snapshot' parameter with 'current'".to_owned();
            return Err(ApiError::params([
                ("snapshot".to_owned(), text.clone()),
                ("current".to_owned(), text),
            ]));
        }
        Some(name) => state.ct_snapshot(&params.node(), params.vmid(), &name)?.clone(),
        None if params.flag("current") => guest.config().current.clone(),
        None => with_pending(guest.config()),
    };
    let mut object = section_json(&section);
    object.insert("digest".to_owned(), json!(guest.digest()));
    if !state.may(&call.caller, &format!("/vms/{}", guest.vmid), &["VM.Config.Options"]) {
        // Environment variables may hold secrets (facts D.3).
        object.remove("env");
    }
    Ok(Value::Object(object).into())
}

/// `GET …/pending`.
pub fn pending(state: &mut State, call: &Call) -> Answer {
    let guest = state.ct(&call.params.node(), call.params.vmid())?;
    let config = guest.config();
    let value = |key: &str, text: &str| option_value("lxc", key, text);
    let mut rows: Vec<Value> = Vec::new();
    for (key, text) in &config.current.options {
        let mut row = json!({ "key": key, "value": value(key, text) });
        if let Some(next) = config.pending.get(key) {
            row["pending"] = value(key, next);
        }
        if let Some(force) = config.pending_delete.get(key) {
            row["delete"] = json!(if *force { 2 } else { 1 });
        }
        rows.push(row);
    }
    for (key, text) in config
        .pending
        .iter()
        .filter(|(key, _)| !config.current.options.contains_key(*key))
    {
        rows.push(json!({ "key": key, "pending": value(key, text) }));
    }
    rows.push(json!({ "key": "digest", "value": guest.digest() }));
    Ok(rows.into())
}

/// `PUT …/config`.
pub fn update(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let given = params
        .0
        .keys()
        .any(|key| !matches!(key.as_str(), "node" | "vmid" | "digest"));
    let change = Change {
        set: params.options(is_option),
        delete: params.list("delete"),
        revert: params.list("revert"),
        digest: params.get("digest"),
        given,
    };
    Ok(state
        .update_ct(&call.caller, &params.node(), params.vmid(), &change)?
        .into())
}

/// `POST …/clone`.
pub fn clone(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = CloneRequest {
        newid: params
            .int("newid")
            .and_then(|id| u32::try_from(id).ok())
            .unwrap_or_default(),
        hostname: params.get("hostname"),
        description: params.get("description"),
        pool: params.get("pool"),
        snapname: params.get("snapname"),
        storage: params.get("storage"),
        full: params.maybe_flag("full"),
        target: params.get("target"),
    };
    Ok(state
        .clone_ct(&call.caller, &params.node(), params.vmid(), request)?
        .into())
}

/// `POST …/template`: the reply names no task (facts D.10).
pub fn template(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .template_ct(&call.caller, &call.params.node(), call.params.vmid())?
        .into())
}

/// `PUT …/resize`.
pub fn resize(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let digest = params.get("digest");
    let (disk, size) = (params.text("disk"), params.text("size"));
    Ok(state
        .resize_ct(
            &call.caller,
            &params.node(),
            params.vmid(),
            &disk,
            &size,
            digest.as_deref(),
        )?
        .into())
}

/// `POST …/move_volume`.
pub fn move_volume(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = MoveRequest {
        volume: params.text("volume"),
        storage: params.get("storage"),
        target_vmid: params.int("target-vmid").and_then(|id| u32::try_from(id).ok()),
        target_volume: params.get("target-volume"),
        delete: params.flag("delete"),
        digest: params.get("digest"),
        target_digest: params.get("target-digest"),
    };
    Ok(state
        .move_ct_volume(&call.caller, &params.node(), params.vmid(), request)?
        .into())
}

/// `GET …/feature`.
pub fn feature(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let node = params.node();
    let guest = state.ct(&node, params.vmid())?;
    let section = match params.get("snapname") {
        Some(name) => state.ct_snapshot(&node, params.vmid(), &name)?,
        None => &guest.config().current,
    };
    let feature = params.text("feature");
    let snapshot = params.get("snapname").is_some();
    let able = all_mounts(section).iter().all(|(_, mount)| {
        mount.kind() == "volume" && state.volume_has_feature(&node, mount.volume(), &feature, snapshot)
    });
    Ok(json!({ "hasFeature": u8::from(able) }).into())
}

/// `GET …/interfaces`: nothing for a stopped container.
pub fn interfaces(state: &mut State, call: &Call) -> Answer {
    let guest = state.ct(&call.params.node(), call.params.vmid())?;
    if guest.running.is_none() {
        return Ok(Reply::NULL);
    }
    let mut rows = vec![interface("lo", "00:00:00:00:00:00", Some("127.0.0.1/8"), "::1/128")];
    for (key, text) in &guest.config().current.options {
        if index_of(key, "net").is_some() {
            let parts = property::parse(text, "name");
            let mac = parts.get("hwaddr").map(|mac| mac.to_lowercase()).unwrap_or_default();
            let address = match parts.get("ip").map(String::as_str) {
                // What a DHCP server would hand out: an address of the benchmarking range that the id decides.
                Some("dhcp") => Some(format!("198.18.{}.{}/15", (guest.vmid >> 8) & 0xff, guest.vmid & 0xff)),
                Some("manual") | None => None,
                Some(address) => Some(address.to_owned()),
            };
            let name = parts.get("name").map(String::as_str).unwrap_or("eth0");
            rows.push(interface(
                name,
                &mac,
                address.as_deref(),
                &format!("{}/64", link_local(&mac)),
            ));
        }
    }
    Ok(rows.into())
}

fn interface(name: &str, mac: &str, inet: Option<&str>, inet6: &str) -> Value {
    let address = |cidr: &str, kind: &str| {
        let (ip, prefix) = cidr.split_once('/').unwrap_or((cidr, "32"));
        json!({ "ip-address": ip, "prefix": prefix, "ip-address-type": kind })
    };
    let mut row = json!({ "name": name, "hwaddr": mac, "hardware-address": mac, "inet6": inet6 });
    let mut addresses = Vec::new();
    if let Some(inet) = inet {
        row["inet"] = json!(inet);
        addresses.push(address(inet, "inet"));
    }
    addresses.push(address(inet6, "inet6"));
    row["ip-addresses"] = json!(addresses);
    row
}

/// `GET …/migrate`: the other nodes that could take the container.
pub fn migration_targets(state: &mut State, call: &Call) -> Answer {
    let node = call.params.node();
    let running = state.ct(&node, call.params.vmid())?.running.is_some();
    let others: Vec<&String> = state.nodes.keys().filter(|name| **name != node).collect();
    Ok(json!({ "running": u8::from(running), "allowed-nodes": others, "not-allowed-nodes": {} }).into())
}

/// `POST …/remote_migrate`.
pub fn remote_migrate(_state: &mut State, call: &Call) -> Answer {
    let wanted = ["target-bridge", "target-endpoint", "target-storage"];
    let missing = wanted.iter().filter(|name| call.params.get(name).is_none());
    let text = "property is missing and it is not optional";
    let errors: Vec<(String, String)> = missing.map(|name| ((*name).to_owned(), text.to_owned())).collect();
    if errors.is_empty() {
        return Err(not_simulated("POST", "/nodes/{node}/lxc/{vmid}/remote_migrate"));
    }
    Err(ApiError::params(errors))
}

/// `POST …/mtunnel`: for a migration to this node under a free id.
pub fn tunnel(state: &mut State, call: &Call) -> Answer {
    if let Err(error) = state.check_unused(call.params.vmid()) {
        let text = format!("unable to create empty CT config - {}", error.message);
        return Err(ApiError::param("vmid", text));
    }
    Err(not_simulated("POST", "/nodes/{node}/lxc/{vmid}/mtunnel"))
}

/// `POST …/migrate`.
pub fn migrate(state: &mut State, call: &Call) -> Answer {
    check_migration_target(state, call)?;
    Err(not_simulated("POST", "/nodes/{node}/lxc/{vmid}/migrate"))
}

/// Refuses targets that are no other node of the cluster.
pub fn check_migration_target(state: &State, call: &Call) -> crate::simulator::model::Result<()> {
    let target = call.params.text("target");
    if target == call.params.node() {
        return Err(ApiError::param("target", "target is local node."));
    }
    if !state.nodes.contains_key(&target) {
        return Err(ApiError::die(format!("no such cluster node '{target}'")));
    }
    Ok(())
}

/// `GET …/rrddata`: without a recorder, rows hold only their time.
pub fn rrddata(state: &mut State, call: &Call) -> Answer {
    let modern = state.release.major() >= 9;
    let (step, count) = match (call.params.text("timeframe").as_str(), modern) {
        ("hour", true) => (60, 60),
        ("day", true) => (60, 1440),
        ("week", true) => (1800, 336),
        ("month", true) => (1800, 1440),
        ("decade", true) => (604_800, 570),
        (_, true) => (21_600, 1440),
        ("hour", false) => (60, 70),
        ("day", false) => (1800, 70),
        ("week", false) => (10_800, 70),
        ("month", false) => (43_200, 70),
        (_, false) => (604_800, 70),
    };
    let end = state.seconds() / step * step;
    let rows: Vec<Value> = (0..count)
        .rev()
        .map(|back| json!({ "time": end - back * step }))
        .collect();
    Ok(rows.into())
}

/// `GET …/status/current`.
pub fn status(state: &mut State, call: &Call) -> Answer {
    let guest = state.ct(&call.params.node(), call.params.vmid())?;
    let mut row = row(state, guest);
    row.insert("ha".to_owned(), json!({ "managed": 0 }));
    Ok(Value::Object(row).into())
}
