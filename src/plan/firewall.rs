//! Guest firewall: options, and the rules as one list, rewritten under its digest (facts D.12: a new rule is put in
//! front, and position is identity).

use std::collections::BTreeMap;

use crate::desired::{WantedFirewall, WantedRule};
use crate::observed::{FirewallState, Guest};
use crate::pve::ApiCall;

use super::planner::Planner;
use super::{Effect, Next, Query, Stage};

impl Planner<'_> {
    /// The guest firewall is as wanted; a fresh clone's copy of its template's is cleared.
    pub(crate) fn firewall(&mut self, guest: &Guest) -> Result<(), Next> {
        let what = guest.named();
        let stage = Stage::Configured;
        let cloned = guest.stamp().is_some_and(|s| s.fresh) && self.clone_vmid().is_some();
        let wanted = match &self.desired.shared.firewall {
            Some(wanted) => wanted.clone(),
            None if cloned => WantedFirewall {
                options: BTreeMap::new(),
                rules: Some(Vec::new()),
            },
            None => return Ok(()),
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
        if let Some(call) = options_call(&base, &wanted, &state, cloned) {
            return Err(self.run(
                stage,
                format!("set firewall options of {what}"),
                vec![],
                Effect::call(call),
            ));
        }
        if let Some(rules) = &wanted.rules
            && let Some(call) = rule_call(&base, rules, &state)
        {
            return Err(self.run(
                stage,
                format!("rewrite firewall rules of {what}"),
                vec![],
                Effect::call(call),
            ));
        }
        Ok(())
    }
}

fn options_call(base: &str, wanted: &WantedFirewall, state: &FirewallState, cloned: bool) -> Option<ApiCall> {
    let differing: Vec<(&String, &String)> = wanted
        .options
        .iter()
        .filter(|(key, value)| match state.options.get(*key) {
            Some(have) => have != *value,
            None => !(key.as_str() == "enable" && value.as_str() == "0"),
        })
        .collect();
    let copied: Vec<&str> = state
        .options
        .keys()
        .filter(|key| cloned && *key != "digest" && !wanted.options.contains_key(*key))
        .map(String::as_str)
        .collect();
    if differing.is_empty() && copied.is_empty() {
        return None;
    }
    let mut call = ApiCall::put(format!("{base}/options"));
    for (key, value) in differing {
        call = call.param(key, value);
    }
    if !copied.is_empty() {
        call = call.param("delete", copied.join(","));
    }
    Some(call.param_opt("digest", state.options.get("digest")))
}

/// Whether a rule is as wanted, in the properties that are compared.
fn same_rule(have: &BTreeMap<String, String>, wanted: &WantedRule) -> bool {
    const COMPARED: &[&str] = &[
        "type", "action", "enable", "proto", "source", "dest", "dport", "sport", "iface", "macro", "comment",
    ];
    COMPARED.iter().all(|key| {
        let have = have
            .get(*key)
            .map(String::as_str)
            .unwrap_or(if *key == "enable" { "0" } else { "" });
        let wanted = wanted.get(*key).map(String::as_str).unwrap_or("");
        match *key {
            // Proxmox writes the name of a macro in its own spelling.
            "macro" => have.eq_ignore_ascii_case(wanted),
            _ => have.trim() == wanted,
        }
    })
}

/// The next call towards the wanted list: what stands in front of the common end is removed, then the missing rules
/// are put in front, last one first.
fn rule_call(base: &str, wanted: &[WantedRule], state: &FirewallState) -> Option<ApiCall> {
    let common = state
        .rules
        .iter()
        .rev()
        .zip(wanted.iter().rev())
        .take_while(|(have, want)| same_rule(have, want))
        .count();
    let surplus = state.rules.len() - common;
    if surplus > 0 {
        return Some(
            ApiCall::delete(format!("{base}/rules/{}", surplus - 1)).param_opt("digest", state.digest.as_ref()),
        );
    }
    let missing = wanted.len().checked_sub(common + 1)?;
    let call = wanted
        .get(missing)?
        .iter()
        .fold(ApiCall::post(format!("{base}/rules")), |call, (k, v)| call.param(k, v));
    Some(call.param_opt("digest", state.digest.as_ref()))
}
