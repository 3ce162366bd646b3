//! Virtual machines: `PhoenixVM`, and `PhoenixTemplate` of vm form.

use crate::crd::{
    CloudImage, CloudInit, GuestKind, KeyRef, LocalRef, Network, ObjectRef, PhoenixTemplate, PhoenixTemplateSpec,
    PhoenixVM, PhoenixVMSpec, VmCpu, VmDisk, VmGuest, VmSource,
};

use super::checks::Seen;
use super::facts::Facts;
use super::guests::Guest;
use super::json::{At, Node};
use super::lxc::{Fleet, GuestManifest};
use super::scripts::Scripts;
use super::writer::Writer;
use super::{features, firewall, lxc, network, storage, values};

/// Maps a machine. What it leaves out comes from `vm_defaults`.
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
    let template = guest.kind == GuestKind::PhoenixTemplate;
    if let Some(id_at) = &guest.id_at {
        w.mapped(id_at, "vmid", "");
    }
    let megabytes = |node: &Node| {
        values::mebibytes(node, 1)
            .filter(|m| (16..=1 << 30).contains(m))
            .map(values::quantity)
    };
    let cores_at = own_or_default(w, at, defaults, &["cores", "cpu_cores"]);
    let memory_at = own_or_default(w, at, defaults, &["memory_mb", "memory"]);
    let cores = cores_at.and_then(|at| {
        let read = |n: &Node| values::integer(n).filter(|n| (1..=512).contains(n));
        w.value(&at, "cpu.cores", read, "a whole number from 1 to 512")
    });
    let memory = memory_at.and_then(|at| w.value(&at, "memory", megabytes, "an amount of memory in MB"));
    let networking = network::networking(w, at, fleet.facts.subnet, &mut seen.addresses);
    let mut nics = networking.network;
    if let Some(bridge_at) = own_or_default(w, at, defaults, &["network_bridge"]) {
        bridge(w, &bridge_at, &mut nics);
    }
    let firewall = firewall::firewall(w, at, &mut nics);
    let root = fleet.roots.get(at.file)?;
    let (features, extra) = features::features(w, guest, root, fleet.facts);
    for item in extra {
        w.skip_warn(&item.at, "an option of containers on a machine", "drop it");
    }
    let vm = VmGuest {
        vmid: Some(guest.id),
        hostname: lxc::hostname(w, guest),
        source: source(w, guest, defaults, fleet),
        cpu: cores.map(|cores| VmCpu {
            cores: Some(cores),
            ..VmCpu::default()
        }),
        memory,
        disks: disk(w, guest, defaults, fleet, seen),
        network: nics,
        dns: networking.dns,
        cloud_init: cloud_init(w, guest),
        features,
        application: scripts.application(w, at, false),
        boot: lxc::boot(w, at, template),
        firewall,
        ..VmGuest::default()
    };
    let tests = scripts.tests(w, at);
    let depends_on = lxc::depends_on(w, index, fleet.guests, seen);
    lxc::rest(w, at);
    let why = "machines get no container mounts";
    storage::refuse_mounts(w, at, guest.id, fleet.facts, why);
    let hypervisor_ref = ObjectRef {
        name: fleet.hypervisor.to_owned(),
        namespace: None,
    };
    let snapshot_name = guest.form.as_ref().and_then(|(_, snapshot)| snapshot.clone());
    lxc::form_keys(w, at, &snapshot_name);
    Some(if let Some((form, _)) = &guest.form {
        let spec = PhoenixTemplateSpec {
            hypervisor_ref,
            vm: Some(vm),
            form: Some(*form),
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
            tests,
            depends_on,
            ..PhoenixVMSpec::default()
        };
        GuestManifest::Vm(Box::new(PhoenixVM::new(&guest.name, spec)))
    })
}

/// The guest's own value, else that of `vm_defaults`.
fn own_or_default<'a>(w: &mut Writer, at: &At<'a>, defaults: Option<&At<'a>>, names: &[&str]) -> Option<At<'a>> {
    w.key(at, names).or_else(|| {
        let defaults = defaults?;
        names
            .iter()
            .filter_map(|n| defaults.get(n))
            .find(|d| !values::is_unset(d.node))
    })
}

fn bridge(w: &mut Writer, at: &At, nics: &mut Option<Vec<Network>>) {
    let Some(name) = values::text(at.node).and_then(|t| values::bridge(&t)) else {
        return w.unreadable(at, "a bridge name such as vmbr0");
    };
    let nics = nics.get_or_insert_with(|| {
        vec![Network {
            name: "eth0".into(),
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

fn source(w: &mut Writer, guest: &Guest, defaults: Option<&At>, fleet: &Fleet) -> Option<VmSource> {
    lxc::clone_keys(w, guest);
    let image_at = w.key(&guest.at, &["template_image", "template"]);
    if let (Some(parent), Some(at)) = (guest.parent.and_then(|p| fleet.guests.list.get(p)), &guest.parent_at) {
        w.mapped(at, "source.templateRef.name", "");
        if let Some(at) = &image_at {
            w.skip(at, "the guest is cloned, so its image is not used");
        }
        return Some(VmSource {
            template_ref: Some(LocalRef {
                name: parent.name.clone(),
            }),
            ..VmSource::default()
        });
    }
    let Some(at) = image_at else {
        let default = defaults
            .and_then(|d| d.get("template"))
            .map(|d| format!(" (vm_defaults: {})", d.node.show()));
        let message = format!(
            "neither clone_from_vmid nor template_image{}",
            default.unwrap_or_default()
        );
        w.warn(&guest.at, &message, "set spec.source by hand");
        return None;
    };
    cloud_image(w, &at, fleet.facts).map(|image| VmSource {
        cloud_image: Some(image),
        ..VmSource::default()
    })
}

/// A disk image by name or path: it is expected in the ISO folder of the image storage.
fn cloud_image(w: &mut Writer, at: &At, facts: &Facts) -> Option<CloudImage> {
    let text = values::text(at.node).unwrap_or_default();
    if text.contains("://") {
        let fix = "set spec.source.cloudImage.url and sha256 by hand";
        w.skip_warn(
            at,
            "an image from a URL needs the SHA-256 of the file, which the file does not tell",
            fix,
        );
        return None;
    }
    let file = text.rsplit('/').next().unwrap_or(&text);
    let volid = if text.contains(":iso/") || text.contains(":import/") {
        text.clone()
    } else {
        format!("{}:iso/{file}", facts.image_storage.as_deref().unwrap_or("local"))
    };
    if volid.len() > 255 || !text.chars().all(|c| c.is_ascii_graphic()) {
        w.unreadable(at, "the name of a disk image");
        return None;
    }
    w.mapped(at, "source.cloudImage.volid", "");
    if volid != text {
        let message = format!("{} {} names no storage; {volid} is assumed", at.key(), at.node.show());
        w.warn(at, &message, "check that the image is there, or give url and sha256");
    }
    Some(CloudImage {
        volid: Some(volid),
        ..CloudImage::default()
    })
}

fn disk<'a>(
    w: &mut Writer,
    guest: &Guest<'a>,
    defaults: Option<&At<'a>>,
    fleet: &Fleet<'_, 'a>,
    seen: &mut Seen<'a>,
) -> Option<Vec<VmDisk>> {
    let size_at = own_or_default(w, &guest.at, defaults, &["disk_size_gb", "storage_size_gb"]);
    let mebibytes = size_at.and_then(|at| {
        let read = |node: &Node| values::mebibytes(node, 1024).filter(|m| (1024..=1 << 40).contains(m));
        w.value(&at, "disks[0].size", read, "a size in GB")
    });
    seen.rootfs(w, guest, mebibytes, fleet.guests);
    let own = guest
        .at
        .get("storage_pool")
        .is_some_and(|at| !values::is_unset(at.node));
    let place = if own { Some(&guest.at) } else { defaults };
    let storage = place.and_then(|at| storage::storage(w, at, &["storage_pool"], "disks[0].storage", fleet.facts));
    if mebibytes.is_none() && storage.is_none() {
        return None;
    }
    Some(vec![VmDisk {
        name: "root".into(),
        storage,
        size: mebibytes.map(values::quantity),
        ..VmDisk::default()
    }])
}

/// `user_config`. Keys and password hashes are not written: they belong into a Secret, which the object names.
fn cloud_init(w: &mut Writer, guest: &Guest) -> Option<CloudInit> {
    let at = w.key(&guest.at, &["user_config"])?;
    if !matches!(at.node, Node::Object(_)) {
        w.unreadable(&at, "an object with username");
        return None;
    }
    let secret = format!("{}-cloud-init", guest.name);
    let mut init = CloudInit {
        user: w.text(
            &at,
            &["username", "user"],
            "cloudInit.user",
            values::at_most(32),
            "a user name",
        ),
        ..CloudInit::default()
    };
    let mut refer = |names: &[&str], field: &str, key: &str| -> Option<KeyRef> {
        let value = w.key(&at, names)?;
        if values::text(value.node).is_none_or(|t| t == "NOT_SET") {
            w.defaulted(&value, &format!("cloudInit.{field}"), super::writer::NOT_SET);
            return None;
        }
        w.mapped(
            &value,
            &format!("cloudInit.{field}.key"),
            "only the reference: the value belongs into the Secret",
        );
        let message = format!(
            "{} belongs into the Secret {secret:?}, key {key:?}, which is not written",
            value.key()
        );
        w.warn(
            &value,
            &message,
            &format!("kubectl create secret generic {secret} --from-file={key}=FILE"),
        );
        Some(KeyRef {
            name: secret.clone(),
            key: key.to_owned(),
        })
    };
    init.password_hash_secret_ref = refer(&["password_hash", "password"], "passwordHashSecretRef", "passwordHash");
    init.ssh_keys_secret_ref = refer(&["ssh_public_key", "ssh_keys"], "sshKeysSecretRef", "authorizedKeys");
    if let Some(gateway) = at.get("gw") {
        w.skip(&gateway, "network_config holds the gateway");
    }
    (init != CloudInit::default()).then_some(init)
}
