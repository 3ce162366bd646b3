//! The command itself: exit codes, files, summary.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn phoenix(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .arg("convert")
        .args(args)
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn converts_and_reports() {
    let dir = tempfile::tempdir().unwrap();
    let (out, report) = (dir.path().join("out"), dir.path().join("report.json"));
    let readable = dir.path().join("report.md");
    let legacy = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/legacy");
    let file = |name: &str| legacy.join(name).to_str().unwrap().to_owned();
    let args = [
        "--hypervisor-config",
        &file("phoenix_hypervisor_config.json"),
        "--lxc-configs",
        &file("phoenix_lxc_configs.json"),
        "--vm-configs",
        &file("phoenix_vm_configs.json"),
        "--applications",
        &file("applications"),
        "--namespace",
        "fleet",
        "--hypervisor-name",
        "thinkheads",
        "--output-dir",
        text(&out),
        "--report",
        text(&report),
        "--report-md",
        text(&readable),
    ];
    let run = phoenix(&args);
    let words = String::from_utf8(run.stderr).unwrap();
    let first = words.lines().next().unwrap();
    assert!(
        first.starts_with("Phoenix"),
        "what to do comes first, by object: {words}"
    );
    let readable = fs::read_to_string(&readable).unwrap();
    for part in [
        "## What to do",
        "### PhoenixLXC/",
        "## Not mapped",
        "| `/lxc_configs/*/cores` | 22 | 0 | 0 |",
    ] {
        assert!(readable.contains(part), "{part}: {readable}");
    }
    assert_eq!(run.status.code(), Some(0), "{words}");
    assert!(words.contains("0 errors, 13 warnings"), "{words}");
    assert!(
        words.contains("IP address 10.0.0.101 is also that of container 101"),
        "{words}"
    );
    let manifest = fs::read_to_string(out.join("phoenixlxc-llamacpp.yaml")).unwrap();
    assert!(
        manifest.contains("  namespace: fleet\n") && manifest.contains("    name: thinkheads\n"),
        "{manifest}"
    );
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let totals = &report["totals"];
    let sum: u64 = ["mapped", "defaulted", "notMapped"]
        .iter()
        .map(|o| totals["all"][o].as_u64().unwrap())
        .sum();
    assert_eq!(sum as usize, report["entries"].as_array().unwrap().len());
    assert_eq!(totals["unknownKeys"], 0);
    assert_eq!(totals["byKey"]["/lxc_configs/*/cores"]["mapped"], 22);
    let first = &report["entries"][0];
    assert_eq!(first["file"], file("phoenix_hypervisor_config.json"));
    assert_eq!(first["outcome"], "notMapped");
    assert!(
        report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .all(|f| f["severity"].is_string() && f["fix"].is_string())
    );

    fs::write(out.join("old.yaml"), "").unwrap();
    let again = phoenix(&args);
    let words = String::from_utf8(again.stderr).unwrap();
    assert!(words.contains("old.yaml is not of this conversion"), "{words}");
}

#[test]
fn an_error_is_exit_1_and_the_rest_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lxc.json");
    let out = dir.path().join("out");
    fs::write(&file, r#"{"lxc_configs": {"100": {"name": "a", "clone_from_ctid": "999"}, "101": {"name": "b", "template": "local:vztmpl/d.tar.zst"}}}"#).unwrap();
    let run = phoenix(&["--lxc-configs", text(&file), "--output-dir", text(&out)]);
    assert_eq!(run.status.code(), Some(1));
    let words = String::from_utf8(run.stderr).unwrap();
    assert!(
        words.contains("error: container 100: clone_from_ctid \"999\" is not in the files"),
        "{words}"
    );
    assert!(out.join("phoenixlxc-b.yaml").exists() && !out.join("phoenixlxc-a.yaml").exists());
}

#[test]
fn a_model_server_that_is_not_written_is_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("lxc.json"), dir.path().join("out"));
    for (engine, code) in [(r#"{"port": 8000}"#, 1), (r#"{"port": 8000, "model": "org/m"}"#, 0)] {
        let content = format!(
            r#"{{"lxc_configs": {{"801": {{"name": "a", "template": "local:vztmpl/d.tar.zst", "vllm_engine_config": {engine}}}}}}}"#
        );
        fs::write(&file, content).unwrap();
        let run = phoenix(&["--lxc-configs", text(&file), "--output-dir", text(&out)]);
        let words = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(code), "{words}");
        assert_eq!(
            words.contains("error: container 801: it runs a model"),
            code == 1,
            "{words}"
        );
        assert!(out.join("phoenixlxc-a.yaml").exists(), "the rest is written");
    }
}

#[test]
fn unreadable_input_is_exit_2_and_writes_nothing() {
    let good = r#"{"lxc_configs": {"101": {"name": "b"}}}"#;
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bad: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("blank", b" \n\t"),
        ("bom only", b"\xef\xbb\xbf"),
        ("no json", b"lxc_configs: {}"),
        ("cut off", br#"{"lxc_configs": {"#),
        ("trailing garbage", br#"{"lxc_configs": {}} x"#),
        ("two documents", b"{}{}"),
        ("array", b"[]"),
        ("null", b"null"),
        ("string", br#""text""#),
        ("not UTF-8", b"{\"name\": \"\xff\"}"),
        ("trailing comma", br#"{"a": 1,}"#),
        ("deep", deep.as_bytes()),
    ];
    for (what, bytes) in bad {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, out) = (
            dir.path().join("good.json"),
            dir.path().join("bad.json"),
            dir.path().join("out"),
        );
        fs::write(&one, good).unwrap();
        fs::write(&two, bytes).unwrap();
        let run = phoenix(&[
            "--lxc-configs",
            text(&one),
            "--lxc-configs",
            text(&two),
            "--output-dir",
            text(&out),
        ]);
        let words = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{what}: {words}");
        assert!(
            words.contains("bad.json") && !words.contains("panicked"),
            "{what}: {words}"
        );
        assert!(!out.exists(), "{what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for args in [
        vec!["--output-dir", text(&out)],
        vec!["--lxc-configs", "/nonexistent/lxc.json", "--output-dir", text(&out)],
        vec!["--lxc-configs", text(dir.path()), "--output-dir", text(&out)],
        vec![
            "--lxc-configs",
            "x",
            "--namespace",
            "No Such",
            "--output-dir",
            text(&out),
        ],
    ] {
        assert_eq!(phoenix(&args).status.code(), Some(2), "{args:?}");
        assert!(!out.exists(), "{args:?}");
    }
}
