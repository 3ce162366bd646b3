//! Which values of a guest are not its own but the hypervisor's, so that a message blames the field that somebody wrote.

use std::collections::BTreeMap;

use crate::crd::{Defaults, LxcGuest, PhoenixHypervisor, VmGuest};
use crate::pve::GuestType;
use crate::reason::Cause;

use super::{Blocked, GuestObject, ObjectName};

/// Fields that a guest leaves out, and the hypervisor's fields that their values are from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaulted {
    /// The guest's field, with `spec.` before it → `PhoenixHypervisor namespace/name spec.…`.
    fields: BTreeMap<String, String>,
}

impl Defaulted {
    /// What an object has from its hypervisor.
    pub fn of(object: &GuestObject, hypervisor: &PhoenixHypervisor) -> Self {
        let defaults = hypervisor.spec.defaults.clone().unwrap_or_default();
        let mut left_out: Vec<(String, &str)> = Vec::new();
        if let Some(shared) = object.shared() {
            let both = [
                (shared.node.is_none(), "node", "defaults.node"),
                (shared.dns.is_none(), "dns.nameservers", "defaults.dns.nameservers"),
                (shared.dns.is_none(), "dns.searchDomain", "defaults.dns.searchDomain"),
            ];
            left_out.extend(
                both.iter()
                    .filter(|(out, ..)| *out)
                    .map(|(_, own, from)| ((*own).into(), *from)),
            );
            let nets = shared.network.iter().flatten().filter(|n| n.bridge.is_none());
            let bridge = |name: &str| match object.guest_type() {
                GuestType::Lxc => format!("network[{name}].bridge"),
                GuestType::Qemu => format!("network[net{}].bridge", super::vm::number(name)),
            };
            left_out.extend(nets.map(|n| (bridge(&n.name), "defaults.bridge")));
        }
        if let Some(lxc) = object.lxc() {
            of_lxc(object, lxc, &defaults, &mut left_out);
        }
        if let Some(vm) = object.vm() {
            of_vm(vm, &mut left_out);
        }
        let at = ObjectName::of(hypervisor);
        let named = |field: &str| format!("PhoenixHypervisor {}/{} spec.{field}", at.namespace, at.name);
        let prefix = object.field_prefix();
        let spec = serde_json::to_value(&hypervisor.spec).unwrap_or_default();
        let given = |field: &str| spec.pointer(&format!("/{}", field.replace('.', "/"))).is_some();
        let mut fields: BTreeMap<String, String> = left_out
            .into_iter()
            .filter(|(_, from)| given(from))
            .map(|(own, from)| (format!("{prefix}.{own}"), named(from)))
            .collect();
        let owners = hypervisor.spec.volume_owners.as_ref();
        let owners = match owners.is_some_and(|o| o.storage.is_none()) {
            true => "defaults.rootfsStorage",
            false => "volumeOwners.storage",
        };
        fields.insert("spec.volumeOwners.storage".into(), named(owners));
        fields.insert("spec.volumeOwners.image".into(), named("volumeOwners.image"));
        Defaulted { fields }
    }

    /// A message that begins with one of these fields, with the field that the value is from in its place.
    pub fn told(&self, message: impl Into<String>) -> String {
        let message = message.into();
        let from = self.fields.iter().find_map(|(own, from)| {
            let rest = message.strip_prefix(own.as_str())?;
            rest.starts_with(':').then(|| format!("{from}{rest}"))
        });
        from.unwrap_or(message)
    }

    /// [`Defaulted::told`] of what keeps an object from being resolved.
    pub fn blames(&self, blocked: Blocked) -> Blocked {
        let told = |cause: Cause| Cause::new(cause.reason, self.told(cause.message));
        match blocked {
            Blocked::Stalled(cause) => Blocked::Stalled(told(cause)),
            Blocked::Waiting(cause) => Blocked::Waiting(told(cause)),
        }
    }
}

fn of_lxc(object: &GuestObject, lxc: &LxcGuest, defaults: &Defaults, left_out: &mut Vec<(String, &'static str)>) {
    let image = lxc.source.as_ref().and_then(|s| s.image.as_ref());
    let volume = match defaults.volume_storage {
        Some(_) => "defaults.volumeStorage",
        None => "defaults.rootfsStorage",
    };
    for (out, own, from) in [
        (
            lxc.rootfs.as_ref().is_none_or(|r| r.storage.is_none()),
            "rootfs.storage",
            "defaults.rootfsStorage",
        ),
        (
            image.is_some_and(|i| i.storage.is_none()),
            "source.image.storage",
            "defaults.imageStorage",
        ),
        (lxc.memory.is_none(), "memory", "defaults.memory"),
        (lxc.cores.is_none(), "cores", "defaults.cores"),
        (lxc.timezone.is_none(), "timezone", "defaults.timezone"),
        (lxc.capabilities.is_none(), "capabilities", "defaults.capabilities"),
    ] {
        if out {
            left_out.push((own.into(), from));
        }
    }
    if let super::GuestSpec::Lxc(spec) = &object.spec {
        let volumes = spec
            .volumes
            .iter()
            .flatten()
            .filter(|v| v.storage.is_none() && v.volid.is_none());
        left_out.extend(volumes.map(|v| (format!("volumes[{}].storage", v.name), volume)));
    }
}

fn of_vm(vm: &VmGuest, left_out: &mut Vec<(String, &'static str)>) {
    let image = vm.source.as_ref().and_then(|s| s.cloud_image.as_ref());
    let init = vm.cloud_init.as_ref();
    for (out, own, from) in [
        (
            image.is_some_and(|i| i.storage.is_none()),
            "source.cloudImage.storage",
            "defaults.imageStorage",
        ),
        (
            init.is_some_and(|i| i.snippet_storage.is_none()),
            "cloudInit.snippetStorage",
            "defaults.snippetStorage",
        ),
        (vm.memory.is_none(), "memory", "defaults.memory"),
        (
            vm.cpu.as_ref().is_none_or(|c| c.cores.is_none()),
            "cpu.cores",
            "defaults.cores",
        ),
        (
            vm.disks.iter().flatten().next().is_none(),
            "disks[root].storage",
            "defaults.diskStorage",
        ),
    ] {
        if out {
            left_out.push((own.into(), from));
        }
    }
    let disks = vm.disks.iter().flatten().filter(|d| d.storage.is_none());
    left_out.extend(disks.map(|d| (format!("disks[{}].storage", d.name), "defaults.diskStorage")));
}
