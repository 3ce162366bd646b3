//! `phoenix` without a cluster, as people use it: the real binary against a simulator in this process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/bad_manifests.rs"]
mod bad_manifests;
mod cli;
mod doctor;
mod gitops;
mod lifecycle;
mod site;
mod verbs;
mod verdicts;
