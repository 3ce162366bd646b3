//! Manifests in, engine run, status out, no cluster (`phoenix apply`).
//!
//! * [`manifests`] files → admitted objects
//! * [`foreign`] what is beside them, named
//! * [`kustomize`] a kustomization → manifests
//! * [`state`] the state folder: cluster id, status and write-ahead, each write durable before what it announces
//! * [`store`] both together as the engine's store
//! * [`run`] pollers and reconciles until everything is Ready or cannot go on
//! * [`table`] what people see

mod foreign;
pub mod gpus;
mod kustomize;
pub mod manifests;
pub(crate) mod run;
pub mod state;
pub(crate) mod store;
pub(crate) mod table;
