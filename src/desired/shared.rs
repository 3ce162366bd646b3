//! What both wings use: sources, sizes, options that mean the same for containers and machines, firewall, start order.

use std::collections::BTreeMap;

use crate::crd::{
    Boot, Defaults, Dns, Firewall, FirewallAction, FirewallDirection, FirewallRule, GuestFields, Network,
    PhoenixHypervisor, TemplateForm,
};
use crate::pve::{DiskSize, GuestType, units};
use crate::reason::Reason;

use super::{
    Blocked, Channels, Form, GuestObject, GuestSpec, Objects, Script, Source, WantedFirewall, WantedGuest, WantedNet,
    WantedOption, WantedOptions, WantedRule, refs,
};

/// What a guest is resolved from.
pub(super) struct Context<'a> {
    pub object: &'a GuestObject,
    pub hypervisor: &'a PhoenixHypervisor,
    pub objects: &'a dyn Objects,
    pub defaults: Defaults,
    pub channels: Channels,
    pub scripts: &'a [Script],
}

/// What a wing makes of its part of a spec.
pub(super) struct Wing {
    pub guest: WantedGuest,
    pub source: Option<Source>,
    pub options: WantedOptions,
    pub network: Option<Vec<WantedNet>>,
}

/// A flag in Proxmox's words.
pub(super) fn flag(on: bool) -> String {
    if on { "1" } else { "0" }.into()
}

/// Options that are given, from field, Proxmox's name and value.
pub(super) fn given<const N: usize>(options: [(&'static str, &'static str, Option<String>); N]) -> WantedOptions {
    let given = options.into_iter();
    let given = given.filter_map(|(field, key, value)| Some((key, WantedOption { field, value: value? })));
    given.collect()
}

/// A clone's source. Until the template is Ready only an existing guest can be worked on: no vmid says so.
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

/// Size of a root filesystem, volume or disk.
pub(super) fn disk_size(field: &str, size: &str) -> Result<DiskSize, Blocked> {
    DiskSize::parse(field, size).map_err(|m| Blocked::stalled(Reason::InvalidSpec, m))
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

pub(super) fn startup(boot: Option<&Boot>) -> BTreeMap<String, String> {
    let boot = boot.cloned().unwrap_or_default();
    [("order", boot.order), ("up", boot.up_delay), ("down", boot.down_delay)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_string(), value?.to_string())))
        .collect()
}

pub(super) fn firewall(firewall: &Firewall) -> WantedFirewall {
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
            // As the guest names it: Proxmox's number is found on the guest.
            ("iface", rule.interface.clone()),
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

/// VLANs of an interface as Proxmox writes them; none is nothing.
pub(super) fn trunks(network: &Network) -> Option<String> {
    let mut tags = network.trunks.clone()?;
    tags.sort_unstable();
    let tags: Vec<String> = tags.iter().map(i64::to_string).collect();
    Some(tags.join(";"))
}

/// Options that mean the same for both sorts of guest.
pub(super) fn shared_options(spec: &GuestFields, defaults: &Defaults) -> WantedOptions {
    let dns = spec.dns.clone().unwrap_or_default();
    let default_dns = defaults.dns.clone().unwrap_or_default();
    let nameservers = dns.nameservers.clone().or(default_dns.nameservers.clone());
    let nameservers = nameservers.map(|list| Vec::from_iter(list.iter().map(|a| a.0.as_str())).join(" "));
    let domains = |dns: Dns| dns.search_domain.or(dns.search_domains.map(|list| list.join(" ")));
    let default_domain = domains(default_dns.clone());
    let (own, domain_field) = match dns.search_domains {
        Some(_) => (domains(dns.clone()), "dns.searchDomains"),
        None => (domains(dns.clone()), "dns.searchDomain"),
    };
    let domain = own.or(default_domain);
    given([
        (
            "boot.autostart",
            "onboot",
            spec.boot.as_ref().and_then(|b| b.autostart).map(flag),
        ),
        ("protection", "protection", spec.protection.map(flag)),
        ("dns.nameservers", "nameserver", nameservers),
        (domain_field, "searchdomain", domain),
    ])
}

pub(super) fn form(object: &GuestObject) -> Form {
    match &object.spec {
        GuestSpec::Template(spec) => match spec.form.unwrap_or_default() {
            TemplateForm::Snapshot => Form::Snapshot(spec.snapshot_name.clone().unwrap_or_else(|| "phoenix".into())),
            TemplateForm::Template => Form::Template,
        },
        _ => Form::Guest,
    }
}
