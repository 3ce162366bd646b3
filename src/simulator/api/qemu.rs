//! `/nodes/{node}/qemu`: lists, configuration, disks, clones.

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Params, Reply};
use super::lxc::{check_migration_target, option_value};
use crate::simulator::model::config::{GuestConfig, Section};
use crate::simulator::model::lxc_config::with_pending;
use crate::simulator::model::vm_clone::VmCloneRequest;
use crate::simulator::model::vm_cloudinit::shown;
use crate::simulator::model::vm_config::VmChange;
use crate::simulator::model::vm_create::VmCreateRequest;
use crate::simulator::model::vm_migrate::VmMigrate;
use crate::simulator::model::vm_move::{VmMoveRequest, VmResize};
use crate::simulator::model::vm_options::{agent_enabled, disks, index_of, is_option};
use crate::simulator::model::{ApiError, Guest, GuestKind, State, property};

/// A section as answers show it: passwords masked, a description without line end.
pub(super) fn section_json(section: &Section) -> Map<String, Value> {
    section
        .options
        .iter()
        .map(|(key, text)| (key.clone(), option_value("qemu", key, &shown(key, text))))
        .collect()
}

/// The row of a machine in lists; `full` adds what costs a look into its process.
pub(super) fn row(state: &State, guest: &Guest, full: bool) -> Value {
    let now = state.status_of(guest);
    let status = if guest.running.is_some() { "running" } else { "stopped" };
    let mut row = json!({
        "vmid": guest.vmid, "name": now.name, "status": status, "cpus": now.maxcpu, "cpu": 0, "mem": 0,
        "maxmem": now.maxmem, "disk": 0, "maxdisk": now.maxdisk, "netin": 0, "netout": 0, "diskread": 0,
        "diskwrite": 0, "uptime": 0, "memhost": 0,
    });
    if let Some(running) = &guest.running {
        row["pid"] = json!(running.pid);
        row["uptime"] = json!(state.now.saturating_sub(running.since) / 1000);
        row["mem"] = json!(now.maxmem / 4);
    }
    if full {
        row["qmpstatus"] = json!(now.status);
    }
    let current = &guest.config().current;
    for key in ["tags", "lock"] {
        if let Some(text) = current.get(key) {
            row[key] = json!(text);
        }
    }
    let number = |key: &str| current.get(key).and_then(|text| text.parse::<u64>().ok());
    if let Some(balloon) = number("balloon").filter(|balloon| *balloon > 0) {
        row["balloon_min"] = json!(balloon << 20);
        row["shares"] = json!(number("shares").unwrap_or(1000));
    }
    if current.options.keys().any(|key| index_of(key, "serial").is_some()) {
        row["serial"] = json!(1);
    }
    if guest.is_template() {
        row["template"] = json!(1);
    }
    row
}

/// `GET /nodes/{node}/qemu`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let node = call.params.node();
    let full = call.params.flag("full");
    let rows: Vec<Value> = state
        .guests
        .values()
        .filter(|guest| guest.node == node && guest.kind == GuestKind::Qemu)
        .filter(|guest| state.may(&call.caller, &format!("/vms/{}", guest.vmid), &["VM.Audit"]))
        .map(|guest| row(state, guest, full))
        .collect();
    Ok(rows.into())
}

/// `POST /nodes/{node}/qemu`.
pub fn create(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = VmCreateRequest {
        vmid: params.vmid(),
        pool: params.get("pool"),
        start: params.flag("start"),
        archive: params.get("archive"),
        storage: params.get("storage"),
        force: params.flag("force"),
        unique: params.flag("unique"),
        options: params.options(is_option),
    };
    Ok(state.create_vm(&call.caller, &params.node(), request)?.into())
}

/// `DELETE /nodes/{node}/qemu/{vmid}`.
pub fn destroy(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (purge, unreferenced) = (params.flag("purge"), params.flag("destroy-unreferenced-disks"));
    let skiplock = params.flag("skiplock");
    Ok(state
        .destroy_vm(
            &call.caller,
            &params.node(),
            params.vmid(),
            purge,
            unreferenced,
            skiplock,
        )?
        .into())
}

/// `GET …/config`.
pub fn config(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let guest = state.vm(&params.node(), params.vmid())?;
    let section = match params.get("snapshot") {
        Some(_) if params.flag("current") => {
            let text = "cannot use 'snapshot' parameter with 'current'".to_owned();
            return Err(ApiError::params([
                ("snapshot".to_owned(), text.clone()),
                ("current".to_owned(), text),
            ]));
        }
        Some(name) => state.vm_snapshot(&params.node(), params.vmid(), &name)?.clone(),
        None if params.flag("current") => guest.config().current.clone(),
        None => with_pending(guest.config()),
    };
    let mut object = section_json(&section);
    object.insert("digest".to_owned(), json!(guest.digest()));
    Ok(Value::Object(object).into())
}

/// `GET …/pending`.
pub fn pending(state: &mut State, call: &Call) -> Answer {
    let guest = state.vm(&call.params.node(), call.params.vmid())?;
    let mut rows = pending_rows(guest.config());
    rows.push(json!({ "key": "digest", "value": guest.digest() }));
    Ok(rows.into())
}

fn pending_rows(config: &GuestConfig) -> Vec<Value> {
    let value = |key: &str, text: &str| option_value("qemu", key, &shown(key, text));
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
    let fresh = config
        .pending
        .iter()
        .filter(|(key, _)| !config.current.options.contains_key(*key));
    rows.extend(fresh.map(|(key, text)| json!({ "key": key, "pending": value(key, text) })));
    rows
}

fn change(params: &Params) -> VmChange {
    VmChange {
        set: params.options(is_option),
        delete: params.list("delete"),
        revert: params.list("revert"),
        digest: params.get("digest"),
        force: params.flag("force"),
        skiplock: params.flag("skiplock"),
        user: String::new(),
    }
}

/// `PUT …/config`.
pub fn update(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    state.update_vm(&call.caller, &params.node(), params.vmid(), change(params))?;
    Ok(Reply::NULL)
}

/// `POST …/config`.
pub fn update_in_task(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let delay = params.int("background_delay");
    let upid = state.update_vm_task(&call.caller, &params.node(), params.vmid(), change(params), delay)?;
    Ok(upid.map_or(Reply::NULL, Into::into))
}

/// `PUT …/unlink`: deletes drives.
pub fn unlink(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let change = VmChange {
        delete: params.list("idlist"),
        force: params.flag("force"),
        ..VmChange::default()
    };
    state.update_vm(&call.caller, &params.node(), params.vmid(), change)?;
    Ok(Reply::NULL)
}

/// `POST …/clone`.
pub fn clone(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = VmCloneRequest {
        newid: params
            .int("newid")
            .and_then(|id| u32::try_from(id).ok())
            .unwrap_or_default(),
        name: params.get("name"),
        description: params.get("description"),
        pool: params.get("pool"),
        snapname: params.get("snapname").filter(|name| name != "current"),
        storage: params.get("storage"),
        format: params.get("format"),
        full: params.maybe_flag("full"),
        target: params.get("target"),
    };
    Ok(state
        .clone_vm(&call.caller, &params.node(), params.vmid(), request)?
        .into())
}

/// `POST …/template`.
pub fn template(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    Ok(state
        .template_vm(&call.caller, &params.node(), params.vmid(), params.get("disk"))?
        .into())
}

/// `PUT …/resize`.
pub fn resize(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let resize = VmResize {
        vmid: params.vmid(),
        disk: params.text("disk"),
        size: params.text("size"),
        digest: params.get("digest"),
        skiplock: params.flag("skiplock"),
        user: call.caller.id.clone(),
    };
    Ok(state.resize_vm(&call.caller, &params.node(), resize)?.into())
}

/// `POST …/move_disk`.
pub fn move_disk(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let request = VmMoveRequest {
        disk: params.text("disk"),
        storage: params.get("storage"),
        format: params.get("format"),
        target_vmid: params.int("target-vmid").and_then(|id| u32::try_from(id).ok()),
        target_disk: params.get("target-disk"),
        delete: params.flag("delete"),
        digest: params.get("digest"),
        target_digest: params.get("target-digest"),
    };
    Ok(state
        .move_vm_disk(&call.caller, &params.node(), params.vmid(), request)?
        .into())
}

/// `GET …/feature`.
pub fn feature(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let node = params.node();
    let guest = state.vm(&node, params.vmid())?;
    let section = match params.get("snapname") {
        Some(name) => state.vm_snapshot(&node, params.vmid(), &name)?,
        None => &guest.config().current,
    };
    let feature = params.text("feature");
    let snapshot = params.get("snapname").is_some();
    let disks = disks(section, false);
    let able = disks
        .iter()
        .all(|(_, drive)| state.volume_has_feature(&node, drive.file(), &feature, snapshot));
    let storage = |volid: &str| volid.split_once(':').and_then(|(id, _)| state.storages.get(id));
    let shared = disks
        .iter()
        .all(|(_, drive)| storage(drive.file()).is_some_and(|found| found.shared));
    let nodes: Vec<&String> = state.nodes.keys().filter(|name| shared || **name == node).collect();
    Ok(json!({ "hasFeature": u8::from(able), "nodes": nodes }).into())
}

/// `GET …/migrate`.
pub fn migration_conditions(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .migration_conditions(&call.params.node(), call.params.vmid())?
        .into())
}

/// `POST …/migrate`.
pub fn migrate(state: &mut State, call: &Call) -> Answer {
    check_migration_target(state, call)?;
    let params = &call.params;
    let migrate = VmMigrate {
        vmid: params.vmid(),
        node: params.node(),
        target: params.text("target"),
        online: params.flag("online"),
        with_local_disks: params.flag("with-local-disks"),
        storage: params.get("targetstorage"),
    };
    Ok(state.migrate_vm(&call.caller, migrate)?.into())
}

/// `GET …/cloudinit`.
pub fn cloud_init(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .pending_cloud_init(&call.params.node(), call.params.vmid())?
        .into())
}

/// `PUT …/cloudinit`.
pub fn regenerate_cloud_init(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .regenerate_cloud_init(&call.params.node(), call.params.vmid())?
        .into())
}

/// `GET …/cloudinit/dump`.
pub fn dump_cloud_init(state: &mut State, call: &Call) -> Answer {
    let kind = call.params.text("type");
    Ok(state
        .dump_cloud_init(&call.caller, &call.params.node(), call.params.vmid(), &kind)?
        .into())
}

/// `GET …/status/current`.
pub fn status(state: &mut State, call: &Call) -> Answer {
    let guest = state.vm(&call.params.node(), call.params.vmid())?;
    let current = &guest.config().current;
    let mut row = row(state, guest, true);
    row["ha"] = json!({ "managed": 0 });
    if agent_enabled(current) {
        row["agent"] = json!(1);
    }
    if let Some(vga) = current.get("vga") {
        let parts = property::parse(vga, "type");
        let kind = parts.get("type").map(String::as_str).unwrap_or_default();
        if kind.starts_with("virtio") || kind.starts_with("qxl") {
            row["spice"] = json!(1);
        }
        row["clipboard"] = json!(parts.get("clipboard"));
    }
    if guest.running.is_some() {
        let cards = current.options.keys().filter_map(|key| index_of(key, "net"));
        row["nics"] = cards
            .map(|card| (format!("tap{}i{card}", guest.vmid), json!({ "netin": 0, "netout": 0 })))
            .collect::<Map<_, _>>()
            .into();
    }
    if guest.running.is_some() && state.qemu.by_proxmox {
        row["running-machine"] = json!(format!("pc-i440fx-{}+pve0", state.qemu.release()));
        row["running-qemu"] = json!(state.qemu.version);
        row["balloon"] = row["maxmem"].clone();
        row["blockstat"] = json!({});
        row["proxmox-support"] = json!({ "pbs-dirty-bitmap": true, "query-bitmap-info": true });
    }
    Ok(row.into())
}
