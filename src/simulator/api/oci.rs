//! OCI images from registries (facts D.3, G.4).

use serde_json::json;

use super::call::{Answer, Call};
use super::storage::{check_filename, normal_filename};
use crate::simulator::model::State;
use crate::simulator::model::download::Download;
use crate::simulator::model::error::{ApiError, Result};
use crate::simulator::model::oci::REGISTRY;
use crate::simulator::model::storage::StorageKind;
use crate::simulator::model::task::Work;

/// Proxmox has them since 9.1.
fn known(state: &State, verb: &str, call: &Call) -> Result<()> {
    let mut numbers = state.release.version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (9, 1) {
        return Ok(());
    }
    let text = format!("Method '{verb} {}' not implemented", call.path);
    Err(ApiError::new(501, text))
}

/// `POST …/oci-registry-pull`.
pub fn pull(state: &mut State, call: &Call) -> Answer {
    known(state, "POST", call)?;
    let params = &call.params;
    let (node, id, reference) = (params.node(), params.text("storage"), params.text("reference"));
    let storage = state.usable_storage(&node, &id)?;
    if storage.kind == StorageKind::ZfsPool {
        let kind = storage.kind.word();
        let text = format!("can't upload to storage type '{kind}', not a file based storage!");
        return Err(ApiError::die(text));
    }
    if !storage.content.contains("vztmpl") {
        let text = format!("storage '{id}' is not configured for content-type 'vztmpl'");
        return Err(ApiError::die(text));
    }
    let name = params.get("filename").unwrap_or_else(|| reference.clone());
    let name = normal_filename(&name);
    let filename = format!("{}.tar", name.strip_suffix(".tar").unwrap_or(&name));
    check_filename("vztmpl", &filename)?;
    if storage.volume(&node, &format!("vztmpl/{filename}")).is_some() {
        return Err(ApiError::die(format!(
            "refusing to override existing file '{filename}'"
        )));
    }
    let work = Download {
        node: node.clone(),
        storage: id,
        content: "vztmpl".to_owned(),
        filename: filename.clone(),
        url: format!("{REGISTRY}{reference}"),
        checksum: None,
        compression: None,
    };
    let work = Work::Download(Box::new(work));
    let upid = state.start_task(&node, "ociregistrypull", &filename, &call.caller.id, work);
    Ok(upid.into())
}

/// `GET /nodes/{node}/query-oci-repo-tags`.
pub fn tags(state: &mut State, call: &Call) -> Answer {
    known(state, "GET", call)?;
    let reference = call.params.text("reference");
    let tags = state.oci_tags(&reference);
    if tags.is_empty() {
        let text = format!("command 'skopeo list-tags {REGISTRY}{reference}' failed: exit code 1");
        return Err(ApiError::die(text));
    }
    Ok(json!(tags).into())
}
