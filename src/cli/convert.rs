//! `phoenix convert`.

use std::process::ExitCode;

/// Arguments of `phoenix convert`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}
