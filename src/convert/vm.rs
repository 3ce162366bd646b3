//! Virtual machines: `PhoenixVM`, and `PhoenixTemplate` of vm form.

use crate::crd::{
    Firewall, GuestFields, GuestKind, Network, ObjectRef, PhoenixTemplate, PhoenixTemplateSpec, PhoenixVM,
    PhoenixVMSpec, VmAgent, VmBios, VmCpu, VmDisk, VmGuest,
};

use super::checks::Seen;
use super::guests::Guest;
use super::json::{At, Node};
use super::lxc::{Fleet, GuestManifest};
use super::network::{self, Naming};
use super::scripts::Scripts;
use super::writer::{NOT_SET, Writer};
use super::{cloud_init, expose, features, firewall, form, lxc, storage, values, vllm, vm_source};

/// Keys of `vm_defaults`.
pub const DEFAULTS: &[&str] = &[
    "template",
    "template_image",
    "cores",
    "cpu_cores",
    "sockets",
    "cpu_sockets",
    "cpu_type",
    "cpu",
    "memory_mb",
    "memory",
    "machine",
    "machine_type",
    "bios",
    "disk_size_gb",
    "storage_size_gb",
    "storage_pool",
    "storage",
    "network_bridge",
];

/// A machine to be mapped, with what its file says for machines that leave a value out.
pub struct Machine<'m, 'a> {
    /// The machine.
    pub guest: &'m Guest<'a>,
    /// `vm_defaults` of its file.
    pub defaults: Option<&'m At<'a>>,
    /// Everything around it.
    pub fleet: &'m Fleet<'m, 'a>,
}

impl<'a> Machine<'_, 'a> {
    /// The machine's own value, else that of `vm_defaults`; the hypervisor's defaults count where neither is there.
    pub fn key(&self, w: &mut Writer, names: &[&str]) -> Option<At<'a>> {
        w.key(&self.guest.at, names).or_else(|| self.default(names))
    }

    /// The value of `vm_defaults`, not claimed yet.
    pub fn default(&self, names: &[&str]) -> Option<At<'a>> {
        let defaults = self.defaults?;
        let mut set = names.iter().filter_map(|n| defaults.get(n));
        set.find(|at| !values::is_unset(at.node))
    }

    /// [`Self::key`] read into the field `path`.
    fn read<T>(
        &self,
        w: &mut Writer,
        names: &[&str],
        path: &str,
        read: impl FnOnce(&Node) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        let at = self.key(w, names)?;
        w.value(&at, path, read, expected)
    }
}

/// Maps a machine.
pub fn machine<'a>(
    w: &mut Writer,
    index: usize,
    defaults: Option<&At<'a>>,
    fleet: &Fleet<'_, 'a>,
    scripts: &mut Scripts,
    seen: &mut Seen<'a>,
) -> Option<GuestManifest> {
    let guest = fleet.guests.list.get(index)?;
    let at = &guest.at;
    let from = Machine { guest, defaults, fleet };
    let template = guest.kind == GuestKind::PhoenixTemplate;
    let mut vm = hardware(w, &from, seen);
    let root = fleet.roots.get(at.file)?;
    let (features, extra) = features::features(w, guest, root, fleet.facts);
    for item in extra {
        w.skip_warn(&item.at, "an option of containers on a machine", "drop it");
    }
    vm.shared.features = features;
    let addressed = vm.shared.dns.is_some()
        || vm
            .shared
            .network
            .iter()
            .flatten()
            .any(|n| n.ip.is_some() || n.ip6.is_some());
    vm.cloud_init = cloud_init::cloud_init(w, guest, addressed, &mut vm.shared.network);
    cloud_init::volumes(w, guest, template, &mut vm.cloud_init);
    vm.shared.application = scripts.application(w, at, false);
    vm.shared.boot = lxc::boot(w, at, template);
    let tests = scripts.tests(w, at);
    let depends_on = lxc::depends_on(w, index, fleet.guests, seen);
    rest(w, at);
    let expose = expose::expose(w, guest, template);
    storage::refuse_shared(w, guest.id, fleet.facts, "machines get no container mounts");
    let hypervisor_ref = ObjectRef {
        name: fleet.hypervisor.to_owned(),
        namespace: None,
    };
    let storage = disk_storage(&from, vm.disks.as_deref());
    let form = form::form(w, guest, fleet, storage.as_deref());
    Some(if let Some((form, snapshot_name)) = form {
        lxc::no_health(w, at);
        let spec = PhoenixTemplateSpec {
            hypervisor_ref,
            vm: Some(vm),
            form: Some(form),
            snapshot_name,
            tests,
            depends_on,
            ..PhoenixTemplateSpec::default()
        };
        GuestManifest::Template(Box::new(PhoenixTemplate::new(&guest.name, spec)))
    } else {
        let spec = PhoenixVMSpec {
            hypervisor_ref,
            guest: vm,
            health: lxc::health(w, at),
            expose,
            tests,
            depends_on,
            ..PhoenixVMSpec::default()
        };
        GuestManifest::Vm(Box::new(PhoenixVM::new(&guest.name, spec)))
    })
}

/// Identity, source, size and network.
fn hardware<'a>(w: &mut Writer, from: &Machine<'_, 'a>, seen: &mut Seen<'a>) -> VmGuest {
    let guest = from.guest;
    if let Some(id_at) = &guest.id_at {
        w.mapped(id_at, "vmid", "");
    }
    let megabytes = |node: &Node| {
        values::mebibytes(node, 1)
            .filter(|m| (16..=1 << 30).contains(m))
            .map(values::quantity)
    };
    let whole = |low: i64, high: i64| move |n: &Node| values::integer(n).filter(|n| (low..=high).contains(n));
    let cores = ["cores", "cpu_cores"];
    let memory = ["memory_mb", "memory"];
    let cpu = VmCpu {
        cores: from.read(w, &cores, "cpu.cores", whole(1, 512), "a whole number from 1 to 512"),
        sockets: from.read(
            w,
            &["sockets", "cpu_sockets"],
            "cpu.sockets",
            whole(1, 16),
            "a whole number from 1 to 16",
        ),
        type_: from.read(
            w,
            &["cpu_type", "cpu"],
            "cpu.type",
            values::cpu_type,
            "a CPU type such as host",
        ),
        ..VmCpu::default()
    };
    let networking = network::networking(
        w,
        &guest.at,
        Naming::Machines,
        from.fleet.facts.subnet,
        &mut seen.addresses,
    );
    let mut nics = networking.network;
    if let Some(bridge_at) = from.key(w, &["network_bridge"]) {
        bridge(w, &bridge_at, &mut nics);
    }
    let mut firewall = firewall::firewall(w, &guest.at, &mut nics);
    rename_in_rules(&mut firewall, &networking.renamed);
    VmGuest {
        shared: GuestFields {
            vmid: Some(guest.id),
            hostname: lxc::hostname(w, guest),
            network: nics,
            dns: networking.dns,
            firewall,
            ..GuestFields::default()
        },
        source: vm_source::source(w, from),
        cpu: (cpu != VmCpu::default()).then_some(cpu),
        memory: from.read(w, &memory, "memory", megabytes, "an amount of memory in MB"),
        machine: from.read(
            w,
            &["machine", "machine_type"],
            "machine",
            values::machine_type,
            "q35 or pc",
        ),
        bios: from.read(w, &["bios"], "bios", bios, "seabios or ovmf"),
        disks: vm_source::disks(w, from, seen),
        // The legacy manager always put the agent into its machines; absent it would be unmanaged where one is adopted.
        agent: Some(VmAgent {
            enabled: Some(true),
            ..VmAgent::default()
        }),
        ..VmGuest::default()
    }
}

fn bios(node: &Node) -> Option<VmBios> {
    match values::text(node)?.to_ascii_lowercase().as_str() {
        "seabios" | "bios" => Some(VmBios::Seabios),
        "ovmf" | "uefi" | "efi" => Some(VmBios::Ovmf),
        _ => None,
    }
}

fn bridge(w: &mut Writer, at: &At, nics: &mut Option<Vec<Network>>) {
    let Some(name) = values::text(at.node).and_then(|t| values::bridge(&t)) else {
        return w.unreadable(at, "a bridge name such as vmbr0");
    };
    let nics = nics.get_or_insert_with(|| {
        vec![Network {
            name: Naming::Machines.name(0),
            ..Network::default()
        }]
    });
    let mut taken = false;
    for (n, nic) in nics.iter_mut().enumerate().filter(|(_, nic)| nic.bridge.is_none()) {
        nic.bridge = Some(name.clone());
        w.mapped(at, &format!("network[{n}].bridge"), "");
        taken = true;
    }
    if !taken {
        w.skip(at, "the interface names its bridge itself");
    }
}

/// Rules name interfaces as their guest's entries do.
fn rename_in_rules(firewall: &mut Option<Firewall>, renamed: &[(String, String)]) {
    let rules = firewall.iter_mut().flat_map(|f| f.rules.iter_mut().flatten());
    for name in rules.filter_map(|rule| rule.interface.as_mut()) {
        if let Some((_, new)) = renamed.iter().find(|(old, _)| old == name) {
            name.clone_from(new);
        } else if let Some(new) = values::machine_interface(name) {
            *name = new;
        }
    }
}

/// Storage of the first disk, as far as the files tell.
fn disk_storage(from: &Machine, disks: Option<&[VmDisk]>) -> Option<String> {
    let own = disks.iter().flat_map(|d| d.iter()).find_map(|d| d.storage.clone());
    own.or_else(|| from.fleet.facts.disk_storage.clone())
}

/// Keys of containers.
const OF_CONTAINERS: &[&str] = &[
    "unprivileged",
    "apparmor_profile",
    "apparmor_manages_nesting",
    "pct_options",
    "lxc_options",
    "zfs_volumes",
];

/// Claims the keys that have no field.
fn rest(w: &mut Writer, at: &At) {
    lxc::rest(w, at);
    for (key, value) in at.entries() {
        if OF_CONTAINERS.contains(&key) || vllm::is_key(key, &value) {
            match says_nothing(value.node) {
                true => w.defaulted(&value, "", NOT_SET),
                false => w.skip_warn(&value, &format!("{key} is a key of containers"), "drop it"),
            }
        } else if key == "swap_mb" || key == "swap" {
            w.skip(&value, "swap of a machine is made inside it");
        } else if key == "gpu_assignment" || key == "gpus" {
            gpus(w, &value);
        } else if key == "docker_stacks" {
            docker_stacks(w, &value);
        } else if key.starts_with("portainer_") && key != "portainer_role" {
            w.skip(
                &value,
                "a setting of Portainer, which the legacy manager made through Portainer's own API",
            );
        }
    }
}

/// Null, blank text, an empty list or object.
fn says_nothing(node: &Node) -> bool {
    values::is_unset(node) || (node.is_leaf() && matches!(node, Node::Array(_) | Node::Object(_)))
}

fn gpus(w: &mut Writer, at: &At) {
    match values::gpu_indices(at.node) {
        Some(none) if none.is_empty() => w.defaulted(at, "", "no GPU"),
        _ => w.skip_warn(
            at,
            "a machine gets a GPU as a PCI device of its own, which the node's containers cannot use then",
            "make a resource mapping on Proxmox and name it in spec.pci",
        ),
    }
}

fn docker_stacks(w: &mut Writer, at: &At) {
    if says_nothing(at.node) {
        return w.defaulted(at, "", NOT_SET);
    }
    let message = format!(
        "docker_stacks {}: Phoenix deploys no Compose files by itself",
        at.node.show()
    );
    let fix = "start them from spec.application, with the Compose files among its files, or from Portainer";
    w.skip_warn(at, &message, fix);
}
