//! What a guest on Proxmox really carries, against what its object was given (`spec.allow`): a clone has what its
//! template has, an adopted guest what it had before, whatever the specs say. Scripts run in it as root, so what it
//! carries is the object's.

use crate::crd::{ADOPT, AllowedCapability};
use crate::desired::{Grants, Reach, Source};
use crate::observed::{Guest, GuestRead};
use crate::pve::GuestType;
use crate::pve::property::Properties;

use super::guest::{Planner, Staged};
use super::*;

/// Options that hand a machine something of the node's and that no field sets.
const RAW: &[&str] = &["args", "ivshmem", "virtiofs"];

/// Something beyond the guest, with the option that carries it.
type Carried = (String, Reach);

impl Planner<'_> {
    /// Before anything is done to a guest of the object's: it carries nothing that the object was not given.
    pub(super) fn may_go_on(&mut self, vmid: i64, guest: &Guest) -> Staged {
        let Some(grants) = self.desired.grants.clone() else {
            return Ok(());
        };
        let adopted = self.status.adopted == Some(true) || guest.stamp().is_some_and(|s| s.adopted);
        let mut list = Vec::new();
        if adopted {
            list.push(("its id".to_string(), Reach::Adopt(vmid)));
        } else if grants.template {
            return Ok(());
        }
        list.extend(carried(guest).into_iter().filter(|c| !self.takes_away(c, guest)));
        self.refuse(&grants, guest.named(vmid), list)
    }

    /// Before a guest is adopted: as it is, since it is not ours to change.
    pub(super) fn may_be_adopted(&mut self, vmid: i64, guest: &Guest) -> Staged {
        let Some(grants) = self.desired.grants.clone() else {
            return Ok(());
        };
        let mut list = vec![("its id".to_string(), Reach::Adopt(vmid))];
        list.extend(carried(guest));
        list.extend(volumes_of_others(vmid, guest));
        let what = format!("metadata.annotations[{ADOPT}]: {}", guest.named(vmid));
        self.refuse(&grants, what, list)
    }

    fn refuse(&mut self, grants: &Grants, what: String, list: Vec<Carried>) -> Staged {
        match list.into_iter().find(|(_, reach)| !grants.covers(reach)) {
            Some((option, reach)) => {
                let message = grants.refusal(&format!("{what} carries {option}"), &reach);
                Err(self.stuck(Stage::Created, "NotAllowed", message))
            }
            None => Ok(()),
        }
    }

    /// Whether the next steps take it off the guest before it is started or anything runs in it.
    fn takes_away(&self, (option, reach): &Carried, guest: &Guest) -> bool {
        let desired = self.desired;
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let machine = desired.vm.as_ref();
        match (option.trim_end_matches(|c: char| c.is_ascii_digit()), reach) {
            ("net", _) => desired.network.is_some(),
            ("dev", Reach::Gpu(_) | Reach::SharedGpu(_)) => fresh || desired.gpus.is_some(),
            ("dev" | "hookscript", _) => fresh,
            ("mp", _) => desired.binds.is_some(),
            ("hostpci", _) => fresh || machine.is_some_and(|vm| vm.pci.is_some()),
            ("usb", _) => fresh || machine.is_some_and(|vm| vm.usb.is_some()),
            ("features.mknod" | "features.mount", _) => {
                let flag = option.trim_start_matches("features.");
                desired.flags.contains_key(flag)
            }
            (_, Reach::LxcOption(key, value)) => {
                let written = self.status.lxc_options.iter().flatten();
                let line = format!("{key} = {value}");
                let wanted = desired.raw_lines.iter().any(|(k, v)| k == key && v == value);
                !wanted && written.into_iter().any(|l| *l == line)
            }
            _ => false,
        }
    }

    /// The guest of the template that is cloned: read, the template's own, and with nothing on it that the object was
    /// not given.
    pub(super) fn template_guest(&mut self, source: &Source) -> Result<Guest, Next> {
        let Source::Clone {
            vmid,
            template,
            namespace,
            ..
        } = source
        else {
            return Ok(Guest::default());
        };
        let stage = Stage::Created;
        let row = self.observed.cluster.guests.get(vmid);
        let node = row.map(|r| r.node.clone()).unwrap_or_default();
        let parent = match &self.observed.parent {
            None => {
                return Err(Next::Look(Query::Parent {
                    vmid: *vmid,
                    type_: self.desired.type_,
                    node,
                }));
            }
            Some(GuestRead::Present(parent)) => parent.clone(),
            Some(GuestRead::Unreadable(failure)) => {
                let failure = failure.clone();
                return Err(self.wait(stage, failure.reason, failure.message, 10));
            }
            Some(_) => {
                let message = format!("waits for PhoenixTemplate {template}: its guest {vmid} is not there");
                return Err(self.wait(stage, "TemplateNotReady", message, 10));
            }
        };
        // The vmid comes from another object's status, and perhaps from another Proxmox cluster: what is copied is
        // somebody's disk.
        let is_its = parent.stamp().is_some_and(|s| {
            let known = s.cluster == self.desired.cluster_id || self.desired.previous_clusters.contains(&s.cluster);
            known && s.kind == "PhoenixTemplate" && s.namespace == *namespace && s.name == *template && s.vmid == *vmid
        });
        if !is_its {
            let message = format!(
                "waits for PhoenixTemplate {namespace}/{template}: {} of this Proxmox cluster does not carry its stamp and is not cloned",
                parent.named(*vmid)
            );
            return Err(self.wait(stage, "TemplateNotReady", message, 30));
        }
        self.may_be_cloned(*vmid, template, &parent)?;
        Ok(*parent)
    }

    fn may_be_cloned(&mut self, vmid: i64, template: &str, parent: &Guest) -> Staged {
        let Some(grants) = self.desired.grants.clone().filter(|g| !g.template) else {
            return Ok(());
        };
        let network = self.desired.network.is_some();
        let stays = |(option, _): &Carried| !(network && option.starts_with("net"));
        let refused = carried(parent)
            .into_iter()
            .filter(stays)
            .find(|(_, reach)| !grants.covers(reach));
        let Some((option, reach)) = refused else {
            return Ok(());
        };
        let field = format!("{}.source.templateRef.name", self.prefix());
        let carries = format!("({}) {option}", parent.named(vmid));
        let message = grants.refusal_of_template(&field, template, &carries, &reach);
        Err(self.stuck(Stage::Created, "NotAllowed", message))
    }
}

/// All that a guest carries beyond itself, by what its configuration says.
fn carried(guest: &Guest) -> Vec<Carried> {
    let mut list = networks(guest);
    if let Some(volid) = guest.options.get("hookscript") {
        list.push(("hookscript".into(), Reach::Hookscript(volid.clone())));
    }
    list.extend(match guest.type_ {
        GuestType::Lxc => of_container(guest),
        GuestType::Qemu => of_machine(guest),
    });
    list
}

fn networks(guest: &Guest) -> Vec<Carried> {
    let mut list = Vec::new();
    for (i, text) in guest.numbered("net") {
        let Ok(net) = Properties::of_option("net0", text) else {
            continue;
        };
        let option = format!("net{i}");
        if let Some(bridge) = net.get("bridge") {
            list.push((option.clone(), Reach::Bridge(bridge.into())));
        }
        let trunks = net.get("trunks").unwrap_or_default().split(';');
        let ends = trunks.flat_map(|range| range.split('-'));
        let tags = net.get("tag").into_iter().chain(ends).filter_map(|t| t.parse().ok());
        list.extend(tags.map(|tag| (option.clone(), Reach::Vlan(tag))));
    }
    list
}

fn of_container(guest: &Guest) -> Vec<Carried> {
    let mut list = Vec::new();
    if guest.options.get("unprivileged").is_none_or(|v| v != "1") {
        list.push(("unprivileged".to_string(), Reach::Privileged));
    }
    let lines = guest.raw_lines.iter();
    list.extend(lines.map(|(key, value)| ("raw line".to_string(), Reach::LxcOption(key.clone(), value.clone()))));
    for (i, text) in guest.numbered("dev") {
        let path = Properties::of_option("dev0", text).ok();
        let path = path.as_ref().and_then(|p| p.get("path")).unwrap_or(text).to_string();
        list.push((format!("dev{i}"), device(path)));
    }
    let rootfs = guest
        .options
        .get("rootfs")
        .map(|text| ("rootfs".to_string(), text.as_str()));
    let mounts = guest
        .numbered("mp")
        .into_iter()
        .map(|(i, text)| (format!("mp{i}"), text));
    for (option, text) in mounts.chain(rootfs) {
        let path = text.split(',').next().unwrap_or_default().trim_start_matches("volume=");
        if path.starts_with('/') {
            list.push((option, Reach::HostPath(path.into())));
        }
    }
    let features = guest.options.get("features").map(String::as_str).unwrap_or_default();
    for (key, value) in features.split(',').filter_map(|part| part.split_once('=')) {
        let reach = match key {
            "mknod" if value == "1" => Reach::Capability(AllowedCapability::Mknod),
            "mount" if !value.is_empty() => Reach::Capability(AllowedCapability::Mount),
            "force_rw_sys" if value == "1" => Reach::Nobody("force_rw_sys=1".into(), ""),
            _ => continue,
        };
        list.push((format!("features.{key}"), reach));
    }
    list
}

/// A device node: a GPU, or something else of the node's.
fn device(path: String) -> Reach {
    match path.strip_prefix("/dev/nvidia").map(str::parse) {
        Some(Ok(index)) => Reach::Gpu(index),
        Some(Err(_)) => Reach::SharedGpu(path),
        None => Reach::HostPath(path),
    }
}

fn of_machine(guest: &Guest) -> Vec<Carried> {
    let mut list = Vec::new();
    for (option, text) in &guest.options {
        let stem = option.trim_end_matches(|c: char| c.is_ascii_digit());
        let first = text.split(',').next().unwrap_or_default();
        let named = |key: &str| {
            let part = text.split(',').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
            part.map(str::to_string)
        };
        let path = first.trim_start_matches("file=");
        let reach = match stem {
            "hostpci" => match named("mapping") {
                Some(mapping) => Reach::PciMapping(mapping),
                None => Reach::Nobody(first.into(), ""),
            },
            "usb" if first == "spice" || first == "host=spice" => continue,
            "usb" => match named("mapping") {
                Some(mapping) => Reach::UsbMapping(mapping),
                None => Reach::Nobody(first.into(), ""),
            },
            stem if RAW.contains(&stem) => Reach::Nobody(text.clone(), ""),
            // Disks, consoles and ports can be devices of the node's.
            "scsi" | "virtio" | "sata" | "ide" | "serial" | "parallel" if path.starts_with('/') => {
                Reach::HostPath(path.into())
            }
            _ => continue,
        };
        list.push((option.clone(), reach));
    }
    list
}

/// Volumes that belong to other guests, such as retained ones of another object.
fn volumes_of_others(vmid: i64, guest: &Guest) -> Vec<Carried> {
    let of_another = |text: &str| {
        let volid = text.split(',').next().unwrap_or_default();
        let volid = volid.trim_start_matches("volume=").trim_start_matches("file=");
        let name = volid.rsplit(['/', ':']).next().unwrap_or_default();
        let mut parts = name.split('-');
        let kind = parts
            .next()
            .is_some_and(|k| ["vm", "subvol", "base", "basevol"].contains(&k));
        let owner = parts.next().and_then(|id| id.parse::<i64>().ok());
        (kind && owner.is_some_and(|id| id != vmid)).then(|| volid.to_string())
    };
    let found = guest.options.iter().filter_map(|(option, text)| {
        let other = "detach it, or ";
        Some((option.clone(), Reach::Nobody(of_another(text)?, other)))
    });
    found.collect()
}
