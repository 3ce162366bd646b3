//! What the objects of one hypervisor share, turn by turn: places for Proxmox tasks, downloads of images, and clones of
//! one source. Whose turn it is says [`super::turns`].

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use crate::desired::Key;
use crate::observed::ClonePlace;
use crate::plan::Download;
use crate::pve::Vmid;

use super::turns::{CloneQueue, Places};

/// The shares of one hypervisor.
pub struct Shares {
    /// Tasks that may run on a node at once (`limits.parallelTasksPerNode`).
    parallel_tasks: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Places for Proxmox tasks, by node.
    tasks: HashMap<String, Places>,
    /// Images that are being downloaded, with the object that does it.
    downloads: HashMap<Download, Key>,
    /// Images that Proxmox fetched or compared with their checksums since the engine began: node and volume id.
    compared: HashSet<(String, String)>,
    /// Objects that wait for a clone, by source.
    clones: HashMap<Vmid, CloneQueue>,
}

impl State {
    /// The places of a node; an object has one on one node.
    fn places(&mut self, key: &Key, node: &str) -> &mut Places {
        let others = self.tasks.iter_mut().filter(|(other, _)| *other != node);
        others.for_each(|(_, places)| places.release(key));
        self.tasks.entry(node.to_string()).or_default()
    }
}

impl Shares {
    /// Nothing is shared out yet; so many tasks may run on a node at once.
    pub fn new(parallel_tasks: usize) -> Self {
        Shares {
            parallel_tasks,
            state: Mutex::default(),
        }
    }

    // Each change is one insertion or removal, so what a panicking thread leaves is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a place for a Proxmox task on a node (`limits.parallelTasksPerNode`).
    pub fn claim_task(&self, key: &Key, node: &str) -> bool {
        let mut state = self.lock();
        state.places(key, node).claim(key, self.parallel_tasks, Instant::now())
    }

    /// Notes a task that is under way already, such as one from before a restart.
    pub fn hold_task(&self, key: &Key, node: &str) {
        self.lock().places(key, node).hold(key);
    }

    /// Gives the place and any download back.
    pub fn release(&self, key: &Key) {
        let mut state = self.lock();
        state.tasks.values_mut().for_each(|places| places.release(key));
        state.downloads.retain(|_, k| k != key);
    }

    /// Claims the download of an image; `false` while another object does it.
    pub fn claim_download(&self, key: &Key, download: Download) -> bool {
        let mut state = self.lock();
        state.downloads.entry(download).or_insert_with(|| key.clone()) == key
    }

    /// Notes that the object's download, if it did one, ended well: the file has the right checksum.
    pub fn downloaded(&self, key: &Key) {
        let mut state = self.lock();
        let done = state.downloads.iter().filter(|(_, k)| *k == key);
        let done: Vec<_> = done.map(|(d, _)| (d.node.clone(), d.volid.clone())).collect();
        state.compared.extend(done);
    }

    /// Whether Proxmox compared the file with its checksum since the engine began.
    pub fn is_compared(&self, node: &str, volid: &str) -> bool {
        self.lock().compared.contains(&(node.to_string(), volid.to_string()))
    }

    /// The object's place in the queue for clones of a source; it keeps it by asking again.
    pub fn queue_clone(&self, source: Vmid, key: &Key) -> ClonePlace {
        let mut state = self.lock();
        state.clones.entry(source).or_default().ask(key, Instant::now())
    }

    /// The object waits for no clone any more.
    pub fn leave_clone_queue(&self, key: &Key) {
        let mut state = self.lock();
        state.clones.values_mut().for_each(|queue| queue.leave(key));
        state.clones.retain(|_, queue| !queue.is_empty());
    }
}
