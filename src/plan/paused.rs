//! An object that somebody paused: it is looked at, and nothing is done for it.

use std::collections::BTreeMap;

use crate::crd::PAUSED;
use crate::desired::GuestObject;
use crate::reason::{Cause, Reason};

use super::{Effect, Next, Plan, WOKEN};

/// Whether annotations pause. Whoever writes anything but `"false"` there wants it to stop.
pub fn pauses(annotations: &BTreeMap<String, String>) -> bool {
    let value = annotations.get(PAUSED).map(|value| value.trim().to_ascii_lowercase());
    value.is_some_and(|value| !["", "false"].contains(&value.as_str()))
}

/// By which annotation the object is paused: its own, or that of its hypervisor, of which these are the annotations.
pub fn paused_by(object: &GuestObject, hypervisor: Option<&BTreeMap<String, String>>) -> Option<String> {
    if pauses(&object.annotations) {
        return Some(format!("paused by the annotation {PAUSED}"));
    }
    let named = object.hypervisor_ref();
    hypervisor.is_some_and(pauses).then(|| {
        format!(
            "paused by the annotation {PAUSED} of PhoenixHypervisor {}/{}",
            named.namespace, named.name
        )
    })
}

impl Plan {
    /// The same for an object that is paused: what would be done next is told and waits. What asks nothing of Proxmox any
    /// more, the end of an object, does not.
    #[must_use]
    pub fn paused(mut self, by: Option<&str>) -> Plan {
        let Some(by) = by else { return self };
        self.facts.paused = Some(by.to_string());
        match &self.next {
            Next::Run(step) if !matches!(step.effect, Effect::RemoveFinalizer { .. }) => {
                let cause = Cause::new(Reason::Paused, format!("{by}: {} waits", step.action));
                self.held_up(cause, WOKEN)
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_false_does_not_pause() {
        let with = |value: &str| pauses(&BTreeMap::from([(PAUSED.to_string(), value.to_string())]));
        assert!(with("true") && with("yes") && with("True"));
        assert!(!with("false") && !with("") && !with("False"));
        assert!(!pauses(&BTreeMap::new()));
    }
}
