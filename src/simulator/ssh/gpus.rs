//! What the program for graphics cards prints on a node. It is not executed: the node's model answers.

use std::fmt::Write as _;

use super::Reply;
use super::runner::Outcome;
use crate::simulator::model::State;
use crate::simulator::model::guest::GuestKind;
use crate::simulator::model::node::{Gpu, Node};

/// First line of the program.
pub const HEADER: &str = "# phoenix-node: gpus";

/// NVIDIA cards that nvidia-smi lists, with their index: those that its driver has, in the order of the bus.
pub fn counted(node: &Node) -> impl Iterator<Item = (usize, &Gpu)> {
    let nvidia = node.nvidia_driver.as_deref();
    let listed = node
        .gpus
        .iter()
        .filter(move |gpu| gpu.bound_to(nvidia) == "nvidia" && !gpu.lost);
    listed.enumerate()
}

/// Answers the program.
pub fn look(state: &State, node: &str) -> Reply {
    let mut out = String::from("begin\n");
    if let Some(found) = state.nodes.get(node) {
        cards(&mut out, found);
        smi(&mut out, found);
        for path in found.devices.iter().filter(|path| is_of_cards(path)) {
            let _ = writeln!(out, "node|{path}");
        }
        for gpu in &found.gpus {
            let device = gpu.pci.rsplit_once('.').map_or(gpu.pci.as_str(), |(device, _)| device);
            for (at, words) in &gpu.xids {
                let _ = writeln!(
                    out,
                    "xid|{}.000000 {node} kernel: NVRM: Xid (PCI:{device}): {words}",
                    at / 1000
                );
            }
        }
    }
    guests(&mut out, state, node);
    out.push_str("end\n");
    Reply::ok(out)
}

/// First words of a program that does something to cards: `nodes minors=0 1` or `bind address=… driver=…`.
pub const WORK: &str = "# phoenix-node: gpu-";

/// Work at a node's cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Device nodes are made.
    Nodes(Vec<u32>),
    /// A card is bound to a driver.
    Bind(String, String),
}

impl Work {
    /// Understands the program, or says what in it is not known.
    pub fn parse(stdin: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(stdin);
        let first = text.lines().next().unwrap_or_default();
        let what = first.trim_start_matches(WORK);
        if let Some(minors) = what.strip_prefix("nodes minors=") {
            return Ok(Self::Nodes(minors.split(' ').filter_map(|n| n.parse().ok()).collect()));
        }
        let bind = what
            .strip_prefix("bind address=")
            .and_then(|rest| rest.split_once(" driver="));
        match bind {
            Some((address, driver)) => Ok(Self::Bind(address.to_owned(), driver.to_owned())),
            None => Err(format!("{first:?} is not known")),
        }
    }

    /// What it does, in a few words.
    pub fn summary(&self) -> String {
        match self {
            Self::Nodes(_) => "make device nodes of graphics cards".into(),
            Self::Bind(address, driver) => format!("bind {address} to {driver}"),
        }
    }

    /// Does it.
    pub fn run(&self, state: &mut State, node: &str) -> Reply {
        let holds = |guest: &crate::simulator::model::Guest, address: &String| {
            guest.node == node && guest.running.is_some() && guest.machine.pci.contains(address)
        };
        let held = |address: &String| {
            state
                .guests
                .values()
                .find(|guest| holds(guest, address))
                .map(|guest| guest.vmid)
        };
        if let Self::Bind(address, _) = self
            && let Some(vmid) = held(address)
        {
            return Reply::fail(1, format!("{address} is in use by machine {vmid}"));
        }
        let Some(found) = state.nodes.get_mut(node) else {
            return Reply::fail(1, format!("there is no node {node}"));
        };
        match self {
            Self::Nodes(_) if found.nvidia_driver.is_none() => Reply::fail(
                1,
                "nvidia-modprobe is not there: install NVIDIA's driver on the node".into(),
            ),
            Self::Nodes(minors) => {
                let own = minors.iter().map(|minor| format!("/dev/nvidia{minor}"));
                let shared = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"].map(|name| format!("/dev/{name}"));
                found.devices.extend(own.chain(shared));
                Reply::ok(String::new())
            }
            Self::Bind(address, driver) => match found.gpus.iter_mut().find(|gpu| gpu.pci == *address) {
                Some(gpu) => {
                    gpu.driver = Some(driver.clone());
                    Reply::ok(String::new())
                }
                None => Reply::fail(1, format!("there is no PCI device {address}")),
            },
        }
    }
}

fn is_of_cards(path: &str) -> bool {
    path.starts_with("/dev/nvidia") || path.starts_with("/dev/dri/") || path == "/dev/kfd"
}

fn cards(out: &mut String, node: &Node) {
    let nvidia = node.nvidia_driver.as_deref();
    for (at, gpu) in node.gpus.iter().enumerate() {
        let driver = gpu.bound_to(nvidia);
        let group = gpu.iommu_group.unwrap_or(at as i64 + 1);
        let of_group = |(n, other): &(usize, &Gpu)| other.iommu_group.unwrap_or(*n as i64 + 1) == group;
        let members = node
            .gpus
            .iter()
            .enumerate()
            .filter(of_group)
            .map(|(_, other)| format!("{} ", other.pci));
        let dri: String = match driver {
            "" | "vfio-pci" => String::new(),
            _ => gpu.dri.iter().map(|name| format!("{name} ")).collect(),
        };
        let _ = writeln!(
            out,
            "card|{}|0x{}|0x2d04|{driver}|{group}|{}|{dri}",
            gpu.pci,
            gpu.maker(),
            members.collect::<String>()
        );
        if driver == "nvidia" {
            let minor = gpu.minor.unwrap_or(at as u32);
            let _ = writeln!(
                out,
                "proc|{}|Model| {}\nproc|{0}|Device Minor| {minor}",
                gpu.pci, gpu.model
            );
            if !gpu.lost {
                let _ = writeln!(out, "proc|{}|GPU UUID| {}", gpu.pci, gpu.uuid);
            }
        }
    }
}

fn smi(out: &mut String, node: &Node) {
    let Some(version) = &node.nvidia_driver else { return };
    let _ = writeln!(
        out,
        "module|NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  (builder)"
    );
    let mut any = false;
    for (index, gpu) in counted(node) {
        any = true;
        let mig = if gpu.mig.is_some() { "Enabled" } else { "[N/A]" };
        let _ = writeln!(
            out,
            "smi|{index}, 0000{}, {}, {}, {}, {version}, Enabled, {mig}, 0, 0, 40, 20.00",
            gpu.pci, gpu.uuid, gpu.model, gpu.memory_mib
        );
        let minor = gpu.minor.unwrap_or(index as u32);
        for (n, instance) in gpu.mig.iter().flatten().enumerate() {
            let _ = writeln!(
                out,
                "mig|<gpu id=\"0000{}\">\nmig|<index>{n}</index>\nmig|<gpu_instance_id>{}</gpu_instance_id>\n\
                 mig|<compute_instance_id>{}</compute_instance_id>\nlist|GPU {index}: {} (UUID: {})\n\
                 list|  MIG {}     Device  {n}: (UUID: {})",
                gpu.pci, instance.gi, instance.ci, gpu.model, gpu.uuid, instance.profile, instance.uuid
            );
            let number = 3 + n * 2;
            let _ = writeln!(
                out,
                "cap|gpu{minor}/gi{}/access {number}\ncap|gpu{minor}/gi{0}/ci{}/access {}",
                instance.gi,
                instance.ci,
                number + 1
            );
        }
    }
    if any {
        out.push_str("smi-code|0\n");
    } else {
        out.push_str("smi|No devices were found\nsmi-code|6\n");
    }
}

fn guests(out: &mut String, state: &State, node: &str) {
    for guest in state.guests.values().filter(|guest| guest.node == node) {
        let sort = match guest.kind {
            GuestKind::Lxc => "lxc",
            GuestKind::Qemu => "qemu",
        };
        let lines = guest.text().lines().take_while(|line| !line.starts_with('['));
        for line in lines.filter(|line| is_device(line)) {
            let _ = writeln!(out, "guest|{sort}|{}|{line}", guest.vmid);
        }
    }
    for (id, mapping) in state.mappings_of("pci") {
        let _ = writeln!(out, "mapping|{id}");
        for entry in &mapping.map {
            let _ = writeln!(out, "mapping|\tmap {entry}");
        }
    }
}

/// Whether a line of a configuration names a device of the node's.
fn is_device(line: &str) -> bool {
    let key = line.split([':', ' ', '=']).next().unwrap_or_default();
    let numbered = |stem: &str| {
        key.strip_prefix(stem)
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    numbered("dev") || numbered("hostpci") || key == "lxc.mount.entry"
}

/// What a guest remembers of its NVIDIA driver.
const USERSPACE: &str = "nvidia-userspace";

/// The driver of a node's version is in a guest from now on.
pub fn install_driver(state: &mut State, vmid: u32) {
    let version = state
        .guests
        .get(&vmid)
        .and_then(|guest| state.nodes.get(&guest.node)?.nvidia_driver.clone());
    if let (Some(version), Some(guest)) = (version, state.guests.get_mut(&vmid)) {
        guest.inside.facts.insert(USERSPACE.into(), version);
    }
}

/// What the CUDA proof comes to in a guest, as CUDA's driver would find it.
pub fn proof(state: &State, vmid: u32) -> Outcome {
    let (exit, line) = verdict(state, vmid);
    Outcome {
        exit,
        output: format!("CUDA {line}\n"),
        ms: state.ssh.script_ms,
    }
}

fn verdict(state: &State, vmid: u32) -> (i32, String) {
    let Some(guest) = state.guests.get(&vmid) else {
        return (3, "outcome=crashed code=1".into());
    };
    let Some(node) = state.nodes.get(&guest.node) else {
        return (3, "outcome=crashed code=1".into());
    };
    let module = node.nvidia_driver.clone().unwrap_or_default();
    let Some(userspace) = guest.inside.facts.get(USERSPACE) else {
        return (0, format!("outcome=no-driver module={module}"));
    };
    let versions = format!("userspace={userspace} module={module} smi={userspace}");
    if !module.is_empty() && *userspace != module {
        return (
            3,
            format!("outcome=mismatch userspace={userspace} module={module} smi="),
        );
    }
    let entries = guest
        .config()
        .current
        .options
        .iter()
        .filter(|(key, _)| is_device(&format!("{key}:")));
    let paths: Vec<&str> = entries
        .filter_map(|(_, value)| value.split(',').next())
        .map(|path| path.trim_start_matches("path="))
        .filter(|path| node.devices.contains(*path))
        .collect();
    if !paths.contains(&"/dev/nvidia-uvm") {
        return (
            3,
            format!("outcome=error call=cuInit code=999 name=CUDA_ERROR_UNKNOWN {versions}"),
        );
    }
    let cards = node.gpus.iter().enumerate().filter(|(at, gpu)| {
        let path = format!("/dev/nvidia{}", gpu.minor.unwrap_or(*at as u32));
        gpu.bound_to(Some(&module)) == "nvidia" && !gpu.lost && paths.contains(&path.as_str())
    });
    let (names, places): (Vec<String>, Vec<String>) = cards
        .map(|(_, gpu)| (gpu.model.replace(' ', "_"), gpu.pci.to_ascii_lowercase()))
        .unzip();
    if names.is_empty() {
        return (
            3,
            format!("outcome=error call=cuInit code=100 name=CUDA_ERROR_NO_DEVICE {versions}"),
        );
    }
    let (count, names, places) = (names.len(), names.join(";"), places.join(";"));
    (
        0,
        format!("outcome=ok count={count} copied={count} cuda=13000 names={names} at={places} {versions}"),
    )
}
