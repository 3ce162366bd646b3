//! `firewall` of a guest.

use crate::crd::{Firewall, FirewallAction, FirewallDirection, FirewallRule, Network};

use super::json::{At, Node};
use super::network::scalar;
use super::values;
use super::writer::Writer;

/// Maps `firewall`. Where it is on and has rules, the interfaces are guarded too: without that Proxmox filters nothing.
pub fn firewall(w: &mut Writer, guest: &At, network: &mut Option<Vec<Network>>) -> Option<Firewall> {
    let at = w.key(guest, &["firewall"])?;
    if values::boolean(at.node).is_some() {
        let enabled = w.value(&at, "firewall.enabled", values::boolean, "");
        return Some(Firewall {
            enabled,
            ..Firewall::default()
        });
    }
    if !matches!(at.node, Node::Object(_)) {
        w.unreadable(&at, "an object with enabled and rules");
        return None;
    }
    let policy = |w: &mut Writer, names: &[&str], path: &str| {
        w.read(
            &at,
            names,
            path,
            |n| values::text(n).and_then(|t| action(&t)),
            "ACCEPT, DROP or REJECT",
        )
    };
    let mut firewall = Firewall {
        enabled: w.boolean(&at, &["enabled", "enable"], "firewall.enabled"),
        inbound_policy: policy(
            w,
            &["default_input_policy", "policy_in", "input_policy"],
            "firewall.inboundPolicy",
        ),
        outbound_policy: policy(
            w,
            &["default_output_policy", "policy_out", "output_policy"],
            "firewall.outboundPolicy",
        ),
        rules: None,
    };
    firewall.rules = rules(w, &at, &["rules"], "firewall.rules", MOST);
    guard(w, &at, &firewall, network);
    Some(firewall)
}

/// The rules of the first of these keys that is set, below `path`.
pub fn rules(w: &mut Writer, at: &At, names: &[&str], path: &str, most: usize) -> Option<Vec<FirewallRule>> {
    let list = w.key(at, names)?;
    if !matches!(list.node, Node::Array(_)) {
        w.unreadable(&list, "a list of rules");
        return None;
    }
    let mut rules = Vec::new();
    if list.items().is_empty() {
        w.mapped(&list, path, "");
        return Some(rules);
    }
    for rule in list.items() {
        map_rule(w, &rule, &mut rules, path, most);
    }
    (!rules.is_empty()).then_some(rules)
}

fn guard(w: &mut Writer, at: &At, firewall: &Firewall, network: &mut Option<Vec<Network>>) {
    if firewall.enabled != Some(true) {
        return;
    }
    let admits = |rule: &FirewallRule| rule.direction == FirewallDirection::In && rule.action == FirewallAction::Accept;
    let lets_in =
        firewall.rules.iter().flatten().any(admits) || firewall.inbound_policy == Some(FirewallAction::Accept);
    if lets_in {
        for nic in network.iter_mut().flatten() {
            nic.firewall = nic.firewall.or(Some(true));
        }
    } else {
        let fix = "add the rules that the guest needs, then set firewall: true on its network entry";
        w.warn(
            at,
            "the firewall is on and lets nothing in, so it is not put before the network interface",
            fix,
        );
    }
}

fn action(text: &str) -> Option<FirewallAction> {
    match text.to_ascii_uppercase().as_str() {
        "ACCEPT" | "ALLOW" => Some(FirewallAction::Accept),
        "DROP" | "DENY" => Some(FirewallAction::Drop),
        "REJECT" => Some(FirewallAction::Reject),
        _ => None,
    }
}

/// Rules that a guest may have.
const MOST: usize = 64;

const RULE_KEYS: &[(&str, &[&str])] = &[
    ("direction", &["type", "direction"]),
    ("action", &["action"]),
    ("protocol", &["proto", "protocol"]),
    ("source", &["source"]),
    ("destination", &["dest", "destination"]),
    ("port", &["port", "dport"]),
    ("sourcePort", &["sport", "source_port"]),
    ("interface", &["iface", "interface"]),
    ("macro", &["macro"]),
    ("comment", &["comment", "description"]),
    ("enabled", &["enabled", "enable"]),
];

/// A rule is written whole or not at all: one that lost its port would let more through than was meant.
fn map_rule(w: &mut Writer, at: &At, rules: &mut Vec<FirewallRule>, path: &str, most: usize) {
    let given: Vec<(&str, At)> = RULE_KEYS
        .iter()
        .filter_map(|(field, names)| Some((*field, names.iter().find_map(|n| at.get(n))?)))
        .filter(|(_, value)| !values::is_unset(value.node))
        .collect();
    let text = |field: &str| {
        given
            .iter()
            .find(|(f, _)| *f == field)
            .and_then(|(_, value)| scalar(value.node))
    };
    let (direction, verdict) = (text("direction"), text("action").and_then(|t| action(&t)));
    let direction = match direction.map(|d| d.to_ascii_lowercase()).as_deref() {
        Some("in" | "input" | "inbound") => Some(FirewallDirection::In),
        Some("out" | "output" | "outbound") => Some(FirewallDirection::Out),
        _ => None,
    };
    let fits = |field: &str, check: &dyn Fn(&str) -> Option<String>| match given.iter().any(|(f, _)| *f == field) {
        true => text(field).and_then(|t| check(&t)).map(Some),
        false => Some(None),
    };
    let rule = (|| {
        let rule = FirewallRule {
            direction: direction?,
            action: verdict?,
            protocol: fits("protocol", &values::at_most(16))?,
            source: fits("source", &values::at_most(512))?,
            destination: fits("destination", &values::at_most(512))?,
            port: fits("port", &|t| values::ports(t))?,
            source_port: fits("sourcePort", &|t| values::ports(t))?,
            interface: fits("interface", &|t| values::interface(t))?,
            macro_name: fits("macro", &values::at_most(128))?,
            comment: fits("comment", &values::at_most(256))?,
            enabled: fits("enabled", &|t| {
                values::boolean(&Node::String(t.into())).map(|b| b.to_string())
            })?
            .map(|text| text == "true"),
        };
        let ports_need_protocol = rule.port.is_some() || rule.source_port.is_some();
        (!ports_need_protocol || rule.protocol.is_some()).then_some(rule)
    })();
    match rule {
        Some(rule) if rules.len() < most => {
            for (field, value) in &given {
                w.mapped(value, &format!("{path}[{}].{field}", rules.len()), "");
            }
            rules.push(rule);
        }
        Some(_) => w.skip_warn(
            at,
            &format!("more than {most} firewall rules"),
            "merge rules: ports and sources may be lists",
        ),
        None => {
            let message = format!("firewall rule {} is not a rule that Proxmox takes", at.node.show());
            let fix = "give type (in or out), action (ACCEPT, DROP or REJECT) and, for ports, proto (tcp or udp)";
            w.skip_warn(at, &message, fix);
        }
    }
}
