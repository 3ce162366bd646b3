//! The real user's files of `examples/legacy`.

use phoenix::convert::report::{Outcome, Severity};
use phoenix::convert::{Input, Options, Output, Role};
use serde_json::Value;

use crate::legacy_scripts::applications;
use crate::support::*;

fn fleet() -> Vec<Input> {
    [
        (Role::Hypervisor, "phoenix_hypervisor_config.json"),
        (Role::Lxc, "phoenix_lxc_configs.json"),
        (Role::Vm, "phoenix_vm_configs.json"),
    ]
    .into_iter()
    .map(|(role, file)| input(file, role, legacy(file)))
    .collect()
}

fn scripts() -> Options {
    Options {
        applications: Some(applications()),
        ..options()
    }
}

fn converted() -> Output {
    run(&fleet(), &scripts())
}

#[test]
fn all_guests_are_written() {
    let output = converted();
    let kinds = |kind: &str| output.files.keys().filter(|f| f.starts_with(kind)).count();
    assert_eq!(kinds("phoenixlxc-"), 17);
    assert_eq!(kinds("phoenixtemplate-"), 6, "five containers and a machine");
    assert_eq!((kinds("phoenixvm-"), kinds("phoenixhypervisor-")), (1, 1));
    assert_eq!(kinds("configmap-"), 3);
    assert_eq!(output.report.count(Severity::Error), 0);
}

#[test]
fn the_manifests_read_well() {
    let output = converted();
    for file in [
        "phoenixhypervisor-proxmox.yaml",
        "phoenixlxc-nginx-vscoderag.yaml",
        "phoenixlxc-n8n-phoenix.yaml",
        "phoenixlxc-portainer.yaml",
        "phoenixlxc-qdrant-vscoderag.yaml",
        "phoenixlxc-test-nvidia.yaml",
        "phoenixlxc-vllm-qwen2.5-7b-awq.yaml",
        "phoenixtemplate-template-base.yaml",
        "phoenixtemplate-template-docker.yaml",
        "phoenixtemplate-ubuntu-2404-cloud-template.yaml",
        "phoenixvm-docker-vm-01.yaml",
    ] {
        insta::with_settings!({snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(file.trim_end_matches(".yaml"), output.files[file]);
        });
    }
}

#[test]
fn the_findings_say_what_is_odd() {
    let output = converted();
    let lines: Vec<String> = (output.report.findings.iter())
        .map(|f| {
            format!(
                "{:?} {}#{}\n    {}\n    fix: {}",
                f.severity, f.file, f.pointer, f.message, f.fix
            )
        })
        .collect();
    insta::with_settings!({snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("findings", lines.join("\n"));
    });
}

#[test]
fn what_is_not_mapped_has_its_reason() {
    let output = converted();
    let lines: Vec<String> = (output.report.entries.iter())
        .filter(|e| e.outcome != Outcome::Mapped)
        .map(|e| format!("{:?} {}: {}", e.outcome, e.pointer, e.note))
        .collect();
    assert_eq!(
        output.report.unknown_keys().count(),
        0,
        "no key of the real files is unknown"
    );
    insta::with_settings!({snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("not-mapped", lines.join("\n"));
    });
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (one, two) = (converted(), converted());
    assert_eq!(one.files, two.files);
    assert_eq!(one.report, two.report);
}

#[test]
fn scripts_are_carried_unchanged() {
    let output = converted();
    let options = scripts();
    let given = &options.applications.unwrap();
    let maps = ["legacy-applications", "legacy-tests"].map(|m| manifest(&output, &format!("configmap-{m}.yaml")));
    let mut carried = 0;
    for (key, text) in maps.iter().flat_map(|m| m["data"].as_object().unwrap()) {
        let (_, bytes) = given
            .iter()
            .find(|(path, _)| path.rsplit('/').next() == Some(key))
            .unwrap();
        assert_eq!(text.as_str().unwrap().as_bytes(), bytes, "{key}");
        carried += 1;
    }
    assert_eq!(carried, 8 + 11, "application scripts and tests");
    let config = manifest(&output, "configmap-legacy-config.yaml");
    let lxc = config["data"]["phoenix_lxc_configs.json"].as_str().unwrap();
    assert_eq!(lxc.as_bytes(), legacy("phoenix_lxc_configs.json"));
}

#[test]
fn without_scripts_each_missing_one_is_named() {
    let output = run(&fleet(), &options());
    let missing = findings(&output, Severity::Warning);
    let missing = missing.iter().filter(|f| f.message.contains("is not carried")).count();
    // The vllm blocks of 950 and 951 stand for their scripts.
    assert_eq!(missing, 7 + 6 + 6 + 2, "scripts, and tests of 902, 950 and 951");
    assert!(!output.files.keys().any(|f| f.starts_with("configmap-")));
}

/// The schemas are JSON objects too; nothing in them is a guest.
#[test]
fn schemas_are_accounted_for_and_give_nothing() {
    for file in ["hypervisor_config", "lxc_configs", "vm_configs"] {
        let file = format!("phoenix_{file}.schema.json");
        for role in [Role::Lxc, Role::Vm, Role::Hypervisor] {
            let output = run(&[input(&file, role, legacy(&file))], &options());
            let guests = output
                .files
                .keys()
                .filter(|f| f.starts_with("phoenixlxc") || f.starts_with("phoenixvm"))
                .count();
            assert_eq!(guests, 0, "{file}");
        }
    }
}

#[test]
fn ids_for_new_guests_are_free() {
    let spec = manifest(&converted(), "phoenixhypervisor-proxmox.yaml")["spec"].clone();
    let lxc: Value = serde_json::from_slice(&legacy("phoenix_lxc_configs.json")).unwrap();
    for id in lxc["lxc_configs"]
        .as_object()
        .unwrap()
        .keys()
        .map(|k| k.parse::<i64>().unwrap())
        .chain([8000, 8001])
    {
        for range in [&spec["vmidRange"], &spec["volumeOwners"]["idRange"]] {
            let inside = range["start"].as_i64().unwrap() <= id && id <= range["end"].as_i64().unwrap();
            assert!(!inside, "{id} is in {range}");
        }
    }
}
