//! Features, vLLM, application and tests of a guest, as the scripts that are run in it.

use super::{Blocked, GuestObject, Objects, Script};
use crate::crd::{PhoenixHypervisor, Probe};

/// The scripts of an object in the order they run: features (each after those it requires), the vLLM unit, the
/// application, the tests.
///
/// # Errors
/// Unknown features, cycles, bad parameters, missing ConfigMaps and Secrets.
pub fn scripts(
    object: &GuestObject,
    hypervisor: &PhoenixHypervisor,
    objects: &dyn Objects,
) -> Result<Vec<Script>, Blocked> {
    let _ = (object, hypervisor, objects);
    Ok(Vec::new())
}

/// The readiness probe: the object's own, else vLLM's, else the last feature's that has one.
pub fn probe(object: &GuestObject, hypervisor: &PhoenixHypervisor, objects: &dyn Objects) -> Option<Probe> {
    let _ = (object, hypervisor, objects);
    None
}

/// Program and arguments that carry out a probe inside a guest: exit code 0 is success.
pub fn probe_command(probe: &Probe) -> Vec<String> {
    let _ = probe;
    Vec::new()
}
