//! Folders as GitOps keeps them: with other kinds beside Phoenix's, and kustomizations.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::site::{Answer, Site, lxc};

const APPLICATION: &str = "\
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: fleet}
spec: {project: default}
";

const CONTAINER: &str = "\
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixLXC
metadata: {name: web}
spec:
  hypervisorRef: {name: pve}
  source: {image: {volid: 'local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst'}}
  memory: 512Mi
  rootfs: {size: 4Gi}
";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Runs `phoenix` with the programs of one folder only.
fn phoenix(programs: &Path, args: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phoenix"));
    command.args(args).stdin(Stdio::null());
    command
        .env("PATH", programs)
        .env_remove("KUBECONFIG")
        .env_remove("RUST_LOG");
    let output = command.output().unwrap();
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Makes a shell script. Another process writes it, so that no test that starts one meanwhile holds it open.
fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    let mut writer = Command::new("sh");
    writer.args([
        "-c",
        r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod +x "$2""#,
        "sh",
        text,
    ]);
    assert!(writer.arg(path).status().unwrap().success());
}

/// A program that prints `built.txt` of the folder that it is asked to build, without any other program.
fn builder(word: &str) -> String {
    format!(
        r#"[ "$1 $#" = "{word} 2" ] || exit 9
echo "a warning of $0" >&2
while IFS= read -r line; do printf '%s\n' "$line"; done < "$2/built.txt""#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_of_phoenix_in_a_folder_is_skipped_and_named() {
    let site = Site::new().await;
    site.write("web", &lxc("web", json!({})));
    let external =
        json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "token"}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ai"}});
    let mixed = json!({"apiVersion": "v1", "kind": "List", "items": [lxc("db", json!({})), external, namespace]});
    site.write("mixed", &mixed);
    for (name, text) in [
        ("argo.yaml", APPLICATION),
        ("values.yaml", "replicas: 3\nkind: Deployment\n"),
        ("patch.yaml", "- {op: add, path: /spec/cores, value: 2}\n"),
        (
            "kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [web.json]\n",
        ),
    ] {
        fs::write(site.folder.path().join(name), text).unwrap();
    }
    let expected = [
        ("argo.yaml", "Application fleet of argoproj.io/v1alpha1"),
        ("kustomization.yaml", "Kustomization (-k builds it)"),
        ("mixed.json", "ExternalSecret token of external-secrets.io/v1"),
        ("patch.yaml", "no apiVersion and kind"),
        ("values.yaml", "no apiVersion and kind"),
    ];
    let expected =
        expected.map(|(file, what)| format!("skipped in {}: {what}", site.folder.path().join(file).display()));
    for verb in ["plan", "apply"] {
        let answer = site.phoenix(&[verb]).await.expect(0);
        let skipped: Vec<&str> = answer.stderr.lines().filter(|l| l.starts_with("skipped")).collect();
        assert_eq!(skipped, expected, "{answer:?}");
    }
    assert_eq!(site.vmids().len(), 2, "both containers are there");
    let status = site.phoenix(&["status"]).await.expect(0);
    assert_eq!(status.stderr, "", "who names objects is told nothing of others");
}

#[test]
fn a_slip_in_an_object_of_phoenix_is_refused_and_not_skipped() {
    let current = "apiVersion: phoenix-hypervisor.io/v1alpha1";
    for (from, to, told) in [
        (
            "kind: PhoenixLXC",
            "kind: PhoenixLxc",
            "yaml:3: The PhoenixLxc \"web\" is invalid",
        ),
        (
            current,
            "apiVersion: phoenix-hypervisor.io/v1",
            "in version \"phoenix-hypervisor.io/v1\"",
        ),
        (
            current,
            "apiVersion: Phoenix-Hypervisor.io/v1alpha1",
            "Phoenix reads PhoenixFeature",
        ),
        (
            current,
            "apiVersion: phoenixhypervisor.io/v1alpha1",
            "Phoenix reads PhoenixFeature",
        ),
        (current, "apiversion: phoenix-hypervisor.io/v1alpha1", "apiVersion"),
        ("kind: PhoenixLXC", "Kind: PhoenixLXC", "kind"),
        (
            CONTAINER,
            &format!("- {}", CONTAINER.replace('\n', "\n  ")),
            "must be an object",
        ),
    ] {
        let text = format!("---\n{}", CONTAINER.replace(from, to));
        let folder = folder(&[("argo.yaml", APPLICATION), ("web.yaml", &text)]);
        let path = folder.path().to_str().unwrap();
        let answer = phoenix(folder.path(), &["plan", "-f", path]).expect(2);
        let place = format!("{path}/web.yaml:");
        assert!(
            answer.stderr.starts_with(&place) && answer.stderr.contains(told),
            "{to}: {answer:?}"
        );
    }
}

#[test]
fn a_file_that_is_no_yaml_is_refused_with_file_line_and_reason() {
    let broken = "a: 1\nb: [1\n";
    let template = "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Values.name }}\n";
    let folder = folder(&[
        ("broken.yaml", broken),
        ("service.yaml", template),
        ("web.yaml", CONTAINER),
    ]);
    let path = folder.path().to_str().unwrap();
    let answer = phoenix(folder.path(), &["status", "-f", path]).expect(2);
    let told: Vec<&str> = answer.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{answer:?}");
    assert!(told[0].starts_with(&format!("{path}/broken.yaml:2: ")), "{answer:?}");
    assert!(!told[0].contains("Helm"), "{answer:?}");
    assert!(told[1].starts_with(&format!("{path}/service.yaml:4: ")), "{answer:?}");
    assert!(told[1].contains("rendered first: helm template"), "{answer:?}");
}

#[test]
fn a_file_with_nothing_of_phoenix_is_refused_where_it_is_named_itself() {
    let folder = folder(&[
        ("argo.yaml", APPLICATION),
        ("empty.yaml", "# nothing\n"),
        ("web.yaml", CONTAINER),
    ]);
    let at = |file: &str| folder.path().join(file).to_str().unwrap().to_owned();
    let answer = phoenix(
        folder.path(),
        &["plan", "-f", &at("argo.yaml"), &at("empty.yaml"), &at("web.yaml")],
    )
    .expect(2);
    assert_eq!(
        answer.stderr,
        format!(
            "no Phoenix objects in {}, only Application fleet of argoproj.io/v1alpha1\nno Phoenix objects in {}\n",
            at("argo.yaml"),
            at("empty.yaml")
        )
    );
}

#[test]
fn a_kustomization_is_built_with_kubectl_and_else_with_kustomize() {
    let built = format!("{APPLICATION}---\n{CONTAINER}");
    // What is in the folder is the program's to read.
    let folder = folder(&[("built.txt", &built), ("base.yaml", "a: [1\n")]);
    let (path, bin) = (folder.path().to_str().unwrap(), TempDir::new().unwrap());
    script(bin.path(), "kustomize", &builder("build"));
    for verb in [&["status"][..], &["graph"]] {
        let shown = phoenix(bin.path(), &[verb, &["-k", path]].concat()).expect(0);
        assert!(shown.stdout.contains("web"), "{shown:?}");
    }
    let answer = phoenix(bin.path(), &["apply", "--wait=false", "--kustomize", path]);
    assert!(
        answer.stdout.contains("web") && answer.stderr.contains("/kustomize\n"),
        "{answer:?}"
    );
    let skipped = format!("skipped in kustomize build {path}: Application fleet");
    assert!(answer.stderr.contains(&skipped), "{answer:?}");
    assert!(
        folder.path().join(".phoenix").is_dir(),
        "the state is beside the manifests"
    );

    script(bin.path(), "kubectl", &builder("kustomize"));
    let answer = phoenix(bin.path(), &["plan", "-k", path]);
    assert!(answer.stderr.contains("/kubectl\n"), "kubectl comes first: {answer:?}");
    fs::write(folder.path().join("built.txt"), CONTAINER.replace("512Mi", "much")).unwrap();
    let answer = phoenix(bin.path(), &["delete", "web", "-k", path]).expect(2);
    assert!(
        answer.stderr.starts_with(&format!("kubectl kustomize {path}:7: ")),
        "{answer:?}"
    );
}

#[test]
fn a_kustomization_that_cannot_be_built_is_refused_with_the_reason() {
    let (folder, bin) = (folder(&[("web.yaml", CONTAINER)]), TempDir::new().unwrap());
    let path = folder.path().to_str().unwrap();
    let answer = phoenix(bin.path(), &["plan", "-k", path]).expect(2);
    assert!(answer.stderr.contains("neither kubectl nor kustomize"), "{answer:?}");
    script(
        bin.path(),
        "kubectl",
        "echo 'error: unable to find one of kustomization.yaml' >&2; exit 1",
    );
    let answer = phoenix(bin.path(), &["plan", "-k", path]).expect(2);
    let told = format!("kubectl kustomize {path} failed (exit status: 1): error: unable to find one of");
    assert!(answer.stderr.contains(&told), "{answer:?}");
    script(bin.path(), "kubectl", "true");
    let answer = phoenix(bin.path(), &["plan", "-k", path]).expect(2);
    assert!(
        answer.stderr.contains("no Phoenix objects in kubectl kustomize"),
        "{answer:?}"
    );
    let answer = phoenix(bin.path(), &["plan", "-k", &format!("{path}/web.yaml")]).expect(2);
    assert!(answer.stderr.contains("web.yaml: not a folder"), "{answer:?}");
}

#[test]
fn manifests_come_from_files_or_from_a_kustomization_and_not_from_both() {
    let bin = TempDir::new().unwrap();
    for verb in [
        &["apply"][..],
        &["plan"],
        &["status"],
        &["delete", "web"],
        &["graph"],
        &["logs", "web"],
    ] {
        let answer = phoenix(bin.path(), &[verb, &["-f", "a", "-k", "b"]].concat()).expect(2);
        assert!(answer.stderr.contains("cannot be used with"), "{verb:?}: {answer:?}");
    }
    for verb in ["apply", "plan"] {
        let answer = phoenix(bin.path(), &[verb]).expect(2);
        assert!(
            answer.stderr.contains("--filename") && answer.stderr.contains("--kustomize"),
            "{answer:?}"
        );
    }
    let answer = phoenix(bin.path(), &["status", "--state", "s"]).expect(2);
    assert!(answer.stderr.contains("--kustomize"), "{answer:?}");
}
