//! SSH to nodes: one connection a node, a bounded number of commands at a time.
//!
//! An error says whether the command may have run: [`Error::may_have_happened`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use russh::client::{self, Handle};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Preferred};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::Instrument;
use tracing::field::Empty;

use crate::secret::Secret;

use super::command::Command;
use super::known_hosts::{fingerprint, keys_of};
use super::meter::Meter;
use super::output::Output;
use super::session::{Event, Input, Running, Terminal};

/// How to log in to the nodes of one hypervisor.
#[derive(Debug, Clone)]
pub struct SshOptions {
    /// User; without `sudo` it has to be root.
    pub user: String,
    /// Private key (OpenSSH, PKCS#1 or PKCS#8 PEM).
    pub key: Secret,
    /// The key's passphrase.
    pub passphrase: Option<Secret>,
    /// Text of a `known_hosts` file; a host that is not in it is refused.
    pub known_hosts: String,
    /// Whether commands run under `sudo -n`.
    pub sudo: bool,
    /// Deadlines.
    pub timeouts: SshTimeouts,
    /// Commands at a time per node; OpenSSH allows ten sessions a connection unless told otherwise.
    pub max_channels: usize,
    /// What runs commands in place of SSH connections, for tests.
    pub carrier: Option<Arc<dyn Carrier>>,
    /// Is told of connections and commands.
    pub meter: Option<Arc<dyn Meter>>,
}

/// Runs commands on nodes in place of SSH connections: tests reach a simulated cluster in process.
pub trait Carrier: std::fmt::Debug + Send + Sync {
    /// Runs a command line on a node as a user, with a standard input, to its end. Deadlines are the caller's own.
    fn run<'c>(
        &'c self,
        node: &'c Node,
        user: &'c str,
        line: String,
        stdin: &'c [u8],
    ) -> BoxFuture<'c, Result<Output, Error>>;
}

impl SshOptions {
    /// Options with defaults for the rest.
    pub fn new(user: impl Into<String>, key: impl Into<Secret>, known_hosts: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            key: key.into(),
            passphrase: None,
            known_hosts: known_hosts.into(),
            sudo: false,
            timeouts: SshTimeouts::default(),
            max_channels: 8,
            carrier: None,
            meter: None,
        }
    }
}

/// Deadlines.
#[derive(Debug, Clone, Copy)]
pub struct SshTimeouts {
    /// To connect and log in.
    pub connect: Duration,
    /// For a free place among the commands under way.
    pub queue: Duration,
    /// From start to end of a command that brings no deadline of its own.
    pub command: Duration,
}

impl Default for SshTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            queue: Duration::from_secs(30),
            command: Duration::from_secs(60),
        }
    }
}

/// A node to log in to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name in the cluster; `known_hosts` may list it under this.
    pub name: String,
    /// Address or host name.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a command gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The private key cannot be used; nothing was sent.
    #[error("the SSH key cannot be read: {0}")]
    BadKey(String),
    /// The node's host key is not a known one; nothing was sent.
    #[error("{}", host_key_text(host, expected, actual))]
    HostKeyMismatch {
        /// The node, with address and port.
        host: String,
        /// Fingerprints of the known keys; empty if the host is not in `known_hosts`.
        expected: Vec<String>,
        /// Fingerprint of the key that the node shows.
        actual: String,
    },
    /// The node does not let the user in with this key; nothing was sent.
    #[error("{host} does not let user {user} in with this key")]
    AuthFailed {
        /// The node, with address and port.
        host: String,
        /// The user.
        user: String,
    },
    /// The command certainly did not run.
    #[error("cannot reach {host}: {message}")]
    Unreachable {
        /// The node, with address and port.
        host: String,
        /// What failed.
        message: String,
    },
    /// The connection was lost after the command was sent: it may have run, or still run.
    #[error("the connection to {host} was lost: {message}")]
    Lost {
        /// The node, with address and port.
        host: String,
        /// What failed.
        message: String,
    },
    /// The deadline passed after the command was sent: it may have run, or still run.
    #[error("{host} did not finish the command in {seconds} s")]
    Timeout {
        /// The node, with address and port.
        host: String,
        /// The deadline, in seconds.
        seconds: u64,
    },
}

impl Error {
    /// Whether the command may have had its effect.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Timeout { .. })
    }
}

fn host_key_text(host: &str, expected: &[String], actual: &str) -> String {
    if expected.is_empty() {
        format!("{host} is not in known_hosts; it shows the host key {actual}")
    } else {
        format!(
            "{host} shows the host key {actual}, known_hosts has {}",
            expected.join(", ")
        )
    }
}

/// After a failure to connect the node rests so long before it is tried again; doubles up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(15);

/// Runs commands on the nodes of one hypervisor; cheap to clone.
#[derive(Clone)]
pub struct Ssh(Arc<Inner>);

struct Inner {
    options: SshOptions,
    key: Arc<PrivateKey>,
    slots: Mutex<HashMap<Node, Arc<Slot>>>,
}

/// What is kept for one node.
struct Slot {
    permits: Arc<Semaphore>,
    connection: AsyncMutex<Connection>,
}

#[derive(Default)]
struct Connection {
    handle: Option<Handle<HostKeyCheck>>,
    failures: u32,
    rest: Option<(Instant, Error)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ssh {
    /// Reads the key; nothing is sent.
    ///
    /// # Errors
    /// [`Error::BadKey`].
    pub fn new(options: SshOptions) -> Result<Self, Error> {
        let passphrase = options.passphrase.as_ref().map(Secret::expose);
        let key = russh::keys::decode_secret_key(options.key.expose(), passphrase)
            .map_err(|error| Error::BadKey(error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            options,
            key: Arc::new(key),
            slots: Mutex::default(),
        })))
    }

    /// Runs `command` on `node` with the usual deadline.
    ///
    /// # Errors
    /// Everything but an exit code: see [`Error`].
    pub async fn run(&self, node: &Node, command: &Command) -> Result<Output, Error> {
        self.run_within(node, command, self.0.options.timeouts.command).await
    }

    /// Runs `command` on `node`; it has to end within `limit`.
    ///
    /// # Errors
    /// Everything but an exit code: see [`Error`].
    pub async fn run_within(&self, node: &Node, command: &Command, limit: Duration) -> Result<Output, Error> {
        self.run_streaming(node, command, limit, |_| {}).await
    }

    /// Runs `command` on `node` within `limit` and hands out its standard output as it comes.
    ///
    /// # Errors
    /// Everything but an exit code: see [`Error`].
    pub async fn run_streaming(
        &self,
        node: &Node,
        command: &Command,
        limit: Duration,
        stdout: impl FnMut(&[u8]) + Send,
    ) -> Result<Output, Error> {
        let asked = Instant::now();
        let ran = async {
            if let Some(carrier) = &self.0.options.carrier {
                return self.carried(carrier.as_ref(), node, command, limit, stdout).await;
            }
            let (running, input) = self.start(node, command, None).await?;
            within(node, limit, collect(running, input, &command.stdin, stdout)).await
        };
        // Arguments and standard input stay out of it: they may be of people's specs.
        let span = tracing::debug_span!(
            "ssh",
            otel.kind = "client",
            otel.status_code = Empty,
            program = command.argv.first(),
            server.address = node.host,
            node = node.name,
            error.type = Empty,
        );
        let ran = ran.instrument(span.clone()).await;
        if let Err(error) = &ran {
            span.record("error.type", error.word());
            span.record("otel.status_code", "ERROR");
        }
        if let Some(meter) = &self.0.options.meter {
            meter.ran(ran.as_ref(), asked.elapsed());
        }
        ran
    }

    async fn carried(
        &self,
        carrier: &dyn Carrier,
        node: &Node,
        command: &Command,
        limit: Duration,
        mut stdout: impl FnMut(&[u8]) + Send,
    ) -> Result<Output, Error> {
        let _permit = self.permit(node, &self.slot(node)).await?;
        let options = &self.0.options;
        let run = carrier.run(node, &options.user, command.line(options.sudo), &command.stdin);
        let output = within(node, limit, run).await?;
        stdout(output.stdout.text().as_bytes());
        Ok(output)
    }

    /// Starts `command` on `node`, and in a terminal if one is given: what it says comes while it runs, however long
    /// that is. Its standard input is what the [`Input`] is given, not that of `command`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(
        &self,
        node: &Node,
        command: &Command,
        terminal: Option<&Terminal>,
    ) -> Result<(Running, Input), Error> {
        if self.0.options.carrier.is_some() {
            return Err(Error::Unreachable {
                host: shown(node),
                message: "what comes while a command runs needs a connection".into(),
            });
        }
        let slot = self.slot(node);
        let permit = self.permit(node, &slot).await?;
        let channel = self.open(node, &slot).await?;
        let line = command.line(self.0.options.sudo);
        Running::start(shown(node), channel, permit, line, terminal).await
    }

    async fn permit(&self, node: &Node, slot: &Slot) -> Result<OwnedSemaphorePermit, Error> {
        let free = slot.permits.clone().acquire_owned();
        match timeout(self.0.options.timeouts.queue, free).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Unreachable {
                host: shown(node),
                message: "too many commands are still under way".into(),
            }),
        }
    }

    fn slot(&self, node: &Node) -> Arc<Slot> {
        let permits = self.0.options.max_channels.max(1);
        let new = || Slot {
            permits: Arc::new(Semaphore::new(permits)),
            connection: AsyncMutex::default(),
        };
        lock(&self.0.slots)
            .entry(node.clone())
            .or_insert_with(|| Arc::new(new()))
            .clone()
    }

    /// A channel on the node's connection, which is made anew if it is gone.
    async fn open(&self, node: &Node, slot: &Slot) -> Result<Channel<client::Msg>, Error> {
        let wait = self.0.options.timeouts.connect;
        let refused = |error: &dyn std::fmt::Display| Error::Unreachable {
            host: shown(node),
            message: error.to_string(),
        };
        let mut connection = slot.connection.lock().await;
        if let Some(handle) = connection.handle.as_ref().filter(|handle| !handle.is_closed()) {
            match timeout(wait, handle.channel_open_session()).await {
                Ok(Ok(channel)) => return Ok(channel),
                // The connection works, there is only no room on it.
                Ok(Err(error @ russh::Error::ChannelOpenFailure(_))) => return Err(refused(&error)),
                // It died without a word: nothing was sent on it yet.
                _ => {}
            }
        }
        connection.handle = None;
        if let Some((until, error)) = &connection.rest
            && *until > Instant::now()
        {
            return Err(error.clone());
        }
        let made = match timeout(wait, self.connect(node)).await {
            Ok(made) => made,
            Err(_) => Err(refused(&"time out while connecting")),
        };
        if let Some(meter) = &self.0.options.meter {
            meter.connected(made.as_ref().err());
        }
        let handle = match made {
            Ok(handle) => handle,
            Err(error) => {
                let rest = FIRST_REST
                    .saturating_mul(1 << connection.failures.min(6))
                    .min(LONGEST_REST);
                connection.failures += 1;
                connection.rest = Some((Instant::now() + rest, error.clone()));
                return Err(error);
            }
        };
        (connection.failures, connection.rest) = (0, None);
        let channel = timeout(wait, handle.channel_open_session()).await;
        connection.handle = Some(handle);
        match channel {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(refused(&"time out while opening a session")),
        }
    }

    async fn connect(&self, node: &Node) -> Result<Handle<HostKeyCheck>, Error> {
        let options = &self.0.options;
        let host = shown(node);
        let unreachable = |message: String| Error::Unreachable {
            host: host.clone(),
            message,
        };
        let expected = keys_of(&options.known_hosts, &[&node.host, &node.name], node.port);
        let config = client::Config {
            preferred: preferred(&expected),
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 3,
            inactivity_timeout: Some(Duration::from_secs(600)),
            nodelay: true,
            ..client::Config::default()
        };
        let refused = Arc::new(Mutex::new(None));
        let check = HostKeyCheck {
            expected: expected.clone(),
            refused: refused.clone(),
        };
        let connected = client::connect(Arc::new(config), (node.host.as_str(), node.port), check).await;
        let mut handle = match connected {
            Ok(handle) => handle,
            Err(error) => {
                return Err(match lock(&refused).take() {
                    Some(actual) => Error::HostKeyMismatch {
                        host,
                        expected: expected.iter().map(fingerprint).collect(),
                        actual,
                    },
                    None => unreachable(error.to_string()),
                });
            }
        };
        let rsa_hash = match self.0.key.algorithm() {
            Algorithm::Rsa { .. } => {
                let best = handle
                    .best_supported_rsa_hash()
                    .await
                    .map_err(|e| unreachable(e.to_string()))?;
                // A server that does not say what it takes is an old one, or takes SHA-2 anyway.
                best.unwrap_or(Some(HashAlg::Sha512))
            }
            _ => None,
        };
        let key = PrivateKeyWithHashAlg::new(self.0.key.clone(), rsa_hash);
        let auth = handle
            .authenticate_publickey(&options.user, key)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        if auth.success() {
            Ok(handle)
        } else {
            Err(Error::AuthFailed {
                host,
                user: options.user.clone(),
            })
        }
    }
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

async fn within(
    node: &Node,
    limit: Duration,
    run: impl Future<Output = Result<Output, Error>>,
) -> Result<Output, Error> {
    let late = || Error::Timeout {
        host: shown(node),
        seconds: limit.as_secs(),
    };
    timeout(limit, run).await.unwrap_or_else(|_| Err(late()))
}

/// Name, address and port, for messages.
fn shown(node: &Node) -> String {
    if node.name == node.host {
        format!("{}:{}", node.host, node.port)
    } else {
        format!("{} ({}:{})", node.name, node.host, node.port)
    }
}

/// The usual algorithms, with the kinds of the known host keys first: a server with several keys then shows one that
/// can be compared.
fn preferred(expected: &[PublicKey]) -> Preferred {
    let usual = Preferred::default();
    let known = |algorithm: &Algorithm| {
        expected.iter().any(|key| match (key.algorithm(), algorithm) {
            (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
            (known, algorithm) => known == *algorithm,
        })
    };
    let (first, rest): (Vec<_>, Vec<_>) = usual.key.iter().cloned().partition(known);
    Preferred {
        key: first.into_iter().chain(rest).collect::<Vec<_>>().into(),
        ..usual
    }
}

struct HostKeyCheck {
    expected: Vec<PublicKey>,
    refused: Arc<Mutex<Option<String>>>,
}

impl client::Handler for HostKeyCheck {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let key = shown.public_key();
        let known = self
            .expected
            .iter()
            .any(|expected| expected.key_data() == key.key_data());
        if !known {
            *lock(&self.refused) = Some(fingerprint(&key));
        }
        Ok(known)
    }
}

/// Gives a command its input, hands its standard output out as it comes, and collects what comes back.
async fn collect(
    mut running: Running,
    input: Input,
    stdin: &[u8],
    mut stdout: impl FnMut(&[u8]) + Send,
) -> Result<Output, Error> {
    let feed = async {
        input.send(stdin).await;
        input.end().await;
    };
    tokio::pin!(feed);
    let mut fed = false;
    let mut output = Output::default();
    loop {
        let event = tokio::select! {
            () = &mut feed, if !fed => {
                fed = true;
                continue;
            }
            event = running.next() => event?,
        };
        match event {
            Event::Stdout(data) => {
                stdout(&data);
                output.stdout.push(&data);
            }
            Event::Stderr(data) => output.stderr.push(&data),
            Event::Ended { exit, signal } => {
                (output.exit, output.signal) = (exit, signal);
                return Ok(output);
            }
        }
    }
}
