//! Sizes of root filesystems, volumes and disks.

use std::fmt;

use super::units;

const MIB: u128 = 1 << 20;
const MIB_PER_GIB: u64 = 1 << 10;

/// Size of a root filesystem, volume or disk: whole MiB, at least one. Proxmox makes volumes of containers in whole MiB,
/// and disks in whole KiB. It is shown as people write it (`512Mi`, `32Gi`, `1536Mi`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskSize {
    mib: u64,
}

impl DiskSize {
    /// What Phoenix gives a root filesystem that names no size: 8 GiB.
    pub const ROOTFS: DiskSize = DiskSize { mib: 8 * MIB_PER_GIB };

    /// The least: 1 MiB.
    pub const MIN: DiskSize = DiskSize { mib: 1 };

    /// The size that a field of a spec asks for.
    ///
    /// # Errors
    /// The field, its value and the fix, where the value is no quantity of bytes, not whole MiB, zero or too large.
    pub fn parse(field: &str, quantity: &str) -> Result<Self, String> {
        let bytes = units::quantity(field, quantity)?;
        let too_large = || format!("{field}: {quantity:?} is too large");
        let rounded = Self::at_least(bytes).ok_or_else(too_large)?;
        if bytes == 0 {
            return Err(format!("{field}: {quantity:?} is no size: use at least {rounded}"));
        }
        if rounded.bytes() == bytes {
            return Ok(rounded);
        }
        // A bare number is meant in GiB, as the legacy files have it.
        let bare = quantity.bytes().all(|b| b.is_ascii_digit());
        let bare = bare.then(|| format!("{quantity}Gi (a number without unit is bytes), or "));
        let gib = Self {
            mib: rounded.mib.next_multiple_of(MIB_PER_GIB),
        };
        let fix = match bare {
            Some(bare) => format!("{bare}{rounded}"),
            None if gib == rounded => rounded.to_string(),
            None => format!("{rounded}, or {gib}"),
        };
        Err(format!(
            "{field}: {quantity:?} is not a whole number of MiB, which Proxmox counts in: use {fix}"
        ))
    }

    /// The least size that holds so many bytes; `None` where no storage has as many.
    pub fn at_least(bytes: u128) -> Option<Self> {
        let mib = u64::try_from(bytes.div_ceil(MIB)).ok()?.max(1);
        // Room for the next whole GiB.
        (mib <= u64::MAX - MIB_PER_GIB).then_some(Self { mib })
    }

    /// The size that a status has: whole GiB as a number, any other as text. `None` where it has none that can be read.
    pub fn of_status(gib: Option<i64>, text: Option<&str>) -> Option<Self> {
        match (gib, text) {
            (_, Some(text)) => Self::parse("status", text).ok(),
            (Some(gib), None) => Self::at_least(u128::try_from(gib).ok().filter(|gib| *gib > 0)? << 30),
            (None, None) => None,
        }
    }

    /// As a status has it: whole GiB as a number, any other as text.
    pub fn in_status(self) -> (Option<i64>, Option<String>) {
        match self.whole_gib().and_then(|gib| i64::try_from(gib).ok()) {
            Some(gib) => (Some(gib), None),
            None => (None, Some(self.to_string())),
        }
    }

    /// Bytes.
    pub fn bytes(self) -> u128 {
        u128::from(self.mib) * MIB
    }

    fn whole_gib(self) -> Option<u64> {
        self.mib.is_multiple_of(MIB_PER_GIB).then_some(self.mib / MIB_PER_GIB)
    }

    /// GiB as a decimal number, exactly (`32`, `0.5`): what Proxmox makes a new volume from (`STORAGE:0.5`).
    pub fn in_gib(self) -> String {
        // A MiB is 0.0009765625 GiB: ten digits hold every part of a GiB.
        let fraction = self.mib % MIB_PER_GIB * (10_000_000_000 / MIB_PER_GIB);
        let text = format!("{}.{fraction:010}", self.mib / MIB_PER_GIB);
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    }

    /// The size of a new volume, from [`DiskSize::in_gib`]. `None` for another text.
    pub fn of_gib(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let bytes = units::bytes(&format!("{text}Gi")).filter(|bytes| plain && *bytes > 0)?;
        Self::at_least(bytes).filter(|size| size.bytes() == bytes)
    }

    /// As Proxmox takes it when something grows (`32G`, `512M`).
    pub fn in_proxmox(self) -> String {
        self.with_unit("G", "M")
    }

    fn with_unit(self, gib: &str, mib: &str) -> String {
        match self.whole_gib() {
            Some(whole) => format!("{whole}{gib}"),
            None => format!("{}{mib}", self.mib),
        }
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_unit("Gi", "Mi"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> DiskSize {
        DiskSize::parse("size", text).unwrap()
    }

    #[test]
    fn a_size_is_written_as_proxmox_and_people_write_it() {
        for (text, in_gib, in_proxmox, people) in [
            ("32Gi", "32", "32G", "32Gi"),
            ("10Gi", "10", "10G", "10Gi"),
            ("1Ti", "1024", "1024G", "1024Gi"),
            ("512Mi", "0.5", "512M", "512Mi"),
            ("0.5Gi", "0.5", "512M", "512Mi"),
            ("1536Mi", "1.5", "1536M", "1536Mi"),
            ("1024Mi", "1", "1G", "1Gi"),
            ("1Mi", "0.0009765625", "1M", "1Mi"),
            ("10250Mi", "10.009765625", "10250M", "10250Mi"),
            ("1048576", "0.0009765625", "1M", "1Mi"),
        ] {
            let size = size(text);
            assert_eq!(
                (size.in_gib().as_str(), size.in_proxmox().as_str()),
                (in_gib, in_proxmox)
            );
            assert_eq!(size.to_string(), people);
            assert_eq!(units::bytes(people), Some(size.bytes()));
            assert_eq!(units::proxmox_bytes(in_proxmox), Some(size.bytes()));
        }
    }

    /// Proxmox multiplies the number as a float, and cuts what is left behind the point (facts D.1).
    #[test]
    fn every_size_survives_proxmoxs_arithmetic() {
        for mib in (1..=4096).chain([9_999, 65_537, 1 << 30, (1 << 33) + 1]) {
            let size = DiskSize { mib };
            let text = size.in_gib();
            let gib: f64 = text.parse().unwrap();
            assert_eq!((gib * 1024.0) as u64, mib, "{text}");
            assert_eq!((gib * 1024.0 * 1024.0) as u64, mib << 10, "{text}");
            assert_eq!(DiskSize::of_gib(&text), Some(size));
        }
        for other in ["", "0", "cloudinit", "vm-1-disk-0", "0.1", "1e3", "-1", "+1"] {
            assert_eq!(DiskSize::of_gib(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_field_value_and_fix() {
        for (quantity, message) in [
            (
                "10G",
                "\"10G\" is not a whole number of MiB, which Proxmox counts in: use 9537Mi, or 10Gi",
            ),
            (
                "512.5Mi",
                "\"512.5Mi\" is not a whole number of MiB, which Proxmox counts in: use 513Mi, or 1Gi",
            ),
            (
                "1048575Ki",
                "\"1048575Ki\" is not a whole number of MiB, which Proxmox counts in: use 1Gi",
            ),
            (
                "100",
                "\"100\" is not a whole number of MiB, which Proxmox counts in: \
                 use 100Gi (a number without unit is bytes), or 1Mi",
            ),
            ("0Gi", "\"0Gi\" is no size: use at least 1Mi"),
            ("8GB", "\"8GB\" is not a quantity of bytes such as 8Gi"),
            ("99999999999999Ei", "\"99999999999999Ei\" is too large"),
        ] {
            let error = DiskSize::parse("spec.rootfs.size", quantity).unwrap_err();
            assert_eq!(error, format!("spec.rootfs.size: {message}"));
        }
    }

    #[test]
    fn a_status_keeps_whole_gib_as_a_number_and_other_sizes_as_text() {
        assert_eq!(size("32Gi").in_status(), (Some(32), None));
        assert_eq!(size("1536Mi").in_status(), (None, Some("1536Mi".into())));
        for text in ["32Gi", "1536Mi", "1Mi"] {
            let (gib, words) = size(text).in_status();
            assert_eq!(DiskSize::of_status(gib, words.as_deref()), Some(size(text)));
        }
        for (gib, text) in [(None, None), (Some(0), None), (Some(-1), None), (None, Some("some"))] {
            assert_eq!(DiskSize::of_status(gib, text), None);
        }
    }
}
