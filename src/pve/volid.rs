//! What the id of a volume says of it.

use super::Vmid;

/// Vmid that a volume belongs to (facts G.3): in the name (`subvol-<id>-disk-N`, `vm-<id>-disk-N`, of a linked clone
/// the part after the last slash), or the folder before it on a storage of files.
pub fn owner_of(volid: &str) -> Option<Vmid> {
    let (_, path) = volid.split_once(':')?;
    if ["iso/", "vztmpl/", "snippets/", "backup/", "import/"]
        .iter()
        .any(|c| path.starts_with(c))
    {
        return None;
    }
    let mut parts = path.rsplit('/');
    let name = parts.next()?;
    let folder = parts.next().and_then(|folder| folder.parse().ok());
    folder.or_else(|| name.split('-').nth(1)?.parse().ok())
}

/// Whether a volume is an image with a filesystem in it, rather than a directory with a quota (facts K.1.4).
pub fn is_image(volid: &str) -> bool {
    let name = volid.rsplit(['/', ':']).next().unwrap_or_default();
    let directory = name.starts_with("subvol-") || name.starts_with("basevol-") || name.ends_with(".subvol");
    !directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_belong_to_the_guest_in_their_name_or_folder() {
        for (volid, owner) in [
            ("zfs:subvol-950-disk-0", Some(950)),
            ("zfs:vm-950-cloudinit", Some(950)),
            ("zfs:basevol-900-disk-0/subvol-950-disk-0", Some(950)),
            ("dir:950/vm-950-disk-0.raw", Some(950)),
            ("dir:950/anything.raw", Some(950)),
            ("dir:900/base-900-disk-0.qcow2/950/vm-950-disk-0.qcow2", Some(950)),
            ("btrfs:950/vm-950-disk-1.subvol", Some(950)),
            ("local:iso/debian-950-netinst.iso", None),
            ("/srv/data", None),
            ("none", None),
        ] {
            assert_eq!(owner_of(volid), owner.map(Vmid::nearest), "{volid}");
        }
    }

    #[test]
    fn what_is_a_directory_on_its_storage_is_no_image() {
        for (volid, image) in [
            ("zfs:subvol-950-disk-0", false),
            ("zfs:basevol-900-disk-0/subvol-950-disk-0", false),
            ("btrfs:950/vm-950-disk-1.subvol", false),
            ("dir:950/vm-950-disk-0.raw", true),
            ("lvm:vm-950-disk-0", true),
        ] {
            assert_eq!(is_image(volid), image, "{volid}");
        }
    }
}
