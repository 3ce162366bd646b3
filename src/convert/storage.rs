//! Images, volumes and mounts of a guest.

use std::collections::BTreeSet;

use crate::crd::{HostMount, LxcImage, ReclaimPolicy, Volume};

use super::facts::{Facts, SharedMount};
use super::json::{At, Node};
use super::writer::Writer;
use super::{names, values};

/// Volumes and mounts of a container.
#[derive(Debug, Default)]
pub struct Mounts {
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Directories of the node.
    pub host_mounts: Vec<HostMount>,
}

const MOUNT_PATH: &str = "an absolute path below / such as /models";

/// Reads a storage id; one that the files do not know is a warning.
pub fn storage(w: &mut Writer, at: &At, names: &[&str], path: &str, facts: &Facts) -> Option<String> {
    let value = w.key(at, names)?;
    storage_at(w, &value, path, facts)
}

/// [`storage`] of a value that was found already.
pub fn storage_at(w: &mut Writer, value: &At, path: &str, facts: &Facts) -> Option<String> {
    let read = |node: &Node| values::text(node).and_then(|t| values::storage_id(&t));
    let id = w.value(value, path, read, "a Proxmox storage id")?;
    check_storage(w, value, &id, facts);
    Some(id)
}

/// Warns of a storage that the files do not know.
pub fn check_storage(w: &mut Writer, at: &At, id: &str, facts: &Facts) {
    if !facts.knows_storage(id) {
        let message = format!(
            "{} {}: the hypervisor file knows no storage {id:?}",
            at.key(),
            at.node.show()
        );
        w.warn(at, &message, "check that the storage exists on Proxmox");
    }
}

/// The image of a container, from a path on the node, a volume id or a file name.
pub fn image(w: &mut Writer, at: &At, facts: &Facts) -> Option<LxcImage> {
    let text = values::text(at.node).unwrap_or_default();
    if text.contains("://") {
        let fix = "set spec.source.image.url and sha256 by hand";
        w.skip_warn(
            at,
            "an image from a URL needs the SHA-256 of the file, which the file does not tell",
            fix,
        );
        return None;
    }
    let (storage, file, guessed) = match text.split_once(":vztmpl/") {
        Some((storage, file)) => (storage.to_owned(), file.to_owned(), false),
        None => locate(&text, facts),
    };
    let plain =
        (1..=160).contains(&file.len()) && !file.contains(['/', ' ']) && file.chars().all(|c| c.is_ascii_graphic());
    let Some(storage) = values::storage_id(&storage).filter(|_| plain) else {
        w.unreadable(at, "the path or volume id of a container image");
        return None;
    };
    let volid = format!("{storage}:vztmpl/{file}");
    w.mapped(at, "source.image.volid", "");
    if guessed {
        let message = format!("{} {} names no storage; {volid} is assumed", at.key(), at.node.show());
        w.warn(at, &message, "check that the image is there");
    } else {
        check_storage(w, at, &storage, facts);
    }
    Some(LxcImage {
        volid: Some(volid),
        ..LxcImage::default()
    })
}

/// Storage and file of an image path; the third value says that the storage is a guess.
fn locate(text: &str, facts: &Facts) -> (String, String, bool) {
    let guess = || facts.image_storage.clone().unwrap_or_else(|| "local".into());
    let (folder, file) = text.rsplit_once('/').unwrap_or(("", text));
    let file = file.to_owned();
    let Some(base) = folder.strip_suffix("/template/cache") else {
        return (guess(), file, true);
    };
    if base == "/var/lib/vz" {
        return ("local".into(), file, false);
    }
    let base = base.strip_prefix("/mnt/pve/").unwrap_or(base);
    match values::storage_id(base) {
        Some(id) => (id, file, false),
        None => (guess(), file, true),
    }
}

/// Maps `volumes` and `zfs_volumes`, then the shared directories that the hypervisor file mounts into this guest.
pub fn mounts(w: &mut Writer, guest: &At, id: i64, facts: &Facts) -> Mounts {
    let mut out = Mounts::default();
    let mut used = BTreeSet::new();
    for key in ["volumes", "zfs_volumes", "mount_points"] {
        let Some(list) = w.key(guest, &[key]) else { continue };
        match list.node {
            Node::Array(items) if items.is_empty() => w.defaulted(&list, "", "an empty list: nothing to write"),
            Node::Array(_) => {
                for item in list.items() {
                    volume(w, &item, None, facts, &mut out, &mut used);
                }
            }
            Node::Object(_) => {
                for (name, item) in list.entries() {
                    volume(w, &item, Some(name), facts, &mut out, &mut used);
                }
            }
            _ => w.unreadable(&list, "a list of volumes"),
        }
    }
    for mount in &facts.mounts {
        if values::guest_id(&mount.guest) == Some(id) {
            shared(w, mount, &mut out, &mut used);
        }
    }
    out
}

/// Notes on mounts of a guest that cannot have any.
pub fn refuse_mounts(w: &mut Writer, guest: &At, id: i64, facts: &Facts, why: &str) {
    for key in ["volumes", "zfs_volumes", "mount_points"] {
        if let Some(at) = w.key(guest, &[key]) {
            match at.node.is_leaf() {
                true => w.defaulted(&at, "", "an empty list: nothing to write"),
                false => w.skip_warn(
                    &at,
                    &format!("{key}: {why}"),
                    "give them to the guests that are cloned from it",
                ),
            }
        }
    }
    refuse_shared(w, id, facts, why);
}

/// Notes on shared directories of a guest that cannot mount them.
pub fn refuse_shared(w: &mut Writer, id: i64, facts: &Facts, why: &str) {
    for mount in &facts.mounts {
        if values::guest_id(&mount.guest) == Some(id) {
            let message = format!("shared volume {:?}: {why}", mount.name);
            w.skip_warn(&mount.path, &message, "give it to the guests that are cloned from it");
        }
    }
}

impl Mounts {
    fn taken(&self, path: &str) -> Option<String> {
        let volume = self
            .volumes
            .iter()
            .find(|v| v.mount_path == path)
            .map(|v| format!("volume {:?}", v.name));
        volume.or_else(|| {
            let mount = self.host_mounts.iter().find(|m| m.mount_path == path)?;
            Some(format!("mount {:?}", mount.name))
        })
    }
}

fn volume(w: &mut Writer, at: &At, key: Option<&str>, facts: &Facts, out: &mut Mounts, used: &mut BTreeSet<String>) {
    let text = |names: &[&str]| names.iter().find_map(|n| at.get(n)).and_then(|v| values::text(v.node));
    let path_names = ["mount_point", "mount_path", "mountpoint", "mp", "container_path"];
    let path = text(&path_names).and_then(|t| values::mount_path(&t));
    let legacy = text(&["name"])
        .or_else(|| key.map(str::to_owned))
        .or_else(|| path.clone());
    let name = legacy.as_deref().and_then(names::entry_name);
    let (Some(path), Some(name)) = (path, name) else {
        let message = format!("volume {} needs a mount_point that is {MOUNT_PATH}", at.node.show());
        return w.skip_warn(at, &message, "correct it, or add the volume by hand");
    };
    if let Some(other) = out.taken(&path) {
        let message = format!("volume {name:?}: {path} is taken by {other}");
        return w.skip_warn(at, &message, "give it another mount_point");
    }
    let host = ["host_path", "source"].iter().find_map(|n| at.get(n));
    let host_path = host
        .as_ref()
        .and_then(|h| values::text(h.node))
        .and_then(|t| values::absolute_path(&t));
    let size_at = ["size_gb", "size"].iter().find_map(|n| at.get(n));
    let size = size_at
        .as_ref()
        .and_then(|s| values::mebibytes(s.node, 1024))
        .filter(|m| *m >= 1 && *m < 1 << 40);
    let full = out.volumes.len() == 64 || out.host_mounts.len() == 64;
    if (size.is_none() && host_path.is_none()) || full {
        let message = format!("volume {name:?} needs a size_gb, such as 8 or \"512M\"");
        return w.skip_warn(at, &message, "correct it, or add the volume by hand");
    }
    let name = names::unique(used, name, "2");
    let list = if host_path.is_some() { "hostMounts" } else { "volumes" };
    let place = if host_path.is_some() {
        out.host_mounts.len()
    } else {
        out.volumes.len()
    };
    let field = |field: &str| format!("{list}[{place}].{field}");
    w.text(at, &["name"], &field("name"), |t| Some(t.to_owned()), "a name");
    w.text(at, &path_names, &field("mountPath"), values::mount_path, MOUNT_PATH);
    if let (Some(host_path), Some(host)) = (host_path, host) {
        w.mapped(&host, &field("hostPath"), "");
        owner(w, at, &host_path);
        let read_only = w.boolean(at, &["read_only", "ro"], &field("readOnly"));
        out.host_mounts.push(HostMount {
            name,
            host_path,
            mount_path: path,
            read_only,
            ..HostMount::default()
        });
        return;
    }
    if let Some(size_at) = &size_at {
        w.mapped(size_at, &field("size"), "");
    }
    out.volumes.push(Volume {
        name,
        storage: storage(w, at, &["pool", "storage", "storage_pool"], &field("storage"), facts),
        size: Some(values::quantity(size.unwrap_or(1024))),
        mount_path: path,
        // Written although it is the default: data that survives its guest is worth a line.
        reclaim_policy: Some(ReclaimPolicy::Retain),
        read_only: w.boolean(at, &["read_only", "ro"], &field("readOnly")),
        backup: w.boolean(at, &["backup"], &field("backup")),
        ..Volume::default()
    });
}

/// Who owns a directory of the node: it has its owner already, or somebody gives it one there.
fn owner(w: &mut Writer, at: &At, host_path: &str) {
    let given: Vec<At> = ["owner_uid", "owner_gid"]
        .iter()
        .filter_map(|key| w.key(at, &[key]))
        .collect();
    let ids: Vec<String> = given.iter().map(|at| at.node.show()).collect();
    let (first, root) = (given.first().cloned(), ids.iter().all(|id| id == "0"));
    for id in given {
        match root {
            true => w.defaulted(&id, "", "a directory is root's where nobody changed that"),
            false => w.skip(&id, "Phoenix changes no owners in directories of the node"),
        }
    }
    if let Some(first) = first.filter(|_| !root) {
        let message = format!(
            "{host_path} is to belong to {}: Phoenix changes no owners on the node",
            ids.join(":")
        );
        let fix = format!(
            "chown -R {} {host_path} on the node, once, if it is not so already",
            ids.join(":")
        );
        w.warn(&first, &message, &fix);
    }
}

fn shared(w: &mut Writer, mount: &SharedMount, out: &mut Mounts, used: &mut BTreeSet<String>) {
    let path = values::text(mount.path.node).and_then(|t| values::mount_path(&t));
    let host_path = values::text(mount.host.node).and_then(|t| values::absolute_path(&t));
    let (Some(path), Some(host_path)) = (path, host_path) else {
        return w.unreadable(&mount.path, MOUNT_PATH);
    };
    if let Some(other) = out.taken(&path) {
        let message = format!(
            "shared volume {:?}: {path} is taken by the guest's own {other}",
            mount.name
        );
        let fix = "keep one of them: drop the mount from the hypervisor file, or the volume from the guest";
        return w.skip_warn(&mount.path, &message, fix);
    }
    let Some(name) = names::entry_name(&mount.name).or_else(|| names::entry_name(&path)) else {
        return w.unreadable(&mount.path, "a mount with a name");
    };
    if out.host_mounts.len() == 64 {
        return w.skip_warn(&mount.path, "more than 64 mounts", "mount a directory above them");
    }
    let place = out.host_mounts.len();
    w.mapped(&mount.host, &format!("hostMounts[{place}].hostPath"), "");
    w.mapped(&mount.path, &format!("hostMounts[{place}].mountPath"), "");
    out.host_mounts.push(HostMount {
        name: names::unique(used, name, "2"),
        host_path,
        mount_path: path,
        ..HostMount::default()
    });
}
