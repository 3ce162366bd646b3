//! Membership in a pool.

use crate::plan::calls;
use crate::pve::Vmid;

use super::planner::Planner;
use super::{Next, Stage};

impl Planner<'_> {
    /// Pool membership; the row is live (facts C).
    pub(crate) fn in_pool(&mut self, vmid: Vmid) -> Result<(), Next> {
        let what = self.desired.sort().named(vmid);
        let Some(row) = self.observed.cluster.guests.get(&vmid) else {
            return Ok(());
        };
        let Some(wanted) = &self.desired.shared.pool else {
            let left = row
                .pool
                .as_ref()
                .filter(|pool| self.dropped.has(&format!("pool.{pool}")));
            let Some(pool) = left else { return Ok(()) };
            let action = format!("take {what} out of pool {pool}");
            let effect = calls::take_out_of_pool(vmid, pool);
            return Err(self.run(Stage::Configured, action, vec![], effect));
        };
        if row.pool.as_ref() == Some(wanted) {
            return Ok(());
        }
        // Without Pool.Audit no list tells that it is in a pool, and Proxmox then complains of Pool.Allocate.
        let action = match row.pool {
            Some(_) => format!("put {what} into pool {wanted}"),
            None => {
                format!("put {what} into pool {wanted} (whether it is there is seen with Pool.Audit on /pool/{wanted})")
            }
        };
        let effect = calls::put_in_pool(vmid, wanted, row.pool.is_some());
        Err(self.run(Stage::Configured, action, vec![], effect))
    }
}
