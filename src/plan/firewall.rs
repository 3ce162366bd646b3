//! Guest firewall: options, and the rules edited by what differs, each call under the list's digest. A new rule is put in
//! before an old one goes, so that a rule that Proxmox refuses leaves the old set in force (facts D.12: a new rule comes
//! first in the list, and its position is its only name).

use std::collections::BTreeMap;

use crate::desired::{WantedFirewall, WantedRule};
use crate::observed::{FirewallState, Guest};
use crate::pve::property::Properties;
use crate::pve::{ApiCall, GuestType};
use crate::reason::{Cause, Reason};

use super::planner::Planner;
use super::{Effect, Next, Query, Stage};

/// What begins the comments of rules that Phoenix wrote; the number of the rule follows.
pub(crate) const MARKER: &str = "phoenix:";
/// Properties in which rules are compared, besides `enable` and `comment`.
const COMPARED: &[&str] = &[
    "type", "action", "proto", "source", "dest", "dport", "sport", "iface", "macro",
];

impl Planner<'_> {
    /// The guest firewall is as wanted; a fresh clone's copy of its template's is cleared.
    pub(crate) fn firewall(&mut self, guest: &Guest) -> Result<(), Next> {
        let what = guest.named();
        let stage = Stage::Configured;
        let cloned = guest.stamp().is_some_and(|s| s.fresh) && self.clone_vmid().is_some();
        let dropped: Vec<String> = self.dropped.under("firewall.").map(str::to_string).collect();
        let wanted = match &self.desired.shared.firewall {
            Some(wanted) => wanted.clone(),
            None if cloned => WantedFirewall {
                options: BTreeMap::new(),
                rules: Some(Vec::new()),
            },
            None if dropped.is_empty() => return Ok(()),
            None => WantedFirewall::default(),
        };
        let state = match &self.observed.firewall {
            None => {
                return Err(Next::Look(Query::Firewall(guest.at.clone())));
            }
            Some(Err(failure)) => {
                let failure = failure.clone();
                return Err(self.wait(stage, failure.reason, failure.message, 10));
            }
            Some(Ok(state)) => state.clone(),
        };
        let base = format!("{}/firewall", guest.at.path());
        let taken_off = |key: &str| cloned || dropped.iter().any(|d| d == key);
        let ours = dropped.iter().any(|d| d == "rules");
        let edit = match &wanted.rules {
            Some(rules) => {
                let rules = self.on_interfaces(guest, rules)?;
                edit(&rules, &state.rules)
            }
            None if ours => last_marked(&state.rules).map(Edit::Remove),
            None => None,
        };
        if let Some(edit) = edit {
            let action = format!("{} of {what}", edit.describe());
            let call = edit.call(&base).param_opt("digest", state.digest.as_ref());
            return Err(self.run(stage, action, vec![], Effect::call(call)));
        }
        // What they switch on rests on the rules.
        if let Some(call) = options_call(&base, &wanted, &state, taken_off) {
            let action = format!("set firewall options of {what}");
            return Err(self.run(stage, action, vec![], Effect::call(call)));
        }
        self.in_force(guest, &wanted);
        Ok(())
    }

    /// The rules with Proxmox's names of the interfaces, which a container's rules name as the guest does.
    fn on_interfaces(&mut self, guest: &Guest, rules: &[WantedRule]) -> Result<Vec<WantedRule>, Next> {
        let mut found = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let mut rule = rule.clone();
            if let Some(name) = rule.get("iface").cloned() {
                let Some(option) = option_of(guest, &name) else {
                    let there: Vec<String> = interfaces(guest).map(|(name, _)| name).collect();
                    let message = format!(
                        "{}.firewall.rules[{at}].interface: the guest has no interface {name:?}, only {}: name one of them",
                        self.prefix(),
                        there.join(", ")
                    );
                    return Err(self.stuck(Stage::Configured, Reason::InvalidSpec, message));
                };
                rule.insert("iface".into(), option);
            }
            found.push(rule);
        }
        Ok(found)
    }

    /// A firewall that is on does nothing on an interface without `firewall=1` (facts D.12). The guest is not Ready then,
    /// and a new one does not start; one that was there goes on.
    fn in_force(&mut self, guest: &Guest, wanted: &WantedFirewall) {
        if wanted.options.get("enable").map(String::as_str) != Some("1") {
            return;
        }
        let managed = |name: &str| {
            let nets = self.desired.shared.network.iter().flatten();
            nets.into_iter()
                .any(|net| net.name == name && net.properties.contains_key("firewall"))
        };
        let open: Vec<String> = interfaces(guest)
            .filter(|(name, net)| net.get("firewall") != Some("1") && !managed(name))
            .map(|(name, _)| name)
            .collect();
        if open.is_empty() {
            return;
        }
        let message = format!(
            "{}.firewall.enabled: the firewall is on, but not in force on {}: the interface lacks firewall=1: list it in {}.network with firewall: true, or set that in Proxmox",
            self.prefix(),
            open.join(", "),
            self.prefix()
        );
        let cause = Cause::new(Reason::FirewallNotInForce, message);
        self.note_held(Stage::Configured, Next::Stuck(cause));
    }
}

/// Interfaces of a guest under the names that a spec uses: a container's own, and Proxmox's for machines.
fn interfaces(guest: &Guest) -> impl Iterator<Item = (String, Properties)> {
    let sort = guest.at.sort;
    guest.numbered("net").into_iter().filter_map(move |(index, text)| {
        let option = format!("net{index}");
        let properties = match sort {
            GuestType::Lxc => Properties::of_option("net0", text).ok()?,
            GuestType::Qemu => Properties::parse(text, Some("model")).ok()?,
        };
        let own = properties.get("name").filter(|_| sort == GuestType::Lxc);
        Some((own.map_or(option, str::to_string), properties))
    })
}

/// Proxmox's option for an interface that a rule names. A machine's `eth0` is its `net0`.
fn option_of(guest: &Guest, name: &str) -> Option<String> {
    let number = name.strip_prefix("eth").filter(|_| guest.at.sort == GuestType::Qemu);
    let name = &number.map_or(name.to_string(), |number| format!("net{number}"));
    let options = guest.numbered("net").into_keys().map(|index| format!("net{index}"));
    let mut both = options.zip(interfaces(guest));
    both.find(|(_, (own, _))| own == name).map(|(option, _)| option)
}

fn options_call(
    base: &str,
    wanted: &WantedFirewall,
    state: &FirewallState,
    taken_off: impl Fn(&str) -> bool,
) -> Option<ApiCall> {
    let differing: Vec<(&String, &String)> = wanted
        .options
        .iter()
        .filter(|(key, value)| match state.options.get(*key) {
            Some(have) => have != *value,
            None => !(key.as_str() == "enable" && value.as_str() == "0"),
        })
        .collect();
    let gone: Vec<&str> = state
        .options
        .keys()
        .filter(|key| *key != "digest" && !wanted.options.contains_key(*key) && taken_off(key))
        .map(String::as_str)
        .collect();
    if differing.is_empty() && gone.is_empty() {
        return None;
    }
    let mut call = ApiCall::put(format!("{base}/options"));
    for (key, value) in differing {
        call = call.param(key, value);
    }
    if !gone.is_empty() {
        call = call.param("delete", gone.join(","));
    }
    Some(call.param_opt("digest", state.options.get("digest")))
}

/// The next edit of a list of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Edit {
    /// A rule is put in front.
    Add { number: usize, rule: WantedRule },
    /// The rule goes to before the one that is at `to`.
    Move { from: usize, to: usize },
    /// Switches a rule, and says its comment anew.
    Set { at: usize, enable: String, comment: String },
    /// The rule goes.
    Remove(usize),
}

impl Edit {
    fn describe(&self) -> String {
        match self {
            Edit::Add { number, .. } => format!("add firewall rule {number}"),
            Edit::Move { from, to } => format!("move firewall rule {from} to place {to}"),
            Edit::Set { at, enable, comment } => {
                let switch = if enable == "1" { "on" } else { "off" };
                format!("switch firewall rule {at} {switch} ({comment})")
            }
            Edit::Remove(at) => format!("remove firewall rule {at}"),
        }
    }

    fn call(self, base: &str) -> ApiCall {
        let rule = |at: usize| format!("{base}/rules/{at}");
        match self {
            Edit::Add { rule, .. } => {
                let call = ApiCall::post(format!("{base}/rules"));
                rule.iter().fold(call, |call, (k, v)| call.param(k, v))
            }
            Edit::Move { from, to } => ApiCall::put(rule(from)).param("moveto", to),
            Edit::Set { at, enable, comment } => {
                ApiCall::put(rule(at)).param("enable", enable).param("comment", comment)
            }
            Edit::Remove(at) => ApiCall::delete(rule(at)),
        }
    }
}

fn property<'r>(rule: &'r BTreeMap<String, String>, key: &str) -> &'r str {
    let absent = if key == "enable" { "0" } else { "" };
    rule.get(key).map_or(absent, |value| value.trim())
}

/// Whether two rules do the same to the same traffic.
fn alike(have: &BTreeMap<String, String>, wanted: &WantedRule) -> bool {
    COMPARED.iter().all(|key| match *key {
        // Proxmox writes the name of a macro in its own spelling.
        "macro" => property(have, key).eq_ignore_ascii_case(property(wanted, key)),
        _ => property(have, key) == property(wanted, key),
    })
}

/// The next edit towards the wanted list: what is missing is put in, what is there is put in order and switched, and what
/// is not wanted goes last.
fn edit(wanted: &[WantedRule], have: &[BTreeMap<String, String>]) -> Option<Edit> {
    let places = places(wanted, have);
    if let Some(missing) = places.iter().rposition(Option::is_none) {
        let mut rule = wanted[missing].clone();
        // Until all are there and it stands where it belongs, a rule is not in force: one before it may be refused.
        let only = places.iter().filter(|place| place.is_none()).count() == 1;
        if !(only && missing == 0 && places.iter().flatten().is_sorted()) {
            rule.insert("enable".into(), "0".into());
        }
        return Some(Edit::Add { number: missing, rule });
    }
    let places: Vec<usize> = places.into_iter().flatten().collect();
    let mut last = None;
    for place in &places {
        match last {
            Some(last) if *place < last => {
                return Some(Edit::Move {
                    from: *place,
                    to: last + 1,
                });
            }
            _ => last = Some(*place),
        }
    }
    for (place, wanted) in places.iter().zip(wanted) {
        let same = |key| property(&have[*place], key) == property(wanted, key);
        if !same("enable") || !same("comment") {
            return Some(Edit::Set {
                at: *place,
                enable: property(wanted, "enable").into(),
                comment: property(wanted, "comment").into(),
            });
        }
    }
    let surplus = (0..have.len()).rev().find(|place| !places.contains(place));
    surplus.map(Edit::Remove)
}

/// Where each wanted rule stands. Of rules that are alike the first is the first, so that none of them has to move.
fn places(wanted: &[WantedRule], have: &[BTreeMap<String, String>]) -> Vec<Option<usize>> {
    let mut taken = vec![false; have.len()];
    let place = |wanted: &WantedRule| {
        let found = (0..have.len()).find(|i| !taken[*i] && alike(&have[*i], wanted))?;
        taken[found] = true;
        Some(found)
    };
    wanted.iter().map(place).collect()
}

/// The last rule that Phoenix wrote.
fn last_marked(have: &[BTreeMap<String, String>]) -> Option<usize> {
    have.iter()
        .rposition(|rule| property(rule, "comment").starts_with(MARKER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(port: u8, on: bool, comment: &str) -> WantedRule {
        let on = if on { "1" } else { "0" };
        let port = port.to_string();
        [
            ("type", "in"),
            ("action", "ACCEPT"),
            ("dport", &port),
            ("enable", on),
            ("comment", comment),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
    }

    /// What Proxmox does with an edit.
    fn carried_out(edit: Edit, rules: &mut Vec<WantedRule>) {
        match edit {
            Edit::Add { rule, .. } => rules.insert(0, rule),
            Edit::Move { from, to } => {
                let rule = rules.remove(from);
                rules.insert(if to > from { to - 1 } else { to }, rule);
            }
            Edit::Set { at, enable, comment } => {
                rules[at].insert("enable".into(), enable);
                rules[at].insert("comment".into(), comment);
            }
            Edit::Remove(at) => drop(rules.remove(at)),
        }
    }

    fn list() -> impl Strategy<Value = Vec<WantedRule>> {
        let one = (0u8..4, any::<bool>(), "[ab]?").prop_map(|(port, on, comment)| rule(port, on, &comment));
        proptest::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn any_list_becomes_any_other_and_nothing_goes_before_all_is_in(wanted in list(), mut have in list()) {
            let before = have.clone();
            let mut removing = false;
            let mut edits = 0;
            while let Some(next) = edit(&wanted, &have) {
                if let Edit::Add { rule, .. } = &next {
                    let missing = places(&wanted, &have).iter().filter(|place| place.is_none()).count();
                    prop_assert!(missing == 1 || property(rule, "enable") == "0", "in force before all are in");
                }
                removing |= matches!(next, Edit::Remove(_));
                prop_assert!(!removing || matches!(next, Edit::Remove(_)), "{next:?} after a removal");
                carried_out(next, &mut have);
                edits += 1;
                prop_assert!(edits < 60, "{before:?} never becomes {wanted:?}");
            }
            prop_assert_eq!(have, wanted);
        }
    }

    #[test]
    fn only_what_changed_is_edited() {
        let list = |ports: &[u8]| -> Vec<WantedRule> { ports.iter().map(|p| rule(*p, true, "")).collect() };
        let edits = |wanted: &[u8], have: &[u8]| {
            let (wanted, mut have) = (list(wanted), list(have));
            let mut told = Vec::new();
            while let Some(next) = edit(&wanted, &have) {
                told.push(next.describe());
                carried_out(next, &mut have);
            }
            told
        };
        assert_eq!(
            edits(&[1, 2, 3], &[]),
            [
                "add firewall rule 2",
                "add firewall rule 1",
                "add firewall rule 0",
                "switch firewall rule 1 on ()",
                "switch firewall rule 2 on ()",
            ]
        );
        assert_eq!(
            edits(&[1, 9, 3], &[1, 2, 3]),
            [
                "add firewall rule 1",
                "move firewall rule 0 to place 2",
                "switch firewall rule 1 on ()",
                "remove firewall rule 2",
            ]
        );
        assert_eq!(edits(&[1, 3], &[1, 2, 3]), ["remove firewall rule 1"]);
    }
}
