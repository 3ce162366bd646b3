//! The pure model: synchronous, serialisable, told the time. Files follow the API: one for each family of operations.

pub mod access;
pub mod backup;
pub mod config;
pub mod content;
pub mod download;
pub mod edits;
pub mod engine;
pub mod error;
pub mod firewall;
pub mod guest;
pub mod hook;
pub mod lxc_clone;
pub mod lxc_config;
pub mod lxc_create;
pub mod lxc_destroy;
pub mod lxc_options;
pub mod lxc_snapshot;
pub mod lxc_status;
pub mod lxc_volume;
pub mod node;
pub mod property;
pub mod state;
pub mod storage;
pub mod task;
pub mod vm;
pub mod volumes;

pub use edits::Edit;
pub use error::{ApiError, Result};
pub use guest::{Guest, GuestFile, GuestKind, GuestScript, InGuest};
pub use state::{Caller, State};
