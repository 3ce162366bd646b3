//! Which field of the spec Proxmox's words speak of, so that a refusal names field, value and fix.

use crate::desired::{Desired, WantedNet};
use crate::pve::property::{Properties, stem};
use crate::reason::{Cause, Reason};

use super::firewall::MARKER;
use super::missing::{self, Place};
use super::{Effect, NodeWork, Step};

/// Reasons of failures whose words may be about a field.
const ABOUT_FIELDS: &[Reason] = &[
    Reason::ProxmoxRefused,
    Reason::OutcomeUnknown,
    Reason::CommandFailed,
    Reason::TaskFailed,
    Reason::NotFound,
];
/// Reasons of failures whose words may be about a storage.
const ABOUT_STORAGES: &[Reason] = &[Reason::StorageError, Reason::StorageFull, Reason::StorageUnavailable];
/// What stands before Proxmox's own words.
const PREFIXES: &[&str] = &["the outcome is unknown: ", "Parameter verification failed. "];

/// The failure with the field that it is about; as it is, where none is found. What is wrong with a field is a refusal,
/// whichever way it was told.
pub fn explain(desired: &Desired, step: Option<&Step>, place: &Place<'_>, failure: Cause) -> Cause {
    let cause = field_of_failure(desired, step, place, failure);
    Cause::new(cause.reason, desired.defaulted.told(cause.message))
}

fn field_of_failure(desired: &Desired, step: Option<&Step>, place: &Place<'_>, failure: Cause) -> Cause {
    if let Some(message) = step.and_then(|step| hidden_pool(step, &failure)) {
        return Cause::new(Reason::MissingPrivilege, message);
    }
    if let Some(pool) = between(&failure.message, "pool '", "' does not exist") {
        let message = format!(
            "{}.pool: {pool:?}: Proxmox has no such pool: create it there, or correct the name",
            desired.field_prefix()
        );
        return Cause::new(Reason::ProxmoxRefused, message);
    }
    if ABOUT_STORAGES.contains(&failure.reason) {
        let failure = super::full::named(desired, step, failure);
        let field = step.and_then(|step| storage_field(desired, step, &failure.message));
        return match field {
            Some(field) => Cause::new(failure.reason, format!("{field}: {}", failure.message)),
            None => failure,
        };
    }
    if !ABOUT_FIELDS.contains(&failure.reason) {
        return failure;
    }
    let words = PREFIXES.iter().fold(failure.message.trim(), |text, prefix| {
        text.strip_prefix(prefix).unwrap_or(text)
    });
    if let Some(cause) = missing::explain(desired, place, words) {
        return cause;
    }
    let params = step.map(params).unwrap_or_default();
    if let Some(rule) = step.and_then(firewall_rule) {
        let message = of_rule(desired.field_prefix(), &rule, params, words);
        return Cause::new(Reason::ProxmoxRefused, message);
    }
    match known(desired, params, place, words).or_else(|| by_key(desired, params, words)) {
        Some(message) => Cause::new(Reason::ProxmoxRefused, message),
        None => failure,
    }
}

/// The field that gave the storage of which Proxmox's words speak, where the step uses it for one thing only.
fn storage_field(desired: &Desired, step: &Step, words: &str) -> Option<String> {
    let storage = between(words, "storage '", "'")?;
    let (Effect::Call { call, .. } | Effect::Task { call, .. }) = &step.effect else {
        return None;
    };
    let on = |value: &str| value == storage || value.strip_prefix(storage).is_some_and(|rest| rest.starts_with(':'));
    let download = call.path.contains(&format!("/storage/{storage}/")) || call.get_param("storage") == Some(storage);
    let image = match desired.sort() {
        crate::pve::GuestType::Lxc => "source.image.storage",
        crate::pve::GuestType::Qemu => "source.cloudImage.storage",
    };
    let mut fields: Vec<String> = download.then(|| image.to_string()).into_iter().collect();
    for (key, value) in call
        .params
        .iter()
        .filter(|(_, value)| on(value.trim_start_matches("file=")))
    {
        if let Some((drive, given)) = drive(desired, key, value) {
            fields.extend(given.then(|| format!("{drive}.storage")));
            continue;
        }
        let field = match stem(key) {
            "rootfs" if on(value) => "rootfs.storage".to_string(),
            "mp" if on(value) => format!("{}.storage", field_of(desired, &call.params, key)),
            "scsi" | "virtio" | "sata" | "ide" if on(value.trim_start_matches("file=")) => {
                let first = desired.vm().and_then(|vm| vm.disks.iter().flatten().next());
                let created = call.path.ends_with("/qemu");
                let name = first.filter(|_| created).map_or("root", |disk| disk.name.as_str());
                match created {
                    true => format!("disks[{name}].storage"),
                    false => continue,
                }
            }
            _ => continue,
        };
        fields.push(field);
    }
    fields.dedup();
    match fields.as_slice() {
        [one] => Some(format!("{}.{one}", desired.field_prefix())),
        _ => None,
    }
}

/// The field of a machine's drive that is no disk, and whether the spec gives its storage; else it is that of the first
/// disk.
fn drive(desired: &Desired, key: &str, value: &str) -> Option<(&'static str, bool)> {
    let vm = desired.vm()?;
    let given = |storage: Option<&Option<String>>| storage.is_some_and(Option::is_some);
    match stem(key) {
        "efidisk" => Some(("efiDisk", given(vm.firmware.efi.as_ref().map(|(storage, _)| storage)))),
        "tpmstate" => Some(("tpm", given(vm.firmware.tpm.as_ref().map(|(storage, _)| storage)))),
        "ide" if value.ends_with(":cloudinit") => {
            Some(("cloudInit", given(vm.cloud_init.as_ref().map(|init| &init.storage))))
        }
        _ => None,
    }
}

/// A guest is put into its pool where Proxmox does not show that it is in it, which takes Pool.Audit; being refused that
/// is told as Pool.Allocate (facts L.4.3).
fn hidden_pool(step: &Step, failure: &Cause) -> Option<String> {
    let Effect::Call { call, .. } = &step.effect else {
        return None;
    };
    let refused = failure.reason == Reason::MissingPrivilege || failure.message.contains("update pools failed: 403");
    let pool = call.get_param("poolid").filter(|_| refused && call.path == "/pools")?;
    Some(format!(
        "pool: Proxmox does not show guest {} in pool {pool:?}: grant the token Pool.Audit on /pool/{pool} to see it there, and Pool.Allocate too if it is not in it ({})",
        call.get_param("vms").unwrap_or_default(),
        failure.message
    ))
}

/// The number of the firewall rule that a step writes: the rule's comment says it.
fn firewall_rule(step: &Step) -> Option<String> {
    let Effect::Call { call, .. } = &step.effect else {
        return None;
    };
    call.path.contains("/firewall/rules").then_some(())?;
    let number = call.get_param("comment")?.strip_prefix(MARKER)?;
    Some(number.split(' ').next()?.to_string())
}

/// What Proxmox says of a firewall rule, with the field that it names.
fn of_rule(prefix: &str, number: &str, params: &[(String, String)], words: &str) -> String {
    let rule = format!("{prefix}.firewall.rules[{number}]");
    let named = words.split_once(": ").map(|(key, rest)| (key.trim(), rest.trim()));
    let sent = |key: &str| params.iter().find(|(name, _)| name == key);
    match named.and_then(|(key, rest)| Some((sent(key)?, rest))) {
        Some(((key, value), rest)) => {
            let field = match key.as_str() {
                "dport" => "port",
                "sport" => "sourcePort",
                "proto" => "protocol",
                "dest" => "destination",
                "iface" => "interface",
                "type" => "direction",
                other => other,
            };
            format!("{rule}.{field}: Proxmox refuses {value:?}: {rest}")
        }
        None => format!("{rule}: Proxmox refuses the rule: {words}"),
    }
}

/// What a step sets.
fn params(step: &Step) -> &[(String, String)] {
    match &step.effect {
        Effect::Call { call, .. } | Effect::Task { call, .. } => &call.params,
        Effect::OnNode {
            work: NodeWork::SetOptions { set, .. },
            ..
        } => set,
        _ => &[],
    }
}

/// Refusals whose cause is known well enough to name value and fix.
fn known(desired: &Desired, params: &[(String, String)], place: &Place<'_>, words: &str) -> Option<String> {
    let (prefix, node) = (desired.field_prefix(), place.words());
    if let Some(mtu) = between(words, "MTU size '", "'") {
        let limit = between(words, "is bigger than bridge MTU '", "'")?;
        let key = words.split(": MTU size").next()?.rsplit([' ', '(']).next()?;
        let net = interface(desired, params, key).or_else(|| having(desired, "mtu", mtu))?;
        let bridge = net.properties.get("bridge").map_or("its bridge", String::as_str);
        return Some(format!(
            "{prefix}.network[{}].mtu: {mtu} is above the bridge's {limit}: set at most {limit}, or raise the MTU of {bridge} on {node}",
            net.name
        ));
    }
    if let Some(bridge) = between(words, "bridge '", "' does not exist") {
        let at = match having(desired, "bridge", bridge) {
            Some(net) => format!("network[{}].bridge", net.name),
            None => "network".to_string(),
        };
        return Some(format!(
            "{prefix}.{at}: {node} has no bridge {bridge:?}: create it there, or name another"
        ));
    }
    let path = between(words, "directory '", "' does not exist")?;
    let bind = desired.lxc()?.binds.iter().flatten().find(|b| b.host_path == path)?;
    Some(format!(
        "{prefix}.hostMounts (mountPath {}): hostPath {path:?} is not on {node}: create the directory there, or name another",
        bind.path
    ))
}

/// The parameter at which Proxmox's words begin: `net0: …`, or `net0.ip: …` inside them.
fn by_key(desired: &Desired, params: &[(String, String)], words: &str) -> Option<String> {
    let (key, rest) = words.split_once(": ")?;
    let (key, rest) = (key.trim(), rest.trim());
    params.iter().find(|(name, _)| name == key)?;
    let field = field_of(desired, params, key);
    let inner = rest
        .split_once(&format!("{key}."))
        .and_then(|(_, text)| text.split_once(':'))
        .map(|(property, _)| property)
        .filter(|property| property.bytes().all(|b| b.is_ascii_alphanumeric()));
    let inner = inner.map_or(String::new(), |property| format!(".{}", property_field(property)));
    let prefix = desired.field_prefix();
    Some(format!("{prefix}.{field}{inner}: Proxmox refuses the value: {rest}"))
}

/// Field that a parameter comes from.
fn field_of(desired: &Desired, params: &[(String, String)], key: &str) -> String {
    let stem = stem(key);
    let plain = match stem {
        "net" | "ipconfig" => {
            let name = interface(desired, params, &format!("net{}", &key[stem.len()..]));
            return format!("network[{}]", name.map_or(key, |net| net.name.as_str()));
        }
        "mp" => {
            let text = params.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
            let mount = Properties::of_option(key, text).unwrap_or_default();
            let path = mount.get("mp").unwrap_or_default();
            let volume = desired.volumes().iter().find(|v| v.path == path);
            return volume.map_or_else(
                || format!("hostMounts (mountPath {path})"),
                |v| format!("volumes[{}]", v.name),
            );
        }
        "dev" => {
            let text = params.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
            let device = Properties::of_option(key, text).unwrap_or_default();
            let own = desired.lxc().and_then(|lxc| {
                let mut devices = lxc.devices.iter();
                devices.position(|d| Some(d.path.as_str()) == device.get("path"))
            });
            return own.map_or_else(|| "gpus".to_string(), |i| format!("devices[{i}]"));
        }
        "hostpci" => "pci",
        "scsi" | "virtio" | "sata" | "ide" => {
            let drives = desired.vm().and_then(|vm| vm.cdroms.as_deref()).unwrap_or_default();
            match drives.iter().any(|drive| drive.slot == key) {
                true => return format!("cdroms[{key}]"),
                false => "disks",
            }
        }
        "ostemplate" => "source.image",
        "features" => "capabilities",
        "startup" => "boot",
        // The default name of a guest is no option of the spec's.
        "name" => "hostname",
        "cipassword" | "cicustom" => "cloudInit",
        _ => desired.shared.options.get(key).map_or(key, |option| option.field),
    };
    plain.to_string()
}

/// Field of an interface's property.
fn property_field(property: &str) -> &str {
    match property {
        "gw" => "gateway",
        "gw6" => "gateway6",
        "hwaddr" => "mac",
        "tag" => "vlan",
        "link_down" => "linkDown",
        other => other,
    }
}

/// The interface that `netN` is: by the name that is sent, else by its place.
fn interface<'d>(desired: &'d Desired, params: &[(String, String)], key: &str) -> Option<&'d WantedNet> {
    let index: usize = key.strip_prefix("net")?.parse().ok()?;
    let nets = desired.shared.network.as_deref().unwrap_or_default();
    let sent = params.iter().find(|(k, _)| k == key);
    let sent = sent.and_then(|(_, text)| Properties::of_option("net0", text).ok());
    let name = sent.as_ref().and_then(|p| p.get("name")).unwrap_or(key);
    nets.iter().find(|net| net.name == name).or_else(|| nets.get(index))
}

fn having<'d>(desired: &'d Desired, property: &str, value: &str) -> Option<&'d WantedNet> {
    let mut nets = desired.shared.network.iter().flatten();
    nets.find(|net| net.properties.get(property).is_some_and(|v| v == value))
}

pub(super) fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::testing::{lxc, objects};
    use crate::plan::Stage;
    use crate::pve::ApiCall;

    const PVE1: Place<'_> = Place {
        node: "pve1",
        gpus: Some(2),
    };
    const WORLD: &str = r#"
kind: PhoenixHypervisor
metadata: {name: pve}
spec:
  endpoints: ["https://pve:8006"]
  credentials: {tokenSecretRef: {name: token}}
  ssh: {keySecretRef: {name: ssh, key: key}, knownHostsSecretRef: {name: ssh, key: known_hosts}}
---
kind: PhoenixLXC
metadata: {name: a}
spec:
  hypervisorRef: {name: pve}
  network: [{name: eth0, ip: dhcp}, {name: lan, ip: dhcp, mtu: 9000, bridge: vmbr9}]
  gpus: [{index: 7}]
  hostMounts: [{name: a, hostPath: /srv/a, mountPath: /a}]
"#;

    fn step(call: ApiCall) -> Step {
        Step {
            action: String::new(),
            stage: Stage::Configured,
            announce: vec![],
            effect: Effect::call(call),
            apart: None,
        }
    }

    fn told(reason: Reason, text: &str) -> String {
        let objects = objects(WORLD);
        let desired = crate::desired::resolve(&lxc(&objects, "a"), &objects, "cluster").unwrap();
        let call = ApiCall::put("/nodes/a/lxc/100/config")
            .param("net3", "name=lan,mtu=9000")
            .param("hostname", "x")
            .param("name", "x-");
        let step = step(call);
        let message = text.to_string();
        let found = explain(&desired, Some(&step), &PVE1, Cause { reason, message });
        assert_eq!(
            [Reason::ProxmoxRefused, Reason::DeviceMissing].contains(&found.reason),
            found.message != text,
            "{found:?}"
        );
        found.message
    }

    #[test]
    fn a_refusal_names_field_value_and_fix() {
        let mtu = "net3: MTU size '9000' is bigger than bridge MTU '1500'";
        for (reason, text, expected) in [
            (
                Reason::ProxmoxRefused,
                "name: value does not look like a valid DNS name".into(),
                "spec.hostname: Proxmox refuses the value: ",
            ),
            (
                Reason::OutcomeUnknown,
                format!("the outcome is unknown: {mtu}"),
                "spec.network[lan].mtu: 9000 is above the bridge's 1500: ",
            ),
            (
                Reason::TaskFailed,
                format!("startup failed ({mtu})"),
                "spec.network[lan].mtu: 9000 is above the bridge's 1500: ",
            ),
            (
                Reason::TaskFailed,
                "bridge 'vmbr9' does not exist".into(),
                "spec.network[lan].bridge: node pve1 has no bridge \"vmbr9\": ",
            ),
            (
                Reason::NotFound,
                "the outcome is unknown: Device /dev/nvidia7 does not exist".into(),
                "spec.gpus[0].index: 7: node pve1 has no /dev/nvidia7: it has the NVIDIA GPUs 0, 1: ",
            ),
            (
                Reason::TaskFailed,
                "Device /dev/nvidia-uvm does not exist".into(),
                "spec.gpus: node pve1 has no /dev/nvidia-uvm: ",
            ),
            (
                Reason::OutcomeUnknown,
                "the outcome is unknown: bridge 'vmbr77' does not exist".into(),
                "spec.network: node pve1 has no bridge \"vmbr77\": ",
            ),
            (
                Reason::TaskFailed,
                "directory '/srv/a' does not exist".into(),
                "spec.hostMounts (mountPath /a): hostPath \"/srv/a\" is not on node pve1: ",
            ),
            (
                Reason::ProxmoxRefused,
                "Parameter verification failed. net3: invalid format - format error\nnet3.hwaddr: bad".into(),
                "spec.network[lan].mac: Proxmox refuses the value: invalid format",
            ),
            (
                Reason::ProxmoxRefused,
                "Parameter verification failed. hostname: no".into(),
                "spec.hostname: Proxmox refuses the value: no",
            ),
        ] {
            let found = told(reason, &text);
            assert!(found.starts_with(expected), "{text}: {found}");
        }
    }

    #[test]
    fn a_refused_firewall_rule_is_named_by_its_place_and_field() {
        let objects = objects(WORLD);
        let desired = crate::desired::resolve(&lxc(&objects, "a"), &objects, "cluster").unwrap();
        let call = ApiCall::post("/nodes/a/lxc/100/firewall/rules")
            .param("dport", "1-2-3")
            .param("comment", "phoenix:4 office");
        let step = step(call);
        for (words, expected) in [
            (
                "Parameter verification failed. dport: invalid format - invalid port",
                "spec.firewall.rules[4].port: Proxmox refuses \"1-2-3\": invalid format - invalid port",
            ),
            (
                "the outcome is unknown: no such macro",
                "spec.firewall.rules[4]: Proxmox refuses the rule: no such macro",
            ),
        ] {
            let found = explain(&desired, Some(&step), &PVE1, Cause::new(Reason::OutcomeUnknown, words));
            assert_eq!(
                (found.reason, found.message.as_str()),
                (Reason::ProxmoxRefused, expected)
            );
        }
    }

    #[test]
    fn a_pool_that_is_hidden_is_told_as_such() {
        let objects = objects(WORLD);
        let desired = crate::desired::resolve(&lxc(&objects, "a"), &objects, "cluster").unwrap();
        let call = ApiCall::put("/pools").param("poolid", "ai").param("vms", 100);
        let step = step(call);
        for (reason, text) in [
            (
                Reason::MissingPrivilege,
                "Permission check failed (/pool/ai, Pool.Allocate)",
            ),
            (
                Reason::OutcomeUnknown,
                "the outcome is unknown: update pools failed: 403 Permission check failed",
            ),
        ] {
            let message = text.to_string();
            let found = explain(&desired, Some(&step), &PVE1, Cause { reason, message });
            assert_eq!(found.reason, Reason::MissingPrivilege);
            assert!(
                found.message.contains("grant the token Pool.Audit on /pool/ai"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_pool_that_does_not_exist_is_told_with_its_field() {
        let objects = objects(WORLD);
        let desired = crate::desired::resolve(&lxc(&objects, "a"), &objects, "cluster").unwrap();
        let message = "Permission check failed (pool 'ai' does not exist)".to_string();
        let reason = Reason::MissingPrivilege;
        let found = explain(&desired, None, &PVE1, Cause { reason, message });
        assert_eq!(
            (found.reason, found.message.as_str()),
            (
                Reason::ProxmoxRefused,
                "spec.pool: \"ai\": Proxmox has no such pool: create it there, or correct the name"
            )
        );
    }

    #[test]
    fn other_words_stay_as_they_are() {
        for (reason, text) in [
            (Reason::OutcomeUnknown, "the outcome is unknown: got no answer"),
            (Reason::TaskFailed, "unable to start: exit code 1"),
            (Reason::OutcomeUnknown, "the outcome is unknown: other: words"),
            (Reason::MissingPrivilege, "bridge 'vmbr9' does not exist"),
        ] {
            assert_eq!(told(reason, text), text);
        }
    }
}
