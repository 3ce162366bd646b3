//! Which old backups go: retention by number and by spans of time, and the task that removes them.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{ApiError, Result};
use super::property;
use super::state::State;
use super::task::Work;
use super::volname::backup_owner;

/// A backup, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Volume.
    pub volid: String,
    /// When it was made, in seconds since 1970.
    pub ctime: u64,
    /// `lxc` or `qemu`.
    pub kind: String,
    /// Guest.
    pub vmid: Option<u32>,
    /// `keep`, `remove`, `protected` or `renamed`.
    pub mark: Option<&'static str>,
}

/// Options of a retention, in the order in which they are looked at, and the span of time that counts as one.
const SPANS: [(&str, &str); 6] = [
    ("keep-last", "%s"),
    ("keep-hourly", "%H/%d/%m/%Y"),
    ("keep-daily", "%d/%m/%Y"),
    ("keep-weekly", "%V/%G"),
    ("keep-monthly", "%m/%Y"),
    ("keep-yearly", "%Y"),
];

fn span(ctime: u64, format: &str) -> String {
    let time = i64::try_from(ctime)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| time.strftime(format).to_string()).unwrap_or_default()
}

/// Numbers of a retention, or nothing where everything is kept.
pub fn retention(text: &str) -> Option<BTreeMap<String, usize>> {
    let parts = property::parse(text, "");
    if parts.get("keep-all").is_some_and(|value| property::is_true(value)) {
        return None;
    }
    let numbers: BTreeMap<String, usize> = parts
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.parse().ok().filter(|number| *number > 0)?)))
        .collect();
    (!numbers.is_empty()).then_some(numbers)
}

/// Marks the backups of one guest.
fn mark_group(group: &mut [&mut Marked], keep: Option<&BTreeMap<String, usize>>) {
    let Some(keep) = keep else {
        for entry in group.iter_mut().filter(|entry| entry.mark.is_none()) {
            entry.mark = Some("keep");
        }
        return;
    };
    group.sort_by_key(|entry| std::cmp::Reverse(entry.ctime));
    for (option, format) in SPANS {
        let Some(count) = keep.get(option).copied() else {
            continue;
        };
        let kept = group.iter().filter(|entry| entry.mark == Some("keep"));
        let before: BTreeSet<String> = kept.map(|entry| span(entry.ctime, format)).collect();
        let mut now = BTreeSet::new();
        for entry in group.iter_mut().filter(|entry| entry.mark.is_none()) {
            let id = span(entry.ctime, format);
            if before.contains(&id) {
                continue;
            }
            if now.contains(&id) {
                entry.mark = Some("remove");
            } else if now.len() < count {
                now.insert(id);
                entry.mark = Some("keep");
            } else {
                break;
            }
        }
    }
    for entry in group.iter_mut().filter(|entry| entry.mark.is_none()) {
        entry.mark = Some("remove");
    }
}

impl State {
    /// Backups of a storage with what a retention does to them; that of the storage when none is given.
    pub fn marked_backups(
        &self,
        node: &str,
        id: &str,
        keep: Option<&str>,
        vmid: Option<u32>,
        kind: Option<&str>,
    ) -> Result<Vec<Marked>> {
        let storage = self.storage(id)?;
        if !storage.content.contains("backup") {
            return Err(ApiError::die(format!("storage '{id}' does not support backups")));
        }
        let Some(keep) = keep.or(storage.settings.get("prune-backups").map(String::as_str)) else {
            let text = format!("no prune-backups options configured for storage '{id}'");
            return Err(ApiError::die(text));
        };
        let storage = self.active_storage(node, id)?;
        let mut found: Vec<Marked> = storage
            .on(node)
            .filter(|(_, volume)| volume.content == "backup")
            .filter(|(_, volume)| vmid.is_none() || volume.owner == vmid)
            .map(|(name, volume)| {
                let file = name.rsplit('/').next().unwrap_or_default();
                let standard = backup_owner(file).is_some();
                let made_of = ["lxc", "qemu", "openvz"]
                    .into_iter()
                    .find(|kind| file.starts_with(&format!("vzdump-{kind}-")));
                Marked {
                    volid: format!("{id}:{name}"),
                    ctime: volume.ctime,
                    kind: made_of.unwrap_or("unknown").to_owned(),
                    vmid: volume.owner,
                    mark: match (volume.data.contains_key("protected"), standard) {
                        (true, _) => Some("protected"),
                        (false, false) => Some("renamed"),
                        (false, true) => None,
                    },
                }
            })
            .filter(|entry| kind.is_none_or(|kind| kind == entry.kind))
            .collect();
        let numbers = retention(keep);
        let groups: BTreeSet<(String, Option<u32>)> =
            found.iter().map(|entry| (entry.kind.clone(), entry.vmid)).collect();
        for (kind, vmid) in groups {
            let mut group: Vec<&mut Marked> = found
                .iter_mut()
                .filter(|entry| entry.kind == kind && entry.vmid == vmid)
                .collect();
            mark_group(&mut group, numbers.as_ref());
        }
        Ok(found)
    }

    /// Removes backups.
    pub(super) fn remove_backups(&mut self, seq: u64, node: &str, volids: &[String]) {
        for volid in volids {
            self.log(seq, format!("removing backup '{volid}'"));
            let _ = self.free_volume(node, volid);
        }
    }

    /// `DELETE …/prunebackups`.
    pub fn prune_backups(&mut self, user: &str, prune: Prune) -> String {
        let id = match prune.vmid {
            Some(vmid) => format!("{vmid}@{}", prune.storage),
            None => prune.storage.clone(),
        };
        let node = prune.node.clone();
        self.start_task(&node, "prunebackups", &id, user, Work::Prune(Box::new(prune)))
    }

    pub(super) fn finish_prune(&mut self, seq: u64, prune: &Prune) -> Result<()> {
        let kind = prune.kind.as_deref();
        let marked = self.marked_backups(&prune.node, &prune.storage, prune.keep.as_deref(), prune.vmid, kind)?;
        let going = marked.into_iter().filter(|entry| entry.mark == Some("remove"));
        let volids: Vec<String> = going.map(|entry| entry.volid).collect();
        self.remove_backups(seq, &prune.node, &volids);
        Ok(())
    }
}

/// What a prune task does.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Prune {
    /// Node.
    pub node: String,
    /// Storage.
    pub storage: String,
    /// Retention; that of the storage when absent.
    pub keep: Option<String>,
    /// Backups of this guest only.
    pub vmid: Option<u32>,
    /// Backups of guests of this kind only.
    pub kind: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(times: &[u64], keep: &str) -> Vec<Option<&'static str>> {
        let mut all: Vec<Marked> = times
            .iter()
            .map(|ctime| Marked {
                volid: ctime.to_string(),
                ctime: *ctime,
                kind: "lxc".to_owned(),
                vmid: Some(100),
                mark: None,
            })
            .collect();
        let mut group: Vec<&mut Marked> = all.iter_mut().collect();
        mark_group(&mut group, retention(keep).as_ref());
        all.into_iter().map(|entry| entry.mark).collect()
    }

    #[test]
    fn a_retention_keeps_the_newest_of_each_span() {
        let day = 86_400;
        let times = [10 * day, 10 * day + 10, 11 * day, 12 * day + 5];
        let (keep, remove) = (Some("keep"), Some("remove"));
        assert_eq!(marks(&times, "keep-last=1"), [remove, remove, remove, keep]);
        assert_eq!(marks(&times, "keep-last=1,keep-daily=2"), [remove, keep, keep, keep]);
        assert_eq!(marks(&times, "keep-last=0"), [keep; 4]);
        assert_eq!(marks(&times, "keep-all=1"), [keep; 4]);
    }
}
