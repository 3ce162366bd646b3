//! The only effects: observe, execute, publish, controllers.
//!
//! * [`engine`] the pipeline of one reconcile, and the poll of a hypervisor
//! * [`connection`] one a hypervisor; [`observe`] reads, [`execute`] effects, [`failure`] what went wrong
//! * [`store`] where objects and their status are kept
//! * [`operator`] the engine driven by an API server

pub mod agent;
pub mod connection;
pub mod engine;
pub mod execute;
pub mod failure;
pub mod observe;
pub mod operator;
pub mod poll;
pub mod preview;
pub mod store;
