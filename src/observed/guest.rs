//! A guest as it was read.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Stamp;
use crate::pve::{GuestRef, GuestType};
use crate::secret::Secret;

use super::{Read, ResourceRow};

/// A guest's configuration and state, read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Which guest, and where it is.
    pub at: GuestRef,
    /// Options with their values, pending ones as if they were active.
    pub options: BTreeMap<String, String>,
    /// Raw `lxc.` lines.
    pub raw_lines: Vec<(String, String)>,
    /// Digest of the configuration file.
    pub digest: String,
    /// Config lock.
    pub lock: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// Options that wait for a restart, with the value that is in force until then; `None` where there is none.
    pub pending: BTreeMap<String, Option<String>>,
    /// Snapshots: name → description.
    pub snapshots: Option<BTreeMap<String, String>>,
    /// Address of the running guest's own interface, without prefix length. A machine's comes with [`Agent`].
    pub ip: Option<String>,
    /// Seconds since it was started, while it runs.
    pub uptime: Option<i64>,
    /// Process id on its node, while it runs: another one after a restart.
    pub pid: Option<i64>,
}

/// A machine's cloud-init drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudInitState {
    /// Options whose change the drive does not hold yet.
    pub pending: Vec<String>,
    /// The password hash, which the configuration hides.
    pub password: Option<Secret>,
}

/// What a machine's guest agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It answers.
    Answers {
        /// Address of its own interface.
        ip: Option<String>,
        /// Whether cloud-init is through with the first boot; `None` where nobody asked.
        cloud_init_done: Option<bool>,
    },
    /// It does not, for this reason.
    Silent(String),
}

impl Guest {
    /// A stopped guest of which nothing more is known.
    pub fn new(at: GuestRef) -> Self {
        Guest {
            at,
            options: BTreeMap::new(),
            raw_lines: Vec::new(),
            digest: String::new(),
            lock: None,
            running: false,
            pending: BTreeMap::new(),
            snapshots: None,
            ip: None,
            uptime: None,
            pid: None,
        }
    }

    /// The guest for people: `container 950`.
    pub fn named(&self) -> String {
        self.at.named()
    }

    /// Whether it is being created or cloned and its configuration is not whole yet (facts K.3, F.4).
    pub fn being_made(&self) -> bool {
        let clone = self.at.sort == GuestType::Qemu && self.lock.as_deref() == Some("clone");
        clone || self.lock.as_deref() == Some("create")
    }

    /// The ownership stamp in the description.
    pub fn stamp(&self) -> Option<Stamp> {
        Stamp::find(self.options.get("description")?)
    }

    /// Whether it has a tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        let tags = self.options.get("tags").map(String::as_str).unwrap_or_default();
        tags.split([';', ',', ' ']).any(|t| t == tag)
    }

    fn tags(&self) -> BTreeSet<&str> {
        let tags = self.options.get("tags").map(String::as_str).unwrap_or_default();
        tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).collect()
    }

    /// Whether the list only catches up with what was read: it says so itself, or changed in nothing else meanwhile. Of a
    /// guest's name, sizes and whether it runs it lags behind, of its tags, lock and node it does not (facts C).
    pub fn is_shown(&self, read: Read, old: &ResourceRow, new: &ResourceRow) -> bool {
        let says = GuestType::of(&new.type_) == Some(self.at.sort)
            && new.node == self.at.node
            && new.lock == self.lock
            && new.template == self.is_template()
            && new.tags.iter().map(String::as_str).collect::<BTreeSet<_>>() == self.tags()
            && (new.status == "running") == self.running;
        let sizes = |row: &ResourceRow| {
            let sizes = (row.maxcpu.clone(), row.maxmem, row.maxdisk);
            (row.name.clone(), row.pool.clone(), sizes)
        };
        let went_on = !self.running || old.uptime <= new.uptime;
        says && match read {
            Read::After => true,
            Read::ShortlyBefore => went_on,
            Read::Before => went_on && sizes(old) == sizes(new),
        }
    }

    /// Whether its address is the one that its configuration gives it, and from no server.
    pub fn has_its_own_address(&self) -> bool {
        let given = |ip: &String| {
            let property = format!("={ip}/");
            self.numbered("net").values().any(|net| net.contains(&property))
        };
        self.ip.as_ref().is_some_and(given)
    }

    /// Whether it is in the same start as when it was read `before`, with the same configuration: what waits for a restart
    /// is the same then.
    pub fn goes_on_from(&self, before: &Guest) -> bool {
        let pid = self.pid.is_some() && self.pid == before.pid;
        self.at == before.at && pid && self.digest == before.digest && self.uptime >= before.uptime
    }

    /// Whether it is a Proxmox template.
    pub fn is_template(&self) -> bool {
        self.options.get("template").is_some_and(|v| v == "1")
    }

    /// Entries of a numbered option (`net`, `mp`, `dev`, `unused`), by index.
    pub fn numbered(&self, prefix: &str) -> BTreeMap<u32, &str> {
        self.options
            .iter()
            .filter_map(|(key, value)| {
                let index = key.strip_prefix(prefix)?;
                index.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
                Some((index.parse().ok()?, value.as_str()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::Vmid;

    /// A running guest that was read, and what the list says of it.
    fn seen() -> (Guest, ResourceRow) {
        let at = GuestRef::new(GuestType::Lxc, Vmid::nearest(100), "pve");
        let options = [("tags", "phoenix;b"), ("net0", "name=eth0,ip=10.0.0.5/24")];
        let guest = Guest {
            options: options.map(|(k, v)| (k.to_string(), v.to_string())).into(),
            digest: "d".into(),
            running: true,
            pid: Some(7),
            uptime: Some(5),
            ip: Some("10.0.0.5".into()),
            ..Guest::new(at)
        };
        let row = ResourceRow {
            type_: "lxc".into(),
            node: "pve".into(),
            status: "running".into(),
            tags: vec!["b".into(), "phoenix".into()],
            uptime: Some(8),
            ..ResourceRow::default()
        };
        (guest, row)
    }

    #[test]
    fn a_list_that_catches_up_with_what_was_read_is_no_news() {
        let (guest, new) = seen();
        let stopped = ResourceRow {
            status: "stopped".into(),
            lock: Some("create".into()),
            tags: vec![],
            uptime: None,
            ..new.clone()
        };
        for read in [Read::After, Read::ShortlyBefore, Read::Before] {
            assert!(guest.is_shown(read, &stopped, &new), "{read:?}");
            assert!(
                !guest.is_shown(read, &new, &stopped),
                "{read:?}: it is not as it was read"
            );
        }
        let news: [fn(&mut ResourceRow); 5] = [
            |row| row.node = "other".into(),
            |row| row.tags.push("new".into()),
            |row| row.lock = Some("backup".into()),
            |row| row.template = true,
            |row| row.type_ = "qemu".into(),
        ];
        for change in news {
            let mut changed = new.clone();
            change(&mut changed);
            assert!(!guest.is_shown(Read::After, &new, &changed), "{changed:?}");
        }
    }

    #[test]
    fn what_happened_after_a_guest_was_read_is_news() {
        let (guest, new) = seen();
        let before = |uptime| ResourceRow {
            uptime: Some(uptime),
            ..new.clone()
        };
        assert!(
            guest.is_shown(Read::After, &before(500), &new),
            "it was read in this start"
        );
        assert!(
            !guest.is_shown(Read::ShortlyBefore, &before(500), &new),
            "it was restarted"
        );
        let larger = ResourceRow {
            maxmem: Some(1 << 30),
            ..new.clone()
        };
        assert!(
            guest.is_shown(Read::ShortlyBefore, &new, &larger),
            "the list lags behind"
        );
        assert!(!guest.is_shown(Read::Before, &new, &larger), "somebody gave it more");
    }

    #[test]
    fn what_a_guest_has_pending_is_read_anew_after_any_change() {
        let (before, _) = seen();
        let changes: [fn(&mut Guest); 4] = [
            |guest| guest.pid = Some(8),
            |guest| guest.pid = None,
            |guest| guest.digest = "e".into(),
            |guest| guest.uptime = Some(4),
        ];
        assert!(before.goes_on_from(&before) && before.has_its_own_address());
        for change in changes {
            let mut guest = before.clone();
            change(&mut guest);
            assert!(!guest.goes_on_from(&before), "{guest:?}");
        }
        let by_server = Guest {
            options: [("net0".to_string(), "name=eth0,ip=dhcp".to_string())].into(),
            ..before
        };
        assert!(!by_server.has_its_own_address());
    }
}
