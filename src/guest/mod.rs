//! Running things inside guests and on nodes: SSH and `pct`.
//!
//! * [`Ssh`] runs a [`Command`] on a node: pinned host key, deadlines, bounded output
//! * [`runner`] scripts inside a guest that outlive the connection, with their records; files; probes
//! * [`probes`] probes of several guests at once
//! * [`node`] `pct set`, raw `lxc.*` lines, GPUs, config versions

mod answer;
pub mod command;
mod known_hosts;
pub mod node;
mod output;
pub mod probes;
pub mod runner;
mod ssh;

#[cfg(test)]
mod tests;

pub use command::{Command, InvalidCommand};
pub use output::{Captured, Output};
pub use ssh::{Error, Node, Ssh, SshOptions, SshTimeouts};
