//! Named formats and what Proxmox says about values that do not fit.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::validate::regex;

/// Checks a value against a named format; the text of an error ends as Proxmox's does.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    if let Some(single) = name.strip_suffix("-list") {
        let parts = crate::simulator::model::property::split_list(value);
        return parts.iter().try_for_each(|part| check(single, part));
    }
    if let Some(single) = name.strip_suffix("-opt") {
        return if value.is_empty() { Ok(()) } else { check(single, value) };
    }
    match fault(name, value) {
        Some(text) => Err(format!("{text}\n")),
        None => Ok(()),
    }
}

fn is(pattern: &str, value: &str) -> bool {
    regex(pattern).is_some_and(|regex| regex.is_match(value))
}

fn unless(good: bool, text: impl Into<String>) -> Option<String> {
    (!good).then(|| text.into())
}

/// True for an IPv4 address.
pub fn is_ipv4(value: &str) -> bool {
    value.parse::<Ipv4Addr>().is_ok()
}

/// True for an IPv6 address.
pub fn is_ipv6(value: &str) -> bool {
    value.parse::<Ipv6Addr>().is_ok()
}

fn prefix(value: &str, most: u32, least: u32) -> bool {
    value.parse::<u32>().is_ok_and(|bits| (least..=most).contains(&bits)) && !value.starts_with('+')
}

/// True for a network in CIDR notation.
pub fn is_cidr(value: &str) -> bool {
    match value.split_once('/') {
        Some((address, bits)) => {
            (is_ipv4(address) && prefix(bits, 32, 8)) || (is_ipv6(address) && prefix(bits, 128, 8))
        }
        None => false,
    }
}

fn is_dns_name(value: &str) -> bool {
    let label = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?)";
    !value.is_empty() && is(&format!(r"(?:{label}\.)*{label}"), value)
}

fn is_mac(value: &str) -> bool {
    is(r"(?i:[a-f0-9][02468ace](?::[a-f0-9]{2}){5})", value)
}

fn fault(name: &str, value: &str) -> Option<String> {
    match name {
        "pve-vmid" => unless(is("[1-9][0-9]{2,8}", value), "value does not look like a valid VM ID"),
        "pve-node" => unless(
            is(r"(?i:[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?)", value),
            "value does not look like a valid node name",
        ),
        "pve-storage-id" if value.chars().count() < 2 => {
            Some(format!("storage ID '{value}' cannot be shorter than 2 characters"))
        }
        "pve-storage-id" => unless(
            is(r"(?i:[a-z][a-z0-9\-_.]*[a-z0-9])", value),
            format!("storage ID '{value}' contains illegal characters"),
        ),
        "pve-configid" => unless(
            is(r"(?i:[a-z][a-z0-9_-]+)", value),
            format!("invalid configuration ID '{value}'"),
        ),
        "pve-poolid" => pool(value),
        "pve-userid" => unless(
            is(r"[^\s:/]{1,60}@[A-Za-z][A-Za-z0-9.\-_]+", value),
            format!("value '{value}' does not look like a valid user name"),
        ),
        "pve-tokenid" => unless(
            is(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+![A-Za-z][A-Za-z0-9.\-_]+", value),
            format!("value '{value}' does not look like a valid token ID"),
        ),
        "pve-realm" => unless(
            is(r"[A-Za-z][A-Za-z0-9.\-_]+", value),
            "value does not look like a valid realm",
        ),
        "pve-roleid" => unless(
            is(r"[A-Za-z0-9.\-_]+", value),
            format!("role name '{value}' contains invalid characters"),
        ),
        "pve-groupid" => unless(
            is(r"[A-Za-z0-9.\-_]+", value),
            format!("group name '{value}' contains invalid characters"),
        ),
        "pve-volume-id" => unless(
            crate::simulator::model::storage::split_volid(value).is_some(),
            format!("unable to parse volume ID '{value}'"),
        ),
        "pve-tag" => unless(is(r"(?i:[a-z0-9_][a-z0-9_\-+.]*)", value), "invalid characters in tag"),
        "pve-startup-order" => startup(value),
        "pve-ct-timezone" => timezone(value),
        "pve-task-status-type" => unless(
            ["ok", "error", "warning", "unknown"].contains(&value),
            format!("invalid status '{value}'"),
        ),
        _ => network_fault(name, value)
            .or_else(|| path_fault(name, value))
            .or_else(|| machine_fault(name, value))
            .or_else(|| super::firewall_formats::fault(name, value)),
    }
}

/// Formats of options of virtual machines.
fn machine_fault(name: &str, value: &str) -> Option<String> {
    match name {
        "pve-volume-id-or-qm-path" | "pve-volume-id-or-absolute-path" => {
            let word = matches!(value, "none" | "cdrom" | "cloudinit");
            let path = value.starts_with('/') && !value.split('/').any(|part| part == "..");
            unless(
                word || path
                    || crate::simulator::model::storage::split_volid(value).is_some()
                    || is(r"\d+(\.\d+)?", value),
                format!("unable to parse volume ID '{value}'"),
            )
        }
        "urlencoded" => unless(
            is(r"[-%a-zA-Z0-9_.!~*'()]*", value),
            format!("invalid urlencoded string: {value}"),
        ),
        "pve-bridge-id" => unless(
            is(r"(?i:[a-z][a-z0-9._-]*)", value),
            format!("invalid bridge ID '{value}'"),
        ),
        "pve-hotplug-features" => {
            let known = ["network", "disk", "cpu", "memory", "usb", "cloudinit"];
            let good = matches!(value, "0" | "1") || value.split(',').all(|word| known.contains(&word.trim()));
            unless(good, format!("invalid hotplug feature '{value}'"))
        }
        "pve-qm-bootdev" => {
            use crate::simulator::model::vm_options::is_bootable;
            unless(is_bootable(value), format!("invalid boot device '{value}'"))
        }
        "pve-cpuset" => unless(is(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*", value), "invalid CPU set"),
        _ => None,
    }
}

fn network_fault(name: &str, value: &str) -> Option<String> {
    match name {
        "dns-name" => unless(is_dns_name(value), "value does not look like a valid DNS name"),
        "ipv4" => unless(is_ipv4(value), "value does not look like a valid IPv4 address"),
        "ipv6" => unless(is_ipv6(value), "value does not look like a valid IPv6 address"),
        "ip" => unless(
            is_ipv4(value) || is_ipv6(value),
            "value does not look like a valid IP address",
        ),
        "lxc-ip-with-ll-iface" => {
            let address = value.split('%').next().unwrap_or_default();
            unless(
                is_ipv4(address) || is_ipv6(address),
                "value does not look like a valid IP address",
            )
        }
        "address" => unless(
            is_ipv4(value) || is_ipv6(value) || is_dns_name(value),
            format!("value does not look like a valid address: {value}"),
        ),
        "CIDR" => unless(is_cidr(value), "value does not look like a valid CIDR network"),
        "pve-ipv4-config" => {
            let network = value
                .split_once('/')
                .is_some_and(|(ip, bits)| is_ipv4(ip) && prefix(bits, 32, 8));
            let word = matches!(value, "dhcp" | "manual");
            unless(
                network || word,
                "value does not look like a valid ipv4 network configuration",
            )
        }
        "pve-ipv6-config" => {
            let network = value
                .split_once('/')
                .is_some_and(|(ip, bits)| is_ipv6(ip) && prefix(bits, 128, 8));
            let word = matches!(value, "dhcp" | "auto" | "manual");
            unless(
                network || word,
                "value does not look like a valid ipv6 network configuration",
            )
        }
        "mac-addr" => unless(is_mac(value), "value does not look like a valid unicast MAC address"),
        "mac-prefix" => unless(
            is(r"(?i:[a-f0-9][02468ace](?::[a-f0-9]{2}){0,2}:?)", value),
            "value is not a valid unicast MAC address prefix",
        ),
        "email" => unless(
            is(r"[^\s@]+@[^\s@]+", value),
            "value does not look like a valid email address",
        ),
        _ => None,
    }
}

fn path_fault(name: &str, value: &str) -> Option<String> {
    let climbing = value.split('/').any(|part| part == "..");
    let dotted = value.split('/').skip(1).any(|part| part == ".");
    match name {
        "pve-lxc-mp-string" => unless(
            !climbing && !dotted,
            format!("{value} contains illegal character sequences"),
        ),
        "pve-lxc-dev-string" => {
            let good = value.starts_with("/dev/") && value.len() > 5 && !climbing;
            unless(good, format!("{value} is not a valid device path"))
        }
        "disk-size" => unless(
            is(r"\d+(\.\d+)?[KMGT]?", value),
            format!("value does not look like a valid disk size: {value}"),
        ),
        "pve-storage-content" => {
            let known = [
                "images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none",
            ];
            unless(known.contains(&value), format!("invalid content type '{value}'"))
        }
        "pve-storage-path" => unless(
            is(r"/[^\x00]*", value),
            "value does not look like a valid absolute path",
        ),
        _ => None,
    }
}

fn pool(value: &str) -> Option<String> {
    if value.split('/').count() > 3 {
        return Some(format!("pool name '{value}' nested too deeply (max levels = 3)"));
    }
    unless(
        is(r"[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}", value),
        format!("pool name '{value}' contains invalid characters"),
    )
}

fn startup(value: &str) -> Option<String> {
    let good = value
        .split(',')
        .all(|part| is(r"(?:(?:order=)?\d+|up=\d+|down=\d+)", part.trim()));
    unless(good, "unable to parse startup options")
}

fn timezone(value: &str) -> Option<String> {
    let region = r"(?:Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Europe|Indian|Pacific)";
    let good = matches!(value, "host" | "UTC" | "localtime")
        || is(&format!(r"{region}(?:/[A-Za-z_+\-]+){{1,2}}"), value)
        || is(r"Etc/[A-Za-z0-9+\-]+", value);
    unless(good, format!("invalid time zone '{value}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_speak_proxmox() {
        for (format, good, bad, text) in [
            (
                "dns-name",
                "a-b.example",
                "-bad",
                "value does not look like a valid DNS name\n",
            ),
            ("pve-vmid", "100", "0100", "value does not look like a valid VM ID\n"),
            (
                "mac-addr",
                "bc:24:11:00:00:01",
                "01:00:00:00:00:01",
                "value does not look like a valid unicast MAC address\n",
            ),
            (
                "pve-ipv4-config",
                "1.2.3.4/24",
                "1.2.3.4",
                "value does not look like a valid ipv4 network configuration\n",
            ),
            (
                "pve-startup-order",
                "order=1,up=3",
                "soon",
                "unable to parse startup options\n",
            ),
        ] {
            assert_eq!(check(format, good), Ok(()), "{format} {good}");
            assert_eq!(check(format, bad), Err(text.to_owned()), "{format} {bad}");
        }
    }
}
