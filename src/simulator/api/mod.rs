//! The API: transport rules, authentication, order of checks, and a handler for each simulated method.

pub mod auth;
pub mod call;
pub mod dispatch;
pub mod http;
pub mod permissions;
pub mod routes;

mod access;
mod access_users;
mod backup;
mod cluster;
mod firewall;
mod firewall_rules;
mod index;
mod lxc;
mod lxc_status;
mod mapping;
mod node_info;
mod nodes;
mod oci;
mod pools;
mod qemu;
mod qemu_agent;
mod qemu_monitor;
mod qemu_status;
mod resources;
mod routes_qemu;
mod storage;
mod tasks;

pub use http::{HttpReply, HttpRequest};
