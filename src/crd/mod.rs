//! What users write: the five kinds, one file each, with the types they share and their status.
//!
//! [`all`] generates the CustomResourceDefinitions; `crds/` holds them and a test compares.

// Print columns repeat words such as "string" within one attribute, which the lint takes for a mistake.
#![allow(clippy::duplicated_attributes)]

mod common;
mod feature;
mod generate;
mod gpu;
mod guest;
mod host;
mod hypervisor;
mod lxc;
mod model_server;
mod reference;
mod schema;
pub(crate) mod status;
mod template;
mod vm;
mod vm_hardware;

pub use common::*;
pub use feature::*;
pub use generate::{all, schemas, to_yaml};
pub use gpu::*;
pub use guest::GuestFields;
pub use host::*;
pub use hypervisor::*;
pub use lxc::*;
pub use model_server::*;
pub use reference::reference;
pub use status::{
    FailingStep, FeatureStatus, GuestStatus, HypervisorStatus, RestartStatus, RevisionStatus, ScriptStatus,
    StartStatus, TaskStatus, VolumeStatus,
};
pub use template::*;
pub use vm::*;
pub use vm_hardware::*;

/// API group of all kinds.
pub const GROUP: &str = "phoenix-hypervisor.io";
/// API version of all kinds.
pub const VERSION: &str = "v1alpha1";
/// Finalizer that Phoenix sets before its first write to Proxmox.
pub const FINALIZER: &str = "phoenix-hypervisor.io/finalizer";
/// Annotation: adopt the existing guest with this vmid (promise 1).
pub const ADOPT: &str = "phoenix-hypervisor.io/adopt";
/// Annotation: write the stamp anew on the object's guest with this vmid, which lost it (promise 1).
pub const RESTAMP: &str = "phoenix-hypervisor.io/restamp";
/// Annotation: let the object go without touching Proxmox (promise 5); its value is the vmid.
pub const ABANDON: &str = "phoenix-hypervisor.io/abandon";
/// Annotation: `"true"` says that another guest has the same address or MAC on purpose.
pub const SHARED_ADDRESS: &str = "phoenix-hypervisor.io/shared-address";
/// Annotation: restart the guest once for each new value.
pub const RESTARTED_AT: &str = "phoenix-hypervisor.io/restartedAt";
/// Annotation: run the guest's tests once for each new value.
pub const RUN_TESTS: &str = "phoenix-hypervisor.io/runTests";
/// Annotation: try everything at once, whatever its pauses, once for each new value; scripts that gave up are run again.
pub const RECONCILE: &str = "phoenix-hypervisor.io/reconcile";
/// Annotation: `"true"` stops everything that Phoenix would do on Proxmox for the object, or for all objects of a
/// PhoenixHypervisor, until it is taken away. Work that Proxmox has begun ends.
pub const PAUSED: &str = "phoenix-hypervisor.io/paused";
/// Annotation on a PhoenixHypervisor: which driver cards may be bound to beside the one that they have, as a list of
/// `NODE/ADDRESS=vfio` (a machine may take it from the node's driver) and `NODE/ADDRESS=nvidia` (a container may take it
/// back), separated by commas.
pub const GPU_DRIVER: &str = "phoenix-hypervisor.io/gpu-driver";
/// Annotation: stop the script with this hash, and do not run it again while the annotation is there.
pub const CANCEL: &str = "phoenix-hypervisor.io/cancel";
/// Annotation: destroy the guest and make it anew (promise 4); its value is the one that the condition `RecreateRequired`
/// shows, and works once.
pub const RECREATE: &str = "phoenix-hypervisor.io/recreate";
/// Annotation on a PhoenixTemplate: build a new revision once for each new value, from the present revision of its parent.
pub const REBUILD: &str = "phoenix-hypervisor.io/rebuild";
/// Proxmox tasks that Phoenix keeps running on one node where `limits.parallelTasksPerNode` says nothing.
pub const GUEST_TASKS_DEFAULT: usize = 4;
