//! The address of a guest that was started a moment ago.

use crate::observed::{Agent, Guest};
use crate::pve::GuestType;
use crate::reason::Reason;

use super::Stage;
use super::planner::{Planner, Staged};

/// Seconds since its start for which a guest without an address is not Ready.
const ADDRESS_WAIT: i64 = 12;
/// Seconds since its start for which it is looked at again, and how often.
const ADDRESS_LOOKS: i64 = 300;
const ADDRESS_AGAIN: i64 = 30;

impl Planner<'_> {
    /// A DHCP server gives an address a moment after the start. It is waited for a little; after that the guest is Ready
    /// without one, and looked at again for some minutes.
    pub(crate) fn addressed(&mut self, guest: &Guest) -> Staged {
        let asks = |net: &&str| {
            ["ip=dhcp", "ip6=dhcp", "ip6=auto"]
                .iter()
                .any(|ip| net.split(',').any(|p| p == *ip))
        };
        let asked = match guest.at.sort {
            GuestType::Lxc => guest.numbered("net").values().any(asks),
            GuestType::Qemu => {
                let answers = matches!(self.observed.agent, Some(Ok(Agent::Answers { .. })));
                answers && !guest.numbered("net").is_empty()
            }
        };
        let Some(uptime) = guest
            .uptime
            .filter(|_| guest.running && asked && self.facts.ip.is_none())
        else {
            return Ok(());
        };
        if uptime < ADDRESS_WAIT {
            let message = format!("waits for the address of the guest, which was started {uptime} s ago");
            return Err(self.wait(Stage::Running, Reason::AddressPending, message, 2));
        }
        if uptime < ADDRESS_LOOKS {
            self.facts.look_again = Some(ADDRESS_AGAIN);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::GuestStatus;
    use crate::desired::{resolve, testing};
    use crate::observed::{GuestRead, Observed};
    use crate::plan::guest::plan;
    use crate::plan::planner::Input;
    use crate::plan::{Next, Plan, TAG};
    use crate::pve::{GuestRef, Vmid};

    const MANIFESTS: &str = "
kind: PhoenixHypervisor
metadata: {name: pve}
spec: {endpoints: ['https://pve:8006'], credentials: {tokenSecretRef: {name: token}}}
---
kind: PhoenixLXC
metadata: {name: a}
spec: {hypervisorRef: {name: pve}}
";

    /// The plan for a container that asks a DHCP server and was started so many seconds ago.
    fn started(uptime: i64, ip: Option<&str>) -> Plan {
        let objects = testing::objects(MANIFESTS);
        let object = testing::lxc(&objects, "a");
        let desired = resolve(&object, &objects, "c1").unwrap();
        let options = [
            ("description", desired.stamp(Vmid::nearest(100)).to_string()),
            ("tags", TAG.to_string()),
            ("net0", "name=eth0,bridge=vmbr0,ip=dhcp".to_string()),
        ];
        let guest = Guest {
            options: options.map(|(k, v)| (k.to_string(), v)).into(),
            running: true,
            uptime: Some(uptime),
            ip: ip.map(str::to_string),
            ..Guest::new(GuestRef::new(GuestType::Lxc, Vmid::MIN, "n"))
        };
        let observed = Observed {
            guest: Some(GuestRead::Present(Box::new(guest))),
            ..Observed::default()
        };
        let status = GuestStatus {
            vmid: Some(100),
            create_sent: Some(true),
            ..GuestStatus::default()
        };
        plan(Input {
            desired: &desired,
            dependencies: &|| Ok(()),
            conflicts: &[],
            observed: &observed,
            status: &status,
            now: 0,
            clock: 0,
        })
    }

    #[test]
    fn an_address_of_a_dhcp_server_is_waited_for_a_little() {
        for (uptime, ip, waits, looks_again) in [
            (3, None, true, false),
            (3, Some("10.0.0.9"), false, true),
            (30, Some("10.0.0.9"), false, false),
            (20, None, false, true),
            (400, None, false, false),
        ] {
            let plan = started(uptime, ip);
            let reason = match &plan.next {
                Next::Wait { cause, .. } => Some(cause.reason),
                Next::Done => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(reason, waits.then_some(Reason::AddressPending), "{uptime} {ip:?}");
            assert_eq!(plan.facts.look_again.is_some(), looks_again, "{uptime} {ip:?}");
            // Only what is at rest is looked at no more.
            assert_eq!(plan.facts.verified.is_some(), !waits && !looks_again);
        }
    }
}
