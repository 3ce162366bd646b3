//! Revisions of templates: a change builds a new guest beside the old one, nobody is rebuilt unasked, and what still has
//! children stays.

use std::collections::BTreeMap;

use crate::engine::{World, lxc, status, template, vm, vm_template};
use phoenix::crd::{GuestStatus, REBUILD};
use phoenix::desired::{Key, Objects};
use phoenix::simulator::Edit;
use serde_json::{Value, json};

fn message(world: &World, key: &Key, condition: &str) -> Option<String> {
    let conditions = status(world, key).conditions;
    conditions
        .into_iter()
        .find(|c| c.type_ == condition && c.status == "True")
        .map(|c| c.message)
}

async fn settled(world: &mut World) {
    if let Err(standing) = world.settle(false).await {
        panic!("{standing}\n{:#?}", world.guests());
    }
    // What follows from another object's change is seen with the next look.
    if let Err(standing) = world.settle(false).await {
        panic!("{standing}\n{:#?}", world.guests());
    }
}

/// A container template without protection, whose content `script` stands for.
fn base(name: &str, script: &str) -> Value {
    let mut object = template(name, "Template");
    object["spec"]["lxc"].as_object_mut().unwrap().remove("protection");
    object["spec"]["lxc"]["application"] = json!({"script": format!("#!/bin/sh\necho {script}\n")});
    object
}

fn child(name: &str, of: &str) -> Value {
    lxc(name, json!({"source": {"templateRef": {"name": of}}, "network": []}))
}

#[tokio::test(start_paused = true)]
async fn a_change_builds_a_new_revision_beside_the_old_one() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(base("base", "one"));
    let old_child = world.store.apply(child("old", "base"));
    settled(&mut world).await;
    let first = status(&world, &key);
    let before = world.guests();
    world.store.apply(base("base", "two"));
    settled(&mut world).await;
    let second = status(&world, &key);
    assert_ne!(first.vmid, second.vmid);
    assert_ne!(first.revision, second.revision);
    let kept = second.revisions.clone().unwrap();
    assert_eq!(
        (kept[0].vmid, Some(&kept[0].revision)),
        (first.vmid.unwrap(), first.revision.as_ref())
    );
    for vmid in before.keys() {
        assert_eq!(before.get(vmid), world.guests().get(vmid), "guest {vmid} was touched");
    }
    world.restart();
    settled(&mut world).await;
    let outdated = message(&world, &old_child, "TemplateOutdated").unwrap();
    for revision in [&first.revision, &second.revision] {
        assert!(outdated.contains(revision.as_ref().unwrap()), "{outdated}");
    }
    let new_child = world.store.apply(child("new", "base"));
    settled(&mut world).await;
    assert_eq!(status(&world, &new_child).template_revision, second.revision);
    assert_eq!(message(&world, &new_child, "TemplateOutdated"), None);
}

#[tokio::test(start_paused = true)]
async fn an_old_revision_goes_when_the_limit_says_and_nothing_was_cloned_from_it() {
    let mut world = World::with_ssh(&[]).await;
    let limited = |script: &str| {
        let mut object = base("base", script);
        object["spec"]["revisionHistoryLimit"] = json!(0);
        object
    };
    let key = world.store.apply(limited("one"));
    let child_key = world.store.apply(child("a", "base"));
    settled(&mut world).await;
    let first = status(&world, &key).vmid.unwrap();
    world.store.apply(limited("two"));
    settled(&mut world).await;
    let second = status(&world, &key).vmid.unwrap();
    let there = |world: &World, vmid: i64| world.guests().contains_key(&u32::try_from(vmid).unwrap());
    assert!(there(&world, first), "a child was cloned from it");
    world.store.delete(&child_key);
    settled(&mut world).await;
    world.restart();
    settled(&mut world).await;
    assert!(!there(&world, first) && there(&world, second), "{:#?}", world.guests());
    assert_eq!(status(&world, &key).revisions, None);
    // One without children goes at once.
    world.store.apply(limited("three"));
    settled(&mut world).await;
    world.restart();
    settled(&mut world).await;
    assert!(
        !there(&world, second) && world.guests().len() == 1,
        "{:#?}",
        world.guests()
    );
}

/// A revision that has to stay keeps no younger one from going, and the template is Ready.
#[tokio::test(start_paused = true)]
async fn removal_goes_past_a_revision_that_is_kept() {
    let mut world = World::with_ssh(&[]).await;
    let limited = |script: &str| {
        let mut object = base("base", script);
        object["spec"]["revisionHistoryLimit"] = json!(1);
        object
    };
    let mut vmids = Vec::new();
    let mut key = None;
    for script in ["one", "two", "three", "four"] {
        let applied = world.store.apply(limited(script));
        settled(&mut world).await;
        let vmid = u32::try_from(status(&world, &applied).vmid.unwrap()).unwrap();
        if vmids.is_empty() {
            let options = BTreeMap::from([("protection".to_owned(), Some("1".to_owned()))]);
            world.sim().edit(Edit::SetOptions { vmid, options }).unwrap();
        }
        vmids.push(vmid);
        key = Some(applied);
    }
    world.restart();
    settled(&mut world).await;
    let left: Vec<u32> = world.guests().keys().copied().collect();
    assert_eq!(left, [vmids[0], vmids[2], vmids[3]], "{vmids:?}");
    let told = message(&world, &key.unwrap(), "OldRevisionKept").unwrap();
    assert!(told.contains("protected"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_template_of_a_template_is_rebuilt_only_when_told_to() {
    let mut world = World::with_ssh(&[]).await;
    let second_level = |rebuild: Option<&str>| {
        let mut object = base("docker", "docker");
        object["spec"]["lxc"]["source"] = json!({"templateRef": {"name": "base"}});
        object["metadata"]["annotations"] = json!({REBUILD: rebuild});
        if rebuild.is_none() {
            object["metadata"].as_object_mut().unwrap().remove("annotations");
        }
        object
    };
    world.store.apply(base("base", "one"));
    let key = world.store.apply(second_level(None));
    settled(&mut world).await;
    let first = status(&world, &key);
    world.store.apply(base("base", "two"));
    settled(&mut world).await;
    world.restart();
    settled(&mut world).await;
    assert_eq!(status(&world, &key).vmid, first.vmid, "nobody is rebuilt unasked");
    assert!(message(&world, &key, "TemplateOutdated").is_some());
    world.store.apply(second_level(Some("now")));
    settled(&mut world).await;
    assert_ne!(status(&world, &key).vmid, first.vmid);
    assert_eq!(message(&world, &key, "TemplateOutdated"), None);
}

#[tokio::test(start_paused = true)]
async fn all_revisions_go_with_the_template() {
    let mut world = World::with_ssh(&[]).await;
    let revised = |size: &str| {
        let mut object = vm_template("base");
        object["spec"]["vm"]["protection"] = json!(false);
        object["spec"]["vm"]["disks"][0]["size"] = json!(size);
        object
    };
    let key = world.store.apply(revised("20Gi"));
    settled(&mut world).await;
    world.store.apply(revised("30Gi"));
    settled(&mut world).await;
    assert_eq!(world.guests().len(), 2);
    world.store.apply(vm("stranger-to-it", json!({})));
    world.store.delete(&key);
    settled(&mut world).await;
    let left: Vec<String> = world.guests().values().map(|g| g["name"].clone()).collect();
    assert_eq!(left, ["stranger-to-it"]);
}

#[tokio::test(start_paused = true)]
async fn revisions_are_found_again_when_all_status_is_lost() {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(base("base", "one"));
    settled(&mut world).await;
    world.store.apply(base("base", "two"));
    settled(&mut world).await;
    let before = (status(&world, &key), world.guests());
    world
        .store
        .objects
        .update_guest(&key, |guest| guest.status = GuestStatus::default());
    world.restart();
    settled(&mut world).await;
    let after = status(&world, &key);
    assert_eq!((after.vmid, &after.revision), (before.0.vmid, &before.0.revision));
    let vmids = |s: &GuestStatus| s.revisions.iter().flatten().map(|r| r.vmid).collect::<Vec<_>>();
    assert_eq!(vmids(&after), vmids(&before.0));
    assert_eq!(world.guests(), before.1);
}

/// A template that keeps no earlier revision without children, its old revision, and the vmid of that.
async fn superseded(world: &mut World) -> (Key, u32) {
    let limited = |script: &str, limit: i64| {
        let mut object = base("base", script);
        object["spec"]["revisionHistoryLimit"] = json!(limit);
        object
    };
    let key = world.store.apply(limited("one", 5));
    settled(world).await;
    let mut kept = child("kept", "base");
    kept["spec"]["deletionPolicy"] = json!("Retain");
    let child_key = world.store.apply(kept);
    settled(world).await;
    let first = u32::try_from(status(world, &key).vmid.unwrap()).unwrap();
    world.store.apply(limited("two", 5));
    settled(world).await;
    // The child's object goes; its guest, a linked clone, stays without anybody's stamp.
    world.store.delete(&child_key);
    settled(world).await;
    world.store.apply(limited("two", 0));
    (key, first)
}

#[tokio::test(start_paused = true)]
async fn a_revision_on_which_a_linked_clone_of_anybodys_rests_stays() {
    let mut world = World::with_ssh(&[]).await;
    let (key, first) = superseded(&mut world).await;
    settled(&mut world).await;
    assert!(world.guests().contains_key(&first), "{:#?}", world.guests());
    let kept = message(&world, &key, "OldRevisionKept").unwrap();
    assert!(
        kept.contains("linked clones") && kept.contains(&first.to_string()),
        "{kept}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_old_revision_that_became_somebody_elses_is_left_alone() {
    let mut world = World::with_ssh(&[]).await;
    let (key, first) = superseded(&mut world).await;
    let theirs = std::collections::BTreeMap::from([("description".to_owned(), Some("mine now".to_owned()))]);
    let edit = phoenix::simulator::Edit::SetOptions {
        vmid: first,
        options: theirs,
    };
    world.sim().edit(edit).unwrap();
    settled(&mut world).await;
    assert!(world.guests().contains_key(&first), "{:#?}", world.guests());
    assert_eq!(status(&world, &key).revisions, None, "it is forgotten");
}

/// Full copies rest on nothing, so that only the objects tell.
#[tokio::test(start_paused = true)]
async fn a_revision_from_which_an_object_was_copied_stays() {
    let mut world = World::with_ssh(&[]).await;
    let limited = |script: &str| {
        let mut object = base("base", script);
        object["spec"]["form"] = json!("Snapshot");
        object["spec"]["revisionHistoryLimit"] = json!(0);
        object
    };
    let key = world.store.apply(limited("one"));
    world.store.apply(child("a", "base"));
    settled(&mut world).await;
    let first = u32::try_from(status(&world, &key).vmid.unwrap()).unwrap();
    world.store.apply(limited("two"));
    settled(&mut world).await;
    world.restart();
    settled(&mut world).await;
    assert!(world.guests().contains_key(&first), "{:#?}", world.guests());
}

/// How often a guest's removal was asked for.
fn removals(world: &World, vmid: u32) -> usize {
    let end = format!("/{vmid}");
    let requests = world.sim().requests();
    requests
        .iter()
        .filter(|r| r.method == "DELETE" && r.path.ends_with(&end))
        .count()
}

async fn looks(world: &World) {
    for _ in 0..30 {
        world.round().await;
        world.pause().await;
    }
}

/// A template with a linked clone of an object's and one of a stranger's, being deleted: it waits with a reason that
/// names both, asks Proxmox for nothing that is refused, and goes when they are gone.
async fn waits_for_its_linked_clones(template: Value, clone: impl Fn(&str) -> Value) {
    let mut world = World::with_ssh(&[]).await;
    let key = world.store.apply(template);
    let child = world.store.apply(clone("mine"));
    let mut kept = clone("theirs");
    kept["spec"]["deletionPolicy"] = json!("Retain");
    let kept = world.store.apply(kept);
    settled(&mut world).await;
    let vmid = |world: &World, key: &Key| u32::try_from(status(world, key).vmid.unwrap()).unwrap();
    let (base, own, theirs) = (vmid(&world, &key), vmid(&world, &child), vmid(&world, &kept));
    // The object goes and its guest stays, without anybody's stamp.
    world.store.delete(&kept);
    settled(&mut world).await;
    world.store.delete(&key);
    looks(&world).await;
    let waits = status(&world, &key);
    let ready = waits.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.reason, "TemplateInUse", "{ready:?}");
    let (own, child_name) = (own.to_string(), child.to_string());
    for words in [&own, &child_name, &theirs.to_string(), "theirs, not Phoenix's"] {
        assert!(ready.message.contains(words), "{words}: {}", ready.message);
    }
    assert!(
        world.look_at(&key).await > std::time::Duration::from_millis(20),
        "it does not come back at once"
    );
    world.store.delete(&child);
    looks(&world).await;
    assert!(world.store.guest(&child).is_none());
    let message = status(&world, &key).message.unwrap();
    assert!(
        message.contains("theirs") && !message.contains(&child_name),
        "{message}"
    );
    assert_eq!(removals(&world, base), 0);
    world
        .sim()
        .edit(phoenix::simulator::Edit::RemoveGuest { vmid: theirs })
        .unwrap();
    settled(&mut world).await;
    assert!(world.store.guest(&key).is_none() && !world.guests().contains_key(&base));
    assert_eq!(removals(&world, base), 1);
}

#[tokio::test(start_paused = true)]
async fn a_template_that_is_deleted_waits_for_its_linked_clones() {
    waits_for_its_linked_clones(base("base", "one"), |name| child(name, "base")).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_template_that_is_deleted_waits_for_its_linked_clones() {
    let mut template = vm_template("base");
    template["spec"]["vm"].as_object_mut().unwrap().remove("protection");
    let clone = |name: &str| {
        let mut clone = vm(
            name,
            json!({"source": {"templateRef": {"name": "base"}}, "network": []}),
        );
        clone["spec"].as_object_mut().unwrap().remove("disks");
        clone
    };
    waits_for_its_linked_clones(template, clone).await;
}

/// The call answers before the work is done: a slow look sees the guest as it was, and its task as it is.
#[tokio::test(start_paused = true)]
async fn a_template_is_converted_once_whatever_the_order_of_the_looks() {
    let mut world = World::new(&[]).await;
    let fault = |kind| phoenix::simulator::Fault {
        method: Some("GET".into()),
        path: Some("^/nodes/phoenix/lxc/1000/config$".into()),
        skip: 0,
        count: 1000,
        kind,
    };
    world
        .sim()
        .add_fault(fault(phoenix::simulator::FaultKind::Delay { ms: 20 }));
    world.store.apply(template("base", "Template"));
    settled(&mut world).await;
    let requests = world.sim().requests();
    let sent = requests
        .iter()
        .filter(|r| r.method == "POST" && r.path.ends_with("/1000/template"));
    assert_eq!(sent.count(), 1);
    let events = world.store.events.lock().unwrap();
    let warnings: Vec<_> = events.iter().filter(|(_, e)| e.message.contains("convert")).collect();
    assert!(warnings.is_empty(), "{:?}", warnings[0].1.message);
}

/// Proxmox converts no guest with snapshots and starts no template: an edited form is refused, or built beside.
#[tokio::test(start_paused = true)]
async fn an_edited_form_is_refused_or_built_as_a_new_revision() {
    for (first, second) in [("Snapshot", "Template"), ("Template", "Snapshot")] {
        let mut world = World::new(&[]).await;
        let key = world.store.apply(template("base", first));
        settled(&mut world).await;
        let before = world.guests();
        let mut edited = template("base", second);
        world.store.apply(edited.clone());
        world.settle(true).await.unwrap();
        let told = status(&world, &key).message.unwrap();
        assert!(told.contains("spec.form") && told.contains(REBUILD), "{told}");
        assert_eq!(world.guests(), before);
        edited["metadata"]["annotations"] = json!({REBUILD: "1"});
        world.store.apply(edited);
        settled(&mut world).await;
        assert_eq!(world.guests()[&1000], before[&1000]);
        let built = &world.guests()[&1001];
        let converted = built.get("template").is_some_and(|t| t == "1");
        assert_eq!(converted, second == "Template", "{built:?}");
    }
}

/// A full clone is a guest of its own.
#[tokio::test(start_paused = true)]
async fn a_full_clone_outlives_its_template() {
    let mut world = World::with_ssh(&[]).await;
    let mut object = template("base", "Snapshot");
    object["spec"]["lxc"]["protection"] = json!(false);
    let base = world.store.apply(object);
    settled(&mut world).await;
    let key = world.store.apply(child("c", "base"));
    settled(&mut world).await;
    world.store.delete(&base);
    settled(&mut world).await;
    assert!(world.store.guest(&base).is_none());
    assert!(world.store.guest(&key).unwrap().is_ready());
    let mut changed = child("c", "base");
    changed["spec"]["cores"] = json!(4);
    world.store.apply(changed);
    settled(&mut world).await;
    let vmid = u32::try_from(status(&world, &key).vmid.unwrap()).unwrap();
    assert_eq!(world.guests()[&vmid]["cores"], "4");
    // A new one cannot be made of what is gone.
    let key = world.store.apply(child("d", "base"));
    world.settle(true).await.unwrap();
    assert!(message(&world, &key, "Stalled").unwrap().contains("base"));
}
