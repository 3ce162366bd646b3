//! What a machine is made from, and its disk.

use crate::crd::{CloudImage, LocalRef, VmDisk, VmSource};

use super::checks::Seen;
use super::facts::Facts;
use super::json::{At, Node};
use super::vm::Machine;
use super::writer::Writer;
use super::{lxc, storage, values};

/// Name of the only disk that legacy machines have.
const ROOT: &str = "root";
const IMAGE: &str = "the name of a disk image: .img, .qcow2, .raw or .vmdk";
/// Keys that name an image.
const IMAGE_KEYS: &[&str] = &["template_image", "template"];

/// The template that the machine is cloned from, else its image, else the image of `vm_defaults`.
pub fn source(w: &mut Writer, from: &Machine) -> Option<VmSource> {
    let guest = from.guest;
    lxc::clone_keys(w, guest);
    let image_at = w.key(&guest.at, IMAGE_KEYS);
    if let (Some(parent), Some(at)) = (
        guest.parent.and_then(|p| from.fleet.guests.list.get(p)),
        &guest.parent_at,
    ) {
        w.mapped(at, "source.templateRef.name", "");
        if let Some(at) = &image_at {
            w.skip(at, "the guest is cloned, so its image is not used");
        }
        return Some(VmSource {
            template_ref: Some(LocalRef {
                name: parent.name.clone(),
            }),
            ..VmSource::default()
        });
    }
    let default = from.default(IMAGE_KEYS);
    let usable = default
        .clone()
        .filter(|at| values::text(at.node).is_some_and(|t| is_image(&t)));
    let Some(at) = image_at.or(usable) else {
        let default = default
            .map(|at| {
                w.skip(&at, "no disk image, so that no machine can be made from it");
                format!(" (vm_defaults: {})", at.node.show())
            })
            .unwrap_or_default();
        let message = format!("neither clone_from_vmid nor template_image{default}");
        let fix = "set spec.source, or adopt the existing machine with the annotation phoenix-hypervisor.io/adopt";
        w.warn(&guest.at, &message, fix);
        return None;
    };
    cloud_image(w, &at, from.fleet.facts).map(|image| VmSource {
        cloud_image: Some(image),
        ..VmSource::default()
    })
}

fn is_image(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [".img", ".qcow2", ".raw", ".vmdk"].iter().any(|s| text.ends_with(s))
}

/// A disk image by name, path or volume id. A mere name is expected on the image storage.
fn cloud_image(w: &mut Writer, at: &At, facts: &Facts) -> Option<CloudImage> {
    let text = values::text(at.node).unwrap_or_default();
    if text.contains("://") {
        let why = "an image from a URL needs the SHA-256 of the file, which the file does not tell";
        w.skip_warn(at, why, "set spec.source.cloudImage.url and sha256 by hand");
        return None;
    }
    let (storage, content, file, guessed) = locate(&text, facts);
    let plain = (1..=150).contains(&file.len()) && !file.contains('/') && file.chars().all(|c| c.is_ascii_graphic());
    let Some(storage) = values::storage_id(&storage).filter(|_| plain && is_image(&file)) else {
        w.unreadable(at, IMAGE);
        return None;
    };
    // Proxmox makes disks from content import only, where it takes no .img: such cloud images are qcow2 (facts F.1, G.4).
    let stem = file.len().checked_sub(4).and_then(|n| file.split_at_checked(n));
    let importable = match stem {
        Some((stem, end)) if end.eq_ignore_ascii_case(".img") => format!("{stem}.qcow2"),
        _ => file.clone(),
    };
    let volid = format!("{storage}:import/{importable}");
    w.mapped(at, "source.cloudImage.volid", "");
    if content != "import" || importable != file {
        let message = format!(
            "Proxmox makes disks from content import only, which {} {} is not",
            at.key(),
            at.node.show()
        );
        let fix = format!(
            "put the image on storage {storage} as import/{importable} (a cloud image named .img is qcow2 inside), or give url and sha256"
        );
        w.warn(at, &message, &fix);
    }
    if guessed {
        let message = format!("{} {} names no storage; {volid} is assumed", at.key(), at.node.show());
        w.warn(at, &message, "check that the image is there, or give url and sha256");
    } else {
        storage::check_storage(w, at, &storage, facts);
    }
    Some(CloudImage {
        volid: Some(volid),
        ..CloudImage::default()
    })
}

/// Storage, content, file of an image, and whether the storage is a guess.
fn locate(text: &str, facts: &Facts) -> (String, &'static str, String, bool) {
    for content in ["iso", "import"] {
        if let Some((storage, file)) = text.split_once(&format!(":{content}/")) {
            return (storage.to_owned(), content, file.to_owned(), false);
        }
    }
    let (folder, file) = text.rsplit_once('/').unwrap_or(("", text));
    for (content, below) in [("iso", "/template/iso"), ("import", "/import")] {
        let base = folder.strip_suffix(below);
        let storage = base.and_then(|base| match base {
            "/var/lib/vz" => Some("local".to_owned()),
            base => values::storage_id(base.strip_prefix("/mnt/pve/").unwrap_or(base)),
        });
        if let Some(storage) = storage {
            return (storage, content, file.to_owned(), false);
        }
    }
    let storage = facts.image_storage.clone().unwrap_or_else(|| "local".into());
    (storage, "import", file.to_owned(), true)
}

/// The machine's disk: size and storage, each its own or that of `vm_defaults`.
pub fn disks<'a>(w: &mut Writer, from: &Machine<'_, 'a>, seen: &mut Seen<'a>) -> Option<Vec<VmDisk>> {
    let read = |node: &Node| values::mebibytes(node, 1024).filter(|m| (1..=1 << 40).contains(m));
    let size = from
        .key(w, &["disk_size_gb", "storage_size_gb"])
        .and_then(|at| w.value(&at, "disks[0].size", read, "a size in GB"));
    seen.rootfs(w, from.guest, size, from.fleet.guests, from.defaults);
    let storage = from
        .key(w, &["storage_pool", "storage"])
        .and_then(|at| storage::storage_at(w, &at, "disks[0].storage", from.fleet.facts));
    if size.is_none() && storage.is_none() {
        return None;
    }
    Some(vec![VmDisk {
        name: ROOT.into(),
        storage,
        size: size.map(values::quantity),
        ..VmDisk::default()
    }])
}
