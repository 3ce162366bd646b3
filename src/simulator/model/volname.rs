//! Names of volumes as the storage plugins read them (facts G.3), and what they say about names that are none.

use super::storage::StorageKind;

/// A volume name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolName<'a> {
    /// `images` for disks of guests, else the content type of the file.
    pub content: &'static str,
    /// Name without folder and base volume.
    pub file: &'a str,
    /// Guest in the name.
    pub owner: Option<u32>,
    /// Whether it is the disk of a template.
    pub is_base: bool,
    /// Format of a disk; `raw` for other files.
    pub format: &'a str,
}

impl<'a> VolName<'a> {
    /// Reads the part of a volume id behind the storage.
    pub fn parse(kind: StorageKind, name: &'a str) -> Result<Self, String> {
        match kind {
            StorageKind::ZfsPool => zfs(name).ok_or_else(|| format!("unable to parse zfs volume name '{name}'")),
            StorageKind::Dir | StorageKind::Btrfs => directory(name),
        }
    }
}

/// Ends of file names that each content type accepts (facts G.4).
pub fn fits_content(content: &str, file: &str) -> bool {
    let lower = file.to_ascii_lowercase();
    let ends = |all: &[&str], text: &str| {
        all.iter()
            .any(|end| text.strip_suffix(end).is_some_and(|s| !s.is_empty()))
    };
    match content {
        "iso" => ends(&[".iso", ".img"], &lower),
        "vztmpl" => ends(&[".tar", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2"], &lower),
        "backup" => {
            let tars = [".tgz", ".tar", ".tar.gz", ".tar.lzo", ".tar.zst", ".tar.bz2"];
            ends(&tars, file) || ends(&[".vma", ".vma.gz", ".vma.lzo", ".vma.zst", ".vma.bz2"], file)
        }
        "import" => ends(&[".ova", ".ovf", ".qcow2", ".raw", ".vmdk"], file),
        "snippets" => !file.is_empty(),
        _ => false,
    }
}

/// Guest in the name of a backup.
pub fn backup_owner(file: &str) -> Option<u32> {
    let rest = ["vzdump-lxc-", "vzdump-qemu-", "vzdump-openvz-"]
        .iter()
        .find_map(|prefix| file.strip_prefix(prefix))?;
    let (vmid, rest) = rest.split_once('-')?;
    (!rest.is_empty()).then(|| vmid.parse().ok()).flatten()
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A disk in the folder of its guest: name and format.
fn image(name: &str) -> Result<(&str, bool), String> {
    let fault = || format!("unable to parse volume filename '{name}'");
    if name.contains('/') || name.contains(char::is_whitespace) {
        return Err(fault());
    }
    if name.starts_with("snap-") && name.ends_with(".qcow2") {
        return Err(format!("'{name}' is a snapshot filename, not a volume!"));
    }
    let (stem, format) = name.rsplit_once('.').ok_or_else(fault)?;
    if stem.is_empty() || !["raw", "qcow2", "vmdk", "subvol"].contains(&format) {
        return Err(fault());
    }
    Ok((format, name.starts_with("base-")))
}

fn directory(name: &str) -> Result<VolName<'_>, String> {
    let fault = || format!("unable to parse directory volume name '{name}'");
    let (first, rest) = name.split_once('/').ok_or_else(fault)?;
    if rest.is_empty() {
        return Err(fault());
    }
    if let Some(mut owner) = number(first).filter(|_| !rest.contains(char::is_whitespace)) {
        let mut file = rest;
        // A linked clone reads `950/base-950-disk-0.qcow2/951/vm-951-disk-0.qcow2`.
        let parts: Vec<&str> = rest.split('/').collect();
        if let [base, clone, own] = parts[..]
            && let Some(clone) = number(clone)
            && !own.is_empty()
        {
            image(base)?;
            (owner, file) = (clone, own);
        }
        let (format, is_base) = image(file)?;
        return Ok(VolName {
            content: "images",
            file,
            owner: Some(owner),
            is_base,
            format,
        });
    }
    let content = ["iso", "vztmpl", "backup", "snippets", "import"]
        .into_iter()
        .find(|content| *content == first && fits_content(content, rest))
        // Only an appliance has files of its own in it.
        .filter(|content| !rest.contains('/') || *content == "import" && rest.contains(".ova/"))
        .ok_or_else(fault)?;
    let format = match (content, rest.rsplit_once('.')) {
        ("import", Some((_, end))) => end,
        _ => "raw",
    };
    Ok(VolName {
        content,
        file: rest,
        owner: (content == "backup").then(|| backup_owner(rest)).flatten(),
        is_base: false,
        format,
    })
}

/// `vm-100-disk-0`, or `basevol-100-disk-0/subvol-101-disk-0` for a linked clone.
fn zfs(name: &str) -> Option<VolName<'_>> {
    let disk = |text: &str| {
        let (kind, rest) = text.split_once('-')?;
        let (vmid, rest) = rest.split_once('-')?;
        let good = !rest.is_empty() && !text.contains(char::is_whitespace);
        good.then(|| Some((kind.to_owned(), number(vmid)?))).flatten()
    };
    let file = match name.split_once('/') {
        Some((base, file)) => {
            disk(base).filter(|(kind, _)| kind == "base" || kind == "basevol")?;
            file
        }
        None => name,
    };
    let (kind, owner) = disk(file)?;
    let format = match kind.as_str() {
        "subvol" | "basevol" => "subvol",
        "vm" | "base" => "raw",
        _ => return None,
    };
    Some(VolName {
        content: "images",
        file,
        owner: Some(owner),
        is_base: kind.starts_with("base"),
        format,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_plugins_read_them() {
        let dir = |name| VolName::parse(StorageKind::Dir, name);
        let linked = dir("950/base-950-disk-0.qcow2/951/vm-951-disk-0.qcow2").unwrap();
        assert_eq!(
            (linked.owner, linked.file, linked.format),
            (Some(951), "vm-951-disk-0.qcow2", "qcow2")
        );
        assert!(dir("950/base-950-disk-0.qcow2").unwrap().is_base);
        let backup = dir("backup/vzdump-lxc-100-2026_11_23-04_54_06.tar.zst").unwrap();
        assert_eq!((backup.content, backup.owner), ("backup", Some(100)));
        assert_eq!(dir("iso/UPPER.ISO").unwrap().content, "iso");
        let zfs = |name| VolName::parse(StorageKind::ZfsPool, name);
        let clone = zfs("basevol-900-disk-0/subvol-901-disk-0").unwrap();
        assert_eq!((clone.owner, clone.format, clone.is_base), (Some(901), "subvol", false));
        assert!(zfs("basevol-900-disk-0").unwrap().is_base);
    }

    #[test]
    fn texts_that_name_no_volume_are_refused_in_the_words_of_the_plugin() {
        for bad in [
            "1.5G",
            " 1",
            "subvol",
            "1:2",
            "-1",
            "x",
            "vztmpl/a.zip",
            "iso/",
            "nope/x.iso",
        ] {
            let said = VolName::parse(StorageKind::Btrfs, bad).unwrap_err();
            assert_eq!(said, format!("unable to parse directory volume name '{bad}'"));
        }
        for (bad, said) in [
            (
                "600/sub/vm-600-x.raw",
                "unable to parse volume filename 'sub/vm-600-x.raw'",
            ),
            ("600/vm-600-x", "unable to parse volume filename 'vm-600-x'"),
            (
                "600/snap-1.qcow2",
                "'snap-1.qcow2' is a snapshot filename, not a volume!",
            ),
        ] {
            assert_eq!(VolName::parse(StorageKind::Dir, bad).unwrap_err(), said);
        }
        for bad in ["abc", "disk-1-x", "vm-x-disk-0", "vm-100-", "vm-100-a/vm-101-b"] {
            let said = VolName::parse(StorageKind::ZfsPool, bad).unwrap_err();
            assert_eq!(said, format!("unable to parse zfs volume name '{bad}'"));
        }
    }
}
