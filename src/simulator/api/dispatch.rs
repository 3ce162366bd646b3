//! The order of checks for a request (facts A.3): authentication, method, conflicting parameters, token allowed,
//! privileges, other node, parameters, the method itself.

use serde_json::Value;

use super::auth::{self, Kind, Outcome};
use super::call::{Answer, Call, Params};
use super::http::{HttpReply, HttpRequest, Parsed, parse};
use super::{permissions, routes};
use crate::simulator::Simulator;
use crate::simulator::model::{ApiError, Caller, State};
use crate::simulator::schema::{self, validate};

/// How often a call that waits for a file lock looks again, in milliseconds before scaling.
const RETRY: u64 = 200;

fn refuse(status: u16, text: String) -> ApiError {
    ApiError {
        status,
        message: text,
        errors: None,
        wait_for: None,
    }
}

/// Everything after authentication, once.
fn run(state: &mut State, caller: Option<&Caller>, kind: Option<Kind>, verb: &str, parsed: &Parsed) -> Answer {
    let path = clean(&parsed.path);
    let unknown = || refuse(501, format!("Method '{verb} {path}' not implemented"));
    let found = schema::find(&parsed.path).ok_or_else(unknown)?;
    let method = schema::method(found.template, verb).ok_or_else(unknown)?;
    let mut params = parsed.params.clone();
    for (name, value) in &found.values {
        match params.get(name).and_then(validate::text) {
            Some(given) if given != *value => {
                let text = "duplicate parameter (already defined in URI) with conflicting values!";
                return Err(ApiError::param(name, text));
            }
            _ => {
                params.insert(name.clone(), Value::String(value.clone()));
            }
        }
    }
    if method.allowtoken == Some(0) && kind == Some(Kind::Token) {
        let text = format!("URI '{path}' not available with API token, need proper ticket.\n");
        return Err(ApiError::permission(text));
    }
    permissions::check(state, method, caller, &params)?;
    if method.proxy.is_some() {
        check_node(state, &params)?;
    }
    let errors = validate::check(method, &mut params);
    if !errors.is_empty() {
        return Err(ApiError::params(errors));
    }
    let caller = caller.cloned().unwrap_or_else(|| Caller::new(""));
    routes::call(
        state,
        verb,
        found.template,
        &Call {
            caller,
            params: Params(params),
            path,
            upload: parsed.upload.clone(),
        },
    )
}

fn check_node(state: &State, params: &std::collections::BTreeMap<String, Value>) -> Result<(), ApiError> {
    let Some(name) = params.get("node").and_then(validate::text) else {
        return Ok(());
    };
    if name == "localhost" {
        return Ok(());
    }
    match state.nodes.get(&name) {
        None => {
            let text = format!("failed to get address info for: {name}: Name or service not known");
            Err(ApiError::die(format!("hostname lookup '{name}' failed - {text}")))
        }
        Some(node) if !node.online => Err(refuse(595, "No route to host".to_owned())),
        Some(_) => Ok(()),
    }
}

/// The path as messages show it: without double or trailing slashes.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

impl Simulator {
    /// Answers one request.
    pub async fn handle(&self, request: &HttpRequest) -> HttpReply {
        let parsed = match parse(request) {
            Ok(parsed) => parsed,
            Err(reply) => return self.logged(request, "", reply),
        };
        let fault = self.take_fault(&request.method, &parsed.path);
        if let Some(reply) = self.fault_before(fault.as_ref()).await {
            return self.logged(request, "", reply);
        }
        let outcome = self.with(|state| auth::authenticate(state, request, &parsed.path));
        let (caller, kind) = match outcome {
            Outcome::Caller(caller, kind) => (Some(caller), Some(kind)),
            Outcome::Anonymous => (None, None),
            Outcome::Refused(reason) => {
                let mut reply = HttpReply::plain(401, reason, "");
                let delay =
                    |state: &mut State| state.scaled(state.latency.auth_failure).min(state.latency.auth_failure);
                reply.delay_ms = self.with(delay);
                return self.logged(request, "", reply);
            }
        };
        let result = self
            .run_with_locks(caller.as_ref(), kind, &request.method, &parsed)
            .await;
        let old_body = self.with(|state| state.release.major() < 8);
        let user = caller.map(|caller| caller.id).unwrap_or_default();
        // A call for an agent that does not answer takes its time before it says so.
        let silent = result
            .as_ref()
            .is_err_and(|error| error.message == "QEMU guest agent is not running\n");
        let delay = self.with(|state| {
            if silent {
                state.scaled(state.latency.agent_ping)
            } else {
                0
            }
        });
        let mut reply = match result {
            Err(error) if error.status == 595 => HttpReply::plain(595, error.message, ""),
            result => HttpReply::answer(parsed.formatter, old_body, result),
        };
        reply.delay_ms = delay;
        let reply = self.logged(request, &user, reply);
        self.fault_after(fault.as_ref(), reply).await
    }

    /// A call that meets a held file lock tries again until the lock times out (facts B.5).
    async fn run_with_locks(&self, caller: Option<&Caller>, kind: Option<Kind>, verb: &str, parsed: &Parsed) -> Answer {
        let (start, patience, pause) = self.with(|state| {
            (
                state.now,
                state.scaled(state.latency.lock_timeout),
                state.scaled(RETRY).max(1),
            )
        });
        loop {
            let (result, now) = self.with(|state| {
                let result = run(state, caller, kind, verb, parsed);
                if result.is_ok() && verb != "GET" {
                    state.dirty = true;
                }
                (result, state.now)
            });
            match result {
                Err(error) if error.wait_for.is_some() && now < start + patience => self.clock().sleep(pause).await,
                result => return result,
            }
        }
    }
}
