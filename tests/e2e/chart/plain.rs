//! Plain YAML: `config/default`, `phoenix install` and the chart are the same thing.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use super::render::{difference, documents, of_kind, rendered};
use crate::harness::cluster::Cluster;
use crate::harness::repository;

fn install(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .arg("install")
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by kind and name, without what belongs to the tool that made them.
fn compared(objects: Vec<Value>) -> Value {
    let mut all = serde_json::Map::new();
    for mut object in objects {
        let meta = &object["metadata"];
        let key = format!("{} {} {}", object["kind"], meta["namespace"], meta["name"]);
        object["metadata"] = json!({"name": meta["name"], "namespace": meta["namespace"]});
        all.insert(key, object);
    }
    Value::Object(all)
}

#[test]
fn the_base_of_kustomize_is_what_install_prints() {
    let kubectl = Cluster::program();
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(repository("config/default"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let base = documents(&String::from_utf8(output.stdout).unwrap());
    let printed = documents(&install(&["--features=none"]));
    assert_eq!(difference("", &compared(base), &compared(printed)), None);
}

/// The component of kustomize adds what `--expose` does.
#[test]
fn the_component_of_kustomize_is_what_install_adds_for_services() {
    let dir = crate::harness::cluster::cluster().dir.join("exposed");
    std::fs::create_dir_all(&dir).unwrap();
    for folder in ["config", "crds"] {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(repository(folder))
            .arg(&dir)
            .status()
            .unwrap();
        assert!(copied.success());
    }
    let kustomization = "resources: [config/default]\ncomponents: [config/expose]\n";
    std::fs::write(dir.join("kustomization.yaml"), kustomization).unwrap();
    let output = Command::new(Cluster::program())
        .arg("kustomize")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = documents(&String::from_utf8(output.stdout).unwrap());
    let printed = documents(&install(&["--features=none", "--expose"]));
    assert_eq!(difference("", &compared(made), &compared(printed)), None);
}

/// Rights are the same however Phoenix is installed.
#[test]
fn the_chart_grants_what_install_grants() {
    let rights = |objects: &[Value]| {
        let mut found = BTreeMap::new();
        for kind in ["ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"] {
            for object in of_kind(objects, kind) {
                let meta = &object["metadata"];
                let key = format!("{kind} {} {}", meta["namespace"], meta["name"]);
                found.insert(key, json!([object["rules"], object["roleRef"], object["subjects"]]));
            }
        }
        found
    };
    for (chart, plain) in [
        (vec![], vec!["--namespace=phoenix"]),
        (
            vec!["--set=namespaces={ai,lab}"],
            vec!["--namespace=phoenix", "--namespaces=ai,lab"],
        ),
        (
            vec!["--set=expose.enabled=true"],
            vec!["--namespace=phoenix", "--expose"],
        ),
    ] {
        let by_chart = rendered(&chart);
        let by_install = documents(&install(&plain));
        assert_eq!(rights(&by_chart), rights(&by_install), "{chart:?}");
        let container = |objects: &[Value]| {
            let deployment = of_kind(objects, "Deployment")[0].clone();
            let pod = &deployment["spec"]["template"]["spec"];
            json!([
                pod["securityContext"],
                pod["containers"][0]["securityContext"],
                pod["containers"][0]["ports"]
            ])
        };
        assert_eq!(container(&by_chart), container(&by_install));
    }
}

/// One stream into an empty cluster: kubectl applies all but the features the first time, and those the second time;
/// `--apply` needs one run.
#[test]
fn one_command_installs_into_an_empty_cluster() {
    let cluster = Cluster::empty("installed");
    let kubectl = &cluster.admin;
    kubectl.must(&["create", "namespace", "ai"]);
    let all = install(&["--namespaces=ai"]);
    let answer = kubectl.run_with(&["apply", "-f", "-"], &all);
    let errors: Vec<&str> = answer
        .stderr
        .lines()
        .filter(|l| l.contains("no matches for kind"))
        .collect();
    assert!(
        !answer.ok && errors.iter().all(|l| l.contains("PhoenixFeature")),
        "{}",
        answer.stderr
    );
    kubectl.must(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
    kubectl.must_with(&["apply", "-f", "-"], &all);
    let again = kubectl.must_with(&["apply", "-f", "-"], &all);
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    // The features go with their kind, before kubectl gets to them.
    kubectl.must_with(&["delete", "-f", "-", "--ignore-not-found", "--timeout=60s"], &all);

    let output = Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args(["install", "--namespaces=ai", "--apply"])
        .env("KUBECONFIG", &kubectl.kubeconfig)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let features = kubectl.must(&["-n", "ai", "get", "phoenixfeature", "-o", "name"]);
    let shipped = std::fs::read_dir(repository("config/features")).unwrap().count();
    assert_eq!(features.lines().count(), shipped, "{features}");
    // What the chart renders is taken by a real API server, too; Prometheus Operator's kinds aside.
    let chart = rendered(&[
        "--set=networkPolicy.enabled=true,podDisruptionBudget.enabled=true,replicaCount=2,dashboard.enabled=true",
        "--set=fullnameOverride=other",
    ]);
    kubectl.must(&["create", "namespace", "phoenix"]);
    for object in chart {
        kubectl.must_with(
            &[
                "apply",
                "--dry-run=server",
                "--force-conflicts",
                "--server-side",
                "-f",
                "-",
            ],
            &object.to_string(),
        );
    }
}
