//! Credentials: the API token, and a ticket that is fetched and renewed on demand (facts A.6).

use std::sync::Arc;
use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::{COOKIE, HeaderValue};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::pve::call::{self, Method};

use super::http::{ApiToken, Login};
use super::{Error, Secret};

/// A ticket lives for 2 hours; it is renewed well before.
pub(super) const TICKET_LIFETIME: Duration = Duration::from_secs(90 * 60);

/// A ticket in use.
pub(super) struct Ticket {
    cookie: HeaderValue,
    csrf: HeaderValue,
    raw: Secret,
    issued: Instant,
}

/// The answer to POST /access/ticket.
#[derive(Deserialize)]
pub(super) struct TicketAnswer {
    ticket: String,
    #[serde(rename = "CSRFPreventionToken")]
    csrf: String,
    #[serde(rename = "NeedTFA", default)]
    need_tfa: Option<serde_json::Value>,
}

impl TryFrom<TicketAnswer> for Ticket {
    type Error = Error;

    fn try_from(answer: TicketAnswer) -> Result<Self, Error> {
        if answer
            .need_tfa
            .is_some_and(|v| !matches!(super::lenient::scalar(&v).as_deref(), None | Some("0" | "")))
        {
            let message = "the user has a second factor, which Phoenix cannot give".into();
            return Err(Error::Unauthorized { message });
        }
        let cookie = format!("PVEAuthCookie={}", call::segment(&answer.ticket));
        Ok(Self {
            cookie: secret_header(&cookie)?,
            csrf: secret_header(&answer.csrf)?,
            raw: answer.ticket.into(),
            issued: Instant::now(),
        })
    }
}

impl Ticket {
    /// Puts cookie and, for anything that is not read, the CSRF token on the request.
    pub fn sign(&self, request: RequestBuilder, method: Method) -> RequestBuilder {
        let request = request.header(COOKIE, self.cookie.clone());
        if method.is_read() {
            request
        } else {
            request.header("CSRFPreventionToken", self.csrf.clone())
        }
    }
}

/// The token's header.
pub(super) fn token_header(token: &ApiToken) -> Result<HeaderValue, Error> {
    secret_header(&format!(
        "PVEAPIToken={}={}",
        token.id.trim(),
        token.secret.expose().trim()
    ))
}

fn secret_header(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Unauthorized {
        message: "the credential holds characters that cannot be sent".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The wired-in user, its current ticket, and how long a ticket is used.
pub(super) struct TicketStore {
    pub login: Login,
    pub lifetime: Duration,
    current: Mutex<Option<Arc<Ticket>>>,
}

impl TicketStore {
    /// No ticket yet.
    pub fn new(login: Login, lifetime: Duration) -> Self {
        Self {
            login,
            lifetime,
            current: Mutex::default(),
        }
    }

    /// The current ticket; fetched with `fetch(password)` when there is none or it is old. Whoever comes meanwhile
    /// waits for that one login, since each wrong one costs 3 s on the server. `spent` is a ticket that was refused.
    ///
    /// An old ticket is renewed by giving it as the password, which also serves users with a second factor; when that
    /// fails, the password itself is tried.
    pub async fn ticket<F, Fut>(&self, spent: Option<&Arc<Ticket>>, fetch: F) -> Result<Arc<Ticket>, Error>
    where
        F: Fn(Secret) -> Fut,
        Fut: Future<Output = Result<TicketAnswer, Error>>,
    {
        let mut current = self.current.lock().await;
        if spent.is_some_and(|spent| current.as_ref().is_some_and(|c| Arc::ptr_eq(c, spent))) {
            *current = None;
        }
        let old = match current.as_ref() {
            Some(ticket) if ticket.issued.elapsed() < self.lifetime => return Ok(ticket.clone()),
            old => old.map(|ticket| ticket.raw.clone()),
        };
        let renewed = match old {
            Some(old) => fetch(old).await.ok(),
            None => None,
        };
        let answer = match renewed {
            Some(answer) => answer,
            None => fetch(self.login.password.clone()).await?,
        };
        let ticket = Arc::new(Ticket::try_from(answer)?);
        *current = Some(ticket.clone());
        Ok(ticket)
    }
}
