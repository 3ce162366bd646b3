//! A user with rights in one namespace only, who tries everything that reaches beyond it.

use serde_json::{Value, json};

use crate::allow_table::{OWNER, Row, rows};
use crate::harness::cluster::cluster;
use crate::harness::kubectl::Kubectl;
use crate::harness::namespace::Namespace;
use crate::harness::{repository, wait_for};
use crate::site::{Site, give_rights};

/// `kubectl` of a user with the Role for tenants in a namespace, and no other rights.
fn user(namespace: &Namespace, site: &Site) -> Kubectl {
    let admin = &namespace.kubectl;
    admin.must(&["apply", "-k", repository("config/rbac/tenant").to_str().unwrap()]);
    admin.must(&["create", "serviceaccount", "alice"]);
    let account = format!("--serviceaccount={}:alice", namespace.name);
    admin.must(&["create", "rolebinding", "alice", "--role=phoenix-tenant", &account]);
    let token = admin.must(&["create", "token", "alice", "--duration=2h"]);
    let kubeconfig = site.dir.join("alice.kubeconfig");
    cluster().kubeconfig_with_token(&kubeconfig, token.trim());
    admin.with_kubeconfig(kubeconfig)
}

/// The row's object with the namespaces of this run.
fn placed(mut object: Value, namespace: &str, owner: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    if object["spec"]["hypervisorRef"]["namespace"] == OWNER {
        object["spec"]["hypervisorRef"]["namespace"] = json!(owner);
    }
    object
}

fn resource(row: &Row) -> String {
    let kind = row.object["kind"].as_str().unwrap().to_lowercase();
    format!("{kind}/{}", row.name)
}

fn writes(site: &Site) -> Vec<String> {
    let log = site.control("GET", "requests", &Value::Null);
    let written = log.as_array().unwrap().iter().filter(|r| r["method"] != "GET");
    written.map(|r| format!("{} {}", r["method"], r["path"])).collect()
}

#[test]
fn a_user_of_one_namespace_gets_nothing_beyond_it() {
    let mut site = Site::new("owners");
    let tenants = Namespace::create("tenants");
    give_rights(&tenants);
    site.hypervisor();
    let owner = site.namespace.name.clone();
    let everybody = r#"{"spec": {"allowedNamespaces": {"from": "All"}}}"#;
    let patch = ["patch", "phoenixhypervisor", "pve", "--type=merge", "-p"];
    site.namespace.kubectl.must(&[&patch[..], &[everybody]].concat());
    let edits = crate::allow_table::edits();
    edits.iter().for_each(|edit| drop(site.control("POST", "edits", edit)));
    // Privileged containers need it.
    let role = json!({"roleid": "Mod", "privs": "Sys.Modify"});
    site.as_root("POST", "/access/roles", &role);
    let rule = json!({"path": "/", "users": "phoenix@pve", "roles": "Mod"});
    site.as_root("PUT", "/access/acl", &rule);
    site.start_operator_for(&[&tenants]);
    let rows = rows();
    for object in rows.iter().flat_map(|row| &row.before) {
        let object = placed(object.clone(), &owner, &owner);
        site.namespace.kubectl.apply(&object.to_string());
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        site.wait_ready(&format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap()), 120);
    }

    let alice = user(&tenants, &site);
    the_api_server_refuses(&alice, &owner);
    let (before, guests) = (writes(&site), site.guests());
    for row in &rows {
        alice.apply(&placed(row.object.clone(), &tenants.name, &owner).to_string());
    }
    for row in &rows {
        let message = stalled(&alice, &resource(row), &site);
        assert!(message.contains(&row.field), "{}: {message}", row.name);
        let entry = format!("spec.allow.{}", row.entry);
        assert!(message.contains(&entry), "{}: {message}", row.name);
    }
    assert_eq!(writes(&site), before);
    assert_eq!(
        site.guests().keys().collect::<Vec<_>>(),
        guests.keys().collect::<Vec<_>>()
    );

    // One entry lets one object pass, and nothing else.
    let vlans = rows.iter().find(|row| row.entry == "vlans").unwrap();
    let allow = json!({"spec": {"allow": vlans.allow}}).to_string();
    site.namespace.kubectl.must(&[&patch[..], &[&allow]].concat());
    let ready = ["wait", "--for=condition=Ready", "--timeout=120s"];
    alice.must(&[&ready[..], &[&resource(vlans)]].concat());
    assert_eq!(site.guests().len(), guests.len() + 1);
    alice.must(&["delete", "phoenixlxc,phoenixvm", "--all", "--timeout=120s"]);
    wait_for("the guest to be gone", || match site.guests().len() == guests.len() {
        true => Ok(()),
        false => Err(format!("{:?}", site.guests().keys())),
    });
}

/// What the Role does not give: other namespaces, hypervisors, status.
fn the_api_server_refuses(alice: &Kubectl, owner: &str) {
    for (verb, resource, namespace) in [
        ("get", "secrets", Some(owner)),
        ("create", "phoenixlxcs.phoenix-hypervisor.io", Some(owner)),
        ("patch", "phoenixhypervisors.phoenix-hypervisor.io", Some(owner)),
        ("create", "phoenixhypervisors.phoenix-hypervisor.io", None),
        ("update", "phoenixlxcs.phoenix-hypervisor.io/status", None),
        ("create", "rolebindings.rbac.authorization.k8s.io", None),
    ] {
        let user = match namespace {
            Some(namespace) => alice.within(namespace),
            None => alice.clone(),
        };
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        let answer = user.run(&["auth", "can-i", verb, resource, &part]);
        assert_eq!(
            answer.stdout.trim(),
            "no",
            "{verb} {resource} {namespace:?}: {}",
            answer.stderr
        );
    }
}

/// The message of `Stalled: NotAllowed`, as the user sees it.
fn stalled(alice: &Kubectl, what: &str, site: &Site) -> String {
    wait_for(&format!("{what} to be refused"), || {
        let status = alice.get(&[what])["status"].clone();
        let conditions = status["conditions"].as_array().into_iter().flatten();
        match conditions.clone().find(|c| c["type"] == "Stalled") {
            Some(c) if c["reason"] == "NotAllowed" => Ok(c["message"].as_str().unwrap().to_string()),
            _ => Err(format!("{status:#}\n{}", site.words())),
        }
    })
}
