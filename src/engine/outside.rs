//! The world outside of the engine. In service that is the network and the machine's clock; a test gives another one: a
//! simulated cluster in process, on a clock of its own.

use std::sync::Arc;

pub use crate::proxmox::carrier::{Answer, Carrier as ApiCarrier, Lost};
pub use crate::remote::Carrier as SshCarrier;

/// What the engine reaches in place of the network and the clock.
pub trait Outside: Send + Sync {
    /// Unix time in seconds.
    fn now(&self) -> i64;
    /// What carries requests to the API.
    fn api(&self) -> Arc<dyn ApiCarrier>;
    /// What runs commands on nodes.
    fn ssh(&self) -> Arc<dyn SshCarrier>;
}
