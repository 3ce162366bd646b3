//! Firewall rules of a guest: a list in which the position is the only identity (facts D.12).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use super::firewall::{check, ip_version, of};
use crate::simulator::model::firewall::Firewall;
use crate::simulator::model::property::split_list;
use crate::simulator::model::{ApiError, Result, State};
use crate::simulator::schema::validate::regex;

type Rule = BTreeMap<String, String>;

const FIELDS: &[&str] = &[
    "type",
    "action",
    "macro",
    "iface",
    "source",
    "dest",
    "proto",
    "dport",
    "sport",
    "icmp-type",
    "log",
    "comment",
    "enable",
];
/// Macros that exist; names as in the firewall's own list.
const MACROS: &str = "Amanda Auth BGP BitTorrent BitTorrent32 CVS Ceph Citrix DAAP DCC DHCPfwd DHCPv6 DNS Distcc FTP \
    Finger GNUnet GRE Git HKP HTTP HTTPS ICPV2 ICQ IMAP IMAPS IPIP IPsec IPsecah IPsecnat IRC Jetdirect L2TP LDAP LDAPS \
    MDNS MSNP MSSQL Mail Munin MySQL NNTP NNTPS NTP NeighborDiscovery OSPF OpenVPN PBS PCA PMG POP3 POP3S PPtP Ping \
    PostgreSQL Printer RDP RIP RNDC Razor Rdate Rsync SANE SMB SMBswat SMTP SMTPS SNMP SPAMD SPICEproxy SSH SVN SixXS \
    Squid Submission Syslog TFTP Telnet Telnets Time Trcrt VNC VNCL Web Webcache Webmin Whois";

fn row(rule: &Rule, pos: Value) -> Value {
    let mut row = json!({ "pos": pos });
    for (key, text) in rule {
        row[key] = if key == "enable" {
            json!(text.parse::<i64>().unwrap_or(0))
        } else {
            json!(text)
        };
    }
    if rule.get("enable").is_none() {
        row["enable"] = json!(0);
    }
    let address = ["source", "dest"].iter().find_map(|key| rule.get(*key));
    if let Some(version) = address.and_then(|text| ip_version(text.split([',', '-']).next().unwrap_or_default())) {
        row["ipversion"] = json!(version);
    }
    row
}

/// `GET …/rules`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let firewall = of(state, call);
    let digest = firewall.digest();
    let rows = firewall.rules.iter().enumerate().map(|(pos, rule)| {
        let mut row = row(rule, json!(pos));
        row["digest"] = json!(digest);
        row
    });
    Ok(rows.collect::<Vec<_>>().into())
}

fn position(firewall: &Firewall, call: &Call) -> Result<usize> {
    let pos = call.params.int("pos").unwrap_or(0) as usize;
    if pos < firewall.rules.len() {
        Ok(pos)
    } else {
        Err(ApiError::die(format!("no rule at position {pos}")))
    }
}

/// `GET …/rules/{pos}`.
pub fn read(state: &mut State, call: &Call) -> Answer {
    let firewall = of(state, call);
    let pos = position(firewall, call)?;
    let mut row = row(&firewall.rules[pos], json!(pos.to_string()));
    row["digest"] = json!(firewall.digest());
    Ok(row.into())
}

fn check_address(firewall: &Firewall, key: &str, text: &str) -> Result<()> {
    for part in split_list(text) {
        let ends: Vec<&str> = part.split('-').collect();
        if ends.iter().all(|end| ip_version(end).is_some()) {
            continue;
        }
        if let Some(name) = part.strip_prefix('+') {
            let name = name.trim_start_matches("guest/");
            if !firewall.ipsets.contains_key(name) {
                return Err(ApiError::param(key, format!("no such ipset '{name}'")));
            }
            continue;
        }
        let name = part.trim_start_matches("guest/");
        if !firewall.aliases.keys().any(|alias| alias.eq_ignore_ascii_case(name)) {
            return Err(ApiError::param(key, format!("no such alias '{part}'")));
        }
    }
    Ok(())
}

fn check_rule(firewall: &Firewall, rule: &Rule) -> Result<()> {
    if let Some(name) = rule.get("macro")
        && !MACROS.split_whitespace().any(|known| known.eq_ignore_ascii_case(name))
    {
        return Err(ApiError::param("macro", format!("unknown macro '{name}'")));
    }
    if let Some(iface) = rule.get("iface")
        && regex(r"net\d+").is_some_and(|regex| !regex.is_match(iface))
    {
        return Err(ApiError::param(
            "iface",
            r"value does not match the regex pattern 'net\d+'",
        ));
    }
    let kind = rule.get("type").map(String::as_str).unwrap_or_default();
    let action = rule.get("action").map(String::as_str).unwrap_or_default();
    if kind != "group" && !["ACCEPT", "DROP", "REJECT"].contains(&action) {
        return Err(ApiError::param("action", format!("unknown action '{action}'")));
    }
    for key in ["source", "dest"] {
        if let Some(text) = rule.get(key) {
            check_address(firewall, key, text)?;
        }
    }
    for key in ["dport", "sport"] {
        if rule.contains_key(key) && !rule.contains_key("proto") && !rule.contains_key("macro") {
            return Err(ApiError::param(
                "proto",
                format!("missing property - '{key}' requires this property"),
            ));
        }
    }
    Ok(())
}

fn given(call: &Call) -> Rule {
    call.params.options(|key| FIELDS.contains(&key))
}

/// `POST …/rules`: a new rule goes to the front, whatever `pos` says, and is off unless switched on.
pub fn create(state: &mut State, call: &Call) -> Answer {
    let mut rule = given(call);
    rule.entry("enable".to_owned()).or_insert_with(|| "0".to_owned());
    check_rule(of(state, call), &rule)?;
    check(state, call)?;
    of(state, call).rules.insert(0, rule);
    Ok(Reply::NULL)
}

/// `PUT …/rules/{pos}`.
pub fn update(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let moveto = call.params.int("moveto");
    let firewall = of(state, call);
    let pos = position(firewall, call)?;
    if let Some(to) = moveto {
        // The position counts places between rules as they were, so moving down ends one place earlier.
        let to = (to as usize).min(firewall.rules.len());
        let rule = firewall.rules.remove(pos);
        let to = if to > pos { to - 1 } else { to };
        firewall.rules.insert(to, rule);
        return Ok(Reply::NULL);
    }
    let mut rule = firewall.rules[pos].clone();
    rule.extend(given(call));
    for key in call.params.list("delete") {
        rule.remove(&key);
    }
    check_rule(firewall, &rule)?;
    firewall.rules[pos] = rule;
    Ok(Reply::NULL)
}

/// `DELETE …/rules/{pos}`.
pub fn delete(state: &mut State, call: &Call) -> Answer {
    check(state, call)?;
    let firewall = of(state, call);
    let pos = position(firewall, call)?;
    firewall.rules.remove(pos);
    Ok(Reply::NULL)
}
