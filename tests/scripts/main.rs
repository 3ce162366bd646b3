//! What runs in guests: the scripts, with a real shell, and what cloud-init is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

mod cloud_init;
mod features;
mod guest;
mod proof;
mod vllm;
mod vllm_server;
