//! The cards of hypervisors for people: who has them, what is left, and who waits for what.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::crd::{GpuStatus, GpuUser, PhoenixHypervisor};
use crate::desired::GuestObject;
use crate::reason::Reason;

/// Reasons for which an object waits for a card, or cannot have it.
const WAITS: &[Reason] = &[
    Reason::GPUBusyStarting,
    Reason::GPUConflict,
    Reason::GPUFault,
    Reason::GPUNodesMissing,
    Reason::GPUNotFound,
    Reason::GPUOvercommitted,
    Reason::GPUReordered,
    Reason::GPUsNotRead,
];

/// An object that waits for a card, or cannot have it.
struct Waiting {
    object: String,
    reason: String,
    message: String,
}

fn waiting(objects: &[GuestObject]) -> Vec<Waiting> {
    let mut list = Vec::new();
    for object in objects {
        let own = |reason: &str| WAITS.iter().any(|known| known.as_str() == reason);
        // Ready repeats what another condition says.
        let found = object
            .status
            .conditions
            .iter()
            .find(|c| own(&c.reason) && c.type_ != "Ready");
        list.extend(found.map(|condition| Waiting {
            object: object.key.to_string(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        }));
    }
    list
}

/// The cards as a table, followed by who waits.
pub fn render(hypervisors: &[PhoenixHypervisor], objects: &[GuestObject]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "HYPERVISOR",
        "NODE",
        "GPU",
        "ADDRESS",
        "MODEL",
        "MEMORY",
        "MODE",
        "DRIVER",
        "LEFT",
        "USED BY",
    ]);
    let mut any = false;
    for hypervisor in hypervisors {
        for gpu in gpus(hypervisor) {
            any = true;
            table.add_row(row(&hypervisor.name_any(), gpu));
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    let mut text = match any {
        true => lines.join("\n"),
        false => {
            "no GPUs are known: the operator looks at the nodes over SSH (spec.ssh of the PhoenixHypervisor)".into()
        }
    };
    for (n, waits) in waiting(objects).iter().enumerate() {
        let gap = if n == 0 { "\n\n" } else { "\n" };
        text.push_str(&format!("{gap}{}: {}: {}", waits.object, waits.reason, waits.message));
    }
    text
}

fn gpus(hypervisor: &PhoenixHypervisor) -> impl Iterator<Item = &GpuStatus> {
    hypervisor.status.iter().flat_map(|status| status.gpus.iter().flatten())
}

fn row(hypervisor: &str, gpu: &GpuStatus) -> [String; 10] {
    let dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
    let users: Vec<String> = gpu.users.iter().flatten().map(user).collect();
    let mode = match (&gpu.fault, &gpu.missing_device_nodes) {
        (Some(fault), _) => Some(format!("{} (Xid {})", gpu.mode.as_deref().unwrap_or("-"), fault.xid)),
        (None, Some(_)) => Some(format!("{} (nodes missing)", gpu.mode.as_deref().unwrap_or("-"))),
        (None, None) => gpu.mode.clone(),
    };
    [
        hypervisor.to_string(),
        gpu.node.clone(),
        dash(gpu.index.map(|index| index.to_string())),
        gpu.pci_address.clone(),
        gpu.model.clone().unwrap_or_else(|| gpu.vendor.clone()),
        dash(gpu.memory.as_deref().map(memory)),
        dash(mode),
        dash(gpu.driver_version.clone()),
        left(gpu).map_or_else(|| "-".into(), |left| format!("{:.0} %", left * 100.0)),
        dash(Some(users.join(", "))),
    ]
}

/// What no declared share takes; `None` for cards of which nobody declares any.
fn left(gpu: &GpuStatus) -> Option<f64> {
    let users: Vec<&GpuUser> = gpu.users.iter().flatten().collect();
    if users.iter().any(|user| user.exclusive == Some(true)) {
        return Some(0.0);
    }
    let shares: Vec<f64> = users.iter().filter_map(|user| user.share).collect();
    (!shares.is_empty() || users.is_empty()).then(|| (1.0 - shares.iter().sum::<f64>()).max(0.0))
}

fn user(user: &GpuUser) -> String {
    let name = user.object.clone().or(user.vmid.map(|vmid| format!("guest {vmid}")));
    let name = name.unwrap_or_default();
    match (user.exclusive, user.share) {
        (Some(true), _) => format!("{name} (alone)"),
        (_, Some(share)) => format!("{name} ({:.0} %)", share * 100.0),
        (_, None) => name,
    }
}

/// `16311Mi` as `15.9 GiB`.
fn memory(text: &str) -> String {
    match text.strip_suffix("Mi").and_then(|mib| mib.parse::<f64>().ok()) {
        Some(mib) => format!("{:.1} GiB", mib / 1024.0),
        None => text.to_string(),
    }
}

/// The same for programs.
pub fn value(hypervisors: &[PhoenixHypervisor], objects: &[GuestObject]) -> Value {
    let cards = hypervisors.iter().flat_map(|hypervisor| {
        let name = hypervisor.name_any();
        gpus(hypervisor).map(move |gpu| {
            let mut card = json!(gpu);
            card["hypervisor"] = json!(name);
            card["left"] = json!(left(gpu));
            card
        })
    });
    let waiting = waiting(objects);
    let waiting = waiting
        .iter()
        .map(|waits| json!({"object": waits.object, "reason": waits.reason, "message": waits.message}));
    json!({"gpus": cards.collect::<Vec<_>>(), "waiting": waiting.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hypervisor() -> PhoenixHypervisor {
        serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"name": "pve", "namespace": "ai"},
            "spec": {"endpoints": [], "credentials": {}},
            "status": {"gpus": [
                {"node": "pve1", "pciAddress": "0000:41:00.0", "index": 0, "vendor": "NVIDIA",
                 "model": "NVIDIA GeForce RTX 5060 Ti", "memory": "16311Mi", "mode": "nvidia", "driverVersion": "580.76.05",
                 "users": [{"object": "PhoenixLXC ai/qwen", "vmid": 950, "share": 0.85},
                           {"object": "PhoenixLXC ai/embed", "vmid": 951, "share": 0.1}]},
                {"node": "pve1", "pciAddress": "0000:61:00.0", "vendor": "NVIDIA", "mode": "vfio",
                 "users": [{"vmid": 200, "exclusive": true}]},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_person_sees_who_has_a_card_and_what_is_left() {
        let text = render(&[hypervisor()], &[]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 3, "{text}");
        for words in [
            "15.9 GiB",
            "580.76.05",
            "5 %",
            "PhoenixLXC ai/qwen (85 %), PhoenixLXC ai/embed (10 %)",
        ] {
            assert!(lines[1].contains(words), "{words}: {text}");
        }
        assert!(lines[2].ends_with("0 %   guest 200 (alone)"), "{text}");
        let value = value(&[hypervisor()], &[]);
        assert!(
            value["gpus"][0]["left"]
                .as_f64()
                .is_some_and(|left| (left - 0.05).abs() < 1e-9)
        );
        assert!(render(&[], &[]).contains("spec.ssh"));
    }
}
