//! How long Proxmox takes at least until every object of a set is Ready, were all of them made anew: the limits of
//! docs/performance.md, from how long each piece of work takes. What binds is the largest; no operator can be faster.

mod behind;

use std::collections::BTreeMap;
use std::fmt;

use crate::crd::{Application, GuestKind, TemplateForm};
use crate::desired::refs::MAX_LINEAGE;
use crate::desired::scripts::ModelServer;
use crate::desired::{GuestObject, GuestSpec, Key, ObjectName};
use crate::pve::GuestType;

pub use behind::behind;

/// Requests to Proxmox that a new guest takes.
const REQUESTS: f64 = 30.0;
/// Workers of Proxmox's API daemon on each node.
const WORKERS: f64 = 3.0;

/// Seconds that pieces of work take; `phoenix plan --took` gives one's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations(BTreeMap<&'static str, f64>);

/// Each piece of work by its name, with what it takes where nobody says otherwise.
const USUAL: &[(&str, f64)] = &[
    ("create", 20.0),
    ("clone-full", 30.0),
    ("clone-linked", 1.5),
    ("start", 2.0),
    ("seal", 5.0),
    ("script", 30.0),
    ("model", 120.0),
    ("request", 0.05),
    ("allocation", 1.0),
];

impl Default for Durations {
    fn default() -> Self {
        Durations(USUAL.iter().copied().collect())
    }
}

impl Durations {
    /// Takes `NAME=SECONDS` in.
    ///
    /// # Errors
    /// What is wrong with it, and which names there are.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let names = || USUAL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let wrong = || format!("{text:?} is not NAME=SECONDS with one of the names {}", names());
        let (name, seconds) = text.split_once('=').ok_or_else(wrong)?;
        let known = self.0.iter_mut().find(|(known, _)| **known == name);
        let seconds: f64 = seconds.parse().map_err(|_| wrong())?;
        match known {
            Some((_, value)) if seconds.is_finite() && seconds >= 0.0 => *value = seconds,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Seconds of a piece of work; 0 of one that is not known.
    pub fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// Something that cannot be faster, whoever asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// What it is, in words.
    pub what: String,
    /// Seconds.
    pub seconds: f64,
    /// What would make it shorter, where the manifests can.
    pub hint: Option<String>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.0} s  {}", self.seconds, self.what)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n{:11}{hint}", ""))
    }
}

/// Objects, and how they hang together.
struct Fleet<'a> {
    objects: BTreeMap<&'a Key, &'a GuestObject>,
    durations: &'a Durations,
}

/// The limits of a set of objects, the one that binds first. `places` says how many tasks a node of a hypervisor takes at
/// once (`limits.parallelTasksPerNode`).
pub fn limits(objects: &[GuestObject], durations: &Durations, places: impl Fn(&ObjectName) -> usize) -> Vec<Limit> {
    let fleet = Fleet::of(objects, durations);
    let mut limits: Vec<Limit> = fleet.chain().into_iter().collect();
    limits.extend(fleet.sources());
    limits.extend(fleet.nodes(places));
    limits.extend(fleet.cards());
    limits.extend(fleet.storages());
    limits.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    limits
}

fn application(object: &GuestObject) -> Option<&Application> {
    object.shared()?.application.as_ref()
}

impl<'a> Fleet<'a> {
    fn of(objects: &'a [GuestObject], durations: &'a Durations) -> Self {
        let objects = objects.iter().map(|object| (&object.key, object)).collect();
        Fleet { objects, durations }
    }

    fn template(&self, object: &GuestObject) -> Option<&'a GuestObject> {
        let places = object.template_keys();
        places.iter().find_map(|key| self.objects.get(key).copied())
    }

    /// Seconds of the tasks that make the guest and start it.
    fn making(&self, object: &GuestObject) -> f64 {
        let made = match object.template_ref() {
            None => "create",
            Some(_) if self.links(object) => "clone-linked",
            Some(_) => "clone-full",
        };
        self.durations.of(made)
    }

    fn links(&self, object: &GuestObject) -> bool {
        self.template(object).is_some_and(|template| match &template.spec {
            GuestSpec::Template(spec) => spec.form == Some(TemplateForm::Template),
            _ => false,
        })
    }

    fn scripts(&self, object: &GuestObject) -> f64 {
        let lineage = self.lineage(object);
        // What ran in a template is not run again in its clones.
        let features = object.features().iter();
        let features = features.filter(|f| !lineage.iter().any(|template| template.features().contains(f)));
        let tests = object.tests().iter();
        let tests = tests.filter(|t| !lineage.iter().any(|template| template.tests().contains(t)));
        let own = application(object).filter(|own| !lineage.iter().any(|template| application(template) == Some(own)));
        let number = features.count() + tests.count() + usize::from(own.is_some());
        number as f64 * self.durations.of("script")
    }

    /// The templates of the set that the object comes from.
    fn lineage(&self, object: &GuestObject) -> Vec<&'a GuestObject> {
        let mut lineage: Vec<&GuestObject> = Vec::new();
        let mut next = self.template(object);
        while let Some(template) = next.filter(|_| lineage.len() < MAX_LINEAGE) {
            lineage.push(template);
            next = self.template(template);
        }
        lineage
    }

    fn model(&self, object: &GuestObject) -> f64 {
        let serves = ModelServer::of(object).is_some();
        if serves { self.durations.of("model") } else { 0.0 }
    }

    /// Seconds from when everything that the object needs is Ready until it is.
    fn own(&self, object: &GuestObject) -> f64 {
        let seal = match object.key.kind {
            GuestKind::PhoenixTemplate => self.durations.of("seal"),
            _ => 0.0,
        };
        self.making(object) + self.durations.of("start") + self.scripts(object) + self.model(object) + seal
    }

    /// What the object needs Ready first, of the set.
    fn needs(&self, object: &GuestObject) -> Vec<&'a Key> {
        let named = object
            .dependency_keys()
            .filter_map(|key| self.objects.get_key_value(&key).map(|(key, _)| *key));
        named
            .chain(self.template(object).map(|template| &template.key))
            .collect()
    }

    /// Seconds until each object is Ready at the earliest, and what it waited for last. Objects that wait for each other
    /// never are.
    fn ready(&self) -> BTreeMap<&Key, (f64, Option<&Key>)> {
        let mut open: BTreeMap<&Key, usize> = BTreeMap::new();
        let mut behind: BTreeMap<&Key, Vec<&Key>> = BTreeMap::new();
        let mut latest: BTreeMap<&Key, (f64, Option<&Key>)> = BTreeMap::new();
        for (key, object) in &self.objects {
            let needs = self.needs(object);
            open.insert(key, needs.len());
            needs
                .into_iter()
                .for_each(|need| behind.entry(need).or_default().push(key));
        }
        let mut next: Vec<&Key> = open
            .iter()
            .filter(|(_, needs)| **needs == 0)
            .map(|(key, _)| *key)
            .collect();
        let mut ready = BTreeMap::new();
        while let Some(key) = next.pop() {
            let Some(object) = self.objects.get(key) else { continue };
            let (before, after) = latest.remove(key).unwrap_or_default();
            let at = before + self.own(object);
            ready.insert(key, (at, after));
            for waiting in behind.get(key).into_iter().flatten() {
                let known = latest.entry(waiting).or_default();
                if at > known.0 {
                    *known = (at, Some(key));
                }
                if let Some(needs) = open.get_mut(waiting) {
                    *needs -= 1;
                    if *needs == 0 {
                        next.push(waiting);
                    }
                }
            }
        }
        ready
    }

    fn chain(&self) -> Option<Limit> {
        let ready = self.ready();
        let (last, (seconds, _)) = ready.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
        let mut way = vec![last.name.as_str()];
        let mut at = ready.get(*last).and_then(|(_, before)| *before);
        while let Some(before) = at {
            way.push(&before.name);
            at = ready.get(before).and_then(|(_, before)| *before);
        }
        way.reverse();
        Some(Limit {
            what: format!("the longest chain: {}", way.join(" → ")),
            seconds: *seconds,
            hint: None,
        })
    }

    /// A container is locked while it is cloned: its clones are made one after the other (facts D.4).
    fn sources(&self) -> Vec<Limit> {
        let mut clones: BTreeMap<&Key, Vec<&GuestObject>> = BTreeMap::new();
        for object in self.objects.values() {
            if let Some(template) = self.template(object).filter(|t| t.guest_type() == GuestType::Lxc) {
                clones.entry(&template.key).or_default().push(object);
            }
        }
        let ready = self.ready();
        let limits = clones.into_iter().filter_map(|(key, clones)| {
            let (before, _) = *ready.get(key)?;
            let made: f64 = clones.iter().map(|clone| self.making(clone)).sum();
            let rest = clones.iter().map(|clone| self.own(clone) - self.making(clone));
            let rest = rest.min_by(f64::total_cmp).unwrap_or_default();
            let linked = self.durations.of("clone-linked") * clones.len() as f64;
            let slow = clones.len() > 1 && made > 2.0 * linked && !clones.iter().any(|clone| self.links(clone));
            let hint = slow.then(|| {
                let saved = before + linked + rest;
                format!("form: Template of {key} would make it {saved:.0} s, where its storage can link")
            });
            let what = format!("{key} is cloned {} times, one after the other", clones.len());
            Some(Limit {
                what,
                seconds: before + made + rest,
                hint,
            })
        });
        limits.collect()
    }

    /// A node takes so many tasks at once, and its API so many requests.
    fn nodes(&self, places: impl Fn(&ObjectName) -> usize) -> Vec<Limit> {
        let mut nodes: BTreeMap<(ObjectName, String), Vec<&GuestObject>> = BTreeMap::new();
        for object in self.objects.values() {
            let node = object.shared().and_then(|guest| guest.node.clone()).unwrap_or_default();
            nodes.entry((object.hypervisor_ref(), node)).or_default().push(object);
        }
        let limits = nodes.into_iter().flat_map(|((hypervisor, node), objects)| {
            let at = match node.as_str() {
                "" => format!("PhoenixHypervisor {hypervisor}"),
                node => format!("node {node} of PhoenixHypervisor {hypervisor}"),
            };
            let places = places(&hypervisor).max(1);
            let tasks: f64 = objects
                .iter()
                .map(|o| self.making(o) + self.durations.of("start"))
                .sum();
            let requests = REQUESTS * objects.len() as f64 * self.durations.of("request") / WORKERS;
            [
                Limit {
                    what: format!("tasks on {at}, {places} at once"),
                    seconds: tasks / places as f64,
                    hint: None,
                },
                Limit {
                    what: format!("requests to {at}"),
                    seconds: requests,
                    hint: None,
                },
            ]
        });
        limits.collect()
    }

    /// Models that share a card start one after the other.
    fn cards(&self) -> Vec<Limit> {
        let mut cards: BTreeMap<(ObjectName, i64), (usize, f64)> = BTreeMap::new();
        for object in self.objects.values() {
            let model = self.model(object);
            let gpus = object.lxc().and_then(|guest| guest.gpus.as_deref()).unwrap_or_default();
            for index in gpus.iter().filter_map(|gpu| gpu.index).filter(|_| model > 0.0) {
                let (number, seconds) = cards.entry((object.hypervisor_ref(), index)).or_default();
                (*number, *seconds) = (*number + 1, *seconds + model);
            }
        }
        let limits = cards.into_iter().map(|((hypervisor, index), (number, seconds))| Limit {
            what: format!("{number} models start on GPU {index} of PhoenixHypervisor {hypervisor}"),
            seconds,
            hint: None,
        });
        limits.collect()
    }

    /// A storage is locked while a volume is allocated on it.
    fn storages(&self) -> Vec<Limit> {
        let mut storages: BTreeMap<(ObjectName, String), usize> = BTreeMap::new();
        for object in self.objects.values() {
            let volumes = match &object.spec {
                GuestSpec::Lxc(spec) => spec.volumes.as_deref().unwrap_or_default(),
                _ => &[],
            };
            let rootfs = object.lxc().and_then(|guest| guest.rootfs.as_ref()?.storage.clone());
            let named = volumes.iter().filter_map(|volume| volume.storage.clone()).chain(rootfs);
            for storage in named {
                *storages.entry((object.hypervisor_ref(), storage)).or_default() += 1;
            }
        }
        let limits = storages.into_iter().map(|((hypervisor, storage), number)| Limit {
            what: format!("{number} volumes are allocated on storage {storage} of PhoenixHypervisor {hypervisor}"),
            seconds: number as f64 * self.durations.of("allocation"),
            hint: None,
        });
        limits.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{PhoenixLXC, PhoenixTemplate};

    pub(super) fn template(name: &str, form: &str) -> GuestObject {
        let object: PhoenixTemplate = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
            "metadata": {"namespace": "ai", "name": name},
            "spec": {"hypervisorRef": {"name": "pve"}, "form": form, "lxc": {}}
        }))
        .unwrap();
        GuestObject::from(&object)
    }

    pub(super) fn clone(name: &str, more: serde_json::Value) -> GuestObject {
        let mut spec = json!({"hypervisorRef": {"name": "pve"}, "source": {"templateRef": {"name": "base"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object: PhoenixLXC = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": name}, "spec": spec
        }))
        .unwrap();
        GuestObject::from(&object)
    }

    fn told(objects: &[GuestObject]) -> Vec<String> {
        let limits = limits(objects, &Durations::default(), |_| 4);
        limits.iter().map(|l| format!("{:.1} {}", l.seconds, l.what)).collect()
    }

    #[test]
    fn full_clones_of_one_container_bind_and_linked_ones_do_not() {
        let clones = || (0..10).map(|n| clone(&format!("g{n}"), json!({})));
        let fleet = |form: &str| Vec::from_iter([template("base", form)].into_iter().chain(clones()));
        // The template: 20 + 2 + 5; ten clones of 30 s; the start of the last.
        let full = limits(&fleet("Snapshot"), &Durations::default(), |_| 4);
        assert_eq!(
            (full[0].seconds, full[0].what.contains("is cloned 10 times")),
            (329.0, true),
            "{full:?}"
        );
        let hint = full[0].hint.as_deref().unwrap();
        assert!(hint.contains("form: Template") && hint.contains(" 44 s"), "{hint}");
        let linked = limits(&fleet("Template"), &Durations::default(), |_| 4);
        assert_eq!((linked[0].seconds, &linked[0].hint), (44.0, &None), "{linked:?}");
    }

    #[test]
    fn chains_cards_and_storages_count() {
        let gpu = json!({"gpus": [{"index": 0}], "vllm": {"model": "m"}});
        let objects = [
            template("base", "Template"),
            clone("a", gpu.clone()),
            clone("b", gpu),
            clone(
                "c",
                json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "a"}], "features": [{"name": "docker"}],
                "volumes": [{"name": "v", "size": "1Gi", "mountPath": "/v", "storage": "tank"}]}),
            ),
        ];
        let told = told(&objects);
        for line in [
            "240.0 2 models start on GPU 0",
            "184.0 the longest chain: base → a → c",
            "1.0 1 volumes are allocated on storage tank",
        ] {
            assert!(told.iter().any(|l| l.starts_with(line)), "{line} is not in {told:#?}");
        }
    }

    #[test]
    fn what_a_template_has_is_not_run_again_in_its_clones() {
        let mut base = template("base", "Template");
        if let GuestSpec::Template(spec) = &mut base.spec {
            let fields = json!({"features": [{"name": "docker"}], "application": {"script": "echo"}});
            spec.lxc = Some(serde_json::from_value(fields).unwrap());
        }
        let mut fields = json!({"features": [{"name": "docker"}, {"name": "docker", "parameters": {"mirror": "m"}}]});
        fields["application"] = json!({"script": "echo"});
        let told = told(&[base, clone("a", fields)]);
        // The template: 20 + 2 + 60 + 5; its clone: 1.5 + 2 and one script.
        let line = "120.5 the longest chain: base → a";
        assert!(told.iter().any(|l| l.starts_with(line)), "{line} is not in {told:#?}");
    }

    #[test]
    fn durations_are_given_by_name() {
        let mut durations = Durations::default();
        durations.set("clone-full=7.5").unwrap();
        assert_eq!(durations.of("clone-full"), 7.5);
        for wrong in ["clone-full", "clone=1", "start=soon", "start=-1"] {
            assert!(durations.set(wrong).unwrap_err().contains("clone-linked"), "{wrong}");
        }
    }

    #[test]
    fn objects_that_wait_for_each_other_end_the_search() {
        let objects = [
            clone("a", json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "b"}]})),
            clone("b", json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "a"}]})),
        ];
        assert!(!told(&objects).is_empty());
    }
}
