//! What only virtual machines have, from a PhoenixVM or a PhoenixTemplate of vm form.

mod cloud_init;
mod first_boot;
pub mod vendor_data;

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{Defaults, DiskBus, Hotplug, Network, TpmVersion, VmBios, VmCdrom, VmDisk, VmGuest, VmPci, VmUsb};
use crate::desired::{
    Blocked, Channels, GuestObject, GuestSpec, Objects, Script, Source, WantedGuest, WantedNet, WantedOptions,
};
use crate::pve::DiskSize;
use crate::pve::property::{BUSES, is_numbered};
use crate::reason::Reason;
use crate::secret::Secret;

pub use first_boot::FirstBoot;

use super::images::file_name;
use super::shared::{
    Context, Wing, clone_source, disk_size, flag, given, image_storage, memory, mib, shared_options, trunks,
};

/// Properties of an option that are managed, in Proxmox's words.
pub type Managed = BTreeMap<String, String>;

/// What is wanted of a machine beyond what containers have too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WantedVm {
    /// Options whose values are property strings (`cpu`, `agent`, `ipconfig0`): the properties that are managed.
    pub properties: BTreeMap<String, Managed>,
    /// Options that must not be set.
    pub absent: BTreeSet<String>,
    /// Options that a new machine gets where the spec says nothing.
    pub creation: BTreeMap<String, String>,
    /// Disks; `None` is unmanaged. On creation the first is the boot disk.
    pub disks: Option<Vec<WantedDisk>>,
    /// CD-ROM drives; `None` is unmanaged.
    pub cdroms: Option<Vec<VmCdrom>>,
    /// Storage of disks that name none.
    pub disk_storage: Option<String>,
    /// EFI disk and TPM.
    pub firmware: WantedFirmware,
    /// Names of disks and interfaces in boot order; `None` is unmanaged.
    pub boot_order: Option<Vec<String>>,
    /// cloud-init; `None` is unmanaged.
    pub cloud_init: Option<WantedCloudInit>,
    /// PCI devices; `None` is unmanaged.
    pub pci: Option<Vec<Managed>>,
    /// USB devices; `None` is unmanaged.
    pub usb: Option<Vec<Managed>>,
    /// Whether the guest agent is to answer; `None` is unmanaged.
    pub agent: Option<bool>,
    /// Seconds after a start within which it should.
    pub agent_deadline: i64,
    /// What the first boot alone brings.
    pub first_boot: FirstBoot,
}

/// A disk as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedDisk {
    /// Name in the spec; it is the disk's serial number.
    pub name: String,
    /// Place of an adopted machine's disk that the name spells (`scsi0`), instead of a serial number.
    pub slot: Option<String>,
    /// Bus for a new disk.
    pub bus: DiskBus,
    /// The bus, where the spec gives one.
    pub bus_given: Option<DiskBus>,
    /// Storage for a new disk.
    pub storage: Option<String>,
    /// Size. Absent: that of the image.
    pub size: Option<DiskSize>,
    /// Managed properties (`cache`, `discard`, …).
    pub properties: Managed,
}

/// EFI disk and TPM; both are made once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedFirmware {
    /// EFI disk: its storage, and whether keys are enrolled, which absent means no.
    pub efi: Option<(Option<String>, Option<bool>)>,
    /// TPM: its storage and version.
    pub tpm: Option<(Option<String>, &'static str)>,
}

/// What cloud-init is told. User, keys and addresses are options of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WantedCloudInit {
    /// Storage of the cloud-init drive.
    pub storage: Option<String>,
    /// Password hash.
    pub password: Option<Secret>,
    /// What goes into a snippet.
    pub vendor: Option<WantedVendor>,
}

/// The vendor-data snippet: what Proxmox's own options cannot say ([`vendor_data`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WantedVendor {
    /// Storage with content snippets; `None`: one that the node has.
    pub storage: Option<String>,
    /// Packages.
    pub packages: Vec<String>,
    /// The user's own data.
    pub user_data: Option<String>,
    /// Install the guest agent.
    pub agent: bool,
    /// Features that are installed at the first boot.
    pub scripts: Vec<Script>,
    /// Whether the machine is not what the spec says without it; otherwise it only makes the first boot quicker.
    pub required: bool,
    /// Digest of all that is in it; part of the file's name.
    pub digest: String,
}

/// What is wanted of a machine.
///
/// # Errors
/// What is wrong with the spec or with what it refers to, with field, value and fix.
pub(super) fn wanted(context: &Context<'_>, guest: &VmGuest) -> Result<Wing, Blocked> {
    let Context {
        object,
        objects,
        defaults,
        channels,
        ..
    } = context;
    let prefix = object.field_prefix();
    root_only(*channels, object, guest)?;
    agent_needed(object, guest)?;
    let source = source(object, guest, defaults, *objects)?;
    let mut options = shared_options(&guest.shared, defaults);
    options.extend(self::options(guest, defaults, prefix)?);
    if guest.cloud_init.is_none() && guest.shared.dns.is_none() {
        // Defaults for name resolution mean nothing to a machine without cloud-init.
        options.remove("nameserver");
        options.remove("searchdomain");
    }
    if let Some(init) = &guest.cloud_init {
        options.extend(cloud_init::options(object, init, *objects)?);
    }
    let network = network(guest, defaults, prefix)?;
    let mut vm = WantedVm {
        properties: properties(guest),
        disks: guest.disks.as_ref().map(|list| disks(list, prefix)).transpose()?,
        cdroms: guest.cdroms.clone(),
        disk_storage: defaults.disk_storage.clone(),
        firmware: firmware(guest),
        boot_order: guest.boot_order.clone(),
        cloud_init: cloud_init::wanted(context, source.as_ref(), guest)?,
        pci: guest.pci.as_ref().map(|list| list.iter().map(pci).collect()),
        usb: guest.usb.as_ref().map(|list| list.iter().map(usb).collect()),
        agent: guest.agent.as_ref().map(|a| a.enabled.unwrap_or(true)),
        agent_deadline: guest.agent.as_ref().and_then(|a| a.deadline_seconds).unwrap_or(600),
        ..WantedVm::default()
    };
    // Of a machine that is there the list may stand in any order.
    if object.status.create_sent != Some(true) {
        new_disks(source.as_ref(), guest, &vm, prefix)?;
    }
    vm.first_boot = FirstBoot::of(guest, vm.cloud_init.as_ref());
    vm.properties.extend(addresses(guest));
    if guest.serial == Some(false) {
        vm.absent.insert("serial0".into());
    }
    vm.creation = creation(guest, source.as_ref());
    check_boot_order(guest, prefix)?;
    Ok(Wing {
        guest: WantedGuest::Vm(Box::new(vm)),
        source,
        options,
        network,
    })
}

pub(super) fn invalid(message: String) -> Blocked {
    Blocked::stalled(Reason::InvalidSpec, message)
}

/// Fields that only root@pam may set (facts F.5).
fn root_only(channels: Channels, object: &GuestObject, guest: &VmGuest) -> Result<(), Blocked> {
    let prefix = object.field_prefix();
    let affinity = guest.cpu.as_ref().and_then(|c| c.affinity.clone());
    let mut fields = vec![
        (format!("{prefix}.hookscript"), guest.hookscript.clone(), ""),
        (format!("{prefix}.cpu.affinity"), affinity, ""),
        (format!("{prefix}.args"), guest.args.clone(), ""),
        (
            format!("{prefix}.hugepages"),
            guest.hugepages.map(|h| h.as_str().to_string()),
            "",
        ),
    ];
    let mapping = "use a resource mapping, ";
    for (i, device) in guest.pci.iter().flatten().enumerate() {
        fields.push((format!("{prefix}.pci[{i}].address"), device.address.clone(), mapping));
        fields.push((format!("{prefix}.pci[{i}].romFile"), device.rom_file.clone(), ""));
    }
    for (i, device) in guest.usb.iter().flatten().enumerate() {
        fields.push((format!("{prefix}.usb[{i}].host"), device.host.clone(), mapping));
    }
    let channel = channels.ticket || channels.ssh;
    for (field, value, other) in fields {
        let Some(value) = value else { continue };
        if !channel {
            return Err(Blocked::stalled(
                Reason::MissingPrivilege,
                format!(
                    "{field}: {value:?} can only be set by root@pam or over SSH: {other}set credentials.rootPasswordSecretRef or ssh of the PhoenixHypervisor, or leave it out"
                ),
            ));
        }
    }
    Ok(())
}

/// Scripts run in a machine through its guest agent.
fn agent_needed(object: &GuestObject, guest: &VmGuest) -> Result<(), Blocked> {
    let off = guest.agent.as_ref().and_then(|a| a.enabled) == Some(false);
    let prefix = object.field_prefix();
    let asked = [
        (
            guest.shared.features.as_ref().is_some_and(|f| !f.is_empty()),
            "features",
        ),
        (guest.shared.application.is_some(), "application"),
        (matches!(&object.spec, GuestSpec::Template(_)), "source"),
    ];
    match asked.into_iter().find(|(given, _)| *given && off) {
        Some((_, "source")) => Err(invalid(format!(
            "{prefix}.agent.enabled: false: a template is cleaned through the guest agent before it is sealed: leave it out"
        ))),
        Some((_, field)) => Err(invalid(format!(
            "{prefix}.{field} runs through the guest agent, which {prefix}.agent.enabled: false switches off: set it to true, or leave {field} out"
        ))),
        None => Ok(()),
    }
}

fn source(
    object: &GuestObject,
    guest: &VmGuest,
    defaults: &Defaults,
    objects: &dyn Objects,
) -> Result<Option<Source>, Blocked> {
    let prefix = object.field_prefix();
    let Some(source) = &guest.source else { return Ok(None) };
    if let Some(reference) = &source.template_ref {
        return clone_source(object, &reference.name, objects).map(Some);
    }
    let Some(image) = &source.cloud_image else {
        return Ok(None);
    };
    if guest.disks.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid(format!(
            "{prefix}.disks is empty, but {prefix}.source.cloudImage becomes the first disk: list it, such as {{name: root}}, or leave disks out"
        )));
    }
    if let Some(volid) = &image.volid {
        return Ok(Some(Source::Image { volid: volid.clone() }));
    }
    let storage = image_storage(prefix, "source.cloudImage", image.storage.as_ref(), defaults)?;
    let url = image.url.clone().unwrap_or_default();
    // Proxmox imports files named .qcow2, .raw and .vmdk; cloud images named .img are qcow2 inside (facts G.4).
    let name = file_name(&url);
    let filename = match name.strip_suffix(".img") {
        Some(stem) => format!("{stem}.qcow2"),
        None => name,
    };
    Ok(Some(Source::Download {
        storage,
        content: "import",
        filename,
        url,
        sha256: image.sha256.clone().unwrap_or_default(),
    }))
}

/// Plain options in Proxmox's words that only machines have.
fn options(guest: &VmGuest, defaults: &Defaults, prefix: &str) -> Result<WantedOptions, Blocked> {
    let memory = memory(prefix, guest.memory.as_ref(), defaults.memory.as_ref())?;
    let balloon = mib(&format!("{prefix}.balloon"), guest.balloon.as_ref())?;
    if let (Some(balloon), Some(memory)) = (balloon, memory)
        && balloon > memory
    {
        return Err(invalid(format!(
            "{prefix}.balloon: {balloon}Mi is more than the memory of {memory}Mi: give at most that"
        )));
    }
    let cpu = guest.cpu.clone().unwrap_or_default();
    let hotplug = guest.hotplug.as_ref();
    if hotplug.is_some_and(|list| list.contains(&Hotplug::Memory)) && cpu.numa != Some(true) {
        return Err(invalid(format!(
            "{prefix}.hotplug: memory can only be changed while the machine runs with {prefix}.cpu.numa: true: set it, or take memory out"
        )));
    }
    let hotplug = hotplug.map(|list| match list.as_slice() {
        [] => "0".to_string(),
        _ => {
            let words: BTreeSet<&str> = list.iter().map(|h| h.as_str()).collect();
            Vec::from_iter(words).join(",")
        }
    });
    let cores = cpu.cores.or(defaults.cores);
    let serial = (guest.serial == Some(true)).then(|| "socket".to_string());
    Ok(given([
        ("hostname", "name", guest.shared.hostname.clone()),
        ("cpu.cores", "cores", cores.map(|v| v.to_string())),
        ("cpu.sockets", "sockets", cpu.sockets.map(|v| v.to_string())),
        ("cpu.numa", "numa", cpu.numa.map(flag)),
        ("cpu.affinity", "affinity", cpu.affinity),
        ("cpu.limit", "cpulimit", cpu.limit.map(|v| v.to_string())),
        ("cpu.units", "cpuunits", cpu.units.map(|v| v.to_string())),
        ("memory", "memory", memory.map(|v| v.to_string())),
        ("balloon", "balloon", balloon.map(|v| v.to_string())),
        ("bios", "bios", guest.bios.map(|b| bios(b).to_string())),
        ("osType", "ostype", guest.os_type.map(|o| o.as_str().to_string())),
        (
            "scsiController",
            "scsihw",
            guest.scsi_controller.map(|c| c.as_str().to_string()),
        ),
        ("serial", "serial0", serial),
        ("hotplug", "hotplug", hotplug),
        ("hookscript", "hookscript", guest.hookscript.clone()),
        ("args", "args", guest.args.clone()),
        (
            "hugepages",
            "hugepages",
            guest.hugepages.map(|h| h.as_str().to_string()),
        ),
    ]))
}

fn bios(bios: VmBios) -> &'static str {
    match bios {
        VmBios::Seabios => "seabios",
        VmBios::Ovmf => "ovmf",
    }
}

/// Managed properties of options that are property strings.
fn properties(guest: &VmGuest) -> BTreeMap<String, Managed> {
    let mut all = BTreeMap::new();
    let mut put = |option: &str, properties: Vec<(&str, Option<String>)>| {
        let given = properties.into_iter().filter_map(|(k, v)| Some((k.to_string(), v?)));
        let given: Managed = given.collect();
        if !given.is_empty() {
            all.insert(option.to_string(), given);
        }
    };
    let cpu = guest.cpu.clone().unwrap_or_default();
    put(
        "cpu",
        vec![
            ("cputype", cpu.type_),
            ("flags", cpu.flags.map(|list| list.join(";"))),
            ("hidden", cpu.hidden.map(flag)),
        ],
    );
    let viommu = guest.viommu.map(|v| v.as_str().to_string());
    put("machine", vec![("type", guest.machine.clone()), ("viommu", viommu)]);
    if let Some(agent) = &guest.agent {
        put(
            "agent",
            vec![
                ("enabled", Some(flag(agent.enabled.unwrap_or(true)))),
                ("freeze-fs-on-backup", agent.freeze_filesystems.map(flag)),
                ("fstrim_cloned_disks", agent.trim_cloned_disks.map(flag)),
            ],
        );
    }
    if let Some(vga) = &guest.vga {
        put(
            "vga",
            vec![
                ("type", Some(vga.type_.as_str().to_string())),
                ("memory", vga.memory.map(|m| m.to_string())),
            ],
        );
    }
    all
}

/// Number of an interface, from its name; admission checked its form.
pub(super) fn number(name: &str) -> u32 {
    name.get(3..).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// `ipconfigN` from the same words as a container's interface.
fn addresses(guest: &VmGuest) -> BTreeMap<String, Managed> {
    let given = |value: &Option<String>| value.clone().filter(|v| v != "manual");
    guest
        .shared
        .network
        .iter()
        .flatten()
        .filter_map(|n| {
            let managed: Managed = [
                ("ip", given(&n.ip)),
                ("gw", n.gateway.clone()),
                ("ip6", given(&n.ip6)),
                ("gw6", n.gateway6.clone()),
            ]
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_string(), v?)))
            .collect();
            (!managed.is_empty()).then(|| (format!("ipconfig{}", number(&n.name)), managed))
        })
        .collect()
}

fn network(guest: &VmGuest, defaults: &Defaults, prefix: &str) -> Result<Option<Vec<WantedNet>>, Blocked> {
    let Some(list) = &guest.shared.network else {
        return Ok(None);
    };
    for n in list {
        let addressed = [("ip", &n.ip), ("ip6", &n.ip6)].into_iter().find(|(_, v)| v.is_some());
        if let (Some((field, Some(value))), None) = (addressed, &guest.cloud_init) {
            return Err(invalid(format!(
                "{prefix}.network[{}].{field}: {value:?} is given to the machine by cloud-init: add {prefix}.cloudInit (it may be empty), or leave {field} out",
                n.name
            )));
        }
    }
    let firewall_on = guest.shared.firewall.as_ref().and_then(|f| f.enabled) == Some(true);
    let wanted = |n: &Network| WantedNet {
        name: format!("net{}", number(&n.name)),
        properties: [
            ("bridge", n.bridge.clone().or(defaults.bridge.clone())),
            ("tag", n.vlan.map(|v| v.to_string())),
            ("macaddr", n.mac.as_ref().map(|m| m.to_uppercase())),
            ("mtu", n.mtu.map(|v| v.to_string())),
            ("rate", n.rate.map(|v| v.to_string())),
            ("firewall", n.firewall.or(firewall_on.then_some(true)).map(flag)),
            ("trunks", trunks(n)),
            ("link_down", n.link_down.map(flag)),
            ("model", n.model.map(|m| m.as_str().to_string())),
            ("queues", n.queues.map(|v| v.to_string())),
        ]
        .into_iter()
        .filter_map(|(k, v)| Some((k.to_string(), v?)))
        .collect(),
    };
    Ok(Some(list.iter().map(wanted).collect()))
}

fn disks(list: &[VmDisk], prefix: &str) -> Result<Vec<WantedDisk>, Blocked> {
    list.iter()
        .map(|disk| {
            let field = format!("{prefix}.disks[{}].size", disk.name);
            let properties = [
                ("cache", disk.cache.map(|c| c.as_str().to_string())),
                (
                    "discard",
                    disk.discard.map(|on| if on { "on" } else { "ignore" }.to_string()),
                ),
                ("iothread", disk.iothread.map(flag)),
                ("ssd", disk.ssd.map(flag)),
                ("backup", disk.backup.map(flag)),
                ("ro", disk.read_only.map(flag)),
            ];
            Ok(WantedDisk {
                name: disk.name.clone(),
                slot: is_place(&disk.name).then(|| disk.name.clone()),
                bus: disk.bus.unwrap_or_default(),
                bus_given: disk.bus,
                storage: disk.storage.clone(),
                size: disk.size.as_deref().map(|s| disk_size(&field, s)).transpose()?,
                properties: properties
                    .into_iter()
                    .filter_map(|(k, v)| Some((k.to_string(), v?)))
                    .collect(),
            })
        })
        .collect()
}

/// A machine from an image gets all its disks anew: each has a storage, and each but the image's a size.
fn new_disks(source: Option<&Source>, guest: &VmGuest, vm: &WantedVm, prefix: &str) -> Result<(), Blocked> {
    if !matches!(source, Some(Source::Image { .. } | Source::Download { .. })) {
        return Ok(());
    }
    let first = guest.disks.iter().flatten().next();
    if vm.disk_storage.is_none() && first.is_none_or(|d| d.storage.is_none()) {
        let name = first.map_or("root", |d| d.name.as_str());
        return Err(invalid(format!(
            "{prefix}.disks[{name}].storage is missing: name one, here or in defaults.diskStorage of the PhoenixHypervisor"
        )));
    }
    let sizeless = guest.disks.iter().flatten().skip(1).find(|d| d.size.is_none());
    match sizeless {
        Some(disk) => Err(invalid(format!(
            "{prefix}.disks[{}].size is missing: only the first disk has the size of its image",
            disk.name
        ))),
        None => Ok(()),
    }
}

/// Whether a name spells a place of Proxmox's such as `scsi0`.
fn is_place(name: &str) -> bool {
    is_numbered(name, BUSES)
}

fn firmware(guest: &VmGuest) -> WantedFirmware {
    let efi = guest.efi_disk.clone().unwrap_or_default();
    WantedFirmware {
        efi: (guest.bios == Some(VmBios::Ovmf)).then_some((efi.storage, efi.pre_enrolled_keys)),
        tpm: guest.tpm.as_ref().map(|tpm| {
            let version = match tpm.version.unwrap_or_default() {
                TpmVersion::V1 => "v1.2",
                TpmVersion::V2 => "v2.0",
            };
            (tpm.storage.clone(), version)
        }),
    }
}

fn pci(device: &VmPci) -> Managed {
    // Without a domain Proxmox means domain 0.
    let address = device.address.as_ref().map(|a| match a.matches(':').count() {
        1 => format!("0000:{a}").to_lowercase(),
        _ => a.to_lowercase(),
    });
    [
        ("mapping", device.mapping.clone()),
        ("host", address),
        ("pcie", device.pcie.map(flag)),
        ("x-vga", device.primary_gpu.map(flag)),
        ("mdev", device.mdev.clone()),
        ("rombar", device.rom_bar.map(flag)),
        ("romfile", device.rom_file.clone()),
    ]
    .into_iter()
    .filter_map(|(k, v)| Some((k.to_string(), v?)))
    .collect()
}

fn usb(device: &VmUsb) -> Managed {
    [
        ("mapping", device.mapping.clone()),
        ("host", device.host.as_ref().map(|h| h.to_lowercase())),
        ("usb3", device.usb3.map(flag)),
    ]
    .into_iter()
    .filter_map(|(k, v)| Some((k.to_string(), v?)))
    .collect()
}

/// What a new machine gets besides: the agent's channel, a controller for its disks, and the console that cloud images
/// expect.
fn creation(guest: &VmGuest, source: Option<&Source>) -> BTreeMap<String, String> {
    let mut creation: BTreeMap<String, String> = [
        ("ostype", "l26"),
        ("scsihw", "virtio-scsi-single"),
        ("agent", "enabled=1"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect();
    if !matches!(source, Some(Source::Clone { .. })) && guest.serial.is_none() {
        creation.insert("serial0".into(), "socket".into());
        if guest.vga.is_none() {
            creation.insert("vga".into(), "serial0".into());
        }
    }
    creation
}

fn check_boot_order(guest: &VmGuest, prefix: &str) -> Result<(), Blocked> {
    let disks = guest.disks.iter().flatten().map(|d| d.name.as_str());
    let nets = guest.shared.network.iter().flatten().map(|n| n.name.as_str());
    let cdroms = guest.cdroms.iter().flatten().map(|c| c.slot.as_str());
    let known: Vec<&str> = disks.chain(cdroms).chain(nets).collect();
    let unknown = guest
        .boot_order
        .iter()
        .flatten()
        .find(|name| !known.contains(&name.as_str()));
    match unknown {
        Some(name) => Err(invalid(format!(
            "{prefix}.bootOrder: {name:?} is neither a disk nor a CD-ROM drive nor an interface of this machine: use one of {}",
            if known.is_empty() {
                "its disks, after listing them".into()
            } else {
                known.join(", ")
            }
        ))),
        None => Ok(()),
    }
}
