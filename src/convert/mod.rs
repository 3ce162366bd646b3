//! Legacy JSON files to manifests, and a report that accounts for every value of the input. Text in, text out.
//!
//! ```text
//! bytes ─► json ─► guests (ids, names, parents) ─► lxc, vm, hypervisor ─► checks ─► emit
//!                  every reading claims its value in the ledger ─────────────────► report
//! ```

mod checks;
mod emit;
mod facts;
mod features;
mod guests;
mod host;
mod hypervisor;
pub mod json;
mod ledger;
mod lxc;
mod names;
mod network;
mod options;
pub mod report;
mod scripts;
mod storage;
pub mod values;
mod vllm;
mod vm;
mod writer;

use std::collections::BTreeMap;

use facts::Facts;
use guests::Guests;
use json::{At, Node};
use ledger::Ledger;
use lxc::{Fleet, GuestManifest};
use report::{Report, Severity};
use scripts::Scripts;
use writer::Writer;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `phoenix_hypervisor_config.json`
    Hypervisor,
    /// `phoenix_lxc_configs.json`
    Lxc,
    /// `phoenix_vm_configs.json`
    Vm,
}

/// A legacy file.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name, as it was given.
    pub file: String,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// What it is.
    pub role: Role,
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the objects; without it they go where they are applied.
    pub namespace: Option<String>,
    /// Name of the PhoenixHypervisor.
    pub hypervisor_name: String,
    /// Files of the applications folder by relative path.
    pub applications: Option<BTreeMap<String, Vec<u8>>>,
}

/// The result of a conversion.
#[derive(Clone, Debug)]
pub struct Output {
    /// Texts by file name.
    pub files: BTreeMap<String, String>,
    /// What became of the input.
    pub report: Report,
}

/// A file that is no legacy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct Unreadable {
    /// The file.
    pub file: String,
    /// Why.
    pub reason: String,
}

/// Converts legacy files.
///
/// # Errors
/// With every file that cannot be read; nothing is converted then.
pub fn convert(inputs: &[Input], options: &Options) -> Result<Output, Vec<Unreadable>> {
    let mut ledger = Ledger::default();
    let (files, nodes) = read(inputs)?;
    let roots: Vec<At> = nodes
        .iter()
        .enumerate()
        .map(|(n, (node, _))| At::root(n, node))
        .collect();
    let roles: Vec<Role> = nodes.iter().map(|(_, role)| *role).collect();
    roots.iter().for_each(|root| note_repeated(root, &mut ledger));
    let guests = collect_guests(&roots, &roles, &mut ledger);
    let hypervisor = roots
        .iter()
        .zip(&roles)
        .find(|(_, role)| **role == Role::Hypervisor)
        .map(|(root, _)| root);
    let facts = hypervisor
        .map(|root| Facts::read(root, &mut ledger))
        .unwrap_or_default();
    let config_files = config_files(&roots, &roles, options, &mut ledger);
    let mut conversion = Conversion {
        files: BTreeMap::new(),
        scripts: Scripts::new(options.applications.as_ref(), config_files),
        seen: checks::Seen::default(),
        ledger,
        options,
    };
    let fleet = Fleet {
        guests: &guests,
        facts: &facts,
        roots: &roots,
        hypervisor: &options.hypervisor_name,
    };
    let image = conversion.guests(&fleet, &files);
    match hypervisor {
        Some(root) => conversion.hypervisor(root, &fleet, image, &files),
        None => conversion.no_hypervisor(&roots),
    }
    conversion
        .seen
        .check(&guests, facts.address.as_ref(), &mut conversion.ledger);
    conversion.scripts(&roots);
    Ok(conversion.finish(&files, &roots))
}

/// Parses the files; the same file given twice is read once.
/// Names of the files, and their trees with what each is for.
type Trees = (Vec<String>, Vec<(Node, Role)>);

fn read(inputs: &[Input]) -> Result<Trees, Vec<Unreadable>> {
    let mut files: Vec<String> = Vec::new();
    let mut nodes = Vec::new();
    let mut unreadable = Vec::new();
    for input in inputs {
        if files.contains(&input.file) {
            continue;
        }
        let reason = match json::parse(&input.bytes) {
            Ok(node @ Node::Object(_)) => {
                files.push(input.file.clone());
                nodes.push((node, input.role));
                continue;
            }
            Ok(other) => format!("the top of the file is {}, not an object", other.show()),
            Err(reason) => reason,
        };
        unreadable.push(Unreadable {
            file: input.file.clone(),
            reason,
        });
    }
    if unreadable.is_empty() {
        Ok((files, nodes))
    } else {
        Err(unreadable)
    }
}

fn note_repeated(root: &At, ledger: &mut Ledger) {
    root.walk(&mut |at| {
        let Node::Object(object) = at.node else { return };
        for key in &object.repeated {
            if let Some(value) = at.get(key) {
                let message = format!("key {key:?} stands more than once in one object; the last value counts");
                ledger.find(Severity::Warning, &value, message, "keep one of them");
            }
        }
    });
}

fn collect_guests<'a>(roots: &[At<'a>], roles: &[Role], ledger: &mut Ledger) -> Guests<'a> {
    let mut guests = Guests::default();
    for (root, role) in roots.iter().zip(roles) {
        let sections = [("lxc_configs", false), ("vms", true)];
        let mut found = false;
        for (key, is_vm) in sections {
            if let Some(section) = root.get(key) {
                found = true;
                guests.add_section(&section, is_vm, ledger);
            }
        }
        if found || *role == Role::Hypervisor {
            continue;
        }
        // Some files hold the guests at the top, keyed by id.
        let is_guest = |(key, at): &(&str, At)| values::guest_id(key).is_some() && matches!(at.node, Node::Object(_));
        let keyed: Vec<_> = root.entries().into_iter().filter(is_guest).collect();
        let wanted = if *role == Role::Lxc { "lxc_configs" } else { "vms" };
        if keyed.is_empty() {
            ledger.find(
                Severity::Warning,
                root,
                format!("no {wanted} in this file"),
                "check that it is the right file",
            );
        }
        for (key, at) in keyed {
            guests.add_keyed(key, at, *role == Role::Vm, ledger);
        }
    }
    guests.settle(ledger);
    guests
}

/// The legacy files as application scripts expect them beside themselves, without secrets.
fn config_files(roots: &[At], roles: &[Role], options: &Options, ledger: &mut Ledger) -> Vec<(String, String)> {
    if options.applications.is_none() {
        return Vec::new();
    }
    let names = [
        (Role::Hypervisor, "phoenix_hypervisor_config.json"),
        (Role::Lxc, "phoenix_lxc_configs.json"),
        (Role::Vm, "phoenix_vm_configs.json"),
    ];
    let mut out = Vec::new();
    for (role, name) in names {
        let mut of_role = roots
            .iter()
            .zip(roles)
            .filter(|(_, r)| **r == role)
            .map(|(root, _)| root);
        let Some(root) = of_role.next() else { continue };
        if let Some(second) = of_role.next() {
            let message = format!("application scripts read one {name}; they get the first of the given files");
            ledger.find(Severity::Warning, second, message, "merge the files");
        }
        let mut json = root.node.to_json();
        if blank_secrets(&mut json, "") {
            let message = format!("{name} holds secrets; the copy that application scripts get has them blank");
            ledger.find(
                Severity::Warning,
                root,
                message,
                "give scripts their secrets through Secrets",
            );
        }
        match serde_json::to_string_pretty(&json) {
            Ok(text) if text.len() <= scripts::LARGEST => out.push((name.to_owned(), text + "\n")),
            _ => {
                let message = format!("{name} is too large for a ConfigMap; application scripts do not get it");
                ledger.find(
                    Severity::Warning,
                    root,
                    message,
                    "split the fleet, or rewrite the scripts",
                );
            }
        }
    }
    out
}

/// Blanks values of keys that hold secrets; true if there were any. Paths of files that hold secrets are none.
fn blank_secrets(value: &mut serde_json::Value, key: &str) -> bool {
    use serde_json::Value;
    match value {
        Value::Object(map) => map
            .iter_mut()
            .fold(false, |any, (key, value)| blank_secrets(value, key) | any),
        Value::Array(items) => items
            .iter_mut()
            .fold(false, |any, value| blank_secrets(value, key) | any),
        Value::String(text) => {
            let key = key.to_ascii_lowercase();
            let named = [
                "password",
                "passwd",
                "secret",
                "token",
                "api_key",
                "apikey",
                "private_key",
            ];
            let secret = named.iter().any(|n| key.contains(n)) && !text.is_empty();
            let secret = secret && text != "NOT_SET" && !text.starts_with('/');
            if secret {
                text.clear();
            }
            secret
        }
        _ => false,
    }
}

/// A conversion under way.
struct Conversion<'a, 'o> {
    files: BTreeMap<String, String>,
    scripts: Scripts,
    seen: checks::Seen<'a>,
    ledger: Ledger,
    options: &'o Options,
}

impl<'a> Conversion<'a, '_> {
    /// Maps all guests; the first image of a container is handed back.
    fn guests(&mut self, fleet: &Fleet<'_, 'a>, files: &[String]) -> Option<String> {
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
            match manifest {
                Some(GuestManifest::Lxc(lxc)) => self.write(&object, *lxc, &origin, &guest.at),
                Some(GuestManifest::Template(template)) => self.write(&object, *template, &origin, &guest.at),
                Some(GuestManifest::Vm(vm)) => self.write(&object, *vm, &origin, &guest.at),
                None => self.ledger.refuse(&object, "it could not be mapped"),
            }
        }
        for defaults in &vm_defaults {
            for key in [
                "template",
                "cores",
                "memory_mb",
                "disk_size_gb",
                "storage_pool",
                "network_bridge",
            ] {
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

    fn hypervisor(&mut self, root: &At<'a>, fleet: &Fleet<'_, 'a>, image: Option<String>, files: &[String]) {
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
        let name = &self.options.hypervisor_name;
        let manifest = hypervisor::hypervisor(&mut w, root, name, fleet.facts, fleet.guests, image);
        let origin = format!("hypervisor of {}", base_name(files.get(root.file)));
        self.write(&object, manifest, &origin, root);
    }

    fn no_hypervisor(&mut self, roots: &[At]) {
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

    fn scripts(&mut self, roots: &[At]) {
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
            let message = format!("script {path:?} of the applications folder is named by nothing, and is not carried");
            self.ledger
                .find(Severity::Info, root, message, "nothing, if nothing needs it");
        }
    }

    fn write<K>(&mut self, object: &str, mut manifest: K, origin: &str, at: &At)
    where
        K: serde::Serialize + kube::ResourceExt,
    {
        manifest.meta_mut().namespace.clone_from(&self.options.namespace);
        let (kind, name) = object.split_once('/').unwrap_or(("", object));
        match emit::manifest(&manifest, origin) {
            Ok(text) => drop(
                self.files
                    .insert(format!("{}-{name}.yaml", kind.to_ascii_lowercase()), text),
            ),
            Err(error) => {
                self.ledger.refuse(object, "it could not be written");
                self.ledger.find(
                    Severity::Error,
                    at,
                    format!("{object} could not be written: {error}"),
                    "report this",
                );
            }
        }
    }

    fn finish(mut self, files: &[String], roots: &[At]) -> Output {
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

fn image_of(lxc: &crate::crd::LxcGuest) -> Option<String> {
    lxc.source.as_ref()?.image.as_ref()?.volid.clone()
}

fn base_name(file: Option<&String>) -> &str {
    file.map_or("", |f| f.rsplit('/').next().unwrap_or(f))
}
