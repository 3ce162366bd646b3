//! Ranges of ids: apart from each other, and with room.

use crate::crd::{IdRange, PhoenixHypervisor, PhoenixHypervisorSpec};
use crate::desired::ObjectName;

use super::facts::Facts;
use super::{Check, Outcome};

/// Free ids below which it is told.
const FEW: u64 = 5;

fn ranges(spec: &PhoenixHypervisorSpec) -> Vec<(&'static str, &IdRange)> {
    let guests = spec.vmid_range.as_ref().map(|range| ("spec.vmidRange", range));
    let owners = spec
        .volume_owners
        .as_ref()
        .map(|owners| ("spec.volumeOwners.idRange", &owners.id_range));
    guests.into_iter().chain(owners).collect()
}

fn words(range: &IdRange) -> String {
    format!("{}-{}", range.start, range.end)
}

fn meet(a: &IdRange, b: &IdRange) -> bool {
    a.start <= b.end && b.start <= a.end
}

/// Ranges of one hypervisor.
pub fn of_spec(spec: &PhoenixHypervisorSpec, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let ranges = ranges(spec);
    if let [(a, first), (b, second)] = &ranges[..] {
        checks.push(match meet(first, second) {
            true => {
                let message = format!(
                    "{a} {} and {b} {} overlap: give them separate ids",
                    words(first),
                    words(second)
                );
                Check::new("id ranges", Outcome::Fail, message).blocks([(*a).into(), (*b).into()])
            }
            false => Check::new("id ranges", Outcome::Ok, "vmidRange and volumeOwners.idRange are apart"),
        });
    }
    for (field, range) in ranges {
        let name = format!("ids of {field}");
        let guests = match &facts.guests {
            Ok(guests) => guests,
            Err(why) => {
                checks.push(Check::new(
                    name,
                    Outcome::Unknown,
                    format!("the guests were not read: {why}"),
                ));
                continue;
            }
        };
        let (first, last) = range.ids();
        if first > last {
            let message = format!(
                "{field}: {} holds no id of a guest: choose ids from 100 on",
                words(range)
            );
            checks.push(Check::new(name, Outcome::Fail, message).blocks([field.into()]));
            continue;
        }
        let used = guests.range(first..=last).count() as u64;
        let all = (i64::from(last) - i64::from(first)).unsigned_abs() + 1;
        let free = all.saturating_sub(used);
        let told = format!("{field}: {free} of {all} ids of {} are free", words(range));
        checks.push(match free {
            0 => Check::new(name, Outcome::Fail, format!("{told}: make the range larger")).blocks([field.into()]),
            _ if free < FEW => {
                Check::new(name, Outcome::Warn, format!("{told}: make the range larger")).blocks([field.into()])
            }
            _ => Check::new(name, Outcome::Ok, format!("{free} of {all} are free")),
        });
    }
    checks
}

/// Whether two hypervisors are one Proxmox cluster: the same certificate authority, or an endpoint in common.
fn same(a: (&PhoenixHypervisor, &Facts), b: (&PhoenixHypervisor, &Facts)) -> bool {
    let by_ca = a.1.ca().is_some() && a.1.ca() == b.1.ca();
    by_ca || a.0.spec.endpoints.iter().any(|url| b.0.spec.endpoints.contains(url))
}

/// Ranges that overlap with those of other hypervisors that are the same Proxmox cluster: a check for each hypervisor that
/// has such a neighbour.
pub fn overlaps(all: &[(&PhoenixHypervisor, &Facts)]) -> Vec<Vec<Check>> {
    let mut checks = vec![Vec::new(); all.len()];
    for (at, one) in all.iter().enumerate() {
        for (_, other) in all.iter().enumerate().filter(|(n, _)| *n != at) {
            if !same(*one, *other) {
                continue;
            }
            let name = ObjectName::of(other.0);
            let title = format!("ids beside {}/{}", name.namespace, name.name);
            let theirs = ranges(&other.0.spec);
            let both = ranges(&one.0.spec)
                .into_iter()
                .find_map(|own| Some((own, theirs.iter().find(|their| meet(own.1, their.1))?)));
            checks[at].push(match both {
                None => Check::new(title, Outcome::Ok, "the same cluster, with ids apart"),
                Some(((own, range), (their, their_range))) => {
                    let message = format!(
                        "{own} {} overlaps with {their} {} of {}/{}, which is the same Proxmox cluster: give them separate ids",
                        words(range),
                        words(their_range),
                        name.namespace,
                        name.name
                    );
                    Check::new(title, Outcome::Fail, message).blocks([own.to_string()])
                }
            });
        }
    }
    checks
}
