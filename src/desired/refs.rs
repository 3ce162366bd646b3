//! What an object refers to: its hypervisor, template and dependencies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::crd::{GuestKind, KeyRef, NamespacesFrom, PhoenixHypervisor};
use crate::desired::ObjectName;
use crate::reason::Reason;

use super::{Blocked, GuestObject, Key, Objects, Ref};

/// The object's hypervisor, if its namespace may use it.
///
/// # Errors
/// `HypervisorNotFound`, `NotAllowed`.
pub fn hypervisor(object: &GuestObject, objects: &dyn Objects) -> Result<Arc<PhoenixHypervisor>, Blocked> {
    let ObjectName { namespace, name } = object.hypervisor_ref();
    let hypervisor = objects.hypervisor(&namespace, &name).ok_or_else(|| {
        let message = match objects.hidden(&namespace) {
            Some(why) => format!("spec.hypervisorRef: PhoenixHypervisor {namespace}/{name} is not known: {why}"),
            None => format!(
                "spec.hypervisorRef.name: there is no PhoenixHypervisor {namespace}/{name}: create it or correct the name"
            ),
        };
        Blocked::stalled(Reason::HypervisorNotFound, message)
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
        Reason::NotAllowed,
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
    let hypervisor_namespace = object.hypervisor_ref().namespace;
    [&object.key.namespace, &hypervisor_namespace]
        .into_iter()
        .find_map(|namespace| objects.guest(&Key::new(GuestKind::PhoenixTemplate, namespace, name)))
        .ok_or_else(|| {
            Blocked::stalled(
                Reason::TemplateNotFound,
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

/// Templates that may stand behind each other. What is cloned from a template looks at all of them.
pub const MAX_LINEAGE: usize = 32;

/// Objects that a search for a circle of dependencies follows at most. A circle of more is not named as one: each of
/// its objects waits for the next.
const MAX_FOLLOWED: usize = 4096;

/// Objects of a circle that a message names.
const NAMED: usize = 8;

/// The templates that an object comes from, nearest first. It ends where one is missing or comes back.
///
/// # Errors
/// `InvalidSpec` where more than [`MAX_LINEAGE`] stand behind each other.
pub fn lineage(object: &GuestObject, objects: &dyn Objects) -> Result<Vec<GuestObject>, Blocked> {
    let mut ancestors: Vec<GuestObject> = Vec::new();
    let mut next = object.clone();
    while let Some(template) = next.template_ref().and_then(|name| template(&next, name, objects).ok()) {
        if template.key == object.key || ancestors.iter().any(|a| a.key == template.key) {
            break;
        }
        if ancestors.len() == MAX_LINEAGE {
            return Err(Blocked::stalled(
                Reason::InvalidSpec,
                format!(
                    "{}: more than {MAX_LINEAGE} templates stand behind each other: clone from one that is nearer to its image",
                    template_field(object)
                ),
            ));
        }
        ancestors.push(template.clone());
        next = template;
    }
    Ok(ancestors)
}

/// The object, the templates that it comes from, and what waits for it, one behind the other.
pub fn with_those_behind(object: &GuestObject, objects: &dyn Objects) -> Vec<GuestObject> {
    let mut all = lineage(object, objects).unwrap_or_default();
    let mut seen = BTreeSet::from([object.key.clone()]);
    let mut here = vec![object.key.clone()];
    for _ in 0..MAX_LINEAGE {
        let mut behind = Vec::new();
        let places: Vec<Ref> = here.drain(..).map(Ref::Guest).collect();
        objects.look_at_index(&mut |index| behind.extend(places.iter().flat_map(|at| index.referrers(at)).cloned()));
        behind.retain(|key| seen.insert(key.clone()));
        if behind.is_empty() || seen.len() > MAX_FOLLOWED {
            break;
        }
        all.extend(behind.iter().filter_map(|key| objects.guest(key)));
        here = behind;
    }
    all.push(object.clone());
    all
}

/// Keys that the object needs Ready first: its dependencies and its template.
pub fn needs(object: &GuestObject, objects: &dyn Objects) -> Vec<Key> {
    Needs::of(object).keys(objects)
}

/// What an object names that it needs.
struct Needs {
    keys: Vec<Key>,
    /// Places where its template may be, first one first.
    templates: Vec<Key>,
}

impl Needs {
    fn of(object: &GuestObject) -> Needs {
        Needs {
            keys: object.dependency_keys().collect(),
            templates: object.template_keys(),
        }
    }

    fn keys(mut self, objects: &dyn Objects) -> Vec<Key> {
        let exists = |key: &Key| {
            let mut found = false;
            objects.look_at(key, &mut |_| found = true);
            found
        };
        self.keys.extend(self.templates.into_iter().find(exists));
        self.keys
    }
}

/// Checks that everything the object depends on is Ready. The guest itself, once created, no longer waits: a
/// dependency that fails later does not stop it.
///
/// # Errors
/// `DependencyCycle` when following the dependencies leads back; waits otherwise.
pub fn dependencies(object: &GuestObject, objects: &dyn Objects) -> Result<(), Blocked> {
    if let Some(cycle) = find_cycle(object, objects) {
        return Err(Blocked::stalled(
            Reason::DependencyCycle,
            format!(
                "spec.dependsOn: {} wait for each other: take one of the dependencies out",
                circle(&cycle)
            ),
        ));
    }
    for key in object.dependency_keys() {
        match objects.guest(&key) {
            Some(other) if other.is_ready() && !other.deleting => {}
            Some(_) => {
                return Err(Blocked::waiting(
                    Reason::DependencyNotReady,
                    format!("waits for {} {} to be Ready", key.kind.as_str(), key.name),
                ));
            }
            None => {
                return Err(Blocked::waiting(
                    Reason::DependencyNotFound,
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

/// The way from the object back to itself, over objects that are not Ready: only these are waited for. Breadth first,
/// so the shortest one, and without recursion: users write chains of any length.
fn find_cycle(object: &GuestObject, objects: &dyn Objects) -> Option<Vec<Key>> {
    let start = &object.key;
    // Each object that was reached, with the one that led to it.
    let mut from: BTreeMap<Key, Key> = BTreeMap::new();
    let mut next = VecDeque::from([(start.clone(), Needs::of(object).keys(objects))]);
    while let Some((key, needs)) = next.pop_front() {
        for need in needs {
            if need == *start {
                let mut back = vec![need, key.clone()];
                while let Some(before) = from.get(&back[back.len() - 1]) {
                    back.push(before.clone());
                }
                back.reverse();
                return Some(back);
            }
            if from.contains_key(&need) || from.len() >= MAX_FOLLOWED {
                continue;
            }
            let mut waits = None;
            objects.look_at(&need, &mut |other| {
                waits = (!other.is_ready()).then(|| Needs::of(other));
            });
            from.insert(need.clone(), key.clone());
            if let Some(waits) = waits {
                next.push_back((need, waits.keys(objects)));
            }
        }
    }
    None
}

/// A circle for people, shortened where it is long.
fn circle(cycle: &[Key]) -> String {
    let name = |k: &Key| format!("{} {}", k.kind.as_str(), k.name);
    let mut names: Vec<String> = cycle.iter().take(NAMED).map(name).collect();
    if cycle.len() > NAMED {
        let more = cycle.len() - NAMED - 1;
        if more > 0 {
            names.push(format!("… {more} more …"));
        }
        names.extend(cycle.last().map(name));
    }
    names.join(" → ")
}

/// A key of a Secret in words, as every message names it.
pub fn key_of_secret(namespace: &str, name: &str, key: &str) -> String {
    format!("key {key:?} of Secret {namespace}/{name}")
}

/// Value of a key of a Secret, as text. It may be empty.
///
/// # Errors
/// `SecretNotFound` naming field, Secret and key; `InvalidSpec` where the value is no text.
pub fn secret_value(
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    key: &str,
    field: &str,
) -> Result<String, Blocked> {
    let missing = |what: String| Blocked::stalled(Reason::SecretNotFound, format!("{field}: {what}"));
    let secret = objects
        .secret(namespace, name)
        .ok_or_else(|| missing(format!("there is no Secret {namespace}/{name}: create it")))?;
    if let Some(plain) = secret.string_data.as_ref().and_then(|d| d.get(key)) {
        return Ok(plain.clone());
    }
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        let plain = secret.string_data.iter().flat_map(|data| data.keys());
        let keys: BTreeSet<&String> = secret.data.iter().flat_map(|data| data.keys()).chain(plain).collect();
        let has = match keys.is_empty() {
            true => "it is empty".to_string(),
            false => format!(
                "it has {}",
                Vec::from_iter(keys.iter().map(|k| format!("{k:?}"))).join(", ")
            ),
        };
        return Err(missing(format!(
            "Secret {namespace}/{name} has no key {key:?} ({has}): add it, or correct the name"
        )));
    };
    String::from_utf8(bytes.0.clone()).map_err(|error| {
        let named = key_of_secret(namespace, name, key);
        let at = error.utf8_error().valid_up_to() + 1;
        Blocked::stalled(
            Reason::InvalidSpec,
            format!("{field}: {named} is not text in UTF-8 (its byte {at} is wrong): put text there"),
        )
    })
}

/// Value of a key of a Secret, as text that is not empty.
///
/// # Errors
/// As [`secret_value`]; `InvalidSpec` where the value is empty or blank.
pub fn secret_text(
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    key: &str,
    field: &str,
) -> Result<String, Blocked> {
    let text = secret_value(objects, namespace, name, key, field)?;
    if text.trim().is_empty() {
        let named = key_of_secret(namespace, name, key);
        let message = format!("{field}: {named} is empty: put the value there");
        return Err(Blocked::stalled(Reason::InvalidSpec, message));
    }
    Ok(text)
}

/// SSH public keys of a Secret's key, one a line.
///
/// # Errors
/// As [`secret_value`]; `InvalidSpec` where a line is no public key, or there is none.
pub fn ssh_keys(objects: &dyn Objects, namespace: &str, from: &KeyRef, field: &str) -> Result<String, Blocked> {
    let KeyRef { name, key } = from;
    let text = secret_value(objects, namespace, name, key, field)?;
    let keys: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    let wrong = keys.iter().position(|k| !is_ssh_key(k));
    if keys.is_empty() || wrong.is_some() {
        let what = wrong.map_or("it is empty".to_string(), |n| format!("its line {} is none", n + 1));
        return Err(Blocked::stalled(
            Reason::InvalidSpec,
            format!(
                "{field}: {} must hold SSH public keys, one a line, such as \"ssh-ed25519 AAAA… me@desk\", but {what}",
                key_of_secret(namespace, name, key)
            ),
        ));
    }
    Ok(keys.join("\n"))
}

fn is_ssh_key(line: &str) -> bool {
    let kind = |word: &str| word.starts_with("ssh-") || word.starts_with("ecdsa-sha2-") || word.starts_with("sk-");
    // Options may stand in front of the type.
    let mut words = line.split_whitespace().skip_while(|w| !kind(w));
    words.next().is_some() && words.next().is_some_and(|k| k.starts_with("AAAA"))
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
    let missing = |what: String| Blocked::stalled(Reason::ConfigMapNotFound, format!("{field}: {what}"));
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
pub fn same_proxmox(a: &ObjectName, b: &ObjectName, objects: &dyn Objects) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b)) = (
        objects.hypervisor(&a.namespace, &a.name),
        objects.hypervisor(&b.namespace, &b.name),
    ) else {
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
