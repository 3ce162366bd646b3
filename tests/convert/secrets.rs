//! Secrets of the files: a Secret with a place for each, and the values only on request.

use phoenix::convert::report::Severity;
use phoenix::convert::{Input, Options, Role};
use serde_json::json;

use crate::support::*;

fn inputs() -> [Input; 2] {
    let hypervisor = json!({
        "users": [{"username": "admin", "password_hash": "$6$topsecret"}, {"username": "other", "password_hash": "NOT_SET"}],
        "portainer_api": {"admin_user": "admin", "admin_password": "topsecret1", "api_key": "topsecret2"},
        "network": {"interfaces": {"name": "vmbr0", "address": "10.0.0.2/24"}},
    });
    let vms = json!({"vms": [
        {"vmid": 300, "name": "vm", "template_image": "x.img", "user_config": {"username": "u", "password_hash": "$6$topsecret3", "ssh_keys": ["ssh-ed25519 A", "ssh-rsa B"]}},
        {"vmid": 301, "name": "plain", "template_image": "x.img", "user_config": {"username": "u", "password": "topsecret4"}},
    ]});
    [
        input("h.json", Role::Hypervisor, hypervisor.to_string()),
        input("v.json", Role::Vm, vms.to_string()),
    ]
}

#[test]
fn each_secret_has_its_place_and_no_value() {
    let output = run(&inputs(), &options());
    let data = |name: &str| manifest(&output, &format!("secret-{name}.yaml"))["stringData"].clone();
    let empty = "REPLACE-ME";
    assert_eq!(data("proxmox-users"), json!({"admin": empty}));
    assert_eq!(
        data("portainer-api"),
        json!({"admin_user": empty, "admin_password": empty, "api_key": empty})
    );
    assert_eq!(
        data("vm-cloud-init"),
        json!({"passwordHash": empty, "authorizedKeys": empty})
    );
    assert_eq!(data("plain-cloud-init"), json!({"passwordHash": empty}));
    assert!(!output.files.values().any(|text| text.contains("topsecret")));
    assert!(!serde_json::to_string(&output.report).unwrap().contains("topsecret"));
    for (pointer, name) in [
        ("/users/0/password_hash", "proxmox-users"),
        ("/portainer_api/admin_password", "portainer-api"),
        ("/portainer_api/api_key", "portainer-api"),
        ("/vms/0/user_config/password_hash", "vm-cloud-init"),
        ("/vms/1/user_config/password", "plain-cloud-init"),
    ] {
        let warnings = findings(&output, Severity::Warning);
        let told = warnings
            .iter()
            .any(|f| f.pointer == pointer && f.message.contains(&format!("Secret {name:?}")));
        assert!(told, "{pointer}: {warnings:#?}");
    }
}

#[test]
fn values_are_copied_on_request_except_into_the_report() {
    let wish = Options {
        copy_secrets: true,
        ..options()
    };
    let output = run(&inputs(), &wish);
    let data = |name: &str| manifest(&output, &format!("secret-{name}.yaml"))["stringData"].clone();
    assert_eq!(data("proxmox-users"), json!({"admin": "$6$topsecret"}));
    assert_eq!(
        data("portainer-api"),
        json!({"admin_user": "admin", "admin_password": "topsecret1", "api_key": "topsecret2"})
    );
    assert_eq!(
        data("vm-cloud-init"),
        json!({"passwordHash": "$6$topsecret3", "authorizedKeys": "ssh-ed25519 A\nssh-rsa B"})
    );
    assert_eq!(
        data("plain-cloud-init"),
        json!({"passwordHash": "REPLACE-ME"}),
        "a password is no hash"
    );
    let others = output.files.iter().filter(|(name, _)| !name.starts_with("secret-"));
    assert!(others.into_iter().all(|(_, text)| !text.contains("topsecret")));
    assert!(!serde_json::to_string(&output.report).unwrap().contains("topsecret"));
}
