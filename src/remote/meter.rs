//! Who is told of connections and commands, for metrics.

use std::fmt::Debug;
use std::time::Duration;

use super::{Error, Output};

/// Is told of connections to nodes and commands on them.
pub trait Meter: Debug + Send + Sync {
    /// A connection was made, or could not be.
    fn connected(&self, error: Option<&Error>);
    /// A command ended, or gave no result, so long after it was asked for.
    fn ran(&self, result: Result<&Output, &Error>, took: Duration);
}

impl Error {
    /// What went wrong, in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Error::BadKey(_) => "bad_key",
            Error::HostKeyMismatch { .. } => "host_key",
            Error::AuthFailed { .. } => "auth",
            Error::Unreachable { .. } => "unreachable",
            Error::Lost { .. } => "lost",
            Error::Timeout { .. } => "timeout",
        }
    }
}
