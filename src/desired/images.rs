//! Names under which images lie on their storage. A downloaded file's name holds its checksum, so a name stands for one
//! content: another URL that ends alike, a new checksum of the same URL and a file that somebody put there by an
//! ordinary name are other files.

/// Ends of names that Proxmox takes for container images (facts G.4).
pub const CONTAINER_ENDS: &[&str] = &[".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar"];

/// Ends of names of disk images; `.img` is stored as `.qcow2`, which cloud images of that name are inside.
pub const DISK_ENDS: &[&str] = &[".qcow2", ".raw", ".vmdk"];

/// Characters of a URL's file name that are kept: with the checksum and the end this stays below the 255 that Proxmox
/// and file systems take.
const STEM: usize = 96;

/// Name of the file behind a URL.
pub fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_string()
}

/// A file name's stem and end.
fn split(filename: &str) -> (&str, &str) {
    let ends = CONTAINER_ENDS.iter().chain(DISK_ENDS);
    ends.filter_map(|end| Some((filename.strip_suffix(end)?, *end)))
        .next()
        .unwrap_or((filename, ""))
}

/// Name on the storage of a file that is downloaded: the URL's own name, then the checksum. Proxmox replaces other
/// characters by itself, and the file would not be found again under the name that was asked for.
pub fn stored_name(filename: &str, sha256: &str) -> String {
    let (stem, end) = split(filename);
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let stem: String = stem.chars().map(safe).take(STEM).collect();
    let stem = stem.trim_start_matches(['.', '-']);
    let stem = if stem.is_empty() { "image" } else { stem };
    format!("{stem}-{sha256}{end}")
}

/// Name of an appliance without its version, such as `debian-12-standard`.
pub fn package(appliance: &str) -> &str {
    appliance.split('_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_content() {
        let sums = ["a".repeat(64), "b".repeat(64)];
        let names = [
            ("https://one.example/rootfs.tar.xz", 0),
            ("https://two.example/rootfs.tar.xz?token=x", 1),
            ("https://one.example/rootfs.tar.xz", 1),
            ("https://one.example/rootfs.tar.zst", 0),
        ]
        .map(|(url, sum)| stored_name(&file_name(url), &sums[sum]));
        assert_eq!(names[0], format!("rootfs-{}.tar.xz", sums[0]));
        assert_eq!(names[1], names[2], "the content counts, not where it comes from");
        assert_ne!(names[0], names[2]);
        assert_ne!(names[0], names[3]);
    }

    #[test]
    fn names_are_what_proxmox_keeps_and_not_too_long() {
        let sum = "c".repeat(64);
        for (url, stored) in [
            ("http://x/a%20b+c~1.tar.gz", "a_20b_c_1"),
            ("http://x/.tar.gz", "image"),
            ("http://x/..tar.gz", "image"),
            ("http://x/--help.tar.gz", "help"),
            ("http://x/\u{fc}ber.tar.gz", "_ber"),
        ] {
            assert_eq!(
                stored_name(&file_name(url), &sum),
                format!("{stored}-{sum}.tar.gz"),
                "{url}"
            );
        }
        let long = stored_name(&format!("{}.qcow2", "n".repeat(400)), &sum);
        assert!(long.len() <= 200 && long.ends_with(&format!("-{sum}.qcow2")), "{long}");
    }
}
