//! Writes status, and tells of transitions as events.

use kube::ResourceExt;

use crate::crd::{GuestStatus, TaskStatus};
use crate::desired::{Blocked, Desired, GuestObject, ObjectName};
use crate::plan::{self, Announce, Finding, Next, Plan, Step};
use crate::reason::{Cause, Reason};
use crate::status;

use super::store::{Event, EventType, Store, Told};
use super::{Engine, Point, Stop, events, lock};

impl<S: Store> Engine<S> {
    pub(super) async fn publish_blocked(
        &self,
        object: &GuestObject,
        blocked: Blocked,
        findings: Vec<Finding>,
        desired: Option<&Desired>,
    ) -> Result<Option<f64>, Stop> {
        let (next, seconds) = match blocked {
            Blocked::Stalled(cause) => plan::retry::awaited(&object.status, cause, self.grace(), self.now()),
            Blocked::Waiting(cause) => (Next::Wait { cause, seconds: 5 }, 5.0),
        };
        let plan = Plan {
            next,
            findings,
            facts: plan::Facts {
                absent: desired.map_or_else(Vec::new, |desired| plan::absent(desired, &object.status)),
                paused: self.paused_by(object),
                ..plan::Facts::default()
            },
            partial: true,
        };
        let status = status::planned(&object.status, object.generation, &plan, None, self.now());
        self.publish(object, status).await?;
        Ok(Some(seconds))
    }

    /// By which annotation the object is paused.
    pub(super) fn paused_by(&self, object: &GuestObject) -> Option<String> {
        let ObjectName { namespace, name } = object.hypervisor_ref();
        let hypervisor = self.store.hypervisor(&namespace, &name);
        plan::paused_by(object, hypervisor.as_ref().map(|h| h.annotations()))
    }

    /// Writes status and tells of transitions.
    pub(super) async fn publish(&self, object: &GuestObject, mut status: GuestStatus) -> Result<(), Stop> {
        match self.store.exposed(object) {
            Told::AsBefore => {}
            Told::Nothing => status::exposed(&mut status, None, object.generation, self.now()),
            Told::Is(holds, cause) => {
                status::exposed(&mut status, Some((holds, &cause)), object.generation, self.now());
            }
        }
        let transitions = events::transitions(&object.status, &status);
        let object = self.write(object, status).await?;
        for event in transitions {
            self.store.event(&object, event).await;
        }
        Ok(())
    }

    /// Writes status if it says something new, and tells of the scripts that ended.
    pub(super) async fn write(&self, object: &GuestObject, status: GuestStatus) -> Result<GuestObject, Stop> {
        if status == object.status {
            return Ok(object.clone());
        }
        self.cut(&object.key, Point::BeforeStatus, "status")?;
        let endings = events::endings(&object.status, &status);
        let written = self.store.write_status(object, &status).await;
        if written.is_err() {
            // What was found counts only when it is told: the next look finds it again.
            lock(&self.memory).verified.remove(&object.key);
        }
        let object = written?;
        for event in endings {
            self.store.event(&object, event).await;
        }
        Ok(object)
    }

    pub(super) async fn warn(&self, object: &GuestObject, reason: Reason, message: &str) {
        let event = Event::new(EventType::Warning, Cause::new(reason, message));
        self.store.event(object, event).await;
    }

    /// Tells of an action that took effect. What takes several calls of the same words is told once.
    pub(super) async fn tell(&self, object: &GuestObject, told: Cause) {
        let before = lock(&self.memory).told.insert(object.key.clone(), told.clone());
        if before.as_ref() == Some(&told) {
            return;
        }
        let type_ = match plan::is_for_a_probe(&told) {
            true => EventType::Warning,
            false => EventType::Normal,
        };
        self.store.event(object, Event::new(type_, told)).await;
    }

    /// Tells of a task that has succeeded. A machine is restarted by two: the shutdown is told of with the start.
    pub(super) async fn tell_task(&self, object: &GuestObject, task: &TaskStatus, kind: &str) {
        let Some(reason) = task.event.as_deref().and_then(Reason::named) else {
            return;
        };
        let mut told = Cause::new(reason, plan::done(&task.action));
        {
            let restarting = &mut lock(&self.memory).restarting;
            match reason {
                Reason::Restarted if ["qmshutdown", "qmstop"].contains(&kind) => {
                    restarting.insert(object.key.clone(), told);
                    return;
                }
                Reason::Started => told = restarting.remove(&object.key).unwrap_or(told),
                Reason::Stopped => drop(restarting.remove(&object.key)),
                _ => {}
            }
        }
        self.tell(object, told).await;
    }

    /// Counts a restart because of a probe.
    pub(super) fn count_restart(&self, object: &GuestObject, step: &Step) {
        let for_a_probe = step.announce.iter().any(|a| matches!(a, Announce::HealthRestart(_)));
        if let Some(counters) = self.options.counters.as_ref().filter(|_| for_a_probe) {
            counters.health_restart(&object.key);
        }
    }
}
