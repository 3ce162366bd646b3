//! `/nodes/{node}/vzdump` and what is known about backups in the cluster (facts K.2.22, L.4.4).

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::backup::Backup;
use crate::simulator::model::prune::Prune;
use crate::simulator::model::{ApiError, GuestKind, Result, State};

/// Storage of backups when none is named.
const DEFAULT_STORAGE: &str = "local";

fn check_rights(state: &State, call: &Call, storage: &str) -> Result<()> {
    let (params, caller) = (&call.params, &call.caller);
    if params.flag("stdout") {
        let text = "option is only allowed on the command line interface.";
        return Err(ApiError::param("stdout", text));
    }
    if caller.is_true_root() {
        return Ok(());
    }
    for key in ["tmpdir", "dumpdir", "script", "job-id"] {
        if params.get(key).is_some() {
            return Err(ApiError::param(key, "Only root may set this option."));
        }
    }
    if ["bwlimit", "ionice", "performance"]
        .iter()
        .any(|key| params.get(key).is_some())
    {
        state.need(caller, "/", &["Sys.Modify"])?;
    }
    if params.get("prune-backups").is_some() {
        state.need(caller, &format!("/storage/{storage}"), &["Datastore.Allocate"])?;
    }
    Ok(())
}

/// What is wrong with a template of notes.
fn notes_fault(template: &str) -> Option<String> {
    if template.contains('\n') {
        return Some("contains a line feed\n".to_owned());
    }
    let mut found = Vec::new();
    let mut escaped = false;
    for (at, letter) in template.chars().enumerate() {
        if escaped && !matches!(letter, 'n' | '\\') {
            found.push(format!("escape sequence '\\{letter}' at char {}", at - 1));
        }
        escaped = letter == '\\' && !escaped;
    }
    let mut from = 0;
    while let Some(start) = template[from..].find("{{").map(|at| from + at + 2) {
        from = start;
        let Some(name) = template[start..].split_once("}}").map(|(name, _)| name) else {
            break;
        };
        let plain = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '{' || c == '}');
        if plain && !["cluster", "guestname", "node", "vmid"].contains(&name) {
            found.push(format!("variable '{name}' at char {}", start + 2));
        }
    }
    (!found.is_empty()).then(|| format!("found unknown: {}\n", found.join(", ")))
}

fn check_options(call: &Call) -> Result<()> {
    let params = &call.params;
    let vmid = params.get("vmid").is_some_and(|text| !text.is_empty());
    for key in ["all", "exclude", "pool"] {
        let given = params.get(key).is_some_and(|text| !text.is_empty() && text != "0");
        if vmid && given {
            return Err(ApiError::param(key, "option conflicts with option 'vmid'"));
        }
    }
    if let Some(fault) = params.get("notes-template").and_then(|template| notes_fault(&template)) {
        return Err(ApiError::param("notes-template", fault));
    }
    let chosen = params.flag("all") || params.flag("stop") || params.get("pool").is_some();
    if !vmid && !chosen && params.get("exclude").is_none() {
        return Err(ApiError::param("vmid", "property is missing"));
    }
    Ok(())
}

/// The guests that are meant, and whether those without rights are left out quietly.
fn chosen_guests(state: &State, call: &Call) -> Result<(Vec<u32>, bool)> {
    let params = &call.params;
    let ids = |name: &str| -> Vec<u32> { params.list(name).iter().filter_map(|id| id.parse().ok()).collect() };
    let node = params.node();
    let here = |vmid: &u32| state.guests.get(vmid).is_none_or(|guest| guest.node == node);
    if let Some(pool) = params.get("pool") {
        let Some(found) = state.pools.get(&pool) else {
            return Err(ApiError::die(format!("pool '{pool}' does not exist")));
        };
        let members = found.vms.iter().copied().filter(|vmid| state.guests.contains_key(vmid));
        return Ok((members.filter(here).collect(), false));
    }
    let mut vmids = ids("vmid");
    vmids.sort_unstable();
    vmids.dedup();
    if !vmids.is_empty() || params.flag("stop") {
        return Ok((vmids.into_iter().filter(here).collect(), false));
    }
    let exclude = ids("exclude");
    let all = state.guests.keys().copied().filter(here);
    Ok((all.filter(|vmid| !exclude.contains(vmid)).collect(), true))
}

/// `POST /nodes/{node}/vzdump`.
pub fn create(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let node = params.node();
    let storage = params.get("storage").unwrap_or_else(|| DEFAULT_STORAGE.to_owned());
    check_rights(state, call, &storage)?;
    check_options(call)?;
    let (vmids, quiet) = chosen_guests(state, call)?;
    if params.flag("stop") {
        state.need(&call.caller, &format!("/nodes/{node}"), &["Sys.Modify"])?;
    }
    if vmids.is_empty() && !quiet {
        return Ok("OK".to_owned().into());
    }
    state.need(
        &call.caller,
        &format!("/storage/{storage}"),
        &["Datastore.AllocateSpace"],
    )?;
    let ending = match params.get("compress").as_deref() {
        Some("zstd") => ".tar.zst",
        Some("gzip") => ".tar.gz",
        Some("1" | "lzo") => ".tar.lzo",
        _ => ".tar",
    };
    let backup = Backup {
        node,
        vmids,
        storage,
        ending: ending.to_owned(),
        notes: params.get("notes-template"),
        protected: params.flag("protected"),
        user: call.caller.id.clone(),
        quiet,
        failed: Vec::new(),
        keep: params.get("prune-backups"),
        remove: params.maybe_flag("remove").unwrap_or(true),
    };
    Ok(state.start_backup(&call.caller, backup).into())
}

/// `GET …/prunebackups`.
pub fn prunable(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let vmid = params.int("vmid").and_then(|id| u32::try_from(id).ok());
    let (keep, kind) = (params.get("prune-backups"), params.get("type"));
    let storage = params.text("storage");
    let marked = state.marked_backups(&params.node(), &storage, keep.as_deref(), vmid, kind.as_deref())?;
    let rows: Vec<Value> = marked
        .into_iter()
        .map(|entry| {
            json!({
                "volid": entry.volid, "ctime": entry.ctime, "type": entry.kind, "vmid": entry.vmid, "mark": entry.mark,
            })
        })
        .collect();
    Ok(rows.into())
}

/// `DELETE …/prunebackups`.
pub fn prune(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let vmid = params.int("vmid").and_then(|id| u32::try_from(id).ok());
    let storage = params.text("storage");
    let path = format!("/storage/{storage}");
    match vmid {
        Some(vmid) => {
            state.need(&call.caller, &path, &["Datastore.AllocateSpace"])?;
            state.need(&call.caller, &format!("/vms/{vmid}"), &["VM.Backup"])?;
        }
        None => state.need(&call.caller, &path, &["Datastore.Allocate"])?,
    }
    let work = Prune {
        node: params.node(),
        storage,
        keep: params.get("prune-backups"),
        vmid,
        kind: params.get("type"),
    };
    Ok(state.prune_backups(&call.caller.id, work).into())
}

/// `GET /nodes/{node}/vzdump/defaults`.
pub fn defaults(state: &mut State, call: &Call) -> Answer {
    let id = call.params.get("storage").unwrap_or_else(|| DEFAULT_STORAGE.to_owned());
    let read = ["Datastore.Audit", "Datastore.AllocateSpace"];
    state.need_any(&call.caller, &format!("/storage/{id}"), &read)?;
    let storage = state.storage(&id)?;
    if !storage.content.contains("backup") {
        return Err(ApiError::die(format!(
            "can't use storage '{id}' for backups - wrong content type"
        )));
    }
    let mut row = json!({
        "storage": id, "all": 0, "bwlimit": 0, "compress": "0", "dumpdir": format!("{}/dump", storage.path),
        "fleecing": { "enabled": 0 }, "ionice": 7, "lockwait": 180, "mailnotification": "always", "mode": "snapshot",
        "notification-mode": "auto", "performance": { "max-workers": 16, "pbs-entries-max": 1_048_576 }, "pigz": 0,
        "prune-backups": "keep-all=1", "quiet": 0, "remove": 1, "stdexcludes": 1, "stop": 0, "stopwait": 10, "zstd": 1,
    });
    if let Some(prune) = storage.settings.get("prune-backups") {
        row["prune-backups"] = json!(prune);
    }
    if !state.may(&call.caller, &format!("/nodes/{}", call.params.node()), &["Sys.Audit"])
        && let Some(row) = row.as_object_mut()
    {
        row.retain(|key, _| key != "dumpdir" && key != "ionice");
    }
    Ok(row.into())
}

/// `GET /nodes/{node}/vzdump/extractconfig`.
pub fn extract_config(state: &mut State, call: &Call) -> Answer {
    let volid = call.params.text("volume");
    state.check_volume_access(&call.caller, None, &volid, Some("backup"))?;
    Ok(state.backup_config(&call.params.node(), &volid)?.into())
}

/// `GET /cluster/backup-info/not-backed-up`: without backup jobs, all guests.
pub fn not_backed_up(state: &mut State, call: &Call) -> Answer {
    let visible = |vmid: &u32| state.may(&call.caller, &format!("/vms/{vmid}"), &["VM.Audit"]);
    let rows: Vec<Value> = state
        .guests
        .values()
        .filter(|guest| visible(&guest.vmid))
        .map(|guest| {
            let kind = if guest.kind == GuestKind::Lxc { "lxc" } else { "qemu" };
            json!({ "vmid": guest.vmid, "type": kind, "name": guest.name() })
        })
        .collect();
    Ok(Reply::from(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_of_notes_are_checked() {
        assert_eq!(
            notes_fault("of {{node}}: {{guestname}} ({{vmid}})\\n{{cluster}} \\\\"),
            None
        );
        let said = notes_fault("{{who}}").unwrap_or_default();
        assert!(said.starts_with("found unknown: variable 'who'"), "{said}");
        assert!(notes_fault("a\\tb").is_some_and(|said| said.contains("escape sequence '\\t' at char 1")));
    }
}
