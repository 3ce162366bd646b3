//! Whether the hypervisor can be reached and is sound: credentials, endpoints, certificates, versions, clocks, quorum.

use std::collections::BTreeSet;

use crate::crd::PhoenixHypervisor;
use crate::reason::Reason;

use super::facts::Facts;
use super::{Check, Outcome};

const DAY: i64 = 86_400;
/// Days before its end at which a certificate is told of.
const SOON: i64 = 30;
/// Seconds by which clocks may differ without a word.
const SKEW: i64 = 10;
/// Seconds after which a ticket, a certificate or the age of a task is misjudged.
const BAD_SKEW: i64 = 300;
/// The first release that is supported, and the last one that was tried.
const OLDEST: (u32, u32) = (8, 4);
const NEWEST: u32 = 9;

/// What the hypervisor's Secrets hold, and whether Proxmox takes it.
pub fn credentials(hypervisor: &PhoenixHypervisor, facts: &Facts) -> Vec<Check> {
    if let Some(cause) = &facts.blocked {
        let rest = Check::new(
            "everything else",
            Outcome::Unknown,
            "nothing was asked: the hypervisor cannot be talked to before this is mended",
        );
        return vec![Check::new("credentials", Outcome::Fail, cause.message.clone()), rest];
    }
    let field = match hypervisor.spec.credentials.token_secret_ref {
        Some(_) => "spec.credentials.tokenSecretRef",
        None => "spec.credentials.rootPasswordSecretRef",
    };
    let refused = facts.endpoints.iter().find_map(|endpoint| match &endpoint.version {
        Err(cause) if cause.reason == Reason::Unauthorized => Some(cause),
        _ => None,
    });
    let check = match (refused, facts.endpoints.iter().any(|e| e.version.is_ok())) {
        (Some(cause), _) => {
            let message = format!(
                "{field}: {}: correct what is in {}",
                cause.message, facts.credentials_from
            );
            let check = Check::new("credentials", Outcome::Fail, message);
            match facts.token.as_deref().and_then(|id| id.split_once('!')) {
                Some((user, name)) => check.fixed_by(format!(
                    "pveum user token list {user} # is {name} there, and not expired?"
                )),
                None => check,
            }
        }
        (None, true) => {
            let who = facts.token.as_deref().unwrap_or("root@pam");
            Check::new("credentials", Outcome::Ok, format!("Proxmox accepts {who}"))
        }
        (None, false) => Check::new("credentials", Outcome::Unknown, "no endpoint answered: see there"),
    };
    let root = facts.root.as_ref().map(|root| {
        let name = "password of root@pam";
        match root {
            Ok(()) => Check::new(name, Outcome::Ok, "Proxmox accepts it"),
            Err(cause) if cause.reason == Reason::Unauthorized => {
                let words = format!("spec.credentials.rootPasswordSecretRef: {}", cause.message);
                Check::new(name, Outcome::Fail, words)
            }
            Err(cause) => Check::new(name, Outcome::Unknown, format!("it was not tried: {}", cause.message)),
        }
    });
    [check].into_iter().chain(root).collect()
}

/// Certificates that nobody verifies.
pub fn verification(hypervisor: &PhoenixHypervisor) -> Option<Check> {
    let tls = hypervisor.spec.tls.as_ref()?;
    let words = "spec.tls.insecureSkipVerify: true: anybody on the network path can read the credentials; give caSecretRef or fingerprint in its place";
    (tls.insecure_skip_verify == Some(true)).then(|| Check::new("tls", Outcome::Warn, words))
}

/// Each endpoint, with its certificate.
pub fn endpoints(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for endpoint in &facts.endpoints {
        let name = format!("endpoint {}", endpoint.url);
        checks.push(match &endpoint.version {
            Ok(version) => Check::new(name, Outcome::Ok, format!("answers, Proxmox VE {version}")),
            // It answered, and the credentials have a check of their own.
            Err(cause) if cause.reason == Reason::Unauthorized => {
                Check::new(name, Outcome::Ok, "answers; it refuses the credentials")
            }
            Err(cause) => {
                let message = format!("spec.endpoints: {}: {}", endpoint.url, cause.message);
                // With another endpoint that answers, work goes on.
                let others = facts.endpoints.iter().any(|e| e.version.is_ok());
                let outcome = if others && cause.reason != Reason::CertificateNotTrusted {
                    Outcome::Warn
                } else {
                    Outcome::Fail
                };
                Check::new(name, outcome, message)
            }
        });
        let name = format!("certificate of {}", endpoint.url);
        checks.push(match (endpoint.ends, &endpoint.version) {
            (Some(ends), _) => ending(name, ends, facts.now, "pvecm updatecerts --force"),
            // The endpoint's own check says that it was not reached.
            (None, Err(_)) => continue,
            (None, Ok(_)) => Check::new(name, Outcome::Unknown, "its end was not read: it showed no certificate"),
        });
    }
    checks
}

fn ending(name: String, ends: i64, now: i64, renew: &str) -> Check {
    let days = (ends - now).div_euclid(DAY);
    let advice = format!("renew it on the node (`{renew}`, or Node > Certificates where it is one of ACME)");
    match days {
        ..0 => {
            let words = format!("it ended {} days ago: {advice}", -days);
            Check::new(name, Outcome::Fail, words).fixed_by(renew)
        }
        0..=SOON => {
            let words = format!("it ends in {days} days: {advice}");
            Check::new(name, Outcome::Warn, words).fixed_by(renew)
        }
        _ => Check::new(name, Outcome::Ok, format!("valid for {days} days")),
    }
}

/// The certificates of all nodes: an endpoint may be any of them tomorrow.
pub fn certificates(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for (node, of) in facts.nodes.iter().filter(|(_, of)| of.online) {
        match &of.certificates {
            Err(why) => {
                let words = format!("they were not read: {why}");
                checks.push(Check::new(format!("certificates of {node}"), Outcome::Unknown, words));
            }
            Ok(list) => {
                for (file, ends) in list {
                    let name = format!("certificate {file} of {node}");
                    checks.push(ending(name, *ends, facts.now, "pvecm updatecerts --force"));
                }
                if list.is_empty() {
                    let words = "Proxmox told of none that says when it ends";
                    checks.push(Check::new(format!("certificates of {node}"), Outcome::Unknown, words));
                }
            }
        }
    }
    checks
}

fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '~']);
    let major = parts.next()?.parse().ok()?;
    Some((
        major,
        parts.next().and_then(|minor| minor.parse().ok()).unwrap_or_default(),
    ))
}

fn version(name: String, version: &str) -> Check {
    match release(version) {
        None => Check::new(
            name,
            Outcome::Unknown,
            format!("{version:?} is no version that is understood"),
        ),
        Some(found) if found < OLDEST => {
            let words = format!(
                "Proxmox VE {version} is older than {}.{}: upgrade it",
                OLDEST.0, OLDEST.1
            );
            Check::new(name, Outcome::Fail, words)
        }
        Some((major, _)) if major > NEWEST => {
            let words = format!("Proxmox VE {version} is newer than any that Phoenix was tried with ({NEWEST})");
            Check::new(name, Outcome::Warn, words)
        }
        Some(_) => Check::new(name, Outcome::Ok, format!("Proxmox VE {version}")),
    }
}

/// Quorum, names, nodes and their versions.
pub fn cluster(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(match &facts.cluster {
        Err(why) => Check::new("quorum", Outcome::Unknown, format!("it was not read: {why}")),
        Ok(cluster) if cluster.quorate => Check::new("quorum", Outcome::Ok, "the cluster is quorate"),
        Ok(_) => Check::new(
            "quorum",
            Outcome::Fail,
            "the cluster has no quorum: nothing can be written and nothing be proven absent; bring nodes back until most of them see each other",
        )
        .fixed_by("pvecm status"),
    });
    // Many installations have the installer's names: then only the certificate authority tells them apart.
    let plain = facts.nodes.keys().any(|node| node == "pve");
    if plain && facts.ca().is_none() {
        let words = "a node has the installer's name \"pve\", which other clusters have too, and the certificate authority that would tell them apart was not read";
        checks.push(Check::new("default names", Outcome::Warn, words));
    }
    if facts.nodes.is_empty() {
        checks.push(Check::new(
            "nodes",
            Outcome::Unknown,
            "no node is known: nothing of them was looked at",
        ));
    }
    for (node, of) in &facts.nodes {
        if !of.online {
            let words =
                format!("node {node} is offline: its guests cannot be worked on, and nothing of it was looked at");
            checks.push(Check::new(format!("node {node}"), Outcome::Fail, words));
            continue;
        }
        checks.push(Check::new(format!("node {node}"), Outcome::Ok, "online"));
        let name = format!("version of {node}");
        checks.push(match &of.version {
            Ok(found) => version(name, found),
            Err(why) => Check::new(name, Outcome::Unknown, format!("it was not read: {why}")),
        });
    }
    let versions: BTreeSet<&String> = facts.nodes.values().filter_map(|of| of.version.as_ref().ok()).collect();
    if versions.len() > 1 {
        let list = Vec::from_iter(versions.iter().map(|v| v.as_str())).join(", ");
        let words = format!("the nodes run different versions ({list}): finish the upgrade");
        checks.push(Check::new("versions", Outcome::Warn, words));
    }
    checks
}

/// How far the nodes' clocks are from this machine's.
pub fn clocks(facts: &Facts) -> Vec<Check> {
    let online = facts.nodes.iter().filter(|(_, of)| of.online);
    let checks = online.map(|(node, of)| {
        let name = format!("clock of {node}");
        let ahead = match &of.ahead {
            Err(why) => return Check::new(name, Outcome::Unknown, format!("it was not read: {why}")),
            Ok(ahead) => *ahead,
        };
        let off = ahead.abs();
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let words = format!("{off} s {way} this machine's: see to NTP on both (`chronyc tracking`)");
        match off {
            0..=SKEW => Check::new(name, Outcome::Ok, format!("{off} s from this machine's")),
            _ if off <= BAD_SKEW => Check::new(name, Outcome::Warn, words).fixed_by("chronyc makestep"),
            _ => Check::new(name, Outcome::Fail, words).fixed_by("chronyc makestep"),
        }
    });
    checks.collect()
}
