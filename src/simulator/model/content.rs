//! Content of storages by API: listing, allocating and deleting volumes (facts G.3).

use serde_json::{Value, json};

use super::error::{ApiError, Result};
use super::property::parse_size;
use super::state::{Caller, State};
use super::storage::{Storage, StorageKind, Volume, split_volid};
use super::task::Work;

/// A volume id from what stands in a path: with or without the storage, but of no other one.
fn full_volid(id: &str, volume: &str) -> Result<String> {
    if !volume.contains(':') {
        return Ok(format!("{id}:{volume}"));
    }
    let refuse = |text: String| Err(ApiError::param("volume", format!("{text}\n")));
    match split_volid(volume) {
        None => refuse(format!("unable to parse volume ID '{volume}'")),
        Some((other, _)) if other != id => refuse(format!("storage ID mismatch ({other} != {id})")),
        Some(_) => Ok(volume.to_owned()),
    }
}

impl State {
    /// Content type of a volume: files know it, disks take it from the kind of their owner.
    fn content_of(&self, volume: &Volume) -> String {
        if !volume.content.is_empty() {
            return volume.content.clone();
        }
        let container = volume.owner.and_then(|vmid| self.guests.get(&vmid));
        let container = container.is_some_and(|guest| guest.kind == super::guest::GuestKind::Lxc);
        if container || volume.format == "subvol" {
            "rootdir"
        } else {
            "images"
        }
        .to_owned()
    }

    fn content_row(&self, id: &str, storage: &Storage, name: &str, volume: &Volume) -> Value {
        // Both ends of names of CD images are listed as one format.
        let format = match volume.content.as_str() {
            "iso" => "iso",
            "snippets" => "snippet",
            _ => &volume.format,
        };
        let mut row = json!({
            "volid": format!("{id}:{name}"),
            "content": self.content_of(volume),
            "format": format,
            "size": volume.size,
            "ctime": volume.ctime,
        });
        if volume.content == "backup" {
            row["vmid"] = json!(volume.owner);
            let vm = name.contains("vzdump-qemu-");
            row["subtype"] = json!(if vm { "qemu" } else { "lxc" });
            if let Some(notes) = volume.data.get("notes") {
                row["notes"] = json!(notes);
            }
            if volume.data.contains_key("protected") {
                row["protected"] = json!(1);
            }
        } else if let Some(vmid) = volume.owner {
            row["vmid"] = json!(vmid);
            row["used"] = json!(volume.used);
            let parent = volume.parent.as_ref().map(|parent| match storage.kind {
                StorageKind::ZfsPool => format!("{parent}@__base__"),
                // Images name their base relative to themselves.
                _ => format!("../{parent}"),
            });
            row["parent"] = json!(parent);
        }
        row
    }

    /// `GET /nodes/{node}/storage/{storage}/content`.
    pub fn list_content(
        &self,
        caller: &Caller,
        node: &str,
        id: &str,
        content: Option<&str>,
        vmid: Option<u32>,
    ) -> Result<Vec<Value>> {
        let storage = self.active_storage(node, id)?;
        let visible = |name: &String| {
            self.check_volume_access(caller, None, &format!("{id}:{name}"), None)
                .is_ok()
        };
        // A guest has no CD images and archives; snippets and images to import are listed all the same.
        let of_guest = |volume: &Volume| match (vmid, volume.content.as_str()) {
            (None, _) | (Some(_), "snippets" | "import") => true,
            (Some(_), "iso" | "vztmpl") => false,
            (wanted, _) => volume.owner == wanted,
        };
        Ok(storage
            .on(node)
            .filter(|(_, volume)| of_guest(volume))
            .filter(|(_, volume)| content.is_none_or(|wanted| self.content_of(volume) == wanted))
            .filter(|(name, _)| visible(name))
            .map(|(name, volume)| self.content_row(id, storage, name, volume))
            .collect())
    }

    /// `GET …/content/{volume}`.
    pub fn volume_info(&self, caller: &Caller, node: &str, id: &str, volume: &str) -> Result<Value> {
        let volid = full_volid(id, volume)?;
        self.check_volume_access(caller, None, &volid, None)?;
        let (storage_id, name) = self.split(&volid)?;
        let storage = self.active_storage(node, storage_id)?;
        let parsed = storage.parse_name(name).map_err(ApiError::die)?;
        let Some(found) = storage.volume(node, name) else {
            return Err(ApiError::die(format!(
                "volume_size_info on '{volid}' failed - no format"
            )));
        };
        if found.size == 0 && parsed.format != "subvol" {
            return Err(ApiError::die(format!("volume '{volid}' has size zero")));
        }
        // The tool that looks counts in sectors.
        let mut row = json!({
            "path": self.volume_path(storage, name),
            "size": found.size.next_multiple_of(512),
            "used": found.used,
            "format": parsed.format,
        });
        if parsed.content == "backup" {
            row["notes"] = json!(found.data.get("notes").cloned().unwrap_or_default());
            row["protected"] = json!(u8::from(found.data.contains_key("protected")));
        }
        Ok(row)
    }

    /// Where a volume lies on the node.
    pub(super) fn volume_path(&self, storage: &Storage, name: &str) -> String {
        let stem = name.split('.').next().unwrap_or_default();
        let file = name.split_once('/').map(|(_, file)| file).unwrap_or_default();
        let folder = match storage.parse_name(name).map(|parsed| parsed.content) {
            Ok("images") | Err(_) => None,
            Ok("vztmpl") => Some("template/cache"),
            Ok("iso") => Some("template/iso"),
            Ok("backup") => Some("dump"),
            Ok(content) => Some(content),
        };
        match (storage.kind, folder) {
            (StorageKind::ZfsPool, _) => format!("/{}/{}", storage.path, name.rsplit('/').next().unwrap_or_default()),
            (_, Some(folder)) => format!("{}/{folder}/{file}", storage.path),
            (StorageKind::Btrfs, None) if name.ends_with(".raw") => format!("{}/images/{stem}/disk.raw", storage.path),
            (_, None) => format!("{}/images/{name}", storage.path),
        }
    }

    /// `POST /nodes/{node}/storage/{storage}/content`: a bare volume (facts K.1.7).
    pub fn alloc_content(
        &mut self,
        node: &str,
        id: &str,
        vmid: u32,
        filename: &str,
        size: &str,
        format: Option<&str>,
    ) -> Result<String> {
        let storage = self.usable_storage(node, id)?;
        let ending = ["raw", "qcow2", "vmdk", "subvol"]
            .into_iter()
            .find(|end| filename.ends_with(&format!(".{end}")));
        if let (Some(ending), Some(format)) = (ending, format)
            && ending != format
        {
            let text = format!("different storage formats ({format} != {ending})");
            return Err(ApiError::param("format", text));
        }
        let default = if storage.kind == StorageKind::ZfsPool && filename.starts_with("subvol-") {
            "subvol"
        } else {
            "raw"
        };
        let format = format.or(ending).unwrap_or(default).to_owned();
        let name = if storage.kind == StorageKind::ZfsPool {
            filename.to_owned()
        } else {
            format!("{vmid}/{filename}")
        };
        storage.parse_name(&name).map_err(ApiError::die)?;
        if storage.volume(node, &name).is_some() {
            let path = self.volume_path(storage, &name);
            let path = path.strip_suffix("/disk.raw").unwrap_or(&path);
            return Err(ApiError::die(format!("disk image '{path}' already exists")));
        }
        // A bare number is in KiB.
        let plain = size.bytes().all(|b| b.is_ascii_digit());
        let bytes = parse_size(size).unwrap_or_default() * if plain { 1024 } else { 1 };
        let volid = self.alloc_volume(node, id, &name, &format, bytes, false)?;
        if let Some(volume) = self.storage_mut(id)?.volume_mut(node, &name) {
            volume.owner = Some(vmid);
        }
        Ok(volid)
    }

    /// `DELETE …/content/{volume}`: the task, or nothing when it ended well within the time that the caller waits.
    pub fn delete_content(
        &mut self,
        caller: &Caller,
        node: &str,
        id: &str,
        volume: &str,
        delay_s: Option<u64>,
    ) -> Result<Option<String>> {
        let volid = full_volid(id, volume)?;
        let (storage_id, name) = self.split(&volid)?;
        let parsed = self.storage(storage_id)?.parse_name(name).map_err(ApiError::die)?;
        let path = format!("/storage/{storage_id}");
        match (parsed.content, parsed.owner) {
            ("backup", Some(owner)) => {
                self.need(caller, &path, &["Datastore.AllocateSpace"])?;
                self.need(caller, &format!("/vms/{owner}"), &["VM.Backup"])?;
            }
            _ => self.need(caller, &path, &["Datastore.Allocate"])?,
        }
        let worker = match parsed.owner {
            Some(owner) => format!("{owner}@{storage_id}"),
            None => storage_id.to_owned(),
        };
        let work = Work::VolumeDelete {
            node: node.to_owned(),
            volid,
        };
        let upid = self.start_task(node, "imgdel", &worker, &caller.id, work);
        if delay_s.is_none_or(|seconds| seconds * 1000 < self.latency.volume_delete) {
            return Ok(Some(upid));
        }
        let failed = self
            .end_now(&upid)
            .filter(|status| status != "OK" && !status.starts_with("WARNINGS"));
        failed.map_or(Ok(None), |status| Err(ApiError::die(status)))
    }

    /// `PUT …/content/{volume}`: notes and protection of backups.
    pub fn describe_content(
        &mut self,
        caller: &Caller,
        node: &str,
        id: &str,
        volume: &str,
        notes: Option<String>,
        protected: Option<bool>,
    ) -> Result<()> {
        let volid = full_volid(id, volume)?;
        self.check_volume_access(caller, None, &volid, None)?;
        let (storage_id, name) = self.split(&volid)?;
        let (storage_id, name) = (storage_id.to_owned(), name.to_owned());
        if !name.starts_with("backup/") {
            return Err(ApiError::die(match (notes, protected) {
                (Some(_), _) => "only backups can have notes",
                (None, Some(_)) => "only backups support attribute 'protected'",
                (None, None) => return Ok(()),
            }));
        }
        let Some(found) = self.storage_mut(&storage_id)?.volume_mut(node, &name) else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        match notes {
            Some(text) if text.is_empty() => drop(found.data.remove("notes")),
            Some(text) => drop(found.data.insert("notes".to_owned(), text)),
            None => {}
        }
        match protected {
            Some(true) => drop(found.data.insert("protected".to_owned(), "1".to_owned())),
            Some(false) => drop(found.data.remove("protected")),
            None => {}
        }
        Ok(())
    }

    pub(super) fn finish_volume_delete(&mut self, seq: u64, node: &str, volid: &str) -> Result<()> {
        let (storage_id, name) = self.split(volid)?;
        let storage = self.active_storage(node, storage_id)?;
        if storage.kind == StorageKind::Dir && storage.volume(node, name).is_none() {
            let path = self.volume_path(storage, name);
            self.log(seq, format!("disk image '{path}' does not exist"));
        }
        self.free_volume(node, volid)?;
        self.log(seq, format!("Removed volume '{volid}'"));
        Ok(())
    }
}
