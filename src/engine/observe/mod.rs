//! Carries out the reads that a plan asks for. What is read is the plan's choice; nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::desired::Identity;
use crate::observed::*;
use crate::plan::{ProbeRequest, Query};
use crate::proxmox::Error;
use crate::pve::volid::owner_of;
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};
use crate::remote::runner::{self, Layout, State};

use super::connection::{Connection, Snapshot};
use super::failure::of_guest;
use super::probes::Place;

mod address;
mod ownership;
pub(super) use ownership::{StampRead, carries};
mod vm;
mod volumes;

/// Seconds for which it is known which cluster answers, where nothing final hangs on it.
const CLUSTER: f64 = 2.0;
/// Seconds for which the stamp of a guest that no object has is known to those that look for theirs. Whoever makes or
/// takes a guest writes so into an object's status before.
const STAMPS: f64 = 30.0;
/// Seconds for which it is known which volumes the storages hold, where the id of a new guest is looked for: no guest had
/// that id a moment ago.
const VOLUMES: f64 = 5.0;
/// Seconds for which a template that others are cloned from is known, if nothing works on it.
const PARENT: f64 = 5.0;

/// Seconds for which a script that ran well in this start of its guest is taken as it was: while the one after it runs, it
/// need not be asked about.
const SCRIPTS: f64 = 60.0;

/// Carries out one query and puts the answer into `observed`.
///
/// # Errors
/// Where the answer has no place for a failure: the reconcile waits with this reason.
pub async fn look(
    connection: &Connection,
    snapshot: &Snapshot,
    identity: &Identity,
    previous: &[String],
    query: &Query,
    observed: &mut Observed,
) -> Result<(), Cause> {
    match query {
        Query::Cluster { anew } => {
            let since = connection.recent.ago(if *anew { 0.0 } else { CLUSTER });
            let (status, identity) = connection.answers(since).await?;
            observed.cluster.quorate = status.map(|s| s.quorate);
            if let Some(identity) = identity {
                observed.cluster.identity = identity;
            }
            observed.cluster.read_now = true;
        }
        Query::Stamped { among, anew } => {
            let among = match among {
                Some(among) => among.clone(),
                None => ownership::everybody(connection, observed).await?,
            };
            let since = connection.recent.ago(if *anew { 0.0 } else { STAMPS });
            let search = ownership::Search {
                connection,
                snapshot,
                identity,
                previous,
                since,
            };
            observed.stamped = Some(search.stamped(&among).await?);
        }
        Query::Lenders { among } => {
            let mut lenders = BTreeMap::new();
            for at in among {
                let read = guest(connection, snapshot, at.sort, at.vmid, Some(&at.node), Details::Config).await;
                lenders.insert(at.vmid, read);
            }
            observed.lenders = Some(lenders);
        }
        Query::VmidFree { vmid, volumes_on } => {
            let check = vmid_free(connection, *vmid, volumes_on.as_deref()).await?;
            if check != IdCheck::Free {
                observed.unusable.insert(*vmid);
            }
            observed.id_check = Some((*vmid, check));
        }
        Query::Guest {
            vmid,
            sort,
            node,
            snapshots,
        } => {
            let details = match (*snapshots, observed.kept.stopped) {
                (true, _) => Details::Snapshots,
                (false, true) => Details::Stopped,
                (false, false) => Details::State(observed.before.as_deref()),
            };
            observed.guest = Some(guest(connection, snapshot, *sort, *vmid, node.as_deref(), details).await);
            observed.guest_of = Some(*vmid);
        }
        // Decided where all objects are known.
        Query::Cards { .. } | Query::CardTurn { .. } => {}
        Query::Parent(at) => {
            observed.parent = Some(parent(connection, snapshot, at).await?);
        }
        Query::Agent { at, cloud_init } => {
            let guest = match &observed.guest {
                Some(GuestRead::Present(guest)) if guest.at == *at => guest.as_ref().clone(),
                _ => Guest::new(at.clone()),
            };
            observed.agent = Some(vm::agent(connection, &guest, *cloud_init).await);
        }
        Query::Snippet { node, volid } => observed.snippet = Some(vm::snippet(connection, node, volid).await),
        Query::CloudInit { at, password } => {
            observed.cloud_init = Some(vm::cloud_init(connection, at, *password).await);
        }
        Query::OldRevision(at) => {
            let found = old_revision(connection, snapshot, at).await;
            observed.old_revisions.insert(at.vmid, found);
        }
        Query::Creating { vmid, source, node } => {
            let runs = creating(connection, *vmid, *source, node).await?;
            observed.creating = Some(runs);
            if !runs {
                // It may have ended between the two looks: what it did is read again.
                observed.guest = None;
            }
        }
        Query::Image { node, volid, index } => {
            let image = image(connection, node, volid, *index).await;
            observed.images.insert(volid.clone(), image);
        }
        Query::Scripts { at, ids } => {
            let pid = match &observed.guest {
                Some(GuestRead::Present(guest)) if guest.at == *at => guest.pid,
                _ => None,
            };
            observed.scripts = Some(scripts(connection, at, pid, ids).await);
        }
        Query::Firewall(at) => observed.firewall = Some(firewall(connection, at, &observed.kept).await),
        Query::Owners { ids } => {
            observed.owners = Some(volumes::owners(connection, snapshot, *ids, &observed.recorded).await);
        }
        Query::Holder { volid, but } => {
            let holder = volumes::holder(connection, snapshot, volid, *but, &observed.recorded).await;
            observed.holders.insert(volid.clone(), holder);
        }
        // Objects know it, Proxmox does not.
        Query::Borrowed => {}
        Query::Volume { node, volid, of, among } => {
            let volume = volumes::stored(connection, node, volid, *of, among).await;
            observed.volumes.insert(volid.clone(), volume);
        }
        Query::OwnerRange { ids, node } => {
            let listed = match &observed.owners {
                Some(Ok(owners)) => owners.listed.clone(),
                _ => BTreeSet::new(),
            };
            observed.owner_range = Some(volumes::owner_range(connection, *ids, node.as_deref(), &listed).await);
        }
        Query::Sections(at) => {
            let sections = volumes::sections(connection, at).await;
            observed.sections.insert(at.vmid, sections);
        }
        Query::Probes { at, probes } => {
            let answers = self::probes(connection, at, probes).await;
            observed.probes.extend(answers);
        }
    }
    Ok(())
}

/// A template that others are cloned from.
async fn parent(connection: &Connection, snapshot: &Snapshot, at: &GuestRef) -> Result<GuestRead, Cause> {
    let read = |since| {
        let ask = async {
            Ok(guest(
                connection,
                snapshot,
                at.sort,
                at.vmid,
                Some(&at.node),
                Details::Snapshots,
            )
            .await)
        };
        connection.recent.parents.get(at.vmid, since, ask)
    };
    let found = read(connection.recent.ago(PARENT)).await?;
    match &found {
        GuestRead::Present(guest) if guest.lock.is_none() => Ok(found),
        // It may be free by now.
        _ => read(Instant::now()).await,
    }
}

async fn vmid_free(connection: &Connection, vmid: Vmid, volumes_on: Option<&str>) -> Result<IdCheck, Cause> {
    let client = &connection.client;
    if !client.vmid_is_free(vmid).await? {
        return Ok(IdCheck::Taken);
    }
    let Some(node) = volumes_on else {
        return Ok(IdCheck::Free);
    };
    let mut volumes = BTreeSet::new();
    let (recent, since) = (&connection.recent, connection.recent.ago(VOLUMES));
    let storages = async { Ok(client.storages(node).await?) };
    for storage in recent.storages.get(node.to_string(), since, storages).await? {
        let holds_guests = storage.content.iter().any(|c| c == "rootdir" || c == "images");
        if !storage.active || !holds_guests {
            continue;
        }
        let place = (node.to_string(), storage.storage.clone());
        let all = async {
            Ok(Arc::new(
                client.storage_content(node, &storage.storage, None, None).await?,
            ))
        };
        let content = recent.volumes.get(place, since, all).await?;
        let of_guests = content
            .iter()
            .filter(|v| v.content == "rootdir" || v.content == "images");
        volumes.extend(
            of_guests
                .filter(|v| owner_of(&v.volid) == Some(vmid))
                .map(|v| v.volid.clone()),
        );
    }
    Ok(if volumes.is_empty() {
        IdCheck::Free
    } else {
        IdCheck::Volumes(volumes.into_iter().collect())
    })
}

async fn guest(
    connection: &Connection,
    snapshot: &Snapshot,
    sort: GuestType,
    vmid: Vmid,
    node: Option<&str>,
    details: Details<'_>,
) -> GuestRead {
    let row = snapshot.cluster.guests.get(&vmid);
    if let Some(row) = row.filter(|r| r.guest_type() != sort) {
        return GuestRead::OtherType(GuestRef::new(row.guest_type(), vmid, &row.node));
    }
    let online = &snapshot.cluster.online;
    let nodes: Vec<String> = match (row, node) {
        (Some(row), _) => vec![row.node.clone()],
        (None, Some(node)) => vec![node.to_string()],
        (None, None) => online.iter().cloned().collect(),
    };
    if let Some(offline) = nodes.iter().find(|n| !online.contains(*n)) {
        return GuestRead::Unreadable(Cause::new(Reason::NodeOffline, format!("node {offline} is offline")));
    }
    for node in &nodes {
        match read_guest(connection, GuestRef::new(sort, vmid, node), details).await {
            Ok(guest) => return GuestRead::Present(Box::new(guest)),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return GuestRead::Unreadable(Cause::from(&error)),
        }
    }
    GuestRead::NotFound
}

/// How much of a guest is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Details<'a> {
    /// Its configuration alone.
    Config,
    /// Its configuration alone, since it is known to be stopped.
    Stopped,
    /// Its state, too. What was read of it a moment ago holds where it goes on unchanged.
    State(Option<&'a Guest>),
    /// Its state and snapshots, too.
    Snapshots,
}

async fn read_guest(connection: &Connection, at: GuestRef, details: Details<'_>) -> Result<Guest, Error> {
    let client = &connection.client;
    let config = client.guest_config(&at, false).await?;
    let mut guest = Guest {
        options: config.options,
        raw_lines: config.raw,
        digest: config.digest,
        lock: config.lock,
        ..Guest::new(at)
    };
    // While a guest is being created there is nothing more to see (facts K.2.4).
    if matches!(details, Details::Config | Details::Stopped) || guest.being_made() {
        return Ok(guest);
    }
    let state = client.guest_state(&guest.at).await?;
    guest.running = state.is_running();
    guest.pid = state.pid.filter(|_| guest.running);
    guest.uptime = state
        .uptime
        .and_then(|s| i64::try_from(s).ok())
        .filter(|_| guest.running);
    if details == Details::Snapshots {
        let snapshots = client.guest_snapshots(&guest.at).await?.into_iter();
        let whole = snapshots.filter(|s| s.snapstate.is_none());
        guest.snapshots = Some(whole.map(|s| (s.name, s.description.unwrap_or_default())).collect());
    }
    if let Details::State(Some(before)) = details
        && guest.goes_on_from(before)
        && (guest.at.sort == GuestType::Qemu || before.has_its_own_address())
    {
        guest.pending.clone_from(&before.pending);
        guest.ip.clone_from(&before.ip);
        return Ok(guest);
    }
    if guest.running {
        let pending = client.guest_pending(&guest.at).await?;
        let pending = pending.into_iter().filter(|p| p.is_pending());
        guest.pending = pending.map(|p| (p.key, p.value)).collect();
    }
    // A machine's addresses come from its agent, which may not answer.
    if guest.running && guest.at.sort == GuestType::Lxc {
        let interfaces = client.lxc_interfaces(&guest.at).await?;
        guest.ip = address::of_guest(&guest, interfaces.iter().map(address::Interface::from));
    }
    Ok(guest)
}

/// The guest of an earlier revision, and the volumes of linked clones that rest on its own.
async fn old_revision(connection: &Connection, snapshot: &Snapshot, at: &GuestRef) -> Result<OldRevision, Cause> {
    let node = Some(at.node.as_str()).filter(|n| !n.is_empty());
    let read = guest(connection, snapshot, at.sort, at.vmid, node, Details::Snapshots).await;
    let mut linked = Vec::new();
    if let GuestRead::Present(present) = &read {
        let client = &connection.client;
        for storage in client.storages(&present.at.node).await? {
            let holds_guests = storage.content.iter().any(|c| c == "rootdir" || c == "images");
            if !storage.active || !holds_guests {
                continue;
            }
            let content = client
                .storage_content(&present.at.node, &storage.storage, None, None)
                .await?;
            linked.extend(content.into_iter().map(|v| v.volid).filter(|v| rests_on(v, at.vmid)));
        }
    }
    Ok(OldRevision { read, linked })
}

/// Whether a task works on the vmid. A clone's task carries its source's id (facts B.4).
async fn creating(connection: &Connection, vmid: Vmid, source: Option<Vmid>, node: &str) -> Result<bool, Cause> {
    let tasks = connection.client.tasks(node, None, None, 200).await?;
    let ids: Vec<String> = [Some(vmid), source]
        .into_iter()
        .flatten()
        .map(|v| v.to_string())
        .collect();
    Ok(tasks.iter().any(|t| {
        let clone = t.kind == "vzclone" || t.kind == "qmclone";
        let made = t.id == ids[0] || (clone && (ids.contains(&t.id) || source.is_none()));
        t.is_running() && made
    }))
}

async fn image(connection: &Connection, node: &str, volid: &str, index: bool) -> Result<Image, Cause> {
    let client = &connection.client;
    let (storage, path) = volid.split_once(':').unwrap_or_default();
    let content = path.split('/').next().unwrap_or_default();
    let read = |since| {
        let place = (node.to_string(), format!("{storage}:{content}"));
        let all = async {
            let volumes = client.storage_content(node, storage, Some(content), None).await?;
            Ok(Arc::new(volumes))
        };
        connection.recent.volumes.get(place, since, all)
    };
    let mut volumes = read(connection.recent.ago(VOLUMES)).await;
    if !matches!(&volumes, Ok(volumes) if volumes.iter().any(|v| v.volid == volid)) {
        // It may be there by now.
        volumes = read(Instant::now()).await;
    }
    let volumes = volumes.map_err(|failed| {
        let missing = failed.message.contains("does not exist") || failed.message.contains("No such storage");
        if missing {
            Cause::new(Reason::StorageNotFound, format!("image {volid}: {}", failed.message))
        } else {
            failed
        }
    })?;
    let file = |volid: &String| volid.rsplit('/').next().map(str::to_string);
    let mut image = Image {
        files: volumes.iter().filter_map(|v| file(&v.volid)).collect(),
        present: volumes.iter().any(|v| v.volid == volid),
        compared: connection.shares.is_compared(node, volid),
        index: None,
    };
    if index && !(image.present && image.compared) {
        let index = client.appliances(node).await?;
        let containers = index.into_iter().filter(|a| a.kind.is_empty() || a.kind == "lxc");
        image.index = Some(containers.map(|a| a.template).collect());
    }
    Ok(image)
}

async fn scripts(
    connection: &Connection,
    at: &GuestRef,
    pid: Option<i64>,
    ids: &[String],
) -> Result<BTreeMap<String, ScriptRecord>, Cause> {
    let mut records = BTreeMap::new();
    for script in ids {
        if let Some(record) = connection.recent.script(at.vmid, pid, script, SCRIPTS) {
            records.insert(script.clone(), record);
            continue;
        }
        let command = runner::poll(at.vmid, script, None, &Layout::default())
            .map_err(|e| Cause::new(Reason::InvalidSpec, e.to_string()))?;
        let output = connection.in_guest(at, &command).await.map_err(|(f, _)| f)?;
        if !output.is_success() {
            return Err(of_guest(at, &output));
        }
        let record = runner::Record::parse(&output.stdout.text())
            .map_err(|e| Cause::new(Reason::GuestUnreachable, e.to_string()))?;
        if record.state == State::Absent {
            continue;
        }
        let running = matches!(record.state, State::Running | State::Starting);
        let entry = ScriptRecord {
            hash: record.hash.clone().unwrap_or_default(),
            attempt: i64::from(record.attempt),
            running,
            exit_code: record.exit.map(i64::from),
            started_at: record.started,
            ended_at: record.ended,
            this_start: record.this_start,
            cancelled: record.cancelled,
            tries: i64::from(record.tries.unwrap_or(record.attempt)),
            output: record.output(),
        };
        connection.recent.note_script(at.vmid, pid, script, &entry);
        records.insert(script.clone(), entry);
    }
    Ok(records)
}

async fn firewall(connection: &Connection, at: &GuestRef, kept: &Kept) -> Result<FirewallState, Cause> {
    let client = &connection.client;
    let (mut state, changed) = match &kept.firewall {
        Some((state, changed)) => (state.clone(), Some(changed)),
        None => (FirewallState::default(), None),
    };
    if changed != Some(&FirewallPart::Rules) {
        let options = client.firewall_options(at).await?;
        state.options = options.options;
        state.options.extend(options.digest.map(|own| ("digest".into(), own)));
    }
    if changed != Some(&FirewallPart::Options) {
        let rules = client.firewall_rules(at).await?;
        state.digest = rules.iter().find_map(|r| r.digest.clone());
        state.rules = rules.iter().map(rule).collect();
    }
    Ok(state)
}

fn rule(rule: &crate::proxmox::firewall::FirewallRule) -> BTreeMap<String, String> {
    let enable = if rule.enable { "1" } else { "0" }.to_string();
    [
        ("type", Some(rule.kind.clone())),
        ("action", Some(rule.action.clone())),
        ("enable", Some(enable)),
        ("proto", rule.proto.clone()),
        ("source", rule.source.clone()),
        ("dest", rule.dest.clone()),
        ("dport", rule.dport.clone()),
        ("sport", rule.sport.clone()),
        ("iface", rule.iface.clone()),
        ("macro", rule.macro_name.clone()),
        ("comment", rule.comment.clone()),
    ]
    .into_iter()
    .filter_map(|(k, v)| Some((k.to_string(), v?)))
    .collect()
}

/// Asks the probes of one guest, all at once.
async fn probes(connection: &Connection, at: &GuestRef, requests: &[ProbeRequest]) -> Vec<(ProbeKind, ProbeAnswer)> {
    let place = match at.sort {
        GuestType::Lxc => connection.target(&at.node).map(Place::Container),
        GuestType::Qemu => Ok(Place::Machine(at.node.clone())),
    };
    let place = match place {
        Ok(place) => place,
        Err((failure, _)) => {
            let unknown = |r: &ProbeRequest| (r.kind, ProbeAnswer::Unknown(failure.clone()));
            return requests.iter().map(unknown).collect();
        }
    };
    let place = &place;
    let asked = requests
        .iter()
        .map(|request| async move { (request.kind, connection.prober.ask(at.vmid, place, request).await) });
    futures::future::join_all(asked).await
}
