//! Snapshots of what Proxmox and the guests say (pure data). The plan asks for what it needs with a
//! query; what was not asked for is `None`.

mod cards;
mod guest;
mod listed;
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::crd::Health;
use crate::pve::{GuestRef, Vmid};
use crate::reason::Cause;

pub use cards::{Cards, Claim, Fault, Given, Inventory};
pub use guest::{Agent, CloudInitState, Guest};
pub use listed::{Cluster, Read, ResourceRow, StorageRow};
pub use serving::Serving;

/// What a read of a guest's configuration came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestRead {
    /// It is there.
    Present(Box<Guest>),
    /// Proxmox says that there is no such configuration, or no row names it. Proof of absence needs more
    /// (promise 5).
    NotFound,
    /// A guest of the other sort has this vmid: it.
    OtherType(GuestRef),
    /// It could not be read.
    Unreadable(Cause),
}

/// Whether a vmid can be used for a new guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdCheck {
    /// No guest has it and no volume carries it.
    Free,
    /// `nextid` refuses it.
    Taken,
    /// Volumes of a former guest carry it.
    Volumes(Vec<String>),
}

/// What the record of a script in the guest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptRecord {
    /// Hash that it was started with.
    pub hash: String,
    /// Which attempt with this hash it was, from 1.
    pub attempt: i64,
    /// Whether it still runs.
    pub running: bool,
    /// Exit code when it ended; `None` while it runs or when it was cut off.
    pub exit_code: Option<i64>,
    /// Unix time in seconds when it was started, by the guest's clock.
    pub started_at: Option<i64>,
    /// Unix time in seconds when it ended, by the guest's clock.
    pub ended_at: Option<i64>,
    /// Whether it was started since the guest's last start; `None` where that is not known.
    pub this_start: Option<bool>,
    /// How often this hash was started since the start of the guest that it belongs to.
    pub tries: i64,
    /// Whether it was asked to end: while it runs, and when it has ended because of that.
    pub cancelled: bool,
    /// Start and end of its output.
    pub output: String,
}

/// Firewall of a guest as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallState {
    /// Options.
    pub options: BTreeMap<String, String>,
    /// Rules in order.
    pub rules: Vec<BTreeMap<String, String>>,
    /// Digest of the rule list.
    pub digest: Option<String>,
}

/// The owner containers of the whole Proxmox cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// All that could be read, of any node and id mapping: whoever carries an owner's stamp, of whichever management
    /// cluster.
    pub owners: Vec<Guest>,
    /// Containers that may be owners and could not be read, and why.
    pub unreadable: Vec<(Vmid, Cause)>,
    /// Ids of the owners' range that are being created just now.
    pub creating: Vec<Vmid>,
    /// Every vmid that the cluster's list showed.
    pub listed: BTreeSet<Vmid>,
}

/// The owners' id range, looked through before something new is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerRange {
    /// Whether an id for a new owner was looked for.
    pub looked_for_free: bool,
    /// First id that a new owner could have.
    pub free: Option<Vmid>,
    /// Ids that Proxmox calls taken although no list shows them: privileges hide them.
    pub hidden: Vec<Vmid>,
}

/// What statuses of all objects of a hypervisor have recorded: hints where to look, never proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Guests of objects.
    pub guests: BTreeSet<Vmid>,
    /// Owner containers of their volumes.
    pub owners: BTreeSet<Vmid>,
}

/// One section of a guest's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Which one.
    pub of: SectionOf,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// The sections that a configuration has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SectionOf {
    /// What is in force.
    Now,
    /// What a restart makes of it.
    AfterRestart,
    /// What a snapshot holds.
    Snapshot(String),
}

/// All sections of a guest's configuration, read now: what destroying it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    /// Whose.
    pub vmid: Vmid,
    /// The one in force first.
    pub sections: Vec<Section>,
}

/// That a guest was found as wanted, and what its row looked like then. Kept in memory, never in status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Hash of the desired state.
    pub hash: String,
    /// ResourceRow of the guest.
    pub row: Option<ResourceRow>,
    /// Unix time in seconds.
    pub at: i64,
}

/// An image on its storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Whether the file is there.
    pub present: bool,
    /// Whether Proxmox compared the file with its checksum, or fetched it, since the engine began.
    pub compared: bool,
    /// Files of its content on its storage.
    pub files: Vec<String>,
    /// Names that the node's appliance index lists, and so knows the checksums of, where it was asked for. It lists only
    /// the newest build of each (facts L.5).
    pub index: Option<Vec<String>>,
}

/// A volume on its storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredVolume {
    /// Whether the storage has it.
    pub present: bool,
    /// The volumes of the same guest on its storage.
    pub beside: Vec<String>,
    /// Containers that have it among those that were asked, with the option.
    pub held: Vec<(Vmid, String)>,
    /// Those of them that are owner containers of retained volumes.
    pub owners: BTreeSet<Vmid>,
}

/// A guest with the object's stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OurGuest {
    /// Which guest.
    pub at: GuestRef,
    /// Revision in the stamp.
    pub revision: Option<String>,
    /// Whether it was adopted.
    pub adopted: bool,
}

/// The guest of an earlier revision of a template, looked at before it is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldRevision {
    /// Its configuration.
    pub read: GuestRead,
    /// Volumes that rest on its own (linked clones).
    pub linked: Vec<String>,
}

/// Whether a volume is that of a linked clone and rests on one of this guest's: it carries the other's name before its
/// own (facts G.3: `base-100-disk-0/vm-101-disk-0`, `basevol-…` of containers, `100/base-100-…/101/vm-101-…` in files).
pub fn rests_on(volid: &str, vmid: Vmid) -> bool {
    let path = volid.split_once(':').map_or(volid, |(_, path)| path);
    let Some((base, clone)) = path.split_once('/') else {
        return false;
    };
    let names = |start: &str| base.starts_with(&format!("{start}{vmid}-"));
    let in_files = base == vmid.to_string() && clone.contains('/');
    names("base-") || names("basevol-") || in_files
}

/// What a search for an object's stamp found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamped {
    /// Guests that carry it.
    pub ours: Vec<OurGuest>,
    /// Guests that a task is making: whose they are cannot be read before it is done (facts K.3.1).
    pub being_made: Vec<Vmid>,
    /// Guests with the stamp of an object of this kind, namespace and name in a management cluster that nobody names as
    /// a previous one, with that cluster's id.
    pub foreign: Vec<(Vmid, String)>,
    /// Vmids that the object adopted once, as the stamps of copies of these guests tell.
    pub adopted_once: BTreeSet<Vmid>,
}

/// A place in the queue for clones of one source (facts D.4: one at a time).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClonePlace {
    /// From 1; the first may clone.
    pub position: usize,
    /// How many wait, this one among them.
    pub of: usize,
    /// The object in front of all.
    pub first: String,
    /// The first is about to ask: whether it does is seen in a second.
    pub soon: bool,
}

/// What a probe is for, as in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Holds the others back until it succeeded once.
    Startup,
    /// Whether the guest can do its work.
    Readiness,
    /// Whether it needs a restart.
    Liveness,
}

impl ProbeKind {
    /// Name of its field.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Liveness => "liveness",
        }
    }
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// Exit code 0, with what a model server counts.
    Succeeded(Option<Serving>),
    /// Another exit code, or none in time: why.
    Failed(String),
    /// It could not be carried out, which says nothing about the guest.
    Unknown(Cause),
    /// It is still running.
    UnderWay,
}

/// Answers of one probe in a row since the guest was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// Successes in a row.
    pub successes: i64,
    /// Failures in a row.
    pub failures: i64,
    /// Attempts in a row that could not be carried out.
    pub unknown: i64,
    /// When it was last answered, in milliseconds of the engine's clock.
    pub last: Option<i64>,
    /// Why it last failed.
    pub why: String,
    /// Why it could not be carried out.
    pub failure: Option<Cause>,
}

/// What the probes said since the guest was started. It is kept in memory only: losing it costs a few more probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    /// The probes that the counts belong to.
    pub of: Health,
    /// Process of the guest that they belong to, where it is known.
    pub pid: Option<i64>,
    /// How long the guest ran when it was read last, in seconds: less is another start.
    pub uptime: Option<i64>,
    /// When the guest, or its unit, was started, in milliseconds of the engine's clock.
    pub since: i64,
    /// Whether the startup probe has succeeded.
    pub started: bool,
    /// Whether the guest was found healthy since the start.
    pub proven: bool,
    /// Whether it was found healthy last: that goes on to hold until a probe failed often enough.
    pub healthy: bool,
    /// By probe.
    pub counts: BTreeMap<ProbeKind, ProbeCounts>,
}

/// Who has a vmid: a list, or a question to whoever keeps the objects, since all that many objects have is much to copy.
#[derive(Clone, Default)]
pub struct Holders {
    listed: BTreeMap<Vmid, String>,
    asked: Option<Arc<dyn Fn(Vmid) -> Option<String> + Send + Sync>>,
}

impl Holders {
    /// Holders that are asked for.
    pub fn asked(ask: impl Fn(Vmid) -> Option<String> + Send + Sync + 'static) -> Self {
        Holders {
            listed: BTreeMap::new(),
            asked: Some(Arc::new(ask)),
        }
    }

    /// Who has the vmid.
    pub fn of(&self, vmid: Vmid) -> Option<String> {
        let ask = || self.asked.as_ref().and_then(|ask| ask(vmid));
        self.listed.get(&vmid).cloned().or_else(ask)
    }

    /// Whether anybody has the vmid.
    pub fn contains(&self, vmid: Vmid) -> bool {
        self.of(vmid).is_some()
    }
}

impl<I: Into<String>> FromIterator<(Vmid, I)> for Holders {
    fn from_iter<T: IntoIterator<Item = (Vmid, I)>>(holders: T) -> Self {
        Holders {
            listed: holders.into_iter().map(|(vmid, who)| (vmid, who.into())).collect(),
            asked: None,
        }
    }
}

impl std::fmt::Debug for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Holders").field(&self.listed).finish()
    }
}

/// All that was looked at for one reconcile.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The cluster.
    pub cluster: Cluster,
    /// Vmids that other objects have or want.
    pub reserved: Holders,
    /// Vmids that other objects have, of any namespace and kind.
    pub held: Holders,
    /// Vmids that failed the check for a new guest in this reconcile.
    pub unusable: BTreeSet<Vmid>,
    /// What the search for guests with this object's stamp found.
    pub stamped: Option<Stamped>,
    /// The vmid check that was asked for.
    pub id_check: Option<(Vmid, IdCheck)>,
    /// The guest.
    pub guest: Option<GuestRead>,
    /// The guest as it was read a moment ago, which may have changed since.
    pub before: Option<Box<Guest>>,
    /// The vmid that [`Observed::guest`] was read under.
    pub guest_of: Option<Vmid>,
    /// Guests whose volumes the guest under the vmid holds, before it is taken.
    pub lenders: Option<BTreeMap<Vmid, GuestRead>>,
    /// Whether a create or clone task for the guest's vmid runs.
    pub creating: Option<bool>,
    /// The template's guest.
    pub parent: Option<GuestRead>,
    /// Volumes that exist and are to be attached, by volume id.
    pub volumes: BTreeMap<String, Result<StoredVolume, Cause>>,
    /// Existing volumes that objects name or have attached, with the object. An object's own guest's are not among them.
    pub borrowed: Option<BTreeMap<String, String>>,
    /// The source image on its storage.
    pub images: BTreeMap<String, Result<Image, Cause>>,
    /// Records of scripts in the guest, by id.
    pub scripts: Option<Result<BTreeMap<String, ScriptRecord>, Cause>>,
    /// Firewall of the guest.
    pub firewall: Option<Result<FirewallState, Cause>>,
    /// What statuses have recorded, for the search for owner containers.
    pub recorded: Recorded,
    /// Owner containers.
    pub owners: Option<Result<Owners, Cause>>,
    /// By volume id: the container of no object's that has it, and as what.
    pub holders: BTreeMap<String, Result<Option<(Vmid, String)>, Cause>>,
    /// The id range of owner containers.
    pub owner_range: Option<Result<OwnerRange, Cause>>,
    /// Every section of guests' configurations, by vmid.
    pub sections: BTreeMap<Vmid, Result<Sections, Cause>>,
    /// What the machine's guest agent says.
    pub agent: Option<Result<Agent, Cause>>,
    /// Whether a snippet has the wanted content on the guest's node.
    pub snippet: Option<Result<bool, Cause>>,
    /// What the machine's cloud-init drive lacks.
    pub cloud_init: Option<Result<CloudInitState, Cause>>,
    /// Revisions of this template from which objects were cloned; `None` for an object whose revision is not known.
    pub cloned_revisions: Vec<Option<String>>,
    /// Objects by the vmid that they recorded, for messages; only where a template is being deleted.
    pub objects: BTreeMap<Vmid, String>,
    /// Earlier revisions of the template, by vmid.
    pub old_revisions: BTreeMap<Vmid, Result<OldRevision, Cause>>,
    /// The graphics cards that the object is given on its guest's node.
    pub cards: Option<Cards>,
    /// Who starts a model server on a card of the object's; `Some(None)`: it is the object's turn.
    pub card_turn: Option<Option<String>>,
    /// Where the object stands in the queue for clones of its template.
    pub clone_queue: Option<ClonePlace>,
    /// What the probes said before this reconcile.
    pub health: Option<HealthState>,
    /// Answers of the probes that were asked in this reconcile.
    pub probes: BTreeMap<ProbeKind, ProbeAnswer>,
    /// Result of the last full look.
    pub verified: Option<Verified>,
    /// Whether a full look is due although nothing seems to have changed.
    pub sweep: bool,
    /// What the step before in the same reconcile left as it was.
    pub kept: Kept,
}

/// The parts of a guest's firewall, which Proxmox lists apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirewallPart {
    /// Options.
    Options,
    /// Rules.
    Rules,
}

/// What a step left as it was read before it. The next one follows at once and need not read it again.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The guest.
    pub guest: Option<GuestRead>,
    /// That the guest is stopped.
    pub stopped: bool,
    /// Its firewall, of which the step changed one part.
    pub firewall: Option<(FirewallState, FirewallPart)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_clone_rests_on_the_guest_whose_volume_it_names_first() {
        for (volid, rests) in [
            ("tank:base-100-disk-0/vm-101-disk-0", true),
            ("tank:basevol-100-disk-0/subvol-101-disk-0", true),
            ("files:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2", true),
            ("tank:base-100-disk-0", false),
            ("files:100/base-100-disk-0.qcow2", false),
            ("tank:vm-100-disk-0", false),
            ("tank:base-1000-disk-0/vm-101-disk-0", false),
            ("files:1000/base-1000-disk-0.qcow2/100/vm-100-disk-0.qcow2", false),
            ("tank:base-101-disk-0/vm-100-disk-0", false),
        ] {
            assert_eq!(rests_on(volid, Vmid::nearest(100)), rests, "{volid}");
        }
    }
}
