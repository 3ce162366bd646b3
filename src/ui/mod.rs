//! A page to look at: the fleet, what its guests wait for and what the operator did last. Read-only, and all of it is in the
//! binary.
//!
//! ```text
//! objects and events ─► view ─► page ─► serve
//! live.rs               pure    pure    HTTP
//! ```
//!
//! Of a spec the page shows names, the node, what the guest is cloned from, what it depends on, its GPUs and its model, and
//! nothing else: environments, scripts and options may hold what is nobody's business (promise 9).

mod live;
pub mod page;
mod serve;
pub mod view;

#[cfg(test)]
mod browser_tests;

pub use live::Live;
pub use serve::{Ui, serve};
