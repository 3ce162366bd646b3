//! What must stay while guests need it: hypervisors, the Secrets of their connections, the operator's own permissions.

pub(super) mod binding;
pub(super) mod guard;
