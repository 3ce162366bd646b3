//! Who calls: tickets, tokens and what needs neither (facts A.6).

use sha2::{Digest as _, Sha256};

use super::http::HttpRequest;
use crate::simulator::model::{Caller, State};

/// Lifetime of a ticket in seconds.
const TICKET_LIFETIME: u64 = 7200;
/// Tickets from clocks this far ahead are taken.
const GRACE: u64 = 300;

/// What an authentication says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody known.
    Caller(Caller, Kind),
    /// Nobody, for a call that anybody may make.
    Anonymous,
    /// 401 with this reason phrase.
    Refused(&'static str),
}

/// How the caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A ticket.
    Ticket,
    /// An API token.
    Token,
}

fn open_to_world(verb: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    matches!(
        (verb, path),
        ("GET", "/access/domains") | ("GET" | "POST", "/access/ticket") | ("POST", "/access/vncticket")
    ) || (verb == "POST" && path.starts_with("/access/openid/"))
}

/// Authenticates a request.
pub fn authenticate(state: &State, request: &HttpRequest, path: &str) -> Outcome {
    if let Some(text) = request.authorization.as_deref().and_then(token_text) {
        return match token_caller(state, text) {
            Some(caller) => Outcome::Caller(caller, Kind::Token),
            None => Outcome::Refused("Authentication failed!"),
        };
    }
    let ticket = request.cookie.as_deref().and_then(cookie_ticket);
    if let Some(user) = ticket.as_deref().and_then(|ticket| ticket_user(state, ticket)) {
        let wanted = csrf_token(state, &user);
        if request.method != "GET" && !open_to_world(&request.method, path) && request.csrf.as_deref() != Some(&wanted)
        {
            return Outcome::Refused("Permission denied - invalid csrf token");
        }
        return Outcome::Caller(Caller::new(user), Kind::Ticket);
    }
    if open_to_world(&request.method, path) {
        return Outcome::Anonymous;
    }
    Outcome::Refused(if ticket.is_some() {
        "Authentication failed!"
    } else {
        "No ticket"
    })
}

/// The part after `PVEAPIToken=`; a blank works too (facts K.2.25).
fn token_text(header: &str) -> Option<&str> {
    let rest = header.strip_prefix("PVEAPIToken")?;
    rest.strip_prefix('=').or_else(|| rest.strip_prefix(' '))
}

fn token_caller(state: &State, text: &str) -> Option<Caller> {
    let (id, secret) = text.split_once('=')?;
    let (user, name) = id.split_once('!')?;
    let found = usable_user(state, user)?.tokens.get(name)?;
    let valid = found.secret == secret && (found.expire == 0 || found.expire > state.seconds());
    valid.then(|| Caller::new(id))
}

fn usable_user<'a>(state: &'a State, name: &str) -> Option<&'a crate::simulator::model::access::User> {
    let user = state.access.users.get(name)?;
    (user.enable && (user.expire == 0 || user.expire > state.seconds())).then_some(user)
}

fn cookie_ticket(header: &str) -> Option<String> {
    header.split(';').find_map(|part| {
        let value = part.trim().strip_prefix("PVEAuthCookie=")?;
        Some(
            percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned(),
        )
    })
}

fn signature(state: &State, text: &str) -> String {
    use base64::Engine as _;
    let digest = Sha256::digest(format!("{}:{text}", state.ticket_key).as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// A ticket for a user, good for two hours.
pub fn ticket(state: &State, user: &str) -> String {
    let head = format!("PVE:{user}:{:08X}", state.seconds());
    format!("{head}::{}", signature(state, &head))
}

/// The token that has to go with the ticket of `user` in writing requests.
pub fn csrf_token(state: &State, user: &str) -> String {
    let day = format!("{:08X}", state.seconds() / 86_400);
    format!("{day}:{}", signature(state, &format!("csrf:{user}")))
}

/// User of a ticket that is genuine and not too old.
pub fn ticket_user(state: &State, ticket: &str) -> Option<String> {
    let (head, sign) = ticket.split_once("::")?;
    if signature(state, head) != sign {
        return None;
    }
    let mut parts = head.splitn(3, ':');
    let (kind, user, time) = (parts.next()?, parts.next()?, parts.next()?);
    let time = u64::from_str_radix(time, 16).ok()?;
    let age = state.seconds().saturating_sub(time);
    let fresh = kind == "PVE" && age < TICKET_LIFETIME && time < state.seconds() + GRACE;
    (fresh && usable_user(state, user).is_some()).then(|| user.to_owned())
}

/// Whether a password, or a ticket given as one, is that of the user.
pub fn check_password(state: &State, user: &str, password: &str) -> bool {
    let known = usable_user(state, user).and_then(|found| found.password.as_deref());
    known == Some(password) || ticket_user(state, password).as_deref() == Some(user)
}
