//! What was asked of a hypervisor and what came back.

use std::collections::{BTreeMap, BTreeSet};

use crate::pve::Vmid;
use crate::pve::gpu::NodeCards;
use crate::reason::Cause;

use super::privileges::Permissions;

/// What came back, or why nothing did.
pub type Known<T> = Result<T, String>;

/// All that was asked of one hypervisor.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Unix time in seconds.
    pub now: i64,
    /// Why nothing could be asked at all: a Secret, or a field that cannot be used.
    pub blocked: Option<Cause>,
    /// Id of the token, where one is used.
    pub token: Option<String>,
    /// The Secrets of token and password, in words.
    pub credentials_from: String,
    /// The endpoints of the spec, each asked by itself.
    pub endpoints: Vec<Endpoint>,
    /// Rights of the token; `None` where root@pam itself works.
    pub permissions: Option<Known<Permissions>>,
    /// The cluster.
    pub cluster: Known<ClusterFacts>,
    /// Whether Proxmox takes the password of root@pam, where one is given beside a token.
    pub root: Option<Result<(), Cause>>,
    /// Ids of all guests that the credential may see.
    pub guests: Known<BTreeSet<Vmid>>,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, NodeFacts>,
}

impl Facts {
    /// Facts of a hypervisor that could not be asked.
    pub fn blocked(now: i64, cause: Cause) -> Self {
        let unasked = || "it was not asked".to_string();
        Facts {
            now,
            blocked: Some(cause),
            token: None,
            credentials_from: String::new(),
            endpoints: Vec::new(),
            permissions: None,
            cluster: Err(unasked()),
            root: None,
            guests: Err(unasked()),
            nodes: BTreeMap::new(),
        }
    }

    /// SHA-256 of the cluster's certificate authority; `None` where no node told it.
    pub fn ca(&self) -> Option<&String> {
        self.nodes.values().find_map(|node| node.ca.as_ref())
    }
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As the spec names it.
    pub url: String,
    /// The version that it answered with, or why it did not.
    pub version: Result<String, Cause>,
    /// When the certificate that it showed ends, in Unix time; `None` where it showed none that was read.
    pub ends: Option<i64>,
}

/// The cluster as it says of itself.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// Its name; `None` for a node that is in no cluster.
    pub name: Option<String>,
    /// Whether writes can be made.
    pub quorate: bool,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Whether the cluster sees it.
    pub online: bool,
    /// Version of Proxmox VE.
    pub version: Known<String>,
    /// Seconds by which its clock is ahead of this machine's.
    pub ahead: Known<i64>,
    /// Certificates by file, and when they end.
    pub certificates: Known<Vec<(String, i64)>>,
    /// SHA-256 of the certificate authority of its cluster, if it told it.
    pub ca: Option<String>,
    /// Bridges.
    pub bridges: Known<BTreeSet<String>>,
    /// Storages by name.
    pub storages: Known<BTreeMap<String, StorageFacts>>,
    /// Volume ids on the storages that were asked for images, by storage.
    pub files: BTreeMap<String, Known<BTreeSet<String>>>,
    /// Names in the appliance index.
    pub appliances: Known<Vec<String>>,
    /// SSH.
    pub shell: Shell,
    /// Its graphics cards.
    pub cards: Known<NodeCards>,
}

impl NodeFacts {
    /// A node of which nothing is known, for this reason.
    pub fn unknown(online: bool, why: &str) -> Self {
        let why = || why.to_string();
        NodeFacts {
            online,
            version: Err(why()),
            ahead: Err(why()),
            certificates: Err(why()),
            ca: None,
            bridges: Err(why()),
            storages: Err(why()),
            files: BTreeMap::new(),
            appliances: Err(why()),
            shell: Shell::NotAsked(why()),
            cards: Err(why()),
        }
    }
}

/// A storage as a node sees it.
#[derive(Clone, Debug, Default)]
pub struct StorageFacts {
    /// Content types that it may hold.
    pub content: Vec<String>,
    /// Usable now.
    pub active: bool,
    /// Not switched off.
    pub enabled: bool,
    /// Free bytes.
    pub free: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
}

/// What SSH to a node came to.
#[derive(Clone, Debug)]
pub enum Shell {
    /// The spec has no `ssh`.
    NotGiven,
    /// Nobody knows the host key: this address and port were meant.
    NoHostKey(String, u16),
    /// The user id that commands run as.
    Ran(u32),
    /// It failed.
    Failed(Cause),
    /// It was not tried.
    NotAsked(String),
}
