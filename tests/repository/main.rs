//! What the repository holds agrees with the code: generated definitions, documentation, tables of manifests, workflows, and the
//! rules for imports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is the report"
)]

#[path = "../common/bad_manifests.rs"]
mod bad_manifests;

mod admission;
mod api_life;
mod crds;
mod docs;
mod evidence;
mod imports;
mod monitoring;
mod release;
