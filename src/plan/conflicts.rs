//! Addresses and MACs that another guest asks for too: told on both, and the later one waits with what would give it the
//! address. A guest that already has it goes on.

use crate::crd::PowerState;
use crate::observed::Guest;
use crate::reason::{Cause, Reason};

use super::change::Change;
use super::planner::{Planner, Staged};
use super::{Next, Stage};

/// The condition of both.
const CONDITION: &str = "AddressConflict";
/// Seconds after which it is looked whether the other one still asks for it.
const LOOK_AGAIN: u64 = 30;

impl Planner<'_> {
    /// Tells of every conflict.
    pub(super) fn tell_conflicts(&mut self) {
        for conflict in self.input.conflicts {
            self.find_more(CONDITION, Reason::AddressInUse, conflict.message.clone());
        }
    }

    /// Whether status tells of conflicts where there are some, and of none where there are none.
    pub(super) fn conflicts_are_told(&self) -> bool {
        let told = self.status.conditions.iter().any(|c| c.type_ == CONDITION);
        told != self.input.conflicts.is_empty()
    }

    fn has_to_wait(&self) -> Option<Cause> {
        let first = self.input.conflicts.iter().find(|conflict| conflict.waits)?;
        Some(Cause::new(Reason::AddressInUse, format!("waits: {}", first.message)))
    }

    /// What would give the guest an address that another one has waits.
    pub(super) fn address_is_free(&mut self, stage: Stage) -> Staged {
        match self.has_to_wait() {
            Some(cause) => {
                self.tell_conflicts();
                Err(self.wait(stage, cause.reason, cause.message, LOOK_AGAIN))
            }
            None => Ok(()),
        }
    }

    /// A stopped guest that is to run waits.
    pub(super) fn may_take_its_address(&mut self, guest: &Guest) -> Staged {
        match !guest.running && self.desired.life.power == PowerState::Running {
            true => self.address_is_free(Stage::Running),
            false => Ok(()),
        }
    }

    /// The changes without those of interfaces, where these wait.
    pub(super) fn without_taken_addresses(&mut self, stage: Stage, mut changes: Vec<Change>) -> Vec<Change> {
        let of_network = |change: &Change| change.field == "network";
        if let Some(cause) = self.has_to_wait().filter(|_| changes.iter().any(of_network)) {
            changes.retain(|change| !of_network(change));
            let seconds = LOOK_AGAIN;
            self.note_held(stage, Next::Wait { cause, seconds });
        }
        changes
    }
}
