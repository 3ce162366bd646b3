//! The SSH server of a look-alike's nodes.
//!
//! It runs nothing. A command is understood ([`commands`]) or ends with exit code 127; what is piped into a guest is
//! recognised by its first line ([`runner`]). Faults come from the state ([`SshState`]), so that whatever can change
//! the state can inject them.

pub mod commands;
mod gpus;
pub mod node_files;
pub mod probes;
pub mod qm;
pub mod raw_lines;
pub mod runner;
mod server;
pub mod snippets;
mod state;
mod words;

pub use server::{SshConfig, SshEntry, SshServer};
pub use state::{SshAction, SshFault, SshState};

/// A command as it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Who logged in.
    pub user: String,
    /// The node that was reached; none when one server stands for all.
    pub node: Option<String>,
    /// The command line.
    pub line: String,
    /// Standard input.
    pub stdin: Vec<u8>,
}

/// How a command ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Exit code.
    pub exit: u32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// It only failed because somebody holds the config file: it is tried again for a while.
    pub wait: bool,
    /// More of standard output, each after so many milliseconds.
    pub later: Vec<(u64, String)>,
    /// The connection is cut without an answer.
    pub cut: bool,
    /// How long the command takes, in milliseconds.
    pub takes: u64,
}
