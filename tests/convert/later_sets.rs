//! The real user's later sets, whole: how much of them is carried over, and that nothing of it is a mystery.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use phoenix::convert::report::{Outcome, Severity};
use phoenix::convert::{Options, Output, Role, Routing};

use crate::support::{input, options, run};

const DAYS: [&str; 4] = ["2025-10-08", "2025-10-21", "2025-11-07", "2025-11-25"];

fn converted(day: &str, options: &Options) -> Output {
    let file = |name: &str, role: Role| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/convert/later")
            .join(day)
            .join(name);
        input(name, role, std::fs::read(path).unwrap())
    };
    let inputs = [
        file("phoenix_hypervisor_config.json", Role::Hypervisor),
        file("phoenix_lxc_configs.json", Role::Lxc),
        file("phoenix_vm_configs.json", Role::Vm),
    ];
    run(&inputs, options)
}

fn with_routing(routing: Routing) -> Options {
    Options { routing, ..options() }
}

/// Of each day: leaves, those that are not mapped at most, and model servers.
#[test]
fn almost_all_of_a_set_is_carried_over() {
    let wanted = [(616, 69, 5), (950, 88, 5), (963, 97, 5), (1446, 109, 4)];
    for (day, (leaves, most, servers)) in DAYS.into_iter().zip(wanted) {
        let output = converted(day, &with_routing(Routing::Ingress));
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for entry in &output.report.entries {
            *outcomes.entry(format!("{:?}", entry.outcome)).or_default() += 1;
            assert!(!entry.note.contains("unknown key"), "{day}: {}", entry.pointer);
        }
        let total = output.report.entries.len();
        let lost = outcomes.get("NotMapped").copied().unwrap_or_default();
        let share = 100.0 * (total - lost) as f64 / total as f64;
        println!("{day}: {outcomes:?}, {share:.1} % mapped or defaulted");
        assert_eq!(total, leaves, "{day}");
        assert!(lost <= most, "{day}: {lost} of {total} are not mapped");
        let serves = |text: &&String| text.lines().any(|line| line == "  vllm:" || line == "    vllm:");
        assert_eq!(output.files.values().filter(serves).count(), servers, "{day}");
        assert_eq!(
            output.report.count(Severity::Error),
            0,
            "{day}: {:#?}",
            output.report.findings
        );
    }
}

/// What has no field says why, in words that are not the same for everything.
#[test]
fn what_is_not_mapped_has_a_reason() {
    for day in DAYS {
        let output = converted(day, &options());
        let lost = output.report.entries.iter().filter(|e| e.outcome == Outcome::NotMapped);
        let notes: BTreeSet<&str> = lost.map(|e| e.note.as_str()).collect();
        assert!(
            notes.len() > 20 && notes.iter().all(|note| note.len() > 10),
            "{day}: {notes:#?}"
        );
    }
}

#[test]
fn rules_names_mounts_and_second_interfaces_are_in_their_fields() {
    let output = converted("2025-11-25", &options());
    let host = &output.files["phoenixhypervisor-proxmox.yaml"];
    assert_eq!(host.matches("direction: in").count(), 27, "{host}");
    assert!(
        host.contains("    dnsServer:\n      enabled: true\n      upstreams:\n"),
        "{host}"
    );
    let nginx = &output.files["phoenixlxc-nginx-phoenix.yaml"];
    for part in [
        "  - name: eth1\n    bridge: vmbr100\n    mac: 02:00:00:00:01:02\n    ip: 172.16.100.10/24\n",
        "    hostPath: /mnt/pve/quickOS/lxc-persistent-data/101/logs\n    mountPath: /var/log/nginx\n",
        "  - lxc.idmap = g 0 100000 33\n  - lxc.idmap = g 33 33 1\n  - lxc.idmap = g 34 100034 65502\n",
        "  expose:\n  - name: http\n    port: 443\n",
    ] {
        assert!(nginx.contains(part), "{part}{nginx}");
    }
    let chown = |f: &phoenix::convert::report::Finding| f.fix.starts_with("chown -R 33:33 /mnt/pve/");
    assert_eq!(output.report.findings.iter().filter(|f| chown(f)).count(), 1);
    let output = converted("2025-10-21", &options());
    let host = &output.files["phoenixhypervisor-proxmox.yaml"];
    assert!(
        host.contains("        - name: traefik\n          address: \"10.0.0.12\"\n"),
        "{host}"
    );
}

#[test]
fn host_names_become_ingresses_or_routes() {
    assert!(
        converted(DAYS[3], &options())
            .files
            .keys()
            .all(|name| !name.starts_with("ingress"))
    );
    for (routing, file, host) in [
        (
            Routing::Ingress,
            "ingress-ollama-gpu0.yaml",
            "  - host: ollama.internal.example.org\n",
        ),
        (
            Routing::Gateway,
            "httproute-ollama-gpu0.yaml",
            "  hostnames:\n  - ollama.internal.example.org\n",
        ),
    ] {
        let output = converted(DAYS[3], &with_routing(routing));
        let text = output
            .files
            .get(file)
            .unwrap_or_else(|| panic!("{:?}", output.files.keys()));
        assert!(text.contains(host), "{text}");
        assert!(output.files["kustomization.yaml"].contains(file));
    }
}
