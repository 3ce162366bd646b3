//! The fingerprint of what is applied to a guest.

use crate::crd::VmCdrom;
use crate::desired::vm::{Managed, WantedCloudInit, WantedDisk, WantedFirmware, WantedVendor, WantedVm};
use crate::desired::{
    Channels, Desired, Form, Grants, Lifecycle, Prints, ScriptRole, Shared, Source, WantedBind, WantedDevice,
    WantedFirewall, WantedGuest, WantedIdentity, WantedLxc, WantedNet, WantedOptions, WantedOwner, WantedVolume,
};

use crate::pve::{DiskSize, GuestType};

use super::{Fingerprint, digest_of};

/// Everything that is applied to the guest, and everything else on which the plan for it depends: while this stays the
/// same, the spec has not changed. The uid, the adopt annotation and where a template's guest is just now do not count.
pub(in crate::desired) fn applied(desired: &Desired) -> String {
    // Without `..`: who adds a field decides here what it means.
    let Desired {
        key,
        identity,
        life,
        source,
        shared,
        guest,
        scripts,
        health,
        channels,
        grants,
        source_by_volid: _,
        cards: _,
        defaulted: _,
        prints: Prints { revision, applied: _ },
    } = desired;
    let WantedIdentity {
        cluster_id,
        previous_clusters,
        uid: _,
        vmid,
        vmid_range,
        owner_ids: _,
        node,
        default_node,
        adopt: _,
        restamp,
    } = identity;
    let Lifecycle {
        form,
        history_limit,
        rebuild,
        power,
        restarted_at,
        restart,
        cancel,
        drift,
        deletion,
    } = life;
    let Shared {
        default_hostname,
        options,
        startup,
        network,
        tags,
        description,
        pool,
        firewall,
    } = shared;
    let none = WantedLxc::default();
    let (lxc, vm) = match guest {
        WantedGuest::Lxc(lxc) => (lxc.as_ref(), None),
        WantedGuest::Vm(vm) => (&none, Some(vm.as_ref())),
    };
    let WantedLxc {
        unprivileged,
        rootfs_storage,
        rootfs_size,
        flags,
        raw_lines,
        gpus,
        devices,
        ssh_keys,
        volumes,
        binds,
        owner,
        // Only an estimate is made of it; the script that starts it has a print of its own.
        server: _,
    } = lxc;
    let identity = Fingerprint::new("applied/1")
        .field("cluster", cluster_id)
        .list("previousClusters", previous_clusters)
        .field("object", key)
        .field("sort", desired.sort().as_str())
        .opt("vmid", *vmid)
        .opt("vmidRange", vmid_range.map(|(first, last)| format!("{first}-{last}")))
        .opt("node", node.as_ref())
        .opt("defaultNode", default_node.as_ref())
        .opt("source", source.as_ref().map(origin))
        .opt("revision", Some(revision).filter(|r| !r.is_empty()))
        .opt("historyLimit", *history_limit)
        .opt("rebuild", rebuild.as_ref())
        .field("form", form_of(form))
        .field("defaultHostname", default_hostname);
    let container = identity
        .opt("unprivileged", *unprivileged)
        .opt("rootfsStorage", rootfs_storage.as_ref())
        .opt("rootfsGib", rootfs_size.map(DiskSize::in_gib))
        .map("options", &values(options))
        .map("startup", startup)
        .map("features", flags)
        .opt_list("network", network.as_ref().map(|list| list.iter().map(net)))
        .opt_list("tags", tags.as_ref())
        .opt("description", description.as_ref())
        .opt("pool", pool.as_ref())
        .list("rawLines", raw_lines.iter().flat_map(|(key, value)| [key, value]))
        .opt_list("gpus", gpus.as_ref())
        .opt_list(
            "devices",
            Some(devices.iter().map(device)).filter(|list| list.len() > 0),
        )
        .opt("sshKeys", ssh_keys.as_ref().map(digest_of))
        .opt_list("volumes", volumes.as_ref().map(|list| list.iter().map(volume)))
        .opt_list("binds", binds.as_ref().map(|list| list.iter().map(bind)))
        .opt("owner", owner.as_ref().map(owners));
    container
        .opt("machine", vm.map(machine))
        .opt(
            "firewall",
            firewall.as_ref().map(|f| rules(f, network.as_deref(), desired.sort())),
        )
        // What proves only looks: it is no part of what is applied.
        .list(
            "scripts",
            scripts
                .iter()
                .filter(|script| script.role != ScriptRole::Proof)
                .map(|script| &script.hash),
        )
        .api("health", health)
        .api("power", power)
        .opt("restartedAt", restarted_at.as_ref())
        .opt("cancel", cancel.as_ref())
        .api("restart", restart)
        .api("drift", drift)
        .opt("restamp", restamp.as_ref())
        .api("deletion", deletion)
        .field("channels", ways(*channels))
        .opt("grants", grants.as_ref().map(given))
        .versioned(1)
}

fn origin(source: &Source) -> String {
    let print = Fingerprint::new("source");
    match source {
        Source::Image { volid } => print.field("image", volid),
        Source::Download {
            storage,
            content,
            filename,
            url,
            sha256,
        } => print
            .field("download", url)
            .field("storage", storage)
            .field("content", content)
            .field("filename", filename)
            .field("sha256", sha256),
        Source::Appliance { storage, template } => print.field("appliance", template).field("storage", storage),
        // Where the template's guest is, and which revision it has, changes without the spec.
        Source::Clone {
            vmid: _,
            node: _,
            revision: _,
            snapshot,
            template,
            namespace,
        } => print
            .field("clone", template)
            .field("namespace", namespace)
            .opt("snapshot", snapshot.as_ref()),
    }
    .short()
}

fn form_of(form: &Form) -> String {
    match form {
        Form::Guest => "guest".into(),
        Form::Template => "template".into(),
        Form::Snapshot(name) => format!("snapshot {name}"),
    }
}

fn net(net: &WantedNet) -> String {
    let WantedNet { name, properties } = net;
    let print = Fingerprint::new("net").field("name", name);
    print.map("properties", properties).short()
}

fn volume(volume: &WantedVolume) -> String {
    let WantedVolume {
        name,
        storage,
        storage_given,
        existing,
        size,
        path,
        owner_key,
        properties,
    } = volume;
    Fingerprint::new("volume")
        .field("name", name)
        .field("storage", storage)
        .flag("storageGiven", *storage_given)
        .field("gib", size.in_gib())
        .field("path", path)
        .opt("ownerKey", owner_key.as_ref())
        .opt("existing", existing.as_ref())
        .map("properties", properties)
        .short()
}

fn device(device: &WantedDevice) -> String {
    let WantedDevice { path, properties } = device;
    let print = Fingerprint::new("device").field("path", path);
    print.map("properties", properties).short()
}

fn bind(bind: &WantedBind) -> String {
    let WantedBind {
        host_path,
        path,
        properties,
    } = bind;
    Fingerprint::new("bind")
        .field("hostPath", host_path)
        .field("path", path)
        .map("properties", properties)
        .short()
}

fn owners(owner: &WantedOwner) -> String {
    let WantedOwner {
        ids: (first, last),
        image,
        storage,
        pool,
    } = owner;
    Fingerprint::new("owner")
        .field("ids", format!("{first}-{last}"))
        .opt("image", image.as_ref())
        .opt("storage", storage.as_ref())
        .opt("pool", pool.as_ref())
        .short()
}

/// The interface that a rule names is written by its place in the list of a container's, as the first version did.
fn rules(firewall: &WantedFirewall, network: Option<&[WantedNet]>, sort: GuestType) -> String {
    let WantedFirewall { options, rules } = firewall;
    let place = |name: &str| match sort {
        GuestType::Lxc => {
            let mut nets = network.unwrap_or_default().iter();
            nets.position(|net| net.name == name).map(|place| format!("net{place}"))
        }
        // The number in the name of a machine's interface is Proxmox's.
        GuestType::Qemu => name.get(3..).map(|number| format!("net{number}")),
    };
    let rule = |rule: &Managed| {
        let mut rule = rule.clone();
        if let Some(name) = rule.remove("iface") {
            rule.extend(place(&name).map(|place| ("iface".to_string(), place)));
        }
        Fingerprint::new("rule").map("rule", &rule).short()
    };
    Fingerprint::new("firewall")
        .map("options", options)
        .opt_list("rules", rules.as_ref().map(|list| list.iter().map(rule)))
        .short()
}

fn ways(channels: Channels) -> String {
    let Channels { token, ticket, ssh } = channels;
    let ways = [("token", token), ("ticket", ticket), ("ssh", ssh)];
    let there: Vec<&str> = ways.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    there.join(",")
}

fn given(grants: &Grants) -> String {
    let Grants {
        hypervisor,
        namespace,
        allow,
        bridge,
        capabilities,
        template,
        // What a template has been built as changes without the spec.
        revisions: _,
    } = grants;
    Fingerprint::new("grants")
        .field("hypervisor", hypervisor)
        .field("namespace", namespace)
        .api("allow", allow)
        .opt("bridge", bridge.as_ref())
        .api("capabilities", capabilities)
        .flag("template", *template)
        .short()
}

fn machine(vm: &WantedVm) -> String {
    let WantedVm {
        properties,
        absent,
        creation,
        disks,
        cdroms,
        disk_storage,
        firmware,
        boot_order,
        cloud_init: init,
        pci,
        usb,
        agent,
        agent_deadline,
        // The digest of the snippet stands for it.
        first_boot: _,
    } = vm;
    let devices = |list: &Option<Vec<Managed>>| {
        let list = list.as_ref()?.iter();
        Some(
            list.map(|d| Fingerprint::new("device").map("device", d).short())
                .collect::<Vec<_>>(),
        )
    };
    let managed = properties
        .iter()
        .map(|(key, value)| Fingerprint::new(key).map("is", value).short());
    Fingerprint::new("machine")
        .list("properties", managed)
        .list("absent", absent)
        .map("creation", creation)
        .opt_list("disks", disks.as_ref().map(|list| list.iter().map(disk)))
        .opt_list("cdroms", cdroms.as_ref().map(|list| list.iter().map(cdrom)))
        .opt("diskStorage", disk_storage.as_ref())
        .field("firmware", drives(firmware))
        .opt_list("bootOrder", boot_order.as_ref())
        .opt("cloudInit", init.as_ref().map(cloud_init))
        .opt_list("pci", devices(pci))
        .opt_list("usb", devices(usb))
        .opt("agent", *agent)
        .field("agentDeadline", agent_deadline)
        .short()
}

fn cdrom(drive: &VmCdrom) -> String {
    let VmCdrom { slot, volid } = drive;
    let print = Fingerprint::new("cdrom").field("slot", slot);
    print.opt("volid", volid.as_ref()).short()
}

fn disk(disk: &WantedDisk) -> String {
    let WantedDisk {
        name,
        slot,
        bus,
        bus_given,
        storage,
        size,
        properties,
    } = disk;
    Fingerprint::new("disk")
        .field("name", name)
        .opt("place", slot.as_ref())
        .field("bus", bus.as_str())
        .opt("busGiven", bus_given.map(|bus| bus.as_str()))
        .opt("storage", storage.as_ref())
        .opt("gib", size.map(DiskSize::in_gib))
        .map("properties", properties)
        .short()
}

fn drives(firmware: &WantedFirmware) -> String {
    let WantedFirmware { efi, tpm } = firmware;
    let mut print = Fingerprint::new("firmware");
    if let Some((storage, keys)) = efi {
        print = print
            .field("efi", keys.unwrap_or(false))
            .opt("efiKeys", *keys)
            .opt("efiStorage", storage.as_ref());
    }
    if let Some((storage, version)) = tpm {
        print = print.field("tpm", version).opt("tpmStorage", storage.as_ref());
    }
    print.short()
}

fn cloud_init(init: &WantedCloudInit) -> String {
    let WantedCloudInit {
        storage,
        password,
        vendor,
    } = init;
    Fingerprint::new("cloudInit")
        .opt("storage", storage.as_ref())
        .opt("password", password.as_ref().map(digest_of))
        .opt("vendor", vendor.as_ref().map(snippet_of))
        .short()
}

/// The digest stands for all that is in the snippet.
fn snippet_of(vendor: &WantedVendor) -> String {
    let WantedVendor {
        storage,
        packages: _,
        user_data: _,
        agent: _,
        scripts: _,
        required,
        digest,
    } = vendor;
    Fingerprint::new("vendor")
        .field("digest", digest)
        .opt("storage", storage.as_ref())
        .flag("required", *required)
        .short()
}

/// Plain options with their values: the field that one comes from is no part of it.
fn values(options: &WantedOptions) -> Managed {
    let values = options.iter();
    values
        .map(|(key, option)| (key.to_string(), option.value.clone()))
        .collect()
}
