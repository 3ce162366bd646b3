//! Scripts inside real Debian containers, over a real OpenSSH server, by the real engine (e2e/node). Skipped with one
//! line where the machine cannot run containers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/engine.rs"]
mod engine;
#[path = "../common/inprocess.rs"]
mod inprocess;

mod cli;
mod faults;
mod features;
mod health;
mod legacy;
mod node;
mod scripts;
mod servers;
mod stand_ins;
mod ubuntu;
mod vllm;
mod world;
