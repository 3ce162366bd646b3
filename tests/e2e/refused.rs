//! A namespace that the operator may not read holds up no other, and the log says once what helps.

use serde_json::json;

use crate::guests::lxc;
use crate::harness::namespace::Namespace;
use crate::harness::wait_for;
use crate::site::{Site, give_rights};

#[test]
fn a_namespace_that_may_not_be_read_holds_up_no_other() {
    let mut site = Site::new("allowed");
    let refused = Namespace::create("refused");
    site.hypervisor();
    let patch = json!({"spec": {"allowedNamespaces": {"from": "All"}}}).to_string();
    let pve = "phoenixhypervisor/pve";
    site.namespace
        .kubectl
        .must(&["patch", pve, "--type=merge", "-p", &patch]);
    site.start_operator_for(&[&refused]);
    site.namespace.kubectl.apply(&lxc("a", json!({})));
    let owner = json!({"hypervisorRef": {"name": "pve", "namespace": site.namespace.name}});
    refused.kubectl.apply(&lxc("b", owner));
    site.wait_ready("phoenixlxc/a", 120);
    let unseen = json!({"conditions": [], "observedGeneration": -1});
    assert_eq!(refused.kubectl.get(&["phoenixlxc/b"])["status"], unseen);

    let help = format!("kubectl apply -n {} -k config/rbac/namespace", refused.name);
    let told = || {
        let log = site.operator.as_ref().unwrap().log();
        log.lines().filter(|line| line.contains(&help)).count()
    };
    assert_eq!(told(), 1, "{}", site.words());

    // Nothing of the hypervisor's protection goes while nobody knows who needs it.
    site.namespace
        .kubectl
        .must(&["delete", "phoenixlxc/a", "--timeout=60s"]);
    let finalizers = site.namespace.kubectl.get(&[pve])["metadata"]["finalizers"].clone();
    assert_eq!(finalizers, json!(["phoenix-hypervisor.io/finalizer"]));

    give_rights(&refused);
    let answer = refused
        .kubectl
        .run(&["wait", "--for=condition=Ready", "phoenixlxc/b", "--timeout=180s"]);
    assert!(answer.ok, "{}\n{}", answer.stderr, site.words());
    assert_eq!(told(), 1, "{}", site.words());
    refused.kubectl.must(&["delete", "phoenixlxc/b", "--timeout=60s"]);
    wait_for("the finalizer to go", || {
        let finalizers = &site.namespace.kubectl.get(&[pve])["metadata"]["finalizers"];
        (*finalizers == json!(null))
            .then_some(())
            .ok_or_else(|| finalizers.to_string())
    });
}
