//! What the chart renders: six sets of values against snapshots, and what the snapshots leave out.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::helm::{chart, helm};
use crate::harness::repository;

/// Objects of `helm template` with these further arguments.
pub fn rendered(args: &[&str]) -> Vec<Value> {
    let chart = chart();
    let all = [&["template", "phoenix", &chart, "--namespace", "phoenix"], args].concat();
    let answer = helm(&all);
    assert!(answer.ok, "{}", answer.stderr);
    documents(&answer.stdout)
}

/// Objects of a YAML stream.
pub fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    all.into_iter().filter(|object| !object.is_null()).collect()
}

pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The first place where two values differ. Tools write the same number as 1, 1.0 or 1e+00.
pub fn difference(path: &str, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            let keys: std::collections::BTreeSet<&String> = l.keys().chain(r.keys()).collect();
            let at = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter()
                .find_map(|key| difference(&format!("{path}.{key}"), &at(l, key), &at(r, key)))
        }
        (Value::Array(l), Value::Array(r)) if l.len() == r.len() => {
            let pairs = l.iter().zip(r).enumerate();
            pairs
                .into_iter()
                .find_map(|(n, (l, r))| difference(&format!("{path}[{n}]"), l, r))
        }
        (Value::Number(l), Value::Number(r)) if l.as_f64() == r.as_f64() => None,
        _ if left == right => None,
        _ => Some(format!("{path}: {left} is not {right}")),
    }
}

fn files(folder: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::fs::read_dir(repository(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != "kustomization.yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn six_sets_of_values_render_as_recorded() {
    let chart = chart();
    let lint = helm(&["lint", "--strict", &chart]);
    assert!(lint.ok, "{}{}", lint.stdout, lint.stderr);
    let folder = repository("tests/e2e/chart/values");
    let mut sets: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    sets.sort();
    assert_eq!(sets.len(), 6);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(repository("tests/e2e/chart/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    for set in sets {
        // Definitions and features are long, and those of the repository.
        let answer = helm(&[
            "template",
            "phoenix",
            &chart,
            "--namespace=phoenix",
            "--set=crds.enabled=false,features.enabled=false",
            &format!("--values={}", set.display()),
        ]);
        assert!(answer.ok, "{}: {}", set.display(), answer.stderr);
        let name = set.file_stem().unwrap().to_str().unwrap();
        settings.bind(|| insta::assert_snapshot!(name, answer.stdout));
    }
}

#[test]
fn a_typo_and_a_wrong_value_are_refused_by_name() {
    let chart = chart();
    for (set, named) in [
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ("namespaces=ai", "at '/namespaces': got string, want array"),
        (
            "image.pullPolicy=always",
            "at '/image/pullPolicy': value must be one of",
        ),
        ("namespaces={Ai}", "at '/namespaces/0'"),
        ("metrics.auth=kubernetes", "needs metrics.tls.secretName"),
        ("podDisruptionBudget.enabled=true", "needs replicaCount of 2 or more"),
        ("ui.service.enabled=true", "needs ui.enabled"),
        ("ui.enabled=true,ui.port=8080", "the page needs a port of its own"),
    ] {
        let answer = helm(&["template", "phoenix", &chart, "--set", set]);
        assert!(!answer.ok && answer.stderr.contains(named), "{set}: {}", answer.stderr);
    }
}

#[test]
fn definitions_and_features_are_those_of_the_repository() {
    assert_eq!(files("charts/phoenix/files/crds"), files("crds"), "run charts/sync.sh");
    assert_eq!(files("config/crd"), files("crds"), "run charts/sync.sh");
    assert_eq!(
        files("charts/phoenix/files/features"),
        files("config/features"),
        "run charts/sync.sh"
    );
    for name in ["phoenix.rules.yaml", "dashboard.json"] {
        let read = |folder: &str| std::fs::read_to_string(repository(folder).join(name)).unwrap();
        assert_eq!(
            read("charts/phoenix/files"),
            read("config/monitoring"),
            "run charts/sync.sh"
        );
    }
    let monitored = rendered(&["--set=prometheusRule.enabled=true,dashboard.enabled=true"]);
    let rules: Value = serde_saphyr::from_str(include_str!("../../../config/monitoring/phoenix.rules.yaml")).unwrap();
    assert_eq!(
        difference("rules", &of_kind(&monitored, "PrometheusRule")[0]["spec"], &rules),
        None
    );
    let dashboard = of_kind(&monitored, "ConfigMap")[0]["data"]["phoenix.json"]
        .as_str()
        .unwrap();
    assert_eq!(
        dashboard.trim_end(),
        include_str!("../../../config/monitoring/dashboard.json").trim_end()
    );
    let objects = rendered(&[]);
    let crds = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(crds.len(), 5);
    for (name, text) in files("crds") {
        let stored: Value = serde_saphyr::from_str(&text).unwrap();
        let crd = crds
            .iter()
            .find(|crd| crd["metadata"]["name"] == stored["metadata"]["name"]);
        let crd = crd.unwrap_or_else(|| panic!("{name} is not in the chart"));
        assert_eq!(difference(&name, &crd["spec"], &stored["spec"]), None);
        assert_eq!(
            crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep",
            "{name}"
        );
    }
    let without = rendered(&["--set=crds.keep=false"]);
    let crd = of_kind(&without, "CustomResourceDefinition")[0];
    assert!(crd["metadata"]["annotations"]["helm.sh/resource-policy"].is_null());
    assert!(of_kind(&rendered(&["--set=crds.enabled=false"]), "CustomResourceDefinition").is_empty());
}

/// Where the kind is not there yet, features come after the release, with its marks; later they are part of it.
#[test]
fn features_come_with_the_first_release_and_belong_to_the_next() {
    let first = rendered(&["--set=namespaces={ai,lab}"]);
    let features = of_kind(&first, "PhoenixFeature");
    assert_eq!(features.len(), 2 * files("config/features").len());
    for feature in features {
        let annotations = &feature["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "post-install,post-upgrade");
        assert_eq!(annotations["meta.helm.sh/release-name"], "phoenix");
    }
    let later = rendered(&["--api-versions=phoenix-hypervisor.io/v1alpha1/PhoenixFeature"]);
    let features = of_kind(&later, "PhoenixFeature");
    assert_eq!(features.len(), files("config/features").len());
    for feature in features {
        assert_eq!(feature["metadata"]["namespace"], "phoenix");
        assert!(feature["metadata"]["annotations"]["helm.sh/hook"].is_null());
        assert_eq!(feature["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn the_table_of_values_and_the_version_are_of_today() {
    let output = Command::new(repository("charts/readme.py"))
        .arg("--check")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(Path::new(&chart()).join("Chart.yaml")).unwrap();
    let about: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    let listed = about["annotations"]["artifacthub.io/crds"].as_str().unwrap();
    for (name, text) in files("crds") {
        let crd: Value = serde_saphyr::from_str(&text).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        assert!(
            listed.contains(&format!("kind: {kind},")),
            "{name} is not in Chart.yaml"
        );
    }
}
