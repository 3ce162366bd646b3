//! What `/nodes/{node}` tells about the node itself: network, names, hardware, its own settings.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::node::Node;
use crate::simulator::model::property::split_list;
use crate::simulator::model::{ApiError, State};

/// The network card that the first bridge has.
const CARD: &str = "eno1";
/// Classes of devices that are left out unless the caller names others.
const DULL: &str = "05;06;0b";
const DOMAIN: &str = "example.test";
const CLUSTER_CA: &str =
    "/CN=Proxmox Virtual Environment/OU=79cbdfe2-be78-4555-becb-5cf65c69798d/O=PVE Cluster Manager CA";

fn node<'a>(state: &'a State, call: &Call) -> Option<&'a Node> {
    state.nodes.get(&call.params.node())
}

fn gateway(node: &Node) -> String {
    node.ip
        .rsplit_once('.')
        .map(|(net, _)| format!("{net}.1"))
        .unwrap_or_default()
}

/// Interfaces: a card, and the bridges, of which the first has the address of the node.
fn interfaces(node: &Node) -> Vec<Value> {
    let mut rows = vec![json!({
        "iface": CARD, "type": "eth", "method": "manual", "method6": "manual", "families": ["inet"], "priority": 3,
    })];
    for (at, name) in node.bridges.keys().enumerate() {
        let mut row = json!({
            "iface": name, "type": "bridge", "active": 1, "autostart": 1, "method": "manual", "method6": "manual",
            "families": ["inet"], "bridge_fd": "0", "bridge_stp": "off", "bridge_ports": "", "priority": 4 + at,
        });
        if at == 0 {
            row["method"] = json!("static");
            row["address"] = json!(node.ip);
            row["netmask"] = json!("24");
            row["cidr"] = json!(format!("{}/24", node.ip));
            row["gateway"] = json!(gateway(node));
            row["bridge_ports"] = json!(CARD);
        }
        rows.push(row);
    }
    rows
}

/// `GET /nodes/{node}/network`.
pub fn network(state: &mut State, call: &Call) -> Answer {
    let kind = call.params.get("type");
    let wanted = |row: &Value| match kind.as_deref() {
        None | Some("include_sdn") => true,
        Some("any_bridge" | "any_local_bridge") => row["type"] == "bridge",
        Some(kind) => row["type"] == kind,
    };
    let rows: Vec<Value> = node(state, call).map(interfaces).unwrap_or_default();
    // A bridge is told to those who may use it, or look at it.
    let seen = |row: &Value| {
        let path = format!("/sdn/zones/localnetwork/{}", row["iface"].as_str().unwrap_or_default());
        row["type"] != "bridge" || state.may_any(&call.caller, &path, &["SDN.Audit", "SDN.Use"])
    };
    Ok(rows
        .into_iter()
        .filter(|row| wanted(row) && seen(row))
        .collect::<Vec<_>>()
        .into())
}

/// `GET /nodes/{node}/network/{iface}`.
pub fn interface(state: &mut State, call: &Call) -> Answer {
    let name = call.params.text("iface");
    let rows = node(state, call).map(interfaces).unwrap_or_default();
    let Some(Value::Object(mut row)) = rows.into_iter().find(|row| row["iface"] == name.as_str()) else {
        return Err(ApiError::param("iface", "interface does not exist"));
    };
    row.remove("iface");
    Ok(Value::Object(row).into())
}

/// `GET /nodes/{node}/dns`.
pub fn dns(state: &mut State, call: &Call) -> Answer {
    let server = node(state, call).map(gateway).unwrap_or_default();
    Ok(json!({ "search": DOMAIN, "dns1": server }).into())
}

/// `GET /nodes/{node}/time`.
pub fn time(state: &mut State, call: &Call) -> Answer {
    let ahead = node(state, call).map_or(0, |node| node.clock_ahead);
    let now = state.seconds().saturating_add_signed(ahead);
    Ok(json!({ "time": now, "localtime": now, "timezone": null }).into())
}

/// `GET /nodes/{node}/hosts`.
pub fn hosts(state: &mut State, call: &Call) -> Answer {
    let name = call.params.node();
    let ip = node(state, call).map(|node| node.ip.clone()).unwrap_or_default();
    let data = format!("127.0.0.1 localhost\n{ip} {name}.{DOMAIN} {name}\n");
    let digest = crate::simulator::model::config::digest(&data);
    Ok(json!({ "data": data, "digest": digest }).into())
}

/// Lists that are empty here.
pub fn nothing(_state: &mut State, _call: &Call) -> Answer {
    Ok(Vec::new().into())
}

/// `GET /nodes/{node}/firewall/options`: none are set.
pub fn firewall_options(_state: &mut State, _call: &Call) -> Answer {
    Ok(json!({ "digest": crate::simulator::model::config::digest("") }).into())
}

/// `GET /nodes/{node}/subscription`.
pub fn subscription(_state: &mut State, _call: &Call) -> Answer {
    Ok(json!({
        "status": "notfound", "message": "There is no subscription key", "serverid": null,
        "url": "https://www.proxmox.com/en/proxmox-virtual-environment/pricing",
    })
    .into())
}

/// `GET /nodes/{node}/certificates/info`.
pub fn certificates(state: &mut State, call: &Call) -> Answer {
    let name = call.params.node();
    let ip = node(state, call).map(|node| node.ip.clone()).unwrap_or_default();
    let fingerprint = state.fingerprint.clone().unwrap_or_default();
    let authority = state.ca_fingerprint.clone().unwrap_or_default();
    let from = node(state, call).map_or(0, |node| node.booted_at / 1000);
    let (pem, year) = ("", 31_536_000_u64);
    let loopback = "0000:0000:0000:0000:0000:0000:0000:0001";
    let host = format!("{name}.{DOMAIN}");
    Ok(json!([
        {
            "filename": "pve-root-ca.pem", "subject": CLUSTER_CA, "issuer": CLUSTER_CA, "san": [], "pem": pem,
            "fingerprint": authority, "public-key-type": "rsaEncryption", "public-key-bits": 4096,
            "notbefore": from, "notafter": from + 10 * year,
        },
        {
            "filename": "pve-ssl.pem", "issuer": CLUSTER_CA, "pem": pem, "fingerprint": fingerprint,
            "subject": format!("/OU=PVE Cluster Node/O=Proxmox Virtual Environment/CN={host}"),
            "san": ["127.0.0.1", loopback, "localhost", ip, name, host],
            "public-key-type": "rsaEncryption", "public-key-bits": 2048, "notbefore": from, "notafter": from + 2 * year,
        },
    ])
    .into())
}

/// `GET …/hardware/pci`: the devices with the graphics cards (facts F.6).
pub fn pci(state: &mut State, call: &Call) -> Answer {
    let dull = split_list(
        &call
            .params
            .get("pci-class-blacklist")
            .unwrap_or_else(|| DULL.to_owned()),
    );
    let Some(node) = node(state, call) else {
        return Ok(Reply::NULL);
    };
    let mut rows: Vec<Value> = node
        .pci
        .iter()
        .filter(|device| !dull.iter().any(|class| device.class[2..].starts_with(class.as_str())))
        .map(|device| {
            json!({
                "id": device.id, "class": device.class, "vendor": device.vendor, "device": device.device,
                "subsystem_vendor": device.subsystem_vendor, "subsystem_device": device.subsystem_device,
                "iommugroup": -1,
            })
        })
        .collect();
    rows.extend(node.gpus.iter().enumerate().map(|(at, gpu)| {
        json!({
            "id": gpu.pci, "class": "0x030000", "vendor": format!("0x{}", gpu.maker()),
            "vendor_name": maker_name(gpu.maker()), "device": "0x2d04", "device_name": gpu.model,
            "iommugroup": gpu.iommu_group.unwrap_or(at as i64 + 1),
            "subsystem_vendor": format!("0x{}", gpu.maker()), "subsystem_device": "0x0000",
        })
    }));
    Ok(rows.into())
}

/// A maker as the PCI id database names it.
fn maker_name(id: &str) -> &'static str {
    match id {
        "1002" => "Advanced Micro Devices, Inc. [AMD/ATI]",
        "8086" => "Intel Corporation",
        _ => "NVIDIA Corporation",
    }
}

/// `GET …/capabilities/qemu/migration`.
pub fn migration_capabilities(_state: &mut State, _call: &Call) -> Answer {
    Ok(json!({ "has-dbus-vmstate": false }).into())
}

/// Models of processors by maker.
const PROCESSORS: [(&str, &str); 3] = [
    (
        "GenuineIntel",
        "486 Broadwell Broadwell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS Cascadelake-Server Cascadelake-Server-noTSX \
         Cascadelake-Server-v2 Cascadelake-Server-v4 Cascadelake-Server-v5 ClearwaterForest Conroe Cooperlake \
         Cooperlake-v2 GraniteRapids GraniteRapids-v2 GraniteRapids-v3 Haswell Haswell-IBRS Haswell-noTSX \
         Haswell-noTSX-IBRS Icelake-Client Icelake-Client-noTSX Icelake-Server Icelake-Server-noTSX Icelake-Server-v3 \
         Icelake-Server-v4 Icelake-Server-v5 Icelake-Server-v6 Icelake-Server-v7 IvyBridge IvyBridge-IBRS KnightsMill \
         Nehalem Nehalem-IBRS Penryn SandyBridge SandyBridge-IBRS SapphireRapids SapphireRapids-v2 SapphireRapids-v3 \
         SapphireRapids-v4 SierraForest SierraForest-v2 SierraForest-v3 Skylake-Client Skylake-Client-IBRS \
         Skylake-Client-noTSX-IBRS Skylake-Client-v4 Skylake-Server Skylake-Server-IBRS Skylake-Server-noTSX-IBRS \
         Skylake-Server-v4 Skylake-Server-v5 Westmere Westmere-IBRS core2duo coreduo pentium pentium2 pentium3",
    ),
    (
        "AuthenticAMD",
        "EPYC EPYC-Genoa EPYC-Genoa-v2 EPYC-IBPB EPYC-Milan EPYC-Milan-v2 EPYC-Milan-v3 EPYC-Rome EPYC-Rome-v2 \
         EPYC-Rome-v3 EPYC-Rome-v4 EPYC-Rome-v5 EPYC-Turin EPYC-v3 EPYC-v4 EPYC-v5 Opteron_G1 Opteron_G2 Opteron_G3 \
         Opteron_G4 Opteron_G5 athlon phenom",
    ),
    (
        "default",
        "host kvm32 kvm64 max qemu32 qemu64 x86-64-v2 x86-64-v2-AES x86-64-v3 x86-64-v4",
    ),
];

/// `GET …/capabilities/qemu/cpu`.
pub fn processors(_state: &mut State, _call: &Call) -> Answer {
    let models = PROCESSORS
        .iter()
        .flat_map(|(vendor, names)| names.split_whitespace().map(move |name| (vendor, name)));
    let rows: Vec<Value> = models
        .map(|(vendor, name)| {
            let mut row = json!({ "name": name, "vendor": vendor, "custom": 0 });
            // These stand for a set of features, not for one processor.
            if name.starts_with("x86-64-") {
                row["abstract"] = json!(1);
            }
            row
        })
        .collect();
    Ok(rows.into())
}

/// `GET …/services/{service}/state`: systemd tells nothing about its units here.
pub fn service(_state: &mut State, call: &Call) -> Answer {
    Ok(json!({
        "service": call.params.text("service"), "name": null, "desc": null, "state": "running",
        "active-state": "active", "unit-state": "unknown",
    })
    .into())
}

fn settings_digest(node: &Node) -> String {
    let mut text = String::new();
    for (key, value) in &node.settings {
        let _ = writeln!(text, "{key}: {value}");
    }
    crate::simulator::model::config::digest(&text)
}

/// `GET /nodes/{node}/config`.
pub fn config(state: &mut State, call: &Call) -> Answer {
    let Some(node) = node(state, call).filter(|node| !node.settings.is_empty()) else {
        return Ok(json!({}).into());
    };
    let wanted = call.params.get("property");
    let mut row = json!({ "digest": settings_digest(node) });
    for (key, value) in &node.settings {
        if wanted.as_ref().is_none_or(|wanted| wanted == key) {
            row[key] = json!(value);
        }
    }
    Ok(row.into())
}

/// `PUT /nodes/{node}/config`.
pub fn set_config(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let Some(node) = state.nodes.get_mut(&params.node()) else {
        return Ok(Reply::NULL);
    };
    crate::simulator::model::lxc_config::check_digest(&settings_digest(node), params.get("digest").as_deref())?;
    for key in params.list("delete") {
        node.settings.remove(&key);
    }
    let fixed = ["node", "delete", "digest"];
    for (key, value) in params.options(|key| !fixed.contains(&key)) {
        let value = match key.as_str() {
            "description" => format!("{}\n", value.trim_end_matches('\n')),
            _ => value,
        };
        node.settings.insert(key, value);
    }
    Ok(Reply::NULL)
}
