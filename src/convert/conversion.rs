//! A conversion under way: each object is mapped, judged and written, and the rest of the files accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::admission::Admission;
use crate::crd::{Expose, SHARED_ADDRESS};
use crate::desired::{GuestObject, conflicts};

use super::guests::Guest;
use super::json::At;
use super::ledger::Ledger;
use super::lxc::{Fleet, GuestManifest};
use super::report::Severity;
use super::routing::{Routing, host};
use super::scripts::Scripts;
use super::writer::Writer;
use super::{Options, Output, checks, emit, form, hypervisor, lxc, vm};

/// A conversion under way.
pub struct Conversion<'a, 'o> {
    files: BTreeMap<String, String>,
    scripts: Scripts,
    seen: checks::Seen<'a>,
    ledger: Ledger,
    options: &'o Options,
    /// Addresses and MACs of the guests that were written.
    addresses: BTreeSet<String>,
}

impl<'a, 'o> Conversion<'a, 'o> {
    /// Nothing is mapped yet.
    pub fn new(scripts: Scripts, ledger: Ledger, options: &'o Options) -> Self {
        Conversion {
            files: BTreeMap::new(),
            scripts,
            seen: checks::Seen::default(),
            ledger,
            options,
            addresses: BTreeSet::new(),
        }
    }

    /// Looks for what does not go together among the guests.
    pub fn check(&mut self, fleet: &Fleet<'_, 'a>) {
        self.seen
            .check(fleet.guests, fleet.facts.address.as_ref(), &mut self.ledger);
        form::suggest(fleet, &mut self.ledger);
    }

    /// Maps all guests; the first image of a container is handed back.
    pub fn guests(&mut self, fleet: &Fleet<'_, 'a>, files: &[String]) -> Option<String> {
        let vm_defaults: Vec<At> = fleet.roots.iter().filter_map(|root| root.get("vm_defaults")).collect();
        let mut image = None;
        for (index, guest) in fleet.guests.list.iter().enumerate() {
            let object = guest.object();
            self.ledger.scope(&guest.at, &object);
            if self.ledger.is_refused(&object) {
                continue;
            }
            let mut w = Writer {
                ledger: &mut self.ledger,
                object: object.clone(),
                prefix: guest.prefix(),
                label: guest.label(),
            };
            let own = vm_defaults
                .iter()
                .find(|d| d.file == guest.at.file)
                .or(vm_defaults.first());
            let manifest = if guest.is_vm {
                vm::machine(&mut w, index, own, fleet, &mut self.scripts, &mut self.seen)
            } else {
                lxc::container(&mut w, index, fleet, &mut self.scripts, &mut self.seen)
            };
            if let Some(GuestManifest::Template(template)) = &manifest {
                image = image.or_else(|| template.spec.lxc.as_ref().and_then(image_of));
            } else if let Some(GuestManifest::Lxc(lxc)) = &manifest {
                image = image.or_else(|| image_of(&lxc.spec.guest));
            }
            let origin = format!("{} of {}", guest.label(), base_name(files.get(guest.at.file)));
            let port = manifest.as_ref().and_then(GuestManifest::first_port);
            match manifest {
                Some(GuestManifest::Lxc(mut lxc)) => {
                    self.share(GuestObject::from(lxc.as_ref()), &mut lxc.metadata);
                    self.write(&object, *lxc, &origin, &guest.at);
                }
                Some(GuestManifest::Template(template)) => self.write(&object, *template, &origin, &guest.at),
                Some(GuestManifest::Vm(mut vm)) => {
                    self.share(GuestObject::from(vm.as_ref()), &mut vm.metadata);
                    self.write(&object, *vm, &origin, &guest.at);
                }
                None => self.ledger.refuse(&object, "it could not be mapped"),
            }
            if let Some(port) = port.filter(|_| !self.ledger.is_refused(&object)) {
                self.route(guest, &port, fleet.roots, &origin);
            }
        }
        for defaults in &vm_defaults {
            for key in vm::DEFAULTS {
                if let Some(at) = defaults.get(key) {
                    self.ledger.not_mapped(&at, "every machine says it itself");
                }
            }
        }
        for root in fleet.roots {
            self.top_level(root);
        }
        image
    }

    /// Writes what leads a host name to a guest's Service.
    fn route(&mut self, guest: &Guest<'a>, port: &Expose, roots: &[At<'a>], origin: &str) {
        let routing = self.options.routing;
        let Some((host, places)) = host(&guest.at, roots).filter(|_| routing != Routing::None) else {
            return;
        };
        let object = format!("{}/{}", routing.kind(), guest.name);
        let manifest = routing.manifest(&guest.name, &host, port, self.options.namespace.as_deref());
        if let Ok(text) = emit::manifest(&manifest, origin) {
            let file = format!("{}-{}.yaml", routing.kind().to_ascii_lowercase(), guest.name);
            self.files.insert(file, text);
            for at in &places {
                self.ledger.mapped(at, &object, routing.host_path(), "");
            }
        }
    }

    /// A guest with an address of an earlier one runs beside it as it did, though that is told: else one of the two would
    /// wait for the other for ever.
    fn share(&mut self, object: GuestObject, metadata: &mut ObjectMeta) {
        let own = conflicts::addresses(&object);
        if !self.addresses.is_disjoint(&own) {
            let annotations = metadata.annotations.get_or_insert_default();
            annotations.insert(SHARED_ADDRESS.into(), "true".into());
        }
        self.addresses.extend(own);
    }

    /// Keys at the top of a file of guests that have no field.
    fn top_level(&mut self, root: &At) {
        let known = [
            ("$schema", "schema of the legacy file"),
            ("nvidia_repo_url", "the feature nvidia takes the runfile, not packages"),
            ("nvidia_driver_version", "no guest has the feature nvidia"),
            ("nvidia_runfile_url", "no guest has the feature nvidia"),
        ];
        for (key, why) in known {
            if let Some(at) = root.get(key) {
                self.ledger.not_mapped(&at, why);
            }
        }
    }

    /// Maps the hypervisor file.
    pub fn hypervisor(&mut self, root: &At<'a>, fleet: &Fleet<'_, 'a>, image: Option<String>, files: &[String]) {
        let object = format!("PhoenixHypervisor/{}", self.options.hypervisor_name);
        for (key, at) in root.entries() {
            if !["lxc_configs", "vms", "vm_defaults"].contains(&key) {
                self.ledger.scope(&at, &object);
            }
        }
        let mut w = Writer {
            ledger: &mut self.ledger,
            object: object.clone(),
            prefix: "spec.",
            label: "hypervisor".into(),
        };
        let manifest = hypervisor::hypervisor(&mut w, root, self.options, fleet.facts, fleet.guests, image);
        let origin = format!("hypervisor of {}", base_name(files.get(root.file)));
        self.write(&object, manifest, &origin, root);
    }

    /// Says that there is no hypervisor file.
    pub fn no_hypervisor(&mut self, roots: &[At]) {
        if let Some(root) = roots.first() {
            let name = &self.options.hypervisor_name;
            let message =
                format!("no hypervisor file: the objects name PhoenixHypervisor {name:?}, which is not written");
            self.ledger.find(
                Severity::Warning,
                root,
                message,
                "convert with --hypervisor-config, or write it by hand",
            );
        }
    }

    /// Writes the ConfigMaps of what the guests use of the applications folder.
    pub fn scripts(&mut self, roots: &[At]) {
        let namespace = self.options.namespace.as_deref();
        let bundles = [
            (&self.scripts.applications, "application scripts of the legacy managers"),
            (&self.scripts.tests, "tests of the legacy managers"),
            (&self.scripts.config, "the legacy files, which application scripts read"),
        ];
        let Some(root) = roots.first() else { return };
        for (bundle, origin) in bundles {
            for map in bundle.maps() {
                match emit::config_map(map, namespace, origin) {
                    Ok(text) => drop(self.files.insert(format!("configmap-{}.yaml", map.name), text)),
                    Err(error) => {
                        let message = format!("ConfigMap {} could not be written: {error}", map.name);
                        self.ledger.find(Severity::Error, root, message, "report this");
                    }
                }
            }
        }
        if self.scripts.carried() > 1 << 20 {
            let message =
                "the scripts are more than 1 MiB in all, the most that one ConfigMap holds: several are written";
            self.ledger.find(
                Severity::Warning,
                root,
                message,
                "leave out of the folder what no guest needs",
            );
        }
        for path in self.scripts.unused() {
            let message =
                format!("script {path:?} of the applications folder is named by no guest, and is not carried");
            self.ledger
                .find(Severity::Info, root, message, "nothing, if no guest needs it");
        }
    }

    fn write<K>(&mut self, object: &str, mut manifest: K, origin: &str, at: &At)
    where
        K: serde::Serialize + kube::ResourceExt,
    {
        manifest.meta_mut().namespace.clone_from(&self.options.namespace);
        match judged(&manifest, origin) {
            Ok(text) => {
                let (kind, name) = object.split_once('/').unwrap_or(("", object));
                self.files
                    .insert(format!("{}-{name}.yaml", kind.to_ascii_lowercase()), text);
            }
            Err(why) => {
                self.ledger.refuse(object, &why);
                let message = format!("{object} is not a valid object: {why}");
                self.ledger.find(
                    Severity::Error,
                    at,
                    message,
                    "correct the value, or write the object by hand",
                );
            }
        }
    }

    /// Closes the books and lists the files.
    pub fn finish(mut self, files: &[String], roots: &[At]) -> Output {
        let secrets = self.ledger.secrets.manifests(self.options.namespace.as_deref());
        self.files.extend(secrets);
        let report = self.ledger.report(files, roots);
        if let Ok(text) = emit::kustomization(self.files.keys()) {
            self.files.insert("kustomization.yaml".into(), text);
        }
        Output {
            files: self.files,
            report,
        }
    }
}

/// The text of a manifest that the API server would take.
fn judged(manifest: &impl serde::Serialize, origin: &str) -> Result<String, String> {
    static ADMISSION: OnceLock<Option<Admission>> = OnceLock::new();
    let value = serde_json::to_value(manifest).map_err(|e| e.to_string())?;
    if let Some(admission) = ADMISSION.get_or_init(|| Admission::new().ok()) {
        admission.check(&value, None).map_err(|violations| {
            let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
            texts.join("; ")
        })?;
    }
    emit::text(manifest, &value, origin).map_err(|e| e.to_string())
}

fn image_of(lxc: &crate::crd::LxcGuest) -> Option<String> {
    lxc.source.as_ref()?.image.as_ref()?.volid.clone()
}

fn base_name(file: Option<&String>) -> &str {
    file.map_or("", |f| f.rsplit('/').next().unwrap_or(f))
}
