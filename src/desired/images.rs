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

/// Whether a name of an appliance leaves its build open: it has a `*`, or no version.
pub fn is_open(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name.contains('*') || !(lower.contains(".tar") || lower.ends_with(".tgz"))
}

/// Whether an image of this name is one of those that an open name means: the whole name, its package, or the name up to
/// a part of the version fits.
pub fn fits(open: &str, name: &str) -> bool {
    let whole = CONTAINER_ENDS.iter().any(|end| name.ends_with(end));
    whole && (glob(open, name) || glob(open, package(name)) || glob(&format!("{open}_*"), name))
}

/// `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The newest of those that fit: numbers in names count as numbers.
pub fn newest<'n>(open: &str, names: impl IntoIterator<Item = &'n String>) -> Option<&'n String> {
    let fitting = names.into_iter().filter(|name| fits(open, name));
    fitting.max_by_key(|name| parts(name))
}

/// A name in parts that sort as people count: `12.12-1` after `12.7-1`.
fn parts(name: &str) -> Vec<(u128, String)> {
    let mut parts: Vec<(u128, String)> = vec![(0, String::new())];
    let mut before = false;
    for c in name.chars() {
        let digit = c.to_digit(10);
        if digit.is_some() != before {
            parts.push((0, String::new()));
        }
        before = digit.is_some();
        if let Some((number, text)) = parts.last_mut() {
            match digit {
                Some(digit) => *number = number.saturating_mul(10).saturating_add(u128::from(digit)),
                None => text.push(c),
            }
        }
    }
    parts
}

/// Up to three of the names that are nearest to one that is not there; those of its package first.
pub fn near<'n>(wanted: &str, names: impl IntoIterator<Item = &'n String>) -> Vec<&'n str> {
    let open = wanted.replace('*', "");
    let mut found: Vec<(bool, f64, &str)> = names
        .into_iter()
        .map(|name| {
            let whole = strsim::jaro_winkler(&open, name);
            let stem = strsim::jaro_winkler(package(&open), package(name));
            (package(name) == package(&open), whole.max(stem), name.as_str())
        })
        .filter(|(same, score, _)| *same || *score >= NEAR)
        .collect();
    found.sort_by(|a, b| {
        (b.0, b.1)
            .partial_cmp(&(a.0, a.1))
            .unwrap_or(std::cmp::Ordering::Equal)
            .then(a.2.cmp(b.2))
    });
    found.into_iter().map(|(.., name)| name).take(3).collect()
}

/// Likeness above which a name is worth naming.
const NEAR: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Vec<String> {
        [
            "alpine-3.22-default_20250617_amd64.tar.xz",
            "debian-12-standard_12.7-1_amd64.tar.zst",
            "debian-12-standard_12.12-1_amd64.tar.zst",
            "debian-13-standard_13.1-2_amd64.tar.zst",
            "ubuntu-24.04-standard_24.04-2_amd64.tar.zst",
            "ubuntu-25.04-standard_25.04-1.1_amd64.tar.zst",
        ]
        .map(String::from)
        .to_vec()
    }

    #[test]
    fn an_open_name_means_the_newest_that_fits() {
        for (open, chosen) in [
            ("debian-12-standard", Some("debian-12-standard_12.12-1_amd64.tar.zst")),
            ("debian-12-standard_*", Some("debian-12-standard_12.12-1_amd64.tar.zst")),
            (
                "debian-12-standard_12.7-1",
                Some("debian-12-standard_12.7-1_amd64.tar.zst"),
            ),
            ("debian-*-standard", Some("debian-13-standard_13.1-2_amd64.tar.zst")),
            ("debian-*", Some("debian-13-standard_13.1-2_amd64.tar.zst")),
            ("*_amd64.tar.xz", Some("alpine-3.22-default_20250617_amd64.tar.xz")),
            (
                "ubuntu-*-standard_*_amd64.tar.zst",
                Some("ubuntu-25.04-standard_25.04-1.1_amd64.tar.zst"),
            ),
            ("debian-1", None),
            ("debian", None),
            ("debian-14-*", None),
            ("", None),
        ] {
            let names = index();
            assert_eq!(newest(open, &names).map(String::as_str), chosen, "{open}");
            assert_eq!(is_open(open), !open.ends_with("7-1_amd64.tar.zst"), "{open}");
        }
        assert!(!is_open("debian-12-standard_12.7-1_amd64.tar.zst"));
        // What is no image of a container is none of them.
        assert!(!fits("debian-*", "debian-12.iso"));
    }

    /// What a storage may hold by a name of its own is that file, as in earlier releases.
    #[test]
    fn a_file_of_ones_own_is_no_open_name() {
        for file in [
            "mine.tar",
            "mine.TAR.GZ",
            "mine.tgz",
            "debian-12-standard_12.7-1_amd64.tar.zst",
        ] {
            assert!(!is_open(file), "{file}");
        }
    }

    #[test]
    fn near_names_are_those_of_the_package_and_what_reads_alike() {
        let names = index();
        let near = |wanted: &str| near(wanted, &names);
        assert_eq!(
            near("debian-12-standard_12.2-1_amd64.tar.zst")[..2],
            [
                "debian-12-standard_12.12-1_amd64.tar.zst",
                "debian-12-standard_12.7-1_amd64.tar.zst"
            ]
        );
        assert_eq!(
            near("debain-13-standard_*")[0],
            "debian-13-standard_13.1-2_amd64.tar.zst"
        );
        assert_eq!(near("zzz"), [""; 0]);
    }

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
