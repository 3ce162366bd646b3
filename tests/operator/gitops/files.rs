//! The files that people install: made from each other as they should be, and each with tests in Argo CD's own layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::moments::Moment;
use crate::evaluator::{act, judge, known_fields, repository};

const FOLDER: &str = "config/argocd/resource_customizations/phoenix-hypervisor.io";

fn kinds() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository(FOLDER)).unwrap();
    let mut kinds: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    kinds.sort();
    assert_eq!(kinds.len(), 5);
    kinds
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn the_values_of_argo_cds_chart_are_up_to_date() {
    let made = Command::new(repository("config/argocd/values.sh")).output().unwrap();
    assert!(made.status.success());
    let stored = read(&repository("examples/argocd/values.yaml"));
    assert!(
        stored == String::from_utf8(made.stdout).unwrap(),
        "examples/argocd/values.yaml is out of date: run `make argocd`"
    );
}

#[test]
fn what_is_the_same_for_several_kinds_is_the_same() {
    let of = |path: &str| read(&repository(FOLDER).join(path));
    assert_eq!(of("PhoenixLXC/health.lua"), of("PhoenixVM/health.lua"));
    assert_eq!(of("PhoenixLXC/health.lua"), of("PhoenixTemplate/health.lua"));
    assert_eq!(
        of("PhoenixLXC/actions/discovery.lua"),
        of("PhoenixVM/actions/discovery.lua")
    );
    let mut scripts: BTreeMap<String, String> = BTreeMap::new();
    for kind in kinds() {
        for action in fs::read_dir(kind.join("actions")).into_iter().flatten() {
            let path = action.unwrap().path().join("action.lua");
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let name = path
                .parent()
                .unwrap()
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_string();
            let known = scripts.entry(name).or_insert_with(|| text.clone());
            assert_eq!(*known, text, "{}", path.display());
        }
    }
}

/// Phoenix needs neither waves nor exceptions.
#[test]
fn the_examples_have_known_fields_and_no_exceptions() {
    for name in ["application", "applicationset"] {
        let path = repository(&format!("examples/argocd/{name}.yaml"));
        let checked = known_fields(&yaml(&path));
        assert_eq!(checked, Ok(()), "{name}");
        for word in ["ignoreDifferences", "sync-wave", "healthCheckExprs"] {
            assert!(!read(&path).contains(word), "{name}: {word}");
        }
    }
}

/// `health_test.yaml` of each kind, as Argo CD's own tests read it.
#[test]
fn the_health_tests_hold() {
    for kind in kinds() {
        let tests = yaml(&kind.join("health_test.yaml"));
        let tests = list(&tests["tests"]);
        let input = |test: &Value| yaml(&kind.join(test["inputPath"].as_str().unwrap()));
        let objects: Vec<Value> = tests.iter().map(input).collect();
        for (test, verdicts) in tests.iter().zip(judge(&objects)) {
            let (status, message) = verdicts.argocd;
            let expected = &test["healthStatus"];
            let found = json!({"status": status, "message": message});
            assert_eq!(*expected, found, "{}: {}", kind.display(), test["inputPath"]);
        }
        let files = fs::read_dir(kind.join("testdata")).unwrap().count();
        assert_eq!(tests.len(), files, "{}: test data without a test", kind.display());
    }
}

/// `action_test.yaml` of each kind; times are those of the run.
#[test]
fn the_tests_of_actions_hold() {
    for kind in kinds().iter().filter(|kind| kind.join("actions").exists()) {
        let folder = kind.join("actions");
        let tests = yaml(&folder.join("action_test.yaml"));
        for test in list(&tests["discoveryTests"]) {
            let offered = &judge(&[yaml(&folder.join(test["inputPath"].as_str().unwrap()))])[0].actions;
            let expected = list(&test["result"]).iter().map(|action| {
                let name = action["name"].as_str().unwrap().to_string();
                (name, action["disabled"] != true)
            });
            assert_eq!(
                *offered,
                expected.collect(),
                "{}: {}",
                kind.display(),
                test["inputPath"]
            );
        }
        let mut tried = Vec::new();
        for test in list(&tests["actionTests"]) {
            let path = |key: &str| folder.join(test[key].as_str().unwrap());
            let action = test["action"].as_str().unwrap();
            tried.push(action.to_string());
            let found = act(&yaml(&path("inputPath")), action);
            if let Some(expected) = test["expectedErrorMessage"].as_str() {
                let error = found.unwrap_err();
                assert!(error.contains(expected), "{}: {action}: {error}", kind.display());
                continue;
            }
            let (mut found, mut expected) = (found.unwrap(), yaml(&path("expectedOutputPath")));
            for object in [&mut found, &mut expected] {
                without_times(object);
            }
            assert_eq!(found, expected, "{}: {action}", kind.display());
        }
        let all = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        for entry in all.filter(|entry| entry.path().join("action.lua").exists()) {
            let name = entry.file_name().into_string().unwrap();
            assert!(tried.contains(&name), "{}: no test of {name}", kind.display());
        }
    }
}

/// Puts a word in the place of annotations that hold a time.
pub fn without_times(object: &mut Value) {
    let annotations = object["metadata"]["annotations"].as_object_mut();
    for (_, value) in annotations.into_iter().flatten() {
        if value
            .as_str()
            .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
        {
            *value = json!("a time");
        }
    }
}

/// One story at a time keeps what it met.
static KEEPING: Mutex<()> = Mutex::new(());

/// Keeps an object for each verdict and reason that were met as test data of the health checks, where `PHOENIX_RECORD`
/// asks for it (`make argocd-record`); what is there already stays.
pub fn keep(moments: &[Moment]) {
    if std::env::var_os("PHOENIX_RECORD").is_none() {
        return;
    }
    let _one = KEEPING.lock();
    for moment in moments.iter().filter(|moment| !moment.is_deleted()) {
        let kind = repository(FOLDER).join(moment.object["kind"].as_str().unwrap());
        let verdict = moment.verdicts.argocd.0.to_lowercase();
        let path = kind.join(format!("testdata/{verdict}-{}.yaml", moment.reason()));
        if !path.exists() {
            fs::write(path, serde_saphyr::to_string(&moment.object).unwrap()).unwrap();
        }
    }
    for kind in kinds() {
        let entries = fs::read_dir(kind.join("testdata")).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let objects: Vec<Value> = paths.iter().map(|path| yaml(path)).collect();
        let tests = judge(&objects).into_iter().zip(&paths).map(|(verdicts, path)| {
            let (status, message) = verdicts.argocd;
            let input = format!("testdata/{}", path.file_name().unwrap().to_str().unwrap());
            json!({"healthStatus": {"status": status, "message": message}, "inputPath": input})
        });
        let tests = json!({"tests": tests.collect::<Vec<_>>()});
        fs::write(kind.join("health_test.yaml"), serde_saphyr::to_string(&tests).unwrap()).unwrap();
    }
}
