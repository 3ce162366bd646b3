//! The end of a template's build: a clean shutdown, then a snapshot, or the conversion to a Proxmox template.

use std::collections::BTreeMap;

use crate::desired::Form;
use crate::observed::Guest;
use crate::plan::calls;
use crate::pve::GuestType;
use crate::reason::Reason;

use super::planner::Planner;
use super::{Next, Query, Stage};

const MARK: &str = "phoenix revision=";

impl Planner<'_> {
    /// Whether the template is finished: its snapshot or base is there. One whose content changed since is kept, and a
    /// new revision is built beside it.
    pub(crate) fn sealed(&mut self, guest: &Guest) -> Result<bool, Next> {
        self.same_form(guest)?;
        self.can_be_converted(guest)?;
        let built = match &self.desired.life.form {
            Form::Guest => return Ok(false),
            Form::Snapshot(name) => match guest.snapshots.iter().flatten().find(|(n, _)| *n == name) {
                None => return Ok(false),
                Some((_, description)) => description.trim().strip_prefix(MARK).map(str::to_string),
            },
            Form::Template if guest.is_template() => {
                self.converted(guest)?;
                guest.stamp().and_then(|s| s.revision)
            }
            Form::Template => return Ok(false),
        };
        if let Some(built) = built.filter(|b| *b != self.desired.prints.revision) {
            self.facts.revision = Some(built.clone());
            return Err(self.supersede(&guest.at, built));
        }
        Ok(true)
    }

    /// Proxmox converts no guest with snapshots (facts D.10): it is not started and built for that. Whoever takes a template
    /// of the legacy managers over has one.
    fn can_be_converted(&mut self, guest: &Guest) -> Result<(), Next> {
        let snapshots: Vec<&str> = guest
            .snapshots
            .iter()
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
            .collect();
        if self.desired.life.form != Form::Template || guest.is_template() || snapshots.is_empty() {
            return Ok(());
        }
        let message = format!(
            "spec.form: {} has snapshots ({}), and Proxmox makes no template of such a guest: set form: Snapshot and snapshotName: {}, or remove them",
            guest.named(),
            snapshots.join(", "),
            snapshots[0]
        );
        Err(self.stuck(Stage::SnapshotReady, Reason::InvalidSpec, message))
    }

    /// A finished template does not change its form: Proxmox converts no guest with snapshots, and starts no template.
    fn same_form(&mut self, guest: &Guest) -> Result<(), Next> {
        let marked = || {
            let marks = guest.snapshots.iter().flat_map(BTreeMap::values);
            marks
                .filter_map(|d| d.trim().strip_prefix(MARK))
                .next()
                .map(str::to_string)
        };
        let (built, form) = match &self.desired.life.form {
            Form::Template if !guest.is_template() => (marked(), "Snapshot"),
            Form::Snapshot(_) if guest.is_template() => (guest.stamp().and_then(|s| s.revision), "Template"),
            _ => (None, ""),
        };
        let Some(built) = built else { return Ok(()) };
        if built != self.desired.prints.revision {
            self.facts.revision = Some(built.clone());
            return Err(self.supersede(&guest.at, built));
        }
        let message = format!(
            "spec.form: {} was built with form {form}, which cannot change: set it back, or have a new revision built in the new form with a new value of the annotation {}",
            guest.named(),
            crate::crd::REBUILD
        );
        Err(self.stuck(Stage::SnapshotReady, Reason::InvalidSpec, message))
    }

    /// A machine is a template before its disks are converted (facts F.7); clones have to wait for these.
    fn converted(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let disks = super::vm::drives::of_template(&guest.options);
        let base = |volid: &str| volid.rsplit(['/', ':']).next().unwrap_or_default().starts_with("base-");
        let waiting = disks.iter().find(|(_, d)| !base(d.get("file").unwrap_or_default()));
        let Some((place, _)) = waiting.filter(|_| guest.at.sort == GuestType::Qemu) else {
            return Ok(());
        };
        let stage = Stage::SnapshotReady;
        match self.observed.creating {
            None => Err(Next::Look(Query::Creating {
                vmid,
                source: None,
                node: guest.at.node.clone(),
            })),
            Some(true) => Err(self.wait(stage, Reason::CreateRunning, format!("VM {vmid} is being converted"), 2)),
            Some(false) => {
                // A conversion that was cut off goes on disk by disk; of the whole machine Proxmox refuses a second one.
                self.unlocked(stage, guest)?;
                let action = format!("convert disk {place} of template {vmid}");
                Err(self.run(stage, action, vec![], calls::make_template(&guest.at, Some(place))))
            }
        }
    }

    /// A finished template stays stopped.
    pub(crate) fn stay_sealed(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        if guest.running {
            self.unlocked(Stage::SnapshotReady, guest)?;
            return Err(self.shutdown(Stage::SnapshotReady, guest));
        }
        self.facts.revision = Some(self.desired.prints.revision.clone());
        self.facts.features = self.status.features.clone();
        self.facts.tests = self.status.tests.clone();
        self.facts.application = self.status.application.clone();
        self.facts.vllm = self.status.vllm.clone();
        self.facts.model_server = self.status.model_server.clone();
        let running = Stage::Running.as_str();
        self.condition(
            running,
            false,
            Reason::Stopped,
            "a template is stopped once it is built",
        );
        for stage in [Stage::FeaturesApplied, Stage::ApplicationReady] {
            if !self.facts.absent.contains(&stage) {
                self.ok(stage, "the template is built");
            }
        }
        let old_tests = self
            .status
            .conditions
            .iter()
            .find(|c| c.type_ == Stage::TestsPassed.as_str());
        match old_tests.filter(|c| c.status == "False") {
            Some(condition) => {
                let message = condition.message.clone();
                self.condition(Stage::TestsPassed.as_str(), false, Reason::TestFailed, message);
            }
            None if self.facts.absent.contains(&Stage::TestsPassed) => {}
            None => self.ok(Stage::TestsPassed, "the template is built"),
        }
        self.ok(Stage::SnapshotReady, "the template can be cloned");
        self.lineage(guest);
        self.remove_old_revisions()?;
        self.facts.verified = Some(self.observed.cluster.guests.get(&vmid).cloned());
        Ok(())
    }

    /// Shuts the built guest down and takes the snapshot, or converts it.
    pub(crate) fn seal(&mut self, guest: &Guest) -> Result<(), Next> {
        let vmid = guest.at.vmid;
        let what = guest.named();
        let stage = Stage::SnapshotReady;
        self.unlocked(stage, guest)?;
        if guest.running {
            return Err(self.shutdown(stage, guest));
        }
        match &self.desired.life.form {
            Form::Guest => Ok(()),
            Form::Snapshot(name) => {
                let description = format!("{MARK}{}", self.desired.prints.revision);
                let action = format!("take snapshot {name} of template {vmid}");
                Err(self.run(stage, action, vec![], calls::snapshot(&guest.at, name, description)))
            }
            Form::Template if guest.at.sort == GuestType::Qemu => {
                let action = format!("convert {what} to a template");
                Err(self.run(stage, action, vec![], calls::make_template(&guest.at, None)))
            }
            Form::Template => match self.observed.creating {
                None => Err(Next::Look(Query::Creating {
                    vmid,
                    source: None,
                    node: guest.at.node.clone(),
                })),
                Some(true) => Err(self.wait(stage, Reason::CreateRunning, format!("{what} is being converted"), 2)),
                Some(false) => {
                    let action = format!("convert {what} to a template");
                    Err(self.run(stage, action, vec![], calls::make_template(&guest.at, None)))
                }
            },
        }
    }
}
