//! What the plan remembers of a guest, and with which words it stops instead of going on.

use crate::crd::{RevisionStatus, VolumeStatus};
use crate::desired::Channels;
use crate::pve::{ApiCall, GuestRef, GuestType, Vmid};
use crate::status::set_condition;

use super::*;

/// What a stage comes to, and the conditions that it found.
fn found(scene: &Scene, stage: impl FnOnce(&mut Planner<'_>) -> Result<(), Next>) -> (String, Vec<String>) {
    let (next, (findings, _)) = scene.stage(stage);
    let words = |f: &Finding| format!("{} {:?} {}", f.condition, f.holds, f.cause.reason);
    (next, findings.iter().map(words).collect())
}

fn template(fields: &str) -> Scene {
    Scene::new("PhoenixTemplate", fields)
}

const CONTAINER: &str = "form: Snapshot, lxc: {source: {image: {volid: 'local:vztmpl/a.tar.zst'}}}";

#[test]
fn a_disk_that_the_spec_dropped_keeps_its_record_until_it_is_detached() {
    let mut scene = Scene::machine("disks: [{name: root, size: 8Gi}]").with(&[
        ("scsi0", "tank:vm-100-disk-0,serial=root,size=8G"),
        ("scsi1", "tank:vm-100-disk-1,serial=data,size=8G"),
        ("boot", "order=scsi0"),
    ]);
    let known = |name: &str, volid: &str, policy: Option<&str>| VolumeStatus {
        name: name.into(),
        volid: Some(volid.into()),
        reclaim_policy: policy.map(str::to_string),
        ..VolumeStatus::default()
    };
    let all = vec![
        known("root", "tank:vm-100-disk-0", None),
        known("data", "tank:vm-100-disk-1", Some("Delete")),
    ];
    scene.status().volumes = Some(all.clone());
    let (_, (_, facts)) = scene.stage(|p| p.vm_disks(&scene.guest, scene.desired.vm().unwrap()));
    let recorded = facts.volumes.unwrap_or_default();
    let short = |v: &VolumeStatus| (v.name.clone(), v.volid.clone(), v.reclaim_policy.clone());
    assert_eq!(
        recorded.iter().map(short).collect::<Vec<_>>(),
        all.iter().map(short).collect::<Vec<_>>()
    );
}

#[test]
fn tests_that_failed_when_a_template_was_built_are_told_as_long_as_it_is() {
    let sealed = |status: &str| {
        let mut scene = template(CONTAINER);
        let seen = &mut scene.status().conditions;
        set_condition(seen, "TestsPassed", status, Reason::TestFailed, "one of two", 1, 0);
        found(&scene, |p| p.stay_sealed(&scene.guest)).1
    };
    let failed = "TestsPassed Some(false) TestFailed".to_string();
    assert!(sealed("False").contains(&failed), "{:?}", sealed("False"));
    assert!(!sealed("True").contains(&failed), "{:?}", sealed("True"));
}

#[test]
fn a_machine_is_no_finished_template_before_its_disks_are_converted() {
    let machine = "form: Template, vm: {source: {cloudImage: {volid: 'local:import/a.qcow2'}}}";
    let next = |disk: &str, creating: Option<bool>| {
        let mut scene = template(machine).with(&[("template", "1"), ("scsi0", disk)]);
        scene.observed.creating = creating;
        scene.stage(|p| p.sealed(&scene.guest)).0
    };
    let plain = "tank:vm-100-disk-0,size=8G";
    assert!(next(plain, None).starts_with("look Creating"), "{}", next(plain, None));
    assert_eq!(next(plain, Some(true)), "wait CreateRunning");
    assert!(next(plain, Some(false)).starts_with("POST /nodes/pve1/qemu/100/template disk=scsi0"));
    assert_eq!(next("tank:base-100-disk-0,size=8G", None), "as wanted");
}

#[test]
fn an_id_is_taken_only_once_it_was_asked_about_itself() {
    let allocated = |id: i64, check: IdCheck, read: bool| {
        let mut scene = Scene::container("");
        *scene.status() = GuestStatus::default();
        scene.observed.id_check = Some((Vmid::nearest(id), check));
        scene.observed.guest = read.then_some(GuestRead::NotFound);
        scene.stage(|p| Err::<(), _>(p.allocate(Some(VMID), NODE))).0
    };
    let volumes = || IdCheck::Volumes(vec!["tank:subvol-100-disk-0".into()]);
    let again = "look VmidFree { vmid: 100,";
    for (id, check, read, expected) in [
        (100, IdCheck::Free, false, "record [Vmid {"),
        (100, IdCheck::Taken, false, "look Guest { vmid: 100,"),
        (100, IdCheck::Taken, true, "stuck Conflict"),
        (100, volumes(), false, "stuck LeftoverVolumes"),
        (101, IdCheck::Free, false, again),
        (101, IdCheck::Taken, false, again),
        (101, IdCheck::Taken, true, again),
        (101, volumes(), false, again),
    ] {
        let next = allocated(id, check.clone(), read);
        assert!(next.starts_with(expected), "{id} {check:?} {read}: {next}");
    }
}

/// A name that the spec gives to a second guest would hide the first one.
#[test]
fn a_vmid_in_the_spec_is_refused_where_another_guest_carries_the_stamp() {
    let next = |ours: i64| {
        let mut scene = Scene::container("vmid: 100");
        *scene.status() = GuestStatus::default();
        scene.observed.cluster.guests.clear();
        scene.observed.stamped = Some(Stamped {
            ours: vec![OurGuest {
                at: GuestRef::new(GuestType::Lxc, Vmid::nearest(ours), NODE),
                revision: None,
                adopted: false,
            }],
            ..Stamped::default()
        });
        told(&plan(scene.input(&scene.observed, &|| Ok(()))).next)
    };
    assert_eq!(next(101), "stuck Conflict");
    assert!(next(100).starts_with("look Guest { vmid: 100,"), "{}", next(100));
}

#[test]
fn a_stamp_that_is_written_anew_names_the_revision_that_was_built() {
    let revision = |snapshots: &[&str]| {
        let mut scene = template(CONTAINER).with(&[("tags", "phoenix")]);
        scene.guest.options.remove("description");
        scene.guest.snapshots = Some(snapshots.iter().map(|s| (s.to_string(), String::new())).collect());
        scene.desired.identity.restamp = Some("100".into());
        scene.status().revision = Some("built".into());
        let next = scene.next();
        assert!(
            next.starts_with("PUT /nodes/pve1/lxc/100/config description="),
            "{next}"
        );
        next.contains(" revision=built")
    };
    assert!(revision(&["ready"]), "it is finished");
    assert!(!revision(&[]), "it is being built");
}

#[test]
fn what_only_root_may_set_names_who_could_set_it() {
    let next = |ticket, ssh| {
        let mut scene = Scene::container("hookscript: 'local:snippets/a.sh'").with(&[("tags", "phoenix")]);
        let token = true;
        scene.desired.channels = Channels { token, ticket, ssh };
        scene.stage(|p| p.configured(scene.lxc(), &scene.guest)).0
    };
    assert_eq!(next(false, false), "stuck MissingPrivilege");
    assert_eq!(next(false, true), "SetOptions");
    assert!(next(true, true).starts_with("PUT /nodes/pve1/lxc/100/config hookscript="));
}

/// An interface that the spec does not tell to filter is said to be open; one that is about to be changed is not.
#[test]
fn a_firewall_is_not_in_force_on_an_interface_that_nobody_tells_to_filter() {
    let open = |network: &str, have: &str| {
        let spec = format!("firewall: {{enabled: true}}, network: {network}");
        let mut scene = Scene::container(&spec).with(&[("net0", have)]);
        let options = scene.desired.shared.firewall.as_ref().unwrap().options.clone();
        scene.observed.firewall = Some(Ok(FirewallState {
            options,
            ..FirewallState::default()
        }));
        let mut planner = Planner::new(scene.input(&scene.observed, &|| Ok(())));
        assert!(planner.firewall(&scene.guest).is_ok());
        planner.held_in(&[Stage::Configured]).is_err()
    };
    let bare = "name=eth0,bridge=vmbr0,ip=dhcp,type=veth";
    assert!(!open("[{name: eth0, ip: dhcp, firewall: true}]", bare));
    assert!(
        open("[{name: lan, ip: dhcp, firewall: true}]", bare),
        "another interface"
    );
    assert!(!open("[{name: eth0, ip: dhcp}]", &format!("{bare},firewall=1")));
}

#[test]
fn what_needs_a_snippet_waits_for_a_storage_that_takes_snippets() {
    let next = |spec: &str, content: &str| {
        let mut scene = Scene::machine(spec).stamped(|s| s.fresh = true);
        for row in scene.observed.cluster.storages.values_mut() {
            row.content.push(content.into());
        }
        scene
            .stage(|p| p.cloud_init(&scene.guest, scene.desired.vm().unwrap()))
            .0
    };
    let needed = "cloudInit: {packages: [git]}";
    assert_eq!(next(needed, "iso"), "stuck StorageNotFound");
    assert!(
        next(needed, "snippets").starts_with("look Snippet"),
        "{}",
        next(needed, "snippets")
    );
    // The agent of a cloud image is installed where that can be done.
    assert_eq!(next("cloudInit: {}", "iso"), "as wanted");
}

#[test]
fn volumes_that_are_kept_on_two_nodes_are_in_no_one_guest() {
    let kept = "volumes: [{name: a, size: 5Gi, mountPath: /a}, {name: b, size: 5Gi, mountPath: /b}]";
    let next = |node: &str| {
        let entry = |name: &str| format!("tank:subvol-900-disk-{name},mp=/lxc/ai/a/{name},size=5G");
        let (a, b, protected) = (entry("a"), entry("b"), ("protection", "1"));
        let owners: [&[(&str, &str)]; 2] = [&[("mp0", &a), protected], &[("mp0", &b), protected]];
        let mut scene = volumes::owned(Scene::container(kept), &owners);
        let owners = scene.observed.owners.as_mut().unwrap().as_mut().unwrap();
        owners.owners[1].at.node = node.into();
        scene.stage(|p| p.retained_fit(None)).0
    };
    assert_eq!(next("pve2"), "stuck VolumeElsewhere");
    assert_eq!(next(NODE), "as wanted");
}

#[test]
fn a_volume_is_not_renamed_on_an_owner_at_which_something_works() {
    let next = |lock: Option<&str>| {
        let entry = "tank:subvol-900-disk-1,mp=/lxc/ai/a/old,size=5G";
        let attached = ("mp0", "tank:subvol-900-disk-1,mp=/data,size=5G");
        let mut scene = volumes::owned(Scene::container(volumes::KEPT).with(&[attached]), &[&[("mp0", entry)]]);
        scene.observed.owners.as_mut().unwrap().as_mut().unwrap().owners[0].lock = lock.map(str::to_string);
        scene.stage(|p| p.volumes(&scene.guest)).0
    };
    assert_eq!(
        next(None).split(" announcing").next(),
        Some("PUT /nodes/pve1/lxc/900/config mp0=tank:subvol-900-disk-1,mp=/lxc/ai/a/data,size=5G digest=of-the-owner")
    );
    assert_eq!(next(Some("backup")), "wait GuestLocked");
}

/// Its node does not answer, and a container there may go on with the image (facts K.2.11).
#[test]
fn an_image_that_a_container_out_of_sight_may_have_is_not_attached() {
    let next = |shared: bool, volid: &str| {
        let spec = format!("volumes: [{{name: d, volid: '{volid}', mountPath: /d}}]");
        let mut scene = Scene::container(&spec);
        for row in scene.observed.cluster.storages.values_mut() {
            row.shared = shared;
        }
        let far = ResourceRow {
            type_: "lxc".into(),
            node: "pve2".into(),
            ..ResourceRow::default()
        };
        scene.observed.cluster.guests.insert(Vmid::nearest(101), far);
        let attached = |p: &mut Planner<'_>| p.volumes(&scene.guest).and_then(|()| p.held_in(&[Stage::VolumesReady]));
        scene.stage(attached).0
    };
    assert_eq!(next(true, "tank:vm-101-disk-1"), "wait VolumeHeld");
    for (shared, volid) in [(false, "tank:vm-101-disk-1"), (true, "tank:subvol-101-disk-1")] {
        assert!(
            next(shared, volid).starts_with("look Volume"),
            "{}",
            next(shared, volid)
        );
    }
}

#[test]
fn a_refusal_names_the_device_the_drive_or_the_storage_that_it_is_about() {
    let explained = |scene: &Scene, call: ApiCall, reason: Reason, words: &str| {
        let step = Step {
            action: String::new(),
            stage: Stage::Configured,
            announce: vec![],
            effect: Effect::call(call),
            apart: None,
        };
        let place = Place { node: NODE, gpus: None };
        explain(&scene.desired, Some(&step), &place, Cause::new(reason, words)).message
    };
    let refused = |key: &str| format!("Parameter verification failed. {key}: no");
    let container = Scene::container("rootfs: {storage: tank, size: 8Gi}, devices: [{path: /dev/ttyUSB0}]");
    let put = |path: &str, key: &str, value: &str| ApiCall::put(format!("/nodes/pve1/{path}")).param(key, value);
    for (value, field) in [("/dev/ttyUSB0", "spec.devices[0]"), ("/dev/nvidia0", "spec.gpus")] {
        let told = explained(
            &container,
            put("lxc/100/config", "dev0", value),
            Reason::ProxmoxRefused,
            &refused("dev0"),
        );
        assert!(told.starts_with(field), "{told}");
    }
    let machine = Scene::machine("cdroms: [{slot: ide0, volid: none}]");
    for (key, field) in [("ide0", "spec.cdroms[ide0]"), ("scsi0", "spec.disks")] {
        let told = explained(
            &machine,
            put("qemu/100/config", key, "none"),
            Reason::ProxmoxRefused,
            &refused(key),
        );
        assert!(told.starts_with(field), "{told}");
    }
    let full = "storage 'tank' is full";
    let told = explained(&container, put("lxc", "rootfs", "tank:8"), Reason::StorageFull, full);
    assert_eq!(told, format!("spec.rootfs.storage: {full}"));
}

/// The annotation alone, as it stands in Git or was guessed, asks for nothing.
#[test]
fn a_guest_is_made_anew_only_where_the_condition_told_how() {
    let mut scene = Scene::container("node: pve2").with(&[("tags", "phoenix")]);
    let planned = plan(scene.input(&scene.read(), &|| Ok(())));
    let told = planned
        .findings
        .iter()
        .find(|f| f.condition == "RecreateRequired")
        .unwrap();
    let token = told.cause.message.split('"').nth_back(1).unwrap().to_string();
    scene.object.annotations.insert(crate::crd::RECREATE.into(), token);
    let generation = scene.object.generation;
    let mut asks = |condition: Option<(&str, i64)>| {
        scene.status().conditions.clear();
        if let Some((status, of)) = condition {
            let seen = &mut scene.status().conditions;
            set_condition(seen, "RecreateRequired", status, Reason::CreationOnly, "", of, 0);
        }
        wants_recreation(&scene.object, &scene.desired)
    };
    assert!(asks(Some(("True", generation))));
    for condition in [None, Some(("False", generation)), Some(("True", generation - 1))] {
        assert!(!asks(condition), "{condition:?}");
    }
}

/// A name whose volume was announced without an id gets it; one that had another volume gets a second entry.
#[test]
fn a_volume_that_is_announced_takes_the_place_of_what_had_no_id_yet() {
    let volume = |volid: Option<&str>| VolumeStatus {
        name: "d".into(),
        volid: volid.map(str::to_string),
        ..VolumeStatus::default()
    };
    let after = |old: Option<&str>, new: Option<&str>| {
        let status = GuestStatus {
            volumes: Some(vec![volume(old)]),
            ..GuestStatus::default()
        };
        let status = crate::status::announced(&status, &[Announce::Volume(volume(new))]);
        let names = status.volumes.into_iter().flatten().map(|v| v.name);
        names.collect::<Vec<_>>()
    };
    let (one, other) = (Some("tank:subvol-100-disk-1"), Some("tank:subvol-100-disk-2"));
    assert_eq!(after(None, None), ["d"]);
    assert_eq!(after(None, one), ["d"]);
    assert_eq!(after(one, one), ["d"]);
    assert_eq!(after(one, None), ["d"]);
    assert_eq!(after(one, other), ["d (tank:subvol-100-disk-1)", "d"]);
}

#[test]
fn an_agent_that_is_switched_off_is_not_installed() {
    let installs = |fields: &str| {
        let scene = Scene::machine(&format!("{fields}cloudInit: {{}}"));
        let init = scene.desired.vm().unwrap().cloud_init.clone().unwrap();
        init.vendor.is_some_and(|vendor| vendor.agent)
    };
    assert!(installs("") && installs("agent: {install: true}, "));
    assert!(!installs("agent: {enabled: false}, ") && !installs("agent: {install: false}, "));
}

/// Its rules were the template's.
#[test]
fn only_a_fresh_clone_loses_a_firewall_that_the_spec_does_not_name() {
    let next = |clone: bool, fresh: bool| {
        let mut scene = Scene::container("").stamped(|s| s.fresh = fresh);
        if clone {
            scene.desired.source = Some(crate::desired::Source::Clone {
                vmid: Some(Vmid::nearest(150)),
                node: NODE.into(),
                snapshot: None,
                revision: "r".into(),
                template: "base".into(),
                namespace: "ai".into(),
            });
        }
        let rule = BTreeMap::from([("action".to_string(), "ACCEPT".to_string())]);
        scene.observed.firewall = Some(Ok(FirewallState {
            rules: vec![rule],
            ..FirewallState::default()
        }));
        scene.stage(|p| p.firewall(&scene.guest)).0
    };
    assert!(
        next(true, true).starts_with("DELETE /nodes/pve1/lxc/100/firewall/rules/0"),
        "{}",
        next(true, true)
    );
    for (clone, fresh) in [(true, false), (false, true), (false, false)] {
        assert_eq!(next(clone, fresh), "as wanted", "{clone} {fresh}");
    }
}

/// Proxmox takes a gateway beside a static address only (facts F.2).
#[test]
fn a_gateway_goes_with_the_static_address_alone() {
    let next = |ip: &str| {
        let spec = format!("network: [{{name: net0, ip: {ip}}}], cloudInit: {{}}");
        let have = ("ipconfig0", "ip=10.0.0.5/24,gw=10.0.0.1");
        let scene = Scene::machine(&spec).with(&[
            ("net0", "virtio=BC:24:11:00:00:07,bridge=vmbr0"),
            ("ide2", "tank:vm-100-cloudinit,media=cdrom"),
            have,
        ]);
        scene.stage(|p| p.machine(scene.desired.vm().unwrap(), &scene.guest)).0
    };
    assert!(
        next("10.0.0.6/24").contains("ipconfig0=gw=10.0.0.1,ip=10.0.0.6/24"),
        "{}",
        next("10.0.0.6/24")
    );
    assert!(
        next("dhcp").contains("ipconfig0=ip=dhcp") && !next("dhcp").contains("gw="),
        "{}",
        next("dhcp")
    );
}

/// Any of them may be the object's guest whose status was lost.
#[test]
fn guests_are_searched_that_nobody_has_and_that_may_be_of_the_object() {
    let searched = |mut scene: Scene| {
        *scene.status() = GuestStatus::default();
        scene.observed.cluster.guests.clear();
        for (vmid, type_, tag, name) in [
            (150, "lxc", "", ""),
            (101, "lxc", "", ""),
            (102, "qemu", "", ""),
            (201, "lxc", "phoenix", ""),
            (202, "qemu", "phoenix", ""),
            (203, "lxc", "other", ""),
            (204, "lxc", "phoenix", "held"),
            (900, "lxc", "phoenix", crate::desired::OWNER_HOSTNAME),
        ] {
            let row = ResourceRow {
                type_: type_.into(),
                node: NODE.into(),
                name: name.into(),
                tags: vec![tag.into()],
                ..ResourceRow::default()
            };
            scene.observed.cluster.guests.insert(Vmid::nearest(vmid), row);
        }
        scene.observed.held = [(Vmid::nearest(204), "PhoenixLXC ai/b")].into_iter().collect();
        let next = plan(scene.input(&scene.observed, &|| Ok(()))).next;
        let Next::Look(Query::Stamped { among: Some(among), .. }) = next else {
            panic!("{}", told(&next));
        };
        among.iter().map(|at| at.vmid.get()).collect::<Vec<_>>()
    };
    assert_eq!(searched(Scene::container("")), [101, 201]);
    assert_eq!(searched(Scene::machine("")), [102, 202]);
    assert_eq!(searched(template(CONTAINER)), [101, 102, 201, 202]);
}

/// Each of the earlier guests is deleted in its turn.
#[test]
fn of_several_earlier_revisions_one_is_taken_up_and_the_others_stay_known() {
    let old = |revision: &str, vmid: i64| RevisionStatus {
        revision: revision.into(),
        vmid,
        node: Some(NODE.into()),
        snippet: None,
        volumes: None,
    };
    let after = |revisions: Vec<RevisionStatus>| {
        let status = GuestStatus {
            revisions: Some(revisions),
            ..GuestStatus::default()
        };
        let status = crate::status::announced(&status, &[Announce::TakeUpRevision]);
        let left = status
            .revisions
            .map(|list| list.iter().map(|r| r.vmid).collect::<Vec<_>>());
        (status.vmid, left)
    };
    assert_eq!(after(vec![old("a", 101), old("b", 102)]), (Some(102), Some(vec![101])));
    assert_eq!(after(vec![old("a", 101)]), (Some(101), None));
}

/// The name of a volume that the spec retains protects it at another place, and its place under another name.
#[test]
fn a_volume_stays_that_has_the_name_or_the_place_of_a_retained_one() {
    let next = |name: &str, path: &str| {
        let volid = "tank:subvol-100-disk-1";
        let mount = format!("{volid},mp={path},size=5G");
        let mut scene = Scene::container(volumes::KEPT).with(&[("mp0", &mount)]);
        scene.status().volumes = Some(vec![VolumeStatus {
            name: name.into(),
            volid: Some(volid.into()),
            reclaim_policy: Some("Delete".into()),
            ..VolumeStatus::default()
        }]);
        scene.observed.owners = Some(Ok(Owners::default()));
        scene.deletion()
    };
    assert_eq!(next("data", "/other"), "stuck UnaccountedVolumes");
    assert_eq!(next("other", "/data"), "stuck UnaccountedVolumes");
    assert!(
        next("other", "/other").starts_with("DELETE"),
        "{}",
        next("other", "/other")
    );
}
