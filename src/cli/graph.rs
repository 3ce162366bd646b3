//! `phoenix graph`: templates, what was cloned from them, and dependencies.

use std::process::ExitCode;

use crate::graph::{Format, Graph};

use super::apply::BAD_INPUT;
use super::verbs::Place;

/// Arguments of `phoenix graph`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    /// Runs the command. With `-f` it shows what the state folder knows; nothing is asked of Proxmox.
    pub fn run(self) -> ExitCode {
        super::with_runtime(async {
            match self.place.objects().await {
                Ok(objects) => {
                    out!("{}", Graph::new(&objects).render(self.output));
                    ExitCode::SUCCESS
                }
                Err(message) => {
                    errln!("{message}");
                    ExitCode::from(BAD_INPUT)
                }
            }
        })
    }
}
