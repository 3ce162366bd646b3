//! Sizes of root filesystems, volumes and disks: they grow in place and never shrink. One that somebody grew elsewhere
//! is told of and left alone; a spec that was made smaller is refused.

use crate::observed::Guest;
use crate::pve::property::Properties;
use crate::pve::units;
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
    /// GiB that the spec wants.
    pub wanted: i64,
    /// Bytes that there are.
    pub have: u128,
    /// GiB that the spec wanted when it was last fulfilled.
    pub fulfilled: Option<i64>,
}

/// Bytes of so many GiB.
pub(crate) fn gib_bytes(gib: i64) -> u128 {
    u128::try_from(gib).unwrap_or(0) << 30
}

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
    /// Whether it has to grow.
    pub(crate) fn must_grow(&mut self, size: &Sized<'_>) -> Result<bool, Next> {
        let Sized {
            field,
            what,
            wanted,
            have,
            ..
        } = size;
        if *have <= gib_bytes(*wanted) {
            return Ok(*have < gib_bytes(*wanted));
        }
        let there = units::words(*have);
        let at_least = have.div_ceil(1 << 30);
        let lowered = match size.fulfilled {
            Some(before) => *wanted < before,
            // Statuses of earlier releases do not say.
            None => self.status.applied_hash.as_ref() != Some(&self.desired.prints.applied),
        };
        if lowered {
            let message = format!(
                "{field}: {wanted}Gi is less than the {there} that {what} has; Proxmox cannot shrink it: set at least {at_least}Gi"
            );
            return Err(self.stuck(size.stage, Reason::ShrinkRefused, message));
        }
        let message = format!(
            "{field}: {wanted}Gi is less than the {there} that {what} has, because it was grown elsewhere; it stays: set {at_least}Gi"
        );
        self.find_more("LargerThanSpec", Reason::GrownOutsidePhoenix, message);
        Ok(false)
    }
}
