//! Addresses, networks and ranges as the firewall reads them, with the words of the library that Proxmox asks.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An address, a network or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// 4 or 6.
    pub version: u8,
    /// First address.
    pub first: u128,
    /// Last address.
    pub last: u128,
}

/// 4 or 6 for a single address.
pub fn version_of(text: &str) -> Option<u8> {
    if text.parse::<Ipv4Addr>().is_ok() {
        Some(4)
    } else {
        text.parse::<Ipv6Addr>().is_ok().then_some(6)
    }
}

/// Number of bits of an address.
fn width(version: u8) -> u32 {
    if version == 4 { 32 } else { 128 }
}

fn check_v4(text: &str) -> Result<(), String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("Invalid chars in IP {text}"));
    }
    if text.starts_with('.') {
        return Err(format!("Invalid IP {text} - starts with a dot"));
    }
    if text.ends_with('.') {
        return Err(format!("Invalid IP {text} - ends with a dot"));
    }
    if text.matches('.').count() > 3 {
        return Err(format!("Invalid IP address {text}"));
    }
    if text.contains("..") {
        return Err(format!("Empty quad in IP address {text}"));
    }
    match text
        .split('.')
        .find(|quad| quad.parse::<u32>().map_or(true, |quad| quad > 255))
    {
        Some(quad) => Err(format!("Invalid quad in IP address {text} - {quad}")),
        None => Ok(()),
    }
}

fn check_v6(text: &str) -> Result<(), String> {
    let mut colons = text.matches(':').count();
    if !(1..8).contains(&colons) {
        return Err(String::new());
    }
    let parts = text.trim_end_matches(':').split(':');
    for (at, part) in parts.enumerate() {
        let hex = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        if part.is_empty() || hex {
            continue;
        }
        if at == colons && check_v4(part).is_ok() {
            // An IPv4 address at the end counts twice.
            colons += 1;
            continue;
        }
        return Err(format!("Invalid IP address {text}"));
    }
    if text.len() > 1 && text.starts_with(':') && !text.starts_with("::") {
        return Err(format!("Invalid address {text} (starts with :)"));
    }
    if text.len() > 1 && text.ends_with(':') && !text.ends_with("::") {
        return Err(format!("Invalid address {text} (ends with :)"));
    }
    let doubled = text.as_bytes().windows(2).filter(|pair| *pair == b"::").count();
    if doubled > 1 {
        return Err(format!("Invalid address {text} (More than one :: pattern)"));
    }
    if colons != 7 && doubled == 0 {
        return Err(format!("Invalid number of octets {text}"));
    }
    Ok(())
}

fn checked_version(text: &str) -> Result<u8, String> {
    if text.contains(':') {
        return check_v6(text).map(|()| 6);
    }
    check_v4(text).map(|()| 4)
}

/// The number of an address; missing quads of IPv4 are zero.
fn expand(text: &str, version: u8) -> Result<u128, String> {
    if version == 6 {
        let address = text.parse::<Ipv6Addr>();
        // What is wrong with an end of a range is said of its long form.
        return address
            .map(|found| found.to_bits())
            .map_err(|_| checked_version(&padded(text)).err().unwrap_or_default());
    }
    let quads: Vec<&str> = text.split('.').collect();
    let digits = |quad: &&str| (1..=3).contains(&quad.len()) && quad.bytes().all(|b| b.is_ascii_digit());
    if quads.len() > 4 || !quads.iter().all(digits) {
        return Err(format!("Not a valid IPv4 address {text}"));
    }
    if quads
        .iter()
        .any(|quad| quad.parse::<u32>().is_ok_and(|quad| quad > 255))
    {
        let quads: Vec<&str> = quads.iter().copied().chain(["0"; 4]).take(4).collect();
        check_v4(&quads.join("."))?;
    }
    Ok((0..4).fold(0, |sum, at| {
        (sum << 8) + quads.get(at).and_then(|quad| quad.parse::<u128>().ok()).unwrap_or(0)
    }))
}

fn padded(text: &str) -> String {
    let part = |part: &str| match part.parse::<Ipv4Addr>() {
        Ok(found) => {
            let [a, b, c, d] = found.octets();
            format!("{a:02x}{b:02x}:{c:02x}{d:02x}")
        }
        Err(_) => format!("{:0>4}", part.to_lowercase()),
    };
    text.split(':').map(part).collect::<Vec<_>>().join(":")
}

/// Splits a text at a sign that is not its first one.
fn split_behind(text: &str, sign: char) -> Option<(&str, &str)> {
    let (at, _) = text.char_indices().skip(1).find(|(_, found)| *found == sign)?;
    Some((&text[..at], &text[at + 1..]))
}

fn long_form(number: u128, version: u8) -> String {
    if version == 4 {
        return Ipv4Addr::from_bits(number as u32).to_string();
    }
    let groups = Ipv6Addr::from_bits(number).segments();
    groups.map(|group| format!("{group:04x}")).join(":")
}

fn host_bits(version: u8, prefix: u32) -> u128 {
    let free = width(version) - prefix;
    1_u128.checked_shl(free).map_or(u128::MAX, |size| size - 1)
}

fn network(address: &str, prefix: &str) -> Result<Range, String> {
    let version = checked_version(address)?;
    let first = expand(address, version)?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return Ok(Range {
            version,
            first,
            last: first,
        });
    }
    let bits = width(version);
    let Some(length) = prefix.parse::<u32>().ok().filter(|length| *length <= bits) else {
        return Err(format!("Prefix length {prefix} is longer than IP address ({bits})"));
    };
    let host = host_bits(version, length);
    if first & host != 0 {
        let binary = format!("{first:0width$b}", width = bits as usize);
        return Err(format!("Invalid prefix {binary}/{prefix}"));
    }
    Ok(Range {
        version,
        first,
        last: first | host,
    })
}

impl Range {
    /// Reads `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1-10.0.0.9` and the same of IPv6.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((address, prefix)) = split_behind(text, '/').filter(|(_, prefix)| !prefix.is_empty()) {
            return network(address, prefix);
        }
        let (begin, end) = match split_behind(text, '-').filter(|(_, end)| !end.is_empty()) {
            Some((begin, end)) => (begin.trim_end(), end.trim_start()),
            None => (text, text),
        };
        let version = checked_version(begin)?;
        let (first, last) = (expand(begin, version)?, expand(end, version)?);
        if first > last {
            return Err(format!(
                "Begin address is greater than End address {} - {}",
                long_form(first, version),
                long_form(last, version)
            ));
        }
        Ok(Self { version, first, last })
    }
}

/// A network without the bits behind its prefix: `10.0.0.1/8` is `10.0.0.0/8`.
pub fn clean(text: &str) -> String {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.to_owned();
    };
    let (Some(version), Ok(length)) = (version_of(address), prefix.parse::<u32>()) else {
        return text.to_owned();
    };
    if length == 0 || length > width(version) {
        return text.to_owned();
    }
    let first = expand(address, version).unwrap_or_default() & !host_bits(version, length);
    if version == 4 {
        format!("{}/{prefix}", Ipv4Addr::from_bits(first as u32))
    } else {
        format!("{}/{prefix}", Ipv6Addr::from_bits(first))
    }
}

/// An address or network as the firewall keeps it, with its version: a prefix that covers one address goes.
pub fn stored(text: &str) -> Result<(String, u8), String> {
    const FAULT: &str = "value does not look like a valid IP address or CIDR network";
    let (address, prefix) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let digits = |bits: &str| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let version = version_of(address).filter(|_| prefix.is_none_or(digits)).ok_or(FAULT)?;
    if prefix == Some(width(version).to_string().as_str()) {
        return Ok((address.to_owned(), version));
    }
    Ok((text.to_owned(), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        for (text, fault) in [
            ("10.0.0.0/40", "Prefix length 40 is longer than IP address (32)"),
            (
                "10.0.0.9-10.0.0.1",
                "Begin address is greater than End address 10.0.0.9 - 10.0.0.1",
            ),
            ("10.0.0.1/8", "Invalid prefix 00001010000000000000000000000001/8"),
            ("300.1.1.1", "Invalid quad in IP address 300.1.1.1 - 300"),
            ("1.2.3.4.5", "Invalid IP address 1.2.3.4.5"),
            ("a_b!", "Invalid chars in IP a_b!"),
            ("1:2:3", "Invalid number of octets 1:2:3"),
            ("1::2::3", "Invalid address 1::2::3 (More than one :: pattern)"),
            ("10.0.0.1-x", "Not a valid IPv4 address x"),
            ("171-397", "Invalid quad in IP address 397.0.0.0 - 397"),
            ("fd00::1-10.0.0.1", "Invalid number of octets 0a00:0001"),
            ("/8", "Invalid chars in IP /8"),
            (":", "Invalid number of octets :"),
            (
                "fd00::2-fd00::1",
                "Begin address is greater than End address fd00:0000:0000:0000:0000:0000:0000:0002 - \
              fd00:0000:0000:0000:0000:0000:0000:0001",
            ),
        ] {
            assert_eq!(Range::parse(text), Err(fault.to_owned()), "{text}");
        }
        for text in [
            "10",
            "10.0.0.0/8",
            "10.0.0.1-10.0.0.9",
            "fd00::/8",
            "::ffff:1.2.3.4",
            "::",
            "1::",
        ] {
            assert!(Range::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn networks_are_cleaned_and_stored() {
        assert_eq!(clean("10.0.0.1/8"), "10.0.0.0/8");
        assert_eq!(clean("fd00:0:0::7/64"), "fd00::/64");
        assert_eq!(clean("10.0.0.1/0"), "10.0.0.1/0");
        assert_eq!(stored("10.0.0.1/32"), Ok(("10.0.0.1".to_owned(), 4)));
        assert_eq!(stored("fd00::1/128"), Ok(("fd00::1".to_owned(), 6)));
        assert!(stored("10.0.0.1/x").is_err() && stored("10.0").is_err());
    }
}
