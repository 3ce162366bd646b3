//! What a change of one object means for others.

use serde_json::{Value, json};

use crate::crd::{FINALIZER, GuestKind, PhoenixLXC};
use crate::desired::{GuestObject, ObjectName};
use crate::operator::objects::decode;

use super::*;

fn guest(name: &str, spec: Value, status: Value, meta: Value) -> Object {
    let mut metadata = json!({"namespace": "ai", "name": name, "uid": name, "generation": 1});
    for (field, value) in meta.as_object().unwrap() {
        metadata[field] = value.clone();
    }
    let mut full = json!({"hypervisorRef": {"namespace": "infra", "name": "pve"}});
    for (field, value) in spec.as_object().unwrap() {
        full[field] = value.clone();
    }
    let object: PhoenixLXC = serde_json::from_value(json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": metadata, "spec": full, "status": status
    }))
    .unwrap();
    Object::Guest(Arc::new(Guest {
        object: GuestObject::from(&object),
        finalizers: object.finalizers().to_vec(),
    }))
}

fn hypervisor(status: Value, generation: i64) -> Object {
    let object = json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixHypervisor",
        "metadata": {"namespace": "infra", "name": "pve", "uid": "h", "generation": generation},
        "spec": {"endpoints": ["https://127.0.0.1:8006"], "credentials": {"tokenSecretRef": {"name": "token"}}},
        "status": status
    });
    Object::Hypervisor(Arc::new(serde_json::from_value(object).unwrap()))
}

fn secret(data: &str) -> Object {
    let object = json!({"metadata": {"namespace": "infra", "name": "token"}, "data": {"secret": data}});
    Object::Secret(Arc::new(serde_json::from_value(object).unwrap()))
}

fn key(name: &str) -> Key {
    Key::new(GuestKind::PhoenixLXC, "ai", name)
}

fn item(name: &str) -> Item {
    Item::Guest(key(name))
}

fn pve() -> ObjectName {
    ObjectName::new("infra", "pve")
}

fn ready(status: &str) -> Value {
    json!({"observedGeneration": 1, "conditions": [
        {"type": "Ready", "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ]})
}

#[test]
fn own_status_writes_trigger_nobody_until_readiness_changes() {
    let mut state = State::default();
    let none = json!({});
    state.apply(
        guest("db", none.clone(), none.clone(), none.clone()),
        "1",
        Origin::Elsewhere,
    );
    let depends = json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "db"}]});
    state.apply(
        guest("web", depends, none.clone(), none.clone()),
        "2",
        Origin::Elsewhere,
    );

    let creating = guest("db", none.clone(), json!({"phase": "Creating"}), none.clone());
    assert_eq!(state.apply(creating.clone(), "3", Origin::Own), vec![]);
    // The watch delivers the same write.
    assert_eq!(state.apply(creating, "3", Origin::Elsewhere), vec![]);
    let done = guest("db", none.clone(), ready("True"), none.clone());
    assert_eq!(state.apply(done, "4", Origin::Own), vec![item("web")]);
}

#[test]
fn a_spec_change_an_annotation_a_deletion_and_a_foreign_status_trigger_the_object() {
    let none = json!({});
    for (n, meta) in [
        json!({"generation": 2}),
        json!({"annotations": {"phoenix-hypervisor.io/adopt": "100"}}),
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = State::default();
        state.apply(
            guest("a", none.clone(), none.clone(), none.clone()),
            "1",
            Origin::Elsewhere,
        );
        let items = state.apply(guest("a", none.clone(), none.clone(), meta), "2", Origin::Elsewhere);
        assert!(items.contains(&item("a")), "change {n}: {items:?}");
    }
    let mut state = State::default();
    state.apply(
        guest("a", none.clone(), none.clone(), none.clone()),
        "1",
        Origin::Elsewhere,
    );
    let labelled = guest("a", none.clone(), none.clone(), json!({"labels": {"a": "b"}}));
    assert_eq!(state.apply(labelled, "2", Origin::Elsewhere), vec![]);
    let foreign = guest("a", none.clone(), json!({"vmid": 100}), none.clone());
    assert_eq!(state.apply(foreign, "3", Origin::Elsewhere), vec![item("a")]);
}

#[test]
fn a_hypervisor_triggers_its_guests_when_it_comes_up_but_not_at_every_poll() {
    let mut state = State::default();
    let none = json!({});
    state.apply(
        guest("a", none.clone(), none.clone(), none.clone()),
        "1",
        Origin::Elsewhere,
    );
    let items = state.apply(hypervisor(json!({"conditions": []}), 1), "2", Origin::Elsewhere);
    assert_eq!(items, vec![Item::Poll(pve()), item("a"), Item::Guard("infra".into())]);
    let items = state.apply(hypervisor(ready("True"), 1), "3", Origin::Elsewhere);
    assert_eq!(items, vec![item("a")]);
    let mut more = ready("True");
    more["message"] = json!("3 nodes");
    assert_eq!(state.apply(hypervisor(more, 1), "4", Origin::Elsewhere), vec![]);
}

#[test]
fn a_secret_triggers_the_hypervisor_that_names_it_and_its_guests() {
    let mut state = State::default();
    let none = json!({});
    state.apply(
        guest("a", none.clone(), none.clone(), none.clone()),
        "1",
        Origin::Elsewhere,
    );
    state.apply(hypervisor(none, 1), "2", Origin::Elsewhere);
    let items = state.apply(secret("YQ=="), "3", Origin::Elsewhere);
    assert_eq!(items, vec![item("a"), Item::Poll(pve()), Item::Guard("infra".into())]);
    assert_eq!(state.apply(secret("YQ=="), "4", Origin::Elsewhere), vec![]);
    assert_eq!(
        state.apply(secret("Yg=="), "5", Origin::Elsewhere),
        vec![item("a"), Item::Poll(pve())]
    );
}

#[test]
fn the_connection_is_in_use_while_a_guest_has_the_finalizer() {
    let mut state = State::default();
    let none = json!({});
    state.apply(hypervisor(none.clone(), 1), "1", Origin::Elsewhere);
    state.apply(
        guest("a", none.clone(), none.clone(), none.clone()),
        "2",
        Origin::Elsewhere,
    );
    assert_eq!(
        (state.holders(&pve()).count(), state.secrets_in_use("infra").len()),
        (0, 0)
    );
    let held = guest("a", none.clone(), none.clone(), json!({"finalizers": [FINALIZER]}));
    assert_eq!(
        state.apply(held, "3", Origin::Own).last(),
        Some(&Item::Guard("infra".into()))
    );
    assert_eq!(state.holders(&pve()).count(), 1);
    assert_eq!(state.secrets_in_use("infra"), BTreeSet::from(["token".to_string()]));
    let items = state.remove(
        Kind::Guest(GuestKind::PhoenixLXC),
        &ObjectName::new("ai", "a"),
        "3",
        Origin::Own,
    );
    assert!(items.contains(&Item::Guard("infra".into())));
    assert_eq!(state.holders(&pve()).count(), 0);
}

#[test]
fn a_listing_without_an_object_triggers_those_that_refer_to_it() {
    let mut state = State::default();
    let none = json!({});
    state.apply(
        guest("db", none.clone(), none.clone(), none.clone()),
        "1",
        Origin::Elsewhere,
    );
    let depends = json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "db"}]});
    state.apply(guest("web", depends, none.clone(), none), "2", Origin::Elsewhere);
    let listed = BTreeSet::from([ObjectName::new("ai", "web")]);
    let elsewhere = state.retain_listed(Kind::Guest(GuestKind::PhoenixLXC), Some("other"), &BTreeSet::new());
    assert_eq!(elsewhere, vec![]);
    let items = state.retain_listed(Kind::Guest(GuestKind::PhoenixLXC), Some("ai"), &listed);
    assert!(items.contains(&item("web")));
    assert!(state.guest(&key("db")).is_none());
}

#[test]
fn what_guests_only_look_up_wakes_them_when_it_comes_and_when_it_goes() {
    let mut state = State::default();
    let none = json!({});
    let spec =
        json!({"features": [{"name": "docker"}], "application": {"scriptFrom": {"name": "scripts", "key": "run"}}});
    state.apply(guest("a", spec, none.clone(), none.clone()), "1", Origin::Elsewhere);
    let object = |kind: Kind, value: Value| decode(kind, serde_json::from_value(value).unwrap()).unwrap();

    let name = ObjectName::new("ai", "docker");
    let feature = json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixFeature",
        "metadata": {"namespace": "ai", "name": "docker"}, "spec": {"install": "true"}});
    let items = state.apply(object(Kind::Feature, feature), "2", Origin::Elsewhere);
    assert_eq!(items, vec![item("a"), Item::Feature(name.clone())]);
    let items = state.remove(Kind::Feature, &name, "3", Origin::Elsewhere);
    assert_eq!(items, vec![item("a")]);

    let name = ObjectName::new("ai", "scripts");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ai", "name": "scripts"},
        "data": {"run": "true"}});
    let map = object(Kind::ConfigMap, map);
    assert_eq!(state.apply(map.clone(), "4", Origin::Elsewhere), vec![item("a")]);
    assert_eq!(state.apply(map, "5", Origin::Elsewhere), vec![]);
    let items = state.remove(Kind::ConfigMap, &name, "6", Origin::Elsewhere);
    assert_eq!(items, vec![item("a")]);

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ai", "labels": {"a": "b"}}});
    let items = state.apply(object(Kind::Namespace, namespace), "7", Origin::Elsewhere);
    assert_eq!(items, vec![item("a")]);
    let name = ObjectName::new("", "ai");
    assert_eq!(state.remove(Kind::Namespace, &name, "8", Origin::Elsewhere), vec![]);

    state.apply(hypervisor(none, 1), "9", Origin::Elsewhere);
    let items = state.remove(Kind::Hypervisor, &pve(), "9", Origin::Own);
    assert_eq!(items, vec![Item::Poll(pve()), item("a"), Item::Guard("infra".into())]);
}
