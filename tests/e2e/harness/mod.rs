//! What the end-to-end tests stand on: a real API server, real `kubectl`, the operator and the simulator as processes
//! of their own. One API server serves the whole test run, every test has a namespace to itself.

pub mod cluster;
pub mod helm;
pub mod kubectl;
pub mod namespace;
pub mod pods;
pub mod process;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for. Generous: a test that fails by it has found something stuck, not
/// something slow, also on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// Asks `probe` until it answers, and fails with its last complaint if it never does.
pub fn wait_for<T, E: Display>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(e) if started.elapsed() > DEADLINE => {
                panic!("waited {} s for {what}: {e:#}", DEADLINE.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
