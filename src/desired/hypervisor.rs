//! A PhoenixHypervisor and its Secrets, resolved to what a connection needs.

use std::collections::BTreeMap;
use std::fmt;

use crate::crd::{GUEST_TASKS_DEFAULT, PhoenixHypervisor};
use crate::reason::Reason;

use super::{Blocked, Objects, refs, units};

/// How the endpoints' certificates are verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsPolicy {
    /// By the system's certificate authorities.
    System,
    /// By this certificate authority (PEM).
    Ca(String),
    /// By the SHA-256 of the certificate itself (hex with colons).
    Fingerprint(String),
    /// Not at all.
    Insecure,
}

/// SSH to the nodes.
#[derive(Clone, PartialEq, Eq)]
pub struct SshAccess {
    /// User.
    pub user: String,
    /// Port.
    pub port: u16,
    /// Address of each node by name, `host` or `host:port`.
    pub hosts: BTreeMap<String, String>,
    /// Private key (PEM or OpenSSH).
    pub key: String,
    /// known_hosts content.
    pub known_hosts: String,
    /// Whether commands go through sudo.
    pub sudo: bool,
}

/// All that is needed to talk to a Proxmox cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// API endpoints.
    pub endpoints: Vec<String>,
    /// Certificate verification.
    pub tls: TlsPolicy,
    /// Token id and secret.
    pub token: Option<(String, String)>,
    /// Password of root@pam.
    pub root_password: Option<String>,
    /// SSH.
    pub ssh: Option<SshAccess>,
    /// Proxmox tasks at once on one node.
    pub parallel_tasks: usize,
    /// Seconds between polls.
    pub poll_seconds: u64,
}

// Holds secrets: nothing of them is printed (promise 9).
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// Resolves a hypervisor and the Secrets that it names.
///
/// # Errors
/// `SecretNotFound` naming field, Secret and key; `InvalidSpec`.
pub fn access(hypervisor: &PhoenixHypervisor, objects: &dyn Objects) -> Result<Access, Blocked> {
    let namespace = hypervisor.metadata.namespace.clone().unwrap_or_default();
    let spec = &hypervisor.spec;
    let secret = |name: &str, key: &str, field: &str| refs::secret_value(objects, &namespace, name, key, field);
    let tls = spec.tls.clone().unwrap_or_default();
    let tls = match (&tls.ca_secret_ref, &tls.fingerprint, tls.insecure_skip_verify) {
        (Some(ca), _, _) => TlsPolicy::Ca(secret(&ca.name, &ca.key, "spec.tls.caSecretRef")?),
        (_, Some(fingerprint), _) => TlsPolicy::Fingerprint(fingerprint.clone()),
        (_, _, Some(true)) => TlsPolicy::Insecure,
        _ => TlsPolicy::System,
    };
    let token = match &spec.credentials.token_secret_ref {
        Some(reference) => {
            let field = "spec.credentials.tokenSecretRef";
            let id = secret(&reference.name, "tokenId", field)?;
            let value = secret(&reference.name, "secret", field)?;
            Some((id.trim().to_string(), value.trim().to_string()))
        }
        None => None,
    };
    let root_password = match &spec.credentials.root_password_secret_ref {
        Some(reference) => Some(
            secret(&reference.name, "password", "spec.credentials.rootPasswordSecretRef")?
                .trim_end_matches('\n')
                .to_string(),
        ),
        None => None,
    };
    let ssh = match &spec.ssh {
        Some(ssh) => Some(SshAccess {
            user: ssh.user.clone().unwrap_or_else(|| "root".into()),
            port: ssh.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(22),
            hosts: ssh.hosts.clone().unwrap_or_default(),
            key: secret(
                &ssh.key_secret_ref.name,
                &ssh.key_secret_ref.key,
                "spec.ssh.keySecretRef",
            )?,
            known_hosts: secret(
                &ssh.known_hosts_secret_ref.name,
                &ssh.known_hosts_secret_ref.key,
                "spec.ssh.knownHostsSecretRef",
            )?,
            sudo: ssh.sudo.unwrap_or_default(),
        }),
        None => None,
    };
    if let Some(version) = &spec.driver_version {
        return Err(Blocked::stalled(
            Reason::NotYetSupported,
            format!("spec.driverVersion: {version:?} cannot be ensured yet: leave the field out"),
        ));
    }
    let limits = spec.limits.clone().unwrap_or_default();
    let poll = spec.poll_interval.as_deref().unwrap_or("10s");
    Ok(Access {
        endpoints: spec.endpoints.clone(),
        tls,
        token,
        root_password,
        ssh,
        parallel_tasks: limits
            .parallel_tasks_per_node
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(GUEST_TASKS_DEFAULT),
        poll_seconds: units::seconds(poll).ok_or_else(|| {
            Blocked::stalled(
                Reason::InvalidSpec,
                format!("spec.pollInterval: {poll:?} is not a duration such as 10s"),
            )
        })?,
    })
}
