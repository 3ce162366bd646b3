//! SSH to the nodes, and their graphics cards.

use crate::crd::PhoenixHypervisorSpec;

use super::facts::{Facts, NodeFacts, Shell};
use super::uses::{Uses, Where};
use super::{Check, Outcome};

/// Fields that rest on something at this node.
fn at(list: &[(Where, String)], node: &str) -> Vec<String> {
    let here = list
        .iter()
        .filter(|(place, _)| place.as_deref().is_none_or(|name| name == node));
    here.map(|(_, field)| field.clone()).collect()
}

fn online(facts: &Facts) -> impl Iterator<Item = (&String, &NodeFacts)> {
    facts.nodes.iter().filter(|(_, of)| of.online)
}

/// SSH with host key and sudo.
pub fn shells(spec: &PhoenixHypervisorSpec, uses: &Uses, facts: &Facts) -> Vec<Check> {
    let user = spec.ssh.as_ref().and_then(|ssh| ssh.user.as_deref()).unwrap_or("root");
    let checks = online(facts).map(|(node, of)| {
        let name = format!("ssh {node}");
        let fields = at(&uses.shell, node);
        match &of.shell {
            Shell::NotGiven if fields.is_empty() => {
                Check::new(name, Outcome::Ok, "spec.ssh is not given, and nothing that was given needs it")
            }
            Shell::NotGiven => {
                let words = format!("spec.ssh is not given, which blocks {}: set it (docs/access.md)", fields.join(", "));
                Check::new(name, Outcome::Fail, words).blocks(fields)
            }
            Shell::NoHostKey(host, port) => {
                let words = format!(
                    "spec.ssh.knownHostsSecretRef: there is no host key of {host}: add the line of ssh-keyscan, compared with the key on the node"
                );
                Check::new(name, Outcome::Fail, words)
                    .blocks(fields)
                    .fixed_by(format!("ssh-keyscan -t ed25519 -p {port} {host}"))
            }
            Shell::Ran(0) => Check::new(name, Outcome::Ok, "commands run as root"),
            Shell::Ran(uid) => {
                let words = format!(
                    "spec.ssh.user: commands of {user:?} run with user id {uid} and not as root: set spec.ssh.sudo: true, or use root"
                );
                Check::new(name, Outcome::Fail, words).blocks(fields)
            }
            Shell::Failed(cause) => {
                let check = Check::new(name, Outcome::Fail, cause.message.clone()).blocks(fields);
                match cause.message.contains("sudo") {
                    true => check.fixed_by(format!(
                        "echo '{user} ALL=(root) NOPASSWD: ALL' > /etc/sudoers.d/phoenix && chmod 0440 /etc/sudoers.d/phoenix"
                    )),
                    false => check,
                }
            }
            Shell::NotAsked(why) => Check::new(name, Outcome::Unknown, format!("it was not tried: {why}")).blocks(fields),
        }
    });
    checks.collect()
}

/// Graphics cards and their device nodes, where there are any or somebody asks for one.
pub fn cards(uses: &Uses, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for (node, of) in online(facts) {
        let name = format!("gpus {node}");
        let fields = at(&uses.cards, node);
        let cards = match &of.cards {
            Err(why) => {
                let words = format!("they were not read: {why}");
                checks.push(Check::new(name, Outcome::Unknown, words).blocks(fields));
                continue;
            }
            Ok(cards) => cards,
        };
        if cards.cards.is_empty() {
            let (outcome, words) = match fields.is_empty() {
                true => (
                    Outcome::Ok,
                    format!("node {node} has none, and nothing that was given asks for one"),
                ),
                false => (
                    Outcome::Fail,
                    format!(
                        "node {node} has no graphics card, and {} ask for one",
                        fields.join(", ")
                    ),
                ),
            };
            checks.push(Check::new(name, outcome, words).blocks(fields));
            continue;
        }
        let mut problems = Vec::new();
        for card in cards.cards.values().filter(|card| !card.is_passed_through()) {
            let missing = cards.missing(card);
            if !missing.is_empty() {
                problems.push(format!("{} lacks {}", card.named(), missing.join(", ")));
            }
            if let Some(fault) = card.fault() {
                problems.push(format!(
                    "{} reported Xid {}: {}",
                    card.named(),
                    fault.number,
                    fault.words
                ));
            }
        }
        if let Some(error) = &cards.smi_error {
            problems.push(format!("nvidia-smi: {error}"));
        }
        let count = cards.cards.len();
        checks.push(match (problems.is_empty(), cards.over_ssh) {
            (true, true) => Check::new(name, Outcome::Ok, format!("{count} with all their device nodes")),
            (true, false) if fields.is_empty() => {
                let words = format!("{count} are listed, and nothing that was given asks for one");
                Check::new(name, Outcome::Ok, words)
            }
            (true, false) => {
                let words = format!("{count}; drivers and device nodes were not read: only SSH shows them (spec.ssh)");
                Check::new(name, Outcome::Unknown, words).blocks(fields)
            }
            (false, _) => {
                let outcome = if fields.is_empty() {
                    Outcome::Warn
                } else {
                    Outcome::Fail
                };
                let words = format!(
                    "node {node}: {}: load the driver (docs/gpus.md), or let spec.host.gpuNodes do it",
                    problems.join("; ")
                );
                Check::new(name, outcome, words)
                    .blocks(fields)
                    .fixed_by("modprobe nvidia-uvm && nvidia-modprobe -u -c 0")
            }
        });
    }
    checks
}
