//! What was read a moment ago, for all who need it at about the same time: fifty objects that are to be made at once ask
//! which cluster answers once, not fifty times. What something final hangs on is read anew for that step alone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::crd::status::ProxmoxCluster;
use crate::observed::{GuestRead, ScriptRecord};
use crate::proxmox::cluster::ClusterStatus;
use crate::proxmox::storage::{Storage, Volume};
use crate::pve::Vmid;
use crate::reason::Cause;

use super::observe::StampRead;

/// One answer. Who asks while it is being asked for waits for that answer, be it a failure.
pub struct Fresh<T>(tokio::sync::Mutex<Option<(Instant, Result<T, Cause>)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Fresh(tokio::sync::Mutex::new(None))
    }
}

impl<T: Clone> Fresh<T> {
    /// The answer, from no earlier than `since`.
    ///
    /// # Errors
    /// Those of `ask`, from no earlier than that either.
    pub async fn get(&self, since: Instant, ask: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        let fits = |at: Instant, answer: &Result<T, Cause>| match answer {
            Ok(_) => at >= since,
            // A failure is shared only with those who waited for it.
            Err(_) => at >= asked,
        };
        if let Some((_, answer)) = last.as_ref().filter(|(at, answer)| fits(*at, answer)) {
            return answer.clone();
        }
        let at = Instant::now();
        let answer = ask.await;
        *last = Some((at, answer.clone()));
        answer
    }
}

/// Answers by what they are about.
pub struct Keyed<K, T>(Mutex<HashMap<K, Arc<Fresh<T>>>>);

impl<K, T> Default for Keyed<K, T> {
    fn default() -> Self {
        Keyed(Mutex::default())
    }
}

impl<K: Hash + Eq, T: Clone> Keyed<K, T> {
    /// As [`Fresh::get`].
    ///
    /// # Errors
    /// Those of `ask`.
    pub async fn get(&self, key: K, since: Instant, ask: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
        let fresh = {
            let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            answers.entry(key).or_default().clone()
        };
        fresh.get(since, ask).await
    }
}

/// What was read of one hypervisor a moment ago.
pub struct Recent {
    time_scale: f64,
    /// The cluster that answers, and what tells it from another.
    pub cluster: Fresh<(Option<ClusterStatus>, Option<ProxmoxCluster>)>,
    /// Storages of a node.
    pub storages: Keyed<String, Vec<Storage>>,
    /// Volumes of a storage, by node and storage, or of one content of it (`local:vztmpl`).
    pub volumes: Keyed<(String, String), Arc<Vec<Volume>>>,
    /// Templates that others are cloned from.
    pub parents: Keyed<Vmid, GuestRead>,
    /// Stamps of guests, by vmid and node.
    pub stamps: Keyed<(Vmid, String), StampRead>,
    /// Scripts that ran well, by vmid and id.
    scripts: Mutex<HashMap<(Vmid, String), Ran>>,
}

/// A script that ran well.
struct Ran {
    /// Process of the guest that it ran in.
    pid: i64,
    /// When it was read.
    at: Instant,
    record: ScriptRecord,
}

impl Recent {
    /// Nothing was read yet; time goes so many times faster than it does for people.
    pub fn new(time_scale: f64) -> Self {
        Recent {
            time_scale,
            cluster: Fresh::default(),
            storages: Keyed::default(),
            volumes: Keyed::default(),
            parents: Keyed::default(),
            stamps: Keyed::default(),
            scripts: Mutex::default(),
        }
    }

    /// The record of a script that ran well in this start of its guest, read in the last `seconds`.
    pub fn script(&self, vmid: Vmid, pid: Option<i64>, id: &str, seconds: f64) -> Option<ScriptRecord> {
        let scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = scripts.get(&(vmid, id.to_string()))?;
        (Some(ran.pid) == pid && ran.at >= self.ago(seconds)).then(|| ran.record.clone())
    }

    /// Notes what a script's record says: that of one which ran well stays as it is.
    pub fn note_script(&self, vmid: Vmid, pid: Option<i64>, id: &str, record: &ScriptRecord) {
        let place = (vmid, id.to_string());
        let ran = record.exit_code == Some(0) && record.this_start == Some(true) && !record.running;
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        match pid.filter(|_| ran) {
            Some(pid) => {
                // Nobody reads what a script said that ran well.
                let record = ScriptRecord {
                    output: String::new(),
                    ..record.clone()
                };
                let at = Instant::now();
                scripts.insert(place, Ran { pid, at, record });
            }
            None => drop(scripts.remove(&place)),
        }
    }

    /// A script is started anew, or stopped.
    pub fn forget_script(&self, vmid: Vmid, id: &str) {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.remove(&(vmid, id.to_string()));
    }

    /// So many seconds ago.
    pub fn ago(&self, seconds: f64) -> Instant {
        let now = Instant::now();
        let ago = Duration::from_secs_f64(seconds / self.time_scale);
        now.checked_sub(ago).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::reason::Reason;

    #[tokio::test(start_paused = true)]
    async fn who_asks_at_the_same_time_gets_the_same_answer() {
        let (fresh, asked) = (Fresh::default(), AtomicUsize::new(0));
        let ask = |answer: Result<i64, Cause>| {
            let (fresh, asked) = (&fresh, &asked);
            async move {
                let work = async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    answer
                };
                fresh.get(Instant::now() - Duration::from_secs(2), work).await
            }
        };
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (a, b) = tokio::join!(ask(Ok(1)), ask(Ok(2)));
        assert_eq!((a, b, asked.load(Ordering::SeqCst)), (Ok(1), Ok(1), 1));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(ask(Ok(3)).await, Ok(3), "it was too old");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let failure = || Cause::new(Reason::HypervisorUnreachable, "no");
        assert_eq!(ask(Err(failure())).await, Err(failure()));
        assert_eq!(ask(Ok(4)).await, Ok(4), "a failure is asked about again at once");
    }
}
