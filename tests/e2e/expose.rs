//! Guests that are reached by name, with a real API server: what it books to whom, and what it refuses.

use serde_json::{Value, json};

use crate::guests::lxc;
use crate::harness::namespace::Namespace;
use crate::harness::{repository, wait_for};
use crate::site::Site;

/// The rights of `config/expose` in a namespace alone, since all tests share the role of `config/rbac`.
fn give_rights_to_expose(namespace: &Namespace) {
    let text = std::fs::read_to_string(repository("config/expose/rules.yaml")).unwrap();
    let additions: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    let rules: Vec<&Value> = additions.iter().map(|addition| &addition["value"]).collect();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "expose"}, "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "expose"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "expose"},
        "subjects": [{"kind": "ServiceAccount", "name": "phoenix-operator", "namespace": "phoenix-system"}]});
    namespace.kubectl.apply(&role.to_string());
    namespace.kubectl.apply(&binding.to_string());
}

fn exposing(name: &str, ports: Value) -> String {
    lxc(name, json!({"expose": ports}))
}

fn told(site: &Site, name: &str) -> Value {
    let status = site.status(&format!("phoenixlxc/{name}"));
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .into_iter()
        .find(|c| c["type"] == "Exposed")
        .unwrap_or_default()
}

fn wait_told(site: &Site, name: &str, reason: &str) -> String {
    wait_for(&format!("{name} to tell {reason}"), || {
        let told = told(site, name);
        match told["reason"] == reason {
            true => Ok(told["message"].as_str().unwrap().to_string()),
            false => Err(format!("{told}\n{}", site.words())),
        }
    })
}

fn slice(site: &Site, name: &str) -> Option<Value> {
    let answer = site
        .namespace
        .kubectl
        .run(&["get", "endpointslice", name, "-o", "json", "--ignore-not-found"]);
    serde_json::from_str(&answer.stdout).ok()
}

fn ports(site: &Site, name: &str) -> Vec<Value> {
    let service = site.namespace.kubectl.get(&["service", name]);
    let ports = service["spec"]["ports"].as_array().unwrap().iter();
    ports
        .map(|port| json!([port["name"], port["port"], port["targetPort"]]))
        .collect()
}

#[test]
fn a_guest_is_reached_by_its_name() {
    let mut site = Site::new("exposed");
    site.exposes = true;
    site.hypervisor();
    let kubectl = site.namespace.kubectl.clone();
    // The rights come after the operator: it says which are missing, and works on everything else meanwhile.
    site.start_operator();
    let two = json!([{"name": "http", "port": 80, "targetPort": 8000}, {"name": "ssh", "port": 22, "when": "Always"}]);
    kubectl.apply(&exposing("qwen", two));
    site.wait_ready("phoenixlxc/qwen", 120);
    let message = wait_told(&site, "qwen", "ServiceRefused");
    assert!(message.contains("phoenix install --expose"), "{message}");
    give_rights_to_expose(&site.namespace);
    wait_told(&site, "qwen", "Exposed");

    let service = kubectl.get(&["service", "qwen"]);
    assert!(
        service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.contains('.')),
        "{service:#}"
    );
    assert!(service["spec"]["selector"].is_null());
    let ip = site.status("phoenixlxc/qwen")["ip"].clone();
    for name in ["qwen-when-ready-ipv4", "qwen-always-ipv4"] {
        let slice = slice(&site, name).unwrap();
        assert_eq!(slice["endpoints"][0]["addresses"], json!([ip]));
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true, "{slice:#}");
    }
    // Kubernetes' own controllers leave it alone, and everything is booked to one manager.
    let managed = kubectl.must(&[
        "get",
        "service/qwen",
        "endpointslice/qwen-always-ipv4",
        "-o",
        "json",
        "--show-managed-fields",
    ]);
    let managed: Value = serde_json::from_str(&managed).unwrap();
    for object in managed["items"].as_array().unwrap() {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let whose: Vec<_> = entries.iter().map(|e| json!([e["manager"], e["operation"]])).collect();
        assert_eq!(whose, [json!(["phoenix-operator", "Apply"])], "{object:#}");
    }

    // A port that the spec drops goes; what users add to the Service stays.
    kubectl.must(&["annotate", "service/qwen", "team=ai"]);
    kubectl.apply(&exposing("qwen", json!([{"name": "http", "port": 8000}])));
    wait_for("the port to go", || match ports(&site, "qwen") {
        ports if ports == [json!(["http", 8000, 8000])] => Ok(()),
        ports => Err(format!("{ports:?}\n{}", site.words())),
    });
    wait_for("the slice of the port to go", || {
        match slice(&site, "qwen-always-ipv4") {
            None => Ok(()),
            Some(slice) => Err(slice.to_string()),
        }
    });
    assert_eq!(
        kubectl.get(&["service", "qwen"])["metadata"]["annotations"]["team"],
        "ai"
    );

    // What somebody spoils is mended.
    kubectl.must(&["label", "service/qwen", "app.kubernetes.io/managed-by-"]);
    kubectl.must(&["delete", "endpointslice/qwen-when-ready-ipv4"]);
    wait_for("label and slice to come back", || {
        let labels = kubectl.get(&["service", "qwen"])["metadata"]["labels"].clone();
        let back = labels["app.kubernetes.io/managed-by"] == "phoenix-hypervisor.io";
        match back && slice(&site, "qwen-when-ready-ipv4").is_some() {
            true => Ok(()),
            false => Err(format!("{labels}\n{}", site.words())),
        }
    });
    kubectl.apply(&lxc(
        "qwen",
        json!({"powerState": "Stopped", "expose": [{"name": "http", "port": 8000}]}),
    ));
    wait_for("no more traffic", || match slice(&site, "qwen-when-ready-ipv4") {
        Some(slice) if slice["endpoints"][0]["conditions"]["ready"] == true => Err(slice.to_string()),
        _ => Ok(()),
    });

    // Deleted with its object, by Kubernetes.
    kubectl.must(&["delete", "phoenixlxc/qwen", "--timeout=120s"]);
    wait_for("the Service to go with its object", || {
        let left = kubectl.must(&["get", "service,endpointslice", "-o", "name"]);
        left.trim().is_empty().then_some(()).ok_or(left)
    });
}

#[test]
fn a_service_of_somebody_elses_stays_theirs() {
    let mut site = Site::new("taken");
    site.exposes = true;
    site.hypervisor();
    give_rights_to_expose(&site.namespace);
    let kubectl = site.namespace.kubectl.clone();
    kubectl.must(&["create", "service", "clusterip", "qwen", "--tcp=80:80"]);
    let before = kubectl.get(&["service", "qwen"]);
    site.start_operator();
    kubectl.apply(&exposing("qwen", json!([{"name": "http", "port": 8000}])));
    site.wait_ready("phoenixlxc/qwen", 120);
    let message = wait_told(&site, "qwen", "ServiceNotOurs");
    assert!(message.contains("kubectl delete"), "{message}");
    kubectl.apply(&exposing("qwen", json!([])));
    wait_for("nothing to be told", || match told(&site, "qwen") {
        Value::Null => Ok(()),
        told => Err(told.to_string()),
    });
    assert_eq!(kubectl.get(&["service", "qwen"]), before);
}

#[test]
fn what_no_service_can_be_is_refused() {
    let namespace = Namespace::create("unexposable");
    let refused = |name: &str, ports: Value| {
        let answer = namespace
            .kubectl
            .run_with(&["apply", "--dry-run=server", "-f", "-"], &exposing(name, ports));
        assert!(!answer.ok, "{}", answer.stdout);
        answer.stderr
    };
    let one = json!([{"name": "http", "port": 80}]);
    for name in ["qwen.large", "7b"] {
        let words = refused(name, one.clone());
        assert!(words.contains("a Service of the object's name"), "{words}");
    }
    let words = refused(
        "qwen",
        json!([{"name": "a", "port": 80}, {"name": "b", "port": 80, "protocol": "TCP"}]),
    );
    assert!(words.contains("the same port and protocol"), "{words}");
    for (field, value) in [
        ("name", json!("HTTP")),
        ("port", json!(0)),
        ("targetPort", json!(70000)),
        ("appProtocol", json!("a b")),
    ] {
        let mut port = one[0].clone();
        port[field] = value;
        let words = refused("qwen", json!([port]));
        assert!(words.contains(&format!("spec.expose[0].{field}")), "{words}");
    }
    let both = json!([{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]);
    namespace
        .kubectl
        .must_with(&["apply", "--dry-run=server", "-f", "-"], &exposing("qwen", both));
}
