//! Failures of the shell's effects as documented reasons (docs/reasons.md).

use crate::guest;
use crate::observed::Failure;
use crate::proxmox::Error;

/// A failure with its reason.
pub fn failure(reason: &'static str, message: impl Into<String>) -> Failure {
    Failure {
        reason,
        message: message.into(),
    }
}

/// Proxmox's words → reason, for refusals that are told apart by their text only.
const TEXTS: &[(&str, &str)] = &[
    ("is locked (", "GuestLocked"),
    ("got timeout", "GuestLocked"),
    ("no quorum", "NoQuorum"),
    ("already exists", "AlreadyExists"),
    ("detected modified configuration", "ConfigChanged"),
    ("checksum mismatch (file change", "ConfigChanged"),
    ("out of space", "StorageFull"),
    ("No space left", "StorageFull"),
    ("not enough free space", "StorageFull"),
    ("storage '", "StorageError"),
    ("protection mode enabled", "Protected"),
    ("no such template", "ImageNotFound"),
    ("checksum mismatch: got", "ChecksumMismatch"),
    ("can't find file", "ImageNotFound"),
    ("does not exist", "NotFound"),
];

/// The reason that Proxmox's words give, if they give one.
pub fn reason_of(text: &str) -> Option<&'static str> {
    TEXTS
        .iter()
        .find(|(words, _)| text.contains(words))
        .map(|(_, reason)| *reason)
}

/// A failed API call.
pub fn of_call(error: &Error) -> Failure {
    let message = error.to_string();
    let reason = match error {
        Error::Unauthorized { .. } => "Unauthorized",
        Error::NoCredential(_) | Error::Forbidden { .. } => "MissingPrivilege",
        Error::Certificate { .. } => "CertificateNotTrusted",
        Error::NotSent { .. } => "HypervisorUnreachable",
        _ => match reason_of(&message) {
            Some(reason) => reason,
            None if matches!(error, Error::Unknown { .. }) => "OutcomeUnknown",
            None => "ProxmoxRefused",
        },
    };
    Failure { reason, message }
}

/// A failed SSH command.
pub fn of_ssh(error: &guest::Error) -> Failure {
    let reason = match error {
        guest::Error::BadKey(_) => "SSHKeyInvalid",
        guest::Error::HostKeyMismatch { .. } => "HostKeyMismatch",
        guest::Error::AuthFailed { .. } => "SSHAuthFailed",
        guest::Error::Unreachable { .. } => "SSHUnreachable",
        _ => "SSHConnectionLost",
    };
    Failure {
        reason,
        message: error.to_string(),
    }
}

/// Whether the failure is nobody's fault and passes by itself: the step is tried again soon, without counting.
pub fn is_passing(failure: &Failure) -> bool {
    ["GuestLocked", "ConfigChanged"].contains(&failure.reason)
}
