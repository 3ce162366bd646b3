//! How long what waits for an object takes after its guest is made: of those that wait for clones of one container, the
//! one with the longest way behind it goes first.

use std::collections::BTreeMap;

use crate::desired::{GuestObject, Key};
use crate::pve::GuestType;

use super::{Durations, Fleet};

/// Objects that are followed one behind the other at most.
const DEEPEST: usize = 32;

/// Seconds from when each object's guest is made until everything of `objects` that waits for it is Ready, and it itself.
pub fn behind(keys: &[&Key], objects: &[GuestObject], durations: &Durations) -> Vec<f64> {
    let fleet = Fleet::of(objects, durations);
    let mut waiting: BTreeMap<&Key, Vec<&GuestObject>> = BTreeMap::new();
    for object in fleet.objects.values() {
        for need in fleet.needs(object) {
            waiting.entry(need).or_default().push(object);
        }
    }
    let mut known = BTreeMap::new();
    let seconds = keys.iter().map(|key| {
        let object = fleet.objects.get(*key).copied();
        object.map_or(0.0, |object| fleet.after(object, &waiting, &mut known, 0))
    });
    seconds.collect()
}

impl<'a> Fleet<'a> {
    fn after(
        &self,
        object: &'a GuestObject,
        waiting: &BTreeMap<&Key, Vec<&'a GuestObject>>,
        known: &mut BTreeMap<&'a Key, f64>,
        deep: usize,
    ) -> f64 {
        if let Some(seconds) = known.get(&object.key) {
            return *seconds;
        }
        let own = self.own(object) - self.making(object);
        // Those that wait for each other end here.
        known.insert(&object.key, own);
        let mut longest: f64 = 0.0;
        let mut clones = Vec::new();
        let here = waiting.get(&object.key).map(Vec::as_slice).unwrap_or_default();
        for other in here.iter().filter(|_| deep < DEEPEST) {
            let after = self.after(other, waiting, known, deep + 1);
            let cloned = self.template(other).is_some_and(|template| template.key == object.key);
            if cloned && object.guest_type() == GuestType::Lxc {
                clones.push((after, self.making(other)));
            } else {
                longest = longest.max(self.making(other) + after);
            }
        }
        // One after the other, the one with the longest way behind it first.
        clones.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut at = 0.0;
        for (after, making) in clones {
            at += making;
            longest = longest.max(at + after);
        }
        known.insert(&object.key, own + longest);
        own + longest
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{clone, template};
    use super::*;
    use crate::crd::{GuestKind, PhoenixTemplate};
    use serde_json::json;

    fn seconds(kind: GuestKind, name: &str, objects: &[GuestObject]) -> f64 {
        behind(&[&Key::new(kind, "ai", name)], objects, &Durations::default())[0]
    }

    /// A template that is cloned from another one.
    fn of(name: &str, from: &str) -> GuestObject {
        let object: PhoenixTemplate = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
            "metadata": {"namespace": "ai", "name": name},
            "spec": {"hypervisorRef": {"name": "pve"}, "form": "Snapshot", "lxc": {"source": {"templateRef": {"name": from}}}}
        }))
        .unwrap();
        GuestObject::from(&object)
    }

    #[test]
    fn the_clones_of_a_template_count_one_after_the_other() {
        let lone = |name: &str, from: &str, more: serde_json::Value| {
            let mut fields = json!({"source": {"templateRef": {"name": from}}});
            fields
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            clone(name, fields)
        };
        let objects = [
            template("base", "Snapshot"),
            of("gpu", "base"),
            lone("a", "gpu", json!({})),
            lone("b", "gpu", json!({"features": [{"name": "docker"}]})),
            lone("c", "base", json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "b"}]})),
        ];
        // Its start; the start of what waits for it.
        assert_eq!(seconds(GuestKind::PhoenixLXC, "a", &objects), 2.0);
        // Its start and script; the full clone and start of c.
        assert_eq!(seconds(GuestKind::PhoenixLXC, "b", &objects), 32.0 + 32.0);
        // Start and seal; the clone of b and what comes after it, which is longer than that of a after it.
        assert_eq!(seconds(GuestKind::PhoenixTemplate, "gpu", &objects), 7.0 + 30.0 + 64.0);
        assert_eq!(seconds(GuestKind::PhoenixLXC, "nobody", &objects), 0.0);
    }

    #[test]
    fn objects_that_wait_for_each_other_end_the_search() {
        let objects = [
            clone("a", json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "b"}]})),
            clone("b", json!({"dependsOn": [{"kind": "PhoenixLXC", "name": "a"}]})),
        ];
        assert!(seconds(GuestKind::PhoenixLXC, "a", &objects).is_finite());
    }
}
