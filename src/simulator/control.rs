//! Faults on the wire and the request log, from within the process and by HTTP under `/_sim/`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Simulator;
use super::api::{HttpReply, HttpRequest};
use super::model::Edit;
use super::schema::validate;
use super::ssh::SshAction;

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FaultKind {
    /// The request is answered later.
    Delay {
        /// Real milliseconds.
        ms: u64,
    },
    /// The request is refused before anything happens.
    Status {
        /// Status code.
        status: u16,
        /// Text.
        #[serde(default)]
        message: String,
    },
    /// The connection breaks before anything happens.
    LostRequest,
    /// The connection breaks after the effect, before the reply.
    LostResponse,
    /// The effect happens, but the reply is an error.
    StatusAfter {
        /// Status code.
        status: u16,
        /// Text.
        #[serde(default)]
        message: String,
    },
}

/// A fault and the requests that it meets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Verb; any when absent.
    #[serde(default)]
    pub method: Option<String>,
    /// Regular expression for the whole path below `/api2/json`; any when absent.
    #[serde(default)]
    pub path: Option<String>,
    /// Requests that fit and pass unharmed before the first one is met.
    #[serde(default)]
    pub skip: u32,
    /// How many requests it meets.
    #[serde(default = "one")]
    pub count: u32,
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
}

fn one() -> u32 {
    1
}

/// A fault that struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What it struck.
    pub what: Stricken,
}

/// What a fault strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stricken {
    /// A request.
    Request {
        /// Verb.
        method: String,
        /// Path below `/api2/json`.
        path: String,
        /// What went wrong.
        kind: FaultKind,
    },
    /// A task, which failed.
    Task {
        /// Its type.
        kind: String,
        /// Its id.
        id: String,
        /// What it died of.
        message: String,
    },
    /// A command over SSH, or a program for a guest.
    Command {
        /// The command in a few words.
        summary: String,
        /// The guest that it is for.
        vmid: Option<u32>,
        /// What went wrong.
        action: SshAction,
    },
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRequest {
    /// Verb.
    pub method: String,
    /// Path below `/api2/json`.
    pub path: String,
    /// Query.
    pub query: String,
    /// Status code; 0 where the connection was cut.
    pub status: u16,
    /// Identity; empty where there was none.
    pub user: String,
}

impl LoggedRequest {
    /// True for everything but GET.
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }
}

/// Longest request log that is kept.
const KEPT_REQUESTS: usize = 100_000;

/// Faults to come and requests so far.
#[derive(Debug, Default)]
pub struct Control {
    faults: Mutex<Vec<Fault>>,
    log: Mutex<Vec<LoggedRequest>>,
    token: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// A control whose HTTP side asks for `token`.
    pub fn new(token: String) -> Self {
        Self {
            token,
            ..Self::default()
        }
    }
}

fn below_formatter(path: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(path)
        .decode_utf8_lossy()
        .into_owned();
    decoded.strip_prefix("/api2/json").map(str::to_owned).unwrap_or(decoded)
}

impl Simulator {
    /// Orders a fault.
    pub fn add_fault(&self, fault: Fault) {
        lock(&self.control().faults).push(fault);
    }

    /// Drops all faults.
    pub fn clear_faults(&self) {
        lock(&self.control().faults).clear();
    }

    /// The requests since the start or the last [`Self::clear_requests`].
    pub fn requests(&self) -> Vec<LoggedRequest> {
        lock(&self.control().log).clone()
    }

    /// The faults that struck so far, in order.
    pub fn struck(&self) -> Vec<Struck> {
        self.with(|state| state.struck.clone())
    }

    /// Empties the request log.
    pub fn clear_requests(&self) {
        lock(&self.control().log).clear();
    }

    /// Makes a change from outside.
    pub fn edit(&self, edit: Edit) -> super::model::Result<()> {
        self.with(|state| state.edit(edit))
    }

    pub(super) fn take_fault(&self, method: &str, path: &str) -> Option<Fault> {
        let fault = self.fault_of(method, path)?;
        let (method, path) = (method.to_owned(), path.to_owned());
        let kind = fault.kind.clone();
        self.with(|state| state.strikes(Stricken::Request { method, path, kind }));
        Some(fault)
    }

    fn fault_of(&self, method: &str, path: &str) -> Option<Fault> {
        let mut faults = lock(&self.control().faults);
        if faults.is_empty() {
            return None;
        }
        let fits = |fault: &Fault| {
            let verb = fault.method.as_deref().is_none_or(|wanted| wanted == method);
            let place = fault.path.as_deref().is_none_or(|wanted| {
                validate::regex(wanted).is_some_and(|regex| regex.is_match(path.trim_end_matches('/')))
            });
            fault.count > 0 && verb && place
        };
        let fault = faults.iter_mut().find(|fault| fits(fault))?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.count -= 1;
        let met = fault.clone();
        faults.retain(|fault| fault.count > 0);
        Some(met)
    }

    pub(super) async fn fault_before(&self, fault: Option<&Fault>) -> Option<HttpReply> {
        match &fault?.kind {
            FaultKind::Delay { ms } => {
                self.clock().sleep(*ms).await;
                None
            }
            FaultKind::Status { status, message } => Some(HttpReply::plain(*status, message.clone(), "")),
            FaultKind::LostRequest => Some(HttpReply::cut()),
            FaultKind::LostResponse | FaultKind::StatusAfter { .. } => None,
        }
    }

    pub(super) async fn fault_after(&self, fault: Option<&Fault>, reply: HttpReply) -> HttpReply {
        match fault.map(|fault| &fault.kind) {
            Some(FaultKind::LostResponse) => HttpReply::cut(),
            Some(FaultKind::StatusAfter { status, message }) => HttpReply::plain(*status, message.clone(), ""),
            _ => reply,
        }
    }

    pub(super) fn logged(&self, request: &HttpRequest, user: &str, reply: HttpReply) -> HttpReply {
        let mut log = lock(&self.control().log);
        if log.len() >= KEPT_REQUESTS {
            log.drain(..KEPT_REQUESTS / 2);
        }
        log.push(LoggedRequest {
            method: request.method.clone(),
            path: below_formatter(&request.path),
            query: request.query.clone(),
            status: reply.status,
            user: user.to_owned(),
        });
        reply
    }

    /// Answers a request under `/_sim/`. `Authorization: Bearer TOKEN` is needed.
    pub fn handle_control(&self, request: &HttpRequest) -> HttpReply {
        let wanted = format!("Bearer {}", self.control().token);
        if self.control().token.is_empty() || request.authorization.as_deref() != Some(wanted.as_str()) {
            return HttpReply::plain(403, "Forbidden", "wrong control token\n");
        }
        let result = match (request.method.as_str(), request.path.trim_start_matches("/_sim/")) {
            ("GET", "requests") => Ok(json!(self.requests()).to_string()),
            ("DELETE", "requests") => {
                self.clear_requests();
                Ok(String::new())
            }
            ("POST", "faults") => parse(&request.body).map(|fault| {
                self.add_fault(fault);
                String::new()
            }),
            ("DELETE", "faults") => {
                self.clear_faults();
                self.with(|state| {
                    state.task_faults.clear();
                    state.ssh.faults.clear();
                    state.agent.faults.clear();
                });
                Ok(String::new())
            }
            ("POST", "edits") => parse(&request.body).and_then(|edit| {
                self.edit(edit)
                    .map(|()| String::new())
                    .map_err(|error| error.first_line().to_owned())
            }),
            ("GET", "state") => Ok(self.with(|state| json!(state).to_string())),
            _ => return HttpReply::plain(404, "Not Found", "no such control\n"),
        };
        match result {
            Ok(text) => HttpReply::plain(200, "OK", text),
            Err(text) => HttpReply::plain(400, "Bad Request", format!("{text}\n")),
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}
