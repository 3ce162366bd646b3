//! A container as wanted, from a PhoenixLXC or a PhoenixTemplate of lxc form.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::crd::*;

use super::*;

/// Resolves an object to what is wanted of its container.
///
/// # Errors
/// What is wrong with the spec or with what it refers to, with field, value and fix.
pub fn resolve(object: &GuestObject, objects: &dyn Objects, cluster_id: &str) -> Result<Desired, Blocked> {
    let guest = supported(object)?;
    let hypervisor = refs::hypervisor(object, objects)?;
    may(object, guest, &hypervisor)?;
    let defaults = hypervisor.spec.defaults.clone().unwrap_or_default();
    let source = source(object, guest, &defaults, objects)?;
    let (volumes, binds) = mounts(object, &defaults)?;
    let scripts = scripts::scripts(object, &hypervisor, objects)?;
    let lxc_spec = match &object.spec {
        GuestSpec::Lxc(spec) => Some(spec.as_ref()),
        _ => None,
    };
    let prefix = field_prefix(object);
    let rootfs = guest.rootfs.clone().unwrap_or_default();
    let mut desired = Desired {
        cluster_id: cluster_id.to_string(),
        previous_clusters: hypervisor.spec.previous_cluster_ids.clone().unwrap_or_default(),
        key: object.key.clone(),
        uid: object.uid.clone(),
        vmid: guest.vmid,
        vmid_range: hypervisor.spec.vmid_range.as_ref().map(|r| (r.start, r.end)),
        node: guest.node.clone().or(defaults.node.clone()),
        revision: String::new(),
        form: form(object),
        default_hostname: object.key.name.replace('.', "-").chars().take(63).collect(),
        unprivileged: guest.unprivileged,
        rootfs_storage: rootfs.storage.clone().or(match source {
            Some(Source::Clone { .. }) => None,
            _ => defaults.rootfs_storage.clone(),
        }),
        rootfs_gib: rootfs
            .size
            .as_deref()
            .map(|s| gib(&format!("{prefix}.rootfs.size"), s))
            .transpose()?,
        options: options(guest, &defaults, &prefix)?,
        startup: startup(guest),
        flags: flags(guest.capabilities.as_ref().or(defaults.capabilities.as_ref())),
        network: guest
            .network
            .as_ref()
            .map(|list| list.iter().map(|n| net(n, &defaults, guest)).collect()),
        tags: guest
            .tags
            .as_ref()
            .map(|tags| tags.iter().map(|t| t.0.clone()).collect()),
        words: guest.description.clone(),
        pool: guest.pool.clone(),
        raw_lines: raw_lines(guest),
        gpus: guest
            .gpus
            .as_ref()
            .map(|list| list.iter().filter_map(|g| g.index).collect()),
        volumes,
        binds,
        owner: hypervisor.spec.volume_owners.as_ref().map(|o| WantedOwner {
            ids: (o.id_range.start, o.id_range.end),
            image: o.image.clone(),
            storage: o.storage.clone().or(defaults.rootfs_storage.clone()),
            pool: o.pool.clone(),
        }),
        firewall: guest.firewall.as_ref().map(|f| firewall(f, guest)),
        scripts,
        probe: scripts::probe(object, &hypervisor, objects),
        power: lxc_spec.and_then(|s| s.power_state).unwrap_or_default(),
        restarted_at: object.annotations.get(RESTARTED_AT).cloned(),
        restart: lxc_spec
            .and_then(|s| s.update_policy.as_ref()?.restart)
            .unwrap_or_default(),
        drift: hypervisor.spec.drift_policy.unwrap_or_default(),
        adopt: object.annotations.get(ADOPT).cloned(),
        deletion: match &object.spec {
            GuestSpec::Lxc(spec) => spec.deletion_policy,
            GuestSpec::Template(spec) => spec.deletion_policy,
            GuestSpec::Vm(spec) => spec.deletion_policy,
        },
        channels: Channels {
            token: hypervisor.spec.credentials.token_secret_ref.is_some(),
            ticket: hypervisor.spec.credentials.root_password_secret_ref.is_some(),
            ssh: hypervisor.spec.ssh.is_some(),
        },
        source,
        hash: String::new(),
    };
    desired.revision = revision(&desired);
    desired.hash = hash(&desired);
    Ok(desired)
}

/// Prefix of the container's fields in messages.
fn field_prefix(object: &GuestObject) -> String {
    match object.spec {
        GuestSpec::Template(_) => "spec.lxc".into(),
        _ => "spec".into(),
    }
}

fn form(object: &GuestObject) -> Form {
    match &object.spec {
        GuestSpec::Template(spec) => match spec.form.unwrap_or_default() {
            TemplateForm::Snapshot => Form::Snapshot(spec.snapshot_name.clone().unwrap_or_else(|| "phoenix".into())),
            TemplateForm::Template => Form::Template,
        },
        _ => Form::Guest,
    }
}

/// The container part of the spec, if every field of it is built.
fn supported(object: &GuestObject) -> Result<&LxcGuest, Blocked> {
    let no = |what: String| Blocked::stalled("NotYetSupported", what);
    if object.annotations.contains_key(RECREATE) {
        return Err(no(format!(
            "metadata.annotations[{RECREATE}] is not supported yet and the guest is left as it is: take the annotation away; to have a new guest, delete the object and apply it again"
        )));
    }
    let guest = match &object.spec {
        GuestSpec::Vm(_) => {
            return Err(no(
                "PhoenixVM is not supported yet: virtual machines come in a later version".into(),
            ));
        }
        GuestSpec::Template(spec) if spec.vm.is_some() => {
            return Err(no("spec.vm: templates of virtual machines are not supported yet".into()));
        }
        GuestSpec::Template(spec) if spec.revision_history_limit.is_some() => {
            return Err(no("spec.revisionHistoryLimit is not supported yet: leave it out".into()));
        }
        _ => object.lxc().ok_or_else(|| no("spec.lxc is missing".into()))?,
    };
    let prefix = field_prefix(object);
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
            return Err(no(format!("{prefix}.{field} is not supported yet: {fix}")));
        }
    }
    for (i, gpu) in guest.gpus.iter().flatten().enumerate() {
        for (given, field) in [
            (gpu.pci_address.is_some(), "pciAddress"),
            (gpu.count.is_some(), "count"),
            (gpu.model.is_some(), "model"),
            (gpu.vram_share.is_some(), "vramShare"),
        ] {
            if given {
                return Err(no(format!(
                    "{prefix}.gpus[{i}].{field} is not supported yet: name GPUs by index"
                )));
            }
        }
    }
    if let GuestSpec::Lxc(spec) = &object.spec
        && let Some(health) = &spec.health
    {
        for (given, field) in [
            (health.startup.is_some(), "startup"),
            (health.liveness.is_some(), "liveness"),
        ] {
            if given {
                return Err(no(format!(
                    "spec.health.{field} is not supported yet: use spec.health.readiness"
                )));
            }
        }
    }
    Ok(guest)
}

/// What objects of other namespaces may ask for (design §2, `allow`).
fn may(object: &GuestObject, guest: &LxcGuest, hypervisor: &PhoenixHypervisor) -> Result<(), Blocked> {
    if hypervisor.metadata.namespace.as_deref() == Some(&object.key.namespace) {
        return Ok(());
    }
    let allow = hypervisor.spec.allow.clone().unwrap_or_default();
    let prefix = field_prefix(object);
    let refuse = |field: String, value: &str, key: &str| {
        Err(Blocked::stalled(
            "NotAllowed",
            format!(
                "{field}: {value:?} is root on the node in effect, and the hypervisor's namespace must allow it: add it to spec.allow.{key} of the PhoenixHypervisor"
            ),
        ))
    };
    if guest.unprivileged == Some(false) && allow.privileged != Some(true) {
        return refuse(format!("{prefix}.unprivileged"), "false", "privileged");
    }
    for (key, value) in raw_lines(guest) {
        if !allow.lxc_options.iter().flatten().any(|k| *k == key) {
            return refuse(
                format!("{prefix}.lxcOptions"),
                &format!("{key} = {value}"),
                "lxcOptions",
            );
        }
    }
    if let GuestSpec::Lxc(spec) = &object.spec {
        for mount in spec.host_mounts.iter().flatten() {
            let below = |prefix: &String| {
                let prefix = prefix.trim_end_matches('/');
                mount.host_path == prefix || mount.host_path.starts_with(&format!("{prefix}/"))
            };
            if !allow.host_paths.iter().flatten().any(below) {
                return refuse("spec.hostMounts".into(), &mount.host_path, "hostPaths");
            }
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
    let prefix = field_prefix(object);
    let Some(source) = &guest.source else { return Ok(None) };
    if let Some(reference) = &source.template_ref {
        return clone_source(object, &reference.name, objects).map(Some);
    }
    let Some(image) = &source.image else { return Ok(None) };
    if let Some(volid) = &image.volid {
        return Ok(Some(Source::Image { volid: volid.clone() }));
    }
    let storage = image.storage.clone().or(defaults.image_storage.clone()).ok_or_else(|| {
        Blocked::stalled(
            "InvalidSpec",
            format!("{prefix}.source.image.storage is missing: name a storage for images, here or in defaults.imageStorage of the PhoenixHypervisor"),
        )
    })?;
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
    let filename = url
        .split(['?', '#'])
        .next()
        .and_then(|u| u.rsplit('/').next())
        .unwrap_or_default()
        .to_string();
    if !filename.contains(".tar.") && !filename.ends_with(".tar") {
        return Err(Blocked::stalled(
            "InvalidSpec",
            format!(
                "{prefix}.source.image.url: {url:?} must end in the name of a container image such as debian-12.tar.zst"
            ),
        ));
    }
    Ok(Some(Source::Download {
        storage,
        filename,
        url,
        sha256,
    }))
}

/// A clone's source. Until the template is Ready only an existing guest can be worked on: vmid 0 says so.
fn clone_source(object: &GuestObject, name: &str, objects: &dyn Objects) -> Result<Source, Blocked> {
    let template = refs::template(object, name, objects)?;
    let GuestSpec::Template(spec) = &template.spec else {
        return Err(Blocked::stalled(
            "TemplateNotFound",
            format!("{} is not a template", template.key),
        ));
    };
    if spec.lxc.is_none() {
        return Err(Blocked::stalled(
            "InvalidSpec",
            format!(
                "source.templateRef.name: PhoenixTemplate {name} is of vm form: a container needs one with spec.lxc"
            ),
        ));
    }
    let ready = template.is_ready() && !template.deleting;
    Ok(Source::Clone {
        vmid: template.status.vmid.filter(|_| ready).unwrap_or_default(),
        node: template.status.node.clone().unwrap_or_default(),
        snapshot: match form(&template) {
            Form::Snapshot(name) => Some(name),
            _ => None,
        },
        revision: template.status.revision.clone().unwrap_or_default(),
        template: name.to_string(),
    })
}

fn gib(field: &str, size: &str) -> Result<i64, Blocked> {
    units::whole_gib(field, size).map_err(|m| Blocked::stalled("InvalidSpec", m))
}

/// Plain options in Proxmox's words; defaults count only where the object leaves the field out and the guest is new,
/// which `plan::create` decides, so only the object's own fields are here, and cores and memory of the defaults.
fn options(guest: &LxcGuest, defaults: &Defaults, prefix: &str) -> Result<BTreeMap<String, String>, Blocked> {
    let mut options = BTreeMap::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            options.insert(key.to_string(), value);
        }
    };
    let mib = |field: &str, value: &Option<String>| -> Result<Option<i64>, Blocked> {
        let field = format!("{prefix}.{field}");
        let mib = value.as_deref().map(|v| units::whole_mib(&field, v)).transpose();
        mib.map_err(|m| Blocked::stalled("InvalidSpec", m))
    };
    let memory = mib("memory", &guest.memory)?;
    if let Some(memory) = memory.filter(|m| *m < 16) {
        return Err(Blocked::stalled(
            "InvalidSpec",
            format!("{prefix}.memory: {memory}Mi is too little: Proxmox needs at least 16Mi"),
        ));
    }
    let flag = |b: bool| if b { "1" } else { "0" }.to_string();
    set("hostname", guest.hostname.clone());
    set("cores", guest.cores.or(defaults.cores).map(|v| v.to_string()));
    set("cpulimit", guest.cpu_limit.map(|v| v.to_string()));
    set("cpuunits", guest.cpu_units.map(|v| v.to_string()));
    set(
        "memory",
        memory.or(mib("memory", &defaults.memory)?).map(|v| v.to_string()),
    );
    set("swap", mib("swap", &guest.swap)?.map(|v| v.to_string()));
    set("timezone", guest.timezone.clone().or(defaults.timezone.clone()));
    set("onboot", guest.boot.as_ref().and_then(|b| b.autostart).map(flag));
    set("protection", guest.protection.map(flag));
    let dns = guest.dns.clone().unwrap_or_default();
    let default_dns = defaults.dns.clone().unwrap_or_default();
    let nameservers = dns.nameservers.or(default_dns.nameservers);
    set(
        "nameserver",
        nameservers.map(|list| list.iter().map(|a| a.0.as_str()).collect::<Vec<_>>().join(" ")),
    );
    set("searchdomain", dns.search_domain.or(default_dns.search_domain));
    Ok(options)
}

fn startup(guest: &LxcGuest) -> BTreeMap<String, String> {
    let boot = guest.boot.clone().unwrap_or_default();
    [("order", boot.order), ("up", boot.up_delay), ("down", boot.down_delay)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_string(), value?.to_string())))
        .collect()
}

fn flags(wanted: Option<&Capabilities>) -> BTreeMap<String, String> {
    let Some(wanted) = wanted else {
        return BTreeMap::new();
    };
    let bit = |b: bool| if b { "1" } else { "0" }.to_string();
    let mut flags: BTreeMap<String, String> = [
        ("nesting", wanted.nesting),
        ("keyctl", wanted.keyctl),
        ("fuse", wanted.fuse),
        ("mknod", wanted.mknod),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_string(), bit(value?))))
    .collect();
    if let Some(mount) = &wanted.mount {
        let mut types: Vec<&str> = mount
            .iter()
            .map(|m| if *m == MountType::Nfs { "nfs" } else { "cifs" })
            .collect();
        types.sort_unstable();
        types.dedup();
        flags.insert("mount".into(), types.join(";"));
    }
    flags
}

fn net(network: &Network, defaults: &Defaults, guest: &LxcGuest) -> WantedNet {
    let firewall_on = guest.firewall.as_ref().and_then(|f| f.enabled) == Some(true);
    let flag = |b: bool| if b { "1" } else { "0" }.to_string();
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
fn raw_lines(guest: &LxcGuest) -> Vec<(String, String)> {
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

type Mounts = (Option<Vec<WantedVolume>>, Option<Vec<WantedBind>>);

fn mounts(object: &GuestObject, defaults: &Defaults) -> Result<Mounts, Blocked> {
    let GuestSpec::Lxc(spec) = &object.spec else {
        return Ok((None, None));
    };
    let flag = |b: bool| if b { "1" } else { "0" }.to_string();
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
        let trimmed = path.trim_end_matches('/');
        if let Some((_, other)) = taken.iter().find(|(p, _)| *p == trimmed) {
            return Err(Blocked::stalled(
                "InvalidSpec",
                format!("{field}.mountPath: {path:?} is also the mount path of {other}: give each its own"),
            ));
        }
        taken.push((trimmed, field));
    }
    for volume in volume_list {
        let field = format!("spec.volumes[{}]", volume.name);
        let storage = volume
            .storage
            .clone()
            .or(defaults.volume_storage.clone())
            .or(defaults.rootfs_storage.clone())
            .ok_or_else(|| {
                Blocked::stalled("InvalidSpec", format!("{field}.storage is missing: name one, here or in defaults.volumeStorage of the PhoenixHypervisor"))
            })?;
        let retain = volume.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain;
        let mut properties = BTreeMap::new();
        for (key, value) in [("ro", volume.read_only), ("backup", volume.backup)] {
            if let Some(value) = value {
                properties.insert(key.to_string(), flag(value));
            }
        }
        volumes.push(WantedVolume {
            name: volume.name.clone(),
            storage,
            size_gib: gib(&format!("{field}.size"), &volume.size)?,
            path: volume.mount_path.trim_end_matches('/').to_string(),
            owner_key: retain.then(|| format!("/lxc/{}/{}/{}", object.key.namespace, object.key.name, volume.name)),
            properties,
        });
    }
    let binds = bind_list
        .iter()
        .map(|mount| WantedBind {
            host_path: mount.host_path.clone(),
            path: mount.mount_path.trim_end_matches('/').to_string(),
            properties: mount
                .read_only
                .map(|ro| ("ro".to_string(), flag(ro)))
                .into_iter()
                .collect(),
        })
        .collect();
    Ok((
        spec.volumes.is_some().then_some(volumes),
        spec.host_mounts.is_some().then_some(binds),
    ))
}

fn firewall(firewall: &Firewall, guest: &LxcGuest) -> WantedFirewall {
    let action = |a: FirewallAction| match a {
        FirewallAction::Accept => "ACCEPT",
        FirewallAction::Drop => "DROP",
        FirewallAction::Reject => "REJECT",
    };
    let mut options = BTreeMap::new();
    if let Some(enabled) = firewall.enabled {
        options.insert("enable".to_string(), if enabled { "1" } else { "0" }.to_string());
    }
    for (key, policy) in [
        ("policy_in", firewall.inbound_policy),
        ("policy_out", firewall.outbound_policy),
    ] {
        if let Some(policy) = policy {
            options.insert(key.to_string(), action(policy).to_string());
        }
    }
    let position = |name: &str| guest.network.iter().flatten().position(|n| n.name == name);
    let rule = |(i, rule): (usize, &FirewallRule)| -> WantedRule {
        let direction = if rule.direction == FirewallDirection::In {
            "in"
        } else {
            "out"
        };
        let comment = match &rule.comment {
            Some(words) => format!("phoenix:{i} {words}"),
            None => format!("phoenix:{i}"),
        };
        [
            ("type", Some(direction.to_string())),
            ("action", Some(action(rule.action).to_string())),
            (
                "enable",
                Some(if rule.enabled.unwrap_or(true) { "1" } else { "0" }.to_string()),
            ),
            ("proto", rule.protocol.clone()),
            ("source", rule.source.clone()),
            ("dest", rule.destination.clone()),
            ("dport", rule.port.clone()),
            ("sport", rule.source_port.clone()),
            (
                "iface",
                rule.interface.as_deref().and_then(position).map(|p| format!("net{p}")),
            ),
            ("macro", rule.macro_name.clone()),
            ("comment", Some(comment)),
        ]
        .into_iter()
        .filter_map(|(k, v)| Some((k.to_string(), v?)))
        .collect()
    };
    WantedFirewall {
        options,
        rules: firewall
            .rules
            .as_ref()
            .map(|rules| rules.iter().enumerate().map(rule).collect()),
    }
}

fn short_hash(parts: &[String]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect()
}

/// Content hash of what a template is built from: its source (and the source's revision), its root filesystem and
/// its scripts. Options such as cores do not change what children copy.
fn revision(desired: &Desired) -> String {
    if desired.form == Form::Guest {
        return String::new();
    }
    let source = match &desired.source {
        Some(Source::Clone { template, revision, .. }) => format!("clone {template} {revision}"),
        other => format!("{other:?}"),
    };
    let mut parts = vec![source, format!("{:?} {:?}", desired.rootfs_gib, desired.unprivileged)];
    parts.extend(
        desired
            .scripts
            .iter()
            .filter(|s| s.role != ScriptRole::Test)
            .map(|s| s.hash.clone()),
    );
    short_hash(&parts)
}

/// Hash of everything that is applied to the guest; uid and clone details do not count.
fn hash(desired: &Desired) -> String {
    let mut copy = desired.clone();
    copy.uid.clear();
    copy.adopt = None;
    if let Some(Source::Clone {
        vmid, node, revision, ..
    }) = &mut copy.source
    {
        (*vmid, *node, *revision) = (0, String::new(), String::new());
    }
    let scripts: Vec<String> = copy.scripts.iter().map(|s| s.hash.clone()).collect();
    copy.scripts.clear();
    let mut parts = vec![format!("{copy:?}")];
    parts.extend(scripts);
    short_hash(&parts)
}
