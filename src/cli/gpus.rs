//! `phoenix gpus`: the cards of the nodes, who has them, and who waits for what.

use std::process::ExitCode;

use crate::crd::PhoenixHypervisor;
use crate::desired::{GuestObject, ObjectName, Objects};
use crate::standalone::gpus;

use super::apply::{BAD_INPUT, Source};
use super::output::{self, Output};
use super::verbs::{Place, cluster};

/// Arguments of `phoenix gpus`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    /// Runs the command. With `-f` the nodes are looked at now; nothing is changed on them.
    pub fn run(self) -> ExitCode {
        super::with_runtime(async {
            let found = match self.place.source() {
                Some(source) => look(&source).await,
                None => cluster::with_hypervisors(self.place.namespace().map(String::from)).await,
            };
            match found {
                Ok((hypervisors, objects)) => {
                    output::print(
                        self.output,
                        || gpus::value(&hypervisors, &objects),
                        || gpus::render(&hypervisors, &objects),
                    );
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

async fn look(source: &Source) -> Result<(Vec<PhoenixHypervisor>, Vec<GuestObject>), String> {
    let opened = source.read().map_err(|e| e.to_string())?;
    let mut hypervisors = Vec::new();
    for ObjectName { namespace, name } in opened.store.hypervisors() {
        let outcome = opened.engine.poll(&namespace, &name).await;
        if let Some(message) = outcome
            .status
            .message
            .as_ref()
            .filter(|_| outcome.status.gpus.is_none())
        {
            errln!("PhoenixHypervisor {namespace}/{name}: {message}");
        }
        if let Some(object) = opened.store.hypervisor(&namespace, &name) {
            let mut object = PhoenixHypervisor::clone(&object);
            object.status = Some(outcome.status);
            hypervisors.push(object);
        }
    }
    Ok((hypervisors, opened.store.guests()))
}
