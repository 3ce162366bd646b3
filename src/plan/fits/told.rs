//! Where the estimate is told: in a condition beside Ready, which `phoenix plan` shows as well.

use crate::desired::{Form, WantedLxc};
use crate::observed::Given;
use crate::plan::planner::Planner;
use crate::reason::Reason;

/// The condition of a server that may not fit. It holds nothing back.
pub const MAY_NOT_FIT: &str = "ModelMayNotFit";

impl Planner<'_> {
    /// Says before the start whether the container's vLLM server may be too large for the cards that it was given.
    pub(crate) fn tell_fit(&mut self, lxc: &WantedLxc, given: &[Given]) {
        let Some(server) = lxc.server.as_ref().filter(|_| self.desired.life.form == Form::Guest) else {
            return;
        };
        let cards: Vec<Option<u64>> = given.iter().map(|given| given.memory_mib).collect();
        let estimate = super::estimate(server, &cards);
        if let Some(message) = estimate.and_then(|found| found.warning(self.prefix(), &server.model)) {
            self.find_more(MAY_NOT_FIT, Reason::ModelMayNotFit, message);
        }
    }
}
