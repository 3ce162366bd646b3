//! What a step announces, written to status before its effect leaves (promise 1).

use crate::crd::{GuestStatus, RevisionStatus, VolumeStatus};

use super::recreate::recreated;
use super::{Announce, Step};

/// Chosen images that status keeps; those of earlier specs go first.
const CHOSEN: usize = 8;

/// What is written before a step's effect leaves (promise 1).
pub fn announced(previous: &GuestStatus, announce: &[Announce]) -> GuestStatus {
    let mut status = previous.clone();
    for entry in announce {
        match entry {
            Announce::Vmid { vmid, node, adopted } => {
                status.vmid = Some((*vmid).into());
                status.node = Some(node.clone());
                status.adopted = adopted.then_some(true);
                status.claim = None;
            }
            Announce::Claim(digest) => status.claim = Some(digest.clone()),
            Announce::Restamped(value) => status.restamped = Some(value.clone()),
            Announce::Owned(restamp) => {
                status.claim = None;
                status.restamped.clone_from(restamp);
            }
            Announce::NoVmid => {
                status.vmid = None;
                status.create_sent = None;
                status.adopted = None;
                status.managed = None;
                status.claim = None;
                status.node = None;
                status.last_error = None;
            }
            Announce::Image { wanted, name } => {
                let chosen = status.chosen_images.get_or_insert_default();
                if chosen.len() >= CHOSEN && !chosen.contains_key(wanted) {
                    chosen.clear();
                }
                chosen.insert(wanted.clone(), name.clone());
            }
            Announce::CreateSent => status.create_sent = Some(true),
            Announce::Superseded(old) => superseded(&mut status, old),
            Announce::RevisionGone(vmid) => {
                if let Some(list) = &mut status.revisions {
                    list.retain(|r| r.vmid() != Some(*vmid));
                }
                status.revisions = status.revisions.take().filter(|list| !list.is_empty());
            }
            Announce::Recreated(value) => status = recreated(&status, value),
            Announce::TakeUpRevision => take_up(&mut status),
            Announce::HealthRestart(restarts) => status.restarts = Some(restarts.clone()),
            Announce::Restart(value, from) => {
                status.restarted_at = Some(value.clone());
                status.restart_from.clone_from(from);
            }
            Announce::CloudInitWritten(pid) => status.cloud_init_unread = Some(*pid),
            Announce::Snippet(volid) => status.snippet.clone_from(volid),
            Announce::RawLines(lines) => status.lxc_options = Some(lines.clone()),
            Announce::Volume(new) => {
                let volumes = status.volumes.get_or_insert_default();
                match volumes.iter_mut().find(|v| v.name == new.name) {
                    Some(old) if old.volid.is_none() || old.volid == new.volid => old.clone_from(new),
                    // The name is that of another volume now; the old one may still be the guest's.
                    Some(old) if new.volid.is_some() => {
                        let volid = old.volid.clone().unwrap_or_default();
                        old.name = format!("{} ({volid})", old.name);
                        volumes.push(new.clone());
                    }
                    Some(_) => {}
                    None => volumes.push(new.clone()),
                }
            }
            Announce::VolumeNamed { volid, name } => {
                let volumes = status.volumes.iter_mut().flatten();
                let named = volumes.filter(|v| v.volid.as_ref() == Some(volid));
                named.for_each(|v| v.name.clone_from(name));
            }
        }
    }
    status
}

/// Keeps the guest in the history; if it was the object's own, the object has none for now.
fn superseded(status: &mut GuestStatus, old: &RevisionStatus) {
    let list = status.revisions.get_or_insert_default();
    if !list.iter().any(|r| r.vmid == old.vmid) {
        list.push(old.clone());
    }
    if status.vmid != Some(old.vmid) {
        return;
    }
    (status.vmid, status.node, status.create_sent, status.adopted) = (None, None, None, None);
    (status.applied_hash, status.cleaned, status.snippet, status.image) = (None, None, None, None);
    status.claim = None;
    (status.features, status.application, status.tests) = (None, None, None);
    (status.vllm, status.model_server) = (None, None);
    (status.volumes, status.lxc_options, status.task) = (None, None, None);
    (status.rootfs_gib, status.rootfs_size, status.managed) = (None, None, None);
}

/// Takes a claim back whose call was refused for the moment: the guest is as it was, and is looked at anew. `None` where
/// the step claims nothing.
pub fn unclaimed(previous: &GuestStatus, step: &Step) -> Option<GuestStatus> {
    let announces = |of: fn(&Announce) -> bool| step.announce.iter().any(of);
    if !announces(|a| matches!(a, Announce::Claim(_))) {
        return None;
    }
    let mut status = previous.clone();
    if announces(|a| matches!(a, Announce::Vmid { .. })) {
        status = announced(&status, &[Announce::NoVmid]);
    }
    if announces(|a| matches!(a, Announce::Restamped(_))) {
        status.restamped = None;
    }
    status.claim = None;
    Some(status)
}

fn take_up(status: &mut GuestStatus) {
    let last = status.revisions.as_mut().and_then(Vec::pop);
    status.revisions = status.revisions.take().filter(|list| !list.is_empty());
    let Some(last) = last else { return };
    status.vmid = Some(last.vmid);
    status.node = last.node;
    status.snippet = last.snippet;
    status.create_sent = Some(true);
    // What it was built with may go with it.
    status.volumes = last.volumes.map(|volids| {
        let built = |volid: String| VolumeStatus {
            name: volid.clone(),
            volid: Some(volid),
            reclaim_policy: Some("Delete".into()),
            ..VolumeStatus::default()
        };
        volids.into_iter().map(built).collect()
    });
}
