//! Growing and moving volumes of containers (facts D.7, D.11, K.1.4).

use serde::{Deserialize, Serialize};

use super::error::{ApiError, Result};
use super::lxc_config::check_digest;
use super::lxc_options::{Mount, OptionCheck, add_unused, index_of, uses_volume};
use super::property::{parse_size, print_size};
use super::state::{Caller, State};
use super::storage::StorageKind;
use super::task::Work;

/// What a resize task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Node.
    pub node: String,
    /// Container.
    pub vmid: u32,
    /// `rootfs` or `mpN`.
    pub disk: String,
    /// New size in bytes.
    pub size: u64,
}

/// What a move task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveVolume {
    /// Node.
    pub node: String,
    /// Container.
    pub vmid: u32,
    /// `rootfs` or `mpN`.
    pub volume: String,
    /// Target storage.
    pub storage: Option<String>,
    /// Target container and its key.
    pub target: Option<(u32, String)>,
    /// Delete the old volume instead of keeping it as `unusedN`.
    pub delete: bool,
}

/// Parameters of `POST …/move_volume`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoveRequest {
    /// Key of the volume.
    pub volume: String,
    /// Target storage.
    pub storage: Option<String>,
    /// Target container.
    pub target_vmid: Option<u32>,
    /// Key in the target container.
    pub target_volume: Option<String>,
    /// Delete the source.
    pub delete: bool,
    /// Digest of the source.
    pub digest: Option<String>,
    /// Digest of the target.
    pub target_digest: Option<String>,
}

/// What Proxmox says when it parses the value of a mount point that is not there.
fn no_such_mount() -> ApiError {
    let missing = "property is missing and it is not optional".to_owned();
    let mut error = ApiError::die("format error");
    error.errors = Some([("mp".to_owned(), missing.clone()), ("volume".to_owned(), missing)].into());
    error
}

impl State {
    fn mount_of(&self, node: &str, vmid: u32, key: &str) -> Result<Mount> {
        let current = &self.ct(node, vmid)?.config().current;
        current.get(key).map(Mount::parse).ok_or_else(no_such_mount)
    }

    /// `PUT …/resize`.
    pub fn resize_ct(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        disk: &str,
        size: &str,
        digest: Option<&str>,
    ) -> Result<String> {
        let guest = self.ct(node, vmid)?;
        let current = &guest.config().current;
        let who = OptionCheck {
            caller,
            vmid,
            pool: None,
            old: Some(current),
            unprivileged: true,
        };
        // The parameter is called `disk`, so the class of plain options is asked for (facts D.7).
        self.check_option(&who, "disk", Some(size))?;
        self.check_flock(vmid, None)?;
        self.check_lock(vmid)?;
        check_digest(&guest.digest(), digest)?;
        self.check_writable()?;
        let mount = self.mount_of(node, vmid, disk)?;
        let owner = self.volume_owner(mount.volume())?;
        if owner != vmid {
            return Err(ApiError::die(format!(
                "can't resize mount point owned by another container ({owner})"
            )));
        }
        let (storage, _) = self.split(mount.volume())?;
        self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        self.active_storage(node, storage)?;
        let now = self.volume(node, mount.volume()).map(|volume| volume.size);
        let Some(now) = now else {
            return Err(ApiError::die(format!("volume '{}' does not exist", mount.volume())));
        };
        let wanted = match size.strip_prefix('+') {
            Some(more) => now + parse_size(more).unwrap_or_default(),
            None => parse_size(size).unwrap_or_default(),
        };
        if wanted < now {
            return Err(ApiError::die("unable to shrink disk size"));
        }
        if wanted == now {
            return Err(ApiError::die("disk is already at specified size"));
        }
        let work = Resize {
            node: node.to_owned(),
            vmid,
            disk: disk.to_owned(),
            size: wanted,
        };
        Ok(self.start_task(node, "resize", &vmid.to_string(), &caller.id, Work::CtResize(work)))
    }

    pub(super) fn begin_ct_resize(&mut self, seq: u64, resize: &Resize) -> Result<u64> {
        self.take_flock(resize.vmid, seq)?;
        self.check_lock(resize.vmid)?;
        let mount = self.mount_of(&resize.node, resize.vmid, &resize.disk)?;
        let (storage_id, name) = self.split(mount.volume())?;
        let storage = self.storage(storage_id)?;
        let file = name.rsplit('/').next().unwrap_or_default();
        let subvolume = storage.parse_name(name).is_ok_and(|parsed| parsed.format == "subvol");
        if storage.kind == StorageKind::Btrfs && subvolume {
            let text = "cannot resize subvolume - btrfs quotas are currently not supported";
            return Err(ApiError::die(text));
        }
        if storage.kind == StorageKind::Btrfs && file.starts_with("base-") {
            let stem = file.split('.').next().unwrap_or_default();
            let image = format!("{}/images/{}/{stem}/disk.raw", storage.path, resize.vmid);
            self.log(
                seq,
                format!("qemu-img: Could not open '{image}': Read-only file system"),
            );
            let command = format!(
                "/usr/bin/qemu-img resize '--preallocation=off' -f raw {image} {}",
                resize.size
            );
            return Err(ApiError::die(format!("command '{command}' failed: exit code 1")));
        }
        Ok(self.latency.resize)
    }

    pub(super) fn finish_ct_resize(&mut self, seq: u64, resize: &Resize) -> Result<()> {
        let mut mount = self.mount_of(&resize.node, resize.vmid, &resize.disk)?;
        self.set_volume_size(&resize.node, mount.volume(), resize.size)?;
        mount.set("size", print_size(resize.size));
        self.guest_mut(resize.vmid)?
            .edit(|config| config.current.set(&resize.disk, mount.print()));
        self.log(seq, "Image resized.");
        Ok(())
    }

    /// `POST …/move_volume`.
    pub fn move_ct_volume(&mut self, caller: &Caller, node: &str, vmid: u32, request: MoveRequest) -> Result<String> {
        match (&request.storage, request.target_vmid) {
            (None, None) => {
                let text = "both 'storage' and 'target-vmid' missing, either needs to be set".to_owned();
                Err(ApiError::params([
                    ("storage".to_owned(), text.clone()),
                    ("target-vmid".to_owned(), text),
                ]))
            }
            (Some(_), Some(_)) => {
                let text = "both 'storage' and 'target-vmid' set, only one allowed".to_owned();
                Err(ApiError::params([
                    ("storage".to_owned(), text.clone()),
                    ("target-vmid".to_owned(), text),
                ]))
            }
            (Some(storage), None) => {
                self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
                self.move_to_storage(caller, node, vmid, &request)
            }
            (None, Some(target)) => self.move_to_guest(caller, node, vmid, target, &request),
        }
    }

    fn move_to_storage(&mut self, caller: &Caller, node: &str, vmid: u32, request: &MoveRequest) -> Result<String> {
        let key = &request.volume;
        self.check_flock(vmid, None)?;
        let guest = self.ct(node, vmid)?;
        self.check_lock(vmid)?;
        self.check_writable()?;
        if guest.running.is_some() {
            return Err(ApiError::die("cannot move volumes of a running container"));
        }
        if index_of(key, "unused").is_some() {
            let text = format!("cannot move volume '{key}', only configured volumes can be moved to another storage");
            return Err(ApiError::die(text));
        }
        let mount = self.mount_of(node, vmid, key)?;
        let snapshots = &guest.config().snapshots;
        if request.delete && snapshots.values().any(|section| uses_volume(section, mount.volume())) {
            let text = "you can't move a volume with snapshots and delete the source";
            return Err(ApiError::die(text));
        }
        check_digest(&guest.digest(), request.digest.as_deref())?;
        self.guest_mut(vmid)?.edit(|config| config.current.set("lock", "disk"));
        let work = MoveVolume {
            node: node.to_owned(),
            vmid,
            volume: key.clone(),
            storage: request.storage.clone(),
            target: None,
            delete: request.delete,
        };
        Ok(self.start_task(
            node,
            "move_volume",
            &vmid.to_string(),
            &caller.id,
            Work::CtMoveVolume(Box::new(work)),
        ))
    }

    fn move_to_guest(
        &mut self,
        caller: &Caller,
        node: &str,
        vmid: u32,
        target: u32,
        request: &MoveRequest,
    ) -> Result<String> {
        let key = &request.volume;
        let target_key = request.target_volume.clone().unwrap_or_else(|| key.clone());
        self.need(caller, &format!("/vms/{target}"), &["VM.Config.Disk"])?;
        let storage = self.check_ct_reassign(node, vmid, target, &target_key, request)?;
        self.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        let id = format!("{vmid}-{key}>{target}-{target_key}");
        let work = MoveVolume {
            node: node.to_owned(),
            vmid,
            volume: key.clone(),
            storage: None,
            target: Some((target, target_key)),
            delete: false,
        };
        Ok(self.start_task(node, "move_volume", &id, &caller.id, Work::CtMoveVolume(Box::new(work))))
    }

    /// Checks before a volume goes to another container; tells its storage.
    fn check_ct_reassign(
        &self,
        node: &str,
        vmid: u32,
        target: u32,
        target_key: &str,
        request: &MoveRequest,
    ) -> Result<String> {
        let die = |text: String| Err(ApiError::die(text));
        let key = &request.volume;
        let unused = |key: &str| index_of(key, "unused").is_some();
        if key == "rootfs" || target_key == "rootfs" {
            return die("Cannot move to/from 'rootfs'".to_owned());
        }
        if unused(key) && !unused(target_key) {
            return die("Moving an unused volume to a used one is not possible".to_owned());
        }
        for id in [vmid, target] {
            if !self.exists(id) {
                return die(format!("could not find CT {id}"));
            }
        }
        let there = self
            .guests
            .get(&target)
            .map(|guest| guest.node.as_str())
            .unwrap_or_default();
        if there != node {
            return die(format!(
                "Both containers need to be on the same node ({node} != {there})"
            ));
        }
        let guest = self.ct(node, vmid)?;
        self.check_lock(vmid)?;
        let other = self.ct(node, target)?;
        self.check_lock(target)?;
        if guest.is_template() || other.is_template() {
            return die("Can't move volumes from or to template CT".to_owned());
        }
        for (id, guest, digest) in [(vmid, guest, &request.digest), (target, other, &request.target_digest)] {
            check_digest(&guest.digest(), digest.as_deref())
                .map_err(|error| ApiError::die(format!("Container {id}: {}", error.first_line())))?;
        }
        let Some(mount) = guest.config().current.get(key).map(Mount::parse) else {
            return die(format!("volume '{key}' for container '{vmid}' does not exist"));
        };
        if other.config().current.get(target_key).is_some() {
            let text = format!("Target volume key '{target_key}' is already in use for container '{target}'");
            return die(text);
        }
        let mut snapshots = guest.config().snapshots.values();
        if snapshots.any(|section| uses_volume(section, mount.volume())) {
            return die("Cannot move volume used by a snapshot to another container".to_owned());
        }
        let (storage, _) = self.split(mount.volume())?;
        if !self.volume_has_feature(node, mount.volume(), "rename", false) {
            return die("Storage does not support moving of this disk to another container".to_owned());
        }
        if guest.running.is_some() && !unused(key) {
            let text = "Cannot move in-use volume while the source CT is running - detach or shutdown first";
            return die(text.to_owned());
        }
        Ok(storage.to_owned())
    }

    pub(super) fn begin_ct_move_volume(&mut self, seq: u64, moving: &MoveVolume) -> Result<u64> {
        if moving.target.is_some() {
            return Ok(self.latency.resize);
        }
        let storage = moving.storage.as_deref().unwrap_or_default();
        let check = self.active_storage(&moving.node, storage).map(|_| ());
        if let Err(error) = check {
            self.unlock(moving.vmid);
            return Err(error);
        }
        self.log(seq, format!("moving volume '{}' to storage '{storage}'", moving.volume));
        Ok(self.latency.move_volume)
    }

    pub(super) fn finish_ct_move_volume(&mut self, seq: u64, moving: &MoveVolume) -> Result<()> {
        let result = match &moving.target {
            Some((target, key)) => self.reassign(seq, moving, *target, key),
            None => self.relocate(moving),
        };
        if moving.target.is_none() {
            self.unlock(moving.vmid);
        }
        result
    }

    fn relocate(&mut self, moving: &MoveVolume) -> Result<()> {
        let mut mount = self.mount_of(&moving.node, moving.vmid, &moving.volume)?;
        let old = mount.volume().to_owned();
        let base = old.rsplit('/').next().is_some_and(|name| name.starts_with("base"));
        let mut copy = self.copy_volume(&moving.node, &old, None, moving.storage.as_deref(), moving.vmid)?;
        if base {
            copy = self.make_base(&moving.node, &copy)?;
        }
        if let Some(size) = self.volume_size_text(&moving.node, &copy) {
            mount.set("size", size);
        }
        mount.set("volume", copy);
        self.guest_mut(moving.vmid)?.edit(|config| {
            config.current.set(&moving.volume, mount.print());
            if !moving.delete {
                add_unused(&mut config.current, &old);
            }
        });
        if moving.delete && self.free_volume(&moving.node, &old).is_err() {
            self.guest_mut(moving.vmid)?
                .edit(|config| add_unused(&mut config.current, &old));
        }
        Ok(())
    }

    fn reassign(&mut self, seq: u64, moving: &MoveVolume, target: u32, key: &str) -> Result<()> {
        let mut mount = self.mount_of(&moving.node, moving.vmid, &moving.volume)?;
        let renamed = self.reassign_volume(&moving.node, mount.volume(), target)?;
        if index_of(key, "unused").is_some() {
            mount = Mount::parse(&renamed);
        } else {
            if let Some(size) = self.volume_size_text(&moving.node, &renamed) {
                mount.set("size", size);
            }
            mount.set("volume", renamed);
        }
        self.guest_mut(moving.vmid)?
            .edit(|config| config.current.remove(&moving.volume));
        self.guest_mut(target)?
            .edit(|config| config.current.set(key, mount.print()));
        self.log(seq, format!("target container '{target}' updated with '{key}'"));
        Ok(())
    }
}
