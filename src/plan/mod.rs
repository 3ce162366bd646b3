//! Desired state, observed state and the time decide what to do next. Pure and deterministic: the same input gives
//! the same plan. Position comes from observation, never from status (promise 2); status only caches what a look
//! would find again, and the vmid that was announced.

mod address;
mod allow;
pub mod announced;
mod blame;
mod calls;
pub mod cards;
mod change;
mod conflicts;
mod create;
mod delete;
mod firewall;
pub mod fits;
mod forecast;
mod full;
mod guest;
mod health;
mod held;
mod identity;
mod images;
mod lost;
mod lxc;
mod missing;
mod options;
mod ownership;
mod paused;
mod planner;
mod pool;
mod proof;
#[cfg(test)]
mod protected;
mod query;
mod recreate;
pub mod retry;
mod revisions;
mod scripts;
mod seal;
mod sizes;
mod start;
mod step;
mod stop;
mod told;
mod vm;

use crate::observed::{FirewallPart, GuestRead, HealthState, Kept, Observed, ResourceRow};
use crate::reason::{Cause, Reason};
use std::collections::BTreeSet;

pub use crate::desired::OWNER_HOSTNAME;
pub use blame::explain;
pub use delete::{Surroundings, abandoned, let_go, plan_deletion};
pub(crate) use forecast::Forecast;
pub(crate) use guest::absent;
pub use guest::plan;
pub use lxc::OWNER_KIND;
pub use missing::{Place, lacks_gpu};
pub use options::TAG;
pub use paused::{paused_by, pauses};
pub use planner::Input;
pub use query::{ProbeRequest, Query};
pub use recreate::{plan_recreation, wants_recreation};
pub use scripts::end_words;
pub use step::{Announce, Download, Effect, GuestWork, Impact, NodeWork, Step};
pub use stop::{plan_stop, wants_stop};
pub use told::{done, is_for_a_probe, told};

/// Seconds after which who waits to be woken looks again by itself.
pub const WOKEN: u64 = 300;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Something must be looked at before more can be said; the plan is asked again with the answer.
    Look(Query),
    /// One effect.
    Run(Box<Step>),
    /// Nothing can be done now; look again after so many seconds, or when something changes.
    Wait {
        /// What is waited for.
        cause: Cause,
        /// Seconds.
        seconds: u64,
    },
    /// Only a change by somebody helps: what is wrong and how to mend it.
    Stuck(Cause),
    /// Everything is as wanted.
    Done,
}

impl Plan {
    /// What the step leaves of what was looked at, for the step that follows at once. A guest's firewall is apart from its
    /// configuration, each of the firewall's lists has a digest of its own (facts D.12), and a configuration that is written
    /// starts no guest.
    pub fn leaves(&self, observed: &Observed) -> Kept {
        let Next::Run(step) = &self.next else {
            return Kept::default();
        };
        let Effect::Call { call, .. } = &step.effect else {
            return Kept::default();
        };
        if call.path.ends_with("/config") {
            let stopped = matches!(&observed.guest, Some(GuestRead::Present(guest)) if !guest.running);
            return Kept {
                stopped,
                ..Kept::default()
            };
        }
        if !call.path.contains("/firewall/") {
            return Kept::default();
        }
        let state = observed.firewall.as_ref().and_then(|read| read.as_ref().ok()).cloned();
        let changed = match call.path.contains("/firewall/rules") {
            true => FirewallPart::Rules,
            false => FirewallPart::Options,
        };
        Kept {
            guest: observed.guest.clone(),
            firewall: state.map(|state| (state, changed)),
            ..Kept::default()
        }
    }

    /// The same, waiting for something before the step that would be next.
    #[must_use]
    pub fn held_up(mut self, cause: Cause, seconds: u64) -> Plan {
        if let Next::Run(step) = &self.next {
            // That an object goes is still so while it waits.
            let goes = [Reason::Deleting, Reason::Recreating];
            let of_step = self.findings.iter_mut().filter(|f| f.condition == step.stage.as_str());
            let of_step = of_step.filter(|f| !goes.contains(&f.cause.reason));
            of_step.for_each(|finding| finding.cause = cause.clone());
        }
        self.next = Next::Wait { cause, seconds };
        self
    }
}

impl Next {
    /// The same, with the failures of a step counted under a name of its own ([`retry`]).
    #[must_use]
    pub(crate) fn apart(self, name: &str) -> Next {
        match self {
            Next::Run(step) => Next::Run(Box::new(Step {
                apart: Some(name.to_string()),
                ..*step
            })),
            next => next,
        }
    }
}

/// Parts of the work, in order; each is a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Dependencies and template are Ready.
    DependenciesReady,
    /// The guest exists and is ours.
    Created,
    /// Its options are as wanted.
    Configured,
    /// Its volumes and mounts are attached.
    VolumesReady,
    /// Its GPUs are there.
    GPUReady,
    /// It runs, or is stopped as wanted.
    Running,
    /// Its features are installed.
    FeaturesApplied,
    /// Its application script ran and vLLM is set up.
    ApplicationReady,
    /// The user's tests passed.
    TestsPassed,
    /// The probes say that it works.
    Healthy,
    /// A template's snapshot or base is there.
    SnapshotReady,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 11] = [
        Stage::DependenciesReady,
        Stage::Created,
        Stage::Configured,
        Stage::VolumesReady,
        Stage::GPUReady,
        Stage::Running,
        Stage::FeaturesApplied,
        Stage::ApplicationReady,
        Stage::TestsPassed,
        Stage::Healthy,
        Stage::SnapshotReady,
    ];

    /// Name of the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::DependenciesReady => "DependenciesReady",
            Stage::Created => "Created",
            Stage::Configured => "Configured",
            Stage::VolumesReady => "VolumesReady",
            Stage::GPUReady => "GPUReady",
            Stage::Running => "Running",
            Stage::FeaturesApplied => "FeaturesApplied",
            Stage::ApplicationReady => "ApplicationReady",
            Stage::TestsPassed => "TestsPassed",
            Stage::Healthy => "Healthy",
            Stage::SnapshotReady => "SnapshotReady",
        }
    }
}

/// A condition that the plan found to hold or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Condition type.
    pub condition: &'static str,
    /// Whether it holds; `None` is Unknown.
    pub holds: Option<bool>,
    /// Why.
    pub cause: Cause,
}

/// What the plan learnt about the guest for status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// What the spec sets on the guest, by name ([`crate::desired::managed`]).
    pub managed: Option<BTreeSet<String>>,
    /// Fields of the spec that somebody changed on Proxmox.
    pub drift: BTreeSet<&'static str>,
    /// The guest is to be stopped.
    pub stopped: bool,
    /// By which annotation the object is paused.
    pub paused: Option<String>,
    /// Stages that have nothing to do for this object: no tests to pass, no probe to ask.
    pub absent: Vec<Stage>,
    /// Node.
    pub node: Option<String>,
    /// Address of the guest's own interface.
    pub ip: Option<String>,
    /// GPU indices.
    pub gpus: Option<String>,
    /// What the CUDA proof said.
    pub gpu_proof: Option<String>,
    /// GPUs that it was given.
    pub gpu_devices: Option<Vec<crate::crd::GivenGpu>>,
    /// What it was made from, for people.
    pub source: Option<String>,
    /// Volume id of the image that it was made of.
    pub image: Option<String>,
    /// Revision of a template.
    pub revision: Option<String>,
    /// Revision of the template that the guest was cloned from.
    pub template_revision: Option<String>,
    /// Feature records.
    pub features: Option<Vec<crate::crd::ScriptStatus>>,
    /// Application record.
    pub application: Option<crate::crd::ScriptStatus>,
    /// vLLM record.
    pub vllm: Option<crate::crd::ScriptStatus>,
    /// Record of another model server.
    pub model_server: Option<crate::crd::ScriptStatus>,
    /// Hash of the cleaning script that ran in a template.
    pub cleaned: Option<String>,
    /// Test records.
    pub tests: Option<Vec<crate::crd::ScriptStatus>>,
    /// Volumes.
    pub volumes: Option<Vec<crate::crd::VolumeStatus>>,
    /// Size of the root filesystem that the spec asked for and that is there.
    pub rootfs_size: Option<crate::pve::DiskSize>,
    /// What the probes said, this reconcile's answers included.
    pub health_state: Option<HealthState>,
    /// Milliseconds of the engine's clock until the next probe is due.
    pub probe_due: Option<i64>,
    /// Health in one word.
    pub health: Option<String>,
    /// The start that it speaks of.
    pub started: Option<crate::crd::StartStatus>,
    /// The restart that the annotation asked for is over.
    pub restarted: bool,
    /// Seconds until a full look is due although everything is as wanted.
    pub look_again: Option<i64>,
    /// ResourceRow of the guest at the time of a full look that found everything as wanted.
    pub verified: Option<Option<ResourceRow>>,
}

/// A plan: what to do next, and what was found on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What to do next.
    pub next: Next,
    /// Conditions found.
    pub findings: Vec<Finding>,
    /// Facts for status.
    pub facts: Facts,
    /// Only part was looked at, because nothing seems to have changed: what was found before still holds.
    pub partial: bool,
}
