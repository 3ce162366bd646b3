//! What the guest agent of a virtual machine tells about it (facts F.8).

use serde_json::{Value, json};

use super::config::Section;
use super::guest::Guest;
use super::property;
use super::state::State;
use super::vm_options::{disks, memory, parse_net};

const COMMANDS: &[&str] = &[
    "exec",
    "exec-status",
    "file-close",
    "file-open",
    "file-read",
    "file-write",
    "fsfreeze-freeze",
    "fsfreeze-status",
    "fsfreeze-thaw",
    "fstrim",
    "get-fsinfo",
    "get-host-name",
    "get-osinfo",
    "get-time",
    "get-timezone",
    "get-users",
    "get-vcpus",
    "info",
    "network-get-interfaces",
    "ping",
    "set-user-password",
    "shutdown",
    "sync",
];

fn number(section: &Section, key: &str) -> u64 {
    section.get(key).and_then(|text| text.parse().ok()).unwrap_or(1)
}

impl State {
    /// The `result` of a command that only tells something.
    pub(super) fn agent_info(&self, guest: &Guest, name: &str) -> Value {
        let current = &guest.config().current;
        match name {
            "get-host-name" => json!({ "host-name": guest.name() }),
            "get-osinfo" => os_info(guest),
            "get-time" => json!(self.now * 1_000_000),
            "get-timezone" => json!({ "offset": 0, "zone": "UTC" }),
            "get-users" | "get-memory-blocks" => json!([]),
            "get-memory-block-info" => json!({ "size": 128_u64 << 20 }),
            "get-vcpus" => {
                let count = number(current, "cores") * number(current, "sockets");
                let cpu = |id| json!({ "logical-id": id, "online": true, "can-offline": id > 0 });
                (0..count).map(cpu).collect()
            }
            "get-fsinfo" => file_systems(current),
            "fsfreeze-status" => json!(if guest.machine.frozen { "frozen" } else { "thawed" }),
            "fstrim" => json!({ "paths": [{ "path": "/", "minimum": 0, "trimmed": memory(current) << 20 }] }),
            "info" => {
                let command =
                    |name: &&str| json!({ "name": format!("guest-{name}"), "enabled": true, "success-response": true });
                json!({ "version": "7.2.0", "supported_commands": COMMANDS.iter().map(command).collect::<Vec<_>>() })
            }
            "network-get-interfaces" => interfaces(guest),
            _ => json!({}),
        }
    }
}

fn os_info(guest: &Guest) -> Value {
    let ubuntu = guest.inside.os.ostype == "ubuntu";
    let (id, name, version, code) = if ubuntu {
        ("ubuntu", "Ubuntu", "24.04", "Noble Numbat")
    } else {
        ("debian", "Debian GNU/Linux", "12", "bookworm")
    };
    json!({
        "id": id, "name": name, "version-id": version, "version": format!("{version} ({code})"),
        "pretty-name": format!("{name} {version} ({code})"), "machine": "x86_64",
        "kernel-release": "6.1.0-28-cloud-amd64", "kernel-version": "#1 SMP PREEMPT_DYNAMIC",
    })
}

fn file_systems(section: &Section) -> Value {
    let size = disks(section, false)
        .first()
        .and_then(|(_, drive)| property::parse_size(drive.get("size")?))
        .unwrap_or_default();
    json!([{
        "name": "sda1", "mountpoint": "/", "type": "ext4", "total-bytes": size, "used-bytes": size / 4,
        "disk": [{ "bus-type": "scsi", "bus": 0, "target": 0, "unit": 0, "dev": "/dev/sda1" }],
    }])
}

fn interfaces(guest: &Guest) -> Value {
    let address =
        |ip: &str, kind: &str, prefix: u32| json!({ "ip-address": ip, "ip-address-type": kind, "prefix": prefix });
    let statistics = json!({
        "rx-bytes": 0, "rx-dropped": 0, "rx-errs": 0, "rx-packets": 0,
        "tx-bytes": 0, "tx-dropped": 0, "tx-errs": 0, "tx-packets": 0,
    });
    let mut rows = vec![json!({
        "name": "lo", "hardware-address": "00:00:00:00:00:00", "statistics": statistics,
        "ip-addresses": [address("127.0.0.1", "ipv4", 8), address("::1", "ipv6", 128)],
    })];
    let current = &guest.config().current;
    for number in 0..32 {
        let Some(net) = current.get(&format!("net{number}")) else {
            continue;
        };
        let parts = parse_net(net);
        let mac = parts.get("macaddr").map(|mac| mac.to_lowercase()).unwrap_or_default();
        let down = parts.get("link_down").is_some_and(|text| text == "1");
        let told = guest
            .machine
            .cloud_init
            .get(&format!("ipconfig{number}"))
            .map(|text| property::parse(text, ""));
        let ip = match told.as_ref().map(|parts| parts.get("ip").map(String::as_str)) {
            // Without cloud-init the system was set up by hand, and asks a DHCP server.
            None | Some(Some("dhcp")) => Some(leased(guest.vmid, number)),
            Some(None) => None,
            Some(Some(fixed)) => Some(fixed.to_owned()),
        };
        let mut addresses = Vec::new();
        if let Some((ip, prefix)) = ip.as_deref().and_then(|ip| ip.split_once('/')).filter(|_| !down) {
            addresses.push(address(ip, "ipv4", prefix.parse().unwrap_or(24)));
        }
        let fixed6 = told.as_ref().and_then(|parts| parts.get("ip6")?.split_once('/'));
        if let Some((ip, prefix)) = fixed6.filter(|_| !down) {
            addresses.push(address(ip, "ipv6", prefix.parse().unwrap_or(64)));
        }
        if !down {
            let local = super::vm_boot::link_local(&mac);
            addresses.push(address(&local, "ipv6", 64));
        }
        rows.push(json!({
            "name": format!("eth{number}"), "hardware-address": mac, "statistics": statistics,
            "ip-addresses": addresses,
        }));
    }
    Value::Array(rows)
}

/// What a DHCP server would hand out: an address of the benchmarking range that id and number decide.
fn leased(vmid: u32, number: u32) -> String {
    let second = 18 + (number & 1);
    format!("198.{second}.{}.{}/15", (vmid >> 8) & 0xff, vmid & 0xff)
}
