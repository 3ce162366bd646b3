//! The `phoenix` binary: see [`phoenix::cli`].

use clap::Parser;

fn main() -> std::process::ExitCode {
    phoenix::cli::Cli::parse().run()
}
