//! cloud-init and the guest agent of a machine.

use crate::desired::{Form, WantedCloudInit, WantedVendor, WantedVm};
use crate::observed::Guest;
use crate::plan::change::{Change, change};
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Announce, Effect, Next, NodeWork, Query, Stage};
use crate::pve::ApiCall;
use crate::pve::property::Properties;
use crate::reason::Reason;
use crate::secret::Secret;

impl Planner<'_> {
    /// The password hash and the snippet are as wanted, and the drive holds what the options say.
    pub(crate) fn cloud_init(&mut self, guest: &Guest, vm: &WantedVm) -> Staged {
        let Some(init) = &vm.cloud_init else { return Ok(()) };
        let fresh = guest.stamp().is_some_and(|s| s.fresh);
        if fresh {
            self.attach_snippet(guest, init)?;
        } else {
            self.keep_snippet(guest, init)?;
        }
        if init.password.is_none() && !guest.running {
            // The drive is made anew at the next start (facts F.2).
            return Ok(());
        }
        let (pending, password) = match &self.observed.cloud_init {
            None => {
                return Err(Next::Look(Query::CloudInit {
                    at: guest.at.clone(),
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
            self.password(guest, wanted, password.as_ref())?;
        }
        if guest.running && !pending.is_empty() {
            self.unlocked(Stage::Configured, guest)?;
            let call = ApiCall::put(format!("{}/cloudinit", guest.at.path()));
            let action = format!(
                "write the cloud-init drive of {} anew ({})",
                guest.named(),
                pending.join(", ")
            );
            let announce = guest.pid.map(Announce::CloudInitWritten).into_iter().collect();
            return Err(self.run(Stage::Configured, action, announce, Effect::call(call)));
        }
        Ok(())
    }

    fn password(&mut self, guest: &Guest, wanted: &Secret, have: Option<&Secret>) -> Staged {
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
        self.apply(Stage::Configured, guest, vec![change])
    }

    /// Before the first start: the snippet lies on its storage, and the machine refers to it.
    fn attach_snippet(&mut self, guest: &Guest, init: &WantedCloudInit) -> Staged {
        let vmid = guest.at.vmid;
        let Some(vendor) = &init.vendor else { return Ok(()) };
        let Some(storage) = self.snippet_storage(guest, vendor)? else {
            return Ok(());
        };
        let volid = format!("{storage}:snippets/phoenix-{vmid}-{}.yaml", vendor.digest);
        self.write_snippet(guest, vendor, &volid)?;
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
        self.apply(Stage::Configured, guest, change.into_iter().collect())
    }

    /// What cloud-init reads at the first boot alone stays as it was then.
    pub(crate) fn first_boot_findings(&mut self, guest: &Guest, vm: &WantedVm) {
        // A changed template is built anew.
        let guest_of_its_own = self.desired.life.form == Form::Guest;
        let Some(stamp) = guest.stamp().filter(|stamp| guest_of_its_own && !stamp.fresh) else {
            return;
        };
        let mut differs = vm.first_boot.differs(&stamp.boot.unwrap_or_default());
        if let (Some(volid), Some(wanted)) = (snippet_of(guest), &vm.first_boot.storage)
            && let Some((storage, _)) = volid.split_once(':').filter(|(storage, _)| storage != wanted)
        {
            differs.push(format!("cloudInit.snippetStorage is {storage:?}, wanted {wanted:?}"));
        }
        if !differs.is_empty() {
            let message = format!(
                "{}: the machine keeps what its first boot brought; only a new machine can change it",
                differs.join("; ")
            );
            self.find_more("RecreateRequired", Reason::CreationOnly, message);
        }
    }

    /// Later the machine still needs the file at every start, on whichever node it is.
    fn keep_snippet(&mut self, guest: &Guest, init: &WantedCloudInit) -> Staged {
        match (snippet_of(guest), &init.vendor) {
            (Some(volid), Some(vendor)) => self.write_snippet(guest, vendor, &volid),
            _ => Ok(()),
        }
    }

    fn write_snippet(&mut self, guest: &Guest, vendor: &WantedVendor, volid: &str) -> Staged {
        let stage = Stage::Configured;
        match &self.observed.snippet {
            None => Err(Next::Look(Query::Snippet {
                node: guest.at.node.clone(),
                volid: volid.to_string(),
            })),
            Some(Err(failure)) => {
                let failure = failure.clone();
                Err(self.wait(stage, failure.reason, failure.message, 10))
            }
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => {
                let effect = Effect::OnNode {
                    node: guest.at.node.clone(),
                    work: NodeWork::WriteSnippet {
                        volid: volid.to_string(),
                        vendor: Box::new(vendor.clone()),
                    },
                };
                let announce = vec![Announce::Snippet(Some(volid.to_string()))];
                let action = format!("write cloud-init snippet {volid} of {}", guest.named());
                Err(self.run(stage, action, announce, effect))
            }
        }
    }

    /// The storage for snippets; `None` where there is none and nothing depends on it.
    fn snippet_storage(&mut self, guest: &Guest, vendor: &WantedVendor) -> Result<Option<String>, Next> {
        let storages = &self.observed.cluster.storages;
        let on_node = |storage: &String| storages.get(&(guest.at.node.clone(), storage.clone()));
        let takes = |row: &crate::observed::StorageRow| row.content.iter().any(|c| c == "snippets");
        let prefix = self.prefix();
        match &vendor.storage {
            Some(storage) if on_node(storage).is_none_or(takes) => {
                let field = format!("{prefix}.cloudInit.snippetStorage");
                self.storage_usable(&guest.at.node, storage, &field, "snippets")?;
                Ok(Some(storage.clone()))
            }
            Some(storage) => {
                let message = format!(
                    "{prefix}.cloudInit.snippetStorage: storage {storage:?} takes no snippets: add snippets to its content, or name another"
                );
                Err(self.stuck(Stage::Configured, Reason::InvalidSpec, message))
            }
            None => {
                let found = storages
                    .iter()
                    .find(|((node, _), row)| *node == guest.at.node && takes(row));
                let found = found.map(|((_, storage), _)| storage.clone());
                if found.is_none() && vendor.required {
                    let message = format!(
                        "{prefix}.cloudInit needs a storage with content snippets on node {}, and there is none: add snippets to the content of a directory storage",
                        guest.at.node
                    );
                    return Err(self.stuck(Stage::Configured, Reason::StorageNotFound, message));
                }
                Ok(found)
            }
        }
    }

    /// Whether the cloud-init drive was written anew while the machine runs, which reads it at its start only.
    pub(crate) fn cloud_init_unread(&self, guest: &Guest) -> bool {
        guest.running && guest.pid.is_some() && guest.pid == self.status.cloud_init_unread
    }
}

/// Volume id of the snippet that Phoenix gave to the machine.
fn snippet_of(guest: &Guest) -> Option<String> {
    let custom = Properties::parse(guest.options.get("cicustom")?, None).ok()?;
    let ours = |volid: &&str| volid.contains(&format!("phoenix-{}-", guest.at.vmid));
    custom.get("vendor").filter(ours).map(str::to_string)
}
