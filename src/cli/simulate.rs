//! `phoenix simulate`.

use std::process::ExitCode;

/// Arguments of `phoenix simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}
