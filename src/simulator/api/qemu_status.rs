//! `/nodes/{node}/qemu/{vmid}/status` and `…/snapshot`.

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use super::lxc::option_value;
use super::qemu::section_json;
use crate::simulator::model::State;
use crate::simulator::model::vm_cloudinit::shown;
use crate::simulator::model::vm_snapshot::VmSnapshot;

/// `POST …/status/start`.
pub fn start(state: &mut State, call: &Call) -> Answer {
    let skiplock = call.params.flag("skiplock");
    Ok(state
        .start_vm(&call.caller, &call.params.node(), call.params.vmid(), skiplock)?
        .into())
}

/// `POST …/status/stop`.
pub fn stop(state: &mut State, call: &Call) -> Answer {
    let (skiplock, overrule) = (call.params.flag("skiplock"), call.params.flag("overrule-shutdown"));
    Ok(state
        .stop_vm(
            &call.caller,
            &call.params.node(),
            call.params.vmid(),
            skiplock,
            overrule,
        )?
        .into())
}

/// `POST …/status/shutdown`.
pub fn shutdown(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (timeout, force) = (params.int("timeout").unwrap_or(60), params.flag("forceStop"));
    let skiplock = params.flag("skiplock");
    Ok(state
        .shutdown_vm(&call.caller, &params.node(), params.vmid(), timeout, force, skiplock)?
        .into())
}

/// `POST …/status/reboot`.
pub fn reboot(state: &mut State, call: &Call) -> Answer {
    let timeout = call.params.int("timeout").unwrap_or(60);
    Ok(state
        .reboot_vm(&call.caller, &call.params.node(), call.params.vmid(), timeout)?
        .into())
}

/// `POST …/status/reset`.
pub fn reset(state: &mut State, call: &Call) -> Answer {
    let skiplock = call.params.flag("skiplock");
    Ok(state
        .reset_vm(&call.caller, &call.params.node(), call.params.vmid(), skiplock)?
        .into())
}

/// `POST …/status/suspend`.
pub fn suspend(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (skiplock, todisk, storage) = (
        params.flag("skiplock"),
        params.flag("todisk"),
        params.get("statestorage"),
    );
    Ok(state
        .suspend_vm(&call.caller, &params.node(), params.vmid(), skiplock, todisk, storage)?
        .into())
}

/// `POST …/status/resume`.
pub fn resume(state: &mut State, call: &Call) -> Answer {
    let skiplock = call.params.flag("skiplock");
    Ok(state
        .resume_vm(&call.caller, &call.params.node(), call.params.vmid(), skiplock)?
        .into())
}

/// `GET …/snapshot`.
pub fn snapshots(state: &mut State, call: &Call) -> Answer {
    let guest = state.vm(&call.params.node(), call.params.vmid())?;
    let config = guest.config();
    let mut rows: Vec<Value> = Vec::new();
    for (name, section) in &config.snapshots {
        let text = section.get("description").unwrap_or_default();
        let mut row = json!({
            "name": name,
            "description": shown("description", text),
            "vmstate": u8::from(section.get("vmstate").is_some()),
        });
        for key in ["snaptime", "parent", "snapstate"] {
            if let Some(text) = section.get(key) {
                row[key] = option_value("qemu", key, text);
            }
        }
        rows.push(row);
    }
    let mut current = json!({
        "name": "current",
        "description": "You are here!",
        "running": u8::from(guest.running.is_some()),
        "digest": guest.digest(),
    });
    if let Some(parent) = config.current.get("parent") {
        current["parent"] = json!(parent);
    }
    rows.push(current);
    Ok(rows.into())
}

/// `POST …/snapshot`.
pub fn snapshot(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let snapshot = VmSnapshot {
        vmid: params.vmid(),
        name: params.text("snapname"),
        description: params.text("description"),
        vmstate: params.flag("vmstate"),
    };
    Ok(state.snapshot_vm(&call.caller, &params.node(), snapshot)?.into())
}

/// `DELETE …/snapshot/{snapname}`.
pub fn delete_snapshot(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (name, force) = (params.text("snapname"), params.flag("force"));
    Ok(state
        .delete_vm_snapshot(&call.caller, &params.node(), params.vmid(), &name, force)
        .into())
}

/// `GET …/snapshot/{snapname}/config`.
pub fn snapshot_config(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let section = state.vm_snapshot(&params.node(), params.vmid(), &params.text("snapname"))?;
    Ok(Value::Object(section_json(section)).into())
}

/// `PUT …/snapshot/{snapname}/config`.
pub fn describe_snapshot(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let text = params.get("description");
    state.describe_vm_snapshot(&params.node(), params.vmid(), &params.text("snapname"), text.as_deref())?;
    Ok(Reply::NULL)
}

/// `POST …/snapshot/{snapname}/rollback`.
pub fn rollback(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (name, start) = (params.text("snapname"), params.flag("start"));
    Ok(state
        .rollback_vm(&call.caller, &params.node(), params.vmid(), &name, start)
        .into())
}
