//! Argument parsing and dispatch; one file a command.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[macro_use]
mod output;

mod about;
mod apply;
mod convert;
mod crd;
mod doctor;
mod gpus;
mod graph;
mod install;
mod into;
mod operator;
mod plan;
mod simulate;
mod verbs;

/// Turns Proxmox VE into a GitOps-managed AI fleet.
#[derive(Debug, Parser)]
#[command(name = "phoenix", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring manifests to Ready without a cluster
    Apply(apply::Args),
    /// Show what apply would change on Proxmox and how hard it hits, without doing it
    Plan(plan::Args),
    /// Show objects
    Status(verbs::StatusArgs),
    /// Start guests
    Start(verbs::Args),
    /// Shut guests down
    Stop(verbs::Args),
    /// Restart guests
    Restart(verbs::Args),
    /// Try everything at once, whatever its pauses, and run scripts again that gave up
    Reconcile(verbs::Args),
    /// Run the tests of guests and print what they say
    Test(verbs::Args),
    /// Run a command in a guest
    Exec(into::ExecArgs),
    /// Show what features, application, tests and the model server said in a guest
    Logs(into::LogsArgs),
    /// Do nothing on Proxmox for objects until they are resumed
    Pause(verbs::Args),
    /// Go on with objects that were paused
    Resume(verbs::Args),
    /// Delete objects and, as their deletionPolicy says, their guests
    Delete(verbs::Args),
    /// Show templates, their clones and dependencies as a tree or drawing
    Graph(graph::Args),
    /// Show the GPUs of the nodes, who has them, and who waits for what
    Gpus(gpus::Args),
    /// Look whether hypervisors have what they and their objects need, and tell what mends what is missing
    Doctor(doctor::Args),
    /// Print the CustomResourceDefinitions
    Crd(crd::Args),
    /// Print what Phoenix consists of in a cluster (kinds, rights, operator, features), or apply it
    Install(install::Args),
    /// Run the controllers in a Kubernetes cluster
    Operator(operator::Args),
    /// Convert the legacy JSON files to manifests
    Convert(convert::Args),
    /// Show the version, and what it was built from
    Version(about::VersionArgs),
    /// Print the completions for a shell
    Completions(about::CompletionsArgs),
    /// Write the manual pages
    Man(about::ManArgs),
    /// Run a Proxmox VE look-alike (HTTPS API and SSH) for demos and tests
    Simulate(simulate::Args),
}

impl Cli {
    /// What was typed. As `kubectl phoenix` the program calls itself so.
    pub fn read() -> Cli {
        let program = std::env::args_os().next().unwrap_or_default();
        let mut command = Cli::command();
        if std::path::Path::new(&program)
            .file_stem()
            .is_some_and(|name| name == "kubectl-phoenix")
        {
            command = command.name("kubectl-phoenix").bin_name("kubectl phoenix");
        }
        Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command; the exit code is the process's.
    pub fn run(self) -> ExitCode {
        // The operator has options for its log.
        if !matches!(self.command, Command::Operator(_)) {
            init_logging();
        }
        // One TLS provider for everything; a second call would only say that it is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match self.command {
            Command::Apply(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Start(args) => args.run(verbs::Verb::Start),
            Command::Stop(args) => args.run(verbs::Verb::Stop),
            Command::Restart(args) => args.run(verbs::Verb::Restart),
            Command::Reconcile(args) => args.run(verbs::Verb::Reconcile),
            Command::Pause(args) => args.run(verbs::Verb::Pause),
            Command::Resume(args) => args.run(verbs::Verb::Resume),
            Command::Delete(args) => args.run(verbs::Verb::Delete),
            Command::Test(args) => args.run(verbs::Verb::Test),
            Command::Exec(args) => args.run(),
            Command::Logs(args) => args.run(),
            Command::Graph(args) => args.run(),
            Command::Gpus(args) => args.run(),
            Command::Doctor(args) => args.run(),
            Command::Crd(args) => args.run(),
            Command::Install(args) => args.run(),
            Command::Operator(args) => args.run(),
            Command::Convert(args) => args.run(),
            Command::Version(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Simulate(args) => args.run(),
        }
    }
}

/// Logs go to stderr; RUST_LOG chooses which, errors alone by default.
fn init_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Runs an asynchronous command.
pub(crate) fn with_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            errln!("phoenix: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
