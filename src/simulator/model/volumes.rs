//! What guests do with volumes: allocate, free, snapshot, roll back, clone, copy, rename, grow (facts G.3, K.1).

use super::error::{ApiError, Result};
use super::property::print_size;
use super::state::State;
use super::storage::{StorageKind, Volume, VolumeSnapshot, split_volid};

/// Space that a fresh file system takes.
const EMPTY_FILESYSTEM: u64 = 34 << 20;

fn unparsable(volid: &str) -> ApiError {
    ApiError::die(format!("unable to parse volume ID '{volid}'"))
}

impl State {
    /// Storage id and volume name of a volume id.
    pub fn split<'a>(&self, volid: &'a str) -> Result<(&'a str, &'a str)> {
        split_volid(volid).ok_or_else(|| unparsable(volid))
    }

    /// Allocates a disk for a container. Proxmox formats it and gives it to the mapped root.
    pub fn alloc_ct_volume(&mut self, node: &str, storage_id: &str, vmid: u32, size: u64) -> Result<String> {
        let storage = self.active_storage(node, storage_id)?;
        if !storage.content.contains("rootdir") {
            return Err(ApiError::die(format!(
                "storage '{storage_id}' does not support content type 'rootdir'"
            )));
        }
        let subvolume = storage.kind == StorageKind::ZfsPool || size == 0;
        let format = if subvolume { "subvol" } else { "raw" };
        let name = storage.free_name(node, vmid, format);
        self.alloc_volume(node, storage_id, &name, format, size, true)
    }

    /// Allocates a volume under a given name.
    pub fn alloc_volume(
        &mut self,
        node: &str,
        storage_id: &str,
        name: &str,
        format: &str,
        size: u64,
        formatted: bool,
    ) -> Result<String> {
        let storage = self.active_storage(node, storage_id)?;
        let used = if formatted {
            EMPTY_FILESYSTEM.min(size.max(1 << 20))
        } else {
            0
        };
        if storage.used(node) + used > storage.total {
            let text = match storage.kind {
                StorageKind::ZfsPool => format!("zfs error: cannot create '{}/{name}': out of space", storage.path),
                _ => format!("unable to create image: No space left on device ('{}')", storage.path),
            };
            return Err(ApiError::die(text));
        }
        let owner = storage.owner_of(name).ok();
        let uid = self.next_number();
        let ctime = self.seconds();
        let volume = Volume {
            uid,
            size,
            used,
            format: format.to_owned(),
            owner,
            ctime,
            formatted,
            ..Volume::default()
        };
        self.storage_mut(storage_id)?.insert(node, name, volume);
        Ok(format!("{storage_id}:{name}"))
    }

    /// Frees a volume. Linked clones keep the volume of their template.
    pub fn free_volume(&mut self, node: &str, volid: &str) -> Result<()> {
        let (storage_id, name) = self.split(volid)?;
        let storage = self.active_storage(node, storage_id)?;
        let parsed = storage.parse_name(name).map_err(ApiError::die)?;
        if storage.kind != StorageKind::Btrfs && !storage.children(node, name).is_empty() {
            return Err(ApiError::die(format!(
                "base volume '{name}' is still in use by linked clones"
            )));
        }
        let found = storage.volume(node, name);
        let subvolume = parsed.content == "images" && matches!(parsed.format, "raw" | "subvol");
        if storage.kind == StorageKind::Btrfs && subvolume && found.is_none() {
            let path = self.volume_path(storage, name);
            let path = path.strip_suffix("/disk.raw").unwrap_or(&path);
            return Err(ApiError::die(format!(
                "command 'btrfs subvolume delete -- {path}' failed: ERROR: Could not statfs: No such file or directory"
            )));
        }
        if found.is_some_and(|volume| volume.data.contains_key("protected")) {
            return Err(ApiError::die(format!(
                "cannot remove protected volume '{name}' on '{storage_id}'"
            )));
        }
        self.storage_mut(storage_id)?.take(node, name);
        Ok(())
    }

    /// Guest in the name of a volume.
    pub fn volume_owner(&self, volid: &str) -> Result<u32> {
        let (storage_id, name) = self.split(volid)?;
        self.storage(storage_id)?.owner_of(name).map_err(ApiError::die)
    }

    /// Size of a volume as `size=` shows it, if the volume exists.
    pub fn volume_size_text(&self, node: &str, volid: &str) -> Option<String> {
        self.volume(node, volid).map(|volume| print_size(volume.size))
    }

    /// Whether a volume can do `feature` now, or in a snapshot.
    pub fn volume_has_feature(&self, node: &str, volid: &str, feature: &str, snapshot: bool) -> bool {
        let Some((storage_id, name)) = split_volid(volid) else {
            return false;
        };
        let Some(storage) = self.storages.get(storage_id) else {
            return false;
        };
        storage
            .volume(node, name)
            .is_some_and(|volume| storage.has_feature(feature, name, volume, snapshot))
    }

    fn volume_mut(&mut self, node: &str, volid: &str) -> Result<&mut Volume> {
        let (storage_id, name) = self.split(volid)?;
        self.storage_mut(storage_id)?
            .volume_mut(node, name)
            .ok_or_else(|| ApiError::die(format!("volume '{volid}' does not exist")))
    }

    /// Takes a snapshot of a volume.
    pub fn snapshot_volume(&mut self, node: &str, volid: &str, snapshot: &str) -> Result<()> {
        let (storage_id, name) = self.split(volid)?;
        let storage = self.active_storage(node, storage_id)?;
        let (kind, path) = (storage.kind, format!("{}/{name}@{snapshot}", storage.path));
        let volume = self.volume_mut(node, volid)?;
        if volume.snapshots.iter().any(|found| found.name == snapshot) {
            // Left behind by a guest that had this volume attached (facts K.1.5).
            let text = match kind {
                StorageKind::ZfsPool => format!("zfs error: cannot create snapshot '{path}': dataset already exists"),
                _ => format!("snapshot '{snapshot}' of volume '{volid}' already exists"),
            };
            return Err(ApiError::die(text));
        }
        let taken = VolumeSnapshot {
            name: snapshot.to_owned(),
            size: volume.size,
            data: volume.data.clone(),
        };
        volume.snapshots.push(taken);
        Ok(())
    }

    /// Deletes a snapshot of a volume; an absent one is no error.
    pub fn delete_volume_snapshot(&mut self, node: &str, volid: &str, snapshot: &str) -> Result<()> {
        self.volume_mut(node, volid)?
            .snapshots
            .retain(|found| found.name != snapshot);
        Ok(())
    }

    /// Whether a volume could go back to a snapshot: ZFS only to the newest one.
    pub fn check_volume_rollback(&self, node: &str, volid: &str, snapshot: &str) -> Result<()> {
        let (storage_id, _) = self.split(volid)?;
        let kind = self.storage(storage_id)?.kind;
        let Some(volume) = self.volume(node, volid) else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        let newest = volume.snapshots.last().is_some_and(|found| found.name == snapshot);
        if kind == StorageKind::ZfsPool && !newest {
            return Err(ApiError::die(format!(
                "can't rollback, '{snapshot}' is not most recent snapshot on '{volid}'"
            )));
        }
        Ok(())
    }

    /// Takes a volume back to a snapshot.
    pub fn rollback_volume(&mut self, node: &str, volid: &str, snapshot: &str) -> Result<()> {
        self.check_volume_rollback(node, volid, snapshot)?;
        let (storage, _) = self.split(volid)?;
        let zfs = self.active_storage(node, storage)?.kind == StorageKind::ZfsPool;
        let volume = self.volume_mut(node, volid)?;
        if let Some(found) = volume.snapshots.iter().find(|found| found.name == snapshot).cloned() {
            // The size of a ZFS filesystem is its quota, a property that no rollback touches.
            if !(zfs && volume.format == "subvol") {
                volume.size = found.size;
            }
            volume.data = found.data;
        }
        Ok(())
    }

    fn content_at(volume: &Volume, snapshot: Option<&str>) -> (u64, std::collections::BTreeMap<String, String>) {
        let taken = snapshot.and_then(|name| volume.snapshots.iter().find(|found| found.name == name));
        taken.map_or_else(
            || (volume.size, volume.data.clone()),
            |found| (found.size, found.data.clone()),
        )
    }

    /// Makes a linked clone for `newid`.
    pub fn link_volume(&mut self, node: &str, volid: &str, snapshot: Option<&str>, newid: u32) -> Result<String> {
        let (storage_id, name) = self.split(volid)?;
        let storage = self.active_storage(node, storage_id)?;
        let Some(source) = storage.volume(node, name).cloned() else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        let (size, data) = Self::content_at(&source, snapshot);
        let own = storage.free_name(node, newid, &source.format);
        let (clone_name, parent) = match storage.kind {
            StorageKind::Btrfs => (own, None),
            _ => {
                let base = name
                    .rsplit('/')
                    .take(if storage.kind == StorageKind::Dir { 2 } else { 1 });
                let base: Vec<&str> = base.collect::<Vec<_>>().into_iter().rev().collect();
                (format!("{}/{own}", base.join("/")), Some(name.to_owned()))
            }
        };
        let uid = self.next_number();
        let ctime = self.seconds();
        let volume = Volume {
            uid,
            size,
            used: 1 << 20,
            owner: Some(newid),
            ctime,
            parent,
            data,
            snapshots: Vec::new(),
            ..source
        };
        let storage_id = storage_id.to_owned();
        self.storage_mut(&storage_id)?.insert(node, &clone_name, volume);
        Ok(format!("{storage_id}:{clone_name}"))
    }

    /// Copies a volume in full for `newid`, to `target` or where it is.
    pub fn copy_volume(
        &mut self,
        node: &str,
        volid: &str,
        snapshot: Option<&str>,
        target: Option<&str>,
        newid: u32,
    ) -> Result<String> {
        let (storage_id, _) = self.split(volid)?;
        let Some(source) = self.volume(node, volid).cloned() else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        if source.format == "subvol" && self.storage(storage_id)?.kind == StorageKind::Btrfs {
            // Copying takes a temporary snapshot, which cannot be mounted there (facts K.1.6).
            return Err(ApiError::die("cannot mount subvol snapshots for storage type 'btrfs'"));
        }
        let (size, data) = Self::content_at(&source, snapshot);
        let copy = self.alloc_ct_volume(node, target.unwrap_or(storage_id), newid, size)?;
        let volume = self.volume_mut(node, &copy)?;
        volume.data = data;
        volume.used = source.used;
        Ok(copy)
    }

    /// Renames a volume to its template form.
    pub fn make_base(&mut self, node: &str, volid: &str) -> Result<String> {
        let (storage_id, name) = self.split(volid)?;
        let base = self.storage(storage_id)?.base_name(name);
        let storage_id = storage_id.to_owned();
        self.rename(node, &storage_id, name, &base)
    }

    /// Gives a volume to another guest, under a name of that guest.
    pub fn reassign_volume(&mut self, node: &str, volid: &str, vmid: u32) -> Result<String> {
        let (storage_id, name) = self.split(volid)?;
        let storage = self.active_storage(node, storage_id)?;
        let format = storage
            .volume(node, name)
            .map_or("raw", |volume| volume.format.as_str());
        let fresh = storage.free_name(node, vmid, format);
        let storage_id = storage_id.to_owned();
        let renamed = self.rename(node, &storage_id, name, &fresh)?;
        self.volume_mut(node, &renamed)?.owner = Some(vmid);
        Ok(renamed)
    }

    fn rename(&mut self, node: &str, storage_id: &str, from: &str, to: &str) -> Result<String> {
        let storage = self.storage_mut(storage_id)?;
        let Some(mut volume) = storage.take(node, from) else {
            return Err(ApiError::die(format!("volume '{storage_id}:{from}' does not exist")));
        };
        // A template made of a linked clone no longer shows its origin in its name.
        if storage.kind != StorageKind::ZfsPool {
            volume.parent = None;
        }
        storage.insert(node, to, volume);
        Ok(format!("{storage_id}:{to}"))
    }

    /// Sets the size of a volume.
    pub fn set_volume_size(&mut self, node: &str, volid: &str, size: u64) -> Result<()> {
        self.volume_mut(node, volid)?.size = size;
        Ok(())
    }

    /// Sets how much of a volume is in use.
    pub fn set_volume_used(&mut self, node: &str, volid: &str, used: u64) -> Result<()> {
        self.volume_mut(node, volid)?.used = used;
        Ok(())
    }

    /// Refuses a caller who may not use a volume or archive (facts D.1).
    pub fn check_volume_access(
        &self,
        caller: &super::state::Caller,
        vmid: Option<u32>,
        volid: &str,
        content: Option<&str>,
    ) -> Result<()> {
        let Some((storage_id, name)) = split_volid(volid) else {
            if caller.is_true_root() {
                return Ok(());
            }
            let place = "at /usr/share/perl5/PVE/Storage.pm line 651.";
            return Err(ApiError::die(format!(
                "Only root can pass arbitrary filesystem paths. {place}"
            )));
        };
        let parsed = self.storage(storage_id)?.parse_name(name).map_err(ApiError::die)?;
        // Where a disk is expected, an image is one too.
        let fits = |wanted: &str| parsed.content == wanted || (wanted == "rootdir" && parsed.content == "images");
        if let Some(wanted) = content.filter(|wanted| !fits(wanted)) {
            return Err(ApiError::die(format!(
                "unable to use volume {volid} - content type needs to be '{wanted}'"
            )));
        }
        let path = format!("/storage/{storage_id}");
        if self.may(caller, &path, &["Datastore.Allocate"]) {
            return Ok(());
        }
        match (parsed.content, parsed.owner) {
            ("iso" | "vztmpl" | "import", _) => {
                self.need_any(caller, &path, &["Datastore.AllocateSpace", "Datastore.Audit"])
            }
            (_, Some(owner)) if vmid == Some(owner) => Ok(()),
            ("backup", Some(owner)) => {
                self.need(caller, &path, &["Datastore.AllocateSpace"])?;
                self.need(caller, &format!("/vms/{owner}"), &["VM.Backup"])
            }
            ("images", Some(owner)) => {
                self.need(caller, &path, &["Datastore.Audit"])?;
                self.need(caller, &format!("/vms/{owner}"), &["VM.Config.Disk"])
            }
            _ => Err(ApiError::die(format!("missing privileges to access {volid}"))),
        }
    }
}
