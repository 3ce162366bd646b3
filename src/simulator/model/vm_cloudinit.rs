//! Cloud-init: the data that Proxmox renders, and what a first boot makes of it (facts F.2).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::config::{self, Section};
use super::error::{ApiError, Result};
use super::property;
use super::state::State;
use super::storage::split_volid;
use super::vm_options::{drives, index_of, is_cloud_init, parse_net};

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
        "cipassword" => "**********".to_owned(),
        "description" => value.trim_end_matches('\n').to_owned(),
        _ => value.to_owned(),
    }
}

/// Host name and, where there is a domain, the full name.
fn names(section: &Section, vmid: u32) -> (String, Option<String>) {
    let name = section.get("name").map_or_else(|| format!("VM{vmid}"), str::to_owned);
    if let Some((host, _)) = name.split_once('.') {
        return (host.to_owned(), Some(name.clone()));
    }
    let domain = section
        .get("searchdomain")
        .and_then(|text| text.split_whitespace().next());
    let full = domain.map(|domain| format!("{name}.{domain}"));
    (name, full)
}

/// The user-data that Proxmox writes.
pub fn user_data(section: &Section, vmid: u32) -> String {
    let (host, full) = names(section, vmid);
    let mut out = format!("#cloud-config\nhostname: {host}\nmanage_etc_hosts: true\n");
    if let Some(full) = full {
        let _ = writeln!(out, "fqdn: {full}");
    }
    let user = section.get("ciuser");
    if let Some(user) = user {
        let _ = writeln!(out, "user: {user}");
    }
    if user == Some("root") {
        out.push_str("disable_root: False\n");
    }
    if let Some(password) = section.get("cipassword") {
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
pub fn network_data(section: &Section) -> String {
    let mut out = "version: 1\nconfig:\n".to_owned();
    for (number, key) in (0..32).map(|number| (number, format!("net{number}"))) {
        let Some(net) = section.get(&key) else { continue };
        let mac = parse_net(net).remove("macaddr").unwrap_or_default().to_lowercase();
        let _ = writeln!(
            out,
            "    - type: physical\n      name: eth{number}\n      mac_address: '{mac}'"
        );
        let Some(ip) = section.get(&format!("ipconfig{number}")) else {
            continue;
        };
        out.push_str("      subnets:\n");
        let parts = property::parse(ip, "");
        if let Some(ip) = parts.get("ip") {
            subnet(&mut out, ip, parts.get("gw"), "dhcp4");
        }
        if let Some(ip) = parts.get("ip6") {
            let word = if ip == "auto" { "ipv6_slaac" } else { "dhcp6" };
            subnet(&mut out, ip, parts.get("gw6"), word);
        }
    }
    let list = |key: &str| -> Vec<String> {
        let text = section.get(key).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let (servers, domains) = (list("nameserver"), list("searchdomain"));
    if !servers.is_empty() || !domains.is_empty() {
        out.push_str("    - type: nameserver\n      address:\n");
        for server in servers {
            let _ = writeln!(out, "      - '{server}'");
        }
        out.push_str("      search:\n");
        for domain in domains {
            let _ = writeln!(out, "      - '{domain}'");
        }
    }
    out
}

fn subnet(out: &mut String, ip: &str, gateway: Option<&String>, dynamic: &str) {
    match ip.split_once('/') {
        None => {
            let _ = writeln!(out, "      - type: {dynamic}");
        }
        Some((address, bits)) if ip.contains(':') => {
            let _ = writeln!(out, "      - type: static6\n        address: '{address}/{bits}'");
        }
        Some((address, bits)) => {
            let bits: u32 = bits.parse().unwrap_or(24);
            let mask = std::net::Ipv4Addr::from(u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0));
            let _ = writeln!(
                out,
                "      - type: static\n        address: '{address}'\n        netmask: '{mask}'"
            );
        }
    }
    if let Some(gateway) = gateway {
        let _ = writeln!(out, "        gateway: '{gateway}'");
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
        if !has_drive(&current) {
            return Err(ApiError::die("no cloudinit drive configured"));
        }
        self.check_snippets(node, &current)?;
        self.refresh_cloud_init(vmid);
        Ok(())
    }

    /// `GET …/cloudinit`: the options as they are on the drive, and how they changed since.
    pub fn pending_cloud_init(&self, node: &str, vmid: u32) -> Result<Vec<Value>> {
        let guest = self.vm(node, vmid)?;
        let (now, written) = (options(&guest.config().current), &guest.machine.cloud_init);
        let mut keys: Vec<&String> = now.keys().chain(written.keys()).collect();
        keys.sort();
        keys.dedup();
        let row = |key: &String| match (written.get(key), now.get(key)) {
            (Some(old), Some(new)) if old == new => json!({ "key": key, "value": shown(key, old) }),
            (Some(old), Some(new)) => json!({ "key": key, "value": shown(key, old), "pending": shown(key, new) }),
            (Some(old), None) => json!({ "key": key, "value": shown(key, old), "delete": 1 }),
            (None, new) => json!({ "key": key, "pending": shown(key, new.map_or("", String::as_str)) }),
        };
        Ok(keys.into_iter().map(row).collect())
    }

    /// `GET …/cloudinit/dump`: one part of the data, as it would be written now.
    pub fn dump_cloud_init(&self, node: &str, vmid: u32, kind: &str) -> Result<String> {
        let current = &self.vm(node, vmid)?.config().current;
        let custom = |kind: &str| self.custom_data(node, current, kind);
        match kind {
            "user" => Ok(custom("user")?.unwrap_or_else(|| user_data(current, vmid))),
            "network" => Ok(custom("network")?.unwrap_or_else(|| network_data(current))),
            _ => match custom("meta")? {
                Some(text) => Ok(text),
                None => Ok(format!("instance-id: {}\n", self.instance_id(node, vmid, current)?)),
            },
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
            let path = format!("{}/{name}", found.path);
            return Err(ApiError::die(format!(
                "can't open '{path}' - No such file or directory"
            )));
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
