//! The only effects: observe, execute, publish, controllers.
//!
//! * [`engine`] the pipeline of one reconcile (`publish`: status and events), and [`poll`] of a hypervisor
//! * [`connection`] one a hypervisor; [`observe`] reads, [`execute`] effects, [`failure`] what went wrong; [`defect`]
//!   keeps a panic to the work in which it happened
//! * `probes` asks the probes of guests beside the reconciles, many over one channel
//! * `turns` who comes next where namespaces share a hypervisor
//! * [`store`] where objects and their status are kept
//! * [`operator`] the engine driven by an API server

pub mod agent;
pub mod connection;
pub mod defect;
pub mod engine;
pub mod execute;
pub mod failure;
pub mod observe;
pub mod operator;
mod options;
pub mod poll;
pub mod preview;
mod probes;
mod publish;
pub mod store;
mod turns;
