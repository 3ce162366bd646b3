//! What the page shows of the caches.

use crate::crd::PhoenixHypervisor;
use crate::ui::view::Seen;
use crate::ui::{Live, Ui};

use super::store::KubeStore;

impl Ui for KubeStore {
    fn seen(&self) -> Seen {
        let state = self.state();
        Seen {
            guests: state.guests().map(|guest| guest.object.clone()).collect(),
            hypervisors: state.all::<PhoenixHypervisor>().map(|(_, h)| h.clone()).collect(),
            actions: self.live.actions(),
        }
    }

    fn live(&self) -> &Live {
        &self.live
    }
}
