//! The program as a shell sees it: pipes that close, and Ctrl-C.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn phoenix(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn rest(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// As with `phoenix crd | head -0`.
#[test]
fn a_reader_that_has_gone_is_no_error() {
    let mut child = phoenix(&["crd"]);
    drop(child.stdout.take());
    let told = rest(child.stderr.take().unwrap());
    assert!(child.wait().unwrap().success(), "{told}");
    assert_eq!(told, "");
}

/// Every command prints through the one place that minds readers that have gone.
#[test]
fn no_command_prints_with_a_macro_that_panics() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let bad = text.lines().find(|line| {
                let code = line.trim_start();
                let prints = |macro_: &str| code.starts_with(macro_) || code.contains(&format!(" {macro_}"));
                !code.starts_with("//")
                    && ["println!(", "print!(", "eprintln!(", "eprint!("]
                        .into_iter()
                        .any(prints)
            });
            assert_eq!(bad, None, "{}", path.display());
        }
    }
}

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {tokenId: "phoenix@pve!operator", secret: "00000000-0000-0000-0000-000000000000"}
---
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixHypervisor
metadata: {name: pve}
spec:
  endpoints: ["https://127.0.0.1:9"]
  credentials: {tokenSecretRef: {name: token}}
  vmidRange: {start: 900, end: 999}
---
apiVersion: phoenix-hypervisor.io/v1alpha1
kind: PhoenixLXC
metadata: {name: hello}
spec:
  hypervisorRef: {name: pve}
  source: {image: {volid: "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"}}
  memory: 512Mi
  rootfs: {size: 4Gi}
"#;

#[test]
fn an_interrupted_apply_shows_how_things_stand() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.yaml"), MANIFESTS).unwrap();
    let mut child = phoenix(&["apply", "-f", folder.path().to_str().unwrap()]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.unwrap().success());
    let shown = rest(child.stdout.take().unwrap());
    let told = rest(stderr);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{line}{told}");
    assert!(shown.contains("hello") && shown.contains("1 not Ready"), "{shown}");
    assert!(told.contains("interrupted"), "{told}");
}

fn said(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_tells_of_itself() {
    let program = Path::new(env!("CARGO_BIN_EXE_phoenix"));
    let version: serde_json::Value = serde_json::from_str(&said(program, &["version", "-o", "json"])).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["apiVersion"], "phoenix-hypervisor.io/v1alpha1");
    assert!(said(program, &["version"]).starts_with(&format!("phoenix {}\n", env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        let text = said(program, &["completions", shell]);
        assert!(
            text.contains("reconcile") && text.contains("completions"),
            "{shell}: {text}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    said(program, &["man", "--output-dir", folder.path().to_str().unwrap()]);
    for page in ["phoenix.1", "phoenix-apply.1", "phoenix-operator.1"] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.starts_with(".ie"), "{page}: {text}");
    }
}

#[test]
fn under_another_name_it_is_a_plugin_of_kubectl() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-phoenix");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_phoenix"), &plugin).unwrap();
    let help = said(&plugin, &["status", "--help"]);
    assert!(help.contains("Usage: kubectl phoenix status"), "{help}");
}

/// Every command, and every code that it ends with, is in docs/cli.md.
#[test]
fn the_page_of_the_command_line_names_every_command() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    let help = said(Path::new(env!("CARGO_BIN_EXE_phoenix")), &["--help"]);
    let commands = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let named = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let named: Vec<&str> = named.filter(|name| !name.is_empty() && *name != "help").collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        let known = [format!("`phoenix {name}"), format!("`{name}`"), format!("`{name} ")];
        assert!(
            known.iter().any(|form| page.contains(form.as_str())),
            "docs/cli.md lacks {name}"
        );
    }
}

/// The page is there while `apply` runs, at the address that it prints, and tells of no Secret.
#[test]
fn apply_shows_the_fleet_on_a_page() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.yaml"), MANIFESTS).unwrap();
    let mut child = phoenix(&["apply", "-f", folder.path().to_str().unwrap(), "--ui"]);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("http://127.0.0.1:") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "no address is printed");
    }
    let address = line
        .trim()
        .rsplit_once("http://")
        .unwrap()
        .1
        .trim_end_matches('/')
        .to_string();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let page = rest(stream);
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("PhoenixLXC/default/hello"),
        "{page}"
    );
    assert!(!page.contains("00000000-0000"), "{page}");
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.unwrap().success());
    rest(child.stdout.take().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
