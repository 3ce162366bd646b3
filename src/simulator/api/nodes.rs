//! `/version`, `/nodes`, appliance templates, and the few calls for machines that containers' users meet.

use serde_json::{Value, json};

use super::call::{Answer, Call, Reply};
use crate::simulator::model::download::Download;
use crate::simulator::model::task::Work;
use crate::simulator::model::{ApiError, State};

/// `GET /version`.
pub fn version(state: &mut State, _call: &Call) -> Answer {
    let release = &state.release;
    Ok(json!({ "version": release.version, "release": release.release(), "repoid": release.repoid }).into())
}

/// `GET /nodes`.
pub fn list(state: &mut State, call: &Call) -> Answer {
    let rows: Vec<Value> = state
        .nodes
        .iter()
        .map(|(name, node)| {
            let mut row = json!({
                "id": format!("node/{name}"), "type": "node", "node": name, "level": "",
                "status": if node.online { "online" } else { "offline" },
                "ssl_fingerprint": state.fingerprint.clone().unwrap_or_default(),
            });
            if node.online && state.may(&call.caller, &format!("/nodes/{name}"), &["Sys.Audit"]) {
                row["cpu"] = json!(0.01);
                row["maxcpu"] = json!(node.cpus);
                row["mem"] = json!(node.memory / 10);
                row["maxmem"] = json!(node.memory);
                row["disk"] = json!(32_u64 << 30);
                row["maxdisk"] = json!(270_553_174_016_u64);
                row["uptime"] = json!(state.now.saturating_sub(node.booted_at) / 1000);
            }
            row
        })
        .collect();
    Ok(rows.into())
}

/// `GET /nodes/{node}/status`.
pub fn status(state: &mut State, call: &Call) -> Answer {
    let Some(node) = state.nodes.get(&call.params.node()) else {
        return Ok(Reply::NULL);
    };
    let release = &state.release;
    let total = 270_553_174_016_u64;
    let used = 32_u64 << 30;
    let memory = node.memory;
    let model = |key: &str| node.cpu_model.get(key).cloned().unwrap_or_default();
    Ok(json!({
        "uptime": state.now.saturating_sub(node.booted_at) / 1000,
        "cpu": 0.01, "wait": 0, "idle": 0, "loadavg": ["0.10", "0.20", "0.30"],
        "kversion": "Linux 6.14.11-4-pve #1 SMP PREEMPT_DYNAMIC PMX 6.14.11-4",
        "current-kernel": {
            "sysname": "Linux", "release": "6.14.11-4-pve", "machine": "x86_64",
            "version": "#1 SMP PREEMPT_DYNAMIC PMX 6.14.11-4",
        },
        "pveversion": format!("pve-manager/{}/{}", release.version, release.repoid),
        "boot-info": { "mode": "legacy-bios" },
        "cpuinfo": {
            "cpus": node.cpus, "cores": node.cpus, "sockets": 1, "hvm": model("hvm"), "user_hz": 100,
            "mhz": model("mhz"), "family": model("family"), "vendor": model("vendor"), "model": model("model"),
            "flags": model("flags"),
        },
        "ksm": { "shared": 0 },
        "memory": { "total": memory, "used": memory / 10, "free": memory / 10 * 8, "available": memory / 10 * 9 },
        "swap": { "total": 0, "used": 0, "free": 0 },
        "rootfs": { "total": total, "used": used, "free": total - used, "avail": (total - used) / 2 },
    })
    .into())
}

/// `GET /nodes/{node}/aplinfo`.
pub fn appliances(state: &mut State, _call: &Call) -> Answer {
    Ok(json!(
        state
            .appliances
            .iter()
            .map(|entry| json!({
                "template": entry.template, "package": entry.package, "os": entry.os, "version": entry.version,
                "section": entry.section, "type": "lxc", "headline": entry.headline, "description": entry.headline,
                "location": entry.location, "sha512sum": entry.sha512sum, "architecture": "amd64",
                "source": "https://releases.example.test", "infopage": "", "maintainer": "", "manageurl": "",
            }))
            .collect::<Vec<_>>()
    )
    .into())
}

/// `POST /nodes/{node}/aplinfo`.
pub fn download_appliance(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let wanted = params.text("template");
    let Some(entry) = state.appliances.iter().find(|entry| entry.template == wanted).cloned() else {
        return Err(ApiError::param("template", "no such template"));
    };
    let (node, storage) = (params.node(), params.text("storage"));
    if !state.usable_storage(&node, &storage)?.content.contains("vztmpl") {
        return Err(ApiError::die(format!("storage '{storage}' does not support templates")));
    }
    let work = Download {
        node: node.clone(),
        storage,
        content: "vztmpl".to_owned(),
        filename: entry.template,
        url: entry.location,
        checksum: Some(("sha512".to_owned(), entry.sha512sum)),
        compression: None,
    };
    Ok(state
        .start_task(&node, "download", "", &call.caller.id, Work::Download(Box::new(work)))
        .into())
}

fn vm_list(call: &Call) -> Option<Vec<u32>> {
    call.params.get("vms")?;
    Some(
        call.params
            .list("vms")
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect(),
    )
}

/// `POST /nodes/{node}/startall`.
pub fn start_all(state: &mut State, call: &Call) -> Answer {
    let (node, vms) = (call.params.node(), vm_list(call));
    let work = Work::StartAll {
        node: node.clone(),
        vms,
    };
    Ok(state.start_task(&node, "startall", "", &call.caller.id, work).into())
}

/// `POST /nodes/{node}/stopall`.
pub fn stop_all(state: &mut State, call: &Call) -> Answer {
    let (node, vms) = (call.params.node(), vm_list(call));
    let work = Work::StopAll {
        node: node.clone(),
        vms,
    };
    Ok(state.start_task(&node, "stopall", "", &call.caller.id, work).into())
}
