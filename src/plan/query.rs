//! What the plan asks to be looked at.

use crate::observed::ProbeKind;
use crate::pve::{GuestRef, GuestType, Vmid};

/// A read that the plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Name, nodes and quorum of the Proxmox cluster that answers.
    Cluster {
        /// Whether an answer of a moment ago will not do: something final hangs on it.
        anew: bool,
    },
    /// Which of these guests carry this object's stamp.
    Stamped {
        /// The guests; `None`: all of the cluster, as it lists them now, but those that other objects have.
        among: Option<Vec<GuestRef>>,
        /// Whether stamps that were read a moment ago will not do: something final hangs on it.
        anew: bool,
    },
    /// Guests whose volumes another guest holds.
    Lenders {
        /// Them.
        among: Vec<GuestRef>,
    },
    /// Which container of no object's has a volume among its mount points.
    Holder {
        /// The volume.
        volid: String,
        /// The object's own container.
        but: Option<Vmid>,
    },
    /// Volumes of other guests that objects were given.
    Borrowed,
    /// A volume that exists, and which containers have it.
    Volume {
        /// Node.
        node: String,
        /// Volume id.
        volid: String,
        /// The guest that it belongs to.
        of: Option<Vmid>,
        /// Containers that may have it.
        among: Vec<GuestRef>,
    },
    /// Whether a vmid can be used for a new guest.
    VmidFree {
        /// The id.
        vmid: Vmid,
        /// Node whose storages are searched for left volumes; `None` skips the search (deletion).
        volumes_on: Option<String>,
    },
    /// Configuration, state and pending changes of the guest.
    Guest {
        /// The id.
        vmid: Vmid,
        /// Container or machine.
        sort: GuestType,
        /// Node that it was last on; the cluster's row wins.
        node: Option<String>,
        /// Whether its snapshots are read, too.
        snapshots: bool,
    },
    /// Whether a create or clone task for the vmid runs.
    Creating {
        /// The id that is created.
        vmid: Vmid,
        /// Source of a clone (facts B.4: a clone task carries the source's id).
        source: Option<Vmid>,
        /// Node.
        node: String,
    },
    /// Configuration of the template's guest.
    Parent(GuestRef),
    /// The guest of an earlier revision, and what rests on its volumes.
    OldRevision(GuestRef),
    /// Whether an image is on its storage, and what else is there.
    Image {
        /// Node.
        node: String,
        /// Volume id.
        volid: String,
        /// Whether the appliance index is asked for, too, where the file may be another than it says.
        index: bool,
    },
    /// Records of scripts in the guest.
    Scripts {
        /// The guest.
        at: GuestRef,
        /// Record ids.
        ids: Vec<String>,
    },
    /// What a machine's guest agent says.
    Agent {
        /// The machine.
        at: GuestRef,
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
        /// The machine.
        at: GuestRef,
        /// Whether the password hash is asked for.
        password: bool,
    },
    /// Firewall of the guest.
    Firewall(GuestRef),
    /// Owner containers of the whole cluster.
    Owners {
        /// Id range, both ends included: where they are made today.
        ids: (Vmid, Vmid),
    },
    /// The id range of owner containers: what in it is hidden, and what is free for a new one.
    OwnerRange {
        /// Id range, both ends included.
        ids: (Vmid, Vmid),
        /// Where a new owner is to be made: its node, whose storages are searched for left volumes of the id.
        node: Option<String>,
    },
    /// Every section of a guest's configuration.
    Sections(GuestRef),
    /// The graphics cards that the object is given on a node.
    Cards {
        /// Node of the guest.
        node: String,
    },
    /// Whether a model server may start on cards of a node: one at a time.
    CardTurn {
        /// Node of the guest.
        node: String,
        /// PCI addresses of its cards.
        cards: Vec<String>,
    },
    /// Probes, all at once.
    Probes {
        /// The guest.
        at: GuestRef,
        /// The probes.
        probes: Vec<ProbeRequest>,
    },
}

/// A probe to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// What it is for.
    pub kind: ProbeKind,
    /// Process of the guest that is asked, where it is known: an answer of an earlier one is not taken for its own.
    pub pid: Option<i64>,
    /// Program and arguments to run in the guest.
    pub command: Vec<String>,
    /// Seconds.
    pub timeout: u64,
}
