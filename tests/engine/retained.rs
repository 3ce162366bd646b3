//! A retained volume is found wherever it is, or nothing is allocated: on any node, of any id mapping, outside today's
//! id range, of an earlier management cluster; and what cannot be read means waiting with a reason.

use std::collections::BTreeMap;

use crate::engine::{self, CLUSTER, IMAGE, World, hypervisor, lxc, rounds, second_node, template};
use phoenix::desired::{Key, Objects, Stamp};
use phoenix::engine::{Engine, EngineOptions};
use phoenix::simulator::model::access::AclEntry;
use phoenix::simulator::{Edit, Fault, FaultKind};
use serde_json::{Value, json};

const OWNER: u32 = 9900;

fn with(volumes: Value, fields: Value) -> Value {
    let mut fields = fields;
    if fields.get("source").is_none() {
        fields["source"] = json!({"image": {"volid": IMAGE}});
    }
    fields["volumes"] = volumes;
    lxc("a", fields)
}

fn named(name: &str) -> Value {
    json!([{"name": name, "size": "5Gi", "mountPath": "/models"}])
}

fn guest() -> Value {
    with(named("models"), json!({}))
}

/// A world whose owner container keeps the volume of an object that is gone.
async fn kept() -> World {
    let mut world = World::new(&[]).await;
    second_node(&world);
    hypervisor(&world, |h| {
        h.spec.defaults.as_mut().unwrap().node = Some("phoenix".into());
    });
    let key = world.store.apply(guest());
    world.settle(false).await.unwrap();
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    world
}

/// Everything that owner containers have registered: container and value.
fn registered(world: &World) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for (vmid, options) in world.guests() {
        let values = options.values().filter(|v| v.contains("mp=/lxc/"));
        all.extend(values.map(|v| (vmid, v.clone())));
    }
    all
}

/// The volume at `/models` of the one guest that has one there.
fn attached(world: &World) -> Option<String> {
    let guests = world.guests();
    let mut values = guests
        .values()
        .flat_map(|o| o.values())
        .filter(|v| v.contains("mp=/models"));
    values.next().map(|v| v.split(',').next().unwrap().to_string())
}

fn told(world: &World, key: &Key) -> (String, String) {
    let guest = world.store.guest(key).unwrap();
    let ready = guest.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    (ready.reason.clone(), ready.message.clone())
}

/// The object is refused with the reason, the message names all of `words`, and nothing was made meanwhile.
async fn refused(world: &mut World, key: &Key, reason: &str, words: &[&str]) {
    let before = registered(world);
    let guests = world.guests().len();
    world.settle(true).await.unwrap();
    let (found, message) = told(world, key);
    assert_eq!(found, reason, "{message}");
    for word in words {
        assert!(message.contains(word), "{word} is not in: {message}");
    }
    assert_eq!(registered(world), before);
    assert_eq!(world.guests().len(), guests, "{:?}", world.guests().keys());
}

/// The owner container moves to the second node, by hand.
fn owner_moves(world: &World) {
    world.sim().with(|state| {
        state.guests.get_mut(&OWNER).unwrap().node = "two".into();
        for storage in state.storages.values_mut() {
            let there = storage.volumes.get("phoenix").cloned().unwrap_or_default();
            let moved = there.into_iter().filter(|(name, _)| name.contains("-9900-"));
            storage.volumes.entry("two".into()).or_default().extend(moved);
        }
    });
}

fn may(world: &World, path: &str, role: &str, privileges: &[&str]) {
    world.sim().with(|state| {
        let privileges = privileges.iter().map(|p| (*p).to_owned()).collect();
        state.access.roles.insert(role.to_owned(), privileges);
        state.access.acl.insert(AclEntry {
            path: path.into(),
            kind: "user".into(),
            who: "phoenix@pve".into(),
            role: role.into(),
            propagate: true,
        });
    });
}

fn fails(world: &World, path: &str, skip: u32, count: u32, status: u16) {
    world.sim().add_fault(Fault {
        method: Some("GET".into()),
        path: Some(path.into()),
        skip,
        count,
        kind: FaultKind::Status {
            status,
            message: "something is wrong".into(),
        },
    });
}

/// Whatever read fails on the way, once or for long, the volume that was there is the one that is attached.
#[tokio::test(start_paused = true)]
async fn a_read_that_fails_never_leads_to_a_new_volume() {
    let reads = [
        ("^/nodes/phoenix/lxc/9900/config$", 4),
        ("^/cluster/resources$", 3),
        ("^/cluster/nextid$", 2),
    ];
    for (path, places) in reads {
        for status in [403, 500, 596] {
            for (skip, count) in (0..places).map(|skip| (skip, 1)).chain([(0, 40), (1, 40)]) {
                let mut world = kept().await;
                let before = registered(&world);
                fails(&world, path, skip, count, status);
                world.store.apply(guest());
                rounds(&world, 12).await;
                assert_eq!(registered(&world), before, "{path} {status} {skip} {count}");
                world.sim().clear_faults();
                world.settle(false).await.unwrap();
                assert_eq!(registered(&world), before, "{path} {status} {skip} {count}");
                assert!(before[0].1.starts_with(&attached(&world).unwrap()));
            }
        }
    }
}

/// While the owner cannot be read the object says so.
#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_be_read_is_named() {
    for (status, reason) in [
        (403, "MissingPrivilege"),
        (500, "ProxmoxRefused"),
        (596, "OutcomeUnknown"),
    ] {
        let world = kept().await;
        fails(&world, "^/nodes/phoenix/lxc/9900/config$", 0, 1000, status);
        let key = world.store.apply(guest());
        rounds(&world, 12).await;
        let (found, message) = told(&world, &key);
        assert_eq!(found, reason, "{message}");
        assert!(message.contains("9900 on node phoenix"), "{message}");
        assert_eq!(world.guests().len(), 1, "nothing was made");
    }
}

/// A guest that is there already gets no new volume either.
#[tokio::test(start_paused = true)]
async fn a_volume_that_is_added_waits_for_an_owner_that_cannot_be_read() {
    let mut world = kept().await;
    let key = world.store.apply(with(json!([]), json!({})));
    world.settle(false).await.unwrap();
    let before = (registered(&world), world.guests().len());
    fails(&world, "^/nodes/phoenix/lxc/9900/config$", 0, 10_000, 403);
    world.store.apply(guest());
    rounds(&world, 12).await;
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "MissingPrivilege", "{message}");
    assert!(message.contains("container 9900 on node phoenix"), "{message}");
    assert_eq!((registered(&world), world.guests().len()), before);
    world.sim().clear_faults();
    world.settle(false).await.unwrap();
    assert_eq!(registered(&world), before.0);
    assert!(before.0[0].1.starts_with(&attached(&world).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn an_owner_on_a_node_that_is_offline_is_waited_for() {
    let mut world = kept().await;
    owner_moves(&world);
    let online = |online| Edit::NodeOnline {
        node: "two".into(),
        online,
    };
    world.sim().edit(online(false)).unwrap();
    let key = world.store.apply(guest());
    rounds(&world, 20).await;
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "NodeOffline");
    assert!(message.contains("node two") && message.contains("9900"), "{message}");
    assert_eq!(registered(&world).len(), 1);
    world.sim().edit(online(true)).unwrap();
    world.settle(false).await.unwrap();
    assert_eq!(registered(&world).len(), 1);
    assert_eq!(world.sim().with(|s| s.guests[&1000].node.clone()), "two");
}

/// An owner that privileges hide is in no list; that its id is taken tells.
#[tokio::test(start_paused = true)]
async fn an_owner_that_is_hidden_is_waited_for() {
    for restart in [true, false] {
        let mut world = kept().await;
        may(&world, "/vms/9900", "Nothing", &[]);
        if restart {
            world.restart();
        }
        let key = world.store.apply(guest());
        rounds(&world, 20).await;
        let (reason, message) = told(&world, &key);
        assert_eq!(reason, "MissingPrivilege", "{message}");
        assert!(message.contains("VM.Audit on /vms/9900"), "{message}");
        assert_eq!(world.guests().len(), 1, "nothing was made");
        world.sim().with(|s| s.access.acl.retain(|e| e.path != "/vms/9900"));
        world.settle(false).await.unwrap();
        assert_eq!(registered(&world).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_placed_where_its_volume_is() {
    let mut world = kept().await;
    owner_moves(&world);
    world.store.apply(guest());
    world.settle(false).await.unwrap();
    assert_eq!(world.sim().with(|s| s.guests[&1000].node.clone()), "two");
    assert_eq!(registered(&world).len(), 1);
    assert!(registered(&world)[0].1.starts_with(&attached(&world).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_has_to_be_elsewhere_is_refused_with_both_ways_out() {
    let mut world = kept().await;
    owner_moves(&world);
    let key = world.store.apply(with(named("models"), json!({"node": "phoenix"})));
    let ways = ["spec.node: two", "pct migrate 9900 phoenix", "models"];
    refused(&mut world, &key, "VolumeElsewhere", &ways).await;
    world.store.apply(with(named("models"), json!({"node": "two"})));
    world.settle(false).await.unwrap();
    assert_eq!(registered(&world).len(), 1);
}

/// A clone lives where its template is.
#[tokio::test(start_paused = true)]
async fn a_clone_of_a_template_on_another_node_is_refused() {
    let mut world = kept().await;
    world.store.apply(template("base", "Snapshot"));
    world.settle(false).await.unwrap();
    owner_moves(&world);
    let key = world.store.apply(with(
        named("models"),
        json!({"source": {"templateRef": {"name": "base"}}}),
    ));
    refused(
        &mut world,
        &key,
        "VolumeElsewhere",
        &["template on that node", "pct migrate 9900"],
    )
    .await;
}

/// The volume's node is looked at again when the container is there already.
#[tokio::test(start_paused = true)]
async fn an_owner_that_moved_away_from_its_guest_is_told_of() {
    let mut world = kept().await;
    let key = world.store.apply(with(json!([]), json!({})));
    world.settle(false).await.unwrap();
    owner_moves(&world);
    world.store.apply(guest());
    refused(
        &mut world,
        &key,
        "VolumeElsewhere",
        &["pct migrate 1000 two", "pct migrate 9900 phoenix"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_the_other_id_mapping_is_refused_before_anything_is_made() {
    let mut world = kept().await;
    may(&world, "/", "Modify", &["Sys.Modify"]);
    let key = world.store.apply(with(named("models"), json!({"unprivileged": false})));
    let ways = ["spec.unprivileged: true", "another name"];
    refused(&mut world, &key, "VolumeMapping", &ways).await;
    world.store.apply(guest());
    world.settle(false).await.unwrap();
    assert_eq!(registered(&world).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_the_other_id_mapping_is_refused() {
    let mut world = kept().await;
    may(&world, "/", "Modify", &["Sys.Modify"]);
    let mut base = template("base", "Snapshot");
    base["spec"]["lxc"]["unprivileged"] = json!(false);
    world.store.apply(base);
    world.settle(false).await.unwrap();
    let key = world.store.apply(with(
        named("models"),
        json!({"source": {"templateRef": {"name": "base"}}}),
    ));
    refused(&mut world, &key, "VolumeMapping", &["spec.unprivileged: true"]).await;
}

/// Owners are known by their stamp: neither today's id range nor name nor tag has to be what it was.
#[tokio::test(start_paused = true)]
async fn an_owner_outside_the_id_range_is_found() {
    let anything: [BTreeMap<String, Option<String>>; 3] = [
        BTreeMap::new(),
        BTreeMap::from([("hostname".to_owned(), Some("my-data".to_owned()))]),
        BTreeMap::from([("tags".to_owned(), None)]),
    ];
    for options in anything {
        let mut world = kept().await;
        let edit = Edit::SetOptions { vmid: OWNER, options };
        world.sim().edit(edit).unwrap();
        hypervisor(&world, |h| {
            let owners = h.spec.volume_owners.as_mut().unwrap();
            (owners.id_range.start, owners.id_range.end) = (9950, 9959);
        });
        world.store.apply(guest());
        world.settle(false).await.unwrap();
        let registered = registered(&world);
        assert_eq!(registered.len(), 1, "{registered:?}");
        assert_eq!(registered[0].0, OWNER);
        assert!(registered[0].1.starts_with(&attached(&world).unwrap()));
    }
}

/// Guests of other objects carry the tag too, and are not read for it.
#[tokio::test(start_paused = true)]
async fn guests_of_other_objects_are_not_read_in_the_search() {
    let mut world = World::new(&[]).await;
    for n in 0..4 {
        let mut other = lxc(&format!("g{n}"), json!({"source": {"image": {"volid": IMAGE}}}));
        other["spec"]["network"] = json!([]);
        world.store.apply(other);
    }
    world.settle(false).await.unwrap();
    world.sim().clear_requests();
    let key = world.store.apply(guest());
    for _ in 0..100 {
        world.poll().await;
        world.look_at(&key).await;
        world.pause().await;
    }
    assert!(world.store.guest(&key).unwrap().is_ready());
    let of_others = |path: &str| (1000..1004).any(|v| path.contains(&format!("/lxc/{v}/")));
    let read: Vec<String> = world.sim().requests().into_iter().map(|r| r.path).collect();
    assert!(!read.iter().any(|path| of_others(path)), "{read:?}");
}

/// A new management cluster over the simulator of a world, which runs until nothing moves.
struct Successor {
    engine: Engine<engine::TestStore>,
}

impl Successor {
    fn of(world: &World) -> Successor {
        let mut options = EngineOptions::new("22222222-2222-4333-8444-555555555555");
        options.outside = world.outside();
        options.time_scale = 5000.0;
        let engine = Engine::new(world.store.clone(), options);
        Successor { engine }
    }

    async fn rounds(&self, world: &World, n: usize) {
        for _ in 0..n {
            let outcome = self.engine.poll("ai", "pve").await;
            hypervisor(world, |h| h.status = Some(outcome.status));
            for guest in world.store.guests() {
                self.engine.reconcile(&guest.key).await;
            }
            world.pause().await;
        }
    }
}

fn previous(world: &World, ids: Option<Vec<String>>) {
    hypervisor(world, |h| h.spec.previous_cluster_ids = ids);
}

fn cluster_of_owner(world: &World) -> String {
    Stamp::find(&world.guests()[&OWNER]["description"]).unwrap().cluster
}

/// Taking a guest over takes the owner of its volumes over: the old cluster's id can be removed later.
#[tokio::test(start_paused = true)]
async fn owners_are_taken_over_with_their_guests() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest());
    world.settle(false).await.unwrap();
    previous(&world, Some(vec![CLUSTER.into()]));
    world.store.objects.update_guest(&key, |g| {
        (g.status, g.finalizer) = (Default::default(), false);
    });
    let successor = Successor::of(&world);
    successor.rounds(&world, 40).await;
    assert!(world.store.guest(&key).unwrap().is_ready());
    assert!(cluster_of_owner(&world).starts_with("22222222"));
    assert_eq!(world.guests()[&OWNER]["protection"], "1");
    world.store.delete(&key);
    successor.rounds(&world, 40).await;
    previous(&world, None);
    let key = world.store.apply(guest());
    successor.rounds(&world, 100).await;
    assert!(world.store.guest(&key).unwrap().is_ready());
    assert_eq!(registered(&world).len(), 1);
}

/// An owner of a management cluster that nobody named may hold the data.
#[tokio::test(start_paused = true)]
async fn an_owner_of_an_unknown_management_cluster_is_a_conflict() {
    let world = kept().await;
    let successor = Successor::of(&world);
    let key = world.store.apply(guest());
    successor.rounds(&world, 30).await;
    let (reason, message) = told(&world, &key);
    assert_eq!(reason, "Conflict", "{message}");
    for word in [CLUSTER, "previousClusterIds", "--cluster-id", "9900"] {
        assert!(message.contains(word), "{word} is not in: {message}");
    }
    assert_eq!(world.guests().len(), 1, "nothing was made");
    previous(&world, Some(vec![CLUSTER.into()]));
    successor.rounds(&world, 100).await;
    assert!(world.store.guest(&key).unwrap().is_ready());
    assert!(cluster_of_owner(&world).starts_with("22222222"));
    assert_eq!(registered(&world).len(), 1);
}

/// A copy of the owner, as from a backup that was restored under another id, is not the owner; it may hold the data.
#[tokio::test(start_paused = true)]
async fn a_copy_of_the_owner_is_a_conflict_where_the_owner_is_gone() {
    let mut world = kept().await;
    let clone = Edit::CloneGuest { from: OWNER, to: 9905 };
    world.sim().edit(clone).unwrap();
    world.sim().with(|state| {
        let options = state.guests[&OWNER].config().current.options.clone();
        let mount = options["mp0"].replace("9900", "9905");
        let options = BTreeMap::from([("mp0".to_owned(), Some(mount))]);
        state.edit(Edit::SetOptions { vmid: 9905, options }).unwrap();
    });
    let key = world.store.apply(guest());
    world.settle(false).await.unwrap();
    assert!(attached(&world).unwrap().contains("9900"), "the owner itself counts");
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    world.sim().edit(Edit::RemoveGuest { vmid: OWNER }).unwrap();
    let key = world.store.apply(guest());
    refused(&mut world, &key, "Conflict", &["9905", "copy of owner container 9900"]).await;
}

/// A key that two owners have is nobody's guess, on whatever nodes they are.
#[tokio::test(start_paused = true)]
async fn a_volume_that_is_registered_twice_is_told_of() {
    let mut world = kept().await;
    world.sim().with(|state| {
        let mut other = state.guests[&OWNER].clone();
        other.vmid = 9901;
        other.node = "two".into();
        let text = other.text().replace("vmid=9900", "vmid=9901").replace("9900-", "9901-");
        other.set_text(&text);
        state.guests.insert(9901, other);
    });
    let key = world.store.apply(guest());
    refused(&mut world, &key, "DoubleVolume", &["9900", "9901", "models"]).await;
}

/// A new name for the volume at a path is the same volume: its key follows, and it is found again under it.
#[tokio::test(start_paused = true)]
async fn a_renamed_volume_keeps_its_data() {
    let mut world = World::new(&[]).await;
    let key = world.store.apply(guest());
    world.settle(false).await.unwrap();
    let volid = attached(&world).unwrap();
    world.store.apply(with(named("data"), json!({})));
    world.settle(false).await.unwrap();
    assert_eq!(registered(&world).len(), 1);
    assert!(registered(&world)[0].1.contains("mp=/lxc/ai/a/data"));
    assert_eq!(world.guests()[&OWNER]["protection"], "1");
    let names: Vec<String> = world
        .store
        .guest(&key)
        .unwrap()
        .status
        .volumes
        .unwrap()
        .into_iter()
        .map(|v| v.name)
        .collect();
    assert_eq!(names, ["data"]);
    world.store.delete(&key);
    world.settle(false).await.unwrap();
    world.store.apply(with(named("data"), json!({})));
    world.settle(false).await.unwrap();
    assert_eq!(attached(&world).unwrap(), volid);
}

/// Renamed while the object was not there: the new one is empty, and that the old one is kept is said, until its name
/// is used again.
#[tokio::test(start_paused = true)]
async fn a_volume_that_nobody_names_any_more_is_told_of() {
    let mut world = kept().await;
    let key = world.store.apply(with(named("data"), json!({})));
    world.settle(false).await.unwrap();
    rounds(&world, 5).await;
    let unclaimed = |world: &World| {
        let guest = world.store.guest(&key).unwrap();
        guest
            .status
            .conditions
            .into_iter()
            .find(|c| c.type_ == "VolumeUnclaimed")
    };
    let message = unclaimed(&world).unwrap().message;
    assert!(message.contains("models") && message.contains("9900"), "{message}");
    let mut both = named("data");
    let again = json!({"name": "models", "size": "5Gi", "mountPath": "/old"});
    both.as_array_mut().unwrap().push(again);
    world.store.apply(with(both, json!({})));
    world.settle(false).await.unwrap();
    assert_eq!(registered(&world).len(), 2);
    assert!(unclaimed(&world).is_none());
}

/// An owner container is no guest to look after: its creation ends without warnings.
#[tokio::test(start_paused = true)]
async fn an_owner_container_is_made_without_warnings() {
    let world = kept().await;
    let ends: Vec<String> = world.sim().with(|state| {
        let made = state.tasks.values().filter(|t| t.kind == "vzcreate" && t.id == "9900");
        made.map(|t| t.exitstatus.clone().unwrap_or_default()).collect()
    });
    assert_eq!(ends, ["OK"]);
    assert!(!world.guests()[&OWNER].contains_key("features"));
}
