//! What the objects of one hypervisor share, turn by turn: places for Proxmox tasks, downloads of images, and clones of
//! one source. Whose turn it is says [`super::turns`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use crate::desired::Key;
use crate::observed::ClonePlace;
use crate::plan::Download;
use crate::pve::Vmid;

use super::cards::Book;
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
    /// Images that are being downloaded, with the object that does it, and those that wait for it.
    downloads: HashMap<Download, (Key, BTreeSet<Key>)>,
    /// Images that Proxmox fetched or compared with their checksums since the engine began: node and volume id.
    compared: HashSet<(String, String)>,
    /// Objects that wait for a clone, by source.
    clones: HashMap<Vmid, CloneQueue>,
    /// Graphics cards.
    cards: Book,
    /// Objects whose turn has come.
    woken: BTreeSet<Key>,
}

impl State {
    /// The places of a node; an object has one on one node.
    fn places(&mut self, key: &Key, node: &str) -> &mut Places {
        let others = self.tasks.iter_mut().filter(|(other, _)| *other != node);
        others.for_each(|(_, places)| {
            places.release(key);
        });
        self.tasks.entry(node.to_string()).or_default()
    }

    fn release(&mut self, key: &Key, limit: usize) {
        for places in self.tasks.values_mut() {
            if places.release(key) {
                self.woken.extend(places.next(limit));
            }
        }
        self.end_downloads(key);
        self.leave_clone_queue(key, |_| true);
    }

    fn end_downloads(&mut self, key: &Key) {
        let woken = &mut self.woken;
        self.downloads.retain(|_, (loader, waiting)| {
            if loader == key {
                woken.append(waiting);
            }
            loader != key
        });
    }

    fn leave_clone_queue(&mut self, key: &Key, which: impl Fn(&CloneQueue) -> bool) {
        let here = self.clones.values_mut();
        for queue in here
            .filter(|queue| queue.waits(key) || queue.clones(key))
            .filter(|queue| which(queue))
        {
            queue.leave(key);
            self.woken.extend(queue.next());
        }
        self.clones.retain(|_, queue| !queue.is_empty());
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

    /// Claims a place for a Proxmox task on a node (`limits.parallelTasksPerNode`). What waits for the object takes
    /// `behind` seconds.
    pub fn claim_task(&self, key: &Key, node: &str, behind: u64) -> bool {
        let mut state = self.lock();
        let places = state.places(key, node);
        places.claim(key, behind, self.parallel_tasks, Instant::now())
    }

    /// Notes a task that is under way already, such as one from before a restart: on a node, and if it is a clone, of which
    /// container.
    pub fn hold_task(&self, key: &Key, node: &str, clone_of: Option<Vmid>) {
        let mut state = self.lock();
        state.places(key, node).hold(key);
        if let Some(source) = clone_of {
            state.clones.entry(source).or_default().making(key);
        }
    }

    /// Gives the place and any download back.
    pub fn release(&self, key: &Key) {
        self.lock().release(key, self.parallel_tasks);
    }

    /// Claims the download of an image; `false` while another object does it.
    pub fn claim_download(&self, key: &Key, download: Download) -> bool {
        let mut state = self.lock();
        let (loader, waiting) = state
            .downloads
            .entry(download)
            .or_insert_with(|| (key.clone(), BTreeSet::new()));
        if loader != key {
            waiting.insert(key.clone());
        }
        loader == key
    }

    /// Notes that the object's download, if it did one, ended well: the file has the right checksum.
    pub fn downloaded(&self, key: &Key) {
        let mut state = self.lock();
        let done = state.downloads.iter().filter(|(_, (loader, _))| loader == key);
        let done: Vec<_> = done.map(|(d, _)| (d.node.clone(), d.volid.clone())).collect();
        state.compared.extend(done);
    }

    /// Whether Proxmox compared the file with its checksum since the engine began.
    pub fn is_compared(&self, node: &str, volid: &str) -> bool {
        self.lock().compared.contains(&(node.to_string(), volid.to_string()))
    }

    /// The object's place in the queue for clones of a source; it keeps it by asking again. What waits for this one takes
    /// `behind` seconds.
    pub fn queue_clone(&self, source: Vmid, key: &Key, behind: u64) -> ClonePlace {
        let mut state = self.lock();
        let state = &mut *state;
        let queue = state.clones.entry(source).or_default();
        let first = queue.next();
        let place = queue.ask(key, behind, Instant::now());
        // It may be somebody's turn that sleeps.
        state
            .woken
            .extend(queue.next().filter(|next| Some(next) != first.as_ref()));
        place
    }

    /// Containers of which a clone is being made.
    pub fn sources(&self) -> BTreeSet<Vmid> {
        let state = self.lock();
        let busy = state.clones.iter().filter(|(_, queue)| queue.is_busy());
        busy.map(|(source, _)| *source).collect()
    }

    /// Whether those that wait for clones of a source may not all have asked yet: it is less than a moment ago that the first
    /// did.
    pub fn is_new(&self, source: Vmid, moment: Duration) -> bool {
        let state = self.lock();
        let queue = state.clones.get(&source);
        queue.is_some_and(|queue| queue.is_new(moment, Instant::now()))
    }

    /// The object's clone of a source is asked for; where it is somebody else's turn, that one is woken, and the place of
    /// this one is returned.
    pub fn begin_clone(&self, source: Vmid, key: &Key) -> Option<ClonePlace> {
        let mut state = self.lock();
        let state = &mut *state;
        let queue = state.clones.entry(source).or_default();
        if queue.begins(key) {
            return None;
        }
        state.woken.extend(queue.next());
        Some(queue.place(key))
    }

    /// The object waits for no clone any more.
    pub fn leave_clone_queue(&self, key: &Key) {
        self.lock().leave_clone_queue(key, |_| true);
    }

    /// What is decided about graphics cards is decided one object at a time.
    pub(super) fn with_cards<T>(&self, decide: impl FnOnce(&mut Book) -> T) -> T {
        decide(&mut self.lock().cards)
    }

    /// A look at the object has ended that began at `began`, and no task works for it if it `rests`. What it waits for
    /// without having asked, and what it holds and rests, is given back. Whose turn it is then is returned.
    pub fn settle(&self, key: &Key, began: Instant, rests: bool) -> BTreeSet<Key> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut waits = false;
        for places in state.tasks.values_mut() {
            let freed = places.waits_no_more(key, began) | (rests && places.rests(key));
            waits |= places.waits(key);
            if freed {
                state.woken.extend(places.next(self.parallel_tasks));
            }
        }
        if rests && !waits {
            state.end_downloads(key);
        }
        let asked = |queue: &CloneQueue| queue.asked(key).is_some_and(|asked| asked >= began);
        state.leave_clone_queue(key, |queue| {
            (queue.clones(key) && rests) || (queue.waits(key) && !asked(queue))
        });
        state.woken.remove(key);
        std::mem::take(&mut state.woken)
    }
}
