//! Property strings (`net0`, `mp0`, `features`, …) as maps (facts A.2).

use std::collections::BTreeMap;

/// A property string taken apart.
pub type Properties = BTreeMap<String, String>;

/// Reads a property string leniently, as Proxmox does for values it stored itself: a part without `=` belongs to
/// `default_key`.
pub fn parse(text: &str, default_key: &str) -> Properties {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some((key, value)) => (key.trim().to_owned(), value.to_owned()),
            None => (default_key.to_owned(), part.to_owned()),
        })
        .collect()
}

/// Writes a property string in Proxmox's order: the default key first and without its name, then `required` in the
/// given order, then the rest by name.
pub fn print(properties: &Properties, default_key: &str, required: &[&str]) -> String {
    let mut parts = Vec::new();
    if let Some(value) = properties.get(default_key) {
        parts.push(value.clone());
    }
    for key in required {
        if let Some(value) = properties.get(*key) {
            parts.push(format!("{key}={value}"));
        }
    }
    for (key, value) in properties {
        if key != default_key && !required.contains(&key.as_str()) {
            parts.push(format!("{key}={value}"));
        }
    }
    parts.join(",")
}

/// Splits a list parameter: comma, semicolon, blank and NUL separate (facts A.2).
pub fn split_list(text: &str) -> Vec<String> {
    text.split([',', ';', ' ', '\t', '\n', '\0'])
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Proxmox's reading of a boolean inside property strings and configuration files.
pub fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

/// A size such as `8G`, `512M`, `1.5T` or plain bytes, in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().next_back()? {
        (at, 'K' | 'k') => (&text[..at], 1u64 << 10),
        (at, 'M' | 'm') => (&text[..at], 1 << 20),
        (at, 'G' | 'g') => (&text[..at], 1 << 30),
        (at, 'T' | 't') => (&text[..at], 1 << 40),
        _ => (text, 1),
    };
    let value: f64 = number.parse().ok()?;
    (value >= 0.0).then_some((value * unit as f64) as u64)
}

/// Bytes in the largest unit that divides them, as Proxmox stores `size=`.
pub fn print_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0T".to_owned();
    }
    for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes >= (1 << shift) && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_in_proxmox_order() {
        let net = parse("name=eth0,ip=dhcp,bridge=vmbr0", "");
        assert_eq!(print(&net, "", &["name"]), "name=eth0,bridge=vmbr0,ip=dhcp");
        let mp = parse("size=8G,mp=/data,zfs:subvol-1-disk-0", "volume");
        assert_eq!(print(&mp, "volume", &["mp"]), "zfs:subvol-1-disk-0,mp=/data,size=8G");
    }

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in [
            ("8G", 8u64 << 30),
            ("512M", 512 << 20),
            ("2T", 2 << 40),
            ("1025K", 1025 << 10),
        ] {
            assert_eq!(parse_size(text), Some(bytes));
            assert_eq!(print_size(bytes), text);
        }
        assert_eq!(parse_size("0.5G"), Some(512 << 20));
        assert_eq!(parse_size("banana"), None);
    }
}
