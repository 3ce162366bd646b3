//! The proof that the GPUs of a container work: a CUDA program in it, once after every start.

use crate::crd::{PhoenixHypervisor, RerunPolicy};
use crate::desired::{GuestObject, GuestSpec, Script, ScriptRole};

use super::Given;

/// Id of the script.
pub const ID: &str = "gpu-proof";
/// The script: POSIX shell around Python.
pub const BODY: &str = include_str!("cuda_proof.sh");
/// Seconds after which it is stopped; its own parts stop earlier.
const DEADLINE: i64 = 120;

/// The proof of a container that asks for GPUs, where commands can be run in it. A template is given no proof: what its
/// clones get are other starts, and other cards perhaps.
pub(super) fn script(object: &GuestObject, hypervisor: &PhoenixHypervisor) -> Option<Script> {
    let gpus = object.lxc()?.gpus.as_deref().unwrap_or_default();
    let guest = !matches!(object.spec, GuestSpec::Template(_));
    (guest && !gpus.is_empty() && hypervisor.spec.ssh.is_some()).then(|| {
        let given = Given {
            owner: Some(object.key.to_string()),
            ..Given::default()
        };
        Script {
            rerun: RerunPolicy::Always,
            ..given.script(ScriptRole::Proof, ID.into(), "the CUDA proof", BODY.into(), DEADLINE)
        }
    })
}
