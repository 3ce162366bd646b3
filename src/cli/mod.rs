//! Argument parsing and dispatch; one file a command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod convert;
pub mod crd;
pub mod operator;
pub mod simulate;

/// Turns Proxmox VE into a GitOps-managed AI fleet.
#[derive(Debug, Parser)]
#[command(name = "phoenix", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions
    Crd(crd::Args),
    /// Run the controllers in a Kubernetes cluster
    Operator(operator::Args),
    /// Convert the legacy JSON files to manifests
    Convert(convert::Args),
    /// Run a Proxmox VE look-alike (HTTPS API and SSH) for demos and tests
    Simulate(simulate::Args),
}

impl Cli {
    /// Runs the command; the exit code is the process's.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Crd(args) => args.run(),
            Command::Operator(args) => args.run(),
            Command::Convert(args) => args.run(),
            Command::Simulate(args) => args.run(),
        }
    }
}
