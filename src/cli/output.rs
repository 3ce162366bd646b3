//! What commands print. A reader that has gone, as `head` does, ends no command and is no error.

use std::fmt::Arguments;
use std::io::{self, Write};

use serde_json::Value;

use crate::convert::emit;

/// How a command writes what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON value, for programs.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints a value for programs; what is for people is asked of `table`.
pub fn print(output: Output, value: impl FnOnce() -> Value, table: impl FnOnce() -> String) {
    match output {
        Output::Table => stdout(format_args!("{}\n", table().trim_end_matches('\n'))),
        Output::Json => stdout(format_args!("{:#}\n", value())),
        Output::Yaml => stdout(format_args!("{}", emit::yaml(&value()))),
    }
}

/// Writes to stdout.
pub fn stdout(text: Arguments<'_>) {
    let _ = write(&mut io::stdout().lock(), text);
}

/// Writes to stderr.
pub fn stderr(text: Arguments<'_>) {
    let _ = write(&mut io::stderr().lock(), text);
}

fn write(to: &mut impl Write, text: Arguments<'_>) -> io::Result<()> {
    to.write_fmt(text)?;
    to.flush()
}

/// As `print!`, without its panic where nobody reads.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::output::stdout(format_args!($($text)*)) };
}

/// As `println!`, without its panic where nobody reads.
macro_rules! outln {
    () => { $crate::cli::output::stdout(format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::output::stdout(format_args!("{}\n", format_args!($($text)*))) };
}

/// As `eprint!`, without its panic where nobody reads.
macro_rules! errout {
    ($($text:tt)*) => { $crate::cli::output::stderr(format_args!($($text)*)) };
}

/// As `eprintln!`, without its panic where nobody reads.
macro_rules! errln {
    () => { $crate::cli::output::stderr(format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::output::stderr(format_args!("{}\n", format_args!($($text)*))) };
}
