//! Which of the addresses that a guest reports is its own: that of the card that Proxmox gave it, never one of a network
//! inside it (Docker, Kubernetes, libvirt), of a VPN, or one that moves between guests.

use std::net::IpAddr;

use crate::observed::Guest;
use crate::proxmox;
use crate::pve::property::{self, Properties, is_mac};

/// An interface as a guest reports it.
pub(super) struct Interface {
    name: String,
    mac: Option<String>,
    /// Addresses with the lengths of their prefixes, in the guest's order.
    addresses: Vec<(IpAddr, Option<u8>)>,
}

impl From<&proxmox::guest::Interface> for Interface {
    fn from(found: &proxmox::guest::Interface) -> Self {
        let single = found.inet.iter().chain(&found.inet6).filter_map(|text| cidr(text));
        let listed = found.addresses.iter().filter_map(listed);
        Interface {
            name: found.name.clone(),
            mac: found.hwaddr.clone(),
            addresses: listed.chain(single).collect(),
        }
    }
}

impl From<&proxmox::qemu::AgentInterface> for Interface {
    fn from(found: &proxmox::qemu::AgentInterface) -> Self {
        Interface {
            name: found.name.clone(),
            mac: found.mac.clone(),
            addresses: found.addresses.iter().filter_map(listed).collect(),
        }
    }
}

fn listed(found: &proxmox::guest::Address) -> Option<(IpAddr, Option<u8>)> {
    let (ip, prefix) = cidr(&found.address)?;
    Some((ip, found.prefix.or(prefix)))
}

/// An address with or without zone and prefix length.
fn cidr(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let (start, end) = text.split_once('%').unwrap_or((text, ""));
    let prefix = end.find('/').map_or("", |at| &end[at..]);
    property::cidr(format!("{start}{prefix}").trim())
}

/// What the configuration says of a card.
#[derive(Default)]
struct Card {
    /// Name inside a container.
    name: Option<String>,
    mac: Option<String>,
    /// Static addresses.
    fixed: Vec<IpAddr>,
}

impl Card {
    fn is(&self, interface: &Interface) -> bool {
        let same_mac = match (&self.mac, &interface.mac) {
            (Some(own), Some(found)) => own.eq_ignore_ascii_case(found),
            _ => false,
        };
        same_mac || self.name.as_ref() == Some(&interface.name)
    }
}

/// The cards of a guest, the first one first.
fn cards(guest: &Guest) -> Vec<Card> {
    let parse = |text: &str| Properties::parse(text, Some("model")).unwrap_or_default();
    let fixed = |parts: &Properties| {
        let given = ["ip", "ip6"].into_iter().filter_map(|key| parts.get(key));
        given.filter_map(|text| Some(cidr(text)?.0)).collect::<Vec<_>>()
    };
    let nets = guest.numbered("net").into_iter();
    nets.map(|(index, text)| {
        let net = parse(text);
        let mut card = Card {
            name: net.get("name").map(str::to_string),
            // A container has `hwaddr=`, a machine `macaddr=` or its model's name.
            mac: net
                .iter()
                .find(|(_, value)| is_mac(value))
                .map(|(_, mac)| mac.to_string()),
            fixed: fixed(&net),
        };
        let cloud_init = guest.options.get(&format!("ipconfig{index}")).map(|text| parse(text));
        card.fixed.extend(cloud_init.iter().flat_map(fixed));
        card
    })
    .collect()
}

/// The address of a guest.
pub(super) fn of_guest(guest: &Guest, interfaces: impl Iterator<Item = Interface>) -> Option<String> {
    own(&cards(guest), interfaces.collect()).map(|ip| ip.to_string())
}

/// The first card's static address where the guest has it; else one of the interface with its MAC. A bridge or bond of
/// the guest's may have it instead of the card that is a port of it.
fn own(cards: &[Card], mut there: Vec<Interface>) -> Option<IpAddr> {
    there.retain(|interface| !is_loopback(interface));
    for interface in &mut there {
        interface.addresses.retain(|(ip, _)| is_usable(ip));
    }
    there.sort_by(|a, b| {
        rank(a)
            .cmp(&rank(b))
            .then_with(|| natural(&a.name).cmp(&natural(&b.name)))
    });
    let has = |ip: &IpAddr| there.iter().any(|i| i.addresses.iter().any(|(found, _)| found == ip));
    for card in cards {
        if let Some(fixed) = card.fixed.iter().find(|ip| has(ip)) {
            return Some(*fixed);
        }
        if let Some(ip) = there.iter().filter(|i| card.is(i)).find_map(best) {
            return Some(ip);
        }
    }
    let seen = there.iter().any(|i| cards.iter().any(|card| card.is(i)));
    let others = there.iter().filter(|i| !is_inner(i));
    // Where the cards are there without an address, one of an unknown interface is none of theirs.
    let mut others = others.filter(|i| !seen || rank(i) < Rank::Unknown);
    others.find_map(best)
}

/// An address that others can reach, that of the guest itself first: one with a network comes before one for itself alone,
/// which may move between guests, and a global one before a private one.
fn best(interface: &Interface) -> Option<IpAddr> {
    let order = |(ip, prefix): &&(IpAddr, Option<u8>)| match ip {
        IpAddr::V4(_) => (0, *prefix == Some(32), false),
        IpAddr::V6(v6) => (1, *prefix == Some(128), v6.is_unique_local()),
    };
    interface.addresses.iter().min_by_key(order).map(|(ip, _)| *ip)
}

fn is_usable(ip: &IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

fn is_loopback(interface: &Interface) -> bool {
    interface.name == "lo" || interface.addresses.iter().any(|(ip, _)| ip.is_loopback())
}

/// How much the name of an interface looks like a card's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Card,
    /// Of cards: a bridge, a bond.
    OfCards,
    Unknown,
}

fn rank(interface: &Interface) -> Rank {
    let name = interface.name.to_lowercase();
    let starts = |list: &[&str]| list.iter().any(|start| name.starts_with(start));
    match () {
        () if starts(&["eth", "en", "em", "wl", "wan", "lan", "local area connection", "vtnet"]) => Rank::Card,
        () if starts(&["bond", "team", "br-lan", "vmbr"]) || is_numbered(&name, "br") => Rank::OfCards,
        () => Rank::Unknown,
    }
}

/// Interfaces of networks inside a guest, of VPNs and of overlays, whatever follows in their names.
const INNER: &[&str] = &[
    "antrea",
    "cali",
    "cilium",
    "cloudflarewarp",
    "cni",
    "docker",
    "dummy",
    "erspan",
    "flannel",
    "genev",
    "gretap",
    "hamachi",
    "hassio",
    "incusbr",
    "ip6gre",
    "ip6tnl",
    "ip6_vti",
    "ip_vti",
    "ipsec",
    "isatap",
    "kube",
    "loopback",
    "lxc",
    "lxdbr",
    "macvtap",
    "minikube",
    "mpqemubr",
    "mullvad",
    "nebula",
    "nerdctl",
    "netbird",
    "nodelocaldns",
    "nordlynx",
    "openvpn",
    "ovn",
    "ovs",
    "podman",
    "proton",
    "tailscale",
    "teredo",
    "tunl",
    "utun",
    "vboxnet",
    "vethernet",
    "veth",
    "virbr",
    "virtualbox",
    "vmnet",
    "vmware",
    "vnet",
    "vxlan",
    "weave",
    "wireguard",
    "zerotier",
];
/// The same where a number follows, or nothing.
const NUMBERED: &[&str] = &[
    "gre", "ham", "ifb", "ipvs", "kind", "ppp", "sit", "tap", "tun", "vti", "warp", "wg", "wt", "xfrm",
];

fn is_inner(interface: &Interface) -> bool {
    let name = interface.name.to_lowercase();
    let known = INNER.iter().any(|start| name.starts_with(start))
        || NUMBERED.iter().any(|start| is_numbered(&name, start))
        // ZeroTier and WireGuard name theirs after the network.
        || ["zt", "wg-", "tun-", "tap-"].iter().any(|start| name.starts_with(start));
    // A bridge of a Docker network: `br-` and the network's id, an address of Docker's own range.
    let network = name
        .strip_prefix("br-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let docker = interface.mac.as_ref().is_some_and(|mac| mac.starts_with("02:42:"));
    known || network || docker || (rank(interface) == Rank::Unknown && interface.addresses.iter().any(is_gateway))
}

/// Whether it is the first address of a private network, as that of a bridge for others is.
fn is_gateway((ip, prefix): &(IpAddr, Option<u8>)) -> bool {
    let (IpAddr::V4(ip), Some(prefix @ 8..=30)) = (ip, prefix) else {
        return false;
    };
    ip.is_private() && u32::from(*ip) & (u32::MAX >> prefix) == 1
}

fn is_numbered(name: &str, start: &str) -> bool {
    let rest = name.strip_prefix(start);
    rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
}

/// A name so that `eth2` comes before `eth10`.
fn natural(name: &str) -> (usize, &str) {
    (name.len(), name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pve::{GuestRef, GuestType, Vmid};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        case: String,
        interfaces: Vec<Reported>,
        want: Option<String>,
    }

    #[derive(Deserialize)]
    struct Reported {
        name: String,
        #[serde(default)]
        mac: Option<String>,
        ips: Vec<String>,
    }

    fn reported(list: &[(&str, &str, &[&str])]) -> Vec<Interface> {
        let interface = |(name, mac, ips): &(&str, &str, &[&str])| Interface {
            name: (*name).into(),
            mac: (!mac.is_empty()).then(|| (*mac).into()),
            addresses: ips.iter().filter_map(|text| cidr(text)).collect(),
        };
        list.iter().map(interface).collect()
    }

    fn guest(sort: GuestType, options: &[(&str, &str)]) -> Guest {
        let options = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string()));
        Guest {
            options: options.collect::<BTreeMap<_, _>>(),
            ..Guest::new(GuestRef::new(sort, Vmid::MIN, "n"))
        }
    }

    #[test]
    fn the_address_is_the_guests_own_by_the_names_alone_and_by_its_card() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("addresses.json")).unwrap();
        let card = |name: &str| Card {
            name: Some(name.into()),
            ..Card::default()
        };
        for case in cases {
            // A card is not always told: a machine may have none but one that is passed through.
            for cards in [vec![], vec![card("eth0")]] {
                let interfaces = case.interfaces.iter().map(|reported| Interface {
                    name: reported.name.clone(),
                    mac: reported.mac.clone(),
                    addresses: reported.ips.iter().filter_map(|text| cidr(text)).collect(),
                });
                let found = own(&cards, interfaces.collect()).map(|ip| ip.to_string());
                match case.want.as_deref() {
                    Some("any") => assert!(found.is_some(), "{}", case.case),
                    want => assert_eq!(found.as_deref(), want, "{}", case.case),
                }
            }
        }
    }

    #[test]
    fn the_card_of_the_first_interface_counts_whatever_it_is_called() {
        let vm = guest(
            GuestType::Qemu,
            &[
                ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
                ("net1", "virtio=BC:24:11:00:00:02,bridge=vmbr1"),
            ],
        );
        let lxc = guest(
            GuestType::Lxc,
            &[
                ("net0", "name=wg,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth"),
                ("net1", "name=eth0,hwaddr=BC:24:11:00:00:02,ip=dhcp,type=veth"),
            ],
        );
        let mac = ["bc:24:11:00:00:01", "bc:24:11:00:00:02"];
        for guest in [&vm, &lxc] {
            let list = [
                ("eth0", mac[1], ["10.99.0.10/24"].as_slice()),
                ("docker0", "", &["172.17.0.1/16"]),
                ("wg", mac[0], &["fe80::1%2/64", "192.168.1.10/24"]),
            ];
            let found = of_guest(guest, reported(&list).into_iter());
            assert_eq!(found.as_deref(), Some("192.168.1.10"));
            // Until the first one has an address, that of the next one is told.
            let found = of_guest(guest, reported(&list[..2]).into_iter());
            assert_eq!(found.as_deref(), Some("10.99.0.10"));
            // An unknown network inside is none of them.
            let inside = [
                ("eth0", mac[1], ["fe80::2/64"].as_slice()),
                ("overlay9", "", &["10.3.2.7/16"]),
            ];
            assert_eq!(of_guest(guest, reported(&inside).into_iter()), None);
        }
    }

    #[test]
    fn a_static_address_wins_over_one_that_moves_between_guests() {
        for (sort, options) in [
            (
                GuestType::Lxc,
                vec![(
                    "net0",
                    "name=eth0,hwaddr=BC:24:11:00:00:01,ip=10.0.0.5/24,ip6=fd00::5/64",
                )],
            ),
            (
                GuestType::Qemu,
                vec![
                    ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
                    ("ipconfig0", "ip=10.0.0.5/24,gw=10.0.0.1"),
                ],
            ),
        ] {
            let guest = guest(sort, &options);
            let list = [("br0", "aa:00:00:00:00:01", ["10.0.0.250/24", "10.0.0.5/24"].as_slice())];
            let found = of_guest(&guest, reported(&list).into_iter());
            assert_eq!(found.as_deref(), Some("10.0.0.5"), "on a bridge over the card");
        }
    }
}
