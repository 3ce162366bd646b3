//! The plan for a guest: the stages in order, each of which is satisfied or says what to do next. Where containers and
//! machines differ, [`super::lxc`] is for the former, [`super::vm`] for the latter.

use std::collections::BTreeSet;

use crate::crd::{GuestStatus, PowerState, RestartPolicy};
use crate::desired::{Desired, Form, ScriptRole, Source, WantedGuest, managed};
use crate::observed::Guest;
use crate::plan::calls;
use crate::pve::GuestRef;
use crate::reason::{Cause, Reason};

use super::planner::{Input, Planner, Staged};
use super::{Announce, Effect, Finding, Next, Plan, Stage, retry};

/// Decides what to do next for a guest.
pub fn plan(input: Input<'_>) -> Plan {
    let mut planner = Planner::new(input);
    let next = match planner.stages() {
        Ok(()) => planner.held_in(&Stage::ALL).map_or_else(|held| held, |()| Next::Done),
        Err(next) => next,
    };
    planner.finish(next)
}

/// Condition of what was cloned from an earlier revision of its template.
const OUTDATED: &str = "TemplateOutdated";

/// What is to be told of a guest that was cloned from revision `built` of a template that is now at `revision`.
fn outdated(built: &str, revision: &str, template: &str) -> Option<String> {
    let newer = !revision.is_empty() && revision != built;
    newer.then(|| format!("cloned from revision {built} of template {template}, which is now at {revision}"))
}

impl Planner<'_> {
    fn stages(&mut self) -> Staged {
        self.facts.managed = Some(self.managed_so_far());
        let source = self.desired.source.as_ref();
        self.facts.source = source.map(|source| source_words(source, self.image_of(source)));
        self.facts.stopped = self.desired.life.form == Form::Guest && self.desired.life.power == PowerState::Stopped;
        self.facts.absent = absent(self.desired, self.status);
        if self.unchanged() && !self.needs_look()? {
            return self.only_probe();
        }
        self.cluster()?;
        let guest = self.existing_guest()?;
        self.stopped_first(&guest)?;
        self.may_go_on(&guest)?;
        self.facts.node = Some(guest.at.node.clone());
        self.placed(&guest);
        self.tell_conflicts();
        self.facts.ip = guest.ip.clone();
        self.facts.image = guest.stamp().and_then(|s| s.image);
        self.ok(Stage::DependenciesReady, "");
        self.ok(
            Stage::Created,
            format!("{} is on node {}", guest.named(), guest.at.node),
        );
        let sealed = self.sealed(&guest)?;
        match &self.desired.guest {
            WantedGuest::Lxc(lxc) => self.container(lxc, &guest)?,
            WantedGuest::Vm(vm) => self.machine(vm, &guest)?,
        }
        self.firewall(&guest)?;
        if guest.stamp().is_some_and(|s| s.fresh) {
            // What a clone copied may still be on it: it does not start.
            self.held_in(&Stage::ALL)?;
        }
        self.settled(&guest)?;
        if sealed {
            return self.stay_sealed(&guest);
        }
        // Nothing is started or run without its volumes and devices.
        let parts = self.held_in(&[Stage::VolumesReady, Stage::GPUReady]);
        if !guest.running {
            parts.clone()?;
        }
        self.may_take_its_address(&guest)?;
        self.running(&guest)?;
        parts?;
        self.restart_unhealthy(&guest)?;
        self.agent_answers(&guest)?;
        self.addressed(&guest)?;
        self.scripts(&guest)?;
        if self.desired.life.form == Form::Guest {
            self.healthy(&guest)?;
            self.gpus_work()?;
        } else {
            self.seal(&guest)?;
        }
        self.lineage(&guest);
        self.look_again_when_young(&guest);
        if self.facts.look_again.is_none() {
            self.facts.verified = Some(self.observed.cluster.guests.get(&guest.at.vmid).cloned());
        }
        Ok(())
    }

    /// What the spec sets, by name. The device nodes of GPUs are known where the node's cards are: until then they are those
    /// of before.
    fn managed_so_far(&self) -> BTreeSet<String> {
        let mut names = managed(self.desired);
        let gpus = self.desired.lxc().and_then(|lxc| lxc.gpus.as_ref());
        let before = self.status.managed.iter().flatten();
        let of_gpus = before.filter(|name| name.starts_with("gpu.") && gpus.is_some_and(|list| !list.is_empty()));
        names.extend(of_gpus.cloned());
        names
    }

    /// Phoenix migrates nobody; who asks for another node is told.
    fn placed(&mut self, guest: &Guest) {
        let vmid = guest.at.vmid;
        let Some(wanted) = self
            .desired
            .identity
            .node
            .as_ref()
            .filter(|node| **node != guest.at.node)
        else {
            return;
        };
        let message = format!(
            "{}.node is {:?}, wanted {wanted:?}: migrate it in Proxmox ({} migrate {vmid} {wanted}), or set the node that it is on",
            self.prefix(),
            guest.at.node,
            guest.at.sort.tool()
        );
        self.find_more("RecreateRequired", Reason::CreationOnly, message);
    }

    /// Says when the template has moved on since the guest was cloned; nobody is rebuilt unasked.
    pub(crate) fn lineage(&mut self, guest: &Guest) {
        let Some(Source::Clone { revision, template, .. }) = &self.desired.source else {
            return;
        };
        let stamp = guest.stamp();
        let built = match self.desired.life.form {
            Form::Guest => stamp.and_then(|s| s.revision),
            _ => stamp.and_then(|s| s.parent),
        };
        let Some(built) = built else { return };
        if let Some(message) = outdated(&built, revision, template) {
            self.condition(OUTDATED, true, Reason::NewerRevision, message);
        }
        self.facts.template_revision = Some(built);
    }

    /// Whether status says what [`Planner::lineage`] would: a template is built anew without a change of its clones.
    fn lineage_is_told(&self) -> bool {
        let Some(Source::Clone { revision, template, .. }) = &self.desired.source else {
            return true;
        };
        let built = self.status.template_revision.as_ref();
        let told = self.status.conditions.iter().find(|c| c.type_ == OUTDATED);
        built.and_then(|built| outdated(built, revision, template)) == told.map(|c| c.message.clone())
    }

    /// Whether the last full look found everything as wanted, and nothing seems to have changed since.
    fn unchanged(&self) -> bool {
        let Some(verified) = &self.observed.verified else {
            return false;
        };
        let row = self
            .status
            .vmid()
            .and_then(|vmid| self.observed.cluster.guests.get(&vmid));
        let same = matches!((&verified.row, row), (Some(old), Some(new)) if old.is_still(new));
        !self.observed.sweep
            && verified.hash == self.desired.prints.applied
            && same
            && self.conflicts_are_told()
            && self.lineage_is_told()
            && self.status.restarted_at == self.desired.life.restarted_at
            && self.status.restart_from.is_none()
            // A restart by anybody right after the last look leaves the row as it was.
            && !self.status.conditions.iter().any(|c| c.type_ == "RestartRequired")
    }

    /// The guest as the last full look found it: where it is, and that it runs.
    fn as_found(&self) -> Option<Guest> {
        let vmid = self.status.vmid()?;
        let at = GuestRef::new(self.desired.sort(), vmid, self.status.node.clone().unwrap_or_default());
        let guest = Guest {
            running: true,
            ..Guest::new(at)
        };
        (self.desired.life.form == Form::Guest && self.desired.life.power == PowerState::Running).then_some(guest)
    }

    /// Whether the guest must be looked at for what a probe says.
    fn needs_look(&self) -> Result<bool, Next> {
        match self.as_found() {
            Some(guest) => self.wants_look(&guest),
            None => Ok(false),
        }
    }

    fn only_probe(&mut self) -> Staged {
        self.partial = true;
        self.keep_findings();
        match self.as_found() {
            Some(guest) => self.healthy(&guest),
            None => Ok(()),
        }
    }

    /// What the last full look found still holds.
    fn keep_findings(&mut self) {
        for stage in Stage::ALL {
            let old = self.status.conditions.iter().find(|c| c.type_ == stage.as_str());
            if let Some(old) = old.filter(|_| stage != Stage::Healthy || self.as_found().is_none()) {
                self.findings.push(Finding {
                    condition: stage.as_str(),
                    holds: old.status.to_ascii_lowercase().parse().ok(),
                    cause: Cause::new(Reason::named(&old.reason).unwrap_or(Reason::AsWanted), &old.message),
                });
            }
        }
    }

    /// The endpoint answers as the recorded cluster, and it is quorate.
    fn cluster(&mut self) -> Staged {
        let cluster = &self.observed.cluster;
        if !cluster.is_recorded() {
            let recorded = cluster.recorded.clone().unwrap_or_default();
            let message = format!(
                "the endpoint answers as cluster {:?} with nodes {:?}, but this hypervisor is {:?} with nodes {:?}: correct spec.endpoints of the PhoenixHypervisor",
                cluster.identity.name, cluster.identity.nodes, recorded.name, recorded.nodes
            );
            return Err(self.stuck(Stage::Created, Reason::WrongCluster, message));
        }
        if cluster.quorate == Some(false) {
            return Err(self.wait(
                Stage::Created,
                Reason::NoQuorum,
                "the Proxmox cluster is not quorate",
                10,
            ));
        }
        Ok(())
    }

    /// A guest that is to be stopped is so before anything else is done to it: no refused change and no pause of other
    /// steps keeps it running.
    fn stopped_first(&mut self, guest: &Guest) -> Staged {
        if !self.facts.stopped || !guest.running {
            return Ok(());
        }
        self.health_unknown(Reason::InProgress, "the guest is being stopped");
        self.unlocked(Stage::Running, guest)?;
        Err(self.shutdown(Stage::Running, guest).apart(retry::STOP))
    }

    /// What the probes said is of an earlier start, or will be in a moment.
    pub(super) fn health_unknown(&mut self, reason: Reason, message: &str) {
        if self.desired.is_probed() {
            self.unknown(Stage::Healthy, reason, message);
            self.facts.health = Some("Unknown".into());
        }
    }

    /// Guest runs, or is stopped, as wanted; restarts that were asked for are carried out.
    fn running(&mut self, guest: &Guest) -> Staged {
        let what = guest.named();
        let stage = Stage::Running;
        let pending = guest.pending.keys().map(String::as_str);
        let mut names: Vec<&str> = pending.filter(|k| !super::sizes::only_size_pends(guest, k)).collect();
        if self.cloud_init_unread(guest) {
            names.push("cloud-init");
        }
        if !names.is_empty() && guest.running {
            let message = format!("{} wait for a restart of {what}", names.join(", "));
            if self.desired.life.restart == RestartPolicy::Automatic {
                self.unlocked(stage, guest)?;
                self.health_unknown(Reason::Starting, "the guest is being restarted");
                let action = format!("restart {what} ({message})");
                return Err(self.run(stage, action, vec![], calls::restart(&guest.at)));
            }
            let message = format!(
                "{message}: set updatePolicy.restart: Automatic, or the annotation {}",
                crate::crd::RESTARTED_AT
            );
            self.condition("RestartRequired", true, Reason::PendingChanges, message);
        }
        let wanted = if self.desired.life.form == Form::Guest {
            self.desired.life.power
        } else {
            PowerState::Running
        };
        match (wanted, guest.running) {
            (PowerState::Running, false) if self.desired.life.form == Form::Guest || !self.scripts_recorded() => {
                self.health_unknown(Reason::Starting, "the guest is being started");
                self.unlocked(stage, guest)?;
                self.takes_turn_with_guest(guest)?;
                return Err(self.run(stage, format!("start {what}"), vec![], calls::start(&guest.at)));
            }
            _ => {}
        }
        if let Some(value) = &self.desired.life.restarted_at
            && self.status.restarted_at.as_ref() != Some(value)
        {
            if guest.running && self.desired.life.form == Form::Guest {
                let announce = vec![Announce::Restart(value.clone(), self.start(guest, false))];
                return Err(self.restart_as_asked(guest, announce));
            }
            let announce = vec![Announce::Restart(value.clone(), None)];
            return Err(self.run(stage, "note the restart annotation", announce, Effect::Record));
        }
        self.restart_owed(guest)?;
        if guest.running {
            self.ok(stage, format!("{what} runs"));
        } else {
            self.condition(stage.as_str(), false, Reason::Stopped, format!("{what} is stopped"));
        }
        Ok(())
    }

    /// A clean stop with a hard one after the deadline (facts D.8).
    pub fn shutdown(&mut self, stage: Stage, guest: &Guest) -> Next {
        let action = format!("shut {} down", guest.named());
        self.run(stage, action, vec![], calls::shutdown(&guest.at))
    }
}

/// The stages that have nothing to do for an object: their conditions would be of things that are not there.
pub(crate) fn absent(desired: &Desired, status: &GuestStatus) -> Vec<Stage> {
    let stopped = desired.life.power == PowerState::Stopped;
    let volumes = match &desired.guest {
        WantedGuest::Lxc(lxc) => {
            let wanted = !desired.volumes().is_empty() || lxc.binds.as_ref().is_some_and(|b| !b.is_empty());
            wanted || status.volumes.as_ref().is_some_and(|v| !v.is_empty())
        }
        WantedGuest::Vm(_) => true,
    };
    let there = |stage: &Stage| match stage {
        Stage::VolumesReady => volumes,
        Stage::FeaturesApplied => desired.runs(&[ScriptRole::Feature]),
        Stage::ApplicationReady => desired.runs(&[ScriptRole::ModelServer, ScriptRole::Application]),
        Stage::TestsPassed => desired.runs(&[ScriptRole::Test]),
        Stage::Healthy => desired.is_probed() && !stopped,
        _ => true,
    };
    Stage::ALL.into_iter().filter(|stage| !there(stage)).collect()
}

fn source_words(source: &Source, image: Option<String>) -> String {
    match source {
        Source::Clone { template, .. } => template.clone(),
        other => {
            let name = match other {
                Source::Download { filename, .. } => filename.clone(),
                _ => image.unwrap_or_default(),
            };
            let file = name.rsplit('/').next().unwrap_or_default();
            let file = file.split('_').next().unwrap_or_default();
            let image = [".qcow2", ".img", ".raw", ".vmdk"];
            let stem = image.iter().find_map(|end| file.strip_suffix(end));
            stem.unwrap_or(file).to_string()
        }
    }
}
