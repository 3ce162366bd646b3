//! What may have come of a call (facts A.4, A.5, K.2).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::pve::call::Method;

/// Why a call gave no result. Messages are Proxmox's own; they never hold what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// 400: parameters were refused; nothing was changed.
    #[error("{}", parameters_text(message, errors))]
    Parameters {
        /// Proxmox's summary.
        message: String,
        /// Parameter → what is wrong with it.
        errors: BTreeMap<String, String>,
    },
    /// 401: the credential was refused; nothing was changed.
    #[error("Proxmox refuses the credential: {message}")]
    Unauthorized {
        /// Proxmox's reason.
        message: String,
    },
    /// No credential of the kind that the call needs was given; nothing was sent.
    #[error("no {0} is configured for this hypervisor")]
    NoCredential(&'static str),
    /// 403: a privilege is missing; nothing was changed.
    #[error("{message}")]
    Forbidden {
        /// Proxmox's reason, which names path and privilege.
        message: String,
    },
    /// The read guest is not on that node (Proxmox has no 404).
    #[error("{message}")]
    NotFound {
        /// Proxmox's text.
        message: String,
    },
    /// Another definite refusal: of a read, or of a write by its form. Nothing was changed.
    #[error("Proxmox answers {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Proxmox's text.
        message: String,
    },
    /// The call certainly reached no Proxmox: no connection, or 595 (the node cannot be reached).
    #[error("cannot reach Proxmox: {message}")]
    NotSent {
        /// What was tried and what failed.
        message: String,
    },
    /// The endpoint's certificate is not the one that was asked for; nothing was sent.
    #[error("{}", certificate_text(endpoint, expected.as_deref(), actual.as_deref(), message))]
    Certificate {
        /// The endpoint.
        endpoint: String,
        /// The pinned SHA-256 fingerprint, if one is pinned.
        expected: Option<String>,
        /// The fingerprint of the certificate that the endpoint showed.
        actual: Option<String>,
        /// What is wrong with it.
        message: String,
    },
    /// The call may or may not have taken effect: read back. 596, 597, 599, no answer in time, a lost answer, and
    /// every 500 of a write (facts K.2.2: it may have saved).
    #[error("the outcome is unknown: {message}")]
    Unknown {
        /// HTTP status, if one came.
        status: Option<u16>,
        /// Proxmox's text, or what happened to the connection.
        message: String,
    },
    /// The answer was a success but not of the expected shape.
    #[error("cannot read Proxmox's answer to {call}: {message}")]
    Decode {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Error {
    /// Whether the call may have changed something.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Decode { .. })
    }
}

fn parameters_text(message: &str, errors: &BTreeMap<String, String>) -> String {
    let list: Vec<String> = errors.iter().map(|(k, v)| format!("{k}: {}", v.trim())).collect();
    if list.is_empty() {
        message.to_owned()
    } else {
        format!("{message} {}", list.join("; "))
    }
}

fn certificate_text(endpoint: &str, expected: Option<&str>, actual: Option<&str>, message: &str) -> String {
    let shown = actual.map(|a| format!("; it shows SHA-256 {a}")).unwrap_or_default();
    let wanted = expected
        .map(|e| format!(", SHA-256 {e} is expected"))
        .unwrap_or_default();
    format!("the certificate of {endpoint} is refused: {message}{shown}{wanted}")
}

/// The body of an error; absent in protocol errors and 401 (facts A.1, K.2.24).
#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Option<BTreeMap<String, serde_json::Value>>,
}

/// Classifies an answer whose status is no success. `reason` is the reason phrase of the status line, which carries
/// the message where the body does not (facts A.1).
pub(super) fn from_answer(method: Method, status: u16, reason: &str, body: &[u8]) -> Error {
    let parsed: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let message = parsed
        .message
        .as_deref()
        .map(str::trim)
        .filter(|m| !m.is_empty())
        .unwrap_or(reason)
        .to_owned();
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    match status {
        400 => {
            let errors = parsed
                .errors
                .unwrap_or_default()
                .into_iter()
                .map(|(k, v)| (k, text(v)))
                .collect();
            Error::Parameters { message, errors }
        }
        401 => Error::Unauthorized { message },
        403 => Error::Forbidden { message },
        595 => Error::NotSent {
            message: format!("595 {message}"),
        },
        596..=599 => Error::Unknown {
            status: Some(status),
            message,
        },
        500 if method.is_read() && is_absent(&message) => Error::NotFound { message },
        500..=599 if !method.is_read() && !matches!(status, 501 | 506) => Error::Unknown {
            status: Some(status),
            message,
        },
        _ => Error::Refused { status, message },
    }
}

/// The text with which every guest endpoint says that the guest is not there (facts A.4).
fn is_absent(message: &str) -> bool {
    message.starts_with("Configuration file '") && message.contains("' does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, status: u16, body: &str) -> Error {
        from_answer(method, status, "the reason", body.as_bytes())
    }

    #[test]
    fn parameter_errors_keep_every_parameter() {
        let body = r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"vmid":"bad\n","cores":7}}"#;
        let error = of(Method::Post, 400, body);
        assert_eq!(error.to_string(), "Parameter verification failed. cores: 7; vmid: bad");
        assert!(!error.may_have_happened());
    }

    #[test]
    fn a_500_is_definite_for_reads_only() {
        let body = r#"{"data":null,"message":"CT is locked (disk)\n"}"#;
        let refused = Error::Refused {
            status: 500,
            message: "CT is locked (disk)".into(),
        };
        assert_eq!(of(Method::Get, 500, body), refused);
        for method in [Method::Post, Method::Put, Method::Delete] {
            let unknown = Error::Unknown {
                status: Some(500),
                message: "CT is locked (disk)".into(),
            };
            assert_eq!(of(method, 500, body), unknown);
        }
    }

    #[test]
    fn absence_is_only_the_known_text() {
        let body = r#"{"message":"Configuration file 'nodes/pve1/lxc/100.conf' does not exist\n","data":null}"#;
        assert!(matches!(of(Method::Get, 500, body), Error::NotFound { .. }));
        assert!(matches!(of(Method::Delete, 500, body), Error::Unknown { .. }));
        let storage = r#"{"message":"storage 'x' does not exist\n","data":null}"#;
        assert!(matches!(of(Method::Get, 500, storage), Error::Refused { .. }));
    }

    #[test]
    fn the_reason_phrase_stands_in_for_a_missing_body() {
        assert_eq!(
            of(Method::Get, 401, ""),
            Error::Unauthorized {
                message: "the reason".into()
            }
        );
        assert_eq!(
            of(Method::Put, 501, "plain text"),
            Error::Refused {
                status: 501,
                message: "the reason".into()
            }
        );
        assert_eq!(
            of(Method::Put, 595, ""),
            Error::NotSent {
                message: "595 the reason".into()
            }
        );
        assert!(of(Method::Get, 596, "").may_have_happened());
        assert!(of(Method::Post, 502, "").may_have_happened());
    }
}
