//! The guest agent of a machine.

use crate::observed::{Agent, Guest};
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Next, Query, Stage};
use crate::pve::property::Properties;
use crate::reason::Reason;

impl Planner<'_> {
    /// The guest agent of a running machine answers, and the first boot is through. Waits, with a reason that tells when
    /// it takes too long.
    pub(crate) fn agent_answers(&mut self, guest: &Guest) -> Staged {
        let Some(vm) = self.desired.vm().cloned().filter(|_| guest.running) else {
            return Ok(());
        };
        let configured = guest
            .options
            .get("agent")
            .and_then(|text| Properties::of_option("agent", text).ok())
            .and_then(|p| p.get_bool("enabled"));
        if configured != Some(true) {
            return Ok(());
        }
        let stage = Stage::Running;
        let what = guest.named();
        match self.observed.agent.clone() {
            None => Err(Next::Look(Query::Agent {
                at: guest.at.clone(),
                cloud_init: vm.cloud_init.is_some() && !self.scripts_recorded(),
            })),
            Some(Ok(Agent::Answers { ip, cloud_init_done })) => {
                self.facts.ip = ip;
                if cloud_init_done == Some(false) {
                    let message = format!("cloud-init of {what} is still at work");
                    return Err(self.wait(Stage::FeaturesApplied, Reason::CloudInitRunning, message, 5));
                }
                self.ok(stage, format!("{what} runs and its guest agent answers"));
                Ok(())
            }
            Some(Ok(Agent::Silent(why))) => {
                let uptime = guest.uptime.unwrap_or(0);
                if uptime < vm.agent_deadline {
                    let message = format!("{what} runs since {uptime} s; waits for its guest agent ({why})");
                    return Err(self.wait(stage, Reason::AgentNotReady, message, 5));
                }
                let message = format!(
                    "the guest agent of {what} does not answer {uptime} s after the start ({why}): install and start qemu-guest-agent in the machine, or set agent.enabled: false"
                );
                Err(self.wait(stage, Reason::AgentSilent, message, 30))
            }
            Some(Err(failure)) => Err(self.wait(stage, failure.reason, failure.message, 10)),
        }
    }
}
