//! Looks that only volumes need: the owner containers of the whole cluster, their id range, and every section of a
//! guest's configuration.

use std::collections::BTreeSet;

use crate::desired::Stamp;
use crate::engine::connection::{Connection, Snapshot};
use crate::observed::*;
use crate::plan::{OWNER_HOSTNAME, OWNER_KIND, TAG};
use crate::proxmox::guest::PendingOption;
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};

use super::{Details, IdCheck, read_guest, vmid_free};

/// Ids of the owners' range that are asked for one by one at most.
const RANGE_LIMIT: usize = 128;

/// Reads every container that may be an owner: by its name, by the ids of today's range, by what statuses have
/// recorded, and by the tag, where it is no object's own guest. The stamp decides. What is only tagged and was found
/// to be none is not read again while its row stays the same.
pub(super) async fn owners(
    connection: &Connection,
    snapshot: &Snapshot,
    ids: (Vmid, Vmid),
    recorded: &Recorded,
) -> Result<Owners, Cause> {
    let rows = connection.client.cluster_resources().await?;
    let listed: BTreeSet<Vmid> = rows.iter().filter_map(|r| r.vmid()).collect();
    connection.seen_owner_ids(listed.iter().filter(|v| in_range(ids, **v)));
    let mut result = Owners::default();
    for row in rows.iter().filter(|r| r.kind == "lxc") {
        let (Some(vmid), Some(node)) = (row.vmid(), row.node.as_deref()) else {
            continue;
        };
        let name = row.name.as_deref().unwrap_or_default();
        // A name is a hint only, and guests of objects may have any.
        let named = name.starts_with(OWNER_HOSTNAME) && !recorded.guests.contains(&vmid);
        let likely = in_range(ids, vmid) || recorded.owners.contains(&vmid) || named;
        let tagged = row.tags.iter().any(|t| t == TAG) && !recorded.guests.contains(&vmid);
        let key = (vmid, node.to_string(), name.to_string());
        if !likely && (!tagged || connection.is_no_owner(&key)) {
            continue;
        }
        match read_owner(connection, snapshot, vmid, node).await {
            Ok(guest) if guest.being_made() && guest.stamp().is_none() => {
                if likely {
                    result.creating.push(vmid);
                }
            }
            Ok(guest) if guest.stamp().is_some_and(|s| s.kind == OWNER_KIND) => {
                result.owners.push(guest);
            }
            // A name that is not known yet may turn out to be an owner's.
            Ok(_) if !name.is_empty() => connection.is_found_to_be_no_owner(key),
            Ok(_) => {}
            Err(failure) => result.unreadable.push((vmid, failure)),
        }
    }
    for vmid in recorded.owners.iter().filter(|v| !listed.contains(v)) {
        if !is_free(connection, *vmid).await? {
            result.unreadable.push((*vmid, hidden(*vmid)));
        }
    }
    result.listed = listed;
    Ok(result)
}

/// The container of no object's that has the volume, and as what, now or after its next start: a running one has what it
/// was started with until then. Those that go meanwhile have nothing, and what a node that is off has is not in use.
pub(super) async fn holder(
    connection: &Connection,
    snapshot: &Snapshot,
    volid: &str,
    but: Option<Vmid>,
    recorded: &Recorded,
) -> Result<Option<(Vmid, String)>, Cause> {
    let theirs = |vmid: &Vmid| Some(*vmid) == but || recorded.guests.contains(vmid) || recorded.owners.contains(vmid);
    let online = &snapshot.cluster.online;
    let others = snapshot.cluster.guests.iter();
    let others =
        others.filter(|(vmid, row)| row.guest_type() == GuestType::Lxc && online.contains(&row.node) && !theirs(vmid));
    for (vmid, row) in others {
        let at = GuestRef::new(GuestType::Lxc, *vmid, &row.node);
        let Some(rows) = pending(connection, &at).await? else {
            continue;
        };
        if is_owner(&rows) {
            continue;
        }
        if let Some(row) = rows.iter().filter(|r| r.key.starts_with("mp")).find(|r| has(r, volid)) {
            return Ok(Some((*vmid, row.key.clone())));
        }
    }
    Ok(None)
}

/// A guest's options now and after its next start; `None` where the guest is gone.
async fn pending(connection: &Connection, at: &GuestRef) -> Result<Option<Vec<PendingOption>>, Cause> {
    match connection.client.guest_pending(at).await {
        Ok(rows) => Ok(Some(rows)),
        Err(crate::proxmox::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(Cause::from(&error)),
    }
}

/// Whether a container's notes say that it is an owner container.
fn is_owner(rows: &[PendingOption]) -> bool {
    let notes = rows.iter().find(|r| r.key == "description");
    let stamp = notes.and_then(|r| Stamp::find(r.value.as_deref()?));
    stamp.is_some_and(|s| s.kind == OWNER_KIND)
}

fn has(row: &PendingOption, volid: &str) -> bool {
    let names = |text: &String| text.split(',').next().map(|v| v.trim_start_matches("volume=")) == Some(volid);
    row.value.iter().chain(&row.pending).any(names)
}

/// A volume on its storage, and which of these containers have it as root filesystem or mount point.
pub(super) async fn stored(
    connection: &Connection,
    node: &str,
    volid: &str,
    of: Option<Vmid>,
    among: &[GuestRef],
) -> Result<StoredVolume, Cause> {
    let storage = volid.split(':').next().unwrap_or_default();
    let rows = connection.client.storage_content(node, storage, None, of).await;
    let rows = rows.map_err(|error| Cause::from(&error))?;
    let mut stored = StoredVolume {
        present: rows.iter().any(|r| r.volid == volid),
        beside: rows.into_iter().map(|r| r.volid).collect(),
        ..StoredVolume::default()
    };
    for at in among {
        let Some(rows) = pending(connection, at).await? else {
            continue;
        };
        let mut places = rows.iter().filter(|r| r.key == "rootfs" || r.key.starts_with("mp"));
        if let Some(row) = places.find(|r| has(r, volid)) {
            stored.held.push((at.vmid, row.key.clone()));
            stored.owners.extend(is_owner(&rows).then_some(at.vmid));
        }
    }
    Ok(stored)
}

fn in_range(ids: (Vmid, Vmid), vmid: Vmid) -> bool {
    (ids.0..=ids.1).contains(&vmid)
}

async fn is_free(connection: &Connection, vmid: Vmid) -> Result<bool, Cause> {
    connection.client.vmid_is_free(vmid).await.map_err(|e| Cause::from(&e))
}

fn hidden(vmid: Vmid) -> Cause {
    let message = format!(
        "guest {vmid} may be an owner container of retained volumes, and no list shows it: grant VM.Audit on /vms/{vmid}"
    );
    Cause::new(Reason::MissingPrivilege, message)
}

async fn read_owner(connection: &Connection, snapshot: &Snapshot, vmid: Vmid, node: &str) -> Result<Guest, Cause> {
    let what = format!("container {vmid} on node {node}, which may be an owner of retained volumes,");
    if !snapshot.cluster.online.contains(node) {
        return Err(Cause::new(
            Reason::NodeOffline,
            format!("{what} cannot be read: node {node} is offline"),
        ));
    }
    let read = read_guest(connection, GuestRef::new(GuestType::Lxc, vmid, node), Details::Config).await;
    read.map_err(|error| {
        let failed = match Cause::from(&error) {
            // It was in the list a moment ago: it moves, or it goes.
            Cause { message, .. } if matches!(error, crate::proxmox::Error::NotFound { .. }) => {
                Cause::new(Reason::GuestUnreadable, message)
            }
            failed => failed,
        };
        Cause::new(failed.reason, format!("{what} cannot be read: {}", failed.message))
    })
}

/// What of the owners' range no list shows and is taken all the same, and the first id that is free for a new owner
/// where a node is named. An id that was free once in this process and has not been in a list since is not asked for
/// again.
pub(super) async fn owner_range(
    connection: &Connection,
    ids: (Vmid, Vmid),
    node: Option<&str>,
    listed: &BTreeSet<Vmid>,
) -> Result<OwnerRange, Cause> {
    let mut result = OwnerRange {
        looked_for_free: node.is_some(),
        ..OwnerRange::default()
    };
    let unlisted = ids.0.to(ids.1).filter(|v| !listed.contains(v)).take(RANGE_LIMIT);
    let mut free = Vec::new();
    for vmid in unlisted {
        if !connection.was_free_owner_id(vmid) {
            if !is_free(connection, vmid).await? {
                result.hidden.push(vmid);
                continue;
            }
            connection.free_owner_id(vmid);
        }
        free.push(vmid);
    }
    if node.is_some() {
        for vmid in free {
            if vmid_free(connection, vmid, node).await? == IdCheck::Free {
                result.free = Some(vmid);
                break;
            }
        }
    }
    Ok(result)
}

/// Every section of a guest's configuration, as it is now.
pub(super) async fn sections(connection: &Connection, at: &GuestRef) -> Result<Sections, Cause> {
    let client = &connection.client;
    let rows = client.guest_pending(at).await?;
    let mut now = Section {
        of: SectionOf::Now,
        options: Default::default(),
    };
    let mut later = Section {
        of: SectionOf::AfterRestart,
        options: Default::default(),
    };
    for row in rows {
        let next = match (row.pending, row.delete) {
            (Some(pending), _) => Some(pending),
            (None, 0) => row.value.clone(),
            (None, _) => None,
        };
        later.options.extend(next.map(|v| (row.key.clone(), v)));
        now.options.extend(row.value.map(|v| (row.key, v)));
    }
    let mut sections = vec![now, later];
    for snapshot in client.guest_snapshots(at).await? {
        let config = client.guest_snapshot_config(at, &snapshot.name).await?;
        sections.push(Section {
            of: SectionOf::Snapshot(snapshot.name),
            options: config.options,
        });
    }
    Ok(Sections {
        vmid: at.vmid,
        sections,
    })
}
