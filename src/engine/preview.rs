//! What a plan would do, without doing it: `phoenix plan`. The same plans as of a reconcile, one after the other; what
//! their steps would have made is forecast, and everything else is looked at.

use std::collections::BTreeMap;

use crate::crd::GuestStatus;
use crate::desired::{self, Blocked, GuestObject, Key, refs};
use crate::plan::fits::MAY_NOT_FIT;
use crate::plan::{Announce, Effect, Forecast, Impact, Next, Plan, Step};
use crate::pve::Vmid;
use crate::reason::{Cause, Reason};

use super::reconcile::Reconcile;
use super::store::Store;
use super::{Engine, lock};

/// Steps and looks of one preview; more means that the plans go in circles.
const MAX_PLANS: usize = 1000;
/// Templates above each other.
const MAX_TEMPLATES: usize = 16;

/// What a plan would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// Steps with how hard they hit.
    pub steps: Vec<(String, Impact)>,
    /// Why nothing (more) can be done.
    pub blocked: Option<Cause>,
    /// What may go wrong later; it holds nothing back.
    pub warnings: Vec<String>,
}

impl<S: Store> Engine<S> {
    /// What would be done for the object, without effects.
    pub async fn preview(&self, key: &Key) -> Preview {
        let mut preview = Preview::default();
        let Some(object) = self.store.guest(key) else {
            return preview;
        };
        if let Err(blocked) = self.forecast(object, &mut preview).await {
            preview.blocked = Some(blocked.cause().clone());
        }
        preview
    }

    async fn forecast(&self, object: GuestObject, preview: &mut Preview) -> Result<(), Blocked> {
        let desired = match object.deleting {
            true => None,
            false => Some(desired::resolve(
                &object,
                self.store.as_ref(),
                &self.options.cluster_id,
            )?),
        };
        let connection = self.connection_of(&object)?;
        let snapshot = connection.snapshot().map_err(Blocked::Waiting)?;
        let (own, inherited) = (ended(&object.status), self.inherited(&object));
        let reconcile = Reconcile::new(self, &connection, &snapshot, object, desired.as_ref());
        let forecast = Forecast::new(reconcile.start_looking(), reconcile.status().into_owned());
        let scripts = desired.as_ref().map(|d| d.scripts.as_slice()).unwrap_or_default();
        let forecast = forecast.with_scripts(scripts, &own, &inherited);
        reconcile.fold(forecast, preview).await.map_err(Blocked::Waiting)
    }

    /// Scripts that ended in what the object's guest is a clone of: exit codes by hash.
    fn inherited(&self, object: &GuestObject) -> BTreeMap<String, i64> {
        let mut found = BTreeMap::new();
        let mut above = object.clone();
        for _ in 0..MAX_TEMPLATES {
            let name = above.template_ref().map(str::to_string);
            let Some(Ok(template)) = name.map(|name| refs::template(&above, &name, self.store.as_ref())) else {
                break;
            };
            found.extend(ended(&template.status));
            above = template;
        }
        found
    }
}

/// Scripts that status says have run: exit codes by hash. Of those that failed only tests are not run again.
fn ended(status: &GuestStatus) -> BTreeMap<String, i64> {
    let tests = status.tests.iter().flatten().map(|s| (s, true));
    let others = status.features.iter().flatten().chain(&status.application);
    let others = others.chain(status.server()).map(|s| (s, false));
    let code = others.chain(tests).filter_map(|(script, test)| {
        let code = script.exit_code.filter(|code| *code == 0 || test)?;
        Some((script.hash.clone()?, code))
    });
    let cleaned = status.cleaned.iter().map(|hash| (hash.clone(), 0));
    code.chain(cleaned).collect()
}

impl<S: Store> Reconcile<'_, S> {
    /// Plans, lets the step take place in the forecast, and plans again.
    async fn fold(mut self, mut forecast: Forecast, preview: &mut Preview) -> Result<(), Cause> {
        let mut shown = Shown {
            given: self.object.spec_vmid(),
            ..Shown::default()
        };
        for _ in 0..MAX_PLANS {
            self.object.status.clone_from(&forecast.status);
            forecast.observed.reserved = self.engine.reserved(&lock(&self.engine.memory), &self.object);
            let plan = self.plan(&forecast.observed, &forecast.status);
            preview.warn(&plan);
            match &plan.next {
                Next::Look(query) => {
                    if let Some(query) = forecast.answer(query.clone()) {
                        self.look(&query, &mut forecast.observed).await?;
                        forecast.correct(&query);
                    }
                }
                Next::Run(step) => {
                    let told = shown.describe(step, &plan);
                    let hash = self.desired.map(|d| d.prints.applied.as_str());
                    let before = forecast.waiting();
                    let known = forecast.carry_out(&plan, self.object.generation, hash, self.engine.now());
                    // What a running guest takes at its next start only comes with a restart, now or later.
                    let waits = forecast.waiting().difference(&before).next().is_some();
                    preview.add(told.map(|(action, impact)| match impact {
                        Impact::Live if waits => (action, Impact::Restart),
                        impact => (action, impact),
                    }));
                    if !known {
                        return Ok(());
                    }
                }
                Next::Wait { cause, .. } | Next::Stuck(cause) => {
                    preview.blocked = Some(cause.clone());
                    return Ok(());
                }
                Next::Done => return Ok(()),
            }
        }
        Err(Cause::new(Reason::InternalError, "the plan comes to no end"))
    }
}

impl Preview {
    /// Keeps what a plan warns of, each once.
    fn warn(&mut self, plan: &Plan) {
        for finding in plan.findings.iter().filter(|f| f.condition == MAY_NOT_FIT) {
            let message = finding.cause.message.clone();
            if !self.warnings.contains(&message) {
                self.warnings.push(message);
            }
        }
    }

    /// Adds a step; several of the same words in a row are one line.
    fn add(&mut self, step: Option<(String, Impact)>) {
        let step = step.filter(|step| self.steps.last() != Some(step));
        self.steps.extend(step);
    }
}

/// The words in which steps are shown.
#[derive(Default)]
struct Shown {
    /// The vmid that the spec gives.
    given: Option<Vmid>,
    /// Vmid and node that a step has chosen for a new guest.
    chosen: Option<(Vmid, String)>,
    /// The guest that a step makes: the later ones speak of it.
    made: Option<Vmid>,
}

impl Shown {
    /// A step in words; `None` where it only records something.
    fn describe(&mut self, step: &Step, plan: &Plan) -> Option<(String, Impact)> {
        for announce in &step.announce {
            if let Announce::Vmid { vmid, node, adopted } = announce {
                self.chosen = (!adopted).then(|| (*vmid, node.clone()));
            }
        }
        if step.effect == Effect::Record {
            return None;
        }
        let impact = step.impact();
        let creates = impact == Impact::Create && step.announce.contains(&Announce::CreateSent);
        if let (true, Some((vmid, node)), Some(source)) = (creates, self.chosen.take(), &plan.facts.source) {
            self.made = Some(vmid);
            // An id that the spec does not give is only known once it is recorded.
            let id = self.given.map_or("(next free id)".to_string(), |vmid| vmid.to_string());
            return Some((format!("create guest {id} on node {node} from {source}"), impact));
        }
        let action = match self.made {
            Some(vmid) => of_it(&step.action, vmid),
            None => step.action.clone(),
        };
        Some((action, impact))
    }
}

/// The same words with "it" for a guest.
fn of_it(action: &str, vmid: Vmid) -> String {
    let mut text = action.to_string();
    for noun in ["container", "VM", "template"] {
        let name = format!("{noun} {vmid}");
        let Some((before, after)) = text.split_once(&name) else {
            continue;
        };
        let another = before.ends_with("owner ") || after.starts_with(|c: char| c.is_ascii_digit());
        if !another {
            text = format!("{before}it{after}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_guest_has_no_id_yet() {
        for (action, words) in [
            ("start container 100", "start it"),
            ("run docker in VM 100", "run docker in it"),
            ("take snapshot base of template 100", "take snapshot base of it"),
            ("start container 1000", "start container 1000"),
            ("open owner container 100", "open owner container 100"),
            ("attach volume data at /data", "attach volume data at /data"),
        ] {
            assert_eq!(of_it(action, Vmid::MIN), words);
        }
    }
}
