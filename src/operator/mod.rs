//! The operator: the engine driven by an API server.
//!
//! ```text
//! watches ─► caches ─► what a change means ─► queue ─► engine ─► status, events, finalizers
//! objects/                                    queue.rs           objects/store.rs, finalizers/
//! ```
//!
//! Writes go into the caches at once, under the version that the API server answered, and older states that the
//! watches deliver later are left out. One process works at a time ([`lease`]); it holds nothing that a look at the
//! objects and at Proxmox would not find again.

mod access;
mod controller;
mod expose;
mod field_manager;
mod finalizers;
mod lease;
mod metrics;
mod objects;
mod poll;
mod probes;
mod process;
mod queue;
mod run;
mod traces;

pub use controller::{Polled, Reconciler};
pub use metrics::{Described, Metrics};
pub use objects::store::KubeStore;
pub use probes::Serving;
pub use process::{Now, Process};
pub use run::{Operator, Options, RunError, run};
pub use traces::Traces;
