//! Cloud-init: the data that Proxmox renders, and what a first boot makes of it (facts F.2).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::config::{self, Section};
use super::error::{ApiError, Result};
use super::property;
use super::state::{Caller, State};
use super::storage::split_volid;
use super::vm_options::{CLOUD_INIT, drives, index_of, is_cloud_init, is_windows, parse_net};

/// What answers show instead of a password.
const MASKED: &str = "**********";
/// What the nodes' own `resolv.conf` says.
const NODE_SEARCH_DOMAIN: &str = "example.test";
const NODE_NAME_SERVER: &str = "192.168.77.1";
/// Largest custom snippet, in bytes.
const LARGEST_SNIPPET: usize = 1 << 20;

/// The options that cloud-init's data is made of.
fn options(section: &Section) -> BTreeMap<String, String> {
    section
        .options
        .iter()
        .filter(|(key, _)| is_cloud_init(key) || *key == "name")
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn has_drive(section: &Section) -> bool {
    drives(section).iter().any(|(_, drive)| drive.is_cloud_init())
}

/// A value as the API shows it: passwords are masked.
pub fn shown(key: &str, value: &str) -> String {
    match key {
        "cipassword" => MASKED.to_owned(),
        // The blanks of the last line go with its end.
        "description" => value.trim_end().to_owned(),
        _ => value.to_owned(),
    }
}

/// Host name and full name.
fn names(section: &Section, vmid: u32) -> (String, String) {
    let name = section.get("name").map_or_else(|| format!("VM{vmid}"), str::to_owned);
    if let Some((host, _)) = name.split_once('.') {
        return (host.to_owned(), name.clone());
    }
    let full = section
        .get("searchdomain")
        .map_or_else(|| name.clone(), |domain| format!("{name}.{domain}"));
    (name, full)
}

/// Search domains and name servers: those of the machine, else those of the node.
fn dns(section: &Section) -> (Vec<&str>, Vec<&str>) {
    let words = |key: &str, node: &'static str| section.get(key).unwrap_or(node).split_whitespace().collect();
    (
        words("searchdomain", NODE_SEARCH_DOMAIN),
        words("nameserver", NODE_NAME_SERVER),
    )
}

/// The networks that have an address, each with its number; Proxmox sorts them as text.
fn addressed(section: &Section) -> Vec<(u32, &str, property::Properties)> {
    let nets = section
        .options
        .iter()
        .filter_map(|(key, net)| Some((index_of(key, "net")?, net)));
    nets.filter_map(|(number, net)| {
        let ip = section.get(&format!("ipconfig{number}"))?;
        Some((number, net.as_str(), property::parse(ip, "")))
    })
    .collect()
}

/// The user-data that Proxmox writes.
pub fn user_data(section: &Section, vmid: u32) -> String {
    shown_user_data(section, vmid, false)
}

/// The same, without the password where it is to be masked.
fn shown_user_data(section: &Section, vmid: u32, mask: bool) -> String {
    let (host, full) = names(section, vmid);
    let mut out = format!("#cloud-config\nhostname: {host}\nmanage_etc_hosts: true\nfqdn: {full}\n");
    let user = section.get("ciuser");
    if let Some(user) = user {
        let _ = writeln!(out, "user: {user}");
    }
    if user == Some("root") {
        out.push_str("disable_root: False\n");
    }
    if let Some(password) = section.get("cipassword") {
        let password = if mask { MASKED } else { password };
        let _ = writeln!(out, "password: {password}");
    }
    if let Some(keys) = section.get("sshkeys") {
        out.push_str("ssh_authorized_keys:\n");
        let keys = percent_decode_str(keys).decode_utf8_lossy();
        for key in keys.lines().filter(|line| !line.trim().is_empty()) {
            let _ = writeln!(out, "  - {key}");
        }
    }
    out.push_str("chpasswd:\n  expire: False\n");
    if user != Some("root") {
        out.push_str("users:\n  - default\n");
    }
    if section.get("ciupgrade") != Some("0") {
        out.push_str("package_upgrade: true\n");
    }
    out
}

/// The network configuration that Proxmox writes, version 1.
fn plain_network(section: &Section) -> String {
    let mut out = "version: 1\nconfig:\n".to_owned();
    for (number, net, parts) in addressed(section) {
        let mac = parse_net(net).remove("macaddr").unwrap_or_default().to_lowercase();
        let _ = writeln!(
            out,
            "    - type: physical\n      name: eth{number}\n      mac_address: '{mac}'\n      subnets:"
        );
        if let Some(ip) = parts.get("ip") {
            subnet(&mut out, ip, parts.get("gw"), "dhcp4");
        }
        if let Some(ip) = parts.get("ip6") {
            let word = if ip == "auto" { "ipv6_slaac" } else { "dhcp6" };
            subnet(&mut out, ip, parts.get("gw6"), word);
        }
    }
    let (domains, servers) = dns(section);
    out.push_str("    - type: nameserver\n");
    for (title, words) in [("address", servers), ("search", domains)] {
        if !words.is_empty() {
            let _ = writeln!(out, "      {title}:");
        }
        for word in words {
            let _ = writeln!(out, "      - '{word}'");
        }
    }
    out
}

fn netmask(bits: &str) -> std::net::Ipv4Addr {
    let bits: u32 = bits.parse().unwrap_or(24);
    std::net::Ipv4Addr::from(u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0))
}

fn subnet(out: &mut String, ip: &str, gateway: Option<&String>, dynamic: &str) {
    let Some((address, bits)) = ip.split_once('/') else {
        let _ = writeln!(out, "      - type: {dynamic}");
        return;
    };
    if ip.contains(':') {
        let _ = writeln!(out, "      - type: static6\n        address: '{ip}'");
    } else {
        let mask = netmask(bits);
        let _ = writeln!(
            out,
            "      - type: static\n        address: '{address}'\n        netmask: '{mask}'"
        );
    }
    if let Some(gateway) = gateway {
        let _ = writeln!(out, "        gateway: '{gateway}'");
    }
}

/// The same as lines of `/etc/network/interfaces`, which other kinds of drive than `nocloud` carry.
fn interfaces(section: &Section) -> String {
    let mut out = "auto lo\niface lo inet loopback\n\n".to_owned();
    let (domains, servers) = dns(section);
    for (title, words) in [("nameservers", servers), ("search", domains)] {
        if !words.is_empty() {
            let _ = writeln!(out, "        dns_{title} {}", words.join(" "));
        }
    }
    for (number, _, parts) in addressed(section) {
        let _ = writeln!(out, "auto eth{number}");
        for (family, key, gateway) in [("inet", "ip", "gw"), ("inet6", "ip6", "gw6")] {
            let Some(ip) = parts.get(key) else { continue };
            let Some((address, bits)) = ip.split_once('/') else {
                let _ = writeln!(out, "iface eth{number} {family} {ip}");
                continue;
            };
            let mask = match family {
                "inet" => netmask(bits).to_string(),
                _ => bits.to_owned(),
            };
            let _ = writeln!(
                out,
                "iface eth{number} {family} static\n        address {address}\n        netmask {mask}"
            );
            if let Some(gateway) = parts.get(gateway) {
                let _ = writeln!(out, "        gateway {gateway}");
            }
        }
    }
    out
}

/// Whether the drive is one of kind `nocloud`: asked for, or the machine runs no Windows.
fn is_nocloud(section: &Section) -> bool {
    match section.get("citype") {
        Some(kind) => kind == "nocloud",
        None => !section.get("ostype").is_some_and(is_windows),
    }
}

/// The network configuration that Proxmox writes.
pub fn network_data(section: &Section) -> String {
    if is_nocloud(section) {
        plain_network(section)
    } else {
        interfaces(section)
    }
}

fn meta_data(section: &Section, instance: &str) -> String {
    if is_nocloud(section) {
        format!("instance-id: {instance}\n")
    } else {
        format!(
            "{{\n     \"uuid\": \"{instance}\",\n     \"network_config\": {{ \"content_path\": \"/content/0000\" }}\n}}\n"
        )
    }
}

impl State {
    /// Writes the current options to the drive of cloud-init, if there is one.
    pub(super) fn refresh_cloud_init(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.get_mut(&vmid) {
            let current = &guest.config().current;
            guest.machine.cloud_init = if has_drive(current) {
                options(current)
            } else {
                BTreeMap::new()
            };
        }
    }

    /// `PUT …/cloudinit`.
    pub fn regenerate_cloud_init(&mut self, node: &str, vmid: u32) -> Result<()> {
        let current = self.vm(node, vmid)?.config().current.clone();
        self.check_lock(vmid)?;
        self.check_snippets(node, &current)?;
        self.refresh_cloud_init(vmid);
        Ok(())
    }

    /// `GET …/cloudinit`: the options as they are on the drive, and how they changed since. A password is never told
    /// apart; addresses and the name are told where they are new.
    pub fn pending_cloud_init(&self, node: &str, vmid: u32) -> Result<Vec<Value>> {
        let guest = self.vm(node, vmid)?;
        let current = &guest.config().current;
        let now = options(current);
        let written = if has_drive(current) {
            &guest.machine.cloud_init
        } else {
            &now
        };
        let set = |options: &BTreeMap<String, String>, key: &str| {
            options
                .get(key)
                .cloned()
                .filter(|value| !matches!(value.as_str(), "" | "0"))
        };
        let mut rows = Vec::new();
        for (key, new) in &now {
            let plain = CLOUD_INIT.contains(&key.as_str());
            match written.get(key).filter(|_| key != "cipassword") {
                None if key != "cipassword" => rows.push(json!({ "key": key, "pending": new })),
                Some(old) if old != new && plain => rows.push(json!({ "key": key, "value": old, "pending": new })),
                _ if plain && set(&now, key).is_some() => rows.push(json!({ "key": key, "value": shown(key, new) })),
                _ => {}
            }
        }
        let gone = written
            .keys()
            .filter(|key| set(&now, key).is_none() && !now.contains_key(*key));
        rows.extend(gone.map(|key| json!({ "key": key, "delete": 1 })));
        Ok(rows)
    }

    /// `GET …/cloudinit/dump`: what Proxmox itself would write now, whatever snippets take its place.
    pub fn dump_cloud_init(&self, caller: &Caller, node: &str, vmid: u32, kind: &str) -> Result<String> {
        let current = &self.vm(node, vmid)?.config().current;
        let mask = !self.may(caller, &format!("/vms/{vmid}"), &["VM.Config.Cloudinit"]);
        match kind {
            "user" => Ok(shown_user_data(current, vmid, mask)),
            "network" => Ok(network_data(current)),
            _ => {
                let (user, network) = (user_data(current, vmid), network_data(current));
                Ok(meta_data(current, &config::digest(&format!("{user}{network}"))))
            }
        }
    }

    /// The hash of user-data and network configuration: changed data makes another instance.
    fn instance_id(&self, node: &str, vmid: u32, section: &Section) -> Result<String> {
        let user = self.custom_data(node, section, "user")?;
        let network = self.custom_data(node, section, "network")?;
        let user = user.unwrap_or_else(|| user_data(section, vmid));
        let network = network.unwrap_or_else(|| network_data(section));
        Ok(config::digest(&format!("{user}{network}")))
    }

    /// The content of a snippet that `cicustom` names.
    fn custom_data(&self, node: &str, section: &Section, kind: &str) -> Result<Option<String>> {
        let parts = property::parse(section.get("cicustom").unwrap_or_default(), "");
        let Some(volid) = parts.get(kind) else { return Ok(None) };
        let Some((storage, name)) = split_volid(volid).filter(|(_, name)| name.starts_with("snippets/")) else {
            return Err(ApiError::die(format!("{volid} is not in the snippets directory")));
        };
        let found = self.active_storage(node, storage)?;
        let Some(volume) = found.volume(node, name) else {
            return Err(ApiError::die(format!("volume '{volid}' does not exist")));
        };
        let text = volume.data.get("text").cloned().unwrap_or_default();
        if text.len() > LARGEST_SNIPPET {
            return Err(ApiError::die(format!("'{}/{name}' too long - aborting", found.path)));
        }
        Ok(Some(text))
    }

    /// Refuses snippets that are not there, where the drive has to be written.
    pub(super) fn check_snippets(&self, node: &str, section: &Section) -> Result<()> {
        if !has_drive(section) {
            return Ok(());
        }
        for kind in ["user", "network", "meta", "vendor"] {
            self.custom_data(node, section, kind)?;
        }
        Ok(())
    }

    /// Instance and vendor-data of a machine that boots with a drive of cloud-init.
    pub(super) fn cloud_init_of(&self, vmid: u32) -> Option<(String, Vec<String>)> {
        let guest = self.guests.get(&vmid)?;
        let current = &guest.config().current;
        if !has_drive(current) {
            return None;
        }
        let mut section = Section::default();
        // The drive holds the options as they were when it was written.
        for (key, value) in current.options.iter().filter(|(key, _)| index_of(key, "net").is_some()) {
            section.set(key, value.clone());
        }
        for (key, value) in &guest.machine.cloud_init {
            section.set(key, value.clone());
        }
        let id = self.instance_id(&guest.node, vmid, &section).ok()?;
        let texts = ["vendor", "user"]
            .iter()
            .filter_map(|kind| self.custom_data(&guest.node, &section, kind).ok().flatten())
            .collect();
        Some((id, texts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_rendered_as_proxmox_does() {
        let mut section = Section::default();
        for (key, value) in [
            ("name", "web"),
            ("searchdomain", "example.test"),
            ("ciuser", "me"),
            ("sshkeys", "ssh-ed25519%20AAAA%20a%40b%0A"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("ipconfig0", "ip=10.0.0.5/24,gw=10.0.0.1"),
            ("nameserver", "1.1.1.1"),
        ] {
            section.set(key, value);
        }
        assert_eq!(
            user_data(&section, 100),
            "#cloud-config\nhostname: web\nmanage_etc_hosts: true\nfqdn: web.example.test\nuser: me\n\
             ssh_authorized_keys:\n  - ssh-ed25519 AAAA a@b\nchpasswd:\n  expire: False\nusers:\n  - default\n\
             package_upgrade: true\n"
        );
        assert_eq!(
            network_data(&section),
            "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      mac_address: 'bc:24:11:00:00:01'\n      \
             subnets:\n      - type: static\n        address: '10.0.0.5'\n        netmask: '255.255.255.0'\n        \
             gateway: '10.0.0.1'\n    - type: nameserver\n      address:\n      - '1.1.1.1'\n      search:\n      - \
             'example.test'\n"
        );
    }
}
