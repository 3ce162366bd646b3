//! Proxmox changes no mount of a protected container (facts D.2). So protection comes after the volumes, and is taken off for
//! as long as a change of them takes.

use crate::observed::Guest;
use crate::plan::change::Change;
use crate::plan::planner::{Planner, Staged};
use crate::plan::{Effect, Next, NodeWork, Stage, calls};
use crate::pve::property::is_numbered;
use crate::reason::Reason;

const OPTION: &str = "protection";

/// Whether an effect is a change of mounts of the guest's configuration.
fn changes_mounts(effect: &Effect, guest: &Guest) -> bool {
    let mount = |key: &str| key == "rootfs" || is_numbered(key, &["mp", "unused"]);
    match effect {
        Effect::Call { call, .. } if call.path == format!("{}/config", guest.at.path()) => {
            let deleted = call.params.iter().filter(|(key, _)| key == "delete");
            let mut deleted = deleted.flat_map(|(_, keys)| keys.split(','));
            call.params.iter().any(|(key, _)| mount(key)) || deleted.any(mount)
        }
        Effect::OnNode {
            work: NodeWork::SetOptions { at, set, delete, .. },
            ..
        } => at.vmid == guest.at.vmid && (set.iter().any(|(key, _)| mount(key)) || delete.iter().any(|k| mount(k))),
        _ => false,
    }
}

impl Planner<'_> {
    /// The changes without that which protects the container, which is made when its volumes are as wanted.
    pub(super) fn protected_later(&self, changes: &mut Vec<Change>) -> Option<Change> {
        let protects = |change: &Change| change.key == OPTION && change.value.as_deref() == Some("1");
        let at = changes.iter().position(protects)?;
        Some(changes.remove(at))
    }

    /// What the volumes ask for, with the protection out of the way where it is in the way; and the protection, where they
    /// ask for nothing now.
    pub(super) fn with_protection(&mut self, guest: &Guest, volumes: Staged, protects: Option<Change>) -> Staged {
        let is_protected = guest.options.get(OPTION).is_some_and(|value| value == "1");
        match volumes {
            Err(Next::Run(step)) if is_protected && changes_mounts(&step.effect, guest) => {
                if self.desired.option(OPTION).is_none() {
                    let message = format!(
                        "{} is protected in Proxmox, which changes no volume of it then (to {}): set spec.protection, so that Phoenix takes the protection off meanwhile, or take it off yourself",
                        guest.named(),
                        step.action
                    );
                    return Err(self.stuck(Stage::VolumesReady, Reason::Protected, message));
                }
                let call = calls::put_config(guest, self.desired.channels)
                    .param(OPTION, 0)
                    .param("digest", &guest.digest);
                let action = format!("take the protection off {}, to {}", guest.named(), step.action);
                Err(self.run(Stage::VolumesReady, action, vec![], Effect::call(call)))
            }
            Err(next @ (Next::Run(_) | Next::Look(_))) => Err(next),
            volumes => {
                self.apply(Stage::Configured, guest, protects.into_iter().collect())?;
                volumes
            }
        }
    }
}
