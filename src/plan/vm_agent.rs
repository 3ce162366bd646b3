//! cloud-init and the guest agent of a machine.

use crate::desired::{WantedCloudInit, WantedVendor, WantedVm};
use crate::observed::{Agent, Guest};
use crate::pve::property::Properties;
use crate::secret::Secret;

use super::config::{Change, change};
use super::guest::{Planner, Staged};
use super::*;

impl Planner<'_> {
    /// The password hash and the snippet are as wanted, and the drive holds what the options say.
    pub(super) fn cloud_init(&mut self, vmid: i64, guest: &Guest, vm: &WantedVm) -> Staged {
        let Some(init) = &vm.cloud_init else { return Ok(()) };
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        if fresh {
            self.attach_snippet(vmid, guest, init)?;
        } else {
            self.keep_snippet(vmid, guest, init)?;
        }
        if init.password.is_none() && !guest.running {
            // The drive is made anew at the next start (facts F.2).
            return Ok(());
        }
        let (pending, password) = match &self.observed.cloud_init {
            None => {
                return Err(Next::Look(Query::CloudInit {
                    vmid,
                    node: guest.node.clone(),
                    password: init.password.is_some(),
                }));
            }
            Some(Err(failure)) => {
                let failure = failure.clone();
                return Err(self.wait(Stage::Configured, failure.reason, failure.message, 10));
            }
            Some(Ok(state)) => (state.pending.clone(), state.password.clone()),
        };
        if let Some(wanted) = &init.password {
            self.password(vmid, guest, wanted, password.as_ref())?;
        }
        if guest.running && !pending.is_empty() {
            self.unlocked(Stage::Configured, vmid, guest)?;
            let call = ApiCall::put(format!("{}/cloudinit", guest.path(vmid)));
            let action = format!(
                "write the cloud-init drive of {} anew ({})",
                guest.named(vmid),
                pending.join(", ")
            );
            let announce = guest.pid.map(Announce::CloudInitWritten).into_iter().collect();
            return Err(self.run(Stage::Configured, action, announce, Effect::call(call)));
        }
        Ok(())
    }

    fn password(&mut self, vmid: i64, guest: &Guest, wanted: &Secret, have: Option<&Secret>) -> Staged {
        if have == Some(wanted) {
            return Ok(());
        }
        let change = Change {
            key: "cipassword".into(),
            value: Some(wanted.expose().to_string()),
            old: None,
            root_only: false,
            field: "cloudInit.passwordHashSecretRef",
        };
        self.apply(Stage::Configured, vmid, guest, vec![change])
    }

    /// Before the first start: the snippet lies on its storage, and the machine refers to it.
    fn attach_snippet(&mut self, vmid: i64, guest: &Guest, init: &WantedCloudInit) -> Staged {
        let Some(vendor) = &init.vendor else { return Ok(()) };
        let Some(storage) = self.snippet_storage(guest, vendor)? else {
            return Ok(());
        };
        let volid = format!("{storage}:snippets/phoenix-{vmid}-{}.yaml", vendor.digest);
        self.write_snippet(vmid, guest, vendor, &volid)?;
        let mut custom = guest
            .options
            .get("cicustom")
            .and_then(|text| Properties::parse(text, None).ok())
            .unwrap_or_default();
        if custom.get("vendor") == Some(&volid) {
            return Ok(());
        }
        custom.set("vendor", &volid);
        let change = change("cloudInit", "cicustom", guest, Some(custom.to_string()));
        self.apply(Stage::Configured, vmid, guest, change.into_iter().collect())
    }

    /// Later the machine still needs the file at every start, on whichever node it is.
    fn keep_snippet(&mut self, vmid: i64, guest: &Guest, init: &WantedCloudInit) -> Staged {
        let custom = guest
            .options
            .get("cicustom")
            .and_then(|text| Properties::parse(text, None).ok());
        let volid = custom.and_then(|c| c.get("vendor").map(str::to_string));
        match (volid, &init.vendor) {
            (Some(volid), Some(vendor)) if volid.contains(&format!("phoenix-{vmid}-")) => {
                self.write_snippet(vmid, guest, vendor, &volid)
            }
            _ => Ok(()),
        }
    }

    fn write_snippet(&mut self, vmid: i64, guest: &Guest, vendor: &WantedVendor, volid: &str) -> Staged {
        let stage = Stage::Configured;
        match &self.observed.snippet {
            None => Err(Next::Look(Query::Snippet {
                node: guest.node.clone(),
                volid: volid.to_string(),
            })),
            Some(Err(failure)) => {
                let failure = failure.clone();
                Err(self.wait(stage, failure.reason, failure.message, 10))
            }
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => {
                let effect = Effect::Snippet {
                    node: guest.node.clone(),
                    volid: volid.to_string(),
                    vendor: Box::new(vendor.clone()),
                };
                let announce = vec![Announce::Snippet(Some(volid.to_string()))];
                let action = format!("write cloud-init snippet {volid} of {}", guest.named(vmid));
                Err(self.run(stage, action, announce, effect))
            }
        }
    }

    /// The storage for snippets; `None` where there is none and nothing depends on it.
    fn snippet_storage(&mut self, guest: &Guest, vendor: &WantedVendor) -> Result<Option<String>, Next> {
        let storages = &self.observed.cluster.storages;
        let on_node = |storage: &String| storages.get(&(guest.node.clone(), storage.clone()));
        let takes = |row: &crate::observed::StorageRow| row.content.iter().any(|c| c == "snippets");
        let prefix = self.prefix();
        match &vendor.storage {
            Some(storage) if on_node(storage).is_none_or(takes) => Ok(Some(storage.clone())),
            Some(storage) => {
                let message = format!(
                    "{prefix}.cloudInit.snippetStorage: storage {storage:?} takes no snippets: add snippets to its content, or name another"
                );
                Err(self.stuck(Stage::Configured, "InvalidSpec", message))
            }
            None => {
                let found = storages
                    .iter()
                    .find(|((node, _), row)| *node == guest.node && takes(row));
                let found = found.map(|((_, storage), _)| storage.clone());
                if found.is_none() && vendor.required {
                    let message = format!(
                        "{prefix}.cloudInit needs a storage with content snippets on node {}, and there is none: add snippets to the content of a directory storage",
                        guest.node
                    );
                    return Err(self.stuck(Stage::Configured, "StorageNotFound", message));
                }
                Ok(found)
            }
        }
    }

    /// Whether the cloud-init drive was written anew while the machine runs, which reads it at its start only.
    pub(super) fn cloud_init_unread(&self, guest: &Guest) -> bool {
        guest.running && guest.pid.is_some() && guest.pid == self.status.cloud_init_unread
    }

    /// The guest agent of a running machine answers, and the first boot is through. Waits, with a reason that tells when
    /// it takes too long.
    pub(super) fn agent_answers(&mut self, vmid: i64, guest: &Guest) -> Staged {
        let Some(vm) = self.desired.vm.clone().filter(|_| guest.running) else {
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
        let what = guest.named(vmid);
        match self.observed.agent.clone() {
            None => Err(Next::Look(Query::Agent {
                vmid,
                node: guest.node.clone(),
                cloud_init: vm.cloud_init.is_some() && !self.scripts_recorded(),
            })),
            Some(Ok(Agent::Answers { ip, cloud_init_done })) => {
                self.facts.ip = ip;
                if cloud_init_done == Some(false) {
                    let message = format!("cloud-init of {what} is still at work");
                    return Err(self.wait(Stage::FeaturesApplied, "CloudInitRunning", message, 5));
                }
                self.ok(stage, format!("{what} runs and its guest agent answers"));
                Ok(())
            }
            Some(Ok(Agent::Silent(why))) => {
                let uptime = guest.uptime.unwrap_or(0);
                if uptime < vm.agent_deadline {
                    let message = format!("{what} runs since {uptime} s; waits for its guest agent ({why})");
                    return Err(self.wait(stage, "AgentNotReady", message, 5));
                }
                let message = format!(
                    "the guest agent of {what} does not answer {uptime} s after the start ({why}): install and start qemu-guest-agent in the machine, or set agent.enabled: false"
                );
                Err(self.wait(stage, "AgentSilent", message, 30))
            }
            Some(Err(failure)) => Err(self.wait(stage, failure.reason, failure.message, 10)),
        }
    }

    /// Path of the guest's fields in messages.
    pub(super) fn prefix(&self) -> &'static str {
        match (&self.desired.form, self.desired.type_) {
            (crate::desired::Form::Guest, _) => "spec",
            (_, GuestType::Lxc) => "spec.lxc",
            (_, GuestType::Qemu) => "spec.vm",
        }
    }
}
