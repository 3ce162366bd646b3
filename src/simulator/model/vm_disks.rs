//! Volumes of virtual machines: new disks, imports, the drive of cloud-init, EFI and TPM state, copies
//! (facts F.1, G.3).

use super::error::{ApiError, Result};
use super::guest::OsImage;
use super::property::print_size;
use super::state::State;
use super::storage::{StorageKind, Volume};
use super::vm_options::{Drive, is_drive};

/// Size of the drive of cloud-init (facts F.2).
pub const CLOUD_INIT_SIZE: u64 = 4 << 20;
/// Size of the state of a TPM.
const TPM_SIZE: u64 = 4 << 20;

/// What the making of a drive gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Made {
    /// The option's value.
    pub value: String,
    /// Volumes that were allocated for it.
    pub volumes: Vec<String>,
    /// How long it takes, in milliseconds before scaling.
    pub ms: u64,
    /// Lines for the log of a task.
    pub log: Vec<String>,
    /// The operating system of an imported image.
    pub os: Option<OsImage>,
}

impl State {
    /// Makes what a drive asks for: a new disk, an import, a drive for cloud-init, or nothing but a look at a volume.
    pub(super) fn make_drive(&mut self, node: &str, vmid: u32, key: &str, value: &str, base: bool) -> Result<Made> {
        let mut drive = Drive::parse(value);
        let format = drive.parts.remove("format");
        let mut made = Made::default();
        if drive.is_cloud_init() {
            self.check_one_cloud_init(vmid, key)?;
        }
        if let Some(storage) = drive.wanted_cloud_init().map(str::to_owned) {
            let volid = self.alloc_cloud_init(node, &storage, vmid)?;
            drive.set("file", volid.clone());
            drive.set("media", "cdrom");
            made.volumes.push(volid);
        } else if let Some((storage, size)) = drive.allocation().map(|(id, size)| (id.to_owned(), size)) {
            let source = drive.parts.remove("import-from");
            let (volid, size) = match source {
                Some(source) => self.import_disk(node, vmid, &storage, format.as_deref(), &source, &mut made)?,
                None => {
                    let size = special_size(key, &drive).unwrap_or(size);
                    self.alloc_vm_disk(node, &storage, vmid, format.as_deref(), size)?
                }
            };
            let volid = if base { self.make_base(node, &volid)? } else { volid };
            made.volumes.push(volid.clone());
            drive.set("file", volid);
            drive.set("size", print_size(size));
            if key == "tpmstate0" && drive.get("version").is_none() {
                drive.set("version", "v1.2");
            }
        } else {
            self.look_at_volume(node, vmid, &mut drive)?;
            made.value = drive.print();
            return Ok(made);
        }
        made.value = drive.print();
        made.log
            .push(format!("{key}: successfully created disk '{}'", made.value));
        Ok(made)
    }

    /// A machine has one drive of cloud-init, whether it is in force or still waits.
    fn check_one_cloud_init(&self, vmid: u32, key: &str) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let config = guest.config();
        no_other_cloud_init(key, config.current.options.iter().chain(&config.pending))
    }

    /// A drive that names a volume: the volume has to be there, and its size goes into the option.
    fn look_at_volume(&self, node: &str, vmid: u32, drive: &mut Drive) -> Result<()> {
        let Some(volid) = drive.volid().map(str::to_owned) else {
            if drive.is_cdrom() {
                drive.parts.remove("size");
            }
            return Ok(());
        };
        let (storage, _) = self.split(&volid)?;
        self.active_storage(node, storage)?;
        let current = self.guests.get(&vmid).is_some_and(|guest| {
            let section = &guest.config().current;
            section.options.values().any(|value| *value == drive.print())
        });
        match self.volume_size_text(node, &volid) {
            Some(size) if !drive.is_cloud_init() => drive.set("size", size),
            Some(_) => {}
            None if current => {}
            None => return Err(ApiError::die(format!("volume '{volid}' does not exist"))),
        }
        Ok(())
    }

    fn image_storage(&self, node: &str, storage: &str) -> Result<StorageKind> {
        let found = self.active_storage(node, storage)?;
        if !found.content.contains("images") {
            return Err(ApiError::die(format!(
                "storage '{storage}' does not support content type 'images'"
            )));
        }
        Ok(found.kind)
    }

    /// Allocates a disk; block storages round up to whole MiB (facts G.3).
    pub(super) fn alloc_vm_disk(
        &mut self,
        node: &str,
        storage: &str,
        vmid: u32,
        format: Option<&str>,
        size: u64,
    ) -> Result<(String, u64)> {
        let kind = self.image_storage(node, storage)?;
        let format = match (kind, format) {
            (StorageKind::ZfsPool, Some(format)) if format != "raw" => {
                return Err(ApiError::die(format!("unsupported format '{format}'")));
            }
            (_, format) => format.unwrap_or("raw").to_owned(),
        };
        let size = if kind == StorageKind::ZfsPool {
            size.next_multiple_of(1 << 20)
        } else {
            size
        };
        let name = self.storage(storage)?.free_name(node, vmid, &format);
        let volid = self.alloc_volume(node, storage, &name, &format, size, false)?;
        Ok((volid, size))
    }

    /// Allocates the drive of cloud-init, or takes the one that is there.
    pub(super) fn alloc_cloud_init(&mut self, node: &str, storage: &str, vmid: u32) -> Result<String> {
        let kind = self.active_storage(node, storage)?.kind;
        let (name, format) = match kind {
            StorageKind::ZfsPool => (format!("vm-{vmid}-cloudinit"), "raw"),
            StorageKind::Btrfs | StorageKind::Dir => (format!("{vmid}/vm-{vmid}-cloudinit.qcow2"), "qcow2"),
        };
        if self.storage(storage)?.volume(node, &name).is_some() {
            let text = match kind {
                StorageKind::ZfsPool => format!("zfs error: cannot create '{name}': dataset already exists"),
                _ => format!(
                    "disk image '{}/images/{name}' already exists",
                    self.storage(storage)?.path
                ),
            };
            return Err(ApiError::die(text));
        }
        self.alloc_volume(node, storage, &name, format, CLOUD_INIT_SIZE, false)
    }

    /// Copies an image into a new disk, which gets the image's size.
    fn import_disk(
        &mut self,
        node: &str,
        vmid: u32,
        storage: &str,
        format: Option<&str>,
        source: &str,
        made: &mut Made,
    ) -> Result<(String, u64)> {
        let Some(image) = self.volume(node, source).cloned() else {
            let text = format!("cannot import from '{source}' - could not get size of {source}");
            return Err(ApiError::die(text));
        };
        let file = source.rsplit('/').next().unwrap_or_default();
        made.os = match image.content.as_str() {
            "import" => Some(self.os_in(file)),
            _ => self.images.get(file).cloned(),
        };
        let size = image
            .data
            .get("virtual-size")
            .and_then(|text| text.parse().ok())
            .unwrap_or(image.size)
            .max(1);
        let (volid, size) = self.alloc_vm_disk(node, storage, vmid, format, size)?;
        let used = image.used;
        self.set_volume_used(node, &volid, used)?;
        made.ms += (image.size >> 20) * self.latency.import_mib;
        made.log
            .push(format!("transferred {size} B of {size} B (100.00%) from '{source}'"));
        Ok((volid, size))
    }

    /// Copies a disk in full for `newid`, to `target` or where it is.
    pub(super) fn copy_vm_disk(
        &mut self,
        node: &str,
        volid: &str,
        snapshot: Option<&str>,
        target: Option<&str>,
        format: Option<&str>,
        newid: u32,
    ) -> Result<String> {
        let Some(source) = self.volume(node, volid).cloned() else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        let (own, _) = self.split(volid)?;
        let storage = target.unwrap_or(own).to_owned();
        let taken = snapshot.and_then(|name| source.snapshots.iter().find(|found| found.name == name));
        let size = taken.map_or(source.size, |found| found.size);
        let keeps_format =
            self.storage(&storage)?.kind == StorageKind::Dir && self.storage(own)?.kind == StorageKind::Dir;
        let format = format.or_else(|| keeps_format.then_some(source.format.as_str()));
        let data = taken.map_or_else(|| source.data.clone(), |found| found.data.clone());
        let (copy, _) = self.alloc_vm_disk(node, &storage, newid, format, size)?;
        let (storage, name) = self.split(&copy)?;
        let (storage, name) = (storage.to_owned(), name.to_owned());
        if let Some(volume) = self.storage_mut(&storage)?.volume_mut(node, &name) {
            volume.data = data;
            volume.used = source.used;
        }
        Ok(copy)
    }

    /// Frees volumes of something that failed; what cannot be freed stays.
    pub(super) fn free_quietly(&mut self, node: &str, volumes: &[String]) {
        for volid in volumes {
            let _ = self.free_volume(node, volid);
        }
    }

    /// Allocates the volume for a machine's memory (`vm-100-state-s1`).
    pub(super) fn alloc_state(
        &mut self,
        node: &str,
        storage: &str,
        vmid: u32,
        name: &str,
        size: u64,
    ) -> Result<String> {
        let kind = self.image_storage(node, storage)?;
        let name = match kind {
            StorageKind::ZfsPool => format!("vm-{vmid}-state-{name}"),
            _ => format!("{vmid}/vm-{vmid}-state-{name}.raw"),
        };
        self.alloc_volume(node, storage, &name, "raw", size, false)
    }

    /// Takes volumes of a storage that is not shared to the same storage on another node.
    pub(super) fn carry_volume(&mut self, from: &str, to: &str, volid: &str, target: &str) -> Result<String> {
        let (storage, name) = self.split(volid)?;
        let (storage, name) = (storage.to_owned(), name.to_owned());
        if self.storage(&storage)?.shared {
            return Ok(volid.to_owned());
        }
        self.active_storage(to, target)?;
        let Some(volume): Option<Volume> = self.storage_mut(&storage)?.take(from, &name) else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        let name = if target == storage {
            name
        } else {
            let owner = volume.owner.unwrap_or_default();
            self.storage(target)?.free_name(to, owner, &volume.format)
        };
        self.storage_mut(target)?.insert(to, &name, volume);
        Ok(format!("{target}:{name}"))
    }
}

/// Refuses a second drive of cloud-init beside one of these.
pub(super) fn no_other_cloud_init<'a>(
    key: &str,
    options: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<()> {
    let mut others = options.filter(|(name, _)| *name != key && is_drive(name));
    match others.find(|(_, value)| Drive::parse(value).is_cloud_init()) {
        Some((name, _)) => Err(ApiError::die(format!(
            "{key} - cloud-init drive is already attached at '{name}'"
        ))),
        None => Ok(()),
    }
}

/// Size of disks that the firmware decides, whatever was asked for.
fn special_size(key: &str, drive: &Drive) -> Option<u64> {
    match key {
        "efidisk0" if drive.get("efitype") == Some("4m") => Some(528 << 10),
        "efidisk0" => Some(128 << 10),
        "tpmstate0" => Some(TPM_SIZE),
        _ => None,
    }
}
