//! Firewalls of guests (facts D.12): kept by guest id, whether the guest exists or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config;

/// An alias.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Address or network.
    pub cidr: String,
    /// Free text.
    pub comment: Option<String>,
}

/// An entry of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEntry {
    /// Excluded from the set.
    pub nomatch: bool,
    /// Free text.
    pub comment: Option<String>,
}

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpSet {
    /// Free text.
    pub comment: Option<String>,
    /// Entries by address.
    pub entries: BTreeMap<String, SetEntry>,
}

/// The firewall of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// Options.
    pub options: BTreeMap<String, String>,
    /// Rules, first one first.
    pub rules: Vec<BTreeMap<String, String>>,
    /// Aliases by name.
    pub aliases: BTreeMap<String, Alias>,
    /// Sets by name.
    pub ipsets: BTreeMap<String, IpSet>,
}

impl Firewall {
    /// Digest of the whole file; Proxmox computes one for each list, and a client can only pass it back.
    pub fn digest(&self) -> String {
        config::digest(&format!("{self:?}"))
    }
}
