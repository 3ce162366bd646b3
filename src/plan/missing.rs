//! What a node lacks that a guest is to have from it: which field asks for it, and what to do on the node.

use crate::desired::{Desired, Selector, WantedGpu};
use crate::reason::{Cause, Reason};

use super::blame::between;

/// Path of a GPU's device node without the index.
const GPU: &str = "/dev/nvidia";

/// The node that refused something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// Its name; empty where it is not known.
    pub node: &'a str,
    /// How many GPUs of NVIDIA's it has, where that is known.
    pub gpus: Option<usize>,
}

impl Place<'_> {
    /// The node in words.
    pub(super) fn words(&self) -> String {
        match self.node {
            "" => "the node".into(),
            name => format!("node {name}"),
        }
    }
}

/// Whether the words say that a GPU's device node is missing, so that it helps to know which GPUs the node has.
pub fn lacks_gpu(words: &str) -> bool {
    device_of(words).is_some_and(|path| index_of(path).is_some())
}

fn device_of(words: &str) -> Option<&str> {
    between(words, "Device ", " does not exist")
}

fn index_of(path: &str) -> Option<i64> {
    path.strip_prefix(GPU)?.parse().ok()
}

/// What is missing, where the words say that a device node or a mapping is.
pub(super) fn explain(desired: &Desired, place: &Place<'_>, words: &str) -> Option<Cause> {
    if let Some(path) = device_of(words) {
        let message = device(desired, place, path);
        return Some(Cause::new(Reason::DeviceMissing, message));
    }
    let (message, reason) = (mapping(desired, place, words)?, Reason::ProxmoxRefused);
    Some(Cause { reason, message })
}

fn device(desired: &Desired, place: &Place<'_>, path: &str) -> String {
    let (prefix, node) = (desired.field_prefix(), place.words());
    let own = desired
        .lxc()
        .and_then(|lxc| lxc.devices.iter().position(|d| d.path == path));
    if let Some(at) = own {
        return format!(
            "{prefix}.devices[{at}].path: {node} has no {path}: plug it in or load its driver there, or name another"
        );
    }
    match path.strip_prefix(GPU) {
        Some("-uvm" | "-uvm-tools") => format!(
            "{prefix}.gpus: {node} has no {path}: its driver's module nvidia_uvm is not loaded, as after a boot before any CUDA program: run nvidia-modprobe -u -c=0 there, and let a service such as nvidia-persistenced or a unit of your own do it at each boot"
        ),
        Some(index) if index_of(path).is_some() => {
            let gpus = desired.lxc().and_then(|lxc| lxc.gpus.as_deref()).unwrap_or_default();
            let named = |gpu: &WantedGpu| index_of(path).map(Selector::Index).as_ref() == Some(&gpu.selector);
            let at = gpus.iter().find(|gpu| named(gpu)).map(|gpu| gpu.entry);
            let at = at.map_or_else(|| "gpus".to_string(), |at| format!("gpus[{at}].index"));
            let fix = fix_of_index(index_of(path), place, path);
            format!("{prefix}.{at}: {index}: {node} has no {path}: {fix}")
        }
        Some("ctl") => format!(
            "{prefix}.gpus: {node} has no {path}: load NVIDIA's driver there (modprobe nvidia; nvidia-smi shows whether it works)"
        ),
        _ => {
            format!("{prefix}: {node} has no device node {path}: plug it in or load its driver there, or leave it out")
        }
    }
}

fn fix_of_index(index: Option<i64>, place: &Place<'_>, path: &str) -> String {
    let Some(count) = place.gpus else {
        return "name a GPU that nvidia-smi -L shows there".into();
    };
    let has = index.and_then(|index| usize::try_from(index).ok());
    if count == 0 {
        return "it has no NVIDIA GPU: leave gpus out, or choose another node".into();
    }
    let there: Vec<String> = (0..count).map(|index| index.to_string()).collect();
    let there = there.join(", ");
    match has.filter(|index| *index < count) {
        Some(index) => format!(
            "it has the NVIDIA GPUs {there}, so its driver is not loaded, or has not made {path}: run modprobe nvidia and nvidia-modprobe -c={index} there"
        ),
        None => format!("it has the NVIDIA GPUs {there}: name one of these"),
    }
}

fn mapping(desired: &Desired, place: &Place<'_>, words: &str) -> Option<String> {
    let (prefix, node) = (desired.field_prefix(), place.words());
    let vm = desired.vm()?;
    for (sort, field, list) in [("PCI", "pci", &vm.pci), ("USB", "usb", &vm.usb)] {
        let unknown = between(words, &format!("{sort} device mapping not found for '"), "'");
        let Some(id) = unknown else { continue };
        let mut devices = list.iter().flatten();
        let at = devices.position(|device| device.get("mapping").is_some_and(|own| own == id));
        let at = at.map_or_else(|| field.to_string(), |at| format!("{field}[{at}].mapping"));
        return Some(format!(
            "{prefix}.{at}: {id:?}: no {sort} mapping of that name has a device of {node}: add it in Datacenter > Resource Mappings, or name another"
        ));
    }
    None
}
