//! One start at a time: a model server measures the free memory of its card while it starts, so servers that share one
//! start one after another.

use crate::crd::{GuestKind, GuestStatus, PowerState};
use crate::desired::{Form, GuestObject, ScriptRole};
use crate::observed::Guest;
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Next, Query, Stage, pauses};
use crate::reason::Reason;

/// Seconds after which an object asks again whether it is its turn, should nobody wake it.
const AGAIN: u64 = 60;

/// Whether a model server still starts, as its object's status tells: it is not healthy yet and has not given up. One whose
/// restarts have come to a pause, that is stuck, or that is to be stopped has given up.
pub fn is_starting(object: &GuestObject) -> bool {
    let status = &object.status;
    let condition = |name: &str| status.conditions.iter().find(|c| c.type_ == name);
    let stuck = condition("Stalled").is_some_and(|c| c.status == "True");
    let healthy = condition("Healthy");
    // What has no probe works when it is Ready.
    let works = healthy.or(condition("Ready")).is_some_and(|c| c.status == "True");
    let held_back = healthy.is_some_and(|c| c.reason == Reason::RestartBackOff.as_str());
    let stops = object.deleting || object.power_state() == Some(PowerState::Stopped);
    let runs = condition("Running").is_some_and(|c| c.status == "True");
    // What cannot even be started waits for its next attempt.
    let fails = !runs && status.last_error.is_some();
    let guest = object.key.kind != GuestKind::PhoenixTemplate;
    guest && !(works || stuck || held_back || stops || fails || pauses(&object.annotations))
}

/// Under this name one guest of a node at a time has its driver installed anew.
pub const INSTALLS: &str = "driver";

/// Whether NVIDIA's driver is being installed in the object's guest, as its status tells.
pub fn installs_driver(object: &GuestObject) -> bool {
    let mut features = object.status.features.iter().flatten();
    features.any(|script| script.name.ends_with("nvidia") && script.state.as_deref() == Some("Running"))
}

/// Whether a guest has a model server in it that comes up when the guest is started.
pub fn has_server(status: &GuestStatus) -> bool {
    let state = status.server().and_then(|script| script.state.as_deref());
    state.is_some_and(|state| state != "Pending")
}

impl Planner<'_> {
    /// Before a model server starts: no other one starts on its cards.
    pub(crate) fn takes_turn(&mut self, stage: Stage, guest: &Guest) -> Staged {
        let serves = self.desired.life.form == Form::Guest && self.desired.runs(&[ScriptRole::ModelServer]);
        let given = self.facts.gpu_devices.iter().flatten();
        let cards: Vec<String> = given.map(|card| card.pci_address.clone()).collect();
        if !serves || cards.is_empty() {
            return Ok(());
        }
        let why = "starts its model server on the same GPU: this one starts when that one is Healthy or has given up, since each measures the free memory while it starts";
        self.one_at_a_time(stage, guest, cards, why)
    }

    /// The same before the guest itself is started, where its server comes up with it.
    pub(crate) fn takes_turn_with_guest(&mut self, guest: &Guest) -> Staged {
        match has_server(self.status) {
            true => self.takes_turn(Stage::Running, guest),
            false => Ok(()),
        }
    }

    /// One guest of a node at a time has its driver installed anew.
    pub(crate) fn takes_turn_of_driver(&mut self, guest: &Guest) -> Staged {
        let why = "has its NVIDIA driver installed anew: one guest of a node at a time";
        self.one_at_a_time(Stage::GPUReady, guest, vec![INSTALLS.to_string()], why)
    }

    /// Waits while another object has its turn at one of these cards; `why` says what it does.
    fn one_at_a_time(&mut self, stage: Stage, guest: &Guest, cards: Vec<String>, why: &str) -> Staged {
        match &self.observed.card_turn {
            None => Err(Next::Look(Query::CardTurn {
                node: guest.at.node.clone(),
                cards,
            })),
            Some(None) => Ok(()),
            Some(Some(other)) => {
                let message = format!("{other} {why}");
                Err(self.wait(stage, Reason::GPUBusyStarting, message, AGAIN))
            }
        }
    }
}
