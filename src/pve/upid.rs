//! Proxmox task ids (facts B.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `UPID:<node>:<pid>:<pstart>:<starttime>:<type>:<id>:<user>:`; figures are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upid {
    raw: String,
    /// The node that runs the task and is asked about it, whatever node the guest is on now.
    pub node: String,
    /// Start, in seconds since 1970.
    pub start: i64,
    /// The kind of task, such as `vzcreate` (facts B.4).
    pub kind: String,
    /// What it works on; a vmid for most. For `vzclone` the **source**. May be empty.
    pub id: String,
    /// Who started it: `user@realm` or `user@realm!token`.
    pub user: String,
}

impl Upid {
    /// The text as Proxmox gave it.
    pub fn as_str(&self) -> &str {
        &self.raw
    }
}

/// A text that is no UPID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a Proxmox task id: {0:?}")]
pub struct InvalidUpid(pub String);

impl FromStr for Upid {
    type Err = InvalidUpid;

    fn from_str(raw: &str) -> Result<Self, InvalidUpid> {
        let invalid = || InvalidUpid(raw.to_owned());
        let fields: Vec<&str> = raw.split(':').collect();
        let ["UPID", node, pid, pstart, start, kind, id, user, ""] = fields[..] else {
            return Err(invalid());
        };
        let hex = |s: &str| i64::from_str_radix(s, 16).map_err(|_| invalid());
        hex(pid)?;
        hex(pstart)?;
        if node.is_empty() || kind.is_empty() || user.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            node: node.into(),
            start: hex(start)?,
            kind: kind.into(),
            id: id.into(),
            user: user.into(),
            raw: raw.into(),
        })
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl Serialize for Upid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.raw)
    }
}

impl<'de> Deserialize<'de> for Upid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_proxmox_writes() {
        let raw = "UPID:pve1:00001A2B:000F4240:68C0FFEE:vzcreate:100:phoenix@pve!op:";
        let upid: Upid = raw.parse().unwrap();
        assert_eq!(
            (upid.node.as_str(), upid.kind.as_str(), upid.id.as_str()),
            ("pve1", "vzcreate", "100")
        );
        assert_eq!((upid.start, upid.user.as_str()), (0x68C0_FFEE, "phoenix@pve!op"));
        assert_eq!(upid.to_string(), raw);
        let empty_id: Upid = "UPID:n:1:2:3:vncshell::root@pam:".parse().unwrap();
        assert_eq!(empty_id.id, "");
    }

    #[test]
    fn refuses_everything_else() {
        for bad in [
            "",
            "UPID:",
            "UPID:n:1:2:3:t:i:u",
            "UPID:n:x:2:3:t:i:u:",
            "UPID:n:1:2:3:t:i:u:more:",
            "x",
        ] {
            assert_eq!(bad.parse::<Upid>(), Err(InvalidUpid(bad.into())));
        }
    }
}
