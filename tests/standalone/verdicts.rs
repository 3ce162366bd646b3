//! The table of bad manifests through `phoenix apply`: the verdicts of the API server and the operator.

use std::collections::BTreeMap;
use std::fs;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use phoenix::standalone::state::{Record, State};
use serde_json::{Value, json};

use crate::bad_manifests::{Case, Verdict, cases, missing, world};
use crate::site::Site;

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The object as it was applied before.
fn record(old: &Value) -> Record {
    Record {
        kind: text(old, "/kind").into(),
        namespace: text(old, "/metadata/namespace").into(),
        name: text(old, "/metadata/name").into(),
        object: old.clone(),
        generation: 1,
        version: 1,
        status: serde_json::from_value(old["status"].clone()).unwrap_or_default(),
        ..Record::default()
    }
}

/// Puts an entry's manifest, and what was stored before, in their folders. What is stored of other kinds than guests
/// is not kept without a cluster, and no rule of theirs looks at it.
fn put(site: &Site, state: &State, file: &str, case: &Case) {
    site.write(file, &case.manifest);
    if let Some(old) = &case.old {
        assert!(
            text(old, "/kind") != "PhoenixHypervisor",
            "{}: no rule looks at the old one",
            case.name
        );
        state.write(&record(old)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_refuses_is_refused() {
    let site = Site::new().await;
    let state = State::open(&site.state(), None).unwrap();
    let mut files = BTreeMap::new();
    for (n, case) in cases().into_iter().enumerate() {
        if matches!(case.verdict, Verdict::Refused(_)) {
            let file = format!("{n:03}");
            put(&site, &state, &file, &case);
            files.insert(format!("{file}.json"), case);
        }
    }
    drop(state);
    assert!(files.len() >= 60, "only {}", files.len());
    let answer = site.phoenix(&["apply"]).await.expect(2);
    // A refusal begins with its file and may go on over several lines.
    let mut refusals: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = "";
    for line in answer.stderr.lines() {
        if let Some(file) = files.keys().find(|file| line.contains(*file)) {
            current = file;
        }
        *refusals.entry(current).or_default() += &format!("{line}\n");
    }
    let mut wrong = Vec::new();
    for (file, case) in &files {
        let Verdict::Refused(fragments) = &case.verdict else {
            continue;
        };
        let refusal = refusals.get(file.as_str()).map_or("", String::as_str);
        let lacks = missing(fragments, refusal);
        if refusal.is_empty() || !lacks.is_empty() {
            wrong.push(format!("{}: no {lacks:?} in {refusal:?}", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        files.len(),
        wrong.join("\n")
    );
    assert!(site.sim().requests().is_empty(), "nobody asked Proxmox");
}

/// `world`, with the address and the secrets of the simulator.
fn put_world(site: &Site) {
    let stored: Value = serde_json::from_str(&fs::read_to_string(site.path("secret")).unwrap()).unwrap();
    for (n, mut object) in world().into_iter().enumerate() {
        if text(&object, "/metadata/name") == "pve-token" {
            object["stringData"] = stored["stringData"].clone();
        }
        if object["kind"] == "PhoenixHypervisor" {
            object["spec"]["endpoints"] = json!([site.running.server.base_url]);
            object["spec"]["tls"] = json!({"caSecretRef": {"name": "pve-token", "key": "ca"}});
        }
        site.write(&format!("world{n:02}"), &object);
    }
    for file in ["secret", "hypervisor"] {
        fs::remove_file(site.path(file)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_stalls_is_stalled() {
    let site = Site::new().await;
    put_world(&site);
    let stalled: Vec<Case> = cases()
        .into_iter()
        .filter(|case| matches!(case.verdict, Verdict::Stalled { .. }))
        .collect();
    assert!(stalled.len() >= 30, "only {}", stalled.len());
    let state = State::open(&site.state(), None).unwrap();
    for (n, case) in stalled.iter().enumerate() {
        put(&site, &state, &format!("case{n:03}"), case);
        for (m, object) in case.with.iter().enumerate() {
            site.write(&format!("with{n:03}-{m}"), object);
        }
    }
    drop(state);
    let answer = site.phoenix(&["apply", "--timeout", "60s"]).await.expect(1);
    let state = State::read(&site.state(), None).unwrap();
    let mut wrong = Vec::new();
    for case in &stalled {
        let Verdict::Stalled { reason, message, .. } = &case.verdict else {
            continue;
        };
        let conditions = conditions(&state, &case.manifest);
        let found = conditions.iter().find(|c| c.type_ == "Stalled");
        let fits = |c: &&_| {
            let c: &Condition = c;
            c.reason == *reason && missing(message, &c.message).is_empty()
        };
        if found.filter(fits).is_none() {
            wrong.push(format!("{}: not {reason} with {message:?}: {conditions:#?}", case.name));
        } else if !missing(message, &answer.text()).is_empty() {
            wrong.push(format!("{}: {message:?} is not shown", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}\n{answer:?}",
        wrong.len(),
        stalled.len(),
        wrong.join("\n")
    );
}

fn conditions(state: &State, object: &Value) -> Vec<Condition> {
    let (kind, namespace, name) = (
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    );
    if kind == "PhoenixHypervisor" {
        return state
            .hypervisor(namespace, name)
            .unwrap()
            .unwrap_or_default()
            .conditions;
    }
    let is_it = |r: &Record| r.kind == kind && r.namespace == namespace && r.name == name;
    let records = state.records().unwrap();
    records
        .into_iter()
        .find(is_it)
        .map(|r| r.status.conditions)
        .unwrap_or_default()
}
