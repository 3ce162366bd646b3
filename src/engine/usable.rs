//! Whether a hypervisor can be used: what its spec names is there, and the token may do what its objects need.
//!
//! What the poll brings anyway (nodes, storages) is compared at every poll. Rights and images cost requests of their own:
//! they are asked for with every full poll, when the spec or what its objects need changed, and at every poll while
//! something is missing, so that what was mended is seen at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{PhoenixHypervisorSpec, VolumeOwners};
use crate::desired::images;
use crate::doctor::privileges::{self, Needs, Permissions};
use crate::doctor::uses::{Named, named};
use crate::observed::Cluster;
use crate::proxmox::Error;
use crate::reason::{Cause, Reason};
use crate::remote::is_pinned;

use super::connection::{Connection, Snapshot};

/// What was asked besides the poll.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Rights that are missing; `None` where root@pam itself works.
    pub missing: Option<Vec<(String, String)>>,
    /// What else is wrong.
    pub problems: Vec<Cause>,
}

/// Nodes on which guests may be put that name none.
fn nodes(spec: &PhoenixHypervisorSpec, cluster: &Cluster) -> Vec<String> {
    match spec.defaults.as_ref().and_then(|d| d.node.clone()) {
        Some(node) if cluster.online.contains(&node) => vec![node],
        Some(_) => vec![],
        None => cluster.online.iter().cloned().collect(),
    }
}

/// What the poll itself shows to be wrong. A storage that is not listed may be hidden by a missing right (`hidden`); why
/// else it is not there, `why` says where it was asked.
pub fn of_poll(
    spec: &PhoenixHypervisorSpec,
    needs: &Needs,
    cluster: &Cluster,
    hidden: &dyn Fn(&str) -> bool,
    why: &BTreeMap<(String, String), String>,
) -> Vec<Cause> {
    let mut problems = Vec::new();
    let default = spec.defaults.as_ref().and_then(|d| d.node.as_ref());
    if let Some(node) = default.filter(|node| !cluster.identity.nodes.contains(node)) {
        problems.push(Cause::new(
            Reason::NodeNotFound,
            format!(
                "spec.defaults.node: {node:?} is not a node of the cluster ({}): correct the name",
                cluster.identity.nodes.join(", ")
            ),
        ));
    }
    // A cluster that shows no storage at all shows nothing about one.
    if cluster.storages.is_empty() && why.is_empty() && !hidden("") {
        return problems;
    }
    for Named {
        field,
        storage,
        contents,
        ..
    } in named(spec, needs)
    {
        for node in nodes(spec, cluster) {
            let at = (node.clone(), storage.clone());
            let problem = match cluster.storages.get(&at) {
                // Which of the two it is nobody can tell from here.
                None if hidden(&storage) => Some(Cause::new(
                    Reason::MissingPrivilege,
                    format!(
                        "{field}: Proxmox shows the token no storage {storage:?} on node {node}: correct the name, or grant it the rights on /storage/{storage}"
                    ),
                )),
                None => Some(not_listed(&field, &at, cluster, why.get(&at))),
                Some(row) if !contents.iter().any(|c| row.content.iter().any(|has| has == c)) => Some(Cause::new(
                    Reason::StorageContentMissing,
                    format!(
                        "{field}: storage {storage:?} on node {node} is not for content {} (it has {}): add it in Datacenter > Storage, or name another",
                        contents.join(" or "),
                        row.content.join(", ")
                    ),
                )),
                Some(row) if !row.available => Some(Cause::new(
                    Reason::StorageUnavailable,
                    format!(
                        "{field}: storage {storage:?} is not available on node {node}: see there why, or name another"
                    ),
                )),
                Some(_) => None,
            };
            if let Some(problem) = problem {
                problems.push(problem);
                break;
            }
        }
    }
    problems
}

fn not_listed(field: &str, (node, storage): &(String, String), cluster: &Cluster, why: Option<&String>) -> Cause {
    if why.is_some_and(|why| why == DISABLED) {
        let message =
            format!("{field}: storage {storage:?} is disabled: enable it in Datacenter > Storage, or name another");
        return Cause::new(Reason::StorageDisabled, message);
    }
    let here = cluster.storages.keys().filter(|(n, _)| n == node);
    let here = Vec::from_iter(here.map(|(_, storage)| storage.as_str())).join(", ");
    Cause::new(
        Reason::StorageNotFound,
        format!(
            "{field}: node {node} has no storage {storage:?} (there are {here}): correct the name, or add it there"
        ),
    )
}

const DISABLED: &str = "disabled";

/// Storages of the spec that the poll did not list, and why: by the node's own list, which shows disabled ones.
pub async fn not_in_poll(
    connection: &Connection,
    spec: &PhoenixHypervisorSpec,
    needs: &Needs,
    cluster: &Cluster,
) -> BTreeMap<(String, String), String> {
    let mut why = BTreeMap::new();
    for node in nodes(spec, cluster) {
        let absent: BTreeSet<String> = named(spec, needs)
            .into_iter()
            .map(|n| n.storage)
            .filter(|storage| !cluster.storages.contains_key(&(node.clone(), storage.clone())))
            .collect();
        if absent.is_empty() {
            continue;
        }
        let Ok(list) = connection.client.storages(&node).await else {
            continue;
        };
        let disabled = list.into_iter().filter(|s| absent.contains(&s.storage) && !s.enabled);
        why.extend(disabled.map(|s| ((node.clone(), s.storage), DISABLED.to_string())));
    }
    why
}

/// Asks what costs requests of its own.
///
/// # Errors
/// Why it cannot be asked.
pub async fn ask(
    connection: &Connection,
    spec: &PhoenixHypervisorSpec,
    needs: &Needs,
    snapshot: &Snapshot,
) -> Result<Asked, Cause> {
    let mut asked = Asked::default();
    if connection.access.token.is_some() {
        let permissions: Permissions = match connection.client.permissions().await {
            Ok(permissions) => permissions,
            Err(error) => return Err(Cause::from(&error)),
        };
        let wanted = privileges::wanted(spec, needs, &snapshot.version);
        asked.missing = Some(privileges::missing(&permissions, &wanted));
    }
    asked.problems.extend(host_keys(connection, snapshot));
    if let Some(owners) = &spec.volume_owners {
        asked
            .problems
            .extend(owner_image(connection, owners, spec, snapshot).await?);
    }
    Ok(asked)
}

/// Nodes whose host key nobody can know.
fn host_keys(connection: &Connection, snapshot: &Snapshot) -> Option<Cause> {
    let ssh = connection.access.ssh.as_ref()?;
    let unknown: Vec<String> = snapshot
        .cluster
        .online
        .iter()
        .filter(|node| {
            let address = snapshot.addresses.get(*node).map(String::as_str);
            let target = connection.target_at(node, address);
            target.is_ok_and(|target| !is_pinned(&ssh.known_hosts, &target))
        })
        .cloned()
        .collect();
    (!unknown.is_empty()).then(|| {
        Cause::new(
            Reason::HostKeyMissing,
            format!(
                "spec.ssh.knownHostsSecretRef: {} has no host key of node {}: add the line of `ssh-keyscan -t ed25519 ADDRESS`, compared with the key on the node",
                ssh.known_hosts_from,
                unknown.join(", ")
            ),
        )
    })
}

/// The image of owner containers is on its storage or in the appliance index.
async fn owner_image(
    connection: &Connection,
    owners: &VolumeOwners,
    spec: &PhoenixHypervisorSpec,
    snapshot: &Snapshot,
) -> Result<Option<Cause>, Cause> {
    let volid = owners.image.as_deref().unwrap_or_default();
    let Some((storage, file)) = volid.split_once(":vztmpl/") else {
        return Ok(None);
    };
    let has = |node: &String| {
        snapshot
            .cluster
            .storages
            .contains_key(&(node.clone(), storage.to_string()))
    };
    let Some(node) = nodes(spec, &snapshot.cluster).into_iter().find(has) else {
        return Ok(None);
    };
    let volumes = connection
        .client
        .storage_content(&node, storage, Some("vztmpl"), None)
        .await;
    let files: Vec<String> = match volumes {
        Ok(volumes) => volumes
            .iter()
            .filter_map(|v| v.volid.rsplit('/').next().map(String::from))
            .collect(),
        // Told as a missing right, or as a storage that is not available.
        Err(Error::Forbidden { .. } | Error::Refused { .. }) => return Ok(None),
        Err(error) => return Err(Cause::from(&error)),
    };
    let there = |names: &[String]| match images::is_open(file) {
        true => images::newest(file, names).is_some(),
        false => names.iter().any(|name| name == file),
    };
    if there(&files) {
        return Ok(None);
    }
    let index = connection.client.appliances(&node).await.map_err(|e| Cause::from(&e))?;
    let index: Vec<String> = index.into_iter().map(|a| a.template).collect();
    if there(&index) {
        return Ok(None);
    }
    let near = images::near(file, index.iter().chain(&files)).join(" or ");
    let fix = match near.as_str() {
        "" => "run `pveam update` on the node, or correct the name".to_string(),
        near => format!("name {near}"),
    };
    Ok(Some(Cause::new(
        Reason::ImageNotFound,
        format!(
            "spec.volumeOwners.image: {volid:?} is not on its storage, and the appliance index of node {node} does not list it: {fix}"
        ),
    )))
}
