//! The graphics cards that a container asks for.

use std::collections::BTreeMap;
use std::fmt;

use kube::ResourceExt;

use crate::crd::{DriverPolicy, GPU_DRIVER, Gpu, GpuNodes, LxcGuest, PhoenixHypervisor};
use crate::pve::units;
use crate::reason::Reason;

use super::{Blocked, GuestObject};

/// Share of a card's memory that vLLM takes where nothing is given: the default of `vllm serve --gpu-memory-utilization`.
const VLLM_DEFAULT: f64 = 0.9;
/// Permissions of device nodes where none are given.
pub(crate) const MODE: &str = "0666";

/// What the hypervisor's owner lets Phoenix do to the nodes' cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardPolicy {
    /// Device nodes that a node lacks are made.
    pub ensures_nodes: bool,
    /// The driver in guests follows that of their nodes.
    pub heals_drivers: bool,
    /// Drivers that cards may be bound to, by `NODE/ADDRESS`.
    drivers: BTreeMap<String, String>,
}

impl CardPolicy {
    /// What a hypervisor says.
    ///
    /// # Errors
    /// The annotation cannot be read: its value and how it is written.
    pub fn of(hypervisor: &PhoenixHypervisor) -> Result<CardPolicy, Blocked> {
        let nodes = hypervisor.spec.host.as_ref().and_then(|host| host.gpu_nodes);
        let text = hypervisor
            .annotations()
            .get(GPU_DRIVER)
            .map(String::as_str)
            .unwrap_or_default();
        let mut drivers = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let card = part.split_once('=').filter(|(card, driver)| {
                let whole = card
                    .split_once('/')
                    .is_some_and(|(node, at)| !node.is_empty() && at.contains(':'));
                whole && ["vfio", "nvidia"].contains(driver)
            });
            let Some((card, driver)) = card else {
                return Err(Blocked::stalled(
                    Reason::InvalidSpec,
                    format!(
                        "metadata.annotations[{GPU_DRIVER}] of the PhoenixHypervisor: {part:?} is not NODE/ADDRESS=vfio or NODE/ADDRESS=nvidia, such as pve1/0000:01:00.0=vfio: correct it"
                    ),
                ));
            };
            drivers.insert(card.to_string(), driver.to_string());
        }
        Ok(CardPolicy {
            heals_drivers: hypervisor.spec.driver_policy == Some(DriverPolicy::Heal),
            ensures_nodes: nodes == Some(GpuNodes::Ensure),
            drivers,
        })
    }

    /// Whether a card of a node may be bound to a driver.
    pub fn lets(&self, node: &str, address: &str, driver: &str) -> bool {
        self.drivers
            .get(&format!("{node}/{address}"))
            .is_some_and(|given| given == driver)
    }
}

/// Which card an entry of `gpus` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By index as nvidia-smi counts.
    Index(i64),
    /// By PCI address.
    Address(String),
    /// By UUID of a card or of a MIG instance.
    Uuid(String),
    /// One of so many, with a model and memory of at least so many MiB.
    Counted {
        /// Which of them, from 0.
        nth: usize,
        /// What the model contains.
        model: Option<String>,
        /// Memory at least, in MiB.
        memory_mib: Option<u64>,
    },
}

impl Selector {
    /// The field of the entry that it comes from.
    fn field(&self) -> &'static str {
        match self {
            Selector::Index(_) => "index",
            Selector::Address(_) => "pciAddress",
            Selector::Uuid(_) => "uuid",
            Selector::Counted { .. } => "count",
        }
    }

    /// What the field says; of counted ones, which kind.
    fn value(&self) -> String {
        match self {
            Selector::Index(index) => index.to_string(),
            Selector::Address(text) | Selector::Uuid(text) => text.clone(),
            Selector::Counted { nth, model, memory_mib } => {
                let model = model.as_ref().map(|model| format!(" of model {model:?}"));
                let memory = memory_mib.map(|mib| format!(" with {mib}Mi at least"));
                let (model, memory) = (model.unwrap_or_default(), memory.unwrap_or_default());
                format!("{} or more{model}{memory}", nth + 1)
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Index(index) => write!(f, "index={index}"),
            Selector::Address(address) => write!(f, "pciAddress={address}"),
            Selector::Uuid(uuid) => write!(f, "uuid={uuid}"),
            Selector::Counted { nth, model, memory_mib } => {
                write!(f, "count#{nth}")?;
                if let Some(model) = model {
                    write!(f, " model={model}")?;
                }
                match memory_mib {
                    Some(memory) => write!(f, " vramAtLeast={memory}Mi"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// How much of a card's memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A share of it.
    Share(f64),
    /// GiB.
    Gib(f64),
}

/// A card that a container asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedGpu {
    /// Number of the entry of `gpus`.
    pub entry: usize,
    /// Which card.
    pub selector: Selector,
    /// How much of its memory; `None`: it is not said.
    pub amount: Option<Amount>,
    /// The field that says so, for messages: `gpus[0].vramShare` or `vllm.gpuMemoryUtilization`.
    pub amount_from: String,
    /// Nobody else may have it.
    pub exclusive: bool,
    /// Nodes below `/dev/dri`, too.
    pub dri: bool,
    /// Permissions of the device nodes.
    pub mode: String,
    /// Group of the device nodes.
    pub gid: Option<i64>,
}

impl WantedGpu {
    /// What is asked for, with its field: `spec.gpus[0].index: 7`.
    pub fn asked(&self, prefix: &str) -> String {
        let selector = &self.selector;
        format!(
            "{prefix}.gpus[{}].{}: {}",
            self.entry,
            selector.field(),
            selector.value()
        )
    }
}

impl fmt::Display for WantedGpu {
    /// As fingerprints have it: the index alone, where nothing else is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Index(index) => write!(f, "{index}")?,
            other => write!(f, "{other}")?,
        }
        match self.amount.filter(|_| self.amount_from.starts_with("gpus")) {
            Some(Amount::Share(share)) => write!(f, ";share={share}")?,
            Some(Amount::Gib(gib)) => write!(f, ";gib={gib}")?,
            None => {}
        }
        for (on, word) in [(self.exclusive, ";exclusive"), (self.dri, ";dri")] {
            if on {
                f.write_str(word)?;
            }
        }
        if self.mode != MODE {
            write!(f, ";mode={}", self.mode)?;
        }
        match self.gid {
            Some(gid) => write!(f, ";gid={gid}"),
            None => Ok(()),
        }
    }
}

/// The cards that a container asks for, one for each; `None`: it leaves them alone.
///
/// # Errors
/// A quantity that cannot be read, with the field.
pub fn wanted_gpus(object: &GuestObject, guest: &LxcGuest) -> Result<Option<Vec<WantedGpu>>, Blocked> {
    let Some(list) = &guest.gpus else { return Ok(None) };
    let mut wanted = Vec::new();
    for (entry, gpu) in list.iter().enumerate() {
        let field = format!("{}.gpus[{entry}]", object.field_prefix());
        let memory_mib = gpu
            .vram_at_least
            .as_ref()
            .map(|size| units::whole_mib(&format!("{field}.vramAtLeast"), size))
            .transpose()
            .map_err(|message| Blocked::stalled(Reason::InvalidSpec, message))?;
        let memory_mib = memory_mib.and_then(|mib| u64::try_from(mib).ok());
        for selector in selectors(gpu, memory_mib) {
            let (amount, amount_from) = amount(gpu, guest, entry);
            wanted.push(WantedGpu {
                entry,
                selector,
                amount,
                amount_from,
                exclusive: gpu.exclusive == Some(true),
                dri: gpu.dri == Some(true),
                mode: gpu
                    .mode
                    .clone()
                    .map_or_else(|| MODE.into(), |mode| format!("{mode:0>4}")),
                gid: gpu.gid,
            });
        }
    }
    Ok(Some(wanted))
}

/// Share of its cards' memory that a container's vLLM may take where its block does not say: the smallest that its GPUs
/// give it.
pub(crate) fn share_for_vllm(guest: &LxcGuest) -> Option<f64> {
    let shares = guest.gpus.iter().flatten().filter_map(|gpu| gpu.vram_share);
    shares.reduce(f64::min)
}

fn selectors(gpu: &Gpu, memory_mib: Option<u64>) -> Vec<Selector> {
    let one = |selector| vec![selector];
    match gpu {
        Gpu { index: Some(index), .. } => one(Selector::Index(*index)),
        Gpu {
            pci_address: Some(address),
            ..
        } => one(Selector::Address(address.to_ascii_lowercase())),
        Gpu { uuid: Some(uuid), .. } => one(Selector::Uuid(uuid.clone())),
        _ => {
            let count = usize::try_from(gpu.count.unwrap_or_default()).unwrap_or_default();
            let counted = (0..count).map(|nth| Selector::Counted {
                nth,
                model: gpu.model.clone(),
                memory_mib,
            });
            counted.collect()
        }
    }
}

/// How much of each card's memory an entry asks for, and the field that says so.
fn amount(gpu: &Gpu, guest: &LxcGuest, entry: usize) -> (Option<Amount>, String) {
    let own = |field: &str| format!("gpus[{entry}].{field}");
    if gpu.exclusive == Some(true) {
        return (None, own("exclusive"));
    }
    if let Some(share) = gpu.vram_share {
        return (Some(Amount::Share(share)), own("vramShare"));
    }
    if let Some(gib) = gpu.vram_gib {
        return (Some(Amount::Gib(gib)), own("vramGiB"));
    }
    match &guest.vllm {
        Some(vllm) => {
            let given = vllm.gpu_memory_utilization;
            let share = Amount::Share(given.unwrap_or(VLLM_DEFAULT));
            (Some(share), "vllm.gpuMemoryUtilization".into())
        }
        None => (None, own("vramShare")),
    }
}
