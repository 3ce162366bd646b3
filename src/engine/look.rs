//! Looks and plans, again and again, until the plan needs no more looks.

use crate::pve::Vmid;
use crate::reason::Cause;
use crate::reason::Reason;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::crd::{ADOPT, GuestKind, RESTAMP, VolumeStatus};
use crate::desired::{self, Desired, GuestObject, Identity, refs};
use crate::observed::{ClonePlace, Observed, Recorded, Verified};
use crate::plan::{self, Input, Next, Plan, Surroundings};
use crate::pve::GuestType;
use crate::status;

use super::connection::{Connection, Snapshot};
use super::store::Store;
use super::{Engine, Memory, SWEEP_SECONDS, lock, now, observe};

/// Looks for one plan; more means that a plan asks in circles.
const MAX_LOOKS: usize = 64;

impl<S: Store> Engine<S> {
    /// Looks and plans until the plan needs no more looks.
    pub(super) async fn make_plan<'c>(
        &self,
        connection: &'c Connection,
        snapshot: &Snapshot,
        object: &GuestObject,
        desired: Option<&Desired>,
        owner_guard: &mut Option<tokio::sync::MutexGuard<'c, ()>>,
        preview: bool,
    ) -> Result<Plan, Cause> {
        let mut observed = self.start_looking(snapshot, object);
        observed.cloned_revisions = self.cloned_revisions(object);
        if object.deleting && object.key.kind == GuestKind::PhoenixTemplate {
            let hypervisor = object.hypervisor_ref();
            self.store.look_at_all(&mut |o| {
                let vmid = o
                    .status
                    .vmid()
                    .filter(|_| o.hypervisor_ref() == hypervisor && o.key != object.key);
                observed.objects.extend(vmid.map(|vmid| (vmid, o.key.to_string())));
            });
        }
        if !preview {
            observed.clone_queue = desired.and_then(|d| queued(connection, snapshot, d, object));
        }
        let identity = match desired {
            Some(desired) => desired.identity(),
            None => self.identity_of(object),
        };
        let (namespace, name) = object.hypervisor_ref();
        let hypervisor = self.store.hypervisor(&namespace, &name);
        let spec = hypervisor.as_ref().map(|h| &h.spec);
        let previous = spec.and_then(|s| s.previous_cluster_ids.clone()).unwrap_or_default();
        let owners = spec.and_then(|s| s.volume_owners.as_ref());
        let around = Surroundings {
            cluster_id: &self.options.cluster_id,
            previous: &previous,
            owner_ids: owners.map(|o| o.id_range.ids()),
        };
        let dependencies = || refs::dependencies(object, self.store.as_ref());
        let status = match desired {
            Some(desired) => status::upgraded(&object.status, object.generation, &desired.hash),
            None => Cow::Borrowed(&object.status),
        };
        let mut held_known = Self::may_take(object, snapshot);
        for _ in 0..MAX_LOOKS {
            let plan = match desired {
                Some(desired) => plan::plan(Input {
                    desired,
                    dependencies: &dependencies,
                    observed: &observed,
                    status: &status,
                    now: now(),
                    clock: self.clock(),
                    preview,
                }),
                None if object.deleting => plan::plan_deletion(object, &observed, around, now()),
                None => plan::plan_stop(object, &observed, around, now()),
            };
            let Next::Look(query) = &plan.next else {
                let waits = matches!(&plan.next, Next::Wait { cause, .. } if cause.reason == Reason::TemplateBusy);
                if observed.clone_queue.is_some() && !waits {
                    connection.leave_clone_queue(&object.key);
                }
                return Ok(plan);
            };
            if let plan::Query::VmidFree { vmid, .. } = query
                && !preview
                && !self.choose(object, *vmid)
            {
                observed.reserved = self.reserved(&lock(&self.memory), object);
                continue;
            }
            // A search leaves out what other objects have, which otherwise nobody needs to know.
            if matches!(query, plan::Query::Stamped { .. }) && !held_known {
                held_known = true;
                observed.held = self.held(&lock(&self.memory), object);
                continue;
            }
            // Who looks at owner containers is about to edit one: one object at a time.
            if matches!(query, plan::Query::Owners { .. }) {
                if owner_guard.is_none() {
                    *owner_guard = Some(connection.owners.lock().await);
                }
                observed.recorded = self.recorded(object);
            }
            observe::look(connection, snapshot, &identity, &previous, query, &mut observed).await?;
            if let (Some(counters), plan::Query::Probes { probes, .. }) = (&self.options.counters, query) {
                let answers = probes.iter().filter_map(|p| observed.probes.get_key_value(&p.kind));
                answers.for_each(|(kind, answer)| counters.probe(*kind, answer));
            }
        }
        Err(Cause::new(
            Reason::InternalError,
            "the plan asks for the same looks again and again",
        ))
    }

    pub(super) fn identity_of(&self, object: &GuestObject) -> Identity {
        Identity {
            cluster: self.options.cluster_id.clone(),
            kind: object.key.kind.as_str().into(),
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            uid: object.uid.clone(),
        }
    }

    fn start_looking(&self, snapshot: &Snapshot, object: &GuestObject) -> Observed {
        let mut cluster = snapshot.cluster.clone();
        let (namespace, name) = object.hypervisor_ref();
        cluster.recorded = self
            .store
            .hypervisor(&namespace, &name)
            .and_then(|h| h.status.clone()?.cluster);
        let memory = lock(&self.memory);
        let verified = memory.verified.get(&object.key).cloned();
        // A look of a later time was made while the clock was ahead.
        let fresh = |v: &Verified| (0..=SWEEP_SECONDS).contains(&(now() - v.at));
        let sweep = !verified.as_ref().is_some_and(fresh);
        Observed {
            cluster,
            reserved: self.reserved(&memory, object),
            held: match Self::may_take(object, snapshot) {
                true => self.held(&memory, object),
                false => BTreeMap::new(),
            },
            verified,
            sweep,
            health: memory.health.get(&object.key).cloned(),
            ..Observed::default()
        }
    }

    /// Revisions of a template from which objects were cloned.
    fn cloned_revisions(&self, template: &GuestObject) -> Vec<Option<String>> {
        if template.status.revisions.is_none() {
            return Vec::new();
        }
        let guests = self.store.guests();
        let cloned = guests.iter().filter(|g| {
            let parent = g
                .template_ref()
                .and_then(|name| refs::template(g, name, self.store.as_ref()).ok());
            g.status.vmid().is_some() && parent.is_some_and(|p| p.key == template.key)
        });
        cloned.map(|g| g.status.template_revision.clone()).collect()
    }

    /// Guests and owner containers that statuses of the same hypervisor's objects name.
    fn recorded(&self, object: &GuestObject) -> Recorded {
        let hypervisor = object.hypervisor_ref();
        let mut recorded = Recorded::default();
        for other in self.store.guests().iter().filter(|o| o.hypervisor_ref() == hypervisor) {
            let status = &other.status;
            recorded.guests.extend(status.vmids());
            recorded
                .owners
                .extend(status.volumes.iter().flatten().filter_map(VolumeStatus::owner));
        }
        recorded
    }

    /// Vmids that other objects have or want on the same hypervisor.
    fn reserved(&self, memory: &Memory, object: &GuestObject) -> BTreeSet<Vmid> {
        if object.status.vmid().is_some() {
            return BTreeSet::new();
        }
        let hypervisor = object.hypervisor_ref();
        let mut wanted = BTreeSet::new();
        self.store.look_at_all(&mut |o| {
            if o.key != object.key && o.hypervisor_ref() == hypervisor {
                wanted.extend(o.status.vmid().into_iter().chain(o.spec_vmid()));
            }
        });
        let chosen = memory
            .reserved
            .iter()
            .filter(|((h, _), k)| *h == hypervisor && **k != object.key)
            .map(|((_, v), _)| *v);
        wanted.extend(chosen);
        wanted
    }

    /// Whether it matters from the start what other objects have: where a guest may be taken.
    fn may_take(object: &GuestObject, snapshot: &Snapshot) -> bool {
        let status = &object.status;
        let listed = |vmid: Vmid| snapshot.cluster.guests.contains_key(&vmid);
        let present = status.vmid().is_some_and(listed);
        let asks = status.claim.is_some() || object.annotations.contains_key(RESTAMP);
        !present || asks || object.deleting
    }

    /// Vmids that other objects have on the same Proxmox, with who has each.
    fn held(&self, memory: &Memory, object: &GuestObject) -> BTreeMap<Vmid, String> {
        let own = object.hypervisor_ref();
        let mut known: HashMap<(String, String), bool> = HashMap::new();
        let mut here = |other: (String, String)| {
            if let Some(same) = known.get(&other) {
                return *same;
            }
            let same = refs::same_proxmox(&own, &other, self.store.as_ref());
            known.insert(other, same);
            same
        };
        let mut held = BTreeMap::new();
        for other in self.store.guests() {
            if other.key == object.key || !here(other.hypervisor_ref()) {
                continue;
            }
            held.extend(other.status.vmids().map(|vmid| (vmid, other.key.to_string())));
        }
        for ((hypervisor, vmid), key) in &memory.reserved {
            if *key != object.key && here(hypervisor.clone()) {
                held.entry(*vmid).or_insert_with(|| key.to_string());
            }
        }
        held
    }

    /// Keeps a vmid for the object before it is asked about, so that of many that choose at once each asks about another
    /// one; `false`: somebody else has it. What the spec or the annotation names is nobody's choice.
    fn choose(&self, object: &GuestObject, vmid: Vmid) -> bool {
        let named = object.spec_vmid() == Some(vmid) || object.annotations.contains_key(ADOPT);
        if object.deleting || object.status.vmid().is_some() {
            return true;
        }
        let reserved = &mut lock(&self.memory).reserved;
        if named {
            reserved.retain(|_, key| *key != object.key);
            return true;
        }
        let place = (object.hypervisor_ref(), vmid);
        match reserved.get(&place) {
            Some(key) => *key == object.key,
            None => {
                reserved.retain(|_, key| *key != object.key);
                reserved.insert(place, object.key.clone());
                true
            }
        }
    }
}

/// The object's place among those that wait for a clone of the same container (facts D.4). Machines do not queue: their
/// source takes several clones at once (facts F.4).
fn queued(connection: &Connection, snapshot: &Snapshot, desired: &Desired, object: &GuestObject) -> Option<ClonePlace> {
    let Some(desired::Source::Clone { vmid: Some(source), .. }) = &desired.source else {
        return None;
    };
    let vmid = object.status.vmid()?;
    let waits =
        desired.sort == GuestType::Lxc && object.status.task.is_none() && !snapshot.cluster.guests.contains_key(&vmid);
    waits.then(|| connection.queue_clone(*source, &object.key))
}
