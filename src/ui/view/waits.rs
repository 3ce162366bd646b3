//! What waits for what, as reasons, messages and `dependsOn` tell.

use crate::desired::{GuestObject, Key};
use crate::reason::Reason;

use super::state::{State, unready};
use super::{Link, Names, Seen};

/// For what sort of thing something is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// Turn among the clones of a template.
    Clones,
    /// A template that is not Ready.
    Template,
    /// Objects of `dependsOn` that are not Ready.
    Dependency,
    /// Something else that its message names.
    Other,
}

impl On {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            On::Clones => "turn to clone",
            On::Template => "template",
            On::Dependency => "dependency",
            On::Other => "other",
        }
    }
}

/// A guest that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who.
    pub who: Link,
    /// For what sort of thing.
    pub on: On,
    /// For which objects.
    pub links: Vec<Link>,
    /// Reason.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// Place in a queue, where its message tells one.
    pub place: u64,
}

/// All guests that wait: by what they wait for, and in a queue by their places.
pub(super) fn waits(seen: &Seen, names: &Names) -> Vec<Wait> {
    let mut waits: Vec<Wait> = seen.guests.iter().filter_map(|guest| wait(guest, names)).collect();
    let order = |wait: &Wait| {
        let names: Vec<String> = wait.links.iter().map(|link| link.name.clone()).collect();
        (wait.on, names, wait.place, wait.who.name.clone())
    };
    waits.sort_by_cached_key(order);
    waits
}

fn wait(guest: &GuestObject, names: &Names) -> Option<Wait> {
    let who = names.link(&guest.key);
    if who.state != State::Waiting {
        return None;
    }
    let condition = unready(&guest.status.conditions)?;
    let template = || {
        let places = guest.template_keys();
        let found = places.iter().find(|key| names.links.contains_key(key));
        let link = found.or(places.first()).map(|key| names.link(key));
        Vec::from_iter(link)
    };
    let dependencies = || {
        let unmet = |key: &Key| names.links.get(key).is_none_or(|link| !is_met(link.state));
        let keys = guest.dependency_keys().filter(unmet);
        Vec::from_iter(keys.map(|key| names.link(&key)))
    };
    let (on, links) = match Reason::named(&condition.reason) {
        Some(Reason::TemplateBusy) => (On::Clones, template()),
        Some(Reason::TemplateNotReady | Reason::TemplateNotFound) => (On::Template, template()),
        Some(Reason::DependencyNotReady | Reason::DependencyNotFound) => (On::Dependency, dependencies()),
        _ => (On::Other, Vec::new()),
    };
    Some(Wait {
        who,
        on,
        links,
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        place: place(&condition.message),
    })
}

fn is_met(state: State) -> bool {
    matches!(state, State::Ready | State::Attention)
}

/// The place in `place 3 of 7 in the queue`; 0 where there is none, since who has its turn says nothing of a queue.
fn place(message: &str) -> u64 {
    let after = message.split_once("; place ").map(|(_, after)| after);
    let number = after.and_then(|after| after.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}
