//! The poll of a hypervisor: one look at the whole cluster, whatever the number of guests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;

use crate::crd::status::{NodeStatus, ProxmoxCluster};
use crate::crd::{Host, HypervisorStatus, PAUSED, PhoenixHypervisor};
use crate::desired::{GuestObject, Key, ObjectName, Ref, hypervisor};
use crate::doctor::privileges::Needs;
use crate::observed::{Cluster, Read, ResourceRow};
use crate::plan::{self, retry};
use crate::reason::{Cause, Reason};
use crate::status::{clear_condition, set_condition};

use super::connection::{Connection, Inquiry, Snapshot};
use super::store::Store;
use super::{Engine, defect, lock, usable};

/// Polls after which nodes, quorum and version are read again.
const FULL_EVERY: u64 = 30;
/// Guests that are read to see that a cluster is the recorded one.
const PROOFS: usize = 3;
/// Seconds by which the cluster's list may lag behind in what it says of a guest (facts C).
const LAG: f64 = 15.0;
/// Characters of a message that status has room for.
const MESSAGE: usize = 4000;

/// What a poll came to.
#[derive(Clone, Debug)]
pub struct PollOutcome {
    /// The hypervisor's new status; equal to the old one when there is nothing new.
    pub status: HypervisorStatus,
    /// Objects whose guest changed.
    pub changed: Vec<Key>,
    /// When to poll again.
    pub next: Duration,
}

impl<S: Store> Engine<S> {
    /// Polls a hypervisor: one `GET /cluster/resources`, and a few more calls the first time and now and then. A panic
    /// in it is told in the status; its guests wait, and those of other hypervisors go on.
    pub async fn poll(&self, namespace: &str, name: &str) -> PollOutcome {
        let hypervisor = ObjectName::new(namespace, name);
        let first = !lock(&self.polled).contains_key(&hypervisor);
        let outcome = match defect::caught(Box::pin(self.try_poll(namespace, name))).await {
            Ok(outcome) => outcome,
            Err(words) => self.poll_panicked(namespace, name, &words),
        };
        if self.store.hypervisor(namespace, name).is_none() {
            lock(&self.polled).remove(&hypervisor);
            return outcome;
        }
        lock(&self.polled).entry(hypervisor.clone()).or_default();
        if !first {
            return outcome;
        }
        // Every object has waited for this.
        PollOutcome {
            changed: self.objects_of(&hypervisor),
            ..outcome
        }
    }

    /// The objects that name a hypervisor.
    pub(super) fn objects_of(&self, hypervisor: &ObjectName) -> Vec<Key> {
        let mut keys = Vec::new();
        let place = Ref::Hypervisor(hypervisor.clone());
        self.store
            .look_at_index(&mut |index| keys.extend(index.referrers(&place).cloned()));
        keys
    }

    fn poll_panicked(&self, namespace: &str, name: &str, words: &str) -> PollOutcome {
        tracing::error!(namespace, name, panic = words, "a defect in Phoenix ended this poll");
        if let Some(counters) = &self.options.counters {
            counters.panicked("PhoenixHypervisor");
        }
        let problem = Cause::new(Reason::InternalError, defect::message(words));
        let key = ObjectName::new(namespace, name);
        let connection = lock(&self.connections).get(&key).cloned();
        if let Some(connection) = connection {
            connection.store(Err(problem.clone()));
        }
        let status = defect::caught_now(|| {
            let object = self.store.hypervisor(namespace, name)?;
            Some(hypervisor_status(
                &object,
                Err(&problem),
                false,
                &Findings::default(),
                (0, self.now()),
            ))
        });
        PollOutcome {
            status: status.ok().flatten().unwrap_or_default(),
            changed: vec![],
            next: Duration::from_secs_f64((60.0 / self.options.time_scale).max(0.02)),
        }
    }

    async fn try_poll(&self, namespace: &str, name: &str) -> PollOutcome {
        let Some(object) = self.store.hypervisor(namespace, name) else {
            lock(&self.connections).remove(&ObjectName::new(namespace, name));
            return PollOutcome {
                status: HypervisorStatus::default(),
                changed: vec![],
                next: Duration::from_secs(60),
            };
        };
        let key = ObjectName::new(namespace, name);
        let mut findings = Findings::default();
        let (result, proven, seconds, changed) = match self.connect(&object, namespace, name) {
            Ok(connection) => {
                let before = connection.snapshot().ok();
                // Everything waits for a lost quorum: that it is back is seen at once.
                let lost = before.as_ref().is_none_or(|s| s.cluster.quorate == Some(false));
                let polls = connection.count_poll();
                let full = polls.is_multiple_of(FULL_EVERY) || lost;
                let mut result = connection.look(full).await;
                if let Ok(snapshot) = &mut result {
                    let waits = self.waits_for_cards(&key);
                    let cards = connection.cards(snapshot, full, waits).await;
                    if let Some(counters) = &self.options.counters {
                        counters.cards(&key, &cards);
                    }
                    snapshot.cluster.gpus = cards.into();
                }
                let proven = match &result {
                    Ok(snapshot) => self.is_proven(&connection, &object, snapshot, polls).await,
                    Err(_) => false,
                };
                if let Ok(snapshot) = &result {
                    findings = self.findings(&connection, &object, snapshot, full).await;
                }
                let mut changed = self.changed(namespace, name, before.as_deref(), result.as_ref().ok());
                changed.extend(self.with_other_cards(&key, before.as_deref(), result.as_ref().ok()));
                connection.store(result.clone());
                lock(&self.polled).insert(key, None);
                (result, proven, connection.access.poll_seconds, changed)
            }
            Err(problem) => {
                lock(&self.polled).insert(key, Some(problem.clone()));
                (Err(problem), false, 10, self.changed(namespace, name, None, None))
            }
        };
        let mut status = hypervisor_status(&object, result.as_ref(), proven, &findings, (self.grace(), self.now()));
        if let Ok(snapshot) = &result {
            let gpus = self.told_cards(&ObjectName::new(namespace, name), snapshot);
            status.gpu_summary = plan::cards::summary(&gpus);
            status.gpus = Some(gpus).filter(|gpus| !gpus.is_empty());
        }
        let seconds = (seconds as f64 / self.options.time_scale).max(0.02);
        PollOutcome {
            status,
            changed,
            next: Duration::from_secs_f64(seconds),
        }
    }

    /// What keeps the hypervisor from being used although its API answers. It concerns the hypervisor: guests go on, and
    /// each tells what it lacks itself.
    async fn findings(
        &self,
        connection: &Connection,
        object: &PhoenixHypervisor,
        snapshot: &Snapshot,
        full: bool,
    ) -> Findings {
        let name = ObjectName::of(object);
        let mut needs = Needs::default();
        self.store.look_at_all(&mut |guest| {
            if guest.hypervisor_ref() == name {
                needs.add(guest);
            }
        });
        let spec = &object.spec;
        let cluster = &snapshot.cluster;
        let same = |last: &Inquiry| last.spec == *spec && last.needs == needs;
        let last = connection.inquiry().filter(|last| same(last));
        // While something is missing it is asked for at every poll, so that what was mended is seen at once.
        let inquiry = match last.filter(|last| !full && of(last, cluster).is_empty()) {
            Some(last) => last,
            None => {
                let why = usable::not_in_poll(connection, spec, &needs, cluster).await;
                let found = usable::ask(connection, spec, &needs, snapshot).await;
                connection.asked(Inquiry {
                    spec: spec.clone(),
                    needs,
                    found,
                    why,
                })
            }
        };
        let missing = inquiry.found.as_ref().ok().and_then(|asked| asked.missing.clone());
        Findings {
            problems: of(&inquiry, cluster),
            missing: missing.map(|list| list.iter().map(|(path, right)| format!("{path}: {right}")).collect()),
        }
    }

    /// Whether the certificate authority of the cluster that answers may be recorded as that of this hypervisor, where
    /// none is: an object's guest is here, with its stamp; or there is no object that could miss its guest.
    /// Each poll reads a few of them, the next one others.
    async fn is_proven(
        &self,
        connection: &Connection,
        object: &PhoenixHypervisor,
        snapshot: &Snapshot,
        polls: u64,
    ) -> bool {
        let recorded = object.status.as_ref().and_then(|s| s.cluster.as_ref());
        let known = recorded.is_some_and(|c| c.ca_fingerprint.is_some());
        let now = &snapshot.cluster.identity;
        if known || now.ca_fingerprint.is_none() || recorded.is_some_and(|r| r.name != now.name) {
            return false;
        }
        let name = ObjectName::of(object);
        let keys = self.objects_of(&name);
        let mut guests: Vec<GuestObject> = keys.iter().filter_map(|key| self.store.guest(key)).collect();
        guests.retain(|g| g.finalizer || g.status.vmid().is_some());
        let none = guests.is_empty() && recorded.is_none_or(|r| r.is(now));
        let rows = &snapshot.cluster.guests;
        let listed = guests
            .iter()
            .filter_map(|g| Some((g, g.status.vmid()?, rows.get(&g.status.vmid()?)?)));
        let listed: Vec<_> = listed.collect();
        let turn = usize::try_from(polls).unwrap_or_default().wrapping_mul(PROOFS);
        let from = turn.checked_rem(listed.len()).unwrap_or_default();
        let previous = object.spec.previous_cluster_ids.clone().unwrap_or_default();
        for (guest, vmid, row) in listed.iter().cycle().skip(from).take(PROOFS.min(listed.len())) {
            if super::observe::carries(connection, *vmid, row, &self.identity_of(guest), &previous).await {
                return true;
            }
        }
        none
    }

    /// The connection for a hypervisor, made anew when its spec or Secrets changed.
    fn connect(&self, object: &PhoenixHypervisor, namespace: &str, name: &str) -> Result<Arc<Connection>, Cause> {
        let access = hypervisor::access(object, self.store.as_ref()).map_err(|blocked| blocked.cause().clone());
        let key = ObjectName::new(namespace, name);
        let existing = lock(&self.connections).get(&key).cloned();
        let access = match access {
            Ok(access) => access,
            Err(problem) => {
                // What worked before is not used any more: its Secret may have been taken away on purpose.
                if let Some(connection) = existing {
                    connection.store(Err(problem.clone()));
                }
                return Err(problem);
            }
        };
        if let Some(connection) = existing.filter(|c| c.access == access) {
            return Ok(connection);
        }
        let meters = self.options.counters.as_ref().map(|counters| counters.meters(&key));
        let connection = Arc::new(Connection::new(
            access,
            self.options.outside.as_deref(),
            self.options.time_scale,
            meters,
        )?);
        lock(&self.connections).insert(key, connection.clone());
        Ok(connection)
    }

    /// Objects of the hypervisor whose guest's row changed; all of them when it came or went.
    fn changed(&self, namespace: &str, name: &str, before: Option<&Snapshot>, after: Option<&Snapshot>) -> Vec<Key> {
        let mut keys = self.objects_of(&ObjectName::new(namespace, name));
        let (Some(before), Some(after)) = (before, after) else {
            // Down before and after is nothing new.
            keys.retain(|_| before.is_some() || after.is_some());
            return keys;
        };
        keys.retain(|key| {
            let (mut vmid, mut works) = (None, false);
            self.store.look_at(key, &mut |object| {
                (vmid, works) = (object.status.vmid(), object.status.task.is_some());
            });
            let Some(vmid) = vmid else { return false };
            let (old, new) = (before.cluster.guests.get(&vmid), after.cluster.guests.get(&vmid));
            let was_online = old.is_some_and(|r| before.cluster.online.contains(&r.node));
            let is_online = new.is_some_and(|r| after.cluster.online.contains(&r.node));
            let news = match (old, new) {
                // A task is looked at when it should be done, or seems to be.
                (old, Some(new)) if works => old.is_some_and(|old| old.ends_as(new)),
                (Some(old), Some(new)) => {
                    let cloned = before.cloned.contains(&vmid) || after.cloned.contains(&vmid);
                    let locked = cloned && old.unlocked().is_still(&new.unlocked());
                    !old.is_still(new) && !locked && !self.expects(key, before.taken, old, new)
                }
                (old, new) => old != new,
            };
            news || was_online != is_online
        });
        keys
    }

    /// Whether the list only catches up with what was read of the guest. What has everything as wanted is looked at for
    /// every change: nothing else would show it.
    fn expects(&self, key: &Key, before: Instant, old: &ResourceRow, new: &ResourceRow) -> bool {
        let memory = lock(&self.memory);
        let Some((at, seen)) = memory.seen.get(key) else {
            return false;
        };
        let lag = Duration::from_secs_f64(LAG / self.options.time_scale);
        let read = match *at >= before {
            true => Read::After,
            false if *at + lag >= before => Read::ShortlyBefore,
            false => Read::Before,
        };
        seen.is_shown(read, old, new)
    }
}

/// What was found out about a hypervisor whose API answers.
#[derive(Clone, Debug, Default)]
struct Findings {
    /// What keeps it from being used, the first one being its reason.
    problems: Vec<Cause>,
    /// Rights that are missing, `path: privilege`; `None` where nobody asked or could.
    missing: Option<Vec<String>>,
}

/// What is wrong, from the poll and from what was asked last.
fn of(inquiry: &Inquiry, cluster: &Cluster) -> Vec<Cause> {
    let asked = match &inquiry.found {
        Ok(asked) => asked,
        Err(cause) => return vec![cause.clone()],
    };
    let missing = asked.missing.as_deref().unwrap_or_default();
    let hidden = |storage: &str| {
        let path = format!("/storage/{storage}");
        missing.iter().any(|(at, _)| *at == path)
    };
    let (spec, needs) = (&inquiry.spec, &inquiry.needs);
    let mut problems = usable::of_poll(spec, needs, cluster, &hidden, &inquiry.why);
    if !missing.is_empty() {
        problems.push(Cause::new(Reason::MissingPrivilege, lacks(missing)));
    }
    problems.extend(asked.problems.iter().cloned());
    problems
}

/// Rights that are missing, in words: grouped by path, with the place where they are granted.
fn lacks(missing: &[(String, String)]) -> String {
    let mut paths: Vec<(&str, Vec<&str>)> = Vec::new();
    for (path, right) in missing {
        match paths.iter_mut().find(|(at, _)| at == path) {
            Some((_, rights)) => rights.push(right),
            None => paths.push((path, vec![right])),
        }
    }
    let words = paths
        .iter()
        .map(|(path, rights)| format!("{} on {path}", rights.join(" ")));
    format!(
        "spec.credentials.tokenSecretRef: the token lacks {}: grant them with `pveum acl modify PATH --users USER --roles ROLE` (docs/access.md)",
        Vec::from_iter(words).join(", ")
    )
}

fn hypervisor_status(
    object: &PhoenixHypervisor,
    result: Result<&Snapshot, &Cause>,
    proven: bool,
    findings: &Findings,
    (grace, now): (u64, i64),
) -> HypervisorStatus {
    let answers = result;
    let unusable = findings.problems.first().map(|first| {
        let all = findings.problems.iter().map(|p| p.message.as_str());
        let message: String = Vec::from_iter(all).join("; ").chars().take(MESSAGE).collect();
        Cause::new(first.reason, message)
    });
    let result = result.and_then(|snapshot| match &unusable {
        Some(cause) => Err(cause),
        None => Ok(snapshot),
    });
    let mut status = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let time = now;
    status.observed_generation = Some(generation);
    let missing = result
        .err()
        .map(|failure| failure.reason)
        .filter(|reason| reason.may_be_created());
    let waits = missing.is_some_and(|reason| {
        retry::grace_left(&status.conditions, status.missing_since.as_ref(), reason, grace, time) > 0
    });
    let since = status.missing_since.take();
    status.missing_since = missing.map(|_| since.unwrap_or_else(|| retry::time(time)));
    let conditions = &mut status.conditions;
    match &result {
        Ok(_) => {
            set_condition(
                conditions,
                "Ready",
                "True",
                Reason::Ready,
                "the Proxmox API answers, and what is needed is there",
                generation,
                time,
            );
            clear_condition(conditions, "Stalled");
        }
        Err(failure) => {
            set_condition(
                conditions,
                "Ready",
                "False",
                failure.reason,
                &failure.message,
                generation,
                time,
            );
            if failure.reason.stops_the_hypervisor() && !waits {
                set_condition(
                    conditions,
                    "Stalled",
                    "True",
                    failure.reason,
                    &failure.message,
                    generation,
                    time,
                );
            } else {
                clear_condition(conditions, "Stalled");
            }
        }
    }
    // What happens at missing device nodes is carried out by those that need them.
    let rest = object.spec.host.clone().map(|host| Host {
        gpu_nodes: None,
        ..host
    });
    if rest.is_some_and(|host| host != Host::default()) {
        let message = "spec.host is not carried out yet; set the nodes up by hand";
        set_condition(
            conditions,
            "HostConfigured",
            "False",
            Reason::NotYetSupported,
            message,
            generation,
            time,
        );
    } else {
        clear_condition(conditions, "HostConfigured");
    }
    let phase = match &result {
        Ok(_) => "Ready",
        Err(_) if waits => "Waiting",
        Err(_) => "NotReady",
    };
    status.phase = Some(phase.into());
    status.message = result.err().map(|f| f.message.clone());
    if plan::pauses(object.annotations()) {
        let message = format!("nothing is done on Proxmox for the objects of this hypervisor: {PAUSED}");
        set_condition(
            &mut status.conditions,
            "Paused",
            "True",
            Reason::Paused,
            &message,
            generation,
            time,
        );
        if result.is_ok() {
            status.phase = Some("Paused".into());
            status.message = Some(message);
        }
    } else {
        clear_condition(&mut status.conditions, "Paused");
    }
    if let Ok(snapshot) = answers {
        seen(&mut status, snapshot, proven);
    }
    if let Some(missing) = &findings.missing {
        status.missing_privileges = Some(missing.clone()).filter(|list| !list.is_empty());
    }
    status
}

fn seen(status: &mut HypervisorStatus, snapshot: &Snapshot, proven: bool) {
    let cluster = &snapshot.cluster;
    status.version = Some(snapshot.version.clone());
    status.quorate = cluster.quorate;
    let recorded = status.cluster.clone();
    let same = recorded.as_ref().is_none_or(|r| r.is(&cluster.identity));
    if same || proven {
        let known = recorded.and_then(|r| r.ca_fingerprint);
        let ca_fingerprint = match proven {
            true => cluster.identity.ca_fingerprint.clone(),
            false => known,
        };
        status.cluster = Some(ProxmoxCluster {
            ca_fingerprint,
            ..cluster.identity.clone()
        });
    }
    let online = |n: &String| {
        if cluster.online.contains(n) {
            "online"
        } else {
            "offline"
        }
    };
    status.node_names = Some(cluster.identity.nodes.join(", "));
    status.nodes = Some(
        cluster
            .identity
            .nodes
            .iter()
            .map(|n| NodeStatus {
                name: n.clone(),
                status: online(n).into(),
            })
            .collect(),
    );
    let storages: BTreeSet<String> = cluster.storages.keys().map(|(_, s)| s.clone()).collect();
    status.storages = Some(storages.into_iter().collect());
}
