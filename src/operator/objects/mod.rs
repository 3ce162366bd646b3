//! The objects of the API server that the operator knows, and what a change of one means for others.

pub(super) mod cache;
pub(super) mod index;
pub(super) mod state;
pub(super) mod store;
pub(super) mod watch;
