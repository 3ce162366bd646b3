//! What is run on a node: program, arguments and standard input, as data.
//!
//! Builders only make texts, so that they can be tried with a real shell without a node. Secrets travel through
//! standard input; arguments can be read by everybody on the node.

use std::fmt;

/// A command for a node.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Standard input.
    pub stdin: Vec<u8>,
}

impl Command {
    /// A command without standard input.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            stdin: Vec::new(),
        }
    }

    /// The command with this standard input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// The line that the node's shell gets; with `sudo` it runs as root and never asks for a password.
    pub fn line(&self, sudo: bool) -> String {
        let words = self.argv.iter().map(|word| quote(word));
        if sudo {
            ["sudo", "-n", "--"]
                .into_iter()
                .map(str::to_owned)
                .chain(words)
                .collect::<Vec<_>>()
                .join(" ")
        } else {
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

/// Standard input may hold secrets: only its size is shown.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <{} bytes", self.line(false), self.stdin.len())
    }
}

/// A value that cannot be put into a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} cannot be sent to a guest: {why}")]
pub struct InvalidCommand {
    /// What it is.
    pub what: &'static str,
    /// The value; never a secret.
    pub value: String,
    /// Why not.
    pub why: &'static str,
}

/// Quotes a word for any POSIX shell; bytes arrive as they are.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_input_is_not_shown() {
        let command = Command::new(["pct", "set", "100", "--description", "it's $(x)"]).with_stdin("s3cret");
        assert_eq!(command.line(false), r"pct set 100 --description 'it'\''s $(x)'");
        assert!(command.line(true).starts_with("sudo -n -- pct set"));
        assert!(!format!("{command:?}").contains("s3cret"));
        assert_eq!(quote(""), "''");
    }
}
