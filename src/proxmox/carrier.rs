//! What carries a request to an endpoint and its answer back.
//!
//! In service that is an HTTPS connection. Tests give another [`Carrier`], which reaches a simulated cluster in process:
//! everything else of the client, from its queues to its judgement of answers, stays as it is.

use std::fmt::Debug;

use futures::future::BoxFuture;
use hyper::body::Bytes;
use reqwest::Request;

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Reason phrase, which carries Proxmox's errors (facts A.1).
    pub reason: String,
    /// The body.
    pub body: Bytes,
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
pub trait Carrier: Debug + Send + Sync {
    /// Brings a request to its endpoint. Deadlines are the client's own.
    fn carry(&self, request: Request) -> BoxFuture<'_, Result<Answer, Lost>>;
}
