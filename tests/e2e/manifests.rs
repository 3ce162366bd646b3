//! The table of bad manifests on a real API server: what it refuses, it refuses with the words of the table, and what
//! is left to the operator it lets in.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::bad_manifests::{Case, Verdict, cases, missing, values, world};
use crate::harness::kubectl::{Answer, Kubectl};
use crate::harness::namespace::Namespace;
use crate::harness::wait_for;
use crate::site::{Site, give_rights};

/// Runs `check` on every item, on two threads as `kubectl` mostly waits, and fails with all complaints.
fn check_all<T: Sync>(items: &[T], check: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut complaints = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            complaints.extend(check(item).err());
        }
        complaints
    };
    let complaints = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut complaints = work();
        complaints.extend(other.join().unwrap());
        complaints
    });
    assert!(
        complaints.is_empty(),
        "{} of {}:\n{}",
        complaints.len(),
        items.len(),
        complaints.join("\n")
    );
}

fn placed(mut object: Value, namespace: &Namespace) -> String {
    object["metadata"]["namespace"] = json!(namespace.name);
    object.to_string()
}

fn try_apply(kubectl: &Kubectl, object: &str) -> Answer {
    kubectl.run_with(&["apply", "--dry-run=server", "-f", "-"], object)
}

/// Stores the object that an entry is applied over, with its status.
fn store_old(case: &Case, namespace: &Namespace) {
    let Some(old) = &case.old else { return };
    let text = placed(old.clone(), namespace);
    namespace.kubectl.apply(&text);
    if !old["status"].is_null() {
        let patch = json!({"status": old["status"]}).to_string();
        let args = [
            "patch",
            "-f",
            "-",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ];
        namespace.kubectl.must_with(&args, &text);
    }
}

#[test]
fn are_refused_with_field_value_and_fix_or_left_to_the_operator() {
    let namespace = Namespace::create("bad-manifests");
    let cases = cases();
    check_all(&cases, |case| {
        store_old(case, &namespace);
        let answer = try_apply(&namespace.kubectl, &placed(case.manifest.clone(), &namespace));
        match &case.verdict {
            Verdict::Refused(_) if answer.ok => Err(format!("{}: accepted", case.name)),
            Verdict::Refused(fragments) => match missing(fragments, &answer.stderr)[..] {
                [] => Ok(()),
                ref lacks => Err(format!("{}: no {lacks:?} in {}", case.name, answer.stderr)),
            },
            Verdict::Stalled { .. } if answer.ok => Ok(()),
            Verdict::Stalled { .. } => Err(format!("{}: refused: {}", case.name, answer.stderr)),
        }
    });
}

#[test]
fn single_values_are_good_and_bad_as_the_table_says() {
    let namespace = Namespace::create("values");
    let tries: Vec<(String, Value, bool)> = values()
        .into_iter()
        .flat_map(|values| {
            let good = values.good.into_iter().map(|object| (object, true));
            let bad = values.bad.into_iter().map(|object| (object, false));
            let all: Vec<_> = good
                .chain(bad)
                .map(|(object, ok)| (values.field.clone(), object, ok))
                .collect();
            all
        })
        .collect();
    check_all(&tries, |(field, object, good)| {
        let answer = try_apply(&namespace.kubectl, &placed(object.clone(), &namespace));
        match (answer.ok, *good) {
            (true, false) => Err(format!("{field}: accepted: {}", object["spec"])),
            (false, true) => Err(format!("{field}: refused: {} {}", object["spec"], answer.stderr)),
            _ => Ok(()),
        }
    });
}

/// Every text in an object that is one of the table's namespaces becomes that of the test.
fn moved(object: &mut Value, names: &[(&str, &str)]) {
    match object {
        Value::String(text) => {
            if let Some((_, new)) = names.iter().find(|(old, _)| old == text) {
                *text = (*new).to_owned();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| moved(item, names)),
        Value::Object(fields) => fields.values_mut().for_each(|value| moved(value, names)),
        _ => {}
    }
}

/// What the entries refer to, with the address and the secrets of the simulator.
fn placed_world(site: &Site, names: &[(&str, &str)]) -> Vec<Value> {
    let description = site.description();
    let place = |mut object: Value| {
        if object["metadata"]["name"] == "pve-token" {
            object["stringData"] = json!({
                "tokenId": description["tokenId"], "secret": description["tokenSecret"], "ca": description["caPem"],
            });
        }
        if object["kind"] == "PhoenixHypervisor" {
            object["spec"]["endpoints"] = json!([description["apiUrl"]]);
            object["spec"]["tls"] = json!({"caSecretRef": {"name": "pve-token", "key": "ca"}});
        }
        moved(&mut object, names);
        object
    };
    world().into_iter().map(place).collect()
}

fn name_of(object: &Value) -> String {
    let part = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", part("/kind").to_lowercase(), part("/metadata/name"))
}

#[test]
fn what_admission_cannot_see_ends_stalled_with_field_value_and_fix() {
    let mut site = Site::new("stalled");
    let infra = Namespace::create("stalled-infra");
    give_rights(&infra);
    let names = [
        (crate::bad_manifests::NAMESPACE, site.namespace.name.clone()),
        ("infra", infra.name.clone()),
    ];
    let names: Vec<(&str, &str)> = names.iter().map(|(old, new)| (*old, new.as_str())).collect();
    let stalled: Vec<Case> = cases()
        .into_iter()
        .filter(|case| matches!(case.verdict, Verdict::Stalled { .. }))
        .collect();
    let mut objects = placed_world(&site, &names);
    for case in &stalled {
        for object in case.with.iter().chain([&case.manifest]) {
            let mut object = object.clone();
            moved(&mut object, &names);
            objects.push(object);
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    // Not `kubectl -n`: the objects name their namespaces.
    crate::harness::cluster::cluster()
        .admin
        .must_with(&["apply", "-f", "-"], &list.to_string());
    for case in &stalled {
        store_old(case, &site.namespace);
    }
    site.start_operator_for(&[&infra]);
    for case in &stalled {
        let Verdict::Stalled { reason, message, .. } = &case.verdict else {
            continue;
        };
        let object = name_of(&case.manifest);
        let message: Vec<String> = message.clone();
        wait_for(
            &format!("{} ({object}) to be Stalled: {reason} {message:?}", case.name),
            || {
                let status = site.status(&object);
                let found = status["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|c| c["type"] == "Stalled");
                let fits = found.is_some_and(|c| {
                    c["reason"] == *reason && missing(&message, c["message"].as_str().unwrap_or_default()).is_empty()
                });
                fits.then_some(())
                    .ok_or_else(|| format!("{status:#}\n{}", site.words()))
            },
        );
    }
}
