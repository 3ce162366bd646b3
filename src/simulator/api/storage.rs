//! `/storage` and `/nodes/{node}/storage` (facts G).

use serde_json::{Map, Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::download::{Download, Upload, unreachable};
use crate::simulator::model::lxc_config::check_digest;
use crate::simulator::model::property::split_list;
use crate::simulator::model::storage::{Storage, StorageKind};
use crate::simulator::model::task::Work;
use crate::simulator::model::volname::fits_content;
use crate::simulator::model::{ApiError, Result, State};

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
    row
}

/// Digest of the file that holds all definitions.
fn file_digest(state: &State) -> String {
    let rows: Vec<String> = state
        .storages
        .iter()
        .map(|(id, storage)| format!("{:?}", definition_row(id, storage)))
        .collect();
    crate::simulator::model::config::digest(&rows.join("\n"))
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
        .map(|(id, storage)| with_digest(state, id, storage))
        .collect();
    Ok(rows.into())
}

fn with_digest(state: &State, id: &str, storage: &Storage) -> Value {
    let mut row = definition_row(id, storage);
    row.insert("digest".to_owned(), json!(file_digest(state)));
    Value::Object(row)
}

/// `GET /storage/{storage}`.
pub fn definition(state: &mut State, call: &Call) -> Answer {
    let id = call.params.text("storage");
    Ok(with_digest(state, &id, state.storage(&id)?).into())
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
    for key in params.list("delete") {
        match key.as_str() {
            "disable" => storage.disabled = false,
            "nodes" => storage.nodes.clear(),
            "shared" => storage.shared = false,
            _ => drop(storage.settings.remove(&key)),
        }
    }
    if let Some(content) = params.get("content") {
        storage.content = split_list(&content).into_iter().collect();
    }
    if let Some(disable) = params.maybe_flag("disable") {
        storage.disabled = disable;
    }
    if let Some(shared) = params.maybe_flag("shared") {
        storage.shared = shared;
    }
    if params.get("nodes").is_some() {
        storage.nodes = params.list("nodes").into_iter().collect();
    }
    storage.settings.extend(params.options(|key| !TAKEN.contains(&key)));
}

/// Refuses to delete what the kind of storage does not have, or cannot be without.
fn check_deletions(storage: &Storage, keys: &[String]) -> Result<()> {
    const COMMON: &[&str] = &["nodes", "disable", "content", "bwlimit"];
    const FOLDER: &[&str] = &[
        "content-dirs",
        "create-base-path",
        "create-subdirs",
        "format",
        "is_mountpoint",
        "max-protected-backups",
        "maxfiles",
        "mkdir",
        "preallocation",
        "prune-backups",
    ];
    let (own, fixed): (&[&str], _) = match storage.kind {
        StorageKind::Dir => (&["shared", "snapshot-as-volume-chain"], "path"),
        StorageKind::Btrfs => (&["nocow"], "path"),
        StorageKind::ZfsPool => (&["blocksize", "sparse", "mountpoint"], "pool"),
    };
    for key in keys {
        let folder = storage.kind != StorageKind::ZfsPool && FOLDER.contains(&key.as_str());
        if key == fixed {
            return Err(ApiError::die(format!("unable to delete fixed option '{key}'")));
        }
        if !folder && !COMMON.contains(&key.as_str()) && !own.contains(&key.as_str()) {
            return Err(ApiError::die(format!("no such option '{key}'")));
        }
    }
    Ok(())
}

/// `PUT /storage/{storage}`.
pub fn redefine(state: &mut State, call: &Call) -> Answer {
    let id = call.params.text("storage");
    let failed = |error: ApiError| ApiError {
        message: format!("update storage failed: {}", error.message),
        ..error
    };
    let digest = file_digest(state);
    let storage = state.storage(&id).map_err(failed)?;
    check_digest(&digest, call.params.get("digest").as_deref()).map_err(failed)?;
    check_deletions(storage, &call.params.list("delete")).map_err(failed)?;
    let kind = storage.kind.word();
    apply_settings(state.storage_mut(&id)?, call);
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
    let enabled = !storage.disabled && storage.is_on(node);
    let there = storage.active && enabled && state.nodes.get(node).is_some_and(|found| found.online);
    let used = storage.used(node);
    let mut row = json!({
        "type": storage.kind.word(),
        "content": content_text(storage),
        "enabled": u8::from(enabled),
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
    // For another node, only what both have.
    let other = params
        .get("target")
        .filter(|target| *target != node && target != "localhost");
    let rows: Vec<Value> = state
        .storages
        .iter()
        .filter(|(_, storage)| storage.is_on(&node) && !(params.flag("enabled") && storage.disabled))
        .filter(|(id, _)| params.get("storage").is_none_or(|wanted| wanted == **id))
        .filter(|(_, storage)| {
            other
                .as_ref()
                .is_none_or(|other| storage.shared && storage.is_on(other))
        })
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
            if params.flag("format") {
                let formats = storage.kind.formats();
                let known: Map<String, Value> = formats.iter().map(|name| ((*name).to_owned(), json!(1))).collect();
                row["format"] = json!([known, "raw"]);
                row["formats"] = json!({ "supported": formats, "default": "raw" });
            }
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

/// `DELETE …/content/{volume}`.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (id, volume) = (params.text("storage"), params.text("volume"));
    let upid = state.delete_content(&call.caller, &params.node(), &id, &volume, params.int("delay"))?;
    Ok(upid.map_or(Reply::NULL, Reply::from))
}

/// A file name as Proxmox brings it into a storage.
pub(super) fn normal_filename(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    last.chars().map(safe).collect()
}

pub(super) fn check_filename(content: &str, filename: &str) -> Result<()> {
    let import = content == "import";
    // Descriptions of appliances come only with them.
    if fits_content(content, filename) && !(import && filename.ends_with(".ovf")) {
        return Ok(());
    }
    let text = if import {
        "invalid filename or wrong extension"
    } else {
        "wrong file extension"
    };
    Err(ApiError::param("filename", text))
}

/// `POST …/upload`.
pub fn upload(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (node, id, content) = (params.node(), params.text("storage"), params.text("content"));
    let storage = state.usable_storage(&node, &id)?;
    if storage.kind == StorageKind::ZfsPool {
        let kind = storage.kind.word();
        return Err(ApiError::die(format!("can't upload to storage type '{kind}'")));
    }
    let Some(file) = call.upload.clone() else {
        return Err(ApiError::die("missing temporary file name"));
    };
    let filename = normal_filename(&params.text("filename"));
    check_filename(&content, &filename)?;
    if !storage.content.contains(&content) {
        return Err(ApiError::die(format!(
            "storage '{id}' does not support '{content}' content"
        )));
    }
    state.active_storage(&node, &id)?;
    let work = Upload {
        node: node.clone(),
        storage: id,
        content,
        filename,
        file,
        checksum: params.get("checksum-algorithm").zip(params.get("checksum")),
    };
    let work = Work::Upload(Box::new(work));
    Ok(state.start_task(&node, "imgcopy", "", &call.caller.id, work).into())
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
    let filename = normal_filename(&params.text("filename"));
    check_filename(&content, &filename)?;
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
        compression: params.get("compression"),
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
        None => Err(ApiError::die(match unreachable(&url) {
            Some(host) => format!("invalid server response: '500 Can't connect to {host} (Connection refused)'"),
            None => "invalid server response: '404 Not Found'".to_owned(),
        })),
    }
}
