//! The parts of a container that machines do not have, in the order in which they are made true.

mod capabilities;
mod create;
mod existing;
mod gpus;
pub(super) mod mounts;
mod network;
pub(super) mod owners;
mod protected;
mod raw_lines;
mod reclaim;
mod rootfs;
pub(crate) mod volumes;

use crate::desired::{Form, WantedLxc, digest_of};
use crate::observed::Guest;
use crate::reason::Reason;

pub use owners::OWNER_KIND;

use super::{Next, Stage};
use crate::plan::change::Change;
use crate::plan::options::option_changes;
use crate::plan::planner::{Planner, Staged};
use capabilities::flag_changes;
use network::network_changes;

impl Planner<'_> {
    /// Configuration, volumes and GPUs are as wanted.
    pub(crate) fn container(&mut self, lxc: &WantedLxc, guest: &Guest) -> Staged {
        let protects = self.configured(lxc, guest)?;
        let volumes = self.volumes(guest);
        self.with_protection(guest, volumes, protects)?;
        self.gpus(lxc, guest)
    }

    /// Options, network, features and raw lines are as wanted, and the root filesystem is large enough. The answer is the
    /// change that is left for after the volumes.
    pub(crate) fn configured(&mut self, lxc: &WantedLxc, guest: &Guest) -> Result<Option<Change>, Next> {
        let vmid = guest.at.vmid;
        let stage = Stage::Configured;
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        self.recreate_findings(lxc, guest);
        self.grow_rootfs(lxc, guest)?;
        let mut changes = option_changes(self.desired, &self.dropped, guest, fresh);
        changes.extend(network_changes(self.desired, &self.dropped, guest, fresh));
        changes.extend(flag_changes(lxc, &self.dropped, guest));
        let protects = self.protected_later(&mut changes);
        self.apply(stage, guest, changes)?;
        self.raw_lines(lxc, guest)?;
        self.in_pool(vmid)?;
        self.ok(stage, "the configuration is as wanted");
        Ok(protects)
    }

    fn recreate_findings(&mut self, lxc: &WantedLxc, guest: &Guest) {
        let rootfs = guest.options.get("rootfs").map(String::as_str).unwrap_or_default();
        let storage = rootfs.split(':').next().unwrap_or_default();
        let mut differs = Vec::new();
        if let Some(wanted) = lxc.rootfs_storage.as_ref().filter(|s| *s != storage) {
            differs.push(format!("rootfs.storage is {storage:?}, wanted {wanted:?}"));
        }
        let unprivileged = guest.options.get("unprivileged").is_some_and(|v| v == "1");
        if let Some(wanted) = lxc.unprivileged.filter(|w| *w != unprivileged) {
            differs.push(format!("unprivileged is {unprivileged}, wanted {wanted}"));
        }
        // A changed template is built anew.
        let guest_of_its_own = self.desired.life.form == Form::Guest;
        let stamp = guest.stamp().filter(|_| guest_of_its_own);
        if let (Some(keys), Some(stamp)) = (&lxc.ssh_keys, stamp)
            && stamp.keys.as_ref() != Some(&digest_of(keys))
        {
            let with = if stamp.keys.is_some() {
                "other keys"
            } else {
                "none, by its stamp"
            };
            differs.push(format!("sshKeysSecretRef: it was made with {with}"));
        }
        if !differs.is_empty() {
            let message = format!(
                "{}: the container keeps what it has; only a new container can change it",
                differs.join("; ")
            );
            self.find_more("RecreateRequired", Reason::CreationOnly, message);
        }
    }
}
