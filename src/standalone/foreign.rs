//! Names what a folder holds beside Phoenix's objects, so that nothing is passed over in silence.

use serde_json::Value;

use crate::admission::Manifest;

/// So many documents of one file are named; the others are counted.
const NAMED: usize = 10;

/// Kind and name of each document, in their order; `None` if there is none.
pub fn listed(documents: &[Manifest]) -> Option<String> {
    let mut names: Vec<String> = documents.iter().take(NAMED).map(|d| named(&d.value)).collect();
    // Many of a kind say no more than one.
    names.dedup();
    if documents.len() > NAMED {
        names.push(format!("{} more", documents.len() - NAMED));
    }
    (!names.is_empty()).then(|| names.join(", "))
}

fn named(document: &Value) -> String {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    if version.starts_with("kustomize.config.k8s.io/") && kind == "Kustomization" {
        return "Kustomization (-k builds it)".into();
    }
    if version.is_empty() || kind.is_empty() {
        return "no apiVersion and kind".into();
    }
    if name.is_empty() {
        return format!("{kind} of {version}");
    }
    format!("{kind} {name} of {version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::read_manifests;

    #[test]
    fn documents_are_named_and_many_are_counted() {
        let told = |text: &str| listed(&read_manifests(text, "a.yaml").unwrap());
        assert_eq!(told("# nothing\n"), None);
        let text = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: web}\n---\nreplicas: 1\n---\n- op: add\n";
        assert_eq!(
            told(text).as_deref(),
            Some("Application web of argoproj.io/v1alpha1, no apiVersion and kind")
        );
        let many: String = (0..12)
            .map(|n| format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\n"))
            .collect();
        let told = told(&many).unwrap();
        assert!(
            told.starts_with("Service s0 of v1, ") && told.ends_with("s9 of v1, 2 more"),
            "{told}"
        );
    }
}
