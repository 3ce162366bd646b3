//! A PhoenixHypervisor and its Secrets, resolved to what a connection needs.

use std::collections::BTreeMap;
use std::fmt;

use crate::crd::{GUEST_TASKS_DEFAULT, KeyRef, PhoenixHypervisor, PhoenixHypervisorSpec};
use crate::reason::Reason;

use super::{Blocked, Objects, refs, units};

/// How the endpoints' certificates are verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsPolicy {
    /// By the system's certificate authorities.
    System,
    /// By a certificate authority.
    Ca {
        /// In PEM.
        pem: String,
        /// Where it is from, in words.
        from: String,
    },
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
    /// Where the key is from, in words.
    pub key_from: String,
    /// known_hosts content.
    pub known_hosts: String,
    /// Where the host keys are from, in words.
    pub known_hosts_from: String,
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
    /// The Secrets of token and password, in words.
    pub credentials_from: String,
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

/// Whether id and secret of a token look as Proxmox makes them; else what to put there. What may be a secret is not told.
fn is_token(id: &str, secret: &str) -> Result<(), String> {
    let name = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let parts = id.rsplit_once('!');
    let parts = parts.and_then(|(user, token)| Some((user.rsplit_once('@')?, token)));
    let right = parts.is_some_and(|((user, realm), token)| {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !":/=".contains(c);
        !user.is_empty() && user.chars().all(plain) && name(realm) && name(token)
    });
    if !right {
        let shown = match id.contains('@') && !id.contains('=') && !id.contains(char::is_control) {
            true => format!("{id:?}"),
            false => "the value".into(),
        };
        return Err(format!(
            "key \"tokenId\": {shown} is no id of an API token: write USER@REALM!NAME, such as phoenix@pve!operator, and the token's secret under the key \"secret\""
        ));
    }
    if secret.is_empty() || secret.contains(|c: char| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
        return Err(
            "key \"secret\": the value is no secret of an API token: write the one that Proxmox showed when the token was made"
                .into(),
        );
    }
    Ok(())
}

/// A certificate authority that looks like one; its bytes are looked at where the connection is made.
fn ca_policy(pem: String, from: String) -> Result<TlsPolicy, Blocked> {
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(TlsPolicy::Ca { pem, from });
    }
    let message = format!(
        "spec.tls.caSecretRef: {from} holds no certificate in PEM: put the node's /etc/pve/pve-root-ca.pem there"
    );
    Err(Blocked::stalled(Reason::InvalidSpec, message))
}

/// Resolves a hypervisor and the Secrets that it names.
///
/// # Errors
/// `SecretNotFound` naming field, Secret and key; `InvalidSpec`.
pub fn access(hypervisor: &PhoenixHypervisor, objects: &dyn Objects) -> Result<Access, Blocked> {
    let namespace = hypervisor.metadata.namespace.clone().unwrap_or_default();
    let spec = &hypervisor.spec;
    let secret = |name: &str, key: &str, field: &str| refs::secret_text(objects, &namespace, name, key, field);
    let named = |from: &KeyRef| refs::key_of_secret(&namespace, &from.name, &from.key);
    let tls = spec.tls.clone().unwrap_or_default();
    let tls = match (&tls.ca_secret_ref, &tls.fingerprint, tls.insecure_skip_verify) {
        (Some(ca), _, _) => ca_policy(secret(&ca.name, &ca.key, "spec.tls.caSecretRef")?, named(ca))?,
        (_, Some(fingerprint), _) => TlsPolicy::Fingerprint(fingerprint.clone()),
        (_, _, Some(true)) => TlsPolicy::Insecure,
        _ => TlsPolicy::System,
    };
    let token = match &spec.credentials.token_secret_ref {
        Some(reference) => {
            let field = "spec.credentials.tokenSecretRef";
            let id = secret(&reference.name, "tokenId", field)?;
            let value = secret(&reference.name, "secret", field)?;
            let (id, value) = (id.trim(), value.trim());
            let named = format!("Secret {namespace}/{}", reference.name);
            is_token(id, value)
                .map_err(|what| Blocked::stalled(Reason::InvalidSpec, format!("{field}: {named}: {what}")))?;
            Some((id.to_string(), value.to_string()))
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
            key_from: named(&ssh.key_secret_ref),
            known_hosts: secret(
                &ssh.known_hosts_secret_ref.name,
                &ssh.known_hosts_secret_ref.key,
                "spec.ssh.knownHostsSecretRef",
            )?,
            known_hosts_from: named(&ssh.known_hosts_secret_ref),
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
    let secrets = [
        &spec.credentials.token_secret_ref,
        &spec.credentials.root_password_secret_ref,
    ];
    let secrets = secrets
        .into_iter()
        .flatten()
        .map(|s| format!("Secret {namespace}/{}", s.name));
    let poll = spec.poll_interval.as_deref().unwrap_or("10s");
    Ok(Access {
        endpoints: spec.endpoints.clone(),
        tls,
        token,
        root_password,
        credentials_from: Vec::from_iter(secrets).join(" or "),
        ssh,
        parallel_tasks: parallel_tasks(spec),
        poll_seconds: units::seconds(poll).ok_or_else(|| {
            Blocked::stalled(
                Reason::InvalidSpec,
                format!("spec.pollInterval: {poll:?} is not a duration such as 10s"),
            )
        })?,
    })
}

/// Tasks that may run on a node at once.
pub fn parallel_tasks(spec: &PhoenixHypervisorSpec) -> usize {
    let limit = spec.limits.as_ref().and_then(|limits| limits.parallel_tasks_per_node);
    limit
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(GUEST_TASKS_DEFAULT)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;
    use crate::desired::testing::objects;

    const WORLD: &str = r#"
kind: PhoenixHypervisor
metadata: {name: pve}
spec:
  endpoints: ["https://pve:8006"]
  tls: {caSecretRef: {name: ca, key: ca.crt}}
  credentials: {tokenSecretRef: {name: token}, rootPasswordSecretRef: {name: root}}
  ssh: {keySecretRef: {name: ssh, key: key}, knownHostsSecretRef: {name: ssh, key: known_hosts}}
"#;

    #[test]
    fn what_is_wrong_with_a_secret_names_the_secret_and_its_key() {
        let ca = "-----BEGIN CERTIFICATE-----";
        let good = [
            ("ca", "ca.crt", ca),
            ("token", "tokenId", "phoenix@pve!operator"),
            ("token", "secret", "8a6f"),
            ("root", "password", "x"),
            ("ssh", "key", "k"),
            ("ssh", "known_hosts", "pve1 ssh-ed25519 AAAA"),
        ];
        let told = |name: &str, key: &str, value: Option<&[u8]>| {
            let world = objects(WORLD);
            for secret in ["ca", "token", "root", "ssh"] {
                let mut data = json!({});
                for (_, key, value) in good.iter().filter(|(of, ..)| *of == secret) {
                    data[*key] = base64::engine::general_purpose::STANDARD.encode(value).into();
                }
                if secret == name {
                    data[key] = value
                        .map(|v| base64::engine::general_purpose::STANDARD.encode(v))
                        .into();
                    if value.is_none() {
                        data.as_object_mut().unwrap().remove(key);
                    }
                }
                let secret = json!({"metadata": {"name": secret, "namespace": "ai"}, "data": data});
                world.insert_secret(serde_json::from_value(secret).unwrap());
            }
            let hypervisor = world.hypervisor("ai", "pve").unwrap();
            access(&hypervisor, &world).map_err(|blocked| blocked.cause().to_string())
        };
        assert!(told("none", "", None).is_ok());
        for (name, key, _) in good {
            for (value, words) in [
                (None, "add it, or correct the name"),
                (Some(&b"\xff\xfe"[..]), "is not text in UTF-8"),
                (Some(b""), "is empty: put"),
                (Some(b" \n"), "is empty: put"),
            ] {
                let found = told(name, key, value).unwrap_err();
                assert!(found.contains(&format!("ai/{name}")), "{name} {key}: {found}");
                assert!(
                    found.contains(&format!("{key:?}")) && found.contains(words),
                    "{name} {key}: {found}"
                );
                assert!(found.contains(": spec."), "{found}");
            }
        }
        let found = told("ca", "ca.crt", Some(b"MIIB")).unwrap_err();
        assert!(
            found.contains("key \"ca.crt\" of Secret ai/ca holds no certificate in PEM"),
            "{found}"
        );
        let found = told("ssh", "key", None).unwrap_err();
        assert!(
            found.contains("Secret ai/ssh has no key \"key\" (it has \"known_hosts\")"),
            "{found}"
        );
    }

    #[test]
    fn an_id_of_a_token_is_checked_and_a_secret_in_its_place_is_not_told() {
        for (id, secret) in [
            ("phoenix@pve!operator", "8a6f"),
            ("root@pam!t-1", "8a6f"),
            ("me@home.lab@ad!k8s", "x"),
        ] {
            assert_eq!(is_token(id, secret), Ok(()), "{id}");
        }
        for (id, secret, told) in [
            ("phoenix@pve", "x", "\"phoenix@pve\" is no id"),
            ("phoenix!operator", "x", "the value is no id"),
            ("phoenix@pve!", "x", "\"phoenix@pve!\" is no id"),
            (
                "8a6f3c1e-0000-4000-8000-000000000000",
                "phoenix@pve!operator",
                "the value is no id",
            ),
            ("PVEAPIToken=phoenix@pve!operator=8a6f3c1e", "x", "the value is no id"),
            ("phoenix@pve!operator=8a6f3c1e", "x", "the value is no id"),
            ("phoenix @pve!operator", "x", "is no id"),
            ("phoenix@pve!operator", "8a\n6f", "key \"secret\""),
            ("phoenix@pve!operator", "", "key \"secret\""),
        ] {
            let found = is_token(id, secret).unwrap_err();
            assert!(found.contains(told) && !found.contains("8a6f"), "{id}: {found}");
        }
    }
}
