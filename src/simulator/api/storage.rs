//! `/storage` and `/nodes/{node}/storage` (facts G).

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::backup::Backup;
use crate::simulator::model::download::Download;
use crate::simulator::model::property::split_list;
use crate::simulator::model::storage::{Storage, StorageKind};
use crate::simulator::model::task::Work;
use crate::simulator::model::{ApiError, State};

fn content_text(storage: &Storage) -> String {
    storage.content.iter().cloned().collect::<Vec<_>>().join(",")
}

fn definition_row(id: &str, storage: &Storage) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("storage".to_owned(), json!(id));
    row.insert("type".to_owned(), json!(storage.kind.word()));
    row.insert("content".to_owned(), json!(content_text(storage)));
    let place = if storage.kind == StorageKind::ZfsPool {
        "pool"
    } else {
        "path"
    };
    row.insert(place.to_owned(), json!(storage.path));
    for (key, value) in &storage.settings {
        row.insert(key.clone(), json!(value));
    }
    if storage.disabled {
        row.insert("disable".to_owned(), json!(1));
    }
    if storage.shared {
        row.insert("shared".to_owned(), json!(1));
    }
    if !storage.nodes.is_empty() {
        row.insert(
            "nodes".to_owned(),
            json!(storage.nodes.iter().cloned().collect::<Vec<_>>().join(",")),
        );
    }
    let digest = crate::simulator::model::config::digest(&format!("{row:?}"));
    row.insert("digest".to_owned(), json!(digest));
    row
}

const READ: &[&str] = &["Datastore.Audit", "Datastore.AllocateSpace"];

/// `GET /storage`.
pub fn definitions(state: &mut State, call: &Call) -> Answer {
    let kind = call.params.get("type");
    let rows: Vec<Value> = state
        .storages
        .iter()
        .filter(|(id, _)| state.may_any(&call.caller, &format!("/storage/{id}"), READ))
        .filter(|(_, storage)| kind.as_deref().is_none_or(|kind| kind == storage.kind.word()))
        .map(|(id, storage)| Value::Object(definition_row(id, storage)))
        .collect();
    Ok(rows.into())
}

/// `GET /storage/{storage}`.
pub fn definition(state: &mut State, call: &Call) -> Answer {
    let id = call.params.text("storage");
    Ok(Value::Object(definition_row(&id, state.storage(&id)?)).into())
}

/// `POST /storage`.
pub fn define(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (id, word) = (params.text("storage"), params.text("type"));
    if state.storages.contains_key(&id) {
        return Err(ApiError::die(format!(
            "create storage failed: storage ID '{id}' already defined"
        )));
    }
    let (kind, place) = match word.as_str() {
        "dir" => (StorageKind::Dir, "path"),
        "btrfs" => (StorageKind::Btrfs, "path"),
        "zfspool" => (StorageKind::ZfsPool, "pool"),
        _ => return Err(super::call::not_simulated("POST", &format!("/storage (type {word})"))),
    };
    let Some(path) = params.get(place) else {
        return Err(ApiError::die(format!("missing value for required option '{place}'")));
    };
    let default = if kind == StorageKind::Dir {
        "images,rootdir,vztmpl,iso,backup,snippets"
    } else {
        "images,rootdir"
    };
    let content = split_list(&params.get("content").unwrap_or_else(|| default.to_owned()));
    let content: Vec<&str> = content.iter().map(String::as_str).collect();
    let mut storage = Storage::new(kind, &path, &content, 1 << 40);
    storage.shared = params.flag("shared");
    apply_settings(&mut storage, call);
    state.storages.insert(id.clone(), storage);
    Ok(json!({ "storage": id, "type": word }).into())
}

fn apply_settings(storage: &mut Storage, call: &Call) {
    const TAKEN: &[&str] = &[
        "storage", "type", "path", "pool", "content", "disable", "nodes", "shared", "digest", "delete",
    ];
    let params = &call.params;
    if let Some(content) = params.get("content") {
        storage.content = split_list(&content).into_iter().collect();
    }
    if let Some(disable) = params.maybe_flag("disable") {
        storage.disabled = disable;
    }
    if params.get("nodes").is_some() {
        storage.nodes = params.list("nodes").into_iter().collect();
    }
    storage.settings.extend(params.options(|key| !TAKEN.contains(&key)));
    for key in params.list("delete") {
        match key.as_str() {
            "disable" => storage.disabled = false,
            "nodes" => storage.nodes.clear(),
            _ => drop(storage.settings.remove(&key)),
        }
    }
}

/// `PUT /storage/{storage}`.
pub fn redefine(state: &mut State, call: &Call) -> Answer {
    let id = call.params.text("storage");
    let Some(storage) = state.storages.get_mut(&id) else {
        return Err(ApiError::die(format!(
            "update storage failed: storage '{id}' does not exist"
        )));
    };
    apply_settings(storage, call);
    let kind = storage.kind.word();
    Ok(json!({ "storage": id, "type": kind }).into())
}

/// `DELETE /storage/{storage}`.
pub fn remove(state: &mut State, call: &Call) -> Answer {
    let id = call.params.text("storage");
    // Proxmox does not look whether guests use it.
    if state.storages.remove(&id).is_none() {
        return Err(ApiError::die(format!(
            "delete storage failed: storage '{id}' does not exist"
        )));
    }
    Ok(Reply::NULL)
}

fn status_row(state: &State, node: &str, storage: &Storage) -> Value {
    let there = storage.active && !storage.disabled && state.nodes.get(node).is_some_and(|found| found.online);
    let used = storage.used(node);
    let mut row = json!({
        "type": storage.kind.word(),
        "content": content_text(storage),
        "enabled": u8::from(!storage.disabled),
        "active": u8::from(there),
        "shared": u8::from(storage.shared),
        "total": 0,
        "used": 0,
        "avail": 0,
    });
    if there {
        row["total"] = json!(storage.total);
        row["used"] = json!(used);
        row["avail"] = json!(storage.total.saturating_sub(used));
    }
    row
}

/// `GET /nodes/{node}/storage`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let node = params.node();
    let content = params.get("content").map(|text| split_list(&text));
    let rows: Vec<Value> = state
        .storages
        .iter()
        .filter(|(_, storage)| storage.is_on(&node) && !(params.flag("enabled") && storage.disabled))
        .filter(|(id, _)| params.get("storage").is_none_or(|wanted| wanted == **id))
        .filter(|(_, storage)| {
            content
                .as_ref()
                .is_none_or(|list| list.iter().any(|word| storage.content.contains(word)))
        })
        .filter(|(id, _)| state.may_any(&call.caller, &format!("/storage/{id}"), READ))
        .map(|(id, storage)| {
            let mut row = status_row(state, &node, storage);
            row["storage"] = json!(id);
            let share = if storage.total > 0 {
                storage.used(&node) as f64 / storage.total as f64
            } else {
                0.0
            };
            row["used_fraction"] = json!(share);
            row
        })
        .collect();
    Ok(rows.into())
}

/// `GET …/status`.
pub fn status(state: &mut State, call: &Call) -> Answer {
    let id = call.params.text("storage");
    let Some(storage) = state.storages.get(&id) else {
        return Err(ApiError::param("storage", "No such storage."));
    };
    Ok(status_row(state, &call.params.node(), storage).into())
}

/// `GET …/content`.
pub fn content(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let vmid = params.int("vmid").and_then(|id| u32::try_from(id).ok());
    let kind = params.get("content");
    let rows = state.list_content(
        &call.caller,
        &params.node(),
        &params.text("storage"),
        kind.as_deref(),
        vmid,
    )?;
    Ok(rows.into())
}

/// `POST …/content`.
pub fn alloc(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let format = params.get("format");
    let volid = state.alloc_content(
        &params.node(),
        &params.text("storage"),
        params.vmid(),
        &params.text("filename"),
        &params.text("size"),
        format.as_deref(),
    )?;
    Ok(volid.into())
}

/// `GET …/content/{volume}`.
pub fn volume(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    Ok(state
        .volume_info(
            &call.caller,
            &params.node(),
            &params.text("storage"),
            &params.text("volume"),
        )?
        .into())
}

/// `PUT …/content/{volume}`: notes and protection are for backups only.
pub fn describe(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (id, volume) = (params.text("storage"), params.text("volume"));
    let (notes, protected) = (params.get("notes"), params.maybe_flag("protected"));
    state.describe_content(&call.caller, &params.node(), &id, &volume, notes, protected)?;
    Ok(Reply::NULL)
}

/// `POST /nodes/{node}/vzdump`.
pub fn backup(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let node = params.node();
    let mut vmids: Vec<u32> = params.list("vmid").iter().filter_map(|id| id.parse().ok()).collect();
    if let Some(pool) = params.get("pool") {
        vmids.extend(state.pools.get(&pool).into_iter().flat_map(|pool| pool.vms.clone()));
    } else if params.flag("all") {
        vmids = state
            .guests
            .values()
            .filter(|guest| guest.node == node)
            .map(|guest| guest.vmid)
            .collect();
    } else if vmids.is_empty() {
        return Err(ApiError::param("vmid", "property is missing and it is not optional"));
    }
    let ending = match params.get("compress").as_deref() {
        Some("zstd") => ".tar.zst",
        Some("gzip" | "1") => ".tar.gz",
        Some("lzo") => ".tar.lzo",
        _ => ".tar",
    };
    let backup = Backup {
        node,
        vmids,
        storage: params.get("storage").unwrap_or_else(|| "local".to_owned()),
        ending: ending.to_owned(),
        notes: params.get("notes-template"),
        protected: params.flag("protected"),
        user: call.caller.id.clone(),
    };
    Ok(state.start_backup(&call.caller, backup).into())
}

/// `GET /nodes/{node}/vzdump/extractconfig`.
pub fn extract_config(state: &mut State, call: &Call) -> Answer {
    let volid = call.params.text("volume");
    state.check_volume_access(&call.caller, 0, &volid)?;
    Ok(state.backup_config(&call.params.node(), &volid)?.into())
}

/// `DELETE …/content/{volume}`.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (id, volume) = (params.text("storage"), params.text("volume"));
    Ok(state.delete_content(&call.caller, &params.node(), &id, &volume)?.into())
}

/// Ends of file names that each content type accepts (facts G.4).
fn ends(content: &str) -> &'static [&'static str] {
    match content {
        "iso" => &[".iso", ".img"],
        "vztmpl" => &[".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar"],
        _ => &[".qcow2", ".raw", ".vmdk", ".ova"],
    }
}

/// `POST …/download-url`.
pub fn download(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (node, id, content) = (params.node(), params.text("storage"), params.text("content"));
    let storage = state.usable_storage(&node, &id)?;
    if storage.kind == StorageKind::ZfsPool {
        let kind = storage.kind.word();
        return Err(ApiError::die(format!(
            "can't upload to storage type '{kind}', not a file based storage!"
        )));
    }
    if !storage.content.contains(&content) {
        return Err(ApiError::die(format!(
            "storage '{id}' is not configured for content-type '{content}'"
        )));
    }
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let filename: String = params
        .text("filename")
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .map(safe)
        .collect();
    if !ends(&content).iter().any(|end| filename.ends_with(end)) {
        return Err(ApiError::param("filename", "wrong file extension"));
    }
    let algorithm = params.get("checksum-algorithm");
    let checksum = match (params.get("checksum"), algorithm) {
        (Some(value), Some(algorithm)) => Some((algorithm, value)),
        _ => None,
    };
    let work = Download {
        node: node.clone(),
        storage: id,
        content,
        filename: filename.clone(),
        url: params.text("url"),
        checksum,
    };
    Ok(state
        .start_task(
            &node,
            "download",
            &filename,
            &call.caller.id,
            Work::Download(Box::new(work)),
        )
        .into())
}

/// `GET /nodes/{node}/query-url-metadata`.
pub fn url_metadata(state: &mut State, call: &Call) -> Answer {
    let url = call.params.text("url");
    match state.remote_files.get(&url) {
        Some(file) => {
            let name = url.rsplit('/').next().unwrap_or_default();
            Ok(json!({ "filename": name, "size": file.size, "mimetype": "application/octet-stream" }).into())
        }
        None => Err(ApiError::die("invalid server response: '404 Not Found'")),
    }
}
