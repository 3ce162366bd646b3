//! As whom commands run on a node.

use super::command::Command;

/// First line of the program.
pub const HEADER: &str = "# phoenix-node: whoami";

/// Prints the user id that programs run as. It goes the way of all programs for nodes, through sudo where that is asked
/// for.
pub fn whoami() -> Command {
    Command::new(["/bin/sh", "-s"]).with_stdin(format!("{HEADER}\nid -u\n"))
}
