//! What Proxmox checks in a firewall rule, when it takes one and each time it reads one.

use serde_json::{Map, Value, json};

use super::addresses;
use super::error::{ApiError, Result};
use super::firewall::{Firewall, Rule};
use crate::simulator::schema::firewall_formats::{self as formats, Macro};
use crate::simulator::schema::validate::regex;

/// Protocols with ports, by name and number.
const WITH_PORTS: &[&str] = &["udp", "17", "udplite", "136", "tcp", "6", "dccp", "33", "sctp", "132"];

/// A rule as it was checked.
#[derive(Debug, Default)]
pub struct Checked {
    /// The rule, macros in Proxmox's spelling.
    pub rule: Rule,
    /// Version of its addresses, where it has any.
    pub version: Option<u8>,
    /// Faults by field, in the order in which they were found.
    pub faults: Vec<(String, String)>,
}

impl Checked {
    /// The rule, or its first fault.
    pub fn accept(self) -> Result<Rule> {
        match self.faults.into_iter().next() {
            Some((field, text)) => Err(ApiError::param(&field, text)),
            None => Ok(self.rule),
        }
    }

    /// The rule as answers show it.
    pub fn row(&self) -> Map<String, Value> {
        let value = |key: &str, text: &str| match key {
            "enable" => json!(text.parse::<i64>().unwrap_or(0)),
            _ => json!(text),
        };
        let mut row: Map<String, Value> = self
            .rule
            .iter()
            .map(|(key, text)| (key.clone(), value(key, text)))
            .collect();
        if let Some(version) = self.version {
            row.insert("ipversion".to_owned(), json!(version));
        }
        if !self.faults.is_empty() {
            // The first fault of a field is the one that is told.
            let faults = self
                .faults
                .iter()
                .rev()
                .map(|(field, text)| (field.clone(), json!(text)));
            row.insert("errors".to_owned(), Value::Object(faults.collect()));
        }
        row
    }

    fn get(&self, key: &str) -> Option<&str> {
        let value = self.rule.get(key).map(String::as_str);
        value.filter(|text| !matches!(*text, "" | "0"))
    }

    fn fault(&mut self, field: &str, text: impl Into<String>) {
        self.faults.push((field.to_owned(), text.into()));
    }

    fn meet(&mut self, version: Option<u8>) -> std::result::Result<(), String> {
        let Some(version) = version else { return Ok(()) };
        if self.version.is_some_and(|known| known != version) {
            return Err("detected mixed ipv4/ipv6 addresses in rule".to_owned());
        }
        self.version = Some(version);
        Ok(())
    }

    fn check_kind(&mut self, guest: &str) {
        let (kind, action) = (
            self.get("type").map(str::to_owned),
            self.get("action").map(str::to_owned),
        );
        if kind.is_none() {
            self.fault("type", "missing property");
        }
        if action.is_none() {
            self.fault("action", "missing property");
        }
        let (Some(kind), Some(action)) = (kind, action) else {
            return;
        };
        if !matches!(kind.as_str(), "in" | "out" | "group") {
            self.fault("type", format!("invalid rule type '{kind}' for rule_env '{guest}'"));
        }
        let known = matches!(action.as_str(), "ACCEPT" | "DROP" | "REJECT");
        if kind == "forward" && action == "REJECT" {
            self.fault("action", "cannot define REJECT rules on forward chain");
        }
        if kind != "group" && !known {
            self.fault("action", format!("unknown action '{action}'"));
        }
        if kind == "group" && !regex(r"[A-Za-z][A-Za-z0-9\-_]+").is_some_and(|name| name.is_match(&action)) {
            self.fault("action", "invalid characters in security group name");
        }
    }

    fn check_iface(&mut self) {
        let Some(iface) = self.get("iface").map(str::to_owned) else {
            return;
        };
        if let Some(text) = formats::fault("pve-iface", &iface) {
            self.fault("iface", text);
        }
        if !regex(r"net\d+").is_some_and(|card| card.is_match(&iface)) {
            self.fault("iface", r"value does not match the regex pattern 'net\d+'");
        }
    }

    fn check_macro_name(&mut self) {
        let Some(name) = self.get("macro").map(str::to_owned) else {
            return;
        };
        match formats::find_macro(&name) {
            Some((name, _)) => {
                self.rule.insert("macro".to_owned(), name.to_owned());
            }
            None => self.fault("macro", format!("unknown macro '{name}'")),
        }
    }

    /// Protocol, ports and type of ICMP.
    fn check_ports(&mut self) {
        let proto = self.get("proto").map(str::to_owned);
        if let Some(text) = proto.as_deref().and_then(formats::protocol_fault) {
            self.fault("proto", text);
        }
        let proto = proto.unwrap_or_default();
        let icmp = match proto.as_str() {
            "icmp" => Some(4),
            "icmpv6" | "ipv6-icmp" => Some(6),
            _ => None,
        };
        self.version = icmp;
        self.check_port("dport", &proto, icmp.is_some());
        if let Some(kind) = self.get("icmp-type").map(str::to_owned) {
            if icmp.is_none() {
                self.fault("proto", "missing property - 'icmp-type' requires this property");
            }
            if self.get("dport").is_some() {
                self.fault("icmp-type", "'icmp-type' cannot be specified together with 'dport'");
            }
            if icmp.is_some_and(|version| !formats::is_icmp_type(version, &kind)) {
                self.fault("icmp-type", format!("invalid icmp-type '{kind}' for proto '{proto}'"));
            }
        }
        self.check_port("sport", &proto, false);
    }

    fn check_port(&mut self, key: &str, proto: &str, icmp: bool) {
        let Some(ports) = self.get(key).map(str::to_owned) else {
            return;
        };
        if let Err(text) = formats::ports(&ports, icmp) {
            self.fault(key, text);
        }
        if proto.is_empty() {
            self.fault("proto", format!("missing property - '{key}' requires this property"));
        }
        if !icmp && !WITH_PORTS.contains(&proto) {
            self.fault(key, format!("protocol '{proto}' does not support ports"));
        }
    }

    /// An error is one that no field is told of.
    fn check_address(&mut self, firewall: &Firewall, key: &str) -> Result<()> {
        let Some(text) = self.get(key).map(str::to_owned) else {
            return Ok(());
        };
        let version = formats::address_list(&text);
        if let Err(text) = version.and_then(|version| self.meet(version)) {
            self.fault(key, text);
        }
        if let Some(set) = text.strip_prefix('+') {
            let place = |name: &str| set.strip_prefix(name).map(str::to_owned);
            let name = place("guest/")
                .or(place("dc/"))
                .or(place("sdn/"))
                .unwrap_or_else(|| set.to_owned());
            if !regex(r"[A-Za-z][A-Za-z0-9\-_]+").is_some_and(|pattern| pattern.is_match(&name)) {
                self.fault(key, format!("invalid ipset name '{text}'"));
            } else if !firewall.ipsets.contains_key(&name) {
                self.fault(key, format!("no such ipset '{name}'"));
            }
        } else if formats::is_alias(&text) {
            let name = text.rsplit('/').next().unwrap_or_default();
            let Some(alias) = firewall.alias(name) else {
                self.fault(key, format!("no such alias '{text}'"));
                return Ok(());
            };
            if !text.starts_with("dc/") {
                let version = addresses::stored(&alias.cidr).ok().map(|(_, version)| version);
                self.meet(version).map_err(ApiError::die)?;
            }
        }
        Ok(())
    }

    /// What a rule says beside its macro has to be what the macro says, or nothing that it says.
    fn check_macro(&mut self) {
        let Some((_, found)) = self.get("macro").and_then(formats::find_macro) else {
            return;
        };
        if let Some((key, text)) = macro_fault(found, &self.rule, self.version) {
            self.fault(&key, text);
        }
    }
}

fn macro_fault(found: &Macro, rule: &Rule, version: Option<u8>) -> Option<(String, String)> {
    if found.only_ipv6 && version == Some(4) {
        return None;
    }
    let rules = found
        .ipv6
        .as_ref()
        .filter(|_| version == Some(6))
        .unwrap_or(&found.rules);
    rules.iter().flatten().find_map(|(key, fixed)| {
        let given = rule.get(*key).filter(|given| given != fixed)?;
        let text = format!("parameter '{key}' already define in macro (value = '{fixed}')");
        (!given.is_empty()).then(|| ((*key).to_owned(), text))
    })
}

impl Firewall {
    /// Checks a rule of a guest (`vm` or `ct`). An error is a fault that belongs to no field.
    pub fn check_rule(&self, guest: &str, rule: &Rule) -> Result<Checked> {
        let mut checked = Checked {
            rule: rule.clone(),
            ..Checked::default()
        };
        checked.check_kind(guest);
        checked.check_iface();
        checked.check_macro_name();
        checked.check_ports();
        for key in ["source", "dest"] {
            checked.check_address(self, key)?;
        }
        if checked.faults.is_empty() {
            checked.check_macro();
        }
        Ok(checked)
    }

    /// All rules as they read now; those that cannot be read any more are left out.
    pub fn read_rules(&self, guest: &str) -> Vec<Checked> {
        self.rules
            .iter()
            .filter_map(|rule| self.check_rule(guest, rule).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(pairs: &[(&str, &str)]) -> Option<(String, String)> {
        let mut rule: Rule = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        rule.entry("type".to_owned()).or_insert_with(|| "in".to_owned());
        rule.entry("action".to_owned()).or_insert_with(|| "ACCEPT".to_owned());
        Firewall::default()
            .check_rule("ct", &rule)
            .unwrap()
            .faults
            .into_iter()
            .next()
    }

    #[test]
    fn rules_are_checked() {
        for (pairs, field, text) in [
            (
                &[("proto", "tcp"), ("icmp-type", "any")][..],
                "proto",
                "missing property - 'icmp-type' requires this property",
            ),
            (
                &[("macro", "DNS"), ("proto", "tcp")],
                "proto",
                "parameter 'proto' already define in macro (value = 'udp')",
            ),
            (
                &[("macro", "ssh"), ("dest", "fd00::1"), ("source", "10.0.0.1")],
                "dest",
                "detected mixed ipv4/ipv6 addresses in rule",
            ),
            (
                &[("type", "forward")],
                "type",
                "invalid rule type 'forward' for rule_env 'ct'",
            ),
            (
                &[("dport", "80")],
                "proto",
                "missing property - 'dport' requires this property",
            ),
            (
                &[("proto", "gre"), ("sport", "80")],
                "sport",
                "protocol 'gre' does not support ports",
            ),
            (
                &[("proto", "icmp"), ("source", "fd00::1")],
                "source",
                "detected mixed ipv4/ipv6 addresses in rule",
            ),
            (
                &[("proto", "icmp"), ("icmp-type", "no-route")],
                "icmp-type",
                "invalid icmp-type 'no-route' for proto 'icmp'",
            ),
            (&[("source", "+none")], "source", "no such ipset 'none'"),
            (&[("source", "guest/gw")], "source", "no such alias 'guest/gw'"),
            (
                &[("iface", "eth0")],
                "iface",
                "value does not match the regex pattern 'net\\d+'",
            ),
            (&[("macro", "nope")], "macro", "unknown macro 'nope'"),
        ] {
            assert_eq!(fault(pairs), Some((field.to_owned(), text.to_owned())), "{pairs:?}");
        }
        for pairs in [
            &[("macro", "https"), ("source", "10.0.0.0/8,192.168.0.1")][..],
            &[("proto", "icmp"), ("icmp-type", "echo-request")],
            &[("proto", "udp"), ("dport", "ssh,5353"), ("iface", "net0")],
            &[("macro", "Ping"), ("source", "fd00::1")],
            &[("type", "group"), ("action", "web")],
        ] {
            assert_eq!(fault(pairs), None, "{pairs:?}");
        }
    }
}
