//! `/nodes/{node}/lxc/{vmid}/status` and `…/snapshot`.

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use super::lxc::{option_value, section_json};
use crate::simulator::model::State;

/// `POST …/status/start`.
pub fn start(state: &mut State, call: &Call) -> Answer {
    let skiplock = call.params.flag("skiplock");
    Ok(state
        .start_ct(&call.caller, &call.params.node(), call.params.vmid(), skiplock)?
        .into())
}

/// `POST …/status/stop`.
pub fn stop(state: &mut State, call: &Call) -> Answer {
    let (skiplock, overrule) = (call.params.flag("skiplock"), call.params.flag("overrule-shutdown"));
    Ok(state
        .stop_ct(
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
    let (timeout, force) = (call.params.int("timeout").unwrap_or(60), call.params.flag("forceStop"));
    Ok(state
        .shutdown_ct(&call.caller, &call.params.node(), call.params.vmid(), timeout, force)?
        .into())
}

/// `POST …/status/reboot`.
pub fn reboot(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .reboot_ct(&call.caller, &call.params.node(), call.params.vmid())?
        .into())
}

/// `POST …/status/suspend`.
pub fn suspend(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .suspend_ct(&call.caller, &call.params.node(), call.params.vmid())?
        .into())
}

/// `POST …/status/resume`.
pub fn resume(state: &mut State, call: &Call) -> Answer {
    Ok(state
        .resume_ct(&call.caller, &call.params.node(), call.params.vmid())?
        .into())
}

/// `GET …/snapshot`.
pub fn snapshots(state: &mut State, call: &Call) -> Answer {
    let guest = state.ct(&call.params.node(), call.params.vmid())?;
    let config = guest.config();
    let mut rows: Vec<Value> = Vec::new();
    for (name, section) in &config.snapshots {
        let mut row = json!({ "name": name, "description": section.get("description").unwrap_or_default() });
        for key in ["snaptime", "parent", "snapstate"] {
            if let Some(text) = section.get(key) {
                row[key] = option_value("lxc", key, text);
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
    let (name, text) = (params.text("snapname"), params.text("description"));
    Ok(state
        .snapshot_ct(&call.caller, &params.node(), params.vmid(), &name, &text)?
        .into())
}

/// `DELETE …/snapshot/{snapname}`.
pub fn delete_snapshot(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (name, force) = (params.text("snapname"), params.flag("force"));
    Ok(state
        .delete_ct_snapshot(&call.caller, &params.node(), params.vmid(), &name, force)?
        .into())
}

/// `GET …/snapshot/{snapname}/config`.
pub fn snapshot_config(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let section = state.ct_snapshot(&params.node(), params.vmid(), &params.text("snapname"))?;
    Ok(Value::Object(section_json(section)).into())
}

/// `PUT …/snapshot/{snapname}/config`.
pub fn describe_snapshot(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let text = params.get("description");
    state.describe_ct_snapshot(&params.node(), params.vmid(), &params.text("snapname"), text.as_deref())?;
    Ok(Reply::NULL)
}

/// `POST …/snapshot/{snapname}/rollback`.
pub fn rollback(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (name, start) = (params.text("snapname"), params.flag("start"));
    Ok(state
        .rollback_ct(&call.caller, &params.node(), params.vmid(), &name, start)?
        .into())
}
