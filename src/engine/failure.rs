//! Failures of the shell's effects as documented reasons (docs/reasons.md).

use crate::observed::Failure;
use crate::proxmox::Error;
use crate::pve::GuestRef;
use crate::remote;

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
    ("still in use by linked clone", "TemplateInUse"),
    ("config file already exists", "AlreadyExists"),
    ("disk image '", "VolumeExists"),
    ("dataset already exists", "VolumeExists"),
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
    if names_taken_guest(text) {
        return Some("AlreadyExists");
    }
    TEXTS
        .iter()
        .find(|(words, _)| text.contains(words))
        .map(|(_, reason)| *reason)
}

/// Whether the words are `CT 100 already exists …` or `VM 100 already exists …`; many other things can exist already.
fn names_taken_guest(text: &str) -> bool {
    text.match_indices(" already exists").any(|(at, _)| {
        let mut words = text[..at].rsplit(' ');
        let number = words
            .next()
            .is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()));
        number && matches!(words.next().map(|w| w.trim_start_matches('\'')), Some("CT" | "VM"))
    })
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
    let message = match error {
        Error::Unauthorized { .. } => format!(
            "spec.credentials of the PhoenixHypervisor: {message}: correct the token or the password in its Secret"
        ),
        Error::Certificate { .. } => format!(
            "spec.tls of the PhoenixHypervisor: {message}: give the endpoint's CA, or this fingerprint if it is the right one"
        ),
        _ => message,
    };
    Failure { reason, message }
}

/// A failed SSH command.
pub fn of_ssh(error: &remote::Error) -> Failure {
    let reason = match error {
        remote::Error::BadKey(_) => "SSHKeyInvalid",
        remote::Error::HostKeyMismatch { .. } => "HostKeyMismatch",
        remote::Error::AuthFailed { .. } => "SSHAuthFailed",
        remote::Error::Unreachable { .. } => "SSHUnreachable",
        _ => "SSHConnectionLost",
    };
    let message = match error {
        remote::Error::BadKey(_) => {
            format!("spec.ssh.keySecretRef of the PhoenixHypervisor: {error}: put a private key into the Secret")
        }
        remote::Error::HostKeyMismatch { .. } => format!(
            "spec.ssh.knownHostsSecretRef of the PhoenixHypervisor: {error}: if the node's key was changed on purpose, put the new one into the Secret"
        ),
        remote::Error::AuthFailed { .. } => format!(
            "spec.ssh of the PhoenixHypervisor: {error}: add the public key of keySecretRef to the user's authorized_keys on the node"
        ),
        remote::Error::Unreachable { .. } => format!(
            "spec.ssh of the PhoenixHypervisor: {error}: check hosts and port, and that the node's SSH server runs"
        ),
        _ => error.to_string(),
    };
    Failure { reason, message }
}

/// A command in a guest that ended badly, or an answer that is none.
pub fn of_guest(at: &GuestRef, output: &remote::Output) -> Failure {
    let stdout = output.stdout.text();
    let told = stdout.lines().find_map(|line| line.strip_prefix("error="));
    let stderr = output.stderr.text();
    let words = match (told, stderr.trim()) {
        (Some(told), "") => told.to_string(),
        (Some(told), stderr) => format!("{told}: {}", stderr.lines().last().unwrap_or_default()),
        (None, _) => output.complaint(),
    };
    if words.to_lowercase().contains("no space left") {
        let message = format!("{}: {words}: make room in it, or grow its disk", at.named());
        return failure("GuestDiskFull", message);
    }
    failure("GuestUnreachable", format!("{}: {words}", at.named()))
}

/// Whether the failure is nobody's fault and passes by itself: the step is tried again soon, without counting.
pub fn is_passing(failure: &Failure) -> bool {
    ["GuestLocked", "ConfigChanged"].contains(&failure.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_already_is_told_apart() {
        for (text, reason) in [
            ("CT 100 already exists on node 'pve1'", Some("AlreadyExists")),
            (
                "unable to create VM 100 - VM 100 already exists on node 'pve1'",
                Some("AlreadyExists"),
            ),
            (
                "unable to create VM 101: config file already exists",
                Some("AlreadyExists"),
            ),
            (
                "unable to create CT 100 - disk image '/var/lib/vz/images/100/vm-100-disk-0.raw' already exists",
                Some("VolumeExists"),
            ),
            (
                "zfs error: cannot create 'tank/vm-100-disk-0': dataset already exists",
                Some("VolumeExists"),
            ),
            ("alias 'a' already exists", None),
        ] {
            assert_eq!(reason_of(text), reason, "{text}");
        }
    }
}
