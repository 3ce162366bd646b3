//! `phoenix status|stop|start|restart|delete` on a cluster: what they change, wait for, print and refuse.

use std::process::{Command, Output};

use serde_json::json;

use crate::guests::lxc;
use crate::site::Site;

/// Runs `phoenix` as the user whose kubeconfig `kubectl` has.
fn phoenix(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_phoenix"))
        .args(args)
        .args(["--namespace", &site.namespace.name])
        .env("KUBECONFIG", &site.namespace.kubectl.kubeconfig)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn runs(site: &Site, vmid: &str) -> bool {
    !site.guests()[vmid]["running"].is_null()
}

#[test]
fn the_verbs_act_on_the_cluster_by_name_and_by_vmid() {
    let mut site = Site::new("verbs");
    site.hypervisor();
    site.start_operator();
    site.namespace.kubectl.apply(&lxc("a", json!({"vmid": 750})));
    site.namespace.kubectl.apply(&lxc("b", json!({"vmid": 751})));
    site.wait_ready("phoenixlxc/a", 90);
    site.wait_ready("phoenixlxc/b", 90);

    let (code, said) = phoenix(&site, &["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("750") && said.contains("751") && said.contains("Ready"),
        "{said}"
    );
    let (code, said) = phoenix(&site, &["status", "b"]);
    assert!(
        code == Some(0) && said.contains("751") && !said.contains("750"),
        "{said}"
    );

    let (code, said) = phoenix(&site, &["stop", "a", "--timeout", "60s"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Stopped"), "{said}");
    assert!(!runs(&site, "750") && runs(&site, "751"));
    assert_eq!(
        site.namespace.kubectl.get(&["phoenixlxc/a"])["spec"]["powerState"],
        "Stopped"
    );
    let (code, said) = phoenix(&site, &["restart", "a"]);
    assert!(code == Some(2) && said.contains("phoenix start a"), "{code:?} {said}");

    // By vmid, as the legacy commands did.
    let (code, said) = phoenix(&site, &["start", "750", "--timeout", "60s"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(runs(&site, "750"));
    let since = site.guests()["751"]["running"]["since"].clone();
    let (code, said) = phoenix(&site, &["restart", "PhoenixLXC/b", "--timeout", "60s"]);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(site.guests()["751"]["running"]["since"], since, "{said}");

    let (code, said) = phoenix(&site, &["stop", "nobody"]);
    assert!(code == Some(2) && said.contains("nobody"), "{code:?} {said}");
    let (code, said) = phoenix(&site, &["delete", "a", "--timeout", "60s"]);
    assert_eq!(code, Some(0), "{said}");
    let guests = site.guests();
    assert!(!guests.contains_key("750") && guests.contains_key("751"));
    assert!(!site.namespace.kubectl.run(&["get", "phoenixlxc/a"]).ok);
}
