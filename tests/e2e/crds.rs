//! The CRDs on a real API server: accepted (it prices every CEL rule), explained, listed.

use std::fs;

use serde_json::Value;

use crate::harness::cluster::cluster;
use crate::harness::namespace::Namespace;
use crate::harness::repository;

/// Kind, plural, short name.
const KINDS: [(&str, &str, &str); 5] = [
    ("PhoenixLXC", "phoenixlxcs", "plxc"),
    ("PhoenixVM", "phoenixvms", "pvm"),
    ("PhoenixTemplate", "phoenixtemplates", "ptpl"),
    ("PhoenixHypervisor", "phoenixhypervisors", "phv"),
    ("PhoenixFeature", "phoenixfeatures", "pfeat"),
];

/// Client-side apply keeps the whole object in an annotation; all annotations together may have 256 KiB.
const ANNOTATION_LIMIT: usize = 256 * 1024;

fn crds() -> Vec<Value> {
    let list = cluster().admin.get(&["crds"]);
    let items = list["items"].as_array().unwrap().iter();
    items
        .filter(|crd| crd["spec"]["group"] == "phoenix-hypervisor.io")
        .cloned()
        .collect()
}

#[test]
fn are_established_under_their_names() {
    let crds = crds();
    assert_eq!(crds.len(), KINDS.len());
    for (kind, plural, short) in KINDS {
        let crd = crds.iter().find(|crd| crd["spec"]["names"]["kind"] == kind);
        let crd = crd.unwrap_or_else(|| panic!("no CRD for {kind}"));
        assert_eq!(crd["spec"]["names"]["plural"], plural);
        assert_eq!(crd["spec"]["names"]["shortNames"], serde_json::json!([short]));
        assert_eq!(crd["spec"]["names"]["categories"], serde_json::json!(["phoenix"]));
        for condition in crd["status"]["conditions"].as_array().unwrap() {
            let wanted = match condition["type"].as_str().unwrap() {
                "Established" | "NamesAccepted" => "True",
                // Reported only when something is wrong with the schema.
                "NonStructuralSchema" | "KubernetesAPIApprovalPolicyConformant" => "False",
                other => panic!("{kind}: condition {other} that nobody has looked at: {condition}"),
            };
            assert_eq!(condition["status"], wanted, "{kind}: {condition}");
        }
    }
}

#[test]
fn fit_into_the_annotation_of_client_side_apply() {
    for crd in crds() {
        let annotations = crd["metadata"]["annotations"].as_object().unwrap();
        let size: usize = annotations
            .iter()
            .map(|(k, v)| k.len() + v.as_str().unwrap().len())
            .sum();
        assert!(annotations.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
        assert!(size < ANNOTATION_LIMIT, "{}: {size} bytes", crd["metadata"]["name"]);
    }
    for entry in fs::read_dir(repository("crds")).unwrap() {
        let path = entry.unwrap().path();
        let size = fs::metadata(&path).unwrap().len();
        assert!(size < ANNOTATION_LIMIT as u64, "{}: {size} bytes", path.display());
    }
}

#[test]
fn kubectl_explain_describes_every_field_of_every_spec() {
    for crd in crds() {
        let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let spec = schema["properties"]["spec"]["properties"].as_object().unwrap();
        let mut wanted: Vec<_> = spec.keys().map(String::as_str).collect();
        wanted.sort_unstable();

        let text = cluster().admin.must(&["explain", &format!("{plural}.spec")]);
        let fields = explained_fields(&text);
        let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, wanted, "{text}");
        for (name, description) in fields {
            let said = !description.is_empty() && !description.contains("<no description>");
            assert!(said, "kubectl explain {plural}.spec.{name} says {description:?}");
        }
    }
}

#[test]
fn kubectl_explain_reaches_nested_fields() {
    let text = cluster().admin.must(&["explain", "plxc.spec.network.bridge"]);
    assert!(text.contains("KIND:       PhoenixLXC"), "{text}");
    let description = text.split_once("DESCRIPTION:").unwrap().1.trim();
    assert!(!description.is_empty() && !description.contains("<empty>"), "{text}");
}

/// Name and description of each field in the answer of `kubectl explain`: two blanks, name, tab and type (below that
/// perhaps the values of an enum); then the description, indented by four.
fn explained_fields(text: &str) -> Vec<(&str, String)> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in text.split_once("FIELDS:").unwrap().1.lines() {
        if let Some(description) = line.strip_prefix("    ") {
            fields.last_mut().unwrap().1.push_str(description);
        } else if let Some((field, _type)) = line.trim_start().split_once('\t') {
            fields.push((field, String::new()));
        }
    }
    fields
}

#[test]
fn category_lists_all_kinds_and_prints_their_columns() {
    let ns = Namespace::create("crds-columns");
    for (kind, _, _) in KINDS {
        ns.kubectl.apply(&minimal(kind));
    }
    let listed = ns.kubectl.must(&["get", "phoenix", "-o", "name"]);
    let mut listed: Vec<_> = listed.lines().collect();
    listed.sort_unstable();
    let mut wanted: Vec<_> = KINDS
        .iter()
        .map(|(kind, _, _)| format!("{}.phoenix-hypervisor.io/sample", kind.to_lowercase()))
        .collect();
    wanted.sort_unstable();
    assert_eq!(listed, wanted);

    let header = |args: &[&str]| -> Vec<String> {
        let text = ns.kubectl.must(&[&["get"], args].concat());
        text.lines()
            .next()
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    insta::assert_yaml_snapshot!(
        "columns",
        KINDS.map(|(kind, _, short)| (
            kind,
            header(&[short]).join(" "),
            header(&[short, "-o", "wide"]).join(" "),
        ))
    );
}

/// The shortest valid object of a kind.
fn minimal(kind: &str) -> String {
    let spec = match kind {
        "PhoenixLXC" | "PhoenixVM" => "hypervisorRef: {name: pve}, source: {templateRef: {name: base}}",
        "PhoenixTemplate" => "hypervisorRef: {name: pve}, lxc: {source: {templateRef: {name: base}}}",
        "PhoenixHypervisor" => "endpoints: ['https://pve.example:8006'], credentials: {tokenSecretRef: {name: pve}}",
        "PhoenixFeature" => "install: 'true'",
        other => panic!("no sample of {other}"),
    };
    format!("apiVersion: phoenix-hypervisor.io/v1alpha1\nkind: {kind}\nmetadata: {{name: sample}}\nspec: {{{spec}}}\n")
}
