//! `phoenix crd`.

use std::process::ExitCode;

/// Arguments of `phoenix crd`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}
