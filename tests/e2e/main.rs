//! End-to-end tests: a real API server, real `kubectl`, the real binary. `cargo test --test e2e` runs them alone; the
//! first run builds Kubernetes (`e2e/build-kube.sh`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what is not as expected fails the test"
)]

#[path = "../common/allow_table.rs"]
mod allow_table;
#[path = "../common/bad_manifests.rs"]
mod bad_manifests;
mod chart;
mod crds;
mod documented;
#[path = "../common/gitops.rs"]
mod evaluator;
mod examples;
mod expose;
mod fleet;
mod foundation;
mod gitops;
mod gpus;
mod guests;
mod harness;
mod inside;
mod killed;
mod life;
mod manifests;
mod refused;
mod site;
mod stale;
mod tenants;
#[path = "../common/truthful.rs"]
mod truthful;
mod uninstall;
mod verbs;
