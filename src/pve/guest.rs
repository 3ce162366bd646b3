//! A guest of Proxmox's: its sort, its id and where it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::call::{path, segment};

/// What Proxmox calls the two sorts of guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestType {
    /// A container.
    #[default]
    Lxc,
    /// A virtual machine.
    Qemu,
}

impl GuestType {
    /// As in paths and in rows of `/cluster/resources`.
    pub fn as_str(self) -> &'static str {
        match self {
            GuestType::Lxc => "lxc",
            GuestType::Qemu => "qemu",
        }
    }

    /// For people.
    pub fn noun(self) -> &'static str {
        match self {
            GuestType::Lxc => "container",
            GuestType::Qemu => "VM",
        }
    }

    /// The command line tool on the node.
    pub fn tool(self) -> &'static str {
        match self {
            GuestType::Lxc => "pct",
            GuestType::Qemu => "qm",
        }
    }

    /// The sort that this word of paths and rows means.
    pub fn of(word: &str) -> Option<Self> {
        let sorts = [GuestType::Lxc, GuestType::Qemu];
        sorts.into_iter().find(|sort| sort.as_str() == word)
    }

    /// The guest for people: `container 950`.
    pub fn named(self, vmid: Vmid) -> String {
        format!("{} {vmid}", self.noun())
    }
}

/// Id of a guest: 100 to 999999999, one in a whole Proxmox cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Vmid(u32);

/// A number that is no vmid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no guest's id: ids are 100 to 999999999")]
pub struct InvalidVmid(i64);

impl Vmid {
    /// The smallest id that Proxmox gives to guests.
    pub const MIN: Vmid = Vmid(100);
    /// The largest one.
    pub const MAX: Vmid = Vmid(999_999_999);

    /// The id that is nearest to a number.
    pub const fn nearest(number: i64) -> Vmid {
        match number {
            ..100 => Vmid::MIN,
            // It fits: it is less than the largest.
            100..999_999_999 => Vmid(number as u32),
            _ => Vmid::MAX,
        }
    }

    /// As a number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The next one; `None` after the largest.
    pub fn next(self) -> Option<Vmid> {
        (self < Vmid::MAX).then_some(Vmid(self.0 + 1))
    }

    /// All ids from this one to the last, both included.
    pub fn to(self, last: Vmid) -> impl Iterator<Item = Vmid> {
        (self.0..=last.0).map(Vmid)
    }
}

impl TryFrom<i64> for Vmid {
    type Error = InvalidVmid;

    fn try_from(number: i64) -> Result<Self, InvalidVmid> {
        match u32::try_from(number) {
            Ok(id) if (Vmid::MIN..=Vmid::MAX).contains(&Vmid(id)) => Ok(Vmid(id)),
            _ => Err(InvalidVmid(number)),
        }
    }
}

impl TryFrom<u32> for Vmid {
    type Error = InvalidVmid;

    fn try_from(number: u32) -> Result<Self, InvalidVmid> {
        Vmid::try_from(i64::from(number))
    }
}

impl From<Vmid> for i64 {
    fn from(vmid: Vmid) -> i64 {
        i64::from(vmid.0)
    }
}

impl FromStr for Vmid {
    type Err = InvalidVmid;

    /// What people write may have zeros before it.
    fn from_str(text: &str) -> Result<Self, InvalidVmid> {
        let number: i64 = text.parse().map_err(|_| InvalidVmid(0))?;
        Vmid::try_from(number)
    }
}

// Lists of ids are shown to people.
impl fmt::Debug for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which guest: enough to address it in the API and on its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestRef {
    /// Container or machine.
    pub sort: GuestType,
    /// Its id.
    pub vmid: Vmid,
    /// The node that it is on.
    pub node: String,
}

impl GuestRef {
    /// A guest on a node.
    pub fn new(sort: GuestType, vmid: Vmid, node: impl Into<String>) -> Self {
        let node = node.into();
        GuestRef { sort, vmid, node }
    }

    /// The guest for people: `container 950`.
    pub fn named(&self) -> String {
        self.sort.named(self.vmid)
    }

    /// Its path in the API: `/nodes/pve1/lxc/950`.
    pub fn path(&self) -> String {
        path(["nodes", &self.node, self.sort.as_str(), &self.vmid.to_string()])
    }

    /// Path of something of it: `/nodes/pve1/lxc/950/snapshot/before`.
    pub fn path_of(&self, rest: &[&str]) -> String {
        rest.iter()
            .fold(self.path(), |path, one| format!("{path}/{}", segment(one)))
    }

    /// Path of a status operation (`start`, `shutdown`, …).
    pub fn status_path(&self, operation: &str) -> String {
        self.path_of(&["status", operation])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_proxmox_gives_are_ids() {
        for (number, valid) in [
            (-100, false),
            (0, false),
            (99, false),
            (100, true),
            (999_999_999, true),
            (1_000_000_000, false),
            (i64::MAX, false),
        ] {
            assert_eq!(Vmid::try_from(number).is_ok(), valid, "{number}");
            assert_eq!(number.to_string().parse::<Vmid>().is_ok(), valid, "{number}");
        }
        assert_eq!("0500".parse::<Vmid>(), Vmid::try_from(500_i64));
        for text in ["", "1e3", " 100", "a"] {
            assert!(text.parse::<Vmid>().is_err(), "{text:?}");
        }
        assert_eq!(Vmid::MAX.next(), None);
    }

    #[test]
    fn paths_are_encoded() {
        let at = GuestRef::new(GuestType::Qemu, Vmid::MIN, "pve 1");
        assert_eq!(at.status_path("start"), "/nodes/pve%201/qemu/100/status/start");
        assert_eq!(
            at.path_of(&["snapshot", "a/b"]),
            "/nodes/pve%201/qemu/100/snapshot/a%2Fb"
        );
    }
}
