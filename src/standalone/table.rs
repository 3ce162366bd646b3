//! What people see of objects: a table like `kubectl get`.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::desired::GuestObject;

use super::run::{Standing, standing};

/// One word for where an object stands.
pub fn status_word(object: &GuestObject) -> String {
    object.status.phase.clone().unwrap_or_else(|| "Pending".into())
}

/// The objects as a table, followed by what is wrong with those that are not Ready.
pub fn render(objects: &[GuestObject]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["KIND", "NAME", "STATUS", "VMID", "NODE", "IP", "GPUS", "SOURCE"]);
    let mut notes = String::new();
    for object in objects {
        let status = &object.status;
        let or_dash = |value: Option<String>| value.filter(|v| !v.is_empty()).unwrap_or_else(|| "-".into());
        let vmid = status.vmid().or(object.spec_vmid()).map(|v| v.to_string());
        table.add_row([
            object.key.kind.as_str().to_string(),
            object.key.name.clone(),
            status_word(object),
            or_dash(vmid),
            or_dash(status.node.clone()),
            or_dash(status.ip.clone()),
            or_dash(status.gpus.clone()),
            or_dash(status.source.clone()),
        ]);
        if standing(object) != Standing::Ready
            && let Some(message) = &status.message
        {
            let reason = status
                .conditions
                .iter()
                .find(|c| c.type_ == "Ready")
                .map(|c| c.reason.clone())
                .unwrap_or_default();
            notes.push_str(&format!(
                "{}/{}: {reason}: {message}\n",
                object.key.kind.as_str(),
                object.key.name
            ));
        }
    }
    let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_string()).collect();
    let separator = if notes.is_empty() { "" } else { "\n\n" };
    format!("{}{separator}{}", lines.join("\n"), notes.trim_end())
}
