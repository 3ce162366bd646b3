//! What a store tells the page: that something changed, and the events that were published last.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::desired::{Key, ObjectName};
use crate::engine::store::{Event, EventType};

use super::view::{ACTIONS, Action};

/// Changes and the last events of a process.
#[derive(Debug)]
pub struct Live {
    changes: watch::Sender<u64>,
    actions: Mutex<VecDeque<Action>>,
}

impl Default for Live {
    fn default() -> Self {
        Live {
            changes: watch::Sender::new(0),
            actions: Mutex::default(),
        }
    }
}

impl Live {
    /// Something that the page may show has changed.
    pub fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Counts changes.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// An event was published about a guest.
    pub fn told(&self, key: &Key, event: &Event, at: Timestamp) {
        self.told_of(
            key.kind.as_str(),
            &ObjectName::new(&key.namespace, &key.name),
            event,
            at,
        );
    }

    /// An event was published about an object of any kind.
    pub fn told_of(&self, kind: &str, name: &ObjectName, event: &Event, at: Timestamp) {
        let action = Action {
            at,
            warning: event.type_ == EventType::Warning,
            kind: kind.into(),
            name: name.clone(),
            reason: event.reason.clone(),
            message: event.message.clone(),
        };
        // Each change is one that leaves the queue whole.
        let mut actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        actions.truncate(ACTIONS - 1);
        actions.push_front(action);
        drop(actions);
        self.changed();
    }

    /// The last events, newest first.
    pub fn actions(&self) -> Vec<Action> {
        let actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        actions.iter().cloned().collect()
    }
}
