//! Legacy JSON files to manifests, and a report that accounts for every value of the input. Text in, text out.
//!
//! ```text
//! bytes ─► json ─► guests (ids, names, parents) ─► lxc, vm, hypervisor ─► checks ─► emit
//!                  every reading claims its value in the ledger ─────────────────► report
//! ```

mod bundle;
mod checks;
mod cloud_init;
mod config_files;
mod conversion;
pub(crate) mod emit;
mod expose;
mod facts;
mod features;
mod firewall;
mod form;
mod guests;
mod host;
mod hypervisor;
mod id_maps;
mod json;
mod keys;
mod ledger;
mod lxc;
pub mod markdown;
mod model_servers;
mod names;
mod network;
mod options;
pub mod report;
mod routing;
mod scripts;
mod secrets;
mod storage;
pub(crate) mod values;
mod vllm;
mod vm;
mod vm_source;
mod writer;

use std::collections::BTreeMap;

use conversion::Conversion;
use facts::Facts;
use guests::Guests;
use json::{At, Node};
use ledger::Ledger;
use lxc::Fleet;
use report::{Report, Severity};
use scripts::Scripts;

pub use routing::Routing;

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
    /// Whether templates become Proxmox templates where clones of them can be linked.
    pub linked_clones: bool,
    /// Whether passwords, hashes and tokens of the files are copied into the Secrets that are written.
    pub copy_secrets: bool,
    /// What is written for host names.
    pub routing: Routing,
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
    ledger.secrets.copy = options.copy_secrets;
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
    let config_files = config_files::config_files(inputs, &files, &roots, &roles, options, &mut ledger);
    let scripts = Scripts::new(options.applications.as_ref(), config_files);
    let mut conversion = Conversion::new(scripts, ledger, options);
    let fleet = Fleet {
        guests: &guests,
        facts: &facts,
        roots: &roots,
        hypervisor: &options.hypervisor_name,
        linked_clones: options.linked_clones,
    };
    let image = conversion.guests(&fleet, &files);
    match hypervisor {
        Some(root) => conversion.hypervisor(root, &fleet, image, &files),
        None => conversion.no_hypervisor(&roots),
    }
    conversion.check(&fleet);
    conversion.scripts(&roots);
    Ok(conversion.finish(&files, &roots))
}

/// Names of the files, and what is in them.
type Read = (Vec<String>, Vec<(Node, Role)>);

/// Parses the files; the same file given twice is read once.
fn read(inputs: &[Input]) -> Result<Read, Vec<Unreadable>> {
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
