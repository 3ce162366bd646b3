//! What a guest on Proxmox really carries, against what its object was given (`spec.allow`): a clone has what its
//! template has, an adopted guest what it had before, whatever the specs say. Scripts run in it as root, so what it
//! carries is the object's.

use crate::crd::{ADOPT, AllowedCapability};
use crate::desired::{Grants, Reach, Source};
use crate::observed::{Guest, GuestRead};
use crate::pve::property::{Properties, default_key, parse_bool, stem};
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::Reason;

use super::held::is_adopted;
use super::planner::{Planner, Staged};
use super::{Next, Query, Stage};

/// Options that hand a machine something of the node's and that no field sets.
const RAW: &[&str] = &["args", "ivshmem", "rng", "virtiofs"];

/// Something beyond the guest, with the option that carries it.
type Carried = (String, Reach);

impl Planner<'_> {
    /// Before anything is done to a guest of the object's: it carries nothing that the object was not given.
    pub(crate) fn may_go_on(&mut self, guest: &Guest) -> Staged {
        let vmid = guest.at.vmid;
        let Some(grants) = self.desired.grants.clone() else {
            return Ok(());
        };
        let mut list = Vec::new();
        if is_adopted(self.status, guest) {
            list.push(("its id".to_string(), Reach::Adopt(vmid)));
        } else if cloned_from_allowed(guest, &grants) {
            return Ok(());
        }
        let stays = carried(guest).into_iter().filter(|c| !self.takes_away(c, guest));
        list.extend(stays.map(|carried| self.as_counted(guest, carried)));
        self.refuse(&grants, guest.named(), list)
    }

    /// Before a guest is adopted: as it is, since it is not ours to change.
    pub(crate) fn may_be_adopted(&mut self, guest: &Guest) -> Staged {
        let vmid = guest.at.vmid;
        let Some(grants) = self.desired.grants.clone() else {
            return Ok(());
        };
        let mut list = vec![("its id".to_string(), Reach::Adopt(vmid))];
        list.extend(self.counted(guest));
        list.extend(volumes_of_others(guest));
        let what = format!("metadata.annotations[{ADOPT}]: {}", guest.named());
        self.refuse(&grants, what, list)
    }

    /// A GPU by the index that the node counts it by, where its device node tells another number.
    fn as_counted(&self, guest: &Guest, (option, reach): Carried) -> Carried {
        let Reach::Gpu(minor) = reach else {
            return (option, reach);
        };
        let cards = self.observed.cluster.gpus.get(&guest.at.node).map(|node| &node.cards);
        let mut cards = cards.into_iter().flat_map(|cards| cards.values());
        let card = cards.find(|card| card.minor.map(i64::from) == Some(minor));
        let index = card.and_then(|card| card.index).map_or(minor, i64::from);
        (option, Reach::Gpu(index))
    }

    /// All that a guest carries beyond itself, with GPUs as the node counts them.
    fn counted(&self, guest: &Guest) -> Vec<Carried> {
        let all = carried(guest).into_iter();
        all.map(|carried| self.as_counted(guest, carried)).collect()
    }

    fn refuse(&mut self, grants: &Grants, what: String, list: Vec<Carried>) -> Staged {
        match list.into_iter().find(|(_, reach)| !grants.covers(reach)) {
            Some((option, reach)) => {
                let message = grants.refusal(&format!("{what} carries {option}"), &reach);
                Err(self.stuck(Stage::Created, Reason::NotAllowed, message))
            }
            None => Ok(()),
        }
    }

    /// Whether the next steps take it off the guest before it is started or anything runs in it.
    fn takes_away(&self, (option, reach): &Carried, guest: &Guest) -> bool {
        let desired = self.desired;
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        let (container, machine) = (desired.lxc(), desired.vm());
        match (stem(option), reach) {
            ("net", _) => desired.shared.network.is_some(),
            ("dev", Reach::Gpu(index)) => {
                let path = format!("/dev/nvidia{index}");
                fresh || container.is_some_and(|lxc| lxc.gpus.is_some() && self.drops_gpu(lxc, &path))
            }
            ("dev", Reach::SharedGpu(path)) => {
                fresh || container.is_some_and(|lxc| lxc.gpus.is_some() && self.drops_gpu(lxc, path))
            }
            ("dev", _) => fresh || self.drops_device(guest, option),
            ("hookscript" | "cicustom", _) => fresh,
            ("mp", _) => container.is_some_and(|lxc| lxc.binds.is_some()),
            ("hostpci", _) => fresh || machine.is_some_and(|vm| vm.pci.is_some()),
            ("usb", _) => fresh || machine.is_some_and(|vm| vm.usb.is_some()),
            ("features.mknod" | "features.mount", Reach::Capability(_) | Reach::Mount(_)) => {
                let flag = option.trim_start_matches("features.");
                container.is_some_and(|lxc| lxc.flags.contains_key(flag))
            }
            (_, Reach::LxcOption(key, value)) => {
                let written = self.status.lxc_options.iter().flatten();
                let line = format!("{key} = {value}");
                let lines = container.map(|lxc| lxc.raw_lines.as_slice()).unwrap_or_default();
                let wanted = lines.iter().any(|(k, v)| k == key && v == value);
                !wanted && written.into_iter().any(|l| *l == line)
            }
            _ => false,
        }
    }

    /// The guest of the template that is cloned: read, the template's own, and with nothing on it that the object was
    /// not given.
    pub(crate) fn template_guest(&mut self, source: &Source) -> Result<Guest, Next> {
        let Source::Clone {
            vmid: Some(vmid),
            template,
            namespace,
            ..
        } = source
        else {
            return Err(self.wait(Stage::Created, Reason::TemplateNotReady, "waits for its template", 30));
        };
        let stage = Stage::Created;
        let row = self.observed.cluster.guests.get(vmid);
        let node = row.map(|r| r.node.clone()).unwrap_or_default();
        let parent = match &self.observed.parent {
            None => {
                let at = GuestRef::new(self.desired.sort(), *vmid, node);
                return Err(Next::Look(Query::Parent(at)));
            }
            Some(GuestRead::Present(parent)) => parent.clone(),
            Some(GuestRead::Unreadable(failure)) => {
                let failure = failure.clone();
                return Err(self.wait(stage, failure.reason, failure.message, 10));
            }
            Some(_) => {
                let message = format!("waits for PhoenixTemplate {template}: its guest {vmid} is not there");
                return Err(self.wait(stage, Reason::TemplateNotReady, message, 10));
            }
        };
        // The vmid comes from another object's status, and perhaps from another Proxmox cluster: what is copied is
        // somebody's disk.
        let is_its = parent.stamp().is_some_and(|s| {
            let known = s.cluster == self.desired.identity.cluster_id
                || self.desired.identity.previous_clusters.contains(&s.cluster);
            known && s.kind == "PhoenixTemplate" && s.namespace == *namespace && s.name == *template && s.vmid == *vmid
        });
        if !is_its {
            let message = format!(
                "waits for PhoenixTemplate {namespace}/{template}: {} of this Proxmox cluster does not carry its stamp and is not cloned",
                parent.named()
            );
            return Err(self.wait(stage, Reason::TemplateNotReady, message, 30));
        }
        self.may_be_cloned(template, &parent)?;
        Ok(*parent)
    }

    fn may_be_cloned(&mut self, template: &str, parent: &Guest) -> Staged {
        let Some(grants) = self.desired.grants.clone().filter(|g| !g.template) else {
            return Ok(());
        };
        let network = self.desired.shared.network.is_some();
        let stays = |(option, _): &Carried| !(network && option.starts_with("net"));
        let refused = self
            .counted(parent)
            .into_iter()
            .filter(stays)
            .find(|(_, reach)| !grants.covers(reach));
        let Some((option, reach)) = refused else {
            return Ok(());
        };
        let field = format!("{}.source.templateRef.name", self.prefix());
        let carries = format!("({}) {option}", parent.named());
        let message = grants.refusal_of_template(&field, template, &carries, &reach);
        Err(self.stuck(Stage::Created, Reason::NotAllowed, message))
    }
}

/// Whether the guest was cloned from a template that is given by name, as its stamp says. What the spec names today proves
/// nothing, and the template may be gone.
fn cloned_from_allowed(guest: &Guest, grants: &Grants) -> bool {
    let Some(stamp) = guest.stamp() else { return false };
    if let Some(template) = &stamp.template {
        return grants.gives_template(template);
    }
    // Earlier releases noted the revision alone; that of a template's own guest is its own, and it was cloned from its
    // parent.
    let from = match stamp.kind.as_str() {
        "PhoenixTemplate" => stamp.parent,
        _ => stamp.revision,
    };
    grants.template && from.is_some_and(|revision| grants.revisions.contains(&revision))
}

/// All that a guest carries beyond itself, by what its configuration says. What cannot be read as Proxmox would read it
/// is nobody's.
fn carried(guest: &Guest) -> Vec<Carried> {
    let vmid = guest.at.vmid;
    let mut list = Vec::new();
    for (option, text) in &guest.options {
        let stem = stem(option);
        let reaches = match (stem, guest.at.sort) {
            ("net", _) => network(option, text),
            ("hookscript", _) => vec![Reach::Hookscript(text.clone())],
            (_, GuestType::Lxc) => of_container(stem, option, text),
            (_, GuestType::Qemu) => of_machine(vmid, stem, option, text),
        };
        let named = |reach: Reach| match (&reach, stem) {
            (Reach::Capability(AllowedCapability::Mknod), _) => ("features.mknod".to_string(), reach),
            (Reach::Mount(_), _) => ("features.mount".to_string(), reach),
            (_, "features") => ("features".to_string(), reach),
            _ => (option.clone(), reach),
        };
        list.extend(reaches.into_iter().map(named));
    }
    if guest.at.sort == GuestType::Lxc {
        if guest.options.get("unprivileged").is_none_or(|v| v != "1") {
            list.push(("unprivileged".to_string(), Reach::Privileged));
        }
        let lines = guest.raw_lines.iter();
        list.extend(lines.map(|(key, value)| ("raw line".to_string(), Reach::LxcOption(key.clone(), value.clone()))));
    }
    list
}

fn network(option: &str, text: &str) -> Vec<Reach> {
    let Ok(net) = Properties::of_option(option, text) else {
        return vec![Reach::Nobody(text.into(), "")];
    };
    let bridge = net.get("bridge").map(|bridge| Reach::Bridge(bridge.into()));
    let trunks = net.get("trunks").into_iter().flat_map(|t| t.split([';', ' ']));
    let ranges = net.get("tag").into_iter().chain(trunks).filter(|t| !t.is_empty());
    bridge.into_iter().chain(ranges.flat_map(vlans)).collect()
}

/// The tags of one tag or range.
fn vlans(range: &str) -> Vec<Reach> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.trim().parse::<i64>(), last.trim().parse::<i64>()) {
        (Ok(first), Ok(last)) if (0..=4095).contains(&first) && last <= 4095 => {
            (first..=last).map(Reach::Vlan).collect()
        }
        _ => vec![Reach::Nobody(format!("VLAN {range}"), "")],
    }
}

/// A property of an option's value; what is no property string is told apart from one that lacks it.
fn property(option: &str, text: &str, key: &str) -> Result<String, Reach> {
    let properties = Properties::of_option(option, text).map_err(|_| Reach::Nobody(text.into(), ""))?;
    Ok(properties.get(key).unwrap_or_default().to_string())
}

/// A directory, device or file of the node's, where a value names one.
fn of_node(option: &str, text: &str, key: &str) -> Option<Reach> {
    match property(option, text, key) {
        Ok(path) if path.starts_with('/') => Some(Reach::HostPath(path)),
        Ok(_) => None,
        Err(reach) => Some(reach),
    }
}

fn of_container(stem: &str, option: &str, text: &str) -> Vec<Reach> {
    let reach = match stem {
        "dev" => Some(property(option, text, "path").map_or_else(|reach| reach, Reach::device)),
        "mp" | "rootfs" => {
            let map = property(option, text, "idmap").ok().filter(|map| !map.is_empty());
            let map = map.map(|map| Reach::id_map(&map));
            return of_node(option, text, "volume").into_iter().chain(map).collect();
        }
        "features" => return features(text),
        _ => None,
    };
    reach.into_iter().collect()
}

fn features(text: &str) -> Vec<Reach> {
    let Ok(features) = Properties::of_option("features", text) else {
        return vec![Reach::Nobody(text.into(), "")];
    };
    // What is no boolean is not taken for a no.
    let on = |key: &str| features.get(key).is_some_and(|v| parse_bool(v) != Some(false));
    let mknod = on("mknod").then_some(Reach::Capability(AllowedCapability::Mknod));
    let writable = on("force_rw_sys").then(|| Reach::Nobody("force_rw_sys=1".into(), ""));
    let mounts = features.get("mount").into_iter().flat_map(|m| m.split([';', ' ']));
    let mounts = mounts.filter(|m| !m.is_empty()).map(|m| Reach::Mount(m.into()));
    mknod.into_iter().chain(writable).chain(mounts).collect()
}

fn of_machine(vmid: Vmid, stem: &str, option: &str, text: &str) -> Vec<Reach> {
    let nobody = || Reach::Nobody(text.into(), "");
    let named = |key: &str| property(option, text, key).ok().filter(|value| !value.is_empty());
    let first = text.split(',').next().unwrap_or_default();
    let reach = match stem {
        "hostpci" => Some(named("mapping").map_or_else(nobody, Reach::PciMapping)),
        "usb" if first == "spice" || first == "host=spice" => None,
        "usb" => {
            let mapping = text.split(',').find_map(|p| p.trim().strip_prefix("mapping="));
            Some(mapping.map_or_else(nobody, |mapping| Reach::UsbMapping(mapping.into())))
        }
        // Disks, consoles and ports can be devices of the node's.
        "scsi" | "virtio" | "sata" | "ide" | "efidisk" | "tpmstate" => of_node(option, text, "file"),
        "serial" | "parallel" => first.starts_with('/').then(|| Reach::HostPath(first.into())),
        "cicustom" => (!own_snippets(vmid, text)).then(nobody),
        stem if RAW.contains(&stem) => Some(nobody()),
        _ => None,
    };
    reach.into_iter().collect()
}

/// Whether all files that a machine gives to cloud-init are the snippets that Phoenix wrote for it.
fn own_snippets(vmid: Vmid, text: &str) -> bool {
    let own = format!(":snippets/phoenix-{vmid}-");
    text.split(',')
        .all(|part| part.split_once('=').is_some_and(|(_, volid)| volid.contains(&own)))
}

/// Volumes that belong to other guests, such as retained ones of another object.
fn volumes_of_others(guest: &Guest) -> Vec<Carried> {
    let vmid = guest.at.vmid;
    let of_another = |option: &str, text: &str| {
        if !matches!(default_key(option), Some("volume" | "file")) {
            return None;
        }
        let properties = Properties::of_option(option, text).ok()?;
        let volid = properties.get("volume").or(properties.get("file"))?;
        let name = volid.rsplit(['/', ':']).next().unwrap_or_default();
        let mut parts = name.split('-');
        let kind = parts
            .next()
            .is_some_and(|k| ["vm", "subvol", "base", "basevol"].contains(&k));
        let owner = parts.next().and_then(|id| id.parse::<i64>().ok());
        (kind && owner.is_some_and(|id| id != i64::from(vmid))).then(|| volid.to_string())
    };
    let found = guest.options.iter().filter_map(|(option, text)| {
        let other = "detach it, or ";
        Some((option.clone(), Reach::Nobody(of_another(option, text)?, other)))
    });
    found.collect()
}
