//! `phoenix doctor`: whether hypervisors have what they and their objects need.

use std::process::ExitCode;

use crate::crd::PhoenixHypervisor;
use crate::desired::{GuestObject, ObjectName, Objects};
use crate::doctor::report::{self, Examined};
use crate::doctor::{Outcome, examine, overlaps};
use crate::engine::doctor;

use super::apply::BAD_INPUT;
use super::output::{self, Output};
use super::verbs::{Place, cluster};

/// Arguments of `phoenix doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Print the commands that mend what was found, for copying; none is run
    #[arg(long)]
    fix_commands: bool,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "fix_commands")]
    output: Output,
}

impl Args {
    /// Runs the command. Only reads; nothing is changed anywhere.
    pub fn run(self) -> ExitCode {
        super::with_runtime(async {
            match self.examined().await {
                Ok(all) if all.is_empty() => {
                    errln!("there is no PhoenixHypervisor to look at");
                    ExitCode::from(BAD_INPUT)
                }
                Ok(all) => {
                    match self.fix_commands {
                        true => outln!("{}", report::commands(&all)),
                        false => output::print(self.output, || report::value(&all), || report::render(&all)),
                    }
                    match report::worst(&all) {
                        Outcome::Ok | Outcome::Warn => ExitCode::SUCCESS,
                        Outcome::Unknown | Outcome::Fail => ExitCode::FAILURE,
                    }
                }
                Err(message) => {
                    errln!("{message}");
                    ExitCode::from(BAD_INPUT)
                }
            }
        })
    }

    async fn examined(&self) -> Result<Vec<Examined>, String> {
        if let Some(source) = self.place.source() {
            let opened = source.read().map_err(|e| e.to_string())?;
            let names = opened.store.hypervisors();
            let found = names
                .iter()
                .filter_map(|n| opened.store.hypervisor(&n.namespace, &n.name));
            let hypervisors: Vec<PhoenixHypervisor> = found.map(|h| PhoenixHypervisor::clone(&h)).collect();
            return Ok(look(&hypervisors, &opened.store.guests(), opened.store.as_ref()).await);
        }
        let (hypervisors, objects, secrets) = cluster::with_secrets(self.place.namespace().map(String::from)).await?;
        Ok(look(&hypervisors, &objects, &secrets).await)
    }
}

async fn look(hypervisors: &[PhoenixHypervisor], objects: &[GuestObject], secrets: &dyn Objects) -> Vec<Examined> {
    let asked = hypervisors.iter().map(|hypervisor| async move {
        let name = ObjectName::of(hypervisor);
        let own: Vec<&GuestObject> = objects.iter().filter(|o| o.hypervisor_ref() == name).collect();
        let facts = doctor::ask(hypervisor, &own, secrets, None).await;
        let checks = examine(hypervisor, &own, &facts);
        (hypervisor, facts, checks)
    });
    let found = futures::future::join_all(asked).await;
    let pairs: Vec<_> = found
        .iter()
        .map(|(hypervisor, facts, _)| (*hypervisor, facts))
        .collect();
    let beside = overlaps(&pairs);
    let examined = found.iter().zip(beside).map(|((hypervisor, _, checks), beside)| {
        let name = ObjectName::of(*hypervisor);
        Examined {
            hypervisor: format!("{}/{}", name.namespace, name.name),
            checks: checks.iter().cloned().chain(beside).collect(),
        }
    });
    examined.collect()
}
