//! The search for guests that carry an object's stamp.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::desired::{Identity, Stamp};
use crate::engine::connection::{Connection, Snapshot};
use crate::observed::{Observed, OurGuest, ResourceRow, Stamped};
use crate::proxmox::Error;
use crate::proxmox::guest::GuestConfig;
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};

use super::creating;

/// All guests of the cluster as it lists them now, but those that other objects have.
pub(super) async fn everybody(connection: &Connection, observed: &Observed) -> Result<Vec<GuestRef>, Cause> {
    let mut guests = listed(connection).await?;
    guests.retain(|at| !observed.held.contains(at.vmid));
    Ok(guests)
}

async fn listed(connection: &Connection) -> Result<Vec<GuestRef>, Cause> {
    let rows = connection.client.cluster_resources().await?;
    let guests = rows
        .into_iter()
        .filter_map(|row| Some(GuestRef::new(GuestType::of(&row.kind)?, row.vmid()?, row.node?)));
    Ok(guests.collect())
}

/// A search for guests that carry an object's stamp.
pub(super) struct Search<'a> {
    pub connection: &'a Connection,
    pub snapshot: &'a Snapshot,
    pub identity: &'a Identity,
    pub previous: &'a [String],
    /// Stamps that were read since then are taken as they were read.
    pub since: Instant,
}

impl Search<'_> {
    /// Which of these guests carry the stamp.
    pub(super) async fn stamped(&self, among: &[GuestRef]) -> Result<Stamped, Cause> {
        let mut found = Stamped::default();
        let mut moved = BTreeSet::new();
        for guest in among {
            readable(self.snapshot, guest)?;
            if !self.look_into(guest, &mut found).await? {
                moved.insert(guest.vmid);
            }
        }
        if moved.is_empty() {
            return Ok(found);
        }
        // Gone, or on another node since the list was made.
        let listed = listed(self.connection).await?;
        for guest in listed.iter().filter(|g| moved.contains(&g.vmid)) {
            readable(self.snapshot, guest)?;
            if !self.look_into(guest, &mut found).await? {
                let message = format!("{} is listed on node {} and not there", guest.named(), guest.node);
                return Err(Cause::new(Reason::GuestUnreadable, message));
            }
        }
        Ok(found)
    }

    /// Reads one guest's stamp; `false`: it is not there.
    async fn look_into(&self, at: &GuestRef, found: &mut Stamped) -> Result<bool, Cause> {
        let read = async || {
            let read = read_stamp(self.connection, at, self.since).await;
            read.map_err(|f| unread(at, f.reason, &f.message))
        };
        let stamp = match read().await? {
            StampRead::Is(stamp) => stamp,
            StampRead::NotFound => return Ok(false),
            StampRead::Hidden => {
                if creating(self.connection, at.vmid, None, &at.node).await? {
                    found.being_made.push(at.vmid);
                    return Ok(true);
                }
                // The task may have ended between the two looks; a lock that is still there outlived it.
                match read().await? {
                    StampRead::Is(stamp) => stamp,
                    StampRead::NotFound => return Ok(false),
                    StampRead::Hidden => None,
                }
            }
        };
        if let Some(stamp) = stamp {
            self.note(at, *stamp, found);
        }
        Ok(true)
    }

    /// Whose the stamp is.
    fn note(&self, at: &GuestRef, stamp: Stamp, found: &mut Stamped) {
        let wanted = self.identity.stamp(stamp.vmid);
        let known = stamp.cluster == wanted.cluster || self.previous.contains(&stamp.cluster);
        if !stamp.same_object(&wanted) {
        } else if stamp.vmid != at.vmid {
            if known && stamp.adopted {
                found.adopted_once.insert(stamp.vmid);
            }
        } else if known {
            found.ours.push(OurGuest {
                at: at.clone(),
                revision: stamp.revision,
                adopted: stamp.adopted,
            });
        } else {
            found.foreign.push((at.vmid, stamp.cluster));
        }
    }
}

/// What a guest's configuration says of its stamp.
#[derive(Clone)]
pub(in crate::engine) enum StampRead {
    /// It carries this one, or none.
    Is(Option<Box<Stamp>>),
    /// It is being made, and its stamp is not written yet.
    Hidden,
    /// There is no such guest on the node.
    NotFound,
}

/// The stamp of a guest, read no earlier than `since`; that there is none yet is read anew.
async fn read_stamp(connection: &Connection, at: &GuestRef, since: Instant) -> Result<StampRead, Cause> {
    let read = |since| {
        let ask = async {
            Ok(match read_config(connection, at).await? {
                None => StampRead::NotFound,
                Some(config) if hides_stamp(&config) => StampRead::Hidden,
                Some(config) => StampRead::Is(
                    config
                        .options
                        .get("description")
                        .and_then(|d| Stamp::find(d))
                        .map(Box::new),
                ),
            })
        };
        connection.recent.stamps.get((at.vmid, at.node.clone()), since, ask)
    };
    let began = Instant::now();
    match read(since).await? {
        StampRead::Is(stamp) => Ok(StampRead::Is(stamp)),
        _ => read(began).await,
    }
}

/// What says that a guest whose stamp cannot be read may be the object's.
fn unread(at: &GuestRef, reason: Reason, why: &str) -> Cause {
    Cause::new(
        reason,
        format!(
            "{} on node {} may be this object's and cannot be read: {why}",
            at.named(),
            at.node
        ),
    )
}

/// The guest's node answers.
fn readable(snapshot: &Snapshot, guest: &GuestRef) -> Result<(), Cause> {
    match snapshot.cluster.online.contains(&guest.node) {
        true => Ok(()),
        false => Err(unread(
            guest,
            Reason::NodeOffline,
            &format!("node {} is offline", guest.node),
        )),
    }
}

/// Whether a guest carries this very stamp, of this management cluster or a previous one.
pub(in crate::engine) async fn carries(
    connection: &Connection,
    vmid: Vmid,
    row: &ResourceRow,
    identity: &Identity,
    previous: &[String],
) -> bool {
    let config = read_config(connection, &GuestRef::new(row.guest_type(), vmid, &row.node)).await;
    let config = config.ok().flatten().unwrap_or_default();
    let stamp = config.options.get("description").and_then(|d| Stamp::find(d));
    stamp.is_some_and(|s| {
        s.same_object(&identity.stamp(vmid)) && (s.cluster == identity.cluster || previous.contains(&s.cluster))
    })
}

/// Whether a guest's configuration is not written yet, and its stamp neither (facts K.3.1).
fn hides_stamp(config: &GuestConfig) -> bool {
    matches!(config.lock.as_deref(), Some("create" | "clone")) && !config.options.contains_key("description")
}

/// A configuration; `None` where there is none. One that may not be read tells nothing.
async fn read_config(connection: &Connection, at: &GuestRef) -> Result<Option<GuestConfig>, Cause> {
    match connection.client.guest_config(at, false).await {
        Ok(config) => Ok(Some(config)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(Cause::from(&error)),
    }
}
