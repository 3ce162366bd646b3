//! What would become of an object when its plans were carried out: a model of Proxmox as far as plans look at it. The
//! preview folds plans over it, and the property tests read back from it what plans have written.
//!
//! * this file: what was looked at, and which looks the model answers
//! * `effects.rs` what becomes of a step's effect
//! * `values.rs` how Proxmox keeps what is written, and what of it waits for a restart

mod effects;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::GuestStatus;
use crate::desired::Script;
use crate::observed::{
    Agent, CloudInitState, FirewallState, Guest, GuestRead, IdCheck, Observed, OldRevision, ProbeAnswer, ScriptRecord,
    Section, SectionOf, Sections,
};
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::secret::Secret;
use crate::status::{self, Ended};

use super::{Next, Plan, ProbeRequest, Query};

/// What was looked at and recorded, with what the steps so far would have made of it. A look that its
/// [`answer`](Forecast::answer) leaves open is for the caller to carry out.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// What was looked at.
    pub observed: Observed,
    /// What is recorded.
    pub status: GuestStatus,
    /// Records of scripts that ran before in the guest.
    ran: BTreeMap<String, ScriptRecord>,
    /// Records of scripts that ran in what a new guest is a clone of.
    inherited: BTreeMap<String, ScriptRecord>,
    /// Guests that a step has made or changed.
    touched: BTreeSet<Vmid>,
    /// Guests that a step has destroyed.
    gone: BTreeSet<Vmid>,
    /// The object's guest was made by a step.
    made: bool,
    /// Of which guest it is a clone then.
    parent: Option<GuestRef>,
    /// The object's guest really runs, whatever the steps have done, so that it can be asked.
    awake: bool,
    /// A step has started it.
    started: bool,
    /// A step has started it or something in it, which works after a while.
    works: bool,
    /// Password hash that a step has set.
    password: Option<Secret>,
    /// Options that the cloud-init drive of the running machine does not hold yet.
    unwritten: BTreeSet<String>,
    /// Volumes made so far.
    volumes: u32,
}

impl Forecast {
    /// Nothing was done yet.
    pub fn new(observed: Observed, status: GuestStatus) -> Self {
        Forecast {
            observed,
            status,
            ..Forecast::default()
        }
    }

    /// The same, where scripts of these hashes have ended with these exit codes: in the guest that is there, and in what a
    /// new one would be a clone of.
    #[must_use]
    pub fn with_scripts(
        mut self,
        scripts: &[Script],
        own: &BTreeMap<String, i64>,
        inherited: &BTreeMap<String, i64>,
    ) -> Self {
        let records = |ended: &BTreeMap<String, i64>| {
            let record = |script: &Script| {
                let record = ScriptRecord {
                    hash: script.hash.clone(),
                    attempt: 1,
                    exit_code: Some(*ended.get(&script.hash)?),
                    this_start: Some(false),
                    tries: 1,
                    ..ScriptRecord::default()
                };
                Some((script.id.clone(), record))
            };
            scripts.iter().filter_map(record).collect()
        };
        (self.ran, self.inherited) = (records(own), records(inherited));
        self
    }

    /// The object's guest, as far as it was looked at or made.
    pub fn guest(&self) -> Option<&Guest> {
        match &self.observed.guest {
            Some(GuestRead::Present(guest)) => Some(guest),
            _ => None,
        }
    }

    /// Options of the object's guest that wait for its next start.
    pub fn waiting(&self) -> BTreeSet<String> {
        let pending = self.guest().into_iter().flat_map(|guest| {
            let keys = guest.pending.keys();
            keys.filter(|key| !crate::plan::sizes::only_size_pends(guest, key))
        });
        pending.cloned().collect()
    }

    /// The same, to be changed by whoever plays somebody else.
    pub fn guest_mut(&mut self) -> Option<&mut Guest> {
        match &mut self.observed.guest {
            Some(GuestRead::Present(guest)) => Some(guest),
            _ => None,
        }
    }

    /// Answers a look at what the steps have made or changed. `Some` is to be looked at: what the steps did not touch,
    /// or, for what a clone has copied, its template.
    pub fn answer(&mut self, query: Query) -> Option<Query> {
        let observed = &mut self.observed;
        let known = |vmid: &Vmid| self.touched.contains(vmid) || self.gone.contains(vmid);
        match &query {
            Query::Guest { vmid, .. } if self.gone.contains(vmid) => {
                observed.guest = Some(GuestRead::NotFound);
                observed.guest_of = Some(*vmid);
            }
            Query::VmidFree { vmid, .. } if self.gone.contains(vmid) => {
                observed.id_check = Some((*vmid, IdCheck::Free));
            }
            // Whose turn it is tells nothing of what would be done.
            Query::CardTurn { .. } => observed.card_turn = Some(None),
            Query::Creating { vmid, .. } if known(vmid) => observed.creating = Some(false),
            Query::OldRevision(at) if self.gone.contains(&at.vmid) => {
                let gone = OldRevision {
                    read: GuestRead::NotFound,
                    linked: Vec::new(),
                };
                observed.old_revisions.insert(at.vmid, Ok(gone));
            }
            // Nobody has a volume that a step has made.
            Query::Holder { volid, .. } if volid.contains(values::NEW) => {
                self.observed.holders.insert(volid.clone(), Ok(None));
            }
            Query::Scripts { .. } if self.started && !self.awake => observed.scripts = Some(Ok(self.ran.clone())),
            Query::Agent { .. } if self.started => observed.agent = Some(Ok(answers())),
            Query::Probes { probes, .. } if self.works => {
                let all = |p: &ProbeRequest| (p.kind, ProbeAnswer::Succeeded(None));
                observed.probes.extend(probes.iter().map(all));
            }
            Query::Firewall(_) if self.made => match self.parent.clone() {
                Some(parent) => return Some(Query::Firewall(parent)),
                None => observed.firewall = Some(Ok(FirewallState::default())),
            },
            Query::CloudInit { password, .. } if self.made => match self.parent.clone() {
                Some(at) if self.password.is_none() => {
                    let password = *password;
                    return Some(Query::CloudInit { at, password });
                }
                _ => {
                    observed.cloud_init = Some(Ok(CloudInitState::default()));
                    self.correct(&query);
                }
            },
            Query::Sections(at) if self.made && self.guest().is_some_and(|g| g.at == *at) => {
                let none = Sections {
                    vmid: at.vmid,
                    sections: Vec::new(),
                };
                self.observed.sections.insert(at.vmid, Ok(none));
                self.correct(&query);
            }
            _ => return Some(query),
        }
        None
    }

    /// Lays what the steps have changed over the answer to a look.
    pub fn correct(&mut self, query: &Query) {
        match query {
            Query::Stamped { .. } => self.correct_stamped(),
            Query::Scripts { .. } if self.started => self.ran_before_this_start(),
            Query::CloudInit { .. } => {
                if let Some(Ok(state)) = &mut self.observed.cloud_init {
                    if self.made || self.started {
                        state.pending.clear();
                    }
                    let new = self.unwritten.iter().filter(|key| !state.pending.contains(key));
                    let new: Vec<String> = new.cloned().collect();
                    state.pending.extend(new);
                    if self.password.is_some() {
                        state.password.clone_from(&self.password);
                    }
                }
            }
            Query::Sections(at) if self.touched.contains(&at.vmid) => self.correct_sections(at.vmid),
            _ => {}
        }
    }

    /// What is gone carries no stamp any more, nor does a guest of which it was taken off.
    fn correct_stamped(&mut self) {
        let bare = self.guest().filter(|g| g.stamp().is_none()).map(|g| g.at.vmid);
        if let Some(found) = &mut self.observed.stamped {
            found
                .ours
                .retain(|g| !self.gone.contains(&g.at.vmid) && bare != Some(g.at.vmid));
        }
    }

    /// What stands in snapshots is as it was; what is in force is what the steps have made.
    fn correct_sections(&mut self, vmid: Vmid) {
        let looked_at = self.observed.sections.contains_key(&vmid);
        let Some(guest) = self.guest().filter(|g| looked_at && g.at.vmid == vmid).cloned() else {
            return;
        };
        let mut now = guest.options.clone();
        for (key, value) in &guest.pending {
            match value {
                Some(value) => drop(now.insert(key.clone(), value.clone())),
                None => drop(now.remove(key)),
            }
        }
        if let Some(Ok(all)) = self.observed.sections.get_mut(&vmid) {
            all.sections.retain(|s| matches!(s.of, SectionOf::Snapshot(_)));
            let section = |of, options| Section { of, options };
            let in_force = [
                section(SectionOf::Now, now),
                section(SectionOf::AfterRestart, guest.options),
            ];
            all.sections.splice(0..0, in_force);
        }
    }

    /// Carries the plan's step out: what it announces is recorded, its effect takes place, and it ends well. `false`
    /// where nothing more can be said after it.
    pub fn carry_out(&mut self, plan: &Plan, generation: i64, hash: Option<&str>, now: i64) -> bool {
        let Next::Run(step) = &plan.next else { return false };
        let before = self.status.vmid();
        let planned = status::planned(&self.status, generation, plan, hash, now);
        self.status = status::announced(&planned, &step.announce);
        if self.status.vmid() != before {
            self.another_guest();
        }
        (self.observed.verified, self.observed.sweep) = (None, true);
        let known = self.effect(&step.effect, now);
        self.status = status::after_step(&self.status, step, &Ended::Done, now, 1.0);
        if self.works {
            (self.status.health, self.status.started) = (Some("Healthy".into()), None);
        }
        known
    }

    /// The object's guest is another one now: of it nothing was looked at, unless it was for its vmid.
    fn another_guest(&mut self) {
        let observed = &mut self.observed;
        if self.status.vmid().is_some() && observed.guest_of == self.status.vmid() {
            return;
        }
        (observed.guest, observed.guest_of, observed.creating) = (None, None, None);
        (observed.scripts, observed.agent, observed.firewall) = (None, None, None);
        (observed.cloud_init, observed.snippet) = (None, None);
        (self.made, self.awake) = (false, false);
        (self.started, self.works) = (false, false);
    }

    /// Something in the object's guest is started anew: what the probes said of it counts no more.
    fn is_working(&mut self) {
        self.works = true;
        (self.observed.health, self.observed.probes) = (None, BTreeMap::new());
    }

    /// The object's guest was started: it works.
    fn is_started(&mut self) {
        self.started = true;
        self.is_working();
        let observed = &mut self.observed;
        observed.agent = Some(Ok(answers()));
        self.unwritten.clear();
        if let Some(Ok(state)) = &mut observed.cloud_init {
            state.pending.clear();
        }
        self.ran_before_this_start();
    }

    fn ran_before_this_start(&mut self) {
        let records = self.observed.scripts.iter_mut().flatten();
        records
            .flat_map(BTreeMap::values_mut)
            .for_each(|record| record.this_start = Some(false));
    }

    /// A guest to be changed, and whether it is the object's own; else it is an owner container.
    fn of_vmid(&mut self, vmid: Vmid) -> Option<(&mut Guest, bool)> {
        if self.guest().is_some_and(|g| g.at.vmid == vmid) {
            return self.guest_mut().map(|guest| (guest, true));
        }
        let owners = self.observed.owners.as_mut()?.as_mut().ok()?;
        let owner = owners.owners.iter_mut().find(|o| o.at.vmid == vmid)?;
        Some((owner, false))
    }

    /// Whether a storage keeps volumes as directories or datasets rather than as images.
    fn in_directories(&self, node: &str, storage: &str, sort: GuestType) -> bool {
        let row = self.observed.cluster.storages.get(&(node.into(), storage.into()));
        sort == GuestType::Lxc && row.is_some_and(|r| ["zfspool", "btrfs"].contains(&r.type_.as_str()))
    }
}

/// A guest agent of a machine that has started, with cloud-init through.
fn answers() -> Agent {
    Agent::Answers {
        ip: None,
        cloud_init_done: Some(true),
    }
}
