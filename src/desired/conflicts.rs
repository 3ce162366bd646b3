//! What two guests of one hypervisor cannot both have. Of an address or MAC on one bridge and VLAN, who has it keeps it,
//! and who comes later waits, unless an annotation of either says that it is meant (as for an address that moves between
//! two guests). An existing volume that is an image is refused to the later one.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::crd::{GuestKind, Network, PowerState, SHARED_ADDRESS};
use crate::pve::volid::is_image;
use crate::reason::Reason;

use super::{Blocked, GuestObject, GuestSpec, Objects, Ref};

/// What two guests cannot both have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Ip(IpAddr),
    /// In lower case.
    Mac(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Ip(ip) => ip.fmt(f),
            Value::Mac(mac) => mac.fmt(f),
        }
    }
}

/// An address or MAC that a spec gives to an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    value: Value,
    /// `None` is the hypervisor's default.
    bridge: Option<String>,
    vlan: Option<i64>,
    interface: String,
    field: &'static str,
}

/// Another guest asks for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Field, value, whose it is too, and what to do.
    pub message: String,
    /// Whether the other one has it, or comes first.
    pub waits: bool,
}

/// What the spec of a guest that is to run gives to its interfaces. A template runs only while it is built, and its
/// address is not that of its clones.
fn claims(object: &GuestObject) -> BTreeSet<Claim> {
    let runs = object.key.kind != GuestKind::PhoenixTemplate && object.power_state() != Some(PowerState::Stopped);
    let networks = object.shared().and_then(|guest| guest.network.as_deref());
    let networks = networks.filter(|_| runs).unwrap_or_default();
    networks.iter().flat_map(of_interface).collect()
}

fn of_interface(network: &Network) -> impl Iterator<Item = Claim> {
    let ip = |text: &Option<String>| {
        let (address, _) = text.as_deref()?.split_once('/')?;
        address.parse().ok().map(Value::Ip)
    };
    let mac = network.mac.as_ref().map(|mac| Value::Mac(mac.to_ascii_lowercase()));
    let values = [("ip", ip(&network.ip)), ("ip6", ip(&network.ip6)), ("mac", mac)];
    values.into_iter().filter_map(|(field, value)| {
        Some(Claim {
            value: value?,
            bridge: network.bridge.clone(),
            vlan: network.vlan,
            interface: network.name.clone(),
            field,
        })
    })
}

/// Whether two claims meet, where a claim without a bridge is on this one.
fn meet(a: &Claim, b: &Claim, default: Option<&str>) -> bool {
    let bridge = |claim: &'_ Claim| claim.bridge.as_deref().or(default).map(str::to_string);
    a.value == b.value && a.vlan == b.vlan && bridge(a) == bridge(b)
}

/// Addresses and MACs of a guest that is to run: objects that have one in common may be in conflict.
pub(crate) fn addresses(object: &GuestObject) -> BTreeSet<String> {
    let claims = claims(object).into_iter();
    claims.map(|claim| claim.value.to_string()).collect()
}

/// Addresses, MACs and images of existing volumes: objects that have one in common are looked at when one changes.
pub(crate) fn claimed(object: &GuestObject) -> BTreeSet<String> {
    let images = images(object).into_iter().map(|(_, volid)| volid.to_string());
    addresses(object).into_iter().chain(images).collect()
}

/// Volumes that exist and are images, which only one container can have, with the names of their entries.
fn images(object: &GuestObject) -> Vec<(&str, &str)> {
    let volumes = match &object.spec {
        GuestSpec::Lxc(spec) => spec.volumes.as_deref().unwrap_or_default(),
        _ => &[],
    };
    let existing = volumes
        .iter()
        .filter_map(|v| Some((v.name.as_str(), v.volid.as_deref()?)));
    existing.filter(|(_, volid)| is_image(volid)).collect()
}

/// Looks at the other objects that claim one of these values.
fn claimants(
    object: &GuestObject,
    values: impl Iterator<Item = String>,
    objects: &dyn Objects,
    look: &mut dyn FnMut(&GuestObject),
) {
    let values: Vec<Ref> = values.map(Ref::Address).collect();
    let mut found = BTreeSet::new();
    objects.look_at_index(&mut |index| found.extend(values.iter().flat_map(|v| index.referrers(v)).cloned()));
    found.remove(&object.key);
    found.iter().for_each(|key| objects.look_at(key, look));
}

/// Refuses an image that an object names which has it already, or is older.
pub(super) fn image_is_of_one(object: &GuestObject, objects: &dyn Objects) -> Result<(), Blocked> {
    let own = images(object);
    if own.is_empty() {
        return Ok(());
    }
    let hypervisor = object.hypervisor_ref();
    let rank = |object: &GuestObject, volid: &str| {
        let mut recorded = object.status.volumes.iter().flatten();
        let has = recorded.any(|v| v.volid.as_deref() == Some(volid));
        (!has, object.created.unwrap_or(i64::MAX), object.key.clone())
    };
    let mut first = None;
    let volids = own.iter().map(|(_, volid)| volid.to_string());
    claimants(object, volids, objects, &mut |other| {
        if other.hypervisor_ref() != hypervisor || other.is_tenants() {
            return;
        }
        for (name, volid) in &own {
            let named = images(other).iter().any(|(_, theirs)| theirs == volid);
            if named && rank(other, volid) < rank(object, volid) {
                first.get_or_insert_with(|| (name.to_string(), volid.to_string(), other.key.to_string()));
            }
        }
    });
    match first {
        None => Ok(()),
        Some((name, volid, other)) => Err(Blocked::stalled(
            Reason::VolumeHeld,
            format!(
                "spec.volumes[{name}].volid: {volid} is an image, which only one container can have, and {other} names it, too: take it out of one of the two"
            ),
        )),
    }
}

/// Whether an object says that it shares addresses on purpose.
fn shares(object: &GuestObject) -> bool {
    object
        .annotations
        .get(SHARED_ADDRESS)
        .is_some_and(|value| value == "true")
}

/// Who of two comes first: who has it in force, then whose guest was made, then whose object is older.
fn first(a: &GuestObject, b: &GuestObject, value: &Value) -> Ordering {
    let rank = |object: &GuestObject| {
        let ip = object.status.ip.as_deref().and_then(|ip| ip.parse().ok());
        let has = object.is_ready() || ip.is_some_and(|ip| *value == Value::Ip(ip));
        let made = object.status.was_made();
        (!has, !made, object.created.unwrap_or(i64::MAX), object.key.clone())
    };
    rank(a).cmp(&rank(b))
}

/// What this object asks for that another one of its hypervisor asks for too, in the order of its fields.
pub fn conflicts(object: &GuestObject, objects: &dyn Objects) -> Vec<Conflict> {
    let own = claims(object);
    if own.is_empty() || shares(object) {
        return Vec::new();
    }
    let hypervisor = object.hypervisor_ref();
    let found = objects.hypervisor(&hypervisor.namespace, &hypervisor.name);
    let default = found.as_ref().and_then(|h| h.spec.defaults.as_ref()?.bridge.as_deref());
    let mut conflicts = Vec::new();
    let values = own.iter().map(|claim| claim.value.to_string());
    claimants(object, values, objects, &mut |other| {
        if other.hypervisor_ref() != hypervisor || shares(other) {
            return;
        }
        let theirs = claims(other);
        for claim in &own {
            if theirs.iter().any(|c| meet(claim, c, default)) {
                let waits = first(other, object, &claim.value) == Ordering::Less;
                let message = words(object, claim, other, !object.is_tenants());
                conflicts.push((other.key.clone(), Conflict { message, waits }));
            }
        }
    });
    conflicts.sort_by(|(a, x), (b, y)| (!x.waits, a, &x.message).cmp(&(!y.waits, b, &y.message)));
    conflicts.into_iter().map(|(_, conflict)| conflict).collect()
}

/// An object of another namespace is named only to the hypervisor's own.
fn words(object: &GuestObject, claim: &Claim, other: &GuestObject, owner: bool) -> String {
    let whose = match owner || other.key.namespace == object.key.namespace {
        true => other.key.to_string(),
        false => "an object of another namespace".to_string(),
    };
    let (value, prefix) = (&claim.value, object.field_prefix());
    let (interface, field) = (&claim.interface, claim.field);
    format!(
        "{prefix}.network[{interface}].{field}: {value} is also that of {whose}: change one of the two, or say with the \
         annotation {SHARED_ADDRESS}: \"true\" that it is meant"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::crd::PhoenixLXC;
    use crate::desired::MemoryObjects;

    fn guest(name: &str, network: Json, extra: Json) -> GuestObject {
        let mut object = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": name},
            "spec": {"hypervisorRef": {"name": "pve"}, "network": [network]}
        });
        for (key, value) in extra.as_object().unwrap() {
            object[key] = value.clone();
        }
        GuestObject::from(&serde_json::from_value::<PhoenixLXC>(object).unwrap())
    }

    fn pve() -> MemoryObjects {
        let objects = MemoryObjects::new();
        let hypervisor = json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
            "metadata": {"namespace": "ai", "name": "pve"},
            "spec": {"endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "t"}},
                "defaults": {"bridge": "vmbr0"}}
        });
        objects.insert_hypervisor(serde_json::from_value(hypervisor).unwrap());
        objects
    }

    /// Whether `a` is in conflict with `b`, by interface.
    fn meets(a: Json, b: Json) -> bool {
        let objects = pve();
        let a = guest("a", a, json!({}));
        objects.insert_guest(guest("b", b, json!({})));
        !conflicts(&a, &objects).is_empty()
    }

    #[test]
    fn one_address_on_one_bridge_and_vlan_is_a_conflict() {
        let eth = |fields: Json| {
            let mut net = json!({"name": "eth0"});
            for (key, value) in fields.as_object().unwrap() {
                net[key] = value.clone();
            }
            net
        };
        let one = || eth(json!({"ip": "10.0.0.5/24"}));
        assert!(meets(
            one(),
            json!({"name": "eth7", "ip": "10.0.0.5/16", "bridge": "vmbr0"})
        ));
        assert!(meets(
            eth(json!({"ip6": "fd00::5/64"})),
            eth(json!({"ip6": "fd00:0:0::0005/64"}))
        ));
        assert!(meets(
            eth(json!({"mac": "BC:24:11:00:00:01"})),
            eth(json!({"mac": "bc:24:11:00:00:01", "ip": "dhcp"}))
        ));
        assert!(!meets(one(), eth(json!({"ip": "10.0.0.6/24"}))));
        assert!(!meets(one(), eth(json!({"ip": "10.0.0.5/24", "bridge": "vmbr1"}))));
        assert!(!meets(one(), eth(json!({"ip": "10.0.0.5/24", "vlan": 20}))));
        assert!(!meets(eth(json!({"ip": "dhcp"})), eth(json!({"ip": "dhcp"}))));
    }

    #[test]
    fn who_has_it_keeps_it_and_who_comes_later_waits() {
        let net = || json!({"name": "eth0", "ip": "10.0.0.5/24"});
        let objects = pve();
        let (young, old) = (guest("a", net(), json!({})), guest("b", net(), json!({})));
        let aged = |object: GuestObject, created| GuestObject {
            created: Some(created),
            ..object
        };
        let (mut young, old) = (aged(young, 20), aged(old, 10));
        objects.insert_guest(young.clone());
        objects.insert_guest(old.clone());
        let waits = |object: &GuestObject| conflicts(object, &objects)[0].waits;
        assert!(waits(&young) && !waits(&old));
        assert!(
            conflicts(&old, &objects)[0]
                .message
                .starts_with("spec.network[eth0].ip: 10.0.0.5 is also that of PhoenixLXC ai/a: change one of the two")
        );
        // The younger one has it in force: now the older one waits.
        young.status.ip = Some("10.0.0.5".into());
        objects.insert_guest(young.clone());
        assert!(!waits(&young) && waits(&old));
        // What is stopped, or shared on purpose, is no conflict.
        for extra in [
            json!({"metadata": {"namespace": "ai", "name": "a", "annotations": {SHARED_ADDRESS: "true"}}}),
            json!({"spec": {"hypervisorRef": {"name": "pve"}, "powerState": "Stopped", "network": [net()]}}),
        ] {
            let other = guest("a", net(), extra);
            objects.insert_guest(other.clone());
            assert_eq!(conflicts(&old, &objects), []);
            assert_eq!(conflicts(&other, &objects), []);
        }
    }

    #[test]
    fn an_object_of_another_namespace_is_not_named_to_a_tenant() {
        let mut object = guest("a", json!({"name": "eth0", "ip": "10.0.0.5/24"}), json!({}));
        let other = object.clone();
        object.key.namespace = "team".into();
        let claim = claims(&object).pop_first().unwrap();
        assert!(words(&object, &claim, &other, false).contains("also that of an object of another namespace"));
        assert!(words(&object, &claim, &other, true).contains("PhoenixLXC ai/a"));
    }
}
