//! Proxmox property strings (`name=eth0,bridge=vmbr0`) as maps.
//!
//! Proxmox writes them back in an order of its own and leaves out the name of the default key (facts A.2), so they are
//! compared as maps, never as text. A value without a key belongs to the default key, which depends on the option:
//! see [`default_key`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A parsed property string.
#[derive(Debug, Clone, Default, Eq)]
pub struct Properties {
    default_key: Option<&'static str>,
    values: BTreeMap<String, String>,
}

/// A text that is no property string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// A value without a key, where the option has no default key.
    #[error("{0:?} has no key, and this option has no default key")]
    MissingKey(String),
    /// One key twice, or a value of the default key beside its own name.
    #[error("key {0:?} stands twice")]
    DuplicateKey(String),
}

/// An option without its number: `net` of `net0`, and what has none as it is.
pub fn stem(option: &str) -> &str {
    option.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Whether an option is one of these with a number.
pub fn is_numbered(option: &str, stems: &[&str]) -> bool {
    let stem = stem(option);
    stem.len() < option.len() && stems.contains(&stem)
}

/// Buses of a machine's disks; with a number each is a place such as `scsi0`.
pub const BUSES: &[&str] = &["scsi", "virtio", "sata", "ide"];

/// The key whose name may be left out in the option of that name, such as the volume of a mount point.
pub fn default_key(option: &str) -> Option<&'static str> {
    let stem = stem(option);
    match (stem, stem.len() < option.len()) {
        ("rootfs", _) | ("mp", true) | ("unused", true) => Some("volume"),
        ("dev", true) => Some("path"),
        ("startup", _) => Some("order"),
        ("net", true) => None,
        ("scsi" | "virtio" | "sata" | "ide" | "efidisk" | "tpmstate", true) => Some("file"),
        ("hostpci", true) => Some("host"),
        ("agent", _) => Some("enabled"),
        ("boot", _) => Some("legacy"),
        ("cpu", _) => Some("cputype"),
        ("vga", _) => Some("type"),
        ("machine", _) => Some("type"),
        _ => None,
    }
}

/// A boolean inside a property string: `1|on|yes|true` and `0|off|no|false`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

impl Properties {
    /// An empty map for an option with that default key.
    pub fn new(default_key: Option<&'static str>) -> Self {
        Self {
            default_key,
            values: BTreeMap::new(),
        }
    }

    /// Parses `text` as a value of the option `option` (`mp0`, `net1`, `features`, …).
    pub fn of_option(option: &str, text: &str) -> Result<Self, PropertyError> {
        Self::parse(text, default_key(option))
    }

    /// Parses `text`; a value without a key goes to `default_key`. Empty parts are skipped, as Proxmox does.
    pub fn parse(text: &str, default_key: Option<&'static str>) -> Result<Self, PropertyError> {
        let mut out = Self::new(default_key);
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = match (part.split_once('='), default_key) {
                (Some((key, value)), _) => (key.trim(), value),
                (None, Some(key)) => (key, part),
                (None, None) => return Err(PropertyError::MissingKey(part.into())),
            };
            if out.values.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(PropertyError::DuplicateKey(key.into()));
            }
        }
        Ok(out)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The value of `key` as a boolean; `None` if absent or no boolean.
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(parse_bool)
    }

    /// Sets `key`; the old value, if any.
    pub fn set(&mut self, key: impl Into<String>, value: impl ToString) -> Option<String> {
        self.values.insert(key.into(), value.to_string())
    }

    /// Sets `key`, unless it has a value of the same meaning, which keeps its spelling.
    pub fn lay(&mut self, key: &str, value: &str) {
        if !self.get(key).is_some_and(|have| same_value(have, value)) {
            self.set(key, value);
        }
    }

    /// The map with `key` set.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.set(key, value);
        self
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether every key of `wanted` is here with an equal value. Keys that `wanted` lacks are not compared.
    pub fn contains(&self, wanted: &Self) -> bool {
        wanted
            .values
            .iter()
            .all(|(key, value)| self.values.get(key).is_some_and(|have| same_value(have, value)))
    }
}

/// Whether two values mean the same: equal as text, both MACs in whatever case, both addresses in whatever spelling, or
/// both booleans of equal meaning where one is spelt as a word (`on` and `1`).
pub fn same_value(a: &str, b: &str) -> bool {
    let is_word = |s: &str| s.chars().all(|c| c.is_ascii_alphabetic());
    a == b
        || (is_mac(a) && a.eq_ignore_ascii_case(b))
        || cidr(a).is_some_and(|a| Some(a) == cidr(b))
        || ((is_word(a) || is_word(b)) && parse_bool(a).is_some() && parse_bool(a) == parse_bool(b))
}

/// Whether a text is the MAC of an interface.
pub fn is_mac(text: &str) -> bool {
    let mut parts = 0;
    text.split(':').all(|part| {
        parts += 1;
        part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit())
    }) && parts == 6
}

/// An address, with the length of its prefix where it has one.
pub fn cidr(text: &str) -> Option<(IpAddr, Option<u8>)> {
    match text.split_once('/') {
        Some((address, prefix)) => Some((address.parse().ok()?, Some(prefix.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

/// Order and spelling of booleans, MACs and addresses do not matter; neither does which key may go unnamed.
impl PartialEq for Properties {
    fn eq(&self, other: &Self) -> bool {
        self.values.len() == other.values.len() && self.contains(other)
    }
}

/// The default key first and without its name, then the rest by key: the order that Proxmox writes.
impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.default_key.and_then(|key| self.values.get_key_value(key));
        let mut separator = "";
        if let Some((key, value)) = first {
            // An unnamed value that holds `=` would be read as a key of its own.
            if value.contains('=') {
                write!(f, "{key}={value}")?
            } else {
                f.write_str(value)?
            }
            separator = ",";
        }
        for (key, value) in self
            .values
            .iter()
            .filter(|(key, _)| Some(key.as_str()) != self.default_key)
        {
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mount_point_equals_itself_in_any_order() {
        let ours = Properties::of_option("mp0", "volume=zfs:subvol-100-disk-1,mp=/models,backup=0").unwrap();
        let theirs = Properties::of_option("mp0", "zfs:subvol-100-disk-1,backup=off,mp=/models").unwrap();
        assert_eq!(ours, theirs);
        assert_eq!(ours.to_string(), "zfs:subvol-100-disk-1,backup=0,mp=/models");
        let with_size = theirs.with("size", "8G");
        assert_ne!(ours, with_size);
        assert!(with_size.contains(&ours) && !ours.contains(&with_size));
    }

    #[test]
    fn default_keys_belong_to_their_options() {
        for (option, text, key, value) in [
            (
                "rootfs",
                "local:100/vm-100-disk-0.raw,size=4G",
                "volume",
                "local:100/vm-100-disk-0.raw",
            ),
            ("dev3", "/dev/nvidia0,mode=0666", "path", "/dev/nvidia0"),
            ("startup", "3,up=10", "order", "3"),
            ("hostpci0", "0000:01:00.0,pcie=1", "host", "0000:01:00.0"),
        ] {
            assert_eq!(
                Properties::of_option(option, text).unwrap().get(key),
                Some(value),
                "{option}"
            );
        }
    }

    #[test]
    fn macs_and_addresses_are_compared_by_meaning_and_keep_their_spelling() {
        let text = "name=eth0,hwaddr=bc:24:11:aa:bb:cc,ip6=2001:DB8:0::5/64,gw6=fe80::1";
        let have = Properties::of_option("net0", text).unwrap();
        let mut net = have.clone();
        for (key, value) in [
            ("hwaddr", "BC:24:11:AA:BB:CC"),
            ("ip6", "2001:db8::5/64"),
            ("gw6", "FE80:0::1"),
        ] {
            assert_eq!(have, have.clone().with(key, value), "{key}");
            net.lay(key, value);
        }
        assert_eq!(net.get("hwaddr"), Some("bc:24:11:aa:bb:cc"));
        assert_eq!(net.get("ip6"), Some("2001:DB8:0::5/64"));
        for (key, value) in [
            ("hwaddr", "BC:24:11:AA:BB:CD"),
            ("ip6", "2001:db8::5/65"),
            ("gw6", "fe80::2"),
            ("name", "ETH0"),
        ] {
            assert_ne!(have, have.clone().with(key, value), "{key}");
            net.lay(key, value);
            assert_eq!(net.get(key), Some(value));
        }
    }

    #[test]
    fn numbers_are_not_booleans() {
        let one = Properties::parse("tag=1", None).unwrap();
        assert_ne!(one, Properties::parse("tag=01", None).unwrap());
        assert_eq!(one, Properties::parse("tag=yes", None).unwrap());
    }

    #[test]
    fn bad_text_is_refused() {
        assert_eq!(
            Properties::of_option("net0", "eth0"),
            Err(PropertyError::MissingKey("eth0".into()))
        );
        assert_eq!(
            Properties::of_option("mp0", "a:b,volume=c"),
            Err(PropertyError::DuplicateKey("volume".into()))
        );
        assert_eq!(
            Properties::parse("a=1,a=2", None),
            Err(PropertyError::DuplicateKey("a".into()))
        );
    }

    proptest! {
        #[test]
        fn text_round_trips(
            values in prop::collection::btree_map("[a-z][a-z0-9-]{0,8}", "[A-Za-z0-9:/._;=-]{1,20}", 0..8),
            volume in prop::option::of("[a-z]{1,6}:[a-z0-9/.=-]{1,20}"),
        ) {
            let mut props = Properties { default_key: Some("volume"), values };
            if let Some(volume) = volume {
                props.set("volume", volume);
            }
            let text = props.to_string();
            prop_assert_eq!(&Properties::parse(&text, Some("volume")).unwrap(), &props, "{}", text);
        }

        #[test]
        fn order_does_not_matter(values in prop::collection::btree_map("[a-z]{1,6}", "[a-z0-9]{1,6}", 1..8)) {
            let forward: Vec<String> = values.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let backward: Vec<String> = forward.iter().rev().cloned().collect();
            let parse = |parts: Vec<String>| Properties::parse(&parts.join(","), None).unwrap();
            prop_assert_eq!(parse(forward), parse(backward));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = Properties::parse(&text, Some("volume"));
        }
    }
}
