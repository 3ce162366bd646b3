//! Checks across guests: addresses, dependencies, GPU shares and sizes that do not go together.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{Gpu, SHARED_ADDRESS};

use super::guests::{Guest, Guests};
use super::json::At;
use super::ledger::Ledger;
use super::network::{Addresses, Used};
use super::report::Severity;
use super::values;
use super::vllm::Server;
use super::writer::Writer;

/// Keys of a disk's size.
const SIZES: [&str; 3] = ["storage_size_gb", "disk_size_gb", "rootfs_size_gb"];

/// What mapping the guests brought to light.
#[derive(Debug, Default)]
pub struct Seen<'a> {
    /// Addresses in use.
    pub addresses: Addresses<'a>,
    /// Ids that each guest depends on.
    depends: BTreeMap<usize, BTreeSet<i64>>,
    /// Shares of each GPU's memory.
    shares: BTreeMap<i64, Vec<(f64, Used<'a>)>>,
    /// Size of each guest's root filesystem, in MiB.
    rootfs: BTreeMap<i64, i64>,
}

impl<'a> Seen<'a> {
    /// Maps `gpu_assignment`. Here null and blank text are a wish: no GPU.
    pub fn gpus(&mut self, w: &mut Writer, guest: &At<'a>) -> Option<Vec<Gpu>> {
        let at = ["gpu_assignment", "gpus"].iter().find_map(|k| guest.get(k))?;
        let Some(indices) = values::gpu_indices(at.node) else {
            let message = format!("{} {} names no GPU indices", at.key(), at.node.show());
            w.skip_warn(&at, &message, "give indices such as \"0\" or \"0,1\", or \"none\"");
            return None;
        };
        let mut unique: Vec<i64> = Vec::new();
        for index in indices {
            if unique.contains(&index) {
                w.warn(&at, &format!("{} names GPU {index} twice", at.key()), "name it once");
            } else if unique.len() < 16 {
                unique.push(index);
            } else {
                w.warn(&at, "more than 16 GPUs: the rest is left out", "name at most 16");
            }
        }
        let note = if unique.is_empty() {
            "an empty list: none, while an absent one would be unmanaged"
        } else {
            ""
        };
        w.mapped(&at, "gpus", note);
        let gpu = |index| Gpu {
            index: Some(index),
            ..Gpu::default()
        };
        Some(unique.into_iter().map(gpu).collect())
    }

    /// Notes what a vLLM server takes of its GPUs.
    pub fn vllm(&mut self, w: &mut Writer, guest: &At<'a>, server: &Server, gpus: Option<&[Gpu]>) {
        let Some(gpus) = gpus else { return };
        let vllm = &server.block;
        if vllm.tensor_parallel_size.is_some_and(|n| n > gpus.len() as i64) {
            let wanted = vllm.tensor_parallel_size.unwrap_or_default();
            let message = format!(
                "tensor parallelism over {wanted} GPUs, but the guest has {}: so many are written",
                gpus.len().max(1)
            );
            w.warn(
                &server.place("tensorParallelSize", guest),
                &message,
                "assign as many GPUs, and raise tensorParallelSize again",
            );
        }
        for index in gpus.iter().filter_map(|g| g.index) {
            let Some(share) = vllm.gpu_memory_utilization else {
                continue;
            };
            let used = Used {
                value: share.to_string(),
                at: server.place("gpuMemoryUtilization", guest),
                label: w.label.clone(),
            };
            self.shares.entry(index).or_default().push((share, used));
        }
    }

    /// Notes a dependency.
    pub fn depends(&mut self, guest: usize, on: i64) {
        self.depends.entry(guest).or_default().insert(on);
    }

    /// Notes the size of a root filesystem in MiB; a clone cannot be smaller than its source. Templates stand before
    /// their clones or after them, so this is asked of both.
    /// `defaults` hold the size of guests that name none.
    pub fn rootfs(
        &mut self,
        w: &mut Writer,
        guest: &Guest<'a>,
        size: Option<i64>,
        guests: &Guests<'a>,
        defaults: Option<&At<'a>>,
    ) {
        let Some(size) = size else { return };
        self.rootfs.insert(guest.id, size);
        let parent = guest.parent.and_then(|p| guests.list.get(p));
        let given = |at: &At<'a>| {
            SIZES
                .iter()
                .find_map(|k| at.get(k))
                .filter(|s| !values::is_unset(s.node))
        };
        let own = |g: &Guest<'a>| {
            let at = given(&g.at).or_else(|| defaults.and_then(given));
            at.and_then(|at| values::mebibytes(at.node, 1024))
        };
        if let Some(larger) = parent.and_then(own).filter(|p| *p > size) {
            let message = format!(
                "its disk of {} is smaller than that of its template ({})",
                values::quantity(size),
                values::quantity(larger)
            );
            let at = given(&guest.at).unwrap_or_else(|| guest.at.clone());
            w.warn(&at, &message, "make it at least as large: a disk never shrinks");
        }
    }

    /// Looks for what does not go together.
    pub fn check(&self, guests: &Guests, node: Option<&(Ipv4Addr, At)>, ledger: &mut Ledger) {
        duplicates(&self.addresses.ips, "IP address", ledger);
        duplicates(&self.addresses.macs, "MAC address", ledger);
        let gateways: BTreeSet<&str> = self.addresses.gateways.iter().map(|g| g.value.as_str()).collect();
        for used in &self.addresses.ips {
            let fix = "give the guest an address of its own";
            if node.is_some_and(|(ip, _)| ip.to_string() == used.value) {
                let message = format!("{}: IP address {} is that of the hypervisor", used.label, used.value);
                ledger.find(Severity::Warning, &used.at, message, fix);
            } else if gateways.contains(used.value.as_str()) {
                let message = format!("{}: IP address {} is that of a gateway", used.label, used.value);
                ledger.find(Severity::Warning, &used.at, message, fix);
            }
        }
        for (gpu, shares) in &self.shares {
            let sum: f64 = shares.iter().map(|(share, _)| share).sum();
            if let (true, Some((_, last))) = (sum > 1.0 + 1e-9, shares.last()) {
                let who: Vec<_> = shares
                    .iter()
                    .map(|(share, used)| format!("{} {share}", used.label))
                    .collect();
                let message = format!("GPU {gpu} is given out {sum:.2} times: {}", who.join(", "));
                ledger.find(
                    Severity::Warning,
                    &last.at,
                    message,
                    "lower vllm_gpu_memory_utilization, or spread them",
                );
            }
        }
        self.circles(guests, ledger);
    }

    /// Guests that wait for each other, through `dependencies` and through what they are cloned from. Guests that wait
    /// for nobody, then guests nobody waits for, are taken away until only circles and ways between them are left.
    fn circles(&self, guests: &Guests, ledger: &mut Ledger) {
        let index: BTreeMap<i64, usize> = guests.list.iter().enumerate().map(|(n, g)| (g.id, n)).collect();
        let mut waits: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); guests.list.len()];
        for (n, guest) in guests.list.iter().enumerate() {
            let ids = self.depends.get(&n).into_iter().flatten();
            waits[n].extend(ids.filter_map(|id| index.get(id)));
            waits[n].extend(guest.parent);
        }
        let forward = peel(&waits, (0..waits.len()).collect());
        let mut back: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); waits.len()];
        for n in &forward {
            for m in waits[*n].intersection(&forward) {
                back[*m].insert(*n);
            }
        }
        let circles = peel(&back, forward);
        for n in &circles {
            let guest = &guests.list[*n];
            let Some(at) = guest.at.get("dependencies").or_else(|| guest.at.get("depends_on")) else {
                continue;
            };
            let others: Vec<_> = waits[*n]
                .intersection(&circles)
                .map(|m| guests.list[*m].id.to_string())
                .collect();
            let message = format!(
                "{}: its dependencies run in a circle, through {}",
                guest.label(),
                others.join(", ")
            );
            ledger.find(
                Severity::Warning,
                &at,
                message,
                "drop one of the dependencies: none of these guests can start first",
            );
        }
    }
}

/// What is left of `left` when again and again all are taken away that have no edge within it.
fn peel(edges: &[BTreeSet<usize>], mut left: BTreeSet<usize>) -> BTreeSet<usize> {
    let mut open: Vec<usize> = edges.iter().map(|e| e.intersection(&left).count()).collect();
    let mut reverse: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for n in &left {
        for m in edges[*n].intersection(&left) {
            reverse[*m].push(*n);
        }
    }
    let mut free: Vec<usize> = left.iter().copied().filter(|n| open[*n] == 0).collect();
    while let Some(n) = free.pop() {
        left.remove(&n);
        for m in &reverse[n] {
            open[*m] -= 1;
            if open[*m] == 0 {
                free.push(*m);
            }
        }
    }
    left
}

fn duplicates(used: &[Used], what: &str, ledger: &mut Ledger) {
    let mut first: BTreeMap<&str, &Used> = BTreeMap::new();
    for one in used {
        match first.get(one.value.as_str()) {
            None => {
                first.insert(&one.value, one);
            }
            Some(other) => {
                let message = format!("{}: {what} {} is also that of {}", one.label, one.value, other.label);
                ledger.find(
                    Severity::Warning,
                    &one.at,
                    message,
                    format!(
                        "give one of them another {what}, and take the annotation {SHARED_ADDRESS} off, with which both run as before"
                    ),
                );
            }
        }
    }
}
