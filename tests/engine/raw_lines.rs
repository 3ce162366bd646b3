//! Raw lines and descriptions are written once: what Proxmox does not read back is a failure that is told, what the spec
//! dropped goes, and words that are stored otherwise than they were written are no change.

use crate::engine::{self, World, message, rounds, until, vm};
use phoenix::desired::Objects;
use serde_json::{Value, json};

const VMID: u32 = 1000;

fn guest(fields: Value) -> Value {
    engine::guest("a", fields)
}

fn text(world: &World) -> String {
    engine::text(world, VMID)
}

fn writes(world: &World) -> usize {
    let requests = world.sim().requests();
    requests.iter().filter(|r| r.method != "GET").count()
}

#[tokio::test(start_paused = true)]
async fn an_empty_value_is_written_and_read_back() {
    let mut world = World::with_ssh(&[]).await;
    let key = world
        .store
        .apply(guest(json!({"lxcOptions": ["lxc.cap.drop:", "lxc.seccomp.profile ="]})));
    world.settle(false).await.unwrap();
    let lines = world
        .sim()
        .with(|state| state.guests[&VMID].config().current.lxc.clone());
    for line in ["lxc.cap.drop", "lxc.seccomp.profile"] {
        assert!(lines.contains(&(line.into(), String::new())), "{lines:?}");
    }
    let before = text(&world);
    world.restart();
    rounds(&world, 10).await;
    assert!(world.store.guest(&key).unwrap().is_ready());
    assert_eq!(text(&world), before);
}

/// LXC reads lines from top to bottom, and an empty value takes with it what stands above.
#[tokio::test(start_paused = true)]
async fn an_empty_value_stands_where_the_spec_has_it() {
    let mut world = World::with_ssh(&[]).await;
    let drops = |world: &World| {
        let lines = world
            .sim()
            .with(|state| state.guests[&VMID].config().current.lxc.clone());
        let drops = lines.into_iter().filter(|(key, _)| key == "lxc.cap.drop");
        drops.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let mut key = None;
    for list in [
        vec!["mknod", "sys_time"],
        vec!["", "mknod", "syslog", "sys_time"],
        vec!["mknod", "", "sys_time"],
        vec![""],
    ] {
        let lines: Vec<String> = list.iter().map(|value| format!("lxc.cap.drop: {value}")).collect();
        let manifest = guest(json!({"lxcOptions": lines}));
        key = Some(world.store.apply(manifest));
        world.settle(false).await.unwrap();
        assert_eq!(drops(&world), list);
        let before = writes(&world);
        world.restart();
        rounds(&world, 5).await;
        assert_eq!(writes(&world), before, "{list:?}");
    }
    let recorded = world.store.guest(&key.unwrap()).unwrap().status.lxc_options;
    assert_eq!(recorded, Some(vec!["lxc.cap.drop = ".to_string()]));
    world.store.apply(guest(json!({})));
    world.settle(false).await.unwrap();
    assert!(drops(&world).is_empty());
}

/// Proxmox's own wiki tells people to write it.
#[tokio::test(start_paused = true)]
async fn an_id_map_is_written_as_raw_lines() {
    let mut world = World::with_ssh(&[]).await;
    let lines = json!(["lxc.idmap: u 0 100000 1000", "lxc.idmap: g 0 100000 1000"]);
    let key = world.store.apply(guest(json!({"lxcOptions": lines})));
    world.settle(false).await.unwrap();
    assert!(text(&world).contains("lxc.idmap: u 0 100000 1000\nlxc.idmap: g 0 100000 1000"));
    assert!(world.store.guest(&key).unwrap().is_ready());
}

#[tokio::test(start_paused = true)]
async fn what_proxmox_does_not_read_or_lxc_cannot_load_is_refused() {
    let mut world = World::with_ssh(&[]).await;
    for (line, words) in [
        ("lxc.sysctl.vm.max_map_count = 1", "Proxmox does not read the key"),
        (
            "lxc.cap.keep = sys_admin,mknod",
            "write \"lxc.cap.keep = sys_admin mknod\"",
        ),
        ("lxc.aa_profile = unconfined", "write lxc.apparmor.profile"),
    ] {
        let key = world
            .store
            .apply(guest(json!({"lxcOptions": ["lxc.autodev = 1", line]})));
        world.settle(true).await.unwrap();
        let message = message(&world, &key);
        assert!(
            message.starts_with("spec.lxcOptions[1]: ") && message.contains(words),
            "{message}"
        );
    }
    assert!(
        world.sim().with(|state| !state.guests.contains_key(&VMID)),
        "nothing was made"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_with_one_value_is_given_once() {
    for fields in [
        json!({"apparmorProfile": "unconfined", "lxcOptions": ["lxc.apparmor.profile = generated"]}),
        json!({"lxcOptions": ["lxc.apparmor.profile = generated", "lxc.apparmor.profile: unconfined"]}),
    ] {
        let world = World::with_ssh(&[]).await;
        let key = world.store.apply(guest(fields));
        rounds(&world, 5).await;
        let told = message(&world, &key);
        assert!(told.contains("holds one value") && told.contains("generated"), "{told}");
        assert!(world.guests().is_empty());
    }
}

/// A line of an earlier version of Phoenix that Proxmox never read back, and that status names.
#[tokio::test(start_paused = true)]
async fn a_line_that_was_never_read_back_goes_with_the_spec() {
    let mut world = World::with_ssh(&[]).await;
    let kept = json!(["lxc.autodev = 1"]);
    let key = world.store.apply(guest(json!({"lxcOptions": kept})));
    world.settle(false).await.unwrap();
    let lost = "lxc.sysctl.vm.max_map_count = 1";
    let with_line = text(&world) + "lxc.sysctl.vm.max_map_count: 1\n";
    world
        .sim()
        .with(|state| state.write_config_file(VMID, &with_line, None))
        .unwrap();
    world.store.objects.update_guest(&key, |guest| {
        guest.status.lxc_options.get_or_insert_default().push(lost.into());
    });
    world.store.apply(guest(json!({"lxcOptions": kept, "cores": 3})));
    until(&world, "the line is gone", |w| !text(w).contains("max_map_count")).await;
    world.settle(false).await.unwrap();
    assert!(text(&world).contains("lxc.autodev"));
    let recorded = world.store.guest(&key).unwrap().status.lxc_options;
    assert_eq!(recorded, Some(vec!["lxc.autodev = 1".to_string()]));
}

#[tokio::test(start_paused = true)]
async fn words_that_are_stored_otherwise_are_no_change() {
    for words in [
        "plain",
        "two\r\nlines\r\n",
        " lead",
        "tab\tx",
        "emoji 🦀",
        "blanks  \nin it \t\n",
        "trail \n\n  ",
    ] {
        for manifest in [
            guest(json!({"description": words})),
            vm("a", json!({"description": words, "agent": {"enabled": false}})),
        ] {
            let mut world = World::new(&[]).await;
            world.store.apply(manifest);
            world.settle(false).await.unwrap();
            let before = writes(&world);
            world.restart();
            rounds(&world, 10).await;
            assert_eq!(writes(&world), before, "{words:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_description_with_a_stamp_in_it_is_refused() {
    for words in [
        "<!-- phoenix-hypervisor.io hello -->",
        "a\n<!-- phoenix-hypervisor.io cluster=x kind=PhoenixLXC namespace=ai name=b uid=u vmid=1001 -->",
    ] {
        let mut world = World::new(&[]).await;
        let key = world.store.apply(guest(json!({"description": words})));
        world.settle(true).await.unwrap();
        let message = message(&world, &key);
        assert!(message.starts_with("spec.description: "), "{message}");
    }
}

/// A guest that is not there is asked for once, before the call that makes it.
#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_exist_is_asked_for_once() {
    let mut world = World::new(&[]).await;
    world.store.apply(engine::template("base", "Template"));
    for i in 0..5 {
        let mut manifest = guest(json!({"vmid": 1010 + i}));
        manifest["metadata"]["name"] = json!(format!("c{i}"));
        manifest["spec"]["network"][0]["ip"] = json!(format!("10.0.1.{i}/16"));
        manifest["spec"]["source"] = json!({"templateRef": {"name": "base"}});
        world.store.apply(manifest);
    }
    world.settle(false).await.unwrap();
    let requests = world.sim().requests();
    let absent = requests.iter().filter(|r| r.status == 500).count();
    println!(
        "{} requests, {absent} of them for what is not there, for 6 guests",
        requests.len()
    );
    // One for each creation, and one more where its queue or its vmid was looked at again.
    assert!(absent <= 12, "{absent} requests were answered 500");
}
