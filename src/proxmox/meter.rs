//! Who is told of each request, for metrics, and its span in a trace. The client itself counts nothing.

use std::borrow::Cow;
use std::fmt::Debug;
use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;

use crate::pve::ApiCall;

use super::Error;

/// What came of one request to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// An answer with this HTTP status.
    Answer(u16),
    /// No answer in time.
    Timeout,
    /// There was no connection.
    Unreachable,
    /// The endpoint's certificate was refused.
    Certificate,
    /// The connection was lost before the answer was whole.
    Lost,
    /// It was not sent: too many others were still without an answer.
    Busy,
}

impl Came {
    /// What an error says about a request that got no answer.
    pub(super) fn of(error: &Error) -> Came {
        match error {
            Error::Certificate { .. } => Came::Certificate,
            Error::NotSent { .. } => Came::Unreachable,
            _ => Came::Lost,
        }
    }

    /// Notes it on the request's span.
    pub(super) fn record(self, span: &Span) {
        if let Came::Answer(status) = self {
            span.record("http.response.status_code", status);
        }
        if !matches!(self, Came::Answer(200..300)) {
            span.record("error.type", &*self.code());
            span.record("otel.status_code", "ERROR");
        }
    }

    /// The status, or one word.
    pub fn code(self) -> Cow<'static, str> {
        match self {
            Came::Answer(status) => status.to_string().into(),
            Came::Timeout => "timeout".into(),
            Came::Unreachable => "unreachable".into(),
            Came::Certificate => "certificate".into(),
            Came::Lost => "lost".into(),
            Came::Busy => "busy".into(),
        }
    }
}

/// A request in a trace. Parameters stay out of it: they may be secrets.
pub(super) fn span(call: &ApiCall, endpoint: &str) -> Span {
    tracing::debug_span!(
        "proxmox",
        otel.name = format!("{} {}", call.method.as_str(), call.route()),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = call.method.as_str(),
        url.path = %call.path,
        server.address = endpoint,
        http.response.status_code = Empty,
        error.type = Empty,
    )
}

/// Is told of requests.
pub trait Meter: Debug + Send + Sync {
    /// A request to one endpoint ended like this, so long after it began.
    fn request(&self, call: &ApiCall, came: Came, took: Duration);
    /// A host showed a certificate that was accepted and ends at this Unix time.
    fn certificate(&self, host: &str, ends: i64);
}
