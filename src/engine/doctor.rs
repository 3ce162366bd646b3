//! Asks a hypervisor what `phoenix doctor` looks at: each request once, nothing is changed, and what fails is kept as the
//! reason why something is not known. What it means is decided in [`crate::doctor`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;

use crate::crd::PhoenixHypervisor;
use crate::desired::hypervisor::{self, Access};
use crate::desired::{GuestObject, Objects};
use crate::doctor::facts::{ClusterFacts, Endpoint, Facts, Known, NodeFacts, Shell, StorageFacts};
use crate::doctor::uses::Uses;
use crate::proxmox::cluster::ClusterStatus;
use crate::proxmox::{ApiCall, Came, Client, Error};
use crate::reason::Cause;
use crate::remote::{is_pinned, whoami};

use super::connection::Connection;
use super::options::Meters;
use super::outside::Outside;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Notes when the certificates end that an endpoint showed.
#[derive(Debug, Default)]
struct Ends(Mutex<Option<i64>>);

impl crate::proxmox::Meter for Ends {
    fn request(&self, _: &ApiCall, _: Came, _: Duration) {}

    fn certificate(&self, _: &str, ends: i64) {
        *super::lock(&self.0) = Some(ends);
    }
}

/// Counts nothing.
#[derive(Debug)]
struct Nobody;

impl crate::remote::Meter for Nobody {
    fn connected(&self, _: Option<&crate::remote::Error>) {}

    fn ran(&self, _: Result<&crate::remote::Output, &crate::remote::Error>, _: Duration) {}
}

fn unix_now(outside: Option<&dyn Outside>) -> i64 {
    outside.map_or_else(|| k8s_openapi::jiff::Timestamp::now().as_second(), Outside::now)
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Known<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Asks a hypervisor. `secrets` has what it names; `objects` are those that name it.
pub async fn ask(
    hypervisor: &PhoenixHypervisor,
    objects: &[&GuestObject],
    secrets: &dyn Objects,
    outside: Option<&dyn Outside>,
) -> Facts {
    let now = unix_now(outside);
    let connected = hypervisor::access(hypervisor, secrets)
        .map_err(|blocked| blocked.cause().clone())
        .and_then(|access| Ok((Connection::new(access.clone(), outside, 1.0, None)?, access)));
    let (connection, access) = match connected {
        Ok(both) => both,
        Err(cause) => return Facts::blocked(now, cause),
    };
    let endpoints = join_all(access.endpoints.iter().map(|url| endpoint(&access, url, outside))).await;
    let mut facts = Facts {
        token: access.token.as_ref().map(|(id, _)| id.clone()),
        credentials_from: access.credentials_from.clone(),
        blocked: None,
        endpoints,
        ..Facts::blocked(now, Cause::new(crate::reason::Reason::HypervisorNotReady, ""))
    };
    if !facts.endpoints.iter().any(|endpoint| endpoint.version.is_ok()) {
        let why = "no endpoint answers";
        facts.permissions = access.token.is_some().then(|| Err(why.into()));
        (facts.cluster, facts.guests) = (Err(why.into()), Err(why.into()));
        return facts;
    }
    let client = &connection.client;
    if access.token.is_some() && access.root_password.is_some() {
        facts.root = Some(root(&access, &facts.endpoints, outside).await);
    }
    facts.permissions = match access.token {
        Some(_) => Some(in_time(client.permissions()).await),
        None => None,
    };
    let status = in_time(client.cluster_status()).await;
    facts.cluster = status.as_ref().map_err(Clone::clone).map(|status| ClusterFacts {
        name: status.name.clone(),
        quorate: status.quorate,
    });
    nodes(
        &connection,
        &status,
        &Uses::of(&hypervisor.spec, objects),
        outside,
        &mut facts,
    )
    .await;
    facts
}

/// Whether the password of root@pam is taken, at an endpoint that answers.
async fn root(access: &Access, endpoints: &[Endpoint], outside: Option<&dyn Outside>) -> Result<(), Cause> {
    let answers = endpoints.iter().find(|endpoint| endpoint.version.is_ok());
    let alone = Access {
        token: None,
        ..access.clone()
    };
    let url = answers.map(|endpoint| endpoint.url.as_str()).unwrap_or_default();
    endpoint(&alone, url, outside).await.version.map(|_| ())
}

/// One endpoint, over a connection of its own.
async fn endpoint(access: &Access, url: &str, outside: Option<&dyn Outside>) -> Endpoint {
    let alone = Access {
        endpoints: vec![url.to_string()],
        ..access.clone()
    };
    let ends = Arc::new(Ends::default());
    let meters = Meters {
        api: ends.clone(),
        ssh: Arc::new(Nobody),
    };
    let version = match Connection::new(alone, outside, 1.0, Some(meters)) {
        Err(cause) => Err(cause),
        Ok(connection) => match tokio::time::timeout(PATIENCE, connection.client.version()).await {
            Ok(Ok(version)) => Ok(version.version),
            Ok(Err(error)) => Err(Cause::from(&error)),
            Err(_) => Err(Cause::new(
                crate::reason::Reason::HypervisorUnreachable,
                format!("no answer within {} s", PATIENCE.as_secs()),
            )),
        },
    };
    Endpoint {
        url: url.to_string(),
        version,
        ends: *super::lock(&ends.0),
    }
}

/// All nodes, beside each other.
async fn nodes(
    connection: &Connection,
    status: &Known<ClusterStatus>,
    uses: &Uses,
    outside: Option<&dyn Outside>,
    facts: &mut Facts,
) {
    let rows = in_time(connection.client.cluster_resources()).await;
    facts.guests = rows
        .as_ref()
        .map(|rows| {
            rows.iter()
                .filter_map(crate::proxmox::cluster::Resource::vmid)
                .collect()
        })
        .map_err(Clone::clone);
    let mut known: BTreeMap<String, (bool, Option<String>)> = BTreeMap::new();
    for row in rows.iter().flatten().filter(|row| row.kind == "node") {
        let online = row.status.as_deref() == Some("online");
        known.extend(row.node.clone().map(|node| (node, (online, None))));
    }
    for node in status.iter().flat_map(|status| &status.nodes) {
        known.insert(node.name.clone(), (node.online, node.ip.clone()));
    }
    let asked = known.into_iter().map(|(name, (online, address))| async move {
        let found = match online {
            true => node(connection, &name, address.as_deref(), uses, outside).await,
            false => NodeFacts::unknown(false, "the node is offline"),
        };
        (name, found)
    });
    facts.nodes = join_all(asked).await.into_iter().collect();
}

async fn node(
    connection: &Connection,
    name: &str,
    address: Option<&str>,
    uses: &Uses,
    outside: Option<&dyn Outside>,
) -> NodeFacts {
    let client = &connection.client;
    let storages = in_time(client.storages(name)).await;
    let storages = storages.map(|list| {
        let row = |s: crate::proxmox::storage::Storage| {
            let facts = StorageFacts {
                content: s.content,
                active: s.active,
                enabled: s.enabled,
                free: s.avail,
                total: s.total,
            };
            (s.storage, facts)
        };
        list.into_iter().map(row).collect::<BTreeMap<_, _>>()
    });
    let files = match &storages {
        Ok(storages) => files(client, name, storages, uses).await,
        Err(why) => uses
            .listed()
            .into_keys()
            .map(|storage| (storage, Err(why.clone())))
            .collect(),
    };
    let mut ca = None;
    let certificates = in_time(client.certificates(name)).await.map(|list| {
        let authority = list.iter().find(|c| c.filename == "pve-root-ca.pem");
        ca = authority
            .and_then(|c| c.fingerprint.clone())
            .filter(|text| !text.is_empty());
        let own = list.into_iter().filter(|c| c.filename != "pve-root-ca.pem");
        own.filter_map(|c| Some((c.filename, c.notafter?))).collect()
    });
    let before = unix_now(outside);
    let time = in_time(client.time(name)).await;
    let after = unix_now(outside);
    // Within the time that the question took nobody can tell.
    let ahead = time.and_then(|time| time.ok_or_else(|| "the node does not tell its time".to_string()));
    let ahead = ahead.map(|time| match time {
        _ if time < before => time - before,
        _ if time > after => time - after,
        _ => 0,
    });
    NodeFacts {
        online: true,
        version: in_time(client.node_version(name)).await,
        ahead,
        certificates,
        ca,
        bridges: in_time(client.bridges(name))
            .await
            .map(|list| list.into_iter().collect()),
        storages,
        files,
        appliances: in_time(client.appliances(name))
            .await
            .map(|list| list.into_iter().map(|appliance| appliance.template).collect()),
        shell: shell(connection, name, address).await,
        cards: match tokio::time::timeout(PATIENCE, connection.cards_at(name, address)).await {
            Ok(cards) => cards.map_err(|cause| cause.message),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        },
    }
}

/// Volume ids on the storages that images are on. A storage that is not there has a check of its own.
async fn files(
    client: &Client,
    node: &str,
    storages: &BTreeMap<String, StorageFacts>,
    uses: &Uses,
) -> BTreeMap<String, Known<BTreeSet<String>>> {
    let mut files = BTreeMap::new();
    for (storage, contents) in uses.listed() {
        let Some(found) = storages.get(&storage) else {
            files.insert(storage, Err("the node shows no such storage".into()));
            continue;
        };
        let mut all: Known<BTreeSet<String>> = Ok(BTreeSet::new());
        for content in contents
            .into_iter()
            .filter(|c| found.content.iter().any(|has| has == c))
        {
            let listed = in_time(client.storage_content(node, &storage, Some(content), None)).await;
            all = match (all, listed) {
                (Ok(mut all), Ok(listed)) => {
                    all.extend(listed.into_iter().map(|volume| volume.volid));
                    Ok(all)
                }
                (Err(why), _) | (_, Err(why)) => Err(why),
            };
        }
        files.insert(storage, all);
    }
    files
}

async fn shell(connection: &Connection, node: &str, address: Option<&str>) -> Shell {
    let Some(access) = &connection.access.ssh else {
        return Shell::NotGiven;
    };
    let target = match connection.target_at(node, address) {
        Ok(target) => target,
        Err((cause, _)) => return Shell::Failed(cause),
    };
    if !is_pinned(&access.known_hosts, &target) {
        return Shell::NoHostKey(target.host, target.port);
    }
    let ran = tokio::time::timeout(PATIENCE, connection.ssh_at(&target, &whoami())).await;
    let output = match ran {
        Ok(Ok(output)) => output,
        Ok(Err((cause, _))) => return Shell::Failed(cause),
        Err(_) => return Shell::NotAsked(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    if !output.is_success() {
        let how = if access.sudo { "sudo -n -- /bin/sh" } else { "/bin/sh" };
        let words = format!(
            "spec.ssh: node {node}: {how} failed for user {:?}: {}: let that user run it without a password (docs/access.md)",
            access.user,
            output.complaint()
        );
        return Shell::Failed(Cause::new(crate::reason::Reason::MissingPrivilege, words));
    }
    let said = output.stdout.text();
    match said.trim().parse() {
        Ok(uid) => Shell::Ran(uid),
        Err(_) => Shell::NotAsked(format!("the node answered {said:?} when asked for the user id")),
    }
}
