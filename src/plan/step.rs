//! One step with every value that its execution needs: what is written to status before it, and its effect.

use crate::crd::StartStatus;
use crate::desired::{Script, WantedVendor};
use crate::observed::Guest;
use crate::pve::{ApiCall, GuestRef, Vmid};

use super::Stage;

/// A download of an image. What somebody else fetches from elsewhere under the same name holds nobody up: Proxmox gives
/// a file its name only once its checksum is right.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Download {
    /// Node that it is downloaded on.
    pub node: String,
    /// Volume id of the image.
    pub volid: String,
    /// Where it comes from; empty for the appliance index.
    pub from: String,
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
        vmid: Vmid,
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
    /// The image that a name means which leaves the build open.
    Image {
        /// The name as it is written ([`crate::plan::images`]).
        wanted: String,
        /// The file's name.
        name: String,
    },
    /// The creating call is about to leave.
    CreateSent,
    /// The guest is one of an earlier revision of the template; the object's own one is another.
    Superseded(crate::crd::RevisionStatus),
    /// The guest of an earlier revision is gone, or not ours any more.
    RevisionGone(Vmid),
    /// The object is being deleted: the guest of its last earlier revision is its guest now.
    TakeUpRevision,
    /// The guest is gone, and a new one is made, as this value of the annotation asks.
    Recreated(String),
    /// A restart for this value of the annotation is about to be asked for.
    Restart(String, Option<StartStatus>),
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
        match &self.effect {
            Effect::Call { impact, .. } | Effect::Task { impact, .. } => *impact,
            _ => Impact::Live,
        }
    }
}

impl Effect {
    /// A call that ends with its answer; the guest goes on.
    pub fn call(call: ApiCall) -> Effect {
        Effect::Call {
            call,
            impact: Impact::Live,
            refresh: false,
        }
    }

    /// A call that answers with a task on the node; the guest goes on.
    pub fn task(node: &str, call: ApiCall) -> Effect {
        Effect::Task {
            call,
            node: node.to_string(),
            impact: Impact::Live,
            downloads: None,
        }
    }

    /// Work in a guest.
    pub(crate) fn in_guest(guest: &Guest, work: GuestWork) -> Effect {
        let at = guest.at.clone();
        Effect::InGuest { at, work }
    }

    /// The same, hitting the guest as hard as this.
    #[must_use]
    pub(crate) fn with(mut self, hard: Impact) -> Effect {
        if let Effect::Call { impact, .. } | Effect::Task { impact, .. } = &mut self {
            *impact = hard;
        }
        self
    }

    /// The same, with a new look at the cluster's list afterwards, where alone the result is.
    #[must_use]
    pub(crate) fn refreshing(mut self) -> Effect {
        if let Effect::Call { refresh, .. } = &mut self {
            *refresh = true;
        }
        self
    }

    /// The same, as a download of this image from this URL (empty: of the appliance index).
    #[must_use]
    pub(crate) fn downloading(mut self, volid: impl Into<String>, from: impl Into<String>) -> Effect {
        if let Effect::Task { node, downloads, .. } = &mut self {
            *downloads = Some(Download {
                node: node.clone(),
                volid: volid.into(),
                from: from.into(),
            });
        }
        self
    }
}

/// The kinds of effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Only the announcement.
    Record,
    /// A call that ends with its answer.
    Call {
        /// The call.
        call: ApiCall,
        /// How hard it hits the guest.
        impact: Impact,
        /// Whether the cluster's list is to be read anew afterwards.
        refresh: bool,
    },
    /// A call that answers with a task.
    Task {
        /// The call.
        call: ApiCall,
        /// Node that the task runs on, which has places for so many.
        node: String,
        /// How hard it hits the guest.
        impact: Impact,
        /// The image that it downloads: one that somebody downloads already is waited for.
        downloads: Option<Download>,
    },
    /// Work on a node, over SSH.
    OnNode {
        /// The node.
        node: String,
        /// What is done there.
        work: NodeWork,
    },
    /// Work in a guest that runs.
    InGuest {
        /// The guest.
        at: GuestRef,
        /// What is done in it.
        work: GuestWork,
    },
    /// Let the object go.
    RemoveFinalizer {
        /// Whether a guest that may have been the object's is left on Proxmox.
        leaves: bool,
    },
}

/// What is done on a node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeWork {
    /// `pct set` or `qm set`, for options that the token may not set.
    SetOptions {
        /// The guest, which is on this node.
        at: GuestRef,
        /// Options to set.
        set: Vec<(String, String)>,
        /// Options to delete.
        delete: Vec<String>,
        /// Digest of the read that showed our stamp.
        digest: String,
    },
    /// Raw `lxc.` lines of a container, by the script on the node.
    RawLines {
        /// The container, which is on this node.
        vmid: Vmid,
        /// Lines to add.
        add: Vec<String>,
        /// Lines to remove.
        remove: Vec<String>,
        /// Digest of the read that showed our stamp.
        digest: String,
    },
    /// Load NVIDIA's modules and make the device nodes of its cards.
    GpuNodes {
        /// Numbers of the cards' device nodes.
        minors: Vec<i64>,
    },
    /// Bind a card to a driver of the node's.
    BindCard {
        /// Its PCI address.
        address: String,
        /// The driver.
        driver: String,
    },
    /// Write cloud-init's vendor-data as a snippet.
    WriteSnippet {
        /// Volume id of the snippet.
        volid: String,
        /// What goes into it.
        vendor: Box<WantedVendor>,
    },
    /// Remove a snippet that no machine uses any more.
    RemoveSnippet {
        /// Volume id of the snippet.
        volid: String,
    },
}

/// What is done in a guest.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestWork {
    /// Start a script, detached.
    StartScript {
        /// The script.
        script: Box<Script>,
        /// How often it has been started with this hash, this time included: one attempt never runs twice.
        attempt: i64,
    },
    /// Ask a script to end.
    CancelScript {
        /// Id of the script's record.
        id: String,
        /// Hash that it was started with.
        hash: String,
    },
    /// Restart a systemd unit.
    RestartUnit {
        /// The unit.
        unit: String,
    },
}
