//! Images are what their checksum says: which file a guest is made of, whoever fetched it and whatever it was called.

use crate::engine::{self, World, hypervisor, lxc, status, vm};
use phoenix::desired::{Key, Objects, resolve};
use phoenix::simulator::Edit;
use phoenix::simulator::model::download::RemoteFile;
use serde_json::{Value, json};

const STORAGE: &str = "fastData-shared-iso";
const APPLIANCE: &str = "ubuntu-24.04-standard_24.04-2_amd64.tar.zst";

fn sum(digit: &str) -> String {
    digit.repeat(64)
}

/// What a URL answers with from now on.
fn serve(world: &World, url: &str, sha256: &str, mib: u64) {
    let digit = sha256.chars().next().and_then(|c| c.to_digit(16)).unwrap();
    let os = json!({"ostype": "debian", "arch": "amd64", "systemd": 200 + digit, "agent": true});
    let file = json!({"size": mib << 20, "virtual_size": 1u64 << 30, "sums": {"sha256": sha256}, "os": os});
    let file: RemoteFile = serde_json::from_value(file).unwrap();
    world.sim().edit(Edit::RemoteFile { url: url.into(), file }).unwrap();
}

async fn world() -> World {
    let world = World::new(&[]).await;
    hypervisor(&world, |h| {
        h.spec.defaults.as_mut().unwrap().image_storage = Some(STORAGE.into());
    });
    world
}

fn image(url: &str, sha256: &str) -> Value {
    json!({"source": {"image": {"url": url, "sha256": sha256}}, "network": []})
}

/// First digit of the checksum of the file that a guest was made of: it stands for the system in it, see [`serve`].
fn made_of(world: &World, key: &Key) -> char {
    let vmid = u32::try_from(status(world, key).vmid.unwrap()).unwrap();
    let systemd = world.sim().with(|s| s.guests[&vmid].inside.os.systemd).unwrap();
    char::from_digit(systemd - 200, 16).unwrap()
}

fn files(world: &World) -> Vec<String> {
    world.sim().with(|s| {
        let volumes = s.storages[STORAGE].volumes.values();
        volumes.flat_map(|v| v.keys().cloned()).collect()
    })
}

fn downloads(world: &World) -> usize {
    let requests = world.sim().requests();
    requests
        .iter()
        .filter(|r| r.path.ends_with("/download-url") || (r.method == "POST" && r.path.ends_with("/aplinfo")))
        .count()
}

#[tokio::test(start_paused = true)]
async fn urls_that_end_alike_are_two_images() {
    let mut w = world().await;
    let (evil, good) = (sum("e"), sum("a"));
    serve(&w, "https://evil.example/debian-12.tar.zst", &evil, 1);
    serve(&w, "https://official.example/debian-12.tar.zst", &good, 1);
    let first = w
        .store
        .apply(lxc("first", image("https://evil.example/debian-12.tar.zst", &evil)));
    w.settle(false).await.unwrap();
    let second = w.store.apply(lxc(
        "second",
        image("https://official.example/debian-12.tar.zst", &good),
    ));
    let third = w
        .store
        .apply(lxc("third", image("https://official.example/debian-12.tar.zst", &good)));
    w.settle(false).await.unwrap();
    for (key, sum) in [(&first, &evil), (&second, &good), (&third, &good)] {
        let image = status(&w, key).image.unwrap();
        assert_eq!(image, format!("{STORAGE}:vztmpl/debian-12-{sum}.tar.zst"));
        assert!(sum.starts_with(made_of(&w, key)));
        assert_eq!(status(&w, key).source.as_deref(), Some("debian-12.tar.zst"));
    }
    assert_eq!(downloads(&w), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_checksum_of_the_same_url_is_fetched() {
    let mut w = world().await;
    let url = "http://mirror.example/latest/debian-12-genericcloud-amd64.img?arch=amd64";
    let (old, new) = (sum("3"), sum("4"));
    let wish = |sum: &str| json!({"source": {"cloudImage": {"url": url, "sha256": sum}}, "network": []});
    serve(&w, url, &old, 1);
    let before = w.store.apply(vm("vm-old", wish(&old)));
    w.settle(false).await.unwrap();
    // The file behind the URL is still the old one: nothing is made of it under the new checksum, nothing is left.
    let after = w.store.apply(vm("vm-new", wish(&new)));
    for _ in 0..10 {
        w.round().await;
        w.pause().await;
    }
    let stands = status(&w, &after);
    assert!(
        stands
            .last_error
            .as_ref()
            .is_some_and(|e| e.starts_with("ChecksumMismatch")),
        "{stands:?}"
    );
    assert!(!files(&w).iter().any(|f| f.contains(&new)));
    assert_eq!(w.guests().len(), 1);
    // It moves on, and the retry after the pause finds it.
    serve(&w, url, &new, 1);
    w.settle(false).await.unwrap();
    for (key, sum) in [(&before, &old), (&after, &new)] {
        let image = format!("{STORAGE}:import/debian-12-genericcloud-amd64-{sum}.qcow2");
        assert!(sum.starts_with(made_of(&w, key)));
        assert_eq!(status(&w, key).image, Some(image));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_revision_is_built_from_the_new_file() {
    let mut w = world().await;
    let url = "http://mirror.example/current/debian-rootfs.tar.xz";
    let template = |sum: &str| {
        json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
            "metadata": {"name": "base", "namespace": "ai"},
            "spec": {"hypervisorRef": {"name": "pve"}, "form": "Template", "lxc": {
                "source": {"image": {"url": url, "sha256": sum}}, "memory": "512Mi", "rootfs": {"size": "4Gi"}}}
        })
    };
    serve(&w, url, &sum("a"), 1);
    let key = w.store.apply(template(&sum("a")));
    w.settle(false).await.unwrap();
    let first = status(&w, &key);
    serve(&w, url, &sum("b"), 1);
    w.store.apply(template(&sum("b")));
    w.settle(false).await.unwrap();
    let second = status(&w, &key);
    assert_ne!((first.vmid, first.revision), (second.vmid, second.revision));
    assert_eq!(made_of(&w, &key), 'b');
    assert_eq!(
        second.image,
        Some(format!("{STORAGE}:vztmpl/debian-rootfs-{}.tar.xz", sum("b")))
    );
}

/// The hash of a template's content is that of versions which stored images under their plain names: an upgrade builds
/// nothing anew.
#[tokio::test(start_paused = true)]
async fn revisions_of_earlier_versions_hold() {
    let w = world().await;
    let wishes = [
        (
            json!({"image": {"url": "http://mirror.example/current/debian-rootfs.tar.xz", "sha256": sum("a")}}),
            "2a2c5c792b92",
        ),
        (json!({"image": {"appliance": APPLIANCE}}), "53d76756a61f"),
    ];
    for (source, revision) in wishes {
        let key = w.store.apply(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
            "metadata": {"name": "base", "namespace": "ai"},
            "spec": {"hypervisorRef": {"name": "pve"}, "form": "Template",
                "lxc": {"source": source, "rootfs": {"size": "4Gi"}}}
        }));
        let object = w.store.guest(&key).unwrap();
        let desired = resolve(&object, w.store.as_ref(), engine::CLUSTER).unwrap();
        assert_eq!(desired.prints.revision, revision, "{source}");
    }
}

/// Puts a file on the storage that nobody compared with anything.
fn put(world: &World, name: &str, sums: &[(&str, &str)]) {
    world.sim().with(|s| {
        let storage = s.storages.get_mut(STORAGE).unwrap();
        for volumes in storage.volumes.values_mut() {
            let mut file = volumes[&format!("vztmpl/{APPLIANCE}")].clone();
            file.data = sums.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            volumes.insert(name.into(), file);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_file_that_an_earlier_version_left_is_not_used() {
    let mut w = world().await;
    serve(&w, "https://official.example/rootfs.tar.xz", &sum("a"), 1);
    put(&w, "vztmpl/rootfs.tar.xz", &[("sha256", &sum("e"))]);
    let key = w
        .store
        .apply(lxc("a", image("https://official.example/rootfs.tar.xz", &sum("a"))));
    w.settle(false).await.unwrap();
    assert_eq!(made_of(&w, &key), 'a');
}

#[tokio::test(start_paused = true)]
async fn an_appliance_is_compared_with_its_index_once() {
    let mut w = world().await;
    let wish = json!({"source": {"image": {"appliance": APPLIANCE}}, "network": []});
    let keys: Vec<Key> = (0..3)
        .map(|n| w.store.apply(lxc(&format!("g{n}"), wish.clone())))
        .collect();
    w.settle(false).await.unwrap();
    assert_eq!(downloads(&w), 1);
    assert_eq!(
        status(&w, &keys[0]).image,
        Some(format!("{STORAGE}:vztmpl/{APPLIANCE}"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_under_an_appliances_name_that_is_something_else_is_refused() {
    let mut w = world().await;
    put(&w, &format!("vztmpl/{APPLIANCE}"), &[("sha512", &sum("e").repeat(2))]);
    let key = w.store.apply(lxc(
        "a",
        json!({"source": {"image": {"appliance": APPLIANCE}}, "network": []}),
    ));
    for _ in 0..10 {
        w.round().await;
        w.pause().await;
    }
    let stands = status(&w, &key);
    assert!(
        stands
            .last_error
            .as_ref()
            .is_some_and(|e| e.starts_with("ChecksumMismatch")),
        "{stands:?}"
    );
    assert_eq!(w.guests().len(), 0);
    // Removed, it is fetched.
    w.sim().with(|s| {
        for volumes in s.storages.get_mut(STORAGE).unwrap().volumes.values_mut() {
            volumes.remove(&format!("vztmpl/{APPLIANCE}"));
        }
    });
    w.settle(false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_index_holds_only_the_newest_build() {
    let mut w = world().await;
    let (old, absent) = (APPLIANCE, "ubuntu-24.04-standard_24.04-1_amd64.tar.zst");
    let newest = "ubuntu-24.04-standard_24.04-7_amd64.tar.zst";
    w.sim().with(|s| {
        let entry = s.appliances.iter_mut().find(|a| a.template == old).unwrap();
        entry.template = newest.into();
    });
    // The build is on the storage: it is used, and it is said that nobody could compare it.
    let wish = |name: &str| json!({"source": {"image": {"appliance": name}}, "network": []});
    let key = w.store.apply(lxc("a", wish(old)));
    let mut said = false;
    for _ in 0..100 {
        w.round().await;
        said |= status(&w, &key)
            .conditions
            .iter()
            .any(|c| c.type_ == "ImageNotCompared" && c.message.contains(old));
        if said && w.store.guest(&key).unwrap().is_ready() {
            break;
        }
        w.pause().await;
    }
    assert!(said);
    w.settle(false).await.unwrap();
    assert_eq!(downloads(&w), 0);
    // Another is not: the message names the build that the index has.
    let key = w.store.apply(lxc("b", wish(absent)));
    w.settle(true).await.unwrap();
    let message = status(&w, &key).message.unwrap();
    assert!(message.contains(absent) && message.contains(newest), "{message}");
    assert!(
        status(&w, &key)
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.reason == "ImageNotFound")
    );
}

#[tokio::test(start_paused = true)]
async fn a_download_that_does_not_end_holds_nobody_else_up() {
    let w = world().await;
    let good = sum("a");
    serve(&w, "https://slow.example/rootfs.tar.xz", &good, 4_000_000);
    serve(&w, "https://official.example/rootfs.tar.xz", &good, 1);
    let slow = w
        .store
        .apply(lxc("slow", image("https://slow.example/rootfs.tar.xz", &good)));
    w.round().await;
    w.round().await;
    assert!(status(&w, &slow).task.is_some());
    let key = w
        .store
        .apply(lxc("a", image("https://official.example/rootfs.tar.xz", &good)));
    for _ in 0..200 {
        w.round().await;
        if w.store.guest(&key).unwrap().is_ready() {
            break;
        }
        w.pause().await;
    }
    assert!(w.store.guest(&key).unwrap().is_ready(), "{:?}", status(&w, &key));
    assert!(status(&w, &slow).task.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_owner_container_fetches_the_guests_image_where_it_is_gone() {
    let mut w = world().await;
    let url = "https://official.example/rootfs.tar.xz";
    serve(&w, url, &sum("a"), 1);
    hypervisor(&w, |h| h.spec.volume_owners.as_mut().unwrap().image = None);
    w.store.apply(lxc("a", image(url, &sum("a"))));
    w.settle(false).await.unwrap();
    w.sim().with(|s| {
        for volumes in s.storages.get_mut(STORAGE).unwrap().volumes.values_mut() {
            volumes.retain(|name, _| !name.starts_with("vztmpl/rootfs"));
        }
    });
    let mut wish = image(url, &sum("a"));
    wish["volumes"] = json!([{"name": "data", "size": "2Gi", "mountPath": "/data"}]);
    w.store.apply(lxc("a", wish));
    w.settle(false).await.unwrap();
    assert_eq!(w.guests().len(), 2);
    assert_eq!(downloads(&w), 2);
}

fn open(name: &str) -> Value {
    json!({"source": {"image": {"appliance": name}}, "network": []})
}

/// The index has another build of a package from now on.
fn newer(world: &World, old: &str, new: &str) {
    world.sim().with(|s| {
        let entry = s.appliances.iter_mut().find(|a| a.template == old).unwrap();
        entry.template = new.into();
    });
}

const OPEN_BUILD: &str = "debian-13-standard_13.1-2_amd64.tar.zst";

#[tokio::test(start_paused = true)]
async fn an_open_name_means_the_newest_build_chosen_once() {
    let mut w = world().await;
    let names = [
        "debian-13-standard_*",
        "debian-13-standard",
        "debian-*-standard",
        "debian-13-*_amd64.tar.zst",
    ];
    let keys: Vec<Key> = (0..4)
        .map(|n| w.store.apply(lxc(&format!("g{n}"), open(names[n]))))
        .collect();
    w.settle(false).await.unwrap();
    for key in &keys {
        let found = status(&w, key);
        assert_eq!(found.image, Some(format!("{STORAGE}:vztmpl/{OPEN_BUILD}")));
        assert_eq!(found.source.as_deref(), Some("debian-13-standard"));
        let chosen = found.chosen_images.unwrap();
        assert_eq!(chosen.values().collect::<Vec<_>>(), [OPEN_BUILD]);
    }
    assert_eq!(downloads(&w), 1);
    // A later index changes nothing.
    newer(&w, OPEN_BUILD, "debian-13-standard_13.10-1_amd64.tar.zst");
    let before: Vec<_> = keys.iter().map(|key| status(&w, key)).collect();
    w.restart();
    w.settle(false).await.unwrap();
    assert_eq!(before, keys.iter().map(|key| status(&w, key)).collect::<Vec<_>>());
    assert_eq!(w.guests().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_later_index_builds_no_template_anew_and_a_rebuild_takes_the_newest() {
    let mut w = world().await;
    let manifest = |rebuild: Option<&str>| {
        let annotations = rebuild.map(|r| json!({"phoenix-hypervisor.io/rebuild": r}));
        json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixTemplate",
            "metadata": {"name": "base", "namespace": "ai", "annotations": annotations},
            "spec": {"hypervisorRef": {"name": "pve"}, "form": "Template", "lxc": {
                "source": {"image": {"appliance": "debian-13-standard_*"}}, "memory": "512Mi", "rootfs": {"size": "4Gi"}}}
        })
    };
    let key = w.store.apply(manifest(None));
    w.settle(false).await.unwrap();
    let first = status(&w, &key);
    let newest = "debian-13-standard_13.10-1_amd64.tar.zst";
    newer(&w, OPEN_BUILD, newest);
    w.restart();
    w.settle(false).await.unwrap();
    assert_eq!(
        (&first.vmid, &first.revision),
        (&status(&w, &key).vmid, &status(&w, &key).revision)
    );
    w.store.apply(manifest(Some("1")));
    w.settle(false).await.unwrap();
    let second = status(&w, &key);
    assert_ne!(first.vmid, second.vmid);
    assert_eq!(second.image, Some(format!("{STORAGE}:vztmpl/{newest}")));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_nowhere_is_told_with_the_names_that_are_near() {
    let mut w = world().await;
    let volid = |file: &str| json!({"source": {"image": {"volid": format!("{STORAGE}:vztmpl/{file}")}}, "network": []});
    let cases = [
        (
            open("debain-13-standard_*"),
            "spec.source.image.appliance: ",
            OPEN_BUILD,
        ),
        (open("debian-13-standart"), "spec.source.image.appliance: ", OPEN_BUILD),
        (
            open("debian-14-standard_14.0-1_amd64.tar.zst"),
            "spec.source.image.appliance: ",
            OPEN_BUILD,
        ),
        (
            open("debian-12-standard_12.7-1_amd64.tar.zst"),
            "spec.source.image.appliance: ",
            "debian-12-standard_*",
        ),
        (
            volid("debian-12-standard_12.7-1_amd64.tar.zst"),
            "spec.source.image.volid: ",
            "debian-12-standard_12.12-1",
        ),
        (
            volid("ubuntu-24.04-standard_24.04-1_amd64.tar.zst"),
            "spec.source.image.volid: ",
            APPLIANCE,
        ),
        (volid("debain-13-standard_*"), "spec.source.image.volid: ", OPEN_BUILD),
    ];
    let keys: Vec<Key> = (0..cases.len())
        .map(|n| w.store.apply(lxc(&format!("g{n}"), cases[n].0.clone())))
        .collect();
    let machine =
        json!({"source": {"cloudImage": {"volid": "local:import/nobel-server-cloudimg-amd64.qcow2"}}, "network": []});
    let machine = w.store.apply(vm("m", machine));
    w.settle(true).await.unwrap();
    for (key, (_, field, near)) in keys.iter().zip(&cases) {
        let message = status(&w, key).message.unwrap();
        assert!(message.starts_with(field) && message.contains(near), "{message}");
        assert!(engine::says(&w, key, "ImageNotFound"), "{message}");
    }
    let message = status(&w, &machine).message.unwrap();
    assert!(
        message.contains("there is noble-server-cloudimg-amd64.qcow2"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_image_of_owner_containers_is_chosen_and_fetched_where_it_is_not_there() {
    for (image, made_of) in [
        (format!("{STORAGE}:vztmpl/debian-13-standard_*"), OPEN_BUILD),
        (format!("{STORAGE}:vztmpl/{OPEN_BUILD}"), OPEN_BUILD),
        (format!("{STORAGE}:vztmpl/{APPLIANCE}"), APPLIANCE),
    ] {
        let mut w = world().await;
        hypervisor(&w, |h| {
            h.spec.volume_owners.as_mut().unwrap().image = Some(image.clone())
        });
        let volumes = json!([{"name": "data", "size": "2Gi", "mountPath": "/data"}]);
        let mut wish = open("ubuntu-24.04-standard");
        wish["volumes"] = volumes;
        w.store.apply(lxc("a", wish));
        w.settle(false).await.unwrap();
        assert_eq!(w.guests().len(), 2);
        assert!(files(&w).contains(&format!("vztmpl/{made_of}")), "{image}");
    }
    let mut w = world().await;
    let gone = format!("{STORAGE}:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst");
    hypervisor(&w, |h| h.spec.volume_owners.as_mut().unwrap().image = Some(gone));
    let mut wish = open("ubuntu-24.04-standard");
    wish["volumes"] = json!([{"name": "data", "size": "2Gi", "mountPath": "/data"}]);
    let key = w.store.apply(lxc("a", wish));
    w.settle(true).await.unwrap();
    let message = status(&w, &key).message.unwrap();
    assert!(
        message.starts_with("PhoenixHypervisor ai/pve spec.volumeOwners.image: ") && message.contains("12.12-1"),
        "{message}"
    );
}

/// An archive that was pulled from a registry is a container image as any other; what Proxmox takes over from it (entrypoint,
/// environment, raw lines, host-managed interfaces) is unmanaged and stays.
#[tokio::test(start_paused = true)]
async fn a_container_is_made_of_an_oci_image() {
    let mut w = World::with_ssh(&[]).await;
    let file = json!({"size": 1 << 20, "os": {"ostype": "debian", "arch": "amd64", "systemd": null},
        "oci": {"entrypoint": ["/entry.sh"], "env": ["PATH=/bin"], "working_dir": "/srv"}});
    let url = "https://mirror.example/nginx.tar";
    let file: RemoteFile = serde_json::from_value(file).unwrap();
    w.sim().edit(Edit::RemoteFile { url: url.into(), file }).unwrap();
    w.sim().with(|state| {
        let work = serde_json::from_value(json!({"Download": {
            "node": "phoenix", "storage": STORAGE, "content": "vztmpl", "filename": "nginx_latest.tar", "url": url,
        }}));
        state.start_task(
            "phoenix",
            "ociregistrypull",
            "nginx_latest.tar",
            "root@pam",
            work.unwrap(),
        );
    });
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let volid = format!("{STORAGE}:vztmpl/nginx_latest.tar");
    let key = w.store.apply(lxc("a", json!({"source": {"image": {"volid": volid}}})));
    w.settle(false).await.unwrap();
    let vmid = u32::try_from(status(&w, &key).vmid.unwrap()).unwrap();
    let guest = &w.guests()[&vmid];
    assert_eq!(guest["entrypoint"], "/entry.sh");
    assert!(
        guest["raw"].contains("lxc.init.cwd") && guest["net0"].contains("host-managed=1"),
        "{guest:?}"
    );
    let before = w.sim().requests().len();
    let steps = w.preview(&key).await.steps.len();
    assert_eq!(
        (
            steps,
            w.sim().requests()[before..].iter().filter(|r| r.is_write()).count()
        ),
        (0, 0)
    );
}
