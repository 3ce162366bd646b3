//! `phoenix convert`: the legacy fleet, every odd form of the legacy files, and properties over mutated files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

mod cli;
mod forms;
mod fuzz;
mod later_sets;
mod legacy;
#[path = "../common/legacy_scripts.rs"]
mod legacy_scripts;
mod machines;
mod properties;
mod secrets;
mod servers;
mod sets;
mod support;
mod templates;
mod vllm;
