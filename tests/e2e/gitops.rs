//! What is live does not differ from what is in Git, and is judged as it is: on a real API server, with examples of all kinds.

use std::path::Path;

use phoenix::admission::read_manifests;
use serde_json::Value;

use crate::evaluator::{difference, judge};
use crate::examples::example;
use crate::harness::repository;
use crate::site::Site;

/// `kubectl diff` and Argo CD find nothing to change, and Argo CD and Flux call it done.
pub fn is_in_sync(site: &Site, manifests: &str) {
    let kubectl = &site.namespace.kubectl;
    let answer = kubectl.run_with(&["diff", "-f", "-"], manifests);
    assert!(
        answer.ok && answer.stdout.is_empty(),
        "{}{}",
        answer.stdout,
        answer.stderr
    );
    for manifest in read_manifests(manifests, "manifests").unwrap() {
        let wanted = manifest.value;
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let (kind, name) = (text(&wanted["kind"]), text(&wanted["metadata"]["name"]));
        if !kind.starts_with("Phoenix") {
            continue;
        }
        let live = kubectl.get(&[&format!("{kind}/{name}")]);
        let predicted = difference(&wanted, &live);
        assert_eq!(predicted, None, "{kind} {name} is {live:#}");
        let verdicts = judge(&[live]).remove(0);
        let found = (verdicts.argocd.0.as_str(), verdicts.flux.0.as_str());
        assert_eq!(found, ("Healthy", "Current"), "{kind} {name}: {verdicts:?}");
    }
}

/// The manifests of a folder, as `kubectl kustomize` renders it.
pub fn rendered(site: &Site, folder: &Path) -> String {
    site.namespace.kubectl.must(&["kustomize", folder.to_str().unwrap()])
}

#[test]
fn a_folder_is_applied_in_any_order_and_then_in_sync() {
    let mut site = Site::new("gitops");
    site.start_operator();
    let fleet = rendered(&site, &repository("examples/fleet"));
    site.namespace.kubectl.apply(&fleet);
    example(&site, &site.dir.join("sim/hypervisor.yaml"));
    for object in ["phoenixtemplate/web-base", "phoenixlxc/web", "phoenixlxc/worker"] {
        site.wait_ready(object, 180);
    }
    is_in_sync(&site, &fleet);
}

/// An object is not done before the operator has seen it, though nobody has written a status.
#[test]
fn what_nobody_has_seen_is_in_progress() {
    let site = Site::new("unseen");
    site.namespace
        .kubectl
        .apply(&rendered(&site, &repository("examples/fleet")));
    example(&site, &site.dir.join("sim/hypervisor.yaml"));
    for kind in ["PhoenixHypervisor", "PhoenixFeature", "PhoenixTemplate", "PhoenixLXC"] {
        let objects = site.namespace.kubectl.get(&[kind])["items"].as_array().unwrap().clone();
        assert!(!objects.is_empty(), "{kind}");
        for verdicts in judge(&objects) {
            let found = (verdicts.argocd.0.as_str(), verdicts.flux.0.as_str());
            assert_eq!(found, ("Progressing", "InProgress"), "{kind}");
        }
    }
}
