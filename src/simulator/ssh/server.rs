//! Connections, keys and channels.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Handle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, Disconnect};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::commands::{Served, serve};
use super::{Reply, Request};
use crate::simulator::Simulator;

/// How to set up the SSH servers.
#[derive(Debug, Clone)]
pub struct SshConfig {
    /// Where the first node listens. With several nodes and a loopback address, each further node listens on the next
    /// address (127.0.0.2, …) at the same port, so that a client can tell them apart; otherwise one server stands for
    /// all nodes.
    pub listen: SocketAddr,
    /// Public keys that are let in, a line each; every key when empty.
    pub authorized_keys: Vec<String>,
}

/// A command that was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshEntry {
    /// The node; none when one server stands for all.
    pub node: Option<String>,
    /// The command in a few words.
    pub summary: String,
    /// Its exit code; none when the connection was cut.
    pub exit: Option<u32>,
}

/// Running SSH servers; they end when this is dropped.
#[derive(Debug)]
pub struct SshServer {
    addresses: BTreeMap<String, SocketAddr>,
    host_key: PublicKey,
    shared: Arc<Shared>,
    accepting: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    simulator: Simulator,
    authorized: Vec<PublicKey>,
    log: Mutex<Vec<SshEntry>>,
    connections: AtomicUsize,
    usual: Arc<server::Config>,
    other: Arc<server::Config>,
}

/// Largest standard input of a command.
const LARGEST_INPUT: usize = 64 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn other_error(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn new_key() -> io::Result<PrivateKey> {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(other_error)
}

fn config(key: PrivateKey) -> Arc<server::Config> {
    Arc::new(server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::from_millis(200),
        auth_rejection_time_initial: Some(Duration::ZERO),
        inactivity_timeout: Some(Duration::from_secs(3600)),
        nodelay: true,
        ..server::Config::default()
    })
}

impl SshServer {
    /// Starts the servers for the nodes of `simulator`.
    ///
    /// # Errors
    /// An address that cannot be listened on, or a key that cannot be read.
    pub async fn start(simulator: &Simulator, ssh: SshConfig) -> io::Result<Self> {
        let authorized = ssh
            .authorized_keys
            .iter()
            .map(|line| line.trim())
            .filter(|line| !line.is_empty());
        let authorized: Vec<PublicKey> = authorized
            .map(|line| line.parse().map_err(other_error))
            .collect::<io::Result<_>>()?;
        let key = host_key(simulator)?;
        let host_key = key.public_key().clone();
        let shared = Arc::new(Shared {
            simulator: simulator.clone(),
            authorized,
            log: Mutex::default(),
            connections: AtomicUsize::new(0),
            usual: config(key),
            other: config(new_key()?),
        });
        let nodes: Vec<String> = simulator.with(|state| state.nodes.keys().cloned().collect());
        let mut started = Self {
            addresses: BTreeMap::new(),
            host_key,
            shared,
            accepting: Vec::new(),
        };
        let mut listen = ssh.listen;
        let together = nodes.len() < 2 || !matches!(listen.ip(), IpAddr::V4(ip) if ip.is_loopback());
        if together {
            let address = started.accept_on(listen, None).await?;
            started.addresses.extend(nodes.into_iter().map(|node| (node, address)));
        } else {
            for (index, node) in nodes.into_iter().enumerate() {
                let address = started.accept_on(nth(listen, index), Some(node.clone())).await?;
                // All nodes have one port; the first decides which when any will do.
                listen.set_port(address.port());
                started.addresses.insert(node, address);
            }
        }
        Ok(started)
    }

    async fn accept_on(&mut self, listen: SocketAddr, node: Option<String>) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = self.shared.clone();
        self.accepting.push(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // As sshd does: answers are small, and each would wait for the one before to be confirmed.
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::warn!(%error, "an SSH connection stays slow");
                        }
                        tokio::spawn(connection(shared.clone(), node.clone(), stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept an SSH connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }));
        Ok(address)
    }

    /// Where each node listens.
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// Lines of a `known_hosts` file for these servers.
    pub fn known_hosts(&self) -> String {
        let key = self.host_key.to_openssh().unwrap_or_default();
        self.addresses
            .iter()
            .map(|(node, at)| format!("[{}]:{},[{node}]:{} {key}\n", at.ip(), at.port(), at.port()))
            .collect()
    }

    /// The commands served so far.
    pub fn log(&self) -> Vec<SshEntry> {
        lock(&self.shared.log).clone()
    }

    /// How many connections were logged in to so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// A new key pair for a client: private key (OpenSSH PEM) and the line for `authorized_keys`.
    ///
    /// # Errors
    /// A key that cannot be written as text.
    pub fn new_client_key() -> io::Result<(String, String)> {
        let key = new_key()?;
        let private = key.to_openssh(LineEnding::LF).map_err(other_error)?.to_string();
        let public = key.public_key().to_openssh().map_err(other_error)?;
        Ok((private, public))
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

fn nth(first: SocketAddr, index: usize) -> SocketAddr {
    match first.ip() {
        IpAddr::V4(ip) => {
            let next = u32::from(ip).saturating_add(index as u32);
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(next)), first.port())
        }
        IpAddr::V6(_) => first,
    }
}

/// The host key in the state, or a new one that is kept there.
fn host_key(simulator: &Simulator) -> io::Result<PrivateKey> {
    if let Some(pem) = simulator.with(|state| state.ssh.host_key.clone()) {
        return PrivateKey::from_openssh(pem).map_err(other_error);
    }
    let key = new_key()?;
    let pem = key.to_openssh(LineEnding::LF).map_err(other_error)?.to_string();
    simulator.with(|state| {
        state.dirty = true;
        state.ssh.host_key = Some(pem);
    });
    Ok(key)
}

async fn connection(shared: Arc<Shared>, node: Option<String>, stream: TcpStream) {
    let (online, other_key) = shared.simulator.with(|state| {
        let up = |name: &String| state.nodes.get(name).is_some_and(|found| found.online);
        (
            node.as_ref().map_or_else(|| state.nodes.keys().any(up), up),
            state.ssh.other_host_key,
        )
    });
    // A node that is off does not answer; a closed connection is as near as one process can come.
    if !online {
        return;
    }
    let config = if other_key {
        shared.other.clone()
    } else {
        shared.usual.clone()
    };
    let visitor = Visitor {
        shared,
        node,
        user: String::new(),
        channels: HashMap::new(),
    };
    match server::run_stream(config, stream, visitor).await {
        Ok(session) => {
            if let Err(error) = session.await {
                tracing::debug!(%error, "an SSH connection ended");
            }
        }
        Err(error) => tracing::debug!(%error, "an SSH connection did not come about"),
    }
}

/// One connection.
struct Visitor {
    shared: Arc<Shared>,
    node: Option<String>,
    user: String,
    channels: HashMap<ChannelId, (String, Vec<u8>)>,
}

impl server::Handler for Visitor {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let authorized = &self.shared.authorized;
        if authorized.is_empty()
            || authorized
                .iter()
                .any(|known| known.key_data() == key.public_key.key_data())
        {
            self.user = user.to_owned();
            self.shared.connections.fetch_add(1, Ordering::Relaxed);
            return Ok(Auth::Accept);
        }
        Ok(Auth::reject())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        let _ = channel;
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        let line = String::from_utf8_lossy(data).into_owned();
        if line.ends_with(" -s") {
            self.channels.insert(channel, (line, Vec::new()));
        } else {
            self.answer(channel, line, Vec::new(), session);
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        if let Some((_, stdin)) = self.channels.get_mut(&channel) {
            stdin.extend_from_slice(data);
            if stdin.len() > LARGEST_INPUT {
                session.close(channel)?;
                self.channels.remove(&channel);
            }
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        if let Some((line, stdin)) = self.channels.remove(&channel) {
            self.answer(channel, line, stdin, session);
        }
        Ok(())
    }
}

impl Visitor {
    /// Serves the command beside the connection, so that one that waits does not hold up the others.
    fn answer(&self, channel: ChannelId, line: String, stdin: Vec<u8>, session: &Session) {
        let request = Request {
            user: self.user.clone(),
            node: self.node.clone(),
            line,
            stdin,
        };
        tokio::spawn(answer(self.shared.clone(), request, channel, session.handle()));
    }
}

async fn answer(shared: Arc<Shared>, request: Request, channel: ChannelId, handle: Handle) {
    let (reply, served) = shared.simulator.serve_patiently(&request).await;
    let exit = (!served.cut).then_some(reply.exit);
    lock(&shared.log).push(SshEntry {
        node: request.node.clone(),
        summary: served.summary,
        exit,
    });
    shared.simulator.clock().sleep(served.delay).await;
    if served.cut {
        let _ = handle
            .disconnect(Disconnect::ByApplication, String::new(), String::new())
            .await;
        return;
    }
    // A client that has gone away does not get its answer; the command has had its effect all the same.
    let _ = handle.data(channel, reply.stdout.into_bytes()).await;
    let mut waited = 0;
    for (ms, text) in reply.later {
        shared.simulator.clock().sleep(ms - waited).await;
        waited = ms;
        let _ = handle.data(channel, text.into_bytes()).await;
    }
    if !reply.stderr.is_empty() {
        let _ = handle.extended_data(channel, 1, reply.stderr.into_bytes()).await;
    }
    let _ = handle.exit_status_request(channel, reply.exit).await;
    let _ = handle.eof(channel).await;
    let _ = handle.close(channel).await;
}

impl Simulator {
    /// Runs a command as the SSH server of a node does, without one, to its end.
    pub async fn run(&self, request: &Request) -> Reply {
        let (mut reply, served) = self.serve_patiently(request).await;
        self.clock().sleep(served.delay).await;
        let mut waited = 0;
        for (ms, text) in std::mem::take(&mut reply.later) {
            self.clock().sleep(ms - waited).await;
            waited = ms;
            reply.stdout.push_str(&text);
        }
        reply.cut = served.cut;
        reply
    }

    /// Serves a command; while somebody holds the config file it is tried again, as long as Proxmox's tools do.
    async fn serve_patiently(&self, request: &Request) -> (Reply, Served) {
        let (step, patience) = self.with(|state| (state.scaled(200).max(1), state.scaled(state.latency.lock_timeout)));
        let mut waited = 0;
        loop {
            let (reply, served) = self.with(|state| serve(state, request));
            if !reply.wait || waited >= patience {
                return (reply, served);
            }
            self.clock().sleep(step).await;
            waited += step;
        }
    }
}
