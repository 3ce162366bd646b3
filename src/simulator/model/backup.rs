//! Backups of containers: `vzdump`, what a backup holds, and restoring one (facts D.1, K.2.22).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{GuestConfig, Section};
use super::error::{ApiError, Result};
use super::guest::{Guest, GuestKind, InGuest};
use super::lxc_options::{all_mounts, index_of, is_mount};
use super::property::parse_size;
use super::state::{Caller, State};
use super::storage::Volume;
use super::task::Work;

/// Keys of a backup volume's data.
const CONFIG: &str = "config";
const INSIDE: &str = "inside";

/// What a backup task does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Node.
    pub node: String,
    /// Guests.
    pub vmids: Vec<u32>,
    /// Storage.
    pub storage: String,
    /// End of the file name, for example `.tar.zst`.
    pub ending: String,
    /// Template of the notes.
    pub notes: Option<String>,
    /// Protected from deletion.
    pub protected: bool,
    /// Who asked.
    pub user: String,
    /// Guests that the caller may not back up are left out without an error.
    #[serde(default)]
    pub quiet: bool,
    /// Guests that could not be backed up.
    #[serde(default)]
    pub failed: Vec<u32>,
    /// Retention; that of the storage when absent.
    #[serde(default)]
    pub keep: Option<String>,
    /// Old backups are removed rather than new ones refused.
    #[serde(default)]
    pub remove: bool,
}

/// `\\n` and `\\\\` of a template of notes as what they stand for.
fn unescape(template: &str) -> String {
    let mut out = String::new();
    let mut letters = template.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => out.push(if letters.next() == Some('n') { '\n' } else { '\\' }),
            (letter, false) => out.push(letter),
        }
    }
    out
}

impl State {
    /// `POST /nodes/{node}/vzdump`: everything that is wrong shows in the task.
    pub fn start_backup(&mut self, caller: &Caller, backup: Backup) -> String {
        let id = if let [one] = backup.vmids[..] {
            one.to_string()
        } else {
            String::new()
        };
        let node = backup.node.clone();
        self.start_task(&node, "vzdump", &id, &caller.id, Work::Backup(Box::new(backup)))
    }

    /// A guest of either kind on a node; a missing one is told as a missing container.
    fn any_guest(&self, node: &str, vmid: u32) -> Result<&Guest> {
        let vm = self
            .guests
            .get(&vmid)
            .is_some_and(|guest| guest.kind == GuestKind::Qemu);
        let kind = if vm { GuestKind::Qemu } else { GuestKind::Lxc };
        self.guest_on(node, vmid, kind)
    }

    pub(super) fn begin_backup(&mut self, seq: u64, backup: &Backup) -> Result<u64> {
        let caller = Caller::new(backup.user.clone());
        self.check_backup_storage(&backup.node, &backup.storage)?;
        let may = |vmid: &u32| self.need(&caller, &format!("/vms/{vmid}"), &["VM.Backup"]);
        let mut vmids = backup.vmids.clone();
        if backup.quiet {
            vmids.retain(|vmid| may(vmid).is_ok());
        }
        for vmid in &vmids {
            may(vmid).map_err(|error| ApiError::die(format!("{} {}", error.status, error.first_line())))?;
        }
        let mut failed = Vec::new();
        for vmid in &vmids {
            let there = self.any_guest(&backup.node, *vmid).map(|guest| guest.kind.word());
            let there = there.map_err(|_| ApiError::die(format!("unable to find VM '{vmid}'")));
            let room = |word: &'static str| self.check_backup_room(backup, *vmid).map(|()| word);
            match there
                .and_then(room)
                .and_then(|word| self.check_lock(*vmid).map(|()| word))
            {
                Ok(word) => {
                    self.log(seq, format!("INFO: Starting Backup of VM {vmid} ({word})"));
                    self.guest_mut(*vmid)?
                        .edit(|config| config.current.set("lock", "backup"));
                }
                Err(error) => {
                    let text = error.first_line();
                    self.log(seq, format!("ERROR: Backup of VM {vmid} failed - {text}"));
                    failed.push(*vmid);
                }
            }
        }
        if failed.len() == vmids.len() && !failed.is_empty() {
            self.log(seq, "INFO: Backup job finished with errors");
            return Err(ApiError::die("job errors"));
        }
        vmids.retain(|vmid| !failed.contains(vmid));
        let duration = self.latency.clone_full / 3 * vmids.len().max(1) as u64;
        if let Some(Work::Backup(work)) = self.tasks.get_mut(&seq).map(|task| &mut task.work) {
            (work.vmids, work.failed) = (vmids, failed);
        }
        Ok(duration)
    }

    fn retention_of(&self, backup: &Backup) -> Option<BTreeMap<String, usize>> {
        let own = self
            .storages
            .get(&backup.storage)
            .and_then(|storage| storage.settings.get("prune-backups"));
        let keep = backup.keep.as_ref().or(own)?;
        super::prune::retention(keep)
    }

    /// Without removal, no more backups than the retention keeps.
    fn check_backup_room(&self, backup: &Backup, vmid: u32) -> Result<()> {
        let Some(limit) = self.retention_of(backup).map(|keep| keep.values().sum::<usize>()) else {
            return Ok(());
        };
        if backup.remove || backup.protected {
            return Ok(());
        }
        let storage = self.storage(&backup.storage)?;
        let own = |volume: &&Volume| volume.content == "backup" && volume.owner == Some(vmid);
        let open = storage.on(&backup.node).map(|(_, volume)| volume).filter(own);
        if open.filter(|volume| !volume.data.contains_key("protected")).count() < limit {
            return Ok(());
        }
        Err(ApiError::die(format!(
            "There is a max backup limit of {limit} enforced by the target storage or the vzdump parameters. Either \
             increase the limit or delete old backups."
        )))
    }

    /// Removes what the retention does not keep of a guest.
    fn prune_after(&mut self, seq: u64, backup: &Backup, vmid: u32) -> Result<()> {
        if !backup.remove || self.retention_of(backup).is_none() {
            return Ok(());
        }
        let marked = self.marked_backups(&backup.node, &backup.storage, backup.keep.as_deref(), Some(vmid), None)?;
        let going = marked.into_iter().filter(|entry| entry.mark == Some("remove"));
        let volids: Vec<String> = going.map(|entry| entry.volid).collect();
        self.log(
            seq,
            format!(
                "INFO: pruned {} backup(s) not covered by keep-retention policy",
                volids.len()
            ),
        );
        self.remove_backups(seq, &backup.node, &volids);
        Ok(())
    }

    /// What is wrong with a storage, told as one text.
    fn check_backup_storage(&self, node: &str, id: &str) -> Result<()> {
        let mut faults = Vec::new();
        if let Err(error) = self.active_storage(node, id) {
            faults.push(format!("could not activate storage '{id}': {}", error.first_line()));
        }
        let usable = self.storage(id).and_then(|storage| {
            let text = format!("can't use storage '{id}' for backups - wrong content type");
            let backup = storage.content.contains("backup");
            if backup { Ok(()) } else { Err(ApiError::die(text)) }
        });
        if let Err(error) = usable {
            let text = error.first_line();
            faults.push(format!("could not get storage information for '{id}': {text}"));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(ApiError::die(faults.join("\n")))
        }
    }

    pub(super) fn undo_backup(&mut self, backup: &Backup) {
        for vmid in &backup.vmids {
            let ours = self
                .guests
                .get(vmid)
                .is_some_and(|guest| guest.lock() == Some("backup"));
            if ours {
                self.unlock(*vmid);
            }
        }
    }

    pub(super) fn finish_backup(&mut self, seq: u64, backup: &Backup) -> Result<()> {
        self.undo_backup(backup);
        for vmid in &backup.vmids {
            let guest = self.any_guest(&backup.node, *vmid)?;
            let config = GuestConfig {
                current: guest.config().current.clone(),
                ..GuestConfig::default()
            };
            let inside = serde_json::to_string(&guest.inside).unwrap_or_default();
            let name = guest.name();
            let stamp = jiff::Timestamp::from_second(self.seconds() as i64)
                .map(|time| time.strftime("%Y_%m_%d-%H_%M_%S").to_string())
                .unwrap_or_default();
            let kind = guest.kind;
            let ending = match kind {
                GuestKind::Lxc => backup.ending.clone(),
                GuestKind::Qemu => backup.ending.replace(".tar", ".vma"),
            };
            let file = format!("backup/vzdump-{}-{vmid}-{stamp}{ending}", kind.word());
            let mut data = BTreeMap::from([(CONFIG.to_owned(), config.render()), (INSIDE.to_owned(), inside)]);
            if let Some(notes) = &backup.notes {
                let cluster = self.cluster.as_deref().unwrap_or("standalone node");
                let notes = unescape(notes)
                    .replace("{{guestname}}", &name)
                    .replace("{{vmid}}", &vmid.to_string())
                    .replace("{{cluster}}", cluster);
                data.insert("notes".to_owned(), notes.replace("{{node}}", &backup.node));
            }
            if backup.protected {
                data.insert("protected".to_owned(), "1".to_owned());
            }
            let volume = Volume {
                uid: self.next_number(),
                size: 72 << 20,
                used: 72 << 20,
                format: ending.trim_start_matches('.').to_owned(),
                owner: Some(*vmid),
                content: "backup".to_owned(),
                ctime: self.seconds(),
                data,
                ..Volume::default()
            };
            self.storage_mut(&backup.storage)?.insert(&backup.node, &file, volume);
            self.prune_after(seq, backup, *vmid)?;
            self.log(seq, format!("INFO: Finished Backup of VM {vmid} (00:00:02)"));
        }
        if backup.failed.is_empty() {
            self.log(seq, "INFO: Backup job finished successfully");
            return Ok(());
        }
        self.log(seq, "INFO: Backup job finished with errors");
        Err(ApiError::die("job errors"))
    }

    /// The configuration text in a backup.
    pub fn backup_config(&self, node: &str, volid: &str) -> Result<String> {
        let volume = self
            .volume(node, volid)
            .ok_or_else(|| ApiError::die(format!("volume '{volid}' does not exist")))?;
        volume
            .data
            .get(CONFIG)
            .cloned()
            .ok_or_else(|| ApiError::die("unable to extract configuration from archive"))
    }

    /// Whether a volume is the backup of an unprivileged container.
    pub(super) fn was_unprivileged(&self, node: &str, volid: &str) -> bool {
        self.backup_config(node, volid)
            .is_ok_and(|text| GuestConfig::parse(&text).current.flag("unprivileged"))
    }

    /// What was on the root file system when the backup was made.
    pub(super) fn backup_inside(&self, node: &str, volid: &str) -> InGuest {
        let volume = self.volume(node, volid);
        let text = volume
            .and_then(|volume| volume.data.get(INSIDE))
            .map(String::as_str)
            .unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Options of a restored container: those of the backup with the given ones on top. Without given disks its own
    /// ones are allocated anew on `storage`.
    pub(super) fn restored_options(
        &self,
        node: &str,
        volid: &str,
        storage: &str,
        given: &BTreeMap<String, String>,
    ) -> Result<Section> {
        let config = GuestConfig::parse(&self.backup_config(node, volid)?).current;
        let mut options = BTreeMap::new();
        for (key, value) in &config.options {
            let dropped = matches!(key.as_str(), "lock" | "parent" | "template");
            if !dropped && !is_mount(key) && index_of(key, "unused").is_none() {
                options.insert(key.clone(), value.clone());
            }
        }
        if !given.keys().any(|key| is_mount(key)) {
            for (key, mut mount) in all_mounts(&config) {
                if mount.kind() == "volume" {
                    let size = mount
                        .parts
                        .remove("size")
                        .and_then(|text| parse_size(&text))
                        .unwrap_or(4 << 30);
                    mount.set("volume", format!("{storage}:{}", size as f64 / f64::from(1 << 30)));
                }
                options.insert(key, mount.print());
            }
        }
        options.extend(given.clone());
        Ok(Section {
            options,
            lxc: config.lxc,
        })
    }
}
