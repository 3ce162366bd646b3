//! What the page shows, made from objects and events: nothing of it is guessed, and nothing else of a spec is taken over.

mod nodes;
mod state;
mod tree;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::crd::{GuestKind, PhoenixHypervisor};
use crate::desired::scripts::ModelServer;
use crate::desired::{GuestObject, Key, ObjectName};

pub use nodes::{Card, Holder, Hypervisor, Node};
pub use state::{Mark, State};
pub use tree::Branch;
pub use waits::{On, Wait};

/// Actions that are kept and shown.
pub const ACTIONS: usize = 50;

/// What the page is made from.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Containers, machines and templates.
    pub guests: Vec<GuestObject>,
    /// Hypervisors.
    pub hypervisors: Vec<Arc<PhoenixHypervisor>>,
    /// Events that this process published, newest first.
    pub actions: Vec<Action>,
}

/// An event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// When it was published.
    pub at: Timestamp,
    /// Whether it needs attention.
    pub warning: bool,
    /// Kind of the object.
    pub kind: String,
    /// Its name.
    pub name: ObjectName,
    /// Reason.
    pub reason: String,
    /// Words for people.
    pub message: String,
}

/// Names an object, and leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where its row is on the page; none where the object is not there.
    pub id: Option<String>,
    /// Its name, with the namespace where there are several.
    pub name: String,
    /// What it is: container, machine, template or hypervisor.
    pub sort: &'static str,
    /// How it stands.
    pub state: State,
    /// One word for that.
    pub word: String,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name and state.
    pub link: Link,
    /// Proxmox id.
    pub vmid: Option<i64>,
    /// Address.
    pub ip: Option<String>,
    /// GPUs that it has.
    pub gpus: Option<String>,
    /// Model that it serves.
    pub model: Option<String>,
    /// Name of the template that it is cloned from.
    pub template: Option<String>,
    /// Proxmox task under way, in words.
    pub task: Option<String>,
    /// What is going on or wrong.
    pub message: Option<String>,
    /// Its conditions.
    pub marks: Vec<Mark>,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Of which object.
    pub link: Link,
    /// Why.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// Since when.
    pub since: String,
}

/// All that the page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// How many guests stand how, states that occur only.
    pub counts: Vec<(State, usize)>,
    /// What somebody should look at, the worst first.
    pub problems: Vec<Problem>,
    /// Hypervisors with their nodes.
    pub hypervisors: Vec<Hypervisor>,
    /// Templates that come from no other one, each with what was cloned from it.
    pub templates: Vec<Branch>,
    /// What waits for what.
    pub waits: Vec<Wait>,
    /// What was done last.
    pub actions: Vec<(Link, Action)>,
}

/// Names objects and tells how they stand.
struct Names {
    links: BTreeMap<Key, Link>,
    /// Names are written with their namespace.
    spread: bool,
}

impl Names {
    fn of(seen: &Seen) -> Self {
        let guests = seen.guests.iter().map(|g| g.key.namespace.clone());
        let hypervisors = seen.hypervisors.iter().map(|h| ObjectName::of(h.as_ref()).namespace);
        let namespaces: BTreeSet<String> = guests.chain(hypervisors).collect();
        let mut names = Names {
            links: BTreeMap::new(),
            spread: namespaces.len() > 1,
        };
        for guest in &seen.guests {
            let (state, word) = state::of_guest(guest);
            let link = Link {
                id: Some(format!(
                    "{}/{}/{}",
                    guest.key.kind.as_str(),
                    guest.key.namespace,
                    guest.key.name
                )),
                name: names.label(&guest.key.namespace, &guest.key.name),
                sort: sort(guest.key.kind),
                state,
                word,
            };
            names.links.insert(guest.key.clone(), link);
        }
        names
    }

    fn label(&self, namespace: &str, name: &str) -> String {
        match self.spread {
            true => format!("{namespace}/{name}"),
            false => name.to_string(),
        }
    }

    /// A guest object by its key; one that is not there is named all the same.
    fn link(&self, key: &Key) -> Link {
        let absent = || Link {
            id: None,
            name: self.label(&key.namespace, &key.name),
            sort: sort(key.kind),
            state: State::Unknown,
            word: "not there".into(),
        };
        self.links.get(key).cloned().unwrap_or_else(absent)
    }

    /// The object of an event: one that is gone has no row.
    fn told(&self, action: &Action) -> Link {
        let ObjectName { namespace, name } = &action.name;
        let kinds = [GuestKind::PhoenixLXC, GuestKind::PhoenixVM, GuestKind::PhoenixTemplate];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == action.kind);
        let absent = Link {
            id: None,
            name: self.label(namespace, name),
            sort: kind.map_or("hypervisor", sort),
            state: State::Unknown,
            word: String::new(),
        };
        let known = kind.and_then(|kind| self.links.get(&Key::new(kind, namespace, name)).cloned());
        known.unwrap_or(absent)
    }
}

fn sort(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::PhoenixLXC => "container",
        GuestKind::PhoenixVM => "machine",
        GuestKind::PhoenixTemplate => "template",
    }
}

fn row(object: &GuestObject, names: &Names) -> Row {
    let status = &object.status;
    let text = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
    let model = ModelServer::of(object).map(|server| server.model().to_string());
    Row {
        link: names.link(&object.key),
        vmid: status.vmid,
        ip: text(&status.ip),
        gpus: text(&status.gpus),
        model,
        template: object.template_ref().map(String::from),
        task: status.task.as_ref().map(|task| task.action.clone()),
        message: text(&status.message),
        marks: state::marks(&status.conditions),
    }
}

/// What the page shows of these objects.
pub fn fleet(seen: &Seen) -> Fleet {
    let names = Names::of(seen);
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for link in names.links.values() {
        *counts.entry(link.state).or_default() += 1;
    }
    let hypervisors = nodes::hypervisors(seen, &names);
    Fleet {
        counts: counts.into_iter().collect(),
        problems: problems(seen, &names, &hypervisors),
        templates: tree::templates(&seen.guests, &names),
        waits: waits::waits(seen, &names),
        actions: seen.actions.iter().map(|a| (names.told(a), a.clone())).collect(),
        hypervisors,
    }
}

/// Objects that somebody should look at: what stands still first, and hypervisors before their guests.
fn problems(seen: &Seen, names: &Names, hypervisors: &[Hypervisor]) -> Vec<Problem> {
    let of_hypervisors = hypervisors
        .iter()
        .filter_map(|h| problem(&h.link, &h.marks, &h.message));
    let mut guests: Vec<&GuestObject> = seen.guests.iter().collect();
    guests.sort_by(|a, b| a.key.cmp(&b.key));
    let of_guests = guests.into_iter().filter_map(|guest| {
        let row = row(guest, names);
        problem(&row.link, &row.marks, &row.message)
    });
    let mut all: Vec<Problem> = of_hypervisors.chain(of_guests).collect();
    all.sort_by_key(|problem| problem.link.state);
    all
}

/// What is wrong with an object, as its conditions tell.
fn problem(link: &Link, marks: &[Mark], message: &Option<String>) -> Option<Problem> {
    if !link.state.is_problem() {
        return None;
    }
    let found = match link.state {
        State::Attention => marks.iter().find(|m| m.state == State::Attention),
        State::Stalled => marks.iter().find(|m| m.condition == "Stalled"),
        _ => None,
    };
    let found = found.or_else(|| marks.iter().find(|m| m.condition == "Ready"));
    let told = found.map(|m| m.message.clone()).filter(|m| !m.is_empty());
    let named = |m: &Mark| match m.state {
        // The type of such a condition says more than its reason.
        State::Attention => format!("{}: {}", m.condition, m.reason),
        _ => m.reason.clone(),
    };
    Some(Problem {
        link: link.clone(),
        reason: found.map(named).unwrap_or_default(),
        message: told.or_else(|| message.clone()).unwrap_or_default(),
        since: found.map(|m| m.since.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
