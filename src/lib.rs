//! Phoenix turns Proxmox VE into a GitOps-managed AI fleet.
//!
//! Data flows one way, and the folders show it:
//!
//! ```text
//! CR ─► Desired ─► (Observed) ─► Plan ─► execute one Step ─► Status
//!       pure        snapshot      pure      the only effects    pure
//! ```
//!
//! * [`crd`] what users write, [`admission`] the API server's checks for manifests that never meet one
//! * [`doctor`] whether a hypervisor and its objects have what they need
//! * [`desired`] custom resource and what it refers to → `Desired`
//! * [`observed`] snapshots of what Proxmox says
//! * [`plan`] `Desired` + `Observed` + now → `Plan`
//! * [`status`] plan, outcome and previous status → new status
//! * [`engine`] the only effects: observe, execute one step, publish; [`operator`] drives it from an API server
//! * [`reason`] why an object is as it is
//! * [`pve`] Proxmox's vocabulary: guests, calls, task ids, property strings, sizes
//! * [`proxmox`] the API client, [`remote`] running things in guests and on nodes
//! * [`simulator`] a Proxmox VE look-alike for demos and tests
//! * [`convert`] legacy JSON files → manifests
//! * [`install`] what Phoenix consists of in a cluster
//! * [`standalone`] the same engine without a cluster
//! * [`ui`] a page to look at
//!
//! `tests/repository/imports.rs` keeps the pure modules free of I/O.

// The library is for its own binary, tests and benches. What none of them names is private, so that the compiler tells
// what nothing uses; the links above lead there all the same.
#![allow(rustdoc::private_intra_doc_links)]

pub mod admission;
pub mod cli;
pub mod convert;
pub mod crd;
pub mod desired;
mod doctor;
pub mod engine;
pub mod estimate;
mod graph;
mod install;
mod observed;
pub mod operator;
mod plan;
mod proxmox;
pub mod pve;
pub mod reason;
pub mod remote;
mod secret;
pub mod simulator;
mod stack;
pub mod standalone;
mod status;
pub mod ui;
