//! `phoenix exec` and `phoenix logs` with nothing but a kubeconfig: what they read of the cluster, reach, and refuse.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::guests::{lxc, patch};
use crate::harness::cluster::cluster;
use crate::site::Site;

fn vm(name: &str) -> String {
    json!({"apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixVM", "metadata": {"name": name}, "spec": {
        "hypervisorRef": {"name": "pve"}, "vmid": 771, "cpu": {"cores": 2}, "memory": "2Gi",
        "source": {"cloudImage": {"volid": "local:import/noble-server-cloudimg-amd64.qcow2"}},
        "disks": [{"name": "root", "size": "20Gi", "storage": "quickOS-vm-disks"}],
        "cloudInit": {"user": "ops"},
        "network": [{"name": "net0", "ip": "10.0.0.61/24", "gateway": "10.0.0.1"}],
        "tests": [{"name": "works", "script": "#!/bin/sh\n# simulate: output='the machine works'\ntrue\n"}]
    }})
    .to_string()
}

fn start(site: &Site, kubeconfig: &Path, args: &[&str]) -> Child {
    let (verb, rest) = args.split_first().unwrap();
    Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args([verb, "--namespace", &site.namespace.name])
        .args(rest)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs `phoenix`: exit code, standard output, standard error.
fn phoenix(site: &Site, kubeconfig: &Path, args: &[&str], stdin: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = start(site, kubeconfig, args);
    // Who refuses at once reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        output.stdout,
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A user who may read Phoenix's objects, and the Secrets of these names.
fn user(site: &Site, name: &str, secrets: &[&str]) -> PathBuf {
    let kubectl = &site.namespace.kubectl;
    kubectl.must(&["create", "serviceaccount", name]);
    let mut rules = vec![json!({"apiGroups": ["phoenix-hypervisor.io"], "resources": ["*"], "verbs": ["get", "list"]})];
    if !secrets.is_empty() {
        rules.push(json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": secrets, "verbs": ["get"]}));
    }
    let group = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": rules});
    kubectl.apply(&role.to_string());
    let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": site.namespace.name}]});
    kubectl.apply(&binding.to_string());
    let token = kubectl.must(&["create", "token", name, "--duration=1h"]);
    let path = site.dir.join(format!("{name}.kubeconfig"));
    cluster().kubeconfig_with_token(&path, token.trim());
    path
}

/// Adds a line to the journal of a unit in the machine.
fn journal(site: &Site, text: &str) {
    let file = json!({"file": "/var/log/journal/web.service", "encode": 0, "content": BASE64.encode(text)});
    site.as_root("POST", "/nodes/phoenix/qemu/771/agent/file-write", &file);
}

#[test]
fn guests_are_reached_with_the_clusters_credentials() {
    let mut site = Site::new("inside");
    site.hypervisor();
    site.start_operator();
    let script = "#!/bin/sh\n# simulate: output='the application started'\ntrue\n";
    let kubectl = site.namespace.kubectl.clone();
    kubectl.apply(&lxc("a", json!({"vmid": 770, "application": {"script": script}})));
    kubectl.apply(&vm("m"));
    kubectl.apply(&lxc(
        "later",
        json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "nobody"}]}),
    ));
    site.wait_ready("phoenixlxc/a", 90);
    site.wait_ready("phoenixvm/m", 120);
    let admin = kubectl.kubeconfig.clone();
    let run = |args: &[&str], stdin: &[u8]| phoenix(&site, &admin, args, stdin);

    for (name, word) in [("a", "a\n"), ("771", "m\n"), ("pvm/m", "m\n")] {
        let (code, out, said) = run(&["exec", name, "--", "hostname"], b"");
        assert_eq!((code, out.as_slice()), (Some(0), word.as_bytes()), "{said}");
        let (code, ..) = run(&["exec", name, "--", "sh", "-c", "# simulate: exit=7\n"], b"");
        assert_eq!(code, Some(7));
    }
    // A machine's agent takes text, and little of it: more than that comes in pieces.
    let much = "größer\n".repeat(20_000);
    let (code, out, said) = run(&["exec", "m", "--", "cat"], much.as_bytes());
    assert!(code == Some(0) && out == much.as_bytes(), "{code:?} {said}");
    let (code, _, said) = run(&["exec", "-it", "m", "--", "sh"], b"");
    assert!(code == Some(2) && said.contains("qm terminal 771"), "{code:?} {said}");

    let (code, out, said) = run(&["logs", "a"], b"");
    assert_eq!(
        (code, out.as_slice()),
        (Some(0), &b"the application started\n"[..]),
        "{said}"
    );
    let (code, out, said) = run(&["logs", "m", "--test", "works"], b"");
    assert_eq!((code, out.as_slice()), (Some(0), &b"the machine works\n"[..]), "{said}");
    let (code, _, said) = run(&["logs", "m"], b"");
    assert!(code == Some(1) && said.contains("--test works"), "{code:?} {said}");
    journal(&site, "one\ntwo\n");
    let mut child = start(
        &site,
        &admin,
        &["logs", "m", "--unit", "web.service", "--lines", "1", "--follow"],
    );
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    journal(&site, "one\ntwo\nthree\n");
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    child.kill().unwrap();
    child.wait().unwrap();

    let (code, _, said) = run(&["exec", "later", "--", "true"], b"");
    assert!(
        code == Some(2) && said.contains("no guest yet") && said.contains("nobody"),
        "{code:?} {said}"
    );
    rights_are_asked_for_by_name(&site);

    assert_eq!(run(&["stop", "a", "--timeout", "60s"], b"").0, Some(0));
    let (code, _, said) = run(&["exec", "a", "--", "true"], b"");
    assert!(code == Some(2) && said.contains("phoenix start a"), "{code:?} {said}");
    patch(&site, "phoenixhypervisor/pve", &json!({"spec": {"ssh": null}}));
    let (code, _, said) = run(&["logs", "a"], b"");
    assert!(
        code == Some(2) && said.contains("set spec.ssh of PhoenixHypervisor"),
        "{code:?} {said}"
    );
    // Machines are reached without.
    assert_eq!(run(&["exec", "m", "--", "true"], b"").0, Some(0));
    // A guest that is somebody else's by now is none of the object's.
    site.as_root("PUT", "/nodes/phoenix/qemu/771/config", &json!({"description": "mine"}));
    let (code, _, said) = run(&["exec", "m", "--", "true"], b"");
    assert!(code == Some(2) && said.contains("left alone"), "{code:?} {said}");
}

/// Whoever may not read what it takes is told which right is missing; a machine takes no SSH key.
fn rights_are_asked_for_by_name(site: &Site) {
    let reader = user(site, "reader", &[]);
    let (code, _, said) = phoenix(site, &reader, &["exec", "a", "--", "true"], b"");
    let right = "get secrets proxmox-ca, proxmox-ssh, proxmox-token in namespace";
    assert!(code == Some(2) && said.contains(right), "{code:?} {said}");
    let (code, _, said) = phoenix(site, &reader, &["logs", "m"], b"");
    let right = "get secrets proxmox-ca, proxmox-token in namespace";
    assert!(code == Some(2) && said.contains(right), "{code:?} {said}");
    let machines = user(site, "machines", &["proxmox-ca", "proxmox-token"]);
    let (code, out, said) = phoenix(site, &machines, &["exec", "m", "--", "hostname"], b"");
    assert_eq!((code, out.as_slice()), (Some(0), &b"m\n"[..]), "{said}");
    let (code, _, said) = phoenix(site, &machines, &["exec", "a", "--", "true"], b"");
    assert!(
        code == Some(2) && said.contains("Secret") && said.contains("proxmox-ssh"),
        "{code:?} {said}"
    );
}
