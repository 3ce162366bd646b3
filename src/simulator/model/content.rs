//! Content of storages by API: listing, allocating and deleting volumes (facts G.3).

use serde_json::{Value, json};

use super::error::{ApiError, Result};
use super::property::parse_size;
use super::state::{Caller, State};
use super::storage::{Storage, StorageKind, Volume, split_volid};
use super::task::Work;

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
        let mut row = json!({
            "volid": format!("{id}:{name}"),
            "content": self.content_of(volume),
            "format": volume.format,
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
                _ => parent.clone(),
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
        let everything = self.may(caller, &format!("/storage/{id}"), &["Datastore.Allocate"]);
        let visible = |volume: &Volume| {
            // Without Datastore.Allocate only disks of guests that the caller may see are listed.
            everything
                || volume
                    .owner
                    .is_none_or(|owner| self.may(caller, &format!("/vms/{owner}"), &["VM.Audit"]))
                || self.may(caller, &format!("/storage/{id}"), &["Datastore.Audit"])
        };
        Ok(storage
            .on(node)
            .filter(|(_, volume)| vmid.is_none_or(|vmid| volume.owner == Some(vmid)))
            .filter(|(_, volume)| content.is_none_or(|wanted| self.content_of(volume) == wanted))
            .filter(|(_, volume)| visible(volume))
            .map(|(name, volume)| self.content_row(id, storage, name, volume))
            .collect())
    }

    /// `GET …/content/{volume}`.
    pub fn volume_info(&self, caller: &Caller, node: &str, id: &str, volume: &str) -> Result<Value> {
        let volid = self.full_volid(id, volume)?;
        let owner = self.volume_owner(&volid).unwrap_or_default();
        self.check_volume_access(caller, owner, &volid)?;
        let (storage_id, name) = self.split(&volid)?;
        let storage = self.active_storage(node, storage_id)?;
        let Some(found) = storage.volume(node, name) else {
            return Err(ApiError::die(format!(
                "volume_size_info on '{volid}' failed - no such volume"
            )));
        };
        Ok(json!({
            "path": self.volume_path(storage, name),
            "size": found.size,
            "used": found.used,
            "format": found.format,
        }))
    }

    fn volume_path(&self, storage: &Storage, name: &str) -> String {
        let stem = name.split('.').next().unwrap_or_default();
        match storage.kind {
            StorageKind::ZfsPool => format!("/{}/{}", storage.path, name.rsplit('/').next().unwrap_or_default()),
            StorageKind::Btrfs if name.ends_with(".raw") => format!("{}/images/{stem}/disk.raw", storage.path),
            _ => format!("{}/images/{name}", storage.path),
        }
    }

    /// A volume id from what stands in a path: with or without the storage.
    fn full_volid(&self, id: &str, volume: &str) -> Result<String> {
        let volid = match split_volid(volume) {
            Some(_) => volume.to_owned(),
            None => format!("{id}:{volume}"),
        };
        let (storage_id, name) = self.split(&volid)?;
        let storage = self.storage(storage_id)?;
        let file = ["vztmpl/", "iso/", "backup/", "snippets/", "import/"]
            .iter()
            .any(|kind| name.starts_with(kind));
        if !file {
            storage.owner_of(name).map_err(ApiError::die)?;
        }
        Ok(volid)
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
            if ending.is_none() {
                return Err(ApiError::die(format!("unable to parse volume filename '{filename}'")));
            }
            format!("{vmid}/{filename}")
        };
        if let Err(text) = storage.owner_of(&name) {
            return Err(ApiError::die(text));
        }
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

    /// `DELETE …/content/{volume}`.
    pub fn delete_content(&mut self, caller: &Caller, node: &str, id: &str, volume: &str) -> Result<String> {
        self.storage(id)?;
        let volid = self.full_volid(id, volume)?;
        let (storage_id, name) = self.split(&volid)?;
        let privilege = if name.starts_with("backup/") {
            "Datastore.AllocateSpace"
        } else {
            "Datastore.Allocate"
        };
        self.need(caller, &format!("/storage/{storage_id}"), &[privilege])?;
        let protected = self
            .volume(node, &volid)
            .is_some_and(|found| found.data.contains_key("protected"));
        if protected {
            return Err(ApiError::die(format!(
                "cannot remove protected volume '{volid}' on '{storage_id}'"
            )));
        }
        let worker = match self.volume_owner(&volid) {
            Ok(owner) => format!("{owner}@{storage_id}"),
            Err(_) => storage_id.to_owned(),
        };
        let work = Work::VolumeDelete {
            node: node.to_owned(),
            volid,
        };
        Ok(self.start_task(node, "imgdel", &worker, &caller.id, work))
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
        let volid = self.full_volid(id, volume)?;
        let (storage_id, name) = self.split(&volid)?;
        let (storage_id, name) = (storage_id.to_owned(), name.to_owned());
        self.need(caller, &format!("/storage/{storage_id}"), &["Datastore.AllocateSpace"])?;
        if !name.starts_with("backup/") {
            let what = if notes.is_some() { "have notes" } else { "be protected" };
            return Err(ApiError::die(format!("only backups can {what}")));
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
        if storage.owner_of(name).is_err() {
            let storage_id = storage_id.to_owned();
            let name = name.to_owned();
            self.storage_mut(&storage_id)?.take(node, &name);
        } else {
            if storage.kind == StorageKind::Btrfs && storage.volume(node, name).is_none() {
                let path = self.volume_path(storage, name);
                let path = path.strip_suffix("/disk.raw").unwrap_or(&path);
                let text = format!("command 'btrfs subvolume delete -- {path}' failed");
                return Err(ApiError::die(format!(
                    "{text}: ERROR: Could not statfs: No such file or directory"
                )));
            }
            self.free_volume(node, volid)?;
        }
        self.log(seq, format!("Removed volume '{volid}'"));
        Ok(())
    }
}
