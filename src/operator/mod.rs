//! The operator: the engine driven by an API server.
//!
//! ```text
//! watches ─► caches ─► what a change means ─► queue ─► engine ─► status, finalizers, events
//! watch.rs   cache.rs  state.rs, index.rs     queue.rs           store.rs, guard.rs
//! ```
//!
//! Writes go into the caches at once, under the version that the API server answered, and older states that the
//! watches deliver later are left out. One process works at a time ([`lease`]); it holds nothing that a look at the
//! objects and at Proxmox would not find again.

mod binding;
mod cache;
mod controller;
mod guard;
mod index;
mod lease;
mod metrics;
mod poll;
mod probes;
mod queue;
mod run;
mod state;
mod store;
mod watch;

pub use run::{Options, run};
pub use store::KubeStore;
