//! Generated machines, the same ones each time.

use std::collections::BTreeMap;

use phoenix::admission::Admission;
use phoenix::desired::{Script, ScriptFile, ScriptRole};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::wishes::{self, Wish};

/// Text as scripts and files hold it: quotes, blanks, other alphabets, what YAML takes for something else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,40}",
        "[ -~\n\täöü€🙂]{0,120}",
        Just("yes: 0644\n- ~\n# '\"".to_owned()),
        Just("--==phoenix-vendor-data==--\n".to_owned()),
        Just("x".repeat(5000)),
    ]
}

fn package() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9.+-]{1,20}",
        "[a-z][a-z0-9]{1,8}=[0-9][0-9.:~+-]{0,10}",
        Just("0".to_owned()),
        Just("no".to_owned()),
    ]
}

/// A key of cloud-config that a user may set, with a value.
fn entry() -> impl Strategy<Value = (&'static str, Value)> {
    let words = || prop::collection::vec("[ -~]{1,20}", 1..4);
    prop_oneof![
        prop::collection::vec(
            prop_oneof![words().prop_map(|w| json!(w)), "[ -~]{1,30}".prop_map(|w| json!(w))],
            1..4
        )
        .prop_map(|list| ("runcmd", json!(list))),
        prop::collection::vec(words(), 1..3).prop_map(|list| ("bootcmd", json!(list))),
        prop::collection::vec(package(), 1..4).prop_map(|list| ("packages", json!(list))),
        any::<bool>().prop_map(|on| ("package_update", json!(on))),
        prop::collection::vec(("/srv/[a-z]{1,8}", text()), 1..3).prop_map(|files| {
            let files: Vec<_> = files
                .iter()
                .map(|(path, content)| json!({"path": path, "content": content, "permissions": "0644"}))
                .collect();
            ("write_files", json!(files))
        }),
        Just((
            "mounts",
            json!([["10.0.0.13:/data", "/data", "nfs", "defaults,nofail", "0", "0"]])
        )),
        Just(("ntp", json!({"enabled": true, "servers": ["ntp.example.org"]}))),
        Just(("timezone", json!("Europe/Berlin"))),
        text()
            .prop_filter("not empty", |t| !t.is_empty())
            .prop_map(|t| ("final_message", json!(t))),
    ]
}

fn user_data() -> impl Strategy<Value = Option<String>> {
    let config =
        prop::collection::btree_map(Just(()), Just(()), 0..1).prop_flat_map(|_| prop::collection::vec(entry(), 1..5));
    let object = |entries: Vec<(&'static str, Value)>| -> Value {
        Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    };
    prop_oneof![
        1 => Just(None),
        // JSON is YAML; and YAML as people write it.
        2 => config.prop_map(move |e| Some(format!("#cloud-config\n{}\n", object(e)))),
        1 => prop::collection::vec(entry(), 1..5)
            .prop_map(move |e| Some(format!("#cloud-config\n{}", serde_saphyr::to_string(&object(e)).unwrap()))),
        1 => text().prop_map(|t| Some(format!("#!/bin/sh\n{t}"))),
        1 => text().prop_map(|t| Some(format!("#cloud-boothook\n#!/bin/sh\n{t}\n"))),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    let environment = prop::collection::btree_map("[A-Z_][A-Z0-9_]{0,10}", text(), 0..4);
    let files = prop::collection::vec(("/opt/[a-z]{1,8}", text()), 0..3);
    ("[a-z][a-z0-9-]{0,20}", text(), environment, files).prop_map(|(name, body, environment, files)| Script {
        id: format!("feature-{name}"),
        name,
        role: ScriptRole::Feature,
        hash: "0123456789abcdef".into(),
        body: format!("#!/bin/sh\n{body}"),
        args: Vec::new(),
        environment,
        files: (files.into_iter())
            .map(|(path, content)| ScriptFile {
                path,
                mode: "0600".into(),
                content,
            })
            .collect(),
        workdir: None,
        deadline_seconds: 60,
        rerun: phoenix::crd::RerunPolicy::OnChange,
        keep_output: true,
        run_as: None,
    })
}

/// So many machines that admission accepts, by name.
pub fn generated(count: usize) -> BTreeMap<String, Wish> {
    let mut runner = TestRunner::deterministic();
    let machine = (
        prop::collection::vec(package(), 0..5),
        user_data(),
        any::<bool>(),
        prop::collection::vec(script(), 0..3),
    );
    let admission = Admission::new().unwrap();
    (0..count)
        .map(|n| {
            let (packages, user_data, agent, scripts) = machine.new_tree(&mut runner).unwrap().current();
            let name = format!("machine-{n}");
            let mut object = json!({
                "apiVersion": "phoenix-hypervisor.io/v1alpha1",
                "kind": "PhoenixVM",
                "metadata": {"name": name},
                "spec": {"hypervisorRef": {"name": "pve"}, "cloudInit": {"packages": packages}, "agent": {"install": agent}},
            });
            if let Some(text) = &user_data {
                object["spec"]["cloudInit"]["userData"] = json!(text);
            }
            admission.check(&object, None).unwrap_or_else(|e| panic!("{object}: {e:?}"));
            let wish = Wish {
                packages,
                user_data,
                agent,
                programs: scripts.iter().map(wishes::program).collect(),
            };
            (name, wish)
        })
        .collect()
}
