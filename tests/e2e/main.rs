//! End-to-end tests: a real API server, real `kubectl`, the real binary. `cargo test --test e2e` runs them alone; the
//! first run builds Kubernetes (`e2e/build-kube.sh`).

mod crds;
mod foundation;
mod harness;
