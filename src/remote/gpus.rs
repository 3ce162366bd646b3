//! The look at a node's graphics cards, as one program for the node.

use super::command::Command;

const GPUS: &str = include_str!("gpus.sh");

/// First line of the program.
pub const HEADER: &str = "# phoenix-node: gpus";

/// Where the program looks; tests have folders of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuLayout {
    /// `/sys`.
    pub sys: String,
    /// `/proc`.
    pub proc: String,
    /// `/dev`.
    pub dev: String,
    /// `/etc/pve`.
    pub pve: String,
}

impl Default for GpuLayout {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            pve: "/etc/pve".into(),
        }
    }
}

/// Looks at the cards of a node; [`crate::pve::gpu_report`] reads what it prints. It changes nothing.
pub fn look(layout: &GpuLayout) -> Command {
    let quote = super::command::quote;
    let text = format!(
        "{HEADER}\n{GPUS}\nPHOENIX_SYS={}\nPHOENIX_PROC={}\nPHOENIX_DEV={}\nPHOENIX_PVE={}\nphoenix_gpus\n",
        quote(&layout.sys),
        quote(&layout.proc),
        quote(&layout.dev),
        quote(&layout.pve)
    );
    Command::new(["/bin/sh", "-s"]).with_stdin(text)
}
