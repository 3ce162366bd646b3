//! What a hypervisor's spec and its objects name and rest on.

use std::collections::BTreeMap;

use crate::crd::PhoenixHypervisorSpec;
use crate::desired::{GuestObject, GuestSpec};

use super::privileges::Needs;

/// A storage that a spec names: the field, its name, and contents of which it must have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The field.
    pub field: String,
    /// The storage.
    pub storage: String,
    /// Contents of which it must have one.
    pub contents: Vec<&'static str>,
    /// Whether guests are kept there, and not only read or downloaded.
    pub keeps: bool,
}

/// Storages that a spec names, with what is to be kept there.
pub fn named(spec: &PhoenixHypervisorSpec, needs: &Needs) -> Vec<Named> {
    let defaults = spec.defaults.clone().unwrap_or_default();
    let owners = spec.volume_owners.clone().unwrap_or_default();
    let image = owners.image.as_deref().and_then(|volid| volid.split_once(':'));
    let images = match (needs.downloads_lxc, needs.downloads_vm) {
        (true, false) => vec!["vztmpl"],
        (false, true) => vec!["import"],
        _ => vec!["vztmpl", "import"],
    };
    let image = image.map(|(storage, _)| storage.to_string());
    let all = [
        ("defaults.rootfsStorage", defaults.rootfs_storage, vec!["rootdir"], true),
        ("defaults.volumeStorage", defaults.volume_storage, vec!["rootdir"], true),
        ("defaults.diskStorage", defaults.disk_storage, vec!["images"], true),
        ("defaults.imageStorage", defaults.image_storage, images, false),
        (
            "defaults.snippetStorage",
            defaults.snippet_storage,
            vec!["snippets"],
            false,
        ),
        ("volumeOwners.storage", owners.storage, vec!["rootdir"], true),
        ("volumeOwners.image", image, vec!["vztmpl"], false),
    ];
    let given = all.into_iter().filter_map(|(field, storage, contents, keeps)| {
        Some(Named {
            field: format!("spec.{field}"),
            storage: storage?,
            contents,
            keeps,
        })
    });
    given.collect()
}

/// Where something is needed: a node, or every one on which guests may be put.
pub type Where = Option<String>;

/// A file that is needed as an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The field.
    pub field: String,
    /// Where.
    pub node: Where,
    /// The storage that it is on, or is downloaded to; `None` where none is named.
    pub storage: Option<String>,
    /// Its name, or an open one of an appliance.
    pub name: String,
    /// Whether it is downloaded where the appliance index has it.
    pub downloaded: bool,
    /// `vztmpl` or `import`.
    pub content: &'static str,
}

/// What is named and rested on.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// What the objects do.
    pub needs: Needs,
    /// Storages.
    pub storages: Vec<(Where, Named)>,
    /// Bridges: node, field, name.
    pub bridges: Vec<(Where, String, String)>,
    /// Images.
    pub images: Vec<Image>,
    /// Fields that need SSH.
    pub shell: Vec<(Where, String)>,
    /// Fields that need a graphics card.
    pub cards: Vec<(Where, String)>,
    /// Resource mappings: path below `/mapping`, field.
    pub mappings: Vec<(String, String)>,
    /// Fields that need `Sys.Modify` on `/`.
    pub modify: Vec<String>,
    /// Pools and the fields that name them.
    pub pools: Vec<(String, String)>,
}

impl Uses {
    /// What a spec and the objects that name its hypervisor use.
    pub fn of(spec: &PhoenixHypervisorSpec, objects: &[&GuestObject]) -> Uses {
        let mut uses = Uses::default();
        for object in objects {
            uses.needs.add(object);
        }
        uses.storages
            .extend(named(spec, &uses.needs).into_iter().map(|named| (None, named)));
        let defaults = spec.defaults.clone().unwrap_or_default();
        if let Some(bridge) = defaults.bridge.clone() {
            uses.bridges.push((None, "spec.defaults.bridge".into(), bridge));
        }
        let owners = spec.volume_owners.as_ref();
        let image = owners.and_then(|owners| owners.image.as_deref()?.split_once(":vztmpl/"));
        if let Some((storage, name)) = image {
            uses.images.push(Image {
                field: "spec.volumeOwners.image".into(),
                node: None,
                storage: Some(storage.into()),
                name: name.into(),
                downloaded: true,
                content: "vztmpl",
            });
        }
        if let Some(pool) = owners.and_then(|owners| owners.pool.clone()) {
            uses.pools.push((pool, "spec.volumeOwners.pool".into()));
        }
        for object in objects {
            uses.add(object, &defaults);
        }
        uses
    }

    fn add(&mut self, object: &GuestObject, defaults: &crate::crd::Defaults) {
        let prefix = format!("{}: {}", object.key, object.field_prefix());
        let field = |name: &str| format!("{prefix}.{name}");
        let Some(shared) = object.shared() else { return };
        let node = shared.node.clone().or_else(|| defaults.node.clone());
        for network in shared.network.iter().flatten() {
            if let Some(bridge) = network.bridge.clone().or_else(|| defaults.bridge.clone()) {
                let name = field(&format!("network[{}].bridge", network.name));
                self.bridges.push((node.clone(), name, bridge));
            }
        }
        if let Some(pool) = shared.pool.clone() {
            self.pools.push((pool, field("pool")));
        }
        self.add_container(object, defaults, &node, &field);
        self.add_machine(object, defaults, &node, &field);
        // Scripts go into containers over SSH, and into machines through their agent.
        if object.lxc().is_some() {
            let scripts = [
                (
                    "features",
                    shared.features.as_ref().is_some_and(|list| !list.is_empty()),
                ),
                ("application", shared.application.is_some()),
            ];
            for (name, _) in scripts.iter().filter(|(_, given)| *given) {
                self.shell.push((node.clone(), field(name)));
            }
            for (name, given) in [
                ("tests", !object.tests().is_empty()),
                ("health", object.health().is_some()),
            ] {
                if given {
                    self.shell.push((node.clone(), format!("{}: spec.{name}", object.key)));
                }
            }
        }
    }

    fn storage(
        &mut self,
        node: &Where,
        field: String,
        storage: Option<&String>,
        contents: &[&'static str],
        keeps: bool,
    ) {
        if let Some(storage) = storage {
            let named = Named {
                field,
                storage: storage.clone(),
                contents: contents.to_vec(),
                keeps,
            };
            self.storages.push((node.clone(), named));
        }
    }

    fn add_container(
        &mut self,
        object: &GuestObject,
        defaults: &crate::crd::Defaults,
        node: &Where,
        field: &dyn Fn(&str) -> String,
    ) {
        let Some(lxc) = object.lxc() else { return };
        if let Some(rootfs) = &lxc.rootfs {
            let storage = rootfs.storage.as_ref().or(defaults.rootfs_storage.as_ref());
            self.storage(node, field("rootfs.storage"), storage, &["rootdir"], true);
        }
        if let GuestSpec::Lxc(spec) = &object.spec {
            for volume in spec.volumes.iter().flatten().filter(|v| v.volid.is_none()) {
                let storage = volume.storage.as_ref().or(defaults.volume_storage.as_ref());
                let name = field(&format!("volumes[{}].storage", volume.name));
                self.storage(node, name, storage, &["rootdir"], true);
            }
        }
        if let Some(image) = lxc.source.as_ref().and_then(|source| source.image.as_ref()) {
            let storage = image.storage.clone().or_else(|| defaults.image_storage.clone());
            if let Some((storage, name)) = image.volid.as_deref().and_then(|v| v.split_once(":vztmpl/")) {
                self.image(node, field("source.image.volid"), Some(storage.into()), name, "vztmpl");
            } else if image.volid.is_none() {
                self.storage(
                    node,
                    field("source.image.storage"),
                    storage.as_ref(),
                    &["vztmpl"],
                    false,
                );
                if let Some(name) = &image.appliance {
                    self.image(node, field("source.image.appliance"), storage, name, "vztmpl");
                    if let Some(last) = self.images.last_mut() {
                        last.downloaded = true;
                    }
                }
            }
        }
        let asked = |list: bool, name: &str| list.then(|| field(name));
        let raw = lxc.lxc_options.as_ref().is_some_and(|list| !list.is_empty());
        let cards = lxc.gpus.as_ref().is_some_and(|list| !list.is_empty());
        self.shell.extend(
            [asked(raw, "lxcOptions"), asked(lxc.vllm.is_some(), "vllm")]
                .into_iter()
                .flatten()
                .map(|name| (node.clone(), name)),
        );
        self.cards.extend(asked(cards, "gpus").map(|name| (node.clone(), name)));
        self.modify
            .extend(asked(lxc.unprivileged == Some(false), "unprivileged"));
    }

    fn add_machine(
        &mut self,
        object: &GuestObject,
        defaults: &crate::crd::Defaults,
        node: &Where,
        field: &dyn Fn(&str) -> String,
    ) {
        let Some(vm) = object.vm() else { return };
        for disk in vm.disks.iter().flatten() {
            let storage = disk.storage.as_ref().or(defaults.disk_storage.as_ref());
            let name = field(&format!("disks[{}].storage", disk.name));
            self.storage(node, name, storage, &["images"], true);
        }
        let extra = [
            ("efiDisk.storage", vm.efi_disk.as_ref().and_then(|d| d.storage.as_ref())),
            ("tpm.storage", vm.tpm.as_ref().and_then(|t| t.storage.as_ref())),
            (
                "cloudInit.storage",
                vm.cloud_init.as_ref().and_then(|c| c.storage.as_ref()),
            ),
        ];
        for (name, storage) in extra {
            self.storage(node, field(name), storage, &["images"], true);
        }
        let snippets = vm.cloud_init.as_ref().and_then(|c| c.snippet_storage.as_ref());
        self.storage(node, field("cloudInit.snippetStorage"), snippets, &["snippets"], false);
        if let Some(image) = vm.source.as_ref().and_then(|source| source.cloud_image.as_ref()) {
            let storage = image.storage.as_ref().or(defaults.image_storage.as_ref());
            match image.volid.as_deref().and_then(|v| v.split_once(":import/")) {
                Some((storage, name)) => self.image(
                    node,
                    field("source.cloudImage.volid"),
                    Some(storage.into()),
                    name,
                    "import",
                ),
                None => self.storage(node, field("source.cloudImage.storage"), storage, &["import"], false),
            }
        }
        let lists = [(
            "pci",
            vm.pci
                .iter()
                .flatten()
                .filter_map(|p| p.mapping.as_ref())
                .collect::<Vec<_>>(),
        )];
        let usb = vm.usb.iter().flatten().filter_map(|u| u.mapping.as_ref()).collect();
        for (sort, names) in lists.into_iter().chain([("usb", usb)]) {
            for name in names {
                self.mappings.push((format!("{sort}/{name}"), field(sort)));
            }
        }
        if vm
            .shared
            .boot
            .as_ref()
            .is_some_and(|boot| boot.order.is_some() || boot.up_delay.is_some() || boot.down_delay.is_some())
        {
            self.modify.push(field("boot"));
        }
    }

    fn image(&mut self, node: &Where, field: String, storage: Option<String>, name: &str, content: &'static str) {
        self.images.push(Image {
            field,
            node: node.clone(),
            storage,
            name: name.into(),
            downloaded: false,
            content,
        });
    }

    /// Storages whose files are listed: those that images are on or downloaded to, and their content.
    pub fn listed(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut listed: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        for image in &self.images {
            if let Some(storage) = &image.storage {
                let contents = listed.entry(storage.clone()).or_default();
                if !contents.contains(&image.content) {
                    contents.push(image.content);
                }
            }
        }
        listed
    }
}
