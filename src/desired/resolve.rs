//! An object resolved to what is wanted of its guest: what containers and machines share is here, what only one of
//! them has in [`super::lxc`] and [`super::vm`].

use crate::reason::Reason;
use std::collections::BTreeMap;

use crate::crd::*;

use super::*;

/// Resolves an object to what is wanted of its guest.
///
/// # Errors
/// What is wrong with the spec or with what it refers to, with field, value and fix.
pub fn resolve(object: &GuestObject, objects: &dyn Objects, cluster_id: &str) -> Result<Desired, Blocked> {
    unbuilt(object)?;
    let hypervisor = refs::hypervisor(object, objects)?;
    let grants = allow::check(object, &hypervisor, objects)?;
    let mut desired = shared(object, &hypervisor, objects, cluster_id)?;
    desired.grants = grants;
    if let Some(vm) = object.vm() {
        super::vm::fill(&mut desired, object, vm, &hypervisor, objects)?;
    } else if let Some(lxc) = object.lxc() {
        super::lxc::fill(&mut desired, object, lxc, &hypervisor, objects)?;
    }
    not_named_as_owners(object, &desired)?;
    desired.revision = fingerprint::revision(&desired);
    desired.hash = fingerprint::applied(&desired);
    Ok(desired)
}

/// Names of owner containers tell where to look for retained volumes; nobody else's guest is to be taken for one.
fn not_named_as_owners(object: &GuestObject, desired: &Desired) -> Result<(), Blocked> {
    let given = desired.option("hostname");
    // A guest that is there has its name already.
    let chosen = Some(&desired.default_hostname).filter(|_| object.status.vmid().is_none());
    let name = given.or(chosen).filter(|name| name.starts_with(OWNER_HOSTNAME));
    let Some(name) = name.filter(|_| object.guest_type() == GuestType::Lxc) else {
        return Ok(());
    };
    let field = format!("{}.hostname", object.field_prefix());
    Err(Blocked::stalled(
        Reason::InvalidSpec,
        format!(
            "{field}: {name:?} begins with {OWNER_HOSTNAME}, as the names of owner containers of retained volumes do: give another"
        ),
    ))
}

fn no(what: String) -> Blocked {
    Blocked::stalled(Reason::NotYetSupported, what)
}

/// Refuses fields whose behaviour is not built, for either sort of guest.
fn unbuilt(object: &GuestObject) -> Result<(), Blocked> {
    if object.annotations.contains_key(RECREATE) {
        return Err(no(format!(
            "metadata.annotations[{RECREATE}] is not supported yet and the guest is left as it is: take the annotation away; to have a new guest, delete the object and apply it again"
        )));
    }
    match &object.spec {
        GuestSpec::Template(spec) if spec.lxc.is_none() && spec.vm.is_none() => Err(Blocked::stalled(
            Reason::InvalidSpec,
            "spec: neither lxc nor vm is given: give one",
        )),
        _ if object
            .shared()
            .and_then(|s| s.description.as_deref())
            .is_some_and(Stamp::is_forged_in) =>
        {
            Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!(
                    "{}.description: a line begins as the stamp by which Phoenix knows its guests: take that line out",
                    object.field_prefix()
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn shared(
    object: &GuestObject,
    hypervisor: &PhoenixHypervisor,
    objects: &dyn Objects,
    cluster_id: &str,
) -> Result<Desired, Blocked> {
    let spec = object
        .shared()
        .ok_or_else(|| Blocked::stalled(Reason::InvalidSpec, "spec: neither lxc nor vm is given: give one"))?;
    let defaults = hypervisor.spec.defaults.clone().unwrap_or_default();
    let update = match &object.spec {
        GuestSpec::Lxc(spec) => spec.update_policy.as_ref(),
        GuestSpec::Vm(spec) => spec.update_policy.as_ref(),
        GuestSpec::Template(_) => None,
    };
    Ok(Desired {
        cluster_id: cluster_id.to_string(),
        previous_clusters: hypervisor.spec.previous_cluster_ids.clone().unwrap_or_default(),
        key: object.key.clone(),
        uid: object.uid.clone(),
        sort: object.guest_type(),
        vmid: object.spec_vmid(),
        vmid_range: hypervisor.spec.vmid_range.as_ref().map(IdRange::ids),
        node: spec.node.clone(),
        default_node: defaults.node.clone(),
        source: None,
        revision: String::new(),
        history_limit: match &object.spec {
            GuestSpec::Template(spec) => spec.revision_history_limit.and_then(|n| usize::try_from(n).ok()),
            _ => None,
        },
        rebuild: object.annotations.get(REBUILD).cloned(),
        form: form(object),
        default_hostname: object.key.name.replace('.', "-").chars().take(63).collect(),
        unprivileged: None,
        rootfs_storage: None,
        rootfs_gib: None,
        options: shared_options(spec, &defaults),
        startup: startup(spec.boot.as_ref()),
        flags: BTreeMap::new(),
        network: None,
        tags: spec
            .tags
            .as_ref()
            .map(|tags| tags.iter().map(|t| t.0.clone()).collect()),
        words: spec.description.as_deref().map(Stamp::strip),
        pool: spec.pool.clone(),
        raw_lines: Vec::new(),
        gpus: None,
        volumes: None,
        binds: None,
        owner: None,
        vm: None,
        firewall: spec
            .firewall
            .as_ref()
            .map(|f| firewall(f, spec.network.as_deref().unwrap_or_default(), object.guest_type())),
        scripts: scripts::scripts(object, hypervisor, objects)?,
        health: scripts::health(object, hypervisor, objects),
        power: object.power_state().unwrap_or_default(),
        restarted_at: object.annotations.get(RESTARTED_AT).cloned(),
        cancel: object.annotations.get(CANCEL).cloned(),
        restart: update.and_then(|u| u.restart).unwrap_or_default(),
        drift: hypervisor.spec.drift_policy.unwrap_or_default(),
        adopt: object.annotations.get(ADOPT).cloned(),
        restamp: object.annotations.get(RESTAMP).cloned(),
        owner_ids: hypervisor.spec.volume_owners.as_ref().map(|o| o.id_range.ids()),
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
        grants: None,
        hash: String::new(),
    })
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

/// Options that mean the same for both sorts of guest.
fn shared_options(spec: &GuestFields, defaults: &Defaults) -> WantedOptions {
    let dns = spec.dns.clone().unwrap_or_default();
    let default_dns = defaults.dns.clone().unwrap_or_default();
    let nameservers = dns.nameservers.or(default_dns.nameservers);
    let nameservers = nameservers.map(|list| Vec::from_iter(list.iter().map(|a| a.0.as_str())).join(" "));
    let domain = dns.search_domain.or(default_dns.search_domain);
    given([
        (
            "boot.autostart",
            "onboot",
            spec.boot.as_ref().and_then(|b| b.autostart).map(flag),
        ),
        ("protection", "protection", spec.protection.map(flag)),
        ("dns.nameservers", "nameserver", nameservers),
        ("dns.searchDomain", "searchdomain", domain),
    ])
}

/// A clone's source. Until the template is Ready only an existing guest can be worked on: vmid 0 says so.
pub(super) fn clone_source(object: &GuestObject, name: &str, objects: &dyn Objects) -> Result<Source, Blocked> {
    // What was cloned is a guest of its own: it outlives its template, and a change of that one's form.
    let made = object.status.was_made();
    let template = match refs::template(object, name, objects) {
        Ok(template) if !made || template.guest_type() == object.guest_type() => template,
        Err(blocked) if !made => return Err(blocked),
        _ => {
            return Ok(Source::Clone {
                vmid: None,
                node: String::new(),
                snapshot: None,
                revision: String::new(),
                template: name.to_string(),
                namespace: object.key.namespace.clone(),
            });
        }
    };
    refs::lineage(object, objects)?;
    if template.guest_type() != object.guest_type() {
        let (is, needs) = match object.guest_type() {
            GuestType::Lxc => ("vm", "a container needs one with spec.lxc"),
            GuestType::Qemu => ("lxc", "a VM needs one with spec.vm"),
        };
        let field = format!("{}.source.templateRef.name", object.field_prefix());
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!("{field}: PhoenixTemplate {name} is of {is} form: {needs}"),
        ));
    }
    let ready = template.is_ready() && !template.deleting;
    Ok(Source::Clone {
        vmid: template.status.vmid().filter(|_| ready),
        node: template.status.node.clone().unwrap_or_default(),
        snapshot: match form(&template) {
            Form::Snapshot(name) => Some(name),
            _ => None,
        },
        revision: template.status.revision.clone().unwrap_or_default(),
        template: name.to_string(),
        namespace: template.key.namespace.clone(),
    })
}

pub(super) fn gib(field: &str, size: &str) -> Result<i64, Blocked> {
    units::whole_gib(field, size).map_err(|m| Blocked::stalled(Reason::InvalidSpec, m))
}

/// A quantity in whole MiB, as Proxmox takes memory: at least 16 (facts D.1, F.1).
pub(super) fn mib(field: &str, value: Option<&String>) -> Result<Option<i64>, Blocked> {
    let mib = value.map(|v| units::whole_mib(field, v)).transpose();
    mib.map_err(|m| Blocked::stalled(Reason::InvalidSpec, m))
}

/// Memory of a guest.
pub(super) fn memory(prefix: &str, own: Option<&String>, default: Option<&String>) -> Result<Option<i64>, Blocked> {
    let field = format!("{prefix}.memory");
    let memory = mib(&field, own)?;
    if let Some(memory) = memory.filter(|m| *m < 16) {
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!("{field}: {memory}Mi is too little: Proxmox needs at least 16Mi"),
        ));
    }
    Ok(memory.or(mib(&field, default)?))
}

/// Where a downloaded image goes.
pub(super) fn image_storage(
    prefix: &str,
    field: &str,
    own: Option<&String>,
    defaults: &Defaults,
) -> Result<String, Blocked> {
    own.or(defaults.image_storage.as_ref()).cloned().ok_or_else(|| {
        Blocked::stalled(
            Reason::InvalidSpec,
            format!("{prefix}.{field}.storage is missing: name a storage for images, here or in defaults.imageStorage of the PhoenixHypervisor"),
        )
    })
}

fn startup(boot: Option<&Boot>) -> BTreeMap<String, String> {
    let boot = boot.cloned().unwrap_or_default();
    [("order", boot.order), ("up", boot.up_delay), ("down", boot.down_delay)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_string(), value?.to_string())))
        .collect()
}

fn firewall(firewall: &Firewall, network: &[Network], type_: GuestType) -> WantedFirewall {
    let action = |a: FirewallAction| match a {
        FirewallAction::Accept => "ACCEPT",
        FirewallAction::Drop => "DROP",
        FirewallAction::Reject => "REJECT",
    };
    let mut options = BTreeMap::new();
    if let Some(enabled) = firewall.enabled {
        options.insert("enable".to_string(), flag(enabled));
    }
    for (key, policy) in [
        ("policy_in", firewall.inbound_policy),
        ("policy_out", firewall.outbound_policy),
    ] {
        if let Some(policy) = policy {
            options.insert(key.to_string(), action(policy).to_string());
        }
    }
    let number = |name: &str| match type_ {
        GuestType::Lxc => network.iter().position(|n| n.name == name).map(|p| p.to_string()),
        // The number in the name of a machine's interface is Proxmox's.
        GuestType::Qemu => name.get(3..).map(str::to_string),
    };
    let rule = |(i, rule): (usize, &FirewallRule)| -> WantedRule {
        let direction = if rule.direction == FirewallDirection::In {
            "in"
        } else {
            "out"
        };
        let comment = kept_comment(&format!("phoenix:{i} {}", rule.comment.as_deref().unwrap_or_default()));
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
                rule.interface.as_deref().and_then(number).map(|n| format!("net{n}")),
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

/// The part of a comment that Proxmox keeps: the first line, without blanks around it. What follows would be read as
/// further lines of the firewall's file.
fn kept_comment(text: &str) -> String {
    let mut line = text.lines().next().unwrap_or_default().trim().to_string();
    // Proxmox cuts blanks off the bytes of a line, and the last byte of some letters (à) is one of them.
    if line.as_bytes().last() == Some(&0xa0) {
        line.push('.');
    }
    line
}
