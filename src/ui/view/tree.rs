//! Templates and what was cloned from them.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::GuestKind;
use crate::desired::{GuestObject, Key};

use super::{Link, Names};

/// Levels of templates that are shown inside each other; deeper ones stand beside the last.
const DEEPEST: usize = 12;

/// A template with what was cloned from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The template.
    pub link: Link,
    /// Proxmox id.
    pub vmid: Option<i64>,
    /// A template that it comes from and that is not there.
    pub lost: Option<String>,
    /// Templates that were cloned from it.
    pub templates: Vec<Branch>,
    /// Containers and machines that were cloned from it.
    pub clones: Vec<Link>,
}

/// The tree of templates, by name. In a circle of templates each is shown once.
pub(super) fn templates(guests: &[GuestObject], names: &Names) -> Vec<Branch> {
    let objects: BTreeMap<&Key, &GuestObject> = guests.iter().map(|guest| (&guest.key, guest)).collect();
    let mut children: BTreeMap<&Key, Vec<&Key>> = BTreeMap::new();
    let mut rooted: BTreeSet<&Key> = BTreeSet::new();
    for (key, object) in &objects {
        let places = object.template_keys();
        if let Some((template, _)) = places.iter().find_map(|place| objects.get_key_value(place)) {
            children.entry(template).or_default().push(key);
            rooted.insert(key);
        }
    }
    let tree = Tree {
        objects: &objects,
        children: &children,
        names,
    };
    let mut seen = BTreeSet::new();
    let is_template = |key: &&&Key| key.kind == GuestKind::PhoenixTemplate;
    let roots = objects.keys().filter(|key| !rooted.contains(*key));
    let mut all = Vec::new();
    for key in roots.chain(objects.keys()).filter(is_template) {
        tree.grow(key, 1, &mut seen, &mut all);
    }
    all
}

struct Tree<'t, 'o> {
    objects: &'t BTreeMap<&'o Key, &'o GuestObject>,
    children: &'t BTreeMap<&'o Key, Vec<&'o Key>>,
    names: &'t Names,
}

impl<'o> Tree<'_, 'o> {
    /// Puts a template with what hangs on it into `into`.
    fn grow(&self, key: &'o Key, depth: usize, seen: &mut BTreeSet<&'o Key>, into: &mut Vec<Branch>) {
        let Some(object) = self.objects.get(key).filter(|_| seen.insert(key)) else {
            return;
        };
        let places = object.template_keys();
        let found = places.iter().any(|place| self.objects.contains_key(place));
        let lost = object.template_ref().filter(|_| !found);
        let children = self.children.get(key).map(Vec::as_slice).unwrap_or_default();
        let (templates, clones): (Vec<&Key>, Vec<&Key>) =
            children.iter().partition(|k| k.kind == GuestKind::PhoenixTemplate);
        let mut branch = Branch {
            link: self.names.link(key),
            vmid: object.status.vmid,
            lost: lost.map(String::from),
            templates: Vec::new(),
            clones: clones.iter().map(|clone| self.names.link(clone)).collect(),
        };
        if depth < DEEPEST {
            for template in templates {
                self.grow(template, depth + 1, seen, &mut branch.templates);
            }
        }
        // What is deeper is taken up as a root of its own by the loop over all objects.
        into.push(branch);
    }
}
