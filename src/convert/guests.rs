//! The guests of all files: their ids, names and kinds, and what they are cloned from.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{GuestKind, TemplateForm};

use super::json::{At, Node};
use super::ledger::Ledger;
use super::report::Severity;
use super::{names, values};

/// A container or virtual machine of the input.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// Its id on Proxmox.
    pub id: i64,
    /// Whether it is a virtual machine.
    pub is_vm: bool,
    /// Its configuration.
    pub at: At<'a>,
    /// The id, where it stands as a value.
    pub id_at: Option<At<'a>>,
    /// Its name in the file.
    pub legacy_name: Option<String>,
    /// Name of its object.
    pub name: String,
    /// Kind of its object.
    pub kind: GuestKind,
    /// How a template is kept, and its snapshot.
    pub form: Option<(TemplateForm, Option<String>)>,
    /// Where the file says what it is cloned from.
    pub parent_at: Option<At<'a>>,
    /// Index of the guest that it is cloned from.
    pub parent: Option<usize>,
}

impl Guest<'_> {
    /// The object, `Kind/name`.
    pub fn object(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.name)
    }

    /// The guest in messages.
    pub fn label(&self) -> String {
        format!("{} {}", if self.is_vm { "machine" } else { "container" }, self.id)
    }

    /// Where the guest's fields stand in its object.
    pub fn prefix(&self) -> &'static str {
        match (self.kind, self.is_vm) {
            (GuestKind::PhoenixTemplate, false) => "spec.lxc.",
            (GuestKind::PhoenixTemplate, true) => "spec.vm.",
            _ => "spec.",
        }
    }

    /// The first of `names` that is set.
    fn set(&self, names: &[&str]) -> Option<At<'_>> {
        names
            .iter()
            .filter_map(|n| self.at.get(n))
            .find(|at| !values::is_unset(at.node))
    }
}

/// All guests, in the order of the files.
#[derive(Debug, Default)]
pub struct Guests<'a> {
    /// The guests.
    pub list: Vec<Guest<'a>>,
    /// Index by id.
    by_id: BTreeMap<i64, usize>,
    /// Every id that the files name, also of guests that are not written.
    pub ids: BTreeSet<i64>,
}

/// Keys that name what a guest is cloned from.
pub const CLONE_KEYS: &[&str] = &[
    "clone_from_ctid",
    "clone_from_vmid",
    "clone_from_template_ctid",
    "clone_from",
];
const LXC_ID_KEYS: &[&str] = &["ctid", "vmid", "id"];
const VM_ID_KEYS: &[&str] = &["vmid", "id"];

impl<'a> Guests<'a> {
    /// The guest with this id.
    pub fn find(&self, id: i64) -> Option<&Guest<'a>> {
        self.by_id.get(&id).and_then(|n| self.list.get(*n))
    }

    /// A guest and what it is cloned from, nearest first.
    pub fn lineage(&self, guest: usize) -> Vec<&Guest<'a>> {
        let mut chain = Vec::new();
        let mut next = Some(guest);
        while let Some(guest) = next.and_then(|n| self.list.get(n)) {
            // Cycles are refused before, but this must end whatever happens.
            if chain.len() > self.list.len() {
                break;
            }
            chain.push(guest);
            next = guest.parent;
        }
        chain
    }

    /// Takes the guests that stand at `section` in: an object keyed by id, or a list.
    pub fn add_section(&mut self, section: &At<'a>, is_vm: bool, ledger: &mut Ledger) {
        let what = if is_vm { "machine" } else { "container" };
        match section.node {
            Node::Object(_) => {
                for (key, at) in section.entries() {
                    self.add_keyed(key, at, is_vm, ledger);
                }
            }
            Node::Array(_) => {
                for at in section.items() {
                    self.add_listed(at, is_vm, what, ledger);
                }
            }
            _ => {
                ledger.not_mapped(section, "holds no guests");
                let message = format!("{} is neither an object nor a list", section.key());
                ledger.find(Severity::Warning, section, message, "put the guests there, keyed by id");
            }
        }
    }

    /// Takes a guest that stands under its id.
    pub fn add_keyed(&mut self, key: &str, at: At<'a>, is_vm: bool, ledger: &mut Ledger) {
        let what = if is_vm { "machine" } else { "container" };
        let keys = if is_vm { VM_ID_KEYS } else { LXC_ID_KEYS };
        let inner = keys.iter().find_map(|k| at.get(k));
        let inner_id = inner.as_ref().and_then(|i| values::guest_id_of(i.node));
        let Some(id) = values::guest_id(key).or(inner_id) else {
            let message = format!("{what} {key:?}: its key is not an id from 100 to 999999999");
            return refuse_at(&at, &message, "give it a free id", ledger);
        };
        if let Some(inner) = inner.as_ref().filter(|_| inner_id != Some(id)) {
            let message = format!(
                "{what} {id}: {} {} contradicts the id that it stands under",
                inner.key(),
                inner.node.show()
            );
            ledger.not_mapped(inner, "the id that the guest stands under counts");
            ledger.find(Severity::Warning, inner, message, format!("make it {id}, or remove it"));
        }
        self.add(id, inner.filter(|_| inner_id == Some(id)), at, is_vm, what, ledger);
    }

    fn add_listed(&mut self, at: At<'a>, is_vm: bool, what: &str, ledger: &mut Ledger) {
        let keys = if is_vm { VM_ID_KEYS } else { LXC_ID_KEYS };
        let id_at = keys.iter().find_map(|k| at.get(k));
        match id_at.as_ref().and_then(|i| values::guest_id_of(i.node)) {
            Some(id) => self.add(id, id_at, at, is_vm, what, ledger),
            None => {
                let message = format!(
                    "{what} without a valid id: {} is needed, from 100 to 999999999",
                    keys.join(" or ")
                );
                refuse_at(&at, &message, "give it a free id", ledger);
            }
        }
    }

    fn add(&mut self, id: i64, id_at: Option<At<'a>>, at: At<'a>, is_vm: bool, what: &str, ledger: &mut Ledger) {
        self.ids.insert(id);
        if !matches!(at.node, Node::Object(_)) {
            let message = format!("{what} {id}: its configuration is {}, not an object", at.node.show());
            return refuse_at(&at, &message, "write its configuration, or remove the id", ledger);
        }
        if let Some(first) = self.find(id) {
            let place = format!("{} at {}", first.label(), first.at.pointer);
            if first.at.node == at.node && first.is_vm == is_vm {
                ledger.not_mapped(&at, &format!("the same as {place}"));
                let message = format!("{what} {id}: id {id} stands twice, with equal content");
                ledger.find(Severity::Info, &at, message, "nothing: it is written once");
                return;
            }
            let message = format!("{what} {id}: id {id} is taken by {place}; only that one is written");
            return refuse_at(&at, &message, "give one of them another id, or remove it", ledger);
        }
        self.by_id.insert(id, self.list.len());
        self.list.push(Guest {
            id,
            is_vm,
            id_at,
            legacy_name: None,
            name: String::new(),
            kind: if is_vm {
                GuestKind::PhoenixVM
            } else {
                GuestKind::PhoenixLXC
            },
            form: None,
            parent_at: None,
            parent: None,
            at,
        });
    }

    /// Settles kinds, names and parents once all guests are known.
    pub fn settle(&mut self, ledger: &mut Ledger) {
        for n in 0..self.list.len() {
            let guest = &self.list[n];
            let key = CLONE_KEYS.iter().find_map(|k| guest.at.get(k));
            let key = key.filter(|at| !values::is_unset(at.node) && values::text(at.node).as_deref() != Some("none"));
            let parent = key
                .as_ref()
                .and_then(|at| values::guest_id_of(at.node))
                .and_then(|id| self.by_id.get(&id));
            self.list[n].parent = parent.copied();
            self.list[n].parent_at = key;
        }
        let cloned: BTreeSet<usize> = self.list.iter().filter_map(|g| g.parent).collect();
        for (n, guest) in self.list.iter_mut().enumerate() {
            settle_form(guest, cloned.contains(&n), ledger);
        }
        self.settle_names(ledger);
        self.refuse_cycles(ledger);
        self.settle_parents(ledger);
    }

    fn settle_names(&mut self, ledger: &mut Ledger) {
        let mut used = BTreeSet::new();
        for guest in &mut self.list {
            let named = guest.set(&["name", "hostname"]);
            let legacy = named.as_ref().and_then(|at| values::text(at.node));
            let place = named.map_or_else(|| (guest.at.file, guest.at.pointer.clone()), |at| (at.file, at.pointer));
            let fallback = format!("{}-{}", if guest.is_vm { "vm" } else { "lxc" }, guest.id);
            let wanted = legacy.as_deref().and_then(names::object_name).unwrap_or(fallback);
            guest.name = names::unique(&mut used, wanted, &guest.id.to_string());
            let at = At {
                file: place.0,
                pointer: place.1,
                node: guest.at.node,
            };
            let label = guest.label();
            match &legacy {
                Some(legacy) if *legacy == guest.name => {}
                Some(legacy) => ledger.find(
                    Severity::Info,
                    &at,
                    format!("{label}: {legacy:?} became the object name {:?}", guest.name),
                    "nothing: names of Kubernetes objects are lower-case and unique",
                ),
                None => ledger.find(
                    Severity::Info,
                    &at,
                    format!("{label}: it has no name; its object is {:?}", guest.name),
                    "give it a name, if you want another one",
                ),
            }
            guest.legacy_name = legacy;
        }
    }

    /// Refuses the guests of clone cycles. Each guest has at most one parent, so three colours on the way up do.
    fn refuse_cycles(&mut self, ledger: &mut Ledger) {
        let mut done = vec![false; self.list.len()];
        for start in 0..self.list.len() {
            let mut path: Vec<usize> = Vec::new();
            let mut on_path = BTreeSet::new();
            let mut next = Some(start);
            while let Some(n) = next.filter(|n| !done[*n]) {
                if !on_path.insert(n) {
                    let cycle: Vec<usize> = path.iter().copied().skip_while(|m| *m != n).collect();
                    self.refuse_cycle(&cycle, ledger);
                    break;
                }
                path.push(n);
                next = self.list[n].parent;
            }
            for n in path {
                done[n] = true;
            }
        }
    }

    fn refuse_cycle(&mut self, cycle: &[usize], ledger: &mut Ledger) {
        let ids: Vec<_> = cycle.iter().map(|n| self.list[*n].id.to_string()).collect();
        let why = format!("cloned in a circle ({})", ids.join(" from "));
        for n in cycle {
            let guest = &mut self.list[*n];
            guest.parent = None;
            ledger.refuse(&guest.object(), &why);
            let at = guest.parent_at.clone().unwrap_or_else(|| guest.at.clone());
            let message = format!("{}: {} {}: {why}", guest.label(), at.key(), at.node.show());
            ledger.find(
                Severity::Error,
                &at,
                message,
                "make one of them from a template file instead",
            );
        }
    }

    fn settle_parents(&mut self, ledger: &mut Ledger) {
        for n in 0..self.list.len() {
            let guest = &self.list[n];
            let Some(at) = guest.parent_at.clone().filter(|_| !ledger.is_refused(&guest.object())) else {
                continue;
            };
            let own_image = guest.set(&["template", "template_image"]).is_some();
            let (label, object) = (guest.label(), guest.object());
            let parent = guest.parent.and_then(|p| self.list.get(p));
            let wrong = match parent {
                None => Some((
                    format!("{} {} is not in the files", at.key(), at.node.show()),
                    "add the file that holds that template, or name another one",
                )),
                Some(parent) if parent.is_vm != guest.is_vm => Some((
                    format!("{} {}: that is a {}", at.key(), at.node.show(), parent.label()),
                    "name a template of the same sort",
                )),
                Some(parent) if parent.kind != GuestKind::PhoenixTemplate => Some((
                    format!(
                        "{} {}: {} is not a template",
                        at.key(),
                        at.node.show(),
                        parent.legacy_name.as_deref().unwrap_or(&parent.name)
                    ),
                    "give that guest a template_snapshot_name, or name a template",
                )),
                Some(_) => None,
            };
            if let Some((why, fix)) = wrong {
                self.list[n].parent = None;
                if own_image {
                    ledger.not_mapped(&at, &format!("{why}: the guest's own image is its source"));
                    ledger.find(
                        Severity::Warning,
                        &at,
                        format!("{label}: {why}; its own image is its source"),
                        fix,
                    );
                } else {
                    ledger.refuse(&object, &why);
                    ledger.find(Severity::Error, &at, format!("{label}: {why}"), fix);
                }
            }
        }
        for guest in &self.list {
            let parent = guest
                .parent
                .and_then(|p| self.list.get(p))
                .filter(|p| ledger.is_refused(&p.object()));
            if let (Some(parent), Some(at)) = (parent, &guest.parent_at)
                && !ledger.is_refused(&guest.object())
            {
                let message = format!("{}: its template {} is not written", guest.label(), parent.object());
                ledger.find(Severity::Warning, at, message, "mend the template first");
            }
        }
    }
}

/// Whether the guest is a template, and of which form.
fn settle_form(guest: &mut Guest, cloned: bool, ledger: &mut Ledger) {
    let snapshot_at = guest
        .set(&["template_snapshot_name"])
        .map(|at| (at.pointer.clone(), at.node.clone()));
    let is_template = guest
        .set(&["is_template"])
        .and_then(|at| values::boolean(at.node))
        .unwrap_or(false);
    let called_template = guest
        .set(&["name"])
        .and_then(|at| values::text(at.node))
        .unwrap_or_default();
    let called_template = called_template.to_ascii_lowercase().contains("template");
    // A machine's snapshot name is that of a snapshot taken after provisioning; only what is cloned is a template.
    let by_snapshot = snapshot_at.is_some() && (!guest.is_vm || (cloned && !is_template));
    // The legacy managers took such a snapshot of running servers too.
    let serves = by_snapshot && !is_template && !cloned && !guest.is_vm && super::vllm::serves(&guest.at);
    if serves {
        let message = format!(
            "{}: it serves a model and nothing is cloned from it, so it becomes a PhoenixLXC, although it has a \
             template_snapshot_name",
            guest.label()
        );
        let fix = "nothing; or give it is_template, if it is a template";
        ledger.find(Severity::Info, &guest.at, message, fix);
    }
    let by_snapshot = by_snapshot && !serves;
    let guessed = !by_snapshot && !is_template && cloned && called_template;
    if guessed {
        let message = format!(
            "{}: it is cloned and called a template, so it becomes a PhoenixTemplate",
            guest.label()
        );
        let fix = "give it a template_snapshot_name to say so";
        ledger.find(Severity::Warning, &guest.at, message, fix);
    }
    guest.form = if by_snapshot || guessed {
        let name = snapshot_at
            .and_then(|(_, node)| values::text(&node))
            .and_then(|t| values::snapshot_name(&t));
        Some((TemplateForm::Snapshot, name))
    } else if is_template {
        Some((TemplateForm::Template, None))
    } else {
        None
    };
    if guest.form.is_some() {
        guest.kind = GuestKind::PhoenixTemplate;
    }
}

/// A guest that gets no object at all.
fn refuse_at(at: &At, message: &str, fix: &str, ledger: &mut Ledger) {
    ledger.not_mapped(at, message);
    ledger.find(Severity::Error, at, message, fix);
}
