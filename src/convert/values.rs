//! Lenient readings of legacy values, and the checks that the CRDs make (`crd::schema`), so that what is written passes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::json::Node;

/// A whole number: a number, or a string that holds one. `2048.0` is whole.
pub fn integer(node: &Node) -> Option<i64> {
    let text = match node {
        Node::Number(digits) => digits.as_str(),
        Node::String(text) => text.trim(),
        _ => return None,
    };
    if let Ok(value) = text.parse::<i64>() {
        return Some(value);
    }
    let value: f64 = text.parse().ok()?;
    // Beyond 2^53 a float no longer says which whole number was meant.
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

/// A number with a fraction.
pub fn float(node: &Node) -> Option<f64> {
    let value: f64 = match node {
        Node::Number(digits) => digits.parse().ok()?,
        Node::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    value.is_finite().then_some(value)
}

/// A truth value: `true`, `1`, `"yes"`, `"on"` and their opposites.
pub fn boolean(node: &Node) -> Option<bool> {
    let text = match node {
        Node::Bool(value) => return Some(*value),
        Node::Number(digits) => digits.clone(),
        Node::String(text) => text.trim().to_ascii_lowercase(),
        _ => return None,
    };
    match text.as_str() {
        "1" | "true" | "yes" | "on" | "enabled" => Some(true),
        "0" | "false" | "no" | "off" | "disabled" => Some(false),
        _ => None,
    }
}

/// Text: a string without blanks around it, or the digits of a number. Empty text is no text.
pub fn text(node: &Node) -> Option<String> {
    let text = match node {
        Node::String(text) => text.trim().to_owned(),
        Node::Number(digits) => digits.clone(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// Whether the value says that nothing is set: null or blank text.
pub fn is_unset(node: &Node) -> bool {
    match node {
        Node::Null => true,
        Node::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// An amount of memory or disk in MiB. `unit` is the MiB that a bare number counts; strings may carry K, M, G or T with
/// or without `B` or `iB`.
pub fn mebibytes(node: &Node, unit: i64) -> Option<i64> {
    if let Some(value) = integer(node) {
        return value.checked_mul(unit);
    }
    let text = text(node)?.to_ascii_lowercase();
    let bare = text.trim_end_matches("ib").trim_end_matches('b').trim_end();
    let (number, factor) = match bare.chars().last()? {
        'm' => (bare.strip_suffix('m')?, 1.0),
        'g' => (bare.strip_suffix('g')?, 1024.0),
        't' => (bare.strip_suffix('t')?, 1024.0 * 1024.0),
        _ => (bare, unit as f64),
    };
    let mebibytes = number.trim_end().parse::<f64>().ok()? * factor;
    (mebibytes.fract() == 0.0 && mebibytes.abs() < 9e15).then_some(mebibytes as i64)
}

/// A Kubernetes quantity for MiB, in Gi where that is whole.
pub fn quantity(mebibytes: i64) -> String {
    match mebibytes {
        0 => "0".to_owned(),
        m if m % 1024 == 0 => format!("{}Gi", m / 1024),
        m => format!("{m}Mi"),
    }
}

/// GPU indices: `"none"`, `""`, null and false are none; a number, `"0,1"`, `"0, 1"` and lists name indices.
pub fn gpu_indices(node: &Node) -> Option<Vec<i64>> {
    let index = |text: &str| -> Option<i64> {
        let text = text.trim();
        let digits = text.strip_prefix("gpu").unwrap_or(text);
        let value = digits.parse::<i64>().ok()?;
        (digits.bytes().all(|b| b.is_ascii_digit()) && (0..=63).contains(&value)).then_some(value)
    };
    match node {
        Node::Null | Node::Bool(false) => Some(Vec::new()),
        Node::Number(digits) => integer(&Node::Number(digits.clone()))
            .and_then(|n| index(&n.to_string()))
            .map(|n| vec![n]),
        Node::String(text) => {
            let text = text.trim().to_ascii_lowercase();
            let text = text
                .strip_prefix('[')
                .and_then(|t| t.strip_suffix(']'))
                .unwrap_or(&text)
                .trim();
            match text {
                "" | "none" | "null" | "false" | "no" => Some(Vec::new()),
                list => list.split(',').map(index).collect(),
            }
        }
        Node::Array(items) => {
            let mut indices = Vec::new();
            for item in items {
                match item {
                    Node::Array(_) => return None,
                    other => indices.extend(gpu_indices(other)?),
                }
            }
            Some(indices)
        }
        _ => None,
    }
}

/// A guest id (facts C: 100 to 999,999,999) as a number or string; leading zeros do not matter.
pub fn guest_id(text: &str) -> Option<i64> {
    let text = text.trim();
    let value = text.parse::<i64>().ok()?;
    (text.bytes().all(|b| b.is_ascii_digit()) && (100..=999_999_999).contains(&value)).then_some(value)
}

/// [`guest_id`] of a JSON value.
pub fn guest_id_of(node: &Node) -> Option<i64> {
    match node {
        Node::String(text) => guest_id(text),
        other => integer(other).and_then(|n| guest_id(&n.to_string())),
    }
}

/// A unicast MAC address; `-` between the bytes is taken as `:`.
pub fn mac(text: &str) -> Option<String> {
    let mac = text.replace('-', ":");
    let bytes: Vec<_> = mac.split(':').collect();
    let hex = |b: &&str| b.len() == 2 && b.bytes().all(|c| c.is_ascii_hexdigit());
    let unicast = u8::from_str_radix(bytes.first()?, 16).ok()? & 1 == 0;
    (bytes.len() == 6 && bytes.iter().all(hex) && unicast).then_some(mac)
}

/// An IPv4 address and its prefix length.
pub fn cidr4(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, decimal(prefix).filter(|p| *p <= 32)?))
}

/// An IPv6 address and its prefix length.
pub fn cidr6(text: &str) -> Option<(Ipv6Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, decimal(prefix).filter(|p| *p <= 128)?))
}

fn decimal(text: &str) -> Option<u8> {
    (text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

/// An IP address of either family.
pub fn ip(text: &str) -> Option<String> {
    text.parse::<IpAddr>().ok().map(|_| text.to_owned())
}

/// Whether an IPv6 gateway goes with `address/prefix`: it is link-local or in the network.
pub fn in_network6(address: Ipv6Addr, prefix: u8, gateway: Ipv6Addr) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    gateway.is_unicast_link_local() || u128::from(address) & mask == u128::from(gateway) & mask
}

/// Whether `gateway` is in the network of `address/prefix`.
pub fn in_network(address: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    u32::from(address) & mask == u32::from(gateway) & mask
}

fn all_of(text: &str, extra: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

fn begins_with_letter(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// A Proxmox storage id. `pool/dataset` is taken as the id `pool-dataset`, as the legacy setup named its storages.
pub fn storage_id(text: &str) -> Option<String> {
    let id = text.trim_matches('/').replace('/', "-");
    let ends = id.ends_with(|c: char| c.is_ascii_alphanumeric());
    ((2..=100).contains(&id.len()) && begins_with_letter(&id) && ends && all_of(&id, "._-")).then_some(id)
}

/// A bridge name.
pub fn bridge(text: &str) -> Option<String> {
    ((1..=16).contains(&text.len()) && begins_with_letter(text) && all_of(text, "_.-")).then(|| text.to_owned())
}

/// An interface name.
pub fn interface(text: &str) -> Option<String> {
    ((1..=15).contains(&text.len()) && all_of(text, "_.-")).then(|| text.to_owned())
}

/// A DNS host name.
pub fn hostname(text: &str) -> Option<String> {
    let label = |l: &str| (1..=63).contains(&l.len()) && all_of(l, "-") && !l.starts_with('-') && !l.ends_with('-');
    (text.len() <= 253 && text.split('.').all(label)).then(|| text.to_owned())
}

/// An absolute path without `..`, commas, backslashes or line breaks; `//`, `/./` and trailing slashes go.
pub fn absolute_path(text: &str) -> Option<String> {
    let parts: Vec<_> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let path = format!("/{}", parts.join("/"));
    let plain = text.starts_with('/') && path.len() <= 256 && !path.contains([',', '\\', '\n', '\r', '\0']);
    (plain && !parts.contains(&"..")).then_some(path)
}

/// An absolute path below `/`.
pub fn mount_path(text: &str) -> Option<String> {
    absolute_path(text).filter(|path| path != "/")
}

/// A Proxmox snapshot name (facts D.9).
pub fn snapshot_name(text: &str) -> Option<String> {
    let reserved = ["current", "vzdump", "pending", "__base__"].contains(&text);
    ((2..=40).contains(&text.len()) && begins_with_letter(text) && all_of(text, "_-") && !reserved)
        .then(|| text.to_owned())
}

/// An http or https URL without user name and blanks.
pub fn url(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    let named = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && all_of(name, "._-");
    let numbered = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let plain = text.len() <= 2048 && path.chars().all(|c| c.is_ascii_graphic());
    (named && numbered && plain).then(|| text.to_owned())
}

/// A raw `lxc.` line as key and value.
pub fn lxc_line(text: &str) -> Option<(String, String)> {
    let cut = text.find(['=', ':'])?;
    let (key, value) = (text[..cut].trim(), text[cut + 1..].trim());
    let name = key.strip_prefix("lxc.").filter(|n| !n.is_empty())?;
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c));
    let owned = ["environment.runtime", "rootfs", "uts", "net"];
    let theirs = owned
        .iter()
        .any(|o| name == *o || name.strip_prefix(o).is_some_and(|r| r.starts_with('.')));
    let fits = key.len() + value.len() < 1000 && !value.contains(['\n', '\r', '\0']);
    (plain && !theirs && fits).then(|| (key.to_owned(), value.to_owned()))
}

/// An AppArmor profile name.
pub fn apparmor_profile(text: &str) -> Option<String> {
    ((1..=128).contains(&text.len()) && all_of(text, "_./-")).then(|| text.to_owned())
}

/// A time zone name.
pub fn timezone(text: &str) -> Option<String> {
    ((1..=64).contains(&text.len()) && all_of(text, "_+/-")).then(|| text.to_owned())
}

/// Ports as the Proxmox firewall takes them; `8000-8010` is taken as the range `8000:8010`.
pub fn ports(text: &str) -> Option<String> {
    let text = text.replace(' ', "").replace('-', ":");
    let port = |p: &str| !p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok();
    let part = |p: &str| match p.split_once(':') {
        Some((from, to)) => port(from) && port(to),
        None => port(p),
    };
    (text.len() <= 128 && text.split(',').all(part)).then_some(text)
}

/// Text that is no longer than `max` bytes.
pub fn at_most(max: usize) -> impl Fn(&str) -> Option<String> {
    move |text| (text.len() <= max).then(|| text.to_owned())
}

/// The interface of a machine: its name is Proxmox's number. `eth0` is `net0`.
pub fn machine_interface(text: &str) -> Option<String> {
    let digits = text.strip_prefix("net").or_else(|| text.strip_prefix("eth"))?;
    let number = decimal(digits).filter(|n| *n <= 31)?;
    Some(format!("net{number}"))
}

/// A user name that cloud-init makes.
pub fn user(text: &str) -> Option<String> {
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    (begins && text.len() <= 32 && text.chars().all(plain)).then(|| text.to_owned())
}

/// The name of a package.
pub fn package(text: &str) -> Option<String> {
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    (begins && text.len() <= 128 && all_of(text, "+._:~=-")).then(|| text.to_owned())
}

/// A CPU type.
pub fn cpu_type(node: &Node) -> Option<String> {
    text(node).filter(|t| t.len() <= 64 && all_of(t, "._-"))
}

/// A QEMU machine type, without the version that Proxmox adds of itself.
pub fn machine_type(node: &Node) -> Option<String> {
    let text = text(node)?;
    match text.as_str() {
        "q35" | "pc" => Some(text),
        "i440fx" => Some("pc".to_owned()),
        _ => {
            let version = text
                .strip_prefix("pc-q35-")
                .or_else(|| text.strip_prefix("pc-i440fx-"))?;
            let numbers: Vec<_> = version.split('.').collect();
            let digits = |n: &&str| (1..=4).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
            ((2..=4).contains(&numbers.len()) && numbers.iter().all(digits)).then_some(text)
        }
    }
}
