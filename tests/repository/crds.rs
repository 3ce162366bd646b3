//! The generated CRDs and `crds/` agree, and stay within what an API server and `kubectl apply` take.

use kube::ResourceExt;
use serde_json::Value;

fn dir() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")
}

#[test]
fn crds_folder_is_up_to_date() {
    let crds = phoenix::crd::all().unwrap();
    for crd in &crds {
        let path = dir().join(format!("{}.yaml", crd.name_any()));
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == phoenix::crd::to_yaml(crd).unwrap(),
            "{} is out of date: run `make crds`",
            path.display()
        );
        // Client-side apply keeps the whole object in an annotation of at most 256 KiB.
        assert!(
            serde_json::to_string(crd).unwrap().len() < 250_000,
            "{} is too large",
            path.display()
        );
    }
    assert_eq!(
        std::fs::read_dir(dir()).unwrap().count(),
        crds.len(),
        "crds/ holds files of no kind"
    );
}

#[test]
fn the_schemas_of_admission_are_up_to_date() {
    let path = dir().with_file_name("src/admission/schemas.json");
    let stored = std::fs::read_to_string(&path).unwrap();
    assert!(
        stored == phoenix::crd::schemas().unwrap(),
        "out of date: run `make crds`"
    );
}

/// Visits every schema node with its path.
fn visit(path: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
    see(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        visit(&format!("{path}.{name}"), property, see);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            visit(&format!("{path}[]"), &schema[key], see);
        }
    }
}

/// The API server prints of a column the first value that its path finds, and lists as JSON.
#[test]
fn every_column_of_kubectl_get_is_one_plain_value() {
    let mut wrong = Vec::new();
    for crd in phoenix::crd::all().unwrap() {
        let version = serde_json::to_value(&crd).unwrap()["spec"]["versions"][0].take();
        for column in version["additionalPrinterColumns"].as_array().unwrap() {
            let path = column["jsonPath"].as_str().unwrap();
            let mut node = &version["schema"]["openAPIV3Schema"];
            for name in path.trim_start_matches('.').split('.') {
                node = &node["properties"][name];
            }
            let type_ = node["type"].as_str().unwrap_or("none");
            let quantity = node["x-kubernetes-int-or-string"] == true;
            let plain = quantity || ["string", "integer", "number", "boolean"].contains(&type_);
            if !plain && !path.starts_with(".metadata.") {
                wrong.push(format!("{} {path}: {type_}", crd.spec.names.kind));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_field_is_documented_and_bounded() {
    let mut missing = Vec::new();
    for crd in phoenix::crd::all().unwrap() {
        let schema = serde_json::to_value(&crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        visit(
            &crd.spec.names.kind,
            &schema["properties"]["spec"],
            &mut |path, schema| {
                let documented = schema["description"].as_str().is_some_and(|d| !d.is_empty());
                if path.contains('.') && !path.contains("selector") && !path.ends_with("[]") && !documented {
                    missing.push(format!("{path}: no description"));
                }
                let bound = match schema["type"].as_str() {
                    Some("array") => "maxItems",
                    Some("string") if schema["enum"].is_null() => "maxLength",
                    Some("object") if schema["additionalProperties"].is_object() => "maxProperties",
                    _ => return,
                };
                if schema[bound].is_null() {
                    missing.push(format!("{path}: no {bound}"));
                }
            },
        );
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn fields_keep_their_own_words() {
    for (kind, path, words) in [
        (
            "PhoenixLXC",
            "/powerState",
            "Whether the container runs. Absent: Running.",
        ),
        ("PhoenixLXC", "/rootfs", "Root filesystem. It can grow, never shrink."),
        ("PhoenixVM", "/powerState", "Whether the machine runs. Absent: Running."),
        (
            "PhoenixLXC",
            "/firewall/properties/outboundPolicy",
            "What happens to outgoing traffic that no rule names.",
        ),
        (
            "PhoenixLXC",
            "/volumes/items/properties/reclaimPolicy",
            "What happens to it when the container is destroyed. Absent: Retain.",
        ),
    ] {
        let crds = phoenix::crd::all().unwrap();
        let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let crd = serde_json::to_value(crd).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        assert_eq!(
            spec.pointer(&format!("{path}/description")).unwrap(),
            words,
            "{kind} {path}"
        );
    }
}
