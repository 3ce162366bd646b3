//! Proxmox's vocabulary: guests, calls, task ids, property strings and sizes, as everybody here speaks of them. It knows
//! nothing of objects, plans or connections.

pub mod call;
pub mod gpu;
pub mod gpu_report;
pub mod guest;
pub mod options;
pub mod property;
pub mod size;
pub mod units;
pub mod upid;
pub mod volid;

pub use call::ApiCall;
pub use guest::{GuestRef, GuestType, Vmid};
pub use size::DiskSize;
