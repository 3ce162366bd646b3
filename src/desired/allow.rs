//! What an object of another namespace than its hypervisor's may reach beyond its own guest (`spec.allow`,
//! docs/security.md). Every field that reaches out is named here; the plan asks the same judge about what a guest on
//! Proxmox really carries.

use crate::crd::{
    ADOPT, Allow, AllowedCapability, Capabilities, Defaults, LxcGuest, PhoenixHypervisor, PhoenixLXCSpec, VmGuest,
};
use crate::desired::ObjectName;
use crate::pve::Vmid;
use crate::reason::Reason;

use super::{Blocked, GuestObject, GuestSpec, Objects, Reach, refs};

/// What an object of another namespace was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    pub(super) hypervisor: String,
    pub(super) namespace: String,
    pub(super) allow: Allow,
    pub(super) bridge: Option<String>,
    pub(super) capabilities: Capabilities,
    /// The object names a template of `allow.templates`: what a clone of it carries is given.
    pub template: bool,
    /// Revisions of that template. A guest was cloned from it where its stamp names one of them.
    pub revisions: Vec<String>,
}

impl Grants {
    fn new(object: &GuestObject, hypervisor: &PhoenixHypervisor, objects: &dyn Objects) -> Self {
        let ObjectName { namespace, name } = object.hypervisor_ref();
        let allow = hypervisor.spec.allow.clone().unwrap_or_default();
        let defaults = hypervisor.spec.defaults.clone().unwrap_or_default();
        // The name in the list means the template of the hypervisor's namespace, not one of the tenant's own.
        let template = object.template_ref().filter(|name| holds(&allow.templates, name));
        let template = template.and_then(|name| refs::template(object, name, objects).ok());
        let template = template.filter(|t| t.key.namespace == namespace);
        let revisions = template.iter().flat_map(|t| {
            let old = t.status.revisions.iter().flatten().map(|r| r.revision.clone());
            t.status.revision.clone().into_iter().chain(old)
        });
        Grants {
            revisions: revisions.collect(),
            template: template.is_some(),
            hypervisor: format!("{namespace}/{name}"),
            namespace: object.key.namespace.clone(),
            allow,
            bridge: defaults.bridge,
            capabilities: defaults.capabilities.unwrap_or_default(),
        }
    }

    /// Indices of GPUs that the object may have.
    pub fn gpus(&self) -> &[i64] {
        self.allow.gpus.as_deref().unwrap_or_default()
    }

    /// Whether something is within what was given.
    pub fn covers(&self, reach: &Reach) -> bool {
        let allow = &self.allow;
        match reach {
            Reach::Adopt(id) => holds(&allow.adopt, &i64::from(*id)),
            Reach::Vmid(id) => allow
                .vmids
                .iter()
                .flatten()
                .any(|r| (r.start..=r.end).contains(&(*id).into())),
            Reach::Bridge(name) => self.bridge.as_ref() == Some(name) || holds(&allow.bridges, name),
            Reach::Vlan(tag) => holds(&allow.vlans, tag),
            Reach::Pool(name) => holds(&allow.pools, name),
            Reach::Storage(name) => holds(&allow.storages, name),
            Reach::Gpu(index) => holds(&allow.gpus, index),
            Reach::SharedGpu(_) => allow.gpus.as_ref().is_some_and(|list| !list.is_empty()),
            Reach::PciMapping(name) => holds(&allow.pci_mappings, name),
            Reach::UsbMapping(name) => holds(&allow.usb_mappings, name),
            Reach::Hookscript(volid) => holds(&allow.hookscripts, volid),
            Reach::Privileged => allow.privileged == Some(true),
            Reach::LxcOption(key, _) => holds(&allow.lxc_options, key),
            Reach::HostPath(path) => allow.host_paths.iter().flatten().any(|given| is_below(path, given)),
            Reach::Capability(capability) => self.gives(*capability) || holds(&allow.capabilities, capability),
            Reach::Mount(type_) => {
                let mut given = self.capabilities.mount.iter().flatten();
                given.any(|m| m.as_str() == type_) || holds(&allow.capabilities, &AllowedCapability::Mount)
            }
            Reach::ImageUrl(url) => allow.image_urls.iter().flatten().any(|given| is_from(url, given)),
            Reach::BootOrder(_) => allow.boot_order == Some(true),
            Reach::Nobody(..) => false,
        }
    }

    /// Whether the hypervisor's defaults give a capability unasked.
    fn gives(&self, capability: AllowedCapability) -> bool {
        match capability {
            AllowedCapability::Mknod => self.capabilities.mknod == Some(true),
            // Each file system counts for itself.
            AllowedCapability::Mount => false,
        }
    }

    /// Whether clones of a template, as `namespace/name`, may have all that they carry.
    pub fn gives_template(&self, template: &str) -> bool {
        let namespace = self.hypervisor.split('/').next().unwrap_or_default();
        let name = template.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| holds(&self.allow.templates, name))
    }

    /// Why something is refused, and what would allow it.
    pub fn refusal(&self, what: &str, reach: &Reach) -> String {
        format!(
            "{what}: {:?} reaches beyond the object, and PhoenixHypervisor {} does not allow it for namespace {}: leave it out, or {}",
            reach.value(),
            self.hypervisor,
            self.namespace,
            reach.fix(&self.hypervisor)
        )
    }

    /// As [`Grants::refusal`], of what a template's guest carries.
    pub fn refusal_of_template(&self, field: &str, template: &str, carries: &str, reach: &Reach) -> String {
        format!(
            "{field}: {template:?} carries {carries} {:?}, which a clone of it would have too, and PhoenixHypervisor {} does not allow it for namespace {}: use another template, or add {template} to spec.allow.templates of PhoenixHypervisor {} if it is a template of its namespace, or {}",
            reach.value(),
            self.hypervisor,
            self.namespace,
            self.hypervisor,
            reach.fix(&self.hypervisor)
        )
    }
}

fn holds<T: PartialEq<U>, U: ?Sized>(list: &Option<Vec<T>>, value: &U) -> bool {
    list.iter().flatten().any(|given| given == value)
}

/// Whether a path is another one or below it.
fn is_below(path: &str, given: &str) -> bool {
    let given = given.trim_end_matches('/');
    let climbs = path.split('/').any(|part| part == "..");
    let below = path
        .strip_prefix(given)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below && !climbs
}

/// Whether a URL is another one or begins with it, where that ends in '/'.
fn is_from(url: &str, given: &str) -> bool {
    let rest = url.strip_prefix(given).filter(|_| given.ends_with('/'));
    // A path that climbs would leave the folder again.
    let climbs = |rest: &str| rest.contains("..") || rest.contains('\\') || rest.to_lowercase().contains("%2e");
    url == given || rest.is_some_and(|rest| !climbs(rest))
}

/// What the object was given; `None` for objects of the hypervisor's own namespace, which may everything.
///
/// # Errors
/// `NotAllowed` with field, value and entry of `spec.allow`.
pub(super) fn check(
    object: &GuestObject,
    hypervisor: &PhoenixHypervisor,
    objects: &dyn Objects,
) -> Result<Option<Grants>, Blocked> {
    adopt_can_be_followed(object)?;
    owners_are_nobodys(object, hypervisor)?;
    if hypervisor.metadata.namespace.as_deref() == Some(&object.key.namespace) {
        return Ok(None);
    }
    let grants = Grants::new(object, hypervisor, objects);
    let defaults = hypervisor.spec.defaults.clone().unwrap_or_default();
    let mut asked = Asked {
        prefix: object.field_prefix(),
        images: images(hypervisor, &defaults),
        defaults,
        list: Vec::new(),
    };
    asked.object(object);
    match asked.list.iter().find(|(_, reach)| !grants.covers(reach)) {
        Some((field, reach)) => Err(Blocked::stalled(Reason::NotAllowed, grants.refusal(field, reach))),
        None => Ok(Some(grants)),
    }
}

/// Storages that the hypervisor's own spec names for images.
fn images(hypervisor: &PhoenixHypervisor, defaults: &Defaults) -> Vec<String> {
    let owners = hypervisor.spec.volume_owners.as_ref().and_then(|o| o.image.clone());
    let of_owners = owners.and_then(|volid| Some(volid.split_once(':')?.0.to_string()));
    defaults.image_storage.iter().cloned().chain(of_owners).collect()
}

/// An annotation that cannot be followed would make a new guest beside the one that is to be adopted.
fn adopt_can_be_followed(object: &GuestObject) -> Result<(), Blocked> {
    let Some(text) = object.annotations.get(ADOPT).filter(|_| object.status.vmid().is_none()) else {
        return Ok(());
    };
    let refused = |reason, what: String| {
        let message = format!("metadata.annotations[{ADOPT}]: {what}");
        Err(Blocked::stalled(reason, message))
    };
    match (adopts(object), object.spec_vmid()) {
        (Some(id), Some(given)) if id != given => refused(
            Reason::Conflict,
            format!(
                "{id} and {}.vmid: {given} name two guests: give the same id, or leave vmid out",
                object.field_prefix()
            ),
        ),
        (Some(_), _) => Ok(()),
        (None, _) if text.trim().parse::<i64>().is_ok() => refused(
            Reason::InvalidSpec,
            format!("{} is no id of a guest: give one from 100 on", text.trim()),
        ),
        (None, _) => refused(
            Reason::InvalidSpec,
            format!("{text:?} is no id of a guest: give the id of the guest to adopt, such as \"500\""),
        ),
    }
}

/// The id that the adopt annotation names, while it can still have an effect.
fn adopts(object: &GuestObject) -> Option<Vmid> {
    match (object.status.vmid(), object.status.adopted) {
        (None, _) => object.annotations.get(ADOPT)?.trim().parse().ok(),
        (vmid, Some(true)) => vmid,
        _ => None,
    }
}

/// Ids of owner containers, which no object may have, whatever its namespace. A guest that was there before its id came
/// into the range stays the object's.
fn owners_are_nobodys(object: &GuestObject, hypervisor: &PhoenixHypervisor) -> Result<(), Blocked> {
    let Some(owners) = &hypervisor.spec.volume_owners else {
        return Ok(());
    };
    if object.status.vmid().is_some() {
        return Ok(());
    }
    let (first, last) = owners.id_range.ids();
    let adopt = adopts(object).map(|id| (format!("metadata.annotations[{ADOPT}]"), id));
    let named = object
        .spec_vmid()
        .map(|id| (format!("{}.vmid", object.field_prefix()), id));
    match adopt
        .into_iter()
        .chain(named)
        .find(|(_, id)| (first..=last).contains(id))
    {
        Some((field, id)) => Err(Blocked::stalled(
            Reason::NotAllowed,
            format!(
                "{field}: {id} is one of the ids {first}-{last} of spec.volumeOwners.idRange, whose containers hold everybody's retained volumes and are nobody's: choose another id"
            ),
        )),
        None => Ok(()),
    }
}

/// Collects what an object asks for beyond its own guest, with the fields.
struct Asked {
    prefix: &'static str,
    defaults: Defaults,
    /// Storages that are given for images.
    images: Vec<String>,
    list: Vec<(String, Reach)>,
}

impl Asked {
    fn ask(&mut self, field: impl AsRef<str>, reach: Reach) {
        self.list.push((format!("{}.{}", self.prefix, field.as_ref()), reach));
    }

    /// A storage, unless it is what the hypervisor gives for the same use.
    fn storage(&mut self, field: impl AsRef<str>, named: Option<&String>, given: &[Option<&String>]) {
        let Some(named) = named.filter(|named| !given.contains(&Some(named))) else {
            return;
        };
        self.ask(field, Reach::Storage(named.clone()));
    }

    fn object(&mut self, object: &GuestObject) {
        let adopt = adopts(object);
        if let Some(id) = adopt {
            let field = format!("metadata.annotations[{ADOPT}]");
            self.list.push((field, Reach::Adopt(id)));
        }
        // Who may adopt a guest may also name it.
        let named = object.spec_vmid().filter(|id| adopt != Some(*id));
        if let Some(id) = named {
            self.ask("vmid", Reach::Vmid(id));
        }
        self.shared(object);
        if let GuestSpec::Lxc(spec) = &object.spec {
            self.mounts(spec);
        }
        if let Some(guest) = object.lxc() {
            self.container(guest);
        }
        if let Some(guest) = object.vm() {
            self.machine(guest);
        }
    }

    fn shared(&mut self, object: &GuestObject) {
        let Some(fields) = object.shared() else { return };
        for net in fields.network.as_deref().unwrap_or_default() {
            if let Some(bridge) = &net.bridge {
                self.ask(format!("network[{}].bridge", net.name), Reach::Bridge(bridge.clone()));
            }
            if let Some(tag) = net.vlan {
                self.ask(format!("network[{}].vlan", net.name), Reach::Vlan(tag));
            }
            for tag in net.trunks.iter().flatten() {
                self.ask(format!("network[{}].trunks", net.name), Reach::Vlan(*tag));
            }
        }
        if let Some(pool) = &fields.pool {
            self.ask("pool", Reach::Pool(pool.clone()));
        }
        let boot = fields.boot.clone().unwrap_or_default();
        for (field, value) in [
            ("boot.order", boot.order),
            ("boot.upDelay", boot.up_delay),
            ("boot.downDelay", boot.down_delay),
        ] {
            if let Some(value) = value {
                self.ask(field, Reach::BootOrder(value.to_string()));
            }
        }
    }

    fn container(&mut self, guest: &LxcGuest) {
        if guest.unprivileged == Some(false) {
            self.ask("unprivileged", Reach::Privileged);
        }
        let profiles = guest.apparmor_profile.is_some();
        for (key, value) in super::lxc::raw_lines(guest) {
            let field = match key.as_str() {
                "lxc.apparmor.profile" if profiles => "apparmorProfile",
                _ => "lxcOptions",
            };
            self.ask(field, Reach::LxcOption(key, value));
        }
        for (i, device) in guest.devices.iter().flatten().enumerate() {
            self.ask(format!("devices[{i}].path"), Reach::device(device.path.clone()));
        }
        if let Some(volid) = &guest.hookscript {
            self.ask("hookscript", Reach::Hookscript(volid.clone()));
        }
        for (i, gpu) in guest.gpus.iter().flatten().enumerate() {
            match gpu.index {
                Some(index) => self.ask(format!("gpus[{i}].index"), Reach::Gpu(index)),
                // Which card it is is known where the node's cards are: it may have those whose index is allowed.
                None => self.ask(format!("gpus[{i}]"), Reach::SharedGpu("a GPU".into())),
            }
        }
        let capabilities = guest.capabilities.clone().unwrap_or_default();
        if capabilities.mknod == Some(true) {
            self.ask("capabilities.mknod", Reach::Capability(AllowedCapability::Mknod));
        }
        for type_ in capabilities.mount.iter().flatten() {
            self.ask("capabilities.mount", Reach::Mount(type_.as_str().into()));
        }
        let rootfs = guest.rootfs.as_ref().and_then(|r| r.storage.clone());
        let given = self.defaults.rootfs_storage.clone();
        self.storage("rootfs.storage", rootfs.as_ref(), &[given.as_ref()]);
        let image = guest.source.as_ref().and_then(|s| s.image.clone()).unwrap_or_default();
        self.image("source.image", "vztmpl", image.volid, image.url, image.storage);
    }

    /// An image: from a storage, or downloaded to one.
    fn image(&mut self, field: &str, content: &str, volid: Option<String>, url: Option<String>, to: Option<String>) {
        let images = self.images.clone();
        let given: Vec<Option<&String>> = images.iter().map(Some).collect();
        if let Some(volid) = volid {
            let (storage, name) = volid.split_once(':').unwrap_or_default();
            // Admission lets no other content pass; a backup or a disk is somebody's data.
            if !name.starts_with(&format!("{content}/")) {
                self.ask(
                    format!("{field}.volid"),
                    Reach::Nobody(volid.clone(), "name an image, or "),
                );
            }
            let storage = storage.to_string();
            self.storage(format!("{field}.volid"), Some(&storage), &given);
        }
        if let Some(url) = url {
            self.ask(format!("{field}.url"), Reach::ImageUrl(url));
        }
        self.storage(format!("{field}.storage"), to.as_ref(), &given);
    }

    fn mounts(&mut self, spec: &PhoenixLXCSpec) {
        let (volumes, rootfs) = (
            self.defaults.volume_storage.clone(),
            self.defaults.rootfs_storage.clone(),
        );
        for volume in spec.volumes.iter().flatten() {
            let field = format!("volumes[{}].storage", volume.name);
            self.storage(field, volume.storage.as_ref(), &[volumes.as_ref(), rootfs.as_ref()]);
            if let Some(volid) = &volume.volid {
                let field = format!("volumes[{}].volid", volume.name);
                self.ask(
                    field,
                    Reach::Nobody(volid.clone(), "give a size for a volume of its own, or "),
                );
            }
            if let Some(map) = &volume.idmap {
                self.ask(format!("volumes[{}].idmap", volume.name), Reach::id_map(map));
            }
        }
        for mount in spec.host_mounts.iter().flatten() {
            let field = format!("hostMounts[{}].hostPath", mount.name);
            self.ask(field, Reach::HostPath(mount.host_path.clone()));
            if let Some(map) = &mount.idmap {
                self.ask(format!("hostMounts[{}].idmap", mount.name), Reach::id_map(map));
            }
        }
    }

    fn machine(&mut self, guest: &VmGuest) {
        let mapped = "use a resource mapping, or ";
        for (i, device) in guest.pci.iter().flatten().enumerate() {
            if let Some(mapping) = &device.mapping {
                self.ask(format!("pci[{i}].mapping"), Reach::PciMapping(mapping.clone()));
            }
            if let Some(address) = &device.address {
                self.ask(format!("pci[{i}].address"), Reach::Nobody(address.clone(), mapped));
            }
            if let Some(file) = &device.rom_file {
                self.ask(format!("pci[{i}].romFile"), Reach::Nobody(file.clone(), ""));
            }
        }
        for (i, device) in guest.usb.iter().flatten().enumerate() {
            if let Some(mapping) = &device.mapping {
                self.ask(format!("usb[{i}].mapping"), Reach::UsbMapping(mapping.clone()));
            }
            if let Some(host) = &device.host {
                self.ask(format!("usb[{i}].host"), Reach::Nobody(host.clone(), mapped));
            }
        }
        if let Some(volid) = &guest.hookscript {
            self.ask("hookscript", Reach::Hookscript(volid.clone()));
        }
        if let Some(args) = &guest.args {
            self.ask("args", Reach::Nobody(args.clone(), ""));
        }
        let given = self.defaults.disk_storage.clone();
        for disk in guest.disks.iter().flatten() {
            let field = format!("disks[{}].storage", disk.name);
            self.storage(field, disk.storage.as_ref(), &[given.as_ref()]);
        }
        for drive in guest.cdroms.iter().flatten() {
            let volid = drive.volid.clone().filter(|volid| volid != "none");
            self.image(&format!("cdroms[{}]", drive.slot), "iso", volid, None, None);
        }
        let cloud_init = guest.cloud_init.clone().unwrap_or_default();
        for (field, named) in [
            (
                "efiDisk.storage",
                guest.efi_disk.as_ref().and_then(|d| d.storage.as_ref()),
            ),
            ("tpm.storage", guest.tpm.as_ref().and_then(|t| t.storage.as_ref())),
            ("cloudInit.storage", cloud_init.storage.as_ref()),
        ] {
            self.storage(field, named, &[given.as_ref()]);
        }
        let snippets = self.defaults.snippet_storage.clone();
        self.storage(
            "cloudInit.snippetStorage",
            cloud_init.snippet_storage.as_ref(),
            &[snippets.as_ref()],
        );
        let image = guest
            .source
            .as_ref()
            .and_then(|s| s.cloud_image.clone())
            .unwrap_or_default();
        self.image("source.cloudImage", "import", image.volid, image.url, image.storage);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, testing};
    use super::*;
    use crate::crd::GuestKind;

    #[test]
    fn paths_are_below_whole_folders_and_do_not_climb() {
        for (path, given, below) in [
            ("/srv", "/srv", true),
            ("/srv/a", "/srv/", true),
            ("/srv2", "/srv", false),
            ("/srv/../etc", "/srv", false),
            ("/etc", "/", true),
            ("srv", "/srv", false),
        ] {
            assert_eq!(is_below(path, given), below, "{path} {given}");
        }
    }

    /// A tenant could name one of its own like the one that was given, and put anything on its guest.
    #[test]
    fn a_template_is_given_by_name_only_where_it_is_the_hypervisors() {
        let objects = testing::objects(
            "kind: PhoenixHypervisor\nmetadata: {name: pve}\nspec:\n  endpoints: [https://127.0.0.1:8006]\n  \
             credentials: {tokenSecretRef: {name: t}}\n  allowedNamespaces: {from: All}\n  allow: {templates: [base]}",
        );
        let of = |kind: &str, namespace: &str, name: &str, spec: &str| {
            testing::apply(
                &objects,
                &format!(
                    "kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hypervisorRef: {{name: pve, namespace: ai}}, {spec}}}"
                ),
            );
        };
        let grants = || {
            let key = Key::new(GuestKind::PhoenixLXC, "tenant", "clone");
            let hypervisor = objects.hypervisor("ai", "pve").unwrap();
            Grants::new(&objects.guest(&key).unwrap(), &hypervisor, &objects)
        };
        of("PhoenixLXC", "tenant", "clone", "source: {templateRef: {name: base}}");
        assert!(!grants().template, "there is none");
        of("PhoenixTemplate", "ai", "base", "form: Template, lxc: {}");
        assert!(grants().template);
        of("PhoenixTemplate", "tenant", "base", "form: Template, lxc: {}");
        assert!(!grants().template, "the tenant's own is nearer");
    }

    #[test]
    fn urls_are_whole_or_below_a_folder() {
        let folder = "https://images.example/debian/";
        for (url, given, from) in [
            ("https://images.example/debian/a.tar.zst", folder, true),
            (
                "https://images.example/debian/a.tar.zst",
                "https://images.example/debian/a.tar.zst",
                true,
            ),
            (
                "https://images.example/debian/a.tar.zst2",
                "https://images.example/debian/a.tar.zst",
                false,
            ),
            ("https://images.example.evil/debian/a", "https://images.example", false),
            ("https://images.example/debian/../private/a", folder, false),
            ("https://images.example/debian/%2E%2e/private/a", folder, false),
            ("http://images.example/debian/a", folder, false),
        ] {
            assert_eq!(is_from(url, given), from, "{url} {given}");
        }
    }
}
