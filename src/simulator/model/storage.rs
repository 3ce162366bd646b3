//! Storages, volumes, their snapshots and their lineage (facts G).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::volname::VolName;

/// Kind of a storage, which decides names and features of its volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A directory with image files.
    Dir,
    /// A directory on btrfs: raw images in subvolumes, snapshots in any order, clones of anything.
    Btrfs,
    /// A ZFS pool or dataset: subvolumes with a quota, snapshots newest first, clones of templates only.
    ZfsPool,
}

impl StorageKind {
    /// Proxmox's name of the plugin.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Btrfs => "btrfs",
            Self::ZfsPool => "zfspool",
        }
    }

    /// Formats of disks, by name.
    pub fn formats(self) -> &'static [&'static str] {
        match self {
            Self::Dir => &["qcow2", "raw", "subvol", "vmdk"],
            Self::Btrfs | Self::ZfsPool => &["raw", "subvol"],
        }
    }
}

/// A snapshot of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Name of the guest snapshot it belongs to.
    pub name: String,
    /// Size of the volume then.
    pub size: u64,
    /// What the volume held then.
    pub data: BTreeMap<String, String>,
}

/// A volume: the disk of a guest, or a file such as a template archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Number that no other volume ever has: shows whether a volume is still the same one.
    pub uid: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes in use.
    pub used: u64,
    /// `raw`, `qcow2`, `subvol`, `tzst`, `iso`, …
    pub format: String,
    /// Guest in its name.
    pub owner: Option<u32>,
    /// Content type of a file (`vztmpl`, `iso`, …); empty for disks.
    pub content: String,
    /// Creation in seconds since 1970.
    pub ctime: u64,
    /// Snapshots, oldest first.
    pub snapshots: Vec<VolumeSnapshot>,
    /// Volume name of the template volume it is a linked clone of.
    pub parent: Option<String>,
    /// False for a bare disk without a file system or with a foreign owner (facts K.1.7).
    pub formatted: bool,
    /// What is stored on it, for whoever acts in a guest; rolled back and cloned with it.
    pub data: BTreeMap<String, String>,
}

/// A storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Its kind.
    pub kind: StorageKind,
    /// Directory, or pool and dataset.
    pub path: String,
    /// Content types that it may hold.
    pub content: BTreeSet<String>,
    /// Available on several nodes with the same content.
    pub shared: bool,
    /// Switched off in its definition.
    pub disabled: bool,
    /// False while its mount or pool is missing.
    pub active: bool,
    /// Nodes that have it; all when empty.
    pub nodes: BTreeSet<String>,
    /// Bytes in all.
    pub total: u64,
    /// Further settings of its definition.
    pub settings: BTreeMap<String, String>,
    /// Volumes by node (`""` for shared storages) and name.
    pub volumes: BTreeMap<String, BTreeMap<String, Volume>>,
}

impl Storage {
    /// A storage with the given kind, place and content.
    pub fn new(kind: StorageKind, path: &str, content: &[&str], total: u64) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            content: content.iter().map(|word| (*word).to_owned()).collect(),
            shared: false,
            disabled: false,
            active: true,
            nodes: BTreeSet::new(),
            total,
            settings: BTreeMap::new(),
            volumes: BTreeMap::new(),
        }
    }

    /// Key of `volumes` for a node.
    pub fn site<'a>(&self, node: &'a str) -> &'a str {
        if self.shared { "" } else { node }
    }

    /// The volumes that `node` sees.
    pub fn on(&self, node: &str) -> impl Iterator<Item = (&String, &Volume)> {
        self.volumes.get(self.site(node)).into_iter().flatten()
    }

    /// One volume.
    pub fn volume(&self, node: &str, name: &str) -> Option<&Volume> {
        self.volumes.get(self.site(node))?.get(name)
    }

    /// One volume, to be changed.
    pub fn volume_mut(&mut self, node: &str, name: &str) -> Option<&mut Volume> {
        let site = self.site(node);
        self.volumes.get_mut(site)?.get_mut(name)
    }

    /// Puts a volume there.
    pub fn insert(&mut self, node: &str, name: &str, volume: Volume) {
        let site = self.site(node).to_owned();
        self.volumes.entry(site).or_default().insert(name.to_owned(), volume);
    }

    /// Takes a volume away.
    pub fn take(&mut self, node: &str, name: &str) -> Option<Volume> {
        let site = self.site(node);
        self.volumes.get_mut(site)?.remove(name)
    }

    /// Bytes in use on a node.
    pub fn used(&self, node: &str) -> u64 {
        self.on(node).map(|(_, volume)| volume.used).sum()
    }

    /// True when `node` has this storage.
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.contains(node)
    }

    /// The first free name for a disk of a container.
    pub fn free_name(&self, node: &str, vmid: u32, format: &str) -> String {
        let taken = |number: usize| {
            self.on(node).any(|(name, _)| {
                let last = name.rsplit('/').next().unwrap_or_default();
                let stem = last.split('.').next().unwrap_or_default();
                stem.strip_suffix(&format!("-{vmid}-disk-{number}")).is_some()
            })
        };
        let number = (0..1024).find(|number| !taken(*number)).unwrap_or(1024);
        let disk = format!("{vmid}-disk-{number}");
        match (self.kind, format) {
            (StorageKind::ZfsPool, "subvol") => format!("subvol-{disk}"),
            (StorageKind::ZfsPool, _) => format!("vm-{disk}"),
            (_, "subvol") => format!("{vmid}/subvol-{disk}.subvol"),
            (_, format) => format!("{vmid}/vm-{disk}.{format}"),
        }
    }

    /// Name of the template form of a volume (`subvol-…` → `basevol-…`, `vm-…` → `base-…`).
    pub fn base_name(&self, name: &str) -> String {
        let (folder, last) = match name.rsplit_once('/') {
            Some((folder, last)) if self.kind != StorageKind::ZfsPool => (format!("{folder}/"), last),
            Some((_, last)) => (String::new(), last),
            None => (String::new(), name),
        };
        let last = match (last.strip_prefix("subvol-"), last.strip_prefix("vm-")) {
            (Some(rest), _) => format!("basevol-{rest}"),
            (_, Some(rest)) => format!("base-{rest}"),
            _ => last.to_owned(),
        };
        format!("{folder}{last}")
    }

    /// Whether volumes of this storage can do `feature` in the given state (facts G.3).
    pub fn has_feature(&self, feature: &str, name: &str, volume: &Volume, snapshot: bool) -> bool {
        let last = name.rsplit('/').next().unwrap_or_default();
        let base = last.starts_with("base");
        match self.kind {
            StorageKind::Btrfs => match feature {
                "template" => !snapshot && !base,
                "snapshot" | "clone" | "copy" | "rename" => true,
                _ => false,
            },
            StorageKind::ZfsPool => match feature {
                "snapshot" => true,
                "clone" => base && !snapshot,
                "copy" => !snapshot,
                "template" | "rename" => !snapshot && !base,
                _ => false,
            },
            StorageKind::Dir => {
                let qcow2 = volume.format == "qcow2";
                match feature {
                    "snapshot" => qcow2,
                    "clone" => qcow2 && base && !snapshot,
                    "copy" => !snapshot || qcow2,
                    "template" => !snapshot && !base,
                    "rename" => !snapshot,
                    _ => false,
                }
            }
        }
    }

    /// Volume names that are linked clones of `name`.
    pub fn children(&self, node: &str, name: &str) -> Vec<String> {
        self.on(node)
            .filter(|(_, volume)| volume.parent.as_deref() == Some(name))
            .map(|(child, _)| child.clone())
            .collect()
    }

    /// A volume name taken apart, or the plugin's complaint about it.
    pub fn parse_name<'a>(&self, name: &'a str) -> Result<VolName<'a>, String> {
        VolName::parse(self.kind, name)
    }

    /// Guest that a disk belongs to, or Proxmox's complaint about the name.
    pub fn owner_of(&self, name: &str) -> Result<u32, String> {
        let parsed = self.parse_name(name)?;
        let owner = parsed.owner.filter(|_| parsed.content == "images");
        owner.ok_or_else(|| format!("unable to parse directory volume name '{name}'"))
    }
}

/// Splits `storage:name`.
pub fn split_volid(volid: &str) -> Option<(&str, &str)> {
    let (storage, name) = volid.split_once(':')?;
    let good = storage.len() >= 2
        && storage.starts_with(|c: char| c.is_ascii_alphabetic())
        && storage.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let whole = good && storage.ends_with(|c: char| c.is_ascii_alphanumeric()) && !name.is_empty();
    whole.then_some((storage, name))
}
