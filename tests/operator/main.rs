//! The whole operator in process: watches, caches, queue, Lease, finalizers and engine, between an API server and a
//! simulated cluster in memory, on a stopped clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/apiserver/mod.rs"]
mod apiserver;
#[path = "../common/gitops.rs"]
mod evaluator;
#[path = "../common/fleet.rs"]
mod fleet;
#[path = "../common/inprocess.rs"]
mod inprocess;
#[path = "../common/operated/mod.rs"]
mod operated;

mod expose;
mod gitops;
mod life;
mod metrics;
mod moments;
mod seeds;
mod stale;
mod steps;
mod strangers;
mod traces;

/// Runs something in a runtime of its own, on a clock that nobody else moves: what it comes to depends on nothing else.
fn alone<T: Send, F: Future<Output = T>>(run: impl FnOnce() -> F + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| inprocess::runtime().block_on(run())).join().unwrap())
}
