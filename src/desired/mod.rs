//! Custom resource and what it refers to, resolved and validated: everything that the plan needs to know about what
//! is wanted. Pure: the answers of [`Objects`] come from memory.

pub mod allow;
pub mod conflicts;
pub mod defaulted;
pub mod expose;
mod fingerprint;
pub mod gpus;
pub mod hypervisor;
pub mod images;
pub mod index;
mod lxc;
pub mod managed;
pub mod memory;
pub mod objects;
pub mod raw_lines;
pub mod reach;
pub mod refs;
#[cfg(test)]
mod refused;
mod resolve;
pub mod scripts;
mod shared;
pub mod stamp;
#[cfg(test)]
pub(crate) mod testing;
pub mod vm;

use std::collections::BTreeMap;

use crate::crd::{DeletionPolicy, DriftPolicy, Health, PowerState, RerunPolicy, RestartPolicy};
use crate::pve::{DiskSize, GuestType, Vmid, units};
use crate::reason::{Cause, Reason};

pub use allow::Grants;
pub use conflicts::Conflict;
pub(crate) use fingerprint::{digest, digest_of};
pub use gpus::{Amount, Selector, WantedGpu};
pub use index::{Index, Ref};
pub use lxc::{WantedDevice, WantedLxc};
pub use managed::{Dropped, managed};
pub use memory::MemoryObjects;
pub use objects::{GuestObject, GuestSpec, Key, ObjectName, Objects};
pub use reach::Reach;
pub use resolve::resolve;
pub use stamp::{Identity, Stamp};
pub use vm::{WantedCloudInit, WantedDisk, WantedFirmware, WantedVendor, WantedVm};

/// Why an object cannot be worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Only a change by somebody helps.
    Stalled(Cause),
    /// Something else has to happen first.
    Waiting(Cause),
}

impl Blocked {
    /// A stall: field, value and fix.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Blocked::Stalled(Cause::new(reason, message))
    }

    /// A wait for something.
    pub fn waiting(reason: Reason, message: impl Into<String>) -> Self {
        Blocked::Waiting(Cause::new(reason, message))
    }

    /// Why, whichever of the two it is.
    pub fn cause(&self) -> &Cause {
        let (Blocked::Stalled(cause) | Blocked::Waiting(cause)) = self;
        cause
    }
}

/// What an owner container's host name begins with; its vmid follows.
pub const OWNER_HOSTNAME: &str = "phoenix-volumes-";

/// Ways besides the API token by which root-only options can be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// An API token is there.
    pub token: bool,
    /// A root@pam ticket can be had.
    pub ticket: bool,
    /// SSH to the nodes.
    pub ssh: bool,
}

/// What a guest is made from, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An image that must be on its storage.
    Image {
        /// Volume id of the image.
        volid: String,
    },
    /// An image that is downloaded first where it is not there.
    Download {
        /// Storage for it.
        storage: String,
        /// Content type: `vztmpl` for containers, `import` for disks.
        content: &'static str,
        /// File name at the end of the URL; on the storage the file is [`super::images::stored_name`].
        filename: String,
        /// Where it comes from.
        url: String,
        /// SHA-256 of the file.
        sha256: String,
    },
    /// An image of the appliance index, downloaded first where it is not there.
    Appliance {
        /// Storage for it.
        storage: String,
        /// Name in the index.
        template: String,
    },
    /// A clone of a template.
    Clone {
        /// Vmid of the template's guest; `None` while it has none.
        vmid: Option<Vmid>,
        /// Node of the template's guest.
        node: String,
        /// Snapshot that is copied; `None` for a Proxmox template.
        snapshot: Option<String>,
        /// Revision of the template.
        revision: String,
        /// Name of the PhoenixTemplate.
        template: String,
        /// Its namespace.
        namespace: String,
    },
}

impl Source {
    /// Volume id of the image, where the source is one.
    pub fn image_volid(&self) -> Option<String> {
        match self {
            Source::Image { volid } => Some(volid.clone()),
            Source::Download {
                storage,
                content,
                filename,
                sha256,
                ..
            } => Some(format!("{storage}:{content}/{}", images::stored_name(filename, sha256))),
            Source::Appliance { storage, template } => Some(format!("{storage}:vztmpl/{template}")),
            Source::Clone { .. } => None,
        }
    }
}

/// One network interface as wanted: property → value, only what is managed. `name` is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedNet {
    /// Interface name inside the guest.
    pub name: String,
    /// Managed properties in Proxmox's words (`bridge`, `ip`, …), without `name`.
    pub properties: BTreeMap<String, String>,
}

/// A volume as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedVolume {
    /// Name in the spec.
    pub name: String,
    /// Storage.
    pub storage: String,
    /// Whether the spec names the storage, rather than the hypervisor's defaults.
    pub storage_given: bool,
    /// Volume id, where it is one that exists: it is attached as it is, and only its name, path and properties count.
    pub existing: Option<String>,
    /// Size.
    pub size: DiskSize,
    /// Mount path in the guest.
    pub path: String,
    /// Key in the owner container's registry for retained volumes; `None` for volumes of the guest's own.
    pub owner_key: Option<String>,
    /// Managed properties of the mount point (`ro`, `backup`).
    pub properties: BTreeMap<String, String>,
}

/// Key under which owner containers register a container's volume: `/lxc/<namespace>/<name>/<volume>`.
pub fn volume_key(object: &Key, volume: &str) -> String {
    format!("/lxc/{}/{}/{volume}", object.namespace, object.name)
}

/// A bind mount as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedBind {
    /// Directory on the node.
    pub host_path: String,
    /// Mount path in the guest.
    pub path: String,
    /// Managed properties (`ro`).
    pub properties: BTreeMap<String, String>,
}

/// A firewall rule in Proxmox's words.
pub type WantedRule = BTreeMap<String, String>;

/// Guest firewall as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedFirewall {
    /// Options in Proxmox's words.
    pub options: BTreeMap<String, String>,
    /// Rules in order; `None` leaves them alone.
    pub rules: Option<Vec<WantedRule>>,
}

/// What a script is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScriptRole {
    /// Installs a feature.
    Feature,
    /// Proves that GPUs work.
    Proof,
    /// Writes and starts the unit of the model server.
    ModelServer,
    /// The user's application script.
    Application,
    /// A test of the user's.
    Test,
    /// Takes out of a template what its clones must not share; the last one before it is sealed.
    Clean,
}

/// A script to be run once in the guest.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    /// Id of its record in the guest (`feature-docker`, `application`, `test-…`).
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it is for.
    pub role: ScriptRole,
    /// Hash of all that it is given.
    pub hash: String,
    /// The script.
    pub body: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment, secrets among it.
    pub environment: BTreeMap<String, String>,
    /// Files put into the guest first.
    pub files: Vec<ScriptFile>,
    /// Directory that it runs in.
    pub workdir: Option<String>,
    /// Who runs it, where that is not root.
    pub run_as: Option<RunAs>,
    /// Seconds after which it is stopped.
    pub deadline_seconds: i64,
    /// When it is run again.
    pub rerun: RerunPolicy,
    /// Whether the guest keeps what it said; a template does not, or its clones would have it too.
    pub keep_output: bool,
}

/// A user of the guest that is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// Its name.
    pub user: String,
    /// Folder of the script and its files, which the user may read.
    pub folder: String,
}

/// A file for a script.
#[derive(Clone, PartialEq, Eq)]
pub struct ScriptFile {
    /// Absolute path.
    pub path: String,
    /// What is in it.
    pub content: String,
    /// Octal mode.
    pub mode: String,
}

// Secrets are among environment and files, so neither is printed (promise 9).
impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script")
            .field("id", &self.id)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// Where owner containers of retained volumes live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOwner {
    /// First and last id.
    pub ids: (Vmid, Vmid),
    /// Image that an owner is made from.
    pub image: Option<String>,
    /// Storage of its root filesystem.
    pub storage: Option<String>,
    /// Pool.
    pub pool: Option<String>,
}

/// Which form the guest takes in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A guest that does its work.
    Guest,
    /// A stopped guest with a snapshot of this name.
    Snapshot(String),
    /// A Proxmox template.
    Template,
}

/// A plain option as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOption {
    /// Field of the spec that it comes from.
    pub field: &'static str,
    /// Value in Proxmox's words.
    pub value: String,
}

/// Plain options by Proxmox's name.
pub type WantedOptions = BTreeMap<&'static str, WantedOption>;

/// What only one sort of guest has.
#[derive(Clone, Debug, PartialEq)]
pub enum WantedGuest {
    /// A container.
    Lxc(Box<WantedLxc>),
    /// A machine.
    Vm(Box<WantedVm>),
}

/// Which guest it is: whose, with which id, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedIdentity {
    /// Management cluster id.
    pub cluster_id: String,
    /// Earlier management clusters whose guests are taken over.
    pub previous_clusters: Vec<String>,
    /// uid of the object.
    pub uid: String,
    /// Vmid that the spec gives.
    pub vmid: Option<Vmid>,
    /// Range for vmids that Phoenix chooses, both ends included.
    pub vmid_range: Option<(Vmid, Vmid)>,
    /// Ids of owner containers, both ends included: nobody else's.
    pub owner_ids: Option<(Vmid, Vmid)>,
    /// Node that the spec gives; a clone lives on its source's node.
    pub node: Option<String>,
    /// Node that the hypervisor's defaults give, for guests that are free to live anywhere.
    pub default_node: Option<String>,
    /// Value of the adopt annotation.
    pub adopt: Option<String>,
    /// Value of the restamp annotation.
    pub restamp: Option<String>,
}

/// What becomes of it: its form in the end, its power, and what is done when.
#[derive(Clone, Debug, PartialEq)]
pub struct Lifecycle {
    /// What it is in the end.
    pub form: Form,
    /// Earlier revisions of a template that are kept without children; `None` keeps all.
    pub history_limit: Option<usize>,
    /// Value of the annotation that asks for a new revision of a template.
    pub rebuild: Option<String>,
    /// Whether it runs.
    pub power: PowerState,
    /// Value of the restartedAt annotation.
    pub restarted_at: Option<String>,
    /// Whether a pending change may restart it.
    pub restart: RestartPolicy,
    /// Value of the cancel annotation: hash of a script that is to be stopped.
    pub cancel: Option<String>,
    /// What happens to changes made elsewhere.
    pub drift: DriftPolicy,
    /// Deletion policy that the spec gives.
    pub deletion: Option<DeletionPolicy>,
}

/// What containers and machines have both.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Host name for creation when the spec gives none.
    pub default_hostname: String,
    /// Plain options that are managed, by Proxmox's name ([`crate::pve::options`]).
    pub options: WantedOptions,
    /// Parts of `startup` that are managed (`order`, `up`, `down`).
    pub startup: BTreeMap<String, String>,
    /// Network; `None` is unmanaged.
    pub network: Option<Vec<WantedNet>>,
    /// Tags of the user's; `None` is unmanaged.
    pub tags: Option<Vec<String>>,
    /// The user's part of the description; `None` is unmanaged.
    pub description: Option<String>,
    /// Pool.
    pub pool: Option<String>,
    /// Firewall; `None` is unmanaged.
    pub firewall: Option<WantedFirewall>,
}

/// Hashes by which changes are noticed; [`fingerprint`] makes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prints {
    /// Hash of what a template's content comes from (its revision); empty for other guests.
    pub revision: String,
    /// Hash of all of the above that is applied to the guest.
    pub applied: String,
}

/// All that is wanted of one guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The object.
    pub key: Key,
    /// Which guest it is.
    pub identity: WantedIdentity,
    /// What becomes of it.
    pub life: Lifecycle,
    /// What it is made from; absent for adopted guests only.
    pub source: Option<Source>,
    /// What both sorts of guest have.
    pub shared: Shared,
    /// What only its sort of guest has.
    pub guest: WantedGuest,
    /// Scripts in the order they run.
    pub scripts: Vec<Script>,
    /// Probes.
    pub health: Health,
    /// Ways to set root-only options.
    pub channels: Channels,
    /// What it may reach beyond its own guest; `None`: everything, as objects of the hypervisor's namespace.
    pub grants: Option<Grants>,
    /// What may be done to the nodes' graphics cards.
    pub cards: gpus::CardPolicy,
    /// Whether the source's image is named by a volume id; for messages only.
    pub source_by_volid: bool,
    /// Which of its values are the hypervisor's; for messages only.
    pub defaulted: defaulted::Defaulted,
    /// Hashes of it.
    pub prints: Prints,
}

impl Desired {
    /// Container or machine.
    pub fn sort(&self) -> GuestType {
        match &self.guest {
            WantedGuest::Lxc(_) => GuestType::Lxc,
            WantedGuest::Vm(_) => GuestType::Qemu,
        }
    }

    /// What only containers have.
    pub fn lxc(&self) -> Option<&WantedLxc> {
        match &self.guest {
            WantedGuest::Lxc(lxc) => Some(lxc),
            WantedGuest::Vm(_) => None,
        }
    }

    /// What only machines have.
    pub fn vm(&self) -> Option<&WantedVm> {
        match &self.guest {
            WantedGuest::Vm(vm) => Some(vm),
            WantedGuest::Lxc(_) => None,
        }
    }

    /// Whether a script of one of these roles is to be run.
    pub fn runs(&self, roles: &[ScriptRole]) -> bool {
        self.scripts.iter().any(|script| roles.contains(&script.role))
    }

    /// Whether probes ask for its health.
    pub fn is_probed(&self) -> bool {
        let Health {
            startup,
            readiness,
            liveness,
            restart_unit: _,
        } = &self.health;
        let probes = [startup, readiness, liveness].iter().any(|probe| probe.is_some());
        probes && self.life.form == Form::Guest
    }

    /// Volumes of a container besides its root filesystem.
    pub fn volumes(&self) -> &[WantedVolume] {
        let volumes = self.lxc().and_then(|lxc| lxc.volumes.as_deref());
        volumes.unwrap_or_default()
    }

    /// Where retained volumes live; `None` where the hypervisor does not say.
    pub fn volume_owner(&self) -> Option<&WantedOwner> {
        self.lxc()?.owner.as_ref()
    }

    /// The value of a plain option.
    pub fn option(&self, key: &str) -> Option<&String> {
        self.shared.options.get(key).map(|option| &option.value)
    }

    /// Path of the guest's fields in messages.
    pub fn field_prefix(&self) -> &'static str {
        match (&self.life.form, self.sort()) {
            (Form::Guest, _) => "spec",
            (_, GuestType::Lxc) => "spec.lxc",
            (_, GuestType::Qemu) => "spec.vm",
        }
    }

    /// The stamp that proves the guest to be this object's.
    pub fn stamp(&self, vmid: Vmid) -> Stamp {
        Stamp {
            revision: match &self.source {
                _ if self.life.form != Form::Guest => Some(self.prints.revision.clone()),
                Some(Source::Clone { revision, .. }) => Some(revision.clone()),
                _ => None,
            },
            parent: match &self.source {
                Some(Source::Clone { revision, .. }) if self.life.form != Form::Guest => Some(revision.clone()),
                _ => None,
            },
            ..Identity::of(&self.identity.cluster_id, &self.key, &self.identity.uid).stamp(vmid)
        }
    }
}
