//! What of a template is kept, and what is done to it when it is finished.

use crate::crd::RevisionStatus;
use crate::pve::Vmid;

use super::*;

fn template(form: &str) -> Scene {
    let lxc = "lxc: {source: {image: {volid: 'local:vztmpl/a.tar.zst'}}}";
    Scene::new(
        "PhoenixTemplate",
        &format!("form: {form}, revisionHistoryLimit: 0, {lxc}"),
    )
}

/// What becomes of the guest of an earlier revision from which nothing was cloned, and why.
fn earlier(change: impl FnOnce(&mut Guest), linked: &[&str]) -> (String, Vec<String>) {
    earlier_of(template("Snapshot"), change, linked)
}

fn earlier_of(mut scene: Scene, change: impl FnOnce(&mut Guest), linked: &[&str]) -> (String, Vec<String>) {
    scene.status().revisions = Some(vec![RevisionStatus {
        revision: "old".into(),
        vmid: 101,
        node: Some(NODE.into()),
        snippet: None,
        volumes: None,
    }]);
    let mut guest = scene.guest.clone();
    guest.at.vmid = Vmid::nearest(101);
    guest.options.insert(
        "description".into(),
        scene.desired.stamp(Vmid::nearest(101)).describe(""),
    );
    change(&mut guest);
    scene.observed.sections.insert(Vmid::nearest(101), Ok(sections(&guest)));
    let found = OldRevision {
        read: GuestRead::Present(Box::new(guest)),
        linked: linked.iter().map(|v| v.to_string()).collect(),
    };
    scene.observed.old_revisions.insert(Vmid::nearest(101), Ok(found));
    let (next, (findings, _)) = scene.stage(|p| p.remove_old_revisions());
    let kept = findings.into_iter().filter(|f| f.condition == "OldRevisionKept");
    (next, kept.map(|f| f.cause.message).collect())
}

#[test]
fn an_earlier_revision_that_holds_anything_stays() {
    let set =
        |key: &'static str, value: &'static str| move |g: &mut Guest| drop(g.options.insert(key.into(), value.into()));
    let (next, _) = earlier(|_| {}, &[]);
    assert_eq!(next, "DELETE /nodes/pve1/lxc/101 purge=1");
    for (what, (next, kept)) in [
        ("protected", earlier(set("protection", "1"), &[])),
        (
            "volumes",
            earlier(set("mp0", "tank:subvol-101-disk-1,mp=/d,size=8G"), &[]),
        ),
        ("volumes", earlier(set("unused0", "tank:subvol-101-disk-1"), &[])),
        ("runs", earlier(|g| g.running = true, &[])),
        (
            "linked clones",
            earlier(|_| {}, &["tank:base-101-disk-0/subvol-7-disk-0"]),
        ),
    ] {
        assert_eq!(next, "as wanted", "{what}");
        assert!(kept.iter().any(|m| m.contains(what)), "{what}: {kept:?}");
    }
    assert_eq!(earlier(|g| g.lock = Some("backup".into()), &[]).0, "wait GuestLocked");
}

#[test]
fn a_template_is_sealed_stopped_and_while_nothing_works_on_it() {
    for (form, sealed) in [
        ("Snapshot", "POST /nodes/pve1/lxc/100/snapshot"),
        ("Template", "POST /nodes/pve1/lxc/100/template"),
    ] {
        let next = |lock: Option<&str>, running| {
            let mut scene = template(form);
            scene.observed.creating = Some(false);
            scene.guest.lock = lock.map(str::to_string);
            scene.guest.running = running;
            scene.stage(|p| p.seal(&scene.guest)).0
        };
        assert_eq!(next(Some("backup"), false), "wait GuestLocked", "{form}");
        assert_eq!(next(Some("backup"), true), "wait GuestLocked", "{form}");
        let running = next(None, true);
        assert!(
            running.starts_with("POST /nodes/pve1/lxc/100/status/shutdown"),
            "{form}: {running}"
        );
        let stopped = next(None, false);
        assert!(stopped.starts_with(sealed), "{form}: {stopped}");
    }
}

#[test]
fn an_earlier_revision_that_is_needed_or_not_ours_is_left_alone() {
    for cloned in [Some("old".to_string()), None] {
        let mut scene = template("Snapshot");
        scene.observed.cloned_revisions = vec![cloned.clone()];
        assert_eq!(earlier_of(scene, |_| {}, &[]).0, "as wanted", "{cloned:?}");
    }
    let theirs = |g: &mut Guest| drop(g.options.insert("description".into(), "mine now".into()));
    assert_eq!(earlier(theirs, &[]).0, "record [RevisionGone(101)]");
}
