//! The features of a guest: found, ordered, given their parameters, and made scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt;

use crate::crd::{FeatureParameter, FeatureRef, FeatureTarget, ParameterType, PhoenixFeature, PhoenixHypervisor};
use crate::desired::{Blocked, GuestObject, Objects, Script, ScriptFile, ScriptRole, refs};
use crate::pve::GuestType;
use crate::reason::Reason;

use super::{Given, RUN, invalid, invocation, no_nul};

/// Seconds for a feature that does not say.
const DEADLINE: i64 = 1800;

/// A feature that a guest gets.
pub(super) struct Wanted {
    /// The feature.
    pub feature: Arc<PhoenixFeature>,
    /// Field of the spec that asks for it, itself or through a requirement.
    field: String,
    /// Whether the spec lists it, so that it can have parameters there.
    listed: bool,
    /// Parameters that the object gives.
    parameters: BTreeMap<String, String>,
}

impl Wanted {
    /// Whether the feature goes by this name or alias.
    pub fn is(&self, name: &str) -> bool {
        is_called(&self.feature, name)
    }
}

fn is_called(feature: &PhoenixFeature, name: &str) -> bool {
    feature.name_any() == name || feature.spec.aliases.iter().flatten().any(|a| a == name)
}

/// The features that an object may name: those of its own namespace, then those of the hypervisor's.
struct Catalogue {
    namespaces: Vec<(String, Vec<Arc<PhoenixFeature>>)>,
}

impl Catalogue {
    fn new(object: &GuestObject, hypervisor_namespace: &str, objects: &dyn Objects) -> Self {
        let mut names = vec![object.key.namespace.as_str(), hypervisor_namespace];
        names.dedup();
        let listed = |namespace: &str| {
            let mut features = objects.features(namespace);
            features.sort_by_key(|f| f.name_any());
            (namespace.to_string(), features)
        };
        Catalogue {
            namespaces: names.into_iter().map(listed).collect(),
        }
    }

    fn by_name(&self, name: &str) -> Option<&Arc<PhoenixFeature>> {
        let mut all = self.namespaces.iter().flat_map(|(_, features)| features);
        all.find(|f| f.name_any() == name)
    }

    /// The feature of a name or alias; `words` begin the message where there is none.
    fn find(&self, name: &str, words: &str) -> Result<Arc<PhoenixFeature>, Blocked> {
        for (namespace, features) in &self.namespaces {
            if let Some(feature) = features.iter().find(|f| f.name_any() == name) {
                return Ok(feature.clone());
            }
            let aliased: Vec<_> = features.iter().filter(|f| is_called(f, name)).collect();
            match aliased.as_slice() {
                [] => {}
                // A feature of the object's own namespace replaces one of the same name that an alias led to.
                [one] => return Ok(self.by_name(&one.name_any()).unwrap_or(one).clone()),
                several => {
                    let names: Vec<String> = several.iter().map(|f| f.name_any()).collect();
                    return Err(invalid(format!(
                        "{words}: {name:?} is an alias of {} in namespace {namespace}: use one of these names",
                        names.join(" and ")
                    )));
                }
            }
        }
        Err(self.not_found(name, words))
    }

    fn not_found(&self, name: &str, words: &str) -> Blocked {
        let namespaces: Vec<&str> = self.namespaces.iter().map(|(n, _)| n.as_str()).collect();
        let known: BTreeSet<String> = self
            .namespaces
            .iter()
            .flat_map(|(_, features)| features.iter().map(|f| f.name_any()))
            .collect();
        let known = match known.len() {
            0 => "create it, or apply the shipped ones; there is none yet".to_string(),
            _ => format!(
                "create it or correct the name; there are {}",
                Vec::from_iter(known).join(", ")
            ),
        };
        Blocked::stalled(
            Reason::FeatureNotFound,
            format!(
                "{words}: there is no PhoenixFeature {name:?} in namespace {}: {known}",
                namespaces.join(" or ")
            ),
        )
    }
}

/// The features of an object with those they require, each after what it requires, otherwise in the spec's order.
///
/// # Errors
/// `FeatureNotFound`, `FeatureCycle`, `InvalidSpec`.
pub(super) fn resolve(
    object: &GuestObject,
    hypervisor: &PhoenixHypervisor,
    objects: &dyn Objects,
) -> Result<Vec<Wanted>, Blocked> {
    let namespace = hypervisor
        .namespace()
        .unwrap_or_else(|| object.hypervisor_ref().namespace);
    let catalogue = Catalogue::new(object, &namespace, objects);
    let mut walk = Walk {
        catalogue: &catalogue,
        target: target_of(object),
        done: Vec::new(),
        path: Vec::new(),
    };
    let mut listed: BTreeMap<String, (String, &FeatureRef)> = BTreeMap::new();
    for entry in object.features() {
        let field = format!("{}.features[{}]", object.field_prefix(), entry.name);
        let canonical = catalogue.find(&entry.name, &field)?.name_any();
        walk.visit(&entry.name, &field)?;
        if let Some((other, _)) = listed.insert(canonical.clone(), (field.clone(), entry)) {
            return Err(invalid(format!(
                "{field}: it is the feature {canonical}, as is {other}: take one of them out"
            )));
        }
    }
    let wanted = |(feature, field): (Arc<PhoenixFeature>, String)| match listed.get(&feature.name_any()) {
        Some((own_field, entry)) => Wanted {
            feature,
            field: own_field.clone(),
            listed: true,
            parameters: entry.parameters.clone(),
        },
        None => Wanted {
            feature,
            field,
            listed: false,
            parameters: BTreeMap::new(),
        },
    };
    Ok(walk.done.into_iter().map(wanted).collect())
}

fn target_of(object: &GuestObject) -> FeatureTarget {
    match object.guest_type() {
        GuestType::Lxc => FeatureTarget::Lxc,
        GuestType::Qemu => FeatureTarget::Vm,
    }
}

/// Features of one guest with those that they require; status has a place for so many. It also bounds how deep the walk
/// goes.
const MAX_FEATURES: usize = 64;

/// A walk along `requires`, depth first.
struct Walk<'a> {
    catalogue: &'a Catalogue,
    /// What the features have to be for.
    target: FeatureTarget,
    /// Features in order, with the field that led to them.
    done: Vec<(Arc<PhoenixFeature>, String)>,
    /// Names from the spec's entry down to here.
    path: Vec<String>,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str, field: &str) -> Result<(), Blocked> {
        let words = match self.path.last() {
            Some(parent) => format!("{field}: PhoenixFeature {parent} requires {name}"),
            None => field.to_string(),
        };
        let feature = self.catalogue.find(name, &words)?;
        let canonical = feature.name_any();
        if let Some(start) = self.path.iter().position(|p| *p == canonical) {
            let mut cycle = self.path[start..].to_vec();
            cycle.push(canonical);
            return Err(Blocked::stalled(
                Reason::FeatureCycle,
                format!(
                    "{field}: the features {} require each other: take one out of its spec.requires",
                    cycle.join(" → ")
                ),
            ));
        }
        if self.done.iter().any(|(f, _)| f.name_any() == canonical) {
            return Ok(());
        }
        if let Some(targets) = &feature.spec.targets
            && !targets.contains(&self.target)
        {
            let (guests, target) = match self.target {
                FeatureTarget::Lxc => ("containers", "lxc"),
                FeatureTarget::Vm => ("virtual machines", "vm"),
            };
            return Err(invalid(format!(
                "{words}: the feature {canonical} is not for {guests}: take it out, or add {target} to its spec.targets"
            )));
        }
        if self.done.len() + self.path.len() >= MAX_FEATURES {
            return Err(invalid(format!(
                "{field}: with what they require these are more than {MAX_FEATURES} features: list fewer, or take some out of spec.requires of {canonical}"
            )));
        }
        self.path.push(canonical);
        for required in feature.spec.requires.iter().flatten() {
            self.visit(required, field)?;
        }
        self.path.pop();
        self.done.push((feature, field.to_string()));
        Ok(())
    }
}

/// The templates that an object comes from, nearest first; too many of them are refused elsewhere.
fn lineage(object: &GuestObject, objects: &dyn Objects) -> Vec<GuestObject> {
    refs::lineage(object, objects).unwrap_or_default()
}

/// Whether a template that the object comes from has a feature. What is wrong with that template's own features is
/// reported there.
pub(super) fn lineage_has(object: &GuestObject, name: &str, objects: &dyn Objects) -> bool {
    lineage(object, objects).iter().any(|template| {
        let catalogue = Catalogue::new(template, &template.hypervisor_ref().namespace, objects);
        let mut walk = Walk {
            catalogue: &catalogue,
            target: target_of(template),
            done: Vec::new(),
            path: Vec::new(),
        };
        for entry in template.features() {
            walk.path.clear();
            // An entry that leads nowhere adds what it found so far, which is all that is asked here.
            drop(walk.visit(&entry.name, &format!("{}.features", template.field_prefix())));
        }
        walk.done.iter().any(|(feature, _)| is_called(feature, name))
    })
}

/// Parameters that the templates of an object give, by feature: a clone that says nothing keeps them. The nearest
/// template counts.
fn inherited(object: &GuestObject, objects: &dyn Objects) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for template in lineage(object, objects) {
        let catalogue = Catalogue::new(&template, &template.hypervisor_ref().namespace, objects);
        for entry in template.features() {
            if let Ok(feature) = catalogue.find(&entry.name, "") {
                let values = all.entry(feature.name_any()).or_default();
                for (name, value) in &entry.parameters {
                    values.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
    }
    all
}

/// The scripts that install features, in their order.
///
/// # Errors
/// `InvalidSpec` for parameters.
pub(super) fn scripts(object: &GuestObject, wanted: &[Wanted], objects: &dyn Objects) -> Result<Vec<Script>, Blocked> {
    let inherited = inherited(object, objects);
    let names: Vec<String> = wanted.iter().map(|w| w.feature.name_any()).collect();
    let names = names.join(" ");
    let nothing = BTreeMap::new();
    wanted
        .iter()
        .map(|w| {
            let template = inherited.get(&w.feature.name_any()).unwrap_or(&nothing);
            Ok(script(&w.feature, environment(w, template)?, &names))
        })
        .collect()
}

/// Environment of a feature's scripts: its parameters.
fn environment(wanted: &Wanted, inherited: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Blocked> {
    let Wanted { feature, field, .. } = wanted;
    let declared = feature.spec.parameters.as_deref().unwrap_or_default();
    if let Some((name, value)) = wanted
        .parameters
        .iter()
        .find(|(name, _)| !declared.iter().any(|p| p.name == **name))
    {
        let known: Vec<&str> = declared.iter().map(|p| p.name.as_str()).collect();
        let known = match known.len() {
            0 => "it has none: take it out".to_string(),
            _ => format!("use one of {}", known.join(", ")),
        };
        return Err(invalid(format!(
            "{field}.parameters.{name}: the feature {} has no such parameter (given as {value:?}); {known}",
            feature.name_any()
        )));
    }
    let mut environment = BTreeMap::new();
    for parameter in declared {
        let Some(value) = value(wanted, parameter, inherited)? else {
            continue;
        };
        let name = format!("PHOENIX_{}", parameter.name.to_uppercase().replace('-', "_"));
        if environment.insert(name.clone(), value).is_some() {
            return Err(invalid(format!(
                "{field}: two parameters of the feature {} are both given as {name}: rename one in its spec.parameters",
                feature.name_any()
            )));
        }
    }
    Ok(environment)
}

/// Value of a parameter: the object's, else its templates', else the default.
fn value(
    wanted: &Wanted,
    parameter: &FeatureParameter,
    inherited: &BTreeMap<String, String>,
) -> Result<Option<String>, Blocked> {
    let feature = wanted.feature.name_any();
    let name = &parameter.name;
    let own = format!("{}.parameters.{name}", wanted.field);
    let (value, source) = if let Some(value) = wanted.parameters.get(name) {
        (value, own)
    } else if let Some(value) = inherited.get(name) {
        (value, format!("{own} (as the template gives it)"))
    } else if let Some(value) = &parameter.default {
        (value, format!("{}: default of parameter {name}", wanted.field))
    } else if parameter.required == Some(true) {
        let fix = match wanted.listed {
            true => "give a value".to_string(),
            false => format!("list {feature} under features, with parameters.{name}"),
        };
        return Err(invalid(format!(
            "{own} is missing: the feature {feature} needs it: {fix}"
        )));
    } else {
        return Ok(None);
    };
    let fits = match parameter.type_.unwrap_or_default() {
        ParameterType::String => None,
        ParameterType::Integer => value.parse::<i64>().is_err().then_some("a whole number such as 8080"),
        ParameterType::Boolean => (!["true", "false"].contains(&value.as_str())).then_some("true or false"),
    };
    if let Some(wish) = fits {
        return Err(invalid(format!(
            "{source}: {value:?} is not what the feature {feature} takes: give {wish}"
        )));
    }
    no_nul(&source, value)?;
    Ok(Some(value.clone()))
}

fn script(feature: &PhoenixFeature, environment: BTreeMap<String, String>, names: &str) -> Script {
    let name = feature.name_any();
    let id = format!("feature-{name}");
    let folder = format!("{RUN}/{id}");
    let parts = [
        ("check", feature.spec.check.as_ref()),
        ("install", Some(&feature.spec.install)),
    ];
    let files = parts.iter().filter_map(|(part, text)| {
        Some(ScriptFile {
            path: format!("{folder}/{part}"),
            content: text.as_ref()?.to_string(),
            mode: "0700".into(),
        })
    });
    let given = Given {
        environment,
        files: files.collect(),
        ..Given::default()
    };
    let deadline = feature.spec.deadline_seconds.unwrap_or(DEADLINE);
    let mut script = given.script(ScriptRole::Feature, id, &name, body(feature, &name, &folder), deadline);
    // After the hash was taken: which other features there are differs between a template and its clones.
    script
        .environment
        .entry("PHOENIX_FEATURES".into())
        .or_insert_with(|| names.to_string());
    script
}

/// Installs a feature unless it is there, and looks again afterwards. Names of features are DNS names, so they need no
/// quoting.
fn body(feature: &PhoenixFeature, name: &str, folder: &str) -> String {
    let install = invocation(&feature.spec.install, &format!("{folder}/install"));
    let run = format!(
        r#"{install} || {{
  status=$?
  echo "{name}: the install script ended with exit code $status" >&2
  exit "$status"
}}
"#
    );
    let Some(check) = &feature.spec.check else {
        return format!("#!/bin/sh\n# Installs the feature {name}.\n{run}echo \"{name}: installed\"\n");
    };
    let check = invocation(check, &format!("{folder}/check"));
    format!(
        r#"#!/bin/sh
# Installs the feature {name} unless it is there.
if {check} > /dev/null 2>&1; then
  echo "{name}: already there"
  exit 0
fi
{run}{check} || {{
  status=$?
  echo "{name}: the install script ended well, but the check script still fails with exit code $status" >&2
  exit "$status"
}}
echo "{name}: installed"
"#
    )
}
