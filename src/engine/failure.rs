//! What failed, as a documented reason (docs/reasons.md).

use crate::desired::hypervisor::SshAccess;
use crate::proxmox::Error;
use crate::pve::GuestRef;
use crate::reason::{Cause, Reason};
use crate::remote;

/// Proxmox's words → reason, for refusals that are told apart by their text only.
const TEXTS: &[(&str, Reason)] = &[
    ("is locked (", Reason::GuestLocked),
    ("got timeout", Reason::GuestLocked),
    ("no quorum", Reason::NoQuorum),
    ("still in use by linked clone", Reason::TemplateInUse),
    ("config file already exists", Reason::AlreadyExists),
    ("disk image '", Reason::VolumeExists),
    ("dataset already exists", Reason::VolumeExists),
    ("detected modified configuration", Reason::ConfigChanged),
    ("checksum mismatch (file change", Reason::ConfigChanged),
    ("out of space", Reason::StorageFull),
    ("No space left", Reason::StorageFull),
    ("not enough free space", Reason::StorageFull),
    ("storage '", Reason::StorageError),
    ("protection mode enabled", Reason::Protected),
    ("no such template", Reason::ImageNotFound),
    ("checksum mismatch: got", Reason::ChecksumMismatch),
    ("can't find file", Reason::ImageNotFound),
    ("does not exist", Reason::NotFound),
];

/// The reason that Proxmox's words give, if they give one.
pub fn reason_of(text: &str) -> Option<Reason> {
    if names_taken_guest(text) {
        return Some(Reason::AlreadyExists);
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
impl From<&Error> for Cause {
    fn from(error: &Error) -> Self {
        let message = error.to_string();
        let reason = match error {
            Error::Unauthorized { .. } => Reason::Unauthorized,
            Error::NoCredential(_) | Error::Forbidden { .. } => Reason::MissingPrivilege,
            Error::Certificate { .. } => Reason::CertificateNotTrusted,
            Error::NotSent { .. } => Reason::HypervisorUnreachable,
            _ => match reason_of(&message) {
                Some(reason) => reason,
                None if matches!(error, Error::Unknown { .. }) => Reason::OutcomeUnknown,
                None => Reason::ProxmoxRefused,
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
        Cause::new(reason, message)
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        Cause::from(&error)
    }
}

/// A failed SSH command, with the Secrets that it rests on.
pub fn of_ssh(error: &remote::Error, access: &SshAccess) -> Cause {
    let (key, known_hosts) = (&access.key_from, &access.known_hosts_from);
    let (reason, message) = match error {
        remote::Error::BadKey(_) => (
            Reason::SSHKeyInvalid,
            format!(
                "spec.ssh.keySecretRef of the PhoenixHypervisor: {key}: {error}: put a private key without a passphrase there"
            ),
        ),
        remote::Error::HostKeyMismatch { .. } => (
            Reason::HostKeyMismatch,
            format!(
                "spec.ssh.knownHostsSecretRef of the PhoenixHypervisor: {error}: if the node's key was changed on purpose, put the new one into {known_hosts}"
            ),
        ),
        remote::Error::AuthFailed { .. } => (
            Reason::SSHAuthFailed,
            format!(
                "spec.ssh.keySecretRef of the PhoenixHypervisor: {error}: add the public key of {key} to the user's authorized_keys on the node"
            ),
        ),
        remote::Error::Unreachable { .. } => (
            Reason::SSHUnreachable,
            format!(
                "spec.ssh of the PhoenixHypervisor: {error}: check hosts and port, and that the node's SSH server runs"
            ),
        ),
        _ => (Reason::SSHConnectionLost, error.to_string()),
    };
    Cause::new(reason, message)
}

/// A command in a guest that ended badly, or an answer that is none.
pub fn of_guest(at: &GuestRef, output: &remote::Output) -> Cause {
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
        return Cause::new(Reason::GuestDiskFull, message);
    }
    Cause::new(Reason::GuestUnreachable, format!("{}: {words}", at.named()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_already_is_told_apart() {
        for (text, reason) in [
            ("CT 100 already exists on node 'pve1'", Some(Reason::AlreadyExists)),
            (
                "unable to create VM 100 - VM 100 already exists on node 'pve1'",
                Some(Reason::AlreadyExists),
            ),
            (
                "unable to create VM 101: config file already exists",
                Some(Reason::AlreadyExists),
            ),
            (
                "unable to create CT 100 - disk image '/var/lib/vz/images/100/vm-100-disk-0.raw' already exists",
                Some(Reason::VolumeExists),
            ),
            (
                "zfs error: cannot create 'tank/vm-100-disk-0': dataset already exists",
                Some(Reason::VolumeExists),
            ),
            ("alias 'a' already exists", None),
        ] {
            assert_eq!(reason_of(text), reason, "{text}");
        }
    }
}
