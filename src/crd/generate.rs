//! Generates the CustomResourceDefinitions from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::status::{FeatureStatus, GuestStatus, HypervisorStatus};
use super::{
    PhoenixFeature, PhoenixFeatureSpec, PhoenixHypervisor, PhoenixHypervisorSpec, PhoenixLXC, PhoenixLXCSpec,
    PhoenixTemplate, PhoenixTemplateSpec, PhoenixVM, PhoenixVMSpec,
};

/// Bounds for strings, lists and maps that name none: the API server prices CEL rules by the worst case.
const MAX_STRING: u64 = 1024;
const MAX_ITEMS: u64 = 64;
const MAX_PROPERTIES: u64 = 64;

/// What `kubectl get --field-selector` can ask for, where a kind has it.
const SELECTABLE: [&str; 3] = [".spec.hypervisorRef.name", ".spec.vmid", ".status.phase"];

/// The CustomResourceDefinitions of all kinds, in a fixed order.
///
/// # Errors
/// Only if a type cannot be expressed as a CRD, which a test would have shown.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    let guest_rules = [
        fixed("spec.hypervisorRef", Some(REFERENCE)),
        fixed("spec.vmid", None),
        fixed("spec.source", None),
        exposable(),
    ];
    let template_rules = [fixed("spec.hypervisorRef", Some(REFERENCE))];
    [
        (
            PhoenixLXC::crd(),
            guest_rules.to_vec(),
            raw::<PhoenixLXCSpec, GuestStatus>(),
        ),
        (
            PhoenixVM::crd(),
            guest_rules.to_vec(),
            raw::<PhoenixVMSpec, GuestStatus>(),
        ),
        (
            PhoenixTemplate::crd(),
            template_rules.to_vec(),
            raw::<PhoenixTemplateSpec, GuestStatus>(),
        ),
        (
            PhoenixHypervisor::crd(),
            vec![],
            raw::<PhoenixHypervisorSpec, HypervisorStatus>(),
        ),
        (
            PhoenixFeature::crd(),
            vec![],
            raw::<PhoenixFeatureSpec, FeatureStatus>(),
        ),
    ]
    .into_iter()
    .map(|(crd, rules, raw)| finish(crd, rules, &raw))
    .collect()
}

/// What admission needs of the schemas of all kinds, a kind a line. Rewriting a schema for Kubernetes takes longer than
/// everything else that most commands do, so it is done once, by `make crds`.
///
/// # Errors
/// As [`all`].
pub fn schemas() -> Result<String, serde_json::Error> {
    let mut lines = Vec::new();
    for crd in all()? {
        let kind = crd.spec.names.kind.clone();
        let mut crd = serde_json::to_value(crd)?;
        let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        without_words(&mut schema);
        lines.push(format!("{}:{schema}", json!(kind)));
    }
    Ok(format!("{{{}}}\n", lines.join(",\n")))
}

/// Takes the descriptions out, which only `kubectl explain` shows.
fn without_words(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("description");
    for key in ["items", "additionalProperties"] {
        object.get_mut(key).into_iter().for_each(without_words);
    }
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    properties
        .into_iter()
        .flat_map(|p| p.values_mut())
        .for_each(without_words);
}

/// CEL for the hypervisor of an object, with its namespace where it is given.
const REFERENCE: fn(&str) -> String = |of| {
    let at = format!("{of}.spec.hypervisorRef");
    format!("(has({at}.__namespace__) ? {at}.__namespace__ + '/' : '') + {at}.name")
};

/// A rule at the root, which sees spec and status: `field` may change only while `status.vmid` is unset (promise 4).
/// The API server shows no value for rules at the root, so the message names it where CEL's price allows: strings do,
/// numbers do not (their text counts as unbounded).
fn fixed(field: &str, named: Option<fn(&str) -> String>) -> Value {
    let end = "while the guest exists (status.vmid is set): make a new object, or put the old value back";
    let mut rule = json!({
        "rule": format!(
            "!has(oldSelf.status) || !has(oldSelf.status.vmid) || (has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field}))"
        ),
        "message": format!("{field} cannot change {end}"),
        "fieldPath": format!(".{field}"),
    });
    if let Some(named) = named {
        let (old, new) = (named("oldSelf"), named("self"));
        rule["messageExpression"] = json!(format!(
            "'{field} cannot change from ' + {old} + ' to ' + {new} + ' {end}'"
        ));
    }
    rule
}

/// A rule at the root: what is exposed is so by a Service of the object's name, which not every object's name can be.
fn exposable() -> Value {
    json!({
        "rule": "!has(self.spec.expose) || self.spec.expose.size() == 0 || (self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$'))",
        "message": "spec.expose makes a Service of the object's name, whose name begins with a letter and has at most 63 lower-case letters, digits and '-': give the object such a name, or leave expose out",
        "fieldPath": ".spec.expose",
    })
}

/// A CRD as YAML, as `crds/` holds it.
///
/// # Errors
/// As [`all`].
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser_error::Error> {
    serde_saphyr::to_string(crd)
}

/// The schema as schemars makes it, before it is rewritten for Kubernetes.
fn raw<Spec: JsonSchema, Status: JsonSchema>() -> Value {
    let mut generator = SchemaSettings::openapi3()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator();
    let (spec, status) = (generator.subschema_for::<Spec>(), generator.subschema_for::<Status>());
    json!({"properties": {"spec": spec, "status": status}})
}

/// Adds bounds where the types name none, and rules at the root, which see both spec and status.
fn finish(
    crd: CustomResourceDefinition,
    rules: Vec<Value>,
    raw: &Value,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        describe(schema, raw);
        bound(schema);
        // An object that the operator has not seen yet says so: kstatus (Flux, Helm's --wait) takes one without a status
        // for done.
        schema["properties"]["status"]["default"] = json!({"observedGeneration": -1});
        if !rules.is_empty() {
            schema["x-kubernetes-validations"] = Value::Array(rules);
        }
        let selectable = SELECTABLE.iter().filter(|path| {
            let fields = path.trim_start_matches('.').split('.');
            let pointer: String = fields.map(|field| format!("/properties/{field}")).collect();
            schema.pointer(&pointer).is_some()
        });
        let selectable: Vec<Value> = selectable.map(|path| json!({"jsonPath": path})).collect();
        if !selectable.is_empty() {
            value["spec"]["versions"][0]["selectableFields"] = Value::Array(selectable);
        }
    }
    serde_json::from_value(value)
}

/// Gives fields their own words back. Rewriting `Option<T>` for Kubernetes puts the type's description over the
/// field's, and `kubectl explain` would say "Whether a guest runs." of every field of that type.
fn describe(schema: &mut Value, raw: &Value) {
    // `Option<T>` is `anyOf: [T, null]` in the raw schema.
    let raw = raw.pointer("/anyOf/0").unwrap_or(raw);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let raw = &raw["properties"][name];
            if let Some(description) = raw["description"].as_str() {
                property["description"] = json!(description);
            }
            describe(property, raw);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            describe(inner, &raw[key]);
        }
    }
}

fn bound(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    // An explicit null is refused instead of passing `has()` in rules with nothing behind it.
    object.remove("nullable");
    match object.get("type").and_then(Value::as_str) {
        Some("string") if !object.contains_key("enum") && !object.contains_key("format") => {
            object.entry("maxLength").or_insert(json!(MAX_STRING));
        }
        Some("array") => {
            object.entry("maxItems").or_insert(json!(MAX_ITEMS));
        }
        Some("object") if object.contains_key("additionalProperties") => {
            object.entry("maxProperties").or_insert(json!(MAX_PROPERTIES));
        }
        _ => {}
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            bound(inner);
        }
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for property in properties.values_mut() {
            bound(property);
        }
    }
}
