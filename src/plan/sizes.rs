//! Sizes of root filesystems, volumes and disks: they grow in place and never shrink. One that somebody grew elsewhere
//! is told of and left alone; a spec that was made smaller is refused.

use std::cmp::Ordering;

use crate::observed::Guest;
use crate::pve::property::Properties;
use crate::pve::{DiskSize, units};
use crate::reason::Reason;

use super::planner::Planner;
use super::{Next, Stage};

/// A size as the spec wants it, and as it is.
pub(crate) struct Sized<'a> {
    pub stage: Stage,
    /// Field of the spec.
    pub field: String,
    /// What has the size, for people.
    pub what: &'a str,
    /// Size that the spec wants.
    pub wanted: DiskSize,
    /// Bytes that there are, as a configuration says.
    pub have: u128,
    /// Bytes in whose multiples the storage keeps volumes.
    pub unit: u128,
    /// Size that the spec wanted when it was last fulfilled.
    pub fulfilled: Option<DiskSize>,
}

impl Sized<'_> {
    /// The two sizes as the storage keeps them: a configuration tells what was asked for or what was made of it, as it
    /// happens, and Proxmox reckons with what was made of it when something is to grow.
    fn compare(&self) -> Ordering {
        let kept = |bytes: u128| bytes.div_ceil(self.unit);
        kept(self.have).cmp(&kept(self.wanted.bytes()))
    }

    /// Whether the volume is as large as the spec wants it.
    pub(crate) fn is_as_wanted(&self) -> bool {
        self.compare().is_eq()
    }
}

/// An extent, as LVM makes them unless it is told otherwise.
const EXTENT: u128 = 4 << 20;

/// Whether a pending mount point differs from what is in force in its size text only: the volume has its size already
/// (facts K.1.4), and no restart is needed for it.
pub(crate) fn only_size_pends(guest: &Guest, key: &str) -> bool {
    let without = |text: &String| {
        let mut properties = Properties::of_option("mp0", text).ok()?;
        properties.remove("size");
        Some(properties)
    };
    let now = guest.pending.get(key).and_then(Option::as_ref).and_then(without);
    key.starts_with("mp") && now.is_some() && now == guest.options.get(key).and_then(without)
}

impl Planner<'_> {
    /// Bytes in whose multiples the storage of a volume keeps it. LVM rounds up to extents; every other storage keeps whole
    /// MiB as they are, ZFS among them (facts G.3), and so does an image of a format of its own.
    pub(crate) fn unit_of(&self, node: &str, volid: &str) -> u128 {
        let storage = volid.split(':').next().unwrap_or_default();
        let at = (node.to_string(), storage.to_string());
        let row = self.observed.cluster.storages.get(&at);
        let in_extents = row.is_some_and(|row| ["lvm", "lvmthin"].contains(&row.type_.as_str()));
        match in_extents && !volid.ends_with(".qcow2") {
            true => EXTENT,
            false => 1,
        }
    }

    /// Whether it has to grow.
    pub(crate) fn must_grow(&mut self, size: &Sized<'_>) -> Result<bool, Next> {
        let Sized {
            field,
            what,
            wanted,
            have,
            ..
        } = size;
        if size.compare().is_le() {
            return Ok(size.compare().is_lt());
        }
        let there = units::words(*have);
        let at_least = DiskSize::at_least(*have).map_or_else(|| there.clone(), |size| size.to_string());
        let lowered = match size.fulfilled {
            Some(before) => *wanted < before,
            // Statuses of earlier releases do not say.
            None => self.status.applied_hash.as_ref() != Some(&self.desired.prints.applied),
        };
        if lowered {
            let message = format!(
                "{field}: {wanted} is less than the {there} that {what} has; Proxmox cannot shrink it: set at least {at_least}"
            );
            return Err(self.stuck(size.stage, Reason::ShrinkRefused, message));
        }
        let message = format!(
            "{field}: {wanted} is less than the {there} that {what} has, because it was grown elsewhere; it stays: set {at_least}"
        );
        self.find_more("LargerThanSpec", Reason::GrownOutsidePhoenix, message);
        Ok(false)
    }
}
