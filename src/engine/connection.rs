//! One connection a hypervisor: API client, SSH, the poller's snapshot, and what is under way on it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::crd::PhoenixHypervisorSpec;
use crate::crd::status::ProxmoxCluster;
use crate::desired::hypervisor::{Access, SshAccess, TlsPolicy};
use crate::doctor::privileges::Needs;
use crate::observed::Cluster;
use crate::proxmox::cluster::ClusterStatus;
use crate::proxmox::{ApiToken, Client, ConnectOptions, Login, Tls};
use crate::pve::gpu::NodeCards;
use crate::pve::{GuestRef, GuestType, Vmid};
use crate::reason::{Cause, Reason};
use crate::remote::{self, Command, Input, Node, Output, Running, Ssh, SshOptions, Terminal};

use super::durations::Durations;
use super::failure::of_ssh;
use super::fresh::Recent;
use super::inventory::CardLook;
use super::options::Meters;
use super::outside::Outside;
use super::probes::Prober;
use super::shares::Shares;
use super::usable::Asked;

/// What the last poll came to.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was asked for.
    pub taken: Instant,
    /// The cluster as it was seen.
    pub cluster: Cluster,
    /// Containers of which a clone was being made then, which locks them.
    pub cloned: BTreeSet<Vmid>,
    /// Addresses of the nodes by name.
    pub addresses: BTreeMap<String, String>,
    /// Seconds since each node's boot.
    pub uptimes: BTreeMap<String, u64>,
    /// Proxmox VE version.
    pub version: String,
}

/// SSH to the nodes, with what it rests on for messages.
#[derive(Clone)]
pub(super) struct Shell {
    pub ssh: Ssh,
    pub access: Arc<SshAccess>,
}

/// A hypervisor that is talked to.
pub struct Connection {
    /// What it was made from; another makes a new connection.
    pub access: Access,
    /// API client.
    pub client: Client,
    ssh: Option<Shell>,
    /// Asks the probes of its guests.
    pub(super) prober: Arc<Prober>,
    /// What its objects share, turn by turn.
    pub(super) shares: Shares,
    state: Mutex<State>,
    /// What was read of it a moment ago.
    pub(super) recent: Recent,
    /// How long its tasks take.
    pub(super) durations: Mutex<Durations>,
    /// Edits of owner containers pass one at a time.
    pub owners: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    snapshot: Option<Arc<Snapshot>>,
    problem: Option<Cause>,
    polls: u64,
    /// What was asked of the hypervisor besides the poll, for which spec and needs.
    asked: Option<Arc<Inquiry>>,
    /// Tagged containers that were read and are no owners of retained volumes: vmid, node and name.
    no_owners: HashSet<(Vmid, String, String)>,
    /// The last looks at the nodes' graphics cards.
    cards: BTreeMap<String, CardLook>,
    /// Ids of the owners' range that were proven free, and have not been in a list since.
    free_owner_ids: HashSet<Vmid>,
}

/// What was asked of a hypervisor besides the poll.
pub(super) struct Inquiry {
    /// For this spec.
    pub spec: PhoenixHypervisorSpec,
    /// For objects that need this.
    pub needs: Needs,
    /// What came of it.
    pub found: Result<Asked, Cause>,
    /// Why storages of the spec were not in the poll.
    pub why: BTreeMap<(String, String), String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Whether a container was read already and is no owner of retained volumes.
    pub(super) fn is_no_owner(&self, row: &(Vmid, String, String)) -> bool {
        lock(&self.state).no_owners.contains(row)
    }

    /// Notes that a container is no owner of retained volumes.
    pub(super) fn is_found_to_be_no_owner(&self, row: (Vmid, String, String)) {
        lock(&self.state).no_owners.insert(row);
    }

    /// Ids of the owners' range that a list shows.
    pub(super) fn seen_owner_ids<'i>(&self, ids: impl Iterator<Item = &'i Vmid>) {
        let mut state = lock(&self.state);
        for id in ids {
            state.free_owner_ids.remove(id);
        }
    }

    /// Whether an id of the owners' range was proven free, and has not been in a list since.
    pub(super) fn was_free_owner_id(&self, id: Vmid) -> bool {
        lock(&self.state).free_owner_ids.contains(&id)
    }

    /// Notes that an id of the owners' range is free.
    pub(super) fn free_owner_id(&self, id: Vmid) {
        lock(&self.state).free_owner_ids.insert(id);
    }

    /// A connection; nothing is sent. Time goes so many times faster on it than it does for people.
    ///
    /// # Errors
    /// What in `access` cannot be used.
    pub fn new(
        access: Access,
        outside: Option<&dyn Outside>,
        time_scale: f64,
        meters: Option<Meters>,
    ) -> Result<Self, Cause> {
        let mut options = ConnectOptions::new(access.endpoints.clone());
        options.tls = match &access.tls {
            TlsPolicy::System => Tls::Roots,
            TlsPolicy::Ca { pem, .. } => Tls::Ca(pem.clone()),
            TlsPolicy::Fingerprint(text) => Tls::Fingerprint(
                text.parse()
                    .map_err(|e| Cause::new(Reason::InvalidSpec, format!("spec.tls.fingerprint: {e}")))?,
            ),
            TlsPolicy::Insecure => Tls::InsecureSkipVerify,
        };
        options.token = access.token.as_ref().map(|(id, secret)| ApiToken {
            id: id.clone(),
            secret: secret.as_str().into(),
        });
        options.ticket = access.root_password.as_ref().map(|password| Login {
            username: "root@pam".into(),
            password: password.as_str().into(),
        });
        options.carrier = outside.map(Outside::api);
        options.meter = meters.as_ref().map(|meters| meters.api.clone());
        let client = Client::new(options).map_err(|words| {
            let message = match &access.tls {
                TlsPolicy::Ca { from, .. } if words.starts_with("the CA ") => {
                    format!("spec.tls.caSecretRef: {from}: {words}: put the node's /etc/pve/pve-root-ca.pem there")
                }
                _ => words,
            };
            Cause::new(Reason::InvalidSpec, message)
        })?;
        let ssh = match &access.ssh {
            Some(ssh) => {
                let mut options = SshOptions::new(&ssh.user, ssh.key.as_str(), &ssh.known_hosts);
                options.sudo = ssh.sudo;
                options.carrier = outside.map(Outside::ssh);
                options.meter = meters.map(|meters| meters.ssh);
                Some(Shell {
                    ssh: Ssh::new(options).map_err(|e| of_ssh(&e, ssh))?,
                    access: Arc::new(ssh.clone()),
                })
            }
            None => None,
        };
        let parallel_tasks = access.parallel_tasks;
        Ok(Connection {
            access,
            prober: Arc::new(Prober::new(client.clone(), ssh.clone())),
            client,
            ssh,
            shares: Shares::new(parallel_tasks),
            recent: Recent::new(time_scale),
            durations: Mutex::default(),
            state: Mutex::default(),
            owners: Arc::default(),
        })
    }

    /// The last snapshot, or why there is none.
    ///
    /// # Errors
    /// The problem of the last poll.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Cause> {
        let state = lock(&self.state);
        match (&state.problem, &state.snapshot) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Some(snapshot)) => Ok(snapshot.clone()),
            (None, None) => Err(Cause::new(
                Reason::HypervisorNotReady,
                "the hypervisor was not reached yet",
            )),
        }
    }

    /// The snapshot before any problem.
    pub fn last_snapshot(&self) -> Option<Arc<Snapshot>> {
        lock(&self.state).snapshot.clone()
    }

    /// Stores what a poll came to.
    pub fn store(&self, result: Result<Snapshot, Cause>) {
        let mut state = lock(&self.state);
        match result {
            Ok(snapshot) => {
                state.snapshot = Some(Arc::new(snapshot));
                state.problem = None;
            }
            Err(problem) => state.problem = Some(problem),
        }
    }

    /// What was asked last.
    pub(super) fn inquiry(&self) -> Option<Arc<Inquiry>> {
        lock(&self.state).asked.clone()
    }

    /// Keeps what was asked.
    pub(super) fn asked(&self, inquiry: Inquiry) -> Arc<Inquiry> {
        let inquiry = Arc::new(inquiry);
        lock(&self.state).asked = Some(inquiry.clone());
        inquiry
    }

    /// The last look at a node's graphics cards.
    pub(super) fn card_look(&self, node: &str) -> Option<CardLook> {
        lock(&self.state).cards.get(node).cloned()
    }

    /// The last looks at all nodes' graphics cards.
    pub(super) fn card_looks(&self) -> BTreeMap<String, CardLook> {
        lock(&self.state).cards.clone()
    }

    /// Keeps looks at graphics cards.
    pub(super) fn keep_card_looks(&self, looks: Vec<(String, CardLook)>) {
        lock(&self.state).cards.extend(looks);
    }

    /// The last snapshot shows a node's graphics cards as they are now.
    pub(super) fn show_cards(&self, node: &str, cards: NodeCards) {
        let mut state = lock(&self.state);
        if let Some(snapshot) = &state.snapshot {
            let mut snapshot = Snapshot::clone(snapshot);
            snapshot.cluster.gpus.insert(node.to_string(), cards);
            state.snapshot = Some(Arc::new(snapshot));
        }
    }

    /// Why a node's graphics cards are not known.
    pub(super) fn why_no_cards(&self, node: &str) -> Option<Cause> {
        lock(&self.state).cards.get(node).and_then(|look| look.failed.clone())
    }

    /// Counts a poll; the count before it.
    pub fn count_poll(&self) -> u64 {
        let mut state = lock(&self.state);
        state.polls += 1;
        state.polls
    }

    /// Runs a command on a node.
    ///
    /// # Errors
    /// With the reason, and whether it may have run.
    pub async fn ssh(&self, node: &str, command: &Command) -> Result<Output, (Cause, bool)> {
        self.ssh_at(&self.target(node)?, command).await
    }

    /// Runs a command on the node at this address.
    ///
    /// # Errors
    /// With the reason, and whether it may have run.
    pub(super) async fn ssh_at(&self, target: &Node, command: &Command) -> Result<Output, (Cause, bool)> {
        let shell = self.ssh.as_ref().ok_or_else(no_ssh)?;
        let ran = shell.ssh.run(target, command).await;
        ran.map_err(|e: remote::Error| (of_ssh(&e, &shell.access), e.may_have_happened()))
    }

    /// Starts a command on a node whose output comes while it runs.
    ///
    /// # Errors
    /// With the reason.
    pub async fn ssh_start(
        &self,
        node: &str,
        command: &Command,
        terminal: Option<&Terminal>,
    ) -> Result<(Running, Input), Cause> {
        let shell = self.ssh.as_ref().ok_or_else(no_ssh).map_err(|(f, _)| f)?;
        let target = self.target(node).map_err(|(f, _)| f)?;
        let started = shell.ssh.start(&target, command, terminal).await;
        started.map_err(|e| of_ssh(&e, &shell.access))
    }

    /// Where a node's SSH server is.
    pub(super) fn target(&self, node: &str) -> Result<Node, (Cause, bool)> {
        let known = self.last_snapshot().and_then(|s| s.addresses.get(node).cloned());
        self.target_at(node, known.as_deref())
    }

    /// The same, with the address that Proxmox knows for the node.
    pub(super) fn target_at(&self, node: &str, known: Option<&str>) -> Result<Node, (Cause, bool)> {
        let access = self.access.ssh.as_ref().ok_or_else(no_ssh)?;
        let host = access
            .hosts
            .get(node)
            .cloned()
            .or(known.map(String::from))
            .unwrap_or_else(|| node.to_string());
        Ok(match host.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => Node {
                name: node.into(),
                host: host.trim_matches(['[', ']']).into(),
                port: port.parse().unwrap_or(access.port),
            },
            _ => Node {
                name: node.into(),
                host,
                port: access.port,
            },
        })
    }

    /// Runs one of the runner's programs in a guest: in a container through SSH and `pct exec`, in a machine through
    /// its guest agent.
    ///
    /// # Errors
    /// With the reason, and whether it may have run.
    pub async fn in_guest(&self, at: &GuestRef, command: &Command) -> Result<Output, (Cause, bool)> {
        match at.sort {
            GuestType::Lxc => self.ssh(&at.node, command).await,
            GuestType::Qemu => super::agent::run(&self.client, at, &command.stdin).await,
        }
    }

    /// Why the cluster cannot be looked at, with the Secrets that its credentials are from.
    fn cause(&self, error: &crate::proxmox::Error) -> Cause {
        match error {
            crate::proxmox::Error::Unauthorized { .. } => Cause::new(
                Reason::Unauthorized,
                format!(
                    "spec.credentials of the PhoenixHypervisor: {error}: correct the token or the password in {}",
                    self.access.credentials_from
                ),
            ),
            _ => Cause::from(error),
        }
    }

    /// Looks at the whole cluster with one call, or two where its identity is not known yet.
    ///
    /// # Errors
    /// Why it cannot be looked at.
    pub async fn look(&self, full: bool) -> Result<Snapshot, Cause> {
        let of = |e: crate::proxmox::Error| self.cause(&e);
        let previous = self.last_snapshot();
        let taken = Instant::now();
        let mut cloned = self.shares.sources();
        let rows = self.client.cluster_resources().await.map_err(of)?;
        cloned.extend(self.shares.sources());
        let (identity, quorate, addresses, version) = match (previous, full) {
            (Some(p), false) => (
                p.cluster.identity.clone(),
                p.cluster.quorate,
                p.addresses.clone(),
                p.version.clone(),
            ),
            (previous, _) => {
                let known = previous.as_ref().map(|p| &p.cluster.identity);
                self.identity(&rows, known).await?
            }
        };
        let mut cluster = Cluster {
            identity,
            quorate,
            ..Cluster::default()
        };
        let mut uptimes = BTreeMap::new();
        for row in rows {
            if let (true, Some(node), Some(uptime)) = (row.kind == "node", &row.node, row.uptime) {
                uptimes.insert(node.clone(), uptime);
            }
            place(&mut cluster, row);
        }
        // Nodes come and go; their names are in every poll, their addresses only in a full one.
        let nodes: BTreeSet<String> = cluster
            .identity
            .nodes
            .iter()
            .cloned()
            .chain(cluster.online.clone())
            .collect();
        cluster.identity.nodes = nodes.into_iter().collect();
        Ok(Snapshot {
            taken,
            cluster,
            cloned,
            addresses,
            uptimes,
            version,
        })
    }

    /// The cluster that answers now; `None`: Sys.Audit on / is missing.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn who_answers(&self) -> Result<Option<ClusterStatus>, Cause> {
        match self.client.cluster_status().await {
            Ok(status) => Ok(Some(status)),
            Err(crate::proxmox::Error::Forbidden { .. }) => Ok(None),
            Err(error) => Err(Cause::from(&error)),
        }
    }

    /// The cluster that answers, asked no earlier than `since`, and what tells it from another.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub(super) async fn answers(
        &self,
        since: Instant,
    ) -> Result<(Option<ClusterStatus>, Option<ProxmoxCluster>), Cause> {
        let ask = async {
            let status = self.who_answers().await?;
            let identity = match &status {
                Some(status) => Some(self.identity_of(status).await?),
                None => None,
            };
            Ok((status, identity))
        };
        self.recent.cluster.get(since, ask).await
    }

    async fn identity(
        &self,
        rows: &[crate::proxmox::cluster::Resource],
        known: Option<&ProxmoxCluster>,
    ) -> Result<Identity, Cause> {
        let of = |e: crate::proxmox::Error| self.cause(&e);
        let version = self.client.version().await.map_err(of)?.version;
        let Some(status) = self.who_answers().await? else {
            // Guests can be worked on, but absence cannot be proven (promise 5).
            let nodes = rows
                .iter()
                .filter(|r| r.kind == "node")
                .filter_map(|r| r.node.clone())
                .collect();
            let nameless = ProxmoxCluster {
                nodes,
                ..ProxmoxCluster::default()
            };
            return Ok((nameless, None, BTreeMap::new(), version));
        };
        let addresses = status
            .nodes
            .iter()
            .filter_map(|n| Some((n.name.clone(), n.ip.clone()?)))
            .collect();
        // The certificate authority is read once, and whenever something final is concluded.
        let name = status.name.clone().unwrap_or_default();
        let identity = match known.filter(|k| k.name == name && k.ca_fingerprint.is_some()) {
            Some(known) => ProxmoxCluster {
                nodes: status.nodes.iter().map(|n| n.name.clone()).collect(),
                ..known.clone()
            },
            None => self.identity_of(&status).await?,
        };
        Ok((identity, Some(status.quorate), addresses, version))
    }

    /// What tells the cluster that answers from another: its name and nodes, and the certificate authority that it made
    /// for itself.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn identity_of(&self, status: &ClusterStatus) -> Result<ProxmoxCluster, Cause> {
        let mut online = status.nodes.iter().filter(|n| n.online);
        let local = online.clone().find(|n| n.local).or_else(|| online.next());
        let ca_fingerprint = match local {
            None => None,
            Some(node) => {
                let certificates = self.client.certificates(&node.name).await;
                let certificates = certificates?;
                let ca = certificates.into_iter().find(|c| c.filename == "pve-root-ca.pem");
                ca.and_then(|ca| ca.fingerprint).filter(|text| !text.is_empty())
            }
        };
        Ok(ProxmoxCluster {
            name: status.name.clone().unwrap_or_default(),
            nodes: status.nodes.iter().map(|n| n.name.clone()).collect(),
            ca_fingerprint,
        })
    }
}

pub(super) fn no_ssh() -> (Cause, bool) {
    let message = "this needs SSH to the node: set spec.ssh of the PhoenixHypervisor";
    (Cause::new(Reason::MissingPrivilege, message), false)
}

type Identity = (ProxmoxCluster, Option<bool>, BTreeMap<String, String>, String);

fn place(cluster: &mut Cluster, row: crate::proxmox::cluster::Resource) {
    use crate::observed::{ResourceRow, StorageRow};
    let node = row.node.clone().unwrap_or_default();
    match (row.kind.as_str(), row.vmid()) {
        ("lxc" | "qemu", Some(vmid)) => {
            let guest = ResourceRow {
                type_: row.kind.clone(),
                node,
                name: row.name.unwrap_or_default(),
                status: row.status.unwrap_or_default(),
                lock: row.lock.filter(|l| !l.is_empty()),
                tags: row.tags,
                pool: row.pool.filter(|p| !p.is_empty()),
                template: row.template,
                maxcpu: row.maxcpu.map(|c| c.to_string()),
                maxmem: row.maxmem.and_then(|v| i64::try_from(v).ok()),
                maxdisk: row.maxdisk.and_then(|v| i64::try_from(v).ok()),
                uptime: row.uptime.and_then(|v| i64::try_from(v).ok()),
            };
            cluster.guests.insert(vmid, guest);
        }
        ("node", _) if row.status.as_deref() == Some("online") => {
            cluster.online.insert(node);
        }
        ("storage", _) => {
            let storage = StorageRow {
                available: row.status.as_deref() == Some("available"),
                content: row.content,
                type_: row.plugintype.unwrap_or_default(),
                shared: row.shared,
            };
            cluster
                .storages
                .insert((node, row.storage.unwrap_or_default()), storage);
        }
        _ => {}
    }
}
