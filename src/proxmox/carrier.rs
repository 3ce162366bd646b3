//! What carries a request to an endpoint and its answer back.
//!
//! In service that is an HTTPS connection. Tests give another [`Carrier`], which reaches a simulated cluster in process:
//! everything else of the client, from its queues to its judgement of answers, stays as it is.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Request;

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Reason phrase, which carries Proxmox's errors (facts A.1).
    pub reason: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The request did not leave.
    NotSent(String),
    /// Nobody knows whether it arrived.
    Unknown(String),
}

/// Carries requests in place of HTTPS connections.
pub trait Carrier: Send + Sync {
    /// Brings a request to its endpoint. Deadlines are the client's own.
    fn carry(&self, request: Request) -> BoxFuture<'_, Result<Answer, Lost>>;
}

/// A carrier as an option.
#[derive(Clone)]
pub struct ByCarrier(pub Arc<dyn Carrier>);

impl fmt::Debug for ByCarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByCarrier")
    }
}
