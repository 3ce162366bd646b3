//! What of a guest the cluster reaches by the object's name: a Service without selector, and EndpointSlices with the
//! guest's address. Pure: from an object with its status to what is to be there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::crd::{Expose, ExposeProtocol, ExposeWhen, GROUP, GuestKind, PowerState, VERSION};
use crate::reason::{Cause, Reason};

use super::scripts::ModelServer;
use super::{GuestObject, GuestSpec};

/// Label of what Phoenix made, with [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label by which a controller knows its EndpointSlices, with [`MANAGER`].
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of an EndpointSlice with the name of its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Who manages them.
pub const MANAGER: &str = "phoenix-hypervisor.io";

/// What an object asks to be reached by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposed {
    /// Whether the spec says so, instead of a model server that is there.
    pub asked: bool,
    /// The ports; none: no Service.
    pub ports: Vec<Expose>,
}

/// What an object asks to be reached by: its own list, else the port of its model server.
pub fn exposed(object: &GuestObject) -> Exposed {
    let (list, server) = match &object.spec {
        GuestSpec::Lxc(spec) => (&spec.expose, ModelServer::of(object).and_then(server_port)),
        GuestSpec::Vm(spec) => (&spec.expose, None),
        GuestSpec::Template(_) => return Exposed::default(),
    };
    if let Some(ports) = list {
        return Exposed {
            asked: true,
            ports: ports.clone(),
        };
    }
    let port = |port| Expose {
        name: "http".into(),
        port,
        app_protocol: Some("http".into()),
        ..Expose::default()
    };
    Exposed {
        asked: false,
        ports: server
            .map(port)
            .into_iter()
            .filter(|_| is_label(&object.key.name))
            .collect(),
    }
}

/// The port of a server that listens on more than the guest's own loopback.
fn server_port(server: ModelServer<'_>) -> Option<i64> {
    let (host, port) = server.listens();
    let alone = host
        .and_then(|host| host.parse::<IpAddr>().ok())
        .is_some_and(|host| host.is_loopback());
    (!alone).then_some(port)
}

/// What of an object decides about its Service and EndpointSlices.
pub fn face(object: &GuestObject) -> impl PartialEq {
    let exposed = exposed(object);
    let sends = (!exposed.ports.is_empty()).then(|| (works(object), object.status.ip.clone(), object.deleting));
    (exposed, sends, object.uid.clone())
}

/// Whether a name can be a Service's (RFC 1035 label).
pub(crate) fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && !name.ends_with('-');
    name.len() <= 63 && ends && name.bytes().all(inner)
}

/// Why there can be no Service for the object, or nothing to send traffic to.
pub fn hindrance(object: &GuestObject) -> Option<Cause> {
    let name = &object.key.name;
    if !is_label(name) {
        let message = format!(
            "spec.expose: no Service can be called {name:?}: its name begins with a letter and has at most 63 lower-case \
             letters, digits and '-'; give the object such a name, or leave expose out"
        );
        return Some(Cause::new(Reason::InvalidSpec, message));
    }
    address(object).err()
}

/// The address of the guest that traffic can be sent to.
fn address(object: &GuestObject) -> Result<IpAddr, Cause> {
    let Some(ip) = &object.status.ip else {
        let message = "the guest has no address yet: its Service sends traffic nowhere";
        return Err(Cause::new(Reason::AddressPending, message));
    };
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let parsed = ip.parse::<IpAddr>().ok().filter(usable);
    let parsed = parsed.filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast());
    parsed.ok_or_else(|| {
        let message =
            format!("status.ip: no Service can send traffic to {ip}: give the guest an address of its network");
        Cause::new(Reason::AddressPending, message)
    })
}

fn condition<'o>(object: &'o GuestObject, type_: &str) -> Option<&'o Condition> {
    object.status.conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the guest works, by what its status says; `None` where nobody knows, because Proxmox is not reached: then the
/// last word stands, since the way from clients to the guest does not lead through Proxmox's API.
pub fn works(object: &GuestObject) -> Option<bool> {
    if object.deleting || object.power_state() == Some(PowerState::Stopped) {
        return Some(false);
    }
    // A model server or application that is being installed anew restarts.
    let parts = ["ApplicationReady", "Healthy"];
    let said = |name: &&str| condition(object, name);
    let mut asked: Vec<&Condition> = parts.iter().filter_map(said).collect();
    if condition(object, "Healthy").is_none() {
        let Some(ready) = condition(object, "Ready") else {
            return Some(false);
        };
        asked.push(ready);
    }
    let hidden = |c: &&&Condition| {
        let reason = Reason::named(&c.reason);
        c.status == "Unknown" && reason.is_some_and(|r| r.hides_the_guest() && r != Reason::NodeOffline)
    };
    let others = asked.iter().filter(|c| !hidden(c)).all(|c| c.status == "True");
    match asked.iter().any(|c| hidden(&c)) {
        true if others => None,
        _ => Some(others),
    }
}

/// Kind, name and uid of the object, as owner.
fn owner(object: &GuestObject) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: object.key.kind.as_str().into(),
        name: object.key.name.clone(),
        uid: object.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(false),
    }
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The object's.
    Ours,
    /// That of an earlier object of this kind and name, with which it goes.
    Earlier,
    /// Somebody else's.
    Others,
}

/// Whose something is, by its owner.
pub fn whose(meta: &ObjectMeta, object: &GuestObject) -> Whose {
    let owner = owner(object);
    let controller = controller(meta);
    let same = |o: &&OwnerReference| o.kind == owner.kind && o.name == owner.name && o.api_version.starts_with(GROUP);
    match controller.filter(same) {
        Some(o) if o.uid == owner.uid => Whose::Ours,
        Some(_) => Whose::Earlier,
        None => Whose::Others,
    }
}

fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true))
}

/// Kind and name of the guest object that something belongs to.
pub fn owner_of(meta: &ObjectMeta) -> Option<(GuestKind, &str)> {
    let owner = controller(meta).filter(|o| o.api_version.starts_with(GROUP))?;
    let kind = [GuestKind::PhoenixLXC, GuestKind::PhoenixVM];
    let kind = kind.into_iter().find(|kind| kind.as_str() == owner.kind)?;
    Some((kind, &owner.name))
}

fn meta(object: &GuestObject, name: String, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    ObjectMeta {
        name: Some(name),
        namespace: Some(object.key.namespace.clone()),
        labels: Some(labels.collect()),
        owner_references: Some(vec![owner(object)]),
        ..ObjectMeta::default()
    }
}

fn protocol(port: &Expose) -> String {
    match port.protocol.unwrap_or_default() {
        ExposeProtocol::Tcp => "TCP",
        ExposeProtocol::Udp => "UDP",
        ExposeProtocol::Sctp => "SCTP",
    }
    .into()
}

fn number(port: i64) -> i32 {
    // The schema keeps ports between 1 and 65535.
    i32::try_from(port).unwrap_or_default()
}

/// The Service that is to be there.
pub fn service(object: &GuestObject, exposed: &Exposed) -> Service {
    let ports = exposed.ports.iter().map(|port| ServicePort {
        name: Some(port.name.clone()),
        port: number(port.port),
        target_port: Some(IntOrString::Int(number(port.target_port.unwrap_or(port.port)))),
        protocol: Some(protocol(port)),
        app_protocol: port.app_protocol.clone(),
        node_port: None,
    });
    Service {
        metadata: meta(object, object.key.name.clone(), &[(MANAGED_BY, MANAGER)]),
        spec: Some(ServiceSpec {
            // An address of each family that the cluster has: the guest's may be of either.
            ip_family_policy: Some("PreferDualStack".into()),
            ports: Some(ports.collect()),
            type_: Some("ClusterIP".into()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Names of all EndpointSlices that there may be for an object.
pub fn slice_names(name: &str) -> Vec<String> {
    let of = |when| ["ipv4", "ipv6"].map(|family| slice_name(name, when, family));
    [ExposeWhen::Ready, ExposeWhen::Always]
        .into_iter()
        .flat_map(of)
        .collect()
}

fn slice_name(name: &str, when: ExposeWhen, family: &str) -> String {
    let when = match when {
        ExposeWhen::Ready => "when-ready",
        ExposeWhen::Always => "always",
    };
    format!("{name}-{when}-{family}")
}

/// Whether a slice sends traffic.
pub fn sends(slice: &EndpointSlice) -> bool {
    let ready = |e: &Endpoint| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
    slice.endpoints.iter().any(ready)
}

/// The EndpointSlices that are to be there, by name: one for each `when`, of the address's family. `before` tells which of
/// them sent traffic so far.
pub fn slices(
    object: &GuestObject,
    exposed: &Exposed,
    before: impl Fn(&str) -> bool,
) -> BTreeMap<String, EndpointSlice> {
    let Ok(ip) = address(object) else {
        return BTreeMap::new();
    };
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let mut made = BTreeMap::new();
    for when in [ExposeWhen::Ready, ExposeWhen::Always] {
        let of_it = |port: &&Expose| port.when.unwrap_or_default() == when;
        let ports: Vec<EndpointPort> = exposed.ports.iter().filter(of_it).map(endpoint_port).collect();
        if ports.is_empty() {
            continue;
        }
        let name = slice_name(&object.key.name, when, family);
        let stopped = object.deleting || object.power_state() == Some(PowerState::Stopped);
        let ready = match when {
            ExposeWhen::Always => !object.deleting,
            ExposeWhen::Ready => works(object).unwrap_or_else(|| before(&name)),
        };
        let conditions = EndpointConditions {
            ready: Some(ready),
            serving: Some(ready),
            terminating: Some(stopped && !ready),
        };
        let labels = [(SLICE_MANAGED_BY, MANAGER), (SERVICE_NAME, object.key.name.as_str())];
        let slice = EndpointSlice {
            address_type: if ip.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
            endpoints: vec![endpoint(object, ip, conditions)],
            metadata: meta(object, name.clone(), &labels),
            ports: Some(ports),
        };
        made.insert(name, slice);
    }
    made
}

fn endpoint(object: &GuestObject, ip: IpAddr, conditions: EndpointConditions) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(conditions),
        target_ref: Some(ObjectReference {
            kind: Some(object.key.kind.as_str().into()),
            namespace: Some(object.key.namespace.clone()),
            name: Some(object.key.name.clone()),
            uid: Some(object.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn endpoint_port(port: &Expose) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(number(port.target_port.unwrap_or(port.port))),
        protocol: Some(protocol(port)),
        app_protocol: port.app_protocol.clone(),
    }
}

/// What people are told of a Service that is as it should be.
pub fn words(object: &GuestObject, exposed: &Exposed) -> String {
    let port = |port: &Expose| format!("{} {}/{}", port.name, port.port, protocol(port));
    let ports: Vec<String> = exposed.ports.iter().map(port).collect();
    format!(
        "Service {}.{}: {}",
        object.key.name,
        object.key.namespace,
        ports.join(", ")
    )
}

fn labelled(found: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let has = |(key, value): (&String, &String)| found.labels.as_ref().and_then(|l| l.get(key)) == Some(value);
    wanted.labels.iter().flatten().all(has)
        && wanted.owner_references.iter().flatten().all(|owner| {
            let owners = found.owner_references.iter().flatten();
            owners.into_iter().any(|found| found == owner)
        })
}

/// Whether a Service is as wanted; what Kubernetes and others added to it is theirs.
pub fn service_is(found: &Service, wanted: &Service) -> bool {
    let ports = |service: &Service| {
        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        let part = |p: &ServicePort| {
            (
                p.name.clone(),
                p.port,
                p.target_port.clone(),
                p.protocol.clone(),
                p.app_protocol.clone(),
            )
        };
        ports.map(part).collect::<Vec<_>>()
    };
    labelled(&found.metadata, &wanted.metadata) && ports(found) == ports(wanted)
}

/// Whether an EndpointSlice is as wanted.
pub fn slice_is(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    labelled(&found.metadata, &wanted.metadata)
        && found.address_type == wanted.address_type
        && found.endpoints == wanted.endpoints
        && found.ports == wanted.ports
}

/// The family of the guest's address, where the Service has no address of it: pods cannot reach it then.
pub fn family_missing(service: &Service, object: &GuestObject) -> Option<Cause> {
    let ip = address(object).ok()?;
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let families = service.spec.as_ref()?.ip_families.as_ref()?;
    (!families.is_empty() && families.iter().all(|has| has != family)).then(|| {
        let message = format!(
            "status.ip: {ip} is {family}, and Services of this cluster are {}: give the guest an address of that family",
            families.join(", ")
        );
        Cause::new(Reason::ServiceRefused, message)
    })
}

#[cfg(test)]
#[path = "expose_tests.rs"]
mod tests;
