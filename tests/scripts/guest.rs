//! What runs inside guests, really run here: probes with each tool that a guest may have, and the scripts that install
//! features. Servers listen on loopback and end with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::vllm_server::server;
use phoenix::crd::{HttpGetAction, HttpScheme, PhoenixFeature, PhoenixHypervisor, PhoenixLXC, Probe, TcpSocketAction};
use phoenix::desired::scripts::{probe_command, scripts};
use phoenix::desired::{GuestObject, MemoryObjects};

/// Tools that are there in every guest, and that the probes lean on.
const BASE: &[&str] = &["timeout", "grep", "tail"];
/// Tools for HTTP in the order the probe looks for them, and those for TCP.
const TOOLS: &[&str] = &["curl", "wget", "python3", "bash"];

/// Where a tool really is: shims of version managers do not work in a folder of links.
fn locate(tool: &str) -> Option<PathBuf> {
    if tool == "python3" {
        let output = Command::new(tool)
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        return Some(PathBuf::from(path.trim())).filter(|p| p.is_file());
    }
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.iter().map(|folder| folder.join(tool)).find(|p| p.is_file())
}

/// A folder with links to the base tools and one more, as the only PATH.
fn path_with(tool: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in BASE.iter().copied().chain(tool) {
        let target = locate(name).unwrap_or_else(|| panic!("this machine has no {name}"));
        symlink(target, folder.path().join(name)).unwrap();
    }
    folder
}

fn run(command: &[String], path: &Path) -> Output {
    Command::new(&command[0])
        .args(&command[1..])
        .env_clear()
        .env("PATH", path)
        // A proxy that nobody listens on: a probe must not use it.
        .env("http_proxy", "http://127.0.0.1:9")
        .env("HTTPS_PROXY", "http://127.0.0.1:9")
        .output()
        .unwrap()
}

/// An HTTP server that answers `/CODE` with that status, and keeps the targets it was asked for.
fn http_server() -> (i64, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let targets = Arc::new(Mutex::new(Vec::new()));
    let seen = targets.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            thread::spawn(move || answer(stream, &seen));
        }
    });
    (i64::from(port), targets)
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let target = first.split(' ').nth(1).unwrap_or_default().to_string();
    while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
    let code: u16 = target[1..4].parse().unwrap_or(200);
    seen.lock().unwrap().push(target);
    if code == 0 {
        // Says nothing until the client goes.
        drop(stream.read(&mut [0]));
        return;
    }
    let location = if code / 100 == 3 { "Location: /500\r\n" } else { "" };
    let head = format!("HTTP/1.1 {code} Some Words\r\nContent-Length: 2\r\n{location}Connection: close\r\n\r\nok");
    drop(stream.write_all(head.as_bytes()));
}

fn http_get(port: i64, path: &str) -> Probe {
    Probe {
        http_get: Some(HttpGetAction {
            port,
            path: Some(path.into()),
            ..HttpGetAction::default()
        }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// A port that nobody listens on.
fn closed_port() -> i64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    i64::from(listener.local_addr().unwrap().port())
}

#[test]
fn http_probes_tell_success_from_failure_with_each_tool() {
    let (port, _) = http_server();
    let closed = closed_port();
    let found: Vec<&str> = TOOLS.iter().copied().filter(|t| locate(t).is_some()).collect();
    assert!(
        found.contains(&"bash"),
        "bash, which every Debian has, is needed for this test"
    );
    for tool in found {
        let path = path_with(Some(tool));
        for (port, target, want, words) in [
            (port, "/200", true, ""),
            (port, "/204", true, ""),
            (port, "/302", true, ""),
            (port, "/399", true, ""),
            (port, "/404", false, "answered 404"),
            (port, "/500", false, "answered 500"),
            (port, "/503", false, "answered 503"),
            (port, "/000", false, "no answer"),
            (closed, "/200", false, "no answer"),
        ] {
            let output = run(&probe_command(&http_get(port, target)), path.path());
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.success(), want, "{tool} {target}: {output:?}");
            assert!(text.contains(words), "{tool} {target}: {output:?}");
        }
    }
}

#[test]
fn targets_arrive_encoded_and_no_shell_sees_them() {
    let proof = tempfile::tempdir().unwrap();
    let file = proof.path().join("ran");
    let evil = format!(
        "/200?a='\"; touch {0}; $(touch {0}) `touch {0}` [1-2]{{x,y}}",
        file.display()
    );
    for tool in TOOLS.iter().filter(|t| locate(t).is_some()) {
        let (port, targets) = http_server();
        let output = run(&probe_command(&http_get(port, &evil)), path_with(Some(tool)).path());
        assert!(output.status.success(), "{tool}: {output:?}");
        let seen = targets.lock().unwrap().clone();
        assert_eq!(seen.len(), 1, "{tool}: {seen:?}");
        assert!(seen[0].starts_with("/200?a='%22;%20touch%20"), "{tool}: {seen:?}");
        assert!(!file.exists(), "{tool}");
    }
}

#[test]
fn a_guest_without_tools_says_so() {
    let path = path_with(None);
    for (probe, words) in [
        (http_get(80, "/"), "none of curl, wget, python3 and bash"),
        (tcp(80), "none of bash, python3 and nc"),
    ] {
        let output = run(&probe_command(&probe), path.path());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(words), "{output:?}");
    }
    // bash alone speaks no TLS.
    let mut probe = http_get(80, "/");
    probe.http_get.as_mut().unwrap().scheme = Some(HttpScheme::Https);
    let output = run(&probe_command(&probe), path_with(Some("bash")).path());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn https_probes_ask_for_no_certificate() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["else".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = i64::from(listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.extend(byte),
                    _ => break,
                }
            }
            let code = if head.starts_with(b"GET /good ") { 200 } else { 500 };
            let answer = format!("HTTP/1.1 {code} Words\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()));
            stream.conn.send_close_notify();
            drop(stream.flush());
        }
    });
    let found: Vec<_> = TOOLS[..3].iter().filter(|t| locate(t).is_some()).collect();
    assert!(!found.is_empty(), "curl, wget or python3 is needed for this test");
    for tool in found {
        let path = path_with(Some(tool));
        for (target, want) in [("/good", true), ("/bad", false)] {
            let mut probe = http_get(port, target);
            probe.http_get.as_mut().unwrap().scheme = Some(HttpScheme::Https);
            let output = run(&probe_command(&probe), path.path());
            assert_eq!(output.status.success(), want, "{tool} {target}: {output:?}");
        }
    }
}

fn tcp(port: i64) -> Probe {
    Probe {
        tcp_socket: Some(TcpSocketAction { port, host: None }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

#[test]
fn tcp_probes_tell_open_from_closed_with_each_tool() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = i64::from(listener.local_addr().unwrap().port());
    let closed = closed_port();
    for tool in ["bash", "python3"].iter().filter(|t| locate(t).is_some()) {
        let path = path_with(Some(tool));
        let output = run(&probe_command(&tcp(open)), path.path());
        assert!(output.status.success(), "{tool}: {output:?}");
        let output = run(&probe_command(&tcp(closed)), path.path());
        assert_eq!(output.status.code(), Some(1), "{tool}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("no connection to 127.0.0.1"),
            "{output:?}"
        );
    }
}

/// Runs the script of a feature with the guest's folder replaced by a temporary one.
fn install(check: Option<&str>, install: &str) -> (Output, tempfile::TempDir) {
    let objects = MemoryObjects::new();
    let feature = serde_json::json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixFeature",
        "metadata": {"name": "f", "namespace": "ai"}, "spec": {"check": check, "install": install},
    });
    objects.insert_feature(serde_json::from_value::<PhoenixFeature>(feature).unwrap());
    let lxc = serde_json::json!({
        "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
        "metadata": {"name": "x", "namespace": "ai"},
        "spec": {"hypervisorRef": {"name": "pve"}, "features": [{"name": "f"}]},
    });
    let lxc: PhoenixLXC = serde_json::from_value(lxc).unwrap();
    let all = scripts(&GuestObject::from(&lxc), &PhoenixHypervisor::default(), &objects).unwrap();
    let script = &all[0];
    let root = tempfile::tempdir().unwrap();
    let here = |text: &str| text.replace("/run/phoenix", root.path().to_str().unwrap());
    for file in &script.files {
        let path = PathBuf::from(here(&file.path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &file.content).unwrap();
        // Not executable, as on a noexec mount: the body starts the interpreter.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let body = root.path().join("body");
    fs::write(&body, here(&script.body)).unwrap();
    let output = Command::new("/bin/sh")
        .arg(&body)
        .current_dir(root.path())
        .envs(&script.environment)
        .output()
        .unwrap();
    (output, root)
}

#[test]
fn features_are_installed_once_and_proven() {
    for (check, text, code, stdout, stderr, installed) in [
        (Some("true"), "touch installed", 0, "f: already there\n", "", false),
        (
            Some("test -e installed"),
            "touch installed",
            0,
            "f: installed\n",
            "",
            true,
        ),
        (None, "touch installed", 0, "f: installed\n", "", true),
        (
            Some("echo looked >&2; false"),
            "touch installed",
            1,
            "",
            "looked\nf: the install script ended well, but the check script still fails with exit code 1\n",
            true,
        ),
        (
            Some("false"),
            "exit 7",
            7,
            "",
            "f: the install script ended with exit code 7\n",
            false,
        ),
        (
            Some("#!/bin/bash\n[[ -e installed ]]"),
            "#!/bin/bash -eu\nfalse\ntouch installed",
            1,
            "",
            "f: the install script ended with exit code 1\n",
            false,
        ),
        (
            Some("test -e installed"),
            "cat << 'EOF' > installed\nit's \"$PHOENIX_FEATURES\" `id`\nEOF\necho \"$PHOENIX_FEATURES\"",
            0,
            "f\nf: installed\n",
            "",
            true,
        ),
    ] {
        let (output, root) = install(check, text);
        assert_eq!(output.status.code(), Some(code), "{text}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{text}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), stderr, "{text}");
        assert_eq!(root.path().join("installed").exists(), installed, "{text}");
    }
}

/// The vLLM script of a container, with this folder in place of the guest's root.
fn vllm_body(root: &Path, port: i64) -> (PathBuf, String) {
    let block = serde_json::json!({"model": "m", "port": port, "cachePath": root.join("models")});
    let (object, objects) = server(block);
    let all = scripts(&object, &PhoenixHypervisor::default(), &objects).unwrap();
    let script = &all[1];
    let here = |text: &str| {
        ["/run/phoenix", "/etc/", "/opt/vllm"]
            .iter()
            .fold(text.to_string(), |text, path| {
                text.replace(path, &format!("{}{path}", root.display()))
            })
    };
    for file in &script.files {
        let path = PathBuf::from(here(&file.path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &file.content).unwrap();
    }
    let body = root.join("body");
    fs::write(&body, here(&script.body)).unwrap();
    (body, script.environment["PHOENIX_VLLM_CACHE_PATH"].clone())
}

#[test]
fn vllm_is_put_in_place_and_restarted_only_where_something_changed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let executable = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    fs::create_dir_all(root.join("etc/systemd/system")).unwrap();
    executable(&root.join("bin/systemctl"), "#!/bin/sh\necho systemctl \"$@\"\n");
    let run = |port: i64| {
        let (body, cache) = vllm_body(root, port);
        let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("/bin/sh");
        command
            .arg(&body)
            .env("PATH", path)
            .env("PHOENIX_VLLM_CACHE_PATH", cache);
        command.output().unwrap()
    };
    let output = run(8000);
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("install the feature vllm"),
        "{output:?}"
    );

    executable(&root.join("opt/vllm/bin/vllm"), "#!/bin/sh\n");
    for (port, verb) in [
        (8000, "restart"),
        (8000, "start --no-block"),
        (8001, "restart"),
        (8001, "start --no-block"),
    ] {
        let output = run(port);
        assert!(output.status.success(), "{output:?}");
        let lines = [
            "systemctl daemon-reload",
            "systemctl enable --quiet vllm.service",
            &format!("systemctl {verb} vllm.service"),
            "vllm: vllm.service is started\n",
        ];
        assert_eq!(String::from_utf8_lossy(&output.stdout), lines.join("\n"), "{port}");
        let unit = fs::read_to_string(root.join("etc/systemd/system/vllm.service")).unwrap();
        assert!(unit.contains(&format!("--port {port}\n")), "{unit}");
        for (path, mode) in [
            ("etc/phoenix/vllm.env", 0o600),
            ("etc/systemd/system/vllm.service", 0o644),
            ("etc/phoenix/vllm-pause", 0o644),
        ] {
            let found = fs::metadata(root.join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path}");
        }
        assert!(root.join("models").is_dir());
        assert!(
            !root.join("run/phoenix/vllm/vllm.env").exists(),
            "the token stays in one place"
        );
    }
}

#[test]
fn every_shipped_feature_becomes_a_script() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/features");
    let objects = MemoryObjects::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let mut feature: PhoenixFeature =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if feature.metadata.name.is_none() {
            continue;
        }
        feature.metadata.namespace = Some("ai".into());
        names.push(feature.metadata.name.clone().unwrap());
        objects.insert_feature(feature);
    }
    let none = serde_json::json!({});
    let archive = serde_json::json!({"version": "b7489", "archive-sha256": "0"});
    // The names that the legacy files use, underscores among them, and one that they do not know.
    for (name, parameters) in [
        ("base_setup", &none),
        ("nvidia", &none),
        ("docker", &none),
        ("vllm", &none),
        ("ollama", &none),
        ("portainer", &none),
        ("python_api_service", &none),
        ("llamacpp", &archive),
    ] {
        let lxc = serde_json::json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"name": "x", "namespace": "ai"},
            "spec": {"hypervisorRef": {"name": "pve"}, "features": [{"name": name, "parameters": parameters}]},
        });
        let lxc: PhoenixLXC = serde_json::from_value(lxc).unwrap();
        let all = scripts(&GuestObject::from(&lxc), &PhoenixHypervisor::default(), &objects)
            .unwrap_or_else(|blocked| panic!("{name}: {blocked:?}"));
        assert_eq!(all[0].id, "feature-base-setup", "{name}");
        assert_eq!(all.last().unwrap().name, name.replace('_', "-"));
        names.retain(|n| all.iter().all(|s| s.name != *n));
    }
    assert!(names.is_empty(), "no legacy name leads to {names:?}");
}
