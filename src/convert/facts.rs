//! What the hypervisor file says that guests depend on: storages, network, shared directories, images.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use super::json::{At, Node};
use super::ledger::Ledger;
use super::report::Severity;
use super::values;

/// Storages that a Proxmox node has from its installation.
const STOCK: &[&str] = &["local", "local-lvm", "local-zfs"];

/// Types of storages on which a clone of a Proxmox template rests on the template's volume instead of a copy of it.
const LINKED_CLONES: &[&str] = &["zfspool", "lvmthin", "btrfs", "rbd"];

/// A directory of the node that the file mounts into guests.
#[derive(Clone, Debug)]
pub struct SharedMount<'a> {
    /// Name of the shared directory.
    pub name: String,
    /// Id of the guest, as it stands in the file.
    pub guest: String,
    /// Directory on the node.
    pub host: At<'a>,
    /// Path in the guest.
    pub path: At<'a>,
}

/// What guests depend on.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// Storages that the file names or describes; empty without a file.
    storages: BTreeSet<String>,
    /// Types of the storages, as far as the file tells.
    types: BTreeMap<String, String>,
    /// Default storage for root filesystems of containers.
    pub rootfs_storage: Option<String>,
    /// Default storage for disks of machines.
    pub disk_storage: Option<String>,
    /// Storage for container images and ISO files.
    pub image_storage: Option<String>,
    /// The fleet's network.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// Address of the node.
    pub address: Option<(Ipv4Addr, At<'a>)>,
    /// Shared directories, one entry for each guest.
    pub mounts: Vec<SharedMount<'a>>,
    /// Portainer's images: server and agent.
    pub portainer: (Option<At<'a>>, Option<At<'a>>),
    /// Driver version and URL of the runfile.
    pub nvidia: (Option<At<'a>>, Option<At<'a>>),
}

impl<'a> Facts<'a> {
    /// Reads the facts of a hypervisor file.
    pub fn read(root: &At<'a>, ledger: &mut Ledger) -> Facts<'a> {
        let mut facts = Facts::default();
        for (_, at) in root.get("proxmox_storage_ids").iter().flat_map(At::entries) {
            facts
                .storages
                .extend(values::text(at.node).and_then(|t| values::storage_id(&t)));
        }
        for (at, id) in datasets(root) {
            let kind = at.get("proxmox_storage_type").and_then(|v| values::text(v.node));
            facts.types.extend(kind.map(|kind| (id.clone(), kind)));
            facts.storages.insert(id);
        }
        facts.image_storage = image_storage(root);
        facts.rootfs_storage = rootfs_storage(root, facts.image_storage.as_deref());
        facts.disk_storage = disk_storage(root, facts.image_storage.as_deref());
        let network = root.get("network");
        let text = |key: &str| {
            network
                .as_ref()
                .and_then(|n| n.get(key))
                .and_then(|at| values::text(at.node))
        };
        facts.address = address(root);
        let own = facts
            .address
            .as_ref()
            .and_then(|(_, at)| values::text(at.node))
            .and_then(|t| values::cidr4(&t));
        facts.subnet = text("default_subnet").and_then(|t| values::cidr4(&t)).or(own);
        let set = |section: &str, key: &str| {
            root.get(section)
                .and_then(|s| s.get(key))
                .filter(|at| values::text(at.node).is_some())
        };
        facts.portainer = (
            set("docker", "portainer_server_image"),
            set("docker", "portainer_agent_image"),
        );
        facts.nvidia = (set("nvidia_driver", "version"), set("nvidia_driver", "runfile_url"));
        for section in ["shared_volumes", "shared_zfs_volumes"] {
            for (name, at) in root.get(section).iter().flat_map(At::entries) {
                facts.read_shared(name, &at, ledger);
            }
        }
        facts
    }

    fn read_shared(&mut self, name: &str, at: &At<'a>, ledger: &mut Ledger) {
        let Some(mounts) = at.get("mounts") else { return };
        let host = ["host_path", "mount_point", "path"].iter().find_map(|k| at.get(k));
        let path = host
            .as_ref()
            .and_then(|h| values::text(h.node))
            .and_then(|t| values::absolute_path(&t));
        let (Some(host), Some(_)) = (host, path) else {
            let message = format!("shared volume {name:?} has no host_path that is an absolute path");
            ledger.not_mapped(at, &message);
            ledger.find(
                Severity::Warning,
                at,
                message,
                "give it one, or add hostMounts to the guests by hand",
            );
            return;
        };
        for (guest, path) in mounts.entries() {
            self.mounts.push(SharedMount {
                name: name.to_owned(),
                guest: guest.to_owned(),
                host: host.clone(),
                path,
            });
        }
    }

    /// The storage's type, as far as the files tell.
    fn type_of(&self, id: &str) -> Option<&str> {
        let stock = match id {
            "local" => Some("dir"),
            "local-lvm" => Some("lvmthin"),
            "local-zfs" => Some("zfspool"),
            _ => None,
        };
        self.types.get(id).map(String::as_str).or(stock)
    }

    /// Whether the storage is a ZFS pool, as far as the files tell.
    pub fn is_zfs(&self, id: &str) -> bool {
        self.type_of(id) == Some("zfspool")
    }

    /// Whether clones on the storage can be linked; none where the files do not tell.
    pub fn links_clones(&self, id: &str) -> Option<bool> {
        self.type_of(id).map(|t| LINKED_CLONES.contains(&t))
    }

    /// Whether the files know of this storage. Without a hypervisor file nothing can be said.
    pub fn knows_storage(&self, id: &str) -> bool {
        self.storages.is_empty() || self.storages.contains(id) || STOCK.contains(&id)
    }
}

/// Address of the node, from `network.interfaces`, which may be one interface or a list.
fn address<'a>(root: &At<'a>) -> Option<(Ipv4Addr, At<'a>)> {
    let interfaces = root.get("network")?.get("interfaces")?;
    let list = if matches!(interfaces.node, Node::Array(_)) {
        interfaces.items()
    } else {
        vec![interfaces]
    };
    list.iter().find_map(|nic| {
        let at = nic.get("address").or_else(|| nic.get("ip"))?;
        let text = values::text(at.node)?;
        let ip = values::cidr4(&text).map(|(ip, _)| ip).or_else(|| text.parse().ok())?;
        Some((ip, at))
    })
}

/// The datasets that become storages, with the id `pool-dataset` that the legacy setup gave them.
pub fn datasets<'a>(root: &At<'a>) -> Vec<(At<'a>, String)> {
    let list = root.get("zfs").and_then(|z| z.get("datasets"));
    let text = |at: &At, key: &str| at.get(key).and_then(|v| values::text(v.node));
    (list.iter().flat_map(At::items))
        .filter_map(|at| {
            let id = format!("{}-{}", text(&at, "pool")?, text(&at, "name")?);
            Some((at, values::storage_id(&id)?))
        })
        .collect()
}

/// The storage that `hypervisor::storages` makes the default for disks of machines.
fn disk_storage(root: &At, images: Option<&str>) -> Option<String> {
    let ids = root.get("proxmox_storage_ids");
    ids.iter().flat_map(At::entries).find_map(|(key, at)| {
        let key = key.to_ascii_lowercase();
        let id = values::text(at.node).and_then(|t| values::storage_id(&t))?;
        let disks = key.contains("vm") && !key.contains("volume") && !key.contains("lxc");
        (disks && images != Some(id.as_str())).then_some(id)
    })
}

/// The storage that `hypervisor` makes the default for root filesystems.
fn rootfs_storage(root: &At, images: Option<&str>) -> Option<String> {
    let id = |at: &At| values::text(at.node).and_then(|t| values::storage_id(&t));
    let ids = root.get("proxmox_storage_ids");
    let listed = ids.iter().flat_map(At::entries).find_map(|(key, at)| {
        let key = key.to_ascii_lowercase();
        id(&at).filter(|id| key.contains("lxc") && !key.contains("volume") && images != Some(id.as_str()))
    });
    let dataset = || id(&root.get("proxmox_defaults")?.get("zfs_lxc_pool")?);
    listed.or_else(dataset)
}

fn image_storage(root: &At) -> Option<String> {
    let ids = root.get("proxmox_storage_ids");
    let named = ids.iter().flat_map(At::entries).find(|(key, _)| {
        let key = key.to_ascii_lowercase();
        key.contains("iso") || key.contains("template") || key.contains("vztmpl")
    });
    if let Some(id) = named
        .and_then(|(_, at)| values::text(at.node))
        .and_then(|t| values::storage_id(&t))
    {
        return Some(id);
    }
    let holds_images = |at: &At| {
        let content = at
            .get("proxmox_content_type")
            .and_then(|v| values::text(v.node))
            .unwrap_or_default();
        content.split(',').any(|c| c.trim() == "vztmpl")
    };
    datasets(root)
        .into_iter()
        .find(|(at, _)| holds_images(at))
        .map(|(_, id)| id)
}
