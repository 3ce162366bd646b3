//! Running things inside guests and on nodes: SSH and `pct`.
//!
//! * [`Ssh`] runs a [`Command`] on a node: pinned host key, deadlines, bounded output; [`Running`] is one whose output
//!   comes while it runs
//! * [`runner`] scripts inside a guest that outlive the connection, with their records; files; probes
//! * [`probes`] probes of several guests at once
//! * [`logs`] what scripts and units said
//! * [`node`] `pct set`, raw `lxc.*` lines, snippets
//! * [`whoami`] as whom commands run there

mod answer;
pub(crate) mod command;
pub(crate) mod gpus;
mod known_hosts;
pub(crate) mod logs;
mod meter;
pub mod node;
mod output;
pub(crate) mod probes;
pub mod runner;
mod session;
mod ssh;
mod whoami;

#[cfg(test)]
mod tests;

pub use command::{Command, InvalidCommand};
pub use known_hosts::is_pinned;
pub use meter::Meter;
pub use output::{Captured, Output};
pub use session::{Event, Input, Running, Terminal};
pub use ssh::{Carrier, Error, Node, Ssh, SshOptions, SshTimeouts};
pub use whoami::whoami;
