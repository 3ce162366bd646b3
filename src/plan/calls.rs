//! Calls to Proxmox that several parts of a plan make, each with what it does to the guest. What only one part sends is
//! built there.

use crate::desired::Channels;
use crate::observed::Guest;
use crate::pve::{ApiCall, DiskSize, GuestRef, GuestType, Vmid};

use super::{Effect, Impact};

/// A write of the configuration; who sends it adds the digest of the read that showed our stamp. Without a token root
/// sends it.
pub(crate) fn put_config(guest: &Guest, channels: Channels) -> ApiCall {
    let call = ApiCall::put(guest.at.path_of(&["config"]));
    if channels.token { call } else { call.as_root() }
}

/// Starts a guest.
pub(crate) fn start(at: &GuestRef) -> Effect {
    Effect::task(&at.node, ApiCall::post(at.status_path("start")))
}

/// A restart that applies what is pending. A machine whose system does not answer would not reboot (facts F.7), so it is
/// shut down, hard after the deadline, and the next look starts it.
pub(crate) fn restart(at: &GuestRef) -> Effect {
    match at.sort {
        GuestType::Lxc => {
            let call = ApiCall::post(at.status_path("reboot")).param("timeout", 60);
            Effect::task(&at.node, call).with(Impact::Restart)
        }
        GuestType::Qemu => shutdown(at),
    }
}

/// A clean stop, and a hard one after the deadline (facts D.8).
pub(crate) fn shutdown(at: &GuestRef) -> Effect {
    // A machine has to stop a whole system with its disks.
    let seconds = match at.sort {
        GuestType::Lxc => 60,
        GuestType::Qemu => 180,
    };
    let call = ApiCall::post(at.status_path("shutdown"))
        .param("timeout", seconds)
        .param("forceStop", 1);
    Effect::task(&at.node, call).with(Impact::Restart)
}

/// A hard stop.
pub(crate) fn stop(at: &GuestRef) -> Effect {
    Effect::task(&at.node, ApiCall::post(at.status_path("stop"))).with(Impact::Restart)
}

/// Destroys a guest with its volumes, and takes it out of backup jobs and the like.
pub(crate) fn destroy(at: &GuestRef) -> Effect {
    let call = ApiCall::delete(at.path()).param("purge", 1);
    Effect::task(&at.node, call).with(Impact::Destroy)
}

/// Grows a root filesystem, volume or disk.
pub(crate) fn resize(guest: &Guest, disk: &str, size: DiskSize) -> Effect {
    let call = ApiCall::put(guest.at.path_of(&["resize"]))
        .param("disk", disk)
        .param("size", size.in_proxmox())
        .param("digest", &guest.digest);
    Effect::task(&guest.at.node, call)
}

/// Takes a snapshot.
pub(crate) fn snapshot(at: &GuestRef, name: &str, description: String) -> Effect {
    let call = ApiCall::post(at.path_of(&["snapshot"]))
        .param("snapname", name)
        .param("description", description);
    Effect::task(&at.node, call)
}

/// Converts a guest to a Proxmox template; of a machine `disk` alone, where a conversion was cut off. Of a container the
/// call answers at once, while a task that it does not name works without a lock (facts D.10, K.2.1).
pub(crate) fn make_template(at: &GuestRef, disk: Option<&str>) -> Effect {
    let call = ApiCall::post(at.path_of(&["template"])).param_opt("disk", disk);
    match at.sort {
        GuestType::Lxc => Effect::call(call).with(Impact::Restart),
        GuestType::Qemu => Effect::task(&at.node, call).with(Impact::Restart),
    }
}

/// Takes a guest out of a pool. Only the cluster's list shows the result.
pub(crate) fn take_out_of_pool(vmid: Vmid, pool: &str) -> Effect {
    let call = ApiCall::put("/pools")
        .param("poolid", pool)
        .param("vms", vmid)
        .param("delete", 1);
    Effect::call(call).refreshing()
}

/// Puts a guest into a pool; `moved`: out of another one. Only the cluster's list shows the result.
pub(crate) fn put_in_pool(vmid: Vmid, pool: &str, moved: bool) -> Effect {
    let call = ApiCall::put("/pools")
        .param("poolid", pool)
        .param("vms", vmid)
        .param_opt("allow-move", moved.then_some(1));
    Effect::call(call).refreshing()
}
