//! What the plan asks to be looked at.

use crate::observed::{MaybeOurs, ProbeKind};
use crate::pve::GuestType;

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
    /// Which container of no object's has a volume among its mount points.
    Holder {
        /// The volume.
        volid: String,
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
