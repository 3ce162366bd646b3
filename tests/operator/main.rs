//! The whole operator in process: watches, caches, queue, Lease, finalizers and engine, between an API server and a
//! simulated cluster in memory, on a stopped clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/apiserver/mod.rs"]
mod apiserver;
#[path = "../common/fleet.rs"]
mod fleet;
#[path = "../common/inprocess.rs"]
mod inprocess;
#[path = "../common/operated.rs"]
mod operated;

mod life;
