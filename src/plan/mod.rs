//! Desired, Observed and the time decide what to do next.

pub mod call;
pub mod upid;
