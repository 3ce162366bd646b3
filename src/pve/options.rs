//! The plain options of guests: one row each, with the fact that it rests on. What is put together of parts (interfaces,
//! volumes, devices, property strings) has code of its own.

use super::call::segment;
use super::guest::GuestType;
use super::property::{Properties, same_value};

/// What there is to know of a plain option.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Proxmox's name.
    pub key: &'static str,
    /// What Proxmox takes where the option is not set: setting it to that is no change.
    pub default: Option<&'static str>,
    /// Whether a value that was read back is the one that was wanted.
    same: fn(&str, &str) -> bool,
    /// The value as it is sent.
    pub sent: fn(&str) -> String,
    /// Only root@pam may set it (facts D.2, F.5).
    pub root_only: bool,
    /// A clone copies it unasked, and it is taken off where the object does not ask for it (promise 3).
    pub cleared_of_clones: bool,
    /// A value that the spec drops stays: what Proxmox would take instead is no sensible reset (512 MiB of memory, other
    /// firmware, another name).
    pub kept_when_dropped: bool,
    /// The creating call carries it; everything else comes with the first configuration.
    pub at_creation: bool,
}

impl OptionSpec {
    const fn new(key: &'static str) -> Self {
        OptionSpec {
            key,
            default: None,
            same: |have, wanted| have.trim() == wanted,
            sent: |value| value.to_string(),
            root_only: false,
            cleared_of_clones: false,
            kept_when_dropped: false,
            at_creation: false,
        }
    }

    const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    const fn same(mut self, same: fn(&str, &str) -> bool) -> Self {
        self.same = same;
        self
    }

    const fn sent(mut self, sent: fn(&str) -> String) -> Self {
        self.sent = sent;
        self
    }

    const fn root_only(mut self) -> Self {
        self.root_only = true;
        self
    }

    const fn cleared_of_clones(mut self) -> Self {
        self.cleared_of_clones = true;
        self
    }

    const fn kept_when_dropped(mut self) -> Self {
        self.kept_when_dropped = true;
        self
    }

    const fn at_creation(mut self) -> Self {
        self.at_creation = true;
        self
    }

    /// Whether what there is, `None` where the option is not set, is what is wanted.
    pub fn is(&self, have: Option<&str>, wanted: &str) -> bool {
        have.or(self.default).is_some_and(|have| (self.same)(have, wanted))
    }
}

/// Options of containers (facts D.1).
pub const LXC: &[OptionSpec] = &[
    OptionSpec::new("hostname").kept_when_dropped(),
    // Absent is all cores of the node, which no number says.
    OptionSpec::new("cores").at_creation(),
    OptionSpec::new("cpulimit").same(same_number),
    OptionSpec::new("cpuunits"),
    OptionSpec::new("memory").at_creation().kept_when_dropped(),
    OptionSpec::new("swap").at_creation(),
    OptionSpec::new("timezone"),
    // A template's are passed to its clones, which keep them as they keep its packages (facts E.1).
    OptionSpec::new("cmode").default("tty"),
    OptionSpec::new("tty").default("2"),
    OptionSpec::new("console").default("1"),
    OptionSpec::new("nameserver").same(same_words),
    OptionSpec::new("searchdomain").same(same_words),
    // Flags that are off are not stored.
    OptionSpec::new("onboot").default("0").cleared_of_clones(),
    OptionSpec::new("protection").default("0").cleared_of_clones(),
    OptionSpec::new("startup").cleared_of_clones(),
    OptionSpec::new("hookscript").root_only().cleared_of_clones(),
];

/// Options of machines (facts F.1, F.2; the defaults are the API's own).
pub const QEMU: &[OptionSpec] = &[
    OptionSpec::new("name").kept_when_dropped(),
    OptionSpec::new("cores").default("1").at_creation(),
    OptionSpec::new("sockets").default("1").at_creation(),
    OptionSpec::new("numa").default("0").at_creation(),
    OptionSpec::new("affinity").root_only(),
    OptionSpec::new("cpulimit").default("0").same(same_number).at_creation(),
    OptionSpec::new("cpuunits"),
    OptionSpec::new("memory")
        .default("512")
        .same(same_memory)
        .at_creation()
        .kept_when_dropped(),
    OptionSpec::new("balloon").at_creation(),
    OptionSpec::new("bios")
        .default("seabios")
        .at_creation()
        .kept_when_dropped(),
    OptionSpec::new("ostype")
        .default("other")
        .at_creation()
        .kept_when_dropped(),
    OptionSpec::new("scsihw")
        .default("lsi")
        .at_creation()
        .kept_when_dropped(),
    OptionSpec::new("serial0").at_creation().kept_when_dropped(),
    OptionSpec::new("hotplug")
        .default("network,disk,usb")
        .same(same_hotplug)
        .at_creation(),
    OptionSpec::new("nameserver").same(same_words),
    OptionSpec::new("searchdomain").same(same_words),
    OptionSpec::new("ciuser"),
    OptionSpec::new("ciupgrade").default("1"),
    // It is encoded once more by itself (facts F.2).
    OptionSpec::new("sshkeys").same(same_keys).sent(segment),
    OptionSpec::new("onboot").default("0").cleared_of_clones(),
    OptionSpec::new("protection").default("0").cleared_of_clones(),
    OptionSpec::new("startup").cleared_of_clones(),
    OptionSpec::new("hookscript").root_only().cleared_of_clones(),
    OptionSpec::new("args").root_only().cleared_of_clones(),
    OptionSpec::new("hugepages").root_only(),
];

/// All options of a sort of guest.
pub fn of(sort: GuestType) -> &'static [OptionSpec] {
    match sort {
        GuestType::Lxc => LXC,
        GuestType::Qemu => QEMU,
    }
}

/// One option; of one that has no row its name alone is known.
pub fn spec(sort: GuestType, key: &'static str) -> OptionSpec {
    let known = of(sort).iter().find(|option| option.key == key);
    known.copied().unwrap_or(OptionSpec::new(key))
}

/// Words of a list, however they are told apart.
pub fn words_of(text: &str) -> Vec<&str> {
    text.split([' ', ',', ';']).filter(|w| !w.is_empty()).collect()
}

fn same_words(have: &str, wanted: &str) -> bool {
    let (have, wanted) = (words_of(have), words_of(wanted));
    have.len() == wanted.len() && have.iter().zip(&wanted).all(|(have, wanted)| same_value(have, wanted))
}

fn same_number(have: &str, wanted: &str) -> bool {
    match (have.parse::<f64>(), wanted.parse::<f64>()) {
        (Ok(have), Ok(wanted)) => have == wanted,
        _ => have == wanted,
    }
}

/// Newer versions write `current=2048`.
fn same_memory(have: &str, wanted: &str) -> bool {
    let current = |text: &str| {
        let parsed = Properties::parse(text, Some("current")).unwrap_or_default();
        parsed.get("current").unwrap_or(text).to_string()
    };
    current(have) == current(wanted)
}

fn same_hotplug(have: &str, wanted: &str) -> bool {
    let words = |text: &'_ str| {
        let text = match text {
            "1" => "network,disk,usb",
            "0" => "",
            other => other,
        };
        let mut words: Vec<String> = words_of(text).into_iter().map(str::to_string).collect();
        words.sort_unstable();
        words.dedup();
        words
    };
    words(have) == words(wanted)
}

fn same_keys(have: &str, wanted: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(have).decode_utf8_lossy();
    let lines = |text: &'_ str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        lines.map(str::to_string).collect()
    };
    lines(&decoded) == lines(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_has_one_row() {
        for table in [LXC, QEMU] {
            for (n, option) in table.iter().enumerate() {
                assert!(table[..n].iter().all(|o| o.key != option.key), "{}", option.key);
            }
        }
    }

    #[test]
    fn what_is_not_set_is_the_default_and_what_was_sent_is_read_back_as_wanted() {
        for option in LXC.iter().chain(QEMU) {
            if let Some(default) = option.default {
                assert!(option.is(None, default), "{}", option.key);
            }
            for value in ["1", "2048", "network,usb", "a b"] {
                assert!(option.is(Some(&(option.sent)(value)), value), "{}: {value}", option.key);
                assert!(!option.is(Some("another"), value), "{}: {value}", option.key);
            }
        }
    }

    #[test]
    fn what_proxmox_fills_in_is_no_difference() {
        for (key, have, wanted) in [
            ("memory", Some("current=2048"), "2048"),
            ("memory", None, "512"),
            ("cores", None, "1"),
            ("hotplug", None, "usb,network,disk"),
            ("hotplug", Some("1"), "disk,network,usb"),
            ("hotplug", Some("0"), "0"),
            ("sshkeys", Some("ssh-ed25519%20AAAA%20me%0A"), "ssh-ed25519 AAAA me"),
            ("cpulimit", Some("2.0"), "2"),
            ("nameserver", Some("10.0.0.1 10.0.0.2"), "10.0.0.1 10.0.0.2"),
            ("nameserver", Some("2001:DB8::0:1,10.0.0.2"), "2001:db8::1 10.0.0.2"),
            ("bios", None, "seabios"),
        ] {
            let option = spec(GuestType::Qemu, key);
            assert!(option.is(have, wanted), "{key}: {have:?} and {wanted:?}");
        }
        assert!(!spec(GuestType::Qemu, "memory").is(Some("1024"), "2048"));
        assert!(!spec(GuestType::Qemu, "ciuser").is(None, "me"));
        assert_eq!((spec(GuestType::Qemu, "sshkeys").sent)("a b\n"), "a%20b%0A");
    }
}
