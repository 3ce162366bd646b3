//! `network_config`, `mac_address` and name servers of a guest.

use core::net::Ipv4Addr;

use crate::crd::{Dns, IpAddress, Network};

use super::json::{At, Node};
use super::values;
use super::writer::{Item, Writer};

/// An address or MAC of a guest, for the search for duplicates.
#[derive(Clone, Debug)]
pub struct Used<'a> {
    /// The address, in its normal form.
    pub value: String,
    /// Where it stands.
    pub at: At<'a>,
    /// The guest in messages.
    pub label: String,
}

/// Addresses that the guests use.
#[derive(Debug, Default)]
pub struct Addresses<'a> {
    /// IPv4 addresses without prefix length.
    pub ips: Vec<Used<'a>>,
    /// MAC addresses in upper case.
    pub macs: Vec<Used<'a>>,
    /// Gateways.
    pub gateways: Vec<Used<'a>>,
}

/// Network interfaces and name resolution of a guest.
#[derive(Debug, Default)]
pub struct Networking {
    /// Interfaces; absent where the file says nothing.
    pub network: Option<Vec<Network>>,
    /// Name resolution.
    pub dns: Option<Dns>,
    /// Interfaces that got another name than the file gives them: old and new name.
    pub renamed: Vec<(String, String)>,
}

/// How interfaces are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// As the interface in the guest, `eth0`.
    Containers,
    /// By Proxmox's number, `net0`: names in the guest are its own affair.
    Machines,
}

impl Naming {
    /// The name of the interface with this number.
    pub fn name(self, number: usize) -> String {
        match self {
            Naming::Containers => format!("eth{number}"),
            Naming::Machines => format!("net{number}"),
        }
    }

    /// The name that is written for one of the file.
    fn written(self, text: &str) -> Option<String> {
        match self {
            Naming::Containers => values::interface(text),
            Naming::Machines => values::machine_interface(text),
        }
    }
}

const STATIC_IP: &str = "an IPv4 address with prefix length such as 10.0.0.150/24, or dhcp";
/// Spellings of one field, the first being ours.
const FIELDS: &[(&str, &[&str])] = &[
    ("name", &["name", "interface"]),
    ("bridge", &["bridge", "network_bridge"]),
    ("ip", &["ip", "ip_address", "address"]),
    ("gateway", &["gw", "gateway"]),
    ("ip6", &["ip6", "ipv6"]),
    ("gateway6", &["gw6", "gateway6"]),
    ("mac", &["mac", "mac_address", "hwaddr"]),
    ("vlan", &["vlan", "vlan_tag", "tag"]),
    ("mtu", &["mtu"]),
    ("rate", &["rate"]),
    ("firewall", &["firewall"]),
    ("dns", &["nameservers", "nameserver", "dns", "dns_nameservers"]),
];

/// Maps the guest's network. `subnet` is the fleet's network, for addresses without prefix length.
pub fn networking<'a>(
    w: &mut Writer,
    guest: &At<'a>,
    naming: Naming,
    subnet: Option<(Ipv4Addr, u8)>,
    addresses: &mut Addresses<'a>,
) -> Networking {
    let mut out = Networking::default();
    let configs = [
        w.key(guest, &["network_config", "network"]),
        w.key(guest, &["secondary_network_config", "secondary_network"]),
    ];
    let interfaces: Vec<At> = configs.iter().flatten().flat_map(interfaces).collect();
    if !interfaces.is_empty() {
        let mut network: Vec<Network> = Vec::new();
        for at in interfaces {
            let Some(fields) = fields_of(w, &at) else { continue };
            let named = fields
                .iter()
                .find(|(f, _)| *f == "name")
                .and_then(|(_, item)| item.text.clone());
            let free =
                |n: &usize| naming == Naming::Containers || network.iter().all(|nic| nic.name != naming.name(*n));
            let next = (network.len()..).find(free).unwrap_or_default();
            let name = (named.as_deref())
                .and_then(|t| naming.written(t))
                .unwrap_or_else(|| naming.name(next));
            if network.len() == 16 || network.iter().any(|n| n.name == name) {
                let message = format!("interface {name} is there already, or the sixteenth is passed");
                w.skip_warn(&at, &message, "give interfaces different names, and at most 16");
                continue;
            }
            let mut interface = Interface {
                w,
                path: format!("network[{}]", network.len()),
                naming,
                subnet,
            };
            out.renamed
                .extend(named.filter(|n| *n != name).map(|n| (n, name.clone())));
            let nic = interface.map(&fields, name, &at, addresses, &mut out.dns);
            network.push(nic);
        }
        out.network = (!network.is_empty()).then_some(network);
    }
    guest_mac(w, guest, &mut out, addresses);
    guest_dns(w, guest, &mut out);
    out
}

/// A list of interfaces, or one.
fn interfaces<'a>(config: &At<'a>) -> Vec<At<'a>> {
    match config.node {
        Node::Array(items) if items.iter().any(|i| matches!(i, Node::Object(_))) => config.items(),
        _ => vec![config.clone()],
    }
}

fn guest_mac<'a>(w: &mut Writer, guest: &At<'a>, out: &mut Networking, addresses: &mut Addresses<'a>) {
    let Some(at) = w.key(guest, &["mac_address"]) else {
        return;
    };
    match out.network.as_mut().and_then(|n| n.first_mut()) {
        None => w.skip_warn(&at, "mac_address without an interface", "give a network_config"),
        Some(nic) if nic.mac.is_some() => w.skip(&at, "the interface names its MAC itself"),
        Some(nic) => {
            let read = |node: &Node| values::text(node).and_then(|t| values::mac(&t));
            nic.mac = w.value(
                &at,
                "network[0].mac",
                read,
                "a unicast MAC address such as BC:24:11:00:00:01",
            );
            note_mac(nic, &at, &w.label, addresses);
        }
    }
}

fn note_mac<'a>(nic: &Network, at: &At<'a>, label: &str, addresses: &mut Addresses<'a>) {
    if let Some(mac) = &nic.mac {
        addresses.macs.push(Used {
            value: mac.to_ascii_uppercase(),
            at: at.clone(),
            label: label.to_owned(),
        });
    }
}

fn guest_dns(w: &mut Writer, guest: &At, out: &mut Networking) {
    if let Some(at) = w.key(guest, &["nameservers", "nameserver", "dns", "dns_nameservers"]) {
        let items = w.list(&at, &[',', ' ']);
        nameservers(w, &items, &mut out.dns);
    }
    let domain = w.text(
        guest,
        &["searchdomain", "search_domain"],
        "dns.searchDomain",
        values::hostname,
        "a domain name",
    );
    if domain.is_some() {
        out.dns.get_or_insert_default().search_domain = domain;
    }
}

fn nameservers(w: &mut Writer, items: &[Item], dns: &mut Option<Dns>) {
    for item in items {
        match item.text.as_deref().and_then(values::ip) {
            Some(address) => {
                let list = dns.get_or_insert_default().nameservers.get_or_insert_default();
                if list.len() == 8 {
                    w.skip_warn(&item.at, "more than 8 name servers", "keep the ones that matter");
                    continue;
                }
                let known = list.iter().position(|a| a.0 == address);
                let place = known.unwrap_or(list.len());
                if known.is_none() {
                    list.push(IpAddress(address));
                }
                w.mapped(&item.at, &format!("dns.nameservers[{place}]"), "");
            }
            None => w.unreadable(&item.at, "an IP address"),
        }
    }
}

type Fields<'a> = Vec<(&'static str, Item<'a>)>;

/// The fields of an interface, from an object, from `ip,gateway,nameserver` or from `key=value,…`.
fn fields_of<'a>(w: &mut Writer, at: &At<'a>) -> Option<Fields<'a>> {
    let ours = |key: &str| {
        FIELDS
            .iter()
            .find(|(_, names)| names.contains(&key))
            .map(|(field, _)| *field)
    };
    match at.node {
        Node::Object(_) => {
            let mut fields: Fields = Vec::new();
            for (key, value) in at.entries() {
                let Some(field) = ours(key) else {
                    if key == "type" || key == "model" {
                        w.skip(
                            &value,
                            "one type of interface serves: veth for containers, virtio for machines",
                        );
                    }
                    continue;
                };
                if values::is_unset(value.node) {
                    w.defaulted(&value, "", super::writer::NOT_SET);
                } else if fields.iter().any(|(f, _)| *f == field) && field != "dns" {
                    w.skip_warn(&value, &format!("{key}: {field} is given twice"), "keep one of them");
                } else if field == "dns" {
                    fields.extend(w.list(&value, &[',', ' ']).into_iter().map(|item| (field, item)));
                } else {
                    fields.push((
                        field,
                        Item {
                            text: scalar(value.node),
                            at: value,
                        },
                    ));
                }
            }
            Some(fields)
        }
        Node::String(text) => {
            let item = |text: &str| Item {
                at: at.clone(),
                text: Some(text.trim().to_owned()),
            };
            let parts: Vec<_> = text.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
            if parts.iter().any(|p| p.contains('=')) {
                let pairs = parts.iter().filter_map(|p| p.split_once('='));
                return Some(pairs.filter_map(|(k, v)| Some((ours(k.trim())?, item(v)))).collect());
            }
            let names = ["ip", "gateway"].into_iter().chain(std::iter::repeat("dns"));
            Some(names.zip(parts).map(|(name, part)| (name, item(part))).collect())
        }
        _ => {
            w.unreadable(
                at,
                "an object with ip and gw, or text such as 10.0.0.110/24,10.0.0.1,8.8.8.8",
            );
            None
        }
    }
}

/// Text, number or truth value as text; truth values are 1 and 0.
pub fn scalar(node: &Node) -> Option<String> {
    match node {
        Node::Bool(value) => Some(u8::from(*value).to_string()),
        other => values::text(other),
    }
}

struct Interface<'w, 'l> {
    w: &'w mut Writer<'l>,
    path: String,
    naming: Naming,
    subnet: Option<(Ipv4Addr, u8)>,
}

impl Interface<'_, '_> {
    fn map<'a>(
        &mut self,
        fields: &Fields<'a>,
        default_name: String,
        at: &At<'a>,
        addresses: &mut Addresses<'a>,
        dns: &mut Option<Dns>,
    ) -> Network {
        let name = self.name(fields, &default_name);
        let mut nic = Network {
            name: name.unwrap_or(default_name),
            bridge: self.read(fields, "bridge", values::bridge, "a bridge name such as vmbr0"),
            mac: self.read(
                fields,
                "mac",
                values::mac,
                "a unicast MAC address such as BC:24:11:00:00:01",
            ),
            vlan: self.number(fields, "vlan", 1, 4094),
            mtu: self.number(fields, "mtu", 64, 65535),
            rate: self.number(fields, "rate", 1, 100_000),
            ..Network::default()
        };
        let flag = |text: &str| values::boolean(&Node::String(text.to_owned())).map(|on| on.to_string());
        nic.firewall = self
            .read(fields, "firewall", flag, "true or false")
            .map(|on| on == "true");
        self.addresses(fields, &mut nic);
        let servers: Vec<Item> = fields
            .iter()
            .filter(|(f, _)| *f == "dns")
            .map(|(_, item)| item.clone())
            .collect();
        nameservers(self.w, &servers, dns);
        let place = |field: &str| {
            fields
                .iter()
                .find(|(f, _)| *f == field)
                .map_or(at, |(_, i)| &i.at)
                .clone()
        };
        let used = |value: String, field: &str| Used {
            value,
            at: place(field),
            label: self.w.label.clone(),
        };
        if let Some((ip, _)) = nic.ip.as_deref().and_then(values::cidr4) {
            addresses.ips.push(used(ip.to_string(), "ip"));
        }
        if let Some(gateway) = &nic.gateway {
            addresses.gateways.push(used(gateway.clone(), "gateway"));
        }
        note_mac(&nic, &place("mac"), &self.w.label, addresses);
        nic
    }

    /// Machines name their interfaces themselves, so that any name but a number says nothing there.
    fn name(&mut self, fields: &Fields, default_name: &str) -> Option<String> {
        let naming = self.naming;
        if let (Naming::Machines, Some((_, item))) = (naming, fields.iter().find(|(f, _)| *f == "name"))
            && item.text.as_deref().and_then(|t| naming.written(t)).is_none()
        {
            let note = format!("interfaces of a machine have Proxmox's number ({default_name}); it names them itself");
            self.w.skip(&item.at, &note);
            return None;
        }
        self.read(fields, "name", |t| naming.written(t), "an interface name such as eth0")
    }

    fn addresses(&mut self, fields: &Fields, nic: &mut Network) {
        let subnet = self.subnet;
        let with_prefix = |text: &str| match text.to_ascii_lowercase().as_str() {
            word @ ("dhcp" | "manual") => Some(word.to_owned()),
            _ if values::cidr4(text).is_some() => Some(text.to_owned()),
            _ => {
                let (network, prefix) = subnet?;
                let address = text.parse::<Ipv4Addr>().ok()?;
                values::in_network(network, prefix, address).then(|| format!("{address}/{prefix}"))
            }
        };
        nic.ip = self.read(fields, "ip", with_prefix, STATIC_IP);
        let network = nic.ip.as_deref().and_then(values::cidr4);
        if let Some((_, item)) = fields.iter().find(|(f, _)| *f == "gateway") {
            let text = item.text.clone().unwrap_or_default();
            match (text.parse::<Ipv4Addr>(), network) {
                (Ok(gateway), Some((ip, prefix))) if values::in_network(ip, prefix, gateway) => {
                    nic.gateway = self.read(fields, "gateway", |t| Some(t.to_owned()), "");
                }
                (Ok(_), Some((ip, prefix))) => {
                    let why = format!("gateway {text} is not in the network of {ip}/{prefix}");
                    self.w.skip_warn(&item.at, &why, "correct the address or the gateway");
                }
                (Ok(_), None) => {
                    let why = format!("gateway {text} without a static address");
                    self.w.skip_warn(
                        &item.at,
                        &why,
                        "give the guest a static address, or leave the gateway to DHCP",
                    );
                }
                (Err(_), _) => self.bad(item, "gateway", "an IPv4 address such as 10.0.0.1"),
            }
        }
        let six = |text: &str| {
            let word = ["auto", "dhcp", "manual"].contains(&text);
            (word || values::cidr6(text).is_some()).then(|| text.to_owned())
        };
        nic.ip6 = self.read(
            fields,
            "ip6",
            six,
            "an IPv6 address with prefix length such as fd00::10/64, auto or dhcp",
        );
        let network6 = nic.ip6.as_deref().and_then(values::cidr6);
        let gateway6 = |t: &str| {
            let (ip, prefix) = network6?;
            let gateway = t.parse::<core::net::Ipv6Addr>().ok()?;
            values::in_network6(ip, prefix, gateway).then(|| t.to_owned())
        };
        nic.gateway6 = self.read(
            fields,
            "gateway6",
            gateway6,
            "a link-local IPv6 address or one in the network of ip6",
        );
    }

    fn read(
        &mut self,
        fields: &Fields,
        field: &'static str,
        check: impl Fn(&str) -> Option<String>,
        expected: &str,
    ) -> Option<String> {
        let (_, item) = fields.iter().find(|(f, _)| *f == field)?;
        match item.text.as_deref().and_then(check) {
            Some(value) => {
                self.w.mapped(&item.at, &format!("{}.{field}", self.path), "");
                Some(value)
            }
            None => {
                self.bad(item, field, expected);
                None
            }
        }
    }

    fn number(&mut self, fields: &Fields, field: &'static str, low: i64, high: i64) -> Option<i64> {
        let in_range = |t: &str| {
            t.parse::<i64>()
                .ok()
                .filter(|n| (low..=high).contains(n))
                .map(|n| n.to_string())
        };
        let text = self.read(fields, field, in_range, &format!("a whole number from {low} to {high}"))?;
        text.parse().ok()
    }

    fn bad(&mut self, item: &Item, field: &str, expected: &str) {
        let shown = item.text.clone().unwrap_or_else(|| item.at.node.show());
        let message = format!("{}: {field} {shown:?} is not {expected}", item.at.key());
        self.w
            .skip_warn(&item.at, &message, "correct it, or set the field by hand");
    }
}
