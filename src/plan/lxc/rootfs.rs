//! The root filesystem of a container.

use crate::desired::WantedLxc;
use crate::observed::Guest;
use crate::plan::planner::Planner;
use crate::plan::sizes::Sized;
use crate::plan::{Next, Stage, calls};
use crate::pve::property::Properties;
use crate::pve::units;

impl Planner<'_> {
    /// Grows the root filesystem; shrinking is refused (facts D.7).
    pub(crate) fn grow_rootfs(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<(), Next> {
        let what = guest.named();
        let Some(wanted) = lxc.rootfs_size else {
            return Ok(());
        };
        let rootfs = guest.options.get("rootfs").map(String::as_str).unwrap_or_default();
        let Ok(rootfs) = Properties::of_option("rootfs", rootfs) else {
            return Ok(());
        };
        let Some(have) = rootfs.get("size").and_then(units::proxmox_bytes) else {
            return Ok(());
        };
        let volid = rootfs.get("volume").unwrap_or_default();
        let size = Sized {
            stage: Stage::Configured,
            field: format!("{}.rootfs.size", self.prefix()),
            what: "the root filesystem",
            wanted,
            have,
            unit: self.unit_of(&guest.at.node, volid),
            fulfilled: self.status.asked_rootfs_size(),
        };
        if !self.must_grow(&size)? {
            self.facts.rootfs_size = Some(wanted);
            return Ok(());
        }
        self.unlocked(Stage::Configured, guest)?;
        let action = format!("grow the root filesystem of {what} to {wanted}");
        let next = self.run(
            Stage::Configured,
            action,
            vec![],
            calls::resize(guest, "rootfs", wanted),
        );
        self.hold(Stage::Configured, next.apart("rootfs"))
    }
}
