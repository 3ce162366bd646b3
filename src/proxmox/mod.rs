//! Typed Proxmox VE API client.
//!
//! * [`Client`] sends [`ApiCall`]s: endpoints with fail-over and back-off, credentials, deadlines
//! * [`Error`] what may have come of a call; "the outcome is unknown" is a case of its own
//! * one file a resource for typed reads: [`cluster`], [`node`], [`guest`], [`qemu`], [`storage`], [`task`],
//!   [`firewall`]
//!
//! A write is sent once. It is sent again through another endpoint only if it certainly never arrived.

mod auth;
pub mod carrier;
pub mod cluster;
mod endpoint;
mod error;
pub mod firewall;
pub mod guest;
mod http;
mod lenient;
mod meter;
pub mod node;
pub mod qemu;
pub mod storage;
pub mod task;
mod tls;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use http::{ApiToken, Client, ConnectOptions, Login};
pub use meter::{Came, Meter};
pub use tls::Tls;

pub use crate::pve::call::ApiCall;
pub use crate::pve::upid::Upid;
pub use crate::secret::Secret;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
