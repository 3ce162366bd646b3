//! Which storage is full, where Proxmox's words name a dataset or a path at best.

use crate::desired::{Desired, WantedGuest};
use crate::pve::property::stem;
use crate::reason::{Cause, Reason};

use super::blame::between;
use super::{Effect, Step};

/// What takes room on a storage that its value names.
const DISKS: &[&str] = &["rootfs", "mp", "scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"];

/// The failure with the name of the storage, if it is about one that is full.
pub(super) fn named(desired: &Desired, step: Option<&Step>, failure: Cause) -> Cause {
    if failure.reason != Reason::StorageFull || failure.message.contains("storage '") {
        return failure;
    }
    let storages = step.map_or_else(|| of_task(desired, &failure.message), storages);
    let quoted: Vec<String> = storages.iter().map(|s| format!("'{s}'")).collect();
    let which = match quoted.as_slice() {
        [] => return failure,
        [one] => format!("storage {one}"),
        several => format!("one of the storages {}", several.join(", ")),
    };
    Cause::new(failure.reason, format!("{which} is full: {}", failure.message))
}

/// The storages on which a task that failed allocates, as its words and the spec tell.
fn of_task(desired: &Desired, words: &str) -> Vec<String> {
    let creates = words.contains("unable to create ");
    let copied = between(words, "create full clone of ", ":").and_then(|text| text.split_once('('));
    let mut found: Vec<String> = match (&desired.guest, copied) {
        _ if !creates && copied.is_none() => Vec::new(),
        (WantedGuest::Lxc(lxc), _) => lxc.rootfs_storage.clone().into_iter().collect(),
        (WantedGuest::Vm(vm), _) => vm.disks.iter().flatten().filter_map(|d| d.storage.clone()).collect(),
    };
    if let Some((_, storage)) = copied.filter(|_| found.is_empty()) {
        found.push(storage.to_string());
    }
    found.dedup();
    found
}

/// The storages on which a step allocates, each once.
fn storages(step: &Step) -> Vec<String> {
    let (Effect::Call { call, .. } | Effect::Task { call, .. }) = &step.effect else {
        return Vec::new();
    };
    let of_path = call
        .path
        .split_once("/storage/")
        .and_then(|(_, rest)| rest.split('/').next());
    let mut found: Vec<String> = of_path
        .or(call.get_param("storage"))
        .map(str::to_string)
        .into_iter()
        .collect();
    for (key, value) in &call.params {
        let volume = value.trim_start_matches("file=").split(',').next().unwrap_or_default();
        let Some((storage, size)) = volume.split_once(':').filter(|_| DISKS.contains(&stem(key))) else {
            continue;
        };
        // Anything but a size is a volume that is there.
        if size.parse::<f64>().is_ok() && !found.iter().any(|s| s == storage) {
            found.push(storage.to_string());
        }
    }
    found
}
