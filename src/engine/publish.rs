//! Writes status, and tells of transitions as events.

use crate::crd::GuestStatus;
use crate::desired::{Blocked, GuestObject};
use crate::plan::{self, Announce, Finding, Next, Plan, Step};
use crate::reason::Reason;
use crate::status;

use super::store::{Event, EventType, Store};
use super::{Engine, Point, Stop, now};

impl<S: Store> Engine<S> {
    pub(super) async fn publish_blocked(
        &self,
        object: &GuestObject,
        blocked: Blocked,
        findings: Vec<Finding>,
    ) -> Result<Option<f64>, Stop> {
        let (next, seconds) = match blocked {
            Blocked::Stalled(cause) => (Next::Stuck(cause), 60.0),
            Blocked::Waiting(cause) => (Next::Wait { cause, seconds: 5 }, 5.0),
        };
        let plan = Plan {
            next,
            findings,
            facts: plan::Facts::default(),
            partial: true,
            steps: vec![],
        };
        let status = status::planned(&object.status, object.generation, &plan, None, now());
        self.publish(object, status).await?;
        Ok(Some(seconds))
    }

    /// Writes status and tells of transitions.
    pub(super) async fn publish(&self, object: &GuestObject, status: GuestStatus) -> Result<(), Stop> {
        let of = |s: &GuestStatus, t: &str| s.conditions.iter().find(|c| c.type_ == t).cloned();
        let event = |type_, c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| Event {
            type_,
            reason: c.reason.clone(),
            message: if c.message.is_empty() {
                c.reason.clone()
            } else {
                c.message.clone()
            },
        };
        let mut events: Vec<Event> = health_event(&object.status, &status).into_iter().collect();
        for (name, type_) in [
            ("Ready", EventType::Normal),
            ("Stalled", EventType::Warning),
            ("DriftDetected", EventType::Warning),
        ] {
            let (old, new) = (of(&object.status, name), of(&status, name));
            if let Some(new) = new.filter(|n| n.status == "True")
                && old.is_none_or(|o| o.status != "True" || (o.reason != new.reason && name != "Ready"))
            {
                events.push(event(type_, &new));
            }
        }
        let object = self.write(object, status).await?;
        for event in events {
            self.store.event(&object, event).await;
        }
        Ok(())
    }

    /// Writes status if it says something new.
    pub(super) async fn write(&self, object: &GuestObject, status: GuestStatus) -> Result<GuestObject, Stop> {
        if status == object.status {
            return Ok(object.clone());
        }
        self.cut(&object.key, Point::BeforeStatus, "status")?;
        Ok(self.store.write_status(object, &status).await?)
    }

    pub(super) async fn warn(&self, object: &GuestObject, reason: Reason, message: &str) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.into(),
            message: message.into(),
        };
        self.store.event(object, event).await;
    }

    /// A restart because of a probe is an event and counted.
    pub(super) async fn tell_restart(&self, object: &GuestObject, step: &Step) {
        if !step.announce.iter().any(|a| matches!(a, Announce::HealthRestart(_))) {
            return;
        }
        if let Some(counters) = &self.options.counters {
            counters.health_restart(&object.key);
        }
        self.warn(object, Reason::Restarting, &step.action).await;
    }
}

/// The guest became healthy, or ceased to be.
fn health_event(old: &GuestStatus, new: &GuestStatus) -> Option<Event> {
    let of = |s: &GuestStatus| s.conditions.iter().find(|c| c.type_ == "Healthy").cloned();
    let (old, new) = (of(old)?, of(new)?);
    let (type_, reason) = match (old.status.as_str(), new.status.as_str()) {
        ("False" | "Unknown", "True") => (EventType::Normal, Reason::Healthy.into()),
        ("True", "False" | "Unknown") => (EventType::Warning, new.reason),
        _ => return None,
    };
    Some(Event {
        type_,
        reason,
        message: new.message,
    })
}
