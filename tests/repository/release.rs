//! Workflows, issue templates and the plugin's manifest are valid, ask for no more than they need, and call what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of a folder with their contents.
fn folder(name: &str) -> Vec<(String, Value)> {
    let files = fs::read_dir(root().join(name))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), yaml(&path))).collect()
}

/// Jobs of a workflow by name, and their steps.
fn jobs(workflow: &Value) -> impl Iterator<Item = (&String, &Value, &Vec<Value>)> {
    let jobs = workflow["jobs"].as_object().unwrap().iter();
    jobs.map(|(name, job)| (name, job, job["steps"].as_array().unwrap()))
}

#[test]
fn workflows_call_targets_that_the_makefile_has() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':').map(|(target, _)| target))
        .collect();
    let mut called = BTreeSet::new();
    for (file, workflow) in folder(".github/workflows") {
        for (job, _, steps) in jobs(&workflow) {
            for line in steps
                .iter()
                .filter_map(|step| step["run"].as_str())
                .flat_map(str::lines)
            {
                let Some(target) = line.trim().strip_prefix("make ") else {
                    continue;
                };
                assert!(targets.contains(target), "{file}: {job}: make {target}");
                called.insert(target.to_string());
            }
        }
    }
    let wanted = ["deny", "docs", "release", "test"].map(String::from);
    assert_eq!(called, BTreeSet::from(wanted));
}

/// A workflow begins with reading, and only a job that builds nothing may write.
#[test]
fn only_the_job_that_publishes_may_write() {
    let mut writing = Vec::new();
    for (file, workflow) in folder(".github/workflows") {
        assert_eq!(
            workflow["permissions"],
            serde_json::json!({"contents": "read"}),
            "{file}"
        );
        for (job, content, steps) in jobs(&workflow) {
            let own = content["permissions"].as_object();
            if own.into_iter().flatten().any(|(_, what)| what == "write") {
                writing.push(job.clone());
                let checks_out = |step: &Value| step["uses"].as_str().is_some_and(|uses| uses.contains("checkout"));
                assert!(!steps.iter().any(checks_out), "{file}: {job} builds and may write");
            }
        }
    }
    assert_eq!(writing, ["publish"]);
}

#[test]
fn actions_of_others_are_pinned() {
    let mut seen = 0;
    for (file, workflow) in folder(".github/workflows") {
        for (_, _, steps) in jobs(&workflow) {
            for uses in steps.iter().filter_map(|step| step["uses"].as_str()) {
                seen += 1;
                let (_, version) = uses.split_once('@').unwrap_or_else(|| panic!("{file}: {uses}"));
                let major = version.strip_prefix('v').is_some_and(|v| v.parse::<u32>().is_ok());
                let commit = version.len() == 40 && version.chars().all(|c| c.is_ascii_hexdigit());
                assert!(major || commit, "{file}: {uses}");
            }
        }
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn templates_of_issues_have_what_the_form_needs() {
    let mut forms = 0;
    for (file, form) in folder(".github/ISSUE_TEMPLATE") {
        if file.ends_with("config.yml") {
            continue;
        }
        forms += 1;
        for field in ["name", "description"] {
            assert!(form[field].is_string(), "{file}: no {field}");
        }
        let fields = form["body"].as_array().unwrap();
        for field in fields {
            let kind = field["type"].as_str().unwrap();
            let named = if kind == "markdown" { "value" } else { "label" };
            assert!(field["attributes"][named].is_string(), "{file}: {field}");
            assert!(kind == "markdown" || field["id"].is_string(), "{file}: {field}");
        }
    }
    assert_eq!(forms, 2);
}

/// What stands between @ in the plugin's manifest is what `image/release.sh` fills in.
#[test]
fn the_manifest_of_the_plugin_is_filled_in() {
    let path = root().join("config/krew/phoenix.yaml");
    let plugin = yaml(&path);
    assert_eq!(plugin["metadata"]["name"], "phoenix");
    assert!(plugin["spec"]["shortDescription"].as_str().unwrap().len() <= 50);
    let script = fs::read_to_string(root().join("image/release.sh")).unwrap();
    let platforms = plugin["spec"]["platforms"].as_array().unwrap();
    for platform in platforms {
        let arch = platform["selector"]["matchLabels"]["arch"].as_str().unwrap();
        assert_eq!(platform["sha256"], format!("@SHA256_{}@", arch.to_uppercase()));
        assert!(script.contains("@SHA256_${arch^^}@"));
        let uri = platform["uri"].as_str().unwrap();
        assert_eq!(uri, format!("@DOWNLOADS@/phoenix-@VERSION@-linux-{arch}.tar.gz"));
    }
    for mark in ["@VERSION@", "@HOMEPAGE@", "@DOWNLOADS@"] {
        assert!(script.contains(mark), "{mark}");
    }
}

/// `phoenix install` has every feature of `config/features`: the files are in the binary.
#[test]
fn every_shipped_feature_is_installed() {
    let source = fs::read_to_string(root().join("src/install.rs")).unwrap();
    for entry in fs::read_dir(root().join("config/features")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            source.contains(&format!("config/features/{name}")),
            "{name} is not in src/install.rs"
        );
    }
}

/// The changelog has a section for what comes next, and one for the version if that is released.
#[test]
fn the_changelog_says_what_comes() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.contains("\n## [Unreleased]\n"));
}
