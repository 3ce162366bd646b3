use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::facts::{ClusterFacts, Endpoint, Facts, NodeFacts, Shell, StorageFacts};
use super::report::{Examined, commands, render, value, worst};
use super::*;
use crate::crd::PhoenixLXC;
use crate::pve::gpu::NodeCards;
use crate::reason::{Cause, Reason};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
const GIB: u64 = 1 << 30;

fn hypervisor(name: &str) -> PhoenixHypervisor {
    serde_json::from_value(json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {
            "endpoints": ["https://pve1:8006"],
            "credentials": {"tokenSecretRef": {"name": "token"}},
            "ssh": {"keySecretRef": {"name": "ssh", "key": "key"}, "knownHostsSecretRef": {"name": "ssh", "key": "hosts"}},
            "vmidRange": {"start": 900, "end": 999},
            "volumeOwners": {"idRange": {"start": 9900, "end": 9909}, "image": "local:vztmpl/alpine-3.22_1_amd64.tar.xz"},
            "defaults": {"rootfsStorage": "tank", "bridge": "vmbr0"},
        },
    }))
    .unwrap()
}

fn web() -> GuestObject {
    let object: PhoenixLXC = serde_json::from_value(json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": "web", "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "features": [{"name": "docker"}], "gpus": [{"index": 0}],
            "network": [{"name": "eth0", "ip": "dhcp"}], "rootfs": {"size": "4Gi"}},
    }))
    .unwrap();
    GuestObject::from(&object)
}

/// What root@pam sees of a node that has everything.
fn healthy() -> Facts {
    let storage = |content: &str| StorageFacts {
        content: vec![content.into()],
        active: true,
        enabled: true,
        free: Some(500 * GIB),
        total: Some(1000 * GIB),
    };
    let node = NodeFacts {
        online: true,
        version: Ok("9.1.4".into()),
        ahead: Ok(0),
        certificates: Ok(vec![("pve-ssl.pem".into(), NOW + 400 * DAY)]),
        ca: Some("AA".into()),
        bridges: Ok(["vmbr0".to_string()].into()),
        storages: Ok([("tank".into(), storage("rootdir")), ("local".into(), storage("vztmpl"))].into()),
        files: [(
            "local".to_string(),
            Ok(["local:vztmpl/alpine-3.22_1_amd64.tar.xz".to_string()].into()),
        )]
        .into(),
        appliances: Ok(vec!["alpine-3.22_1_amd64.tar.xz".into()]),
        shell: Shell::Ran(0),
        cards: Ok(NodeCards::default()),
    };
    Facts {
        blocked: None,
        endpoints: vec![Endpoint {
            url: "https://pve1:8006".into(),
            version: Ok("9.1.4".into()),
            ends: Some(NOW + 400 * DAY),
        }],
        cluster: Ok(ClusterFacts {
            name: None,
            quorate: true,
        }),
        guests: Ok(BTreeSet::new()),
        nodes: [("pve1".to_string(), node)].into(),
        ..Facts::blocked(NOW, Cause::new(Reason::InvalidSpec, ""))
    }
}

fn outcome_of(facts: &Facts, name: &str) -> Outcome {
    let checks = examine(&hypervisor("pve"), &[], facts);
    let found = checks.iter().find(|check| check.name.starts_with(name));
    found.unwrap_or_else(|| panic!("no check {name}: {checks:#?}")).outcome
}

#[test]
fn what_has_everything_is_ok() {
    for check in examine(&hypervisor("pve"), &[], &healthy()) {
        assert_eq!(check.outcome, Outcome::Ok, "{check:#?}");
    }
}

/// Nothing of a node that did not answer is ok but that it is there.
#[test]
fn what_was_not_read_is_unknown() {
    let mut facts = healthy();
    facts.nodes = [("pve1".to_string(), NodeFacts::unknown(true, "no answer"))].into();
    facts.cluster = Err("no answer".into());
    facts.guests = Err("no answer".into());
    facts.permissions = Some(Err("no answer".into()));
    for check in examine(&hypervisor("pve"), &[&web()], &facts) {
        let answered = ["credentials", "endpoint", "certificate of", "node pve1", "id ranges"];
        let plain = answered.iter().any(|name| check.name.starts_with(name));
        assert_eq!(check.outcome == Outcome::Unknown, !plain, "{check:#?}");
        assert!(plain || check.message.contains("no answer"), "{check:#?}");
    }
    let blocked = Facts::blocked(NOW, Cause::new(Reason::SecretNotFound, "spec.credentials: no Secret"));
    let checks = examine(&hypervisor("pve"), &[], &blocked);
    assert!(
        checks.iter().all(|check| check.outcome >= Outcome::Unknown),
        "{checks:#?}"
    );
    assert_eq!(worst(&[]), Outcome::Unknown, "of nothing nothing is known");
}

#[test]
fn limits_are_where_they_are_said_to_be() {
    for (days, outcome) in [
        (31, Outcome::Ok),
        (30, Outcome::Warn),
        (0, Outcome::Warn),
        (-1, Outcome::Fail),
    ] {
        let mut facts = healthy();
        facts.endpoints[0].ends = Some(NOW + days * DAY);
        assert_eq!(outcome_of(&facts, "certificate of https"), outcome, "{days} days");
    }
    for (ahead, outcome) in [
        (10, Outcome::Ok),
        (-11, Outcome::Warn),
        (300, Outcome::Warn),
        (-301, Outcome::Fail),
    ] {
        let mut facts = healthy();
        facts.nodes.get_mut("pve1").unwrap().ahead = Ok(ahead);
        assert_eq!(outcome_of(&facts, "clock of pve1"), outcome, "{ahead} s");
    }
    for (version, outcome) in [
        ("8.3.5", Outcome::Fail),
        ("8.4.0", Outcome::Ok),
        ("9.2", Outcome::Ok),
        ("10.0.1", Outcome::Warn),
        ("later", Outcome::Unknown),
    ] {
        let mut facts = healthy();
        facts.nodes.get_mut("pve1").unwrap().version = Ok(version.into());
        assert_eq!(outcome_of(&facts, "version of pve1"), outcome, "{version}");
    }
    for (free, outcome) in [
        (Some(100), Outcome::Ok),
        (Some(99), Outcome::Warn),
        (Some(19), Outcome::Fail),
        (None, Outcome::Unknown),
    ] {
        let mut facts = healthy();
        let storages = facts.nodes.get_mut("pve1").unwrap().storages.as_mut().unwrap();
        storages.get_mut("tank").unwrap().free = free.map(|free: u64| free * GIB);
        assert_eq!(outcome_of(&facts, "storage tank on pve1"), outcome, "{free:?}");
    }
    for (taken, outcome) in [(95, Outcome::Ok), (96, Outcome::Warn), (100, Outcome::Fail)] {
        let mut facts = healthy();
        facts.guests = Ok((900_i64..900 + taken).map(|id| id.try_into().unwrap()).collect());
        assert_eq!(outcome_of(&facts, "ids of spec.vmidRange"), outcome, "{taken} taken");
    }
}

#[test]
fn names_that_many_installations_have_are_told_only_without_an_authority() {
    let mut facts = healthy();
    let mut node = facts.nodes.remove("pve1").unwrap();
    facts.nodes.insert("pve".into(), node.clone());
    let names = |facts: &Facts| {
        let checks = examine(&hypervisor("pve"), &[], facts);
        checks.iter().any(|check| check.name == "default names")
    };
    assert!(!names(&facts));
    node.ca = None;
    facts.nodes.insert("pve".into(), node);
    assert!(names(&facts));
}

#[test]
fn nodes_of_different_versions_are_told() {
    let mut facts = healthy();
    let mut other = facts.nodes["pve1"].clone();
    other.version = Ok("9.0.3".into());
    facts.nodes.insert("pve2".into(), other);
    let checks = examine(&hypervisor("pve"), &[], &facts);
    let found = checks.iter().find(|check| check.name == "versions").unwrap();
    assert!(
        found.outcome == Outcome::Warn && found.message.contains("9.0.3, 9.1.4"),
        "{found:?}"
    );
}

#[test]
fn what_an_object_needs_names_the_object() {
    let mut facts = healthy();
    facts.nodes.get_mut("pve1").unwrap().shell = Shell::NotGiven;
    let object = web();
    let checks = examine(&hypervisor("pve"), &[&object], &facts);
    for (name, field) in [
        ("ssh pve1", "PhoenixLXC ai/web: spec.features"),
        ("gpus pve1", "PhoenixLXC ai/web: spec.gpus"),
    ] {
        let found = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(
            (found.outcome, &found.blocks),
            (Outcome::Fail, &vec![field.to_string()]),
            "{found:?}"
        );
    }
    assert_eq!(outcome_of(&facts, "ssh pve1"), Outcome::Ok, "nothing else needs it");
}

#[test]
fn a_missing_right_has_its_line() {
    let mut facts = healthy();
    facts.token = Some("phoenix@pve!operator".into());
    facts.permissions = Some(Ok(BTreeMap::new()));
    let checks = examine(&hypervisor("pve"), &[], &facts);
    let fix = |name: &str| {
        checks
            .iter()
            .find(|check| check.name == name)
            .and_then(|check| check.fix.clone())
    };
    assert_eq!(
        fix("privilege SDN.Use on /sdn/zones/localnetwork").unwrap(),
        "{ pveum role modify PhoenixNet --append 1 --privs SDN.Use || pveum role add PhoenixNet --privs SDN.Use; } && \
         pveum acl modify /sdn/zones/localnetwork --users phoenix@pve --roles PhoenixNet"
    );
    let root = fix("privilege Sys.Audit on /").unwrap();
    assert!(
        root.ends_with("pveum acl modify / --propagate 0 --users phoenix@pve --roles PhoenixCluster"),
        "{root}"
    );
    let all = [Examined {
        hypervisor: "ai/pve".into(),
        checks,
    }];
    assert!(render(&all).contains("FAIL") && commands(&all).contains("pveum acl modify /vms --users"));
    assert_eq!(value(&all)["worst"], "Fail");
}

#[test]
fn hypervisors_of_one_cluster_have_ids_apart() {
    let (first, mut second) = (hypervisor("a"), hypervisor("b"));
    let (facts, mut other) = (healthy(), healthy());
    second.spec.endpoints = vec!["https://pve2:8006".into()];
    let outcomes = |second: &PhoenixHypervisor, other: &Facts| {
        let checks = overlaps(&[(&first, &facts), (second, other)]);
        checks
            .into_iter()
            .flatten()
            .map(|check| check.outcome)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        outcomes(&second, &other),
        [Outcome::Fail, Outcome::Fail],
        "one authority"
    );
    other.nodes.get_mut("pve1").unwrap().ca = Some("BB".into());
    assert_eq!(outcomes(&second, &other), [], "two clusters");
    second.spec.endpoints = first.spec.endpoints.clone();
    second.spec.vmid_range = None;
    second.spec.volume_owners = None;
    assert_eq!(
        outcomes(&second, &other),
        [Outcome::Ok, Outcome::Ok],
        "one endpoint, ids apart"
    );
}

#[test]
fn certificates_that_nobody_verifies_are_told() {
    let mut open = hypervisor("pve");
    open.spec.tls = serde_json::from_value(json!({"insecureSkipVerify": true})).unwrap();
    let checks = examine(&open, &[], &healthy());
    let found = checks.iter().find(|check| check.name == "tls").unwrap();
    assert!(
        found.outcome == Outcome::Warn && found.message.starts_with("spec.tls.insecureSkipVerify"),
        "{found:?}"
    );
}
