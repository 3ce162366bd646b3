//! Formats of firewall rules: addresses, ports, protocols, and what macros stand for.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::validate::regex;
use crate::simulator::model::addresses::{self, Range};

/// Names of services with a port, as a Debian node knows them.
const SERVICES: &str = include_str!("firewall/services.txt");
/// Names and numbers of protocols, as a Debian node knows them.
const PROTOCOLS: &str = include_str!("firewall/protocols.txt");
/// Macros: version of IP, name, and `protocol/port<source port` of each rule that they stand for.
const MACROS: &str = include_str!("firewall/macros.txt");
/// Name of an alias, optionally with its place.
const ALIAS: &str = r"(?:dc/|guest/)?[A-Za-z][A-Za-z0-9\-_]+";
/// Longest name of an alias or of a set.
const LONGEST_NAME: usize = 64;
const ICMP: &str = "any echo-reply destination-unreachable network-unreachable host-unreachable protocol-unreachable \
    port-unreachable fragmentation-needed source-route-failed network-unknown host-unknown network-prohibited \
    host-prohibited TOS-network-unreachable TOS-host-unreachable communication-prohibited host-precedence-violation \
    precedence-cutoff source-quench redirect network-redirect host-redirect TOS-network-redirect TOS-host-redirect \
    echo-request router-advertisement router-solicitation time-exceeded ttl-zero-during-transit \
    ttl-zero-during-reassembly parameter-problem ip-header-bad required-option-missing timestamp-request \
    timestamp-reply address-mask-request address-mask-reply";
const ICMP6: &str = "destination-unreachable no-route communication-prohibited beyond-scope address-unreachable \
    port-unreachable failed-policy reject-route packet-too-big time-exceeded ttl-zero-during-transit \
    ttl-zero-during-reassembly parameter-problem bad-header unknown-header-type unknown-option echo-request \
    echo-reply router-solicitation router-advertisement neighbor-solicitation neighbour-solicitation \
    neighbor-advertisement neighbour-advertisement redirect";

fn one_of(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}

/// Whether a type of ICMP exists for version 4 or 6.
pub fn is_icmp_type(version: u8, name: &str) -> bool {
    one_of(if version == 4 { ICMP } else { ICMP6 }, name)
}

/// True for the name of an alias.
pub fn is_alias(text: &str) -> bool {
    regex(ALIAS).is_some_and(|regex| regex.is_match(text))
}

/// What is wrong with the value of a format of the firewall; `None` as well for formats of others.
pub fn fault(name: &str, value: &str) -> Option<String> {
    match name {
        "pve-fw-addr-spec" => address_list(value).err(),
        "pve-fw-sport-spec" => ports(value, false).err(),
        "pve-fw-dport-spec" => ports(value, true).err(),
        "pve-fw-protocol-spec" => protocol_fault(value),
        "pve-fw-icmp-type-spec" => {
            let known = value.is_empty() || is_icmp_type(4, value) || is_icmp_type(6, value);
            (!known).then(|| format!("invalid icmp-type value '{value}'"))
        }
        "IPorCIDRorAlias" if is_alias(value) => None,
        "IPorCIDR" | "IPorCIDRorAlias" => match addresses::stored(value) {
            Ok(_) => Range::parse(&addresses::clean(value)).err(),
            Err(text) => Some(text),
        },
        "pve-iface" => {
            let good = regex(r"(?i:[a-z][a-z0-9_]{1,20}(?:[:.]\d+)?)").is_some_and(|regex| regex.is_match(value));
            (!good).then(|| format!("invalid network interface name '{value}'"))
        }
        _ => None,
    }
}

/// The parts of a list, in which every comma stands between two parts.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> = text.split(',').collect();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if parts.last().is_some_and(|last| last.is_empty()) {
        return Err("extraneous commas in list".to_owned());
    }
    Ok(parts)
}

/// Version of the addresses of `source` or `dest`; none where a set or an alias is named.
pub fn address_list(text: &str) -> Result<Option<u8>, String> {
    if text.starts_with('+') && text.len() > 1 && !text.contains(char::is_whitespace) {
        let long = text.len() > LONGEST_NAME + 1;
        return if long {
            Err("ipset name too long".to_owned())
        } else {
            Ok(None)
        };
    }
    if is_alias(text) {
        let long = text.len() > LONGEST_NAME;
        return if long {
            Err("alias name too long".to_owned())
        } else {
            Ok(None)
        };
    }
    let parts = parts(text)?;
    let mut version = None;
    for part in &parts {
        let range = Range::parse(part).map_err(|error| format!("invalid IP address: {error}"))?;
        if version.is_some_and(|known| known != range.version) {
            return Err(format!("detected mixed ipv4/ipv6 addresses in address list '{text}'"));
        }
        version = Some(range.version);
    }
    if parts.len() > 1 && parts.iter().any(|part| part.contains('-')) {
        return Err("you can't use a range in a list".to_owned());
    }
    Ok(version)
}

/// Ports, ranges of ports and services; types of ICMP as well where `icmp` says so.
pub fn ports(text: &str, icmp: bool) -> Result<(), String> {
    let (mut numbers, mut types) = (0, false);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| -> Result<u32, String> {
        let found = text.parse().ok().filter(|port| *port <= 65_535);
        found.ok_or_else(|| format!("invalid port '{text}'"))
    };
    for part in parts(text)? {
        match part
            .split_once(':')
            .filter(|(first, last)| digits(first) && digits(last))
        {
            Some((first, last)) => {
                numbers += 2;
                if number(first)? > number(last)? {
                    return Err(format!(
                        "backwards range '{first}:{last}' not allowed, did you mean '{last}:{first}'?"
                    ));
                }
            }
            None if digits(part) => {
                numbers += 1;
                number(part)?;
            }
            None if icmp && (is_icmp_type(4, part) || is_icmp_type(6, part)) => types = true,
            None if one_of(SERVICES, part) => {}
            None => return Err(format!("invalid port '{part}'")),
        }
    }
    if types && numbers > 0 {
        return Err("ICMP ports not allowed in port range".to_owned());
    }
    if numbers > 15 {
        return Err("too many entries in port list (> 15 numbers)".to_owned());
    }
    Ok(())
}

/// What is wrong with a protocol.
pub fn protocol_fault(text: &str) -> Option<String> {
    let mut rows = PROTOCOLS.split_whitespace().filter_map(|row| row.split_once('='));
    let known =
        text.is_empty() || matches!(text, "0" | "icmpv6") || rows.any(|(name, number)| name == text || number == text);
    (!known).then(|| format!("unknown protocol '{text}'"))
}

/// A rule that a macro stands for: what it decides by itself.
pub type Template = BTreeMap<&'static str, &'static str>;

/// A macro.
#[derive(Debug, Default)]
pub struct Macro {
    /// Its rules.
    pub rules: Vec<Template>,
    /// Its rules for IPv6 where they differ.
    pub ipv6: Option<Vec<Template>>,
    /// Exists for IPv6 only.
    pub only_ipv6: bool,
}

static TABLE: LazyLock<BTreeMap<&'static str, Macro>> = LazyLock::new(|| {
    let mut table: BTreeMap<&str, Macro> = BTreeMap::new();
    for line in MACROS.lines() {
        let mut words = line.split_whitespace();
        let (Some(version), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let rules: Vec<Template> = words.map(template).collect();
        if version == "ipv4" {
            table.entry(name).or_default().rules = rules;
        } else if let Some(known) = table.get_mut(name) {
            known.ipv6 = Some(rules);
        } else {
            let found = Macro {
                rules,
                ipv6: None,
                only_ipv6: true,
            };
            table.insert(name, found);
        }
    }
    table
});

fn template(word: &'static str) -> Template {
    let (rest, sport) = word
        .split_once('<')
        .map_or((word, None), |(rest, port)| (rest, Some(port)));
    let (proto, dport) = rest
        .split_once('/')
        .map_or((rest, None), |(proto, port)| (proto, Some(port)));
    let keys = [("proto", Some(proto)), ("dport", dport), ("sport", sport)];
    keys.into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
}

/// A macro by its name in any case, with the name as Proxmox writes it.
pub fn find_macro(name: &str) -> Option<(&'static str, &'static Macro)> {
    let mut table = TABLE.iter();
    table
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(known, found)| (*known, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_refused_in_proxmox_words() {
        for (format, value, text) in [
            ("pve-fw-dport-spec", "http,bogus", "invalid port 'bogus'"),
            (
                "pve-fw-dport-spec",
                "90:80",
                "backwards range '90:80' not allowed, did you mean '80:90'?",
            ),
            ("pve-fw-dport-spec", "80,", "extraneous commas in list"),
            (
                "pve-fw-dport-spec",
                "80,echo-request",
                "ICMP ports not allowed in port range",
            ),
            ("pve-fw-sport-spec", "echo-request", "invalid port 'echo-request'"),
            (
                "pve-fw-sport-spec",
                "1:2,3:4,5:6,7:8,9:10,11:12,13:14,15:16",
                "too many entries in port list (> 15 numbers)",
            ),
            (
                "pve-fw-addr-spec",
                "10.0.0.1,fd00::1",
                "detected mixed ipv4/ipv6 addresses in address list '10.0.0.1,fd00::1'",
            ),
            (
                "pve-fw-addr-spec",
                "10.0.0.1-10.0.0.2,10.0.0.3",
                "you can't use a range in a list",
            ),
            ("pve-fw-protocol-spec", "bogus", "unknown protocol 'bogus'"),
            ("pve-fw-icmp-type-spec", "8", "invalid icmp-type value '8'"),
            (
                "IPorCIDR",
                "10.0",
                "value does not look like a valid IP address or CIDR network",
            ),
            (
                "IPorCIDR",
                "10.0.0.0/40",
                "Prefix length 40 is longer than IP address (32)",
            ),
            ("pve-iface", "0net", "invalid network interface name '0net'"),
        ] {
            assert_eq!(fault(format, value), Some(text.to_owned()), "{format} {value}");
        }
        for (format, value) in [
            ("pve-fw-dport-spec", "ssh,8000:8010,echo"),
            ("pve-fw-dport-spec", "echo-request"),
            ("pve-fw-addr-spec", "+trusted"),
            ("pve-fw-addr-spec", "guest/gw"),
            ("pve-fw-protocol-spec", "47"),
            ("IPorCIDR", "10.0.0.1/8"),
            ("IPorCIDRorAlias", "dc/gw"),
        ] {
            assert_eq!(fault(format, value), None, "{format} {value}");
        }
    }

    #[test]
    fn macros_are_read() {
        let (name, dns) = find_macro("dns").unwrap();
        assert_eq!((name, dns.rules.len()), ("DNS", 2));
        let (_, smb) = find_macro("SMB").unwrap();
        assert_eq!(
            smb.rules[2],
            BTreeMap::from([("proto", "udp"), ("dport", "1024:65535"), ("sport", "137")])
        );
        assert!(find_macro("Ping").is_some_and(|(_, found)| found.ipv6.is_some() && !found.only_ipv6));
        assert!(find_macro("DHCPv6").is_some_and(|(_, found)| found.only_ipv6));
        assert!(find_macro("nope").is_none());
    }
}
