//! The simulator from outside: its API, its SSH servers, and how it agrees with Proxmox.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

mod api;
mod conformance;
mod oci;
mod ssh;
mod vm;
