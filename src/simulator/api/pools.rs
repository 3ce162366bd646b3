//! `/pools` (facts C).

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use super::resources::pool_members;
use crate::simulator::model::state::Pool;
use crate::simulator::model::{ApiError, Caller, Result, State};

fn row(name: &str, pool: &Pool) -> Value {
    let mut row = json!({ "poolid": name });
    if let Some(comment) = pool.comment.as_ref().filter(|text| !matches!(text.as_str(), "" | "0")) {
        row["comment"] = json!(comment);
    }
    row
}

fn visible(state: &State, caller: &Caller, name: &str) -> bool {
    state.may(caller, &format!("/pool/{name}"), &["Pool.Audit"])
}

/// `GET /pools`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let Some(name) = call.params.get("poolid") else {
        let pools = state
            .pools
            .iter()
            .filter(|(name, _)| visible(state, &call.caller, name));
        return Ok(pools.map(|(name, pool)| row(name, pool)).collect::<Vec<_>>().into());
    };
    // Proxmox looks at the rights here, but does not mind what it sees (facts L.4).
    let full = with_members(state, call, &name)?;
    Ok(vec![full].into())
}

fn with_members(state: &State, call: &Call, name: &str) -> Result<Value> {
    let pool = state
        .pools
        .get(name)
        .ok_or_else(|| ApiError::die(format!("pool '{name}' does not exist")))?;
    let mut row = row(name, pool);
    let kind = call.params.get("type");
    row["members"] = json!(pool_members(state, name, kind.as_deref()));
    Ok(row)
}

/// `GET /pools/{poolid}`.
pub fn read(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("poolid");
    Ok(with_members(state, call, &name)?.into())
}

/// `POST /pools`.
pub fn create(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("poolid");
    let failed = |text: String| ApiError::die(format!("create pool failed: {text}"));
    state.check_writable()?;
    if state.pools.contains_key(&name) {
        return Err(failed(format!("pool '{name}' already exists")));
    }
    if let Some((parent, _)) = name.rsplit_once('/')
        && !state.pools.contains_key(parent)
    {
        return Err(failed(format!("parent '{parent}' of pool '{name}' does not exist")));
    }
    let pool = Pool {
        comment: call.params.get("comment"),
        ..Pool::default()
    };
    state.pools.insert(name, pool);
    Ok(Reply::NULL)
}

/// `PUT /pools` and `PUT /pools/{poolid}`: not idempotent.
pub fn update(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let name = params.text("poolid");
    let failed = |text: String| ApiError::die(format!("update pools failed: {text}"));
    // Missing rights are one more reason why the update fails.
    let denied = |error: ApiError| failed(format!("{} {}", error.status, error.first_line()));
    state.check_writable()?;
    let Some(mut pool) = state.pools.get(&name).cloned() else {
        return Err(failed(format!("pool '{name}' does not exist")));
    };
    if let Some(comment) = params.get("comment") {
        pool.comment = Some(comment);
    }
    let (delete, moving) = (params.flag("delete"), params.flag("allow-move"));
    let mut others = state.pools.clone();
    others.remove(&name);
    for vmid in params.list("vms").iter().filter_map(|id| id.parse::<u32>().ok()) {
        let rights = ["Permissions.Modify", "VM.Allocate"];
        let allowed = state.need_any(&call.caller, &format!("/vms/{vmid}"), &rights);
        allowed.map_err(denied)?;
        if delete {
            if !pool.vms.remove(&vmid) {
                return Err(failed(format!("VM {vmid} is not a pool member")));
            }
            continue;
        }
        if pool.vms.contains(&vmid) {
            return Err(failed(format!("VM {vmid} is already a pool member")));
        }
        if let Some((owner, other)) = others.iter_mut().find(|(_, other)| other.vms.contains(&vmid)) {
            if !moving {
                let text = format!("VM {vmid} belongs already to pool '{owner}' and 'allow-move' is not set");
                return Err(failed(text));
            }
            let allowed = state.need(&call.caller, &format!("/pool/{owner}"), &["Pool.Allocate"]);
            allowed.map_err(denied)?;
            other.vms.remove(&vmid);
        }
        pool.vms.insert(vmid);
    }
    for id in params.list("storage") {
        let rights = ["Permissions.Modify", "Datastore.Allocate"];
        let allowed = state.need_any(&call.caller, &format!("/storage/{id}"), &rights);
        allowed.map_err(denied)?;
        if delete {
            if !pool.storages.remove(&id) {
                return Err(failed(format!("Storage '{id}' is not a pool member")));
            }
        } else if !pool.storages.insert(id.clone()) {
            return Err(failed(format!("Storage '{id}' is already a pool member")));
        }
    }
    others.insert(name, pool);
    state.pools = others;
    Ok(Reply::NULL)
}

/// `DELETE /pools` and `DELETE /pools/{poolid}`: only empty ones.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("poolid");
    let failed = |text: String| ApiError::die(format!("delete pool failed: {text}"));
    state.check_writable()?;
    let Some(pool) = state.pools.get(&name) else {
        return Err(failed(format!("pool '{name}' does not exist")));
    };
    let child = state.pools.keys().find(|other| other.starts_with(&format!("{name}/")));
    let inside = child
        .map(|child| format!("pool '{child}'"))
        // Members that are gone do not count.
        .or_else(|| {
            pool.vms
                .iter()
                .find(|vmid| state.exists(**vmid))
                .map(|vmid| format!("VM {vmid}"))
        })
        .or_else(|| {
            let known = pool.storages.iter().find(|id| state.storages.contains_key(*id));
            known.map(|id| format!("storage '{id}'"))
        });
    if let Some(inside) = inside {
        return Err(failed(format!("pool '{name}' is not empty (contains {inside})")));
    }
    state.pools.remove(&name);
    let path = format!("/pool/{name}");
    state.access.acl.retain(|entry| entry.path != path);
    Ok(Reply::NULL)
}
