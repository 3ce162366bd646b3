//! Desired state, observed state and the time decide what to do next. Pure and deterministic: the same input gives
//! the same plan. Position comes from observation, never from status (promise 2); status only caches what a look
//! would find again, and the vmid that was announced.

mod address;
mod allow;
mod blame;
mod config;
mod create;
mod delete;
mod firewall;
mod guest;
mod health;
mod held;
mod identity;
mod images;
mod lost;
mod owners;
mod ownership;
#[cfg(test)]
mod protected;
mod reclaim;
pub mod retry;
mod revisions;
mod scripts;
mod seal;
mod sizes;
mod stop;
mod vm;
mod vm_agent;
mod vm_create;
mod vm_disks;
mod vm_options;
#[cfg(test)]
mod vm_properties;
mod volumes;

use std::collections::BTreeMap;

use crate::desired::Script;
use crate::observed::{HealthState, MaybeOurs, ProbeKind, Row};
use crate::pve::{ApiCall, GuestType, Method};

pub use blame::explain;
pub use config::TAG;
pub use delete::{Surroundings, abandoned, let_go, plan_deletion};
pub use guest::{Input, plan};
pub use owners::{OWNER_HOSTNAME, OWNER_KIND};
pub use stop::{plan_stop, wants_stop};

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Something must be looked at before more can be said; the plan is asked again with the answer.
    Look(Query),
    /// One effect.
    Run(Box<Step>),
    /// Nothing can be done now; look again after so many seconds, or when something changes.
    Wait {
        /// Documented reason.
        reason: &'static str,
        /// What is waited for.
        message: String,
        /// Seconds.
        seconds: u64,
    },
    /// Only a change by somebody helps.
    Stuck {
        /// Documented reason.
        reason: &'static str,
        /// What is wrong and how to mend it.
        message: String,
    },
    /// Everything is as wanted.
    Done,
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

/// A read that the plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Name, nodes and quorum of the Proxmox cluster that answers now.
    Cluster,
    /// Which of these guests carry this object's stamp.
    Stamped {
        /// The guests; `None`: all of the cluster, as it lists them now, but those that other objects have.
        among: Option<Vec<MaybeOurs>>,
    },
    /// Guests whose volumes another guest holds.
    Lenders {
        /// Them.
        among: Vec<MaybeOurs>,
    },
    /// Which container of no object's, on the node, has a volume among its mount points.
    Holder {
        /// The volume.
        volid: String,
        /// Node.
        node: String,
        /// The object's own container.
        but: Option<i64>,
    },
    /// Whether a vmid can be used for a new guest.
    VmidFree {
        /// The id.
        vmid: i64,
        /// Node whose storages are searched for left volumes; `None` skips the search (deletion).
        volumes_on: Option<String>,
    },
    /// Configuration, state, pending changes and snapshots of the guest.
    Guest {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node that it was last on; the cluster's row wins.
        node: Option<String>,
    },
    /// Whether a create or clone task for the vmid runs.
    Creating {
        /// The id that is created.
        vmid: i64,
        /// Source of a clone (facts B.4: a clone task carries the source's id).
        source: Option<i64>,
        /// Node.
        node: String,
    },
    /// Configuration of the template's guest.
    Parent {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
    },
    /// The guest of an earlier revision, and what rests on its volumes.
    OldRevision {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
    },
    /// Whether an image is on its storage.
    Image {
        /// Node.
        node: String,
        /// Volume id.
        volid: String,
        /// Name in the appliance index, where the image is of it.
        appliance: Option<String>,
    },
    /// Records of scripts in the guest.
    Scripts {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
        /// Record ids.
        ids: Vec<String>,
    },
    /// What a machine's guest agent says.
    Agent {
        /// The id.
        vmid: i64,
        /// Node.
        node: String,
        /// Whether to ask if cloud-init is through.
        cloud_init: bool,
    },
    /// Whether a snippet is on its storage.
    Snippet {
        /// Node.
        node: String,
        /// Volume id of the snippet.
        volid: String,
    },
    /// What a machine's cloud-init drive still lacks, and its password hash.
    CloudInit {
        /// The id.
        vmid: i64,
        /// Node.
        node: String,
        /// Whether the password hash is asked for.
        password: bool,
    },
    /// Firewall of the guest.
    Firewall {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
    },
    /// Owner containers of the whole cluster.
    Owners {
        /// Id range, both ends included: where they are made today.
        ids: (i64, i64),
    },
    /// The id range of owner containers: what in it is hidden, and what is free for a new one.
    OwnerRange {
        /// Id range, both ends included.
        ids: (i64, i64),
        /// Where a new owner is to be made: its node, whose storages are searched for left volumes of the id.
        node: Option<String>,
    },
    /// Every section of a guest's configuration.
    Sections {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
    },
    /// Probes, all at once.
    Probes {
        /// The id.
        vmid: i64,
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
        /// The probes.
        probes: Vec<ProbeRequest>,
    },
}

/// A probe to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// What it is for.
    pub kind: ProbeKind,
    /// Program and arguments to run in the guest.
    pub command: Vec<String>,
    /// Seconds.
    pub timeout: u64,
}

/// One effect, with every value that it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it does, in words for people ("create container 950").
    pub action: String,
    /// Condition that it works on.
    pub stage: Stage,
    /// What has to be in status before the effect (write-ahead, promise 1).
    pub announce: Vec<Announce>,
    /// The effect.
    pub effect: Effect,
    /// Sort of work whose failures are counted apart from those of everything else ([`retry`]).
    pub apart: Option<String>,
}

/// What is written to status before an effect leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announce {
    /// The vmid is this object's, on this node.
    Vmid {
        /// The id.
        vmid: i64,
        /// Node.
        node: String,
        /// Whether the guest existed before.
        adopted: bool,
    },
    /// The vmid is not this object's after all (promise 1: already exists, and not ours).
    NoVmid,
    /// The guest with a configuration of this digest is about to get the object's stamp.
    Claim(String),
    /// The restamp annotation with this value is about to be carried out.
    Restamped(String),
    /// The guest carries the object's stamp, while the restamp annotation has this value.
    Owned(Option<String>),
    /// The creating call is about to leave.
    CreateSent,
    /// The guest is one of an earlier revision of the template; the object's own one is another.
    Superseded(crate::crd::RevisionStatus),
    /// The guest of an earlier revision is gone, or not ours any more.
    RevisionGone(i64),
    /// The object is being deleted: the guest of its last earlier revision is its guest now.
    TakeUpRevision,
    /// A restart for this value of the annotation is about to be asked for.
    Restart(String),
    /// A restart because of a probe is about to be asked for.
    HealthRestart(crate::crd::RestartStatus),
    /// The lines are Phoenix's own.
    RawLines(Vec<String>),
    /// A volume is about to be attached: a new one of the guest's own has no volume id yet.
    Volume(crate::crd::VolumeStatus),
    /// A recorded volume gets another name.
    VolumeNamed {
        /// Its volume id.
        volid: String,
        /// The name.
        name: String,
    },
    /// The cloud-init drive is about to be written anew, while the machine runs with this process id.
    CloudInitWritten(i64),
    /// The snippet is the machine's, or none is any more.
    Snippet(Option<String>),
}

/// How hard an effect hits the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impact {
    /// The guest goes on.
    Live,
    /// The guest restarts or stops.
    Restart,
    /// A guest is made.
    Create,
    /// The guest goes.
    Destroy,
}

impl Step {
    /// How hard the step hits the guest.
    pub fn impact(&self) -> Impact {
        let path = match &self.effect {
            Effect::Call(call) | Effect::Task(call) => call.path.as_str(),
            _ => return Impact::Live,
        };
        let restarts = ["/status/shutdown", "/status/reboot", "/status/stop", "/template"];
        let creates = path.ends_with("/lxc") || path.ends_with("/qemu") || path.ends_with("/clone");
        let destroys = matches!(&self.effect, Effect::Task(call) if call.method == Method::Delete);
        if creates {
            Impact::Create
        } else if destroys {
            Impact::Destroy
        } else if restarts.iter().any(|end| path.ends_with(end)) {
            Impact::Restart
        } else {
            Impact::Live
        }
    }
}

/// The kinds of effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Only the announcement.
    Record,
    /// A call that ends with its answer.
    Call(ApiCall),
    /// A call that answers with a task.
    Task(ApiCall),
    /// `pct set` or `qm set` over SSH, for options that the token may not set.
    SetOnNode {
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
        /// The id.
        vmid: i64,
        /// Options to set.
        set: Vec<(String, String)>,
        /// Options to delete.
        delete: Vec<String>,
        /// Digest of the read that showed our stamp.
        digest: String,
    },
    /// Raw `lxc.` lines, by the script on the node (design §4).
    RawLines {
        /// Node.
        node: String,
        /// The id.
        vmid: i64,
        /// Lines to add.
        add: Vec<String>,
        /// Lines to remove.
        remove: Vec<String>,
        /// Digest of the read that showed our stamp.
        digest: String,
    },
    /// Write cloud-init's vendor-data as a snippet, over SSH.
    Snippet {
        /// Node.
        node: String,
        /// Volume id of the snippet.
        volid: String,
        /// What goes into it.
        vendor: Box<crate::desired::WantedVendor>,
    },
    /// Remove a snippet that no machine uses any more, over SSH.
    RemoveSnippet {
        /// Node.
        node: String,
        /// Volume id of the snippet.
        volid: String,
    },
    /// Start a script in the guest, detached.
    Script {
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
        /// The id.
        vmid: i64,
        /// The script.
        script: Box<Script>,
        /// How often it has been started with this hash, this time included: one attempt never runs twice.
        attempt: i64,
    },
    /// Restart a systemd unit in the guest.
    RestartUnit {
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
        /// The id.
        vmid: i64,
        /// The unit.
        unit: String,
    },
    /// Ask a script in the guest to end.
    CancelScript {
        /// Container or machine.
        type_: GuestType,
        /// Node.
        node: String,
        /// The id.
        vmid: i64,
        /// Id of the script's record.
        id: String,
        /// Hash that it was started with.
        hash: String,
    },
    /// Let the object go.
    RemoveFinalizer {
        /// Whether a guest that may have been the object's is left on Proxmox.
        leaves: bool,
    },
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
    /// Documented reason.
    pub reason: &'static str,
    /// Words for people.
    pub message: String,
}

/// What the plan learnt about the guest for status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The guest is to be stopped.
    pub stopped: bool,
    /// Node.
    pub node: Option<String>,
    /// First address.
    pub ip: Option<String>,
    /// GPU indices.
    pub gpus: Option<String>,
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
    /// Hash of the cleaning script that ran in a template.
    pub cleaned: Option<String>,
    /// Test records.
    pub tests: Option<Vec<crate::crd::ScriptStatus>>,
    /// Volumes.
    pub volumes: Option<Vec<crate::crd::VolumeStatus>>,
    /// Size of the root filesystem, in GiB, that the spec asked for and that is there.
    pub rootfs_gib: Option<i64>,
    /// What the probes said, this reconcile's answers included.
    pub health_state: Option<HealthState>,
    /// Milliseconds of the engine's clock until the next probe is due.
    pub probe_due: Option<i64>,
    /// Health in one word.
    pub health: Option<String>,
    /// Seconds until a full look is due although everything is as wanted.
    pub look_again: Option<i64>,
    /// Row of the guest at the time of a full look that found everything as wanted.
    pub verified: Option<Option<Row>>,
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
    /// Preview only: the steps that would be done.
    pub steps: Vec<Step>,
}
