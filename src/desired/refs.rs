//! What an object refers to: its hypervisor, template and dependencies.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::crd::*;

use super::{Blocked, GuestObject, Key, Objects};

/// The object's hypervisor, if its namespace may use it.
///
/// # Errors
/// `HypervisorNotFound`, `NotAllowed`.
pub fn hypervisor(object: &GuestObject, objects: &dyn Objects) -> Result<Arc<PhoenixHypervisor>, Blocked> {
    let (namespace, name) = object.hypervisor_ref();
    let hypervisor = objects.hypervisor(&namespace, &name).ok_or_else(|| {
        Blocked::stalled(
            "HypervisorNotFound",
            format!("spec.hypervisorRef.name: there is no PhoenixHypervisor {namespace}/{name}: create it or correct the name"),
        )
    })?;
    if namespace == object.key.namespace {
        return Ok(hypervisor);
    }
    let allowed = hypervisor.spec.allowed_namespaces.clone().unwrap_or_default();
    let labels = || objects.namespace_labels(&object.key.namespace).unwrap_or_default();
    let may = match allowed.from.unwrap_or_default() {
        NamespacesFrom::Same => false,
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => allowed
            .selector
            .as_ref()
            .is_some_and(|s| selector_matches(s, &labels())),
    };
    if may {
        return Ok(hypervisor);
    }
    Err(Blocked::stalled(
        "NotAllowed",
        format!(
            "spec.hypervisorRef: PhoenixHypervisor {namespace}/{name} does not let namespace {} use it: add it to its \
             spec.allowedNamespaces",
            object.key.namespace
        ),
    ))
}

fn selector_matches(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    let exact = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    let expressions = selector.match_expressions.iter().flatten().all(|e| {
        let value = labels.get(&e.key);
        let listed = value.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
        match e.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    exact && expressions
}

/// The template that the object is cloned from: of its own namespace, then the hypervisor's.
///
/// # Errors
/// `TemplateNotFound`.
pub fn template(object: &GuestObject, name: &str, objects: &dyn Objects) -> Result<GuestObject, Blocked> {
    let (hypervisor_namespace, _) = object.hypervisor_ref();
    [&object.key.namespace, &hypervisor_namespace]
        .into_iter()
        .find_map(|namespace| objects.guest(&Key::new(GuestKind::PhoenixTemplate, namespace, name)))
        .ok_or_else(|| {
            Blocked::stalled(
                "TemplateNotFound",
                format!(
                    "{}: there is no PhoenixTemplate {name} in namespace {}: create it or correct the name",
                    template_field(object),
                    object.key.namespace
                ),
            )
        })
}

fn template_field(object: &GuestObject) -> String {
    format!("{}.source.templateRef.name", object.field_prefix())
}

/// Keys that the object needs Ready first: its dependencies and its template.
pub fn needs(object: &GuestObject, objects: &dyn Objects) -> Vec<Key> {
    let mut keys: Vec<Key> = object
        .depends_on()
        .iter()
        .map(|d| Key::new(d.kind, &object.key.namespace, &d.name))
        .collect();
    if let Some(name) = object.template_ref()
        && let Ok(template) = template(object, name, objects)
    {
        keys.push(template.key);
    }
    keys
}

/// Checks that everything the object depends on is Ready. The guest itself, once created, no longer waits: a
/// dependency that fails later does not stop it.
///
/// # Errors
/// `DependencyCycle` when following the dependencies leads back; waits otherwise.
pub fn dependencies(object: &GuestObject, objects: &dyn Objects) -> Result<(), Blocked> {
    if let Some(cycle) = find_cycle(object, objects) {
        let names: Vec<String> = cycle
            .iter()
            .map(|k| format!("{} {}", k.kind.as_str(), k.name))
            .collect();
        return Err(Blocked::stalled(
            "DependencyCycle",
            format!(
                "spec.dependsOn: {} wait for each other: take one of the dependencies out",
                names.join(" → ")
            ),
        ));
    }
    for dependency in object.depends_on() {
        let key = Key::new(dependency.kind, &object.key.namespace, &dependency.name);
        match objects.guest(&key) {
            Some(other) if other.is_ready() && !other.deleting => {}
            Some(_) => {
                return Err(Blocked::waiting(
                    "DependencyNotReady",
                    format!("waits for {} {} to be Ready", key.kind.as_str(), key.name),
                ));
            }
            None => {
                return Err(Blocked::waiting(
                    "DependencyNotFound",
                    format!(
                        "spec.dependsOn: waits for {} {}, which does not exist",
                        key.kind.as_str(),
                        key.name
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn find_cycle(object: &GuestObject, objects: &dyn Objects) -> Option<Vec<Key>> {
    let mut path = vec![object.key.clone()];
    let mut seen = BTreeSet::new();
    fn walk(
        current: &GuestObject,
        start: &Key,
        path: &mut Vec<Key>,
        seen: &mut BTreeSet<Key>,
        objects: &dyn Objects,
    ) -> bool {
        for next in needs(current, objects) {
            path.push(next.clone());
            if &next == start {
                return true;
            }
            if seen.insert(next.clone())
                && let Some(other) = objects.guest(&next)
                && walk(&other, start, path, seen, objects)
            {
                return true;
            }
            path.pop();
        }
        false
    }
    walk(object, &object.key, &mut path, &mut seen, objects).then_some(path)
}

/// Value of a key of a Secret, as text.
///
/// # Errors
/// `SecretNotFound` naming field, Secret and key.
pub fn secret_value(
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    key: &str,
    field: &str,
) -> Result<String, Blocked> {
    let missing = |what: String| Blocked::stalled("SecretNotFound", format!("{field}: {what}"));
    let secret = objects
        .secret(namespace, name)
        .ok_or_else(|| missing(format!("there is no Secret {namespace}/{name}: create it")))?;
    let plain = secret.string_data.as_ref().and_then(|d| d.get(key)).cloned();
    let encoded = || {
        secret
            .data
            .as_ref()?
            .get(key)
            .and_then(|v| String::from_utf8(v.0.clone()).ok())
    };
    plain.or_else(encoded).ok_or_else(|| {
        missing(format!(
            "Secret {namespace}/{name} has no key {key:?} with text: add it"
        ))
    })
}

/// Value of a key of a ConfigMap.
///
/// # Errors
/// `ConfigMapNotFound` naming field, ConfigMap and key.
pub fn config_map_value(
    objects: &dyn Objects,
    namespace: &str,
    reference: &KeyRef,
    field: &str,
) -> Result<String, Blocked> {
    let KeyRef { name, key } = reference;
    let missing = |what: String| Blocked::stalled("ConfigMapNotFound", format!("{field}: {what}"));
    let map = objects
        .config_map(namespace, name)
        .ok_or_else(|| missing(format!("there is no ConfigMap {namespace}/{name}: create it")))?;
    map.data
        .as_ref()
        .and_then(|d| d.get(key))
        .cloned()
        .ok_or_else(|| missing(format!("ConfigMap {namespace}/{name} has no key {key:?}: add it")))
}
/// Whether two PhoenixHypervisors, by namespace and name, are the same Proxmox cluster.
pub fn same_proxmox(a: &(String, String), b: &(String, String), objects: &dyn Objects) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b)) = (objects.hypervisor(&a.0, &a.1), objects.hypervisor(&b.0, &b.1)) else {
        return false;
    };
    let ca = |h: &PhoenixHypervisor| h.status.as_ref()?.cluster.as_ref()?.ca_fingerprint.clone();
    if ca(&a).is_some() && ca(&a) == ca(&b) {
        return true;
    }
    let end = |url: &String| url.trim_end_matches('/').to_lowercase();
    a.spec
        .endpoints
        .iter()
        .any(|x| b.spec.endpoints.iter().any(|y| end(x) == end(y)))
}
