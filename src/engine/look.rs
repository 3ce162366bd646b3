//! Looks and plans, again and again, until the plan needs no more looks.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::crd::{ADOPT, GuestKind, GuestStatus, RESTAMP};
use crate::desired::{self, GuestObject, Identity, Key, ObjectName, Ref, refs};
use crate::estimate::{self, Durations};
use crate::observed::{ClonePlace, GuestRead, Holders, Observed, ProbeAnswer, Recorded, Verified};
use crate::plan::{self, Impact, Input, Next, Plan, Surroundings};
use crate::pve::volid::owner_of;
use crate::pve::{GuestType, Vmid};
use crate::reason::{Cause, Reason};
use crate::status;

use super::connection::Snapshot;
use super::reconcile::Reconcile;
use super::store::Store;
use super::{Engine, Memory, SWEEP_SECONDS, lock, observe};

/// Seconds for which it need not be asked anew what a guest that goes on as it was has pending, and its fixed address.
const SEEN: f64 = 60.0;
/// Seconds within which all ask that wait for the same template, once it is Ready.
const MOMENT: f64 = 1.0;

/// Looks for one plan; more means that a plan asks in circles.
const MAX_LOOKS: usize = 64;

impl<S: Store> Reconcile<'_, S> {
    /// Looks and plans until the plan needs no more looks.
    pub(super) async fn make_plan(&mut self) -> Result<Plan, Cause> {
        let began = tokio::time::Instant::now();
        let mut observed = self.start_looking();
        let source = self.queued();
        observed.clone_queue = source.map(|source| self.queue_clone(source));
        for _ in 0..MAX_LOOKS {
            let plan = self.plan(&observed, &self.status()).paused(self.paused.as_deref());
            let Next::Look(query) = &plan.next else {
                if let Some(source) = source
                    && let Some(place) = self.keep_or_leave_queue(source, &plan.next)
                {
                    observed.clone_queue = Some(place);
                    continue;
                }
                self.kept = plan.leaves(&observed);
                if let Some(GuestRead::Present(guest)) = observed.guest {
                    let seen = &mut lock(&self.engine.memory).seen;
                    seen.insert(self.object.key.clone(), (began, guest));
                }
                return Ok(plan);
            };
            if let plan::Query::VmidFree { vmid, .. } = query
                && !self.engine.choose(&self.object, *vmid)
            {
                observed.reserved = self.engine.reserved(&lock(&self.engine.memory), &self.object);
                continue;
            }
            self.look(query, &mut observed).await?;
        }
        Err(Cause::new(
            Reason::InternalError,
            "the plan asks for the same looks again and again",
        ))
    }

    /// The status that a plan is made from.
    pub(super) fn status(&self) -> Cow<'_, GuestStatus> {
        let status = &self.object.status;
        match self.desired {
            Some(desired) => status::upgraded(status, self.object.generation, &desired.prints.applied),
            None => Cow::Borrowed(status),
        }
    }

    /// The plan from what was looked at so far.
    pub(super) fn plan(&self, observed: &Observed, status: &GuestStatus) -> Plan {
        let around = Surroundings {
            cluster_id: &self.engine.options.cluster_id,
            previous: &self.previous,
            owner_ids: self.owner_ids,
        };
        let object = &self.object;
        let dependencies = || refs::dependencies(object, self.engine.store.as_ref());
        let input = |desired| Input {
            desired,
            dependencies: &dependencies,
            conflicts: &self.conflicts,
            observed,
            status,
            now: self.engine.now(),
            clock: self.engine.clock(),
        };
        match self.desired {
            Some(desired) if plan::wants_recreation(object, desired) => {
                plan::plan_recreation(object, input(desired), around)
            }
            Some(desired) => plan::plan(input(desired)),
            None if object.deleting => plan::plan_deletion(object, observed, around, self.engine.now()),
            None => plan::plan_stop(object, observed, around, self.engine.now()),
        }
    }

    /// Looks at what a plan asks for.
    pub(super) async fn look(&mut self, query: &plan::Query, observed: &mut Observed) -> Result<(), Cause> {
        // A search leaves out what other objects have, which otherwise nobody needs to know.
        if matches!(query, plan::Query::Stamped { .. }) && !self.held_known {
            self.held_known = true;
            observed.held = self.engine.held(&lock(&self.engine.memory), &self.object);
            return Ok(());
        }
        if matches!(query, plan::Query::Borrowed) {
            observed.borrowed = Some(self.engine.borrowed(&self.object));
            return Ok(());
        }
        match query {
            plan::Query::Cards { node } => {
                observed.cards = Some(self.given_cards(node));
                return Ok(());
            }
            plan::Query::CardTurn { node, cards } => {
                observed.card_turn = Some(self.card_turn(node, cards));
                return Ok(());
            }
            _ => {}
        }
        // Who looks at owner containers is about to edit one: one object at a time.
        if matches!(query, plan::Query::Owners { .. }) {
            self.looked_at_owners = true;
            if self.owner_lock.is_none() {
                self.owner_lock = Some(self.connection.owners.clone().lock_owned().await);
            }
            observed.recorded = self.engine.recorded(&self.object);
        }
        observe::look(
            self.connection,
            self.snapshot,
            &self.identity,
            &self.previous,
            query,
            observed,
        )
        .await?;
        if let (Some(counters), plan::Query::Probes { probes, .. }) = (&self.engine.options.counters, query) {
            let answers = probes.iter().filter_map(|p| observed.probes.get_key_value(&p.kind));
            for (kind, answer) in answers {
                counters.probe(*kind, answer);
                if let ProbeAnswer::Succeeded(Some(serving)) = answer {
                    counters.serving(&self.object.key, serving);
                }
            }
        }
        Ok(())
    }

    /// What is known before anything is looked at.
    pub(super) fn start_looking(&self) -> Observed {
        let (engine, object) = (self.engine, &self.object);
        let mut cluster = self.snapshot.cluster.clone();
        let ObjectName { namespace, name } = object.hypervisor_ref();
        cluster.recorded = engine
            .store
            .hypervisor(&namespace, &name)
            .and_then(|h| h.status.clone()?.cluster);
        let mut kept = self.kept.clone();
        let memory = lock(&engine.memory);
        let since = self.connection.recent.ago(SEEN);
        let seen = memory.seen.get(&object.key).filter(|(at, _)| *at >= since);
        let before = seen.map(|(_, guest)| guest.clone());
        let verified = memory.verified.get(&object.key).cloned();
        // A look of a later time was made while the clock was ahead.
        let fresh = |v: &Verified| (0..=SWEEP_SECONDS).contains(&(engine.now() - v.at));
        let sweep = !verified.as_ref().is_some_and(fresh);
        Observed {
            cluster,
            reserved: engine.reserved(&memory, object),
            held: match self.held_known {
                true => engine.held(&memory, object),
                false => Holders::default(),
            },
            verified,
            sweep,
            health: memory.health.get(&object.key).cloned(),
            cloned_revisions: engine.cloned_revisions(object),
            objects: self.cloning_objects(),
            guest_of: kept.guest.as_ref().and_then(|_| object.status.vmid()),
            guest: kept.guest.take(),
            before,
            kept,
            ..Observed::default()
        }
    }

    /// Objects by the vmid that they recorded, where a template is being deleted.
    fn cloning_objects(&self) -> BTreeMap<Vmid, String> {
        let object = &self.object;
        let mut found = BTreeMap::new();
        if object.deleting && object.key.kind == GuestKind::PhoenixTemplate {
            let hypervisor = object.hypervisor_ref();
            self.engine.store.look_at_all(&mut |o| {
                let vmid = o
                    .status
                    .vmid()
                    .filter(|_| o.hypervisor_ref() == hypervisor && o.key != object.key);
                found.extend(vmid.map(|vmid| (vmid, o.key.to_string())));
            });
        }
        found
    }

    /// The container that the object waits to be cloned from: it takes one clone at a time (facts D.4). Machines do not
    /// queue: their source takes several clones at once (facts F.4).
    fn queued(&self) -> Option<Vmid> {
        let desired = self.desired?;
        let Some(desired::Source::Clone { vmid: Some(source), .. }) = &desired.source else {
            return None;
        };
        let status = &self.object.status;
        let vmid = status.vmid()?;
        let waits = desired.sort() == GuestType::Lxc
            && status.task.is_none()
            && !self.snapshot.cluster.guests.contains_key(&vmid);
        waits.then_some(*source)
    }

    /// The object's place in the queue for clones of the source.
    fn queue_clone(&self, source: Vmid) -> ClonePlace {
        let shares = &self.connection.shares;
        shares.queue_clone(source, &self.object.key, self.behind())
    }

    /// Seconds that what waits for the object takes, were all of it made anew.
    pub(super) fn behind(&self) -> u64 {
        let objects = refs::with_those_behind(&self.object, self.engine.store.as_ref());
        let behind = estimate::behind(&[&self.object.key], &objects, &Durations::default());
        behind.into_iter().sum::<f64>() as u64
    }

    /// Keeps the place in the queue or leaves it, as the plan says; the place, where it is not the object's turn after all.
    fn keep_or_leave_queue(&self, source: Vmid, next: &Next) -> Option<ClonePlace> {
        let (shares, key) = (&self.connection.shares, &self.object.key);
        match next {
            Next::Run(step) if step.impact() == Impact::Create => {
                let moment = self.engine.after(MOMENT).after;
                let longer = shares.is_new(source, moment).then(|| self.longer()).flatten();
                return match longer {
                    Some(first) => Some(ClonePlace {
                        position: 2,
                        of: 2,
                        first: first.to_string(),
                        soon: true,
                    }),
                    None => shares.begin_clone(source, key),
                };
            }
            Next::Wait { cause, .. } if cause.reason == Reason::TemplateBusy => {}
            _ => shares.leave_clone_queue(key),
        }
        None
    }

    /// A clone of the same template that nothing holds up, behind which more is to be done than behind this one.
    fn longer(&self) -> Option<Key> {
        let (object, store) = (&self.object, self.engine.store.as_ref());
        let template = refs::template(object, object.template_ref()?, store).ok()?;
        let objects = refs::with_those_behind(&template, store);
        let guests = &self.snapshot.cluster.guests;
        let comes = |other: &&GuestObject| {
            let made = other.status.vmid().is_some_and(|vmid| guests.contains_key(&vmid));
            let of_it = other.key != object.key && other.template_keys().contains(&template.key);
            of_it && !made && !other.deleting && refs::dependencies(other, store).is_ok()
        };
        let others: Vec<&Key> = objects.iter().filter(comes).map(|other| &other.key).collect();
        let keys: Vec<&Key> = others.iter().copied().chain([&object.key]).collect();
        let behind = estimate::behind(&keys, &objects, &Durations::default());
        let own = behind.last().copied()?;
        let longest = others.into_iter().zip(behind).max_by(|a, b| a.1.total_cmp(&b.1));
        longest
            .filter(|(_, seconds)| *seconds > own)
            .map(|(key, _)| key.clone())
    }
}

impl<S: Store> Engine<S> {
    pub(super) fn identity_of(&self, object: &GuestObject) -> Identity {
        Identity::of(&self.options.cluster_id, &object.key, &object.uid)
    }

    /// Revisions of a template from which objects were cloned.
    fn cloned_revisions(&self, template: &GuestObject) -> Vec<Option<String>> {
        if template.status.revisions.is_none() {
            return Vec::new();
        }
        let mut named = Vec::new();
        let from = Ref::Guest(template.key.clone());
        self.store
            .look_at_index(&mut |index| named.extend(index.referrers(&from).cloned()));
        let guests = named.iter().filter_map(|key| self.store.guest(key));
        let cloned = guests.filter(|g| {
            let parent = g
                .template_ref()
                .and_then(|name| refs::template(g, name, self.store.as_ref()).ok());
            g.status.vmid().is_some() && parent.is_some_and(|p| p.key == template.key)
        });
        cloned.map(|g| g.status.template_revision).collect()
    }

    /// Guests and owner containers that statuses of the same hypervisor's objects name.
    fn recorded(&self, object: &GuestObject) -> Recorded {
        let hypervisor = object.hypervisor_ref();
        let mut recorded = Recorded::default();
        self.store.look_at_index(&mut |index| {
            recorded.guests.extend(index.guests(&hypervisor));
            recorded.owners.extend(index.owners(&hypervisor));
        });
        recorded
    }

    /// Volumes of other guests that objects name or have attached, with the object.
    fn borrowed(&self, object: &GuestObject) -> BTreeMap<String, String> {
        let hypervisor = object.hypervisor_ref();
        let mut named: Vec<(String, Key)> = Vec::new();
        self.store.look_at_index(&mut |index| {
            for (volid, keys) in index.volumes(&hypervisor) {
                named.extend(keys.iter().map(|key| (volid.clone(), key.clone())));
            }
        });
        named.retain(|(volid, key)| {
            let mut own = None;
            self.store.look_at(key, &mut |other| own = other.status.vmid());
            owner_of(volid) != own
        });
        named.into_iter().map(|(volid, key)| (volid, key.to_string())).collect()
    }

    /// Vmids that other objects have or want on the same hypervisor.
    pub(super) fn reserved(&self, memory: &Memory, object: &GuestObject) -> Holders {
        if object.status.vmid().is_some() {
            return Holders::default();
        }
        let (own, hypervisor) = (object.key.clone(), object.hypervisor_ref());
        let chosen: BTreeMap<Vmid, Key> = memory.chosen_of_others(object, |h| *h == hypervisor);
        let store = self.store.clone();
        Holders::asked(move |vmid| {
            let places = [Ref::Has(hypervisor.clone(), vmid), Ref::Wants(hypervisor.clone(), vmid)];
            let of_index = || other_than(&own, store.as_ref(), &places);
            chosen.get(&vmid).map(Key::to_string).or_else(of_index)
        })
    }

    /// Whether it matters from the start what other objects have: where a guest may be taken.
    pub(super) fn may_take(object: &GuestObject, snapshot: &Snapshot) -> bool {
        let status = &object.status;
        let listed = |vmid: Vmid| snapshot.cluster.guests.contains_key(&vmid);
        let present = status.vmid().is_some_and(listed);
        let asks = status.claim.is_some() || object.annotations.contains_key(RESTAMP);
        !present || asks || object.deleting
    }

    /// Vmids that other objects have on the same Proxmox.
    fn held(&self, memory: &Memory, object: &GuestObject) -> Holders {
        let (own, hypervisor) = (object.key.clone(), object.hypervisor_ref());
        let mut here: Vec<ObjectName> = Vec::new();
        self.store
            .look_at_index(&mut |index| here.extend(index.hypervisors().cloned()));
        here.retain(|other| refs::same_proxmox(&hypervisor, other, self.store.as_ref()));
        let chosen = memory.chosen_of_others(object, |h| refs::same_proxmox(&hypervisor, h, self.store.as_ref()));
        let store = self.store.clone();
        Holders::asked(move |vmid| {
            let places = Vec::from_iter(here.iter().map(|name| Ref::Has(name.clone(), vmid)));
            other_than(&own, store.as_ref(), &places).or_else(|| chosen.get(&vmid).map(Key::to_string))
        })
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

impl Memory {
    /// Vmids that were chosen for other objects of these hypervisors.
    fn chosen_of_others(&self, object: &GuestObject, here: impl Fn(&ObjectName) -> bool) -> BTreeMap<Vmid, Key> {
        let others = self.reserved.iter().filter(|(_, key)| **key != object.key);
        let here = others.filter(|((hypervisor, _), _)| here(hypervisor));
        here.map(|((_, vmid), key)| (*vmid, key.clone())).collect()
    }
}

/// An object other than `own` that is at one of these places of the index.
fn other_than<S: Store>(own: &Key, store: &S, places: &[Ref]) -> Option<String> {
    let mut found = None;
    store.look_at_index(&mut |index| {
        let mut there = places.iter().flat_map(|place| index.referrers(place));
        found = there.find(|key| *key != own).map(Key::to_string);
    });
    found
}
