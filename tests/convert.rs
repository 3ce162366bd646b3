//! `phoenix convert`: the legacy fleet, every odd form of the legacy files, and properties over mutated files.

// A test that meets what it did not expect fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "convert/cli.rs"]
mod cli;
#[path = "convert/forms.rs"]
mod forms;
#[path = "convert/legacy.rs"]
mod legacy;
#[path = "convert/machines.rs"]
mod machines;
#[path = "convert/properties.rs"]
mod properties;
#[path = "convert/support.rs"]
mod support;
#[path = "convert/vllm.rs"]
mod vllm;
