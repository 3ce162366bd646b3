//! What only containers have, from a PhoenixLXC or a PhoenixTemplate of lxc form.

use std::collections::BTreeMap;

use crate::crd::{
    Capabilities, Defaults, LxcGuest, MountOption, Network, PhoenixHypervisor, ReclaimPolicy, Vllm, Volume,
};
use crate::pve::DiskSize;
use crate::pve::gpu::NVIDIA_SHARED;
use crate::reason::Reason;
use crate::secret::Secret;

use super::gpus::{Selector, WantedGpu, share_for_vllm, wanted_gpus};
use super::images::{CONTAINER_ENDS, file_name, is_open};
use super::refs;
use super::shared::{
    Context, Wing, clone_source, disk_size, flag, given, image_storage, memory, mib, shared_options, trunks,
};
use super::{
    Blocked, Channels, GuestObject, GuestSpec, Objects, Source, WantedBind, WantedGuest, WantedNet, WantedOptions,
    WantedOwner, WantedVolume, volume_key,
};

/// What only containers have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WantedLxc {
    /// Whether a container is unprivileged; `None` is Proxmox's own choice kept (adopted) or true (created).
    pub unprivileged: Option<bool>,
    /// Storage of the root filesystem.
    pub rootfs_storage: Option<String>,
    /// Size of the root filesystem.
    pub rootfs_size: Option<DiskSize>,
    /// Parts of `features` that are managed (`nesting`, …).
    pub flags: BTreeMap<String, String>,
    /// Raw lines that must be there, as (key, value).
    pub raw_lines: Vec<(String, String)>,
    /// GPUs; `None` is unmanaged.
    pub gpus: Option<Vec<WantedGpu>>,
    /// Device nodes beside those of GPUs.
    pub devices: Vec<WantedDevice>,
    /// SSH keys of root's, which only the creating call can give (facts D.1).
    pub ssh_keys: Option<Secret>,
    /// Volumes; `None` is unmanaged.
    pub volumes: Option<Vec<WantedVolume>>,
    /// Bind mounts; `None` is unmanaged.
    pub binds: Option<Vec<WantedBind>>,
    /// Where retained volumes live; `None` where the hypervisor does not say.
    pub owner: Option<WantedOwner>,
    /// The vLLM server, for the estimate of whether it fits; the share of its GPUs is the one that it is started with.
    pub server: Option<Vllm>,
}

/// A device node of the node's, as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedDevice {
    /// Its path.
    pub path: String,
    /// Managed properties in Proxmox's words (`uid`, `gid`, `mode`, `deny-write`).
    pub properties: BTreeMap<String, String>,
}

/// What is wanted of a container.
///
/// # Errors
/// What is wrong with the spec or with what it refers to, with field, value and fix.
pub(super) fn wanted(context: &Context<'_>, guest: &LxcGuest) -> Result<Wing, Blocked> {
    let Context {
        object,
        hypervisor,
        objects,
        defaults,
        channels,
        ..
    } = context;
    refuse_unsupported(object, guest)?;
    root_only(*channels, object, guest)?;
    readable(object, guest, hypervisor)?;
    id_maps(object, hypervisor)?;
    let prefix = object.field_prefix();
    let source = source(object, guest, defaults, *objects)?;
    let (volumes, binds) = mounts(object, defaults)?;
    let rootfs = guest.rootfs.clone().unwrap_or_default();
    let size = rootfs.size.as_deref();
    let rootfs_size = size
        .map(|s| disk_size(&format!("{prefix}.rootfs.size"), s))
        .transpose()?;
    let mut options = shared_options(&guest.shared, defaults);
    options.extend(self::options(guest, defaults, prefix)?);
    let raw_lines = raw_lines(guest);
    single_valued(object, &raw_lines)?;
    let network = guest.shared.network.as_ref();
    let wanted = WantedLxc {
        unprivileged: guest.unprivileged,
        rootfs_storage: rootfs.storage.clone().or(match source {
            Some(Source::Clone { .. }) => None,
            _ => defaults.rootfs_storage.clone(),
        }),
        rootfs_size,
        flags: flags(guest.capabilities.as_ref().or(defaults.capabilities.as_ref())),
        raw_lines,
        gpus: gpus(object, guest, *channels)?,
        devices: devices(object, guest)?,
        ssh_keys: ssh_keys(object, guest, source.as_ref(), *objects)?,
        volumes,
        binds,
        owner: hypervisor.spec.volume_owners.as_ref().map(|o| WantedOwner {
            ids: o.id_range.ids(),
            image: o.image.clone(),
            storage: o.storage.clone().or(defaults.rootfs_storage.clone()),
            pool: o.pool.clone(),
        }),
        server: server(guest),
    };
    Ok(Wing {
        network: network.map(|list| list.iter().map(|n| net(n, defaults, guest)).collect()),
        guest: WantedGuest::Lxc(Box::new(wanted)),
        source,
        options,
    })
}

/// The vLLM server with the share of its GPUs' memory that it is started with.
fn server(guest: &LxcGuest) -> Option<Vllm> {
    let server = guest.vllm.clone()?;
    Some(Vllm {
        gpu_memory_utilization: server.gpu_memory_utilization.or(share_for_vllm(guest)),
        ..server
    })
}

/// Refuses fields whose behaviour is not built.
fn refuse_unsupported(object: &GuestObject, guest: &LxcGuest) -> Result<(), Blocked> {
    let refusal = |what: String| Blocked::stalled(Reason::NotYetSupported, what);
    let prefix = object.field_prefix();
    let unbuilt = [
        (
            guest.source.as_ref().is_some_and(|s| s.oci.is_some()),
            "source.oci",
            "use source.image or source.templateRef",
        ),
        (
            guest.environment.is_some(),
            "environment",
            "it belongs to OCI containers: leave it out",
        ),
        (
            guest.entrypoint.is_some(),
            "entrypoint",
            "it belongs to OCI containers: leave it out",
        ),
    ];
    for (given, field, fix) in unbuilt {
        if given {
            return Err(refusal(format!("{prefix}.{field} is not supported yet: {fix}")));
        }
    }
    for net in guest.shared.network.iter().flatten() {
        for (given, field) in [(net.model.is_some(), "model"), (net.queues.is_some(), "queues")] {
            if given {
                return Err(Blocked::stalled(
                    Reason::InvalidSpec,
                    format!(
                        "{prefix}.network[{}].{field} belongs to virtual machines: leave it out, a container's interface has no card",
                        net.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Fields that only root@pam may set (facts D.2).
fn root_only(channels: Channels, object: &GuestObject, guest: &LxcGuest) -> Result<(), Blocked> {
    if channels.ticket || channels.ssh {
        return Ok(());
    }
    let devices = guest.devices.iter().flatten().enumerate();
    let devices = devices.map(|(i, device)| (format!("devices[{i}].path"), device.path.clone()));
    let hook = guest
        .hookscript
        .iter()
        .map(|volid| ("hookscript".to_string(), volid.clone()));
    match hook.chain(devices).next() {
        Some((field, value)) => Err(Blocked::stalled(
            Reason::MissingPrivilege,
            format!(
                "{}.{field}: {value:?} can only be set by root@pam or over SSH: set credentials.rootPasswordSecretRef or ssh of the PhoenixHypervisor, or leave it out",
                object.field_prefix()
            ),
        )),
        None => Ok(()),
    }
}

/// Device nodes. Those that come with a GPU of the spec's belong to it.
fn devices(object: &GuestObject, guest: &LxcGuest) -> Result<Vec<WantedDevice>, Blocked> {
    let gpus = guest.gpus.as_deref().unwrap_or_default();
    let shared = NVIDIA_SHARED.iter().filter(|_| !gpus.is_empty());
    let own = gpus.iter().filter_map(|gpu| Some(format!("/dev/nvidia{}", gpu.index?)));
    let of_gpus: Vec<String> = own.chain(shared.map(|path| (*path).to_string())).collect();
    let mut list = Vec::new();
    for (i, device) in guest.devices.iter().flatten().enumerate() {
        if of_gpus.contains(&device.path) {
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!(
                    "{0}.devices[{i}].path: {1:?} comes with {0}.gpus, with mode 0666: leave it out of one of the two",
                    object.field_prefix(),
                    device.path
                ),
            ));
        }
        let properties = [
            ("uid", device.uid.map(|v| v.to_string())),
            ("gid", device.gid.map(|v| v.to_string())),
            ("mode", device.mode.clone()),
            ("deny-write", device.deny_write.map(flag)),
        ];
        let given = properties.into_iter().filter_map(|(k, v)| Some((k.to_string(), v?)));
        list.push(WantedDevice {
            path: device.path.clone(),
            properties: given.collect(),
        });
    }
    Ok(list)
}

/// The cards that a container asks for. Which device node belongs to which card only the node itself knows.
fn gpus(object: &GuestObject, guest: &LxcGuest, channels: Channels) -> Result<Option<Vec<WantedGpu>>, Blocked> {
    let wanted = wanted_gpus(object, guest)?;
    let cards = wanted.as_deref().unwrap_or_default();
    let blind = cards.iter().find(|gpu| !matches!(gpu.selector, Selector::Index(_)));
    if let Some(gpu) = blind.filter(|_| !channels.ssh) {
        return Err(Blocked::stalled(
            Reason::MissingPrivilege,
            format!(
                "{}: which device node that is only the node knows: set ssh of the PhoenixHypervisor, or name the GPU by index",
                gpu.asked(object.field_prefix())
            ),
        ));
    }
    let utilization = guest.vllm.as_ref().and_then(|vllm| vllm.gpu_memory_utilization);
    let shares = guest.gpus.iter().flatten().enumerate();
    let shares = shares.filter_map(|(entry, gpu)| Some((entry, gpu.vram_share?, utilization?)));
    if let Some((entry, share, taken)) = shares.into_iter().find(|(_, share, taken)| taken > share) {
        let prefix = object.field_prefix();
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!(
                "{prefix}.vllm.gpuMemoryUtilization: {taken} is above {prefix}.gpus[{entry}].vramShare, {share}: lower it, or leave it out: vLLM is given the share then"
            ),
        ));
    }
    let size = guest.vllm.as_ref().and_then(|vllm| vllm.tensor_parallel_size);
    let too_few = size.filter(|size| usize::try_from(*size).is_ok_and(|size| size > cards.len()));
    match too_few.filter(|_| !cards.is_empty()) {
        Some(size) => Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!(
                "{}.vllm.tensorParallelSize: {size} is above the number of gpus, {}: list more GPUs, or lower it",
                object.field_prefix(),
                cards.len()
            ),
        )),
        None => Ok(wanted),
    }
}

/// Root's SSH keys. Proxmox puts them into what it unpacks from an image, and into nothing else (facts D.1, D.4).
fn ssh_keys(
    object: &GuestObject,
    guest: &LxcGuest,
    source: Option<&Source>,
    objects: &dyn Objects,
) -> Result<Option<Secret>, Blocked> {
    let Some(reference) = &guest.ssh_keys_secret_ref else {
        return Ok(None);
    };
    let field = format!("{}.sshKeysSecretRef", object.field_prefix());
    if let Some(Source::Clone { template, .. }) = source {
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!(
                "{field}: {:?} cannot be given to a clone, since Proxmox puts keys only into a container that it makes from an image: give PhoenixTemplate {template} the field spec.lxc.sshKeysSecretRef, or write the keys with spec.application, and leave the field out",
                reference.name
            ),
        ));
    }
    let keys = refs::ssh_keys(objects, &object.key.namespace, reference, &field)?;
    Ok(Some(Secret::new(keys)))
}

/// Refuses raw lines that Proxmox does not read or LXC cannot load.
fn readable(object: &GuestObject, guest: &LxcGuest, hypervisor: &PhoenixHypervisor) -> Result<(), Blocked> {
    let prefix = object.field_prefix();
    let version = hypervisor.status.as_ref().and_then(|s| s.version.as_deref());
    for (i, line) in guest.lxc_options.iter().flatten().enumerate() {
        let (key, value) = line.split_once(['=', ':']).unwrap_or((line, ""));
        if let Some(why) = super::raw_lines::refusal(key.trim(), value.trim(), version) {
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!("{prefix}.lxcOptions[{i}]: {line:?}: {why}"),
            ));
        }
    }
    Ok(())
}

fn source(
    object: &GuestObject,
    guest: &LxcGuest,
    defaults: &Defaults,
    objects: &dyn Objects,
) -> Result<Option<Source>, Blocked> {
    let prefix = object.field_prefix();
    let Some(source) = &guest.source else { return Ok(None) };
    if let Some(reference) = &source.template_ref {
        return clone_source(object, &reference.name, objects).map(Some);
    }
    let Some(image) = &source.image else { return Ok(None) };
    if let Some(volid) = &image.volid {
        if let Some((storage, file)) = volid.split_once(":vztmpl/").filter(|(_, file)| is_open(file)) {
            return Ok(Some(Source::Appliance {
                storage: storage.into(),
                template: file.into(),
            }));
        }
        return Ok(Some(Source::Image { volid: volid.clone() }));
    }
    let storage = image_storage(prefix, "source.image", image.storage.as_ref(), defaults)?;
    if let Some(template) = &image.appliance {
        return Ok(Some(Source::Appliance {
            storage,
            template: template.clone(),
        }));
    }
    let (url, sha256) = (
        image.url.clone().unwrap_or_default(),
        image.sha256.clone().unwrap_or_default(),
    );
    let filename = file_name(&url);
    if !CONTAINER_ENDS.iter().any(|end| filename.ends_with(end)) {
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!(
                "{prefix}.source.image.url: {url:?} must end in the name of a container image ({}): Proxmox takes no other",
                CONTAINER_ENDS.join(", ")
            ),
        ));
    }
    Ok(Some(Source::Download {
        storage,
        content: "vztmpl",
        filename,
        url,
        sha256,
    }))
}

/// Plain options in Proxmox's words that only containers have.
fn options(guest: &LxcGuest, defaults: &Defaults, prefix: &str) -> Result<WantedOptions, Blocked> {
    let memory = memory(prefix, guest.memory.as_ref(), defaults.memory.as_ref())?;
    let swap = mib(&format!("{prefix}.swap"), guest.swap.as_ref())?;
    let cores = guest.cores.or(defaults.cores);
    let timezone = guest.timezone.clone().or(defaults.timezone.clone());
    Ok(given([
        ("hostname", "hostname", guest.shared.hostname.clone()),
        ("cores", "cores", cores.map(|v| v.to_string())),
        ("cpuLimit", "cpulimit", guest.cpu_limit.map(|v| v.to_string())),
        ("cpuUnits", "cpuunits", guest.cpu_units.map(|v| v.to_string())),
        ("memory", "memory", memory.map(|v| v.to_string())),
        ("swap", "swap", swap.map(|v| v.to_string())),
        ("timezone", "timezone", timezone),
        ("cmode", "cmode", guest.cmode.map(|mode| mode.as_str().to_string())),
        ("tty", "tty", guest.tty.map(|v| v.to_string())),
        ("console", "console", guest.console.map(flag)),
        ("hookscript", "hookscript", guest.hookscript.clone()),
    ]))
}

fn flags(wanted: Option<&Capabilities>) -> BTreeMap<String, String> {
    let Some(wanted) = wanted else {
        return BTreeMap::new();
    };
    let mut flags: BTreeMap<String, String> = [
        ("nesting", wanted.nesting),
        ("keyctl", wanted.keyctl),
        ("fuse", wanted.fuse),
        ("mknod", wanted.mknod),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_string(), flag(value?))))
    .collect();
    if let Some(mount) = &wanted.mount {
        let mut types: Vec<&str> = mount.iter().map(|m| m.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        flags.insert("mount".into(), types.join(";"));
    }
    flags
}

fn net(network: &Network, defaults: &Defaults, guest: &LxcGuest) -> WantedNet {
    let firewall_on = guest.shared.firewall.as_ref().and_then(|f| f.enabled) == Some(true);
    let properties = [
        ("bridge", network.bridge.clone().or(defaults.bridge.clone())),
        ("tag", network.vlan.map(|v| v.to_string())),
        ("hwaddr", network.mac.as_ref().map(|m| m.to_uppercase())),
        ("ip", network.ip.clone()),
        ("gw", network.gateway.clone()),
        ("ip6", network.ip6.clone()),
        ("gw6", network.gateway6.clone()),
        ("mtu", network.mtu.map(|v| v.to_string())),
        ("rate", network.rate.map(|v| v.to_string())),
        // A guest firewall works only where the interface takes part (facts D.12).
        ("firewall", network.firewall.or(firewall_on.then_some(true)).map(flag)),
        ("trunks", trunks(network)),
        ("link_down", network.link_down.map(flag)),
    ];
    WantedNet {
        name: network.name.clone(),
        properties: properties
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_string(), v?)))
            .collect(),
    }
}

/// Raw lines: the user's, and the AppArmor profile.
pub(super) fn raw_lines(guest: &LxcGuest) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let profile = guest
        .apparmor_profile
        .iter()
        .map(|p| format!("lxc.apparmor.profile = {p}"));
    for line in profile.chain(guest.lxc_options.iter().flatten().cloned()) {
        let Some((key, value)) = line.split_once(['=', ':']) else {
            continue;
        };
        let entry = (key.trim().to_string(), value.trim().to_string());
        if !lines.contains(&entry) {
            lines.push(entry);
        }
    }
    lines
}

/// A key that holds one value is given once: which of two counts nobody could say.
fn single_valued(object: &GuestObject, lines: &[(String, String)]) -> Result<(), Blocked> {
    let key = "lxc.apparmor.profile";
    let values: Vec<&str> = lines
        .iter()
        .filter(|(k, _)| k == key)
        .map(|(_, v)| v.as_str())
        .collect();
    if values.len() < 2 {
        return Ok(());
    }
    Err(Blocked::stalled(
        Reason::InvalidSpec,
        format!(
            "{0}.apparmorProfile, {0}.lxcOptions: {key} is {values:?}, but holds one value: give it once",
            object.field_prefix()
        ),
    ))
}

/// Properties that are given.
fn properties<const N: usize>(list: [(&str, Option<String>); N]) -> BTreeMap<String, String> {
    let given = list.into_iter();
    given
        .filter_map(|(key, value)| Some((key.to_string(), value?)))
        .collect()
}

/// Options of a mount as Proxmox writes them; none is nothing.
fn mount_options(list: Option<&[MountOption]>) -> Option<String> {
    let mut list = list?.to_vec();
    list.sort_unstable();
    Some(list.iter().map(|o| o.as_str()).collect::<Vec<_>>().join(";"))
}

/// Refuses id maps of mounts where Proxmox does not know them (facts L.1.8), and ranges that overlap.
fn id_maps(object: &GuestObject, hypervisor: &PhoenixHypervisor) -> Result<(), Blocked> {
    let GuestSpec::Lxc(spec) = &object.spec else {
        return Ok(());
    };
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.map(|v| (format!("spec.volumes[{}].idmap", v.name), v.idmap.as_deref()));
    let binds = spec.host_mounts.iter().flatten();
    let binds = binds.map(|m| (format!("spec.hostMounts[{}].idmap", m.name), m.idmap.as_deref()));
    let version = hypervisor.status.as_ref().and_then(|s| s.version.as_deref());
    let release = version.map(|version| {
        let mut parts = version.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or_default());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    });
    for (field, map) in volumes.chain(binds) {
        let Some(map) = map else { continue };
        if let Some(twice) = super::raw_lines::mapped_twice(map) {
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!("{field}: {map:?}: {twice}: give ranges that do not overlap"),
            ));
        }
        if release.is_some_and(|release| release < (9, 2)) {
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!(
                    "{field}: {map:?} needs Proxmox VE 9.2, and this is {}: leave it out, and map ids of the whole container by lines lxc.idmap of lxcOptions, or give the files to the container's ids on the node (chown)",
                    version.unwrap_or_default()
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a path that the line of a configuration does not keep: Proxmox takes blanks off its end and ends it at a
/// control character.
fn kept_as_is(path: &str, field: &str) -> Result<(), Blocked> {
    let end = path.trim_end_matches('/');
    if !path.contains(char::is_control) && end == end.trim_end() {
        return Ok(());
    }
    let message =
        format!("{field}: {path:?} must hold no control characters and end in no blank: Proxmox keeps neither");
    Err(Blocked::stalled(Reason::InvalidSpec, message))
}

fn wanted_volume(object: &GuestObject, volume: &Volume, defaults: &Defaults) -> Result<WantedVolume, Blocked> {
    let field = format!("spec.volumes[{}]", volume.name);
    let refused = |message: String| Blocked::stalled(Reason::InvalidSpec, message);
    let properties = properties([
        ("ro", volume.read_only.map(flag)),
        ("backup", volume.backup.map(flag)),
        ("acl", volume.acl.map(flag)),
        ("quota", volume.quota.map(flag)),
        ("replicate", volume.replicate.map(flag)),
        ("shared", volume.shared.map(flag)),
        ("mountoptions", mount_options(volume.mount_options.as_deref())),
        ("idmap", volume.idmap.clone()),
    ]);
    let path = volume.mount_path.trim_end_matches('/').to_string();
    let name = volume.name.clone();
    if let Some(volid) = &volume.volid {
        return Ok(WantedVolume {
            name,
            storage: volid.split(':').next().unwrap_or_default().to_string(),
            storage_given: true,
            existing: Some(volid.clone()),
            size: DiskSize::MIN,
            path,
            owner_key: None,
            properties,
        });
    }
    let storage = volume.storage.clone();
    let storage = storage.or_else(|| defaults.volume_storage.clone().or(defaults.rootfs_storage.clone()));
    let storage = storage.ok_or_else(|| {
        refused(format!(
            "{field}.storage is missing: name one, here or in defaults.volumeStorage of the PhoenixHypervisor"
        ))
    })?;
    // Admission sees to it where there is an API server.
    let Some(size) = &volume.size else {
        return Err(refused(format!(
            "{field}.size is missing: give it, or volid for a volume that exists"
        )));
    };
    let retain = volume.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain;
    Ok(WantedVolume {
        name,
        storage,
        storage_given: volume.storage.is_some(),
        existing: None,
        size: disk_size(&format!("{field}.size"), size)?,
        path,
        owner_key: retain.then(|| volume_key(&object.key, &volume.name)),
        properties,
    })
}

type Mounts = (Option<Vec<WantedVolume>>, Option<Vec<WantedBind>>);

fn mounts(object: &GuestObject, defaults: &Defaults) -> Result<Mounts, Blocked> {
    let GuestSpec::Lxc(spec) = &object.spec else {
        return Ok((None, None));
    };
    let mut volumes = Vec::new();
    let mut taken: Vec<(&str, String)> = Vec::new();
    let volume_list = spec.volumes.as_deref().unwrap_or_default();
    let bind_list = spec.host_mounts.as_deref().unwrap_or_default();
    let fields = volume_list
        .iter()
        .map(|v| (v.mount_path.as_str(), format!("spec.volumes[{}]", v.name)))
        .chain(
            bind_list
                .iter()
                .map(|m| (m.mount_path.as_str(), format!("spec.hostMounts[{}]", m.name))),
        );
    for (path, field) in fields {
        kept_as_is(path, &format!("{field}.mountPath"))?;
        let trimmed = path.trim_end_matches('/');
        if let Some((_, other)) = taken.iter().find(|(p, _)| *p == trimmed) {
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!("{field}.mountPath: {path:?} is also the mount path of {other}: give each its own"),
            ));
        }
        taken.push((trimmed, field));
    }
    for mount in bind_list {
        kept_as_is(&mount.host_path, &format!("spec.hostMounts[{}].hostPath", mount.name))?;
    }
    for (n, volume) in volume_list.iter().enumerate() {
        let twin = volume_list[..n]
            .iter()
            .find(|v| v.volid.is_some() && v.volid == volume.volid);
        if let Some(twin) = twin {
            let volid = volume.volid.as_deref().unwrap_or_default();
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!(
                    "spec.volumes[{}].volid: {volid} is also that of {}: a container has a volume once",
                    volume.name, twin.name
                ),
            ));
        }
        volumes.push(wanted_volume(object, volume, defaults)?);
    }
    let binds = bind_list
        .iter()
        .map(|mount| WantedBind {
            host_path: mount.host_path.clone(),
            path: mount.mount_path.trim_end_matches('/').to_string(),
            properties: properties([
                ("ro", mount.read_only.map(flag)),
                ("shared", mount.shared.map(flag)),
                ("mountoptions", mount_options(mount.mount_options.as_deref())),
                ("idmap", mount.idmap.clone()),
            ]),
        })
        .collect();
    Ok((
        spec.volumes.is_some().then_some(volumes),
        spec.host_mounts.is_some().then_some(binds),
    ))
}
