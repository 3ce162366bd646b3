//! The `phoenix` binary: see [`phoenix::cli`].

fn main() -> std::process::ExitCode {
    phoenix::cli::Cli::read().run()
}
