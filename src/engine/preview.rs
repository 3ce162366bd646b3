//! What a plan would do, without doing it: `phoenix plan`.

use crate::desired::{self, Blocked, Desired, GuestObject, GuestSpec, Key};
use crate::plan::{Announce, Impact, Next, Plan};
use crate::reason::Cause;

use super::Engine;
use super::store::Store;

/// What a plan would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// Steps with how hard they hit.
    pub steps: Vec<(String, Impact)>,
    /// Why nothing can be done.
    pub blocked: Option<Cause>,
}

impl<S: Store> Engine<S> {
    /// What would be done for the object, without effects.
    pub async fn preview(&self, key: &Key) -> Preview {
        let Some(object) = self.store.guest(key) else {
            return Preview::default();
        };
        let blocked = |blocked: Blocked| Preview {
            blocked: Some(blocked.cause().clone()),
            ..Preview::default()
        };
        let desired = match object.deleting {
            true => None,
            false => match desired::resolve(&object, self.store.as_ref(), &self.options.cluster_id) {
                Ok(desired) => Some(desired),
                Err(error) => return blocked(error),
            },
        };
        let connection = match self.connection_of(&object) {
            Ok(connection) => connection,
            Err(error) => return blocked(error),
        };
        let made = match connection.snapshot() {
            Ok(snapshot) => {
                let mut guard = None;
                self.make_plan(&connection, &snapshot, &object, desired.as_ref(), &mut guard, true)
                    .await
            }
            Err(problem) => Err(problem),
        };
        match made {
            Ok(plan) => preview_of(&plan, desired.as_ref(), &object),
            Err(problem) => blocked(Blocked::Waiting(problem)),
        }
    }
}

fn preview_of(plan: &Plan, desired: Option<&Desired>, object: &GuestObject) -> Preview {
    let mut preview = Preview::default();
    preview
        .steps
        .extend(plan.steps.iter().map(|s| (s.action.clone(), s.impact())));
    match &plan.next {
        Next::Run(step) => {
            let recorded = step.announce.iter().find_map(|a| match a {
                Announce::Vmid { vmid, node, adopted } => Some((vmid, node, adopted)),
                _ => None,
            });
            match (recorded, &plan.facts.source) {
                // Only the record comes before the guest: what people want to know is the guest.
                (Some((vmid, node, false)), Some(source)) => {
                    // An id that the spec does not give is only known once it is recorded.
                    let id = match object.spec_vmid() {
                        Some(_) => vmid.to_string(),
                        None => "(next free id)".into(),
                    };
                    let action = format!("create guest {id} on node {node} from {source}");
                    preview.steps.push((action, Impact::Create));
                }
                _ => preview.steps.push((step.action.clone(), step.impact())),
            }
            let creating = recorded.is_some() || step.impact() == Impact::Create;
            if let Some(desired) = desired.filter(|_| creating) {
                preview.steps.extend(after_creation(desired, object));
            }
        }
        Next::Wait { cause, .. } | Next::Stuck(cause) => preview.blocked = Some(cause.clone()),
        Next::Done | Next::Look(_) => {}
    }
    preview
}

/// What follows once a guest is there, as far as the spec says it.
fn after_creation(desired: &Desired, object: &GuestObject) -> Vec<(String, Impact)> {
    let mut steps = vec![("configure it".to_string(), Impact::Live)];
    steps.extend(
        desired
            .volumes
            .iter()
            .flatten()
            .map(|v| (format!("attach volume {} at {}", v.name, v.path), Impact::Live)),
    );
    let disks = desired.vm.iter().flat_map(|vm| vm.disks.iter().flatten()).skip(1);
    steps.extend(disks.map(|d| (format!("add disk {}", d.name), Impact::Live)));
    steps.push(("start it".into(), Impact::Live));
    steps.extend(
        desired
            .scripts
            .iter()
            .map(|s| (format!("run {}", s.name), Impact::Live)),
    );
    if matches!(object.spec, GuestSpec::Template(_)) {
        steps.push(("stop and seal the template".into(), Impact::Restart));
    }
    steps
}
