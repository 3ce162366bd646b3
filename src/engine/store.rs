//! Where objects and their status are kept: an API server, a state folder, or a test's memory.

use std::future::Future;

use crate::crd::{GuestKind, GuestStatus};
use crate::desired::{GuestObject, Objects, expose};
use crate::reason::{Cause, Reason};

/// Why a write to the store did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object changed since it was read: read and plan again.
    #[error("the object changed meanwhile")]
    Conflict,
    /// The object is gone.
    #[error("the object is gone")]
    Gone,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Things went as they should.
    Normal,
    /// Something needs attention.
    Warning,
}

/// An event about an object, published on transitions only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Kind.
    pub type_: EventType,
    /// Documented reason.
    pub reason: String,
    /// Words for people.
    pub message: String,
}

/// What is known of the Service that a guest is reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// There is nothing to tell.
    Nothing,
    /// What status says of it stands.
    AsBefore,
    /// It is there, or why not.
    Is(bool, Cause),
}

/// Keeps objects. Reads come from memory ([`Objects`]); writes go to where the objects live.
pub trait Store: Objects + 'static {
    /// Replaces the status. `object.resource_version` is the version that the status was made from; the object with
    /// its new version is returned.
    fn write_status(
        &self,
        object: &GuestObject,
        status: &GuestStatus,
    ) -> impl Future<Output = Result<GuestObject, StoreError>> + Send;

    /// Sets Phoenix's finalizer, under the object's version.
    fn add_finalizer(&self, object: &GuestObject) -> impl Future<Output = Result<GuestObject, StoreError>> + Send;

    /// Takes Phoenix's finalizer off.
    fn remove_finalizer(&self, object: &GuestObject) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether the objects of a kind go because the kind itself does: its CustomResourceDefinition is being deleted, or
    /// gone. Asked anew each time, since a guest's end hangs on it.
    fn kind_goes(&self, _kind: GuestKind) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(false))
    }

    /// What is known of the Service that a guest is reached by. Without a cluster there is none.
    fn exposed(&self, object: &GuestObject) -> Told {
        let exposed = expose::exposed(object);
        if !exposed.asked || exposed.ports.is_empty() {
            return Told::Nothing;
        }
        let message = "spec.expose has no effect without a cluster: a Service needs one, and an operator with --expose";
        Told::Is(false, Cause::new(Reason::ExposeDisabled, message))
    }

    /// A step is about to begin, and status says so: a guest that will not work meanwhile is sent no more traffic.
    fn before_step(&self, _object: &GuestObject) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Publishes an event; failing to is only logged.
    fn event(&self, object: &GuestObject, event: Event) -> impl Future<Output = ()> + Send;
}
