//! Sending calls: endpoints, credentials, deadlines, and what became of each call.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::pve::call::{ApiCall, Auth, Method};

use super::auth::{TICKET_LIFETIME, Ticket, TicketAnswer, TicketStore, token_header};
use super::carrier::{Answer, Carrier, Lost};
use super::endpoint::{self, Endpoint, NodeLimits};
use super::meter::{self, Came, Meter};
use super::{Error, Result, Secret, Tls, error, tls};

/// How to reach one Proxmox cluster.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// `host`, `host:port` or `https://host:port` of nodes of one cluster; the first that answers is used.
    pub endpoints: Vec<String>,
    /// How they prove who they are.
    pub tls: Tls,
    /// The API token, for all that a token may do.
    pub token: Option<ApiToken>,
    /// User and password for tickets, for what only root@pam may do.
    pub ticket: Option<Login>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Calls under way per endpoint.
    pub max_concurrent: usize,
    /// Calls under way per node, below `max_concurrent`, so that one hung node does not stop the others.
    pub max_concurrent_per_node: usize,
    /// What carries requests in place of HTTPS connections, for tests.
    pub carrier: Option<Arc<dyn Carrier>>,
    /// Is told of requests and certificates.
    pub meter: Option<Arc<dyn Meter>>,
}

impl ConnectOptions {
    /// Options with these endpoints and the defaults for the rest.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: Tls::default(),
            token: None,
            ticket: None,
            timeouts: Timeouts::default(),
            max_concurrent: 16,
            max_concurrent_per_node: 4,
            carrier: None,
            meter: None,
        }
    }
}

/// An API token.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// `user@realm!name`
    pub id: String,
    /// The token's UUID.
    pub secret: Secret,
}

/// A user that tickets are fetched for.
#[derive(Debug, Clone)]
pub struct Login {
    /// `root@pam` for all that only root may do.
    pub username: String,
    /// The user's password.
    pub password: Secret,
}

/// Deadlines of a call.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From sending a read to the end of its answer. Proxmox gives up on other nodes after 30 s.
    pub read: Duration,
    /// From sending a write to the end of its answer.
    pub write: Duration,
    /// For a free place among the calls under way.
    pub queue: Duration,
    /// After this age a ticket is renewed (it lives for 2 h).
    pub ticket_lifetime: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(35),
            write: Duration::from_secs(60),
            queue: Duration::from_secs(30),
            ticket_lifetime: TICKET_LIFETIME,
        }
    }
}

/// A client for one Proxmox cluster; cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    carrier: Option<Arc<dyn Carrier>>,
    meter: Option<Arc<dyn Meter>>,
    endpoints: Vec<Endpoint>,
    nodes: NodeLimits,
    token: Option<HeaderValue>,
    tickets: Option<TicketStore>,
    timeouts: Timeouts,
}

/// A credential ready to be put on a request.
enum Credential {
    None,
    Token(HeaderValue),
    Ticket(Arc<Ticket>),
}

/// Idle connections are dropped before pveproxy drops them (5 s, facts A.8), so that no write is sent into a
/// connection that is just being closed.
const IDLE: Duration = Duration::from_secs(3);

impl Client {
    /// A client; nothing is sent. The error says which option is wrong.
    pub fn new(options: ConnectOptions) -> Result<Self, String> {
        let endpoints: Vec<_> = options
            .endpoints
            .iter()
            .map(|e| endpoint::parse(e))
            .collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err("no endpoint is given".into());
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&options.tls, options.meter.clone())?)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.timeouts.connect)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("phoenix/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| describe(&e))?;
        let token = options
            .token
            .as_ref()
            .map(token_header)
            .transpose()
            .map_err(|e| e.to_string())?;
        let per_endpoint = options.max_concurrent.max(1);
        Ok(Self(Arc::new(Inner {
            http,
            carrier: options.carrier,
            meter: options.meter,
            endpoints: endpoints
                .into_iter()
                .map(|base| Endpoint::new(base, per_endpoint))
                .collect(),
            nodes: NodeLimits::new(options.max_concurrent_per_node.clamp(1, per_endpoint)),
            token,
            tickets: options
                .ticket
                .map(|login| TicketStore::new(login, options.timeouts.ticket_lifetime)),
            timeouts: options.timeouts,
        })))
    }

    /// Sends `call`; its `data`. A refused ticket is replaced once: 401 comes before anything is done.
    ///
    /// Without a token, calls that ask for one are sent with a ticket, which may do all that a token may.
    pub async fn call(&self, call: &ApiCall) -> Result<Value> {
        let by_ticket = call.auth == Auth::Ticket || self.0.token.is_none();
        let result = if by_ticket {
            let ticket = self.ticket(None).await?;
            match self.send(call, &Credential::Ticket(ticket.clone())).await {
                Err(Error::Unauthorized { .. }) => {
                    let fresh = self.ticket(Some(&ticket)).await?;
                    self.send(call, &Credential::Ticket(fresh)).await
                }
                other => other,
            }
        } else {
            let token = self.0.token.clone().map_or(Credential::None, Credential::Token);
            self.send(call, &token).await
        };
        match &result {
            Ok(_) => tracing::debug!(method = call.method.as_str(), path = %call.path, "Proxmox answers"),
            Err(error) => {
                tracing::debug!(method = call.method.as_str(), path = %call.path, %error, "Proxmox call fails");
            }
        }
        result
    }

    /// Sends `call` and reads its `data` as `T`.
    pub async fn fetch<T: DeserializeOwned>(&self, call: &ApiCall) -> Result<T> {
        decode(call, self.call(call).await?)
    }

    async fn ticket(&self, spent: Option<&Arc<Ticket>>) -> Result<Arc<Ticket>> {
        let store = self
            .0
            .tickets
            .as_ref()
            .ok_or(Error::NoCredential("root@pam password"))?;
        let fetch = |password: Secret| async move {
            let login = ApiCall::post("/access/ticket")
                .param("username", &store.login.username)
                .param("password", password.expose());
            let data = self.send(&login, &Credential::None).await.map_err(as_login_error)?;
            // The error of a ticket that cannot be read must not quote it.
            serde_json::from_value::<TicketAnswer>(data).map_err(|_| Error::Decode {
                call: "POST /access/ticket".into(),
                message: "no ticket in the answer".into(),
            })
        };
        store.ticket(spent, fetch).await
    }

    /// Tries the endpoints in order until one takes the call.
    async fn send(&self, call: &ApiCall, credential: &Credential) -> Result<Value> {
        let inner = &*self.0;
        let queue_ends = Instant::now() + inner.timeouts.queue;
        let node_limit = call.node().map(|node| inner.nodes.of(node));
        let _node_permit = match &node_limit {
            Some(limit) => {
                let name = || format!("node {}", call.node().unwrap_or("?"));
                Some(self.permit(limit, queue_ends, call, name).await?)
            }
            None => None,
        };
        let mut failures: Vec<String> = Vec::new();
        let mut refused = None;
        for endpoint in &inner.endpoints {
            let result = match endpoint.paused(Instant::now()) {
                Some(error) => Err(error),
                None => {
                    let permits = &endpoint.permits;
                    let _permit = self.permit(permits, queue_ends, call, || endpoint.name()).await?;
                    self.attempt(endpoint, call, credential).await
                }
            };
            match result {
                Err(Error::NotSent { message }) => failures.push(format!("{}: {message}", endpoint.name())),
                // A read that got lost with its connection may be sent again; a deadline is not waited for twice.
                Err(Error::Unknown { status: None, message })
                    if call.method.is_read() && message != NO_ANSWER_IN_TIME =>
                {
                    failures.push(format!("{}: {message}", endpoint.name()));
                }
                // Another endpoint may still have the right certificate; if none does, this is what to tell.
                Err(error @ Error::Certificate { .. }) => refused = Some(error),
                other => return other,
            }
        }
        match refused {
            Some(error) if failures.is_empty() => Err(error),
            _ => Err(Error::NotSent {
                message: failures.join("; "),
            }),
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, call: &ApiCall, credential: &Credential) -> Result<Value> {
        let timeouts = &self.0.timeouts;
        let limit = if call.method.is_read() {
            timeouts.read
        } else {
            timeouts.write
        };
        let request = self.request(endpoint, call, credential);
        let began = Instant::now();
        let span = meter::span(call, &endpoint.name());
        let exchange = self.exchange(endpoint, request).instrument(span.clone());
        let answer = tokio::time::timeout(limit, exchange).await;
        let came = match &answer {
            Ok(Ok(answer)) => Came::Answer(answer.status),
            Ok(Err(error)) => Came::of(error),
            Err(_) => Came::Timeout,
        };
        came.record(&span);
        self.tell(call, came, began.elapsed());
        let answer = match answer {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(Error::Unknown {
                    status: None,
                    message: NO_ANSWER_IN_TIME.into(),
                });
            }
        };
        let Answer { status, reason, body } = answer;
        endpoint.answered();
        if !(200..300).contains(&status) {
            return Err(error::from_answer(call.method, status, &reason, &body));
        }
        data(call, &body)
    }

    fn tell(&self, call: &ApiCall, came: Came, took: Duration) {
        if let Some(meter) = &self.0.meter {
            meter.request(call, came, took);
        }
    }

    /// A place among the calls under way, before the deadline.
    async fn permit<'s>(
        &self,
        limit: &'s Semaphore,
        deadline: Instant,
        call: &ApiCall,
        name: impl Fn() -> String,
    ) -> Result<tokio::sync::SemaphorePermit<'s>> {
        let asked = Instant::now();
        match timeout_at(deadline, limit.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                self.tell(call, Came::Busy, asked.elapsed());
                Err(Error::NotSent {
                    message: format!("{}: too many calls are still without an answer", name()),
                })
            }
        }
    }

    async fn exchange(&self, endpoint: &Endpoint, request: reqwest::RequestBuilder) -> Result<Answer> {
        if let Some(carrier) = &self.0.carrier {
            let request = request.build().map_err(|error| lost(endpoint, &error))?;
            return carrier.carry(request).await.map_err(|why| not_carried(endpoint, why));
        }
        let exchange = async {
            let response = request.send().await?;
            let status = response.status();
            // hyper keeps a reason phrase only when it differs from the standard one.
            let reason = match response.extensions().get::<hyper::ext::ReasonPhrase>() {
                Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
                None => status.canonical_reason().unwrap_or_default().to_owned(),
            };
            Ok::<_, reqwest::Error>(Answer {
                status: status.as_u16(),
                reason,
                body: response.bytes().await?,
            })
        };
        exchange.await.map_err(|error| lost(endpoint, &error))
    }

    fn request(&self, endpoint: &Endpoint, call: &ApiCall, credential: &Credential) -> reqwest::RequestBuilder {
        let mut url = format!("{}api2/json{}", endpoint.base, call.path);
        let encoded: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&call.params)
            .finish();
        let in_query = matches!(call.method, Method::Get | Method::Delete);
        if in_query && !encoded.is_empty() {
            url.push('?');
            url.push_str(&encoded);
        }
        let http = &self.0.http;
        let request = match call.method {
            Method::Get => http.get(url),
            Method::Delete => http.delete(url),
            Method::Post => http.post(url),
            Method::Put => http.put(url),
        };
        let request = if in_query {
            request
        } else {
            request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(encoded)
        };
        match credential {
            Credential::None => request,
            Credential::Token(header) => request.header(AUTHORIZATION, header.clone()),
            Credential::Ticket(ticket) => ticket.sign(request, call.method),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.endpoints.iter().map(Endpoint::name).collect();
        f.debug_struct("Client")
            .field("endpoints", &names)
            .finish_non_exhaustive()
    }
}

const NO_ANSWER_IN_TIME: &str = "no answer in time";

/// What a broken exchange means: before the connection stood nothing was sent, after it nobody knows.
fn lost(endpoint: &Endpoint, error: &reqwest::Error) -> Error {
    let message = describe(error);
    let error = match tls::refusal(error) {
        Some(refusal) => Error::Certificate {
            endpoint: endpoint.name(),
            expected: refusal.expected.map(|f| f.to_string()),
            actual: Some(refusal.actual.to_string()),
            message: refusal.message.clone(),
        },
        None if error.is_connect() || error.is_builder() => Error::NotSent { message },
        None => return Error::Unknown { status: None, message },
    };
    endpoint.failed(&error, Instant::now());
    error
}

fn not_carried(endpoint: &Endpoint, why: Lost) -> Error {
    match why {
        Lost::NotSent(message) => {
            let error = Error::NotSent { message };
            endpoint.failed(&error, Instant::now());
            error
        }
        Lost::Unknown(message) => Error::Unknown { status: None, message },
    }
}

/// The innermost causes of a transport error, without the address (it is named by the caller).
fn describe(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    match parts.pop() {
        Some(innermost) => innermost,
        None if error.is_timeout() => "time out".into(),
        None => "the connection failed".into(),
    }
}

/// A failed login is a refused credential, whatever status it has, and no login changes anything.
fn as_login_error(error: Error) -> Error {
    match error {
        Error::Refused { message, .. } | Error::Forbidden { message } => Error::Unauthorized { message },
        Error::Unknown { message, .. } => Error::NotSent {
            message: format!("login: {message}"),
        },
        other => other,
    }
}

fn data(call: &ApiCall, body: &[u8]) -> Result<Value> {
    let text = |message: String| Error::Decode {
        call: format!("{} {}", call.method.as_str(), call.path),
        message,
    };
    let answer: Value = serde_json::from_slice(body).map_err(|e| text(format!("no JSON ({e})")))?;
    match answer {
        Value::Object(mut map) => Ok(map.remove("data").unwrap_or(Value::Null)),
        _ => Err(text("no object".into())),
    }
}

/// Reads `data` as `T`.
pub(super) fn decode<T: DeserializeOwned>(call: &ApiCall, data: Value) -> Result<T> {
    serde_json::from_value(data).map_err(|e| Error::Decode {
        call: format!("{} {}", call.method.as_str(), call.path),
        message: e.to_string(),
    })
}
