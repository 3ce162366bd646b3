//! Whether a hypervisor has what its spec and its objects need (`phoenix doctor`): facts in, checks out. Pure.
//!
//! * [`facts`] what was asked and what came back, or why nothing did
//! * [`uses`] what a spec and objects name: storages, bridges, images, SSH, cards
//! * [`privileges`] rights that a token needs
//! * `reach.rs` credentials, endpoints, certificates, versions, clocks, quorum; `rights.rs`, `things.rs` and `nodes.rs` the
//!   rest; `ids.rs` ranges of ids
//! * [`report`] what people and programs see
//!
//! What was not read back is [`Outcome::Unknown`] with the reason, never [`Outcome::Ok`].

pub mod facts;
mod ids;
mod nodes;
pub mod privileges;
mod reach;
pub mod report;
mod rights;
mod things;
pub mod uses;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::crd::PhoenixHypervisor;
use crate::desired::GuestObject;

use facts::Facts;
use uses::Uses;

pub use ids::overlaps;

/// What a check came to; the worst is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// It was read and is as it has to be.
    Ok,
    /// It works, and something should be done.
    Warn,
    /// It could not be read.
    Unknown,
    /// It is broken.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was looked at, such as `storage local-zfs on pve1`.
    pub name: String,
    /// What it came to.
    pub outcome: Outcome,
    /// What was found; of what is not ok with what to do.
    pub message: String,
    /// Fields that rest on it, those of objects with the object before them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<String>,
    /// A command that mends it, for copying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// A check that came to this.
    pub fn new(name: impl Into<String>, outcome: Outcome, message: impl Into<String>) -> Self {
        Check {
            name: name.into(),
            outcome,
            message: message.into(),
            blocks: Vec::new(),
            fix: None,
        }
    }

    /// The same with the fields that rest on it.
    #[must_use]
    pub fn blocks(mut self, fields: impl IntoIterator<Item = String>) -> Self {
        self.blocks = fields.into_iter().collect();
        self
    }

    /// The same with a command that mends it.
    #[must_use]
    pub fn fixed_by(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }
}

/// All checks of a hypervisor. `objects` are those that name it.
pub fn examine(hypervisor: &PhoenixHypervisor, objects: &[&GuestObject], facts: &Facts) -> Vec<Check> {
    let mut checks = reach::credentials(hypervisor, facts);
    if facts.blocked.is_some() {
        return checks;
    }
    let uses = Uses::of(&hypervisor.spec, objects);
    checks.extend(reach::verification(hypervisor));
    checks.extend(reach::endpoints(facts));
    checks.extend(reach::cluster(facts));
    checks.extend(rights::examine(&hypervisor.spec, objects, &uses, facts));
    checks.extend(reach::clocks(facts));
    checks.extend(reach::certificates(facts));
    checks.extend(nodes::shells(&hypervisor.spec, &uses, facts));
    checks.extend(nodes::cards(&uses, facts));
    checks.extend(things::storages(&hypervisor.spec, &uses, facts));
    checks.extend(things::bridges(&hypervisor.spec, &uses, facts));
    checks.extend(things::images(&hypervisor.spec, &uses, facts));
    checks.extend(ids::of_spec(&hypervisor.spec, facts));
    checks
}
