//! `phoenix version`, `phoenix completions` and `phoenix man`: what the program says of itself.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::Cli;
use super::output::{self, Output};

/// The commit that the binary was built from; what builds releases says so.
const COMMIT: Option<&str> = option_env!("PHOENIX_COMMIT");

/// Arguments of `phoenix version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// How it is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `phoenix completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `phoenix man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder for one page a command; without it the page of `phoenix` itself is printed
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

impl VersionArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let version = env!("CARGO_PKG_VERSION");
        let commit = COMMIT.unwrap_or("unknown");
        let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
        let api = format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION);
        output::print(
            self.output,
            || json!({"version": version, "commit": commit, "platform": platform, "apiVersion": api}),
            || format!("phoenix {version}\ncommit: {commit}\nplatform: {platform}\nkinds: {api}"),
        );
        ExitCode::SUCCESS
    }
}

impl CompletionsArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "phoenix", &mut text);
        out!("{}", String::from_utf8_lossy(&text));
        ExitCode::SUCCESS
    }
}

impl ManArgs {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let written = match self.output_dir {
            Some(dir) => std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir)),
            None => {
                let mut text = Vec::new();
                let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
                out!("{}", String::from_utf8_lossy(&text));
                rendered
            }
        };
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                errln!("phoenix man: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
