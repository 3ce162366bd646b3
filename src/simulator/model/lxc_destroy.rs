//! Destroying a container (facts D.11, K.1.3).

use super::error::{ApiError, Result};
use super::lxc_options::{Mount, index_of, is_mount};
use super::state::{Caller, State};
use super::task::Work;

/// Parameters of `DELETE …/lxc/{vmid}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DestroyRequest {
    /// Stop it first if it runs.
    pub force: bool,
    /// Remove it from jobs and other configurations too.
    pub purge: bool,
    /// Also free volumes that no configuration mentions.
    pub unreferenced: bool,
}

impl State {
    /// `DELETE /nodes/{node}/lxc/{vmid}`.
    pub fn destroy_ct(&mut self, caller: &Caller, node: &str, vmid: u32, request: DestroyRequest) -> Result<String> {
        let guest = self.ct(node, vmid)?;
        if guest.config().current.flag("protection") {
            return Err(ApiError::die(format!(
                "can't remove CT {vmid} - protection mode enabled"
            )));
        }
        self.check_lock(vmid)?;
        self.check_writable()?;
        if guest.running.is_some() && !request.force {
            return Err(ApiError::die(format!(
                "unable to destroy CT {vmid} - container is running"
            )));
        }
        let DestroyRequest {
            force,
            purge,
            unreferenced,
        } = request;
        let work = Work::CtDestroy {
            vmid,
            force,
            purge,
            unreferenced,
        };
        Ok(self.start_task(node, "vzdestroy", &vmid.to_string(), &caller.id, work))
    }

    pub(super) fn begin_ct_destroy(&mut self, seq: u64, vmid: u32) -> Result<u64> {
        self.take_flock(vmid, seq)?;
        self.check_lock(vmid)?;
        Ok(self.latency.destroy)
    }

    pub(super) fn finish_ct_destroy(
        &mut self,
        seq: u64,
        vmid: u32,
        force: bool,
        purge: bool,
        unreferenced: bool,
    ) -> Result<()> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Ok(());
        };
        let node = guest.node.clone();
        if guest.running.is_some() {
            if !force {
                return Err(ApiError::die(format!(
                    "unable to destroy CT {vmid} - container is running"
                )));
            }
            self.log(seq, format!("forced to stop CT {vmid} before destroying!"));
            self.power_off(vmid)?;
        }
        // One after another, before the configuration goes: a failure leaves the guest with what is left of it.
        for volid in self.volumes_of(vmid) {
            if self.volume_owner(&volid)? == vmid {
                self.free_volume(&node, &volid)?;
            }
        }
        if unreferenced {
            self.free_all_of(&node, vmid);
        }
        if purge {
            self.log(seq, format!("purging CT {vmid} from related configurations.."));
        }
        self.forget_guest(vmid);
        Ok(())
    }

    /// Volumes of a guest's configuration: disks, mount points, `unusedN`, also the pending ones.
    pub(super) fn volumes_of(&self, vmid: u32) -> Vec<String> {
        let Some(guest) = self.guests.get(&vmid) else {
            return Vec::new();
        };
        let config = guest.config();
        let mut entries: Vec<(&String, &String)> = config.current.options.iter().chain(&config.pending).collect();
        // Root disk, mount points, then what is unused.
        entries.sort_by_key(|(key, _)| match (index_of(key, "mp"), index_of(key, "unused")) {
            (Some(number), _) => (1, number),
            (_, Some(number)) => (2, number),
            _ => (0, 0),
        });
        let mut found = Vec::new();
        for (key, value) in entries {
            let mount = Mount::parse(value);
            let disk = (is_mount(key) || index_of(key, "unused").is_some()) && mount.kind() == "volume";
            // A pending allocation has no volume yet.
            let literal = mount.allocation().is_some() && key != "rootfs";
            if disk && !literal && !found.contains(&mount.volume().to_owned()) {
                found.push(mount.volume().to_owned());
            }
        }
        found
    }
}
