//! Powers a guest off whose spec cannot be resolved: a person who stops a guest is heard, whatever else is wrong with it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::crd::PowerState;
use crate::desired::GuestObject;
use crate::observed::{Guest, GuestRead, Observed};
use crate::plan::calls;
use crate::reason::{Cause, Reason};

use super::{Facts, Finding, Next, Plan, Query, Stage, Step, Surroundings, retry};

/// Whether the object asks for its guest to be stopped, and has one.
pub fn wants_stop(object: &GuestObject) -> bool {
    let has_guest = object.status.vmid().is_some() && object.status.was_made();
    object.power_state() == Some(PowerState::Stopped) && has_guest && !object.deleting
}

/// Decides what is left to do until the guest is stopped. `Done`: nothing, or nothing that can be done without a valid
/// spec. `now` is Unix time in seconds.
pub fn plan_stop(object: &GuestObject, observed: &Observed, around: Surroundings<'_>, now: i64) -> Plan {
    let mut findings = Vec::new();
    let next = next(object, observed, around, &mut findings);
    Plan {
        next: retry::hold_back(next, &object.status, now),
        findings,
        facts: Facts {
            stopped: true,
            ..Facts::default()
        },
        partial: true,
    }
}

fn next(object: &GuestObject, observed: &Observed, around: Surroundings<'_>, findings: &mut Vec<Finding>) -> Next {
    let Some(vmid) = object.status.vmid() else {
        return Next::Done;
    };
    let cluster = &observed.cluster;
    let runs = cluster.runs(Some(vmid));
    let being_stopped = |c: &Condition| c.type_ == Stage::Running.as_str() && c.reason == Reason::InProgress.as_str();
    // The list of the last poll costs nothing; the guest is read to stop it, and once more afterwards.
    let to_do = runs || object.status.conditions.iter().any(being_stopped);
    if !cluster.is_recorded() || cluster.quorate == Some(false) || !to_do {
        return Next::Done;
    }
    let guest = match &observed.guest {
        None => {
            return Next::Look(Query::Guest {
                vmid,
                sort: object.guest_type(),
                node: object.status.node.clone(),
                snapshots: false,
            });
        }
        Some(GuestRead::Present(guest)) => guest,
        Some(_) => return Next::Done,
    };
    let ours = guest
        .stamp()
        .is_some_and(|stamp| around.owns(&stamp, &object.key, vmid));
    if !ours || guest.being_made() || guest.lock.is_some() {
        return Next::Done;
    }
    shut_down(guest, findings)
}

fn shut_down(guest: &Guest, findings: &mut Vec<Finding>) -> Next {
    let what = guest.named();
    let (action, stopped) = match guest.running {
        true => (format!("shut {what} down"), false),
        false => (format!("{what} is stopped"), true),
    };
    findings.push(Finding {
        condition: Stage::Running.as_str(),
        holds: Some(false),
        cause: Cause::new(
            if stopped { Reason::Stopped } else { Reason::InProgress },
            action.clone(),
        ),
    });
    if stopped {
        return Next::Done;
    }
    Next::Run(Box::new(Step {
        action,
        stage: Stage::Running,
        announce: vec![],
        effect: calls::shutdown(&guest.at),
        apart: Some(retry::STOP.into()),
    }))
}
