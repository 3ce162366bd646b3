//! The state folder: management cluster id, and for each object what an API server would keep beside its spec.
//!
//! A write goes to a temporary file, which is synced and renamed, and the folder is synced, before the call that it
//! announces leaves (promise 1).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::crd::{GuestStatus, HypervisorStatus};

/// What is kept of one guest object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The object as it was applied last.
    pub object: Value,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// Grows with each write.
    pub version: u64,
    /// Whether the finalizer is set.
    #[serde(default)]
    pub finalizer: bool,
    /// Whether the object is being deleted.
    #[serde(default)]
    pub deleting: bool,
    /// Annotations set by verbs such as `phoenix restart`; they win over the manifest's.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Power state set by `phoenix start` and `phoenix stop`; it wins over the manifest's.
    #[serde(default)]
    pub power_state: Option<crate::crd::PowerState>,
    /// Status.
    #[serde(default)]
    pub status: GuestStatus,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process works with it.
    #[error("{0} is in use by another phoenix: wait for it to end, or use another --state folder")]
    Locked(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {message}: restore it from a backup; with the folder lost, --cluster-id takes the guests over")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The state folder, locked while it is open for work.
pub struct State {
    dir: PathBuf,
    /// Management cluster id.
    pub cluster_id: String,
    /// `None` for a reader: its writes go nowhere.
    lock: Option<File>,
}

impl Drop for State {
    /// Gives the lock back at once: a child process that was being started meanwhile holds a copy of the file until it
    /// runs its program.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            // It cannot fail on a lock that is held, and closing the file would release it as well.
            let _ = lock.unlock();
        }
    }
}

impl State {
    /// Opens or makes the folder. `cluster_id` overrides and is kept.
    ///
    /// # Errors
    /// When it is locked or cannot be written.
    pub fn open(dir: &Path, cluster_id: Option<&str>) -> Result<State, StateError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StateError::Locked(dir.to_path_buf())),
            Err(fs::TryLockError::Error(source)) => return Err(StateError::Io { path, source }),
        }
        let file = dir.join("cluster-id");
        let stored = fs::read_to_string(&file)
            .ok()
            .map(|t| t.trim().to_string())
            .filter(|t| !t.is_empty());
        let id = cluster_id
            .map(str::to_string)
            .or(stored.clone())
            .unwrap_or_else(|| Uuid::new_v4().to_string());
        if stored.as_ref() != Some(&id) {
            write_durably(&file, format!("{id}\n").as_bytes()).map_err(failed(&file))?;
        }
        Ok(State {
            dir: dir.to_path_buf(),
            cluster_id: id,
            lock: Some(lock),
        })
    }

    /// Opens the folder to look only: nothing in it changes, it may be missing, and another process may work with it,
    /// because each file is replaced at once. What is written stays in memory.
    ///
    /// # Errors
    /// When the cluster id cannot be read.
    pub fn read(dir: &Path, cluster_id: Option<&str>) -> Result<State, StateError> {
        let path = dir.join("cluster-id");
        let stored = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_string()).filter(|t| !t.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let id = cluster_id.map(str::to_string).or(stored);
        Ok(State {
            dir: dir.to_path_buf(),
            cluster_id: id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            lock: None,
        })
    }

    /// uid of an object: the same for the same name in the same management cluster.
    pub fn uid(&self, kind: &str, namespace: &str, name: &str) -> String {
        let space = Uuid::parse_str(&self.cluster_id)
            .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, self.cluster_id.as_bytes()));
        Uuid::new_v5(&space, format!("{kind}/{namespace}/{name}").as_bytes()).to_string()
    }

    fn path(&self, kind: &str, namespace: &str, name: &str) -> PathBuf {
        self.dir.join(format!("{kind}_{namespace}_{name}.json"))
    }

    /// All records.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, StateError> {
        if self.lock.is_none() && !self.dir.exists() {
            return Ok(Vec::new());
        }
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.dir)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
            .map_err(|source| StateError::Io {
                path: self.dir.clone(),
                source,
            })?;
        paths.sort();
        let guests = paths.iter().filter(|p| {
            let name = p
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            name.ends_with(".json") && !name.starts_with("PhoenixHypervisor_")
        });
        guests.map(|path| read(path)).collect()
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn write(&self, record: &Record) -> Result<(), StateError> {
        self.store(&self.path(&record.kind, &record.namespace, &record.name), record)
    }

    /// Removes a record.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) -> Result<(), StateError> {
        let path = self.path(kind, namespace, name);
        if self.lock.is_none() {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Io { path, source }),
            _ => Ok(()),
        }
    }

    /// Status of a hypervisor.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hypervisor(&self, namespace: &str, name: &str) -> Result<Option<HypervisorStatus>, StateError> {
        let path = self.path("PhoenixHypervisor", namespace, name);
        if path.exists() { read(&path).map(Some) } else { Ok(None) }
    }

    /// Writes a hypervisor's status.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn write_hypervisor(&self, namespace: &str, name: &str, status: &HypervisorStatus) -> Result<(), StateError> {
        self.store(&self.path("PhoenixHypervisor", namespace, name), status)
    }

    fn store<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), StateError> {
        if self.lock.is_none() {
            return Ok(());
        }
        let broken = |e: serde_json::Error| StateError::Broken {
            path: path.to_path_buf(),
            message: e.to_string(),
        };
        let text = serde_json::to_vec_pretty(value).map_err(broken)?;
        write_durably(path, &text).map_err(|source| StateError::Io {
            path: path.to_path_buf(),
            source,
        })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StateError> {
    let text = fs::read(path).map_err(|source| StateError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|e| StateError::Broken {
        path: path.to_path_buf(),
        message: e.to_string(),
    })
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_by_one_at_a_time_and_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), None).unwrap();
        let (id, uid) = (state.cluster_id.clone(), state.uid("PhoenixLXC", "ai", "qwen"));
        assert!(matches!(State::open(dir.path(), None), Err(StateError::Locked(_))));
        drop(state);
        let state = State::open(dir.path(), None).unwrap();
        assert_eq!(
            (state.cluster_id.as_str(), state.uid("PhoenixLXC", "ai", "qwen")),
            (id.as_str(), uid)
        );
        drop(state);
        assert_eq!(State::open(dir.path(), Some("other")).unwrap().cluster_id, "other");
        assert_eq!(State::open(dir.path(), None).unwrap().cluster_id, "other");
    }

    #[test]
    fn the_lock_goes_although_a_copy_of_the_file_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), None).unwrap();
        let copy = state.lock.as_ref().unwrap().try_clone().unwrap();
        drop(state);
        assert!(State::open(dir.path(), None).is_ok());
        drop(copy);
    }

    #[test]
    fn a_reader_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        let reader = State::read(&missing, None).unwrap();
        let record = Record {
            kind: "PhoenixLXC".into(),
            ..Record::default()
        };
        reader.write(&record).unwrap();
        assert!(reader.records().unwrap().is_empty());
        assert!(!missing.exists());

        let writer = State::open(dir.path(), None).unwrap();
        writer.write(&record).unwrap();
        let reader = State::read(dir.path(), None).unwrap();
        assert_eq!(reader.cluster_id, writer.cluster_id);
        reader.remove("PhoenixLXC", "", "").unwrap();
        assert_eq!(reader.records().unwrap(), vec![record]);
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_old_record() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), None).unwrap();
        let mut record = Record {
            kind: "PhoenixLXC".into(),
            namespace: "ai".into(),
            name: "a".into(),
            version: 1,
            ..Record::default()
        };
        state.write(&record).unwrap();
        // What a crash between write and rename leaves behind.
        fs::write(dir.path().join("PhoenixLXC_ai_a.tmp"), "{half").unwrap();
        assert_eq!(state.records().unwrap(), vec![record.clone()]);
        record.version = 2;
        state.write(&record).unwrap();
        assert_eq!(state.records().unwrap()[0].version, 2);
        fs::write(dir.path().join("PhoenixLXC_ai_a.json"), "{half").unwrap();
        assert!(matches!(state.records(), Err(StateError::Broken { .. })));
    }
}
