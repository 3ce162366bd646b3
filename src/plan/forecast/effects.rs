//! What becomes of a step's effect.

use std::collections::BTreeMap;

use crate::desired::Script;
use crate::observed::{Cards, Guest, GuestRead, Image, OldRevision, ResourceRow, ScriptRecord};
use crate::plan::{Download, Effect, GuestWork, NodeWork};
use crate::pve::call::Method;
use crate::pve::property::Properties;
use crate::pve::{ApiCall, GuestRef, GuestType, Vmid};
use crate::secret::Secret;

use super::Forecast;
use super::values::{self, Place};

/// Seconds for which a guest runs whose start is long over.
const LONG_AGO: i64 = 3600;
/// Parameters of the creating calls that are no options.
const NO_OPTIONS: &[&str] = &[
    "vmid",
    "ostemplate",
    "pool",
    "newid",
    "full",
    "snapname",
    "storage",
    "target",
    "ssh-public-keys",
];

impl Forecast {
    /// The effect takes place; `false` where nothing more can be said after it.
    pub(super) fn effect(&mut self, effect: &Effect, now: i64) -> bool {
        match effect {
            Effect::Record => true,
            Effect::Call { call, .. } => self.call(call, None),
            Effect::Task { call, downloads, .. } => self.call(call, downloads.as_ref()),
            Effect::OnNode { work, .. } => self.on_node(work, now),
            Effect::InGuest { work, .. } => {
                self.in_guest(work, now);
                true
            }
            Effect::RemoveFinalizer { .. } => false,
        }
    }

    fn on_node(&mut self, work: &NodeWork, now: i64) -> bool {
        match work {
            NodeWork::SetOptions { at, set, delete, .. } => self.write(at.vmid, set, delete),
            NodeWork::RawLines { vmid, add, remove, .. } => {
                let Some((guest, _)) = self.of_vmid(*vmid) else {
                    return false;
                };
                let line = |(key, value): &(String, String)| format!("{key} = {value}");
                guest.raw_lines.retain(|l| !remove.contains(&line(l)));
                let parts = |l: &String| l.split_once('=').map(|(k, v)| (k.trim().into(), v.trim().into()));
                guest.raw_lines.extend(add.iter().filter_map(parts));
            }
            NodeWork::WriteSnippet { vendor, .. } => {
                self.observed.snippet = Some(Ok(true));
                if self.made {
                    // The first boot runs them.
                    let ran = vendor.scripts.iter().map(|s| (s.id.clone(), ran(s, 1, now)));
                    self.ran.extend(ran);
                }
            }
            NodeWork::GpuNodes { .. } => {
                if let Some(Cards::Given(given)) = &mut self.observed.cards {
                    given.iter_mut().for_each(|given| given.missing.clear());
                }
            }
            NodeWork::BindCard { .. } => {
                if let Some(Cards::Given(given)) = &mut self.observed.cards {
                    given.iter_mut().for_each(|given| given.bind = None);
                }
            }
            NodeWork::RemoveSnippet { .. } => {}
        }
        true
    }

    fn in_guest(&mut self, work: &GuestWork, now: i64) {
        let records = match &mut self.observed.scripts {
            Some(Ok(records)) => records,
            other => {
                *other = Some(Ok(BTreeMap::new()));
                return self.in_guest(work, now);
            }
        };
        match work {
            GuestWork::StartScript { script, attempt } => {
                records.insert(script.id.clone(), ran(script, *attempt, now));
                self.is_working();
            }
            GuestWork::CancelScript { id, .. } => {
                if let Some(record) = records.get_mut(id) {
                    (record.running, record.cancelled) = (false, true);
                    record.exit_code = Some(143);
                }
            }
            GuestWork::RestartUnit { .. } => self.is_working(),
        }
    }

    fn call(&mut self, call: &ApiCall, download: Option<&Download>) -> bool {
        if let Some(download) = download {
            let image = Image {
                present: true,
                compared: true,
                ..Image::default()
            };
            self.observed.images.insert(download.volid.clone(), Ok(image));
            return true;
        }
        let parts: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["pools"] => {
                let vmid = call.get_param("vms").and_then(|v| v.parse().ok());
                let row = vmid.and_then(|vmid: Vmid| self.observed.cluster.guests.get_mut(&vmid));
                row.map(|row| row.pool = call.get_param("poolid").map(str::to_string))
                    .is_some()
            }
            ["nodes", node, sort] => self.create(call, node, sort).is_some(),
            ["nodes", _, _, vmid, rest @ ..] => match (vmid.parse(), call.method, rest) {
                (Ok(vmid), Method::Delete, []) => self.destroy(vmid),
                (Ok(vmid), _, ["clone"]) => self.copy(call, vmid).is_some(),
                (Ok(vmid), ..) => self.of_guest(call, vmid, rest),
                _ => false,
            },
            _ => false,
        }
    }

    fn of_guest(&mut self, call: &ApiCall, vmid: Vmid, rest: &[&str]) -> bool {
        match rest {
            ["config"] => {
                self.configure(call, vmid);
                return true;
            }
            ["cloudinit"] => {
                self.unwritten.clear();
                if let Some(Ok(state)) = &mut self.observed.cloud_init {
                    state.pending.clear();
                }
                return true;
            }
            ["firewall", what @ ..] => return self.firewalled(call, what).is_some(),
            ["status", operation] => return self.power(vmid, operation),
            _ => {}
        }
        self.touch(vmid);
        let Some((guest, _)) = self.of_vmid(vmid) else {
            return false;
        };
        match rest {
            ["resize"] => {
                let (Some(place), Some(size)) = (call.get_param("disk"), call.get_param("size")) else {
                    return false;
                };
                let disk = guest.options.get(place).cloned().unwrap_or_default();
                let Ok(disk) = Properties::of_option(place, &disk) else {
                    return false;
                };
                guest.options.insert(place.into(), disk.with("size", size).to_string());
            }
            ["snapshot"] => {
                let text = |key| call.get_param(key).unwrap_or_default().to_string();
                guest
                    .snapshots
                    .get_or_insert_default()
                    .insert(text("snapname"), text("description"));
            }
            ["template"] => {
                guest.options.insert("template".into(), "1".into());
                values::make_bases(guest, call.get_param("disk"));
            }
            _ => return false,
        }
        true
    }

    /// A new guest: the object's, or an owner container.
    fn create(&mut self, call: &ApiCall, node: &str, sort: &str) -> Option<()> {
        let sort = GuestType::of(sort)?;
        let vmid = call.get_param("vmid")?.parse().ok()?;
        self.appear(call, Guest::new(GuestRef::new(sort, vmid, node)));
        Some(())
    }

    /// A clone, which has what its template has, but for names, volumes and addresses of interfaces.
    fn copy(&mut self, call: &ApiCall, from: Vmid) -> Option<()> {
        let Some(GuestRead::Present(parent)) = &self.observed.parent else {
            return None;
        };
        let parent = parent.clone();
        let vmid = call.get_param("newid")?.parse().ok()?;
        let storage = call.get_param("storage");
        let mut guest = Guest {
            raw_lines: parent.raw_lines.clone(),
            ..Guest::new(GuestRef {
                vmid,
                ..parent.at.clone()
            })
        };
        for (key, value) in parent.options.iter().filter(|(key, _)| values::is_copied(key)) {
            let value = values::copied(key, value, from, vmid, storage);
            guest.options.insert(key.clone(), value);
        }
        self.appear(call, guest);
        self.parent = Some(parent.at);
        Some(())
    }

    fn appear(&mut self, call: &ApiCall, guest: Guest) {
        let at = guest.at.clone();
        let row = ResourceRow {
            type_: at.sort.as_str().into(),
            node: at.node.clone(),
            status: "stopped".into(),
            pool: call.get_param("pool").map(str::to_string),
            ..ResourceRow::default()
        };
        self.observed.cluster.guests.insert(at.vmid, row);
        self.touched.insert(at.vmid);
        if self.status.vmid() == Some(at.vmid) {
            (self.made, self.parent) = (true, None);
            self.ran.clone_from(&self.inherited);
            (self.awake, self.started) = (false, false);
            self.observed.guest_of = Some(at.vmid);
            self.observed.guest = Some(GuestRead::Present(Box::new(guest)));
        } else if let Some(Ok(owners)) = &mut self.observed.owners {
            owners.listed.insert(at.vmid);
            owners.owners.push(guest);
        }
        let set: Vec<(String, String)> = call.params.clone();
        let options = set.into_iter().filter(|(key, _)| !NO_OPTIONS.contains(&key.as_str()));
        self.write(at.vmid, &options.collect::<Vec<_>>(), &[]);
    }

    fn destroy(&mut self, vmid: Vmid) -> bool {
        let observed = &mut self.observed;
        observed.cluster.guests.remove(&vmid);
        observed.sections.remove(&vmid);
        if let Some(Ok(old)) = observed.old_revisions.get_mut(&vmid) {
            *old = OldRevision {
                read: GuestRead::NotFound,
                linked: Vec::new(),
            };
        }
        if observed.guest_of == Some(vmid) {
            observed.guest = Some(GuestRead::NotFound);
        }
        self.gone.insert(vmid);
        self.correct_stamped();
        true
    }

    /// A guest is about to be changed.
    fn touch(&mut self, vmid: Vmid) {
        let own = self.guest().filter(|g| g.at.vmid == vmid);
        let running = own.is_some_and(|g| g.running);
        if own.is_some() && self.touched.insert(vmid) {
            self.awake = running;
        }
    }

    /// Options are set, deleted, or pending changes taken back.
    fn configure(&mut self, call: &ApiCall, vmid: Vmid) {
        let (mut set, mut delete) = (Vec::new(), Vec::new());
        for (key, value) in &call.params {
            match key.as_str() {
                "digest" => {}
                "delete" => delete.extend(value.split(',').map(str::to_string)),
                "revert" => {
                    if let Some((guest, _)) = self.of_vmid(vmid)
                        && let Some(Some(old)) = guest.pending.remove(value)
                    {
                        guest.options.insert(value.clone(), old);
                    }
                }
                _ => set.push((key.clone(), value.clone())),
            }
        }
        self.write(vmid, &set, &delete);
    }

    /// Writes options of a guest as Proxmox keeps them.
    fn write(&mut self, vmid: Vmid, set: &[(String, String)], delete: &[String]) {
        self.touch(vmid);
        let Some((guest, own)) = self.of_vmid(vmid).map(|(guest, own)| (guest.clone(), own)) else {
            return;
        };
        let mut changed = guest;
        for key in delete {
            values::delete(&mut changed, key);
        }
        for (key, value) in set {
            if key == "cipassword" && own {
                self.password = Some(Secret::new(value));
                if let Some(Ok(state)) = &mut self.observed.cloud_init {
                    state.password.clone_from(&self.password);
                }
            }
            self.volumes += 1;
            let storage = value.split(':').next().unwrap_or_default();
            let storage = storage.trim_start_matches("volume=").trim_start_matches("file=");
            let place = Place {
                vmid,
                number: self.volumes,
                directories: self.in_directories(&changed.at.node, storage, changed.at.sort),
            };
            values::set(&mut changed, key, value, &place);
        }
        if own && changed.running {
            let keys = set.iter().map(|(key, _)| key).chain(delete);
            self.cloud_init_lacks(keys.filter(|key| values::is_cloud_init(key)).cloned().collect());
        }
        if let Some((guest, _)) = self.of_vmid(vmid) {
            *guest = changed;
        }
        self.correct_stamped();
        self.correct_sections(vmid);
    }

    fn cloud_init_lacks(&mut self, keys: Vec<String>) {
        if let Some(Ok(state)) = &mut self.observed.cloud_init {
            let new = keys.iter().filter(|key| !state.pending.contains(key)).cloned();
            let new: Vec<String> = new.collect();
            state.pending.extend(new);
        }
        self.unwritten.extend(keys);
    }

    fn power(&mut self, vmid: Vmid, operation: &str) -> bool {
        self.touch(vmid);
        let Some((guest, own)) = self.of_vmid(vmid) else {
            return false;
        };
        guest.pending.clear();
        guest.running = matches!(operation, "start" | "reboot");
        // Another process than before, long enough ago for nothing to wait for its start.
        guest.pid = guest.running.then(|| guest.pid.unwrap_or(0) + 1);
        guest.uptime = guest.running.then_some(LONG_AGO);
        guest.ip = None;
        if own && guest.running {
            self.is_started();
        }
        self.correct_sections(vmid);
        true
    }

    /// Options and rules of the guest's firewall.
    fn firewalled(&mut self, call: &ApiCall, what: &[&str]) -> Option<()> {
        let state = self.observed.firewall.as_mut()?.as_mut().ok()?;
        match (call.method, what) {
            (_, ["options"]) => {
                for (key, value) in call.params.iter().filter(|(key, _)| key != "digest") {
                    if key == "delete" {
                        value.split(',').for_each(|key| drop(state.options.remove(key)));
                    } else {
                        state.options.insert(key.clone(), value.clone());
                    }
                }
            }
            (Method::Post, ["rules"]) => {
                let rule = call.params.iter().filter(|(key, _)| key != "digest").cloned();
                state.rules.insert(0, rule.collect());
            }
            (Method::Put, ["rules", position]) => {
                let position = position.parse().ok().filter(|p| *p < state.rules.len())?;
                let to = call.get_param("moveto").and_then(|to| to.parse::<usize>().ok());
                if let Some(to) = to {
                    let rule = state.rules.remove(position);
                    let to = if to > position { to - 1 } else { to };
                    state.rules.insert(to.min(state.rules.len()), rule);
                } else {
                    let set = call.params.iter().filter(|(key, _)| key != "digest").cloned();
                    state.rules[position].extend(set);
                }
            }
            (Method::Delete, ["rules", position]) => {
                let position = position.parse().ok().filter(|p| *p < state.rules.len())?;
                state.rules.remove(position);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Record of a script that has ended well.
fn ran(script: &Script, attempt: i64, now: i64) -> ScriptRecord {
    ScriptRecord {
        hash: script.hash.clone(),
        attempt,
        exit_code: Some(0),
        ended_at: Some(now),
        this_start: Some(true),
        tries: 1,
        ..ScriptRecord::default()
    }
}
